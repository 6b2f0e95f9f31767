/* SPDX-License-Identifier: MIT */
/*
 * The VEX opcode maps (Intel SDM volume 2, sections 2.3 and 3-5): AVX, AVX2, FMA, BMI, F16C, VAES, GFNI,
 * AVX-VNNI and the opmask instructions. Rows are [map - 1][pp][opcode].
 */
#include "x86/decode_tables.h"

#define C A_CLASS(COPY)
#define M A_MODRM
#define V(isa) (C | M | A_FIELD(X86_UNIT_AVX, 17) | A_FIELD(X86_ISA_##isa, 11))
#define K (C | M | A_UNIT(AVX512) | A_ISA(AVX512))
#define GP(isa) (C | M | A_FIELD(X86_ISA_##isa, 11))
#define R(s) (A_RM_R | A_FIELD(MEM_##s, 38))
#define W(s) (A_RM_W | A_FIELD(MEM_##s, 38))
#define RG(s) (R(s) | A_RM_GPR)
#define WG(s) (W(s) | A_RM_GPR)
#define RVL R(VL)
#define AL A_ALIGN
#define IB A_IMM(UB)
#define GW A_REG_W
#define REGO A_REG_ONLY
#define MEMO A_MEM_ONLY
#define F(x) A_FIELD(FL_##x, 20)
#define GY A_SIZE(Y)
#define GD A_SIZE(D)
#define L(x) V_L(x)
#define NDS V_NDS

/* Common shapes: three operands and two operands with a full-vector source; with a scalar source. */
#define V3(op) [op] = { V(AVX) | RVL, NDS }
#define V2(op) [op] = { V(AVX) | RVL, 0 }
#define V3I(op) [op] = { V(AVX) | RVL | IB, NDS }
#define V2I(op) [op] = { V(AVX) | RVL | IB, 0 }
#define S3(op, s) [op] = { V(AVX) | R(s), NDS | L(IGN) }
/* Integer operations: AVX at 128 bits, AVX2 at 256 (decode.c raises the feature). */
#define I3(op) [op] = { V(AVX2) | RVL, NDS | V_AVX1 }
#define I2(op) [op] = { V(AVX2) | RVL, V_AVX1 }
#define I2I(op) [op] = { V(AVX2) | RVL | IB, V_AVX1 }
#define ISH(op) [op] = { V(AVX2) | R(16), NDS | V_AVX1 }
#define FMA_P(op) [op] = { V(FMA) | RVL, NDS }
#define FMA_S(op) [op] = { V(FMA) | R(W84), NDS | L(IGN) }
#define KOP(op) [op] = { K | REGO, NDS | L(256) | V_KREG | V_KVVVV }
#define KOP1(op) [op] = { K | REGO, L(128) | V_KREG }
#define KTEST(op) [op] = { K | REGO | F(ARITH), L(128) | V_KREG }
#define GRP(op, n) [op] = { A_KIND(GROUP) | M | A_FIELD(n, 3), 0 }

const struct opcode_desc x86_vex_groups[][8] = {
	[VG_71] = { [2] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [4] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [6] = { V(AVX2) | REGO | IB, NDS | V_AVX1 } },
	[VG_72] = { [2] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [4] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [6] = { V(AVX2) | REGO | IB, NDS | V_AVX1 } },
	[VG_73] = { [2] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [3] = { V(AVX2) | REGO | IB, NDS | V_AVX1 },
		    [6] = { V(AVX2) | REGO | IB, NDS | V_AVX1 }, [7] = { V(AVX2) | REGO | IB, NDS | V_AVX1 } },
	[VG_AE] = { [2] = { V(AVX) | A_OP(LDMXCSR) | R(4) | MEMO, L(128) }, [3] = { V(AVX) | A_OP(STMXCSR) | W(4) | MEMO, L(128) } },
#define BLS { GP(BMI1) | RG(V) | GY | A_VVVV_W | F(ARITH), L(128) | NDS | V_W64 }
	[VG_F3] = { [1] = BLS, [2] = BLS, [3] = BLS },
	/* EVEX */
#define EI { C | M | A_UNIT(AVX512) | A_ISA(AVX512) | RVL | IB, NDS | V_MASK | V_ZERO }
#define EW(bc, w) { C | M | A_UNIT(AVX512) | A_ISA(AVX512) | RVL | IB, NDS | V_MASK | V_ZERO | V_BCAST(bc) | w }
#define EN { C | M | A_UNIT(AVX512) | A_ISA(AVX512) | RVL | IB, NDS }
	[EG_71] = { [2] = EI, [4] = EI, [6] = EI },
	[EG_72] = { [0] = EW(W, 0), [1] = EW(W, 0), [2] = EW(W, V_W0), [4] = EW(W, 0), [6] = EW(W, V_W0) },
	[EG_73] = { [2] = EW(W, V_W1), [3] = EN, [6] = EW(W, V_W1), [7] = EN },
};

