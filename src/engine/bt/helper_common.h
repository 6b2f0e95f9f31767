/* SPDX-License-Identifier: MIT */
/* What the system-instruction helpers share: finishing an instruction, operands, the guest's stack. */
#ifndef LODGE_ENGINE_BT_HELPER_COMMON_H
#define LODGE_ENGINE_BT_HELPER_COMMON_H

#include "engine/bt/bt.h"
#include "base/util.h"
#include "engine/bt/runtime.h"

/* Point RIP at the next instruction, as x86_* functions expect it. */
static inline void helper_begin(struct bt_cpu *cpu, const struct bt_call *call)
{
	cpu->state.rip = bt_rip(cpu, call->next_offset);
}

/* The instruction is done and control stays with the next one (state.rip points there). rc < 0: raise *fault. */
static inline enum bt_result helper_end(struct bt_cpu *cpu, const struct bt_call *call, int rc,
					const struct x86_fault *fault)
{
	struct x86_system *s = bt_system(cpu);
	uint32_t effects;

	if (unlikely(rc < 0))
		return bt_raise(cpu, call->offset, fault);
	effects = s->effects;
	if (likely(!effects))
		return BT_NEXT;
	bt_apply_effects(cpu);
	if (effects == X86_EFFECT_INTERRUPTS)
		return bt_vcpu_of(cpu)->vcpu->irq_pending ? BT_LEAVE : BT_NEXT;
	return effects & X86_EFFECT_INTERRUPTS ? BT_LEAVE : BT_JUMP;
}

/* The instruction went elsewhere: state.rip, CS etc. are the target's. */
static inline enum bt_result helper_jump(struct bt_cpu *cpu, const struct bt_call *call, int rc,
					 const struct x86_fault *fault)
{
	struct x86_system *s = bt_system(cpu);
	uint32_t effects;

	if (unlikely(rc < 0))
		return bt_raise(cpu, call->offset, fault);
	effects = s->effects;
	if (effects)
		bt_apply_effects(cpu);
	return (effects & X86_EFFECT_INTERRUPTS) && bt_vcpu_of(cpu)->vcpu->irq_pending ? BT_LEAVE :
											 BT_JUMP;
}

/* Linear address of an offset in a segment for size bytes. */
static inline int helper_linear(struct bt_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
				bool write, uint64_t *linear, struct x86_fault *fault)
{
	if (likely(x86_in_64bit(&cpu->state))) {
		*linear = offset + (seg >= X86_FS ? cpu->state.seg[seg].base : 0);
		if (unlikely(!bt_canonical(*linear) || !bt_canonical(*linear + size - 1))) {
			uint8_t vector = seg == X86_SS ? X86_SS_FAULT : X86_GP;

			*fault = (struct x86_fault){ .vector = vector, .has_error = true };
			return -1;
		}
		return 0;
	}
	/* An access that wraps at 4 GiB exceeds the limit even of a segment of 4 GiB. */
	if (unlikely(offset + size - 1 > 0xffffffffull)) {
		uint8_t vector = seg == X86_SS ? X86_SS_FAULT : X86_GP;

		*fault = (struct x86_fault){ .vector = vector, .has_error = true };
		return -1;
	}
	return x86_linear_address(bt_system(cpu), (enum x86_seg)seg, offset, size, write, linear,
				  fault);
}

static inline int helper_load(struct bt_cpu *cpu, unsigned seg, uint64_t offset, void *buf,
			      unsigned size, struct x86_fault *fault)
{
	uint64_t linear;

	if (helper_linear(cpu, seg, offset, size, false, &linear, fault) < 0)
		return -1;
	return bt_read(cpu, linear, buf, size, fault);
}

static inline int helper_store(struct bt_cpu *cpu, unsigned seg, uint64_t offset, const void *buf,
			       unsigned size, struct x86_fault *fault)
{
	uint64_t linear;

	if (helper_linear(cpu, seg, offset, size, true, &linear, fault) < 0)
		return -1;
	return bt_write(cpu, linear, buf, size, fault);
}

/* Width of the stack pointer in bytes, and its mask. */
static inline uint64_t helper_stack_mask(const struct bt_cpu *cpu)
{
	if (x86_in_64bit(&cpu->state))
		return ~0ull;
	return cpu->state.seg[X86_SS].attr & X86_ATTR_DB ? 0xffffffffull : 0xffffull;
}

static inline void helper_set_rsp(struct bt_cpu *cpu, uint64_t value)
{
	uint64_t mask = helper_stack_mask(cpu);
	uint64_t *rsp = &cpu->state.gpr[X86_RSP];

	*rsp = mask == 0xffff ? (*rsp & ~mask) | (value & mask) : value & mask;
}

/* In 64-bit mode a stack access to a non-canonical address is #SS(0), not #GP(0) (SDM vol. 1, 3.3.7.1). */
static inline int helper_stack_fault(struct bt_cpu *cpu, uint64_t rsp, int rc,
				     struct x86_fault *fault)
{
	if (unlikely(rc < 0) && fault->vector == X86_GP && x86_in_64bit(&cpu->state) &&
	    (int64_t)(rsp << 16) >> 16 != (int64_t)rsp)
		fault->vector = X86_SS_FAULT;
	return rc;
}

/* Push and pop size bytes without moving RSP: it is the caller's to move when all went well. */
static inline int helper_push_at(struct bt_cpu *cpu, uint64_t rsp, uint64_t value, unsigned size,
				 struct x86_fault *fault)
{
	return helper_stack_fault(cpu, rsp,
				  helper_store(cpu, X86_SS, rsp & helper_stack_mask(cpu), &value,
					       size, fault),
				  fault);
}
static inline int helper_pop_at(struct bt_cpu *cpu, uint64_t rsp, uint64_t *value, unsigned size,
				struct x86_fault *fault)
{
	*value = 0;
	return helper_stack_fault(
		cpu, rsp,
		helper_load(cpu, X86_SS, rsp & helper_stack_mask(cpu), value, size, fault), fault);
}

static inline uint64_t helper_mask(unsigned size)
{
	return size == 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

/* Write a general-purpose register with an operand size: 4 zero-extends, 2 and 1 keep the rest (low bytes only). */
static inline void helper_set_gpr(struct bt_cpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
	uint64_t *r = &cpu->state.gpr[reg];

	if (size == 8)
		*r = value;
	else if (size == 4)
		*r = (uint32_t)value;
	else
		*r = (*r & ~helper_mask(size)) | (value & helper_mask(size));
}

#endif
