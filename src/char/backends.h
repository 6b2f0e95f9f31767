/* SPDX-License-Identifier: MIT */
/* The kinds of character back end, for the table in char.c. One file each, one entry each. */
#ifndef LODGE_CHAR_BACKENDS_H
#define LODGE_CHAR_BACKENDS_H

#include "char/char.h"

struct char_kind {
	const char *name;     /* what a specification begins with */
	const char *argument; /* what must follow "=", for messages; NULL: nothing may */
	struct char_backend *(*create)(struct vm *vm, const char *argument,
				       void (*escape)(void *, int), void *opaque,
				       struct error *err);
};

extern const struct char_kind char_stdio, char_none, char_file, char_pty, char_unix;

#endif
