/* SPDX-License-Identifier: MIT */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FSGSBASE (SDM vol. 2; AMD APM vol. 3 where they differ). */
#include "lib.h"

#define VA TEST_VA
#define STACK (VA + 0x1000)
#define SYS_STACK (VA + 0x3000)

/* User side */
CODE(u_syscall, 64, "syscall; nop; int $0x80");
CODE(u_syscall32, 32, "syscall; nop; int $0x80");
CODE(u_sysenter, 64, "sysenter; nop; int $0x80");
CODE(u_sysenter32, 32, "sysenter; nop; int $0x80");
CODE(u_gs, 64, "mov %gs:0, %rax; mov %fs:0, %rbx; int $0x80");
CODE(u_rdfsbase, 64, "rdfsbase %rax; rdgsbase %rbx; int $0x80");
CODE(u_wrfsbase, 64, "wrfsbase %rax; wrgsbase %rbx; rdfsbase %rcx; rdgsbase %rdx; int $0x80");

static struct ctx uc;

static void user(const char *code, size_t size, uint64_t flags)
{
	memcpy((void *)VA, code, size);
	uc = user_ctx(VA, STACK);
	uc.flags |= flags;
	uc.r[RCX] = 0xc0ffee;
	uc.r[R11] = 0x1111;
}
#define USER(code, flags) user(code, CODE_SIZE(code), flags)

static void test_syscall(void)
{
	wrmsr(MSR_STAR, (uint64_t)(SEL_UCODE32 | 3) << 48 | (uint64_t)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, (uint64_t)trap_stubs); /* replaced below */
	wrmsr(MSR_SFMASK, FL_TF | FL_DF | FL_IF | FL_IOPL3 | FL_AC | FL_NT);

	/* The kernel side is a context-saving int $0x82 at LSTAR: what it sees is what SYSCALL left. */
	static const uint8_t entry[] = { 0xcd, 0x82 };
	uint8_t *k = alloc_pages(1);

	memcpy(k, entry, sizeof(entry));
	wrmsr(MSR_LSTAR, (uint64_t)k);
	wrmsr(MSR_CSTAR, (uint64_t)k + 16);
	memcpy(k + 16, entry, sizeof(entry));
	/* SYSCALL leaves RSP: int $0x82 pushes on the user's stack, at CPL 0 */
	USER(u_syscall, FL_CF | FL_DF | FL_IF);
	CHECK_EQ("syscall", run(&uc), 0x82);
	CHECK_EQ("syscall-rip", uc.ip, (uint64_t)k + 2);
	CHECK_EQ("syscall-cs", uc.cs, SEL_CODE);
	CHECK_EQ("syscall-ss", uc.ss, SEL_CODE + 8);
	CHECK_EQ("syscall-rcx", uc.r[RCX], VA + 2);
	CHECK_EQ("syscall-r11", uc.r[R11], 2 | FL_CF | FL_DF | FL_IF);
	CHECK_EQ("syscall-flags", uc.flags, 2 | FL_CF);
	CHECK_EQ("syscall-rsp", uc.r[RSP], STACK);
	/* SCE off */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	USER(u_syscall, 0);
	CHECK_EQ("syscall-sce-off", run(&uc), UD);
	CHECK_EQ("sysret-sce-off", VECTOR_OF("sysretq", :), UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	/* from compatibility mode: AMD goes to CSTAR, Intel gives #UD */
	USER(u_syscall32, 0);
	uc.cs = SEL_UCODE32 | 3;
	if (is_amd()) {
		CHECK_EQ("syscall-compat", run(&uc), 0x82);
		CHECK_EQ("syscall-compat-rip", uc.ip, (uint64_t)k + 18);
		CHECK_EQ("syscall-compat-rcx", uc.r[RCX], VA + 2);
	} else {
		CHECK_EQ("syscall-compat", run(&uc), UD);
	}
	/* noncanonical LSTAR cannot be written */
	TRY("wrmsr", : : "c"(MSR_LSTAR), "a"(0), "d"(0x8000) : "memory");
	CHECK_EQ("lstar-noncanonical", trap.vector, GP);

	/* SYSRET: run at CPL 0 in a context of our own; lands in user code that does int $0x80 */
	memcpy(k + 32, "\x48\x0f\x07", 3); /* sysretq */
	memcpy((void *)VA, "\xcd\x80", 2);
	uc = user_ctx((uint64_t)k + 32, STACK);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RCX] = VA;
	uc.r[R11] = 0x3f7fd7 & ~(FL_TF | FL_VM | FL_RF | FL_IOPL3) & ~(FL_VIF | FL_VIP);
	CHECK_EQ("sysretq", run(&uc), 0x80);
	CHECK_EQ("sysretq-rip", uc.ip, VA + 2);
	CHECK_EQ("sysretq-cs", uc.cs, SEL_UCODE | 3);
	CHECK_EQ("sysretq-ss", uc.ss, SEL_UDATA | 3);
	CHECK_EQ("sysretq-flags", uc.flags, 0x3f7fd7 & ~(FL_TF | FL_VM | FL_RF | FL_IOPL3) & ~(FL_VIF | FL_VIP));
	CHECK_EQ("sysretq-rsp", uc.r[RSP], STACK);
	/* RF and VM from R11 are cleared */
	uc = user_ctx((uint64_t)k + 32, STACK);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RCX] = VA;
	uc.r[R11] = FL_RF | FL_VM | 2;
	CHECK_EQ("sysretq-rf-vm", run(&uc), 0x80);
	CHECK_EQ("sysretq-rf-vm-flags", uc.flags & (FL_RF | FL_VM), 0);
	/* sysretl: to compatibility mode */
	memcpy(k + 32, "\x0f\x07", 2);
	uc = user_ctx((uint64_t)k + 32, STACK);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RCX] = 0xffffffff00000000ul | VA;
	uc.r[R11] = 2;
	CHECK_EQ("sysretl", run(&uc), 0x80);
	CHECK_EQ("sysretl-cs", uc.cs, SEL_UCODE32 | 3);
	CHECK_EQ("sysretl-rip", uc.ip, VA + 2);
	/* noncanonical RCX: Intel #GP at CPL 0, on the SYSRET; AMD returns and faults at CPL 3 */
	memcpy(k + 32, "\x48\x0f\x07", 3);
	uc = user_ctx((uint64_t)k + 32, (uint64_t)k + 4096);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RCX] = 0x800000000000;
	uc.r[R11] = 2;
	CHECK_EQ("sysret-noncanonical", run(&uc), GP);
	if (is_amd())
		CHECK_EQ("sysret-noncanonical-cpl", uc.cs & 3, 3);
	else
		CHECK_EQ("sysret-noncanonical-cpl", uc.cs & 3, 0);
}

