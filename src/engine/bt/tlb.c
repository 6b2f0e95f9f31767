/* SPDX-License-Identifier: MIT */
/*
 * The software TLB and the jump caches: filling, and flushing as INVLPG, INVPCID and loads of CR0, CR3
 * and CR4 demand (Intel SDM volume 3, 4.10).
 *
 * The tables themselves (struct bt_tables) are read by translated code. Beside each lies a struct bt_table that
 * remembers what was filled: a journal of indices while they are few, a bitmap of touched table pages when
 * they are many; so a flush costs what was filled and never touches fresh memory.
 *
 * Aliases. Each address-space slot (PCID) has its own tables for the classes U and KU, at its own alias of
 * the vCPU's area; changing the address space changes GS base. The tables of class K are shared by all aliases:
 * they hold supervisor pages only, nearly all global, and the few that are not are journalled apart and dropped at each change.
 *
 * Empty. Tags start as zero pages: tag 0 can only match linear page 0, which is looked for at two indices (table_use());
 * these are set to BT_TAG_EMPTY by hand. Jump entries start as a private mapping of one template.
 *
 * Write tags and code. A page with PAGE_FLAG_CODE has no write tags anywhere. A fill publishes
 * the tag and then looks at the flag again; whoever sets the flag does so before it looks for tags (bt_tlb_protect_page).
 */
#include "engine/bt/runtime.h"

#define INDEX(linear) (unsigned)(((linear) >> 12) & (BT_TLB_ENTRIES - 1))

/* ---- sets hashed into bitmaps ---- */

static unsigned hash_page(uint64_t page)
{
	return (unsigned)((page * 0x9e3779b97f4a7c15ull) >> 52);
}

static bool bit_test(const uint64_t *map, unsigned bit)
{
	return map[bit >> 6] >> (bit & 63) & 1;
}

static void bit_set(uint64_t *map, unsigned bit)
{
	map[bit >> 6] |= 1ull << (bit & 63);
}

static unsigned large_bit(uint64_t linear)
{
	return hash_page(linear >> 21) & 1023;
}

static unsigned jump_page_bit(uint64_t linear)
{
	return hash_page(linear >> 12) & 4095;
}

/* ---- one table ---- */

static void table_init(struct bt_table *tb, uint64_t gs_base, enum bt_class cls)
{
	tb->t = (struct bt_tables *)(gs_base + BT_OFF_TABLES(cls));
	tb->jump_mode = ~0u;
}

static void drop_entry(struct bt_table *tb, unsigned i)
{
	tb->t->tag_read[i] = BT_TAG_EMPTY;
	tb->t->tag_write[i] = BT_TAG_EMPTY;
}

static void table_use(struct bt_table *tb)
{
	if (tb->initialised)
		return;
	/* The index comes from an access's first byte and the tag from its last: page 0 is looked for at its own index, and
	 * at the last one by an access that wraps. */
	drop_entry(tb, 0);
	drop_entry(tb, BT_TLB_ENTRIES - 1);
	tb->initialised = true;
}

static void drop_jump(struct bt_vcpu *v, struct bt_table *tb, unsigned i)
{
	tb->t->jump[i].linear = BT_JUMP_EMPTY;
	tb->t->jump[i].code = v->cpu->tramp_jump_miss;
}

void bt_jump_flush(struct bt_vcpu *v, struct bt_table *tb)
{
	if (!tb->jump_count)
		return;
	v->stats.jump_flushes++;
	if (tb->jump_count <= BT_JOURNAL) {
		for (uint32_t n = 0; n < tb->jump_count; n++)
			drop_jump(v, tb, tb->jump_journal[n]);
	} else {
		for (unsigned page = 0; page < 256; page++)
			if (bit_test(tb->jump_touched, page))
				for (unsigned i = page * 256; i < page * 256 + 256; i++)
					drop_jump(v, tb, i);
	}
	tb->jump_count = 0;
	bt_fill64(tb->jump_touched, 0, 4);
	bt_fill64(tb->jump_pages, 0, 64);
	if (tb == &v->table_k)
		v->local_jump_count = 0;
}

