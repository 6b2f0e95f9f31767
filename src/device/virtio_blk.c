/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk: a disk.
 *
 * One queue for each vCPU, up to four. A kick is served on the vCPU's own thread: requests that
 * need not wait (reads of what the page cache holds, writes into the page cache, GET_ID) are done
 * there and then, which saves two thread switches and an interrupt to a running guest; the others
 * go to worker threads. Whether a write waits cannot be known beforehand, so the last one tells:
 * after one that took over a millisecond, writes go to the workers for a while.
 *
 * A worker's request holds a copy of its chain. Requests in flight are bounded by the queue sizes
 * (virtqueue_pop).
 *
 * Source: VIRTIO 1.2, 5.2.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "block/image.h"
#include "block/pool.h"
#include "device/virtio.h"
#include "device/virtio_devices.h"
#include "vm/vm.h"

#define BLK_QUEUE_MAX 4
#define BLK_QUEUE_SIZE 256
#define BLK_SEGMENTS_MAX (VIRTQUEUE_CHAIN_MAX - 2)
#define BLK_WORKERS 8
#define BLK_CLASS 0x010000 /* SCSI-like mass storage, as virtio block devices customarily say */
#define SECTOR_SHIFT 9
#define SECTOR_SIZE 512u

/* Feature bits (5.2.3). */
enum {
	BLK_F_SEG_MAX = 2,
	BLK_F_RO = 5,
	BLK_F_BLK_SIZE = 6,
	BLK_F_FLUSH = 9,
	BLK_F_TOPOLOGY = 10,
	BLK_F_MQ = 12,
	BLK_F_DISCARD = 13,
	BLK_F_WRITE_ZEROES = 14,
};

/* Configuration offsets (5.2.4). */
enum {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXP = 24,
	CONFIG_MIN_IO_SIZE = 26,
	CONFIG_QUEUES = 34,
	CONFIG_MAX_DISCARD_SECTORS = 36,
	CONFIG_MAX_DISCARD_SEG = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_MAX_ZEROES_SECTORS = 48,
	CONFIG_MAX_ZEROES_SEG = 52,
	CONFIG_ZEROES_MAY_UNMAP = 56,
	CONFIG_LEN = 60,
};

/* Requests (5.2.6). */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPPORTED = 2 };
#define HEADER_LEN 16
#define ID_LEN 20
#define RANGE_LEN 16 /* struct virtio_blk_discard_write_zeroes */
#define RANGE_MAX 32
#define RANGE_SECTORS_MAX (1u << 22)
#define ZEROES_UNMAP BIT(0)

/* What is small enough to be done on the vCPU's thread, and for how long not after a slow write. */
#define INLINE_MAX KIB(256)
#define SLOW_WRITE_NS 1000000ull
#define SLOW_PENALTY_NS 100000000ull
#define PAGE_CACHE_UNIT 4096u

struct virtio_blk {
	struct virtio_device vdev;
	struct block_image *image;
	struct block_pool *pool;
	char serial[ID_LEN + 1];
	_Atomic uint64_t writes_inline_after; /* CLOCK_MONOTONIC ns */
	pthread_mutex_t drain_lock;
	pthread_cond_t drained;
	unsigned in_flight;                            /* requests at the workers */
	struct virtqueue_chain scratch[BLK_QUEUE_MAX]; /* under the queue's lock */
};

struct blk_request {
	struct block_job job;
	struct virtio_blk *blk;
	struct virtqueue *queue;
	struct virtqueue_chain chain; /* last: only the used part of its arrays is copied */
};

