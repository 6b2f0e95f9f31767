/* SPDX-License-Identifier: MIT */
/*
 * The x86 instruction decoder: prefixes, opcode look-up, ModRM and SIB, immediates, and then the facts a
 * translator asks for (Intel SDM volume 2, chapter 2 and appendix A; AMD APM volume 3).
 *
 * All knowledge of single instructions is in the descriptor tables (decode_tables*.c); this file only
 * interprets descriptors. The order is the hardware's: prefixes; opcode, by way of the escape bytes or a
 * VEX or EVEX prefix; ModRM, SIB, displacement; immediate. A descriptor may refer to a further table by
 * ModRM.reg, ModRM.mod, ModRM.rm or mandatory prefix.
 *
 * Compiled for the general registers only: an engine translates with the guest's vector state in the host's.
 *
 * Flags a manual calls undefined are in flags_write where processors of both vendors are known to write them, and
 * in flags_maybe where some leave them alone (bt, bsf, mul, div, lzcnt), so that they flow as on the host.
 *
 * Where vendors differ: 66 on near branches in 64-bit mode is ignored (Intel; AMD takes a 16-bit displacement and
 * truncates RIP). 66 movsxd reads four bytes (AMD; Intel two). prefetch with a register operand is undefined (AMD;
 * Intel: a NOP).
 */
#include "x86/decode.h"

#include "x86/cpu.h"
#include "x86/decode_tables.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define CF X86_FLAG_CF
#define PF X86_FLAG_PF
#define AF X86_FLAG_AF
#define ZF X86_FLAG_ZF
#define SF X86_FLAG_SF
#define OF X86_FLAG_OF
#define DF X86_FLAG_DF
#define ARITH X86_FLAGS_ARITH

static const struct {
	uint16_t read, write, maybe;
} flag_patterns[32] = {
	[FL_ARITH] = { 0, ARITH, 0 },
	[FL_ADC] = { CF, ARITH, 0 },
	[FL_INCDEC] = { 0, ARITH & ~CF, 0 },
	[FL_LOGIC] = { 0, ARITH, 0 },
	[FL_BT] = { 0, CF, ARITH & ~(CF | ZF) },
	[FL_BSF] = { 0, ZF, ARITH & ~ZF },
	[FL_MUL] = { 0, CF | OF, ARITH & ~(CF | OF) },
	[FL_DIV] = { 0, 0, ARITH },
	[FL_ROT] = { 0, CF | OF, 0 },
	[FL_RCL] = { CF, CF | OF, 0 },
	[FL_SHIFT] = { 0, ARITH, 0 },
	[FL_CF_W] = { 0, CF, 0 },
	[FL_CF_RW] = { CF, CF, 0 },
	[FL_LAHF] = { ARITH & ~OF, 0, 0 },
	[FL_SAHF] = { 0, ARITH & ~OF, 0 },
	[FL_DAA] = { CF | AF, ARITH, 0 },
	[FL_AAA] = { AF, ARITH, 0 },
	[FL_ALL_W] = { 0, ARITH | DF, 0 },
	[FL_ALL_R] = { ARITH | DF, 0, 0 },
	[FL_DF_W] = { 0, DF, 0 },
	[FL_DF_R] = { DF, 0, 0 },
	[FL_CMPS] = { DF, ARITH, 0 },
	[FL_OF_R] = { OF, 0, 0 },
	[FL_ADCX] = { CF, CF, 0 },
	[FL_ADOX] = { OF, OF, 0 },
	[FL_ZF_W] = { 0, ZF, 0 },
	[FL_CF_R] = { CF, 0, 0 },
	[FL_ZF_R] = { ZF, 0, 0 },
	[FL_LZCNT] = { 0, CF | ZF, ARITH & ~(CF | ZF) },
};

/* Flags read by condition code cc (low bit: negation) */
static const uint16_t condition_flags[8] = { OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF };

#define A (1u << X86_RAX)
#define C (1u << X86_RCX)
#define D (1u << X86_RDX)
#define B (1u << X86_RBX)
#define SP (1u << X86_RSP)
#define BP (1u << X86_RBP)
#define SI (1u << X86_RSI)
#define DI (1u << X86_RDI)

