/* SPDX-License-Identifier: MIT */
/*
 * pci-testdev, as QEMU's docs/specs/pci-testdev.txt describes: BAR 0 memory and BAR 1 I/O with a table of tests.
 * run: devices=pci-testdev
 */
#include "lib.h"

struct header {
	uint8_t test, width, pad[2];
	uint32_t offset, data, count;
	char name[1];
} __attribute__((packed));

static void memory(volatile struct header *h)
{
	unsigned found = 0;

	for (unsigned t = 0; t < 16; t++) {
		uint32_t before;
		unsigned width;

		h->test = t;
		if (!h->name[0])
			break;
		found++;
		width = h->width;
		if (width != 1 && width != 2 && width != 4) {
			CHECK_EQ("memory-width", width, 4);
			continue;
		}
		before = h->count;
		for (unsigned i = 0; i < 5; i++) {
			volatile uint8_t *p = (volatile uint8_t *)h + h->offset;
			if (width == 1)
				*p = h->data;
			else if (width == 2)
				*(volatile uint16_t *)p = h->data;
			else
				*(volatile uint32_t *)p = h->data;
		}
		/* "no-eventfd" counts every write; those with an eventfd may not (the host takes them) */
		if (!memcmp((const void *)h->name, "no-eventfd", 10))
			CHECK_EQ("memory-count", h->count - before, 5);
	}
	CHECK("memory-tests", found >= 1);
}

static void io(uint16_t base)
{
	unsigned found = 0;

	for (unsigned t = 0; t < 16; t++) {
		uint32_t before, offset, data;
		unsigned width;

		outb(base, t);
		if (!inb(base + 16))
			break;
		found++;
		width = inb(base + 1);
		offset = inl(base + 4);
		data = inl(base + 8);
		before = inl(base + 12);
		for (unsigned i = 0; i < 5; i++) {
			if (width == 1)
				outb(base + offset, data);
			else if (width == 2)
				outw(base + offset, data);
			else
				outl(base + offset, data);
		}
		if (inb(base + 16) == 'n' && inb(base + 17) == 'o')
			CHECK_EQ("io-count", inl(base + 12) - before, 5);
	}
	CHECK("io-tests", found >= 1);
}

void test_main(void)
{
	int bdf = pci_find(0x1b36, 0x0005);

	CHECK("found", bdf >= 0);
	if (bdf < 0)
		return;
	pci_write(bdf, 4, (pci_read(bdf, 4) & 0xffff) | 3);
	CHECK_EQ("bar0-memory", pci_read(bdf, 0x10) & 1, 0);
	CHECK_EQ("bar1-io", pci_read(bdf, 0x14) & 1, 1);
	memory(map_mmio(pci_read(bdf, 0x10) & ~15u, 4096));
	io(pci_read(bdf, 0x14) & ~3u);
}
