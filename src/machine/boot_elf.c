/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels: by their PVH note, or as a 64-bit Linux vmlinux.
 *
 * A kernel with the Xen note PHYS32_ENTRY is entered in 32-bit protected mode with EBX pointing
 * at a hvm_start_info, which lists memory map, modules, command line and the ACPI root pointer.
 * An ELF64 file without the note is taken for Linux: entered in long mode with RSI pointing at
 * boot_params.
 *
 * Sources: Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h;
 * Linux Documentation/x86/boot.rst.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/boot.h"
#include "machine/elf_image.h"

#define HVM_START_MAGIC 0x336ec578u

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
	uint64_t memmap_paddr; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

bool boot_is_elf(const struct file_map *kernel)
{
	return kernel->size >= SELFMAG && memcmp(kernel->data, ELFMAG, SELFMAG) == 0;
}

static int enter_pvh(const struct elf_image *image, struct boot *boot, struct error *err)
{
	struct {
		struct hvm_start_info info;
		struct hvm_modlist_entry module;
		struct hvm_memmap_entry map[BOOT_RANGE_MAX];
	} block = { 0 };
	uint64_t at, cmdline;

	if (boot_load_initrd(boot, GIB(4), err))
		return -1;
	cmdline = boot_place_string(boot, boot->append ? boot->append : "", "command line", err);
	at = cmdline ? boot_place_data(boot, sizeof(block), 64, "start info", err) : 0;
	if (!at)
		return -1;
	block.info = (struct hvm_start_info){
		.magic = HVM_START_MAGIC,
		.version = 1,
		.cmdline_paddr = cmdline,
		.rsdp_paddr = boot->rsdp,
		.memmap_paddr = at + ((char *)block.map - (char *)&block),
		.memmap_entries = boot->range_count,
	};
	if (boot->initrd) {
		block.info.nr_modules = 1;
		block.info.modlist_paddr = at + ((char *)&block.module - (char *)&block);
		block.module.paddr = boot->initrd_address;
		block.module.size = boot->initrd_size;
	}
	for (unsigned i = 0; i < boot->range_count; i++)
		block.map[i] = (struct hvm_memmap_entry){
			.addr = boot->ranges[i].base,
			.size = boot->ranges[i].size,
			.type = boot->ranges[i].type,
		};
	memcpy(boot_host(boot, at, sizeof(block)), &block, sizeof(block));
	boot->cmdline_address = cmdline;
	boot->cmdline_size = strlen(boot->append ? boot->append : "") + 1;
	boot->kernel_address = image->pvh_entry;
	boot->protocol = "PVH";
	boot->state.gpr[X86_RBX] = at;
	return boot_enter_protected(boot, image->pvh_entry, err);
}

static int enter_linux(const struct elf_image *image, struct boot *boot, struct error *err)
{
	uint64_t params;

	if (!image->is_64bit || image->machine != EM_X86_64)
		return error_set(
			err, 0,
			"kernel '%s' is a 32-bit ELF file with neither a PVH note nor a multiboot header",
			boot->kernel);
	if (image->entry >= GIB(4))
		return error_set(err, 0, "kernel '%s' has no physical entry point (0x%llx)",
				 boot->kernel, (unsigned long long)image->entry);
	if (boot_load_initrd(boot, GIB(4), err))
		return -1;
	params = boot_linux_params(boot, NULL, 0, err);
	if (!params)
		return -1;
	boot->kernel_address = image->entry;
	boot->protocol = "Linux ELF, 64-bit entry";
	boot->state.gpr[X86_RSI] = params;
	return boot_enter_long(boot, image->entry, err);
}

int boot_elf(struct boot *boot, const struct file_map *kernel, struct error *err)
{
	struct elf_image *image = malloc(sizeof(*image));
	int result;

	if (!image)
		return error_set(err, 0, "cannot load kernel '%s': out of memory", kernel->path);
	result = elf_parse(image, kernel->data, kernel->size, kernel->size, kernel->path, err);
	if (result == 0)
		result = elf_load(image, boot, kernel->path, err);
	if (result == 0)
		result = image->has_pvh ? enter_pvh(image, boot, err) :
					  enter_linux(image, boot, err);
	free(image);
	return result;
}
