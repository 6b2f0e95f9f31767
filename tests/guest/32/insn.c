/* SPDX-License-Identifier: MIT */
/* Instructions that only exist, or differ, outside 64-bit mode, and 32-bit SYSENTER, single-step and breakpoints. */
#include "lib.h"

static uint8_t ustack[1024] __attribute__((aligned(16)));
static struct ctx c;

static unsigned user(const char *code)
{
	c = user_ctx((ulong)code, (ulong)ustack + 1024);
	return run(&c);
}

CODE(i_into, 32, "mov $0x7fffffff, %eax; inc %eax; into; int3");
CODE(i_into_no, 32, "xor %eax, %eax; into; int3");
CODE(i_bound_ok, 32, "push $10; push $-5; mov $10, %eax; bound %eax, (%esp); int3");
CODE(i_bound_low, 32, "push $10; push $-5; mov $-6, %eax; bound %eax, (%esp); int3");
CODE(i_bound_high, 32, "push $10; push $-5; mov $11, %eax; bound %eax, (%esp); int3");
CODE(i_daa, 32, "mov $0x79, %al; add $0x35, %al; daa; setc %cl; mov %al, %ch; mov $0x35, %al; sub $0x47, %al; das; setc %dl; mov %al, %dh; int3");
CODE(i_aaa, 32, "mov $0x0108, %ax; add $5, %al; aaa; mov %eax, %ecx; mov $0x0203, %ax; sub $7, %al; aas; mov %eax, %edx; int3");
CODE(i_aam, 32, "mov $0x7b, %al; aam; mov %eax, %ecx; mov $0x0307, %ax; aad; mov %eax, %edx; int3");
CODE(i_aam0, 32, ".byte 0xd4, 0");
CODE(i_salc, 32, "stc; .byte 0xd6; mov %eax, %ecx; clc; .byte 0xd6; int3");
CODE(i_pusha, 32, "mov %esp, %ebp; mov $1, %eax; mov $2, %ecx; mov $3, %edx; mov $4, %ebx; mov $6, %esi; mov $7, %edi; pusha; mov 12(%esp), %eax; sub %ebp, %eax; xor %ecx, %ecx; xor %edi, %edi; mov %eax, 28(%esp); popa; int3");
CODE(i_push_seg, 32, "push $-1; push %ds; pop %eax; push %cs; pop %ebx; int3");
CODE(i_les, 32, "push $0x23; push $0x12345678; les (%esp), %eax; mov %es, %ecx; int3");
CODE(i_incdec, 32, "stc; mov $-1, %eax; inc %eax; pushf; pop %ebx; dec %ecx; pushf; pop %edx; int3");
CODE(i_addr16, 32, "mov $0x10000, %ebx; addr16 lea 5(%bx), %eax; int3");
CODE(i_loop16, 32, "mov $0x10003, %ecx; xor %eax, %eax; 1: inc %eax; addr16 loop 1b; int3");
CODE(i_op16_ret, 32, "push $0; call 1f; 1: pop %eax; pushw $0x1234; popw %bx; int3");
CODE(i_xlat, 32, "call 1f; .byte 10, 20, 30; 1: pop %ebx; mov $2, %al; xlat; int3");
CODE(i_icebp, 32, ".byte 0xf1; int3");
CODE(i_xchg_seg, 32, "mov %ss, %eax; mov %eax, %ss; int3");
CODE(i_rdtsc, 32, "rdtsc; int3");
CODE(i_syscall32, 32, "syscall; int3");
CODE(i_sysenter, 32, "sysenter; int3");
CODE(i_tf, 32, "pushf; orl $0x100, (%esp); popf; nop; int3");
CODE(i_cli, 32, "cli; int3");
CODE(i_in, 32, "in $0x80, %al; int3");
CODE(i_cmpxchg8b, 32, "push $1; push $2; mov $2, %eax; mov $1, %edx; mov $4, %ebx; mov $3, %ecx; lock cmpxchg8b (%esp); pop %esi; pop %edi; int3");
CODE(i_lock_bad, 32, "f00f: .byte 0xf0, 0x0f, 0xc7, 0xc8; int3");
CODE(i_enter, 32, "mov %esp, %ebp; push $0x11; enter $8, $2; mov %ebp, %eax; mov -4(%ebp), %ebx; mov -8(%ebp), %ecx; int3");
CODE(i_vex_les, 32, ".byte 0xc4, 0x04, 0x24; int3");
CODE(i_vex, 32, "vxorps %xmm0, %xmm0, %xmm0; int3");

