/* SPDX-License-Identifier: MIT */
/*
 * virtio devices: the life of a device between reset and DRIVER_OK, whatever its type and
 * transport.
 *
 * A queue is `ready` (may be popped) from DRIVER_OK until reset, a broken ring or a queue reset.
 * Reset turns all queues off under their locks, then waits for what is in flight (ops->drain), then
 * forgets the registers: no chain of an earlier life can reach a later driver's ring.
 *
 * Source: VIRTIO 1.2, 2.1 (status), 2.2 (features), 3.1 (initialization), 2.6.1 (queue reset).
 */
#include "device/virtio.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "device/msix.h"
#include "device/virtio_core.h"
#include "vm/vm.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE_BASE                                                                         \
	0x1040 /* 4.1.2.1: device id of a non-transitional device is this plus its type */
#define VIRTIO_REVISION 1

#define COMMON_FEATURES                                                                            \
	(BIT64(VIRTIO_F_INDIRECT_DESC) | BIT64(VIRTIO_F_EVENT_IDX) | BIT64(VIRTIO_F_VERSION_1) |   \
	 BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_RING_RESET))

void virtio_init(struct virtio_device *vdev, const char *name, uint16_t id, uint32_t class_code,
		 const struct virtio_ops *ops)
{
	vdev->id = id;
	vdev->ops = ops;
	vdev->features = COMMON_FEATURES;
	vdev->config_vector = VIRTIO_NO_VECTOR;
	pthread_mutex_init(&vdev->lock, NULL);
	pthread_mutex_init(&vdev->isr_lock, NULL);
	pci_device_init(&vdev->pci, name, &virtio_pci_ops, VIRTIO_VENDOR, VIRTIO_DEVICE_BASE + id,
			class_code, VIRTIO_REVISION);
	/* 4.1.2.1: the subsystem is free; the type is customary. */
	pci_device_set_subsystem(&vdev->pci, VIRTIO_VENDOR, 0x1100);
	pci_device_use_intx(&vdev->pci);
}

struct virtqueue *virtio_add_queue(struct virtio_device *vdev, uint16_t size_max)
{
	struct virtqueue *queue;

	if (vdev->queue_count == VIRTIO_QUEUE_MAX)
		return NULL;
	queue = &vdev->queues[vdev->queue_count];
	queue->vdev = vdev;
	queue->index = vdev->queue_count++;
	queue->size_max = MIN(size_max, VIRTQUEUE_SIZE_MAX);
	pthread_mutex_init(&queue->lock, NULL);
	virtqueue_reset(queue);
	return queue;
}

void virtio_release(struct virtio_device *vdev)
{
	for (unsigned i = 0; i < vdev->queue_count; i++)
		pthread_mutex_destroy(&vdev->queues[i].lock);
	pthread_mutex_destroy(&vdev->lock);
	pthread_mutex_destroy(&vdev->isr_lock);
	msix_remove(&vdev->pci);
}

/* ---- interrupts ---- */

void virtio_raise(struct virtio_device *vdev, uint16_t vector, uint8_t isr_bit)
{
	if (msix_enabled(&vdev->pci)) {
		if (vector != VIRTIO_NO_VECTOR)
			msix_notify(&vdev->pci, vector);
		return;
	}
	pthread_mutex_lock(&vdev->isr_lock);
	vdev->isr |= isr_bit;
	pci_set_intx(&vdev->pci, true);
	pthread_mutex_unlock(&vdev->isr_lock);
}

uint8_t virtio_read_isr(struct virtio_device *vdev)
{
	uint8_t isr;

	pthread_mutex_lock(&vdev->isr_lock);
	isr = vdev->isr;
	vdev->isr = 0;
	pci_set_intx(&vdev->pci, false);
	pthread_mutex_unlock(&vdev->isr_lock);
	return isr;
}

