/* SPDX-License-Identifier: MIT */
/* Boot loaders on small synthetic kernels: what is loaded where, the entry state, and bad files. */
#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "machine/boot.h"
#include "machine/decompress.h"

#define RAM MIB(64)
#define ELF_CODE_OFFSET 0x1000u
#define ELF_PADDR MIB(16)
#define KERNEL_MAX MIB(1)

struct scene {
	struct guest_memory memory;
	struct boot boot;
	struct error err;
	char kernel[64], initrd[64], module[80];
	uint8_t file[KERNEL_MAX];
	size_t size;
};

/* ---- files ---- */

static void write_file(const char *path, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static void describe(struct scene *s, uint64_t ram)
{
	struct boot *b = &s->boot;

	b->range_count = 0;
	b->ranges[b->range_count++] = (struct memory_range){ 0, 0x9fc00, MEMORY_RAM };
	b->ranges[b->range_count++] = (struct memory_range){ 0x9fc00, 0x400, MEMORY_RESERVED };
	b->ranges[b->range_count++] = (struct memory_range){ 0xe0000, 0x20000, MEMORY_RESERVED };
	b->ranges[b->range_count++] = (struct memory_range){ MIB(1), ram - MIB(1), MEMORY_RAM };
}

static int setup(void **test)
{
	struct scene *s = calloc(1, sizeof(*s));

	if (!s || guest_memory_create(&s->memory, RAM, &s->err))
		return -1;
	snprintf(s->kernel, sizeof(s->kernel), "/tmp/lodge-test-%d-kernel", getpid());
	snprintf(s->initrd, sizeof(s->initrd), "/tmp/lodge-test-%d-initrd", getpid());
	s->boot = (struct boot){ .memory = &s->memory,
				 .kernel = s->kernel,
				 .append = "console=ttyS0",
				 .rsdp = 0xe0000 };
	describe(s, RAM);
	*test = s;
	return 0;
}

static int teardown(void **test)
{
	struct scene *s = *test;

	unlink(s->kernel);
	unlink(s->initrd);
	guest_memory_destroy(&s->memory);
	free(s);
	return 0;
}

static const uint8_t *at(struct scene *s, uint64_t gpa)
{
	const uint8_t *p = guest_memory_host(&s->memory, gpa, 1, false);

	assert_non_null(p);
	return p;
}

static int load(struct scene *s)
{
	write_file(s->kernel, s->file, s->size);
	return boot_load(&s->boot, &s->err);
}

static void expect_error(struct scene *s, const char *words)
{
	assert_int_equal(load(s), -1);
	if (!strstr(s->err.text, words) || !strstr(s->err.text, s->kernel))
		fail_msg("'%s' does not say '%s' and the file", s->err.text, words);
}

/* ---- synthetic kernels ---- */

/* An ELF64 file: one segment of 64 bytes of code (and as much bss) at 16 MiB. */
static size_t make_elf64(uint8_t *file, uint16_t machine)
{
	Elf64_Ehdr eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 },
			  .e_type = ET_EXEC,
			  .e_machine = machine,
			  .e_version = 1,
			  .e_entry = ELF_PADDR,
			  .e_phoff = sizeof(eh),
			  .e_ehsize = sizeof(eh),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = 1 };
	Elf64_Phdr ph = { .p_type = PT_LOAD,
			  .p_flags = 7,
			  .p_offset = ELF_CODE_OFFSET,
			  .p_vaddr = 0xffffffff81000000,
			  .p_paddr = ELF_PADDR,
			  .p_filesz = 64,
			  .p_memsz = 128,
			  .p_align = 0x1000 };

	memset(file, 0, ELF_CODE_OFFSET);
	memcpy(file, &eh, sizeof(eh));
	memcpy(file + sizeof(eh), &ph, sizeof(ph));
	for (unsigned i = 0; i < 64; i++)
		file[ELF_CODE_OFFSET + i] = (uint8_t)(0xc0 + i);
	return ELF_CODE_OFFSET + 64;
}

