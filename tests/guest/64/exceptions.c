/* SPDX-License-Identifier: MIT */
/* Exceptions in 64-bit mode (SDM vol. 3, 6): vectors, error codes, saved RIP (fault or trap), canonicality, IST, #DF. */
#include "lib.h"

#define VA TEST_VA
#define NONCANON 0x0000800000000000ul

CODE(user_int3, 64, "int3; nop; int $0x80");
CODE(user_int_20, 64, "int $0x20; int $0x80");
CODE(user_into, 64, ".byte 0xce");
CODE(user_ac, 64, "mov 1(%rsp), %eax; int $0x80");
CODE(user_icebp, 64, ".byte 0xf1; int $0x80");
CODE(user_stack, 64, "push %rax; int $0x80");

static struct ctx uc;
static unsigned user(char *code, size_t size, uint64_t flags)
{
	memcpy((void *)VA, code, size);
	uc = user_ctx(VA, VA + 0x1000 - 64);
	uc.flags |= flags;
	return run(&uc);
}
#define USER(code) user(code, CODE_SIZE(code), 0)

static volatile unsigned df_seen;
static volatile uint64_t df_error, df_sp, df_old_sp;
static void df_handler(struct frame *f)
{
	df_seen++;
	df_error = f->error;
	df_sp = (uint64_t)f;
	df_old_sp = f->sp;
	f->sp = recover_sp;
	f->ss = SEL_DATA;
	f->cs = SEL_CODE;
	f->flags = 2;
	f->ip = recover_ip;
}

static void arithmetic(void)
{
	CHECK_EQ("div-zero", VECTOR_OF("div %%ecx", : : "a"(1), "d"(0), "c"(0)), DE);
	CHECK_EQ("div-zero-ip", trap.ip, trap.at);
	CHECK_EQ("div-overflow", VECTOR_OF("div %%ecx", : : "a"(0), "d"(5), "c"(5)), DE);
	CHECK_EQ("idiv-overflow", VECTOR_OF("idiv %%rcx", : : "a"(1ul << 63), "d"(-1l), "c"(-1l)), DE);
	CHECK_EQ("idiv8-overflow", VECTOR_OF("idiv %%cl", : : "a"(0x8000), "c"(0xff)), DE);
	CHECK_EQ("aam-invalid-in-64", VECTOR_OF(".byte 0xd4, 0x0a", :), UD);
	CHECK_EQ("ud2", VECTOR_OF("ud2", :), UD);
	CHECK_EQ("ud1", VECTOR_OF(".byte 0x0f, 0xb9, 0xc0", :), UD);
	CHECK_EQ("ud0", VECTOR_OF(".byte 0x0f, 0xff, 0xc0", :), UD);
	CHECK_EQ("into-invalid-in-64", USER(user_into), UD);
	CHECK_EQ("push-es-invalid", VECTOR_OF(".byte 0x06", :), UD);
	CHECK_EQ("pusha-invalid", VECTOR_OF(".byte 0x60", :), UD);
	CHECK_EQ("daa-invalid", VECTOR_OF(".byte 0x27", :), UD);
	CHECK_EQ("salc-invalid", VECTOR_OF(".byte 0xd6", :), UD);
	CHECK_EQ("ljmp-imm-invalid", VECTOR_OF(".byte 0xea, 0, 0, 0, 0, 0, 0", :), UD);
	CHECK_EQ("lock-nop", VECTOR_OF(".byte 0xf0, 0x90", :), UD);
	CHECK_EQ("lock-register", VECTOR_OF(".byte 0xf0, 0x01, 0xc0", :), UD);
	CHECK_EQ("lock-cmp-memory", VECTOR_OF(".byte 0xf0, 0x39, 0x04, 0x24", :), UD);
	CHECK_EQ("lock-mov", VECTOR_OF(".byte 0xf0, 0x89, 0x04, 0x24", :), UD);
	CHECK_EQ("lea-register", VECTOR_OF(".byte 0x8d, 0xc0", :), UD);
	CHECK_EQ("too-long", VECTOR_OF(".fill 15, 1, 0x66; nop", :), GP);
	CHECK_EQ("too-long-error", trap.error, 0);
	CHECK_EQ("fifteen-bytes", VECTOR_OF(".fill 14, 1, 0x66; nop", :), NO_TRAP);
	CHECK_EQ("mov-to-cs", VECTOR_OF(".byte 0x8e, 0xc8", :), UD);
	CHECK_EQ("mov-to-seg-6", VECTOR_OF(".byte 0x8e, 0xf0", :), UD);
}