static const struct {
	uint16_t read, write;
} implicit_gprs[IMPL_COUNT] = {
	[IMPL_A_R] = { A, 0 },
	[IMPL_A_W] = { 0, A },
	[IMPL_A_RW] = { A, A },
	[IMPL_C_R] = { C, 0 },
	[IMPL_MUL] = { A, A | D },
	[IMPL_DIV] = { A | D, A | D },
	[IMPL_CWD] = { A, D },
	[IMPL_CX8B] = { A | B | C | D, A | D },
	[IMPL_XLAT] = { A | B, A },
	[IMPL_D_R] = { D, 0 },
	[IMPL_PCMPESTRI] = { A | D, C },
	[IMPL_PCMPESTRM] = { A | D, 0 },
	[IMPL_PCMPISTRI] = { 0, C },
	[IMPL_CPUID] = { A | C, A | B | C | D },
	[IMPL_AD_W] = { 0, A | D },
	[IMPL_ACD_W] = { 0, A | C | D },
	[IMPL_MSR_R] = { C, A | D },
	[IMPL_MSR_W] = { A | C | D, 0 },
	[IMPL_AD_R] = { A | D, 0 },
	[IMPL_DI_R] = { DI, 0 },
	[IMPL_SP] = { SP, SP },
	[IMPL_SP_BP] = { SP | BP, SP | BP },
	[IMPL_SP_ALL] = { 0xff, 0xff },
	[IMPL_C_RW] = { C, C },
	[IMPL_STR_SI_DI] = { SI | DI, SI | DI },
	[IMPL_STR_DI] = { DI, DI },
	[IMPL_STR_SI] = { SI, SI },
	[IMPL_SYSCALL] = { 0, C | (1u << X86_R11) },
	[IMPL_AH_W] = { A, A },
	[IMPL_AC_R] = { A | C, 0 },
};

#undef A
#undef C
#undef D
#undef B
#undef SP
#undef BP
#undef SI
#undef DI

/* ---- prefixes ---- */

enum { NOT_PREFIX, IS_66, IS_67, IS_F2, IS_F3, IS_LOCK, IS_REX, IS_SEG };

#define REX16 IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX, IS_REX
static const uint8_t prefix_kind[256] = {
	[0x26] = IS_SEG + X86_ES, [0x2e] = IS_SEG + X86_CS, [0x36] = IS_SEG + X86_SS, [0x3e] = IS_SEG + X86_DS,
	[0x40] = REX16,
	[0x64] = IS_SEG + X86_FS, [0x65] = IS_SEG + X86_GS,
	[0x66] = IS_66, [0x67] = IS_67, [0xf0] = IS_LOCK, [0xf2] = IS_F2, [0xf3] = IS_F3,
};

static const uint8_t mandatory_byte[4] = { 0, 0x66, 0xf3, 0xf2 };

/* Decoding in progress */
struct decoder {
	const uint8_t *code;
	unsigned pos;
	bool is64;
	bool invalid;
	uint8_t default_opsize; /* 2 or 4, by mode and 66 */
	uint8_t prefix_index;   /* mandatory prefix: 0 none, 1 66, 2 F3, 3 F2 */
	uint8_t w;              /* REX.W, VEX.W, EVEX.W */
	int8_t seg;             /* override, or -1 */
	/* EVEX */
	uint8_t mask, broadcast, zero, vector_hi, reg_hi;
	uint8_t vsib_index;
};

static inline uint16_t load16(const uint8_t *p)
{
	uint16_t v;

	__builtin_memcpy(&v, p, 2);
	return v;
}

static inline uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	__builtin_memcpy(&v, p, 4);
	return v;
}

static inline uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	__builtin_memcpy(&v, p, 8);
	return v;
}

/* 16-bit addressing forms: base and index by ModRM.rm (SDM vol. 2, table 2-1) */
static const int8_t base16[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP, X86_RSI, X86_RDI, X86_RBP, X86_RBX };
static const int8_t index16[8] = { X86_RSI, X86_RDI, X86_RSI, X86_RDI, -1, -1, -1, -1 };

/* Read ModRM's addressing form: SIB and displacement. d->pos is past the ModRM byte. */
static inline void decode_memory(struct decoder *d, struct x86_insn *insn, bool vsib)
{
	unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;
	unsigned disp_size = mod == 1 ? 1 : 0;
	int base, index = -1;

	insn->has_mem = 1;
	if (unlikely(insn->addrsize == 2)) {
		base = base16[rm];
		index = index16[rm];
		if (mod == 2)
			disp_size = 2;
		else if (mod == 0 && rm == 6) {
			base = -1;
			disp_size = 2;
		}
		if (vsib)
			d->invalid = true;
	} else {
		if (mod == 2)
			disp_size = 4;
		base = (int)rm;
		if (rm == 4) {
			unsigned sib = d->code[d->pos++];

			base = (int)(sib & 7);
			index = (int)((sib >> 3 & 7) | (unsigned)(insn->rex & 2) << 2);
			insn->scale = (uint8_t)(sib >> 6);
			if (index == 4 && !vsib)
				index = -1;
			if (base == 5 && mod == 0) {
				base = -1;
				disp_size = 4;
			}
		} else if (rm == 5 && mod == 0) {
			base = -1;
			disp_size = 4;
			insn->rip_relative = d->is64;
		}
		if (vsib && rm != 4)
			d->invalid = true;
		if (base >= 0)
			base |= (insn->rex & 1) << 3;
	}
	if (disp_size == 1)
		insn->disp = (int8_t)d->code[d->pos];
	else if (disp_size == 4)
		insn->disp = (int32_t)load32(d->code + d->pos);
	else if (disp_size == 2)
		insn->disp = (int16_t)load16(d->code + d->pos);
	d->pos += disp_size;
	insn->disp_size = (uint8_t)disp_size;
	insn->base = (int8_t)base;
	insn->index = (int8_t)index;
	insn->seg = base == X86_RSP || base == X86_RBP ? X86_SS : X86_DS;
	if (base >= 0)
		insn->gpr_addr = (uint16_t)(1u << base);
	if (vsib) { /* the index is a vector register: not a GPR */
		d->vsib_index = (uint8_t)(index | d->vector_hi << 4);
		insn->index = -1;
	} else if (index >= 0) {
		insn->gpr_addr |= (uint16_t)(1u << index);
	}
}

