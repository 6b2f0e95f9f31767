/* SPDX-License-Identifier: MIT */
/*
 * Table-driven x86 instruction decoder (Intel SDM volume 2; AMD APM volume 3).
 *
 * One call decodes one instruction completely: length, operands, what it reads and writes. It is
 * made for a binary translator, so it says nothing about how to print an instruction, and all about
 * how to re-encode it: where its parts lie, which general-purpose registers it touches, how wide its
 * memory access is, which flags flow through it.
 *
 * Freestanding: no allocation, no I/O, no globals but constant tables. Speed matters: a decode must
 * cost well under 100 host cycles on common instructions.
 */
#ifndef LODGE_X86_DECODE_H
#define LODGE_X86_DECODE_H

#include <stdbool.h>
#include <stdint.h>

enum x86_mode_bits { X86_CODE16, X86_CODE32, X86_CODE64 };

/* Which encoding space the opcode lies in. */
enum x86_encoding { X86_ENC_LEGACY, X86_ENC_VEX, X86_ENC_EVEX, X86_ENC_XOP };

/* Opcode map: legacy one-byte, 0F, 0F38, 0F3A (VEX/EVEX mmmmm 1-3 share these), EVEX maps 5 and 6,
 * 3DNow! (0F 0F), XOP maps 8-10. */
enum x86_map {
	X86_MAP_1BYTE,
	X86_MAP_0F,
	X86_MAP_0F38,
	X86_MAP_0F3A,
	X86_MAP_5 = 5,
	X86_MAP_6 = 6,
	X86_MAP_3DNOW = 7,
	X86_MAP_XOP8 = 8,
	X86_MAP_XOP9 = 9,
	X86_MAP_XOPA = 10
};

/* What the translator has to do with the instruction. */
enum x86_class {
	X86_CLASS_INVALID, /* #UD in this mode (includes instructions not known) */
	X86_CLASS_COPY, /* ordinary: operands are registers, immediates and at most one ModRM memory
	                      operand (or moffs); the host's own instruction does the work */
	X86_CLASS_STACK,  /* push, pop, call, ret, enter, leave, pusha, popa, pushf, popf */
	X86_CLASS_BRANCH, /* near jmp, jcc, loop*, jcxz: relative or indirect */
	X86_CLASS_STRING, /* movs stos lods scas cmps ins outs */
	X86_CLASS_SYSTEM, /* everything done by a helper: see enum x86_op */
	X86_CLASS_MULTIMEM /* vector gather and scatter, maskmov(q|dqu), movdir64b, enqcmd: addresses not one ModRM operand */
};

/*
 * Operation, for the classes a translator treats one by one. Instructions of class COPY that need no
 * special attention have X86_OP_OTHER. Immediates, operand sizes and ModRM tell the rest.
 */
