/* SPDX-License-Identifier: MIT */
/* Interrupt and exception delivery, and IRET: SDM volume 3, chapters 6 and 20; INT n and IRET in volume 2. */
#include "x86_machine.h"

#define INT32 0x8e
#define TRAP32 0x8f
#define INT16 0x86
#define TRAP16 0x87
#define TASKGATE 0x85
#define DPL3 0x60
#define ABSENT(type) ((type)&0x7f)
#define IDT_ERROR(vector) ((vector)*8 + 2)
#define EXT 1

#define DELIVER(m, kind, vector)                                                                   \
	x86_deliver_event(&(m)->sys, X86_EVENT_##kind, vector, false, 0, &(m)->fault)
#define DELIVER_ERROR(m, vector, error)                                                            \
	x86_deliver_event(&(m)->sys, X86_EVENT_EXCEPTION, vector, true, error, &(m)->fault)
#define IRET(m, size) x86_iret(&(m)->sys, size, &(m)->fault)
#define SP(m) ((m)->cpu.gpr[X86_RSP])
#define CS_OF(m) ((m)->cpu.seg[X86_CS])
#define SS_OF(m) ((m)->cpu.seg[X86_SS])

/* ---- real mode ---- */

static void real_interrupt(void **state)
{
	struct machine *m = *state;

	poke(m, 0x21 * 4, 4, 0x12345678);
	m->cpu.rflags |= X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_CF;
	m->cpu.sti_shadow = 1;
	m->cpu.mov_ss_shadow = 1;
	assert_ok(m, DELIVER(m, INT_N, 0x21));
	assert_int_equal(CS_OF(m).selector, 0x1234);
	assert_int_equal(CS_OF(m).base, 0x12340);
	assert_int_equal(m->cpu.rip, 0x5678);
	assert_int_equal(SP(m), STACK0 - 6);
	assert_int_equal(peek(m, STACK0 - 2, 2),
			 X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_CF);
	assert_int_equal(peek(m, STACK0 - 4, 2), 0);
	assert_int_equal(peek(m, STACK0 - 6, 2), 0x1000);
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_CF);
	assert_false(m->cpu.sti_shadow || m->cpu.mov_ss_shadow);

	m->cpu.rflags |= X86_FLAG_VIF;
	assert_ok(m, IRET(m, 2));
	assert_int_equal(m->cpu.rip, 0x1000);
	assert_int_equal(CS_OF(m).base, 0);
	assert_int_equal(SP(m), STACK0);
	assert_int_equal(m->cpu.rflags,
			 X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_CF | X86_FLAG_VIF);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
}

static void real_interrupt_details(void **state)
{
	struct machine *m = *state;

	/* An exception pushes no error code. */
	assert_ok(m, DELIVER_ERROR(m, X86_GP, 0));
	assert_int_equal(SP(m), STACK0 - 6);
	/* The stack pointer wraps, word by word. */
	SP(m) = 0xabcd0002;
	assert_ok(m, DELIVER(m, INT_N, 3));
	assert_int_equal(SP(m), 0xabcdfffc);
	/* A word across the end of the segment is #SS. */
	SP(m) = 5;
	assert_fault_unchanged(m, DELIVER(m, INT_N, 3), X86_SS_FAULT, 0);
	/* Beyond the IDT's limit. */
	m->cpu.idt.limit = 0x21 * 4 + 2;
	SP(m) = STACK0;
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x21), X86_GP, IDT_ERROR(0x21));
	/* ... and if #GP's vector is too: double fault, then shutdown. */
	m->cpu.idt.limit = 7;
	assert_int_equal(x86_raise_event(&m->sys, X86_EVENT_HARDWARE, 0x21), -1);
}

static void real_iret32(void **state)
{
	struct machine *m = *state;

	SP(m) = 0x7000;
	poke(m, 0x7000, 4, 0x4321);
	poke(m, 0x7004, 4, 0xffff0100);
	poke(m, 0x7008, 4, 0xffffffff);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rflags, 0x257fd5 | X86_FLAG_R1);
	assert_int_equal(CS_OF(m).selector, 0x100);
	SP(m) = 0x7000;
	poke(m, 0x7000, 4, 0x10000); /* beyond the limit */
	assert_fault(m, IRET(m, 4), X86_GP, 0);
	assert_int_equal(SP(m), 0x7000);
}

static void nmi(void **state)
{
	struct machine *m = *state;

	assert_ok(m, DELIVER(m, HARDWARE, 2));
	assert_int_equal(m->cpu.nmi_masked, 1);
	m->sys.effects = 0;
	assert_ok(m, IRET(m, 2));
	assert_int_equal(m->cpu.nmi_masked, 0);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS); /* another may be waiting */
	assert_ok(m, DELIVER(m, INT_N, 2));
	assert_int_equal(m->cpu.nmi_masked, 0);
}

/* ---- protected mode ---- */

static void same_level(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	set_gate(m, 0x31, CODE0, HANDLER, TRAP32);
	m->cpu.rflags |= X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_ZF |
			 X86_FLAG_AC;
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), sp - 12);
	assert_int_equal(peek(m, sp - 4, 4), X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_NT |
						     X86_FLAG_RF | X86_FLAG_ZF | X86_FLAG_AC);
	assert_int_equal(peek(m, sp - 8, 4), CODE0);
	assert_int_equal(peek(m, sp - 12, 4), 0x7000);
	assert_int_equal(m->cpu.rip, HANDLER);
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_ZF | X86_FLAG_AC);

	/* A trap gate leaves IF. */
	m->cpu.rflags |= X86_FLAG_IF;
	assert_ok(m, DELIVER(m, INT_N, 0x31));
	assert_true(m->cpu.rflags & X86_FLAG_IF);

	assert_ok(m, IRET(m, 4));
	assert_ok(m, IRET(m, 4));
	assert_int_equal(SP(m), sp);
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_true(m->cpu.rflags & X86_FLAG_RF);
}

