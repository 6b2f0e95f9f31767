/* SPDX-License-Identifier: MIT */
/* Segment loads and uses, LLDT, LTR, LAR, LSL, VERR, VERW: SDM volumes 2 and 3 (3.4, 5). */
#include "x86_machine.h"

#define LOAD(m, seg, selector) x86_load_segment(&(m)->sys, seg, selector, &(m)->fault)
#define SEG(m, name) ((m)->cpu.seg[X86_##name])

static void real_mode(void **state)
{
	struct machine *m = *state;

	/* "Unreal": limit and D/B survive a load in real mode, the base does not. */
	SEG(m, DS) =
		(struct x86_segment){ .selector = 8, .attr = 0xc093, .limit = ~0u, .base = 0x1234 };
	assert_ok(m, LOAD(m, X86_DS, 0xfff0));
	assert_int_equal(SEG(m, DS).base, 0xfff00);
	assert_int_equal(SEG(m, DS).limit, ~0u);
	assert_int_equal(SEG(m, DS).selector, 0xfff0);
	assert_true(SEG(m, DS).attr & X86_ATTR_DB);
	assert_ok(m, LOAD(m, X86_SS, 0));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_int_equal(m->reads, 0);
	/* CS cannot be loaded this way. */
	assert_ud(m, LOAD(m, X86_CS, 0x1000));
}

static void v86_mode(void **state)
{
	struct machine *m = *state;

	SEG(m, ES).limit = 5;
	assert_ok(m, LOAD(m, X86_ES, 0xabcd));
	assert_int_equal(SEG(m, ES).base, 0xabcd0);
	assert_int_equal(SEG(m, ES).limit, 0xffff);
	assert_ok(m, LOAD(m, X86_SS, 0));
	assert_int_equal(x86_cpl(&m->cpu), 3);
}

static void data_segments(void **state)
{
	struct machine *m = *state;

	assert_ok(m, LOAD(m, X86_DS, DATA16));
	assert_int_equal(SEG(m, DS).base, 0x20000);
	assert_int_equal(SEG(m, DS).limit, 0xffff);
	assert_int_equal(SEG(m, DS).attr, 0x0093);
	assert_ok(m, LOAD(m, X86_ES, READONLY0));
	assert_ok(m, LOAD(m, X86_FS, CODE0)); /* readable code */
	assert_ok(m, LOAD(m, X86_GS, DATA3 | 3));
	assert_fault_unchanged(m, LOAD(m, X86_DS, EXECONLY), X86_GP, EXECONLY);
	assert_fault_unchanged(m, LOAD(m, X86_DS, TSS), X86_GP, TSS);
	assert_fault_unchanged(m, LOAD(m, X86_DS, ABSENT_DATA), X86_NP, ABSENT_DATA);
	assert_fault_unchanged(m, LOAD(m, X86_DS, 0x200), X86_GP, 0x200); /* beyond the limit */
	assert_fault_unchanged(m, LOAD(m, X86_DS, DATA0 | 3), X86_GP,
			       DATA0); /* RPL > DPL; the code drops RPL */
	assert_fault_unchanged(m, LOAD(m, X86_DS, DATA0 | 4), X86_GP, DATA0 | 4); /* no LDT */
	assert_int_equal(m->writes, 0); /* all were accessed already */
}

static void data_segments_user(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, LOAD(m, X86_DS, DATA0), X86_GP, DATA0);
	assert_fault_unchanged(m, LOAD(m, X86_DS, CODE0), X86_GP, CODE0);
	assert_ok(m, LOAD(m, X86_DS, CONFORMING | 3)); /* conforming code: no privilege check */
	assert_ok(m, LOAD(m, X86_DS, DATA3));          /* RPL 0 */
	assert_int_equal(SEG(m, DS).selector, DATA3);
}

static int change_byte(struct x86_system *s, uint64_t linear, uint8_t set, uint8_t clear,
		       struct x86_fault *fault)
{
	uint8_t *byte = machine_at(machine_of(s), linear);

	(void)fault;
	*byte = (*byte | set) & ~clear;
	return 0;
}

static const struct x86_system_ops atomic_ops = {
	.read = machine_read,
	.write = machine_write,
	.change_byte = change_byte,
};

