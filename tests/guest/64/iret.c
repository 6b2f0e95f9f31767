/* SPDX-License-Identifier: MIT */
/* IRET in 64-bit mode (SDM vol. 2, IRET), far transfers and compatibility mode: what is checked, restored, nulled. */
#include "lib.h"

#define VA TEST_VA
CODE(code_int, 64, "int $0x80");
CODE(code_compat, 32, "mov $0x11223344, %eax; inc %eax; dec %ecx; mov %esp, %edx; push $0x55; pop %esi; pusha; popa; int $0x80");
CODE(code_compat_regs, 32, "mov $0xffffffff, %eax; int $0x80");
CODE(code_compat_limit, 32, "mov %fs:0x1000, %eax; int $0x80");
CODE(code_compat_limit_ok, 32, "mov %fs:0xffc, %eax; int $0x80");
CODE(code_compat_wrap, 32, "mov 4(%ebx), %eax; int $0x80");
CODE(code_compat16, 16, "mov $0x7788, %ax; mov %sp, %dx; int $0x80");
CODE(code_ljmp, 32, "ljmp $0x33, $0x40000020");
CODE(code_iret_null, 64, "mov %ss, %eax; int $0x80");

static void bad_iret(const char *name, uint64_t cs, uint64_t ss, uint64_t ip, uint64_t flags, unsigned vector, uint64_t error)
{
	struct ctx c = user_ctx(ip, VA + 0x1000);

	c.cs = cs;
	c.ss = ss;
	c.flags = flags;
	CHECK_EQ(name, run(&c), vector);
	if (c.error != error || c.ip != (uint64_t)run_iret)
		print("FAIL %s: error 0x%lx (should be 0x%lx), ip 0x%lx (should be %p)\n", name, (ulong)c.error, (ulong)error, (ulong)c.ip,
		      run_iret);
}

