/* SPDX-License-Identifier: MIT */
/*
 * Memory accesses whose TLB check failed, and the accesses helpers make.
 *
 * bt_part_memory() is the C part of tramp_memory: it fills the TLB and lets the access try again, or
 * gives it a host address to work on. That is the RAM itself wherever the bytes lie together in host memory (so
 * locked operations stay atomic even on code pages and across pages of contiguous RAM), else a bounce buffer
 * congruent to the address modulo 64, filled beforehand and written out by bt_part_commit().
 *
 * Data breakpoints (DR7): a page with one never gets tags, so every access comes here. A hit in an ordinary block restarts the
 * instruction alone (BT_MODE_ONE); there the access is let through and the dispatcher raises #DB after
 * the instruction, as the architecture has it for data breakpoints (SDM volume 3, 17.3.1.2).
 */
#include "engine/bt/runtime.h"

#include "vm/bus.h"

/* ---- small copies ---- */

/* Copy with single accesses where the size has one (a guest may rely on aligned ones being atomic). */
static void copy_ram(void *dst, const void *src, unsigned size)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)dst = *(const volatile uint8_t *)src;
		break;
	case 2:
		*(volatile uint16_t *)dst = *(const volatile uint16_t *)src;
		break;
	case 4:
		*(volatile uint32_t *)dst = *(const volatile uint32_t *)src;
		break;
	case 8:
		*(volatile uint64_t *)dst = *(const volatile uint64_t *)src;
		break;
	default:
		bt_copy(dst, src, size);
	}
}

static uint64_t linear_mask(const struct x86_cpu_state *s)
{
	return s->efer & X86_EFER_LMA ? ~0ull : 0xffffffffull;
}

/* ---- devices ---- */

static unsigned bus_piece(uint64_t gpa, unsigned size)
{
	unsigned n = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;

	(void)gpa;
	return n;
}

static void mmio_read(struct bt_vcpu *v, uint64_t gpa, uint8_t *buf, unsigned size)
{
	bt_fpu_save(v->cpu);
	v->vcpu->stats.mmio++;
	while (size) {
		unsigned n = bus_piece(gpa, size);
		uint64_t value;

		atomic_store_explicit(&v->in_device, true, memory_order_relaxed);
		value = bus_read(&v->vm->mmio, gpa, n);
		atomic_store_explicit(&v->in_device, false, memory_order_relaxed);

		bt_copy(buf, &value, n);
		buf += n;
		gpa += n;
		size -= n;
	}
}

static void mmio_write(struct bt_vcpu *v, uint64_t gpa, const uint8_t *buf, unsigned size)
{
	bt_fpu_save(v->cpu);
	v->vcpu->stats.mmio++;
	while (size) {
		unsigned n = bus_piece(gpa, size);
		uint64_t value = 0;

		bt_copy(&value, buf, n);
		atomic_store_explicit(&v->in_device, true, memory_order_relaxed);
		bus_write(&v->vm->mmio, gpa, value, n);
		atomic_store_explicit(&v->in_device, false, memory_order_relaxed);
		buf += n;
		gpa += n;
		size -= n;
	}
}

void bt_ref_read(struct bt_vcpu *v, const struct bt_ref *ref, void *buf, unsigned size)
{
	if (ref->host)
		copy_ram(buf, ref->host, size);
	else
		mmio_read(v, ref->gpa, buf, size);
}

void bt_ref_write(struct bt_vcpu *v, const struct bt_ref *ref, const void *buf, unsigned size)
{
	uint64_t index;

	if (!ref->host) {
		mmio_write(v, ref->gpa, buf, size);
		return;
	}
	if (ref->readonly)
		return;
	copy_ram(ref->host, buf, size);
	index = (ref->gpa - ref->slot->gpa) >> PAGE_SHIFT;
	if (v->multi)
		bt_fence();
	if (unlikely(__atomic_load_n(&ref->slot->page_flags[index], __ATOMIC_RELAXED) & PAGE_FLAG_CODE) &&
	    bt_code_written(v->bt, ref->slot, ref->gpa, size)) {
		v->code_hit = true;
		v->stats.code_invalidations++;
	}
}

/* ---- data breakpoints ---- */

