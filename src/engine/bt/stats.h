/* SPDX-License-Identifier: MIT */
/* Counters of the binary-translation engine for --stats. Kept per vCPU by its own thread, without atomics. */
#ifndef LODGE_ENGINE_BT_STATS_H
#define LODGE_ENGINE_BT_STATS_H

#include <stdint.h>

struct bt_vcpu_stats {
	uint64_t dispatches, chains, jump_misses, jump_walks, polls, helpers, faults;
	uint64_t misses, fills, slow_cross, slow_mmio, slow_rom, slow_code, slow_watch, slow_masked, slow_segment, slow_split_lock;
	uint64_t flush_page, flush_space, flush_all, switches, switch_hits, jump_flushes;
	uint64_t code_invalidations, events, host_faults, fpu_saves, fetch_walks;
	uint64_t helper_by_op[256];
};

struct bt_vm_stats { /* under the cache lock */
	uint64_t translations, guest_bytes, guest_instructions, hot_bytes, cold_bytes, invalidated, cache_flushes,
		protects, stops;
	uint64_t translate_tsc; /* host TSC ticks spent in bt_translate() */
};

#endif
