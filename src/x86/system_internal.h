/* SPDX-License-Identifier: MIT */
/*
 * What the files behind x86/system.h share: descriptor parsing, faults, stacks, and the pieces of a
 * control transfer that several instructions have in common (Intel SDM volume 3, chapters 3, 5-7).
 *
 * Private to src/x86. Everything here compiles with -mgeneral-regs-only and without a libc: copies
 * are __builtin_memcpy of constant sizes, which the compiler expands.
 */
#ifndef LODGE_X86_SYSTEM_INTERNAL_H
#define LODGE_X86_SYSTEM_INTERNAL_H

#include <stddef.h>

#include "x86/system.h"

#define SYS_HOT __attribute__((hot))
#define sys_likely(x) __builtin_expect(!!(x), 1)
#define sys_unlikely(x) __builtin_expect(!!(x), 0)

/* Selectors (SDM vol. 3, 3.4.2) */
#define SEL_RPL 3u
#define SEL_TI 4u
#define SEL_ERROR 0xfffcu /* the part of a selector that goes into an error code */
#define ERROR_EXT 1u
#define ERROR_IDT 2u

/* X86_ATTR_TYPE | X86_ATTR_S of code and data segments */
#define DESC_ACCESSED 1u
#define DESC_WRITABLE 2u /* data */
#define DESC_READABLE 2u /* code */
#define DESC_EXPAND_DOWN 4u
#define DESC_CONFORMING 4u
#define DESC_CODE 8u

/* System descriptor types (SDM vol. 3, table 3-2) */
enum system_type {
	SYSTEM_TSS16 = 1,
	SYSTEM_LDT = 2,
	SYSTEM_TSS16_BUSY = 3,
	SYSTEM_CALL_GATE16 = 4,
	SYSTEM_TASK_GATE = 5,
	SYSTEM_INTERRUPT_GATE16 = 6,
	SYSTEM_TRAP_GATE16 = 7,
	SYSTEM_TSS32 = 9,
	SYSTEM_TSS32_BUSY = 11,
	SYSTEM_CALL_GATE32 = 12,
	SYSTEM_INTERRUPT_GATE32 = 14,
	SYSTEM_TRAP_GATE32 = 15,
};
#define TSS_BUSY 2u

/* DR6 bits that read as 1, DR7.GD, and the DEBUGCTL bits #DB clears (SDM vol. 3, 17.2, 17.4.1) */
#define DR6_FIXED_1 0xffff0ff0u
#define DR6_BD 0x2000u
#define DR6_BT 0x8000u
#define DR7_FIXED_1 0x0400u
#define DR7_GD 0x2000u
#define DEBUGCTL_LBR_BTF 3u

/* Attributes of the segments that need no descriptor */
#define ATTR_REAL_DATA 0x0093u
#define ATTR_V86 0x00f3u
#define LIMIT_64K 0xffffu

static inline int sys_fault(struct x86_fault *fault, uint8_t vector, uint32_t error)
{
	fault->vector = vector;
	fault->has_error = true;
	fault->error = error;
	fault->address = 0;
	return -1;
}

static inline int sys_gp(struct x86_fault *fault, uint32_t error)
{
	return sys_fault(fault, X86_GP, error & 0xffff);
}

static inline int sys_ud(struct x86_fault *fault)
{
	fault->vector = X86_UD;
	fault->has_error = false;
	fault->error = 0;
	fault->address = 0;
	return -1;
}

static inline bool sys_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static inline bool sys_long_mode(const struct x86_cpu_state *cpu)
{
	return cpu->efer & X86_EFER_LMA;
}

static inline bool sys_v86(const struct x86_cpu_state *cpu)
{
	return cpu->rflags & X86_FLAG_VM;
}

static inline bool sys_real(const struct x86_cpu_state *cpu)
{
	return !(cpu->cr0 & X86_CR0_PE);
}

/* Real-address or virtual-8086 mode: selectors are paragraphs, not indices. */
static inline bool sys_paragraphs(const struct x86_cpu_state *cpu)
{
	return sys_real(cpu) || sys_v86(cpu);
}

