/* SPDX-License-Identifier: MIT */
/* virtio-net as a driver sees it, on a back end that records frames, and on the user network
 * with a small IP stack. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

#include "device/virtio_devices.h"
#include "net/net.h"
#include "virtio_driver.h"

#define HEADER 12
#define RX 0
#define TX 1
#define CTRL 2
#define BUFFERS 32
#define BUFFER_SIZE 2048

static const uint8_t our_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

struct fixture {
	struct test_machine *m;
	struct driver d;
	uint64_t rx, tx; /* guest memory */
	uint32_t rx_size;
};

/* ---- a back end that records ---- */

struct recorder {
	struct net_backend net;
	atomic_uint count;
	size_t len;
	uint8_t frame[NET_FRAME_MAX];
};

static void record(struct net_backend *net, const uint8_t *frame, size_t len)
{
	struct recorder *r = container_of(net, struct recorder, net);

	memcpy(r->frame, frame, len);
	r->len = len;
	atomic_fetch_add(&r->count, 1);
}

static void forget(struct net_backend *net)
{
	free(container_of(net, struct recorder, net));
}

static const struct net_backend_ops recorder_ops = { record, forget };

static void set_up(struct fixture *f, struct net_backend *net)
{
	struct error err;

	assert_non_null(virtio_net_create(f->m->bus, 3, net, our_mac, &err));
	assert_int_equal(pci_assign_bars(f->m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000,
					 true, &err),
			 0);
	test_machine_start_loop(f->m);
	driver_probe(&f->d, f->m, f->m->bus->devices[PCI_DEVFN(3, 0)]);
}

static void supply(struct fixture *f, unsigned n)
{
	struct test_buffer in = { f->rx + n * BUFFER_SIZE, f->rx_size };

	assert_true(driver_add(&f->d.queues[RX], NULL, 0, &in, 1, test_host(f->m, in.gpa)));
}

static void start(struct fixture *f, uint64_t features, unsigned mode, uint32_t rx_size,
		  unsigned buffers)
{
	features |= BIT64(VIRTIO_F_VERSION_1) | (mode & 1 ? BIT64(VIRTIO_F_RING_PACKED) : 0) |
		    (mode & 2 ? BIT64(VIRTIO_F_EVENT_IDX) : 0) |
		    (mode & 4 ? BIT64(VIRTIO_F_INDIRECT_DESC) : 0);
	test_free_all(f->m);
	driver_start(&f->d, features, true, 3, 64);
	f->rx = test_alloc(f->m, BUFFERS * BUFFER_SIZE);
	f->tx = test_alloc(f->m, 80 * 4096);
	f->rx_size = rx_size;
	for (unsigned i = 0; i < buffers; i++)
		supply(f, i);
	driver_kick(&f->d.queues[RX]);
}

static void transmit(struct fixture *f, const uint8_t *header, const void *frame, size_t len)
{
	uint8_t *host = test_host(f->m, f->tx);
	struct test_buffer out[2] = { { f->tx, HEADER }, { f->tx + HEADER, len } };

	memset(host, 0, HEADER);
	if (header)
		memcpy(host, header, HEADER);
	memcpy(host + HEADER, frame, len);
	assert_true(driver_add(&f->d.queues[TX], out, 2, NULL, 0, host));
	driver_kick(&f->d.queues[TX]);
	assert_non_null(driver_wait(&f->d.queues[TX], NULL));
}

/* ---- with the recorder ---- */

static void frames_go_out(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1514];
	unsigned sent = 0;

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	for (unsigned mode = 0; mode < 8; mode++) {
		start(&f, ~0ull >> 36, mode, BUFFER_SIZE, 4);
		for (unsigned len = 14; len <= sizeof(frame); len += 100) {
			for (unsigned i = 0; i < len; i++)
				frame[i] = rand();
			transmit(&f, NULL, frame, len);
			assert_int_equal(r->count, ++sent);
			assert_int_equal(r->len, len);
			assert_memory_equal(r->frame, frame, len);
		}
		transmit(&f, NULL, frame, 13); /* no frame at all */
		assert_int_equal(r->count, sent);
		assert_int_equal(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET, 0);
		driver_reset(&f.d);
	}
	assert_int_equal(driver_read(&f.d, f.d.device, 4), 0x12005452);
	assert_int_equal(driver_read(&f.d, f.d.device + 6, 2), 1);
	test_machine_destroy(f.m);
}

