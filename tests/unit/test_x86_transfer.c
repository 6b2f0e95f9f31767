/* SPDX-License-Identifier: MIT */
/* Far JMP, CALL, RET; SYSCALL, SYSENTER and their returns: SDM volume 2, AMD APM volume 3. */
#include "x86_machine.h"

#define JUMP(m, selector, offset, size) x86_far_jump(&(m)->sys, selector, offset, size, &(m)->fault)
#define CALL(m, selector, offset, size) x86_far_call(&(m)->sys, selector, offset, size, &(m)->fault)
#define RET(m, size, pop) x86_far_return(&(m)->sys, size, pop, &(m)->fault)
#define SP(m) ((m)->cpu.gpr[X86_RSP])
#define CS_OF(m) ((m)->cpu.seg[X86_CS])
#define SS_OF(m) ((m)->cpu.seg[X86_SS])
#define CALL32 0x8c
#define CALL16 0x84
#define DPL3 0x60

static void set_call_gate(struct machine *m, uint16_t at, uint16_t selector, uint64_t offset,
			  uint8_t attr, uint8_t parameters)
{
	set_gdt(m, at, gate_descriptor(selector, (uint32_t)offset, attr, parameters));
	poke(m, GDT_BASE + at + 8, 8, offset >> 32);
}

static void real_mode(void **state)
{
	struct machine *m = *state;

	assert_ok(m, CALL(m, 0x2000, 0x123, 2));
	assert_int_equal(CS_OF(m).base, 0x20000);
	assert_int_equal(m->cpu.rip, 0x123);
	assert_int_equal(SP(m), STACK0 - 4);
	assert_int_equal(peek(m, STACK0 - 4, 4), 0x00001000);
	assert_ok(m, RET(m, 2, 6));
	assert_int_equal(CS_OF(m).base, 0);
	assert_int_equal(m->cpu.rip, 0x1000);
	assert_int_equal(SP(m), STACK0 + 6);
	assert_ok(m, JUMP(m, 0xffff, 0x5678abcd, 2)); /* truncated to IP */
	assert_int_equal(m->cpu.rip, 0xabcd);
	assert_int_equal(CS_OF(m).base, 0xffff0);
	assert_fault_unchanged(m, JUMP(m, 0x1000, 0x10000, 4), X86_GP, 0);
	assert_fault_unchanged(m, CALL(m, 0x1000, 0x10000, 4), X86_GP, 0);
	assert_ok(m, CALL(m, 0x1000, 0x10, 4));
	assert_int_equal(SP(m), STACK0 + 6 - 8);
	assert_ok(m, RET(m, 4, 0));
	assert_int_equal(m->cpu.rip, 0xabcd);
}

/* The way into protected mode: CS still as real mode left it. */
static void into_protected_mode(void **state)
{
	struct machine *m = *state;

	fill_gdt(m);
	m->cpu.gdt = (struct x86_table){ .base = GDT_BASE, .limit = GDT_LIMIT };
	assert_ok(m, x86_write_cr(&m->sys, 0, X86_CR0_PE, &m->fault));
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_ok(m, JUMP(m, CODE0, 0x12345678, 4));
	assert_int_equal(m->cpu.rip, 0x12345678);
	assert_true(CS_OF(m).attr & X86_ATTR_DB);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	/* And out of it: a 16-bit segment, PE off, a jump that loads the base. */
	assert_ok(m, JUMP(m, CODE16, 0x100, 2));
	assert_ok(m, x86_write_cr(&m->sys, 0, 0, &m->fault));
	assert_ok(m, JUMP(m, 0x123, 0x100, 2));
	assert_int_equal(CS_OF(m).base, 0x1230);
	assert_int_equal(CS_OF(m).limit, 0xffff);
}

static void v86_mode(void **state)
{
	struct machine *m = *state;

	assert_ok(m, CALL(m, 0x7000, 0x123, 2));
	assert_int_equal(CS_OF(m).base, 0x70000);
	assert_int_equal(CS_OF(m).attr, 0xf3);
	assert_int_equal(peek(m, 0x28000 - 4, 4), 0x10000100);
	assert_ok(m, RET(m, 2, 0));
	assert_int_equal(CS_OF(m).base, 0x10000);
	assert_int_equal(x86_cpl(&m->cpu), 3);
}

