/* SPDX-License-Identifier: MIT */
/* The features that CPUID can show a guest: a table, and names. */
#ifndef LODGE_MACHINE_CPU_FEATURES_H
#define LODGE_MACHINE_CPU_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#define CPUID_NO_SUBLEAF 0xffffffffu
#define KVM_LEAF 0x40000000u
#define KVM_FEATURES_LEAF 0x40000001u
#define KVM_TIMING_LEAF 0x40000010u

enum cpuid_reg { EAX, EBX, ECX, EDX };

enum cpu_feature_provider {
	BY_HOST,  /* needs the host's instruction */
	BY_LODGE, /* implemented by the engine or a device model */
};

/* The lowest model that has a feature. */
enum cpu_level {
	LEVEL_ALL = 0, /* every model */
	LEVEL_V1 = 1,
	LEVEL_V2,
	LEVEL_V3,
	LEVEL_V4,
	LEVEL_HOST, /* only `host`, or on request */
	LEVEL_NONE, /* only on request */
};

struct cpu_feature {
	const char *name;
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
	uint8_t provider, level;
};

#define CPU_FEATURE_MAX 192

/* All features, and how many there are (at most CPU_FEATURE_MAX). */
extern const struct cpu_feature cpu_features[];
extern const unsigned cpu_feature_count;

/* Pairs of names: without the second, the first makes no sense. In an order that one pass
 * suffices. */
extern const char *const cpu_feature_dependencies[][2];
extern const unsigned cpu_feature_dependency_count;

/* Index of a feature by its name or another spelling of it (len characters), or -1. */
int cpu_feature_find(const char *name, size_t len);

/* The name, if it is that of a feature of real CPUs that guests do not get; else NULL. */
const char *cpu_feature_withheld(const char *name, size_t len);

#endif
