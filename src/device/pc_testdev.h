/* SPDX-License-Identifier: MIT */
/* QEMU's pc-testdev, used by bare-metal test kernels. See pc_testdev.c. */
#ifndef LODGE_DEVICE_PC_TESTDEV_H
#define LODGE_DEVICE_PC_TESTDEV_H

#include "vm/irq.h"
#include "vm/vm.h"

#define PC_TESTDEV_LINES 24

/* lines: the machine's 24 global system interrupts (copied). Freed by the VM's clean-up. */
int pc_testdev_create(struct vm *vm, const struct irq_line lines[PC_TESTDEV_LINES],
		      struct error *err);

#endif
