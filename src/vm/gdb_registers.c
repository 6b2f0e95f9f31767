/* SPDX-License-Identifier: MIT */
/*
 * GDB's view of the registers, as two tables: one for long mode, one for everything else.
 *
 * The order within org.gnu.gdb.i386.core, .sse, .avx and .segments is what GDB demands (GDB manual,
 * G.5.5 "i386 Features"); org.lodge.system is our own. Vector and x87 registers lie in the XSAVE area
 * in its standard form (SDM vol. 1, 13.4); a component whose XSTATE_BV bit is clear is in its initial state.
 */
#include "vm/gdb_registers.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_ST 32
#define XSAVE_XMM 160
#define XSAVE_XSTATE_BV 512
#define XSAVE_YMMH 576

#define XSTATE_X87 1u
#define XSTATE_SSE 2u
#define XSTATE_AVX 4u

enum kind {
	KIND_STATE,    /* .at bytes into struct x86_cpu_state */
	KIND_FLAGS,    /* RFLAGS, checked when written */
	KIND_SELECTOR, /* selector of segment .at; writes are ignored */
	KIND_X87,      /* .at bytes into the XSAVE area, .stored bytes wide there */
	KIND_TAGS,     /* the full x87 tag word, made from the abridged one */
	KIND_SSE,
	KIND_AVX,
	KIND_NONE,     /* reads as zero */
};

enum feature { FEATURE_CORE, FEATURE_SSE, FEATURE_AVX, FEATURE_SEGMENTS, FEATURE_SYSTEM, FEATURE_COUNT };

static const char *const feature_names[FEATURE_COUNT] = {
	[FEATURE_CORE] = "org.gnu.gdb.i386.core",
	[FEATURE_SSE] = "org.gnu.gdb.i386.sse",
	[FEATURE_AVX] = "org.gnu.gdb.i386.avx",
	[FEATURE_SEGMENTS] = "org.gnu.gdb.i386.segments",
	[FEATURE_SYSTEM] = "org.lodge.system",
};

struct reg {
	const char *name;
	const char *type; /* GDB's type; NULL: integer */
	uint8_t size;     /* bytes, as GDB sees it */
	uint8_t feature;
	uint8_t kind;
	uint8_t stored;   /* KIND_X87: bytes in the XSAVE area */
	uint16_t at;
};

#define STATE(name, type, size, feature, member)                                                   \
	{ name, type, size, feature, KIND_STATE, 0, offsetof(struct x86_cpu_state, member) }
#define GPR64(name, n) STATE(name, NULL, 8, FEATURE_CORE, gpr[n])
#define GPR32(name, n) STATE(name, NULL, 4, FEATURE_CORE, gpr[n])
#define SEG(name, n) { name, NULL, 4, FEATURE_CORE, KIND_SELECTOR, 0, n }
#define ST(n) { "st" #n, "i387_ext", 10, FEATURE_CORE, KIND_X87, 10, XSAVE_ST + 16 * n }
#define X87(name, stored, at) { name, NULL, 4, FEATURE_CORE, KIND_X87, stored, at }
#define XMM(n) { "xmm" #n, "vec128", 16, FEATURE_SSE, KIND_SSE, 16, XSAVE_XMM + 16 * n }
#define YMMH(n) { "ymm" #n "h", "uint128", 16, FEATURE_AVX, KIND_AVX, 16, XSAVE_YMMH + 16 * n }

#define SEGMENTS                                                                                   \
	SEG("cs", X86_CS), SEG("ss", X86_SS), SEG("ds", X86_DS), SEG("es", X86_ES), SEG("fs", X86_FS), SEG("gs", X86_GS)
#define FPU                                                                                        \
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7), X87("fctrl", 2, XSAVE_FCW),        \
		X87("fstat", 2, XSAVE_FSW), { "ftag", NULL, 4, FEATURE_CORE, KIND_TAGS, 0, 0 },    \
		{ "fiseg", NULL, 4, FEATURE_CORE, KIND_NONE, 0, 0 }, X87("fioff", 4, XSAVE_FIP),   \
		{ "foseg", NULL, 4, FEATURE_CORE, KIND_NONE, 0, 0 }, X87("fooff", 4, XSAVE_FDP),   \
		X87("fop", 2, XSAVE_FOP)
#define MXCSR { "mxcsr", NULL, 4, FEATURE_SSE, KIND_SSE, 4, XSAVE_MXCSR }
#define SYSTEM(size)                                                                               \
	STATE("cr0", NULL, 4, FEATURE_SYSTEM, cr0), STATE("cr2", NULL, size, FEATURE_SYSTEM, cr2), \
		STATE("cr3", NULL, size, FEATURE_SYSTEM, cr3), STATE("cr4", NULL, 4, FEATURE_SYSTEM, cr4)

