/* SPDX-License-Identifier: MIT */
/*
 * Descriptors and segment registers: Intel SDM volume 3, 3.4, 3.5 and chapter 5; the checks of each
 * instruction as in volume 2 (MOV, POP, LDS.., LLDT, LTR, LAR, LSL, VERR, VERW).
 *
 * A segment register whose attr lacks X86_ATTR_P is unusable (it holds a null selector). SS.DPL is
 * the CPL in every mode, so a null SS keeps its DPL.
 *
 * Accessed and busy bits are set by a locked change of the one byte that holds the type, where the
 * engine has one; else by rewriting it: another CPU loading the same descriptor writes the same value.
 */
#include "x86/system_internal.h"

/* Where the descriptor lies; false if it is not wholly inside its table. */
static bool descriptor_address(const struct x86_system *s, uint16_t selector, unsigned size,
			       uint64_t *linear)
{
	const struct x86_cpu_state *cpu = s->cpu;
	uint32_t offset = selector & ~7u, limit;
	uint64_t base;

	if (selector & SEL_TI) {
		if (!(cpu->seg[X86_LDTR].attr & X86_ATTR_P))
			return false;
		base = cpu->seg[X86_LDTR].base;
		limit = cpu->seg[X86_LDTR].limit;
	} else {
		base = cpu->gdt.base;
		limit = cpu->gdt.limit;
	}
	if (offset + size - 1 > limit)
		return false;
	*linear = sys_linear(cpu, base + offset);
	return true;
}

SYS_HOT int sys_fetch_descriptor(struct x86_system *s, uint16_t selector, uint8_t vector,
				 uint64_t *d, struct x86_fault *fault)
{
	uint64_t linear;

	if (sys_unlikely(!descriptor_address(s, selector, 8, &linear)))
		return sys_fault(fault, vector, selector & SEL_ERROR);
	return s->ops->read(s, linear, d, 8, X86_SYS_IMPLICIT, fault);
}

int sys_fetch_descriptor_high(struct x86_system *s, uint16_t selector, uint8_t vector,
			      uint64_t *high, struct x86_fault *fault)
{
	uint64_t linear;

	if (!descriptor_address(s, selector, 16, &linear))
		return sys_fault(fault, vector, selector & SEL_ERROR);
	return s->ops->read(s, linear + 8, high, 8, X86_SYS_IMPLICIT, fault);
}

int sys_change_type(struct x86_system *s, uint16_t selector, uint64_t *d, unsigned set,
		    unsigned clear, struct x86_fault *fault)
{
	uint64_t linear, changed = (*d | (uint64_t)set << 40) & ~((uint64_t)clear << 40);
	uint8_t byte = (uint8_t)(changed >> 40);
	int failed;

	if (!descriptor_address(s, selector, 8, &linear))
		return sys_gp(fault, selector & SEL_ERROR);
	linear = sys_linear(s->cpu, linear + 5);
	if (s->ops->change_byte)
		failed = s->ops->change_byte(s, linear, (uint8_t)set, (uint8_t)clear, fault);
	else
		failed = s->ops->write(s, linear, &byte, 1, X86_SYS_IMPLICIT, fault);
	if (failed)
		return -1;
	*d = changed;
	return 0;
}

SYS_HOT int sys_fetch_stack_segment(struct x86_system *s, uint16_t selector, unsigned cpl,
				    uint8_t vector, uint64_t *d, struct x86_fault *fault)
{
	uint16_t attr;

	if (sys_fetch_descriptor(s, selector, vector, d, fault))
		return -1;
	attr = desc_attr(*d);
	if (sys_unlikely((selector & SEL_RPL) != cpl || attr_dpl(attr) != cpl ||
			 !attr_is_writable_data(attr)))
		return sys_fault(fault, vector, selector & SEL_ERROR);
	if (sys_unlikely(!(attr & X86_ATTR_P)))
		return sys_fault(fault, X86_SS_FAULT, selector & SEL_ERROR);
	return 0;
}

