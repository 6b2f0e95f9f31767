/* SPDX-License-Identifier: MIT */
/*
 * User-mode networking by libslirp: a small network with a gateway (10.0.2.2, the host), a DHCP
 * server and a DNS forwarder (10.0.2.3) for one guest (10.0.2.15), without privileges. Outbound TCP
 * and UDP become the host's sockets; ICMP echo works where the host lets users ping; hostfwd opens
 * host ports that lead to the guest.
 *
 * libslirp runs only on the event-loop thread. Before each wait it says which sockets it cares for
 * and how long it can wait; after the wait it looks at them. Its sockets sit in an epoll instance
 * of their own, which the loop watches as one descriptor: the interest list changes only where
 * libslirp's wishes do, so a wait costs no system call for a steady set of connections, and one for
 * looking at results.
 *
 * IPv6 is off: it would have the guest prefer addresses that the host may not be able to reach.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/util.h"
#include "net/backends.h"
#include "vm/vm.h"

#define EVENTS_MAX 64
#define POLL_MAX 4096 /* sockets libslirp may have; it stays far below */

/* What epoll knows about a descriptor, by number. */
struct watch {
	uint32_t events;     /* 0: not in the epoll instance */
	uint32_t generation; /* of the last wish for it */
	uint32_t ready;      /* result of the last wait */
	uint32_t ready_generation;
};

struct user_net {
	struct net_backend net;
	struct vm *vm;
	Slirp *slirp;
	int epoll;
	struct event_source *source;
	uint32_t generation;
	struct watch watches[POLL_MAX]; /* by descriptor */
	int polled[POLL_MAX];           /* descriptors wished for in this round */
	unsigned polled_count;
	int watched[POLL_MAX]; /* descriptors in the epoll instance */
	unsigned watched_count;
	bool received; /* frames went to the guest since the last receive_done */
	bool loop_ready;
};

struct user_timer {
	struct vm_timer timer;
	SlirpTimerCb callback;
	void *opaque;
};

/* ---- sockets ---- */

static uint32_t to_epoll(int events)
{
	return (events & SLIRP_POLL_IN ? EPOLLIN : 0) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0) |
	       (events & SLIRP_POLL_PRI ? EPOLLPRI : 0);
}

