/* SPDX-License-Identifier: MIT */
/*
 * A CPU state with one megabyte of flat memory behind it, for the tests of src/x86. Linear addresses
 * are offsets into the memory (in long mode, its lowest megabyte also appears at KERNEL_BASE).
 * One page can be made to fault. Builders for descriptors, gates and the tables they lie in.
 */
#ifndef LODGE_TESTS_UNIT_X86_MACHINE_H
#define LODGE_TESTS_UNIT_X86_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "x86/system.h"

#define MEMORY_SIZE 0x100000u
#define KERNEL_BASE 0xffffffff80000000ull
#define NO_PAGE (~0ull)

#define GDT_BASE 0x1000u
#define IDT_BASE 0x2000u
#define LDT_BASE 0x3000u
#define TSS_BASE 0x4000u
#define TSS2_BASE 0x5000u
#define STACK0 0x8000u /* in the TSS: the stack for CPL 0 */
#define STACK1 0x8800u
#define STACK3 0x9000u
#define HANDLER 0xa000u

/* Selectors in the GDT the builders below make. */
enum {
	CODE0 = 0x08,
	DATA0 = 0x10,
	CODE3 = 0x18,
	DATA3 = 0x20,
	CODE64 = 0x28,
	CODE64_3 = 0x30,
	CODE16 = 0x38,
	DATA16 = 0x40,
	CONFORMING = 0x48,
	CODE1 = 0x50,
	DATA1 = 0x58,
	READONLY0 = 0x60,
	EXECONLY = 0x68,
	DOWN = 0x70,
	ABSENT_CODE = 0x78,
	ABSENT_DATA = 0x80,
	TSS = 0x88, /* 0x90: its upper half in long mode */
	TSS2 = 0x98,
	LDT = 0xa8,
	GATE = 0xb8,
	GATE2 = 0xc8,
	CODE3_CONFORMING = 0xd8,
	DATA3_16 = 0xe0,
	FREE = 0xe8,
	GDT_LIMIT = 0x1ff,
};

struct machine {
	struct x86_system sys;
	struct x86_cpu_state cpu;
	struct x86_fault fault;
	uint64_t bad_page;      /* accesses to this page fault */
	uint64_t readonly_page; /* writes to this page fault */
	unsigned reads, writes;
	unsigned last_write_flags;
	uint64_t cr8;
	uint64_t foreign_msr; /* MSR 0x12345 */
	uint8_t memory[MEMORY_SIZE];
};

static struct machine *machine_of(struct x86_system *s)
{
	return s->ctx;
}

static uint8_t *machine_at(struct machine *m, uint64_t linear)
{
	if (linear >= KERNEL_BASE && linear < KERNEL_BASE + MEMORY_SIZE)
		linear -= KERNEL_BASE;
	return linear < MEMORY_SIZE ? m->memory + linear : NULL;
}

/* Byte by byte: an access may cross pages. The fault is found before anything is written. */
static int machine_check(struct machine *m, uint64_t linear, unsigned size, bool write,
			 struct x86_fault *fault)
{
	for (unsigned i = 0; i < size; i++) {
		uint64_t page = (linear + i) & ~0xfffull;

		if (machine_at(m, linear + i) && page != m->bad_page &&
		    !(write && page == m->readonly_page))
			continue;
		*fault = (struct x86_fault){
			.vector = X86_PF,
			.has_error = true,
			.error = write ? X86_PF_W : 0,
			.address = linear + i,
		};
		return -1;
	}
	return 0;
}

static int machine_read(struct x86_system *s, uint64_t linear, void *buf, unsigned size,
			unsigned flags, struct x86_fault *fault)
{
	struct machine *m = machine_of(s);

	(void)flags;
	m->reads++;
	if (machine_check(m, linear, size, false, fault))
		return -1;
	for (unsigned i = 0; i < size; i++)
		((uint8_t *)buf)[i] = *machine_at(m, linear + i);
	return 0;
}

static int machine_write(struct x86_system *s, uint64_t linear, const void *buf, unsigned size,
			 unsigned flags, struct x86_fault *fault)
{
	struct machine *m = machine_of(s);

	m->writes++;
	m->last_write_flags = flags;
	if (machine_check(m, linear, size, true, fault))
		return -1;
	for (unsigned i = 0; i < size; i++)
		*machine_at(m, linear + i) = ((const uint8_t *)buf)[i];
	return 0;
}

