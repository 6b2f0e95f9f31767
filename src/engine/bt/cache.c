/* SPDX-License-Identifier: MIT */
/*
 * The code cache: blocks by guest-physical address and mode, and what happens when guest code changes.
 *
 * Looking up takes no lock: buckets are singly linked lists of blocks whose memory is not reused before
 * the next full flush. Translating, invalidating and flushing take bt_vm.lock.
 *
 * Code pages. Before the first byte of a page is read for translation the page gets PAGE_FLAG_CODE and loses all write
 * tags (bt_tlb_protect_page), so every later write comes through memory_slow.c, which writes and *then* calls bt_code_written().
 * That looks at the 64-byte granules the page's live blocks cover. A write that lands while the page is being read is
 * caught because the page's address stands in bt_vm.translating before the first byte is read and its
 * granules are set before it is removed.
 *
 * Invalidating a block does not wait for anybody: the first bytes of its near entry become a jump to its exit stub, it leaves the
 * hash and its page. Other vCPUs that are inside finish it, as a processor finishes what it has fetched. When the same code is
 * translated again, the dead block's entry is pointed at the new one, so that jumps chained to it stay
 * direct.
 *
 * A full flush needs all vCPUs out of bt_enter(): the one that finds the cache full leaves to its dispatcher, sets
 * flush_pending and waits for the others' in_run.
 */
#include "base/util.h"
#include "engine/bt/runtime.h"

#define DEAD_MAX 64
#define FAULT_MARGIN 4096u /* more than one block notes */

static unsigned hash_of(uint64_t gpa, uint32_t mode)
{
	return (unsigned)((gpa + ((uint64_t)mode << 40)) * 0x9e3779b97f4a7c15ull >>
			  (64 - BT_HASH_BITS));
}

struct bt_block *bt_block_lookup(struct bt_vm *bt, uint64_t gpa, uint32_t mode, uint64_t next_gpa)
{
	struct bt_block *b =
		atomic_load_explicit(&bt->hash[hash_of(gpa, mode)], memory_order_acquire);

	for (; b; b = atomic_load_explicit(&b->hash_next, memory_order_acquire))
		if (b->gpa == gpa && b->mode == mode &&
		    (!(b->flags & BT_BLOCK_CROSS) || next_gpa == ~0ull || b->gpa_next == next_gpa))
			return b;
	return NULL;
}

static void hash_insert(struct bt_vm *bt, struct bt_block *block)
{
	struct bt_block *_Atomic *head = &bt->hash[hash_of(block->gpa, block->mode)];

	atomic_store_explicit(&block->hash_next, atomic_load(head), memory_order_relaxed);
	atomic_store_explicit(head, block, memory_order_release);
}

static void hash_remove(struct bt_vm *bt, struct bt_block *block)
{
	struct bt_block *_Atomic *link = &bt->hash[hash_of(block->gpa, block->mode)];
	struct bt_block *b;

	while ((b = atomic_load(link)) && b != block)
		link = &b->hash_next;
	if (b)
		atomic_store_explicit(link, atomic_load(&block->hash_next), memory_order_release);
}

/* ---- pages ---- */

static struct bt_page *page_of(struct bt_vm *bt, uint64_t gpa, struct memory_slot **slot_out)
{
	struct memory_slot *slot = bt_find_slot(bt->vm, gpa);

	*slot_out = slot;
	if (!slot)
		return NULL;
	return &bt->slots[slot - bt->vm->memory.slots].pages[(gpa - slot->gpa) >> PAGE_SHIFT];
}

/* The granules of page bytes [first, last]. */
static uint64_t granule_mask(unsigned first, unsigned last)
{
	uint64_t from = ~0ull << (first >> 6), to = ~0ull >> (63 - (last >> 6));

	return from & to;
}

/* Granules a block covers on its own page. */
static uint64_t block_granules(const struct bt_block *block)
{
	unsigned first = block->gpa & PAGE_MASK, last = first + block->size - 1u;

	return block->size ? granule_mask(first, last > PAGE_MASK ? PAGE_MASK : last) : 0;
}

