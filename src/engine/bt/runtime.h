/* SPDX-License-Identifier: MIT */
/*
 * The runtime's private structures: what translated code never sees. bt.h is the contract with the
 * translator; this header is shared by the files of the runtime only.
 *
 * Threads. A vCPU is in one of three places, and two words say which:
 *   running = 1  executing translated code (set and cleared by entry.S)
 *   in_run = 1   inside bt_enter(): translated code, or a C part that may return into it
 *   neither      in the dispatcher's waiting states, or outside vcpu_run()
 * Whoever must be sure that no vCPU is between a TLB check and the access it guards waits for
 * `running` to be 0 (bt_stop_running); whoever throws code away waits for `in_run` to be 0.
 */
#ifndef LODGE_ENGINE_BT_RUNTIME_H
#define LODGE_ENGINE_BT_RUNTIME_H

#include "engine/bt/bt.h"
#include "engine/bt/stats.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAGE_MASK 0xfffull
#define PAGE_OF(x) ((x) & ~0xfffull)
#define BT_TAG_EMPTY 1ull
#define BT_JUMP_EMPTY (~0ull)

/* ---- a lock that the fast files may take: no libc, no vector registers (see lock.c part of run.c) ---- */
struct bt_lock {
	_Atomic uint32_t state; /* 0 free, 1 held, 2 held and waited for */
};
void bt_lock(struct bt_lock *lock);
void bt_unlock(struct bt_lock *lock);
void bt_futex_wait(_Atomic uint32_t *word, uint32_t value);
void bt_futex_wake(_Atomic uint32_t *word);
void bt_membarrier(void);
void bt_yield(void);
/* Make the pages of a mapping (page aligned) ahead of their use, where the host can. */
void bt_populate(void *address, uint64_t size, bool write);
static inline void bt_pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}
static inline void bt_fence(void)
{
	__asm__ volatile("lock orl $0, -8(%%rsp)" ::: "memory", "cc");
}

/* Copies without libc (no vector registers). */
static inline void bt_copy(void *dst, const void *src, uint64_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n)::"memory");
}
static inline void bt_fill(void *dst, uint8_t value, uint64_t n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(value) : "memory");
}
static inline void bt_fill64(void *dst, uint64_t value, uint64_t n)
{
	__asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(value) : "memory");
}

static inline bool bt_canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

/* ---- guest pages ---- */

struct bt_cross { /* a block whose one instruction ends on this page */
	struct bt_block *block;
	struct bt_cross *next;
};

/* What the cache knows of a guest page that holds (or held) code. */
struct bt_page {
	_Atomic uint64_t granules; /* 64-byte pieces covered by live blocks */
	struct bt_block *blocks;   /* live */
	struct bt_block *dead;     /* invalidated; their entries are pointed at their successors */
	struct bt_cross *cross;
	uint32_t dead_count, invalidations;
};

/* Who holds write tags of a page: 0 nobody ever since it was last code; else the linear page | vCPU index + 1; or
 * BT_WRITERS_MANY. */
#define BT_WRITERS_MANY (~0ull)

struct bt_slot { /* beside each memory_slot */
	struct bt_page *pages;
	_Atomic uint64_t *writers;
};

#define BT_HASH_BITS 17
#ifndef BT_CACHE_SIZE /* smaller in tests of the full flush */
#define BT_CACHE_SIZE (256u << 20)
#endif
#define BT_BLOCKS_MAX (2u << 20)
#define BT_CROSS_MAX (256u << 10)
#define BT_FAULTS_MAX (8u << 20)

struct bt_breakpoint {
	uint64_t linear;
};
#define BT_BREAKPOINT_MAX 64

/* ---- the VM ---- */
struct bt_vm {
	struct vm *vm;
	struct bt_options options; /* constant */
	struct bt_slot slots[MEMORY_SLOT_MAX];

	struct bt_lock lock; /* cache, blocks, pages: everything below */
	struct bt_cache cache;
	struct bt_block *_Atomic *hash;
	struct bt_block *blocks; /* slab */
	uint32_t block_count;
	struct bt_cross *crosses;
	uint32_t cross_count;
	_Atomic uint64_t translating[2]; /* gpas of the pages being translated, ~0: none */

