/* SPDX-License-Identifier: MIT */
/*
 * Coalescing: one TLB check for a run of instructions whose memory accesses are all relative to the same
 * register, as in function prologues and epilogues and in code that reads several members of an object.
 *
 * The check covers the whole span [base + low, base + high); the addend is kept in a slot and each access is the
 * guest's instruction on [base + addend + disp]. If the check fails (miss, or the span crosses a
 * page), control goes to a second copy of the run with a check for each access, which is exact.
 *
 * A group contains nothing that could call the runtime, so between its check and its last access no page can
 * become a code page or change its mapping under it (see bt_stop_running in the runtime).
 */
#include "engine/bt/translate.h"

#define GROUP_SPAN_MAX 1024
#define GROUP_LENGTH_MAX 24
#define GROUP_SLOT GS_OFF(scratch[6])

static bool is_push_pop_reg(const struct x86_insn *insn)
{
	if (insn->op == X86_OP_POP && (insn->gpr_write >> X86_RSP & 1) &&
	    (insn->opcode & 7) == X86_RSP && !(insn->rex & 1))
		return false; /* pop rsp */
	return (insn->op == X86_OP_PUSH || insn->op == X86_OP_POP) && !insn->has_mem &&
	       insn->opsize == 8;
}

/* Bytes by which the instruction moves RSP if that is a constant; false if it does not move it so. */
static bool stack_delta(const struct x86_insn *insn, int32_t *delta)
{
	*delta = 0;
	if (is_push_pop_reg(insn)) {
		*delta = insn->op == X86_OP_PUSH ? -8 : 8;
		return true;
	}
	if (insn->op == X86_OP_LEA && insn->opsize == 8 && insn->addrsize == 8 &&
	    insn->base == X86_RSP && insn->index == NO_REG && insn->gpr_write == 1u << X86_RSP) {
		*delta = insn->disp;
		return true;
	}
	/* add/sub rsp, imm */
	if (insn->op_class == X86_CLASS_COPY && insn->map == X86_MAP_1BYTE &&
	    (insn->opcode == 0x81 || insn->opcode == 0x83) && insn->encoding == X86_ENC_LEGACY &&
	    insn->opsize == 8 && insn->modrm >= 0xc0 && (insn->modrm & 7) == X86_RSP &&
	    !(insn->rex & 1) && insn->imm == (int32_t)insn->imm) {
		unsigned digit = insn->modrm >> 3 & 7;

		if (digit == 0 || digit == 5) {
			*delta = digit == 0 ? (int32_t)insn->imm : -(int32_t)insn->imm;
			return true;
		}
	}
	return false;
}

/* Describe the instruction's access relative to a register: base, displacement, size, kind. False: it has none such. */
static bool plain_access(const struct x86_insn *insn, int8_t *base, int32_t *disp, uint16_t *size,
			 uint8_t *kind)
{
	if (is_push_pop_reg(insn)) {
		*base = X86_RSP;
		*disp = insn->op == X86_OP_PUSH ? -8 : 0;
		*size = 8;
		*kind = insn->op == X86_OP_PUSH ? X86_MEM_W : X86_MEM_R;
		return true;
	}
	if (insn->op == X86_OP_RET && insn->opsize == 8) {
		*base = X86_RSP;
		*disp = 0;
		*size = 8;
		*kind = X86_MEM_R;
		return true;
	}
	if (insn->op_class != X86_CLASS_COPY || !insn->has_mem || !insn->mem_access ||
	    insn->op == X86_OP_BT_MEM_REG || insn->op == X86_OP_MASKED ||
	    insn->op == X86_OP_MOV_MOFFS || insn->op == X86_OP_CLFLUSH)
		return false;
	if (insn->base == NO_REG || insn->index != NO_REG || insn->rip_relative ||
	    insn->addrsize != 8 || insn->seg >= X86_FS || is_slot_reg(insn->base) ||
	    insn->mem_size > 64 || (insn->prefixes & X86_PFX_LOCK))
		return false;
	*base = insn->base;
	*disp = insn->disp;
	*size = insn->mem_size;
	*kind = insn->mem_access;
	return true;
}