static inline void decode_immediate(struct decoder *d, struct x86_insn *insn, unsigned kind)
{
	const uint8_t *p = d->code + d->pos;
	unsigned size;

	insn->imm_offset = (uint8_t)d->pos;
	switch (kind) {
	case IMM_B:
	case IMM_RELB:
		insn->imm = (int8_t)*p;
		size = 1;
		break;
	case IMM_UB:
		insn->imm = *p;
		size = 1;
		break;
	case IMM_W:
	case IMM_BB:
		insn->imm = load16(p);
		size = 2;
		break;
	case IMM_Z:
		size = insn->opsize == 8 ? 4 : insn->opsize;
		insn->imm = size == 4 ? (int32_t)load32(p) : size == 2 ? (int16_t)load16(p) : (int8_t)*p;
		break;
	case IMM_RELZ:
		size = insn->opsize == 2 ? 2 : 4;
		insn->imm = size == 4 ? (int32_t)load32(p) : (int16_t)load16(p);
		break;
	case IMM_V:
		size = insn->opsize;
		insn->imm = size == 8 ? (int64_t)load64(p) : size == 4 ? (int32_t)load32(p) : (int16_t)load16(p);
		break;
	case IMM_WB:
		insn->imm = load16(p);
		insn->imm2 = p[2];
		insn->imm2_size = 1;
		size = 2;
		d->pos += 1;
		break;
	case IMM_FAR:
		size = insn->opsize == 2 ? 2 : 4;
		insn->imm = size == 4 ? load32(p) : load16(p);
		insn->imm2 = load16(p + size);
		insn->imm2_size = 2;
		d->pos += 2;
		break;
	case IMM_MOFFS:
		size = insn->addrsize;
		insn->imm = size == 8 ? (int64_t)load64(p) : size == 4 ? load32(p) : load16(p);
		break;
	default:
		return;
	}
	insn->imm_size = (uint8_t)size;
	d->pos += size;
}

/* Bytes the memory operand has. */
static inline unsigned memory_size(const struct decoder *d, const struct x86_insn *insn, unsigned rule)
{
	static const uint8_t fixed[] = { 0, 1, 2, 4, 8, 10, 16, 32, 64 };

	if (rule < MEM_V)
		return fixed[rule];
	switch (rule) {
	case MEM_V:
		return insn->opsize;
	case MEM_Y:
	case MEM_W84:
		return d->w ? 8 : 4;
	case MEM_2V:
		return 2u * insn->opsize;
	case MEM_FAR:
		return insn->opsize + 2u;
	case MEM_DT:
		return d->is64 ? 10 : 6;
	case MEM_ENV:
		return d->default_opsize == 2 && !d->w ? 14 : 28;
	case MEM_SAVE:
		return d->default_opsize == 2 && !d->w ? 94 : 108;
	case MEM_512:
		return 512;
	case MEM_VL:
		return insn->vl;
	case MEM_VL2:
		return insn->vl / 2u;
	case MEM_VL4:
		return insn->vl / 4u;
	case MEM_VL8:
		return insn->vl / 8u;
	case MEM_DUP:
		return insn->vl == 16 ? 8 : insn->vl;
	case MEM_W21:
		return d->w ? 2 : 1;
	case MEM_HW:
		return d->w ? insn->vl : insn->vl / 2u;
	case MEM_KQW:
		return d->w ? 8 : 2;
	case MEM_KDB:
		return d->w ? 4 : 1;
	}
	return 0;
}

/* Which flags flow through it: the pattern, refined by what the pattern leaves to opcode and operands. */
static inline void decode_flags(struct x86_insn *insn, unsigned pattern)
{
	unsigned count;

	insn->flags_read = flag_patterns[pattern].read;
	insn->flags_write = flag_patterns[pattern].write;
	insn->flags_maybe = flag_patterns[pattern].maybe;
	switch (pattern) {
	case FL_CC:
		insn->flags_read = condition_flags[insn->opcode >> 1 & 7];
		break;
	case FL_FCMOV: {
		static const uint16_t fcmov_flags[4] = { CF, ZF, CF | ZF, PF };

		insn->flags_read = fcmov_flags[insn->modrm >> 3 & 3];
		break;
	}
	case FL_CMPS:
		if (insn->prefixes & (X86_PFX_F2 | X86_PFX_F3)) {
			insn->flags_maybe = insn->flags_write;
			insn->flags_write = 0;
		}
		break;
	case FL_ROT:
	case FL_RCL:
	case FL_SHIFT:
		if (insn->op == X86_OP_SHIFT_CL) {
			insn->flags_maybe |= insn->flags_write;
			insn->flags_write = 0;
			break;
		}
		count = insn->op == X86_OP_SHIFT_IMM ? (unsigned)insn->imm & (insn->opsize == 8 ? 63u : 31u) : 1;
		if (count == 0) {
			insn->flags_write = insn->flags_maybe = 0;
		} else if (count != 1 && pattern == FL_RCL) { /* OF is undefined */
			insn->flags_maybe = OF;
			insn->flags_write = CF;
		}
		break;
	}
}