static void software(void)
{
	CHECK_EQ("int3", USER(user_int3), BP);
	CHECK_EQ("int3-ip-after", uc.ip, VA + 1);
	CHECK_EQ("int-n-dpl", USER(user_int_20), GP);
	CHECK_EQ("int-n-dpl-error", uc.error, 0x20 * 8 + 2);
	CHECK_EQ("int-n-dpl-ip", uc.ip, VA);
	CHECK_EQ("icebp", USER(user_icebp), DB);
	CHECK_EQ("icebp-ip-after", uc.ip, VA + 1);
	CHECK_EQ("int-n-kernel", VECTOR_OF("int $0x21", :), 0x21);
	CHECK_EQ("int-n-kernel-ip-after", trap.ip, trap.at + 2);
	/* a gate that is not present, and vectors beyond the IDT */
	idt[0x30].attr &= ~0x80;
	CHECK_EQ("gate-not-present", VECTOR_OF("int $0x30", :), NP);
	CHECK_EQ("gate-not-present-error", trap.error, 0x30 * 8 + 2);
	idt[0x30].attr = 0x8c; /* a 64-bit call gate is no interrupt gate */
	CHECK_EQ("gate-type", VECTOR_OF("int $0x30", :), GP);
	CHECK_EQ("gate-type-error", trap.error, 0x30 * 8 + 2);
	idt[0x30].attr = 0x8e;
	idt[0x30].sel = 0;
	CHECK_EQ("gate-null-cs", VECTOR_OF("int $0x30", :), GP);
	CHECK_EQ("gate-null-cs-error", trap.error, 0);
	idt[0x30].sel = SEL_CODE32;
	CHECK_EQ("gate-32-bit-cs", VECTOR_OF("int $0x30", :), GP);
	CHECK_EQ("gate-32-bit-cs-error", trap.error, SEL_CODE32);
	idt[0x30].sel = SEL_DATA;
	CHECK_EQ("gate-data-cs", VECTOR_OF("int $0x30", :), GP);
	CHECK_EQ("gate-data-cs-error", trap.error, SEL_DATA);
	idt[0x30].sel = SEL_UCODE;
	CHECK_EQ("gate-user-cs", VECTOR_OF("int $0x30", :), GP);
	reset_gate(0x30);
	{
		struct table_ptr small = { 0x20 * 16 - 1, (ulong)idt }, full = { sizeof(idt) - 1, (ulong)idt };

		lidt(&small);
		TRY("int $0x20", :);
		lidt(&full);
		CHECK_EQ("idt-limit", trap.vector, GP);
		CHECK_EQ("idt-limit-error", trap.error, 0x20 * 8 + 2);
	}
	/* trap gates leave IF alone, interrupt gates clear it; TF, NT, RF, VM cleared */
}

static volatile uint64_t seen_flags;
static void flags_handler(struct frame *f)
{
	seen_flags = read_flags();
}

static void gate_flags(void)
{
	set_handler(0x31, flags_handler);
	idt[0x31].attr = 0x8f;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	asm volatile("pushf; pushf; orl $0x4200, (%%rsp); popf; int $0x31; popf" ::: "memory", "cc");
	CHECK_EQ("trap-gate-keeps-if", seen_flags & (FL_IF | FL_NT), FL_IF);
	idt[0x31].attr = 0x8e;
	asm volatile("pushf; pushf; orl $0x4200, (%%rsp); popf; int $0x31; popf" ::: "memory", "cc");
	CHECK_EQ("interrupt-gate-clears-if", seen_flags & (FL_IF | FL_NT), 0);
	set_handler(0x31, NULL);
}

