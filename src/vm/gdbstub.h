/* SPDX-License-Identifier: MIT */
/*
 * A stub for GDB's remote serial protocol: `target remote` debugs the guest, one thread per vCPU.
 * Sources: GDB manual, appendix E (Remote Protocol) and G (Target Descriptions).
 */
#ifndef LODGE_VM_GDBSTUB_H
#define LODGE_VM_GDBSTUB_H

#include <stdbool.h>

#include "base/error.h"

struct vm;
struct gdbstub;

/*
 * Listen for one debugger at a time at address: "tcp:HOST:PORT", "HOST:PORT", ":PORT" (the local host) or
 * "unix:PATH". Sets vm->debug_hook. After vm_start(); a machine that is paused stays so until a debugger comes and lets
 * it go on. NULL on failure.
 */
struct gdbstub *gdbstub_start(struct vm *vm, const char *address, struct error *err);
/* End the stub's thread, telling a connected debugger that the machine is gone. After vm_wait(). */
void gdbstub_stop(struct gdbstub *stub);

#endif
