/* SPDX-License-Identifier: MIT */
/*
 * Host signals from translated code.
 *
 * A copied guest instruction may fault on the host as it would have on the guest's CPU: #DE, #UD, #GP (an aligned SSE access that is
 * not), #MF, #XM. The kernel turns that into a signal on the vCPU's thread; the handler looks the address up in the fault
 * map, puts back the one register that may be displaced, and lets the thread go on in bt_tramp_fault with
 * the guest's registers in place, exactly as if the code had called the runtime.
 *
 * While translated code runs RSP is the guest's and may hold any value, even an address within the signal
 * stack, so the signal stack must be SS_AUTODISARM: the kernel then never takes RSP as a sign of being on it.
 */
#include "engine/bt/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

#define SIGNAL_STACK_SIZE 65536u

static const int handled[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
static struct sigaction previous[65];
static __thread struct bt_vcpu *thread_vcpu;

/* Host register numbers in their encoding order. */
static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* Not ours: as it would have been without us. */
static void pass_on(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *old = &previous[sig];

	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, context);
	} else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	} else {
		signal(sig, SIG_DFL);
		raise(sig); /* pending until this handler returns; the instruction faults again anyway */
	}
}

static void complain(const ucontext_t *uc, int sig, const struct bt_vcpu *v, const siginfo_t *info)
{
	char line[256];
	int n = snprintf(line, sizeof(line),
			 "lodge: signal %d (trap %lld, error 0x%llx) at host 0x%llx%s%lx, address %p\n", sig,
			 (long long)uc->uc_mcontext.gregs[REG_TRAPNO], (long long)uc->uc_mcontext.gregs[REG_ERR],
			 (long long)uc->uc_mcontext.gregs[REG_RIP], v ? ", code cache + 0x" : "",
			 v ? (long)(uc->uc_mcontext.gregs[REG_RIP] - (long long)v->bt->cache.rx) : 0, info->si_addr);

	if (n > 0 && write(2, line, (size_t)n) < 0)
		_exit(1);
}

/* The guest's exception for a trap of the host in a copied instruction; false if there is none. */
static bool guest_fault(const ucontext_t *uc, const struct x86_cpu_state *state, struct x86_fault *fault)
{
	long long trap = uc->uc_mcontext.gregs[REG_TRAPNO];

	*fault = (struct x86_fault){ .vector = (uint8_t)trap };
	switch (trap) {
	case X86_DE:
	case X86_UD:
	case X86_NM:
	case X86_MF:
	case X86_OF:
	case X86_BR:
		return true;
	case X86_XM:
		if (!(state->cr4 & X86_CR4_OSXMMEXCPT))
			fault->vector = X86_UD;
		return true;
	case X86_GP:
	case X86_SS_FAULT:
	case X86_AC:
		fault->vector = trap == X86_AC ? X86_GP : (uint8_t)trap;
		fault->has_error = true;
		return true;
	default:
		return false;
	}
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	struct bt_vcpu *v = thread_vcpu;
	ucontext_t *uc = context;
	greg_t *gregs = uc->uc_mcontext.gregs;
	uint64_t rip = (uint64_t)gregs[REG_RIP], offset;
	const struct bt_fault_map *map;

	if (!v) {
		pass_on(sig, info, context);
		return;
	}
	offset = rip - (uint64_t)v->bt->cache.rx;
	if (offset >= v->bt->cache.size) {
		complain(uc, sig, NULL, info);
		pass_on(sig, info, context);
		return;
	}
	map = bt_fault_find(&v->bt->cache, (uint32_t)offset);
	if (!map || !guest_fault(uc, &v->cpu->state, &v->host_fault)) {
		complain(uc, sig, v, info);
		pass_on(sig, info, context);
		return;
	}
	if (map->spill_reg < 16)
		gregs[greg_of[map->spill_reg]] = (greg_t)v->cpu->spill;
	v->host_fault_offset = map->offset;
	gregs[REG_RIP] = (greg_t)(uint64_t)bt_tramp_fault;
}

int bt_signals_install(struct error *err)
{
	static bool done;

	if (done)
		return 0;
	for (unsigned i = 0; i < sizeof(handled) / sizeof(handled[0]); i++) {
		struct sigaction action;

		memset(&action, 0, sizeof(action));
		action.sa_sigaction = on_fault;
		action.sa_flags = SA_SIGINFO | SA_ONSTACK;
		sigfillset(&action.sa_mask);
		if (sigaction(handled[i], &action, &previous[handled[i]]))
			return error_set_errno(err, errno, "cannot catch signal %d", handled[i]);
	}
	done = true;
	return 0;
}

int bt_signals_thread(struct bt_vcpu *v, struct error *err)
{
	stack_t stack;
	sigset_t set;

	if (!v->signal_stack) {
		v->signal_stack = mmap(NULL, SIGNAL_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (v->signal_stack == MAP_FAILED) {
			v->signal_stack = NULL;
			return error_set_errno(err, errno, "cannot allocate a signal stack");
		}
	}
	memset(&stack, 0, sizeof(stack));
	stack.ss_sp = v->signal_stack;
	stack.ss_size = SIGNAL_STACK_SIZE;
	stack.ss_flags = (int)SS_AUTODISARM;
	if (sigaltstack(&stack, NULL))
		return error_set_errno(err, errno, "cannot set the signal stack of CPU %u", v->vcpu->index);
	/* No other signal may arrive while RSP is the guest's. */
	sigfillset(&set);
	for (unsigned i = 0; i < sizeof(handled) / sizeof(handled[0]); i++)
		sigdelset(&set, handled[i]);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	thread_vcpu = v;
	if (v->bt->profile)
		bt_profile_thread(v);
	bt_set_gs(v->alias[v->current].gs_base);
	v->thread_ready = true;
	return 0;
}
