/* SPDX-License-Identifier: MIT */
/*
 * How interrupt lines are wired on a PC.
 *
 *     ISA line n  ----+---> PIC input n          (n = 2 is the cascade: not connected)
 *                     +---> I/O APIC input n     (the timer's line 0: input 2)
 *     PCI line n  ----+---> I/O APIC input 16 + n
 *                     +---> ISA line 10 or 11
 *     PIC output  --------> LINT0 of every local APIC (ExtINT)
 *
 * A system programs either the PIC or the I/O APIC and masks the other, so that each interrupt
 * arrives once. The ACPI tables describe the same (acpi.c, dsdt.asl), the timer's input by an
 * override.
 *
 * Source: Intel MultiProcessor Specification 1.4, 3.6 (interrupt modes).
 */
#include "base/util.h"
#include "device/i8259.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "machine/pc_interrupts.h"

#define ISA_LINES 16
#define PIC_CASCADE 2
#define TIMER_LINE 0
#define TIMER_INPUT 2

static void set_gsi(void *opaque, unsigned n, bool level)
{
	struct pc_interrupts *pc = opaque;

	if (n < ISA_LINES && n != PIC_CASCADE)
		i8259_set_irq(pc->pic, n, level);
	ioapic_set_irq(pc->ioapic, n == TIMER_LINE ? TIMER_INPUT : n, level);
}

static void set_pci_line(void *opaque, unsigned n, bool level)
{
	struct pc_interrupts *pc = opaque;
	unsigned irq = pc_pci_isa_irq(n);
	bool shared = false;

	pthread_mutex_lock(&pc->lock);
	if (level)
		pc->pci_levels |= BIT(n);
	else
		pc->pci_levels &= (uint8_t)~BIT(n);
	for (unsigned i = 0; i < PC_PCI_LINES; i++)
		if (pc_pci_isa_irq(i) == irq)
			shared |= pc->pci_levels >> i & 1;
	set_gsi(pc, irq, shared);
	pthread_mutex_unlock(&pc->lock);
	ioapic_set_irq(pc->ioapic, PC_PCI_GSI + n, level);
}

static const struct state_field fields[] = {
	STATE_FIELD(struct pc_interrupts, pci_levels),
	STATE_END,
};

static const struct state_table state = { .name = "pc-interrupts", .version = 1, .fields = fields };

static void reset(void *opaque)
{
	struct pc_interrupts *pc = opaque;

	pc->pci_levels = 0;
}

int pc_interrupts_create(struct pc_interrupts *pc, struct vm *vm, uint64_t ioapic_base,
			 uint8_t ioapic_id, struct error *err)
{
	pthread_mutex_init(&pc->lock, NULL);
	pc->pci_levels = 0;
	if (i8259_create(vm, &pc->pic, err) || apic_bus_create(vm, &pc->apic, err) ||
	    ioapic_create(vm, pc->apic, ioapic_base, ioapic_id, &pc->ioapic, err))
		return -1;
	i8259_connect_output(pc->pic, apic_bus_extint_line(pc->apic));
	apic_bus_connect_pic(pc->apic, i8259_acknowledge, pc->pic);
	vm_state_register(vm, &state, 0, pc);
	vm_add_reset(vm, reset, pc);
	return 0;
}

struct irq_line pc_gsi(struct pc_interrupts *pc, unsigned n)
{
	return (struct irq_line){ .handler = set_gsi, .opaque = pc, .n = n };
}

struct irq_line pc_pci_line(struct pc_interrupts *pc, unsigned n)
{
	return (struct irq_line){ .handler = set_pci_line, .opaque = pc, .n = n };
}
