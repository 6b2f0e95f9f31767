/* SPDX-License-Identifier: MIT */
/*
 * The generator of tests.
 *
 * An instruction is made by drawing an encoding (opcode map, opcode, prefixes, ModRM, SIB, displacement,
 * immediate) at random, until the reference disassembler (Zydis) knows it and it is one that may run: nothing
 * that makes system calls, nothing whose result differs from run to run. So every opcode and addressing
 * form comes up, in proportion to its share of the encoding space. Then the instruction gets set-up code:
 * registers its address is made of are loaded so that it lands in the data pages (mostly), misaligned, across pages, on
 * a read-only page or on none (sometimes); counts and divisors are made reasonable (mostly).
 *
 * Control transfers are made from templates, whole with the code they skip or repeat.
 */
#include <string.h>

#include "generate.h"

/* ---- random numbers: splitmix64 ---- */

uint64_t random_next(struct random *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

unsigned random_below(struct random *r, unsigned n)
{
	return (unsigned)((random_next(r) >> 32) * n >> 32);
}

bool chance(struct random *r, unsigned percent)
{
	return random_below(r, 100) < percent;
}

/* ---- memory contents ---- */

void fill_data(uint8_t *data, uint64_t seed)
{
	struct random r = { seed ^ 0xda7a };

	for (unsigned i = 0; i < DATA_SIZE; i += 8) {
		uint64_t v = random_next(&r);

		switch (v & 15) { /* some numbers that floating point finds interesting */
		case 0:
			v = 0x3ff0000000000000ull + (v & 0xffffff0000000ull);
			break;
		case 1:
			v = 0x3f8000003f800000ull ^ (v & 0x807fffff007fffffull);
			break;
		case 2:
			v = 0;
			break;
		case 3:
			v = 0x7ff0000000000000ull | (v >> 63 << 63);
			break;
		}
		memcpy(data + i, &v, 8);
	}
}

void fill_readonly_page(uint8_t *page)
{
	struct random r = { 0x0ead };

	for (unsigned i = 0; i < PAGE; i += 8) {
		uint64_t v = random_next(&r);

		memcpy(page + i, &v, 8);
	}
}

/* Small signed offsets: doublewords in the first half, quadwords in the second */
void fill_index_page(uint8_t *page)
{
	struct random r = { 0x1de };

	for (unsigned i = 0; i < PAGE / 2; i += 4) {
		int32_t v = (int32_t)random_below(&r, 700) - 350;

		memcpy(page + i, &v, 4);
	}
	for (unsigned i = PAGE / 2; i < PAGE; i += 8) {
		int64_t v = (int64_t)random_below(&r, 700) - 350;

		memcpy(page + i, &v, 8);
	}
}

/* ---- initial registers ---- */

static uint64_t interesting(struct random *r)
{
	uint64_t v = random_next(r);

	switch (random_below(r, 8)) {
	case 0:
		return v & 0xff;
	case 1:
		return (uint64_t)(int64_t)(int8_t)v;
	case 2:
		return 1ull << (v & 63);
	case 3:
		return (1ull << (v & 63)) - 1;
	case 4:
		return (uint32_t)v;
	default:
		return v;
	}
}

static void random_element(struct random *r, uint8_t *p, unsigned bytes)
{
	uint64_t v = random_next(r);

	if (bytes == 8) {
		switch (random_below(r, 6)) {
		case 0:
			v = 0x3ff0000000000000ull ^ (v & 0x803fffffffffffffull);
			break;
		case 1:
			v = 0x3f8000003f800000ull ^ (v & 0x80ffffff80ffffffull);
			break;
		case 2:
			v &= 0x8000000000000000ull;
			break;
		}
	}
	memcpy(p, &v, bytes);
}

static void random_registers(struct random *r, struct cpu_regs *regs)
{
	struct fp_state *fp = &regs->fp;

	memset(regs, 0, sizeof(*regs));
	for (unsigned i = 0; i < 16; i++)
		regs->gpr[i] = chance(r, 30) ? DATA_BASE + random_below(r, DATA_SIZE) : interesting(r);
	regs->gpr[4] = DATA_BASE + 8 * random_below(r, DATA_SIZE / 8);
	regs->rflags = 0x202 | (random_next(r) & 0x8d5) | (chance(r, 10) ? 0x400 : 0);
	regs->fs_base = DATA_BASE + 16 * random_below(r, 64);
	regs->gs_base = DATA_BASE + 16 * random_below(r, 64);
	fp->fcw = 0x37f;
	if (chance(r, 40))
		fp->fcw = (uint16_t)(0x7f | random_below(r, 16) << 8);
	if (chance(r, 3))
		fp->fcw &= (uint16_t)~(1u << random_below(r, 6));
	fp->mxcsr = 0x1f80;
	if (chance(r, 40))
		fp->mxcsr |= random_below(r, 4) << 13;
	if (chance(r, 10))
		fp->mxcsr |= 0x8040;
	if (chance(r, 3))
		fp->mxcsr &= ~(0x80u << random_below(r, 6));
	fp->ftw = chance(r, 50) ? 0 : (uint8_t)random_next(r);
	fp->fsw = (uint16_t)(random_below(r, 8) << 11);
	for (unsigned i = 0; i < 8; i++) {
		random_element(r, fp->st[i], 8);
		fp->st[i][7] |= 0x80;
		fp->st[i][8] = (uint8_t)(0xf8 + random_below(r, 16));
		fp->st[i][9] = 0x3f | (chance(r, 50) ? 0x80 : 0);
		if (fp->st[i][8] < 0xf8)
			fp->st[i][9] += 1;
	}
	for (unsigned i = 0; i < 32; i++)
		for (unsigned j = 0; j < 64; j += 8)
			random_element(r, fp->zmm[i] + j, 8);
	for (unsigned i = 0; i < 8; i++)
		fp->k[i] = interesting(r);
}

/* ---- classes ---- */

const char *const class_names[] = { "int", "0f", "stack", "branch", "string", "x87", "sse", "vex", "evex",
				    "gather", "smc", "bytes", "mov", "lock", "fpimage", "segment", "far", "trap", "ac", NULL };

/* How often each comes up when several are allowed. */
static const uint8_t class_weights[CLASS_COUNT] = { 200, 90, 60, 70, 50, 60, 120, 110, 110, 20, 20, 20, 50, 20, 10, 10, 8, 5, 1 };

/* ---- putting items together ---- */

void emit(struct item *item, const void *bytes, unsigned n)
{
	memcpy(item->bytes + item->length, bytes, n);
	item->length = (uint8_t)(item->length + n);
}

void emit_byte(struct item *item, unsigned byte)
{
	item->bytes[item->length++] = (uint8_t)byte;
}

void emit_mov_imm(struct item *item, unsigned mode, unsigned reg, uint64_t value)
{
	if (mode == TEST_64) {
		emit_byte(item, 0x48 | reg >> 3);
		emit_byte(item, 0xb8 | (reg & 7));
		emit(item, &value, 8);
	} else {
		emit_byte(item, 0xb8 | (reg & 7));
		emit(item, &value, 4);
	}
}

void add_fixup(struct item *item, unsigned kind, unsigned at, unsigned end, uint64_t target)
{
	item->fixups[item->fixup_count++] = (struct fixup){ (uint8_t)kind, (uint8_t)at, (uint8_t)end, target };
}

/* A place for a memory operand of size bytes. */
static uint64_t choose_target(struct random *r, unsigned size, bool aligned)
{
	unsigned kind = random_below(r, 1000);
	unsigned align = size >= 64 ? 64 : size >= 32 ? 32 : size >= 16 ? 16 : size >= 8 ? 8 : size ? size : 1;

	if (kind < (aligned ? 900u : 600u))
		return DATA_BASE + (random_below(r, DATA_SIZE - 64) & ~(uint64_t)(align - 1));
	if (kind < 930)
		return DATA_BASE + random_below(r, DATA_SIZE - 64);
	if (kind < 975) /* across a page boundary, or just at it */
		return DATA_BASE + PAGE * (1 + random_below(r, DATA_PAGES - 1)) - random_below(r, size + 2);
	if (kind < 983) /* into the hole after the data */
		return DATA_BASE + DATA_SIZE - random_below(r, size + 2);
	if (kind < 988) /* from the hole before it */
		return DATA_BASE - random_below(r, size + 2);
	if (kind < 995)
		return READONLY_BASE + (random_below(r, PAGE - 64) & ~(uint64_t)(align - 1));
	if (kind < 998)
		return READONLY_BASE + PAGE - random_below(r, size + 2);
	return random_next(r);
}

static uint64_t segment_base(const struct cpu_regs *start, ZydisRegister segment)
{
	return segment == ZYDIS_REGISTER_FS ? start->fs_base : segment == ZYDIS_REGISTER_GS ? start->gs_base : 0;
}

static bool needs_alignment(const struct encoded *e, unsigned size)
{
	switch (e->insn.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE4:
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return size >= 16;
	default:
		return e->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
	}
}

static void store(uint8_t *p, uint64_t value, unsigned bytes)
{
	memcpy(p, &value, bytes);
}

/* Load a vector register with offsets from the index page: vmovdqu ymm or vmovdqu64 zmm, [disp32]. */
static void emit_load_indices(struct item *item, unsigned mode, unsigned reg, uint64_t address, bool evex)
{
	if (evex) {
		emit_byte(item, 0x62);
		emit_byte(item, 0x01 | 0x60 | (reg & 8 ? 0 : 0x80) | (reg & 16 ? 0 : 0x10));
		emit_byte(item, 0xfe);
		emit_byte(item, 0x48);
		emit_byte(item, 0x6f);
	} else {
		emit_byte(item, 0xc5);
		emit_byte(item, (reg & 8 ? 0 : 0x80) | 0x7e);
		emit_byte(item, 0x6f);
	}
	if (mode == TEST_64) {
		emit_byte(item, (reg & 7) << 3 | 4);
		emit_byte(item, 0x25);
	} else {
		emit_byte(item, (reg & 7) << 3 | 5);
	}
	emit(item, &address, 4);
}

/* Make e's memory operand land on target: emit register loads into item, patch displacements in e. */
static void aim(struct random *r, struct item *item, struct encoded *e, unsigned mode, const struct cpu_regs *start,
		const ZydisDecodedOperandMem *mem, uint64_t target, unsigned *rip_at)
{
	ZydisMachineMode machine = e->insn.machine_mode;
	int base = mem->base == ZYDIS_REGISTER_NONE ? -1 : gpr_number(machine, mem->base);
	int index = mem->index == ZYDIS_REGISTER_NONE ? -1 : gpr_number(machine, mem->index);
	unsigned at = e->insn.raw.disp.offset, size = e->insn.raw.disp.size / 8;
	uint64_t offset = target - segment_base(start, mem->segment);
	uint64_t index_value = 0, high = 0;

	if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP) {
		*rip_at = at;
		return;
	}
	if (e->insn.address_width == 32 && mode == TEST_64)
		high = random_next(r) << 32;
	if (index >= 0 && index != base) {
		index_value = chance(r, 80) ? random_below(r, 300) - 150ull : random_next(r);
		if (base < 0) /* [index * scale + disp32] */
			index_value = random_below(r, 256);
	}
	if (base < 0) {
		if (index >= 0)
			emit_mov_imm(item, mode, (unsigned)index, index_value | high);
		if (size)
			store(e->bytes + at, offset - index_value * (mem->scale ? mem->scale : 1), size);
		return;
	}
	offset -= (uint64_t)mem->disp.value;
	if (index == base) {
		emit_mov_imm(item, mode, (unsigned)base, offset / (1u + mem->scale) | high);
		return;
	}
	offset -= index_value * mem->scale;
	if (e->insn.address_width == 32)
		offset = (uint32_t)offset | high;
	emit_mov_imm(item, mode, (unsigned)base, offset);
	if (index >= 0)
		emit_mov_imm(item, mode, (unsigned)index, index_value | high);
}

