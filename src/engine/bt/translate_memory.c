/* SPDX-License-Identifier: MIT */
/*
 * Memory accesses of translated code.
 *
 * Every access is checked against the software TLB inline and then done by the host's own
 * instruction at guest address + addend:
 *
 *     lea  r11d, [EA];  shr r11d, 12;  movzx r11d, r11w    index: linear bits 12-27 of the first byte
 *     lea  r10, [EA + size - 1];  and r10, -4096           tag: page of the last byte. Where that is
 *     cmp  r10, gs:[r11*8 + tag];  jne cold                another page, it cannot be at this index
 *     mov  r11, gs:[r11*8 + addend]
 *     op   [EA + r11]
 *
 * The compare needs EFLAGS. Where the guest's flags are live, they are first put into cpu->flags_slot
 * and stay there until an instruction wants them in EFLAGS or the block is left (enum flags_place).
 *
 * The cold part rebuilds the exact guest state, calls the runtime and has a second copy of the
 * operation, on whatever host address the runtime gives (bounce buffer or RAM).
 */
#include "engine/bt/translate.h"

#define QUIET_SLOT GS_OFF(scratch[5]) /* RCX during a check that leaves EFLAGS alone */

const struct host_mem bt_cold_mem = { .base = T0, .index = NO_REG };

#define TAG_OFF(cls, write)                                                                        \
	((int32_t)(BT_OFF_TABLES(cls) + ((write) ? offsetof(struct bt_tables, tag_write) :         \
						   offsetof(struct bt_tables, tag_read))))
#define ADDEND_OFF(cls) ((int32_t)(BT_OFF_TABLES(cls) + offsetof(struct bt_tables, addend)))

static int32_t seg_base_off(unsigned seg)
{
	return (int32_t)(offsetof(struct bt_cpu, state.seg) + seg * sizeof(struct x86_segment) +
			 offsetof(struct x86_segment, base));
}

static int32_t seg_end_off(unsigned seg, bool write)
{
	return (int32_t)(offsetof(struct bt_cpu, seg_end) +
			 ((write ? 6 : 0) + seg) * sizeof(uint64_t));
}

/* Must accesses through this segment be checked against its limit and relocated by its base? */
static bool needs_segment(const struct translator *t, unsigned seg)
{
	if (t->long_mode)
		return false;
	if (seg == X86_DS || seg == X86_ES || seg == X86_SS)
		return !(t->mode & BT_MODE_FLAT_DATA);
	return true;
}

static bool has_long_base(const struct translator *t, const struct guest_ea *ea)
{
	return t->long_mode && !ea->slot && (ea->seg == X86_FS || ea->seg == X86_GS);
}

struct guest_ea bt_insn_ea(const struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	struct guest_ea ea = {
		.base = insn->base,
		.index = insn->index,
		.scale = insn->scale,
		.seg = insn->seg,
		.addrsize = insn->addrsize,
		.rip_relative = insn->rip_relative,
		.disp = insn->disp,
	};

	if (insn->op == X86_OP_MOV_MOFFS) {
		ea.absolute = true;
		ea.base = ea.index = NO_REG;
		ea.disp = 0;
		ea.address = (uint64_t)insn->imm;
		if (insn->addrsize == 4)
			ea.address = (uint32_t)ea.address;
		else if (insn->addrsize == 2)
			ea.address = (uint16_t)ea.address;
	}
	return ea;
}

struct guest_ea bt_stack_ea(const struct translator *t, int32_t disp)
{
	return (struct guest_ea){
		.base = X86_RSP,
		.index = NO_REG,
		.seg = X86_SS,
		.addrsize = t->long_mode           ? 8 :
			    t->mode & BT_MODE_SS32 ? 4 :
						     2,
		.disp = disp,
	};
}

void bt_emit_ea(struct translator *t, struct bt_buf *b, const struct guest_ea *ea, unsigned dst,
		unsigned tmp, bool linear)
{
	bool wide = ea->addrsize == 8;

	if (ea->slot) {
		emit_load_gs(b, true, dst, ea->slot);
	} else if (ea->absolute) {
		emit_mov_imm(b, dst, ea->address);
	} else if (ea->rip_relative) {
		int32_t disp;

		emit_load_gs(b, true, dst, GS_OFF(pc_base));
		if (__builtin_add_overflow(t->next, ea->disp, &disp)) {
			emit_lea_disp(b, true, dst, dst, t->next);
			disp = ea->disp;
		}
		emit_lea_disp(b, wide, dst, dst, disp);
	} else {
		struct host_mem m = {
			.base = ea->base, .index = ea->index, .scale = ea->scale, .disp = ea->disp
		};

		if (is_slot_reg(ea->base)) {
			emit_load_gs(b, true, dst, GS_GPR(ea->base));
			m.base = (int8_t)dst;
		}
		if (is_slot_reg(ea->index)) {
			emit_load_gs(b, true, tmp, GS_GPR(ea->index));
			m.index = (int8_t)tmp;
		}
		if (m.base == NO_REG && m.index == NO_REG)
			emit_mov_imm(b, dst, wide ? (uint64_t)(int64_t)m.disp : (uint32_t)m.disp);
		else
			emit_lea(b, wide, dst, &m);
	}
	if (ea->addrsize == 2)
		emit_movzx16(b, dst, dst);
	if (linear && has_long_base(t, ea)) {
		emit_load_gs(b, true, tmp, seg_base_off(ea->seg));
		emit_lea(b, true, dst,
			 &(struct host_mem){ .base = (int8_t)dst, .index = (int8_t)tmp });
	}
}

