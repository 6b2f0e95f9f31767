/* SPDX-License-Identifier: MIT */
/*
 * Decompression of kernel payloads.
 *
 * A bzImage carries its kernel compressed, and a small program that unpacks it in the guest. The
 * host does it faster, so boot_linux.c asks here first. zlib, liblzma and libzstd do their
 * formats; LZ4's legacy frame (what `lz4 -l` writes: a magic number, then blocks of up to 8 MiB,
 * each with its length) is short enough to be our own. Its blocks are independent, so they are
 * unpacked by several threads. Unpacked data is handed on in pieces as it comes: no buffer ever
 * holds all of it.
 *
 * Sources: RFC 1952; the .xz and .lzma file formats; RFC 8878; LZ4 frame format 1.6.4 "Legacy
 * frame" and block format.
 */
#include <lzma.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "machine/decompress.h"

#define PIECE MIB(1) /* of the streaming formats */

/* What a format's function returns. */
enum { DONE = 0, CORRUPT = -1, STOPPED = -2, NO_MEMORY = -3 };

struct output {
	decompress_sink *sink;
	void *opaque;
	uint64_t expected; /* bytes in all */
	int stop_code;     /* what the sink returned when STOPPED */
};

static int hand_on(struct output *out, uint64_t offset, const uint8_t *data, size_t size)
{
	if (offset > out->expected || size > out->expected - offset)
		return CORRUPT;
	out->stop_code = size > 0 ? out->sink(out->opaque, offset, data, size) : 0;
	return out->stop_code ? STOPPED : DONE;
}

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
 * Copy a match of n bytes from distance back, up to 23 too many. The two may overlap, which
 * repeats the pattern: with a distance below 8 the first bytes are copied singly, and the rest
 * from a multiple of the distance that is at least 8.
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

/* Unpack one block; returns the bytes written or -1. Every read and write is within the two
 * buffers. */
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

struct lz4_block_place {
	const uint8_t *in;
	size_t in_size;
};

struct lz4_work {
	struct output *out;
	struct lz4_block_place blocks[128]; /* up to 1 GiB */
	unsigned count;

	pthread_mutex_t lock;
	pthread_cond_t first_done;
	unsigned next;     /* block to take */
	bool first_handed; /* block 0 has reached the sink */
	int result;
};

/* Unpack block i into buffer and hand it on, block 0 before all others. */
static int lz4_do_block(struct lz4_work *work, unsigned i, uint8_t *buffer)
{
	const struct lz4_block_place *block = &work->blocks[i];
	long size = lz4_block(block->in, block->in_size, buffer, LZ4_LEGACY_BLOCK);
	struct output out = *work->out; /* so that threads do not share stop_code */
	int result;

	if (size < 0 || (i + 1 < work->count && size != (long)LZ4_LEGACY_BLOCK))
		return CORRUPT;
	if (i + 1 == work->count && i * LZ4_LEGACY_BLOCK + (uint64_t)size != out.expected)
		return CORRUPT;
	if (i > 0) {
		pthread_mutex_lock(&work->lock);
		while (!work->first_handed && work->result == DONE)
			pthread_cond_wait(&work->first_done, &work->lock);
		result = work->result;
		pthread_mutex_unlock(&work->lock);
		if (result != DONE)
			return result;
	}
	result = hand_on(&out, i * LZ4_LEGACY_BLOCK, buffer, (size_t)size);
	if (result == STOPPED) {
		pthread_mutex_lock(&work->lock);
		work->out->stop_code = out.stop_code;
		pthread_mutex_unlock(&work->lock);
	}
	return result;
}

static void *lz4_worker(void *opaque)
{
	struct lz4_work *work = opaque;
	cleanup_free uint8_t *buffer = malloc(LZ4_LEGACY_BLOCK);

	pthread_mutex_lock(&work->lock);
	if (!buffer)
		work->result = NO_MEMORY;
	while (work->result == DONE && work->next < work->count) {
		unsigned i = work->next++;
		int result;

		pthread_mutex_unlock(&work->lock);
		result = lz4_do_block(work, i, buffer);
		pthread_mutex_lock(&work->lock);
		if (result != DONE && work->result == DONE)
			work->result = result;
		if (i == 0)
			work->first_handed = true;
		pthread_cond_broadcast(&work->first_done);
	}
	pthread_cond_broadcast(&work->first_done);
	pthread_mutex_unlock(&work->lock);
	return NULL;
}

/* Find the blocks. The frame ends with the data, or with what cannot be another block (a size
 * trailer). */
static int lz4_find_blocks(struct lz4_work *work, const uint8_t *data, size_t size)
{
	size_t pos = 4;

	while (size - pos >= 4) {
		size_t length = load_le32(data + pos);

		if (length == 0 || length > size - pos - 4) {
			/* Linux appends the unpacked size: four bytes, the last of the payload. */
			if (size - pos == 4 && work->count > 0)
				break;
			return CORRUPT;
		}
		if (work->count == ARRAY_SIZE(work->blocks))
			return CORRUPT;
		work->blocks[work->count++] = (struct lz4_block_place){ data + pos + 4, length };
		pos += 4 + length;
	}
	return work->count > 0 ? DONE : CORRUPT;
}

