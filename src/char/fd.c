/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing of the descriptor-based character back ends. See fd.h.
 *
 * Input is read into a buffer only when the buffer is empty; while the front end is full the
 * descriptor is not watched at all (a hung-up descriptor would otherwise wake the loop for ever),
 * and accept_input() starts it again. Plain files and /dev/null cannot be watched by epoll; they are
 * read whenever the front end has room.
 */
#include "char/fd.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "vm/vm.h"

#define STALL_MS 1000
/* A pipe that polls writable takes this much without blocking (PIPE_BUF); a terminal takes at least 256. */
#define WRITE_CHUNK 256

static void pump(struct char_fd *chr);

static void input_ready(void *opaque, uint32_t events)
{
	(void)events;
	pump(opaque);
}

static void watch(struct char_fd *chr, bool on)
{
	if (!chr->pollable)
		return;
	if (on && !chr->source) {
		chr->source = vm_watch_fd(chr->vm, chr->in, EPOLLIN, input_ready, chr);
	} else if (!on && chr->source) {
		vm_watch_remove(chr->source);
		chr->source = NULL;
	}
}

/* Give the front end what the buffer holds; true if all of it was taken. */
static bool deliver(struct char_fd *chr)
{
	struct char_backend *base = &chr->base;

	while (chr->start < chr->end) {
		size_t room = base->can_receive ? base->can_receive(base->opaque) : 0;

		if (!room)
			return false;
		size_t n = MIN(room, chr->end - chr->start);
		base->receive(base->opaque, chr->buffer + chr->start, n);
		chr->start += n;
	}
	return true;
}

/* Read and deliver until the front end is full or nothing more is there to be read now. */
static void pump(struct char_fd *chr)
{
	for (;;) {
		if (chr->in < 0 || chr->held)
			return;
		/* Before the look at the front end, so that an accept_input() during it is not lost. */
		atomic_store(&chr->blocked, true);
		if (!deliver(chr)) {
			watch(chr, false);
			return;
		}
		if (chr->ended) {
			watch(chr, false);
			if (chr->on_end)
				chr->on_end(chr);
			return;
		}
		if (chr->pollable) {
			struct pollfd p = { .fd = chr->in, .events = POLLIN };

			atomic_store(&chr->blocked, false);
			if (poll(&p, 1, 0) <= 0) {
				watch(chr, true);
				return;
			}
		} else if (!chr->base.can_receive || !chr->base.can_receive(chr->base.opaque)) {
			return;
		}
		ssize_t n = read(chr->in, chr->buffer, sizeof(chr->buffer));

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		chr->start = 0;
		chr->end = n > 0 ? (size_t)n : 0;
		if (n <= 0)
			chr->ended = true;
		else if (chr->filter)
			chr->end = chr->filter(chr, chr->buffer, chr->end);
	}
}

static void resume(void *opaque)
{
	pump(opaque);
}

static void accept_input(struct char_backend *base)
{
	struct char_fd *chr = container_of(base, struct char_fd, base);

	if (atomic_exchange(&chr->blocked, false))
		vm_defer(chr->vm, resume, chr);
}

void char_fd_init(struct char_fd *chr, struct vm *vm)
{
	chr->vm = vm;
	chr->in = chr->out = -1;
	chr->base.accept_input = accept_input;
	pthread_mutex_init(&chr->write_lock, NULL);
}

int char_fd_open_input(struct char_fd *chr, int fd, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "cannot read console input");
	chr->in = fd;
	chr->start = chr->end = 0;
	chr->ended = false;
	/* Of the character devices only terminals and the like can be watched: /dev/null and /dev/zero cannot. */
	chr->pollable = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd);
	if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode) && !chr->pollable)
		return error_set(
			err, 0,
			"cannot read console input: standard input is not a file, pipe or terminal");
	vm_defer(chr->vm, resume, chr);
	return 0;
}

void char_fd_close_input(struct char_fd *chr)
{
	watch(chr, false);
	chr->in = -1;
}

void char_fd_hold(struct char_fd *chr, bool hold)
{
	chr->held = hold;
	if (hold)
		watch(chr, false);
	else
		pump(chr);
}

size_t char_fd_write(struct char_backend *base, const uint8_t *data, size_t len)
{
	struct char_fd *chr = container_of(base, struct char_fd, base);

	pthread_mutex_lock(&chr->write_lock);
	for (size_t done = 0; done < len && chr->out >= 0;) {
		struct pollfd p = { .fd = chr->out, .events = POLLOUT };

		if (poll(&p, 1, chr->stalled ? 0 : STALL_MS) <= 0) {
			chr->stalled = true;
			break;
		}
		ssize_t n = write(chr->out, data + done, MIN(len - done, (size_t)WRITE_CHUNK));
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			break;
		chr->stalled = false;
		done += (size_t)n;
	}
	pthread_mutex_unlock(&chr->write_lock);
	return len;
}
