/* SPDX-License-Identifier: MIT */
/*
 * CPUID, and the MSRs that come to user space (api.rst: KVM_SET_CPUID2, KVM_GET_SUPPORTED_CPUID, KVM_CAP_X86_USER_SPACE_MSR,
 * KVM_X86_SET_MSR_FILTER).
 *
 * The guest sees the CPU model, as under every engine; a feature must be one that the kernel announces and that the probe
 * found to work. The kernel fills in by itself what changes at run time (OSXSAVE, XSAVE sizes, the APIC bit).
 *
 * The local APIC being ours, so are its MSRs. The kernel would take accesses to IA32_APIC_BASE and the TSC deadline for its
 * own, so they are filtered out; the x2APIC's cannot be filtered, but without an APIC the kernel has no use for them and they
 * come as invalid ones.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "engine/kvm/kvm.h"

#define NO_SUBLEAF 0xffffffffu
#define KVM_FEATURES_LEAF 0x40000001u

/* ---- CPUID ---- */

/* Leaves that consist of feature bits: registers eax, ebx, ecx, edx to be limited. */
static const struct {
	uint32_t leaf, subleaf;
	bool limited[4];
} feature_leaves[] = {
	{ 1, 0, { false, false, true, true } },
	{ 7, 0, { false, true, true, true } },
	{ 7, 1, { true, true, true, true } },
	{ 0xd, 0, { true, false, false, true } },
	{ 0xd, 1, { true, false, true, true } },
	{ KVM_FEATURES_LEAF, 0, { true, true, true, true } },
	{ 0x80000001u, 0, { false, false, true, true } },
	{ 0x80000007u, 0, { true, true, true, true } },
	{ 0x80000008u, 0, { false, true, false, false } },
	{ 0x80000021u, 0, { true, true, true, true } },
};

static const struct kvm_cpuid_entry2 *supported(uint32_t leaf, uint32_t subleaf)
{
	const struct kvm_findings *found = kvm_features();

	for (uint32_t i = 0; i < found->cpuid_count; i++) {
		const struct kvm_cpuid_entry2 *e = &found->cpuid[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

/* What needs the kernel's own local APIC: PV_EOI, PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD, ASYNC_PF and its kin. */
#define NEEDS_KERNEL_APIC                                                                          \
	(BIT(4) | BIT(6) | BIT(7) | BIT(10) | BIT(11) | BIT(13) | BIT(14) | BIT(15))
/* Provided by user space whatever the kernel announces: x2APIC, hypervisor present, TSC deadline. */
#define OURS_1_ECX (BIT(21) | BIT(31))
#define TSC_DEADLINE BIT(24)

static uint32_t ours_1_ecx(void)
{
	return kvm_features()->tsc_fixed ? OURS_1_ECX : OURS_1_ECX | TSC_DEADLINE;
}

void kvm_filter_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct kvm_cpuid_entry2 *e = supported(leaf, subleaf);

	for (unsigned i = 0; i < ARRAY_SIZE(feature_leaves); i++) {
		const uint32_t mask[4] = { e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0,
					   e ? e->edx : 0 };

		if (feature_leaves[i].leaf != leaf || feature_leaves[i].subleaf != subleaf)
			continue;
		for (unsigned r = 0; r < 4; r++)
			if (feature_leaves[i].limited[r])
				regs[r] &= mask[r] | (leaf == 1 && r == 2 ? ours_1_ecx() : 0);
	}
	if (leaf == KVM_FEATURES_LEAF && !kvm_features()->kernel_apic)
		regs[0] &= ~NEEDS_KERNEL_APIC;
	if (leaf == 0xd && subleaf >= 2) {
		const struct kvm_cpuid_entry2 *main = supported(0xd, 0);

		if (subleaf >= 32 || !main || !(main->eax >> subleaf & 1))
			regs[0] = regs[1] = regs[2] = regs[3] = 0;
	}
}

int kvm_set_cpuid(struct kvm_vcpu *k, struct error *err)
{
	static const struct x86_cpu_state no_state;
	const struct cpu_model *model = &k->vcpu->vm->cpu_model;
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[CPUID_LEAF_MAX];
	} table = { .header.nent = model->count };

	for (unsigned i = 0; i < model->count; i++) {
		const struct cpuid_leaf *leaf = &model->leaves[i];
		struct kvm_cpuid_entry2 *e = &table.entries[i];
		bool indexed = leaf->subleaf != NO_SUBLEAF;
		uint32_t regs[4];

		cpuid_query(k->vcpu, &no_state, leaf->leaf, indexed ? leaf->subleaf : 0, regs);
		e->function = leaf->leaf;
		e->index = indexed ? leaf->subleaf : 0;
		e->flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
		e->eax = regs[0];
		e->ebx = regs[1];
		e->ecx = regs[2];
		e->edx = regs[3];
	}
	if (ioctl(k->fd, KVM_SET_CPUID2, &table))
		return error_set_errno(err, errno, "kvm: the CPU model is refused");
	return 0;
}

/* ---- MSRs ---- */

int kvm_filter_msrs(struct kvm_vm *kvm, struct error *err)
{
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args[0] = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
			   KVM_MSR_EXIT_REASON_FILTER,
	};
	static uint8_t none[1]; /* no bit set: every access in the range is denied, that is, ours */
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges = {
			{ .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = 1,
			  .base = X86_MSR_APIC_BASE, .bitmap = none },
			{ .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = 1,
			  .base = X86_MSR_TSC_DEADLINE, .bitmap = none },
		},
	};

	if (kvm->kernel_apic)
		return 0;
	if (ioctl(kvm->fd, KVM_ENABLE_CAP, &exits) ||
	    ioctl(kvm->fd, KVM_X86_SET_MSR_FILTER, &filter))
		return error_set_errno(
			err, errno,
			"kvm: this kernel cannot pass MSR accesses on (Linux 5.10 or later is needed)");
	kvm->has_msr_exits = true;
	return 0;
}

static bool is_apic_msr(uint32_t msr)
{
	return msr == X86_MSR_APIC_BASE || msr == X86_MSR_TSC_DEADLINE ||
	       (msr >= X86_MSR_X2APIC_BASE && msr <= 0x8ff);
}

void kvm_read_msr_exit(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct vcpu *vcpu = k->vcpu;
	uint64_t value = 0;
	int rc = -1;

	vcpu->stats.msr_reads++;
	if (is_apic_msr(run->msr.index) && vcpu->apic_ops)
		rc = vcpu->apic_ops->read_msr(vcpu->apic, run->msr.index, &value);
	run->msr.data = value;
	run->msr.error = rc != 0;
	k->incomplete = true;
	trace(TRACE_MSR, "cpu %u: rdmsr 0x%x %s 0x%llx", vcpu->index, run->msr.index,
	      rc ? "#GP" : "=", (unsigned long long)value);
}

void kvm_write_msr_exit(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct vcpu *vcpu = k->vcpu;
	int rc = -1;

	vcpu->stats.msr_writes++;
	if (is_apic_msr(run->msr.index) && vcpu->apic_ops)
		rc = vcpu->apic_ops->write_msr(vcpu->apic, run->msr.index, run->msr.data);
	run->msr.error = rc != 0;
	k->incomplete = true;
	trace(TRACE_MSR, "cpu %u: wrmsr 0x%x = 0x%llx%s", vcpu->index, run->msr.index,
	      (unsigned long long)run->msr.data, rc ? " #GP" : "");
}
