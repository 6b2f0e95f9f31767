/* SPDX-License-Identifier: MIT */
/* External interrupts: 8259 and 8254, STI and MOV SS shadows, HLT wake-up, NMI blocking (SDM vol. 3, 6.8, 6.7.1). */
#include "lib.h"

static volatile unsigned irq0, irq_other, nmis;
static volatile uint64_t irq_ip, irq_flags;
static volatile unsigned nested;

static void irq0_handler(struct frame *f)
{
	irq0++;
	irq_ip = f->ip;
	irq_flags = f->flags;
	pic_eoi(0);
}

static void nmi_handler(struct frame *f)
{
	nmis++;
	if (nmis == 1 && nested) {
		/* a second NMI while the first is handled: held until IRET */
		apic_ipi(apic_read(APIC_ID) >> 24, 0x4400);
		for (unsigned i = 0; i < 1000; i++)
			pause_cpu();
		nested = nmis;
	}
}

static void wait_pending(void)
{
	/* one-shot PIT interrupt, seen in the PIC's IRR */
	pit_set(0, 0, 50);
	for (unsigned i = 0; i < 1000000; i++) {
		outb(0x20, 0x0a);
		if (inb(0x20) & 1)
			return;
	}
	print("FAIL pit-irr: the PIT did not raise IRQ 0\n");
	test_failures++;
}

static void shadows(void)
{
	extern char sh0[], sh1[], sh2[], sh3[], sh4[], sh6[];

	/* STI holds interrupts off for one instruction */
	wait_pending();
	asm volatile("sti\nsh0: nop\nsh1: nop\ncli" ::: "memory");
	CHECK_EQ("sti-shadow", irq_ip, (uint64_t)sh1);
	/* STI; CLI: no window */
	wait_pending();
	irq0 = 0;
	asm volatile("sti; cli; nop; nop" ::: "memory");
	CHECK_EQ("sti-cli", irq0, 0);
	/* STI with IF already 1 has no shadow; MOV SS has one */
	asm volatile("mov %%ss, %%eax; sti\nmov %%eax, %%ss\nsh2: nop\nsh3: nop\ncli" ::: "rax", "memory");
	CHECK("sti-mov-ss", irq_ip == (uint64_t)sh2 || irq_ip == (uint64_t)sh3);
	CHECK_EQ("sti-mov-ss-count", irq0, 1);
	/* POPF enabling IF: no shadow */
	wait_pending();
	asm volatile("pushf; orl $0x200, (%%rsp); popf\nsh4: nop\nnop\ncli" ::: "memory", "cc");
	CHECK_EQ("popf-no-shadow", irq_ip, (uint64_t)sh4);
	CHECK_EQ("saved-if", irq_flags & FL_IF, FL_IF);
	(void)sh0;
	/* STI; HLT: the interrupt wakes HLT, never lost between them */
	wait_pending();
	irq0 = 0;
	asm volatile("sti; hlt\nsh6: cli" ::: "memory");
	CHECK_EQ("sti-hlt", irq0, 1);
	CHECK_EQ("sti-hlt-ip", irq_ip, (uint64_t)sh6);
	irq0 = 0;
	pit_set(0, 0, 20000); /* 17 ms from now: really sleeps */
	asm volatile("sti; hlt; cli" ::: "memory");
	CHECK_EQ("hlt-sleeps-and-wakes", irq0, 1);
	/* IRET enabling IF: no shadow */
	wait_pending();
	irq0 = 0;
	{
		extern char sh5[];
		asm volatile("mov %%rsp, %%rax; push $0x18; push %%rax; pushf; orl $0x200, (%%rsp); push $0x10; push $sh5; iretq\nsh5: nop; cli" ::: "rax",
			     "memory", "cc");
		CHECK_EQ("iret-no-shadow", irq_ip, (uint64_t)sh5);
	}
}

static volatile unsigned order[8], order_count;
static void irq_order(struct frame *f)
{
	unsigned irq = f->vector - 0x20;

	if (order_count < 8)
		order[order_count] = irq;
	order_count++;
	if (irq == 8) {
		outb(0x70, 0x0c);
		inb(0x71);
	}
	pic_eoi(irq);
}

