/* SPDX-License-Identifier: MIT */
/*
 * Page walks: Intel SDM volume 3, chapter 4.
 *
 * A walk reads the entries from the root down, ANDs together the bits that grant rights, ORs the
 * bits that take them away, and decides once at the end. Accessed and dirty bits are written only
 * after the access is known to be allowed, and only where they are clear, each with one compare and
 * swap; if an entry changed meanwhile the walk starts over, as the processor's does.
 *
 * The walk with 8-byte entries serves both 4-level and PAE paging; they differ in the root, in the
 * meaning of PDPTEs and in which high bits are reserved. 32-bit paging has a walk of its own.
 *
 * PAE's four PDPTEs are read from memory at each walk instead of being kept from the load of CR3
 * (AMD's nested paging does the same); a reserved bit in one is then a page fault.
 */
#include "x86/paging.h"

#define PTE_P 0x001ull
#define PTE_W 0x002ull
#define PTE_U 0x004ull
#define PTE_A 0x020ull
#define PTE_D 0x040ull
#define PTE_PS 0x080ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull
#define PDPTE_PAE_RESERVED 0x1e6ull

/* A walk is repeated when another CPU changed an entry under it; this often and never more. */
#define RESTART_MAX 10000

#define likely_(x) __builtin_expect(!!(x), 1)
#define unlikely_(x) __builtin_expect(!!(x), 0)

struct access {
	enum x86_access kind;
	bool user;
	bool implicit;
};

static uint64_t high_bits(unsigned maxphyaddr)
{
	return ~0ull << maxphyaddr;
}

/* The error code's bits that describe the access. */
static uint32_t access_error(const struct x86_cpu_state *cpu, struct access a)
{
	uint32_t error = a.user ? X86_PF_U : 0;

	if (a.kind == X86_ACCESS_WRITE)
		error |= X86_PF_W;
	if (a.kind == X86_ACCESS_EXEC &&
	    ((cpu->cr4 & X86_CR4_SMEP) || ((cpu->efer & X86_EFER_NXE) && (cpu->cr4 & X86_CR4_PAE))))
		error |= X86_PF_I;
	return error;
}

/*
 * Rights of a complete walk. all: AND of the entries (P, W, U); any: OR of them (NX, already 0 when
 * NX is not enabled). Fills the walk's permissions; false if the access is not allowed (SDM 4.6).
 */
static inline bool check_rights(const struct x86_cpu_state *cpu, struct access a, uint64_t all,
				uint64_t any, uint64_t leaf, struct x86_walk *walk)
{
	bool user_page = all & PTE_U, writable = all & PTE_W, executable = !(any & PTE_NX);
	bool dirty = leaf & PTE_D;

	walk->user = user_page;
	walk->perm_writable = writable;
	walk->global = (leaf & PTE_G) && (cpu->cr4 & X86_CR4_PGE);

	if (a.user) {
		if (!user_page)
			return false;
	} else {
		writable |= !(cpu->cr0 & X86_CR0_WP);
		if (user_page) {
			if (cpu->cr4 & X86_CR4_SMEP)
				executable = false;
			if ((cpu->cr4 & X86_CR4_SMAP) && a.kind != X86_ACCESS_EXEC &&
			    (a.implicit || !(cpu->rflags & X86_FLAG_AC)))
				return false;
		}
	}
	walk->executable = executable;
	if (a.kind == X86_ACCESS_WRITE) {
		if (!writable)
			return false;
		dirty = true; /* the caller sets it */
	} else if (a.kind == X86_ACCESS_EXEC && !executable) {
		return false;
	}
	walk->writable = writable && dirty;
	return true;
}

struct step {
	uint64_t gpa;   /* of the entry */
	uint64_t entry; /* as read */
};

/* Set A in all entries and D in the leaf of a write. False: an entry changed, walk again. */
static bool set_accessed(const struct x86_walk_ops *ops, void *ctx, const struct step *steps,
			 unsigned count, unsigned size, bool write)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t want = steps[i].entry | PTE_A;

		if (write && i == count - 1)
			want |= PTE_D;
		if (want != steps[i].entry &&
		    !ops->cmpxchg_entry(ctx, steps[i].gpa, size, steps[i].entry, want))
			return false;
	}
	return true;
}

enum outcome { WALK_OK, WALK_FAULT, WALK_AGAIN };

