/* SPDX-License-Identifier: MIT */
/* virtio-blk as a driver sees it: every request type, in every ring mode, against a model of the
 * disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>

#include "block/image.h"
#include "device/virtio_devices.h"
#include "virtio_driver.h"

#define DISK_SIZE (512 * 20001ull)
#define IN 0
#define OUT 1
#define FLUSH 4
#define GET_ID 8
#define DISCARD 11
#define WRITE_ZEROES 13
#define SLOTS 16 /* requests at once */
#define SLOT_SIZE 0x12000
#define DATA_OFFSET 0x1000

struct fixture {
	struct test_machine *m;
	struct driver d;
	char path[64];
	uint64_t memory; /* SLOTS x SLOT_SIZE: header at 0, status at 32, data at DATA_OFFSET */
};

static void set_up(struct fixture *f, const char *options, unsigned cpus)
{
	struct block_options parsed;
	struct block_image *image;
	struct error err;
	char spec[128];
	int fd;

	strcpy(f->path, "/tmp/lodge-test-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "%s%s", f->path, options);
	assert_int_equal(block_options_parse(&parsed, spec, &err), 0);
	image = block_open(&parsed, &err);
	assert_non_null(image);
	f->m = test_machine_create(cpus);
	assert_non_null(virtio_blk_create(f->m->bus, 2, image, "serial-0123", &err));
	assert_int_equal(pci_assign_bars(f->m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000,
					 true, &err),
			 0);
	test_machine_start_loop(f->m);
	driver_probe(&f->d, f->m, f->m->bus->devices[PCI_DEVFN(2, 0)]);
}

static void start(struct fixture *f, unsigned mode, unsigned queues)
{
	uint64_t features = ~0ull & ~(BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_EVENT_IDX) |
				      BIT64(VIRTIO_F_INDIRECT_DESC));

	if (mode & 1)
		features |= BIT64(VIRTIO_F_RING_PACKED);
	if (mode & 2)
		features |= BIT64(VIRTIO_F_EVENT_IDX);
	if (mode & 4)
		features |= BIT64(VIRTIO_F_INDIRECT_DESC);
	test_free_all(f->m);
	driver_start(&f->d, features, !(mode & 8), queues, 128);
	f->memory = test_alloc(f->m, SLOTS * SLOT_SIZE);
}

static void tear_down(struct fixture *f)
{
	test_machine_destroy(f->m);
	unlink(f->path);
}

struct request {
	uint32_t type;
	uint64_t sector;
	uint32_t len;    /* of the data */
	unsigned pieces; /* buffers the data is cut into */
};

static uint8_t *slot_host(struct fixture *f, unsigned slot)
{
	return test_host(f->m, f->memory + (uint64_t)slot * SLOT_SIZE);
}

/* Make a request available; its token is the slot's host address. */
static void submit(struct fixture *f, unsigned queue, unsigned slot, const struct request *r)
{
	uint64_t base = f->memory + (uint64_t)slot * SLOT_SIZE;
	uint8_t *host = slot_host(f, slot);
	struct test_buffer out[64], in[64];
	unsigned out_count = 0, in_count = 0;
	bool device_writes = r->type == IN || r->type == GET_ID;

	store_le32(host, r->type);
	store_le32(host + 4, 0);
	store_le64(host + 8, r->sector);
	host[32] = 0xee;
	out[out_count++] = (struct test_buffer){ base, 16 };
	for (unsigned i = 0, at = 0; i < r->pieces && r->len; i++) {
		uint32_t n = i + 1 == r->pieces ? r->len - at : r->len / r->pieces;
		struct test_buffer b = { base + DATA_OFFSET + at, n };

		if (device_writes)
			in[in_count++] = b;
		else
			out[out_count++] = b;
		at += n;
	}
	in[in_count++] = (struct test_buffer){ base + 32, 1 };
	assert_true(driver_add(&f->d.queues[queue], out, out_count, in, in_count, host));
}

