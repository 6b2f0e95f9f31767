/* SPDX-License-Identifier: MIT */
/*
 * Local APICs that are the engine's (vm->engine_apic): ours are then a place to keep their state in, for resets and saved
 * machines, and the way of the PIC's interrupts to the BSP.
 */
#include <string.h>

#include "base/util.h"
#include "device/lapic_regs.h"

static void put(struct vm_apic_state *s, unsigned reg, uint32_t value)
{
	memcpy(s->page + reg, &value, sizeof(value));
}

static uint32_t take(const struct vm_apic_state *s, unsigned reg)
{
	uint32_t value;

	memcpy(&value, s->page + reg, sizeof(value));
	return value;
}

void lapic_give(struct lapic *a)
{
	struct vm_apic_state s = { .base = a->base, .tsc_deadline = a->tsc_deadline };
	const struct vm_apic_ops *ops = a->vcpu->vm->engine_apic;

	if (!ops || !a->vcpu->engine_data)
		return;
	put(&s, REG_ID, lapic_x2apic(a) ? a->vcpu->apic_id : a->vcpu->apic_id << 24);
	put(&s, REG_VERSION, LAPIC_VERSION);
	put(&s, REG_TPR, a->tpr);
	put(&s, REG_LDR, a->ldr);
	put(&s, REG_DFR, a->dfr);
	put(&s, REG_SVR, a->svr);
	put(&s, REG_ESR, a->esr);
	put(&s, REG_ICR, (uint32_t)a->icr);
	put(&s, REG_ICR2, (uint32_t)(a->icr >> 32));
	put(&s, REG_TIMER_INITIAL, a->timer_initial);
	put(&s, REG_TIMER_DIVIDE, a->timer_divide);
	for (unsigned i = 0; i < 8; i++) {
		put(&s, REG_ISR + 16 * i, a->isr[i]);
		put(&s, REG_TMR + 16 * i, a->tmr[i]);
		put(&s, REG_IRR + 16 * i, a->irr[i]);
	}
	for (unsigned i = 0; i < LVT_COUNT; i++)
		put(&s, REG_LVT_TIMER + 16 * i, a->lvt[i]);
	ops->set(a->vcpu, &s);
}

void lapic_take(struct lapic *a)
{
	const struct vm_apic_ops *ops = a->vcpu->vm->engine_apic;
	struct vm_apic_state s = { 0 };

	if (!ops || !a->vcpu->engine_data)
		return;
	ops->get(a->vcpu, &s);
	a->base = s.base;
	a->tsc_deadline = s.tsc_deadline;
	a->tpr = take(&s, REG_TPR);
	a->ldr = take(&s, REG_LDR);
	a->dfr = take(&s, REG_DFR);
	a->svr = take(&s, REG_SVR);
	a->esr = take(&s, REG_ESR);
	a->icr = take(&s, REG_ICR) | (uint64_t)take(&s, REG_ICR2) << 32;
	a->timer_initial = take(&s, REG_TIMER_INITIAL);
	a->timer_divide = take(&s, REG_TIMER_DIVIDE);
	for (unsigned i = 0; i < 8; i++) {
		a->isr[i] = take(&s, REG_ISR + 16 * i);
		a->tmr[i] = take(&s, REG_TMR + 16 * i);
		a->irr[i] = take(&s, REG_IRR + 16 * i);
	}
	for (unsigned i = 0; i < LVT_COUNT; i++)
		a->lvt[i] = take(&s, REG_LVT_TIMER + 16 * i);
}