static uint16_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++)
		sum += i % 2 ? p[i] : p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void checksums_are_filled_in(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1000], header[HEADER] = { 1 };

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	start(&f, BIT64(0), 2, BUFFER_SIZE, 4);
	for (unsigned len = 60; len < 100; len++) {
		for (unsigned i = 0; i < len; i++)
			frame[i] = rand();
		store_le16(frame + 34 + 16, 0);
		store_le16(header + 6, 34);
		store_le16(header + 8, 16);
		transmit(&f, header, frame, len);
		assert_int_equal(sum16(r->frame + 34, len - 34, 0), 0xffff);
	}
	/* A header that points outside: the frame is dropped. */
	unsigned count = r->count;
	store_le16(header + 6, 90);
	transmit(&f, header, frame, 100);
	store_le16(header + 6, 0xffff);
	store_le16(header + 8, 0xffff);
	transmit(&f, header, frame, 100);
	assert_int_equal(r->count, count);
	test_machine_destroy(f.m);
}

static void push_frame(struct net_backend *net, const uint8_t *frame, size_t len)
{
	net->frontend->receive(net->opaque, frame, len);
	net->frontend->receive_done(net->opaque);
}

static void frames_come_in(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1514];

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	push_frame(&r->net, frame, 60); /* no driver yet: lost */
	for (unsigned mode = 0; mode < 8; mode++) {
		unsigned next = 8;

		start(&f, BIT64(1), mode, BUFFER_SIZE, 8);
		for (unsigned round = 0; round < 200; round++) {
			unsigned len = 60 + rand() % (sizeof(frame) - 60),
				 before = f.m->messages[1];
			uint32_t got;
			uint8_t *host;

			for (unsigned i = 0; i < len; i++)
				frame[i] = rand();
			driver_enable_interrupts(&f.d.queues[RX], round % 2);
			push_frame(&r->net, frame, len);
			assert_int_equal(f.m->messages[1] - before, round % 2);
			host = driver_used(&f.d.queues[RX], &got);
			assert_non_null(host);
			assert_int_equal(got, len + HEADER);
			assert_int_equal(host[0], 2); /* DATA_VALID */
			assert_int_equal(load_le16(host + 10), 1);
			assert_memory_equal(host + HEADER, frame, len);
			supply(&f, next++ % BUFFERS);
			driver_kick(&f.d.queues[RX]);
		}
		assert_true(f.d.queues[RX].kicks <=
			    2); /* the device has buffers: it does not want to hear of more */
		driver_reset(&f.d);
	}
	test_machine_destroy(f.m);
}

static void long_frames_are_merged(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1514], joined[BUFFER_SIZE];

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	for (unsigned mode = 0; mode < 4; mode++) {
		unsigned buffers = 0, at = 0, count;
		uint32_t got;

		start(&f, BIT64(15), mode, 300, 12);
		for (unsigned i = 0; i < sizeof(frame); i++)
			frame[i] = rand();
		push_frame(&r->net, frame, sizeof(frame));
		for (uint8_t *host; (host = driver_used(&f.d.queues[RX], &got)) != NULL;
		     buffers++) {
			if (buffers == 0)
				count = load_le16(host + 10);
			memcpy(joined + at, host, got);
			at += got;
		}
		assert_int_equal(buffers, 6);
		assert_int_equal(count, 6);
		assert_int_equal(at, HEADER + sizeof(frame));
		assert_memory_equal(joined + HEADER, frame, sizeof(frame));
		/* Six more are left: enough for one more, then it waits for buffers. */
		push_frame(&r->net, frame, sizeof(frame));
		for (buffers = 0; driver_used(&f.d.queues[RX], &got);)
			buffers++;
		assert_int_equal(buffers, 6);
		push_frame(&r->net, frame, sizeof(frame));
		assert_null(driver_used(&f.d.queues[RX], &got));
		for (unsigned i = 0; i < 6; i++) {
			assert_null(driver_used(&f.d.queues[RX], &got));
			supply(&f, i);
			driver_kick(&f.d.queues[RX]);
		}
		for (buffers = 0; driver_used(&f.d.queues[RX], &got);)
			buffers++;
		assert_int_equal(buffers, 6);
		driver_reset(&f.d);
	}
	/* Without merging, a frame that does not fit is dropped and the next one gets the
	 * buffer. */
	start(&f, 0, 0, 300, 2);
	push_frame(&r->net, frame, sizeof(frame));
	push_frame(&r->net, frame, 100);
	uint32_t got;
	assert_non_null(driver_used(&f.d.queues[RX], &got));
	assert_int_equal(got, 112);
	test_machine_destroy(f.m);
}

