/* SPDX-License-Identifier: MIT */
/*
 * One virtual machine: memory, buses, interrupts, clock, vCPUs, and the event loop thread.
 *
 * Life: vm_create -> the board adds devices -> vm_start -> vm_wait -> vm_destroy.
 * Threads: one per vCPU; one event loop (epoll: file descriptors, timers); workers of block back ends.
 */
#ifndef LODGE_VM_VM_H
#define LODGE_VM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/engine.h"
#include "vm/irq.h"
#include "vm/memory.h"
#include "vm/state.h"
#include "vm/vcpu.h"

#define VM_VCPU_MAX 64

enum vm_end {
	VM_END_NONE,
	VM_END_POWEROFF,   /* guest powered off (or reset with no_reboot) */
	VM_END_QUIT,       /* the user ended it */
	VM_END_DIED,       /* triple fault with no reset to be done, or engine error */
	VM_END_DEBUG_EXIT, /* isa-debug-exit: vm->exit_status */
};

/* The CPU as the guest's CPUID sees it. Filled by machine/, read by engines. */
struct cpuid_leaf {
	uint32_t leaf, subleaf; /* subleaf 0xffffffff: the leaf has none */
	uint32_t eax, ebx, ecx, edx;
};
#define CPUID_LEAF_MAX 96

struct cpu_model {
	unsigned count;
	struct cpuid_leaf leaves
		[CPUID_LEAF_MAX]; /* APIC ids, OSXSAVE and XSAVE sizes are patched per vCPU by cpuid_query() */
	bool is_amd;
	uint8_t maxphyaddr;
	uint64_t xcr0_valid, cr4_valid, efer_valid;
	uint64_t arch_capabilities; /* value of IA32_ARCH_CAPABILITIES; the MSR exists if CPUID.7.EDX bit 29 is set */
};

struct vm_config {
	char name[64];
	unsigned cpus;
	uint64_t memory; /* bytes */
	bool no_reboot;
	bool shared_memory; /* other processes map guest RAM: it must be a memfd */
	const char *
		engine_options; /* for the engine alone, or NULL; the string lives as long as the VM */
	bool profile;           /* sample where time goes: engine->print_profile() */
	bool perf_map;          /* write a symbol map of translated code for perf(1) */
};

struct event_source; /* a file descriptor watched by the event loop */

struct vm {
	struct vm_config config;
	const struct engine *engine;
	void *engine_data;
	struct guest_memory memory;
	struct bus pio, mmio;
	unsigned vcpu_count;
	struct vcpu *vcpus[VM_VCPU_MAX];
	struct cpu_model cpu_model;

	/* MSI sink, set by the board's APIC bus (see device/lapic.h). */
	void (*msi_handler)(void *opaque, uint64_t address, uint32_t data);
	void *msi_opaque;

	/* Not NULL: the engine has local APICs of its own. It calls eoi_handler, set by the board's APIC bus, when a
	 * level-triggered interrupt ends there. */
	const struct vm_apic_ops *engine_apic;
	void (*eoi_handler)(void *opaque, uint8_t vector);
	void *eoi_opaque;

	uint64_t tsc_offset; /* added to the host TSC; changes only while all vCPUs are paused */
	void *priv;          /* vm.c's own: event loop, timer heap, run-state lock */
	_Atomic int end;     /* enum vm_end */
	_Atomic int exit_status; /* of VM_END_DEBUG_EXIT */
	_Atomic bool paused;
	struct vcpu *
		died; /* the vCPU that caused VM_END_DIED, or NULL; its state can be read after vm_wait() */

	/* Board hooks. */
	void (*board_reset)(struct vm *vm); /* all vCPUs stopped: put devices and boot image back */
	void *board;

	/* Called on the vCPU's thread after it left the engine with VCPU_EXIT_DEBUG. The vCPU then parks itself as if it had been
	 * asked to pause (so that it runs no further instruction before the debugger's vm_pause()) until vm_resume(). The hook
	 * only notes the event and wakes the debugger: it may not call vm_pause(). NULL: the exit is ignored. */
	void (*debug_hook)(void *opaque, struct vcpu *vcpu);
	void *debug_opaque;
	uint64_t start_host_ns; /* CLOCK_MONOTONIC at vm_start */
	_Atomic uint64_t
		first_user_ns; /* host ns after start of the first guest instruction at CPL 3 in protected mode; 0: none yet */
};

/* Creates guest memory, the buses and the vcpus[] objects (config->cpus of them, apic_id = index), so that boards can
 * attach APICs to them. The engine's own VM and vCPUs are created by vm_start. Guest time stands still until vm_start. */
int vm_create(struct vm **out, const struct vm_config *config, const struct engine *engine,
	      struct error *err);
/* Create the engine's VM and vCPUs, start the event loop and vCPU threads. */
int vm_start(struct vm *vm, struct error *err);
/* Wait until the VM ends; returns vm->end. */
enum vm_end vm_wait(struct vm *vm);
void vm_destroy(struct vm *vm);

/* Requests from devices and tools. Any thread; return at once. */
void vm_poweroff(struct vm *vm);
void vm_reset(struct vm *vm); /* guest-requested: honours no_reboot */
void vm_quit(struct vm *vm);
void vm_debug_exit(struct vm *vm, int status);
void vm_triple_fault(struct vm *vm, struct vcpu *vcpu);

/* Call function(opaque) on every machine reset, in the order of registration, while all vCPUs are stopped, before
 * board_reset. Not called by vm_start: devices begin in their reset state. Before vm_start. */
void vm_add_reset(struct vm *vm, void (*function)(void *opaque), void *opaque);
/* Call function(opaque) in vm_wait, after the last instruction of the guest: to bring out what is still buffered. Before vm_start. */
void vm_add_end(struct vm *vm, void (*function)(void *opaque), void *opaque);
/* Call function(opaque) in vm_destroy, in reverse order, when no thread runs any more: to free device objects. Before vm_start. */
void vm_add_cleanup(struct vm *vm, void (*function)(void *opaque), void *opaque);

/* Pause and resume: vm_pause returns when every vCPU has stopped and guest time stands still. Not from a vCPU thread. Idempotent. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/* Event loop: call handler(opaque, epoll events) on the event-loop thread when fd is ready. events: EPOLLIN etc.
 * Returns a source to modify or remove (any thread; after removal from the loop thread itself the handler is not called again). */
struct event_source *vm_watch_fd(struct vm *vm, int fd, uint32_t events,
				 void (*handler)(void *opaque, uint32_t events), void *opaque);
void vm_watch_modify(struct event_source *source, uint32_t events);
void vm_watch_remove(struct event_source *source);
/* Run function(opaque) once on the event-loop thread, soon. Any thread. */
void vm_defer(struct vm *vm, void (*function)(void *opaque), void *opaque);
/* Called on the loop thread before each wait: may shorten the timeout (ms, -1 none) and add poll interest: for libslirp. */
struct loop_hook {
	void (*before_wait)(void *opaque, int *timeout_ms);
	void (*after_wait)(void *opaque);
	void *opaque;
};
void vm_add_loop_hook(struct vm *vm, const struct loop_hook *hook);

/* The guest's CPUID on one vCPU. */
void cpuid_query(struct vcpu *vcpu, const struct x86_cpu_state *state, uint32_t leaf,
		 uint32_t subleaf, uint32_t regs[4]);

#endif