static size_t make_elf32(uint8_t *file)
{
	Elf32_Ehdr eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 },
			  .e_type = ET_EXEC,
			  .e_machine = EM_386,
			  .e_version = 1,
			  .e_entry = ELF_PADDR + 4,
			  .e_phoff = sizeof(eh),
			  .e_ehsize = sizeof(eh),
			  .e_phentsize = sizeof(Elf32_Phdr),
			  .e_phnum = 1 };
	Elf32_Phdr ph = { .p_type = PT_LOAD,
			  .p_flags = 7,
			  .p_offset = ELF_CODE_OFFSET,
			  .p_vaddr = 0xc1000000,
			  .p_paddr = ELF_PADDR,
			  .p_filesz = 64,
			  .p_memsz = 128,
			  .p_align = 0x1000 };

	memset(file, 0, ELF_CODE_OFFSET);
	memcpy(file, &eh, sizeof(eh));
	memcpy(file + sizeof(eh), &ph, sizeof(ph));
	memset(file + ELF_CODE_OFFSET, 0x90, 64);
	return ELF_CODE_OFFSET + 64;
}

/* Add a PT_NOTE with the PVH entry to the file of make_elf64(). */
static void add_pvh_note(uint8_t *file, uint32_t entry)
{
	Elf64_Phdr ph = { .p_type = PT_NOTE, .p_offset = 0x800, .p_filesz = 40, .p_memsz = 40 };
	uint32_t notes[10] = { 4, 4, 7, 0, 0xdeadbeef, 4, 4, 18, 0, entry };

	memcpy(&notes[3], "Xen", 4);
	memcpy(&notes[8], "Xen", 4);
	memcpy(file + 0x800, notes, sizeof(notes));
	memcpy(file + sizeof(Elf64_Ehdr) + sizeof(ph), &ph, sizeof(ph));
	file[offsetof(Elf64_Ehdr, e_phnum)] = 2;
}

/* A bzImage of protocol 2.15 around a body. payload: offset in the body, 0 for none. */
static void make_bzimage(struct scene *s, const uint8_t *body, size_t body_size, uint32_t payload,
			 uint32_t payload_size)
{
	uint8_t *f = s->file;

	memset(f, 0, 5 * 512);
	f[0x1f1] = 4;
	store_le32(f + 0x1f4, (uint32_t)((body_size + 15) / 16));
	store_le16(f + 0x1fe, 0xaa55);
	f[0x200] = 0xeb;
	f[0x201] = 0x6a;
	memcpy(f + 0x202, "HdrS", 4);
	store_le16(f + 0x206, 0x20f);
	f[0x211] = 1;
	store_le32(f + 0x214, 0x100000);
	store_le32(f + 0x22c, 0x7fffffff);
	store_le32(f + 0x230, 0x200000);
	f[0x234] = 1;
	store_le16(f + 0x236, 1);
	store_le32(f + 0x238, 255);
	store_le32(f + 0x248, payload);
	store_le32(f + 0x24c, payload_size);
	store_le64(f + 0x258, 0x1000000);
	store_le32(f + 0x260, 0x800000);
	memcpy(f + 5 * 512, body, body_size);
	s->size = 5 * 512 + body_size;
}

static void make_plain_bzimage(struct scene *s)
{
	uint8_t body[4096];

	for (unsigned i = 0; i < sizeof(body); i++)
		body[i] = (uint8_t)(i * 7);
	make_bzimage(s, body, sizeof(body), 0, 0);
}

/* The body: 512 bytes, then the payload with the unpacked size behind it. */
static void make_packed_bzimage(struct scene *s, const uint8_t *packed, size_t packed_size,
				uint32_t unpacked)
{
	size_t size = 512 + packed_size + 4;
	uint8_t *body = calloc(1, size);

	assert_non_null(body);
	memcpy(body + 512, packed, packed_size);
	store_le32(body + 512 + packed_size, unpacked);
	make_bzimage(s, body, size, 512, (uint32_t)packed_size + 4);
	free(body);
}

/* ---- packers ---- */

static size_t pack_gzip(const uint8_t *data, size_t size, uint8_t *out)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)data,
		       .avail_in = (uInt)size,
		       .next_out = out,
		       .avail_out = 65536 };

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static size_t pack_xz(const uint8_t *data, size_t size, uint8_t *out)
{
	size_t n = 0;

	assert_int_equal(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, data, size, out, &n,
						 65536),
			 LZMA_OK);
	return n;
}

static size_t pack_zstd(const uint8_t *data, size_t size, uint8_t *out)
{
	size_t n = ZSTD_compress(out, 65536, data, size, 3);

	assert_false(ZSTD_isError(n));
	return n;
}

/* Literals only, then a run: enough of LZ4 to be a valid block. */
static size_t pack_lz4(const uint8_t *data, size_t size, uint8_t *out)
{
	size_t n = 8, literals = size;

	store_le32(out, 0x184c2102);
	out[n++] = 0xf0;
	for (literals -= 15; literals >= 255; literals -= 255)
		out[n++] = 255;
	out[n++] = (uint8_t)literals;
	memcpy(out + n, data, size);
	n += size;
	store_le32(out + 4, (uint32_t)(n - 8));
	return n;
}