static void test_sysenter(void)
{
	uint8_t *k = alloc_pages(1);

	memcpy(k, "\xcd\x82", 2);
	wrmsr(MSR_SYSENTER_CS, 0);
	wrmsr(MSR_SYSENTER_EIP, (uint64_t)k);
	wrmsr(MSR_SYSENTER_ESP, SYS_STACK);
	USER(u_sysenter, 0);
	if (is_amd()) {
		CHECK_EQ("sysenter-in-long-mode-amd", run(&uc), UD);
		USER(u_sysenter32, 0);
		uc.cs = SEL_UCODE32 | 3;
		CHECK_EQ("sysenter-compat-amd", run(&uc), UD);
		CHECK_EQ("sysexit-in-long-mode-amd", VECTOR_OF("sysexitl", :), UD);
		return;
	}
	CHECK_EQ("sysenter-cs-null", run(&uc), GP);
	CHECK_EQ("sysenter-cs-null-error", uc.error, 0);
	wrmsr(MSR_SYSENTER_CS, SEL_CODE);
	USER(u_sysenter, FL_IF | FL_CF);
	CHECK_EQ("sysenter", run(&uc), 0x82);
	CHECK_EQ("sysenter-rip", uc.ip, (uint64_t)k + 2);
	CHECK_EQ("sysenter-rsp", uc.r[RSP], SYS_STACK);
	CHECK_EQ("sysenter-cs", uc.cs, SEL_CODE);
	CHECK_EQ("sysenter-ss", uc.ss, SEL_CODE + 8);
	CHECK_EQ("sysenter-flags", uc.flags & (FL_IF | FL_CF), FL_CF);
	USER(u_sysenter32, 0);
	uc.cs = SEL_UCODE32 | 3;
	CHECK_EQ("sysenter-compat", run(&uc), 0x82);
	CHECK_EQ("sysenter-compat-cs", uc.cs, SEL_CODE);
	/* sysexit64: CS = SYSENTER_CS + 32, SS = + 40 */
	memcpy(k + 32, "\x48\x0f\x35", 3);
	memcpy((void *)VA, "\xcd\x80", 2);
	uc = user_ctx((uint64_t)k + 32, SYS_STACK);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RDX] = VA;
	uc.r[RCX] = STACK;
	CHECK_EQ("sysexitq", run(&uc), 0x80);
	CHECK_EQ("sysexitq-cs", uc.cs, (SEL_CODE + 32) | 3);
	CHECK_EQ("sysexitq-ss", uc.ss, (SEL_CODE + 40) | 3);
	CHECK_EQ("sysexitq-rsp", uc.r[RSP], STACK);
	memcpy(k + 32, "\x0f\x35", 2);
	uc = user_ctx((uint64_t)k + 32, SYS_STACK);
	uc.cs = SEL_CODE;
	uc.ss = SEL_DATA;
	uc.r[RDX] = VA;
	uc.r[RCX] = STACK;
	CHECK_EQ("sysexitl", run(&uc), 0x80);
	CHECK_EQ("sysexitl-cs", uc.cs, (SEL_CODE + 16) | 3);
	USER(u_sysenter, 0);
	memcpy((void *)VA, "\x0f\x35", 2);
	CHECK_EQ("sysexit-user", run(&uc), GP);
}

