/* SPDX-License-Identifier: MIT */
/*
 * Local APIC (SDM vol. 3, chapter 11): accepting, prioritising and ending interrupts.
 *
 * Any thread may post an interrupt: it sets the vector's IRR bit atomically and, if the bit was clear, tells the vCPU
 * with vcpu_interrupt(). Everything else - acknowledging, ISR, TPR, EOI - happens on the vCPU's own thread without
 * locks. vcpu->irq_pending is the hint that the engine polls. Posting always sets it; lapic_update() clears it
 * first and then looks, so a post in between is never lost.
 *
 * The registers are in lapic_regs.c, the timer in lapic_timer.c, routing in lapic_ipi.c.
 *
 * PV EOI (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN): when an edge-triggered interrupt is taken and
 * nothing else waits, a flag in guest memory is set; the guest ends the interrupt by clearing it. We see that at the
 * next look at the APIC. While the flag is armed the hint stays set if anything else arrives, so the look comes in time.
 */
#include "device/lapic.h"

#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "device/lapic_regs.h"

/* ---- bit vectors of 256 ---- */

static int highest_irr(const struct lapic *a)
{
	for (int w = 7; w >= 0; w--) {
		uint32_t bits = atomic_load_explicit(&a->irr[w], memory_order_acquire);

		if (bits)
			return w * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

static int highest_isr(const struct lapic *a)
{
	for (int w = 7; w >= 0; w--)
		if (a->isr[w])
			return w * 32 + 31 - __builtin_clz(a->isr[w]);
	return -1;
}

/* ---- posting: any thread ---- */

bool lapic_post(struct lapic *a, uint8_t vector, bool level)
{
	uint32_t bit = BIT(vector & 31);
	unsigned word = vector >> 5;

	if (!lapic_enabled(a) || !lapic_software_enabled(a))
		return false;
	if (vector < 16) {
		lapic_error(a, ESR_RECEIVE_ILLEGAL);
		return true; /* accepted, and in error */
	}
	if (level)
		atomic_fetch_or(&a->tmr[word], bit);
	else if (atomic_load_explicit(&a->tmr[word], memory_order_relaxed) & bit)
		atomic_fetch_and(&a->tmr[word], ~bit);
	if (!(atomic_fetch_or(&a->irr[word], bit) & bit))
		vcpu_interrupt(a->vcpu);
	trace(TRACE_IRQ, "cpu %u: posted vector 0x%02x%s", a->vcpu->index, vector,
	      level ? " (level)" : "");
	return true;
}

void lapic_post_local(struct lapic *a, enum lapic_lvt entry)
{
	uint32_t lvt = atomic_load(&a->lvt[entry]);

	if (lvt & LVT_MASKED)
		return;
	/* The timer and error entries have no delivery mode: those bits read 0, which is fixed. */
	switch (lvt >> 8 & 7) {
	case APIC_FIXED:
		lapic_post(a, (uint8_t)lvt, false);
		break;
	case APIC_NMI:
		vcpu_send_nmi(a->vcpu);
		break;
	case APIC_INIT:
		vcpu_send_init(a->vcpu);
		break;
	default: /* ExtINT is a level, seen by takes_extint() */
		break;
	}
}

void lapic_error(struct lapic *a, uint32_t bits)
{
	atomic_fetch_or(&a->esr_pending, bits);
	if ((atomic_load(&a->lvt[LVT_ERROR]) & 0xff) >=
	    16) /* else the error interrupt is itself one */
		lapic_post_local(a, LVT_ERROR);
}

/* ---- the PIC behind LINT0 ---- */

/* Does this CPU take the PIC's interrupts? Yes if its APIC is off and it is the BSP, or LINT0 says so. */
static bool takes_extint(const struct lapic *a)
{
	uint32_t lint0 = atomic_load_explicit(&a->lvt[LVT_LINT0], memory_order_relaxed);

	if (!lapic_enabled(a))
		return a->vcpu->index == 0;
	return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT;
}

static bool extint_pending(const struct lapic *a)
{
	return atomic_load_explicit(&a->extint_message, memory_order_relaxed) ||
	       (atomic_load(&a->bus->extint) && takes_extint(a));
}

static void set_extint(void *opaque, unsigned n, bool level)
{
	struct apic_bus *bus = opaque;

	(void)n;
	atomic_store(&bus->extint, level);
	if (!level)
		return;
	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic *a = &bus->lapics[i];

		if (takes_extint(a))
			vcpu_interrupt(a->vcpu);
		else if (lapic_enabled(a))
			lapic_post_local(a, LVT_LINT0); /* an edge, if LINT0 is fixed or NMI */
	}
}

struct irq_line apic_bus_extint_line(struct apic_bus *bus)
{
	return (struct irq_line){ .handler = set_extint, .opaque = bus };
}

void apic_bus_connect_pic(struct apic_bus *bus, int (*acknowledge)(void *opaque), void *opaque)
{
	bus->pic = opaque;
	bus->pic_acknowledge = acknowledge;
}

void apic_bus_nmi(struct apic_bus *bus)
{
	for (unsigned i = 0; i < bus->count; i++)
		if (bus->vm->engine_apic)
			vcpu_send_nmi(bus->lapics[i].vcpu);
		else if (lapic_enabled(&bus->lapics[i]))
			lapic_post_local(&bus->lapics[i], LVT_LINT1);
}

void apic_bus_add_eoi_listener(struct apic_bus *bus, void (*function)(void *opaque, uint8_t vector),
			       void *opaque)
{
	if (bus->listener_count == EOI_LISTENER_MAX)
		return;
	bus->listeners[bus->listener_count].function = function;
	bus->listeners[bus->listener_count++].opaque = opaque;
}

/* ---- priorities, acknowledge, EOI: own thread ---- */

uint32_t lapic_ppr(const struct lapic *a)
{
	uint32_t tpr = atomic_load_explicit(&a->tpr, memory_order_relaxed);
	uint32_t isr = a->isr_top < 0 ? 0 : (uint32_t)a->isr_top & 0xf0;

	return (tpr & 0xf0) >= isr ? tpr : isr;
}

/* The fixed interrupt that may be delivered now, or -1. */
static int deliverable(const struct lapic *a)
{
	int vector;

	if (!lapic_enabled(a) || !lapic_software_enabled(a))
		return -1;
	vector = highest_irr(a);
	return vector >= 0 && ((uint32_t)vector & 0xf0) > (lapic_ppr(a) & 0xf0) ? vector : -1;
}

void lapic_update(struct lapic *a)
{
	bool wanted;

	if (atomic_load_explicit(&a->vcpu->irq_pending, memory_order_relaxed))
		atomic_exchange(&a->vcpu->irq_pending, 0);
	else
		atomic_thread_fence(memory_order_seq_cst);
	wanted = extint_pending(a) || (a->pv_eoi_armed ? highest_irr(a) >= 0 : deliverable(a) >= 0);
	if (wanted)
		vcpu_interrupt(a->vcpu);
}

static void broadcast_eoi(void *opaque, uint8_t vector)
{
	struct apic_bus *bus = opaque;

	for (unsigned i = 0; i < bus->listener_count; i++)
		bus->listeners[i].function(bus->listeners[i].opaque, vector);
}

static void end_top(struct lapic *a)
{
	int vector = a->isr_top;
	uint32_t bit;

	if (vector < 0)
		return;
	bit = BIT((unsigned)vector & 31);
	a->isr[vector >> 5] &= ~bit;
	a->isr_top = highest_isr(a);
	if (atomic_load_explicit(&a->tmr[vector >> 5], memory_order_relaxed) & bit)
		broadcast_eoi(a->bus, (uint8_t)vector);
	trace(TRACE_IRQ, "cpu %u: end of vector 0x%02x", a->vcpu->index, vector);
}

/* Take the flag back from the guest; if the guest had cleared it, the interrupt has ended. */
void lapic_sync_pv_eoi(struct lapic *a)
{
	if (likely(!a->pv_eoi_armed))
		return;
	a->pv_eoi_armed = false;
	if (!(__atomic_fetch_and(a->pv_eoi_flag, (uint8_t)~1u, __ATOMIC_SEQ_CST) & 1))
		end_top(a);
}

/* The interrupt just taken may be ended without telling us, if nothing else waits for that end. */
static void arm_pv_eoi(struct lapic *a, int vector)
{
	if (!a->pv_eoi_flag || highest_irr(a) >= 0 ||
	    (atomic_load_explicit(&a->tmr[vector >> 5], memory_order_relaxed) &
	     BIT((unsigned)vector & 31)))
		return;
	__atomic_fetch_or(a->pv_eoi_flag, 1, __ATOMIC_SEQ_CST);
	a->pv_eoi_armed = true;
}

void lapic_end_of_interrupt(struct lapic *a)
{
	lapic_sync_pv_eoi(a);
	end_top(a);
	lapic_update(a);
}

static int op_pending_vector(void *apic)
{
	struct lapic *a = apic;

	if (a->pv_eoi_armed && vcpu_current() == a->vcpu)
		lapic_sync_pv_eoi(a);
	if (extint_pending(a))
		return 0; /* the vector is known only after the INTA cycle */
	return deliverable(a);
}

static int op_acknowledge(void *apic)
{
	struct lapic *a = apic;
	int vector = -1;

	lapic_sync_pv_eoi(a);
	if (extint_pending(a)) {
		atomic_store(&a->extint_message, false);
		if (a->bus->pic_acknowledge)
			vector = a->bus->pic_acknowledge(a->bus->pic);
	}
	if (vector < 0) {
		vector = deliverable(a);
		if (vector >= 0) {
			atomic_fetch_and(&a->irr[vector >> 5], ~BIT((unsigned)vector & 31));
			a->isr[vector >> 5] |= BIT((unsigned)vector & 31);
			a->isr_top = vector;
			arm_pv_eoi(a, vector);
		}
	}
	lapic_update(a);
	return vector;
}

static uint64_t op_read_tpr(void *apic)
{
	struct lapic *a = apic;

	return atomic_load_explicit(&a->tpr, memory_order_relaxed) >> 4;
}

static void op_write_tpr(void *apic, uint64_t cr8)
{
	struct lapic *a = apic;

	atomic_store_explicit(&a->tpr, (uint32_t)(cr8 & 15) << 4, memory_order_relaxed);
	lapic_sync_pv_eoi(a);
	lapic_update(a);
}

static void op_init(void *apic, bool reset)
{
	struct lapic *a = apic;

	if (reset)
		atomic_store(&a->base, LAPIC_DEFAULT_BASE | BASE_ENABLE |
					       (a->vcpu->index == 0 ? BASE_BSP : 0));
	lapic_reset_registers(a);
	lapic_update(a);
}

static void op_eoi(void *apic)
{
	lapic_end_of_interrupt(apic);
}

static const struct vcpu_apic_ops lapic_ops = {
	.pending_vector = op_pending_vector,
	.acknowledge = op_acknowledge,
	.read_tpr = op_read_tpr,
	.write_tpr = op_write_tpr,
	.read_msr = lapic_read_msr,
	.write_msr = lapic_write_msr,
	.init = op_init,
	.eoi = op_eoi,
};

void lapic_eoi(struct vcpu *vcpu)
{
	lapic_end_of_interrupt(vcpu->apic);
}

uint64_t lapic_base_msr(struct vcpu *vcpu)
{
	return atomic_load(&((struct lapic *)vcpu->apic)->base);
}

int lapic_pv_eoi_write_msr(struct vcpu *vcpu, uint64_t value)
{
	struct lapic *a = vcpu->apic;
	uint64_t gpa = value & ~3ull;

	if (value & 2)
		return -1;
	lapic_sync_pv_eoi(a);
	a->pv_eoi_flag = NULL;
	if (value & 1) {
		uint8_t *flag = guest_memory_host(&vcpu->vm->memory, gpa, 4, true);

		if (!flag)
			return -1;
		a->pv_eoi_flag = flag;
	}
	a->pv_eoi_msr = value;
	lapic_update(a);
	return 0;
}

uint64_t lapic_pv_eoi_read_msr(struct vcpu *vcpu)
{
	return ((struct lapic *)vcpu->apic)->pv_eoi_msr;
}

/* ---- saved state ---- */

#define LAPIC(member) STATE_FIELD(struct lapic, member)
#define LAPIC_ARRAY(member) STATE_ARRAY(struct lapic, member)
static const struct state_field lapic_fields[] = {
	LAPIC_ARRAY(irr),
	LAPIC_ARRAY(tmr),
	LAPIC_ARRAY(isr),
	LAPIC(extint_message),
	LAPIC(esr_pending),
	LAPIC(esr),
	LAPIC(base),
	LAPIC(ldr),
	LAPIC(dfr),
	LAPIC(svr),
	LAPIC_ARRAY(lvt),
	LAPIC(tpr),
	LAPIC(icr),
	STATE_TIMER_FIELD(struct lapic, timer),
	LAPIC(timer_initial),
	LAPIC(timer_divide),
	LAPIC(timer_start),
	LAPIC(timer_period),
	LAPIC(tsc_deadline),
	LAPIC(pv_eoi_msr),
	STATE_END,
};

static void before_save(void *object)
{
	lapic_take(object);
	lapic_sync_pv_eoi(object);
}

static int after_load(void *object, struct error *err)
{
	struct lapic *a = object;
	uint64_t base = a->base, pv_eoi = a->pv_eoi_msr;

	if ((base & (BASE_ENABLE | BASE_X2APIC)) == BASE_X2APIC)
		return error_set(err, EINVAL, "APIC of CPU %u: impossible base 0x%llx",
				 a->vcpu->index, (unsigned long long)base);
	lapic_give(a);
	a->isr_top = highest_isr(a);
	a->pv_eoi_armed = false;
	if (lapic_pv_eoi_write_msr(a->vcpu, pv_eoi))
		return error_set(err, EINVAL, "APIC of CPU %u: impossible PV EOI area",
				 a->vcpu->index);
	return 0;
}

static const struct state_table lapic_table = {
	.name = "lapic",
	.version = 1,
	.fields = lapic_fields,
	.before_save = before_save,
	.after_load = after_load,
};

static const struct state_field bus_fields[] = { STATE_FIELD(struct apic_bus, extint), STATE_END };
static const struct state_table bus_table = { .name = "apic-bus",
					      .version = 1,
					      .fields = bus_fields };

/* ---- life ---- */

static void bus_reset(void *opaque)
{
	struct apic_bus *bus = opaque;

	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic *a = &bus->lapics[i];
		uint64_t page = atomic_load(&a->base) & ~0xfffull;

		if (page != LAPIC_DEFAULT_BASE)
			bus_remove(&bus->vm->mmio, page, a);
		op_init(a, true);
		lapic_give(a);
	}
}

