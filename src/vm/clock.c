/* SPDX-License-Identifier: MIT */
/*
 * Guest time.
 *
 * Guest nanoseconds are CLOCK_MONOTONIC minus a base while the VM runs; a pause freezes the value and a resume
 * moves the base (and the TSC offset), so that the guest sees no gap. Readers use a sequence counter and take
 * no lock.
 *
 * The guest's TSC runs at the host's rate. That rate comes, in this order, from the hypervisor's timing
 * leaf (CPUID 0x40000010, kHz: VMware's and KVM's convention), from CPUID 0x15 (SDM vol. 2: crystal clock and
 * ratio), or from a measurement against CLOCK_MONOTONIC.
 */
#include "vm/clock.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#include "base/util.h"
#include "vm/vm_private.h"

#define NS_PER_S 1000000000ull
#define CLOCK_RUNNING UINT64_MAX
#define MEASURE_MIN_NS 8000000 /* readings are good to some 30 ns: a few parts in a million */

uint64_t host_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t vm_clock_ns(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_acquire);
		uint64_t base = atomic_load_explicit(&clock->base, memory_order_relaxed);
		uint64_t frozen = atomic_load_explicit(&clock->frozen, memory_order_relaxed);
		uint64_t ns = frozen == CLOCK_RUNNING ? host_clock_ns() - base : frozen;

		atomic_thread_fence(memory_order_acquire);
		if (!(sequence & 1) &&
		    atomic_load_explicit(&clock->sequence, memory_order_relaxed) == sequence)
			return ns;
	}
}

static void clock_set(struct vm_clock *clock, uint64_t base, uint64_t frozen)
{
	atomic_fetch_add(&clock->sequence, 1);
	atomic_store(&clock->base, base);
	atomic_store(&clock->frozen, frozen);
	atomic_fetch_add(&clock->sequence, 1);
}

/* One measurement: the TSC and the clock read as close together as a few tries allow. */
static void read_pair(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc(), now = host_clock_ns(), after = __rdtsc();

		if (after - before < best) {
			best = after - before;
			*tsc = before + (after - before) / 2;
			*ns = now;
		}
	}
}

/* Measure since vm_clock_init(): that is usually long enough ago, the kernel having been loaded since. */
static uint64_t measure_tsc_hz(const struct vm_clock *clock)
{
	uint64_t tsc = 0, ns = 0;

	read_pair(&tsc, &ns);
	if (ns - clock->first_ns < MEASURE_MIN_NS) {
		nanosleep(&(struct timespec){ .tv_nsec = (long)(MEASURE_MIN_NS - (ns - clock->first_ns)) }, NULL);
		read_pair(&tsc, &ns);
	}
	return (uint64_t)((unsigned __int128)(tsc - clock->first_tsc) * NS_PER_S / (ns - clock->first_ns));
}

static uint64_t host_tsc_hz(const struct vm_clock *clock)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & BIT(31))) { /* a hypervisor is present */
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010 && a < 0x40010000) {
			__cpuid(0x40000010, a, b, c, d);
			if (a >= 100000) /* 100 MHz: anything less is not a TSC rate */
				return (uint64_t)a * 1000;
		}
	}
	if (__get_cpuid_max(0, NULL) >= 0x15) {
		__cpuid_count(0x15, 0, a, b, c, d);
		if (a && b && c)
			return (uint64_t)c * b / a;
	}
	return measure_tsc_hz(clock);
}

void vm_clock_init(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	clock_set(clock, 0, 0);
	read_pair(&clock->first_tsc, &clock->first_ns);
	clock->frozen_tsc = __rdtsc();
	vm->tsc_offset = -clock->frozen_tsc;
}

void vm_clock_freeze(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	if (atomic_load(&clock->frozen) != CLOCK_RUNNING)
		return;
	clock->frozen_tsc = __rdtsc();
	clock_set(clock, 0, vm_clock_ns(vm));
}

void vm_clock_thaw(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;
	uint64_t frozen = atomic_load(&clock->frozen);

	if (frozen == CLOCK_RUNNING)
		return;
	vm->tsc_offset -= __rdtsc() - clock->frozen_tsc;
	clock_set(clock, host_clock_ns() - frozen, CLOCK_RUNNING);
}

uint64_t vm_tsc_frequency(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	if (!clock->tsc_hz) /* first by the board or vm_start: no other thread runs yet */
		clock->tsc_hz = host_tsc_hz(clock);
	return clock->tsc_hz;
}

uint64_t vm_tsc_to_ns(struct vm *vm, uint64_t guest_tsc)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;
	uint64_t now = vm_clock_ns(vm);
	uint64_t host_tsc = atomic_load(&clock->frozen) == CLOCK_RUNNING ? __rdtsc() : clock->frozen_tsc;
	uint64_t tsc = host_tsc + vm->tsc_offset;
	unsigned __int128 delta;

	if (guest_tsc <= tsc)
		return now;
	delta = (unsigned __int128)(guest_tsc - tsc) * NS_PER_S / vm_tsc_frequency(vm);
	return delta >= INT64_MAX - now ? INT64_MAX : now + (uint64_t)delta;
}
