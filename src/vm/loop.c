/* SPDX-License-Identifier: MIT */
/*
 * The event loop: one thread that waits for file descriptors (epoll), timers and deferred calls.
 *
 * Timers live in a binary heap under a lock of their own. The thread publishes until when it sleeps; a timer
 * armed by another thread wakes it only if it is earlier than that. There is no periodic wake-up: without
 * timers and events the thread sleeps for ever. Sleeping is to the nanosecond, by epoll_pwait2 (Linux
 * 5.11) or, on older kernels, by a timerfd in the epoll set.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/util.h"
#include "vm/vm_private.h"

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define NOT_IN_HEAP UINT32_MAX
#define LOOP_EVENTS 32

static struct vm_loop *loop_of(struct vm *vm)
{
	return &vm_priv(vm)->loop;
}

void loop_wake(struct vm *vm)
{
	uint64_t one = 1;
	ssize_t ignored = write(loop_of(vm)->wake_fd, &one, sizeof(one));

	(void)ignored; /* fails only if the counter is full: then it is readable anyway */
}

/* ---- timers ---- */

static void heap_place(struct vm_loop *loop, unsigned i, struct vm_timer *timer)
{
	loop->heap[i] = timer;
	timer->heap_index = i;
}

static void heap_up(struct vm_loop *loop, unsigned i, struct vm_timer *timer)
{
	while (i > 0 && loop->heap[(i - 1) / 2]->deadline > timer->deadline) {
		heap_place(loop, i, loop->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_place(loop, i, timer);
}

static void heap_down(struct vm_loop *loop, unsigned i, struct vm_timer *timer)
{
	for (;;) {
		unsigned child = 2 * i + 1;

		if (child >= loop->heap_count)
			break;
		if (child + 1 < loop->heap_count &&
		    loop->heap[child + 1]->deadline < loop->heap[child]->deadline)
			child++;
		if (loop->heap[child]->deadline >= timer->deadline)
			break;
		heap_place(loop, i, loop->heap[child]);
		i = child;
	}
	heap_place(loop, i, timer);
}

static void heap_remove(struct vm_loop *loop, struct vm_timer *timer)
{
	unsigned i = timer->heap_index;
	struct vm_timer *last;

	if (i == NOT_IN_HEAP)
		return;
	last = loop->heap[--loop->heap_count];
	timer->heap_index = NOT_IN_HEAP;
	if (last == timer)
		return;
	if (i > 0 && loop->heap[(i - 1) / 2]->deadline > last->deadline)
		heap_up(loop, i, last);
	else
		heap_down(loop, i, last);
}

static bool heap_reserve(struct vm_loop *loop)
{
	if (loop->heap_count == loop->heap_capacity) {
		unsigned capacity = loop->heap_capacity ? 2 * loop->heap_capacity : 64;
		struct vm_timer **heap = realloc(loop->heap, capacity * sizeof(*heap));

		if (!heap)
			return false;
		loop->heap = heap;
		loop->heap_capacity = capacity;
	}
	return true;
}

void vm_timer_init(struct vm_timer *timer, struct vm *vm, void (*callback)(void *), void *opaque)
{
	*timer = (struct vm_timer){
		.vm = vm,
		.callback = callback,
		.opaque = opaque,
		.deadline = UINT64_MAX,
		.heap_index = NOT_IN_HEAP,
	};
}

void vm_timer_arm(struct vm_timer *timer, uint64_t deadline)
{
	struct vm_loop *loop = loop_of(timer->vm);
	bool wake = false;

	if (deadline == UINT64_MAX) {
		vm_timer_cancel(timer);
		return;
	}
	pthread_mutex_lock(&loop->timer_lock);
	if (timer->heap_index != NOT_IN_HEAP) {
		uint64_t old = timer->deadline;

		timer->deadline = deadline;
		if (deadline < old)
			heap_up(loop, timer->heap_index, timer);
		else
			heap_down(loop, timer->heap_index, timer);
	} else if (heap_reserve(loop)) {
		timer->deadline = deadline;
		heap_up(loop, loop->heap_count++, timer);
	}
	if (deadline < loop->wake_at) {
		loop->wake_at = deadline; /* so that the next one does not wake it again */
		wake = true;
	}
	pthread_mutex_unlock(&loop->timer_lock);
	if (wake)
		loop_wake(timer->vm);
}

void vm_timer_cancel(struct vm_timer *timer)
{
	struct vm_loop *loop = loop_of(timer->vm);

	pthread_mutex_lock(&loop->timer_lock);
	heap_remove(loop, timer);
	timer->deadline = UINT64_MAX;
	pthread_mutex_unlock(&loop->timer_lock);
}

/* Run every timer whose time has come. Bounded per call, so that a callback that rearms itself in the past
 * cannot keep the loop from its file descriptors. */
static void run_timers(struct vm *vm)
{
	struct vm_loop *loop = loop_of(vm);
	uint64_t now = vm_clock_ns(vm);

	if (atomic_load(&vm->paused))
		return;
	for (unsigned budget = 256; budget; budget--) {
		struct vm_timer *timer = NULL;

		pthread_mutex_lock(&loop->timer_lock);
		if (loop->heap_count && loop->heap[0]->deadline <= now) {
			timer = loop->heap[0];
			heap_remove(loop, timer);
			timer->deadline = UINT64_MAX;
		}
		pthread_mutex_unlock(&loop->timer_lock);
		if (!timer)
			break;
		timer->callback(timer->opaque);
	}
}

/* Decide how long to sleep (ns; UINT64_MAX: for ever) and publish it. */
static uint64_t timer_timeout(struct vm *vm)
{
	struct vm_loop *loop = loop_of(vm);
	uint64_t deadline = UINT64_MAX, now;

	pthread_mutex_lock(&loop->timer_lock);
	if (loop->heap_count && !atomic_load(&vm->paused))
		deadline = loop->heap[0]->deadline;
	loop->wake_at = deadline;
	pthread_mutex_unlock(&loop->timer_lock);
	if (deadline == UINT64_MAX)
		return UINT64_MAX;
	now = vm_clock_ns(vm);
	return deadline > now ? deadline - now : 0;
}

/* ---- file descriptors and deferred calls ---- */

struct event_source *vm_watch_fd(struct vm *vm, int fd, uint32_t events,
				 void (*handler)(void *opaque, uint32_t events), void *opaque)
{
	struct vm_loop *loop = loop_of(vm);
	struct event_source *source = calloc(1, sizeof(*source));
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (!source)
		return NULL;
	*source = (struct event_source){ .vm = vm, .fd = fd, .handler = handler, .opaque = opaque };
	pthread_mutex_lock(&loop->lock);
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		pthread_mutex_unlock(&loop->lock);
		free(source);
		return NULL;
	}
	source->next = loop->sources;
	loop->sources = source;
	pthread_mutex_unlock(&loop->lock);
	return source;
}

void vm_watch_modify(struct event_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (source)
		epoll_ctl(loop_of(source->vm)->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

void vm_watch_remove(struct event_source *source)
{
	struct vm_loop *loop;

	if (!source)
		return;
	loop = loop_of(source->vm);
	pthread_mutex_lock(&loop->lock);
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	atomic_store(&source->dead, true);
	for (struct event_source **p = &loop->sources; *p; p = &(*p)->next) {
		if (*p == source) {
			*p = source->next;
			break;
		}
	}
	/* The loop may have fetched an event for it already: freed when its current round is over. */
	source->next = loop->graveyard;
	loop->graveyard = source;
	pthread_mutex_unlock(&loop->lock);
}

void vm_defer(struct vm *vm, void (*function)(void *opaque), void *opaque)
{
	struct vm_loop *loop = loop_of(vm);
	struct loop_deferred *deferred = malloc(sizeof(*deferred));

	if (!deferred)
		return;
	*deferred = (struct loop_deferred){ .function = function, .opaque = opaque };
	pthread_mutex_lock(&loop->lock);
	*loop->deferred_tail = deferred;
	loop->deferred_tail = &deferred->next;
	pthread_mutex_unlock(&loop->lock);
	loop_wake(vm);
}

void vm_add_loop_hook(struct vm *vm, const struct loop_hook *hook)
{
	struct vm_loop *loop = loop_of(vm);

	if (loop->hook_count < LOOP_HOOK_MAX)
		loop->hooks[loop->hook_count++] = *hook;
}

static void run_deferred(struct vm_loop *loop)
{
	struct loop_deferred *list;

	pthread_mutex_lock(&loop->lock);
	list = loop->deferred;
	loop->deferred = NULL;
	loop->deferred_tail = &loop->deferred;
	pthread_mutex_unlock(&loop->lock);
	while (list) {
		struct loop_deferred *next = list->next;

		list->function(list->opaque);
		free(list);
		list = next;
	}
}

static void free_sources(struct event_source *list)
{
	while (list) {
		struct event_source *next = list->next;

		free(list);
		list = next;
	}
}

static void bury_sources(struct vm_loop *loop)
{
	struct event_source *list;

	if (!loop->graveyard)
		return;
	pthread_mutex_lock(&loop->lock);
	list = loop->graveyard;
	loop->graveyard = NULL;
	pthread_mutex_unlock(&loop->lock);
	free_sources(list);
}

/* ---- the thread ---- */

/* epoll_wait with a timeout in ns (UINT64_MAX: none). */
static int wait_ns(struct vm_loop *loop, struct epoll_event *events, uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / NS_PER_S),
			       .tv_nsec = (long)(ns % NS_PER_S) };
	int n;

	if (ns == UINT64_MAX)
		return epoll_wait(loop->epoll_fd, events, LOOP_EVENTS, -1);
	if (ns == 0)
		return epoll_wait(loop->epoll_fd, events, LOOP_EVENTS, 0);
	if (!loop->no_pwait2) {
		n = epoll_pwait2(loop->epoll_fd, events, LOOP_EVENTS, &ts, NULL);
		if (n >= 0 || errno != ENOSYS)
			return n;
		loop->no_pwait2 = true;
	}
	timerfd_settime(loop->timer_fd, 0, &(struct itimerspec){ .it_value = ts }, NULL);
	return epoll_wait(loop->epoll_fd, events, LOOP_EVENTS, -1);
}

static void drain(int fd)
{
	uint64_t count;
	ssize_t ignored = read(fd, &count, sizeof(count));

	(void)ignored; /* EAGAIN: someone else's wake-up was drained with ours */
}

static void dispatch(struct vm_loop *loop, struct epoll_event *event)
{
	struct event_source *source = event->data.ptr;

	if (event->data.ptr == &loop->wake_fd)
		drain(loop->wake_fd);
	else if (event->data.ptr == &loop->timer_fd)
		drain(loop->timer_fd);
	else if (!atomic_load(&source->dead))
		source->handler(source->opaque, event->events);
}

static void *loop_thread(void *arg)
{
	struct vm *vm = arg;
	struct vm_loop *loop = loop_of(vm);
	struct epoll_event events[LOOP_EVENTS];

	thread_block_signals(NULL);
	prctl(PR_SET_TIMERSLACK, 1000ul);
	while (!atomic_load(&loop->stop)) {
		uint64_t timeout;
		int hook_ms = -1, n;

		for (unsigned i = 0; i < loop->hook_count; i++)
			if (loop->hooks[i].before_wait)
				loop->hooks[i].before_wait(loop->hooks[i].opaque, &hook_ms);
		timeout = timer_timeout(vm);
		if (hook_ms >= 0)
			timeout = MIN(timeout, (uint64_t)hook_ms * NS_PER_MS);
		n = wait_ns(loop, events, timeout);
		pthread_mutex_lock(&loop->timer_lock);
		loop->wake_at = 0;
		pthread_mutex_unlock(&loop->timer_lock);
		run_timers(vm);
		for (int i = 0; i < n; i++)
			dispatch(loop, &events[i]);
		for (unsigned i = 0; i < loop->hook_count; i++)
			if (loop->hooks[i].after_wait)
				loop->hooks[i].after_wait(loop->hooks[i].opaque);
		run_deferred(loop);
		bury_sources(loop);
	}
	return NULL;
}

static int watch_own(struct vm_loop *loop, int *fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = fd };

	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event);
}

