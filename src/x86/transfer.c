/* SPDX-License-Identifier: MIT */
/*
 * Far JMP, CALL and RET: Intel SDM volume 2 (the operation sections of these instructions) and
 * volume 3, 5.8. Transfers to a TSS or through a task gate go to task.c.
 *
 * The order is everywhere the same: read and check all that can fault, write the stack, then change
 * the registers, so that a fault leaves them as they were.
 */
#include "x86/system_internal.h"

struct target {
	uint16_t selector; /* RPL already the new CPL */
	uint64_t descriptor;
	uint64_t offset;
};

static void enter_code(struct x86_system *s, const struct target *to)
{
	sys_set_code(s, to->selector, to->descriptor);
	s->cpu->rip = to->offset;
}

static uint64_t truncate(uint64_t offset, unsigned opsize)
{
	return opsize == 8 ? offset : opsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

/* Code segment named by the instruction itself. */
static int check_direct(struct x86_system *s, struct target *to, struct x86_fault *fault)
{
	uint16_t attr = desc_attr(to->descriptor), selector = to->selector;
	unsigned cpl = x86_cpl(s->cpu), dpl = attr_dpl(attr);
	bool long_mode = sys_long_mode(s->cpu);

	if (attr_is_conforming(attr) ? dpl > cpl : ((selector & SEL_RPL) > cpl || dpl != cpl))
		return sys_gp(fault, selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	if (long_mode && (attr & X86_ATTR_L) && (attr & X86_ATTR_DB))
		return sys_gp(fault, selector & SEL_ERROR);
	if (!sys_code_offset_ok(long_mode, attr, desc_limit(to->descriptor), to->offset))
		return sys_gp(fault, 0);
	to->selector = (selector & ~SEL_RPL) | cpl;
	return 0;
}

struct gate {
	unsigned unit; /* what it pushes: 2, 4 or 8 bytes */
	unsigned parameters;
	struct target to;
	bool inner; /* to a more privileged level: the stack is switched */
	unsigned cpl;
};

/* Check a call gate (descriptor d) and the code segment it leads to. A jump never changes CPL. */
static int check_call_gate(struct x86_system *s, uint16_t selector, uint64_t d, bool call,
			   struct gate *gate, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;
	bool long_mode = sys_long_mode(cpu);
	uint16_t gate_attr = desc_attr(d), attr;
	unsigned cpl = x86_cpl(cpu), dpl;
	uint64_t high = 0;

	gate->unit = long_mode ? 8 : attr_system_type(gate_attr) == SYSTEM_CALL_GATE32 ? 4 : 2;
	if (attr_dpl(gate_attr) < cpl || (selector & SEL_RPL) > attr_dpl(gate_attr))
		return sys_gp(fault, selector & SEL_ERROR);
	if (long_mode) {
		if (sys_fetch_descriptor_high(s, selector, X86_GP, &high, fault))
			return -1;
		if (high >> 40 & 0x1f)
			return sys_gp(fault, selector & SEL_ERROR);
	}
	if (!(gate_attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);

	gate->parameters = d >> 32 & 31;
	gate->to.selector = d >> 16 & 0xffff;
	gate->to.offset = (d & 0xffff) | (gate->unit == 2 ? 0 : d >> 32 & 0xffff0000) | high << 32;
	if (selector_is_null(gate->to.selector))
		return sys_gp(fault, 0);
	if (sys_fetch_descriptor(s, gate->to.selector, X86_GP, &gate->to.descriptor, fault))
		return -1;
	attr = desc_attr(gate->to.descriptor);
	dpl = attr_dpl(attr);
	if (!attr_is_code(attr) || dpl > cpl || (!call && !attr_is_conforming(attr) && dpl != cpl))
		return sys_gp(fault, gate->to.selector & SEL_ERROR);
	if (long_mode && (attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L)
		return sys_gp(fault, gate->to.selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, gate->to.selector & SEL_ERROR);
	if (!sys_code_offset_ok(long_mode, attr, desc_limit(gate->to.descriptor), gate->to.offset))
		return sys_gp(fault, 0);

	gate->inner = !attr_is_conforming(attr) && dpl < cpl;
	gate->cpl = gate->inner ? dpl : cpl;
	gate->to.selector = (gate->to.selector & ~SEL_RPL) | gate->cpl;
	return 0;
}

/* Task gate: the TSS selector inside, after the gate's own checks. */
static int check_task_gate(struct x86_system *s, uint16_t selector, uint64_t d, uint16_t *tss,
			   struct x86_fault *fault)
{
	uint16_t attr = desc_attr(d);

	if (attr_dpl(attr) < x86_cpl(s->cpu) || (selector & SEL_RPL) > attr_dpl(attr))
		return sys_gp(fault, selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	*tss = d >> 16 & 0xffff;
	return 0;
}

/* JMP or CALL to a TSS or task gate. */
static int transfer_to_task(struct x86_system *s, uint16_t selector, uint64_t d,
			    enum x86_task_switch_reason reason, struct x86_fault *fault)
{
	uint16_t attr = desc_attr(d), tss = selector;

	if (attr_system_type(attr) == SYSTEM_TASK_GATE) {
		if (check_task_gate(s, selector, d, &tss, fault))
			return -1;
	} else if (attr_dpl(attr) < x86_cpl(s->cpu) || (selector & SEL_RPL) > attr_dpl(attr)) {
		return sys_gp(fault, selector & SEL_ERROR);
	}
	return sys_task_transfer(s, tss, reason, fault);
}

enum destination { TO_CODE, TO_GATE, TO_TASK };

/* Read the descriptor a far pointer names and see what kind of transfer it is; -1 with a fault. */
static int classify(struct x86_system *s, uint16_t selector, uint64_t *d, struct x86_fault *fault)
{
	bool long_mode = sys_long_mode(s->cpu);

	if (selector_is_null(selector))
		return sys_gp(fault, 0);
	if (sys_fetch_descriptor(s, selector, X86_GP, d, fault))
		return -1;
	if (attr_is_code(desc_attr(*d)))
		return TO_CODE;
	switch (attr_system_type(desc_attr(*d))) {
	case SYSTEM_CALL_GATE32:
		return TO_GATE;
	case SYSTEM_CALL_GATE16:
		if (!long_mode)
			return TO_GATE;
		break;
	case SYSTEM_TASK_GATE:
	case SYSTEM_TSS16:
	case SYSTEM_TSS16_BUSY:
	case SYSTEM_TSS32:
	case SYSTEM_TSS32_BUSY:
		if (!long_mode)
			return TO_TASK;
		break;
	default:
		break;
	}
	return sys_gp(fault, selector & SEL_ERROR);
}

/* ---- JMP ---- */

static void enter_paragraph(struct x86_system *s, uint16_t selector, uint64_t offset)
{
	sys_set_code_paragraph(s, selector);
	s->cpu->rip = offset;
}

/* In real mode the limit in force is that of the old CS, which a load does not change. */
static int check_paragraph(struct x86_system *s, uint64_t offset, struct x86_fault *fault)
{
	return offset > s->cpu->seg[X86_CS].limit ? sys_gp(fault, 0) : 0;
}

int x86_far_jump(struct x86_system *s, uint16_t selector, uint64_t offset, unsigned opsize,
		 struct x86_fault *fault)
{
	struct target to = { .selector = selector, .offset = truncate(offset, opsize) };
	struct gate gate;

	if (sys_paragraphs(s->cpu)) {
		if (check_paragraph(s, to.offset, fault))
			return -1;
		enter_paragraph(s, selector, to.offset);
		return 0;
	}

	switch (classify(s, selector, &to.descriptor, fault)) {
	case TO_CODE:
		if (check_direct(s, &to, fault) ||
		    sys_mark_accessed(s, selector, &to.descriptor, fault))
			return -1;
		enter_code(s, &to);
		return 0;
	case TO_GATE:
		if (check_call_gate(s, selector, to.descriptor, false, &gate, fault) ||
		    sys_mark_accessed(s, gate.to.selector, &gate.to.descriptor, fault))
			return -1;
		enter_code(s, &gate.to);
		return 0;
	case TO_TASK:
		return transfer_to_task(s, selector, to.descriptor, X86_TASK_JMP, fault);
	default:
		return -1;
	}
}

/* ---- CALL ---- */

/* Push CS and the return address on the current stack. is_64bit: the stack pointer is 64 bits wide. */
static int push_return(struct x86_system *s, bool is_64bit, unsigned unit, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	const struct x86_segment *ss = &cpu->seg[X86_SS];
	uint64_t mask = stack_mask(is_64bit, ss->attr), sp = cpu->gpr[X86_RSP] - 2 * unit;
	uint8_t frame[16];

	frame_put(frame, 0, unit, cpu->rip);
	frame_put(frame, 1, unit, cpu->seg[X86_CS].selector);
	if (sys_stack_write(s, ss, mask, sp, frame, 2 * unit, unit, 0, 0, fault))
		return -1;
	sys_set_sp(cpu, mask, sp);
	return 0;
}

#define GATE_FRAME_MAX ((31 + 4) * 4)

/* Call gate to an inner level, in legacy mode: SS:ESP from the TSS, parameters copied. */
static int call_inner_legacy(struct x86_system *s, struct gate *gate, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t old_mask = sys_stack_mask(cpu), mask, sp;
	unsigned unit = gate->unit, n = gate->parameters, size = (n + 4) * unit;
	uint8_t frame[GATE_FRAME_MAX];
	struct x86_segment ss;

	if (sys_inner_stack(s, gate->cpl, &ss, &sp, fault))
		return -1;
	frame_put(frame, 0, unit, cpu->rip);
	frame_put(frame, 1, unit, cpu->seg[X86_CS].selector);
	if (n &&
	    sys_stack_read(s, old_mask, cpu->gpr[X86_RSP], frame + 2 * unit, n * unit, unit, fault))
		return -1;
	frame_put(frame, n + 2, unit, cpu->gpr[X86_RSP]);
	frame_put(frame, n + 3, unit, cpu->seg[X86_SS].selector);

	mask = stack_mask(false, ss.attr);
	sp -= size;
	if (sys_stack_write(s, &ss, mask, sp, frame, size, unit, X86_SYS_IMPLICIT,
			    ss.selector & SEL_ERROR, fault))
		return -1;
	cpu->seg[X86_SS] = ss;
	sys_set_sp(cpu, mask, sp);
	return 0;
}

/* The same in long mode: RSP from the TSS, null SS, nothing copied. */
static int call_inner_long(struct x86_system *s, struct gate *gate, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t frame[4] = { cpu->rip, cpu->seg[X86_CS].selector, cpu->gpr[X86_RSP],
			      cpu->seg[X86_SS].selector };
	uint64_t rsp;

	if (sys_inner_rsp(s, gate->cpl, &rsp, fault))
		return -1;
	rsp -= sizeof(frame);
	if (sys_stack_write(s, NULL, ~0ull, rsp, frame, sizeof(frame), 8, X86_SYS_IMPLICIT, 0,
			    fault))
		return -1;
	segment_set_null_ss(&cpu->seg[X86_SS], gate->cpl);
	cpu->gpr[X86_RSP] = rsp;
	return 0;
}

static int call_through_gate(struct x86_system *s, uint16_t selector, uint64_t d,
			     struct x86_fault *fault)
{
	bool long_mode = sys_long_mode(s->cpu);
	struct gate gate;
	int failed;

	if (check_call_gate(s, selector, d, true, &gate, fault) ||
	    sys_mark_accessed(s, gate.to.selector, &gate.to.descriptor, fault))
		return -1;
	if (!gate.inner)
		failed = push_return(s, long_mode, gate.unit, fault);
	else if (long_mode)
		failed = call_inner_long(s, &gate, fault);
	else
		failed = call_inner_legacy(s, &gate, fault);
	if (failed)
		return -1;
	if (gate.inner)
		s->effects |= X86_EFFECT_MODE;
	enter_code(s, &gate.to);
	return 0;
}

int x86_far_call(struct x86_system *s, uint16_t selector, uint64_t offset, unsigned opsize,
		 struct x86_fault *fault)
{
	struct target to = { .selector = selector, .offset = truncate(offset, opsize) };

	if (sys_paragraphs(s->cpu)) {
		if (check_paragraph(s, to.offset, fault) || push_return(s, false, opsize, fault))
			return -1;
		enter_paragraph(s, selector, to.offset);
		return 0;
	}

	switch (classify(s, selector, &to.descriptor, fault)) {
	case TO_CODE:
		if (check_direct(s, &to, fault) ||
		    sys_mark_accessed(s, selector, &to.descriptor, fault) ||
		    push_return(s, x86_in_64bit(s->cpu), opsize, fault))
			return -1;
		enter_code(s, &to);
		return 0;
	case TO_GATE:
		return call_through_gate(s, selector, to.descriptor, fault);
	case TO_TASK:
		return transfer_to_task(s, selector, to.descriptor, X86_TASK_CALL, fault);
	default:
		return -1;
	}
}

/* ---- RET ---- */

/* The code segment a far RET or IRET returns to. */
int sys_check_return_code(struct x86_system *s, uint16_t selector, uint64_t *d,
			  struct x86_fault *fault)
{
	unsigned rpl = selector & SEL_RPL, dpl;
	uint16_t attr;

	if (sys_unlikely(selector_is_null(selector)))
		return sys_gp(fault, 0);
	if (sys_fetch_descriptor(s, selector, X86_GP, d, fault))
		return -1;
	attr = desc_attr(*d);
	dpl = attr_dpl(attr);
	if (sys_unlikely(!attr_is_code(attr) || rpl < x86_cpl(s->cpu) ||
			 (attr_is_conforming(attr) ? dpl > rpl : dpl != rpl)))
		return sys_gp(fault, selector & SEL_ERROR);
	if (sys_unlikely((attr & (X86_ATTR_L | X86_ATTR_DB)) == (X86_ATTR_L | X86_ATTR_DB) &&
			 sys_long_mode(s->cpu)))
		return sys_gp(fault, selector & SEL_ERROR);
	if (sys_unlikely(!(attr & X86_ATTR_P)))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	return 0;
}

/* The stack segment popped by a return to privilege level cpl in a code segment with attributes code_attr. */
int sys_check_return_stack(struct x86_system *s, uint16_t selector, unsigned cpl,
			   uint16_t code_attr, struct x86_segment *ss, struct x86_fault *fault)
{
	uint64_t d;

	if (selector_is_null(selector)) {
		if (!sys_long_mode(s->cpu) || !(code_attr & X86_ATTR_L) || cpl == 3 ||
		    (selector & SEL_RPL) != cpl)
			return sys_gp(fault, 0);
		segment_set_null_ss(ss, cpl);
		return 0;
	}
	if (sys_fetch_stack_segment(s, selector, cpl, X86_GP, &d, fault) ||
	    sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(ss, selector, d);
	return 0;
}

static int return_paragraph(struct x86_system *s, unsigned opsize, unsigned pop_bytes,
			    struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask = sys_stack_mask(cpu), ip;
	uint8_t frame[16];

	if (sys_stack_read(s, mask, cpu->gpr[X86_RSP], frame, 2 * opsize, opsize, fault))
		return -1;
	ip = frame_get(frame, 0, opsize);
	if (check_paragraph(s, ip, fault))
		return -1;
	sys_set_sp(cpu, mask, cpu->gpr[X86_RSP] + 2 * opsize + pop_bytes);
	enter_paragraph(s, (uint16_t)frame_get(frame, 1, opsize), ip);
	return 0;
}

int x86_far_return(struct x86_system *s, unsigned opsize, unsigned pop_bytes,
		   struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask, new_mask, sp = cpu->gpr[X86_RSP];
	uint8_t frame[16], outer[16];
	struct x86_segment ss;
	struct target to;
	bool outer_level;
	uint16_t attr;
	unsigned cpl;

	if (sys_paragraphs(cpu))
		return return_paragraph(s, opsize, pop_bytes, fault);

	mask = sys_stack_mask(cpu);
	if (sys_stack_read(s, mask, sp, frame, 2 * opsize, opsize, fault))
		return -1;
	to.offset = frame_get(frame, 0, opsize);
	to.selector = (uint16_t)frame_get(frame, 1, opsize);
	if (sys_check_return_code(s, to.selector, &to.descriptor, fault))
		return -1;
	attr = desc_attr(to.descriptor);
	cpl = to.selector & SEL_RPL;
	outer_level = cpl > x86_cpl(cpu);

	if (outer_level) {
		if (sys_stack_read(s, mask, sp + 2 * opsize + pop_bytes, outer, 2 * opsize, opsize,
				   fault) ||
		    sys_check_return_stack(s, (uint16_t)frame_get(outer, 1, opsize), cpl, attr, &ss,
					   fault))
			return -1;
	}
	if (!sys_code_offset_ok(sys_long_mode(cpu), attr, desc_limit(to.descriptor), to.offset))
		return sys_gp(fault, 0);
	if (sys_mark_accessed(s, to.selector, &to.descriptor, fault))
		return -1;

	if (!outer_level) {
		sys_set_sp(cpu, mask, sp + 2 * opsize + pop_bytes);
		enter_code(s, &to);
		return 0;
	}
	cpu->seg[X86_SS] = ss;
	enter_code(s, &to);
	new_mask = sys_stack_mask(cpu);
	sys_set_sp(cpu, new_mask, frame_get(outer, 0, opsize) + pop_bytes);
	sys_drop_inner_segments(s, cpl);
	s->effects |= X86_EFFECT_MODE;
	return 0;
}