static void direct(void **state)
{
	struct machine *m = *state;

	assert_ok(m, JUMP(m, CODE16, 0x12345678, 2));
	assert_int_equal(m->cpu.rip, 0x5678);
	assert_int_equal(CS_OF(m).base, 0x10000);
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	m->sys.effects = 0;
	assert_ok(m, JUMP(m, CODE0, 0x7000, 4));
	assert_ok(m, JUMP(m, EXECONLY, 0x7000, 4));
	assert_ok(m,
		  JUMP(m, CONFORMING | 3, 0x7000, 4)); /* RPL does not matter for conforming code */
	assert_int_equal(CS_OF(m).selector, CONFORMING);
	assert_fault_unchanged(m, JUMP(m, 0, 0, 4), X86_GP, 0);
	assert_fault_unchanged(m, JUMP(m, 0x200, 0, 4), X86_GP, 0x200);
	assert_fault_unchanged(m, JUMP(m, DATA0, 0, 4), X86_GP, DATA0);
	assert_fault_unchanged(m, JUMP(m, LDT, 0, 4), X86_GP, LDT);
	assert_fault_unchanged(m, JUMP(m, CODE0 | 3, 0, 4), X86_GP, CODE0); /* RPL > CPL */
	assert_fault_unchanged(m, JUMP(m, CODE3, 0, 4), X86_GP, CODE3);
	assert_fault_unchanged(m, JUMP(m, CODE3_CONFORMING, 0, 4), X86_GP,
			       CODE3_CONFORMING); /* DPL > CPL */
	assert_fault_unchanged(m, JUMP(m, ABSENT_CODE, 0, 4), X86_NP, ABSENT_CODE);
	assert_fault_unchanged(m, JUMP(m, CODE16, 0x10000, 4), X86_GP, 0);
}

static void direct_user(void **state)
{
	struct machine *m = *state;

	assert_ok(m, CALL(m, CONFORMING, 0x7100, 4));
	assert_int_equal(CS_OF(m).selector, CONFORMING | 3); /* CPL stays 3 */
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(SP(m), STACK3 - 8);
	assert_int_equal(peek(m, STACK3 - 8, 4), 0x7000);
	assert_int_equal(peek(m, STACK3 - 4, 4), CODE3 | 3);
	assert_ok(m, RET(m, 4, 0));
	assert_int_equal(CS_OF(m).selector, CODE3 | 3);
	assert_fault_unchanged(m, CALL(m, CODE0, 0, 4), X86_GP, CODE0);
	m->bad_page = STACK3 - 0x1000;
	assert_fault_unchanged(m, CALL(m, CODE3, 0x7100, 4), X86_PF, X86_PF_W);
}

static void call_limits(void **state)
{
	struct machine *m = *state;

	load_cache(m, X86_SS, DATA16);
	SP(m) = 2;
	assert_fault_unchanged(m, CALL(m, CODE0, 0x7100, 4), X86_SS_FAULT,
			       0); /* 4 bytes across the end */
	assert_ok(m, CALL(m, CODE0, 0x7100, 2));
	assert_int_equal(SP(m), 0xfffe);
	assert_int_equal(peek(m, 0x20000, 2), CODE0);
	assert_int_equal(peek(m, 0x2fffe, 2), 0x7000);
	assert_ok(m, RET(m, 2, 0));
	assert_int_equal(SP(m), 2);
}

static void gate_same_level(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_call_gate(m, GATE, CODE0, HANDLER, CALL32, 5);
	assert_ok(m, CALL(m, GATE, 0xdeadbeef, 4)); /* the offset in the instruction is ignored */
	assert_int_equal(m->cpu.rip, HANDLER);
	assert_int_equal(SP(m), sp - 8); /* no parameters are copied */
	SP(m) = sp;
	set_call_gate(m, GATE, CODE0, 0x5555a000, CALL16, 0);
	assert_ok(m, CALL(m, GATE, 0, 4)); /* pushes by the gate's size */
	assert_int_equal(m->cpu.rip, 0xa000);
	assert_int_equal(SP(m), sp - 4);
	assert_ok(m, JUMP(m, GATE, 0, 4));
	assert_int_equal(SP(m), sp - 4);
}