static uint64_t cross_granules(const struct bt_block *block)
{
	unsigned end = (unsigned)(block->gpa & PAGE_MASK) + block->size;

	return end > PAGE_SIZE ? granule_mask(0, end - (unsigned)PAGE_SIZE - 1) : 0;
}

static void recompute_granules(struct memory_slot *slot, struct bt_page *page, uint64_t gpa)
{
	uint64_t granules = 0;

	for (struct bt_block *b = page->blocks; b; b = b->page_next)
		granules |= block_granules(b);
	for (struct bt_cross *c = page->cross; c; c = c->next)
		granules |= cross_granules(c->block);
	atomic_store(&page->granules, granules);
	if (!granules)
		__atomic_fetch_and(&slot->page_flags[(gpa - slot->gpa) >> PAGE_SHIFT],
				   (uint8_t)~PAGE_FLAG_CODE, __ATOMIC_SEQ_CST);
}

/* ---- invalidation ---- */

/* Make the near entry a jump to the cache offset `to`, in one write. */
static void redirect(struct bt_vm *bt, struct bt_block *block, uint32_t to)
{
	uint64_t *entry = (uint64_t *)(bt->cache.rw + block->near_entry);
	uint32_t rel = to - (block->near_entry + 5);
	uint64_t bytes = *entry & 0xffffff0000000000ull;

	bytes |= 0xe9 | (uint64_t)rel << 8;
	__atomic_store_n(entry, bytes, __ATOMIC_SEQ_CST);
}

/* Jumps chained to the oldest dead block of the page will take the long way. */
static void forget_oldest(struct bt_page *page)
{
	struct bt_block **link = &page->dead;

	while ((*link)->page_next)
		link = &(*link)->page_next;
	*link = NULL;
	page->dead_count--;
}

static void kill_block(struct bt_vm *bt, struct bt_block *block, struct bt_page *page)
{
	block->flags |= BT_BLOCK_DEAD;
	redirect(bt, block, block->dead_stub);
	hash_remove(bt, block);
	if (page) {
		block->page_next = page->dead;
		page->dead = block;
		if (++page->dead_count > DEAD_MAX)
			forget_oldest(page);
	}
	bt->stats.invalidated++;
}

/* Remove a crossing block from the list of its second page. */
static void drop_cross(struct bt_vm *bt, struct bt_block *block)
{
	struct memory_slot *slot;
	struct bt_page *page = page_of(bt, block->gpa_next, &slot);

	if (!page)
		return;
	for (struct bt_cross **link = &page->cross; *link; link = &(*link)->next)
		if ((*link)->block == block) {
			*link = (*link)->next;
			break;
		}
}

/* Remove a crossing block from the list of its first page. */
static void drop_first(struct bt_vm *bt, struct bt_block *block)
{
	struct memory_slot *slot;
	struct bt_page *page = page_of(bt, block->gpa, &slot);

	if (!page)
		return;
	for (struct bt_block **link = &page->blocks; *link; link = &(*link)->page_next)
		if (*link == block) {
			*link = block->page_next;
			break;
		}
	kill_block(bt, block, NULL);
	recompute_granules(slot, page, block->gpa);
}

/* Invalidate the blocks of one page that touch any of the granules. Lock held. */
static bool invalidate_page(struct bt_vm *bt, struct memory_slot *slot, struct bt_page *page,
			    uint64_t gpa, uint64_t granules)
{
	struct bt_block **link = &page->blocks;
	struct bt_cross **cross = &page->cross;
	bool any = false;

	while (*link) {
		struct bt_block *block = *link;

		if (!(block_granules(block) & granules)) {
			link = &block->page_next;
			continue;
		}
		*link = block->page_next;
		if (block->flags & BT_BLOCK_CROSS)
			drop_cross(bt, block);
		kill_block(bt, block, page);
		any = true;
	}
	while (*cross) {
		struct bt_block *block = (*cross)->block;

		if (!(cross_granules(block) & granules)) {
			cross = &(*cross)->next;
			continue;
		}
		*cross = (*cross)->next;
		drop_first(bt, block);
		any = true;
	}
	if (any) {
		page->invalidations++;
		recompute_granules(slot, page, gpa);
		/* A vCPU may be going round inside a block: its loop polls. */
		for (unsigned n = 0; n < bt->vm->vcpu_count; n++) {
			struct bt_vcpu *v = bt->vm->vcpus[n]->engine_data;

			if (v)
				atomic_store(&v->cpu->poll, 1);
		}
	}
	return any;
}