static void canonical(void)
{
	/* %rbp and %rsp based accesses give #SS; do it with user contexts so that registers are ours */
	static const struct {
		const char *name;
		const char *code;
		unsigned size, vector;
	} t[] = {
		{ "rbp-based", "\x48\x8b\x45\x00", 4, SS },	      /* mov 0(%rbp), %rax */
		{ "rsp-push", "\x50", 1, SS },			      /* push %rax */
		{ "rsp-pop", "\x58", 1, SS },			      /* pop %rax */
		{ "rsp-call", "\xe8\x00\x00\x00\x00", 5, SS },	      /* call .+5 */
		{ "rsp-ret", "\xc3", 1, SS },			      /* ret */
		{ "rsp-based", "\x48\x8b\x04\x24", 4, SS },	      /* mov (%rsp), %rax */
		{ "rbp-ds-override-ignored", "\x3e\x48\x8b\x45\x00", 5, SS },
		{ "rax-based", "\x48\x8b\x00", 3, GP },
		{ "rbp-index", "\x48\x8b\x04\x28", 4, GP },	      /* mov (%rax,%rbp), base rax */
		{ "rbp-fs-override", "\x64\x48\x8b\x45\x00", 5, GP }, /* FS segment: #GP */
		{ "jmp-rax", "\xff\xe0", 2, GP },
		
		{ "movs", "\xa4", 1, GP },
		{ "enter", "\xc8\x00\x00\x00", 4, SS },
		{ "leave", "\xc9", 1, SS },
		{ "pushf", "\x9c", 1, SS },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		struct ctx c = user_ctx(VA, NONCANON + 0x100);

		if (t[i].code[0] == '\xc9')
			c.r[RSP] = VA + 0xf00;
		c.r[RAX] = NONCANON;
		c.r[RBP] = NONCANON;
		if (t[i].code[1] == '\x8b' && t[i].code[2] == '\x04' && t[i].code[3] == '\x28')
			c.r[RBP] = 0;
		c.r[RSI] = c.r[RDI] = NONCANON;
		memcpy((void *)VA, t[i].code, t[i].size);
		memcpy((void *)(VA + t[i].size), "\xcd\x80", 2);
		CHECK_EQ(t[i].name, run(&c), t[i].vector);
		if (c.error || c.ip != VA)
			CHECK_EQ(t[i].name, c.ip | c.error << 60, VA);
	}
	/* an access that straddles the boundary faults */
	CHECK_EQ("straddles-boundary", VECTOR_OF("mov (%0), %%rax", : : "r"(0x00007ffffffffffc) : "rax", "memory") == NO_TRAP, 0);
	/* jump to a noncanonical address: fault on the jump, RIP at the jump */
	CHECK_EQ("ret-noncanonical", VECTOR_OF("push %0; ret", : : "r"(NONCANON) : "memory"), GP);
}

static void alignment(void)
{
	CHECK_EQ("ac-off", user(user_ac, CODE_SIZE(user_ac), FL_AC), 0x80);
	write_cr0(read_cr0() | CR0_AM);
	CHECK_EQ("ac-am-without-flag", USER(user_ac), 0x80);
	CHECK_EQ("ac-on", user(user_ac, CODE_SIZE(user_ac), FL_AC), AC);
	CHECK_EQ("ac-error", uc.error, 0);
	CHECK_EQ("ac-ip", uc.ip, VA);
	write_flags(read_flags() | FL_AC);
	CHECK_EQ("ac-not-at-cpl-0", VECTOR_OF("mov 1(%%rsp), %%eax", : : : "rax", "memory"), NO_TRAP);
	write_flags(read_flags() & ~FL_AC);
	write_cr0(read_cr0() & ~CR0_AM);
}

