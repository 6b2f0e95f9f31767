/* SPDX-License-Identifier: MIT */
/*
 * Multiboot 1 entry (32-bit protected mode) into 64-bit mode; trap stubs; run(); AP start-up.
 * Compiled with -m64; the image is turned into an ELF32 by objcopy, which multiboot loaders want.
 */
#include "defs.h"

	.section .multiboot, "a"
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.code32
	.globl _start
_start:
	cld
	mov $boot_stack_end, %esp
	mov %eax, boot_magic
	mov %ebx, boot_info
	mov $low_load, %esi
	mov $low_start, %edi
	mov $low_end, %ecx
	sub %edi, %ecx
	push %ebx
	/* The loader's information may lie where .low goes: copy it (1 KiB is ample) first. */
	push %esi
	push %edi
	push %ecx
	mov %ebx, %esi
	mov $boot_info_copy, %edi
	mov $120, %ecx
	rep movsb
	mov 16(%ebx), %esi
	testl $4, (%ebx)
	jz 1f
	mov $boot_cmdline, %edi
	mov $255, %ecx
	rep movsb
1:	pop %ecx
	pop %edi
	pop %esi
	rep movsb
	pop %ebx
	/* Page tables: identity [0, 1 GiB) and [3 GiB, 4 GiB) by 2 MiB pages; the rest is for tests. */
	movl $boot_pdpt + 7, boot_pml4
	movl $boot_pd0 + 7, boot_pdpt
	movl $boot_pd3 + 7, boot_pdpt + 24
	mov $0x83, %eax
	xor %ecx, %ecx
2:	mov %eax, boot_pd0(, %ecx, 8)
	lea 0xc0000010(%eax), %edx	/* PCD */
	mov %edx, boot_pd3(, %ecx, 8)
	add $0x200000, %eax
	inc %ecx
	cmp $512, %ecx
	jne 2b
	lgdt gdt_ptr
	ljmp $SEL_CODE32, $3f
3:	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %cr4, %eax
	or $0x20, %eax
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax		/* SCE, LME, NXE */
	wrmsr
	mov %cr0, %eax
	or $0x80010000, %eax
	and $~0x60000000, %eax
	mov %eax, %cr0
	ljmp $SEL_CODE, $4f
	.code64
4:	mov $boot_stack_end, %rsp
	xor %ebp, %ebp
	xor %edi, %edi
	call lib_init
	call test_main
	call test_end
5:	hlt
	jmp 5b

/* ---- trap stubs: 256 entries of 16 bytes ---- */
	.align 16
	.globl trap_stubs
trap_stubs:
	.set vec, 0
	.rept 256
	.align 16
	.if (vec == 8) || (vec >= 10 && vec <= 14) || (vec == 17) || (vec == 21)
	.else
	push $0
	.endif
	push $vec
	jmp trap_common
	.set vec, vec + 1
	.endr

trap_common:
	push %r15
	push %r14
	push %r13
	push %r12
	push %r11
	push %r10
	push %r9
	push %r8
	push %rdi
	push %rsi
	push %rbp
	push $0
	push %rbx
	push %rdx
	push %rcx
	push %rax
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap_dispatch
	mov %rbp, %rsp
	pop %rax
	pop %rcx
	pop %rdx
	pop %rbx
	add $8, %rsp
	pop %rbp
	pop %rsi
	pop %rdi
	pop %r8
	pop %r9
	pop %r10
	pop %r11
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	add $16, %rsp
	.globl trap_iret
trap_iret:
	iretq

/* ---- run(ctx): see lib.h ---- */
	.globl run_asm
run_asm:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	pushf
	mov %rsp, run_sp
	mov %rdi, run_ctx
	cmpq $0, CTX_LOAD_SEGS(%rdi)
	je 1f
	mov CTX_DS(%rdi), %ds
	mov CTX_ES(%rdi), %es
	mov CTX_FS(%rdi), %fs
	mov CTX_GS(%rdi), %gs
1:	push CTX_SS(%rdi)
	push CTX_GPR + 32(%rdi)
	push CTX_FLAGS(%rdi)
	push CTX_CS(%rdi)
	push CTX_IP(%rdi)
	mov CTX_GPR + 0(%rdi), %rax
	mov CTX_GPR + 8(%rdi), %rcx
	mov CTX_GPR + 16(%rdi), %rdx
	mov CTX_GPR + 24(%rdi), %rbx
	mov CTX_GPR + 40(%rdi), %rbp
	mov CTX_GPR + 48(%rdi), %rsi
	mov CTX_GPR + 64(%rdi), %r8
	mov CTX_GPR + 72(%rdi), %r9
	mov CTX_GPR + 80(%rdi), %r10
	mov CTX_GPR + 88(%rdi), %r11
	mov CTX_GPR + 96(%rdi), %r12
	mov CTX_GPR + 104(%rdi), %r13
	mov CTX_GPR + 112(%rdi), %r14
	mov CTX_GPR + 120(%rdi), %r15
	mov CTX_GPR + 56(%rdi), %rdi
	.globl run_iret
run_iret:
	iretq

	.globl run_return
run_return:
	mov $SEL_DATA, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov run_sp, %rsp
	movq $0, run_ctx
	popf
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* ---- AP entry, from the real-mode trampoline in low.S; 32-bit protected mode, paging off ---- */
	.code32
	.globl ap_entry
ap_entry:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %cr4, %eax
	or $0x20, %eax
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80010000, %eax
	and $~0x60000000, %eax
	mov %eax, %cr0
	ljmp $SEL_CODE, $1f
	.code64
1:	mov $1, %edi
	lock xadd %edi, ap_next
	inc %edi
	mov %edi, %eax
	imul $STACK_SIZE, %eax, %eax
	add ap_stacks, %rax
	mov %rax, %rsp
	xor %ebp, %ebp
	call ap_main
2:	cli
	hlt
	jmp 2b

	.data
	.align 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 08 code32 */
	.quad 0x00af9b000000ffff	/* 10 code64 */
	.quad 0x00cf93000000ffff	/* 18 data */
	.quad 0x00cffb000000ffff	/* 20 user code32 */
	.quad 0x00cff3000000ffff	/* 28 user data */
	.quad 0x00affb000000ffff	/* 30 user code64 */
	.quad 0x00cff3000000ffff	/* 38 user data */
	.quad 0x00009b000000ffff	/* 40 code16 */
	.quad 0x000093000000ffff	/* 48 data16 */
	.quad 0x0000fb000000ffff	/* 50 user code16 */
	.quad 0x0000f3000000ffff	/* 58 user data16 */
	.fill (GDT_BYTES - 0x60) / 8, 8, 0
	.globl gdt_ptr
gdt_ptr:
	.word GDT_BYTES - 1
	.quad gdt

	.bss
	.align 4096
	.globl boot_pml4, boot_pdpt
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd0: .skip 4096
boot_pd3: .skip 4096
boot_stack: .skip STACK_SIZE
	.globl boot_stack_end
boot_stack_end:
	.globl boot_magic, boot_info, boot_info_copy, boot_cmdline, run_sp, run_ctx
boot_magic: .skip 8
boot_info: .skip 8
boot_info_copy: .skip 128
boot_cmdline: .skip 256
run_sp: .skip 8
run_ctx: .skip 8