static void error_codes_and_rf(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_gate(m, X86_GP, CODE0, HANDLER, INT32);
	set_gate(m, X86_DB, CODE0, HANDLER, INT32);
	assert_ok(m, DELIVER_ERROR(m, X86_GP, 0x1238));
	assert_int_equal(SP(m), sp - 16);
	assert_int_equal(peek(m, sp - 16, 4), 0x1238);
	assert_true(peek(m, sp - 4, 4) & X86_FLAG_RF); /* faults save RF = 1 */
	SP(m) = sp;
	assert_ok(m, DELIVER(m, EXCEPTION, X86_DB));
	assert_false(peek(m, sp - 4, 4) & X86_FLAG_RF);
}

static void gate16(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_gate(m, 0x30, CODE0, 0x5555a000, INT16); /* only 16 bits of offset */
	assert_ok(m, DELIVER(m, INT_N, 0x30));
	assert_int_equal(m->cpu.rip, 0xa000);
	assert_int_equal(SP(m), sp - 6);
	assert_int_equal(peek(m, sp - 6, 2), 0x7000);
	assert_ok(m, IRET(m, 2));
	assert_int_equal(SP(m), sp);
	assert_int_equal(m->cpu.rip, 0x7000);
	m->cpu.rflags |= X86_FLAG_IF;
	set_gate(m, 0x30, CODE0, HANDLER, TRAP16);
	assert_ok(m, DELIVER(m, INT_N, 0x30));
	assert_true(m->cpu.rflags & X86_FLAG_IF);
}

static void inner_level(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x80, CODE0, HANDLER, INT32 | DPL3);
	m->cpu.rflags |= X86_FLAG_IF;
	assert_ok(m, DELIVER(m, INT_N, 0x80));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(CS_OF(m).selector, CODE0);
	assert_int_equal(SS_OF(m).selector, DATA0);
	assert_int_equal(SP(m), STACK0 - 20);
	assert_int_equal(peek(m, STACK0 - 4, 4), DATA3 | 3);
	assert_int_equal(peek(m, STACK0 - 8, 4), STACK3);
	assert_int_equal(peek(m, STACK0 - 16, 4), CODE3 | 3);
	assert_int_equal(peek(m, STACK0 - 20, 4), 0x7000);
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_true(m->last_write_flags & X86_SYS_IMPLICIT);

	/* And back: DS for the kernel is taken away, the user's kept. */
	load_cache(m, X86_ES, DATA0);
	load_cache(m, X86_FS, CONFORMING);
	m->sys.effects = 0;
	assert_ok(m, IRET(m, 4));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(SP(m), STACK3);
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(m->cpu.seg[X86_DS].selector, DATA3 | 3);
	assert_int_equal(m->cpu.seg[X86_ES].selector, 0);
	assert_false(m->cpu.seg[X86_ES].attr & X86_ATTR_P);
	assert_int_equal(m->cpu.seg[X86_FS].selector, CONFORMING);
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_true(m->cpu.rflags & X86_FLAG_IF);
}

static void middle_level(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x80, CODE1, HANDLER, INT32 | DPL3);
	assert_ok(m, DELIVER(m, INT_N, 0x80));
	assert_int_equal(x86_cpl(&m->cpu), 1);
	assert_int_equal(CS_OF(m).selector, CODE1 | 1);
	assert_int_equal(SS_OF(m).selector, DATA1 | 1);
	assert_int_equal(SP(m), STACK1 - 20);
	/* Conforming code runs at the interrupted level, on the same stack. */
	set_gate(m, 0x81, CONFORMING, HANDLER, INT32 | DPL3);
	assert_ok(m, DELIVER(m, INT_N, 0x81));
	assert_int_equal(x86_cpl(&m->cpu), 1);
	assert_int_equal(CS_OF(m).selector, CONFORMING | 1);
	assert_int_equal(SP(m), STACK1 - 32);
	/* From level 1 to code of level 3 is no way. */
	set_gate(m, 0x82, CODE3, HANDLER, INT32 | DPL3);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x82), X86_GP, CODE3);
}

static void user_level_handler(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x80, CODE3, HANDLER, INT32 | DPL3);
	assert_ok(m, DELIVER(m, INT_N, 0x80));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(CS_OF(m).selector, CODE3 | 3);
	assert_int_equal(SP(m), STACK3 - 12);
	assert_int_equal(m->last_write_flags, 0); /* an access of CPL 3 */
}

static void gate_faults(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x30), X86_GP, IDT_ERROR(0x30)); /* DPL < CPL */
	assert_fault_unchanged(m, DELIVER(m, INT3_INTO, 0x30), X86_GP, IDT_ERROR(0x30));
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x31), X86_GP, IDT_ERROR(0x31)); /* type 0 */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x31), X86_GP, IDT_ERROR(0x31) | EXT);
	assert_fault_unchanged(m, DELIVER(m, INT1, 0x31), X86_GP, IDT_ERROR(0x31) | EXT);
	set_gate(m, 0x31, CODE0, HANDLER, ABSENT(INT32));
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x31), X86_NP, IDT_ERROR(0x31) | EXT);
	assert_fault_unchanged(m, DELIVER(m, EXCEPTION, 0x31), X86_NP, IDT_ERROR(0x31) | EXT);
	set_gate(m, 0x31, CODE0, HANDLER, ABSENT(INT32) | DPL3);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x31), X86_NP, IDT_ERROR(0x31));
	set_gate(m, 0x31, CODE0, HANDLER, 0x8c); /* a call gate */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x31), X86_GP, IDT_ERROR(0x31) | EXT);
	m->cpu.idt.limit = 0x31 * 8 + 6;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x31), X86_GP, IDT_ERROR(0x31) | EXT);
	m->bad_page = IDT_BASE;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_PF,
			       0); /* no EXT in a page fault's code */
}

