/* SPDX-License-Identifier: MIT */
/*
 * Guest time and timers.
 *
 * Guest nanoseconds start at 0 when the VM is created and stand still while it is paused. Timers are armed
 * in guest nanoseconds and their callbacks run on the event-loop thread, without any lock held.
 */
#ifndef LODGE_VM_CLOCK_H
#define LODGE_VM_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

struct vm_timer {
	struct vm *vm;
	void (*callback)(void *opaque);
	void *opaque;
	uint64_t deadline; /* guest ns; UINT64_MAX: not armed */
	unsigned heap_index;
};

uint64_t vm_clock_ns(struct vm *vm);

void vm_timer_init(struct vm_timer *timer, struct vm *vm, void (*callback)(void *), void *opaque);
/* Arm for guest time deadline (ns; in the past: fires at once). Rearming replaces. Any thread. */
void vm_timer_arm(struct vm_timer *timer, uint64_t deadline);
void vm_timer_cancel(struct vm_timer *timer);

/* Guest TSC: host TSC + vm->tsc_offset (+ each vCPU's own tsc_offset); frequency in Hz of the host's TSC. */
uint64_t vm_tsc_frequency(struct vm *vm);
/* Guest time (ns) at which a vCPU's TSC reaches the value (for the TSC deadline timer). */
uint64_t vm_tsc_to_ns(struct vm *vm, uint64_t guest_tsc);

#endif
