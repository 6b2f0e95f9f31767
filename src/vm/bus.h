/* SPDX-License-Identifier: MIT */
/*
 * Address spaces for devices: port I/O and memory-mapped I/O.
 *
 * A device adds regions with read and write handlers. Lookup is a binary search in a sorted array
 * under a sequence lock, so vCPU threads take no lock. Handlers run on the accessing vCPU's thread and
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
	uint8_t min_size, max_size; /* sizes the handlers take (0: 1 and 8); others are split or widened by the bus */
};

struct io_region {
	const char *name;
	uint64_t base, size;
	const struct io_ops *ops;
	void *opaque;
};

#define BUS_REGION_MAX 512

struct bus {
	const char *name; /* "pio" or "mmio" */
	uint64_t limit;   /* highest valid address */
	uint32_t sequence;
	unsigned count;
	struct io_region regions[BUS_REGION_MAX]; /* sorted by base; later additions win where they overlap */
	pthread_mutex_t lock;                     /* writers */
};

void bus_init(struct bus *bus, const char *name, uint64_t limit);

/* Add a region (copied). Fails if the table is full or the range exceeds the bus. An overlap with an existing region is an error. */
int bus_add(struct bus *bus, const struct io_region *region, struct error *err);

/* Remove the region with this base and opaque, if there. Waits for no one. */
void bus_remove(struct bus *bus, uint64_t base, void *opaque);

/* Access size 1, 2, 4 or 8 at any alignment. Unclaimed reads give all ones, unclaimed writes are dropped;
 * both are traced (TRACE_UNCLAIMED). Any thread. Returns false from the _checked form if nothing claims the address. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, uint64_t value, unsigned size);
bool bus_claims(struct bus *bus, uint64_t address);

#endif