bool bt_watch_hit(struct bt_vcpu *v, uint64_t linear, unsigned size, bool write, uint64_t *dr6)
{
	static const uint8_t length[4] = { 1, 2, 8, 4 };
	const uint64_t *dr = v->cpu->state.dr;
	bool hit = false;

	for (unsigned n = 0; n < 4; n++) {
		unsigned rw = (unsigned)(dr[7] >> (16 + n * 4)) & 3, len = length[(dr[7] >> (18 + n * 4)) & 3];
		uint64_t base = dr[n] & ~(uint64_t)(len - 1);

		if (!(dr[7] >> (n * 2) & 3) || !(rw & 1) || (rw == 1 && !write))
			continue;
		if (linear < base + len && base < linear + size) {
			*dr6 |= 1ull << n;
			hit = true;
		}
	}
	return hit;
}

/* ---- the miss path ---- */

static uint64_t at_site(const struct bt_site *site, int32_t rel)
{
	return (uint64_t)site + (uint64_t)(int64_t)rel;
}

/* Is an unmasked x87 exception pending that an x87 or MMX instruction reports before it looks at memory? */
static bool x87_exception_first(struct bt_vcpu *v, const struct bt_site *site)
{
	struct x86_insn insn;
	uint16_t status;

	if (v->fpu_saved)
		__builtin_memcpy(&status, v->cpu->state.xsave + 2, 2);
	else
		__asm__ volatile("fnstsw %0" : "=a"(status));
	if (likely(!(status & 0x80)))
		return false;
	if (x86_decode(&insn, site->bytes, sizeof(site->bytes), v->mode & BT_MODE_CODE) <= 0)
		return false;
	if (insn.unit == X86_UNIT_MMX)
		return true;
	/* All but FNSTCW and FNSTSW wait. */
	return insn.unit == X86_UNIT_X87 &&
	       !((insn.opcode == 0xd9 || insn.opcode == 0xdd) && (insn.modrm >> 3 & 7) == 7);
}

static uint64_t raise_at(struct bt_cpu *cpu, const struct bt_site *site, const struct x86_fault *fault)
{
	static const struct x86_fault x87_fault = { .vector = X86_MF };

	if (unlikely(x87_exception_first(bt_vcpu_of(cpu), site)))
		fault = &x87_fault;
	bt_exclusive_end(bt_vcpu_of(cpu));
	return bt_finish(cpu, bt_raise(cpu, site->offset, fault));
}

static uint64_t raise_vector_at(struct bt_cpu *cpu, const struct bt_site *site, uint8_t vector)
{
	struct x86_fault fault = { .vector = vector, .has_error = true };

	return raise_at(cpu, site, &fault);
}

/* Is the access misaligned for #AC (SDM volume 3, table 6-7)? */
static bool misaligned(uint64_t linear, unsigned size)
{
	unsigned align = size == 6 ? 4 : size == 10 ? 8 : size > 8 ? 1 : size;

	return align & (align - 1) ? false : linear & (align - 1);
}

/* A misaligned operand of an instruction that wants it aligned: #GP(0), before #SS and #PF. Where the access does
 * not fault otherwise the host's instruction decides, on an address with the same low bits. */
static bool sse_misaligned(const struct bt_vcpu *v, const struct bt_site *site, uint64_t linear)
{
	struct x86_insn insn;

	if (!(linear & (site->size - 1u)) || site->size < 16 ||
	    x86_decode(&insn, site->bytes, sizeof(site->bytes), v->mode & BT_MODE_CODE) <= 0)
		return false;
	/* Processors take any address for the SHA instructions. */
	if (site->flags & BT_SITE_EXPLICIT_ALIGN)
		return insn.isa != X86_ISA_SHA;
	return insn.op == X86_OP_CMPXCHG8B16B;
}

/* Let the access work on host memory in place. */
static uint64_t in_place(struct bt_vcpu *v, const struct bt_site *site, uint8_t *host, bool code)
{
	v->r10 = (uint64_t)host;
	v->commit = code ? BT_COMMIT_CODE : BT_COMMIT_NONE;
	return at_site(site, site->slow);
}

static uint64_t in_bounce(struct bt_vcpu *v, const struct bt_site *site, uint64_t linear)
{
	uint8_t *p = v->bounce + (linear & 63);

	if (site->access & X86_MEM_R) {
		bt_ref_read(v, &v->commit_ref[0], p, v->commit_first);
		if (v->commit_size > v->commit_first)
			bt_ref_read(v, &v->commit_ref[1], p + v->commit_first, v->commit_size - v->commit_first);
	}
	v->commit = BT_COMMIT_BOUNCE;
	v->r10 = (uint64_t)p;
	return at_site(site, site->slow);
}

