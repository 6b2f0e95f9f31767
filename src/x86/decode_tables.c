/* SPDX-License-Identifier: MIT */
/*
 * The legacy opcode maps (Intel SDM volume 2, appendix A; AMD APM volume 3, appendix A), with the
 * undocumented aliases that processors of both vendors execute.
 *
 * Each line is one opcode or a run of opcodes; the terms are those of decode_tables.h, shortened by
 * the macros below. Opcodes not listed are undefined.
 */
#include "x86/decode_tables.h"

#define C A_CLASS(COPY)
#define SYS(op) (A_CLASS(SYSTEM) | A_OP(op))
#define STK(op) (A_CLASS(STACK) | A_OP(op))
#define BR(op) (A_CLASS(BRANCH) | A_OP(op))
#define STR(op) (A_CLASS(STRING) | A_OP(op))
#define OP(x) A_OP(x)
#define M A_MODRM
#define F(x) A_FLAGS(x)
#define IMM(x) A_IMM(x)
#define IMPL(x) A_IMPL(x)
#define ISA(x) A_ISA(x)

/* r/m operand that is a GPR or memory, of operand size */
#define E_R (M | A_RM_R | A_RM_GPR | A_MEM(V))
#define E_W (M | A_RM_W | A_RM_GPR | A_MEM(V))
#define E_RW (E_R | E_W)
/* r/m operand with its own memory size */
#define ES_R(s) (M | A_RM_R | A_RM_GPR | A_MEM(s))
#define ES_W(s) (M | A_RM_W | A_RM_GPR | A_MEM(s))
#define G_R (M | A_REG_R)
#define G_W (M | A_REG_W)
#define G_RW (M | A_REG_R | A_REG_W)
#define BYTE (A_SIZE(B) | A_REG_BYTE)
#define LK A_LOCK
#define MEMO A_MEM_ONLY
#define REGO A_REG_ONLY

#define GROUP(n) { A_KIND(GROUP) | M | A_INDEX(n) }
#define MODSPLIT(n) { A_KIND(MOD) | M | A_INDEX(n) }
#define PFX(n) { A_KIND(PREFIX) | A_INDEX(n) }

/* Numbers of the rows of x86_desc_groups[] */
enum {
	G_80, G_81, G_82, G_83, G_8F, G_C0, G_C1, G_D0, G_D1, G_D2, G_D3, G_C6, G_C7, G_F6, G_F7, G_FE, G_FF,
	G_63, G_62_UNUSED,
	G_0F00, G_0F01, G_0F01_MEM, G_0F01_R0, G_0F01_R1, G_0F01_R2, G_0F01_R3, G_0F01_R5, G_0F01_R7,
	G_0F01_M0, G_0F01_M1, G_0F01_M2, G_0F01_M3, G_0F01_M5, G_0F01_M7,
	G_0F0D, G_0F18,
	G_BA, G_C7_0F, G_C7_0F_1, G_C7_0F_3, G_C7_0F_4, G_C7_0F_5, G_C7_0F_6, G_C7_0F_7, G_C7_0F_6R, G_C7_0F_7R, G_C7_0F_6M,
	G_AE, G_AE_NP_MEM, G_AE_66, G_AE_F3, G_AE_NP, G_AE_NP0, G_AE_NP1, G_AE_NP2, G_AE_NP3, G_AE_NP4, G_AE_NP5, G_AE_NP6,
	G_AE_NP7, G_AE_NP_E, G_AE_NP_M,
	G_1E, G_1E_F3, G_1E_F3_MOD,
	G_P10, G_P11, G_P12, G_P12_NP, G_P13, G_P14, G_P15, G_P16, G_P16_NP, G_P17, G_P28, G_P29, G_P2A, G_P2B, G_P2C,
	G_P2D, G_P2E, G_P2F,
	G_P50, G_P51, G_P52, G_P53, G_P54, G_P55, G_P56, G_P57, G_P58, G_P59, G_P5A, G_P5B, G_P5C, G_P5D, G_P5E, G_P5F,
	G_P60, G_P61, G_P62, G_P63, G_P64, G_P65, G_P66, G_P67, G_P68, G_P69, G_P6A, G_P6B, G_P6C, G_P6D, G_P6E, G_P6F,
	G_P70, G_P71, G_P72, G_P73, G_71_NP, G_71_66, G_72_NP, G_72_66, G_73_NP, G_73_66, G_P74, G_P75, G_P76, G_P77,
	G_P78, G_78_66, G_P79, G_P7C, G_P7D, G_P7E, G_P7F,
	G_PB8, G_PBC, G_PBD,
	G_PC2, G_PC3, G_PC4, G_PC5, G_PC6,
	G_PD0, G_PD1, G_PD2, G_PD3, G_PD4, G_PD5, G_PD6, G_PD7, G_PD8, G_PD9, G_PDA, G_PDB, G_PDC, G_PDD, G_PDE, G_PDF,
	G_PE0, G_PE1, G_PE2, G_PE3, G_PE4, G_PE5, G_PE6, G_PE7, G_PE8, G_PE9, G_PEA, G_PEB, G_PEC, G_PED, G_PEE, G_PEF,
	G_PF0, G_PF1, G_PF2, G_PF3, G_PF4, G_PF5, G_PF6, G_PF7, G_PF8, G_PF9, G_PFA, G_PFB, G_PFC, G_PFD, G_PFE,
	G_COUNT
};
_Static_assert(G_COUNT <= 255, "group numbers fit the index field");

/* Six forms of the classic arithmetic operations. */
#define ALU(base, fl)                                                                              \
	[base] = { C | E_RW | G_R | BYTE | LK | F(fl) },                                           \
	[base + 1] = { C | E_RW | G_R | LK | F(fl) },                                              \
	[base + 2] = { C | E_R | G_RW | BYTE | F(fl) },                                            \
	[base + 3] = { C | E_R | G_RW | F(fl) },                                                   \
	[base + 4] = { C | BYTE | IMM(B) | IMPL(A_RW) | F(fl) },                                   \
	[base + 5] = { C | IMM(Z) | IMPL(A_RW) | F(fl) }

#define X8(x, n) [n] = x, [n + 1] = x, [n + 2] = x, [n + 3] = x, [n + 4] = x, [n + 5] = x, [n + 6] = x, [n + 7] = x
#define X16(x, n) X8(x, n), X8(x, n + 8)

#define D_PUSH_SEG { STK(PUSH_SEG) | A_NO64 | A_SIZE(V) | IMPL(SP) }
#define D_POP_SEG { STK(POP_SEG) | A_NO64 | A_SIZE(V) | IMPL(SP) }
#define BCD(fl) { C | OP(BCD) | A_NO64 | A_SIZE(B) | IMPL(A_RW) | F(fl) }

