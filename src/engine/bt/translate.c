/* SPDX-License-Identifier: MIT */
/*
 * The translator: guest code to host code, one extended basic block at a time.
 *
 * Both sides are x86, so most instructions are the guest's own: what has to change is memory
 * operands, the two registers the translation needs for itself, control flow and privileged
 * instructions. A block starts anywhere, runs on past conditional branches, and ends at an
 * unconditional transfer, at the end of its page, or after BT_BLOCK_INSN_MAX instructions. It knows page
 * offsets only, never addresses, so one translation serves all mappings of its page.
 *
 * Two passes: decode all instructions and find out which arithmetic flags are live between them
 * (backwards); then emit. There is no allocation and no intermediate form.
 *
 * Layout of a block in the hot part of the cache:
 *
 *     far entry:   cmp r10, gs:[r11*8 + jump.linear]; jne miss   the jump cache entry used is really ours
 *                  lea r10, [r10 - offset]; mov gs:[pc_base], r10
 *                  cmp gs:[poll], 0; jne poll
 *                  restore flags from the slot, if the block needs them
 *     near entry:  5-byte nop (room to patch in a jump when the block dies)
 *                  poll, if branched to from behind
 *                  body
 */
#include "engine/bt/translate.h"

#define HOT_RESERVE 24576u  /* bytes of hot code that a block can never exceed */
#define COLD_RESERVE 49152u /* likewise cold */

#define JUMP_LINEAR_OFF(cls)                                                                       \
	((int32_t)(BT_OFF_TABLES(cls) + offsetof(struct bt_tables, jump) +                         \
		   offsetof(struct bt_jump, linear)))

/* Does the instruction always leave the block? */
static bool ends_block(const struct x86_insn *insn)
{
	switch (insn->op_class) {
	case X86_CLASS_INVALID:
		return true;
	case X86_CLASS_BRANCH:
		return insn->op == X86_OP_JMP_REL || insn->op == X86_OP_JMP_IND;
	case X86_CLASS_STACK:
		return insn->op == X86_OP_CALL_REL || insn->op == X86_OP_CALL_IND ||
		       insn->op == X86_OP_RET;
	default:
		return insn->op == X86_OP_IRET || insn->op == X86_OP_SYSCALL ||
		       insn->op == X86_OP_SYSRET || insn->op == X86_OP_UD ||
		       insn->op == X86_OP_HLT || insn->op == X86_OP_STAC || insn->op == X86_OP_CLAC;
	}
}

/* Is the instruction emitted so that it observes and changes only the flags the decoder names? Others go to
 * helpers, which see all of RFLAGS. */
static bool flags_are_plain(const struct translator *t, const struct x86_insn *insn, bool last)
{
	if (bt_system_is_inline(t, insn, last))
		return true;
	switch (insn->op_class) {
	case X86_CLASS_COPY:
		return insn->op != X86_OP_BCD && insn->op != X86_OP_XLAT &&
		       insn->op != X86_OP_RDPID;
	case X86_CLASS_STACK:
		return insn->op == X86_OP_PUSH || insn->op == X86_OP_POP ||
		       insn->op == X86_OP_LEAVE;
	case X86_CLASS_SYSTEM:
		return insn->op == X86_OP_PAUSE ||
		       ((insn->op == X86_OP_RDTSC || insn->op == X86_OP_RDTSCP) &&
			!(t->mode & BT_MODE_TSD));
	default:
		return false;
	}
}

static void find_live_flags(const struct translator *t, struct decoded *d, unsigned count)
{
	uint16_t live = X86_FLAGS_ARITH;
	bool last = true;

	while (count--) {
		struct x86_insn *insn = &d[count].insn;

		d[count].live_after = live;
		if (flags_are_plain(t, insn, last) && !t->request->options->no_dead_flags)
			live = (uint16_t)((live & ~insn->flags_write) |
					  (insn->flags_read & X86_FLAGS_ARITH));
		else
			live = X86_FLAGS_ARITH;
		d[count].live_before = live;
		last = false;
	}
}