SYS_HOT void sys_drop_inner_segments(struct x86_system *s, unsigned cpl)
{
	static const uint8_t data_segments[4] = { X86_ES, X86_DS, X86_FS, X86_GS };

	for (unsigned i = 0; i < 4; i++) {
		struct x86_segment *seg = &s->cpu->seg[data_segments[i]];

		if (sys_likely(!(seg->attr & X86_ATTR_P) || attr_dpl(seg->attr) >= cpl))
			continue;
		if (attr_is_code(seg->attr) && attr_is_conforming(seg->attr))
			continue;
		/* Only selector and validity: FS.base and GS.base in 64-bit mode stay, as WRMSR left them. */
		seg->selector = 0;
		seg->attr = 0;
	}
}

/* ---- loading ---- */

static int load_stack_segment(struct x86_system *s, uint16_t selector, struct x86_fault *fault)
{
	struct x86_segment *ss = &s->cpu->seg[X86_SS];
	unsigned cpl = x86_cpl(s->cpu);
	uint64_t d;

	if (selector_is_null(selector)) {
		if (!x86_in_64bit(s->cpu) || cpl == 3 || (selector & SEL_RPL) != cpl)
			return sys_gp(fault, 0);
		segment_set_null_ss(ss, cpl);
		return 0;
	}
	if (sys_fetch_stack_segment(s, selector, cpl, X86_GP, &d, fault) ||
	    sys_mark_accessed(s, selector, &d, fault))
		return -1;
	if ((ss->attr ^ desc_attr(d)) & X86_ATTR_DB)
		s->effects |= X86_EFFECT_MODE;
	segment_set(ss, selector, d);
	return 0;
}

