/* SPDX-License-Identifier: MIT */
/* The 8254 programmable interval timer (ports 0x40-0x43) and system control port B (0x61). See i8254.c. */
#ifndef LODGE_DEVICE_I8254_H
#define LODGE_DEVICE_I8254_H

#include "vm/irq.h"
#include "vm/vm.h"

#define I8254_HZ 1193182u

struct i8254;

/* irq0: where the output of counter 0 goes (ISA IRQ 0, GSI 2). Freed by the VM's clean-up. */
int i8254_create(struct vm *vm, struct irq_line irq0, struct i8254 **out, struct error *err);

#endif