/* Submit and wait; returns the status byte. */
static uint8_t run(struct fixture *f, const struct request *r)
{
	uint32_t len;

	submit(f, 0, 0, r);
	driver_kick(&f->d.queues[0]);
	assert_ptr_equal(driver_wait(&f->d.queues[0], &len), slot_host(f, 0));
	return slot_host(f, 0)[32];
}

static void configuration_describes_the_disk(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, "", 8);
	start(&f, 0, 1);
	assert_int_equal(driver_read(&f.d, f.d.device, 4), DISK_SIZE / 512);
	assert_int_equal(driver_read(&f.d, f.d.device + 4, 4), 0);
	assert_int_equal(driver_read(&f.d, f.d.device + 12, 4), 254);
	assert_int_equal(driver_read(&f.d, f.d.device + 20, 4), 512);
	assert_int_equal(driver_read(&f.d, f.d.device + 34, 2), 4);
	assert_int_equal(driver_read(&f.d, f.d.common + 0x12, 2), 4);
	assert_true(f.d.features & BIT64(9) && f.d.features & BIT64(13) &&
		    !(f.d.features & BIT64(5)));
	tear_down(&f);
}

/* Random requests, up to SLOTS at once on several queues, compared with a model. Those in flight
 * do not overlap. */
static void run_random(struct fixture *f, uint8_t *model, unsigned queues, unsigned rounds)
{
	struct request requests[SLOTS];
	unsigned busy = 0;
	static uint8_t copies[SLOTS][0x10000];

	for (unsigned round = 0; round < rounds; round++) {
		unsigned batch = 1 + rand() % SLOTS;

		for (unsigned slot = 0; slot < batch; slot++) {
			struct request *r = &requests[slot];
			uint64_t region = DISK_SIZE / 512 /
					  SLOTS; /* each slot has a part of the disk for itself */
			uint64_t align = rand() % 2 ? 8 : 1;

			*r = (struct request){ .type = rand() % 2, .pieces = 1 + rand() % 20 };
			r->sector = slot * region + rand() % (region - 128) / align * align;
			r->len = 512 * align * (1 + rand() % (100 / align));
			if (!f->d.indirect)
				r->pieces = MIN(r->pieces, 5);
			if (rand() % 10 == 0)
				*r = (struct request){ .type = FLUSH };
			if (rand() % 10 == 0) {
				uint8_t *range = slot_host(f, slot) + DATA_OFFSET;

				r->type = WRITE_ZEROES;
				store_le64(range, r->sector);
				store_le32(range + 8, 40);
				store_le32(range + 12, rand() % 2);
				memset(model + 512 * r->sector, 0, 40 * 512);
				r->len = 16;
				r->pieces = 1;
			} else if (r->type == OUT) {
				for (unsigned i = 0; i < r->len; i++)
					slot_host(f, slot)[DATA_OFFSET + i] = rand();
				memcpy(model + 512 * r->sector, slot_host(f, slot) + DATA_OFFSET,
				       r->len);
			} else if (r->type == IN) {
				memset(slot_host(f, slot) + DATA_OFFSET, 0xaa, r->len);
				memcpy(copies[slot], model + 512 * r->sector, r->len);
			}
			submit(f, slot % queues, slot, r);
			busy++;
			if (rand() % 3 == 0)
				driver_kick(&f->d.queues[slot % queues]);
		}
		for (unsigned q = 0; q < queues; q++)
			driver_kick(&f->d.queues[q]);
		for (unsigned slot = 0; slot < batch; slot++)
			assert_non_null(driver_wait(&f->d.queues[slot % queues], NULL));
		for (unsigned slot = 0; slot < batch; slot++) {
			assert_int_equal(slot_host(f, slot)[32], 0);
			if (requests[slot].type == IN)
				assert_memory_equal(slot_host(f, slot) + DATA_OFFSET, copies[slot],
						    requests[slot].len);
		}
	}
}

