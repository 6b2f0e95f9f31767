/* SPDX-License-Identifier: MIT */
/*
 * The thread of a vCPU: handle requests, run the engine, act on its exits, sleep while halted.
 *
 * Waking is one protocol. vcpu_kick() bumps wake_sequence, then looks at `halted`: if set, the thread sleeps (or is about
 * to) on the futex wake_sequence and is woken; else the engine is told. The thread reads wake_sequence *before* it
 * enters the engine; after a HALTED exit it sets `halted` and sleeps only while wake_sequence still has that value.
 * So whatever arrives after the engine last looked makes the engine look again, and an interrupt that the
 * guest has masked (HLT with IF=0) costs one more look and no spinning.
 *
 * Before it sleeps the thread may spin for a few microseconds, because a futex sleep and wake cost as much; the
 * spin is kept only for a vCPU whose last halts ended within it.
 *
 * INIT and start-up IPIs (SDM vol. 3, 9.4): a vCPU that waits for SIPI does not enter the engine.
 */
#include "vm/vcpu.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "vm/vm_private.h"

#define HALT_POLL_NS 10000 /* longest spin before a sleep */

/* What only this file knows of a vCPU. */
struct vcpu_thread {
	struct vcpu vcpu;
	_Atomic bool wait_for_sipi;
	_Atomic uint32_t nmi_count; /* NMIs sent and not yet put into the state */
	uint64_t poll_ns;           /* how long to spin before the next sleep */
};

static __thread struct vcpu *current;

static struct vcpu_thread *thread_of(struct vcpu *vcpu)
{
	return container_of(vcpu, struct vcpu_thread, vcpu);
}

struct vcpu *vcpu_current(void)
{
	return current;
}

struct vcpu *vcpu_alloc(struct vm *vm, unsigned index)
{
	struct vcpu_thread *t = aligned_alloc(64, ALIGN_UP(sizeof(*t), (size_t)64));

	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->vcpu.vm = vm;
	t->vcpu.index = index;
	t->vcpu.apic_id = index;
	return &t->vcpu;
}

void vcpu_free(struct vcpu *vcpu)
{
	if (vcpu)
		free(thread_of(vcpu));
}

void thread_block_signals(void *old_sigset)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGSEGV);
	sigdelset(&set, SIGBUS);
	sigdelset(&set, SIGFPE);
	sigdelset(&set, SIGILL);
	sigdelset(&set, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &set, old_sigset);
}

/* ---- kicks: any thread ---- */

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

void vcpu_kick(struct vcpu *vcpu)
{
	atomic_fetch_add(&vcpu->wake_sequence, 1);
	if (atomic_load(&vcpu->halted))
		futex(&vcpu->wake_sequence, FUTEX_WAKE, 1);
	else if (vcpu->engine_data)
		vcpu->vm->engine->vcpu_kick(vcpu);
}

void vcpu_request(struct vcpu *vcpu, uint32_t bits)
{
	atomic_fetch_or(&vcpu->requests, bits);
	vcpu_kick(vcpu);
}

void vcpu_interrupt(struct vcpu *vcpu)
{
	atomic_store(&vcpu->irq_pending, 1);
	vcpu_kick(vcpu);
}

void vcpu_send_init(struct vcpu *vcpu)
{
	/* A SIPI that was not taken before an INIT is lost. */
	atomic_fetch_and(&vcpu->requests, ~(uint32_t)VCPU_REQUEST_SIPI);
	vcpu_request(vcpu, VCPU_REQUEST_INIT);
}

void vcpu_send_sipi(struct vcpu *vcpu, uint8_t vector)
{
	if (!atomic_load(&thread_of(vcpu)->wait_for_sipi) &&
	    !(atomic_load(&vcpu->requests) & VCPU_REQUEST_INIT))
		return; /* ignored by a CPU that does not wait for it */
	vcpu->sipi_vector = vector;
	vcpu_request(vcpu, VCPU_REQUEST_SIPI);
}

