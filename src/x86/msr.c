/* SPDX-License-Identifier: MIT */
/*
 * RDMSR and WRMSR: Intel SDM volume 4; volume 3, 11.11 (MTRRs), 11.12 (PAT), 2.2.1 (EFER); AMD APM
 * volume 2, appendix A.
 *
 * MSRs whose value is kept in struct x86_cpu_state and follows simple rules stand in one sorted
 * table: where the value lies, which bits may be set, which further rule a write obeys. The few with
 * rules of their own are a switch; all others, the TSC's among them, are the engine's (ops->read_msr,
 * ops->write_msr).
 */
#include <stddef.h>

#include "x86/system_internal.h"

#define MTRR_CAP_VALUE 0x508u /* 8 variable ranges, fixed ranges, write-combining */
#define MTRR_DEF_TYPE_VALID 0xcffu
#define MTRR_MASK_VALID 0x800u
#define SPEC_CTRL_VALID 0x87u /* IBRS, STIBP, SSBD, PSFD */
#define PRED_CMD_VALID 0x81u  /* IBPB, SBPB */
#define DEBUGCTL_VALID_INTEL 0x3u
#define DEBUGCTL_VALID_AMD 0x3fu
#define MCG_STATUS_VALID 0x7u

enum rule {
	ANY,
	CANONICAL,       /* #GP for a non-canonical address */
	CANONICAL_INTEL, /* the same, on Intel CPUs only */
	LOW32,           /* bits 63:32 are reserved on Intel CPUs, ignored on AMD's */
	MEMORY_TYPES,    /* eight PAT entries */
	MTRR_TYPES,      /* eight MTRR types */
};

struct msr {
	uint32_t number;
	uint16_t offset; /* in struct x86_cpu_state */
	uint8_t rule;
};
#define STATE(number_, field_, rule_)                                                              \
	{                                                                                          \
		.number = (number_), .offset = offsetof(struct x86_cpu_state, field_),             \
		.rule = (rule_)                                                                    \
	}

static const struct msr msrs[] = {
	STATE(X86_MSR_SYSENTER_CS, sysenter_cs, LOW32),
	STATE(X86_MSR_SYSENTER_ESP, sysenter_esp, CANONICAL_INTEL),
	STATE(X86_MSR_SYSENTER_EIP, sysenter_eip, CANONICAL_INTEL),
	STATE(X86_MSR_MISC_ENABLE, misc_enable, ANY),
	STATE(X86_MSR_MTRR_FIX64K, mtrr_fixed[0], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX16K_80000, mtrr_fixed[1], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX16K_A0000, mtrr_fixed[2], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 0, mtrr_fixed[3], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 1, mtrr_fixed[4], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 2, mtrr_fixed[5], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 3, mtrr_fixed[6], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 4, mtrr_fixed[7], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 5, mtrr_fixed[8], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 6, mtrr_fixed[9], MTRR_TYPES),
	STATE(X86_MSR_MTRR_FIX4K_C0000 + 7, mtrr_fixed[10], MTRR_TYPES),
	STATE(X86_MSR_PAT, pat, MEMORY_TYPES),
	STATE(X86_MSR_STAR, star, ANY),
	STATE(X86_MSR_LSTAR, lstar, CANONICAL),
	STATE(X86_MSR_CSTAR, cstar, CANONICAL),
	STATE(X86_MSR_SFMASK, sfmask, LOW32),
	STATE(X86_MSR_FS_BASE, seg[X86_FS].base, CANONICAL),
	STATE(X86_MSR_GS_BASE, seg[X86_GS].base, CANONICAL),
	STATE(X86_MSR_KERNEL_GS_BASE, kernel_gs_base, CANONICAL),
	STATE(X86_MSR_TSC_AUX, tsc_aux, LOW32),
};
#define MSR_COUNT (sizeof(msrs) / sizeof(msrs[0]))

static const struct msr *find(uint32_t number)
{
	unsigned low = 0, high = MSR_COUNT;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (msrs[middle].number == number)
			return &msrs[middle];
		if (msrs[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static uint64_t *state_field(struct x86_cpu_state *cpu, const struct msr *msr)
{
	return (uint64_t *)((uint8_t *)cpu + msr->offset);
}

/* Uncacheable, write-combining, write-through, write-protect, write-back; the PAT also has UC- (7). */
static bool types_valid(uint64_t value, unsigned valid_types)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned type = value >> (8 * i) & 0xff;

		if (type > 7 || !(valid_types >> type & 1))
			return false;
	}
	return true;
}
#define MTRR_TYPE_SET 0x73u
#define PAT_TYPE_SET 0xf3u

static bool obeys(const struct x86_system *s, enum rule rule, uint64_t *value)
{
	switch (rule) {
	case CANONICAL:
		return sys_canonical(*value);
	case CANONICAL_INTEL:
		return s->features.is_amd || sys_canonical(*value);
	case LOW32:
		if (s->features.is_amd)
			*value = (uint32_t)*value;
		return !(*value >> 32);
	case MEMORY_TYPES:
		return types_valid(*value, PAT_TYPE_SET);
	case MTRR_TYPES:
		return types_valid(*value, MTRR_TYPE_SET);
	default:
		return true;
	}
}

static bool write_efer(struct x86_system *s, uint64_t value)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t changed;

	if (value & ~(s->features.efer_valid | X86_EFER_LMA))
		return false;
	value = (value & ~(uint64_t)X86_EFER_LMA) | (cpu->efer & X86_EFER_LMA);
	changed = cpu->efer ^ value;
	if ((changed & X86_EFER_LME) && (cpu->cr0 & X86_CR0_PG))
		return false;
	cpu->efer = value;
	if (changed)
		s->effects |= X86_EFFECT_MODE;
	if (changed & X86_EFER_NXE)
		s->effects |= X86_EFFECT_FLUSH_ALL;
	return true;
}

