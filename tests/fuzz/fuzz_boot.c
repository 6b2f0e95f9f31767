/* SPDX-License-Identifier: MIT */
/*
 * Fuzzing the boot loaders: the input is a kernel file (bzImage, ELF, multiboot, anything), loaded into 16 MiB of guest memory.
 * Nothing may happen outside it, and a refusal must say why in one line.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/boot.h"
#include "machine/decompress.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM MIB(16)

static struct guest_memory memory;
static int fd = -1;
static char path[64];

static void prepare(void)
{
	struct error err = { 0 };

	if (fd >= 0)
		return;
	fd = memfd_create("kernel", 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fd < 0 || guest_memory_create(&memory, RAM, &err))
		abort();
}

static int count_bytes(void *opaque, uint64_t offset, const uint8_t *data, size_t size)
{
	uint8_t sum = 0;

	(void)opaque;
	(void)offset;
	for (size_t i = 0; i < size; i++)
		sum += data[i];
	return sum == 1 && size == 1; /* stops now and then */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = { 0 };
	struct boot boot = {
		.memory = &memory, .kernel = path, .append = "console=ttyS0", .rsdp = 0xe0000, .range_count = 4,
		.ranges = { { 0, 0x9fc00, MEMORY_RAM }, { 0x9fc00, 0x400, MEMORY_RESERVED }, { 0xe0000, 0x20000, MEMORY_RESERVED },
			    { MIB(1), RAM - MIB(1), MEMORY_RAM } },
	};

	prepare();
	if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
		return 0;
	if (madvise(memory.host, RAM, MADV_REMOVE))
		memset(memory.host, 0, RAM);
	boot.keep_compressed = size & 1;
	if (boot_load(&boot, &err)) {
		if (!err.text[0] || strchr(err.text, '\n')) {
			fprintf(stderr, "refused without a line that says why\n");
			abort();
		}
	} else if (boot.kernel_address + 1 > RAM) {
		fprintf(stderr, "loaded outside memory\n");
		abort();
	}
	/* The same bytes as a compressed payload. */
	if (decompress_format(data, size) && decompress(data, size, size * 4, count_bytes, NULL, &err) < 0 && !err.text[0])
		abort();
	return 0;
}
