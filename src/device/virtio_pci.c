/* SPDX-License-Identifier: MIT */
/*
 * virtio over PCI, modern interface only.
 *
 * BAR 1 holds MSI-X. BAR 4 holds the four structures, a page each, every one a window (and so an
 * I/O region) of its own: a kick goes from the bus straight to notify_write().
 *
 *   0x0000 common configuration   0x1000 ISR
 *   0x2000 device configuration   0x3000 notification, 4 bytes a queue
 *
 * The same structures can be reached through configuration space by the PCI configuration access
 * capability (4.1.4.9), which some firmware uses before it maps BARs.
 *
 * Source: VIRTIO 1.2, 4.1.
 */
#include "base/log.h"
#include "device/msix.h"
#include "device/virtio_core.h"
#include "vm/vm.h"

#define MSIX_BAR 1
#define VIRTIO_BAR 4
#define WINDOW_SIZE 0x1000u
#define BAR_SIZE (4 * WINDOW_SIZE)
#define NOTIFY_MULTIPLIER 4

enum { COMMON_OFFSET = 0, ISR_OFFSET = 0x1000, DEVICE_OFFSET = 0x2000, NOTIFY_OFFSET = 0x3000 };

/* Capability types (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_ACCESS = 5 };

/* The common configuration structure (4.1.4.3). */
enum {
	COMMON_DEVICE_FEATURE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_FEATURE_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_QUEUE_COUNT = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFFSET = 0x1e,
	COMMON_QUEUE_DESCRIPTORS = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
	COMMON_QUEUE_NOTIFY_DATA = 0x38,
	COMMON_QUEUE_RESET = 0x3a,
	COMMON_LEN = 0x3c,
};

static struct virtqueue *selected_queue(struct virtio_device *vdev)
{
	return vdev->queue_select < vdev->queue_count ? &vdev->queues[vdev->queue_select] : NULL;
}

/* ---- common configuration ---- */

static uint32_t read_queue(struct virtqueue *queue, uint64_t offset)
{
	switch (offset) {
	case COMMON_QUEUE_SIZE:
		return queue->size;
	case COMMON_QUEUE_VECTOR:
		return queue->vector;
	case COMMON_QUEUE_ENABLE:
		return queue->enabled;
	case COMMON_QUEUE_NOTIFY_OFFSET:
	case COMMON_QUEUE_NOTIFY_DATA:
		return queue->index;
	case COMMON_QUEUE_DESCRIPTORS:
		return queue->descriptor_gpa;
	case COMMON_QUEUE_DESCRIPTORS + 4:
		return queue->descriptor_gpa >> 32;
	case COMMON_QUEUE_DRIVER:
		return queue->driver_gpa;
	case COMMON_QUEUE_DRIVER + 4:
		return queue->driver_gpa >> 32;
	case COMMON_QUEUE_DEVICE:
		return queue->device_gpa;
	case COMMON_QUEUE_DEVICE + 4:
		return queue->device_gpa >> 32;
	default: /* queue_reset reads 0: a reset is over before the write returns */
		return 0;
	}
}

static uint32_t read_common(struct virtio_device *vdev, uint64_t offset)
{
	struct virtqueue *queue = selected_queue(vdev);

	switch (offset) {
	case COMMON_DEVICE_FEATURE_SELECT:
		return vdev->device_feature_select;
	case COMMON_DEVICE_FEATURE:
		return vdev->device_feature_select < 2 ?
			       vdev->features >> 32 * vdev->device_feature_select :
			       0;
	case COMMON_DRIVER_FEATURE_SELECT:
		return vdev->driver_feature_select;
	case COMMON_DRIVER_FEATURE:
		return vdev->driver_feature_select < 2 ?
			       vdev->driver_features >> 32 * vdev->driver_feature_select :
			       0;
	case COMMON_CONFIG_VECTOR:
		return vdev->config_vector;
	case COMMON_QUEUE_COUNT:
		return vdev->queue_count;
	case COMMON_STATUS:
		return atomic_load(&vdev->status);
	case COMMON_GENERATION:
		return vdev->config_generation;
	case COMMON_QUEUE_SELECT:
		return vdev->queue_select;
	default:
		return queue ? read_queue(queue, offset) : 0;
	}
}

static uint64_t common_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_device *vdev = opaque;
	uint32_t value;

	(void)size;
	pthread_mutex_lock(&vdev->lock);
	value = read_common(vdev, offset);
	pthread_mutex_unlock(&vdev->lock);
	return value;
}

