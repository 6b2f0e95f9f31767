/* SPDX-License-Identifier: MIT */
/* What the GDB stub's protocol is written in (hexadecimal text) and what it comes over (a socket). */
#ifndef LODGE_VM_GDB_WIRE_H
#define LODGE_VM_GDB_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The value of a hexadecimal digit, or -1. */
int gdb_hex_value(char c);
/* Read a hexadecimal number at *text and move past it; false if there is none. */
bool gdb_read_hex(const char **text, uint64_t *value);
/* Move past c at *text, if it is there. */
bool gdb_read_char(const char **text, char c);
/* Decode hex digits into at most size bytes; returns the bytes made. */
size_t gdb_decode_hex(const char *text, uint8_t *bytes, size_t size);

/* Listen at "[tcp:][HOST]:PORT" or "unix:PATH"; returns the socket, or -1. unix_path (size bytes) is set to the path to
 * be removed at the end, or to "". */
int gdb_listen(const char *address, char *unix_path, size_t size, struct error *err);

#endif