static void handler_faults(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, 3, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, EXT); /* null */
	set_gate(m, 0x30, 0x200, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, 0x200 | EXT);
	set_gate(m, 0x30, DATA0, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, DATA0 | EXT);
	set_gate(m, 0x30, ABSENT_CODE, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_NP, ABSENT_CODE | EXT);
	set_gdt(m, FREE, descriptor(0, HANDLER - 1, 0x409b));
	set_gate(m, 0x30, FREE, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP,
			       EXT); /* EIP beyond CS limit */
}

static void inner_stack_faults(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	poke(m, TSS_BASE + 8, 4, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, EXT);
	poke(m, TSS_BASE + 8, 4, 0x200);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, 0x200 | EXT);
	poke(m, TSS_BASE + 8, 4, DATA0 | 3); /* RPL is not 0 */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, DATA0 | EXT);
	poke(m, TSS_BASE + 8, 4, DATA3); /* DPL is not 0 */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, DATA3 | EXT);
	poke(m, TSS_BASE + 8, 4, READONLY0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, READONLY0 | EXT);
	poke(m, TSS_BASE + 8, 4, ABSENT_DATA);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, ABSENT_DATA | EXT);
	set_gdt(m, FREE, descriptor(0, STACK0 - 9, 0x4093)); /* too small */
	poke(m, TSS_BASE + 8, 4, FREE);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, FREE | EXT);
	m->cpu.seg[X86_TR].limit = 8;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, TSS | EXT);
	m->cpu.seg[X86_TR].limit = 9; /* ESP0 and SS0 are just inside */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, FREE | EXT);
	poke(m, TSS_BASE + 8, 4, DATA0);
	m->bad_page = (STACK0 - 1) & ~0xfffu;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_PF, X86_PF_W);
	assert_int_equal(m->fault.address, STACK0 - 20);
}

static void tss16_stack(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	set_gdt(m, TSS, descriptor(TSS_BASE, 0x2b, 0x0083));
	load_cache(m, X86_TR, TSS);
	poke(m, TSS_BASE + 2, 2, STACK1);
	poke(m, TSS_BASE + 4, 2, DATA0);
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), STACK1 - 20);
	assert_int_equal(SS_OF(m).selector, DATA0);
}

static void stack16(void **state)
{
	struct machine *m = *state;

	/* A 16-bit stack: only SP moves, and it wraps. */
	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	load_cache(m, X86_SS, DATA16);
	SP(m) = 0x12340004;
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), 0x1234fff8);
	assert_int_equal(peek(m, 0x20000, 4), X86_FLAG_R1);
	assert_int_equal(peek(m, 0x2fffc, 4), CODE0);
	assert_int_equal(peek(m, 0x2fff8, 4), 0x7000);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(SP(m), 0x12340004);
	SP(m) = 0x12340006; /* a push would straddle the end */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, EXT);
}

/* ---- IRET in protected mode ---- */

static void iret_frame(struct machine *m, uint32_t ip, uint32_t cs, uint32_t flags, uint32_t sp,
		       uint32_t ss)
{
	uint64_t at = SP(m);

	poke(m, at, 4, ip);
	poke(m, at + 4, 4, cs);
	poke(m, at + 8, 4, flags);
	poke(m, at + 12, 4, sp);
	poke(m, at + 16, 4, ss);
}

static void iret_faults(void **state)
{
	struct machine *m = *state;

	iret_frame(m, 0x7000, 0, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, 0);
	iret_frame(m, 0x7000, 0x200, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, 0x200);
	iret_frame(m, 0x7000, DATA0, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, DATA0);
	iret_frame(m, 0x7000, CODE0 | 3, 2, 0, 0); /* DPL != RPL */
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, CODE0);
	iret_frame(m, 0x7000, CODE3, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, CODE3);
	iret_frame(m, 0x7000, CODE3_CONFORMING, 2, 0, 0); /* conforming, DPL > RPL */
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, CODE3_CONFORMING);
	iret_frame(m, 0x7000, ABSENT_CODE, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_NP, ABSENT_CODE);
	set_gdt(m, FREE, descriptor(0, 0xfff, 0x409b));
	iret_frame(m, 0x1000, FREE, 2, 0, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, 0);
	/* To level 3. */
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x6000, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, 0);
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x6000, DATA3);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, DATA3);
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x6000, DATA0 | 3);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, DATA0);
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x6000, CODE3 | 3);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, CODE3);
	set_gdt(m, FREE, descriptor(0, 0xffff, 0x4073));
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x6000, FREE | 3);
	assert_fault_unchanged(m, IRET(m, 4), X86_SS_FAULT, FREE);
	/* The stack itself. */
	m->bad_page = SP(m) & ~0xfffull;
	assert_fault_unchanged(m, IRET(m, 4), X86_PF, 0);
}

static void iret_unblocks_nmi_even_if_it_faults(void **state)
{
	struct machine *m = *state;

	m->cpu.nmi_masked = 1;
	iret_frame(m, 0x7000, 0, 2, 0, 0);
	assert_fault(m, IRET(m, 4), X86_GP, 0);
	assert_int_equal(m->cpu.nmi_masked, 0);
}

