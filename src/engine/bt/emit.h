/* SPDX-License-Identifier: MIT */
/*
 * A one-pass x86-64 emitter for the translator: writes host instructions at a pointer, no allocation,
 * no buffering. The caller guarantees room. GS-relative operands address struct bt_cpu and its tables.
 * Encodings: SDM volume 2, chapter 2 and the opcode maps of appendix A.
 */
#ifndef LODGE_ENGINE_BT_EMIT_H
#define LODGE_ENGINE_BT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "engine/bt/bt.h"

/* The two scratch registers of translated code. */
#define T0 X86_R10
#define T1 X86_R11
#define NO_REG (-1)

/* A place code is written to: the writable alias of the cache. */
struct bt_buf {
	uint8_t *p;
	bool cold;
};

/* A host memory operand: [base + (index << scale) + disp]; base, index may be NO_REG. */
struct host_mem {
	int8_t base, index;
	uint8_t scale;
	int32_t disp;
};

#define GS_OFF(field) ((int32_t)offsetof(struct bt_cpu, field))
#define GS_GPR(n) (GS_OFF(state.gpr) + 8 * (n))

static inline void emit8(struct bt_buf *b, uint8_t v)
{
	*b->p++ = v;
}
static inline void emit16(struct bt_buf *b, uint16_t v)
{
	store_le16(b->p, v);
	b->p += 2;
}
static inline void emit32(struct bt_buf *b, uint32_t v)
{
	store_le32(b->p, v);
	b->p += 4;
}
static inline void emit64(struct bt_buf *b, uint64_t v)
{
	store_le64(b->p, v);
	b->p += 8;
}

/* ModRM, SIB and displacement for a memory operand; reg: low three bits go to ModRM.reg. wide_disp: never use
 * disp8 (EVEX would scale it). */
static inline void emit_modrm_mem(struct bt_buf *b, unsigned reg, const struct host_mem *m,
				  bool wide_disp)
{
	unsigned mod;

	reg &= 7;
	if (m->base == NO_REG) { /* [index*s + disp32] or [disp32] */
		emit8(b, (uint8_t)(reg << 3 | 4));
		emit8(b,
		      (uint8_t)(m->scale << 6 | (m->index == NO_REG ? 4 : m->index & 7) << 3 | 5));
		emit32(b, (uint32_t)m->disp);
		return;
	}
	if (m->disp == 0 && (m->base & 7) != 5)
		mod = 0;
	else if (m->disp == (int8_t)m->disp && !wide_disp)
		mod = 1;
	else
		mod = 2;
	if (m->index == NO_REG && (m->base & 7) != 4) {
		emit8(b, (uint8_t)(mod << 6 | reg << 3 | (m->base & 7)));
	} else {
		emit8(b, (uint8_t)(mod << 6 | reg << 3 | 4));
		emit8(b, (uint8_t)(m->scale << 6 | (m->index == NO_REG ? 4 : m->index & 7) << 3 |
				   (m->base & 7)));
	}
	if (mod == 1)
		emit8(b, (uint8_t)m->disp);
	else if (mod == 2)
		emit32(b, (uint32_t)m->disp);
}

/* REX for reg and a memory operand; emitted only if needed. */
static inline void emit_rex_mem(struct bt_buf *b, bool w, unsigned reg, const struct host_mem *m)
{
	uint8_t rex = (uint8_t)(w << 3 | (reg >> 3 & 1) << 2 |
				(m->index != NO_REG && m->index >= 8) << 1 |
				(m->base != NO_REG && m->base >= 8));
	if (rex)
		emit8(b, 0x40 | rex);
}

/* op reg, [m] for a one-byte opcode, 64- or 32-bit. */
static inline void emit_op_mem(struct bt_buf *b, bool w, uint8_t opcode, unsigned reg,
			       const struct host_mem *m)
{
	emit_rex_mem(b, w, reg, m);
	emit8(b, opcode);
	emit_modrm_mem(b, reg, m, false);
}
static inline void emit_lea(struct bt_buf *b, bool w, unsigned dst, const struct host_mem *m)
{
	emit_op_mem(b, w, 0x8d, dst, m);
}
/* lea dst, [base + disp] */
static inline void emit_lea_disp(struct bt_buf *b, bool w, unsigned dst, int base, int32_t disp)
{
	emit_lea(b, w, dst,
		 &(struct host_mem){ .base = (int8_t)base, .index = NO_REG, .disp = disp });
}
/* mov dst, src */
static inline void emit_mov(struct bt_buf *b, bool w, unsigned dst, unsigned src)
{
	uint8_t rex = (uint8_t)(w << 3 | (src >> 3) << 2 | dst >> 3);
	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, 0x89);
	emit8(b, (uint8_t)(0xc0 | (src & 7) << 3 | (dst & 7)));
}
static inline void emit_mov_imm32(struct bt_buf *b, unsigned dst, uint32_t imm) /* zero-extends */
{
	if (dst >= 8)
		emit8(b, 0x41);
	emit8(b, (uint8_t)(0xb8 | (dst & 7)));
	emit32(b, imm);
}
static inline void emit_mov_imm(struct bt_buf *b, unsigned dst, uint64_t imm)
{
	if (imm <= 0xffffffffu) {
		emit_mov_imm32(b, dst, (uint32_t)imm);
	} else if ((int64_t)imm == (int32_t)imm) {
		emit8(b, (uint8_t)(0x48 | dst >> 3));
		emit8(b, 0xc7);
		emit8(b, (uint8_t)(0xc0 | (dst & 7)));
		emit32(b, (uint32_t)imm);
	} else {
		emit8(b, (uint8_t)(0x48 | dst >> 3));
		emit8(b, (uint8_t)(0xb8 | (dst & 7)));
		emit64(b, imm);
	}
}