static bool being_translated(struct bt_vm *bt, uint64_t gpa)
{
	return atomic_load(&bt->translating[0]) == PAGE_OF(gpa) ||
	       atomic_load(&bt->translating[1]) == PAGE_OF(gpa);
}

bool bt_code_overlaps(struct bt_vm *bt, const struct memory_slot *slot, uint64_t gpa, unsigned size)
{
	uint64_t index = (gpa - slot->gpa) >> PAGE_SHIFT;
	const struct bt_page *page = &bt->slots[slot - bt->vm->memory.slots].pages[index];

	return atomic_load(&page->granules) &
	       granule_mask(gpa & PAGE_MASK, (unsigned)((gpa + size - 1) & PAGE_MASK));
}

bool bt_code_written(struct bt_vm *bt, struct memory_slot *slot, uint64_t gpa, uint64_t size)
{
	bool any = false;

	bt_fence(); /* the write before the look */
	while (size) {
		uint64_t n = PAGE_SIZE - (gpa & PAGE_MASK), granules;
		uint64_t index = (gpa - slot->gpa) >> PAGE_SHIFT;
		struct bt_page *page = &bt->slots[slot - bt->vm->memory.slots].pages[index];

		if (n > size)
			n = size;
		granules = granule_mask(gpa & PAGE_MASK, (unsigned)((gpa + n - 1) & PAGE_MASK));
		if ((__atomic_load_n(&slot->page_flags[index], __ATOMIC_RELAXED) &
		     PAGE_FLAG_CODE) &&
		    ((atomic_load(&page->granules) & granules) || being_translated(bt, gpa))) {
			bt_lock(&bt->lock);
			any |= invalidate_page(bt, slot, page, gpa, granules);
			bt_unlock(&bt->lock);
		}
		gpa += n;
		size -= n;
	}
	return any;
}

/* ---- translation ---- */

/* Point the dead predecessors of a new block at it. */
static void revive_chains(struct bt_vm *bt, struct bt_page *page, const struct bt_block *block)
{
	for (struct bt_block *b = page->dead; b; b = b->page_next)
		if (b->gpa == block->gpa && b->mode == block->mode &&
		    (!(b->flags & BT_BLOCK_POLLS) || (block->flags & BT_BLOCK_POLLS)) &&
		    !((b->flags | block->flags) & BT_BLOCK_CROSS))
			redirect(bt, b, block->near_entry);
}

static bool dead_polls(const struct bt_page *page, uint64_t gpa, uint32_t mode)
{
	for (const struct bt_block *b = page->dead; b; b = b->page_next)
		if (b->gpa == gpa && b->mode == mode && (b->flags & BT_BLOCK_POLLS))
			return true;
	return false;
}

static void publish(struct bt_vm *bt, struct bt_block *block)
{
	struct memory_slot *slot;
	struct bt_page *page = page_of(bt, block->gpa, &slot);

	if (page) {
		block->page_next = page->blocks;
		page->blocks = block;
		atomic_fetch_or(&page->granules, block_granules(block));
		revive_chains(bt, page, block);
	}
	if (block->flags & BT_BLOCK_CROSS) {
		struct bt_page *second = page_of(bt, block->gpa_next, &slot);

		if (second) {
			struct bt_cross *cross = &bt->crosses[bt->cross_count++];

			cross->block = block;
			cross->next = second->cross;
			second->cross = cross;
			atomic_fetch_or(&second->granules, cross_granules(block));
		}
	}
	hash_insert(bt, block);
}

