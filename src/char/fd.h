/* SPDX-License-Identifier: MIT */
/*
 * What the character back ends over file descriptors share: reading from the event loop without
 * losing bytes the front end cannot take yet, and writing without hanging on a stalled reader.
 */
#ifndef LODGE_CHAR_FD_H
#define LODGE_CHAR_FD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "char/char.h"

struct event_source;

struct char_fd {
	struct char_backend base;
	struct vm *vm;
	int in, out; /* -1: none */

	/* Input; event-loop thread only. */
	struct event_source *source;
	bool pollable;     /* in can be watched (not a plain file or /dev/null) */
	bool ended;        /* end of file was read */
	bool held;         /* char_fd_hold(): nothing is read */
	size_t start, end; /* bytes of buffer not yet delivered */
	uint8_t buffer[4096];
	_Atomic bool blocked; /* the front end took less than there was */

	/* Change data in place as it is read; returns the new length. NULL: none. */
	size_t (*filter)(struct char_fd *chr, uint8_t *data, size_t len);
	/* End of input or an error on in. NULL: nothing is to be done. */
	void (*on_end)(struct char_fd *chr);

	/* Output; any thread. */
	pthread_mutex_t write_lock;
	bool stalled; /* the reader took nothing for long: do not wait for it again until it reads */
};

/* Prepare *chr with base.ops already set. */
void char_fd_init(struct char_fd *chr, struct vm *vm);
/* Begin to read from fd (the front end may be attached later). Loop thread, or before vm_start. */
int char_fd_open_input(struct char_fd *chr, int fd, struct error *err);
/* Stop reading; does not close the descriptor. Loop thread, or after the VM has ended. */
void char_fd_close_input(struct char_fd *chr);
/* Stop reading for a while, and go on. Loop thread. */
void char_fd_hold(struct char_fd *chr, bool hold);
/* char_backend_ops.write for chr->out: waits up to a second for a slow reader, then drops. Returns len. */
size_t char_fd_write(struct char_backend *base, const uint8_t *data, size_t len);

#endif
