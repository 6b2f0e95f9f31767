/* SPDX-License-Identifier: MIT */
/*
 * PCI: configuration through 0xcf8/0xcfc and ECAM agree; BARs are assigned, size and move; capabilities are sane. fw_cfg and
 * ACPI tables are found.
 * run: disk=65536 devices=pci-testdev
 */
#include "lib.h"

static volatile uint8_t *ecam;

static uint32_t ecam_read(unsigned bdf, unsigned reg)
{
	return *(volatile uint32_t *)(ecam + bdf * 4096 + reg);
}

static void acpi(void)
{
	uint8_t *t;

	CHECK("fadt", acpi_table("FACP") != NULL);
	t = acpi_table("APIC");
	CHECK("madt", t != NULL);
	if (t) {
		unsigned cpus = 0, ioapics = 0;

		CHECK_EQ("madt-lapic", *(uint32_t *)(t + 36), 0xfee00000);
		for (unsigned o = 44; o < *(uint32_t *)(t + 4) && t[o + 1]; o += t[o + 1]) {
			cpus += (t[o] == 0 || t[o] == 9) && (t[o + (t[o] == 9 ? 8 : 4)] & 1);
			ioapics += t[o] == 1;
		}
		CHECK_EQ("madt-cpus", cpus, cpu_count());
		CHECK("madt-ioapic", ioapics >= 1);
	}
	t = acpi_table("MCFG");
	CHECK("mcfg", t != NULL);
	if (t) {
		CHECK("mcfg-bus-0", t[44 + 10] == 0);
		ecam = map_mmio(*(uint64_t *)(t + 44), 1 << 20);
	}
}

static void fw_cfg(void)
{
	uint64_t ram = 0;
	uint32_t n;
	char sig[8];
	struct {
		uint32_t size;
		uint16_t select, reserved;
		char name[56];
	} f;

	CHECK("fw-cfg", fw_cfg_present());
	fw_cfg_read(3, &ram, 8);
	CHECK_EQ("fw-cfg-ram", ram, 64 << 20);
	CHECK_EQ("fw-cfg-cpus", cpu_count(), 1);
	fw_cfg_read(0, sig, 8);
	CHECK_EQ("fw-cfg-beyond-end", sig[4] | sig[5] | sig[6] | sig[7], 0);
	fw_cfg_read(0x19, &n, 4);
	n = __builtin_bswap32(n);
	CHECK("fw-cfg-directory", n < 1000);
	outw(0x510, 0x19);
	for (unsigned i = 0; i < 4; i++)
		inb(0x511);
	for (unsigned i = 0; i < n && i < 100; i++) {
		for (unsigned b = 0; b < 64; b++)
			((uint8_t *)&f)[b] = inb(0x511);
		if (f.name[55] || !f.name[0]) {
			CHECK_EQ("fw-cfg-file-name", i, ~0u);
			break;
		}
	}
}

void test_main(void)
{
	unsigned devices = 0, differ = 0, unassigned = 0;
	int dev;

	acpi();
	fw_cfg();
	outl(0xcf8, 0x80000000);
	CHECK_EQ("cf8-reads-back", inl(0xcf8), 0x80000000);
	CHECK_EQ("no-device", pci_read(0xf8 - 1, 0) == 0 || pci_read(0x1f7, 0) == 0xffffffff, 1);
	outl(0xcf8, 0);
	CHECK_EQ("disabled-reads-ones", inl(0xcfc), 0xffffffff);
	for (unsigned bdf = 0; bdf < 256; bdf++) {
		uint32_t id = pci_read(bdf, 0);

		if (id == 0xffffffff)
			continue;
		devices++;
		for (unsigned r = 0; ecam && r < 64; r += 4)
			differ += r != 4 && ecam_read(bdf, r) != pci_read(bdf, r);
		/* BARs that exist have addresses: multiboot's promise here */
		if ((pci_read(bdf, 0xc) >> 16 & 0x7f) == 0)
			for (unsigned b = 0; b < 6; b++) {
				uint32_t old = pci_read(bdf, 0x10 + 4 * b), mask;
				bool wide = !(old & 1) && (old & 6) == 4;
				uint64_t address = old & (old & 1 ? ~3u : ~15u);

				if (wide)
					address |= (uint64_t)pci_read(bdf, 0x14 + 4 * b) << 32;
				pci_write(bdf, 0x10 + 4 * b, 0xffffffff);
				mask = pci_read(bdf, 0x10 + 4 * b);
				pci_write(bdf, 0x10 + 4 * b, old);
				if (mask && !address)
					unassigned++;
				if (pci_read(bdf, 0x10 + 4 * b) != old)
					unassigned++;
				b += wide;
			}
	}
	CHECK("devices", devices >= 2);
	CHECK_EQ("ecam-agrees", differ, 0);
	CHECK_EQ("bars-assigned", unassigned, 0);
	/* capabilities of the virtio disk */
	dev = pci_find(0x1af4, 0x1042);
	CHECK("virtio-blk", dev >= 0);
	if (dev >= 0) {
		unsigned types = 0, msix = 0, n = 0;

		CHECK("virtio-revision", (pci_read(dev, 8) & 0xff) >= 1);
		CHECK("capabilities-bit", pci_read(dev, 4) >> 20 & 1);
		for (unsigned c = pci_read(dev, 0x34) & 0xfc; c && n < 48; c = pci_read(dev, c) >> 8 & 0xfc, n++) {
			uint32_t h = pci_read(dev, c);
			if ((h & 0xff) == 9)
				types |= 1u << (h >> 24);
			if ((h & 0xff) == 0x11)
				msix = 1;
		}
		CHECK_EQ("virtio-capabilities", types & 0x1e, 0x1e);
		CHECK_EQ("msix", msix, 1);
	}
	/* a BAR moves where it is told to; memory decoding can be turned off */
	dev = pci_find(0x1b36, 0x0005);
	if (dev >= 0) {
		uint32_t old = pci_read(dev, 0x10) & ~15u, cmd = pci_read(dev, 4);
		volatile uint8_t *p;

		pci_write(dev, 4, (cmd & 0xffff) | 3);
		p = map_mmio(old, 4096);
		CHECK("testdev-answers", p[0] != 0xff || p[4] != 0xff);
		pci_write(dev, 4, (cmd & 0xffff) & ~2u);
		CHECK_EQ("decode-off", *(volatile uint32_t *)(p + 4), 0xffffffff);
		pci_write(dev, 4, (cmd & 0xffff) | 3);
		pci_write(dev, 0x10, 0xe8000000);
		p = map_mmio(0xe8000000, 4096);
		p[0] = 0;
		CHECK("moved-answers", *(volatile uint32_t *)(p + 4) != 0xffffffff);
		CHECK_EQ("old-place-empty", *(volatile uint32_t *)((ulong)old + 4), 0xffffffff);
		pci_write(dev, 0x10, old);
	} else {
		test_check(false, "pci-testdev", "not found");
	}
}
