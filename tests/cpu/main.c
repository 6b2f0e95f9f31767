/* SPDX-License-Identifier: MIT */
/*
 * cpu-test: run random instruction sequences natively and under an engine, and compare.
 *
 * A test is named by its seed; `--seed N --count 1` runs it again (with the same --class, --mode and --length). A failing test
 * is shrunk: items are left out as long as it still fails.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu_test.h"

struct options {
	uint64_t seed, count;
	const char *engine; /* NULL: native against native */
	const char *bt;     /* the bt engine's debugging options, or NULL */
	struct generator_options generator;
	unsigned max_failures;
	double seconds;
	bool shrink, stats, verbose, summary;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static __attribute__((noreturn)) void die(const struct error *err)
{
	printf("FAIL setup: %s\n", err->text);
	native_stop();
	exit(1);
}

static void usage(void)
{
	printf("usage: cpu-test [--engine NAME|native] [--seed N] [--count N] [--seconds S] [--class A,B,...]\n"
	       "                [--mode 32|64] [--length N] [--max-failures N] [--no-shrink] [--stats] [--summary] [--fault-flags]\n"
	       "                [--verbose] [--bt OPTION,...]\n"
	       "classes:");
	for (unsigned i = 0; class_names[i]; i++)
		printf(" %s", class_names[i]);
	printf("\n");
}

static uint32_t parse_classes(char *list)
{
	uint32_t mask = 0;

	for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
		unsigned i = 0;

		while (class_names[i] && strcmp(class_names[i], name) != 0)
			i++;
		if (!class_names[i]) {
			usage();
			exit(2);
		}
		mask |= 1u << i;
	}
	return mask;
}

static void parse(struct options *o, int argc, char **argv)
{
	enum { SEED = 256, COUNT, SECONDS, CLASS, MODE, LENGTH, ENGINE, MAX_FAILURES, NO_SHRINK, STATS, VERBOSE, SUMMARY, FAULT_FLAGS, BT };
	static const struct option long_options[] = {
		{ "seed", 1, 0, SEED },
		{ "count", 1, 0, COUNT },
		{ "seconds", 1, 0, SECONDS },
		{ "class", 1, 0, CLASS },
		{ "mode", 1, 0, MODE },
		{ "length", 1, 0, LENGTH },
		{ "engine", 1, 0, ENGINE },
		{ "max-failures", 1, 0, MAX_FAILURES },
		{ "no-shrink", 0, 0, NO_SHRINK },
		{ "stats", 0, 0, STATS },
		{ "verbose", 0, 0, VERBOSE },
		{ "summary", 0, 0, SUMMARY },
		{ "fault-flags", 0, 0, FAULT_FLAGS },
		{ "bt", 1, 0, BT },
		{ 0, 0, 0, 0 },
	};
	int c;

	*o = (struct options){ .seed = 1, .count = 10000, .engine = "bt", .max_failures = 5, .shrink = true };
	o->generator = (struct generator_options){ .classes = DEFAULT_CLASSES, .mode = -1 };
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (c) {
		case SEED:
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case COUNT:
			o->count = strtoull(optarg, NULL, 0);
			break;
		case SECONDS:
			o->seconds = strtod(optarg, NULL);
			break;
		case CLASS:
			o->generator.classes = parse_classes(optarg);
			break;
		case MODE:
			o->generator.mode = strcmp(optarg, "32") == 0 ? TEST_32 : TEST_64;
			break;
		case LENGTH:
			o->generator.length = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case ENGINE:
			o->engine = strcmp(optarg, "native") == 0 ? NULL : optarg;
			break;
		case MAX_FAILURES:
			o->max_failures = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case NO_SHRINK:
			o->shrink = false;
			break;
		case STATS:
			o->stats = true;
			break;
		case BT:
			o->bt = optarg;
			break;
		case FAULT_FLAGS:
			compare_fault_flags = true;
			break;
		case SUMMARY:
			o->summary = true;
			break;
		case VERBOSE:
			o->verbose = true;
			break;
		default:
			usage();
			exit(2);
		}
	}
}

static void run_native(struct test_case *test, struct test_result *result)
{
	struct error err;

	if (native_run(&test, result, 1, &err))
		die(&err);
}

static void run_engine(const struct options *o, struct test_case *test, struct test_result *result)
{
	struct error err;

	if (!o->engine)
		run_native(test, result);
	else if (guest_run(test, result, &err))
		die(&err);
}

static char text[65536];

