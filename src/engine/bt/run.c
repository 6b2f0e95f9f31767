/* SPDX-License-Identifier: MIT */
/*
 * The dispatcher: vcpu_run(), the execution mode, and the C parts of the trampolines that look for code.
 *
 * vcpu_run() is a loop: look at requests and events, deliver what is due, find or make the translation at RIP,
 * enter it. Translated code comes back to it for events (tramp_poll), for what the C parts cannot finish
 * (cache full) and for instructions that have to be run alone (after STI and MOV SS, near a
 * segment limit, at data breakpoints).
 *
 * Waking: poll is set after the request or the interrupt was noted; it is cleared before they are looked at.
 */
#include "engine/bt/runtime.h"

#include <time.h>

#include "base/log.h"

#define DR6_BS 0x4000ull

/* ---- modes ---- */

static bool flat_data(const struct x86_segment *seg)
{
	return seg->base == 0 && seg->limit == 0xffffffffu &&
	       (seg->attr & (X86_ATTR_P | X86_ATTR_S | 0x000e)) == (X86_ATTR_P | X86_ATTR_S | 0x0002);
}

static uint32_t control_mode(const struct x86_cpu_state *s, unsigned cpl)
{
	uint32_t mode = 0;

	if (unlikely(s->cr0 & (X86_CR0_TS | X86_CR0_EM))) {
		mode |= BT_MODE_NO_FPU;
		if ((s->cr0 & (X86_CR0_TS | X86_CR0_MP)) == (X86_CR0_TS | X86_CR0_MP))
			mode |= BT_MODE_MONITOR_TRAP;
	}
	if (!(s->cr4 & X86_CR4_OSFXSR))
		mode |= BT_MODE_NO_SSE;
	if (!(s->cr4 & X86_CR4_OSXSAVE) || (s->xcr0 & 6) != 6)
		mode |= BT_MODE_NO_AVX | BT_MODE_NO_AVX512;
	else if ((s->xcr0 & 0xe0) != 0xe0)
		mode |= BT_MODE_NO_AVX512;
	if (unlikely((s->cr4 & X86_CR4_TSD) && cpl != 0))
		mode |= BT_MODE_TSD;
	if (unlikely((s->cr0 & X86_CR0_AM) && cpl == 3 && (s->rflags & X86_FLAG_AC)))
		mode |= BT_MODE_ALIGN;
	return mode;
}

/* Are execution breakpoints enabled in DR7? */
static bool execution_breakpoints(const struct x86_cpu_state *s)
{
	for (unsigned n = 0; n < 4; n++)
		if ((s->dr[7] >> (n * 2) & 3) && !(s->dr[7] >> (16 + n * 4) & 3))
			return true;
	return false;
}

uint32_t bt_mode(struct bt_vcpu *v)
{
	const struct x86_cpu_state *s = &v->cpu->state;
	unsigned cpl = x86_cpl(s);
	uint32_t mode = control_mode(s, cpl) | (uint32_t)bt_class_of(s) << BT_MODE_CLASS_SHIFT;

	if (cpl == 0)
		mode |= BT_MODE_CPL0;
	if (unlikely(s->rflags & X86_FLAG_TF))
		mode |= BT_MODE_STEP;
	if (unlikely(v->bt->breakpoint_count || ((s->dr[7] & 0xff) && execution_breakpoints(s))))
		mode |= BT_MODE_DEBUG;
	if (likely(x86_in_64bit(s)))
		return mode | X86_CODE64 | BT_MODE_FLAT_CS | BT_MODE_FLAT_DATA;

	bt_update_segments(v->cpu);
	mode |= s->seg[X86_CS].attr & X86_ATTR_DB ? X86_CODE32 : X86_CODE16;
	if (s->seg[X86_SS].attr & X86_ATTR_DB)
		mode |= BT_MODE_SS32;
	if (s->seg[X86_CS].base == 0 && s->seg[X86_CS].limit == 0xffffffffu)
		mode |= BT_MODE_FLAT_CS;
	if (flat_data(&s->seg[X86_DS]) && flat_data(&s->seg[X86_ES]) && flat_data(&s->seg[X86_SS]))
		mode |= BT_MODE_FLAT_DATA;
	if (!(s->cr0 & X86_CR0_PE) || (s->rflags & X86_FLAG_VM))
		mode |= BT_MODE_V86_REAL;
	return mode;
}

