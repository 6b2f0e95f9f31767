/* SPDX-License-Identifier: MIT */
/*
 * Stack instructions: push, pop, call, ret, enter, leave and their kin, as a memory access relative to
 * the guest's RSP (which is the host's RSP: nothing of ours is ever on it) and an adjustment of RSP
 * after the access succeeded, so that a fault leaves it untouched.
 */
#include "engine/bt/translate.h"

/* RSP += delta in the width of the stack pointer; flags unchanged. T0 may be clobbered. */
static void emit_adjust_rsp(struct translator *t, struct bt_buf *b, int32_t delta)
{
	if (t->long_mode) {
		emit_lea_disp(b, true, X86_RSP, X86_RSP, delta);
	} else if (t->mode & BT_MODE_SS32) {
		emit_lea_disp(b, false, X86_RSP, X86_RSP, delta);
	} else {
		emit_lea_disp(b, false, T0, X86_RSP, delta);
		emit_mov16(b, X86_RSP, T0);
	}
}

/* mov [m], reg or mov reg, [m] of 2, 4 or 8 bytes; loads of 2 and 4 bytes zero-extend. */
static void emit_store(struct bt_buf *b, unsigned size, unsigned reg, const struct host_mem *m)
{
	if (size == 2)
		emit8(b, 0x66);
	emit_op_mem(b, size == 8, 0x89, reg, m);
}

static void emit_load(struct bt_buf *b, unsigned size, unsigned reg, const struct host_mem *m)
{
	if (size == 2) {
		emit_rex_mem(b, false, reg, m);
		emit8(b, 0x0f);
		emit8(b, 0xb7);
		emit_modrm_mem(b, reg, m, false);
	} else {
		emit_op_mem(b, size == 8, 0x8b, reg, m);
	}
}

/* A stack write ends with RSP moved in both copies, before the runtime completes the slow one: it may leave the block then. */
static void end_push(struct translator *t, struct access *a, int32_t delta)
{
	emit_adjust_rsp(t, &t->hot, delta);
	emit_adjust_rsp(t, &t->cold, delta);
	bt_access_end(t, a);
}

static struct access stack_access(const struct translator *t, int32_t disp, unsigned size,
				  uint8_t kind, bool need_t0)
{
	return (struct access){
		.ea = bt_stack_ea(t, disp),
		.size = (uint16_t)size,
		.kind = kind,
		.site_flags = BT_SITE_STACK,
		.need_t0 = need_t0,
	};
}

/* Push a register. */
static void emit_push_reg(struct translator *t, unsigned reg, unsigned size)
{
	bool slot = is_slot_reg((int)reg);
	struct access a = stack_access(t, -(int32_t)size, size, X86_MEM_W, slot);

	bt_access_begin(t, &a);
	if (slot) {
		emit_load_gs(&t->hot, true, T0, GS_GPR((int)reg));
		emit_store(&t->hot, size, T0, &a.m);
		emit_load_gs(&t->cold, true, T1, GS_GPR((int)reg));
		emit_store(&t->cold, size, T1, &bt_cold_mem);
	} else {
		emit_store(&t->hot, size, reg, &a.m);
		emit_store(&t->cold, size, reg, &bt_cold_mem);
	}
	end_push(t, &a, -(int32_t)size);
}

static void emit_push_imm(struct translator *t, int32_t imm, unsigned size)
{
	struct access a = stack_access(t, -(int32_t)size, size, X86_MEM_W, false);
	struct bt_buf *bufs[2] = { &t->hot, &t->cold };

	bt_access_begin(t, &a);
	for (unsigned i = 0; i < 2; i++) {
		struct bt_buf *b = bufs[i];
		const struct host_mem *m = i ? &bt_cold_mem : &a.m;

		if (size == 2)
			emit8(b, 0x66);
		emit_op_mem(b, size == 8, 0xc7, 0, m);
		if (size == 2)
			emit16(b, (uint16_t)imm);
		else
			emit32(b, (uint32_t)imm);
	}
	end_push(t, &a, -(int32_t)size);
}

void bt_emit_push_scratch(struct translator *t, unsigned size, uint8_t site_flags)
{
	struct access a = stack_access(t, -(int32_t)size, size, X86_MEM_W, true);

	a.site_flags |= site_flags;
	bt_access_begin(t, &a);
	emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
	emit_store(&t->hot, size, T0, &a.m);
	emit_load_gs(&t->cold, true, T1, GS_OFF(scratch[1]));
	emit_store(&t->cold, size, T1, &bt_cold_mem);
	end_push(t, &a, -(int32_t)size);
}