static void accessed_bit(void **state)
{
	struct machine *m = *state;

	set_gdt(m, FREE, descriptor(0, 0xff, 0x4092));
	assert_ok(m, LOAD(m, X86_DS, FREE));
	assert_int_equal(get_gdt(m, FREE), descriptor(0, 0xff, 0x4093));
	assert_int_equal(SEG(m, DS).attr, 0x4093);
	assert_int_equal(m->writes, 1);
	assert_true(m->last_write_flags & X86_SYS_IMPLICIT);

	/* By the engine's atomic operation if it has one. */
	set_gdt(m, FREE, descriptor(0, 0xff, 0x4092));
	m->sys.ops = &atomic_ops;
	assert_ok(m, LOAD(m, X86_DS, FREE));
	assert_int_equal(get_gdt(m, FREE), descriptor(0, 0xff, 0x4093));
	assert_int_equal(m->writes, 1);
	m->sys.ops = &machine_ops;

	/* A descriptor that cannot be marked is not loaded. */
	set_gdt(m, FREE, descriptor(0, 0xff, 0x4092));
	m->readonly_page = GDT_BASE;
	assert_fault_unchanged(m, LOAD(m, X86_ES, FREE), X86_PF, X86_PF_W);
	m->readonly_page = NO_PAGE;
	m->bad_page = GDT_BASE;
	assert_fault_unchanged(m, LOAD(m, X86_ES, DATA0), X86_PF, 0);
}

static void null_selectors(void **state)
{
	struct machine *m = *state;

	for (unsigned rpl = 0; rpl < 4; rpl++) {
		SEG(m, DS).attr = 0xc093;
		assert_ok(m, LOAD(m, X86_DS, rpl));
		assert_int_equal(SEG(m, DS).selector, rpl);
		assert_false(SEG(m, DS).attr & X86_ATTR_P);
	}
	SEG(m, FS).base = 0x1234;
	assert_ok(m, LOAD(m, X86_FS, 0));
	assert_int_equal(SEG(m, FS).base, 0);
	SEG(m, FS).base = 0x1234;
	m->sys.features.null_keeps_base = true;
	assert_ok(m, LOAD(m, X86_FS, 0));
	assert_int_equal(SEG(m, FS).base, 0x1234);
	assert_false(SEG(m, FS).attr & X86_ATTR_P);
	assert_fault_unchanged(m, LOAD(m, X86_SS, 0), X86_GP, 0);
}

static void stack_segment(void **state)
{
	struct machine *m = *state;

	assert_ok(m, LOAD(m, X86_SS, DATA16));
	assert_true(m->sys.effects & X86_EFFECT_MODE); /* SS.B changed */
	assert_fault_unchanged(m, LOAD(m, X86_SS, READONLY0), X86_GP, READONLY0);
	assert_fault_unchanged(m, LOAD(m, X86_SS, CODE0), X86_GP, CODE0);
	assert_fault_unchanged(m, LOAD(m, X86_SS, DATA3 | 3), X86_GP, DATA3);
	assert_fault_unchanged(m, LOAD(m, X86_SS, DATA0 | 3), X86_GP, DATA0);
	assert_fault_unchanged(m, LOAD(m, X86_SS, DATA3), X86_GP, DATA3);
	assert_fault_unchanged(m, LOAD(m, X86_SS, ABSENT_DATA), X86_SS_FAULT, ABSENT_DATA);
	assert_fault_unchanged(m, LOAD(m, X86_SS, 0x208), X86_GP, 0x208);
	assert_ok(m, LOAD(m, X86_SS, DOWN));
	assert_int_equal(x86_cpl(&m->cpu), 0);
}

static void null_stack_segment_64(void **state)
{
	struct machine *m = *state;

	assert_ok(m, LOAD(m, X86_SS, 0));
	assert_int_equal(x86_cpl(&m->cpu), 0);
	assert_fault_unchanged(m, LOAD(m, X86_SS, 3), X86_GP, 0); /* RPL != CPL */
	SEG(m, SS).attr = X86_ATTR_DPL;                           /* CPL 3 */
	assert_fault_unchanged(m, LOAD(m, X86_SS, 3), X86_GP, 0);
	/* In compatibility mode never. */
	SEG(m, SS).attr = 0xc093;
	SEG(m, CS).attr = 0xc09b;
	assert_fault_unchanged(m, LOAD(m, X86_SS, 0), X86_GP, 0);
}