void virtio_broken(struct virtio_device *vdev, const char *fmt, ...)
{
	uint8_t before = atomic_fetch_or(&vdev->status, VIRTIO_STATUS_NEEDS_RESET);
	char text[160];
	va_list ap;

	for (unsigned i = 0; i < vdev->queue_count; i++)
		atomic_store(&vdev->queues[i].ready, false);
	if (before & VIRTIO_STATUS_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A guest can do this as often as it likes: not a message for people. */
	log_debug("%s: the driver broke the rules: %s", vdev->pci.name, text);
	trace(TRACE_VIRTIO, "%s: needs reset: %s", vdev->pci.name, text);
	if (before & VIRTIO_STATUS_DRIVER_OK)
		virtio_raise(vdev, vdev->config_vector, 2);
}

/* ---- status ---- */

/* Turn a queue off so that nobody pops from it any more. */
static void stop_queue(struct virtqueue *queue)
{
	virtqueue_lock(queue);
	atomic_store(&queue->ready, false);
	virtqueue_unlock(queue);
}

static void reset_locked(struct virtio_device *vdev)
{
	for (unsigned i = 0; i < vdev->queue_count; i++)
		stop_queue(&vdev->queues[i]);
	if (vdev->ops->drain)
		vdev->ops->drain(vdev);
	for (unsigned i = 0; i < vdev->queue_count; i++) {
		virtqueue_lock(&vdev->queues[i]);
		virtqueue_reset(&vdev->queues[i]);
		virtqueue_unlock(&vdev->queues[i]);
	}
	if (vdev->ops->reset)
		vdev->ops->reset(vdev);
	vdev->driver_features = 0;
	vdev->device_feature_select = vdev->driver_feature_select = 0;
	vdev->config_vector = VIRTIO_NO_VECTOR;
	vdev->queue_select = 0;
	virtio_read_isr(vdev);
	atomic_store(&vdev->status, 0);
}

void virtio_reset(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	reset_locked(vdev);
	pthread_mutex_unlock(&vdev->lock);
}

/* Map and start an enabled queue; a bad ring breaks the device. */
static void start_queue(struct virtqueue *queue)
{
	virtqueue_lock(queue);
	if (!virtqueue_map(queue))
		virtio_broken(queue->vdev,
			      "queue %u: bad ring (size %u, parts at %#llx, %#llx, %#llx)",
			      queue->index, queue->size, (unsigned long long)queue->descriptor_gpa,
			      (unsigned long long)queue->driver_gpa,
			      (unsigned long long)queue->device_gpa);
	else
		atomic_store(&queue->ready, true);
	virtqueue_unlock(queue);
}

static bool running(struct virtio_device *vdev)
{
	uint8_t status = atomic_load(&vdev->status);

	return (status & VIRTIO_STATUS_DRIVER_OK) && !(status & VIRTIO_STATUS_NEEDS_RESET);
}

/* All enabled queues; a broken one stops those started before it. */
static void start_queues(struct virtio_device *vdev)
{
	for (unsigned i = 0; i < vdev->queue_count && running(vdev); i++)
		if (vdev->queues[i].enabled)
			start_queue(&vdev->queues[i]);
}

bool virtio_write_status(struct virtio_device *vdev, uint8_t value)
{
	uint8_t old = atomic_load(&vdev->status);

	if (value == 0) {
		reset_locked(vdev);
		return false;
	}
	/* 3.1.1 step 6: the driver reads back whether we agree. */
	if ((value & VIRTIO_STATUS_FEATURES_OK) && !(old & VIRTIO_STATUS_FEATURES_OK) &&
	    ((vdev->driver_features & ~vdev->features) ||
	     !virtio_has_feature(vdev, VIRTIO_F_VERSION_1)))
		value &= ~VIRTIO_STATUS_FEATURES_OK;
	if (!((value | old) & VIRTIO_STATUS_FEATURES_OK))
		value &= ~VIRTIO_STATUS_DRIVER_OK;
	/* Bits are never cleared but by reset (2.1.1). */
	atomic_fetch_or(&vdev->status, value & ~VIRTIO_STATUS_NEEDS_RESET);
	if ((value & VIRTIO_STATUS_DRIVER_OK) && !(old & VIRTIO_STATUS_DRIVER_OK)) {
		trace(TRACE_VIRTIO, "%s: driver ready, features %#llx", vdev->pci.name,
		      (unsigned long long)vdev->driver_features);
		start_queues(vdev);
		return true;
	}
	return false;
}

void virtio_enable_queue(struct virtqueue *queue)
{
	struct virtio_device *vdev = queue->vdev;

	/* The ring format must be settled first (3.1.1: features before queues). */
	if (queue->enabled || !(atomic_load(&vdev->status) & VIRTIO_STATUS_FEATURES_OK))
		return;
	queue->enabled = true;
	if (running(vdev))
		start_queue(queue);
}

void virtio_reset_queue(struct virtqueue *queue)
{
	struct virtio_device *vdev = queue->vdev;

	if (!virtio_has_feature(vdev, VIRTIO_F_RING_RESET))
		return;
	stop_queue(queue);
	if (vdev->ops->drain)
		vdev->ops->drain(vdev);
	virtqueue_lock(queue);
	virtqueue_reset(queue);
	virtqueue_unlock(queue);
}

void virtio_kick_all(struct virtio_device *vdev)
{
	for (unsigned i = 0; i < vdev->queue_count; i++)
		virtio_kick(vdev, i);
}

/* ---- saved state ---- */

static void before_save(void *object)
{
	struct virtio_device *vdev = object;

	if (vdev->ops->drain)
		vdev->ops->drain(vdev);
}

static void kick_after_load(void *opaque)
{
	virtio_kick_all(opaque);
}

static bool queue_loadable(const struct virtqueue *queue)
{
	bool packed = virtio_has_feature(queue->vdev, VIRTIO_F_RING_PACKED);

	return queue->size && queue->size <= queue->size_max &&
	       (!packed || (queue->next_avail < queue->size && queue->next_used < queue->size));
}

static int after_load(void *object, struct error *err)
{
	struct virtio_device *vdev = object;
	int result = 0;

	pthread_mutex_lock(&vdev->lock);
	for (unsigned i = 0; i < vdev->queue_count; i++) {
		struct virtqueue *queue = &vdev->queues[i];

		virtqueue_lock(queue);
		atomic_store(&queue->ready, false);
		queue->in_flight = queue->unsignalled = 0;
		if (!queue_loadable(queue))
			result = error_set(err, 0, "%s: saved queue %u is impossible",
					   vdev->pci.name, i);
		virtqueue_unlock(queue);
	}
	if (result == 0) {
		start_queues(vdev);
		vm_defer(vdev->vm, kick_after_load, vdev);
	}
	pthread_mutex_unlock(&vdev->lock);
	return result;
}

static const struct state_field queue_fields[] = {
	STATE_FIELD(struct virtqueue, size),
	STATE_FIELD(struct virtqueue, vector),
	STATE_FIELD(struct virtqueue, enabled),
	STATE_FIELD(struct virtqueue, descriptor_gpa),
	STATE_FIELD(struct virtqueue, driver_gpa),
	STATE_FIELD(struct virtqueue, device_gpa),
	STATE_FIELD(struct virtqueue, next_avail),
	STATE_FIELD(struct virtqueue, next_used),
	STATE_FIELD(struct virtqueue, avail_wrap),
	STATE_FIELD(struct virtqueue, used_wrap),
	STATE_END,
};

static const struct state_field device_fields[] = {
	STATE_BUFFER(struct virtio_device, config),
	STATE_FIELD(struct virtio_device, driver_features),
	STATE_FIELD(struct virtio_device, device_feature_select),
	STATE_FIELD(struct virtio_device, driver_feature_select),
	STATE_FIELD(struct virtio_device, config_vector),
	STATE_FIELD(struct virtio_device, queue_select),
	STATE_FIELD(struct virtio_device, config_generation),
	STATE_FIELD(struct virtio_device, status),
	STATE_FIELD(struct virtio_device, isr),
	STATE_STRUCTS(struct virtio_device, queues, queue_fields),
	STATE_END,
};

static const struct state_table device_state = {
	.name = "virtio-device",
	.version = 1,
	.fields = device_fields,
	.before_save = before_save,
	.after_load = after_load,
};

int virtio_plug(struct virtio_device *vdev, struct pci_bus *bus, int slot, struct error *err)
{
	vdev->vm = bus->vm;
	if (virtio_pci_build(vdev, err) < 0 || pci_device_add(bus, &vdev->pci, slot, err) < 0)
		return -1;
	vm_state_register(bus->vm, &device_state, vdev->pci.devfn, vdev);
	return 0;
}
