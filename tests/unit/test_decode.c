/* SPDX-License-Identifier: MIT */
/*
 * The instruction decoder against Zydis: every opcode under many prefixes, random encodings, random
 * bytes, and all code of programs of this machine, in all three modes. Compared are length, validity, parts, memory
 * operand (address, size, access, alignment), general-purpose registers read and written, and flags.
 *
 * Where we know better or mean something else than Zydis 4.0, known_difference() says so and why.
 *
 * `test_decode N` runs N times as many cases (for humans).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "x86/cpu.h"
#include "x86/decode.h"

static ZydisDecoder decoders[3];
static ZydisFormatter formatter;
static unsigned effort = 1;

/* One comparison */
struct comparison {
	const uint8_t *code;
	unsigned avail;
	enum x86_mode_bits mode;
	int length; /* x86_decode's result */
	struct x86_insn insn;
	bool valid; /* as Zydis sees it */
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	char why[200];
};

static int gpr_number(ZydisRegister reg, ZydisMachineMode mode)
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

/* Features no guest is offered: undefined for us. */
static bool not_offered(const struct comparison *c)
{
	switch (c->z.meta.isa_ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW:
	case ZYDIS_ISA_EXT_AMD_INVLPGB:
	case ZYDIS_ISA_EXT_AMX_BF16:
	case ZYDIS_ISA_EXT_AMX_INT8:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_CET:
	case ZYDIS_ISA_EXT_CLDEMOTE:
	case ZYDIS_ISA_EXT_ENQCMD:
	case ZYDIS_ISA_EXT_FMA4:
	case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
	case ZYDIS_ISA_EXT_KNC:
	case ZYDIS_ISA_EXT_KNCE:
	case ZYDIS_ISA_EXT_KNCV:
	case ZYDIS_ISA_EXT_MCOMMIT:
	case ZYDIS_ISA_EXT_MONITORX:
	case ZYDIS_ISA_EXT_MPX:
	case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_PKU:
	case ZYDIS_ISA_EXT_PT:
	case ZYDIS_ISA_EXT_RDPRU:
	case ZYDIS_ISA_EXT_RTM:
	case ZYDIS_ISA_EXT_SERIALIZE:
	case ZYDIS_ISA_EXT_SGX:
	case ZYDIS_ISA_EXT_SGX_ENCLV:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_SVM:
	case ZYDIS_ISA_EXT_TBM:
	case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_TSX_LDTRK:
	case ZYDIS_ISA_EXT_UINTR:
	case ZYDIS_ISA_EXT_VTX:
	case ZYDIS_ISA_EXT_WAITPKG:
	case ZYDIS_ISA_EXT_XOP:
		return true;
	default:
		break;
	}
	switch (c->z.meta.isa_set) {
	case ZYDIS_ISA_SET_AVX512ER_512:
	case ZYDIS_ISA_SET_AVX512ER_SCALAR:
	case ZYDIS_ISA_SET_AVX512PF_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR:
	case ZYDIS_ISA_SET_AVX512_4VNNIW_512:
	case ZYDIS_ISA_SET_AVX512_FP16_128:
	case ZYDIS_ISA_SET_AVX512_FP16_128N:
	case ZYDIS_ISA_SET_AVX512_FP16_256:
	case ZYDIS_ISA_SET_AVX512_FP16_512:
	case ZYDIS_ISA_SET_AVX512_FP16_SCALAR:
		return true;
	default:
		return false;
	}
}

static bool known_invalid(const struct comparison *c)
{
	return not_offered(c) ||
	       /* prefetch with a register operand: undefined on AMD, a NOP on Intel and for Zydis */
	       (c->insn.map == X86_MAP_0F && c->insn.opcode == 0x0d) ||
	       c->z.mnemonic == ZYDIS_MNEMONIC_VMFUNC;
}

static bool known_valid(const struct comparison *c)
{
	const struct x86_insn *i = &c->insn;

	return i->op == X86_OP_GETSEC || /* a helper's #UD */
	       /* conversions from a 32-bit integer to double with rounding control: the CPU ignores EVEX.b */
	       (i->encoding == X86_ENC_EVEX && i->map == X86_MAP_0F && i->mandatory == 0xf2 &&
		(i->opcode == 0x2a || i->opcode == 0x7b));
}

#define DIFFERS(...) return snprintf(c->why, sizeof(c->why), __VA_ARGS__), false

