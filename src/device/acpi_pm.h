/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware: PM1a event and control, PM timer, one GPE block; and the reset register 0xcf9. See acpi_pm.c. */
#ifndef LODGE_DEVICE_ACPI_PM_H
#define LODGE_DEVICE_ACPI_PM_H

#include <stdint.h>

#include "vm/irq.h"
#include "vm/vm.h"

/* Offsets from iobase, for the FADT. */
#define ACPI_PM_EVENT 0x00   /* PM1a_EVT_BLK, 4 bytes */
#define ACPI_PM_CONTROL 0x04 /* PM1a_CNT_BLK, 2 bytes */
#define ACPI_PM_TIMER 0x08   /* PM_TMR_BLK, 4 bytes, 32 bits wide (set TMR_VAL_EXT) */
#define ACPI_PM_GPE 0x20     /* GPE0_BLK, 4 bytes: 2 status, 2 enable */
#define ACPI_PM_SIZE 0x24
#define ACPI_PM_DEFAULT_BASE 0x600u
#define ACPI_PM_RESET_PORT 0xcf9u /* FADT RESET_REG; RESET_VALUE 0x06 (hard) */
#define ACPI_PM_SLP_TYP_S5 5      /* the DSDT's _S5 package: {5, 5, 0, 0} */
#define ACPI_PM_SMI_ENABLE 0      /* no SMI command port: ACPI mode is always on (SCI_EN reads 1) */

struct acpi_pm;

/* sci: level-triggered system control interrupt (active high at the irq_line). Freed by the VM's clean-up. */
int acpi_pm_create(struct vm *vm, uint16_t iobase, struct irq_line sci, struct acpi_pm **out,
		   struct error *err);

/* Press the power button. Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);
/* Raise general-purpose event n (0..15). Any thread. */
void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n);

#endif
