/* SPDX-License-Identifier: MIT */
/* Call gates, far calls and returns between rings, interrupt and trap gates of 32 and 16 bits (SDM vol. 3, 5.8, 6.12). */
#include "lib.h"

#define T(n) (SEL_TEST + 8 * (n))
static uint8_t ustack[1024] __attribute__((aligned(16))), stack1[1024] __attribute__((aligned(16)));

CODE(u_gate, 32, "push $0x33; push $0x22; push $0x11; lcall $0x80, $0xdeadbeef; mov %eax, %ebx; mov %esp, %edx; int3");
CODE(u_jmp_gate, 32, "ljmp $0x80, $0");
CODE(u_far, 32, "lcall $0x1b, $0x100; int3");
CODE(u_int, 32, "int $0x40; int3");
CODE(u_lret_in, 32, "push $8; push $0; lret");

/* Gate targets, at CPL 0 */
extern char g_look[], g_return[], g_int[], g_ring1[];
asm(".pushsection .text.gates, \"ax\"\n"
    "g_look: int $0x44\n"
    "g_return: mov 8(%esp), %eax; shl $8, %eax; or 12(%esp), %eax; lret $12\n"
    "g_int: int $0x44\n"
    "g_ring1: mov %cs, %eax; mov %ss, %ecx; lret $12\n"
    ".popsection");

