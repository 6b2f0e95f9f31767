/* SPDX-License-Identifier: MIT */
/* I/O APIC with 24 inputs, version 0x20 (82093AA with the EOI register). See ioapic.c. */
#ifndef LODGE_DEVICE_IOAPIC_H
#define LODGE_DEVICE_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "device/lapic.h"
#include "vm/irq.h"
#include "vm/vm.h"

#define IOAPIC_PINS 24
#define IOAPIC_DEFAULT_BASE 0xfec00000u

struct ioapic;

/* Create at base with the given APIC id; registers itself with the bus for EOI broadcasts. Freed by the VM's clean-up. */
int ioapic_create(struct vm *vm, struct apic_bus *bus, uint64_t base, uint8_t id,
		  struct ioapic **out, struct error *err);

/* Inputs 0..23. ioapic_set_irq is the irq_handler. Any thread. */
struct irq_line ioapic_input(struct ioapic *ioapic, unsigned n);
void ioapic_set_irq(void *ioapic, unsigned n, bool level);

#endif
