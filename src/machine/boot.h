/* SPDX-License-Identifier: MIT */
/*
 * Direct boot: putting a kernel, its initrd and its command line into guest memory, as a boot
 * loader would, and the CPU state at its entry point.
 *
 * boot_load() recognises the kernel's format and hands over to one of boot_linux.c (bzImage),
 * boot_elf.c (ELF with a PVH note, ELF64 Linux) or boot_multiboot.c. Placement goes through one
 * list of used ranges, so that nothing overwrites anything else whatever addresses the kernel's
 * headers ask for.
 */
#ifndef LODGE_MACHINE_BOOT_H
#define LODGE_MACHINE_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/memory.h"
#include "x86/cpu.h"

/* Types of the BIOS memory map, E820 (ACPI 6.5, table 15.3). */
enum memory_range_type {
	MEMORY_RAM = 1,
	MEMORY_RESERVED = 2,
};

struct memory_range {
	uint64_t base, size;
	uint32_t type;
};

#define BOOT_RANGE_MAX 16
#define BOOT_USED_MAX 128

struct boot {
	/* Set by the caller. */
	struct guest_memory *memory;
	const char *kernel;   /* path */
	const char *initrd;   /* path or NULL; for multiboot "file args,file args" */
	const char *append;   /* command line or NULL */
	uint64_t rsdp;        /* guest-physical address of the ACPI root pointer, 0: none */
	bool keep_compressed; /* let the guest decompress a bzImage itself */
	unsigned range_count;
	struct memory_range ranges[BOOT_RANGE_MAX]; /* the memory map the kernel is told */

	/* Results. */
	const char *protocol; /* "Linux, 64-bit entry": for messages */
	struct x86_cpu_state state;
	uint64_t kernel_address, initrd_address, initrd_size, cmdline_address, cmdline_size;

	/* boot.c's own: ranges taken so far. */
	unsigned used_count;
	struct memory_range used[BOOT_USED_MAX];
};

/*
 * Load everything and fill boot->state. Guest memory must read as zeroes where nothing was loaded.
 * Returns 0, or -1 with err naming the file and the reason.
 */
int boot_load(struct boot *boot, struct error *err);

/* ---- between the loaders ---- */

/* A whole file, mapped read-only. */
struct file_map {
	const char *path;
	const uint8_t *data;
	size_t size;
};

/* what: "kernel", "initrd". The file must be a regular one of 1 to limit bytes. */
int file_map_open(struct file_map *map, const char *what, const char *path, uint64_t limit,
		  struct error *err);
void file_map_close(struct file_map *map);

/* Take [base, base+size) for something at a fixed address: it must be RAM and not yet taken.
 * what: for the message. */
int boot_claim(struct boot *boot, uint64_t base, uint64_t size, const char *what,
	       struct error *err);
/* Find room of size bytes in RAM, lowest (at or above min) or highest, ending at or below limit,
 * and take it. align is a power of two. Returns the address, or 0 if there is none. */
uint64_t boot_place_low(struct boot *boot, uint64_t size, uint64_t align, uint64_t min,
			uint64_t limit);
uint64_t boot_place_high(struct boot *boot, uint64_t size, uint64_t align, uint64_t limit);
/* As boot_place_low() anywhere below 4 GiB but preferably below 640 KiB, with a message. For
 * small structures. */
uint64_t boot_place_data(struct boot *boot, uint64_t size, uint64_t align, const char *what,
			 struct error *err);
/* Host address of a range that was claimed or placed. */
void *boot_host(struct boot *boot, uint64_t gpa, uint64_t size);

/* Place a NUL-terminated string; 0 on failure. */
uint64_t boot_place_string(struct boot *boot, const char *text, const char *what,
			   struct error *err);
/* Read the initrd to the highest place that ends at or below limit; sets boot->initrd_*. */
int boot_load_initrd(struct boot *boot, uint64_t limit, struct error *err);

/* Entry states: flat 32-bit protected mode without paging; 64-bit mode on an identity map of the
 * first 4 GiB. Both place a GDT with code 0x10 and data 0x18. Interrupts are off. */
int boot_enter_protected(struct boot *boot, uint64_t entry, struct error *err);
int boot_enter_long(struct boot *boot, uint64_t entry, struct error *err);

/* The formats. is_*: does the file look like it? */
bool boot_is_bzimage(const struct file_map *kernel);
int boot_bzimage(struct boot *boot, const struct file_map *kernel, struct error *err);
bool boot_is_multiboot(const struct file_map *kernel);
int boot_multiboot(struct boot *boot, const struct file_map *kernel, struct error *err);
bool boot_is_elf(const struct file_map *kernel);
int boot_elf(struct boot *boot, const struct file_map *kernel, struct error *err);

/* Linux: place boot_params built around a copy of the setup header of header_size bytes (file
 * offset 0x1f1 on), or around a minimal one if NULL, with memory map, command line, initrd and
 * random seed. Returns the address or 0. */
uint64_t boot_linux_params(struct boot *boot, const uint8_t *header, size_t header_size,
			   struct error *err);

#endif
