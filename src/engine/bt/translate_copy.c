/* SPDX-License-Identifier: MIT */
/*
 * Ordinary instructions: the host executes the guest's own instruction. What changes is the memory
 * operand (translate_memory.c), the names of guest r10 and r11 (whose values live in cpu->state and are
 * loaded around the instruction), and encodings that 64-bit code does not have.
 */
#include "engine/bt/translate.h"

void bt_note_fault(struct translator *t, struct bt_buf *b, int spill)
{
	const struct x86_insn *insn = t->insn;

	if (insn->unit == X86_UNIT_INT && insn->isa == X86_ISA_BASE && insn->op != X86_OP_DIV &&
	    insn->op != X86_OP_IDIV && insn->align <= 1)
		return;
	if (b->cold && t->group) /* thrown away */
		return;
	bt_cache_note_fault(t->cache, b->cold, (uint32_t)(b->p - t->cache->rw), t->offset,
			    spill == NO_REG ? 0xff : (uint8_t)spill);
}

static unsigned host_reg(unsigned reg, const uint8_t map[2])
{
	return is_slot_reg((int)reg) ? map[reg - X86_R10] : reg;
}

/* Operand-size prefix in 64-bit host code for the guest's instruction. */
static bool wants_66(const struct translator *t)
{
	const struct x86_insn *insn = t->insn;

	if (insn->mandatory == 0x66)
		return true;
	if (t->bits == X86_CODE16 && insn->unit == X86_UNIT_INT)
		return !(insn->prefixes & X86_PFX_66);
	return insn->prefixes & X86_PFX_66;
}

static void emit_immediates(struct translator *t, struct bt_buf *b)
{
	const struct x86_insn *insn = t->insn;

	emit_bytes(b, t->code + insn->imm_offset, insn->imm_size + insn->imm2_size);
	/* blendv: the immediate names a register, of which there are eight outside 64-bit mode */
	if (!t->long_mode && insn->encoding == X86_ENC_VEX && insn->map == X86_MAP_0F3A &&
	    insn->opcode >= 0x4a && insn->opcode <= 0x4c)
		b->p[-1] &= 0x7f;
}