static void gate_to_inner_level(void **state)
{
	struct machine *m = *state;

	set_call_gate(m, GATE, CODE0, HANDLER, CALL32 | DPL3, 3);
	for (unsigned i = 0; i < 3; i++)
		poke(m, STACK3 + i * 4, 4, 0xa0 + i);
	assert_ok(m, CALL(m, GATE | 3, 0, 4));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(CS_OF(m).selector, CODE0);
	assert_int_equal(SS_OF(m).selector, DATA0);
	assert_int_equal(SP(m), STACK0 - 7 * 4);
	assert_int_equal(peek(m, SP(m), 4), 0x7000);
	assert_int_equal(peek(m, SP(m) + 4, 4), CODE3 | 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(peek(m, SP(m) + 8 + i * 4, 4), 0xa0 + i);
	assert_int_equal(peek(m, SP(m) + 20, 4), STACK3);
	assert_int_equal(peek(m, SP(m) + 24, 4), DATA3 | 3);
	assert_true(m->sys.effects & X86_EFFECT_MODE);

	/* RET n takes the parameters off both stacks. */
	load_cache(m, X86_GS, DATA1);
	assert_ok(m, RET(m, 4, 12));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(SP(m), STACK3 + 12);
	assert_int_equal(SS_OF(m).selector, DATA3 | 3);
	assert_int_equal(m->cpu.seg[X86_GS].selector, 0);
	assert_int_equal(m->cpu.seg[X86_DS].selector, DATA3 | 3);
}

static void gate16_to_inner_level(void **state)
{
	struct machine *m = *state;

	set_call_gate(m, GATE, CODE1, 0xa000, CALL16 | DPL3, 31);
	for (unsigned i = 0; i < 31; i++)
		poke(m, STACK3 + i * 2, 2, 0xb000 + i);
	assert_ok(m, CALL(m, GATE, 0, 4));
	assert_int_equal(x86_cpl(&m->cpu), 1);
	assert_int_equal(SP(m), STACK1 - 35 * 2);
	assert_int_equal(peek(m, SP(m), 2), 0x7000);
	assert_int_equal(peek(m, SP(m) + 4, 2), 0xb000);
	assert_int_equal(peek(m, SP(m) + 64, 2), 0xb000 + 30);
	assert_int_equal(peek(m, SP(m) + 66, 2), STACK3 & 0xffff);
	assert_int_equal(peek(m, SP(m) + 68, 2), DATA3 | 3);
}

static void gate_faults(void **state)
{
	struct machine *m = *state;

	set_call_gate(m, GATE, CODE0, HANDLER, CALL32, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, GATE); /* gate DPL < CPL */
	set_call_gate(m, GATE, CODE0, HANDLER, (CALL32 | DPL3) & 0x7f, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_NP, GATE);
	set_call_gate(m, GATE, 0, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, 0);
	set_call_gate(m, GATE, 0x200, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, 0x200);
	set_call_gate(m, GATE, DATA0, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, DATA0);
	set_call_gate(m, GATE, ABSENT_CODE, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_NP, ABSENT_CODE);
	/* A jump cannot change the level. */
	set_call_gate(m, GATE, CODE0, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, JUMP(m, GATE, 0, 4), X86_GP, CODE0);
	set_call_gate(m, GATE2, CONFORMING, HANDLER, CALL32 | DPL3, 0);
	assert_ok(m, JUMP(m, GATE2, 0, 4));
	assert_int_equal(CS_OF(m).selector, CONFORMING | 3);
	/* Bad inner stacks: no EXT. */
	poke(m, TSS_BASE + 8, 4, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_TS, 0);
	poke(m, TSS_BASE + 8, 4, ABSENT_DATA);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_SS_FAULT, ABSENT_DATA);
	set_gdt(m, FREE, descriptor(0, STACK0 - 9, 0x4093));
	poke(m, TSS_BASE + 8, 4, FREE);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_SS_FAULT, FREE);
	m->cpu.seg[X86_TR].limit = 5;
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_TS, TSS);
}

