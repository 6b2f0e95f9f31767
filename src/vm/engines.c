/* SPDX-License-Identifier: MIT */
/* Choosing an engine: by name, or the usable one with the highest rank. The table is engines[] in engine/engines.c. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "vm/engine.h"

/* One line for -v: what was taken, and why not the others. */
static void explain_choice(const struct engine *best)
{
	char others[400] = "";
	size_t used = 0;

	for (const struct engine *const *e = engines; *e; e++) {
		struct engine_probe probe = { 0 };

		if (*e == best || used >= sizeof(others))
			continue;
		(*e)->probe(&probe);
		used += (size_t)snprintf(others + used, sizeof(others) - used, "; %s %s: %s",
					 (*e)->name, probe.usable ? "is slower" : "cannot be used",
					 probe.reason);
	}
	log_info("engine %s, the fastest that works here%s", best->name, others);
}

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
				error_set(err, 0, "engine '%s' cannot be used here: %s", name,
					  probe.reason);
				return NULL;
			}
			snprintf(why, sizeof(why), "%s: %s", (*e)->name, probe.reason);
		} else if (!best || probe.rank > best_rank) {
			best = *e;
			best_rank = probe.rank;
		}
		if (any)
			log_debug("engine %s: %s, rank %u: %s", (*e)->name,
				  probe.usable ? "usable" : "not usable", probe.rank, probe.reason);
	}
	if (!best && any)
		error_set(err, 0, "no engine can be used here (%s)", why);
	else if (!best)
		error_set(err, 0, "there is no engine '%s'", name);
	else if (any)
		explain_choice(best);
	return best;
}