static bool compare_parts(struct comparison *c)
{
	const struct x86_insn *i = &c->insn;
	const ZydisDecodedInstruction *z = &c->z;
	unsigned imm = z->raw.imm[0].size / 8;

	if (z->length != i->length)
		DIFFERS("length %u, should be %u", i->length, z->length);
	if (z->opcode != i->opcode)
		DIFFERS("opcode");
	if (!!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM) != i->has_modrm)
		DIFFERS("has_modrm");
	if (i->has_modrm && z->raw.modrm.offset != i->modrm_offset)
		DIFFERS("modrm_offset");
	if (i->op == X86_OP_MOV_MOFFS || i->op == X86_OP_ENTER) /* differently filed */
		return true;
	if (imm == 1 && z->raw.imm[1].size == 8 && i->imm_size == 2) /* extrq, insertq: two immediates */
		return true;
	if (imm != i->imm_size)
		DIFFERS("imm_size %u, should be %u", i->imm_size, imm);
	if (imm && z->raw.imm[0].offset != i->imm_offset)
		DIFFERS("imm_offset");
	return true;
}

static bool never_suppresses(ZydisExceptionClass class)
{
	switch (class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
		return true;
	default:
		return false;
	}
}

/* Class E4 for Zydis, but E4NF in the manual, and they do fault where masked out: tried on the CPU. */
static bool masking_exempt(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
		return true;
	default:
		return false;
	}
}

static bool alignment_exempt(const struct comparison *c)
{
	switch (c->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVDQU: /* class SSE4, but made to be unaligned */
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_PCMPESTRI: /* likewise, says SDM vol. 2, table 2-21 */
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_CVTPD2PI: /* no class in Zydis; aligned, says SDM */
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return true;
	default:
		return false;
	}
}

static unsigned expected_alignment(const struct comparison *c, unsigned size)
{
	switch (c->z.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE4:
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return size >= 16 ? size : 0;
	default:
		return 0;
	}
}

/* Operations whose helpers find out the size themselves, or whose access is not one of data. */
static bool size_is_not_told(const struct x86_insn *i)
{
	return (i->op >= X86_OP_XSAVE && i->op <= X86_OP_XRSTORS) || i->op == X86_OP_PREFETCH || i->op == X86_OP_CLFLUSH ||
	       i->op == X86_OP_NOP || i->op == X86_OP_UD || i->op == X86_OP_INVLPG;
}

static bool compare_memory(struct comparison *c, const ZydisDecodedOperand *o)
{
	const struct x86_insn *i = &c->insn;
	const ZydisDecodedOperandMem *m = &o->mem;
	bool rip = m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP;
	bool agen = m->type == ZYDIS_MEMOP_TYPE_AGEN;
	int base = m->base == ZYDIS_REGISTER_NONE || rip ? -1 : gpr_number(m->base, c->z.machine_mode);
	int index = m->index == ZYDIS_REGISTER_NONE || m->type == ZYDIS_MEMOP_TYPE_VSIB ?
			    -1 : gpr_number(m->index, c->z.machine_mode);
	unsigned access = 0, size = agen ? 0 : o->size / 8, registers;
	uint64_t mask = i->addrsize == 8 ? ~0ull : (1ull << 8 * i->addrsize) - 1;

	if (o->actions & (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_CONDREAD))
		access |= X86_MEM_R;
	if (o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE))
		access |= X86_MEM_W;
	if (agen)
		access = 0;
	/* Zydis 4.0 sees a base of r13d in [disp32 + index] with REX.B and a 32-bit address size: there is none */
	if (base == X86_R13 && i->base < 0 && i->addrsize == 4 && i->modrm < 0x40)
		return true;
	if (rip != i->rip_relative)
		DIFFERS("rip_relative");
	if (base != i->base)
		DIFFERS("base %d, should be %d", i->base, base);
	if (index != i->index)
		DIFFERS("index %d, should be %d", i->index, index);
	if (index >= 0 && 1u << i->scale != m->scale)
		DIFFERS("scale");
	if (i->op == X86_OP_MOV_MOFFS ? ((uint64_t)i->imm ^ (uint64_t)m->disp.value) & mask : i->disp != m->disp.value)
		DIFFERS("disp %d, should be %ld", i->disp, (long)m->disp.value);
	if (i->op != X86_OP_LEA && ZydisRegisterGetId(m->segment) != i->seg &&
	    !(c->mode == X86_CODE64 && i->seg < X86_FS && ZydisRegisterGetId(m->segment) < X86_FS))
		DIFFERS("seg %u, should be %d", i->seg, ZydisRegisterGetId(m->segment));
	registers = (i->base >= 0 ? 1u << i->base : 0) | (index >= 0 ? 1u << index : 0);
	if (i->gpr_addr != registers)
		DIFFERS("gpr_addr %x, should be %x", i->gpr_addr, registers);
	if (size_is_not_told(i))
		return true;
	if (i->mem_access != access)
		DIFFERS("mem_access %u, should be %u", i->mem_access, access);
	if (c->z.avx.broadcast.mode && !c->z.avx.broadcast.is_static)
		size = o->element_size / 8;
	if (i->mem_access && i->mem_size != size)
		DIFFERS("mem_size %u, should be %u", i->mem_size, size);
	if (i->op_class == X86_CLASS_COPY && i->unit >= X86_UNIT_SSE && i->align != expected_alignment(c, size) &&
	    !alignment_exempt(c) && !(i->encoding == X86_ENC_LEGACY && (i->opcode == 0x10 || i->opcode == 0x11) && i->map == 1))
		DIFFERS("align %u, should be %u", i->align, expected_alignment(c, size));
	if (i->encoding == X86_ENC_EVEX && i->op_class == X86_CLASS_COPY && !masking_exempt(c->z.mnemonic)) {
		bool masked = c->z.avx.mask.mode > ZYDIS_MASK_MODE_DISABLED && c->z.avx.mask.reg != ZYDIS_REGISTER_K0 &&
			      !never_suppresses(c->z.meta.exception_class);

		if (masked != (i->op == X86_OP_MASKED))
			DIFFERS("masked %d, should be %d", i->op == X86_OP_MASKED, masked);
	}
	return true;
}

