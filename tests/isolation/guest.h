/* SPDX-License-Identifier: MIT */
/* A one-CPU virtual machine whose page tables a test edits at will, for isolation-test. */
#ifndef LODGE_TESTS_ISOLATION_GUEST_H
#define LODGE_TESTS_ISOLATION_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/bt/runtime.h"
#include "vm/vm.h"

#define PAGE 4096ull
#define GUEST_RAM (16ull << 20)
#define KERNEL 0xffffffff80000000ull /* linear address of guest-physical 0, for supervisors */
#define PHYS_CODE 0x100000ull        /* one page */
#define PHYS_STACK 0x110000ull       /* one page */
#define PHYS_DATA 0x120000ull        /* four pages, for tests */
#define USER_CODE 0x30000000ull
#define USER_STACK 0x30010000ull

enum privilege { USER64, KERNEL64, KERNEL64_SMAP, USER32, PRIVILEGES };
extern const char *const privilege_names[PRIVILEGES];

struct outcome {
	int vector; /* -1: did not end; -2: something else */
	uint64_t rip, rsp, cr2;
	uint32_t error;
	struct x86_cpu_state state; /* in the handler */
};

extern struct vm *guest_vm;
extern uint8_t *guest_ram;
/* Called after the state has been set and before the guest runs; for --sabotage. */
extern void (*guest_before_run)(struct bt_vcpu *v);

void guest_create(const char *bt_options);
void guest_destroy(void);
static inline struct bt_vcpu *guest_bt(void)
{
	return guest_vm->vcpus[0]->engine_data;
}

static inline bool is_user(enum privilege privilege)
{
	return privilege == USER64 || privilege == USER32;
}

/* Map one page of the guest; gpa ~0: unmap. */
void guest_map(uint64_t linear, uint64_t gpa, bool user);

/* Registers for a run. */
void guest_prepare(struct x86_cpu_state *state, enum privilege privilege);
/* Run code from the start of the code page until an exception. The state is guest_prepare()'s, changed at will. */
void guest_run(const struct x86_cpu_state *state, const uint8_t *code, unsigned size,
	       struct outcome *outcome);

#endif
