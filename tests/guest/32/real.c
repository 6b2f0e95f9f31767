/* SPDX-License-Identifier: MIT */
/* Real mode (SDM vol. 3, 20.1): addressing, wrap, limits, interrupts through the IVT, mode switches, unreal mode. */
#include "lib.h"

#define SEG 0x2000 /* code at linear 0x20000 */
static struct ctx c;

/* Run bytes at SEG:0 with everything zero but SP; ends at an interrupt. */
static unsigned real(const char *code, unsigned size)
{
	memcpy((void *)(SEG * 16), code, size);
	c.cs = SEG;
	c.ip = 0;
	c.ss = 0x3000;
	c.r[RSP] = 0x1000;
	c.flags = 2;
	return real_run(&c);
}
#define REAL(name) real(name, CODE_SIZE(name))
static void clear(void)
{
	memset(&c, 0, sizeof(c));
}

CODE(r_segments, 16, "mov $0x1234, %ax; mov %ax, %es; mov %es, %bx; movw $0x55aa, %es:0x10; int $0x30");
CODE(r_32bit, 16, "mov $0x12345678, %eax; lea (%eax,%eax,2), %ebx; push %eax; pop %ecx; movzbl %al, %edx; int $0x30");
CODE(r_addr32, 16, "mov $0x100, %ebx; movw $0x77, 2(%ebx); mov 0x102, %ax; int $0x30");
CODE(r_wrap, 16, "mov $0xffff, %bx; mov 0x11(%bx), %al; int $0x30");
CODE(r_limit_word, 16, "mov $0xffff, %bx; mov (%bx), %ax; int $0x30");
CODE(r_limit_ss, 16, "mov $0xffff, %bp; mov (%bp), %ax; int $0x30");
CODE(r_limit_32, 16, "mov $0x10000, %ebx; mov (%ebx), %al; int $0x30");
CODE(r_push_wrap, 16, "xor %sp, %sp; push $0x1122; mov %sp, %ax; int $0x30");
CODE(r_push_odd, 16, "mov $1, %sp; push $0x1122; int $0x30");
CODE(r_int_iret, 16, "mov $0x1111, %ax; int $0x40; mov %ax, %cx; int $0x30");
CODE(r_handler, 16, "mov %sp, %bx; mov %ss:(%bx), %dx; mov %ss:4(%bx), %si; pushf; pop %di; mov $0x2222, %ax; iretw");
CODE(r_far, 16, "lcall $0x2100, $0x20; mov %ax, %cx; int $0x30");
CODE(r_far_target, 16, "mov %cs, %dx; mov $0x4321, %ax; lret");
CODE(r_ljmp_ind, 16, "ljmp *0x400; hlt");
CODE(r_div, 16, "xor %cx, %cx; div %cx; int $0x30");
CODE(r_ud, 16, "nop; ud2");
CODE(r_int3, 16, "int3; nop");
CODE(r_into, 16, "mov $0x7f, %al; add $1, %al; into; int $0x30");
CODE(r_bound, 16, "mov $5, %ax; movw $1, 0x500; movw $4, 0x502; bound %ax, 0x500; int $0x30");
CODE(r_pushf, 16, "pushf; pop %ax; or $0xf000, %ax; push %ax; popf; pushf; pop %bx; cli; int $0x30");
CODE(r_lmsw, 16, "smsw %ax; mov %cr0, %ebx; int $0x30");
CODE(r_lldt, 16, "lldt %ax; int $0x30");
CODE(r_str, 16, "str %ax; int $0x30");
CODE(r_lar, 16, "lar %ax, %bx; int $0x30");
CODE(r_arpl, 16, ".byte 0x63, 0xc0; int $0x30");
CODE(r_string, 16, "mov $0x10, %si; mov $0xfffe, %di; mov $4, %cx; rep movsb; int $0x30");
CODE(r_loop, 16, "xor %ax, %ax; mov $10, %cx; 1: add %cx, %ax; loop 1b; jcxz 2f; hlt; 2: int $0x30");
CODE(r_enter, 16, "mov $0x2000, %bp; enter $0x10, $0; mov %bp, %ax; mov %sp, %bx; leave; mov %bp, %cx; int $0x30");
CODE(r_pusha, 16, "mov $1, %ax; mov $2, %cx; mov $3, %dx; mov $4, %bx; mov $5, %bp; mov $6, %si; mov $7, %di; pusha; xor %ax, %ax; xor %di, %di; popa; int $0x30");
CODE(r_bcd, 16, "mov $0x15, %al; add $0x27, %al; daa; mov %ax, %bx; mov $0x0f, %ax; aaa; mov %ax, %cx; mov $63, %al; aam; mov %ax, %dx; aad; mov %ax, %si; int $0x30");
CODE(r_xlat, 16, "mov $0x600, %bx; movb $0x5c, 0x607; mov $7, %al; xlat; int $0x30");
CODE(r_a20, 16, "mov $0xffff, %ax; mov %ax, %es; mov %es:0x10, %bx; int $0x30");
CODE(r_io, 16, "mov $0x70, %dx; mov $0x0f, %al; out %al, %dx; in $0x71, %al; cli; sti; cli; int $0x30");
CODE(r_jmp_near_wrap, 16, "jmp . + 0x7ff0");
CODE(r_ip_wrap, 16, "nop");
CODE(r_tf, 16, "pushf; pop %ax; or $0x100, %ax; push %ax; popf; nop; nop; int $0x30");
CODE(r_lock, 16, ".byte 0xf0, 0x90");
CODE(r_cpuid, 16, "xor %eax, %eax; cpuid; int $0x30");
CODE(r_sysenter, 16, "sysenter");
/* Unreal: load a 4 GiB DS descriptor in protected mode, return to real mode, keep the limit. GDT pointer at DS:0x700 */
CODE(r_unreal, 16, "cli; lgdtl 0x700; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; jmp 1f; 1: mov $0x10, %bx; mov %bx, %ds; mov %bx, %es; and $0xfe, %al; mov %eax, %cr0; jmp 2f; 2: "
		   "mov $0x200000, %ebx; movl $0xcafebabe, %ds:(%ebx); mov %ds:(%ebx), %ecx; xor %ax, %ax; mov %ax, %ds; mov %ds:(%ebx), %edx; mov %es:(%ebx), %esi; int $0x30");

