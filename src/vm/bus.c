/* SPDX-License-Identifier: MIT */
/*
 * Address spaces for devices.
 *
 * Writers (device creation, PCI BARs) keep regions[] in the order of addition and rebuild segments[] from it:
 * disjoint, sorted pieces, each owned by the latest region that covers it. Readers find the segment by
 * binary search and copy its region out under a sequence lock. In front of that each thread has a small
 * direct-mapped cache of the regions it used last; an entry is valid for one value of one bus's sequence, so the
 * common access costs a hash, three compares and the handler's call.
 */
#include "vm/bus.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/log.h"
#include "base/util.h"

#define CACHE_ENTRIES 16

struct cached_region {
	const struct bus *bus;
	uint32_t sequence;    /* of the bus when this was filled; odd values are never stored */
	uint64_t first, last; /* the segment */
	struct io_region region;
};

static __thread struct cached_region cache[CACHE_ENTRIES];

void bus_init(struct bus *bus, const char *name, uint64_t limit)
{
	/* Sequences of different buses differ, since a bus may be where an old one was, which threads' caches still know. */
	static uint32_t next_sequence;

	static _Atomic uint32_t generation;

	/* Sequences of different buses start far apart: a bus may get the address of one that is gone, and threads'
	 * caches know a bus by its address. */
	*bus = (struct bus){ .name = name,
			     .limit = limit,
			     .sequence = atomic_fetch_add(&generation, 0x10000) };
	bus->sequence = __atomic_add_fetch(&next_sequence, 1u << 20, __ATOMIC_RELAXED);
	pthread_mutex_init(&bus->lock, NULL);
}

/* ---- writers ---- */

static uint64_t region_last(const struct io_region *r)
{
	return r->base + (r->size - 1);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Cut the address space at every region's start and end; give each piece to the latest region that covers it. */
static void rebuild_segments(struct bus *bus)
{
	uint64_t cuts[2 * BUS_REGION_MAX];
	unsigned cut_count = 0, n = 0;

	for (unsigned i = 0; i < bus->count; i++) {
		cuts[cut_count++] = bus->regions[i].base;
		if (region_last(&bus->regions[i]) != UINT64_MAX)
			cuts[cut_count++] = region_last(&bus->regions[i]) + 1;
	}
	qsort(cuts, cut_count, sizeof(cuts[0]), compare_u64);
	for (unsigned c = 0; c < cut_count; c++) {
		uint64_t first = cuts[c], last;

		if (c + 1 < cut_count && cuts[c + 1] == first)
			continue;
		last = c + 1 < cut_count ? cuts[c + 1] - 1 : UINT64_MAX;
		for (unsigned i = bus->count; i-- > 0;) {
			if (first - bus->regions[i].base >= bus->regions[i].size)
				continue;
			if (n && bus->segments[n - 1].region == i &&
			    bus->segments[n - 1].last == first - 1)
				bus->segments[n - 1].last = last;
			else
				bus->segments[n++] = (struct bus_segment){ .base = first,
									   .last = last,
									   .region = i };
			break;
		}
	}
	bus->segment_count = n;
}

static void begin_write(struct bus *bus)
{
	pthread_mutex_lock(&bus->lock);
	__atomic_fetch_add(&bus->sequence, 1, __ATOMIC_SEQ_CST);
}

static void end_write(struct bus *bus)
{
	rebuild_segments(bus);
	__atomic_fetch_add(&bus->sequence, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&bus->lock);
}

int bus_add(struct bus *bus, const struct io_region *region, struct error *err)
{
	if (!region->size || region->base > bus->limit ||
	    region->size - 1 > bus->limit - region->base)
		return error_set(
			err, EINVAL,
			"%s region '%s' at 0x%llx of 0x%llx bytes lies outside the address space",
			bus->name, region->name, (unsigned long long)region->base,
			(unsigned long long)region->size);
	begin_write(bus);
	if (bus->count == BUS_REGION_MAX) {
		end_write(bus);
		return error_set(err, ENOSPC, "%s region '%s': the table of %d regions is full",
				 bus->name, region->name, BUS_REGION_MAX);
	}
	bus->regions[bus->count++] = *region;
	end_write(bus);
	return 0;
}

void bus_remove(struct bus *bus, uint64_t base, void *opaque)
{
	begin_write(bus);
	for (unsigned i = 0; i < bus->count; i++) {
		if (bus->regions[i].base == base && bus->regions[i].opaque == opaque) {
			memmove(&bus->regions[i], &bus->regions[i + 1],
				(bus->count - i - 1) * sizeof(bus->regions[0]));
			bus->count--;
			break;
		}
	}
	end_write(bus);
}

/* ---- readers ---- */

/* Binary search for the segment that holds address; false if none. The tables may change under us: every index
 * is bounded by the arrays, and the caller throws the result away if the sequence moved. */
static bool search(const struct bus *bus, uint64_t address, struct cached_region *found)
{
	unsigned low = 0, high = __atomic_load_n(&bus->segment_count, __ATOMIC_RELAXED);

	high = MIN(high, ARRAY_SIZE(bus->segments));
	while (low < high) {
		unsigned mid = low + (high - low) / 2;

		if (bus->segments[mid].last < address)
			low = mid + 1;
		else
			high = mid;
	}
	if (low >= ARRAY_SIZE(bus->segments) || low >= bus->segment_count ||
	    bus->segments[low].base > address)
		return false;
	found->first = bus->segments[low].base;
	found->last = bus->segments[low].last;
	found->region = bus->regions[bus->segments[low].region % BUS_REGION_MAX];
	return true;
}

static __attribute__((noinline)) bool lookup_slow(struct bus *bus, uint64_t address,
						  struct cached_region *entry)
{
	for (;;) {
		uint32_t sequence = __atomic_load_n(&bus->sequence, __ATOMIC_ACQUIRE);
		bool found;

		if (sequence & 1) {
			/* A writer is at work: wait for it on its lock instead of spinning. */
			pthread_mutex_lock(&bus->lock);
			pthread_mutex_unlock(&bus->lock);
			continue;
		}
		found = search(bus, address, entry);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&bus->sequence, __ATOMIC_RELAXED) != sequence)
			continue;
		entry->bus = found ? bus : NULL;
		entry->sequence = sequence;
		return found;
	}
}