static void bus_destroy(void *opaque)
{
	struct apic_bus *bus = opaque;

	for (unsigned i = 0; i < bus->count; i++) {
		vm_timer_cancel(&bus->lapics[i].timer);
		pthread_mutex_destroy(&bus->lapics[i].timer_lock);
		bus->lapics[i].vcpu->apic = NULL;
	}
	bus->vm->msi_handler = NULL;
	free(bus->lapics);
	free(bus);
}

int apic_bus_create(struct vm *vm, struct apic_bus **out, struct error *err)
{
	struct apic_bus *bus = calloc(1, sizeof(*bus));

	if (bus)
		bus->lapics = calloc(vm->vcpu_count, sizeof(*bus->lapics));
	if (!bus || !bus->lapics) {
		free(bus);
		return error_set(err, ENOMEM, "out of memory for the local APICs");
	}
	bus->vm = vm;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct lapic *a = &bus->lapics[i];

		a->bus = bus;
		a->vcpu = vm->vcpus[i];
		a->vcpu->apic = a;
		a->vcpu->apic_ops = &lapic_ops;
		lapic_timer_init(a);
		vm_state_register(vm, &lapic_table, i, a);
		op_init(a, true);
		bus->count++;
	}
	vm_state_register(vm, &bus_table, 0, bus);
	vm_add_reset(vm, bus_reset, bus);
	vm_add_cleanup(vm, bus_destroy, bus);
	apic_bus_accept_msis(bus);
	vm->eoi_handler = broadcast_eoi;
	vm->eoi_opaque = bus;
	if (bus_add(&vm->mmio,
		    &(struct io_region){ "lapic", LAPIC_DEFAULT_BASE, 0x1000, &lapic_mmio_ops,
					 bus },
		    err))
		return -1;
	*out = bus;
	return 0;
}
