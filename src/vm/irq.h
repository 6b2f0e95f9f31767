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
struct vcpu;

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

/* The local APICs of an engine that has its own (a hypervisor in the kernel): vm->engine_apic, set in engine->vm_create. The board's
 * device models then only pass on. */
struct vm_apic_state {
	uint64_t base;         /* IA32_APIC_BASE */
	uint64_t tsc_deadline; /* 0: not armed */
	uint8_t page[1024];    /* registers at their xAPIC offsets */
};

struct vm_apic_ops {
	/* Deliver a message in MSI form; false if no CPU took it. Any thread. */
	bool (*deliver)(struct vm *vm, uint64_t address, uint32_t data);
	/* The I/O APIC's pin now sends this message; address 0: none. */
	void (*route)(struct vm *vm, unsigned pin, uint64_t address, uint32_t data);
	/* Only while the vCPU is not running. */
	void (*get)(struct vcpu *vcpu, struct vm_apic_state *state);
	void (*set)(struct vcpu *vcpu, const struct vm_apic_state *state);
};

/* Send a message-signalled interrupt (SDM vol. 3, 11.11): address 0xfeexxxxx, 32-bit data. Any thread. */
void msi_send(struct vm *vm, uint64_t address, uint32_t data);

#endif
