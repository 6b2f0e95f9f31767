/* SPDX-License-Identifier: MIT */
/* Protected-mode segmentation (SDM vol. 3, 3.4, 5.2-5.6): limits, types, rights, expand-down, 16-bit code and stacks, LDT. */
#include "lib.h"

#define T(n) (SEL_TEST + 8 * (n))
static uint8_t area[0x3000] __attribute__((aligned(4096)));
static uint8_t ustack[1024] __attribute__((aligned(16)));

static void desc(unsigned n, uint32_t base, uint32_t limit, unsigned attr)
{
	gdt[T(n) / 8] = descriptor(base, limit, attr);
}
static unsigned load_fs(unsigned sel)
{
	TRY("mov %0, %%fs", : : "r"(sel) : "memory");
	return trap.vector;
}
static unsigned load_ss(unsigned sel)
{
	TRY("mov %0, %%ss; mov %1, %%ss", : : "r"(sel), "r"(SEL_DATA) : "memory");
	return trap.vector;
}

static void limits(void)
{
	desc(0, (ulong)area, 0xfff, 0x4093); /* byte granular, 4 KiB */
	CHECK_EQ("load", load_fs(T(0)), NO_TRAP);
	CHECK_EQ("last-byte", VECTOR_OF("movb %%fs:0xfff, %%al", : : : "eax"), NO_TRAP);
	CHECK_EQ("beyond-byte", VECTOR_OF("movb %%fs:0x1000, %%al", : : : "eax"), GP);
	CHECK_EQ("beyond-byte-error", trap.error, 0);
	CHECK_EQ("word-over-end", VECTOR_OF("movw %%fs:0xfff, %%ax", : : : "eax"), GP);
	CHECK_EQ("dword-last", VECTOR_OF("movl %%fs:0xffc, %%eax", : : : "eax"), NO_TRAP);
	CHECK_EQ("dword-over-end", VECTOR_OF("movl %%fs:0xffd, %%eax", : : : "eax"), GP);
	CHECK_EQ("wraps-around", VECTOR_OF("movl %%fs:0xfffffffe, %%eax", : : : "eax"), GP);
	area[0] = 1;
	CHECK_EQ("store-over-end", VECTOR_OF("movl $-1, %%fs:0xffe", : : : "memory"), GP);
	CHECK_EQ("register-address", VECTOR_OF("movl %%fs:(%0,%1,4), %%eax", : : "r"(0xff8), "r"(1) : "eax"), NO_TRAP);
	CHECK_EQ("register-address-beyond", VECTOR_OF("movl %%fs:(%0,%1,4), %%eax", : : "r"(0xff8), "r"(2) : "eax"), GP);
	area[0x123] = 0x5e;
	{
		uint8_t v;
		asm volatile("movb %%fs:0x123, %0" : "=q"(v) : : "memory");
		CHECK_EQ("base-added", v, 0x5e);
	}
	CHECK_EQ("rep-movs-limit", VECTOR_OF("rep fs movsb", : : "S"(0xff0), "D"(area + 0x2000), "c"(0x20) : "memory"), GP);
	CHECK_EQ("lea-is-free", VECTOR_OF(".byte 0x64; leal 0x5000, %%eax", : : : "eax"), NO_TRAP);
	CHECK_EQ("prefetch-is-free", VECTOR_OF("nopl %%fs:0x5000", :), NO_TRAP);
	/* page granularity: limit 1 = 8 KiB */
	desc(0, (ulong)area, 1, 0xc093);
	load_fs(T(0));
	CHECK_EQ("granular-last", VECTOR_OF("movb %%fs:0x1fff, %%al", : : : "eax"), NO_TRAP);
	CHECK_EQ("granular-beyond", VECTOR_OF("movb %%fs:0x2000, %%al", : : : "eax"), GP);
	/* changing the descriptor does not change the loaded segment */
	desc(0, (ulong)area, 0, 0x4093);
	CHECK_EQ("cached", VECTOR_OF("movb %%fs:0x1fff, %%al", : : : "eax"), NO_TRAP);
	load_fs(T(0));
	CHECK_EQ("reloaded", VECTOR_OF("movb %%fs:1, %%al", : : : "eax"), GP);
	/* expand-down: valid above the limit, up to 0xffffffff (B) or 0xffff */
	desc(1, (ulong)area - 0x1000, 0xfff, 0x4097);
	CHECK_EQ("expand-down-load", load_fs(T(1)), NO_TRAP);
	CHECK_EQ("expand-down-inside", VECTOR_OF("movb %%fs:0x1000, %%al", : : : "eax"), NO_TRAP);
	CHECK_EQ("expand-down-below", VECTOR_OF("movb %%fs:0xfff, %%al", : : : "eax"), GP);
	CHECK_EQ("expand-down-straddles", VECTOR_OF("movw %%fs:0xfff, %%ax", : : : "eax"), GP);
	CHECK_EQ("expand-down-high", VECTOR_OF("movl %%fs:0xfffffffd, %%eax", : : : "eax"), GP);
	desc(1, (ulong)area - 0x1000, 0xfff, 0x0097);
	load_fs(T(1));
	CHECK_EQ("expand-down-16-inside", VECTOR_OF("movb %%fs:0x1000, %%al", : : : "eax"), NO_TRAP);
	CHECK_EQ("expand-down-16-beyond", VECTOR_OF("movb %%fs:0x10000, %%al", : : : "eax"), GP);
	CHECK_EQ("expand-down-16-word-at-end", VECTOR_OF("movw %%fs:0xffff, %%ax", : : : "eax"), GP);
}

