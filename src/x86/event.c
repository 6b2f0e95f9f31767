/* SPDX-License-Identifier: MIT */
/*
 * Delivery of interrupts and exceptions: Intel SDM volume 3, chapter 6 (20.1-20.3 for real and
 * virtual-8086 mode), and the operation section of INT n in volume 2.
 *
 * deliver() takes one event through the IVT or IDT of the current mode. Its faults carry the error
 * codes of the INT n pseudo-code without the EXT bit, which add_ext() sets afterwards for events that
 * are not software interrupts: whether an event was external is the same for every fault it meets.
 *
 * escalate() is table 6-5: what a second exception makes of the first.
 *
 * Long mode has the short path: one read of the gate, one of the code descriptor, one of the stack
 * pointer if it changes, one write of the frame.
 */
#include "x86/system_internal.h"

struct event {
	enum x86_event_kind kind;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t flags; /* image to save */
};

static bool is_software(enum x86_event_kind kind)
{
	return kind == X86_EVENT_INT_N || kind == X86_EVENT_INT3_INTO;
}

/*
 * The flags image: RF is saved as 1 for faults (not for traps, aborts and debug exceptions, which
 * save it as it is; SDM vol. 3, 17.3.1.1).
 */
static uint64_t flags_image(const struct x86_cpu_state *cpu, enum x86_event_kind kind,
			    uint8_t vector)
{
	const uint32_t not_fault = 1u << X86_DB | 1u << X86_NMI | 1u << X86_BP | 1u << X86_OF |
				   1u << X86_DF | 1u << X86_MC;

	if (kind == X86_EVENT_EXCEPTION && !(vector < 32 && (not_fault >> vector & 1)))
		return cpu->rflags | X86_FLAG_RF;
	return cpu->rflags;
}

static uint32_t idt_error(uint8_t vector)
{
	return vector * 8u + ERROR_IDT;
}

/* After any delivery. */
static void delivered(struct x86_system *s, const struct event *e)
{
	struct x86_cpu_state *cpu = s->cpu;

	cpu->sti_shadow = 0;
	cpu->mov_ss_shadow = 0;
	if (sys_unlikely(e->kind == X86_EVENT_HARDWARE && e->vector == X86_NMI))
		cpu->nmi_masked = 1;
}

/* ---- long mode ---- */

