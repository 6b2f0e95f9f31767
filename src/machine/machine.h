/* SPDX-License-Identifier: MIT */
/*
 * What a machine is made of, as the person asked for it, and the boards that build it.
 *
 * cli/ (or a test) fills struct machine_config; machine_create() finds the board by name in the table
 * of boards and lets it build a struct vm with every device in place, ready for vm_start(). Strings
 * and arrays belong to the caller and must live until machine_create() returns.
 */
#ifndef LODGE_MACHINE_MACHINE_H
#define LODGE_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct vm;

#define MACHINE_DISK_MAX 16
#define MACHINE_NIC_MAX 8
#define MACHINE_HOSTFWD_MAX 16
#define MACHINE_DEVICE_MAX 16

struct machine_disk {
	const char *path;
	const char *format; /* "raw" (the default when NULL) */
	bool readonly;
	bool snapshot; /* writes go to a throw-away overlay */
};

struct machine_hostfwd {
	bool udp;
	uint16_t host_port, guest_port;
};

struct machine_nic {
	const char *kind; /* "user" */
	unsigned hostfwd_count;
	struct machine_hostfwd hostfwds[MACHINE_HOSTFWD_MAX];
};

/* An extra device: --device KIND[,PARAMS] */
struct machine_device {
	const char *kind;   /* "isa-debug-exit", "pc-testdev", "pci-testdev" */
	const char *params; /* what followed the first comma ("iobase=0xf4"), or NULL */
};

struct machine_config {
	const char *board;          /* NULL: "microvm" */
	const char *name;           /* NULL: the board generates one */
	const char *engine;         /* NULL: "auto" */
	const char *engine_options; /* the engine's own, or NULL; must live as long as the machine */
	bool profile, perf_map;     /* see vm_config */
	unsigned cpus;              /* 1 .. VM_VCPU_MAX */
	uint64_t memory;            /* bytes, a multiple of 4 KiB */
	const char *cpu; /* NULL: "host"; "x86-64-v3,+aes,-avx": checked by the board's CPU model */

	const char *kernel; /* path */
	const char *initrd; /* path or NULL */
	const char *append; /* command line or NULL */

	unsigned disk_count;
	struct machine_disk disks[MACHINE_DISK_MAX];
	unsigned nic_count; /* 0: no network */
	struct machine_nic nics[MACHINE_NIC_MAX];
	unsigned device_count;
	struct machine_device devices[MACHINE_DEVICE_MAX];

	const char *console; /* a char_create() spec; NULL: "stdio" */
	/* Passed to char_create(): Ctrl-A escapes of a stdio console. Called on the event-loop thread. */
	void (*console_escape)(void *opaque, int key);
	void *console_opaque;

	bool no_reboot;
};

struct machine_board {
	const char *name;
	int (*create)(struct vm **out, const struct machine_config *config, struct error *err);
	void (*destroy)(struct vm *vm); /* undo create: the board's devices, back ends, and the VM */
};

/* All boards, ends with .name = NULL. */
extern const struct machine_board machine_boards[];

/*
 * Build the machine: checks the configuration, creates the VM on the engine asked for, adds the
 * board's devices, loads the kernel, sets the boot state. Returns 0, or -1 with nothing left behind.
 */
int machine_create(struct vm **out, const struct machine_config *config, struct error *err);

/* Destroy a machine that has ended or was never started: its vCPUs, devices, back ends and memory. */
void machine_destroy(struct vm *vm);

#endif
