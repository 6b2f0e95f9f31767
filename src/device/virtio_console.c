/* SPDX-License-Identifier: MIT */
/*
 * virtio-console: one port, on a character back end.
 *
 * Output is written on the vCPU's thread. Input arrives on the event-loop thread into a small
 * buffer and moves on to the receive queue from there, or when the guest supplies buffers. What the
 * back end does not take is lost, as on a serial line without flow control.
 *
 * Source: VIRTIO 1.2, 5.3. Left out: several ports and their control queues.
 */
#include "char/char.h"
#include "device/virtio.h"
#include "device/virtio_devices.h"
#include "vm/vm.h"

#define CONSOLE_QUEUE_SIZE 64
#define CONSOLE_CLASS 0x078000 /* other communication device */
#define INPUT_SIZE 4096

enum { RECEIVE_QUEUE, TRANSMIT_QUEUE };
enum { CONSOLE_F_EMERGENCY_WRITE = 2 };
enum { CONFIG_EMERGENCY_WRITE = 8, CONFIG_LEN = 12 };

struct virtio_console {
	struct virtio_device vdev;
	struct char_backend *chr;
	struct virtqueue_chain receive_scratch, transmit_scratch; /* each under its queue's lock */
	uint8_t input[INPUT_SIZE]; /* ring buffer, under the receive queue's lock */
	uint32_t input_start, input_len;
};

static struct virtio_console *console_of(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_console, vdev);
}

/* ---- output ---- */

static bool transmit(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	struct virtio_console *console = console_of(queue->vdev);

	for (unsigned i = 0; i < chain->out_count; i++)
		char_write(console->chr, chain->iov[i].iov_base, chain->iov[i].iov_len);
	virtqueue_push(queue, chain, 0);
	return true;
}

static void console_config_written(struct virtio_device *vdev, unsigned offset, unsigned len)
{
	struct virtio_console *console = console_of(vdev);

	(void)len;
	if (offset == CONFIG_EMERGENCY_WRITE)
		char_write(console->chr, vdev->config + CONFIG_EMERGENCY_WRITE, 1);
}

/* ---- input ---- */

/* Move buffered input into the guest's buffers. Queue locked. */
static void deliver_input(struct virtio_console *console)
{
	struct virtqueue *queue = &console->vdev.queues[RECEIVE_QUEUE];
	struct virtqueue_chain *chain = &console->receive_scratch;

	for (unsigned budget = 2 * CONSOLE_QUEUE_SIZE; console->input_len && budget; budget--) {
		uint32_t done = 0, want;

		if (virtqueue_pop(queue, chain) <= 0) {
			/* Wait for buffers, unless some came just now. */
			virtqueue_want_kicks(queue, true);
			if (virtqueue_empty(queue))
				break;
			continue;
		}
		want = MIN(console->input_len, chain->in_len);
		while (done < want) {
			uint32_t n = MIN(want - done, INPUT_SIZE - console->input_start);

			virtqueue_write(chain, done, console->input + console->input_start, n);
			console->input_start = (console->input_start + n) % INPUT_SIZE;
			console->input_len -= n;
			done += n;
		}
		virtqueue_push(queue, chain, done);
	}
	virtqueue_interrupt(queue);
}

static size_t console_can_receive(void *opaque)
{
	struct virtio_console *console = opaque;
	struct virtqueue *queue = &console->vdev.queues[RECEIVE_QUEUE];
	size_t room;

	virtqueue_lock(queue);
	room = atomic_load(&queue->ready) ? INPUT_SIZE - console->input_len : 0;
	virtqueue_unlock(queue);
	return room;
}

static void console_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct virtio_console *console = opaque;
	struct virtqueue *queue = &console->vdev.queues[RECEIVE_QUEUE];

	virtqueue_lock(queue);
	for (size_t i = 0; i < len && console->input_len < INPUT_SIZE; i++)
		console->input[(console->input_start + console->input_len++) % INPUT_SIZE] =
			data[i];
	deliver_input(console);
	virtqueue_unlock(queue);
}

static void supply_buffers(struct virtio_console *console)
{
	struct virtqueue *queue = &console->vdev.queues[RECEIVE_QUEUE];

	virtqueue_lock(queue);
	deliver_input(console);
	virtqueue_unlock(queue);
	if (console->chr && console->chr->accept_input)
		console->chr->accept_input(console->chr);
}

static void console_notify(struct virtio_device *vdev, unsigned index)
{
	if (index == TRANSMIT_QUEUE)
		virtqueue_serve(&vdev->queues[index], &console_of(vdev)->transmit_scratch,
				2 * CONSOLE_QUEUE_SIZE, transmit);
	else
		supply_buffers(console_of(vdev));
}

/* ---- life ---- */

static void console_reset(struct virtio_device *vdev)
{
	struct virtio_console *console = console_of(vdev);

	virtqueue_lock(&vdev->queues[RECEIVE_QUEUE]);
	console->input_start = console->input_len = 0;
	virtqueue_unlock(&vdev->queues[RECEIVE_QUEUE]);
}

static void console_destroy(struct virtio_device *vdev)
{
	virtio_release(vdev);
	free(console_of(vdev));
}

static const struct virtio_ops console_ops = {
	.notify = console_notify,
	.reset = console_reset,
	.config_written = console_config_written,
	.destroy = console_destroy,
};

static int after_load(void *object, struct error *err)
{
	struct virtio_console *console = object;

	if (console->input_start >= INPUT_SIZE || console->input_len > INPUT_SIZE)
		return error_set(err, 0, "virtio-console: saved input buffer is impossible");
	return 0;
}

static const struct state_field console_fields[] = {
	STATE_BUFFER(struct virtio_console, input),
	STATE_FIELD(struct virtio_console, input_start),
	STATE_FIELD(struct virtio_console, input_len),
	STATE_END,
};

static const struct state_table console_state = {
	.name = "virtio-console",
	.version = 1,
	.fields = console_fields,
	.after_load = after_load,
};

struct pci_device *virtio_console_create(struct pci_bus *bus, int slot, struct char_backend *chr,
					 struct error *err)
{
	struct virtio_console *console = calloc(1, sizeof(*console));

	if (!console) {
		error_set(err, 0, "cannot create virtio-console: out of memory");
		return NULL;
	}
	virtio_init(&console->vdev, "virtio-console", VIRTIO_ID_CONSOLE, CONSOLE_CLASS,
		    &console_ops);
	console->vdev.features |= BIT64(CONSOLE_F_EMERGENCY_WRITE);
	console->vdev.config_len = CONFIG_LEN;
	virtio_add_queue(&console->vdev, CONSOLE_QUEUE_SIZE);
	virtio_add_queue(&console->vdev, CONSOLE_QUEUE_SIZE);
	if (virtio_plug(&console->vdev, bus, slot, err) < 0) {
		console_destroy(&console->vdev);
		return NULL;
	}
	vm_state_register(bus->vm, &console_state, console->vdev.pci.devfn, console);
	console->chr = chr;
	if (chr)
		char_attach(chr, console_can_receive, console_receive, console);
	return &console->vdev.pci;
}
