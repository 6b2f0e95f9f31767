/* SPDX-License-Identifier: MIT */
/*
 * One CPU runs through jumps that another rewrites all the time (SDM vol. 3, 8.1.3: unsynchronised cross-modifying code, in single
 * aligned stores). What the first gets may be old or new, but must always be something that was written: a
 * translator that patches its own jumps, kills and revives blocks at the same time must never let it run anything else.
 * run: cpus=2 timeout=60
 */
#include "lib.h"

#define SLOTS 16
#define ROUNDS 30000
typedef uint64_t fn0(void);
static uint8_t *page[2]; /* jumps and bodies on the first, more bodies on the second */
static volatile unsigned stop, ready, check, checked;
static volatile uint64_t calls, strange, last_strange, stack_moved, wrong;
static volatile uint32_t expected[SLOTS];

static uint8_t *body(unsigned j)
{
	return page[j & 1] + 0x400 + 64 * j;
}

static void store8(uint8_t *p, const uint8_t bytes[8])
{
	uint64_t v;

	memcpy(&v, bytes, 8);
	*(volatile uint64_t *)p = v;
}

static void put_body(unsigned j, unsigned version) /* mov $imm, %eax; ret */
{
	store8(body(j), (uint8_t[]){ 0xb8, (uint8_t)version, (uint8_t)j, 0xde, 0xc0, 0xc3, 0xcc, 0xcc });
}

/* jmp body, or jz/jnz with ZF set by the caller's xor, falling through to a ret that leaves 0xc0deff00 */
static void put_jump(unsigned i, unsigned j, unsigned kind)
{
	uint8_t *slot = page[0] + 32 * i;
	uint32_t rel;
	uint8_t bytes[8] = { 0x0f, 0x84, 0, 0, 0, 0, 0xeb, 8 };

	if (kind == 0) {
		bytes[0] = 0xe9;
		rel = (uint32_t)(body(j) - (slot + 5));
		memcpy(bytes + 1, &rel, 4);
		bytes[5] = bytes[6] = bytes[7] = 0xcc;
	} else {
		rel = (uint32_t)(body(j) - (slot + 6));
		memcpy(bytes + 2, &rel, 4);
	}
	store8(slot, bytes);
}

static uint64_t call_slot(unsigned i)
{
	uint64_t r, before, after;

	asm volatile("mov %%rsp, %1; xor %%eax, %%eax; call *%3; mov %%rsp, %2"
		     : "=&a"(r), "=&r"(before), "=&r"(after)
		     : "r"(page[0] + 32 * i)
		     : "memory", "cc");
	stack_moved += before != after;
	return r;
}

static void runner(unsigned cpu)
{
	ready = 1;
	while (!stop) {
		for (unsigned i = 0; i < SLOTS; i++) {
			uint64_t r = call_slot(i);

			calls++;
			if (r >> 16 != 0xc0de || (r >> 8 & 0xff) >= SLOTS) {
				strange++;
				last_strange = r;
			}
		}
	}
	ready = 2;
	for (unsigned seen = 0; seen < 200;) {
		if (check == seen)
			continue;
		seen = check;
		cpuid(0, 0); /* serialize */
		for (unsigned i = 0; i < SLOTS; i++)
			wrong += call_slot(i) != expected[i];
		checked = seen;
	}
	for (;;)
		asm volatile("cli; hlt");
}

static uint32_t seed = 1;
static uint32_t next(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

void test_main(void)
{
	static unsigned version[SLOTS];

	page[0] = alloc_pages(2);
	page[1] = page[0] + 4096;
	memset(page[0], 0xcc, 2 * 4096);
	for (unsigned i = 0; i < SLOTS; i++) {
		put_body(i, 0);
		put_jump(i, i, 0);
	}
	start_aps(runner);
	CHECK("runner-runs", wait_until(&ready, 1, 2000));
	for (unsigned n = 0; n < ROUNDS; n++) {
		unsigned i = next() % SLOTS, j = next() % SLOTS;

		if (n & 1)
			put_jump(i, j, next() & 1);
		else
			put_body(j, ++version[j]);
		if (!(n & 63))
			for (unsigned k = 0; k < 200; k++)
				pause_cpu();
	}
	stop = 1;
	CHECK("runner-stops", wait_until(&ready, 2, 5000));
	CHECK("runner-ran", calls > 100);
	CHECK_EQ("nothing-that-was-never-written", strange, 0);
	if (strange)
		print("got %lx\n", last_strange);
	for (unsigned n = 1; n <= 200; n++) {
		for (unsigned i = 0; i < SLOTS; i++) {
			unsigned j = next() % SLOTS;

			put_body(i, n);
			put_jump(i, j, next() & 1);
			expected[i] = 0xc0de0000 | j << 8 | (n & 0xff);
		}
		barrier();
		check = n;
		if (!wait_until(&checked, n, 3000))
			break;
	}
	CHECK_EQ("checked", checked, 200);
	CHECK_EQ("new-code-after-serializing", wrong, 0);
	CHECK_EQ("stack-pointer", stack_moved, 0);
	test_end();
}
