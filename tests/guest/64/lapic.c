/* SPDX-License-Identifier: MIT */
/* Local APIC (SDM vol. 3, 11): timer modes, priorities, EOI, self IPIs, IOAPIC routing, x2APIC. */
#include "lib.h"

static volatile unsigned hits[256];
static volatile unsigned last[16], last_count;
static bool x2;

static uint64_t reg_read(unsigned reg)
{
	return x2 ? rdmsr(0x800 + reg / 16) : apic_read(reg);
}
static void reg_write(unsigned reg, uint64_t v)
{
	if (x2)
		wrmsr(0x800 + reg / 16, v);
	else
		apic_write(reg, v);
}

static void handler(struct frame *f)
{
	hits[f->vector]++;
	if (last_count < 16)
		last[last_count++] = f->vector;
	reg_write(APIC_EOI, 0);
}
static void handler_spurious(struct frame *f)
{
	hits[f->vector]++;
}

static void spin(unsigned us)
{
	uint64_t end = rdtsc() + tsc_per_ms() * us / 1000;

	while (rdtsc() < end)
		pause_cpu();
}

static void window(void) /* let pending interrupts in */
{
	asm volatile("sti; nop; nop; cli" ::: "memory");
}

static void self_ipi(unsigned vector)
{
	if (x2)
		wrmsr(0x83f, vector);
	else
		apic_ipi(0, 0x40000 | vector);
}

static void priorities(void)
{
	/* two pending: the higher first */
	last_count = 0;
	self_ipi(0x51);
	self_ipi(0x61);
	self_ipi(0x41);
	CHECK("irr", x2 || (apic_bit(APIC_IRR, 0x51) && apic_bit(APIC_IRR, 0x61) && apic_bit(APIC_IRR, 0x41)));
	for (unsigned i = 0; i < 4; i++)
		window();
	CHECK_EQ("delivered", last_count, 3);
	CHECK_EQ("order-1", last[0], 0x61);
	CHECK_EQ("order-2", last[1], 0x51);
	CHECK_EQ("order-3", last[2], 0x41);
	/* TPR by CR8 and by MMIO */
	hits[0x51] = hits[0x61] = 0;
	write_cr8(5);
	self_ipi(0x51);
	self_ipi(0x61);
	for (unsigned i = 0; i < 3; i++)
		window();
	CHECK_EQ("tpr-blocks", hits[0x51], 0);
	CHECK_EQ("tpr-passes-higher", hits[0x61], 1);
	CHECK_EQ("ppr", reg_read(APIC_PPR) & 0xf0, 0x50);
	write_cr8(0);
	window();
	window();
	CHECK_EQ("tpr-lowered", hits[0x51], 1);
	/* sending one that is already pending merges */
	hits[0x51] = 0;
	self_ipi(0x51);
	self_ipi(0x51);
	for (unsigned i = 0; i < 3; i++)
		window();
	CHECK_EQ("merged", hits[0x51], 1);
}

static volatile unsigned inner_hits, inner_isr;
static void no_eoi_handler(struct frame *f)
{
	hits[f->vector]++;
	inner_isr = x2 ? rdmsr(0x810 + 0x71 / 32) >> (0x71 % 32) & 1 : apic_bit(APIC_ISR, 0x71);
	/* lower or equal priority class is held while in service; higher nests */
	self_ipi(0x72);
	self_ipi(0x81);
	asm volatile("sti; nop; nop; nop; cli" ::: "memory");
	inner_hits = hits[0x72] | hits[0x81] << 8;
	reg_write(APIC_EOI, 0);
}

static void in_service(void)
{
	set_handler(0x71, no_eoi_handler);
	hits[0x71] = hits[0x72] = hits[0x81] = 0;
	self_ipi(0x71);
	for (unsigned i = 0; i < 3; i++)
		window();
	CHECK_EQ("isr", inner_isr, 1);
	CHECK_EQ("nested-higher-only", inner_hits, 0x100);
	CHECK_EQ("held-after-eoi", hits[0x72], 1);
	set_handler(0x71, handler);
}

