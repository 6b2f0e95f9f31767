/* SPDX-License-Identifier: MIT */
/*
 * The instruction tests: random user-mode instruction sequences run on the host's own CPU and under an
 * engine, and everything a program could see is compared.
 *
 *   generate.c   makes sequences (from a seed: the same seed gives the same test for ever)
 *   native.c     runs them in a forked process, by signal returns
 *   guest.c      runs them in a small VM, in user mode under a monitor of a few bytes
 *   compare.c    compares, prints, shrinks
 *   main.c       command line
 *
 * Both sides see the same linear address space: the layout below.
 */
#ifndef LODGE_TESTS_CPU_TEST_H
#define LODGE_TESTS_CPU_TEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* ---- address space of a test, the same natively and in the guest ---- */
#define CODE_BASE 0x13600000ull
#define CODE_PAGES 16
#define DATA_BASE 0x2ae00000ull /* read-write; the pages before and after are not mapped */
#define DATA_PAGES 3
#define READONLY_BASE 0x2ae10000ull /* one page, not writable; unmapped after */
#define INDEX_BASE 0x2ae20000ull    /* one page, not writable: offsets for gathers and scatters */
#define SCRATCH_BASE 0x2ae30000ull  /* read-write, not compared: for images with unspecified parts */
#define SCRATCH_PAGES 4
#define PAGE 4096u
#define DATA_SIZE (DATA_PAGES * PAGE)

#define ITEM_MAX 24
#define ITEM_BYTES 72
#define ITEM_FIXUPS 3

/* An item is one interesting instruction with the set-up it needs. Addresses in it are filled in when it is
 * placed. */
enum fixup_kind {
	FIXUP_NONE,
	FIXUP_REL32,  /* 4 bytes at `at`: target - end of instruction (`end`) */
	FIXUP_HERE32, /* 4 bytes: address of the byte `target` of this item */
	FIXUP_HERE64,
};

struct fixup {
	uint8_t kind, at, end;
	uint64_t target; /* FIXUP_REL32: linear address, or with top bit set an offset in this item */
};
#define TARGET_IN_ITEM (1ull << 63)

struct item {
	uint8_t bytes[ITEM_BYTES];
	uint8_t length;
	uint8_t fixup_count;
	struct fixup fixups[ITEM_FIXUPS];
};

/* FP and vector state without the accidents of XSAVE's form */
struct fp_state {
	uint16_t fcw, fsw;
	uint8_t ftw; /* abridged: 1 = in use */
	uint8_t st[8][10];
	uint32_t mxcsr;
	uint8_t zmm[32][64] __attribute__((aligned(64)));
	uint64_t k[8];
};

struct cpu_regs {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	uint64_t fs_base, gs_base;
	uint16_t selectors[4]; /* ES DS FS GS; results only */
	uint16_t cs;
	struct fp_state fp;
};

enum test_mode { TEST_64, TEST_32 };

struct test_case {
	uint64_t seed;
	uint8_t mode; /* enum test_mode */
	uint8_t item_count;
	uint64_t code; /* linear address of the first instruction */
	struct cpu_regs start;
	struct item items[ITEM_MAX];
	/* placed form */
	uint32_t code_size;
	uint8_t code_bytes[ITEM_MAX * ITEM_BYTES + 16];
};

/* How a test ended. vector 3 (int3) is the normal end. */
struct test_result {
	uint8_t vector; /* exception vector; 0xff: timeout, 0xfe: something else (note says) */
	uint64_t error, cr2;
	struct cpu_regs end;
	uint8_t data[DATA_SIZE];
	char note[64];
};
#define VECTOR_TIMEOUT 0xff
#define VECTOR_OTHER 0xfe

/* ---- generate.c ---- */
struct random {
	uint64_t s;
};
uint64_t random_next(struct random *r);
unsigned random_below(struct random *r, unsigned n);

/* Classes of instructions a test may be restricted to (--class). */
extern const char *const class_names[]; /* NULL-terminated; index is the class number */

/* All but "ac": #AC costs an engine more than anybody gets from it. */
#define DEFAULT_CLASSES (~0u & ~(1u << 18))

struct generator_options {
	uint32_t classes; /* bit n: class n allowed */
	int mode;         /* enum test_mode, or -1: both */
	unsigned length;  /* items in a test, at most; 0: default */
};

void generator_init(void);
/* Make the test with this seed. */
void generate_test(struct test_case *test, uint64_t seed, const struct generator_options *options);
/* Lay out test->items at test->code into test->code_bytes. */
void place_test(struct test_case *test);
/* The initial contents of the data pages for a test. */
void fill_data(uint8_t *data, uint64_t seed);
void fill_index_page(uint8_t *page);
void fill_readonly_page(uint8_t *page);

/* ---- native.c ---- */
#define NATIVE_BATCH 32
/* Start the process that runs tests natively. */
int native_start(struct error *err);
void native_stop(void);
/* Run count (<= NATIVE_BATCH) tests. */
int native_run(struct test_case *const *tests, struct test_result *results, unsigned count, struct error *err);
/* The host's XSAVE components in use, as XCR0. */
uint64_t native_xcr0(void);

/* ---- guest.c ---- */
/* bt: debugging options of the bt engine (see docs/debugging.md), or NULL. */
int guest_start(const char *engine, const char *bt, struct error *err);
void guest_stop(void);
int guest_run(const struct test_case *test, struct test_result *result, struct error *err);
void guest_print_stats(void);

/* ---- XSAVE standard form <-> fp_state (xsave.c) ---- */
void xsave_to_fp(struct fp_state *fp, const uint8_t *xsave);
/* Writes a whole standard-form image of size bytes with all components of xcr0 present. */
void fp_to_xsave(uint8_t *xsave, unsigned size, const struct fp_state *fp, uint64_t xcr0);

/* ---- compare.c ---- */
extern bool compare_fault_flags; /* compare arithmetic flags after a fault too */
/* 0 if equal; else 1 and a description is written to text. */
int compare_results(const struct test_case *test, const struct test_result *native, const struct test_result *guest,
		    char *text, unsigned size);
void print_test(const struct test_case *test);
/* One line: mode, instructions, first difference. */
void print_summary(const struct test_case *test, const char *differences);

#endif
