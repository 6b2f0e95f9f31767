/* SPDX-License-Identifier: MIT */
/*
 * The CPU's state between struct x86_cpu_state and the kernel's structures (api.rst: KVM_GET_REGS, KVM_GET_SREGS,
 * KVM_GET_XSAVE, KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_VCPU_EVENTS, KVM_GET_MSRS; devices/vcpu.rst: KVM_VCPU_TSC_OFFSET).
 *
 * What the two forms do not share:
 *
 * - HLT and waiting for SIPI: the kernel does not know of them, because the local APIC is not its own; see mp_state.
 * - An interrupt that was given to the kernel but not yet delivered is, in the common form, a pending event with its vector
 *   (32 and more; exceptions are below).
 * - CR8 is the local APIC's.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/log.h"
#include "base/util.h"
#include "engine/kvm/kvm.h"

#define APIC_BASE_RESET 0xfee00900ull
#define XSAVE_BV 512
#define XSAVE_MXCSR 24
#define XSAVE_MXCSR_MASK 28
#define FIRST_INTERRUPT 32

/* ---- MSRs ---- */

struct msr {
	uint32_t number;
	uint32_t offset; /* in struct x86_cpu_state */
};
#define MSR(number_, field_)                                                                       \
	{                                                                                          \
		.number = (number_), .offset = offsetof(struct x86_cpu_state, field_)              \
	}
#define MTRR_RANGE(n)                                                                              \
	MSR(X86_MSR_MTRR_PHYS_BASE0 + 2 * (n), mtrr_phys_base[n]),                                 \
		MSR(X86_MSR_MTRR_PHYS_BASE0 + 2 * (n) + 1, mtrr_phys_mask[n])
#define MTRR_4K(n) MSR(X86_MSR_MTRR_FIX4K_C0000 + (n), mtrr_fixed[3 + (n)])

static const struct msr msrs[] = {
	MSR(X86_MSR_STAR, star),
	MSR(X86_MSR_LSTAR, lstar),
	MSR(X86_MSR_CSTAR, cstar),
	MSR(X86_MSR_SFMASK, sfmask),
	MSR(X86_MSR_KERNEL_GS_BASE, kernel_gs_base),
	MSR(X86_MSR_SYSENTER_CS, sysenter_cs),
	MSR(X86_MSR_SYSENTER_ESP, sysenter_esp),
	MSR(X86_MSR_SYSENTER_EIP, sysenter_eip),
	MSR(X86_MSR_PAT, pat),
	MSR(X86_MSR_TSC_AUX, tsc_aux),
	MSR(X86_MSR_MISC_ENABLE, misc_enable),
	MSR(X86_MSR_DEBUGCTL, debugctl),
	MSR(X86_MSR_SPEC_CTRL, spec_ctrl),
	MSR(X86_MSR_XSS, xss),
	MSR(X86_MSR_TSC_ADJUST, tsc_adjust),
	MSR(X86_MSR_MCG_STATUS, mcg_status),
	MSR(X86_MSR_MTRR_DEF_TYPE, mtrr_def_type),
	MSR(X86_MSR_MTRR_FIX64K, mtrr_fixed[0]),
	MSR(X86_MSR_MTRR_FIX16K_80000, mtrr_fixed[1]),
	MSR(X86_MSR_MTRR_FIX16K_A0000, mtrr_fixed[2]),
	MTRR_4K(0),
	MTRR_4K(1),
	MTRR_4K(2),
	MTRR_4K(3),
	MTRR_4K(4),
	MTRR_4K(5),
	MTRR_4K(6),
	MTRR_4K(7),
	MTRR_RANGE(0),
	MTRR_RANGE(1),
	MTRR_RANGE(2),
	MTRR_RANGE(3),
	MTRR_RANGE(4),
	MTRR_RANGE(5),
	MTRR_RANGE(6),
	MTRR_RANGE(7),
};

struct msr_buffer {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[KVM_MSR_LIST_MAX];
};

