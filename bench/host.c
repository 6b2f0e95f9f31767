/* SPDX-License-Identifier: MIT */
/*
 * The host's side of the benchmark's network figures.
 *
 *   host serve                    listens on a free port of 127.0.0.1, prints it, serves paths.c
 *                                 until killed
 *   host load PORT PATH COUNT N   N keep-alive connections to 127.0.0.1:PORT, COUNT HTTP requests
 *                                 in all; prints the seconds they took. Each connection is made,
 *                                 and has had its first answer, before that: user networks listen
 *                                 with a backlog of 1, and a dropped SYN costs a second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 262144u

static int one = 1;

/* The first byte says what the guest wants: s sends to us, f a flood, e an echo, c one byte. */
static void *serve_connection(void *context)
{
	int fd = (int)(intptr_t)context;
	char *buffer = calloc(1, BLOCK);
	char what;
	ssize_t n;

	if (buffer && read(fd, &what, 1) == 1) {
		switch (what) {
		case 's':
			while (read(fd, buffer, BLOCK) > 0)
				;
			n = write(fd, "", 1);
			break;
		case 'f':
			while (write(fd, buffer, BLOCK) > 0)
				;
			break;
		case 'e':
			while ((n = read(fd, buffer, 4096)) > 0 &&
			       write(fd, buffer, (size_t)n) == n)
				;
			break;
		case 'c':
			n = write(fd, "", 1);
			(void)n;
			break;
		}
	}
	free(buffer);
	close(fd);
	return NULL;
}

static int serve(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pthread_attr_t detached;

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 64) ||
	    getsockname(fd, (struct sockaddr *)&address, &size))
		return 1;
	printf("%u\n", (unsigned)ntohs(address.sin_port));
	fflush(stdout);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	for (;;) {
		pthread_t thread;
		int client = accept(fd, NULL, NULL);

		if (client < 0)
			continue;
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (pthread_create(&thread, &detached, serve_connection, (void *)(intptr_t)client))
			close(client);
	}
}

struct connection {
	char head[4096];
	size_t have;      /* bytes of the head */
	size_t body_left; /* once the head is complete */
	bool in_body;
};

static int connect_to(uint16_t port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				       .sin_port = htons(port) };
	struct timeval patience = { .tv_sec = 30 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -1 : fd;
}

/* Takes what came; 1: the response is complete, 0: more is to come, -1: not what we asked for. */
static int take(struct connection *c, int fd)
{
	static char sink[65536];
	ssize_t n;
	char *end, *length;
	size_t head, body;

	if (c->in_body) {
		n = read(fd, sink, c->body_left < sizeof(sink) ? c->body_left : sizeof(sink));
		if (n <= 0)
			return -1;
		c->body_left -= (size_t)n;
		return c->body_left == 0;
	}
	n = read(fd, c->head + c->have, sizeof(c->head) - 1 - c->have);
	if (n <= 0)
		return -1;
	c->have += (size_t)n;
	c->head[c->have] = 0;
	end = strstr(c->head, "\r\n\r\n");
	if (!end)
		return c->have == sizeof(c->head) - 1 ? -1 : 0;
	length = strcasestr(c->head, "\r\nContent-Length:");
	if (strncmp(c->head, "HTTP/1.1 200", 12) || !length || length > end)
		return -1;
	head = (size_t)(end + 4 - c->head);
	body = strtoul(length + 17, NULL, 10);
	if (c->have - head > body)
		return -1;
	c->body_left = body - (c->have - head);
	c->in_body = true;
	return c->body_left == 0;
}

static int load(uint16_t port, const char *path, long count, unsigned connections)
{
	struct pollfd *fds = calloc(connections, sizeof(*fds));
	struct connection *all = calloc(connections, sizeof(*all));
	long sent = 0, answered = 0;
	struct timespec start, end;
	char request[512];
	size_t size;

	if (!fds || !all)
		return 1;
	size = (size_t)snprintf(request, sizeof(request),
				"GET %s HTTP/1.1\r\nHost: guest\r\nConnection: keep-alive\r\n\r\n",
				path);
	for (unsigned i = 0; i < connections; i++) {
		int state = 0;

		fds[i].fd = connect_to(port);
		fds[i].events = POLLIN;
		if (fds[i].fd < 0 || write(fds[i].fd, request, size) != (ssize_t)size)
			state = -1;
		while (!state)
			state = take(&all[i], fds[i].fd);
		if (state < 0) {
			fprintf(stderr, "host load: connection %u: %s\n", i, strerror(errno));
			return 1;
		}
		memset(&all[i], 0, sizeof(all[i]));
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned i = 0; i < connections && sent < count; i++, sent++)
		if (write(fds[i].fd, request, size) != (ssize_t)size)
			return 1;
	while (answered < count) {
		if (poll(fds, connections, 30000) <= 0) {
			fprintf(stderr, "host load: no answer for 30 s after %ld\n", answered);
			return 1;
		}
		for (unsigned i = 0; i < connections; i++) {
			int state;

			if (!fds[i].revents)
				continue;
			state = take(&all[i], fds[i].fd);
			if (state < 0) {
				fprintf(stderr, "host load: bad answer after %ld\n", answered);
				return 1;
			}
			if (!state)
				continue;
			answered++;
			memset(&all[i], 0, sizeof(all[i]));
			if (sent < count) {
				if (write(fds[i].fd, request, size) != (ssize_t)size)
					return 1;
				sent++;
			}
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n",
	       (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc == 6 && !strcmp(argv[1], "load"))
		return load((uint16_t)atoi(argv[2]), argv[3], atol(argv[4]),
			    (unsigned)atoi(argv[5]));
	fputs("usage: host serve | host load PORT PATH COUNT CONNECTIONS\n", stderr);
	return 2;
}
