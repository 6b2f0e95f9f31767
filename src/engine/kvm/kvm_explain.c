/* SPDX-License-Identifier: MIT */
/* Why the kernel could not go on, in words (api.rst, "The kvm_run structure"; linux/kvm.h). The caller prints the registers. */
#include <stdio.h>

#include "base/util.h"
#include "engine/kvm/kvm.h"

const char *kvm_exit_name(unsigned reason)
{
	static const char *const names[] = {
		[KVM_EXIT_UNKNOWN] = "unknown",
		[KVM_EXIT_EXCEPTION] = "exception",
		[KVM_EXIT_IO] = "port I/O",
		[KVM_EXIT_DEBUG] = "debug",
		[KVM_EXIT_HLT] = "HLT",
		[KVM_EXIT_MMIO] = "MMIO",
		[KVM_EXIT_IRQ_WINDOW_OPEN] = "interrupt window",
		[KVM_EXIT_SHUTDOWN] = "shutdown",
		[KVM_EXIT_FAIL_ENTRY] = "failed entry",
		[KVM_EXIT_INTR] = "interrupted",
		[KVM_EXIT_SET_TPR] = "TPR",
		[KVM_EXIT_INTERNAL_ERROR] = "internal error",
		[KVM_EXIT_SYSTEM_EVENT] = "system event",
		[KVM_EXIT_IOAPIC_EOI] = "I/O APIC EOI",
		[KVM_EXIT_X86_RDMSR] = "RDMSR",
		[KVM_EXIT_X86_WRMSR] = "WRMSR",
	};

	return reason < ARRAY_SIZE(names) && names[reason] ? names[reason] : "other";
}

static void explain_internal(struct kvm_vcpu *k, struct error *err)
{
	const struct kvm_run *run = k->run;
	char code[64] = "";
	unsigned used = 0;

	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		if (run->internal.ndata >= 1 &&
		    (run->emulation_failure.flags &
		     KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
			for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15); i++)
				used += (unsigned)snprintf(code + used, sizeof(code) - used,
							   " %02x",
							   run->emulation_failure.insn_bytes[i]);
		error_set(
			err, 0,
			"kvm: the host's kernel had to emulate an instruction and does not know it%s%s",
			used ? ":" : "", code);
		return;
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		error_set(err, 0,
			  "kvm: two exceptions at once that the host's kernel cannot combine");
		return;
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		error_set(
			err, 0,
			"kvm: the processor exited while it delivered an event (data 0x%llx 0x%llx 0x%llx)",
			(unsigned long long)run->internal.data[0],
			(unsigned long long)run->internal.data[1],
			(unsigned long long)run->internal.data[2]);
		return;
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		error_set(
			err, 0,
			"kvm: the processor exited for a reason that the host's kernel does not know (0x%llx)",
			(unsigned long long)run->internal.data[0]);
		return;
	default:
		error_set(err, 0, "kvm: internal error %u of the host's kernel",
			  run->internal.suberror);
	}
}

void kvm_explain_exit(struct kvm_vcpu *k)
{
	const struct kvm_run *run = k->run;
	struct error *err = &k->vcpu->exit_error;

	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		explain_internal(k, err);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		error_set(
			err, 0,
			"kvm: the processor refuses the guest's state (hardware reason 0x%llx, on host CPU %u); on an Intel "
			"processor without 'unrestricted guest' this is often real-mode code",
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason,
			run->fail_entry.cpu);
		break;
	case KVM_EXIT_UNKNOWN:
		error_set(err, 0, "kvm: exit for an unknown hardware reason 0x%llx",
			  (unsigned long long)run->hw.hardware_exit_reason);
		break;
	default:
		error_set(err, 0, "kvm: unexpected exit %u (%s)", run->exit_reason,
			  kvm_exit_name(run->exit_reason));
	}
}