const struct opcode_desc x86_map_1byte[256] = {
	ALU(0x00, ARITH), [0x06] = D_PUSH_SEG, [0x07] = D_POP_SEG,
	ALU(0x08, LOGIC), [0x0e] = D_PUSH_SEG,
	ALU(0x10, ADC), [0x16] = D_PUSH_SEG, [0x17] = D_POP_SEG,
	ALU(0x18, ADC), [0x1e] = D_PUSH_SEG, [0x1f] = D_POP_SEG,
	ALU(0x20, LOGIC), [0x27] = BCD(DAA),
	ALU(0x28, ARITH), [0x2f] = BCD(DAA),
	ALU(0x30, LOGIC), [0x37] = BCD(AAA),
	[0x38] = { C | E_R | G_R | BYTE | F(ARITH) },
	[0x39] = { C | E_R | G_R | F(ARITH) },
	[0x3a] = { C | E_R | G_R | BYTE | F(ARITH) },
	[0x3b] = { C | E_R | G_R | F(ARITH) },
	[0x3c] = { C | BYTE | IMM(B) | IMPL(A_R) | F(ARITH) },
	[0x3d] = { C | IMM(Z) | IMPL(A_R) | F(ARITH) },
	[0x3f] = BCD(AAA),
#define D_INCDEC { C | OP(INCDEC_SHORT) | A_NO64 | A_OPC_R | A_OPC_W | F(INCDEC) }
	X16(D_INCDEC, 0x40),
#define PUSHR { STK(PUSH) | A_SIZE(D64) | A_OPC_R | IMPL(SP) }
#define POPR { STK(POP) | A_SIZE(D64) | A_OPC_W | IMPL(SP) }
	X8(PUSHR, 0x50), X8(POPR, 0x58),
	[0x60] = { STK(PUSHA) | A_NO64 | IMPL(SP_ALL) },
	[0x61] = { STK(POPA) | A_NO64 | IMPL(SP_ALL) },
	[0x62] = { SYS(BOUND) | A_NO64 | G_R | ES_R(2V) | MEMO },
	[0x63] = { A_KIND(MODE64) | A_INDEX(G_63) },
	[0x68] = { STK(PUSH) | A_SIZE(D64) | IMM(Z) | IMPL(SP) },
	[0x69] = { C | E_R | G_W | IMM(Z) | F(MUL) },
	[0x6a] = { STK(PUSH) | A_SIZE(D64) | IMM(B) | IMPL(SP) },
	[0x6b] = { C | E_R | G_W | IMM(B) | F(MUL) },
	[0x6c] = { STR(INS) | A_SIZE(B) | IMPL(STR_DI) | F(DF_R) },
	[0x6d] = { STR(INS) | IMPL(STR_DI) | F(DF_R) },
	[0x6e] = { STR(OUTS) | A_SIZE(B) | IMPL(STR_SI) | F(DF_R) },
	[0x6f] = { STR(OUTS) | IMPL(STR_SI) | F(DF_R) },
#define JCC8 { BR(JCC) | A_SIZE(F64) | IMM(RELB) | F(CC) }
	X16(JCC8, 0x70),
	[0x80] = GROUP(G_80), [0x81] = GROUP(G_81), [0x82] = GROUP(G_82), [0x83] = GROUP(G_83),
	[0x84] = { C | E_R | G_R | BYTE | F(LOGIC) },
	[0x85] = { C | E_R | G_R | F(LOGIC) },
	[0x86] = { C | OP(XCHG) | E_RW | G_RW | BYTE | LK },
	[0x87] = { C | OP(XCHG) | E_RW | G_RW | LK },
	[0x88] = { C | OP(MOV) | E_W | G_R | BYTE },
	[0x89] = { C | OP(MOV) | E_W | G_R },
	[0x8a] = { C | OP(MOV) | E_R | G_W | BYTE },
	[0x8b] = { C | OP(MOV) | E_R | G_W },
	[0x8c] = { SYS(MOV_FROM_SEG) | ES_W(2) },
	[0x8d] = { C | OP(LEA) | G_W | A_MEM(NONE) | MEMO },
	[0x8e] = { SYS(MOV_TO_SEG) | ES_R(2) | A_SIZE(W) },
	[0x8f] = GROUP(G_8F),
#define XCHGA { C | OP(XCHG) | IMPL(A_RW) | A_OPC_R | A_OPC_W }
	X8(XCHGA, 0x90), /* 90 itself: see decode.c */
	[0x98] = { C | IMPL(A_RW) },
	[0x99] = { C | IMPL(CWD) },
	[0x9a] = { SYS(CALL_FAR) | A_NO64 | IMM(FAR) | IMPL(SP) },
	[0x9b] = { C | OP(FWAIT) | A_UNIT(WAIT) },
	[0x9c] = { STK(PUSHF) | A_SIZE(D64) | IMPL(SP) | F(ALL_R) },
	[0x9d] = { STK(POPF) | A_SIZE(D64) | IMPL(SP) | F(ALL_W) },
	[0x9e] = { C | OP(SAHF) | A_SIZE(B) | IMPL(A_R) | F(SAHF) },
	[0x9f] = { C | OP(LAHF) | A_SIZE(B) | IMPL(AH_W) | F(LAHF) },
	[0xa0] = { C | OP(MOV_MOFFS) | IMM(MOFFS) | A_RM_R | BYTE | A_MEM(V) | IMPL(A_W) },
	[0xa1] = { C | OP(MOV_MOFFS) | IMM(MOFFS) | A_RM_R | A_MEM(V) | IMPL(A_W) },
	[0xa2] = { C | OP(MOV_MOFFS) | IMM(MOFFS) | A_RM_W | BYTE | A_MEM(V) | IMPL(A_R) },
	[0xa3] = { C | OP(MOV_MOFFS) | IMM(MOFFS) | A_RM_W | A_MEM(V) | IMPL(A_R) },
	[0xa4] = { STR(MOVS) | A_SIZE(B) | IMPL(STR_SI_DI) | F(DF_R) },
	[0xa5] = { STR(MOVS) | IMPL(STR_SI_DI) | F(DF_R) },
	[0xa6] = { STR(CMPS) | A_SIZE(B) | IMPL(STR_SI_DI) | F(CMPS) },
	[0xa7] = { STR(CMPS) | IMPL(STR_SI_DI) | F(CMPS) },
	[0xa8] = { C | BYTE | IMM(B) | IMPL(A_R) | F(LOGIC) },
	[0xa9] = { C | IMM(Z) | IMPL(A_R) | F(LOGIC) },
	[0xaa] = { STR(STOS) | A_SIZE(B) | IMPL(STR_DI) | F(DF_R) },
	[0xab] = { STR(STOS) | IMPL(STR_DI) | F(DF_R) },
	[0xac] = { STR(LODS) | A_SIZE(B) | IMPL(STR_SI) | F(DF_R) },
	[0xad] = { STR(LODS) | IMPL(STR_SI) | F(DF_R) },
	[0xae] = { STR(SCAS) | A_SIZE(B) | IMPL(STR_DI) | F(CMPS) },
	[0xaf] = { STR(SCAS) | IMPL(STR_DI) | F(CMPS) },
#define MOVB { C | OP(MOV) | BYTE | A_OPC_W | IMM(B) }
#define MOVV { C | OP(MOV) | A_OPC_W | IMM(V) }
	X8(MOVB, 0xb0), X8(MOVV, 0xb8),
	[0xc0] = GROUP(G_C0), [0xc1] = GROUP(G_C1),
	[0xc2] = { STK(RET) | A_SIZE(F64) | IMM(W) | IMPL(SP) },
	[0xc3] = { STK(RET) | A_SIZE(F64) | IMPL(SP) },
	[0xc4] = { SYS(LOAD_FAR_PTR) | A_NO64 | G_W | ES_R(FAR) | MEMO },
	[0xc5] = { SYS(LOAD_FAR_PTR) | A_NO64 | G_W | ES_R(FAR) | MEMO },
	[0xc6] = GROUP(G_C6), [0xc7] = GROUP(G_C7),
	[0xc8] = { STK(ENTER) | A_SIZE(D64) | IMM(WB) | IMPL(SP_BP) },
	[0xc9] = { STK(LEAVE) | A_SIZE(D64) | IMPL(SP_BP) },
	[0xca] = { SYS(RET_FAR) | IMM(W) | IMPL(SP) },
	[0xcb] = { SYS(RET_FAR) | IMPL(SP) },
	[0xcc] = { SYS(INT3) | F(ALL_R) },
	[0xcd] = { SYS(INT) | IMM(UB) | F(ALL_R) },
	[0xce] = { SYS(INTO) | A_NO64 | F(OF_R) },
	[0xcf] = { SYS(IRET) | IMPL(SP) | F(ALL_W) },
	[0xd0] = GROUP(G_D0), [0xd1] = GROUP(G_D1), [0xd2] = GROUP(G_D2), [0xd3] = GROUP(G_D3),
	[0xd4] = { C | OP(BCD) | A_NO64 | A_SIZE(B) | IMM(UB) | IMPL(A_RW) | F(LOGIC) },
	[0xd5] = { C | OP(BCD) | A_NO64 | A_SIZE(B) | IMM(UB) | IMPL(A_RW) | F(LOGIC) },
	[0xd6] = { C | OP(BCD) | A_NO64 | A_SIZE(B) | IMPL(A_RW) | F(CF_R) },
	[0xd7] = { C | OP(XLAT) | A_SIZE(B) | IMPL(XLAT) },
#define D_X87 { A_KIND(X87) | M }
	X8(D_X87, 0xd8),
	[0xe0] = { BR(LOOP) | A_SIZE(F64) | IMM(RELB) | IMPL(C_RW) | F(ZF_R) },
	[0xe1] = { BR(LOOP) | A_SIZE(F64) | IMM(RELB) | IMPL(C_RW) | F(ZF_R) },
	[0xe2] = { BR(LOOP) | A_SIZE(F64) | IMM(RELB) | IMPL(C_RW) },
	[0xe3] = { BR(JCXZ) | A_SIZE(F64) | IMM(RELB) | IMPL(C_R) },
	[0xe4] = { SYS(IN) | A_SIZE(B) | IMM(UB) | IMPL(A_W) },
	[0xe5] = { SYS(IN) | IMM(UB) | IMPL(A_W) },
	[0xe6] = { SYS(OUT) | A_SIZE(B) | IMM(UB) | IMPL(A_R) },
	[0xe7] = { SYS(OUT) | IMM(UB) | IMPL(A_R) },
	[0xe8] = { STK(CALL_REL) | A_SIZE(F64) | IMM(RELZ) | IMPL(SP) },
	[0xe9] = { BR(JMP_REL) | A_SIZE(F64) | IMM(RELZ) },
	[0xea] = { SYS(JMP_FAR) | A_NO64 | IMM(FAR) },
	[0xeb] = { BR(JMP_REL) | A_SIZE(F64) | IMM(RELB) },
	[0xec] = { SYS(IN) | A_SIZE(B) | IMPL(A_W) },
	[0xed] = { SYS(IN) | IMPL(A_W) },
	[0xee] = { SYS(OUT) | A_SIZE(B) | IMPL(AD_R) },
	[0xef] = { SYS(OUT) | IMPL(AD_R) },
	[0xf1] = { SYS(INT1) | F(ALL_R) },
	[0xf4] = { SYS(HLT) },
	[0xf5] = { C | F(CF_RW) },
	[0xf6] = GROUP(G_F6), [0xf7] = GROUP(G_F7),
	[0xf8] = { C | F(CF_W) },
	[0xf9] = { C | F(CF_W) },
	[0xfa] = { SYS(CLI) },
	[0xfb] = { SYS(STI) },
	[0xfc] = { C | OP(CLD_STD) | F(DF_W) },
	[0xfd] = { C | OP(CLD_STD) | F(DF_W) },
	[0xfe] = GROUP(G_FE), [0xff] = GROUP(G_FF),
};

