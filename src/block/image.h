/* SPDX-License-Identifier: MIT */
/*
 * Disk images: what a guest's disk is made of on the host.
 *
 * An image is an array of bytes, read and written at byte offsets; formats (raw.c, later qcow2) and
 * the throw-away overlay (overlay.c) implement struct block_image_ops. Operations may be called
 * from several threads at once and may block, except try_readv. A new format adds one file and one
 * entry to the table in image.c.
 */
#ifndef LODGE_BLOCK_IMAGE_H
#define LODGE_BLOCK_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

struct block_image;

/* Results are 0 or a negative errno. The caller guarantees offset + length <= image->size. */
struct block_image_ops {
	int (*readv)(struct block_image *image, const struct iovec *iov, int count,
		     uint64_t offset);
	int (*writev)(struct block_image *image, const struct iovec *iov, int count,
		      uint64_t offset);
	/* As readv, but -EAGAIN rather than wait for storage. May be NULL: always -EAGAIN. */
	int (*try_readv)(struct block_image *image, const struct iovec *iov, int count,
			 uint64_t offset);
	/* Written data reaches stable storage. */
	int (*flush)(struct block_image *image);
	/* The range is no longer needed; a hint. Reads give anything the guest wrote there, or
	 * zeroes. */
	int (*discard)(struct block_image *image, uint64_t offset, uint64_t len);
	/* The range reads as zeroes; unmap: it need not keep its space. */
	int (*write_zeroes)(struct block_image *image, uint64_t offset, uint64_t len, bool unmap);
	void (*close)(struct block_image *image);
};

struct block_image {
	const struct block_image_ops *ops;
	const char *format;
	char *path;
	uint64_t size;       /* bytes, a multiple of 512 */
	uint32_t block_size; /* the unit the host likes: 512 or 4096 .. */
	bool readonly;
	bool volatile_data; /* a throw-away overlay: flush has nothing to do */
};

struct block_options {
	char path[4096];
	char format[16]; /* "" : find out */
	bool readonly, snapshot;
};

struct block_format {
	const char *name;
	/* Does this file look like it? header holds its first len (up to 512) bytes. raw says
	 * yes to anything, last. */
	bool (*probe)(const uint8_t *header, size_t len);
	/* Open; fd is owned by the image on success. */
	struct block_image *(*open)(int fd, const char *path, bool readonly, struct error *err);
};

/* Parse "FILE[,format=raw][,readonly][,snapshot]"; a comma in the name is written ",,". Returns
 * 0 or -1. */
int block_options_parse(struct block_options *options, const char *spec, struct error *err);

/* Open (and lock) an image. Writable images are locked against every other user, read-only ones
 * against writers. NULL on failure. */
struct block_image *block_open(const struct block_options *options, struct error *err);
void block_close(struct block_image *image);

/* A throw-away overlay over base (owned from now on): writes go to an unlinked temporary file in
 * $TMPDIR (default /var/tmp). On failure base stays the caller's. */
struct block_image *block_overlay_create(struct block_image *base, struct error *err);

/* Total length of a vector. */
static inline size_t iov_length(const struct iovec *iov, int count)
{
	size_t len = 0;
	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	return len;
}

#endif
