/* SPDX-License-Identifier: MIT */
/* The 16550A: registers, FIFOs, interrupt priorities, THR-empty semantics, time-outs, loopback, back pressure. */
#include "char/char.h"
#include "device/uart16550.h"
#include "vm_machine.h"

#define BASE 0x3f8

static struct vm *vm;
static struct test_line irq;
static uint8_t sent[16384];
static size_t sent_len, room;
static unsigned accepts;

static size_t chr_write(struct char_backend *chr, const uint8_t *data, size_t len)
{
	(void)chr;
	len = MIN(len, room);
	memcpy(sent + sent_len, data, len);
	sent_len += len;
	room -= len;
	return len;
}

static void chr_destroy(struct char_backend *chr)
{
	(void)chr;
}

static void chr_accept(struct char_backend *chr)
{
	(void)chr;
	accepts++;
}

static const struct char_backend_ops chr_ops = { .write = chr_write, .destroy = chr_destroy };
static struct char_backend chr = { .ops = &chr_ops, .accept_input = chr_accept };

static void wr(unsigned reg, uint8_t value)
{
	out8(vm, (uint16_t)(BASE + reg), value);
}

static uint8_t rd(unsigned reg)
{
	return in8(vm, (uint16_t)(BASE + reg));
}

static int setup(void **state)
{
	struct error err;

	(void)state;
	vm = test_vm(1);
	irq = (struct test_line){ 0 };
	sent_len = accepts = 0;
	room = sizeof(sent);
	if (uart16550_create(vm, 0, BASE, test_irq(&irq), &chr, NULL, &err))
		fail_msg("%s", err.text);
	wr(4, 0x0b); /* DTR, RTS, OUT2 */
	rd(6);
	accepts = 0; /* attaching may have been one */
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_round_trip(vm);
	vm_destroy(vm);
	return 0;
}

static size_t feed(const char *text)
{
	size_t len = MIN(strlen(text), chr.can_receive(chr.opaque));

	chr.receive(chr.opaque, (const uint8_t *)text, len);
	return len;
}

static void test_registers(void **state)
{
	(void)state;
	wr(3, 0x80);
	wr(0, 0x34);
	wr(1, 0x12);
	assert_int_equal(rd(0), 0x34);
	assert_int_equal(rd(1), 0x12);
	wr(3, 0x03);
	wr(1, 0xff);
	assert_int_equal(rd(1), 0x0f);
	wr(1, 0);
	wr(7, 0xa5);
	assert_int_equal(rd(7), 0xa5);
	assert_int_equal(rd(5), 0x60);
	assert_int_equal(rd(6), 0xb0);
	assert_int_equal(rd(2), 0x01);
	wr(2, 0x01);
	assert_int_equal(rd(2), 0xc1);
	wr(4, 0xff);
	assert_int_equal(rd(4), 0x1f);
}

static void test_transmit(void **state)
{
	(void)state;
	wr(1, 0x02);
	assert_true(irq.level); /* enabling it with an empty THR causes one */
	assert_int_equal(rd(2), 0x02);
	assert_false(irq.level); /* seen */
	assert_int_equal(rd(2), 0x01);
	wr(0, 'H');
	assert_true(irq.level);
	wr(0, 'i');
	assert_int_equal(sent_len, 0); /* buffered */
	test_advance(vm, 1000000);
	assert_int_equal(sent_len, 2);
	wr(0, '!');
	wr(0, '\n'); /* a whole line goes at once */
	assert_int_equal(sent_len, 4);
	assert_memory_equal(sent, "Hi!\n", 4);
	assert_int_equal(rd(2), 0x02);
	wr(1, 0);
	wr(1, 2);
	assert_true(irq.level);
	wr(4, 0x03); /* OUT2 off: the PC's line is cut */
	assert_false(irq.level);
	wr(4, 0x0b);
	assert_true(irq.level);
}

static void test_back_pressure(void **state)
{
	(void)state;
	wr(2, 0x01);
	wr(1, 0x02);
	rd(2);
	room = 2;
	for (unsigned i = 0; i < 10; i++)
		wr(0, (uint8_t)('0' + i));
	test_advance(vm, 1000000);
	assert_int_equal(sent_len, 2);
	wr(0, 'a');
	room = 100;
	test_advance(vm, 2000000);
	assert_memory_equal(sent, "0123456789a", 11);
	/* When the buffer is full too, THR stays full, and more is dropped, not stored outside. */
	room = 0;
	sent_len = 0;
	for (unsigned i = 0; i < 5000; i++)
		wr(0, (uint8_t)i);
	assert_int_equal(rd(5) & 0x60, 0);
	rd(2);
	assert_false(irq.level);
	room = 10000;
	test_advance(vm, 8000000);
	assert_int_equal(sent_len, 4096 + 16);
	for (unsigned i = 0; i < sent_len; i++)
		assert_int_equal(sent[i], (uint8_t)i);
	assert_int_equal(rd(5) & 0x60, 0x60);
	assert_true(irq.level);
}

