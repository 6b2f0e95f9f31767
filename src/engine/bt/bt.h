/* SPDX-License-Identifier: MIT */
/*
 * The binary-translation engine's own contract: what translated code, the translator and the runtime
 * agree on. docs/binary-translation.md explains the design; this is its letter.
 *
 * Registers while translated code runs
 *   host GPR n      = guest GPR n, for all n but r10 and r11 (RSP too: there is no host stack)
 *   r10, r11        scratch; the guest's values live in state.gpr[10] and [11]
 *   host EFLAGS     the guest's CF PF AF ZF SF OF and DF; the other flags are in state.rflags
 *   xmm.., x87, MXCSR, k0-7  the guest's
 *   GS base         struct bt_cpu of this vCPU (one of its aliases, see below)
 *
 * Arithmetic flags across far jumps. A jump through the jump cache (and tramp_jump, tramp_jump_miss) passes CF PF AF ZF SF OF
 * in cpu->flags_slot, not in EFLAGS (which may hold anything, DF excepted): high byte as LAHF gives it, low byte OF (0 or 1).
 * A far entry restores them only if its block needs them. So: C code that jumps to a far entry fills flags_slot; near entries,
 * tramp_memory, tramp_commit, tramp_helper, tramp_chain, tramp_poll and tramp_dispatch have the flags in EFLAGS.
 *
 * Where the guest is: pc_base is the linear address of the page the current block lies in; a
 * block knows only page offsets, so one translation serves every virtual mapping of a page.
 * RIP = pc_base + offset - CS.base.
 *
 * The memory at GS base, from low to high addresses (BT_OFF_*): struct bt_cpu and the tables for supervisor
 * data (class K) are one set of pages mapped at every alias; the tables of classes U and KU differ by alias. Each
 * address-space slot (a CR3/PCID recently used) has one alias, so that switching address spaces is a
 * change of GS base.
 */
#ifndef LODGE_ENGINE_BT_BT_H
#define LODGE_ENGINE_BT_BT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vm/vm.h"
#include "x86/cpu.h"
#include "x86/decode.h"
#include "x86/system.h"

/* ---- execution modes: the part of a block's key that is not its address ---- */
#define BT_MODE_CODE 0x00003u  /* enum x86_mode_bits */
#define BT_MODE_CLASS 0x0000cu /* which TLB tables: BT_CLASS_* << 2 */
#define BT_MODE_CLASS_SHIFT 2
#define BT_MODE_SS32 0x00010u    /* outside 64-bit code: stack pointer is ESP, not SP */
#define BT_MODE_FLAT_CS 0x00020u /* CS base 0, limit 4 GiB (or 64-bit code) */
#define BT_MODE_FLAT_DATA                                                                          \
	0x00040u /* DS, ES and SS: base 0, limit 4 GiB, writable, usable (or 64-bit code) */
#define BT_MODE_CPL0 0x00080u
#define BT_MODE_STEP 0x00100u /* RFLAGS.TF: #DB after each instruction */
#define BT_MODE_DEBUG                                                                              \
	0x00200u /* execution breakpoints set (guest's DR7 or gdb's): check before each instruction */
#define BT_MODE_NO_FPU                                                                             \
	0x00400u /* CR0.TS or CR0.EM: x87/MMX/SSE/AVX instructions go to a helper that raises */
#define BT_MODE_NO_SSE 0x00800u    /* CR4.OSFXSR clear */
#define BT_MODE_NO_AVX 0x01000u    /* CR4.OSXSAVE clear or XCR0[2:1] != 3 */
#define BT_MODE_NO_AVX512 0x02000u /* ... or XCR0[7:5] != 7 */
#define BT_MODE_TSD 0x04000u       /* CR4.TSD and CPL != 0: RDTSC(P) raises */
#define BT_MODE_ALIGN 0x08000u     /* alignment checks: every access goes the slow way */
#define BT_MODE_V86_REAL 0x10000u  /* real or virtual-8086 mode */
#define BT_MODE_ONE 0x20000u /* translate one instruction only and never chain (near a CS limit) */
#define BT_MODE_MONITOR_TRAP 0x40000u /* FWAIT raises #NM (CR0.MP and TS) */

/* TLB classes: by the privilege of a data access */
enum bt_class {
	BT_CLASS_U,  /* CPL 3 */
	BT_CLASS_K,  /* supervisor, user pages forbidden (CR4.SMAP and AC = 0) */
	BT_CLASS_KU, /* supervisor, user pages allowed */
	BT_CLASS_COUNT
};

