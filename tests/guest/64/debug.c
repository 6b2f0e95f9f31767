/* SPDX-License-Identifier: MIT */
/* Single-stepping, debug registers, RF, DR6 and DR7 (SDM vol. 3, 18.2-18.3). */
#include "lib.h"

#define VA TEST_VA

/* Recording #DB handler: up to 32 stops. */
static volatile uint64_t stops[32], dr6s[32], flags_at[32];
static volatile unsigned count, limit;
static volatile bool set_rf, keep_tf;
static void db_handler(struct frame *f)
{
	if (count < 32) {
		stops[count] = f->ip;
		dr6s[count] = read_dr6();
		flags_at[count] = f->flags;
	}
	count++;
	write_dr6(0xffff0ff0);
	if (set_rf)
		f->flags |= FL_RF;
	if (count >= limit)
		f->flags &= ~FL_TF;
}
static void start(unsigned max)
{
	count = 0;
	limit = max;
	set_rf = false;
	write_dr6(0xffff0ff0);
}
#define ADDRESS(label)                                                                             \
	({                                                                                         \
		extern char label[];                                                               \
		(uint64_t)label;                                                                   \
	})

static void single_step(void)
{
	start(32);
	/* TF set by POPF traps after the *next* instruction */
	asm volatile("pushf; orl $0x100, (%%rsp); popf\n"
		     "ss0: nop\n"
		     "ss1: mov $1, %%eax\n"
		     "ss2: jmp ss4\n"
		     "ss3: nop\n"
		     "ss4: pushf; andl $~0x100, (%%rsp)\n"
		     "ss5: popf\n"
		     "ss6: nop" : : : "rax", "memory", "cc");
	CHECK_EQ("tf-first-stop", stops[0], ADDRESS(ss1));
	CHECK_EQ("tf-second-stop", stops[1], ADDRESS(ss2));
	CHECK_EQ("tf-jump", stops[2], ADDRESS(ss4));
	/* the POPF that clears TF still traps after itself (TF was 1 when it began) */
	CHECK_EQ("tf-popf-clearing", stops[count - 1], ADDRESS(ss6));
	CHECK_EQ("tf-count", count, 6);
	CHECK_EQ("tf-dr6-bs", dr6s[0], 0xffff4ff0);
	CHECK_EQ("tf-in-frame", flags_at[0] & FL_TF, FL_TF);

	/* a REP string instruction traps after each iteration */
	static uint8_t buf[8];
	start(32);
	{
		uint64_t c = 3;
		void *d = buf;
		asm volatile("pushf; orl $0x100, (%%rsp); popf\n"
			     "sr0: rep stosb\n"
			     "sr1: pushf; andl $~0x100, (%%rsp); popf" : "+c"(c), "+D"(d) : "a"(1) : "memory", "cc");
	}
	CHECK_EQ("tf-rep-1", stops[0], ADDRESS(sr0));
	CHECK_EQ("tf-rep-2", stops[1], ADDRESS(sr0));
	CHECK_EQ("tf-rep-3", stops[2], ADDRESS(sr1));

	/* MOV SS holds the trap off by one instruction */
	start(32);
	asm volatile("mov %%ss, %%eax; pushf; orl $0x100, (%%rsp); popf\n"
		     "sm0: mov %%eax, %%ss\n"
		     "sm1: nop\n"
		     "sm2: nop\n"
		     "sm3: pushf; andl $~0x100, (%%rsp); popf" : : : "rax", "memory", "cc");
	CHECK_EQ("tf-mov-ss", stops[0], ADDRESS(sm2));
	CHECK_EQ("tf-after-mov-ss", stops[1], ADDRESS(sm3));

	/* an exception clears TF for its handler, IRET brings it back; INT n is stepped as one instruction into the handler */
	start(32);
	asm volatile("pushf; orl $0x100, (%%rsp); popf\n"
		     "si0: int $0x84\n"
		     "si1: nop\n"
		     "si2: pushf; andl $~0x100, (%%rsp); popf" : : : "memory", "cc");
	/* INT n clears TF: the trap for it does not come; the first is after the instruction that follows the IRET */
	CHECK_EQ("tf-int-n", stops[0], ADDRESS(si2));

	/* a faulting instruction is not stepped */
	start(2);
	TRY("pushf; orl $0x100, (%%rsp); popf; ud2", : : : "memory");
	CHECK_EQ("tf-fault", trap.vector, UD);
	CHECK_EQ("tf-fault-count", count, 0);
	CHECK_EQ("tf-fault-flags", trap.flags & FL_TF, FL_TF);

	/* cpuid, rdmsr, in: instructions handled specially are stepped too */
	start(32);
	asm volatile("mov $0x10, %%ecx; mov $0x80, %%edx; pushf; orl $0x100, (%%rsp); popf\n"
		     "sx0: in %%dx, %%al\n"
		     "sx1: cpuid\n"
		     "sx2: mov $0x10, %%ecx\n"
		     "sx3: rdmsr\n"
		     "sx4: mov %%cr0, %%rax\n"
		     "sx5: cli\n"
		     "sx6: pushf; andl $~0x100, (%%rsp); popf" : : : "rax", "rbx", "rcx", "rdx", "memory", "cc");
	CHECK_EQ("tf-in", stops[0], ADDRESS(sx1));
	CHECK_EQ("tf-cpuid", stops[1], ADDRESS(sx2));
	CHECK_EQ("tf-rdmsr", stops[3], ADDRESS(sx4));
	CHECK_EQ("tf-mov-cr", stops[4], ADDRESS(sx5));
	CHECK_EQ("tf-cli", stops[5], ADDRESS(sx6));

	/* ICEBP is #DB without BS in DR6 */
	start(1);
	TRY("b10: .byte 0xf1\nb11:", : : : "memory");
	CHECK_EQ("icebp-stop", stops[0], ADDRESS(b11));
	CHECK_EQ("icebp-dr6", dr6s[0], 0xffff0ff0);
}