/* Make the page of gpa a code page. */
static void protect(struct bt_vcpu *v, struct bt_vm *bt, unsigned which, uint64_t gpa)
{
	struct memory_slot *slot = bt_find_slot(bt->vm, gpa);

	atomic_store(&bt->translating[which], PAGE_OF(gpa));
	if (slot && !(__atomic_load_n(&slot->page_flags[(gpa - slot->gpa) >> PAGE_SHIFT],
				      __ATOMIC_RELAXED) &
		      PAGE_FLAG_CODE))
		bt_tlb_protect_page(v, bt, slot, gpa);
}

static void unprotect_unused(struct bt_vm *bt, unsigned which)
{
	struct memory_slot *slot;
	uint64_t gpa = atomic_load(&bt->translating[which]);
	struct bt_page *page = gpa == ~0ull ? NULL : page_of(bt, gpa, &slot);

	if (page && !atomic_load(&page->granules))
		recompute_granules(slot, page, gpa);
	atomic_store(&bt->translating[which], ~0ull);
}

#define READY_AHEAD (64u << 10) /* more than one block can take */
#define READY_STEP (512u << 10)

/*
 * Make the next pages of the code cache, in both of its mappings, many at a time: a page made when it is first
 * touched costs more than translating the code that goes into it.
 */
static void make_ready(const struct bt_cache *cache, uint32_t next, uint32_t limit, uint32_t *ready)
{
	uint32_t size = MIN(READY_STEP, limit - *ready);

	if (likely(next + READY_AHEAD <= *ready) || !size)
		return;
	bt_populate(cache->rw + *ready, size, true);
	bt_populate(cache->rx + *ready, size, false);
	*ready += size;
}

static struct bt_block *translate(struct bt_vcpu *v, struct bt_vm *bt, const struct bt_fetch *page,
				  uint64_t gpa, uint32_t mode, bool poll,
				  const struct bt_fetch *next, bool *need_next)
{
	struct bt_cache *cache = &bt->cache, before = *cache;
	struct bt_block *block = &bt->blocks[bt->block_count];
	struct bt_translate_request request = {
		.cpu = v->cpu,
		.cache = cache,
		.gpa = gpa,
		.mode = mode,
		.page = page->host,
		.next_page = next ? next->host : NULL,
		.next_page_gpa = next ? next->gpa : ~0ull,
		.poll = poll,
		.max_instructions = mode & BT_MODE_ONE ? 1 : bt->options.max_instructions,
		.options = &bt->options,
	};
	enum bt_translate_status status;
	uint64_t start;

	if (bt->block_count >= BT_BLOCKS_MAX || bt->cross_count >= BT_CROSS_MAX ||
	    cache->hot_fault_count + FAULT_MARGIN > cache->fault_capacity ||
	    cache->cold_fault_count + FAULT_MARGIN > cache->fault_capacity)
		return NULL;
	make_ready(cache, cache->hot, cache->hot_limit, &cache->hot_ready);
	make_ready(cache, cache->cold, cache->cold_limit, &cache->cold_ready);
	bt_fill(block, 0, sizeof(*block));
	block->gpa_next = ~0ull;
	atomic_store_explicit(&v->translating, true, memory_order_relaxed);
	start = __builtin_ia32_rdtsc();
	status = bt_translate(&request, block);
	bt->stats.translate_tsc += __builtin_ia32_rdtsc() - start;
	atomic_store_explicit(&v->translating, false, memory_order_relaxed);
	if (status != BT_TRANSLATED) {
		*cache = before;
		*need_next = status == BT_TRANSLATE_NEED_NEXT_PAGE && !next;
		return NULL;
	}
	block->gpa = gpa;
	block->mode = mode;
	bt->block_count++;
	bt->stats.translations++;
	bt->stats.guest_bytes += block->size;
	bt->stats.guest_instructions += block->instructions;
	bt->stats.hot_bytes += cache->hot - before.hot;
	bt->stats.cold_bytes += cache->cold - before.cold;
	publish(bt, block);
	if (unlikely(bt->perf_map)) {
		bt_fpu_save(v->cpu);
		bt_perf_map_block(bt, block, PAGE_OF(page->linear), &before);
	}
	return block;
}

