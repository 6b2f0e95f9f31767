/* SPDX-License-Identifier: MIT */
/* FPU and vector control (SDM vol. 3, 2.5, 13; vol. 1, 8, 13): TS/EM/MP, #NM, #MF, #XM, #UD, XSAVE and XCR0, legacy FERR. */
#include "lib.h"

static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t area2[4096] __attribute__((aligned(64)));

static void set_cr0_bits(uint64_t bits)
{
	write_cr0((read_cr0() & ~(CR0_TS | CR0_EM | CR0_MP)) | bits);
}

static void task_switched(void)
{
	static const uint8_t one[4] = { 0, 0, 0x80, 0x3f };

	set_cr0_bits(CR0_MP);
	asm volatile("fninit");
	CHECK_EQ("x87-ok", VECTOR_OF("fld1; fstp %%st(0)", : : : "memory"), NO_TRAP);
	set_cr0_bits(CR0_TS);
	CHECK_EQ("ts-x87", VECTOR_OF("fnop", :), NM);
	CHECK_EQ("ts-wait-mp-0", VECTOR_OF("fwait", :), NO_TRAP);
	set_cr0_bits(CR0_TS | CR0_MP);
	CHECK_EQ("ts-wait-mp-1", VECTOR_OF("fwait", :), NM);
	CHECK_EQ("ts-sse", VECTOR_OF("movups %0, %%xmm0", : : "m"(area)), NM);
	CHECK_EQ("ts-mmx", VECTOR_OF("movd %0, %%mm0", : : "r"(0)), NM);
	CHECK_EQ("ts-fxsave", VECTOR_OF("fxsave %0", : : "m"(area)), NM);
	CHECK_EQ("ts-ldmxcsr", VECTOR_OF("ldmxcsr %0", : : "m"(area)), NM);
	CHECK_EQ("ts-prefetch-is-fine", VECTOR_OF("prefetcht0 %0", : : "m"(area)), NO_TRAP);
	CHECK_EQ("ts-movnti-is-fine", VECTOR_OF("movnti %%rax, %0", : "=m"(area)), NO_TRAP);
	CHECK_EQ("ts-pause-sfence", VECTOR_OF("pause; sfence; lfence; mfence", : : : "memory"), NO_TRAP);
	asm volatile("clts");
	CHECK_EQ("clts-x87", VECTOR_OF("fnop", :), NO_TRAP);
	set_cr0_bits(CR0_EM);
	CHECK_EQ("em-x87", VECTOR_OF("fnop", :), NM);
	CHECK_EQ("em-mmx", VECTOR_OF("movd %0, %%mm0", : : "r"(0)), UD);
	CHECK_EQ("em-sse", VECTOR_OF("movups %0, %%xmm0", : : "m"(area)), UD);
	set_cr0_bits(CR0_MP);
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	CHECK_EQ("osfxsr-off-sse", VECTOR_OF("movups %0, %%xmm0", : : "m"(area)), UD);
	CHECK_EQ("osfxsr-off-mmx", VECTOR_OF("movd %0, %%mm0; emms", : : "r"(0)), NO_TRAP);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	CHECK_EQ("osfxsr-on-sse", VECTOR_OF("movups %0, %%xmm0", : : "m"(area)), NO_TRAP);
	(void)one;
}