static void frames_wait_for_buffers_within_bounds(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1514] = { 0 };
	unsigned delivered = 0;

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	start(&f, 0, 2, BUFFER_SIZE, 0);
	for (unsigned i = 0; i < 10000; i++) {
		store_le32(frame + 20, i);
		push_frame(&r->net, frame, sizeof(frame));
	}
	for (;;) {
		uint32_t got;
		uint8_t *host;

		supply(&f, 0);
		driver_kick(&f.d.queues[RX]);
		host = driver_used(&f.d.queues[RX], &got);
		if (!host)
			break;
		assert_int_equal(load_le32(host + HEADER + 20), delivered++);
	}
	assert_int_equal(delivered, 1024);
	test_machine_destroy(f.m);
}

static void control_commands_are_acknowledged(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	const uint8_t commands[][8] = { { 0, 0, 1 }, { 1, 1, 2, 0, 0, 0, 0, 9 }, { 9, 9 } };

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	start(&f, ~0ull >> 36, 7, BUFFER_SIZE, 1);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t *host = test_host(f.m, f.tx);
		struct test_buffer out[2] = { { f.tx, 2 }, { f.tx + 2, 6 } }, in = { f.tx + 64, 1 };

		memcpy(host, commands[i], 8);
		host[64] = 0xee;
		driver_add(&f.d.queues[CTRL], out, 2, &in, 1, host);
		driver_kick(&f.d.queues[CTRL]);
		assert_non_null(driver_wait(&f.d.queues[CTRL], NULL));
		assert_int_equal(host[64], i == 2);
	}
	assert_int_equal(driver_read(&f.d, f.d.device + 4, 2), 0x0900);
	test_machine_destroy(f.m);
}

/* ---- on the user network ---- */

static uint8_t received[BUFFER_SIZE];
static uint32_t received_len;
static unsigned rx_next;

/* The next frame from the gateway, without header; false after 5 s. */
static bool receive(struct fixture *f)
{
	uint32_t len;
	uint8_t *host = driver_wait(&f->d.queues[RX], &len);

	if (!host)
		return false;
	received_len = len - HEADER;
	memcpy(received, host + HEADER, received_len);
	supply(f, rx_next++ % BUFFERS);
	driver_kick(&f->d.queues[RX]);
	return true;
}

static void put16be(uint8_t *p, uint16_t v)
{
	p[0] = v >> 8;
	p[1] = v;
}

static void put32be(uint8_t *p, uint32_t v)
{
	put16be(p, v >> 16);
	put16be(p + 2, v);
}