/* True if the access has to be started again on its own because of a data breakpoint. */
static bool watch(struct bt_vcpu *v, const struct bt_site *site, uint64_t linear)
{
	uint64_t dr6 = 0;

	if (!bt_watch_hit(v, linear, site->size, site->access & X86_MEM_W, &dr6))
		return false;
	v->stats.slow_watch++;
	if (!v->one && !(site->flags & BT_SITE_MID)) {
		v->watch_step = true;
		v->cpu->stepping = 0;
		v->cpu->state.rip = bt_rip(v->cpu, site->offset);
		return true;
	}
	v->db_pending |= dr6;
	if (!v->one)
		atomic_store(&v->cpu->poll, 1);
	return false;
}

/* The write will change translated code, perhaps of the running block: run its instruction alone. */
static bool must_run_alone(struct bt_vcpu *v, const struct bt_site *site)
{
	const struct bt_ref *ref = v->commit_ref;
	unsigned rest = v->commit_size - v->commit_first;

	if (v->one || (site->flags & BT_SITE_MID))
		return false;
	if (!(ref[0].code && bt_code_overlaps(v->bt, ref[0].slot, ref[0].gpa, v->commit_first)) &&
	    !(rest && ref[1].code && bt_code_overlaps(v->bt, ref[1].slot, ref[1].gpa, rest)))
		return false;
	v->watch_step = true;
	v->cpu->stepping = 0;
	v->cpu->state.rip = bt_rip(v->cpu, site->offset);
	return true;
}

static bool plain(const struct bt_ref *ref, bool write)
{
	return ref->host && !(write && ref->readonly);
}

uint64_t bt_part_memory(struct bt_cpu *cpu, const struct bt_site *site, uint64_t linear)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	bool write = site->access & X86_MEM_W, slow = v->mode & BT_MODE_ALIGN;
	unsigned size = site->size, first;
	enum bt_class cls = bt_class_of(&cpu->state);
	struct bt_ref *ref = v->commit_ref;
	struct x86_fault fault;

	v->stats.misses++;
	if (site->flags & BT_SITE_SEGMENT) {
		uint64_t offset = linear;

		v->stats.slow_segment++;
		if (x86_linear_address(&v->system, site->seg, offset, size, write, &linear, &fault)) {
			if ((site->flags & BT_SITE_MASKED) && bt_masked_nothing(v, site))
				return at_site(site, site->slow);
			return raise_at(cpu, site, &fault);
		}
		slow |= site->seg > X86_GS || offset + size > cpu->seg_end[write][site->seg];
	}
	if (site->flags & BT_SITE_MASKED) {
		uint64_t target;

		if (bt_masked_access(v, site, linear, cls, &target))
			return target;
	}
	if (unlikely(!bt_canonical(linear) || !bt_canonical(linear + size - 1)) ||
	    unlikely((v->mode & BT_MODE_CODE) != X86_CODE64 && !(site->flags & BT_SITE_SEGMENT) && linear + size - 1 > 0xffffffffull)) {
		bool stack = site->flags & BT_SITE_STACK || site->seg == X86_SS;

		return raise_vector_at(cpu, site, stack && !sse_misaligned(v, site, linear) ? X86_SS_FAULT : X86_GP);
	}
	if (unlikely(slow) && (v->mode & BT_MODE_ALIGN) && misaligned(linear, size))
		return raise_vector_at(cpu, site, X86_AC);
	first = (unsigned)(PAGE_SIZE - (linear & PAGE_MASK));
	if (first > size)
		first = size;
	if (bt_translate_data(v, linear, write, cls, false, &ref[0], &fault))
		return sse_misaligned(v, site, linear) ? raise_vector_at(cpu, site, X86_GP) : raise_at(cpu, site, &fault);
	if (unlikely(v->watch_active)) {
		slow = true;
		if (watch(v, site, linear))
			return 0;
	}
	v->commit_linear = linear;
	v->commit_size = size;
	v->commit_first = first;
	if (likely(first == size)) {
		if (likely(plain(&ref[0], write))) {
			if (likely(!(write && ref[0].code) && !slow)) {
				const struct bt_table *tb = v->tables[(v->mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT];

				/* Try again only if the inline check will now succeed: nothing else bounds the number of tries. */
				if (likely(bt_tlb_lookup(tb, linear, write)))
					return at_site(site, site->retry);
				return in_place(v, site, ref[0].host, false);
			}
			v->stats.slow_code += write && ref[0].code;
			if (write && ref[0].code && must_run_alone(v, site))
				return 0;
			return in_place(v, site, ref[0].host, write && ref[0].code);
		}
		if (ref[0].host)
			v->stats.slow_rom++;
		else
			v->stats.slow_mmio++;
		return in_bounce(v, site, linear);
	}

	v->stats.slow_cross++;
	if (bt_translate_data(v, (linear + first) & linear_mask(&cpu->state), write, cls, false, &ref[1], &fault))
		return sse_misaligned(v, site, linear) ? raise_vector_at(cpu, site, X86_GP) : raise_at(cpu, site, &fault);
	if (write && (ref[0].code || ref[1].code) && must_run_alone(v, site))
		return 0;
	if (plain(&ref[0], write) && plain(&ref[1], write) && ref[1].host == ref[0].host + first)
		return in_place(v, site, ref[0].host, write && (ref[0].code || ref[1].code));
	if (site->flags & BT_SITE_LOCK) {
		v->stats.slow_split_lock++;
		bt_exclusive_begin(v);
	}
	return in_bounce(v, site, linear);
}