int loop_init(struct vm *vm, struct error *err)
{
	struct vm_loop *loop = loop_of(vm);

	pthread_mutex_init(&loop->lock, NULL);
	pthread_mutex_init(&loop->timer_lock, NULL);
	loop->deferred_tail = &loop->deferred;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timer_fd < 0 ||
	    watch_own(loop, &loop->wake_fd) < 0 || watch_own(loop, &loop->timer_fd) < 0)
		return error_set_errno(err, errno, "cannot create the event loop");
	return 0;
}

int loop_start(struct vm *vm, struct error *err)
{
	struct vm_loop *loop = loop_of(vm);
	int code = pthread_create(&loop->thread, NULL, loop_thread, vm);

	if (code)
		return error_set_errno(err, code, "cannot start the event loop thread");
	pthread_setname_np(loop->thread, "lodge-loop");
	loop->started = true;
	return 0;
}

void loop_stop(struct vm *vm)
{
	struct vm_loop *loop = loop_of(vm);

	if (!loop->started)
		return;
	atomic_store(&loop->stop, true);
	loop_wake(vm);
	pthread_join(loop->thread, NULL);
	loop->started = false;
}

/* After the clean-ups of devices and back ends, which remove their sources. */
void loop_destroy(struct vm *vm)
{
	struct vm_loop *loop = loop_of(vm);

	while (loop->deferred) {
		struct loop_deferred *next = loop->deferred->next;

		free(loop->deferred);
		loop->deferred = next;
	}
	free_sources(loop->graveyard);
	free_sources(loop->sources);
	free(loop->heap);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	pthread_mutex_destroy(&loop->lock);
	pthread_mutex_destroy(&loop->timer_lock);
}