static int machine_read_msr(struct x86_system *s, uint32_t msr, uint64_t *value)
{
	*value = machine_of(s)->foreign_msr;
	return msr == 0x12345 ? 0 : -1;
}

static int machine_write_msr(struct x86_system *s, uint32_t msr, uint64_t value)
{
	if (msr != 0x12345)
		return -1;
	machine_of(s)->foreign_msr = value;
	return 0;
}

static uint64_t machine_read_cr8(struct x86_system *s)
{
	return machine_of(s)->cr8;
}

static void machine_write_cr8(struct x86_system *s, uint64_t value)
{
	machine_of(s)->cr8 = value;
}

static uint64_t machine_read_physical(struct x86_system *s, uint64_t gpa)
{
	uint64_t value = ~0ull;

	if (gpa + 8 <= MEMORY_SIZE)
		memcpy(&value, machine_of(s)->memory + gpa, 8);
	return value;
}

static const struct x86_system_ops machine_ops = {
	.read = machine_read,
	.write = machine_write,
	.read_msr = machine_read_msr,
	.write_msr = machine_write_msr,
	.read_cr8 = machine_read_cr8,
	.write_cr8 = machine_write_cr8,
	.read_physical = machine_read_physical,
};

/* ---- memory ---- */

static inline uint64_t peek(struct machine *m, uint64_t at, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, machine_at(m, at), size);
	return value;
}

static inline void poke(struct machine *m, uint64_t at, unsigned size, uint64_t value)
{
	memcpy(machine_at(m, at), &value, size);
}

/* ---- descriptors ---- */

static inline uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
	if (attr & X86_ATTR_G)
		limit >>= 12;
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
	       (uint64_t)(attr & 0xf0ff) << 40 | (uint64_t)(limit & 0xf0000) << 32 |
	       (uint64_t)(base >> 24) << 56;
}

/* type: as enum system_type, with DPL; attr = P | DPL | type. */
static inline uint64_t gate_descriptor(uint16_t selector, uint32_t offset, uint8_t attr,
				       uint8_t parameters)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)parameters << 32 |
	       (uint64_t)attr << 40 | (uint64_t)(offset & 0xffff0000) << 32;
}

static inline void set_gdt(struct machine *m, uint16_t selector, uint64_t d)
{
	poke(m, GDT_BASE + (selector & ~7u), 8, d);
}

static inline uint64_t get_gdt(struct machine *m, uint16_t selector)
{
	return peek(m, GDT_BASE + (selector & ~7u), 8);
}

static inline void set_gate(struct machine *m, uint8_t vector, uint16_t selector, uint32_t offset,
			    uint8_t attr)
{
	poke(m, IDT_BASE + vector * 8, 8, gate_descriptor(selector, offset, attr, 0));
}

static inline void set_gate64(struct machine *m, uint8_t vector, uint16_t selector, uint64_t offset,
			      uint8_t attr, uint8_t ist)
{
	poke(m, IDT_BASE + vector * 16, 8, gate_descriptor(selector, (uint32_t)offset, attr, ist));
	poke(m, IDT_BASE + vector * 16 + 8, 8, offset >> 32);
}

static inline void load_cache(struct machine *m, enum x86_seg seg, uint16_t selector)
{
	uint64_t d = get_gdt(m, selector);
	struct x86_segment *sr = &m->cpu.seg[seg];

	sr->selector = selector;
	sr->attr = (d >> 40) & 0xf0ff;
	sr->limit = (d & 0xffff) | ((d >> 32) & 0xf0000);
	if (sr->attr & X86_ATTR_G)
		sr->limit = sr->limit << 12 | 0xfff;
	sr->base = ((d >> 16) & 0xffffff) | (d >> 56 << 24);
}