static SYS_HOT int deliver_long(struct x86_system *s, const struct event *e,
				struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	unsigned cpl = x86_cpl(cpu), dpl, ist, new_cpl, size;
	uint64_t gate[2], d, offset, rsp, frame[6], *bottom;
	uint16_t attr, selector;

	if (sys_unlikely(e->vector * 16u + 15 > cpu->idt.limit))
		return sys_gp(fault, idt_error(e->vector));
	if (s->ops->read(s, cpu->idt.base + e->vector * 16u, gate, 16, X86_SYS_IMPLICIT, fault))
		return -1;
	if (sys_unlikely((gate[0] >> 40 & 0x1e) != SYSTEM_INTERRUPT_GATE32))
		return sys_gp(fault, idt_error(e->vector));
	if (sys_unlikely(is_software(e->kind) && (gate[0] >> 45 & 3) < cpl))
		return sys_gp(fault, idt_error(e->vector));
	if (sys_unlikely(!(gate[0] >> 40 & X86_ATTR_P)))
		return sys_fault(fault, X86_NP, idt_error(e->vector));

	selector = (uint16_t)(gate[0] >> 16);
	if (sys_unlikely(selector_is_null(selector)))
		return sys_gp(fault, 0);
	if (sys_fetch_descriptor(s, selector, X86_GP, &d, fault))
		return -1;
	attr = desc_attr(d);
	dpl = attr_dpl(attr);
	if (sys_unlikely(!attr_is_code(attr) || dpl > cpl ||
			 (attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L))
		return sys_gp(fault, selector & SEL_ERROR);
	if (sys_unlikely(!(attr & X86_ATTR_P)))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	new_cpl = attr_is_conforming(attr) ? cpl : dpl;

	ist = gate[0] >> 32 & 7;
	if (ist) {
		if (sys_inner_rsp(s, ist + 3, &rsp, fault))
			return -1;
	} else if (new_cpl != cpl) {
		if (sys_inner_rsp(s, new_cpl, &rsp, fault))
			return -1;
	} else {
		rsp = cpu->gpr[X86_RSP];
	}
	offset = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;
	if (sys_unlikely(!sys_canonical(offset)))
		return sys_gp(fault, 0);

	frame[0] = e->error;
	frame[1] = cpu->rip;
	frame[2] = cpu->seg[X86_CS].selector;
	frame[3] = e->flags;
	frame[4] = cpu->gpr[X86_RSP];
	frame[5] = cpu->seg[X86_SS].selector;
	bottom = e->has_error ? frame : frame + 1;
	size = e->has_error ? 48 : 40;
	rsp = (rsp & ~15ull) - size;
	if (sys_unlikely(!sys_canonical(rsp) || !sys_canonical(rsp + size - 1)))
		return sys_fault(fault, X86_SS_FAULT, 0);
	if (s->ops->write(s, rsp, bottom, size, new_cpl == cpl ? 0 : X86_SYS_IMPLICIT, fault) ||
	    sys_mark_accessed(s, selector, &d, fault))
		return -1;

	if (new_cpl != cpl) {
		segment_set_null_ss(&cpu->seg[X86_SS], new_cpl);
		s->effects |= X86_EFFECT_MODE;
	}
	sys_set_code(s, (selector & ~SEL_RPL) | new_cpl, d);
	cpu->gpr[X86_RSP] = rsp;
	cpu->rip = offset;
	cpu->rflags &= ~(uint64_t)(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM |
				   (gate[0] >> 40 & 1 ? 0 : X86_FLAG_IF));
	return 0;
}

/* ---- protected and virtual-8086 mode ---- */

struct gate {
	unsigned unit; /* 2 or 4 */
	bool interrupt;
	uint16_t selector;
	uint32_t offset;
	uint64_t descriptor; /* of the code segment */
	unsigned cpl;        /* in the handler */
};

static int deliver_task_gate(struct x86_system *s, const struct event *e, uint64_t gate,
			     bool *committed, struct x86_fault *fault)
{
	return sys_task_switch(s, gate >> 16 & 0xffff, X86_TASK_GATE, e->flags, e->has_error,
			       e->error, committed, fault);
}

/* Code segment checks of INT n's TRAP-OR-INTERRUPT-GATE. */
static int check_handler(struct x86_system *s, struct gate *gate, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;
	unsigned cpl = x86_cpl(cpu), dpl;
	uint16_t attr;

	if (selector_is_null(gate->selector))
		return sys_gp(fault, 0);
	if (sys_fetch_descriptor(s, gate->selector, X86_GP, &gate->descriptor, fault))
		return -1;
	attr = desc_attr(gate->descriptor);
	dpl = attr_dpl(attr);
	if (!attr_is_code(attr) || dpl > cpl)
		return sys_gp(fault, gate->selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, gate->selector & SEL_ERROR);
	/* From virtual-8086 mode only to CPL 0. */
	if (sys_v86(cpu) && (attr_is_conforming(attr) || dpl != 0))
		return sys_gp(fault, gate->selector & SEL_ERROR);
	gate->cpl = attr_is_conforming(attr) ? cpl : dpl;
	return 0;
}

/* The frame, from the lowest address up: error code, return address, then the old stack and segments. */
#define FRAME_WORDS 10

static int deliver_gate(struct x86_system *s, const struct event *e, struct gate *gate,
			struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool from_v86 = sys_v86(cpu), inner = gate->cpl != x86_cpl(cpu);
	struct x86_segment ss = cpu->seg[X86_SS];
	uint64_t sp = cpu->gpr[X86_RSP], mask;
	uint8_t frame[FRAME_WORDS * 4];
	unsigned n = 0, unit = gate->unit;
	uint32_t error = 0;

	if (inner) {
		if (sys_inner_stack(s, gate->cpl, &ss, &sp, fault))
			return -1;
		error = ss.selector & SEL_ERROR;
	}
	if (e->has_error)
		frame_put(frame, n++, unit, e->error);
	frame_put(frame, n++, unit, cpu->rip);
	frame_put(frame, n++, unit, cpu->seg[X86_CS].selector);
	frame_put(frame, n++, unit, e->flags);
	if (inner) {
		frame_put(frame, n++, unit, cpu->gpr[X86_RSP]);
		frame_put(frame, n++, unit, cpu->seg[X86_SS].selector);
	}
	if (from_v86) {
		frame_put(frame, n++, unit, cpu->seg[X86_ES].selector);
		frame_put(frame, n++, unit, cpu->seg[X86_DS].selector);
		frame_put(frame, n++, unit, cpu->seg[X86_FS].selector);
		frame_put(frame, n++, unit, cpu->seg[X86_GS].selector);
	}

	if (gate->offset > desc_limit(gate->descriptor))
		return sys_gp(fault, 0);
	mask = stack_mask(false, ss.attr);
	sp -= n * unit;
	if (sys_stack_write(s, &ss, mask, sp, frame, n * unit, unit, inner ? X86_SYS_IMPLICIT : 0,
			    error, fault) ||
	    sys_mark_accessed(s, gate->selector, &gate->descriptor, fault))
		return -1;

	if (from_v86) {
		segment_set_null(s, X86_ES, 0);
		segment_set_null(s, X86_DS, 0);
		segment_set_null(s, X86_FS, 0);
		segment_set_null(s, X86_GS, 0);
	}
	cpu->seg[X86_SS] = ss;
	sys_set_sp(cpu, mask, sp);
	segment_set(&cpu->seg[X86_CS], (gate->selector & ~SEL_RPL) | gate->cpl, gate->descriptor);
	cpu->rip = gate->offset;
	cpu->rflags &= ~(uint64_t)(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM |
				   (gate->interrupt ? X86_FLAG_IF : 0));
	s->effects |= X86_EFFECT_MODE;
	return 0;
}

static int deliver_protected(struct x86_system *s, const struct event *e, bool *committed,
			     struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	struct gate gate;
	uint16_t attr;
	unsigned type;
	uint64_t d;

	if (e->vector * 8u + 7 > cpu->idt.limit)
		return sys_gp(fault, idt_error(e->vector));
	if (s->ops->read(s, sys_linear(cpu, cpu->idt.base + e->vector * 8u), &d, 8,
			 X86_SYS_IMPLICIT, fault))
		return -1;
	attr = desc_attr(d);
	type = attr_system_type(attr);
	if (type != SYSTEM_TASK_GATE && type != SYSTEM_INTERRUPT_GATE16 &&
	    type != SYSTEM_TRAP_GATE16 && type != SYSTEM_INTERRUPT_GATE32 &&
	    type != SYSTEM_TRAP_GATE32)
		return sys_gp(fault, idt_error(e->vector));
	if (is_software(e->kind) && attr_dpl(attr) < x86_cpl(cpu))
		return sys_gp(fault, idt_error(e->vector));
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, idt_error(e->vector));
	if (type == SYSTEM_TASK_GATE)
		return deliver_task_gate(s, e, d, committed, fault);

	gate.unit = type & 8 ? 4 : 2;
	gate.interrupt = !(type & 1);
	gate.selector = d >> 16 & 0xffff;
	gate.offset = (d & 0xffff) | (type & 8 ? d >> 32 & 0xffff0000 : 0);
	if (check_handler(s, &gate, fault))
		return -1;
	return deliver_gate(s, e, &gate, fault);
}

