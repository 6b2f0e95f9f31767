/* SPDX-License-Identifier: MIT */
/*
 * Kernel paths: what one system call, fault, switch or transfer costs, by the guest's own clock.
 * Linked statically.
 *
 *   paths [-t SECONDS] [-d DISK] [-n ADDRESS:PORT] [NAME...]
 *
 * Each figure repeats its operation for SECONDS (0.2) in five parts, and prints `PATH name value`:
 * of the five, the best mean cost of one operation in ns, or the best MB/s where the name says so
 * (see the table at the end). The best, because what disturbs (the host's other work) only ever
 * adds. The disk is only read. The network figures talk to `host serve` (host.c) at ADDRESS:PORT.
 * A figure that cannot be taken prints `PATH name -`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define BLOCK 65536u

static double duration = 0.2;
static const char *disk, *network, *self;
static char buffer[BLOCK] __attribute__((aligned(PAGE)));

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Repeats do_one in batches until the duration is over; ns for one. Negative: it failed. */
static double repeat(bool (*do_one)(void *), void *context, unsigned batch)
{
	uint64_t start = now_ns(), end, limit = start + (uint64_t)(duration * 1e9), count = 0;

	do {
		for (unsigned i = 0; i < batch; i++)
			if (!do_one(context))
				return -1;
		count += batch;
		end = now_ns();
	} while (end < limit);
	return (double)(end - start) / (double)count;
}

static double mb_per_second(double ns_per_block, size_t block)
{
	return ns_per_block < 0 ? -1 : (double)block * 1e3 / ns_per_block;
}

/* System calls */

static bool one_getppid(void *context)
{
	(void)context;
	return syscall(SYS_getppid) >= 0;
}

static double path_getppid(void)
{
	return repeat(one_getppid, NULL, 1000);
}

static bool one_clock(void *context)
{
	struct timespec t;

	(void)context;
	return clock_gettime(CLOCK_MONOTONIC, &t) == 0;
}

static double path_clock(void)
{
	return repeat(one_clock, NULL, 1000);
}

static bool one_stat(void *context)
{
	struct stat s;

	(void)context;
	return stat("/usr/bin/env", &s) == 0;
}

static double path_stat(void)
{
	return repeat(one_stat, NULL, 100);
}

static bool one_open(void *context)
{
	int fd = open("/usr/bin/env", O_RDONLY);

	(void)context;
	return fd >= 0 && close(fd) == 0;
}

static double path_open(void)
{
	return repeat(one_open, NULL, 100);
}

/* Memory: 256 pages mapped, touched and unmapped at a time; the cost of one page. */

enum { FAULT_PAGES = 256 };

static bool one_fault_run(void *context)
{
	int fd = *(int *)context;
	char *p = mmap(NULL, FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE,
		       fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return false;
	madvise(p, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < FAULT_PAGES; i++)
		*(volatile char *)(p + i * PAGE) = 1;
	return munmap(p, FAULT_PAGES * PAGE) == 0;
}

static double path_fault_anon(void)
{
	int fd = -1;

	return repeat(one_fault_run, &fd, 1) / FAULT_PAGES;
}

static double path_fault_file(void)
{
	char name[] = "/tmp/pathsXXXXXX";
	int fd = mkstemp(name);
	double result;

	if (fd < 0)
		return -1;
	unlink(name);
	for (unsigned i = 0; i < FAULT_PAGES; i++)
		if (write(fd, buffer, PAGE) != PAGE)
			return -1;
	result = repeat(one_fault_run, &fd, 1);
	close(fd);
	return result < 0 ? -1 : result / FAULT_PAGES;
}

static bool one_mmap(void *context)
{
	void *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)context;
	return p != MAP_FAILED && munmap(p, 16 * PAGE) == 0;
}

static double path_mmap(void)
{
	return repeat(one_mmap, NULL, 100);
}

static bool one_mprotect(void *context)
{
	return mprotect(context, PAGE, PROT_READ) == 0 &&
	       mprotect(context, PAGE, PROT_READ | PROT_WRITE) == 0;
}

static double path_mprotect(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -1;
	*(volatile char *)p = 1;
	return repeat(one_mprotect, p, 100);
}

/* Processes */

static bool one_fork(void *context)
{
	int status;
	pid_t child = fork();

	if (!child) {
		if (context)
			execl(self, self, "nothing", (char *)NULL);
		_exit(context ? 127 : 0);
	}
	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static double path_fork(void)
{
	return repeat(one_fork, NULL, 1);
}

static double path_exec(void)
{
	return repeat(one_fork, buffer, 1);
}

static void on_signal(int number)
{
	(void)number;
}

static bool one_signal(void *context)
{
	(void)context;
	return syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1) == 0;
}

static double path_signal(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &action, NULL);
	return repeat(one_signal, NULL, 100);
}

/* Switches: a round trip is two of them. */

static bool one_ping(void *context)
{
	int *ends = context;
	char byte = 0;

	return write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1;
}

