/* SPDX-License-Identifier: MIT */
/*
 * Linux bzImages, by the x86 boot protocol 2.06 and later.
 *
 * Three ways in, the first that applies:
 * 1. The payload is unpacked here, on the host, to the vmlinux it contains, which is loaded at the
 *    physical addresses it was linked for and entered at its own start (64-bit: long mode, 32-bit:
 *    protected mode). This saves the guest its unpacking. Kernel text is then where it was
 *    linked, as with `nokaslr`: randomising it is the work of the program we skip.
 * 2. A kernel with XLF_KERNEL_64 is loaded whole, and its unpacking program entered in 64-bit mode.
 * 3. Any other is entered at code32_start in protected mode.
 *
 * Sources: Linux Documentation/x86/boot.rst and zero-page.rst
 * (arch/x86/include/uapi/asm/bootparam.h).
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"
#include "machine/boot.h"
#include "machine/bzimage_crc.h"
#include "machine/decompress.h"
#include "machine/elf_image.h"

/* Offsets in struct boot_params, the "zero page". From 0x1f1 on also in the file. */
enum {
	BP_SIZE = 0x1000,
	BP_ACPI_RSDP_ADDR = 0x070,
	BP_EXT_RAMDISK_IMAGE = 0x0c0,
	BP_EXT_RAMDISK_SIZE = 0x0c4,
	BP_EXT_CMD_LINE_PTR = 0x0c8,
	BP_ALT_MEM_K = 0x1e0,
	BP_E820_ENTRIES = 0x1e8,
	HDR_SETUP_SECTS = 0x1f1,
	HDR_VID_MODE = 0x1fa,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP_LENGTH = 0x201,
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_TYPE_OF_LOADER = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_CODE32_START = 0x214,
	HDR_RAMDISK_IMAGE = 0x218,
	HDR_RAMDISK_SIZE = 0x21c,
	HDR_CMD_LINE_PTR = 0x228,
	HDR_INITRD_ADDR_MAX = 0x22c,
	HDR_KERNEL_ALIGNMENT = 0x230,
	HDR_RELOCATABLE = 0x234,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_PAYLOAD_OFFSET = 0x248,
	HDR_PAYLOAD_LENGTH = 0x24c,
	HDR_SETUP_DATA = 0x250,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_END_MIN = 0x264,
	HDR_END_MAX = 0x290, /* boot_params has edd_mbr_sig_buffer from here on */
	BP_E820_TABLE = 0x2d0,
};

#define HDR_MAGIC_VALUE 0x53726448u /* "HdrS" */
#define BOOT_FLAG_VALUE 0xaa55
#define LOADFLAG_LOADED_HIGH 0x01
#define XLF_KERNEL_64 0x01
#define LOADER_UNDEFINED 0xff
#define SETUP_RNG_SEED 9
#define RNG_SEED_SIZE 32
#define UNPACKED_MAX MIB(512)
#define CMDLINE_DEFAULT_MAX 2047

static uint8_t hdr8(const struct file_map *kernel, unsigned offset)
{
	return kernel->data[offset];
}
static uint16_t hdr16(const struct file_map *kernel, unsigned offset)
{
	return load_le16(kernel->data + offset);
}
static uint32_t hdr32(const struct file_map *kernel, unsigned offset)
{
	return load_le32(kernel->data + offset);
}

bool boot_is_bzimage(const struct file_map *kernel)
{
	return kernel->size >= HDR_VERSION + 2 && hdr16(kernel, HDR_BOOT_FLAG) == BOOT_FLAG_VALUE &&
	       hdr32(kernel, HDR_MAGIC) == HDR_MAGIC_VALUE;
}

/* ---- boot_params ---- */

static void write_memory_map(const struct boot *boot, uint8_t *params)
{
	uint8_t *entry = params + BP_E820_TABLE;
	uint64_t above_1m_k = 0;

	for (unsigned i = 0; i < boot->range_count; i++, entry += 20) {
		const struct memory_range *r = &boot->ranges[i];

		store_le64(entry, r->base);
		store_le64(entry + 8, r->size);
		store_le32(entry + 16, r->type);
		if (r->type == MEMORY_RAM && r->base == MIB(1))
			above_1m_k = r->size >> 10;
	}
	params[BP_E820_ENTRIES] = (uint8_t)boot->range_count;
	store_le32(params + BP_ALT_MEM_K, (uint32_t)above_1m_k);
}