static uint32_t get32be(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

#define GUEST_IP 0x0a00020fu
#define GATEWAY_IP 0x0a000202u

/* Ethernet and IP headers for len bytes of payload. */
static void put_ip(uint8_t *frame, uint8_t protocol, uint32_t from, uint32_t to, size_t len)
{
	const uint8_t gateway[6] = { 0x52, 0x55, 10, 0, 2, 2 };

	memcpy(frame, gateway, 6);
	memcpy(frame + 6, our_mac, 6);
	put16be(frame + 12, 0x0800);
	memset(frame + 14, 0, 20);
	frame[14] = 0x45;
	put16be(frame + 16, 20 + len);
	frame[22] = 64;
	frame[23] = protocol;
	put32be(frame + 26, from);
	put32be(frame + 30, to);
	put16be(frame + 24, ~sum16(frame + 14, 20, 0));
}

/* A TCP segment whose checksum is left to the card. */
static void send_tcp(struct fixture *f, uint16_t from, uint16_t to, uint32_t seq, uint32_t ack,
		     uint8_t flags, const uint8_t *data, size_t len)
{
	static uint8_t frame[NET_FRAME_MAX];
	uint8_t header[HEADER] = { 1 }, *tcp = frame + 34, pseudo[12];

	memset(tcp, 0, 20);
	put16be(tcp, from);
	put16be(tcp + 2, to);
	put32be(tcp + 4, seq);
	put32be(tcp + 8, ack);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	put16be(tcp + 14, 0xffff);
	if (len)
		memcpy(tcp + 20, data, len);
	put_ip(frame, 6, GUEST_IP, GATEWAY_IP, 20 + len);
	put32be(pseudo, GUEST_IP);
	put32be(pseudo + 4, GATEWAY_IP);
	put16be(pseudo + 8, 6);
	put16be(pseudo + 10, 20 + len);
	put16be(tcp + 16, sum16(pseudo, 12, 0));
	store_le16(header + 6, 34);
	store_le16(header + 8, 16);
	if (len > 1460) {
		header[1] = 1; /* GSO_TCPV4 */
		store_le16(header + 2, 54);
		store_le16(header + 4, 1460);
	}
	transmit(f, header, frame, 54 + len);
}

/* Wait for a TCP segment to our port that has all of flags. */
static bool receive_tcp(struct fixture *f, uint16_t port, uint8_t flags)
{
	while (receive(f))
		if (received[23] == 6 && received[12] == 8 &&
		    (received[36] << 8 | received[37]) == port && (received[47] & flags) == flags)
			return true;
	return false;
}

/* A segment of a download, as a back end hands it over; byte n of the stream is n * 7 + n / 256. */
static size_t make_segment(uint8_t *frame, uint32_t sequence, size_t len, uint8_t flags)
{
	uint8_t *tcp = frame + 34, pseudo[12];

	memset(tcp, 0, 20);
	put16be(tcp, 80);
	put16be(tcp + 2, 5555);
	put32be(tcp + 4, sequence);
	put32be(tcp + 8, 77);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	put16be(tcp + 14, 1000 + sequence % 1000);
	for (size_t i = 0; i < len; i++)
		tcp[20 + i] = (sequence + i) * 7 + (sequence + i) / 256;
	put_ip(frame, 6, GATEWAY_IP, GUEST_IP, 20 + len);
	put32be(pseudo, GATEWAY_IP);
	put32be(pseudo + 4, GUEST_IP);
	put16be(pseudo + 8, 6);
	put16be(pseudo + 10, 20 + len);
	put16be(tcp + 16, ~sum16(tcp, 20 + len, sum16(pseudo, 12, 0)));
	return 54 + len;
}

static void post(void *semaphore)
{
	sem_post(semaphore);
}

/* Wait until the event loop has done what was deferred to it: a kick of the transmit queue ends a burst, too. */
static void settle(struct fixture *f)
{
	sem_t done;

	sem_init(&done, 0, 0);
	vm_defer(f->m->vm, post, &done);
	while (sem_wait(&done))
		;
	sem_destroy(&done);
}

/* Hand over segments from..to of 1460 bytes in one burst. */
static void burst(struct fixture *f, struct net_backend *net, uint32_t sequence, unsigned count,
		  uint8_t last_flags)
{
	uint8_t frame[1514];

	settle(f);

	for (unsigned i = 0; i < count; i++) {
		size_t len = make_segment(frame, sequence + 1460 * i, 1460,
					  i + 1 == count ? last_flags : 0x10);

		net->frontend->receive(net->opaque, frame, len);
	}
	net->frontend->receive_done(net->opaque);
}

/* Take one frame out of its buffers; returns its length without header, 0 if there is none. */
static size_t take_joined(struct fixture *f, uint8_t *joined)
{
	uint32_t got;
	size_t at = 0;
	unsigned count = 1;

	for (unsigned i = 0; i < count; i++) {
		uint8_t *host = driver_used(&f->d.queues[RX], &got);

		if (!host)
			return 0;
		if (i == 0)
			count = load_le16(host + 10);
		memcpy(joined + at, host, got);
		at += got;
		supply(f, rx_next++ % BUFFERS);
	}
	driver_kick(&f->d.queues[RX]);
	return at - HEADER;
}

static void check_joined(struct fixture *f, uint32_t sequence, unsigned segments, size_t last_len)
{
	static uint8_t joined[65536];
	uint8_t *ip = joined + HEADER + 14, *tcp = ip + 20;
	size_t len = (segments - 1) * 1460 + last_len;

	assert_int_equal(take_joined(f, joined), 54 + len);
	assert_int_equal(sum16(ip, 20, 0), 0xffff);
	assert_int_equal(ip[2] << 8 | ip[3], 40 + len);
	assert_int_equal(get32be(tcp + 4), sequence);
	for (size_t i = 0; i < len; i++)
		if (tcp[20 + i] != (uint8_t)((sequence + i) * 7 + (sequence + i) / 256))
			fail_msg("byte %zu of %zu is wrong", i, len);
	if (segments == 1) {
		assert_int_equal(joined[0], 2);
		assert_int_equal(joined[1], 0);
		return;
	}
	assert_int_equal(joined[0], 1);
	assert_int_equal(joined[1], 1);
	assert_int_equal(load_le16(joined + 2), 54);
	assert_int_equal(load_le16(joined + 4), 1460);
	assert_int_equal(load_le16(joined + 6), 34);
	assert_int_equal(load_le16(joined + 8), 16);
	/* What the field holds is the sum of the pseudo header. */
	assert_int_equal(tcp[16] << 8 | tcp[17], sum16(ip + 12, 8, 6 + 20 + len));
	assert_int_equal(tcp[14] << 8 | tcp[15], 1000 + (sequence + (segments - 1) * 1460) % 1000);
}

static void segments_are_joined(void **state)
{
	struct fixture f = { .m = test_machine_create(1) };
	struct recorder *r = calloc(1, sizeof(*r));
	uint8_t frame[1514], joined[2048];

	(void)state;
	r->net.ops = &recorder_ops;
	set_up(&f, &r->net);
	for (unsigned mode = 0; mode < 4; mode++) {
		start(&f, BIT64(1) | BIT64(7) | BIT64(15), mode, 1526, BUFFERS);
		rx_next = BUFFERS;
		burst(&f, &r->net, 1000, 1, 0x10);
		check_joined(&f, 1000, 1, 1460);
		burst(&f, &r->net, 2460, 10, 0x10);
		check_joined(&f, 2460, 10, 1460);
		burst(&f, &r->net, 100000, 30, 0x18); /* more than one frame may hold */
		check_joined(&f, 100000, 22, 1460);
		check_joined(&f, 100000 + 22 * 1460, 8, 1460);
		settle(&f);
		/* A short one ends a train; what is out of sequence starts another. */
		r->net.frontend->receive(r->net.opaque, frame, make_segment(frame, 0, 1460, 0x10));
		r->net.frontend->receive(r->net.opaque, frame,
					 make_segment(frame, 1460, 100, 0x10));
		r->net.frontend->receive(r->net.opaque, frame,
					 make_segment(frame, 1560, 1460, 0x10));
		r->net.frontend->receive(r->net.opaque, frame,
					 make_segment(frame, 9999, 1460, 0x10));
		/* FIN, and what is no TCP, go on their own, in order. */
		r->net.frontend->receive(r->net.opaque, frame,
					 make_segment(frame, 9999 + 1460, 10, 0x11));
		memset(frame, 0xff, 60);
		r->net.frontend->receive(r->net.opaque, frame, 60);
		r->net.frontend->receive_done(r->net.opaque);
		check_joined(&f, 0, 2, 100);
		check_joined(&f, 1560, 1, 1460);
		check_joined(&f, 9999, 1, 1460);
		check_joined(&f, 9999 + 1460, 1, 10);
		assert_int_equal(take_joined(&f, joined), 60);
		assert_int_equal(take_joined(&f, joined), 0);
		driver_reset(&f.d);
	}
	test_machine_destroy(f.m);
}

static void start_user(struct fixture *f, const char *spec)
{
	struct net_backend *net;
	struct error err;

	f->m = test_machine_create(1);
	if (net_create(f->m->vm, spec, &net, &err) < 0)
		fail_msg("%s", err.text);
	set_up(f, net);
	start(f, ~0ull >> 36, 7, BUFFER_SIZE, BUFFERS / 2);
	rx_next = BUFFERS / 2;
}

static void say_arp(struct fixture *f)
{
	uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	memcpy(arp + 6, our_mac, 6);
	put16be(arp + 12, 0x0806);
	put16be(arp + 14, 1);
	put16be(arp + 16, 0x0800);
	arp[18] = 6;
	arp[19] = 4;
	put16be(arp + 20, 1);
	memcpy(arp + 22, our_mac, 6);
	put32be(arp + 28, GUEST_IP);
	put32be(arp + 38, GATEWAY_IP);
	transmit(f, NULL, arp, sizeof(arp));
	assert_true(receive(f));
	assert_int_equal(received[12] << 8 | received[13], 0x0806);
	assert_int_equal(received[21], 2);
	assert_int_equal(get32be(received + 28), GATEWAY_IP);
}

static void the_gateway_answers(void **state)
{
	struct fixture f;
	uint8_t frame[14 + 20 + 8 + 32];

	(void)state;
	start_user(&f, "user");
	say_arp(&f);
	memset(frame + 34, 0x11, 40);
	frame[34] = 8; /* echo request */
	frame[35] = 0;
	put16be(frame + 36, 0);
	put16be(frame + 36, ~sum16(frame + 34, 40, 0));
	put_ip(frame, 1, GUEST_IP, GATEWAY_IP, 40);
	transmit(&f, NULL, frame, sizeof(frame));
	assert_true(receive(&f));
	assert_int_equal(received[23], 1);
	assert_int_equal(received[34], 0); /* echo reply */
	test_machine_destroy(f.m);
}

static void dhcp_gives_a_lease(void **state)
{
	struct fixture f;
	uint8_t frame[14 + 20 + 8 + 260] = { 0 }, *udp = frame + 34, *dhcp = frame + 42;

	(void)state;
	start_user(&f, "user");
	put16be(udp, 68);
	put16be(udp + 2, 67);
	put16be(udp + 4, 8 + 260);
	dhcp[0] = 1;
	dhcp[1] = 1;
	dhcp[2] = 6;
	put32be(dhcp + 4, 0x12345678);
	memcpy(dhcp + 28, our_mac, 6);
	put32be(dhcp + 236, 0x63825363);
	memcpy(dhcp + 240, (uint8_t[]){ 53, 1, 1, 255 }, 4);
	put_ip(frame, 17, 0, 0xffffffff, 8 + 260);
	memset(frame, 0xff, 6);
	transmit(&f, NULL, frame, sizeof(frame));
	assert_true(receive(&f));
	assert_int_equal(received[34 + 1], 67);
	assert_int_equal(get32be(received + 42 + 16), GUEST_IP);
	test_machine_destroy(f.m);
}

static int listen_on_loopback(uint16_t *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(fd, 5), 0);
	getsockname(fd, (struct sockaddr *)&address, &len);
	*port = ntohs(address.sin_port);
	return fd;
}

