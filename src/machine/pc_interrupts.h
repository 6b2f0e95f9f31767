/* SPDX-License-Identifier: MIT */
/*
 * How interrupt lines are wired on a PC: global system interrupts, ISA lines, PCI pins.
 */
#ifndef LODGE_MACHINE_PC_INTERRUPTS_H
#define LODGE_MACHINE_PC_INTERRUPTS_H

#include <pthread.h>
#include <stdint.h>

#include "vm/irq.h"
#include "vm/vm.h"

struct i8259;
struct ioapic;
struct apic_bus;

#define PC_PCI_LINES 4
#define PC_PCI_GSI 16 /* line n is I/O APIC input 16 + n */

struct pc_interrupts {
	struct i8259 *pic;
	struct ioapic *ioapic;
	struct apic_bus *apic;
	pthread_mutex_t lock; /* pci_levels, and the ISA lines that PCI lines share */
	uint8_t pci_levels;   /* bit n: PCI line n is asserted */
};

/* The ISA interrupt that PCI line n is also wired to, for systems that use the PIC. */
static inline unsigned pc_pci_isa_irq(unsigned n)
{
	return 10 + (n & 1);
}

/* Create PIC, local APICs and I/O APIC, and wire them together. pc must live as long as the VM. */
int pc_interrupts_create(struct pc_interrupts *pc, struct vm *vm, uint64_t ioapic_base,
			 uint8_t ioapic_id, struct error *err);

/* Global system interrupt n, 0..23. Below 16 it is the ISA line: PIC and I/O APIC; 0 is I/O APIC
 * input 2. */
struct irq_line pc_gsi(struct pc_interrupts *pc, unsigned n);
/* PCI interrupt line n, 0..3 (level, active high). */
struct irq_line pc_pci_line(struct pc_interrupts *pc, unsigned n);

#endif