static void timer(void)
{
	uint64_t t0, ticks;

	hits[0x90] = 0;

	/* how fast: count down from the top for 10 ms */
	reg_write(APIC_TIMER_DCR, 0xb); /* by 1 */
	reg_write(APIC_LVT_TIMER, 0x10000 | 0x90);
	reg_write(APIC_TIMER_ICT, 0xffffffff);
	spin(10000);
	ticks = 0xffffffffu - (uint32_t)reg_read(APIC_TIMER_CCT);
	CHECK("timer-counts", ticks > 1000);
	/* masked: no interrupt */
	reg_write(APIC_TIMER_ICT, ticks / 10);
	/* The host may have kept us from running while ticks was measured: wait longer than 1 ms if need be. */
	for (unsigned i = 0; i < 1000 && reg_read(APIC_TIMER_CCT); i++)
		spin(1000);
	window();
	CHECK_EQ("timer-masked", hits[0x90], 0);
	CHECK_EQ("timer-stops-at-0", reg_read(APIC_TIMER_CCT), 0);
	/* one-shot: 1 ms */
	reg_write(APIC_LVT_TIMER, 0x90);
	t0 = rdtsc();
	reg_write(APIC_TIMER_ICT, ticks / 10);
	sti();
	while (!hits[0x90] && rdtsc() - t0 < tsc_per_ms() * 1000)
		pause_cpu();
	CHECK_EQ("one-shot", hits[0x90], 1);
	CHECK("one-shot-not-early", rdtsc() - t0 >= tsc_per_ms() * 8 / 10);
	spin(5000);
	CHECK_EQ("one-shot-once", hits[0x90], 1);
	/* a count of 0 stops it */
	hits[0x90] = 0;
	reg_write(APIC_TIMER_ICT, ticks / 10);
	reg_write(APIC_TIMER_ICT, 0);
	spin(3000);
	CHECK_EQ("stopped", hits[0x90], 0);
	/* periodic, 1 ms, for 30 ms */
	reg_write(APIC_LVT_TIMER, 0x20090);
	reg_write(APIC_TIMER_ICT, ticks / 10);
	t0 = rdtsc();
	while (hits[0x90] < 20 && rdtsc() - t0 < tsc_per_ms() * 1000)
		asm volatile("pause");
	CHECK("periodic", hits[0x90] >= 20);
	CHECK("periodic-rate", rdtsc() - t0 >= tsc_per_ms() * 12);
	CHECK("periodic-reloads", reg_read(APIC_TIMER_CCT) <= ticks / 10);
	reg_write(APIC_LVT_TIMER, 0x10090);
	/* periodic while halted */
	hits[0x90] = 0;
	reg_write(APIC_LVT_TIMER, 0x20090);
	reg_write(APIC_TIMER_ICT, ticks / 10);
	for (unsigned i = 0; i < 5; i++)
		asm volatile("sti; hlt" ::: "memory");
	CHECK("periodic-wakes-hlt", hits[0x90] >= 4);
	reg_write(APIC_TIMER_ICT, 0);
	cli();
	window();
	/* divide by 16 counts 16 times slower */
	reg_write(APIC_LVT_TIMER, 0x10090);
	for (unsigned tries = 0; tries < 20; tries++) { /* a busy host disturbs the measurement */
		reg_write(APIC_TIMER_DCR, 0xb);
		reg_write(APIC_TIMER_ICT, 0xffffffff);
		spin(5000);
		ticks = 0xffffffffu - (uint32_t)reg_read(APIC_TIMER_CCT);
		reg_write(APIC_TIMER_DCR, 3);
		reg_write(APIC_TIMER_ICT, 0xffffffff);
		spin(5000);
		t0 = 0xffffffffu - (uint32_t)reg_read(APIC_TIMER_CCT);
		if (t0 * 16 > ticks / 2 && t0 * 16 < ticks * 2)
			break;
	}
	CHECK("divider", t0 * 16 > ticks / 2 && t0 * 16 < ticks * 2);
	reg_write(APIC_TIMER_ICT, 0);
}

static void deadline(void)
{
	uint64_t t0;

	if (!HAS_TSC_DEADLINE) {
		SKIP("tsc-deadline", "not in CPUID");
		return;
	}
	hits[0x90] = 0;
	reg_write(APIC_LVT_TIMER, 0x40090);
	asm volatile("mfence");
	t0 = rdtsc();
	wrmsr(MSR_TSC_DEADLINE, t0 + tsc_per_ms() * 2);
	CHECK("deadline-reads-back", rdmsr(MSR_TSC_DEADLINE) == t0 + tsc_per_ms() * 2);
	sti();
	while (!hits[0x90] && rdtsc() - t0 < tsc_per_ms() * 1000)
		pause_cpu();
	CHECK_EQ("deadline", hits[0x90], 1);
	CHECK("deadline-not-early", rdtsc() - t0 >= tsc_per_ms() * 2);
	CHECK_EQ("deadline-cleared", rdmsr(MSR_TSC_DEADLINE), 0);
	/* in the past: at once */
	hits[0x90] = 0;
	t0 = rdtsc();
	wrmsr(MSR_TSC_DEADLINE, t0 - 1000);
	while (!hits[0x90] && rdtsc() - t0 < tsc_per_ms() * 100)
		pause_cpu();
	CHECK_EQ("deadline-past", hits[0x90], 1);
	/* 0 disarms; and wakes from HLT */
	hits[0x90] = 0;
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + tsc_per_ms());
	wrmsr(MSR_TSC_DEADLINE, 0);
	spin(3000);
	CHECK_EQ("deadline-disarmed", hits[0x90], 0);
	cli();
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + tsc_per_ms() * 3);
	asm volatile("sti; hlt; cli" ::: "memory");
	CHECK_EQ("deadline-wakes-hlt", hits[0x90], 1);
	/* the initial count register is ignored in deadline mode; the MSR in other modes */
	reg_write(APIC_TIMER_ICT, 1000);
	CHECK_EQ("ict-in-deadline-mode", reg_read(APIC_TIMER_CCT), 0);
	reg_write(APIC_LVT_TIMER, 0x10090);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
	CHECK_EQ("deadline-in-one-shot-mode", rdmsr(MSR_TSC_DEADLINE), 0);
}