/* Outbound TCP, with one segment of 40,000 bytes for libslirp to swallow. */
static void tcp_reaches_the_host_unsegmented(void **state)
{
	struct fixture f;
	uint16_t port;
	int listener = listen_on_loopback(&port), fd;
	static uint8_t data[40000], copy[40000];
	uint32_t seq = 1000, ack;
	size_t at = 0;

	(void)state;
	start_user(&f, "user");
	say_arp(&f);
	send_tcp(&f, 5555, port, seq++, 0, 2, NULL, 0);
	assert_true(receive_tcp(&f, 5555, 0x12));
	ack = get32be(received + 38) + 1;
	assert_int_equal(get32be(received + 42), seq);
	send_tcp(&f, 5555, port, seq, ack, 0x10, NULL, 0);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = rand();
	send_tcp(&f, 5555, port, seq, ack, 0x18, data, sizeof(data));
	while (at < sizeof(data)) {
		ssize_t n = read(fd, copy + at, sizeof(data) - at);

		assert_true(n > 0);
		at += n;
	}
	assert_memory_equal(copy, data, sizeof(data));
	/* and back */
	assert_int_equal(write(fd, "hello", 5), 5);
	do
		assert_true(receive_tcp(&f, 5555, 0x10));
	while (received_len < 54 + 5 || memcmp(received + 54, "hello", 5));
	assert_int_equal(get32be(received + 42), seq + sizeof(data));
	close(fd);
	close(listener);
	test_machine_destroy(f.m);
}

