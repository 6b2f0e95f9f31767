/* SPDX-License-Identifier: MIT */
/* What profile.c (sampling) and profile_print.c (the report) share. */
#ifndef LODGE_ENGINE_BT_PROFILE_H
#define LODGE_ENGINE_BT_PROFILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/bt/runtime.h"

#define PROFILE_HZ 1000

enum profile_category {
	PROFILE_HOT,       /* translated code */
	PROFILE_COLD,      /* its cold part: slow copies of instructions, stubs */
	PROFILE_SWITCH,    /* entry.S */
	PROFILE_MEMORY,    /* TLB misses and accesses that cannot be inline */
	PROFILE_HELPER,    /* helpers, but for port I/O */
	PROFILE_DEVICE,    /* MMIO and port I/O */
	PROFILE_FIND,      /* looking for the translation to go to */
	PROFILE_TRANSLATE, /* translating */
	PROFILE_FAULT,     /* exceptions of the host's instructions */
	PROFILE_DISPATCH,  /* events, interrupts */
	PROFILE_LOOP,      /* the vCPU's thread outside the engine */
	PROFILE_IDLE,      /* halted */
	PROFILE_CATEGORIES
};

enum profile_mode { PROFILE_USER, PROFILE_KERNEL, PROFILE_REAL, PROFILE_MODES };

/* Where a guest's code was running. */
struct profile_place {
	uint64_t linear, gpa; /* of the block's first byte; gpa ~0: no block */
	uint8_t mode;         /* enum profile_mode */
	uint8_t code;         /* enum x86_mode_bits */
};

struct profile_sample {
	struct profile_place place;
	uint8_t category; /* enum profile_category */
	uint16_t op;      /* PROFILE_HELPER, PROFILE_DEVICE by a helper: enum x86_op; else 0xffff */
};

#define PROFILE_RING 4096u

/* Written by a vCPU's signal handler, read by the sampler. */
struct profile_ring {
	struct bt_vcpu *v;
	_Atomic int tid; /* 0: no thread yet */
	_Atomic uint32_t head, tail;
	_Atomic uint64_t lost;
	struct profile_sample samples[PROFILE_RING];
};

#define PROFILE_CODE_BYTES 15
struct profile_block {
	struct profile_place place;
	uint64_t count, slow; /* samples; of them, not in hot code */
	uint8_t code_size;
	uint8_t code[PROFILE_CODE_BYTES]; /* as it was when first sampled */
};

#define PROFILE_BLOCKS_BITS 18

struct bt_profile {
	struct bt_vm *bt;
	pthread_t thread;
	bool started;
	_Atomic bool stop;
	double seconds; /* sampled */
	struct profile_ring *rings[VM_VCPU_MAX];
	uint64_t count[PROFILE_CATEGORIES][PROFILE_MODES];
	uint64_t by_op[X86_OP_COUNT];
	uint64_t elsewhere; /* samples of blocks that found no room in blocks[] */
	struct profile_block *blocks; /* hash table, open addressing */
	unsigned block_count;
};

#endif
