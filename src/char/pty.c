/* SPDX-License-Identifier: MIT */
/*
 * Console on a pseudo-terminal of its own; its name is printed at the start.
 *
 * We keep the slave open ourselves: otherwise the master reports hang-up whenever no program has it
 * open. What the guest prints while nobody reads is kept by the kernel as far as it has room.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "char/backends.h"
#include "char/fd.h"

struct pty_backend {
	struct char_fd fd;
	int slave;
};

static void pty_destroy(struct char_backend *base)
{
	struct pty_backend *pty = container_of(base, struct pty_backend, fd.base);

	char_fd_close_input(&pty->fd);
	close(pty->fd.out);
	close(pty->slave);
	pthread_mutex_destroy(&pty->fd.write_lock);
	free(pty);
}

static const struct char_backend_ops pty_ops = {
	.write = char_fd_write,
	.destroy = pty_destroy,
};

static struct char_backend *pty_create(struct vm *vm, const char *argument,
				       void (*escape)(void *, int), void *opaque, struct error *err)
{
	(void)argument;
	(void)escape;
	(void)opaque;
	cleanup_close int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	cleanup_close int slave = -1;
	char name[64];

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
	    ptsname_r(master, name, sizeof(name)) ||
	    (slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		error_set_errno(err, errno, "cannot create a pseudo-terminal for the console");
		return NULL;
	}
	struct termios raw;

	if (tcgetattr(slave, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(slave, TCSANOW, &raw);
	}
	struct pty_backend *pty = calloc(1, sizeof(*pty));

	if (!pty) {
		error_set_errno(err, ENOMEM, "cannot create the console");
		return NULL;
	}
	pty->fd.base.ops = &pty_ops;
	char_fd_init(&pty->fd, vm);
	pty->fd.stalled = true; /* nobody reads yet: never wait for them */
	pty->fd.out = master;
	pty->slave = slave;
	if (char_fd_open_input(&pty->fd, master, err) < 0) {
		free(pty);
		return NULL;
	}
	master = slave = -1;
	fprintf(stderr, "lodge: console on %s\n", name);
	return &pty->fd.base;
}

const struct char_kind char_pty = { .name = "pty", .create = pty_create };
