/* SPDX-License-Identifier: MIT */
/*
 * Network back ends: where a guest's Ethernet frames go on the host.
 *
 * One back end serves one front end (a network card). Frames are whole Ethernet frames without
 * preamble and checksum. Everything here runs on the event-loop thread, except creation; a card
 * whose guest kicks it from a vCPU thread moves to the loop with vm_defer().
 */
#ifndef LODGE_NET_NET_H
#define LODGE_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

struct vm;
struct net_backend;

/* Longest frame in either direction: a 64 KiB IP packet (from segmentation offload) and its
 * header. */
#define NET_FRAME_MAX (65536 + 18)

struct net_backend_ops {
	/* A frame from the guest. Loop thread. len <= NET_FRAME_MAX. */
	void (*send)(struct net_backend *net, const uint8_t *frame, size_t len);
	void (*destroy)(struct net_backend *net);
};

struct net_frontend_ops {
	/* A frame for the guest. The card queues it or drops it. */
	void (*receive)(void *opaque, const uint8_t *frame, size_t len);
	/* A burst of frames is over: tell the guest. */
	void (*receive_done)(void *opaque);
};

struct net_backend {
	const struct net_backend_ops *ops;
	const struct net_frontend_ops *frontend; /* set by net_attach() */
	void *opaque;
	bool large_frames; /* takes frames longer than the MTU (unsegmented TCP) */
};

/*
 * Create from an option: "user[,hostfwd=tcp:HOSTPORT:GUESTPORT]..." or "none" (*out is NULL, result
 * 0). hostfwd also takes udp, and [ADDR:]HOSTPORT-[GUESTADDR]:GUESTPORT. Returns 0 or -1.
 */
int net_create(struct vm *vm, const char *spec, struct net_backend **out, struct error *err);
void net_destroy(struct net_backend *net);
void net_attach(struct net_backend *net, const struct net_frontend_ops *ops, void *opaque);

#endif
