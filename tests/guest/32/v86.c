/* SPDX-License-Identifier: MIT */
/* Virtual-8086 mode (SDM vol. 3, 20.2-20.4): IOPL-sensitive instructions, VME redirection, VIF and VIP, I/O permission. */
#include "lib.h"

static struct ctx c;

static unsigned v86(const char *code, unsigned size, unsigned flags)
{
	memcpy((void *)0x20000, code, size);
	memset(&c, 0, sizeof(c));
	c.cs = 0x2000;
	c.ip = 0;
	c.ss = 0x3000;
	c.r[RSP] = 0x1000;
	c.ds = 0x4000;
	c.es = 0x5000;
	c.fs = 0x6000;
	c.gs = 0x7000;
	c.flags = 2 | FL_VM | flags;
	return run(&c);
}
#define V86(name, flags) v86(name, CODE_SIZE(name), flags)

CODE(v_basic, 16, "mov %ds, %ax; mov %fs, %bx; movw $0x1234, %es:4; push $0x77; pop %cx; mov %sp, %dx; int3");
CODE(v_int, 16, "int $0x21; int3");
CODE(v_cli, 16, "cli; int3");
CODE(v_sti, 16, "sti; int3");
CODE(v_sti_cli, 16, "sti; cli; int3");
CODE(v_pushf, 16, "pushf; pop %ax; int3");
CODE(v_pushfl, 16, "pushfl; pop %eax; int3");
CODE(v_popf, 16, "push $0x0246; popf; int3");
CODE(v_popf_tf, 16, "push $0x0146; popf; nop; int3");
CODE(v_iret, 16, "push $0x0202; push %cs; push $target - v_iret; iretw; hlt; target: int3");
CODE(v_in, 16, "in $0x80, %al; int3");
CODE(v_in_dx, 16, "mov $0x1f0, %dx; inw (%dx), %ax; int3");
CODE(v_hlt, 16, "hlt");
CODE(v_cr, 16, "mov %cr0, %eax");
CODE(v_lgdt, 16, "lgdt 0");
CODE(v_arpl, 16, ".byte 0x63, 0xc0");
CODE(v_limit, 16, "mov $0xffff, %bx; mov (%bx), %ax");
CODE(v_limit_ss, 16, "mov $0xffff, %bp; mov (%bp), %ax");
CODE(v_far, 16, "lcall $0x2200, $0; mov %ax, %cx; int3");
CODE(v_seg, 16, "mov $0x1111, %ax; mov %ax, %gs; mov %gs:0x10, %bx; int3");
CODE(v_smsw, 16, "smsw %ax; int3");
CODE(v_sysenter, 16, "sysenter");

static void basics(void)
{
	*(uint16_t *)0x50004 = 0;
	CHECK_EQ("run", V86(v_basic, FL_IOPL3), BP);
	CHECK_EQ("vm-flag-in-frame", c.flags & FL_VM, FL_VM);
	CHECK_EQ("ds-read", c.r[RAX] & 0xffff, 0x4000);
	CHECK_EQ("fs-read", c.r[RBX] & 0xffff, 0x6000);
	CHECK_EQ("es-write", *(uint16_t *)0x50004, 0x1234);
	CHECK_EQ("push-pop", c.r[RCX] & 0xffff, 0x77);
	CHECK_EQ("frame-cs", c.cs, 0x2000);
	CHECK_EQ("frame-ss", c.ss, 0x3000);
	CHECK_EQ("frame-es", c.es, 0x5000);
	CHECK_EQ("frame-ds", c.ds, 0x4000);
	CHECK_EQ("frame-fs", c.fs, 0x6000);
	CHECK_EQ("frame-gs", c.gs, 0x7000);
	CHECK_EQ("hlt", V86(v_hlt, FL_IOPL3), GP);
	CHECK_EQ("hlt-error", c.error, 0);
	CHECK_EQ("mov-cr", V86(v_cr, FL_IOPL3), GP);
	CHECK_EQ("lgdt", V86(v_lgdt, FL_IOPL3), GP);
	CHECK_EQ("arpl", V86(v_arpl, FL_IOPL3), UD);
	CHECK_EQ("limit", V86(v_limit, FL_IOPL3), GP);
	CHECK_EQ("limit-ss", V86(v_limit_ss, FL_IOPL3), SS);
	CHECK_EQ("smsw", V86(v_smsw, 0), BP);
	memcpy((void *)0x22000, "\xb8\x99\x88\xcb", 4); /* mov $0x8899, %ax; lret */
	CHECK_EQ("far-call", V86(v_far, 0), BP);
	CHECK_EQ("far-call-ax", c.r[RCX] & 0xffff, 0x8899);
	*(uint16_t *)0x11120 = 0xabcd;
	CHECK_EQ("segment-load", V86(v_seg, 0), BP);
	CHECK_EQ("segment-load-value", c.r[RBX] & 0xffff, 0xabcd);
	CHECK_EQ("segment-load-gs", c.gs, 0x1111);
}