static void types(void)
{
	desc(0, 0, 0xfffff, 0xc091); /* read-only data */
	CHECK_EQ("read-only-load", load_fs(T(0)), NO_TRAP);
	CHECK_EQ("read-only-read", VECTOR_OF("movl %%fs:%0, %%eax", : : "m"(area) : "eax"), NO_TRAP);
	CHECK_EQ("read-only-write", VECTOR_OF("movl $0, %%fs:%0", : "=m"(area)), GP);
	CHECK_EQ("read-only-rmw", VECTOR_OF("addl $0, %%fs:%0", : "+m"(area)), GP);
	CHECK_EQ("read-only-ss", load_ss(T(0)), GP);
	CHECK_EQ("read-only-ss-error", trap.error, T(0));
	desc(0, 0, 0xfffff, 0xc09b); /* readable code */
	CHECK_EQ("code-load", load_fs(T(0)), NO_TRAP);
	CHECK_EQ("code-read", VECTOR_OF("movl %%fs:%0, %%eax", : : "m"(area) : "eax"), NO_TRAP);
	CHECK_EQ("code-write", VECTOR_OF("movl $0, %%fs:%0", : "=m"(area)), GP);
	CHECK_EQ("code-write-cs", VECTOR_OF("movl $0, %%cs:%0", : "=m"(area)), GP);
	CHECK_EQ("code-read-cs", VECTOR_OF("movl %%cs:%0, %%eax", : : "m"(area) : "eax"), NO_TRAP);
	desc(0, 0, 0xfffff, 0xc099); /* execute-only */
	CHECK_EQ("execute-only-load", load_fs(T(0)), GP);
	CHECK_EQ("execute-only-error", trap.error, T(0));
	desc(0, 0, 0xfffff, 0xc013);
	CHECK_EQ("not-present", load_fs(T(0)), NP);
	CHECK_EQ("not-present-error", trap.error, T(0));
	CHECK_EQ("not-present-ss", load_ss(T(0)), SS);
	CHECK_EQ("not-present-ss-error", trap.error, T(0));
	/* null */
	CHECK_EQ("null-load", load_fs(0), NO_TRAP);
	CHECK_EQ("null-3-load", load_fs(3), NO_TRAP);
	CHECK_EQ("null-use", VECTOR_OF("movb %%fs:0, %%al", : : : "eax"), GP);
	CHECK_EQ("null-use-error", trap.error, 0);
	CHECK_EQ("null-ss", load_ss(0), GP);
	CHECK_EQ("null-ss-error", trap.error, 0);
	/* privilege */
	CHECK_EQ("ss-rpl-3", load_ss(SEL_UDATA | 3), GP);
	CHECK_EQ("ss-rpl-3-error", trap.error, SEL_UDATA);
	CHECK_EQ("data-dpl-3", load_fs(SEL_UDATA | 3), NO_TRAP);
	CHECK_EQ("data-rpl-3-dpl-0", load_fs(SEL_DATA | 3), GP);
	CHECK_EQ("beyond-gdt", load_fs(GDT_BYTES), GP);
	CHECK_EQ("beyond-gdt-error", trap.error, GDT_BYTES);
	CHECK_EQ("system-segment", load_fs(SEL_TSS), GP);
	/* accessed bit */
	desc(0, 0, 0xfffff, 0xc092);
	load_fs(T(0));
	CHECK_EQ("accessed-bit", ((volatile uint64_t *)gdt)[T(0) / 8] >> 40 & 1, 1);
	/* LAR, LSL, VERR, VERW, ARPL */
	{
		uint32_t r;
		uint8_t zf;

		desc(0, 0, 0x12345, 0x80f3);
		asm volatile("lar %2, %0; setz %1" : "=r"(r), "=q"(zf) : "r"(T(0)));
		CHECK_EQ("lar", r & 0x00f0ff00, 0x0080f300);
		asm volatile("lsl %2, %0; setz %1" : "=r"(r), "=q"(zf) : "r"(T(0)));
		CHECK_EQ("lsl", r, 0x12345fff);
		asm volatile("verw %1; setz %0" : "=q"(zf) : "r"((uint16_t)T(0)));
		CHECK_EQ("verw", zf, 1);
		asm volatile("verw %1; setz %0" : "=q"(zf) : "r"((uint16_t)SEL_CODE));
		CHECK_EQ("verw-code", zf, 0);
		asm volatile("verr %1; setz %0" : "=q"(zf) : "r"((uint16_t)0));
		CHECK_EQ("verr-null", zf, 0);
		r = 0x10;
		asm volatile("arpl %w2, %w0; setz %1" : "+r"(r), "=q"(zf) : "r"(3));
		CHECK_EQ("arpl", r, 0x13);
		CHECK_EQ("arpl-zf", zf, 1);
		asm volatile("arpl %w2, %w0; setz %1" : "+r"(r), "=q"(zf) : "r"(2));
		CHECK_EQ("arpl-no-change", zf, 0);
	}
}

