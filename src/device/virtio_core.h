/* SPDX-License-Identifier: MIT */
/* What the transport (virtio_pci.c) and the life of a device (virtio.c) need of each other.
 * vdev->lock is held unless said. */
#ifndef LODGE_DEVICE_VIRTIO_CORE_H
#define LODGE_DEVICE_VIRTIO_CORE_H

#include "device/virtio.h"

extern const struct pci_device_ops virtio_pci_ops;

/* BARs and capabilities, before the device goes on the bus. No lock. */
int virtio_pci_build(struct virtio_device *vdev, struct error *err);

/* The driver writes the status register. True: the device has just started, so kick all its
 * queues without the lock. */
bool virtio_write_status(struct virtio_device *vdev, uint8_t value);
void virtio_enable_queue(struct virtqueue *queue);
void virtio_reset_queue(struct virtqueue *queue);

/* Take the lock: */
void virtio_reset(struct virtio_device *vdev);
/* Need no lock: */
uint8_t virtio_read_isr(struct virtio_device *vdev);
static inline void virtio_kick(struct virtio_device *vdev, unsigned queue)
{
	if (queue < vdev->queue_count &&
	    atomic_load_explicit(&vdev->queues[queue].ready, memory_order_acquire))
		vdev->ops->notify(vdev, queue);
}
void virtio_kick_all(struct virtio_device *vdev);

#endif
