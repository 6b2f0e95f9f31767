/* SPDX-License-Identifier: MIT */
/* 16550A serial port on port I/O, in front of a char_backend. See uart16550.c. */
#ifndef LODGE_DEVICE_UART16550_H
#define LODGE_DEVICE_UART16550_H

#include <stdint.h>

#include "char/char.h"
#include "vm/irq.h"
#include "vm/vm.h"

struct uart16550;

/* instance: 0.. (the name its state is saved under); iobase: 0x3f8 (IRQ 4), 0x2f8 (IRQ 3), ...; chr may be NULL.
 * The backend stays the caller's and must outlive the VM. Freed by the VM's clean-up. */
int uart16550_create(struct vm *vm, unsigned instance, uint16_t iobase, struct irq_line irq,
		     struct char_backend *chr, struct uart16550 **out, struct error *err);

#endif
