/* SPDX-License-Identifier: MIT */
/*
 * Code that runs below 1 MiB, at 0x8000: the AP trampoline (SIPI vector 8), and, for 32-bit guests, the
 * driver that runs a piece of real-mode code until it raises an interrupt or exception (real_run()).
 */
#include "defs.h"

	.section .low, "awx"
	.code16
	.globl ap_trampoline
ap_trampoline:				/* CS = 0x800, IP = 0 */
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl low_gdt_ptr - 0x8000
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $SEL_CODE32, $ap_entry

	.align 4
low_gdt_ptr:
	.word GDT_BYTES - 1
	.long gdt

#ifndef __x86_64__
/*
 * real_run_asm(struct ctx *): the IVT must already point at real_stubs (segment 0x800). Loads the context, far-returns
 * into it in real mode; any interrupt vector comes back here with everything saved in real_ctx.
 */
	.text
	.code32
	.globl real_run_asm
real_run_asm:
	push %ebx
	push %ebp
	push %esi
	push %edi
	pushf
	cli
	mov %esp, run_sp
	mov 24(%esp), %esi
	mov $real_ctx, %edi
	mov $(68 / 4), %ecx
	rep movsl
	sidt saved_idt
	lidt real_idt_ptr
	mov $SEL_DATA16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	ljmp $SEL_CODE16, $real_enter

	.section .low, "awx"
	.code16
real_enter:				/* 16-bit protected mode, base 0 */
	mov %cr0, %eax
	and $~1, %eax
	mov %eax, %cr0
	ljmp $0, $1f
1:	xor %ax, %ax
	mov %ax, %ds
	mov real_ctx + CTX_SS, %ss
	mov real_ctx + CTX_GPR + 16, %esp
	/* frame for IRET, 16 bit: IP, CS, FLAGS */
	pushw real_ctx + CTX_FLAGS
	pushw real_ctx + CTX_CS
	pushw real_ctx + CTX_IP
	mov real_ctx + CTX_GPR + 0, %eax
	mov real_ctx + CTX_GPR + 4, %ecx
	mov real_ctx + CTX_GPR + 8, %edx
	mov real_ctx + CTX_GPR + 12, %ebx
	mov real_ctx + CTX_GPR + 20, %ebp
	mov real_ctx + CTX_GPR + 24, %esi
	mov real_ctx + CTX_GPR + 28, %edi
	mov real_ctx + CTX_ES, %es
	mov real_ctx + CTX_FS, %fs
	mov real_ctx + CTX_GS, %gs
	mov real_ctx + CTX_DS, %ds
	iretw

	.align 8
	.globl real_stubs
real_stubs:				/* 5 bytes each: push imm16 (68 iw), jmp rel16 would not fit in 8 -> align 8 */
	.set vec, 0
	.rept 256
	.align 8
	pushw $vec
	.byte 0xe9
	.word real_common - . - 2
	.set vec, vec + 1
	.endr

real_common:				/* stack: vector, IP, CS, FLAGS */
	push %ds
	push $0
	pop %ds
	mov %eax, real_ctx + CTX_GPR + 0
	mov %ecx, real_ctx + CTX_GPR + 4
	mov %edx, real_ctx + CTX_GPR + 8
	mov %ebx, real_ctx + CTX_GPR + 12
	mov %ebp, real_ctx + CTX_GPR + 20
	mov %esi, real_ctx + CTX_GPR + 24
	mov %edi, real_ctx + CTX_GPR + 28
	mov %es, real_ctx + CTX_ES
	mov %fs, real_ctx + CTX_FS
	mov %gs, real_ctx + CTX_GS
	mov %ss, real_ctx + CTX_SS
	popw real_ctx + CTX_DS
	popw real_vector
	popw real_ctx + CTX_IP
	popw real_ctx + CTX_CS
	popw real_ctx + CTX_FLAGS
	mov %esp, real_ctx + CTX_GPR + 16
	lgdtl low_gdt_ptr
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $SEL_CODE, $real_leave

	.align 4
	.globl real_ctx, real_vector, real_idt_ptr
real_ctx: .skip 96
real_vector: .long 0
real_idt_ptr:
	.word 0x3ff
	.long 0
saved_idt: .skip 8

	.text
	.code32
real_leave:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov run_sp, %esp
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	lidt saved_idt
	mov 24(%esp), %edi
	mov $real_ctx, %esi
	mov $(68 / 4), %ecx
	rep movsl
	popf
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	movzwl real_vector, %eax
	ret
#endif
