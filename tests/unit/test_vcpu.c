/* SPDX-License-Identifier: MIT */
/* The vCPU thread and the machine's run states, over an engine that executes nothing. */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "vm_machine.h"

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 }, NULL);
}

static void start(struct vm *vm)
{
	struct error err;

	if (vm_start(vm, &err))
		fail_msg("%s", err.text);
}

static _Atomic unsigned runs[VM_VCPU_MAX];
static _Atomic unsigned wakes;

static enum vcpu_exit run_halt(struct vcpu *vcpu)
{
	runs[vcpu->index]++;
	if (atomic_exchange(&vcpu->irq_pending, 0))
		wakes++;
	return VCPU_EXIT_HALTED;
}

static enum vcpu_exit run_busy(struct vcpu *vcpu)
{
	runs[vcpu->index]++;
	while (!atomic_load(&vcpu->requests))
		__builtin_ia32_pause();
	return VCPU_EXIT_KICKED;
}

static struct vm *setup(unsigned cpus, enum vcpu_exit (*run)(struct vcpu *))
{
	struct vm *vm = test_vm(cpus);

	fake_run = run;
	for (unsigned i = 0; i < VM_VCPU_MAX; i++)
		runs[i] = 0;
	wakes = 0;
	return vm;
}

static struct x86_cpu_state *state_of(struct vm *vm, unsigned i)
{
	return &((struct fake_vcpu *)vm->vcpus[i]->engine_data)->state;
}

static void test_halt_and_wake(void **state)
{
	struct vm *vm = setup(2, run_halt);
	unsigned before;

	(void)state;
	start(vm);
	eventually(vm->vcpus[0]->halted && vm->vcpus[1]->halted);
	assert_int_equal(runs[1], 0); /* waits for SIPI: the engine is never entered */
	before = runs[0];
	assert_true(before >= 1);
	for (unsigned i = 1; i <= 100; i++) {
		vcpu_interrupt(vm->vcpus[0]);
		while (wakes < i)
			sched_yield();
	}
	eventually(vm->vcpus[0]->halted);
	assert_true(runs[0] - before <= 201); /* one look for each kick, or two where it came in between */
	vm_destroy(vm);
}

/* A kick between the engine's last look and the sleep must not be lost: hammer it. */
static void test_no_lost_wake(void **state)
{
	struct vm *vm = setup(1, run_halt);
	struct timespec end, now;

	(void)state;
	start(vm);
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (unsigned i = 1; i <= 50000; i++) {
		unsigned seen = wakes;

		vcpu_interrupt(vm->vcpus[0]);
		while (wakes == seen) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			if (now.tv_sec - end.tv_sec > 60)
				fail_msg("wake-up %u was lost", i);
		}
	}
	vm_destroy(vm);
}

static void test_init_sipi(void **state)
{
	struct vm *vm = setup(2, run_halt);
	struct x86_cpu_state *s;

	(void)state;
	start(vm);
	vcpu_send_init(vm->vcpus[1]);
	vcpu_send_sipi(vm->vcpus[1], 0x9a);
	vcpu_send_sipi(vm->vcpus[1], 0x9a); /* the second of the usual two is ignored */
	eventually(runs[1] > 0);
	s = state_of(vm, 1);
	assert_int_equal(s->mp_state, X86_MP_RUNNABLE);
	assert_int_equal(s->seg[X86_CS].selector, 0x9a00);
	assert_int_equal(s->seg[X86_CS].base, 0x9a000);
	assert_int_equal(s->rip, 0);
	vcpu_send_sipi(vm->vcpus[1], 0x20);
	sleep_ms(10);
	assert_int_equal(s->seg[X86_CS].selector, 0x9a00);
	vcpu_send_init(vm->vcpus[1]);
	eventually(s->mp_state == X86_MP_WAIT_FOR_SIPI);
	vcpu_send_nmi(vm->vcpus[0]);
	vcpu_send_nmi(vm->vcpus[0]);
	vcpu_send_nmi(vm->vcpus[0]);
	eventually(state_of(vm, 0)->nmi_pending == 2);
	vm_pause(vm);
	check_round_trip(vm);
	vm_destroy(vm);
}

