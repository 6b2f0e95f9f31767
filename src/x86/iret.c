/* SPDX-License-Identifier: MIT */
/*
 * IRET: Intel SDM volume 2, the instruction's operation section, in its branches for real mode,
 * virtual-8086 mode (with and without VME), the return from a nested task, the return to virtual-8086
 * mode, and protected and long mode.
 *
 * In 64-bit mode SS:RSP is popped always, elsewhere only when the privilege level changes.
 */
#include "x86/system_internal.h"

/* Flags each form of IRET takes from the image. */
#define FLAGS_ALWAYS (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT)
#define FLAGS_WIDE (X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID)
#define FLAGS_REAL_32 0x00257fd5u
#define FLAGS_REAL_16 0x00007fd5u

static void set_flags(struct x86_system *s, uint64_t image, uint64_t mask)
{
	uint64_t old = s->cpu->rflags;

	s->cpu->rflags = (old & ~mask) | (image & mask) | X86_FLAG_R1;
	sys_flags_changed(s, old);
}

/* IRET is complete, but its target begins with a fault. */
static int pending_virtual_interrupt(struct x86_system *s, struct x86_fault *fault)
{
	if (sys_likely(!sys_virtual_interrupt_due(s->cpu)))
		return 0;
	sys_gp(fault, 0);
	return sys_settle(s, true, fault);
}

/* Done even by an IRET that faults (SDM vol. 3, 6.7.1). One that waited is to be taken now. */
static inline void unmask_nmi(struct x86_system *s)
{
	if (sys_likely(!s->cpu->nmi_masked))
		return;
	s->cpu->nmi_masked = 0;
	s->effects |= X86_EFFECT_INTERRUPTS;
}

/* ---- real mode, and virtual-8086 mode staying in it ---- */

static int iret_paragraph(struct x86_system *s, unsigned opsize, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask = sys_stack_mask(cpu), ip, image, allowed;
	uint8_t frame[3 * 8];
	uint16_t selector;
	bool v86 = sys_v86(cpu), virtual_if = false;

	if (v86 && sys_iopl(cpu) < 3) {
		if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2)
			return sys_gp(fault, 0);
		virtual_if = true;
	}
	unmask_nmi(s);
	if (sys_stack_read(s, mask, cpu->gpr[X86_RSP], frame, 3 * opsize, opsize, fault))
		return -1;
	ip = frame_get(frame, 0, opsize);
	selector = (uint16_t)frame_get(frame, 1, opsize);
	image = frame_get(frame, 2, opsize);
	if (ip > cpu->seg[X86_CS].limit)
		return sys_gp(fault, 0);
	if (virtual_if &&
	    ((image & X86_FLAG_TF) || ((image & X86_FLAG_IF) && (cpu->rflags & X86_FLAG_VIP))))
		return sys_gp(fault, 0);

	sys_set_sp(cpu, mask, cpu->gpr[X86_RSP] + 3 * opsize);
	cpu->rip = ip;
	sys_set_code_paragraph(s, selector);

	allowed = opsize == 2 ? FLAGS_REAL_16 : FLAGS_REAL_32;
	if (v86)
		allowed &= ~(uint64_t)X86_FLAG_IOPL;
	if (virtual_if) {
		allowed = (allowed & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_VIF;
		image = (image & ~(uint64_t)X86_FLAG_VIF) |
			(image & X86_FLAG_IF ? X86_FLAG_VIF : 0);
	}
	set_flags(s, image, allowed);
	return 0;
}

/* ---- protected mode to virtual-8086 mode ---- */

static int iret_to_v86(struct x86_system *s, const uint8_t *frame, struct x86_fault *fault)
{
	static const uint8_t order[4] = { X86_ES, X86_DS, X86_FS, X86_GS };
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t mask = sys_stack_mask(cpu), ip = frame_get(frame, 0, 4),
		 image = frame_get(frame, 2, 4);
	uint8_t rest[6 * 4]; /* ESP, SS, ES, DS, FS, GS */

	if (sys_stack_read(s, mask, cpu->gpr[X86_RSP] + 12, rest, sizeof(rest), 4, fault))
		return -1;
	if (ip > LIMIT_64K)
		return sys_gp(fault, 0);

	segment_set_v86(&cpu->seg[X86_CS], (uint16_t)frame_get(frame, 1, 4));
	segment_set_v86(&cpu->seg[X86_SS], (uint16_t)frame_get(rest, 1, 4));
	for (unsigned i = 0; i < 4; i++)
		segment_set_v86(&cpu->seg[order[i]], (uint16_t)frame_get(rest, 2 + i, 4));
	cpu->gpr[X86_RSP] = frame_get(rest, 0, 4);
	cpu->rip = ip;
	set_flags(s, image, X86_FLAGS_VALID);
	s->effects |= X86_EFFECT_MODE;
	return pending_virtual_interrupt(s, fault);
}

