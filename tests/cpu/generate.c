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
#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_test.h"

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

static bool chance(struct random *r, unsigned percent)
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

/* ---- what may run ---- */

static ZydisDecoder decoders[2];

void generator_init(void)
{
	ZydisDecoderInit(&decoders[TEST_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&decoders[TEST_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	for (unsigned i = 0; i < 2; i++) {
		ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	}
}

struct encoded {
	uint8_t bytes[15];
	unsigned length;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* Instructions that fault at CPL 3 whatever their operands: good tests of that. */
static bool is_privileged(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_XSETBV:
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
	case ZYDIS_MNEMONIC_SWAPGS:
		return true;
	default:
		return false;
	}
}

/* Is this one whose result is a function of the test's state, and that does nothing outside? */
static bool may_run(const struct encoded *e)
{
	ZydisMnemonic m = e->insn.mnemonic;

	if (is_privileged(m))
		return true;
	switch (e->insn.meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_RDRAND:
	case ZYDIS_CATEGORY_RDSEED:
	case ZYDIS_CATEGORY_RDPID:
	case ZYDIS_CATEGORY_RDPRU:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_CET:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR:
		return false;
	default:
		break;
	}
	switch (m) {
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_MONITORX:
	case ZYDIS_MNEMONIC_MWAITX:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_CLZERO:
	case ZYDIS_MNEMONIC_MOVDIRI: /* run even where CPUID hides them */
	case ZYDIS_MNEMONIC_MOVDIR64B:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_MCOMMIT:
	case ZYDIS_MNEMONIC_SALC: /* vendors' manuals leave it out; tested by hand in tests/guest */
		return false;
	default:
		break;
	}
	for (unsigned i = 0; i < e->insn.operand_count; i++) {
		const ZydisDecodedOperand *o = &e->operands[i];

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(o->reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
		case ZYDIS_REGCLASS_CONTROL:
		case ZYDIS_REGCLASS_DEBUG:
			return false;
		default:
			break;
		}
	}
	return true;
}

static bool decode(struct encoded *e, unsigned mode, unsigned avail)
{
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[mode], e->bytes, avail, &e->insn, e->operands)))
		return false;
	e->length = e->insn.length;
	return true;
}

/* ---- classes ---- */

enum {
	CLASS_INT, CLASS_0F, CLASS_STACK, CLASS_BRANCH, CLASS_STRING, CLASS_X87, CLASS_SSE, CLASS_VEX, CLASS_EVEX,
	CLASS_GATHER, CLASS_SMC, CLASS_BYTES, CLASS_MOV, CLASS_LOCK, CLASS_COUNT
};

const char *const class_names[] = { "int", "0f", "stack", "branch", "string", "x87", "sse", "vex", "evex",
				    "gather", "smc", "bytes", "mov", "lock", NULL };

/* How often each comes up when all are allowed, of 100. */
static const uint8_t class_weights[CLASS_COUNT] = { 20, 9, 6, 7, 5, 6, 12, 11, 11, 2, 2, 2, 5, 2 };

static void random_tail(struct random *r, uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (uint8_t)random_next(r);
	if (n >= 2 && chance(r, 50)) /* small displacements and immediates */
		p[1] = (uint8_t)((int)random_below(r, 64) - 32);
}

static unsigned put_legacy_prefixes(struct random *r, uint8_t *p, unsigned mode)
{
	unsigned n = 0;

	if (chance(r, 20))
		p[n++] = 0x66;
	if (chance(r, 4))
		p[n++] = 0x67;
	if (chance(r, 3))
		p[n++] = mode == TEST_64 ? (uint8_t)(0x64 + random_below(r, 2)) : (uint8_t)(0x26 + 8 * random_below(r, 4));
	return n;
}

static unsigned put_rex(struct random *r, uint8_t *p, unsigned mode)
{
	if (mode != TEST_64 || chance(r, 40))
		return 0;
	*p = (uint8_t)(0x40 | random_below(r, 16));
	return 1;
}