static uint64_t linear_rip(const struct x86_cpu_state *s)
{
	return x86_in_64bit(s) ? s->rip : (uint32_t)(s->rip + s->seg[X86_CS].base);
}

static uint64_t rip_of_linear(const struct x86_cpu_state *s, uint64_t linear)
{
	return x86_in_64bit(s) ? linear : (uint32_t)(linear - s->seg[X86_CS].base);
}

/* Does the jump table lead to blocks of this mode? */
static bool jump_table_fits(const struct bt_table *tb, const struct x86_cpu_state *s, uint32_t mode)
{
	return tb->jump_mode == mode &&
	       ((mode & BT_MODE_FLAT_CS) ||
		(tb->jump_base == s->seg[X86_CS].base && tb->jump_limit == s->seg[X86_CS].limit));
}

static void prepare_jump_table(struct bt_vcpu *v, uint32_t mode)
{
	struct bt_table *tb = v->tables[(mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT];
	const struct x86_cpu_state *s = &v->cpu->state;

	mode &= ~BT_MODE_ONE;
	if (likely(jump_table_fits(tb, s, mode)))
		return;
	bt_jump_flush(v, tb);
	tb->jump_mode = mode;
	tb->jump_base = s->seg[X86_CS].base;
	tb->jump_limit = s->seg[X86_CS].limit;
}

static void note_user(struct bt_vcpu *v)
{
	struct timespec ts;
	uint64_t now, none = 0;

	v->user_seen = true;
	bt_fpu_save(v->cpu);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec - v->vm->start_host_ns;
	atomic_compare_exchange_strong(&v->vm->first_user_ns, &none, now ? now : 1);
}

/* ---- finding code ---- */

enum located { LOCATED, LOCATE_FAULT, LOCATE_FULL };

/*
 * Find or make the block at linear for the mode; *mode becomes that of the block (BT_MODE_ONE near a limit).
 */
static enum located locate(struct bt_vcpu *v, uint64_t linear, uint32_t *mode, bool poll, struct bt_block **block,
			   bool *global, struct x86_fault *fault)
{
	const struct x86_cpu_state *s = &v->cpu->state;
	const struct bt_fetch *page, *next = NULL;
	uint64_t gpa, rip = rip_of_linear(s, linear);
	uint32_t limit = s->seg[X86_CS].limit;
	bool need_next;

	if (unlikely(!(*mode & BT_MODE_FLAT_CS))) {
		if (rip > limit) {
			*fault = (struct x86_fault){ .vector = X86_GP, .has_error = true };
			return LOCATE_FAULT;
		}
		/* The rest of the page is not all within the limit: one instruction at a time. */
		if (rip + (PAGE_MASK - (linear & PAGE_MASK)) > limit)
			*mode |= BT_MODE_ONE;
	} else if (unlikely((uint64_t)((int64_t)(linear << 16) >> 16) != linear)) {
		*fault = (struct x86_fault){ .vector = X86_GP, .has_error = true };
		return LOCATE_FAULT;
	}
	page = bt_translate_fetch(v, linear, fault);
	if (unlikely(!page))
		return LOCATE_FAULT;
	gpa = page->gpa | (linear & PAGE_MASK);
	*global = page->global;
	*block = bt_block_lookup(v->bt, gpa, *mode, ~0ull);
	if (likely(*block && !((*block)->flags & BT_BLOCK_CROSS) && (!poll || ((*block)->flags & BT_BLOCK_POLLS))))
		goto found;
	need_next = *block && ((*block)->flags & BT_BLOCK_CROSS);
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		if (need_next) {
			uint64_t next_linear = PAGE_OF(linear) + PAGE_SIZE;

			if ((*mode & BT_MODE_CODE) != X86_CODE64)
				next_linear = (uint32_t)next_linear;
			next = bt_translate_fetch(v, next_linear, fault);
			if (!next)
				return LOCATE_FAULT;
			*global &= next->global;
			*block = bt_block_lookup(v->bt, gpa, *mode, next->gpa);
			if (*block)
				goto found;
		}
		*block = bt_block_get(v, page, gpa, *mode, poll, next, &need_next);
		if (*block)
			goto found;
		if (!need_next || next)
			break;
	}
	v->need_flush = true;
	return LOCATE_FULL;
found:
	if (unlikely(!(*mode & BT_MODE_FLAT_CS)) && (*mode & BT_MODE_ONE || (*block)->flags & BT_BLOCK_CROSS) &&
	    (*block)->size && rip + (*block)->size - 1 > limit) {
		*fault = (struct x86_fault){ .vector = X86_GP, .has_error = true };
		return LOCATE_FAULT;
	}
	return LOCATED;
}

