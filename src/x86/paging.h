/* SPDX-License-Identifier: MIT */
/*
 * Page walks: linear to guest-physical addresses in every paging mode (SDM volume 3, chapter 4).
 * Freestanding; page-table memory is reached through the caller's functions.
 */
#ifndef LODGE_X86_PAGING_H
#define LODGE_X86_PAGING_H

#include "x86/cpu.h"

enum x86_access { X86_ACCESS_READ, X86_ACCESS_WRITE, X86_ACCESS_EXEC };

struct x86_walk_ops {
	/* Read a 4- or 8-byte page-table entry at gpa (naturally aligned). Outside RAM: all ones. */
	uint64_t (*read_entry)(void *ctx, uint64_t gpa, unsigned size);
	/* Atomically replace *old by new at gpa; false if it no longer held old (the walk then restarts). */
	bool (*cmpxchg_entry)(void *ctx, uint64_t gpa, unsigned size, uint64_t old,
			      uint64_t new_value);
};

struct x86_walk {
	uint64_t gpa;       /* of the byte asked for */
	uint64_t page_size; /* of the mapping: 4 KiB, 2 MiB, 4 MiB, 1 GiB (4 KiB when paging is off) */
	bool writable; /* by the access's privilege, given WP, *and* the dirty bit is set (so a write needs no walk) */
	bool user;          /* U/S set at every level */
	bool perm_writable; /* R/W set at every level */
	bool executable;    /* by the access's privilege: NX, SMEP, U/S */
	bool global;        /* G set in the leaf and CR4.PGE */
	uint32_t error;     /* page-fault error code when the walk fails */
};

/*
 * Translate linear for an access. Sets accessed (and dirty for writes) bits. user: the access is made with
 * user privilege (CPL 3, and not an implicit supervisor access). Supervisor accesses honour CR4.SMAP with
 * RFLAGS.AC as in *cpu (ac_override: treat AC as 0: implicit accesses) and CR4.SMEP for execution.
 * Reserved bits are checked against maxphyaddr (bits). Canonicality is the caller's business.
 * Returns true and fills *walk; on false walk->error is the page-fault error code.
 */
bool x86_walk_page(const struct x86_cpu_state *cpu, const struct x86_walk_ops *ops, void *ctx,
		   uint64_t linear, enum x86_access access, bool user, bool implicit,
		   unsigned maxphyaddr, struct x86_walk *walk);

#endif
