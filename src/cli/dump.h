/* SPDX-License-Identifier: MIT */
/* Showing a stopped vCPU to a person: registers, memory, code. Only while the vCPU is not running. */
#ifndef LODGE_CLI_DUMP_H
#define LODGE_CLI_DUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "x86/cpu.h"

struct vcpu;

/* Copy guest memory at a linear (or, if physical, guest-physical) address; returns the bytes that could be read before
 * the first unmapped page. */
size_t dump_read(struct vcpu *vcpu, uint64_t address, bool physical, void *buf, size_t len);

/* General, segment, control and debug registers. */
void dump_registers(FILE *out, const struct x86_cpu_state *state);

/* count instructions from a linear or physical address, in the vCPU's current code size. Returns the address after them. */
uint64_t dump_code(FILE *out, struct vcpu *vcpu, const struct x86_cpu_state *state,
		   uint64_t address, bool physical, unsigned count);

/* count units of size 1, 2, 4 or 8 bytes in hexadecimal. Returns the address after them. */
uint64_t dump_memory(FILE *out, struct vcpu *vcpu, uint64_t address, bool physical, unsigned count,
		     unsigned size);

/* All there is to say about a vCPU that died: registers, bytes around RIP, the instructions there, the stack. */
void dump_vcpu(FILE *out, struct vcpu *vcpu);

#endif
