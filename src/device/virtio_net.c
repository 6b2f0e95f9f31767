/* SPDX-License-Identifier: MIT */
/*
 * virtio-net: an Ethernet card.
 *
 * Transmit: back ends live on the event-loop thread, so a kick only makes sure that the loop will
 * look at the queue (one flag, and a wake-up if the flag was clear); the loop takes the frames
 * straight from guest memory. Receive: the back end hands frames over on the loop thread; they are
 * copied into the guest's buffers, or wait in a bounded list until it supplies some. Interrupts are
 * sent once for each burst.
 *
 * Offloads: the guest may leave out checksums, which are filled in here by the host's own
 * instructions, and, if the back end takes long frames, TCP segmentation, which then nobody needs
 * to do at all. The other way, segments of one connection that arrive in a burst are joined
 * (net/merge.h).
 *
 * Locks: the transmit queue's is held around the back end's send(), which may answer at once and so
 * take the receive queue's; never the other way round.
 *
 * Source: VIRTIO 1.2, 5.1.
 */
#include "base/log.h"
#include "device/virtio.h"
#include "device/virtio_devices.h"
#include "net/merge.h"
#include "net/net.h"
#include "vm/vm.h"

#define NET_QUEUE_SIZE 256
#define NET_CONTROL_SIZE 64
#define NET_CLASS 0x020000 /* Ethernet controller */
#define TRANSMIT_BUDGET 128
#define MERGE_MAX                                                                                  \
	24 /* buffers one received frame may take: 32 KiB in those of an Ethernet frame's length */
#define WAITING_FRAMES_MAX 1024
#define WAITING_BYTES_MAX MIB(4)

/* Feature bits (5.1.3). */
enum {
	NET_F_CSUM = 0,
	NET_F_GUEST_CSUM = 1,
	NET_F_MAC = 5,
	NET_F_GUEST_TSO4 = 7,
	NET_F_HOST_TSO4 = 11,
	NET_F_MRG_RXBUF = 15,
	NET_F_STATUS = 16,
	NET_F_CTRL_VQ = 17,
	NET_F_CTRL_RX = 18,
	NET_F_CTRL_MAC_ADDR = 23,
};

enum { RECEIVE_QUEUE, TRANSMIT_QUEUE, CONTROL_QUEUE };
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_LEN = 12 };
#define STATUS_LINK_UP 1
#define MAC_LEN 6
#define ETHERNET_HEADER 14

/* struct virtio_net_hdr (5.1.6). */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t header_len, gso_size, csum_start, csum_offset, buffers;
};
#define HEADER_NEEDS_CSUM 1
#define HEADER_DATA_VALID 2
#define HEADER_GSO_TCPV4 1
#define TCP_OFFSET 34 /* in an IPv4 frame */
#define TCP_CHECKSUM_OFFSET 16
#define TCP_DATA_OFFSET 54

/* Control commands (5.1.6.5): class, command. */
enum { CONTROL_RX = 0, CONTROL_MAC = 1 };
enum { CONTROL_MAC_TABLE_SET = 0, CONTROL_MAC_ADDR_SET = 1 };

struct waiting_frame {
	struct waiting_frame *next;
	struct net_header header;
	size_t len;
	uint8_t data[];
};

struct virtio_net {
	struct virtio_device vdev;
	struct net_backend *net;
	atomic_bool transmit_scheduled;
	/* Under the transmit queue's lock. */
	struct virtqueue_chain transmit_scratch;
	uint8_t frame[NET_FRAME_MAX];
	/* Under the control queue's. */
	struct virtqueue_chain control_scratch;
	/* Under the receive queue's. */
	struct virtqueue_chain receive_chains[MERGE_MAX];
	struct waiting_frame *waiting, **waiting_tail;
	unsigned waiting_count;
	size_t waiting_bytes;
	struct net_merge merge;
};

static struct virtio_net *net_of(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_net, vdev);
}

/* ---- transmit ---- */