/* ---- flags ---- */

void bt_flags_save(struct bt_buf *b, unsigned tmp)
{
	emit_mov(b, true, tmp, X86_RAX);
	emit8(b, 0x9f);                                          /* lahf */
	emit_bytes(b, (const uint8_t[]){ 0x0f, 0x90, 0xc0 }, 3); /* seto al */
	emit8(b, 0x66);
	emit_store_gs(b, false, X86_RAX, GS_OFF(flags_slot));
	emit_mov(b, true, X86_RAX, tmp);
}

void bt_flags_restore(struct bt_buf *b, int tmp)
{
	if (tmp == NO_REG)
		emit_store_gs(b, true, X86_RAX, GS_OFF(scratch[7]));
	else
		emit_mov(b, true, (unsigned)tmp, X86_RAX);
	emit8(b, 0x66);
	emit_load_gs(b, false, X86_RAX, GS_OFF(flags_slot)); /* mov ax, slot */
	emit_bytes(b, (const uint8_t[]){ 0x04, 0x7f }, 2);   /* add al, 0x7f: OF */
	emit8(b, 0x9e);                                      /* sahf */
	if (tmp == NO_REG)
		emit_load_gs(b, true, X86_RAX, GS_OFF(scratch[7]));
	else
		emit_mov(b, true, X86_RAX, (unsigned)tmp);
}

void bt_flags_to_host(struct translator *t, int tmp)
{
	if (t->flags == FLAGS_SLOT) {
		bt_flags_restore(&t->hot, tmp);
		t->flags = FLAGS_BOTH;
	}
}

void bt_flags_clobber(struct translator *t, unsigned tmp)
{
	if (t->flags == FLAGS_HOST && (t->live_before & X86_FLAGS_ARITH))
		bt_flags_save(&t->hot, tmp);
	if (t->flags == FLAGS_DEAD || !(t->live_before & X86_FLAGS_ARITH))
		t->flags = FLAGS_DEAD;
	else
		t->flags = FLAGS_SLOT;
}

/* Does the current instruction have to find the guest's flags in EFLAGS? */
static bool wants_flags(const struct translator *t)
{
	const struct x86_insn *insn = t->insn;
	uint16_t touched = (insn->flags_write | insn->flags_maybe) & X86_FLAGS_ARITH;
	bool reads = insn->flags_read & X86_FLAGS_ARITH;
	bool partial = touched && (t->live_after & X86_FLAGS_ARITH & ~insn->flags_write);

	return reads || partial;
}

void bt_flags_before_insn(struct translator *t, int tmp)
{
	if (wants_flags(t))
		bt_flags_to_host(t, tmp);
}

void bt_flags_after_insn(struct translator *t)
{
	if ((t->insn->flags_write | t->insn->flags_maybe) & X86_FLAGS_ARITH)
		t->flags = FLAGS_HOST;
}

/* ---- accesses ---- */

static void emit_check(struct translator *t, const struct access *a, uint8_t **miss)
{
	/* T1: linear address (low 32 bits suffice), T0: linear address of the last byte */
	struct bt_buf *b = &t->hot;

	emit_shift_imm(b, false, 5, T1, PAGE_SHIFT);
	emit_movzx16(b, T1, T1);
	emit_alu_imm(b, true, 4, T0, -(int32_t)PAGE_SIZE);
	emit_op_gs_index8(b, true, 0x3b, T0, T1, TAG_OFF(t->cls, a->kind & X86_MEM_W));
	*miss = emit_jcc(b, 5, b->p);
	emit_op_gs_index8(b, true, 0x8b, T1, T1, ADDEND_OFF(t->cls));
}

/*
 * The same check without touching EFLAGS, for instructions that read them (adc, cmov...): shifts of BMI2, a difference
 * instead of a compare, and JRCXZ. T1: linear address. RCX is put back on both ways.
 */
