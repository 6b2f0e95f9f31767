/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues: what the two ring formats share.
 *
 * The rings live in guest memory and the guest is free to write anything anywhere at any time. So:
 * ring addresses are translated once, when the queue is enabled (guest RAM never moves); every
 * field is read once into a local and checked there; a chain ends after VIRTQUEUE_CHAIN_MAX buffers
 * whatever it says; and no more chains are in flight than the ring has entries. A violation stops
 * the device (virtio_broken), it never stops Lodge.
 *
 * Source: VIRTIO 1.2, 2.6 to 2.8.
 */
#include "device/virtqueue.h"

#include "base/log.h"
#include "vm/vm.h"

/* ---- chains ---- */

int chain_append(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa, uint32_t len,
		 bool write)
{
	struct virtio_device *vdev = queue->vdev;
	unsigned n = chain->out_count + chain->in_count;
	uint32_t *total = write ? &chain->in_len : &chain->out_len;
	void *host;

	if (len == 0)
		return 0;
	if (!write && chain->in_count) {
		virtio_broken(vdev, "queue %u: readable buffer after a writable one", queue->index);
		return -1;
	}
	if (n == VIRTQUEUE_CHAIN_MAX || __builtin_add_overflow(*total, len, total)) {
		virtio_broken(vdev, "queue %u: descriptor chain too long", queue->index);
		return -1;
	}
	host = guest_memory_host(&vdev->vm->memory, gpa, len, write);
	if (!host) {
		virtio_broken(vdev, "queue %u: buffer %#llx+%#x is not in RAM", queue->index,
			      (unsigned long long)gpa, len);
		return -1;
	}
	chain->iov[n] = (struct iovec){ host, len };
	chain->gpa[n] = gpa;
	if (write)
		chain->in_count++;
	else
		chain->out_count++;
	return 0;
}

const uint8_t *chain_indirect(struct virtqueue *queue, uint64_t gpa, uint32_t len, unsigned *count)
{
	const uint8_t *table;

	*count = len / 16;
	if (!queue->indirect || len % 16 || *count == 0 || *count > VIRTQUEUE_CHAIN_MAX) {
		virtio_broken(queue->vdev, "queue %u: bad indirect descriptor (length %u)",
			      queue->index, len);
		return NULL;
	}
	table = guest_memory_host(&queue->vdev->vm->memory, gpa, len, false);
	if (!table)
		virtio_broken(queue->vdev, "queue %u: indirect table %#llx+%#x is not in RAM",
			      queue->index, (unsigned long long)gpa, len);
	return table;
}

size_t virtqueue_read(const struct virtqueue_chain *chain, size_t offset, void *buf, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < chain->out_count && done < len; i++) {
		const struct iovec *iov = &chain->iov[i];
		size_t n;

		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		n = MIN(iov->iov_len - offset, len - done);
		memcpy((uint8_t *)buf + done, (uint8_t *)iov->iov_base + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t virtqueue_write(const struct virtqueue_chain *chain, size_t offset, const void *buf,
		       size_t len)
{
	size_t done = 0;

	for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count && done < len;
	     i++) {
		const struct iovec *iov = &chain->iov[i];
		size_t n;

		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		n = MIN(iov->iov_len - offset, len - done);
		memcpy((uint8_t *)iov->iov_base + offset, (const uint8_t *)buf + done, n);
		done += n;
		offset = 0;
	}
	return done;
}

/* ---- the queue ---- */

static bool usable(const struct virtqueue *queue)
{
	return atomic_load_explicit(&queue->ready, memory_order_acquire) &&
	       atomic_load_explicit(&queue->vdev->pci.bus_master, memory_order_relaxed);
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	int result;

	if (!usable(queue))
		return 0;
	chain->out_count = chain->in_count = 0;
	chain->out_len = chain->in_len = 0;
	result = queue->packed ? packed_pop(queue, chain) : split_pop(queue, chain);
	if (result <= 0)
		return result;
	if (queue->in_flight >= queue->size) {
		virtio_broken(queue->vdev,
			      "queue %u: more buffers in flight than the queue is long",
			      queue->index);
		return -1;
	}
	queue->in_flight++;
	trace(TRACE_VIRTIO, "%s: queue %u: pop id %u, %u bytes out, %u in", queue->vdev->pci.name,
	      queue->index, chain->id, chain->out_len, chain->in_len);
	return 1;
}

/* Say which bytes changed, for translated code and the dirty log. */
static void report_written(struct virtqueue *queue, const struct virtqueue_chain *chain,
			   uint32_t written)
{
	for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count && written;
	     i++) {
		uint32_t n = MIN(chain->iov[i].iov_len, written);

		guest_memory_written(queue->vdev->vm, chain->gpa[i], n);
		written -= n;
	}
}

void virtqueue_push_all(struct virtqueue *queue, const struct virtqueue_chain *chains,
			const uint32_t *written, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		report_written(queue, &chains[i], written[i]);
		trace(TRACE_VIRTIO, "%s: queue %u: push id %u, %u bytes written",
		      queue->vdev->pci.name, queue->index, chains[i].id, written[i]);
	}
	queue->in_flight -= MIN(count, queue->in_flight);
	if (!atomic_load_explicit(&queue->ready, memory_order_acquire))
		return;
	if (queue->packed)
		packed_push(queue, chains, written, count);
	else
		split_push(queue, chains, written, count);
}