/* ---- tables reached from translated code at constant offsets from GS base ---- */
#define BT_TLB_ENTRIES 65536u /* direct-mapped by linear address bits 12-27 */
#define BT_JC_ENTRIES 65536u  /* jump cache, by bt_jump_index() */

/* Where a target lies in the jump cache. Bits 16-31 are folded in: programs and the kernel have more than 64 KiB of
 * hot code. All targets of one page share one aligned run of 4096 entries. */
static inline unsigned bt_jump_index(uint64_t linear)
{
	return (uint16_t)(linear ^ (uint32_t)linear >> 16);
}

struct bt_jump {         /* a jump-cache entry */
	uint64_t linear; /* full linear address of the target; ~0: empty */
	uint64_t code;   /* far entry of its translation, or runtime's tramp_jump_miss when empty */
};

/* One class's tables. A tag is the page's linear address when that access is allowed there and needs no
 * slow path, else 1. An addend turns a guest-linear address into a host address. */
struct bt_tables {
	uint64_t tag_read[BT_TLB_ENTRIES];
	uint64_t tag_write[BT_TLB_ENTRIES];
	uint64_t addend[BT_TLB_ENTRIES];
	struct bt_jump jump[BT_JC_ENTRIES];
};

#define BT_CPU_SIZE 0x8000u /* struct bt_cpu, padded */
/* Offset of a class's tables from GS base: K is shared by all aliases, then U and KU. */
#define BT_OFF_TABLES(cls)                                                                         \
	((uint32_t)(BT_CPU_SIZE + ((cls) == BT_CLASS_K ? 0 :                                       \
				   (cls) == BT_CLASS_U ? 1 :                                       \
							 2) *                                      \
					  sizeof(struct bt_tables)))
#define BT_SHARED_SIZE (BT_CPU_SIZE + sizeof(struct bt_tables))
#define BT_ALIAS_SIZE (BT_CPU_SIZE + 3 * sizeof(struct bt_tables))
#define BT_ALIAS_COUNT 8

/* ---- descriptors that translated code passes to the runtime (they lie in the code cache) ---- */

#define BT_SITE_STACK 1 /* a stack access: non-canonical addresses give #SS(0) */
#define BT_SITE_MASKED                                                                             \
	2 /* masked vector access: faults only on active elements; bytes[] of the call says which */
#define BT_SITE_LOCK 4 /* must be atomic (lock prefix or xchg) */
#define BT_SITE_MID                                                                                \
	8 /* not the last memory access of its instruction: never leave the block after it */
#define BT_SITE_EXPLICIT_ALIGN                                                                     \
	16 /* needs natural host alignment (movaps...): the bounce buffer keeps the address's low 6 bits anyway */

#define BT_SITE_SEGMENT                                                                            \
	32 /* r10 is an offset in segment `seg` (16- and 32-bit code, not flat): the runtime checks limit and
			    * rights and adds the base; retry only if offset + size <= seg_end[write][seg] */

/*
 * A memory access whose TLB check failed. Translated code does
 *     lea r10, linear address;  lea r11, [site];  jmp gs:[tramp_memory]
 * with every guest register in its place. The runtime then either
 *   - has filled the TLB: jumps to site + retry, all registers and flags restored but r10, r11; or
 *   - the access cannot go through the TLB (MMIO, page crossing, code page, watchpoint, ...): jumps to
 *     site + slow with r10 = a host address that stands for the operand (bounce buffer, loaded with the data if the access
 *     reads, or the RAM itself). The code there performs the instruction on [r10] and then, *if access includes
 *     X86_MEM_W*, does  lea r11, [site]; jmp gs:[tramp_commit], which completes the write and jumps to site + resume; or
 *   - raises an exception for the instruction at `offset`.
 */
struct bt_site {
	int32_t retry, slow, resume; /* relative to the site's own address */
	uint16_t size;               /* bytes, 1 .. 64 */
	uint16_t offset;             /* page offset of the instruction */
	uint16_t next_offset;        /* page offset of the next instruction (may be >= 4096) */
	uint8_t access;              /* X86_MEM_R | X86_MEM_W */
	uint8_t seg;                 /* enum x86_seg: for #SS against #GP */
	uint8_t flags;               /* BT_SITE_* */
	uint8_t bytes[15];           /* the instruction (BT_SITE_MASKED needs it) */
};

/*
 * A helper call:  [mov/lea r10, EA;]  lea r11, [call];  jmp gs:[tramp_helper]
 * r10 is stored to cpu->arg: the effective address (offset in segment `seg`, no base added) if has_mem.
 * The runtime saves everything to cpu->state, runs helper(cpu, call), and by its result goes on.
 */
