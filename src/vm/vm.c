/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine's life: creation, start, pause, reset, end.
 *
 * Run state is guarded by run_lock and announced on run_cond. vCPU threads are told by request bits (vcpu.c) and
 * come to rest in one of three places here:
 *
 * - vm_park(): while the VM is paused (or a debugger holds this vCPU). vm_pause() waits until all stand there, then stops
 *   guest time.
 * - vm_reset_rendezvous(): the last vCPU to arrive runs the reset functions while the others wait. So a device may
 *   ask for a reset on a vCPU's thread, in the middle of an instruction, without waiting for itself.
 * - the end of the thread, after vm_set_end().
 *
 * Locking: run_lock is never held while device, board or engine code is called, except vcpu kicks.
 */
#include "vm/vm.h"

#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "vm/vm_private.h"

#define MMIO_LIMIT ((1ull << 52) - 1) /* architectural limit of physical addresses */

/* ---- creation ---- */

static bool list_add(struct vm_callback_list *list, void (*function)(void *), void *opaque)
{
	if (list->count == list->capacity) {
		unsigned capacity = list->capacity ? 2 * list->capacity : 32;
		struct vm_callback *items = realloc(list->items, capacity * sizeof(*items));

		if (!items)
			return false;
		list->items = items;
		list->capacity = capacity;
	}
	list->items[list->count++] = (struct vm_callback){ function, opaque };
	return true;
}

void vm_add_reset(struct vm *vm, void (*function)(void *opaque), void *opaque)
{
	if (!list_add(&vm_priv(vm)->resets, function, opaque))
		log_error("out of memory: a reset function is lost");
}

void vm_add_end(struct vm *vm, void (*function)(void *opaque), void *opaque)
{
	list_add(&vm_priv(vm)->ends, function, opaque);
}

void vm_add_cleanup(struct vm *vm, void (*function)(void *opaque), void *opaque)
{
	list_add(&vm_priv(vm)->cleanups, function,
		 opaque); /* without memory: leaks at the end of the process */
}

int vm_create(struct vm **out, const struct vm_config *config, const struct engine *engine,
	      struct error *err)
{
	struct vm *vm;
	struct vm_priv *priv;

	if (config->cpus < 1 || config->cpus > VM_VCPU_MAX)
		return error_set(err, EINVAL, "cannot make a machine with %u CPUs (1 to %d)",
				 config->cpus, VM_VCPU_MAX);
	vm = calloc(1, sizeof(*vm));
	priv = calloc(1, sizeof(*priv));
	if (!vm || !priv) {
		free(vm);
		free(priv);
		return error_set(err, ENOMEM, "cannot allocate the machine");
	}
	vm->config = *config;
	vm->engine = engine;
	vm->priv = priv;
	vm->memory.memfd = -1;
	priv->loop.epoll_fd = priv->loop.wake_fd = priv->loop.timer_fd = -1;
	pthread_mutex_init(&priv->run_lock, NULL);
	pthread_cond_init(&priv->run_cond, NULL);
	bus_init(&vm->pio, "pio", 0xffff);
	bus_init(&vm->mmio, "mmio", MMIO_LIMIT);
	vm_clock_init(vm);
	if (loop_init(vm, err) ||
	    (config->shared_memory ? guest_memory_create_shared :
				     guest_memory_create)(&vm->memory, config->memory, err))
		goto fail;
	for (; vm->vcpu_count < config->cpus; vm->vcpu_count++) {
		struct vcpu *vcpu = vcpu_alloc(vm, vm->vcpu_count);

		if (!vcpu) {
			error_set(err, ENOMEM, "cannot allocate CPU %u", vm->vcpu_count);
			goto fail;
		}
		vm->vcpus[vm->vcpu_count] = vcpu;
		vcpu_state_register(vcpu);
	}
	*out = vm;
	return 0;
fail:
	vm_destroy(vm);
	return -1;
}

