/* SPDX-License-Identifier: MIT */
/*
 * Guest time.
 *
 * Guest nanoseconds are the host's TSC since a base, scaled, while the VM runs; a pause freezes the value and a resume
 * moves the base (and the TSC offset), so that the guest sees no gap. So guest time and guest TSC are one clock, as
 * the guest expects of its own (kvmclock), and reading it costs an RDTSC: CLOCK_MONOTONIC costs five times that. Readers
 * use a sequence counter and take no lock. The host's TSC must be invariant and synchronised, as on every processor
 * since 2008 and every hypervisor that is worth running under.
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
#define MEASURE_MIN_NS 8000000 /* readings are good to some 30 ns: a few parts in a million */

uint64_t host_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t scale(const struct vm_clock *clock, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * clock->ns_per_tsc >> 32);
}

uint64_t vm_clock_ns(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_acquire);
		uint64_t ns = atomic_load_explicit(&clock->base_ns, memory_order_relaxed);
		uint64_t base_tsc = atomic_load_explicit(&clock->base_tsc, memory_order_relaxed);
		bool running = atomic_load_explicit(&clock->running, memory_order_relaxed);

		if (running) {
			uint64_t tsc = __rdtsc();

			/* Another core's TSC may be a hair behind. */
			ns += tsc > base_tsc ? scale(clock, tsc - base_tsc) : 0;
		}
		atomic_thread_fence(memory_order_acquire);
		if (!(sequence & 1) &&
		    atomic_load_explicit(&clock->sequence, memory_order_relaxed) == sequence)
			return ns;
	}
}

static void clock_set(struct vm_clock *clock, uint64_t ns, uint64_t tsc, bool running)
{
	atomic_fetch_add(&clock->sequence, 1);
	atomic_store(&clock->base_ns, ns);
	atomic_store(&clock->base_tsc, tsc);
	atomic_store(&clock->running, running);
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
		nanosleep(&(struct timespec){ .tv_nsec = (long)(MEASURE_MIN_NS -
								(ns - clock->first_ns)) },
			  NULL);
		read_pair(&tsc, &ns);
	}
	return (uint64_t)((unsigned __int128)(tsc - clock->first_tsc) * NS_PER_S /
			  (ns - clock->first_ns));
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

	read_pair(&clock->first_tsc, &clock->first_ns);
	clock_set(clock, 0, clock->first_tsc, false);
	vm->tsc_offset = -clock->first_tsc;
}

void vm_clock_freeze(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	if (atomic_load(&clock->running))
		clock_set(clock, vm_clock_ns(vm), __rdtsc(), false);
}

void vm_clock_thaw(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;
	uint64_t now;

	if (atomic_load(&clock->running))
		return;
	vm_tsc_frequency(vm);
	now = __rdtsc();
	vm->tsc_offset -= now - atomic_load(&clock->base_tsc);
	clock_set(clock, atomic_load(&clock->base_ns), now, true);
}

uint64_t vm_tsc_frequency(struct vm *vm)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;

	if (!clock->tsc_hz) { /* first by the board or vm_start: no other thread runs yet */
		clock->tsc_hz = host_tsc_hz(clock);
		clock->ns_per_tsc = (uint64_t)(((unsigned __int128)NS_PER_S << 32) / clock->tsc_hz);
	}
	return clock->tsc_hz;
}

uint64_t vm_tsc_to_ns(struct vm *vm, uint64_t guest_tsc)
{
	struct vm_clock *clock = &vm_priv(vm)->clock;
	uint64_t base_ns, delta, ns;
	uint32_t sequence;

	vm_tsc_frequency(vm);
	do {
		sequence = atomic_load_explicit(&clock->sequence, memory_order_acquire);
		base_ns = atomic_load_explicit(&clock->base_ns, memory_order_relaxed);
		/* tsc_offset moves only together with the base */
		delta = guest_tsc - vm->tsc_offset -
			atomic_load_explicit(&clock->base_tsc, memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
	} while ((sequence & 1) ||
		 atomic_load_explicit(&clock->sequence, memory_order_relaxed) != sequence);
	if ((int64_t)delta < 0 && guest_tsc < UINT64_MAX / 2)
		return base_ns; /* before the last resume: long past */
	if ((int64_t)delta < 0)
		return INT64_MAX; /* centuries away */
	ns = scale(clock, delta);
	return ns >= INT64_MAX - base_ns ? INT64_MAX : base_ns + ns;
}