/* ---- vector shorthand: unit, feature, and a memory operand of a fixed size ---- */
#define SSE(isa) (C | M | A_UNIT(SSE) | A_ISA(isa))
#define MMX(isa) (C | M | A_OP(MMX) | A_UNIT(MMX) | A_ISA(isa))
#define R(s) (A_RM_R | A_MEM(s))
#define W(s) (A_RM_W | A_MEM(s))
#define AL A_ALIGN
#define GY (A_SIZE(Y))
#define R16A (R(16) | AL)

#define NOPE { C | OP(NOP) | M | A_RM_GPR | A_MEM(NONE) }
#define PREFETCHE { C | OP(PREFETCH) | M | A_MEM(NONE) | MEMO }

#define PREFETCH_OR_NOP { C | OP(PREFETCH) | M | A_MEM(NONE) }

#define D_CMOV { C | E_R | G_RW | F(CC) | ISA(CMOV) }
#define JCCZ { BR(JCC) | A_SIZE(F64) | IMM(RELZ) | F(CC) }
#define SETCC { C | E_W | A_SIZE(B) | F(CC) }
#define BSWAP { C | A_SIZE(Y) | A_OPC_R | A_OPC_W }
#define MOVCR(op, isr) { SYS(op) | M | A_SIZE(M) | isr | A_RM_GPR | A_REG_ALWAYS }

