/* SPDX-License-Identifier: MIT */
/* The lodge program: finds the command and runs it. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/command.h"

int main(int argc, char **argv)
{
	if (argc < 2) {
		command_print_list();
		return STATUS_FAILED;
	}
	const char *name = argv[1];

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	else if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		name = "version";
	const struct command *command = command_find(name);

	if (!command) {
		log_error("no command '%s': 'lodge help' lists them", name);
		return STATUS_FAILED;
	}
	if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
		fputs(command->help, stdout);
		return STATUS_OK;
	}
	return command->run(argc - 1, argv + 1);
}