static void gate_rpl(void **state)
{
	struct machine *m = *state;

	set_call_gate(m, GATE, CODE0, HANDLER, CALL32 | 0x20, 0); /* DPL 1 */
	assert_fault_unchanged(m, CALL(m, GATE | 2, 0, 4), X86_GP, GATE);
	assert_ok(m, CALL(m, GATE | 1, 0, 4));
}

static void ret_frame(struct machine *m, uint32_t ip, uint32_t cs, uint32_t sp, uint32_t ss)
{
	poke(m, SP(m), 4, ip);
	poke(m, SP(m) + 4, 4, cs);
	poke(m, SP(m) + 8, 4, sp);
	poke(m, SP(m) + 12, 4, ss);
}

static void return_faults(void **state)
{
	struct machine *m = *state;

	ret_frame(m, 0, 2, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, 0);
	ret_frame(m, 0, 0x200, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, 0x200);
	ret_frame(m, 0, TSS, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, TSS);
	ret_frame(m, 0, CODE0 | 3, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, CODE0);
	ret_frame(m, 0, ABSENT_CODE, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_NP, ABSENT_CODE);
	ret_frame(m, 0x10000, CODE16, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, 0);
	ret_frame(m, 0x7000, CODE3 | 3, 0x6000, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, 0);
	ret_frame(m, 0x7000, CODE3 | 3, 0x6000, DATA0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, DATA0);
	ret_frame(m, 0x7000, CODE3 | 3, 0x6000, DATA3 | 3);
	assert_ok(m, RET(m, 4, 0));
	assert_int_equal(SP(m), 0x6000);
	/* To a more privileged level: never. */
	ret_frame(m, 0x7000, CODE0, 0, 0);
	assert_fault_unchanged(m, RET(m, 4, 0), X86_GP, CODE0);
}

/* ---- long mode ---- */

static void long_direct(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	m->cpu.rip = KERNEL_BASE + 0x7000;
	assert_ok(m, CALL(m, CODE0, 0xa000, 8)); /* to compatibility mode */
	assert_false(x86_in_64bit(&m->cpu));
	assert_int_equal(SP(m), sp - 16);
	assert_int_equal(peek(m, sp - 16, 8), KERNEL_BASE + 0x7000);
	assert_int_equal(peek(m, sp - 8, 8), CODE64);
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_ok(m, JUMP(m, CODE64, 0xa000, 4));
	assert_true(x86_in_64bit(&m->cpu));
	set_gdt(m, FREE, descriptor(0, ~0u, 0xe09b));
	assert_fault_unchanged(m, JUMP(m, FREE, 0, 8), X86_GP, FREE); /* L and D */
	assert_fault_unchanged(m, JUMP(m, CODE64, 0x800000000000, 8), X86_GP, 0);
	assert_fault_unchanged(m, JUMP(m, CODE0, 0x100000000, 8), X86_GP, 0);
	assert_fault_unchanged(m, JUMP(m, TSS2, 0, 4), X86_GP, TSS2); /* no task switches */
	set_gdt(m, FREE, gate_descriptor(TSS2, 0, 0x85, 0));
	assert_fault_unchanged(m, CALL(m, FREE, 0, 4), X86_GP, FREE);
	set_gdt(m, FREE, gate_descriptor(CODE64, 0, CALL16, 0));
	assert_fault_unchanged(m, CALL(m, FREE, 0, 4), X86_GP, FREE);
}

static void code64_ignores_base(void **state)
{
	struct machine *m = *state;

	set_gdt(m, FREE, descriptor(0x12345000, 0, 0x209b));
	assert_ok(m, JUMP(m, FREE, KERNEL_BASE, 8));
	assert_int_equal(CS_OF(m).base, 0);
	assert_int_equal(m->cpu.rip, KERNEL_BASE);
}