static inline void name_register(struct x86_insn *insn, unsigned reg, bool byte, bool partial, bool read, bool write)
{
	if (byte && !insn->rex && reg >= 4) {
		insn->high_byte = 1;
		reg -= 4;
	}
	if (read || (write && partial))
		insn->gpr_read |= (uint16_t)(1u << reg);
	if (write)
		insn->gpr_write |= (uint16_t)(1u << reg);
}

/* The general-purpose registers of all operands. osize: the operand size by the descriptor's rule. */
static inline void decode_registers(struct x86_insn *insn, uint64_t a, unsigned osize)
{
	bool vector = A_GET_UNIT(a) != X86_UNIT_INT;

	if (a & (A_REG_R | A_REG_W)) {
		unsigned reg = (insn->modrm >> 3 & 7) | (unsigned)(insn->rex & 4) << 1;
		bool byte = a & A_REG_BYTE;

		insn->reg_is_gpr = 1;
		name_register(insn, reg, byte, byte || (osize < 4 && !vector), a & A_REG_R, a & A_REG_W);
	}
	if ((a & A_RM_GPR) && !insn->has_mem) {
		unsigned reg = (insn->modrm & 7) | (unsigned)(insn->rex & 1) << 3;

		insn->rm_is_gpr = 1;
		name_register(insn, reg, insn->opsize == 1 && !vector, insn->opsize < 4 && !vector, a & A_RM_R, a & A_RM_W);
	}
	if (a & (A_OPC_R | A_OPC_W)) {
		unsigned reg = (insn->opcode & 7) | (unsigned)(insn->rex & 1) << 3;
		bool byte = a & A_REG_BYTE;

		insn->opc_is_gpr = 1;
		name_register(insn, reg, byte, byte || osize < 4, a & A_OPC_R, a & A_OPC_W);
	}
	if (a & (A_VVVV_R | A_VVVV_W)) {
		insn->vvvv_is_gpr = 1;
		if (a & A_VVVV_R)
			insn->gpr_read |= (uint16_t)(1u << (insn->vvvv & 15));
		if (a & A_VVVV_W)
			insn->gpr_write |= (uint16_t)(1u << (insn->vvvv & 15));
	}
	if (A_GET_IMPL(a)) {
		unsigned impl = A_GET_IMPL(a);
		uint16_t read = implicit_gprs[impl].read, write = implicit_gprs[impl].write;

		if (osize == 1 && (impl == IMPL_MUL || impl == IMPL_DIV)) {
			read &= 1;
			write &= 1;
		}
		if (osize < 4)
			read |= write;
		if (insn->op_class == X86_CLASS_STRING) {
			if (insn->prefixes & (X86_PFX_F2 | X86_PFX_F3)) {
				read |= 1u << X86_RCX;
				write |= 1u << X86_RCX;
			}
			if (insn->op == X86_OP_INS || insn->op == X86_OP_OUTS)
				read |= 1u << X86_RDX;
			else if (insn->op == X86_OP_STOS || insn->op == X86_OP_SCAS)
				read |= 1u << X86_RAX;
			else if (insn->op == X86_OP_LODS) {
				write |= 1u << X86_RAX;
				read |= osize < 4 ? 1u << X86_RAX : 0;
			}
		}
		insn->gpr_read |= read;
		insn->gpr_write |= write;
	}
}

static const struct opcode_desc invalid_desc;

/* VEX: C5 or C4 at d->pos. Returns the descriptor; fills the prefix fields. */
static const struct opcode_desc *decode_vex(struct decoder *d, struct x86_insn *insn)
{
	const uint8_t *p = d->code + d->pos;
	unsigned map = 1, last, rex;

	if (insn->prefixes & (X86_PFX_66 | X86_PFX_F2 | X86_PFX_F3 | X86_PFX_LOCK | X86_PFX_REX))
		d->invalid = true;
	insn->encoding = X86_ENC_VEX;
	if (p[0] == 0xc5) {
		last = p[1];
		rex = (~last >> 5) & 4;
		d->pos += 2;
	} else {
		map = p[1] & 0x1f;
		last = p[2];
		rex = (~(unsigned)p[1] >> 5) & 7;
		rex |= last >> 4 & 8;
		d->pos += 3;
	}
	if (!d->is64)
		rex &= 8;
	insn->rex = (uint8_t)rex;
	d->w = rex >> 3;
	insn->vvvv = ~last >> 3 & 15;
	insn->vl = last & 4 ? 32 : 16;
	d->prefix_index = last & 3;
	insn->mandatory = mandatory_byte[last & 3];
	insn->map = (uint8_t)map;
	insn->opcode_offset = (uint8_t)d->pos;
	insn->opcode = d->code[d->pos++];
	if (map < 1 || map > 3)
		return &invalid_desc;
	return &x86_map_vex[map - 1][last & 3][insn->opcode];
}