void test_main(void)
{
	struct ctx c;

	map_user(VA, 1);
	COPY_CODE(VA, code_int);
	/* refused */
	bad_iret("cs-null", 0, SEL_UDATA | 3, VA, 2, GP, 0);
	bad_iret("cs-beyond", 0xfff8 | 3, SEL_UDATA | 3, VA, 2, GP, 0xfff8);
	bad_iret("cs-data", SEL_UDATA | 3, SEL_UDATA | 3, VA, 2, GP, SEL_UDATA);
	bad_iret("cs-rpl-too-low", SEL_UCODE, SEL_DATA, VA, 2, GP, SEL_UCODE);
	bad_iret("cs-dpl-0-rpl-3", SEL_CODE | 3, SEL_UDATA | 3, VA, 2, GP, SEL_CODE);
	bad_iret("ss-null-to-user", SEL_UCODE | 3, 0, VA, 2, GP, 0);
	bad_iret("ss-null-3-to-user", SEL_UCODE | 3, 3, VA, 2, GP, 0);
	bad_iret("ss-rpl", SEL_UCODE | 3, SEL_UDATA, VA, 2, GP, SEL_UDATA);
	bad_iret("ss-kernel", SEL_UCODE | 3, SEL_DATA | 3, VA, 2, GP, SEL_DATA);
	bad_iret("ss-code", SEL_UCODE | 3, SEL_UCODE | 3, VA, 2, GP, SEL_UCODE);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xa07b); /* code64, DPL 3, not present */
	bad_iret("cs-not-present", SEL_TEST | 3, SEL_UDATA | 3, VA, 2, NP, SEL_TEST);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xc073); /* data, DPL 3, not present */
	bad_iret("ss-not-present", SEL_UCODE | 3, SEL_TEST | 3, VA, 2, SS, SEL_TEST);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xe0fb); /* L and D both set */
	bad_iret("cs-l-and-d", SEL_TEST | 3, SEL_UDATA | 3, VA, 2, GP, SEL_TEST);
	/* IRET with NT set in long mode: #GP(0) */
	TRY("pushf; orl $0x4000, (%%rsp); popf; iretq", : : : "memory", "cc");
	CHECK_EQ("nt", trap.vector, GP);
	CHECK_EQ("nt-error", trap.error, 0);
	write_flags(2);
	/* to 64-bit ring 0 with a null SS: allowed */
	c = user_ctx(VA, VA + 0x800);
	c.cs = SEL_CODE;
	c.ss = 0;
	CHECK_EQ("ss-null-ring-0", run(&c), 0x80);
	CHECK_EQ("ss-null-ring-0-ss", c.ss, 0);
	/* noncanonical RIP: #GP(0), by Intel on the IRET, by AMD at the target */
	c = user_ctx(0x800000000000, VA + 0x1000);
	CHECK_EQ("rip-noncanonical", run(&c), GP);
	/* flags */
	c = user_ctx(VA, VA + 0x1000);
	c.flags = 2 | FL_IF | FL_CF | FL_DF | FL_ID | FL_AC | FL_NT | FL_IOPL3 | FL_OF;
	CHECK_EQ("flags", run(&c), 0x80);
	CHECK_EQ("flags-restored", c.flags, 2 | FL_IF | FL_CF | FL_DF | FL_ID | FL_AC | FL_NT | FL_IOPL3 | FL_OF);
	/* DS, ES, FS, GS that the outer ring may not use become null on the way out */
	asm volatile("mov %0, %%fs; mov %1, %%gs" : : "r"(SEL_DATA), "r"(SEL_UDATA | 3));
	c = user_ctx(VA, VA + 0x1000);
	run(&c);
	CHECK_EQ("privileged-fs-nulled", c.fs, 0);
	CHECK_EQ("user-gs-kept", c.gs, SEL_UDATA | 3);
	asm volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));

	/* compatibility mode */
	COPY_CODE(VA, code_compat);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.r[RCX] = 0x100000000;
	c.load_segs = 1;
	CHECK_EQ("compat", run(&c), 0x80);
	CHECK_EQ("compat-inc", c.r[RAX] & 0xffffffff, 0x11223345);
	CHECK_EQ("compat-dec", c.r[RCX] & 0xffffffff, 0xffffffff);
	CHECK_EQ("compat-esp", c.r[RDX] & 0xffffffff, VA + 0x1000);
	CHECK_EQ("compat-push-32", c.r[RSI] & 0xffffffff, 0x55);
	CHECK_EQ("compat-cs", c.cs, SEL_UCODE32 | 3);
	/* segment limits count in compatibility mode */
	gdt[SEL_TEST / 8] = descriptor(VA, 0xfff, 0x40f3); /* 4 KiB of data at VA */
	COPY_CODE(VA, code_compat_limit);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.load_segs = 1;
	c.fs = SEL_TEST | 3;
	CHECK_EQ("compat-limit", run(&c), GP);
	CHECK_EQ("compat-limit-error", c.error, 0);
	COPY_CODE(VA, code_compat_limit_ok);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.load_segs = 1;
	c.fs = SEL_TEST | 3;
	*(uint32_t *)(VA + 0xffc) = 0xfeed;
	CHECK_EQ("compat-limit-inside", run(&c), 0x80);
	CHECK_EQ("compat-limit-value", c.r[RAX] & 0xffffffff, 0xfeed);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.load_segs = 1;
	c.fs = 0;
	CHECK_EQ("compat-null-segment", run(&c), GP);
	/* effective addresses wrap at 4 GiB */
	COPY_CODE(VA, code_compat_wrap);
	gdt[SEL_TEST / 8] = descriptor(VA, 0xfffff, 0xc0f3);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.load_segs = 1;
	c.ds = SEL_TEST | 3;
	c.r[RBX] = 0xffc;
	*(uint32_t *)(VA + 0xffc) = 0x600d;
	c.r[RBX] = 0xff8;
	CHECK_EQ("compat-ds-base", run(&c), 0x80);
	CHECK_EQ("compat-ds-base-value", c.r[RAX] & 0xffffffff, 0x600d);
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	c.load_segs = 1;
	gdt[SEL_TEST / 8] = descriptor(VA + 0x1000, 0xfffff, 0xc0f3);
	c.ds = SEL_TEST | 3;
	c.r[RBX] = (uint32_t)-8; /* base + (-8 + 4) wraps below the base */
	CHECK_EQ("compat-address-wrap", run(&c), 0x80);
	CHECK_EQ("compat-address-wrap-value", c.r[RAX] & 0xffffffff, 0x600d);
	/* 16-bit code under long mode */
	COPY_CODE(VA, code_compat16);
	gdt[SEL_TEST / 8] = descriptor(VA, 0xffff, 0x00fb);
	gdt[SEL_TEST / 8 + 1] = descriptor(VA, 0xffff, 0x00f3);
	c = user_ctx(0, 0x1000);
	c.cs = SEL_TEST | 3;
	c.ss = (SEL_TEST + 8) | 3;
	CHECK_EQ("compat16", run(&c), 0x80);
	CHECK_EQ("compat16-ax", c.r[RAX] & 0xffff, 0x7788);
	CHECK_EQ("compat16-sp", c.r[RDX] & 0xffff, 0x1000);
	/* compatibility -> 64-bit by a far jump, high halves of registers come back as they are (undefined): only the mode */
	COPY_CODE(VA, code_ljmp);
	memcpy((void *)(VA + 0x20), "\x48\xb8\x01\x00\x00\x00\x02\x00\x00\x00\xcd\x80", 12); /* mov $0x200000001, %rax */
	c = user_ctx(VA, VA + 0x1000);
	c.cs = SEL_UCODE32 | 3;
	CHECK_EQ("compat-to-64", run(&c), 0x80);
	CHECK_EQ("compat-to-64-rax", c.r[RAX], 0x200000001);
	CHECK_EQ("compat-to-64-cs", c.cs, SEL_UCODE | 3);

	/* far return, indirect far jump and call with 64-bit operands */
	TRY("lea 881f(%%rip), %%rax; push %0; push %%rax; lretq; ud2; 881:", : : "r"((uint64_t)SEL_CODE) : "rax", "memory");
	CHECK_EQ("lretq", trap.vector, NO_TRAP);
	{
		struct {
			uint64_t off;
			uint16_t sel;
		} __attribute__((packed)) far = { 0, SEL_CODE };

		asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; rex.w ljmp *%0; ud2; 1:" : "+m"(far) : : "rax", "memory");
		CHECK("ljmpq-indirect", true);
		far.sel = SEL_DATA;
		TRY("rex.w ljmp *%0", : : "m"(far) : "memory");
		CHECK_EQ("ljmp-to-data", trap.vector, GP);
		CHECK_EQ("ljmp-to-data-error", trap.error, SEL_DATA);
		far.sel = 0;
		TRY("rex.w lcall *%0", : : "m"(far) : "memory");
		CHECK_EQ("lcall-null", trap.vector, GP);
		far.sel = SEL_UCODE | 3;
		TRY("rex.w lcall *%0", : : "m"(far) : "memory");
		CHECK_EQ("lcall-user", trap.vector, GP);
	}
	/* 64-bit call gate, ring 3 to ring 0 */
	{
		extern char gate_target[];
		asm(".pushsection .text.gate, \"ax\"\ngate_target: int $0x83\n.popsection");
		uint64_t t = (uint64_t)gate_target;

		gdt[SEL_TEST / 8] = gate32(SEL_CODE, t, 0xec, 0);
		gdt[SEL_TEST / 8 + 1] = t >> 32;
		memcpy((void *)VA, "\xff\x1c\x25\x00\x01\x00\x40", 7); /* lcall *0x40000100 */
		*(uint32_t *)(VA + 0x100) = 0;
		*(uint16_t *)(VA + 0x104) = SEL_TEST | 3;
		c = user_ctx(VA, VA + 0x1000);
		CHECK_EQ("call-gate", run(&c), 0x83);
		CHECK_EQ("call-gate-cs", c.cs, SEL_CODE);
		CHECK_EQ("call-gate-rsp", c.r[RSP], tss0.rsp[0] - 32);
		uint64_t *s = (uint64_t *)c.r[RSP];
		CHECK_EQ("call-gate-saved-rip", s[0], VA + 7);
		CHECK_EQ("call-gate-saved-cs", s[1], SEL_UCODE | 3);
		CHECK_EQ("call-gate-saved-rsp", s[2], VA + 0x1000);
		CHECK_EQ("call-gate-saved-ss", s[3], SEL_UDATA | 3);
		gdt[SEL_TEST / 8] = gate32(SEL_CODE, t, 0x8c, 0);
		c = user_ctx(VA, VA + 0x1000);
		CHECK_EQ("call-gate-dpl", run(&c), GP);
		CHECK_EQ("call-gate-dpl-error", c.error, SEL_TEST);
		gdt[SEL_TEST / 8] = gate32(SEL_CODE, t, 0xec, 0);
		gdt[SEL_TEST / 8 + 1] = t >> 32 | 0x0000090000000000ull; /* type bits of the upper half not 0 */
		c = user_ctx(VA, VA + 0x1000);
		CHECK_EQ("call-gate-upper-type", run(&c), GP);
	}
}