const struct opcode_desc x86_map_0f[256] = {
	[0x00] = GROUP(G_0F00), [0x01] = MODSPLIT(G_0F01),
	[0x02] = { SYS(LAR) | ES_R(2) | G_RW | F(ZF_W) },
	[0x03] = { SYS(LSL) | ES_R(2) | G_RW | F(ZF_W) },
	[0x05] = { SYS(SYSCALL) | ISA(SYSCALL) | IMPL(SYSCALL) | F(ALL_R) },
	[0x06] = { SYS(CLTS) },
	[0x07] = { SYS(SYSRET) | ISA(SYSCALL) | F(ALL_W) },
	[0x08] = { SYS(INVD) }, [0x09] = { SYS(WBINVD) },
	[0x0b] = { SYS(UD) },
	[0x0d] = GROUP(G_0F0D),
	[0x10] = PFX(G_P10), [0x11] = PFX(G_P11), [0x12] = PFX(G_P12), [0x13] = PFX(G_P13), [0x14] = PFX(G_P14),
	[0x15] = PFX(G_P15), [0x16] = PFX(G_P16), [0x17] = PFX(G_P17),
	[0x18] = GROUP(G_0F18), [0x19] = NOPE, [0x1a] = NOPE, [0x1b] = NOPE, [0x1c] = NOPE, [0x1d] = NOPE,
	[0x1e] = NOPE, [0x1f] = NOPE,
	[0x20] = MOVCR(MOV_FROM_CR, A_RM_W), [0x21] = MOVCR(MOV_FROM_DR, A_RM_W),
	[0x22] = MOVCR(MOV_TO_CR, A_RM_R), [0x23] = MOVCR(MOV_TO_DR, A_RM_R),
	[0x28] = PFX(G_P28), [0x29] = PFX(G_P29), [0x2a] = PFX(G_P2A), [0x2b] = PFX(G_P2B), [0x2c] = PFX(G_P2C),
	[0x2d] = PFX(G_P2D), [0x2e] = PFX(G_P2E), [0x2f] = PFX(G_P2F),
	[0x30] = { SYS(WRMSR) | IMPL(MSR_W) }, [0x31] = { SYS(RDTSC) | IMPL(AD_W) },
	[0x32] = { SYS(RDMSR) | IMPL(MSR_R) }, [0x33] = { SYS(RDPMC) | IMPL(MSR_R) },
	[0x34] = { SYS(SYSENTER) }, [0x35] = { SYS(SYSEXIT) }, [0x37] = { SYS(GETSEC) },
	X16(D_CMOV, 0x40),
	[0x50] = PFX(G_P50), [0x51] = PFX(G_P51), [0x52] = PFX(G_P52), [0x53] = PFX(G_P53), [0x54] = PFX(G_P54),
	[0x55] = PFX(G_P55), [0x56] = PFX(G_P56), [0x57] = PFX(G_P57), [0x58] = PFX(G_P58), [0x59] = PFX(G_P59),
	[0x5a] = PFX(G_P5A), [0x5b] = PFX(G_P5B), [0x5c] = PFX(G_P5C), [0x5d] = PFX(G_P5D), [0x5e] = PFX(G_P5E),
	[0x5f] = PFX(G_P5F),
	[0x60] = PFX(G_P60), [0x61] = PFX(G_P61), [0x62] = PFX(G_P62), [0x63] = PFX(G_P63), [0x64] = PFX(G_P64),
	[0x65] = PFX(G_P65), [0x66] = PFX(G_P66), [0x67] = PFX(G_P67), [0x68] = PFX(G_P68), [0x69] = PFX(G_P69),
	[0x6a] = PFX(G_P6A), [0x6b] = PFX(G_P6B), [0x6c] = PFX(G_P6C), [0x6d] = PFX(G_P6D), [0x6e] = PFX(G_P6E),
	[0x6f] = PFX(G_P6F),
	[0x70] = PFX(G_P70), [0x71] = PFX(G_P71), [0x72] = PFX(G_P72), [0x73] = PFX(G_P73), [0x74] = PFX(G_P74),
	[0x75] = PFX(G_P75), [0x76] = PFX(G_P76), [0x77] = PFX(G_P77), [0x78] = PFX(G_P78), [0x79] = PFX(G_P79),
	[0x7c] = PFX(G_P7C), [0x7d] = PFX(G_P7D), [0x7e] = PFX(G_P7E), [0x7f] = PFX(G_P7F),
	X16(JCCZ, 0x80), X16(SETCC, 0x90),
	[0xa0] = { STK(PUSH_SEG) | A_SIZE(D64) | IMPL(SP) }, [0xa1] = { STK(POP_SEG) | A_SIZE(D64) | IMPL(SP) },
	[0xa2] = { SYS(CPUID) | IMPL(CPUID) },
	[0xa3] = { C | OP(BT_MEM_REG) | E_R | G_R | F(BT) },
	[0xa4] = { C | OP(SHIFT_IMM) | E_RW | G_R | IMM(UB) | F(SHIFT) },
	[0xa5] = { C | OP(SHIFT_CL) | E_RW | G_R | IMPL(C_R) | F(SHIFT) },
	[0xa8] = { STK(PUSH_SEG) | A_SIZE(D64) | IMPL(SP) }, [0xa9] = { STK(POP_SEG) | A_SIZE(D64) | IMPL(SP) },
	[0xaa] = { SYS(RSM) | F(ALL_W) },
	[0xab] = { C | OP(BT_MEM_REG) | E_RW | G_R | LK | F(BT) },
	[0xac] = { C | OP(SHIFT_IMM) | E_RW | G_R | IMM(UB) | F(SHIFT) },
	[0xad] = { C | OP(SHIFT_CL) | E_RW | G_R | IMPL(C_R) | F(SHIFT) },
	[0xae] = PFX(G_AE),
	[0xaf] = { C | E_R | G_RW | F(MUL) },
	[0xb0] = { C | OP(CMPXCHG) | E_RW | G_R | BYTE | LK | IMPL(A_RW) | F(ARITH) },
	[0xb1] = { C | OP(CMPXCHG) | E_RW | G_R | LK | IMPL(A_RW) | F(ARITH) },
	[0xb2] = { SYS(LOAD_FAR_PTR) | G_W | ES_R(FAR) | MEMO },
	[0xb3] = { C | OP(BT_MEM_REG) | E_RW | G_R | LK | F(BT) },
	[0xb4] = { SYS(LOAD_FAR_PTR) | G_W | ES_R(FAR) | MEMO },
	[0xb5] = { SYS(LOAD_FAR_PTR) | G_W | ES_R(FAR) | MEMO },
	[0xb6] = { C | ES_R(1) | G_W }, [0xb7] = { C | ES_R(2) | G_W },
	[0xb8] = PFX(G_PB8),
	[0xb9] = { SYS(UD) | M | A_RM_GPR },
	[0xba] = GROUP(G_BA),
	[0xbb] = { C | OP(BT_MEM_REG) | E_RW | G_R | LK | F(BT) },
	[0xbc] = PFX(G_PBC), [0xbd] = PFX(G_PBD),
	[0xbe] = { C | ES_R(1) | G_W }, [0xbf] = { C | ES_R(2) | G_W },
	[0xc0] = { C | E_RW | G_RW | BYTE | LK | F(ARITH) },
	[0xc1] = { C | E_RW | G_RW | LK | F(ARITH) },
	[0xc2] = PFX(G_PC2), [0xc3] = PFX(G_PC3), [0xc4] = PFX(G_PC4), [0xc5] = PFX(G_PC5), [0xc6] = PFX(G_PC6),
	[0xc7] = GROUP(G_C7_0F),
	X8(BSWAP, 0xc8),
	[0xd0] = PFX(G_PD0), [0xd1] = PFX(G_PD1), [0xd2] = PFX(G_PD2), [0xd3] = PFX(G_PD3), [0xd4] = PFX(G_PD4),
	[0xd5] = PFX(G_PD5), [0xd6] = PFX(G_PD6), [0xd7] = PFX(G_PD7), [0xd8] = PFX(G_PD8), [0xd9] = PFX(G_PD9),
	[0xda] = PFX(G_PDA), [0xdb] = PFX(G_PDB), [0xdc] = PFX(G_PDC), [0xdd] = PFX(G_PDD), [0xde] = PFX(G_PDE),
	[0xdf] = PFX(G_PDF),
	[0xe0] = PFX(G_PE0), [0xe1] = PFX(G_PE1), [0xe2] = PFX(G_PE2), [0xe3] = PFX(G_PE3), [0xe4] = PFX(G_PE4),
	[0xe5] = PFX(G_PE5), [0xe6] = PFX(G_PE6), [0xe7] = PFX(G_PE7), [0xe8] = PFX(G_PE8), [0xe9] = PFX(G_PE9),
	[0xea] = PFX(G_PEA), [0xeb] = PFX(G_PEB), [0xec] = PFX(G_PEC), [0xed] = PFX(G_PED), [0xee] = PFX(G_PEE),
	[0xef] = PFX(G_PEF),
	[0xf0] = PFX(G_PF0), [0xf1] = PFX(G_PF1), [0xf2] = PFX(G_PF2), [0xf3] = PFX(G_PF3), [0xf4] = PFX(G_PF4),
	[0xf5] = PFX(G_PF5), [0xf6] = PFX(G_PF6), [0xf7] = PFX(G_PF7), [0xf8] = PFX(G_PF8), [0xf9] = PFX(G_PF9),
	[0xfa] = PFX(G_PFA), [0xfb] = PFX(G_PFB), [0xfc] = PFX(G_PFC), [0xfd] = PFX(G_PFD), [0xfe] = PFX(G_PFE),
	[0xff] = { SYS(UD) | M | A_RM_GPR },
};

/* ---- groups ---- */
#define GRP1(sz, imm, extra)                                                                       \
	{                                                                                          \
		{ C | E_RW | sz | IMM(imm) | LK | F(ARITH) | extra },                              \
		{ C | E_RW | sz | IMM(imm) | LK | F(LOGIC) | extra },                              \
		{ C | E_RW | sz | IMM(imm) | LK | F(ADC) | extra },                                \
		{ C | E_RW | sz | IMM(imm) | LK | F(ADC) | extra },                                \
		{ C | E_RW | sz | IMM(imm) | LK | F(LOGIC) | extra },                              \
		{ C | E_RW | sz | IMM(imm) | LK | F(ARITH) | extra },                              \
		{ C | E_RW | sz | IMM(imm) | LK | F(LOGIC) | extra },                              \
		{ C | E_R | sz | IMM(imm) | F(ARITH) | extra },                                    \
	}
#define GRP2(sz, op, more)                                                                         \
	{                                                                                          \
		{ C | OP(op) | E_RW | sz | more | F(ROT) },                                        \
		{ C | OP(op) | E_RW | sz | more | F(ROT) },                                        \
		{ C | OP(op) | E_RW | sz | more | F(RCL) },                                        \
		{ C | OP(op) | E_RW | sz | more | F(RCL) },                                        \
		{ C | OP(op) | E_RW | sz | more | F(SHIFT) },                                      \
		{ C | OP(op) | E_RW | sz | more | F(SHIFT) },                                      \
		{ C | OP(op) | E_RW | sz | more | F(SHIFT) },                                      \
		{ C | OP(op) | E_RW | sz | more | F(SHIFT) },                                      \
	}
#define GRP3(sz)                                                                                   \
	{                                                                                          \
		{ C | E_R | sz | IMM(Z) | F(LOGIC) },                                              \
		{ C | E_R | sz | IMM(Z) | F(LOGIC) },                                              \
		{ C | E_RW | sz | LK },                                                            \
		{ C | E_RW | sz | LK | F(ARITH) },                                                 \
		{ C | E_R | sz | IMPL(MUL) | F(MUL) },                                             \
		{ C | E_R | sz | IMPL(MUL) | F(MUL) },                                             \
		{ C | OP(DIV) | E_R | sz | IMPL(DIV) | F(DIV) },                                   \
		{ C | OP(IDIV) | E_R | sz | IMPL(DIV) | F(DIV) },                                  \
	}
