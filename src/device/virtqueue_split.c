/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues (VIRTIO 1.2, 2.7).
 *
 *   descriptors: size x { le64 address, le32 length, le16 flags, le16 next }
 *   driver area: le16 flags, le16 idx, le16 ring[size], le16 used_event
 *   device area: le16 flags, le16 idx, { le32 id, le32 length } ring[size], le16 avail_event
 *
 * next_avail and next_used are the free-running 16-bit indexes.
 */
#include "device/virtqueue.h"

#include "vm/vm.h"

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1
#define RING_FLAGS 0
#define RING_IDX 2
#define RING_ENTRIES 4

static uint8_t *avail_event(struct virtqueue *queue)
{
	return queue->device + RING_ENTRIES + 8 * queue->size;
}

static const uint8_t *used_event(struct virtqueue *queue)
{
	return queue->driver + RING_ENTRIES + 2 * queue->size;
}

/* Follow a chain in a table of count descriptors from index n; an indirect descriptor is allowed
 * only at the outer level. */
static int walk(struct virtqueue *queue, struct virtqueue_chain *chain, const uint8_t *table,
		unsigned count, unsigned n, bool outer)
{
	for (unsigned steps = 0;; steps++) {
		struct ring_descriptor desc;

		if (n >= count || steps >= count) {
			virtio_broken(queue->vdev, "queue %u: %s", queue->index,
				      n >= count ? "descriptor index out of range" :
						   "descriptor chain loops");
			return -1;
		}
		desc = ring_load_descriptor(table, n);
		if (desc.split.flags & DESC_INDIRECT) {
			unsigned inner_count;
			const uint8_t *inner;

			if (!outer || (desc.split.flags & DESC_NEXT)) {
				virtio_broken(queue->vdev,
					      "queue %u: misplaced indirect descriptor",
					      queue->index);
				return -1;
			}
			inner = chain_indirect(queue, desc.gpa, desc.len, &inner_count);
			return inner ? walk(queue, chain, inner, inner_count, 0, false) : -1;
		}
		if (chain_append(queue, chain, desc.gpa, desc.len, desc.split.flags & DESC_WRITE) <
		    0)
			return -1;
		if (!(desc.split.flags & DESC_NEXT))
			return 0;
		n = desc.split.next;
	}
}

bool split_empty(struct virtqueue *queue)
{
	return ring_load16_acquire(queue->driver + RING_IDX) == queue->next_avail;
}

int split_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint16_t pending = ring_load16_acquire(queue->driver + RING_IDX) - queue->next_avail;

	if (pending == 0)
		return 0;
	if (pending > queue->size) {
		virtio_broken(queue->vdev, "queue %u: available index jumped by %u", queue->index,
			      pending);
		return -1;
	}
	chain->id = ring_load16(queue->driver + RING_ENTRIES +
				2 * (queue->next_avail & (queue->size - 1)));
	chain->ring_slots = 1;
	if (walk(queue, chain, queue->descriptors, queue->size, chain->id, true) < 0)
		return -1;
	queue->next_avail++;
	return 1;
}

void split_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
		const uint32_t *written, unsigned count)
{
	struct vm *vm = queue->vdev->vm;

	for (unsigned i = 0; i < count; i++) {
		unsigned offset = RING_ENTRIES + 8 * (queue->next_used & (queue->size - 1));

		ring_store32(queue->device + offset, chains[i].id);
		ring_store32(queue->device + offset + 4, written[i]);
		guest_memory_written(vm, queue->device_gpa + offset, 8);
		queue->next_used++;
	}
	ring_store16_release(queue->device + RING_IDX, queue->next_used);
	guest_memory_written(vm, queue->device_gpa + RING_IDX, 2);
	queue->unsignalled += count;
}

bool split_wants_interrupt(struct virtqueue *queue)
{
	if (!queue->event_idx)
		return !(ring_load16(queue->driver + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	return event_passed(ring_load16(used_event(queue)), queue->next_used,
			    queue->next_used - queue->unsignalled);
}

void split_want_kicks(struct virtqueue *queue, bool want)
{
	uint8_t *p = queue->event_idx ? avail_event(queue) : queue->device + RING_FLAGS;
	uint16_t value = want ? 0 : USED_NO_NOTIFY;

	if (queue->event_idx) {
		if (!want)
			return; /* the index stays behind */
		/* Not next_avail: buffers may be left that are too few for what waits. */
		value = ring_load16(queue->driver + RING_IDX);
	}
	ring_store16(p, value);
	guest_memory_written(queue->vdev->vm, queue->device_gpa + (uint64_t)(p - queue->device), 2);
}