static void copy(unsigned linear, const char *code, unsigned size)
{
	memcpy((void *)linear, code, size);
}

void test_main(void)
{
	clear();
	CHECK_EQ("segments", REAL(r_segments), 0x30);
	CHECK_EQ("es-selector", c.r[RBX] & 0xffff, 0x1234);
	CHECK_EQ("es-base", *(uint16_t *)0x12350, 0x55aa);
	clear();
	CHECK_EQ("operand-32", REAL(r_32bit), 0x30);
	CHECK_EQ("operand-32-lea", c.r[RBX], 0x369d0368);
	CHECK_EQ("operand-32-push", c.r[RCX], 0x12345678);
	CHECK_EQ("operand-32-movzx", c.r[RDX], 0x78);
	clear();
	c.ds = 0x4000;
	CHECK_EQ("address-32", REAL(r_addr32), 0x30);
	CHECK_EQ("address-32-value", c.r[RAX] & 0xffff, 0x77);
	/* 16-bit effective addresses wrap at 64K */
	clear();
	c.ds = 0x4000;
	*(uint8_t *)0x40010 = 0x99;
	CHECK_EQ("address-wrap", REAL(r_wrap), 0x30);
	CHECK_EQ("address-wrap-value", c.r[RAX] & 0xff, 0x99);
	/* a word at offset 0xffff exceeds the limit */
	clear();
	CHECK_EQ("limit-word", REAL(r_limit_word), GP);
	CHECK_EQ("limit-word-ip", c.ip, 3);
	clear();
	CHECK_EQ("limit-stack-segment", REAL(r_limit_ss), SS);
	clear();
	CHECK_EQ("limit-32-bit-offset", REAL(r_limit_32), GP);
	clear();
	CHECK_EQ("push-wrap", REAL(r_push_wrap), 0x30);
	CHECK_EQ("push-wrap-sp", c.r[RAX] & 0xffff, 0xfffe);
	CHECK_EQ("push-wrap-memory", *(uint16_t *)0x3fffe, 0x1122);
	/* (PUSH with SP = 1 shuts the machine down on a #SS whose frame cannot be pushed: not tried) */

	/* interrupts */
	copy(0x28000, r_handler, CODE_SIZE(r_handler));
	clear();
	/* real_run() fills the IVT anew each time: the guest code patches its own vector */
	{
		static const char patch[] = "\x31\xc0\x8e\xd8\xc7\x06\x00\x01\x00\x00\xc7\x06\x02\x01\x00\x28"; /* xor ax,ax; mov ds,ax; mov word [0x100],0; mov word [0x102],0x2800 */
		char buf[64];
		unsigned v;

		memcpy(buf, patch, 16);
		memcpy(buf + 16, r_int_iret, CODE_SIZE(r_int_iret));
		memcpy((void *)(SEG * 16), buf, 64);
		c.cs = SEG;
		c.ip = 0;
		c.ss = 0x3000;
		c.r[RSP] = 0x1000;
		c.flags = 2 | FL_CF;
		v = real_run(&c);
		CHECK_EQ("int-n", v, 0x30);
		CHECK_EQ("int-n-returned", c.r[RCX] & 0xffff, 0x2222);
		CHECK_EQ("int-n-pushed-ip", c.r[RDX] & 0xffff, 16 + 5);
		CHECK_EQ("int-n-pushed-flags", c.r[RSI] & FL_CF, 0); /* XOR cleared it */
		CHECK_EQ("int-n-clears-if-tf", c.r[RDI] & (FL_IF | FL_TF), 0);
	}
	/* far calls and jumps */
	copy(0x21020, r_far_target, CODE_SIZE(r_far_target));
	clear();
	CHECK_EQ("far-call", REAL(r_far), 0x30);
	CHECK_EQ("far-call-cs", c.r[RDX] & 0xffff, 0x2100);
	CHECK_EQ("far-call-returned", c.r[RCX] & 0xffff, 0x4321);
	CHECK_EQ("far-call-sp", c.r[RSP] & 0xffff, 0x1000);
	clear();
	c.ds = 0x4000;
	*(uint32_t *)0x40400 = 0x25000003;
	memcpy((void *)0x25003, "\xcd\x33", 2);
	CHECK_EQ("far-jump-indirect", REAL(r_ljmp_ind), 0x33);
	CHECK_EQ("far-jump-cs", c.cs, 0x2500);
	/* exceptions: vectors without error codes, IP of the instruction or of the next */
	clear();
	CHECK_EQ("div-zero", REAL(r_div), DE);
	CHECK_EQ("div-zero-ip", c.ip, 2);
	CHECK_EQ("div-zero-sp", c.r[RSP] & 0xffff, 0x1000);
	clear();
	CHECK_EQ("ud", REAL(r_ud), UD);
	CHECK_EQ("ud-ip", c.ip, 1);
	clear();
	CHECK_EQ("int3", REAL(r_int3), BP);
	CHECK_EQ("int3-ip", c.ip, 1);
	clear();
	CHECK_EQ("into", REAL(r_into), OF);
	CHECK_EQ("into-ip", c.ip, 5);
	clear();
	CHECK_EQ("bound", REAL(r_bound), BR);
	clear();
	CHECK_EQ("lock-nop", REAL(r_lock), UD);
	clear();
	CHECK_EQ("lldt-in-real-mode", REAL(r_lldt), UD);
	clear();
	CHECK_EQ("str-in-real-mode", REAL(r_str), UD);
	clear();
	CHECK_EQ("lar-in-real-mode", REAL(r_lar), UD);
	clear();
	CHECK_EQ("arpl-in-real-mode", REAL(r_arpl), UD);
	clear();
	CHECK_EQ("sysenter-in-real-mode", REAL(r_sysenter), GP);
	clear();
	CHECK_EQ("single-step", REAL(r_tf), DB);
	CHECK_EQ("single-step-ip", c.ip, 8);
	/* flags and control registers */
	clear();
	CHECK_EQ("popf", REAL(r_pushf), 0x30);
	CHECK_EQ("popf-iopl-nt", c.r[RBX] & 0xf000, 0x7000);
	clear();
	CHECK_EQ("smsw", REAL(r_lmsw), 0x30);
	CHECK_EQ("smsw-pe", c.r[RBX] & 1, 0);
	/* strings wrap DI at 64K */
	clear();
	c.ds = 0x4000;
	c.es = 0x5000;
	*(uint32_t *)0x40010 = 0x44332211;
	CHECK_EQ("string-wrap", REAL(r_string), 0x30);
	CHECK_EQ("string-wrap-high", *(uint16_t *)0x5fffe, 0x2211);
	CHECK_EQ("string-wrap-low", *(uint16_t *)0x50000, 0x4433);
	CHECK_EQ("string-wrap-di", c.r[RDI] & 0xffff, 2);
	clear();
	c.r[RCX] = 0xabcd0000;
	CHECK_EQ("loop", REAL(r_loop), 0x30);
	CHECK_EQ("loop-sum", c.r[RAX] & 0xffff, 55);
	CHECK_EQ("loop-high-kept", c.r[RCX] >> 16, 0xabcd);
	clear();
	CHECK_EQ("enter", REAL(r_enter), 0x30);
	CHECK_EQ("enter-bp", c.r[RAX] & 0xffff, 0xffe);
	CHECK_EQ("enter-sp", c.r[RBX] & 0xffff, 0xfee);
	CHECK_EQ("leave-bp", c.r[RCX] & 0xffff, 0x2000);
	clear();
	CHECK_EQ("pusha", REAL(r_pusha), 0x30);
	CHECK_EQ("popa-ax", c.r[RAX] & 0xffff, 1);
	CHECK_EQ("popa-di", c.r[RDI] & 0xffff, 7);
	clear();
	CHECK_EQ("bcd", REAL(r_bcd), 0x30);
	CHECK_EQ("daa", c.r[RBX] & 0xff, 0x42);
	CHECK_EQ("aaa", c.r[RCX] & 0xffff, 0x105);
	CHECK_EQ("aam", c.r[RDX] & 0xffff, 0x603);
	CHECK_EQ("aad", c.r[RSI] & 0xffff, 63);
	clear();
	CHECK_EQ("xlat", REAL(r_xlat), 0x30);
	CHECK_EQ("xlat-value", c.r[RAX] & 0xff, 0x5c);
	clear();
	*(volatile uint16_t *)0x100000 = *(volatile uint16_t *)0x100000; /* the first word of the image */
	CHECK_EQ("above-1m", REAL(r_a20), 0x30);
	CHECK_EQ("above-1m-value", c.r[RBX] & 0xffff, *(volatile uint16_t *)0x100000);
	clear();
	CHECK_EQ("io", REAL(r_io), 0x30);
	clear();
	CHECK_EQ("cpuid", REAL(r_cpuid), 0x30);
	CHECK_EQ("cpuid-ebx", c.r[RBX], cpuid(0, 0).b);
	/* IP beyond 0xffff: #GP when the next fetch exceeds the limit */
	clear();
	*(uint8_t *)0x2ffff = 0x90;
	c.cs = SEG;
	c.ip = 0xffff;
	c.ss = 0x3000;
	c.r[RSP] = 0x1000;
	c.flags = 2;
	CHECK_EQ("ip-past-limit", real_run(&c), GP);
	/* unreal mode */
	clear();
	c.ds = 0x4000;
	*(uint16_t *)0x40700 = 0x17;
	*(uint32_t *)0x40702 = 0x40800;
	((uint64_t *)0x40800)[0] = 0;
	((uint64_t *)0x40800)[1] = descriptor(0, 0xffff, 0x009b);
	((uint64_t *)0x40800)[2] = descriptor(0, 0xfffff, 0xc093);
	CHECK_EQ("unreal", REAL(r_unreal), 0x30);
	CHECK_EQ("unreal-write", *(volatile uint32_t *)0x200000, 0xcafebabe);
	CHECK_EQ("unreal-read", c.r[RCX], 0xcafebabe);
	CHECK_EQ("unreal-limit-survives-segment-load", c.r[RDX], 0xcafebabe);
	CHECK_EQ("unreal-es", c.r[RSI], 0xcafebabe);
	/* self-modifying code in real mode */
	clear();
	c.ds = SEG;
	/* mov byte [0x6], 0x42; mov al, 0 (its immediate is at 6); int 0x30 */
	CHECK_EQ("smc", real("\xc6\x06\x06\x00\x42\xb0\x00\xcd\x30", 9), 0x30);
	CHECK_EQ("smc-value", c.r[RAX] & 0xff, 0x42);
}
