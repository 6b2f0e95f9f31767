/* SPDX-License-Identifier: MIT */
/*
 * The monitor: Ctrl-A c on a terminal opens it, and there a person looks at the machine and steers it.
 *
 * It has a thread of its own, because it waits for the person and for vCPUs to stop, which the event
 * loop may not.
 */
#ifndef LODGE_CLI_MONITOR_H
#define LODGE_CLI_MONITOR_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;

struct monitor {
	struct vm *vm; /* set once the machine exists */
	pthread_t thread;
	bool thread_started;
	int event_fd; /* tells the thread to open the monitor or to end: see monitor.c */
	unsigned cpu; /* the vCPU commands are about */
	uint64_t next_address;
	char line[256];
};

/* Start the thread. 0 or -1 (errno). */
int monitor_start(struct monitor *monitor, struct vm *vm);
/* End the thread; after vm_wait(). The event loop may still call monitor_escape(). */
void monitor_stop(struct monitor *monitor);
/* Release the rest; after machine_destroy(). */
void monitor_destroy(struct monitor *monitor);
/* A char_create() escape handler: 'x' ends the VM, 'c' opens the monitor. opaque: the monitor. */
void monitor_escape(void *opaque, int key);

#endif
