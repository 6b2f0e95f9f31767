/* SPDX-License-Identifier: MIT */
/*
 * The virtio devices a board can plug in. Each create function puts a device into a slot of the bus
 * (< 0: the first free one), owns its back end from then on (destroyed with the bus), and returns
 * NULL on failure, when the caller keeps the back end.
 */
#ifndef LODGE_DEVICE_VIRTIO_DEVICES_H
#define LODGE_DEVICE_VIRTIO_DEVICES_H

#include <stdint.h>

#include "base/error.h"

struct block_image;
struct char_backend;
struct net_backend;
struct pci_bus;
struct pci_device;

/* serial: up to 20 bytes, given to the guest by GET_ID; NULL: "lodge-diskN" by the slot. */
struct pci_device *virtio_blk_create(struct pci_bus *bus, int slot, struct block_image *image,
				     const char *serial, struct error *err);
struct pci_device *virtio_net_create(struct pci_bus *bus, int slot, struct net_backend *net,
				     const uint8_t mac[6], struct error *err);
struct pci_device *virtio_rng_create(struct pci_bus *bus, int slot, struct error *err);
/* chr is not owned: the caller destroys it after the bus. */
struct pci_device *virtio_console_create(struct pci_bus *bus, int slot, struct char_backend *chr,
					 struct error *err);

#endif
