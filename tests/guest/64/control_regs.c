/* SPDX-License-Identifier: MIT */
/* Control registers and EFER (SDM vol. 3, 2.5, 4.1): reserved bits, impossible combinations, privilege. */
#include "lib.h"

CODE(user_rdcr0, 64, "mov %cr0, %rax; int $0x80");
CODE(user_wrcr8, 64, "mov %rax, %cr8; int $0x80");
CODE(user_clts, 64, "clts; int $0x80");
CODE(user_lmsw, 64, "lmsw %ax; int $0x80");
CODE(user_hlt, 64, "hlt; int $0x80");
CODE(user_invlpg, 64, "invlpg (%rax); int $0x80");
CODE(user_wbinvd, 64, "wbinvd; int $0x80");
CODE(user_rdmsr, 64, "rdmsr; int $0x80");
CODE(user_wrmsr, 64, "wrmsr; int $0x80");
CODE(user_lgdt, 64, "lgdt -16(%rsp); int $0x80");
CODE(user_lldt, 64, "lldt %ax; int $0x80");
CODE(user_ltr, 64, "ltr %ax; int $0x80");
CODE(user_cli, 64, "cli; int $0x80");
CODE(user_sti, 64, "sti; int $0x80");
CODE(user_in, 64, "in $0x80, %al; int $0x80");
CODE(user_out, 64, "outb %al, $0x80; int $0x80");
CODE(user_rddr, 64, "mov %dr7, %rax; int $0x80");
CODE(user_swapgs, 64, "swapgs; int $0x80");
CODE(user_sysret, 64, "sysretq; int $0x80");
CODE(user_iret_kernel, 64, "iretq");
CODE(user_rdtsc, 64, "rdtsc; int $0x80");
CODE(user_xsetbv, 64, "xsetbv; int $0x80");
CODE(user_popf, 64, "push %rax; popf; pushf; pop %rbx; int $0x80");
CODE(user_rdpmc, 64, "rdpmc; int $0x80");

static struct ctx uc;
static unsigned user(char *code, size_t size, uint64_t flags)
{
	memcpy((void *)TEST_VA, code, size);
	uc = user_ctx(TEST_VA, TEST_VA + 0x1000);
	uc.flags |= flags;
	return run(&uc);
}
#define USER(code) user(code, CODE_SIZE(code), 0)

static void privileged(void)
{
	CHECK_EQ("user-mov-from-cr0", USER(user_rdcr0), GP);
	CHECK_EQ("user-mov-from-cr0-error", uc.error, 0);
	CHECK_EQ("user-mov-from-cr0-ip", uc.ip, TEST_VA);
	CHECK_EQ("user-mov-to-cr8", USER(user_wrcr8), GP);
	CHECK_EQ("user-clts", USER(user_clts), GP);
	CHECK_EQ("user-lmsw", USER(user_lmsw), GP);
	CHECK_EQ("user-hlt", USER(user_hlt), GP);
	CHECK_EQ("user-invlpg", USER(user_invlpg), GP);
	CHECK_EQ("user-wbinvd", USER(user_wbinvd), GP);
	CHECK_EQ("user-rdmsr", USER(user_rdmsr), GP);
	CHECK_EQ("user-wrmsr", USER(user_wrmsr), GP);
	CHECK_EQ("user-lgdt", USER(user_lgdt), GP);
	CHECK_EQ("user-lldt", USER(user_lldt), GP);
	CHECK_EQ("user-ltr", USER(user_ltr), GP);
	CHECK_EQ("user-cli", USER(user_cli), GP);
	CHECK_EQ("user-sti", USER(user_sti), GP);
	CHECK_EQ("user-in", USER(user_in), GP);
	CHECK_EQ("user-out", USER(user_out), GP);
	CHECK_EQ("user-mov-from-dr7", USER(user_rddr), GP);
	CHECK_EQ("user-swapgs", USER(user_swapgs), GP);
	CHECK_EQ("user-sysret", USER(user_sysret), GP);
	/* IOPL 3 gives I/O and IF */
	CHECK_EQ("iopl3-cli", user(user_cli, CODE_SIZE(user_cli), FL_IOPL3 | FL_IF), 0x80);
	CHECK_EQ("iopl3-cli-if", uc.flags & FL_IF, 0);
	CHECK_EQ("iopl3-sti", user(user_sti, CODE_SIZE(user_sti), FL_IOPL3), 0x80);
	CHECK_EQ("iopl3-sti-if", uc.flags & FL_IF, FL_IF);
	CHECK_EQ("iopl3-in", user(user_in, CODE_SIZE(user_in), FL_IOPL3), 0x80);
	/* the TSS bitmap gives single ports */
	tss0.io[0x80 / 8] = 0xfe;
	CHECK_EQ("bitmap-in", USER(user_in), 0x80);
	CHECK_EQ("bitmap-out", USER(user_out), 0x80);
	tss0.io[0x80 / 8] = 0xff;
	CHECK_EQ("bitmap-in-closed", USER(user_in), GP);
	/* POPF at CPL 3 leaves IF and IOPL alone, silently */
	memcpy((void *)TEST_VA, user_popf, CODE_SIZE(user_popf));
	uc = user_ctx(TEST_VA, TEST_VA + 0x1000);
	uc.flags = 2 | FL_IF;
	uc.r[RAX] = FL_IOPL3 | FL_DF | FL_AC | FL_ID | FL_NT | FL_CF;
	CHECK_EQ("user-popf", run(&uc), 0x80);
	CHECK_EQ("user-popf-flags", uc.r[RBX], 2 | FL_IF | FL_DF | FL_AC | FL_ID | FL_NT | FL_CF);
	/* CR4.TSD */
	CHECK_EQ("rdtsc", USER(user_rdtsc), 0x80);
	write_cr4(read_cr4() | CR4_TSD);
	CHECK_EQ("tsd-rdtsc", USER(user_rdtsc), GP);
	CHECK_EQ("tsd-supervisor", VECTOR_OF("rdtsc", : : : "rax", "rdx"), NO_TRAP);
	write_cr4(read_cr4() & ~CR4_TSD);
	CHECK_EQ("rdtsc-again", USER(user_rdtsc), 0x80);
}

