/* SPDX-License-Identifier: MIT */
/* virtio over PCI: initialization, both ring formats with every option, interrupts, and drivers
 * that break the rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "device/virtio_devices.h"
#include "virtio_driver.h"

#define RING_FEATURES                                                                              \
	(BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_EVENT_IDX) |     \
	 BIT64(VIRTIO_F_INDIRECT_DESC) | BIT64(VIRTIO_F_RING_RESET))

struct fixture {
	struct test_machine *m;
	struct driver d;
};

static void set_up(struct fixture *f)
{
	struct error err;

	f->m = test_machine_create(1);
	assert_non_null(virtio_rng_create(f->m->bus, 4, &err));
	assert_int_equal(pci_assign_bars(f->m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000,
					 true, &err),
			 0);
	test_machine_start_loop(f->m);
	driver_probe(&f->d, f->m, f->m->bus->devices[PCI_DEVFN(4, 0)]);
}

static void tear_down(struct fixture *f)
{
	test_machine_destroy(f->m);
}

/* The features of mode n (0..7). */
static uint64_t mode_features(unsigned n)
{
	return BIT64(VIRTIO_F_VERSION_1) | (n & 1 ? BIT64(VIRTIO_F_RING_PACKED) : 0) |
	       (n & 2 ? BIT64(VIRTIO_F_EVENT_IDX) : 0) |
	       (n & 4 ? BIT64(VIRTIO_F_INDIRECT_DESC) : 0);
}

static void features_are_negotiated(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f);
	driver_negotiate(&f.d, ~0ull);
	assert_int_equal(f.d.features & RING_FEATURES, RING_FEATURES);
	assert_int_equal(driver_status(&f.d), 0x0b);
	/* Without VERSION_1 the device does not agree. */
	driver_reset(&f.d);
	driver_negotiate(&f.d, BIT64(VIRTIO_F_EVENT_IDX));
	assert_int_equal(driver_status(&f.d), 0x03);
	/* Nor with a feature it has not offered. */
	driver_reset(&f.d);
	driver_write(&f.d, f.d.common + 0x14, 3, 1);
	driver_write(&f.d, f.d.common + 0x08, 0, 4);
	driver_write(&f.d, f.d.common + 0x0c, 1, 4);
	driver_write(&f.d, f.d.common + 0x08, 1, 4);
	driver_write(&f.d, f.d.common + 0x0c, 1, 4);
	driver_write(&f.d, f.d.common + 0x14, 11, 1);
	assert_int_equal(driver_status(&f.d), 0x03);
	/* DRIVER_OK without FEATURES_OK has no effect. */
	driver_write(&f.d, f.d.common + 0x14, 7, 1);
	assert_int_equal(driver_status(&f.d), 0x03);
	assert_int_equal(driver_read(&f.d, f.d.common + 0x12, 2), 1);
	driver_write(&f.d, f.d.common + 0x16, 1, 2); /* no such queue */
	assert_int_equal(driver_read(&f.d, f.d.common + 0x18, 2), 0);
	tear_down(&f);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

/* Ask for bytes again and again, in chains of one to four buffers, with several in the ring at
 * once. */
