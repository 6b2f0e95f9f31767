/* SPDX-License-Identifier: MIT */
/* Helpers for segment registers and descriptors: MOV/PUSH/POP Sreg, LDS.., LAR, LSL, VERR/W, LLDT, LTR, ARPL, BOUND. */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers_system.h"

void bt_update_segments(struct bt_cpu *cpu)
{
	for (unsigned i = 0; i < 6; i++) {
		const struct x86_segment *seg = &cpu->state.seg[i];
		unsigned type = seg->attr & X86_ATTR_TYPE;
		uint64_t end = (uint64_t)seg->limit + 1;
		bool present = seg->attr & X86_ATTR_P, code = type & 8;
		bool real = !(cpu->state.cr0 & X86_CR0_PE) || (cpu->state.rflags & X86_FLAG_VM);

		if (real) {
			cpu->seg_end[0][i] = cpu->seg_end[1][i] = end;
			continue;
		}
		/* expand-down segments (type bit 2, not code) are left to the slow path */
		cpu->seg_end[0][i] = present && (code ? type & 2 : !(type & 4)) ? end : 0;
		cpu->seg_end[1][i] = present && !code && !(type & 4) && (type & 2) ? end : 0;
	}
}

/* The 16-bit selector operand in r/m. */
static int selector_operand(struct bt_cpu *cpu, const struct bt_call *call, uint16_t *selector,
			    struct x86_fault *fault)
{
	if (!call->has_mem) {
		*selector = (uint16_t)cpu->state.gpr[call->rm];
		return 0;
	}
	return helper_load(cpu, call->seg, cpu->arg, selector, 2, fault);
}

/* Store a 16-bit system register: 2 bytes to memory, operand size (zero-extended) to a register. */
static enum bt_result store_selector(struct bt_cpu *cpu, const struct bt_call *call, uint16_t value)
{
	struct x86_fault fault;

	if (!call->has_mem) {
		helper_set_gpr(cpu, call->rm, value, call->opsize);
		return BT_NEXT;
	}
	return helper_end(cpu, call, helper_store(cpu, call->seg, cpu->arg, &value, 2, &fault),
			  &fault);
}

enum bt_result bt_help_mov_from_seg(struct bt_cpu *cpu, const struct bt_call *call)
{
	unsigned seg = call->reg & 7;

	if (seg > X86_GS)
		return bt_help_undefined(cpu, call);
	return store_selector(cpu, call, cpu->state.seg[seg].selector);
}

/* Outside 64-bit code a loaded segment may change the mode (flat or not) of what follows. */
static enum bt_result segment_end(struct bt_cpu *cpu, const struct bt_call *call, int rc,
				  const struct x86_fault *fault)
{
	enum bt_result result = helper_end(cpu, call, rc, fault);

	return result == BT_NEXT && !x86_in_64bit(&cpu->state) ? BT_JUMP : result;
}

enum bt_result bt_help_mov_to_seg(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned seg = call->reg & 7;
	uint16_t selector;
	int rc;

	if (seg > X86_GS || seg == X86_CS)
		return bt_help_undefined(cpu, call);
	rc = selector_operand(cpu, call, &selector, &fault);
	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_load_segment(bt_system(cpu), (enum x86_seg)seg, selector, &fault);
	if (rc == 0) {
		bt_update_segments(cpu);
		if (seg == X86_SS)
			cpu->state.mov_ss_shadow = 1;
	}
	return segment_end(cpu, call, rc, &fault);
}

/* PUSH/POP Sreg: the segment is in opcode bits 3-5, in both maps. */
enum bt_result bt_help_push_seg(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned seg = call->opcode >> 3 & 7;
	uint64_t rsp = cpu->state.gpr[X86_RSP] - call->opsize;
	int rc = helper_push_at(cpu, rsp, cpu->state.seg[seg].selector, call->opsize, &fault);

	if (rc == 0)
		helper_set_rsp(cpu, rsp);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_pop_seg(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned seg = call->opcode >> 3 & 7;
	uint64_t rsp = cpu->state.gpr[X86_RSP], value;
	uint64_t mask = helper_stack_mask(cpu);
	int rc = helper_pop_at(cpu, rsp, &value, 2, &fault);

	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_load_segment(bt_system(cpu), (enum x86_seg)seg, (uint16_t)value, &fault);
	if (rc == 0) {
		/* RSP moves in the width the stack had before SS changed */
		uint64_t new_rsp = rsp + call->opsize;

		cpu->state.gpr[X86_RSP] = mask == 0xffff ? (rsp & ~mask) | (new_rsp & mask) :
							   new_rsp & mask;
		bt_update_segments(cpu);
		if (seg == X86_SS)
			cpu->state.mov_ss_shadow = 1;
	}
	return segment_end(cpu, call, rc, &fault);
}

/* LES LDS LSS LFS LGS */
enum bt_result bt_help_load_far_ptr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint8_t buf[10] = { 0 };
	uint64_t offset = 0;
	uint16_t selector;
	unsigned seg;
	int rc;

	switch (call->opcode) {
	case 0xc4:
		seg = X86_ES;
		break;
	case 0xc5:
		seg = X86_DS;
		break;
	default: /* 0f b2, b4, b5 */
		seg = call->opcode & 7;
		break;
	}
	rc = helper_load(cpu, call->seg, cpu->arg, buf, call->opsize + 2u, &fault);
	helper_begin(cpu, call);
	__builtin_memcpy(&selector, buf + call->opsize, 2);
	__builtin_memcpy(&offset, buf, 8);
	offset &= helper_mask(call->opsize);
	if (rc == 0)
		rc = x86_load_segment(bt_system(cpu), (enum x86_seg)seg, selector, &fault);
	if (rc == 0) {
		bt_update_segments(cpu);
		helper_set_gpr(cpu, call->reg, offset, call->opsize);
	}
	return segment_end(cpu, call, rc, &fault);
}