static bool compare_registers(struct comparison *c)
{
	const struct x86_insn *i = &c->insn;
	unsigned read = 0, write = 0;

	for (unsigned n = 0; n < c->z.operand_count; n++) {
		const ZydisDecodedOperand *o = &c->operands[n];
		int reg;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || (reg = gpr_number(o->reg.value, c->z.machine_mode)) < 0)
			continue;
		if (o->actions & (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_CONDREAD))
			read |= 1u << reg;
		if (o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE)) {
			write |= 1u << reg;
			if (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE ||
			    ZydisRegisterGetWidth(c->z.machine_mode, o->reg.value) < 32)
				read |= 1u << reg;
		}
	}
	switch (c->z.mnemonic) {
	case ZYDIS_MNEMONIC_XLAT: /* reads RBX, which Zydis counts as address */
	case ZYDIS_MNEMONIC_BSF:  /* leave the destination alone when the source is 0: so they read it */
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_PAUSE: /* F3 90 with REX.B is xchg r8, rax: tried on the CPU */
	case ZYDIS_MNEMONIC_VPCMPESTRI: /* Zydis forgets RAX and RDX with VEX.W */
	case ZYDIS_MNEMONIC_VPCMPESTRM:
		return true;
	default:
		break;
	}
	if (i->gpr_read != read)
		DIFFERS("gpr_read %x, should be %x", i->gpr_read, read);
	if (i->gpr_write != write)
		DIFFERS("gpr_write %x, should be %x", i->gpr_write, write);
	return true;
}

static bool compare_flags(struct comparison *c)
{
	const unsigned mask = X86_FLAGS_ARITH | X86_FLAG_DF;
	const struct x86_insn *i = &c->insn;
	unsigned tested = 0, defined = 0, undefined = 0, written = i->flags_write | i->flags_maybe;

	if (c->z.cpu_flags) {
		tested = c->z.cpu_flags->tested & mask;
		defined = (c->z.cpu_flags->modified | c->z.cpu_flags->set_0 | c->z.cpu_flags->set_1) & mask;
		undefined = c->z.cpu_flags->undefined & mask;
	}
	switch (c->z.mnemonic) {
	case ZYDIS_MNEMONIC_VPTEST: /* clear OF AF PF SF too, says SDM */
	case ZYDIS_MNEMONIC_VTESTPS:
	case ZYDIS_MNEMONIC_VTESTPD:
		return true;
	default:
		break;
	}
	if (i->op_class == X86_CLASS_STRING) /* the ZF that ends repe is its own */
		tested &= ~X86_FLAG_ZF;
	if (i->flags_read != tested)
		DIFFERS("flags_read %x, should be %x", i->flags_read, tested);
	if (i->op == X86_OP_SHIFT_IMM && (i->imm & (i->opsize == 8 ? 63 : 31)) == 0) {
		if (written)
			DIFFERS("a shift by 0 writes flags");
		return true;
	}
	if ((defined & ~written) || (written & ~(defined | undefined)))
		DIFFERS("flags written %x + %x, defined %x, undefined %x", i->flags_write, i->flags_maybe, defined, undefined);
	return true;
}

