/* SPDX-License-Identifier: MIT */
/*
 * The APIC bus: which local APICs an interrupt message addresses, and its delivery (SDM vol. 3, 11.6, 11.12).
 *
 * Sources are the ICR, message-signalled interrupts, I/O APICs and KVM's PV IPI hypercall. No locks: routing reads
 * the registers of the target APICs, posting is atomic.
 */
#include "base/log.h"
#include "base/util.h"
#include "device/lapic_regs.h"

#define BROADCAST_8 0xffu
#define BROADCAST_32 0xffffffffu

/* KVM error numbers of hypercalls (linux/kvm_para.h). */
#define KVM_EINVAL 22

static uint32_t apic_id(const struct lapic *a)
{
	return a->vcpu->apic_id;
}

static bool is_broadcast(const struct apic_message *m)
{
	return m->destination == (m->x2apic ? BROADCAST_32 : BROADCAST_8);
}

static bool matches_logical(const struct lapic *a, uint32_t destination)
{
	uint32_t ldr = atomic_load_explicit(&a->ldr, memory_order_relaxed);

	if (lapic_x2apic(a))
		return ldr >> 16 == destination >> 16 && (ldr & destination & 0xffff);
	ldr >>= 24;
	if (destination > 0xff)
		return false;
	if (atomic_load_explicit(&a->dfr, memory_order_relaxed) >> 28 == 0xf) /* flat model */
		return ldr & destination;
	return ((destination >> 4) == 0xf || ldr >> 4 == destination >> 4) &&
	       (ldr & destination & 0xf); /* clusters */
}

static bool matches(const struct lapic *a, const struct apic_message *m)
{
	if (!lapic_enabled(a))
		return false;
	if (is_broadcast(m))
		return true;
	if (m->logical)
		return matches_logical(a, m->destination);
	return apic_id(a) == m->destination;
}

/* Deliver to one APIC. */
static bool accept(struct lapic *a, const struct apic_message *m)
{
	switch (m->delivery) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return lapic_post(a, m->vector, m->level);
	case APIC_NMI:
		vcpu_send_nmi(a->vcpu);
		return true;
	case APIC_INIT:
		if (m->level && !m->assert_level)
			return true; /* INIT level de-assert: synchronises arbitration ids, which we lack */
		vcpu_send_init(a->vcpu);
		return true;
	case APIC_STARTUP:
		vcpu_send_sipi(a->vcpu, m->vector);
		return true;
	case APIC_EXTINT:
		atomic_store(&a->extint_message, true);
		vcpu_interrupt(a->vcpu);
		return true;
	default: /* SMI: there is no system management mode */
		return false;
	}
}

/* The APIC of mask with the lowest processor priority; ties go round. */
static struct lapic *lowest_priority(struct apic_bus *bus, uint64_t mask)
{
	struct lapic *best = NULL;
	uint32_t best_priority = UINT32_MAX, turn = atomic_fetch_add(&bus->lowest_turn, 1);

	for (unsigned i = 0; i < bus->count; i++) {
		unsigned n = (turn + i) % bus->count;
		struct lapic *a = &bus->lapics[n];
		uint32_t priority = atomic_load_explicit(&a->tpr, memory_order_relaxed) >> 4;

		if ((mask & BIT64(n)) && lapic_software_enabled(a) && priority < best_priority) {
			best = a;
			best_priority = priority;
		}
	}
	return best;
}

static unsigned deliver_to(struct apic_bus *bus, const struct apic_message *m, uint64_t mask)
{
	unsigned accepted = 0;

	if (m->delivery == APIC_LOWEST) {
		struct lapic *a = lowest_priority(bus, mask);

		return a && accept(a, m) ? 1 : 0;
	}
	while (mask) {
		unsigned n = (unsigned)__builtin_ctzll(mask);

		mask &= mask - 1;
		accepted += accept(&bus->lapics[n], m);
	}
	return accepted;
}

/* A message as an MSI (SDM vol. 3, 11.11), for APICs that are the engine's. Destinations are 8 bits:
 * nothing that sends longer ones is ours then. */
static uint64_t msi_address(const struct apic_message *m)
{
	return LAPIC_DEFAULT_BASE | (uint64_t)(m->destination & 0xff) << 12 |
	       (m->delivery == APIC_LOWEST ? 8u : 0) | (m->logical ? 4u : 0);
}

static uint32_t msi_data(const struct apic_message *m)
{
	return m->vector | (uint32_t)m->delivery << 8 | (m->assert_level ? 0x4000u : 0) |
	       (m->level ? 0x8000u : 0);
}