static unsigned set_cr0(uint64_t v)
{
	TRY("mov %0, %%cr0", : : "r"(v) : "memory");
	return trap.vector;
}
static unsigned set_cr4(uint64_t v)
{
	TRY("mov %0, %%cr4", : : "r"(v) : "memory");
	return trap.vector;
}
static unsigned set_efer(uint64_t v)
{
	TRY("wrmsr", : : "c"(MSR_EFER), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
	return trap.vector;
}

void test_main(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4(), efer = rdmsr(MSR_EFER);

	map_user(TEST_VA, 1);
	privileged();

	CHECK("cr0-et", cr0 & 0x10);
	if (!is_tcg()) /* dies */
		CHECK_EQ("cr0-pg-without-pe", set_cr0(cr0 & ~1ul), GP);
	CHECK_EQ("cr0-nw-without-cd", set_cr0(cr0 | 0x20000000), GP);
	if (!is_tcg()) /* hangs */
		CHECK_EQ("cr0-bit-32", set_cr0(cr0 | 1ul << 32), GP);
	CHECK_EQ("cr0-et-cannot-be-cleared", set_cr0(cr0 & ~0x10ul), NO_TRAP);
	CHECK("cr0-et-stays", read_cr0() & 0x10);
	write_cr0(cr0);
	if (!is_tcg()) { /* dies */
		CHECK_EQ("cr4-pae-off-in-long-mode", set_cr4(cr4 & ~CR4_PAE), GP);
		CHECK_EQ("cr4-bit-31", set_cr4(cr4 | 1ul << 31), GP);
		CHECK_EQ("cr4-bit-63", set_cr4(cr4 | 1ul << 63), GP);
		CHECK_EQ("cr4-bit-15", set_cr4(cr4 | 1ul << 15), GP);
		if (!HAS_SMAP)
			CHECK_EQ("cr4-smap-not-in-cpuid", set_cr4(cr4 | CR4_SMAP), GP);
	}
	CHECK_EQ("efer-reserved", set_efer(efer | 0x80), GP);
	CHECK_EQ("efer-reserved-high", set_efer(efer | 1ull << 40), GP);
	CHECK_EQ("efer-lme-off-with-paging", set_efer(efer & ~0x100ull), GP);
	/* (Whether a write of LMA is ignored or faults differs between vendors; Intel: ignored.) */
	CHECK_EQ("efer-unchanged", rdmsr(MSR_EFER), efer);

	/* TASK: LMSW can set PE, MP, EM, TS; cannot clear PE */
	TRY("lmsw %%ax", : : "a"(CR0_TS | CR0_EM | CR0_MP) : "memory");
	CHECK_EQ("lmsw", read_cr0() & 0xf, CR0_TS | CR0_EM | CR0_MP | 1);
	asm volatile("clts");
	CHECK_EQ("clts", read_cr0() & CR0_TS, 0);
	write_cr0(cr0);
	/* CR8: bits 4-63 reserved; equals TPR[7:4] */
	TRY("mov %0, %%cr8", : : "r"(0x10ul) : "memory");
	CHECK_EQ("cr8-reserved", trap.vector, GP);
	write_cr8(5);
	CHECK_EQ("cr8-reads-back", read_cr8(), 5);
	CHECK_EQ("cr8-is-tpr", apic_read(APIC_TPR), 0x50);
	apic_write(APIC_TPR, 0x7c);
	CHECK_EQ("tpr-is-cr8", read_cr8(), 7);
	apic_write(APIC_TPR, 0);
	TRY(".byte 0x0f, 0x20, 0xc8", : : : "rax"); /* mov %cr1, %rax */
	CHECK_EQ("cr1", trap.vector, UD);
	TRY(".byte 0x0f, 0x20, 0xe8", : : : "rax"); /* mov %cr5, %rax */
	CHECK_EQ("cr5", trap.vector, UD);
	TRY(".byte 0xf0, 0x0f, 0x20, 0xc8", : : : "rax"); /* lock mov %cr1: on AMD lock mov %cr0 is CR8 */
	CHECK_EQ("lock-cr1", trap.vector, UD);
	/* mod bits of MOV CR are ignored */
	{
		uint64_t v;
		asm volatile(".byte 0x0f, 0x20, 0x00" : "=a"(v));
		CHECK_EQ("mov-cr-ignores-mod", v, cr0);
	}
	/* CR2 is an ordinary register; CR3's low bits PWT, PCD read back */
	write_cr2(0x123456789abcdef0);
	CHECK_EQ("cr2-write", read_cr2(), 0x123456789abcdef0);
	/* CR3 beyond MAXPHYADDR faults; keep this last, a CPU that takes it is lost */
	if (maxphyaddr() < 52 && !is_tcg()) {
		uint64_t bad = read_cr3() | 1ull << maxphyaddr();
		TRY("mov %0, %%cr3; mov %1, %%cr3", : : "r"(bad), "r"(read_cr3()) : "memory");
		CHECK_EQ("cr3-reserved", trap.vector, GP);
	}
}
