/* SPDX-License-Identifier: MIT */
/* The RTC: showing and setting the time in every format, alarm, periodic and update interrupts, CMOS bytes. */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "device/mc146818.h"
#include "vm_machine.h"

static struct vm *vm;
static struct mc146818 *rtc;
static struct test_line irq;
static uint64_t real_ns; /* what CLOCK_REALTIME shows */

/* The host's clock, in place of libc's: it moves only with pass(). */
int clock_gettime(clockid_t id, struct timespec *ts)
{
	if (id != CLOCK_REALTIME)
		return (int)syscall(SYS_clock_gettime, id, ts);
	*ts = (struct timespec){ .tv_sec = (time_t)(real_ns / 1000000000), .tv_nsec = (long)(real_ns % 1000000000) };
	return 0;
}

static uint8_t rd(uint8_t index)
{
	out8(vm, 0x70, index);
	return in8(vm, 0x71);
}

static void wr(uint8_t index, uint8_t value)
{
	out8(vm, 0x70, index);
	out8(vm, 0x71, value);
}

static int setup(void **state)
{
	struct error err;

	(void)state;
	real_ns = 1780000000ull * 1000000000;
	vm = test_vm_of(3, GIB(4));
	irq = (struct test_line){ 0 };
	if (mc146818_create(vm, test_irq(&irq), &rtc, &err))
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

static unsigned bcd(uint8_t v)
{
	return (v >> 4) * 10u + (v & 15);
}

/* Let time pass on the host's clock, which the RTC follows, and guest time with it. */
static void pass(unsigned ms)
{
	for (; ms; ms--) {
		real_ns += 1000000;
		test_advance(vm, 1000000);
	}
}

static void test_shows_host_time(void **state)
{
	struct tm tm;
	time_t t = (time_t)(real_ns / 1000000000);

	(void)state;
	gmtime_r(&t, &tm);
	assert_int_equal(bcd(rd(0)), tm.tm_sec);
	assert_int_equal(bcd(rd(2)), tm.tm_min);
	assert_int_equal(bcd(rd(4)), tm.tm_hour);
	assert_int_equal(bcd(rd(6)), tm.tm_wday + 1);
	assert_int_equal(bcd(rd(7)), tm.tm_mday);
	assert_int_equal(bcd(rd(8)), tm.tm_mon + 1);
	assert_int_equal(bcd(rd(9)), tm.tm_year % 100);
	assert_int_equal(bcd(rd(0x32)), 20);
	wr(0x0b, 0x06); /* binary */
	assert_int_equal(rd(2), tm.tm_min);
	wr(0x0b, 0x04); /* binary, 12 hours */
	assert_int_equal(rd(4) & 0x7f, tm.tm_hour % 12 ? tm.tm_hour % 12 : 12);
	assert_int_equal(rd(4) >> 7, tm.tm_hour >= 12);
	assert_int_equal(rd(0x0d), 0x80);
	assert_int_equal(in8(vm, 0x70), 0xff);
}

static void set_time(uint8_t century, uint8_t year, uint8_t month, uint8_t day, uint8_t hour, uint8_t minute, uint8_t second)
{
	wr(0x0b, rd(0x0b) | 0x80);
	wr(0x32, century);
	wr(9, year);
	wr(8, month);
	wr(7, day);
	wr(4, hour);
	wr(2, minute);
	wr(0, second);
	wr(0x0b, rd(0x0b) & 0x7f);
}

static void test_set(void **state)
{
	(void)state;
	set_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
	assert_int_equal(rd(9), 0x99);
	assert_int_equal(rd(6), 6); /* a Friday */
	pass(1010);
	assert_int_equal(rd(0), 0x00);
	assert_int_equal(rd(4), 0x00);
	assert_int_equal(rd(7), 0x01);
	assert_int_equal(rd(8), 0x01);
	assert_int_equal(rd(9), 0x00);
	assert_int_equal(rd(0x32), 0x20);
	/* While SET is on the bytes stand still. */
	wr(0x0b, 0x82);
	wr(0, 0x58);
	pass(1100);
	assert_int_equal(rd(0), 0x58);
	/* Writing with the clock running sets just that. */
	wr(0x0b, 0x02);
	wr(2, 0x30);
	assert_int_equal(rd(2), 0x30);
	assert_int_equal(rd(4), 0x00);
	/* Nonsense is carried over, not fatal. */
	set_time(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
	rd(0);
	set_time(0, 0, 0, 0, 0, 0, 0);
	rd(0);
}

static void test_update_interrupt(void **state)
{
	(void)state;
	rd(0x0c);
	wr(0x0b, 0x12);
	assert_false(irq.level);
	pass(1005);
	assert_true(irq.level);
	assert_int_equal(rd(0x0c) & 0x90, 0x90);
	assert_false(irq.level);
	assert_int_equal(rd(0x0c), 0);
	pass(1005);
	assert_true(irq.level);
	wr(0x0b, 0x02);
	assert_false(irq.level);
	/* polled: the flag comes without the interrupt */
	rd(0x0c);
	pass(1005);
	assert_int_equal(rd(0x0c) & 0x90, 0x10);
}

static void test_periodic(void **state)
{
	unsigned count = 0;

	(void)state;
	wr(0x0a, 0x2a); /* 64 Hz */
	wr(0x0b, 0x42);
	rd(0x0c);
	for (unsigned i = 0; i < 50; i++) {
		pass(10);
		if (irq.level) {
			count++;
			assert_true(rd(0x0c) & 0x40);
		}
	}
	assert_in_range(count, 28, 50);
	wr(0x0a, 0x20); /* no rate */
	rd(0x0c);
	pass(50);
	assert_false(irq.level);
	assert_int_equal(vm_priv(vm)->loop.heap_count, 0); /* and no timer */
}

static void test_alarm(void **state)
{
	(void)state;
	set_time(0x20, 0x26, 0x05, 0x05, 0x11, 0x59, 0x58);
	wr(1, 0x00);
	wr(3, 0x00);
	wr(5, 0x12);
	rd(0x0c);
	wr(0x0b, 0x22);
	pass(1000);
	assert_false(irq.level);
	pass(1010);
	assert_true(irq.level);
	assert_int_equal(rd(0x0c) & 0xa0, 0xa0);
	/* every second */
	wr(1, 0xc0);
	wr(3, 0xff);
	wr(5, 0xc1);
	pass(1010);
	assert_true(irq.level);
	rd(0x0c);
	/* never: 25 o'clock */
	wr(5, 0x25);
	assert_int_equal(vm_priv(vm)->loop.heap_count, 0);
}

static void test_uip(void **state)
{
	unsigned seen = 0, other = 0;

	(void)state;
	for (unsigned i = 0; i < 20000; i++, real_ns += 100000) {
		if (rd(0x0a) & 0x80)
			seen++;
		else
			other++;
	}
	assert_in_range(seen, 4, 6); /* 244 us before each of two seconds */
	assert_int_equal(seen + other, 20000);
}

static void test_cmos(void **state)
{
	(void)state;
	assert_int_equal(rd(0x15) | rd(0x16) << 8, 640);
	assert_int_equal(rd(0x17) | rd(0x18) << 8, 0xffff);
	assert_int_equal(rd(0x34) | rd(0x35) << 8, (GIB(3) - MIB(16)) >> 16);
	assert_int_equal(rd(0x5b) | rd(0x5c) << 8 | rd(0x5d) << 16, GIB(1) >> 16);
	assert_int_equal(rd(0x5f), 2);
	wr(0x40, 0x77);
	wr(0x0d, 0);
	vm_priv(vm)->resets.items[0].function(vm_priv(vm)->resets.items[0].opaque);
	assert_int_equal(rd(0x40), 0x77);
	assert_int_equal(rd(0x0d), 0x80);
	assert_false(mc146818_nmi_masked(rtc));
	assert_int_equal(rd(0xc0), 0x77); /* bit 7 masks NMIs; the rest is the index */
	assert_true(mc146818_nmi_masked(rtc));
	mc146818_set_cmos(rtc, 0x41, 0x12);
	mc146818_set_cmos(rtc, 0xff, 0x12);
	assert_int_equal(rd(0x41), 0x12);
}

static void test_anything(void **state)
{
	uint32_t seed = 1;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		seed = seed * 1664525 + 1013904223;
		if (seed >> 31)
			wr(seed >> 8 & 0x3f, (uint8_t)(seed >> 16));
		else
			rd(seed >> 8 & 0x7f);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_shows_host_time), TEST(test_set), TEST(test_update_interrupt), TEST(test_periodic), TEST(test_alarm),
		TEST(test_uip), TEST(test_cmos), TEST(test_anything),
	};

	return cmocka_run_group_tests_name("mc146818", tests, NULL, NULL);
}