/* op reg, gs:[disp32] */
static inline void emit_op_gs(struct bt_buf *b, bool w, uint8_t opcode, unsigned reg, int32_t disp)
{
	uint8_t rex = (uint8_t)(w << 3 | (reg >> 3) << 2);

	emit8(b, 0x65);
	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, opcode);
	emit8(b, (uint8_t)((reg & 7) << 3 | 4));
	emit8(b, 0x25);
	emit32(b, (uint32_t)disp);
}
static inline void emit_load_gs(struct bt_buf *b, bool w, unsigned reg, int32_t disp)
{
	emit_op_gs(b, w, 0x8b, reg, disp);
}
static inline void emit_store_gs(struct bt_buf *b, bool w, unsigned reg, int32_t disp)
{
	emit_op_gs(b, w, 0x89, reg, disp);
}
/* op reg, gs:[index*8 + disp32] */
static inline void emit_op_gs_index8(struct bt_buf *b, bool w, uint8_t opcode, unsigned reg,
				     unsigned index, int32_t disp)
{
	uint8_t rex = (uint8_t)(w << 3 | (reg >> 3) << 2 | (index >> 3) << 1);

	emit8(b, 0x65);
	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, opcode);
	emit8(b, (uint8_t)((reg & 7) << 3 | 4));
	emit8(b, (uint8_t)(0xc0 | (index & 7) << 3 | 5));
	emit32(b, (uint32_t)disp);
}
/* jmp gs:[disp32] */
static inline void emit_jmp_gs(struct bt_buf *b, int32_t disp)
{
	emit8(b, 0x65);
	emit8(b, 0xff);
	emit8(b, 0x24);
	emit8(b, 0x25);
	emit32(b, (uint32_t)disp);
}
/* jmp rel32 / jcc rel32 to a place in either buffer (same mapping); returns the address of the rel32. */
static inline uint8_t *emit_jmp(struct bt_buf *b, const uint8_t *target)
{
	emit8(b, 0xe9);
	emit32(b, (uint32_t)(target - (b->p + 4)));
	return b->p - 4;
}
static inline uint8_t *emit_jcc(struct bt_buf *b, unsigned cc, const uint8_t *target)
{
	emit8(b, 0x0f);
	emit8(b, (uint8_t)(0x80 | cc));
	emit32(b, (uint32_t)(target - (b->p + 4)));
	return b->p - 4;
}
static inline void patch_rel32(uint8_t *field, const uint8_t *target)
{
	store_le32(field, (uint32_t)(target - (field + 4)));
}
/* Before a jump whose rel32 will be patched while others run it: keep the field within 8 aligned bytes. */
static inline void emit_align_patch(struct bt_buf *b, unsigned opcode_bytes)
{
	while ((((uintptr_t)b->p + opcode_bytes) & 7) > 4)
		emit8(b, 0x90);
}
/* lea reg, [rip + (target - next)] : returns the field for patching */
static inline uint8_t *emit_lea_rip(struct bt_buf *b, unsigned reg, const uint8_t *target)
{
	emit8(b, (uint8_t)(0x48 | (reg >> 3) << 2));
	emit8(b, 0x8d);
	emit8(b, (uint8_t)((reg & 7) << 3 | 5));
	emit32(b, (uint32_t)(target - (b->p + 4)));
	return b->p - 4;
}
/* cmp dword gs:[disp], 0 (9 bytes) */
static inline void emit_cmp_gs_zero(struct bt_buf *b, int32_t disp)
{
	emit8(b, 0x65);
	emit8(b, 0x83);
	emit8(b, 0x3c);
	emit8(b, 0x25);
	emit32(b, (uint32_t)disp);
	emit8(b, 0);
}
/* and/or/add/sub/... r64, imm: ext is the /digit */
static inline void emit_alu_imm(struct bt_buf *b, bool w, unsigned ext, unsigned reg, int32_t imm)
{
	uint8_t rex = (uint8_t)(w << 3 | reg >> 3);
	bool small = imm == (int8_t)imm;

	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, small ? 0x83 : 0x81);
	emit8(b, (uint8_t)(0xc0 | ext << 3 | (reg & 7)));
	if (small)
		emit8(b, (uint8_t)imm);
	else
		emit32(b, (uint32_t)imm);
}
/* shl(4)/shr(5)/sar(7) reg, imm8 */
static inline void emit_shift_imm(struct bt_buf *b, bool w, unsigned ext, unsigned reg, uint8_t imm)
{
	uint8_t rex = (uint8_t)(w << 3 | reg >> 3);

	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, 0xc1);
	emit8(b, (uint8_t)(0xc0 | ext << 3 | (reg & 7)));
	emit8(b, imm);
}
/* movzx dst32, src16 */
static inline void emit_movzx16(struct bt_buf *b, unsigned dst, unsigned src)
{
	uint8_t rex = (uint8_t)((dst >> 3) << 2 | src >> 3);

	if (rex)
		emit8(b, 0x40 | rex);
	emit8(b, 0x0f);
	emit8(b, 0xb7);
	emit8(b, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}
/* mov word dst16, src16 */
static inline void emit_mov16(struct bt_buf *b, unsigned dst, unsigned src)
{
	emit8(b, 0x66);
	emit_mov(b, false, dst, src);
}
static inline void emit_bytes(struct bt_buf *b, const uint8_t *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		b->p[i] = bytes[i];
	b->p += n;
}

#endif