const struct opcode_desc x86_map_vex[3][4][256] = {
	{ /* 0F */
	  { /* none */
	    [0x10] = { V(AVX) | RVL, 0 }, [0x11] = { V(AVX) | W(VL), 0 },
	    [0x12] = { V(AVX) | R(8), NDS | L(128) }, [0x13] = { V(AVX) | W(8) | MEMO, L(128) },
	    V3(0x14), V3(0x15),
	    [0x16] = { V(AVX) | R(8), NDS | L(128) }, [0x17] = { V(AVX) | W(8) | MEMO, L(128) },
	    [0x28] = { V(AVX) | RVL | AL, 0 }, [0x29] = { V(AVX) | W(VL) | AL, 0 },
	    [0x2b] = { V(AVX) | W(VL) | AL | MEMO, 0 },
	    [0x2e] = { V(AVX) | R(4) | F(ARITH), L(IGN) }, [0x2f] = { V(AVX) | R(4) | F(ARITH), L(IGN) },
	    KOP(0x41), KOP(0x42), KOP1(0x44), KOP(0x45), KOP(0x46), KOP(0x47), KOP(0x4a), KOP(0x4b),
	    [0x50] = { V(AVX) | REGO | GW | GD, 0 },
	    V2(0x51), V2(0x52), V2(0x53), V3(0x54), V3(0x55), V3(0x56), V3(0x57), V3(0x58), V3(0x59),
	    [0x5a] = { V(AVX) | R(VL2), 0 }, V2(0x5b), V3(0x5c), V3(0x5d), V3(0x5e), V3(0x5f),
	    [0x77] = { (V(AVX) & ~M), 0 },
	    [0x90] = { K | R(KQW), L(128) | V_KREG }, [0x91] = { K | W(KQW) | MEMO, L(128) | V_KREG },
	    [0x92] = { K | REGO | RG(NONE) | GD, L(128) | V_KREG | V_W0 }, [0x93] = { K | REGO | GW | GD, L(128) | V_W0 },
	    KTEST(0x98), KTEST(0x99),
	    GRP(0xae, VG_AE),
	    V3I(0xc2), V3I(0xc6) },
	  { /* 66 */
	    [0x10] = { V(AVX) | RVL, 0 }, [0x11] = { V(AVX) | W(VL), 0 },
	    [0x12] = { V(AVX) | R(8) | MEMO, NDS | L(128) }, [0x13] = { V(AVX) | W(8) | MEMO, L(128) },
	    V3(0x14), V3(0x15),
	    [0x16] = { V(AVX) | R(8) | MEMO, NDS | L(128) }, [0x17] = { V(AVX) | W(8) | MEMO, L(128) },
	    [0x28] = { V(AVX) | RVL | AL, 0 }, [0x29] = { V(AVX) | W(VL) | AL, 0 },
	    [0x2b] = { V(AVX) | W(VL) | AL | MEMO, 0 },
	    [0x2e] = { V(AVX) | R(8) | F(ARITH), L(IGN) }, [0x2f] = { V(AVX) | R(8) | F(ARITH), L(IGN) },
	    KOP(0x41), KOP(0x42), KOP1(0x44), KOP(0x45), KOP(0x46), KOP(0x47), KOP(0x4a), [0x4b] = { K | REGO, NDS | L(256) | V_W0 | V_KREG | V_KVVVV },
	    [0x50] = { V(AVX) | REGO | GW | GD, 0 },
	    V2(0x51), V3(0x54), V3(0x55), V3(0x56), V3(0x57), V3(0x58), V3(0x59),
	    V2(0x5a), V2(0x5b), V3(0x5c), V3(0x5d), V3(0x5e), V3(0x5f),
	    I3(0x60), I3(0x61), I3(0x62), I3(0x63), I3(0x64), I3(0x65), I3(0x66), I3(0x67), I3(0x68), I3(0x69), I3(0x6a),
	    I3(0x6b), I3(0x6c), I3(0x6d),
	    [0x6e] = { V(AVX) | RG(Y) | GY, L(128) | V_W64 }, [0x6f] = { V(AVX) | RVL | AL, 0 },
	    I2I(0x70), GRP(0x71, VG_71), GRP(0x72, VG_72), GRP(0x73, VG_73),
	    I3(0x74), I3(0x75), I3(0x76), V3(0x7c), V3(0x7d),
	    [0x7e] = { V(AVX) | WG(Y) | GY, L(128) | V_W64 }, [0x7f] = { V(AVX) | W(VL) | AL, 0 },
	    [0x90] = { K | R(KDB), L(128) | V_KREG }, [0x91] = { K | W(KDB) | MEMO, L(128) | V_KREG },
	    [0x92] = { K | REGO | RG(NONE) | GD, L(128) | V_KREG | V_W0 }, [0x93] = { K | REGO | GW | GD, L(128) | V_W0 },
	    KTEST(0x98), KTEST(0x99),
	    V3I(0xc2),
	    [0xc4] = { V(AVX) | RG(2) | GD | IB, NDS | L(128) }, [0xc5] = { V(AVX) | REGO | GW | GD | IB, L(128) },
	    V3I(0xc6), V3(0xd0),
	    ISH(0xd1), ISH(0xd2), ISH(0xd3), I3(0xd4), I3(0xd5), [0xd6] = { V(AVX) | W(8), L(128) },
	    [0xd7] = { V(AVX2) | REGO | GW | GD, V_AVX1 },
	    I3(0xd8), I3(0xd9), I3(0xda), I3(0xdb), I3(0xdc), I3(0xdd), I3(0xde), I3(0xdf), I3(0xe0),
	    ISH(0xe1), ISH(0xe2), I3(0xe3), I3(0xe4), I3(0xe5), V2(0xe6), [0xe7] = { V(AVX) | W(VL) | AL | MEMO, 0 },
	    I3(0xe8), I3(0xe9), I3(0xea), I3(0xeb), I3(0xec), I3(0xed), I3(0xee), I3(0xef),
	    ISH(0xf1), ISH(0xf2), ISH(0xf3), I3(0xf4), I3(0xf5), I3(0xf6),
	    [0xf7] = { A_CLASS(MULTIMEM) | M | REGO | A_UNIT(AVX) | A_ISA(AVX) | A_IMPL(DI_R), L(128) },
	    I3(0xf8), I3(0xf9), I3(0xfa), I3(0xfb), I3(0xfc), I3(0xfd), I3(0xfe) },
	  { /* F3 */
	    [0x10] = { V(AVX) | R(4), L(IGN) | V_NDS_REG }, [0x11] = { V(AVX) | W(4), L(IGN) | V_NDS_REG },
	    V2(0x12), V2(0x16),
	    [0x2a] = { V(AVX) | RG(Y) | GY, NDS | L(IGN) | V_W64 },
	    [0x2c] = { V(AVX) | R(4) | GW | GY, L(IGN) | V_W64 }, [0x2d] = { V(AVX) | R(4) | GW | GY, L(IGN) | V_W64 },
	    S3(0x51, 4), S3(0x52, 4), S3(0x53, 4), S3(0x58, 4), S3(0x59, 4), S3(0x5a, 4), V2(0x5b), S3(0x5c, 4), S3(0x5d, 4),
	    S3(0x5e, 4), S3(0x5f, 4),
	    [0x6f] = { V(AVX) | RVL, 0 }, I2I(0x70), [0x7e] = { V(AVX) | R(8), L(128) }, [0x7f] = { V(AVX) | W(VL), 0 },
	    [0xc2] = { V(AVX) | R(4) | IB, NDS | L(IGN) }, [0xe6] = { V(AVX) | R(VL2), 0 } },
	  { /* F2 */
	    [0x10] = { V(AVX) | R(8), L(IGN) | V_NDS_REG }, [0x11] = { V(AVX) | W(8), L(IGN) | V_NDS_REG },
	    [0x12] = { V(AVX) | R(DUP), 0 },
	    [0x2a] = { V(AVX) | RG(Y) | GY, NDS | L(IGN) | V_W64 },
	    [0x2c] = { V(AVX) | R(8) | GW | GY, L(IGN) | V_W64 }, [0x2d] = { V(AVX) | R(8) | GW | GY, L(IGN) | V_W64 },
	    S3(0x51, 8), S3(0x58, 8), S3(0x59, 8), S3(0x5a, 8), S3(0x5c, 8), S3(0x5d, 8), S3(0x5e, 8), S3(0x5f, 8),
	    I2I(0x70), V3(0x7c), V3(0x7d),
	    [0x92] = { K | REGO | RG(NONE) | GY, L(128) | V_KREG | V_W64 }, [0x93] = { K | REGO | GW | GY, L(128) | V_W64 },
	    [0xc2] = { V(AVX) | R(8) | IB, NDS | L(IGN) }, V3(0xd0), V2(0xe6), [0xf0] = { V(AVX) | RVL | MEMO, 0 } } },
	{ /* 0F38 */
	  { /* none */
	    [0xf2] = { GP(BMI1) | RG(V) | GY | GW | A_VVVV_R | F(ARITH), NDS | L(128) | V_W64 },
	    GRP(0xf3, VG_F3),
	    [0xf5] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R | F(ARITH), NDS | L(128) | V_W64 },
	    [0xf7] = { GP(BMI1) | RG(V) | GY | GW | A_VVVV_R | F(ARITH), NDS | L(128) | V_W64 } },
	  { /* 66 */
	    I3(0x00), I3(0x01), I3(0x02), I3(0x03), I3(0x04), I3(0x05), I3(0x06), I3(0x07), I3(0x08), I3(0x09), I3(0x0a),
	    I3(0x0b), [0x0c] = { V(AVX) | RVL, NDS | V_W0 }, [0x0d] = { V(AVX) | RVL, NDS | V_W0 },
	    [0x0e] = { V(AVX) | RVL | F(ARITH), V_W0 }, [0x0f] = { V(AVX) | RVL | F(ARITH), V_W0 },
	    [0x13] = { V(F16C) | R(VL2), V_W0 }, [0x16] = { V(AVX2) | RVL, NDS | V_W0 | L(256) },
	    [0x17] = { V(AVX) | RVL | F(ARITH), 0 },
	    [0x18] = { V(AVX) | R(4), V_W0 }, [0x19] = { V(AVX) | R(8), V_W0 | L(256) },
	    [0x1a] = { V(AVX) | R(16) | MEMO, V_W0 | L(256) },
	    I2(0x1c), I2(0x1d), I2(0x1e),
	    [0x20] = { V(AVX2) | R(VL2), V_AVX1 }, [0x21] = { V(AVX2) | R(VL4), V_AVX1 }, [0x22] = { V(AVX2) | R(VL8), V_AVX1 },
	    [0x23] = { V(AVX2) | R(VL2), V_AVX1 }, [0x24] = { V(AVX2) | R(VL4), V_AVX1 }, [0x25] = { V(AVX2) | R(VL2), V_AVX1 },
	    I3(0x28), I3(0x29), [0x2a] = { V(AVX2) | RVL | AL | MEMO, V_AVX1 }, I3(0x2b),
	    [0x2c] = { V(AVX) | A_OP(MASKED) | RVL | MEMO, NDS | V_W0 }, [0x2d] = { V(AVX) | A_OP(MASKED) | RVL | MEMO, NDS | V_W0 },
	    [0x2e] = { V(AVX) | A_OP(MASKED) | W(VL) | MEMO, NDS | V_W0 }, [0x2f] = { V(AVX) | A_OP(MASKED) | W(VL) | MEMO, NDS | V_W0 },
	    [0x30] = { V(AVX2) | R(VL2), V_AVX1 }, [0x31] = { V(AVX2) | R(VL4), V_AVX1 }, [0x32] = { V(AVX2) | R(VL8), V_AVX1 },
	    [0x33] = { V(AVX2) | R(VL2), V_AVX1 }, [0x34] = { V(AVX2) | R(VL4), V_AVX1 }, [0x35] = { V(AVX2) | R(VL2), V_AVX1 },
	    [0x36] = { V(AVX2) | RVL, NDS | V_W0 | L(256) }, I3(0x37), I3(0x38), I3(0x39), I3(0x3a), I3(0x3b), I3(0x3c),
	    I3(0x3d), I3(0x3e), I3(0x3f), I3(0x40), [0x41] = { V(AVX) | R(16), L(128) },
	    [0x45] = { V(AVX2) | RVL, NDS }, [0x46] = { V(AVX2) | RVL, NDS | V_W0 }, [0x47] = { V(AVX2) | RVL, NDS },
	    [0x50] = { V(AVX_VNNI) | RVL, NDS | V_W0 }, [0x51] = { V(AVX_VNNI) | RVL, NDS | V_W0 },
	    [0x52] = { V(AVX_VNNI) | RVL, NDS | V_W0 }, [0x53] = { V(AVX_VNNI) | RVL, NDS | V_W0 },
	    [0x58] = { V(AVX2) | R(4), V_W0 }, [0x59] = { V(AVX2) | R(8), V_W0 }, [0x5a] = { V(AVX2) | R(16) | MEMO, V_W0 | L(256) },
	    [0x78] = { V(AVX2) | R(1), V_W0 }, [0x79] = { V(AVX2) | R(2), V_W0 },
	    [0x8c] = { V(AVX2) | A_OP(MASKED) | RVL | MEMO, NDS }, [0x8e] = { V(AVX2) | A_OP(MASKED) | W(VL) | MEMO, NDS },
#define GATHER { A_CLASS(MULTIMEM) | M | A_UNIT(AVX) | A_ISA(AVX2) | R(W84) | MEMO, NDS | V_VSIB }
	    [0x90] = GATHER, [0x91] = GATHER, [0x92] = GATHER, [0x93] = GATHER,
	    FMA_P(0x96), FMA_P(0x97), FMA_P(0x98), FMA_S(0x99), FMA_P(0x9a), FMA_S(0x9b), FMA_P(0x9c), FMA_S(0x9d),
	    FMA_P(0x9e), FMA_S(0x9f), FMA_P(0xa6), FMA_P(0xa7), FMA_P(0xa8), FMA_S(0xa9), FMA_P(0xaa), FMA_S(0xab),
	    FMA_P(0xac), FMA_S(0xad), FMA_P(0xae), FMA_S(0xaf), FMA_P(0xb6), FMA_P(0xb7), FMA_P(0xb8), FMA_S(0xb9),
	    FMA_P(0xba), FMA_S(0xbb), FMA_P(0xbc), FMA_S(0xbd), FMA_P(0xbe), FMA_S(0xbf),
	    [0xcf] = { V(GFNI) | RVL, NDS | V_W0 },
	    [0xdb] = { V(AES) | RVL, L(128) }, [0xdc] = { V(VAES) | RVL, NDS | V_AVX1 }, [0xdd] = { V(VAES) | RVL, NDS | V_AVX1 },
	    [0xde] = { V(VAES) | RVL, NDS | V_AVX1 }, [0xdf] = { V(VAES) | RVL, NDS | V_AVX1 },
	    [0xf7] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R, NDS | L(128) | V_W64 } },
	  { /* F3 */
	    [0xf5] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R, NDS | L(128) | V_W64 },
	    [0xf7] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R, NDS | L(128) | V_W64 } },
	  { /* F2 */
	    [0xf5] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R, NDS | L(128) | V_W64 },
	    [0xf6] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_W | A_IMPL(D_R), NDS | L(128) | V_W64 },
	    [0xf7] = { GP(BMI2) | RG(V) | GY | GW | A_VVVV_R, NDS | L(128) | V_W64 } } },
	{ /* 0F3A */
	  { { 0 } },
	  { /* 66 */
	    [0x00] = { V(AVX2) | RVL | IB, V_W1 | L(256) }, [0x01] = { V(AVX2) | RVL | IB, V_W1 | L(256) },
	    [0x02] = { V(AVX2) | RVL | IB, NDS | V_W0 }, [0x04] = { V(AVX) | RVL | IB, V_W0 }, [0x05] = { V(AVX) | RVL | IB, V_W0 },
	    [0x06] = { V(AVX) | RVL | IB, NDS | V_W0 | L(256) },
	    V2I(0x08), V2I(0x09), [0x0a] = { V(AVX) | R(4) | IB, NDS | L(IGN) }, [0x0b] = { V(AVX) | R(8) | IB, NDS | L(IGN) },
	    V3I(0x0c), V3I(0x0d), [0x0e] = { V(AVX2) | RVL | IB, NDS | V_AVX1 }, [0x0f] = { V(AVX2) | RVL | IB, NDS | V_AVX1 },
	    [0x14] = { V(AVX) | WG(1) | GD | IB, L(128) }, [0x15] = { V(AVX) | WG(2) | GD | IB, L(128) },
	    [0x16] = { V(AVX) | WG(Y) | GY | IB, L(128) | V_W64 }, [0x17] = { V(AVX) | WG(4) | GD | IB, L(128) },
	    [0x18] = { V(AVX) | R(16) | IB, NDS | V_W0 | L(256) }, [0x19] = { V(AVX) | W(16) | IB, V_W0 | L(256) },
	    [0x1d] = { V(F16C) | W(VL2) | IB, V_W0 },
	    [0x20] = { V(AVX) | RG(1) | GD | IB, NDS | L(128) }, [0x21] = { V(AVX) | R(4) | IB, NDS | L(128) },
	    [0x22] = { V(AVX) | RG(Y) | GY | IB, NDS | L(128) | V_W64 },
	    [0x30] = { K | REGO | IB, L(128) | V_KREG }, [0x31] = { K | REGO | IB, L(128) | V_KREG }, [0x32] = { K | REGO | IB, L(128) | V_KREG },
	    [0x33] = { K | REGO | IB, L(128) | V_KREG },
	    [0x38] = { V(AVX2) | R(16) | IB, NDS | V_W0 | L(256) }, [0x39] = { V(AVX2) | W(16) | IB, V_W0 | L(256) },
	    V3I(0x40), [0x41] = { V(AVX) | RVL | IB, NDS | L(128) }, [0x42] = { V(AVX2) | RVL | IB, NDS | V_AVX1 },
	    [0x44] = { V(VPCLMUL) | RVL | IB, NDS | V_AVX1 }, [0x46] = { V(AVX2) | RVL | IB, NDS | V_W0 | L(256) },
	    [0x4a] = { V(AVX) | RVL | IB, NDS | V_W0 }, [0x4b] = { V(AVX) | RVL | IB, NDS | V_W0 },
	    [0x4c] = { V(AVX2) | RVL | IB, NDS | V_W0 | V_AVX1 },
	    [0x60] = { V(AVX) | R(16) | IB | A_IMPL(PCMPESTRM) | GY | F(ARITH), L(128) },
	    [0x61] = { V(AVX) | R(16) | IB | A_IMPL(PCMPESTRI) | GY | F(ARITH), L(128) },
	    [0x62] = { V(AVX) | R(16) | IB | F(ARITH), L(128) },
	    [0x63] = { V(AVX) | R(16) | IB | A_IMPL(PCMPISTRI) | GY | F(ARITH), L(128) },
	    [0xce] = { V(GFNI) | RVL | IB, NDS | V_W1 }, [0xcf] = { V(GFNI) | RVL | IB, NDS | V_W1 },
	    [0xdf] = { V(AES) | RVL | IB, L(128) } },
	  { { 0 } },
	  { /* F2 */
	    [0xf0] = { GP(BMI2) | RG(V) | GY | GW | IB, L(128) | V_W64 } } },
};
