/* SPDX-License-Identifier: MIT */
/*
 * The same bytes mean different things in different modes and under different control bits: code that has been run one way must
 * not be run that way again when the mode has changed (translations are kept by mode).
 */
#include "lib.h"

#define VA TEST_VA
static struct ctx c;

static unsigned go(uint16_t cs, uint64_t ip)
{
	c = user_ctx(ip, VA + 0x2000);
	c.cs = cs;
	if (!(cs & 3))
		c.ss = SEL_DATA;
	c.load_segs = 1;
	if (!(cs & 3))
		c.ds = c.es = SEL_DATA;
	c.r[RAX] = 0x1000;
	c.r[RBX] = VA + 0x1800;
	return run(&c);
}

void test_main(void)
{
	unsigned bad[8] = { 0 };

	asm volatile("fninit"); /* after RESET all x87 exceptions are unmasked */

	map_user(VA, 2);
	/* a 16-bit code segment based at VA */
	gdt[SEL_TEST / 8] = descriptor(VA, 0xffff, 0x00fb);
	/* 48 ff c0: inc %rax; or dec %eax, inc %eax. b8 ..: mov with 4 or 2 bytes of immediate */
	memcpy((void *)VA, "\x48\xff\xc0\xcd\x80", 5);
	memcpy((void *)(VA + 0x100), "\xb8\x34\x12\xcd\x80\xcd\x80", 7);
	for (unsigned i = 0; i < 60; i++) {
		bad[0] += go(SEL_UCODE | 3, VA) != 0x80 || c.r[RAX] != 0x1001;
		bad[1] += go(SEL_UCODE32 | 3, VA) != 0x80 || (uint32_t)c.r[RAX] != 0x1000;
		bad[2] += go(SEL_TEST | 3, 0) != 0x80 || (uint16_t)c.r[RAX] != 0x1000;
		bad[3] += go(SEL_UCODE32 | 3, VA + 0x100) != 0x80 || (uint32_t)c.r[RAX] != 0x80cd1234;
		bad[4] += go(SEL_TEST | 3, 0x100) != 0x80 || (uint16_t)c.r[RAX] != 0x1234 || c.ip != 0x105;
	}
	CHECK_EQ("as-64-bit-code", bad[0], 0);
	CHECK_EQ("as-32-bit-code", bad[1], 0);
	CHECK_EQ("as-16-bit-code", bad[2], 0);
	CHECK_EQ("immediate-32", bad[3], 0);
	CHECK_EQ("immediate-16", bad[4], 0);
	/* the same code at CPL 0 and 3 */
	memset(bad, 0, sizeof(bad));
	memcpy((void *)VA, "\xfa\x90\xcd\x80", 4); /* cli */
	memcpy((void *)(VA + 0x40), "\x0f\x20\xc0\xcd\x80", 5); /* mov %cr0, %rax */
	for (unsigned i = 0; i < 60; i++) {
		bad[0] += go(SEL_CODE, VA) != 0x80;
		bad[1] += go(SEL_UCODE | 3, VA) != GP;
		bad[2] += go(SEL_CODE, VA + 0x40) != 0x80;
		bad[3] += go(SEL_UCODE | 3, VA + 0x40) != GP;
	}
	CHECK_EQ("cli-at-cpl-0", bad[0], 0);
	CHECK_EQ("cli-at-cpl-3", bad[1], 0);
	CHECK_EQ("mov-cr-at-cpl-0", bad[2], 0);
	CHECK_EQ("mov-cr-at-cpl-3", bad[3], 0);
	/* control bits that enable instructions */
	memset(bad, 0, sizeof(bad));
	memcpy((void *)VA, "\x0f\x57\xc0\xcd\x80", 5);		 /* xorps */
	memcpy((void *)(VA + 0x40), "\xd9\xe8\xdd\xd8\xcd\x80", 6); /* fld1; fstp */
	memcpy((void *)(VA + 0x80), "\x0f\x31\xcd\x80", 4);	 /* rdtsc */
	memcpy((void *)(VA + 0xc0), "\x0f\x01\xe0\xcd\x80", 5);	 /* smsw %eax */
	memcpy((void *)(VA + 0x100), "\xf3\x48\x0f\xae\xc0\xcd\x80", 7); /* rdfsbase %rax */
	for (unsigned i = 0; i < 30; i++) {
		write_cr4(read_cr4() | CR4_OSFXSR);
		bad[0] += go(SEL_UCODE | 3, VA) != 0x80;
		write_cr0(read_cr0() | CR0_TS);
		bad[0] += go(SEL_UCODE | 3, VA) != NM;
		bad[1] += go(SEL_UCODE | 3, VA + 0x40) != NM;
		asm volatile("clts");
		bad[1] += go(SEL_UCODE | 3, VA + 0x40) != 0x80;
		write_cr4(read_cr4() & ~CR4_OSFXSR);
		bad[0] += go(SEL_UCODE | 3, VA) != UD;
		bad[2] += go(SEL_UCODE | 3, VA + 0x80) != 0x80;
		write_cr4(read_cr4() | CR4_TSD);
		bad[2] += go(SEL_UCODE | 3, VA + 0x80) != GP;
		write_cr4(read_cr4() & ~CR4_TSD);
		if (HAS_UMIP) {
			bad[3] += go(SEL_UCODE | 3, VA + 0xc0) != 0x80;
			write_cr4(read_cr4() | CR4_UMIP);
			bad[3] += go(SEL_UCODE | 3, VA + 0xc0) != GP;
			write_cr4(read_cr4() & ~CR4_UMIP);
		}
		if (HAS_FSGSBASE) {
			bad[4] += go(SEL_UCODE | 3, VA + 0x100) != UD;
			write_cr4(read_cr4() | CR4_FSGSBASE);
			bad[4] += go(SEL_UCODE | 3, VA + 0x100) != 0x80;
			write_cr4(read_cr4() & ~CR4_FSGSBASE);
		}
	}
	CHECK_EQ("osfxsr-and-ts", bad[0], 0);
	CHECK_EQ("ts-x87", bad[1], 0);
	CHECK_EQ("tsd", bad[2], 0);
	CHECK_EQ("umip", bad[3], 0);
	CHECK_EQ("fsgsbase", bad[4], 0);
	/* breakpoints come and go under code that has been run; single-step likewise */
	memset(bad, 0, sizeof(bad));
	memcpy((void *)VA, "\x90\x90\x88\x03\x90\xcd\x80", 7); /* nop; nop; mov %al, (%rbx); nop */
	for (unsigned i = 0; i < 30; i++) {
		bad[0] += go(SEL_UCODE | 3, VA) != 0x80;
		write_dr0(VA + 1);
		write_dr7(0x401);
		bad[0] += go(SEL_UCODE | 3, VA) != DB || c.ip != VA + 1;
		write_dr0(VA + 0x1800);
		write_dr7(0x10401);
		bad[1] += go(SEL_UCODE | 3, VA) != DB || c.ip != VA + 4;
		write_dr7(0x400);
		c = user_ctx(VA, VA + 0x2000);
		c.flags |= FL_TF;
		bad[2] += run(&c) != DB || c.ip != VA + 1;
	}
	CHECK_EQ("execution-breakpoint", bad[0], 0);
	CHECK_EQ("data-breakpoint", bad[1], 0);
	CHECK_EQ("single-step", bad[2], 0);
	/* data segments with and without base under the same 32-bit code */
	memset(bad, 0, sizeof(bad));
	memcpy((void *)VA, "\x8b\x03\xcd\x80", 4); /* mov (%ebx), %eax */
	*(uint32_t *)(VA + 0x1800) = 0x11;
	*(uint32_t *)(VA + 0x1900) = 0x22;
	gdt[SEL_TEST / 8] = descriptor(0x100, 0xfffff, 0xc0f3);
	for (unsigned i = 0; i < 60; i++) {
		c = user_ctx(VA, VA + 0x2000);
		c.cs = SEL_UCODE32 | 3;
		c.load_segs = 1;
		c.r[RBX] = VA + 0x1800;
		if (i & 1)
			c.ds = SEL_TEST | 3;
		bad[0] += run(&c) != 0x80 || (uint32_t)c.r[RAX] != (i & 1 ? 0x22 : 0x11);
	}
	CHECK_EQ("segment-base", bad[0], 0);
}
