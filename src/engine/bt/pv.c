/* SPDX-License-Identifier: MIT */
/*
 * The paravirtual interface of the public KVM ABI (Linux Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst):
 * clock, steal time with the preempted flag (PV TLB flush), hypercalls. PV EOI lies in the APIC.
 *
 * The clock. Guest time is a linear function of the guest's TSC, so one pair (TSC, ns) serves all vCPUs
 * for ever and the page carries the stable bit; it is rewritten only when the TSC was moved.
 *
 * PV TLB flush. While a vCPU is outside vcpu_run() its preempted byte is set; another vCPU may then, instead of
 * sending an interrupt, leave a flush request in it, which is honoured before the guest runs again.
 */
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"

#include <stdlib.h>
#include <time.h>

#include "vm/clock.h"

#define MSR_KVM_WALL_CLOCK 0x11u
#define MSR_KVM_SYSTEM_TIME 0x12u
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define MSR_KVM_STEAL_TIME 0x4b564d03u
#define MSR_KVM_PV_EOI_EN 0x4b564d04u

#define HC_VAPIC_POLL_IRQ 1
#define HC_KICK_CPU 5
#define HC_CLOCK_PAIRING 9
#define HC_SEND_IPI 10
#define HC_SCHED_YIELD 11

#define KVM_EPERM 1
#define KVM_EINVAL 22
#define KVM_EOPNOTSUPP 95
#define KVM_ENOSYS 1000

#define PREEMPTED 1
#define PREEMPTED_FLUSH 2
#define PVCLOCK_STABLE 1

struct pvclock_time {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad2[2];
};

struct pvclock_wall {
	uint32_t version, sec, nsec;
};

struct steal_time {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted, pad[3];
	uint32_t pad2[11];
};

struct bt_pv {
	uint64_t system_time_msr, wall_clock_msr, steal_time_msr;
	uint64_t out_since; /* host ns when the vCPU stopped wanting to run or began to: for steal time */
};

int bt_pv_create(struct bt_vcpu *v)
{
	v->pv = calloc(1, sizeof(*v->pv));
	return v->pv ? 0 : -1;
}

void bt_pv_destroy(struct bt_vcpu *v)
{
	free(v->pv);
	v->pv = NULL;
}

void bt_pv_reset(struct bt_vcpu *v)
{
	*v->pv = (struct bt_pv){ 0 };
}

/* Host address of size bytes of RAM at gpa, or NULL. */
static void *guest_area(struct bt_vcpu *v, uint64_t gpa, uint64_t size)
{
	struct memory_slot *slot = bt_find_slot(v->vm, gpa);

	if (!slot || slot->readonly || gpa - slot->gpa > slot->size - size)
		return NULL;
	return slot->host + (gpa - slot->gpa);
}

static void area_written(struct bt_vcpu *v, uint64_t gpa, uint64_t size)
{
	bt_fpu_save(v->cpu);
	guest_memory_written(v->vm, gpa, size);
}

/* ---- clock ---- */

/* ns = (tsc << shift or >> -shift) * mul >> 32 for a TSC of the given frequency. */
static void scale_for(uint64_t hz, uint32_t *mul, int8_t *shift)
{
	uint64_t billion = 1000000000ull;

	*shift = 0;
	while (hz > 2 * billion) {
		hz >>= 1;
		--*shift;
	}
	while (hz && hz <= billion) {
		hz <<= 1;
		++*shift;
	}
	*mul = hz ? (uint32_t)(((unsigned __int128)billion << 32) / hz) : 0;
}

static void update_clock(struct bt_vcpu *v)
{
	uint64_t gpa = v->pv->system_time_msr & ~1ull;
	struct pvclock_time *page = guest_area(v, gpa, sizeof(*page));
	uint32_t version;

	if (!(v->pv->system_time_msr & 1) || !page)
		return;
	bt_fpu_save(v->cpu);
	version = (page->version | 1) + (page->version & 1 ? 2 : 0);
	__atomic_store_n(&page->version, version, __ATOMIC_SEQ_CST);
	bt_clock_pair(v->bt, &page->tsc_timestamp, &page->system_time);
	page->tsc_timestamp += v->vcpu->tsc_delta;
	scale_for(vm_tsc_frequency(v->vm), &page->tsc_to_system_mul, &page->tsc_shift);
	page->flags = PVCLOCK_STABLE;
	__atomic_store_n(&page->version, version + 1, __ATOMIC_SEQ_CST);
	area_written(v, gpa, sizeof(*page));
}

/* A moment as guest TSC (of a vCPU with delta 0) and guest ns: the same one for all vCPUs. */
void bt_clock_pair(struct bt_vm *bt, uint64_t *tsc, uint64_t *ns)
{
	bt_lock(&bt->clock_lock);
	if (!bt->clock_tsc) {
		uint32_t low, high;

		bt->clock_ns = vm_clock_ns(bt->vm);
		__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
		bt->clock_tsc = (low | (uint64_t)high << 32) + bt->vm->tsc_offset;
	}
	*tsc = bt->clock_tsc;
	*ns = bt->clock_ns;
	bt_unlock(&bt->clock_lock);
}

