/* SPDX-License-Identifier: MIT */
/* MSRs and CPUID: faults where the manuals say so, values that tell the truth (SDM vol. 2 CPUID; vol. 4). */
#include "lib.h"

static unsigned rd(uint32_t n)
{
	TRY("rdmsr", : : "c"(n) : "rax", "rdx", "memory");
	return trap.vector;
}
static unsigned wr(uint32_t n, uint64_t v)
{
	TRY("wrmsr", : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
	return trap.vector;
}

/* Every instruction that CPUID advertises must work. */
static void truth(void)
{
	static uint8_t mem[64] __attribute__((aligned(64)));

	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | (HAS_XSAVE ? CR4_OSXSAVE : 0));
	write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
	if (HAS_XSAVE) {
		struct cpuid d = cpuid(0xd, 0);
		asm volatile("xsetbv" : : "c"(0), "a"(d.a & 0xe7), "d"(0));
	}
#define TRUTH(name, leaf, reg, bit, insn, ...)                                                     \
	do {                                                                                       \
		if (has_cpuid(leaf, reg, bit))                                                     \
			CHECK_EQ("cpuid-" name, VECTOR_OF(insn, __VA_ARGS__), NO_TRAP);            \
	} while (0)
	TRUTH("cx8", 1, 'd', 8, "cmpxchg8b %0", : "+m"(mem) : : "rax", "rdx", "cc");
	TRUTH("cx16", 1, 'c', 13, "cmpxchg16b %0", : "+m"(mem) : : "rax", "rdx", "cc");
	TRUTH("cmov", 1, 'd', 15, "cmovz %%eax, %%eax", : : : "rax");
	TRUTH("mmx", 1, 'd', 23, "pxor %%mm0, %%mm0; emms", :);
	TRUTH("sse2", 1, 'd', 26, "pxor %%xmm0, %%xmm0", :);
	TRUTH("sse3", 1, 'c', 0, "haddps %%xmm0, %%xmm0", :);
	TRUTH("ssse3", 1, 'c', 9, "pabsb %%xmm0, %%xmm0", :);
	TRUTH("sse4.1", 1, 'c', 19, "pmulld %%xmm0, %%xmm0", :);
	TRUTH("sse4.2", 1, 'c', 20, "pcmpgtq %%xmm0, %%xmm0; crc32b %%al, %%eax", : : : "rax");
	TRUTH("popcnt", 1, 'c', 23, "popcnt %%eax, %%eax", : : : "rax", "cc");
	TRUTH("movbe", 1, 'c', 22, "movbe %0, %%eax", : : "m"(mem) : "rax");
	TRUTH("aes", 1, 'c', 25, "aesenc %%xmm0, %%xmm0", :);
	TRUTH("pclmul", 1, 'c', 1, "pclmulqdq $0, %%xmm0, %%xmm0", :);
	TRUTH("rdrand", 1, 'c', 30, "rdrand %%eax", : : : "rax", "cc");
	TRUTH("rdseed", 7, 'b', 18, "rdseed %%eax", : : : "rax", "cc");
	TRUTH("fma", 1, 'c', 12, "vfmadd132ps %%xmm0, %%xmm0, %%xmm0", :);
	TRUTH("f16c", 1, 'c', 29, "vcvtph2ps %%xmm0, %%xmm0", :);
	TRUTH("avx", 1, 'c', 28, "vaddps %%ymm0, %%ymm0, %%ymm0", :);
	TRUTH("avx2", 7, 'b', 5, "vpaddd %%ymm0, %%ymm0, %%ymm0", :);
	TRUTH("bmi1", 7, 'b', 3, "andn %%eax, %%eax, %%eax", : : : "rax", "cc");
	TRUTH("bmi2", 7, 'b', 8, "pdep %%eax, %%eax, %%eax", : : : "rax", "cc");
	TRUTH("adx", 7, 'b', 19, "adcx %%eax, %%eax; adox %%eax, %%eax", : : : "rax", "cc");
	TRUTH("sha", 7, 'b', 29, "sha1msg1 %%xmm0, %%xmm0", :);
	TRUTH("avx512f", 7, 'b', 16, "vpaddd %%zmm0, %%zmm0, %%zmm0", :);
	TRUTH("avx512bw", 7, 'b', 30, "vpaddb %%zmm0, %%zmm0, %%zmm0", :);
	TRUTH("avx512vl", 7, 'b', 31, "vpaddd %%ymm17, %%ymm0, %%ymm0", :);
	TRUTH("gfni", 7, 'c', 8, "gf2p8mulb %%xmm0, %%xmm0", :);
	TRUTH("vaes", 7, 'c', 9, "vaesenc %%ymm0, %%ymm0, %%ymm0", :);
	TRUTH("clflush", 1, 'd', 19, "clflush %0", : : "m"(mem));
	TRUTH("clflushopt", 7, 'b', 23, "clflushopt %0", : : "m"(mem));
	TRUTH("clwb", 7, 'b', 24, "clwb %0", : : "m"(mem));
	TRUTH("lzcnt", 0x80000001, 'c', 5, "lzcnt %%eax, %%eax", : : : "rax", "cc");
	TRUTH("sse4a", 0x80000001, 'c', 6, "extrq %%xmm0, %%xmm0", :);
	TRUTH("prefetchw", 0x80000001, 'c', 8, "prefetchw %0", : : "m"(mem));
	TRUTH("lahf", 0x80000001, 'c', 0, "lahf", : : : "rax");
	TRUTH("rdtscp", 0x80000001, 'd', 27, "rdtscp", : : : "rax", "rcx", "rdx");
	TRUTH("fsrm-erms", 7, 'b', 9, "nop", :);
	TRUTH("movdiri", 7, 'c', 27, "movdiri %%eax, %0", : "=m"(mem));
	TRUTH("serialize", 7, 'd', 14, ".byte 0x0f, 0x01, 0xe8", :);
	if (has_cpuid(1, 'c', 3)) {
		TRY("monitor", : : "a"(mem), "c"(0), "d"(0) : "memory");
		CHECK_EQ("cpuid-monitor", trap.vector, NO_TRAP);
	} else {
		TRY("monitor", : : "a"(mem), "c"(0), "d"(0) : "memory");
		CHECK_EQ("no-monitor", trap.vector, UD);
		TRY("mwait", : : "a"(0), "c"(0) : "memory");
		CHECK_EQ("no-mwait", trap.vector, UD);
	}
	/* What must not be there: virtualization of ours, TSX and so on either work or fault */
	if (!has_cpuid(1, 'c', 5))
		CHECK_EQ("no-vmx", VECTOR_OF("vmxoff", :), UD);
	if (!has_cpuid(0x80000001, 'c', 2))
		CHECK_EQ("no-svm", VECTOR_OF("stgi", :), UD);
	if (!has_cpuid(7, 'b', 11))
		CHECK_EQ("no-rtm", VECTOR_OF("xbegin 1f; 1:", : : : "rax"), UD);
	CHECK_EQ("vmcall-or-ud", VECTOR_OF("mov $0xffff, %%eax; .byte 0x0f, 0x01, 0xc1", : : : "rax", "memory") & ~(ulong)NO_TRAP & ~6ul, 0);
}

