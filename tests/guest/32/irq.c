/* SPDX-License-Identifier: MIT */
/* External interrupts in the old modes: real mode, virtual-8086 mode, 16-bit and 32-bit protected mode; in tight loops and HLT. */
#include "lib.h"

static struct ctx c;
static uint8_t ustack[256] __attribute__((aligned(16)));

static void arm(void)
{
	outb(0x20, 0x20); /* end the last one */
	pit_set(0, 0, 2000);
}

static unsigned real(const char *code, unsigned size)
{
	memcpy((void *)0x20000, code, size);
	memset(&c, 0, sizeof(c));
	c.cs = 0x2000;
	c.ss = 0x3000;
	c.r[RSP] = 0x1000;
	c.flags = 2;
	arm();
	return real_run(&c);
}

void test_main(void)
{
	static const char loop16[] = "\xfb\xeb\xfe"; /* sti; jmp . */
	unsigned bad = 0;

	pic_init(0xfe, 0xff);
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVT_LINT0, 0x700);
	for (unsigned i = 0; i < 5; i++)
		bad += real(loop16, 3) != 0x20 || c.ip != 1;
	CHECK_EQ("real-mode-loop", bad, 0);
	CHECK_EQ("real-mode-hlt", real("\xfb\xf4\x90\xeb\xfe", 5), 0x20);
	CHECK_EQ("real-mode-hlt-ip", c.ip, 2);
	CHECK_EQ("real-mode-counted", real("\xfb\x40\x75\xfd\xeb\xfb", 6), 0x20);
	CHECK_EQ("real-mode-saved-if", c.flags & FL_IF, FL_IF);
	/* virtual-8086 mode: by the protected-mode IDT, onto the ring-0 stack, whatever IOPL is */
	bad = 0;
	for (unsigned i = 0; i < 10; i++) {
		memcpy((void *)0x20000, "\xeb\xfe", 2);
		memset(&c, 0, sizeof(c));
		c.cs = 0x2000;
		c.ss = 0x3000;
		c.ds = c.es = c.fs = c.gs = 0x4000;
		c.r[RSP] = 0x1000;
		c.flags = 2 | FL_VM | FL_IF | (i & 1 ? FL_IOPL3 : 0);
		arm();
		bad += run(&c) != 0x20 || c.ip != 0 || !(c.flags & FL_VM) || c.ds != 0x4000;
	}
	CHECK_EQ("v86-loop", bad, 0);
	/* 32-bit user and supervisor code, 16-bit protected-mode code */
	bad = 0;
	for (unsigned i = 0; i < 5; i++) {
		c = user_ctx((ulong) "\xeb\xfe", (ulong)ustack + 256);
		c.flags |= FL_IF;
		arm();
		bad += run(&c) != 0x20 || (c.cs & 3) != 3;
		c = user_ctx((ulong) "\xeb\xfe", (ulong)ustack + 256);
		c.cs = SEL_CODE;
		c.ss = SEL_DATA;
		c.flags |= FL_IF;
		arm();
		bad += run(&c) != 0x20 || (c.cs & 3) != 0;
		gdt[SEL_TEST / 8] = descriptor(0x20000, 0xffff, 0x00fb);
		c = user_ctx(0, (ulong)ustack + 256);
		c.cs = SEL_TEST | 3;
		c.flags |= FL_IF;
		arm();
		bad += run(&c) != 0x20 || c.ip != 0;
	}
	CHECK_EQ("protected-mode-loops", bad, 0);
	outb(0x21, 0xff);
}
