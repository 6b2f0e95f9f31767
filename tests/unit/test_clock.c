/* SPDX-License-Identifier: MIT */
/* Guest time, timers and the event loop: order, rearming, precision, pausing, idleness, file descriptors. */
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "vm_machine.h"

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 }, NULL);
}

static struct vm *started_vm(void)
{
	struct vm *vm = test_vm(1);
	struct error err;

	assert_int_equal(vm_start(vm, &err), 0);
	return vm;
}

struct record {
	struct vm_timer timer;
	struct vm *vm;
	unsigned id;
	_Atomic unsigned fired;
	uint64_t at;
	_Atomic uint64_t period;
};

static unsigned order[256];
static _Atomic unsigned order_count;

static void fired(void *opaque)
{
	struct record *r = opaque;

	r->at = vm_clock_ns(r->vm);
	r->fired++;
	if (order_count < ARRAY_SIZE(order))
		order[order_count++] = r->id;
	if (r->period)
		vm_timer_arm(&r->timer, r->at + r->period);
}

static void init(struct record *r, struct vm *vm, unsigned id)
{
	*r = (struct record){ .vm = vm, .id = id };
	vm_timer_init(&r->timer, vm, fired, r);
}

static void test_order(void **state)
{
	struct vm *vm = test_vm(1);
	static struct record r[100];

	(void)state;
	order_count = 0;
	for (unsigned i = 0; i < 100; i++) {
		init(&r[i], vm, i);
		vm_timer_arm(&r[i].timer, 1000 + (i * 37) % 100);
	}
	for (unsigned i = 0; i < 100; i += 3)
		vm_timer_cancel(&r[i].timer);
	for (unsigned i = 1; i < 100; i += 3)
		vm_timer_arm(&r[i].timer, 5000 - i); /* later, in reverse */
	test_advance(vm, 2000);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(r[i].fired, i % 3 == 2);
	for (unsigned i = 1; i < order_count; i++)
		assert_true(r[order[i]].at >= r[order[i - 1]].at);
	test_advance(vm, 10000);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(r[i].fired, i % 3 != 0);
	assert_int_equal(order[order_count - 1], 1);
	vm_destroy(vm);
}

static void test_real(void **state)
{
	struct vm *vm = started_vm();
	struct record late, soon, past;
	uint64_t now = vm_clock_ns(vm);

	(void)state;
	init(&late, vm, 0);
	init(&soon, vm, 1);
	init(&past, vm, 2);
	vm_timer_arm(&late.timer, now + 3600000000000ull); /* the loop sleeps for an hour */
	sleep_ms(5);
	now = vm_clock_ns(vm);
	vm_timer_arm(&soon.timer, now + 20000000);
	vm_timer_arm(&past.timer, 0);
	eventually(past.fired == 1 && soon.fired == 1);
	assert_true(soon.at >= now + 20000000); /* how much later depends on what else the host does */
	assert_int_equal(late.fired, 0);
	vm_timer_cancel(&late.timer);
	vm_destroy(vm);
}

static void test_pause(void **state)
{
	struct vm *vm = started_vm();
	struct record r;
	uint64_t before, tsc;

	(void)state;
	init(&r, vm, 0);
	vm_pause(vm);
	vm_pause(vm);
	before = vm_clock_ns(vm);
	vm_timer_arm(&r.timer, before + 30000000);
	tsc = vm_priv(vm)->clock.base_tsc + vm->tsc_offset;
	sleep_ms(500);
	assert_int_equal(vm_clock_ns(vm), before);
	assert_int_equal(r.fired, 0);
	vm_resume(vm);
	/* The TSC did not run either: less than the half second has gone by. */
	assert_true(__builtin_ia32_rdtsc() + vm->tsc_offset - tsc < vm_tsc_frequency(vm) / 3);
	assert_true(vm_clock_ns(vm) - before < 400000000);
	eventually(r.fired == 1);
	vm_destroy(vm);
}

static void test_tsc(void **state)
{
	struct vm *vm = started_vm();
	uint64_t hz = vm_tsc_frequency(vm), tsc0, tsc1, ns0, ns1, predicted, passed;

	(void)state;
	assert_true(hz > 100000000 && hz < 20000000000ull);
	tsc0 = __builtin_ia32_rdtsc() + vm->tsc_offset;
	ns0 = vm_clock_ns(vm);
	predicted = vm_tsc_to_ns(vm, tsc0 + hz / 20);
	assert_true(predicted > ns0 + 30000000 && predicted < ns0 + 70000000);
	assert_true(vm_tsc_to_ns(vm, 0) <= vm_clock_ns(vm)); /* long past: now */
	assert_true(vm_tsc_to_ns(vm, UINT64_MAX - 1) > ns0);
	sleep_ms(100);
	tsc1 = __builtin_ia32_rdtsc() + vm->tsc_offset;
	ns1 = vm_clock_ns(vm);
	/* the two are read a little apart, on a busy host more than a little */
	passed = (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000000 / hz);
	assert_true(passed > (ns1 - ns0) / 100 * 90 && passed < (ns1 - ns0) / 100 * 110);
	vm_destroy(vm);
}