enum x86_op {
	X86_OP_OTHER,
	/* COPY class, but named because translators optimise or guard them */
	X86_OP_NOP,
	X86_OP_MOV,
	X86_OP_LEA,
	X86_OP_XCHG,
	X86_OP_DIV,
	X86_OP_IDIV,
	X86_OP_SHIFT_CL,
	X86_OP_SHIFT_IMM,
	X86_OP_BT_MEM_REG, /* bt/bts/btr/btc r/m, r: with a memory operand the bit offset moves the address */
	X86_OP_MOV_MOFFS,
	X86_OP_CMPXCHG,
	X86_OP_CMPXCHG8B16B,
	X86_OP_XLAT,
	X86_OP_PREFETCH,
	X86_OP_CLFLUSH,
	X86_OP_FENCE,
	X86_OP_LAHF,
	X86_OP_SAHF,
	X86_OP_CLD_STD,
	X86_OP_X87,
	X86_OP_MMX,
	X86_OP_FWAIT,
	X86_OP_LDMXCSR,
	X86_OP_STMXCSR,
	X86_OP_MASKED, /* memory operand under a mask whose masked-out elements do not fault (vmaskmov, vpmaskmov, EVEX with opmask) */
	X86_OP_INCDEC_SHORT, /* 40-4f outside 64-bit mode: must be re-encoded */
	X86_OP_BCD,          /* daa das aaa aas aam aad salc: not encodable in 64-bit mode */
	X86_OP_RDRAND,       /* rdrand, rdseed */
	X86_OP_RDPID,
	/* STACK */
	X86_OP_PUSH,
	X86_OP_POP,
	X86_OP_PUSH_SEG,
	X86_OP_POP_SEG,
	X86_OP_PUSHF,
	X86_OP_POPF,
	X86_OP_PUSHA,
	X86_OP_POPA,
	X86_OP_CALL_REL,
	X86_OP_CALL_IND,
	X86_OP_RET,
	X86_OP_ENTER,
	X86_OP_LEAVE,
	/* BRANCH */
	X86_OP_JMP_REL,
	X86_OP_JMP_IND,
	X86_OP_JCC,
	X86_OP_LOOP,
	/* e0 loopne, e1 loope, e2 loop */ X86_OP_JCXZ,
	/* STRING */
	X86_OP_MOVS,
	X86_OP_STOS,
	X86_OP_LODS,
	X86_OP_SCAS,
	X86_OP_CMPS,
	X86_OP_INS,
	X86_OP_OUTS,
	/* SYSTEM */
	X86_OP_CALL_FAR,
	X86_OP_JMP_FAR,
	X86_OP_RET_FAR,
	X86_OP_IRET,
	X86_OP_INT,
	X86_OP_INT3,
	X86_OP_INT1,
	X86_OP_INTO,
	X86_OP_SYSCALL,
	X86_OP_SYSRET,
	X86_OP_SYSENTER,
	X86_OP_SYSEXIT,
	X86_OP_MOV_FROM_SEG,
	X86_OP_MOV_TO_SEG,
	X86_OP_LOAD_FAR_PTR, /* lds les lss lfs lgs */
	X86_OP_IN,
	X86_OP_OUT,
	X86_OP_CLI,
	X86_OP_STI,
	X86_OP_HLT,
	X86_OP_CLTS,
	X86_OP_CLAC,
	X86_OP_STAC,
	X86_OP_MOV_FROM_CR,
	X86_OP_MOV_TO_CR,
	X86_OP_MOV_FROM_DR,
	X86_OP_MOV_TO_DR,
	X86_OP_SMSW,
	X86_OP_LMSW,
	X86_OP_SGDT,
	X86_OP_SIDT,
	X86_OP_LGDT,
	X86_OP_LIDT,
	X86_OP_SLDT,
	X86_OP_STR,
	X86_OP_LLDT,
	X86_OP_LTR,
	X86_OP_VERR,
	X86_OP_VERW,
	X86_OP_LAR,
	X86_OP_LSL,
	X86_OP_ARPL,
	X86_OP_BOUND,
	X86_OP_INVLPG,
	X86_OP_INVPCID,
	X86_OP_INVD,
	X86_OP_WBINVD,
	X86_OP_SWAPGS,
	X86_OP_RDFSBASE,
	X86_OP_RDGSBASE,
	X86_OP_WRFSBASE,
	X86_OP_WRGSBASE,
	X86_OP_RDMSR,
	X86_OP_WRMSR,
	X86_OP_RDTSC,
	X86_OP_RDTSCP,
	X86_OP_RDPMC,
	X86_OP_CPUID,
	X86_OP_XGETBV,
	X86_OP_XSETBV,
	X86_OP_XSAVE,
	X86_OP_XSAVEC,
	X86_OP_XSAVEOPT,
	X86_OP_XSAVES,
	X86_OP_XRSTOR,
	X86_OP_XRSTORS,
	X86_OP_FXSAVE,
	X86_OP_FXRSTOR,
	X86_OP_FNSTENV,
	X86_OP_FNSAVE,
	X86_OP_FLDENV,
	X86_OP_FRSTOR,
	X86_OP_MONITOR,
	X86_OP_MWAIT,
	X86_OP_PAUSE,
	X86_OP_VMCALL,
	X86_OP_VMMCALL,
	X86_OP_UD, /* ud0 ud1 ud2 */
	X86_OP_RSM,
	X86_OP_GETSEC,
	X86_OP_COUNT
};

