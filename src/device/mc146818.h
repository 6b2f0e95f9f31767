/* SPDX-License-Identifier: MIT */
/* MC146818 real-time clock and CMOS memory (ports 0x70, 0x71). See mc146818.c. */
#ifndef LODGE_DEVICE_MC146818_H
#define LODGE_DEVICE_MC146818_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/irq.h"
#include "vm/vm.h"

struct mc146818;

/* irq8: its interrupt. The clock shows the host's UTC; the CMOS memory-size fields describe vm->memory. Freed by the VM's clean-up. */
int mc146818_create(struct vm *vm, struct irq_line irq8, struct mc146818 **out, struct error *err);

/* Set a CMOS byte (0x0e..0x7f); survives reset. Before vm_start. */
void mc146818_set_cmos(struct mc146818 *rtc, uint8_t index, uint8_t value);
/* Bit 7 of port 0x70: are NMIs masked by the chip set? */
bool mc146818_nmi_masked(struct mc146818 *rtc);

#endif