/* 4-level and PAE paging. */
static inline __attribute__((always_inline)) enum outcome
walk_wide(const struct x86_cpu_state *cpu, const struct x86_walk_ops *ops, void *ctx,
	  uint64_t linear, struct access a, unsigned maxphyaddr, struct x86_walk *walk)
{
	bool long_mode = cpu->efer & X86_EFER_LMA;
	bool nx = cpu->efer & X86_EFER_NXE;
	/* Physical-address bits beyond the CPU's; without NXE the top bit; in PAE mode bits 52-62 too. */
	uint64_t reserved = high_bits(maxphyaddr) & (long_mode ? PTE_ADDRESS : ~PTE_NX);
	uint64_t all = ~0ull, any = 0, entry, table;
	struct step steps[4];
	unsigned count = 0, shift;

	if (!nx)
		reserved |= PTE_NX;

	if (long_mode) {
		table = cpu->cr3 & PTE_ADDRESS;
		shift = 39;
	} else {
		linear = (uint32_t)linear;
		table = cpu->cr3 & 0xffffffe0u;
		entry = ops->read_entry(ctx, table + (linear >> 30) * 8, 8);
		if (!(entry & PTE_P)) {
			walk->error = access_error(cpu, a);
			return WALK_FAULT;
		}
		if (entry & (PDPTE_PAE_RESERVED | high_bits(maxphyaddr)))
			goto reserved_bit;
		table = entry & PTE_ADDRESS;
		shift = 21;
	}

	for (;;) {
		uint64_t gpa = table + ((linear >> shift) & 0x1ff) * 8;

		entry = ops->read_entry(ctx, gpa, 8);
		if (unlikely_(!(entry & PTE_P))) {
			walk->error = access_error(cpu, a);
			return WALK_FAULT;
		}
		if (unlikely_(entry & reserved))
			goto reserved_bit;
		steps[count++] = (struct step){ gpa, entry };
		all &= entry;
		any |= entry;
		if (shift == 12)
			break;
		if (entry & PTE_PS) {
			/* No page is this large (bit 7 of a PML4E), or the frame is not aligned (bit 12 is PAT). */
			if (unlikely_(shift == 39 || (entry & ((1ull << shift) - 1) & ~0x1fffull)))
				goto reserved_bit;
			break;
		}
		table = entry & PTE_ADDRESS;
		shift -= 9;
	}

	if (unlikely_(!check_rights(cpu, a, all, any, entry, walk))) {
		walk->error = access_error(cpu, a) | X86_PF_P;
		return WALK_FAULT;
	}
	if (unlikely_(!(all & PTE_A) || (a.kind == X86_ACCESS_WRITE && !(entry & PTE_D)))) {
		if (!set_accessed(ops, ctx, steps, count, 8, a.kind == X86_ACCESS_WRITE))
			return WALK_AGAIN;
	}
	walk->page_size = 1ull << shift;
	walk->gpa = (entry & PTE_ADDRESS & ~(walk->page_size - 1)) |
		    (linear & (walk->page_size - 1));
	return WALK_OK;

reserved_bit:
	walk->error = access_error(cpu, a) | X86_PF_P | X86_PF_RSVD;
	return WALK_FAULT;
}

/* 32-bit paging, with PSE-36. */
static enum outcome walk_32(const struct x86_cpu_state *cpu, const struct x86_walk_ops *ops,
			    void *ctx, uint32_t linear, struct access a, unsigned maxphyaddr,
			    struct x86_walk *walk)
{
	struct step steps[2];
	uint64_t gpa = (cpu->cr3 & 0xfffff000u) + (linear >> 22) * 4;
	uint64_t entry = ops->read_entry(ctx, gpa, 4), all = entry, frame, size;
	unsigned count = 1;

	if (!(entry & PTE_P)) {
		walk->error = access_error(cpu, a);
		return WALK_FAULT;
	}
	steps[0] = (struct step){ gpa, entry };
	if ((entry & PTE_PS) && (cpu->cr4 & X86_CR4_PSE)) {
		/* Bits 13-20 are address bits 32-39 as far as the CPU has them; the rest up to 21 is reserved. */
		unsigned extra = maxphyaddr <= 32 ? 0 : maxphyaddr >= 40 ? 8 : maxphyaddr - 32;
		uint64_t reserved = 0x3fe000ull & (~0ull << (13 + extra));

		if (entry & reserved) {
			walk->error = access_error(cpu, a) | X86_PF_P | X86_PF_RSVD;
			return WALK_FAULT;
		}
		size = 1ull << 22;
		frame = (entry & 0xffc00000u) | (entry & 0x1fe000u) << 19;
	} else {
		gpa = (entry & 0xfffff000u) + ((linear >> 12) & 0x3ff) * 4;
		entry = ops->read_entry(ctx, gpa, 4);
		if (!(entry & PTE_P)) {
			walk->error = access_error(cpu, a);
			return WALK_FAULT;
		}
		all &= entry;
		steps[count++] = (struct step){ gpa, entry };
		size = 1ull << 12;
		frame = entry & 0xfffff000u;
	}

	if (!check_rights(cpu, a, all, 0, entry, walk)) {
		walk->error = access_error(cpu, a) | X86_PF_P;
		return WALK_FAULT;
	}
	if (!set_accessed(ops, ctx, steps, count, 4, a.kind == X86_ACCESS_WRITE))
		return WALK_AGAIN;
	walk->page_size = size;
	walk->gpa = frame | (linear & (size - 1));
	return WALK_OK;
}

bool x86_walk_page(const struct x86_cpu_state *cpu, const struct x86_walk_ops *ops, void *ctx,
		   uint64_t linear, enum x86_access access, bool user, bool implicit,
		   unsigned maxphyaddr, struct x86_walk *walk)
{
	const struct access a = { .kind = access, .user = user, .implicit = implicit };

	if (unlikely_(!(cpu->cr0 & X86_CR0_PG))) {
		*walk = (struct x86_walk){
			.gpa = (uint32_t)linear,
			.page_size = 4096,
			.writable = true,
			.user = true,
			.perm_writable = true,
			.executable = true,
		};
		return true;
	}

	for (unsigned i = 0; i < RESTART_MAX; i++) {
		enum outcome outcome;

		walk->error = 0;
		if (likely_(cpu->cr4 & X86_CR4_PAE))
			outcome = walk_wide(cpu, ops, ctx, linear, a, maxphyaddr, walk);
		else
			outcome = walk_32(cpu, ops, ctx, (uint32_t)linear, a, maxphyaddr, walk);
		if (likely_(outcome != WALK_AGAIN))
			return outcome == WALK_OK;
	}
	/* Someone rewrites the entry faster than we can follow: a spurious fault, which software retries. */
	walk->error = access_error(cpu, a);
	return false;
}