/* Draw the bytes of an instruction of a class. */
static void draw(struct random *r, struct encoded *e, unsigned class, unsigned mode)
{
	static const uint8_t mandatory[] = { 0, 0x66, 0xf3, 0xf2 };
	static const uint8_t string_ops[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf };
	static const uint8_t lockable[] = { 0x00, 0x01, 0x08, 0x09, 0x10, 0x11, 0x18, 0x19, 0x20, 0x21, 0x28, 0x29, 0x30, 0x31, 0x80,
					    0x81, 0x83, 0x86, 0x87, 0xf6, 0xf7, 0xfe, 0xff };
	static const uint8_t lockable_0f[] = { 0xab, 0xb0, 0xb1, 0xb3, 0xba, 0xbb, 0xc0, 0xc1, 0xc7 };
	static const uint8_t stack_ops[] = { 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d,
					     0x5e, 0x5f, 0x68, 0x6a, 0x8f, 0x9c, 0xc8, 0xc9, 0xff, 0xff, 0x60, 0x61 };
	uint8_t *p = e->bytes;
	unsigned n = 0, map;

	memset(p, 0, sizeof(e->bytes));
	switch (class) {
	case CLASS_INT:
		n = put_legacy_prefixes(r, p, mode);
		if (chance(r, 3))
			p[n++] = (uint8_t)(0xf2 + random_below(r, 2));
		n += put_rex(r, p + n, mode);
		p[n++] = (uint8_t)random_next(r);
		break;
	case CLASS_MOV:
		n = put_legacy_prefixes(r, p, mode);
		n += put_rex(r, p + n, mode);
		p[n++] = (uint8_t)(chance(r, 70) ? 0x88 + random_below(r, 4) : chance(r, 50) ? 0xa0 + random_below(r, 4) :
									  0xc6 + random_below(r, 2));
		break;
	case CLASS_0F:
		n = put_legacy_prefixes(r, p, mode);
		if (chance(r, 20))
			p[n++] = (uint8_t)(0xf2 + random_below(r, 2));
		n += put_rex(r, p + n, mode);
		p[n++] = 0x0f;
		p[n++] = (uint8_t)(chance(r, 40) ? 0x40 + random_below(r, 16) : chance(r, 30) ? 0x90 + random_below(r, 16) :
									   0xa0 + random_below(r, 48));
		break;
	case CLASS_STACK:
		if (chance(r, 15))
			p[n++] = 0x66;
		n += put_rex(r, p + n, mode);
		p[n++] = stack_ops[random_below(r, sizeof(stack_ops))];
		break;
	case CLASS_STRING:
		if (chance(r, 60))
			p[n++] = (uint8_t)(0xf2 + random_below(r, 2));
		n += put_legacy_prefixes(r, p + n, mode);
		n += put_rex(r, p + n, mode);
		p[n++] = string_ops[random_below(r, sizeof(string_ops))];
		break;
	case CLASS_LOCK:
		p[n++] = 0xf0;
		n += put_legacy_prefixes(r, p + n, mode);
		n += put_rex(r, p + n, mode);
		if (chance(r, 50)) {
			p[n++] = 0x0f;
			p[n++] = lockable_0f[random_below(r, sizeof(lockable_0f))];
		} else {
			p[n++] = lockable[random_below(r, sizeof(lockable))];
		}
		break;
	case CLASS_X87:
		n = put_legacy_prefixes(r, p, mode);
		n += put_rex(r, p + n, mode);
		p[n++] = (uint8_t)(0xd8 + random_below(r, 8));
		break;
	case CLASS_SSE:
		if (chance(r, 75))
			p[n] = mandatory[random_below(r, 4)];
		n += p[n] != 0;
		if (chance(r, 3))
			p[n++] = 0x67;
		n += put_rex(r, p + n, mode);
		p[n++] = 0x0f;
		map = random_below(r, 10);
		if (map < 7) {
			p[n] = (uint8_t)random_next(r);
			if (p[n] >= 0x80 && p[n] < 0xc2)
				p[n] -= 0x70;
			n++;
		} else {
			p[n++] = map == 9 ? 0x3a : 0x38;
			p[n++] = (uint8_t)(chance(r, 60) ? random_below(r, 0x64) : random_next(r));
		}
		break;
	case CLASS_VEX:
		if (chance(r, 3))
			p[n++] = 0x67;
		map = 1 + random_below(r, 3);
		if (map == 1 && chance(r, 40)) {
			p[n++] = 0xc5;
			p[n++] = (uint8_t)random_next(r);
		} else {
			p[n++] = 0xc4;
			p[n++] = (uint8_t)((random_next(r) & 0xe0) | map);
			p[n++] = (uint8_t)random_next(r);
		}
		if (chance(r, 40))
			p[n - 1] |= 0x78;
		if (mode == TEST_32)
			p[n - (p[n - 2] == 0xc5 ? 1 : 2)] |= 0xc0;
		p[n++] = (uint8_t)(map == 3 ? random_below(r, 0x64) : random_next(r));
		break;
	case CLASS_EVEX:
	case CLASS_GATHER:
		if (chance(r, 3))
			p[n++] = 0x67;
		if (class == CLASS_GATHER && chance(r, 40)) {
			p[n++] = 0xc4;
			p[n++] = (uint8_t)((random_next(r) & 0xe0) | 2 | (mode == TEST_32 ? 0xc0 : 0));
			p[n++] = (uint8_t)((random_next(r) & 0xfc) | 1);
			p[n++] = (uint8_t)(0x90 + random_below(r, 4));
			break;
		}
		p[n++] = 0x62;
		map = class == CLASS_GATHER ? 2 : 1 + random_below(r, 3);
		p[n++] = (uint8_t)((random_next(r) & 0xf0) | map | (mode == TEST_32 ? 0xc0 : 0));
		p[n++] = (uint8_t)(random_next(r) | 4);
		p[n] = (uint8_t)random_next(r);
		if (chance(r, 60))
			p[n] &= (uint8_t)~0x10; /* no broadcast or rounding */
		if (chance(r, 50))
			p[n] &= 0x78; /* no mask */
		if (chance(r, 30)) {
			p[n - 1] |= 0x78; /* no vvvv */
			p[n] |= 8;
		}
		if (mode == TEST_32)
			p[n] |= 8;
		n++;
		if (class == CLASS_GATHER) {
			p[n - 2] = (uint8_t)((p[n - 2] & 0x80) | 0x7d);
			p[n - 1] &= 0x6f;
			p[n - 1] |= (uint8_t)(1 + random_below(r, 7));
			p[n++] = (uint8_t)((chance(r, 50) ? 0x90 : 0xa0) + random_below(r, 4));
		} else {
			p[n++] = (uint8_t)(map == 3 ? random_below(r, 0x74) : random_next(r));
		}
		break;
	default:
		break;
	}
	random_tail(r, p + n, 15 - n);
	if (class == CLASS_GATHER)
		p[n] = (uint8_t)((p[n] & 0x38) | 4 | (chance(r, 50) ? 0x40 : 0)); /* SIB, disp8 or none */
}