void test_main(void)
{
	struct ctx c;
	uint32_t *s;

	/* ring 3 -> ring 0 with three parameters */
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_look, 0xec, 3);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("call-gate", run(&c), 0x44);
	CHECK_EQ("call-gate-cs", c.cs, SEL_CODE);
	CHECK_EQ("call-gate-esp", c.r[RSP], tss0.esp0 - 28);
	s = (uint32_t *)c.r[RSP];
	CHECK_EQ("saved-eip", s[0], (ulong)u_gate + 13);
	CHECK_EQ("saved-cs", s[1], SEL_UCODE | 3);
	CHECK_EQ("parameter-1", s[2], 0x11);
	CHECK_EQ("parameter-2", s[3], 0x22);
	CHECK_EQ("parameter-3", s[4], 0x33);
	CHECK_EQ("saved-esp", s[5], (ulong)ustack + 1024 - 12);
	CHECK_EQ("saved-ss", s[6], SEL_UDATA | 3);
	/* and back, popping the parameters from both stacks */
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_return, 0xec, 3);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("gate-return", run(&c), BP);
	CHECK_EQ("gate-return-value", c.r[RBX], 0x1122);
	CHECK_EQ("gate-return-esp", c.r[RDX], (ulong)ustack + 1024);
	CHECK_EQ("gate-return-cs", c.cs, SEL_UCODE | 3);
	/* refused */
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_look, 0x8c, 0);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("gate-dpl", run(&c), GP);
	CHECK_EQ("gate-dpl-error", c.error, T(0));
	CHECK_EQ("gate-dpl-ip", c.ip, (ulong)u_gate + 6);
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_look, 0x6c, 0);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("gate-not-present", run(&c), NP);
	CHECK_EQ("gate-not-present-error", c.error, T(0));
	gdt[T(0) / 8] = gate32(SEL_DATA, (ulong)g_look, 0xec, 0);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("gate-data-target", run(&c), GP);
	CHECK_EQ("gate-data-target-error", c.error, SEL_DATA);
	gdt[T(0) / 8] = gate32(0, (ulong)g_look, 0xec, 0);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("gate-null-target", run(&c), GP);
	CHECK_EQ("gate-null-target-error", c.error, 0);
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_look, 0xec, 0);
	c = user_ctx((ulong)u_jmp_gate, (ulong)ustack + 1024);
	CHECK_EQ("jmp-to-inner-ring", run(&c), GP);
	CHECK_EQ("jmp-to-inner-ring-error", c.error, SEL_CODE);
	/* bad stacks in the TSS: #TS with the selector */
	tss0.ss0 = SEL_UDATA | 3;
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	{
		/* the #TS itself needs a stack: through a trap at ring 0 nothing could be delivered, so give it a task's stack:
		 * not possible without a task gate; the machine would triple fault. Left to task.c. */
		tss0.ss0 = SEL_DATA;
	}
	/* ring 1: code, stack, and a gate to it */
	gdt[T(1) / 8] = descriptor(0, 0xfffff, 0xc0bb);
	gdt[T(2) / 8] = descriptor(0, 0xfffff, 0xc0b3);
	tss0.ss1 = T(2) | 1;
	tss0.esp1 = (ulong)stack1 + 1024;
	gdt[T(0) / 8] = gate32(T(1), (ulong)g_ring1, 0xec, 3);
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("ring-1", run(&c), BP);
	CHECK_EQ("ring-1-cs", c.r[RBX] & 0xffff, T(1) | 1);
	CHECK_EQ("ring-1-ss", c.r[RCX] & 0xffff, T(2) | 1);
	/* #TS: a ring-1 stack of the wrong ring, reported on the ring-0 stack */
	tss0.ss1 = T(2) | 2;
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("ts-wrong-rpl", run(&c), TS);
	CHECK_EQ("ts-wrong-rpl-error", c.error, T(2));
	tss0.ss1 = 0;
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("ts-null", run(&c), TS);
	CHECK_EQ("ts-null-error", c.error, 0);
	gdt[T(3) / 8] = descriptor(0, 0xfffff, 0xc033);
	tss0.ss1 = T(3) | 1;
	c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
	CHECK_EQ("ts-stack-not-present", run(&c), SS);
	CHECK_EQ("ts-stack-not-present-error", c.error, T(3));
	/* 16-bit call gate: words are copied and pushed */
	gdt[T(0) / 8] = gate32(SEL_CODE, (ulong)g_look & 0xffff, 0xe4, 2);
	if (((ulong)g_look >> 16) == 0) {
		c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
		CHECK_EQ("gate-16", run(&c), 0x44);
	} else {
		gdt[T(4) / 8] = descriptor((ulong)g_look, 0xfffff, 0xc09b);
		gdt[T(0) / 8] = gate32(T(4), 0, 0xe4, 2);
		c = user_ctx((ulong)u_gate, (ulong)ustack + 1024);
		CHECK_EQ("gate-16", run(&c), 0x44);
		CHECK_EQ("gate-16-esp", c.r[RSP], tss0.esp0 - 12);
		uint16_t *w = (uint16_t *)c.r[RSP];
		CHECK_EQ("gate-16-ip", w[0], ((ulong)u_gate + 13) & 0xffff);
		CHECK_EQ("gate-16-cs", w[1], SEL_UCODE | 3);
		CHECK_EQ("gate-16-parameter", w[2], 0x11);
		CHECK_EQ("gate-16-ss", w[5], SEL_UDATA | 3);
	}
	/* a direct far call within ring 3 */
	c = user_ctx((ulong)u_far, (ulong)ustack + 1024);
	memcpy((void *)0x100, "\xb8\x78\x00\x00\x00\xcb", 6); /* mov $0x78, %eax; lret */
	CHECK_EQ("far-call-same-ring", run(&c), BP);
	CHECK_EQ("far-call-same-ring-eax", c.r[RAX], 0x78);
	/* a far return may not go inwards */
	c = user_ctx((ulong)u_lret_in, (ulong)ustack + 1024);
	CHECK_EQ("return-inwards", run(&c), GP);
	CHECK_EQ("return-inwards-error", c.error, SEL_CODE);
	/* interrupt gate flags, 16-bit interrupt gate */
	set_gate(0x40, trap_stubs + 16 * 0x40, 3, 0);
	c = user_ctx((ulong)u_int, (ulong)ustack + 1024);
	c.flags |= FL_IF | FL_NT;
	CHECK_EQ("int-gate", run(&c), 0x40);
	CHECK_EQ("int-gate-saved-flags", c.flags & (FL_IF | FL_NT), FL_IF | FL_NT);
	gdt[T(4) / 8] = descriptor((ulong)g_int, 0xfffff, 0xc09b);
	idt[0x40] = gate32(T(4), 0, 0xe6, 0);
	c = user_ctx((ulong)u_int, (ulong)ustack + 1024);
	CHECK_EQ("int-gate-16", run(&c), 0x44);
	CHECK_EQ("int-gate-16-esp", c.r[RSP], tss0.esp0 - 10);
	CHECK_EQ("int-gate-16-ip", *(uint16_t *)c.r[RSP], ((ulong)u_int + 2) & 0xffff);
	reset_gate(0x40);
	c = user_ctx((ulong)u_int, (ulong)ustack + 1024);
	CHECK_EQ("int-dpl", run(&c), GP);
	CHECK_EQ("int-dpl-error", c.error, 0x40 * 8 + 2);
	/* interrupt through a conforming segment keeps the ring: no stack switch */
	gdt[T(4) / 8] = descriptor((ulong)g_int, 0xfffff, 0xc09f);
	idt[0x40] = gate32(T(4), 0, 0xee, 0);
	set_gate(0x44, trap_stubs + 16 * 0x44, 3, 0);
	c = user_ctx((ulong)u_int, (ulong)ustack + 1024);
	CHECK_EQ("conforming-handler", run(&c), 0x44);
	CHECK_EQ("conforming-handler-cpl", c.cs & 3, 3);
	CHECK_EQ("conforming-handler-esp", c.r[RSP], (ulong)ustack + 1024 - 12);
	reset_gate(0x40);
}