/* Ordinary register-to-register work that emits no cold code. */
static bool is_silent(const struct x86_insn *insn)
{
	if (insn->op_class != X86_CLASS_COPY || (insn->has_mem && insn->mem_access))
		return false;
	switch (insn->op) {
	case X86_OP_BCD:
	case X86_OP_XLAT:
	case X86_OP_RDPID:
	case X86_OP_CLFLUSH:
		return false;
	default:
		return true;
	}
}

bool bt_group_find(const struct translator *t, const struct decoded *d, unsigned first,
		   unsigned count, struct group *g)
{
	unsigned accesses = 0, last = first, end = MIN(count, first + GROUP_LENGTH_MAX);
	int32_t moved = 0; /* of RSP since the start */
	int8_t base;
	uint16_t size;
	uint8_t kind;
	int32_t disp;

	if (t->request->options->no_groups)
		return false;
	if (!t->long_mode ||
	    (t->mode & (BT_MODE_STEP | BT_MODE_ONE | BT_MODE_ALIGN | BT_MODE_DEBUG)) ||
	    (t->block->flags & BT_BLOCK_CROSS))
		return false;
	if (!plain_access(&d[first].insn, &g->base, &disp, &size, &kind))
		return false;
	*g = (struct group){ .first = first, .base = g->base, .low = disp, .high = disp + size };

	for (unsigned i = first; i < end; i++) {
		const struct x86_insn *insn = &d[i].insn;
		bool access = plain_access(insn, &base, &disp, &size, &kind);
		int32_t delta;
		bool moves = stack_delta(insn, &delta);

		if (bt_unit_disabled(t, insn))
			break;
		if (access) {
			int32_t low, high;

			if (base != g->base || disp > GROUP_SPAN_MAX * 64 ||
			    disp < -GROUP_SPAN_MAX * 64)
				break;
			disp += moved;
			low = MIN(g->low, disp);
			high = MAX(g->high, disp + size);
			if (high - low > GROUP_SPAN_MAX)
				break;
			g->low = low;
			g->high = high;
			g->write |= (kind & X86_MEM_W) != 0;
			accesses++;
			last = i;
			if (insn->op == X86_OP_RET)
				break;
		} else if (!is_silent(insn)) {
			break;
		}
		if (moves && g->base == X86_RSP) {
			moved += delta;
			if (moved > GROUP_SPAN_MAX * 64 || moved < -GROUP_SPAN_MAX * 64)
				break;
		} else if (insn->gpr_write >> g->base & 1) {
			break;
		}
	}
	g->count = last - first + 1;
	return accesses >= 2;
}

void bt_group_check(struct translator *t, struct group *g)
{
	struct bt_buf *b = &t->hot;
	int32_t tables = (int32_t)BT_OFF_TABLES(t->cls);

	bt_flags_clobber(t, T0);
	emit_lea_disp(b, false, T1, g->base, g->low);
	emit_lea_disp(b, true, T0, g->base, g->high - 1);
	emit_shift_imm(b, false, 5, T1, PAGE_SHIFT);
	emit_movzx16(b, T1, T1);
	emit_alu_imm(b, true, 4, T0, -(int32_t)PAGE_SIZE);
	emit_op_gs_index8(b, true, 0x3b, T0, T1,
			  tables + (int32_t)(g->write ? offsetof(struct bt_tables, tag_write) :
							offsetof(struct bt_tables, tag_read)));
	g->miss = emit_jcc(b, 5, b->p);
	emit_op_gs_index8(b, true, 0x8b, T1, T1,
			  tables + (int32_t)offsetof(struct bt_tables, addend));
	emit_store_gs(b, true, T1, GROUP_SLOT);
	g->flags_start = t->flags;
	t->addend_in_t1 = true;
}

void bt_group_access(struct translator *t, struct access *a)
{
	static _Thread_local uint8_t junk[512]; /* the cold copy of the operation has no use here */

	if (!t->addend_in_t1)
		emit_load_gs(&t->hot, true, T1, GROUP_SLOT);
	t->addend_in_t1 = true;
	a->m = (struct host_mem){ .base = a->ea.base, .index = T1, .disp = a->ea.disp };
	t->saved_cold = t->cold.p;
	t->cold.p = junk;
}
