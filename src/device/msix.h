/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: a table of messages in a BAR, with masks and pending bits.
 *
 * Source: PCI Local Bus Specification 3.0, 6.8.2 (capability and table), 6.8.3.5 (masking).
 */
#ifndef LODGE_DEVICE_MSIX_H
#define LODGE_DEVICE_MSIX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct pci_device;

#define MSIX_VECTOR_MAX 32
#define MSIX_BAR_SIZE 4096

/* Give the device an MSI-X capability of count (1 .. MSIX_VECTOR_MAX) vectors, whose table and
 * pending bits fill BAR bar (which is added here: 4 KiB of memory). Before pci_device_add(). */
int msix_add(struct pci_device *dev, unsigned bar, unsigned count, struct error *err);

/* Free dev->msix (from the device's destroy). */
void msix_remove(struct pci_device *dev);

/* Has the guest switched MSI-X on? Any thread. */
bool msix_enabled(const struct pci_device *dev);

/* Send vector's message, or set its pending bit if it is masked. Out-of-range vectors are
 * ignored. Any thread. */
void msix_notify(struct pci_device *dev, unsigned vector);

/* ---- for pci.c ---- */
void msix_reset(struct pci_device *dev);
/* The capability's message control changed. */
void msix_control_written(struct pci_device *dev);
void msix_register_state(struct pci_device *dev);

#endif