struct bt_cpu;
struct bt_call;
enum bt_result {
	BT_NEXT, /* reload registers from cpu->state, go on at call + resume (the next instruction in the block) */
	BT_JUMP, /* cpu->state is complete (RIP included): continue there; mode may have changed */
	BT_LEAVE, /* as BT_JUMP, but through the dispatcher, which looks at events, cpu->exit and requests first */
};
typedef enum bt_result bt_helper(struct bt_cpu *cpu, const struct bt_call *call);

struct bt_call {
	bt_helper *helper;
	int64_t imm;
	int32_t resume; /* relative to the call's own address */
	uint16_t offset,
		next_offset; /* page offsets of this and the next instruction (may be >= 4096) */
	uint16_t op;         /* enum x86_op */
	uint16_t imm2;
	uint8_t opcode, prefixes, rex, opsize, addrsize;
	uint8_t has_mem, seg;
	uint8_t reg, rm; /* register numbers, REX applied */
	uint8_t length;
	uint8_t modrm;
	uint8_t unit;      /* enum x86_unit */
	uint8_t bytes[16]; /* the instruction, for helpers that decode it again */
};

/*
 * A direct jump within the page not chained yet:  lea r11, [exit]; jmp gs:[tramp_chain]
 * The runtime finds or makes the block for (page of the running code, target), points the jump at `patch` to its
 * near entry, and goes there.
 */
struct bt_exit {
	int32_t patch; /* address of the rel32 to patch, relative to the exit's own address; 0: do not patch */
	uint16_t target;  /* page offset */
	uint8_t backward; /* 1: the target must poll (see BT_BLOCK_POLLS) */
	uint8_t pad;
};

/* ---- the vCPU as translated code sees it ---- */
struct bt_vcpu; /* runtime's own: everything translated code need not reach */
struct bt_block;

struct bt_cpu {
	struct x86_cpu_state state;

	uint64_t pc_base;
	_Atomic uint32_t
		poll; /* != 0: leave translated code at the next poll. Read as 32 bits, upper half zero */
	uint32_t poll_high_zero;
	uint64_t host_rsp;    /* C stack for helpers */
	uint64_t arg;         /* r10 at the last helper call */
	uint64_t scratch[8];  /* the translator's temporaries within one instruction */
	uint64_t spill;       /* a register displaced while an instruction runs; see bt_fault_map */
	uint64_t jump_linear; /* target linear address of a jump miss */
	uint16_t flags_slot;  /* arithmetic flags: (AH after LAHF) << 8 | OF */
	uint8_t stepping; /* a BT_MODE_STEP instruction is running: whoever completes it raises #DB (bt_step_trap) */
	uint8_t flags_slot_pad[5];
	/* One past the highest offset that may be read ([0]) or written ([1]) in a segment with no further look: limit + 1 for
	 * expand-up segments of the right type, else 0. Kept by bt_update_segments(). */
	uint64_t seg_end[2][6];
	int64_t tsc_offset; /* guest TSC - host TSC, for inline RDTSC */

	/* Addresses translated code jumps to (runtime's assembly). */
	uint64_t tramp_memory, tramp_commit, tramp_helper, tramp_chain;
	uint64_t tramp_jump; /* r10 = linear target: full look-up (inline jump cache lookups are emitted by the translator) */
	uint64_t tramp_jump_miss; /* r10 = linear target: what empty jump-cache entries hold, and failed far-entry checks go to */
	uint64_t tramp_poll; /* r10 = page offset: poll != 0 seen at a block entry: to the dispatcher with RIP = pc_base + r10 - CS.base */
	uint64_t tramp_dispatch; /* r10 = page offset (may be >= 4096): leave to the dispatcher there */

	struct bt_vcpu *vcpu;
	_Atomic uint32_t *irq_pending; /* vcpu->irq_pending, for STI and POPF inline */
	/* The last indirect near branch: page offset | how much it has moved RSP << 16 (signed), so that
	 * one to a non-canonical address can be taken back: the fault is the branch's. */
	uint32_t branch;
};
_Static_assert(sizeof(struct bt_cpu) <= BT_CPU_SIZE, "struct bt_cpu outgrew its pages");

/* ---- blocks ---- */
#define BT_BLOCK_POLLS 1 /* its near entry polls */
#define BT_BLOCK_DEAD 2  /* invalidated: its entries lead to its exit stub */
#define BT_BLOCK_CROSS 4 /* its (only) instruction continues on the next page */