static void user(void)
{
	struct ctx c;
	CODE(u_kernel_ds, 32, "mov $0x10, %ax; mov %ax, %ds; int3");
	CODE(u_conforming, 32, "lcall $0x88, $0; int3");
	CODE(u_touch, 32, "mov (%ebx), %eax; int3");
	CODE(u_lds, 32, "les (%ebx), %eax; int3");

	c = user_ctx((ulong)u_kernel_ds, (ulong)ustack + 1024);
	CHECK_EQ("user-loads-kernel-ds", run(&c), GP);
	CHECK_EQ("user-loads-kernel-ds-error", c.error, SEL_DATA);
	/* conforming code: callable from ring 3, CPL stays 3; base makes offset 0 the target */
	{
		extern char conf_target[];
		asm(".pushsection .text.conf, \"ax\"\nconf_target: mov %cs, %eax\nlret\n.popsection");
		desc(1, (ulong)conf_target, 0xfff, 0x409f); /* conforming, DPL 0 */
		c = user_ctx((ulong)u_conforming, (ulong)ustack + 1024);
		CHECK_EQ("conforming", run(&c), BP);
		CHECK_EQ("conforming-cpl", c.r[RAX] & 3, 3);
		desc(1, (ulong)conf_target, 0xfff, 0x409b); /* non-conforming, DPL 0 */
		c = user_ctx((ulong)u_conforming, (ulong)ustack + 1024);
		CHECK_EQ("non-conforming", run(&c), GP);
		CHECK_EQ("non-conforming-error", c.error, T(1));
		/* a conforming segment of higher DPL cannot be called from inside */
		desc(1, (ulong)conf_target, 0xfff, 0x40ff);
		TRY("lcall $0x88, $0", : : : "eax", "memory");
		CHECK_EQ("conforming-outer", trap.vector, GP);
	}
	/* IRET to ring 3 nulls segment registers of inner rings */
	asm volatile("mov %0, %%gs" : : "r"(SEL_DATA));
	c = user_ctx((ulong)u_touch, (ulong)ustack + 1024);
	c.r[RBX] = (ulong)area;
	c.load_segs = 0;
	asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_UDATA | 3));
	run(&c);
	CHECK_EQ("iret-nulls-gs", c.gs, 0);
	CHECK_EQ("iret-keeps-user-ds", c.ds, SEL_UDATA | 3);
	/* limits of CS and SS in user mode */
	desc(2, (ulong)u_touch, 1, 0x40fb); /* code of two bytes: int3 lies beyond */
	c = user_ctx(0, (ulong)ustack + 1024);
	c.cs = T(2) | 3;
	c.r[RBX] = (ulong)area;
	c.load_segs = 1;
	CHECK_EQ("cs-limit", run(&c), GP);
	CHECK_EQ("cs-limit-ip", c.ip, 2);
	desc(2, (ulong)u_touch, 0, 0x40fb); /* one byte: the instruction itself crosses the limit */
	c = user_ctx(0, (ulong)ustack + 1024);
	c.cs = T(2) | 3;
	CHECK_EQ("cs-limit-inside-instruction", run(&c), GP);
	CHECK_EQ("cs-limit-inside-instruction-ip", c.ip, 0);
	desc(3, (ulong)ustack, 0x3f, 0x40f3);
	CODE(u_push, 32, "push %eax; push %eax; int3");
	c = user_ctx((ulong)u_push, 8);
	c.ss = T(3) | 3;
	CHECK_EQ("ss-push", run(&c), BP);
	CHECK_EQ("ss-push-esp", c.r[RSP], 0);
	c = user_ctx((ulong)u_push, 4);
	c.ss = T(3) | 3;
	CHECK_EQ("ss-limit", run(&c), SS);
	CHECK_EQ("ss-limit-error", c.error, 0);
	CHECK_EQ("ss-limit-esp", c.r[RSP], 0);
	(void)u_lds;
}

