/* SPDX-License-Identifier: MIT */
/*
 * Near branches and the ways out of a block.
 *
 * A direct branch within the page is a host jump, first to a cold stub that asks the runtime for the
 * target, later patched to the target's near entry. A branch to another page or to a computed address
 * goes through the vCPU's jump cache: an indirect jump to a far entry, which checks that it is the
 * right one (see bt_emit_entries in translate.c), so that nothing needs flags here.
 */
#include "engine/bt/translate.h"

#define JUMP_CODE_OFF(cls)                                                                         \
	((int32_t)(BT_OFF_TABLES(cls) + offsetof(struct bt_tables, jump) +                         \
		   offsetof(struct bt_jump, code)))

static bool through_helper(const struct translator *t)
{
	return !(t->mode & BT_MODE_FLAT_CS) || (t->mode & BT_MODE_ONE);
}

/* The target is in T0: a linear address, or (is_offset) an IP to be masked and checked. */
static void emit_far(struct translator *t, struct bt_buf *b, unsigned opsize, bool is_offset,
		     enum flags_place flags)
{
	if (t->mode & BT_MODE_STEP) {
		if (flags == FLAGS_SLOT)
			bt_flags_restore(b, T1);
		bt_emit_helper_arg(t, b, bt_help_step,
				   is_offset ? (int64_t)opsize << 1 | 1 : (int64_t)opsize << 1,
				   true);
		return;
	}
	if (through_helper(t)) {
		if (flags == FLAGS_SLOT)
			bt_flags_restore(b, T1);
		bt_emit_helper_arg(t, b, bt_help_near_jump,
				   is_offset ? (int64_t)opsize << 1 | 1 : (int64_t)opsize << 1,
				   true);
		return;
	}
	if (!t->long_mode && opsize == 2)
		emit_movzx16(b, T0, T0);
	else if (!t->long_mode)
		emit_mov(b, false, T0, T0);
	if (flags == FLAGS_HOST)
		bt_flags_save(b, T1);
	/* the index, bt_jump_index(); EFLAGS are free: the guest's are in the slot */
	emit_mov(b, false, T1, T0);
	emit_shift_imm(b, false, 5, T1, 16);
	emit_bytes(b, (const uint8_t[]){ 0x45, 0x31, 0xd3 }, 3); /* xor r11d, r10d */
	emit_movzx16(b, T1, T1);
	emit_lea(b, false, T1, &(struct host_mem){ .base = T1, .index = T1 });
	/* jmp gs:[r11*8 + jump.code] */
	emit_bytes(b, (const uint8_t[]){ 0x65, 0x42, 0xff, 0x24, 0xdd }, 5);
	emit32(b, (uint32_t)JUMP_CODE_OFF(t->cls));
}

void bt_emit_exit_indirect(struct translator *t, struct bt_buf *b, unsigned opsize,
			   int32_t rsp_moved)
{
	if (t->long_mode) { /* mov dword gs:[branch], imm32 */
		emit_bytes(b, (const uint8_t[]){ 0x65, 0xc7, 0x04, 0x25 }, 4);
		emit32(b, (uint32_t)GS_OFF(branch));
		emit32(b, (uint32_t)t->offset | (uint32_t)rsp_moved << 16);
	}
	emit_far(t, b, opsize, true, t->flags);
}

static void emit_chain_stub(struct translator *t, uint8_t *patch_field, uint16_t target)
{
	struct bt_buf *c = &t->cold;
	uint8_t *field;
	struct bt_exit ex = { .target = target, .backward = target <= t->offset };

	patch_rel32(patch_field, c->p);
	field = emit_lea_rip(c, T1, c->p);
	emit_jmp_gs(c, GS_OFF(tramp_chain));
	patch_rel32(field, c->p);
	ex.patch = (int32_t)(patch_field - c->p);
	__builtin_memcpy(c->p, &ex, sizeof(ex));
	c->p += sizeof(ex);
}

static bool chains(const struct translator *t, int32_t target, unsigned opsize)
{
	if (target < 0 || target >= (int32_t)PAGE_SIZE || (t->block->flags & BT_BLOCK_CROSS))
		return false;
	if (t->mode & (BT_MODE_STEP | BT_MODE_ONE))
		return false;
	/* a 16-bit branch in 32-bit code truncates EIP */
	return t->long_mode || t->bits == X86_CODE16 || opsize == 4;
}

/* T0 = linear address of a page offset. */
static void emit_linear(struct translator *t, struct bt_buf *b, int32_t target)
{
	emit_load_gs(b, true, T0, GS_OFF(pc_base));
	emit_lea_disp(b, t->long_mode, T0, T0, target);
}

void bt_emit_exit_direct(struct translator *t, struct bt_buf *b, int32_t target, unsigned opsize)
{
	if (chains(t, target, opsize)) {
		if (!b->cold)
			bt_flags_to_host(t, T0);
		emit_align_patch(b, 1);
		emit_chain_stub(t, emit_jmp(b, b->p), (uint16_t)target);
		return;
	}
	bt_emit_exit_far(t, b, target, opsize);
}

void bt_emit_exit_far(struct translator *t, struct bt_buf *b, int32_t target, unsigned opsize)
{
	emit_linear(t, b, target);
	emit_far(t, b, opsize, false, b->cold ? FLAGS_HOST : t->flags);
}

