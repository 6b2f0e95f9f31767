/* SPDX-License-Identifier: MIT */
/*
 * Control, debug and extended control registers, descriptor-table registers and the I/O permission
 * check: Intel SDM volume 3, 2.5, 2.6, 4.1 and 17.2; volume 1, 18.5 (I/O bitmap); volume 2, MOV CR,
 * MOV DR, LMSW, CLTS, XSETBV, XGETBV, LGDT.
 */
#include "x86/system_internal.h"

#define CR0_VALID                                                                                  \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE |             \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR3_PCID 0xfffull
#define CR3_PAE_BASE 0xffffffe0u
#define PDPTE_P 1u
#define PDPTE_RESERVED 0x1e6ull

/* CR4 bits that change what a translation is. */
#define CR4_TRANSLATION                                                                            \
	(X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP)
/* ... and those that make the CPU read the PDPTEs again (SDM vol. 3, 4.4.1). */
#define CR4_PDPTE (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP)

#define DR6_WRITABLE 0x0000e00fu
#define DR7_WRITABLE 0xffff23ffu

int x86_check_cpl0(struct x86_system *s, struct x86_fault *fault)
{
	return sys_unlikely(x86_cpl(s->cpu)) ? sys_gp(fault, 0) : 0;
}

int x86_check_umip(struct x86_system *s, struct x86_fault *fault)
{
	return (s->cpu->cr4 & X86_CR4_UMIP) && x86_cpl(s->cpu) ? sys_gp(fault, 0) : 0;
}

int sys_check_pdptes(struct x86_system *s, uint64_t cr0, uint64_t cr3, uint64_t cr4,
		     struct x86_fault *fault)
{
	uint64_t reserved = PDPTE_RESERVED | ~0ull << s->features.maxphyaddr;

	if (!(cr0 & X86_CR0_PG) || !(cr4 & X86_CR4_PAE) || sys_long_mode(s->cpu) ||
	    !s->ops->read_physical)
		return 0;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t entry = s->ops->read_physical(s, (cr3 & CR3_PAE_BASE) + i * 8);

		if ((entry & PDPTE_P) && (entry & reserved))
			return sys_gp(fault, 0);
	}
	return 0;
}

/* ---- control registers ---- */

static int write_cr0(struct x86_system *s, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t old = cpu->cr0, changed;

	if (value >> 32)
		return sys_gp(fault, 0);
	value = (value & CR0_VALID) | X86_CR0_ET;
	changed = old ^ value;
	if ((value & X86_CR0_PG) && !(value & X86_CR0_PE))
		return sys_gp(fault, 0);
	if ((value & X86_CR0_NW) && !(value & X86_CR0_CD))
		return sys_gp(fault, 0);

	if (changed & value & X86_CR0_PG) {
		if (cpu->efer & X86_EFER_LME) { /* into long mode (SDM vol. 3, 9.8.5) */
			const struct x86_segment *tr = &cpu->seg[X86_TR];
			unsigned tss = attr_system_type(tr->attr);

			if (!(cpu->cr4 & X86_CR4_PAE) || (cpu->seg[X86_CS].attr & X86_ATTR_L))
				return sys_gp(fault, 0);
			if ((tr->attr & X86_ATTR_P) &&
			    (tss == SYSTEM_TSS16 || tss == SYSTEM_TSS16_BUSY))
				return sys_gp(fault, 0);
			cpu->efer |= X86_EFER_LMA;
		} else if (sys_check_pdptes(s, value, cpu->cr3, cpu->cr4, fault)) {
			return -1;
		}
	} else if (changed & X86_CR0_PG) {
		if (x86_in_64bit(cpu) || (cpu->cr4 & X86_CR4_PCIDE))
			return sys_gp(fault, 0);
		cpu->efer &= ~(uint64_t)X86_EFER_LMA;
	} else if ((changed & (X86_CR0_CD | X86_CR0_NW)) &&
		   sys_check_pdptes(s, value, cpu->cr3, cpu->cr4, fault)) {
		return -1;
	}

	cpu->cr0 = value;
	if (changed)
		s->effects |= X86_EFFECT_MODE;
	if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
		s->effects |= X86_EFFECT_FLUSH_ALL;
	return 0;
}