static struct virtio_blk *blk_of(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* ---- one request ---- */

static int check_range(const struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
	uint64_t size = blk->image->size;

	if (len % SECTOR_SIZE || sector > size >> SECTOR_SHIFT ||
	    len > size - (sector << SECTOR_SHIFT))
		return -EINVAL;
	return 0;
}

static int do_read(struct virtio_blk *blk, struct virtqueue_chain *chain, uint64_t sector,
		   bool may_wait)
{
	const struct block_image_ops *ops = blk->image->ops;
	struct iovec *iov = chain->iov + chain->out_count;
	uint32_t len = chain->in_len - 1; /* without the status byte */
	int count = chain->in_count, result = check_range(blk, sector, len);
	struct iovec *last = &iov[count - 1];

	if (result < 0 || len == 0)
		return result;
	if (!may_wait && (len > INLINE_MAX || !ops->try_readv))
		return -EAGAIN;
	last->iov_len--;
	result = may_wait ? ops->readv(blk->image, iov, count - (last->iov_len == 0),
				       sector << SECTOR_SHIFT) :
			    ops->try_readv(blk->image, iov, count - (last->iov_len == 0),
					   sector << SECTOR_SHIFT);
	last->iov_len++;
	return result;
}

/* The out part behind the header, as a vector of its own in the chain's array. */
static struct iovec *skip_header(struct virtqueue_chain *chain, int *count)
{
	struct iovec *iov = chain->iov;
	size_t skip = HEADER_LEN;

	*count = chain->out_count;
	while (*count && skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		(*count)--;
	}
	if (*count) {
		iov->iov_base = (uint8_t *)iov->iov_base + skip;
		iov->iov_len -= skip;
	}
	return iov;
}

static bool write_may_be_inline(struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
	/* A partial page would have to be read first. */
	if (len > INLINE_MAX || (sector << SECTOR_SHIFT | len) % PAGE_CACHE_UNIT)
		return false;
	return now_ns() >= atomic_load_explicit(&blk->writes_inline_after, memory_order_relaxed);
}

static int do_write(struct virtio_blk *blk, struct virtqueue_chain *chain, uint64_t sector,
		    bool may_wait)
{
	uint64_t len = chain->out_len - HEADER_LEN, start;
	int count, result = check_range(blk, sector, len);
	struct iovec *iov;

	if (blk->image->readonly)
		return -EROFS;
	if (result < 0 || len == 0)
		return result;
	if (!may_wait && !write_may_be_inline(blk, sector, len))
		return -EAGAIN;
	iov = skip_header(chain, &count);
	if (may_wait)
		return blk->image->ops->writev(blk->image, iov, count, sector << SECTOR_SHIFT);
	start = now_ns();
	result = blk->image->ops->writev(blk->image, iov, count, sector << SECTOR_SHIFT);
	if (now_ns() - start > SLOW_WRITE_NS)
		atomic_store_explicit(&blk->writes_inline_after, now_ns() + SLOW_PENALTY_NS,
				      memory_order_relaxed);
	return result;
}

static int do_range(struct virtio_blk *blk, const uint8_t *range, bool zeroes)
{
	uint64_t sector = load_le64(range), len = (uint64_t)load_le32(range + 8) << SECTOR_SHIFT;
	uint32_t flags = load_le32(range + 12);

	if (flags & (zeroes ? ~ZEROES_UNMAP : ~0u))
		return -EOPNOTSUPP;
	if (load_le32(range + 8) > RANGE_SECTORS_MAX || check_range(blk, sector, len) < 0)
		return -EINVAL;
	if (zeroes)
		return blk->image->ops->write_zeroes(blk->image, sector << SECTOR_SHIFT, len,
						     flags & ZEROES_UNMAP);
	return blk->image->ops->discard(blk->image, sector << SECTOR_SHIFT, len);
}

static int do_ranges(struct virtio_blk *blk, struct virtqueue_chain *chain, bool zeroes,
		     bool may_wait)
{
	uint32_t len = chain->out_len - HEADER_LEN;
	int result = 0;

	if (blk->image->readonly)
		return -EROFS;
	if (len == 0 || len % RANGE_LEN || len > RANGE_LEN * RANGE_MAX)
		return -EINVAL;
	if (!may_wait)
		return -EAGAIN;
	for (uint32_t at = 0; at < len && result == 0; at += RANGE_LEN) {
		uint8_t range[RANGE_LEN];

		virtqueue_read(chain, HEADER_LEN + at, range, sizeof(range));
		result = do_range(blk, range, zeroes);
	}
	return result;
}

static int do_flush(struct virtio_blk *blk, bool may_wait)
{
	if (blk->image->readonly || blk->image->volatile_data)
		return 0;
	return may_wait ? blk->image->ops->flush(blk->image) : -EAGAIN;
}

static int do_get_id(struct virtio_blk *blk, struct virtqueue_chain *chain)
{
	virtqueue_write(chain, 0, blk->serial, MIN((uint32_t)ID_LEN, chain->in_len - 1));
	return 0;
}

/* 0 or a negative errno; -EAGAIN only if it may not wait. */
static int perform(struct virtio_blk *blk, struct virtqueue_chain *chain, bool may_wait)
{
	uint8_t header[HEADER_LEN];
	uint32_t type;
	uint64_t sector;

	virtqueue_read(chain, 0, header, sizeof(header));
	type = load_le32(header);
	sector = load_le64(header + 8);
	switch (type) {
	case T_IN:
		return do_read(blk, chain, sector, may_wait);
	case T_OUT:
		return do_write(blk, chain, sector, may_wait);
	case T_FLUSH:
		return do_flush(blk, may_wait);
	case T_GET_ID:
		return do_get_id(blk, chain);
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return do_ranges(blk, chain, type == T_WRITE_ZEROES, may_wait);
	default:
		return -EOPNOTSUPP;
	}
}

/* Write the status byte, the last of the in part, and give the chain back. Queue locked. */
static void complete(struct virtqueue *queue, struct virtqueue_chain *chain, int result)
{
	uint8_t status = result == 0           ? STATUS_OK :
			 result == -EOPNOTSUPP ? STATUS_UNSUPPORTED :
						 STATUS_IOERR;

	if (result < 0)
		trace(TRACE_BLOCK, "%s: request fails: %s", queue->vdev->pci.name,
		      strerror(-result));
	virtqueue_write(chain, chain->in_len - 1, &status, 1);
	virtqueue_push(queue, chain, chain->in_len);
}

/* ---- workers ---- */

static void run_request(struct block_job *job)
{
	struct blk_request *request = container_of(job, struct blk_request, job);
	struct virtio_blk *blk = request->blk;
	int result = perform(blk, &request->chain, true);

	virtqueue_lock(request->queue);
	complete(request->queue, &request->chain, result);
	virtqueue_interrupt(request->queue);
	virtqueue_unlock(request->queue);
	free(request);
	pthread_mutex_lock(&blk->drain_lock);
	if (--blk->in_flight == 0)
		pthread_cond_broadcast(&blk->drained);
	pthread_mutex_unlock(&blk->drain_lock);
}

/* False: out of memory. */
static bool submit(struct virtio_blk *blk, struct virtqueue *queue,
		   const struct virtqueue_chain *chain)
{
	struct blk_request *request = malloc(sizeof(*request));
	unsigned count = chain->out_count + chain->in_count;

	if (!request)
		return false;
	request->job.run = run_request;
	request->blk = blk;
	request->queue = queue;
	memcpy(&request->chain, chain, offsetof(struct virtqueue_chain, iov));
	memcpy(request->chain.iov, chain->iov, count * sizeof(chain->iov[0]));
	memcpy(request->chain.gpa, chain->gpa, count * sizeof(chain->gpa[0]));
	pthread_mutex_lock(&blk->drain_lock);
	blk->in_flight++;
	pthread_mutex_unlock(&blk->drain_lock);
	block_pool_submit(blk->pool, &request->job);
	return true;
}

static void blk_drain(struct virtio_device *vdev)
{
	struct virtio_blk *blk = blk_of(vdev);

	pthread_mutex_lock(&blk->drain_lock);
	while (blk->in_flight)
		pthread_cond_wait(&blk->drained, &blk->drain_lock);
	pthread_mutex_unlock(&blk->drain_lock);
}

/* ---- the queue ---- */

/* False: the device is broken. */
static bool serve(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	struct virtio_blk *blk = blk_of(queue->vdev);
	int result;

	if (chain->out_len < HEADER_LEN || chain->in_len < 1) {
		virtio_broken(&blk->vdev, "queue %u: request without header or status",
			      queue->index);
		return false;
	}
	result = perform(blk, chain, false);
	if (result == -EAGAIN && submit(blk, queue, chain))
		return true;
	complete(queue, chain, result == -EAGAIN ? -ENOMEM : result);
	return true;
}

static void blk_notify(struct virtio_device *vdev, unsigned index)
{
	virtqueue_serve(&vdev->queues[index], &blk_of(vdev)->scratch[index], 2 * BLK_QUEUE_SIZE,
			serve);
}

/* ---- life ---- */

static void blk_destroy(struct virtio_device *vdev)
{
	struct virtio_blk *blk = blk_of(vdev);

	block_pool_destroy(blk->pool);
	block_close(blk->image);
	pthread_mutex_destroy(&blk->drain_lock);
	pthread_cond_destroy(&blk->drained);
	virtio_release(vdev);
	free(blk);
}

static const struct virtio_ops blk_ops = { .notify = blk_notify,
					   .drain = blk_drain,
					   .destroy = blk_destroy };

static void fill_config(struct virtio_blk *blk, unsigned queues)
{
	uint8_t *config = blk->vdev.config;
	uint32_t unit = MIN(MAX(blk->image->block_size, SECTOR_SIZE), 4096u);

	blk->vdev.config_len = CONFIG_LEN;
	blk->vdev.features |= BIT64(BLK_F_SEG_MAX) | BIT64(BLK_F_BLK_SIZE) | BIT64(BLK_F_FLUSH) |
			      BIT64(BLK_F_TOPOLOGY) | BIT64(BLK_F_MQ);
	store_le64(config + CONFIG_CAPACITY, blk->image->size >> SECTOR_SHIFT);
	store_le32(config + CONFIG_SEG_MAX, BLK_SEGMENTS_MAX);
	store_le32(config + CONFIG_BLK_SIZE, SECTOR_SIZE);
	config[CONFIG_PHYSICAL_EXP] = __builtin_ctz(unit / SECTOR_SIZE);
	store_le16(config + CONFIG_MIN_IO_SIZE, unit / SECTOR_SIZE);
	store_le16(config + CONFIG_QUEUES, queues);
	if (blk->image->readonly) {
		blk->vdev.features |= BIT64(BLK_F_RO);
		return;
	}
	blk->vdev.features |= BIT64(BLK_F_DISCARD) | BIT64(BLK_F_WRITE_ZEROES);
	store_le32(config + CONFIG_MAX_DISCARD_SECTORS, RANGE_SECTORS_MAX);
	store_le32(config + CONFIG_MAX_DISCARD_SEG, RANGE_MAX);
	store_le32(config + CONFIG_DISCARD_ALIGNMENT, unit / SECTOR_SIZE);
	store_le32(config + CONFIG_MAX_ZEROES_SECTORS, RANGE_SECTORS_MAX);
	store_le32(config + CONFIG_MAX_ZEROES_SEG, RANGE_MAX);
	config[CONFIG_ZEROES_MAY_UNMAP] = 1;
}

struct pci_device *virtio_blk_create(struct pci_bus *bus, int slot, struct block_image *image,
				     const char *serial, struct error *err)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	unsigned queues = MIN(MAX(bus->vm->config.cpus, 1u), (unsigned)BLK_QUEUE_MAX);

	if (!blk) {
		error_set(err, 0, "cannot create virtio-blk: out of memory");
		return NULL;
	}
	pthread_mutex_init(&blk->drain_lock, NULL);
	pthread_cond_init(&blk->drained, NULL);
	virtio_init(&blk->vdev, "virtio-blk", VIRTIO_ID_BLOCK, BLK_CLASS, &blk_ops);
	for (unsigned i = 0; i < queues; i++)
		virtio_add_queue(&blk->vdev, BLK_QUEUE_SIZE);
	blk->image = image;
	fill_config(blk, queues);
	blk->pool = block_pool_create(BLK_WORKERS, err);
	if (!blk->pool || virtio_plug(&blk->vdev, bus, slot, err) < 0) {
		blk->image = NULL; /* stays the caller's */
		blk_destroy(&blk->vdev);
		return NULL;
	}
	if (serial)
		snprintf(blk->serial, sizeof(blk->serial), "%s", serial);
	else
		snprintf(blk->serial, sizeof(blk->serial), "lodge-disk%u",
			 PCI_SLOT(blk->vdev.pci.devfn));
	return &blk->vdev.pci;
}
