/* SPDX-License-Identifier: MIT */
/* --stats: the counters of the binary-translation engine, summed over the vCPUs. */
#include "engine/bt/runtime.h"

#include <string.h>

struct counter {
	const char *name;
	size_t offset;
};

#define C(text, field) { text, offsetof(struct bt_vcpu_stats, field) }
static const struct counter counters[] = {
	C("dispatches", dispatches),
	C("polls", polls),
	C("chained jumps", chains),
	C("jump misses", jump_misses),
	C("fetch walks", fetch_walks),
	C("helper calls", helpers),
	C("exceptions", faults),
	C("events", events),
	C("host faults", host_faults),
	C("vector state saves", fpu_saves),
	C("TLB misses", misses),
	C("TLB fills", fills),
	C("slow: page crossing", slow_cross),
	C("slow: MMIO", slow_mmio),
	C("slow: ROM write", slow_rom),
	C("slow: code page", slow_code),
	C("slow: breakpoint", slow_watch),
	C("slow: masked vector", slow_masked),
	C("slow: segment check", slow_segment),
	C("slow: split lock", slow_split_lock),
	C("flush: page", flush_page),
	C("flush: PCID", flush_space),
	C("flush: all", flush_all),
	C("flush: jump cache", jump_flushes),
	C("CR3 loads", switches),
	C("CR3 loads, known", switch_hits),
	C("self-modifications", code_invalidations),
};
#undef C

static void line(FILE *out, const char *name, uint64_t value)
{
	if (value)
		fprintf(out, "  %-22s %14llu\n", name, (unsigned long long)value);
}

static void print_helpers(FILE *out, const uint64_t by_op[256])
{
	uint64_t left[256];

	memcpy(left, by_op, sizeof(left));
	fprintf(out, "helper calls by operation:\n");
	for (;;) { /* the most frequent first */
		unsigned best = 0;

		for (unsigned op = 1; op < 256; op++)
			if (left[op] > left[best])
				best = op;
		if (!left[best])
			return;
		line(out, x86_op_name(best), left[best]);
		left[best] = 0;
	}
}

static void print_translation_time(FILE *out, struct vm *vm, const struct bt_vm_stats *s)
{
	uint64_t hz = vm_tsc_frequency(vm);
	double ns = hz ? (double)s->translate_tsc * 1e9 / (double)hz : 0;

	fprintf(out, "  %-22s %14.3f\n", "milliseconds", ns / 1e6);
	if (s->guest_instructions)
		fprintf(out, "  %-22s %14.1f\n", "ns per instruction", ns / (double)s->guest_instructions);
}

void bt_print_stats(struct vm *vm, FILE *out)
{
	struct bt_vm *bt = vm->engine_data;
	uint64_t by_op[256] = { 0 };

	if (!bt)
		return;
	fprintf(out, "translation:\n");
	line(out, "blocks", bt->stats.translations);
	line(out, "guest instructions", bt->stats.guest_instructions);
	line(out, "guest bytes", bt->stats.guest_bytes);
	print_translation_time(out, vm, &bt->stats);
	line(out, "host bytes, hot", bt->stats.hot_bytes);
	line(out, "host bytes, cold", bt->stats.cold_bytes);
	line(out, "blocks invalidated", bt->stats.invalidated);
	line(out, "pages write-protected", bt->stats.protects);
	line(out, "vCPUs stopped", bt->stats.stops);
	line(out, "cache flushes", bt->stats.cache_flushes);
	fprintf(out, "execution:\n");
	for (unsigned i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		uint64_t sum = 0;

		for (unsigned n = 0; n < vm->vcpu_count; n++) {
			struct bt_vcpu *v = vm->vcpus[n]->engine_data;
			uint64_t value = 0;

			if (v)
				memcpy(&value, (const char *)&v->stats + counters[i].offset, sizeof(value));
			sum += value;
		}
		line(out, counters[i].name, sum);
	}
	for (unsigned n = 0; n < vm->vcpu_count; n++) {
		const struct bt_vcpu *v = vm->vcpus[n]->engine_data;

		for (unsigned op = 0; v && op < 256; op++)
			by_op[op] += v->stats.helper_by_op[op];
	}
	print_helpers(out, by_op);
}
