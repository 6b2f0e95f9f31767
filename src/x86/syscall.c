/* SPDX-License-Identifier: MIT */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS: Intel SDM volume 2; AMD APM volume 3 and volume 2, 6.1.
 *
 * The vendors differ: on Intel CPUs SYSCALL and SYSRET exist only in 64-bit mode, on AMD's everywhere,
 * and SYSENTER and SYSEXIT on AMD's only outside long mode; Intel's SYSRET faults on a non-canonical
 * RCX itself, AMD's lets the fetch at CPL 3 do so, and AMD's changes of SS only selector and DPL.
 */
#include "x86/system_internal.h"

/* Attributes of the flat segments these instructions load without reading descriptors. */
#define ATTR_CODE64 0xa09bu
#define ATTR_CODE32 0xc09bu
#define ATTR_DATA 0xc093u
#define ATTR_CPL3 (3u << X86_ATTR_DPL_SHIFT)

#define FLAGS_SYSRET 0x003c7fd7u /* not RF, VM */

static void set_flat(struct x86_segment *seg, uint16_t selector, uint16_t attr)
{
	seg->selector = selector;
	seg->attr = attr;
	seg->limit = 0xffffffff;
	seg->base = 0;
}

SYS_HOT int x86_syscall(struct x86_system *s, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool long_mode = sys_long_mode(cpu);
	uint16_t selector = (uint16_t)(cpu->star >> 32) & SEL_ERROR;

	if (sys_unlikely(!(cpu->efer & X86_EFER_SCE)))
		return sys_ud(fault);
	if (sys_unlikely(!x86_in_64bit(cpu) && !s->features.is_amd))
		return sys_ud(fault);

	if (sys_likely(long_mode)) {
		cpu->gpr[X86_RCX] = cpu->rip;
		cpu->gpr[X86_R11] = cpu->rflags & ~(uint64_t)X86_FLAG_RF;
		cpu->rip = x86_in_64bit(cpu) ? cpu->lstar : cpu->cstar;
		cpu->rflags = (cpu->rflags & ~(cpu->sfmask | X86_FLAG_RF)) | X86_FLAG_R1;
		set_flat(&cpu->seg[X86_CS], selector, ATTR_CODE64);
	} else {
		cpu->gpr[X86_RCX] = (uint32_t)cpu->rip;
		cpu->rip = (uint32_t)cpu->star;
		cpu->rflags &= ~(uint64_t)(X86_FLAG_IF | X86_FLAG_RF | X86_FLAG_VM);
		set_flat(&cpu->seg[X86_CS], selector, ATTR_CODE32);
	}
	set_flat(&cpu->seg[X86_SS], selector + 8, ATTR_DATA);
	s->effects |= X86_EFFECT_MODE;
	return 0;
}

SYS_HOT int x86_sysret(struct x86_system *s, unsigned opsize, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	struct x86_segment *ss = &cpu->seg[X86_SS];
	uint16_t selector = (uint16_t)(cpu->star >> 48);
	uint64_t old = cpu->rflags;

	if (sys_unlikely(!(cpu->efer & X86_EFER_SCE)))
		return sys_ud(fault);
	if (sys_unlikely(!x86_in_64bit(cpu) && !s->features.is_amd))
		return sys_ud(fault);
	if (sys_unlikely(x86_cpl(cpu) || sys_real(cpu)))
		return sys_gp(fault, 0);

	if (opsize == 8) {
		if (sys_unlikely(!s->features.is_amd && !sys_canonical(cpu->gpr[X86_RCX])))
			return sys_gp(fault, 0);
		set_flat(&cpu->seg[X86_CS], (selector + 16) | 3, ATTR_CODE64 | ATTR_CPL3);
		cpu->rip = cpu->gpr[X86_RCX];
	} else {
		set_flat(&cpu->seg[X86_CS], selector | 3, ATTR_CODE32 | ATTR_CPL3);
		cpu->rip = (uint32_t)cpu->gpr[X86_RCX];
	}
	if (sys_likely(sys_long_mode(cpu)))
		cpu->rflags = (cpu->gpr[X86_R11] & FLAGS_SYSRET) | X86_FLAG_R1;
	else
		cpu->rflags |= X86_FLAG_IF;

	if (s->features.is_amd) {
		ss->selector = (selector + 8) | 3;
		ss->attr |= ATTR_CPL3;
	} else {
		set_flat(ss, (selector + 8) | 3, ATTR_DATA | ATTR_CPL3);
	}
	s->effects |= X86_EFFECT_MODE;
	sys_flags_changed(s, old);
	return 0;
}

int x86_sysenter(struct x86_system *s, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool long_mode = sys_long_mode(cpu);
	uint16_t selector = cpu->sysenter_cs & SEL_ERROR;

	if (long_mode && s->features.is_amd)
		return sys_ud(fault);
	if (sys_real(cpu) || !selector)
		return sys_gp(fault, 0);

	cpu->rflags &= ~(uint64_t)(X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_RF);
	set_flat(&cpu->seg[X86_CS], selector, long_mode ? ATTR_CODE64 : ATTR_CODE32);
	set_flat(&cpu->seg[X86_SS], selector + 8, ATTR_DATA);
	cpu->gpr[X86_RSP] = long_mode ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	cpu->rip = long_mode ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
	s->effects |= X86_EFFECT_MODE;
	return 0;
}

int x86_sysexit(struct x86_system *s, unsigned opsize, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint16_t selector = cpu->sysenter_cs & SEL_ERROR;
	uint64_t rip = cpu->gpr[X86_RDX], rsp = cpu->gpr[X86_RCX];

	if (sys_long_mode(cpu) && s->features.is_amd)
		return sys_ud(fault);
	if (sys_real(cpu) || !selector || x86_cpl(cpu))
		return sys_gp(fault, 0);

	if (opsize == 8) {
		if (!sys_canonical(rip) || !sys_canonical(rsp))
			return sys_gp(fault, 0);
		set_flat(&cpu->seg[X86_CS], (selector + 32) | 3, ATTR_CODE64 | ATTR_CPL3);
		set_flat(&cpu->seg[X86_SS], (selector + 40) | 3, ATTR_DATA | ATTR_CPL3);
	} else {
		rip = (uint32_t)rip;
		rsp = (uint32_t)rsp;
		set_flat(&cpu->seg[X86_CS], (selector + 16) | 3, ATTR_CODE32 | ATTR_CPL3);
		set_flat(&cpu->seg[X86_SS], (selector + 24) | 3, ATTR_DATA | ATTR_CPL3);
	}
	cpu->rip = rip;
	cpu->gpr[X86_RSP] = rsp;
	s->effects |= X86_EFFECT_MODE;
	return 0;
}

SYS_HOT int x86_swapgs(struct x86_system *s, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t base = cpu->seg[X86_GS].base;

	if (sys_unlikely(!x86_in_64bit(cpu)))
		return sys_ud(fault);
	if (sys_unlikely(x86_cpl(cpu)))
		return sys_gp(fault, 0);
	cpu->seg[X86_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	return 0;
}
