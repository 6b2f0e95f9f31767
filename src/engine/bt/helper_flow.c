/* SPDX-License-Identifier: MIT */
/*
 * Helpers for control transfers that translated code does not do itself: jumps in segments that are not
 * flat, far transfers, interrupts, system calls, and the traps of single-stepping and breakpoints.
 * The semantics are x86/system.h's; here operands are fetched and results handed to the runtime.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers_system.h"
#include "engine/bt/translate.h"

/* Set RIP to a near target (call->imm bit 0: arg is an IP, else linear; bits 1..: operand size). -1: beyond the limit. */
static int near_target(struct bt_cpu *cpu, const struct bt_call *call, struct x86_fault *fault)
{
	uint64_t ip = cpu->arg;
	unsigned opsize = (unsigned)(call->imm >> 1);

	if (x86_in_64bit(&cpu->state)) {
		cpu->state.rip = ip;
		return 0;
	}
	if (!(call->imm & 1))
		ip -= cpu->state.seg[X86_CS].base;
	ip = opsize == 2 ? (uint16_t)ip : (uint32_t)ip;
	/* Falling through to beyond the limit is the next instruction's fault, not this one's. */
	if (ip > cpu->state.seg[X86_CS].limit && ip != bt_rip(cpu, call->next_offset)) {
		*fault = (struct x86_fault){ .vector = X86_GP, .has_error = true };
		return -1;
	}
	cpu->state.rip = ip;
	return 0;
}