int x86_load_segment(struct x86_system *s, enum x86_seg seg, uint16_t selector,
		     struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	unsigned cpl, dpl;
	uint16_t attr;
	uint64_t d;

	if (seg == X86_CS)
		return sys_ud(fault);
	if (sys_real(cpu)) {
		segment_set_real(&cpu->seg[seg], selector);
		return 0;
	}
	if (sys_v86(cpu)) {
		segment_set_v86(&cpu->seg[seg], selector);
		return 0;
	}
	if (seg == X86_SS)
		return load_stack_segment(s, selector, fault);
	if (selector_is_null(selector)) {
		segment_set_null(s, seg, selector);
		return 0;
	}

	if (sys_fetch_descriptor(s, selector, X86_GP, &d, fault))
		return -1;
	attr = desc_attr(d);
	if (!attr_is_loadable_data(attr))
		return sys_gp(fault, selector & SEL_ERROR);
	cpl = x86_cpl(cpu);
	dpl = attr_dpl(attr);
	if (!(attr_is_code(attr) && attr_is_conforming(attr)) &&
	    ((selector & SEL_RPL) > dpl || cpl > dpl))
		return sys_gp(fault, selector & SEL_ERROR);
	if (!(attr & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	if (sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(&cpu->seg[seg], selector, d);
	return 0;
}

/* The descriptor for LLDT or LTR, in the GDT, present, of one of two types; with its base's upper half. */
static int fetch_system_segment(struct x86_system *s, uint16_t selector, unsigned type,
				unsigned other_type, uint64_t *d, uint64_t *base,
				struct x86_fault *fault)
{
	uint64_t high = 0;
	unsigned found;

	if (selector & SEL_TI)
		return sys_gp(fault, selector & SEL_ERROR);
	if (sys_fetch_descriptor(s, selector, X86_GP, d, fault))
		return -1;
	found = attr_system_type(desc_attr(*d));
	if (found != type && found != other_type)
		return sys_gp(fault, selector & SEL_ERROR);
	if (sys_long_mode(s->cpu)) {
		if (sys_fetch_descriptor_high(s, selector, X86_GP, &high, fault))
			return -1;
		if (high >> 40 &
		    0x1f) /* must read as type 0, lest the upper half pass for a descriptor */
			return sys_gp(fault, selector & SEL_ERROR);
	}
	if (!(desc_attr(*d) & X86_ATTR_P))
		return sys_fault(fault, X86_NP, selector & SEL_ERROR);
	*base = desc_base(*d) | high << 32;
	if (!sys_canonical(*base))
		return sys_gp(fault, selector & SEL_ERROR);
	return 0;
}

int x86_load_ldtr(struct x86_system *s, uint16_t selector, struct x86_fault *fault)
{
	struct x86_segment *ldtr = &s->cpu->seg[X86_LDTR];
	uint64_t d, base;

	if (sys_paragraphs(s->cpu))
		return sys_ud(fault);
	if (x86_cpl(s->cpu))
		return sys_gp(fault, 0);
	if (selector_is_null(selector)) {
		ldtr->selector = selector;
		ldtr->attr = 0;
		return 0;
	}
	if (fetch_system_segment(s, selector, SYSTEM_LDT, SYSTEM_LDT, &d, &base, fault))
		return -1;
	segment_set(ldtr, selector, d);
	ldtr->base = base;
	return 0;
}

int x86_load_tr(struct x86_system *s, uint16_t selector, struct x86_fault *fault)
{
	struct x86_segment *tr = &s->cpu->seg[X86_TR];
	uint64_t d, base;

	if (sys_paragraphs(s->cpu))
		return sys_ud(fault);
	if (x86_cpl(s->cpu))
		return sys_gp(fault, 0);
	if (selector_is_null(selector))
		return sys_gp(fault, 0);
	if (fetch_system_segment(s, selector, SYSTEM_TSS32,
				 sys_long_mode(s->cpu) ? SYSTEM_TSS32 : SYSTEM_TSS16, &d, &base,
				 fault) ||
	    sys_change_type(s, selector, &d, TSS_BUSY, 0, fault))
		return -1;
	segment_set(tr, selector, d);
	tr->base = base;
	return 0;
}

/* ---- asking ---- */

/*
 * The descriptor of LAR, LSL, VERR, VERW. 1: readable by this instruction's own rules (which the
 * caller applies to the type), privilege permitting; 0: ZF = 0; -1: fault.
 */
static int probe_descriptor(struct x86_system *s, uint16_t selector, uint64_t *d,
			    struct x86_fault *fault)
{
	uint64_t linear;
	uint16_t attr;
	unsigned dpl;

	if (sys_paragraphs(s->cpu))
		return sys_ud(fault);
	if (selector_is_null(selector) || !descriptor_address(s, selector, 8, &linear))
		return 0;
	if (s->ops->read(s, linear, d, 8, X86_SYS_IMPLICIT, fault))
		return -1;
	attr = desc_attr(*d);
	if (attr_is_code(attr) && attr_is_conforming(attr))
		return 1;
	dpl = attr_dpl(attr);
	return x86_cpl(s->cpu) <= dpl && (selector & SEL_RPL) <= dpl;
}

/* Types of system descriptors (bit n: type n) LAR and LSL accept. */
#define LAR_TYPES_LEGACY 0x1a3eu /* TSSs, LDT, call gates, task gate */
#define LAR_TYPES_LONG 0x1a04u
#define LSL_TYPES_LEGACY 0x0a0eu
#define LSL_TYPES_LONG 0x0a04u

static bool type_accepted(const struct x86_cpu_state *cpu, uint16_t attr, unsigned legacy,
			  unsigned long_mode)
{
	unsigned types = sys_long_mode(cpu) ? long_mode : legacy;

	return (attr & X86_ATTR_S) || (types >> (attr & X86_ATTR_TYPE) & 1);
}

int x86_lar(struct x86_system *s, uint16_t selector, uint32_t *rights, bool *ok,
	    struct x86_fault *fault)
{
	uint64_t d;
	int found = probe_descriptor(s, selector, &d, fault);

	if (found < 0)
		return -1;
	*ok = found && type_accepted(s->cpu, desc_attr(d), LAR_TYPES_LEGACY, LAR_TYPES_LONG);
	if (*ok)
		*rights = (d >> 32) &
			  0x00ffff00u; /* the limit's bits among them are undefined on Intel CPUs */
	return 0;
}

int x86_lsl(struct x86_system *s, uint16_t selector, uint32_t *limit, bool *ok,
	    struct x86_fault *fault)
{
	uint64_t d;
	int found = probe_descriptor(s, selector, &d, fault);

	if (found < 0)
		return -1;
	*ok = found && type_accepted(s->cpu, desc_attr(d), LSL_TYPES_LEGACY, LSL_TYPES_LONG);
	if (*ok)
		*limit = desc_limit(d);
	return 0;
}

int x86_verify(struct x86_system *s, uint16_t selector, bool write, bool *ok,
	       struct x86_fault *fault)
{
	uint64_t d;
	int found = probe_descriptor(s, selector, &d, fault);

	if (found < 0)
		return -1;
	*ok = found &&
	      (write ? attr_is_writable_data(desc_attr(d)) : attr_is_loadable_data(desc_attr(d)));
	return 0;
}

/* ---- using ---- */

/* Are the bytes [offset, offset + size) inside the segment? */
static bool within_limit(const struct x86_segment *seg, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if ((seg->attr & (X86_ATTR_S | DESC_CODE | DESC_EXPAND_DOWN)) ==
	    (X86_ATTR_S | DESC_EXPAND_DOWN))
		return offset > seg->limit &&
		       last <= (seg->attr & X86_ATTR_DB ? 0xffffffffu : 0xffffu);
	/* Wrapping around 4 GiB in a flat segment is allowed. */
	return last <= seg->limit || (seg->limit == 0xffffffffu && offset <= 0xffffffffu);
}

int x86_linear_address(struct x86_system *s, enum x86_seg seg, uint64_t offset, unsigned size,
		       bool write, uint64_t *linear, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;
	const struct x86_segment *sr = &cpu->seg[seg];
	uint8_t vector = seg == X86_SS ? X86_SS_FAULT : X86_GP;

	if (x86_in_64bit(cpu)) {
		*linear = offset + (seg == X86_FS || seg == X86_GS ? sr->base : 0);
		if (!sys_canonical(*linear) || !sys_canonical(*linear + size - 1))
			return sys_fault(fault, vector, 0);
		return 0;
	}
	if (!sys_paragraphs(cpu)) {
		if (!(sr->attr & X86_ATTR_P))
			return sys_fault(fault, vector, 0);
		if (write ? !attr_is_writable_data(sr->attr) : !attr_is_loadable_data(sr->attr))
			return sys_fault(fault, vector, 0);
	}
	if (!within_limit(sr, offset, size))
		return sys_fault(fault, vector, 0);
	*linear = (uint32_t)(sr->base + offset);
	return 0;
}

/* ---- stacks ---- */

/* Split [sp, sp + size) where the stack pointer wraps: bytes of the first part, or -1 if a unit would straddle. */
static int stack_first_part(uint64_t mask, uint64_t sp, unsigned size, unsigned unit)
{
	uint64_t room = mask - sp + 1; /* 0 stands for 2^64 */

	if (sys_likely(room == 0 || room >= size))
		return (int)size;
	return room % unit ? -1 : (int)room;
}

static int stack_linear(const struct x86_cpu_state *cpu, const struct x86_segment *ss,
			uint64_t mask, uint64_t sp, unsigned size, uint64_t *linear)
{
	if (sys_likely(mask == ~0ull)) {
		*linear = sp;
		return sys_canonical(sp) && sys_canonical(sp + size - 1) ? 0 : -1;
	}
	if (!within_limit(ss, sp, size))
		return -1;
	if (!sys_paragraphs(cpu) && !(ss->attr & X86_ATTR_P))
		return -1;
	*linear = (uint32_t)(ss->base + sp);
	return 0;
}

SYS_HOT int sys_stack_write(struct x86_system *s, const struct x86_segment *ss, uint64_t mask,
			    uint64_t sp, const void *buf, unsigned size, unsigned unit,
			    unsigned flags, uint32_t error, struct x86_fault *fault)
{
	uint64_t linear, rest_linear = 0;
	int first;

	sp &= mask;
	first = stack_first_part(mask, sp, size, unit);
	if (first < 0 || stack_linear(s->cpu, ss, mask, sp, first, &linear) ||
	    ((unsigned)first < size &&
	     stack_linear(s->cpu, ss, mask, 0, size - first, &rest_linear)))
		return sys_fault(fault, X86_SS_FAULT, error);
	if (s->ops->write(s, linear, buf, first, flags, fault))
		return -1;
	if (sys_likely((unsigned)first == size))
		return 0;
	return s->ops->write(s, rest_linear, (const uint8_t *)buf + first, size - first, flags,
			     fault);
}

SYS_HOT int sys_stack_read(struct x86_system *s, uint64_t mask, uint64_t sp, void *buf,
			   unsigned size, unsigned unit, struct x86_fault *fault)
{
	const struct x86_segment *ss = &s->cpu->seg[X86_SS];
	uint64_t linear, rest_linear = 0;
	int first;

	sp &= mask;
	first = stack_first_part(mask, sp, size, unit);
	if (first < 0 || stack_linear(s->cpu, ss, mask, sp, first, &linear) ||
	    ((unsigned)first < size &&
	     stack_linear(s->cpu, ss, mask, 0, size - first, &rest_linear)))
		return sys_fault(fault, X86_SS_FAULT, 0);
	if (s->ops->read(s, linear, buf, first, 0, fault))
		return -1;
	if (sys_likely((unsigned)first == size))
		return 0;
	return s->ops->read(s, rest_linear, (uint8_t *)buf + first, size - first, 0, fault);
}

/* ---- stacks from the TSS ---- */

int sys_inner_stack(struct x86_system *s, unsigned cpl, struct x86_segment *ss, uint64_t *sp,
		    struct x86_fault *fault)
{
	const struct x86_segment *tr = &s->cpu->seg[X86_TR];
	bool wide = (tr->attr & X86_ATTR_TYPE) >= SYSTEM_TSS32;
	unsigned offset = wide ? 4 + cpl * 8 : 2 + cpl * 4, size = wide ? 6 : 4;
	uint8_t raw[6];
	uint16_t selector;
	uint64_t d;

	if (!(tr->attr & X86_ATTR_P) || offset + size - 1 > tr->limit)
		return sys_fault(fault, X86_TS, tr->selector & SEL_ERROR);
	if (s->ops->read(s, sys_linear(s->cpu, tr->base + offset), raw, size, X86_SYS_IMPLICIT,
			 fault))
		return -1;
	*sp = frame_get(raw, 0, wide ? 4 : 2);
	selector = (uint16_t)frame_get(raw, wide ? 2 : 1, 2);
	if (selector_is_null(selector))
		return sys_fault(fault, X86_TS, 0);
	if (sys_fetch_stack_segment(s, selector, cpl, X86_TS, &d, fault) ||
	    sys_mark_accessed(s, selector, &d, fault))
		return -1;
	segment_set(ss, selector, d);
	return 0;
}

SYS_HOT int sys_inner_rsp(struct x86_system *s, unsigned n, uint64_t *rsp, struct x86_fault *fault)
{
	const struct x86_segment *tr = &s->cpu->seg[X86_TR];
	unsigned offset = 4 + n * 8;

	if (sys_unlikely(offset + 7 > tr->limit || !(tr->attr & X86_ATTR_P)))
		return sys_fault(fault, X86_TS, tr->selector & SEL_ERROR);
	if (s->ops->read(s, tr->base + offset, rsp, 8, X86_SYS_IMPLICIT, fault))
		return -1;
	if (sys_unlikely(!sys_canonical(*rsp)))
		return sys_fault(fault, X86_SS_FAULT, 0);
	return 0;
}
