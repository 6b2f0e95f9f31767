/* SPDX-License-Identifier: MIT */
/*
 * PUSHF, POPF, CLI, STI: Intel SDM volume 2, and volume 3, 20.3 (VME) and 20.4 (PVI).
 */
#include "x86/system_internal.h"

static bool untrusted_v86(const struct x86_cpu_state *cpu)
{
	return sys_v86(cpu) && sys_iopl(cpu) < 3;
}

int x86_pushf(struct x86_system *s, unsigned opsize, uint64_t *value, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;

	*value = cpu->rflags & ~(uint64_t)(X86_FLAG_VM | X86_FLAG_RF);
	if (sys_unlikely(untrusted_v86(cpu))) {
		if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2)
			return sys_gp(fault, 0);
		*value = (*value & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_IOPL |
			 (cpu->rflags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
	}
	if (opsize == 2)
		*value &= 0xffff;
	return 0;
}

int x86_popf(struct x86_system *s, unsigned opsize, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t old = cpu->rflags,
		 mask = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT;
	unsigned cpl = x86_cpl(cpu);

	if (opsize != 2)
		mask |= X86_FLAG_AC | X86_FLAG_ID;
	if (sys_unlikely(untrusted_v86(cpu))) {
		if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2)
			return sys_gp(fault, 0);
		if ((value & X86_FLAG_TF) || ((value & X86_FLAG_IF) && (old & X86_FLAG_VIP)))
			return sys_gp(fault, 0);
		mask |= X86_FLAG_VIF;
		value = (value & ~(uint64_t)X86_FLAG_VIF) |
			(value & X86_FLAG_IF ? X86_FLAG_VIF : 0);
	} else {
		if (cpl <= sys_iopl(cpu))
			mask |= X86_FLAG_IF;
		if (cpl == 0)
			mask |= X86_FLAG_IOPL;
	}
	cpu->rflags = (old & ~(mask | X86_FLAG_RF)) | (value & mask) | X86_FLAG_R1;
	sys_flags_changed(s, old);
	return 0;
}

/* Which flag CLI and STI work on here: IF, VIF, or 0 for #GP(0). */
static uint32_t interrupt_flag(const struct x86_cpu_state *cpu)
{
	unsigned cpl = x86_cpl(cpu);

	if (sys_likely(cpl <= sys_iopl(cpu)))
		return X86_FLAG_IF;
	if (sys_v86(cpu))
		return cpu->cr4 & X86_CR4_VME ? X86_FLAG_VIF : 0;
	return cpl == 3 && (cpu->cr4 & X86_CR4_PVI) ? X86_FLAG_VIF : 0;
}

int x86_cli(struct x86_system *s, struct x86_fault *fault)
{
	uint32_t flag = interrupt_flag(s->cpu);

	if (sys_unlikely(!flag))
		return sys_gp(fault, 0);
	s->cpu->rflags &= ~(uint64_t)flag;
	return 0;
}

int x86_sti(struct x86_system *s, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint32_t flag = interrupt_flag(cpu);
	uint64_t old = cpu->rflags;

	if (sys_unlikely(!flag))
		return sys_gp(fault, 0);
	if (flag == X86_FLAG_VIF) {
		if (old & X86_FLAG_VIP)
			return sys_gp(fault, 0);
	} else if (!(old & X86_FLAG_IF)) {
		cpu->sti_shadow = 1;
	}
	cpu->rflags |= flag;
	sys_flags_changed(s, old);
	return 0;
}
