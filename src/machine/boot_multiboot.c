/* SPDX-License-Identifier: MIT */
/*
 * Multiboot 1 kernels.
 *
 * The header lies in the first 8 KiB, 4-byte aligned. The image is loaded by the addresses in the
 * header (flag 16, which overrides everything) or by its ELF segments; 32-bit ELF is the norm,
 * ELF64 files whose entry is 32-bit code are taken too. `-i` names modules: a comma-separated
 * list of "file arguments", a comma in a name written ",,".  The kernel gets a memory map, its
 * command line (which begins with the file's name), the modules and a loader name. A request for
 * a video mode is not granted, which the specification allows. Entered in flat 32-bit protected
 * mode, EAX = magic, EBX = information.
 *
 * Source: Multiboot Specification version 0.6.96.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/boot.h"
#include "machine/elf_image.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define HEADER_SEARCH 8192
#define MODULE_MAX 32
#define MODULE_NAME_MAX 4096

/* Header flags (3.1.2). */
#define HEADER_ALIGN_MODULES 0x00000001u
#define HEADER_MEMORY_INFO 0x00000002u
#define HEADER_VIDEO_MODE 0x00000004u
#define HEADER_ADDRESSES 0x00010000u
#define HEADER_KNOWN_REQUIRED (HEADER_ALIGN_MODULES | HEADER_MEMORY_INFO | HEADER_VIDEO_MODE)

/* Information flags (3.3). */
#define INFO_MEMORY 0x001
#define INFO_CMDLINE 0x004
#define INFO_MODULES 0x008
#define INFO_MEMORY_MAP 0x040
#define INFO_LOADER_NAME 0x200

struct multiboot_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr,
		entry_addr; /* with HEADER_ADDRESSES */
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name, apm_table;
	uint32_t vbe[5]; /* never filled */
	uint32_t rest[8];
};

struct multiboot_module {
	uint32_t start, end, string, reserved;
};

struct multiboot_mmap {
	uint32_t size; /* of what follows */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

/* Find the header: its offset in the file, or -1. */
static long find_header(const struct file_map *kernel, struct multiboot_header *header)
{
	size_t end = MIN(kernel->size, (size_t)HEADER_SEARCH);

	for (size_t at = 0; at + 12 <= end; at += 4) {
		memset(header, 0, sizeof(*header));
		memcpy(header, kernel->data + at, MIN(sizeof(*header), kernel->size - at));
		if (header->magic == HEADER_MAGIC &&
		    header->magic + header->flags + header->checksum == 0)
			return (long)at;
	}
	return -1;
}

bool boot_is_multiboot(const struct file_map *kernel)
{
	struct multiboot_header header;

	return find_header(kernel, &header) >= 0;
}

/* Flag 16: the "a.out kludge" (3.1.3). Zero load_end means to the file's end, zero bss_end no
 * bss. */
static int load_by_addresses(struct boot *boot, const struct file_map *kernel,
			     const struct multiboot_header *h, uint64_t header_offset,
			     struct error *err)
{
	uint64_t offset, load_size, memory_size;

	if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > header_offset)
		return error_set(
			err, 0,
			"kernel '%s' is corrupt: its multiboot load address 0x%x does not fit its header's 0x%x",
			kernel->path, h->load_addr, h->header_addr);
	offset = header_offset - (h->header_addr - h->load_addr);
	load_size = kernel->size - offset;
	if (h->load_end_addr != 0) {
		if (h->load_end_addr < h->load_addr)
			return error_set(
				err, 0,
				"kernel '%s' is corrupt: its multiboot load end 0x%x is before its start",
				kernel->path, h->load_end_addr);
		if (h->load_end_addr - h->load_addr > load_size)
			return error_set(
				err, 0,
				"kernel '%s' is truncated: its multiboot header asks for %u bytes, %llu are there",
				kernel->path, h->load_end_addr - h->load_addr,
				(unsigned long long)load_size);
		load_size = h->load_end_addr - h->load_addr;
	}
	memory_size = load_size;
	if (h->bss_end_addr != 0) {
		if (h->bss_end_addr < h->load_addr + load_size)
			return error_set(
				err, 0,
				"kernel '%s' is corrupt: its multiboot bss end 0x%x is before the end of its data",
				kernel->path, h->bss_end_addr);
		memory_size = h->bss_end_addr - h->load_addr;
	}
	if (load_size == 0 || boot_claim(boot, h->load_addr, memory_size, "its image", err))
		return load_size == 0 ?
			       error_set(err, 0, "kernel '%s' has nothing to load", kernel->path) :
			       error_prefix(err, "kernel '%s'", kernel->path);
	memcpy(boot_host(boot, h->load_addr, load_size), kernel->data + offset, load_size);
	boot->kernel_address = h->entry_addr;
	return 0;
}