static void run_requests(struct fixture *f, unsigned rounds)
{
	struct driver_queue *q = &f->d.queues[0];
	uint64_t memory = test_alloc(f->m, 8 * 4096);
	unsigned outstanding = 0;
	uint32_t len;

	for (unsigned i = 0; i < rounds; i++) {
		unsigned count = 1 + i % 4;
		struct test_buffer in[4];
		uint8_t *host = test_host(f->m, memory + 4096 * (i % 8));

		if (!f->d.indirect && count > q->size)
			count = 1;
		memset(host, 0, 4096);
		for (unsigned j = 0; j < count; j++)
			in[j] = (struct test_buffer){ memory + 4096 * (i % 8) + 64 * j, 64 };
		if (!driver_add(q, NULL, 0, in, count, host))
			fail_msg("no room in round %u", i);
		outstanding++;
		if (i % 3 == 2 || outstanding == 2) {
			driver_kick(q);
			for (; outstanding; outstanding--) {
				uint8_t *done = driver_wait(q, &len);

				assert_non_null(done);
				assert_true(len % 64 == 0 && len >= 64 && len <= 256);
				for (unsigned j = 0; j < len; j += 64)
					assert_false(all_zero(done + j, 64));
				assert_true(all_zero(done + len, 512 - len));
			}
		}
	}
	driver_kick(q);
	for (; outstanding; outstanding--)
		assert_non_null(driver_wait(q, &len));
	assert_null(driver_used(q, &len));
	assert_int_equal(q->free_count, q->size);
	assert_int_equal(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void rings_wrap_in_every_mode(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f);
	for (unsigned mode = 0; mode < 8; mode++) {
		test_free_all(f.m);
		driver_start(&f.d, mode_features(mode), mode & 1, 1, 8);
		run_requests(&f, 1000);
		driver_reset(&f.d);
	}
	/* A packed ring need not be a power of two; the smallest split ring has one entry. */
	test_free_all(f.m);
	driver_start(&f.d, mode_features(1), true, 1, 7);
	run_requests(&f, 500);
	driver_reset(&f.d);
	test_free_all(f.m);
	driver_start(&f.d, mode_features(4), true, 1, 2);
	run_requests(&f, 500);
	tear_down(&f);
}

static void split_index_wraps_at_65536(void **state)
{
	struct fixture f;
	struct test_buffer in;
	uint32_t len;

	(void)state;
	set_up(&f);
	driver_start(&f.d, mode_features(2), true, 1, 4);
	in = (struct test_buffer){ test_alloc(f.m, 4096), 1 };
	for (unsigned i = 0; i < 70000; i++) {
		assert_true(driver_add(&f.d.queues[0], NULL, 0, &in, 1, &in));
		driver_kick(&f.d.queues[0]);
		assert_ptr_equal(driver_wait(&f.d.queues[0], &len), &in);
	}
	assert_int_equal(f.d.queues[0].kicks, 70000); /* one by one, each is needed */
	tear_down(&f);
}

static void interrupts_are_suppressed(void **state)
{
	struct fixture f;
	struct test_buffer in;

	(void)state;
	set_up(&f);
	for (unsigned mode = 0; mode < 4; mode++) {
		struct driver_queue *q = &f.d.queues[0];
		unsigned before;

		test_free_all(f.m);
		driver_start(&f.d, mode_features(mode), true, 1, 8);
		in = (struct test_buffer){ test_alloc(f.m, 4096), 16 };
		for (unsigned round = 0; round < 50; round++) {
			driver_enable_interrupts(q, round % 2);
			before = f.m->messages[1];
			driver_add(q, NULL, 0, &in, 1, &in);
			driver_kick(q);
			assert_non_null(driver_wait(q, NULL));
			assert_int_equal(f.m->messages[1] - before, round % 2);
		}
		/* A batch gives one interrupt. */
		driver_enable_interrupts(q, true);
		before = f.m->messages[1];
		for (unsigned i = 0; i < 5; i++)
			driver_add(q, NULL, 0, &in, 1, &in);
		driver_kick(q);
		for (unsigned i = 0; i < 5; i++)
			assert_non_null(driver_wait(q, NULL));
		assert_int_equal(f.m->messages[1] - before, 1);
		driver_reset(&f.d);
	}
	tear_down(&f);
}

static void intx_is_raised_and_acknowledged(void **state)
{
	struct fixture f;
	struct test_buffer in;

	(void)state;
	set_up(&f);
	driver_start(&f.d, mode_features(0), false, 1, 8);
	in = (struct test_buffer){ test_alloc(f.m, 4096), 16 };
	assert_int_equal(f.m->levels[0], 0); /* slot 4, INTA: line 4 % 4 */
	driver_add(&f.d.queues[0], NULL, 0, &in, 1, &in);
	driver_kick(&f.d.queues[0]);
	assert_int_equal(f.m->levels[0], 1);
	assert_int_equal(driver_read(&f.d, f.d.isr, 1), 1);
	assert_int_equal(f.m->levels[0], 0);
	assert_int_equal(driver_read(&f.d, f.d.isr, 1), 0);
	tear_down(&f);
}

static void kicks_wait_for_bus_mastering(void **state)
{
	struct fixture f;
	struct test_buffer in;

	(void)state;
	set_up(&f);
	driver_start(&f.d, mode_features(2), true, 1, 8);
	in = (struct test_buffer){ test_alloc(f.m, 4096), 16 };
	pci_config_write(f.m->bus, f.d.devfn, 4, 2, 2);
	driver_add(&f.d.queues[0], NULL, 0, &in, 1, &in);
	driver_kick(&f.d.queues[0]);
	assert_null(driver_used(&f.d.queues[0], NULL));
	pci_config_write(f.m->bus, f.d.devfn, 4, 6, 2);
	assert_non_null(driver_used(&f.d.queues[0], NULL));
	tear_down(&f);
}

/* The PCI configuration access capability reaches the same registers. */
static void access_capability_works(void **state)
{
	struct fixture f;
	unsigned cap;

	(void)state;
	set_up(&f);
	for (cap = pci_config_read(f.m->bus, f.d.devfn, 0x34, 1);
	     pci_config_read(f.m->bus, f.d.devfn, cap, 1) != 9 ||
	     pci_config_read(f.m->bus, f.d.devfn, cap + 3, 1) != 5;)
		cap = pci_config_read(f.m->bus, f.d.devfn, cap + 1, 1);
	pci_config_write(f.m->bus, f.d.devfn, cap + 4, 4, 1);
	pci_config_write(f.m->bus, f.d.devfn, cap + 8, 0x12, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 12, 2, 4);
	assert_int_equal(pci_config_read(f.m->bus, f.d.devfn, cap + 16, 2), 1);
	pci_config_write(f.m->bus, f.d.devfn, cap + 8, 0x14, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 12, 1, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 16, 3, 1);
	assert_int_equal(driver_status(&f.d), 3);
	/* Nonsense changes nothing and breaks nothing. */
	pci_config_write(f.m->bus, f.d.devfn, cap + 12, 3, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 16, 0, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 8, 0xfffffffe, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 12, 2, 4);
	pci_config_write(f.m->bus, f.d.devfn, cap + 16, 0, 4);
	assert_int_equal(driver_status(&f.d), 3);
	tear_down(&f);
}

static void a_queue_can_be_reset(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f);
	driver_start(&f.d, mode_features(7) | BIT64(VIRTIO_F_RING_RESET), true, 1, 8);
	run_requests(&f, 11);
	driver_write(&f.d, f.d.common + 0x16, 0, 2);
	driver_write(&f.d, f.d.common + 0x3a, 1, 2);
	assert_int_equal(driver_read(&f.d, f.d.common + 0x3a, 2), 0);
	assert_int_equal(driver_read(&f.d, f.d.common + 0x1c, 2), 0);
	driver_setup_queue(&f.d, 0, 8);
	run_requests(&f, 20);
	tear_down(&f);
}

