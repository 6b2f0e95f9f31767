/* SPDX-License-Identifier: MIT */
/* isa-debug-exit: a write of V to its port ends the VM with exit status (V << 1) | 1. See debug_exit.c. */
#ifndef LODGE_DEVICE_DEBUG_EXIT_H
#define LODGE_DEVICE_DEBUG_EXIT_H

#include <stdint.h>

#include "vm/vm.h"

/* Defaults of QEMU's device: iobase 0x501, iosize 2; of lodge's option: iobase 0xf4, iosize 4. */
#define DEBUG_EXIT_DEFAULT_BASE 0xf4u
#define DEBUG_EXIT_DEFAULT_SIZE 4u

int debug_exit_create(struct vm *vm, uint16_t iobase, uint16_t iosize, struct error *err);

#endif