static uint64_t *field(const struct x86_cpu_state *state, const struct msr *msr)
{
	return (uint64_t *)((uintptr_t)state + msr->offset);
}

bool kvm_get_one_msr(struct kvm_vcpu *k, uint32_t number, uint64_t *value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = { .header.nmsrs = 1, .entry.index = number };

	if (ioctl(k->fd, KVM_GET_MSRS, &one) != 1)
		return false;
	*value = one.entry.data;
	return true;
}

bool kvm_set_one_msr(struct kvm_vcpu *k, uint32_t number, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = { .header.nmsrs = 1, .entry = { .index = number, .data = value } };

	return ioctl(k->fd, KVM_SET_MSRS, &one) == 1;
}

void kvm_list_msrs(struct kvm_vcpu *k)
{
	struct kvm_vm *kvm = k->kvm;
	uint64_t value;

	kvm->msr_count = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		if (kvm_get_one_msr(k, msrs[i].number, &value))
			kvm->msrs[kvm->msr_count++] = (uint8_t)i;
}

static void get_msrs(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	const struct kvm_vm *kvm = k->kvm;
	struct msr_buffer buffer = { .header.nmsrs = kvm->msr_count };
	int got;

	for (unsigned i = 0; i < kvm->msr_count; i++)
		buffer.entries[i].index = msrs[kvm->msrs[i]].number;
	got = ioctl(k->fd, KVM_GET_MSRS, &buffer);
	for (int i = 0; i < got; i++)
		*field(state, &msrs[kvm->msrs[i]]) = buffer.entries[i].data;
}

/* The kernel stops at the first MSR whose value it refuses: that one stays as it is. */
static void set_msrs(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	const struct kvm_vm *kvm = k->kvm;

	for (unsigned first = 0; first < kvm->msr_count; first++) {
		struct msr_buffer buffer = { .header.nmsrs = kvm->msr_count - first };
		int done;

		for (unsigned i = first; i < kvm->msr_count; i++) {
			const struct msr *msr = &msrs[kvm->msrs[i]];

			buffer.entries[i - first].index = msr->number;
			buffer.entries[i - first].data = *field(state, msr);
		}
		done = ioctl(k->fd, KVM_SET_MSRS, &buffer);
		if (done < 0)
			return;
		first += (unsigned)done;
		if (first < kvm->msr_count)
			log_debug("kvm: MSR 0x%x does not take 0x%llx", buffer.entries[done].index,
				  (unsigned long long)buffer.entries[done].data);
	}
}

/* ---- time-stamp counter ---- */

static bool tsc_offset_attr(struct kvm_vcpu *k, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)offset,
	};

	return k->kvm->has_tsc_offset && ioctl(k->fd, request, &attr) == 0;
}

void kvm_sync_tsc(struct kvm_vcpu *k)
{
	uint64_t base = k->vcpu->vm->tsc_offset, offset;

	if (likely(k->tsc_known && k->tsc_offset == base + k->vcpu->tsc_delta))
		return;
	/* What the guest itself has moved it by stays. */
	if (k->tsc_known && tsc_offset_attr(k, KVM_GET_DEVICE_ATTR, &offset))
		k->vcpu->tsc_delta += offset - k->tsc_offset;
	offset = base + k->vcpu->tsc_delta;
	k->tsc_known = true;
	k->tsc_offset = offset;
	if (!tsc_offset_attr(k, KVM_SET_DEVICE_ATTR, &offset))
		kvm_set_one_msr(k, X86_MSR_TSC, __rdtsc() + offset);
}

/* The guest may have written its TSC. */
static void get_tsc(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	uint64_t offset;

	if (k->tsc_known && tsc_offset_attr(k, KVM_GET_DEVICE_ATTR, &offset) &&
	    offset != k->tsc_offset) {
		k->vcpu->tsc_delta += offset - k->tsc_offset;
		k->tsc_offset = offset;
	}
	state->tsc_offset = k->vcpu->vm->tsc_offset + k->vcpu->tsc_delta;
}