static int from_epoll(uint32_t events)
{
	return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
	       (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
	       (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

static void watch_remove(struct user_net *self, int fd)
{
	if (fd < 0 || fd >= POLL_MAX || !self->watches[fd].events)
		return;
	epoll_ctl(self->epoll, EPOLL_CTL_DEL, fd, NULL);
	self->watches[fd].events = 0;
	for (unsigned i = 0; i < self->watched_count; i++) {
		if (self->watched[i] == fd) {
			self->watched[i] = self->watched[--self->watched_count];
			break;
		}
	}
}

static void watch_set(struct user_net *self, int fd, uint32_t events)
{
	struct watch *watch = &self->watches[fd];
	struct epoll_event event = { .events = events, .data.fd = fd };

	if (watch->events == events)
		return;
	/* A number may have been closed and used again behind our back: then epoll has forgotten
	 * it. */
	if (watch->events && epoll_ctl(self->epoll, EPOLL_CTL_MOD, fd, &event) == 0) {
		watch->events = events;
		return;
	}
	if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST) {
		trace(TRACE_NET, "user network: cannot watch socket %d: %s", fd, strerror(errno));
		return;
	}
	if (!watch->events)
		self->watched[self->watched_count++] = fd;
	watch->events = events;
}

static int add_poll(int fd, int events, void *opaque)
{
	struct user_net *self = opaque;

	if (fd < 0 || fd >= POLL_MAX || self->polled_count == POLL_MAX)
		return -1;
	self->watches[fd].generation = self->generation;
	watch_set(self, fd, to_epoll(events));
	self->polled[self->polled_count] = fd;
	return self->polled_count++;
}

static int get_revents(int index, void *opaque)
{
	struct user_net *self = opaque;
	struct watch *watch;

	if (index < 0 || (unsigned)index >= self->polled_count)
		return 0;
	watch = &self->watches[self->polled[index]];
	return watch->ready_generation == self->generation ? from_epoll(watch->ready) : 0;
}

/* ---- the loop ---- */

static void before_wait(void *opaque, int *timeout_ms)
{
	struct user_net *self = opaque;
	uint32_t timeout = *timeout_ms < 0 ? UINT32_MAX : (uint32_t)*timeout_ms;

	if (!self->loop_ready) {
		/* libslirp writes to sockets whose other end may be gone. */
		sigset_t pipe;

		sigemptyset(&pipe);
		sigaddset(&pipe, SIGPIPE);
		pthread_sigmask(SIG_BLOCK, &pipe, NULL);
		self->loop_ready = true;
	}
	self->generation++;
	self->polled_count = 0;
	slirp_pollfds_fill(self->slirp, &timeout, add_poll, self);
	for (unsigned i = self->watched_count; i-- > 0;)
		if (self->watches[self->watched[i]].generation != self->generation)
			watch_remove(self, self->watched[i]);
	*timeout_ms = timeout > INT32_MAX ? -1 : (int)timeout;
}

static void after_wait(void *opaque)
{
	struct user_net *self = opaque;
	struct epoll_event events[EVENTS_MAX];
	int count = self->watched_count ? epoll_wait(self->epoll, events, EVENTS_MAX, 0) : 0;

	for (int i = 0; i < count; i++) {
		struct watch *watch = &self->watches[events[i].data.fd];

		watch->ready = events[i].events;
		watch->ready_generation = self->generation;
	}
	slirp_pollfds_poll(self->slirp, count < 0, get_revents, self);
	if (self->received && self->net.frontend)
		self->net.frontend->receive_done(self->net.opaque);
	self->received = false;
}

/* The sockets are looked at in after_wait(); this only ends the wait. */
static void sockets_ready(void *opaque, uint32_t events)
{
	(void)opaque, (void)events;
}

/* ---- libslirp's callbacks ---- */

static ssize_t send_packet(const void *frame, size_t len, void *opaque)
{
	struct user_net *self = opaque;

	if (self->net.frontend && len <= NET_FRAME_MAX) {
		self->net.frontend->receive(self->net.opaque, frame, len);
		self->received = true;
	}
	return len;
}

static void guest_error(const char *text, void *opaque)
{
	(void)opaque;
	trace(TRACE_NET, "user network: %s", text);
}

static int64_t clock_get_ns(void *opaque)
{
	struct user_net *self = opaque;

	return vm_clock_ns(self->vm);
}

static void timer_fired(void *opaque)
{
	struct user_timer *timer = opaque;

	timer->callback(timer->opaque);
}

static void *timer_new(SlirpTimerCb callback, void *callback_opaque, void *opaque)
{
	struct user_net *self = opaque;
	struct user_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return NULL;
	timer->callback = callback;
	timer->opaque = callback_opaque;
	vm_timer_init(&timer->timer, self->vm, timer_fired, timer);
	return timer;
}

static void timer_free(void *timer, void *opaque)
{
	(void)opaque;
	if (!timer)
		return;
	vm_timer_cancel(&((struct user_timer *)timer)->timer);
	free(timer);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	(void)opaque;
	if (timer)
		vm_timer_arm(&((struct user_timer *)timer)->timer, MAX(expire_ms, 0) * 1000000ull);
}

static void register_poll_fd(int fd, void *opaque)
{
	/* A new descriptor: whatever we knew of its number is old. */
	watch_remove(opaque, fd);
}

static void unregister_poll_fd(int fd, void *opaque)
{
	watch_remove(opaque, fd);
}

/* libslirp can take more data: it only says so on the loop thread, which asks it again before
 * the next wait. */
static void notify(void *opaque)
{
	(void)opaque;
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_get_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = register_poll_fd,
	.unregister_poll_fd = unregister_poll_fd,
	.notify = notify,
};

/* ---- port forwarding ---- */

struct forward {
	bool udp;
	struct in_addr host_address, guest_address;
	int host_port, guest_port;
};

static bool parse_port(const char *text, int *port)
{
	char *end;
	unsigned long value;

	if (text[0] < '0' || text[0] > '9')
		return false;
	value = strtoul(text, &end, 10);
	if (*end || value < 1 || value > 65535)
		return false;
	*port = value;
	return true;
}

/* "[ADDR:]PORT" */
static bool parse_endpoint(char *text, struct in_addr *address, int *port)
{
	char *colon = strrchr(text, ':');

	if (!colon)
		return parse_port(text, port);
	*colon = '\0';
	return (!text[0] || inet_pton(AF_INET, text, address) == 1) && parse_port(colon + 1, port);
}

/* "tcp:HOSTPORT:GUESTPORT" or "tcp:[ADDR:]HOSTPORT-[GUESTADDR:]GUESTPORT"; also udp. */
static bool parse_forward(const char *spec, struct forward *forward)
{
	char text[128], *dash, *colon;

	if (strlen(spec) >= sizeof(text))
		return false;
	strcpy(text, spec);
	if (strncmp(text, "tcp:", 4) && strncmp(text, "udp:", 4))
		return false;
	forward->udp = text[0] == 'u';
	dash = strchr(text, '-');
	if (dash) {
		*dash = '\0';
		return parse_endpoint(text + 4, &forward->host_address, &forward->host_port) &&
		       parse_endpoint(dash + 1, &forward->guest_address, &forward->guest_port);
	}
	colon = strrchr(text + 4, ':');
	if (!colon)
		return false;
	*colon = '\0';
	return parse_endpoint(text + 4, &forward->host_address, &forward->host_port) &&
	       parse_port(colon + 1, &forward->guest_port);
}

static int add_forward(struct user_net *self, const char *spec, struct error *err)
{
	struct forward forward = { .guest_address.s_addr = htonl(0x0a00020f),
				   .host_address.s_addr = INADDR_ANY };

	if (!parse_forward(spec, &forward))
		return error_set(
			err, 0,
			"hostfwd '%s': expected tcp:HOSTPORT:GUESTPORT or udp:HOSTPORT:GUESTPORT",
			spec);
	errno = 0;
	if (slirp_add_hostfwd(self->slirp, forward.udp, forward.host_address, forward.host_port,
			      forward.guest_address, forward.guest_port) < 0)
		return error_set_errno(err, errno, "cannot forward %s port %d of the host",
				       forward.udp ? "UDP" : "TCP", forward.host_port);
	return 0;
}

static int apply_options(struct user_net *self, const char *options, struct error *err)
{
	char *copy = strdup(options), *rest = copy, *word;
	int result = copy ? 0 : error_set(err, 0, "cannot create the user network: out of memory");

	while (result == 0 && (word = strsep(&rest, ","))) {
		if (!word[0])
			continue;
		if (!strncmp(word, "hostfwd=", 8))
			result = add_forward(self, word + 8, err);
		else
			result = error_set(err, 0,
					   "network user: unknown option '%s' (known: hostfwd=...)",
					   word);
	}
	free(copy);
	return result;
}

/* ---- life ---- */

static void user_send(struct net_backend *net, const uint8_t *frame, size_t len)
{
	struct user_net *self = container_of(net, struct user_net, net);

	slirp_input(self->slirp, frame, len);
}

static void user_destroy(struct net_backend *net)
{
	struct user_net *self = container_of(net, struct user_net, net);

	self->net.frontend = NULL;
	if (self->source)
		vm_watch_remove(self->source);
	if (self->slirp)
		slirp_cleanup(self->slirp);
	if (self->epoll >= 0)
		close(self->epoll);
	free(self);
}

static const struct net_backend_ops user_ops = { .send = user_send, .destroy = user_destroy };

static struct net_backend *fail(struct user_net *self)
{
	user_destroy(&self->net);
	return NULL;
}

static struct net_backend *user_create(struct vm *vm, const char *options, struct error *err)
{
	struct user_net *self = calloc(1, sizeof(*self));
	SlirpConfig config = {
		.version = 1,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200),
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.vnameserver.s_addr = htonl(0x0a000203),
		.vhostname = "lodge",
	};

	if (!self) {
		error_set(err, 0, "cannot create the user network: out of memory");
		return NULL;
	}
	self->net.ops = &user_ops;
	self->net.large_frames = true; /* libslirp takes a TCP segment of any length */
	self->vm = vm;
	self->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (self->epoll < 0) {
		error_set_errno(err, errno, "cannot create the user network");
		return fail(self);
	}
	self->slirp = slirp_new(&config, &callbacks, self);
	if (!self->slirp) {
		error_set(err, 0, "cannot create the user network: libslirp refuses");
		return fail(self);
	}
	if (apply_options(self, options, err) < 0)
		return fail(self);
	self->source = vm_watch_fd(vm, self->epoll, EPOLLIN, sockets_ready, self);
	if (!self->source) {
		error_set(
			err, 0,
			"cannot create the user network: the event loop takes no more descriptors");
		return fail(self);
	}
	vm_add_loop_hook(vm, &(struct loop_hook){ before_wait, after_wait, self });
	return &self->net;
}

const struct net_kind net_kind_user = { "user", user_create };