static int load_by_elf(struct boot *boot, const struct file_map *kernel, struct error *err)
{
	struct elf_image *image;
	int result;

	if (!boot_is_elf(kernel))
		return error_set(
			err, 0,
			"kernel '%s' has a multiboot header without addresses and is not ELF",
			kernel->path);
	image = malloc(sizeof(*image));
	if (!image)
		return error_set(err, 0, "cannot load kernel '%s': out of memory", kernel->path);
	result = elf_parse(image, kernel->data, kernel->size, kernel->size, kernel->path, err);
	if (result == 0 && image->entry >= GIB(4))
		result = error_set(
			err, 0,
			"kernel '%s': its multiboot entry point 0x%llx is not a 32-bit address",
			kernel->path, (unsigned long long)image->entry);
	if (result == 0)
		result = elf_load(image, boot, kernel->path, err);
	boot->kernel_address = image->entry;
	free(image);
	return result;
}

/* ---- modules ---- */

/* Copy the next comma-separated word (",," is a comma); returns what follows, NULL at the end. */
static const char *next_word(const char *list, char *word, size_t capacity)
{
	size_t n = 0;

	for (; *list; list++) {
		if (*list == ',') {
			list++;
			if (*list != ',') {
				word[n] = 0;
				return list;
			}
		}
		if (n + 1 < capacity)
			word[n++] = *list;
	}
	word[n] = 0;
	return NULL;
}

static int load_module(struct boot *boot, char *word, struct multiboot_module *module,
		       struct error *err)
{
	uint64_t string = boot_place_string(boot, word, "module arguments", err), at;
	struct file_map file;
	char *space = strchr(word, ' ');

	if (!string)
		return -1;
	if (space)
		*space = 0;
	if (file_map_open(&file, "module", word, GIB(3), err))
		return -1;
	at = boot_place_low(boot, file.size, PAGE_SIZE, MIB(1), GIB(4));
	if (at)
		memcpy(boot_host(boot, at, file.size), file.data, file.size);
	else
		error_set(
			err, 0,
			"module '%s' of %llu MiB does not fit beside the kernel in memory of %llu MiB",
			word, ((unsigned long long)file.size + MIB(1) - 1) >> 20,
			(unsigned long long)boot->memory->ram_size >> 20);
	*module = (struct multiboot_module){ .start = (uint32_t)at,
					     .end = (uint32_t)(at + file.size),
					     .string = (uint32_t)string };
	if (!boot->initrd_address) {
		boot->initrd_address = at;
		boot->initrd_size = file.size;
	}
	file_map_close(&file);
	return at ? 0 : -1;
}

static int load_modules(struct boot *boot, struct multiboot_info *info, struct error *err)
{
	struct multiboot_module modules[MODULE_MAX];
	const char *list = boot->initrd;
	char word[MODULE_NAME_MAX];
	uint64_t at;
	unsigned count = 0;

	info->flags |= INFO_MODULES;
	while (list) {
		list = next_word(list, word, sizeof(word));
		if (word[0] == 0)
			continue;
		if (count == MODULE_MAX)
			return error_set(err, 0, "more than %d modules", MODULE_MAX);
		if (load_module(boot, word, &modules[count++], err))
			return -1;
	}
	if (count == 0)
		return 0;
	at = boot_place_data(boot, count * sizeof(modules[0]), 16, "list of modules", err);
	if (!at)
		return -1;
	memcpy(boot_host(boot, at, count * sizeof(modules[0])), modules,
	       count * sizeof(modules[0]));
	info->mods_count = count;
	info->mods_addr = (uint32_t)at;
	return 0;
}

