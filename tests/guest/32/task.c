/* SPDX-License-Identifier: MIT */
/* Hardware task switches (SDM vol. 3, 7): JMP, CALL, IRET, task gates, busy bits, links, 16-bit TSS, error codes, faults. */
#include "lib.h"

#define T(n) (SEL_TEST + 8 * (n))
static struct tss a, b; /* b: the other 32-bit task */
static uint8_t stack_b[2048] __attribute__((aligned(16)));
static volatile uint32_t seen[16];
static volatile unsigned runs;

static unsigned busy(unsigned sel)
{
	return ((volatile uint64_t *)gdt)[sel / 8] >> 41 & 1;
}

extern char task_entry[], task_fault_entry[], task_jmp_back[], task_int_entry[];
asm(".pushsection .text.task, \"ax\"\n"
    "task_entry:\n"
    "	mov %eax, seen\n"
    "	mov %edi, seen + 4\n"
    "	pushf\n"
    "	pop seen + 8\n"
    "	mov %esp, seen + 12\n"
    "	mov %fs, seen + 16\n"
    "	str seen + 20\n"
    "	mov %cr0, %eax\n"
    "	mov %eax, seen + 24\n"
    "	incl runs\n"
    "	iret\n"
    "	mov $0x5e5e, %eax\n" /* the next CALL continues here */
    "	incl runs\n"
    "	iret\n"
    "	jmp task_entry\n"
    "task_jmp_back:\n"
    "	incl runs\n"
    "	ljmp $0x80, $0\n"    /* to task a */
    "	incl runs\n"
    "	ljmp $0x80, $0\n"
    "task_fault_entry:\n"
    "	pop seen + 32\n"     /* the error code, pushed on the new task's stack */
    "	incl runs\n"
    "	iret\n"
    "	jmp task_fault_entry\n"
    "task_int_entry:\n"
    "	incl runs\n"
    "	iret\n"
    "	jmp task_int_entry\n"
    ".popsection");

static void init_b(void *entry)
{
	memset(&b, 0, sizeof(b));
	b.eip = (ulong)entry;
	b.esp = (ulong)stack_b + sizeof(stack_b);
	b.eflags = 2;
	b.cs = SEL_CODE;
	b.ds = b.es = b.ss = SEL_DATA;
	b.fs = SEL_UDATA;
	b.eax = 0x1111;
	b.edi = 0x2222;
	b.cr3 = read_cr3();
	b.iomap = sizeof(b);
	gdt[T(1) / 8] = descriptor((ulong)&b, sizeof(b) - 1, 0x0089);
}

/* A double fault through a task gate, the classic use: the stack is gone. */
static void double_fault(void)
{
	init_b(NULL);
	extern char task_df[];

	asm(".pushsection .text.task, \"ax\"\ntask_df: pop seen + 32; incl runs; movl $df_after, a + 32; mov df_esp, %eax; mov %eax, a + 56\n"
	    "movl $0x10, a + 80; iret\n.popsection\n.pushsection .bss\n.globl df_esp\ndf_esp: .skip 4\n.popsection");
	b.eip = (ulong)task_df;
	idt[DF] = gate32(T(1), 0, 0x85, 0);
	runs = 0;
	seen[8] = 0xff;
	gdt[T(3) / 8] = descriptor(0, 0, 0x4093); /* a stack segment of one byte */
	asm volatile("push %%ebp; mov %%esp, df_esp; mov %1, %%ecx; mov %0, %%ss; mov $0, %%esp; ud2; df_after: mov %%ecx, %%ss; pop %%ebp" : : "r"(T(3)), "r"(SEL_DATA)
		     : "ecx", "memory", "cc");
	CHECK_EQ("double-fault-task", runs, 1);
	CHECK_EQ("double-fault-task-error-code", seen[8], 0);
	reset_gate(DF);
}

/* ---- a 16-bit TSS (286) ---- */
static struct {
	uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
} tss16;

