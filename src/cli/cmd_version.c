/* SPDX-License-Identifier: MIT */
/* lodge version */
#include <stdio.h>

#include "cli/command.h"

static int run(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	puts("lodge " LODGE_VERSION);
	return STATUS_OK;
}

const struct command cmd_version = {
	.name = "version",
	.summary = "print the version",
	.help = "Usage: lodge version\n\nPrints the version of lodge.\n",
	.run = run,
};
