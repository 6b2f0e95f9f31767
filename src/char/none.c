/* SPDX-License-Identifier: MIT */
/* Console on nothing: output is dropped, there is no input. */
#include <stdlib.h>

#include "char/backends.h"

static size_t none_write(struct char_backend *chr, const uint8_t *data, size_t len)
{
	(void)chr;
	(void)data;
	return len;
}

static void none_destroy(struct char_backend *chr)
{
	free(chr);
}

static const struct char_backend_ops none_ops = {
	.write = none_write,
	.destroy = none_destroy,
};

static struct char_backend *none_create(struct vm *vm, const char *argument,
					void (*escape)(void *, int), void *opaque,
					struct error *err)
{
	struct char_backend *chr = calloc(1, sizeof(*chr));

	(void)vm;
	(void)argument;
	(void)escape;
	(void)opaque;
	if (!chr)
		error_set(err, 0, "out of memory for a console");
	else
		chr->ops = &none_ops;
	return chr;
}

const struct char_kind char_none = { .name = "none", .create = none_create };
