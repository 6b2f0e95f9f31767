/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines and messages.
 *
 * A device holds an irq_line and sets its level; the board wires the line to whatever takes it
 * (PIC and IOAPIC inputs). Message-signalled interrupts go to the APIC bus. The chips behind are
 * device models; vm/ knows only these function pointers.
 */
#ifndef LODGE_VM_IRQ_H
#define LODGE_VM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

typedef void irq_handler(void *opaque, unsigned n, bool level);

struct irq_line {
	irq_handler *handler; /* NULL: not connected */
	void *opaque;
	unsigned n;
};

/* Set the level (edge-triggered users: irq_set(true) then irq_set(false), or irq_pulse). Any thread. */
static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->handler)
		line->handler(line->opaque, line->n, level);
}
static inline void irq_pulse(const struct irq_line *line)
{
	irq_set(line, true);
	irq_set(line, false);
}

/* Send a message-signalled interrupt (SDM vol. 3, 11.11): address 0xfeexxxxx, 32-bit data. Any thread. */
void msi_send(struct vm *vm, uint64_t address, uint32_t data);

#endif
