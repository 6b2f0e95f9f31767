/* SPDX-License-Identifier: MIT */
/* PCI: configuration mechanisms, BAR sizing and decoding, MSI-X, INTx, pci-testdev. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "device/msix.h"
#include "device/pci_testdev.h"
#include "device/virtio_devices.h"
#include "virtio_driver.h"

#define CONFIG(devfn, offset) (TEST_ECAM + ((uint64_t)(devfn) << 12) + (offset))

static uint32_t ecam(struct test_machine *m, uint8_t devfn, unsigned offset, unsigned size)
{
	return bus_read(&m->vm->mmio, CONFIG(devfn, offset), size);
}

static void ecam_set(struct test_machine *m, uint8_t devfn, unsigned offset, uint32_t value,
		     unsigned size)
{
	bus_write(&m->vm->mmio, CONFIG(devfn, offset), value, size);
}

static void assign(struct test_machine *m)
{
	struct error err;

	assert_int_equal(
		pci_assign_bars(m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000, true, &err), 0);
}

static void ports_and_ecam_agree(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct bus *pio = &m->vm->pio;

	(void)state;
	pci_testdev_create(m->bus, 3, NULL);
	assert_int_equal(ecam(m, 0, 0, 4), 0x00081b36);
	assert_int_equal(ecam(m, 0, 0xa, 2), 0x0600);
	assert_int_equal(ecam(m, 0x18, 0, 4), 0x00051b36);
	bus_write(pio, 0xcf8, 0x80001800, 4);
	assert_int_equal(bus_read(pio, 0xcf8, 4) & 0xffffffff, 0x80001800);
	assert_int_equal(bus_read(pio, 0xcfc, 4) & 0xffffffff, 0x00051b36);
	assert_int_equal(bus_read(pio, 0xcfe, 2) & 0xffff, 0x0005);
	assert_int_equal(bus_read(pio, 0xcfd, 1) & 0xff, 0x1b);
	/* Byte accesses do not reach the address register. */
	bus_write(pio, 0xcf8, 0, 1);
	assert_int_equal(bus_read(pio, 0xcf8, 4) & 0xffffffff, 0x80001800);
	/* A byte write through the data port. */
	bus_write(pio, 0xcf8, 0x8000183c, 4);
	bus_write(pio, 0xcfc, 0x0b, 1);
	assert_int_equal(ecam(m, 0x18, 0x3c, 1), 0x0b);
	/* Disabled, absent, other buses, beyond 256 bytes: all ones. */
	bus_write(pio, 0xcf8, 0x00001800, 4);
	assert_int_equal(bus_read(pio, 0xcfc, 4) & 0xffffffff, 0xffffffff);
	assert_int_equal(ecam(m, 0x20, 0, 4), 0xffffffff);
	assert_int_equal(ecam(m, 0x19, 0, 4), 0xffffffff);
	assert_int_equal(bus_read(&m->vm->mmio, TEST_ECAM + 0x100000, 2) & 0xffff, 0xffff);
	assert_int_equal(ecam(m, 0x18, 0x100, 4), 0xffffffff);
	test_machine_destroy(m);
}

static void bars_are_sized_and_decoded(void **state)
{
	struct test_machine *m = test_machine_create(1);
	uint64_t base;

	(void)state;
	pci_testdev_create(m->bus, 3, NULL);
	ecam_set(m, 0x18, 0x10, 0xffffffff, 4);
	assert_int_equal(ecam(m, 0x18, 0x10, 4), 0xfffff000);
	ecam_set(m, 0x18, 0x14, 0xffffffff, 4);
	assert_int_equal(ecam(m, 0x18, 0x14, 4), 0xffffff01);
	assign(m);
	base = ecam(m, 0x18, 0x10, 4) & ~15u;
	assert_true(base >= TEST_MMIO && base < TEST_MMIO + TEST_MMIO_SIZE && base % 4096 == 0);
	assert_true(bus_claims(&m->vm->mmio, base));
	ecam_set(m, 0x18, 4, 1, 2); /* memory off */
	assert_false(bus_claims(&m->vm->mmio, base));
	ecam_set(m, 0x18, 0x10, base + 0x100000, 4);
	ecam_set(m, 0x18, 4, 3, 2);
	assert_false(bus_claims(&m->vm->mmio, base));
	assert_true(bus_claims(&m->vm->mmio, base + 0x100000));
	/* Sizing with decoding on: nothing is mapped at the top, and the old place comes back. */
	ecam_set(m, 0x18, 0x10, 0xffffffff, 4);
	assert_false(bus_claims(&m->vm->mmio, base + 0x100000));
	ecam_set(m, 0x18, 0x10, base + 0x100000, 4);
	assert_true(bus_claims(&m->vm->mmio, base + 0x100000));
	pci_bus_reset(m->bus);
	assert_false(bus_claims(&m->vm->mmio, base + 0x100000));
	assert_int_equal(ecam(m, 0x18, 4, 2), 0);
	test_machine_destroy(m);
}