static void flush_data(struct bt_vcpu *v, struct bt_table *tb)
{
	if (tb->count && tb->count <= BT_JOURNAL) {
		for (uint32_t n = 0; n < tb->count; n++)
			drop_entry(tb, tb->journal[n]);
	} else if (tb->count) {
		for (unsigned page = 0; page < 128; page++)
			if (bit_test(tb->touched, page)) {
				bt_fill64(tb->t->tag_read + page * 512, BT_TAG_EMPTY, 512);
				bt_fill64(tb->t->tag_write + page * 512, BT_TAG_EMPTY, 512);
			}
	}
	tb->count = 0;
	tb->touched[0] = tb->touched[1] = 0;
	tb->large_1g = false;
	tb->global = false;
	bt_fill64(tb->large, 0, 16);
	if (tb == &v->table_k)
		v->local_count = 0;
}

static void flush_table(struct bt_vcpu *v, struct bt_table *tb)
{
	flush_data(v, tb);
	bt_jump_flush(v, tb);
}

/* The entries of class K that belong to one address space only. */
static void flush_k_local(struct bt_vcpu *v)
{
	struct bt_table *k = &v->table_k;

	if (v->local_count > BT_JOURNAL)
		flush_data(v, k);
	for (uint32_t n = 0; n < v->local_count; n++)
		drop_entry(k, v->local[n]);
	v->local_count = 0;
	if (v->local_jump_count > BT_JOURNAL)
		bt_jump_flush(v, k);
	for (uint32_t n = 0; n < v->local_jump_count; n++)
		drop_jump(v, k, v->local_jump[n]);
	v->local_jump_count = 0;
}

/* ---- fills ---- */

static void journal_fill(struct bt_vcpu *v, struct bt_table *tb, unsigned i, bool global)
{
	if (tb->t->tag_read[i] <= BT_TAG_EMPTY && tb->t->tag_write[i] <= BT_TAG_EMPTY) {
		if (tb->count < BT_JOURNAL)
			tb->journal[tb->count] = (uint16_t)i;
		if (tb->count <= BT_JOURNAL)
			tb->count++;
	}
	bit_set(tb->touched, i / 512);
	if (tb == &v->table_k && !global) {
		if (v->local_count < BT_JOURNAL)
			v->local[v->local_count] = (uint16_t)i;
		if (v->local_count <= BT_JOURNAL)
			v->local_count++;
	}
	tb->global |= global;
}

static void note_writer(struct bt_vcpu *v, struct memory_slot *slot, uint64_t page, uint64_t linear)
{
	_Atomic uint64_t *w = &v->bt->slots[slot - v->vm->memory.slots].writers[page];
	uint64_t me = PAGE_OF(linear) | (v->vcpu->index + 1), old = atomic_load_explicit(w, memory_order_relaxed);

	if (old == me || old == BT_WRITERS_MANY)
		return;
	if (old == 0 && atomic_compare_exchange_strong(w, &old, me))
		return;
	if (old != me)
		atomic_store(w, BT_WRITERS_MANY);
}

/* May accesses to this page go past a data breakpoint? */
static void watch_limits(const struct bt_vcpu *v, uint64_t linear, bool *read, bool *write)
{
	const uint64_t *dr = v->cpu->state.dr;

	for (unsigned n = 0; n < 4; n++) {
		unsigned rw = (unsigned)(dr[7] >> (16 + n * 4)) & 3;

		if (!(dr[7] >> (n * 2) & 3) || !(rw & 1))
			continue;
		/* Eight bytes at most, aligned: never across a page. */
		if (PAGE_OF(dr[n]) != PAGE_OF(linear))
			continue;
		*write = false;
		if (rw == 3)
			*read = false;
	}
}

static void fill(struct bt_vcpu *v, enum bt_class cls, uint64_t linear, const struct bt_ref *ref,
		 const struct x86_walk *walk)
{
	struct bt_table *tb = v->tables[cls];
	unsigned i = INDEX(linear);
	bool read = true, write = walk->writable && !ref->readonly && !ref->code;
	uint64_t page = PAGE_OF(linear), index = (ref->gpa - ref->slot->gpa) >> PAGE_SHIFT;
	uint8_t *flags = &ref->slot->page_flags[index];

	if (unlikely(v->watch_active))
		watch_limits(v, linear, &read, &write);
	if (!read || unlikely(v->bt->options.no_tlb))
		return;
	v->stats.fills++;
	journal_fill(v, tb, i, walk->global);
	if (walk->page_size > PAGE_SIZE) {
		bit_set(tb->large, large_bit(linear));
		if (walk->page_size > (4u << 20))
			tb->large_1g = true;
	}
	tb->t->tag_write[i] = BT_TAG_EMPTY;
	tb->t->addend[i] = (uint64_t)ref->host - linear;
	tb->t->tag_read[i] = page;
	if (!write)
		return;
	note_writer(v, ref->slot, index, linear);
	__atomic_store_n(&tb->t->tag_write[i], page, __ATOMIC_RELAXED);
	if (v->multi)
		bt_fence();
	if (unlikely(__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_FLAG_CODE))
		tb->t->tag_write[i] = BT_TAG_EMPTY;
	else if (!(*flags & PAGE_FLAG_DIRTY))
		__atomic_fetch_or(flags, PAGE_FLAG_DIRTY, __ATOMIC_RELAXED);
}