int vm_start(struct vm *vm, struct error *err)
{
	struct vm_priv *priv = vm_priv(vm);

	if (vm->engine->vm_create(vm, err))
		return -1;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (vm->engine->vcpu_create(vm->vcpus[i], err))
			return error_prefix(err, "cannot create CPU %u", i);
		vcpu_reset_state(vm->vcpus[i]);
	}
	vm_tsc_frequency(vm);
	vm->start_host_ns = host_clock_ns();
	pthread_mutex_lock(&priv->run_lock);
	priv->started = true;
	if (!atomic_load(&vm->paused))
		vm_clock_thaw(vm);
	pthread_mutex_unlock(&priv->run_lock);
	if (loop_start(vm, err))
		return -1;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (atomic_load(&vm->paused))
			atomic_fetch_or(&vm->vcpus[i]->requests, VCPU_REQUEST_PAUSE);
		if (vcpu_thread_start(vm->vcpus[i], err))
			return -1;
	}
	return 0;
}

/* ---- end ---- */

static void request_all(struct vm *vm, uint32_t bits)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_request(vm->vcpus[i], bits);
}

void vm_set_end(struct vm *vm, enum vm_end end)
{
	struct vm_priv *priv = vm_priv(vm);
	int none = VM_END_NONE;

	if (!atomic_compare_exchange_strong(&vm->end, &none, end))
		return;
	pthread_mutex_lock(&priv->run_lock);
	pthread_cond_broadcast(&priv->run_cond);
	pthread_mutex_unlock(&priv->run_lock);
	request_all(vm, VCPU_REQUEST_STOP);
}

static bool ended(const struct vm *vm)
{
	return atomic_load(&vm->end) != VM_END_NONE;
}

static void join_vcpus(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (!vm->vcpus[i]->thread_started)
			continue;
		pthread_join(vm->vcpus[i]->thread, NULL);
		vm->vcpus[i]->thread_started = false;
	}
}

enum vm_end vm_wait(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	pthread_mutex_lock(&priv->run_lock);
	while (!ended(vm))
		pthread_cond_wait(&priv->run_cond, &priv->run_lock);
	pthread_mutex_unlock(&priv->run_lock);
	join_vcpus(vm);
	for (unsigned i = 0; i < priv->ends.count; i++)
		priv->ends.items[i].function(priv->ends.items[i].opaque);
	return (enum vm_end)atomic_load(&vm->end);
}

void vm_poweroff(struct vm *vm)
{
	vm_set_end(vm, VM_END_POWEROFF);
}

void vm_quit(struct vm *vm)
{
	vm_set_end(vm, VM_END_QUIT);
}

void vm_debug_exit(struct vm *vm, int status)
{
	if (!ended(vm))
		atomic_store(&vm->exit_status, status);
	vm_set_end(vm, VM_END_DEBUG_EXIT);
}

void vm_triple_fault(struct vm *vm, struct vcpu *vcpu)
{
	if (!ended(vm))
		vm->died = vcpu;
	vm_set_end(vm, VM_END_DIED);
}

void vm_destroy(struct vm *vm)
{
	struct vm_priv *priv;

	if (!vm)
		return;
	priv = vm_priv(vm);
	vm_set_end(vm, VM_END_QUIT);
	join_vcpus(vm);
	loop_stop(vm);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i]->engine_data && vm->engine)
			vm->engine->vcpu_destroy(vm->vcpus[i]);
	if (vm->engine_data && vm->engine)
		vm->engine->vm_destroy(vm);
	for (unsigned i = priv->cleanups.count; i-- > 0;)
		priv->cleanups.items[i].function(priv->cleanups.items[i].opaque);
	loop_destroy(vm);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_free(vm->vcpus[i]);
	guest_memory_destroy(&vm->memory);
	free(priv->cleanups.items);
	free(priv->resets.items);
	free(priv->ends.items);
	free(priv->states);
	pthread_mutex_destroy(&priv->run_lock);
	pthread_cond_destroy(&priv->run_cond);
	free(priv);
	free(vm);
}

/* ---- pause ---- */

static bool held(struct vm *vm, const struct vcpu *vcpu)
{
	return atomic_load(&vm->paused) || (vm_priv(vm)->debug_held >> vcpu->index & 1);
}

