/* SPDX-License-Identifier: MIT */
/*
 * The border between C and translated code: bt_enter() and the trampolines of bt.h.
 *
 * On the way out every guest register goes to cpu->state (r10 and r11 live there anyway), the
 * arithmetic flags and DF to state.rflags, and the C part runs on the stack bt_enter() was called
 * on. It returns the address to go on at, or 0 to leave bt_enter(). The host's RSP holds the guest's while
 * translated code runs, so nothing is pushed before the switch. rbx holds the struct bt_vcpu across the C
 * part.
 *
 * The way back: `running` is set first and `hold` looked at second; whoever stops vCPUs sets `hold`, makes
 * every CPU serialise (membarrier), then looks at `running`. Flags are restored with ADD (for OF)
 * and SAHF, which are far cheaper than POPF.
 */
#include "engine/bt/offsets.h"

	.intel_syntax noprefix
	.text

#define FLAGS_MASK 0xcd5 /* CF PF AF ZF SF DF OF */

/* Guest registers to the state, except r10 and r11. */
.macro save_gprs
	mov	qword ptr gs:[OFF_GPR + 0 * 8], rax
	mov	qword ptr gs:[OFF_GPR + 1 * 8], rcx
	mov	qword ptr gs:[OFF_GPR + 2 * 8], rdx
	mov	qword ptr gs:[OFF_GPR + 3 * 8], rbx
	mov	qword ptr gs:[OFF_GPR + 4 * 8], rsp
	mov	qword ptr gs:[OFF_GPR + 5 * 8], rbp
	mov	qword ptr gs:[OFF_GPR + 6 * 8], rsi
	mov	qword ptr gs:[OFF_GPR + 7 * 8], rdi
	mov	qword ptr gs:[OFF_GPR + 8 * 8], r8
	mov	qword ptr gs:[OFF_GPR + 9 * 8], r9
	mov	qword ptr gs:[OFF_GPR + 12 * 8], r12
	mov	qword ptr gs:[OFF_GPR + 13 * 8], r13
	mov	qword ptr gs:[OFF_GPR + 14 * 8], r14
	mov	qword ptr gs:[OFF_GPR + 15 * 8], r15
.endm

/* eax: flags to merge into the state. Then rbx = vCPU, rdi = cpu, rsi = r11, rdx = r10. */
.macro enter_c activity
	mov	ecx, dword ptr gs:[OFF_RFLAGS]
	and	eax, FLAGS_MASK
	and	ecx, ~FLAGS_MASK
	or	eax, ecx
	mov	dword ptr gs:[OFF_RFLAGS], eax
	mov	rbx, qword ptr gs:[OFF_VCPU]
	mov	rsi, r11
	mov	rdx, r10
	mov	dword ptr [rbx + OFF_V_RUNNING], 0
	mov	byte ptr [rbx + OFF_V_ACTIVITY], \activity
	mov	qword ptr [rbx + OFF_V_R11], r11 /* the profiler finds the block by it */
	mov	rdi, qword ptr [rbx + OFF_V_CPU]
.endm

/* A trampoline with the guest's flags in EFLAGS. */
.macro trampoline name, part, activity
	.p2align 5
	.globl	\name
	.type	\name, @function
\name:
	save_gprs
	mov	rsp, qword ptr gs:[OFF_HOST_RSP]
	pushfq
	pop	rax
	cld
	enter_c \activity
	call	\part
	jmp	bt_return
	.size	\name, . - \name
.endm

	.globl	bt_entry_start
bt_entry_start:

	trampoline bt_tramp_memory, bt_part_memory, ACTIVITY_MEMORY
	trampoline bt_tramp_commit, bt_part_commit, ACTIVITY_COMMIT
	trampoline bt_tramp_chain, bt_part_chain, ACTIVITY_CHAIN
	trampoline bt_tramp_poll, bt_part_poll, ACTIVITY_POLL
	trampoline bt_tramp_dispatch, bt_part_dispatch, ACTIVITY_DISPATCH
	trampoline bt_tramp_fault, bt_part_fault, ACTIVITY_FAULT

	.p2align 5
	.globl	bt_tramp_helper
	.type	bt_tramp_helper, @function
bt_tramp_helper:
	mov	qword ptr gs:[OFF_ARG], r10
	save_gprs
	mov	rsp, qword ptr gs:[OFF_HOST_RSP]
	pushfq
	pop	rax
	cld
	enter_c ACTIVITY_HELPER
	call	bt_part_helper
	jmp	bt_return
	.size	bt_tramp_helper, . - bt_tramp_helper