static void local_descriptors(void **state)
{
	struct machine *m = *state;

	assert_ok(m, x86_load_ldtr(&m->sys, LDT, &m->fault));
	assert_int_equal(SEG(m, LDTR).base, LDT_BASE);
	assert_int_equal(SEG(m, LDTR).limit, 0xff);
	poke(m, LDT_BASE + 0x10, 8, descriptor(0x5000, 0xfff, 0x4093));
	poke(m, LDT_BASE, 8, descriptor(0x6000, 0xfff, 0x4093));
	assert_ok(m, LOAD(m, X86_DS, 0x14));
	assert_int_equal(SEG(m, DS).base, 0x5000);
	assert_ok(m, LOAD(m, X86_DS, 0x04)); /* index 0 of the LDT is not null */
	assert_int_equal(SEG(m, DS).base, 0x6000);
	assert_fault_unchanged(m, LOAD(m, X86_DS, 0x104), X86_GP, 0x104);

	assert_ok(m, x86_load_ldtr(&m->sys, 0, &m->fault));
	assert_fault_unchanged(m, LOAD(m, X86_DS, 0x14), X86_GP, 0x14);
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, LDT | 4, &m->fault), X86_GP, LDT | 4);
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, TSS2, &m->fault), X86_GP, TSS2);
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, DATA0, &m->fault), X86_GP, DATA0);
	set_gdt(m, LDT, descriptor(LDT_BASE, 0xff, 0x0002));
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, LDT, &m->fault), X86_NP, LDT);
}

static void task_register(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, x86_load_tr(&m->sys, 0, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS, &m->fault), X86_GP, TSS); /* busy */
	assert_fault_unchanged(m, x86_load_tr(&m->sys, LDT, &m->fault), X86_GP, LDT);
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2 | 4, &m->fault), X86_GP, TSS2 | 4);
	assert_ok(m, x86_load_tr(&m->sys, TSS2, &m->fault));
	assert_int_equal(SEG(m, TR).selector, TSS2);
	assert_int_equal(SEG(m, TR).base, TSS2_BASE);
	assert_int_equal(SEG(m, TR).attr, 0x8b);
	assert_int_equal(get_gdt(m, TSS2), descriptor(TSS2_BASE, 0x67, 0x008b)); /* now busy */
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x2b, 0x0081));
	assert_ok(m, x86_load_tr(&m->sys, TSS2, &m->fault)); /* 16-bit */
	assert_int_equal(SEG(m, TR).attr, 0x83);
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0009));
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2, &m->fault), X86_NP, TSS2);
}

static void system_segments_long(void **state)
{
	struct machine *m = *state;

	poke(m, GDT_BASE + TSS2 + 8, 8, 0xffff8000);
	assert_ok(m, x86_load_tr(&m->sys, TSS2, &m->fault));
	assert_int_equal(SEG(m, TR).base, 0xffff800000000000ull | TSS2_BASE);
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0089));
	poke(m, GDT_BASE + TSS2 + 8, 8, 0x00008000); /* not canonical */
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2, &m->fault), X86_GP, TSS2);
	poke(m, GDT_BASE + TSS2 + 8, 8, 0x0000010000000000ull); /* a type in the upper half */
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2, &m->fault), X86_GP, TSS2);
	set_gdt(m, TSS2, descriptor(TSS2_BASE, 0x67, 0x0081));
	poke(m, GDT_BASE + TSS2 + 8, 8, 0);
	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2, &m->fault), X86_GP,
			       TSS2); /* no 16-bit TSS here */
	/* All 16 bytes must be inside the table. */
	m->cpu.gdt.limit = LDT + 7;
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, LDT, &m->fault), X86_GP, LDT);
	m->cpu.gdt.limit = LDT + 15;
	assert_ok(m, x86_load_ldtr(&m->sys, LDT, &m->fault));
}

static void system_segments_need_cpl0(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, x86_load_tr(&m->sys, TSS2, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_load_ldtr(&m->sys, LDT, &m->fault), X86_GP, 0);
}

static void not_in_real_or_v86_mode(void **state)
{
	struct machine *m = *state;
	uint32_t value;
	bool ok;

	assert_ud(m, x86_load_tr(&m->sys, TSS2, &m->fault));
	assert_ud(m, x86_load_ldtr(&m->sys, LDT, &m->fault));
	assert_ud(m, x86_lar(&m->sys, DATA0, &value, &ok, &m->fault));
	assert_ud(m, x86_lsl(&m->sys, DATA0, &value, &ok, &m->fault));
	assert_ud(m, x86_verify(&m->sys, DATA0, false, &ok, &m->fault));
}

static bool lar(struct machine *m, uint16_t selector, uint32_t *rights)
{
	bool ok;

	assert_ok(m, x86_lar(&m->sys, selector, rights, &ok, &m->fault));
	return ok;
}

static bool lsl(struct machine *m, uint16_t selector, uint32_t *limit)
{
	bool ok;

	assert_ok(m, x86_lsl(&m->sys, selector, limit, &ok, &m->fault));
	return ok;
}