static inline const struct io_region *lookup(struct bus *bus, uint64_t address)
{
	struct cached_region *entry =
		&cache[(address ^ address >> 4 ^ address >> 12) % CACHE_ENTRIES];

	if (likely(entry->bus == bus && address >= entry->first && address <= entry->last &&
		   entry->sequence == __atomic_load_n(&bus->sequence, __ATOMIC_ACQUIRE)))
		return &entry->region;
	return lookup_slow(bus, address, entry) ? &entry->region : NULL;
}

static inline uint64_t size_mask(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

bool bus_claims(struct bus *bus, uint64_t address)
{
	return lookup(bus, address) != NULL;
}

static enum trace_category category(const struct bus *bus)
{
	return bus->limit > 0xffff ? TRACE_MMIO : TRACE_PIO;
}

/* A handler may come back to the bus and so change the cache entry the region was found in: they get copies. */
static uint64_t region_read(const struct io_region *region, uint64_t offset, unsigned size)
{
	const struct io_ops *ops = region->ops;
	void *opaque = region->opaque;
	unsigned min = ops->min_size ? ops->min_size : 1, max = ops->max_size ? ops->max_size : 8;
	uint64_t value = 0;

	if (!ops->read)
		return UINT64_MAX;
	if (size < min) {
		uint64_t aligned = offset & ~(uint64_t)(min - 1);

		value = ops->read(opaque, aligned, min) >> ((offset - aligned) * 8);
		/* What lies beyond the widened access belongs to the next one. */
		if (offset - aligned + size > min)
			value |= ops->read(opaque, aligned + min, min)
				 << ((min - (offset - aligned)) * 8);
		return value;
	}
	if (size <= max)
		return ops->read(opaque, offset, size);
	for (unsigned done = 0; done < size; done += max)
		value |= (ops->read(opaque, offset + done, max) & size_mask(max)) << (done * 8);
	return value;
}

static void region_write(const struct io_region *region, uint64_t offset, uint64_t value,
			 unsigned size)
{
	const struct io_ops *ops = region->ops;
	void *opaque = region->opaque;
	unsigned min = ops->min_size ? ops->min_size : 1, max = ops->max_size ? ops->max_size : 8;

	if (!ops->write)
		return;
	if (size < min) {
		uint64_t aligned = offset & ~(uint64_t)(min - 1);
		unsigned shift = (unsigned)(offset - aligned) * 8;

		ops->write(opaque, aligned, (value << shift) & size_mask(min), min);
		if (offset - aligned + size > min)
			ops->write(opaque, aligned + min, value >> (min * 8 - shift), min);
		return;
	}
	if (size <= max) {
		ops->write(opaque, offset, value, size);
		return;
	}
	for (unsigned done = 0; done < size; done += max)
		ops->write(opaque, offset + done, (value >> (done * 8)) & size_mask(max), max);
}

/* An access that does not fit into one region, or that starts where nothing is: byte by byte. */
static __attribute__((noinline)) uint64_t read_pieces(struct bus *bus, uint64_t address,
						      unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++) {
		uint64_t at = (address + i) &
			      bus->limit; /* limits are 2^n - 1: the address space wraps */
		const struct io_region *region = lookup(bus, at);
		uint64_t byte = region ? region_read(region, at - region->base, 1) : 0xff;

		value |= (byte & 0xff) << (i * 8);
	}
	return value;
}

static __attribute__((noinline)) void write_pieces(struct bus *bus, uint64_t address,
						   uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++) {
		uint64_t at = (address + i) & bus->limit;
		const struct io_region *region = lookup(bus, at);

		if (region)
			region_write(region, at - region->base, value >> (i * 8) & 0xff, 1);
	}
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
	const struct io_region *region = lookup(bus, address);
	const char *name = region ? region->name : NULL;
	uint64_t value;

	if (likely(region && region_last(region) - address >= size - 1))
		value = region_read(region, address - region->base, size);
	else
		value = read_pieces(bus, address, size);
	value &= size_mask(size);
	if (unlikely(trace_mask)) {
		if (!name)
			trace(TRACE_UNCLAIMED, "%s read 0x%llx size %u: nothing there", bus->name,
			      (unsigned long long)address, size);
		else
			trace(category(bus), "%s read %s 0x%llx size %u = 0x%llx", bus->name, name,
			      (unsigned long long)address, size, (unsigned long long)value);
	}
	return value;
}

void bus_write(struct bus *bus, uint64_t address, uint64_t value, unsigned size)
{
	const struct io_region *region = lookup(bus, address);

	value &= size_mask(size);
	if (unlikely(trace_mask)) {
		if (!region)
			trace(TRACE_UNCLAIMED, "%s write 0x%llx size %u = 0x%llx: nothing there",
			      bus->name, (unsigned long long)address, size,
			      (unsigned long long)value);
		else
			trace(category(bus), "%s write %s 0x%llx size %u = 0x%llx", bus->name,
			      region->name, (unsigned long long)address, size,
			      (unsigned long long)value);
	}
	if (likely(region && region_last(region) - address >= size - 1))
		region_write(region, address - region->base, value, size);
	else
		write_pieces(bus, address, value, size);
}