static uint64_t near_entry(struct bt_vcpu *v, const struct bt_block *block, uint64_t linear)
{
	v->cpu->pc_base = PAGE_OF(linear);
	return (uint64_t)v->bt->cache.rx + block->near_entry;
}

static void fill_jump(struct bt_vcpu *v, uint64_t linear, uint32_t mode, const struct bt_block *block, bool global)
{
	if (!(mode & BT_MODE_ONE))
		bt_jump_fill(v, linear, block, global);
}

/* Raise a fault of instruction fetch: RIP is the state's. */
static uint64_t raise_fetch(struct bt_cpu *cpu, const struct x86_fault *fault)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->stats.faults++;
	bt_raise_here(v, fault);
	return bt_continue(cpu);
}

/* The block at linear for a jump from running code: its address, or 0. */
static uint64_t jump_target(struct bt_vcpu *v, uint64_t linear, bool poll, struct bt_block **block, bool *global)
{
	struct bt_cpu *cpu = v->cpu;
	uint32_t mode = v->mode;
	struct x86_fault fault;

	switch (locate(v, linear, &mode, poll, block, global, &fault)) {
	case LOCATE_FAULT:
		cpu->state.rip = rip_of_linear(&cpu->state, linear);
		*block = NULL;
		return raise_fetch(cpu, &fault);
	case LOCATE_FULL:
		*block = NULL;
		cpu->state.rip = rip_of_linear(&cpu->state, linear);
		return 0;
	case LOCATED:
		break;
	}
	if (unlikely(mode & BT_MODE_ONE)) { /* the dispatcher runs these */
		*block = NULL;
		cpu->state.rip = rip_of_linear(&cpu->state, linear);
		return 0;
	}
	return near_entry(v, *block, linear);
}

/* Go on at linear from running code, leaving it in the jump cache. */
static uint64_t jump_to(struct bt_vcpu *v, uint64_t linear)
{
	struct bt_block *block;
	bool global;
	uint64_t target = jump_target(v, linear, false, &block, &global);

	if (likely(block))
		fill_jump(v, linear, v->mode, block, global);
	return target;
}

/* The dispatcher has to be passed. */
static bool must_dispatch(const struct bt_vcpu *v)
{
	return unlikely(v->one || atomic_load_explicit(&v->cpu->poll, memory_order_relaxed));
}

/* An indirect branch went to a non-canonical address: the #GP is the branch's, which is taken back. (A direct one, or
 * falling through, can only have crossed the border nearby: then the fault is the target's.) */
static bool branch_to_nowhere(const struct bt_cpu *cpu, uint64_t linear)
{
	return unlikely((uint64_t)((int64_t)(linear << 16) >> 16) != linear) && x86_in_64bit(&cpu->state) &&
	       linear - cpu->pc_base + 0x80002000u > 0x100004000u;
}