static void a_64_bit_bar_goes_anywhere(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct pci_device *dev = virtio_rng_create(m->bus, -1, NULL);
	uint8_t devfn = dev->devfn;

	(void)state;
	ecam_set(m, devfn, 0x20, 0xffffffff, 4);
	ecam_set(m, devfn, 0x24, 0xffffffff, 4);
	assert_int_equal(ecam(m, devfn, 0x20, 4), 0xffffc00c);
	assert_int_equal(ecam(m, devfn, 0x24, 4), 0xffffffff);
	ecam_set(m, devfn, 0x20, 0, 4);
	ecam_set(m, devfn, 0x24, 0x80, 4);
	ecam_set(m, devfn, 4, 2, 2);
	assert_true(bus_claims(&m->vm->mmio, 0x8000000000));
	assert_int_equal(bus_read(&m->vm->mmio, 0x8000000012, 2) & 0xffff, 1); /* num_queues */
	test_machine_destroy(m);
}

static void every_bar_finds_a_place(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct error err;

	(void)state;
	for (unsigned i = 1; i < 32; i++)
		assert_non_null(i % 2 ? virtio_rng_create(m->bus, i, &err) :
					pci_testdev_create(m->bus, i, &err));
	assert_null(virtio_rng_create(m->bus, -1, &err));
	assert_string_equal(err.text,
			    "cannot add virtio-rng: all 32 slots of the PCI bus are taken");
	assert_null(virtio_rng_create(m->bus, 3, &err));
	assign(m);
	for (unsigned i = 1; i < 32; i++) {
		for (unsigned j = 1; j < 32; j++) {
			uint32_t a = ecam(m, i << 3, i % 2 ? 0x20 : 0x10, 4) & ~15u;
			uint32_t b = ecam(m, j << 3, j % 2 ? 0x20 : 0x10, 4) & ~15u;

			assert_true(i == j || a + (i % 2 ? 0x4000 : 0x1000) <= b ||
				    b + (j % 2 ? 0x4000 : 0x1000) <= a);
		}
		if (i % 2)
			assert_int_equal(ecam(m, i << 3, 0x3c, 2), 0x0100 | (16 + i % 4));
	}
	assert_int_equal(pci_assign_bars(m->bus, TEST_MMIO, 0x8000, TEST_IO, 0x1000, true, &err),
			 -1);
	test_machine_destroy(m);
}

/* The way kvm-unit-tests uses it: start a test, write 16 times, look at the count. */
static void testdev_counts(void **state)
{
	struct test_machine *m = test_machine_create(1);
	const char *names[] = { "mmio-no-eventfd",         "mmio-wildcard-eventfd",
				"mmio-datamatch-eventfd",  "portio-no-eventfd",
				"portio-wildcard-eventfd", "portio-datamatch-eventfd" };

	(void)state;
	pci_testdev_create(m->bus, 3, NULL);
	assign(m);
	for (unsigned i = 0; i < 6; i++) {
		struct bus *bus = i < 3 ? &m->vm->mmio : &m->vm->pio;
		uint64_t base = i < 3 ? ecam(m, 0x18, 0x10, 4) & ~15u :
					ecam(m, 0x18, 0x14, 4) & ~3u;
		uint32_t offset, data;

		bus_write(bus, base, i % 3, 1);
		assert_int_equal(bus_read(bus, base + 12, 4) & 0xffffffff, 0);
		assert_int_equal(bus_read(bus, base + 1, 1) & 0xff, 1);
		offset = bus_read(bus, base + 4, 4);
		data = bus_read(bus, base + 8, 4);
		for (unsigned j = 0; names[i][j]; j++)
			assert_int_equal(bus_read(bus, base + 16 + j, 1) & 0xff, names[i][j]);
		for (unsigned j = 0; j < 16; j++)
			bus_write(bus, base + offset, data, 1);
		bus_write(bus, base + offset, data + 1, 1); /* counts only for the wildcard */
		assert_int_equal(bus_read(bus, base + 12, 4) & 0xffffffff, i % 3 == 1 ? 17 : 16);
		bus_write(bus, base, 3, 1); /* no such test */
		assert_int_equal(bus_read(bus, base + 1, 1) & 0xff, 0);
	}
	test_machine_destroy(m);
}

