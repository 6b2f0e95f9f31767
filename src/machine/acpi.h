/* SPDX-License-Identifier: MIT */
/* ACPI tables (and the older Intel MP table) of a board, written to guest memory. */
#ifndef LODGE_MACHINE_ACPI_H
#define LODGE_MACHINE_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* What the tables describe. Addresses are guest-physical. */
struct acpi_config {
	unsigned cpus; /* APIC ids are 0 .. cpus - 1 */
	uint32_t lapic_base, ioapic_base;
	uint8_t ioapic_id;
	uint8_t sci_irq;
	uint16_t pm_base;
	uint64_t ecam_base;
	uint8_t ecam_last_bus;
	const uint8_t *dsdt; /* compiled by iasl */
	size_t dsdt_size;
	/* MP table only: PCI pin p (0: INTA) of slot s is at I/O APIC input pci_gsi[(s + p) % 4].
	 * */
	uint8_t pci_gsi[4];
	uint32_t pci_slots; /* bit s: there is a device */
};

/*
 * Write the tables to host[0 .. size), which is guest memory at `base` (16-byte aligned; below 1
 * MiB, where kernels search: 0xe0000-0xfffff). The RSDP goes first; *rsdp is its address. -1 if
 * they do not fit.
 */
int acpi_build(const struct acpi_config *config, uint8_t *host, uint64_t base, size_t size,
	       uint64_t *rsdp, size_t *used, struct error *err);

/* The same for the MP floating pointer and configuration table (Intel MultiProcessor
 * Specification 1.4). */
int mptable_build(const struct acpi_config *config, uint8_t *host, uint64_t base, size_t size,
		  size_t *used, struct error *err);

#endif