void vm_park(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	struct vm_priv *priv = vm_priv(vm);

	pthread_mutex_lock(&priv->run_lock);
	priv->parked++;
	atomic_store(&vcpu->paused, true);
	pthread_cond_broadcast(&priv->run_cond);
	while (held(vm, vcpu) && !ended(vm) && !priv->resetting)
		pthread_cond_wait(&priv->run_cond, &priv->run_lock);
	atomic_store(&vcpu->paused, false);
	priv->parked--;
	pthread_mutex_unlock(&priv->run_lock);
}

void vm_debug_hold(struct vcpu *vcpu)
{
	struct vm_priv *priv = vm_priv(vcpu->vm);

	pthread_mutex_lock(&priv->run_lock);
	priv->debug_held |= 1ull << vcpu->index;
	pthread_mutex_unlock(&priv->run_lock);
}

void vm_pause(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	pthread_mutex_lock(&priv->run_lock);
	atomic_store(&vm->paused, true);
	if (priv->started) {
		request_all(vm, VCPU_REQUEST_PAUSE);
		while (atomic_load(&vm->paused) && !ended(vm) &&
		       (priv->parked < vm->vcpu_count || priv->resetting))
			pthread_cond_wait(&priv->run_cond, &priv->run_lock);
	}
	if (atomic_load(&vm->paused))
		vm_clock_freeze(vm);
	pthread_mutex_unlock(&priv->run_lock);
}

void vm_resume(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	pthread_mutex_lock(&priv->run_lock);
	priv->debug_held = 0;
	atomic_store(&vm->paused, false);
	if (priv->started)
		vm_clock_thaw(vm);
	pthread_cond_broadcast(&priv->run_cond);
	pthread_mutex_unlock(&priv->run_lock);
	loop_wake(vm); /* timers were asleep */
}

/* ---- reset ---- */

void vm_reset(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	if (vm->config.no_reboot) {
		vm_set_end(vm, VM_END_POWEROFF);
		return;
	}
	pthread_mutex_lock(&priv->run_lock);
	if (priv->started && !priv->resetting) {
		priv->resetting = true;
		priv->reset_arrived = 0;
		pthread_cond_broadcast(&priv->run_cond); /* parked vCPUs take part */
		request_all(vm, VCPU_REQUEST_RESET);
	}
	pthread_mutex_unlock(&priv->run_lock);
}

/* All vCPUs stand still. */
static void reset_machine(struct vm *vm)
{
	struct vm_priv *priv = vm_priv(vm);

	for (unsigned i = 0; i < priv->resets.count; i++)
		priv->resets.items[i].function(priv->resets.items[i].opaque);
	if (vm->board_reset)
		vm->board_reset(vm);
}

void vm_reset_rendezvous(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	struct vm_priv *priv = vm_priv(vm);
	uint64_t generation;

	pthread_mutex_lock(&priv->run_lock);
	generation = priv->reset_generation;
	if (priv->resetting && ++priv->reset_arrived == vm->vcpu_count) {
		pthread_mutex_unlock(&priv->run_lock);
		reset_machine(vm);
		pthread_mutex_lock(&priv->run_lock);
		priv->debug_held = 0;
		priv->reset_left = vm->vcpu_count;
		priv->reset_generation++;
		pthread_cond_broadcast(&priv->run_cond);
	}
	while (priv->resetting && priv->reset_generation == generation && !ended(vm))
		pthread_cond_wait(&priv->run_cond, &priv->run_lock);
	if (priv->reset_generation != generation) {
		/* Each resets its own CPU, and none goes on before all have: the first thing the BSP does may be
		 * to send an INIT. */
		pthread_mutex_unlock(&priv->run_lock);
		vcpu_reset_state(vcpu);
		pthread_mutex_lock(&priv->run_lock);
		if (--priv->reset_left == 0) {
			priv->resetting = false;
			priv->resets_finished = priv->reset_generation;
			pthread_cond_broadcast(&priv->run_cond);
		}
		while (priv->resets_finished == generation && !ended(vm))
			pthread_cond_wait(&priv->run_cond, &priv->run_lock);
	}
	if (atomic_load(&vm->paused))
		atomic_fetch_or(&vcpu->requests, VCPU_REQUEST_PAUSE);
	pthread_mutex_unlock(&priv->run_lock);
}