static void iopl(void)
{
	/* IOPL 3: executed directly */
	CHECK_EQ("iopl3-cli", V86(v_cli, FL_IOPL3 | FL_IF), BP);
	CHECK_EQ("iopl3-cli-if", c.flags & FL_IF, 0);
	CHECK_EQ("iopl3-sti", V86(v_sti, FL_IOPL3), BP);
	CHECK_EQ("iopl3-sti-if", c.flags & FL_IF, FL_IF);
	CHECK_EQ("iopl3-pushf", V86(v_pushf, FL_IOPL3), BP);
	CHECK_EQ("iopl3-pushf-value", c.r[RAX] & 0x7000, 0x3000);
	CHECK_EQ("iopl3-popf", V86(v_popf, FL_IOPL3), BP);
	CHECK_EQ("iopl3-popf-if", c.flags & FL_IF, FL_IF);
	CHECK_EQ("iopl3-popf-iopl-kept", c.flags & FL_IOPL3, FL_IOPL3);
	CHECK_EQ("iopl3-iret", V86(v_iret, FL_IOPL3), BP);
	CHECK_EQ("iopl3-iret-if", c.flags & FL_IF, FL_IF);
	/* INT n at IOPL 3 without VME: through the protected-mode IDT; gate DPL 0 gives #GP, DPL 3 is taken */
	CHECK_EQ("iopl3-int-dpl-0", V86(v_int, FL_IOPL3), GP);
	CHECK_EQ("iopl3-int-dpl-0-error", c.error, 0x21 * 8 + 2);
	set_gate(0x21, trap_stubs + 16 * 0x21, 3, 0);
	CHECK_EQ("iopl3-int", V86(v_int, FL_IOPL3), 0x21);
	CHECK_EQ("iopl3-int-ip", c.ip, 2);
	/* IOPL < 3 without VME: #GP */
	CHECK_EQ("iopl0-cli", V86(v_cli, 0), GP);
	CHECK_EQ("iopl0-cli-ip", c.ip, 0);
	CHECK_EQ("iopl0-sti", V86(v_sti, 0), GP);
	CHECK_EQ("iopl0-pushf", V86(v_pushf, 0), GP);
	CHECK_EQ("iopl0-pushfl", V86(v_pushfl, 0), GP);
	CHECK_EQ("iopl0-popf", V86(v_popf, 0), GP);
	CHECK_EQ("iopl0-iret", V86(v_iret, 0), GP);
	CHECK_EQ("iopl0-int", V86(v_int, 0), GP);
	CHECK_EQ("iopl0-int-error", c.error, 0);
	CHECK_EQ("iopl0-int3", V86(v_basic, 0), BP); /* INT3 is not IOPL-sensitive */
	/* I/O: by the bitmap alone, whatever IOPL says */
	CHECK_EQ("in-iopl3", V86(v_in, FL_IOPL3), GP);
	tss0.io[0x80 / 8] = 0xfe;
	CHECK_EQ("in-bitmap", V86(v_in, 0), BP);
	tss0.io[0x80 / 8] = 0xff;
	tss0.io[0x1f0 / 8] = 0xfe;
	CHECK_EQ("in-word-needs-both-bits", V86(v_in_dx, 0), GP);
	tss0.io[0x1f0 / 8] = 0xfc;
	CHECK_EQ("in-word", V86(v_in_dx, 0), BP);
	tss0.io[0x1f0 / 8] = 0xff;
	/* single step */
	CHECK_EQ("single-step", V86(v_popf_tf, FL_IOPL3), DB);
	CHECK_EQ("single-step-ip", c.ip, 5);
}

/* With VME, the software interrupt redirection bitmap is the 32 bytes below the I/O map. */