/* A seed for the guest's random number generator, so that it starts with entropy from the host. */
static uint64_t place_random_seed(struct boot *boot, struct error *err)
{
	uint64_t at = boot_place_data(boot, 16 + RNG_SEED_SIZE, 16, "random seed", err);
	uint8_t *node;

	if (!at)
		return 0;
	node = boot_host(boot, at, 16 + RNG_SEED_SIZE);
	store_le64(node, 0); /* next */
	store_le32(node + 8, SETUP_RNG_SEED);
	store_le32(node + 12, RNG_SEED_SIZE);
	if (getrandom(node + 16, RNG_SEED_SIZE, GRND_NONBLOCK) != RNG_SEED_SIZE)
		store_le32(node + 8, 0); /* SETUP_NONE: no seed is better than a bad one */
	return at;
}

uint64_t boot_linux_params(struct boot *boot, const uint8_t *header, size_t header_size,
			   struct error *err)
{
	const char *append = boot->append ? boot->append : "";
	uint64_t at, cmdline, seed;
	uint32_t cmdline_max = CMDLINE_DEFAULT_MAX;
	uint8_t *params;

	if (header && load_le32(header + HDR_CMDLINE_SIZE - HDR_SETUP_SECTS) > 0)
		cmdline_max = load_le32(header + HDR_CMDLINE_SIZE - HDR_SETUP_SECTS);
	if (strlen(append) > cmdline_max) {
		error_set(
			err, 0,
			"the command line of %zu characters is longer than kernel '%s' takes (%u)",
			strlen(append), boot->kernel, cmdline_max);
		return 0;
	}
	at = boot_place_data(boot, BP_SIZE, PAGE_SIZE, "boot parameters", err);
	cmdline = at ? boot_place_string(boot, append, "command line", err) : 0;
	seed = cmdline ? place_random_seed(boot, err) : 0;
	if (!seed)
		return 0;
	params = boot_host(boot, at, BP_SIZE);
	if (header) {
		memcpy(params + HDR_SETUP_SECTS, header, header_size);
	} else {
		store_le16(params + HDR_BOOT_FLAG, BOOT_FLAG_VALUE);
		store_le32(params + HDR_MAGIC, HDR_MAGIC_VALUE);
		store_le16(params + HDR_VERSION, 0x20c);
		params[HDR_LOADFLAGS] = LOADFLAG_LOADED_HIGH;
		store_le32(params + HDR_KERNEL_ALIGNMENT, 0x1000000);
	}
	params[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	store_le16(params + HDR_VID_MODE, 0xffff); /* "normal" */
	store_le32(params + HDR_CMD_LINE_PTR, (uint32_t)cmdline);
	store_le32(params + BP_EXT_CMD_LINE_PTR, (uint32_t)(cmdline >> 32));
	store_le32(params + HDR_RAMDISK_IMAGE, (uint32_t)boot->initrd_address);
	store_le32(params + BP_EXT_RAMDISK_IMAGE, (uint32_t)(boot->initrd_address >> 32));
	store_le32(params + HDR_RAMDISK_SIZE, (uint32_t)boot->initrd_size);
	store_le32(params + BP_EXT_RAMDISK_SIZE, (uint32_t)(boot->initrd_size >> 32));
	store_le64(params + HDR_SETUP_DATA, seed);
	store_le64(params + BP_ACPI_RSDP_ADDR, boot->rsdp);
	write_memory_map(boot, params);
	boot->cmdline_address = cmdline;
	boot->cmdline_size = strlen(append) + 1;
	return at;
}

/* ---- bzImage ---- */

struct bzimage {
	const struct file_map *file;
	uint16_t version;
	size_t header_size;  /* bytes from HDR_SETUP_SECTS on */
	const uint8_t *body; /* the protected-mode part */
	size_t body_size;
	uint64_t initrd_limit;
	bool is_64bit;
};

static int check_header(struct bzimage *bz, const struct file_map *kernel, struct error *err)
{
	uint64_t setup_size, end;

	bz->file = kernel;
	bz->version = hdr16(kernel, HDR_VERSION);
	if (bz->version < 0x206)
		return error_set(
			err, 0,
			"kernel '%s' speaks boot protocol %u.%02u: 2.06 is the oldest supported",
			kernel->path, bz->version >> 8, bz->version & 0xff);
	setup_size =
		((uint64_t)(hdr8(kernel, HDR_SETUP_SECTS) ? hdr8(kernel, HDR_SETUP_SECTS) : 4) +
		 1) *
		512;
	if (kernel->size <= setup_size || setup_size < HDR_END_MAX)
		return error_set(
			err, 0,
			"kernel '%s' is truncated: %zu bytes, its set-up part alone has %llu",
			kernel->path, kernel->size, (unsigned long long)setup_size);
	if (!(hdr8(kernel, HDR_LOADFLAGS) & LOADFLAG_LOADED_HIGH))
		return error_set(err, 0,
				 "kernel '%s' is a zImage, for memory below 1 MiB: not supported",
				 kernel->path);
	/* The header ends where the jump over it lands. */
	end = HDR_MAGIC + (uint64_t)hdr8(kernel, HDR_JUMP_LENGTH);
	end = MIN(MAX(end, (uint64_t)HDR_SETUP_DATA), (uint64_t)HDR_END_MAX);
	bz->header_size = end - HDR_SETUP_SECTS;
	bz->body = kernel->data + setup_size;
	bz->body_size = kernel->size - setup_size;
	bz->initrd_limit = (uint64_t)hdr32(kernel, HDR_INITRD_ADDR_MAX) + 1;
	bz->is_64bit = bz->version >= 0x20c && (hdr16(kernel, HDR_XLOADFLAGS) & XLF_KERNEL_64);
	return 0;
}

/*
 * The header has no length of the whole file but syssize (in 16-byte units): a shorter file was
 * cut.
 */
static int check_complete(const struct bzimage *bz, struct error *err)
{
	uint64_t expected = (uint64_t)hdr32(bz->file, 0x1f4) * 16;

	if (expected > bz->body_size + 15)
		return error_set(
			err, 0,
			"kernel '%s' is truncated: it has %zu KiB of code, and should have %llu KiB",
			bz->file->path, bz->body_size >> 10, (unsigned long long)expected >> 10);
	return 0;
}

static int load_initrd_and_params(struct bzimage *bz, struct boot *boot, struct error *err)
{
	uint64_t params;

	if (boot_load_initrd(boot, bz->initrd_limit, err))
		return -1;
	params = boot_linux_params(boot, bz->file->data + HDR_SETUP_SECTS, bz->header_size, err);
	if (!params)
		return -1;
	boot->state.gpr[X86_RSI] = params;
	return 0;
}

/* The payload, if its format is one that we unpack; NULL otherwise. */
static const uint8_t *find_payload(const struct bzimage *bz, size_t *size)
{
	uint64_t offset, length;

	if (bz->version < 0x208)
		return NULL;
	offset = hdr32(bz->file, HDR_PAYLOAD_OFFSET);
	length = hdr32(bz->file, HDR_PAYLOAD_LENGTH);
	if (length < 16 || offset > bz->body_size || length > bz->body_size - offset)
		return NULL;
	*size = length;
	return decompress_format(bz->body + offset, length) ? bz->body + offset : NULL;
}

/* The vmlinux inside, as it comes out of decompress(). */
struct unpacking {
	struct bzimage *bz;
	struct boot *boot;
	struct elf_image image;
	uint64_t size;
	struct error *err;
};

#define NOT_ENTERED_DIRECTLY 1 /* the vmlinux is not something that we can enter */

static int take_piece(void *opaque, uint64_t offset, const uint8_t *data, size_t size)
{
	struct unpacking *u = opaque;
	struct elf_image *image = &u->image;
	const char *name = u->bz->file->path;

	if (offset == 0) {
		if (elf_parse(image, data, size, u->size, name, NULL) || image->entry >= GIB(4) ||
		    image->is_64bit != u->bz->is_64bit ||
		    image->is_64bit != (image->machine == EM_X86_64))
			return NOT_ENTERED_DIRECTLY;
		if (elf_claim(image, u->boot, name, u->err))
			return -1;
	}
	elf_copy(image, u->boot, offset, data, size);
	return 0;
}

static int enter_vmlinux(struct bzimage *bz, struct boot *boot, const struct elf_image *image,
			 struct error *err)
{
	if (load_initrd_and_params(bz, boot, err))
		return -1;
	boot->kernel_address = image->entry;
	if (image->is_64bit) {
		boot->protocol = "Linux, unpacked by the host, 64-bit entry";
		return boot_enter_long(boot, image->entry, err);
	}
	boot->protocol = "Linux, unpacked by the host, 32-bit entry";
	return boot_enter_protected(boot, image->entry, err);
}

/* Way 1. Returns 0, -1, or NOT_ENTERED_DIRECTLY. */
static int boot_unpacked(struct bzimage *bz, struct boot *boot, struct error *err)
{
	size_t size = 0;
	const uint8_t *payload = find_payload(bz, &size);
	struct unpacking *u;
	struct error why = { 0 }, refused = { 0 };
	int result;

	if (!payload)
		return NOT_ENTERED_DIRECTLY;
	u = calloc(1, sizeof(*u));
	if (!u)
		return error_set(err, 0, "cannot unpack kernel '%s': out of memory",
				 bz->file->path);
	u->bz = bz;
	u->boot = boot;
	u->err = &refused;
	/* Linux puts the unpacked size behind the payload (for gzip it is the format's own
	 * trailer). */
	u->size = load_le32(payload + size - 4);
	if (u->size > UNPACKED_MAX || u->size < sizeof(Elf32_Ehdr))
		result = error_set(
			err, 0, "kernel '%s' is corrupt: its unpacked size is given as %llu bytes",
			bz->file->path, (unsigned long long)u->size);
	else
		result = decompress(payload, size, u->size, take_piece, u, &why);
	if (result == 0)
		result = enter_vmlinux(bz, boot, &u->image, err);
	else if (result < 0 && refused.text[0])
		result = error_set(err, 0, "%s", refused.text);
	else if (result < 0 && why.text[0])
		result = error_set(err, 0, "kernel '%s' is corrupt: %s", bz->file->path, why.text);
	free(u);
	return result;
}

/* Where the loaded-whole kernel goes: its preferred address if it may move, else 1 MiB. */
static int place_body(struct bzimage *bz, struct boot *boot, uint64_t *at, struct error *err)
{
	uint64_t init_size = bz->version >= 0x20a ? hdr32(bz->file, HDR_INIT_SIZE) : 0;
	uint64_t size = MAX(init_size, (uint64_t)bz->body_size);
	bool movable = hdr8(bz->file, HDR_RELOCATABLE) != 0;

	*at = MIB(1);
	if (movable && bz->version >= 0x20a) {
		uint64_t align = MAX(hdr32(bz->file, HDR_KERNEL_ALIGNMENT), 0x1000u);
		uint64_t preferred = load_le64(bz->file->data + HDR_PREF_ADDRESS);

		if (align & (align - 1))
			return error_set(err, 0, "kernel '%s' is corrupt: alignment 0x%llx",
					 bz->file->path, (unsigned long long)align);
		if (boot_claim(boot, preferred, size, "its code", NULL) == 0) {
			*at = preferred;
			return 0;
		}
		*at = boot_place_low(boot, size, align, MIB(1), GIB(4));
		if (*at)
			return 0;
		return error_set(
			err, 0,
			"kernel '%s' needs %llu MiB to start, which memory of %llu MiB has not free",
			bz->file->path, (unsigned long long)size >> 20,
			(unsigned long long)boot->memory->ram_size >> 20);
	}
	if (boot_claim(boot, *at, size, "its code", err))
		return error_prefix(err, "kernel '%s'", bz->file->path);
	return 0;
}

/* Ways 2 and 3. */
static int boot_whole(struct bzimage *bz, struct boot *boot, struct error *err)
{
	const uint64_t entry_64 = 0x200;
	uint64_t at;

	if (place_body(bz, boot, &at, err))
		return -1;
	memcpy(boot_host(boot, at, bz->body_size), bz->body, bz->body_size);
	if (load_initrd_and_params(bz, boot, err))
		return -1;
	boot->kernel_address = at;
	store_le32(boot_host(boot, boot->state.gpr[X86_RSI] + HDR_CODE32_START, 4), (uint32_t)at);
	if (bz->is_64bit) {
		boot->protocol = "Linux, 64-bit entry";
		return boot_enter_long(boot, at + entry_64, err);
	}
	boot->protocol = "Linux, 32-bit entry";
	return boot_enter_protected(boot, at, err);
}

static int load(struct bzimage *bz, struct boot *boot, struct error *err)
{
	unsigned used = boot->used_count;

	if (!boot->keep_compressed) {
		int result = boot_unpacked(bz, boot, err);

		if (result <= 0)
			return result;
		boot->used_count = used;
	}
	return boot_whole(bz, boot, err);
}

int boot_bzimage(struct boot *boot, const struct file_map *kernel, struct error *err)
{
	struct bzimage bz = { 0 };
	struct bzimage_crc crc;
	int result;

	if (check_header(&bz, kernel, err) || check_complete(&bz, err))
		return -1;
	bzimage_crc_start(&crc, kernel->data, kernel->size, kernel->size - bz.body_size);
	result = load(&bz, boot, err);
	if (!bzimage_crc_finish(&crc) && result == 0)
		return error_set(err, 0, "kernel '%s' is corrupt: its checksum is wrong",
				 kernel->path);
	return result;
}