static bool usable(const struct bt_block *block, bool poll)
{
	return block && (!poll || (block->flags & (BT_BLOCK_POLLS | BT_BLOCK_CROSS)));
}

struct bt_block *bt_block_get(struct bt_vcpu *v, const struct bt_fetch *page, uint64_t gpa,
			      uint32_t mode, bool poll, const struct bt_fetch *next,
			      bool *need_next)
{
	struct bt_vm *bt = v->bt;
	struct memory_slot *slot;
	struct bt_page *info;
	struct bt_block *block;

	*need_next = false;
	bt_lock(&bt->lock);
	block = bt_block_lookup(bt, gpa, mode, next ? next->gpa : ~0ull);
	if (block && (block->flags & BT_BLOCK_CROSS) && !next) {
		*need_next = true;
		block = NULL;
		goto out;
	}
	if (usable(block, poll))
		goto out;
	info = page_of(bt, gpa, &slot);
	if (block && info) {
		/* There, but without the poll a backward jump needs: replace it. */
		for (struct bt_block **link = &info->blocks; *link; link = &(*link)->page_next)
			if (*link == block) {
				*link = block->page_next;
				break;
			}
		kill_block(bt, block, info);
	} else if (block) {
		hash_remove(bt, block);
		redirect(bt, block, block->dead_stub);
	}
	if (info && dead_polls(info, gpa, mode))
		poll = true;
	protect(v, bt, 0, gpa);
	if (next)
		protect(v, bt, 1, next->gpa);
	block = translate(v, bt, page, gpa, mode, poll && !(mode & BT_MODE_ONE), next, need_next);
	unprotect_unused(bt, 0);
	unprotect_unused(bt, 1);
out:
	bt_unlock(&bt->lock);
	return block;
}

void bt_cache_note_fault(struct bt_cache *cache, bool cold, uint32_t host, uint16_t offset,
			 uint8_t spill_reg)
{
	uint32_t *count = cold ? &cache->cold_fault_count : &cache->hot_fault_count;
	struct bt_fault_map *map = cold ? cache->cold_faults : cache->hot_faults;

	if (*count >= cache->fault_capacity)
		return; /* translate() keeps a margin */
	map[*count] =
		(struct bt_fault_map){ .host = host, .offset = offset, .spill_reg = spill_reg };
	++*count;
}