/* Set-up for operands that are not in ModRM. */
static void prepare_implicit(struct random *r, struct item *item, const struct encoded *e, unsigned mode, uint64_t high)
{
	const ZydisDecodedInstruction *i = &e->insn;
	ZydisMnemonic m = i->mnemonic;

	if (i->meta.category == ZYDIS_CATEGORY_STRINGOP) {
		emit_mov_imm(item, mode, 6, choose_target(r, 8, false) | high);
		emit_mov_imm(item, mode, 7, choose_target(r, 8, false) | high);
		if (i->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
			emit_mov_imm(item, mode, 1, random_below(r, chance(r, 10) ? 700 : 20) | high);
		return;
	}
	if (m == ZYDIS_MNEMONIC_XLAT) {
		emit_mov_imm(item, mode, 3, choose_target(r, 1, false) | high);
	} else if (m == ZYDIS_MNEMONIC_MASKMOVQ || m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU) {
		emit_mov_imm(item, mode, 7, choose_target(r, 16, false) | high);
	} else if (m == ZYDIS_MNEMONIC_ENTER || m == ZYDIS_MNEMONIC_LEAVE) {
		emit_mov_imm(item, mode, 5, DATA_BASE + 4096 + 8 * random_below(r, 512));
		if (m == ZYDIS_MNEMONIC_ENTER)
			emit_mov_imm(item, mode, 4, DATA_BASE + 4096 + 8 * random_below(r, 1024));
	} else if (m == ZYDIS_MNEMONIC_DIV && chance(r, 85)) {
		emit_mov_imm(item, mode, 2, random_below(r, 4));
	} else if (m == ZYDIS_MNEMONIC_IDIV && chance(r, 85)) {
		emit_byte(item, 0x99); /* cdq: half of the time right */
	}
	if (i->meta.category == ZYDIS_CATEGORY_PUSH || i->meta.category == ZYDIS_CATEGORY_POP)
		emit_mov_imm(item, mode, 4, (chance(r, 80) ? DATA_BASE + 64 + 8 * random_below(r, DATA_SIZE / 8 - 16) :
						       choose_target(r, 8, false)));
}

/* Add the drawn instruction, with set-up, to the item. */
static void finish_encoded(struct random *r, struct item *item, struct encoded *e, unsigned mode, const struct cpu_regs *start)
{
	const ZydisDecodedOperand *mem = NULL;
	uint64_t target = 0, high = 0;
	unsigned rip_at = 0;

	if (e->insn.address_width == 32 && mode == TEST_64)
		high = random_next(r) << 32;
	for (unsigned i = 0; i < e->insn.operand_count; i++)
		if (e->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    e->operands[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			mem = &e->operands[i];
	prepare_implicit(r, item, e, mode, high);
	if (mem && e->insn.meta.category != ZYDIS_CATEGORY_STRINGOP && e->insn.mnemonic != ZYDIS_MNEMONIC_XLAT &&
	    e->insn.address_width != 16) {
		unsigned size = mem->size / 8;

		target = choose_target(r, size, needs_alignment(e, size));
		if (mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
			bool evex = e->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
			bool qwords = e->insn.opcode & 1;
			unsigned reg = ZydisRegisterGetId(mem->mem.index) & 31;
			ZydisDecodedOperandMem plain = mem->mem;

			plain.index = ZYDIS_REGISTER_NONE;
			emit_load_indices(item, mode, reg, INDEX_BASE + (qwords ? PAGE / 2 : 0) + 8 * random_below(r, 240), evex);
			target = chance(r, 90) ? DATA_BASE + DATA_SIZE / 2 : choose_target(r, 8, false);
			aim(r, item, e, mode, start, &plain, target, &rip_at);
		} else {
			switch (e->insn.mnemonic) {
			case ZYDIS_MNEMONIC_BT:
			case ZYDIS_MNEMONIC_BTS:
			case ZYDIS_MNEMONIC_BTR:
			case ZYDIS_MNEMONIC_BTC:
				if (e->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
					int reg = gpr_number(e->insn.machine_mode, e->operands[1].reg.value);

					if (reg >= 0 && chance(r, 90))
						emit_mov_imm(item, mode, (unsigned)reg, random_below(r, 30000) - 15000ull);
					target = DATA_BASE + DATA_SIZE / 2;
				}
				break;
			default:
				break;
			}
			aim(r, item, e, mode, start, &mem->mem, target, &rip_at);
		}
	}
	if (rip_at) {
		/* a target the displacement cannot reach wraps: it is wild anyway */
		add_fixup(item, FIXUP_REL32, item->length + rip_at, item->length + e->length, target & ~TARGET_IN_ITEM);
	}
	emit(item, e->bytes, e->length);
}

/* ---- templates ---- */

uint64_t stack_address(struct random *r)
{
	return DATA_BASE + 256 + 8 * random_below(r, DATA_SIZE / 8 - 64);
}

static void make_branch(struct random *r, struct item *item, unsigned mode)
{
	struct encoded body;
	unsigned at, kind = random_below(r, 12), reg;

	if (!draw_plain(r, &body, mode, 1u << 1 | 1u << 4))
		return;
	switch (kind) {
	case 0:
	case 1:
	case 2:
	case 3: /* jcc over the body, short or near */
		if (chance(r, 50)) {
			emit_byte(item, 0x70 + random_below(r, 16));
			emit_byte(item, body.length);
		} else {
			uint32_t distance = body.length;

			emit_byte(item, 0x0f);
			emit_byte(item, 0x80 + random_below(r, 16));
			emit(item, &distance, 4);
		}
		emit(item, body.bytes, body.length);
		break;
	case 4: /* jmp over it */
		emit_byte(item, 0xeb);
		emit_byte(item, body.length);
		emit(item, body.bytes, body.length);
		break;
	case 5: /* loop, loope, loopne, back over it */
		emit_mov_imm(item, mode, 1, 1 + random_below(r, 6));
		at = item->length;
		emit(item, body.bytes, body.length);
		if (chance(r, 15) && mode == TEST_64)
			emit_byte(item, 0x67);
		emit_byte(item, 0xe0 + random_below(r, 3));
		emit_byte(item, at - (item->length + 1u));
		break;
	case 6: /* jrcxz over it */
		if (chance(r, 50))
			emit_mov_imm(item, mode, 1, (uint64_t)random_below(r, 2) << (chance(r, 50) ? 40 : 0));
		if (chance(r, 25))
			emit_byte(item, 0x67);
		emit_byte(item, 0xe3);
		emit_byte(item, body.length);
		emit(item, body.bytes, body.length);
		break;
	case 7: /* dec; jnz back */
		emit_mov_imm(item, mode, 1, 1 + random_below(r, 20));
		at = item->length;
		emit(item, body.bytes, body.length);
		emit(item, "\xff\xc9", 2); /* dec ecx */
		emit_byte(item, 0x75);
		emit_byte(item, at - (item->length + 1u));
		break;
	case 8: /* indirect jump over it */
		reg = random_below(r, 8);
		reg = reg == 4 ? 0 : reg;
		emit_byte(item, 0xb8 + reg); /* mov reg32, address */
		at = item->length;
		emit(item, "\0\0\0\0", 4);
		emit_byte(item, 0xff);
		emit_byte(item, 0xe0 + reg);
		add_fixup(item, FIXUP_HERE32, at, 0, item->length + body.length);
		emit(item, body.bytes, body.length);
		break;
	case 9: /* call over it, pop the return address */
		emit_mov_imm(item, mode, 4, stack_address(r));
		emit_byte(item, 0xe8);
		emit(item, &(uint32_t){ body.length }, 4);
		emit(item, body.bytes, body.length);
		if (chance(r, 70))
			emit_byte(item, 0x58 + (reg = random_below(r, 8), reg == 4 ? 0 : reg));
		break;
	case 10: /* push an address, return to it */
		emit_mov_imm(item, mode, 4, stack_address(r));
		emit_byte(item, 0x68);
		at = item->length;
		emit(item, "\0\0\0\0", 4);
		if (chance(r, 60)) {
			emit_byte(item, 0xc3);
		} else {
			uint16_t pop = (uint16_t)(8 * random_below(r, 8));

			emit_byte(item, 0xc2);
			emit(item, &pop, 2);
		}
		add_fixup(item, FIXUP_HERE32, at, 0, item->length + body.length);
		emit(item, body.bytes, body.length);
		break;
	default: /* indirect call through memory; a subroutine that returns */
		emit_mov_imm(item, mode, 4, stack_address(r));
		emit_byte(item, 0x68);
		at = item->length;
		emit(item, "\0\0\0\0", 4); /* push subroutine */
		emit(item, "\xff\x14\x24", 3); /* call [rsp] */
		emit_byte(item, 0xeb);
		emit_byte(item, body.length + 1);
		add_fixup(item, FIXUP_HERE32, at, 0, item->length);
		emit(item, body.bytes, body.length);
		emit_byte(item, 0xc3);
		break;
	}
}

/* Code that changes the immediate of the instruction after it. */
static void make_smc(struct random *r, struct item *item, unsigned mode)
{
	uint8_t value = (uint8_t)random_next(r);
	unsigned reg = random_below(r, 8);

	if (mode == TEST_64) {
		emit(item, "\xc6\x05\0\0\0\0", 6); /* mov byte [rip + x], value */
		emit_byte(item, value);
		add_fixup(item, FIXUP_REL32, item->length - 5u, item->length, TARGET_IN_ITEM | (item->length + 1u + random_below(r, 4)));
	} else {
		emit(item, "\xc6\x05\0\0\0\0", 6);
		emit_byte(item, value);
		add_fixup(item, FIXUP_HERE32, item->length - 5u, 0, item->length + 1u + random_below(r, 4));
	}
	if (chance(r, 50)) {
		/* put other instructions' worth of distance between: same page, same block or not */
		emit_byte(item, 0xb8 + (reg == 4 ? 0 : reg));
		emit(item, "\x11\x22\x33\x44", 4);
		return;
	}
	emit_byte(item, 0x05 | random_below(r, 8) << 3); /* alu eax, imm32 */
	emit(item, "\x11\x22\x33\x44", 4);
}

static void make_stack_template(struct random *r, struct item *item, unsigned mode)
{
	uint32_t flags = (uint32_t)(random_next(r) & 0xcd5) | 2;

	emit_mov_imm(item, mode, 4, stack_address(r));
	if (chance(r, 50)) { /* popf */
		emit_byte(item, 0x68);
		emit(item, &flags, 4);
		if (chance(r, 10))
			emit_byte(item, 0x66);
		emit_byte(item, 0x9d);
	} else { /* push rsp, pop [rsp] and so on */
		emit_byte(item, 0x50 + random_below(r, 8));
		emit_byte(item, 0x50 + random_below(r, 8));
		emit(item, "\x8f\x44\x24\x08", 4);
	}
}

/* Any bytes: what they do, they do; nothing is aimed. */
static void make_bytes(struct random *r, struct item *item, unsigned mode)
{
	struct encoded e;

	for (unsigned tries = 0; tries < 50; tries++) {
		for (unsigned i = 0; i < 15; i++)
			e.bytes[i] = (uint8_t)random_next(r);
		if (decode_drawn(&e, mode, 15)) {
			if (!may_run(&e))
				continue;
			emit(item, e.bytes, e.length);
		} else if (chance(r, 10)) { /* undefined: as far as Zydis knows; ends the test either way */
			emit_byte(item, 0x0f);
			emit_byte(item, 0x0b);
		} else {
			continue;
		}
		return;
	}
}

static unsigned choose_class(struct random *r, uint32_t allowed)
{
	unsigned total = 0, n;

	for (unsigned i = 0; i < CLASS_COUNT; i++)
		total += allowed >> i & 1 ? class_weights[i] : 0;
	n = random_below(r, total);
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		unsigned weight = allowed >> i & 1 ? class_weights[i] : 0;

		if (n < weight)
			return i;
		n -= weight;
	}
	return 0;
}

static void make_item(struct random *r, struct item *item, unsigned class, unsigned mode, const struct cpu_regs *start)
{
	struct encoded e;

	memset(item, 0, sizeof(*item));
	switch (class) {
	case CLASS_BRANCH:
		make_branch(r, item, mode);
		return;
	case CLASS_SMC:
		make_smc(r, item, mode);
		return;
	case CLASS_BYTES:
		make_bytes(r, item, mode);
		return;
	case CLASS_FPIMAGE:
		make_fp_image(r, item, mode);
		return;
	case CLASS_SEGMENT:
		make_segment(r, item, mode);
		return;
	case CLASS_FAR:
		make_far(r, item, mode);
		return;
	case CLASS_TRAP:
		make_trap(r, item, mode);
		return;
	case CLASS_AC:
		make_alignment_check(r, item, mode);
		return;
	case CLASS_STACK:
		if (chance(r, 25)) {
			make_stack_template(r, item, mode);
			return;
		}
		break;
	}
	if (draw_valid(r, &e, class, mode))
		finish_encoded(r, item, &e, mode, start);
}

void generate_test(struct test_case *test, uint64_t seed, const struct generator_options *options)
{
	struct random r = { seed * 0x2545f4914f6cdd1dull + 1 };
	unsigned length = options->length ? options->length : 12;

	memset(test, 0, sizeof(*test));
	test->seed = seed;
	test->mode = (uint8_t)(options->mode >= 0 ? options->mode : chance(&r, 15) ? TEST_32 : TEST_64);
	random_registers(&r, &test->start);
	if (test->mode == TEST_32)
		for (unsigned i = 0; i < 16; i++)
			test->start.gpr[i] = i < 8 ? (uint32_t)test->start.gpr[i] : 0;
	length = 1 + random_below(&r, length > ITEM_MAX ? ITEM_MAX : length);
	for (unsigned i = 0; i < length; i++) {
		make_item(&r, &test->items[test->item_count], choose_class(&r, options->classes), test->mode, &test->start);
		if (test->items[test->item_count].length)
			test->item_count++;
	}
	/* half of the tests use a few places again and again, the others any place */
	if (chance(&r, 50))
		test->code = CODE_BASE + 0x3f0 * random_below(&r, 16);
	else
		test->code = CODE_BASE + random_below(&r, CODE_PAGES * PAGE - ITEM_MAX * ITEM_BYTES - 64);
	place_test(test);
}

void place_test(struct test_case *test)
{
	uint8_t *out = test->code_bytes;
	unsigned at = 0;

	for (unsigned i = 0; i < test->item_count; i++) {
		const struct item *item = &test->items[i];
		uint64_t here = test->code + at;

		memcpy(out + at, item->bytes, item->length);
		for (unsigned j = 0; j < item->fixup_count; j++) {
			const struct fixup *f = &item->fixups[j];
			uint64_t value, target = f->target;

			if (f->kind == FIXUP_REL32) {
				if (target & TARGET_IN_ITEM)
					target = here + (target & ~TARGET_IN_ITEM);
				value = target - (here + f->end);
			} else {
				value = here + target;
			}
			memcpy(out + at + f->at, &value, f->kind == FIXUP_HERE64 ? 8 : 4);
		}
		at += item->length;
	}
	memset(out + at, 0xcc, 4);
	test->code_size = at + 4;
}
