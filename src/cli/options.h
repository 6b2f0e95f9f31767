/* SPDX-License-Identifier: MIT */
/* The options of `lodge run`, parsed and checked. */
#ifndef LODGE_CLI_OPTIONS_H
#define LODGE_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"

#define OWNED_STRING_MAX 128

struct run_options {
	struct machine_config machine;
	const char *gdb;  /* address of the GDB stub, or NULL */
	bool gdb_nowait;  /* let the guest run before a debugger comes */
	bool stats;       /* --stats */
	bool summary;     /* --summary */
	const char *profile; /* --profile: file the report goes to, or NULL */
	unsigned verbose; /* number of -v */
	bool help;        /* --help was given: nothing else is valid */
	bool cpu_help; /* --cpu help: list models and features */

	char *owned[OWNED_STRING_MAX]; /* copies that machine's strings point into */
	unsigned owned_count;
};

/* Parse and check. 0, or -1 with a sentence that says what to do instead. Also turns on --trace categories. */
int run_options_parse(struct run_options *options, int argc, char **argv, struct error *err);
void run_options_free(struct run_options *options);

/* A size in bytes: decimal, with an optional suffix K, M, G or T (powers of 1024; a trailing "B" or "iB" is allowed). */
int parse_size(const char *text, uint64_t *bytes);

#endif