static void iret_user_flags(void **state)
{
	struct machine *m = *state;

	/* CPL 3, IOPL 0: neither IF nor IOPL, VIF, VIP. */
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IF;
	iret_frame(m, 0x7100, CODE3 | 3, ~0u & ~X86_FLAG_NT & ~X86_FLAG_IF & ~X86_FLAG_VM, 0, 0);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_IF |
						X86_FLAG_DF | X86_FLAG_RF | X86_FLAG_AC |
						X86_FLAG_ID);
	assert_int_equal(SP(m), STACK3 + 12);
	/* IOPL 3: IF too. VM in the image means nothing at CPL 3. */
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IOPL;
	iret_frame(m, 0x7100, CODE3 | 3, X86_FLAG_IF | X86_FLAG_VM, 0, 0);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IOPL | X86_FLAG_IF);
	/* 16-bit operand: the upper half stays. */
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_AC;
	poke(m, SP(m), 2, 0x7200);
	poke(m, SP(m) + 2, 2, CODE3 | 3);
	poke(m, SP(m) + 4, 2, X86_FLAG_CF);
	assert_ok(m, IRET(m, 2));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_AC | X86_FLAG_CF);
}

static void iret_kernel_flags(void **state)
{
	struct machine *m = *state;

	iret_frame(m, 0x7100, CODE0, ~0u & ~X86_FLAG_VM, 0, 0);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rflags, X86_FLAGS_VALID & ~X86_FLAG_VM);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
	assert_false(m->sys.effects & X86_EFFECT_MODE);
}

static void iret_to_16_bit_stack(void **state)
{
	struct machine *m = *state;

	/* With a 16-bit SS only SP is loaded. */
	SP(m) = STACK0 - 0x100;
	iret_frame(m, 0x7000, CODE3 | 3, 2, 0x56789abc, DATA3_16 | 3);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(SP(m), (STACK0 & 0xffff0000) | 0x9abc);
}

/* ---- virtual-8086 mode ---- */

static void v86_to_protected_and_back(void **state)
{
	struct machine *m = *state;
	static const uint16_t pushed[] = { 0x100,  0x1000, 0,      0x8000, 0x2000,
					   0x3000, 0x4000, 0x5000, 0x6000 };

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	m->cpu.rflags |= X86_FLAG_IOPL;
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), STACK0 - 36);
	for (unsigned i = 0; i < 9; i++) {
		if (i != 2)
			assert_int_equal(peek(m, SP(m) + i * 4, 4), pushed[i]);
	}
	assert_int_equal(peek(m, SP(m) + 8, 4),
			 X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_IOPL);
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IOPL);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(CS_OF(m).selector, CODE0);
	for (unsigned i = 0; i < 6; i++) {
		if (i != X86_CS && i != X86_SS) {
			assert_int_equal(m->cpu.seg[i].selector, 0);
			assert_false(m->cpu.seg[i].attr & X86_ATTR_P);
		}
	}

	poke(m, SP(m) + 8, 4, X86_FLAGS_VALID);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rflags, X86_FLAGS_VALID);
	assert_int_equal(CS_OF(m).base, 0x10000);
	assert_int_equal(m->cpu.rip, 0x100);
	assert_int_equal(SS_OF(m).base, 0x20000);
	assert_int_equal(SP(m), 0x8000);
	assert_int_equal(m->cpu.seg[X86_ES].base, 0x30000);
	assert_int_equal(m->cpu.seg[X86_DS].base, 0x40000);
	assert_int_equal(m->cpu.seg[X86_FS].base, 0x50000);
	assert_int_equal(m->cpu.seg[X86_GS].base, 0x60000);
	assert_int_equal(m->cpu.seg[X86_GS].limit, 0xffff);
	assert_int_equal(x86_cpl(&m->cpu), 3);
}

static void v86_gate16(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE0, HANDLER, INT16);
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), STACK0 - 18);
	assert_int_equal(peek(m, STACK0 - 2, 2), 0x6000);
}

static void v86_handler_faults(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE1, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, CODE1 | EXT);
	set_gate(m, 0x30, CONFORMING, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, CONFORMING | EXT);
	set_gate(m, 0x30, CODE3, HANDLER, INT32);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, CODE3 | EXT);
}

static void v86_int_n(void **state)
{
	struct machine *m = *state;

	/* IOPL < 3 and no VME: the monitor's. */
	set_gate(m, 0x21, CODE0, HANDLER, INT32 | DPL3);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x21), X86_GP, 0);
	/* INT3 and INTO are not sensitive to IOPL. */
	assert_ok(m, DELIVER(m, INT3_INTO, 0x21));
}

static void v86_int_n_trusted(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x21, CODE0, HANDLER, INT32 | DPL3);
	m->cpu.rflags |= X86_FLAG_IOPL;
	assert_ok(m, DELIVER(m, INT_N, 0x21));
	assert_int_equal(CS_OF(m).selector, CODE0);
	assert_int_equal(m->cpu.rip, HANDLER);
}