/* EVEX: 62 at d->pos. */
static const struct opcode_desc *decode_evex(struct decoder *d, struct x86_insn *insn)
{
	const uint8_t *p = d->code + d->pos;
	unsigned map = p[1] & 7, rex;

	if (insn->prefixes & (X86_PFX_66 | X86_PFX_F2 | X86_PFX_F3 | X86_PFX_LOCK | X86_PFX_REX))
		d->invalid = true;
	insn->encoding = X86_ENC_EVEX;
	rex = (~(unsigned)p[1] >> 5) & 7;
	rex |= p[2] >> 4 & 8;
	if (!d->is64)
		rex &= 8;
	insn->rex = (uint8_t)rex;
	d->w = rex >> 3;
	insn->vvvv = (uint8_t)((~p[2] >> 3 & 15) | (~(unsigned)p[3] << 1 & 16));
	d->mask = p[3] & 7;
	d->broadcast = p[3] >> 4 & 1;
	d->zero = p[3] >> 7;
	d->vector_hi = ~p[3] >> 3 & 1;
	d->reg_hi = ~p[1] >> 4 & 1;
	if (!d->is64 && d->vector_hi)
		d->invalid = true;
	insn->vl = (uint8_t)(16u << (p[3] >> 5 & 3));
	d->prefix_index = p[2] & 3;
	insn->mandatory = mandatory_byte[p[2] & 3];
	insn->map = (uint8_t)map;
	d->pos += 4;
	insn->opcode_offset = (uint8_t)d->pos;
	insn->opcode = d->code[d->pos++];
	if (map < 1 || map > 3 || (p[1] & 8) || !(p[2] & 4))
		return &invalid_desc;
	return &x86_map_evex[map - 1][p[2] & 3][insn->opcode];
}

/* Checks and refinements of VEX and EVEX encodings, after ModRM is known. Returns the memory size. */
static void check_vector(struct decoder *d, struct x86_insn *insn, const struct opcode_desc *desc)
{
	uint32_t v = desc->v;
	bool evex = insn->encoding == X86_ENC_EVEX;
	bool round = evex && d->broadcast && !insn->has_mem;

	if ((v & V_W0 && d->w) || (v & V_W1 && !d->w))
		d->invalid = true;
	if (round)
		insn->vl = 64;
	else if (insn->vl == 128)
		d->invalid = true;
	if (round && !(v & V_ROUND))
		d->invalid = true;
	if (!round || V_GET_L(v) == VLEN_128) {
		switch (V_GET_L(v)) {
		case VLEN_128:
			if (insn->vl != 16)
				d->invalid = true;
			break;
		case VLEN_256:
			if (insn->vl != 32)
				d->invalid = true;
			break;
		case VLEN_512:
			if (insn->vl != 64)
				d->invalid = true;
			break;
		case VLEN_256UP:
			if (insn->vl == 16)
				d->invalid = true;
			break;
		}
	}
	if (V_GET_L(v) == VLEN_IGN)
		insn->vl = 16;
	if (!(v & V_NDS || (v & V_NDS_REG && !insn->has_mem))) {
		if (insn->vvvv & 15 || (evex && d->vector_hi && !(v & V_VSIB)))
			d->invalid = true;
	}
	if (d->is64 && (v & V_KREG ? insn->rex & 4 || d->reg_hi : desc->a & (A_REG_R | A_REG_W) && d->reg_hi))
		d->invalid = true;
	if (!d->is64)
		insn->vvvv &= 7;
	if (v & V_VSIB && desc->a & A_RM_R) { /* gathers: destination, index and mask must differ */
		unsigned reg = (insn->modrm >> 3 & 7) | (insn->rex & 4u) << 1 | (d->is64 ? (unsigned)d->reg_hi << 4 : 0u);

		if (reg == d->vsib_index || (!evex && (reg == insn->vvvv || insn->vvvv == d->vsib_index)))
			d->invalid = true;
	}
	if (v & V_KVVVV && insn->vvvv & 8)
		d->invalid = true;
	if (v & V_W64 && !d->is64) {
		d->w = 0;
		insn->rex &= 7;
	}
	if (v & V_AVX1 && insn->vl == 16) {
		if (insn->isa == X86_ISA_VAES)
			insn->isa = X86_ISA_AES;
		else if (insn->isa == X86_ISA_VPCLMUL)
			insn->isa = X86_ISA_PCLMUL;
		else
			insn->isa = X86_ISA_AVX;
	}
	if (!evex) {
		if (insn->unit == X86_UNIT_INT)
			insn->vl = 0;
		return;
	}
	if (d->mask && !(v & V_MASK))
		d->invalid = true;
	if (!d->mask && (v & V_MASK_REQ))
		d->invalid = true;
	if (d->zero && (!(v & V_ZERO) || !d->mask || (insn->has_mem && desc->a & A_RM_W)))
		d->invalid = true;
	if (d->broadcast && insn->has_mem && !V_GET_BCAST(v))
		d->invalid = true;
}