static bool verify(struct machine *m, uint16_t selector, bool write)
{
	bool ok;

	assert_ok(m, x86_verify(&m->sys, selector, write, &ok, &m->fault));
	return ok;
}

static void probing(void **state)
{
	struct machine *m = *state;
	uint32_t value = 0x55;

	assert_false(lar(m, 0, &value));
	assert_false(lar(m, 0x200, &value));
	assert_false(lar(m, 0x14, &value)); /* no LDT */
	assert_int_equal(value, 0x55);
	assert_true(lar(m, CODE0, &value));
	assert_int_equal(value & 0x00f0ff00, 0x00c09b00); /* bits 16-19 are undefined */
	assert_true(lar(m, ABSENT_DATA, &value));         /* present or not */
	assert_true(lsl(m, DATA0, &value));
	assert_int_equal(value, ~0u);
	assert_true(lsl(m, TSS, &value));
	assert_int_equal(value, 0x67);
	/* Gates have rights but no limit; interrupt gates neither. */
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x8c, 0));
	assert_true(lar(m, GATE, &value));
	assert_false(lsl(m, GATE, &value));
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x8e, 0));
	assert_false(lar(m, GATE, &value));
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x85, 0)); /* task gate */
	assert_true(lar(m, GATE, &value));
	assert_false(lsl(m, GATE, &value));
	assert_false(lar(m, DATA0 | 3, &value)); /* RPL > DPL */
	assert_true(lar(m, CONFORMING | 3, &value));

	assert_true(verify(m, DATA0, false) && verify(m, DATA0, true));
	assert_true(verify(m, READONLY0, false));
	assert_false(verify(m, READONLY0, true));
	assert_true(verify(m, CODE0, false));
	assert_false(verify(m, CODE0, true));
	assert_false(verify(m, EXECONLY, false));
	assert_false(verify(m, TSS, false));
	assert_false(verify(m, 0, false));
	assert_int_equal(m->writes, 0);
}

static void probing_user(void **state)
{
	struct machine *m = *state;
	uint32_t value;

	assert_false(lar(m, CODE0, &value) || lsl(m, DATA0, &value) || verify(m, DATA0, false));
	assert_true(lar(m, CONFORMING, &value) && verify(m, CONFORMING, false));
	assert_true(verify(m, DATA3, true) && verify(m, DATA3 | 3, true));
	m->bad_page = GDT_BASE;
	{
		bool ok;

		assert_fault_unchanged(m, x86_lar(&m->sys, DATA3, &value, &ok, &m->fault), X86_PF,
				       0);
	}
}

static void probing_long(void **state)
{
	struct machine *m = *state;
	uint32_t value;

	assert_true(lar(m, TSS, &value) && lsl(m, TSS, &value) && lar(m, LDT, &value));
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x8c, 0));
	assert_true(lar(m, GATE, &value));
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x84, 0));
	assert_false(lar(m, GATE, &value));
	set_gdt(m, GATE, gate_descriptor(CODE0, 0, 0x85, 0));
	assert_false(lar(m, GATE, &value));
	set_gdt(m, GATE, descriptor(0, 0x2b, 0x81));
	assert_false(lar(m, GATE, &value) || lsl(m, GATE, &value));
}

#define LINEAR(m, seg, offset, size, write)                                                        \
	x86_linear_address(&(m)->sys, seg, offset, size, write, &linear, &(m)->fault)