void apic_bus_route(struct apic_bus *bus, unsigned pin, const struct apic_message *m)
{
	const struct vm_apic_ops *ops = bus->vm->engine_apic;

	if (ops && m)
		ops->route(bus->vm, pin, msi_address(m), msi_data(m));
	else if (ops)
		ops->route(bus->vm, pin, 0, 0);
}

unsigned apic_bus_deliver(struct apic_bus *bus, const struct apic_message *m)
{
	uint64_t mask = 0;

	if (bus->vm->engine_apic && m->delivery != APIC_EXTINT)
		return bus->vm->engine_apic->deliver(bus->vm, msi_address(m), msi_data(m));
	/* The common case: one CPU by its id, which is its index. */
	if (!m->logical && m->destination < bus->count &&
	    apic_id(&bus->lapics[m->destination]) == m->destination) {
		if (matches(&bus->lapics[m->destination], m))
			return deliver_to(bus, m, BIT64(m->destination));
		return 0;
	}
	for (unsigned i = 0; i < bus->count; i++)
		if (matches(&bus->lapics[i], m))
			mask |= BIT64(i);
	return deliver_to(bus, m, mask);
}

bool lapic_send_icr(struct lapic *a, uint64_t icr)
{
	struct apic_bus *bus = a->bus;
	uint64_t all = bus->count == 64 ? UINT64_MAX : BIT64(bus->count) - 1,
		 self = BIT64(a->vcpu->index);
	struct apic_message m = {
		.x2apic = lapic_x2apic(a),
		.logical = icr & 0x800,
		.assert_level = icr & 0x4000,
		.level = icr & 0x8000,
		.delivery = icr >> 8 & 7,
		.vector = (uint8_t)icr,
	};

	m.destination = m.x2apic ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56);
	trace(TRACE_IRQ, "cpu %u: IPI %s=0x%x shorthand=%u mode=%u vector=0x%02x", a->vcpu->index,
	      m.logical ? "logical" : "physical", m.destination, (unsigned)(icr >> 18 & 3),
	      m.delivery, m.vector);
	if (m.delivery == APIC_RESERVED || m.delivery == APIC_EXTINT)
		return false;
	if ((m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST) && m.vector < 16)
		return false;
	/* Trigger mode and level matter only for INIT: every other IPI is an edge. */
	if (m.delivery != APIC_INIT)
		m.level = false;
	switch (icr >> 18 & 3) {
	case 0:
		apic_bus_deliver(bus, &m);
		break;
	case 1:
		if (m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST)
			accept(a, &m);
		break;
	case 2:
		deliver_to(bus, &m, all);
		break;
	case 3:
		deliver_to(bus, &m, all & ~self);
		break;
	}
	return true;
}

/* An MSI (SDM vol. 3, 11.11): address bits 19-12 destination, 3 redirection hint, 2 logical. */
static void msi(void *opaque, uint64_t address, uint32_t data)
{
	struct apic_message m = {
		.destination = (uint32_t)(address >> 12 & 0xff),
		.logical = address & 4,
		.level = data & 0x8000,
		.assert_level = data & 0x4000,
		.delivery = data >> 8 & 7,
		.vector = (uint8_t)data,
	};

	if ((address & 0xfff00000) != 0xfee00000 || address >> 32)
		return;
	apic_bus_deliver(opaque, &m);
}

void apic_bus_accept_msis(struct apic_bus *bus)
{
	bus->vm->msi_opaque = bus;
	bus->vm->msi_handler = msi;
}

long lapic_pv_send_ipi(struct vm *vm, uint64_t ipi_bitmap_low, uint64_t ipi_bitmap_high,
		       uint32_t min, uint64_t icr)
{
	struct lapic *self = vm->vcpus[0]->apic;
	struct apic_bus *bus = self->bus;
	struct apic_message m = { .x2apic = true,
				  .assert_level = true,
				  .delivery = icr >> 8 & 7,
				  .vector = (uint8_t)icr };
	const uint64_t words[2] = { ipi_bitmap_low, ipi_bitmap_high };
	long reached = 0;

	if (m.delivery != APIC_FIXED && m.delivery != APIC_NMI)
		return -KVM_EINVAL;
	for (unsigned w = 0; w < 2; w++) {
		for (uint64_t bits = words[w]; bits; bits &= bits - 1) {
			uint64_t id = (uint64_t)min + w * 64 + (unsigned)__builtin_ctzll(bits);

			if (id < bus->count && lapic_enabled(&bus->lapics[id]))
				reached += accept(&bus->lapics[id], &m);
		}
	}
	return reached;
}