static void state_survives_in_the_middle(void **state)
{
	struct fixture f;
	struct error err;

	(void)state;
	set_up(&f);
	for (unsigned mode = 0; mode < 8; mode++) {
		test_free_all(f.m);
		driver_start(&f.d, mode_features(mode), true, 1, 8);
		run_requests(&f, 5);
		if (vm_state_round_trip(f.m->vm, &err) < 0)
			fail_msg("%s", err.text);
		run_requests(&f, 20);
		driver_reset(&f.d);
	}
	tear_down(&f);
}

/* ---- drivers that break the rules ---- */

struct bad_descriptor {
	const char *what;
	uint64_t gpa;
	uint32_t len;
	uint16_t flags, next;
};

static void bad_descriptors_stop_the_device(void **state)
{
	static const struct bad_descriptor cases[] = {
		{ "beyond RAM", TEST_RAM, 16, 2, 0 },
		{ "across the end of RAM", TEST_RAM - 8, 16, 2, 0 },
		{ "wrapping", ~0ull - 7, 16, 2, 0 },
		{ "huge", 0x1000, 0xffffffff, 2, 0 },
		{ "a loop", 0x1000, 16, 3, 0 },
		{ "next out of range", 0x1000, 16, 3, 9 },
		{ "indirect, not negotiated", 0x1000, 16, 4, 0 },
		{ "device memory", TEST_MMIO, 16, 2, 0 },
	};
	struct fixture f;

	(void)state;
	set_up(&f);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const struct bad_descriptor *c = &cases[i / 2];
		struct driver_queue *q = &f.d.queues[0];
		struct test_buffer in = { 0x1000, 16 };
		unsigned before;
		uint8_t *p;

		if ((c->flags & 1) && i % 2 && c->next != 0)
			continue; /* packed chains have no next */
		test_free_all(f.m);
		driver_start(&f.d, mode_features(i % 2), true, 1, 8);
		before = f.m->messages[0];
		driver_add(q, NULL, 0, &in, 1, &in);
		p = test_host(f.m, q->descriptors);
		store_le64(p, c->gpa);
		store_le32(p + 8, c->len);
		if (i % 2) {
			for (unsigned n = 0; n < 8; n++) /* a chain that never ends */
				store_le16(p + 16 * n + 14, c->flags | 0x80);
		} else {
			store_le16(p + 12, c->flags);
			store_le16(p + 14, c->next);
		}
		driver_kick(q);
		if (!(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET) && !(i % 2 && c->flags == 3))
			fail_msg("%s is accepted (mode %u)", c->what, i % 2);
		if (driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET)
			assert_int_equal(f.m->messages[0], before + 1);
		driver_reset(&f.d);
		test_free_all(f.m);
		driver_start(&f.d, mode_features(i % 2), true, 1, 8);
		run_requests(&f, 5); /* after a reset all is well */
		driver_reset(&f.d);
	}
	tear_down(&f);
}

