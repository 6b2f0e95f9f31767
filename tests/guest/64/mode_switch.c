/* SPDX-License-Identifier: MIT */
/*
 * Out of long mode and back (SDM vol. 3, 9.8.5): 64-bit, compatibility, 32-bit protected without paging, real mode, and the same
 * way back, many times, with EFER.LMA and CR0 as they must be in each.
 */
#include "lib.h"

extern volatile uint32_t ms_cr0, ms_efer, ms_real, ms_long_again;
extern char ms_start[];

/* ms_start: a far-callable 32-bit routine (compatibility mode), at low addresses so that real mode reaches it */
asm(".pushsection .low, \"awx\"\n"
    ".code32\n"
    "ms_start:\n"
    "	mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n" /* paging off: LMA goes */
    "	mov $0xc0000080, %ecx; rdmsr; mov %eax, ms_efer\n"
    "	and $~0x100, %eax; wrmsr\n"
    "	mov %cr4, %eax; and $~0x20, %eax; mov %eax, %cr4\n"
    "	ljmp $0x40, $ms_16\n"
    ".code16\n"
    "ms_16:	mov $0x48, %ax; mov %ax, %ds; mov %ax, %ss; mov %ax, %es\n"
    "	mov %cr0, %eax; and $0xfffffffe, %eax; mov %eax, %cr0\n"
    "	ljmp $0, $ms_rm\n"
    "ms_rm:	xor %ax, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x7000, %sp\n"
    "	mov %cr0, %eax; mov %eax, ms_cr0\n"
    "	push $0x1234; pop %bx; mov $0xb800, %ax; mov %ax, %es; mov %es, %cx\n"
    "	movzwl %bx, %ebx; shl $16, %ecx; or %ecx, %ebx; mov %ebx, ms_real\n"
    "	mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
    "	ljmpl $0x08, $ms_32\n"
    ".code32\n"
    "ms_32:	mov $0x18, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
    "	mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4\n"
    "	mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr\n"
    "	mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
    "	rdmsr; mov %eax, ms_long_again\n"
    "	ljmp $0x10, $ms_64\n"
    ".code64\n"
    "ms_64:	mov ms_sp, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".globl ms_call\n"
    "ms_call: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp, ms_sp\n"
    "	ljmp *ms_far\n"
    ".align 8\n"
    "ms_far: .long ms_start\n	.word 0x08\n	.word 0\n"
    "ms_sp: .quad 0\n"
    "ms_cr0: .long 0\nms_efer: .long 0\nms_real: .long 0\nms_long_again: .long 0\n"
    ".popsection");
void ms_call(void);

void test_main(void)
{
	unsigned bad[4] = { 0 };

	for (unsigned i = 0; i < 200; i++) {
		ms_efer = ms_cr0 = ms_real = ms_long_again = 0xffffffff;
		ms_call();
		bad[0] += (ms_efer & 0x500) != 0x100; /* LME set, LMA clear */
		bad[1] += (ms_cr0 & 0x80000001) != 0;
		bad[2] += ms_real != 0xb8001234;
		bad[3] += (ms_long_again & 0x500) != 0x500;
	}
	CHECK_EQ("lma-after-paging-off", bad[0], 0);
	CHECK_EQ("real-mode-cr0", bad[1], 0);
	CHECK_EQ("real-mode-work", bad[2], 0);
	CHECK_EQ("lma-after-paging-on", bad[3], 0);
	CHECK_EQ("traps-work-after", VECTOR_OF("ud2", :), UD);
	/* setting PG with LME and without PAE: #GP; and with CS.L set when PG comes on: covered by hand-written loaders */
	CHECK_EQ("still-long", rdmsr(MSR_EFER) & 0x500, 0x500);
}