static const struct {
	const char *name;
	size_t (*pack)(const uint8_t *data, size_t size, uint8_t *out);
} packers[] = {
	{ "gzip", pack_gzip }, { "xz", pack_xz }, { "zstd", pack_zstd }, { "lz4", pack_lz4 }
};

/* ---- Linux ---- */

static void check_params(struct scene *s, const uint8_t *params)
{
	assert_int_equal(params[0x1e8], s->boot.range_count);
	assert_int_equal(load_le64(params + 0x2d0 + 20 * 3), MIB(1));
	assert_int_equal(load_le64(params + 0x2d0 + 20 * 3 + 8), RAM - MIB(1));
	assert_int_equal(load_le32(params + 0x2d0 + 20 * 3 + 16), 1);
	assert_int_equal(load_le64(params + 0x70), 0xe0000);
	assert_int_equal(load_le16(params + 0x1fe), 0xaa55);
	assert_memory_equal(params + 0x202, "HdrS", 4);
	assert_int_equal(params[0x210], 0xff);
	assert_int_equal(params[0x1ef], 0);
	assert_string_equal(at(s, load_le32(params + 0x228)), "console=ttyS0");
	assert_int_equal(load_le32(at(s, load_le64(params + 0x250)) + 8), 9);
}

static void check_long_mode(struct scene *s)
{
	const struct x86_cpu_state *c = &s->boot.state;
	const uint8_t *pml4 = at(s, c->cr3), *pd;

	assert_int_equal(c->cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE | X86_CR0_PG);
	assert_int_equal(c->efer, X86_EFER_LME | X86_EFER_LMA);
	assert_true(c->seg[X86_CS].attr & X86_ATTR_L);
	assert_false(c->seg[X86_CS].attr & X86_ATTR_DB);
	assert_int_equal(c->rflags, X86_FLAG_R1);
	pd = at(s, load_le64(at(s, (load_le64(pml4) & ~0xfffull)) + 3 * 8) & ~0xfffull);
	assert_int_equal(load_le64(pd + 511 * 8), 0xffe00083);
}

static void test_bzimage_whole(void **test)
{
	struct scene *s = *test;
	const uint8_t *params;

	make_plain_bzimage(s);
	write_file(s->initrd, "an initial ram disk", 20);
	s->boot.initrd = s->initrd;
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, 0x1000200);
	assert_memory_equal(at(s, 0x1000000), s->file + 5 * 512, 4096);
	check_long_mode(s);
	params = at(s, s->boot.state.gpr[X86_RSI]);
	check_params(s, params);
	assert_int_equal(load_le32(params + 0x214), 0x1000000);
	assert_int_equal(load_le32(params + 0x21c), 20);
	assert_string_equal(at(s, load_le32(params + 0x218)), "an initial ram disk");
	assert_int_equal(load_le16(at(s, 0x413)), 639);
}

static void test_bzimage_32bit(void **test)
{
	struct scene *s = *test;

	make_plain_bzimage(s);
	store_le16(s->file + 0x236, 0);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, 0x1000000);
	assert_int_equal(s->boot.state.cr0, X86_CR0_PE | X86_CR0_ET);
	assert_true(s->boot.state.seg[X86_CS].attr & X86_ATTR_DB);
	assert_int_equal(s->boot.state.seg[X86_CS].selector, 0x10);
	assert_int_equal(s->boot.state.seg[X86_DS].selector, 0x18);
	check_params(s, at(s, s->boot.state.gpr[X86_RSI]));
	/* One that cannot move goes to 1 MiB. */
	s->file[0x234] = 0;
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, MIB(1));
}

static void test_bzimage_moved(void **test)
{
	struct scene *s = *test;

	make_plain_bzimage(s);
	store_le64(s->file + 0x258, MIB(512)); /* no memory there */
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, MIB(2) + 0x200);
}

