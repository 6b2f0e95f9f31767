/* SPDX-License-Identifier: MIT */
/*
 * Character back ends: where a guest's serial port or console reads and writes on the host.
 * One backend serves one front end (16550A or virtio-console).
 */
#ifndef LODGE_CHAR_CHAR_H
#define LODGE_CHAR_CHAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct vm;
struct char_backend;

struct char_backend_ops {
	/* Write up to len bytes without blocking for long; returns bytes taken. Any thread. */
	size_t (*write)(struct char_backend *chr, const uint8_t *data, size_t len);
	void (*destroy)(struct char_backend *chr);
};

struct char_backend {
	const struct char_backend_ops *ops;
	/* Front end: set by char_attach(). can_receive gives how many bytes it can take now; receive delivers. Loop thread. */
	size_t (*can_receive)(void *opaque);
	void (*receive)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;
	/* Set by the backend: the front end calls it when it can take more input (any thread). May be NULL. */
	void (*accept_input)(struct char_backend *chr);
};

/* Create from an option: "stdio", "none", "file=PATH", "pty", "unix=PATH". stdio puts a terminal into raw mode and handles
 * the Ctrl-A escapes through escape(opaque, key): key 'x', 'c', ... (Ctrl-A Ctrl-A is sent on by itself). */
struct char_backend *char_create(struct vm *vm, const char *spec,
				 void (*escape)(void *opaque, int key), void *opaque,
				 struct error *err);
void char_destroy(struct char_backend *chr);
void char_attach(struct char_backend *chr, size_t (*can_receive)(void *),
		 void (*receive)(void *, const uint8_t *, size_t), void *opaque);
static inline size_t char_write(struct char_backend *chr, const uint8_t *data, size_t len)
{
	return chr ? chr->ops->write(chr, data, len) : len;
}

#endif
