/* SPDX-License-Identifier: MIT */
/* Network back ends: the table of kinds, creation from an option, attachment of a card. */
#include "net/net.h"

#include "base/util.h"
#include "net/backends.h"

static const struct net_kind *const kinds[] = { &net_kind_user };

int net_create(struct vm *vm, const char *spec, struct net_backend **out, struct error *err)
{
	size_t len = strcspn(spec, ",");

	*out = NULL;
	if (!strcmp(spec, "none"))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (strlen(kinds[i]->name) != len || memcmp(kinds[i]->name, spec, len))
			continue;
		*out = kinds[i]->create(vm, spec[len] ? spec + len + 1 : "", err);
		return *out ? 0 : -1;
	}
	return error_set(err, 0, "unknown network '%.*s' (known: user, none)", (int)MIN(len, 100u),
			 spec);
}

void net_destroy(struct net_backend *net)
{
	if (net)
		net->ops->destroy(net);
}

void net_attach(struct net_backend *net, const struct net_frontend_ops *ops, void *opaque)
{
	net->frontend = ops;
	net->opaque = opaque;
}