static void host_ports_lead_to_the_guest(void **state)
{
	struct fixture f;
	uint16_t port;
	char spec[64];
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = listen_on_loopback(&port);

	(void)state;
	close(fd); /* a port that is free now */
	snprintf(spec, sizeof(spec), "user,hostfwd=tcp:127.0.0.1:%u-:80", port);
	start_user(&f, spec);
	say_arp(&f);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	address.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_true(receive_tcp(&f, 80, 2));
	close(fd);
	test_machine_destroy(f.m);
}

static void host_udp_ports_lead_to_the_guest(void **state)
{
	struct fixture f;
	uint16_t port;
	char spec[64];
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = listen_on_loopback(&port);

	(void)state;
	close(fd);
	snprintf(spec, sizeof(spec), "user,hostfwd=udp:%u:53", port);
	start_user(&f, spec);
	say_arp(&f);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	address.sin_port = htons(port);
	assert_int_equal(sendto(fd, "datagram", 8, 0, (struct sockaddr *)&address, sizeof(address)),
			 8);
	do
		assert_true(receive(&f));
	while (received[23] != 17);
	assert_int_equal(received[36] << 8 | received[37], 53);
	assert_memory_equal(received + 42, "datagram", 8);
	close(fd);
	test_machine_destroy(f.m);
}