bool bt_unit_disabled(const struct translator *t, const struct x86_insn *insn)
{
	if (insn->op_class != X86_CLASS_COPY && insn->op_class != X86_CLASS_MULTIMEM)
		return false;
	switch (insn->unit) {
	case X86_UNIT_X87:
	case X86_UNIT_MMX:
		return t->mode & BT_MODE_NO_FPU;
	case X86_UNIT_WAIT:
		return t->mode & BT_MODE_MONITOR_TRAP;
	case X86_UNIT_SSE:
		return t->mode & (BT_MODE_NO_FPU | BT_MODE_NO_SSE);
	case X86_UNIT_AVX:
		return t->mode & (BT_MODE_NO_FPU | BT_MODE_NO_AVX);
	case X86_UNIT_AVX512:
		return t->mode & (BT_MODE_NO_FPU | BT_MODE_NO_AVX | BT_MODE_NO_AVX512);
	default:
		return false;
	}
}

static void emit_nops(struct bt_buf *b, unsigned n)
{
	static const uint8_t nops[8][8] = {
		{ 0 },
		{ 0x90 },
		{ 0x66, 0x90 },
		{ 0x0f, 0x1f, 0x00 },
		{ 0x0f, 0x1f, 0x40, 0x00 },
		{ 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00 },
	};

	emit_bytes(b, nops[n], n);
}

static uint32_t cache_offset(const struct translator *t, const struct bt_buf *b)
{
	return (uint32_t)(b->p - t->cache->rw);
}

static void emit_cold_jump(struct bt_buf *c, uint8_t *field, unsigned offset, int32_t trampoline)
{
	if (field)
		patch_rel32(field, c->p);
	emit_mov_imm32(c, T0, offset);
	emit_jmp_gs(c, trampoline);
}

static void emit_entries(struct translator *t, unsigned offset, bool live, bool poll)
{
	struct bt_buf *b = &t->hot, *c = &t->cold;
	uint8_t *miss, *far_poll;

	t->block->far_entry = cache_offset(t, b);
	emit_op_gs_index8(b, true, 0x3b, T0, T1, JUMP_LINEAR_OFF(t->cls));
	miss = emit_jcc(b, 5, b->p);
	patch_rel32(miss, c->p);
	emit_jmp_gs(c, GS_OFF(tramp_jump_miss));
	if (offset)
		emit_lea_disp(b, t->long_mode, T0, T0, -(int32_t)offset);
	emit_store_gs(b, true, T0, GS_OFF(pc_base));
	emit_cmp_gs_zero(b, GS_OFF(poll));
	far_poll = emit_jcc(b, 5, b->p);
	patch_rel32(far_poll, c->p);
	bt_flags_restore(c, T0);
	emit_cold_jump(c, NULL, offset, GS_OFF(tramp_poll));
	if (live)
		bt_flags_restore(b, T0);

	emit_nops(b, -(uintptr_t)b->p & 7);
	t->block->near_entry = cache_offset(t, b);
	emit_nops(b, 5);
	t->flags = FLAGS_HOST;
	if (poll) {
		uint8_t *near_poll;

		if (live)
			bt_flags_save(b, T0);
		emit_cmp_gs_zero(b, GS_OFF(poll));
		near_poll = emit_jcc(b, 5, b->p);
		patch_rel32(near_poll, c->p);
		if (live)
			bt_flags_restore(c, T0);
		emit_cold_jump(c, NULL, offset, GS_OFF(tramp_poll));
		t->flags = live ? FLAGS_SLOT : FLAGS_DEAD;
	}
	t->block->dead_stub = cache_offset(t, c);
	emit_cold_jump(c, NULL, offset, GS_OFF(tramp_dispatch));
}