static void sixteen(void)
{
	struct ctx c;
	CODE(s_code, 16, "mov %sp, %ax; push $0x1234; pop %bx; pushl $0x11223344; popl %ecx; mov $0x7fff, %dx; inc %dx; call 1f; jmp 2f; 1: pop %si; jmp *%si; 2: int3");
	CODE(s_wrap, 16, "mov $0xffff, %bx; mov 3(%bx), %al; int3");
	CODE(s_stack32, 32, "push %eax; push %ebx; pop %ecx; pop %edx; int3");
	CODE(s_sp16, 32, "push $0x55; pop %eax; mov %esp, %ebx; enter $4, $0; mov %ebp, %ecx; leave; mov %esp, %edx; int3");

	/* 16-bit code segment, 16-bit stack */
	desc(0, (ulong)s_code, 0xffff, 0x00fb);
	desc(1, (ulong)ustack, 0x3ff, 0x00f3);
	c = user_ctx(0, 0xabcd0400);
	c.cs = T(0) | 3;
	c.ss = T(1) | 3;
	CHECK_EQ("code16", run(&c), BP);
	CHECK_EQ("code16-sp", c.r[RAX] & 0xffff, 0x400);
	CHECK_EQ("code16-push", c.r[RBX] & 0xffff, 0x1234);
	CHECK_EQ("code16-push-32", c.r[RCX], 0x11223344);
	CHECK_EQ("code16-inc", c.r[RDX] & 0xffff, 0x8000);
	desc(0, (ulong)s_wrap, 0xffff, 0x00fb);
	desc(2, (ulong)area, 0xffff, 0x00f3);
	area[2] = 0x3c;
	c = user_ctx(0, 0x400);
	c.cs = T(0) | 3;
	c.ss = T(1) | 3;
	c.ds = T(2) | 3;
	c.load_segs = 1;
	CHECK_EQ("code16-address-wrap", run(&c), BP);
	CHECK_EQ("code16-address-wrap-value", c.r[RAX] & 0xff, 0x3c);
	/* 32-bit code on a 16-bit stack: SP wraps, upper half of ESP stays */
	desc(1, (ulong)ustack, 0x3ff, 0x00f3);
	c = user_ctx((ulong)s_stack32, 0xabcd0400);
	c.ss = T(1) | 3;
	c.r[RAX] = 1;
	c.r[RBX] = 2;
	CHECK_EQ("stack16", run(&c), BP);
	CHECK_EQ("stack16-pop", c.r[RCX], 2);
	CHECK_EQ("stack16-pop-2", c.r[RDX], 1);
	c = user_ctx((ulong)s_sp16, 0xabcd0200);
	c.ss = T(1) | 3;
	CHECK_EQ("stack16-enter", run(&c), BP);
	/* (whether IRET to a 16-bit stack loads the upper half of ESP is not asked: CPUs do not) */
	CHECK_EQ("stack16-sp", c.r[RBX] & 0xffff, 0x200);
	CHECK_EQ("stack16-leave", c.r[RDX], c.r[RBX]);
}