static void bad_indirect_tables_stop_the_device(void **state)
{
	static const struct bad_descriptor cases[] = {
		{ "length 0", 0x2000, 0, 4, 0 },
		{ "length 17", 0x2000, 17, 4, 0 },
		{ "too long", 0x2000, 16 * 257, 4, 0 },
		{ "beyond RAM", TEST_RAM - 16, 32, 4, 0 },
		{ "with next", 0x2000, 32, 5, 0 },
		{ "in itself", 0x2000, 32, 4,
		  0 }, /* the table holds an indirect descriptor; split only */
	};
	struct fixture f;

	(void)state;
	set_up(&f);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const struct bad_descriptor *c = &cases[i / 2];
		struct driver_queue *q = &f.d.queues[0];
		struct test_buffer in = { 0x1000, 16 };
		uint8_t *p;

		if (i == 2 * ARRAY_SIZE(cases) - 1)
			continue;
		test_free_all(f.m);
		memset(test_host(f.m, 0x2000), 0, 4096);
		store_le64(test_host(f.m, 0x2000), 0x2000);
		store_le32(test_host(f.m, 0x2008), 16);
		store_le16(test_host(f.m, 0x200c), 4);
		driver_start(&f.d, mode_features(4 | (i % 2)), true, 1, 8);
		driver_add(q, NULL, 0, &in, 1, &in);
		p = test_host(f.m, q->descriptors);
		store_le64(p, c->gpa);
		store_le32(p + 8, c->len);
		store_le16(p + (i % 2 ? 14 : 12), c->flags | (i % 2 ? 0x80 : 0));
		driver_kick(q);
		if (!(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET))
			fail_msg("%s is accepted (mode %u)", c->what, i % 2);
		driver_reset(&f.d);
	}
	tear_down(&f);
}