/* Does the host's CPU disagree with itself? Then the test reads what another left behind in the code pages. */
static bool not_an_oracle(struct test_case *test, const struct test_result *native)
{
	static struct test_result again;
	static char differences[sizeof(text)];

	for (unsigned i = 0; i < 3; i++) {
		run_native(test, &again);
		if (compare_results(test, native, &again, differences, sizeof(differences)))
			return true;
	}
	return false;
}

static bool fails(const struct options *o, struct test_case *test)
{
	static struct test_result native, guest;

	place_test(test);
	run_native(test, &native);
	if (native.vector >= VECTOR_OTHER)
		return false;
	run_engine(o, test, &guest);
	return compare_results(test, &native, &guest, text, sizeof(text)) != 0;
}

/* Leave out items while the test still fails. */
static void shrink(const struct options *o, struct test_case *test)
{
	static struct test_case smaller;
	bool progress = true;

	while (progress) {
		progress = false;
		for (unsigned i = test->item_count; i-- > 0 && test->item_count > 1;) {
			smaller = *test;
			memmove(&smaller.items[i], &smaller.items[i + 1], (smaller.item_count - i - 1u) * sizeof(struct item));
			smaller.item_count--;
			if (fails(o, &smaller)) {
				*test = smaller;
				progress = true;
			}
		}
	}
	if (!fails(o, test))
		printf("  (seed %" PRIu64 ": not failing again when run alone: depends on the tests before it)\n", test->seed);
}

int main(int argc, char **argv)
{
	static struct test_case tests[NATIVE_BATCH];
	static struct test_result native[NATIVE_BATCH], guest;
	struct test_case *batch[NATIVE_BATCH];
	struct options o;
	struct error err;
	uint64_t done = 0, failures = 0, skipped = 0, vectors[256] = { 0 };
	double start, last;

	parse(&o, argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	generator_init();
	if (native_start(&err) || (o.engine && guest_start(o.engine, o.bt, &err)))
		die(&err);
	start = last = now();
	while (done < o.count && failures < o.max_failures && (o.seconds == 0 || now() - start < o.seconds)) {
		unsigned n = o.count - done < NATIVE_BATCH ? (unsigned)(o.count - done) : NATIVE_BATCH;

		for (unsigned i = 0; i < n; i++) {
			generate_test(&tests[i], o.seed + done + i, &o.generator);
			batch[i] = &tests[i];
			if (o.verbose)
				print_test(&tests[i]);
		}
		if (native_run(batch, native, n, &err))
			die(&err);
		for (unsigned i = 0; i < n && failures < o.max_failures; i++) {
			if (native[i].vector >= VECTOR_OTHER) { /* the timer, perhaps not the test's fault */
				run_native(&tests[i], &native[i]);
				if (native[i].vector >= VECTOR_OTHER) {
					skipped++;
					continue;
				}
			}
			vectors[native[i].vector]++;
			for (unsigned again = 0; again < (tests[i].seed % 4 == 0 ? 2u : 1u); again++) {
				run_engine(&o, &tests[i], &guest);
				if (!o.engine && guest.vector >= VECTOR_OTHER)
					run_engine(&o, &tests[i], &guest);
				if (compare_results(&tests[i], &native[i], &guest, text, sizeof(text))) {
					if (not_an_oracle(&tests[i], &native[i])) {
						skipped++;
						break;
					}
					failures++;
					if (!o.summary)
						printf("FAIL seed-%" PRIu64 ": %s differs from the host's CPU\n", tests[i].seed,
						       o.engine ? o.engine : "native");
					if (o.shrink) {
						static char first[sizeof(text)];

						memcpy(first, text, sizeof(text));
						shrink(&o, &tests[i]);
						if (!text[0])
							memcpy(text, first, sizeof(text));
					}
					if (o.summary) {
						print_summary(&tests[i], text);
						break;
					}
					print_test(&tests[i]);
					fputs(text, stdout);
					break;
				}
			}
		}
		done += n;
		if (now() - last > 20) { /* the suite's runner wants a sign of life */
			fprintf(stderr, "%" PRIu64 " tests\n", done);
			last = now();
		}
	}
	printf("%" PRIu64 " tests in %.1f s, %" PRIu64 " failures, %" PRIu64 " skipped; ends:", done, now() - start, failures,
	       skipped);
	for (unsigned i = 0; i < 256; i++)
		if (vectors[i])
			printf(" #%u:%" PRIu64, i, vectors[i]);
	printf("\n");
	if (o.engine) {
		if (o.stats)
			guest_print_stats();
		guest_stop();
	}
	native_stop();
	return failures != 0;
}