static void v86_vme_redirection(void **state)
{
	struct machine *m = *state;

	/* IOPL 0, bit clear: through the program's own table, IF standing for VIF. */
	m->cpu.cr4 = X86_CR4_VME;
	m->cpu.rflags |= X86_FLAG_VIF | X86_FLAG_TF;
	poke(m, 0x21 * 4, 4, 0x70000123);
	assert_ok(m, DELIVER(m, INT_N, 0x21));
	assert_int_equal(CS_OF(m).base, 0x70000);
	assert_int_equal(m->cpu.rip, 0x123);
	assert_int_equal(SP(m), 0x8000 - 6);
	assert_int_equal(peek(m, 0x28000 - 2, 2),
			 X86_FLAG_R1 | X86_FLAG_IOPL | X86_FLAG_IF | X86_FLAG_TF);
	assert_int_equal(peek(m, 0x28000 - 4, 2), 0x1000);
	assert_int_equal(peek(m, 0x28000 - 6, 2), 0x100);
	assert_int_equal(m->cpu.rflags,
			 X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF); /* the real IF stays */

	/* The program's IRET gives VIF back; TF in the image is the monitor's affair. */
	assert_fault_unchanged(m, IRET(m, 2), X86_GP, 0);
	poke(m, 0x28000 - 2, 2, X86_FLAG_IF);
	assert_ok(m, IRET(m, 2));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_VIF);
	assert_int_equal(SP(m), 0x8000);
	/* With a virtual interrupt pending, setting it is too. */
	SP(m) = 0x8000 - 6;
	m->cpu.rflags |= X86_FLAG_VIP;
	assert_fault_unchanged(m, IRET(m, 2), X86_GP, 0);
	assert_fault_unchanged(m, IRET(m, 4), X86_GP, 0); /* never with 32-bit operands */

	/* Bit set: to the monitor by #GP. */
	poke(m, TSS_BASE + 0x68 + 0x21 / 8, 1, 1 << (0x21 % 8));
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x21), X86_GP, 0);
	/* No bitmap inside the TSS. */
	m->cpu.seg[X86_TR].limit = 0x67;
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x20), X86_GP, 0);
}

static void v86_vme_trusted(void **state)
{
	struct machine *m = *state;

	m->cpu.cr4 = X86_CR4_VME;
	m->cpu.rflags |= X86_FLAG_IOPL | X86_FLAG_NT;
	poke(m, 0x21 * 4, 4, 0x70000123);
	assert_ok(m, DELIVER(m, INT_N, 0x21));
	assert_int_equal(CS_OF(m).base, 0x70000);
	assert_int_equal(peek(m, 0x28000 - 2, 2),
			 X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_IOPL | X86_FLAG_NT);
	assert_false(m->cpu.rflags & X86_FLAG_IF);
	/* Bit set: through the IDT. */
	poke(m, TSS_BASE + 0x68 + 0x21 / 8, 1, 1 << (0x21 % 8));
	set_gate(m, 0x21, CODE0, HANDLER, INT32 | DPL3);
	assert_ok(m, DELIVER(m, INT_N, 0x21));
	assert_int_equal(CS_OF(m).selector, CODE0);
}

/* VIF and VIP in the image of an IRET: #GP before the first instruction there. */
static void v86_entry_with_virtual_interrupt(void **state)
{
	struct machine *m = *state;

	set_gate(m, 0x30, CODE0, HANDLER, INT32);
	set_gate(m, X86_GP, CODE0, HANDLER + 0x100, INT32);
	m->cpu.cr4 = X86_CR4_VME;
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	poke(m, SP(m) + 8, 4, X86_FLAG_VM | X86_FLAG_VIF | X86_FLAG_VIP);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rip, HANDLER + 0x100);
	assert_int_equal(peek(m, SP(m), 4), 0);
	assert_int_equal(peek(m, SP(m) + 4, 4), 0x100);
	assert_int_equal(peek(m, SP(m) + 8, 4), 0x1000);
	assert_true(peek(m, SP(m) + 12, 4) & X86_FLAG_VM);
}

static void pvi_return_with_virtual_interrupt(void **state)
{
	struct machine *m = *state;

	set_gate(m, X86_GP, CODE0, HANDLER, INT32);
	m->cpu.cr4 = X86_CR4_PVI;
	iret_frame(m, 0x7100, CODE3 | 3, X86_FLAG_VIF | X86_FLAG_VIP, 0x6000, DATA3 | 3);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rip, HANDLER);
	assert_int_equal(peek(m, SP(m) + 4, 4), 0x7100);
	assert_int_equal(peek(m, SP(m) + 8, 4), CODE3 | 3);
}

static void v86_iret(void **state)
{
	struct machine *m = *state;

	poke(m, 0x28000, 2, 0x222);
	poke(m, 0x28002, 2, 0x7000);
	poke(m, 0x28004, 2, X86_FLAG_CF | X86_FLAG_IOPL);
	assert_fault_unchanged(m, IRET(m, 2), X86_GP, 0);
	m->cpu.rflags |= X86_FLAG_IOPL;
	poke(m, 0x28004, 2, X86_FLAG_CF); /* IOPL and VM do not follow the image */
	assert_ok(m, IRET(m, 2));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IOPL | X86_FLAG_CF);
	assert_int_equal(CS_OF(m).base, 0x70000);
	assert_int_equal(m->cpu.rip, 0x222);
}

/* ---- long mode ---- */

static void long_same_level(void **state)
{
	struct machine *m = *state;
	uint64_t sp = KERNEL_BASE + 0x7005;

	set_gate64(m, 0x30, CODE64, KERNEL_BASE + HANDLER, INT32, 0);
	SP(m) = sp;
	m->cpu.rip = KERNEL_BASE + 0x7000;
	m->cpu.rflags |= X86_FLAG_IF | X86_FLAG_NT;
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	sp = KERNEL_BASE + 0x7000 - 40; /* aligned to 16 first */
	assert_int_equal(SP(m), sp);
	assert_int_equal(peek(m, sp, 8), KERNEL_BASE + 0x7000);
	assert_int_equal(peek(m, sp + 8, 8), CODE64);
	assert_int_equal(peek(m, sp + 16, 8), X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_NT);
	assert_int_equal(peek(m, sp + 24, 8), KERNEL_BASE + 0x7005);
	assert_int_equal(peek(m, sp + 32, 8), DATA0);
	assert_int_equal(m->cpu.rip, KERNEL_BASE + HANDLER);
	assert_int_equal(SS_OF(m).selector, DATA0); /* unchanged */
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1);
	assert_int_equal(m->sys.effects, 0);
	assert_int_equal(m->reads, 2);
	assert_int_equal(m->writes, 1);

	assert_ok(m, IRET(m, 8));
	assert_int_equal(SP(m), KERNEL_BASE + 0x7005);
	assert_int_equal(m->cpu.rip, KERNEL_BASE + 0x7000);
	assert_true(m->cpu.rflags & X86_FLAG_NT);
	/* NT has no task to return to here. */
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, 0);
}

