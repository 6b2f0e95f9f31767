/* SPDX-License-Identifier: MIT */
/*
 * CPU models: what the guest's CPUID says, from `--cpu MODEL[,+FEATURE,-FEATURE...]`.
 */
#ifndef LODGE_MACHINE_CPU_MODEL_H
#define LODGE_MACHINE_CPU_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "vm/vm.h"

/* The CPU underneath, as a function so that tests can pretend to be another one. */
struct cpu_source {
	void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
	void *opaque;
	uint64_t xcr0;              /* what the host's system has enabled; 0: no XSAVE */
	uint64_t arch_capabilities; /* as the MSR (SDM vol. 4), as far as known; 0: nothing known */
};

/* The CPU we run on. Looks into /sys for what CPUID does not tell. Executes CPUID (slow under
 * nested virtualization): call once. */
void cpu_source_host(struct cpu_source *source);
/* Is it AMD's (or Hygon's, which is the same)? */
bool cpu_source_is_amd(const struct cpu_source *source);

/*
 * Fill *model from spec ("host", "x86-64-v1" ... "x86-64-v4", each with ",+name" and ",-name")
 * for a guest of `cpus` CPUs. engine may be NULL (no restriction). tsc_hz and apic_hz:
 * frequencies of the TSC and of the local APIC's timer, 0 if not known (then the timing leaves
 * are left out). Returns 0, or -1 with err: unknown model or feature (with the names that come
 * close), a feature that the host or the engine lacks.
 */
int cpu_model_build(struct cpu_model *model, const char *spec, unsigned cpus,
		    const struct cpu_source *source, const struct engine *engine, uint64_t tsc_hz,
		    uint64_t apic_hz, struct error *err);

/* Print the models and the feature names that `--cpu` takes, for `--cpu help`. */
void cpu_model_print_names(FILE *out);

#endif