static uint16_t valid_vector(const struct virtio_device *vdev, uint16_t vector)
{
	return vector < vdev->queue_count + 1 ? vector : VIRTIO_NO_VECTOR;
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
	*address = high ? (*address & UINT32_MAX) | (uint64_t)value << 32 :
			  (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue(struct virtqueue *queue, uint64_t offset, uint32_t value)
{
	bool locked = queue->enabled; /* 4.1.4.3.2: set up before enabling */

	switch (offset) {
	case COMMON_QUEUE_SIZE:
		if (!locked && value && value <= queue->size_max)
			queue->size = value;
		break;
	case COMMON_QUEUE_VECTOR:
		queue->vector = valid_vector(queue->vdev, value);
		break;
	case COMMON_QUEUE_ENABLE:
		if (value == 1)
			virtio_enable_queue(queue);
		break;
	case COMMON_QUEUE_DESCRIPTORS:
	case COMMON_QUEUE_DESCRIPTORS + 4:
		if (!locked)
			set_half(&queue->descriptor_gpa, offset & 4, value);
		break;
	case COMMON_QUEUE_DRIVER:
	case COMMON_QUEUE_DRIVER + 4:
		if (!locked)
			set_half(&queue->driver_gpa, offset & 4, value);
		break;
	case COMMON_QUEUE_DEVICE:
	case COMMON_QUEUE_DEVICE + 4:
		if (!locked)
			set_half(&queue->device_gpa, offset & 4, value);
		break;
	case COMMON_QUEUE_RESET:
		if (value == 1)
			virtio_reset_queue(queue);
		break;
	}
}

static void write_driver_feature(struct virtio_device *vdev, uint32_t value)
{
	unsigned shift = 32 * vdev->driver_feature_select;

	if (vdev->driver_feature_select > 1 ||
	    (atomic_load(&vdev->status) & VIRTIO_STATUS_FEATURES_OK))
		return;
	vdev->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	vdev->driver_features |= (uint64_t)value << shift;
}

/* True: the device has started. */
static bool write_common(struct virtio_device *vdev, uint64_t offset, uint32_t value)
{
	struct virtqueue *queue = selected_queue(vdev);

	switch (offset) {
	case COMMON_DEVICE_FEATURE_SELECT:
		vdev->device_feature_select = value;
		break;
	case COMMON_DRIVER_FEATURE_SELECT:
		vdev->driver_feature_select = value;
		break;
	case COMMON_DRIVER_FEATURE:
		write_driver_feature(vdev, value);
		break;
	case COMMON_CONFIG_VECTOR:
		vdev->config_vector = valid_vector(vdev, value);
		break;
	case COMMON_STATUS:
		return virtio_write_status(vdev, value);
	case COMMON_QUEUE_SELECT:
		vdev->queue_select = value;
		break;
	default:
		if (queue)
			write_queue(queue, offset, value);
	}
	return false;
}

static void common_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct virtio_device *vdev = opaque;
	bool started;

	(void)size;
	pthread_mutex_lock(&vdev->lock);
	started = write_common(vdev, offset, value);
	pthread_mutex_unlock(&vdev->lock);
	if (started)
		virtio_kick_all(vdev);
}

static const struct io_ops common_ops = { common_read, common_write, 1, 4 };

/* ---- ISR, device configuration, notification ---- */

static uint64_t isr_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return offset == 0 ? virtio_read_isr(opaque) : 0;
}

static void isr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)opaque, (void)offset, (void)value, (void)size;
}

static const struct io_ops isr_ops = { isr_read, isr_write, 1, 4 };

static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_device *vdev = opaque;
	uint64_t value = 0;

	pthread_mutex_lock(&vdev->lock);
	if (offset < vdev->config_len)
		memcpy(&value, vdev->config + offset, MIN(size, vdev->config_len - offset));
	pthread_mutex_unlock(&vdev->lock);
	return value;
}

static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct virtio_device *vdev = opaque;

	if (!vdev->ops->config_written || offset >= vdev->config_len ||
	    size > vdev->config_len - offset)
		return;
	pthread_mutex_lock(&vdev->lock);
	memcpy(vdev->config + offset, &value, size);
	vdev->ops->config_written(vdev, offset, size);
	pthread_mutex_unlock(&vdev->lock);
}

static const struct io_ops device_ops = { device_read, device_write, 1, 8 };

static uint64_t notify_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque, (void)offset, (void)size;
	return 0;
}

/* The address says which queue; the value says the same again. */
static void notify_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)value, (void)size;
	virtio_kick(opaque, offset / NOTIFY_MULTIPLIER);
}

static const struct io_ops notify_ops = { notify_read, notify_write, 1, 4 };

/* ---- configuration space ---- */

/* struct virtio_pci_cap (4.1.4). */
enum { CAP_TYPE = 3, CAP_BAR = 4, CAP_WHERE = 8, CAP_LENGTH = 12, CAP_EXTRA = 16 };

static unsigned add_structure(struct virtio_device *vdev, uint8_t type, uint32_t where,
			      uint32_t length, unsigned extra)
{
	unsigned at = pci_device_add_capability(&vdev->pci, PCI_CAP_ID_VENDOR, CAP_EXTRA + extra);
	uint8_t *cap = vdev->pci.config + at;

	if (!at)
		return 0;
	cap[2] = CAP_EXTRA + extra;
	cap[CAP_TYPE] = type;
	cap[CAP_BAR] = type == CAP_PCI_ACCESS ? 0 : VIRTIO_BAR;
	store_le32(cap + CAP_WHERE, where);
	store_le32(cap + CAP_LENGTH, length);
	return at;
}