static bool agrees(struct comparison *c)
{
	const struct x86_insn *i = &c->insn;
	const ZydisDecodedOperand *memory = NULL;

	c->length = x86_decode(&c->insn, c->code, c->avail, c->mode);
	c->valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[c->mode], c->code, c->avail, &c->z, c->operands));
	if (c->length < 0) {
		if (c->valid)
			DIFFERS("gives %d", c->length);
		return true;
	}
	if (i->op_class == X86_CLASS_INVALID) {
		if (c->valid && !known_invalid(c))
			DIFFERS("is valid");
		return true;
	}
	if (!c->valid) {
		if (!known_valid(c))
			DIFFERS("is undefined (we say class %u, op %u)", i->op_class, i->op);
		return true;
	}
	if (not_offered(c)) { /* what is a NOP without the feature */
		if (i->op != X86_OP_NOP && i->op != X86_OP_PREFETCH && i->op_class != X86_CLASS_SYSTEM &&
		    i->op_class != X86_CLASS_MULTIMEM && i->isa != X86_ISA_CLZERO)
			DIFFERS("is of a feature not offered");
		return true;
	}
	if (!compare_parts(c))
		return false;
	for (unsigned n = 0; n < c->z.operand_count; n++)
		if (c->operands[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    c->operands[n].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			memory = &c->operands[n];
	if (i->op_class != X86_CLASS_STRING && i->op != X86_OP_XLAT && i->op != X86_OP_NOP && i->op != X86_OP_MONITOR &&
	    i->op != X86_OP_UD && i->isa != X86_ISA_CLZERO && !(i->op_class == X86_CLASS_MULTIMEM && !i->has_mem)) {
		if (!!memory != i->has_mem)
			DIFFERS("has_mem");
		if (memory && !compare_memory(c, memory))
			return false;
	}
	if ((i->op_class == X86_CLASS_COPY || i->op_class == X86_CLASS_BRANCH) && i->op != X86_OP_NOP && !compare_registers(c))
		return false;
	if ((i->op_class == X86_CLASS_COPY || i->op_class == X86_CLASS_BRANCH || i->op_class == X86_CLASS_STRING) &&
	    !compare_flags(c))
		return false;
	return true;
}

static void check(const uint8_t *code, unsigned avail, enum x86_mode_bits mode)
{
	static struct comparison c;
	char text[256] = "", *p = text;

	c.code = code;
	c.avail = avail;
	c.mode = mode;
	if (agrees(&c))
		return;
	for (unsigned i = 0; i < avail && i < 15; i++)
		p += sprintf(p, "%02x ", code[i]);
	if (c.valid)
		ZydisFormatterFormatInstruction(&formatter, &c.z, c.operands, c.z.operand_count_visible, p, 128, 0, NULL);
	fail_msg("%d-bit %s: %s", 16 << mode, text, c.why);
}

static uint64_t random_next(void)
{
	static uint64_t s = 0x853c49e6748fea9bull;

	s ^= s << 13;
	s ^= s >> 7;
	s ^= s << 17;
	return s;
}

static void fill(uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (uint8_t)(random_next() >> 16);
}

static int setup(void **state)
{
	static const ZydisMachineMode modes[] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
						  ZYDIS_MACHINE_MODE_LONG_64 };
	static const ZydisStackWidth widths[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64 };
	static const ZydisDecoderMode off[] = { ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
						ZYDIS_DECODER_MODE_WBNOINVD };

	for (unsigned i = 0; i < 3; i++) {
		ZydisDecoderInit(&decoders[i], modes[i], widths[i]);
		for (unsigned j = 0; j < ARRAY_SIZE(off); j++)
			ZydisDecoderEnableMode(&decoders[i], off[j], ZYAN_FALSE);
	}
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	(void)state;
	return 0;
}