static void pic(void)
{
	/* masked interrupts wait in IRR */
	outb(0x21, 0xff);
	wait_pending();
	irq0 = 0;
	sti();
	for (unsigned i = 0; i < 100; i++)
		pause_cpu();
	CHECK_EQ("masked", irq0, 0);
	outb(0x21, 0xfe);
	for (unsigned i = 0; i < 1000 && !irq0; i++)
		pause_cpu();
	cli();
	CHECK_EQ("unmasked", irq0, 1);
	CHECK_EQ("imr-reads-back", inb(0x21), 0xfe);
	/* no EOI: a lower-priority interrupt and the same one are blocked; ISR shows it */
	outb(0x20, 0x0b);
	CHECK_EQ("isr-clear", inb(0x20), 0);
	/* RTC periodic interrupt on IRQ 8 through the slave */
	outb(0x21, 0xfb);
	outb(0xa1, 0xfe);
	set_handler(0x28, irq_order);
	outb(0x70, 0x0a);
	outb(0x71, 0x26);
	outb(0x70, 0x0c);
	inb(0x71);
	outb(0x70, 0x0b);
	outb(0x71, (inb(0x71) & 0x7) | 0x42); /* PIE, 24 h */
	order_count = 0;
	sti();
	{
		uint64_t end = rdtsc() + tsc_per_ms() * 500;
		while (order_count < 4 && rdtsc() < end)
			asm volatile("sti; pause");
	}
	cli();
	outb(0x70, 0x0b);
	outb(0x71, 0x02);
	if (order_count)
		CHECK("rtc-periodic", order_count >= 4 && order[0] == 8);
	else
		SKIP("rtc-periodic", "no periodic interrupt from the RTC");
	outb(0x70, 0x0c);
	inb(0x71);
	outb(0xa1, 0xff);
	outb(0x21, 0xfe);
	/* automatic EOI and polling are rarities: only special mask and rotate commands must not wedge the chip */
	outb(0x20, 0x60); /* specific EOI of IRQ 0 with nothing in service */
	wait_pending();
	irq0 = 0;
	sti();
	for (unsigned i = 0; i < 1000 && !irq0; i++)
		pause_cpu();
	cli();
	CHECK_EQ("after-specific-eoi", irq0, 1);
}

static void pit(void)
{
	uint64_t t, expect;
	unsigned n;
	uint8_t status;

	/* periodic: 1 kHz for about 50 ms; a busy host may need more than one try */
	for (unsigned tries = 0; tries < 20; tries++) {
		irq0 = 0;
		pit_set(0, 2, 1193);
		t = rdtsc();
		expect = tsc_per_ms() * 50;
		sti();
		while (rdtsc() - t < expect)
			pause_cpu();
		cli();
		n = irq0;
		if (n >= 30 && n <= 70)
			break;
	}
	CHECK("pit-rate", n >= 30 && n <= 70);
	/* latched counts go down */
	{
		unsigned a, b;

		pit_set(2, 0, 0xffff);
		outb(0x61, (inb(0x61) & ~2) | 1);
		outb(0x43, 0x80);
		a = inb(0x42);
		a |= inb(0x42) << 8;
		delay_us(0);
		for (volatile unsigned i = 0; i < 10000; i++)
			;
		outb(0x43, 0x80);
		b = inb(0x42);
		b |= inb(0x42) << 8;
		CHECK("pit-counts-down", b < a);
	}
	/* read-back: status of channel 0: mode 2, binary, both bytes */
	outb(0x43, 0xe2);
	status = inb(0x40);
	CHECK_EQ("pit-read-back-status", status & 0x3f, 0x34);
	pit_set(0, 0, 0);
	outb(0x21, 0xff);
}

static void nmi(void)
{
	set_handler(NMI, nmi_handler);
	nmis = 0;
	apic_ipi(apic_read(APIC_ID) >> 24, 0x4400);
	for (unsigned i = 0; i < 100000 && !nmis; i++)
		pause_cpu();
	CHECK_EQ("nmi-ipi", nmis, 1);
	nmis = 0;
	nested = 1;
	apic_ipi(apic_read(APIC_ID) >> 24, 0x4400);
	for (unsigned i = 0; i < 100000 && nmis < 2; i++)
		pause_cpu();
	CHECK_EQ("nmi-blocked-in-handler", nested, 1);
	CHECK_EQ("nmi-after-iret", nmis, 2);
	set_handler(NMI, NULL);
}

void test_main(void)
{
	tsc_per_ms();
	pic_init(0xfe, 0xff);
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVT_LINT0, 0x700); /* virtual wire */
	set_handler(0x20, irq0_handler);
	shadows();
	pic();
	pit();
	nmi();
}
