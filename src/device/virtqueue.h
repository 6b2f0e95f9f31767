/* SPDX-License-Identifier: MIT */
/*
 * The two ring formats behind virtqueue.c. The queue is ready and its lock held in all of these.
 */
#ifndef LODGE_DEVICE_VIRTQUEUE_H
#define LODGE_DEVICE_VIRTQUEUE_H

#include "device/virtio.h"

/* Descriptor flags (2.7.5, 2.8.1). */
#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4

/* As virtqueue_pop() etc., for one format. */
int split_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
void split_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
		const uint32_t *written, unsigned count);
bool split_empty(struct virtqueue *queue);
bool split_wants_interrupt(struct virtqueue *queue);
void split_want_kicks(struct virtqueue *queue, bool want);

int packed_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
void packed_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
		 const uint32_t *written, unsigned count);
bool packed_empty(struct virtqueue *queue);
bool packed_wants_interrupt(struct virtqueue *queue);
void packed_want_kicks(struct virtqueue *queue, bool want);

/* Append a buffer of the chain after checking it. 0, or -1: broken (reported). */
int chain_append(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa, uint32_t len,
		 bool write);
/* Host address of an indirect table and its number of entries; NULL: broken (reported). */
const uint8_t *chain_indirect(struct virtqueue *queue, uint64_t gpa, uint32_t len, unsigned *count);

/* A descriptor's 16 bytes in either format. */
struct ring_descriptor {
	uint64_t gpa;
	uint32_t len;
	union {
		struct {
			uint16_t flags, next;
		} split;
		struct {
			uint16_t id, flags;
		} packed;
	};
};

/* Copy one out of guest memory, once: the barrier keeps the compiler from reading it again.
 * Indirect tables may be unaligned. */
static inline struct ring_descriptor ring_load_descriptor(const uint8_t *table, unsigned n)
{
	struct ring_descriptor desc;

	memcpy(&desc, table + 16 * (size_t)n, sizeof(desc));
	__asm__ volatile("" : : : "memory");
	return desc;
}

/* Has `event` been passed by going from old to new (2.7.10)? */
static inline bool event_passed(uint16_t event, uint16_t new_index, uint16_t old_index)
{
	return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old_index);
}

/* Guest memory is shared with running vCPUs: every ring field is read and written exactly once,
 * atomically. */
static inline uint16_t ring_load16(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}
static inline uint16_t ring_load16_acquire(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}
static inline void ring_store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELAXED);
}
static inline void ring_store16_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}
static inline void ring_store32(uint8_t *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)(void *)p, v, __ATOMIC_RELAXED);
}

#endif
