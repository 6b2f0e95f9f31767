/* SPDX-License-Identifier: MIT */
/*
 * The checksum of a bzImage.
 *
 * From boot protocol 2.08 on, the CRC-32 (reflected polynomial 0x04c11db7, initial remainder
 * 0xffffffff, no final inversion) of the image up to the size in its header is 0, its last four
 * bytes having been chosen so. Kernels from 6.15 on have none; the version is read from the
 * string that the header points at, and only older ones are judged. Signing a kernel for secure
 * boot changes two fields of its PE header after the checksum was made, so these count as the
 * zeroes they were.
 *
 * LZ4, which Debian's cloud kernels use, has no checksum of its own: without this a damaged one
 * would be started. It takes some milliseconds, on a thread of its own while the kernel is
 * unpacked.
 *
 * Sources: Linux Documentation/x86/boot.rst "The image checksum"; Microsoft PE format, "Optional
 * header".
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/util.h"
#include "machine/bzimage_crc.h"

enum {
	MZ_PE_OFFSET = 0x3c,
	HDR_SYSSIZE = 0x1f4,
	HDR_VERSION = 0x206,
	HDR_KERNEL_VERSION = 0x20e, /* of a string, less 0x200 */
	PE_OPTIONAL_HEADER = 24,
	PE_CHECKSUM = PE_OPTIONAL_HEADER + 64,
	PE32_MAGIC = 0x10b,
	PE32_SECURITY = PE_OPTIONAL_HEADER + 128, /* data directory 4: the signatures */
	PE32_PLUS_SECURITY = PE_OPTIONAL_HEADER + 144,
	PE_SECURITY_SIZE = 8,
};

/* Is it a kernel old enough to have a checksum? */
static bool has_checksum(const uint8_t *data, size_t setup_size)
{
	size_t at = (size_t)load_le16(data + HDR_KERNEL_VERSION) + 0x200;
	char text[32], *end;
	long major, minor;

	if (load_le16(data + HDR_VERSION) < 0x208 || at == 0x200 || at + sizeof(text) > setup_size)
		return false;
	memcpy(text, data + at, sizeof(text));
	text[sizeof(text) - 1] = 0;
	major = strtol(text, &end, 10);
	if (end == text || *end != '.')
		return false;
	minor = strtol(end + 1, NULL, 10);
	return major >= 2 && (major < 6 || (major == 6 && minor < 15));
}

static size_t find_pe(const uint8_t *data, size_t setup_size)
{
	uint32_t at = load_le32(data + MZ_PE_OFFSET);

	if (memcmp(data, "MZ", 2) != 0 || at == 0 || at > setup_size ||
	    setup_size - at < PE32_PLUS_SECURITY + PE_SECURITY_SIZE ||
	    memcmp(data + at, "PE\0\0", 4) != 0)
		return 0;
	return at;
}

static uint32_t add(uint32_t crc, const uint8_t *data, size_t from, size_t to)
{
	return (uint32_t)crc32(crc, data + from, (uInt)(to - from));
}

static void *compute(void *opaque)
{
	static const uint8_t zeroes[PE_SECURITY_SIZE];
	struct bzimage_crc *c = opaque;
	size_t at = 0;
	uint32_t crc = 0;

	if (c->pe_offset) {
		bool pe32 = load_le16(c->data + c->pe_offset + PE_OPTIONAL_HEADER) == PE32_MAGIC;
		size_t checksum = c->pe_offset + PE_CHECKSUM;
		size_t security = c->pe_offset + (pe32 ? PE32_SECURITY : PE32_PLUS_SECURITY);

		crc = add(crc, c->data, 0, checksum);
		crc = add(crc, zeroes, 0, 4);
		crc = add(crc, c->data, checksum + 4, security);
		crc = add(crc, zeroes, 0, PE_SECURITY_SIZE);
		at = security + PE_SECURITY_SIZE;
	}
	crc = add(crc, c->data, at, c->size);
	c->remainder = ~crc; /* zlib inverts at the end */
	return NULL;
}

void bzimage_crc_start(struct bzimage_crc *crc, const uint8_t *data, size_t size, size_t setup_size)
{
	uint64_t covered = setup_size + (uint64_t)load_le32(data + HDR_SYSSIZE) * 16;

	*crc = (struct bzimage_crc){ .data = data };
	if (covered > size || covered > UINT32_MAX || !has_checksum(data, setup_size))
		return;
	crc->size = covered;
	crc->pe_offset = find_pe(data, setup_size);
	crc->threaded = pthread_create(&crc->thread, NULL, compute, crc) == 0;
}

bool bzimage_crc_finish(struct bzimage_crc *crc)
{
	if (crc->size == 0)
		return true;
	if (crc->threaded)
		pthread_join(crc->thread, NULL);
	else
		compute(crc);
	crc->threaded = false;
	return crc->remainder == 0;
}