/* Zero *insn, without the rep stos that the compiler prefers when it may not use vector registers. */
static inline void clear(struct x86_insn *insn)
{
	uint8_t *p = (uint8_t *)insn;
	const uint64_t zero = 0;

	_Static_assert(sizeof(*insn) == 80, "ten words");
#define CLEAR_WORD(n) __builtin_memcpy(p + 8 * (n), &zero, 8)
	CLEAR_WORD(0), CLEAR_WORD(1), CLEAR_WORD(2), CLEAR_WORD(3), CLEAR_WORD(4);
	CLEAR_WORD(5), CLEAR_WORD(6), CLEAR_WORD(7), CLEAR_WORD(8), CLEAR_WORD(9);
#undef CLEAR_WORD
}

/* The first n (1..15) bytes of code, then zeroes. No loop that the compiler would make a call of memcpy(). */
static inline void copy_code(uint64_t copy[6], const uint8_t *code, unsigned n)
{
	uint8_t *to = (uint8_t *)copy;
	unsigned at = 0;

	for (unsigned i = 1; i < 6; i++)
		copy[i] = 0;
	if (likely(n == 15)) {
		__builtin_memcpy(to, code, 8);
		__builtin_memcpy(to + 7, code + 7, 8);
		return;
	}
	copy[0] = 0;
	if (n & 8) {
		__builtin_memcpy(to, code, 8);
		at = 8;
	}
	if (n & 4) {
		__builtin_memcpy(to + at, code + at, 4);
		at += 4;
	}
	if (n & 2) {
		__builtin_memcpy(to + at, code + at, 2);
		at += 2;
	}
	if (n & 1)
		to[at] = code[at];
}

/* Register numbers that are undefined: segment, control and debug registers. */
static void check_system(struct decoder *d, const struct x86_insn *insn)
{
	unsigned reg = insn->modrm >> 3 & 7, full = reg | (unsigned)(insn->rex & 4) << 1;

	switch (insn->op) {
	case X86_OP_MOV_FROM_SEG:
		d->invalid |= reg > X86_GS;
		break;
	case X86_OP_MOV_TO_SEG:
		d->invalid |= reg > X86_GS || reg == X86_CS;
		break;
	case X86_OP_MOV_FROM_CR:
	case X86_OP_MOV_TO_CR:
		d->invalid |= full != 0 && full != 2 && full != 3 && full != 4 && full != 8;
		break;
	case X86_OP_VMCALL:
	case X86_OP_MONITOR:
	case X86_OP_MWAIT:
	case X86_OP_CLAC:
	case X86_OP_STAC:
	case X86_OP_XGETBV:
	case X86_OP_XSETBV:
		d->invalid |= (insn->prefixes & (X86_PFX_66 | X86_PFX_F2 | X86_PFX_F3)) != 0;
		break;
	case X86_OP_MOV_FROM_DR:
	case X86_OP_MOV_TO_DR:
		d->invalid |= full > 7;
		break;
	}
}