static void long_gate(void **state)
{
	struct machine *m = *state;
	uint64_t sp = KERNEL_BASE + STACK0 - 32;

	set_call_gate(m, GATE, CODE64, KERNEL_BASE + HANDLER, CALL32 | DPL3, 7);
	assert_ok(m, CALL(m, GATE, 0, 4));
	assert_int_equal(m->cpu.rip, KERNEL_BASE + HANDLER);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(SS_OF(m).selector, 0);
	assert_int_equal(SP(m), sp);
	assert_int_equal(peek(m, sp, 8), 0x7000);
	assert_int_equal(peek(m, sp + 8, 8), CODE64_3 | 3);
	assert_int_equal(peek(m, sp + 16, 8), STACK3);
	assert_int_equal(peek(m, sp + 24, 8), DATA3 | 3);
	assert_ok(m, RET(m, 8, 0));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(SP(m), STACK3);
	assert_int_equal(m->cpu.rip, 0x7000);
}

static void long_gate_faults(void **state)
{
	struct machine *m = *state;

	set_call_gate(m, GATE, CODE0, HANDLER, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, CODE0); /* not 64-bit code */
	set_call_gate(m, GATE, CODE64, 0x800000000000, CALL32 | DPL3, 0);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, 0);
	set_call_gate(m, GATE, CODE64, HANDLER, CALL32 | DPL3, 0);
	poke(m, GDT_BASE + GATE + 8, 8, 0x0000010000000000ull);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, GATE);
	poke(m, GDT_BASE + GATE + 8, 8, 0);
	m->cpu.gdt.limit = GATE + 7;
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_GP, GATE);
	m->cpu.gdt.limit = GDT_LIMIT;
	poke(m, TSS_BASE + 4, 8, 0x800000000000);
	assert_fault_unchanged(m, CALL(m, GATE, 0, 4), X86_SS_FAULT, 0);
}

static void long_gate_same_level_from_compatibility_mode(void **state)
{
	struct machine *m = *state;

	load_cache(m, X86_CS, CODE0);
	set_call_gate(m, GATE, CODE64, HANDLER, CALL32, 0);
	SP(m) = 0x6000;
	assert_ok(m, CALL(m, GATE, 0, 4));
	assert_int_equal(SP(m), 0x6000 - 16); /* 8-byte pushes */
	assert_ok(m, RET(m, 8, 0));
	assert_false(x86_in_64bit(&m->cpu));
}

/* ---- fast system calls ---- */

#define STAR_VALUE ((uint64_t)0x23 << 48 | (uint64_t)0x10 << 32 | 0x00a0b0c0)

static int syscall_(struct machine *m)
{
	return x86_syscall(&m->sys, &m->fault);
}

static int sysret_(struct machine *m, unsigned size)
{
	return x86_sysret(&m->sys, size, &m->fault);
}

static void syscall_round_trip(void **state)
{
	struct machine *m = *state;

	m->cpu.star = STAR_VALUE;
	m->cpu.lstar = KERNEL_BASE + HANDLER;
	m->cpu.sfmask = X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC;
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_AC | X86_FLAG_ZF | X86_FLAG_RF;
	assert_ok(m, syscall_(m));
	assert_int_equal(m->cpu.gpr[X86_RCX], 0x7000);
	assert_int_equal(m->cpu.gpr[X86_R11],
			 X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_AC | X86_FLAG_ZF);
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_ZF);
	assert_int_equal(m->cpu.rip, KERNEL_BASE + HANDLER);
	assert_int_equal(CS_OF(m).selector, 0x10);
	assert_int_equal(CS_OF(m).attr, 0xa09b);
	assert_int_equal(SS_OF(m).selector, 0x18);
	assert_int_equal(SS_OF(m).limit, ~0u);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(m->reads + m->writes, 0); /* no descriptor is read */

	m->cpu.gpr[X86_R11] = ~0ull;
	assert_ok(m, sysret_(m, 8));
	assert_int_equal(m->cpu.rflags, (X86_FLAGS_VALID & ~(X86_FLAG_RF | X86_FLAG_VM)));
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(CS_OF(m).selector, 0x33);
	assert_true(x86_in_64bit(&m->cpu));
	assert_int_equal(SS_OF(m).selector, 0x2b);
	assert_int_equal(SS_OF(m).attr, 0xc0f3);
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
	assert_fault_unchanged(m, sysret_(m, 8), X86_GP, 0); /* CPL 3 */
}