static void test_bases(void)
{
	static uint64_t a[1] = { 0xaaaa }, b[1] = { 0xbbbb };
	uint64_t v, w;
	volatile uint64_t *ua = (uint64_t *)(VA + 0x800), *ub = (uint64_t *)(VA + 0x900);

	wrmsr(MSR_GS_BASE, (uint64_t)a);
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)b);
	asm volatile("mov %%gs:0, %0; swapgs; mov %%gs:0, %1" : "=&r"(v), "=&r"(w));
	CHECK_EQ("gs-base", v, 0xaaaa);
	CHECK_EQ("swapgs", w, 0xbbbb);
	CHECK_EQ("swapgs-msr", rdmsr(MSR_GS_BASE), b);
	CHECK_EQ("swapgs-msr-kernel", rdmsr(MSR_KERNEL_GS_BASE), a);
	asm volatile("swapgs");
	wrmsr(MSR_FS_BASE, (uint64_t)b);
	asm volatile("mov %%fs:0, %0" : "=r"(v));
	CHECK_EQ("fs-base", v, 0xbbbb);
	asm volatile("mov $-8, %%rax; lea 8(%%rax), %%rax; mov %%fs:(%%rax), %0" : "=r"(v) : : "rax");
	CHECK_EQ("fs-base-with-register", v, 0xbbbb);
	CHECK_EQ("lea-ignores-base", ({ asm volatile(".byte 0x64; lea 8, %0" : "=r"(v)); v; }), 8);
	TRY("wrmsr", : : "c"(MSR_FS_BASE), "a"(0), "d"(0x8000) : "memory");
	CHECK_EQ("fs-base-noncanonical", trap.vector, GP);
	TRY("wrmsr", : : "c"(MSR_KERNEL_GS_BASE), "a"(0), "d"(0x8000) : "memory");
	CHECK_EQ("kernel-gs-base-noncanonical", trap.vector, GP);
	/* loading a selector replaces the base by the descriptor's 32-bit one */
	asm volatile("mov %0, %%fs" : : "r"(SEL_DATA));
	CHECK_EQ("fs-selector-load-base", rdmsr(MSR_FS_BASE), 0);
	gdt[SEL_TEST / 8] = descriptor(0x12345678, 0xfffff, 0xc093);
	asm volatile("mov %0, %%fs" : : "r"(SEL_TEST) : "memory");
	CHECK_EQ("fs-descriptor-base", rdmsr(MSR_FS_BASE), 0x12345678);
	/* kept over user mode */
	asm volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
	*ua = 0x77;
	*ub = 0x88;
	wrmsr(MSR_GS_BASE, (uint64_t)ua);
	wrmsr(MSR_FS_BASE, (uint64_t)ub);
	USER(u_gs, 0);
	CHECK_EQ("user-bases", run(&uc), 0x80);
	CHECK_EQ("user-gs", uc.r[RAX], 0x77);
	CHECK_EQ("user-fs", uc.r[RBX], 0x88);
	if (HAS_FSGSBASE) {
		USER(u_rdfsbase, 0);
		CHECK_EQ("rdfsbase-disabled", run(&uc), UD);
		CHECK_EQ("wrfsbase-disabled", VECTOR_OF("wrfsbase %0", : : "r"(0ul)), UD);
		write_cr4(read_cr4() | CR4_FSGSBASE);
		USER(u_rdfsbase, 0);
		CHECK_EQ("rdfsbase", run(&uc), 0x80);
		CHECK_EQ("rdfsbase-value", uc.r[RAX], (uint64_t)ub);
		CHECK_EQ("rdgsbase-value", uc.r[RBX], (uint64_t)ua);
		USER(u_wrfsbase, 0);
		uc.r[RAX] = 0x123456789000;
		uc.r[RBX] = 0xffff800000000000;
		CHECK_EQ("wrfsbase", run(&uc), 0x80);
		CHECK_EQ("wrfsbase-rd", uc.r[RCX], 0x123456789000);
		CHECK_EQ("wrgsbase-rd", uc.r[RDX], 0xffff800000000000);
		CHECK_EQ("wrfsbase-msr", rdmsr(MSR_FS_BASE), 0x123456789000);
		CHECK_EQ("wrgsbase-msr", rdmsr(MSR_GS_BASE), 0xffff800000000000);
		USER(u_wrfsbase, 0);
		uc.r[RAX] = 0x800000000000;
		CHECK_EQ("wrfsbase-noncanonical", run(&uc), GP);
		CHECK_EQ("wrfsbase32-zero-extends", ({ asm volatile("wrfsbase %k1; rdfsbase %0" : "=r"(v) : "r"(0xffffffff80000000ul)); v; }), 0x80000000);
		write_cr4(read_cr4() & ~CR4_FSGSBASE);
	} else {
		SKIP("fsgsbase", "not in CPUID");
	}
	/* FS base wraps with a 32-bit address size: truncation before adding the base */
	wrmsr(MSR_FS_BASE, (uint64_t)b - 16);
	asm volatile("mov $0xffffffff00000010, %%rax; mov %%fs:(%%eax), %0" : "=r"(v) : : "rax");
	CHECK_EQ("addr32-then-base", v, 0xbbbb);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

void test_main(void)
{
	map_user(VA, 3);
	test_syscall();
	test_sysenter();
	test_bases();
}