/* ---- from a nested task ---- */

static int iret_task(struct x86_system *s, struct x86_fault *fault)
{
	const struct x86_segment *tr = &s->cpu->seg[X86_TR];
	uint16_t link;

	if (s->ops->read(s, sys_linear(s->cpu, tr->base), &link, 2, X86_SYS_IMPLICIT, fault))
		return -1;
	return sys_task_transfer(s, link, X86_TASK_IRET, fault);
}

/* ---- protected and long mode ---- */

SYS_HOT int x86_iret(struct x86_system *s, unsigned opsize, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool is_64bit, long_mode = sys_long_mode(cpu), with_stack;
	unsigned cpl, new_cpl;
	uint64_t mask, d, offset, image, allowed, frame64[5];
	uint8_t *frame = (uint8_t *)frame64;
	struct x86_segment ss;
	uint16_t selector, attr;

	if (sys_unlikely(sys_paragraphs(cpu)))
		return iret_paragraph(s, opsize, fault);

	unmask_nmi(s);
	if (sys_unlikely(cpu->rflags & X86_FLAG_NT))
		return long_mode ? sys_gp(fault, 0) : iret_task(s, fault);

	is_64bit = x86_in_64bit(cpu);
	cpl = x86_cpl(cpu);
	mask = stack_mask(is_64bit, cpu->seg[X86_SS].attr);
	if (sys_stack_read(s, mask, cpu->gpr[X86_RSP], frame, (is_64bit ? 5 : 3) * opsize, opsize,
			   fault))
		return -1;
	offset = frame_get(frame, 0, opsize);
	selector = (uint16_t)frame_get(frame, 1, opsize);
	image = frame_get(frame, 2, opsize);

	if (sys_unlikely((image & X86_FLAG_VM) && opsize == 4 && cpl == 0 && !long_mode))
		return iret_to_v86(s, frame, fault);

	if (sys_check_return_code(s, selector, &d, fault))
		return -1;
	attr = desc_attr(d);
	new_cpl = selector & SEL_RPL;
	with_stack = is_64bit || new_cpl != cpl;
	if (with_stack) {
		if (!is_64bit && sys_stack_read(s, mask, cpu->gpr[X86_RSP] + 3 * opsize,
						frame + 3 * opsize, 2 * opsize, opsize, fault))
			return -1;
		if (sys_check_return_stack(s, (uint16_t)frame_get(frame, 4, opsize), new_cpl, attr,
					   &ss, fault))
			return -1;
	}
	if (sys_unlikely(!sys_code_offset_ok(long_mode, attr, desc_limit(d), offset)))
		return sys_gp(fault, 0);
	if (sys_mark_accessed(s, selector, &d, fault))
		return -1;

	/* IF and IOPL by the privilege that executes IRET, not the one it returns to. */
	allowed = FLAGS_ALWAYS;
	if (opsize != 2)
		allowed |= FLAGS_WIDE;
	if (cpl <= sys_iopl(cpu))
		allowed |= X86_FLAG_IF;
	if (cpl == 0) {
		allowed |= X86_FLAG_IOPL;
		if (opsize != 2)
			allowed |= X86_FLAG_VIF | X86_FLAG_VIP;
	}

	if (new_cpl != cpl || (with_stack && ((cpu->seg[X86_SS].attr ^ ss.attr) & X86_ATTR_DB)))
		s->effects |= X86_EFFECT_MODE;
	sys_set_code(s, selector, d);
	cpu->rip = offset;
	if (with_stack) {
		cpu->seg[X86_SS] = ss;
		sys_set_sp(cpu, sys_stack_mask(cpu), frame_get(frame, 3, opsize));
	} else {
		sys_set_sp(cpu, mask, cpu->gpr[X86_RSP] + 3 * opsize);
	}
	set_flags(s, image, allowed);
	if (new_cpl == cpl)
		return 0;
	sys_drop_inner_segments(s, new_cpl);
	return pending_virtual_interrupt(s, fault);
}
