/* SPDX-License-Identifier: MIT */
/* Between the generator's files: how items are put together, and the templates in generate_system.c. */
#ifndef LODGE_TESTS_CPU_GENERATE_H
#define LODGE_TESTS_CPU_GENERATE_H

#include <Zydis/Zydis.h>

#include "cpu_test.h"

enum {
	CLASS_INT, CLASS_0F, CLASS_STACK, CLASS_BRANCH, CLASS_STRING, CLASS_X87, CLASS_SSE, CLASS_VEX, CLASS_EVEX,
	CLASS_GATHER, CLASS_SMC, CLASS_BYTES, CLASS_MOV, CLASS_LOCK, CLASS_FPIMAGE, CLASS_SEGMENT, CLASS_FAR, CLASS_TRAP,
	CLASS_AC, CLASS_COUNT
};

struct encoded {
	uint8_t bytes[15];
	unsigned length;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* ---- draw.c ---- */
/* Draw until something valid of the class comes up. */
bool draw_valid(struct random *r, struct encoded *e, unsigned class, unsigned mode);
/* A short instruction on registers only, that does not touch registers in mask and cannot fault (nearly). */
bool draw_plain(struct random *r, struct encoded *e, unsigned mode, unsigned mask);
/* Draw the bytes of any instruction (make_bytes): false if Zydis does not know them. */
bool decode_drawn(struct encoded *e, unsigned mode, unsigned avail);
bool may_run(const struct encoded *e);
/* The number of a general-purpose register, or -1. */
int gpr_number(ZydisMachineMode mode, ZydisRegister reg);

/* ---- generate.c ---- */

bool chance(struct random *r, unsigned percent);
void emit(struct item *item, const void *bytes, unsigned n);
void emit_byte(struct item *item, unsigned byte);
/* mov reg, value: 64 bits in 64-bit mode, else 32 */
void emit_mov_imm(struct item *item, unsigned mode, unsigned reg, uint64_t value);
void add_fixup(struct item *item, unsigned kind, unsigned at, unsigned end, uint64_t target);
/* Somewhere in the data pages with room on both sides */
uint64_t stack_address(struct random *r);

/* fxsave, xsave, fnstenv and friends, their parts that are not specified hidden */
void make_fp_image(struct random *r, struct item *item, unsigned mode);
/* Segment registers stored and loaded, FS and GS bases */
void make_segment(struct random *r, struct item *item, unsigned mode);
/* Far returns, jumps and IRET, also between 64-bit and compatibility mode */
void make_far(struct random *r, struct item *item, unsigned mode);
/* Traps: into, bound, ud, single-step */
void make_trap(struct random *r, struct item *item, unsigned mode);
/* Misaligned accesses under RFLAGS.AC */
void make_alignment_check(struct random *r, struct item *item, unsigned mode);

#endif