static void test_idle(void **state)
{
	struct vm *vm = started_vm();
	struct timespec a, b;
	clockid_t loop, cpu;
	uint64_t loop_ns, cpu_ns;

	(void)state;
	sleep_ms(20);
	pthread_getcpuclockid(vm_priv(vm)->loop.thread, &loop);
	pthread_getcpuclockid(vm->vcpus[0]->thread, &cpu);
	clock_gettime(loop, &a);
	cpu_ns = vcpu_cpu_time_ns(vm->vcpus[0]);
	sleep_ms(300);
	clock_gettime(loop, &b);
	cpu_ns = vcpu_cpu_time_ns(vm->vcpus[0]) - cpu_ns;
	loop_ns = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000ull + (uint64_t)(b.tv_nsec - a.tv_nsec);
	assert_true(loop_ns < 3000000); /* 1 %: nothing to do, nothing done */
	assert_true(cpu_ns < 3000000);
	vm_destroy(vm);
}

static void test_periodic(void **state)
{
	struct vm *vm = started_vm();
	struct record r;
	uint64_t start;

	(void)state;
	init(&r, vm, 0);
	r.period = 2000000;
	start = vm_clock_ns(vm);
	vm_timer_arm(&r.timer, start);
	sleep_ms(200);
	r.period = 0;
	assert_true(r.fired > 5 && r.fired <= (vm_clock_ns(vm) - start) / 2000000 + 2);
	sleep_ms(10);
	vm_timer_cancel(&r.timer);
	vm_destroy(vm);
}

static _Atomic unsigned events, calls;
static struct event_source *source;

static void on_event(void *opaque, uint32_t what)
{
	uint64_t n;

	assert_int_equal(what, EPOLLIN);
	assert_int_equal(read(*(int *)opaque, &n, 8), 8);
	events++;
}

static void remove_source(void *opaque)
{
	(void)opaque;
	vm_watch_remove(source);
	calls++;
}

static _Atomic unsigned waits;

static void before_wait(void *opaque, int *timeout_ms)
{
	(void)opaque;
	waits++;
	*timeout_ms = 10;
}

static void test_descriptors(void **state)
{
	struct vm *vm = test_vm(1);
	int fd = eventfd(0, 0);
	uint64_t one = 1;
	struct error err;

	(void)state;
	events = calls = waits = 0;
	vm_add_loop_hook(vm, &(struct loop_hook){ .before_wait = before_wait });
	source = vm_watch_fd(vm, fd, EPOLLIN, on_event, &fd);
	assert_non_null(source);
	assert_int_equal(vm_start(vm, &err), 0);
	assert_int_equal(write(fd, &one, 8), 8);
	eventually(events == 1);
	vm_watch_modify(source, 0);
	assert_int_equal(write(fd, &one, 8), 8);
	sleep_ms(30);
	assert_int_equal(events, 1);
	vm_watch_modify(source, EPOLLIN);
	eventually(events == 2);
	vm_defer(vm, remove_source, NULL);
	eventually(calls == 1);
	assert_int_equal(write(fd, &one, 8), 8);
	sleep_ms(30);
	assert_int_equal(events, 2);
	eventually(waits >= 5); /* the hook's 10 ms shorten the wait */
	vm_destroy(vm);
	close(fd);
}

static void *arm_many(void *arg)
{
	struct record *r = arg;

	for (unsigned i = 0; i < 20000; i++)
		vm_timer_arm(&r[i % 8].timer, vm_clock_ns(r->vm) + i % 1000 * 100);
	return NULL;
}

static void test_threads(void **state)
{
	struct vm *vm = started_vm();
	static struct record r[2][8];
	pthread_t threads[2];

	(void)state;
	for (unsigned t = 0; t < 2; t++)
		for (unsigned i = 0; i < 8; i++)
			init(&r[t][i], vm, i);
	for (unsigned t = 0; t < 2; t++)
		pthread_create(&threads[t], NULL, arm_many, r[t]);
	for (unsigned t = 0; t < 2; t++)
		pthread_join(threads[t], NULL);
	for (unsigned t = 0; t < 2; t++)
		for (unsigned i = 0; i < 8; i++)
			eventually(r[t][i].fired && r[t][i].timer.deadline == UINT64_MAX);
	vm_pause(vm);
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),	 cmocka_unit_test(test_real),	     cmocka_unit_test(test_pause),
		cmocka_unit_test(test_tsc),	 cmocka_unit_test(test_idle),	     cmocka_unit_test(test_periodic),
		cmocka_unit_test(test_descriptors), cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
