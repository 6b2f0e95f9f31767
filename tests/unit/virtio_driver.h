/* SPDX-License-Identifier: MIT */
/*
 * The other side of virtio: a machine without CPUs, and a driver that does to our devices what
 * Linux's virtio_pci and virtio_ring do: finds them through ECAM, walks capabilities, negotiates,
 * and runs split and packed rings with indirect descriptors and event indexes. For the unit tests
 * and the fuzz harness.
 */
#ifndef LODGE_TESTS_VIRTIO_DRIVER_H
#define LODGE_TESTS_VIRTIO_DRIVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "device/pci.h"
#include "device/virtio.h"
#include "vm/vm.h"

#define TEST_RAM MIB(32)
#define TEST_ECAM 0xe0000000ull
#define TEST_MMIO 0xc0000000ull
#define TEST_MMIO_SIZE 0x10000000ull
#define TEST_IO 0xc000
#define TEST_VECTORS 16

struct test_machine {
	struct vm *vm;
	struct pci_bus *bus;
	atomic_uint messages[TEST_VECTORS]; /* MSIs received, by data */
	atomic_uint levels[4];              /* INTx lines */
	uint64_t allocated;                 /* next free guest-physical address */
};

/* A VM of TEST_RAM bytes and its PCI bus; loop: with its event-loop thread running once devices
 * are there. */
struct test_machine *test_machine_create(unsigned cpus);
void test_machine_start_loop(struct test_machine *m);
void test_machine_destroy(struct test_machine *m);
/* len bytes of guest memory, zeroed, aligned to 4 KiB; returns the address. Starts over from
 * test_machine_free_all(). */
uint64_t test_alloc(struct test_machine *m, uint64_t len);
void test_free_all(struct test_machine *m);
static inline void *test_host(struct test_machine *m, uint64_t gpa)
{
	return m->vm->memory.host + gpa;
}

struct test_buffer {
	uint64_t gpa;
	uint32_t len;
};

struct driver_queue {
	struct driver *driver;
	unsigned index;
	uint16_t size, vector;
	uint64_t descriptors, area_driver, area_device, notify;
	void *tokens[VIRTQUEUE_SIZE_MAX];
	uint16_t lengths[VIRTQUEUE_SIZE_MAX]; /* descriptors of each chain */
	uint64_t tables[VIRTQUEUE_SIZE_MAX];  /* an indirect table for each head */
	unsigned free_count;
	/* split */
	uint16_t free_head, avail_idx, last_used;
	/* packed */
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap;
	uint16_t added; /* since the last kick */
	unsigned kicks; /* notifications really written */
};

struct driver {
	struct test_machine *m;
	uint8_t devfn;
	uint64_t common, isr, device, notify; /* guest-physical addresses of the structures */
	uint32_t notify_multiplier;
	uint64_t msix_table;
	uint64_t features;
	bool packed, event_idx, indirect, msix;
	struct driver_queue queues[VIRTIO_QUEUE_MAX];
};

/* Find the structures of a device and reset it. */
void driver_probe(struct driver *d, struct test_machine *m, struct pci_device *dev);
/* Everything up to and including FEATURES_OK; wanted is anded with what is offered. */
void driver_negotiate(struct driver *d, uint64_t wanted);
/* Set up queue n with at most size entries and vector n + 1 (if msix). */
void driver_setup_queue(struct driver *d, unsigned n, uint16_t size);
void driver_ready(struct driver *d);
/* All of it: negotiate, MSI-X if asked, queues, DRIVER_OK. */
void driver_start(struct driver *d, uint64_t wanted, bool msix, unsigned queues, uint16_t size);
void driver_reset(struct driver *d);

uint32_t driver_read(struct driver *d, uint64_t gpa, unsigned size);
void driver_write(struct driver *d, uint64_t gpa, uint32_t value, unsigned size);
uint8_t driver_status(struct driver *d);

/* Make a chain available; false if there is no room. token comes back from driver_used(). */
bool driver_add(struct driver_queue *q, const struct test_buffer *out, unsigned out_count,
		const struct test_buffer *in, unsigned in_count, void *token);
/* Notify the device if it wants that; returns whether it did. */
bool driver_kick(struct driver_queue *q);
/* The next used chain's token, or NULL. */
void *driver_used(struct driver_queue *q, uint32_t *len);
/* The same, waiting up to 5 s. */
void *driver_wait(struct driver_queue *q, uint32_t *len);
/* Ask for an interrupt at the next used chain, or for none. */
void driver_enable_interrupts(struct driver_queue *q, bool enable);

#endif