static bool protected_only(const struct bt_cpu *cpu)
{
	return (cpu->state.cr0 & X86_CR0_PE) && !(cpu->state.rflags & X86_FLAG_VM);
}

/* SLDT, STR */
enum bt_result bt_help_sldt(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	if (!protected_only(cpu))
		return bt_help_undefined(cpu, call);
	if (x86_check_umip(bt_system(cpu), &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	return store_selector(cpu, call,
			      cpu->state.seg[call->op == X86_OP_STR ? X86_TR : X86_LDTR].selector);
}

/* LLDT, LTR */
enum bt_result bt_help_lldt(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t selector;
	int rc;

	if (!protected_only(cpu))
		return bt_help_undefined(cpu, call);
	rc = x86_check_cpl0(bt_system(cpu), &fault);
	if (rc == 0)
		rc = selector_operand(cpu, call, &selector, &fault);
	helper_begin(cpu, call);
	if (rc == 0)
		rc = call->op == X86_OP_LTR ? x86_load_tr(bt_system(cpu), selector, &fault) :
					      x86_load_ldtr(bt_system(cpu), selector, &fault);
	return helper_end(cpu, call, rc, &fault);
}

static void set_zf(struct bt_cpu *cpu, bool zf)
{
	cpu->state.rflags = zf ? cpu->state.rflags | X86_FLAG_ZF :
				 cpu->state.rflags & ~(uint64_t)X86_FLAG_ZF;
}

/* LAR, LSL, VERR, VERW: test a selector, result in ZF (and a register) */
enum bt_result bt_help_test_selector(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_system *s = bt_system(cpu);
	struct x86_fault fault;
	uint16_t selector;
	uint32_t value = 0;
	bool ok = false;
	int rc;

	if (!protected_only(cpu))
		return bt_help_undefined(cpu, call);
	rc = selector_operand(cpu, call, &selector, &fault);
	if (rc == 0) {
		switch (call->op) {
		case X86_OP_LAR:
			rc = x86_lar(s, selector, &value, &ok, &fault);
			break;
		case X86_OP_LSL:
			rc = x86_lsl(s, selector, &value, &ok, &fault);
			break;
		default:
			rc = x86_verify(s, selector, call->op == X86_OP_VERW, &ok, &fault);
			break;
		}
	}
	if (rc == 0) {
		set_zf(cpu, ok);
		if (ok && (call->op == X86_OP_LAR || call->op == X86_OP_LSL))
			helper_set_gpr(cpu, call->reg, value, call->opsize);
	}
	helper_begin(cpu, call);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_arpl(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t dst, src = (uint16_t)cpu->state.gpr[call->reg];
	int rc;

	if (!protected_only(cpu))
		return bt_help_undefined(cpu, call);
	rc = selector_operand(cpu, call, &dst, &fault);
	if (rc == 0 && (dst & 3) < (src & 3)) {
		dst = (uint16_t)((dst & ~3) | (src & 3));
		if (call->has_mem)
			rc = helper_store(cpu, call->seg, cpu->arg, &dst, 2, &fault);
		else
			helper_set_gpr(cpu, call->rm, dst, 2);
		if (rc == 0)
			set_zf(cpu, true);
	} else if (rc == 0) {
		set_zf(cpu, false);
	}
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_bound(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	int32_t b[2] = { 0, 0 }, index = (int32_t)cpu->state.gpr[call->reg];

	if (call->opsize == 2) {
		int16_t w[2];

		if (helper_load(cpu, call->seg, cpu->arg, w, 4, &fault) < 0)
			return bt_raise(cpu, call->offset, &fault);
		b[0] = w[0];
		b[1] = w[1];
		index = (int16_t)index;
	} else if (helper_load(cpu, call->seg, cpu->arg, b, 8, &fault) < 0) {
		return bt_raise(cpu, call->offset, &fault);
	}
	if (index < b[0] || index > b[1])
		return bt_raise_vector(cpu, call->offset, X86_BR, false, 0);
	return BT_NEXT;
}
