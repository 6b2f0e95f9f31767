/* SPDX-License-Identifier: MIT */
/*
 * The EVEX opcode maps (Intel SDM volume 2, sections 2.7 and 3-5): AVX-512 F, CD, BW, DQ, VL, IFMA, VBMI,
 * VBMI2, VNNI, BITALG, VPOPCNTDQ, BF16, VP2INTERSECT, and EVEX forms of GFNI, VAES and VPCLMULQDQ. Rows are
 * [map - 1][pp][opcode]. AVX512-FP16 (maps 5 and 6) is not offered to guests.
 *
 * "NF" marks instructions whose memory operand faults even where masked out (exception classes E4NF,
 * E5NF and so on).
 */
#include "x86/decode_tables.h"

#define C A_CLASS(COPY)
#define M A_MODRM
#define V (C | M | A_UNIT(AVX512) | A_ISA(AVX512))
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
#define MZ (V_MASK | V_ZERO)
#define MK V_MASK
#define W0 V_W0
#define W1 V_W1
#define NF V_NF
#define ER V_ROUND
#define BW V_BCAST(W)
#define B4 (V_BCAST(4) | V_W0)
#define B8 (V_BCAST(8) | V_W1)

/* Three operands, two operands, comparison into an opmask; attributes; X: with an immediate. */
#define P3(op, x) [op] = { V | RVL, NDS | MZ | x }
#define P2(op, x) [op] = { V | RVL, MZ | x }
#define PK(op, x) [op] = { V | RVL, NDS | MK | V_KREG | x }
#define X3(op, x) [op] = { V | RVL | IB, NDS | MZ | x }
#define X2(op, x) [op] = { V | RVL | IB, MZ | x }
#define XK(op, x) [op] = { V | RVL | IB, NDS | MK | V_KREG | x }
#define S3(op, s, x) [op] = { V | R(s), NDS | MZ | L(IGN) | x }
#define SX(op, s, x) [op] = { V | R(s) | IB, NDS | MZ | L(IGN) | x }
#define SH(op, x) [op] = { V | R(16), NDS | MZ | NF | x }
#define LD(op, x) [op] = { V | RVL, MZ | x }
#define ST(op, x) [op] = { V | W(VL), MZ | x }
#define LDA(op, x) [op] = { V | RVL | AL, MZ | x }
#define STA(op, x) [op] = { V | W(VL) | AL, MZ | x }
#define NT(op, x) [op] = { V | W(VL) | AL | MEMO, x }
#define GRP(op, n) [op] = { A_KIND(GROUP) | M | A_FIELD(n, 3), 0 }
#define DOWN(op, s) [op] = { V | W(s), MZ | W0 }
#define FMA_P(op) P3(op, BW | ER)
#define FMA_S(op) S3(op, W84, ER)
#define GATHER { A_CLASS(MULTIMEM) | M | A_UNIT(AVX512) | A_ISA(AVX512) | R(W84) | MEMO, MK | V_MASK_REQ | V_VSIB }
#define SCATTER { A_CLASS(MULTIMEM) | M | A_UNIT(AVX512) | A_ISA(AVX512) | W(W84) | MEMO, MK | V_MASK_REQ | V_VSIB }