static void sysret_to_compatibility_mode(void **state)
{
	struct machine *m = *state;

	m->cpu.star = STAR_VALUE;
	m->cpu.gpr[X86_RCX] = 0x123456789;
	assert_ok(m, sysret_(m, 4));
	assert_int_equal(m->cpu.rip, 0x23456789);
	assert_int_equal(CS_OF(m).selector, 0x23);
	assert_int_equal(CS_OF(m).attr, 0xc0fb);
	assert_false(x86_in_64bit(&m->cpu));
	/* Back by SYSCALL: only on AMD, through CSTAR. */
	assert_ud(m, syscall_(m));
	m->sys.features.is_amd = true;
	m->cpu.cstar = KERNEL_BASE + HANDLER;
	assert_ok(m, syscall_(m));
	assert_int_equal(m->cpu.rip, KERNEL_BASE + HANDLER);
	assert_true(x86_in_64bit(&m->cpu));
	assert_int_equal(m->cpu.gpr[X86_RCX], 0x23456789);
}

static void sysret_vendors(void **state)
{
	struct machine *m = *state;

	m->cpu.star = STAR_VALUE;
	m->cpu.gpr[X86_RCX] = 0x800000000000;
	assert_fault_unchanged(m, sysret_(m, 8), X86_GP, 0);
	m->sys.features.is_amd = true;
	SS_OF(m) = (struct x86_segment){
		.attr = 0
	}; /* null, as an interrupt in 64-bit mode left it */
	assert_ok(m, sysret_(m, 8));
	assert_int_equal(m->cpu.rip, 0x800000000000);
	assert_int_equal(SS_OF(m).selector, 0x2b);
	assert_false(SS_OF(m).attr & X86_ATTR_P); /* only selector and DPL are set */
	assert_int_equal(x86_cpl(&m->cpu), 3);
}

static void syscall_disabled(void **state)
{
	struct machine *m = *state;

	m->cpu.efer &= ~(uint64_t)X86_EFER_SCE;
	assert_ud(m, syscall_(m));
	assert_ud(m, sysret_(m, 8));
}

static void syscall_legacy_amd(void **state)
{
	struct machine *m = *state;

	m->cpu.efer = X86_EFER_SCE;
	m->cpu.star = STAR_VALUE;
	assert_ud(m, syscall_(m)); /* Intel: 64-bit mode only */
	m->sys.features.is_amd = true;
	m->cpu.rflags |= X86_FLAG_IF;
	assert_ok(m, syscall_(m));
	assert_int_equal(m->cpu.rip, 0x00a0b0c0);
	assert_int_equal(m->cpu.gpr[X86_RCX], 0x7000);
	assert_int_equal(CS_OF(m).attr, 0xc09b);
	assert_false(m->cpu.rflags & X86_FLAG_IF);
	assert_ok(m, sysret_(m, 4));
	assert_true(m->cpu.rflags & X86_FLAG_IF);
	assert_int_equal(x86_cpl(&m->cpu), 3);
}

static int sysenter_(struct machine *m)
{
	return x86_sysenter(&m->sys, &m->fault);
}

static int sysexit_(struct machine *m, unsigned size)
{
	return x86_sysexit(&m->sys, size, &m->fault);
}

static void sysenter_round_trip(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, sysenter_(m), X86_GP, 0); /* SYSENTER_CS is null */
	m->cpu.sysenter_cs = CODE0 | 3;
	m->cpu.sysenter_eip = HANDLER;
	m->cpu.sysenter_esp = STACK0;
	m->cpu.rflags |= X86_FLAG_IF | X86_FLAG_VM;
	assert_ok(m, sysenter_(m));
	assert_int_equal(CS_OF(m).selector, CODE0);
	assert_int_equal(SS_OF(m).selector, CODE0 + 8);
	assert_int_equal(m->cpu.rip, HANDLER);
	assert_int_equal(SP(m), STACK0);
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	m->cpu.gpr[X86_RDX] = 0x7100;
	m->cpu.gpr[X86_RCX] = STACK3;
	assert_ok(m, sysexit_(m, 4));
	assert_int_equal(CS_OF(m).selector, (CODE0 + 16) | 3);
	assert_int_equal(SS_OF(m).selector, (CODE0 + 24) | 3);
	assert_int_equal(m->cpu.rip, 0x7100);
	assert_int_equal(SP(m), STACK3);
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_fault_unchanged(m, sysexit_(m, 4), X86_GP, 0);
}

