/* SPDX-License-Identifier: MIT */
/*
 * pc-testdev (QEMU hw/misc/pc-testdev.c's opening comment): I/O echo ports 0xe0-0xe3, an IRQ line for each port 0x2000-0x2017,
 * memory at 0xff000000 that echoes.
 * run: devices=pc-testdev
 */
#include "lib.h"

static volatile unsigned hits, lower_after;
static void handler(struct frame *f)
{
	if (++hits == lower_after)
		outb(0x2000 + 14, 0);
	apic_write(APIC_EOI, 0);
}

void test_main(void)
{
	volatile uint8_t *m = map_mmio(0xff000000, 0x10000);

	outl(0xe0, 0x12345678);
	CHECK_EQ("echo-long", inl(0xe0), 0x12345678);
	outb(0xe0, 0x9a);
	CHECK_EQ("echo-byte", inb(0xe0), 0x9a);
	CHECK_EQ("echo-byte-kept-rest", inl(0xe0), 0x1234569a);
	outw(0xe0, 0xbbcc);
	CHECK_EQ("echo-word", inw(0xe0), 0xbbcc);
	*(volatile uint32_t *)m = 0xdeadbeef;
	CHECK_EQ("iomem", *(volatile uint32_t *)m, 0xdeadbeef);
	*(volatile uint16_t *)(m + 2) = 0x1234;
	CHECK_EQ("iomem-word", *(volatile uint32_t *)m, 0x1234beef);
	*(volatile uint8_t *)(m + 1) = 0x77;
	CHECK_EQ("iomem-byte", *(volatile uint32_t *)m, 0x123477ef);
	/* every kind of instruction against MMIO */
	asm volatile("lock addl $1, %0" : "+m"(*(volatile uint32_t *)(m + 16)));
	CHECK_EQ("iomem-add", *(volatile uint32_t *)(m + 16), 1);
	asm volatile("lock; xaddl %0, %1" : : "r"(5), "m"(*(volatile uint32_t *)(m + 16)) : "memory");
	CHECK_EQ("iomem-xadd", *(volatile uint32_t *)(m + 16), 6);
	{
		uint32_t v = 0x55;
		asm volatile("xchg %0, %1" : "+r"(v), "+m"(*(volatile uint32_t *)(m + 16)));
		CHECK_EQ("iomem-xchg", v, 6);
		asm volatile("push %1; pop %0" : "=m"(*(volatile uint64_t *)(m + 32)) : "m"(*(volatile uint64_t *)(m + 16)));
		CHECK_EQ("iomem-push-pop", *(volatile uint32_t *)(m + 32), 0x55);
	}
	*(volatile uint64_t *)(m + 64) = 0x1122334455667788;
	CHECK_EQ("iomem-quad", *(volatile uint64_t *)(m + 64), 0x1122334455667788);
	{
		static uint8_t buf[256];
		for (unsigned i = 0; i < 256; i++)
			buf[i] = i * 7;
		memcpy((void *)(m + 256), buf, 256);
		CHECK("iomem-rep-movs", !memcmp((void *)(m + 256), buf, 256));
	}
	write_cr4(read_cr4() | CR4_OSFXSR);
	asm volatile("movups %0, %%xmm0; movups %%xmm0, %1" : : "m"(*(m + 256)), "m"(*(m + 1024)) : "memory");
	CHECK("iomem-vector", !memcmp((void *)(m + 1024), (void *)(m + 256), 16));
	/* I/O port strings */
	{
		static uint8_t in[4], out[4] = { 1, 2, 3, 4 };
		void *s = out, *d = in;
		ulong n = 4;
		asm volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(0xe1) : "memory");
		CHECK_EQ("rep-outsb", inb(0xe1), 4);
		n = 4;
		asm volatile("rep insb" : "+D"(d), "+c"(n) : "d"(0xe1) : "memory");
		CHECK_EQ("rep-insb", in[3], 4);
	}
	/* IRQ lines: a write of 1 and 0 to 0x2000 + n raises and lowers line n */
	apic_enable();
	set_handler(0x70, handler);
	ioapic_write(0x11 + 2 * 14, 0);
	ioapic_write(0x10 + 2 * 14, 0x70); /* edge, high */
	outb(0x2000 + 14, 1);
	sti();
	CHECK_EQ("irq-edge", hits, 1);
	outb(0x2000 + 14, 1);
	sti();
	CHECK_EQ("irq-still-high", hits, 1);
	outb(0x2000 + 14, 0);
	outb(0x2000 + 14, 1);
	sti();
	CHECK_EQ("irq-edge-again", hits, 2);
	cli();
	outb(0x2000 + 14, 0);
	/* level: again and again until lowered */
	ioapic_write(0x10 + 2 * 14, 0x8070);
	hits = 0;
	lower_after = 3;
	outb(0x2000 + 14, 1);
	for (unsigned i = 0; i < 10; i++)
		asm volatile("sti; nop; nop; cli");
	CHECK_EQ("irq-level-repeats", hits, 3);
	hits = 0;
	asm volatile("sti; nop; nop; cli");
	CHECK_EQ("irq-level-lowered", hits, 0);
	/* remote IRR: with EOI held back, the line is not sent twice */
	ioapic_write(0x10 + 2 * 14, 0x10000);
}
