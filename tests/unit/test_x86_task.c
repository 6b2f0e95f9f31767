/* SPDX-License-Identifier: MIT */
/* Hardware task switches: SDM volume 3, chapter 7. */
#include "x86_machine.h"

#define JUMP(m, selector) x86_far_jump(&(m)->sys, selector, 0, 4, &(m)->fault)
#define CALL(m, selector) x86_far_call(&(m)->sys, selector, 0, 4, &(m)->fault)
#define IRET(m) x86_iret(&(m)->sys, 4, &(m)->fault)
#define DELIVER(m, kind, vector)                                                                   \
	x86_deliver_event(&(m)->sys, X86_EVENT_##kind, vector, false, 0, &(m)->fault)
#define SEG(m, name) ((m)->cpu.seg[X86_##name])
#define TASK_GATE 0x85
#define DPL3 0x60
#define AVAILABLE 0x89
#define BUSY 0x8b

static void set_selectors32(struct machine *m, uint32_t tss, uint16_t cs, uint16_t ss, uint16_t ds)
{
	poke(m, tss + 0x48, 4, ds);
	poke(m, tss + 0x4c, 4, cs);
	poke(m, tss + 0x50, 4, ss);
	poke(m, tss + 0x54, 4, ds);
	poke(m, tss + 0x58, 4, 0);
	poke(m, tss + 0x5c, 4, 0);
	poke(m, tss + 0x60, 4, 0);
}

/* A second task: EIP b000, registers 100-107, ESP 6000, flat segments of level 0. */
static void second_task(struct machine *m)
{
	poke(m, TSS2_BASE + 0x1c, 4, 0x12345000);
	poke(m, TSS2_BASE + 0x20, 4, 0xb000);
	poke(m, TSS2_BASE + 0x24, 4, X86_FLAG_CF | X86_FLAG_R1);
	for (unsigned i = 0; i < 8; i++)
		poke(m, TSS2_BASE + 0x28 + i * 4, 4, i == X86_RSP ? 0x6000 : 0x100 + i);
	set_selectors32(m, TSS2_BASE, CODE0, DATA0, DATA0);
}

static unsigned type_of(struct machine *m, uint16_t selector)
{
	return (unsigned)(get_gdt(m, selector) >> 40 & 0xff);
}

static void jump(void **state)
{
	struct machine *m = *state;

	second_task(m);
	for (unsigned i = 0; i < 8; i++)
		m->cpu.gpr[i] = 0x200 + i;
	m->cpu.rflags |= X86_FLAG_ZF | X86_FLAG_NT;
	m->cpu.dr[7] = 0x7ff;
	SEG(m, FS).selector = 3;
	poke(m, TSS_BASE + 0x4e, 2,
	     0xdead); /* the upper halves of selector fields are left alone */
	assert_ok(m, JUMP(m, TSS2));

	/* The old task. */
	assert_int_equal(peek(m, TSS_BASE + 0x20, 4), 0x7000);
	assert_int_equal(peek(m, TSS_BASE + 0x24, 4), X86_FLAG_R1 | X86_FLAG_ZF | X86_FLAG_NT);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(peek(m, TSS_BASE + 0x28 + i * 4, 4), 0x200 + i);
	assert_int_equal(peek(m, TSS_BASE + 0x4c, 4), 0xdead0000 | CODE0);
	assert_int_equal(peek(m, TSS_BASE + 0x50, 2), DATA0);
	assert_int_equal(peek(m, TSS_BASE + 0x58, 2), 3);
	assert_int_equal(type_of(m, TSS), AVAILABLE);
	/* The new one. */
	assert_int_equal(type_of(m, TSS2), BUSY);
	assert_int_equal(SEG(m, TR).selector, TSS2);
	assert_int_equal(SEG(m, TR).base, TSS2_BASE);
	assert_int_equal(SEG(m, TR).attr, BUSY);
	assert_int_equal(m->cpu.rip, 0xb000);
	assert_int_equal(m->cpu.rflags, X86_FLAG_CF | X86_FLAG_R1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(m->cpu.gpr[i], i == X86_RSP ? 0x6000 : 0x100 + i);
	assert_int_equal(SEG(m, CS).selector, CODE0);
	assert_int_equal(SEG(m, DS).attr, 0xc093);
	assert_false(SEG(m, FS).attr & X86_ATTR_P);
	assert_true(m->cpu.cr0 & X86_CR0_TS);
	assert_int_equal(m->cpu.dr[7], 0x6aa);
	assert_int_equal(m->cpu.cr3, 0);            /* paging is off */
	assert_int_equal(peek(m, TSS2_BASE, 2), 0); /* no link */
}

static void call_and_iret(void **state)
{
	struct machine *m = *state;

	second_task(m);
	assert_ok(m, CALL(m, TSS2));
	assert_int_equal(peek(m, TSS2_BASE, 2), TSS);
	assert_int_equal(type_of(m, TSS), BUSY);
	assert_int_equal(type_of(m, TSS2), BUSY);
	assert_true(m->cpu.rflags & X86_FLAG_NT);

	m->cpu.rip = 0xb123;
	assert_ok(m, IRET(m));
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(SEG(m, TR).selector, TSS);
	assert_int_equal(SEG(m, TR).attr, BUSY);
	assert_int_equal(type_of(m, TSS), BUSY);
	assert_int_equal(type_of(m, TSS2), AVAILABLE);
	assert_int_equal(peek(m, TSS2_BASE + 0x20, 4), 0xb123);
	assert_false(peek(m, TSS2_BASE + 0x24, 4) & X86_FLAG_NT); /* saved with NT clear */
	assert_false(m->cpu.rflags & X86_FLAG_NT);
}

static void through_a_task_gate(void **state)
{
	struct machine *m = *state;

	second_task(m);
	set_gdt(m, GATE, gate_descriptor(TSS2, 0, TASK_GATE, 0));
	assert_fault_unchanged(m, JUMP(m, GATE), X86_GP, GATE); /* DPL 0, CPL 3 */
	set_gdt(m, GATE, gate_descriptor(TSS2, 0, (TASK_GATE | DPL3) & 0x7f, 0));
	assert_fault_unchanged(m, JUMP(m, GATE), X86_NP, GATE);
	set_gdt(m, GATE, gate_descriptor(TSS2 | 4, 0, TASK_GATE | DPL3, 0));
	assert_fault_unchanged(m, JUMP(m, GATE), X86_GP, TSS2 | 4);
	/* The gate's DPL counts, not the TSS's. */
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_GP, TSS2);
	set_gdt(m, GATE, gate_descriptor(TSS2, 0, TASK_GATE | DPL3, 0));
	assert_ok(m, CALL(m, GATE));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(m->cpu.rip, 0xb000);
	assert_ok(m, IRET(m));
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(SEG(m, SS).selector, DATA3 | 3);
}

static void faults_in_the_old_task(void **state)
{
	struct machine *m = *state;

	second_task(m);
	assert_fault_unchanged(m, JUMP(m, TSS), X86_GP, TSS); /* busy */
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0009));
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_NP, TSS2);
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x66, 0x0089));
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_TS, TSS2);
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0089));
	m->bad_page = TSS2_BASE;
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_PF, 0);
	m->bad_page = NO_PAGE;
	m->readonly_page = TSS_BASE;
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_PF, X86_PF_W);
	m->readonly_page = NO_PAGE;
	/* IRET: #TS, and the TSS must be busy. */
	m->cpu.rflags |= X86_FLAG_NT;
	poke(m, TSS_BASE, 2, TSS2);
	assert_fault_unchanged(m, IRET(m), X86_TS, TSS2);
	poke(m, TSS_BASE, 2, 0x200);
	assert_fault_unchanged(m, IRET(m), X86_TS, 0x200);
	poke(m, TSS_BASE, 2, TSS2 | 4);
	assert_fault_unchanged(m, IRET(m), X86_TS, TSS2 | 4);
	poke(m, TSS_BASE, 2, DATA0);
	assert_fault_unchanged(m, IRET(m), X86_TS, DATA0);
}