static void test_pause_resume(void **state)
{
	struct vm *vm = setup(3, run_busy);
	unsigned before[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) { /* let all run */
		vm->vcpus[i]->has_boot_state = true;
		x86_cpu_reset(&vm->vcpus[i]->boot_state, true);
	}
	start(vm);
	for (unsigned round = 0; round < 200; round++) {
		vm_pause(vm);
		for (unsigned i = 0; i < 3; i++) {
			assert_true(vm->vcpus[i]->paused);
			before[i] = runs[i];
		}
		sched_yield();
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(runs[i], before[i]);
		vm_resume(vm);
	}
	vm_destroy(vm);
}

static _Atomic unsigned resets, board_resets;

static void count_reset(void *opaque)
{
	struct vm *vm = opaque;

	/* Nobody runs meanwhile. */
	unsigned before = runs[0] + runs[1];

	sleep_ms(2);
	assert_int_equal(runs[0] + runs[1], before);
	assert_int_equal(vm->end, VM_END_NONE);
	resets++;
}

static void count_board_reset(struct vm *vm)
{
	(void)vm;
	board_resets++;
}

static enum vcpu_exit run_reset(struct vcpu *vcpu)
{
	if (runs[vcpu->index]++ == 5 && vcpu->index == 0)
		vm_reset(vcpu->vm);
	while (!atomic_load(&vcpu->requests))
		__builtin_ia32_pause();
	return VCPU_EXIT_KICKED;
}

static void test_reset(void **state)
{
	struct vm *vm = setup(2, run_reset);

	(void)state;
	resets = board_resets = 0;
	vm_add_reset(vm, count_reset, vm);
	vm->board_reset = count_board_reset;
	start(vm);
	vcpu_send_init(vm->vcpus[1]);
	vcpu_send_sipi(vm->vcpus[1], 1);
	for (unsigned i = 0; i < 20000 && !resets; i++) {
		vcpu_request(vm->vcpus[0], VCPU_REQUEST_NMI); /* makes it run again */
		sleep_ms(1);
	}
	eventually(resets == 1 && board_resets == 1); /* asked for by a vCPU's own thread */
	eventually(state_of(vm, 1)->mp_state == X86_MP_WAIT_FOR_SIPI);
	assert_int_equal(state_of(vm, 0)->seg[X86_CS].selector, 0xf000);
	vm_pause(vm);
	vm_reset(vm); /* while paused: done, and still paused */
	eventually(resets == 2 && vm->vcpus[0]->paused && vm->vcpus[1]->paused);
	vm_resume(vm);
	for (unsigned i = 0; i < 20; i++)
		vm_reset(vm);
	eventually(resets >= 3);
	vm_pause(vm);
	assert_true(vm->vcpus[0]->paused);
	vm_destroy(vm);
}

static void test_no_reboot(void **state)
{
	struct vm *vm = setup(1, run_reset);

	(void)state;
	vm->config.no_reboot = true;
	start(vm);
	vm_reset(vm);
	assert_int_equal(vm_wait(vm), VM_END_POWEROFF);
	vm_destroy(vm);
}

static enum vcpu_exit run_shutdown(struct vcpu *vcpu)
{
	runs[vcpu->index]++;
	return VCPU_EXIT_SHUTDOWN;
}

static enum vcpu_exit run_error(struct vcpu *vcpu)
{
	error_set(&vcpu->exit_error, 0, "a test of engine errors");
	return VCPU_EXIT_ERROR;
}

static void test_ends(void **state)
{
	struct vm *vm = setup(2, run_shutdown);

	(void)state;
	start(vm);
	assert_int_equal(vm_wait(vm), VM_END_DIED);
	assert_ptr_equal(vm->died, vm->vcpus[0]);
	assert_int_equal(runs[0], 1);
	vm_destroy(vm);

	vm = setup(1, run_error);
	start(vm);
	assert_int_equal(vm_wait(vm), VM_END_DIED);
	vm_destroy(vm);

	vm = setup(4, run_busy);
	start(vm);
	vm_debug_exit(vm, 35);
	vm_poweroff(vm); /* too late */
	assert_int_equal(vm_wait(vm), VM_END_DEBUG_EXIT);
	assert_int_equal(vm->exit_status, 35);
	assert_true(vcpu_cpu_time_ns(vm->vcpus[0]) > 0);
	vm_destroy(vm);

	vm = setup(1, run_halt);
	start(vm);
	vm_pause(vm);
	vm_quit(vm); /* a paused VM can be ended */
	assert_int_equal(vm_wait(vm), VM_END_QUIT);
	vm_pause(vm);
	vm_resume(vm);
	vm_destroy(vm);

	vm_destroy(setup(1, run_halt)); /* never started */
}