static void test_bzimage_packed(void **test)
{
	struct scene *s = *test;
	static uint8_t elf[8192], packed[65536];

	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		size_t size = make_elf64(elf, EM_X86_64), n = packers[i].pack(elf, size, packed);

		assert_string_equal(decompress_format(packed, n), packers[i].name);
		make_packed_bzimage(s, packed, n, (uint32_t)size);
		assert_int_equal(load(s), 0);
		assert_int_equal(s->boot.state.rip, ELF_PADDR);
		assert_memory_equal(at(s, ELF_PADDR), elf + ELF_CODE_OFFSET, 64);
		check_long_mode(s);
		check_params(s, at(s, s->boot.state.gpr[X86_RSI]));
		s->boot.keep_compressed = true;
		assert_int_equal(load(s), 0);
		assert_int_equal(s->boot.state.rip, 0x1000200);
		s->boot.keep_compressed = false;
		/* Damage in the middle is noticed, or does no harm. */
		s->file[5 * 512 + 512 + n / 2] ^= 0xff;
		if (load(s))
			assert_non_null(strstr(s->err.text, "corrupt"));
	}
	/* A payload that is not a kernel is left to the guest. */
	memset(elf, 1, 4096);
	make_packed_bzimage(s, packed, pack_gzip(elf, 4096, packed), 4096);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, 0x1000200);
	/* So is a 32-bit one, in a kernel with a 64-bit entry. */
	make_packed_bzimage(s, packed, pack_gzip(elf, make_elf32(elf), packed),
			    ELF_CODE_OFFSET + 64);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, 0x1000200);
	store_le16(s->file + 0x236, 0);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR + 4);
	assert_int_equal(s->boot.state.cr0, X86_CR0_PE | X86_CR0_ET);
}

/* Kernels before 6.15 have a CRC-32 at their end, which secure-boot signing does not change. */
static void test_bzimage_checksum(void **test)
{
	struct scene *s = *test;
	uint8_t *pe = s->file + 0x40;
	uint32_t crc;

	make_plain_bzimage(s);
	memcpy(s->file, "MZ", 2);
	store_le32(s->file + 0x3c, 0x40);
	memcpy(pe, "PE\0\0", 4);
	store_le16(pe + 24, 0x20b);
	store_le16(s->file + 0x20e, 0x300); /* the version string is at 0x500 */
	memcpy(s->file + 0x500, "6.14.9-test", 12);
	crc = (uint32_t)crc32(0, s->file, (uInt)s->size - 4) ^ 0xffffffff;
	store_le32(s->file + s->size - 4, crc);
	assert_int_equal(load(s), 0);
	store_le32(pe + 24 + 64, 0x12345678); /* signed: checksum and certificate table */
	store_le64(pe + 24 + 144, 0x1122334455667788);
	assert_int_equal(load(s), 0);
	s->file[s->size - 1000] ^= 1;
	expect_error(s, "checksum");
	memcpy(s->file + 0x500, "6.15.0-test", 12);
	assert_int_equal(load(s), 0);
	memcpy(s->file + 0x500, "not a number", 13);
	assert_int_equal(load(s), 0);
	memcpy(s->file + 0x500, "5.10.0-test", 12);
	expect_error(s, "checksum");
	store_le16(s->file + 0x20e, 0xffff); /* beyond the set-up part */
	assert_int_equal(load(s), 0);
}

static void test_bzimage_bad(void **test)
{
	struct scene *s = *test;
	static uint8_t elf[8192], packed[65536];
	char long_line[300];
	size_t n;

	make_plain_bzimage(s);
	s->size -= 1000;
	expect_error(s, "truncated");
	s->size = 1200;
	expect_error(s, "truncated");
	make_plain_bzimage(s);
	store_le16(s->file + 0x206, 0x203);
	expect_error(s, "2.03");
	make_plain_bzimage(s);
	s->file[0x211] = 0;
	expect_error(s, "zImage");
	make_plain_bzimage(s);
	store_le32(s->file + 0x230, 0x300000);
	expect_error(s, "alignment");
	make_plain_bzimage(s);
	store_le32(s->file + 0x260, 0x8000000);
	expect_error(s, "128 MiB");
	make_plain_bzimage(s);
	memset(long_line, 'x', sizeof(long_line) - 1);
	long_line[sizeof(long_line) - 1] = 0;
	s->boot.append = long_line;
	expect_error(s, "299");
	s->boot.append = NULL;
	n = pack_gzip(elf, make_elf64(elf, EM_X86_64), packed);
	make_packed_bzimage(s, packed, n, 0xffffffff);
	expect_error(s, "corrupt");
	make_packed_bzimage(s, packed, n, 4200); /* longer and shorter than it is */
	expect_error(s, "corrupt");
	make_packed_bzimage(s, packed, n, 2000);
	expect_error(s, "corrupt");
	/* A kernel that lies beyond this machine's memory */
	make_elf64(elf, EM_X86_64);
	store_le64(elf + sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_paddr), MIB(512));
	store_le64(elf + offsetof(Elf64_Ehdr, e_entry), MIB(512));
	make_packed_bzimage(s, packed, pack_gzip(elf, ELF_CODE_OFFSET + 64, packed),
			    ELF_CODE_OFFSET + 64);
	expect_error(s, "64 MiB");
}