/* A fault found after the switch is the new task's: delivered there, the instruction is complete. */
static void expect_fault_in_new_task(struct machine *m, uint8_t vector, uint16_t error)
{
	uint64_t sp;

	set_gate(m, vector, CODE0, HANDLER + vector, 0x8e);
	/* A handler needs a good stack: level 0 with SS from the TSS if the new task is level 3. */
	poke(m, TSS2_BASE + 4, 4, STACK0);
	poke(m, TSS2_BASE + 8, 4, DATA0);
	assert_ok(m, JUMP(m, TSS2));
	assert_int_equal(SEG(m, TR).selector, TSS2);
	assert_int_equal(m->cpu.rip, HANDLER + vector);
	sp = m->cpu.gpr[X86_RSP];
	assert_int_equal(peek(m, sp, 4), error);
	assert_int_equal(peek(m, sp + 4, 4), 0xb000); /* the new task's EIP */
}

static void new_task_bad_data_segment(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, TSS2_BASE + 0x54, 4, 0x200);
	expect_fault_in_new_task(m, X86_TS, 0x200);
}

static void new_task_absent_data_segment(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, TSS2_BASE + 0x48, 4, ABSENT_DATA);
	expect_fault_in_new_task(m, X86_NP, ABSENT_DATA);
}