/* ---- segments ---- */

static void get_segment(const struct kvm_segment *from, struct x86_segment *to)
{
	to->selector = from->selector;
	to->base = from->base;
	to->limit = from->limit;
	to->attr = (uint16_t)(from->type | from->s << 4 | from->dpl << 5 |
			      (from->present && !from->unusable) << 7 | from->avl << 12 |
			      from->l << 13 | from->db << 14 | from->g << 15);
}

static void set_segment(const struct x86_segment *from, struct kvm_segment *to)
{
	*to = (struct kvm_segment){
		.base = from->base,
		.limit = from->limit,
		.selector = from->selector,
		.type = from->attr & X86_ATTR_TYPE,
		.s = from->attr >> 4 & 1,
		.dpl = from->attr >> X86_ATTR_DPL_SHIFT & 3,
		.present = from->attr >> 7 & 1,
		.avl = from->attr >> 12 & 1,
		.l = from->attr >> 13 & 1,
		.db = from->attr >> 14 & 1,
		.g = from->attr >> 15 & 1,
		.unusable = !(from->attr & X86_ATTR_P),
	};
}

/* Where each segment register stands in struct kvm_sregs. */
static const uint16_t segment_offset[X86_SEG_COUNT] = {
	[X86_ES] = offsetof(struct kvm_sregs, es),    [X86_CS] = offsetof(struct kvm_sregs, cs),
	[X86_SS] = offsetof(struct kvm_sregs, ss),    [X86_DS] = offsetof(struct kvm_sregs, ds),
	[X86_FS] = offsetof(struct kvm_sregs, fs),    [X86_GS] = offsetof(struct kvm_sregs, gs),
	[X86_LDTR] = offsetof(struct kvm_sregs, ldt), [X86_TR] = offsetof(struct kvm_sregs, tr),
};

static struct kvm_segment *segment_of(struct kvm_sregs *sregs, unsigned n)
{
	return (struct kvm_segment *)((uint8_t *)sregs + segment_offset[n]);
}

static void get_sregs(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	struct vcpu *vcpu = k->vcpu;
	struct kvm_sregs sregs;

	if (ioctl(k->fd, KVM_GET_SREGS, &sregs))
		return;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		get_segment(segment_of(&sregs, i), &state->seg[i]);
	state->gdt = (struct x86_table){ .base = sregs.gdt.base, .limit = sregs.gdt.limit };
	state->idt = (struct x86_table){ .base = sregs.idt.base, .limit = sregs.idt.limit };
	state->cr0 = sregs.cr0;
	state->cr2 = sregs.cr2;
	state->cr3 = sregs.cr3;
	state->cr4 = sregs.cr4;
	state->efer = sregs.efer;
	state->cr8 = vcpu->apic_ops && !k->kvm->kernel_apic ? vcpu->apic_ops->read_tpr(vcpu->apic) :
							      sregs.cr8;
}

static void set_sregs(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	struct kvm_sregs sregs = { .apic_base = APIC_BASE_RESET }, now;

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		set_segment(&state->seg[i], segment_of(&sregs, i));
	sregs.gdt =
		(struct kvm_dtable){ .base = state->gdt.base, .limit = (uint16_t)state->gdt.limit };
	sregs.idt =
		(struct kvm_dtable){ .base = state->idt.base, .limit = (uint16_t)state->idt.limit };
	sregs.cr0 = state->cr0;
	sregs.cr2 = state->cr2;
	sregs.cr3 = state->cr3;
	sregs.cr4 = state->cr4;
	sregs.cr8 = state->cr8 & 15;
	sregs.efer = state->efer;
	if (k->kvm->kernel_apic && !ioctl(k->fd, KVM_GET_SREGS, &now))
		sregs.apic_base = now.apic_base;
	if (ioctl(k->fd, KVM_SET_SREGS, &sregs))
		log_warn("kvm: CPU %u's system registers are refused: %s", k->vcpu->index,
			 strerror(errno));
}

