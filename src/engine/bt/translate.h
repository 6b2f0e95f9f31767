/* SPDX-License-Identifier: MIT */
/*
 * What the translator's files share: the state of one translation, memory accesses, exits.
 * See docs/binary-translation.md for the design and bt.h for the contract with the runtime.
 */
#ifndef LODGE_ENGINE_BT_TRANSLATE_H
#define LODGE_ENGINE_BT_TRANSLATE_H

#include "engine/bt/bt.h"
#include "engine/bt/emit.h"

/* Where the guest's arithmetic flags are at this point of the generated code. */
enum flags_place {
	FLAGS_HOST, /* in EFLAGS */
	FLAGS_BOTH, /* in EFLAGS and in cpu->flags_slot */
	FLAGS_SLOT, /* in cpu->flags_slot; EFLAGS is free to be clobbered */
	FLAGS_DEAD, /* nowhere: they will be overwritten before they are read */
};

#define BT_BLOCK_INSN_MAX 48
#define BT_GROUP_MAX 12 /* coalesced groups in one block */

struct decoded {
	struct x86_insn insn;
	uint16_t offset;
	uint16_t live_before, live_after;
};

/* A run of instructions whose memory accesses share one TLB check: see translate_group.c. */
struct group {
	unsigned first, count; /* instructions */
	int8_t base;           /* register all accesses are relative to */
	int32_t low, high;     /* bytes touched: [base + low, base + high), base as at the start */
	bool write;
	uint8_t *miss; /* rel32 of the jump to the uncoalesced copy */
	const uint8_t *
		resume; /* where the copy joins the coalesced code again; NULL if that left the block */
	enum flags_place flags_start, flags_end;
};

struct translator {
	const struct bt_translate_request *request;
	struct bt_cache *cache;
	struct bt_block *block;
	struct bt_buf hot, cold;

	/* the current instruction */
	const struct x86_insn *insn;
	const uint8_t *code;
	uint16_t offset, next; /* page offsets of it and of the next one */
	uint16_t live_before, live_after;

	uint32_t mode;
	uint8_t bits;   /* enum x86_mode_bits */
	bool long_mode; /* 64-bit code */
	enum bt_class cls;
	enum flags_place flags;
	bool last;  /* no instruction of the block follows the current one */
	bool ended; /* an unconditional transfer was emitted */
	const struct group *
		group; /* the instruction belongs to it and is being emitted without checks of its own */
	bool addend_in_t1;   /* in a group: T1 still holds the addend */
	uint8_t *saved_cold; /* in a coalesced access: where cold code really is */
};

/* An effective address in guest terms. */
struct guest_ea {
	int8_t base, index; /* guest registers or NO_REG */
	uint8_t scale;
	uint8_t seg, addrsize;
	bool rip_relative, absolute;
	int32_t disp;
	uint64_t address; /* absolute (moffs) */
	int32_t slot; /* not 0: the linear address is in this GS slot; nothing else counts but addrsize 8 */
};

/* One memory access being emitted: begin, operation into hot and cold, end. */
struct access {
	struct guest_ea ea;
	uint16_t size;      /* bytes */
	uint8_t kind;       /* X86_MEM_R | X86_MEM_W */
	uint8_t site_flags; /* BT_SITE_* */
	bool need_t0; /* the operation needs T0 as a data register in hot code (T1 in cold code) */
	struct host_mem m; /* out: the operand in hot code. In cold code it is [T0] */
	uint8_t *site_address;
};

extern const struct host_mem bt_cold_mem; /* [T0] */

/* translate_memory.c */
struct guest_ea bt_insn_ea(const struct translator *t);
struct guest_ea bt_stack_ea(const struct translator *t, int32_t disp);
/* Compute an effective address (offset in segment) into dst, clobbering tmp. linear: add the segment base where 64-bit code has one. No flags change. */
void bt_emit_ea(struct translator *t, struct bt_buf *b, const struct guest_ea *ea, unsigned dst,
		unsigned tmp, bool linear);
