/* SPDX-License-Identifier: MIT */
/* Address spaces: lookup, overlap, sizes, unclaimed accesses, and readers while a writer changes the table. */
#include <pthread.h>

#include "vm_machine.h"

struct recorder {
	uint64_t offset, value;
	unsigned size, reads, writes;
	uint64_t answer;
};

static uint64_t record_read(void *opaque, uint64_t offset, unsigned size)
{
	struct recorder *r = opaque;

	r->offset = offset;
	r->size = size;
	r->reads++;
	return r->answer >> (offset % 8 * 8);
}

static void record_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct recorder *r = opaque;

	r->offset = offset;
	r->value = value;
	r->size = size;
	r->writes++;
}

static const struct io_ops any_ops = { .read = record_read, .write = record_write };
static const struct io_ops dword_ops = { .read = record_read, .write = record_write, .min_size = 4, .max_size = 4 };
static const struct io_ops byte_ops = { .read = record_read, .write = record_write, .max_size = 1 };

static struct bus *new_bus(void)
{
	struct bus *bus = malloc(sizeof(*bus));

	bus_init(bus, "pio", 0xffff);
	return bus;
}

static void add(struct bus *bus, uint64_t base, uint64_t size, const struct io_ops *ops, void *opaque)
{
	struct error err;

	assert_int_equal(bus_add(bus, &(struct io_region){ "r", base, size, ops, opaque }, &err), 0);
}

static void test_unclaimed(void **state)
{
	struct bus *bus = new_bus();

	(void)state;
	assert_int_equal(bus_read(bus, 0x80, 1), 0xff);
	assert_int_equal(bus_read(bus, 0x80, 4), 0xffffffff);
	assert_true(bus_read(bus, 0x80, 8) == UINT64_MAX);
	bus_write(bus, 0x80, 1, 1);
	assert_false(bus_claims(bus, 0x80));
	free(bus);
}

static void test_direct(void **state)
{
	struct bus *bus = new_bus();
	struct recorder a = { .answer = 0x8877665544332211 };

	(void)state;
	add(bus, 0x100, 8, &any_ops, &a);
	assert_int_equal(bus_read(bus, 0x102, 2), 0x4433);
	assert_int_equal(a.offset, 2);
	bus_write(bus, 0x104, 0x1ff, 1);
	assert_int_equal(a.value, 0xff);
	assert_int_equal(a.offset, 4);
	assert_false(bus_claims(bus, 0xff));
	assert_true(bus_claims(bus, 0x107));
	assert_false(bus_claims(bus, 0x108));
	/* the end sticks out: byte by byte, ones beyond */
	assert_int_equal(bus_read(bus, 0x106, 4), 0xffff8877);
	assert_int_equal(bus_read(bus, 0xff, 2), 0x11ff);
	free(bus);
}

static void test_sizes(void **state)
{
	struct bus *bus = new_bus();
	struct recorder d = { .answer = 0x8877665544332211 }, b = { .answer = 0x44332211 };

	(void)state;
	add(bus, 0x100, 8, &dword_ops, &d);
	add(bus, 0x200, 4, &byte_ops, &b);
	assert_int_equal(bus_read(bus, 0x102, 1), 0x33); /* widened */
	assert_int_equal(d.offset, 0);
	assert_int_equal(d.size, 4);
	assert_int_equal(bus_read(bus, 0x103, 2), 0x5544); /* widened over two */
	assert_true(bus_read(bus, 0x100, 8) == 0x8877665544332211); /* split */
	bus_write(bus, 0x105, 0xab, 1);
	assert_int_equal(d.offset, 4);
	assert_int_equal(d.value, 0xab00);
	assert_int_equal(bus_read(bus, 0x200, 4), 0x44332211);
	assert_int_equal(b.reads, 4);
	bus_write(bus, 0x200, 0xaabbccdd, 4);
	assert_int_equal(b.writes, 4);
	assert_int_equal(b.value, 0xaa);
	free(bus);
}