/* ---- general registers ---- */

static void get_regs(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	struct kvm_regs regs;

	if (ioctl(k->fd, KVM_GET_REGS, &regs))
		return;
	state->gpr[X86_RAX] = regs.rax;
	state->gpr[X86_RCX] = regs.rcx;
	state->gpr[X86_RDX] = regs.rdx;
	state->gpr[X86_RBX] = regs.rbx;
	state->gpr[X86_RSP] = regs.rsp;
	state->gpr[X86_RBP] = regs.rbp;
	state->gpr[X86_RSI] = regs.rsi;
	state->gpr[X86_RDI] = regs.rdi;
	memcpy(&state->gpr[X86_R8], &regs.r8, 8 * sizeof(uint64_t));
	state->rip = regs.rip;
	state->rflags = regs.rflags | X86_FLAG_R1;
}

static void set_regs(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	struct kvm_regs regs = {
		.rax = state->gpr[X86_RAX],
		.rcx = state->gpr[X86_RCX],
		.rdx = state->gpr[X86_RDX],
		.rbx = state->gpr[X86_RBX],
		.rsp = state->gpr[X86_RSP],
		.rbp = state->gpr[X86_RBP],
		.rsi = state->gpr[X86_RSI],
		.rdi = state->gpr[X86_RDI],
		.rip = state->rip,
		.rflags = state->rflags | X86_FLAG_R1,
	};

	memcpy(&regs.r8, &state->gpr[X86_R8], 8 * sizeof(uint64_t));
	ioctl(k->fd, KVM_SET_REGS, &regs);
}

/* ---- x87, vectors, XCR0 ---- */

static void get_vectors(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	struct kvm_xcrs xcrs;

	_Static_assert(sizeof(struct kvm_xsave) == X86_XSAVE_MAX, "XSAVE area");
	memset(state->xsave, 0, sizeof(state->xsave));
	ioctl(k->fd, KVM_GET_XSAVE, state->xsave);
	memset(state->xsave + 464, 0,
	       48); /* bytes that XSAVE leaves alone: the kernel's own notes */
	state->xcr0 = 1;
	if (k->kvm->has_xcrs && !ioctl(k->fd, KVM_GET_XCRS, &xcrs) && xcrs.nr_xcrs)
		state->xcr0 = xcrs.xcrs[0].value;
}

static void set_vectors(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = state->xcr0 | 1 };
	uint64_t valid = k->vcpu->vm->cpu_model.xcr0_valid | 3, bv;
	uint8_t xsave[X86_XSAVE_MAX] __attribute__((aligned(64)));
	uint32_t mxcsr;

	memcpy(xsave, state->xsave, sizeof(xsave));
	memset(xsave + 464, 0, 48);
	memset(xsave + XSAVE_BV + 8, 0, 56);
	memcpy(&bv, xsave + XSAVE_BV, 8);
	bv &= valid;
	memcpy(xsave + XSAVE_BV, &bv, 8);
	memcpy(&mxcsr, xsave + XSAVE_MXCSR, 4);
	mxcsr &= 0xffff;
	memcpy(xsave + XSAVE_MXCSR, &mxcsr, 4);
	if (k->kvm->has_xcrs && (k->vcpu->vm->cpu_model.xcr0_valid & 2))
		ioctl(k->fd, KVM_SET_XCRS, &xcrs);
	if (ioctl(k->fd, KVM_SET_XSAVE, xsave))
		log_warn("kvm: CPU %u's vector registers are refused: %s", k->vcpu->index,
			 strerror(errno));
}

/* ---- debug registers ---- */

static void get_debugregs(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	struct kvm_debugregs regs;

	if (!k->kvm->has_debugregs || ioctl(k->fd, KVM_GET_DEBUGREGS, &regs))
		return;
	for (unsigned i = 0; i < 4; i++)
		state->dr[i] = regs.db[i];
	state->dr[6] = regs.dr6;
	state->dr[7] = regs.dr7;
}