	struct bt_lock flush_lock;
	_Atomic uint32_t flush_pending; /* futex: vCPUs may not enter translated code */
	struct bt_lock exclusive_lock;
	struct bt_lock clock_lock;
	uint64_t clock_tsc, clock_ns; /* see bt_clock_pair(); 0: not taken yet */

	int jump_template_fd;
	uint8_t *unmapped_page; /* 0xff...: what is fetched where there is no memory */

	/* gdb's breakpoints; change only while stopped */
	struct bt_breakpoint breakpoints[BT_BREAKPOINT_MAX];
	unsigned breakpoint_count;

	struct bt_vm_stats stats;
	struct bt_perf_map *perf_map; /* --perf-map: perf_map.c; else NULL */
	struct bt_profile *profile;   /* --profile: profile.c; else NULL */
};

/* ---- TLB ---- */
#define BT_JOURNAL 2048

/* Bookkeeping beside one struct bt_tables, so that flushing costs what was filled. */
struct bt_table {
	struct bt_tables *t;
	uint32_t count;              /* journal entries; > BT_JOURNAL: overflowed */
	uint32_t jump_count;
	uint64_t touched[2];         /* tag pages (512 entries each) that may hold entries */
	uint64_t jump_touched[4];    /* jump pages (256 entries each) */
	uint32_t jump_mode;          /* mode whose blocks the jump table leads to */
	uint32_t jump_limit;         /* CS limit and base they were checked against (modes without BT_MODE_FLAT_CS) */
	uint64_t jump_base;
	bool initialised;
	bool global;                 /* may hold global entries */
	bool large_1g;               /* may hold parts of pages larger than 4 MiB */
	uint64_t large[16];          /* hashed set of 2 MiB regions that may hold parts of large pages */
	uint64_t jump_pages[64];     /* hashed set of code pages in the jump table */
	uint16_t journal[BT_JOURNAL];
	uint16_t jump_journal[BT_JOURNAL];
};

struct bt_alias {
	uint64_t gs_base;
	uint64_t used;  /* when last switched to */
	int32_t pcid;   /* -1: free */
	struct bt_table table[BT_CLASS_COUNT]; /* K's is not used */
};

/* Translations for instruction fetch. */
#define BT_FETCH_ENTRIES 512u
struct bt_fetch {
	uint64_t linear;     /* page | user, ~0: empty */
	uint64_t generation;
	uint64_t gpa;        /* of the page */
	const uint8_t *host; /* of the page; NULL: no memory there */
	int32_t alias;       /* -1: any (global) */
	bool global;
};

/* A translated data page. */
struct bt_ref {
	uint64_t gpa;              /* of the byte asked for */
	uint8_t *host;             /* of that byte; NULL: no memory there */
	struct memory_slot *slot;  /* NULL if not memory */
	bool readonly;
	bool code;                 /* PAGE_FLAG_CODE: writes must be reported */
};

enum bt_commit_kind {
	BT_COMMIT_NONE,
	BT_COMMIT_CODE,   /* RAM was written in place; pages hold code */
	BT_COMMIT_BOUNCE, /* copy the bounce buffer out */
	BT_COMMIT_MASKED, /* copy the bytes of commit_mask out */
};

/* ---- the vCPU ---- */
struct bt_vcpu {
	struct bt_cpu *cpu; /* first members: entry.S (offsets.h) */
	_Atomic uint32_t running;
	_Atomic uint32_t hold; /* futex: != 0: may not return into translated code */
	uint64_t r10, r11;     /* what trampolines load on the way back */
	uint8_t fpu_saved;     /* the guest's vector state is in state.xsave */
	uint8_t activity;      /* ACTIVITY_*: offsets.h */
	uint8_t pad[6];
	uint64_t xsave_mask;

	struct bt_vm *bt;
	struct vcpu *vcpu;
	struct vm *vm;
	_Atomic uint32_t in_run;
	bool multi; /* more than one vCPU: memory order matters */
	bool exclusive; /* this vCPU holds the others (locked access in pieces) */

	uint32_t mode;         /* of the block last entered */
	bool one;              /* running a BT_MODE_ONE block */
	bool watch_step;       /* the next instruction hits a data breakpoint or writes code: run it alone */
	bool watch_active;     /* DR7 has data breakpoints enabled */
	bool step;             /* the debugger's single-step */
	bool step_done;
	bool user_seen;
	bool code_hit;         /* a write of this instruction invalidated blocks */
	uint64_t db_pending;   /* DR6 bits of data breakpoints hit */
	uint64_t breakpoint_skip; /* linear address at which gdb's breakpoint is ignored once; ~0: none */