static void ldt(void)
{
	static uint64_t table[4];
	struct ctx c;

	table[1] = descriptor((ulong)area, 0xfff, 0x4093);
	table[2] = descriptor(0, 0xfffff, 0xc0fb);
	table[3] = descriptor(0, 0xfffff, 0xc0f3);
	desc(0, (ulong)table, sizeof(table) - 1, 0x0082);
	CHECK_EQ("ldt-empty", load_fs(0xc), GP);
	TRY("lldt %w0", : : "r"(T(0)) : "memory");
	CHECK_EQ("lldt", trap.vector, NO_TRAP);
	CHECK_EQ("ldt-load", load_fs(0xc), NO_TRAP);
	area[5] = 0x99;
	{
		uint8_t v;
		asm volatile("movb %%fs:5, %0" : "=q"(v) : : "memory");
		CHECK_EQ("ldt-base", v, 0x99);
	}
	CHECK_EQ("ldt-beyond", load_fs(0x24), GP);
	CHECK_EQ("ldt-beyond-error", trap.error, 0x24);
	/* index 0 of the LDT is not null */
	table[0] = descriptor(0, 0xfffff, 0xc093);
	CHECK_EQ("ldt-index-0", load_fs(4), NO_TRAP);
	c = user_ctx((ulong)0, (ulong)ustack + 1024);
	CODE(l_code, 32, "mov %cs, %eax; mov %ss, %ebx; int3");
	c.ip = (ulong)l_code;
	c.cs = 0x10 | 4 | 3;
	c.ss = 0x18 | 4 | 3;
	CHECK_EQ("ldt-code-and-stack", run(&c), BP);
	CHECK_EQ("ldt-code", c.r[RAX] & 0xffff, 0x17);
	CHECK_EQ("ldt-stack", c.r[RBX] & 0xffff, 0x1f);
	CHECK_EQ("lldt-not-ldt", VECTOR_OF("lldt %w0", : : "r"(SEL_DATA)), GP);
	CHECK_EQ("lldt-in-ldt", VECTOR_OF("lldt %w0", : : "r"(0xc)), GP);
	desc(0, (ulong)table, sizeof(table) - 1, 0x0002);
	CHECK_EQ("lldt-not-present", VECTOR_OF("lldt %w0", : : "r"(T(0))), NP);
	asm volatile("lldt %w0" : : "r"(0));
	CHECK_EQ("lldt-null", load_fs(0xc), GP);
	/* ltr */
	CHECK_EQ("ltr-busy", VECTOR_OF("ltr %w0", : : "r"(SEL_TSS)), GP);
	CHECK_EQ("ltr-null", VECTOR_OF("ltr %w0", : : "r"(0)), GP);
	CHECK_EQ("tss-busy-bit", gdt[SEL_TSS / 8] >> 41 & 1, 1);
}

void test_main(void)
{
	limits();
	types();
	user();
	sixteen();
	ldt();
}
