/* SPDX-License-Identifier: MIT */
/*
 * Throw-away overlays: the guest may write, the base image stays as it is.
 *
 * Written clusters go to an unlinked sparse file in $TMPDIR (default /var/tmp) at the same offsets,
 * and a bitmap in memory says which. A cluster is 4 KiB, the unit in which guests write, unless the
 * disk is so large that the bitmap would pass 32 MiB; then it doubles. A write of part of a cluster
 * copies the rest from the base first.
 *
 * Locking: a bit is set only after the cluster's data is in the file, so readers need no lock. A
 * write that touches a cluster not yet present takes `lock`, so that nobody's copy from the base
 * lands on top of somebody else's data; once all its clusters are present a write needs none. Reads
 * racing with writes of the same sectors may see either, as on a disk.
 */
#include "block/image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/util.h"

#define CLUSTER_MIN 4096u
#define BITMAP_MAX MIB(32)
#define IOV_MAX_LOCAL 512

struct overlay {
	struct block_image image;
	struct block_image *base;
	int fd;
	uint32_t cluster_shift;
	_Atomic uint64_t *bitmap;
	pthread_mutex_t lock;
};

static struct overlay *overlay_of(struct block_image *image)
{
	return container_of(image, struct overlay, image);
}

static bool cluster_present(const struct overlay *self, uint64_t cluster)
{
	return atomic_load_explicit(&self->bitmap[cluster / 64], memory_order_acquire) >>
		       cluster % 64 &
	       1;
}

static void mark_present(struct overlay *self, uint64_t first, uint64_t last)
{
	for (uint64_t c = first; c <= last; c++)
		if (!cluster_present(self, c))
			atomic_fetch_or_explicit(&self->bitmap[c / 64], 1ull << c % 64,
						 memory_order_release);
}

/* The part [offset, offset + len) of a vector, as a vector; returns its count, or -1 if there
 * are too many pieces. */
static int iov_slice(const struct iovec *iov, int count, size_t offset, size_t len,
		     struct iovec *out)
{
	int n = 0;

	for (int i = 0; i < count && len; i++) {
		size_t take;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		take = MIN(iov[i].iov_len - offset, len);
		if (n == IOV_MAX_LOCAL)
			return -1;
		out[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + offset, take };
		len -= take;
		offset = 0;
	}
	return n;
}

/* Whole transfers to and from the temporary file. Reads beyond its end give zeroes. */
static int file_read(struct overlay *self, const struct iovec *iov, int count, uint64_t offset,
		     int flags)
{
	size_t done = 0, len = iov_length(iov, count);
	struct iovec part[IOV_MAX_LOCAL];

	while (done < len) {
		int n = iov_slice(iov, count, done, len - done, part);
		ssize_t got = n < 0 ? -1 : preadv2(self->fd, part, n, offset + done, flags);

		if (n < 0)
			return -EINVAL;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0) {
			for (int i = 0; i < n; i++)
				memset(part[i].iov_base, 0, part[i].iov_len);
			break;
		}
		done += got;
		if (flags & RWF_NOWAIT && done < len)
			return -EAGAIN;
	}
	return 0;
}

static int file_write(struct overlay *self, const struct iovec *iov, int count, uint64_t offset)
{
	size_t done = 0, len = iov_length(iov, count);
	struct iovec part[IOV_MAX_LOCAL];

	while (done < len) {
		int n = iov_slice(iov, count, done, len - done, part);
		ssize_t put = n < 0 ? -1 : pwritev(self->fd, part, n, offset + done);

		if (n < 0)
			return -EINVAL;
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		done += put;
	}
	return 0;
}

/* Read run by run: clusters from the file, the rest from the base. */
static int read_runs(struct overlay *self, const struct iovec *iov, int count, uint64_t offset,
		     bool wait)
{
	uint64_t end = offset + iov_length(iov, count);
	uint64_t start = offset;
	struct iovec part[IOV_MAX_LOCAL];

	while (offset < end) {
		uint64_t cluster = offset >> self->cluster_shift;
		bool present = cluster_present(self, cluster);
		uint64_t run_end;
		int n, result;

		do {
			cluster++;
			run_end = MIN(cluster << self->cluster_shift, end);
		} while (run_end < end && cluster_present(self, cluster) == present);
		n = iov_slice(iov, count, offset - start, run_end - offset, part);
		if (n < 0)
			return -EINVAL;
		if (present)
			result = file_read(self, part, n, offset, wait ? 0 : RWF_NOWAIT);
		else if (wait)
			result = self->base->ops->readv(self->base, part, n, offset);
		else
			result = self->base->ops->try_readv ?
					 self->base->ops->try_readv(self->base, part, n, offset) :
					 -EAGAIN;
		if (result < 0)
			return wait ? result : -EAGAIN;
		offset = run_end;
	}
	return 0;
}

static int overlay_readv(struct block_image *image, const struct iovec *iov, int count,
			 uint64_t offset)
{
	return read_runs(overlay_of(image), iov, count, offset, true);
}

static int overlay_try_readv(struct block_image *image, const struct iovec *iov, int count,
			     uint64_t offset)
{
	return read_runs(overlay_of(image), iov, count, offset, false);
}

/* Bring a cluster into the file that is about to be written in part. Under the lock. */
static int copy_up(struct overlay *self, uint64_t cluster)
{
	uint64_t offset = cluster << self->cluster_shift;
	size_t len = MIN(1ull << self->cluster_shift, self->image.size - offset);
	cleanup_free uint8_t *buf = NULL;
	struct iovec iov;
	int result;

	if (cluster_present(self, cluster))
		return 0;
	buf = malloc(len);
	if (!buf)
		return -ENOMEM;
	iov = (struct iovec){ buf, len };
	result = self->base->ops->readv(self->base, &iov, 1, offset);
	if (result == 0)
		result = file_write(self, &iov, 1, offset);
	if (result == 0)
		mark_present(self, cluster, cluster);
	return result;
}

