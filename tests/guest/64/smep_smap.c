/* SPDX-License-Identifier: MIT */
/* SMEP, SMAP and UMIP (SDM vol. 3, 4.6.1, 2.5): what they stop, what AC lets through, implicit accesses. */
#include "lib.h"

#define VA TEST_VA
CODE(ret_code, 64, "ret");
CODE(user_sgdt, 64, "sgdt -16(%rsp); int $0x80");
CODE(user_sidt, 64, "sidt -16(%rsp); int $0x80");
CODE(user_sldt, 64, "sldt %eax; int $0x80");
CODE(user_str, 64, "str %eax; int $0x80");
CODE(user_smsw, 64, "smsw %eax; int $0x80");
CODE(user_stac, 64, "stac; int $0x80");
CODE(user_nop, 64, "int $0x80");

static struct ctx uc;
static unsigned user(char *code, size_t size)
{
	asm volatile("mov %%cr4, %%rax; btr $21, %%rax; mov %%rax, %%cr4" ::: "rax", "memory");
	memcpy((void *)(VA + 0x10000), code, size);
	uc = user_ctx(VA + 0x10000, VA + 0x11000);
	return run(&uc);
}
#define USER(code) user(code, CODE_SIZE(code))

static void smep(void)
{
	if (!HAS_SMEP) {
		SKIP("smep", "not in CPUID");
		return;
	}
	COPY_CODE(VA, ret_code);
	TRY("call *%0", : : "r"(VA) : "memory");
	CHECK_EQ("smep-off", trap.vector, NO_TRAP);
	write_cr4(read_cr4() | CR4_SMEP);
	TRY("push $882f; jmp *%0", : : "r"(VA) : "memory");
	CHECK_EQ("smep-on", trap.vector, PF);
	CHECK_EQ("smep-error", trap.error, 0x11);
	CHECK_EQ("smep-ip", trap.ip, VA);
	*page_entry(VA, 1) &= ~PTE_U;
	invlpg((void *)VA);
	TRY("call *%0", : : "r"(VA) : "memory");
	CHECK_EQ("smep-supervisor-page", trap.vector, NO_TRAP);
	*page_entry(VA, 1) |= PTE_U;
	invlpg((void *)VA);
	CHECK_EQ("smep-user-executes", USER(user_nop), 0x80);
	write_cr4(read_cr4() & ~CR4_SMEP);
	TRY("call *%0", : : "r"(VA) : "memory");
	CHECK_EQ("smep-off-again", trap.vector, NO_TRAP);
}

