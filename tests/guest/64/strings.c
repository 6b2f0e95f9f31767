/* SPDX-License-Identifier: MIT */
/* REP string instructions that fault or are interrupted midway, and pushes, pops and calls at page ends: register state exact. */
#include "lib.h"

#define VA (TEST_VA + 0x100000) /* nothing is mapped just below */
static struct ctx c;
static uint8_t *pages[2];

static void kernel_code(const char *bytes, unsigned n)
{
	memcpy((void *)(VA + 0x10000), bytes, n);
	memcpy((void *)(VA + 0x10000 + n), "\xcd\x80", 2);
	c = user_ctx(VA + 0x10000, VA + 0x13000);
}

static void faulting(void)
{
	/* page 0 mapped, page 1 not; 8-byte aligned: stops exactly at the boundary */
	kernel_code("\xf3\x48\xab", 3); /* rep stosq */
	c.r[RDI] = VA + 4096 - 64;
	c.r[RCX] = 20;
	c.r[RAX] = 0x0101010101010101;
	CHECK_EQ("stosq-vector", run(&c), PF);
	CHECK_EQ("stosq-ip", c.ip, VA + 0x10000);
	CHECK_EQ("stosq-rdi", c.r[RDI], VA + 4096);
	CHECK_EQ("stosq-rcx", c.r[RCX], 12);
	CHECK_EQ("stosq-cr2", c.cr2, VA + 4096);
	CHECK_EQ("stosq-error", c.error, 6);
	CHECK_EQ("stosq-rf", c.flags & FL_RF, FL_RF);
	CHECK_EQ("stosq-written", pages[0][4095], 1);
	/* resumed after the page is mapped, it completes */
	map_page(VA + 4096, (uint64_t)pages[1], PTE_P | PTE_W | PTE_U);
	CHECK_EQ("stosq-resumed", run(&c), 0x80);
	CHECK_EQ("stosq-resumed-rcx", c.r[RCX], 0);
	CHECK_EQ("stosq-resumed-rdi", c.r[RDI], VA + 4096 + 96);
	*page_entry(VA + 4096, 1) = 0;
	invlpg((void *)(VA + 4096));
	/* an element across the boundary: nothing of it is written */
	kernel_code("\xf3\x48\xab", 3);
	c.r[RDI] = VA + 4096 - 20;
	c.r[RCX] = 5;
	c.r[RAX] = 0x7777777777777777;
	CHECK_EQ("stosq-cross", run(&c), PF);
	CHECK_EQ("stosq-cross-rdi", c.r[RDI], VA + 4096 - 4);
	CHECK_EQ("stosq-cross-rcx", c.r[RCX], 3);
	CHECK_EQ("stosq-cross-cr2", c.cr2, VA + 4096);
	CHECK_EQ("stosq-cross-untouched", pages[0][4092], 1);
	/* movs: source faults before the destination is touched */
	kernel_code("\xf3\xa4", 2);
	c.r[RSI] = VA + 4096 - 10;
	c.r[RDI] = VA + 100;
	c.r[RCX] = 30;
	CHECK_EQ("movsb-source", run(&c), PF);
	CHECK_EQ("movsb-source-error", c.error, 4);
	CHECK_EQ("movsb-source-rsi", c.r[RSI], VA + 4096);
	CHECK_EQ("movsb-source-rdi", c.r[RDI], VA + 110);
	CHECK_EQ("movsb-source-rcx", c.r[RCX], 20);
	kernel_code("\xf3\xa4", 2);
	c.r[RSI] = VA + 100;
	c.r[RDI] = VA + 4096 - 7;
	c.r[RCX] = 30;
	CHECK_EQ("movsb-destination", run(&c), PF);
	CHECK_EQ("movsb-destination-error", c.error, 6);
	CHECK_EQ("movsb-destination-rcx", c.r[RCX], 23);
	CHECK_EQ("movsb-destination-rsi", c.r[RSI], VA + 107);
	/* backwards */
	kernel_code("\xf3\x48\xa5", 3);
	c.flags |= FL_DF;
	c.r[RSI] = VA + 2048;
	c.r[RDI] = VA + 24;
	c.r[RCX] = 10;
	CHECK_EQ("movsq-down", run(&c), PF);
	CHECK_EQ("movsq-down-rcx", c.r[RCX], 6);
	CHECK_EQ("movsq-down-rdi", c.r[RDI], VA - 8);
	CHECK_EQ("movsq-down-rsi", c.r[RSI], VA + 2048 - 32);
	CHECK_EQ("movsq-down-cr2", c.cr2, VA - 8);
	/* scas and cmps: flags of the last whole iteration are kept */
	memset(pages[0], 0x55, 4096);
	kernel_code("\xf3\xae", 2); /* repe scasb */
	c.r[RAX] = 0x55;
	c.r[RDI] = VA + 4096 - 5;
	c.r[RCX] = 50;
	CHECK_EQ("scasb", run(&c), PF);
	CHECK_EQ("scasb-rcx", c.r[RCX], 45);
	CHECK_EQ("scasb-rdi", c.r[RDI], VA + 4096);
	pages[0][2000] = 0x66;
	kernel_code("\xf2\xae", 2); /* repne scasb */
	c.r[RAX] = 0x66;
	c.r[RDI] = VA + 1990;
	c.r[RCX] = 50;
	CHECK_EQ("repne-scasb", run(&c), 0x80);
	CHECK_EQ("repne-scasb-rcx", c.r[RCX], 39);
	CHECK_EQ("repne-scasb-zf", c.flags & FL_ZF, FL_ZF);
	kernel_code("\xf3\xa6", 2); /* repe cmpsb */
	c.r[RSI] = VA + 1995;
	c.r[RDI] = VA + 100;
	c.r[RCX] = 50;
	CHECK_EQ("repe-cmpsb", run(&c), 0x80);
	CHECK_EQ("repe-cmpsb-rcx", c.r[RCX], 44);
	CHECK_EQ("repe-cmpsb-zf", c.flags & (FL_ZF | FL_CF), 0);
	/* a count of zero touches neither memory nor flags */
	kernel_code("\xf3\xa6", 2);
	c.r[RSI] = c.r[RDI] = VA + 0x9000;
	c.flags |= FL_ZF | FL_CF;
	CHECK_EQ("count-zero", run(&c), 0x80);
	CHECK_EQ("count-zero-flags", c.flags & (FL_ZF | FL_CF), FL_ZF | FL_CF);
	/* 32-bit address size: ECX, ESI, EDI count, upper halves cleared only when something moved */
	kernel_code("\x67\xf3\xaa", 3);
	c.r[RDI] = VA + 16;
	c.r[RCX] = 0x500000003;
	CHECK_EQ("addr32", run(&c), 0x80);
	CHECK_EQ("addr32-rcx", c.r[RCX], 0);
	CHECK_EQ("addr32-rdi", c.r[RDI], VA + 19);
	/* loads: lods with rep */
	kernel_code("\xf3\xac", 2);
	c.r[RSI] = VA + 4090;
	c.r[RCX] = 10;
	CHECK_EQ("lodsb", run(&c), PF);
	CHECK_EQ("lodsb-rcx", c.r[RCX], 4);
	/* rep outs/ins: I/O permission first, then memory */
	kernel_code("\xf3\x6e", 2);
	c.flags |= FL_IOPL3;
	c.r[RSI] = VA + 4092;
	c.r[RDX] = 0x80;
	c.r[RCX] = 10;
	CHECK_EQ("outsb", run(&c), PF);
	CHECK_EQ("outsb-rcx", c.r[RCX], 6);
	kernel_code("\xf3\x6c", 2);
	c.flags |= FL_IOPL3;
	c.r[RDI] = VA + 4093;
	c.r[RDX] = 0x80;
	c.r[RCX] = 10;
	CHECK_EQ("insb", run(&c), PF);
	CHECK_EQ("insb-rcx", c.r[RCX], 7);
	kernel_code("\xf3\x6c", 2);
	c.r[RDI] = VA + 0x9000;
	c.r[RDX] = 0x80;
	c.r[RCX] = 1;
	CHECK_EQ("insb-no-permission", run(&c), GP);
}

