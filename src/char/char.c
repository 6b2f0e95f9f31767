/* SPDX-License-Identifier: MIT */
/* Finds the character back end a specification names. See char.h. */
#include "char/char.h"

#include <stddef.h>
#include <string.h>

#include "char/backends.h"

static const struct char_kind *const kinds[] = {
	&char_stdio, &char_none, &char_file, &char_pty, &char_unix, NULL,
};

struct char_backend *char_create(struct vm *vm, const char *spec,
				 void (*escape)(void *opaque, int key), void *opaque,
				 struct error *err)
{
	size_t name_len = strcspn(spec, "=");
	const char *argument = spec[name_len] ? spec + name_len + 1 : NULL;

	for (const struct char_kind *const *kind = kinds; *kind; kind++) {
		const char *name = (*kind)->name;

		if (strlen(name) != name_len || memcmp(name, spec, name_len))
			continue;
		if ((*kind)->argument && (!argument || !*argument)) {
			error_set(err, 0, "console '%s': give %s=%s", spec, name,
				  (*kind)->argument);
			return NULL;
		}
		if (!(*kind)->argument && argument) {
			error_set(err, 0, "console '%s': %s takes no argument", spec, name);
			return NULL;
		}
		return (*kind)->create(vm, argument, escape, opaque, err);
	}
	error_set(err, 0, "no console '%s': give stdio, none, file=PATH, pty or unix=PATH", spec);
	return NULL;
}

void char_destroy(struct char_backend *chr)
{
	if (chr)
		chr->ops->destroy(chr);
}

void char_attach(struct char_backend *chr, size_t (*can_receive)(void *),
		 void (*receive)(void *, const uint8_t *, size_t), void *opaque)
{
	if (!chr)
		return;
	chr->opaque = opaque;
	chr->receive = receive;
	chr->can_receive = can_receive;
	if (chr->accept_input)
		chr->accept_input(chr);
}