static void bad_options_are_refused(void **state)
{
	static const struct {
		const char *spec, *text;
	} cases[] = {
		{ "bridge", "unknown network 'bridge' (known: user, none)" },
		{ "user,x=1", "network user: unknown option 'x=1' (known: hostfwd=...)" },
		{ "user,hostfwd=tcp:1",
		  "hostfwd 'tcp:1': expected tcp:HOSTPORT:GUESTPORT or udp:HOSTPORT:GUESTPORT" },
		{ "user,hostfwd=sctp:1:2",
		  "hostfwd 'sctp:1:2': expected tcp:HOSTPORT:GUESTPORT or udp:HOSTPORT:GUESTPORT" },
		{ "user,hostfwd=tcp:70000:2",
		  "hostfwd 'tcp:70000:2': expected tcp:HOSTPORT:GUESTPORT or udp:HOSTPORT:GUESTPORT" },
	};
	struct test_machine *m = test_machine_create(1);
	struct net_backend *net;
	struct error err;
	uint16_t port;
	char spec[64], text[100];
	int fd = listen_on_loopback(&port);

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(net_create(m->vm, cases[i].spec, &net, &err), -1);
		assert_string_equal(err.text, cases[i].text);
	}
	snprintf(spec, sizeof(spec), "user,hostfwd=tcp:127.0.0.1:%u:22", port);
	snprintf(text, sizeof(text),
		 "cannot forward TCP port %u of the host: Address already in use", port);
	assert_int_equal(net_create(m->vm, spec, &net, &err), -1);
	assert_string_equal(err.text, text);
	assert_int_equal(net_create(m->vm, "none", &net, &err), 0);
	assert_null(net);
	close(fd);
	test_machine_destroy(m);
}

static void state_round_trips(void **state)
{
	struct fixture f;
	struct error err;

	(void)state;
	start_user(&f, "user");
	say_arp(&f);
	if (vm_state_round_trip(f.m->vm, &err) < 0)
		fail_msg("%s", err.text);
	say_arp(&f);
	test_machine_destroy(f.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_go_out),
		cmocka_unit_test(checksums_are_filled_in),
		cmocka_unit_test(frames_come_in),
		cmocka_unit_test(long_frames_are_merged),
		cmocka_unit_test(frames_wait_for_buffers_within_bounds),
		cmocka_unit_test(control_commands_are_acknowledged),
		cmocka_unit_test(segments_are_joined),
		cmocka_unit_test(the_gateway_answers),
		cmocka_unit_test(dhcp_gives_a_lease),
		cmocka_unit_test(tcp_reaches_the_host_unsegmented),
		cmocka_unit_test(host_ports_lead_to_the_guest),
		cmocka_unit_test(host_udp_ports_lead_to_the_guest),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(state_round_trips),
	};

	return cmocka_run_group_tests_name("virtio-net", tests, NULL, NULL);
}
