/* SPDX-License-Identifier: MIT */
/*
 * All 64 CPUs come up, count, and answer an IPI each.
 * run: cpus=64 timeout=60 memory=128M
 */
#include "lib.h"

static volatile unsigned counted, answered, go;
static volatile uint8_t seen[64];

static void answer(struct frame *f)
{
	atomic_inc(&answered);
	apic_write(APIC_EOI, 0);
}

static void ap(unsigned cpu)
{
	seen[cpuid(1, 0).b >> 24 & 63]++;
	for (unsigned i = 0; i < 100; i++)
		atomic_inc(&counted);
	asm volatile("sti; hlt; cli" ::: "memory");
}

void test_main(void)
{
	unsigned n = cpu_count(), once = 0;

	tsc_per_ms();
	set_handler(0xf0, answer);
	CHECK_EQ("count", n, 64);
	CHECK_EQ("started", start_aps(ap), n - 1);
	CHECK("counted", wait_until(&counted, 100 * (n - 1), 10000));
	for (unsigned i = 1; i < n; i++)
		once += seen[i] == 1;
	CHECK_EQ("apic-ids-differ", once, n - 1);
	delay_us(50000);
	apic_ipi(0, 0xc00f0);
	CHECK("all-answer", wait_until(&answered, n - 1, 10000));
	CHECK("all-done", wait_until(&aps_done, n - 1, 10000));
}