	bool need_flush;          /* the cache is full */
	bool exit_requested;
	enum vcpu_exit exit;

	struct x86_system system;
	struct x86_fault host_fault; /* signals.c: for bt_part_fault */
	unsigned host_fault_offset;

	/* memory access under way (memory_slow.c) */
	enum bt_commit_kind commit;
	uint64_t commit_linear;
	uint64_t commit_mask; /* BT_COMMIT_MASKED: bytes to write */
	struct bt_ref commit_ref[2];
	unsigned commit_size, commit_first; /* bytes in all, and on the first page */
	uint8_t bounce[192] __attribute__((aligned(64)));
	uint8_t fpu_buffer[X86_XSAVE_MAX] __attribute__((aligned(64))); /* helper_fpu.c */
	uint8_t fpu_scratch[X86_XSAVE_MAX] __attribute__((aligned(64)));

	/* address spaces */
	struct bt_table *tables[BT_CLASS_COUNT]; /* of the current alias */
	struct bt_table table_k;
	struct bt_alias alias[BT_ALIAS_COUNT];
	unsigned current;
	uint64_t clock;
	uint64_t control_tlb; /* paging controls the tables were filled under */
	/* entries of table_k that are not global: they go when the address space changes */
	uint32_t local_count, local_jump_count;
	uint16_t local[BT_JOURNAL], local_jump[BT_JOURNAL];
	uint64_t fetch_generation;
	bool fetch_1g;            /* some may be parts of pages larger than 4 MiB */
	uint64_t fetch_large[16]; /* as bt_table.large */
	struct bt_fetch fetch[BT_FETCH_ENTRIES];

	/* what this vCPU's thread is doing, for the profiler's signal */
	_Atomic bool translating, in_device, in_engine;
	const struct bt_call *helper_call; /* of the last helper */

	uint32_t pauses;
	uint8_t *area; /* the aliases */
	uint64_t area_size;
	void *signal_stack;
	bool thread_ready;
	int memfd;

	struct bt_pv *pv;
	_Atomic bool pv_kicked; /* KVM_HC_KICK_CPU: leave HLT */
	struct bt_vcpu_stats stats;
};

static inline struct bt_vcpu *bt_vcpu_of(struct bt_cpu *cpu)
{
	return cpu->vcpu;
}

/* ---- entry.S ---- */
void bt_enter(struct bt_vcpu *v, uint64_t target);
extern const char bt_tramp_memory[], bt_tramp_commit[], bt_tramp_helper[], bt_tramp_chain[], bt_tramp_jump[],
	bt_tramp_jump_miss[], bt_tramp_poll[], bt_tramp_dispatch[], bt_tramp_fault[];
extern const char bt_entry_start[], bt_entry_end[];
void bt_set_gs(uint64_t base);

/* The C parts of the trampolines. Each returns the host address to go on at, or 0: leave bt_enter(). */
uint64_t bt_part_memory(struct bt_cpu *cpu, const struct bt_site *site, uint64_t linear);
uint64_t bt_part_commit(struct bt_cpu *cpu, const struct bt_site *site);
uint64_t bt_part_helper(struct bt_cpu *cpu, const struct bt_call *call);
uint64_t bt_part_chain(struct bt_cpu *cpu, const struct bt_exit *exit);
uint64_t bt_part_jump(struct bt_cpu *cpu, uint64_t unused, uint64_t linear);
uint64_t bt_part_poll(struct bt_cpu *cpu, uint64_t unused, uint64_t offset);
uint64_t bt_part_dispatch(struct bt_cpu *cpu, uint64_t unused, uint64_t offset);
uint64_t bt_part_fault(struct bt_cpu *cpu);
void bt_part_hold(struct bt_vcpu *v);