void vcpu_send_nmi(struct vcpu *vcpu)
{
	atomic_fetch_add(&thread_of(vcpu)->nmi_count, 1);
	vcpu_request(vcpu, VCPU_REQUEST_NMI);
}

uint64_t vcpu_cpu_time_ns(struct vcpu *vcpu)
{
	clockid_t clock;
	struct timespec ts;

	if (!vcpu->thread_started)
		return vcpu->stats.run_ns; /* noted when the thread ended */
	if (pthread_getcpuclockid(vcpu->thread, &clock) || clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* ---- state changes: the vCPU's thread, or any while it is stopped ---- */

void vcpu_state_loaded(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	atomic_store(&thread_of(vcpu)->wait_for_sipi, state->mp_state == X86_MP_WAIT_FOR_SIPI);
}

static void set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	vcpu->vm->engine->set_state(vcpu, state);
	vcpu_state_loaded(vcpu, state);
}

void vcpu_reset_state(struct vcpu *vcpu)
{
	struct x86_cpu_state state = { 0 };

	atomic_fetch_and(&vcpu->requests,
			 ~(uint32_t)(VCPU_REQUEST_INIT | VCPU_REQUEST_SIPI | VCPU_REQUEST_NMI));
	atomic_store(&thread_of(vcpu)->nmi_count, 0);
	vcpu->tsc_delta = 0;
	if (vcpu->has_boot_state)
		state = vcpu->boot_state;
	else
		x86_cpu_reset(&state, vcpu->index == 0);
	set_state(vcpu, &state);
}

static void do_init(struct vcpu *vcpu)
{
	struct x86_cpu_state state;

	vcpu->vm->engine->get_state(vcpu, &state);
	x86_cpu_init(&state, vcpu->index == 0);
	if (vcpu->apic_ops)
		vcpu->apic_ops->init(vcpu->apic, false);
	set_state(vcpu, &state);
	trace(TRACE_CPU, "cpu %u: INIT", vcpu->index);
}

static void do_sipi(struct vcpu *vcpu)
{
	uint8_t vector = vcpu->sipi_vector;
	struct x86_cpu_state state;

	if (!atomic_load(&thread_of(vcpu)->wait_for_sipi))
		return;
	vcpu->vm->engine->get_state(vcpu, &state);
	state.seg[X86_CS].selector = (uint16_t)(vector << 8);
	state.seg[X86_CS].base = (uint64_t)vector << 12;
	state.rip = 0;
	state.mp_state = X86_MP_RUNNABLE;
	set_state(vcpu, &state);
	trace(TRACE_CPU, "cpu %u: start-up IPI, vector 0x%02x", vcpu->index, vector);
}

static void do_nmi(struct vcpu *vcpu)
{
	uint32_t count = atomic_exchange(&thread_of(vcpu)->nmi_count, 0);
	struct x86_cpu_state state;

	if ((atomic_load(&thread_of(vcpu)->wait_for_sipi) && !vcpu->vm->engine_apic) || !count)
		return;
	vcpu->vm->engine->get_state(vcpu, &state);
	/* One in service or about to be, one latched behind it (SDM vol. 3, 6.7.1). */
	state.nmi_pending = (uint8_t)MIN(state.nmi_pending + count, 2u);
	vcpu->vm->engine->set_state(vcpu, &state);
	vcpu->stats.nmis += count;
}

/* ---- the thread ---- */

/* Handle everything requested. False: leave the thread. */
static bool handle_requests(struct vcpu *vcpu)
{
	uint32_t r = atomic_exchange(&vcpu->requests, 0);

	if (r & VCPU_REQUEST_STOP)
		return false;
	if (r & VCPU_REQUEST_RESET) {
		vm_reset_rendezvous(vcpu);
		r &= VCPU_REQUEST_PAUSE; /* INIT, SIPI and NMI that came before are void */
	}
	if (r & VCPU_REQUEST_INIT)
		do_init(vcpu);
	if (r & VCPU_REQUEST_SIPI)
		do_sipi(vcpu);
	if (r & VCPU_REQUEST_NMI)
		do_nmi(vcpu);
	if (r & VCPU_REQUEST_PAUSE)
		vm_park(vcpu);
	return true;
}

/* Spin for a little while if that has paid lately. True: woken. */
static bool halt_poll(struct vcpu_thread *t, uint32_t sequence, uint64_t start)
{
	if (!t->poll_ns)
		return false;
	do {
		for (int i = 0; i < 16; i++) {
			if (atomic_load_explicit(&t->vcpu.wake_sequence, memory_order_relaxed) !=
			    sequence)
				return true;
			__builtin_ia32_pause();
		}
	} while (host_clock_ns() - start < t->poll_ns);
	return false;
}

/* Sleep until wake_sequence is no longer `sequence`. */
static void halt(struct vcpu *vcpu, uint32_t sequence)
{
	struct vcpu_thread *t = thread_of(vcpu);
	uint64_t start = host_clock_ns(), slept;

	if (!halt_poll(t, sequence, start)) {
		atomic_store(&vcpu->halted, true);
		while (atomic_load(&vcpu->wake_sequence) == sequence)
			futex(&vcpu->wake_sequence, FUTEX_WAIT, sequence);
		atomic_store(&vcpu->halted, false);
	}
	slept = host_clock_ns() - start;
	t->poll_ns = slept < HALT_POLL_NS ? HALT_POLL_NS : 0;
	vcpu->stats.halted_ns += slept;
}

static void engine_failed(struct vcpu *vcpu)
{
	log_error("cpu %u cannot go on: %s", vcpu->index,
		  vcpu->exit_error.text[0] ? vcpu->exit_error.text : "engine error");
	vcpu->vm->died = vcpu;
	vm_set_end(vcpu->vm, VM_END_DIED);
}

static void debug_exit(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	if (!vm->debug_hook)
		return;
	/* Parked by its own request: the debugger pauses the others, and vm_resume() lets all go. */
	vm_debug_hold(vcpu);
	vm->debug_hook(vm->debug_opaque, vcpu);
	atomic_fetch_or(&vcpu->requests, VCPU_REQUEST_PAUSE);
}

static void run_once(struct vcpu *vcpu, uint32_t sequence)
{
	/* An engine with APICs of its own waits for SIPIs itself. */
	enum vcpu_exit why = atomic_load_explicit(&thread_of(vcpu)->wait_for_sipi, memory_order_relaxed) &&
					     !vcpu->vm->engine_apic ?
			VCPU_EXIT_HALTED :
			vcpu->vm->engine->vcpu_run(vcpu);

	if (why < ARRAY_SIZE(vcpu->stats.exits))
		vcpu->stats.exits[why]++;
	switch (why) {
	case VCPU_EXIT_KICKED:
		break;
	case VCPU_EXIT_HALTED:
		halt(vcpu, sequence);
		break;
	case VCPU_EXIT_SHUTDOWN:
		vm_triple_fault(vcpu->vm, vcpu);
		break;
	case VCPU_EXIT_DEBUG:
		debug_exit(vcpu);
		break;
	case VCPU_EXIT_ERROR:
		engine_failed(vcpu);
		break;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	struct timespec ts;

	current = vcpu;
	thread_block_signals(NULL);
	prctl(PR_SET_TIMERSLACK, 1000ul);
	for (;;) {
		uint32_t sequence = atomic_load(&vcpu->wake_sequence);

		/* A request made after this look changes the sequence or makes the engine return. */
		if (atomic_load(&vcpu->requests)) {
			if (!handle_requests(vcpu))
				break;
			continue;
		}
		run_once(vcpu, sequence);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	vcpu->stats.run_ns = (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
	return NULL;
}

int vcpu_thread_start(struct vcpu *vcpu, struct error *err)
{
	char name[16];
	int code;

	code = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (code)
		return error_set_errno(err, code, "cannot start the thread of CPU %u", vcpu->index);
	snprintf(name, sizeof(name), "lodge-cpu%u", vcpu->index);
	pthread_setname_np(vcpu->thread, name);
	vcpu->thread_started = true;
	return 0;
}
