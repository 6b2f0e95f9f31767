/* SPDX-License-Identifier: MIT */
/* The table of commands. A new command is a new file and one line here. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

const struct command *const commands[] = {
	&cmd_run, &cmd_engines, &cmd_help, &cmd_version, NULL,
};

const struct command *command_find(const char *name)
{
	for (const struct command *const *c = commands; *c; c++)
		if (!strcmp((*c)->name, name))
			return *c;
	return NULL;
}

void command_print_list(void)
{
	puts("Usage: lodge COMMAND [OPTIONS]\n\nRuns guests: operating systems in virtual machines.\n");
	for (const struct command *const *c = commands; *c; c++)
		printf("  %-10s %s\n", (*c)->name, (*c)->summary);
	puts("\n'lodge help COMMAND' tells more about one. For example:\n"
	     "  lodge run --kernel vmlinuz --initrd initrd.img --append console=ttyS0");
}
