/* SPDX-License-Identifier: MIT */
/* The 8259 pair: initialisation, priorities, EOI, rotation, masks, special modes, cascade, polling, ELCR. */
#include "device/i8259.h"
#include "vm_machine.h"

static struct vm *vm;
static struct i8259 *pic;
static struct test_line intr;

static void program(uint16_t base, uint8_t vector, uint8_t icw3, uint8_t icw4)
{
	out8(vm, base, 0x11);
	out8(vm, base + 1, vector);
	out8(vm, base + 1, icw3);
	out8(vm, base + 1, icw4);
}

static int setup(void **state)
{
	struct error err;

	(void)state;
	vm = test_vm(1);
	intr = (struct test_line){ 0 };
	if (i8259_create(vm, &pic, &err))
		fail_msg("%s", err.text);
	i8259_connect_output(pic, test_irq(&intr));
	program(0x20, 0x30, 4, 1);
	program(0xa0, 0x38, 2, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_round_trip(vm);
	vm_destroy(vm);
	return 0;
}

static void edge(unsigned n)
{
	struct irq_line line = i8259_input(pic, n);

	irq_pulse(&line);
}

static uint8_t isr(uint16_t base)
{
	out8(vm, base, 0x0b);
	return in8(vm, base);
}

static uint8_t irr(uint16_t base)
{
	out8(vm, base, 0x0a);
	return in8(vm, base);
}

static void test_basic(void **state)
{
	(void)state;
	assert_false(intr.level);
	assert_int_equal(in8(vm, 0x21), 0); /* ICW1 clears the mask */
	edge(5);
	edge(3);
	assert_true(intr.level);
	assert_int_equal(irr(0x20), 0x28);
	assert_int_equal(i8259_acknowledge(pic), 0x33); /* the lower number first */
	assert_int_equal(isr(0x20), 0x08);
	assert_false(intr.level); /* 5 waits behind 3 */
	edge(1);
	assert_true(intr.level); /* 1 interrupts 3 */
	assert_int_equal(i8259_acknowledge(pic), 0x31);
	out8(vm, 0x20, 0x20); /* non-specific EOI: the highest in service, 1 */
	assert_int_equal(isr(0x20), 0x08);
	out8(vm, 0x20, 0x20);
	assert_true(intr.level);
	assert_int_equal(i8259_acknowledge(pic), 0x35);
	out8(vm, 0x20, 0x65); /* specific EOI */
	assert_int_equal(isr(0x20), 0);
	assert_int_equal(i8259_acknowledge(pic), 0x37); /* nothing: spurious 7, not in service */
	assert_int_equal(isr(0x20), 0);
}

static void test_mask(void **state)
{
	(void)state;
	out8(vm, 0x21, 0xff);
	edge(4);
	assert_false(intr.level);
	assert_int_equal(irr(0x20), 0x10);
	out8(vm, 0x21, 0xef);
	assert_true(intr.level);
	out8(vm, 0x21, 0xff);
	assert_false(intr.level);
	out8(vm, 0x21, 0);
	/* A line that stays high gives one edge only. */
	i8259_set_irq(pic, 4, true);
	assert_int_equal(i8259_acknowledge(pic), 0x34);
	out8(vm, 0x20, 0x20);
	assert_false(intr.level);
	i8259_set_irq(pic, 4, true);
	assert_false(intr.level);
	i8259_set_irq(pic, 4, false);
	i8259_set_irq(pic, 4, true);
	assert_true(intr.level);
}

static void test_cascade(void **state)
{
	(void)state;
	edge(12);
	assert_true(intr.level);
	assert_int_equal(irr(0x20), 0x04);
	assert_int_equal(i8259_acknowledge(pic), 0x3c);
	assert_int_equal(isr(0x20), 0x04);
	assert_int_equal(isr(0xa0), 0x10);
	edge(8); /* higher on the slave: but the master's input 2 is in service */
	assert_false(intr.level);
	edge(0);
	assert_int_equal(i8259_acknowledge(pic), 0x30);
	out8(vm, 0x20, 0x20);
	out8(vm, 0xa0, 0x20);
	out8(vm, 0x20, 0x20);
	assert_true(intr.level);
	assert_int_equal(i8259_acknowledge(pic), 0x38);
	out8(vm, 0xa0, 0x20);
	out8(vm, 0x20, 0x62);
	assert_false(intr.level);
	/* A slave's request that vanishes by a mask between INT and INTA is spurious on the master. */
	edge(9);
	out8(vm, 0xa1, 0xff);
	assert_false(intr.level);
}

static void test_special_nested(void **state)
{
	(void)state;
	program(0x20, 0x30, 4, 0x11);
	edge(12);
	assert_int_equal(i8259_acknowledge(pic), 0x3c);
	edge(8);
	assert_true(intr.level); /* now it may interrupt */
	assert_int_equal(i8259_acknowledge(pic), 0x38);
}

static void test_special_mask(void **state)
{
	(void)state;
	edge(2 + 1);
	assert_int_equal(i8259_acknowledge(pic), 0x33);
	edge(6);
	assert_false(intr.level);
	out8(vm, 0x21, 0x08);
	out8(vm, 0x20, 0x68); /* special mask mode: 3 is masked, so it blocks nothing */
	assert_true(intr.level);
	assert_int_equal(i8259_acknowledge(pic), 0x36);
	out8(vm, 0x20, 0x20); /* non-specific EOI passes over the masked one */
	assert_int_equal(isr(0x20), 0x08);
	out8(vm, 0x20, 0x48);
	edge(6);
	assert_false(intr.level);
}

static void test_rotation(void **state)
{
	(void)state;
	edge(0);
	assert_int_equal(i8259_acknowledge(pic), 0x30);
	out8(vm, 0x20, 0xa0); /* rotate on non-specific EOI: 0 becomes the lowest */
	edge(0);
	edge(1);
	edge(7);
	assert_int_equal(i8259_acknowledge(pic), 0x31);
	out8(vm, 0x20, 0x20);
	assert_int_equal(i8259_acknowledge(pic), 0x37);
	out8(vm, 0x20, 0x20);
	assert_int_equal(i8259_acknowledge(pic), 0x30);
	out8(vm, 0x20, 0x20);
	out8(vm, 0x20, 0xc4); /* set priority: 4 lowest, 5 highest */
	edge(4);
	edge(3);
	edge(6);
	assert_int_equal(i8259_acknowledge(pic), 0x36);
	out8(vm, 0x20, 0xe6); /* rotate on specific EOI */
	edge(6);
	assert_int_equal(i8259_acknowledge(pic), 0x33);
}

static void test_auto_eoi(void **state)
{
	(void)state;
	program(0x20, 0x40, 4, 3);
	edge(1);
	assert_int_equal(i8259_acknowledge(pic), 0x41);
	assert_int_equal(isr(0x20), 0);
	out8(vm, 0x20, 0x80); /* rotate in automatic EOI mode */
	edge(1);
	edge(3);
	assert_int_equal(i8259_acknowledge(pic), 0x41);
	edge(1);
	assert_int_equal(i8259_acknowledge(pic), 0x43); /* 1 has become the lowest */
	assert_int_equal(i8259_acknowledge(pic), 0x41);
}

static void test_poll(void **state)
{
	(void)state;
	out8(vm, 0x20, 0x0c);
	assert_int_equal(in8(vm, 0x20), 0);
	edge(6);
	out8(vm, 0x20, 0x0c);
	assert_int_equal(in8(vm, 0x20), 0x86);
	assert_int_equal(isr(0x20), 0x40);
	assert_false(intr.level);
	assert_int_equal(in8(vm, 0x21), 0); /* one read only */
}

static void test_elcr(void **state)
{
	(void)state;
	out8(vm, 0x4d0, 0xff);
	out8(vm, 0x4d1, 0xff);
	assert_int_equal(in8(vm, 0x4d0), 0xf8);
	assert_int_equal(in8(vm, 0x4d1), 0xde);
	i8259_set_irq(pic, 10, true);
	assert_int_equal(i8259_acknowledge(pic), 0x3a);
	out8(vm, 0xa0, 0x20);
	out8(vm, 0x20, 0x20);
	assert_true(intr.level); /* still high */
	i8259_set_irq(pic, 10, false);
	assert_false(intr.level);
	i8259_set_irq(pic, 2, true);
	i8259_set_irq(pic, 200, true);
	assert_false(intr.level);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_basic),    TEST(test_mask),	  TEST(test_cascade), TEST(test_special_nested), TEST(test_special_mask),
		TEST(test_rotation), TEST(test_auto_eoi), TEST(test_poll),    TEST(test_elcr),
	};

	return cmocka_run_group_tests_name("i8259", tests, NULL, NULL);
}
