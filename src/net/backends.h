/* SPDX-License-Identifier: MIT */
/* The kinds of network back end, for the table in net.c. A new kind adds a file and an entry
 * there. */
#ifndef LODGE_NET_BACKENDS_H
#define LODGE_NET_BACKENDS_H

#include "net/net.h"

struct net_kind {
	const char *name;
	/* options: what follows "NAME," in the specification, or "". NULL on failure. */
	struct net_backend *(*create)(struct vm *vm, const char *options, struct error *err);
};

extern const struct net_kind net_kind_user;

#endif