void test_main(void)
{
	struct cpuid r = cpuid(0, 0), s;
	uint64_t pat, v;
	uint32_t max = r.a;

	CHECK("max-leaf", max >= 7 && max < 0x100);
	CHECK("fpu-pae-msr-apic", (cpuid(1, 0).d & 0x261) == 0x261);
	CHECK("long-mode", has_cpuid(0x80000001, 'd', 29));
	CHECK("hypervisor-bit", has_cpuid(1, 'c', 31));
	CHECK("maxphyaddr", maxphyaddr() >= 32 && maxphyaddr() <= 52);
	s = cpuid(0x80000000, 0);
	CHECK("max-extended-leaf", s.a >= 0x80000008 && s.a < 0x80000100);
	/* leaves beyond the end: zero, or the last basic leaf's data (Intel); never a fault */
	s = cpuid(max + 1, 0);
	CHECK_EQ("cpuid-preserves-nothing-odd", VECTOR_OF("cpuid", : : "a"(0x7fffffff) : "rbx", "rcx", "rdx"), NO_TRAP);
	CHECK_EQ("apic-id-agrees", cpuid(1, 0).b >> 24, cpuid(0xb, 0).d);
	if (HAS_XSAVE) {
		s = cpuid(0xd, 0);
		CHECK("xsave-sizes", s.c >= 576 && s.b <= s.c);
		for (unsigned i = 2; i < 20; i++) {
			struct cpuid e = cpuid(0xd, i);
			if ((s.a >> i & 1) && (e.a == 0 || e.b + e.a > s.c))
				CHECK_EQ("xsave-component", i, 0);
		}
	}
	/* MSRs */
	CHECK_EQ("rdmsr-unknown", rd(0x12345678), GP);
	CHECK_EQ("rdmsr-unknown-error", trap.error, 0);
	CHECK_EQ("rdmsr-unknown-ip", trap.ip, trap.at);
	CHECK_EQ("wrmsr-unknown", wr(0x12345678, 0), GP);
	CHECK_EQ("wrmsr-read-only", wr(0xfe, 0), GP); /* MTRRCAP */
	pat = rdmsr(MSR_PAT);
	CHECK_EQ("pat-reset", pat, 0x0007040600070406);
	CHECK_EQ("pat-bad-type", wr(MSR_PAT, 0x0007040600070402), GP);
	CHECK_EQ("pat-write", wr(MSR_PAT, 0x0007010600070106), NO_TRAP);
	CHECK_EQ("pat-reads-back", rdmsr(MSR_PAT), 0x0007010600070106);
	wrmsr(MSR_PAT, pat);
	v = rdmsr(MSR_APIC_BASE);
	CHECK_EQ("apic-base-reserved", wr(MSR_APIC_BASE, v | 1), GP);
	CHECK_EQ("apic-base-beyond-maxphyaddr", maxphyaddr() < 52 ? wr(MSR_APIC_BASE, v | 1ull << 52) : GP, GP);
	if (!is_amd()) { /* AMD has no 64-bit SYSENTER: the upper halves mean nothing there */
		CHECK_EQ("sysenter-esp-noncanonical", wr(MSR_SYSENTER_ESP, 0x8000000000000000), GP);
		CHECK_EQ("sysenter-eip-noncanonical", wr(MSR_SYSENTER_EIP, 0x8000000000000), GP);
		CHECK_EQ("sysenter-eip", wr(MSR_SYSENTER_EIP, 0xffffffff81000000), NO_TRAP);
		CHECK_EQ("sysenter-eip-reads-back", rdmsr(MSR_SYSENTER_EIP), 0xffffffff81000000);
	}
	CHECK_EQ("cstar-noncanonical", wr(MSR_CSTAR, 0x8000000000000), GP);
	CHECK_EQ("star", wr(MSR_STAR, 0x123456789abcdef0), NO_TRAP);
	CHECK_EQ("star-reads-back", rdmsr(MSR_STAR), 0x123456789abcdef0);
	CHECK_EQ("kernel-gs-base", wr(MSR_KERNEL_GS_BASE, 0xffff888000000000), NO_TRAP);
	CHECK_EQ("kernel-gs-base-reads-back", rdmsr(MSR_KERNEL_GS_BASE), 0xffff888000000000);
	if (has_cpuid(1, 'd', 12)) { /* MTRR */
		CHECK("mtrrcap", (rdmsr(0xfe) & 0xff) >= 1);
		v = rdmsr(0x2ff);
		CHECK_EQ("mtrr-bad-type", wr(0x2ff, 2), GP);
		CHECK_EQ("mtrr-write", wr(0x200, 0xe0000000), NO_TRAP);
		CHECK_EQ("mtrr-reads-back", rdmsr(0x200), 0xe0000000);
		wrmsr(0x200, 0);
		wrmsr(0x2ff, v);
	}
	truth();
}
