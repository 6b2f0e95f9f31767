/* SPDX-License-Identifier: MIT */
/*
 * Direct boot: what is common to all kernel formats.
 *
 * - files: the kernel is mapped, the initrd read straight into guest memory;
 * - placement: `used` lists what is taken; everything else that the memory map calls RAM is free;
 * - the traces a BIOS leaves in low memory (the BIOS data area), which kernels look at;
 * - the CPU's state at entry in 32- and 64-bit mode.
 *
 * Sources: Linux Documentation/x86/boot.rst; Multiboot Specification 0.6.96, 3.2; Xen
 * docs/misc/pvh.pandoc; Intel SDM volume 3, 3.4 and 4.5.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/boot.h"

#define KERNEL_SIZE_MAX GIB(1)
#define LOW_DATA_MIN 0x1000u
#define CONVENTIONAL_END 0x9fc00u

#define GDT_CODE 0x10
#define GDT_DATA 0x18
#define GDT_TSS 0x20

/* ---- files ---- */

int file_map_open(struct file_map *map, const char *what, const char *path, uint64_t limit,
		  struct error *err)
{
	cleanup_close int fd =
		open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
	struct stat st;
	void *data;

	memset(map, 0, sizeof(*map));
	if (fd < 0)
		return error_set_errno(err, errno, "cannot open %s '%s'", what, path);
	if (fstat(fd, &st))
		return error_set_errno(err, errno, "cannot read %s '%s'", what, path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, 0, "%s '%s' is not a regular file", what, path);
	if (st.st_size == 0)
		return error_set(err, 0, "%s '%s' is empty", what, path);
	if ((uint64_t)st.st_size > limit)
		return error_set(err, 0, "%s '%s' is too large: %llu MiB, the limit is %llu MiB",
				 what, path, (unsigned long long)st.st_size >> 20,
				 (unsigned long long)limit >> 20);
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map %s '%s'", what, path);
	map->path = path;
	map->data = data;
	map->size = (size_t)st.st_size;
	return 0;
}

void file_map_close(struct file_map *map)
{
	if (map->data)
		munmap((void *)(uintptr_t)map->data, map->size);
	map->data = NULL;
}

/* ---- placement ---- */

static const struct memory_range *overlapping(const struct boot *boot, uint64_t base, uint64_t size)
{
	for (unsigned i = 0; i < boot->used_count; i++) {
		const struct memory_range *u = &boot->used[i];

		if (base < u->base + u->size && u->base < base + size)
			return u;
	}
	return NULL;
}

static bool is_ram(const struct boot *boot, uint64_t base, uint64_t size)
{
	for (unsigned i = 0; i < boot->range_count; i++) {
		const struct memory_range *r = &boot->ranges[i];

		if (r->type == MEMORY_RAM && base >= r->base && base - r->base <= r->size &&
		    size <= r->size - (base - r->base))
			return true;
	}
	return false;
}

/* Record a range; false if the list is full. */
static bool take(struct boot *boot, uint64_t base, uint64_t size)
{
	if (boot->used_count == BOOT_USED_MAX)
		return false;
	boot->used[boot->used_count++] = (struct memory_range){ .base = base, .size = size };
	return true;
}

int boot_claim(struct boot *boot, uint64_t base, uint64_t size, const char *what, struct error *err)
{
	const struct memory_range *other;

	if (!is_ram(boot, base, size))
		return error_set(
			err, 0,
			"%s needs memory at 0x%llx-0x%llx, where the machine of %llu MiB has none",
			what, (unsigned long long)base, (unsigned long long)(base + size - 1),
			(unsigned long long)boot->memory->ram_size >> 20);
	other = overlapping(boot, base, size);
	if (other)
		return error_set(err, 0, "%s at 0x%llx-0x%llx overlaps what is loaded at 0x%llx",
				 what, (unsigned long long)base,
				 (unsigned long long)(base + size - 1),
				 (unsigned long long)other->base);
	if (!take(boot, base, size))
		return error_set(err, 0, "%s: too many parts to load", what);
	return 0;
}

