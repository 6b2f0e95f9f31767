/* SPDX-License-Identifier: MIT */
/* Decompression of kernel payloads: gzip, xz, lzma, zstd and lz4, by their magic numbers. */
#ifndef LODGE_MACHINE_DECOMPRESS_H
#define LODGE_MACHINE_DECOMPRESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Bytes that the first piece has at least, if there are so many. */
#define DECOMPRESS_FIRST_PIECE 65536

/* The name of the format that data begins with, or NULL if it is none of ours. */
const char *decompress_format(const uint8_t *data, size_t size);

/*
 * Takes unpacked data piece by piece. The piece at offset 0 comes first; the others come in any
 * order and from several threads at once. Returns 0, or anything else to stop.
 */
typedef int decompress_sink(void *opaque, uint64_t offset, const uint8_t *data, size_t size);

/*
 * Unpack data (which decompress_format() knows; trailing bytes are ignored) to exactly `expected`
 * bytes. Returns 0, or the sink's result if it stopped, or -1 with err: corrupt, truncated, or of
 * another size.
 */
int decompress(const uint8_t *data, size_t size, uint64_t expected, decompress_sink *sink,
	       void *opaque, struct error *err);

#endif