const struct bt_fault_map *bt_fault_find(const struct bt_cache *cache, uint32_t offset)
{
	bool cold = offset >= cache->hot_limit;
	const struct bt_fault_map *map = cold ? cache->cold_faults : cache->hot_faults;
	uint32_t low = 0, high = cold ? cache->cold_fault_count : cache->hot_fault_count;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (map[mid].host == offset)
			return &map[mid];
		if (map[mid].host < offset)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* ---- stopping vCPUs ---- */

/* Keep the other vCPUs out of translated code, and wait until they are. */
static void stop_running(struct bt_vcpu *self, struct bt_vm *bt)
{
	struct vm *vm = bt->vm;

	bt->stats.stops++;
	for (unsigned n = 0; n < vm->vcpu_count; n++) {
		struct bt_vcpu *v = vm->vcpus[n]->engine_data;

		if (!v || v == self)
			continue;
		atomic_fetch_add(&v->hold, 1);
		atomic_store(&v->cpu->poll, 1);
	}
	bt_membarrier();
	for (unsigned n = 0; n < vm->vcpu_count; n++) {
		struct bt_vcpu *v = vm->vcpus[n]->engine_data;
		unsigned spins = 0;

		if (!v || v == self)
			continue;
		while (atomic_load(&v->running)) {
			atomic_store(&v->cpu->poll, 1); /* its dispatcher may have cleared it */
			if (++spins < 1000)
				bt_pause();
			else
				bt_yield();
		}
	}
}

static void let_run(struct bt_vcpu *self, struct bt_vm *bt)
{
	for (unsigned n = 0; n < bt->vm->vcpu_count; n++) {
		struct bt_vcpu *v = bt->vm->vcpus[n]->engine_data;

		if (!v || v == self)
			continue;
		if (atomic_fetch_sub(&v->hold, 1) == 1)
			bt_futex_wake(&v->hold);
	}
}

bool bt_wait_not_running(struct bt_vcpu *self, struct bt_vm *bt)
{
	stop_running(self, bt);
	let_run(self, bt);
	return true;
}

/* entry.S: `hold` was seen on the way to translated code; running is 0. */
void bt_part_hold(struct bt_vcpu *v)
{
	uint32_t hold;
	unsigned spins = 0;

	while ((hold = atomic_load(&v->hold))) {
		if (++spins < 2000)
			bt_pause();
		else
			bt_futex_wait(&v->hold, hold);
	}
}

void bt_exclusive_begin(struct bt_vcpu *v)
{
	if (v->exclusive || !v->multi)
		return;
	bt_lock(&v->bt->exclusive_lock);
	stop_running(v, v->bt);
	v->exclusive = true;
}

void bt_exclusive_end(struct bt_vcpu *v)
{
	if (!v->exclusive)
		return;
	v->exclusive = false;
	let_run(v, v->bt);
	bt_unlock(&v->bt->exclusive_lock);
}

/* ---- the full flush ---- */

static void reset_pages(struct bt_vm *bt)
{
	for (uint32_t n = 0; n < bt->block_count; n++) {
		struct bt_block *block = &bt->blocks[n];
		uint64_t gpas[2] = { block->gpa, block->gpa_next };

		for (unsigned i = 0; i < 2; i++) {
			struct memory_slot *slot;
			struct bt_page *page = gpas[i] == ~0ull ? NULL :
								  page_of(bt, gpas[i], &slot);

			if (!page)
				continue;
			page->blocks = page->dead = NULL;
			page->cross = NULL;
			page->dead_count = 0;
			recompute_granules(slot, page, gpas[i]);
		}
	}
}

void bt_cache_flush(struct bt_vcpu *self)
{
	struct bt_vm *bt = self->bt;
	struct vm *vm = bt->vm;
	uint32_t expected = 0;

	/* Someone else is at it: the dispatcher waits for flush_pending. */
	if (!atomic_compare_exchange_strong(&bt->flush_pending, &expected, 1))
		return;
	for (unsigned n = 0; n < vm->vcpu_count; n++) {
		struct bt_vcpu *v = vm->vcpus[n]->engine_data;
		unsigned spins = 0;

		if (!v || v == self)
			continue;
		while (atomic_load(&v->in_run)) {
			atomic_store(&v->cpu->poll, 1);
			if (++spins < 1000)
				bt_pause();
			else
				bt_yield();
		}
	}
	bt_lock(&bt->lock);
	reset_pages(bt);
	for (unsigned n = 0; n < 1u << BT_HASH_BITS; n++)
		atomic_store_explicit(&bt->hash[n], NULL, memory_order_relaxed);
	bt->block_count = bt->cross_count = 0;
	bt->cache.hot = 64;
	bt->cache.cold = bt->cache.hot_limit;
	bt->cache.hot_fault_count = bt->cache.cold_fault_count = 0;
	bt->stats.cache_flushes++;
	for (unsigned n = 0; n < vm->vcpu_count; n++)
		if (vm->vcpus[n]->engine_data)
			bt_jump_flush_all(vm->vcpus[n]->engine_data);
	bt_unlock(&bt->lock);
	atomic_store(&bt->flush_pending, 0);
	bt_futex_wake(&bt->flush_pending);
}