static void emit_legacy(struct translator *t, struct bt_buf *b, const struct host_mem *m,
			const uint8_t map[2])
{
	const struct x86_insn *insn = t->insn;
	unsigned reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
	unsigned rm = (insn->modrm & 7) | (insn->rex & 1) << 3;
	unsigned in_opcode = (insn->opcode & 7) | (insn->rex & 1) << 3;
	uint8_t opcode = insn->opcode, rex;
	bool has_modrm = insn->has_modrm, immediates = true;

	if (insn->op == X86_OP_MOV_MOFFS) { /* a0-a3: mov with ModRM, accumulator */
		opcode = (uint8_t)(opcode < 0xa2 ? 0x8a | (opcode & 1) : 0x88 | (opcode & 1));
		has_modrm = true;
		immediates = false;
		reg = X86_RAX;
	} else if (insn->op == X86_OP_INCDEC_SHORT) { /* 40-4f: inc/dec r */
		has_modrm = true;
		reg = opcode >= 0x48;
		rm = opcode & 7;
		opcode = 0xff;
	} else if (insn->map == X86_MAP_1BYTE && opcode == 0x82) {
		opcode = 0x80;
	}
	if (insn->reg_is_gpr)
		reg = host_reg(reg, map);
	if (insn->rm_is_gpr)
		rm = host_reg(rm, map);
	if (insn->opc_is_gpr && insn->op != X86_OP_INCDEC_SHORT) {
		in_opcode = host_reg(in_opcode, map);
		opcode = (uint8_t)((opcode & ~7) | (in_opcode & 7));
	}

	if (insn->prefixes & X86_PFX_LOCK)
		emit8(b, 0xf0);
	if (wants_66(t))
		emit8(b, 0x66);
	if (insn->mandatory == 0xf2 || insn->mandatory == 0xf3)
		emit8(b, insn->mandatory);

	rex = (uint8_t)((insn->rex & 8) | (reg >> 3) << 2);
	if (m)
		rex |= (uint8_t)((m->index != NO_REG && m->index >= 8) << 1 |
				 (m->base != NO_REG && m->base >= 8));
	else if (insn->opc_is_gpr && insn->op != X86_OP_INCDEC_SHORT)
		rex |= (uint8_t)(in_opcode >> 3);
	else if (has_modrm)
		rex |= (uint8_t)(rm >> 3);
	if (rex || insn->rex)
		emit8(b, 0x40 | rex);

	if (insn->map != X86_MAP_1BYTE)
		emit8(b, 0x0f);
	if (insn->map == X86_MAP_0F38)
		emit8(b, 0x38);
	else if (insn->map == X86_MAP_0F3A)
		emit8(b, 0x3a);
	else if (insn->map == X86_MAP_3DNOW)
		emit8(b, 0x0f);
	if (insn->map != X86_MAP_3DNOW)
		emit8(b, opcode);
	if (m)
		emit_modrm_mem(b, reg, m, false);
	else if (has_modrm)
		emit8(b, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
	if (immediates)
		emit_immediates(t, b);
	if (insn->map == X86_MAP_3DNOW)
		emit8(b, opcode);
}

/* The register bits of a VEX or EVEX prefix after host_reg(): R, X, B as in REX. */
static void vex_registers(struct translator *t, const struct host_mem *m, const uint8_t map[2],
			  unsigned *reg, unsigned *rm, bool *x, bool *b)
{
	const struct x86_insn *insn = t->insn;

	*reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
	*rm = (insn->modrm & 7) | (insn->rex & 1) << 3;
	*x = insn->rex & 2;
	if (insn->reg_is_gpr)
		*reg = host_reg(*reg, map);
	if (insn->rm_is_gpr)
		*rm = host_reg(*rm, map);
	*b = *rm >> 3;
	if (m) {
		*x = m->index != NO_REG && m->index >= 8;
		*b = m->base != NO_REG && m->base >= 8;
	}
}

static void emit_vex(struct translator *t, struct bt_buf *b, const struct host_mem *m,
		     const uint8_t map[2])
{
	const struct x86_insn *insn = t->insn;
	const uint8_t *op = t->code + insn->opcode_offset;
	bool vex2 = op[-2] == 0xc5, x, bb;
	uint8_t payload = vex2 ? op[-1] & 0x7f : op[-1]; /* W vvvv L pp */
	unsigned reg, rm;

	vex_registers(t, m, map, &reg, &rm, &x, &bb);
	if (!t->long_mode) /* the top bit of vvvv and W of general registers are ignored */
		payload = (uint8_t)((payload & 0x7f) | 0x40 | (insn->rex & 8) << 4);
	/* VPCMPESTRI/M: here W would make the lengths 64 bits wide */
	if (!t->long_mode && insn->map == X86_MAP_0F3A && (insn->opcode | 1) == 0x61)
		payload &= 0x7f;
	if (insn->vvvv_is_gpr) {
		unsigned v = host_reg(~(payload >> 3) & 15u, map);

		payload = (uint8_t)((payload & 0x87) | (~v & 15u) << 3);
	}
	emit8(b, 0xc4);
	emit8(b, (uint8_t)((reg < 8) << 7 | !x << 6 | !bb << 5 | insn->map));
	emit8(b, payload);
	emit8(b, insn->opcode);
	if (m)
		emit_modrm_mem(b, reg, m, false);
	else if (insn->has_modrm)
		emit8(b, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
	emit_immediates(t, b);
}

static void emit_evex(struct translator *t, struct bt_buf *b, const struct host_mem *m,
		      const uint8_t map[2])
{
	const struct x86_insn *insn = t->insn;
	const uint8_t *op = t->code + insn->opcode_offset;
	uint8_t p0 = op[-3], p1 = op[-2], p2 = op[-1];
	unsigned reg, rm;
	bool x, bb;

	vex_registers(t, m, map, &reg, &rm, &x, &bb);
	/* outside 64-bit mode the register bits are ignored: make them "not extended" */
	p0 = (uint8_t)((p0 & 0x1f) | (reg < 8) << 7 | !x << 6 | !bb << 5);
	if (!t->long_mode) {
		p0 |= 0x10;
		p1 = (uint8_t)((p1 & 0x7f) | 0x40 | (insn->rex & 8) << 4);
		p2 |= 0x08;
	}
	if (insn->vvvv_is_gpr) {
		unsigned v = host_reg(~(p1 >> 3) & 15u, map);

		p1 = (uint8_t)((p1 & 0x87) | (~v & 15u) << 3);
	}
	emit8(b, 0x62);
	emit8(b, p0);
	emit8(b, p1);
	emit8(b, p2);
	emit8(b, insn->opcode);
	if (m)
		emit_modrm_mem(b, reg, m, true);
	else if (insn->has_modrm)
		emit8(b, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
	emit_immediates(t, b);
}

void bt_emit_copied(struct translator *t, struct bt_buf *b, const struct host_mem *m,
		    const uint8_t map[2])
{
	switch (t->insn->encoding) {
	case X86_ENC_VEX:
		emit_vex(t, b, m, map);
		break;
	case X86_ENC_EVEX:
		emit_evex(t, b, m, map);
		break;
	default:
		emit_legacy(t, b, m, map);
		break;
	}
}

/* A register the instruction does not touch, usable without REX and without SIB. */
static uint8_t pick_spill(const struct x86_insn *insn)
{
	static const uint8_t candidates[] = { X86_RSI, X86_RDI, X86_RBX, X86_RBP, X86_RDX, X86_RCX };
	uint16_t used = insn->gpr_read | insn->gpr_write | insn->gpr_addr;

	if (insn->high_byte) /* AH..BH name RAX..RBX whatever the masks say */
		used |= 0x0f;
	for (unsigned i = 0; i < ARRAY_SIZE(candidates); i++)
		if (!(used >> candidates[i] & 1))
			return candidates[i];
	return X86_RSI;
}

static const uint8_t identity_map[2] = { X86_R10, X86_R11 };

/* vzeroupper and vzeroall outside 64-bit mode leave registers 8-31 alone: done register by register. */
static void translate_vzero(struct translator *t)
{
	struct bt_buf *b = &t->hot;

	for (unsigned i = 0; i < 8; i++) {
		uint8_t modrm = (uint8_t)(0xc0 | i << 3 | i);

		if (t->insn->vl == 32) /* vpxor xmm, xmm, xmm */
			emit_bytes(b,
				   (const uint8_t[]){ 0xc5, (uint8_t)(0x81 | (~i & 15) << 3), 0xef,
						      modrm },
				   4);
		else /* vmovdqa xmm, xmm: clears all above bit 127 */
			emit_bytes(b, (const uint8_t[]){ 0xc5, 0xf9, 0x6f, modrm }, 4);
	}
}

/* VPINSRD/VPEXTRD with W = 1 outside 64-bit mode: AMD's processors raise #UD, Intel's ignore W (SDM vol. 2, VPINSRQ). */
static bool undefined_w(const struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	const uint8_t *op = t->code + insn->opcode_offset;

	if (t->long_mode || insn->map != X86_MAP_0F3A ||
	    (insn->opcode != 0x16 && insn->opcode != 0x22) ||
	    !bt_system(t->request->cpu)->features.is_amd)
		return false;
	return insn->encoding == X86_ENC_VEX && op[-2] != 0xc5 &&
	       op[-1] & 0x80; /* EVEX.W is ignored by both */
}

static void translate_register_form(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	struct bt_buf *b = &t->hot;
	bool raw;

	if (!t->long_mode && insn->encoding == X86_ENC_VEX && insn->map == X86_MAP_0F &&
	    insn->opcode == 0x77) {
		translate_vzero(t);
		return;
	}

	bt_flags_before_insn(t, NO_REG);
	for (unsigned r = X86_R10; r <= X86_R11; r++)
		if (insn->gpr_read >> r & 1)
			emit_load_gs(b, true, r, GS_GPR((int)r));
	if ((insn->gpr_read | insn->gpr_write) >> X86_R11 & 1)
		t->addend_in_t1 = false;
	bt_note_fault(t, b, NO_REG);
	raw = t->long_mode &&
	      !(insn->prefixes & (X86_PFX_SEG | X86_PFX_67 | X86_PFX_F2 | X86_PFX_F3));
	if (raw)
		emit_bytes(b, t->code, insn->length);
	else
		bt_emit_copied(t, b, NULL, identity_map);
	for (unsigned r = X86_R10; r <= X86_R11; r++)
		if (insn->gpr_write >> r & 1)
			emit_store_gs(b, true, r, GS_GPR((int)r));
	bt_flags_after_insn(t);
}

/* One copy of a memory instruction with up to two slot registers and perhaps a spilled one. addr: operand;
 * if it must not need REX, or T registers are short, spill is a free register. */
static void emit_memory_copy(struct translator *t, struct bt_buf *b, struct host_mem m,
			     uint8_t data, bool two, bool high, uint8_t spill)
{
	const struct x86_insn *insn = t->insn;
	uint8_t map[2] = { data, data };
	int noted = NO_REG;

	if (two) {
		map[1] = spill;
		emit_store_gs(b, true, spill, GS_OFF(spill));
		emit_load_gs(b, true, spill, GS_GPR(X86_R11));
		emit_load_gs(b, true, data, GS_GPR(X86_R10));
		noted = spill;
	} else if (high) {
		emit_lea(b, true, data, &m);
		emit_store_gs(b, true, spill, GS_OFF(spill));
		emit_mov(b, true, spill, data);
		m = (struct host_mem){ .base = (int8_t)spill, .index = NO_REG };
		noted = spill;
	} else {
		for (unsigned r = X86_R10; r <= X86_R11; r++)
			if (insn->gpr_read >> r & 1)
				emit_load_gs(b, true, data, GS_GPR((int)r));
	}
	bt_note_fault(t, b, noted);
	bt_emit_copied(t, b, &m, map);
	for (unsigned r = X86_R10; r <= X86_R11; r++)
		if (insn->gpr_write >> r & 1)
			emit_store_gs(b, true, map[r - X86_R10], GS_GPR((int)r));
	if (noted != NO_REG)
		emit_load_gs(b, true, (unsigned)noted, GS_OFF(spill));
}

static void translate_memory_form(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	uint16_t slots = (insn->gpr_read | insn->gpr_write) & (1u << X86_R10 | 1u << X86_R11);
	bool two = slots == (1u << X86_R10 | 1u << X86_R11), high = insn->high_byte;
	uint8_t spill = pick_spill(insn);
	struct access a = {
		.ea = bt_insn_ea(t),
		.size = insn->mem_size,
		.kind = insn->mem_access,
		.need_t0 = slots || high,
	};

	if (insn->op == X86_OP_MASKED)
		a.site_flags |= BT_SITE_MASKED;
	if ((insn->prefixes & X86_PFX_LOCK) || insn->op == X86_OP_XCHG)
		a.site_flags |= BT_SITE_LOCK;
	if (insn->align > 1)
		a.site_flags |= BT_SITE_EXPLICIT_ALIGN;
	if (insn->op == X86_OP_CLFLUSH) {
		a.kind = X86_MEM_R;
		a.size = 1;
	}
	bt_access_begin(t, &a);
	bt_flags_before_insn(t, NO_REG);
	emit_memory_copy(t, &t->hot, a.m, T0, two, high, spill);
	emit_memory_copy(t, &t->cold, bt_cold_mem, T1, two, high, spill);
	bt_access_end(t, &a);
	bt_flags_after_insn(t);
}

/* lea: address arithmetic only; no segment. */
static void translate_lea(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned dst = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
	struct guest_ea ea = bt_insn_ea(t);
	struct bt_buf *b = &t->hot;
	bool simple = t->long_mode && !ea.rip_relative && ea.addrsize == 8 &&
		      !is_slot_reg(ea.base) && !is_slot_reg(ea.index) && !is_slot_reg((int)dst) &&
		      !(insn->prefixes & X86_PFX_SEG);

	if (simple) {
		emit_bytes(b, t->code, insn->length);
		return;
	}
	t->addend_in_t1 = false;
	if (!is_slot_reg((int)dst) && insn->opsize >= 4 && !is_slot_reg(ea.base) &&
	    !is_slot_reg(ea.index) && (ea.addrsize != 2)) {
		bt_emit_ea(t, b, &ea, dst, T1, false);
		if (insn->opsize == 4 && ea.addrsize == 8)
			emit_mov(b, false, dst, dst);
		return;
	}
	bt_emit_ea(t, b, &ea, T0, T1, false);
	if (is_slot_reg((int)dst)) {
		if (insn->opsize == 2) {
			emit8(b, 0x66);
			emit_store_gs(b, false, T0, GS_GPR((int)dst));
		} else {
			if (insn->opsize == 4)
				emit_mov(b, false, T0, T0);
			emit_store_gs(b, true, T0, GS_GPR((int)dst));
		}
	} else if (insn->opsize == 2) {
		emit_mov16(b, dst, T0);
	} else {
		emit_mov(b, insn->opsize == 8, dst, T0);
	}
}

/*
 * bt/bts/btr/btc m, r: the register's upper bits move the address by whole operands (SDM vol. 2, BT).
 * The moved address goes to scratch[2], the bit number within the operand to scratch[4]; then it is an
 * ordinary access at a computed address.
 */
static void translate_bit_memory(struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	unsigned reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
	unsigned size = insn->opsize;
	struct guest_ea ea = bt_insn_ea(t);
	struct bt_buf *b = &t->hot;
	struct access a = {
		.size = (uint16_t)size,
		.kind = insn->mem_access,
		.need_t0 = true,
		.site_flags = (uint8_t)(((insn->prefixes & X86_PFX_LOCK) ? BT_SITE_LOCK : 0) |
					(ea.seg == X86_SS ? BT_SITE_STACK : 0)),
	};
	const uint8_t hot_map[2] = { T0, T0 }, cold_map[2] = { T1, T1 };

	if (!t->long_mode ||
	    ea.addrsize != 8) { /* offsets wrap at the address size: leave it to the helper */
		bt_emit_helper(t, bt_help_bt_memory, true);
		return;
	}
	bt_flags_clobber(t, T0);
	if (is_slot_reg((int)reg))
		emit_load_gs(b, true, T0, GS_GPR((int)reg));
	else
		emit_mov(b, true, T0, reg);
	if (size == 4) { /* movsxd r10, r10d */
		emit_bytes(b, (const uint8_t[]){ 0x4d, 0x63, 0xd2 }, 3);
	} else if (size == 2) { /* movsx r10, r10w */
		emit_bytes(b, (const uint8_t[]){ 0x4d, 0x0f, 0xbf, 0xd2 }, 4);
	}
	emit_mov(b, false, T1, T0);
	emit_alu_imm(b, false, 4, T1, (int32_t)(size * 8 - 1));
	emit_store_gs(b, true, T1, GS_OFF(scratch[4]));
	emit_shift_imm(b, true, 7, T0, 3);
	emit_alu_imm(b, true, 4, T0, -(int32_t)size);
	emit_store_gs(b, true, T0, GS_OFF(scratch[3]));
	bt_emit_ea(t, b, &ea, T0, T1, true);
	emit_op_gs(b, true, 0x03, T0, GS_OFF(scratch[3])); /* add */
	emit_store_gs(b, true, T0, GS_OFF(scratch[2]));
	a.ea = (struct guest_ea){ .base = NO_REG,
				  .index = NO_REG,
				  .seg = X86_DS,
				  .addrsize = 8,
				  .slot = GS_OFF(scratch[2]) };
	bt_access_begin(t, &a);

	/* The register operand is a scratch register: rename by forging the instruction's reg field. */
	{
		struct x86_insn forged = *insn;
		const struct x86_insn *saved = t->insn;

		forged.modrm = (uint8_t)((forged.modrm & 0xc7) | (X86_R10 & 7) << 3);
		forged.rex = (uint8_t)((forged.rex & ~0x04) | 0x44);
		forged.reg_is_gpr = 1;
		bt_flags_before_insn(t, NO_REG);
		emit_load_gs(&t->hot, true, T0, GS_OFF(scratch[4]));
		t->insn = &forged;
		bt_emit_copied(t, &t->hot, &a.m, hot_map);
		emit_load_gs(&t->cold, true, T1, GS_OFF(scratch[4]));
		bt_emit_copied(t, &t->cold, &bt_cold_mem, cold_map);
		t->insn = saved;
	}
	bt_access_end(t, &a);
	bt_flags_after_insn(t);
}

void bt_translate_copy(struct translator *t)
{
	const struct x86_insn *insn = t->insn;

	switch (insn->op) {
	case X86_OP_NOP:
	case X86_OP_PREFETCH:
		return;
	case X86_OP_LEA:
		translate_lea(t);
		return;
	case X86_OP_BCD:
		bt_emit_helper(t, bt_help_bcd, false);
		return;
	case X86_OP_XLAT:
		bt_emit_helper(t, bt_helpers[X86_OP_XLAT], false);
		return;
	case X86_OP_RDPID:
		bt_emit_helper(t, bt_helpers[X86_OP_RDPID], false);
		return;
	case X86_OP_BT_MEM_REG:
		if (insn->has_mem) {
			translate_bit_memory(t);
			return;
		}
		break;
	default:
		break;
	}
	if (undefined_w(t)) {
		bt_emit_helper(t, bt_help_undefined, false);
		t->ended = true;
	} else if (insn->has_mem && insn->mem_access)
		translate_memory_form(t);
	else if (!insn->has_mem)
		translate_register_form(t);
	else if (insn->op == X86_OP_CLFLUSH)
		translate_memory_form(t);
	/* else: an address only, with no effect (hint instructions) */
}
