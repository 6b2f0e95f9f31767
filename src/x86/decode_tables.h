/* SPDX-License-Identifier: MIT */
/*
 * Private to the decoder: the form of an opcode descriptor and the names of its tables.
 *
 * A descriptor is two words. `a` holds what every instruction has (class, operands, sizes, immediate,
 * flags), `v` what only VEX and EVEX encodings have. An all-zero descriptor is an undefined opcode.
 * A descriptor whose kind is not K_INSN points at a further table selected by the ModRM byte or by
 * the mandatory prefix.
 */
#ifndef LODGE_X86_DECODE_TABLES_H
#define LODGE_X86_DECODE_TABLES_H

#include "x86/decode.h"

struct opcode_desc {
	uint64_t a;
	uint32_t v;
};

/* ---- word a ---- */
#define A_FIELD(value, shift) ((uint64_t)(value) << (shift))
#define A_GET(a, shift, bits) ((unsigned)((a) >> (shift)) & ((1u << (bits)) - 1))

#define A_CLASS(x) A_FIELD(X86_CLASS_##x, 0) /* 3 bits */
#define A_GET_CLASS(a) A_GET(a, 0, 3)
#define A_OP(x) A_FIELD(X86_OP_##x, 3) /* 8 bits */
#define A_GET_OP(a) A_GET(a, 3, 8)
#define A_ISA(x) A_FIELD(X86_ISA_##x, 11) /* 6 bits */
#define A_GET_ISA(a) A_GET(a, 11, 6)
#define A_UNIT(x) A_FIELD(X86_UNIT_##x, 17) /* 3 bits */
#define A_GET_UNIT(a) A_GET(a, 17, 3)
#define A_FLAGS(x) A_FIELD(FL_##x, 20) /* 5 bits */
#define A_GET_FLAGS(a) A_GET(a, 20, 5)
#define A_MODRM A_FIELD(1, 25)
#define A_REG_R A_FIELD(1, 26) /* ModRM.reg is a GPR, read */
#define A_REG_W A_FIELD(1, 27)
#define A_RM_R A_FIELD(1, 28) /* the r/m operand (register or memory) is read */
#define A_RM_W A_FIELD(1, 29)
#define A_RM_GPR A_FIELD(1, 30) /* with mod = 3 the r/m operand is a GPR */
#define A_VVVV_R A_FIELD(1, 31) /* VEX.vvvv is a GPR, read */
#define A_VVVV_W A_FIELD(1, 32)
#define A_OPC_R A_FIELD(1, 33) /* the opcode's low three bits name a GPR, read */
#define A_OPC_W A_FIELD(1, 34)
#define A_SIZE(x) A_FIELD(SZ_##x, 35) /* 3 bits: operand size rule */
#define A_GET_SIZE(a) A_GET(a, 35, 3)
#define A_MEM(x) A_FIELD(MEM_##x, 38) /* 6 bits: size of the memory operand */
#define A_GET_MEM(a) A_GET(a, 38, 6)
#define A_IMM(x) A_FIELD(IMM_##x, 44) /* 4 bits */
#define A_GET_IMM(a) A_GET(a, 44, 4)
#define A_IMPL(x) A_FIELD(IMPL_##x, 48) /* 5 bits: implicit registers */
#define A_GET_IMPL(a) A_GET(a, 48, 5)
#define A_LOCK A_FIELD(1, 53)     /* LOCK allowed with a memory destination */
#define A_MEM_ONLY A_FIELD(1, 54) /* mod = 3 is undefined */
#define A_REG_ONLY A_FIELD(1, 55) /* mod != 3 is undefined */
#define A_REG_ALWAYS (A_MEM_ONLY | A_REG_ONLY) /* mod is ignored: register form */
#define A_ALIGN A_FIELD(1, 56)    /* the memory operand must be aligned to its size */
#define A_NO64 A_FIELD(1, 57)
#define A_ONLY64 A_FIELD(1, 58)
#define A_REG_BYTE A_FIELD(1, 59) /* ModRM.reg (or the opcode's register) is a byte register */
#define A_KIND(x) A_FIELD(K_##x, 60) /* 4 bits */
#define A_GET_KIND(a) A_GET(a, 60, 4)
#define A_INDEX(n) A_FIELD(n, 3) /* table number, in the place of the op */

