/* SPDX-License-Identifier: MIT */
/* --profile: the report, for people. */
#include "engine/bt/profile.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TOP_BLOCKS 30
#define TOP_HELPERS 20

static const char *const category_names[PROFILE_CATEGORIES] = {
	[PROFILE_HOT] = "translated code",
	[PROFILE_COLD] = "translated code, slow paths",
	[PROFILE_SWITCH] = "entering and leaving",
	[PROFILE_MEMORY] = "slow memory path",
	[PROFILE_HELPER] = "helpers",
	[PROFILE_DEVICE] = "devices (MMIO, port I/O)",
	[PROFILE_FIND] = "finding translations",
	[PROFILE_TRANSLATE] = "translation",
	[PROFILE_FAULT] = "exceptions of host code",
	[PROFILE_DISPATCH] = "dispatcher, interrupts",
	[PROFILE_LOOP] = "vCPU thread, not in guest",
	[PROFILE_IDLE] = "idle",
};

static const char *const mode_names[PROFILE_MODES] = { "user", "kernel", "16-bit" };

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static uint64_t category_count(const struct bt_profile *profile, unsigned category)
{
	uint64_t sum = 0;

	for (unsigned m = 0; m < PROFILE_MODES; m++)
		sum += profile->count[category][m];
	return sum;
}

static void print_categories(FILE *out, const struct bt_profile *profile, uint64_t total,
			     uint64_t busy)
{
	uint64_t by_mode[PROFILE_MODES] = { 0 };

	fprintf(out, "\nWhere time goes\n  %-28s %10s %8s %8s   %8s %8s %8s\n", "", "samples",
		"% of all", "% busy", "user", "kernel", "16-bit");
	for (unsigned c = 0; c < PROFILE_CATEGORIES; c++) {
		uint64_t n = category_count(profile, c);

		if (!n)
			continue;
		fprintf(out, "  %-28s %10" PRIu64 " %8.1f ", category_names[c], n,
			percent(n, total));
		if (c == PROFILE_IDLE) {
			fprintf(out, "%8s\n", "-");
			continue;
		}
		fprintf(out, "%8.1f   ", percent(n, busy));
		for (unsigned m = 0; m < PROFILE_MODES; m++) {
			by_mode[m] += profile->count[c][m];
			fprintf(out, "%8" PRIu64 "%s", profile->count[c][m],
				m + 1 < PROFILE_MODES ? " " : "\n");
		}
	}
	fprintf(out, "  %-28s %10" PRIu64 " %8.1f %8.1f   %8" PRIu64 " %8" PRIu64 " %8" PRIu64 "\n",
		"busy, in all", busy, percent(busy, total), busy ? 100.0 : 0.0,
		by_mode[PROFILE_USER], by_mode[PROFILE_KERNEL], by_mode[PROFILE_REAL]);
}

static void print_helpers(FILE *out, const struct bt_profile *profile, uint64_t busy)
{
	uint64_t left[X86_OP_COUNT];

	for (unsigned op = 0; op < X86_OP_COUNT; op++)
		left[op] = profile->by_op[op];
	fprintf(out, "\nHelpers by operation\n  %10s %8s  %s\n", "samples", "% busy", "operation");
	for (unsigned n = 0; n < TOP_HELPERS; n++) {
		unsigned best = 0;

		for (unsigned op = 1; op < X86_OP_COUNT; op++)
			if (left[op] > left[best])
				best = op;
		if (!left[best])
			break;
		fprintf(out, "  %10" PRIu64 " %8.1f  %s\n", left[best], percent(left[best], busy),
			x86_op_name(best));
		left[best] = 0;
	}
}

static int by_count(const void *a, const void *b)
{
	const struct profile_block *x = *(struct profile_block *const *)a,
				   *y = *(struct profile_block *const *)b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return x->place.linear < y->place.linear ? -1 : x->place.linear > y->place.linear;
}

static void print_instruction(FILE *out, const struct profile_block *b)
{
	static const ZydisMachineMode modes[4] = { [X86_CODE16] = ZYDIS_MACHINE_MODE_LEGACY_16,
						   [X86_CODE32] = ZYDIS_MACHINE_MODE_LEGACY_32,
						   [X86_CODE64] = ZYDIS_MACHINE_MODE_LONG_64 };
	ZydisDisassembledInstruction insn;

	if (ZYAN_SUCCESS(ZydisDisassembleIntel(modes[b->place.code & 3], b->place.linear, b->code,
					       b->code_size, &insn)))
		fprintf(out, "%s\n", insn.text);
	else
		fprintf(out, "(crosses a page, or has changed)\n");
}

static void print_blocks(FILE *out, const struct bt_profile *profile, uint64_t busy)
{
	struct profile_block **sorted = calloc(profile->block_count + 1, sizeof(*sorted));
	unsigned n = 0;

	if (!sorted)
		return;
	for (unsigned i = 0; i < 1u << PROFILE_BLOCKS_BITS; i++)
		if (profile->blocks[i].count && n < profile->block_count)
			sorted[n++] = &profile->blocks[i];
	qsort(sorted, n, sizeof(*sorted), by_count);
	fprintf(out,
		"\nBlocks of guest code (%u of %u; slow: samples not in the translation's main line)\n",
		n < TOP_BLOCKS ? n : TOP_BLOCKS, n);
	fprintf(out, "  %10s %8s %8s  %-6s  %-16s  %-12s  %s\n", "samples", "% busy", "slow",
		"mode", "guest address", "physical", "first instruction");
	for (unsigned i = 0; i < n && i < TOP_BLOCKS; i++) {
		const struct profile_block *b = sorted[i];

		fprintf(out,
			"  %10" PRIu64 " %8.1f %8" PRIu64 "  %-6s  %016" PRIx64 "  %012" PRIx64
			"  ",
			b->count, percent(b->count, busy), b->slow, mode_names[b->place.mode],
			b->place.linear, b->place.gpa);
		print_instruction(out, b);
	}
	if (profile->elsewhere)
		fprintf(out, "  %10" PRIu64 " samples of blocks for which there was no room\n",
			profile->elsewhere);
	free(sorted);
}

void bt_print_profile(struct vm *vm, FILE *out)
{
	struct bt_vm *bt = vm->engine_data;
	struct bt_profile *profile = bt ? bt->profile : NULL;
	uint64_t total = 0, busy, lost = 0;

	if (!profile)
		return;
	bt_profile_stop(bt);
	for (unsigned c = 0; c < PROFILE_CATEGORIES; c++)
		total += category_count(profile, c);
	busy = total - category_count(profile, PROFILE_IDLE);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (profile->rings[i])
			lost += atomic_load(&profile->rings[i]->lost);
	fprintf(out,
		"Profile of '%s', engine %s: %u vCPU%s, %.1f s, %" PRIu64
		" samples (%.0f a second of each vCPU), %" PRIu64 " lost\n",
		vm->config.name, vm->engine->name, vm->vcpu_count, vm->vcpu_count == 1 ? "" : "s",
		profile->seconds, total,
		profile->seconds > 0 ? (double)total / profile->seconds / vm->vcpu_count : 0.0,
		lost);
	print_categories(out, profile, total, busy);
	print_helpers(out, profile, busy);
	print_blocks(out, profile, busy);
}
