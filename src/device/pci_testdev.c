/* SPDX-License-Identifier: MIT */
/*
 * pci-testdev: counts accesses to memory and I/O space, for bare-metal test kernels.
 *
 * BAR 0 (4 KiB of memory) and BAR 1 (256 ports) each begin with a read-only header that describes
 * the test selected by writing its number to byte 0: where to write, how wide, which value, how
 * many such writes were seen, and a name. Header and numbers are as in QEMU's
 * docs/specs/pci-testdev and the device there, so that the same kernels run. "eventfd" in the names
 * is QEMU's way to take the write; we have but one way.
 */
#include "device/pci_testdev.h"

#include <stdio.h>

#include "device/pci.h"
#include "vm/vm.h"

#define VENDOR 0x1b36
#define DEVICE 0x0005
#define CLASS_OTHER 0xff0000

#define MEMORY_SIZE 4096
#define PORT_SIZE 256
#define TEST_COUNT 3
#define DATA_MATCH 0xfa
#define DATA_WILDCARD 0xce

struct test_header {
	uint8_t test, width, pad[2];
	uint32_t offset, data, count;
	char name[32];
};

struct testdev;

struct test_bar {
	struct testdev *dev;
	bool ports;
};

struct testdev {
	struct pci_device pci;
	pthread_mutex_t lock;
	struct test_bar memory, ports;
	uint8_t selected; /* test number + (ports ? TEST_COUNT : 0); NONE */
	uint32_t count;
};

#define NONE 0xff

static const struct {
	const char *name;
	bool any_value;
} tests[TEST_COUNT] = {
	{ "no-eventfd", false },
	{ "wildcard-eventfd", true },
	{ "datamatch-eventfd", false },
};

static void describe(const struct testdev *dev, struct test_header *header)
{
	bool ports = dev->selected >= TEST_COUNT;
	unsigned n = dev->selected % TEST_COUNT;

	*header = (struct test_header){
		.test = dev->selected,
		.width = 1,
		.offset = (ports ? PORT_SIZE : MEMORY_SIZE) / 2 + dev->selected,
		.data = tests[n].any_value ? DATA_WILDCARD : DATA_MATCH,
		.count = dev->count,
	};
	snprintf(header->name, sizeof(header->name), "%s-%s", ports ? "portio" : "mmio",
		 tests[n].name);
}

static uint64_t test_read(void *opaque, uint64_t offset, unsigned size)
{
	struct testdev *dev = ((struct test_bar *)opaque)->dev;
	struct test_header header;
	uint8_t value = 0;

	(void)size;
	pthread_mutex_lock(&dev->lock);
	if (dev->selected != NONE && offset < sizeof(header)) {
		describe(dev, &header);
		value = ((uint8_t *)&header)[offset];
	}
	pthread_mutex_unlock(&dev->lock);
	return value;
}

static void test_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct test_bar *bar = opaque;
	struct testdev *dev = bar->dev;
	struct test_header header;

	(void)size;
	pthread_mutex_lock(&dev->lock);
	if (offset == 0) {
		dev->count = 0;
		dev->selected = value >= TEST_COUNT ? NONE : value + (bar->ports ? TEST_COUNT : 0);
	} else if (dev->selected != NONE) {
		describe(dev, &header);
		if (offset == header.offset &&
		    (tests[dev->selected % TEST_COUNT].any_value || value == header.data))
			dev->count++;
	}
	pthread_mutex_unlock(&dev->lock);
}

static const struct io_ops test_ops = { test_read, test_write, 1, 1 };

static void testdev_reset(struct pci_device *pci)
{
	struct testdev *dev = container_of(pci, struct testdev, pci);

	dev->selected = NONE;
	dev->count = 0;
}

static void testdev_destroy(struct pci_device *pci)
{
	struct testdev *dev = container_of(pci, struct testdev, pci);

	pthread_mutex_destroy(&dev->lock);
	free(dev);
}

static const struct pci_device_ops testdev_ops = { .reset = testdev_reset,
						   .destroy = testdev_destroy };

static int after_load(void *object, struct error *err)
{
	struct testdev *dev = object;

	if (dev->selected >= 2 * TEST_COUNT && dev->selected != NONE)
		return error_set(err, 0, "pci-testdev has no test %u", dev->selected);
	return 0;
}

static const struct state_field testdev_fields[] = {
	STATE_FIELD(struct testdev, selected),
	STATE_FIELD(struct testdev, count),
	STATE_END,
};

static const struct state_table testdev_state = {
	.name = "pci-testdev",
	.version = 1,
	.fields = testdev_fields,
	.after_load = after_load,
};

struct pci_device *pci_testdev_create(struct pci_bus *bus, int slot, struct error *err)
{
	struct testdev *dev = calloc(1, sizeof(*dev));

	if (!dev) {
		error_set(err, 0, "cannot create pci-testdev: out of memory");
		return NULL;
	}
	pthread_mutex_init(&dev->lock, NULL);
	dev->memory = (struct test_bar){ dev, false };
	dev->ports = (struct test_bar){ dev, true };
	dev->selected = NONE;
	pci_device_init(&dev->pci, "pci-testdev", &testdev_ops, VENDOR, DEVICE, CLASS_OTHER, 0);
	pci_device_add_bar(&dev->pci, 0, PCI_BAR_MEMORY32, MEMORY_SIZE, false);
	pci_device_add_window(&dev->pci, 0, "pci-testdev", 0, MEMORY_SIZE, &test_ops, &dev->memory);
	pci_device_add_bar(&dev->pci, 1, PCI_BAR_IO, PORT_SIZE, false);
	pci_device_add_window(&dev->pci, 1, "pci-testdev", 0, PORT_SIZE, &test_ops, &dev->ports);
	if (pci_device_add(bus, &dev->pci, slot, err) < 0) {
		testdev_destroy(&dev->pci);
		return NULL;
	}
	vm_state_register(bus->vm, &testdev_state, dev->pci.devfn, dev);
	return &dev->pci;
}