static void write_wall_clock(struct bt_vcpu *v, uint64_t gpa)
{
	struct pvclock_wall *wall = guest_area(v, gpa, sizeof(*wall));
	struct timespec ts;
	uint64_t ns;
	uint32_t version;

	if (!wall)
		return;
	bt_fpu_save(v->cpu);
	clock_gettime(CLOCK_REALTIME, &ts);
	ns = (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec - vm_clock_ns(v->vm);
	version = (wall->version + 1) | 1;
	__atomic_store_n(&wall->version, version, __ATOMIC_SEQ_CST);
	wall->sec = (uint32_t)(ns / 1000000000ull);
	wall->nsec = (uint32_t)(ns % 1000000000ull);
	__atomic_store_n(&wall->version, version + 1, __ATOMIC_SEQ_CST);
	area_written(v, gpa, sizeof(*wall));
}

/* ---- steal time and the preempted flag ---- */

static struct steal_time *steal_area(struct bt_vcpu *v)
{
	if (!(v->pv->steal_time_msr & 1))
		return NULL;
	return guest_area(v, v->pv->steal_time_msr & ~63ull, sizeof(struct steal_time));
}

void bt_pv_enter(struct bt_vcpu *v)
{
	struct steal_time *area = steal_area(v);

	if (area && (__atomic_exchange_n(&area->preempted, 0, __ATOMIC_SEQ_CST) & PREEMPTED_FLUSH))
		bt_tlb_flush_all(v->cpu, true);
}

void bt_pv_leave(struct bt_vcpu *v)
{
	struct steal_time *area = steal_area(v);

	if (area)
		__atomic_fetch_or(&area->preempted, PREEMPTED, __ATOMIC_SEQ_CST);
}

/* ---- MSRs ---- */

int bt_pv_read_msr(struct bt_vcpu *v, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = v->pv->wall_clock_msr;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = v->pv->system_time_msr;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = v->pv->steal_time_msr;
		return 0;
	default:
		return -1;
	}
}

int bt_pv_write_msr(struct bt_vcpu *v, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		v->pv->wall_clock_msr = value;
		write_wall_clock(v, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		v->pv->system_time_msr = value;
		update_clock(v);
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (value & 0x3e)
			return -1;
		v->pv->steal_time_msr = value;
		return 0;
	default:
		return -1;
	}
}

void bt_pv_tsc_moved(struct bt_vcpu *v)
{
	update_clock(v);
}

/* ---- hypercalls ---- */

static struct vcpu *find_apic(struct vm *vm, uint64_t apic_id)
{
	for (unsigned n = 0; n < vm->vcpu_count; n++)
		if (vm->vcpus[n]->apic_id == apic_id)
			return vm->vcpus[n];
	return NULL;
}

static int64_t kick_cpu(struct bt_vcpu *v, uint64_t apic_id)
{
	struct vcpu *target = find_apic(v->vm, apic_id);

	if (target && target->engine_data) {
		struct bt_vcpu *other = target->engine_data;

		atomic_store(&other->pv_kicked, true);
		vcpu_kick(target);
	}
	return 0;
}

/* The CPUs whose APIC id - min is set in the bitmap, by messages as a device would send them. */
static int64_t send_ipi(struct bt_vcpu *v, const uint64_t bitmap[2], unsigned word_bits, uint64_t min, uint64_t icr)
{
	unsigned delivery = (unsigned)(icr >> 8) & 7;
	int64_t reached = 0;

	if (delivery != 0 && delivery != 4)
		return -KVM_EINVAL;
	for (unsigned n = 0; n < v->vm->vcpu_count; n++) {
		uint64_t bit = v->vm->vcpus[n]->apic_id - min;

		if (bit >= 2 * word_bits || !(bitmap[bit / word_bits] >> (bit % word_bits) & 1))
			continue;
		msi_send(v->vm, 0xfee00000u | (uint64_t)v->vm->vcpus[n]->apic_id << 12, (uint32_t)(icr & 0x7ff));
		reached++;
	}
	return reached;
}

enum bt_result bt_help_vmcall(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	uint64_t *gpr = cpu->state.gpr;
	bool wide = x86_in_64bit(&cpu->state);
	uint64_t mask = wide ? ~0ull : 0xffffffffull;
	uint64_t number = gpr[X86_RAX] & mask;
	uint64_t a[4] = { gpr[X86_RBX] & mask, gpr[X86_RCX] & mask, gpr[X86_RDX] & mask, gpr[X86_RSI] & mask };
	int64_t result;

	(void)call;
	bt_fpu_save(cpu);
	v->vcpu->stats.hypercalls++;
	if (x86_cpl(&cpu->state) != 0) {
		gpr[X86_RAX] = (uint64_t)-KVM_EPERM & mask;
		return BT_NEXT;
	}
	switch (number) {
	case HC_VAPIC_POLL_IRQ:
		result = 0;
		break;
	case HC_KICK_CPU:
		result = kick_cpu(v, a[1]);
		break;
	case HC_SEND_IPI:
		result = send_ipi(v, a, wide ? 64 : 32, a[2], a[3]);
		break;
	case HC_SCHED_YIELD:
		bt_yield();
		result = 0;
		break;
	case HC_CLOCK_PAIRING:
		result = -KVM_EOPNOTSUPP;
		break;
	default:
		result = -KVM_ENOSYS;
	}
	gpr[X86_RAX] = (uint64_t)result & mask;
	return BT_NEXT;
}