/* Every legacy opcode under ten prefixes, and ModRM bytes of every register group and form. */
static void legacy_encodings(void **state)
{
	static const uint8_t prefixes[][2] = { { 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0x66, 0xf3 }, { 0x66, 0xf2 },
					       { 0x67 }, { 0xf0 }, { 0x2e }, { 0x64 } };

	(void)state;
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned map = 0; map < 4; map++)
			for (unsigned opcode = 0; opcode < 256; opcode++)
				for (unsigned p = 0; p < ARRAY_SIZE(prefixes); p++)
					for (unsigned rex = 0; rex < (mode == X86_CODE64 ? 3 : 1); rex++)
						for (unsigned modrm = 0; modrm < 256; modrm += effort > 1 ? 1 : 3) {
							uint8_t code[32];
							unsigned n = 0;

							for (unsigned i = 0; i < 2 && prefixes[p][i]; i++)
								code[n++] = prefixes[p][i];
							if (rex)
								code[n++] = (uint8_t)(0x40 | (rex - 1) << 3 |
										      (random_next() >> 20 & 7));
							if (map)
								code[n++] = 0x0f;
							if (map > 1)
								code[n++] = map == 2 ? 0x38 : 0x3a;
							code[n++] = (uint8_t)opcode;
							code[n++] = (uint8_t)(modrm + random_next() % 3);
							fill(code + n, 32 - n);
							check(code, 15, mode);
						}
}

static void vex_encodings(void **state)
{
	(void)state;
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned n = 0; n < 3 * 256 * 4 * 4 * 12 * effort; n++) {
			uint8_t code[32];
			unsigned map = 1 + n % 3, opcode = n / 3 % 256, rest = n / 768;

			fill(code, sizeof(code));
			code[0] = 0xc4;
			code[1] = (uint8_t)((code[1] & 0xe0) | map | (mode != X86_CODE64 ? 0xc0 : 0));
			code[2] = (uint8_t)((rest & 15) | (rest >> 4 & 1 ? code[2] & 0xf8 : 0x78 | (code[2] & 0x80)));
			code[3] = (uint8_t)opcode;
			check(code, 15, mode);
			if (map == 1) {
				code[0] = 0xc5;
				code[1] = (uint8_t)(code[2] | (mode != X86_CODE64 ? 0xc0 : 0));
				code[2] = (uint8_t)opcode;
				check(code, 15, mode);
			}
		}
}

static void evex_encodings(void **state)
{
	(void)state;
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned n = 0; n < 3 * 256 * 4 * 4 * 40 * effort; n++) {
			uint8_t code[32];
			unsigned map = 1 + n % 3, opcode = n / 3 % 256, rest = n / 768;

			fill(code, sizeof(code));
			code[0] = 0x62;
			code[1] = (uint8_t)((code[1] & 0xf0) | map | (mode != X86_CODE64 ? 0xc0 : 0));
			code[2] = (uint8_t)((code[2] & 0x80) | 4 | (rest & 3) | (rest & 4 ? code[2] & 0x78 : 0x78));
			if (rest & 8)
				code[3] &= 0x78; /* no mask */
			if (!(rest & 4))
				code[3] |= 8;
			code[4] = (uint8_t)opcode;
			check(code, 15, mode);
		}
}

static void random_bytes(void **state)
{
	(void)state;
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned n = 0; n < 300000 * effort; n++) {
			uint8_t code[32];

			fill(code, sizeof(code));
			check(code, 1 + random_next() % 15, mode);
		}
}

/* The executable sections of an ELF file, by linear sweep. */
static void sweep_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	Elf64_Ehdr header;
	Elf64_Shdr *sections;

	if (!file)
		return;
	if (fread(&header, sizeof(header), 1, file) != 1 || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
	    header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr)) {
		fclose(file);
		return;
	}
	sections = calloc(header.e_shnum, sizeof(*sections));
	fseek(file, (long)header.e_shoff, SEEK_SET);
	if (fread(sections, sizeof(*sections), header.e_shnum, file) != header.e_shnum)
		header.e_shnum = 0;
	for (unsigned i = 0; i < header.e_shnum; i++) {
		uint64_t size = sections[i].sh_size, at = 0;
		uint8_t *code;

		if (!(sections[i].sh_flags & SHF_EXECINSTR) || sections[i].sh_type != SHT_PROGBITS)
			continue;
		if (effort == 1)
			size = MIN(size, MIB(1));
		code = calloc(1, size + 32);
		fseek(file, (long)sections[i].sh_offset, SEEK_SET);
		if (fread(code, 1, size, file) == size) {
			while (at < size) {
				struct x86_insn insn;
				int length = x86_decode(&insn, code + at, 15, X86_CODE64);

				check(code + at, 15, X86_CODE64);
				at += length > 0 ? (unsigned)length : 1;
			}
		}
		free(code);
	}
	free(sections);
	fclose(file);
}