static void long_from_user(void **state)
{
	struct machine *m = *state;
	uint64_t sp = KERNEL_BASE + STACK0 - 48;

	set_gate64(m, X86_PF, CODE64, KERNEL_BASE + HANDLER, INT32, 0);
	m->cpu.seg[X86_FS].base = 0x123456;
	load_cache(m, X86_GS, DATA0); /* the kernel's, with a base from WRMSR */
	m->cpu.seg[X86_GS].base = 0x654321;
	assert_ok(m, DELIVER_ERROR(m, X86_PF, 6));
	assert_int_equal(SP(m), sp);
	assert_int_equal(peek(m, sp, 8), 6);
	assert_int_equal(peek(m, sp + 8, 8), 0x7000);
	assert_int_equal(peek(m, sp + 16, 8), CODE64_3 | 3);
	assert_int_equal(peek(m, sp + 24, 8), X86_FLAG_R1 | X86_FLAG_RF);
	assert_int_equal(peek(m, sp + 32, 8), STACK3);
	assert_int_equal(peek(m, sp + 40, 8), DATA3 | 3);
	assert_int_equal(CS_OF(m).selector, CODE64);
	assert_int_equal(SS_OF(m).selector, 0);
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_int_equal(m->reads, 3);
	assert_int_equal(m->writes, 1);

	SP(m) += 8;
	assert_ok(m, IRET(m, 8));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(CS_OF(m).selector, CODE64_3 | 3);
	assert_int_equal(SP(m), STACK3);
	assert_int_equal(m->cpu.seg[X86_FS].base,
			 0x123456); /* a null FS keeps what WRMSR put there */
	assert_int_equal(m->cpu.seg[X86_GS].selector, 0);
	assert_int_equal(m->cpu.seg[X86_GS].base, 0x654321);
	assert_true(m->cpu.rflags & X86_FLAG_RF);
}

static void long_ist(void **state)
{
	struct machine *m = *state;

	set_gate64(m, 0x30, CODE64, HANDLER, TRAP32, 1);
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(SP(m), KERNEL_BASE + 0xb000 - 40);
	assert_int_equal(SS_OF(m).selector, DATA0);
	set_gate64(m, 0x30, CODE64, HANDLER, TRAP32, 2);
	poke(m, TSS_BASE + 44, 8, 0x1000000000000000); /* IST2 is not canonical */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, EXT);
	m->cpu.seg[X86_TR].limit = 36 + 8 + 6;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_TS, TSS | EXT);
}

static void long_gate_faults(void **state)
{
	struct machine *m = *state;

	set_gate64(m, 0x30, CODE64, HANDLER, INT32, 0);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x30), X86_GP, IDT_ERROR(0x30));
	set_gate64(m, 0x30, CODE0, HANDLER, INT32, 0); /* not 64-bit code */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, CODE0 | EXT);
	set_gate64(m, 0x30, DATA0, HANDLER, INT32, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, DATA0 | EXT);
	set_gate64(m, 0x30, 0, HANDLER, INT32, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, EXT);
	set_gate64(m, 0x30, CODE64, HANDLER, INT16, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, IDT_ERROR(0x30) | EXT);
	set_gate64(m, 0x30, CODE64, HANDLER, TASKGATE, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, IDT_ERROR(0x30) | EXT);
	set_gate64(m, 0x30, CODE64, HANDLER, ABSENT(INT32), 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_NP, IDT_ERROR(0x30) | EXT);
	set_gate64(m, 0x30, CODE64, 0x800000000000, INT32, 0);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, EXT);
	m->cpu.idt.limit = 0x30 * 16 + 14;
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, IDT_ERROR(0x30) | EXT);
	m->cpu.idt.limit = 0xfff;
	set_gate64(m, 0x30, CODE64, HANDLER, INT32, 0);
	poke(m, TSS_BASE + 4, 8, 0x800000000000);
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_SS_FAULT, EXT);
}

static void long_from_compatibility_mode(void **state)
{
	struct machine *m = *state;

	load_cache(m, X86_CS, CODE3 | 3);
	set_gate64(m, 0x80, CODE64, HANDLER, INT32 | DPL3, 0);
	SP(m) = 0x9000;
	assert_ok(m, DELIVER(m, INT_N, 0x80));
	assert_true(x86_in_64bit(&m->cpu));
	assert_int_equal(peek(m, SP(m) + 8, 8), CODE3 | 3);
	assert_ok(m, IRET(m, 8));
	assert_false(x86_in_64bit(&m->cpu));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(CS_OF(m).selector, CODE3 | 3);
	assert_int_equal(SP(m), 0x9000);
	assert_int_equal(SS_OF(m).selector, DATA3 | 3);
}

static void iret_frame64(struct machine *m, uint64_t ip, uint64_t cs, uint64_t flags, uint64_t sp,
			 uint64_t ss)
{
	const uint64_t frame[5] = { ip, cs, flags, sp, ss };

	memcpy(machine_at(m, SP(m)), frame, sizeof(frame));
}

