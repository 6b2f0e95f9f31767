/* SPDX-License-Identifier: MIT */
/* Comparing two runs of a test, and printing a test for people. */
#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu_test.h"

bool compare_fault_flags;

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };

struct text {
	char *p;
	unsigned size, length;
	unsigned differences;
};

static void __attribute__((format(printf, 2, 3))) say(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	t->differences++;
	if (t->length + 1 >= t->size)
		return;
	va_start(args, format);
	n = vsnprintf(t->p + t->length, t->size - t->length, format, args);
	va_end(args);
	t->length += n < 0 ? 0 : (unsigned)n;
	if (t->length >= t->size)
		t->length = t->size - 1;
}

static void compare_bytes(struct text *t, const char *name, unsigned number, const uint8_t *native, const uint8_t *guest,
			  unsigned n)
{
	char a[160], b[160];

	if (memcmp(native, guest, n) == 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		sprintf(a + 2 * i, "%02x", native[n - 1 - i]);
		sprintf(b + 2 * i, "%02x", guest[n - 1 - i]);
	}
	say(t, "    %s%u native %s\n    %*s guest  %s\n", name, number, a, (int)strlen(name) + (number > 9 ? 2 : 1), "", b);
}

static void compare64(struct text *t, const char *name, uint64_t native, uint64_t guest)
{
	if (native != guest)
		say(t, "    %-7s native %016" PRIx64 "  guest %016" PRIx64 "\n", name, native, guest);
}

/* RF in a pushed image depends on the kind of fault; Linux and the manuals agree, but signal frames of traps do not
 * show it. */
#define COMPARED_FLAGS (~0x10000ull)

static void compare_fp(struct text *t, const struct fp_state *n, const struct fp_state *g)
{
	compare64(t, "fcw", n->fcw, g->fcw);
	compare64(t, "fsw", n->fsw, g->fsw);
	compare64(t, "ftw", n->ftw, g->ftw);
	compare64(t, "mxcsr", n->mxcsr, g->mxcsr);
	for (unsigned i = 0; i < 8; i++)
		compare_bytes(t, "st", i, n->st[i], g->st[i], 10);
	for (unsigned i = 0; i < 32; i++)
		compare_bytes(t, "zmm", i, n->zmm[i], g->zmm[i], 64);
	for (unsigned i = 0; i < 8; i++)
		if (n->k[i] != g->k[i])
			say(t, "    k%u      native %016" PRIx64 "  guest %016" PRIx64 "\n", i, n->k[i], g->k[i]);
}

int compare_results(const struct test_case *test, const struct test_result *native, const struct test_result *guest,
		    char *text, unsigned size)
{
	struct text t = { .p = text, .size = size };
	const uint64_t mask = test->mode == TEST_64 ? ~0ull : 0xffffffffull;

	/* At a fault the arithmetic flags may be those of any moment since they were last live. */
	uint64_t flags = COMPARED_FLAGS & (native->vector == 3 || compare_fault_flags ? ~0ull : ~0x8d5ull);

	text[0] = 0;
	if (guest->note[0])
		say(&t, "    guest: %s\n", guest->note);
	if (native->note[0])
		say(&t, "    native: %s\n", native->note);
	if (native->vector != guest->vector)
		say(&t, "    vector  native %u  guest %u\n", native->vector, guest->vector);
	/* Linux says of every fault beyond TASK_SIZE_MAX that the page was present. */
	if (native->vector == 14 && native->cr2 >= 0x7ffffffff000ull)
		compare64(&t, "error", native->error | 1, guest->error | 1);
	else
		compare64(&t, "error", native->error, guest->error);
	compare64(&t, "cr2", native->cr2, guest->cr2);
	compare64(&t, "rip", native->end.rip & mask, guest->end.rip & mask);
	compare64(&t, "rflags", native->end.rflags & flags, guest->end.rflags & flags);
	for (unsigned i = 0; i < (test->mode == TEST_64 ? 16u : 8u); i++)
		compare64(&t, gpr_names[i], native->end.gpr[i] & mask, guest->end.gpr[i] & mask);
	compare64(&t, "fs_base", native->end.fs_base, guest->end.fs_base);
	compare64(&t, "gs_base", native->end.gs_base, guest->end.gs_base);
	compare64(&t, "es", native->end.selectors[0], guest->end.selectors[0]);
	compare64(&t, "ds", native->end.selectors[1], guest->end.selectors[1]);
	compare64(&t, "fs", native->end.selectors[2], guest->end.selectors[2]);
	compare64(&t, "gs", native->end.selectors[3], guest->end.selectors[3]);
	compare64(&t, "cs", native->end.cs, guest->end.cs);
	compare_fp(&t, &native->end.fp, &guest->end.fp);
	for (unsigned i = 0, shown = 0; i < DATA_SIZE && shown < 4; i += 8)
		if (memcmp(native->data + i, guest->data + i, 8) != 0) {
			uint64_t a, b;

			memcpy(&a, native->data + i, 8);
			memcpy(&b, guest->data + i, 8);
			say(&t, "    [%llx] native %016" PRIx64 "  guest %016" PRIx64 "\n", DATA_BASE + i, a, b);
			shown++;
		}
	return t.differences != 0;
}