static double path_switch_process(void)
{
	int there[2], back[2];
	double result;
	pid_t child;

	if (pipe(there) || pipe(back))
		return -1;
	child = fork();
	if (child < 0)
		return -1;
	if (!child) {
		int ends[2] = { there[0], back[1] };
		char byte;

		close(there[1]);
		while (read(ends[0], &byte, 1) == 1 && write(ends[1], &byte, 1) == 1)
			;
		_exit(0);
	}
	int ends[2] = { back[0], there[1] };

	result = repeat(one_ping, ends, 10);
	close(there[1]);
	waitpid(child, NULL, 0);
	close(there[0]), close(back[0]), close(back[1]);
	return result < 0 ? -1 : result / 2;
}

static _Atomic uint32_t turn; /* 0: the main thread's, 1: the other's, 2: the end */

static void futex_wait(uint32_t while_it_is)
{
	syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, while_it_is, NULL, NULL, 0);
}

static void futex_pass(uint32_t to)
{
	turn = to;
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *other_thread(void *context)
{
	(void)context;
	for (;;) {
		while (turn == 0)
			futex_wait(0);
		if (turn == 2)
			return NULL;
		futex_pass(0);
	}
}

static bool one_turn(void *context)
{
	(void)context;
	futex_pass(1);
	while (turn == 1)
		futex_wait(1);
	return true;
}

static double path_switch_thread(void)
{
	pthread_t thread;
	double result;

	turn = 0;
	if (pthread_create(&thread, NULL, other_thread, NULL))
		return -1;
	result = repeat(one_turn, NULL, 10);
	futex_pass(2);
	pthread_join(thread, NULL);
	return result / 2;
}

/* Throughput through pipes and sockets: a child reads what we write, 64 KiB at a time. */

static bool one_write(void *context)
{
	int fd = *(int *)context;
	size_t done = 0;

	while (done < BLOCK) {
		ssize_t n = write(fd, buffer + done, BLOCK - done);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

static double throughput(int write_end, int read_end)
{
	double result;
	pid_t child = fork();

	if (child < 0)
		return -1;
	if (!child) {
		close(write_end);
		while (read(read_end, buffer, BLOCK) > 0)
			;
		_exit(0);
	}
	close(read_end);
	result = repeat(one_write, &write_end, 4);
	close(write_end);
	waitpid(child, NULL, 0);
	return mb_per_second(result, BLOCK);
}

static double path_pipe(void)
{
	int ends[2];

	return pipe(ends) ? -1 : throughput(ends[1], ends[0]);
}

static double path_unix(void)
{
	int ends[2];

	return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ? -1 : throughput(ends[1], ends[0]);
}

/* The disk. The host has it in its page cache; O_DIRECT goes there each time, in order. */

struct area {
	int fd;
	uint64_t position, size;
	size_t block, step;
};

static bool one_read(void *context)
{
	struct area *a = context;

	if (pread(a->fd, buffer, a->block, (off_t)a->position) != (ssize_t)a->block)
		return false;
	a->position = (a->position + a->step) % a->size;
	return true;
}

static double disk_reads(size_t block, size_t step)
{
	struct area a = { .block = block, .step = step };
	double result;

	a.fd = disk ? open(disk, O_RDONLY | O_DIRECT) : -1;
	if (a.fd < 0 || ioctl(a.fd, BLKGETSIZE64, &a.size))
		return -1;
	if (a.size > 256u << 20)
		a.size = 256u << 20;
	result = repeat(one_read, &a, 4);
	close(a.fd);
	return result;
}

static double path_disk_direct(void)
{
	return mb_per_second(disk_reads(BLOCK, BLOCK), BLOCK);
}

/*
 * As dd does it: through the guest's page cache, which begins empty. 256 MiB at most, whatever the
 * duration: a second pass would read what that cache holds.
 */
static double path_disk_cached(void)
{
	struct area a = { .block = BLOCK, .step = BLOCK };
	uint64_t start, limit, done = 0;

	a.fd = disk ? open(disk, O_RDONLY) : -1;
	if (a.fd < 0 || ioctl(a.fd, BLKGETSIZE64, &a.size))
		return -1;
	ioctl(a.fd, BLKFLSBUF, 0);
	start = now_ns();
	limit = start + (uint64_t)(duration * 1e9);
	do {
		if (!one_read(&a))
			return -1;
		done += BLOCK;
	} while (done < (256u << 20) && done + BLOCK <= a.size && now_ns() < limit);
	limit = now_ns();
	close(a.fd);
	return mb_per_second((double)(limit - start) / (double)(done / BLOCK), BLOCK);
}

/* Steps of 17 pages, so that no read can be merged with the one before. */
static double path_disk_latency(void)
{
	return disk_reads(PAGE, 17 * PAGE);
}

/* The network: TCP to the host. The first byte says what is wanted. */

static int connect_host(char what)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char text[64];
	char *colon;
	int fd, one = 1;

	if (!network)
		return -1;
	snprintf(text, sizeof(text), "%s", network);
	colon = strchr(text, ':');
	if (!colon)
		return -1;
	*colon = 0;
	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		return -1;
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) || write(fd, &what, 1) != 1) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Until the host has all of it: it answers with one byte when we have shut down our side. */
static double path_tcp_send(void)
{
	int fd = connect_host('s');
	uint64_t start = now_ns(), limit = start + (uint64_t)(duration * 2e9), count = 0;
	char byte;

	if (fd < 0)
		return -1;
	do {
		if (!one_write(&fd))
			return -1;
		count++;
	} while (now_ns() < limit);
	shutdown(fd, SHUT_WR);
	if (read(fd, &byte, 1) != 1)
		return -1;
	limit = now_ns();
	close(fd);
	return mb_per_second((double)(limit - start) / (double)count, BLOCK);
}

static double path_tcp_receive(void)
{
	int fd = connect_host('f');
	uint64_t start = now_ns(), end, limit = start + (uint64_t)(duration * 2e9), count = 0;

	if (fd < 0)
		return -1;
	do {
		ssize_t n = read(fd, buffer, BLOCK);

		if (n <= 0)
			return -1;
		count += (uint64_t)n;
		end = now_ns();
	} while (end < limit);
	close(fd);
	return (double)count * 1e3 / (double)(end - start);
}

static double path_tcp_round_trip(void)
{
	int ends[2];
	double result;

	ends[0] = ends[1] = connect_host('e');
	if (ends[0] < 0)
		return -1;
	result = repeat(one_ping, ends, 1);
	close(ends[0]);
	return result;
}

static bool one_connect(void *context)
{
	int fd = connect_host('c');
	char byte;
	bool good;

	(void)context;
	good = fd >= 0 && read(fd, &byte, 1) == 1;
	if (fd >= 0)
		close(fd);
	return good;
}

static double path_tcp_connect(void)
{
	return repeat(one_connect, NULL, 1);
}

/* How late a sleeper wakes: absolute sleeps of 1 ms; the mean lateness. */
static double path_timer(void)
{
	struct timespec t;
	double late = 0;
	unsigned count = 0;
	uint64_t next = now_ns(), limit = next + (uint64_t)(duration * 1e9);

	while (next < limit) {
		uint64_t now;

		next = now_ns() + 1000000;
		t.tv_sec = (time_t)(next / 1000000000u);
		t.tv_nsec = (long)(next % 1000000000u);
		if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
			return -1;
		now = now_ns();
		late += (double)(now - next);
		count++;
	}
	return late / count;
}

static const struct path {
	const char *name;
	double (*measure)(void);
} paths[] = {
	{ "getppid", path_getppid },
	{ "clock_gettime", path_clock },
	{ "stat", path_stat },
	{ "open+close", path_open },
	{ "fault-anon", path_fault_anon },
	{ "fault-file", path_fault_file },
	{ "mmap+munmap", path_mmap },
	{ "mprotect-pair", path_mprotect },
	{ "fork+wait", path_fork },
	{ "fork+exec+wait", path_exec },
	{ "signal", path_signal },
	{ "switch-process", path_switch_process },
	{ "switch-thread", path_switch_thread },
	{ "timer-lateness", path_timer },
	{ "pipe-MB/s", path_pipe },
	{ "unix-socket-MB/s", path_unix },
	{ "disk-64k-MB/s", path_disk_cached },
	{ "disk-64k-direct-MB/s", path_disk_direct },
	{ "disk-4k", path_disk_latency },
	{ "tcp-to-host-MB/s", path_tcp_send },
	{ "tcp-from-host-MB/s", path_tcp_receive },
	{ "tcp-round-trip", path_tcp_round_trip },
	{ "tcp-connect", path_tcp_connect },
};

static bool wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strcmp(name, *names))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	int option;

	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	while ((option = getopt(argc, argv, "t:d:n:")) != -1) {
		switch (option) {
		case 't':
			duration = atof(optarg);
			break;
		case 'd':
			disk = *optarg ? optarg : NULL;
			break;
		case 'n':
			network = *optarg ? optarg : NULL;
			break;
		default:
			return 2;
		}
	}
	self = argv[0];
	duration /= 5;
	signal(SIGPIPE, SIG_IGN);
	memset(buffer, 'x', sizeof(buffer));
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		if (!wanted(paths[i].name, argv + optind))
			continue;
		bool more_is_better = strstr(paths[i].name, "MB/s");
		double value = -1;

		for (unsigned n = 0; n < 5; n++) {
			double again = paths[i].measure();

			if (again >= 0 && (value < 0 || (again > value) == more_is_better))
				value = again;
		}
		if (value < 0)
			printf("PATH %s -\n", paths[i].name);
		else
			printf("PATH %s %.1f\n", paths[i].name, value);
		fflush(stdout);
	}
	return 0;
}