/* Load the instruction's memory operand (size bytes) into scratch[1], zero-extended. */
static void emit_operand_to_scratch(struct translator *t, unsigned size)
{
	struct access a = { .ea = bt_insn_ea(t),
			    .size = (uint16_t)size,
			    .kind = X86_MEM_R,
			    .site_flags = BT_SITE_MID };

	bt_access_begin(t, &a);
	emit_load(&t->hot, size, T0, &a.m);
	emit_load(&t->cold, size, T0, &bt_cold_mem);
	bt_access_end(t, &a);
	emit_store_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
}

/* Load the word at the top of the stack (+disp) into T0, zero-extended. RSP is not moved. */
static void emit_load_top(struct translator *t, unsigned size, int32_t disp, uint8_t site_flags)
{
	struct access a = stack_access(t, disp, size, X86_MEM_R, false);

	a.site_flags |= site_flags;
	bt_access_begin(t, &a);
	emit_load(&t->hot, size, T0, &a.m);
	emit_load(&t->cold, size, T0, &bt_cold_mem);
	bt_access_end(t, &a);
}

/* Put T0 (size bytes, zero-extended) into a guest register. */
static void emit_set_gpr(struct translator *t, unsigned reg, unsigned size)
{
	struct bt_buf *b = &t->hot;

	if (is_slot_reg((int)reg)) {
		if (size == 2)
			emit8(b, 0x66);
		emit_store_gs(b, size != 2, T0, GS_GPR((int)reg));
	} else if (size == 2) {
		emit_mov16(b, reg, T0);
	} else {
		emit_mov(b, size == 8, reg, T0);
	}
}

static unsigned opcode_reg(const struct x86_insn *insn)
{
	return (insn->opcode & 7) | (insn->rex & 1) << 3;
}

static void translate_push(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned size = insn->opsize;

	if (insn->has_mem) {
		emit_operand_to_scratch(t, size);
		bt_emit_push_scratch(t, size, 0);
	} else if (insn->imm_size) {
		emit_push_imm(t, (int32_t)insn->imm, size);
	} else if (insn->has_modrm) {
		emit_push_reg(t, (insn->modrm & 7) | (insn->rex & 1) << 3, size);
	} else {
		emit_push_reg(t, opcode_reg(insn), size);
	}
}

static void emit_pop_reg(struct translator *t, unsigned reg, unsigned size)
{
	if (!is_slot_reg((int)reg) && reg != X86_RSP && t->long_mode && size == 8) {
		struct access a = stack_access(t, 0, size, X86_MEM_R, false);

		bt_access_begin(t, &a);
		emit_load(&t->hot, size, reg, &a.m);
		emit_load(&t->cold, size, reg, &bt_cold_mem);
		bt_access_end(t, &a);
		emit_adjust_rsp(t, &t->hot, (int32_t)size);
		return;
	}
	emit_load_top(t, size, 0, 0);
	emit_store_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
	emit_adjust_rsp(t, &t->hot, (int32_t)size);
	emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
	emit_set_gpr(t, reg, size);
}

static void translate_pop(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned size = insn->opsize;

	if (!insn->has_mem) {
		emit_pop_reg(t,
			     insn->has_modrm ?
				     (unsigned)((insn->modrm & 7) | (insn->rex & 1) << 3) :
				     opcode_reg(insn),
			     size);
		return;
	}
	/* pop m: the address is computed with RSP already incremented (SDM vol. 2, POP) */
	{
		struct access a = { .ea = bt_insn_ea(t),
				    .size = (uint16_t)size,
				    .kind = X86_MEM_W,
				    .need_t0 = true };

		if (a.ea.base == X86_RSP)
			a.ea.disp += (int32_t)size;
		emit_load_top(t, size, 0, BT_SITE_MID);
		emit_store_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
		bt_access_begin(t, &a);
		emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
		emit_store(&t->hot, size, T0, &a.m);
		emit_load_gs(&t->cold, true, T1, GS_OFF(scratch[1]));
		emit_store(&t->cold, size, T1, &bt_cold_mem);
		end_push(t, &a, (int32_t)size);
	}
}

