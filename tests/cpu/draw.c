/* SPDX-License-Identifier: MIT */
/* Drawing instructions: random encodings of a class, until one is valid and harmless. See generate.c. */
#include <string.h>

#include "generate.h"

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

/* EVEX.X is ignored where ModRM.rm names a general-purpose register, but family 1Ah processors of AMD then take an ESP
 * from before the last push or pop (seen on model 2): no oracle for that. */
static bool reads_stale_esp(const struct encoded *e)
{
	return e->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && (e->insn.raw.modrm.mod & 3) == 3 &&
	       e->insn.raw.modrm.rm == 4 && e->insn.raw.evex.X == 0 && e->insn.raw.evex.B != 0;
}

/* Is this one whose result is a function of the test's state, and that does nothing outside? */
bool may_run(const struct encoded *e)
{
	ZydisMnemonic m = e->insn.mnemonic;

	if (is_privileged(m))
		return true;
	if (reads_stale_esp(e))
		return false;
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

bool decode_drawn(struct encoded *e, unsigned mode, unsigned avail)
{
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[mode], e->bytes, avail, &e->insn, e->operands)))
		return false;
	e->length = e->insn.length;
	return true;
}

int gpr_number(ZydisMachineMode mode, ZydisRegister reg)
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

bool draw_valid(struct random *r, struct encoded *e, unsigned class, unsigned mode)
{
	for (unsigned tries = 0; tries < 400; tries++) {
		draw(r, e, class, mode);
		if (decode_drawn(e, mode, 15) && may_run(e) && (!is_privileged(e->insn.mnemonic) || chance(r, 5)))
			return true;
	}
	return false;
}

bool draw_plain(struct random *r, struct encoded *e, unsigned mode, unsigned mask)
{
	for (unsigned tries = 0; tries < 400; tries++) {
		bool good = true;

		draw(r, e, chance(r, 70) ? CLASS_INT : CLASS_SSE, mode);
		if (!decode_drawn(e, mode, 15) || !may_run(e) || is_privileged(e->insn.mnemonic) || e->length > 10)
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
