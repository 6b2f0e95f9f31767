/* SPDX-License-Identifier: MIT */
/*
 * Fuzzing the virtio devices: the input is a program of a hostile driver.
 *
 * A machine with virtio-blk, -net, -rng, -console and pci-testdev lives through the whole run;
 * every input begins with a reset. An input is a list of operations: a byte says which, the
 * following bytes are its operands. Some set up queues as a driver should, so that random
 * descriptors get behind the first check; others write anything anywhere: registers, configuration
 * space, ring memory. What must hold: no crash, no sanitizer report, no endless loop, and after the
 * input a well-behaved driver can use every device again.
 *
 * With -DLODGE_LIBFUZZER (clang -fsanitize=fuzzer) there is no main(). Otherwise:
 *     fuzz_virtio FILE...            run these inputs
 *     fuzz_virtio -n COUNT [-s SEED] make up and run inputs; a failure can be replayed by its seed
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/time.h>

#include "block/image.h"
#include "char/char.h"
#include "device/pci_testdev.h"
#include "device/virtio_devices.h"
#include "net/net.h"
#include "virtio_driver.h"

#define DEVICES 4
#define RING(q) (0x10000u + (q)*0x4000u) /* descriptors, +0x2000 driver area, +0x3000 device area */
#define MEMORY_START 0x10000u
#define MEMORY_LEN 0x80000u
#define DATA 0x40000u
#define QUEUE_SIZE 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p, *end;
};

static struct test_machine *m;
static struct driver drivers[DEVICES];
static struct net_backend *net;

/* ---- a network that sends some frames back ---- */

static void net_send(struct net_backend *backend, const uint8_t *frame, size_t len)
{
	if (frame[0] & 1)
		backend->frontend->receive(backend->opaque, frame, len);
}

static void net_forget(struct net_backend *backend)
{
	free(backend);
}

static const struct net_backend_ops net_ops = { net_send, net_forget };

/* ---- a console that swallows output ---- */

static size_t chr_write(struct char_backend *backend, const uint8_t *data, size_t len)
{
	uint8_t sum = 0;

	(void)backend;
	for (size_t i = 0; i < len; i++)
		sum += data[i];
	return sum ? len : len / 2;
}

static const struct char_backend_ops chr_ops = { chr_write, NULL };
static struct char_backend chr = { .ops = &chr_ops };

static struct block_image *make_disk(void)
{
	struct block_options options = { .snapshot = true };
	struct error err;
	struct block_image *image;
	int fd;

	strcpy(options.path, "/tmp/lodge-fuzz-virtio-XXXXXX");
	fd = mkstemp(options.path);
	assert(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	close(fd);
	image = block_open(&options, &err);
	unlink(options.path);
	assert(image);
	return image;
}

static void assign(void)
{
	struct error err;

	if (pci_assign_bars(m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000, true, &err) < 0)
		abort();
}

static void create(void)
{
	const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };

	m = test_machine_create(2);
	net = calloc(1, sizeof(*net));
	net->ops = &net_ops;
	net->large_frames = true;
	if (!virtio_blk_create(m->bus, 1, make_disk(), NULL, NULL) ||
	    !virtio_net_create(m->bus, 2, net, mac, NULL) || !virtio_rng_create(m->bus, 3, NULL) ||
	    !virtio_console_create(m->bus, 4, &chr, NULL) || !pci_testdev_create(m->bus, 5, NULL))
		abort();
	test_machine_start_loop(m);
}

static void start_over(void)
{
	pci_bus_reset(m->bus);
	assign();
	memset(test_host(m, MEMORY_START), 0, MEMORY_LEN);
	for (unsigned i = 0; i < DEVICES; i++)
		driver_probe(&drivers[i], m, m->bus->devices[PCI_DEVFN(i + 1, 0)]);
}

/* ---- the input ---- */

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t value = 0;

	while (bytes--)
		value = value << 8 | (in->p < in->end ? *in->p++ : 0);
	return value;
}

/* Mostly an address in our memory; sometimes any. */
static uint64_t take_address(struct input *in)
{
	uint8_t kind = take(in, 1);

	if (kind < 200)
		return DATA + (take(in, 2) & 0x3ffff);
	if (kind < 220)
		return MEMORY_START + take(in, 2);
	if (kind < 230)
		return TEST_RAM - take(in, 1);
	return (uint64_t)take(in, 4) << (kind & 31) | take(in, 2);
}

static uint32_t take_length(struct input *in)
{
	uint8_t kind = take(in, 1);

	return kind < 128 ? kind : kind < 250 ? take(in, 2) : take(in, 4);
}