static void syscall_step(void)
{
	struct ctx c;
	uint8_t *k = alloc_pages(1);

	map_user(VA, 1);
	/* TF in user mode, masked by SFMASK: no trap in the kernel until SYSRET restores it */
	memcpy(k, "\x90\x90\xcd\x82", 4);
	wrmsr(MSR_STAR, (uint64_t)(SEL_UCODE32 | 3) << 48 | (uint64_t)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, (uint64_t)k);
	wrmsr(MSR_SFMASK, FL_TF | FL_IF);
	memcpy((void *)VA, "\x0f\x05\x90\xcd\x80", 5);
	start(32);
	set_handler(DB, NULL);
	c = user_ctx(VA, VA + 0x1000);
	c.flags |= FL_TF;
	CHECK_EQ("tf-syscall-masked", run(&c), 0x82);
	CHECK_EQ("tf-syscall-r11", c.r[R11] & FL_TF, FL_TF);
	/* not masked: the trap comes after SYSCALL, at LSTAR */
	wrmsr(MSR_SFMASK, FL_IF);
	c = user_ctx(VA, VA + 0x1000);
	c.flags |= FL_TF;
	CHECK_EQ("tf-syscall-unmasked", run(&c), DB);
	CHECK_EQ("tf-syscall-unmasked-ip", c.ip, (uint64_t)k);
	/* user single step: stops after the first instruction following IRET */
	memcpy((void *)VA, "\x90\x90\xcd\x80", 4);
	c = user_ctx(VA, VA + 0x1000);
	c.flags |= FL_TF;
	write_dr6(0xffff0ff0);
	CHECK_EQ("tf-user", run(&c), DB);
	CHECK_EQ("tf-user-ip", c.ip, VA + 1);
	CHECK_EQ("tf-user-dr6", read_dr6(), 0xffff4ff0);
	write_dr6(0xffff0ff0);
	CHECK_EQ("tf-user-2", run(&c), DB);
	CHECK_EQ("tf-user-2-ip", c.ip, VA + 2);
	set_handler(DB, db_handler);
}

