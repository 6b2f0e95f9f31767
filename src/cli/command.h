/* SPDX-License-Identifier: MIT */
/*
 * The commands of the lodge program. One file per command (cmd_NAME.c), one entry each in the table
 * in commands.c.
 */
#ifndef LODGE_CLI_COMMAND_H
#define LODGE_CLI_COMMAND_H

/* Exit statuses of lodge. isa-debug-exit makes others. */
#define STATUS_OK 0
#define STATUS_FAILED 1     /* lodge could not do what was asked */
#define STATUS_GUEST_DIED 4 /* triple fault */

struct command {
	const char *name;
	const char *summary; /* one line for `lodge help` */
	const char *help;    /* what `lodge help NAME` and `lodge NAME --help` print */
	/* argv[0] is the command's name. Returns the exit status. */
	int (*run)(int argc, char **argv);
};

extern const struct command cmd_run, cmd_engines, cmd_help, cmd_version;

/* All commands, in the order `lodge help` lists them; ends with NULL. */
extern const struct command *const commands[];

/* The command with this name, or NULL. */
const struct command *command_find(const char *name);

/* Print the list of commands to standard output. */
void command_print_list(void);

#endif