static int write_cr3(struct x86_system *s, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	bool keep = false;

	if (sys_likely(sys_long_mode(cpu))) {
		if (cpu->cr4 & X86_CR4_PCIDE) {
			keep = value & X86_CR3_NOFLUSH;
			value &= ~X86_CR3_NOFLUSH;
		}
		if (sys_unlikely(value >> s->features.maxphyaddr))
			return sys_gp(fault, 0);
	} else {
		value = (uint32_t)value;
		if (sys_check_pdptes(s, cpu->cr0, value, cpu->cr4, fault))
			return -1;
	}
	cpu->cr3 = value;
	s->effects |= keep ? X86_EFFECT_CR3_NOFLUSH : X86_EFFECT_CR3;
	return 0;
}

static int write_cr4(struct x86_system *s, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	uint64_t changed = cpu->cr4 ^ value;

	if (value & ~s->features.cr4_valid)
		return sys_gp(fault, 0);
	if (sys_long_mode(cpu)) {
		if (!(value & X86_CR4_PAE))
			return sys_gp(fault, 0);
		if ((changed & value & X86_CR4_PCIDE) && (cpu->cr3 & CR3_PCID))
			return sys_gp(fault, 0);
	} else {
		if (changed & value & X86_CR4_PCIDE)
			return sys_gp(fault, 0);
		if ((changed & CR4_PDPTE) && sys_check_pdptes(s, cpu->cr0, cpu->cr3, value, fault))
			return -1;
	}
	cpu->cr4 = value;
	if (changed)
		s->effects |= X86_EFFECT_MODE;
	if (changed & CR4_TRANSLATION)
		s->effects |= X86_EFFECT_FLUSH_ALL;
	return 0;
}

SYS_HOT int x86_read_cr(struct x86_system *s, unsigned cr, uint64_t *value, struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;

	if (sys_unlikely(cr > 8 || !(0x11d >> cr & 1)))
		return sys_ud(fault);
	if (sys_unlikely(x86_cpl(cpu)))
		return sys_gp(fault, 0);
	switch (cr) {
	case 0:
		*value = cpu->cr0;
		break;
	case 2:
		*value = cpu->cr2;
		break;
	case 3:
		*value = cpu->cr3;
		break;
	case 4:
		*value = cpu->cr4;
		break;
	default:
		*value = s->ops->read_cr8(s);
		break;
	}
	return 0;
}

SYS_HOT int x86_write_cr(struct x86_system *s, unsigned cr, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (sys_unlikely(cr > 8 || !(0x11d >> cr & 1)))
		return sys_ud(fault);
	if (sys_unlikely(x86_cpl(cpu)))
		return sys_gp(fault, 0);
	if (!x86_in_64bit(cpu))
		value = (uint32_t)value;
	switch (cr) {
	case 0:
		return write_cr0(s, value, fault);
	case 2:
		cpu->cr2 = value;
		return 0;
	case 3:
		return write_cr3(s, value, fault);
	case 4:
		return write_cr4(s, value, fault);
	default:
		if (value & ~0xfull)
			return sys_gp(fault, 0);
		s->ops->write_cr8(s, value);
		s->effects |= X86_EFFECT_INTERRUPTS;
		return 0;
	}
}

/* PE can be set, not cleared; MP, EM, TS follow the operand. */
int x86_lmsw(struct x86_system *s, uint16_t value, struct x86_fault *fault)
{
	const uint64_t taken = X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;

	if (x86_cpl(s->cpu))
		return sys_gp(fault, 0);
	return write_cr0(s, (s->cpu->cr0 & ~taken) | (value & (taken | X86_CR0_PE)), fault);
}

int x86_clts(struct x86_system *s, struct x86_fault *fault)
{
	if (x86_cpl(s->cpu))
		return sys_gp(fault, 0);
	if (s->cpu->cr0 & X86_CR0_TS) {
		s->cpu->cr0 &= ~(uint64_t)X86_CR0_TS;
		s->effects |= X86_EFFECT_MODE;
	}
	return 0;
}

/* ---- debug registers ---- */

/* Checks of MOV to and from DRn; the register meant, or -1. */
static int debug_register(struct x86_system *s, unsigned dr, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (dr > 7)
		return sys_ud(fault);
	if (x86_cpl(cpu))
		return sys_gp(fault, 0);
	if (dr == 4 || dr == 5) {
		if (cpu->cr4 & X86_CR4_DE)
			return sys_ud(fault);
		dr += 2;
	}
	if (cpu->dr[7] & DR7_GD) {
		*fault = (struct x86_fault){ .vector = X86_DB, .address = DR6_BD };
		return -1;
	}
	return (int)dr;
}

int x86_read_dr(struct x86_system *s, unsigned dr, uint64_t *value, struct x86_fault *fault)
{
	int n = debug_register(s, dr, fault);

	if (n < 0)
		return -1;
	*value = s->cpu->dr[n];
	if (n == 6)
		*value |= DR6_FIXED_1;
	else if (n == 7)
		*value |= DR7_FIXED_1;
	return 0;
}