uint64_t bt_part_jump(struct bt_cpu *cpu, uint64_t unused, uint64_t linear)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	struct bt_table *tb = v->tables[(v->mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT];
	unsigned i = bt_jump_index(linear);

	(void)unused;
	v->stats.jump_misses++;
	if (branch_to_nowhere(cpu, linear)) {
		cpu->state.gpr[X86_RSP] -= (uint64_t)(int64_t)((int32_t)cpu->branch >> 16);
		return bt_finish(cpu, bt_raise_vector(cpu, cpu->branch & PAGE_MASK, X86_GP, true, 0));
	}
	if (must_dispatch(v)) {
		cpu->state.rip = rip_of_linear(&cpu->state, linear);
		return 0;
	}
	if (tb->t->jump[i].linear == linear && linear != BT_JUMP_EMPTY) {
		v->r10 = linear;
		v->r11 = i * 2;
		return tb->t->jump[i].code;
	}
	return jump_to(v, linear);
}

uint64_t bt_part_chain(struct bt_cpu *cpu, const struct bt_exit *exit)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	uint64_t linear = cpu->pc_base + exit->target, target;
	struct bt_block *block;
	bool global;

	v->stats.chains++;
	if (must_dispatch(v)) {
		cpu->state.rip = rip_of_linear(&cpu->state, linear);
		return 0;
	}
	target = jump_target(v, linear, exit->backward, &block, &global);
	if (likely(block && exit->patch && !v->bt->options.no_chain && !(block->flags & BT_BLOCK_CROSS))) {
		const struct bt_cache *cache = &v->bt->cache;
		uint8_t *rx = (uint8_t *)exit + exit->patch;
		uint32_t rel = (uint32_t)(target - ((uint64_t)rx + 4));

		__atomic_store_n((uint32_t *)(cache->rw + (rx - cache->rx)), rel, __ATOMIC_RELEASE);
	}
	return target;
}

uint64_t bt_part_poll(struct bt_cpu *cpu, uint64_t unused, uint64_t offset)
{
	(void)unused;
	bt_vcpu_of(cpu)->stats.polls++;
	cpu->state.rip = bt_rip(cpu, (unsigned)offset);
	return 0;
}

uint64_t bt_part_dispatch(struct bt_cpu *cpu, uint64_t unused, uint64_t offset)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	(void)unused;
	/* Not through the jump cache: dead blocks come here, and it may lead to them still. */
	cpu->state.rip = bt_rip(cpu, (unsigned)offset);
	return must_dispatch(v) ? 0 : jump_to(v, linear_rip(&cpu->state));
}

uint64_t bt_continue(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	const struct x86_cpu_state *s = &cpu->state;
	const struct bt_table *tb;
	uint64_t linear;
	uint32_t mode;
	unsigned i;

	if (unlikely(atomic_load_explicit(&cpu->poll, memory_order_relaxed) || v->one || v->watch_step || v->db_pending ||
		     v->exit_requested || s->sti_shadow || s->mov_ss_shadow))
		return 0;
	mode = bt_mode(v);
	linear = linear_rip(s);
	tb = v->tables[(mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT];
	i = bt_jump_index(linear);
	if (unlikely(!jump_table_fits(tb, s, mode) || tb->t->jump[i].linear != linear || linear == BT_JUMP_EMPTY))
		return 0;
	if (unlikely(!v->user_seen && (mode & (BT_MODE_CLASS | BT_MODE_V86_REAL)) == BT_CLASS_U << BT_MODE_CLASS_SHIFT))
		return 0;
	v->mode = mode;
	v->r10 = linear;
	v->r11 = i * 2;
	return tb->t->jump[i].code;
}

/* ---- helpers ---- */

uint64_t bt_finish(struct bt_cpu *cpu, enum bt_result result)
{
	return result == BT_LEAVE ? 0 : bt_continue(cpu);
}

uint64_t bt_part_helper(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	enum bt_result result;

	v->helper_call = call;
	v->stats.helpers++;
	v->stats.helper_by_op[call->op & 255]++;
	result = call->helper(cpu, call);
	if (likely(result == BT_NEXT)) {
		if (likely(!v->code_hit && !v->db_pending))
			return (uint64_t)call + (uint64_t)(int64_t)call->resume;
		v->code_hit = false;
		cpu->state.rip = bt_rip(cpu, call->next_offset);
		if (cpu->stepping)
			bt_step_trap(cpu);
		return 0;
	}
	v->code_hit = false;
	if (unlikely(cpu->stepping))
		result = bt_step_trap(cpu);
	return bt_finish(cpu, result);
}

enum bt_result bt_step_trap(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	struct x86_fault fault = { .vector = X86_DB, .address = DR6_BS | v->db_pending };

	if (!cpu->stepping)
		return BT_JUMP;
	cpu->stepping = 0;
	/* MOV SS holds the trap off until after the next instruction, which a debugger never sees alone. */
	if (cpu->state.mov_ss_shadow)
		return BT_LEAVE;
	bt_raise_here(v, &fault);
	return BT_LEAVE;
}

void bt_raise_here(struct bt_vcpu *v, const struct x86_fault *fault)
{
	v->db_pending = 0;
	v->code_hit = false;
	v->cpu->stepping = 0;
	if (trace_on(TRACE_EXCEPTIONS)) {
		bt_fpu_save(v->cpu);
		trace_message(TRACE_EXCEPTIONS, "cpu %u: exception %u error 0x%x address 0x%llx at %04x:%llx", v->vcpu->index,
			      fault->vector, fault->has_error ? fault->error : 0, (unsigned long long)fault->address,
			      v->cpu->state.seg[X86_CS].selector, (unsigned long long)v->cpu->state.rip);
	}
	if (x86_raise_fault(&v->system, fault))
		bt_request_exit(v->cpu, VCPU_EXIT_SHUTDOWN);
	bt_apply_effects(v->cpu);
}

enum bt_result bt_raise(struct bt_cpu *cpu, unsigned offset, const struct x86_fault *fault)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->stats.faults++;
	cpu->state.rip = bt_rip(cpu, offset);
	bt_raise_here(v, fault);
	return v->exit_requested ? BT_LEAVE : BT_JUMP;
}

