/* SPDX-License-Identifier: MIT */
/* Console into a file: output is written to it from its beginning, there is no input. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"
#include "char/backends.h"
#include "char/fd.h"

static void file_destroy(struct char_backend *base)
{
	struct char_fd *chr = container_of(base, struct char_fd, base);

	close(chr->out);
	pthread_mutex_destroy(&chr->write_lock);
	free(chr);
}

static const struct char_backend_ops file_ops = {
	.write = char_fd_write,
	.destroy = file_destroy,
};

static struct char_backend *file_create(struct vm *vm, const char *path,
					void (*escape)(void *, int), void *opaque,
					struct error *err)
{
	(void)escape;
	(void)opaque;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0) {
		error_set_errno(err, errno, "cannot write console file '%s'", path);
		return NULL;
	}
	struct char_fd *chr = calloc(1, sizeof(*chr));

	if (!chr) {
		close(fd);
		error_set_errno(err, ENOMEM, "cannot create the console");
		return NULL;
	}
	chr->base.ops = &file_ops;
	char_fd_init(chr, vm);
	chr->out = fd;
	return &chr->base;
}

const struct char_kind char_file = { .name = "file", .argument = "PATH", .create = file_create };