static void x87_exceptions(void)
{
	uint16_t cw, sw;

	write_cr0(read_cr0() | CR0_NE);
	asm volatile("fninit; fnstcw %0; fnstsw %1" : "=m"(cw), "=m"(sw));
	CHECK_EQ("fninit-cw", cw, 0x37f);
	CHECK_EQ("fninit-sw", sw, 0);
	cw = 0x37b; /* unmask divide by zero */
	asm volatile("fldcw %0; fld1; fldz" : : "m"(cw));
	TRY("fdivrp", :);
	/* the error is reported by the next waiting instruction */
	CHECK_EQ("mf-not-yet", trap.vector, NO_TRAP);
	CHECK_EQ("mf-nonwaiting", VECTOR_OF("fnstsw %%ax", : : : "rax"), NO_TRAP);
	CHECK_EQ("mf-fwait", VECTOR_OF("fwait", :), MF);
	CHECK_EQ("mf-ip", trap.ip, trap.at);
	CHECK_EQ("mf-next-x87", VECTOR_OF("fld1", :), MF);
	CHECK_EQ("mf-mmx", VECTOR_OF("emms", :), MF);
	asm volatile("fnstsw %0" : "=m"(sw));
	CHECK_EQ("mf-status", sw & 0x8084, 0x8084); /* ES, B and ZE */
	asm volatile("fnclex");
	CHECK_EQ("mf-cleared", VECTOR_OF("fwait", :), NO_TRAP);
	asm volatile("fninit");
	/* unmasking an exception that is already flagged */
	asm volatile("fldz; fldz; fdivrp; fstp %st(0)");
	cw = 0x37e;
	asm volatile("fldcw %0" : : "m"(cw));
	CHECK_EQ("mf-after-unmask", VECTOR_OF("fwait", :), MF);
	asm volatile("fnclex; fninit");
	/* stack fault */
	asm volatile("fstp %st(0)");
	asm volatile("fnstsw %0" : "=m"(sw));
	CHECK_EQ("stack-underflow", sw & 0x41, 0x41);
	asm volatile("fninit");
}

/* Which x87 instructions report a pending error: all but the non-waiting ones (SDM vol. 1, 8.3.12). */
static void pending(void)
{
	static uint8_t image[512] __attribute__((aligned(64)));
	static const uint16_t unmasked = 0x37b;
	static uint8_t clean[108];
	uint16_t sw;

#define PENDING() asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(unmasked))
	asm volatile("fninit; fnsave %0; fninit" : "=m"(clean));
#define WAITS(insn)                                                                                \
	do {                                                                                       \
		PENDING();                                                                         \
		CHECK_EQ("mf-by-" insn, VECTOR_OF(insn " %0", : "+m"(clean) : : "memory"), MF);    \
		CHECK_EQ("mf-by-" insn "-ip", trap.ip, trap.at);                                   \
	} while (0)
	WAITS("fldenv");
	WAITS("frstor");
	WAITS("fldcw");
	WAITS("fldt");
	WAITS("flds");
	WAITS("fsts");
	WAITS("fstpt");
	WAITS("fistpl");
#define DOES_NOT_WAIT(insn)                                                                        \
	do {                                                                                       \
		PENDING();                                                                         \
		CHECK_EQ("no-mf-by-" insn, VECTOR_OF(insn " %0", : "=m"(image) : : "memory"), NO_TRAP); \
	} while (0)
	DOES_NOT_WAIT("fnstenv");
	CHECK_EQ("fnstenv-masks", VECTOR_OF("fwait", :), NO_TRAP);
	CHECK_EQ("fnstenv-status", *(uint16_t *)(image + 4) & 0x8084, 0x8084);
	CHECK_EQ("fnstenv-control", *(uint16_t *)image, unmasked);
	/* the error comes back with the environment */
	CHECK_EQ("fldenv-brings-error", VECTOR_OF("fldenv %0", : : "m"(image) : "memory"), NO_TRAP);
	CHECK_EQ("fldenv-error-reported", VECTOR_OF("fwait", :), MF);
	DOES_NOT_WAIT("fnsave");
	CHECK_EQ("fnsave-initializes", VECTOR_OF("fwait", :), NO_TRAP);
	CHECK_EQ("frstor-brings-error", VECTOR_OF("frstor %0", : : "m"(image) : "memory"), NO_TRAP);
	CHECK_EQ("frstor-error-reported", VECTOR_OF("fld1", :), MF);
	DOES_NOT_WAIT("fnstcw");
	DOES_NOT_WAIT("fnstsw");
	DOES_NOT_WAIT("fxsave");
	asm volatile("fninit");
	CHECK_EQ("fxrstor-brings-error", VECTOR_OF("fxrstor %0", : : "m"(image) : "memory"), NO_TRAP);
	CHECK_EQ("fxrstor-error-reported", VECTOR_OF("fwait", :), MF);
	/* traps, interrupts and system instructions in between must not trip over it */
	PENDING();
	CHECK_EQ("ud-with-error-pending", VECTOR_OF("ud2", :), UD);
	CHECK_EQ("cpuid-with-error-pending", VECTOR_OF("cpuid", : : "a"(0) : "rbx", "rcx", "rdx"), NO_TRAP);
	CHECK_EQ("io-with-error-pending", VECTOR_OF("outb %%al, $0x80", :), NO_TRAP);
	CHECK_EQ("sse-with-error-pending", VECTOR_OF("pxor %%xmm0, %%xmm0", :), NO_TRAP);
	asm volatile("fnstsw %0" : "=m"(sw));
	CHECK_EQ("error-still-pending", sw & 0x8084, 0x8084);
	asm volatile("fninit");
}