int x86_write_dr(struct x86_system *s, unsigned dr, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;
	int n = debug_register(s, dr, fault);

	if (n < 0)
		return -1;
	if (!x86_in_64bit(cpu))
		value = (uint32_t)value;
	if (n >= 6 && value >> 32)
		return sys_gp(fault, 0);
	if (n == 6)
		value = (value & DR6_WRITABLE) | DR6_FIXED_1;
	else if (n == 7)
		value = (value & DR7_WRITABLE) | DR7_FIXED_1;
	cpu->dr[n] = value;
	s->effects |= X86_EFFECT_DEBUG;
	return 0;
}

/* ---- extended control registers (SDM vol. 1, 13.3) ---- */

#define XCR0_X87 0x1ull
#define XCR0_SSE 0x2ull
#define XCR0_AVX 0x4ull
#define XCR0_BND 0x18ull
#define XCR0_AVX512 0xe0ull
#define XCR0_AMX 0x60000ull

static bool all_or_none(uint64_t value, uint64_t mask)
{
	return !(value & mask) || (value & mask) == mask;
}

int x86_xsetbv(struct x86_system *s, uint32_t index, uint64_t value, struct x86_fault *fault)
{
	struct x86_cpu_state *cpu = s->cpu;

	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		return sys_ud(fault);
	if (x86_cpl(cpu) || index)
		return sys_gp(fault, 0);
	if (!(value & XCR0_X87) || (value & ~s->features.xcr0_valid))
		return sys_gp(fault, 0);
	if ((value & XCR0_AVX) && !(value & XCR0_SSE))
		return sys_gp(fault, 0);
	if ((value & XCR0_AVX512) && !(value & XCR0_AVX))
		return sys_gp(fault, 0);
	if (!all_or_none(value, XCR0_BND) || !all_or_none(value, XCR0_AVX512) ||
	    !all_or_none(value, XCR0_AMX))
		return sys_gp(fault, 0);
	if (cpu->xcr0 != value) {
		cpu->xcr0 = value;
		s->effects |= X86_EFFECT_MODE;
	}
	return 0;
}

int x86_xgetbv(struct x86_system *s, uint32_t index, uint64_t *value, struct x86_fault *fault)
{
	if (!(s->cpu->cr4 & X86_CR4_OSXSAVE))
		return sys_ud(fault);
	if (index > 1)
		return sys_gp(fault, 0);
	/* XCR1 is XCR0 & XINUSE, which may always claim more than is in use. */
	*value = s->cpu->xcr0;
	return 0;
}

/* ---- descriptor-table registers ---- */

int x86_load_gdtr_idtr(struct x86_system *s, bool idt, uint64_t base, uint16_t limit,
		       struct x86_fault *fault)
{
	struct x86_table *table = idt ? &s->cpu->idt : &s->cpu->gdt;

	if (x86_cpl(s->cpu))
		return sys_gp(fault, 0);
	if (x86_in_64bit(s->cpu)) {
		if (!sys_canonical(base))
			return sys_gp(fault, 0);
	} else {
		base = (uint32_t)base;
	}
	table->base = base;
	table->limit = limit;
	return 0;
}

/* ---- ports ---- */

SYS_HOT int x86_check_io(struct x86_system *s, uint16_t port, unsigned size,
			 struct x86_fault *fault)
{
	const struct x86_cpu_state *cpu = s->cpu;
	const struct x86_segment *tr = &cpu->seg[X86_TR];
	uint16_t map, bits;
	uint32_t offset;

	if (sys_likely(sys_real(cpu) || (!sys_v86(cpu) && x86_cpl(cpu) <= sys_iopl(cpu))))
		return 0;
	if (!(tr->attr & X86_ATTR_P) || attr_system_type(tr->attr) < SYSTEM_TSS32 ||
	    tr->limit < 0x67)
		return sys_gp(fault, 0);
	if (s->ops->read(s, sys_linear(cpu, tr->base + 0x66), &map, 2, X86_SYS_IMPLICIT, fault))
		return -1;
	/* Two bytes are read always, so both must lie inside the segment. */
	offset = map + port / 8u;
	if (offset + 1 > tr->limit)
		return sys_gp(fault, 0);
	if (s->ops->read(s, sys_linear(cpu, tr->base + offset), &bits, 2, X86_SYS_IMPLICIT, fault))
		return -1;
	if (bits >> (port & 7) & ((1u << size) - 1))
		return sys_gp(fault, 0);
	return 0;
}
