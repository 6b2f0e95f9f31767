/* SPDX-License-Identifier: MIT */
/* The 8254: all modes, latches, read-back, BCD, gate, IRQ 0, and port 0x61. */
#include "device/i8254.h"
#include "vm_machine.h"

static struct vm *vm;
static struct test_line irq;

static int setup(void **state)
{
	struct error err;

	(void)state;
	vm = test_vm(1);
	irq = (struct test_line){ 0 };
	if (i8254_create(vm, test_irq(&irq), NULL, &err))
		fail_msg("%s", err.text);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_round_trip(vm);
	vm_destroy(vm);
	return 0;
}

/* Move to the middle of the tick that is n ticks on. */
static void ticks(uint64_t n)
{
	test_advance(vm, n * 1000000000ull / I8254_HZ + (n ? 1 : 0));
}

static void program(unsigned counter, unsigned mode, uint16_t count)
{
	out8(vm, 0x43, (uint8_t)(counter << 6 | 0x30 | mode << 1));
	out8(vm, 0x40 + counter, (uint8_t)count);
	out8(vm, 0x40 + counter, (uint8_t)(count >> 8));
}

static uint16_t in16(uint16_t port)
{
	uint8_t low = in8(vm, port);

	return (uint16_t)(low | in8(vm, port) << 8);
}

static uint16_t latched(unsigned counter)
{
	out8(vm, 0x43, (uint8_t)(counter << 6));
	return in16((uint16_t)(0x40 + counter));
}

static uint8_t status(unsigned counter)
{
	out8(vm, 0x43, (uint8_t)(0xe0 | 2u << counter));
	return in8(vm, 0x40 + counter);
}

static bool out2(void)
{
	return in8(vm, 0x61) & 0x20;
}

static void test_mode0(void **state)
{
	(void)state;
	out8(vm, 0x43, 0x30);
	assert_int_equal(status(0) & 0xc0, 0x40); /* output low, null count */
	program(0, 0, 1000);
	assert_int_equal(status(0), 0x30);
	assert_false(irq.level);
	ticks(400);
	assert_in_range(latched(0), 599, 601);
	ticks(599);
	assert_false(irq.level);
	ticks(2);
	assert_true(irq.level);
	assert_int_equal(irq.edges, 1);
	assert_true(status(0) & 0x80);
	ticks(100);
	assert_true(latched(0) > 65000); /* goes on counting down */
	ticks(200000);
	assert_int_equal(irq.edges, 1);
}

static void test_mode2(void **state)
{
	(void)state;
	program(0, 2, 1000);
	irq.edges = 0;
	for (unsigned i = 1; i <= 50; i++) {
		ticks(1000);
		assert_in_range(irq.edges, i - 1, i);
	}
	ticks(500);
	assert_int_equal(irq.edges, 50);
	assert_in_range(latched(0), 480, 520);
	/* A new count takes over at the end of the period. */
	out8(vm, 0x40, 0);
	out8(vm, 0x40, 1); /* 256 */
	assert_in_range(latched(0), 480, 520);
	assert_true(status(0) & 0x40);
	ticks(520);
	assert_int_equal(irq.edges, 51);
	assert_false(status(0) & 0x40);
	ticks(256 * 10);
	assert_int_equal(irq.edges, 61);
}

static void test_mode3(void **state)
{
	(void)state;
	out8(vm, 0x61, 1);
	program(2, 3, 100);
	assert_true(out2());
	ticks(49);
	assert_true(out2());
	ticks(3);
	assert_false(out2());
	ticks(46);
	assert_false(out2());
	ticks(4);
	assert_true(out2());
	program(2, 3, 101); /* odd: high for one tick more */
	ticks(50);
	assert_true(out2());
	ticks(2);
	assert_false(out2());
	assert_int_equal(latched(2) & 1, 0);
	program(0, 3, 0); /* 65536: the PC's 18.2 Hz */
	irq.edges = 0;
	test_advance(vm, 1000000000);
	assert_in_range(irq.edges, 18, 19);
}

static void test_gate(void **state)
{
	(void)state;
	out8(vm, 0x61, 0);
	program(2, 0, 1000);
	ticks(5000);
	assert_false(out2()); /* gate low: nothing counts */
	assert_int_equal(latched(2), 1000);
	out8(vm, 0x61, 1);
	ticks(600);
	out8(vm, 0x61, 0);
	ticks(5000);
	assert_in_range(latched(2), 398, 401);
	out8(vm, 0x61, 1);
	ticks(397);
	assert_false(out2());
	ticks(5);
	assert_true(out2());
	/* mode 2: a low gate forces the output high; a rising edge starts over */
	program(2, 2, 1000);
	ticks(300);
	out8(vm, 0x61, 0);
	ticks(5000);
	assert_int_equal(latched(2), 1000);
	out8(vm, 0x61, 1);
	ticks(10);
	assert_in_range(latched(2), 988, 991);
}