enum bt_result bt_raise_vector(struct bt_cpu *cpu, unsigned offset, uint8_t vector, bool has_error, uint32_t error)
{
	struct x86_fault fault = { .vector = vector, .has_error = has_error, .error = error };

	return bt_raise(cpu, offset, &fault);
}

/* signals.c rebuilt the registers; the exception is in host_fault. */
uint64_t bt_part_fault(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->stats.host_faults++;
	if (v->exclusive)
		bt_exclusive_end(v);
	return bt_finish(cpu, bt_raise(cpu, v->host_fault_offset, &v->host_fault));
}

void bt_request_exit(struct bt_cpu *cpu, enum vcpu_exit exit)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	v->exit_requested = true;
	v->exit = exit;
}

struct vcpu *bt_generic_vcpu(struct bt_cpu *cpu)
{
	return bt_vcpu_of(cpu)->vcpu;
}

struct x86_system *bt_system(struct bt_cpu *cpu)
{
	return &bt_vcpu_of(cpu)->system;
}

/* The control bits that translations depend on. */
static uint64_t paging_controls(const struct x86_cpu_state *s)
{
	return (s->cr0 & (X86_CR0_PE | X86_CR0_PG | X86_CR0_WP)) | (s->efer & (X86_EFER_LMA | X86_EFER_NXE)) << 32 |
	       (s->cr4 & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE)) << 33;
}

void bt_apply_effects(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	const struct x86_cpu_state *s = &cpu->state;
	uint32_t effects = v->system.effects;

	if (likely(!effects))
		return;
	v->system.effects = 0;
	if (effects & X86_EFFECT_MODE) {
		uint64_t controls = paging_controls(s);

		if (controls != v->control_tlb) {
			v->control_tlb = controls;
			effects |= X86_EFFECT_FLUSH_ALL;
		}
	}
	if (effects & X86_EFFECT_FLUSH_ALL) {
		bt_tlb_flush_all(cpu, true);
		bt_tlb_load_cr3(v, false);
	} else if (effects & (X86_EFFECT_CR3 | X86_EFFECT_CR3_NOFLUSH)) {
		bt_tlb_load_cr3(v, effects & X86_EFFECT_CR3);
	} else if (effects & X86_EFFECT_FLUSH_TLB) {
		bt_tlb_load_cr3(v, true);
	}
	if (effects & X86_EFFECT_DEBUG)
		bt_watch_update(v);
	if ((effects & X86_EFFECT_INTERRUPTS) &&
	    ((s->rflags & X86_FLAG_IF) && atomic_load_explicit(&v->vcpu->irq_pending, memory_order_relaxed)))
		atomic_store(&cpu->poll, 1);
	if ((effects & X86_EFFECT_HALT) || s->nmi_pending)
		atomic_store(&cpu->poll, 1);
}