void bt_emit_next_ip_to_scratch(struct translator *t, unsigned size)
{
	struct bt_buf *b = &t->hot;

	emit_load_gs(b, true, T0, GS_OFF(pc_base));
	emit_lea_disp(b, t->long_mode, T0, T0, t->next);
	if (!t->long_mode && !(t->mode & BT_MODE_FLAT_CS)) {
		/* IP = linear - CS.base, without flags: a - b = a + ~b + 1 */
		emit_load_gs(b, false, T1,
			     (int32_t)(offsetof(struct bt_cpu, state.seg) +
				       X86_CS * sizeof(struct x86_segment) +
				       offsetof(struct x86_segment, base)));
		emit_bytes(b, (const uint8_t[]){ 0x41, 0xf7, 0xd3 }, 3); /* not r11d */
		emit_lea(b, false, T0, &(struct host_mem){ .base = T0, .index = T1, .disp = 1 });
	}
	if (size == 2)
		emit_movzx16(b, T0, T0);
	emit_store_gs(b, true, T0, GS_OFF(scratch[1]));
}

static void translate_call(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned size = insn->opsize;

	if (insn->op == X86_OP_CALL_IND) {
		/* the target is read before the push */
		if (insn->has_mem) {
			emit_operand_to_scratch(t, size);
			emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[1]));
		} else {
			unsigned reg = (insn->modrm & 7) | (insn->rex & 1) << 3;

			if (is_slot_reg((int)reg))
				emit_load_gs(&t->hot, true, T0, GS_GPR((int)reg));
			else
				emit_mov(&t->hot, true, T0, reg);
		}
		emit_store_gs(&t->hot, true, T0, GS_OFF(scratch[5]));
	}
	bt_emit_next_ip_to_scratch(t, size);
	bt_emit_push_scratch(t, size, BT_SITE_MID);
	if (insn->op == X86_OP_CALL_REL) {
		bt_emit_exit_direct(t, &t->hot, (int32_t)(t->next + insn->imm), size);
	} else {
		emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[5]));
		bt_emit_exit_indirect(t, &t->hot, size, -(int32_t)size);
	}
	t->ended = true;
}

static void translate_ret(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned size = insn->opsize;
	int32_t pop = (int32_t)size + (insn->imm_size ? (uint16_t)insn->imm : 0);

	emit_load_top(t, size, 0, BT_SITE_MID);
	if (t->long_mode || (t->mode & BT_MODE_SS32)) {
		emit_adjust_rsp(t, &t->hot, pop);
	} else {
		emit_store_gs(&t->hot, true, T0, GS_OFF(scratch[5]));
		emit_adjust_rsp(t, &t->hot, pop);
		emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[5]));
	}
	bt_emit_exit_indirect(t, &t->hot, size, pop <= INT16_MAX ? pop : 0);
	t->ended = true;
}

/* leave: RSP = RBP, pop RBP. The load is through RBP, so that RSP changes only if it succeeds. */
static void translate_leave(struct translator *t)
{
	unsigned size = t->insn->opsize;
	struct access a = stack_access(t, 0, size, X86_MEM_R, false);
	struct bt_buf *b = &t->hot;

	a.ea.base = X86_RBP;
	bt_access_begin(t, &a);
	emit_load(&t->hot, size, T0, &a.m);
	emit_load(&t->cold, size, T0, &bt_cold_mem);
	bt_access_end(t, &a);
	if (t->long_mode) {
		emit_lea_disp(b, true, X86_RSP, X86_RBP, (int32_t)size);
	} else if (t->mode & BT_MODE_SS32) {
		emit_lea_disp(b, false, X86_RSP, X86_RBP, (int32_t)size);
	} else {
		emit_lea_disp(b, false, T1, X86_RBP, (int32_t)size);
		emit_mov16(b, X86_RSP, T1);
	}
	emit_set_gpr(t, X86_RBP, size);
}

void bt_translate_stack(struct translator *t)
{
	switch (t->insn->op) {
	case X86_OP_PUSH:
		translate_push(t);
		break;
	case X86_OP_POP:
		translate_pop(t);
		break;
	case X86_OP_CALL_REL:
	case X86_OP_CALL_IND:
		translate_call(t);
		break;
	case X86_OP_RET:
		translate_ret(t);
		break;
	case X86_OP_LEAVE:
		translate_leave(t);
		break;
	case X86_OP_PUSHF:
	case X86_OP_POPF:
		if (bt_translate_inline_system(t))
			break;
		/* fall through */
	default: /* enter, pusha, popa, pushf, popf, segment pushes and pops */
		bt_emit_helper(t, bt_helpers[t->insn->op], t->insn->has_mem);
		break;
	}
}
