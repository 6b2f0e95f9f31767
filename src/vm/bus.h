/* SPDX-License-Identifier: MIT */
/*
 * Address spaces for devices: port I/O and memory-mapped I/O.
 *
 * A device adds regions with read and write handlers. Lookup is a binary search in a sorted array
 * of disjoint segments under a sequence lock, behind a small per-thread cache, so vCPU threads take no lock. Handlers run on the accessing vCPU's thread and
 * do their own locking. Regions may be added, moved and removed while vCPUs run (PCI BARs); the
 * device object must live until the VM is destroyed.
 */
#ifndef LODGE_VM_BUS_H
#define LODGE_VM_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct io_ops {
	/* offset from the region's base; size 1, 2, 4 or 8 bytes. A read's unused upper bits are ignored. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
	/* Sizes the handlers take (0: 1 and 8). Larger accesses are split; smaller ones become an access of min_size at the
	 * offset aligned down to it (reads extract, writes carry the value in its place and zeroes around it). */
	uint8_t min_size, max_size;
};

struct io_region {
	const char *name;
	uint64_t base, size;
	const struct io_ops *ops;
	void *opaque;
};

#define BUS_REGION_MAX 512

/* The regions as a vCPU sees them: disjoint, sorted; rebuilt by writers. */
struct bus_segment {
	uint64_t base, last;
	uint32_t region; /* index in regions[] */
};

struct bus {
	const char *name; /* "pio" or "mmio" */
	uint64_t limit;   /* highest valid address */
	uint32_t sequence;
	unsigned count;
	struct io_region regions
		[BUS_REGION_MAX]; /* in order of addition; later additions win where they overlap */
	unsigned segment_count;
	struct bus_segment segments[2 * BUS_REGION_MAX + 1];
	pthread_mutex_t lock; /* writers */
};

void bus_init(struct bus *bus, const char *name, uint64_t limit);

/* Add a region (copied). Fails if the table is full or the range exceeds the bus. Where it overlaps an existing region it
 * wins (as port 0xcf9 inside 0xcf8-0xcff); an access that starts in a region and fits into it is passed whole. */
int bus_add(struct bus *bus, const struct io_region *region, struct error *err);

/* Remove the region with this base and opaque, if there. Waits for no one. */
void bus_remove(struct bus *bus, uint64_t base, void *opaque);

/* Access size 1, 2, 4 or 8 at any alignment. Unclaimed reads give all ones, unclaimed writes are dropped;
 * both are traced (TRACE_UNCLAIMED). Any thread. Returns false from the _checked form if nothing claims the address. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, uint64_t value, unsigned size);
bool bus_claims(struct bus *bus, uint64_t address);

#endif