static void new_task_bad_data_privilege(void **state)
{
	struct machine *m = *state;

	second_task(m);
	set_selectors32(m, TSS2_BASE, CODE3 | 3, DATA3 | 3, DATA0);
	expect_fault_in_new_task(m, X86_TS, DATA0);
	assert_int_equal(peek(m, m->cpu.gpr[X86_RSP] + 8, 4), CODE3 | 3);
}

static void new_task_ip_beyond_limit(void **state)
{
	struct machine *m = *state;

	second_task(m);
	set_gdt(m, FREE, descriptor(0, 0xafff, 0x409b));
	poke(m, TSS2_BASE + 0x4c, 4, FREE);
	expect_fault_in_new_task(m, X86_GP, 0);
}

static void new_task_without_a_usable_stack(void **state)
{
	struct machine *m = *state;

	/* SS is bad, so #TS cannot be delivered on it: double fault by a task gate would be the way. */
	second_task(m);
	set_gate(m, X86_TS, CODE0, HANDLER, 0x8e);
	poke(m, TSS2_BASE + 0x50, 4, 0x200);
	assert_int_equal(JUMP(m, TSS2), -1);
	assert_int_equal(m->fault.vector, X86_DF);
	assert_int_equal(x86_raise_fault(&m->sys, &m->fault), -1); /* shutdown */
}

static void ldt_of_the_task(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, LDT_BASE + 8, 8, descriptor(0x1000, 0xffff, 0x4093));
	poke(m, TSS2_BASE + 0x60, 4, LDT);
	poke(m, TSS2_BASE + 0x54, 4, 0x0c);
	assert_ok(m, JUMP(m, TSS2));
	assert_int_equal(SEG(m, LDTR).selector, LDT);
	assert_int_equal(SEG(m, DS).base, 0x1000);
}

static void bad_ldt(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, TSS2_BASE + 0x60, 4, DATA0);
	set_gate(m, X86_TS, CODE0, HANDLER, 0x8e);
	/* Neither CS nor SS is loaded when the LDT is found bad: shutdown through #DF. */
	assert_int_equal(JUMP(m, TSS2), -1);
	assert_int_equal(m->fault.vector, X86_DF);
}

static void paging(void **state)
{
	struct machine *m = *state;

	second_task(m);
	m->cpu.cr0 |= X86_CR0_PG;
	assert_ok(m, JUMP(m, TSS2));
	assert_int_equal(m->cpu.cr3, 0x12345000);
	assert_true(m->sys.effects & X86_EFFECT_CR3);
}

