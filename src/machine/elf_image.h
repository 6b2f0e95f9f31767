/* SPDX-License-Identifier: MIT */
/* ELF executables, 32 and 64 bits, as kernels: program headers, loading, the PVH note. */
#ifndef LODGE_MACHINE_ELF_IMAGE_H
#define LODGE_MACHINE_ELF_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/boot.h"

#define ELF_SEGMENT_MAX 64

struct elf_segment {
	uint64_t offset, vaddr, paddr, filesz, memsz;
};

struct elf_image {
	const uint8_t *data;
	size_t size;      /* of the file */
	size_t available; /* bytes of it that are in data */
	bool is_64bit;
	uint16_t machine; /* EM_386, EM_X86_64 */
	uint64_t entry;   /* physical where the header's is a virtual address of a segment */
	bool has_pvh;
	uint32_t pvh_entry; /* XEN_ELFNOTE_PHYS32_ENTRY */
	unsigned count;
	struct elf_segment segments[ELF_SEGMENT_MAX]; /* PT_LOAD with memsz > 0 */
};

/* Check the headers of a file of `size` bytes whose first `available` are at data, and must have
 * all program headers; name is for messages. */
int elf_parse(struct elf_image *image, const uint8_t *data, size_t available, size_t size,
	      const char *name, struct error *err);

/* Take the segments' physical ranges. */
int elf_claim(const struct elf_image *image, struct boot *boot, const char *name,
	      struct error *err);
/* Copy file contents [offset, offset+size), given at data, to where the claimed segments want
 * them. Memory reads as zeroes before. Any number of threads with different ranges. */
void elf_copy(const struct elf_image *image, struct boot *boot, uint64_t offset,
	      const uint8_t *data, size_t size);

/* Both, for an image that is wholly in memory. */
int elf_load(const struct elf_image *image, struct boot *boot, const char *name, struct error *err);

#endif