enum bt_result bt_help_near_jump(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	if (near_target(cpu, call, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	return BT_JUMP;
}

/* The end of an instruction that began with RFLAGS.TF set: #DB, a trap, with RIP at the target. */
enum bt_result bt_help_step(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	if (near_target(cpu, call, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	return bt_step_trap(cpu);
}

enum bt_result bt_help_undefined(struct bt_cpu *cpu, const struct bt_call *call)
{
	return bt_raise_vector(cpu, call->offset, X86_UD, false, 0);
}

enum bt_result bt_help_too_long(struct bt_cpu *cpu, const struct bt_call *call)
{
	return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
}

/* SDM vol. 3, table 2-2 and 13.1: which of #UD and #NM. */
enum bt_result bt_help_fpu_check(struct bt_cpu *cpu, const struct bt_call *call)
{
	const struct x86_cpu_state *s = &cpu->state;
	bool em = s->cr0 & X86_CR0_EM, ts = s->cr0 & X86_CR0_TS;
	uint8_t vector = X86_UD;

	switch (call->unit) {
	case X86_UNIT_X87:
		vector = em || ts ? X86_NM : X86_UD;
		break;
	case X86_UNIT_WAIT:
		vector = X86_NM;
		break;
	case X86_UNIT_MMX:
		vector = !em && ts ? X86_NM : X86_UD;
		break;
	case X86_UNIT_SSE:
		vector = !em && (s->cr4 & X86_CR4_OSFXSR) && ts ? X86_NM : X86_UD;
		break;
	case X86_UNIT_AVX512:
		if ((s->xcr0 & 0xe6) != 0xe6)
			break;
		/* fall through */
	case X86_UNIT_AVX:
		vector = (s->cr4 & X86_CR4_OSXSAVE) && (s->xcr0 & 6) == 6 && ts ? X86_NM : X86_UD;
		break;
	default:
		break;
	}
	return bt_raise_vector(cpu, call->offset, vector, false, 0);
}

/* Far pointer operand of CALL and JMP: immediate, or memory (offset first). */
static int far_pointer(struct bt_cpu *cpu, const struct bt_call *call, uint16_t *selector,
		       uint64_t *offset, struct x86_fault *fault)
{
	uint8_t buf[10] = { 0 };
	uint64_t o = 0;
	uint16_t sel;

	if (!call->has_mem) {
		*selector = call->imm2;
		*offset = (uint64_t)call->imm & helper_mask(call->opsize);
		return 0;
	}
	if (helper_load(cpu, call->seg, cpu->arg, buf, call->opsize + 2u, fault) < 0)
		return -1;
	__builtin_memcpy(&sel, buf + call->opsize, 2);
	if (call->opsize == 8)
		__builtin_memcpy(&o, buf, 8);
	else if (call->opsize == 4)
		__builtin_memcpy(&o, buf, 4);
	else
		__builtin_memcpy(&o, buf, 2);
	*selector = sel;
	*offset = o;
	return 0;
}

enum bt_result bt_help_jmp_far(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t selector;
	uint64_t offset;
	int rc = far_pointer(cpu, call, &selector, &offset, &fault);

	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_far_jump(bt_system(cpu), selector, offset, call->opsize, &fault);
	return helper_jump(cpu, call, rc, &fault);
}

enum bt_result bt_help_call_far(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t selector;
	uint64_t offset;
	int rc = far_pointer(cpu, call, &selector, &offset, &fault);

	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_far_call(bt_system(cpu), selector, offset, call->opsize, &fault);
	return helper_jump(cpu, call, rc, &fault);
}

enum bt_result bt_help_ret_far(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned pop = call->opcode == 0xca ? (uint16_t)call->imm : 0;

	helper_begin(cpu, call);
	return helper_jump(cpu, call, x86_far_return(bt_system(cpu), call->opsize, pop, &fault),
			   &fault);
}

enum bt_result bt_help_iret(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	return helper_jump(cpu, call, x86_iret(bt_system(cpu), call->opsize, &fault), &fault);
}

static enum bt_result software_event(struct bt_cpu *cpu, const struct bt_call *call,
				     enum x86_event_kind kind, uint8_t vector)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	cpu->stepping =
		0; /* TF is cleared on the way in: no trap at the handler's first instruction */
	return helper_jump(cpu, call,
			   x86_deliver_event(bt_system(cpu), kind, vector, false, 0, &fault),
			   &fault);
}

enum bt_result bt_help_int(struct bt_cpu *cpu, const struct bt_call *call)
{
	return software_event(cpu, call, X86_EVENT_INT_N, (uint8_t)call->imm);
}

enum bt_result bt_help_int3(struct bt_cpu *cpu, const struct bt_call *call)
{
	return software_event(cpu, call, X86_EVENT_INT3_INTO, X86_BP);
}

enum bt_result bt_help_int1(struct bt_cpu *cpu, const struct bt_call *call)
{
	return software_event(cpu, call, X86_EVENT_INT1, X86_DB);
}

enum bt_result bt_help_into(struct bt_cpu *cpu, const struct bt_call *call)
{
	if (!(cpu->state.rflags & X86_FLAG_OF))
		return BT_NEXT;
	return software_event(cpu, call, X86_EVENT_INT3_INTO, X86_OF);
}

enum bt_result bt_help_syscall(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	int rc;

	helper_begin(cpu, call);
	rc = x86_syscall(bt_system(cpu), &fault);
	/* With TF left set by SFMASK the step's trap comes at the target. */
	if (!(cpu->state.rflags & X86_FLAG_TF))
		cpu->stepping = 0;
	return helper_jump(cpu, call, rc, &fault);
}

enum bt_result bt_help_sysret(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	return helper_jump(cpu, call, x86_sysret(bt_system(cpu), call->rex & 8 ? 8 : 4, &fault),
			   &fault);
}

enum bt_result bt_help_sysenter(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	cpu->stepping = 0;
	return helper_jump(cpu, call, x86_sysenter(bt_system(cpu), &fault), &fault);
}

enum bt_result bt_help_sysexit(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	return helper_jump(cpu, call, x86_sysexit(bt_system(cpu), call->rex & 8 ? 8 : 4, &fault),
			   &fault);
}

enum bt_result bt_help_hlt(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	if (x86_check_cpl0(bt_system(cpu), &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	helper_begin(cpu, call);
	/* What STI or MOV SS held off was held off until now: the interrupt that ends HLT comes right behind it. */
	cpu->state.sti_shadow = cpu->state.mov_ss_shadow = 0;
	cpu->state.mp_state = X86_MP_HALTED;
	bt_request_exit(cpu, VCPU_EXIT_HALTED);
	return BT_LEAVE;
}