static volatile uint64_t data[4] __attribute__((aligned(32)));
static void breakpoints(void)
{
	uint64_t a, b;

	/* execution: a fault, before the instruction; RF lets it pass */
	start(32);
	set_rf = true;
	write_dr0(ADDRESS(bx1));
	write_dr7(0x402);
	a = 0;
	asm volatile("bx0: nop\nbx1: mov $5, %k0\nbx2: nop" : "+r"(a) : : "memory");
	write_dr7(0x400);
	CHECK_EQ("exec-count", count, 1);
	CHECK_EQ("exec-ip", stops[0], ADDRESS(bx1));
	CHECK_EQ("exec-dr6", dr6s[0] & 0xf00f, 1);
	CHECK_EQ("exec-went-on", a, 5);
	CHECK_EQ("exec-frame-rf", flags_at[0] & FL_RF, FL_RF);
	/* disabled: no stop */
	start(32);
	asm volatile("call 1f; jmp 2f\n1: ret\n2:" ::: "memory");
	write_dr7(0x400);
	CHECK_EQ("exec-disabled", count, 0);

	/* data writes: a trap, after the instruction */
	start(32);
	write_dr1((uint64_t)&data[1]);
	write_dr7(0x400 | 0x8 | 1 << 20 | 3 << 22); /* G1, write, 4 bytes */
	asm volatile("bw0: movl $1, 8(%0)\nbw1: mov 8(%0), %%eax\nbw2: movb $1, 11(%0)\nbw3: movb $1, 12(%0)\nbw4: movq $1, 4(%0)\nbw5:" : : "r"(data)
		     : "rax", "memory");
	write_dr7(0x400);
	CHECK_EQ("write-count", count, 3);
	CHECK_EQ("write-ip", stops[0], ADDRESS(bw1));
	CHECK_EQ("write-dr6", dr6s[0] & 0xf00f, 2);
	CHECK_EQ("write-inside-range", stops[1], ADDRESS(bw3));
	CHECK_EQ("write-overlapping", stops[2], ADDRESS(bw5));

	/* reads and writes */
	start(32);
	write_dr2((uint64_t)&data[2]);
	write_dr7(0x400 | 0x20 | 3u << 24 | 2u << 26); /* G2, read/write, 8 bytes */
	asm volatile("br0: mov 16(%0), %%eax\nbr1: mov %%eax, 20(%0)\nbr2: lea 16(%0), %%rax\nbr3: mov 24(%0), %%eax\nbr4: nop" : : "r"(data)
		     : "rax", "memory");
	write_dr7(0x400);
	CHECK_EQ("rw-count", count, 2);
	CHECK_EQ("rw-read-ip", stops[0], ADDRESS(br1));
	CHECK_EQ("rw-write-ip", stops[1], ADDRESS(br2));
	CHECK_EQ("rw-dr6", dr6s[0] & 0xf00f, 4);
	/* push, rep movs, xchg, implicit accesses */
	start(32);
	write_dr3((uint64_t)&data[0]);
	write_dr7(0x400 | 0x80 | 1u << 28 | 2u << 30); /* G3, write, 8 bytes */
	a = (uint64_t)&data[1];
	asm volatile("xchg %%rsp, %0\nbp0: push $1\nbp1: xchg %%rsp, %0" : "+r"(a) : : "memory");
	write_dr7(0x400);
	CHECK("push-stops", count >= 1 && stops[0] == ADDRESS(bp1));
	start(32);
	write_dr7(0x400 | 0x80 | 1u << 28 | 2u << 30);
	a = 4;
	b = (uint64_t)&data[3] + 7;
	asm volatile("std\nbs0: rep stosq\nbs1: cld" : "+D"(b), "+c"(a) : "a"(0) : "memory");
	write_dr7(0x400);
	(void)b;
	/* DR6's B bits: also set for breakpoints that match but are not enabled? Only sure: BS and B3 not both without TF */

	/* GD: any access of a debug register faults, BD set; GD is cleared by the #DB */
	start(32);
	write_dr7(0x400 | 0x2000);
	asm volatile("bg0: mov %%dr0, %%rax\nbg1:" : : : "rax", "memory");
	CHECK_EQ("gd-count", count, 1);
	CHECK_EQ("gd-ip", stops[0], ADDRESS(bg0));
	CHECK_EQ("gd-dr6", dr6s[0] & 0x2000, 0x2000);
	CHECK_EQ("gd-cleared", read_dr7() & 0x2000, 0);

	/* register formats */
	write_dr7(0xffffffff & ~0xffu & ~0x2000u);
	CHECK_EQ("dr7-fixed-bits", read_dr7() & 0xd400, 0x400);
	write_dr7(0x400);
	write_dr6(0);
	CHECK_EQ("dr6-fixed-bits", read_dr6() & 0xffff1ff0, 0xffff0ff0);
	CHECK_EQ("dr7-high", VECTOR_OF("mov %0, %%dr7", : : "r"(1ul << 32)), GP);
	CHECK_EQ("dr6-high", VECTOR_OF("mov %0, %%dr6", : : "r"(1ul << 32)), GP);
	/* DR4 and DR5 are DR6 and DR7 unless CR4.DE */
	asm volatile("mov %%db4, %0" : "=r"(a));
	CHECK_EQ("dr4-alias", a, read_dr6());
	write_cr4(read_cr4() | CR4_DE);
	CHECK_EQ("dr4-with-de", VECTOR_OF("mov %%db4, %%rax", : : : "rax"), UD);
	write_cr4(read_cr4() & ~CR4_DE);
	/* the address registers are 64-bit, and compare linear addresses */
	write_dr0(0xffff800012345678);
	CHECK_EQ("dr0-64-bit", read_dr0(), 0xffff800012345678);
	/* LE/GE bits and length: a 1-byte breakpoint matches any access that touches the byte */
	start(32);
	write_dr0((uint64_t)data + 5);
	write_dr7(0x402 | 1u << 16);
	asm volatile("bl0: movq $0, (%0)\nbl1: movl $0, (%0)\nbl2: movw $0, 5(%0)\nbl3:" : : "r"(data) : "memory");
	write_dr7(0x400);
	CHECK_EQ("byte-in-quad", count, 2);
	/* breakpoints in user mode, and data breakpoints hit by the kernel's instructions on user memory */
	{
		struct ctx c;

		set_handler(DB, NULL);
		memcpy((void *)VA, "\x90\x90\x90\xcd\x80", 5);
		write_dr6(0xffff0ff0);
		write_dr0(VA + 2);
		write_dr7(0x401);
		c = user_ctx(VA, VA + 0x1000);
		CHECK_EQ("user-exec", run(&c), DB);
		CHECK_EQ("user-exec-ip", c.ip, VA + 2);
		c.flags |= FL_RF;
		CHECK_EQ("user-exec-rf", run(&c), 0x80);
		CHECK_EQ("rf-cleared-after-instruction", c.flags & FL_RF, 0);
		/* exec breakpoint on the instruction itself, twice in a loop: RF holds for one instruction only */
		write_dr7(0x400);
		set_handler(DB, db_handler);
	}
	start(32);
	set_rf = true;
	write_dr0(ADDRESS(bk1));
	write_dr7(0x402);
	asm volatile("mov $3, %%ecx\nbk1: dec %%ecx\njnz bk1" : : : "rcx", "memory", "cc");
	write_dr7(0x400);
	CHECK_EQ("exec-in-loop", count, 3);
	/* TF and a data breakpoint at once: one #DB with both bits */
	start(1);
	write_dr0((uint64_t)data);
	write_dr7(0x402 | 1u << 16);
	asm volatile("pushf; orl $0x100, (%%rsp); popf; movb $0, (%0); nop; pushf; andl $~0x100, (%%rsp); popf" : : "r"(data) : "memory", "cc");
	write_dr7(0x400);
	CHECK_EQ("tf-and-data", dr6s[0] & 0xf00f, 0x4001);
}

void test_main(void)
{
	set_handler(DB, db_handler);
	{
		extern void nothing_handler(struct frame *f);
		set_handler(0x84, nothing_handler);
	}
	single_step();
	syscall_step();
	breakpoints();
}

void nothing_handler(struct frame *f);
void nothing_handler(struct frame *f)
{
}