int x86_decode(struct x86_insn *insn, const uint8_t *code, unsigned avail, enum x86_mode_bits mode)
{
	uint64_t copy[6]; /* room for what an overlong instruction makes us read */
	struct decoder d = { .is64 = mode == X86_CODE64, .seg = -1 };
	const struct opcode_desc *desc;
	unsigned limit = avail < 15 ? avail : 15;
	unsigned pos = 0, kind, prefixes = 0, rex = 0, rep = 0, osize, rule;
	uint64_t a;
	uint8_t byte;

	clear(insn);
	insn->base = insn->index = -1;
	insn->seg = X86_DS;
	if (avail < 32) { /* reads below may pass the end of a short or overlong instruction */
		copy_code(copy, code, limit);
		code = (const uint8_t *)copy;
	}
	d.code = code;

	for (;;) {
		byte = code[pos];
		kind = prefix_kind[byte];
		if (likely(kind == NOT_PREFIX))
			break;
		if (kind == IS_REX) {
			if (!d.is64)
				break;
			rex = byte;
		} else {
			rex = 0;
			switch (kind) {
			case IS_66:
				prefixes |= X86_PFX_66;
				break;
			case IS_67:
				prefixes |= X86_PFX_67;
				break;
			case IS_F2:
				prefixes |= X86_PFX_F2;
				rep = 3;
				break;
			case IS_F3:
				prefixes |= X86_PFX_F3;
				rep = 2;
				break;
			case IS_LOCK:
				prefixes |= X86_PFX_LOCK;
				break;
			default:
				prefixes |= X86_PFX_SEG;
				if (!d.is64 || kind >= IS_SEG + X86_FS)
					d.seg = (int8_t)(kind - IS_SEG);
				break;
			}
		}
		if (++pos >= limit)
			return limit >= 15 ? X86_DECODE_TOO_LONG : X86_DECODE_TRUNCATED;
	}
	if (rex)
		prefixes |= X86_PFX_REX;
	insn->prefixes = (uint8_t)prefixes;
	insn->rex = (uint8_t)rex;
	d.w = rex >> 3 & 1;
	d.prefix_index = (uint8_t)(rep ? rep : prefixes & X86_PFX_66);
	if (mode == X86_CODE64)
		insn->addrsize = prefixes & X86_PFX_67 ? 4 : 8;
	else
		insn->addrsize = (mode == X86_CODE16) == !(prefixes & X86_PFX_67) ? 2 : 4;
	d.default_opsize = (mode == X86_CODE16) == !(prefixes & X86_PFX_66) ? 2 : 4;
	d.pos = pos;

	/* The opcode */
	if (byte == 0x0f) {
		byte = code[pos + 1];
		if (byte == 0x38 || byte == 0x3a) {
			insn->map = byte == 0x38 ? X86_MAP_0F38 : X86_MAP_0F3A;
			insn->opcode = code[pos + 2];
			insn->opcode_offset = (uint8_t)(pos + 2);
			d.pos = pos + 3;
			desc = byte == 0x38 ? &x86_map_0f38[d.prefix_index][insn->opcode] :
					      &x86_map_0f3a[d.prefix_index][insn->opcode];
			insn->mandatory = mandatory_byte[d.prefix_index];
			if ((insn->opcode & 0xfe) == 0xf0 && d.prefix_index == 1)
				insn->mandatory = 0; /* movbe: 66 is the operand size */
		} else {
			insn->map = X86_MAP_0F;
			insn->opcode = byte;
			insn->opcode_offset = (uint8_t)(pos + 1);
			d.pos = pos + 2;
			desc = &x86_map_0f[byte];
			if (unlikely(byte == 0x0f))
				insn->map = X86_MAP_3DNOW;
		}
	} else if (unlikely(byte == 0xc4 || byte == 0xc5) && (d.is64 || code[pos + 1] >= 0xc0)) {
		desc = decode_vex(&d, insn);
	} else if (unlikely(byte == 0x62) && (d.is64 || code[pos + 1] >= 0xc0)) {
		desc = decode_evex(&d, insn);
	} else {
		insn->opcode = byte;
		insn->opcode_offset = (uint8_t)pos;
		d.pos = pos + 1;
		desc = &x86_map_1byte[byte];
	}

	a = desc->a;
	if (a & A_MODRM || A_GET_KIND(a) == K_MODE64) {
		insn->modrm = code[d.pos];
		insn->modrm_offset = (uint8_t)d.pos;
		insn->has_modrm = 1;
		d.pos++;
	}
	while (unlikely((kind = A_GET_KIND(a)) != K_INSN)) {
		unsigned index = A_GET_OP(a);

		if (!insn->has_modrm && kind != K_PREFIX) {
			insn->modrm = code[d.pos];
			insn->modrm_offset = (uint8_t)d.pos;
			insn->has_modrm = 1;
			d.pos++;
		}
		switch (kind) {
		case K_GROUP:
			desc = insn->encoding == X86_ENC_LEGACY ? &x86_desc_groups[index][insn->modrm >> 3 & 7] :
								  &x86_vex_groups[index][insn->modrm >> 3 & 7];
			break;
		case K_MOD:
			desc = &x86_desc_groups[index][insn->modrm >= 0xc0];
			break;
		case K_PREFIX:
			desc = &x86_desc_groups[index][d.prefix_index];
			insn->mandatory = mandatory_byte[d.prefix_index];
			break;
		case K_RM:
			desc = &x86_desc_groups[index][insn->modrm & 7];
			break;
		case K_X87:
			desc = insn->modrm >= 0xc0 ? &x86_desc_x87_reg[insn->opcode & 7][insn->modrm >> 3 & 7] :
						     &x86_desc_x87_mem[insn->opcode & 7][insn->modrm >> 3 & 7];
			if (insn->modrm >= 0xc0 && !(desc->v >> (insn->modrm & 7) & 1))
				d.invalid = true;
			break;
		default: /* K_MODE64 */
			desc = &x86_desc_groups[index][d.is64];
			break;
		}
		a = desc->a;
	}
	if (a & A_MODRM && !insn->has_modrm) {
		insn->modrm = code[d.pos];
		insn->modrm_offset = (uint8_t)d.pos;
		insn->has_modrm = 1;
		d.pos++;
	}

	insn->op_class = (uint8_t)A_GET_CLASS(a);
	insn->op = (uint16_t)A_GET_OP(a);
	insn->isa = (uint8_t)A_GET_ISA(a);
	insn->unit = (uint8_t)A_GET_UNIT(a);

	/* Special cases that tables express badly */
	if (unlikely(insn->map == X86_MAP_1BYTE && insn->opcode == 0x90 && !(insn->rex & 1))) {
		insn->op_class = prefixes & X86_PFX_F3 ? X86_CLASS_SYSTEM : X86_CLASS_COPY;
		insn->op = prefixes & X86_PFX_F3 ? X86_OP_PAUSE : X86_OP_NOP;
		insn->mandatory = prefixes & X86_PFX_F3 ? 0xf3 : 0;
		a &= ~(A_OPC_R | A_OPC_W | (31ull << 48));
	} else if (insn->map == X86_MAP_0F && insn->mandatory) {
		/* 66 is the operand size and F2 is nothing to bsf, bsr, rdrand and rdseed */
		if ((insn->opcode == 0xbc || insn->opcode == 0xbd || insn->opcode == 0xc7) && insn->mandatory != 0xf3)
			insn->mandatory = 0;
	}

	if (unlikely(insn->op_class == X86_CLASS_SYSTEM))
		check_system(&d, insn);

	/* ModRM */
	if (unlikely((a & A_REG_ALWAYS) == A_REG_ALWAYS)) {
		/* mov to and from control and debug registers: no memory form */
	} else if (insn->has_modrm && insn->op_class != X86_CLASS_INVALID) {
		if (insn->modrm < 0xc0) {
			if (unlikely(a & A_REG_ONLY))
				d.invalid = true;
			decode_memory(&d, insn, desc->v & V_VSIB && insn->encoding != X86_ENC_LEGACY);
			if (d.seg >= 0)
				insn->seg = (uint8_t)d.seg;
		} else if (unlikely(a & A_MEM_ONLY)) {
			d.invalid = true;
		}
	}

	/* Sizes */
	if (insn->encoding != X86_ENC_LEGACY)
		check_vector(&d, insn, desc);
	switch (A_GET_SIZE(a)) {
	case SZ_B:
		osize = 1;
		break;
	case SZ_D64:
		osize = d.is64 && (d.w || !(prefixes & X86_PFX_66)) ? 8 : d.default_opsize;
		break;
	case SZ_F64:
		osize = d.is64 ? 8 : d.default_opsize;
		break;
	case SZ_Y:
		osize = d.w ? 8 : 4;
		break;
	case SZ_W:
		osize = 2;
		break;
	case SZ_D:
		osize = 4;
		break;
	case SZ_M:
		osize = d.is64 ? 8 : 4;
		break;
	default:
		osize = d.w ? 8 : d.default_opsize;
		break;
	}
	insn->opsize = (uint8_t)osize;
	rule = A_GET_MEM(a);
	if (rule <= MEM_4 && rule != MEM_NONE && insn->op_class == X86_CLASS_COPY && insn->unit == X86_UNIT_INT &&
	    a & A_RM_GPR) { /* movzx, movsx, movsxd: the size of the source */
		insn->opsize = rule == MEM_4 ? 4 : (uint8_t)rule;
	}
	if (insn->unit == X86_UNIT_SSE)
		insn->vl = 16;

	if (A_GET_IMM(a)) {
		decode_immediate(&d, insn, A_GET_IMM(a));
		if (A_GET_IMM(a) == IMM_MOFFS) {
			insn->has_mem = 1;
			if (d.seg >= 0)
				insn->seg = (uint8_t)d.seg;
		}
	}
	if (insn->op_class == X86_CLASS_STRING || insn->op == X86_OP_XLAT)
		insn->seg = d.seg >= 0 ? (uint8_t)d.seg : X86_DS;

	if (insn->has_mem) {
		unsigned size = memory_size(&d, insn, rule);

		if (insn->encoding == X86_ENC_EVEX) {
			unsigned scale;

			if (d.broadcast) {
				unsigned bcast = V_GET_BCAST(desc->v);

				size = bcast == BCAST_W ? (d.w ? 8 : 4) : bcast == BCAST_4 ? 4 : bcast == BCAST_8 ? 8 : 2;
			}
			scale = V_GET_N(desc->v) == DISP_SIZE ? size :
				V_GET_N(desc->v) == DISP_W84  ? (d.w ? 8u : 4u) :
								(d.w ? 2u : 1u);
			if (insn->disp_size == 1)
				insn->disp *= (int32_t)scale;
			if (d.mask && !(desc->v & V_NF) && insn->op_class == X86_CLASS_COPY)
				insn->op = X86_OP_MASKED;
		}
		insn->mem_size = (uint16_t)size;
		insn->mem_access = (a & A_RM_R ? X86_MEM_R : 0) | (a & A_RM_W ? X86_MEM_W : 0);
		if (a & A_ALIGN)
			insn->align = (uint8_t)size;
	}
	if (insn->op == X86_OP_CMPXCHG8B16B && d.w)
		insn->isa = X86_ISA_CX16;
	else if (insn->op == X86_OP_PREFETCH && !insn->has_mem)
		insn->op = X86_OP_NOP;

	decode_registers(insn, a, osize);
	if (A_GET_FLAGS(a))
		decode_flags(insn, A_GET_FLAGS(a));

	if (unlikely(prefixes & X86_PFX_LOCK) && !(a & A_LOCK && insn->has_mem))
		d.invalid = true;
	if (unlikely(a & (A_NO64 | A_ONLY64)) && (a & A_NO64 ? d.is64 : !d.is64))
		d.invalid = true;
	if (unlikely(d.invalid))
		insn->op_class = X86_CLASS_INVALID;
	if (unlikely(d.pos > limit))
		return limit >= 15 ? X86_DECODE_TOO_LONG : X86_DECODE_TRUNCATED;
	insn->length = (uint8_t)d.pos;
	return (int)d.pos;
}