/* ---- real-address mode, and interrupts virtual-8086 mode keeps to itself ---- */

/* Push FLAGS (image), CS, IP; go through the interrupt vector table at ivt. */
static int deliver_vector(struct x86_system *s, uint64_t ivt, uint8_t vector, uint64_t image,
			  struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask = sys_stack_mask(cpu), sp = cpu->gpr[X86_RSP] - 6;
	uint16_t frame[3] = { (uint16_t)cpu->rip, cpu->seg[X86_CS].selector, (uint16_t)image };
	uint16_t entry[2];

	/* In virtual-8086 mode the table is the 8086 program's memory: an ordinary access at CPL 3. */
	if (s->ops->read(s, sys_linear(cpu, ivt + vector * 4u), entry, 4, 0, fault))
		return -1;
	if (entry[0] > cpu->seg[X86_CS].limit)
		return sys_gp(fault, 0);
	if (sys_stack_write(s, &cpu->seg[X86_SS], mask, sp, frame, 6, 2, 0, 0, fault))
		return -1;
	sys_set_sp(cpu, mask, sp);
	sys_set_code_paragraph(s, entry[1]);
	cpu->rip = entry[0];
	return 0;
}

static int deliver_real(struct x86_system *s, const struct event *e, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (e->vector * 4u + 3 > cpu->idt.limit)
		return sys_gp(fault, idt_error(e->vector));
	if (deliver_vector(s, cpu->idt.base, e->vector, e->flags, fault))
		return -1;
	cpu->rflags &= ~(uint64_t)(X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_RF);
	return 0;
}