static inline void fill_gdt(struct machine *m)
{
	set_gdt(m, CODE0, descriptor(0, ~0u, 0xc09b));
	set_gdt(m, DATA0, descriptor(0, ~0u, 0xc093));
	set_gdt(m, CODE3, descriptor(0, ~0u, 0xc0fb));
	set_gdt(m, DATA3, descriptor(0, ~0u, 0xc0f3));
	set_gdt(m, CODE64, descriptor(0, ~0u, 0xa09b));
	set_gdt(m, CODE64_3, descriptor(0, ~0u, 0xa0fb));
	set_gdt(m, CODE16, descriptor(0x10000, 0xffff, 0x009b));
	set_gdt(m, DATA16, descriptor(0x20000, 0xffff, 0x0093));
	set_gdt(m, CONFORMING, descriptor(0, ~0u, 0xc09f));
	set_gdt(m, CODE1, descriptor(0, ~0u, 0xc0bb));
	set_gdt(m, DATA1, descriptor(0, ~0u, 0xc0b3));
	set_gdt(m, READONLY0, descriptor(0, ~0u, 0xc091));
	set_gdt(m, EXECONLY, descriptor(0, ~0u, 0xc099));
	set_gdt(m, DOWN, descriptor(0, 0x0fff, 0x4097));
	set_gdt(m, ABSENT_CODE, descriptor(0, ~0u, 0xc01b));
	set_gdt(m, ABSENT_DATA, descriptor(0, ~0u, 0xc013));
	set_gdt(m, TSS, descriptor(TSS_BASE, 0x67, 0x008b));
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0089));
	set_gdt(m, LDT, descriptor(LDT_BASE, 0xff, 0x0082));
	set_gdt(m, CODE3_CONFORMING, descriptor(0, ~0u, 0xc0ff));
	set_gdt(m, DATA3_16, descriptor(0x20000, 0xffff, 0x00f3));
}

/* ---- machines ---- */

/* Set: the next machines are made in this one, whose upper memory keeps its contents. */
static struct machine *machine_reused;

static inline struct machine *machine_new(void)
{
	struct machine *m = machine_reused;

	if (m)
		memset(m, 0, offsetof(struct machine, memory) + HANDLER);
	else
		m = calloc(1, sizeof(*m));
	assert_non_null(m);
	x86_cpu_reset(&m->cpu, true);
	m->sys = (struct x86_system){ .cpu = &m->cpu, .ops = &machine_ops, .ctx = m };
	m->sys.features = (struct x86_system_features){
		.cr4_valid = 0x370fffu,
		.xcr0_valid = 0xe7,
		.efer_valid = X86_EFER_SCE | X86_EFER_LME | X86_EFER_NXE,
		.maxphyaddr = 40,
	};
	m->bad_page = m->readonly_page = NO_PAGE;
	return m;
}

static inline int machine_teardown(void **state)
{
	free(*state);
	return 0;
}

/* Real mode, with CS:IP = 0:1000, SS:SP = 0:8000. */
static inline int machine_real(void **state)
{
	struct machine *m = machine_new();

	m->cpu.seg[X86_CS] = (struct x86_segment){ .selector = 0, .attr = 0x9b, .limit = 0xffff };
	m->cpu.idt.limit = 0x3ff;
	m->cpu.rip = 0x1000;
	m->cpu.gpr[X86_RSP] = STACK0;
	*state = m;
	return 0;
}

static inline struct machine *machine_protected_at(unsigned cpl)
{
	struct machine *m = machine_new();

	fill_gdt(m);
	m->cpu.gdt = (struct x86_table){ .base = GDT_BASE, .limit = GDT_LIMIT };
	m->cpu.idt = (struct x86_table){ .base = IDT_BASE, .limit = 0x7ff };
	m->cpu.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
	load_cache(m, X86_TR, TSS);
	poke(m, TSS_BASE + 4, 4, STACK0);
	poke(m, TSS_BASE + 8, 4, DATA0);
	poke(m, TSS_BASE + 12, 4, STACK1);
	poke(m, TSS_BASE + 16, 4, DATA1 | 1);
	load_cache(m, X86_CS, cpl ? CODE3 | 3 : CODE0);
	load_cache(m, X86_SS, cpl ? DATA3 | 3 : DATA0);
	load_cache(m, X86_DS, cpl ? DATA3 | 3 : DATA0);
	load_cache(m, X86_ES, cpl ? DATA3 | 3 : DATA0);
	m->cpu.seg[X86_FS] = m->cpu.seg[X86_GS] = (struct x86_segment){ .attr = 0 };
	m->cpu.seg[X86_LDTR] = (struct x86_segment){ .attr = 0 };
	m->cpu.rip = 0x7000;
	m->cpu.gpr[X86_RSP] = cpl ? STACK3 : STACK0 - 0x100;
	return m;
}