static void smap(void)
{
	uint64_t old;

	if (!HAS_SMAP) {
		TRY("stac", :);
		CHECK_EQ("stac-without-smap", trap.vector, UD);
		SKIP("smap", "not in CPUID");
		return;
	}
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("smap-off", trap.vector, NO_TRAP);
	write_cr4(read_cr4() | CR4_SMAP);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("smap-write", trap.vector, PF);
	CHECK_EQ("smap-write-error", trap.error, 3);
	TRY("movl (%0), %%eax", : : "r"(VA) : "memory", "rax");
	CHECK_EQ("smap-read-error", trap.error, 1);
	asm volatile("stac");
	CHECK("stac-sets-ac", read_flags() & FL_AC);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("smap-ac", trap.vector, NO_TRAP);
	asm volatile("clac");
	CHECK("clac-clears-ac", !(read_flags() & FL_AC));
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("smap-clac", trap.vector, PF);
	write_flags(read_flags() | FL_AC);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("smap-ac-by-popf", trap.vector, NO_TRAP);
	write_flags(read_flags() & ~FL_AC);
	/* The same access, many times, AC changing in between: no stale right may be used. */
	{
		unsigned bad = 0;
		for (unsigned i = 0; i < 50; i++) {
			asm volatile("stac");
			TRY("movl $1, (%0)", : : "r"(VA) : "memory");
			bad += trap.vector != NO_TRAP;
			asm volatile("clac");
			TRY("movl $1, (%0)", : : "r"(VA) : "memory");
			bad += trap.vector != PF;
		}
		CHECK_EQ("smap-alternating", bad, 0);
	}
	/* Implicit supervisor accesses ignore AC: an LDT in a user page. A load from it must fault even with AC set. */
	{
		uint64_t *table = (uint64_t *)(VA + 0x1000);

		asm volatile("stac");
		table[1] = descriptor(0, 0xfffff, 0xc0f3);
		gdt[SEL_TEST / 8] = descriptor(VA + 0x1000, 0xff, 0x0082);
		gdt[SEL_TEST / 8 + 1] = 0;
		asm volatile("lldt %w0" : : "r"(SEL_TEST) : "memory");
		TRY("mov %0, %%fs", : : "r"(0xc) : "memory");
		asm volatile("clac; lldt %w0" : : "r"(0) : "memory");
		CHECK_EQ("smap-implicit-vector", trap.vector, PF);
		CHECK_EQ("smap-implicit-error", trap.error, 1);
		CHECK_EQ("smap-implicit-cr2", trap.cr2, VA + 0x1008);
	}
	/* CPL 3 accesses are not restricted */
	write_cr4(read_cr4() & ~CR4_SMAP);
	COPY_CODE(VA + 0x10000, user_stac);
	write_cr4(read_cr4() | CR4_SMAP);
	uc = user_ctx(VA + 0x10000, VA + 0x11000);
	CHECK_EQ("stac-in-user-mode", run(&uc), UD);
	/* The TLB filled by user mode gives supervisor mode no right, and the reverse. */
	uc = user_ctx(VA + 0x10000, VA + 0x11000);
	run(&uc);
	TRY("movl (%0), %%eax", : : "r"(VA + 0x10000) : "memory", "rax");
	CHECK_EQ("smap-after-user-access", trap.vector, PF);
	old = read_cr4();
	write_cr4(old & ~CR4_SMAP);
	TRY("movl (%0), %%eax", : : "r"(VA + 0x10000) : "memory", "rax");
	CHECK_EQ("smap-turned-off", trap.vector, NO_TRAP);
	write_cr4(old);
	TRY("movl (%0), %%eax", : : "r"(VA + 0x10000) : "memory", "rax");
	CHECK_EQ("smap-turned-on", trap.vector, PF);
	write_cr4(old & ~CR4_SMAP);
}

static void umip(void)
{
	CHECK_EQ("no-umip-sgdt", USER(user_sgdt), 0x80);
	CHECK_EQ("no-umip-smsw", USER(user_smsw), 0x80);
	CHECK_EQ("no-umip-smsw-value", uc.r[RAX] & 0xffff, read_cr0() & 0xffff);
	CHECK_EQ("no-umip-str", USER(user_str), 0x80);
	CHECK_EQ("no-umip-str-value", uc.r[RAX] & 0xffff, SEL_TSS);
	if (!HAS_UMIP) {
		SKIP("umip", "not in CPUID");
		return;
	}
	write_cr4(read_cr4() | CR4_UMIP);
	CHECK_EQ("umip-sgdt", USER(user_sgdt), GP);
	CHECK_EQ("umip-sgdt-error", uc.error, 0);
	CHECK_EQ("umip-sidt", USER(user_sidt), GP);
	CHECK_EQ("umip-sldt", USER(user_sldt), GP);
	CHECK_EQ("umip-str", USER(user_str), GP);
	CHECK_EQ("umip-smsw", USER(user_smsw), GP);
	TRY("smsw %%eax", : : : "rax");
	CHECK_EQ("umip-supervisor", trap.vector, NO_TRAP);
	write_cr4(read_cr4() & ~CR4_UMIP);
	CHECK_EQ("umip-off-again", USER(user_smsw), 0x80);
}

void test_main(void)
{
	map_user(VA, 2);
	map_user(VA + 0x10000, 1);
	smep();
	smap();
	umip();
}