static void set_debugregs(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	struct kvm_debugregs regs = { .dr6 = (uint32_t)state->dr[6],
				      .dr7 = (uint32_t)state->dr[7] };

	for (unsigned i = 0; i < 4; i++)
		regs.db[i] = state->dr[i];
	if (k->kvm->has_debugregs)
		ioctl(k->fd, KVM_SET_DEBUGREGS, &regs);
}

/* ---- events ---- */

static void get_events(struct kvm_vcpu *k, struct x86_cpu_state *state)
{
	struct kvm_vcpu_events events;

	state->event_pending = 0;
	if (ioctl(k->fd, KVM_GET_VCPU_EVENTS, &events))
		return;
	state->sti_shadow = (events.interrupt.shadow & KVM_X86_SHADOW_INT_STI) != 0;
	state->mov_ss_shadow = (events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS) != 0;
	state->nmi_masked = events.nmi.masked && !events.nmi.injected;
	state->nmi_pending = (uint8_t)MIN(events.nmi.pending + events.nmi.injected, 2);
	if (events.exception.injected || events.exception.pending) {
		state->event_pending = 1;
		state->event_vector = events.exception.nr;
		state->event_has_error = events.exception.has_error_code;
		state->event_error = events.exception.has_error_code ? events.exception.error_code :
								       0;
	} else if (events.interrupt.injected && !events.interrupt.soft) {
		state->event_pending = 1;
		state->event_vector = events.interrupt.nr;
		state->event_has_error = 0;
		state->event_error = 0;
	}
}

static void set_events(struct kvm_vcpu *k, const struct x86_cpu_state *state)
{
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
		.nmi = { .pending = state->nmi_pending, .masked = state->nmi_masked },
	};

	if (state->sti_shadow)
		events.interrupt.shadow |= KVM_X86_SHADOW_INT_STI;
	if (state->mov_ss_shadow)
		events.interrupt.shadow |= KVM_X86_SHADOW_INT_MOV_SS;
	if (state->event_pending && state->event_vector >= FIRST_INTERRUPT) {
		events.interrupt.injected = 1;
		events.interrupt.nr = state->event_vector;
	} else if (state->event_pending) {
		events.exception.injected = 1;
		events.exception.nr = state->event_vector;
		events.exception.has_error_code = state->event_has_error;
		events.exception.error_code = state->event_error;
	}
	if (ioctl(k->fd, KVM_SET_VCPU_EVENTS, &events))
		log_warn("kvm: CPU %u's pending events are refused: %s", k->vcpu->index,
			 strerror(errno));
}

/* ---- all of it ---- */

void kvm_get_state(struct vcpu *vcpu, struct x86_cpu_state *state)
{
	struct kvm_vcpu *k = vcpu->engine_data;

	kvm_complete_io(k);
	memset(state, 0, sizeof(*state));
	get_regs(k, state);
	get_sregs(k, state);
	get_vectors(k, state);
	get_debugregs(k, state);
	get_events(k, state);
	get_msrs(k, state);
	get_tsc(k, state);
	state->mp_state = k->kvm->kernel_apic ? kvm_get_mp_state(k) : k->mp_state;
}

void kvm_set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	struct kvm_vcpu *k = vcpu->engine_data;

	kvm_complete_io(k);
	set_sregs(k, state);
	set_regs(k, state);
	set_vectors(k, state);
	set_msrs(k, state);
	set_debugregs(k, state);
	set_events(k, state);
	k->mp_state = state->mp_state;
	if (k->kvm->kernel_apic)
		kvm_set_mp_state(k, state->mp_state);
	k->nmi_due = state->nmi_pending && !state->nmi_masked;
	/* What KVM_RUN would have told. */
	k->run->if_flag = (state->rflags & X86_FLAG_IF) != 0;
	k->run->ready_for_interrupt_injection = 0;
	k->run->cr8 = state->cr8 & 15;
}