static void addresses(void **state)
{
	struct machine *m = *state;
	uint64_t linear;

	assert_ok(m, LINEAR(m, X86_DS, 0x1234, 4, true));
	assert_int_equal(linear, 0x1234);
	load_cache(m, X86_DS, DATA16);
	assert_ok(m, LINEAR(m, X86_DS, 0xfffc, 4, true));
	assert_int_equal(linear, 0x2fffc);
	assert_fault(m, LINEAR(m, X86_DS, 0xfffd, 4, true), X86_GP, 0);
	assert_fault(m, LINEAR(m, X86_DS, 0x10000, 1, false), X86_GP, 0);
	load_cache(m, X86_SS, DATA16);
	assert_fault(m, LINEAR(m, X86_SS, 0xffff, 2, false), X86_SS_FAULT, 0);

	/* Expand-down: above the limit, up to 4 GiB or 64 KiB by B. */
	load_cache(m, X86_DS, DOWN);
	assert_fault(m, LINEAR(m, X86_DS, 0xfff, 1, true), X86_GP, 0);
	assert_ok(m, LINEAR(m, X86_DS, 0x1000, 4, true));
	assert_ok(m, LINEAR(m, X86_DS, 0xfffffffc, 4, true));
	assert_fault(m, LINEAR(m, X86_DS, 0xfffffffd, 4, true), X86_GP, 0);
	SEG(m, DS).attr &= ~X86_ATTR_DB;
	assert_ok(m, LINEAR(m, X86_DS, 0xfffc, 4, true));
	assert_fault(m, LINEAR(m, X86_DS, 0xfffd, 4, true), X86_GP, 0);

	/* Rights. */
	load_cache(m, X86_DS, READONLY0);
	assert_ok(m, LINEAR(m, X86_DS, 0, 4, false));
	assert_fault(m, LINEAR(m, X86_DS, 0, 4, true), X86_GP, 0);
	assert_ok(m, LINEAR(m, X86_CS, 0, 4, false));
	assert_fault(m, LINEAR(m, X86_CS, 0, 4, true), X86_GP, 0);
	load_cache(m, X86_CS, EXECONLY);
	assert_fault(m, LINEAR(m, X86_CS, 0, 4, false), X86_GP, 0);
	assert_fault(m, LINEAR(m, X86_FS, 0, 4, false), X86_GP, 0); /* null */

	/* The linear address wraps at 4 GiB. */
	SEG(m, DS) = (struct x86_segment){ .attr = 0xc093, .limit = ~0u, .base = 0xfffff000 };
	assert_ok(m, LINEAR(m, X86_DS, 0x2000, 4, true));
	assert_int_equal(linear, 0x1000);
}

static void addresses_long(void **state)
{
	struct machine *m = *state;
	uint64_t linear;

	SEG(m, DS).base = 0x1000;
	SEG(m, FS).base = 0x7fff00000000;
	assert_ok(m, LINEAR(m, X86_DS, 0x10, 8, true)); /* base, limit and rights do not count */
	assert_int_equal(linear, 0x10);
	assert_ok(m, LINEAR(m, X86_CS, 0x10, 8, true));
	assert_ok(m, LINEAR(m, X86_FS, 0x10, 8, true));
	assert_int_equal(linear, 0x7fff00000010);
	assert_ok(m, LINEAR(m, X86_FS, -0x10ull, 8, true));
	assert_int_equal(linear, 0x7ffefffffff0);
	assert_fault(m, LINEAR(m, X86_DS, 0x800000000000, 8, false), X86_GP, 0);
	assert_fault(m, LINEAR(m, X86_SS, 0x800000000000, 8, false), X86_SS_FAULT, 0);
	assert_fault(m, LINEAR(m, X86_DS, 0x7ffffffffffc, 8, false), X86_GP, 0);
	/* Compatibility mode has segments again. */
	load_cache(m, X86_CS, CODE0);
	load_cache(m, X86_DS, DATA16);
	assert_ok(m, LINEAR(m, X86_DS, 0x10, 8, true));
	assert_int_equal(linear, 0x20010);
	assert_fault(m, LINEAR(m, X86_DS, 0x10000, 1, true), X86_GP, 0);
}

static void addresses_real(void **state)
{
	struct machine *m = *state;
	uint64_t linear;

	assert_ok(m, LOAD(m, X86_DS, 0xffff));
	assert_ok(m, LINEAR(m, X86_DS, 0xffff, 1,
			    true)); /* no wrap at 1 MiB: that is the A20 gate's affair */
	assert_int_equal(linear, 0x10ffef);
	assert_ok(m, LINEAR(m, X86_CS, 0, 2, true)); /* code is writable */
	assert_fault(m, LINEAR(m, X86_DS, 0xffff, 2, true), X86_GP, 0);
}

#define IN(setup, f) cmocka_unit_test_setup_teardown(f, machine_##setup, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(real, real_mode),
		IN(v86, v86_mode),
		IN(protected, data_segments),
		IN(protected_user, data_segments_user),
		IN(protected, accessed_bit),
		IN(protected, null_selectors),
		IN(protected, stack_segment),
		IN(long, null_stack_segment_64),
		IN(protected, local_descriptors),
		IN(protected, task_register),
		IN(long, system_segments_long),
		IN(protected_user, system_segments_need_cpl0),
		IN(real, not_in_real_or_v86_mode),
		IN(v86, not_in_real_or_v86_mode),
		IN(protected, probing),
		IN(protected_user, probing_user),
		IN(long, probing_long),
		IN(protected, addresses),
		IN(long, addresses_long),
		IN(real, addresses_real),
	};

	return cmocka_run_group_tests_name("x86 segments", tests, NULL, NULL);
}