int bt_translate_data(struct bt_vcpu *v, uint64_t linear, bool write, enum bt_class cls, bool implicit,
		      struct bt_ref *ref, struct x86_fault *fault)
{
	struct x86_walk walk;

	if (!x86_walk_page(&v->cpu->state, &bt_walk_ops, v, linear, write ? X86_ACCESS_WRITE : X86_ACCESS_READ,
			   cls == BT_CLASS_U, implicit, v->system.features.maxphyaddr, &walk)) {
		*fault = (struct x86_fault){ .vector = X86_PF, .has_error = true, .error = walk.error,
					     .address = linear };
		return -1;
	}
	ref->gpa = walk.gpa;
	ref->slot = bt_find_slot(v->vm, walk.gpa);
	if (!ref->slot) {
		ref->host = NULL;
		ref->readonly = ref->code = false;
		return 0;
	}
	ref->host = ref->slot->host + (walk.gpa - ref->slot->gpa);
	ref->readonly = ref->slot->readonly;
	ref->code = __atomic_load_n(&ref->slot->page_flags[(walk.gpa - ref->slot->gpa) >> PAGE_SHIFT],
				    __ATOMIC_RELAXED) & PAGE_FLAG_CODE;
	fill(v, cls, linear, ref, &walk);
	return 0;
}

