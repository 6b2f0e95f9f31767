/* SPDX-License-Identifier: MIT */
/* lodge engines: what can execute a virtual CPU here, how well, and if not, why not. */
#include <stdio.h>

#include "cli/command.h"
#include "vm/engine.h"

static int run(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	for (const struct engine *const *e = engines; *e; e++) {
		struct engine_probe probe = { 0 };

		(*e)->probe(&probe);
		printf("%-6s %-4s %s\n", (*e)->name, probe.usable ? "yes" : "no", probe.reason);
	}
	return STATUS_OK;
}

const struct command cmd_engines = {
	.name = "engines",
	.summary = "list the engines and whether they work on this host",
	.help = "Usage: lodge engines\n\n"
		"Lists the engines that can execute virtual CPUs: name, whether it works on\n"
		"this host, and why not or how well. 'lodge run --engine NAME' takes one of them.\n",
	.run = run,
};