static void translate_insn(struct translator *t)
{
	const struct x86_insn *insn = t->insn;

	if (t->mode & BT_MODE_DEBUG) {
		bt_emit_helper(t, bt_help_debug_check, false);
	}
	if (bt_unit_disabled(t, insn)) {
		bt_emit_helper(t, bt_help_fpu_check, false);
		t->ended = true;
		return;
	}
	switch (insn->op_class) {
	case X86_CLASS_COPY:
		bt_translate_copy(t);
		break;
	case X86_CLASS_STACK:
		bt_translate_stack(t);
		break;
	case X86_CLASS_BRANCH:
		bt_translate_branch(t);
		break;
	case X86_CLASS_STRING:
		bt_emit_helper(t, bt_helpers[insn->op], false);
		break;
	case X86_CLASS_SYSTEM:
		bt_translate_system(t);
		break;
	case X86_CLASS_MULTIMEM:
		bt_emit_helper(t, bt_help_multimem, false);
		break;
	default:
		bt_emit_helper(t, bt_help_undefined, false);
		t->ended = true;
		break;
	}
}

/* Make d the current instruction. bytes: where it lies, NULL: on the page. */
static void select_insn(struct translator *t, const struct decoded *d, const uint8_t *bytes)
{
	t->insn = &d->insn;
	t->offset = d->offset;
	t->next = (uint16_t)(d->offset + d->insn.length);
	t->code = bytes ? bytes : t->request->page + d->offset;
	t->live_before = d->live_before;
	t->live_after = d->live_after;
}

static void emit_group(struct translator *t, const struct decoded *d, struct group *g,
		       const uint8_t *bytes)
{
	select_insn(t, &d[g->first], bytes);
	bt_group_check(t, g);
	t->group = g;
	for (unsigned i = g->first; i < g->first + g->count; i++) {
		select_insn(t, &d[i], bytes);
		translate_insn(t);
	}
	t->group = NULL;
	g->flags_end = t->flags;
	g->resume = t->ended ? NULL : t->hot.p;
}

/* The copy of a group in which each access has its own check: taken when the group's common check fails. */
static void emit_group_copy(struct translator *t, const struct decoded *d, const struct group *g)
{
	patch_rel32(g->miss, t->hot.p);
	t->flags = g->flags_start;
	t->ended = false;
	for (unsigned i = g->first; i < g->first + g->count; i++) {
		select_insn(t, &d[i], NULL);
		translate_insn(t);
	}
	if (!g->resume)
		return;
	if (t->flags == FLAGS_SLOT && (g->flags_end == FLAGS_HOST || g->flags_end == FLAGS_BOTH))
		bt_flags_restore(&t->hot, T0);
	else if (t->flags == FLAGS_HOST &&
		 (g->flags_end == FLAGS_SLOT || g->flags_end == FLAGS_BOTH))
		bt_flags_save(&t->hot, T0);
	emit_jmp(&t->hot, g->resume);
}

/* The bytes of an instruction that crosses into the next page. */
static void join_pages(uint8_t bytes[16], const struct bt_translate_request *request,
		       unsigned offset)
{
	unsigned first = (unsigned)PAGE_SIZE - offset;

	for (unsigned i = 0; i < 15; i++)
		bytes[i] = i < first ? request->page[offset + i] : request->next_page[i - first];
}

enum bt_translate_status bt_translate(const struct bt_translate_request *request,
				      struct bt_block *block)
{
	struct bt_cache *cache = request->cache;
	struct decoded d[BT_BLOCK_INSN_MAX];
	struct group groups[BT_GROUP_MAX];
	uint8_t joined[16];
	unsigned group_count = 0;
	unsigned start = request->gpa & (PAGE_SIZE - 1), offset = start, count = 0,
		 max = request->max_instructions;
	bool too_long = false, cross = false, next_crosses = false;
	struct translator t = {
		.request = request,
		.cache = cache,
		.block = block,
		.mode = request->mode,
		.bits = request->mode & BT_MODE_CODE,
		.long_mode = (request->mode & BT_MODE_CODE) == X86_CODE64,
		.cls = (enum bt_class)((request->mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT),
		.hot = { .p = cache->rw + ALIGN_UP(cache->hot, 16u) },
		.cold = { .p = cache->rw + ALIGN_UP(cache->cold, 16u), .cold = true },
	};