static void double_fault(void)
{
	static uint8_t df_stack[4096] __attribute__((aligned(16)));
	uint64_t bad = VA + 0x100000; /* not mapped */

	tss0.ist[1] = (uint64_t)df_stack + sizeof(df_stack);
	set_gate(DF, trap_stubs + 16 * DF, 0, 2);
	set_handler(DF, df_handler);
	/* #PF while pushing the frame of a #UD (contributory? #UD is benign: the #PF is delivered, and cannot be) */
	TRY("mov %0, %%rsp; ud2", : : "r"(bad) : "memory");
	CHECK_EQ("df-seen", df_seen, 1);
	CHECK_EQ("df-error", df_error, 0);
	CHECK("df-on-ist", df_sp > (uint64_t)df_stack && df_sp < (uint64_t)df_stack + sizeof(df_stack));
	CHECK_EQ("df-old-rsp", df_old_sp, bad);
	/* #NP while delivering #GP: both contributory */
	idt[GP].attr &= ~0x80;
	TRY("mov %0, %%ds", : : "r"(0xfff8) : "memory");
	reset_gate(GP);
	CHECK_EQ("df-contributory", df_seen, 2);
	/* #NP while delivering #UD (benign): an ordinary #NP */
	idt[UD].attr &= ~0x80;
	TRY("ud2", :);
	reset_gate(UD);
	CHECK_EQ("benign-then-np", trap.vector, NP);
	CHECK_EQ("benign-then-np-error", trap.error, UD * 8 + 3); /* EXT: during delivery of an exception */
	CHECK_EQ("benign-is-no-df", df_seen, 2);
	/* #NP while delivering #PF */
	idt[PF].attr &= ~0x80;
	TRY("mov (%0), %%eax", : : "r"(bad) : "rax", "memory");
	reset_gate(PF);
	CHECK_EQ("df-pf-then-np", df_seen, 3);
	set_handler(DF, NULL);
	reset_gate(DF);
}

static void ist(void)
{
	static uint8_t stack[4096] __attribute__((aligned(16)));
	struct ctx c;

	tss0.ist[2] = (uint64_t)stack + sizeof(stack) - 3; /* aligned down to 16 by the CPU */
	set_gate(0x80, trap_stubs + 16 * 0x80, 3, 3);
	c = user_ctx(VA, VA + 0x1000);
	memcpy((void *)VA, "\xcd\x80", 2);
	CHECK_EQ("ist-vector", run(&c), 0x80);
	CHECK_EQ("ist-stack", c.handler_sp, (uint64_t)stack + sizeof(stack) - 16 - 48);
	CHECK_EQ("ist-saved-ss", c.ss, SEL_UDATA | 3);
	reset_gate(0x80);
	CHECK_EQ("rsp0-vector", (c = user_ctx(VA, VA + 0x1000), run(&c)), 0x80);
	CHECK_EQ("rsp0-stack", c.handler_sp, tss0.rsp[0] - 48);
	/* same privilege: pushed on the current stack, aligned to 16 */
	c = user_ctx(VA, 0);
	c.cs = SEL_CODE;
	c.ss = SEL_DATA;
	c.r[RSP] = (uint64_t)stack + 2048 + 5;
	CHECK_EQ("ring0-vector", run(&c), 0x80);
	CHECK_EQ("ring0-aligned", c.handler_sp, (uint64_t)stack + 2048 - 48);
	CHECK_EQ("ring0-saved-rsp", c.r[RSP], (uint64_t)stack + 2048 + 5);
	CHECK_EQ("ring0-saved-ss", c.ss, SEL_DATA);
}

static volatile uint16_t inner_ss;
static void ss_handler(struct frame *f)
{
	uint16_t s;
	asm volatile("mov %%ss, %0" : "=r"(s));
	inner_ss = s;
}

static void null_ss(void)
{
	struct ctx c = user_ctx(VA, VA + 0x1000);

	memcpy((void *)VA, "\xcd\x81\xcd\x80", 4);
	set_gate(0x81, trap_stubs + 16 * 0x81, 3, 0);
	set_handler(0x81, ss_handler);
	inner_ss = 0xffff;
	run(&c);
	CHECK_EQ("inner-ss-is-null", inner_ss, 0);
	set_handler(0x81, NULL);
	reset_gate(0x81);
}