static void sysenter_long(void **state)
{
	struct machine *m = *state;

	m->cpu.sysenter_cs = CODE64;
	m->cpu.sysenter_eip = KERNEL_BASE + HANDLER;
	m->cpu.sysenter_esp = KERNEL_BASE + STACK0;
	m->sys.features.is_amd = true;
	assert_ud(m, sysenter_(m));
	m->sys.features.is_amd = false;
	assert_ok(m, sysenter_(m));
	assert_true(x86_in_64bit(&m->cpu));
	assert_int_equal(SP(m), KERNEL_BASE + STACK0);
	m->cpu.gpr[X86_RDX] = 0x800000000000;
	assert_fault_unchanged(m, sysexit_(m, 8), X86_GP, 0);
	m->cpu.gpr[X86_RDX] = 0x7100;
	m->cpu.gpr[X86_RCX] = 0x800000000000;
	assert_fault_unchanged(m, sysexit_(m, 8), X86_GP, 0);
	m->cpu.gpr[X86_RCX] = STACK3;
	assert_ok(m, sysexit_(m, 8));
	assert_int_equal(CS_OF(m).selector, (CODE64 + 32) | 3);
	assert_int_equal(SS_OF(m).selector, (CODE64 + 40) | 3);
	assert_true(x86_in_64bit(&m->cpu));
}

static void sysenter_real(void **state)
{
	struct machine *m = *state;

	m->cpu.sysenter_cs = CODE0;
	assert_fault_unchanged(m, sysenter_(m), X86_GP, 0);
	assert_fault_unchanged(m, sysexit_(m, 4), X86_GP, 0);
}

static void swapgs(void **state)
{
	struct machine *m = *state;

	m->cpu.seg[X86_GS].base = 0x1111;
	m->cpu.kernel_gs_base = KERNEL_BASE;
	assert_ok(m, x86_swapgs(&m->sys, &m->fault));
	assert_int_equal(m->cpu.seg[X86_GS].base, KERNEL_BASE);
	assert_int_equal(m->cpu.kernel_gs_base, 0x1111);
	SS_OF(m).attr |= X86_ATTR_DPL;
	assert_fault_unchanged(m, x86_swapgs(&m->sys, &m->fault), X86_GP, 0);
	load_cache(m, X86_CS, CODE0);
	assert_ud(m, x86_swapgs(&m->sys, &m->fault));
}

#define IN(setup, f) cmocka_unit_test_setup_teardown(f, machine_##setup, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(real, real_mode),
		IN(real, into_protected_mode),
		IN(v86, v86_mode),
		IN(protected, direct),
		IN(protected_user, direct_user),
		IN(protected, call_limits),
		IN(protected, gate_same_level),
		IN(protected_user, gate_to_inner_level),
		IN(protected_user, gate16_to_inner_level),
		IN(protected_user, gate_faults),
		IN(protected, gate_rpl),
		IN(protected, return_faults),
		IN(long, long_direct),
		IN(long, code64_ignores_base),
		IN(long_user, long_gate),
		IN(long_user, long_gate_faults),
		IN(long, long_gate_same_level_from_compatibility_mode),
		IN(long_user, syscall_round_trip),
		IN(long, sysret_to_compatibility_mode),
		IN(long, sysret_vendors),
		IN(long, syscall_disabled),
		IN(protected_user, syscall_legacy_amd),
		IN(protected_user, sysenter_round_trip),
		IN(long_user, sysenter_long),
		IN(real, sysenter_real),
		IN(long, swapgs),
	};

	return cmocka_run_group_tests_name("x86 transfers", tests, NULL, NULL);
}