static void long_iret_null_ss(void **state)
{
	struct machine *m = *state;

	iret_frame64(m, 0x7000, CODE64, 2, 0x6000, 0);
	assert_ok(m, IRET(m, 8)); /* allowed to 64-bit code below level 3 */
	assert_int_equal(SS_OF(m).selector, 0);
	assert_int_equal(SP(m), 0x6000);
	iret_frame64(m, 0x7000, CODE64_3 | 3, 2, 0x6000, 3);
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, 0);
	iret_frame64(m, 0x7000, CODE0, 2, 0x6000, 0); /* to compatibility mode */
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, 0);
	iret_frame64(m, 0x7000, CODE64, 2, 0x6000, DATA0);
	assert_ok(m, IRET(m, 8));
	assert_int_equal(SS_OF(m).selector, DATA0);
}

static void long_iret_faults(void **state)
{
	struct machine *m = *state;

	iret_frame64(m, 0x800000000000, CODE64, 2, 0x6000, DATA0);
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, 0);
	iret_frame64(m, 0x100000000, CODE0, 2, 0x6000,
		     DATA0); /* beyond 4 GiB in compatibility mode */
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, 0);
	set_gdt(m, FREE, descriptor(0, ~0u, 0xe09b)); /* both L and D */
	iret_frame64(m, 0x7000, FREE, 2, 0x6000, DATA0);
	assert_fault_unchanged(m, IRET(m, 8), X86_GP, FREE);
	SP(m) = 0x7ffffffffff0;
	assert_fault_unchanged(m, IRET(m, 8), X86_SS_FAULT, 0);
	/* VM in the image is ignored in long mode. */
	SP(m) = 0x6000;
	iret_frame64(m, 0x7000, CODE64, X86_FLAG_VM | X86_FLAG_IF, 0x6000, DATA0);
	assert_ok(m, IRET(m, 8));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IF);
}

static void long_iret_operand_sizes(void **state)
{
	struct machine *m = *state;

	iret_frame(m, 0x7100, CODE64, 2, 0x6000, DATA0); /* IRETD pops SS:ESP too */
	assert_ok(m, IRET(m, 4));
	assert_int_equal(m->cpu.rip, 0x7100);
	assert_int_equal(SP(m), 0x6000);
	/* In compatibility mode only on a change of level. */
	load_cache(m, X86_CS, CODE0);
	iret_frame(m, 0x7200, CODE64, 2, 0x1111, 0x2222);
	assert_ok(m, IRET(m, 4));
	assert_int_equal(SP(m), 0x6000 + 12);
	assert_true(x86_in_64bit(&m->cpu));
}

/* ---- escalation ---- */

static int raise_gp(struct machine *m)
{
	const struct x86_fault fault = { .vector = X86_GP, .has_error = true, .error = 0x50 };

	return x86_raise_fault(&m->sys, &fault);
}

static int raise_pf(struct machine *m)
{
	const struct x86_fault fault = {
		.vector = X86_PF, .has_error = true, .error = 2, .address = 0xabc
	};

	return x86_raise_fault(&m->sys, &fault);
}

static int raise_ud(struct machine *m)
{
	const struct x86_fault fault = { .vector = X86_UD };

	return x86_raise_fault(&m->sys, &fault);
}

#define HANDLER_OF(vector) (HANDLER + (vector)*16)

static void set_handlers(struct machine *m, const uint8_t *vectors, unsigned n)
{
	memset(m->memory + IDT_BASE, 0, 0x800);
	for (unsigned i = 0; i < n; i++)
		set_gate(m, vectors[i], CODE0, HANDLER_OF(vectors[i]), INT32);
}

static void page_fault_registers(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_handlers(m, (const uint8_t[]){ X86_PF }, 1);
	assert_int_equal(raise_pf(m), 0);
	assert_int_equal(m->cpu.cr2, 0xabc);
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_PF));
	assert_int_equal(peek(m, sp - 16, 4), 2);
}

static void debug_registers(void **state)
{
	struct machine *m = *state;
	const struct x86_fault single_step = { .vector = X86_DB, .address = 0x4000 };

	set_handlers(m, (const uint8_t[]){ X86_DB }, 1);
	m->cpu.dr[6] = 0xffff0ff3 | 0x8000;
	m->cpu.dr[7] = 0x2400 | 1;
	m->cpu.debugctl = 2;
	assert_int_equal(x86_raise_fault(&m->sys, &single_step), 0);
	assert_int_equal(m->cpu.dr[6], 0xffffcff0); /* B0-B3 cleared, BT sticky, BS added */
	assert_int_equal(m->cpu.dr[7], 0x0401);     /* GD cleared */
	assert_int_equal(m->cpu.debugctl, 0);
	assert_true(m->sys.effects & X86_EFFECT_DEBUG);
}

static void contributory_pairs_double_fault(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_handlers(m, (const uint8_t[]){ X86_DF, X86_NP }, 2);
	assert_int_equal(raise_gp(m), 0); /* #GP's gate is missing: #GP again */
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_DF));
	assert_int_equal(peek(m, sp - 16, 4), 0); /* error code 0 */
	assert_int_equal(peek(m, sp - 12, 4), 0x7000);
}

static void benign_then_contributory_is_serial(void **state)
{
	struct machine *m = *state;
	uint64_t sp = SP(m);

	set_handlers(m, (const uint8_t[]){ X86_DF, X86_GP }, 2);
	assert_int_equal(raise_ud(m), 0);
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_GP));
	assert_int_equal(peek(m, sp - 16, 4), IDT_ERROR(X86_UD) | EXT);
}

