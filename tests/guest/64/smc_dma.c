/* SPDX-License-Identifier: MIT */
/*
 * A device writes code: DMA by fw_cfg's DMA interface and by virtio-blk into a page whose code has been run.
 * run: disk=1048576
 */
#include "lib.h"

typedef uint64_t fn0(void);
static uint64_t call(void *p)
{
	barrier();
	return ((fn0 *)p)();
}

static uint32_t bswap32(uint32_t v)
{
	return __builtin_bswap32(v);
}

static void fw_cfg_dma(void)
{
	static volatile struct {
		uint32_t control, length;
		uint64_t address;
	} __attribute__((packed)) d __attribute__((aligned(16)));
	uint8_t *code = alloc_pages(1);
	uint8_t *p = code;
	uint32_t id;

	fw_cfg_read(1, &id, 4);
	if (!fw_cfg_present() || !(id & 2)) {
		SKIP("fw-cfg-dma", "fw_cfg has no DMA interface");
		return;
	}
	/* the file at key 0 is "QEMU": bytes 51 45 4d 55: push %rcx; rex.RB... use as an immediate: mov $imm32, %eax; ret */
	p[0] = 0xb8;
	p[5] = 0xc3;
	CHECK_EQ("before", call(code), 0);
	d.control = bswap32(0 << 16 | 8 | 2); /* select key 0, read */
	d.length = bswap32(4);
	d.address = __builtin_bswap64((uint64_t)(p + 1));
	barrier();
	outl(0x514, bswap32((uint64_t)&d >> 32));
	outl(0x518, bswap32((uint32_t)(uint64_t)&d));
	for (unsigned i = 0; i < 1000000 && (bswap32(d.control) & ~1u); i++)
		pause_cpu();
	CHECK_EQ("fw-cfg-dma-into-code", call(code), 0x554d4551);
}

/* ---- virtio-blk over PCI, modern (virtio 1.2, 4.1, 5.2), polled ---- */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
static volatile uint8_t *common, *notify;
static uint32_t notify_multiplier;
static struct desc *descs;
static volatile uint16_t *avail, *used;

static uint64_t bar_address(int bdf, unsigned bar)
{
	uint32_t lo = pci_read(bdf, 0x10 + 4 * bar);
	uint64_t a = lo & ~15u;

	if ((lo & 6) == 4)
		a |= (uint64_t)pci_read(bdf, 0x14 + 4 * bar) << 32;
	return a;
}

static bool blk_init(int bdf)
{
	unsigned cap;

	pci_write(bdf, 4, pci_read(bdf, 4) | 6);
	for (cap = pci_read(bdf, 0x34) & 0xfc; cap; cap = pci_read(bdf, cap) >> 8 & 0xfc) {
		uint32_t head = pci_read(bdf, cap);
		uint8_t *at;

		if ((head & 0xff) != 9)
			continue;
		at = map_mmio(bar_address(bdf, pci_read(bdf, cap + 4) & 0xff) + pci_read(bdf, cap + 8), 0x1000);
		if (head >> 24 == 1)
			common = at;
		if (head >> 24 == 2) {
			notify = at;
			notify_multiplier = pci_read(bdf, cap + 16);
		}
	}
	if (!common || !notify)
		return false;
	common[20] = 0;
	while (common[20])
		pause_cpu();
	common[20] = 1;
	common[20] = 3;
	*(volatile uint32_t *)(common + 8) = 1; /* driver features 32..63: VERSION_1 */
	*(volatile uint32_t *)(common + 12) = 1;
	*(volatile uint32_t *)(common + 8) = 0;
	*(volatile uint32_t *)(common + 12) = 0;
	common[20] = 0xb;
	if (!(common[20] & 8))
		return false;
	descs = alloc_pages(1);
	avail = alloc_pages(1);
	used = alloc_pages(1);
	*(volatile uint16_t *)(common + 22) = 0;
	*(volatile uint16_t *)(common + 24) = 8;
	*(volatile uint32_t *)(common + 32) = (uint32_t)(uint64_t)descs;
	*(volatile uint32_t *)(common + 36) = 0;
	*(volatile uint32_t *)(common + 40) = (uint32_t)(uint64_t)avail;
	*(volatile uint32_t *)(common + 44) = 0;
	*(volatile uint32_t *)(common + 48) = (uint32_t)(uint64_t)used;
	*(volatile uint32_t *)(common + 52) = 0;
	*(volatile uint16_t *)(common + 28) = 1;
	common[20] = 0xf;
	return true;
}

static unsigned blk_request(uint32_t type, uint64_t sector, void *buf, uint32_t len)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	static volatile uint8_t status;
	uint16_t before = used[1];
	uint64_t end = rdtsc() + tsc_per_ms() * 3000;

	header.type = type;
	header.sector = sector;
	status = 0xff;
	descs[0] = (struct desc){ (uint64_t)&header, 16, 1, 1 };
	descs[1] = (struct desc){ (uint64_t)buf, len, (uint16_t)(1 | (type ? 0 : 2)), 2 };
	descs[2] = (struct desc){ (uint64_t)&status, 1, 2, 0 };
	avail[2 + avail[1] % 8] = 0;
	barrier();
	avail[1]++;
	barrier();
	*(volatile uint16_t *)(notify + *(volatile uint16_t *)(common + 30) * notify_multiplier) = 0;
	while (used[1] == before && rdtsc() < end)
		pause_cpu();
	return status;
}

void test_main(void)
{
	int bdf = pci_find(0x1af4, 0x1042);
	uint8_t *code = alloc_pages(1), *buf = alloc_pages(1);
	unsigned bad = 0;

	tsc_per_ms();
	fw_cfg_dma();
	if (bdf < 0) {
		test_check(false, "virtio-blk", "no virtio-blk device");
		return;
	}
	CHECK("virtio-blk-init", blk_init(bdf));
	for (uint32_t i = 0; i < 20; i++) {
		/* sectors i: mov $0x1000 + i, %eax; ret */
		uint32_t v = 0x1000 + i;

		memset(buf, 0, 512);
		buf[0] = 0xb8;
		memcpy(buf + 1, &v, 4);
		buf[5] = 0xc3;
		bad += blk_request(1, i, buf, 512) != 0;
	}
	CHECK_EQ("virtio-blk-write", bad, 0);
	bad = 0;
	for (uint32_t i = 0; i < 20; i++) {
		bad += blk_request(0, i, code, 512) != 0;
		bad += call(code) != 0x1000 + i;
	}
	CHECK_EQ("virtio-blk-dma-into-code", bad, 0);
}
