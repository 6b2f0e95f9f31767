/* SPDX-License-Identifier: MIT */
/* RDTSC, RDTSCP, RDPID, TSC MSR, TSC_ADJUST, PM timer, RTC (SDM vol. 3, 17.17). */
#include "lib.h"

void test_main(void)
{
	uint64_t a, b, back = 0;
	uint8_t *fadt;

	a = rdtsc();
	for (unsigned i = 0; i < 20000; i++) {
		b = rdtsc();
		back += b < a;
		a = b;
	}
	CHECK_EQ("monotonic", back, 0);
	a = rdtsc();
	b = rdmsr(MSR_TSC);
	CHECK("msr-follows", b >= a && b - a < tsc_per_ms() * 1000);
	if (has_cpuid(0x80000001, 'd', 27)) {
		uint32_t lo, hi, aux;

		wrmsr(MSR_TSC_AUX, 0x1234567);
		asm volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		CHECK_EQ("rdtscp-aux", aux, 0x1234567);
		CHECK("rdtscp", (lo | (uint64_t)hi << 32) >= b);
		if (!is_amd()) /* AMD's processors drop the upper half */
			CHECK_EQ("tsc-aux-high", VECTOR_OF("wrmsr", : : "c"(MSR_TSC_AUX), "a"(0), "d"(1)), GP);
		if (has_cpuid(7, 'c', 22)) {
			uint64_t v;
			asm volatile("rdpid %0" : "=r"(v));
			CHECK_EQ("rdpid", v, 0x1234567);
		}
	} else {
		SKIP("rdtscp", "not in CPUID");
	}
	if (has_cpuid(7, 'b', 1)) {
		uint64_t adj = rdmsr(MSR_TSC_ADJUST);

		a = rdtsc();
		wrmsr(MSR_TSC_ADJUST, adj + (1ull << 40));
		b = rdtsc();
		CHECK("adjust-moves-tsc", b - a >= 1ull << 40 && b - a < (1ull << 40) + tsc_per_ms() * 1000);
		wrmsr(MSR_TSC_ADJUST, adj);
		a = rdtsc();
		CHECK("adjust-back", a < b);
		/* writing the TSC moves TSC_ADJUST by the same amount */
		wrmsr(MSR_TSC, a + (1ull << 41));
		b = rdmsr(MSR_TSC_ADJUST) - adj;
		CHECK("tsc-write-moves-adjust", b > (1ull << 41) - tsc_per_ms() * 1000 && b <= 1ull << 41);
		wrmsr(MSR_TSC_ADJUST, adj);
	} else {
		SKIP("tsc-adjust", "not in CPUID");
	}
	wrmsr(MSR_TSC, 0x100000000000);
	CHECK("tsc-write", rdtsc() - 0x100000000000 < tsc_per_ms() * 1000);
	/* ACPI PM timer: 3.579545 MHz, from the FADT */
	fadt = acpi_table("FACP");
	if (fadt && *(uint32_t *)(fadt + 76)) {
		uint16_t port = *(uint32_t *)(fadt + 76);
		uint32_t p0 = inl(port), d;

		delay_us(20000);
		d = (inl(port) - p0) & 0xffffff;
		CHECK("pm-timer-rate", d > 71590 * 8 / 10 && d < 71590 * 4);
	} else {
		SKIP("pm-timer", "no FADT or no PM timer in it");
	}
	/* RTC: valid BCD or binary time, the seconds tick over within 1.2 s is too slow to wait for: registers only */
	{
		unsigned h;

		outb(0x70, 0x0d);
		CHECK_EQ("rtc-valid", inb(0x71) & 0x80, 0x80);
		outb(0x70, 4);
		h = inb(0x71);
		outb(0x70, 0x0b);
		if (!(inb(0x71) & 4))
			h = (h >> 4) * 10 + (h & 15);
		CHECK("rtc-hour", h < 24);
		outb(0x70, 0x0e);
		outb(0x71, 0x5a);
		outb(0x70, 0x0e);
		CHECK_EQ("cmos-ram", inb(0x71), 0x5a);
	}
}
