/* SPDX-License-Identifier: MIT */
/* Choosing an engine: by name, or the usable one with the highest rank. The table is engines[] in engine/engines.c. */
#include <string.h>

#include "vm/engine.h"

const struct engine *engine_find(const char *name, struct error *err)
{
	const struct engine *best = NULL;
	unsigned best_rank = 0;
	char why[320] = "none is compiled in";
	bool any = strcmp(name, "auto") == 0;

	for (const struct engine *const *e = engines; *e; e++) {
		struct engine_probe probe = { 0 };

		if (!any && strcmp((*e)->name, name) != 0)
			continue;
		(*e)->probe(&probe);
		if (!probe.usable) {
			if (!any) {
				error_set(err, 0, "engine '%s' cannot be used here: %s", name, probe.reason);
				return NULL;
			}
			snprintf(why, sizeof(why), "%s: %s", (*e)->name, probe.reason);
		} else if (!best || probe.rank > best_rank) {
			best = *e;
			best_rank = probe.rank;
		}
	}
	if (!best && any)
		error_set(err, 0, "no engine can be used here (%s)", why);
	else if (!best)
		error_set(err, 0, "there is no engine '%s'", name);
	return best;
}