/* ---- run.c ---- */
enum vcpu_exit bt_vcpu_run(struct vcpu *vcpu);
/* Compute the mode of the state. */
uint32_t bt_mode(struct bt_vcpu *v);
/* Deliver a fault for the instruction at state.rip (also one of instruction fetch). */
void bt_raise_here(struct bt_vcpu *v, const struct x86_fault *fault);
/* Continue at the complete state (RIP): address to jump to, or 0 to leave to the dispatcher. */
uint64_t bt_continue(struct bt_cpu *cpu);
/* What a C part returns for a helper's result. */
uint64_t bt_finish(struct bt_cpu *cpu, enum bt_result result);
static inline enum bt_class bt_class_of(const struct x86_cpu_state *s)
{
	if (x86_cpl(s) == 3)
		return BT_CLASS_U;
	return (s->cr4 & X86_CR4_SMAP) && !(s->rflags & X86_FLAG_AC) ? BT_CLASS_K : BT_CLASS_KU;
}

/* ---- tlb.c ---- */
void bt_tlb_init(struct bt_vcpu *v);
/* Translate the page of linear for an access, filling the TLB where a fast access is allowed. 0, or -1 with *fault. */
int bt_translate_data(struct bt_vcpu *v, uint64_t linear, bool write, enum bt_class cls, bool implicit,
		      struct bt_ref *ref, struct x86_fault *fault);
/* For instruction fetch, with the current privilege. NULL with *fault. */
const struct bt_fetch *bt_translate_fetch(struct bt_vcpu *v, uint64_t linear, struct x86_fault *fault);
void bt_tlb_flush_everything(struct bt_vcpu *v);
void bt_tlb_load_cr3(struct bt_vcpu *v, bool flush);
void bt_jump_flush(struct bt_vcpu *v, struct bt_table *table);
void bt_jump_fill(struct bt_vcpu *v, uint64_t linear, const struct bt_block *block, bool global);
void bt_jump_flush_all(struct bt_vcpu *v);
/* Take away write tags of the page at host from all vCPUs. Cache lock held. */
void bt_tlb_protect_page(struct bt_vcpu *self, struct bt_vm *bt, struct memory_slot *slot, uint64_t gpa);
extern const struct x86_walk_ops bt_walk_ops;
void bt_watch_update(struct bt_vcpu *v);

static inline struct memory_slot *bt_find_slot(struct vm *vm, uint64_t gpa)
{
	struct guest_memory *mem = &vm->memory;

	for (unsigned i = 0; i < mem->slot_count; i++)
		if (gpa - mem->slots[i].gpa < mem->slots[i].size)
			return &mem->slots[i];
	return NULL;
}

static inline uint8_t *bt_tlb_lookup(const struct bt_table *table, uint64_t linear, bool write)
{
	unsigned i = (linear >> 12) & (BT_TLB_ENTRIES - 1);
	const uint64_t *tags = write ? table->t->tag_write : table->t->tag_read;

	return tags[i] == PAGE_OF(linear) ? (uint8_t *)(table->t->addend[i] + linear) : NULL;
}

/* ---- memory_slow.c ---- */
/* Access with an explicit class; see bt_read. */
int bt_access_read(struct bt_vcpu *v, uint64_t linear, void *buf, unsigned size, enum bt_class cls, bool implicit,
		   bool write_intent, struct x86_fault *fault);
int bt_access_write(struct bt_vcpu *v, uint64_t linear, const void *buf, unsigned size, enum bt_class cls,
		    bool implicit, struct x86_fault *fault);
int bt_system_read(struct x86_system *s, uint64_t linear, void *buf, unsigned size, unsigned flags, struct x86_fault *fault);
int bt_system_write(struct x86_system *s, uint64_t linear, const void *buf, unsigned size, unsigned flags,
		    struct x86_fault *fault);
/* Access a translated piece of one page: RAM, ROM or devices. */
void bt_ref_read(struct bt_vcpu *v, const struct bt_ref *ref, void *buf, unsigned size);
void bt_ref_write(struct bt_vcpu *v, const struct bt_ref *ref, const void *buf, unsigned size);
/* RAM at host (one page) was written through a host address: with other vCPUs, look whether it became code. */
void bt_host_written(struct bt_vcpu *v, const uint8_t *host, uint64_t size);
bool bt_watch_hit(struct bt_vcpu *v, uint64_t linear, unsigned size, bool write, uint64_t *dr6);

/* ---- masked.c ---- */
/* A masked vector access that missed. True: *target is what bt_part_memory() returns; false: treat it as an ordinary one. */
bool bt_masked_access(struct bt_vcpu *v, const struct bt_site *site, uint64_t linear, enum bt_class cls, uint64_t *target);
/* No element is active: nothing is accessed, whatever the address. */
bool bt_masked_nothing(struct bt_vcpu *v, const struct bt_site *site);
void bt_masked_commit(struct bt_vcpu *v);