static bool write_mtrr_range(struct x86_system *s, unsigned n, uint64_t value)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (value >> s->features.maxphyaddr)
		return false;
	if (n & 1) {
		if (value & 0x7ff)
			return false;
		cpu->mtrr_phys_mask[n / 2] = value;
	} else {
		if ((value & 0xf00) || (value & 0xff) > 7 || !(MTRR_TYPE_SET >> (value & 7) & 1))
			return false;
		cpu->mtrr_phys_base[n / 2] = value;
	}
	return true;
}

static bool write_mtrr_def_type(struct x86_system *s, uint64_t value)
{
	if ((value & ~(uint64_t)MTRR_DEF_TYPE_VALID) || (value & 0xff) > 7 ||
	    !(MTRR_TYPE_SET >> (value & 7) & 1))
		return false;
	s->cpu->mtrr_def_type = value;
	return true;
}

/* value, if it has no bit outside valid. */
static bool store_masked(uint64_t *field, uint64_t value, uint64_t valid)
{
	if (value & ~valid)
		return false;
	*field = value;
	return true;
}

static bool write_special(struct x86_system *s, uint32_t number, uint64_t value)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (number >= X86_MSR_MTRR_PHYS_BASE0 && number < X86_MSR_MTRR_PHYS_BASE0 + 16)
		return write_mtrr_range(s, number - X86_MSR_MTRR_PHYS_BASE0, value);
	switch (number) {
	case X86_MSR_EFER:
		return write_efer(s, value);
	case X86_MSR_MTRR_CAP:
		return false;
	case X86_MSR_MTRR_DEF_TYPE:
		return write_mtrr_def_type(s, value);
	case X86_MSR_SPEC_CTRL:
		return store_masked(&cpu->spec_ctrl, value, SPEC_CTRL_VALID);
	case X86_MSR_PRED_CMD: /* barriers: our translations share no predictor with the guest's secrets */
		return !(value & ~(uint64_t)PRED_CMD_VALID);
	case X86_MSR_DEBUGCTL:
		s->effects |= X86_EFFECT_DEBUG;
		return store_masked(&cpu->debugctl, value,
				    s->features.is_amd ? DEBUGCTL_VALID_AMD : DEBUGCTL_VALID_INTEL);
	case X86_MSR_MCG_STATUS:
		return store_masked(&cpu->mcg_status, value, MCG_STATUS_VALID);
	case X86_MSR_XSS:
		return store_masked(&cpu->xss, value, 0);
	default:
		return !s->ops->write_msr(s, number, value);
	}
}

static bool read_special(struct x86_system *s, uint32_t number, uint64_t *value)
{
	const struct x86_cpu_state *cpu = s->cpu;

	if (number >= X86_MSR_MTRR_PHYS_BASE0 && number < X86_MSR_MTRR_PHYS_BASE0 + 16) {
		unsigned n = number - X86_MSR_MTRR_PHYS_BASE0;

		*value = n & 1 ? cpu->mtrr_phys_mask[n / 2] : cpu->mtrr_phys_base[n / 2];
		return true;
	}
	switch (number) {
	case X86_MSR_EFER:
		*value = cpu->efer;
		return true;
	case X86_MSR_MTRR_CAP:
		*value = MTRR_CAP_VALUE;
		return true;
	case X86_MSR_MTRR_DEF_TYPE:
		*value = cpu->mtrr_def_type;
		return true;
	case X86_MSR_SPEC_CTRL:
		*value = cpu->spec_ctrl;
		return true;
	case X86_MSR_PRED_CMD:
		return false;
	case X86_MSR_DEBUGCTL:
		*value = cpu->debugctl;
		return true;
	case X86_MSR_MCG_STATUS:
		*value = cpu->mcg_status;
		return true;
	case X86_MSR_XSS:
		*value = cpu->xss;
		return true;
	default:
		return !s->ops->read_msr(s, number, value);
	}
}

SYS_HOT int x86_read_msr(struct x86_system *s, uint32_t number, uint64_t *value,
			 struct x86_fault *fault)
{
	const struct msr *msr;

	if (sys_unlikely(x86_cpl(s->cpu)))
		return sys_gp(fault, 0);
	msr = find(number);
	if (msr) {
		*value = *state_field(s->cpu, msr);
		return 0;
	}
	return read_special(s, number, value) ? 0 : sys_gp(fault, 0);
}

SYS_HOT int x86_write_msr(struct x86_system *s, uint32_t number, uint64_t value,
			  struct x86_fault *fault)
{
	const struct msr *msr;

	if (sys_unlikely(x86_cpl(s->cpu)))
		return sys_gp(fault, 0);
	msr = find(number);
	if (msr) {
		if (!obeys(s, msr->rule, &value))
			return sys_gp(fault, 0);
		*state_field(s->cpu, msr) = value;
		return 0;
	}
	return write_special(s, number, value) ? 0 : sys_gp(fault, 0);
}
