/* SPDX-License-Identifier: MIT */
/*
 * Packed virtqueues (VIRTIO 1.2, 2.8).
 *
 *   one ring, written by both sides: size x { le64 address, le32 length, le16 id, le16 flags }
 *   driver area, device area (event suppression): le16 offset | wrap << 15, le16 flags
 *
 * An entry is available when its AVAIL bit equals our wrap counter and its USED bit does not; we
 * mark it used by making both equal to ours. next_avail and next_used are positions in the ring. A
 * chain that took k entries is returned with one used entry, and the next one goes k places further
 * on.
 */
#include "device/virtqueue.h"

#include "vm/vm.h"

#define FLAG_AVAIL BIT(7)
#define FLAG_USED BIT(15)
#define EVENT_OFFSET 0
#define EVENT_FLAGS 2
#define EVENT_ENABLE 0
#define EVENT_DISABLE 1
#define EVENT_AT_DESCRIPTOR 2
#define WRAP_BIT 15

static uint8_t *entry(struct virtqueue *queue, unsigned n)
{
	return queue->descriptors + 16 * (size_t)n;
}

static bool is_available(uint16_t flags, bool wrap)
{
	return !!(flags & FLAG_AVAIL) == wrap && !!(flags & FLAG_USED) != wrap;
}

bool packed_empty(struct virtqueue *queue)
{
	return !is_available(ring_load16_acquire(entry(queue, queue->next_avail) + 14),
			     queue->avail_wrap);
}

static int append_indirect(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
			   uint32_t len)
{
	unsigned count;
	const uint8_t *table = chain_indirect(queue, gpa, len, &count);

	if (!table)
		return -1;
	/* In an indirect table the entries follow each other; only WRITE means anything (2.8.7). */
	for (unsigned i = 0; i < count; i++) {
		struct ring_descriptor desc = ring_load_descriptor(table, i);

		if (chain_append(queue, chain, desc.gpa, desc.len, desc.packed.flags & DESC_WRITE) <
		    0)
			return -1;
	}
	return 0;
}

static void advance(struct virtqueue *queue, uint16_t *position, bool *wrap, unsigned slots)
{
	unsigned next = *position + slots;

	if (next >= queue->size) {
		next -= queue->size;
		*wrap = !*wrap;
	}
	*position = next;
}

int packed_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint16_t position = queue->next_avail;
	bool wrap = queue->avail_wrap;
	uint16_t flags;

	if (packed_empty(queue))
		return 0;
	chain->ring_slots = 0;
	do {
		struct ring_descriptor desc = ring_load_descriptor(queue->descriptors, position);

		if (chain->ring_slots == queue->size) {
			virtio_broken(queue->vdev,
				      "queue %u: descriptor chain longer than the queue",
				      queue->index);
			return -1;
		}
		chain->id = desc.packed.id; /* the last one counts */
		flags = desc.packed.flags;
		if (flags & DESC_INDIRECT) {
			if (chain->ring_slots || (flags & DESC_NEXT)) {
				virtio_broken(queue->vdev,
					      "queue %u: misplaced indirect descriptor",
					      queue->index);
				return -1;
			}
			if (append_indirect(queue, chain, desc.gpa, desc.len) < 0)
				return -1;
		} else if (chain_append(queue, chain, desc.gpa, desc.len, flags & DESC_WRITE) < 0) {
			return -1;
		}
		chain->ring_slots++;
		advance(queue, &position, &wrap, 1);
	} while (flags & DESC_NEXT);
	queue->next_avail = position;
	queue->avail_wrap = wrap;
	return 1;
}

/* The first entry's flags go last: the guest stops at it until the others are complete. */
void packed_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
		 const uint32_t *written, unsigned count)
{
	uint8_t *first = entry(queue, queue->next_used);
	uint16_t first_flags = 0;

	for (unsigned i = 0; i < count; i++) {
		uint8_t *p = entry(queue, queue->next_used);
		uint16_t flags = (queue->used_wrap ? FLAG_AVAIL | FLAG_USED : 0) |
				 (written[i] ? DESC_WRITE : 0);

		ring_store32(p + 8, written[i]);
		ring_store16(p + 12, chains[i].id);
		if (i == 0)
			first_flags = flags;
		else
			ring_store16_release(p + 14, flags);
		guest_memory_written(queue->vdev->vm,
				     queue->descriptor_gpa + 16 * (uint64_t)queue->next_used, 16);
		advance(queue, &queue->next_used, &queue->used_wrap, chains[i].ring_slots);
		queue->unsignalled += chains[i].ring_slots;
	}
	ring_store16_release(first + 14, first_flags);
}

bool packed_wants_interrupt(struct virtqueue *queue)
{
	uint16_t flags = ring_load16_acquire(queue->driver + EVENT_FLAGS) & 3;
	uint16_t where, offset;

	if (flags == EVENT_DISABLE)
		return false;
	if (flags != EVENT_AT_DESCRIPTOR || !queue->event_idx)
		return true;
	where = ring_load16(queue->driver + EVENT_OFFSET);
	offset = where & ~BIT(WRAP_BIT);
	if (!!(where >> WRAP_BIT) != queue->used_wrap)
		offset -= queue->size; /* it lies in the round before */
	return event_passed(offset, queue->next_used, queue->next_used - queue->unsignalled);
}

/* Where the next available entry will appear: behind those that are there already. */
static uint16_t event_position(struct virtqueue *queue)
{
	uint16_t position = queue->next_avail;
	bool wrap = queue->avail_wrap;

	for (unsigned i = 0;
	     i < queue->size && is_available(ring_load16(entry(queue, position) + 14), wrap); i++)
		advance(queue, &position, &wrap, 1);
	return position | (unsigned)wrap << WRAP_BIT;
}

void packed_want_kicks(struct virtqueue *queue, bool want)
{
	uint16_t flags = want ? EVENT_ENABLE : EVENT_DISABLE;

	if (want && queue->event_idx) {
		ring_store16(queue->device + EVENT_OFFSET, event_position(queue));
		flags = EVENT_AT_DESCRIPTOR;
	}
	ring_store16_release(queue->device + EVENT_FLAGS, flags);
	guest_memory_written(queue->vdev->vm, queue->device_gpa, 4);
}
