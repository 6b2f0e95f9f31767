/* SPDX-License-Identifier: MIT */
/* What the files of vm/ share and nobody else sees: clock, event loop, run state, registered state. */
#ifndef LODGE_VM_VM_PRIVATE_H
#define LODGE_VM_VM_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vm/vm.h"

/* ---- clock.c: guest time is base_ns, plus the scaled TSC since base_tsc while it runs ---- */
struct vm_clock {
	_Atomic uint32_t sequence; /* odd while the base changes */
	_Atomic uint64_t base_ns;  /* guest ns at the last start or stop */
	_Atomic uint64_t base_tsc; /* host TSC then */
	_Atomic bool running;
	uint64_t ns_per_tsc; /* times 2^32 */
	uint64_t tsc_hz;     /* 0: not yet known */
	uint64_t first_tsc,
		first_ns; /* host TSC and CLOCK_MONOTONIC at creation, to measure the rate by */
};

/* CLOCK_MONOTONIC */
uint64_t host_clock_ns(void);
void vm_clock_init(struct vm *vm);
void vm_clock_freeze(struct vm *vm);
void vm_clock_thaw(struct vm *vm);

/* ---- loop.c ---- */
struct event_source {
	struct vm *vm;
	int fd;
	_Atomic bool dead;
	void (*handler)(void *opaque, uint32_t events);
	void *opaque;
	struct event_source *next; /* in vm_loop.sources or .graveyard */
};

struct loop_deferred {
	void (*function)(void *opaque);
	void *opaque;
	struct loop_deferred *next;
};

#define LOOP_HOOK_MAX 8

struct vm_loop {
	int epoll_fd, wake_fd, timer_fd;
	bool no_pwait2; /* Linux before 5.11: sleep on timer_fd instead */
	pthread_t thread;
	bool started;
	_Atomic bool stop;

	pthread_mutex_t lock; /* sources, graveyard, deferred */
	struct event_source *sources, *graveyard;
	struct loop_deferred *deferred, **deferred_tail;
	unsigned hook_count;
	struct loop_hook hooks[LOOP_HOOK_MAX];

	pthread_mutex_t timer_lock; /* heap, wake_at, every vm_timer of the VM */
	struct vm_timer **heap;     /* binary heap by deadline */
	unsigned heap_count, heap_capacity;
	uint64_t wake_at; /* guest ns until which the thread sleeps; 0: it is awake and will look by itself */
};

int loop_init(struct vm *vm, struct error *err);
int loop_start(struct vm *vm, struct error *err);
void loop_stop(struct vm *vm);
void loop_destroy(struct vm *vm);
void loop_wake(struct vm *vm);

/* ---- vm.c ---- */
struct vm_callback {
	void (*function)(void *opaque);
	void *opaque;
};

struct vm_callback_list {
	struct vm_callback *items;
	unsigned count, capacity;
};

struct state_entry {
	const struct state_table *table;
	unsigned instance;
	void *object;
};

struct vm_priv {
	struct vm_clock clock;
	struct vm_loop loop;

	pthread_mutex_t run_lock; /* what follows, and vm->paused, vm->end when written */
	pthread_cond_t run_cond;
	bool started;              /* vCPU threads exist */
	unsigned parked;           /* vCPU threads that stand in vm_park() for a pause */
	uint64_t debug_held;       /* bit n: vCPU n hit a breakpoint and waits for vm_resume() */
	bool resetting;            /* a reset was requested and not done */
	unsigned reset_arrived;    /* vCPU threads waiting in it */
	uint64_t reset_generation; /* resets of the devices done */
	unsigned reset_left;       /* vCPUs that have not reset their state since */
	uint64_t resets_finished;  /* reset_generation when the last of them had */

	struct vm_callback_list resets, ends, cleanups;
	struct state_entry *states;
	unsigned state_count, state_capacity;
};

static inline struct vm_priv *vm_priv(const struct vm *vm)
{
	return vm->priv;
}

/* The debugger's hook is about to be called: this vCPU stays parked until vm_resume(), whether or not the VM is paused. */
void vm_debug_hold(struct vcpu *vcpu);
/* The run-state changes a vCPU thread goes through itself. run_lock not held. */
/* Stay here while the VM is paused; returns when it is resumed, ends, or is being reset. */
void vm_park(struct vcpu *vcpu);
/* Take part in a machine reset: returns when devices are reset, or the VM has ended. */
void vm_reset_rendezvous(struct vcpu *vcpu);

/* Mark the VM ended (first caller wins) and tell all vCPU threads to stop. */
void vm_set_end(struct vm *vm, enum vm_end end);

/* ---- vcpu.c ---- */
struct vcpu *vcpu_alloc(struct vm *vm, unsigned index);
void vcpu_free(struct vcpu *vcpu);
/* Put the CPU into its initial state: boot_state if the board gave one, else that after RESET. */
void vcpu_reset_state(struct vcpu *vcpu);
/* The engine was given this state by someone other than the vCPU's thread (stopped). */
void vcpu_state_loaded(struct vcpu *vcpu, const struct x86_cpu_state *state);
int vcpu_thread_start(struct vcpu *vcpu, struct error *err);
/* Block all signals on the calling thread but those a CPU exception raises; old mask in *old (may be NULL). */
void thread_block_signals(void *old_sigset);

/* ---- vm_state of the CPU: cpu_state.c ---- */
void vcpu_state_register(struct vcpu *vcpu);

#endif