static void selectors(void)
{
	CHECK_EQ("ds-beyond-gdt", VECTOR_OF("mov %0, %%ds", : : "r"(0xfff8)), GP);
	CHECK_EQ("ds-beyond-gdt-error", trap.error, 0xfff8);
	CHECK_EQ("ds-ldt-error", VECTOR_OF("mov %0, %%ds", : : "r"(0xc)), GP);
	CHECK_EQ("ds-ldt-error-code", trap.error, 0xc);
	CHECK_EQ("ds-system-segment", VECTOR_OF("mov %0, %%ds", : : "r"(SEL_TSS)), GP);
	CHECK_EQ("ds-system-segment-error", trap.error, SEL_TSS);
	CHECK_EQ("ds-code", VECTOR_OF("mov %0, %%ds", : : "r"(SEL_CODE)), NO_TRAP);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xc013); /* not present data */
	CHECK_EQ("ds-not-present", VECTOR_OF("mov %0, %%ds", : : "r"(SEL_TEST)), NP);
	CHECK_EQ("ds-not-present-error", trap.error, SEL_TEST);
	CHECK_EQ("ss-not-present", VECTOR_OF("mov %0, %%ss", : : "r"(SEL_TEST)), SS);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xc099); /* execute-only code */
	CHECK_EQ("ds-execute-only", VECTOR_OF("mov %0, %%ds", : : "r"(SEL_TEST)), GP);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xc091); /* read-only data */
	CHECK_EQ("ss-read-only", VECTOR_OF("mov %0, %%ss", : : "r"(SEL_TEST)), GP);
	CHECK_EQ("ss-rpl", VECTOR_OF("mov %0, %%ss", : : "r"(SEL_DATA | 3)), GP);
	CHECK_EQ("ss-rpl-error", trap.error, SEL_DATA);
	CHECK_EQ("ss-null-cpl-0", VECTOR_OF("mov %0, %%ss", : : "r"(0)), NO_TRAP);
	CHECK_EQ("ss-null-rpl-3", VECTOR_OF("mov %0, %%ss", : : "r"(3)), GP);
	asm volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	CHECK_EQ("ds-null", VECTOR_OF("mov %0, %%ds; movb $0, (%%rsp)", : : "r"(0) : "memory"), NO_TRAP);
	gdt[SEL_TEST / 8] = descriptor(0, 0xfffff, 0xc092); /* accessed bit clear */
	asm volatile("mov %0, %%es" : : "r"(SEL_TEST) : "memory");
	CHECK_EQ("accessed-bit-set", gdt[SEL_TEST / 8] >> 40 & 1, 1);
	asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_DATA));
	/* LAR, LSL, VERR, VERW */
	{
		uint32_t r = 0;
		uint8_t zf;

		asm volatile("lar %2, %0; setz %1" : "=r"(r), "=q"(zf) : "r"(SEL_DATA));
		CHECK_EQ("lar", r & 0x00f0ff00, 0x00c09300); /* bits 16-19 are undefined */
		CHECK_EQ("lar-zf", zf, 1);
		asm volatile("lsl %2, %0; setz %1" : "=r"(r), "=q"(zf) : "r"(SEL_DATA));
		CHECK_EQ("lsl", r, 0xffffffff);
		asm volatile("mov $77, %0; lar %2, %0; setz %1" : "=&r"(r), "=q"(zf) : "r"(0xfff8));
		CHECK_EQ("lar-invalid-zf", zf, 0);
		CHECK_EQ("lar-invalid-unchanged", r, 77);
		asm volatile("verw %1; setz %0" : "=q"(zf) : "r"((uint16_t)SEL_CODE));
		CHECK_EQ("verw-code", zf, 0);
		asm volatile("verr %1; setz %0" : "=q"(zf) : "r"((uint16_t)SEL_CODE));
		CHECK_EQ("verr-code", zf, 1);
		asm volatile("verw %1; setz %0" : "=q"(zf) : "r"((uint16_t)SEL_DATA));
		CHECK_EQ("verw-data", zf, 1);
		asm volatile("lsl %2, %0; setz %1" : "=r"(r), "=q"(zf) : "r"(SEL_TSS));
		CHECK_EQ("lsl-tss", r, sizeof(struct tss) - 1);
	}
}

void test_main(void)
{
	map_user(VA, 1);
	arithmetic();
	software();
	gate_flags();
	canonical();
	alignment();
	selectors();
	ist();
	null_ss();
	double_fault();
}