const struct opcode_desc x86_map_evex[3][4][256] = {
	{ /* 0F */
	  { /* none */
	    LD(0x10, W0), ST(0x11, W0), [0x12] = { V | R(8), NDS | L(128) | W0 }, [0x13] = { V | W(8) | MEMO, L(128) | W0 },
	    P3(0x14, B4 | NF), P3(0x15, B4 | NF), [0x16] = { V | R(8), NDS | L(128) | W0 }, [0x17] = { V | W(8) | MEMO, L(128) | W0 },
	    LDA(0x28, W0), STA(0x29, W0), NT(0x2b, W0),
	    [0x2e] = { V | R(4) | F(ARITH), L(IGN) | W0 | ER }, [0x2f] = { V | R(4) | F(ARITH), L(IGN) | W0 | ER },
	    P2(0x51, B4 | ER), P3(0x54, B4), P3(0x55, B4), P3(0x56, B4), P3(0x57, B4), P3(0x58, B4 | ER), P3(0x59, B4 | ER),
	    [0x5a] = { V | R(VL2), MZ | B4 | ER }, P2(0x5b, BW | ER), P3(0x5c, B4 | ER), P3(0x5d, B4 | ER), P3(0x5e, B4 | ER),
	    P3(0x5f, B4 | ER), P2(0x78, BW | ER), P2(0x79, BW | ER), XK(0xc2, B4 | ER), X3(0xc6, B4 | NF) },
	  { /* 66 */
	    LD(0x10, W1), ST(0x11, W1), [0x12] = { V | R(8) | MEMO, NDS | L(128) | W1 }, [0x13] = { V | W(8) | MEMO, L(128) | W1 },
	    P3(0x14, B8 | NF), P3(0x15, B8 | NF), [0x16] = { V | R(8) | MEMO, NDS | L(128) | W1 },
	    [0x17] = { V | W(8) | MEMO, L(128) | W1 },
	    LDA(0x28, W1), STA(0x29, W1), NT(0x2b, W1),
	    [0x2e] = { V | R(8) | F(ARITH), L(IGN) | W1 | ER }, [0x2f] = { V | R(8) | F(ARITH), L(IGN) | W1 | ER },
	    P2(0x51, B8 | ER), P3(0x54, B8), P3(0x55, B8), P3(0x56, B8), P3(0x57, B8), P3(0x58, B8 | ER), P3(0x59, B8 | ER),
	    P2(0x5a, B8 | ER), P2(0x5b, B4 | ER), P3(0x5c, B8 | ER), P3(0x5d, B8 | ER), P3(0x5e, B8 | ER), P3(0x5f, B8 | ER),
	    P3(0x60, NF), P3(0x61, NF), P3(0x62, B4 | NF), P3(0x63, NF), PK(0x64, 0), PK(0x65, 0), PK(0x66, B4), P3(0x67, NF),
	    P3(0x68, NF), P3(0x69, NF), P3(0x6a, B4 | NF), P3(0x6b, B4 | NF), P3(0x6c, B8 | NF), P3(0x6d, B8 | NF),
	    [0x6e] = { V | RG(Y) | GY, L(128) | V_W64 }, LDA(0x6f, 0), X2(0x70, B4 | NF), GRP(0x71, EG_71), GRP(0x72, EG_72),
	    GRP(0x73, EG_73), PK(0x74, 0), PK(0x75, 0), PK(0x76, B4),
	    [0x78] = { V | R(HW), MZ | BW | ER }, [0x79] = { V | R(HW), MZ | BW | ER }, [0x7a] = { V | R(HW), MZ | BW | ER },
	    [0x7b] = { V | R(HW), MZ | BW | ER }, [0x7e] = { V | WG(Y) | GY, L(128) | V_W64 }, STA(0x7f, 0),
	    XK(0xc2, B8 | ER), [0xc4] = { V | RG(2) | GD | IB, NDS | L(128) }, [0xc5] = { V | REGO | GW | GD | IB, L(128) },
	    X3(0xc6, B8 | NF), SH(0xd1, 0), SH(0xd2, W0), SH(0xd3, W1), P3(0xd4, B8), P3(0xd5, 0), [0xd6] = { V | W(8), L(128) | W1 },
	    P3(0xd8, 0), P3(0xd9, 0), P3(0xda, 0), P3(0xdb, BW), P3(0xdc, 0), P3(0xdd, 0), P3(0xde, 0), P3(0xdf, BW), P3(0xe0, 0),
	    SH(0xe1, 0), SH(0xe2, 0), P3(0xe3, 0), P3(0xe4, 0), P3(0xe5, 0), P2(0xe6, B8 | ER), NT(0xe7, W0), P3(0xe8, 0), P3(0xe9, 0),
	    P3(0xea, 0), P3(0xeb, BW), P3(0xec, 0), P3(0xed, 0), P3(0xee, 0), P3(0xef, BW), SH(0xf1, 0), SH(0xf2, W0), SH(0xf3, W1),
	    P3(0xf4, B8), P3(0xf5, NF), [0xf6] = { V | RVL, NDS }, P3(0xf8, 0), P3(0xf9, 0), P3(0xfa, B4), P3(0xfb, B8), P3(0xfc, 0),
	    P3(0xfd, 0), P3(0xfe, B4) },
	  { /* F3 */
	    [0x10] = { V | R(4), V_NDS_REG | MZ | L(IGN) | W0 }, [0x11] = { V | W(4), V_NDS_REG | MZ | L(IGN) | W0 },
	    P2(0x12, W0 | NF), P2(0x16, W0 | NF), [0x2a] = { V | RG(Y) | GY, NDS | L(IGN) | V_W64 | ER },
	    [0x2c] = { V | R(4) | GW | GY, L(IGN) | V_W64 | ER }, [0x2d] = { V | R(4) | GW | GY, L(IGN) | V_W64 | ER },
	    S3(0x51, 4, W0 | ER), S3(0x58, 4, W0 | ER), S3(0x59, 4, W0 | ER), S3(0x5a, 4, W0 | ER), P2(0x5b, B4 | ER),
	    S3(0x5c, 4, W0 | ER), S3(0x5d, 4, W0 | ER), S3(0x5e, 4, W0 | ER), S3(0x5f, 4, W0 | ER), LD(0x6f, 0), X2(0x70, NF),
	    [0x78] = { V | R(4) | GW | GY, L(IGN) | V_W64 | ER }, [0x79] = { V | R(4) | GW | GY, L(IGN) | V_W64 | ER },
	    [0x7a] = { V | R(HW), MZ | BW | ER }, [0x7b] = { V | RG(Y) | GY, NDS | L(IGN) | V_W64 | ER },
	    [0x7e] = { V | R(8), L(128) | W1 }, ST(0x7f, 0), [0xc2] = { V | R(4) | IB, NDS | MK | V_KREG | L(IGN) | W0 | ER },
	    [0xe6] = { V | R(HW), MZ | BW | ER } },
	  { /* F2 */
	    [0x10] = { V | R(8), V_NDS_REG | MZ | L(IGN) | W1 }, [0x11] = { V | W(8), V_NDS_REG | MZ | L(IGN) | W1 },
	    [0x12] = { V | R(DUP), MZ | W1 | NF }, [0x2a] = { V | RG(Y) | GY, NDS | L(IGN) | V_W64 | ER },
	    [0x2c] = { V | R(8) | GW | GY, L(IGN) | V_W64 | ER }, [0x2d] = { V | R(8) | GW | GY, L(IGN) | V_W64 | ER },
	    S3(0x51, 8, W1 | ER), S3(0x58, 8, W1 | ER), S3(0x59, 8, W1 | ER), S3(0x5a, 8, W1 | ER), S3(0x5c, 8, W1 | ER),
	    S3(0x5d, 8, W1 | ER), S3(0x5e, 8, W1 | ER), S3(0x5f, 8, W1 | ER), LD(0x6f, 0), X2(0x70, NF),
	    [0x78] = { V | R(8) | GW | GY, L(IGN) | V_W64 | ER }, [0x79] = { V | R(8) | GW | GY, L(IGN) | V_W64 | ER },
	    P2(0x7a, BW | ER), [0x7b] = { V | RG(Y) | GY, NDS | L(IGN) | V_W64 | ER }, ST(0x7f, 0),
	    [0xc2] = { V | R(8) | IB, NDS | MK | V_KREG | L(IGN) | W1 | ER }, P2(0xe6, B8 | ER) } },
	{ /* 0F38 */
	  { { 0 } },
	  { /* 66 */
	    P3(0x00, NF), P3(0x04, NF), P3(0x0b, 0), P3(0x0c, B4 | NF), P3(0x0d, B8 | NF), P3(0x10, W1), P3(0x11, W1), P3(0x12, W1),
	    [0x13] = { V | R(VL2), MZ | W0 | ER }, P3(0x14, BW), P3(0x15, BW), P3(0x16, BW | NF | L(256UP)),
	    [0x18] = { V | R(4), MZ | W0 }, [0x19] = { V | R(8), MZ | L(256UP) }, [0x1a] = { V | R(16) | MEMO, MZ | L(256UP) },
	    [0x1b] = { V | R(32) | MEMO, MZ | L(512) }, P2(0x1c, 0), P2(0x1d, 0), P2(0x1e, B4), P2(0x1f, B8),
	    [0x20] = { V | R(VL2), MZ }, [0x21] = { V | R(VL4), MZ }, [0x22] = { V | R(VL8), MZ }, [0x23] = { V | R(VL2), MZ },
	    [0x24] = { V | R(VL4), MZ }, [0x25] = { V | R(VL2), MZ | W0 }, PK(0x26, 0), PK(0x27, BW), P3(0x28, B8), PK(0x29, B8),
	    [0x2a] = { V | RVL | AL | MEMO, W0 }, P3(0x2b, B4 | NF), P3(0x2c, BW | ER), S3(0x2d, W84, ER),
	    [0x30] = { V | R(VL2), MZ }, [0x31] = { V | R(VL4), MZ }, [0x32] = { V | R(VL8), MZ }, [0x33] = { V | R(VL2), MZ },
	    [0x34] = { V | R(VL4), MZ }, [0x35] = { V | R(VL2), MZ | W0 }, P3(0x36, BW | NF | L(256UP)), PK(0x37, B8),
	    P3(0x38, 0), P3(0x39, BW), P3(0x3a, 0), P3(0x3b, BW), P3(0x3c, 0), P3(0x3d, BW), P3(0x3e, 0), P3(0x3f, BW), P3(0x40, BW),
	    P2(0x42, BW | ER), S3(0x43, W84, ER), P2(0x44, BW), P3(0x45, BW), P3(0x46, BW), P3(0x47, BW), P2(0x4c, BW), S3(0x4d, W84, 0),
	    P2(0x4e, BW), S3(0x4f, W84, 0), P3(0x50, B4), P3(0x51, B4), P3(0x52, B4), P3(0x53, B4), P2(0x54, 0), P2(0x55, BW),
	    [0x58] = { V | R(4), MZ | W0 }, [0x59] = { V | R(8), MZ }, [0x5a] = { V | R(16) | MEMO, MZ | L(256UP) },
	    [0x5b] = { V | R(32) | MEMO, MZ | L(512) }, P2(0x62, V_N(W21)), [0x63] = { V | W(VL), MZ | V_N(W21) }, P3(0x64, BW),
	    P3(0x65, BW), P3(0x66, 0), P3(0x70, W1), P3(0x71, BW), P3(0x72, W1), P3(0x73, BW), P3(0x75, NF), P3(0x76, BW | NF),
	    P3(0x77, BW | NF), [0x78] = { V | R(1), MZ | W0 }, [0x79] = { V | R(2), MZ | W0 }, [0x7a] = { V | REGO | RG(NONE) | GD, MZ | W0 },
	    [0x7b] = { V | REGO | RG(NONE) | GD, MZ | W0 }, [0x7c] = { V | REGO | RG(NONE) | GY, MZ | V_W64 }, P3(0x7d, NF), P3(0x7e, BW | NF),
	    P3(0x7f, BW | NF), P3(0x83, B8 | NF), P2(0x88, V_N(W84)), P2(0x89, V_N(W84)), [0x8a] = { V | W(VL), MZ | V_N(W84) },
	    [0x8b] = { V | W(VL), MZ | V_N(W84) }, P3(0x8d, NF), PK(0x8f, W0), [0x90] = GATHER, [0x91] = GATHER, [0x92] = GATHER,
	    [0x93] = GATHER, FMA_P(0x96), FMA_P(0x97), FMA_P(0x98), FMA_S(0x99), FMA_P(0x9a), FMA_S(0x9b), FMA_P(0x9c), FMA_S(0x9d),
	    FMA_P(0x9e), FMA_S(0x9f), [0xa0] = SCATTER, [0xa1] = SCATTER, [0xa2] = SCATTER, [0xa3] = SCATTER, FMA_P(0xa6), FMA_P(0xa7),
	    FMA_P(0xa8), FMA_S(0xa9), FMA_P(0xaa), FMA_S(0xab), FMA_P(0xac), FMA_S(0xad), FMA_P(0xae), FMA_S(0xaf), P3(0xb4, B8),
	    P3(0xb5, B8), FMA_P(0xb6), FMA_P(0xb7), FMA_P(0xb8), FMA_S(0xb9), FMA_P(0xba), FMA_S(0xbb), FMA_P(0xbc), FMA_S(0xbd),
	    FMA_P(0xbe), FMA_S(0xbf), P2(0xc4, BW | NF), P3(0xcf, W0), [0xdc] = { V | RVL, NDS }, [0xdd] = { V | RVL, NDS },
	    [0xde] = { V | RVL, NDS }, [0xdf] = { V | RVL, NDS } },
	  { /* F3 */
	    DOWN(0x10, VL2), DOWN(0x11, VL4), DOWN(0x12, VL8), DOWN(0x13, VL2), DOWN(0x14, VL4), DOWN(0x15, VL2),
	    DOWN(0x20, VL2), DOWN(0x21, VL4), DOWN(0x22, VL8), DOWN(0x23, VL2), DOWN(0x24, VL4), DOWN(0x25, VL2), PK(0x26, 0), PK(0x27, BW),
	    [0x28] = { V | REGO, 0 }, [0x29] = { V | REGO, V_KREG }, [0x2a] = { V | REGO, W1 },
	    DOWN(0x30, VL2), DOWN(0x31, VL4), DOWN(0x32, VL8), DOWN(0x33, VL2), DOWN(0x34, VL4), DOWN(0x35, VL2),
	    [0x38] = { V | REGO, 0 }, [0x39] = { V | REGO, V_KREG }, [0x3a] = { V | REGO, W0 }, P3(0x52, B4), P2(0x72, B4) },
	  { /* F2 */
	    [0x68] = { V | RVL, NDS | BW | V_KREG }, P3(0x72, B4 | NF) } },
	{ /* 0F3A */
	  { { 0 } },
	  { /* 66 */
	    X2(0x00, B8 | NF | L(256UP)), X2(0x01, B8 | NF | L(256UP)), X3(0x03, BW | NF), X2(0x04, B4 | NF), X2(0x05, B8 | NF),
	    X2(0x08, B4 | ER), X2(0x09, B8 | ER), SX(0x0a, 4, W0 | ER), SX(0x0b, 8, W1 | ER), X3(0x0f, NF),
	    [0x14] = { V | WG(1) | GD | IB, L(128) }, [0x15] = { V | WG(2) | GD | IB, L(128) },
	    [0x16] = { V | WG(Y) | GY | IB, L(128) | V_W64 }, [0x17] = { V | WG(4) | GD | IB, L(128) },
	    [0x18] = { V | R(16) | IB, NDS | MZ | NF | L(256UP) }, [0x19] = { V | W(16) | IB, MZ | NF | L(256UP) },
	    [0x1a] = { V | R(32) | IB, NDS | MZ | NF | L(512) }, [0x1b] = { V | W(32) | IB, MZ | NF | L(512) },
	    [0x1d] = { V | W(VL2) | IB, MZ | W0 | ER }, XK(0x1e, BW), XK(0x1f, BW), [0x20] = { V | RG(1) | GD | IB, NDS | L(128) },
	    [0x21] = { V | R(4) | IB, NDS | L(128) | W0 }, [0x22] = { V | RG(Y) | GY | IB, NDS | L(128) | V_W64 },
	    X3(0x23, BW | NF | L(256UP)), X3(0x25, BW), X2(0x26, BW | ER), SX(0x27, W84, ER),
	    [0x38] = { V | R(16) | IB, NDS | MZ | NF | L(256UP) }, [0x39] = { V | W(16) | IB, MZ | NF | L(256UP) },
	    [0x3a] = { V | R(32) | IB, NDS | MZ | NF | L(512) }, [0x3b] = { V | W(32) | IB, MZ | NF | L(512) }, XK(0x3e, 0), XK(0x3f, 0),
	    X3(0x42, W0 | NF), X3(0x43, BW | NF | L(256UP)), [0x44] = { V | RVL | IB, NDS }, X3(0x50, BW | ER), SX(0x51, W84, ER),
	    X3(0x54, BW | ER), SX(0x55, W84, ER), X2(0x56, BW | ER), SX(0x57, W84, ER), [0x66] = { V | RVL | IB, MK | V_KREG | BW },
	    [0x67] = { V | R(W84) | IB, MK | V_KREG | L(IGN) }, X3(0x70, W1), X3(0x71, BW), X3(0x72, W1), X3(0x73, BW), X3(0xce, B8 | NF), X3(0xcf, B8 | NF) },
	  { { 0 } },
	  { { 0 } } },
};