/* ---- cache.c ---- */
/* Lock-free. A crossing block matches any next page if next_gpa is ~0. */
struct bt_block *bt_block_lookup(struct bt_vm *bt, uint64_t gpa, uint32_t mode, uint64_t next_gpa);
/* Find or translate. NULL with *full if the cache must be flushed. need_next: the caller must give the next page. */
struct bt_block *bt_block_get(struct bt_vcpu *v, const struct bt_fetch *page, uint64_t gpa, uint32_t mode, bool poll,
			      const struct bt_fetch *next, bool *need_next);
/* Do live blocks cover any of these bytes' granules? */
bool bt_code_overlaps(struct bt_vm *bt, const struct memory_slot *slot, uint64_t gpa, unsigned size); /* within a page */
/* RAM at [gpa, gpa+size) was written while its page had PAGE_FLAG_CODE. True if blocks were invalidated. */
bool bt_code_written(struct bt_vm *bt, struct memory_slot *slot, uint64_t gpa, uint64_t size);
void bt_cache_flush(struct bt_vcpu *v);
void bt_exclusive_begin(struct bt_vcpu *v);
void bt_exclusive_end(struct bt_vcpu *v);
bool bt_wait_not_running(struct bt_vcpu *self, struct bt_vm *bt);
const struct bt_fault_map *bt_fault_find(const struct bt_cache *cache, uint32_t offset);

/* ---- runtime.c ---- */
extern const struct engine bt_engine;
extern uint64_t bt_xsave_mask;       /* components of the host the guest's state is made of; 0: FXSAVE only */
extern uint32_t bt_xsave_offset[8], bt_xsave_size[8]; /* of each component in the standard form */
extern uint32_t bt_xsave_aligned; /* components that start at a multiple of 64 in the compacted form */
extern uint8_t bt_init_xsave[X86_XSAVE_MAX];
void bt_sanitize_xsave(uint8_t *xsave);

/* ---- signals.c ---- */
int bt_signals_install(struct error *err);
/* Make the calling thread this vCPU's: signal stack, GS base. */
int bt_signals_thread(struct bt_vcpu *v, struct error *err);

/* ---- pv.c ---- */
int bt_pv_create(struct bt_vcpu *v);
void bt_pv_destroy(struct bt_vcpu *v);
void bt_pv_reset(struct bt_vcpu *v);
int bt_pv_read_msr(struct bt_vcpu *v, uint32_t msr, uint64_t *value);
int bt_pv_write_msr(struct bt_vcpu *v, uint32_t msr, uint64_t value);
void bt_pv_enter(struct bt_vcpu *v); /* vcpu_run() begins: the vCPU is on a host CPU */
void bt_pv_leave(struct bt_vcpu *v);
void bt_pv_tsc_moved(struct bt_vcpu *v);
void bt_clock_pair(struct bt_vm *bt, uint64_t *tsc, uint64_t *ns);
void bt_filter_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
int bt_read_msr(struct x86_system *s, uint32_t msr, uint64_t *value);
uint64_t bt_read_cr8(struct x86_system *s);
void bt_write_cr8(struct x86_system *s, uint64_t value);
int bt_write_msr(struct x86_system *s, uint32_t msr, uint64_t value);

void bt_print_stats(struct vm *vm, FILE *out);

/* ---- options.c ---- */
/* --bt LIST. 0, or -1 and what is wrong with it. */
int bt_options_parse(struct bt_options *options, const char *list, struct error *err);

/* ---- perf_map.c ---- */
int bt_perf_map_open(struct bt_vm *bt, struct error *err);
void bt_perf_map_close(struct bt_vm *bt);
/* A block was made of code at `page` (linear) where the cache stood at *before. Cache lock held; vector state saved. */
void bt_perf_map_block(struct bt_vm *bt, const struct bt_block *block, uint64_t page, const struct bt_cache *before);

/* ---- profile.c ---- */
int bt_profile_start(struct bt_vm *bt, struct error *err);
void bt_profile_stop(struct bt_vm *bt);
void bt_profile_free(struct bt_vm *bt);
/* The calling thread is v's: let it be sampled. */
void bt_profile_thread(struct bt_vcpu *v);
void bt_print_profile(struct vm *vm, FILE *out);

#endif