static void emit_quiet_check(struct translator *t, const struct access *a, uint8_t **miss)
{
	struct bt_buf *b = &t->hot;

	emit_store_gs(b, true, X86_RCX, QUIET_SLOT);
	emit_lea_disp(b, true, T0, T1, a->size - 1);
	emit_mov_imm32(b, X86_RCX, PAGE_SHIFT);
	emit_bytes(b, (const uint8_t[]){ 0xc4, 0x42, 0xf3, 0xf7, 0xdb }, 5); /* shrx r11, r11, rcx */
	emit_movzx16(b, T1, T1);
	emit_bytes(b, (const uint8_t[]){ 0xc4, 0x42, 0xf3, 0xf7, 0xd2 }, 5); /* shrx r10, r10, rcx */
	emit_bytes(b, (const uint8_t[]){ 0xc4, 0x42, 0xf1, 0xf7, 0xd2 }, 5); /* shlx r10, r10, rcx */
	emit_op_gs_index8(b, true, 0x8b, X86_RCX, T1, TAG_OFF(t->cls, a->kind & X86_MEM_W));
	emit_bytes(b, (const uint8_t[]){ 0x49, 0xf7, 0xd2 }, 3); /* not r10 */
	emit_lea(b, true, X86_RCX,
		 &(struct host_mem){ .base = X86_RCX, .index = T0, .disp = 1 });
	emit_bytes(b, (const uint8_t[]){ 0xe3, 0x05 }, 2); /* jrcxz over the jump */
	*miss = emit_jmp(b, b->p);
	emit_load_gs(b, true, X86_RCX, QUIET_SLOT);
	emit_op_gs_index8(b, true, 0x8b, T1, T1, ADDEND_OFF(t->cls));
}

/* T1 holds the addend: make a->m, a host operand for the address, out of parts still in registers or slots. */
static void emit_operand(struct translator *t, struct access *a)
{
	const struct guest_ea *ea = &a->ea;
	struct bt_buf *b = &t->hot;
	struct host_mem m = { .base = T1, .index = NO_REG, .disp = ea->disp };

	if (has_long_base(t, ea)) {
		emit_load_gs(b, true, T0, seg_base_off(ea->seg));
		emit_lea(b, true, T1, &(struct host_mem){ .base = T1, .index = T0 });
	}
	if (ea->rip_relative) {
		emit_load_gs(b, true, T0, GS_OFF(pc_base));
		if (__builtin_add_overflow(ea->disp, t->next, &m.disp)) {
			emit_lea_disp(b, true, T0, T0, t->next);
			m.disp = ea->disp;
		}
		m.index = T0;
		if (a->need_t0) {
			emit_lea(b, true, T1, &m);
			m = (struct host_mem){ .base = T1, .index = NO_REG };
		}
		a->m = m;
		return;
	}
	if (ea->index != NO_REG) {
		if (is_slot_reg(ea->index)) {
			emit_load_gs(b, true, T0, GS_GPR(ea->index));
			emit_lea(b, true, T1,
				 &(struct host_mem){ .base = T1, .index = T0, .scale = ea->scale });
		} else {
			m.index = ea->index;
			m.scale = ea->scale;
		}
	}
	if (ea->base != NO_REG) {
		int8_t base = ea->base;

		if (is_slot_reg(base)) {
			emit_load_gs(b, true, T0, GS_GPR(base));
			base = T0;
		}
		if (m.index == NO_REG && !(base == T0 && a->need_t0)) {
			m.index = T1;
			m.base = base;
		} else {
			emit_lea(b, true, T1, &(struct host_mem){ .base = base, .index = T1 });
		}
	}
	a->m = m;
}

