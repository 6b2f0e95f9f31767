/* SPDX-License-Identifier: MIT */
/*
 * Hardware task switches: Intel SDM volume 3, 7.3, and tables 7-1 and 7-2.
 *
 * Until everything that may fault in the old task has been read and written (the new TSS, the old
 * TSS, both descriptors), nothing of the CPU's state is changed. Then the switch is committed: TR,
 * the general registers and all selectors are the new task's, with the segments marked unusable, and
 * what still faults (bad selectors, the error code's push) faults in the new task.
 */
#include "x86/system_internal.h"

/* The two formats (SDM figures 7-2 and 7-10): where the fields lie. */
struct layout {
	uint8_t unit;          /* of EIP, EFLAGS and general registers */
	uint8_t selector_step; /* from one selector to the next */
	uint8_t ip, flags, registers, selectors, ldt, cr3, selector_count;
	uint8_t min_limit;
	uint8_t save_end; /* what a switch away writes: [ip, save_end) */
};
static const struct layout layout16 = { 2, 2, 0x0e, 0x10, 0x12, 0x22, 0x2a, 0, 4, 0x2b, 0x2a };
static const struct layout layout32 = { 4, 4, 0x20, 0x24, 0x28, 0x48, 0x60, 0x1c, 6, 0x67, 0x60 };

#define TSS_MAX 104
#define TSS32_TRAP 0x64

/* Selectors in TSS order. */
static const uint8_t selector_order[6] = { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS };

static const struct layout *layout_of(uint16_t attr)
{
	return (attr & X86_ATTR_TYPE) >= SYSTEM_TSS32 ? &layout32 : &layout16;
}

static uint64_t field(const uint8_t *tss, unsigned offset, unsigned size)
{
	return frame_get(tss + offset, 0, size);
}