#define ALL8(x) { x, x, x, x, x, x, x, x }
/* mandatory-prefix rows: none, 66, F3, F2 */
#define P4(np, p66, pf3, pf2) { { np }, { p66 }, { pf3 }, { pf2 } }
#define PS_PD(isa1, isa2) P4(SSE(isa1) | R16A, SSE(isa2) | R16A, 0, 0)
#define FOUR P4(SSE(SSE) | R16A, SSE(SSE2) | R16A, SSE(SSE) | R(4), SSE(SSE2) | R(8))
#define INT2(isa) P4(MMX(isa) | R(8), SSE(SSE2) | R16A, 0, 0) /* mm and xmm forms of an integer operation */
#define VSHIFT(isa) { C | M | REGO | IMM(UB) | isa }
#define VSH_MMX (A_OP(MMX) | A_UNIT(MMX) | A_ISA(MMX))
#define VSH_SSE (A_UNIT(SSE) | A_ISA(SSE2))

const struct opcode_desc x86_desc_groups[G_COUNT][8] = {
	[G_80] = GRP1(A_SIZE(B), B, 0),
	[G_81] = GRP1(A_SIZE(V), Z, 0),
	[G_82] = GRP1(A_SIZE(B), B, A_NO64),
	[G_83] = GRP1(A_SIZE(V), B, 0),
	[G_8F] = { { STK(POP) | A_SIZE(D64) | E_W | IMPL(SP) } },
	[G_C0] = GRP2(A_SIZE(B), SHIFT_IMM, IMM(UB)),
	[G_C1] = GRP2(A_SIZE(V), SHIFT_IMM, IMM(UB)),
	[G_D0] = GRP2(A_SIZE(B), OTHER, 0),
	[G_D1] = GRP2(A_SIZE(V), OTHER, 0),
	[G_D2] = GRP2(A_SIZE(B), SHIFT_CL, IMPL(C_R)),
	[G_D3] = GRP2(A_SIZE(V), SHIFT_CL, IMPL(C_R)),
	[G_C6] = { { C | OP(MOV) | E_W | A_SIZE(B) | IMM(B) } },
	[G_C7] = { { C | OP(MOV) | E_W | IMM(Z) } },
	[G_F6] = GRP3(A_SIZE(B)),
	[G_F7] = GRP3(A_SIZE(V)),
	[G_FE] = { { C | E_RW | A_SIZE(B) | LK | F(INCDEC) }, { C | E_RW | A_SIZE(B) | LK | F(INCDEC) } },
	[G_FF] = { { C | E_RW | LK | F(INCDEC) },
		   { C | E_RW | LK | F(INCDEC) },
		   { STK(CALL_IND) | A_SIZE(F64) | E_R | IMPL(SP) },
		   { SYS(CALL_FAR) | ES_R(FAR) | MEMO | IMPL(SP) },
		   { BR(JMP_IND) | A_SIZE(F64) | E_R },
		   { SYS(JMP_FAR) | ES_R(FAR) | MEMO },
		   { STK(PUSH) | A_SIZE(D64) | E_R | IMPL(SP) } },
	/* arpl, movsxd */
	[G_63] = { { SYS(ARPL) | M | A_RM_R | A_RM_W | A_RM_GPR | A_MEM(2) | G_R | A_SIZE(W) | F(ZF_W) },
		   { C | ES_R(4) | G_W } },

	[G_0F00] = { { SYS(SLDT) | ES_W(2) },
		     { SYS(STR) | ES_W(2) },
		     { SYS(LLDT) | ES_R(2) | A_SIZE(W) },
		     { SYS(LTR) | ES_R(2) | A_SIZE(W) },
		     { SYS(VERR) | ES_R(2) | A_SIZE(W) | F(ZF_W) },
		     { SYS(VERW) | ES_R(2) | A_SIZE(W) | F(ZF_W) } },
	[G_0F01] = { GROUP(G_0F01_MEM), GROUP(G_0F01_R0) },
	[G_0F01_MEM] = { { SYS(SGDT) | M | A_RM_W | A_MEM(DT) | A_SIZE(M) },
			 { SYS(SIDT) | M | A_RM_W | A_MEM(DT) | A_SIZE(M) },
			 { SYS(LGDT) | M | A_RM_R | A_MEM(DT) | A_SIZE(M) },
			 { SYS(LIDT) | M | A_RM_R | A_MEM(DT) | A_SIZE(M) },
			 { SYS(SMSW) | ES_W(2) },
			 { 0 },
			 { SYS(LMSW) | ES_R(2) | A_SIZE(W) },
			 { SYS(INVLPG) | M | A_MEM(NONE) } },
	/* register forms, by ModRM.reg, then by ModRM.rm */
	[G_0F01_R0] = { { A_KIND(RM) | A_INDEX(G_0F01_M0) }, { A_KIND(RM) | A_INDEX(G_0F01_M1) },
			{ A_KIND(RM) | A_INDEX(G_0F01_M2) }, { A_KIND(RM) | A_INDEX(G_0F01_M3) },
			{ SYS(SMSW) | ES_W(2) }, { A_KIND(RM) | A_INDEX(G_0F01_M5) },
			{ SYS(LMSW) | ES_R(2) | A_SIZE(W) }, { A_KIND(RM) | A_INDEX(G_0F01_M7) } },
	[G_0F01_M0] = { [1] = { SYS(VMCALL) | M } },
	[G_0F01_M1] = { { SYS(MONITOR) | M | ISA(MONITOR) | IMPL(MSR_W) }, { SYS(MWAIT) | M | ISA(MONITOR) | IMPL(AC_R) },
			{ SYS(CLAC) | M | ISA(SMAP) }, { SYS(STAC) | M | ISA(SMAP) } },
	[G_0F01_M2] = { { SYS(XGETBV) | M | ISA(XSAVE) | IMPL(MSR_R) }, { SYS(XSETBV) | M | ISA(XSAVE) | IMPL(MSR_W) } },
	[G_0F01_M3] = { [1] = { SYS(VMMCALL) | M } },
	[G_0F01_M5] = { { 0 } },
	[G_0F01_M7] = { { SYS(SWAPGS) | M | A_ONLY64 }, { SYS(RDTSCP) | M | ISA(RDTSCP) | IMPL(ACD_W) }, { 0 }, { 0 },
			{ C | M | ISA(CLZERO) | IMPL(A_R) } },
	[G_0F0D] = ALL8(PREFETCHE),
	[G_0F18] = { PREFETCH_OR_NOP, PREFETCH_OR_NOP, PREFETCH_OR_NOP, PREFETCH_OR_NOP, NOPE, NOPE, NOPE, NOPE },
	[G_BA] = { [4] = { C | E_R | IMM(UB) | F(BT) },
		   { C | E_RW | IMM(UB) | LK | F(BT) },
		   { C | E_RW | IMM(UB) | LK | F(BT) },
		   { C | E_RW | IMM(UB) | LK | F(BT) } },
	[G_C7_0F] = { [1] = { C | OP(CMPXCHG8B16B) | M | A_RM_R | A_RM_W | A_SIZE(Y) | A_MEM(2V) | MEMO | LK | IMPL(CX8B) |
			      ISA(CX8) | F(ZF_W) },
		      [3] = PFX(G_C7_0F_3),
		      [4] = PFX(G_C7_0F_4),
		      [5] = PFX(G_C7_0F_5),
		      [6] = PFX(G_C7_0F_6),
		      [7] = PFX(G_C7_0F_7) },
	[G_C7_0F_3] = P4(SYS(XRSTORS) | M | A_RM_R | A_MEM(NONE) | MEMO | ISA(XSAVE) | IMPL(AD_R), 0, 0, 0),
	[G_C7_0F_4] = P4(SYS(XSAVEC) | M | A_RM_W | A_MEM(NONE) | MEMO | ISA(XSAVE) | IMPL(AD_R), 0, 0, 0),
	[G_C7_0F_5] = P4(SYS(XSAVES) | M | A_RM_W | A_MEM(NONE) | MEMO | ISA(XSAVE) | IMPL(AD_R), 0, 0, 0),
	/* rdrand, and with F3 senduipi (not known) */
	[G_C7_0F_6] = P4(C | OP(RDRAND) | M | REGO | A_RM_W | A_RM_GPR | ISA(RDRAND) | F(ARITH),
			 C | OP(RDRAND) | M | REGO | A_RM_W | A_RM_GPR | ISA(RDRAND) | F(ARITH), 0, 0),
	[G_C7_0F_7] = P4(C | OP(RDRAND) | M | REGO | A_RM_W | A_RM_GPR | ISA(RDSEED) | F(ARITH),
			 C | OP(RDRAND) | M | REGO | A_RM_W | A_RM_GPR | ISA(RDSEED) | F(ARITH),
			 C | OP(RDPID) | M | REGO | A_RM_W | A_RM_GPR | A_SIZE(M) | ISA(RDPID), 0),

	[G_AE] = P4(A_KIND(MOD) | M | A_INDEX(G_AE_NP), A_KIND(GROUP) | M | A_INDEX(G_AE_66),
		    A_KIND(GROUP) | M | A_INDEX(G_AE_F3), 0),
	[G_AE_NP] = { GROUP(G_AE_NP_MEM), GROUP(G_AE_NP_E) },
	[G_AE_NP_MEM] = { { SYS(FXSAVE) | M | A_RM_W | A_MEM(512) | A_UNIT(X87) },
			  { SYS(FXRSTOR) | M | A_RM_R | A_MEM(512) | A_UNIT(X87) },
			  { C | OP(LDMXCSR) | M | R(4) | A_UNIT(SSE) | ISA(SSE) },
			  { C | OP(STMXCSR) | M | W(4) | A_UNIT(SSE) | ISA(SSE) },
			  { SYS(XSAVE) | M | A_RM_W | A_MEM(NONE) | ISA(XSAVE) | IMPL(AD_R) },
			  { SYS(XRSTOR) | M | A_RM_R | A_MEM(NONE) | ISA(XSAVE) | IMPL(AD_R) },
			  { SYS(XSAVEOPT) | M | A_RM_W | A_MEM(NONE) | ISA(XSAVE) | IMPL(AD_R) },
			  { C | OP(CLFLUSH) | M | A_RM_R | A_MEM(1) | ISA(SSE2) } },
	[G_AE_NP_E] = { [5] = { C | OP(FENCE) | M | ISA(SSE2) },
			[6] = { C | OP(FENCE) | M | ISA(SSE2) },
			[7] = { C | OP(FENCE) | M | ISA(SSE) } },
	[G_AE_66] = { [6] = { C | OP(CLFLUSH) | M | A_RM_R | A_MEM(1) | MEMO | ISA(CLWB) },
		      [7] = { C | OP(CLFLUSH) | M | A_RM_R | A_MEM(1) | MEMO | ISA(CLFLUSHOPT) } },
	[G_AE_F3] = { { SYS(RDFSBASE) | M | REGO | A_ONLY64 | A_RM_W | A_RM_GPR | A_SIZE(Y) | ISA(FSGSBASE) },
		      { SYS(RDGSBASE) | M | REGO | A_ONLY64 | A_RM_W | A_RM_GPR | A_SIZE(Y) | ISA(FSGSBASE) },
		      { SYS(WRFSBASE) | M | REGO | A_ONLY64 | A_RM_R | A_RM_GPR | A_SIZE(Y) | ISA(FSGSBASE) },
		      { SYS(WRGSBASE) | M | REGO | A_ONLY64 | A_RM_R | A_RM_GPR | A_SIZE(Y) | ISA(FSGSBASE) } },

	[G_P10] = P4(SSE(SSE) | R(16), SSE(SSE2) | R(16), SSE(SSE) | R(4), SSE(SSE2) | R(8)),
	[G_P11] = P4(SSE(SSE) | W(16), SSE(SSE2) | W(16), SSE(SSE) | W(4), SSE(SSE2) | W(8)),
	[G_P12] = P4(SSE(SSE) | R(8), SSE(SSE2) | R(8) | MEMO, SSE(SSE3) | R16A, SSE(SSE3) | R(8)),
	[G_P13] = P4(SSE(SSE) | W(8) | MEMO, SSE(SSE2) | W(8) | MEMO, 0, 0),
	[G_P14] = PS_PD(SSE, SSE2),
	[G_P15] = PS_PD(SSE, SSE2),
	[G_P16] = P4(SSE(SSE) | R(8), SSE(SSE2) | R(8) | MEMO, SSE(SSE3) | R16A, 0),
	[G_P17] = P4(SSE(SSE) | W(8) | MEMO, SSE(SSE2) | W(8) | MEMO, 0, 0),
	[G_P28] = PS_PD(SSE, SSE2),
	[G_P29] = P4(SSE(SSE) | W(16) | AL, SSE(SSE2) | W(16) | AL, 0, 0),
	[G_P2A] = P4(SSE(SSE) | R(8), SSE(SSE2) | R(8), SSE(SSE) | ES_R(Y) | GY, SSE(SSE2) | ES_R(Y) | GY),
	[G_P2B] = P4(SSE(SSE) | W(16) | AL | MEMO, SSE(SSE2) | W(16) | AL | MEMO, SSE(SSE4A) | W(4) | MEMO,
		     SSE(SSE4A) | W(8) | MEMO),
	[G_P2C] = P4(SSE(SSE) | R(8), SSE(SSE2) | R16A, SSE(SSE) | R(4) | G_W | GY, SSE(SSE2) | R(8) | G_W | GY),
	[G_P2D] = P4(SSE(SSE) | R(8), SSE(SSE2) | R16A, SSE(SSE) | R(4) | G_W | GY, SSE(SSE2) | R(8) | G_W | GY),
	[G_P2E] = P4(SSE(SSE) | R(4) | F(ARITH), SSE(SSE2) | R(8) | F(ARITH), 0, 0),
	[G_P2F] = P4(SSE(SSE) | R(4) | F(ARITH), SSE(SSE2) | R(8) | F(ARITH), 0, 0),
	[G_P50] = P4(SSE(SSE) | REGO | G_W | A_SIZE(D), SSE(SSE2) | REGO | G_W | A_SIZE(D), 0, 0),
	[G_P51] = FOUR,
	[G_P52] = P4(SSE(SSE) | R16A, 0, SSE(SSE) | R(4), 0),
	[G_P53] = P4(SSE(SSE) | R16A, 0, SSE(SSE) | R(4), 0),
	[G_P54] = PS_PD(SSE, SSE2), [G_P55] = PS_PD(SSE, SSE2), [G_P56] = PS_PD(SSE, SSE2), [G_P57] = PS_PD(SSE, SSE2),
	[G_P58] = FOUR, [G_P59] = FOUR,
	[G_P5A] = P4(SSE(SSE2) | R(8), SSE(SSE2) | R16A, SSE(SSE2) | R(4), SSE(SSE2) | R(8)),
	[G_P5B] = P4(SSE(SSE2) | R16A, SSE(SSE2) | R16A, SSE(SSE2) | R16A, 0),
	[G_P5C] = FOUR, [G_P5D] = FOUR, [G_P5E] = FOUR, [G_P5F] = FOUR,
#define UNPACKL P4(MMX(MMX) | R(4), SSE(SSE2) | R16A, 0, 0)
	[G_P60] = UNPACKL, [G_P61] = UNPACKL, [G_P62] = UNPACKL,
	[G_P63] = INT2(MMX), [G_P64] = INT2(MMX), [G_P65] = INT2(MMX), [G_P66] = INT2(MMX), [G_P67] = INT2(MMX),
	[G_P68] = INT2(MMX), [G_P69] = INT2(MMX), [G_P6A] = INT2(MMX), [G_P6B] = INT2(MMX),
	[G_P6C] = P4(0, SSE(SSE2) | R16A, 0, 0),
	[G_P6D] = P4(0, SSE(SSE2) | R16A, 0, 0),
	[G_P6E] = P4(MMX(MMX) | ES_R(Y) | GY, SSE(SSE2) | ES_R(Y) | GY, 0, 0),
	[G_P6F] = P4(MMX(MMX) | R(8), SSE(SSE2) | R16A, SSE(SSE2) | R(16), 0),
	[G_P70] = P4(MMX(SSE) | R(8) | IMM(UB), SSE(SSE2) | R16A | IMM(UB), SSE(SSE2) | R16A | IMM(UB),
		     SSE(SSE2) | R16A | IMM(UB)),
	[G_P71] = { GROUP(G_71_NP), GROUP(G_71_66) },
	[G_P72] = { GROUP(G_72_NP), GROUP(G_72_66) },
	[G_P73] = { GROUP(G_73_NP), GROUP(G_73_66) },
	[G_71_NP] = { [2] = VSHIFT(VSH_MMX), [4] = VSHIFT(VSH_MMX), [6] = VSHIFT(VSH_MMX) },
	[G_71_66] = { [2] = VSHIFT(VSH_SSE), [4] = VSHIFT(VSH_SSE), [6] = VSHIFT(VSH_SSE) },
	[G_72_NP] = { [2] = VSHIFT(VSH_MMX), [4] = VSHIFT(VSH_MMX), [6] = VSHIFT(VSH_MMX) },
	[G_72_66] = { [2] = VSHIFT(VSH_SSE), [4] = VSHIFT(VSH_SSE), [6] = VSHIFT(VSH_SSE) },
	[G_73_NP] = { [2] = VSHIFT(VSH_MMX), [6] = VSHIFT(VSH_MMX) },
	[G_73_66] = { [2] = VSHIFT(VSH_SSE), [3] = VSHIFT(VSH_SSE), [6] = VSHIFT(VSH_SSE), [7] = VSHIFT(VSH_SSE) },
	[G_P74] = INT2(MMX), [G_P75] = INT2(MMX), [G_P76] = INT2(MMX),
	[G_P77] = P4(C | OP(MMX) | A_UNIT(MMX) | ISA(MMX), 0, 0, 0),
	[G_P78] = { { 0 }, GROUP(G_78_66), { 0 }, { SSE(SSE4A) | REGO | IMM(BB) } },
	[G_78_66] = { { SSE(SSE4A) | REGO | IMM(BB) } },
	[G_P79] = P4(0, SSE(SSE4A) | REGO, 0, SSE(SSE4A) | REGO),
	[G_P7C] = P4(0, SSE(SSE3) | R16A, 0, SSE(SSE3) | R16A),
	[G_P7D] = P4(0, SSE(SSE3) | R16A, 0, SSE(SSE3) | R16A),
	[G_P7E] = P4(MMX(MMX) | ES_W(Y) | GY, SSE(SSE2) | ES_W(Y) | GY, SSE(SSE2) | R(8), 0),
	[G_P7F] = P4(MMX(MMX) | W(8), SSE(SSE2) | W(16) | AL, SSE(SSE2) | W(16), 0),
	[G_PB8] = P4(0, 0, C | E_R | G_W | F(ARITH) | ISA(POPCNT), 0),
	/* bsf, bsr: with F3 tzcnt, lzcnt; 66 is the operand size, F2 is ignored */
	[G_PBC] = P4(C | E_R | G_RW | F(BSF), C | E_R | G_RW | F(BSF), C | E_R | G_W | F(LZCNT) | ISA(BMI1),
		     C | E_R | G_RW | F(BSF)),
	[G_PBD] = P4(C | E_R | G_RW | F(BSF), C | E_R | G_RW | F(BSF), C | E_R | G_W | F(LZCNT) | ISA(LZCNT),
		     C | E_R | G_RW | F(BSF)),
	[G_PC2] = P4(SSE(SSE) | R16A | IMM(UB), SSE(SSE2) | R16A | IMM(UB), SSE(SSE) | R(4) | IMM(UB),
		     SSE(SSE2) | R(8) | IMM(UB)),
	[G_PC3] = P4(C | ES_W(Y) | G_R | GY | MEMO | ISA(SSE2), 0, 0, 0),
	[G_PC4] = P4(MMX(SSE) | ES_R(2) | A_SIZE(D) | IMM(UB), SSE(SSE2) | ES_R(2) | A_SIZE(D) | IMM(UB), 0, 0),
	[G_PC5] = P4(MMX(SSE) | REGO | G_W | A_SIZE(D) | IMM(UB), SSE(SSE2) | REGO | G_W | A_SIZE(D) | IMM(UB), 0, 0),
	[G_PC6] = P4(SSE(SSE) | R16A | IMM(UB), SSE(SSE2) | R16A | IMM(UB), 0, 0),
	[G_PD0] = P4(0, SSE(SSE3) | R16A, 0, SSE(SSE3) | R16A),
	[G_PD1] = INT2(MMX), [G_PD2] = INT2(MMX), [G_PD3] = INT2(MMX), [G_PD4] = INT2(SSE2), [G_PD5] = INT2(MMX),
	[G_PD6] = P4(0, SSE(SSE2) | W(8), SSE(SSE2) | OP(MMX) | REGO, SSE(SSE2) | OP(MMX) | REGO),
	[G_PD7] = P4(MMX(SSE) | REGO | G_W | A_SIZE(D), SSE(SSE2) | REGO | G_W | A_SIZE(D), 0, 0),
	[G_PD8] = INT2(MMX), [G_PD9] = INT2(MMX), [G_PDA] = INT2(SSE), [G_PDB] = INT2(MMX), [G_PDC] = INT2(MMX),
	[G_PDD] = INT2(MMX), [G_PDE] = INT2(SSE), [G_PDF] = INT2(MMX),
	[G_PE0] = INT2(SSE), [G_PE1] = INT2(MMX), [G_PE2] = INT2(MMX), [G_PE3] = INT2(SSE), [G_PE4] = INT2(SSE),
	[G_PE5] = INT2(MMX),
	[G_PE6] = P4(0, SSE(SSE2) | R16A, SSE(SSE2) | R(8), SSE(SSE2) | R16A),
	[G_PE7] = P4(MMX(SSE) | W(8) | MEMO, SSE(SSE2) | W(16) | AL | MEMO, 0, 0),
	[G_PE8] = INT2(MMX), [G_PE9] = INT2(MMX), [G_PEA] = INT2(SSE), [G_PEB] = INT2(MMX), [G_PEC] = INT2(MMX),
	[G_PED] = INT2(MMX), [G_PEE] = INT2(SSE), [G_PEF] = INT2(MMX),
	[G_PF0] = P4(0, 0, 0, SSE(SSE3) | R(16) | MEMO),
	[G_PF1] = INT2(MMX), [G_PF2] = INT2(MMX), [G_PF3] = INT2(MMX), [G_PF4] = INT2(SSE2), [G_PF5] = INT2(MMX),
	[G_PF6] = INT2(SSE),
	[G_PF7] = P4(A_CLASS(MULTIMEM) | A_OP(MMX) | M | REGO | A_UNIT(MMX) | ISA(SSE) | IMPL(DI_R),
		     A_CLASS(MULTIMEM) | M | REGO | A_UNIT(SSE) | ISA(SSE2) | IMPL(DI_R), 0, 0),
	[G_PF8] = INT2(MMX), [G_PF9] = INT2(MMX), [G_PFA] = INT2(MMX), [G_PFB] = INT2(SSE2), [G_PFC] = INT2(MMX),
	[G_PFD] = INT2(MMX), [G_PFE] = INT2(MMX),
};