static void write_register(struct driver *d, struct input *in)
{
	unsigned offset = take(in, 1), size = 1u << (take(in, 1) & 3);

	bus_write(&m->vm->mmio, d->common + offset, take(in, 4), size);
}

/* What a proper driver does, with features of the input's choice. */
static void set_up_device(struct driver *d, struct input *in)
{
	uint8_t choice = take(in, 1);
	uint64_t features = ~0ull & ~(BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_EVENT_IDX) |
				      BIT64(VIRTIO_F_INDIRECT_DESC));
	unsigned count;

	assign(); /* the input may have moved BARs or switched them off */
	driver_reset(d);
	features |= choice & 1 ? BIT64(VIRTIO_F_RING_PACKED) : 0;
	features |= choice & 2 ? BIT64(VIRTIO_F_EVENT_IDX) : 0;
	features |= choice & 4 ? BIT64(VIRTIO_F_INDIRECT_DESC) : 0;
	driver_negotiate(d, features);
	count = driver_read(d, d->common + 0x12, 2);
	for (unsigned q = 0; q < count && q < 3; q++) {
		driver_write(d, d->common + 0x16, q, 2);
		driver_write(d, d->common + 0x18, QUEUE_SIZE, 2);
		driver_write(d, d->common + 0x20, RING(q), 4);
		driver_write(d, d->common + 0x28, RING(q) + 0x2000, 4);
		driver_write(d, d->common + 0x30, RING(q) + 0x3000, 4);
		driver_write(d, d->common + 0x1c, 1, 2);
	}
	driver_ready(d);
}

static void write_descriptor(struct driver *d, struct input *in)
{
	uint8_t where = take(in, 1);
	/* In a ring, or in a table of indirect descriptors. */
	uint64_t table = where & 0x80 ? DATA + (where & 0x30) * 16 : RING(where & 3);
	uint8_t *p = (uint8_t *)test_host(m, table) + 16 * (take(in, 1) % 32);
	uint16_t flags = take(in, 1) & 7, next = take(in, 1) % 20;

	store_le64(p, take_address(in));
	store_le32(p + 8, take_length(in));
	if (d->packed) {
		store_le16(p + 12, next);
		store_le16(p + 14, flags | (take(in, 1) & 3 ? 0x80 : 0x8000));
	} else {
		store_le16(p + 12, flags);
		store_le16(p + 14, next);
	}
}

static void make_available(struct input *in)
{
	uint8_t *area = test_host(m, RING(take(in, 1) % 3) + 0x2000);
	uint8_t count = take(in, 1);
	uint16_t index = load_le16(area + 2);

	store_le16(area + 4 + 2 * (index % QUEUE_SIZE), take(in, 1) % 20);
	store_le16(area + 2, index + (count < 200 ? 1 : count));
}

/* Plausible bytes for a request: a disk header, a network header. */
static void write_header(struct input *in)
{
	uint8_t *p = test_host(m, DATA + (take(in, 2) & 0xffff));

	store_le32(p, take(in, 1) % 16);
	store_le64(p + 8, take(in, 1) < 250 ? take(in, 2) % 2100 : take(in, 4));
	store_le32(p + 16, take(in, 2));
}

/* A whole request of a header, data and a status byte where the device will look next; anything
 * in it may be odd. */
static void make_request(struct driver *d, struct input *in)
{
	unsigned n = take(in, 1) % 3;
	struct virtio_device *vdev =
		container_of(m->bus->devices[d->devfn], struct virtio_device, pci);
	struct virtqueue *queue = &vdev->queues[n];
	unsigned position = d->packed ? queue->next_avail : 0, type = take(in, 1),
		 data = take(in, 1);
	uint8_t *header = test_host(m, DATA), *area = test_host(m, RING(n) + 0x2000);
	uint32_t lengths[3] = { 16, data & 1 ? take_length(in) : 512u * (data >> 1), 1 };

	store_le32(header, type % 16);
	store_le64(header + 8, take(in, 2) % 2100);
	for (unsigned i = 0; i < 3; i++, position++) {
		uint8_t *p = (uint8_t *)test_host(m, RING(n)) + 16 * (position % QUEUE_SIZE);
		bool wrap = queue->avail_wrap ^ (position >= QUEUE_SIZE);
		uint16_t flags = (i < 2 ? 1 : 0) | (i == 2 || (i == 1 && (type & 0x80)) ? 2 : 0);

		store_le64(p, DATA + 0x800 * i);
		store_le32(p + 8, lengths[i]);
		store_le16(p + (d->packed ? 14 : 12), flags | (!d->packed ? 0 :
							       wrap       ? 0x80 :
									    0x8000));
		store_le16(p + (d->packed ? 12 : 14), i + 1);
	}
	if (!d->packed) {
		uint16_t index = load_le16(area + 2);

		store_le16(area + 4 + 2 * (index % QUEUE_SIZE), 0);
		store_le16(area + 2, index + 1);
	}
	driver_write(d, d->notify + 4 * n, n, 2);
}