static inline unsigned sys_iopl(const struct x86_cpu_state *cpu)
{
	return (cpu->rflags & X86_FLAG_IOPL) >> 12;
}

/* A linear address is 32 bits wide outside long mode. */
static inline uint64_t sys_linear(const struct x86_cpu_state *cpu, uint64_t address)
{
	return sys_long_mode(cpu) ? address : (uint32_t)address;
}

/* ---- descriptors: the first 8 bytes as one number ---- */

static inline uint16_t desc_attr(uint64_t d)
{
	return (d >> 40) & 0xf0ff;
}

static inline uint64_t desc_base(uint64_t d)
{
	return ((d >> 16) & 0xffffff) | (d >> 56 << 24);
}

static inline uint32_t desc_limit(uint64_t d)
{
	uint32_t limit = (d & 0xffff) | ((d >> 32) & 0xf0000);

	return desc_attr(d) & X86_ATTR_G ? limit << 12 | 0xfff : limit;
}

static inline unsigned attr_dpl(uint16_t attr)
{
	return (attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT;
}

static inline bool attr_is_code(uint16_t attr)
{
	return (attr & (X86_ATTR_S | DESC_CODE)) == (X86_ATTR_S | DESC_CODE);
}

static inline bool attr_is_conforming(uint16_t attr)
{
	return attr & DESC_CONFORMING;
}

static inline bool attr_is_writable_data(uint16_t attr)
{
	return (attr & (X86_ATTR_S | DESC_CODE | DESC_WRITABLE)) == (X86_ATTR_S | DESC_WRITABLE);
}

/* Data, or readable code: may go into DS, ES, FS, GS. */
static inline bool attr_is_loadable_data(uint16_t attr)
{
	return (attr & X86_ATTR_S) && (attr & (DESC_CODE | DESC_READABLE)) != DESC_CODE;
}

/* Type of a system descriptor, or 0 (reserved) for code and data. */
static inline unsigned attr_system_type(uint16_t attr)
{
	return attr & X86_ATTR_S ? 0 : attr & X86_ATTR_TYPE;
}

static inline bool selector_is_null(uint16_t selector)
{
	return !(selector & ~SEL_RPL & 0xffff);
}

static inline void segment_set(struct x86_segment *seg, uint16_t selector, uint64_t d)
{
	seg->selector = selector;
	seg->attr = desc_attr(d);
	seg->limit = desc_limit(d);
	seg->base = desc_base(d);
}

/*
 * Load CS: 64-bit code has base 0, whatever the descriptor says. The engine is told if anything that
 * matters to running code changed.
 */
static inline void sys_set_code(struct x86_system *s, uint16_t selector, uint64_t d)
{
	struct x86_segment *cs = &s->cpu->seg[X86_CS], old = *cs;

	segment_set(cs, selector, d);
	if (sys_long_mode(s->cpu) && (cs->attr & X86_ATTR_L))
		cs->base = 0;
	if (((old.attr ^ cs->attr) & (X86_ATTR_L | X86_ATTR_DB | X86_ATTR_DPL)) ||
	    old.base != cs->base || old.limit != cs->limit)
		s->effects |= X86_EFFECT_MODE;
}

/* Base from the selector, 64 KiB, accessible from CPL 3. */
static inline void segment_set_v86(struct x86_segment *seg, uint16_t selector)
{
	seg->selector = selector;
	seg->attr = ATTR_V86;
	seg->limit = LIMIT_64K;
	seg->base = (uint32_t)selector << 4;
}

/*
 * In real-address mode a load changes only the base: the limit and D/B stay as protected mode left
 * them ("unreal mode"). A segment that was null becomes usable with the reset limit.
 */
static inline void segment_set_real(struct x86_segment *seg, uint16_t selector)
{
	if (!(seg->attr & X86_ATTR_P))
		seg->limit = LIMIT_64K;
	seg->selector = selector;
	seg->attr = (seg->attr & (X86_ATTR_G | X86_ATTR_DB)) | ATTR_REAL_DATA;
	seg->base = (uint32_t)selector << 4;
}

/* CS in real-address or virtual-8086 mode. */
static inline void sys_set_code_paragraph(struct x86_system *s, uint16_t selector)
{
	struct x86_segment *cs = &s->cpu->seg[X86_CS];

	if (cs->base != (uint32_t)selector << 4)
		s->effects |= X86_EFFECT_MODE;
	if (sys_v86(s->cpu))
		segment_set_v86(cs, selector);
	else
		segment_set_real(cs, selector);
}

/* A null selector in DS, ES, FS or GS: attr without P means "unusable". */
static inline void segment_set_null(struct x86_system *s, enum x86_seg which, uint16_t selector)
{
	struct x86_segment *seg = &s->cpu->seg[which];

	seg->selector = selector;
	seg->attr = 0;
	if (!s->features.null_keeps_base) {
		seg->base = 0;
		seg->limit = 0;
	}
}

/* Give SS the null selector 64-bit mode uses for inner stacks; its DPL still carries the CPL. */
static inline void segment_set_null_ss(struct x86_segment *ss, unsigned cpl)
{
	ss->selector = cpl;
	ss->attr = cpl << X86_ATTR_DPL_SHIFT;
	ss->limit = 0;
	ss->base = 0;
}

/* Read the descriptor a selector names. Outside its table: `vector` with the selector as error code.
 * The null selector is the caller's business. */
int sys_fetch_descriptor(struct x86_system *s, uint16_t selector, uint8_t vector, uint64_t *d,
			 struct x86_fault *fault);
/* The upper half of a 16-byte descriptor (long mode). */
int sys_fetch_descriptor_high(struct x86_system *s, uint16_t selector, uint8_t vector,
			      uint64_t *high, struct x86_fault *fault);
/* Set or clear type bits (accessed, busy) of the descriptor in memory, and in *d. */
int sys_change_type(struct x86_system *s, uint16_t selector, uint64_t *d, unsigned set,
		    unsigned clear, struct x86_fault *fault);

static inline int sys_mark_accessed(struct x86_system *s, uint16_t selector, uint64_t *d,
				    struct x86_fault *fault)
{
	if (sys_likely(*d >> 40 & DESC_ACCESSED))
		return 0;
	return sys_change_type(s, selector, d, DESC_ACCESSED, 0, fault);
}

/* Check a stack segment for privilege level cpl: faults are `vector`(selector), #SS(selector) if not present. */
int sys_fetch_stack_segment(struct x86_system *s, uint16_t selector, unsigned cpl, uint8_t vector,
			    uint64_t *d, struct x86_fault *fault);

/* Is offset a valid instruction pointer in a code segment with this descriptor? */
static inline bool sys_code_offset_ok(bool long_mode, uint16_t attr, uint32_t limit,
				      uint64_t offset)
{
	if (long_mode && (attr & X86_ATTR_L))
		return sys_canonical(offset);
	return offset <= limit;
}

/* The code segment far RET and IRET return to, and the stack segment they pop (code_attr: the new CS's). */
int sys_check_return_code(struct x86_system *s, uint16_t selector, uint64_t *d,
			  struct x86_fault *fault);
int sys_check_return_stack(struct x86_system *s, uint16_t selector, unsigned cpl,
			   uint16_t code_attr, struct x86_segment *ss, struct x86_fault *fault);

/* After a return to an outer level: data segments the new CPL may not use become null. */
void sys_drop_inner_segments(struct x86_system *s, unsigned cpl);

/* ---- stacks ---- */

static inline uint64_t stack_mask(bool is_64bit, uint16_t ss_attr)
{
	if (is_64bit)
		return ~0ull;
	return ss_attr & X86_ATTR_DB ? 0xffffffffu : 0xffffu;
}

static inline uint64_t sys_stack_mask(const struct x86_cpu_state *cpu)
{
	return stack_mask(x86_in_64bit(cpu), cpu->seg[X86_SS].attr);
}

static inline void sys_set_sp(struct x86_cpu_state *cpu, uint64_t mask, uint64_t sp)
{
	if (mask == 0xffff)
		cpu->gpr[X86_RSP] = (cpu->gpr[X86_RSP] & ~0xffffull) | (sp & 0xffff);
	else
		cpu->gpr[X86_RSP] = sp & mask;
}

/*
 * A stack access of `size` bytes made of `unit`-byte pushes or pops, at offset sp in segment ss (which
 * need not be loaded yet). The stack pointer wraps at mask. Violations are #SS(error).
 */
int sys_stack_write(struct x86_system *s, const struct x86_segment *ss, uint64_t mask, uint64_t sp,
		    const void *buf, unsigned size, unsigned unit, unsigned flags, uint32_t error,
		    struct x86_fault *fault);
int sys_stack_read(struct x86_system *s, uint64_t mask, uint64_t sp, void *buf, unsigned size,
		   unsigned unit, struct x86_fault *fault);

/* Entry i of a frame of 2-, 4- or 8-byte units. */
static inline void frame_put(void *frame, unsigned i, unsigned unit, uint64_t value)
{
	uint8_t *p = (uint8_t *)frame + i * unit;

	if (unit == 8) {
		__builtin_memcpy(p, &value, 8);
	} else if (unit == 4) {
		__builtin_memcpy(p, &value, 4);
	} else {
		__builtin_memcpy(p, &value, 2);
	}
}

static inline uint64_t frame_get(const void *frame, unsigned i, unsigned unit)
{
	const uint8_t *p = (const uint8_t *)frame + i * unit;
	uint64_t v8;
	uint32_t v4;
	uint16_t v2;

	if (unit == 8) {
		__builtin_memcpy(&v8, p, 8);
		return v8;
	}
	if (unit == 4) {
		__builtin_memcpy(&v4, p, 4);
		return v4;
	}
	__builtin_memcpy(&v2, p, 2);
	return v2;
}

/* The stack for privilege level cpl from a 16- or 32-bit TSS, checked: segment *ss and pointer *sp. */
int sys_inner_stack(struct x86_system *s, unsigned cpl, struct x86_segment *ss, uint64_t *sp,
		    struct x86_fault *fault);
/* A stack pointer from a 64-bit TSS: n 0-2 is RSPn, 4-10 is IST1-IST7. */
int sys_inner_rsp(struct x86_system *s, unsigned n, uint64_t *rsp, struct x86_fault *fault);

/* ---- events and tasks ---- */

/* Bits of the flags image an exception saves that differ from RFLAGS are passed in `flags`. */
int sys_task_switch(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		    uint64_t flags, bool has_error, uint32_t error, bool *committed,
		    struct x86_fault *fault);
/*
 * For instructions: a fault after the switch was committed belongs to the new task, so it is raised
 * here and the instruction counts as complete.
 */
int sys_task_transfer(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		      struct x86_fault *fault);

/*
 * After a failure: if the instruction was committed (the registers are the new task's or level's), raises
 * the fault there and gives 0, else -1.
 */
int sys_settle(struct x86_system *s, bool committed, struct x86_fault *fault);

/* Under PAE paging, as these values would have it: #GP(0) if a present PDPTE has a reserved bit set. */
int sys_check_pdptes(struct x86_system *s, uint64_t cr0, uint64_t cr3, uint64_t cr4,
		     struct x86_fault *fault);

/*
 * VIF and VIP both set where virtual interrupts are in force: #GP(0) before the next instruction
 * (SDM vol. 3, 20.3.2 and 20.4). They can only have come from the image of an IRET or task switch.
 */
static inline bool sys_virtual_interrupt_due(const struct x86_cpu_state *cpu)
{
	if (sys_likely((cpu->rflags & (X86_FLAG_VIF | X86_FLAG_VIP)) !=
		       (X86_FLAG_VIF | X86_FLAG_VIP)))
		return false;
	if (sys_v86(cpu))
		return (cpu->cr4 & X86_CR4_VME) && sys_iopl(cpu) < 3;
	return (cpu->cr4 & X86_CR4_PVI) && x86_cpl(cpu) == 3 && sys_iopl(cpu) < 3;
}

/* RFLAGS changed from old: tell the engine if interrupts may have opened up. */
static inline void sys_flags_changed(struct x86_system *s, uint64_t old)
{
	if (s->cpu->rflags & ~old & X86_FLAG_IF)
		s->effects |= X86_EFFECT_INTERRUPTS;
}

#endif
