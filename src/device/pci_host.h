/* SPDX-License-Identifier: MIT */
/*
 * The host bridge: device 00:00.0 and the two ways to reach configuration space, for pci.c.
 * Boards use pci_bus_create() and pci_bus_add_ecam() of pci.h.
 */
#ifndef LODGE_DEVICE_PCI_HOST_H
#define LODGE_DEVICE_PCI_HOST_H

#include <stdint.h>

#include "base/error.h"

struct pci_bus;
struct pci_host;

/* Create the bridge, put it on the bus as 00:00.0 and claim ports 0xcf8..0xcff. Returns 0 or -1. */
int pci_host_create(struct pci_bus *bus, struct error *err);
int pci_host_add_ecam(struct pci_host *host, uint64_t base, uint64_t size, struct error *err);

#endif
