/* SPDX-License-Identifier: MIT */
/*
 * Interrupts get into every kind of loop: a jump to itself, counted, through a register, calls and returns, LOOP, string operations,
 * PAUSE, and code that never leaves one block. The timer's handler takes the CPU out of the loop by changing the return address.
 */
#include "lib.h"

static volatile unsigned ticks;
static volatile uint64_t out, seen_ip;
static void tick(struct frame *f)
{
	ticks++;
	seen_ip = f->ip;
	f->ip = out;
	f->flags &= ~FL_IF;
	apic_write(APIC_EOI, 0);
}

/* Start the timer, run the loop with interrupts on; the handler continues at 9. The loop must keep the stack level. */
#define LOOP(name, text)                                                                           \
	do {                                                                                       \
		static uint64_t keep; /* not a register: CPUID writes RBX */                      \
		unsigned bad = 0;                                                                  \
		for (unsigned i = 0; i < 5; i++) {                                                 \
			ticks = 0;                                                                 \
			apic_write(APIC_TIMER_ICT, 1000000);                                       \
			asm volatile("mov %%rsp, %0; movq $9f, out; sti\n" text "\n9: mov %0, %%rsp; cli; cld" \
				     : "=m"(keep) : : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "memory", "cc"); \
			bad += ticks != 1;                                                         \
		}                                                                                  \
		CHECK_EQ(name, bad, 0);                                                            \
	} while (0)

void test_main(void)
{
	apic_enable();
	set_handler(0x90, tick);
	apic_write(APIC_TIMER_DCR, 0xb);
	apic_write(APIC_LVT_TIMER, 0x90);
	LOOP("jump-to-itself", "1: jmp 1b");
	LOOP("empty-counted", "1: inc %%rax; jmp 1b");
	LOOP("flags-live", "xor %%eax, %%eax; 1: add $1, %%rax; jnz 1b; jmp 1b");
	LOOP("compare-memory", "1: cmpq $-1, ticks; jne 1b; jmp 1b");
	LOOP("pause", "1: pause; jmp 1b");
	LOOP("two-blocks", "1: jmp 2f; 2: jmp 1b");
	LOOP("indirect", "lea 1f(%%rip), %%rax; 1: jmp *%%rax");
	LOOP("call-return", "1: call 2f; jmp 1b; 2: ret");
	LOOP("return-loop", "lea 1f(%%rip), %%rax; 1: push %%rax; ret");
	LOOP("loop-instruction", "1: mov $-1, %%rcx; 2: loop 2b; jmp 1b");
	LOOP("conditional-both-ways", "1: test $1, %%al; jz 2f; dec %%rax; jmp 1b; 2: inc %%rax; jmp 1b");
	LOOP("rep-stos-short", "1: lea cell_(%%rip), %%rdi; mov $1, %%ecx; rep stosq; jmp 1b");
	LOOP("hlt", "1: hlt; jmp 1b");
	LOOP("sti-in-loop", "1: sti; jmp 1b");
	LOOP("cli-sti", "1: cli; sti; nop; jmp 1b");
	LOOP("pushf-popf", "1: pushf; popf; jmp 1b");
	LOOP("io", "mov $0x80, %%edx; 1: in %%dx, %%al; jmp 1b");
	LOOP("cpuid", "mov %%rbx, %%r8; 1: xor %%eax, %%eax; cpuid; mov %%r8, %%rbx; jmp 1b");
	LOOP("iret", "1: mov %%ss, %%eax; mov %%rsp, %%rcx; push %%rax; push %%rcx; pushf; mov %%cs, %%eax; push %%rax; lea 1b(%%rip), %%rax; push %%rax; iretq");
	LOOP("mov-ss", "mov %%ss, %%eax; 1: mov %%eax, %%ss; nop; jmp 1b");
	LOOP("write-cr0", "mov %%cr0, %%rax; 1: mov %%rax, %%cr0; jmp 1b");
	LOOP("invlpg", "1: invlpg (%%rsp); jmp 1b");
	LOOP("page-crossing-block", "jmp 1f; .align 4096; .skip 4090, 0x90; 1: inc %%rax; inc %%rcx; inc %%rdx; jmp 1b");
	/* user mode */
	{
		struct ctx c;
		unsigned bad = 0;

		map_user(TEST_VA, 1);
		memcpy((void *)TEST_VA, "\xeb\xfe", 2);
		set_handler(0x90, NULL);
		for (unsigned i = 0; i < 5; i++) {
			apic_write(APIC_TIMER_ICT, 1000000);
			c = user_ctx(TEST_VA, TEST_VA + 4096);
			c.flags |= FL_IF;
			bad += run(&c) != 0x90 || c.ip != TEST_VA;
			apic_write(APIC_EOI, 0);
		}
		CHECK_EQ("user-jump-to-itself", bad, 0);
		for (unsigned i = 0; i < 5; i++) {
			apic_write(APIC_TIMER_ICT, 1000000);
			c = user_ctx(TEST_VA, TEST_VA + 4096);
			c.cs = SEL_UCODE32 | 3;
			c.flags |= FL_IF;
			bad += run(&c) != 0x90 || c.ip != TEST_VA;
			apic_write(APIC_EOI, 0);
		}
		CHECK_EQ("compat-jump-to-itself", bad, 0);
	}
}

asm(".pushsection .bss\n.globl cell_\ncell_: .skip 16\n.popsection");