static void bad_rings_stop_the_device(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f);
	/* An available index that jumps. */
	driver_start(&f.d, mode_features(0), true, 1, 8);
	store_le16((uint8_t *)test_host(f.m, f.d.queues[0].area_driver) + 2, 100);
	driver_write(&f.d, f.d.queues[0].notify, 0, 2);
	assert_true(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_write(&f.d, f.d.queues[0].notify, 0, 2);
	driver_reset(&f.d);
	/* A head out of range. */
	test_free_all(f.m);
	driver_start(&f.d, mode_features(0), true, 1, 8);
	store_le16((uint8_t *)test_host(f.m, f.d.queues[0].area_driver) + 4, 8);
	store_le16((uint8_t *)test_host(f.m, f.d.queues[0].area_driver) + 2, 1);
	driver_write(&f.d, f.d.queues[0].notify, 0, 2);
	assert_true(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_reset(&f.d);
	/* Rings outside RAM, unaligned, of a bad size. */
	for (unsigned i = 0; i < 5; i++) {
		static const uint64_t places[][3] = {
			{ TEST_RAM, 0x2000, 0x3000 }, { 0x1000, TEST_RAM - 4, 0x3000 },
			{ 0x1000, 0x2000, ~3ull },    { 0x1008, 0x2000, 0x3000 },
			{ 0x1000, 0x2000, 0x3000 },
		};

		driver_negotiate(&f.d, mode_features(0));
		driver_write(&f.d, f.d.common + 0x16, 0, 2);
		driver_write(&f.d, f.d.common + 0x18, i == 4 ? 3 : 8, 2);
		for (unsigned part = 0; part < 3; part++) {
			driver_write(&f.d, f.d.common + 0x20 + 8 * part, places[i][part], 4);
			driver_write(&f.d, f.d.common + 0x24 + 8 * part, places[i][part] >> 32, 4);
		}
		driver_write(&f.d, f.d.common + 0x1c, 1, 2);
		driver_ready(&f.d);
		assert_true(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET);
		driver_write(&f.d, f.d.notify, 0, 2);
		driver_reset(&f.d);
	}
	tear_down(&f);
}

static void a_readable_buffer_after_a_writable_one(void **state)
{
	struct fixture f;
	struct test_buffer in[2] = { { 0x1000, 16 }, { 0x1100, 16 } };

	(void)state;
	set_up(&f);
	driver_start(&f.d, mode_features(0), true, 1, 8);
	driver_add(&f.d.queues[0], NULL, 0, in, 2, in);
	store_le16((uint8_t *)test_host(f.m, f.d.queues[0].descriptors) + 16 + 12, 0);
	driver_kick(&f.d.queues[0]);
	assert_true(driver_status(&f.d) & VIRTIO_STATUS_NEEDS_RESET);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features_are_negotiated),
		cmocka_unit_test(rings_wrap_in_every_mode),
		cmocka_unit_test(split_index_wraps_at_65536),
		cmocka_unit_test(interrupts_are_suppressed),
		cmocka_unit_test(intx_is_raised_and_acknowledged),
		cmocka_unit_test(kicks_wait_for_bus_mastering),
		cmocka_unit_test(access_capability_works),
		cmocka_unit_test(a_queue_can_be_reset),
		cmocka_unit_test(state_survives_in_the_middle),
		cmocka_unit_test(bad_descriptors_stop_the_device),
		cmocka_unit_test(bad_indirect_tables_stop_the_device),
		cmocka_unit_test(bad_rings_stop_the_device),
		cmocka_unit_test(a_readable_buffer_after_a_writable_one),
	};

	return cmocka_run_group_tests_name("virtio", tests, NULL, NULL);
}
