/* SPDX-License-Identifier: MIT */
/*
 * A virtual CPU: one host thread, its run states, its kicks and its statistics.
 */
#ifndef LODGE_VM_VCPU_H
#define LODGE_VM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vm/engine.h"
#include "x86/cpu.h"

struct vm;
struct vcpu;

/* The local APIC as its CPU sees it; implemented by a device model. All on the vCPU's own thread unless said. */
struct vcpu_apic_ops {
	/* Highest-priority deliverable interrupt: vector >= 0 (not yet taken) or -1. Includes ExtINT from the PIC. Cheap; any thread. */
	int (*pending_vector)(void *apic);
	/* Take it: move from IRR to ISR (or INTA cycle to the PIC) and return the vector, or -1. */
	int (*acknowledge)(void *apic);
	uint64_t (*read_tpr)(void *apic); /* CR8 */
	void (*write_tpr)(void *apic, uint64_t cr8);
	/* IA32_APIC_BASE, TSC deadline, x2APIC and KVM PV EOI (0x4b564d04) MSRs. 0, or -1: #GP. */
	int (*read_msr)(void *apic, uint32_t msr, uint64_t *value);
	int (*write_msr)(void *apic, uint32_t msr, uint64_t value);
	/* INIT: back to the state after INIT; `reset` also the base address. */
	void (*init)(void *apic, bool reset);
	void (*eoi)(void *apic);
};

/* Requests to a vCPU, bits of vcpu->requests. */
#define VCPU_REQUEST_PAUSE 0x01
#define VCPU_REQUEST_STOP 0x02 /* leave the thread */
#define VCPU_REQUEST_INIT 0x04 /* INIT signal */
#define VCPU_REQUEST_SIPI 0x08 /* start-up IPI: vcpu->sipi_vector */
#define VCPU_REQUEST_NMI 0x10
#define VCPU_REQUEST_RESET 0x20

struct vcpu_stats {
	uint64_t run_ns; /* thread CPU time is better: see vcpu_cpu_time_ns() */
	uint64_t halted_ns;
	uint64_t exits[8]; /* by enum vcpu_exit */
	uint64_t interrupts, nmis, pio, mmio, hypercalls, msr_reads, msr_writes;
};

struct vcpu {
	struct vm *vm;
	unsigned index; /* 0 .. n-1 */
	uint32_t apic_id;
	pthread_t thread;
	bool thread_started;

	const struct vcpu_apic_ops *apic_ops;
	void *apic;

	void *engine_data;

	/* Set by any thread: requests is or-ed, then vcpu_kick(). */
	_Atomic uint32_t requests;
	/* The APIC (probably) has something deliverable. Set by any thread; only the APIC clears it, on the vCPU's own thread,
	 * when acknowledge(), EOI, TPR writes ... find nothing left. Engine: if (irq_pending && IF) v = acknowledge(). */
	_Atomic uint32_t irq_pending;
	uint8_t sipi_vector;
	uint64_t tsc_delta; /* this vCPU's TSC minus the VM's (WRMSR to the TSC, TSC_ADJUST): kept by the engine, read by the APIC timer */

	_Atomic bool halted, paused;
	_Atomic uint32_t wake_sequence; /* futex: bumped by vcpu_kick() */
	struct error exit_error;
	struct vcpu_stats stats;

	/* Initial state, applied by the board before the first run and on reset (BSP), else x86_cpu_reset(). */
	bool has_boot_state;
	struct x86_cpu_state boot_state;
};

/* Ask the vCPU to look at its requests and interrupts: wakes it if halted, calls engine->vcpu_kick otherwise. Any thread. */
void vcpu_kick(struct vcpu *vcpu);
/* Or bits into requests and kick. Any thread. */
void vcpu_request(struct vcpu *vcpu, uint32_t bits);
/* The APIC found something deliverable. Any thread. */
void vcpu_interrupt(struct vcpu *vcpu);
/* Send INIT, SIPI, NMI (from an APIC's ICR). Any thread. */
void vcpu_send_init(struct vcpu *vcpu);
void vcpu_send_sipi(struct vcpu *vcpu, uint8_t vector);
void vcpu_send_nmi(struct vcpu *vcpu);

/* CPU time used by the vCPU's thread so far, ns. */
uint64_t vcpu_cpu_time_ns(struct vcpu *vcpu);

/* The vCPU whose thread is calling, or NULL. */
struct vcpu *vcpu_current(void);

#endif
