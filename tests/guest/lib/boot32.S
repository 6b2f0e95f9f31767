/* SPDX-License-Identifier: MIT */
/* Multiboot 1 entry, trap stubs, run() and AP start-up for guests that stay in 32-bit modes. */
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
	/* The loader's information may lie where .low goes: copy it first. */
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
1:	mov $low_load, %esi
	mov $low_start, %edi
	mov $low_end, %ecx
	sub %edi, %ecx
	rep movsb
	lgdt gdt_ptr
	ljmp $SEL_CODE, $3f
3:	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %cr0, %eax
	and $~0x60000000, %eax
	mov %eax, %cr0
	xor %ebp, %ebp
	call lib_init
	call test_main
	call test_end
5:	hlt
	jmp 5b

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

	.globl trap_common
trap_common:
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %esp, %ebx
	push %esp
	call trap_dispatch
	mov %ebx, %esp
	add $8, %esp		/* FS and GS are as they were, and tests may have made their descriptors unloadable */
	pop %es
	pop %ds
	popa
	add $8, %esp
	.globl trap_iret
trap_iret:
	iret

/* run_asm(ctx): frame for IRET is built on the current stack; at CPL 0 the stack is switched before it. */
	.globl run_asm
run_asm:
	push %ebx
	push %ebp
	push %esi
	push %edi
	pushf
	mov 24(%esp), %edi
	mov %esp, run_sp
	mov %edi, run_ctx
	testl $0x20000, CTX_FLAGS(%edi)
	jnz 2f
	testl $3, CTX_CS(%edi)
	jnz 1f
	/* same privilege: IRET takes only EIP, CS, EFLAGS; put them on the context's own stack */
	mov CTX_SS(%edi), %eax
	mov CTX_GPR + 16(%edi), %ecx
	mov %eax, %ss
	mov %ecx, %esp
	jmp 3f
2:	push CTX_GS(%edi)
	push CTX_FS(%edi)
	push CTX_DS(%edi)
	push CTX_ES(%edi)
1:	push CTX_SS(%edi)
	push CTX_GPR + 16(%edi)
3:	push CTX_FLAGS(%edi)
	push CTX_CS(%edi)
	push CTX_IP(%edi)
	mov CTX_GPR + 0(%edi), %eax
	mov CTX_GPR + 4(%edi), %ecx
	mov CTX_GPR + 8(%edi), %edx
	mov CTX_GPR + 12(%edi), %ebx
	mov CTX_GPR + 20(%edi), %ebp
	mov CTX_GPR + 24(%edi), %esi
	cmpl $0, CTX_LOAD_SEGS(%edi)
	je 4f
	push CTX_DS(%edi)
	mov CTX_ES(%edi), %es
	mov CTX_FS(%edi), %fs
	mov CTX_GS(%edi), %gs
	mov CTX_GPR + 28(%edi), %edi
	pop %ds
	jmp run_iret
4:	mov CTX_GPR + 28(%edi), %edi
	.globl run_iret
run_iret:
	iret

	.globl run_return
run_return:
	mov $SEL_DATA, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov run_sp, %esp
	movl $0, run_ctx
	popf
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	ret

	.globl ap_entry
ap_entry:
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %cr0, %eax
	and $~0x60000000, %eax
	mov %eax, %cr0
	mov $1, %edi
	lock xadd %edi, ap_next
	inc %edi
	mov %edi, %eax
	imul $STACK_SIZE, %eax, %eax
	add ap_stacks, %eax
	mov %eax, %esp
	xor %ebp, %ebp
	push %edi
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
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cffb000000ffff	/* 18 user code */
	.quad 0x00cff3000000ffff	/* 20 user data */
	.quad 0, 0, 0
	.quad 0x00009b000000ffff	/* 40 code16 */
	.quad 0x000093000000ffff	/* 48 data16 */
	.quad 0x0000fb000000ffff	/* 50 user code16 */
	.quad 0x0000f3000000ffff	/* 58 user data16 */
	.fill (GDT_BYTES - 0x60) / 8, 8, 0
	.globl gdt_ptr
gdt_ptr:
	.word GDT_BYTES - 1
	.long gdt

	.bss
	.align 4096
boot_stack: .skip STACK_SIZE
	.globl boot_stack_end
boot_stack_end:
	.globl boot_magic, boot_info, boot_info_copy, boot_cmdline, run_sp, run_ctx
boot_magic: .skip 4
boot_info: .skip 4
boot_info_copy: .skip 128
boot_cmdline: .skip 256
run_sp: .skip 4
run_ctx: .skip 4