void bt_access_begin(struct translator *t, struct access *a)
{
	const struct guest_ea *ea = &a->ea;
	struct bt_buf *b = &t->hot, *c = &t->cold;
	bool segment = needs_segment(t, ea->seg), write = a->kind & X86_MEM_W;
	bool direct, recompute, quiet;
	uint8_t *miss[3] = { NULL, NULL, NULL };
	const uint8_t *retry;

	if (t->group) {
		bt_group_access(t, a);
		return;
	}
	recompute = t->long_mode && ea->addrsize == 8 && !ea->absolute && !ea->slot;
	quiet = recompute && bt_host.bmi2 && wants_flags(t) && !(t->mode & BT_MODE_ALIGN) &&
		(t->flags == FLAGS_HOST || t->flags == FLAGS_BOTH) &&
		t->insn->op_class == X86_CLASS_COPY;
	if (!quiet)
		bt_flags_clobber(t, T0);
	retry = b->p;

	/* direct: the address is one host operand; recompute: it can be built again from its parts after the check */
	direct = recompute && !ea->rip_relative && !has_long_base(t, ea) &&
		 !is_slot_reg(ea->base) && !is_slot_reg(ea->index);
	if (!t->long_mode && !segment && ea->addrsize == 4 && !ea->absolute)
		direct = true;

	if (t->mode & BT_MODE_ALIGN)
		miss[2] = emit_jmp(b, b->p);

	if (quiet) {
		bt_emit_ea(t, b, ea, T1, T0, true);
	} else if (direct) {
		struct host_mem e = {
			.base = ea->base, .index = ea->index, .scale = ea->scale, .disp = ea->disp
		};
		struct host_mem last = e;

		emit_lea(b, false, T1, &e);
		last.disp = (int32_t)((uint32_t)last.disp + a->size - 1);
		if (last.disp < e.disp) { /* displacement wrapped: do it in two steps */
			emit_lea(b, t->long_mode, T0, &e);
			emit_lea_disp(b, t->long_mode, T0, T0, a->size - 1);
		} else {
			emit_lea(b, t->long_mode, T0, &last);
		}
	} else {
		bt_emit_ea(t, b, ea, T1, T0, true);
		if (segment) {
			emit_lea_disp(b, true, T0, T1, a->size);
			/* fails when offset + size > end, that is when end - (offset + size) borrows */
			emit_op_gs(b, true, 0x3b, T0, seg_end_off(ea->seg, write));
			miss[1] = emit_jcc(b, 7, b->p);
			emit_load_gs(b, false, T0, seg_base_off(ea->seg));
			emit_lea(b, false, T1, &(struct host_mem){ .base = T1, .index = T0 });
		}
		if (!recompute)
			emit_store_gs(b, true, T1, GS_OFF(scratch[0]));
		emit_lea_disp(b, t->long_mode, T0, T1, a->size - 1);
	}
	if (quiet)
		emit_quiet_check(t, a, &miss[0]);
	else
		emit_check(t, a, &miss[0]);
	if (direct && !t->long_mode) {
		struct host_mem e = {
			.base = ea->base, .index = ea->index, .scale = ea->scale, .disp = ea->disp
		};

		emit_lea(b, false, T0, &e);
		a->m = (struct host_mem){ .base = T0, .index = T1 };
	} else if (!recompute) {
		emit_load_gs(b, true, T0, GS_OFF(scratch[0]));
		a->m = (struct host_mem){ .base = T0, .index = T1 };
	} else {
		emit_operand(t, a);
	}
	if (a->need_t0 && (a->m.base == T0 || a->m.index == T0)) {
		emit_lea(b, true, T1, &a->m);
		a->m = (struct host_mem){ .base = T1, .index = NO_REG };
	}

	/* cold: exact state, then the runtime */
	for (unsigned i = 0; i < ARRAY_SIZE(miss); i++)
		if (miss[i])
			patch_rel32(miss[i], c->p);
	if (quiet)
		emit_load_gs(c, true, X86_RCX, QUIET_SLOT);
	else if (t->flags == FLAGS_SLOT)
		bt_flags_restore(c, T0);
	bt_emit_ea(t, c, ea, T0, T1, true);
	{
		uint8_t *field = emit_lea_rip(c, T1, c->p);

		emit_jmp_gs(c, GS_OFF(tramp_memory));
		patch_rel32(field, c->p);
	}
	a->site_address = c->p;
	c->p += sizeof(struct bt_site);
	{
		struct bt_site site = {
			.retry = (int32_t)(retry - a->site_address),
			.slow = (int32_t)(c->p - a->site_address),
			.size = a->size,
			.offset = t->offset,
			.next_offset = t->next,
			.access = a->kind,
			.seg = ea->seg,
			.flags = (uint8_t)(a->site_flags | (segment ? BT_SITE_SEGMENT : 0)),
		};

		for (unsigned i = 0; i < sizeof(site.bytes) && i < t->insn->length; i++)
			site.bytes[i] = t->code[i];
		__builtin_memcpy(a->site_address, &site, sizeof(site));
	}
}

void bt_access_end(struct translator *t, struct access *a)
{
	struct bt_buf *c = &t->cold;

	if (t->group) {
		c->p = t->saved_cold;
		return;
	}
	if (a->kind & X86_MEM_W) {
		int32_t resume = (int32_t)(t->hot.p - a->site_address);

		__builtin_memcpy(a->site_address + offsetof(struct bt_site, resume), &resume,
				 sizeof(resume));
		emit_lea_rip(c, T1, a->site_address);
		emit_jmp_gs(c, GS_OFF(tramp_commit));
	} else {
		emit_jmp(c, t->hot.p);
	}
}
