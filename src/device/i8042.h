/* SPDX-License-Identifier: MIT */
/* 8042 keyboard controller with nothing plugged in (ports 0x60, 0x64), and fast A20/reset (0x92). See i8042.c. */
#ifndef LODGE_DEVICE_I8042_H
#define LODGE_DEVICE_I8042_H

#include "vm/irq.h"
#include "vm/vm.h"

struct i8042;

/* irq1: the keyboard interrupt. Resets go to vm_reset(). Freed by the VM's clean-up. */
int i8042_create(struct vm *vm, struct irq_line irq1, struct i8042 **out, struct error *err);

#endif