uint64_t boot_place_low(struct boot *boot, uint64_t size, uint64_t align, uint64_t min,
			uint64_t limit)
{
	for (unsigned i = 0; i < boot->range_count; i++) {
		const struct memory_range *r = &boot->ranges[i];
		uint64_t end = MIN(r->base + r->size, limit);
		uint64_t at = ALIGN_UP(MAX(r->base, MAX(min, (uint64_t)LOW_DATA_MIN)), align);

		if (r->type != MEMORY_RAM)
			continue;
		while (at < end && size <= end - at) {
			const struct memory_range *other = overlapping(boot, at, size);

			if (!other)
				return take(boot, at, size) ? at : 0;
			at = ALIGN_UP(other->base + other->size, align);
		}
	}
	return 0;
}

uint64_t boot_place_high(struct boot *boot, uint64_t size, uint64_t align, uint64_t limit)
{
	for (unsigned i = boot->range_count; i-- > 0;) {
		const struct memory_range *r = &boot->ranges[i];
		uint64_t end = MIN(r->base + r->size, limit);

		if (r->type != MEMORY_RAM)
			continue;
		while (end > r->base && size <= end - r->base) {
			uint64_t at = ALIGN_DOWN(end - size, align);
			const struct memory_range *other;

			if (at < r->base || at == 0)
				break;
			other = overlapping(boot, at, size);
			if (!other)
				return take(boot, at, size) ? at : 0;
			end = other->base;
		}
	}
	return 0;
}

uint64_t boot_place_data(struct boot *boot, uint64_t size, uint64_t align, const char *what,
			 struct error *err)
{
	uint64_t at = boot_place_low(boot, size, align, 0, CONVENTIONAL_END);

	if (!at)
		at = boot_place_low(boot, size, align, MIB(1), GIB(4));
	if (!at)
		error_set(err, 0, "no room for the %s (%llu bytes) in memory of %llu MiB", what,
			  (unsigned long long)size,
			  (unsigned long long)boot->memory->ram_size >> 20);
	return at;
}

void *boot_host(struct boot *boot, uint64_t gpa, uint64_t size)
{
	return guest_memory_host(boot->memory, gpa, size, true);
}

uint64_t boot_place_string(struct boot *boot, const char *text, const char *what, struct error *err)
{
	size_t size = strlen(text) + 1;
	uint64_t at = boot_place_data(boot, size, 16, what, err);

	if (at)
		memcpy(boot_host(boot, at, size), text, size);
	return at;
}