/* The feature an instruction belongs to, for CPUID-based #UD and for CR0.TS/EM, CR4.OSFXSR, XCR0 checks. */
enum x86_unit {
	X86_UNIT_INT,    /* general purpose */
	X86_UNIT_X87,    /* #NM if CR0.EM or CR0.TS */
	X86_UNIT_WAIT,   /* fwait: #NM if CR0.MP and CR0.TS */
	X86_UNIT_MMX,    /* #UD if CR0.EM, #NM if CR0.TS */
	X86_UNIT_SSE,    /* as MMX, and #UD unless CR4.OSFXSR */
	X86_UNIT_AVX,    /* #UD unless CR4.OSXSAVE and XCR0[2:1] = 3; #NM if CR0.TS */
	X86_UNIT_AVX512, /* as AVX, and XCR0[7:5] = 7 */
};

/* CPUID features whose absence makes an instruction #UD (only those a guest model can mask). */
enum x86_isa {
	X86_ISA_BASE,
	X86_ISA_CMOV,
	X86_ISA_CX8,
	X86_ISA_CX16,
	X86_ISA_MMX,
	X86_ISA_SSE,
	X86_ISA_SSE2,
	X86_ISA_SSE3,
	X86_ISA_SSSE3,
	X86_ISA_SSE41,
	X86_ISA_SSE42,
	X86_ISA_SSE4A,
	X86_ISA_POPCNT,
	X86_ISA_LZCNT,
	X86_ISA_BMI1,
	X86_ISA_BMI2,
	X86_ISA_ADX,
	X86_ISA_MOVBE,
	X86_ISA_AES,
	X86_ISA_PCLMUL,
	X86_ISA_SHA,
	X86_ISA_GFNI,
	X86_ISA_VAES,
	X86_ISA_VPCLMUL,
	X86_ISA_AVX,
	X86_ISA_F16C,
	X86_ISA_FMA,
	X86_ISA_AVX2,
	X86_ISA_AVX_VNNI,
	X86_ISA_AVX512,
	X86_ISA_XSAVE,
	X86_ISA_FSGSBASE,
	X86_ISA_RDRAND,
	X86_ISA_RDSEED,
	X86_ISA_RDTSCP,
	X86_ISA_RDPID,
	X86_ISA_INVPCID,
	X86_ISA_SYSCALL,
	X86_ISA_CLFLUSHOPT,
	X86_ISA_CLWB,
	X86_ISA_MONITOR,
	X86_ISA_3DNOW,
	X86_ISA_FMA4_XOP,
	X86_ISA_SMAP,
	X86_ISA_PREFETCHW,
	X86_ISA_MOVDIRI,
	X86_ISA_MOVDIR64B,
	X86_ISA_CLZERO,
	X86_ISA_OTHER,
	X86_ISA_COUNT
};

/* Legacy prefixes seen */
#define X86_PFX_66 0x01
#define X86_PFX_67 0x02
#define X86_PFX_F2 0x04
#define X86_PFX_F3 0x08
#define X86_PFX_LOCK 0x10
#define X86_PFX_SEG 0x20
#define X86_PFX_REX 0x40

/* Memory access kinds */
#define X86_MEM_R 1
#define X86_MEM_W 2

struct x86_insn {
	uint8_t length;   /* bytes, 1..15 */
	uint8_t encoding; /* enum x86_encoding */
	uint8_t map;      /* enum x86_map */
	uint8_t opcode;
	uint8_t prefixes; /* X86_PFX_* */
	uint8_t rex; /* the REX byte (0x40-0x4f) or 0. For VEX/EVEX/XOP: R, X, B, W as REX bits */
	uint8_t mandatory; /* the prefix that selects the opcode: 0, 0x66, 0xf2, 0xf3 (VEX.pp decoded likewise) */
	uint8_t op_class; /* enum x86_class */
	uint16_t op;      /* enum x86_op */
	uint8_t unit;     /* enum x86_unit */
	uint8_t isa;      /* enum x86_isa */

