/* SPDX-License-Identifier: MIT */
/* The PC's two cascaded 8259A interrupt controllers (ports 0x20, 0xa0) and their ELCR (0x4d0). See i8259.c. */
#ifndef LODGE_DEVICE_I8259_H
#define LODGE_DEVICE_I8259_H

#include <stdbool.h>

#include "vm/irq.h"
#include "vm/vm.h"

struct i8259;

/* Create the pair and add its ports. Freed by the VM's clean-up. */
int i8259_create(struct vm *vm, struct i8259 **out, struct error *err);

/* Inputs 0..15 (2 is the cascade and not connected). Also usable as an irq_handler: i8259_set_irq(pic, n, level). Any thread. */
struct irq_line i8259_input(struct i8259 *pic, unsigned n);
void i8259_set_irq(void *pic, unsigned n, bool level);

/* Connect INTR, normally to the APIC bus: i8259_connect_output(pic, apic_bus_extint_line(bus)). Before vm_start. */
void i8259_connect_output(struct i8259 *pic, struct irq_line line);

/* The INTA cycle: returns the vector (the spurious one if nothing is pending any more). Any thread. */
int i8259_acknowledge(void *pic);
/* Is INTR asserted? */
bool i8259_output(struct i8259 *pic);

#endif