static void interrupt_then_fault_is_serial(void **state)
{
	struct machine *m = *state;

	set_handlers(m, (const uint8_t[]){ X86_DF, X86_NP }, 2);
	set_gate(m, 0x30, CODE0, HANDLER, ABSENT(INT32));
	assert_int_equal(x86_raise_event(&m->sys, X86_EVENT_HARDWARE, 0x30), 0);
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_NP));
}

static void page_fault_then_contributory(void **state)
{
	struct machine *m = *state;

	set_handlers(m, (const uint8_t[]){ X86_DF, X86_GP }, 2);
	assert_int_equal(raise_pf(m), 0); /* #PF's gate is missing: #GP, hence #DF */
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_DF));
	assert_int_equal(m->cpu.cr2, 0xabc);
}

static void contributory_then_page_fault_is_serial(void **state)
{
	struct machine *m = *state;

	/* #GP's handler lies in a code segment whose descriptor page faults. */
	m->cpu.gdt.base = 0x1000;
	m->cpu.gdt.limit = 0x1fff;
	set_handlers(m, (const uint8_t[]){ X86_DF, X86_PF }, 2);
	poke(m, IDT_BASE + X86_GP * 8, 8, gate_descriptor(0x1000 + 8, HANDLER, INT32, 0));
	m->cpu.idt.base = 0xc000;
	memcpy(m->memory + 0xc000, m->memory + IDT_BASE, 0x800);
	m->bad_page = 0x2000;
	assert_int_equal(raise_gp(m), 0);
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_PF));
	assert_int_equal(m->cpu.cr2, 0x2008);
}

static void page_fault_on_the_stack(void **state)
{
	struct machine *m = *state;

	/* User mode, kernel stack not mapped: #PF in #PF's delivery, #DF's as well: shutdown. */
	set_handlers(m, (const uint8_t[]){ X86_DF, X86_PF, X86_GP }, 3);
	m->bad_page = (STACK0 - 1) & ~0xfffu;
	assert_int_equal(raise_pf(m), -1);
	assert_int_equal(m->cpu.cr2, STACK0 - 24);
}

static void shutdown(void **state)
{
	struct machine *m = *state;

	set_handlers(m, NULL, 0);
	assert_int_equal(raise_ud(m), -1);
	assert_int_equal(raise_gp(m), -1);
	m->cpu.idt.limit = 0;
	assert_int_equal(raise_pf(m), -1);
	assert_int_equal(x86_raise_event(&m->sys, X86_EVENT_HARDWARE, 0x30), -1);
}

static void long_double_fault_on_ist(void **state)
{
	struct machine *m = *state;

	/* The kernel's stack is gone; #DF has its own. */
	set_gate64(m, X86_PF, CODE64, HANDLER_OF(X86_PF), INT32, 0);
	set_gate64(m, X86_DF, CODE64, HANDLER_OF(X86_DF), INT32, 1);
	SP(m) = 0x7000;
	m->bad_page = 0x6000;
	assert_int_equal(raise_pf(m), 0);
	assert_int_equal(m->cpu.rip, HANDLER_OF(X86_DF));
	assert_int_equal(m->cpu.cr2, 0x7000 - 48);
	assert_int_equal(peek(m, SP(m), 8), 0);
	assert_int_equal(peek(m, SP(m) + 32, 8), 0x7000);
}

#define IN(setup, f) cmocka_unit_test_setup_teardown(f, machine_##setup, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(real, real_interrupt),
		IN(real, real_interrupt_details),
		IN(real, real_iret32),
		IN(real, nmi),
		IN(protected, same_level),
		IN(protected, error_codes_and_rf),
		IN(protected, gate16),
		IN(protected_user, inner_level),
		IN(protected_user, middle_level),
		IN(protected_user, user_level_handler),
		IN(protected_user, gate_faults),
		IN(protected, handler_faults),
		IN(protected_user, inner_stack_faults),
		IN(protected_user, tss16_stack),
		IN(protected, stack16),
		IN(protected, iret_faults),
		IN(protected, iret_unblocks_nmi_even_if_it_faults),
		IN(protected_user, iret_user_flags),
		IN(protected, iret_kernel_flags),
		IN(protected, iret_to_16_bit_stack),
		IN(v86, v86_to_protected_and_back),
		IN(v86, v86_gate16),
		IN(v86, v86_handler_faults),
		IN(v86, v86_int_n),
		IN(v86, v86_int_n_trusted),
		IN(v86, v86_vme_redirection),
		IN(v86, v86_vme_trusted),
		IN(v86, v86_iret),
		IN(v86, v86_entry_with_virtual_interrupt),
		IN(protected, pvi_return_with_virtual_interrupt),
		IN(long, long_same_level),
		IN(long_user, long_from_user),
		IN(long, long_ist),
		IN(long_user, long_gate_faults),
		IN(long_user, long_from_compatibility_mode),
		IN(long, long_iret_null_ss),
		IN(long, long_iret_faults),
		IN(long, long_iret_operand_sizes),
		IN(protected, page_fault_registers),
		IN(protected, debug_registers),
		IN(protected, contributory_pairs_double_fault),
		IN(protected, benign_then_contributory_is_serial),
		IN(protected, interrupt_then_fault_is_serial),
		IN(protected, page_fault_then_contributory),
		IN(protected, contributory_then_page_fault_is_serial),
		IN(protected_user, page_fault_on_the_stack),
		IN(protected, shutdown),
		IN(long, long_double_fault_on_ist),
	};

	return cmocka_run_group_tests_name("x86 events", tests, NULL, NULL);
}