	uint8_t opcode_offset; /* of the opcode byte itself (after REX/VEX/EVEX and escape bytes) */
	uint8_t has_modrm;
	uint8_t modrm, modrm_offset;
	uint8_t imm_size,
		imm_offset; /* first immediate, bytes; 0 if none. moffs: the address is imm (size = address size) */
	uint8_t imm2_size; /* enter: 1; far pointers: 2 (the selector), following the first */
	uint8_t disp_size; /* encoded size, bytes */
	int64_t imm;       /* sign-extended as the instruction does */
	uint16_t imm2;

	uint8_t opsize; /* 1, 2, 4 or 8: effective operand size of general-purpose operands (of the r/m
	                     operand where operands differ); branches and pushes in 64-bit mode: 8 unless 66 */
	uint8_t addrsize; /* 2, 4 or 8 */

	/* Memory operand. For moffs, XLAT and string instructions has_mem is 0 except moffs: 1. */
	uint8_t has_mem;
	uint8_t mem_access; /* X86_MEM_R | X86_MEM_W; 0 for lea, nop, prefetch, invlpg: address only */
	uint16_t mem_size; /* bytes accessed: 1..64, or larger for fxsave and the like; 0 if address only */
	uint8_t seg; /* enum x86_seg: the one used, default or overridden (in 64-bit mode only FS and GS count) */
	int8_t base, index;   /* enum x86_gpr, or -1. 16-bit forms are given as base + index too */
	uint8_t scale;        /* 0..3 (shift) */
	uint8_t rip_relative; /* EA = address of next instruction + disp */
	int32_t disp;         /* EVEX disp8*N already multiplied */
	uint8_t align; /* alignment the host instruction demands of the operand: 0/1 none, 16, 32, 64 */

	/* General-purpose registers by number (bit n = register n), explicit and implicit operands together.
	 * Address registers are in gpr_addr only (and in gpr_read too if they are also operands). A write to an 8- or
	 * 16-bit part, and a conditional write, also counts as a read. */
	uint16_t gpr_read, gpr_write, gpr_addr;
	/* Where GPR operands are named, so that they can be renamed: 1 if that field names a GPR */
	uint8_t reg_is_gpr;  /* ModRM.reg (with REX.R / VEX.R) */
	uint8_t rm_is_gpr;   /* ModRM.rm with mod = 3 (with REX.B) */
	uint8_t vvvv_is_gpr; /* VEX.vvvv */
	uint8_t opc_is_gpr; /* low three bits of the opcode (with REX.B): push, pop, xchg, mov imm, bswap */
	uint8_t is4_is_gpr; /* never on today's instructions; kept 0 */
	uint8_t high_byte;  /* 1: an operand is AH, CH, DH or BH (so no REX may be added) */
	uint8_t vvvv;       /* VEX.vvvv as a register number, un-inverted (EVEX: with V') */
	uint8_t vl;         /* vector length in bytes: 16, 32, 64; 0 if none */

	/* Arithmetic flags (X86_FLAGS_ARITH bits of RFLAGS, and X86_FLAG_DF) */
	uint16_t flags_read;
	uint16_t flags_write; /* every path writes these, undefined results included */
	uint16_t flags_maybe; /* may be written or left alone (shifts by CL, rep string): live through */
};

/*
 * Decode the instruction at code. avail: bytes that may be read (1..15; fewer than the length gives
 * X86_DECODE_TRUNCATED). mode: enum x86_mode_bits. Returns the length (> 0), or:
 *   X86_DECODE_TRUNCATED  the instruction runs past avail
 *   X86_DECODE_TOO_LONG   over 15 bytes: #GP(0) (SDM vol. 3, 6.15)
 * An undefined opcode decodes with op_class X86_CLASS_INVALID and the length of what was consumed;
 * LOCK on an instruction that does not allow it likewise.
 */
#define X86_DECODE_TRUNCATED (-1)
#define X86_DECODE_TOO_LONG (-2)
int x86_decode(struct x86_insn *insn, const uint8_t *code, unsigned avail, enum x86_mode_bits mode);

/* What people call an operation (enum x86_op); "?" if there is none such. (decode_names.c) */
const char *x86_op_name(unsigned op);

#endif