#define S3(n) [n] = { MMX(SSSE3) | R(8) }
#define S3X(n) [n] = { SSE(SSSE3) | R16A }
#define S41(n) [n] = { SSE(SSE41) | R16A }
#define S41R(n, s) [n] = { SSE(SSE41) | R(s) }
#define AESNI(n) [n] = { SSE(AES) | R16A }
#define SHANI(n) [n] = { SSE(SHA) | R16A }
#define CRC32(n, sz) [n] = { C | E_R | G_RW | sz | ISA(SSE42) }

const struct opcode_desc x86_map_0f38[4][256] = {
	{
		S3(0x00), S3(0x01), S3(0x02), S3(0x03), S3(0x04), S3(0x05), S3(0x06), S3(0x07), S3(0x08), S3(0x09),
		S3(0x0a), S3(0x0b), S3(0x1c), S3(0x1d), S3(0x1e),
		SHANI(0xc8), SHANI(0xc9), SHANI(0xca), SHANI(0xcb), SHANI(0xcc), SHANI(0xcd),
		[0xf0] = { C | E_R | G_W | MEMO | ISA(MOVBE) },
		[0xf1] = { C | E_W | G_R | MEMO | ISA(MOVBE) },
		[0xf9] = { C | ES_W(Y) | G_R | GY | MEMO | ISA(MOVDIRI) },
	},
	{
		S3X(0x00), S3X(0x01), S3X(0x02), S3X(0x03), S3X(0x04), S3X(0x05), S3X(0x06), S3X(0x07), S3X(0x08),
		S3X(0x09), S3X(0x0a), S3X(0x0b), S3X(0x1c), S3X(0x1d), S3X(0x1e),
		S41(0x10), S41(0x14), S41(0x15), [0x17] = { SSE(SSE41) | R16A | F(ARITH) },
		S41R(0x20, 8), S41R(0x21, 4), S41R(0x22, 2), S41R(0x23, 8), S41R(0x24, 4), S41R(0x25, 8),
		S41(0x28), S41(0x29), [0x2a] = { SSE(SSE41) | R16A | MEMO }, S41(0x2b),
		S41R(0x30, 8), S41R(0x31, 4), S41R(0x32, 2), S41R(0x33, 8), S41R(0x34, 4), S41R(0x35, 8),
		[0x37] = { SSE(SSE42) | R16A },
		S41(0x38), S41(0x39), S41(0x3a), S41(0x3b), S41(0x3c), S41(0x3d), S41(0x3e), S41(0x3f), S41(0x40), S41(0x41),
		[0x82] = { SYS(INVPCID) | M | A_RM_R | A_MEM(16) | A_REG_R | A_SIZE(M) | MEMO | ISA(INVPCID) },
		[0xcf] = { SSE(GFNI) | R16A },
		AESNI(0xdb), AESNI(0xdc), AESNI(0xdd), AESNI(0xde), AESNI(0xdf),
		[0xf0] = { C | E_R | G_W | MEMO | ISA(MOVBE) },
		[0xf1] = { C | E_W | G_R | MEMO | ISA(MOVBE) },
		[0xf6] = { C | ES_R(Y) | G_RW | GY | F(ADCX) | ISA(ADX) },
		[0xf8] = { A_CLASS(MULTIMEM) | M | A_RM_R | A_MEM(64) | A_REG_R | A_SIZE(M) | MEMO | ISA(MOVDIR64B) },
	},
	{ [0xf6] = { C | ES_R(Y) | G_RW | GY | F(ADOX) | ISA(ADX) } },
	{ CRC32(0xf0, A_SIZE(B)), CRC32(0xf1, A_SIZE(V)) },
};

