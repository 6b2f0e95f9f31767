/* SPDX-License-Identifier: MIT */
/* What the files of the local APIC share: its registers (SDM vol. 3, 11.4-11.8) and its struct. Private to lapic*.c. */
#ifndef LODGE_DEVICE_LAPIC_REGS_H
#define LODGE_DEVICE_LAPIC_REGS_H

#include <stdatomic.h>

#include "device/lapic.h"

/* Register offsets in the MMIO page; MSR 0x800 + offset / 16 in x2APIC mode. */
#define REG_ID 0x020
#define REG_VERSION 0x030
#define REG_TPR 0x080
#define REG_APR 0x090
#define REG_PPR 0x0a0
#define REG_EOI 0x0b0
#define REG_RRD 0x0c0
#define REG_LDR 0x0d0
#define REG_DFR 0x0e0
#define REG_SVR 0x0f0
#define REG_ISR 0x100
#define REG_TMR 0x180
#define REG_IRR 0x200
#define REG_ESR 0x280
#define REG_ICR 0x300
#define REG_ICR2 0x310
#define REG_LVT_TIMER 0x320
#define REG_LVT_THERMAL 0x330
#define REG_LVT_PERF 0x340
#define REG_LVT_LINT0 0x350
#define REG_LVT_LINT1 0x360
#define REG_LVT_ERROR 0x370
#define REG_TIMER_INITIAL 0x380
#define REG_TIMER_CURRENT 0x390
#define REG_TIMER_DIVIDE 0x3e0
#define REG_SELF_IPI 0x3f0

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LAPIC_VERSION (0x14u | (LVT_COUNT - 1) << 16)
#define SVR_ENABLE 0x100u
#define LVT_MASKED 0x10000u
#define LVT_TIMER_MODE_SHIFT 17
enum lapic_timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };

#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECEIVE_ILLEGAL 0x40u
#define ESR_ILLEGAL_REGISTER 0x80u

#define BASE_BSP 0x100ull
#define BASE_X2APIC 0x400ull
#define BASE_ENABLE 0x800ull

#define MSR_KVM_PV_EOI_EN 0x4b564d04u

/* Fields marked [post] are written by other threads, [route] are read by them; the rest belongs to the vCPU's thread. */
struct lapic {
	struct apic_bus *bus;
	struct vcpu *vcpu;

	_Atomic uint32_t irr[8]; /* [post] */
	_Atomic uint32_t tmr[8]; /* [post] */
	uint32_t isr[8];
	int isr_top;                  /* highest vector in service, or -1 */
	_Atomic bool extint_message;  /* [post] an ExtINT came as a message (I/O APIC) */
	_Atomic uint32_t esr_pending; /* [post] */
	uint32_t esr;

	_Atomic uint64_t base;           /* [route] IA32_APIC_BASE */
	_Atomic uint32_t ldr, dfr, svr;  /* [route] */
	_Atomic uint32_t lvt[LVT_COUNT]; /* [route] */
	_Atomic uint32_t tpr;            /* [route] lowest priority */
	uint64_t icr;

	/* Timer: its callback runs on the loop thread. */
	pthread_mutex_t timer_lock;
	struct vm_timer timer;
	uint32_t timer_initial, timer_divide;
	uint64_t timer_start, timer_period; /* guest ns; period 0: not counting */
	uint64_t tsc_deadline;

	/* KVM PV EOI */
	uint64_t pv_eoi_msr;
	uint8_t *pv_eoi_flag; /* in guest memory */
	bool pv_eoi_armed;    /* the guest may end isr_top by clearing the flag */
};

#define EOI_LISTENER_MAX 8

struct apic_bus {
	struct vm *vm;
	unsigned count;
	struct lapic *lapics; /* of vm->vcpus[0..count-1] */
	_Atomic bool extint;  /* the PIC's INTR */
	int (*pic_acknowledge)(void *opaque);
	void *pic;
	_Atomic uint32_t lowest_turn; /* rotates ties of lowest-priority delivery */
	unsigned listener_count;
	struct {
		void (*function)(void *opaque, uint8_t vector);
		void *opaque;
	} listeners[EOI_LISTENER_MAX];
};

static inline bool lapic_enabled(const struct lapic *a)
{
	return atomic_load_explicit(&a->base, memory_order_relaxed) & BASE_ENABLE;
}

static inline bool lapic_x2apic(const struct lapic *a)
{
	return atomic_load_explicit(&a->base, memory_order_relaxed) & BASE_X2APIC;
}

static inline bool lapic_software_enabled(const struct lapic *a)
{
	return atomic_load_explicit(&a->svr, memory_order_relaxed) & SVR_ENABLE;
}

/* ---- lapic_engine.c: give our state to the engine's APIC, or take it from there; nothing where the APICs are ours ---- */
void lapic_give(struct lapic *a);
void lapic_take(struct lapic *a);

/* ---- lapic.c ---- */
/* Post a fixed interrupt: any thread. False if the APIC does not accept it. */
bool lapic_post(struct lapic *a, uint8_t vector, bool level);
/* Post what an LVT entry says: any thread. */
void lapic_post_local(struct lapic *a, enum lapic_lvt entry);
/* Look whether something is deliverable now, and set or clear the vCPU's hint. Own thread. */
void lapic_update(struct lapic *a);
uint32_t lapic_ppr(const struct lapic *a);
void lapic_end_of_interrupt(struct lapic *a);
/* The guest looks at its APIC: let a PV EOI it made show first. */
void lapic_sync_pv_eoi(struct lapic *a);
void lapic_error(struct lapic *a, uint32_t bits);

/* ---- lapic_timer.c ---- */
void lapic_timer_init(struct lapic *a);
void lapic_timer_reset(struct lapic *a);
void lapic_timer_write_initial(struct lapic *a, uint32_t value);
void lapic_timer_write_divide(struct lapic *a, uint32_t value);
void lapic_timer_write_lvt(struct lapic *a, uint32_t value);
uint32_t lapic_timer_current(struct lapic *a);
void lapic_timer_write_deadline(struct lapic *a, uint64_t tsc);
uint64_t lapic_timer_read_deadline(struct lapic *a);

/* ---- lapic_ipi.c ---- */
/* Send what ICR says. False: reserved delivery mode or vector. */
bool lapic_send_icr(struct lapic *a, uint64_t icr);
/* Become the handler of msi_send(). */
void apic_bus_accept_msis(struct apic_bus *bus);

/* ---- lapic_regs.c ---- */
int lapic_read_msr(void *apic, uint32_t msr, uint64_t *value);
int lapic_write_msr(void *apic, uint32_t msr, uint64_t value);
void lapic_reset_registers(struct lapic *a);
extern const struct io_ops lapic_mmio_ops;

#endif