static void test_one_shots(void **state)
{
	(void)state;
	out8(vm, 0x61, 0);
	program(2, 1, 100); /* hardware one-shot */
	ticks(500);
	assert_true(out2());
	out8(vm, 0x61, 1); /* trigger */
	assert_false(out2());
	ticks(98);
	assert_false(out2());
	ticks(4);
	assert_true(out2());
	out8(vm, 0x61, 0);
	out8(vm, 0x61, 1); /* retrigger */
	assert_false(out2());
	program(2, 4, 100); /* software strobe: low for one tick */
	assert_true(out2());
	ticks(100);
	assert_false(out2());
	ticks(2);
	assert_true(out2());
	out8(vm, 0x61, 0);
	program(2, 5, 100); /* hardware strobe */
	ticks(100);
	assert_true(out2());
	out8(vm, 0x61, 1);
	ticks(100);
	assert_false(out2());
	ticks(2);
	assert_true(out2());
}

static void test_access(void **state)
{
	(void)state;
	out8(vm, 0x61, 1);
	out8(vm, 0x43, 0x90); /* counter 2, low byte only, mode 0 */
	out8(vm, 0x42, 200);
	assert_in_range(in8(vm, 0x42), 199, 200);
	out8(vm, 0x43, 0xa0); /* high byte only */
	out8(vm, 0x42, 2);
	assert_in_range(in8(vm, 0x42), 1, 2);
	/* BCD */
	out8(vm, 0x43, 0xb1);
	out8(vm, 0x42, 0x34);
	out8(vm, 0x42, 0x12);
	assert_int_equal(latched(2), 0x1234);
	ticks(34);
	assert_in_range(latched(2), 0x1199, 0x1201);
	/* A latched value does not change until it is read. */
	program(2, 2, 1000);
	out8(vm, 0x43, 0x80);
	ticks(100);
	assert_int_equal(in16(0x42), 1000);
	assert_in_range(latched(2), 898, 901);
	/* Read-back of count and status of two counters: status comes first. */
	program(0, 2, 500);
	out8(vm, 0x43, 0xc0 | 0x0a);
	ticks(50);
	assert_int_equal(in8(vm, 0x40), 0xb4);
	assert_int_equal(in16(0x40), 500);
	assert_int_equal(in8(vm, 0x42) & 0x3f, 0x34);
	assert_int_equal(in8(vm, 0x43), 0xff);
}

static void test_port61(void **state)
{
	unsigned changes = 0;

	(void)state;
	out8(vm, 0x61, 0xff);
	assert_int_equal(in8(vm, 0x61) & 0xcf, 0x0f);
	for (unsigned i = 0, last = 2; i < 100; i++) {
		unsigned now = in8(vm, 0x61) >> 4 & 1;

		changes += last != now;
		last = now;
		test_advance(vm, 15085);
	}
	assert_true(changes >= 99);
}

/* The host was away for a while: late edges are made up for, within a limit. */
static void test_late(void **state)
{
	struct vm_priv *priv = vm_priv(vm);

	(void)state;
	program(0, 2, 1193); /* 1 kHz */
	irq.edges = 0;
	atomic_fetch_add(&priv->clock.base_ns, 100000000);
	test_advance(vm, 50000000);
	assert_in_range(irq.edges, 149, 150);
	test_advance(vm, 10000000);
	assert_in_range(irq.edges, 159, 160);
	atomic_fetch_add(&priv->clock.base_ns, 3600000000000);
	test_advance(vm, 1000000000);
	assert_in_range(irq.edges, 160 + 1490, 160 + 1510);
}

static void test_reset(void **state)
{
	(void)state;
	program(0, 2, 10);
	vm_priv(vm)->resets.items[0].function(vm_priv(vm)->resets.items[0].opaque);
	irq.edges = 0;
	test_advance(vm, 1000000);
	assert_int_equal(irq.edges, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_mode0),  TEST(test_mode2),  TEST(test_mode3),	 TEST(test_gate), TEST(test_one_shots),
		TEST(test_access), TEST(test_port61), TEST(test_late),   TEST(test_reset),
	};

	return cmocka_run_group_tests_name("i8254", tests, NULL, NULL);
}
