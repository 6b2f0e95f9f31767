/* SPDX-License-Identifier: MIT */
/* The CPU's registers as GDB sees them: numbering, values, and the XML that tells it. Used by gdbstub.c. */
#ifndef LODGE_VM_GDB_REGISTERS_H
#define LODGE_VM_GDB_REGISTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/cpu.h"

#define GDB_REGISTER_SIZE_MAX 16

/* Two register sets: 64-bit, and 32-bit for guests outside long mode. */
unsigned gdb_register_count(bool long_mode);
/* Bytes of register n (at most GDB_REGISTER_SIZE_MAX), or 0 if there is none. */
unsigned gdb_register_size(bool long_mode, unsigned n);
/* Copy register n to or from value, in the guest's (little-endian) byte order. n must exist. */
void gdb_register_read(bool long_mode, unsigned n, const struct x86_cpu_state *state, uint8_t *value);
void gdb_register_write(bool long_mode, unsigned n, struct x86_cpu_state *state, const uint8_t *value);
/* Write the target description into buf (size bytes); returns its length. */
size_t gdb_register_description(bool long_mode, char *buf, size_t size);

#endif
