/* SPDX-License-Identifier: MIT */
/* Drivers, as small as can be, for the chips the tests use: 8259, 8254, APICs, PCI, fw_cfg, ACPI tables. */
#include "lib.h"

void pic_init(uint8_t mask_master, uint8_t mask_slave)
{
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, 0x20);
	outb(0xa1, 0x28);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, mask_master);
	outb(0xa1, mask_slave);
}

void pic_eoi(unsigned irq)
{
	if (irq >= 8)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

void pit_set(unsigned channel, unsigned mode, unsigned count)
{
	outb(0x43, channel << 6 | 0x30 | mode << 1);
	outb(0x40 + channel, count);
	outb(0x40 + channel, count >> 8);
}

void delay_us(unsigned us)
{
	/* Channel 2 in mode 0, gate on, speaker off: OUT (port 0x61 bit 5) rises at the end of the count. */
	while (us) {
		unsigned step = us > 50000 ? 50000 : us;

		outb(0x61, (inb(0x61) & ~2) | 1);
		pit_set(2, 0, step * 1193u / 1000 + 1);
		while (!(inb(0x61) & 0x20))
			pause_cpu();
		us -= step;
	}
}

uint64_t tsc_per_ms(void)
{
	static uint64_t rate;

	if (!rate) {
		uint64_t t = rdtsc();

		delay_us(20000);
		t = rdtsc() - t;
#ifdef __x86_64__
		rate = t / 20;
#else
		rate = (uint32_t)t / 20; /* 20 ms fit in 32 bits up to 200 GHz */
#endif
	}
	return rate;
}

bool apic_bit(unsigned bank, unsigned vector)
{
	return apic_read(bank + vector / 32 * 16) >> (vector % 32) & 1;
}

void apic_enable(void)
{
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_TPR, 0);
}

void apic_ipi(uint32_t dest, uint32_t low)
{
	while (apic_read(APIC_ICR) & 0x1000)
		pause_cpu();
	apic_write(APIC_ICR2, dest << 24);
	apic_write(APIC_ICR, low);
	while (apic_read(APIC_ICR) & 0x1000)
		pause_cpu();
}

uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)0xfec00000ul = reg;
	return *(volatile uint32_t *)0xfec00010ul;
}

void ioapic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)0xfec00000ul = reg;
	*(volatile uint32_t *)0xfec00010ul = v;
}

uint32_t pci_read(unsigned bdf, unsigned reg)
{
	outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

void pci_write(unsigned bdf, unsigned reg, uint32_t v)
{
	outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
	outl(0xcfc, v);
}

int pci_find(uint16_t vendor, uint16_t device)
{
	for (unsigned bdf = 0; bdf < 256; bdf++)
		if (pci_read(bdf, 0) == (vendor | (uint32_t)device << 16))
			return bdf;
	return -1;
}

bool fw_cfg_present(void)
{
	char sig[4];

	fw_cfg_read(0, sig, 4);
	return !memcmp(sig, "QEMU", 4);
}

void fw_cfg_read(uint16_t key, void *buf, unsigned len)
{
	uint8_t *p = buf;

	outw(0x510, key);
	while (len--)
		*p++ = inb(0x511);
}

unsigned cpu_count(void)
{
	uint16_t n = 0;

	if (!fw_cfg_present())
		return 1;
	fw_cfg_read(5, &n, 2);
	return n;
}

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
} __attribute__((packed));

static uint8_t sum(const uint8_t *p, unsigned n)
{
	uint8_t s = 0;

	while (n--)
		s += *p++;
	return s;
}

static struct rsdp *find_rsdp(void)
{
	for (uintptr_t a = 0xe0000; a < 0x100000; a += 16) {
		struct rsdp *r = (struct rsdp *)a;

		if (!memcmp(r->signature, "RSD PTR ", 8) && !sum((uint8_t *)a, 20))
			return r;
	}
	return NULL;
}

void *acpi_table(const char *signature)
{
	struct rsdp *r = find_rsdp();
	uint8_t *sdt;
	unsigned entry_size = 4, len;

	if (!r)
		return NULL;
	sdt = (uint8_t *)(uintptr_t)r->rsdt;
	if (r->revision >= 2 && r->xsdt) {
		sdt = (uint8_t *)(uintptr_t)r->xsdt;
		entry_size = 8;
	}
	len = *(uint32_t *)(sdt + 4);
	for (unsigned o = 36; o + entry_size <= len; o += entry_size) {
		uint8_t *t = (uint8_t *)(uintptr_t)(*(uint32_t *)(sdt + o));

		if (!memcmp(t, signature, 4))
			return sum(t, *(uint32_t *)(t + 4)) ? NULL : t;
	}
	return NULL;
}