static void vme(void)
{
	uint8_t *redirect;

	if (!HAS_VME) {
		SKIP("vme", "not in CPUID");
		return;
	}
	/* a TSS whose I/O map starts 32 bytes later, to make room for the redirection bitmap */
	tss0.iomap = offsetof(struct tss, io) + 32;
	redirect = tss0.io;
	memset(redirect, 0, 32);
	write_cr4(read_cr4() | CR4_VME);
	/* bit clear: the interrupt goes through the IVT of the 8086 program */
	*(volatile uint32_t *)(0x21 * 4 + (volatile uint8_t *)({ ulong z = 0; asm("" : "+r"(z)); z; })) = 0x23000000;
	memcpy((void *)0x23000, "\x89\xe3\x36\x8b\x07\x36\x8b\x4f\x02\x36\x8b\x57\x04\x9c\x5e\xcc", 16);
	/* mov %sp,%bx; mov %ss:(%bx),%ax; mov %ss:2(%bx),%cx; mov %ss:4(%bx),%dx; pushf; pop %si; int3 */
	CHECK_EQ("redirected-iopl3", V86(v_int, FL_IOPL3 | FL_IF), BP);
	CHECK_EQ("redirected-cs", c.cs, 0x2300);
	CHECK_EQ("redirected-return-ip", c.r[RAX] & 0xffff, 2);
	CHECK_EQ("redirected-return-cs", c.r[RCX] & 0xffff, 0x2000);
	CHECK_EQ("redirected-if-cleared", c.flags & FL_IF, 0);
	CHECK_EQ("redirected-pushed-if", c.r[RDX] & FL_IF, FL_IF);
	/* IOPL 0: VIF plays IF; the pushed flags show IOPL 3 and VIF as IF; IF is untouched */
	CHECK_EQ("redirected-iopl0", V86(v_int, FL_VIF | FL_IF), BP);
	CHECK_EQ("redirected-iopl0-pushed", c.r[RDX] & (FL_IF | FL_IOPL3), FL_IF | FL_IOPL3);
	CHECK_EQ("redirected-iopl0-vif-cleared", c.flags & FL_VIF, 0);
	CHECK_EQ("redirected-iopl0-if-kept", c.flags & FL_IF, FL_IF);
	/* bit set, IOPL 0: #GP(0); IOPL 3: the IDT */
	redirect[0x21 / 8] |= 1 << (0x21 % 8);
	CHECK_EQ("not-redirected-iopl0", V86(v_int, FL_VIF), GP);
	CHECK_EQ("not-redirected-iopl0-error", c.error, 0);
	set_gate(0x21, trap_stubs + 16 * 0x21, 3, 0);
	CHECK_EQ("not-redirected-iopl3", V86(v_int, FL_IOPL3), 0x21);
	/* CLI, STI, PUSHF, POPF, IRET work on VIF */
	CHECK_EQ("cli", V86(v_cli, FL_VIF | FL_IF), BP);
	CHECK_EQ("cli-vif", c.flags & (FL_VIF | FL_IF), FL_IF);
	CHECK_EQ("sti", V86(v_sti, 0), BP);
	CHECK_EQ("sti-vif", c.flags & (FL_VIF | FL_IF), FL_VIF);
	CHECK_EQ("sti-vip", V86(v_sti, FL_VIP), GP);
	CHECK_EQ("sti-vip-ip", c.ip, 0);
	CHECK_EQ("pushf", V86(v_pushf, FL_VIF), BP);
	CHECK_EQ("pushf-value", c.r[RAX] & 0xffff & (FL_IF | FL_IOPL3), FL_IF | FL_IOPL3);
	CHECK_EQ("pushf-vif-off", (V86(v_pushf, FL_IF), c.r[RAX] & FL_IF), 0);
	CHECK_EQ("pushfl", V86(v_pushfl, FL_VIF), GP);
	CHECK_EQ("popf", V86(v_popf, 0), BP);
	CHECK_EQ("popf-vif", c.flags & (FL_VIF | FL_IF), FL_VIF);
	CHECK_EQ("popf-vip", V86(v_popf, FL_VIP), GP);
	CHECK_EQ("popf-tf", V86(v_popf_tf, 0), GP);
	CHECK_EQ("iret", V86(v_iret, 0), BP);
	CHECK_EQ("iret-vif", c.flags & (FL_VIF | FL_IF), FL_VIF);
	CHECK_EQ("iret-vip", V86(v_iret, FL_VIP), GP);
	write_cr4(read_cr4() & ~CR4_VME);
	tss0.iomap = offsetof(struct tss, io);
	memset(tss0.io, 0xff, 64);
}

CODE(p_cli, 32, "cli; int3");
CODE(p_sti, 32, "sti; int3");
static void pvi(void)
{
	static uint8_t stack[256];
	struct ctx u;

	if (!HAS_VME)
		return;
	write_cr4(read_cr4() | CR4_PVI);
	u = user_ctx((ulong)p_sti, (ulong)stack + 256);
	CHECK_EQ("pvi-sti", run(&u), BP);
	CHECK_EQ("pvi-sti-vif", u.flags & (FL_VIF | FL_IF), FL_VIF);
	u = user_ctx((ulong)p_cli, (ulong)stack + 256);
	u.flags |= FL_VIF | FL_IF;
	CHECK_EQ("pvi-cli", run(&u), BP);
	CHECK_EQ("pvi-cli-vif", u.flags & (FL_VIF | FL_IF), FL_IF);
	u = user_ctx((ulong)p_sti, (ulong)stack + 256);
	u.flags |= FL_VIP;
	CHECK_EQ("pvi-sti-vip", run(&u), GP);
	write_cr4(read_cr4() & ~CR4_PVI);
	u = user_ctx((ulong)p_cli, (ulong)stack + 256);
	CHECK_EQ("no-pvi-cli", run(&u), GP);
}

void test_main(void)
{
	basics();
	iopl();
	vme();
	pvi();
	CHECK_EQ("sysenter-from-v86", V86(v_sysenter, 0), GP); /* SYSENTER_CS is 0 */
}