int boot_load_initrd(struct boot *boot, uint64_t limit, struct error *err)
{
	cleanup_close int fd = -1;
	struct stat st;
	uint64_t done = 0, at;
	uint8_t *host;

	if (!boot->initrd)
		return 0;
	fd = open(boot->initrd, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot open initrd '%s'", boot->initrd);
	if (fstat(fd, &st))
		return error_set_errno(err, errno, "cannot read initrd '%s'", boot->initrd);
	if (!S_ISREG(st.st_mode))
		return error_set(err, 0, "initrd '%s' is not a regular file", boot->initrd);
	if (st.st_size == 0)
		return error_set(err, 0, "initrd '%s' is empty", boot->initrd);
	at = (uint64_t)st.st_size > limit ?
		     0 :
		     boot_place_high(boot, (uint64_t)st.st_size, PAGE_SIZE, limit);
	if (!at)
		return error_set(
			err, 0,
			"initrd '%s' of %llu MiB does not fit beside the kernel in memory of %llu MiB",
			boot->initrd, ((unsigned long long)st.st_size + MIB(1) - 1) >> 20,
			(unsigned long long)boot->memory->ram_size >> 20);
	host = boot_host(boot, at, (uint64_t)st.st_size);
	while (done < (uint64_t)st.st_size) {
		ssize_t n =
			pread(fd, host + done, (size_t)((uint64_t)st.st_size - done), (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "cannot read initrd '%s'", boot->initrd);
		if (n == 0)
			return error_set(err, 0, "initrd '%s' became shorter while it was read",
					 boot->initrd);
		done += (uint64_t)n;
	}
	boot->initrd_address = at;
	boot->initrd_size = (uint64_t)st.st_size;
	return 0;
}

/* ---- state at entry ---- */

static uint64_t place_gdt(struct boot *boot, bool long_mode, struct error *err)
{
	const uint64_t gdt[] = {
		0,
		0,
		long_mode ? 0x00af9b000000ffff :
			    0x00cf9b000000ffff, /* 0x10: code, 4 GiB or 64-bit */
		0x00cf93000000ffff,             /* 0x18: data, 4 GiB */
		0x00008b0000000067,             /* 0x20: a busy TSS at 0 */
		0,                              /* its upper half in long mode */
	};
	uint64_t at = boot_place_data(boot, sizeof(gdt), 16, "descriptor table", err);

	if (!at)
		return 0;
	memcpy(boot_host(boot, at, sizeof(gdt)), gdt, sizeof(gdt));
	boot->state.gdt = (struct x86_table){ .base = at, .limit = sizeof(gdt) - 1 };
	return at;
}

static void set_flat_segments(struct x86_cpu_state *s, bool long_mode)
{
	static const enum x86_seg data[] = { X86_ES, X86_SS, X86_DS, X86_FS, X86_GS };

	s->seg[X86_CS] = (struct x86_segment){
		.selector = GDT_CODE,
		.attr = X86_ATTR_G | (long_mode ? X86_ATTR_L : X86_ATTR_DB) | X86_ATTR_P |
			X86_ATTR_S | 0xb,
		.limit = 0xffffffff,
	};
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		s->seg[data[i]] = (struct x86_segment){
			.selector = GDT_DATA,
			.attr = X86_ATTR_G | X86_ATTR_DB | X86_ATTR_P | X86_ATTR_S | 0x3,
			.limit = 0xffffffff,
		};
	s->seg[X86_TR] = (struct x86_segment){
		.selector = GDT_TSS,
		.attr = X86_ATTR_P | 0xb,
		.limit = 0x67,
	};
	s->seg[X86_LDTR] = (struct x86_segment){ .attr = X86_ATTR_P | 0x2, .limit = 0xffff };
}

static int check_entry(struct boot *boot, uint64_t entry, struct error *err)
{
	if (guest_memory_host(boot->memory, entry, 1, false))
		return 0;
	return error_set(err, 0,
			 "kernel '%s' is corrupt: there is no memory at its entry point 0x%llx",
			 boot->kernel, (unsigned long long)entry);
}

int boot_enter_protected(struct boot *boot, uint64_t entry, struct error *err)
{
	struct x86_cpu_state *s = &boot->state;

	if (check_entry(boot, entry, err) || !place_gdt(boot, false, err))
		return -1;
	set_flat_segments(s, false);
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	s->rflags = X86_FLAG_R1;
	s->rip = entry;
	return 0;
}

/* Page tables that map the first 4 GiB to themselves with 2 MiB pages: PML4, PDPT, four
 * directories. */
static uint64_t place_identity_map(struct boot *boot, struct error *err)
{
	const uint64_t present_writable = 3, large = 0x80;
	uint64_t at = boot_place_data(boot, 6 * PAGE_SIZE, PAGE_SIZE, "page tables", err);
	uint64_t *table;

	if (!at)
		return 0;
	table = boot_host(boot, at, 6 * PAGE_SIZE);
	table[0] = (at + PAGE_SIZE) | present_writable;
	for (unsigned i = 0; i < 4; i++)
		table[512 + i] = (at + (2 + i) * PAGE_SIZE) | present_writable;
	for (unsigned i = 0; i < 4 * 512; i++)
		table[1024 + i] = (uint64_t)i << 21 | large | present_writable;
	return at;
}

int boot_enter_long(struct boot *boot, uint64_t entry, struct error *err)
{
	struct x86_cpu_state *s = &boot->state;
	uint64_t cr3;

	if (check_entry(boot, entry, err))
		return -1;
	cr3 = place_identity_map(boot, err);
	if (!cr3 || !place_gdt(boot, true, err))
		return -1;
	set_flat_segments(s, true);
	s->cr3 = cr3;
	s->cr4 = X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
	s->rflags = X86_FLAG_R1;
	s->rip = entry;
	return 0;
}

/* ---- the whole ---- */

/*
 * What a BIOS leaves in its data area (the fields kernels read): COM1's port, the segment of the
 * extended data area, KiB of conventional memory; and the size of the extended area in its first
 * byte.
 */
static int write_bios_data(struct boot *boot, struct error *err)
{
	uint8_t *bda = guest_memory_host(boot->memory, 0x400, 0x100, true);
	uint8_t *ebda = guest_memory_host(boot->memory, CONVENTIONAL_END, 1, true);

	if (!bda || !ebda)
		return error_set(err, 0, "memory of %llu KiB is less than a PC's first 640 KiB",
				 (unsigned long long)boot->memory->ram_size >> 10);
	store_le16(bda + 0x00, 0x3f8);
	store_le16(bda + 0x0e, CONVENTIONAL_END >> 4);
	store_le16(bda + 0x13, CONVENTIONAL_END >> 10);
	*ebda = 1;
	return 0;
}

/*
 * The interrupt vectors of a machine without BIOS services, for kernels that try them in real mode:
 * a service call comes back with carry set and AH = 86h ("not supported"), INT 12h tells the size of
 * conventional memory, interrupts of the PICs are acknowledged, and a jump to the reset vector resets.
 */
static int write_vectors(struct boot *boot, struct error *err)
{
	static const uint8_t unsupported[] = {
		0x55, 0x89, 0xe5,       /* push bp; mov bp, sp */
		0x80, 0x4e, 0x06, 0x01, /* or byte [bp + 6], 1: CF of the caller */
		0xb4, 0x86, 0x5d, 0xcf, /* mov ah, 86h; pop bp; iret */
	};
	static const uint8_t memory_size[] = { 0xb8, (CONVENTIONAL_END >> 10) & 0xff,
					       CONVENTIONAL_END >> 18, 0xcf };
	static const uint8_t master[] = { 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf };
	static const uint8_t slave[] = { 0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf };
	static const uint8_t reset[] = { 0xb0, 0xfe, 0xe6, 0x64, 0xf4 }; /* through the 8042 */
	enum {
		SEGMENT = 0xf000,
		UNSUPPORTED = 0xff00,
		MEMORY_SIZE = 0xff10,
		MASTER = 0xff20,
		SLAVE = 0xff30,
		NOTHING = 0xff40,
		RESET = 0xfff0
	};
	uint8_t *vectors = guest_memory_host(boot->memory, 0, 0x400, true);
	uint8_t *code = guest_memory_host(boot->memory, SEGMENT << 4, 0x10000, true);

	if (!vectors || !code)
		return error_set(err, 0, "memory ends below 1 MiB");
	memcpy(code + UNSUPPORTED, unsupported, sizeof(unsupported));
	memcpy(code + MEMORY_SIZE, memory_size, sizeof(memory_size));
	memcpy(code + MASTER, master, sizeof(master));
	memcpy(code + SLAVE, slave, sizeof(slave));
	code[NOTHING] = 0xcf; /* iret */
	memcpy(code + RESET, reset, sizeof(reset));
	for (unsigned n = 0; n < 256; n++) {
		uint16_t offset = n == 0x12                             ? MEMORY_SIZE :
				  n >= 0x08 && n <= 0x0f                ? MASTER :
				  n >= 0x70 && n <= 0x77                ? SLAVE :
				  (n >= 0x10 && n <= 0x1a) || n == 0x2f ? UNSUPPORTED :
									  NOTHING;

		store_le16(vectors + n * 4, offset);
		store_le16(vectors + n * 4 + 2, SEGMENT);
	}
	return 0;
}

int boot_load(struct boot *boot, struct error *err)
{
	struct file_map kernel;
	int result;

	if (!boot->kernel)
		return error_set(err, 0,
				 "no kernel given: the machine boots one directly (-k FILE)");
	boot->used_count = 0;
	boot->kernel_address = boot->initrd_address = boot->initrd_size = 0;
	boot->cmdline_address = boot->cmdline_size = 0;
	x86_cpu_reset(&boot->state, true);
	if (write_bios_data(boot, err) || write_vectors(boot, err) ||
	    file_map_open(&kernel, "kernel", boot->kernel, KERNEL_SIZE_MAX, err))
		return -1;
	if (boot_is_bzimage(&kernel))
		result = boot_bzimage(boot, &kernel, err);
	else if (boot_is_multiboot(&kernel))
		result = boot_multiboot(boot, &kernel, err);
	else if (boot_is_elf(&kernel))
		result = boot_elf(boot, &kernel, err);
	else
		result = error_set(
			err, 0, "kernel '%s' is neither a Linux bzImage, nor ELF, nor multiboot%s",
			boot->kernel, kernel.size < 1024 ? " (it is very short: truncated?)" : "");
	file_map_close(&kernel);
	return result;
}