/* ---- events ---- */

static bool nmi_due(const struct x86_cpu_state *s)
{
	return s->nmi_pending && !s->nmi_masked;
}

static bool raise_event(struct bt_vcpu *v, enum x86_event_kind kind, uint8_t vector)
{
	v->stats.events++;
	if (trace_on(TRACE_EXCEPTIONS)) {
		bt_fpu_save(v->cpu);
		trace_message(TRACE_EXCEPTIONS, "cpu %u: event %u vector 0x%x at %04x:%llx", v->vcpu->index, kind, vector,
			      v->cpu->state.seg[X86_CS].selector, (unsigned long long)v->cpu->state.rip);
	}
	if (x86_raise_event(&v->system, kind, vector)) {
		bt_request_exit(v->cpu, VCPU_EXIT_SHUTDOWN);
		return false;
	}
	bt_apply_effects(v->cpu);
	return true;
}

/* Deliver what is due before the next instruction. */
static void deliver_events(struct bt_vcpu *v)
{
	struct x86_cpu_state *s = &v->cpu->state;

	if (unlikely(v->db_pending)) {
		struct x86_fault fault = { .vector = X86_DB, .address = v->db_pending };

		if (!s->mov_ss_shadow) {
			bt_raise_here(v, &fault);
			return;
		}
	}
	if (unlikely(s->event_pending)) {
		struct x86_fault fault = { .vector = s->event_vector, .has_error = s->event_has_error,
					   .error = s->event_error, .address = s->event_vector == X86_PF ? s->cr2 : 0 };

		s->event_pending = 0;
		bt_raise_here(v, &fault);
		return;
	}
	if (s->sti_shadow || s->mov_ss_shadow)
		return;
	if (unlikely(nmi_due(s))) {
		s->nmi_pending--;
		s->nmi_masked = 1;
		raise_event(v, X86_EVENT_HARDWARE, X86_NMI);
		return;
	}
	if ((s->rflags & X86_FLAG_IF) && atomic_load_explicit(&v->vcpu->irq_pending, memory_order_relaxed)) {
		int vector;

		bt_fpu_save(v->cpu);
		vector = v->vcpu->apic_ops->acknowledge(v->vcpu->apic);
		if (vector >= 0) {
			v->vcpu->stats.interrupts++;
			raise_event(v, X86_EVENT_HARDWARE, (uint8_t)vector);
		}
	}
}

/* HLT: is there something to wake up for? */
static bool wakes(struct bt_vcpu *v)
{
	const struct x86_cpu_state *s = &v->cpu->state;

	if (nmi_due(s) || atomic_exchange(&v->pv_kicked, false))
		return true;
	if (!(s->rflags & X86_FLAG_IF) || !v->vcpu->apic_ops)
		return false;
	bt_fpu_save(v->cpu);
	return v->vcpu->apic_ops->pending_vector(v->vcpu->apic) >= 0;
}

/* ---- vcpu_run ---- */

/* The address to enter at for the state, or 0: look again. */
static uint64_t enter_target(struct bt_vcpu *v)
{
	struct x86_cpu_state *s = &v->cpu->state;
	uint32_t mode = bt_mode(v);
	uint64_t linear = linear_rip(s);
	struct bt_block *block;
	struct x86_fault fault;
	bool global;

	if (unlikely(!v->user_seen && (mode & (BT_MODE_CLASS | BT_MODE_V86_REAL)) == BT_CLASS_U << BT_MODE_CLASS_SHIFT))
		note_user(v);
	prepare_jump_table(v, mode);
	v->one = false;
	if (unlikely(s->sti_shadow || s->mov_ss_shadow || v->watch_step || v->step))
		mode |= BT_MODE_ONE;
	switch (locate(v, linear, &mode, false, &block, &global, &fault)) {
	case LOCATE_FAULT:
		s->sti_shadow = s->mov_ss_shadow = 0;
		v->watch_step = false;
		bt_raise_here(v, &fault);
		return 0;
	case LOCATE_FULL:
		return 0;
	case LOCATED:
		break;
	}
	v->mode = mode;
	v->one = mode & BT_MODE_ONE;
	fill_jump(v, linear, mode, block, global);
	return near_entry(v, block, linear);
}