static const struct reg registers64[] = {
	GPR64("rax", X86_RAX), GPR64("rbx", X86_RBX), GPR64("rcx", X86_RCX), GPR64("rdx", X86_RDX),
	GPR64("rsi", X86_RSI), GPR64("rdi", X86_RDI),
	STATE("rbp", "data_ptr", 8, FEATURE_CORE, gpr[X86_RBP]), STATE("rsp", "data_ptr", 8, FEATURE_CORE, gpr[X86_RSP]),
	GPR64("r8", X86_R8), GPR64("r9", X86_R9), GPR64("r10", X86_R10), GPR64("r11", X86_R11),
	GPR64("r12", X86_R12), GPR64("r13", X86_R13), GPR64("r14", X86_R14), GPR64("r15", X86_R15),
	STATE("rip", "code_ptr", 8, FEATURE_CORE, rip),
	{ "eflags", "i386_eflags", 4, FEATURE_CORE, KIND_FLAGS, 0, 0 },
	SEGMENTS, FPU,
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
	XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15), MXCSR,
	YMMH(0), YMMH(1), YMMH(2), YMMH(3), YMMH(4), YMMH(5), YMMH(6), YMMH(7),
	YMMH(8), YMMH(9), YMMH(10), YMMH(11), YMMH(12), YMMH(13), YMMH(14), YMMH(15),
	STATE("fs_base", NULL, 8, FEATURE_SEGMENTS, seg[X86_FS].base),
	STATE("gs_base", NULL, 8, FEATURE_SEGMENTS, seg[X86_GS].base),
	STATE("k_gs_base", NULL, 8, FEATURE_SYSTEM, kernel_gs_base),
	SYSTEM(8),
	STATE("cr8", NULL, 4, FEATURE_SYSTEM, cr8), STATE("efer", NULL, 4, FEATURE_SYSTEM, efer),
};

static const struct reg registers32[] = {
	GPR32("eax", X86_RAX), GPR32("ecx", X86_RCX), GPR32("edx", X86_RDX), GPR32("ebx", X86_RBX),
	STATE("esp", "data_ptr", 4, FEATURE_CORE, gpr[X86_RSP]), STATE("ebp", "data_ptr", 4, FEATURE_CORE, gpr[X86_RBP]),
	GPR32("esi", X86_RSI), GPR32("edi", X86_RDI),
	STATE("eip", "code_ptr", 4, FEATURE_CORE, rip),
	{ "eflags", "i386_eflags", 4, FEATURE_CORE, KIND_FLAGS, 0, 0 },
	SEGMENTS, FPU,
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7), MXCSR,
	YMMH(0), YMMH(1), YMMH(2), YMMH(3), YMMH(4), YMMH(5), YMMH(6), YMMH(7),
	SYSTEM(4),
};

static const struct reg *table(bool long_mode)
{
	return long_mode ? registers64 : registers32;
}

unsigned gdb_register_count(bool long_mode)
{
	return long_mode ? ARRAY_SIZE(registers64) : ARRAY_SIZE(registers32);
}

unsigned gdb_register_size(bool long_mode, unsigned n)
{
	return n < gdb_register_count(long_mode) ? table(long_mode)[n].size : 0;
}

/* The XSTATE_BV bit that says whether what this register holds was ever set. */
static unsigned component(const struct reg *reg)
{
	switch (reg->kind) {
	case KIND_X87:
	case KIND_TAGS:
		return XSTATE_X87;
	case KIND_SSE:
		return reg->at == XSAVE_MXCSR ? 0 : XSTATE_SSE; /* MXCSR is kept whatever the bit says */
	case KIND_AVX:
		return XSTATE_AVX;
	}
	return 0;
}

/* Abridged: one bit a register by stack position from the top, 1 for in use. Full: two bits, 3 for empty, by physical number. */
static uint16_t full_tags(const struct x86_cpu_state *state)
{
	uint8_t abridged = state->xsave[XSAVE_FTW];
	uint16_t tags = 0;

	for (unsigned i = 0; i < 8; i++)
		if (!(abridged & BIT(i)))
			tags |= (uint16_t)(3u << (2 * i));
	return tags;
}

void gdb_register_read(bool long_mode, unsigned n, const struct x86_cpu_state *state, uint8_t *value)
{
	const struct reg *reg = &table(long_mode)[n];
	unsigned bit = component(reg);

	memset(value, 0, reg->size);
	if (bit && !(load_le64(state->xsave + XSAVE_XSTATE_BV) & bit)) {
		if (reg->kind == KIND_X87 && reg->at == XSAVE_FCW)
			store_le16(value, 0x37f);
		else if (reg->kind == KIND_TAGS)
			store_le16(value, 0xffff);
		return;
	}
	switch (reg->kind) {
	case KIND_STATE:
		memcpy(value, (const uint8_t *)state + reg->at, reg->size);
		break;
	case KIND_FLAGS:
		store_le32(value, (uint32_t)state->rflags);
		break;
	case KIND_SELECTOR:
		store_le16(value, state->seg[reg->at].selector);
		break;
	case KIND_X87:
	case KIND_SSE:
	case KIND_AVX:
		memcpy(value, state->xsave + reg->at, reg->stored);
		break;
	case KIND_TAGS:
		store_le16(value, full_tags(state));
		break;
	}
}

