/* SPDX-License-Identifier: MIT */
/*
 * Raw disk images: a file or block device is the disk, byte for byte.
 *
 * Through the host's page cache. A file whose length is no multiple of 512 is used up to the last
 * whole sector. Holes: discard and write-zeroes punch them where the file system can, else zeroes
 * are written.
 */
#include "block/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/log.h"
#include "base/util.h"

#define SECTOR_SIZE 512u

struct raw_image {
	struct block_image image;
	int fd;
	bool is_block_device;
	bool in_memory;    /* tmpfs: reads never wait */
	bool nowait_works; /* RWF_NOWAIT: cleared when the file system says no */
	bool punch_works;
};

static struct raw_image *raw(struct block_image *image)
{
	return container_of(image, struct raw_image, image);
}

#define IOV_LOCAL 512

/* Drop the first done bytes of a vector in place. */
static void iov_advance(struct iovec **iov, int *count, size_t done)
{
	while (*count && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*count)--;
	}
	if (*count) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

/* The kernel may do less than asked: go on with the rest. */
static int transfer(struct raw_image *image, const struct iovec *original, int count,
		    uint64_t offset, bool write)
{
	struct iovec local[IOV_LOCAL], *iov = local;

	if (count > IOV_LOCAL)
		return -EINVAL;
	memcpy(local, original, count * sizeof(*local));
	while (count) {
		ssize_t n = write ? pwritev(image->fd, iov, count, offset) :
				    preadv(image->fd, iov, count, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) { /* the file was cut short under us */
			if (write)
				return -EIO;
			for (; count; iov++, count--)
				memset(iov->iov_base, 0, iov->iov_len);
			return 0;
		}
		offset += n;
		iov_advance(&iov, &count, n);
	}
	return 0;
}

static int raw_readv(struct block_image *image, const struct iovec *iov, int count, uint64_t offset)
{
	return transfer(raw(image), iov, count, offset, false);
}

static int raw_writev(struct block_image *image, const struct iovec *iov, int count,
		      uint64_t offset)
{
	return transfer(raw(image), iov, count, offset, true);
}

static int raw_try_readv(struct block_image *image, const struct iovec *iov, int count,
			 uint64_t offset)
{
	struct raw_image *self = raw(image);
	ssize_t n;

	if (self->in_memory)
		return transfer(self, iov, count, offset, false);
	if (!__atomic_load_n(&self->nowait_works, __ATOMIC_RELAXED))
		return -EAGAIN;
	n = preadv2(self->fd, iov, count, offset, RWF_NOWAIT);
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		__atomic_store_n(&self->nowait_works, false, __ATOMIC_RELAXED);
	/* Anything but the whole is left to someone who may wait. */
	return n >= 0 && (size_t)n == iov_length(iov, count) ? 0 : -EAGAIN;
}

static int raw_flush(struct block_image *image)
{
	return fdatasync(raw(image)->fd) < 0 ? -errno : 0;
}

static int write_zero_bytes(struct raw_image *self, uint64_t offset, uint64_t len)
{
	static const uint8_t zeroes[65536];

	while (len) {
		struct iovec iov = { (void *)zeroes, MIN(len, sizeof(zeroes)) };
		int result = transfer(self, &iov, 1, offset, true);

		if (result < 0)
			return result;
		offset += iov.iov_len;
		len -= iov.iov_len;
	}
	return 0;
}

/* Free the range, which reads as zeroes then. */
static int punch(struct raw_image *self, uint64_t offset, uint64_t len)
{
	int result;

	if (!__atomic_load_n(&self->punch_works, __ATOMIC_RELAXED))
		return -EOPNOTSUPP;
	do
		result = fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
				   len);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENODEV || errno == ENOSYS) {
		__atomic_store_n(&self->punch_works, false, __ATOMIC_RELAXED);
		return -EOPNOTSUPP;
	}
	return -errno;
}

static int raw_discard(struct block_image *image, uint64_t offset, uint64_t len)
{
	int result = punch(raw(image), offset, len);

	return result == -EOPNOTSUPP ? 0 : result; /* a hint */
}

static int raw_write_zeroes(struct block_image *image, uint64_t offset, uint64_t len, bool unmap)
{
	struct raw_image *self = raw(image);

	if (unmap && punch(self, offset, len) == 0)
		return 0;
	if (fallocate(self->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, len) == 0)
		return 0;
	return write_zero_bytes(self, offset, len);
}

static void raw_close(struct block_image *image)
{
	close(raw(image)->fd);
	free(image->path);
	free(raw(image));
}

static const struct block_image_ops raw_ops = {
	.readv = raw_readv,
	.writev = raw_writev,
	.try_readv = raw_try_readv,
	.flush = raw_flush,
	.discard = raw_discard,
	.write_zeroes = raw_write_zeroes,
	.close = raw_close,
};

static bool raw_probe(const uint8_t *header, size_t len)
{
	(void)header, (void)len;
	return true;
}

/* Bytes in the file or device, rounded down to whole sectors. */
static int find_size(struct raw_image *self, const char *path, struct error *err)
{
	struct stat st;
	uint64_t size;

	if (fstat(self->fd, &st) < 0)
		return error_set_errno(err, errno, "cannot open disk '%s'", path);
	self->is_block_device = S_ISBLK(st.st_mode);
	size = st.st_size;
	if (self->is_block_device && ioctl(self->fd, BLKGETSIZE64, &size) < 0)
		return error_set_errno(err, errno, "cannot find the size of disk '%s'", path);
	if (size == 0)
		return error_set(err, 0, "cannot use disk '%s': it is empty", path);
	if (size < SECTOR_SIZE)
		return error_set(err, 0,
				 "cannot use disk '%s': it is shorter than one sector of 512 bytes",
				 path);
	if (size % SECTOR_SIZE)
		log_warn(
			"disk '%s': the last %u bytes are not a whole sector and stay out of the guest's sight",
			path, (unsigned)(size % SECTOR_SIZE));
	self->image.size = ALIGN_DOWN(size, (uint64_t)SECTOR_SIZE);
	self->image.block_size = st.st_blksize >= 512 && st.st_blksize <= 65536 ? st.st_blksize :
										  4096;
	return 0;
}

static struct block_image *raw_open(int fd, const char *path, bool readonly, struct error *err)
{
	struct raw_image *self = calloc(1, sizeof(*self));
	struct statfs fs;

	if (self)
		self->image.path = strdup(path);
	if (!self || !self->image.path) {
		free(self);
		error_set(err, 0, "cannot open disk '%s': out of memory", path);
		return NULL;
	}
	self->fd = fd;
	if (find_size(self, path, err) < 0) {
		free(self->image.path);
		free(self);
		return NULL;
	}
	self->image.ops = &raw_ops;
	self->image.format = raw_format.name;
	self->image.readonly = readonly;
	self->in_memory = fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
	self->nowait_works = self->punch_works = true;
	return &self->image;
}

const struct block_format raw_format = { "raw", raw_probe, raw_open };