/* ---- information ---- */

static int place_memory_map(struct boot *boot, struct multiboot_info *info, struct error *err)
{
	struct multiboot_mmap map[BOOT_RANGE_MAX];
	uint64_t size = boot->range_count * sizeof(map[0]);
	uint64_t at = boot_place_data(boot, size, 16, "memory map", err);

	if (!at)
		return -1;
	for (unsigned i = 0; i < boot->range_count; i++) {
		const struct memory_range *r = &boot->ranges[i];

		map[i] = (struct multiboot_mmap){ .size = sizeof(map[0]) - 4,
						  .base = r->base,
						  .length = r->size,
						  .type = r->type };
		if (r->type == MEMORY_RAM && r->base == 0)
			info->mem_lower = (uint32_t)(r->size >> 10);
		if (r->type == MEMORY_RAM && r->base == MIB(1))
			info->mem_upper = (uint32_t)(r->size >> 10);
	}
	memcpy(boot_host(boot, at, size), map, size);
	info->flags |= INFO_MEMORY | INFO_MEMORY_MAP;
	info->mmap_addr = (uint32_t)at;
	info->mmap_length = (uint32_t)size;
	return 0;
}

/* "file command line", as other loaders give it: kernels take their arguments from the second
 * word on. */
static int place_cmdline(struct boot *boot, struct multiboot_info *info, struct error *err)
{
	const char *append = boot->append ? boot->append : "";
	size_t size = strlen(boot->kernel) + strlen(append) + 2;
	cleanup_free char *text = malloc(size);
	uint64_t at;

	if (!text)
		return error_set(err, 0, "cannot load kernel '%s': out of memory", boot->kernel);
	snprintf(text, size, "%s%s%s", boot->kernel, *append ? " " : "", append);
	at = boot_place_string(boot, text, "command line", err);
	if (!at)
		return -1;
	boot->cmdline_address = at;
	boot->cmdline_size = strlen(text) + 1;
	info->flags |= INFO_CMDLINE;
	info->cmdline = (uint32_t)at;
	return 0;
}

int boot_multiboot(struct boot *boot, const struct file_map *kernel, struct error *err)
{
	struct multiboot_header header;
	struct multiboot_info info = { 0 };
	uint64_t header_offset = (uint64_t)find_header(kernel, &header), at, name;
	uint32_t unknown = header.flags & 0xffff & ~HEADER_KNOWN_REQUIRED;
	int result;

	if (unknown)
		return error_set(err, 0,
				 "kernel '%s' requires multiboot features 0x%x, which do not exist",
				 kernel->path, unknown);
	if (header.flags & HEADER_ADDRESSES)
		result = load_by_addresses(boot, kernel, &header, header_offset, err);
	else
		result = load_by_elf(boot, kernel, err);
	if (result || load_modules(boot, &info, err) || place_memory_map(boot, &info, err) ||
	    place_cmdline(boot, &info, err))
		return -1;
	name = boot_place_string(boot, "Lodge", "loader name", err);
	at = name ? boot_place_data(boot, sizeof(info), 16, "multiboot information", err) : 0;
	if (!at)
		return -1;
	info.flags |= INFO_LOADER_NAME;
	info.boot_loader_name = (uint32_t)name;
	memcpy(boot_host(boot, at, sizeof(info)), &info, sizeof(info));
	boot->protocol = "multiboot";
	boot->state.gpr[X86_RAX] = LOADER_MAGIC;
	boot->state.gpr[X86_RBX] = at;
	return boot_enter_protected(boot, boot->kernel_address, err);
}