void test_main(void)
{
	/* task a is this program, with a TSS of its own at T(0) */
	memset(&a, 0, sizeof(a));
	a.iomap = sizeof(a);
	a.esp0 = tss0.esp0;
	a.ss0 = SEL_DATA;
	gdt[T(0) / 8] = descriptor((ulong)&a, sizeof(a) - 1, 0x0089);
	asm volatile("ltr %w0" : : "r"(T(0)));
	CHECK_EQ("ltr-sets-busy", busy(T(0)), 1);

	/* CALL and IRET */
	init_b(task_entry);
	write_cr0(read_cr0() & ~CR0_TS);
	asm volatile("mov $0x77, %%ecx; lcall $0x88, $0; mov %%ecx, %0" : "=m"(seen[9]) : : "ecx", "memory", "cc");
	CHECK_EQ("call-ran", runs, 1);
	CHECK_EQ("registers-kept", seen[9], 0x77);
	CHECK_EQ("call-eax", seen[0], 0x1111);
	CHECK_EQ("call-edi", seen[1], 0x2222);
	CHECK_EQ("call-nt", seen[2] & FL_NT, FL_NT);
	CHECK_EQ("call-esp", seen[3], (ulong)stack_b + sizeof(stack_b));
	CHECK_EQ("call-fs", seen[4] & 0xffff, SEL_UDATA);
	CHECK_EQ("call-tr", seen[5] & 0xffff, T(1));
	CHECK_EQ("call-ts", seen[6] & CR0_TS, CR0_TS);
	CHECK_EQ("link", b.link & 0xffff, T(0));
	CHECK_EQ("callee-busy-after-iret", busy(T(1)), 0);
	CHECK_EQ("caller-busy-after-iret", busy(T(0)), 1);
	CHECK_EQ("caller-nt", read_flags() & FL_NT, 0);
	CHECK_EQ("callee-nt-cleared-in-tss", b.eflags & FL_NT, 0);
	{
		uint16_t tr;
		asm volatile("str %0" : "=r"(tr));
		CHECK_EQ("tr-after-iret", tr, T(0));
	}
	asm volatile("clts");
	/* the task goes on where it left */
	asm volatile("lcall $0x88, $0" : : : "memory", "cc");
	CHECK_EQ("call-again", runs, 2);
	CHECK_EQ("call-again-eax", b.eax, 0x5e5e);
	/* JMP: the old task becomes available, NT stays clear, no link */
	init_b(task_jmp_back);
	b.link = 0;
	runs = 0;
	asm volatile("ljmp $0x88, $0" : : : "memory", "cc");
	CHECK_EQ("jmp", runs, 1);
	CHECK_EQ("jmp-busy", busy(T(1)), 0);
	CHECK_EQ("jmp-back-busy", busy(T(0)), 1);
	CHECK_EQ("jmp-no-link", b.link & 0xffff, 0);
	CHECK_EQ("jmp-nt", b.eflags & FL_NT, 0);
	asm volatile("ljmp $0x88, $0" : : : "memory", "cc");
	CHECK_EQ("jmp-again", runs, 2);
	/* to a busy task */
	TRY("ljmp $0x80, $0", : : : "memory");
	CHECK_EQ("jmp-to-busy", trap.vector, GP);
	CHECK_EQ("jmp-to-busy-error", trap.error, T(0));
	TRY("lcall $0x80, $0", : : : "memory");
	CHECK_EQ("call-to-busy", trap.vector, GP);
	/* not present, too small */
	gdt[T(1) / 8] = descriptor((ulong)&b, sizeof(b) - 1, 0x0009);
	TRY("ljmp $0x88, $0", : : : "memory");
	CHECK_EQ("not-present", trap.vector, NP);
	CHECK_EQ("not-present-error", trap.error, T(1));
	gdt[T(1) / 8] = descriptor((ulong)&b, 0x66, 0x0089);
	TRY("ljmp $0x88, $0", : : : "memory");
	CHECK_EQ("too-small", trap.vector, TS);
	CHECK_EQ("too-small-error", trap.error, T(1));
	/* task gate in the GDT */
	init_b(task_entry);
	gdt[T(2) / 8] = gate32(T(1), 0, 0x85, 0);
	runs = 0;
	asm volatile("lcall $0x90, $0" : : : "memory", "cc");
	CHECK_EQ("task-gate", runs, 1);
	/* task gate in the IDT, by INT */
	init_b(task_int_entry);
	idt[0x41] = gate32(T(1), 0, 0x85, 0);
	runs = 0;
	asm volatile("int $0x41; int $0x41" : : : "memory", "cc");
	CHECK_EQ("task-gate-int", runs, 2);
	/* an exception with an error code through a task gate: pushed on the new task's stack */
	init_b(task_fault_entry);
	idt[GP] = gate32(T(1), 0, 0x85, 0);
	runs = 0;
	seen[8] = 0;
	{
		/* its IRET would return to the faulting instruction: the task changes EIP in our TSS */
		extern char task_fix[];
		asm(".pushsection .text.task, \"ax\"\ntask_fix: pop seen + 32; incl runs; movl $fault_after, a + 32; iret\n.popsection");
		b.eip = (ulong)task_fix;
		asm volatile("mov %0, %%fs\nud2\nfault_after:" : : "r"(0xfff8) : "memory", "cc");
	}
	CHECK_EQ("fault-task", runs, 1);
	CHECK_EQ("fault-task-error-code", seen[8], 0xfff8);
	reset_gate(GP);
	if (!is_tcg()) /* it knows no segment limits */
		double_fault();
	/* a bad segment in the new TSS: #TS in the new task's context */
	init_b(task_entry);
	b.ds = 0xfff8;
	{
		struct ctx c = { 0 };
		/* deliver #TS by an ordinary gate: it runs in task b, on b's stack; run() brings us back to our own stack */
		c.cs = SEL_CODE;
		c.ss = SEL_DATA;
		c.flags = 2;
		c.ip = (ulong)"\xea\x00\x00\x00\x00\x88\x00";
		c.r[RSP] = (ulong)stack_b + 1024;
		CHECK_EQ("bad-ds-in-tss", run(&c), TS);
		CHECK_EQ("bad-ds-in-tss-error", c.error, 0xfff8);
		CHECK_EQ("bad-ds-in-tss-eip", c.ip, (ulong)task_entry);
		uint16_t tr;
		asm volatile("str %0" : "=r"(tr));
		CHECK_EQ("bad-ds-in-tss-tr", tr, T(1));
		/* back to TSS a for what follows */
		gdt[T(0) / 8] = descriptor((ulong)&a, sizeof(a) - 1, 0x0089);
		asm volatile("ltr %w0" : : "r"(T(0)));
	}
	/* 16-bit TSS */
	memset(&tss16, 0, sizeof(tss16));
	{
		extern char task16[];
		asm(".pushsection .text.task, \"ax\"\ntask16: mov %eax, seen; mov %ecx, seen + 4; mov %cs, seen + 8; incl runs; iret\n.popsection");
		gdt[T(4) / 8] = descriptor((ulong)task16, 0xffff, 0x409b);
		gdt[T(5) / 8] = descriptor((ulong)&tss16, sizeof(tss16) - 1, 0x0081);
		tss16.ip = 0;
		tss16.cs = T(4);
		tss16.ss = tss16.ds = tss16.es = SEL_DATA;
		tss16.flags = 2;
		tss16.ax = 0x1616;
		tss16.cx = 0x2626;
		runs = 0;
		asm volatile("lcall $0xa8, $0" : : : "memory", "cc");
		CHECK_EQ("tss16", runs, 1);
		CHECK_EQ("tss16-ax", seen[0] & 0xffff, 0x1616);
		CHECK_EQ("tss16-cx", seen[1] & 0xffff, 0x2626);
		CHECK_EQ("tss16-cs", seen[2] & 0xffff, T(4));
		CHECK_EQ("tss16-link", tss16.link, T(0));
		CHECK_EQ("tss16-busy", busy(T(5)), 0);
	}
	/* the T flag: #DB (BT in DR6) at the start of the new task */
	init_b(task_entry);
	b.trap = 1;
	{
		struct ctx c = { 0 };

		write_dr6(0xffff0ff0);
		c.cs = SEL_CODE;
		c.ss = SEL_DATA;
		c.flags = 2;
		c.ip = (ulong)"\xea\x00\x00\x00\x00\x88\x00";
		c.r[RSP] = (ulong)stack_b + 1024;
		CHECK_EQ("t-flag", run(&c), DB);
		CHECK_EQ("t-flag-eip", c.ip, (ulong)task_entry);
		CHECK_EQ("t-flag-dr6", read_dr6() & 0xe000, 0x8000);
	}
	asm volatile("clts");
}