static void commit_bounce(struct bt_vcpu *v)
{
	const uint8_t *p = v->bounce + (v->commit_linear & 63);

	bt_ref_write(v, &v->commit_ref[0], p, v->commit_first);
	if (v->commit_size > v->commit_first)
		bt_ref_write(v, &v->commit_ref[1], p + v->commit_first, v->commit_size - v->commit_first);
}

static void commit_code(struct bt_vcpu *v)
{
	bool hit = bt_code_written(v->bt, v->commit_ref[0].slot, v->commit_ref[0].gpa, v->commit_first);

	if (v->commit_size > v->commit_first)
		hit |= bt_code_written(v->bt, v->commit_ref[1].slot, v->commit_ref[1].gpa,
				       v->commit_size - v->commit_first);
	if (hit) {
		v->code_hit = true;
		v->stats.code_invalidations++;
	}
}

uint64_t bt_part_commit(struct bt_cpu *cpu, const struct bt_site *site)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);

	switch (v->commit) {
	case BT_COMMIT_NONE:
		break;
	case BT_COMMIT_CODE:
		commit_code(v);
		break;
	case BT_COMMIT_BOUNCE:
		commit_bounce(v);
		break;
	case BT_COMMIT_MASKED:
		bt_masked_commit(v);
		break;
	}
	v->commit = BT_COMMIT_NONE;
	if (unlikely(v->exclusive))
		bt_exclusive_end(v);
	if (unlikely(v->code_hit)) {
		/* Alone, the instruction ends its block anyway. Else only an access in the middle of an instruction
		 * comes here, or one that raced with a translation: the next poll leaves. */
		v->code_hit = false;
		if (!v->one)
			atomic_store(&cpu->poll, 1);
	}
	return at_site(site, site->resume);
}

/* ---- accesses by helpers ---- */

static int access_fault(struct x86_fault *fault, uint8_t vector)
{
	*fault = (struct x86_fault){ .vector = vector, .has_error = true };
	return -1;
}

static void note_watch(struct bt_vcpu *v, uint64_t linear, unsigned size, bool write)
{
	if (unlikely(v->watch_active) && bt_watch_hit(v, linear, size, write, &v->db_pending))
		v->stats.slow_watch++;
}

/* Translate the one or two pages of an access: sizes up to a page. */
static int translate_pieces(struct bt_vcpu *v, uint64_t linear, unsigned size, bool write, enum bt_class cls, bool implicit,
			    struct bt_ref ref[2], unsigned *first, struct x86_fault *fault)
{
	if ((v->cpu->state.efer & X86_EFER_LMA) && (!bt_canonical(linear) || !bt_canonical(linear + size - 1)))
		return access_fault(fault, X86_GP);
	*first = (unsigned)(PAGE_SIZE - (linear & PAGE_MASK));
	if (*first > size)
		*first = size;
	if (bt_translate_data(v, linear, write, cls, implicit, &ref[0], fault))
		return -1;
	if (*first < size)
		return bt_translate_data(v, (linear + *first) & linear_mask(&v->cpu->state), write, cls, implicit, &ref[1],
					 fault);
	return 0;
}

int bt_access_read(struct bt_vcpu *v, uint64_t linear, void *buf, unsigned size, enum bt_class cls, bool implicit,
		   bool write_intent, struct x86_fault *fault)
{
	struct bt_ref ref[2];
	unsigned first;

	linear &= linear_mask(&v->cpu->state);
	if (likely((linear & PAGE_MASK) + size <= PAGE_SIZE)) {
		const uint8_t *host = bt_tlb_lookup(v->tables[cls], linear, write_intent);

		if (likely(host)) {
			copy_ram(buf, host, size);
			return 0;
		}
	}
	if (translate_pieces(v, linear, size, write_intent, cls, implicit, ref, &first, fault))
		return -1;
	bt_ref_read(v, &ref[0], buf, first);
	if (first < size)
		bt_ref_read(v, &ref[1], (uint8_t *)buf + first, size - first);
	if (!implicit)
		note_watch(v, linear, size, false);
	return 0;
}

