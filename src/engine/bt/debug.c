/* SPDX-License-Identifier: MIT */
/*
 * Execution breakpoints: the guest's (DR7, Intel SDM volume 3, 17.2 and 17.3.1.1) and the debugger's. Translated code of mode
 * BT_MODE_DEBUG calls this before each instruction.
 */
#include "engine/bt/runtime.h"

static bool debugger_stops(struct bt_vcpu *v, uint64_t linear)
{
	for (unsigned n = 0; n < v->bt->breakpoint_count; n++) {
		if (v->bt->breakpoints[n].linear != linear)
			continue;
		/* The one it has just stopped at lets the instruction go once. */
		if (v->breakpoint_skip == linear) {
			v->breakpoint_skip = ~0ull;
			return false;
		}
		return true;
	}
	return false;
}

static uint64_t guest_matches(const struct x86_cpu_state *s, uint64_t linear)
{
	uint64_t dr6 = 0;

	for (unsigned n = 0; n < 4; n++)
		if ((s->dr[7] >> (n * 2) & 3) && !(s->dr[7] >> (16 + n * 4) & 15) && s->dr[n] == linear)
			dr6 |= 1ull << n;
	return dr6;
}

enum bt_result bt_help_debug_check(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	struct x86_cpu_state *s = &cpu->state;
	uint64_t linear = cpu->pc_base + call->offset, dr6;

	if (!x86_in_64bit(s))
		linear = (uint32_t)linear;
	if (v->bt->breakpoint_count && debugger_stops(v, linear)) {
		s->rip = bt_rip(cpu, call->offset);
		cpu->stepping = 0;
		bt_request_exit(cpu, VCPU_EXIT_DEBUG);
		return BT_LEAVE;
	}
	dr6 = guest_matches(s, linear);
	if (dr6 && !(s->rflags & X86_FLAG_RF)) {
		/* A fault: RF goes into the pushed image, so that the instruction runs on return. */
		struct x86_fault fault = { .vector = X86_DB, .address = dr6 };

		s->rflags |= X86_FLAG_RF;
		return bt_raise(cpu, call->offset, &fault);
	}
	s->rflags &= ~(uint64_t)X86_FLAG_RF;
	return BT_NEXT;
}
