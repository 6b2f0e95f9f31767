/* SPDX-License-Identifier: MIT */
/*
 * The guest's CPUID instruction: a look-up in vm->cpu_model, then the few fields that depend on
 * which CPU asks and on its control registers. No host CPUID is executed: it costs microseconds
 * under nested virtualization. Sources: Intel SDM volume 2A CPUID; AMD APM volume 3 appendix E.
 */
#include "base/util.h"
#include "vm/vm.h"

#define NO_SUBLEAF 0xffffffffu
#define XSAVE_LEGACY_SIZE 576 /* x87/SSE area and XSAVE header (SDM vol. 1, 13.4) */
#define APIC_BASE_ENABLE 0x800

static const struct cpuid_leaf *find_leaf(const struct cpu_model *model, uint32_t leaf,
					  uint32_t subleaf)
{
	for (unsigned i = 0; i < model->count; i++) {
		const struct cpuid_leaf *l = &model->leaves[i];

		if (l->leaf == leaf && (l->subleaf == NO_SUBLEAF || l->subleaf == subleaf))
			return l;
	}
	return NULL;
}

/* Bytes that XSAVE (standard form) or XSAVEC (compacted form) writes for the components in mask. */
static uint32_t xsave_size(const struct cpu_model *model, uint64_t mask, bool compacted)
{
	uint32_t size = XSAVE_LEGACY_SIZE;

	for (uint32_t i = 2; i < 63; i++) {
		const struct cpuid_leaf *component;

		if (!(mask >> i & 1))
			continue;
		component = find_leaf(model, 0xd, i);
		if (!component)
			continue;
		if (compacted) {
			if (component->ecx & 2)
				size = ALIGN_UP(size, 64u);
			size += component->eax;
		} else {
			size = MAX(size, component->ebx + component->eax);
		}
	}
	return size;
}

static bool apic_enabled(const struct vcpu *vcpu)
{
	uint64_t base;

	if (!vcpu->apic_ops || !vcpu->apic)
		return true;
	return vcpu->apic_ops->read_msr(vcpu->apic, X86_MSR_APIC_BASE, &base) != 0 ||
	       (base & APIC_BASE_ENABLE);
}

void cpuid_query(struct vcpu *vcpu, const struct x86_cpu_state *state, uint32_t leaf,
		 uint32_t subleaf, uint32_t regs[4])
{
	const struct cpu_model *model = &vcpu->vm->cpu_model;
	const struct cpuid_leaf *l = find_leaf(model, leaf, subleaf);

	regs[0] = regs[1] = regs[2] = regs[3] = 0;
	if (!l) {
		/* Beyond its last level the topology leaf still gives the sub-leaf number and the
		 * id. */
		if (leaf == 0xb && find_leaf(model, 0xb, 0)) {
			regs[2] = subleaf & 0xff;
			regs[3] = vcpu->apic_id;
		}
		return;
	}
	regs[0] = l->eax;
	regs[1] = l->ebx;
	regs[2] = l->ecx;
	regs[3] = l->edx;
	switch (leaf) {
	case 1:
		regs[1] |= (vcpu->apic_id & 0xff) << 24;
		if (state->cr4 & X86_CR4_OSXSAVE)
			regs[2] |= BIT(27);
		if (!apic_enabled(vcpu))
			regs[3] &= ~BIT(9);
		break;
	case 0xb:
		regs[3] = vcpu->apic_id;
		break;
	case 0xd:
		if (subleaf == 0)
			regs[1] = xsave_size(model, state->xcr0, false);
		else if (subleaf == 1 && (regs[0] & (BIT(1) | BIT(3))))
			regs[1] = xsave_size(model, state->xcr0 | state->xss, true);
		break;
	case 0x80000001u:
		if (model->is_amd && !apic_enabled(vcpu))
			regs[3] &= ~BIT(9);
		break;
	case 0x8000001eu:
		regs[0] = vcpu->apic_id;
		regs[1] |= vcpu->apic_id & 0xff;
		break;
	}
}