/* ---- ELF ---- */

static void test_elf_linux(void **test)
{
	struct scene *s = *test;

	s->size = make_elf64(s->file, EM_X86_64);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR);
	check_long_mode(s);
	check_params(s, at(s, s->boot.state.gpr[X86_RSI]));
	assert_memory_equal(at(s, ELF_PADDR), s->file + ELF_CODE_OFFSET, 64);
	/* A virtual entry point is translated. */
	store_le64(s->file + offsetof(Elf64_Ehdr, e_entry), 0xffffffff81000010);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR + 0x10);
}

static void test_elf_pvh(void **test)
{
	struct scene *s = *test;
	const uint8_t *info, *module, *map;

	s->size = make_elf64(s->file, EM_X86_64);
	add_pvh_note(s->file, ELF_PADDR + 8);
	write_file(s->initrd, "module", 7);
	s->boot.initrd = s->initrd;
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR + 8);
	assert_int_equal(s->boot.state.cr0, X86_CR0_PE | X86_CR0_ET);
	info = at(s, s->boot.state.gpr[X86_RBX]);
	assert_int_equal(load_le32(info), 0x336ec578);
	assert_int_equal(load_le32(info + 4), 1);
	assert_int_equal(load_le32(info + 12), 1);
	module = at(s, load_le64(info + 16));
	assert_string_equal(at(s, load_le64(module)), "module");
	assert_int_equal(load_le64(module + 8), 7);
	assert_string_equal(at(s, load_le64(info + 24)), "console=ttyS0");
	assert_int_equal(load_le64(info + 32), 0xe0000);
	assert_int_equal(load_le32(info + 48), s->boot.range_count);
	map = at(s, load_le64(info + 40));
	assert_int_equal(load_le64(map + 3 * 24), MIB(1));
	assert_int_equal(load_le32(map + 3 * 24 + 16), 1);
}

static void test_elf_bad(void **test)
{
	struct scene *s = *test;
	const size_t ph = sizeof(Elf64_Ehdr);

	s->size = make_elf32(s->file);
	expect_error(s, "32-bit");
	make_elf64(s->file, EM_AARCH64);
	s->size = ELF_CODE_OFFSET + 64;
	expect_error(s, "another CPU");
	make_elf64(s->file, EM_X86_64);
	s->size = ELF_CODE_OFFSET + 10;
	expect_error(s, "truncated");
	s->size = ELF_CODE_OFFSET + 64;
	store_le64(s->file + ph + offsetof(Elf64_Phdr, p_memsz), 1ull << 40);
	expect_error(s, "memory");
	make_elf64(s->file, EM_X86_64);
	store_le64(s->file + ph + offsetof(Elf64_Phdr, p_memsz), 8);
	expect_error(s, "corrupt");
	make_elf64(s->file, EM_X86_64);
	store_le64(s->file + ph + offsetof(Elf64_Phdr, p_paddr), ~0ull - 8);
	expect_error(s, "memory");
	make_elf64(s->file, EM_X86_64);
	store_le64(s->file + ph + offsetof(Elf64_Phdr, p_offset), ~0ull - 8);
	expect_error(s, "truncated");
	make_elf64(s->file, EM_X86_64);
	store_le64(s->file + offsetof(Elf64_Ehdr, e_phoff), ~0ull - 8);
	expect_error(s, "truncated");
	make_elf64(s->file, EM_X86_64);
	s->file[offsetof(Elf64_Ehdr, e_phnum)] = 0;
	expect_error(s, "not an executable");
	make_elf64(s->file, EM_X86_64);
	s->file[ph] = PT_TLS;
	expect_error(s, "a program");
}

/* ---- multiboot ---- */

static void put_multiboot_header(uint8_t *file, uint32_t flags)
{
	store_le32(file, 0x1badb002);
	store_le32(file + 4, flags);
	store_le32(file + 8, -(0x1badb002 + flags));
}

