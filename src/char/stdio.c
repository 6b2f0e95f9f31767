/* SPDX-License-Identifier: MIT */
/*
 * Console on standard input and output.
 *
 * A terminal is put into raw mode, so that every key reaches the guest, and Ctrl-A begins an escape:
 * Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A with another key goes to the escape callback. Input that is
 * not a terminal is passed on unchanged.
 */
#include "char/stdio.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/util.h"
#include "char/backends.h"
#include "char/fd.h"
#include "vm/vm.h"

#define CTRL_A 1

struct stdio_backend {
	struct char_fd fd;
	bool terminal;
	struct termios original;
	bool escaped; /* the last byte was Ctrl-A */
	void (*escape)(void *opaque, int key);
	void *escape_opaque;
};

/* The back end that owns the terminal: the process has one standard input, and atexit() gives no argument. */
static struct stdio_backend *_Atomic owner;

static void set_raw(struct stdio_backend *stdio)
{
	struct termios raw = stdio->original;

	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

void stdio_restore(void)
{
	struct stdio_backend *stdio = atomic_load(&owner);

	if (stdio && stdio->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &stdio->original);
}

void stdio_suspend(void)
{
	struct stdio_backend *stdio = atomic_load(&owner);

	if (!stdio)
		return;
	char_fd_hold(&stdio->fd, true);
	if (stdio->terminal) {
		struct termios lines = stdio->original;

		lines.c_lflag &= ~(
			tcflag_t)ISIG; /* Ctrl-C while the monitor is open must not end the guest */
		tcsetattr(STDIN_FILENO, TCSANOW, &lines);
	}
}

static void resume_on_loop(void *opaque)
{
	struct stdio_backend *stdio = opaque;

	if (stdio->terminal)
		set_raw(stdio);
	char_fd_hold(&stdio->fd, false);
}

void stdio_resume(void)
{
	struct stdio_backend *stdio = atomic_load(&owner);

	if (stdio)
		vm_defer(stdio->fd.vm, resume_on_loop, stdio);
}

/* Take the escapes out of what was typed. */
static size_t filter_escapes(struct char_fd *fd, uint8_t *data, size_t len)
{
	struct stdio_backend *stdio = container_of(fd, struct stdio_backend, fd);
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t key = data[i];

		if (!stdio->escaped) {
			if (key == CTRL_A)
				stdio->escaped = true;
			else
				data[kept++] = key;
			continue;
		}
		stdio->escaped = false;
		if (key == CTRL_A)
			data[kept++] = key;
		else if (stdio->escape)
			stdio->escape(stdio->escape_opaque, key);
	}
	return kept;
}

static void stdio_destroy(struct char_backend *base)
{
	struct stdio_backend *stdio = container_of(base, struct stdio_backend, fd.base);

	char_fd_close_input(&stdio->fd);
	stdio_restore();
	atomic_store(&owner, NULL);
	pthread_mutex_destroy(&stdio->fd.write_lock);
	free(stdio);
}

static const struct char_backend_ops stdio_ops = {
	.write = char_fd_write,
	.destroy = stdio_destroy,
};

static struct char_backend *stdio_create(struct vm *vm, const char *argument,
					 void (*escape)(void *, int), void *opaque,
					 struct error *err)
{
	static _Atomic bool restores_at_exit;

	(void)argument;
	if (atomic_load(&owner)) {
		error_set(err, EBUSY, "only one console can be on stdio");
		return NULL;
	}
	struct stdio_backend *stdio = calloc(1, sizeof(*stdio));

	if (!stdio) {
		error_set_errno(err, ENOMEM, "cannot create the stdio console");
		return NULL;
	}
	stdio->fd.base.ops = &stdio_ops;
	stdio->escape = escape;
	stdio->escape_opaque = opaque;
	char_fd_init(&stdio->fd, vm);
	stdio->fd.out = STDOUT_FILENO;
	stdio->terminal = tcgetattr(STDIN_FILENO, &stdio->original) == 0;
	atomic_store(&owner, stdio);
	if (stdio->terminal) {
		stdio->fd.filter = filter_escapes;
		if (!atomic_exchange(&restores_at_exit, true))
			atexit(stdio_restore);
		set_raw(stdio);
	}
	/* A closed standard input is an input that has ended. */
	if (char_fd_open_input(&stdio->fd, STDIN_FILENO, err) < 0 && err->code != EBADF) {
		stdio_destroy(&stdio->fd.base);
		return NULL;
	}
	return &stdio->fd.base;
}

const struct char_kind char_stdio = { .name = "stdio", .create = stdio_create };