static void registers(void)
{
	CHECK_EQ("version", apic_read(APIC_VERSION) & 0xf0, 0x10);
	CHECK("max-lvt", (apic_read(APIC_VERSION) >> 16 & 0xff) >= 3);
	CHECK_EQ("cpuid-apic-id", apic_read(APIC_ID) >> 24, cpuid(1, 0).b >> 24);
	CHECK("apic-base", (rdmsr(MSR_APIC_BASE) & 0xfffff900) == 0xfee00900);
	/* sending a vector below 16 is an error */
	set_handler(5, handler);
	apic_write(APIC_ESR, 0);
	apic_ipi(0, 0x40005);
	apic_write(APIC_ESR, 0);
	window();
	CHECK_EQ("illegal-vector-not-delivered", hits[5], 0);
	CHECK_EQ("esr-send-illegal-vector", apic_read(APIC_ESR) & 0x20, 0x20);
	apic_write(APIC_ESR, 0);
	apic_write(APIC_ESR, 0);
	CHECK_EQ("esr-cleared", apic_read(APIC_ESR), 0);
	/* software disable masks the LVTs and they stay masked */
	apic_write(APIC_LVT_TIMER, 0x90);
	apic_write(APIC_SVR, 0xff);
	CHECK_EQ("disabled-lvt-masked", apic_read(APIC_LVT_TIMER) & 0x10000, 0x10000);
	apic_write(APIC_LVT_TIMER, 0x90);
	CHECK_EQ("disabled-lvt-stays-masked", apic_read(APIC_LVT_TIMER) & 0x10000, 0x10000);
	apic_enable();
	/* logical destination, flat model */
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 0x04000000);
	hits[0x55] = 0;
	apic_ipi(0x04, 0x0855);
	window();
	CHECK_EQ("logical-flat", hits[0x55], 1);
	apic_ipi(0x08, 0x0855);
	window();
	CHECK_EQ("logical-flat-other", hits[0x55], 1);
	apic_ipi(0x0c, 0x0955); /* lowest priority */
	window();
	CHECK_EQ("lowest-priority", hits[0x55], 2);
	apic_ipi(0xff, 0x0055); /* physical broadcast */
	window();
	CHECK_EQ("physical-broadcast", hits[0x55], 3);
	apic_ipi(0, 0x80055); /* all including self */
	window();
	CHECK_EQ("all-including-self", hits[0x55], 4);
	apic_ipi(0, 0xc0055); /* all excluding self */
	window();
	CHECK_EQ("all-excluding-self", hits[0x55], 4);
}

static void ioapic(void)
{
	unsigned cause, pins = (ioapic_read(1) >> 16 & 0xff) + 1;
	uint64_t t0;

	CHECK("ioapic-pins", pins >= 24);
	for (unsigned i = 0; i < pins; i++)
		ioapic_write(0x10 + 2 * i, 0x10000);
	/* PIT: ISA IRQ 0 is on pin 2 by the usual override, or on pin 0 */
	outb(0x21, 0xff);
	hits[0xa2] = 0;
	ioapic_write(0x11 + 4, apic_read(APIC_ID));
	ioapic_write(0x10 + 4, 0xa2);
	ioapic_write(0x11, apic_read(APIC_ID));
	ioapic_write(0x10, 0xa0);
	CHECK_EQ("ioapic-reads-back", ioapic_read(0x10 + 4) & 0xffff, 0xa2);
	pit_set(0, 2, 1193);
	t0 = rdtsc();
	sti();
	while (hits[0xa2] + hits[0xa0] < 5 && rdtsc() - t0 < tsc_per_ms() * 500)
		pause_cpu();
	cli();
	CHECK("ioapic-pit", hits[0xa2] + hits[0xa0] >= 5);
	ioapic_write(0x10 + 4, 0x10000 | 0xa2);
	ioapic_write(0x10, 0x10000 | 0xa0);
	window();
	window();
	hits[0xa2] = hits[0xa0] = 0;
	sti();
	spin(5000);
	cli();
	CHECK_EQ("ioapic-masked", hits[0xa2] + hits[0xa0], 0);
	pit_set(0, 0, 0);
	/* serial port's line: IRQ 4, edge; transmitter-empty interrupt */
	ioapic_write(0x11 + 8, apic_read(APIC_ID));
	ioapic_write(0x10 + 8, 0xa4);
	hits[0xa4] = 0;
	outb(0x3fc, inb(0x3fc) | 8); /* OUT2 */
	t0 = rdtsc();
	while (!(inb(0x3fd) & 0x40) && rdtsc() - t0 < tsc_per_ms() * 100)
		;
	outb(0x3f9, 2);
	sti();
	spin(3000);
	cli();
	cause = inb(0x3fa) & 0xf;
	outb(0x3f9, 0);
	ioapic_write(0x10 + 8, 0x10000);
	window();
	window();
	CHECK("ioapic-serial", hits[0xa4] >= 1);
	CHECK_EQ("serial-iir", cause, 2);
}