static void to_v86(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, TSS2_BASE + 0x24, 4, X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_IOPL);
	set_selectors32(m, TSS2_BASE, 0x1000, 0x2000, 0x3000);
	assert_ok(m, JUMP(m, TSS2));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_IOPL);
	assert_int_equal(SEG(m, CS).base, 0x10000);
	assert_int_equal(SEG(m, SS).base, 0x20000);
	assert_int_equal(SEG(m, DS).base, 0x30000);
	assert_int_equal(x86_cpl(&m->cpu), 3);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
}

static void tss16(void **state)
{
	struct machine *m = *state;

	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x2b, 0x0081));
	poke(m, TSS2_BASE + 0x0e, 2, 0xb000);
	poke(m, TSS2_BASE + 0x10, 2, X86_FLAG_CF | X86_FLAG_R1);
	for (unsigned i = 0; i < 8; i++)
		poke(m, TSS2_BASE + 0x12 + i * 2, 2, 0x100 + i);
	poke(m, TSS2_BASE + 0x22, 2, DATA0);
	poke(m, TSS2_BASE + 0x24, 2, CODE0);
	poke(m, TSS2_BASE + 0x26, 2, DATA0);
	poke(m, TSS2_BASE + 0x28, 2, 0);
	poke(m, TSS2_BASE + 0x2a, 2, LDT);
	load_cache(m, X86_FS, DATA0);
	assert_ok(m, CALL(m, TSS2));
	assert_int_equal(m->cpu.rip, 0xb000);
	assert_int_equal(m->cpu.rflags, X86_FLAG_CF | X86_FLAG_R1 | X86_FLAG_NT);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(m->cpu.gpr[i] & 0xffff, 0x100 + i);
	assert_int_equal(SEG(m, ES).selector, DATA0);
	assert_false(SEG(m, DS).attr & X86_ATTR_P);
	assert_false(SEG(m, FS).attr & X86_ATTR_P); /* FS and GS become null */
	assert_int_equal(SEG(m, LDTR).selector, LDT);
	assert_int_equal(SEG(m, TR).attr, 0x83);
	assert_int_equal(peek(m, TSS2_BASE, 2), TSS);

	m->cpu.gpr[X86_RAX] = 0xffff4321;
	assert_ok(m, IRET(m));
	assert_int_equal(peek(m, TSS2_BASE + 0x12, 2), 0x4321);
	assert_int_equal(peek(m, TSS2_BASE + 0x24, 2), CODE0);
	assert_int_equal(peek(m, TSS2_BASE + 0x2a, 2), LDT); /* not written */
	assert_int_equal(SEG(m, TR).selector, TSS);
	assert_int_equal(m->cpu.rip, 0x7000);
	assert_int_equal(SEG(m, FS).selector, DATA0);
}

static void tss16_limit(void **state)
{
	struct machine *m = *state;

	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x2a, 0x0081));
	assert_fault_unchanged(m, JUMP(m, TSS2), X86_TS, TSS2);
}

/* ---- by interrupt ---- */

static void interrupt(void **state)
{
	struct machine *m = *state;

	second_task(m);
	set_gate(m, 0x30, TSS2, 0, TASK_GATE);
	assert_fault_unchanged(m, DELIVER(m, INT_N, 0x30), X86_GP, 0x30 * 8 + 2);
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(m->cpu.rip, 0xb000);
	assert_int_equal(m->cpu.gpr[X86_RSP], 0x6000);
	assert_true(m->cpu.rflags & X86_FLAG_NT);
	assert_int_equal(peek(m, TSS2_BASE, 2), TSS);
	/* Again: the task is busy. */
	assert_fault_unchanged(m, DELIVER(m, HARDWARE, 0x30), X86_GP, TSS2 | 1);
	assert_ok(m, IRET(m));
	assert_int_equal(m->cpu.rip, 0x7000);
}