static void disks_hold_what_is_written(void **state)
{
	static const char *const options[] = { "", ",snapshot" };

	(void)state;
	for (unsigned o = 0; o < 2; o++) {
		uint8_t *model = calloc(1, DISK_SIZE);
		struct fixture f;

		set_up(&f, options[o], 3);
		srand(7);
		for (unsigned mode = 0; mode < 16; mode++) {
			start(&f, mode, 3);
			run_random(&f, model, 3, 40);
			driver_reset(&f.d);
		}
		if (!o) {
			uint8_t *file = malloc(DISK_SIZE);
			int fd = open(f.path, O_RDONLY);

			assert_int_equal(read(fd, file, DISK_SIZE), DISK_SIZE);
			assert_memory_equal(file, model, DISK_SIZE);
			close(fd);
			free(file);
		}
		tear_down(&f);
		free(model);
	}
}

static void bad_requests_get_an_error(void **state)
{
	struct fixture f;
	uint8_t *range;

	(void)state;
	set_up(&f, "", 1);
	start(&f, 7, 1);
	assert_int_equal(run(&f, &(struct request){ IN, DISK_SIZE / 512 - 1, 512, 1 }), 0);
	assert_int_equal(run(&f, &(struct request){ IN, DISK_SIZE / 512 - 1, 1024, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ IN, DISK_SIZE / 512, 512, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ OUT, DISK_SIZE / 512, 512, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ OUT, ~0ull, 512, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ OUT, ~0ull / 512, 512, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ IN, 0, 100, 1 }), 1);
	assert_int_equal(run(&f, &(struct request){ 77, 0, 512, 1 }), 2);
	assert_int_equal(run(&f, &(struct request){ DISCARD, 0, 17, 1 }), 1);
	range = slot_host(&f, 0) + DATA_OFFSET;
	memset(range, 0, 16);
	store_le32(range + 8, 0xffffffff);
	assert_int_equal(run(&f, &(struct request){ WRITE_ZEROES, 0, 16, 1 }), 1);
	store_le32(range + 8, 1);
	store_le32(range + 12, 2);
	assert_int_equal(run(&f, &(struct request){ WRITE_ZEROES, 0, 16, 1 }), 2);
	store_le32(range + 12, 0);
	assert_int_equal(run(&f, &(struct request){ DISCARD, 0, 16, 1 }), 0);
	memset(slot_host(&f, 0) + DATA_OFFSET, 0, 20);
	assert_int_equal(run(&f, &(struct request){ GET_ID, 0, 20, 2 }), 0);
	assert_string_equal((char *)slot_host(&f, 0) + DATA_OFFSET, "serial-0123");
	assert_int_equal(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET, 0);
	tear_down(&f);
}

static void readonly_disks_refuse_writes(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, ",readonly", 1);
	start(&f, 2, 1);
	assert_true(f.d.features & BIT64(5));
	assert_int_equal(run(&f, &(struct request){ IN, 0, 4096, 3 }), 0);
	assert_int_equal(run(&f, &(struct request){ OUT, 0, 4096, 3 }), 1);
	assert_int_equal(run(&f, &(struct request){ FLUSH, 0, 0, 0 }), 0);
	tear_down(&f);
}