#define S41I(n) [n] = { SSE(SSE41) | R16A | IMM(UB) }

const struct opcode_desc x86_map_0f3a[4][256] = {
	{
		[0x0f] = { MMX(SSSE3) | R(8) | IMM(UB) },
		[0xcc] = { SSE(SHA) | R16A | IMM(UB) },
	},
	{
		S41I(0x08), S41I(0x09), [0x0a] = { SSE(SSE41) | R(4) | IMM(UB) }, [0x0b] = { SSE(SSE41) | R(8) | IMM(UB) },
		S41I(0x0c), S41I(0x0d), S41I(0x0e), [0x0f] = { SSE(SSSE3) | R16A | IMM(UB) },
		[0x14] = { SSE(SSE41) | ES_W(1) | A_SIZE(D) | IMM(UB) },
		[0x15] = { SSE(SSE41) | ES_W(2) | A_SIZE(D) | IMM(UB) },
		[0x16] = { SSE(SSE41) | ES_W(Y) | GY | IMM(UB) },
		[0x17] = { SSE(SSE41) | ES_W(4) | A_SIZE(D) | IMM(UB) },
		[0x20] = { SSE(SSE41) | ES_R(1) | A_SIZE(D) | IMM(UB) },
		[0x21] = { SSE(SSE41) | R(4) | IMM(UB) },
		[0x22] = { SSE(SSE41) | ES_R(Y) | GY | IMM(UB) },
		S41I(0x40), S41I(0x41), S41I(0x42),
		[0x44] = { SSE(PCLMUL) | R16A | IMM(UB) },
		[0x60] = { SSE(SSE42) | R(16) | IMM(UB) | IMPL(PCMPESTRM) | GY | F(ARITH) },
		[0x61] = { SSE(SSE42) | R(16) | IMM(UB) | IMPL(PCMPESTRI) | GY | F(ARITH) },
		[0x62] = { SSE(SSE42) | R(16) | IMM(UB) | F(ARITH) },
		[0x63] = { SSE(SSE42) | R(16) | IMM(UB) | IMPL(PCMPISTRI) | GY | F(ARITH) },
		[0xce] = { SSE(GFNI) | R16A | IMM(UB) },
		[0xcf] = { SSE(GFNI) | R16A | IMM(UB) },
		[0xdf] = { SSE(AES) | R16A | IMM(UB) },
	},
};