static bool all_present(const struct overlay *self, uint64_t offset, uint64_t end)
{
	for (uint64_t c = offset >> self->cluster_shift; c <= (end - 1) >> self->cluster_shift; c++)
		if (!cluster_present(self, c))
			return false;
	return true;
}

/* Prepare [offset, end) for writing: its first and last clusters may be partial. Under the lock. */
static int copy_up_edges(struct overlay *self, uint64_t offset, uint64_t end)
{
	uint64_t mask = (1ull << self->cluster_shift) - 1;
	int result = 0;

	if (offset & mask)
		result = copy_up(self, offset >> self->cluster_shift);
	if (result == 0 && (end & mask) && end != self->image.size)
		result = copy_up(self, end >> self->cluster_shift);
	return result;
}

/* What is to be written: a vector, or zeroes where iov is NULL. */
static int write_range(struct overlay *self, const struct iovec *iov, int count, uint64_t offset,
		       uint64_t end)
{
	static const uint8_t zeroes[65536];
	int result = 0;

	if (iov)
		return file_write(self, iov, count, offset);
	/* The file may end before the range: then it reads as zeroes already. */
	if (fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, end - offset) ==
	    0)
		return 0;
	for (uint64_t at = offset; at < end && result == 0; at += sizeof(zeroes)) {
		struct iovec part = { (void *)zeroes, MIN(sizeof(zeroes), end - at) };

		result = file_write(self, &part, 1, at);
	}
	return result;
}

static int change(struct overlay *self, const struct iovec *iov, int count, uint64_t offset,
		  uint64_t end)
{
	int result;

	if (end == offset)
		return 0;
	if (all_present(self, offset, end))
		return write_range(self, iov, count, offset, end);
	pthread_mutex_lock(&self->lock);
	result = copy_up_edges(self, offset, end);
	if (result == 0)
		result = write_range(self, iov, count, offset, end);
	if (result == 0)
		mark_present(self, offset >> self->cluster_shift, (end - 1) >> self->cluster_shift);
	pthread_mutex_unlock(&self->lock);
	return result;
}

static int overlay_writev(struct block_image *image, const struct iovec *iov, int count,
			  uint64_t offset)
{
	return change(overlay_of(image), iov, count, offset, offset + iov_length(iov, count));
}

static int overlay_flush(struct block_image *image)
{
	(void)image; /* it ends with the process anyway */
	return 0;
}

static int overlay_write_zeroes(struct block_image *image, uint64_t offset, uint64_t len,
				bool unmap)
{
	(void)unmap;
	return change(overlay_of(image), NULL, 0, offset, offset + len);
}

static int overlay_discard(struct block_image *image, uint64_t offset, uint64_t len)
{
	return overlay_write_zeroes(image, offset, len, true);
}

static void overlay_close(struct block_image *image)
{
	struct overlay *self = overlay_of(image);

	block_close(self->base);
	if (self->fd >= 0)
		close(self->fd);
	free(self->bitmap);
	free(self->image.path);
	pthread_mutex_destroy(&self->lock);
	free(self);
}

static const struct block_image_ops overlay_ops = {
	.readv = overlay_readv,
	.writev = overlay_writev,
	.try_readv = overlay_try_readv,
	.flush = overlay_flush,
	.discard = overlay_discard,
	.write_zeroes = overlay_write_zeroes,
	.close = overlay_close,
};

/* A file that has no name: O_TMPFILE where the file system can. */
static int open_temporary(const char *dir)
{
	char path[4096];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

	if (fd >= 0)
		return fd;
	if (snprintf(path, sizeof(path), "%s/lodge-overlay-XXXXXX", dir) >= (int)sizeof(path))
		return -1;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

struct block_image *block_overlay_create(struct block_image *base, struct error *err)
{
	const char *dir = getenv("TMPDIR");
	struct overlay *self = calloc(1, sizeof(*self));
	uint64_t clusters;

	if (!dir || !dir[0]) /* not /tmp, which is often memory */
		dir = access("/var/tmp", W_OK) == 0 ? "/var/tmp" : "/tmp";
	if (!self) {
		error_set(err, 0, "cannot create a snapshot of disk '%s': out of memory",
			  base->path);
		return NULL;
	}
	pthread_mutex_init(&self->lock, NULL);
	self->image = (struct block_image){
		.ops = &overlay_ops,
		.format = base->format,
		.size = base->size,
		.block_size = base->block_size,
		.volatile_data = true,
	};
	self->cluster_shift = __builtin_ctz(CLUSTER_MIN);
	while (base->size >> self->cluster_shift >= 8 * BITMAP_MAX)
		self->cluster_shift++;
	clusters = (base->size >> self->cluster_shift) + 1;
	self->bitmap = calloc(clusters / 64 + 1, 8);
	self->image.path = strdup(base->path);
	self->fd = open_temporary(dir);
	if (self->fd < 0 || !self->bitmap || !self->image.path) {
		if (self->fd < 0)
			error_set_errno(err, errno, "cannot create a snapshot of disk '%s' in '%s'",
					base->path, dir);
		else
			error_set(err, 0, "cannot create a snapshot of disk '%s': out of memory",
				  base->path);
		overlay_close(&self->image); /* without the base, which stays the caller's */
		return NULL;
	}
	self->base = base;
	return &self->image;
}
