/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory.
 *
 * RAM is mapped contiguously at ram->host: from a memfd, which other processes can map too, or privately where nobody
 * has to and the host gives huge pages to private memory only. Guest-physical RAM is at most two ranges over
 * it: [0, low_size) and [4 GiB, 4 GiB + high_size), the second backed by the bytes after low_size. ROM and other
 * memory the machine adds (firmware, video) are further slots.
 *
 * Each RAM page has a byte of flags, so that writers (DMA) can tell the engine about writes to pages
 * that hold translated code, and the dirty log can be kept. Guest RAM is at most 1 TiB.
 */
#ifndef LODGE_VM_MEMORY_H
#define LODGE_VM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct vm;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ull
#define GUEST_RAM_LOW_MAX 0xc0000000ull /* RAM below the PCI hole: at most 3 GiB */

#define PAGE_FLAG_CODE 1  /* the engine has translations of this page: tell it of writes */
#define PAGE_FLAG_DIRTY 2 /* written since the dirty log was last fetched (when logging) */

struct memory_slot {
	uint64_t gpa, size; /* page aligned */
	uint8_t *host;
	uint8_t *page_flags; /* one byte a page, accessed atomically */
	bool readonly;       /* ROM: guest writes are dropped */
	const char *name;
};

#define MEMORY_SLOT_MAX 16

struct guest_memory {
	uint8_t *host;     /* all RAM, contiguous */
	uint64_t ram_size; /* bytes */
	int memfd;         /* -1: private memory */
	uint8_t *page_flags;
	unsigned slot_count;
	struct memory_slot slots[MEMORY_SLOT_MAX]; /* fixed before vCPUs start */
};

/* Create guest RAM of size bytes (a multiple of 4 KiB, 1 MiB .. 1 TiB): slots "ram-low" and "ram-high". */
int guest_memory_create(struct guest_memory *mem, uint64_t size, struct error *err);
/* The same, in a memfd whatever that costs. */
int guest_memory_create_shared(struct guest_memory *mem, uint64_t size, struct error *err);
/* Make all RAM zero and give its pages back to the host. vCPUs stopped; tell the engine with guest_memory_written(). */
void guest_memory_clear(struct guest_memory *mem);
void guest_memory_destroy(struct guest_memory *mem);

/* Add a ROM slot of size bytes (page aligned) at gpa; returns its host address or NULL. Before vCPUs start. */
uint8_t *guest_memory_add_rom(struct guest_memory *mem, const char *name, uint64_t gpa,
			      uint64_t size, struct error *err);

/* The slot that holds gpa, or NULL. Lock-free. */
struct memory_slot *guest_memory_find_slot(struct guest_memory *mem, uint64_t gpa);

/* Host address of [gpa, gpa+len) if it lies wholly in one RAM slot (or ROM, unless write), else NULL.
 * A caller that writes through it must call guest_memory_written() afterwards. Lock-free. */
void *guest_memory_host(struct guest_memory *mem, uint64_t gpa, uint64_t len, bool write);

/* Tell the engine (if the pages hold code) and the dirty log that [gpa, gpa+len) was written by a
 * device or the VMM. Any thread. */
void guest_memory_written(struct vm *vm, uint64_t gpa, uint64_t len);

/* Copy out of and into guest memory, as a device's DMA. May cross slots. Return 0, or -1 if part of the range is
 * not RAM (nothing is copied then). Any thread. */
int guest_memory_read(struct vm *vm, uint64_t gpa, void *buf, uint64_t len);
int guest_memory_write(struct vm *vm, uint64_t gpa, const void *buf, uint64_t len);

#endif