/* One's complement sum of 16-bit words (RFC 1071), complemented. */
static uint16_t checksum(const uint8_t *data, size_t len)
{
	uint64_t sum = 0;

	for (; len >= 4; data += 4, len -= 4)
		sum += load_le32(data);
	if (len >= 2) {
		sum += load_le16(data);
		data += 2;
		len -= 2;
	}
	if (len)
		sum += *data;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The driver left the sum of the pseudo header in the field. False: the header points outside
 * the frame. */
static bool fill_checksum(const struct net_header *header, uint8_t *frame, size_t len)
{
	size_t field = (size_t)header->csum_start + header->csum_offset;
	uint16_t sum;

	if (header->csum_start >= len || field + 2 > len)
		return false;
	sum = checksum(frame + header->csum_start, len - header->csum_start);
	store_le16(frame + field, sum ? sum : 0xffff); /* 0 would mean "none" in UDP */
	return true;
}

static bool transmit(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	struct virtio_net *self = net_of(queue->vdev);
	struct net_header header;
	size_t len;

	if (chain->out_len < sizeof(header)) {
		virtio_broken(queue->vdev, "transmit: %u bytes are no header", chain->out_len);
		return false;
	}
	len = chain->out_len - sizeof(header);
	virtqueue_read(chain, 0, &header, sizeof(header));
	if (len >= ETHERNET_HEADER && len <= sizeof(self->frame)) {
		/* A copy, since the guest may change the frame while the back end reads it. */
		virtqueue_read(chain, sizeof(header), self->frame, len);
		if (!(header.flags & HEADER_NEEDS_CSUM) ||
		    fill_checksum(&header, self->frame, len)) {
			trace(TRACE_NET, "%s: transmit %zu bytes", queue->vdev->pci.name, len);
			self->net->ops->send(self->net, self->frame, len);
		}
	}
	virtqueue_push(queue, chain, 0);
	return true;
}

static void receive_done(void *opaque);

/* Loop thread. */
static void run_transmit(void *opaque)
{
	struct virtio_net *self = opaque;

	atomic_store(&self->transmit_scheduled, false);
	virtqueue_serve(&self->vdev.queues[TRANSMIT_QUEUE], &self->transmit_scratch,
			TRANSMIT_BUDGET, transmit);
	receive_done(self);
}

/* ---- receive ---- */

enum take { TAKEN, NO_BUFFERS, TOO_LARGE };

/* Pop buffers for total bytes into receive_chains; unless TAKEN, nothing has happened. */
static enum take take_buffers(struct virtio_net *self, size_t total, uint32_t *written,
			      unsigned *count)
{
	struct virtqueue *queue = &self->vdev.queues[RECEIVE_QUEUE];
	struct virtqueue_mark mark = virtqueue_mark(queue);
	unsigned max = virtio_has_feature(&self->vdev, NET_F_MRG_RXBUF) ? MERGE_MAX : 1;
	size_t room = 0;
	enum take result = TAKEN;

	for (*count = 0; room < total && result == TAKEN;) {
		struct virtqueue_chain *chain = &self->receive_chains[*count];

		if (*count == max)
			result = TOO_LARGE;
		else if (virtqueue_pop(queue, chain) <= 0)
			result = NO_BUFFERS;
		else if (*count == 0 && chain->in_len < sizeof(struct net_header))
			result = TOO_LARGE;
		else {
			written[(*count)++] = MIN(chain->in_len, total - room);
			room += chain->in_len;
		}
	}
	if (result != TAKEN)
		virtqueue_rewind(queue, mark);
	return result;
}

/* Copy a frame with its header into the guest's buffers. False: there are none now. A frame that
 * its buffers cannot hold is dropped. */
static bool deliver(struct virtio_net *self, struct net_header header, const uint8_t *frame,
		    size_t len)
{
	struct virtqueue *queue = &self->vdev.queues[RECEIVE_QUEUE];
	uint32_t written[MERGE_MAX];
	unsigned count;
	size_t done;
	enum take result = take_buffers(self, sizeof(header) + len, written, &count);

	if (result != TAKEN)
		return result == TOO_LARGE;
	header.buffers = count;
	virtqueue_write(&self->receive_chains[0], 0, &header, sizeof(header));
	done = written[0] - sizeof(header);
	virtqueue_write(&self->receive_chains[0], sizeof(header), frame, done);
	for (unsigned i = 1; i < count; i++) {
		virtqueue_write(&self->receive_chains[i], 0, frame + done, written[i]);
		done += written[i];
	}
	virtqueue_push_all(queue, self->receive_chains, written, count);
	return true;
}

static void drop_first_waiting(struct virtio_net *self)
{
	struct waiting_frame *frame = self->waiting;

	self->waiting = frame->next;
	if (!self->waiting)
		self->waiting_tail = &self->waiting;
	self->waiting_count--;
	self->waiting_bytes -= frame->len;
	free(frame);
}

/* Deliver what waits; ask for kicks while something does. Queue locked. */
static void deliver_waiting(struct virtio_net *self)
{
	struct virtqueue *queue = &self->vdev.queues[RECEIVE_QUEUE];

	for (bool asked = false; self->waiting;) {
		if (deliver(self, self->waiting->header, self->waiting->data, self->waiting->len)) {
			drop_first_waiting(self);
		} else if (!asked) {
			virtqueue_want_kicks(queue, true);
			asked = true; /* and look once more */
		} else {
			return;
		}
	}
	virtqueue_want_kicks(queue, false);
}

static void keep_waiting(struct virtio_net *self, struct net_header header, const uint8_t *data,
			 size_t len)
{
	struct waiting_frame *frame;

	if (self->waiting_count >= WAITING_FRAMES_MAX ||
	    self->waiting_bytes + len > WAITING_BYTES_MAX)
		return; /* dropped, as on a busy wire */
	frame = malloc(sizeof(*frame) + len);
	if (!frame)
		return;
	frame->next = NULL;
	frame->header = header;
	frame->len = len;
	memcpy(frame->data, data, len);
	*self->waiting_tail = frame;
	self->waiting_tail = &frame->next;
	self->waiting_count++;
	self->waiting_bytes += len;
}

/* To the guest now, or to the end of those that wait. Queue locked, as below. */
static void pass_on(struct virtio_net *self, struct net_header header, const uint8_t *frame,
		    size_t len)
{
	if (self->waiting || !deliver(self, header, frame, len))
		keep_waiting(self, header, frame, len);
	deliver_waiting(self);
}

/* The header of a frame that came whole: it never left this machine, or the host has checked it. */
static struct net_header whole_header(const struct virtio_net *self)
{
	return (struct net_header){
		.flags = virtio_has_feature(&self->vdev, NET_F_GUEST_CSUM) ? HEADER_DATA_VALID : 0,
	};
}

static void pass_on_merged(struct virtio_net *self)
{
	struct net_header header = whole_header(self);
	unsigned segments;
	uint16_t segment_len;
	size_t len = net_merge_finish(&self->merge, &segments, &segment_len);

	if (!len)
		return;
	if (segments > 1)
		header = (struct net_header){
			.flags = HEADER_NEEDS_CSUM,
			.gso_type = HEADER_GSO_TCPV4,
			.header_len = TCP_DATA_OFFSET,
			.gso_size = segment_len,
			.csum_start = TCP_OFFSET,
			.csum_offset = TCP_CHECKSUM_OFFSET,
		};
	pass_on(self, header, self->merge.frame, len);
}

static bool try_merge(struct virtio_net *self, const uint8_t *frame, size_t len)
{
	if (!virtio_has_feature(&self->vdev, NET_F_GUEST_TSO4))
		return false;
	if (net_merge_add(&self->merge, frame, len))
		return true;
	pass_on_merged(self);
	return net_merge_add(&self->merge, frame, len);
}

static void receive(void *opaque, const uint8_t *frame, size_t len)
{
	struct virtio_net *self = opaque;
	struct virtqueue *queue = &self->vdev.queues[RECEIVE_QUEUE];

	trace(TRACE_NET, "%s: receive %zu bytes", self->vdev.pci.name, len);
	virtqueue_lock(queue);
	/* Before there is a driver nobody listens. */
	if (atomic_load(&queue->ready) && !try_merge(self, frame, len))
		pass_on(self, whole_header(self), frame, len);
	virtqueue_unlock(queue);
}

static void receive_done(void *opaque)
{
	struct virtio_net *self = opaque;
	struct virtqueue *queue = &self->vdev.queues[RECEIVE_QUEUE];

	virtqueue_lock(queue);
	pass_on_merged(self);
	virtqueue_interrupt(queue);
	virtqueue_unlock(queue);
}

static const struct net_frontend_ops frontend_ops = { .receive = receive,
						      .receive_done = receive_done };

/* ---- control ---- */

static bool run_command(struct virtio_net *self, const struct virtqueue_chain *chain)
{
	uint8_t command[2], mac[MAC_LEN];

	if (virtqueue_read(chain, 0, command, sizeof(command)) != sizeof(command))
		return false;
	if (command[0] == CONTROL_RX)
		return true; /* the back end sends only what is for this card */
	if (command[0] != CONTROL_MAC)
		return false;
	if (command[1] == CONTROL_MAC_TABLE_SET)
		return true;
	if (command[1] != CONTROL_MAC_ADDR_SET ||
	    virtqueue_read(chain, 2, mac, sizeof(mac)) != sizeof(mac))
		return false;
	memcpy(self->vdev.config + CONFIG_MAC, mac, sizeof(mac));
	return true;
}

static bool control(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint8_t ack = !run_command(net_of(queue->vdev), chain);

	virtqueue_write(chain, 0, &ack, 1);
	virtqueue_push(queue, chain, MIN(1u, chain->in_len));
	return true;
}

/* ---- life ---- */

static void net_notify(struct virtio_device *vdev, unsigned index)
{
	struct virtio_net *self = net_of(vdev);
	struct virtqueue *queue = &vdev->queues[index];

	switch (index) {
	case TRANSMIT_QUEUE:
		if (!atomic_exchange(&self->transmit_scheduled, true))
			vm_defer(vdev->vm, run_transmit, self);
		break;
	case RECEIVE_QUEUE:
		virtqueue_lock(queue);
		deliver_waiting(self);
		virtqueue_interrupt(queue);
		virtqueue_unlock(queue);
		break;
	case CONTROL_QUEUE:
		virtqueue_serve(queue, &self->control_scratch, NET_CONTROL_SIZE, control);
		break;
	}
}

static void net_reset(struct virtio_device *vdev)
{
	struct virtio_net *self = net_of(vdev);

	virtqueue_lock(&vdev->queues[RECEIVE_QUEUE]);
	while (self->waiting)
		drop_first_waiting(self);
	self->merge.len = 0;
	virtqueue_unlock(&vdev->queues[RECEIVE_QUEUE]);
}

static void net_release(struct virtio_device *vdev)
{
	struct virtio_net *self = net_of(vdev);

	net_reset(vdev);
	if (self->net)
		net_destroy(self->net);
	virtio_release(vdev);
	free(self);
}

static const struct virtio_ops net_ops = { .notify = net_notify,
					   .reset = net_reset,
					   .destroy = net_release };

struct pci_device *virtio_net_create(struct pci_bus *bus, int slot, struct net_backend *net,
				     const uint8_t mac[6], struct error *err)
{
	struct virtio_net *self = calloc(1, sizeof(*self));

	if (!self) {
		error_set(err, 0, "cannot create virtio-net: out of memory");
		return NULL;
	}
	self->waiting_tail = &self->waiting;
	virtio_init(&self->vdev, "virtio-net", VIRTIO_ID_NET, NET_CLASS, &net_ops);
	self->vdev.features |= BIT64(NET_F_CSUM) | BIT64(NET_F_GUEST_CSUM) |
			       BIT64(NET_F_GUEST_TSO4) | BIT64(NET_F_MAC) | BIT64(NET_F_MRG_RXBUF) |
			       BIT64(NET_F_STATUS) | BIT64(NET_F_CTRL_VQ) | BIT64(NET_F_CTRL_RX) |
			       BIT64(NET_F_CTRL_MAC_ADDR);
	if (net->large_frames)
		self->vdev.features |= BIT64(NET_F_HOST_TSO4);
	self->vdev.config_len = CONFIG_LEN;
	memcpy(self->vdev.config + CONFIG_MAC, mac, MAC_LEN);
	store_le16(self->vdev.config + CONFIG_STATUS, STATUS_LINK_UP);
	virtio_add_queue(&self->vdev, NET_QUEUE_SIZE);
	virtio_add_queue(&self->vdev, NET_QUEUE_SIZE);
	virtio_add_queue(&self->vdev, NET_CONTROL_SIZE);
	if (virtio_plug(&self->vdev, bus, slot, err) < 0) {
		net_release(
			&self->vdev); /* self->net is not set: the back end stays the caller's */
		return NULL;
	}
	self->net = net;
	net_attach(net, &frontend_ops, self);
	return &self->vdev.pci;
}
