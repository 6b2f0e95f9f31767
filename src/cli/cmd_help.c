/* SPDX-License-Identifier: MIT */
/* lodge help [COMMAND] */
#include <stdio.h>

#include "base/log.h"
#include "cli/command.h"

static int run(int argc, char **argv)
{
	if (argc < 2) {
		command_print_list();
		return STATUS_OK;
	}
	const struct command *command = command_find(argv[1]);

	if (!command) {
		log_error("no command '%s': 'lodge help' lists them", argv[1]);
		return STATUS_FAILED;
	}
	fputs(command->help, stdout);
	return STATUS_OK;
}

const struct command cmd_help = {
	.name = "help",
	.summary = "explain the commands",
	.help = "Usage: lodge help [COMMAND]\n\nLists the commands, or explains one.\n",
	.run = run,
};
