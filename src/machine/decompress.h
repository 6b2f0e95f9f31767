/* SPDX-License-Identifier: MIT */
/* Decompression of kernel payloads: gzip, xz, lzma, zstd and lz4, by their magic numbers. */
#ifndef LODGE_MACHINE_DECOMPRESS_H
#define LODGE_MACHINE_DECOMPRESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The name of the format that data begins with, or NULL if it is none of ours. */
const char *decompress_format(const uint8_t *data, size_t size);

/*
 * Decompress data (which decompress_format() knows; trailing bytes are ignored) into out, of capacity bytes.
 * Returns the bytes written, or -1 with err: corrupt, truncated, or larger than capacity.
 */
long decompress(const uint8_t *data, size_t size, uint8_t *out, size_t capacity, struct error *err);

#endif