void bt_access_begin(struct translator *t, struct access *a);
void bt_access_end(struct translator *t, struct access *a);

/* flags: translate_memory.c */
void bt_flags_save(struct bt_buf *b, unsigned tmp); /* EFLAGS -> slot; tmp clobbered; EFLAGS kept */
void bt_flags_restore(struct bt_buf *b,
		      int tmp); /* slot -> EFLAGS; tmp clobbered, or NO_REG: through cpu->scratch */
void bt_flags_to_host(struct translator *t,
		      int tmp); /* make EFLAGS hold them if they live only in the slot */
void bt_flags_clobber(struct translator *t,
		      unsigned tmp); /* about to clobber EFLAGS: save them first if live */
/* Get ready to emit the host instruction for t->insn in hot code, then account for what it does to flags. */
void bt_flags_before_insn(struct translator *t, int tmp);
void bt_flags_after_insn(struct translator *t);

/* translate_copy.c */
void bt_translate_copy(struct translator *t);
/* The current instruction re-encoded: m replaces its memory operand (NULL: none); guest r10/r11 operands become map[0], map[1]. */
void bt_emit_copied(struct translator *t, struct bt_buf *b, const struct host_mem *m,
		    const uint8_t map[2]);
void bt_note_fault(struct translator *t, struct bt_buf *b, int spill);

/* translate.c: must this instruction raise in the block's mode because of CR0, CR4 or XCR0? */
bool bt_unit_disabled(const struct translator *t, const struct x86_insn *insn);

/* translate_group.c */
/* Find the longest group that starts at d[first]; false if there is none worth it. */
bool bt_group_find(const struct translator *t, const struct decoded *d, unsigned first,
		   unsigned count, struct group *g);
void bt_group_check(struct translator *t, struct group *g);   /* emit the common check */
void bt_group_access(struct translator *t, struct access *a); /* an access inside: a->m */

/* translate_stack.c, translate_branch.c, translate_system.c */
void bt_translate_stack(struct translator *t);
void bt_translate_branch(struct translator *t);
void bt_translate_system(struct translator *t);
/* Is this system instruction emitted inline (translate_system.c)? Then the decoder's word on flags holds. */
bool bt_system_is_inline(const struct translator *t, const struct x86_insn *insn, bool last);
bool bt_translate_inline_system(struct translator *t);

/* Push the value in cpu->scratch[1] (or an immediate) with the given operand size; does not end the instruction. */
void bt_emit_push_scratch(struct translator *t, unsigned size, uint8_t site_flags);

/* Store the return address (EIP/RIP of t->next, size bytes) to scratch[1]. */
void bt_emit_next_ip_to_scratch(struct translator *t, unsigned size);

/* Leave the block for a page offset (direct), in buffer b. */
void bt_emit_exit_direct(struct translator *t, struct bt_buf *b, int32_t target, unsigned opsize);
/* The same through the jump cache even if the target is on this page. */
void bt_emit_exit_far(struct translator *t, struct bt_buf *b, int32_t target, unsigned opsize);
/* Leave for the linear address in T0 (64-bit code, flat CS), or for the EIP in T0 otherwise (is_offset). */
void bt_emit_exit_indirect(struct translator *t, struct bt_buf *b, unsigned opsize,
			   int32_t rsp_moved);

/* Call helper for the current instruction: [T0 = EA if with_ea]. resume at the next hot byte. */
void bt_emit_helper(struct translator *t, bt_helper *helper, bool with_ea);
/* As above with T0 already loaded as the argument, in either buffer. */
void bt_emit_helper_arg(struct translator *t, struct bt_buf *b, bt_helper *helper, int64_t imm,
			bool has_arg);

static inline bool is_slot_reg(int reg)
{
	return reg == X86_R10 || reg == X86_R11;
}

/* Helpers of the translator (helper_flow.c). arg: the target. */
bt_helper bt_help_near_jump; /* imm 1: arg is linear (wraps in 32 bits); 0: arg is the new IP. opsize masks it; checks the limit */

#endif
