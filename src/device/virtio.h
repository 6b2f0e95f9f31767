/* SPDX-License-Identifier: MIT */
/*
 * virtio: what every virtio device shares, for the device models (virtio_blk.c ...) and the
 * transport (virtio_pci.c).
 *
 * A device embeds struct virtio_device, calls virtio_init(), virtio_add_queue() for each queue,
 * fills in features and the configuration bytes, and plugs itself in with virtio_plug(). The
 * guest's kick arrives in ops->notify on the vCPU's thread; what the device does there or elsewhere
 * with a queue it does between virtqueue_lock() and virtqueue_unlock().
 *
 * Lock order: vdev->lock (registers) before queue->lock (ring) before the leaves (interrupts).
 * Registers are not needed on the data path: a queue carries a copy of all it takes, and `ready`
 * says whether it may be touched at all.
 *
 * Source: Virtual I/O Device (VIRTIO) Version 1.2.
 */
#ifndef LODGE_DEVICE_VIRTIO_H
#define LODGE_DEVICE_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "device/pci.h"

#define VIRTIO_QUEUE_MAX 8
#define VIRTQUEUE_SIZE_MAX 256
#define VIRTQUEUE_CHAIN_MAX 256 /* buffers in one chain, indirect ones included */
#define VIRTIO_NO_VECTOR 0xffff
#define VIRTIO_CONFIG_MAX 64

/* Device types (5). */
enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4 };

/* Device status bits (2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER 2
#define VIRTIO_STATUS_DRIVER_OK 4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED 128

/* Feature bits that belong to the rings and the transport (6). */
enum {
	VIRTIO_F_INDIRECT_DESC = 28,
	VIRTIO_F_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_RING_PACKED = 34,
	VIRTIO_F_RING_RESET = 40,
};

struct virtio_device;

struct virtqueue {
	struct virtio_device *vdev;
	unsigned index;
	uint16_t size_max;
	pthread_mutex_t lock; /* the ring, and everything below */

	/* Registers and position: saved. Registers change only while the queue is not ready. */
	uint16_t size, vector;
	bool enabled;
	uint64_t descriptor_gpa, driver_gpa, device_gpa;
	uint16_t next_avail; /* split: free-running index; packed: position in the ring */
	uint16_t next_used;
	bool avail_wrap, used_wrap; /* packed: wrap counters */

	/* Derived. */
	atomic_bool ready; /* mapped, enabled, device running */
	bool packed, event_idx, indirect;
	bool kicks_wanted;                      /* what the guest was told last */
	uint8_t *descriptors, *driver, *device; /* host addresses of the three parts */
	uint16_t unsignalled; /* used entries since the guest was last considered for an interrupt */
	uint16_t in_flight;   /* chains popped and not yet pushed */
};

/* A descriptor chain: the buffers the device reads (out), then those it writes (in). */
struct virtqueue_chain {
	uint16_t id;         /* split: head descriptor; packed: buffer id */
	uint16_t ring_slots; /* packed: entries it takes in the ring */
	uint16_t out_count, in_count;
	uint32_t out_len, in_len;              /* bytes */
	struct iovec iov[VIRTQUEUE_CHAIN_MAX]; /* out_count + in_count used */
	uint64_t gpa[VIRTQUEUE_CHAIN_MAX];     /* guest-physical address of each */
};

/* A place in the ring to go back to (virtqueue_rewind). */
struct virtqueue_mark {
	uint16_t next_avail, in_flight;
	bool avail_wrap;
};

struct virtio_ops {
	/* The guest kicked a queue that is ready. Its vCPU's thread, no lock held. */
	void (*notify)(struct virtio_device *vdev, unsigned queue);
	/* Return when no chain is in flight. The queues may or may not be ready still; vCPUs may
	 * be waiting. May be NULL. */
	void (*drain)(struct virtio_device *vdev);
	/* Forget what a driver has set up; queues are off and drained. May be NULL. */
	void (*reset)(struct virtio_device *vdev);
	/* The driver wrote len bytes of the device configuration (already in vdev->config). May
	 * be NULL: read-only. */
	void (*config_written)(struct virtio_device *vdev, unsigned offset, unsigned len);
	void (*destroy)(struct virtio_device *vdev);
};

struct virtio_device {
	struct pci_device pci;
	struct vm *vm;
	const struct virtio_ops *ops;
	uint16_t id;
	uint64_t features; /* offered */
	unsigned queue_count;
	unsigned config_len;