extern char sysenter_entry[];
asm(".pushsection .text.sysenter, \"ax\"\nsysenter_entry: int $0x85\n.popsection");

void test_main(void)
{
	CHECK_EQ("into", user(i_into), OF);
	CHECK_EQ("into-ip-after", c.ip, (ulong)i_into + 7);
	CHECK_EQ("into-not", user(i_into_no), BP);
	CHECK_EQ("bound-inside", user(i_bound_ok), BP);
	CHECK_EQ("bound-low", user(i_bound_low), BR);
	CHECK_EQ("bound-ip", c.ip, (ulong)i_bound_low + 9);
	CHECK_EQ("bound-high", user(i_bound_high), BR);
	user(i_daa);
	CHECK_EQ("daa", c.r[RCX] & 0xffff, 0x1401);
	CHECK_EQ("das", c.r[RDX] & 0xffff, 0x8801);
	user(i_aaa);
	CHECK_EQ("aaa", c.r[RCX] & 0xffff, 0x0203);
	CHECK_EQ("aas", c.r[RDX] & 0xffff, 0x0106);
	user(i_aam);
	CHECK_EQ("aam", c.r[RCX] & 0xffff, 0x0c03);
	CHECK_EQ("aad", c.r[RDX] & 0xffff, 0x0025);
	CHECK_EQ("aam-0", user(i_aam0), DE);
	user(i_salc);
	CHECK_EQ("salc-set", c.r[RCX] & 0xff, 0xff);
	CHECK_EQ("salc-clear", c.r[RAX] & 0xff, 0);
	CHECK_EQ("pusha", user(i_pusha), BP);
	CHECK_EQ("pusha-esp", c.r[RAX], 0);
	CHECK_EQ("popa-ecx", c.r[RCX], 2);
	CHECK_EQ("popa-edi", c.r[RDI], 7);
	CHECK_EQ("popa-esp", c.r[RSP], (ulong)ustack + 1024);
	user(i_push_seg);
	CHECK_EQ("push-cs", c.r[RBX] & 0xffff, SEL_UCODE | 3);
	user(i_les);
	CHECK_EQ("les-offset", c.r[RAX], 0x12345678);
	CHECK_EQ("les-selector", c.r[RCX] & 0xffff, 0x23);
	c = user_ctx((ulong)i_incdec, (ulong)ustack + 1024);
	c.r[RCX] = 0x80000000;
	run(&c);
	CHECK_EQ("inc-keeps-cf", c.r[RBX] & (FL_CF | FL_ZF), FL_CF | FL_ZF);
	CHECK_EQ("dec-overflow", c.r[RDX] & (FL_CF | FL_OF), FL_CF | FL_OF);
	user(i_addr16);
	CHECK_EQ("lea-addr16", c.r[RAX], 5);
	user(i_loop16);
	CHECK_EQ("loop-addr16", c.r[RAX], 3);
	CHECK_EQ("loop-addr16-ecx", c.r[RCX], 0x10000);
	CHECK_EQ("op16", user(i_op16_ret), BP);
	CHECK_EQ("op16-bx", c.r[RBX] & 0xffff, 0x1234);
	user(i_xlat);
	CHECK_EQ("xlat", c.r[RAX] & 0xff, 30);
	CHECK_EQ("icebp", user(i_icebp), DB);
	CHECK_EQ("icebp-ip", c.ip, (ulong)i_icebp + 1);
	CHECK_EQ("mov-ss", user(i_xchg_seg), BP);
	user(i_enter);
	CHECK_EQ("enter-level-2-ebp", c.r[RAX], (ulong)ustack + 1024 - 8);
	CHECK_EQ("enter-level-2-frame", c.r[RCX], (ulong)ustack + 1024 - 8);
	user(i_cmpxchg8b);
	CHECK_EQ("cmpxchg8b-zf", c.flags & FL_ZF, FL_ZF);
	CHECK_EQ("cmpxchg8b-low", c.r[RSI], 4);
	CHECK_EQ("cmpxchg8b-high", c.r[RDI], 3);
	CHECK_EQ("f00f", user(i_lock_bad), UD);
	CHECK_EQ("cli-iopl0", user(i_cli), GP);
	CHECK_EQ("in-iopl0", user(i_in), GP);
	CHECK_EQ("c4-is-les", user(i_vex_les), BP);
	if (has_cpuid(1, 'c', 28)) {
		write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXSAVE);
		asm volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
		CHECK_EQ("vex-32", user(i_vex), BP);
	}
	write_dr6(0xffff0ff0);
	CHECK_EQ("single-step", user(i_tf), DB);
	CHECK_EQ("single-step-ip", c.ip, (ulong)i_tf + 10);
	CHECK_EQ("single-step-dr6", read_dr6(), 0xffff4ff0);
	/* SYSENTER and SYSEXIT work in 32-bit protected mode on both vendors' CPUs */
	if (has_cpuid(1, 'd', 11)) {
		wrmsr(MSR_SYSENTER_CS, 0);
		CHECK_EQ("sysenter-null-cs", user(i_sysenter), GP);
		wrmsr(MSR_SYSENTER_CS, SEL_CODE);
		wrmsr(MSR_SYSENTER_EIP, (ulong)sysenter_entry);
		wrmsr(MSR_SYSENTER_ESP, tss0.esp0);
		CHECK_EQ("sysenter", user(i_sysenter), 0x85);
		CHECK_EQ("sysenter-cs", c.cs, SEL_CODE);
		CHECK_EQ("sysenter-esp", c.r[RSP], tss0.esp0);
		CHECK_EQ("sysenter-if", c.flags & FL_IF, 0);
		/* SYSEXIT: EDX -> EIP, ECX -> ESP */
		c = user_ctx((ulong) "\x0f\x35", tss0.esp0 - 64);
		c.cs = SEL_CODE;
		c.ss = SEL_DATA;
		c.r[RDX] = (ulong)i_into_no;
		c.r[RCX] = (ulong)ustack + 512;
		CHECK_EQ("sysexit", run(&c), BP);
		CHECK_EQ("sysexit-cs", c.cs, SEL_UCODE | 3);
		CHECK_EQ("sysexit-ss", c.ss, SEL_UDATA | 3);
		CHECK_EQ("sysexit-esp", c.r[RSP], (ulong)ustack + 512);
		CHECK_EQ("sysexit-user", user("\x0f\x35"), GP);
	} else {
		SKIP("sysenter", "not in CPUID");
	}
	/* SYSCALL in legacy mode: AMD with EFER.SCE; Intel #UD */
	CHECK_EQ("syscall-sce-off", user(i_syscall32), UD);
	/* limits of the GDT and the IDT */
	{
		struct table_ptr small = { 0x3f, (ulong)gdt }, full = { GDT_BYTES - 1, (ulong)gdt };

		lgdt(&small);
		TRY("mov %0, %%gs", : : "r"(0x40) : "memory");
		lgdt(&full);
		CHECK_EQ("gdt-limit", trap.vector, GP);
		CHECK_EQ("gdt-limit-error", trap.error, 0x40);
	}
	/* physical address wrap: no A20 gate games; linear 4 GiB wrap of a dword access */
	asm volatile("mov %0, %%gs" : : "r"(0));
}
