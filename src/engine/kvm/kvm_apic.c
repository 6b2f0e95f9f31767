/* SPDX-License-Identifier: MIT */
/*
 * The kernel's local APICs ("split irqchip": api.rst, KVM_CAP_SPLIT_IRQCHIP, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING,
 * KVM_EXIT_IOAPIC_EOI, KVM_GET_LAPIC). PIC, PIT and I/O APIC stay ours. The routing table is used for one thing only: it tells the
 * kernel which vectors are level triggered, so that it reports their end.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "engine/kvm/kvm.h"

static bool deliver(struct vm *vm, uint64_t address, uint32_t data)
{
	const struct kvm_vm *kvm = vm->engine_data;
	struct kvm_msi msi = { .address_lo = (uint32_t)address, .data = data };

	/* 0: blocked by the guest; negative: nobody is addressed. */
	return ioctl(kvm->fd, KVM_SIGNAL_MSI, &msi) > 0;
}

static void route(struct vm *vm, unsigned pin, uint64_t address, uint32_t data)
{
	struct kvm_vm *kvm = vm->engine_data;
	struct {
		struct kvm_irq_routing header;
		struct kvm_irq_routing_entry entries[KVM_IOAPIC_PINS];
	} table = { 0 };

	if (pin >= KVM_IOAPIC_PINS)
		return;
	pthread_mutex_lock(&kvm->route_lock);
	kvm->routes[pin].address = (uint32_t)address;
	kvm->routes[pin].data = data;
	for (unsigned n = 0; n < KVM_IOAPIC_PINS; n++) {
		struct kvm_irq_routing_entry *entry = &table.entries[table.header.nr];

		if (!kvm->routes[n].address)
			continue;
		*entry = (struct kvm_irq_routing_entry){ .gsi = n, .type = KVM_IRQ_ROUTING_MSI };
		entry->u.msi.address_lo = kvm->routes[n].address;
		entry->u.msi.data = kvm->routes[n].data;
		table.header.nr++;
	}
	if (ioctl(kvm->fd, KVM_SET_GSI_ROUTING, &table))
		log_warn("kvm: the I/O APIC's routes are refused: %s", strerror(errno));
	pthread_mutex_unlock(&kvm->route_lock);
}

static void get(struct vcpu *vcpu, struct vm_apic_state *state)
{
	struct kvm_vcpu *k = vcpu->engine_data;
	struct kvm_sregs sregs;
	struct kvm_lapic_state page;

	_Static_assert(sizeof(page.regs) == sizeof(state->page), "APIC page");
	if (ioctl(k->fd, KVM_GET_SREGS, &sregs) || ioctl(k->fd, KVM_GET_LAPIC, &page))
		return;
	state->base = sregs.apic_base;
	memcpy(state->page, page.regs, sizeof(state->page));
	kvm_get_one_msr(k, X86_MSR_TSC_DEADLINE, &state->tsc_deadline);
}

static void set(struct vcpu *vcpu, const struct vm_apic_state *state)
{
	struct kvm_vcpu *k = vcpu->engine_data;
	struct kvm_sregs sregs;
	struct kvm_lapic_state page;

	memcpy(page.regs, state->page, sizeof(page.regs));
	if (ioctl(k->fd, KVM_GET_SREGS, &sregs))
		return;
	sregs.apic_base = state->base;
	if (ioctl(k->fd, KVM_SET_SREGS, &sregs) || ioctl(k->fd, KVM_SET_LAPIC, &page))
		log_warn("kvm: the local APIC of CPU %u is refused: %s", vcpu->index,
			 strerror(errno));
	if (state->tsc_deadline)
		kvm_set_one_msr(k, X86_MSR_TSC_DEADLINE, state->tsc_deadline);
}

static const struct vm_apic_ops ops = { .deliver = deliver, .route = route, .get = get, .set = set };

bool kvm_take_apics(struct kvm_vm *kvm, struct vm *vm)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = KVM_IOAPIC_PINS };

	if (!kvm_findings()->kernel_apic || ioctl(kvm->fd, KVM_ENABLE_CAP, &split))
		return false;
	kvm->kernel_apic = true;
	vm->engine_apic = &ops;
	return true;
}

/* ---- run states (api.rst, KVM_GET_MP_STATE) ---- */

uint8_t kvm_get_mp_state(struct kvm_vcpu *k)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	ioctl(k->fd, KVM_GET_MP_STATE, &mp);
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		return X86_MP_WAIT_FOR_SIPI;
	case KVM_MP_STATE_HALTED:
		return X86_MP_HALTED;
	default:
		return X86_MP_RUNNABLE;
	}
}

void kvm_set_mp_state(struct kvm_vcpu *k, uint8_t state)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (state == X86_MP_WAIT_FOR_SIPI)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	else if (state == X86_MP_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	if (ioctl(k->fd, KVM_SET_MP_STATE, &mp))
		log_warn("kvm: CPU %u's run state is refused: %s", k->vcpu->index, strerror(errno));
}