static const uint8_t *check_multiboot(struct scene *s, const char *arguments)
{
	const struct x86_cpu_state *c = &s->boot.state;
	const uint8_t *info = at(s, c->gpr[X86_RBX]);
	const char *line = (const char *)at(s, load_le32(info + 16));

	assert_int_equal(c->gpr[X86_RAX], 0x2badb002);
	assert_int_equal(c->cr0, X86_CR0_PE | X86_CR0_ET);
	assert_int_equal(load_le32(info) & 0x245, 0x245);
	assert_int_equal(load_le32(info + 4), 639);
	assert_int_equal(load_le32(info + 8), (RAM - MIB(1)) >> 10);
	assert_int_equal(strncmp(line, s->kernel, strlen(s->kernel)), 0);
	assert_string_equal(line + strlen(s->kernel), arguments);
	assert_int_equal(load_le32(info + 44), s->boot.range_count * 24);
	assert_int_equal(load_le32(at(s, load_le32(info + 48))), 20);
	assert_string_equal(at(s, load_le32(info + 64)), "Lodge");
	return info;
}

static void test_multiboot_elf(void **test)
{
	struct scene *s = *test;
	const uint8_t *info, *modules;
	char list[256];

	s->size = make_elf32(s->file);
	put_multiboot_header(s->file + 0x100, 3);
	write_file(s->initrd, "first module", 13);
	snprintf(list, sizeof(list), "%s one two,%s", s->initrd, s->initrd);
	s->boot.initrd = list;
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR + 4);
	info = check_multiboot(s, " console=ttyS0");
	assert_int_equal(load_le32(info + 20), 2);
	modules = at(s, load_le32(info + 24));
	assert_int_equal(load_le32(modules) % 4096, 0);
	assert_int_equal(load_le32(modules + 4) - load_le32(modules), 13);
	assert_string_equal(at(s, load_le32(modules)), "first module");
	snprintf(list, sizeof(list), "%s one two", s->initrd);
	assert_string_equal(at(s, load_le32(modules + 8)), list);
	assert_string_equal(at(s, load_le32(modules + 16)), "first module");
	/* A video mode may be asked for; other required features are unknown. */
	s->boot.initrd = s->boot.append = NULL;
	put_multiboot_header(s->file + 0x100, 7);
	assert_int_equal(load(s), 0);
	check_multiboot(s, "");
	put_multiboot_header(s->file + 0x100, 8);
	expect_error(s, "0x8");
	/* ELF64 */
	s->size = make_elf64(s->file, EM_X86_64);
	put_multiboot_header(s->file + 0x100, 3);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, ELF_PADDR);
	assert_int_equal(s->boot.state.cr0, X86_CR0_PE | X86_CR0_ET);
	s->boot.initrd = "/nonexistent/module";
	assert_int_equal(load(s), -1);
	assert_non_null(strstr(s->err.text, "/nonexistent/module"));
}

static void test_multiboot_addresses(void **test)
{
	struct scene *s = *test;
	uint8_t *h = s->file + 64;

	memset(s->file, 0x90, 8192);
	s->size = 8192;
	put_multiboot_header(h, 0x10003);
	store_le32(h + 12, MIB(2) + 64); /* header */
	store_le32(h + 16, MIB(2));      /* load */
	store_le32(h + 20, MIB(2) + 4096);
	store_le32(h + 24, MIB(2) + 16384);
	store_le32(h + 28, MIB(2) + 128);
	assert_int_equal(load(s), 0);
	assert_int_equal(s->boot.state.rip, MIB(2) + 128);
	assert_int_equal(*at(s, MIB(2) + 4095), 0x90);
	assert_int_equal(*at(s, MIB(2) + 4096), 0);
	check_multiboot(s, " console=ttyS0");
	/* No end given: the whole file */
	store_le32(h + 20, 0);
	store_le32(h + 24, 0);
	assert_int_equal(load(s), 0);
	assert_int_equal(*at(s, MIB(2) + 8191), 0x90);
	store_le32(h + 20, MIB(2) + 8193);
	expect_error(s, "truncated");
	store_le32(h + 20, MIB(2) - 1);
	expect_error(s, "corrupt");
	store_le32(h + 20, MIB(2) + 4096);
	store_le32(h + 24, MIB(2) + 4095);
	expect_error(s, "corrupt");
	store_le32(h + 24, 0xffffffff);
	expect_error(s, "memory");
	store_le32(h + 24, 0);
	store_le32(h + 16, MIB(2) - 1);
	expect_error(s, "corrupt");
	/* Low memory is allowed, and what the loader places goes elsewhere. */
	store_le32(h + 12, 0x4000 + 64);
	store_le32(h + 16, 0x4000);
	store_le32(h + 20, 0x4000 + 4096);
	store_le32(h + 24, 0x80000);
	assert_int_equal(load(s), 0);
	assert_true(s->boot.state.gpr[X86_RBX] < 0x4000 || s->boot.state.gpr[X86_RBX] >= 0x80000);
	/* The BIOS area is not. */
	store_le32(h + 24, 0xa0000);
	expect_error(s, "memory");
}

