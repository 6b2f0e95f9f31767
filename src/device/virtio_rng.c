/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng: random bytes from the host's getrandom(2), which never waits once the host is up.
 *
 * Served on the vCPU's thread. A buffer gets at most 4 KiB at a time: the driver asks again for
 * more.
 *
 * Source: VIRTIO 1.2, 5.4.
 */
#include <sys/random.h>

#include "device/virtio.h"
#include "device/virtio_devices.h"
#include "vm/vm.h"

#define RNG_QUEUE_SIZE 8
#define RNG_CLASS 0x100000 /* other encryption controller; as good as any */
#define RNG_REQUEST_MAX 4096u

struct virtio_rng {
	struct virtio_device vdev;
	struct virtqueue_chain scratch; /* under the queue's lock */
};

static void fill(struct virtqueue_chain *chain, uint32_t len)
{
	uint8_t bytes[256];

	for (uint32_t done = 0; done < len;) {
		ssize_t n = getrandom(bytes, MIN(len - done, sizeof(bytes)),
				      0); /* up to 256 bytes: all or EINTR */

		if (n <= 0)
			continue;
		virtqueue_write(chain, done, bytes, n);
		done += n;
	}
	explicit_bzero(bytes, sizeof(bytes));
}

static bool serve(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint32_t len = MIN(chain->in_len, RNG_REQUEST_MAX);

	fill(chain, len);
	virtqueue_push(queue, chain, len);
	return true;
}

static void rng_notify(struct virtio_device *vdev, unsigned index)
{
	struct virtio_rng *rng = container_of(vdev, struct virtio_rng, vdev);

	virtqueue_serve(&vdev->queues[index], &rng->scratch, 2 * RNG_QUEUE_SIZE, serve);
}

static void rng_destroy(struct virtio_device *vdev)
{
	virtio_release(vdev);
	free(container_of(vdev, struct virtio_rng, vdev));
}

static const struct virtio_ops rng_ops = { .notify = rng_notify, .destroy = rng_destroy };

struct pci_device *virtio_rng_create(struct pci_bus *bus, int slot, struct error *err)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));

	if (!rng) {
		error_set(err, 0, "cannot create virtio-rng: out of memory");
		return NULL;
	}
	virtio_init(&rng->vdev, "virtio-rng", VIRTIO_ID_RNG, RNG_CLASS, &rng_ops);
	virtio_add_queue(&rng->vdev, RNG_QUEUE_SIZE);
	if (virtio_plug(&rng->vdev, bus, slot, err) < 0) {
		rng_destroy(&rng->vdev);
		return NULL;
	}
	return &rng->vdev.pci;
}
