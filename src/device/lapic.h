/* SPDX-License-Identifier: MIT */
/*
 * Local APICs of all vCPUs (xAPIC and x2APIC) and the bus between them. See lapic.c.
 *
 * apic_bus_create() gives every vm->vcpus[] its APIC (vcpu->apic, vcpu->apic_ops), adds the MMIO page at
 * 0xfee00000 and becomes vm->msi_handler.
 */
#ifndef LODGE_DEVICE_LAPIC_H
#define LODGE_DEVICE_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/irq.h"
#include "vm/vm.h"

struct apic_bus;
struct lapic;

#define LAPIC_DEFAULT_BASE 0xfee00000u

/* Delivery modes of ICR, LVT, MSI and redirection entries (SDM vol. 3, 11.5.1). */
enum apic_delivery {
	APIC_FIXED,
	APIC_LOWEST,
	APIC_SMI,
	APIC_RESERVED,
	APIC_NMI,
	APIC_INIT,
	APIC_STARTUP,
	APIC_EXTINT,
};

/* An interrupt message. */
struct apic_message {
	uint32_t destination; /* 8-bit (0xff: all) or 32-bit x2APIC (0xffffffff: all) */
	bool logical;
	bool x2apic; /* destination is a 32-bit one */
	bool level;  /* level triggered: EOI is broadcast */
	bool assert_level;
	uint8_t delivery; /* enum apic_delivery */
	uint8_t vector;
};

/* Create the LAPICs of all vCPUs of the VM. Freed by the VM's clean-up. */
int apic_bus_create(struct vm *vm, struct apic_bus **out, struct error *err);

/* Deliver a message to all LAPICs it addresses; returns how many accepted it. Any thread, lock-free. */
unsigned apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message);

/* The I/O APIC's pin sends this message from now on; NULL: none, it is masked. For engines with
 * APICs of their own. */
void apic_bus_route(struct apic_bus *bus, unsigned pin, const struct apic_message *message);

/* The PIC's INTR output as an irq_line (goes to LINT0 of every LAPIC, and to the BSP directly while its APIC is disabled), and the
 * INTA cycle that answers it: i8259_acknowledge. Before vm_start. */
struct irq_line apic_bus_extint_line(struct apic_bus *bus);
void apic_bus_connect_pic(struct apic_bus *bus, int (*acknowledge)(void *opaque), void *opaque);
/* NMI button / system error line: LINT1 of every LAPIC. */
void apic_bus_nmi(struct apic_bus *bus);

/* Call function(opaque, vector) when a level-triggered interrupt ends (EOI broadcast). Before vm_start. */
void apic_bus_add_eoi_listener(struct apic_bus *bus, void (*function)(void *opaque, uint8_t vector),
			       void *opaque);

/* KVM PV interface (Linux Documentation/virt/kvm/x86/{hypercalls,msr}.rst). On the vCPU's own thread.
 * KVM_HC_SEND_IPI: fixed or NMI IPI `icr` (ICR low word) to the CPUs whose APIC id - min is set in the bitmap.
 * Returns the number of CPUs reached, or a negative KVM error number. */
long lapic_pv_send_ipi(struct vm *vm, uint64_t ipi_bitmap_low, uint64_t ipi_bitmap_high,
		       uint32_t min, uint64_t icr);
/* MSR_KVM_PV_EOI_EN (0x4b564d04): bit 0 enables, bits 63:2 the address of a 4-byte area. 0, or -1: #GP. */
int lapic_pv_eoi_write_msr(struct vcpu *vcpu, uint64_t value);
uint64_t lapic_pv_eoi_read_msr(struct vcpu *vcpu);
/* End of interrupt, as a write to the EOI register. On the vCPU's own thread. */
void lapic_eoi(struct vcpu *vcpu);

/* The IA32_APIC_BASE value (CPUID's APIC bit follows its enable bit 11). */
uint64_t lapic_base_msr(struct vcpu *vcpu);

#endif