/* ---- files that are not kernels ---- */

static void test_bad_files(void **test)
{
	struct scene *s = *test;

	assert_int_equal(boot_load(&s->boot, &s->err), -1);
	assert_non_null(strstr(s->err.text, "No such file"));
	s->size = 0;
	expect_error(s, "empty");
	s->size = 100;
	memset(s->file, 'x', 100);
	expect_error(s, "neither");
	assert_int_equal(truncate(s->kernel, (off_t)1 << 40), 0);
	assert_int_equal(boot_load(&s->boot, &s->err), -1);
	assert_non_null(strstr(s->err.text, "too large"));
	s->boot.kernel = "/tmp";
	assert_int_equal(boot_load(&s->boot, &s->err), -1);
	assert_non_null(strstr(s->err.text, "regular"));
	s->boot.kernel = s->kernel;
	make_plain_bzimage(s);
	s->boot.initrd = s->initrd;
	assert_int_equal(load(s), -1);
	assert_non_null(strstr(s->err.text, s->initrd));
	write_file(s->initrd, "", 0);
	assert_int_equal(load(s), -1);
	assert_non_null(strstr(s->err.text, "empty"));
	assert_int_equal(truncate(s->initrd, (off_t)1 << 40), 0);
	assert_int_equal(load(s), -1);
	assert_non_null(strstr(s->err.text, "does not fit"));
	assert_int_equal(truncate(s->initrd, MIB(60)), 0);
	assert_int_equal(load(s), -1);
	assert_non_null(strstr(s->err.text, s->initrd));
}

/* Kernels cut off anywhere and with random bytes: an error or a load, nothing else. */
static void test_mangled(void **test)
{
	struct scene *s = *test;
	static uint8_t elf[8192], packed[65536], original[65536];
	uint32_t random = 12345;

	for (unsigned kind = 0; kind < 7; kind++) {
		size_t size, headers;

		if (kind < ARRAY_SIZE(packers)) {
			size = make_elf64(elf, EM_X86_64);
			make_packed_bzimage(s, packed, packers[kind].pack(elf, size, packed),
					    (uint32_t)size);
		} else if (kind == 4) {
			s->size = make_elf64(s->file, EM_X86_64);
			add_pvh_note(s->file, ELF_PADDR);
		} else if (kind == 5) {
			s->size = make_elf32(s->file);
			put_multiboot_header(s->file + 0x100, 3);
		} else {
			s->size = 8192;
			put_multiboot_header(s->file, 0x10003);
			store_le32(s->file + 12, MIB(2));
			store_le32(s->file + 16, MIB(2));
		}
		size = s->size;
		headers = MIN(size, (size_t)3500);
		memcpy(original, s->file, size);
		for (s->size = 1; s->size < size; s->size += 61)
			load(s);
		s->size = size;
		for (unsigned round = 0; round < 400; round++) {
			memcpy(s->file, original, size);
			for (unsigned i = 0; i < 1 + round % 4; i++) {
				random = random * 1664525 + 1013904223;
				s->file[(random >> 8) % headers] = (uint8_t)(random >> 3);
			}
			load(s);
		}
	}
}

/* ---- LZ4 ---- */

struct collected {
	uint8_t *data;
	size_t capacity;
	int stop;
};

static int collect(void *opaque, uint64_t offset, const uint8_t *data, size_t size)
{
	struct collected *c = opaque;

	assert_true(offset <= c->capacity && size <= c->capacity - offset);
	memcpy(c->data + offset, data, size);
	return c->stop;
}

static int unlz4(const uint8_t *block, size_t size, uint8_t *out, size_t expected)
{
	struct collected c = { .data = out, .capacity = expected };
	uint8_t frame[256];
	struct error err;

	store_le32(frame, 0x184c2102);
	store_le32(frame + 4, (uint32_t)size);
	memcpy(frame + 8, block, size);
	return decompress(frame, size + 8, expected, collect, &c, &err);
}