/* A conditional host jump (opcode bytes already chosen) to a direct target; falls through otherwise. EFLAGS valid. */
static void emit_conditional(struct translator *t, unsigned cc, int32_t target, unsigned opsize)
{
	struct bt_buf *b = &t->hot;
	uint8_t *field;

	if (chains(t, target, opsize)) {
		emit_align_patch(b, 2);
		field = emit_jcc(b, cc, b->p);
		emit_chain_stub(t, field, (uint16_t)target);
		return;
	}
	field = emit_jcc(b, cc, b->p);
	patch_rel32(field, t->cold.p);
	emit_linear(t, &t->cold, target);
	emit_far(t, &t->cold, opsize, false, FLAGS_HOST);
}

/* A direct exit in cold code, reached by a short jump over it in hot code; used by the flagless loop branches. */
static void emit_taken_path(struct translator *t, int32_t target, unsigned opsize)
{
	uint8_t *field = emit_jmp(&t->hot, t->hot.p);

	patch_rel32(field, t->cold.p);
	bt_emit_exit_direct(t, &t->cold, target, opsize);
}

/* Emit jcc/jrcxz rel8 forward over something; returns the displacement byte to fix. */
static uint8_t *emit_short(struct bt_buf *b, uint8_t opcode)
{
	emit8(b, opcode);
	emit8(b, 0);
	return b->p - 1;
}
static void fix_short(struct bt_buf *b, uint8_t *field)
{
	*field = (uint8_t)(b->p - (field + 1));
}

/*
 * loop, loope, loopne, jcxz/jecxz/jrcxz: the count register has the address size. EFLAGS are valid and unchanged.
 * The test of the count is jrcxz/jecxz on the host's RCX; a 16-bit count is tested in a scratch copy of RCX.
 */
static void translate_loop(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	struct bt_buf *b = &t->hot;
	int32_t target = (int32_t)(t->next + insn->imm);
	bool is_jcxz = insn->op == X86_OP_JCXZ;
	uint8_t *zero, *not_taken = NULL, *done;

	bt_flags_to_host(t, T0);
	if (t->flags == FLAGS_DEAD)
		t->flags = FLAGS_HOST;
	if (!is_jcxz) {
		if (insn->addrsize == 2) {
			emit_lea_disp(b, false, T0, X86_RCX, -1);
			emit_mov16(b, X86_RCX, T0);
		} else {
			emit_lea_disp(b, insn->addrsize == 8, X86_RCX, X86_RCX, -1);
		}
	}
	if (insn->addrsize == 2) {
		emit_mov(b, true, T0, X86_RCX);
		emit_movzx16(b, X86_RCX, X86_RCX);
	}
	if (insn->addrsize == 4)
		emit8(b, 0x67);
	zero = emit_short(b, 0xe3);
	/* count != 0 */
	if (insn->addrsize == 2)
		emit_mov(b, true, X86_RCX, T0);
	if (is_jcxz) {
		done = emit_short(b, 0xeb);
		fix_short(b, zero);
		if (insn->addrsize == 2)
			emit_mov(b, true, X86_RCX, T0);
		emit_taken_path(t, target, insn->opsize);
		fix_short(b, done);
		return;
	}
	if (insn->opcode == 0xe0)
		not_taken = emit_short(b, 0x74); /* loopne: leave if ZF */
	else if (insn->opcode == 0xe1)
		not_taken = emit_short(b, 0x75);
	emit_taken_path(t, target, insn->opsize);
	fix_short(b, zero);
	if (insn->addrsize == 2)
		emit_mov(b, true, X86_RCX, T0);
	if (not_taken)
		fix_short(b, not_taken);
}

static void translate_jmp_indirect(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	struct bt_buf *b = &t->hot;

	if (insn->has_mem) {
		struct access a = { .ea = bt_insn_ea(t),
				    .size = insn->opsize,
				    .kind = X86_MEM_R,
				    .site_flags = BT_SITE_MID };
		struct bt_buf *bufs[2] = { &t->hot, &t->cold };

		bt_access_begin(t, &a);
		for (unsigned i = 0; i < 2; i++) {
			const struct host_mem *m = i ? &bt_cold_mem : &a.m;

			if (insn->opsize == 2) {
				emit_rex_mem(bufs[i], false, T0, m);
				emit8(bufs[i], 0x0f);
				emit8(bufs[i], 0xb7);
				emit_modrm_mem(bufs[i], T0, m, false);
			} else {
				emit_op_mem(bufs[i], insn->opsize == 8, 0x8b, T0, m);
			}
		}
		bt_access_end(t, &a);
	} else {
		unsigned reg = (insn->modrm & 7) | (insn->rex & 1) << 3;

		if (is_slot_reg((int)reg))
			emit_load_gs(b, true, T0, GS_GPR((int)reg));
		else
			emit_mov(b, true, T0, reg);
	}
	bt_emit_exit_indirect(t, b, insn->opsize, 0);
	t->ended = true;
}

void bt_translate_branch(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	int32_t target = (int32_t)(t->next + insn->imm);

	switch (insn->op) {
	case X86_OP_JMP_REL:
		bt_emit_exit_direct(t, &t->hot, target, insn->opsize);
		t->ended = true;
		break;
	case X86_OP_JMP_IND:
		translate_jmp_indirect(t);
		break;
	case X86_OP_JCC:
		bt_flags_to_host(t, T0);
		emit_conditional(t, insn->opcode & 15, target, insn->opsize);
		break;
	default: /* loop, jcxz */
		translate_loop(t);
		break;
	}
}
