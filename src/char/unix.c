/* SPDX-License-Identifier: MIT */
/*
 * Console on a Unix stream socket: lodge listens at the path, one client is connected at a time, and
 * a further one takes its place when it has gone. Output without a client is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "char/backends.h"
#include "char/fd.h"
#include "vm/vm.h"

struct unix_backend {
	struct char_fd fd;
	int listener;
	struct event_source *listener_source;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void accept_client(void *opaque, uint32_t events)
{
	struct unix_backend *unix_console = opaque;
	struct char_fd *fd = &unix_console->fd;

	(void)events;
	int client = accept4(unix_console->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (client < 0)
		return;
	/* The next one waits in the backlog until this one is gone. */
	vm_watch_remove(unix_console->listener_source);
	unix_console->listener_source = NULL;
	pthread_mutex_lock(&fd->write_lock);
	fd->out = client;
	fd->stalled = false;
	pthread_mutex_unlock(&fd->write_lock);
	char_fd_open_input(fd, client, NULL);
}

static void client_gone(struct char_fd *fd)
{
	struct unix_backend *unix_console = container_of(fd, struct unix_backend, fd);

	char_fd_close_input(fd);
	pthread_mutex_lock(&fd->write_lock);
	close(fd->out);
	fd->out = -1;
	pthread_mutex_unlock(&fd->write_lock);
	unix_console->listener_source =
		vm_watch_fd(fd->vm, unix_console->listener, EPOLLIN, accept_client, unix_console);
}

static void unix_destroy(struct char_backend *base)
{
	struct unix_backend *unix_console = container_of(base, struct unix_backend, fd.base);

	char_fd_close_input(&unix_console->fd);
	if (unix_console->fd.out >= 0)
		close(unix_console->fd.out);
	if (unix_console->listener_source)
		vm_watch_remove(unix_console->listener_source);
	close(unix_console->listener);
	unlink(unix_console->path);
	pthread_mutex_destroy(&unix_console->fd.write_lock);
	free(unix_console);
}

static const struct char_backend_ops unix_ops = {
	.write = char_fd_write,
	.destroy = unix_destroy,
};

/* A listening socket at path, or -1. A socket left behind by a process that is gone is replaced. */
static int listen_at(const char *path, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG,
				 "console socket '%s': a socket's path has at most %zu characters",
				 path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set_errno(err, errno, "cannot create console socket '%s'", path);
	if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			return error_set(err, EADDRINUSE, "console socket '%s' is in use", path);
		unlink(path);
	}
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		return error_set_errno(err, errno, "cannot listen at console socket '%s'", path);
	int result = fd;
	fd = -1;
	return result;
}

static struct char_backend *unix_create(struct vm *vm, const char *path,
					void (*escape)(void *, int), void *opaque,
					struct error *err)
{
	(void)escape;
	(void)opaque;
	int listener = listen_at(path, err);

	if (listener < 0)
		return NULL;
	struct unix_backend *unix_console = calloc(1, sizeof(*unix_console));

	if (!unix_console) {
		close(listener);
		unlink(path);
		error_set_errno(err, ENOMEM, "cannot create the console");
		return NULL;
	}
	unix_console->fd.base.ops = &unix_ops;
	char_fd_init(&unix_console->fd, vm);
	unix_console->fd.on_end = client_gone;
	unix_console->listener = listener;
	strcpy(unix_console->path, path);
	unix_console->listener_source =
		vm_watch_fd(vm, listener, EPOLLIN, accept_client, unix_console);
	return &unix_console->fd.base;
}

const struct char_kind char_unix = { .name = "unix", .argument = "PATH", .create = unix_create };