/* With the flags in cpu->flags_slot, but DF in EFLAGS. */
	.p2align 5
	.globl	bt_tramp_jump
	.globl	bt_tramp_jump_miss
	.type	bt_tramp_jump, @function
bt_tramp_jump:
bt_tramp_jump_miss:
	save_gprs
	mov	rsp, qword ptr gs:[OFF_HOST_RSP]
	pushfq
	pop	rax
	cld
	and	eax, 0x400
	movzx	ecx, byte ptr gs:[OFF_FLAGS_SLOT]
	shl	ecx, 11
	or	eax, ecx
	movzx	ecx, byte ptr gs:[OFF_FLAGS_SLOT + 1]
	or	eax, ecx
	enter_c ACTIVITY_JUMP
	call	bt_part_jump
	jmp	bt_return
	.size	bt_tramp_jump, . - bt_tramp_jump

/* void bt_enter(struct bt_vcpu *v, uint64_t target) */
	.p2align 5
	.globl	bt_enter
	.type	bt_enter, @function
bt_enter:
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	sub	rsp, 8
	mov	rbx, rdi
	mov	qword ptr gs:[OFF_HOST_RSP], rsp
	mov	rax, rsi
	/* fall through */
	.size	bt_enter, . - bt_enter

/* rax: where to go on, or 0; rbx: the vCPU. */
bt_return:
	test	rax, rax
	jz	.Lleave
.Lagain:
	mov	dword ptr [rbx + OFF_V_RUNNING], 1
	cmp	dword ptr [rbx + OFF_V_HOLD], 0
	jne	.Lhold
	mov	qword ptr gs:[OFF_TARGET], rax
	cmp	byte ptr [rbx + OFF_V_FPU_SAVED], 0
	jne	.Lfpu
.Lloaded:
	mov	eax, dword ptr gs:[OFF_RFLAGS]
	mov	r10, qword ptr [rbx + OFF_V_R10]
	mov	r11, qword ptr [rbx + OFF_V_R11]
	mov	rcx, qword ptr gs:[OFF_GPR + 1 * 8]
	mov	rdx, qword ptr gs:[OFF_GPR + 2 * 8]
	mov	rbx, qword ptr gs:[OFF_GPR + 3 * 8]
	mov	rsp, qword ptr gs:[OFF_GPR + 4 * 8]
	mov	rbp, qword ptr gs:[OFF_GPR + 5 * 8]
	mov	rsi, qword ptr gs:[OFF_GPR + 6 * 8]
	mov	rdi, qword ptr gs:[OFF_GPR + 7 * 8]
	mov	r8, qword ptr gs:[OFF_GPR + 8 * 8]
	mov	r9, qword ptr gs:[OFF_GPR + 9 * 8]
	mov	r12, qword ptr gs:[OFF_GPR + 12 * 8]
	mov	r13, qword ptr gs:[OFF_GPR + 13 * 8]
	mov	r14, qword ptr gs:[OFF_GPR + 14 * 8]
	mov	r15, qword ptr gs:[OFF_GPR + 15 * 8]
	test	eax, 0x400
	jnz	.Ldf
.Lflags:
	/* ah = SF ZF AF PF CF, al = OF */
	shl	eax, 8
	bt	eax, 19
	setc	al
	mov	word ptr gs:[OFF_FLAGS_SLOT], ax
	add	al, 0x7f
	sahf
	mov	rax, qword ptr gs:[OFF_GPR + 0 * 8]
	jmp	qword ptr gs:[OFF_TARGET]
.Ldf:
	std
	jmp	.Lflags

.Lfpu:
	mov	eax, dword ptr [rbx + OFF_V_XSAVE_MASK]
	mov	edx, dword ptr [rbx + OFF_V_XSAVE_MASK + 4]
	mov	rdi, qword ptr [rbx + OFF_V_CPU]
	test	eax, eax
	jz	.Lfxrstor
	xrstor64 [rdi + OFF_XSAVE]
	mov	byte ptr [rbx + OFF_V_FPU_SAVED], 0
	jmp	.Lloaded

.Lfxrstor: /* a host without XSAVE */
	fxrstor64 [rdi + OFF_XSAVE]
	mov	byte ptr [rbx + OFF_V_FPU_SAVED], 0
	jmp	.Lloaded

.Lhold:
	mov	dword ptr [rbx + OFF_V_RUNNING], 0
	mov	rbp, rax
	mov	rdi, rbx
	call	bt_part_hold
	mov	rax, rbp
	jmp	.Lagain

.Lleave:
	mov	byte ptr [rbx + OFF_V_ACTIVITY], ACTIVITY_NONE
	add	rsp, 8
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

	.globl	bt_entry_end
bt_entry_end:

	.section .note.GNU-stack, "", @progbits
