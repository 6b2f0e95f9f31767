/* SPDX-License-Identifier: MIT */
/*
 * What a multiboot 1 loader hands over (Multiboot specification 0.6.96, 3.2-3.3): command line, module, memory map.
 * run: append=some-word memory=96M module=module-contents
 */
#include "lib.h"

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
} __attribute__((packed));

void test_main(void)
{
	extern uint32_t boot_magic;
	extern uint8_t boot_info_copy[];
	struct info *i = (struct info *)boot_info_copy;
	uint64_t ram = 0, top = 0;

	CHECK_EQ("magic", boot_magic, 0x2badb002);
	CHECK("flag-memory", i->flags & 1);
	CHECK("flag-cmdline", i->flags & 4);
	CHECK("cmdline", cmdline_has("some-word"));
	CHECK("mem-lower", i->mem_lower >= 600 && i->mem_lower <= 640);
	CHECK("mem-upper", i->mem_upper > 90 * 1024 && i->mem_upper <= 95 * 1024);
	CHECK("flag-modules", i->flags & 8);
	CHECK_EQ("modules", i->mods_count, 1);
	if (i->mods_count == 1) {
		uint32_t *m = (uint32_t *)(ulong)i->mods_addr;

		CHECK_EQ("module-size", m[1] - m[0], 15);
		CHECK("module-contents", !memcmp((void *)(ulong)m[0], "module-contents", 15));
	}
	CHECK("flag-memory-map", i->flags & 0x40);
	for (uint32_t o = 0; o < i->mmap_length;) {
		uint8_t *e = (uint8_t *)(ulong)i->mmap_addr + o;
		uint64_t base, size;
		uint32_t type;

		memcpy(&base, e + 4, 8);
		memcpy(&size, e + 12, 8);
		memcpy(&type, e + 20, 4);
		if (type == 1) {
			ram += size;
			if (base + size > top)
				top = base + size;
		}
		o += *(uint32_t *)e + 4;
	}
	CHECK("memory-map-size", ram > 94ull << 20 && ram <= 96ull << 20);
	CHECK("memory-map-top", top > 95ull << 20 && top <= 96ull << 20);
	/* machine state at entry is checked by the fact that we are here: protected mode, flat segments; A20 is open */
	*(volatile uint32_t *)0x2000000 = 1;
	*(volatile uint32_t *)0x2100000 = 2;
	CHECK_EQ("a20", *(volatile uint32_t *)0x2000000, 1);
}