/* ---- x87: memory forms by opcode and ModRM.reg ---- */
#define FM(x) { .a = C | OP(X87) | M | A_UNIT(X87) | x }
#define FSYS(op, x) { .a = SYS(op) | M | A_UNIT(X87) | x }
#define ALLFM(s) ALL8(FM(R(s)))

const struct opcode_desc x86_desc_x87_mem[8][8] = {
	ALLFM(4),
	{ FM(R(4)), { 0 }, FM(W(4)), FM(W(4)), FSYS(FLDENV, R(ENV)), FM(R(2)), FSYS(FNSTENV, W(ENV)), FM(W(2)) },
	ALLFM(4),
	{ FM(R(4)), FM(W(4) | ISA(SSE3)), FM(W(4)), FM(W(4)), { 0 }, FM(R(10)), { 0 }, FM(W(10)) },
	ALLFM(8),
	{ FM(R(8)), FM(W(8) | ISA(SSE3)), FM(W(8)), FM(W(8)), FSYS(FRSTOR, R(SAVE)), { 0 }, FSYS(FNSAVE, W(SAVE)), FM(W(2)) },
	ALLFM(2),
	{ FM(R(2)), FM(W(2) | ISA(SSE3)), FM(W(2)), FM(W(2)), FM(R(10)), FM(R(8)), FM(W(10)), FM(W(8)) },
};

/* Register forms: by opcode and ModRM.reg; where single ModRM bytes are undefined, the mask of defined values of
 * ModRM.rm is in `v`. */
#define FR(x, mask) { .a = C | OP(X87) | M | A_UNIT(X87) | x, .v = mask }
#define FX FR(0, 0xff)
#define FCMOVE FR(F(FCMOV) | ISA(CMOV), 0xff)
#define FCOMIE FR(F(ARITH) | ISA(CMOV), 0xff)

const struct opcode_desc x86_desc_x87_reg[8][8] = {
	{ FX, FX, FX, FX, FX, FX, FX, FX },
	{ FX, FX, FR(0, 0x01), FX, FR(0, 0x33), FR(0, 0x7f), FX, FX },
	{ FCMOVE, FCMOVE, FCMOVE, FCMOVE, { 0 }, FR(0, 0x02), { 0 }, { 0 } },
	{ FCMOVE, FCMOVE, FCMOVE, FCMOVE, FR(0, 0x1f), FCOMIE, FCOMIE, { 0 } },
	{ FX, FX, FX, FX, FX, FX, FX, FX },
	{ FX, FX, FX, FX, FX, FX, { 0 }, { 0 } },
	{ FX, FX, FX, FR(0, 0x02), FX, FX, FX, FX },
	{ FX, FX, FX, FX, FR(IMPL(A_W) | A_SIZE(W), 0x01), FCOMIE, FCOMIE, { 0 } },
};