static _Atomic unsigned hits;

static enum vcpu_exit run_break(struct vcpu *vcpu)
{
	runs[vcpu->index]++;
	return vcpu->index == 0 && runs[0] % 2 ? VCPU_EXIT_DEBUG : VCPU_EXIT_HALTED;
}

static void debug_hook(void *opaque, struct vcpu *vcpu)
{
	(void)opaque, (void)vcpu;
	hits++;
}

static void test_debug(void **state)
{
	struct vm *vm = setup(2, run_break);

	(void)state;
	hits = 0;
	vm->debug_hook = debug_hook;
	start(vm);
	eventually(hits == 1 && vm->vcpus[0]->paused);
	assert_int_equal(runs[0], 1);
	vm_pause(vm);
	assert_true(vm->vcpus[1]->paused);
	vm_resume(vm);
	eventually(runs[0] == 2 && vm->vcpus[0]->halted);
	vcpu_kick(vm->vcpus[0]);
	eventually(hits == 2);
	vm_destroy(vm);
}

static enum vcpu_exit run_signals(struct vcpu *vcpu)
{
	sigset_t set;

	assert_ptr_equal(vcpu_current(), vcpu);
	pthread_sigmask(SIG_BLOCK, NULL, &set);
	assert_true(sigismember(&set, SIGINT) && sigismember(&set, SIGALRM));
	assert_false(sigismember(&set, SIGSEGV) || sigismember(&set, SIGBUS) || sigismember(&set, SIGILL));
	runs[0]++;
	return VCPU_EXIT_HALTED;
}

static void test_thread(void **state)
{
	struct vm *vm = setup(1, run_signals);

	(void)state;
	assert_null(vcpu_current());
	start(vm);
	eventually(runs[0]);
	vm_destroy(vm);
}

/* Everything at once from several threads, then an end. */
static void *disturb(void *arg)
{
	struct vm *vm = arg;
	uint32_t seed = (uint32_t)(uintptr_t)&seed;

	for (unsigned i = 0; i < 2000 && !vm->end; i++) {
		seed = seed * 1664525 + 1013904223;
		switch (seed >> 28) {
		case 0:
			vm_pause(vm);
			break;
		case 1:
			vm_reset(vm);
			break;
		case 2:
			vcpu_send_init(vm->vcpus[seed >> 8 & 3]);
			break;
		case 3:
			vcpu_send_sipi(vm->vcpus[seed >> 8 & 3], 1);
			break;
		case 4:
			vcpu_send_nmi(vm->vcpus[seed >> 8 & 3]);
			break;
		case 5:
		case 6:
			vm_resume(vm);
			break;
		default:
			vcpu_interrupt(vm->vcpus[seed >> 8 & 3]);
			break;
		}
	}
	return NULL;
}

static void test_storm(void **state)
{
	struct vm *vm = setup(4, run_halt);
	pthread_t threads[3];

	(void)state;
	start(vm);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, disturb, vm);
	for (unsigned i = 0; i < 3; i++) {
		struct timespec limit;

		/* A pause that another thread resumes at once returns; nobody hangs. */
		clock_gettime(CLOCK_REALTIME, &limit);
		limit.tv_sec += 60;
		assert_int_equal(pthread_timedjoin_np(threads[i], NULL, &limit), 0);
	}
	vm_resume(vm);
	eventually(!vm->vcpus[0]->paused);
	vm_quit(vm);
	assert_int_equal(vm_wait(vm), VM_END_QUIT);
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_halt_and_wake), cmocka_unit_test(test_no_lost_wake), cmocka_unit_test(test_init_sipi),
		cmocka_unit_test(test_pause_resume),  cmocka_unit_test(test_reset),	   cmocka_unit_test(test_no_reboot),
		cmocka_unit_test(test_ends),	      cmocka_unit_test(test_debug),	   cmocka_unit_test(test_thread),
		cmocka_unit_test(test_storm),
	};

	return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}
