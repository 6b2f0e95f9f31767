/* SPDX-License-Identifier: MIT */
/* Hexadecimal text and listening sockets for the GDB stub. See gdb_wire.h. */
#include "vm/gdb_wire.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"

int gdb_hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool gdb_read_hex(const char **text, uint64_t *value)
{
	const char *start = *text;

	for (*value = 0; gdb_hex_value(**text) >= 0; (*text)++)
		*value = *value << 4 | (unsigned)gdb_hex_value(**text);
	return *text != start;
}

bool gdb_read_char(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}

size_t gdb_decode_hex(const char *text, uint8_t *bytes, size_t size)
{
	size_t n = 0;

	while (n < size && gdb_hex_value(text[0]) >= 0 && gdb_hex_value(text[1]) >= 0) {
		bytes[n++] = (uint8_t)(gdb_hex_value(text[0]) << 4 | gdb_hex_value(text[1]));
		text += 2;
	}
	return n;
}

static int listen_unix(const char *path, char *kept_path, size_t size, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;

	if (!*path || strlen(path) >= MIN(size, sizeof(address.sun_path)))
		return error_set(err, 0, "--gdb unix:%s: a socket's path has 1 to %zu characters",
				 path, MIN(size, sizeof(address.sun_path)) - 1);
	strcpy(address.sun_path, path);
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot create a socket for GDB");
	if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		return error_set_errno(err, errno, "cannot listen for GDB at '%s'", path);
	strcpy(kept_path, path);
	int result = fd;
	fd = -1;
	return result;
}

/* HOST:PORT, [HOST]:PORT or :PORT. */
static int listen_tcp(const char *address, struct error *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE };
	struct addrinfo *list;
	char host[256] = "127.0.0.1";
	const char *colon = strrchr(address, ':');
	int one = 1;

	/* getaddrinfo() takes any number, and what it does with one over 65535 nobody wants. */
	if (!colon || strlen(colon + 1) > 5 ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) < 1 ||
	    atoi(colon + 1) > 65535 || (size_t)(colon - address) >= sizeof(host))
		return error_set(err, 0, "--gdb '%s': give [tcp:][HOST]:PORT or unix:PATH",
				 address);
	if (colon > address) {
		bool bracketed = *address == '[' && colon[-1] == ']';

		snprintf(host, sizeof(host), "%.*s", (int)(colon - address) - 2 * bracketed,
			 address + bracketed);
	}
	int failure = getaddrinfo(host, colon + 1, &hints, &list);
	if (failure)
		return error_set(err, 0, "--gdb '%s': %s", address, gai_strerror(failure));
	int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, 1) < 0) {
		error_set_errno(err, errno, "cannot listen for GDB at '%s'", address);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	return fd;
}

int gdb_listen(const char *address, char *unix_path, size_t size, struct error *err)
{
	unix_path[0] = '\0';
	if (!strncmp(address, "unix:", 5))
		return listen_unix(address + 5, unix_path, size, err);
	return listen_tcp(strncmp(address, "tcp:", 4) ? address : address + 4, err);
}