static void test_overlap(void **state)
{
	struct bus *bus = new_bus();
	struct recorder outer = { .answer = 0x1111111111111111 }, inner = { .answer = 0x22 };
	struct error err;

	(void)state;
	add(bus, 0xcf8, 8, &any_ops, &outer);
	add(bus, 0xcf9, 1, &byte_ops, &inner);
	assert_int_equal(bus_read(bus, 0xcf9, 1), 0x22);
	assert_int_equal(bus_read(bus, 0xcfa, 1), 0x11);
	assert_int_equal(bus_read(bus, 0xcf8, 4), 0x11111111); /* whole to the one it starts in */
	bus_remove(bus, 0xcf9, &inner);
	assert_int_equal(bus_read(bus, 0xcf9, 1), 0x11);
	bus_remove(bus, 0xcf8, &inner); /* not its region */
	assert_true(bus_claims(bus, 0xcf8));
	assert_int_equal(bus_add(bus, &(struct io_region){ "r", 0xffff, 2, &any_ops, &outer }, &err), -1);
	assert_int_equal(bus_add(bus, &(struct io_region){ "r", 0x10000, 1, &any_ops, &outer }, &err), -1);
	assert_int_equal(bus_add(bus, &(struct io_region){ "r", 0, 0, &any_ops, &outer }, &err), -1);
	free(bus);
}

static void test_full(void **state)
{
	struct bus *bus = new_bus();
	struct recorder r = { 0 };
	struct error err;

	(void)state;
	for (unsigned i = 0; i < BUS_REGION_MAX; i++)
		add(bus, 4ull * i, 2, &any_ops, &r);
	assert_int_equal(bus_add(bus, &(struct io_region){ "r", 0xfff0, 1, &any_ops, &r }, &err), -1);
	for (unsigned i = 0; i < BUS_REGION_MAX; i++) {
		assert_true(bus_claims(bus, 4ull * i + 1));
		assert_false(bus_claims(bus, 4ull * i + 2));
	}
	free(bus);
}

/* Random regions against a plain array. */
static void test_random(void **state)
{
	static uint16_t owner[0x10000];
	static struct recorder r[64];
	struct bus *bus = new_bus();
	uint32_t seed = 12345;

	(void)state;
	memset(owner, 0, sizeof(owner));
	for (unsigned i = 1; i < 64; i++) {
		unsigned base = (seed = seed * 1664525 + 1013904223) >> 17, size = (seed >> 5) % 3000 + 1;

		add(bus, base, size, &any_ops, &r[i]);
		for (unsigned a = base; a < base + size && a < 0x10000; a++)
			owner[a] = (uint16_t)i;
	}
	for (unsigned a = 0; a < 0x10000; a++) {
		unsigned reads = r[owner[a]].reads;

		bus_read(bus, a, 1);
		if (owner[a])
			assert_int_equal(r[owner[a]].reads, reads + 1);
		else
			assert_false(bus_claims(bus, a));
	}
	free(bus);
}

static _Atomic bool stop;

static uint64_t constant_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return (uint64_t)(uintptr_t)opaque + offset * 0;
}

static const struct io_ops constant_ops = { .read = constant_read };

static void *read_loop(void *arg)
{
	struct bus *bus = arg;

	while (!stop) {
		uint64_t fixed = bus_read(bus, 0x4000, 8), moving = bus_read(bus, 0x1000, 1);

		if (fixed != 7 || (moving != 0xff && moving != 9))
			return (void *)1;
	}
	return NULL;
}

static void test_concurrent(void **state)
{
	struct bus *bus = new_bus();
	pthread_t threads[2];

	(void)state;
	stop = false;
	add(bus, 0x4000, 8, &constant_ops, (void *)7);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, read_loop, bus);
	for (unsigned i = 0; i < 20000; i++) {
		add(bus, 0x1000, 8, &constant_ops, (void *)9);
		bus_remove(bus, 0x1000, (void *)9);
	}
	stop = true;
	for (unsigned i = 0; i < 2; i++) {
		void *bad;

		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	free(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unclaimed), cmocka_unit_test(test_direct),  cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_overlap),	  cmocka_unit_test(test_full),	  cmocka_unit_test(test_random),
		cmocka_unit_test(test_concurrent),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
