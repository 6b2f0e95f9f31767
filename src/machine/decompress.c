/* SPDX-License-Identifier: MIT */
/*
 * Decompression of kernel payloads.
 *
 * A bzImage carries its kernel compressed, and a small program that unpacks it in the guest. The host
 * does it faster, so boot_linux.c asks here first. zlib, liblzma and libzstd do their formats; LZ4's
 * legacy frame (what `lz4 -l` writes: a magic number, then blocks of up to 8 MiB, each with its length)
 * is short enough to be our own. Its blocks are independent, so they are unpacked by several threads.
 *
 * Sources: RFC 1952; the .xz and .lzma file formats; RFC 8878; LZ4 frame format 1.6.4 "Legacy frame"
 * and block format.
 */
#include <lzma.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "machine/decompress.h"

/* ---- LZ4 ---- */

#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK MIB(8) /* every block but the last unpacks to this much */
#define LZ4_MIN_MATCH 4
#define LZ4_THREADS_MAX 8

/* A length that continues in further bytes while they are 255. */
static bool lz4_long_length(const uint8_t **in, const uint8_t *in_end, size_t *length)
{
	uint8_t byte;

	do {
		if (*in == in_end)
			return false;
		byte = *(*in)++;
		*length += byte;
	} while (byte == 255);
	return true;
}

/* Room that the fast loop wants behind what it writes and reads: its copies go in strides. */
#define LZ4_IN_MARGIN 32
#define LZ4_OUT_MARGIN 64

/* Copy n bytes in strides of 16, up to 15 too many. */
static inline void copy_strides(uint8_t *to, const uint8_t *from, size_t n)
{
	size_t i = 0;

	do {
		memcpy(to + i, from + i, 16);
		i += 16;
	} while (i < n);
}

/*
 * Copy a match of n bytes from distance back, up to 23 too many. The two may overlap, which repeats the pattern: with
 * a distance below 8 the first bytes are copied singly, and the rest from a multiple of the distance that is at least 8.
 */
static inline void copy_match(uint8_t *to, size_t distance, size_t n)
{
	static const uint8_t multiple[8] = { 0, 8, 8, 9, 8, 10, 12, 14 };

	if (distance >= 16) {
		copy_strides(to, to - distance, n);
		return;
	}
	if (distance < 8) {
		if (distance == 1 && n > 64) {
			memset(to, to[-1], n);
			return;
		}
		for (unsigned i = 0; i < 8; i++)
			to[i] = to[i - (ptrdiff_t)distance];
		if (n <= 8)
			return;
		to += 8;
		n -= 8;
		distance = multiple[distance];
	}
	for (size_t i = 0; i < n; i += 8)
		memcpy(to + i, to + i - distance, 8);
}

/* Unpack one block; returns the bytes written or -1. Every read and write is within the two buffers. */
static long lz4_block(const uint8_t *in, size_t in_size, uint8_t *out_start, size_t capacity)
{
	const uint8_t *in_end = in + in_size;
	uint8_t *out = out_start, *out_end = out_start + capacity;

	while (in < in_end) {
		unsigned token = *in++;
		size_t literals = token >> 4, match = token & 15, distance;

		if (literals == 15 && !lz4_long_length(&in, in_end, &literals))
			return -1;
		if (literals > (size_t)(in_end - in) || literals > (size_t)(out_end - out))
			return -1;
		if ((size_t)(in_end - in) >= literals + LZ4_IN_MARGIN &&
		    (size_t)(out_end - out) >= literals + LZ4_OUT_MARGIN)
			copy_strides(out, in, literals);
		else
			memcpy(out, in, literals);
		out += literals;
		in += literals;
		if (in == in_end)
			break; /* the last sequence has no match */
		if (in_end - in < 2)
			return -1;
		distance = load_le16(in);
		in += 2;
		if (match == 15 && !lz4_long_length(&in, in_end, &match))
			return -1;
		match += LZ4_MIN_MATCH;
		if (distance == 0 || distance > (size_t)(out - out_start) ||
		    match > (size_t)(out_end - out))
			return -1;
		if ((size_t)(out_end - out) >= match + LZ4_OUT_MARGIN)
			copy_match(out, distance, match);
		else
			for (size_t i = 0; i < match; i++)
				out[i] = out[i - distance];
		out += match;
	}
	return out - out_start;
}

struct lz4_job {
	const uint8_t *in;
	size_t in_size;
	uint8_t *out;
	size_t capacity;
	long result;
};

struct lz4_work {
	struct lz4_job jobs[128]; /* blocks: up to 1 GiB */
	unsigned count;
	_Atomic unsigned next;
};

static void *lz4_worker(void *opaque)
{
	struct lz4_work *work = opaque;
	unsigned i;

	while ((i = atomic_fetch_add(&work->next, 1)) < work->count) {
		struct lz4_job *job = &work->jobs[i];

		job->result = lz4_block(job->in, job->in_size, job->out, job->capacity);
	}
	return NULL;
}