/* ---- putting items together ---- */

static void emit(struct item *item, const void *bytes, unsigned n)
{
	memcpy(item->bytes + item->length, bytes, n);
	item->length = (uint8_t)(item->length + n);
}

static void emit_byte(struct item *item, unsigned byte)
{
	item->bytes[item->length++] = (uint8_t)byte;
}

static void emit_mov_imm(struct item *item, unsigned mode, unsigned reg, uint64_t value)
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

static void add_fixup(struct item *item, unsigned kind, unsigned at, unsigned end, uint64_t target)
{
	item->fixups[item->fixup_count++] = (struct fixup){ (uint8_t)kind, (uint8_t)at, (uint8_t)end, target };
}

static int gpr_number(ZydisMachineMode mode, ZydisRegister reg)
{
	ZydisRegister full = ZydisRegisterGetLargestEnclosing(mode, reg);

	switch (ZydisRegisterGetClass(full)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(full);
	default:
		return -1;
	}
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

/* Draw until something valid of the class comes up. */
static bool draw_valid(struct random *r, struct encoded *e, unsigned class, unsigned mode)
{
	for (unsigned tries = 0; tries < 400; tries++) {
		draw(r, e, class, mode);
		if (decode(e, mode, 15) && may_run(e) && (!is_privileged(e->insn.mnemonic) || chance(r, 5)))
			return true;
	}
	return false;
}

/* A short instruction on registers only, that does not touch registers in mask and cannot fault (nearly). */
static bool draw_plain(struct random *r, struct encoded *e, unsigned mode, unsigned mask)
{
	for (unsigned tries = 0; tries < 400; tries++) {
		bool good = true;

		draw(r, e, chance(r, 70) ? CLASS_INT : CLASS_SSE, mode);
		if (!decode(e, mode, 15) || !may_run(e) || is_privileged(e->insn.mnemonic) || e->length > 10)
			continue;
		switch (e->insn.meta.category) {
		case ZYDIS_CATEGORY_PUSH:
		case ZYDIS_CATEGORY_POP:
		case ZYDIS_CATEGORY_STRINGOP:
			continue;
		default:
			break;
		}
		for (unsigned i = 0; i < e->insn.operand_count; i++) {
			const ZydisDecodedOperand *o = &e->operands[i];

			if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
				good = false;
			if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
				int reg = gpr_number(e->insn.machine_mode, o->reg.value);

				if (reg >= 0 && mask >> reg & 1)
					good = false;
			}
		}
		if (good && e->insn.mnemonic != ZYDIS_MNEMONIC_DIV && e->insn.mnemonic != ZYDIS_MNEMONIC_IDIV)
			return true;
	}
	return false;
}

/* ---- templates ---- */

static uint64_t stack_address(struct random *r)
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
		if (decode(&e, mode, 15)) {
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
