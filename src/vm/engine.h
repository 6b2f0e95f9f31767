/* SPDX-License-Identifier: MIT */
/*
 * How a virtual CPU executes: the one interface that differs between virtualization techniques.
 *
 * Port and memory-mapped I/O, paravirtual MSRs and the APIC are reached by the engine through vm/ on the vCPU's
 * own thread, so vcpu_run() returns only when the vCPU loop has something to do.
 */
#ifndef LODGE_VM_ENGINE_H
#define LODGE_VM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "x86/cpu.h"

struct vm;
struct vcpu;

enum vcpu_exit {
	VCPU_EXIT_KICKED,   /* vcpu_kick() was called: look at requests */
	VCPU_EXIT_HALTED,   /* HLT (state.mp_state = HALTED) or MWAIT: wait for an interrupt */
	VCPU_EXIT_SHUTDOWN, /* triple fault */
	VCPU_EXIT_DEBUG,    /* a breakpoint or step of the GDB stub or monitor */
	VCPU_EXIT_ERROR,    /* the engine cannot go on; vcpu->exit_error says why */
};

struct engine_probe {
	bool usable;
	char reason[256]; /* why not, or how well */
	unsigned rank;    /* `auto` takes the usable engine with the highest rank */
	char advice[256]; /* what to do about it, or "" */
	bool crippled;    /* works, but so slowly that it is no choice */
	double ns_per_instruction,
		ns_per_exit; /* measured: guest kernel code in a loop; an access to a device. 0: not */
};

struct engine {
	const char *name;
	void (*probe)(struct engine_probe *probe);

	/* vm->engine_data / vcpu->engine_data are the engine's. Memory slots are final when vm_create is called. */
	int (*vm_create)(struct vm *vm, struct error *err);
	void (*vm_destroy)(struct vm *vm);
	int (*vcpu_create)(struct vcpu *vcpu, struct error *err);
	void (*vcpu_destroy)(struct vcpu *vcpu);

	/* Run on the calling thread (always the same for one vCPU) until an exit. Interrupts that
	 * vcpu->irq_pending announces are taken by the engine itself through vcpu->apic_ops->acknowledge(). Entered with the
	 * state HALTED (or with nothing to do), it must look for a deliverable interrupt, NMI or SMI first and return
	 * VCPU_EXIT_HALTED at once if there is none: the loop then sleeps until the next vcpu_kick(). It must return
	 * VCPU_EXIT_KICKED soon when vcpu->requests is not 0. */
	enum vcpu_exit (*vcpu_run)(struct vcpu *vcpu);
	/* Make vcpu_run() notice a request, interrupt or NMI soon (microseconds). Any thread, must not block. */
	void (*vcpu_kick)(struct vcpu *vcpu);

	/* The whole CPU state in the common form. Only while the vCPU is not in vcpu_run(). */
	void (*get_state)(struct vcpu *vcpu, struct x86_cpu_state *state);
	void (*set_state)(struct vcpu *vcpu, const struct x86_cpu_state *state);

	/* Guest-linear memory access and translation for debuggers, by the page tables of the stopped vCPU.
	 * translate: true and *gpa if mapped. */
	bool (*translate)(struct vcpu *vcpu, uint64_t linear, uint64_t *gpa);

	/* Memory that may hold translated code was written by someone other than a vCPU. Any thread. */
	void (*memory_written)(struct vm *vm, uint64_t gpa, uint64_t len);

	/* GDB stub: breakpoints (linear addresses) and single-stepping; only while stopped. */
	int (*set_breakpoint)(struct vm *vm, uint64_t linear, bool insert, struct error *err);
	void (*set_single_step)(struct vcpu *vcpu, bool on);

	/* Restrict a CPUID leaf to what the engine can execute (called for every leaf of the model). */
	void (*filter_cpuid)(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);

	/* CPU features that the host announces for this engine and that do not work, by name, separated by spaces; or "". May
	 * take milliseconds. May be NULL. */
	const char *(*missing_features)(void);

	/* --stats: print the engine's own counters, aligned. */
	void (*print_stats)(struct vm *vm, FILE *out);
	/* --profile (vm_config.profile): print what was sampled. The VM has ended; its vCPU threads too. May be NULL. */
	void (*print_profile)(struct vm *vm, FILE *out);
};

/* All engines compiled in, NULL-terminated. */
extern const struct engine *const engines[];

/* Find by name, or the best usable one for "auto". */
const struct engine *engine_find(const char *name, struct error *err);

#endif