static void stack(void)
{
	static const struct {
		const char *name, *code;
		unsigned size;
		uint64_t rsp, cr2;
		unsigned error;
	} t[] = {
		{ "push", "\x50", 1, VA, VA - 8, 6 },
		{ "push-imm", "\x6a\x01", 2, VA, VA - 8, 6 },
		{ "push-mem", "\xff\x33", 2, VA, VA - 8, 6 },
		{ "call", "\xe8\x00\x00\x00\x00", 5, VA, VA - 8, 6 },
		{ "call-rax", "\xff\xd0", 2, VA, VA - 8, 6 },
		{ "pushf", "\x9c", 1, VA, VA - 8, 6 },
		{ "push-cross", "\x50", 1, VA + 4, VA - 4, 6 },
		{ "pop", "\x58", 1, VA + 4096, VA + 4096, 4 },
		{ "pop-cross", "\x58", 1, VA + 4092, VA + 4096, 4 },
		{ "ret", "\xc3", 1, VA + 4096, VA + 4096, 4 },
		{ "ret-imm", "\xc2\x10\x00", 3, VA + 4096, VA + 4096, 4 },
		{ "popf", "\x9d", 1, VA + 4096, VA + 4096, 4 },
		{ "iretq", "\x48\xcf", 2, VA + 4096 - 16, VA + 4096, 4 },
		{ "enter", "\xc8\x20\x00\x00", 4, VA, VA - 8, 6 },
		{ "leave", "\xc9", 1, VA + 800, VA + 4096, 4 }, /* RBP = VA + 4096 */
		{ "pop-mem", "\x8f\x03", 2, VA + 64, VA + 0x9000, 6 }, /* RBX unmapped: RSP must not move */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		bool pop_mem = t[i].code[0] == '\x8f';

		kernel_code(t[i].code, t[i].size);
		c.r[RSP] = t[i].rsp;
		c.r[RBP] = VA + 4096;
		c.r[RBX] = pop_mem ? VA + 0x9000 : VA + 128;
		c.r[RAX] = VA + 0x10000;
		CHECK_EQ(t[i].name, run(&c), PF);
		if (c.ip != VA + 0x10000 || c.r[RSP] != t[i].rsp || c.r[RBP] != VA + 4096 || c.cr2 != t[i].cr2 || c.error != t[i].error) {
			print("FAIL %s-state: ip %lx rsp %lx (was %lx) rbp %lx cr2 %lx (should be %lx) error %lx\n", t[i].name, (ulong)c.ip,
			      (ulong)c.r[RSP], (ulong)t[i].rsp, (ulong)c.r[RBP], c.cr2, (ulong)t[i].cr2, c.error);
			test_failures++;
		}
	}
	/* pop rsp and push rsp */
	kernel_code("\x54\x58", 2); /* push %rsp; pop %rax: the old value */
	run(&c);
	CHECK_EQ("push-rsp", c.r[RAX], VA + 0x13000);
	kernel_code("\x6a\x77\x5c", 3); /* push $0x77; pop %rsp */
	c.r[RAX] = 1;
	run(&c);
	CHECK_EQ("pop-rsp", c.r[RSP], 0x77);
	/* pop (%rsp): address uses RSP after the increment */
	kernel_code("\x6a\x11\x6a\x22\x8f\x04\x24\x58", 8); /* push 11; push 22; pop (%rsp); pop %rax */
	run(&c);
	CHECK_EQ("pop-to-rsp-based", c.r[RAX], 0x22);
}

