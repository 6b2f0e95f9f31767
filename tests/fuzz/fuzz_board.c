/* SPDX-License-Identifier: MIT */
/*
 * Fuzzing a whole board: every input gets a machine of its own (two CPUs that never run) and is a list of accesses to ports and
 * device memory, as a hostile guest would make them, with guest time moving and resets in between. At the end every
 * device's saved state must survive a round trip, whatever state it was brought to.
 *
 * Operations, one byte each, then their operands:
 *   0 port write  1 port read  2 memory write  3 memory read  4 time passes  5 guest memory is written  6 reset  7 state round trip
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/machine.h"
#include "vm/vm_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPERATIONS_MAX 4000

static const uint16_t ports[] = {
	0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xe0, 0xf4, 0x3f8, 0x4d0, 0x4d1, 0x510, 0x514,
	0x600, 0x604, 0x608, 0xcf8, 0xcf9, 0xcfc, 0x2000, 0xc000, 0xc100, 0xc200,
};
static const uint64_t windows[] = {
	0xc0000000, 0xc0001000, 0xc0004000, 0xc0008000, 0xc0010000, 0xe0000000, 0xe0008000, 0xe0010000, 0xe0018000, 0xfec00000, 0xfee00000,
	0xff000000, 0x0, 0xfffffff8, 0x100000000, 0xfffffffff000,
};

struct input {
	const uint8_t *p, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)(in->p < in->end ? *in->p++ : 0) << (8 * i);
	return v;
}

static const char *kernel_file(void)
{
	/* A multiboot kernel of one HLT, as an ELF32 file. */
	static const uint8_t elf[128] = {
		0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 0, 0, 0, 0x70, 0, 0x10, 0,
		52, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 128, 0, 0, 0, 128, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0xb0, 0xad, 0x1b, 0, 0, 0, 0, 0xfe, 0x4f, 0x52, 0xe4,
		0xf4,
	};
	static char path[] = "/tmp/lodge-fuzz-kernel-XXXXXX";
	static bool made;
	int fd;

	if (made)
		return path;
	fd = mkstemp(path);
	if (fd < 0 || write(fd, elf, sizeof(elf)) != (ssize_t)sizeof(elf))
		abort();
	close(fd);
	made = true;
	return path;
}

static void remove_kernel(void)
{
	unlink(kernel_file());
}

/* ---- an engine that executes nothing: the CPUs are only state ---- */

static struct x86_cpu_state cpus[2];

static enum vcpu_exit no_run(struct vcpu *vcpu)
{
	(void)vcpu;
	return VCPU_EXIT_HALTED;
}
static void no_kick(struct vcpu *vcpu)
{
	(void)vcpu;
}
static void no_vm(struct vm *vm)
{
	(void)vm;
}
static void get_state(struct vcpu *vcpu, struct x86_cpu_state *state)
{
	*state = cpus[vcpu->index];
}
static void set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	cpus[vcpu->index] = *state;
}
static const struct engine no_engine = {
	.name = "none",
	.vm_destroy = no_vm,
	.vcpu_destroy = no_kick,
	.vcpu_run = no_run,
	.vcpu_kick = no_kick,
	.get_state = get_state,
	.set_state = set_state,
};

static struct vm *make_machine(void)
{
	struct machine_config config = {
		.cpus = 2,
		.memory = MIB(4),
		.engine = "bt",
		.kernel = kernel_file(),
		.console = "none",
		.device_count = 3,
		.devices = { { "isa-debug-exit", NULL }, { "pc-testdev", NULL }, { "pci-testdev", NULL } },
	};
	struct error err = { 0 };
	struct vm *vm = NULL;

	if (machine_create(&vm, &config, &err)) {
		fprintf(stderr, "machine_create: %s\n", err.text);
		abort();
	}
	vm->engine = &no_engine;
	for (unsigned i = 0; i < 2; i++)
		cpus[i] = vm->vcpus[i]->boot_state;
	return vm;
}

/* Guest time of a machine that was not started moves only here; its timers run on this thread. */
static void pass_time(struct vm *vm, uint64_t ns)
{
	struct vm_priv *priv = vm_priv(vm);
	uint64_t target = vm_clock_ns(vm) + ns;

	for (unsigned n = 0; n < 200 && priv->loop.heap_count && priv->loop.heap[0]->deadline <= target; n++) {
		struct vm_timer *timer = priv->loop.heap[0];

		if (timer->deadline > vm_clock_ns(vm))
			atomic_store(&priv->clock.base_ns, timer->deadline);
		vm_timer_cancel(timer);
		timer->callback(timer->opaque);
	}
	if (target > vm_clock_ns(vm))
		atomic_store(&priv->clock.base_ns, target);
}

static void reset(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	for (unsigned i = 0; i < priv->resets.count; i++)
		priv->resets.items[i].function(priv->resets.items[i].opaque);
	if (vm->board_reset)
		vm->board_reset(vm);
}

static void round_trip(struct vm *vm)
{
	struct error err = { 0 };

	if (vm_state_round_trip(vm, &err)) {
		fprintf(stderr, "state does not survive a round trip: %s\n", err.text);
		abort();
	}
}

static void operation(struct vm *vm, struct input *in)
{
	uint8_t op = (uint8_t)take(in, 1);
	unsigned size = 1u << (op >> 6);
	uint64_t address;

	switch (op & 7) {
	case 0:
	case 1: {
		uint8_t which = (uint8_t)take(in, 1);
		uint16_t port = which < 0xe0 ? (uint16_t)(ports[which % ARRAY_SIZE(ports)] + (op >> 3 & 7)) : (uint16_t)take(in, 2);

		if (size == 8)
			size = 4;
		if (op & 1)
			bus_read(&vm->pio, port, size);
		else
			bus_write(&vm->pio, port, take(in, size), size);
		break;
	}
	case 2:
	case 3:
		address = take(in, 1);
		address = windows[address % ARRAY_SIZE(windows)] + take(in, 2) % 0x8000;
		if (op & 1)
			bus_read(&vm->mmio, address, size);
		else
			bus_write(&vm->mmio, address, take(in, size), size);
		break;
	case 4:
		pass_time(vm, take(in, 2) << (op >> 3 & 31) >> 4);
		break;
	case 5:
		address = take(in, 3) % (MIB(4) - 64);
		for (unsigned i = 0; i < 16; i++)
			vm->memory.host[address + i] = (uint8_t)take(in, 1);
		break;
	case 6:
		if (op == 6)
			reset(vm);
		break;
	default:
		if (op == 7)
			round_trip(vm);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	static bool registered;
	struct vm *vm;

	if (!registered) {
		registered = true;
		atexit(remove_kernel);
	}
	vm = make_machine();
	for (unsigned n = 0; n < OPERATIONS_MAX && in.p < in.end; n++)
		operation(vm, &in);
	round_trip(vm);
	machine_destroy(vm);
	return 0;
}