static void init_disassembler(ZydisDecoder *decoder, ZydisFormatter *formatter, const struct test_case *test)
{
	ZydisDecoderInit(decoder, test->mode == TEST_64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
			 test->mode == TEST_64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	ZydisFormatterInit(formatter, ZYDIS_FORMATTER_STYLE_INTEL);
}

void print_summary(const struct test_case *test, const char *differences)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	unsigned at = 0;

	init_disassembler(&decoder, &formatter, test);
	printf("SUMMARY %" PRIu64 " %d:", test->seed, test->mode == TEST_64 ? 64 : 32);
	while (at + 4 < test->code_size) {
		ZydisDecodedInstruction insn;
		ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
		char line[128] = "?";
		unsigned length = 1;

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, test->code_bytes + at, test->code_size - at, &insn, operands))) {
			length = insn.length;
			ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, line, sizeof(line),
							ZYDIS_RUNTIME_ADDRESS_NONE, NULL);
		}
		if (strncmp(line, "mov ", 4) != 0)
			printf(" %s;", line);
		at += length;
	}
	printf(" |%.*s\n", (int)strcspn(differences, "\n"), differences);
}

void print_test(const struct test_case *test)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	unsigned at = 0;

	init_disassembler(&decoder, &formatter, test);
	printf("  seed %" PRIu64 ", %d-bit, code at %" PRIx64 "\n", test->seed, test->mode == TEST_64 ? 64 : 32, test->code);
	for (unsigned i = 0; i < 16; i += 4)
		printf("    %-3s %016" PRIx64 "  %-3s %016" PRIx64 "  %-3s %016" PRIx64 "  %-3s %016" PRIx64 "\n", gpr_names[i],
		       test->start.gpr[i], gpr_names[i + 1], test->start.gpr[i + 1], gpr_names[i + 2], test->start.gpr[i + 2],
		       gpr_names[i + 3], test->start.gpr[i + 3]);
	printf("    rflags %" PRIx64 " fs %" PRIx64 " gs %" PRIx64 " mxcsr %x fcw %x\n", test->start.rflags,
	       test->start.fs_base, test->start.gs_base, test->start.fp.mxcsr, test->start.fp.fcw);
	while (at < test->code_size) {
		ZydisDecodedInstruction insn;
		ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
		char line[128] = "(undefined)";
		unsigned length = 1;

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, test->code_bytes + at, test->code_size - at, &insn, operands))) {
			length = insn.length;
			ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, line, sizeof(line),
							test->code + at, NULL);
		}
		printf("    %08" PRIx64 "  ", test->code + at);
		for (unsigned i = 0; i < 15; i++)
			printf(i < length ? "%02x" : "  ", test->code_bytes[at + i]);
		printf("  %s\n", line);
		at += length;
		if (test->code_bytes[at] == 0xcc && at + 4 == test->code_size)
			break;
	}
}
