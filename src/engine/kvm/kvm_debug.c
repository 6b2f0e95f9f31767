/* SPDX-License-Identifier: MIT */
/*
 * Debugging: breakpoints in the processor's debug address registers and single-stepping (api.rst, KVM_SET_GUEST_DEBUG; Intel
 * SDM volume 3, 17.2), and page walks for a debugger's eyes. While the debugger has breakpoints the guest's own do not work.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "engine/kvm/kvm.h"
#include "x86/paging.h"

#define DR7_RESERVED_1 0x400u

/* ---- page walks ---- */

static uint64_t read_entry(void *ctx, uint64_t gpa, unsigned size)
{
	struct vm *vm = ctx;
	uint64_t value = 0;
	const void *entry = guest_memory_host(&vm->memory, gpa, size, false);

	if (!entry)
		return UINT64_MAX;
	memcpy(&value, entry, size);
	return value;
}

/* A debugger's look sets no accessed bits. */
static bool keep_entry(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t new_value)
{
	(void)ctx, (void)gpa, (void)size, (void)old, (void)new_value;
	return true;
}

bool kvm_translate(struct vcpu *vcpu, uint64_t linear, uint64_t *gpa)
{
	static const struct x86_walk_ops ops = { read_entry, keep_entry };
	unsigned bits = vcpu->vm->cpu_model.maxphyaddr;
	struct x86_cpu_state state;
	struct x86_walk walk;

	kvm_get_state(vcpu, &state);
	state.cr4 &= ~(uint64_t)X86_CR4_SMAP;
	if (!x86_walk_page(&state, &ops, vcpu->vm, linear, X86_ACCESS_READ, false, true,
			   bits ? bits : 40, &walk))
		return false;
	*gpa = walk.gpa;
	return true;
}

/* ---- breakpoints and steps ---- */

static void debug_changed(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct kvm_vcpu *k = vm->vcpus[i]->engine_data;

		k->debug_changed = true;
	}
}

int kvm_set_breakpoint(struct vm *vm, uint64_t linear, bool insert, struct error *err)
{
	struct kvm_vm *kvm = vm->engine_data;
	unsigned n = 0;

	while (n < kvm->breakpoint_count && kvm->breakpoints[n] != linear)
		n++;
	if (insert == (n < kvm->breakpoint_count))
		return 0;
	if (insert && n == KVM_BREAKPOINT_MAX)
		return error_set(err, 0, "cannot set more than %d breakpoints with the kvm engine",
				 KVM_BREAKPOINT_MAX);
	if (insert)
		kvm->breakpoints[kvm->breakpoint_count++] = linear;
	else
		kvm->breakpoints[n] = kvm->breakpoints[--kvm->breakpoint_count];
	debug_changed(vm);
	return 0;
}

void kvm_set_single_step(struct vcpu *vcpu, bool on)
{
	struct kvm_vcpu *k = vcpu->engine_data;

	if (k->step != on) {
		k->step = on;
		k->debug_changed = true;
	}
}

/* The guest goes on at a breakpoint that it has stopped at: RF lets the instruction run (SDM vol. 3, 17.3.1.1). */
static void step_over(struct kvm_vcpu *k)
{
	const struct kvm_vm *kvm = k->kvm;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint64_t linear;

	if (!kvm->breakpoint_count || ioctl(k->fd, KVM_GET_REGS, &regs) ||
	    ioctl(k->fd, KVM_GET_SREGS, &sregs))
		return;
	linear = sregs.cs.l ? regs.rip : (uint32_t)(sregs.cs.base + regs.rip);
	for (unsigned n = 0; n < kvm->breakpoint_count; n++) {
		if (kvm->breakpoints[n] != linear)
			continue;
		regs.rflags |= X86_FLAG_RF;
		ioctl(k->fd, KVM_SET_REGS, &regs);
		return;
	}
}

void kvm_apply_debug(struct kvm_vcpu *k)
{
	const struct kvm_vm *kvm = k->kvm;
	struct kvm_guest_debug debug = { 0 };

	if (kvm->breakpoint_count) {
		debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
		debug.arch.debugreg[7] = DR7_RESERVED_1;
	}
	for (unsigned n = 0; n < kvm->breakpoint_count; n++) {
		debug.arch.debugreg[n] = kvm->breakpoints[n];
		debug.arch.debugreg[7] |= 2ull << (2 * n); /* global, on execution */
	}
	if (k->step)
		debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	if (ioctl(k->fd, KVM_SET_GUEST_DEBUG, &debug))
		log_warn("kvm: breakpoints and single-stepping do not work: %s", strerror(errno));
	step_over(k);
	k->debug_changed = kvm->breakpoint_count != 0; /* look again at where it stands next time */
}