static void msix_masks_and_pends(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct pci_device *dev = virtio_rng_create(m->bus, -1, NULL);
	uint64_t table;
	unsigned cap;

	(void)state;
	assign(m);
	for (cap = ecam(m, dev->devfn, 0x34, 1); ecam(m, dev->devfn, cap, 1) != 0x11;)
		cap = ecam(m, dev->devfn, cap + 1, 1);
	table = ecam(m, dev->devfn, 0x14, 4) & ~15u;
	msix_notify(dev, 1); /* off: nothing */
	ecam_set(m, dev->devfn, cap + 2, 0x8000, 2);
	assert_int_equal(ecam(m, dev->devfn, cap + 2, 2), 0x8001);
	for (unsigned i = 0; i < 2; i++) {
		bus_write(&m->vm->mmio, table + 16 * i, 0xfee00000, 8);
		bus_write(&m->vm->mmio, table + 16 * i + 8, 3 + i, 4);
	}
	msix_notify(dev, 1); /* masked after reset */
	assert_int_equal(m->messages[4], 0);
	assert_int_equal(bus_read(&m->vm->mmio, table + 2048, 4) & 0xffffffff, 2);
	bus_write(&m->vm->mmio, table + 16 + 12, 0, 4);
	assert_int_equal(m->messages[4], 1);
	assert_int_equal(bus_read(&m->vm->mmio, table + 2048, 4) & 0xffffffff, 0);
	msix_notify(dev, 1);
	assert_int_equal(m->messages[4], 2);
	ecam_set(m, dev->devfn, cap + 2, 0xc000, 2); /* the whole function */
	msix_notify(dev, 1);
	msix_notify(dev, 1);
	assert_int_equal(m->messages[4], 2);
	ecam_set(m, dev->devfn, cap + 2, 0x8000, 2);
	assert_int_equal(m->messages[4], 3);
	msix_notify(dev, 7); /* no such vector */
	assert_int_equal(m->messages[3], 0);
	test_machine_destroy(m);
}

static void intx_lines_are_shared(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct pci_device *a = virtio_rng_create(m->bus, 1, NULL),
			  *b = virtio_rng_create(m->bus, 5, NULL);

	(void)state;
	assert_int_equal(pci_bus_irq_index(m->bus, 1, 0), 1);
	pci_set_intx(a, true);
	assert_int_equal(m->levels[1], 1);
	assert_int_equal(ecam(m, a->devfn, 6, 2) & 8, 8);
	pci_set_intx(b, true);
	pci_set_intx(a, false);
	assert_int_equal(m->levels[1], 1);
	ecam_set(m, b->devfn, 4, 0x400, 2); /* INTx disable */
	assert_int_equal(m->levels[1], 0);
	assert_int_equal(ecam(m, b->devfn, 6, 2) & 8, 8);
	ecam_set(m, b->devfn, 4, 0, 2);
	assert_int_equal(m->levels[1], 1);
	pci_bus_reset(m->bus);
	assert_int_equal(m->levels[1], 0);
	test_machine_destroy(m);
}

static void state_round_trips(void **state)
{
	struct test_machine *m = test_machine_create(1);
	struct error err;

	(void)state;
	pci_testdev_create(m->bus, 3, NULL);
	virtio_rng_create(m->bus, -1, NULL);
	assign(m);
	bus_write(&m->vm->pio, 0xcf8, 0x80001804, 4);
	if (vm_state_round_trip(m->vm, &err) < 0)
		fail_msg("%s", err.text);
	test_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_and_ecam_agree),
		cmocka_unit_test(bars_are_sized_and_decoded),
		cmocka_unit_test(a_64_bit_bar_goes_anywhere),
		cmocka_unit_test(every_bar_finds_a_place),
		cmocka_unit_test(testdev_counts),
		cmocka_unit_test(msix_masks_and_pends),
		cmocka_unit_test(intx_lines_are_shared),
		cmocka_unit_test(state_round_trips),
	};

	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