/* With CR0.NE = 0 the error goes out on FERR#: IRQ 13 through the PIC; a write to port 0xf0 clears the latch. */
static volatile unsigned irq13;
static void irq13_handler(struct frame *f)
{
	irq13++;
	outb(0xf0, 0);
	asm volatile("fnclex");
	pic_eoi(13);
}

static void ferr(void)
{
	uint16_t cw = 0x37b;

	pic_init(0xfb, 0xdf);
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT */
	set_handler(0x2d, irq13_handler);
	write_cr0(read_cr0() & ~CR0_NE);
	asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
	sti();
	trap.vector = NO_TRAP;
	TRY("fwait", :);
	for (unsigned i = 0; i < 1000 && !irq13; i++)
		inb(0x80);
	cli();
	write_cr0(read_cr0() | CR0_NE);
	asm volatile("fninit");
	if (irq13)
		CHECK_EQ("ferr-irq13", irq13, 1);
	else
		SKIP("ferr-irq13", "FERR# is not wired to IRQ 13 on this board");
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

static void simd_exceptions(void)
{
	uint32_t mxcsr = 0x1f80, v;
	static const float zero[4] __attribute__((aligned(16)));
	static const uint32_t ones[4] __attribute__((aligned(16))) = { 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000 };

	asm volatile("ldmxcsr %0; movaps %1, %%xmm0; divps %2, %%xmm0; stmxcsr %3" : : "m"(mxcsr), "m"(ones), "m"(zero), "m"(v) : "memory");
	CHECK_EQ("mxcsr-ze-masked", v & 0x3f, 4);
	mxcsr = 0x1d80;
	asm volatile("ldmxcsr %0; movaps %1, %%xmm0" : : "m"(mxcsr), "m"(ones));
	CHECK_EQ("xm", VECTOR_OF("divps %0, %%xmm0", : : "m"(zero)), XM);
	CHECK_EQ("xm-ip", trap.ip, trap.at);
	asm volatile("stmxcsr %0" : "=m"(v));
	CHECK_EQ("xm-mxcsr", v, 0x1d84);
	asm volatile("movups %%xmm0, %0" : "=m"(area));
	CHECK("xm-destination-unchanged", !memcmp(area, ones, 16));
	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	CHECK_EQ("xm-without-osxmmexcpt", VECTOR_OF("divps %0, %%xmm0", : : "m"(zero)), UD);
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	v = 0x10000;
	CHECK_EQ("ldmxcsr-reserved", VECTOR_OF("ldmxcsr %0", : : "m"(v)), GP);
	mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	CHECK_EQ("movaps-unaligned", VECTOR_OF("movaps %0, %%xmm0", : : "m"(area[1])), GP);
	CHECK_EQ("fxsave-unaligned", VECTOR_OF("fxsave %0", : "=m"(area[8])), GP);
	/* fxsave / fxrstor */
	memset(area, 0xcc, 512);
	asm volatile("movaps %1, %%xmm5; fninit; fld1; fxsave %0; fninit; xorps %%xmm5, %%xmm5; fxrstor %0; movups %%xmm5, %2; fstpt %3"
		     : "+m"(area) : "m"(ones), "m"(area2), "m"(area2[16]) : "memory");
	CHECK("fxrstor-xmm", !memcmp(area2, ones, 16));
	CHECK_EQ("fxrstor-x87", *(uint16_t *)(area2 + 24), 0x3fff);
	*(uint32_t *)(area + 24) = 0xffff0000;
	CHECK_EQ("fxrstor-bad-mxcsr", VECTOR_OF("fxrstor %0", : : "m"(area)), GP);
}

static unsigned xsetbv(uint32_t index, uint64_t v)
{
	TRY("xsetbv", : : "c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
	return trap.vector;
}

static void xsave(void)
{
	struct cpuid d;
	uint64_t supported;

	if (!HAS_XSAVE) {
		SKIP("xsave", "not in CPUID");
		return;
	}
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	CHECK_EQ("osxsave-cpuid-off", cpuid(1, 0).c >> 27 & 1, 0);
	CHECK_EQ("xgetbv-disabled", VECTOR_OF("xgetbv", : : "c"(0) : "rax", "rdx"), UD);
	CHECK_EQ("xsave-disabled", VECTOR_OF("xsave %0", : "=m"(area) : "a"(3), "d"(0)), UD);
	CHECK_EQ("vex-disabled", VECTOR_OF("vxorps %%xmm0, %%xmm0, %%xmm0", :), UD);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	CHECK_EQ("osxsave-cpuid-on", cpuid(1, 0).c >> 27 & 1, 1);
	d = cpuid(0xd, 0);
	supported = d.a | (uint64_t)d.d << 32;
	CHECK_EQ("xcr0-x87-cannot-go", xsetbv(0, 2), GP);
	CHECK_EQ("xcr0-avx-without-sse", xsetbv(0, 5), GP);
	CHECK_EQ("xcr0-unsupported", xsetbv(0, 3 | 1ull << 62), GP);
	CHECK_EQ("xcr1", xsetbv(1, 1), GP);
	CHECK_EQ("xcr0-x87", xsetbv(0, 1), NO_TRAP);
	if (supported & 4)
		CHECK_EQ("avx-without-xcr0", VECTOR_OF("vxorps %%xmm0, %%xmm0, %%xmm0", :), UD);
	CHECK_EQ("xcr0-x87-sse", xsetbv(0, 3), NO_TRAP);
	CHECK_EQ("cpuid-d-size", cpuid(0xd, 0).b, 576);
	/* save, clobber, restore; XSTATE_BV */
	memset(area, 0, sizeof(area));
	asm volatile("fninit; fld1; pcmpeqd %%xmm3, %%xmm3; xsave %0" : "+m"(area) : "a"(3), "d"(0));
	CHECK_EQ("xstate-bv", *(uint64_t *)(area + 512) & 3, 3);
	CHECK_EQ("xsave-xmm3", *(uint64_t *)(area + 160 + 48), ~0ull);
	asm volatile("fninit; pxor %%xmm3, %%xmm3; xrstor %1; movups %%xmm3, %0" : "=m"(area2) : "m"(area), "a"(3), "d"(0));
	CHECK_EQ("xrstor-xmm3", *(uint64_t *)area2, ~0ull);
	/* a component not in XSTATE_BV is initialized */
	*(uint64_t *)(area + 512) = 1;
	asm volatile("xrstor %1; movups %%xmm3, %0" : "=m"(area2) : "m"(area), "a"(3), "d"(0));
	CHECK_EQ("xrstor-init", *(uint64_t *)area2, 0);
	*(uint64_t *)(area + 512) = 1ull << 61;
	CHECK_EQ("xrstor-bad-bv", VECTOR_OF("xrstor %0", : : "m"(area), "a"(3), "d"(0)), GP);
	*(uint64_t *)(area + 512) = 3;
	*(uint64_t *)(area + 528) = 1;
	CHECK_EQ("xrstor-bad-header", VECTOR_OF("xrstor %0", : : "m"(area), "a"(3), "d"(0)), GP);
	*(uint64_t *)(area + 528) = 0;
	CHECK_EQ("xsave-unaligned", VECTOR_OF("xsave %0", : "=m"(area[16]) : "a"(3), "d"(0)), GP);
	write_cr0(read_cr0() | CR0_TS);
	CHECK_EQ("xsave-ts", VECTOR_OF("xsave %0", : "=m"(area) : "a"(3), "d"(0)), NM);
	CHECK_EQ("xsetbv-ts", xsetbv(0, 3), NO_TRAP);
	asm volatile("clts");
	if (supported & 4) {
		CHECK_EQ("xcr0-avx", xsetbv(0, 7), NO_TRAP);
		CHECK_EQ("avx", VECTOR_OF("vpcmpeqd %%xmm1, %%xmm1, %%xmm1; vinsertf128 $1, %%xmm1, %%ymm1, %%ymm1", :), NO_TRAP);
		asm volatile("vmovups %%ymm1, %0; vzeroupper" : "=m"(area2));
		CHECK_EQ("avx-high", *(uint64_t *)(area2 + 24), ~0ull);
		CHECK_EQ("cpuid-d-size-avx", cpuid(0xd, 0).b, 832);
	}
	if ((supported & 0xe0) == 0xe0) {
		CHECK_EQ("avx512-without-xcr0", VECTOR_OF(".byte 0x62, 0xf1, 0x74, 0x48, 0x57, 0xc9", :), UD); /* vxorps %zmm1.. */
		CHECK_EQ("xcr0-opmask-alone", xsetbv(0, 0x27), GP);
		CHECK_EQ("xcr0-avx512", xsetbv(0, 0xe7), NO_TRAP);
		CHECK("cpuid-d-size-avx512", cpuid(0xd, 0).b >= 2432);
		CHECK("cpuid-d-max", cpuid(0xd, 0).c >= cpuid(0xd, 0).b);
	}
	d = cpuid(0xd, 1);
	if (d.a & 2) {
		memset(area, 0, sizeof(area));
		xsetbv(0, supported & 7);
		asm volatile("pcmpeqd %%xmm3, %%xmm3; xsavec %0" : "+m"(area) : "a"(3), "d"(0));
		CHECK_EQ("xsavec-compacted", *(uint64_t *)(area + 520) >> 63, 1);
		asm volatile("pxor %%xmm3, %%xmm3; xrstor %1; movups %%xmm3, %0" : "=m"(area2) : "m"(area), "a"(3), "d"(0));
		CHECK_EQ("xrstor-compacted", *(uint64_t *)area2, ~0ull);
	}
	if (d.a & 1)
		CHECK_EQ("xsaveopt", VECTOR_OF("xsaveopt %0", : "=m"(area2) : "a"(3), "d"(0)), NO_TRAP);
	if (d.a & 8) {
		memset(area, 0, sizeof(area));
		TRY("xsaves %0; xrstors %0", : "+m"(area) : "a"(3), "d"(0));
		CHECK_EQ("xsaves", trap.vector, NO_TRAP);
		TRY("wrmsr", : : "c"(0xda0), "a"(1), "d"(0));
		CHECK_EQ("xss-reserved", trap.vector, GP);
	}
}

void test_main(void)
{
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	task_switched();
	x87_exceptions();
	pending();
	simd_exceptions();
	xsave();
	if (!is_tcg()) /* aborts */
		ferr();
}