/* Find the blocks. The frame ends with the data, or with what cannot be another block (a size trailer). */
static int lz4_find_blocks(struct lz4_work *work, const uint8_t *data, size_t size, uint8_t *out,
			   size_t capacity)
{
	size_t pos = 4, done = 0;

	work->count = 0;
	atomic_init(&work->next, 0);
	while (size - pos >= 4) {
		size_t length = load_le32(data + pos);

		if (length == 0 || length > size - pos - 4) {
			/* Linux appends the unpacked size: four bytes, the last of the payload. */
			if (size - pos == 4 && work->count > 0)
				break;
			return -1;
		}
		if (work->count == ARRAY_SIZE(work->jobs) || done > capacity)
			return -1;
		work->jobs[work->count++] = (struct lz4_job){
			.in = data + pos + 4, .in_size = length, .out = out + done,
			.capacity = MIN(capacity - done, (size_t)LZ4_LEGACY_BLOCK), .result = -1,
		};
		done += LZ4_LEGACY_BLOCK;
		pos += 4 + length;
	}
	return work->count > 0 ? 0 : -1;
}

static long lz4_legacy(const uint8_t *data, size_t size, uint8_t *out, size_t capacity)
{
	struct lz4_work work;
	pthread_t threads[LZ4_THREADS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), total = 0;
	unsigned thread_count = 0;

	if (lz4_find_blocks(&work, data, size, out, capacity))
		return -1;
	while (thread_count + 1 < MIN((unsigned)MAX(cpus, 1L), work.count) && thread_count < LZ4_THREADS_MAX &&
	       pthread_create(&threads[thread_count], NULL, lz4_worker, &work) == 0)
		thread_count++;
	lz4_worker(&work);
	for (unsigned i = 0; i < thread_count; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < work.count; i++) {
		if (work.jobs[i].result < 0 ||
		    (i + 1 < work.count && work.jobs[i].result != (long)LZ4_LEGACY_BLOCK))
			return -1;
		total += work.jobs[i].result;
	}
	return total;
}

/* ---- the libraries' formats ---- */

static long gunzip(const uint8_t *data, size_t size, uint8_t *out, size_t capacity)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)data, .avail_in = (uInt)size,
		       .next_out = out, .avail_out = (uInt)capacity };
	int result;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) /* 16: with a gzip header */
		return -1;
	result = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return result == Z_STREAM_END ? (long)z.total_out : -1;
}

static long unlzma(const uint8_t *data, size_t size, uint8_t *out, size_t capacity, bool xz)
{
	lzma_stream s = LZMA_STREAM_INIT;
	const uint64_t memory_limit = MIB(512);
	lzma_ret result = xz ? lzma_stream_decoder(&s, memory_limit, 0) :
			       lzma_alone_decoder(&s, memory_limit);
	long total;

	if (result != LZMA_OK)
		return -1;
	s.next_in = data;
	s.avail_in = size;
	s.next_out = out;
	s.avail_out = capacity;
	do
		result = lzma_code(&s, LZMA_RUN);
	while (result == LZMA_OK && s.avail_out > 0);
	total = result == LZMA_STREAM_END ? (long)s.total_out : -1;
	lzma_end(&s);
	return total;
}

static long unzstd(const uint8_t *data, size_t size, uint8_t *out, size_t capacity)
{
	size_t frame = ZSTD_findFrameCompressedSize(data, size), n;

	if (ZSTD_isError(frame))
		return -1;
	n = ZSTD_decompress(out, capacity, data, frame);
	return ZSTD_isError(n) ? -1 : (long)n;
}

static long unxz(const uint8_t *data, size_t size, uint8_t *out, size_t capacity)
{
	return unlzma(data, size, out, capacity, true);
}

static long unlzma_alone(const uint8_t *data, size_t size, uint8_t *out, size_t capacity)
{
	return unlzma(data, size, out, capacity, false);
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_size;
	long (*unpack)(const uint8_t *data, size_t size, uint8_t *out, size_t capacity);
} formats[] = {
	{ "gzip", { 0x1f, 0x8b }, 2, gunzip },
	{ "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unxz },
	{ "lzma", { 0x5d, 0, 0 }, 3, unlzma_alone },
	{ "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unzstd },
	{ "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, lz4_legacy },
};

static const struct format *find_format(const uint8_t *data, size_t size)
{
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (size >= 8 && memcmp(data, formats[i].magic, formats[i].magic_size) == 0)
			return &formats[i];
	return NULL;
}

const char *decompress_format(const uint8_t *data, size_t size)
{
	const struct format *format = find_format(data, size);

	return format ? format->name : NULL;
}

long decompress(const uint8_t *data, size_t size, uint8_t *out, size_t capacity, struct error *err)
{
	const struct format *format = find_format(data, size);
	long n;

	if (!format)
		return error_set(err, 0, "unknown compression");
	if (size > UINT32_MAX || capacity > UINT32_MAX)
		return error_set(err, 0, "%s data of more than 4 GiB", format->name);
	n = format->unpack(data, size, out, capacity);
	if (n < 0)
		return error_set(err, 0, "its %s data is corrupt or truncated", format->name);
	return n;
}