enum desc_kind {
	K_INSN,
	K_GROUP,  /* 8 descriptors by ModRM.reg */
	K_MOD,    /* 2 descriptors: memory form, register form */
	K_PREFIX, /* 4 descriptors by mandatory prefix: none, 66, F3, F2 */
	K_RM,     /* 8 descriptors by ModRM.rm (register forms) */
	K_X87,    /* D8..DF */
	K_MODE64, /* 2 descriptors: 16/32-bit modes, 64-bit mode */
};

/* Operand size rules */
enum {
	SZ_V,   /* 8 with REX.W, 2 or 4 by mode and 66 */
	SZ_B,   /* 1 */
	SZ_D64, /* in 64-bit mode 8 unless 66; else as V */
	SZ_F64, /* in 64-bit mode 8 always; else as V */
	SZ_Y,   /* 8 with REX.W, else 4 */
	SZ_W,   /* 2 */
	SZ_D,   /* 4 */
	SZ_M,   /* 8 in 64-bit mode, else 4 */
};

/* Sizes of memory operands */
enum {
	MEM_NONE, /* address only, or no memory form */
	MEM_1, MEM_2, MEM_4, MEM_8, MEM_10, MEM_16, MEM_32, MEM_64,
	MEM_V,    /* the operand size */
	MEM_Y,    /* REX.W ? 8 : 4 */
	MEM_2V,   /* twice the operand size */
	MEM_FAR,  /* operand size + 2 */
	MEM_DT,   /* pseudo-descriptor: 10 in 64-bit mode, else 6 */
	MEM_ENV,  /* x87 environment: 14 or 28 */
	MEM_SAVE, /* x87 state: 94 or 108 */
	MEM_512,
	MEM_VL, MEM_VL2, MEM_VL4, MEM_VL8, /* vector length, half, quarter, eighth */
	MEM_DUP,  /* movddup: 8 at 128 bits, else the vector length */
	MEM_W84,  /* element: W ? 8 : 4 */
	MEM_W21,  /* element: W ? 2 : 1 */
	MEM_HW,   /* W ? vector length : half of it */
	MEM_KQW,  /* W ? 8 : 2 */
	MEM_KDB,  /* W ? 4 : 1 */
	MEM_COUNT
};

/* Immediates */
enum {
	IMM_NONE,
	IMM_B,    /* 1, sign-extended */
	IMM_UB,   /* 1, zero-extended */
	IMM_W,    /* 2, zero-extended */
	IMM_Z,    /* 2 or 4, sign-extended */
	IMM_V,    /* 2, 4 or 8 */
	IMM_WB,   /* 2 and 1: enter */
	IMM_FAR,  /* offset (2 or 4) and selector (2) */
	IMM_MOFFS,
	IMM_RELB, /* 1, sign-extended */
	IMM_RELZ, /* 4 in 64-bit mode, else 2 or 4 */
	IMM_BB,   /* two bytes: extrq, insertq */
};

/* Implicit general-purpose registers; see implicit_gprs[] */
enum {
	IMPL_NONE,
	IMPL_A_R,
	IMPL_A_W,
	IMPL_A_RW,
	IMPL_C_R,
	IMPL_MUL,     /* reads A; writes A, and D unless byte-sized */
	IMPL_DIV,     /* reads and writes A, and D unless byte-sized */
	IMPL_CWD,     /* reads A, writes D */
	IMPL_CX8B,    /* cmpxchg8b/16b: reads A B C D, writes A D */
	IMPL_XLAT,    /* reads A B, writes A */
	IMPL_D_R,
	IMPL_PCMPESTRI, /* reads A D, writes C */
	IMPL_PCMPESTRM, /* reads A D */
	IMPL_PCMPISTRI, /* writes C */
	IMPL_CPUID,   /* reads A C, writes A B C D */
	IMPL_AD_W,    /* rdtsc */
	IMPL_ACD_W,   /* rdtscp */
	IMPL_MSR_R,   /* reads C, writes A D */
	IMPL_MSR_W,   /* reads A C D */
	IMPL_AD_R,    /* xsave and friends */
	IMPL_DI_R,
	IMPL_SP,      /* reads and writes SP */
	IMPL_SP_BP,
	IMPL_SP_ALL,
	IMPL_C_RW,    /* loop */
	IMPL_STR_SI_DI, /* string: SI and DI, and C when repeated */
	IMPL_STR_DI,
	IMPL_STR_SI,
	IMPL_SYSCALL, /* writes C, R11 */
	IMPL_AH_W,    /* lahf */
	IMPL_AC_R,    /* mwait, monitor (with D) */
	IMPL_COUNT
};