	pthread_mutex_t lock; /* registers: everything below up to the queues */
	uint8_t config[VIRTIO_CONFIG_MAX];
	uint64_t driver_features;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t config_vector, queue_select;
	uint8_t config_generation;
	atomic_uchar status; /* written under the lock, except NEEDS_RESET which anyone may set */
	struct virtqueue queues[VIRTIO_QUEUE_MAX];

	pthread_mutex_t isr_lock; /* leaf */
	uint8_t isr;
	uint8_t access_capability; /* offset of the PCI configuration access capability */
	bool was_master;
};

/* ---- devices: construction ---- */

/* class_code as for pci_device_init(). Adds the features every device has. */
void virtio_init(struct virtio_device *vdev, const char *name, uint16_t id, uint32_t class_code,
		 const struct virtio_ops *ops);
struct virtqueue *virtio_add_queue(struct virtio_device *vdev, uint16_t size_max);
/* Put it on the bus. On failure virtio_release() and free it. */
int virtio_plug(struct virtio_device *vdev, struct pci_bus *bus, int slot, struct error *err);
/* Free what virtio_init() and virtio_plug() made (from ops->destroy). */
void virtio_release(struct virtio_device *vdev);

static inline bool virtio_has_feature(const struct virtio_device *vdev, unsigned bit)
{
	return vdev->driver_features >> bit & 1;
}

/* The driver broke the rules: stop all queues, set DEVICE_NEEDS_RESET, and say why in the log. A
 * queue's lock may be held. */
void virtio_broken(struct virtio_device *vdev, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- devices: queues ---- */

static inline void virtqueue_lock(struct virtqueue *queue)
{
	pthread_mutex_lock(&queue->lock);
}
static inline void virtqueue_unlock(struct virtqueue *queue)
{
	pthread_mutex_unlock(&queue->lock);
}

/* Take the next chain. 1: taken; 0: none (or the queue is not ready); -1: the driver broke the
 * rules and the device has stopped. Every address is checked and lies in RAM. Lock held, as
 * below. */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
/* Give the chain back; the device wrote the first written bytes of its in part. */
void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written);
/* Give several back at once: the guest sees all of them or none (virtio-net's merged buffers). */
void virtqueue_push_all(struct virtqueue *queue, const struct virtqueue_chain *chains,
			const uint32_t *written, unsigned count);
/* Interrupt the guest if it wants to hear of what was pushed since the last call. */
void virtqueue_interrupt(struct virtqueue *queue);
/* Is there nothing to pop? */
bool virtqueue_empty(struct virtqueue *queue);
/* Ask for kicks, or not to be kicked. After asking for them, look once more whether the queue is
 * empty. */
void virtqueue_want_kicks(struct virtqueue *queue, bool want);

/*
 * What a device does on a kick: pop chains into *chain and hand them to serve(), which pushes them
 * now or later and returns false to stop, until the queue is empty and kicks are asked for again;
 * then interrupt. At most budget chains, so that the calling thread gets back to its other work
 * though the guest feeds the ring all the time; the rest comes with a kick of its own from the
 * event loop. Takes the lock.
 */
void virtqueue_serve(struct virtqueue *queue, struct virtqueue_chain *chain, unsigned budget,
		     bool (*serve)(struct virtqueue *queue, struct virtqueue_chain *chain));

struct virtqueue_mark virtqueue_mark(const struct virtqueue *queue);
/* Undo the pops since the mark (none of whose chains was pushed). */
void virtqueue_rewind(struct virtqueue *queue, struct virtqueue_mark mark);

/* ---- devices: buffers ---- */

/* Copy len bytes from byte offset of the chain's out part; returns bytes copied. */
size_t virtqueue_read(const struct virtqueue_chain *chain, size_t offset, void *buf, size_t len);
/* Copy len bytes to byte offset of the chain's in part; returns bytes copied. */
size_t virtqueue_write(const struct virtqueue_chain *chain, size_t offset, const void *buf,
		       size_t len);

/* ---- the transport's own ---- */

/* Map an enabled queue's ring. False if sizes, alignment or addresses are bad. */
bool virtqueue_map(struct virtqueue *queue);
/* Back to the values after reset; lock held. */
void virtqueue_reset(struct virtqueue *queue);
/* Send the interrupt of a vector, or raise INTx with these ISR bits (1: queue, 2:
 * configuration). Any thread. */
void virtio_raise(struct virtio_device *vdev, uint16_t vector, uint8_t isr_bit);

#endif