int virtio_pci_build(struct virtio_device *vdev, struct error *err)
{
	struct pci_device *pci = &vdev->pci;
	unsigned notify;

	pci_device_add_bar(pci, VIRTIO_BAR, PCI_BAR_MEMORY64, BAR_SIZE, true);
	pci_device_add_window(pci, VIRTIO_BAR, "virtio-common", COMMON_OFFSET, WINDOW_SIZE,
			      &common_ops, vdev);
	pci_device_add_window(pci, VIRTIO_BAR, "virtio-isr", ISR_OFFSET, WINDOW_SIZE, &isr_ops,
			      vdev);
	pci_device_add_window(pci, VIRTIO_BAR, "virtio-device", DEVICE_OFFSET, WINDOW_SIZE,
			      &device_ops, vdev);
	pci_device_add_window(pci, VIRTIO_BAR, "virtio-notify", NOTIFY_OFFSET, WINDOW_SIZE,
			      &notify_ops, vdev);
	if (msix_add(pci, MSIX_BAR, vdev->queue_count + 1, err) < 0)
		return -1;
	add_structure(vdev, CAP_COMMON, COMMON_OFFSET, COMMON_LEN, 0);
	add_structure(vdev, CAP_ISR, ISR_OFFSET, 1, 0);
	if (vdev->config_len)
		add_structure(vdev, CAP_DEVICE, DEVICE_OFFSET, vdev->config_len, 0);
	notify = add_structure(vdev, CAP_NOTIFY, NOTIFY_OFFSET,
			       vdev->queue_count * NOTIFY_MULTIPLIER, 4);
	if (!notify)
		return error_set(err, 0, "cannot create %s: configuration space is full",
				 pci->name);
	store_le32(pci->config + notify + CAP_EXTRA, NOTIFY_MULTIPLIER);
	vdev->access_capability = add_structure(vdev, CAP_PCI_ACCESS, 0, 0, 4);
	if (!vdev->access_capability)
		return error_set(err, 0, "cannot create %s: configuration space is full",
				 pci->name);
	pci->write_mask[vdev->access_capability + CAP_BAR] = 0xff;
	memset(pci->write_mask + vdev->access_capability + CAP_WHERE, 0xff, 12);
	return 0;
}

/* What the access capability points at: the operations there, or NULL. */
static const struct pci_window *access_window(struct virtio_device *vdev, uint64_t *offset,
					      unsigned *size)
{
	const uint8_t *cap = vdev->pci.config + vdev->access_capability;
	const struct pci_bar *bar = &vdev->pci.bars[VIRTIO_BAR];
	uint32_t where = load_le32(cap + CAP_WHERE);

	*size = load_le32(cap + CAP_LENGTH);
	if (cap[CAP_BAR] != VIRTIO_BAR || (*size != 1 && *size != 2 && *size != 4) ||
	    where % *size || where >= BAR_SIZE)
		return NULL;
	*offset = where % WINDOW_SIZE;
	return &bar->windows[where / WINDOW_SIZE];
}

static bool touches_data(const struct virtio_device *vdev, unsigned offset, unsigned size)
{
	unsigned data = vdev->access_capability + CAP_EXTRA;

	return offset < data + 4 && offset + size > data;
}

static void pci_before_read(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_device *vdev = container_of(pci, struct virtio_device, pci);
	const struct pci_window *window;
	uint64_t where;
	unsigned len;

	if (!touches_data(vdev, offset, size) || !(window = access_window(vdev, &where, &len)))
		return;
	store_le32(pci->config + vdev->access_capability + CAP_EXTRA,
		   window->ops->read(window->opaque, where, len));
}

static void pci_after_write(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_device *vdev = container_of(pci, struct virtio_device, pci);
	bool master = atomic_load(&pci->bus_master);
	const struct pci_window *window;
	uint64_t where;
	unsigned len;

	/* Kicks that came while bus mastering was off have not been served. */
	if (master && !vdev->was_master)
		virtio_kick_all(vdev);
	vdev->was_master = master;
	if (touches_data(vdev, offset, size) &&
	    (window = access_window(vdev, &where, &len)) != NULL) {
		uint32_t value = load_le32(pci->config + vdev->access_capability + CAP_EXTRA);

		window->ops->write(window->opaque, where,
				   len == 4 ? value : value & ((1u << 8 * len) - 1), len);
	}
}

static void pci_reset(struct pci_device *pci)
{
	struct virtio_device *vdev = container_of(pci, struct virtio_device, pci);

	vdev->was_master = false;
	virtio_reset(vdev);
}

static void pci_destroy(struct pci_device *pci)
{
	struct virtio_device *vdev = container_of(pci, struct virtio_device, pci);

	vdev->ops->destroy(vdev);
}

const struct pci_device_ops virtio_pci_ops = {
	.reset = pci_reset,
	.destroy = pci_destroy,
	.before_read = pci_before_read,
	.after_write = pci_after_write,
};