/* Page-table entries are read and written in RAM; outside it everything is ones (and nothing is a page table). */
static uint64_t walk_read(void *ctx, uint64_t gpa, unsigned size)
{
	struct bt_vcpu *v = ctx;
	struct memory_slot *slot = bt_find_slot(v->vm, gpa);
	const uint8_t *p;

	if (unlikely(!slot))
		return size == 8 ? ~0ull : 0xffffffffu;
	p = slot->host + (gpa - slot->gpa);
	return size == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED) :
			   __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static bool walk_cmpxchg(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t new_value)
{
	struct bt_vcpu *v = ctx;
	struct memory_slot *slot = bt_find_slot(v->vm, gpa);
	uint64_t index;
	uint8_t *p;
	bool done;

	if (!slot || slot->readonly)
		return true; /* the write is dropped */
	p = slot->host + (gpa - slot->gpa);
	if (size == 8) {
		done = __atomic_compare_exchange_n((uint64_t *)p, &old, new_value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		uint32_t old32 = (uint32_t)old;

		done = __atomic_compare_exchange_n((uint32_t *)p, &old32, (uint32_t)new_value, false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	}
	index = (gpa - slot->gpa) >> PAGE_SHIFT;
	if (unlikely(slot->page_flags[index] & PAGE_FLAG_CODE) && done)
		bt_code_written(v->bt, slot, gpa, size);
	return done;
}

const struct x86_walk_ops bt_walk_ops = { walk_read, walk_cmpxchg };

/* ---- instruction fetch ---- */

const struct bt_fetch *bt_translate_fetch(struct bt_vcpu *v, uint64_t linear, struct x86_fault *fault)
{
	bool user = x86_cpl(&v->cpu->state) == 3;
	uint64_t key = PAGE_OF(linear) | user;
	struct bt_fetch *e = &v->fetch[(linear >> 12) & (BT_FETCH_ENTRIES - 1)];
	struct memory_slot *slot;
	struct x86_walk walk;

	if (e->linear == key && e->generation == v->fetch_generation &&
	    (e->global || e->alias == (int32_t)v->current))
		return e;
	v->stats.fetch_walks++;
	if (!x86_walk_page(&v->cpu->state, &bt_walk_ops, v, linear, X86_ACCESS_EXEC, user, false,
			   v->system.features.maxphyaddr, &walk)) {
		*fault = (struct x86_fault){ .vector = X86_PF, .has_error = true, .error = walk.error,
					     .address = linear };
		return NULL;
	}
	slot = bt_find_slot(v->vm, walk.gpa);
	e->linear = key;
	e->generation = v->fetch_generation;
	e->gpa = PAGE_OF(walk.gpa);
	e->host = slot ? slot->host + (PAGE_OF(walk.gpa) - slot->gpa) : v->bt->unmapped_page;
	e->alias = (int32_t)v->current;
	e->global = walk.global;
	if (walk.page_size > PAGE_SIZE) {
		bit_set(v->fetch_large, large_bit(linear));
		v->fetch_1g |= walk.page_size > (4u << 20);
	}
	return e;
}

/* ---- jump caches ---- */

void bt_jump_fill(struct bt_vcpu *v, uint64_t linear, const struct bt_block *block, bool global)
{
	struct bt_table *tb = v->tables[(block->mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT];
	unsigned i = bt_jump_index(linear);
	struct bt_jump *entry = &tb->t->jump[i];

	if (unlikely(v->bt->options.no_jump_cache || linear == BT_JUMP_EMPTY))
		return;
	if (entry->linear == BT_JUMP_EMPTY) {
		if (tb->jump_count < BT_JOURNAL)
			tb->jump_journal[tb->jump_count] = (uint16_t)i;
		if (tb->jump_count <= BT_JOURNAL)
			tb->jump_count++;
	}
	bit_set(tb->jump_touched, i / 256);
	bit_set(tb->jump_pages, jump_page_bit(linear));
	if (block->flags & BT_BLOCK_CROSS)
		bit_set(tb->jump_pages, jump_page_bit(linear + 0x1000));
	if (tb == &v->table_k && !global) {
		if (v->local_jump_count < BT_JOURNAL)
			v->local_jump[v->local_jump_count] = (uint16_t)i;
		if (v->local_jump_count <= BT_JOURNAL)
			v->local_jump_count++;
	}
	tb->global |= global;
	entry->linear = linear;
	entry->code = (uint64_t)v->bt->cache.rx + block->far_entry;
}

/* Drop the jumps into the page of linear, and those whose instruction ends on it. */
static void jump_flush_page(struct bt_vcpu *v, struct bt_table *tb, uint64_t linear)
{
	uint64_t page = PAGE_OF(linear);

	if (!tb->jump_count || !bit_test(tb->jump_pages, jump_page_bit(page)))
		return;
	for (uint64_t l = page - 15; l < page; l++)
		if (tb->t->jump[bt_jump_index(l)].linear == l)
			drop_jump(v, tb, bt_jump_index(l));
	for (unsigned n = 0, first = bt_jump_index(page) & ~0xfffu; n < 0x1000; n++) {
		unsigned i = first + n;

		if (!(n & 255) && !bit_test(tb->jump_touched, i / 256))
			n += 255;
		else if (PAGE_OF(tb->t->jump[i].linear) == page)
			drop_jump(v, tb, i);
	}
}

void bt_jump_flush_all(struct bt_vcpu *v)
{
	bt_jump_flush(v, &v->table_k);
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++) {
		bt_jump_flush(v, &v->alias[a].table[BT_CLASS_U]);
		bt_jump_flush(v, &v->alias[a].table[BT_CLASS_KU]);
	}
}

/* ---- flushes the guest asks for ---- */

/* Drop the entries of 2 MiB from base (aligned) in one table: they are one page of each tag array. */
static void drop_2m(struct bt_table *tb, uint64_t base)
{
	unsigned first = INDEX(base);

	if (!bit_test(tb->touched, first / 512))
		return;
	for (unsigned i = first; i < first + 512; i++) {
		if ((tb->t->tag_read[i] ^ base) >> 21 == 0)
			drop_entry(tb, i);
	}
}

static void flush_page_in(struct bt_vcpu *v, struct bt_table *tb, uint64_t linear)
{
	unsigned i = INDEX(linear);

	if (!tb->count && !tb->jump_count)
		return;
	if (tb->large_1g) {
		flush_table(v, tb);
		return;
	}
	if (unlikely(bit_test(tb->large, large_bit(linear)) || bit_test(tb->large, large_bit(linear ^ (2u << 20))))) {
		uint64_t base = linear & ~((4ull << 20) - 1);

		drop_2m(tb, base);
		drop_2m(tb, base + (2u << 20));
		bt_jump_flush(v, tb);
		return;
	}
	if (bit_test(tb->touched, i / 512)) {
		if (tb->t->tag_read[i] == PAGE_OF(linear))
			drop_entry(tb, i);
	}
	jump_flush_page(v, tb, linear);
}

static void fetch_flush_page(struct bt_vcpu *v, uint64_t linear)
{
	struct bt_fetch *e = &v->fetch[(linear >> 12) & (BT_FETCH_ENTRIES - 1)];

	if (PAGE_OF(e->linear) == PAGE_OF(linear))
		e->linear = ~0ull;
	/* A large page may have other pieces in the table. */
	if (v->fetch_1g || bit_test(v->fetch_large, large_bit(linear)) ||
	    bit_test(v->fetch_large, large_bit(linear ^ (2u << 20))))
		v->fetch_generation++;
}

void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t linear)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->stats.flush_page++;
	fetch_flush_page(v, linear);
	flush_page_in(v, &v->table_k, linear);
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++) {
		struct bt_alias *alias = &v->alias[a];

		for (unsigned cls = 0; cls < BT_CLASS_COUNT; cls++)
			if (cls != BT_CLASS_K && (a == v->current || alias->table[cls].global))
				flush_page_in(v, &alias->table[cls], linear);
	}
}