struct bt_block {
	uint64_t gpa;      /* of its first byte */
	uint64_t gpa_next; /* BT_BLOCK_CROSS: guest-physical page of the second part; else ~0 */
	uint32_t mode;
	uint16_t size; /* guest bytes covered */
	uint16_t instructions;
	uint32_t flags;
	uint32_t far_entry; /* offsets in the code cache. Far entry: r10 = linear, r11 = jump index * 2 */
	uint32_t near_entry; /* 8-byte aligned; first 8 bytes can be replaced atomically by a jump to dead_stub */
	uint32_t dead_stub; /* leaves to the dispatcher at the block's start, flags and registers intact */
	uint32_t hot_start, hot_end;
	struct bt_block *_Atomic hash_next;
	struct bt_block *page_next; /* other blocks of the page (list under the cache lock) */
};

/* Host addresses at which the host's own instruction may fault (#DE, #UD, #GP, #MF, #XM), sorted by host
 * address, hot and cold separately; made by the translator through bt_cache_note_fault(). */
struct bt_fault_map {
	uint32_t host;     /* offset in the code cache of the copied instruction */
	uint16_t offset;   /* page offset of the guest instruction */
	uint8_t spill_reg; /* register whose guest value is in cpu->spill; 0xff: none */
	uint8_t pad;
};

/* The code cache: one memfd mapped twice, writable at rw and executable at rx. */
struct bt_cache {
	uint8_t *rw, *rx;
	uint32_t size;
	uint32_t hot, hot_limit;   /* next free byte: hot code grows in [0, hot_limit) */
	uint32_t cold, cold_limit; /* cold code in [hot_limit, cold_limit) */
	uint32_t hot_ready, cold_ready; /* how far the host's pages have been made already */
	struct bt_fault_map *hot_faults, *cold_faults;
	uint32_t hot_fault_count, cold_fault_count, fault_capacity;
};

/* --bt: optimisations switched off, so that a wrong result can be bisected (options.c). All zero: everything is on. */
struct bt_options {
	bool no_chain;         /* jumps within a page are not patched: each goes to the runtime */
	bool no_groups;        /* no coalescing: each access has a TLB check of its own */
	bool no_inline_system; /* CLI, STI, SWAPGS, PUSHF, POPF by helpers */
	bool no_jump_cache;    /* jumps to other pages and indirect ones go to the runtime */
	bool no_dead_flags;    /* arithmetic flags are live everywhere */
	bool no_tlb;           /* no TLB fills: each access goes to the runtime */
	bool no_spaces;        /* every CR3 load flushes */
	unsigned max_instructions; /* in a block; 0: as many as the translator likes */
	uint32_t cache_size;       /* bytes of code cache, hot and cold; 0: BT_CACHE_SIZE */
};

/* What the translator is asked to do, under the cache lock. */
struct bt_translate_request {
	struct bt_cpu *cpu; /* for features only; its state is not read */
	struct bt_cache *cache;
	uint64_t gpa; /* of the first byte */
	uint32_t mode;
	const uint8_t *page; /* host address of the page that holds it */
	const uint8_t *
		next_page; /* host address of the page that follows in linear space, or NULL if not known */
	uint64_t next_page_gpa;
	bool poll; /* near entry must poll */
	unsigned max_instructions;
	const struct bt_options *options;
};

enum bt_translate_status {
	BT_TRANSLATED,
	BT_TRANSLATE_NEED_NEXT_PAGE, /* the first instruction crosses the page: call again with next_page */
	BT_TRANSLATE_CACHE_FULL,
};

/* Translate one block (extended basic block within the page). Fills *block but for the list links; the caller
 * publishes it. Implemented in translate.c. */
enum bt_translate_status bt_translate(const struct bt_translate_request *request,
				      struct bt_block *block);

/* Note that the instruction about to be emitted at cache offset host may fault. (runtime: cache.c) */
void bt_cache_note_fault(struct bt_cache *cache, bool cold, uint32_t host, uint16_t offset,
			 uint8_t spill_reg);

/* What the host's CPU has, decided once at start. (runtime) */
struct bt_host {
	bool bmi2, fsgsbase, fast_pext, avx, avx512, erms, fsrm, xsave, xsavec, movbe, adx;
	bool pause_yields; /* more vCPUs than host CPUs: PAUSE is a helper that gives way */
};
extern struct bt_host bt_host;

/* The helper for each enum x86_op that translated code does not do itself; NULL: raises #UD. (helper_table.c) */
extern bt_helper *const bt_helpers[X86_OP_COUNT];