static void poke(struct input *in)
{
	uint32_t offset = take(in, 2) & 0xffff;

	((uint8_t *)test_host(m, MEMORY_START))[offset] = take(in, 1);
}

static void access_anything(struct driver *d, struct input *in)
{
	uint8_t kind = take(in, 1);
	unsigned size = 1u << (take(in, 1) & 3);
	uint64_t bases[] = { d->device, d->isr, d->notify, d->msix_table,
			     TEST_ECAM + ((uint64_t)d->devfn << 12) };
	uint64_t address = bases[kind % 5] + (kind % 5 == 4 ? take(in, 1) : take(in, 2) & 0xfff);

	if (kind & 0x80)
		bus_read(&m->vm->mmio, address, size);
	else
		bus_write(&m->vm->mmio, address, take(in, 4), size);
}

static void give_frame(struct input *in)
{
	static uint8_t frame[NET_FRAME_MAX];
	uint32_t room = chr.can_receive(chr.opaque);

	chr.receive(chr.opaque, frame, MIN(room, take(in, 2) % 5000));
	net->frontend->receive(net->opaque, frame,
			       take(in, 1) < 250 ? take(in, 2) % 1515 :
						   take(in, 3) % sizeof(frame));
	net->frontend->receive_done(net->opaque);
}

static void step(struct input *in)
{
	uint8_t op = take(in, 1);
	struct driver *d = &drivers[op >> 4 & 3];

	switch (op & 15) {
	case 0:
		write_register(d, in);
		break;
	case 1:
		set_up_device(d, in);
		break;
	case 2:
	case 3:
	case 4:
		write_descriptor(d, in);
		break;
	case 5:
	case 6:
		make_available(in);
		break;
	case 7:
	case 8:
		make_request(d, in);
		break;
	case 9:
	case 10:
		driver_write(d, d->notify + 4 * (take(in, 1) % 4), 0, 2);
		break;
	case 11:
		write_header(in);
		break;
	case 12:
		poke(in);
		break;
	case 13:
		access_anything(d, in);
		break;
	case 14:
		give_frame(in);
		break;
	case 15:
		assign();
		driver_reset(d);
		break;
	}
}

/* After all that, each device must do its work again. */
static void check_alive(void)
{
	struct test_buffer in = { 0x70000, 64 };
	struct driver *d = &drivers[2]; /* random numbers: the simplest request */

	start_over();
	test_free_all(m);
	driver_start(d, ~0ull, true, 1, 8);
	if (!driver_add(&d->queues[0], NULL, 0, &in, 1, &in) || !driver_kick(&d->queues[0]) ||
	    driver_used(&d->queues[0], NULL) != &in)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (!m)
		create();
	start_over();
	while (in.p < in.end)
		step(&in);
	check_alive();
	return 0;
}

#ifndef LODGE_LIBFUZZER

/* An input takes milliseconds; a device that spins is a failure. */
#define SECONDS_MAX 30

static void run_file(const char *path)
{
	static uint8_t data[65536];
	FILE *file = fopen(path, "rb");
	size_t size;

	if (!file) {
		perror(path);
		exit(1);
	}
	size = fread(data, 1, sizeof(data), file);
	fclose(file);
	alarm(SECONDS_MAX);
	LLVMFuzzerTestOneInput(data, size);
}

static void run_random(unsigned seed)
{
	static uint8_t data[1024];
	unsigned size;

	srand(seed);
	size = 16 + rand() % (sizeof(data) - 16);
	for (unsigned i = 0; i < size; i++)
		data[i] = rand() >> 8;
	/* Begin with a device that works, or little would be reached. */
	data[0] = 1 | (data[0] & 0x30);
	alarm(SECONDS_MAX);
	LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
	unsigned count = 0, seed = 1;
	int option;

	while ((option = getopt(argc, argv, "n:s:")) > 0) {
		if (option == '?')
			return 2;
		*(option == 'n' ? &count : &seed) = strtoul(optarg, NULL, 0);
	}
	for (; optind < argc; optind++)
		run_file(argv[optind]);
	for (unsigned i = 0; i < count; i++) {
		if (getenv("FUZZ_VERBOSE"))
			fprintf(stderr, "seed %u\n", seed + i);
		run_random(seed + i);
	}
	test_machine_destroy(m ? m : (create(), m));
	return 0;
}
#endif
