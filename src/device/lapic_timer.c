/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4).
 *
 * The APIC's bus clock is 1 GHz, so a tick is one guest nanosecond times the divisor. A vm_timer does the
 * waiting; its callback runs on the event-loop thread and posts the interrupt, so timer_lock guards what both sides use.
 */
#include "base/util.h"
#include "device/lapic_regs.h"

/* A period shorter than this would keep the event loop from everything else. */
#define PERIOD_MIN_NS 20000

static enum lapic_timer_mode timer_mode(const struct lapic *a)
{
	return atomic_load(&a->lvt[LVT_TIMER]) >> LVT_TIMER_MODE_SHIFT & 3;
}

/* Divide configuration: bits 0, 1 and 3 encode 2, 4, ... 128, 1. */
static unsigned divisor(const struct lapic *a)
{
	unsigned code = (a->timer_divide & 3) | (a->timer_divide >> 1 & 4);

	return code == 7 ? 1 : 2u << code;
}

static void fired(void *opaque)
{
	struct lapic *a = opaque;
	bool post = false;
	uint64_t now;

	pthread_mutex_lock(&a->timer_lock);
	if (a->timer.deadline != UINT64_MAX) { /* rearmed while this call was on its way */
		pthread_mutex_unlock(&a->timer_lock);
		return;
	}
	now = vm_clock_ns(a->vcpu->vm);
	switch (timer_mode(a)) {
	case TIMER_TSC_DEADLINE:
		post = a->tsc_deadline != 0;
		a->tsc_deadline = 0;
		break;
	case TIMER_PERIODIC:
		post = a->timer_period != 0;
		if (!post)
			break;
		/* Periods that were missed altogether are dropped. */
		a->timer_start += (now - a->timer_start) / a->timer_period * a->timer_period;
		vm_timer_arm(&a->timer,
			     a->timer_start + MAX(a->timer_period, (uint64_t)PERIOD_MIN_NS));
		break;
	default:
		post = a->timer_period != 0;
		a->timer_period = 0;
		break;
	}
	pthread_mutex_unlock(&a->timer_lock);
	if (post)
		lapic_post_local(a, LVT_TIMER);
}

static void stop(struct lapic *a)
{
	vm_timer_cancel(&a->timer);
	a->timer_period = 0;
	a->tsc_deadline = 0;
}

void lapic_timer_init(struct lapic *a)
{
	pthread_mutex_init(&a->timer_lock, NULL);
	vm_timer_init(&a->timer, a->vcpu->vm, fired, a);
}

void lapic_timer_reset(struct lapic *a)
{
	pthread_mutex_lock(&a->timer_lock);
	stop(a);
	a->timer_initial = a->timer_divide = 0;
	pthread_mutex_unlock(&a->timer_lock);
}

static void start(struct lapic *a)
{
	uint64_t period = (uint64_t)a->timer_initial * divisor(a);

	a->timer_period = period;
	if (!period) {
		vm_timer_cancel(&a->timer);
		return;
	}
	a->timer_start = vm_clock_ns(a->vcpu->vm);
	vm_timer_arm(&a->timer, a->timer_start + period);
}

void lapic_timer_write_initial(struct lapic *a, uint32_t value)
{
	pthread_mutex_lock(&a->timer_lock);
	if (timer_mode(a) != TIMER_TSC_DEADLINE) {
		a->timer_initial = value;
		start(a);
	}
	pthread_mutex_unlock(&a->timer_lock);
}

void lapic_timer_write_divide(struct lapic *a, uint32_t value)
{
	pthread_mutex_lock(&a->timer_lock);
	a->timer_divide = value & 0x0b;
	if (a->timer_period)
		start(a);
	pthread_mutex_unlock(&a->timer_lock);
}

void lapic_timer_write_lvt(struct lapic *a, uint32_t value)
{
	enum lapic_timer_mode old;

	pthread_mutex_lock(&a->timer_lock);
	old = timer_mode(a);
	atomic_store(&a->lvt[LVT_TIMER], value);
	/* Changing to or from TSC deadline mode disarms the timer. */
	if ((old == TIMER_TSC_DEADLINE) != (timer_mode(a) == TIMER_TSC_DEADLINE)) {
		stop(a);
		a->timer_initial = 0;
	}
	pthread_mutex_unlock(&a->timer_lock);
}

uint32_t lapic_timer_current(struct lapic *a)
{
	uint64_t passed, left = 0;

	pthread_mutex_lock(&a->timer_lock);
	if (a->timer_period) {
		passed = vm_clock_ns(a->vcpu->vm) - a->timer_start;
		if (timer_mode(a) == TIMER_PERIODIC)
			left = a->timer_period - passed % a->timer_period;
		else if (passed < a->timer_period)
			left = a->timer_period - passed;
	}
	left /= divisor(a);
	pthread_mutex_unlock(&a->timer_lock);
	return (uint32_t)left;
}

void lapic_timer_write_deadline(struct lapic *a, uint64_t tsc)
{
	struct vm *vm = a->vcpu->vm;
	bool now = false;

	pthread_mutex_lock(&a->timer_lock);
	if (timer_mode(a) == TIMER_TSC_DEADLINE) {
		a->tsc_deadline = tsc;
		if (!tsc) {
			vm_timer_cancel(&a->timer);
		} else {
			uint64_t at = vm_tsc_to_ns(vm, tsc - a->vcpu->tsc_delta),
				 clock = vm_clock_ns(vm);

			now = at <= clock;
			if (now) {
				vm_timer_cancel(&a->timer);
				a->tsc_deadline = 0;
			} else {
				vm_timer_arm(&a->timer, at + 1); /* the conversion rounds down */
			}
		}
	}
	pthread_mutex_unlock(&a->timer_lock);
	if (now)
		lapic_post_local(a, LVT_TIMER);
}

uint64_t lapic_timer_read_deadline(struct lapic *a)
{
	uint64_t deadline;

	pthread_mutex_lock(&a->timer_lock);
	deadline = timer_mode(a) == TIMER_TSC_DEADLINE ? a->tsc_deadline : 0;
	pthread_mutex_unlock(&a->timer_lock);
	return deadline;
}