/* 32-bit protected mode without paging, CPL 0 or 3. */
static inline int machine_protected(void **state)
{
	*state = machine_protected_at(0);
	return 0;
}

static inline int machine_protected_user(void **state)
{
	*state = machine_protected_at(3);
	return 0;
}

/* Virtual-8086 mode, CS:IP = 1000:0100, SS:SP = 2000:8000, the IVT at 0. */
static inline int machine_v86(void **state)
{
	struct machine *m = machine_protected_at(0);
	static const uint16_t selectors[6] = { 0x3000, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000 };

	for (unsigned i = 0; i < 6; i++)
		m->cpu.seg[i] = (struct x86_segment){ .selector = selectors[i],
						      .attr = 0xf3,
						      .limit = 0xffff,
						      .base = selectors[i] * 16u };
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF;
	m->cpu.rip = 0x100;
	m->cpu.gpr[X86_RSP] = 0x8000;
	/* I/O map behind the TSS: 32 bytes of redirection bitmap, then the ports. */
	set_gdt(m, TSS, descriptor(TSS_BASE, 0x187, 0x008b));
	load_cache(m, X86_TR, TSS);
	poke(m, TSS_BASE + 0x66, 2, 0x88);
	*state = m;
	return 0;
}

static inline struct machine *machine_long_at(unsigned cpl)
{
	struct machine *m = machine_protected_at(cpl);

	m->cpu.cr0 |= X86_CR0_PG | X86_CR0_WP;
	m->cpu.cr4 = X86_CR4_PAE;
	m->cpu.efer = X86_EFER_LMA | X86_EFER_LME | X86_EFER_SCE | X86_EFER_NXE;
	m->cpu.idt.limit = 0xfff;
	load_cache(m, X86_CS, cpl ? CODE64_3 | 3 : CODE64);
	m->cpu.seg[X86_CS].base = 0;
	memset(m->memory + TSS_BASE, 0, 0x68);
	poke(m, TSS_BASE + 4, 8, KERNEL_BASE + STACK0);
	poke(m, TSS_BASE + 12, 8, KERNEL_BASE + STACK1);
	poke(m, TSS_BASE + 36, 8, KERNEL_BASE + 0xb000); /* IST1 */
	return m;
}

/* 64-bit mode, CPL 0 or 3. */
static inline int machine_long(void **state)
{
	*state = machine_long_at(0);
	return 0;
}

static inline int machine_long_user(void **state)
{
	*state = machine_long_at(3);
	return 0;
}

/* ---- assertions ---- */

#define assert_ok(m, call) assert_int_equal((call), 0)

#define assert_fault(m, call, vector_, error_)                                                     \
	do {                                                                                       \
		memset(&(m)->fault, 0xff, sizeof((m)->fault));                                     \
		assert_int_equal((call), -1);                                                      \
		assert_int_equal((m)->fault.vector, (vector_));                                    \
		assert_true((m)->fault.has_error);                                                 \
		assert_int_equal((m)->fault.error, (error_));                                      \
	} while (0)

#define assert_ud(m, call)                                                                         \
	do {                                                                                       \
		memset(&(m)->fault, 0xff, sizeof((m)->fault));                                     \
		assert_int_equal((call), -1);                                                      \
		assert_int_equal((m)->fault.vector, X86_UD);                                       \
		assert_false((m)->fault.has_error);                                                \
	} while (0)

/* As assert_fault, and nothing of the CPU state changed. */
#define assert_fault_unchanged(m, call, vector_, error_)                                           \
	do {                                                                                       \
		struct x86_cpu_state before_ = (m)->cpu;                                           \
		assert_fault(m, call, vector_, error_);                                            \
		assert_memory_equal(&before_, &(m)->cpu, offsetof(struct x86_cpu_state, xsave));   \
	} while (0)

#endif