/* Before one register of a component in its initial state is set, the others must hold their initial values. */
static void make_component_valid(struct x86_cpu_state *state, unsigned bit)
{
	uint64_t valid = load_le64(state->xsave + XSAVE_XSTATE_BV);

	if (!bit || (valid & bit))
		return;
	switch (bit) {
	case XSTATE_X87:
		memset(state->xsave, 0, XSAVE_MXCSR);
		memset(state->xsave + XSAVE_ST, 0, 128);
		store_le16(state->xsave + XSAVE_FCW, 0x37f);
		break;
	case XSTATE_SSE:
		memset(state->xsave + XSAVE_XMM, 0, 256);
		break;
	case XSTATE_AVX:
		memset(state->xsave + XSAVE_YMMH, 0, 256);
		break;
	}
	store_le64(state->xsave + XSAVE_XSTATE_BV, valid | bit);
}

void gdb_register_write(bool long_mode, unsigned n, struct x86_cpu_state *state, const uint8_t *value)
{
	const struct reg *reg = &table(long_mode)[n];
	uint8_t before[GDB_REGISTER_SIZE_MAX];

	/* GDB writes whole sets back: an unchanged register changes nothing, not even a component's state. */
	gdb_register_read(long_mode, n, state, before);
	if (!memcmp(before, value, reg->size))
		return;
	make_component_valid(state, component(reg));
	switch (reg->kind) {
	case KIND_STATE:
		memcpy((uint8_t *)state + reg->at, value, reg->size);
		break;
	case KIND_FLAGS:
		state->rflags = (load_le32(value) & X86_FLAGS_VALID) | X86_FLAG_R1;
		break;
	case KIND_X87:
	case KIND_AVX:
		memcpy(state->xsave + reg->at, value, reg->stored);
		break;
	case KIND_SSE:
		/* Undefined MXCSR bits would fault when they are loaded. */
		if (reg->at == XSAVE_MXCSR)
			store_le32(state->xsave + XSAVE_MXCSR, load_le32(value) & 0xffff);
		else
			memcpy(state->xsave + reg->at, value, reg->stored);
		break;
	case KIND_TAGS: {
		uint16_t tags = load_le16(value);

		state->xsave[XSAVE_FTW] = 0;
		for (unsigned i = 0; i < 8; i++)
			if (((tags >> (2 * i)) & 3) != 3)
				state->xsave[XSAVE_FTW] |= (uint8_t)BIT(i);
		break;
	}
	}
}

struct text {
	char *buf;
	size_t size, len;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *text, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text->buf + text->len, text->size - text->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		text->len = MIN(text->len + (size_t)n, text->size - 1);
}

static void put_types(struct text *text, enum feature feature)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} flags[] = { { 0, "CF" },  { 1, "" },	  { 2, "PF" },	{ 4, "AF" },  { 6, "ZF" },  { 7, "SF" },
		      { 8, "TF" },  { 9, "IF" },  { 10, "DF" }, { 11, "OF" }, { 14, "NT" }, { 16, "RF" },
		      { 17, "VM" }, { 18, "AC" }, { 19, "VIF" }, { 20, "VIP" }, { 21, "ID" } };

	if (feature == FEATURE_CORE) {
		put(text, "<flags id=\"i386_eflags\" size=\"4\">");
		for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
			put(text, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", flags[i].name, flags[i].bit, flags[i].bit);
		put(text, "</flags>");
	} else if (feature == FEATURE_SSE) {
		put(text, "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
			  "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
			  "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
			  "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
			  "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
			  "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
			  "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
			  "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
			  "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
			  "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>");
	}
}

size_t gdb_register_description(bool long_mode, char *buf, size_t size)
{
	struct text text = { buf, size, 0 };
	int feature = -1;

	put(&text, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target><architecture>%s</architecture>",
	    long_mode ? "i386:x86-64" : "i386");
	for (unsigned n = 0; n < gdb_register_count(long_mode); n++) {
		const struct reg *reg = &table(long_mode)[n];

		if (reg->feature != feature) {
			if (feature >= 0)
				put(&text, "</feature>");
			feature = reg->feature;
			put(&text, "<feature name=\"%s\">", feature_names[feature]);
			put_types(&text, reg->feature);
		}
		put(&text, "<reg name=\"%s\" bitsize=\"%u\" regnum=\"%u\"", reg->name, reg->size * 8, n);
		if (reg->type)
			put(&text, " type=\"%s\"", reg->type);
		put(&text, "/>");
	}
	put(&text, "</feature></target>");
	return text.len;
}
