/* SPDX-License-Identifier: MIT */
/* QEMU's pci-testdev (1b36:0005): counts accesses to memory and I/O BARs for bare-metal test
 * kernels. */
#ifndef LODGE_DEVICE_PCI_TESTDEV_H
#define LODGE_DEVICE_PCI_TESTDEV_H

#include "base/error.h"

struct pci_bus;
struct pci_device;

/* Put one on the bus in a slot (< 0: any). NULL on failure. */
struct pci_device *pci_testdev_create(struct pci_bus *bus, int slot, struct error *err);

#endif