static void test_receive(void **state)
{
	(void)state;
	wr(1, 0x01);
	assert_int_equal(feed("ab"), 1); /* no FIFO: one */
	assert_true(irq.level);
	assert_int_equal(rd(2), 0x04);
	assert_int_equal(rd(5), 0x61);
	assert_int_equal(feed("b"), 0);
	assert_int_equal(accepts, 0);
	assert_int_equal(rd(0), 'a');
	assert_int_equal(accepts, 1);
	assert_false(irq.level);
	assert_int_equal(rd(5), 0x60);
	assert_int_equal(rd(0), 0);
	/* FIFO with trigger 8 */
	wr(2, 0x81);
	assert_int_equal(feed("1234567"), 7);
	assert_false(irq.level);
	test_advance(vm, 100000000);
	assert_true(irq.level); /* four characters' time without anything */
	assert_int_equal(rd(2), 0xcc);
	assert_int_equal(rd(0), '1');
	assert_false(irq.level);
	feed("89");
	assert_true(irq.level);
	assert_int_equal(rd(2), 0xc4);
	assert_int_equal(feed("0123456789"), 8);
	assert_int_equal(feed("x"), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_true(rd(5) & 1), rd(0);
	assert_false(rd(5) & 1);
	assert_false(irq.level);
	feed("zzz");
	wr(2, 0x83); /* clear the receiver */
	assert_int_equal(rd(5), 0x60);
	test_advance(vm, 100000000);
	assert_false(irq.level);
}

static void test_loopback(void **state)
{
	(void)state;
	wr(2, 0x01);
	wr(4, 0x1a); /* loop, OUT2, RTS */
	assert_int_equal(rd(6) >> 4, 0x9); /* DCD, CTS */
	wr(4, 0x10);
	assert_int_equal(rd(6) >> 4, 0);
	wr(4, 0x1f);
	assert_int_equal(rd(6), 0xfb); /* all on, deltas; RI has no leading-edge delta */
	wr(4, 0x1b);
	assert_int_equal(rd(6), 0xb4); /* RI's trailing edge */
	wr(0, 0x5a);
	assert_int_equal(sent_len, 0);
	assert_int_equal(rd(5), 0x61);
	assert_int_equal(rd(0), 0x5a);
	assert_int_equal(feed("a"), 0); /* the line is cut off */
	for (unsigned i = 0; i < 17; i++)
		wr(0, (uint8_t)i);
	assert_int_equal(rd(5), 0x63); /* overrun */
	assert_int_equal(rd(5), 0x61);
	/* priorities: line status, received data, transmitter, modem status */
	wr(1, 0x0f);
	wr(0, 1);
	assert_int_equal(rd(2) & 15, 6);
	rd(5);
	assert_int_equal(rd(2) & 15, 4);
	wr(2, 0x03);
	assert_int_equal(rd(2) & 15, 2);
	wr(4, 0x1a);
	assert_int_equal(rd(2) & 15, 0);
	rd(6);
	assert_int_equal(rd(2) & 15, 1);
	wr(3, 0x43); /* break */
	assert_int_equal(rd(2) & 15, 6);
	assert_int_equal(rd(5), 0x71);
}

static void test_anything(void **state)
{
	uint32_t seed = 1;

	(void)state;
	for (unsigned i = 0; i < 200000; i++) {
		seed = seed * 1664525 + 1013904223;
		switch (seed >> 29) {
		case 0:
			feed("some text");
			break;
		case 1:
			room = seed >> 8 & 0xfff;
			break;
		case 2:
			test_advance(vm, seed >> 8 & 0xfffff);
			sent_len = 0;
			break;
		case 3:
		case 4:
			rd(seed >> 8 & 7);
			break;
		default:
			wr(seed >> 8 & 7, (uint8_t)(seed >> 16));
			sent_len = 0;
			break;
		}
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_registers), TEST(test_transmit), TEST(test_back_pressure),
		TEST(test_receive),   TEST(test_loopback), TEST(test_anything),
	};

	return cmocka_run_group_tests_name("uart16550", tests, NULL, NULL);
}
