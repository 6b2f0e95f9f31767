/* SPDX-License-Identifier: MIT */
/*
 * How an engine takes to a lot of code: generates MiB of functions of ordinary instructions (loads,
 * stores, arithmetic, branches, about 60 a function), then calls all of them in a random order,
 * several times. Linked statically.
 *
 *   code [-t SECONDS] MIB...
 *
 * Prints for each size `CODE MIB first later`: ns per guest instruction the first time
 * (translating it included) and the best later time. No pass takes longer than SECONDS (3): it is
 * cut short, and later passes call the same functions. The difference of the two is what
 * translation costs, seen from the guest; where later passes of a large size cost as much as the
 * first, the code cache does not hold it.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define STEPS 60u /* templates a function */

static double budget = 3;
static uint64_t seed = 88172645463325252u;
static uint8_t *at;
static uint64_t data[64];

static uint32_t draw(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % below;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void byte(uint32_t value)
{
	*at++ = (uint8_t)value;
}

/* REX.W op /r with a register operand, or with [rdi + disp8] in data. */
static void alu(uint32_t opcode, uint32_t reg, uint32_t rm)
{
	byte(0x48);
	byte(opcode);
	byte(0xc0 | reg << 3 | rm);
}

static void reference(uint32_t opcode, uint32_t reg)
{
	byte(0x48);
	byte(opcode);
	byte(0x40 | reg << 3 | 7);
	byte(draw(15) * 8);
}

/* One template; returns how many instructions it is. rdi points to data; the rest is anybody's. */
static unsigned emit(void)
{
	static const uint8_t usable[4] = { 0, 1, 2, 6 };
	static const uint8_t plain[5] = { 0x01, 0x29, 0x31, 0x21, 0x89 }; /* add sub xor and mov */
	uint32_t a = usable[draw(4)], b = usable[draw(4)];

	switch (draw(12)) {
	case 0:
	case 1:
	case 2:
		reference(0x8b, a); /* mov a, [rdi + d] */
		return 1;
	case 3:
		reference(0x89, a); /* mov [rdi + d], a */
		return 1;
	case 4:
		reference(0x03, a); /* add a, [rdi + d] */
		return 1;
	case 5:
	case 6:
	case 7:
		alu(plain[draw(5)], a, b);
		return 1;
	case 8:
		byte(0x48), byte(0x8d), byte(0x44 | a << 3); /* lea a, [b + b * 4 + d] */
		byte(0x80 | b << 3 | b), byte(draw(100));
		return 1;
	case 9:
		byte(0x48), byte(0xc1), byte(0xe0 | a), byte(1 + draw(30)); /* shl a, n */
		return 1;
	case 10:
		byte(0x50 | a); /* push a; ...; pop b */
		alu(0x01, a, b);
		byte(0x58 | b);
		return 3;
	default:
		alu(0x39, a, b); /* cmp a, b; jcc to the next instruction, whichever way */
		byte(0x70 | draw(16)), byte(0x00);
		return 2;
	}
}

static int measure(unsigned mib)
{
	size_t size = (size_t)mib << 20, count = 0, limit = size / 128, instructions = 0, reached;
	uint8_t *code = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t **functions = malloc(limit * sizeof(*functions));
	double first = 0, later = 0;

	if (code == MAP_FAILED || !functions)
		return 1;
	for (at = code; at + 512 < code + size && count < limit;
	     at = (uint8_t *)(((uintptr_t)at + 15) & ~(uintptr_t)15)) {
		functions[count++] = at;
		for (unsigned i = 0; i < STEPS; i++)
			instructions += emit();
		byte(0xc3);
		instructions++;
	}
	for (size_t i = count - 1; i > 0; i--) {
		size_t j = draw((uint32_t)i + 1);
		uint8_t *t = functions[i];

		functions[i] = functions[j];
		functions[j] = t;
	}
	reached = count;
	for (unsigned pass = 0; pass < 4; pass++) {
		uint64_t start = now_ns(), end = start;
		size_t done = 0;
		double each;

		while (done < reached) {
			for (unsigned i = 0; i < 64 && done < reached; i++, done++)
				((void (*)(uint64_t *))functions[done])(data);
			end = now_ns();
			if ((double)(end - start) > budget * 1e9)
				break;
		}
		each = (double)(end - start) /
		       ((double)instructions / (double)count * (double)done);
		if (!pass) {
			first = each;
			reached = done;
		} else if (pass == 1 || each < later) {
			later = each;
		}
	}
	printf("CODE %u %.2f %.3f\n", mib, first, later);
	fflush(stdout);
	munmap(code, size);
	free(functions);
	return 0;
}

int main(int argc, char **argv)
{
	int option, status = 0;

	while ((option = getopt(argc, argv, "t:")) != -1) {
		if (option != 't')
			return 2;
		budget = atof(optarg);
	}
	for (; optind < argc; optind++)
		status |= measure((unsigned)atoi(argv[optind]));
	return status;
}