	if (cache->hot + HOT_RESERVE > cache->hot_limit ||
	    cache->cold + COLD_RESERVE > cache->cold_limit)
		return BT_TRANSLATE_CACHE_FULL;
	if (max == 0 || max > BT_BLOCK_INSN_MAX)
		max = BT_BLOCK_INSN_MAX;
	if (t.mode & (BT_MODE_STEP | BT_MODE_ONE))
		max = 1;

	while (count < max && offset < PAGE_SIZE) {
		unsigned avail = (unsigned)MIN(PAGE_SIZE - offset, 15u);
		int length = x86_decode(&d[count].insn, request->page + offset, avail,
					(enum x86_mode_bits)t.bits);

		if (length == X86_DECODE_TRUNCATED) {
			if (count) {
				next_crosses = true;
				break;
			}
			if (!request->next_page)
				return BT_TRANSLATE_NEED_NEXT_PAGE;
			join_pages(joined, request, offset);
			length = x86_decode(&d[0].insn, joined, 15, (enum x86_mode_bits)t.bits);
			cross = true;
			max = 1;
		}
		if (length < 0) {
			if (count)
				break;
			too_long = true;
			d[0].insn =
				(struct x86_insn){ .length = 15, .op_class = X86_CLASS_INVALID };
			length = 15;
		}
		d[count].offset = (uint16_t)offset;
		offset += (unsigned)length;
		if (ends_block(&d[count++].insn))
			break;
	}
	find_live_flags(&t, d, count);

	*block = (struct bt_block){
		.gpa = request->gpa,
		.gpa_next = cross ? request->next_page_gpa : ~0ull,
		.mode = request->mode,
		.size = (uint16_t)(offset - start),
		.instructions = (uint16_t)count,
		.flags = (request->poll ? BT_BLOCK_POLLS : 0) | (cross ? BT_BLOCK_CROSS : 0),
		.hot_start = cache_offset(&t, &t.hot),
	};
	t.insn = &d[0].insn;
	t.code = cross ? joined : request->page + start;
	emit_entries(&t, start, d[0].live_before, request->poll);
	if (t.mode & BT_MODE_STEP) { /* mov byte gs:[stepping], 1 */
		emit_bytes(&t.hot, (const uint8_t[]){ 0x65, 0xc6, 0x04, 0x25 }, 4);
		emit32(&t.hot, (uint32_t)GS_OFF(stepping));
		emit8(&t.hot, 1);
	}

	if (too_long) {
		select_insn(&t, &d[0], joined);
		bt_emit_helper(&t, bt_help_too_long, false);
		t.ended = true;
	}
	for (unsigned i = 0; i < count && !t.ended;) {
		struct group *g = &groups[group_count];

		if (group_count < BT_GROUP_MAX && bt_group_find(&t, d, i, count, g)) {
			emit_group(&t, d, g, cross ? joined : NULL);
			group_count++;
			i += g->count;
		} else {
			select_insn(&t, &d[i], cross ? joined : NULL);
			t.last = i + 1 == count;
			translate_insn(&t);
			i++;
		}
	}
	if (!t.ended) {
		t.live_before = X86_FLAGS_ARITH;
		/* An instruction that crosses into the next page cannot be chained to: it depends on two mappings. */
		if (next_crosses)
			bt_emit_exit_far(&t, &t.hot, (int32_t)offset, t.long_mode ? 8 : 4);
		else
			bt_emit_exit_direct(&t, &t.hot, (int32_t)offset, t.long_mode ? 8 : 4);
	}
	for (unsigned i = 0; i < group_count; i++)
		emit_group_copy(&t, d, &groups[i]);

	cache->hot = cache_offset(&t, &t.hot);
	cache->cold = cache_offset(&t, &t.cold);
	block->hot_end = cache->hot;
	return BT_TRANSLATED;
}