/* Helpers the translator names directly. call->offset is the faulting instruction. */
bt_helper bt_help_undefined; /* #UD */
bt_helper bt_help_fpu_check; /* x87/MMX/SSE/AVX instruction in a mode where it may raise: #UD or #NM by call->unit, op */
bt_helper bt_help_too_long; /* #GP(0): instruction over 15 bytes */
bt_helper bt_help_step; /* BT_MODE_STEP: after an instruction: #DB with DR6.BS; RIP already next (call->next_offset) */
bt_helper bt_help_debug_check; /* BT_MODE_DEBUG: before an instruction: DR7 execution match or gdb breakpoint; BT_NEXT if none */
bt_helper bt_help_bcd;       /* daa das aaa aas aam aad salc */
bt_helper bt_help_bt_memory; /* bt/bts/btr/btc m, r outside what the translator does inline */
bt_helper bt_help_multimem; /* class MULTIMEM: gathers, scatters, maskmov, movdir64b (runtime: helper_vector.c) */

/* Linear address of a page offset of the running block, and RIP for it. */
static inline uint64_t bt_rip(const struct bt_cpu *cpu, unsigned offset)
{
	uint64_t linear = cpu->pc_base + offset;

	return x86_in_64bit(&cpu->state) ? linear :
					   (uint32_t)(linear - cpu->state.seg[X86_CS].base);
}

/* ---- for helpers (runtime.c, tlb.c) ---- */

/* Raise *fault for the instruction at `offset` (sets RIP, delivers through the IDT). Use: return bt_raise(...). */
enum bt_result bt_raise(struct bt_cpu *cpu, unsigned offset, const struct x86_fault *fault);
enum bt_result bt_raise_vector(struct bt_cpu *cpu, unsigned offset, uint8_t vector, bool has_error,
			       uint32_t error);

/* Guest-linear access with the current privilege (user = CPL 3) from a helper: through the TLB, filling it; handles page
 * crossing, MMIO, code pages, watchpoints. 0, or -1 with *fault. size 1..4096. */
int bt_read(struct bt_cpu *cpu, uint64_t linear, void *buf, unsigned size, struct x86_fault *fault);
int bt_write(struct bt_cpu *cpu, uint64_t linear, const void *buf, unsigned size,
	     struct x86_fault *fault);
/* The host address of linear for an access of up to the end of its page, or NULL if it is not plain RAM (MMIO, code
 * page on write, watchpoint): then use bt_read/bt_write for this piece. -1 with *fault if it faults; 0 otherwise. */
int bt_page_host(struct bt_cpu *cpu, uint64_t linear, bool write, uint8_t **host,
		 struct x86_fault *fault);

/* The x86_system of this vCPU with ops bound to it; cpu->state is its state. */
struct x86_system *bt_system(struct bt_cpu *cpu);
/* Act on x86_system.effects (TLB flushes, mode, debug): call after x86_* functions; clears them. */
void bt_apply_effects(struct bt_cpu *cpu);

/* The guest's x87/vector state is in host registers while helpers run, and helpers are compiled with
 * -mgeneral-regs-only. Before calling anything else (devices, libc): saves it to state.xsave once; it is
 * reloaded on the way back. */
void bt_fpu_save(struct bt_cpu *cpu);

/* Leave vcpu_run() with this exit when the dispatcher is next reached (helper returns BT_LEAVE). */
void bt_request_exit(struct bt_cpu *cpu, enum vcpu_exit exit);

struct vcpu *bt_generic_vcpu(struct bt_cpu *cpu);

/* If cpu->stepping: clear it and raise the single-step #DB with RIP as it is (BT_LEAVE, event delivered). Used by
 * bt_help_step, and by the runtime after a helper that ended a stepped instruction with BT_JUMP or BT_LEAVE. (run.c) */
enum bt_result bt_step_trap(struct bt_cpu *cpu);

/* Recompute cpu->seg_end after segment registers changed: call wherever the mode is computed. (helper_system.c) */
void bt_update_segments(struct bt_cpu *cpu);

/* Flush translations of address spaces: used by helpers. (tlb.c) */
void bt_tlb_flush_page(struct bt_cpu *cpu,
		       uint64_t linear); /* INVLPG: current address space, and globals */
void bt_tlb_flush_pcid(struct bt_cpu *cpu, unsigned pcid, bool one_page,
		       uint64_t linear);                 /* INVPCID 0, 1 */
void bt_tlb_flush_all(struct bt_cpu *cpu, bool globals); /* all PCIDs */

#endif
