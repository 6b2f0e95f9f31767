/* SPDX-License-Identifier: MIT */
/*
 * --profile: where a guest's time goes, by sampling.
 *
 * A thread of its own wakes PROFILE_HZ times a second and sends SIGPROF to each vCPU's thread that is not halted (a halted
 * one is counted as idle without being woken). The handler runs on the vCPU's thread, on its signal stack, perhaps
 * in the middle of translated code with the guest's stack pointer in RSP: it only looks where the thread was and puts a sample into
 * a ring. The sampler empties the rings into tables.
 *
 * What the thread was doing is known from the host's RIP (translated code, entry.S) or, in C, from what the runtime
 * leaves behind: the trampoline it came by (bt_vcpu.activity), `translating`, `in_device`, the helper's call. The
 * guest block is found from RIP in the code cache or, in a C part, from the descriptor that r11 pointed to, which lies
 * there too. Blocks lie in the cache in the order of their creation, so this is a binary search.
 *
 * Why not a timer of CPU time for each thread: the kernel looks at those on its own ticks only, 100 to 250 times
 * a second.
 */
#include "engine/bt/profile.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/bt/offsets.h"

static __thread struct profile_ring *my_ring;

/* ---- on the vCPU's thread, in the signal handler ---- */

/* The block whose translation holds this offset of the code cache, or NULL. */
static const struct bt_block *find_block(const struct bt_vm *bt, uint32_t offset)
{
	uint32_t low = 0, high = __atomic_load_n(&bt->block_count, __ATOMIC_ACQUIRE), count = high;
	bool cold = offset >= bt->cache.hot_limit;
	const struct bt_block *block;

	while (low < high) { /* the first block that begins after offset */
		uint32_t mid = (low + high) / 2;

		if ((cold ? bt->blocks[mid].dead_stub : bt->blocks[mid].hot_start) <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || low > count)
		return NULL;
	block = &bt->blocks[low - 1];
	return cold || offset < block->hot_end ? block : NULL;
}

static enum profile_mode mode_of(const struct x86_cpu_state *s)
{
	if (!(s->cr0 & X86_CR0_PE) || (s->rflags & X86_FLAG_VM) ||
	    (!x86_in_64bit(s) && !(s->seg[X86_CS].attr & X86_ATTR_DB)))
		return PROFILE_REAL;
	return x86_cpl(s) == 3 ? PROFILE_USER : PROFILE_KERNEL;
}

static enum profile_category category_of_helper(const struct bt_vcpu *v, uint16_t *op)
{
	const struct bt_call *call = v->helper_call;

	if (!call)
		return PROFILE_HELPER;
	*op = call->op;
	switch (call->op) {
	case X86_OP_IN:
	case X86_OP_OUT:
	case X86_OP_INS:
	case X86_OP_OUTS:
		return PROFILE_DEVICE;
	default:
		return PROFILE_HELPER;
	}
}

static enum profile_category category_of(const struct bt_vcpu *v, uint64_t rip, uint16_t *op)
{
	uint64_t offset = rip - (uint64_t)v->bt->cache.rx;

	if (offset < v->bt->cache.size)
		return offset < v->bt->cache.hot_limit ? PROFILE_HOT : PROFILE_COLD;
	if (!atomic_load_explicit(&v->in_run, memory_order_relaxed))
		return v->in_engine ? PROFILE_DISPATCH : PROFILE_LOOP;
	if (atomic_load_explicit(&v->translating, memory_order_relaxed))
		return PROFILE_TRANSLATE;
	if (rip >= (uint64_t)bt_entry_start && rip < (uint64_t)bt_entry_end)
		return PROFILE_SWITCH;
	switch (v->activity) {
	case ACTIVITY_HELPER:
		return atomic_load_explicit(&v->in_device, memory_order_relaxed) ?
			       PROFILE_DEVICE :
			       category_of_helper(v, op);
	case ACTIVITY_MEMORY:
	case ACTIVITY_COMMIT:
		return atomic_load_explicit(&v->in_device, memory_order_relaxed) ? PROFILE_DEVICE :
										   PROFILE_MEMORY;
	case ACTIVITY_FAULT:
		return PROFILE_FAULT;
	default: /* in_run without an activity: the dispatcher is about to enter */
		return PROFILE_FIND;
	}
}

static void sample(struct profile_ring *ring, uint64_t rip)
{
	struct bt_vcpu *v = ring->v;
	const struct bt_vm *bt = v->bt;
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	struct profile_sample *s = &ring->samples[head % PROFILE_RING];
	const struct bt_block *block = NULL;
	uint64_t at;

	if (head - atomic_load_explicit(&ring->tail, memory_order_acquire) >= PROFILE_RING) {
		atomic_fetch_add(&ring->lost, 1);
		return;
	}
	*s = (struct profile_sample){ .op = 0xffff, .place = { .gpa = ~0ull } };
	s->category = (uint8_t)category_of(v, rip, &s->op);
	s->place.mode = (uint8_t)mode_of(&v->cpu->state);
	at = s->category == PROFILE_HOT || s->category == PROFILE_COLD ? rip : v->r11;
	at -= (uint64_t)bt->cache.rx;
	if (at < bt->cache.size && atomic_load_explicit(&v->in_run, memory_order_relaxed))
		block = find_block(bt, (uint32_t)at);
	if (block) {
		s->place.gpa = block->gpa;
		s->place.linear = v->cpu->pc_base | (block->gpa & PAGE_MASK);
		s->place.code = block->mode & BT_MODE_CODE;
	}
	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

static void on_profile(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	int saved = errno;

	(void)sig;
	(void)info;
	if (my_ring)
		sample(my_ring, (uint64_t)uc->uc_mcontext.gregs[REG_RIP]);
	errno = saved;
}

void bt_profile_thread(struct bt_vcpu *v)
{
	struct bt_profile *profile = v->bt->profile;
	struct profile_ring *ring = calloc(1, sizeof(*ring));
	sigset_t set;

	if (!ring)
		return;
	ring->v = v;
	my_ring = ring;
	atomic_store(&ring->tid, (int)syscall(SYS_gettid));
	__atomic_store_n(&profile->rings[v->vcpu->index], ring, __ATOMIC_RELEASE);
	sigemptyset(&set);
	sigaddset(&set, SIGPROF);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- the sampler ---- */

static struct profile_block *block_entry(struct bt_profile *profile,
					 const struct profile_place *place)
{
	const unsigned mask = (1u << PROFILE_BLOCKS_BITS) - 1;
	unsigned i = (unsigned)((place->linear * 31 + place->gpa) * 0x9e3779b97f4a7c15ull >>
				(64 - PROFILE_BLOCKS_BITS));
	struct profile_block *b;

	for (;; i = (i + 1) & mask) {
		b = &profile->blocks[i];
		if (!b->count)
			break;
		if (b->place.linear == place->linear && b->place.gpa == place->gpa &&
		    b->place.mode == place->mode)
			return b;
	}
	if (profile->block_count >= mask / 4 * 3)
		return NULL;
	profile->block_count++;
	b->place = *place;
	/* The page may hold something else by the end. */
	b->code_size = (uint8_t)(PAGE_SIZE - (place->gpa & PAGE_MASK) < PROFILE_CODE_BYTES ?
					 PAGE_SIZE - (place->gpa & PAGE_MASK) :
					 PROFILE_CODE_BYTES);
	const uint8_t *host =
		guest_memory_host(&profile->bt->vm->memory, place->gpa, b->code_size, false);

	if (host)
		memcpy(b->code, host, b->code_size);
	else
		b->code_size = 0;
	return b;
}

static void count_sample(struct bt_profile *profile, const struct profile_sample *s)
{
	struct profile_block *b;

	profile->count[s->category][s->place.mode]++;
	if (s->op < X86_OP_COUNT)
		profile->by_op[s->op]++;
	if (s->place.gpa == ~0ull)
		return;
	b = block_entry(profile, &s->place);
	if (!b) {
		profile->elsewhere++;
		return;
	}
	b->count++;
	b->slow += s->category != PROFILE_HOT;
}

static void empty_rings(struct bt_profile *profile)
{
	for (unsigned i = 0; i < profile->bt->vm->vcpu_count; i++) {
		struct profile_ring *ring = __atomic_load_n(&profile->rings[i], __ATOMIC_ACQUIRE);
		uint32_t tail, head;

		if (!ring)
			continue;
		tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
		head = atomic_load_explicit(&ring->head, memory_order_acquire);
		for (; tail != head; tail++)
			count_sample(profile, &ring->samples[tail % PROFILE_RING]);
		atomic_store_explicit(&ring->tail, tail, memory_order_release);
	}
}

static void ask_vcpus(struct bt_profile *profile)
{
	const struct vm *vm = profile->bt->vm;

	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const struct profile_ring *ring =
			__atomic_load_n(&profile->rings[i], __ATOMIC_ACQUIRE);

		if (!ring)
			continue;
		if (atomic_load(&vm->vcpus[i]->halted))
			profile->count[PROFILE_IDLE][PROFILE_KERNEL]++;
		else
			syscall(SYS_tgkill, getpid(), atomic_load(&ring->tid), SIGPROF);
	}
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void *sampler(void *arg)
{
	struct bt_profile *profile = arg;
	double start = now(), due = start;

	pthread_setname_np(pthread_self(), "lodge-profile");
	prctl(PR_SET_TIMERSLACK, 1000ul);
	while (!atomic_load(&profile->stop)) {
		struct timespec wake;

		/* On a fixed beat; one that was missed is left out. */
		due += 1.0 / PROFILE_HZ;
		if (due < now())
			due = now();
		wake.tv_sec = (time_t)due;
		wake.tv_nsec = (long)((due - (double)wake.tv_sec) * 1e9);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
		ask_vcpus(profile);
		empty_rings(profile);
	}
	profile->seconds = now() - start;
	return NULL;
}

int bt_profile_start(struct bt_vm *bt, struct error *err)
{
	struct bt_profile *profile = calloc(1, sizeof(*profile));
	struct sigaction action;
	sigset_t all, old;
	int code;

	if (profile)
		profile->blocks = calloc(1u << PROFILE_BLOCKS_BITS, sizeof(*profile->blocks));
	if (!profile || !profile->blocks) {
		free(profile);
		return error_set_errno(err, ENOMEM, "cannot start the profiler");
	}
	profile->bt = bt;
	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_profile;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigfillset(&action.sa_mask);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	code = sigaction(SIGPROF, &action, NULL) ?
		       errno :
		       pthread_create(&profile->thread, NULL, sampler, profile);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (code) {
		free(profile->blocks);
		free(profile);
		return error_set_errno(err, code, "cannot start the profiler");
	}
	profile->started = true;
	bt->profile = profile;
	return 0;
}

void bt_profile_stop(struct bt_vm *bt)
{
	struct bt_profile *profile = bt->profile;

	if (!profile || !profile->started)
		return;
	atomic_store(&profile->stop, true);
	pthread_join(profile->thread, NULL);
	profile->started = false;
	empty_rings(profile);
}

void bt_profile_free(struct bt_vm *bt)
{
	struct bt_profile *profile = bt->profile;

	if (!profile)
		return;
	bt_profile_stop(bt);
	for (unsigned i = 0; i < VM_VCPU_MAX; i++)
		free(profile->rings[i]);
	free(profile->blocks);
	free(profile);
	bt->profile = NULL;
}