static int lz4_legacy(const uint8_t *data, size_t size, struct output *out)
{
	struct lz4_work work = { .out = out };
	pthread_t threads[LZ4_THREADS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned thread_count = 0, wanted;

	if (lz4_find_blocks(&work, data, size))
		return CORRUPT;
	pthread_mutex_init(&work.lock, NULL);
	pthread_cond_init(&work.first_done, NULL);
	wanted = MIN(MIN((unsigned)MAX(cpus, 1L), work.count), LZ4_THREADS_MAX) - 1;
	while (thread_count < wanted &&
	       pthread_create(&threads[thread_count], NULL, lz4_worker, &work) == 0)
		thread_count++;
	lz4_worker(&work);
	for (unsigned i = 0; i < thread_count; i++)
		pthread_join(threads[i], NULL);
	pthread_cond_destroy(&work.first_done);
	pthread_mutex_destroy(&work.lock);
	return work.result;
}

/* ---- the libraries' formats ---- */

static int gunzip(const uint8_t *data, size_t size, struct output *out)
{
	cleanup_free uint8_t *piece = malloc(PIECE);
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)data, .avail_in = (uInt)size };
	uint64_t done = 0;
	int status = Z_OK, result = DONE;

	if (!piece || inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) /* 16: with a gzip header */
		return NO_MEMORY;
	while (result == DONE && status == Z_OK) {
		z.next_out = piece;
		z.avail_out = PIECE;
		status = inflate(&z, Z_NO_FLUSH);
		if (status != Z_OK && status != Z_STREAM_END)
			result = CORRUPT;
		else
			result = hand_on(out, done, piece, PIECE - z.avail_out);
		done += PIECE - z.avail_out;
	}
	inflateEnd(&z);
	return result == DONE && done != out->expected ? CORRUPT : result;
}

static int unlzma(const uint8_t *data, size_t size, struct output *out, bool xz)
{
	cleanup_free uint8_t *piece = malloc(PIECE);
	lzma_stream s = LZMA_STREAM_INIT;
	const uint64_t memory_limit = MIB(512);
	lzma_ret status = xz ? lzma_stream_decoder(&s, memory_limit, 0) :
			       lzma_alone_decoder(&s, memory_limit);
	uint64_t done = 0;
	int result = DONE;

	if (!piece || status != LZMA_OK) {
		lzma_end(&s);
		return NO_MEMORY;
	}
	s.next_in = data;
	s.avail_in = size;
	while (result == DONE && status == LZMA_OK) {
		s.next_out = piece;
		s.avail_out = PIECE;
		do
			status = lzma_code(&s, LZMA_RUN);
		while (status == LZMA_OK && s.avail_out > 0);
		if (status != LZMA_OK && status != LZMA_STREAM_END)
			result = CORRUPT;
		else
			result = hand_on(out, done, piece, PIECE - s.avail_out);
		done += PIECE - s.avail_out;
	}
	lzma_end(&s);
	return result == DONE && done != out->expected ? CORRUPT : result;
}

static int unzstd(const uint8_t *data, size_t size, struct output *out)
{
	cleanup_free uint8_t *piece = malloc(PIECE);
	ZSTD_DCtx *context = ZSTD_createDCtx();
	size_t frame = ZSTD_findFrameCompressedSize(data, size);
	uint64_t done = 0;
	int result = DONE;
	size_t left = 1;

	if (!piece || !context) {
		ZSTD_freeDCtx(context);
		return NO_MEMORY;
	}
	ZSTD_inBuffer in = { .src = data, .size = ZSTD_isError(frame) ? 0 : frame };

	while (result == DONE && left != 0) {
		ZSTD_outBuffer to = { .dst = piece, .size = PIECE };

		do
			left = ZSTD_decompressStream(context, &to, &in);
		while (!ZSTD_isError(left) && left != 0 && to.pos < to.size && in.pos < in.size);
		if (ZSTD_isError(left) || (left != 0 && to.pos == 0))
			result = CORRUPT;
		else
			result = hand_on(out, done, piece, to.pos);
		done += to.pos;
	}
	ZSTD_freeDCtx(context);
	return result == DONE && done != out->expected ? CORRUPT : result;
}

static int unxz(const uint8_t *data, size_t size, struct output *out)
{
	return unlzma(data, size, out, true);
}

static int unlzma_alone(const uint8_t *data, size_t size, struct output *out)
{
	return unlzma(data, size, out, false);
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_size;
	int (*unpack)(const uint8_t *data, size_t size, struct output *out);
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

int decompress(const uint8_t *data, size_t size, uint64_t expected, decompress_sink *sink,
	       void *opaque, struct error *err)
{
	const struct format *format = find_format(data, size);
	struct output out = { .sink = sink, .opaque = opaque, .expected = expected };

	if (!format)
		return error_set(err, 0, "unknown compression");
	if (size > UINT32_MAX)
		return error_set(err, 0, "%s data of more than 4 GiB", format->name);
	switch (format->unpack(data, size, &out)) {
	case DONE:
		return 0;
	case STOPPED:
		return out.stop_code;
	case NO_MEMORY:
		return error_set(err, 0, "out of memory");
	default:
		return error_set(err, 0, "its %s data is corrupt or truncated", format->name);
	}
}