/* After a block that ran one instruction. */
static void after_one(struct bt_vcpu *v)
{
	v->one = false;
	v->watch_step = false;
	if (v->step)
		v->step_done = true;
}

static bool wait_flush(struct bt_vcpu *v)
{
	if (unlikely(v->need_flush)) {
		v->need_flush = false;
		bt_fpu_save(v->cpu);
		bt_cache_flush(v);
	}
	if (likely(!atomic_load(&v->bt->flush_pending)))
		return false;
	bt_futex_wait(&v->bt->flush_pending, 1);
	return true;
}

/* Why to return from vcpu_run() now, if at all. */
static bool must_leave(struct bt_vcpu *v, enum vcpu_exit *why)
{
	struct x86_cpu_state *s = &v->cpu->state;

	if (unlikely(v->exit_requested)) {
		v->exit_requested = false;
		*why = v->exit;
		/* HLT: an interrupt may have come already. */
		if (*why != VCPU_EXIT_HALTED || s->mp_state != X86_MP_HALTED)
			return true;
	}
	if (unlikely(v->step_done)) {
		v->step_done = false;
		*why = VCPU_EXIT_DEBUG;
		return true;
	}
	if (unlikely(atomic_load(&v->vcpu->requests))) {
		*why = VCPU_EXIT_KICKED;
		return true;
	}
	if (likely(s->mp_state == X86_MP_RUNNABLE))
		return false;
	if (s->mp_state == X86_MP_HALTED && wakes(v)) {
		s->mp_state = X86_MP_RUNNABLE;
		return false;
	}
	*why = VCPU_EXIT_HALTED;
	return true;
}

enum vcpu_exit bt_vcpu_run(struct vcpu *vcpu)
{
	struct bt_vcpu *v = vcpu->engine_data;
	struct bt_cpu *cpu = v->cpu;
	enum vcpu_exit why;

	if (unlikely(!v->thread_ready) && bt_signals_thread(v, &vcpu->exit_error))
		return VCPU_EXIT_ERROR;
	/* Another thread (a debugger's) may have set the state, and the address space with it. */
	bt_set_gs(v->alias[v->current].gs_base);
	cpu->tsc_offset = (int64_t)(v->vm->tsc_offset + vcpu->tsc_delta);
	v->breakpoint_skip = v->bt->breakpoint_count ? linear_rip(&cpu->state) : ~0ull;
	bt_pv_enter(v);
	atomic_store_explicit(&v->in_engine, true, memory_order_relaxed);
	for (;;) {
		uint64_t target;

		if (wait_flush(v))
			continue;
		if (atomic_load_explicit(&cpu->poll, memory_order_relaxed))
			atomic_exchange(&cpu->poll, 0);
		if (must_leave(v, &why))
			break;
		deliver_events(v);
		if (unlikely(v->exit_requested))
			continue;
		atomic_store(&v->in_run, 1);
		if (unlikely(atomic_load(&v->bt->flush_pending))) {
			atomic_store(&v->in_run, 0);
			continue;
		}
		v->stats.dispatches++;
		target = enter_target(v);
		if (likely(target)) {
			if (unlikely(v->one)) {
				cpu->state.sti_shadow = cpu->state.mov_ss_shadow = 0;
				bt_enter(v, target);
				after_one(v);
			} else {
				bt_enter(v, target);
			}
		}
		atomic_store_explicit(&v->in_run, 0, memory_order_release);
	}
	bt_fpu_save(cpu);
	bt_pv_leave(v);
	atomic_store_explicit(&v->in_engine, false, memory_order_relaxed);
	return why;
}
