/* SPDX-License-Identifier: MIT */
/* lodge engines: what can execute a virtual CPU here, how well, and if not, why not. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/command.h"
#include "vm/engine.h"

struct finding {
	const struct engine *engine;
	struct engine_probe probe;
	const char *missing;
	bool best;
};

#define ENGINE_MAX 8

static unsigned find_all(struct finding *found)
{
	unsigned count = 0, best = 0;

	for (const struct engine *const *e = engines; *e && count < ENGINE_MAX; e++, count++) {
		struct finding *f = &found[count];

		*f = (struct finding){ .engine = *e, .missing = "" };
		(*e)->probe(&f->probe);
		if (f->probe.usable && (*e)->missing_features)
			f->missing = (*e)->missing_features();
		if (f->probe.usable && (!found[best].probe.usable || f->probe.rank > found[best].probe.rank))
			best = count;
	}
	if (count && found[best].probe.usable)
		found[best].best = true;
	return count;
}

static void print_text(const struct finding *f)
{
	printf("%-6s %-4s %s%s\n", f->engine->name, f->probe.usable ? "yes" : "no", f->probe.reason,
	       f->best ? " (auto takes this)" : "");
	if (f->missing[0])
		printf("%12sdoes not work, and is kept from guests: %s\n", "", f->missing);
	if (f->probe.advice[0])
		printf("%12s%s\n", "", f->probe.advice);
}

/* The texts are ours and plain, but for what the system says of an error. */
static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if ((unsigned char)*text < ' ')
			printf("\\u%04x", (unsigned)(unsigned char)*text);
		else if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void print_member(const char *name, const char *text)
{
	printf(", \"%s\": ", name);
	print_string(text);
}

static void print_number(const char *name, double value)
{
	if (value > 0)
		printf(", \"%s\": %.1f", name, value);
	else
		printf(", \"%s\": null", name);
}

static void print_json(const struct finding *f, bool last)
{
	fputs("  {\"name\": ", stdout);
	print_string(f->engine->name);
	printf(", \"usable\": %s, \"crippled\": %s, \"auto\": %s, \"rank\": %u", f->probe.usable ? "true" : "false",
	       f->probe.crippled ? "true" : "false", f->best ? "true" : "false", f->probe.rank);
	print_member("reason", f->probe.reason);
	print_member("advice", f->probe.advice);
	print_member("missing_features", f->missing);
	print_number("ns_per_instruction", f->probe.ns_per_instruction);
	print_number("ns_per_exit", f->probe.ns_per_exit);
	printf("}%s\n", last ? "" : ",");
}

static int run(int argc, char **argv)
{
	struct finding found[ENGINE_MAX];
	bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
	unsigned count;

	if (argc > 1 && !json) {
		log_error("engines: unexpected argument '%s'", argv[1]);
		return STATUS_FAILED;
	}
	count = find_all(found);
	if (json)
		puts("[");
	for (unsigned i = 0; i < count; i++) {
		if (json)
			print_json(&found[i], i == count - 1);
		else
			print_text(&found[i]);
	}
	if (json)
		puts("]");
	return STATUS_OK;
}

const struct command cmd_engines = {
	.name = "engines",
	.summary = "list the engines and whether they work on this host",
	.help = "Usage: lodge engines [--json]\n\n"
		"Lists the engines that can execute virtual CPUs: name, whether it works on\n"
		"this host, how well, or why not and what to do about it. 'lodge run --engine\n"
		"NAME' takes one of them; 'auto', the default, takes the fastest that works.\n\n"
		"  --json                 as JSON, with the figures that were measured\n",
	.run = run,
};
