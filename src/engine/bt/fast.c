/* SPDX-License-Identifier: MIT */
/*
 * What the fast files (compiled without vector registers) need instead of libc: locks on futexes, system calls,
 * saving the guest's vector state, setting GS base.
 */
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"

#include <asm/prctl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>

/* madvise(2), Linux 5.14; older kernels refuse, and pages are made as they are touched */
#define POPULATE_READ 22
#define POPULATE_WRITE 23

static long raw_syscall(long n, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

void bt_futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	raw_syscall(SYS_futex, (long)word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, 0);
}

void bt_futex_wake(_Atomic uint32_t *word)
{
	raw_syscall(SYS_futex, (long)word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 0x7fffffff, 0);
}

/* Every running thread of the process passes a full memory barrier. */
void bt_membarrier(void)
{
	bt_fence();
	raw_syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0, 0);
}

void bt_populate(void *address, uint64_t size, bool write)
{
	raw_syscall(SYS_madvise, (long)address, (long)size, write ? POPULATE_WRITE : POPULATE_READ, 0);
}

void bt_yield(void)
{
	raw_syscall(SYS_sched_yield, 0, 0, 0, 0);
}

void bt_lock(struct bt_lock *lock)
{
	uint32_t free_state = 0;

	if (atomic_compare_exchange_strong(&lock->state, &free_state, 1))
		return;
	for (unsigned spins = 0; spins < 200; spins++) {
		free_state = 0;
		if (atomic_load_explicit(&lock->state, memory_order_relaxed) == 0 &&
		    atomic_compare_exchange_strong(&lock->state, &free_state, 1))
			return;
		bt_pause();
	}
	while (atomic_exchange(&lock->state, 2) != 0)
		bt_futex_wait(&lock->state, 2);
}

void bt_unlock(struct bt_lock *lock)
{
	if (atomic_exchange(&lock->state, 0) == 2)
		raw_syscall(SYS_futex, (long)&lock->state, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0);
}

void bt_set_gs(uint64_t base)
{
	if (bt_host.fsgsbase)
		__asm__ volatile("wrgsbase %0" ::"r"(base) : "memory");
	else
		raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)base, 0, 0);
}

/* Put x87 and SSE into their initial state, for C code that computes with them. */
static void fpu_default(void)
{
	uint32_t low = (uint32_t)bt_xsave_mask, high = (uint32_t)(bt_xsave_mask >> 32);

	if (low)
		__asm__ volatile("xrstor64 %0" ::"m"(bt_init_xsave), "a"(low), "d"(high) : "memory");
	else
		__asm__ volatile("fxrstor64 %0" ::"m"(bt_init_xsave) : "memory");
}

void bt_fpu_save(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	uint32_t low = (uint32_t)bt_xsave_mask, high = (uint32_t)(bt_xsave_mask >> 32);

	if (v->fpu_saved)
		return;
	v->stats.fpu_saves++;
	if (low)
		__asm__ volatile("xsave64 %0" : "+m"(cpu->state.xsave) : "a"(low), "d"(high) : "memory");
	else
		__asm__ volatile("fxsave64 %0" : "+m"(cpu->state.xsave)::"memory");
	v->fpu_saved = 1;
	fpu_default();
}

/* A vCPU that spins may be waiting for one that has no host CPU: let others run now and then. */
enum bt_result bt_help_pause(struct bt_cpu *cpu, const struct bt_call *call)
{
	(void)call;
	if ((++bt_vcpu_of(cpu)->pauses & 31) == 0)
		bt_yield();
	return BT_NEXT;
}