static void x2apic(void)
{
	uint64_t base = rdmsr(MSR_APIC_BASE);

	if (!HAS_X2APIC) {
		SKIP("x2apic", "not in CPUID");
		return;
	}
	CHECK_EQ("x2apic-msr-in-xapic", VECTOR_OF("rdmsr", : : "c"(0x802) : "rax", "rdx", "memory"), GP);
	wrmsr(MSR_APIC_BASE, base | 0x400);
	x2 = true;
	CHECK_EQ("x2apic-on", rdmsr(MSR_APIC_BASE) & 0xc00, 0xc00);
	CHECK_EQ("x2apic-id", rdmsr(0x802), cpuid(0xb, 0).d);
	CHECK_EQ("x2apic-ldr", rdmsr(0x80d), 1); /* APIC ID 0: cluster 0, bit 0 */
	CHECK_EQ("x2apic-icr2-gone", VECTOR_OF("rdmsr", : : "c"(0x831) : "rax", "rdx", "memory"), GP);
	CHECK_EQ("x2apic-reserved-register", VECTOR_OF("rdmsr", : : "c"(0x804) : "rax", "rdx", "memory"), GP);
	CHECK_EQ("x2apic-dfr-gone", VECTOR_OF("rdmsr", : : "c"(0x80e) : "rax", "rdx", "memory"), GP);
	CHECK_EQ("x2apic-id-read-only", VECTOR_OF("wrmsr", : : "c"(0x802), "a"(0), "d"(0) : "memory"), GP);
	CHECK_EQ("x2apic-eoi-nonzero", VECTOR_OF("wrmsr", : : "c"(0x80b), "a"(1), "d"(0) : "memory"), GP);
	CHECK_EQ("x2apic-self-ipi-read", VECTOR_OF("rdmsr", : : "c"(0x83f) : "rax", "rdx", "memory"), GP);
	CHECK_EQ("x2apic-svr-reserved", VECTOR_OF("wrmsr", : : "c"(0x80f), "a"(0x1ff), "d"(1) : "memory"), GP);
	CHECK_EQ("x2-to-xapic", VECTOR_OF("wrmsr", : : "c"(MSR_APIC_BASE), "a"((uint32_t)base), "d"(0) : "memory"), GP);
	priorities();
	in_service();
	timer();
	deadline();
	hits[0x56] = 0;
	wrmsr(0x830, 0x00056); /* physical, to x2APIC ID 0 */
	window();
	CHECK_EQ("x2apic-ipi", hits[0x56], 1);
	wrmsr(0x830, 1ull << 32 | 0x00856); /* logical, cluster 0 bit 0 */
	window();
	CHECK_EQ("x2apic-logical", hits[0x56], 2);
	wrmsr(0x830, 0xffffffffull << 32 | 0x00056);
	window();
	CHECK_EQ("x2apic-broadcast", hits[0x56], 3);
	/* off, then xAPIC again */
	wrmsr(MSR_APIC_BASE, base & ~0xc00ull);
	CHECK_EQ("cpuid-apic-off", cpuid(1, 0).d >> 9 & 1, 0);
	wrmsr(MSR_APIC_BASE, base & ~0x400ull);
	x2 = false;
	CHECK_EQ("cpuid-apic-on", cpuid(1, 0).d >> 9 & 1, 1);
	apic_enable();
	hits[0x57] = 0;
	apic_ipi(0, 0x40057);
	window();
	CHECK_EQ("xapic-again", hits[0x57], 1);
}

void test_main(void)
{
	tsc_per_ms();
	for (unsigned v = 0x20; v < 0xff; v++)
		set_handler(v, handler);
	set_handler(0xff, handler_spurious);
	apic_enable();
	registers();
	priorities();
	in_service();
	timer();
	deadline();
	ioapic();
	x2apic();
}
