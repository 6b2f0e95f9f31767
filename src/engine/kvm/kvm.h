/* SPDX-License-Identifier: MIT */
/*
 * The kvm engine: what its files share. Private to engine/kvm.
 *
 * kvm.c         the engine: VM, vCPUs, memory, kicks
 * kvm_run.c     vcpu_run(): interrupts in, exits out
 * kvm_apic.c    the kernel's local APICs
 * kvm_state.c   struct x86_cpu_state in and out
 * kvm_cpuid.c   CPUID and the MSRs that come to user space
 * kvm_probe.c   what this host's /dev/kvm is worth
 * kvm_code.c    the probe's throw-away VM: code in, result out
 * kvm_debug.c   the GDB stub's breakpoints and page walks
 * kvm_explain.c why the kernel could not go on
 *
 * Source of everything about the interface: Linux Documentation/virt/kvm/api.rst, by section name.
 */
#ifndef LODGE_ENGINE_KVM_KVM_H
#define LODGE_ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vm/vm.h"

#define KVM_BREAKPOINT_MAX 4 /* debug address registers */
#define KVM_MSR_LIST_MAX 64
#define KVM_IOAPIC_PINS 24

struct kvm_vm {
	int kvm_fd, fd;
	unsigned run_size; /* bytes of struct kvm_run's mapping */
	bool has_msr_exits, has_tsc_offset, has_xcrs, has_debugregs;
	bool kernel_apic; /* the local APICs are the kernel's */
	pthread_mutex_t route_lock;
	struct {
		uint32_t address, data;
	} routes[KVM_IOAPIC_PINS]; /* of the I/O APIC's pins; address 0: none */
	unsigned breakpoint_count;
	uint64_t breakpoints[KVM_BREAKPOINT_MAX];
	/* MSRs of struct x86_cpu_state that this kernel has: indices into kvm_state.c's table. */
	unsigned msr_count;
	uint8_t msrs[KVM_MSR_LIST_MAX];
};

struct kvm_vcpu {
	struct vcpu *vcpu;
	struct kvm_vm *kvm;
	int fd;
	struct kvm_run *run;

	/* Kicks: see kvm_run.c. */
	_Atomic bool thread_known;
	pthread_t thread;
	_Atomic uint32_t in_run;

	uint8_t mp_state;   /* enum x86_mp_state, where the local APIC, and so HLT, is ours */
	bool nmi_due;       /* an NMI was put into the state: leave HLT */
	bool incomplete;    /* the last exit's I/O is completed by the next KVM_RUN */
	bool step;          /* single-step for the debugger */
	bool debug_changed; /* breakpoints or step differ from what the kernel was told */
	bool tsc_known;
	uint64_t tsc_offset; /* as the kernel was told */
	uint64_t exits_by_reason[64];
};

/* What a probe found; filled once a process, from `unemulated` on by kvm_features() only. */
struct kvm_findings {
	bool usable;
	bool emulated;             /* kernel code is emulated instruction by instruction */
	char reason[256];          /* one sentence */
	char advice[256];          /* what to do about it, or "" */
	bool kernel_apic;          /* use the kernel's local APICs */
	double ns_per_instruction; /* of kernel code in a tight loop; 0: not measured */
	double ns_per_exit;        /* of a port write that user space answers */
	char unemulated[128]; /* names of features that do not work though announced, space separated */
	bool tsc_fixed;       /* the guest reads the host's TSC whatever it is given */
	uint32_t cpuid_count;
	struct kvm_cpuid_entry2 cpuid[128]; /* KVM_GET_SUPPORTED_CPUID less what does not work */
};

/* ---- kvm_probe.c ---- */
/* Usable, emulated, reason, advice and figures. */
const struct kvm_findings *kvm_findings(void);
/* All of it. */
const struct kvm_findings *kvm_features(void);

/* ---- kvm_code.c: a throw-away VM that runs pieces of 64-bit kernel code ---- */
struct kvm_code {
	int kvm_fd, vm_fd, vcpu_fd;
	unsigned run_size;
	struct kvm_run *run;
	uint8_t *memory;
};
/* Returns 0, or -1 with err. cpuid: what the vCPU is told. */
int kvm_code_open(struct kvm_code *code, int kvm_fd, struct kvm_cpuid2 *cpuid, struct error *err);
void kvm_code_close(struct kvm_code *code);
/* Run `length` bytes at CPL 0 with paging on from fresh registers (RDI: a page to write to) to its first exit; returns the exit
 * reason, or -1 if the kernel refuses. */
int kvm_code_run(struct kvm_code *code, const uint8_t *bytes, unsigned length);
/* Go on after that exit. */
int kvm_code_continue(struct kvm_code *code);

/* ---- kvm_cpuid.c ---- */
void kvm_filter_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
int kvm_set_cpuid(struct kvm_vcpu *k, struct error *err);
/* Make the MSRs of the APIC come to user space. */
int kvm_filter_msrs(struct kvm_vm *kvm, struct error *err);
/* KVM_EXIT_X86_RDMSR and _WRMSR */
void kvm_read_msr_exit(struct kvm_vcpu *k);
void kvm_write_msr_exit(struct kvm_vcpu *k);

/* ---- kvm_state.c ---- */
void kvm_get_state(struct vcpu *vcpu, struct x86_cpu_state *state);
void kvm_set_state(struct vcpu *vcpu, const struct x86_cpu_state *state);
/* Find out which MSRs there are. After kvm_set_cpuid(). */
void kvm_list_msrs(struct kvm_vcpu *k);
/* Bring the guest's TSC in line with vm->tsc_offset, which moves when the VM was paused. */
void kvm_sync_tsc(struct kvm_vcpu *k);

bool kvm_get_one_msr(struct kvm_vcpu *k, uint32_t number, uint64_t *value);
bool kvm_set_one_msr(struct kvm_vcpu *k, uint32_t number, uint64_t value);

/* ---- kvm_apic.c ---- */
/* Use the kernel's local APICs, if it offers them. Before vCPUs are created. */
bool kvm_take_apics(struct kvm_vm *kvm, struct vm *vm);
/* enum x86_mp_state */
uint8_t kvm_get_mp_state(struct kvm_vcpu *k);
void kvm_set_mp_state(struct kvm_vcpu *k, uint8_t state);

/* ---- kvm_run.c ---- */
enum vcpu_exit kvm_vcpu_run(struct vcpu *vcpu);
void kvm_vcpu_kick(struct vcpu *vcpu);
/* Finish the I/O instruction that the last exit was about, so that the state is that between two instructions. */
void kvm_complete_io(struct kvm_vcpu *k);

/* ---- kvm_debug.c ---- */
bool kvm_translate(struct vcpu *vcpu, uint64_t linear, uint64_t *gpa);
int kvm_set_breakpoint(struct vm *vm, uint64_t linear, bool insert, struct error *err);
void kvm_set_single_step(struct vcpu *vcpu, bool on);
/* Tell the kernel before the guest goes on. */
void kvm_apply_debug(struct kvm_vcpu *k);

/* ---- kvm_explain.c ---- */
/* Put what the kernel's exit says into vcpu->exit_error. */
void kvm_explain_exit(struct kvm_vcpu *k);
const char *kvm_exit_name(unsigned reason);

#endif
