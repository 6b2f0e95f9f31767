/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers that are not part of struct x86_cpu_state: the APIC's, the time-stamp counter, the
 * paravirtual ones, and the few of the processor's own that operating systems touch without asking CPUID.
 * Sources: Intel SDM volume 4, AMD PPR/BKDG for family 17h-1Ah.
 */
#include "engine/bt/runtime.h"

#include "base/log.h"

#define MSR_PLATFORM_ID 0x17u
#define MSR_EBL_CR_POWERON 0x2au
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_SMI_COUNT 0x34u
#define MSR_PLATFORM_INFO 0xceu
#define MSR_UMWAIT_CONTROL 0xe1u
#define MSR_MISC_FEATURES_ENABLES 0x140u
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_TSC_RATIO 0xc0000104u
#define MSR_AMD_PATCH_LOADER 0xc0010020u
#define MSR_AMD_CPUID_7_FEATURES 0xc0011002u
#define MSR_AMD_CPUID_FEATURES 0xc0011004u
#define MSR_AMD_CPUID_EXT_FEATURES 0xc0011005u
#define MSR_AMD_NB_CFG 0xc001001fu
#define MSR_AMD_LS_CFG 0xc0011020u
#define MSR_AMD_IC_CFG 0xc0011021u
#define MSR_AMD_DC_CFG 0xc0011022u
#define MSR_AMD_BU_CFG 0xc0011023u
#define MSR_AMD_DE_CFG 0xc0011029u
#define MSR_AMD_BU_CFG2 0xc001102au
#define MSR_AMD_OSVW_ID_LENGTH 0xc0010140u
#define MSR_AMD_OSVW_STATUS 0xc0010141u
#define MSR_AMD_VM_CR 0xc0010114u

static uint64_t host_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (uint64_t)high << 32;
}

static bool is_apic_msr(uint32_t msr)
{
	return msr == X86_MSR_APIC_BASE || msr == X86_MSR_TSC_DEADLINE || (msr >= X86_MSR_X2APIC_BASE && msr <= 0x8ff) ||
	       msr == 0x4b564d04u; /* PV EOI */
}

static void move_tsc(struct bt_vcpu *v, uint64_t by)
{
	v->vcpu->tsc_delta += by;
	v->cpu->tsc_offset += (int64_t)by;
	v->cpu->state.tsc_adjust += by;
	bt_pv_tsc_moved(v);
}

/* Registers that read as a constant and take any write. */
static int read_inert(const struct bt_vcpu *v, uint32_t msr, uint64_t *value)
{
	*value = 0;
	switch (msr) {
	case X86_MSR_BIOS_SIGN_ID:
		/* A microcode revision: no guest may load one, some warn about old ones. */
		*value = v->system.features.is_amd ? 0xffffffffull : 0x100000000ull << 31;
		return 0;
	case MSR_PLATFORM_INFO:
		return v->system.features.is_amd ? -1 : 0;
	case MSR_AMD_HWCR:
		*value = v->system.features.is_amd ? 1ull << 24 : 0; /* TscFreqSel: the TSC counts at P0 */
		return v->system.features.is_amd ? 0 : -1;
	case MSR_AMD_DE_CFG:
		*value = 2; /* LFENCE is dispatch serialising */
		return v->system.features.is_amd ? 0 : -1;
	case X86_MSR_ARCH_CAPABILITIES:
		*value = v->vm->cpu_model.arch_capabilities;
		return 0;
	case X86_MSR_MCG_CAP:
	case X86_MSR_PRED_CMD:
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_SMI_COUNT:
	case MSR_UMWAIT_CONTROL:
	case MSR_MISC_FEATURES_ENABLES:
		return 0;
	case MSR_FEATURE_CONTROL:
		*value = 1; /* locked, nothing enabled */
		return 0;
	case MSR_AMD_SYSCFG:
	case MSR_AMD_PATCH_LOADER:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_LS_CFG:
	case MSR_AMD_IC_CFG:
	case MSR_AMD_DC_CFG:
	case MSR_AMD_BU_CFG:
	case MSR_AMD_BU_CFG2:
	case MSR_AMD_OSVW_ID_LENGTH:
	case MSR_AMD_OSVW_STATUS:
		return v->system.features.is_amd ? 0 : -1;
	case MSR_AMD_VM_CR:
		*value = 0x18; /* SVM disabled and locked */
		return v->system.features.is_amd ? 0 : -1;
	default:
		return -1;
	}
}

int bt_read_msr(struct x86_system *s, uint32_t msr, uint64_t *value)
{
	struct bt_vcpu *v = s->ctx;
	int rc;

	v->vcpu->stats.msr_reads++;
	bt_fpu_save(v->cpu);
	if (is_apic_msr(msr))
		rc = v->vcpu->apic_ops ? v->vcpu->apic_ops->read_msr(v->vcpu->apic, msr, value) : -1;
	else if (msr == X86_MSR_TSC)
		rc = 0, *value = host_tsc() + (uint64_t)v->cpu->tsc_offset;
	else if (msr == X86_MSR_TSC_ADJUST)
		rc = 0, *value = v->cpu->state.tsc_adjust;
	else if (!(rc = bt_pv_read_msr(v, msr, value)))
		rc = 0;
	else
		rc = read_inert(v, msr, value);
	trace(TRACE_MSR, "cpu %u: rdmsr 0x%x %s 0x%llx", v->vcpu->index, msr, rc ? "#GP" : "=",
	      rc ? 0ull : (unsigned long long)*value);
	return rc;
}

int bt_write_msr(struct x86_system *s, uint32_t msr, uint64_t value)
{
	struct bt_vcpu *v = s->ctx;
	uint64_t unused;
	int rc;

	v->vcpu->stats.msr_writes++;
	bt_fpu_save(v->cpu);
	if (is_apic_msr(msr)) {
		rc = v->vcpu->apic_ops ? v->vcpu->apic_ops->write_msr(v->vcpu->apic, msr, value) : -1;
		if (atomic_load_explicit(&v->vcpu->irq_pending, memory_order_relaxed))
			atomic_store(&v->cpu->poll, 1);
	} else if (msr == X86_MSR_TSC) {
		rc = 0;
		move_tsc(v, value - (host_tsc() + (uint64_t)v->cpu->tsc_offset));
	} else if (msr == X86_MSR_TSC_ADJUST) {
		rc = 0;
		move_tsc(v, value - v->cpu->state.tsc_adjust);
	} else if (!(rc = bt_pv_write_msr(v, msr, value))) {
		rc = 0;
	} else {
		rc = read_inert(v, msr, &unused);
	}
	trace(TRACE_MSR, "cpu %u: wrmsr 0x%x = 0x%llx%s", v->vcpu->index, msr, (unsigned long long)value, rc ? " #GP" : "");
	return rc;
}

uint64_t bt_read_cr8(struct x86_system *s)
{
	struct bt_vcpu *v = s->ctx;

	bt_fpu_save(v->cpu);
	return v->vcpu->apic_ops ? v->vcpu->apic_ops->read_tpr(v->vcpu->apic) : 0;
}

void bt_write_cr8(struct x86_system *s, uint64_t value)
{
	struct bt_vcpu *v = s->ctx;

	bt_fpu_save(v->cpu);
	if (v->vcpu->apic_ops)
		v->vcpu->apic_ops->write_tpr(v->vcpu->apic, value);
	atomic_store(&v->cpu->poll, 1);
}