/* Patterns of arithmetic flags; see flag_patterns[] */
enum {
	FL_NONE,
	FL_ARITH,  /* writes all six */
	FL_ADC,    /* reads CF, writes all six */
	FL_INCDEC, /* writes all but CF */
	FL_LOGIC,
	FL_BT,     /* writes CF */
	FL_BSF,    /* writes ZF */
	FL_MUL,
	FL_DIV,
	FL_ROT,    /* rotate: CF, OF */
	FL_RCL,    /* rotate through carry: reads CF */
	FL_SHIFT,
	FL_CC,     /* reads the condition in the opcode's low four bits */
	FL_CF_W,   /* stc, clc */
	FL_CF_RW,  /* cmc */
	FL_LAHF,   /* reads SF ZF AF PF CF */
	FL_SAHF,   /* writes them */
	FL_DAA,    /* reads CF AF, writes all */
	FL_AAA,    /* reads AF, writes all */
	FL_ALL_W,  /* writes all, and DF: popf, iret */
	FL_ALL_R,  /* reads all, and DF: pushf, int */
	FL_DF_W,
	FL_DF_R,   /* movs and friends */
	FL_CMPS,   /* reads DF, writes all (maybe, when repeated) */
	FL_OF_R,   /* into */
	FL_ADCX,   /* reads and writes CF */
	FL_ADOX,   /* reads and writes OF */
	FL_ZF_W,
	FL_FCMOV,  /* reads the condition of fcmov */
	FL_CF_R,   /* salc */
	FL_ZF_R,   /* loope */
	FL_LZCNT,
};

/* ---- word v ---- */
#define V_W0 1u
#define V_W1 2u
#define V_L(x) ((uint32_t)VLEN_##x << 2) /* 3 bits */
#define V_GET_L(v) (((v) >> 2) & 7)
#define V_NDS (1u << 5) /* vvvv names an operand */
#define V_BCAST(x) ((uint32_t)BCAST_##x << 6) /* 3 bits: embedded broadcast allowed, element size */
#define V_GET_BCAST(v) (((v) >> 6) & 7)
#define V_MASK (1u << 9)   /* opmask allowed */
#define V_ZERO (1u << 10)  /* zeroing allowed */
#define V_ROUND (1u << 11) /* embedded rounding or suppress-all-exceptions in register form */
#define V_NF (1u << 12)    /* masked-out elements may fault */
#define V_N(x) ((uint32_t)DISP_##x << 13) /* 2 bits: scale of disp8 where it is not the memory size */
#define V_GET_N(v) (((v) >> 13) & 3)
#define V_VSIB (1u << 15)
#define V_MASK_REQ (1u << 16) /* opmask k0 is undefined */
#define V_MASKMOV (1u << 17)  /* VEX-encoded masked move */
#define V_W64 (1u << 18)      /* W is ignored outside 64-bit mode (it sizes a GPR) */
#define V_AVX1 (1u << 19)     /* the 128-bit form belongs to the older feature: see decode.c */
#define V_NDS_REG (1u << 20)  /* vvvv names an operand in the register form only */
#define V_KREG (1u << 21)     /* ModRM.reg is an opmask register: only 0..7 are defined */
#define V_KVVVV (1u << 22)    /* vvvv is an opmask register */

enum { VLEN_ANY, VLEN_128, VLEN_256, VLEN_IGN, VLEN_512, VLEN_256UP };
enum { BCAST_NONE, BCAST_W, BCAST_4, BCAST_8, BCAST_2 };
enum { DISP_SIZE, DISP_W84, DISP_W21 };

extern const struct opcode_desc x86_map_1byte[256];
extern const struct opcode_desc x86_map_0f[256];
extern const struct opcode_desc x86_map_0f38[4][256];
extern const struct opcode_desc x86_map_0f3a[4][256];
extern const struct opcode_desc x86_map_vex[3][4][256];
extern const struct opcode_desc x86_map_evex[3][4][256];
extern const struct opcode_desc x86_desc_groups[][8];
/* Rows of x86_vex_groups[]: VEX groups, then EVEX groups */
enum { VG_71, VG_72, VG_73, VG_AE, VG_F3, EG_71, EG_72, EG_73, EG_C6, EG_C7 };
extern const struct opcode_desc x86_vex_groups[][8];
extern const struct opcode_desc x86_desc_x87_mem[8][8];
extern const struct opcode_desc x86_desc_x87_reg[8][8];

#endif