static void host_programs(void **state)
{
	static const char *const files[] = {
		"/proc/self/exe", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libm.so.6",
		"/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/python3.11", "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		sweep_file(files[i]);
}

/* Each beginning of an instruction is truncated, and none is read past its end. */
static void truncation(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 200000; n++) {
		uint8_t code[32], *tight;
		struct x86_insn insn, again;
		enum x86_mode_bits mode = n % 3;
		int length;

		fill(code, sizeof(code));
		length = x86_decode(&insn, code, 15, mode);
		if (length <= 0 || insn.op_class == X86_CLASS_INVALID)
			continue;
		for (int avail = 1; avail < length; avail++) {
			tight = malloc((size_t)avail); /* for the address sanitizer */
			memcpy(tight, code, (size_t)avail);
			assert_int_equal(x86_decode(&again, tight, (unsigned)avail, mode), X86_DECODE_TRUNCATED);
			free(tight);
		}
		tight = malloc((size_t)length);
		memcpy(tight, code, (size_t)length);
		assert_int_equal(x86_decode(&again, tight, (unsigned)length, mode), length);
		free(tight);
		assert_memory_equal(&insn, &again, sizeof(insn));
		assert_int_equal(x86_decode(&again, code, 32, mode), length);
		assert_memory_equal(&insn, &again, sizeof(insn));
	}
}

static void too_long(void **state)
{
	uint8_t code[32];
	struct x86_insn insn;

	(void)state;
	memset(code, 0x66, sizeof(code));
	assert_int_equal(x86_decode(&insn, code, 15, X86_CODE64), X86_DECODE_TOO_LONG);
	assert_int_equal(x86_decode(&insn, code, 32, X86_CODE64), X86_DECODE_TOO_LONG);
	assert_int_equal(x86_decode(&insn, code, 14, X86_CODE64), X86_DECODE_TRUNCATED);
	code[14] = 0x90;
	assert_int_equal(x86_decode(&insn, code, 15, X86_CODE64), 15);
	code[13] = 0x81; /* add r/m, imm: does not fit */
	code[14] = 0xc0;
	assert_int_equal(x86_decode(&insn, code, 15, X86_CODE64), X86_DECODE_TOO_LONG);
}

/* Not a test of anything: what a decode costs, on the C library's code. */
static void speed(void **state)
{
	static uint8_t code[1 << 20];
	FILE *file = fopen("/usr/lib/x86_64-linux-gnu/libc.so.6", "rb");
	double best = 1e9;
	uint64_t n = 0;

	(void)state;
	if (!file || fseek(file, 0x40000, SEEK_SET) || fread(code, 1, sizeof(code), file) != sizeof(code))
		skip();
	fclose(file);
	for (unsigned round = 0; round < 5; round++) {
		struct timespec start, end;
		struct x86_insn insn;

		n = 0;
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
		for (size_t at = 0; at + 32 < sizeof(code); n++) {
			int length = x86_decode(&insn, code + at, 32, X86_CODE64);

			at += length > 0 ? (unsigned)length : 1;
		}
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
		best = MIN(best, (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec));
	}
	print_message("%.1f ns an instruction\n", best / (double)n);
}

/* Every operation has a name, and no two the same. */
static void op_names(void **state)
{
	(void)state;
	for (unsigned op = 0; op < X86_OP_COUNT; op++) {
		assert_string_not_equal(x86_op_name(op), "?");
		for (unsigned other = 0; other < op; other++)
			assert_string_not_equal(x86_op_name(op), x86_op_name(other));
	}
	assert_string_equal(x86_op_name(X86_OP_COUNT), "?");
	assert_string_equal(x86_op_name(X86_OP_RSM), "rsm");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(legacy_encodings), cmocka_unit_test(vex_encodings), cmocka_unit_test(evex_encodings),
		cmocka_unit_test(random_bytes), cmocka_unit_test(host_programs), cmocka_unit_test(truncation),
		cmocka_unit_test(too_long), cmocka_unit_test(op_names), cmocka_unit_test(speed),
	};

	if (argc > 1)
		effort = (unsigned)strtoul(argv[1], NULL, 0);
	return cmocka_run_group_tests(tests, setup, NULL);
}