static void test_lz4(void **test)
{
	static const uint8_t run[] = { 0x1f, 'a', 1, 0, 0x10, 0x50, 'b', 'c', 'd', 'e', 'f' };
	static const uint8_t far[] = { 0x10, 'a', 2, 0 };  /* begins before the start */
	static const uint8_t none[] = { 0x10, 'a', 0, 0 }; /* distance 0 */
	static const uint8_t cut[] = { 0xf0, 255 };        /* a length that does not end */
	static const uint8_t short_literals[] = { 0x50, 'a', 'b' };
	static const uint8_t no_distance[] = { 0x10, 'a', 1 };
	uint8_t out[64];

	(void)test;
	assert_int_equal(unlz4(run, sizeof(run), out, 1 + 35 + 5), 0);
	for (unsigned i = 0; i < 36; i++)
		assert_int_equal(out[i], 'a');
	assert_memory_equal(out + 36, "bcdef", 5);
	assert_int_equal(unlz4(run, sizeof(run), out, 40), -1);
	assert_int_equal(unlz4(run, sizeof(run), out, 42), -1);
	assert_int_equal(unlz4(far, sizeof(far), out, sizeof(out)), -1);
	assert_int_equal(unlz4(none, sizeof(none), out, sizeof(out)), -1);
	assert_int_equal(unlz4(cut, sizeof(cut), out, sizeof(out)), -1);
	assert_int_equal(unlz4(short_literals, sizeof(short_literals), out, sizeof(out)), -1);
	assert_int_equal(unlz4(no_distance, sizeof(no_distance), out, sizeof(out)), -1);
}

/* Many blocks, with every distance and overlap; what comes out is what went in. */
static void test_lz4_large(void **test)
{
	const size_t size = 20 << 20, block_size = 8 << 20;
	uint8_t *expected = malloc(size), *out = calloc(1, size), *frame = malloc(size + (1 << 20));
	struct collected c = { .data = out, .capacity = size };
	struct error err;
	uint32_t random = 1;
	size_t n = 4, at = 0;

	(void)test;
	assert_true(expected && out && frame);
	store_le32(frame, 0x184c2102);
	while (at < size) {
		size_t start = at, end = MIN(at + block_size, size), header = n;

		n += 4;
		while (end - at > 400) {
			unsigned literals, match, distance;

			random = random * 1664525 + 1013904223;
			literals = 1 + (random >> 8) % 40;
			distance = 1 + (random >> 16) % 40;
			match = 4 + (random >> 24);
			frame[n++] = (uint8_t)(MIN(literals, 15u) << 4 | MIN(match - 4, 15u));
			if (literals >= 15)
				frame[n++] = (uint8_t)(literals - 15);
			for (unsigned i = 0; i < literals; i++)
				expected[at++] = frame[n++] = (uint8_t)(random >> (i & 15));
			distance = MIN(distance, (unsigned)(at - start));
			store_le16(frame + n, (uint16_t)distance);
			n += 2;
			if (match - 4 >= 15)
				frame[n++] = (uint8_t)(match - 19);
			for (unsigned i = 0; i < match; i++, at++)
				expected[at] = expected[at - distance];
		}
		frame[n++] = 0xf0;
		for (size_t rest = end - at - 15;; rest -= 255) {
			frame[n++] = (uint8_t)MIN(rest, (size_t)255);
			if (rest < 255)
				break;
		}
		while (at < end)
			expected[at++] = frame[n++] = 0x5a;
		store_le32(frame + header, (uint32_t)(n - header - 4));
	}
	assert_int_equal(decompress(frame, n, size, collect, &c, &err), 0);
	assert_memory_equal(out, expected, size);
	c.stop = 7;
	assert_int_equal(decompress(frame, n, size, collect, &c, &err), 7);
	c.stop = 0;
	assert_int_equal(decompress(frame, n - 100, size, collect, &c, &err), -1);
	free(expected);
	free(out);
	free(frame);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_bzimage_whole),
		TEST(test_bzimage_32bit),
		TEST(test_bzimage_moved),
		TEST(test_bzimage_packed),
		TEST(test_bzimage_checksum),
		TEST(test_bzimage_bad),
		TEST(test_elf_linux),
		TEST(test_elf_pvh),
		TEST(test_elf_bad),
		TEST(test_multiboot_elf),
		TEST(test_multiboot_addresses),
		TEST(test_bad_files),
		TEST(test_mangled),
		cmocka_unit_test(test_lz4),
		cmocka_unit_test(test_lz4_large),
	};

	return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