/* Another vCPU may have made the page code between look-up and write. */
void bt_host_written(struct bt_vcpu *v, const uint8_t *host, uint64_t size)
{
	struct guest_memory *mem = &v->vm->memory;

	bt_fence();
	if (likely(!(__atomic_load_n(&mem->page_flags[(uint64_t)(host - mem->host) >> PAGE_SHIFT], __ATOMIC_RELAXED) &
		     PAGE_FLAG_CODE)))
		return;
	for (unsigned i = 0; i < mem->slot_count; i++) {
		struct memory_slot *slot = &mem->slots[i];

		if ((uint64_t)(host - slot->host) < slot->size)
			v->code_hit |= bt_code_written(v->bt, slot, slot->gpa + (uint64_t)(host - slot->host), size);
	}
}

int bt_access_write(struct bt_vcpu *v, uint64_t linear, const void *buf, unsigned size, enum bt_class cls, bool implicit,
		    struct x86_fault *fault)
{
	struct bt_ref ref[2];
	unsigned first;

	linear &= linear_mask(&v->cpu->state);
	if (likely((linear & PAGE_MASK) + size <= PAGE_SIZE)) {
		uint8_t *host = bt_tlb_lookup(v->tables[cls], linear, true);

		if (likely(host)) {
			copy_ram(host, buf, size);
			if (v->multi)
				bt_host_written(v, host, size);
			return 0;
		}
	}
	if (translate_pieces(v, linear, size, true, cls, implicit, ref, &first, fault))
		return -1;
	bt_ref_write(v, &ref[0], buf, first);
	if (first < size)
		bt_ref_write(v, &ref[1], (const uint8_t *)buf + first, size - first);
	if (!implicit)
		note_watch(v, linear, size, true);
	return 0;
}

int bt_read(struct bt_cpu *cpu, uint64_t linear, void *buf, unsigned size, struct x86_fault *fault)
{
	return bt_access_read(bt_vcpu_of(cpu), linear, buf, size, bt_class_of(&cpu->state), false, false, fault);
}

int bt_write(struct bt_cpu *cpu, uint64_t linear, const void *buf, unsigned size, struct x86_fault *fault)
{
	return bt_access_write(bt_vcpu_of(cpu), linear, buf, size, bt_class_of(&cpu->state), false, fault);
}

int bt_page_host(struct bt_cpu *cpu, uint64_t linear, bool write, uint8_t **host, struct x86_fault *fault)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	enum bt_class cls = bt_class_of(&cpu->state);
	struct bt_ref ref;

	linear &= linear_mask(&cpu->state);
	*host = bt_tlb_lookup(v->tables[cls], linear, write);
	if (likely(*host))
		return 0;
	if ((cpu->state.efer & X86_EFER_LMA) && !bt_canonical(linear))
		return access_fault(fault, X86_GP);
	if (bt_translate_data(v, linear, write, cls, false, &ref, fault))
		return -1;
	/* What has no tag after a fill needs care: breakpoints, code, devices, ROM. */
	*host = bt_tlb_lookup(v->tables[cls], linear, write);
	return 0;
}

/* ---- for x86/: struct x86_system_ops ---- */

static enum bt_class system_class(const struct bt_vcpu *v, unsigned flags)
{
	if (flags & X86_SYS_IMPLICIT)
		return v->cpu->state.cr4 & X86_CR4_SMAP ? BT_CLASS_K : BT_CLASS_KU;
	return bt_class_of(&v->cpu->state);
}

int bt_system_read(struct x86_system *s, uint64_t linear, void *buf, unsigned size, unsigned flags, struct x86_fault *fault)
{
	struct bt_vcpu *v = s->ctx;

	return bt_access_read(v, linear, buf, size, system_class(v, flags), flags & X86_SYS_IMPLICIT,
			      flags & X86_SYS_WRITE_INTENT, fault);
}

int bt_system_write(struct x86_system *s, uint64_t linear, const void *buf, unsigned size, unsigned flags,
		    struct x86_fault *fault)
{
	struct bt_vcpu *v = s->ctx;

	return bt_access_write(v, linear, buf, size, system_class(v, flags), flags & X86_SYS_IMPLICIT, fault);
}