void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written)
{
	virtqueue_push_all(queue, chain, &written, 1);
}

void virtqueue_interrupt(struct virtqueue *queue)
{
	bool wanted;

	if (!queue->unsignalled || !atomic_load_explicit(&queue->ready, memory_order_acquire))
		return;
	/* The used entry must be visible before the guest's wish is read (2.7.7.2, 2.8.10). */
	atomic_thread_fence(memory_order_seq_cst);
	wanted = queue->packed ? packed_wants_interrupt(queue) : split_wants_interrupt(queue);
	queue->unsignalled = 0;
	if (wanted)
		virtio_raise(queue->vdev, queue->vector, 1);
}

bool virtqueue_empty(struct virtqueue *queue)
{
	if (!usable(queue))
		return true;
	return queue->packed ? packed_empty(queue) : split_empty(queue);
}

void virtqueue_want_kicks(struct virtqueue *queue, bool want)
{
	if (!usable(queue))
		return;
	/* With event indexes the place of the wanted kick moves with the ring, so it is written
	 * each time. */
	if (want == queue->kicks_wanted && !(want && queue->event_idx))
		return;
	queue->kicks_wanted = want;
	if (queue->packed)
		packed_want_kicks(queue, want);
	else
		split_want_kicks(queue, want);
	if (want) /* so that the caller's second look at the ring comes after */
		atomic_thread_fence(memory_order_seq_cst);
}

static void kick_again(void *opaque)
{
	struct virtqueue *queue = opaque;

	queue->vdev->ops->notify(queue->vdev, queue->index);
}

void virtqueue_serve(struct virtqueue *queue, struct virtqueue_chain *chain, unsigned budget,
		     bool (*serve)(struct virtqueue *queue, struct virtqueue_chain *chain))
{
	virtqueue_lock(queue);
	do {
		if (!queue->event_idx) /* an event index that is not moved asks for nothing more */
			virtqueue_want_kicks(queue, false);
		while (budget && virtqueue_pop(queue, chain) > 0 && serve(queue, chain))
			budget--;
		virtqueue_want_kicks(queue, true);
	} while (budget && !virtqueue_empty(queue));
	virtqueue_interrupt(queue);
	virtqueue_unlock(queue);
	if (!budget)
		vm_defer(queue->vdev->vm, kick_again, queue);
}

struct virtqueue_mark virtqueue_mark(const struct virtqueue *queue)
{
	return (struct virtqueue_mark){ queue->next_avail, queue->in_flight, queue->avail_wrap };
}

void virtqueue_rewind(struct virtqueue *queue, struct virtqueue_mark mark)
{
	queue->next_avail = mark.next_avail;
	queue->in_flight = mark.in_flight;
	queue->avail_wrap = mark.avail_wrap;
}

/* ---- set-up ---- */

bool virtqueue_map(struct virtqueue *queue)
{
	struct virtio_device *vdev = queue->vdev;
	struct guest_memory *memory = &vdev->vm->memory;
	uint64_t n = queue->size, driver_len, device_len;

	queue->packed = virtio_has_feature(vdev, VIRTIO_F_RING_PACKED);
	queue->event_idx = virtio_has_feature(vdev, VIRTIO_F_EVENT_IDX);
	queue->indirect = virtio_has_feature(vdev, VIRTIO_F_INDIRECT_DESC);
	if (n == 0 || n > queue->size_max || (!queue->packed && (n & (n - 1))))
		return false;
	/* Alignment: 2.7 and 2.8 (tables of the three parts). */
	if (queue->descriptor_gpa % 16 || queue->driver_gpa % (queue->packed ? 4 : 2) ||
	    queue->device_gpa % 4)
		return false;
	driver_len = queue->packed ? 4 : 6 + 2 * n;
	device_len = queue->packed ? 4 : 6 + 8 * n;
	queue->descriptors =
		guest_memory_host(memory, queue->descriptor_gpa, 16 * n, queue->packed);
	queue->driver = guest_memory_host(memory, queue->driver_gpa, driver_len, false);
	queue->device = guest_memory_host(memory, queue->device_gpa, device_len, true);
	queue->kicks_wanted = true;
	return queue->descriptors && queue->driver && queue->device;
}

void virtqueue_reset(struct virtqueue *queue)
{
	atomic_store(&queue->ready, false);
	queue->size = queue->size_max;
	queue->vector = VIRTIO_NO_VECTOR;
	queue->enabled = false;
	queue->descriptor_gpa = queue->driver_gpa = queue->device_gpa = 0;
	queue->next_avail = queue->next_used = 0;
	queue->avail_wrap = queue->used_wrap = true;
	queue->descriptors = queue->driver = queue->device = NULL;
	queue->unsignalled = queue->in_flight = 0;
	queue->kicks_wanted = true;
}