static volatile unsigned ticks;
static volatile uint64_t progress_errors, tick_ip;
static uint64_t start_rdi, start_rcx;
static void tick(struct frame *f)
{
	ticks++;
	tick_ip = f->ip;
	/* RCX and RDI move together */
	if (f->r[RCX] && f->r[RDI] - start_rdi != start_rcx - f->r[RCX])
		progress_errors++;
	apic_write(APIC_EOI, 0);
}

static void interrupted(void)
{
	uint8_t *big = (uint8_t *)0x2000000;
	uint64_t d = (uint64_t)big, n = 2 << 20;
	unsigned bad = 0;

	apic_enable();
	set_handler(0x90, tick);
	apic_write(APIC_TIMER_DCR, 0xb);
	apic_write(APIC_LVT_TIMER, 0x20090);
	apic_write(APIC_TIMER_ICT, 100000);
	for (unsigned round = 0; round < 8; round++) {
		d = start_rdi = (uint64_t)big;
		n = start_rcx = 2 << 20;
		asm volatile("sti; rep stosb; cli" : "+D"(d), "+c"(n) : "a"(round) : "memory");
		bad += d != (uint64_t)big + (2 << 20) || n;
		bad += big[0] != round || big[(2 << 20) - 1] != round || big[12345] != round;
	}
	apic_write(APIC_LVT_TIMER, 0x10090);
	CHECK_EQ("interrupted-rep-stos", bad, 0);
	CHECK_EQ("interrupted-progress", progress_errors, 0);
	print("# %u ticks while storing\n", ticks);
}

void test_main(void)
{
	map_user(VA + 0x10000, 3);
	pages[0] = alloc_pages(1);
	pages[1] = alloc_pages(1);
	map_page(VA, (uint64_t)pages[0], PTE_P | PTE_W | PTE_U);
	faulting();
	stack();
	interrupted();
}