/* Layout is free (2.7.4.3): header and status may share buffers with data, and be cut anywhere. */
static void any_layout_is_taken(void **state)
{
	struct fixture f;
	struct test_buffer out[3], in[2];
	uint8_t *host;
	uint32_t len;

	(void)state;
	set_up(&f, "", 1);
	start(&f, 0, 1);
	host = slot_host(&f, 0);
	memset(host, 0, 16);
	store_le32(host, OUT);
	store_le64(host + 8, 3);
	memset(host + 16, 0x5a, 1024);
	out[0] = (struct test_buffer){ f.memory, 5 };
	out[1] = (struct test_buffer){ f.memory + 5, 100 };
	out[2] = (struct test_buffer){ f.memory + 105, 16 + 1024 - 105 };
	in[0] = (struct test_buffer){ f.memory + 0x3000, 1 };
	driver_add(&f.d.queues[0], out, 3, in, 1, host);
	driver_kick(&f.d.queues[0]);
	assert_non_null(driver_wait(&f.d.queues[0], &len));
	assert_int_equal(host[0x3000], 0);
	store_le32(host, IN);
	out[0] = (struct test_buffer){ f.memory, 16 };
	in[0] = (struct test_buffer){ f.memory + 0x4000, 1000 };
	in[1] = (struct test_buffer){ f.memory + 0x4000 + 1000, 25 };
	driver_add(&f.d.queues[0], out, 1, in, 2, host);
	driver_kick(&f.d.queues[0]);
	assert_non_null(driver_wait(&f.d.queues[0], &len));
	assert_int_equal(len, 1025);
	assert_int_equal(host[0x4000 + 1024], 0);
	assert_memory_equal(host + 0x4000, host + 16, 1024);
	tear_down(&f);
}

static void requests_without_header_or_status_stop_the_device(void **state)
{
	struct fixture f;
	struct test_buffer b = { 0x1000, 15 };

	(void)state;
	set_up(&f, "", 1);
	for (unsigned i = 0; i < 2; i++) {
		start(&f, i, 1);
		driver_add(&f.d.queues[0], i ? &b : NULL, i, i ? NULL : &b, !i, &b);
		driver_kick(&f.d.queues[0]);
		assert_true(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET);
		driver_reset(&f.d);
	}
	tear_down(&f);
}

/* Reset with requests at the workers: it waits for them, and they touch neither old rings nor
 * new. */
static void reset_waits_for_requests(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, "", 1);
	for (unsigned round = 0; round < 50; round++) {
		start(&f, round % 8, 1);
		for (unsigned slot = 0; slot < SLOTS; slot++)
			submit(&f, 0, slot,
			       &(struct request){ slot % 2 ? FLUSH : OUT, 1 + slot * 100,
						  slot % 2 ? 0 : 512, 1 });
		driver_kick(&f.d.queues[0]);
		driver_reset(&f.d);
		memset(test_host(f.m, 0x10000), 0x77, 0x20000);
		usleep(100);
		for (unsigned i = 0; i < 0x20000; i++)
			assert_int_equal(((uint8_t *)test_host(f.m, 0x10000))[i], 0x77);
	}
	tear_down(&f);
}

static void state_is_saved_between_requests(void **state)
{
	struct fixture f;
	struct error err;

	(void)state;
	set_up(&f, ",snapshot", 2);
	for (unsigned mode = 0; mode < 8; mode++) {
		start(&f, mode, 2);
		run(&f, &(struct request){ OUT, 9, 512, 1 });
		submit(&f, 0, 0, &(struct request){ FLUSH, 0, 0, 0 });
		driver_kick(&f.d.queues[0]);
		if (vm_state_round_trip(f.m->vm, &err) < 0)
			fail_msg("%s", err.text);
		assert_non_null(driver_wait(&f.d.queues[0], NULL));
		run(&f, &(struct request){ IN, 9, 512, 1 });
		driver_reset(&f.d);
	}
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configuration_describes_the_disk),
		cmocka_unit_test(disks_hold_what_is_written),
		cmocka_unit_test(bad_requests_get_an_error),
		cmocka_unit_test(readonly_disks_refuse_writes),
		cmocka_unit_test(any_layout_is_taken),
		cmocka_unit_test(requests_without_header_or_status_stop_the_device),
		cmocka_unit_test(reset_waits_for_requests),
		cmocka_unit_test(state_is_saved_between_requests),
	};

	return cmocka_run_group_tests_name("virtio-blk", tests, NULL, NULL);
}