/* The descriptor of the TSS switched to: available, or for IRET busy. */
static int check_tss(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		     uint64_t *d, struct x86_fault *fault)
{
	bool returning = reason == X86_TASK_IRET;
	uint8_t vector = returning ? X86_TS : X86_GP;
	unsigned type;

	if ((selector & SEL_TI) || selector_is_null(selector))
		return sys_fault(fault, vector, selector & SEL_ERROR);
	if (sys_fetch_descriptor(s, selector, vector, d, fault))
		return -1;
	type = attr_system_type(desc_attr(*d));
	if (returning ? type != SYSTEM_TSS16_BUSY && type != SYSTEM_TSS32_BUSY :
			type != SYSTEM_TSS16 && type != SYSTEM_TSS32)
		return sys_fault(fault, vector, selector & SEL_ERROR);
	if (!(desc_attr(*d) & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	if (desc_limit(*d) < layout_of(desc_attr(*d))->min_limit)
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	return 0;
}

static int access_tss(struct x86_system *s, uint64_t base, unsigned offset, void *buf,
		      unsigned size, bool write, struct x86_fault *fault)
{
	uint64_t linear = (uint32_t)(base + offset);

	if (write)
		return s->ops->write(s, linear, buf, size, X86_SYS_IMPLICIT, fault);
	return s->ops->read(s, linear, buf, size, X86_SYS_IMPLICIT, fault);
}

/* Write the dynamic part of the old task's TSS. */
static int save_old(struct x86_system *s, uint64_t flags, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;
	const struct x86_segment *tr = &cpu->seg[X86_TR];
	const struct layout *l = layout_of(tr->attr);
	uint8_t image[TSS_MAX];

	if (!(tr->attr & X86_ATTR_P) || tr->limit < l->save_end - 1u)
		return sys_fault(fault, X86_TS, tr->selector & SEL_ERROR);
	/* Read first: the selectors' upper halves are left as they are. */
	if (access_tss(s, tr->base, l->ip, image + l->ip, l->save_end - l->ip, false, fault))
		return -1;
	frame_put(image + l->ip, 0, l->unit, cpu->rip);
	frame_put(image + l->flags, 0, l->unit, flags);
	for (unsigned i = 0; i < 8; i++)
		frame_put(image + l->registers, i, l->unit, cpu->gpr[i]);
	for (unsigned i = 0; i < l->selector_count; i++)
		frame_put(image + l->selectors + i * l->selector_step, 0, 2,
			  cpu->seg[selector_order[i]].selector);
	return access_tss(s, tr->base, l->ip, image + l->ip, l->save_end - l->ip, true, fault);
}

/* ---- in the new task ---- */

static int load_ldt(struct x86_system *s, uint16_t selector, struct x86_fault *fault)
{
	struct x86_segment *ldtr = &s->cpu->seg[X86_LDTR];
	uint64_t d;

	if (selector_is_null(selector))
		return 0;
	if (selector & SEL_TI)
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	if (sys_fetch_descriptor(s, selector, X86_TS, &d, fault))
		return -1;
	if (attr_system_type(desc_attr(d)) != SYSTEM_LDT || !(desc_attr(d) & X86_ATTR_P))
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	segment_set(ldtr, selector, d);
	return 0;
}

static int load_cs(struct x86_system *s, uint16_t selector, unsigned cpl, struct x86_fault *fault)
{
	uint16_t attr;
	uint64_t d;

	if (selector_is_null(selector))
		return sys_fault(fault, X86_TS, 0);
	if (sys_fetch_descriptor(s, selector, X86_TS, &d, fault))
		return -1;
	attr = desc_attr(d);
	if (!attr_is_code(attr) ||
	    (attr_is_conforming(attr) ? attr_dpl(attr) > cpl : attr_dpl(attr) != cpl))
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	if (sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(&s->cpu->seg[X86_CS], selector, d);
	return 0;
}

static int load_ss(struct x86_system *s, uint16_t selector, unsigned cpl, struct x86_fault *fault)
{
	uint64_t d;

	if (selector_is_null(selector))
		return sys_fault(fault, X86_TS, 0);
	if (sys_fetch_stack_segment(s, selector, cpl, X86_TS, &d, fault) ||
	    sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(&s->cpu->seg[X86_SS], selector, d);
	return 0;
}

static int load_data(struct x86_system *s, enum x86_seg seg, uint16_t selector, unsigned cpl,
		     struct x86_fault *fault)
{
	uint16_t attr;
	uint64_t d;

	if (selector_is_null(selector))
		return 0;
	if (sys_fetch_descriptor(s, selector, X86_TS, &d, fault))
		return -1;
	attr = desc_attr(d);
	if (!attr_is_loadable_data(attr))
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	if (!(attr_is_code(attr) && attr_is_conforming(attr)) &&
	    (attr_dpl(attr) < cpl || attr_dpl(attr) < (selector & SEL_RPL)))
		return sys_fault(fault, X86_TS, selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	if (sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(&s->cpu->seg[seg], selector, d);
	return 0;
}

/* LDTR and the segment registers, whose selectors are set already. */
static int load_segments(struct x86_system *s, uint16_t ldt, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	unsigned cpl;

	if (load_ldt(s, ldt, fault))
		return -1;
	if (sys_v86(cpu)) {
		for (unsigned i = 0; i < 6; i++)
			segment_set_v86(&cpu->seg[i], cpu->seg[i].selector);
		return 0;
	}
	cpl = cpu->seg[X86_CS].selector & SEL_RPL;
	if (load_ss(s, cpu->seg[X86_SS].selector, cpl, fault) ||
	    load_cs(s, cpu->seg[X86_CS].selector, cpl, fault) ||
	    load_data(s, X86_ES, cpu->seg[X86_ES].selector, cpl, fault) ||
	    load_data(s, X86_DS, cpu->seg[X86_DS].selector, cpl, fault) ||
	    load_data(s, X86_FS, cpu->seg[X86_FS].selector, cpl, fault) ||
	    load_data(s, X86_GS, cpu->seg[X86_GS].selector, cpl, fault))
		return -1;
	return 0;
}

/* All of the new task's registers that come straight from its TSS. The commit point. */
static void enter_task(struct x86_system *s, const uint8_t *tss, const struct layout *l,
		       uint16_t selector, uint64_t d, uint64_t flags)
{
	struct x86_cpu_state *cpu = s->cpu;
	struct x86_segment *tr = &cpu->seg[X86_TR];
	uint64_t old_flags = cpu->rflags;
	unsigned cpl;

	segment_set(tr, selector, d);
	cpu->cr0 |= X86_CR0_TS;
	if (l->cr3 && (cpu->cr0 & X86_CR0_PG)) {
		cpu->cr3 = field(tss, l->cr3, 4);
		s->effects |= X86_EFFECT_CR3;
	}
	cpu->dr[7] &= ~0x155ull; /* local breakpoints: L0-L3, LE */
	cpu->rip = field(tss, l->ip, l->unit);
	cpu->rflags = (flags & X86_FLAGS_VALID) | X86_FLAG_R1;
	for (unsigned i = 0; i < 8; i++) {
		if (l->unit == 4)
			cpu->gpr[i] = field(tss, l->registers + i * 4, 4);
		else /* the upper halves have no defined value */
			cpu->gpr[i] = (cpu->gpr[i] & 0xffff0000) |
				      field(tss, l->registers + i * 2, 2);
	}
	for (unsigned i = 0; i < 6; i++) {
		struct x86_segment *seg = &cpu->seg[selector_order[i]];

		*seg = (struct x86_segment){ .attr = 0 };
		if (i < l->selector_count)
			seg->selector =
				(uint16_t)field(tss, l->selectors + i * l->selector_step, 2);
	}
	cpu->seg[X86_LDTR].selector = (uint16_t)field(tss, l->ldt, 2);
	cpu->seg[X86_LDTR].attr = 0;
	/* The CPL is known before SS is loaded. */
	cpl = sys_v86(cpu) ? 3 : cpu->seg[X86_CS].selector & SEL_RPL;
	cpu->seg[X86_SS].attr = cpl << X86_ATTR_DPL_SHIFT;
	cpu->sti_shadow = cpu->mov_ss_shadow = 0;
	s->effects |= X86_EFFECT_MODE | X86_EFFECT_DEBUG;
	sys_flags_changed(s, old_flags);
}

/* A fault's error code goes on the new task's stack, as wide as its TSS is. */
static int push_error(struct x86_system *s, unsigned unit, uint32_t error, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask = sys_stack_mask(cpu), sp = cpu->gpr[X86_RSP] - unit;
	uint8_t frame[8];

	frame_put(frame, 0, unit, error);
	if (sys_stack_write(s, &cpu->seg[X86_SS], mask, sp, frame, unit, unit, 0, 0, fault))
		return -1;
	sys_set_sp(cpu, mask, sp);
	return 0;
}

int sys_task_switch(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		    uint64_t flags, bool has_error, uint32_t error, bool *committed,
		    struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool nested = reason == X86_TASK_CALL || reason == X86_TASK_GATE;
	uint16_t old_selector = cpu->seg[X86_TR].selector;
	uint64_t d, old_d = 0, new_flags;
	const struct layout *l;
	uint8_t tss[TSS_MAX];

	*committed = false;
	if (check_tss(s, selector, reason, &d, fault))
		return -1;
	l = layout_of(desc_attr(d));
	if (access_tss(s, desc_base(d), 0, tss, l->min_limit + 1, false, fault))
		return -1;
	if (l->cr3 && (cpu->cr0 & X86_CR0_PG) &&
	    sys_check_pdptes(s, cpu->cr0, field(tss, l->cr3, 4), cpu->cr4, fault))
		return -1;
	if (!nested && sys_fetch_descriptor(s, old_selector, X86_TS, &old_d, fault))
		return -1;

	if (reason == X86_TASK_IRET)
		flags &= ~(uint64_t)X86_FLAG_NT;
	if (save_old(s, flags, fault))
		return -1;
	/* IRET leaves the new TSS busy, a nested task the old one. */
	if (!nested && sys_change_type(s, old_selector, &old_d, 0, TSS_BUSY, fault))
		return -1;
	if (nested && access_tss(s, desc_base(d), 0, &old_selector, 2, true, fault))
		return -1;
	if (reason != X86_TASK_IRET && sys_change_type(s, selector, &d, TSS_BUSY, 0, fault))
		return -1;

	/* A task may switch to itself by IRET or JMP: then the image read before saving is stale. */
	if (desc_base(d) == cpu->seg[X86_TR].base &&
	    access_tss(s, desc_base(d), 0, tss, l->min_limit + 1, false, fault))
		return -1;
	new_flags = field(tss, l->flags, l->unit);
	if (nested)
		new_flags |= X86_FLAG_NT;
	enter_task(s, tss, l, selector, d, new_flags);
	*committed = true;

	if (load_segments(s, (uint16_t)field(tss, l->ldt, 2), fault))
		return -1;
	if (cpu->rip > cpu->seg[X86_CS].limit)
		return sys_gp(fault, 0);
	if (has_error && push_error(s, l->unit, error, fault))
		return -1;
	if (sys_virtual_interrupt_due(cpu))
		return sys_gp(fault, 0);
	if (l == &layout32 && (tss[TSS32_TRAP] & 1)) {
		*fault = (struct x86_fault){ .vector = X86_DB, .address = DR6_BT };
		return -1;
	}
	return 0;
}

int sys_task_transfer(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		      struct x86_fault *fault)
{
	bool committed;

	if (!sys_task_switch(s, selector, reason, s->cpu->rflags, false, 0, &committed, fault))
		return 0;
	return sys_settle(s, committed, fault);
}

int x86_task_switch(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		    bool has_error, uint32_t error, struct x86_fault *fault)
{
	bool committed;

	return sys_task_switch(s, selector, reason, s->cpu->rflags, has_error, error, &committed,
			       fault);
}
