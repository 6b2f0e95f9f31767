/* SPDX-License-Identifier: MIT */
/* QEMU's firmware configuration device (ports 0x510, 0x511, DMA at 0x514). See fw_cfg.c. */
#ifndef LODGE_DEVICE_FW_CFG_H
#define LODGE_DEVICE_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

#include "vm/vm.h"

/* Well-known selectors. */
enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_UUID = 0x02,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_MACHINE_ID = 0x06,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_KERNEL_CMDLINE = 0x09,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_DEVICE = 0x0c,
	FW_CFG_NUMA = 0x0d,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
	FW_CFG_KEYS = 0x100,
};

struct fw_cfg;

/* Create with signature, id (port I/O and DMA), nb_cpus, max_cpus, ram size and nographic set, and an empty file
 * directory. Freed by the VM's clean-up. */
int fw_cfg_create(struct vm *vm, struct fw_cfg **out, struct error *err);

/* Set or replace an item. Data is copied. Before vm_start. */
int fw_cfg_add_bytes(struct fw_cfg *fw, uint16_t key, const void *data, size_t len,
		     struct error *err);
int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value, struct error *err);
int fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value, struct error *err);
int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value, struct error *err);
int fw_cfg_add_string(struct fw_cfg *fw, uint16_t key, const char *text,
		      struct error *err); /* with its final NUL */
/* Add a named file (name up to 55 characters) to the directory, which is kept sorted by name. */
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len,
		    struct error *err);

#endif