static void flush_alias(struct bt_vcpu *v, struct bt_alias *alias)
{
	flush_table(v, &alias->table[BT_CLASS_U]);
	flush_table(v, &alias->table[BT_CLASS_KU]);
}

static struct bt_alias *find_alias(struct bt_vcpu *v, int32_t pcid)
{
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++)
		if (v->alias[a].pcid == pcid)
			return &v->alias[a];
	return NULL;
}

static int32_t current_pcid(const struct bt_vcpu *v)
{
	return v->cpu->state.cr4 & X86_CR4_PCIDE ? (int32_t)(v->cpu->state.cr3 & 0xfff) : 0;
}

void bt_tlb_flush_pcid(struct bt_cpu *cpu, unsigned pcid, bool one_page, uint64_t linear)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	struct bt_alias *alias = find_alias(v, (int32_t)pcid);

	v->stats.flush_space++;
	if (alias == &v->alias[v->current]) {
		if (one_page) {
			fetch_flush_page(v, linear);
			flush_page_in(v, &v->table_k, linear);
		} else {
			v->fetch_generation++;
			flush_k_local(v);
		}
	} else {
		v->fetch_generation++;
	}
	if (!alias)
		return;
	if (one_page) {
		flush_page_in(v, &alias->table[BT_CLASS_U], linear);
		flush_page_in(v, &alias->table[BT_CLASS_KU], linear);
	} else {
		flush_alias(v, alias);
	}
}

void bt_tlb_flush_all(struct bt_cpu *cpu, bool globals)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->stats.flush_all++;
	v->fetch_generation++;
	v->fetch_1g = false;
	bt_fill64(v->fetch_large, 0, 16);
	if (globals)
		flush_table(v, &v->table_k);
	else
		flush_k_local(v);
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++)
		flush_alias(v, &v->alias[a]);
}

void bt_tlb_flush_everything(struct bt_vcpu *v)
{
	bt_tlb_flush_all(v->cpu, true);
}

static void switch_alias(struct bt_vcpu *v, struct bt_alias *alias)
{
	alias->used = ++v->clock;
	if (alias == &v->alias[v->current])
		return;
	v->current = (unsigned)(alias - v->alias);
	v->tables[BT_CLASS_U] = &alias->table[BT_CLASS_U];
	v->tables[BT_CLASS_KU] = &alias->table[BT_CLASS_KU];
	table_use(v->tables[BT_CLASS_U]);
	table_use(v->tables[BT_CLASS_KU]);
	if (v->thread_ready)
		bt_set_gs(alias->gs_base);
}

/* CR3 was loaded: go to its address space's alias. flush: its translations may not be kept. */
void bt_tlb_load_cr3(struct bt_vcpu *v, bool flush)
{
	int32_t pcid = current_pcid(v);
	struct bt_alias *alias = find_alias(v, pcid);

	v->stats.switches++;
	flush |= v->bt->options.no_spaces;
	flush_k_local(v);
	if (alias) {
		v->stats.switch_hits++;
		if (flush) {
			v->fetch_generation++;
			flush_alias(v, alias);
		}
	} else {
		alias = &v->alias[0];
		for (unsigned a = 1; a < BT_ALIAS_COUNT && alias->pcid >= 0; a++)
			if (v->alias[a].pcid < 0 || v->alias[a].used < alias->used)
				alias = &v->alias[a];
		v->fetch_generation++;
		flush_alias(v, alias);
		alias->pcid = pcid;
	}
	switch_alias(v, alias);
}

