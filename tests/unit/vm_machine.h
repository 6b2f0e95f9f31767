/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine for unit tests of vm/ and devices: an engine that executes nothing, and guest time under the
 * test's control.
 *
 * While a VM is not started its clock is frozen, so test_advance() can move it and run the timers that come due, on the
 * test's own thread.
 */
#ifndef LODGE_TESTS_VM_MACHINE_H
#define LODGE_TESTS_VM_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

/* What a fake vCPU does when it is run; the default asks to be halted. Set before vm_start. */
static enum vcpu_exit (*fake_run)(struct vcpu *vcpu) __attribute__((unused));

struct fake_vcpu {
	struct x86_cpu_state state;
	_Atomic uint32_t kicks;
};

static void fake_probe(struct engine_probe *probe)
{
	probe->usable = true;
}

static int fake_vm_create(struct vm *vm, struct error *err)
{
	(void)err;
	vm->engine_data = vm;
	return 0;
}

static void fake_vm_destroy(struct vm *vm)
{
	vm->engine_data = NULL;
}

static int fake_vcpu_create(struct vcpu *vcpu, struct error *err)
{
	(void)err;
	vcpu->engine_data = aligned_alloc(64, ALIGN_UP(sizeof(struct fake_vcpu), (size_t)64));
	memset(vcpu->engine_data, 0, sizeof(struct fake_vcpu));
	return 0;
}

static void fake_vcpu_destroy(struct vcpu *vcpu)
{
	free(vcpu->engine_data);
	vcpu->engine_data = NULL;
}

static enum vcpu_exit fake_vcpu_run(struct vcpu *vcpu)
{
	if (atomic_load(&vcpu->requests))
		return VCPU_EXIT_KICKED;
	return fake_run ? fake_run(vcpu) : VCPU_EXIT_HALTED;
}

static void fake_vcpu_kick(struct vcpu *vcpu)
{
	struct fake_vcpu *f = vcpu->engine_data;

	atomic_fetch_add(&f->kicks, 1);
}

static void fake_get_state(struct vcpu *vcpu, struct x86_cpu_state *state)
{
	struct fake_vcpu *f = vcpu->engine_data;

	if (f)
		*state = f->state;
}

static void fake_set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	struct fake_vcpu *f = vcpu->engine_data;

	if (f)
		f->state = *state;
}

static const struct engine fake_engine = {
	.name = "fake",
	.probe = fake_probe,
	.vm_create = fake_vm_create,
	.vm_destroy = fake_vm_destroy,
	.vcpu_create = fake_vcpu_create,
	.vcpu_destroy = fake_vcpu_destroy,
	.vcpu_run = fake_vcpu_run,
	.vcpu_kick = fake_vcpu_kick,
	.get_state = fake_get_state,
	.set_state = fake_set_state,
};

static inline struct vm *test_vm_of(unsigned cpus, uint64_t memory)
{
	struct vm_config config = { .name = "test", .cpus = cpus, .memory = memory };
	struct error err = { 0 };
	struct vm *vm = NULL;

	if (vm_create(&vm, &config, &fake_engine, &err))
		fail_msg("vm_create: %s", err.text);
	return vm;
}

static inline struct vm *test_vm(unsigned cpus)
{
	return test_vm_of(cpus, MIB(4));
}

/* Move guest time of a VM that was not started forward by ns, running timers on the way. */
static inline void test_advance(struct vm *vm, uint64_t ns)
{
	struct vm_priv *priv = vm_priv(vm);
	uint64_t target = vm_clock_ns(vm) + ns;

	while (priv->loop.heap_count && priv->loop.heap[0]->deadline <= target) {
		struct vm_timer *timer = priv->loop.heap[0];

		if (timer->deadline > vm_clock_ns(vm))
			atomic_store(&priv->clock.base_ns, timer->deadline);
		vm_timer_cancel(timer);
		timer->callback(timer->opaque);
	}
	atomic_store(&priv->clock.base_ns, target);
}

/* Wait until a condition that other threads bring about holds; the machine may be busy, so for long. */
#define eventually(condition)                                                                      \
	do {                                                                                       \
		for (unsigned tries_ = 0; !(condition); tries_++) {                                \
			if (tries_ == 20000)                                                       \
				fail_msg("this never came true: %s", #condition);                  \
			usleep(1000);                                                              \
		}                                                                                  \
	} while (0)

/* An irq_line that counts its rising edges. */
struct test_line {
	bool level;
	unsigned edges;
};

static inline void test_line_set(void *opaque, unsigned n, bool level)
{
	struct test_line *line = opaque;

	(void)n;
	line->edges += level && !line->level;
	line->level = level;
}

static inline struct irq_line test_irq(struct test_line *line)
{
	return (struct irq_line){ .handler = test_line_set, .opaque = line };
}

static inline void out8(struct vm *vm, uint16_t port, uint8_t value)
{
	bus_write(&vm->pio, port, value, 1);
}

static inline uint8_t in8(struct vm *vm, uint16_t port)
{
	return (uint8_t)bus_read(&vm->pio, port, 1);
}

static inline void check_round_trip(struct vm *vm)
{
	struct error err = { 0 };

	if (vm_state_round_trip(vm, &err))
		fail_msg("%s", err.text);
}

#endif