/* CR4.VME: does the redirection bitmap in the TSS leave INT n to the 8086 program? 1, 0, or -1 fault. */
static int redirected(struct x86_system *s, uint8_t vector, struct x86_fault *fault)
{
	const struct x86_segment *tr = &s->cpu->seg[X86_TR];
	uint16_t io_base;
	uint32_t offset;
	uint8_t byte;

	if (!(tr->attr & X86_ATTR_P) || attr_system_type(tr->attr) < SYSTEM_TSS32 ||
	    tr->limit < 0x67)
		return sys_gp(fault, 0);
	if (s->ops->read(s, sys_linear(s->cpu, tr->base + 0x66), &io_base, 2, X86_SYS_IMPLICIT,
			 fault))
		return -1;
	/* The 32 bytes below the I/O map. */
	offset = io_base - 32u + vector / 8u;
	if (io_base < 32 || offset > tr->limit)
		return sys_gp(fault, 0);
	if (s->ops->read(s, sys_linear(s->cpu, tr->base + offset), &byte, 1, X86_SYS_IMPLICIT,
			 fault))
		return -1;
	return !(byte >> (vector & 7) & 1);
}

/* INT n in virtual-8086 mode: the six methods of SDM vol. 3, table 20-2. 1: not handled here, use the IDT. */
static int deliver_v86_int_n(struct x86_system *s, const struct event *e, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool trusted = sys_iopl(cpu) == 3;
	uint64_t image;
	int to_program = 0;

	if (cpu->cr4 & X86_CR4_VME) {
		to_program = redirected(s, e->vector, fault);
		if (to_program < 0)
			return -1;
	}
	if (!to_program)
		return trusted ? 1 : sys_gp(fault, 0);

	if (trusted) { /* method 5 */
		if (deliver_vector(s, 0, e->vector, cpu->rflags, fault))
			return -1;
		cpu->rflags &= ~(uint64_t)(X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_RF);
	} else { /* method 6 */
		image = (cpu->rflags & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_IOPL |
			(cpu->rflags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
		if (deliver_vector(s, 0, e->vector, image, fault))
			return -1;
		cpu->rflags &= ~(uint64_t)(X86_FLAG_VIF | X86_FLAG_TF | X86_FLAG_RF);
	}
	return 0;
}

/* ---- one event ---- */

/* committed: a task switch was completed, so a fault belongs to the new task. */
static int deliver(struct x86_system *s, const struct event *e, bool *committed,
		   struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	int result;

	*committed = false;
	if (sys_likely(sys_long_mode(cpu))) {
		result = deliver_long(s, e, fault);
	} else if (sys_real(cpu)) {
		result = deliver_real(s, e, fault);
	} else {
		result = 1;
		if (sys_v86(cpu) && e->kind == X86_EVENT_INT_N)
			result = deliver_v86_int_n(s, e, fault);
		if (result == 1)
			result = deliver_protected(s, e, committed, fault);
	}
	if (sys_unlikely(result)) {
		if (!is_software(e->kind) && fault->vector >= X86_TS && fault->vector <= X86_GP)
			fault->error |= ERROR_EXT;
		return -1;
	}
	delivered(s, e);
	return 0;
}

/* ---- escalation ---- */

enum exception_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum exception_class classify(uint8_t vector)
{
	switch (vector) {
	case X86_DE:
	case X86_TS:
	case X86_NP:
	case X86_SS_FAULT:
	case X86_GP:
		return CONTRIBUTORY;
	case X86_PF:
		return PAGE_FAULT;
	default:
		return BENIGN;
	}
}

/* What to deliver when `second` arose while `first` was being delivered; false: shutdown (SDM table 6-5). */
static bool escalate(const struct x86_fault *first, const struct x86_fault *second,
		     struct x86_fault *next)
{
	enum exception_class a = classify(first->vector), b = classify(second->vector);

	if (first->vector == X86_DF && b != BENIGN)
		return false;
	if ((a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN))
		*next = (struct x86_fault){ .vector = X86_DF, .has_error = true };
	else
		*next = *second;
	return true;
}

/* What an exception leaves in control and debug registers before its handler is looked up. */
static void record(struct x86_system *s, const struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (fault->vector == X86_PF) {
		cpu->cr2 = fault->address;
	} else if (sys_unlikely(fault->vector == X86_DB)) {
		cpu->dr[6] = (cpu->dr[6] & ~0xfull) | fault->address | DR6_FIXED_1;
		cpu->dr[7] &= ~(uint64_t)DR7_GD;
		cpu->debugctl &= ~(uint64_t)DEBUGCTL_LBR_BTF;
		s->effects |= X86_EFFECT_DEBUG;
	}
}

/* Benign, contributory or page fault, then double fault, then shutdown: no chain is longer than this. */
#define ESCALATIONS_MAX 6

SYS_HOT int x86_raise_fault(struct x86_system *s, const struct x86_fault *fault)
{
	struct x86_fault current = *fault, second;
	bool committed;

	for (unsigned i = 0; i < ESCALATIONS_MAX; i++) {
		struct event e = {
			.kind = X86_EVENT_EXCEPTION,
			.vector = current.vector,
			.has_error = current.has_error,
			.error = current.error,
			.flags = flags_image(s->cpu, X86_EVENT_EXCEPTION, current.vector),
		};

		record(s, &current);
		if (sys_likely(!deliver(s, &e, &committed, &second)))
			return 0;
		if (second.vector == X86_PF)
			s->cpu->cr2 = second.address;
		if (!escalate(&current, &second, &current))
			return -1;
	}
	return -1;
}

int x86_raise_event(struct x86_system *s, enum x86_event_kind kind, uint8_t vector)
{
	struct event e = { .kind = kind,
			   .vector = vector,
			   .flags = flags_image(s->cpu, kind, vector) };
	struct x86_fault fault;
	bool committed;

	if (!deliver(s, &e, &committed, &fault))
		return 0;
	if (kind == X86_EVENT_EXCEPTION) { /* without an error code: #DE and the benign ones */
		struct x86_fault first = { .vector = vector }, next;

		return escalate(&first, &fault, &next) ? x86_raise_fault(s, &next) : -1;
	}
	return x86_raise_fault(s, &fault);
}

SYS_HOT int x86_deliver_event(struct x86_system *s, enum x86_event_kind kind, uint8_t vector,
			      bool has_error, uint32_t error, struct x86_fault *fault)
{
	struct event e = {
		.kind = kind,
		.vector = vector,
		.has_error = has_error,
		.error = error,
		.flags = flags_image(s->cpu, kind, vector),
	};
	bool committed;

	if (sys_likely(!deliver(s, &e, &committed, fault)))
		return 0;
	if (is_software(kind))
		return sys_settle(s, committed, fault);
	return -1;
}

/*
 * A transfer that faulted after it was committed: the new task has the fault, the instruction is
 * complete. If even that cannot be delivered, leave the caller with a #DF that cannot either, so that
 * it comes to the shutdown by itself.
 */
int sys_settle(struct x86_system *s, bool committed, struct x86_fault *fault)
{
	struct x86_fault in_new_task = *fault;

	if (!committed)
		return -1;
	if (!x86_raise_fault(s, &in_new_task))
		return 0;
	return sys_fault(fault, X86_DF, 0);
}
