/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz harness without libFuzzer:
 *     fuzz_X FILE...                        run these inputs
 *     fuzz_X -n COUNT [-s SEED] FILE...     mutations of these; without files, inputs made up
 * A failure names the seed with which it comes back (`-n 1 -s SEED`).
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX 65536
#define SECONDS_MAX 30 /* for one input */

static uint8_t data[INPUT_MAX];
static uint64_t state;
static unsigned current;

static uint32_t rnd(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32);
}

static size_t read_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	size_t size;

	if (!file) {
		perror(path);
		exit(2);
	}
	size = fread(data, 1, sizeof(data), file);
	fclose(file);
	return size;
}

static size_t mutate(size_t size)
{
	static const uint32_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x1000, 0xfffff000 };

	for (unsigned n = 1 + rnd() % 6; n > 0 && size > 0; n--) {
		/* headers matter most */
		size_t at = rnd() % (rnd() & 1 && size > 700 ? 700 : size);
		uint32_t v = odd[rnd() % (sizeof(odd) / sizeof(odd[0]))];

		switch (rnd() % 7) {
		case 0:
			data[at] ^= (uint8_t)(1u << (rnd() & 7));
			break;
		case 1:
			data[at] = (uint8_t)rnd();
			break;
		case 2:
			for (unsigned i = 0; i < 4 && at + i < size; i++)
				data[at + i] = (uint8_t)(v >> (8 * i));
			break;
		case 3:
			for (unsigned i = 0; i < 8 && at + i < size; i++)
				data[at + i] = (uint8_t)((rnd() & 1 ? v : 0xffffffff) >> (8 * (i & 3)));
			break;
		case 4:
			size = at + 1;
			break;
		case 5: {
			size_t from = rnd() % size, len = rnd() % 64;

			if (from + len <= size && at + len <= size)
				memmove(data + at, data + from, len);
			break;
		}
		default:
			data[at] += (uint8_t)(rnd() % 5 - 2);
		}
	}
	return size;
}

static void report(int number)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "signal %d; it was seed %u\n", number, current);

	if (write(2, text, (size_t)len) < 0)
		_exit(3);
	signal(number, SIG_DFL);
	raise(number);
}

int main(int argc, char **argv)
{
	unsigned count = 0, seed = 1, files;
	int option;

	while ((option = getopt(argc, argv, "n:s:")) > 0) {
		if (option == '?')
			return 2;
		*(option == 'n' ? &count : &seed) = (unsigned)strtoul(optarg, NULL, 0);
	}
	files = (unsigned)(argc - optind);
	signal(SIGALRM, report);
	signal(SIGABRT, report);
	for (unsigned i = 0; i < files && !count; i++) {
		size_t size = read_file(argv[optind + (int)i]);

		alarm(SECONDS_MAX);
		LLVMFuzzerTestOneInput(data, size);
	}
	for (unsigned i = 0; i < count; i++) {
		size_t size;

		current = seed + i;
		state = current * 0x9e3779b97f4a7c15ull + 1;
		if (files) {
			size = mutate(read_file(argv[optind + (int)(rnd() % files)]));
		} else {
			size = 16 + rnd() % 2048;
			for (size_t k = 0; k < size; k++)
				data[k] = (uint8_t)rnd();
		}
		alarm(SECONDS_MAX);
		LLVMFuzzerTestOneInput(data, size);
	}
	return 0;
}