static void exception_with_error_code(void **state)
{
	struct machine *m = *state;
	const struct x86_fault fault = { .vector = X86_DF, .has_error = true };

	second_task(m);
	set_gate(m, X86_GP, TSS2, 0, TASK_GATE);
	assert_ok(m,
		  x86_deliver_event(&m->sys, X86_EVENT_EXCEPTION, X86_GP, true, 0x58, &m->fault));
	assert_int_equal(m->cpu.gpr[X86_RSP], 0x6000 - 4);
	assert_int_equal(peek(m, 0x6000 - 4, 4), 0x58);
	assert_true(peek(m, TSS_BASE + 0x24, 4) & X86_FLAG_RF);
	/* The double-fault task of old systems: works with no usable stack. */
	set_gate(m, X86_DF, TSS, 0, TASK_GATE);
	set_gdt(m, TSS, descriptor(TSS_BASE, 0x67, 0x0089));
	m->bad_page = 0x6000;
	m->cpu.gpr[X86_RSP] = 0x6100;
	assert_int_equal(x86_raise_fault(&m->sys, &fault), 0);
	assert_int_equal(SEG(m, TR).selector, TSS);
}

static void from_v86(void **state)
{
	struct machine *m = *state;

	second_task(m);
	set_gate(m, 0x30, TSS2, 0, TASK_GATE);
	assert_ok(m, DELIVER(m, HARDWARE, 0x30));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_false(m->cpu.rflags & X86_FLAG_VM);
	assert_true(peek(m, TSS_BASE + 0x24, 4) & X86_FLAG_VM);
	assert_int_equal(peek(m, TSS_BASE + 0x4c, 2), 0x1000);
	assert_ok(m, IRET(m));
	assert_true(m->cpu.rflags & X86_FLAG_VM);
	assert_int_equal(SEG(m, CS).base, 0x10000);
	assert_int_equal(m->cpu.rip, 0x100);
}

static void trap_flag(void **state)
{
	struct machine *m = *state;
	uint64_t sp;

	second_task(m);
	poke(m, TSS2_BASE + 0x64, 2, 1);
	set_gate(m, X86_DB, CODE0, HANDLER, 0x8e);
	assert_ok(m, JUMP(m, TSS2));
	assert_int_equal(m->cpu.rip, HANDLER);
	assert_true(m->cpu.dr[6] & 0x8000); /* BT */
	sp = m->cpu.gpr[X86_RSP];
	assert_int_equal(sp, 0x6000 - 12);
	assert_int_equal(peek(m, sp, 4), 0xb000);
}

/* The public entry point does not raise the new task's faults itself. */
static void direct_call(void **state)
{
	struct machine *m = *state;

	second_task(m);
	poke(m, TSS2_BASE + 0x54, 4, 0x200);
	assert_int_equal(x86_task_switch(&m->sys, TSS2, X86_TASK_JMP, false, 0, &m->fault), -1);
	assert_int_equal(m->fault.vector, X86_TS);
	assert_int_equal(m->fault.error, 0x200);
	assert_int_equal(m->cpu.rip, 0xb000);
}

#define IN(setup, f) cmocka_unit_test_setup_teardown(f, machine_##setup, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(protected, jump),
		IN(protected, call_and_iret),
		IN(protected_user, through_a_task_gate),
		IN(protected, faults_in_the_old_task),
		IN(protected, new_task_bad_data_segment),
		IN(protected, new_task_absent_data_segment),
		IN(protected, new_task_bad_data_privilege),
		IN(protected, new_task_ip_beyond_limit),
		IN(protected, new_task_without_a_usable_stack),
		IN(protected, ldt_of_the_task),
		IN(protected, bad_ldt),
		IN(protected, paging),
		IN(protected, to_v86),
		IN(protected, tss16),
		IN(protected, tss16_limit),
		IN(protected_user, interrupt),
		IN(protected, exception_with_error_code),
		IN(v86, from_v86),
		IN(protected, trap_flag),
		IN(protected, direct_call),
	};

	return cmocka_run_group_tests_name("x86 tasks", tests, NULL, NULL);
}