/* DR7 or a breakpoint address changed: pages with data breakpoints may have no tags. */
void bt_watch_update(struct bt_vcpu *v)
{
	const uint64_t *dr = v->cpu->state.dr;
	bool active = false, was = v->watch_active;

	for (unsigned n = 0; n < 4; n++)
		active |= (dr[7] >> (n * 2) & 3) && (dr[7] >> (16 + n * 4) & 1);
	v->watch_active = active;
	if (active || was)
		bt_tlb_flush_everything(v);
}

void bt_tlb_init(struct bt_vcpu *v)
{
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++) {
		struct bt_alias *alias = &v->alias[a];

		alias->pcid = -1;
		table_init(&alias->table[BT_CLASS_U], alias->gs_base, BT_CLASS_U);
		table_init(&alias->table[BT_CLASS_KU], alias->gs_base, BT_CLASS_KU);
	}
	table_init(&v->table_k, v->alias[0].gs_base, BT_CLASS_K);
	table_use(&v->table_k);
	v->tables[BT_CLASS_K] = &v->table_k;
	v->alias[0].pcid = 0;
	v->current = 1; /* so that the switch below is one */
	switch_alias(v, &v->alias[0]);
	for (unsigned i = 0; i < BT_FETCH_ENTRIES; i++)
		v->fetch[i].linear = ~0ull;
	for (unsigned i = 0; i < BT_JC_ENTRIES; i++)
		drop_jump(v, &v->table_k, i);
}

/* ---- pages that become code ---- */

static void untag(struct bt_table *tb, uint64_t linear, const uint8_t *host)
{
	unsigned i = INDEX(linear);

	if (!tb->initialised || !bit_test(tb->touched, i / 512))
		return;
	if (tb->t->tag_write[i] == PAGE_OF(linear) && tb->t->addend[i] + PAGE_OF(linear) == (uint64_t)host)
		__atomic_store_n(&tb->t->tag_write[i], BT_TAG_EMPTY, __ATOMIC_RELAXED);
}

static void untag_everywhere(struct bt_table *tb, const uint8_t *host)
{
	if (!tb->initialised)
		return;
	for (unsigned page = 0; page < 128; page++) {
		if (!bit_test(tb->touched, page))
			continue;
		for (unsigned i = page * 512; i < page * 512 + 512; i++) {
			uint64_t tag = tb->t->tag_write[i];

			/* Zero is linear page 0 at its index, else an entry never filled. */
			if (tag != BT_TAG_EMPTY && INDEX(tag) == i && tb->t->addend[i] + tag == (uint64_t)host)
				__atomic_store_n(&tb->t->tag_write[i], BT_TAG_EMPTY, __ATOMIC_RELAXED);
		}
	}
}

static void untag_vcpu(struct bt_vcpu *v, uint64_t writer, const uint8_t *host)
{
	for (unsigned a = 0; a <= BT_ALIAS_COUNT; a++) {
		for (unsigned cls = 0; cls < BT_CLASS_COUNT; cls++) {
			struct bt_table *tb = a < BT_ALIAS_COUNT ? &v->alias[a].table[cls] : &v->table_k;

			if ((a < BT_ALIAS_COUNT) == (cls == BT_CLASS_K))
				continue;
			if (writer == BT_WRITERS_MANY)
				untag_everywhere(tb, host);
			else
				untag(tb, PAGE_OF(writer), host);
		}
	}
}

void bt_tlb_protect_page(struct bt_vcpu *self, struct bt_vm *bt, struct memory_slot *slot, uint64_t gpa)
{
	uint64_t index = (gpa - slot->gpa) >> PAGE_SHIFT;
	_Atomic uint64_t *writers = &bt->slots[slot - bt->vm->memory.slots].writers[index];
	const uint8_t *host = slot->host + (PAGE_OF(gpa) - slot->gpa);
	uint64_t writer;
	bool others = false;

	__atomic_fetch_or(&slot->page_flags[index], PAGE_FLAG_CODE, __ATOMIC_SEQ_CST);
	writer = atomic_load(writers);
	if (!writer)
		return;
	bt->stats.protects++;
	for (unsigned n = 0; n < bt->vm->vcpu_count; n++) {
		struct vcpu *vcpu = bt->vm->vcpus[n];
		struct bt_vcpu *v = vcpu->engine_data;

		if (!v || (writer != BT_WRITERS_MANY && (writer & PAGE_MASK) != n + 1))
			continue;
		untag_vcpu(v, writer, host);
		others |= v != self;
	}
	/* Another vCPU may be between its check and its store. */
	if (others)
		bt_wait_not_running(self, bt);
	atomic_store(writers, 0);
}
