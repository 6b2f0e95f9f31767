/* SPDX-License-Identifier: MIT */
/* CPU reset, control and debug registers, MSRs, XCR0, flags, ports: SDM volumes 1-4. */
#include "x86_machine.h"

#define WRITE_CR(m, cr, value) x86_write_cr(&(m)->sys, cr, value, &(m)->fault)
#define WRITE_DR(m, dr, value) x86_write_dr(&(m)->sys, dr, value, &(m)->fault)
#define WRITE_MSR(m, msr, value) x86_write_msr(&(m)->sys, msr, value, &(m)->fault)
#define NON_CANONICAL 0x0000800000000000ull

static uint64_t read_cr(struct machine *m, unsigned cr)
{
	uint64_t value;

	assert_ok(m, x86_read_cr(&m->sys, cr, &value, &m->fault));
	return value;
}

static uint64_t read_dr(struct machine *m, unsigned dr)
{
	uint64_t value;

	assert_ok(m, x86_read_dr(&m->sys, dr, &value, &m->fault));
	return value;
}

static uint64_t read_msr(struct machine *m, uint32_t msr)
{
	uint64_t value;

	assert_ok(m, x86_read_msr(&m->sys, msr, &value, &m->fault));
	return value;
}

static void set_cpl(struct machine *m, unsigned cpl)
{
	m->cpu.seg[X86_SS].attr = (m->cpu.seg[X86_SS].attr & ~X86_ATTR_DPL) |
				  cpl << X86_ATTR_DPL_SHIFT;
}

/* ---- RESET and INIT ---- */

static void reset(void **state)
{
	struct machine *m = *state;
	struct x86_cpu_state *cpu = &m->cpu;

	memset(cpu, 0xaa, sizeof(*cpu));
	x86_cpu_reset(cpu, true);
	assert_int_equal(cpu->rip, 0xfff0);
	assert_int_equal(cpu->rflags, 2);
	assert_int_equal(cpu->cr0, 0x60000010);
	assert_int_equal(cpu->seg[X86_CS].selector, 0xf000);
	assert_int_equal(cpu->seg[X86_CS].base, 0xffff0000);
	assert_int_equal(cpu->seg[X86_DS].limit, 0xffff);
	assert_int_equal(cpu->idt.limit, 0xffff);
	assert_int_equal(cpu->dr[6], 0xffff0ff0);
	assert_int_equal(cpu->dr[7], 0x400);
	assert_int_equal(cpu->xcr0, 1);
	assert_int_equal(cpu->pat, 0x0007040600070406);
	assert_int_equal(cpu->mp_state, X86_MP_RUNNABLE);
	assert_int_equal(cpu->xsave[0] | cpu->xsave[1] << 8, 0x40);
	assert_int_equal(cpu->xsave[24] | cpu->xsave[25] << 8, 0x1f80);
	assert_int_equal(cpu->lstar | cpu->efer | cpu->cr3 | cpu->cr4 | cpu->gpr[15], 0);
	assert_int_equal(x86_cpl(cpu), 0);
	x86_cpu_reset(cpu, false);
	assert_int_equal(cpu->mp_state, X86_MP_WAIT_FOR_SIPI);
}

static void init(void **state)
{
	struct machine *m = *state;
	struct x86_cpu_state *cpu = &m->cpu;

	cpu->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_CD | X86_CR0_ET;
	cpu->mtrr_def_type = 0xc06;
	cpu->lstar = 0x1234;
	cpu->xcr0 = 7;
	cpu->xsave[100] = 0x55;
	cpu->tsc_offset = 77;
	cpu->efer = X86_EFER_LMA | X86_EFER_LME;
	cpu->nmi_masked = 1;
	x86_cpu_init(cpu, false);
	assert_int_equal(cpu->cr0, X86_CR0_CD | X86_CR0_ET); /* CD and NW stay */
	assert_int_equal(cpu->mtrr_def_type, 0xc06);
	assert_int_equal(cpu->lstar, 0x1234);
	assert_int_equal(cpu->xcr0, 7);
	assert_int_equal(cpu->xsave[100], 0x55);
	assert_int_equal(cpu->tsc_offset, 77);
	assert_int_equal(cpu->efer, 0);
	assert_int_equal(cpu->rip, 0xfff0);
	assert_int_equal(cpu->nmi_masked, 0);
	assert_int_equal(cpu->mp_state, X86_MP_WAIT_FOR_SIPI);
}

/* ---- control registers ---- */

static void cr0(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PG), X86_GP, 0); /* without PE */
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_NW), X86_GP,
			       0);                 /* without CD */
	assert_ok(m, WRITE_CR(m, 0, 0x1ffaffc3u)); /* reserved bits are ignored */
	assert_int_equal(read_cr(m, 0), 0x00000013);
	m->sys.effects = 0;
	assert_ok(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_WP));
	assert_int_equal(read_cr(m, 0), X86_CR0_PE | X86_CR0_WP | X86_CR0_ET); /* ET is fixed */
	assert_true(m->sys.effects & X86_EFFECT_FLUSH_ALL);
	m->sys.effects = 0;
	assert_ok(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_WP | X86_CR0_TS));
	assert_int_equal(m->sys.effects, X86_EFFECT_MODE);
	assert_ok(m, x86_clts(&m->sys, &m->fault));
	assert_false(m->cpu.cr0 & X86_CR0_TS);
	assert_ok(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_PG));
	assert_int_equal(m->cpu.efer, 0); /* LME is clear: no long mode */
}

static void cr0_long(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_CR(m, 0, 1ull << 32 | m->cpu.cr0), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE), X86_GP,
			       0); /* PG off in 64-bit mode */
	load_cache(m, X86_CS, CODE0);
	m->cpu.cr4 |= X86_CR4_PCIDE;
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE), X86_GP, 0);
	m->cpu.cr4 &= ~(uint64_t)X86_CR4_PCIDE;
	assert_ok(m, WRITE_CR(m, 0, X86_CR0_PE));
	assert_false(m->cpu.efer & X86_EFER_LMA);
	assert_true(m->cpu.efer & X86_EFER_LME);

	/* And in again. */
	m->cpu.cr4 = 0;
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_PG), X86_GP, 0); /* no PAE */
	m->cpu.cr4 = X86_CR4_PAE;
	m->cpu.seg[X86_TR].attr = 0x83;
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_PG), X86_GP,
			       0); /* 16-bit TSS */
	m->cpu.seg[X86_TR].attr = 0x8b;
	load_cache(m, X86_CS, CODE64);
	assert_fault_unchanged(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_PG), X86_GP, 0); /* CS.L */
	load_cache(m, X86_CS, CODE0);
	assert_ok(m, WRITE_CR(m, 0, X86_CR0_PE | X86_CR0_PG));
	assert_true(m->cpu.efer & X86_EFER_LMA);
}

static void lmsw(void **state)
{
	struct machine *m = *state;

	m->cpu.cr0 = X86_CR0_ET;
	assert_ok(m, x86_lmsw(&m->sys, 0xffff, &m->fault));
	assert_int_equal(m->cpu.cr0, 0x1f);
	assert_ok(m, x86_lmsw(&m->sys, 0, &m->fault));
	assert_int_equal(m->cpu.cr0, 0x11); /* PE stays */
	set_cpl(m, 3);
	assert_fault_unchanged(m, x86_lmsw(&m->sys, 0, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_clts(&m->sys, &m->fault), X86_GP, 0);
}

static void cr_numbers_and_privilege(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	for (unsigned cr = 0; cr < 16; cr++) {
		if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8) {
			assert_ud(m, x86_read_cr(&m->sys, cr, &value, &m->fault));
			assert_ud(m, WRITE_CR(m, cr, 0));
		}
	}
	assert_ok(m, WRITE_CR(m, 2, ~0ull));
	assert_int_equal(read_cr(m, 2), ~0ull);
	assert_ok(m, WRITE_CR(m, 8, 15));
	assert_int_equal(m->cr8, 15);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
	assert_int_equal(read_cr(m, 8), 15);
	assert_fault_unchanged(m, WRITE_CR(m, 8, 16), X86_GP, 0);
	set_cpl(m, 3);
	assert_fault_unchanged(m, WRITE_CR(m, 0, 0), X86_GP, 0);
	assert_fault_unchanged(m, x86_read_cr(&m->sys, 8, &value, &m->fault), X86_GP, 0);
}

static void cr3_long(void **state)
{
	struct machine *m = *state;

	assert_ok(m, WRITE_CR(m, 3, 0xfffffff000 | 0x18));
	assert_int_equal(read_cr(m, 3), 0xfffffff018);
	assert_int_equal(m->sys.effects, X86_EFFECT_CR3);
	assert_fault_unchanged(m, WRITE_CR(m, 3, 1ull << 40), X86_GP, 0); /* MAXPHYADDR */
	assert_fault_unchanged(m, WRITE_CR(m, 3, X86_CR3_NOFLUSH | 0x1000), X86_GP, 0);
	m->cpu.cr4 |= X86_CR4_PCIDE;
	m->sys.effects = 0;
	assert_ok(m, WRITE_CR(m, 3, X86_CR3_NOFLUSH | 0x1123));
	assert_int_equal(read_cr(m, 3), 0x1123); /* bit 63 is not kept */
	assert_int_equal(m->sys.effects, X86_EFFECT_CR3_NOFLUSH);
	m->sys.effects = 0;
	assert_ok(m, WRITE_CR(m, 3, 0x1124));
	assert_int_equal(m->sys.effects, X86_EFFECT_CR3);
}

static void cr4(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_CR(m, 4, 1u << 31 | X86_CR4_PAE), X86_GP, 0); /* reserved */
	assert_fault_unchanged(m, WRITE_CR(m, 4, 1ull << 32 | X86_CR4_PAE), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_CR(m, 4, 0), X86_GP, 0); /* PAE off in long mode */
	m->cpu.cr3 = 0x1001;
	assert_fault_unchanged(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PCIDE), X86_GP,
			       0); /* PCID in use */
	m->cpu.cr3 = 0x1000;
	assert_ok(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PCIDE));
	m->cpu.cr3 = 0x1001;
	m->sys.effects = 0;
	assert_ok(m,
		  WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PCIDE | X86_CR4_TSD)); /* it is on already */
	assert_int_equal(m->sys.effects, X86_EFFECT_MODE);
	assert_ok(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PGE));
	assert_true(m->sys.effects & X86_EFFECT_FLUSH_ALL);
}

static void cr4_legacy(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PCIDE), X86_GP, 0);
	assert_ok(m, WRITE_CR(m, 4, X86_CR4_PSE | X86_CR4_VME));
}

static void pdptes(void **state)
{
	struct machine *m = *state;
	const uint64_t on = X86_CR0_PE | X86_CR0_PG;

	m->cpu.cr4 = X86_CR4_PAE;
	m->cpu.cr3 = 0x10020;
	poke(m, 0x10020, 8, 0x11001);
	poke(m, 0x10028, 8, 0x11003); /* bit 1 is reserved */
	assert_fault_unchanged(m, WRITE_CR(m, 0, on), X86_GP, 0);
	poke(m, 0x10028, 8, 0x11002); /* not present: anything goes */
	assert_ok(m, WRITE_CR(m, 0, on));
	poke(m, 0x10060, 8, 1ull << 40 | 1); /* beyond MAXPHYADDR */
	assert_fault_unchanged(m, WRITE_CR(m, 3, 0x10060), X86_GP, 0);
	poke(m, 0x10060, 8, 1ull << 63 | 1);
	assert_fault_unchanged(m, WRITE_CR(m, 3, 0x10060), X86_GP, 0);
	poke(m, 0x10060, 8, 0x12001);
	assert_ok(m, WRITE_CR(m, 3, 0x10060));
	/* CR4.PGE reads them again, CR4.TSD does not. */
	poke(m, 0x10060, 8, 0x12003);
	assert_fault_unchanged(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_PGE), X86_GP, 0);
	assert_ok(m, WRITE_CR(m, 4, X86_CR4_PAE | X86_CR4_TSD));
}

/* ---- debug registers ---- */

static void debug_registers(void **state)
{
	struct machine *m = *state;

	assert_ok(m, WRITE_DR(m, 0, 0x123456789abc));
	assert_int_equal(read_dr(m, 0), 0x123456789abc);
	assert_ok(m, WRITE_DR(m, 6, 0));
	assert_int_equal(read_dr(m, 6), 0xffff0ff0);
	assert_ok(m, WRITE_DR(m, 6, 0xffffffff));
	assert_int_equal(read_dr(m, 6), 0xffffefff); /* bit 12 is always 0 */
	assert_ok(m, WRITE_DR(m, 7, 0));
	assert_int_equal(read_dr(m, 7), 0x400);
	assert_ok(m, WRITE_DR(m, 7, 0xffffdfff)); /* all but GD */
	assert_int_equal(read_dr(m, 7), 0xffff07ff);
	assert_fault_unchanged(m, WRITE_DR(m, 6, 1ull << 32), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_DR(m, 7, 1ull << 32), X86_GP, 0);
	assert_true(m->sys.effects & X86_EFFECT_DEBUG);
	assert_ud(m, WRITE_DR(m, 8, 0));
	/* 4 and 5 are 6 and 7, unless CR4.DE. */
	assert_ok(m, WRITE_DR(m, 7, 0));
	assert_ok(m, WRITE_DR(m, 5, 0x3));
	assert_int_equal(read_dr(m, 7), 0x403);
	assert_int_equal(read_dr(m, 4), read_dr(m, 6));
	m->cpu.cr4 |= X86_CR4_DE;
	assert_ud(m, WRITE_DR(m, 4, 0));
	assert_ud(m, WRITE_DR(m, 5, 0));
	set_cpl(m, 3);
	assert_fault_unchanged(m, WRITE_DR(m, 0, 0), X86_GP, 0);
}

static void general_detect(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_ok(m, WRITE_DR(m, 7, 0x2000));
	assert_int_equal(x86_read_dr(&m->sys, 0, &value, &m->fault), -1);
	assert_int_equal(m->fault.vector, X86_DB);
	assert_int_equal(m->fault.address, 0x2000); /* BD */
	assert_false(m->fault.has_error);
	assert_int_equal(WRITE_DR(m, 7, 0), -1);
	assert_int_equal(m->fault.vector, X86_DB);
}

/* ---- MSRs ---- */

static void msr_addresses(void **state)
{
	struct machine *m = *state;
	static const uint32_t canonical[] = { X86_MSR_LSTAR,          X86_MSR_CSTAR,
					      X86_MSR_FS_BASE,        X86_MSR_GS_BASE,
					      X86_MSR_KERNEL_GS_BASE, X86_MSR_SYSENTER_EIP,
					      X86_MSR_SYSENTER_ESP };

	for (unsigned i = 0; i < sizeof(canonical) / sizeof(canonical[0]); i++) {
		assert_fault_unchanged(m, WRITE_MSR(m, canonical[i], NON_CANONICAL), X86_GP, 0);
		assert_ok(m, WRITE_MSR(m, canonical[i], KERNEL_BASE + i));
		assert_int_equal(read_msr(m, canonical[i]), KERNEL_BASE + i);
	}
	assert_int_equal(m->cpu.seg[X86_FS].base, KERNEL_BASE + 2);
	assert_int_equal(m->cpu.lstar, KERNEL_BASE);
	m->sys.features.is_amd = true;
	assert_ok(m, WRITE_MSR(m, X86_MSR_SYSENTER_EIP, NON_CANONICAL));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_LSTAR, NON_CANONICAL), X86_GP, 0);
}

static void msr_reserved_halves(void **state)
{
	struct machine *m = *state;
	static const uint32_t narrow[] = { X86_MSR_SFMASK, X86_MSR_TSC_AUX, X86_MSR_SYSENTER_CS };

	for (unsigned i = 0; i < 3; i++) {
		assert_ok(m, WRITE_MSR(m, narrow[i], 0xffffffff));
		assert_int_equal(read_msr(m, narrow[i]), 0xffffffff);
		m->sys.features.is_amd = false;
		assert_fault_unchanged(m, WRITE_MSR(m, narrow[i], 1ull << 32), X86_GP, 0);
		m->sys.features.is_amd = true;
		assert_ok(m, WRITE_MSR(m, narrow[i], 0x500000001));
		assert_int_equal(read_msr(m, narrow[i]), 1);
	}
	assert_ok(m, WRITE_MSR(m, X86_MSR_STAR, ~0ull));
	assert_int_equal(m->cpu.star, ~0ull);
}

static void msr_efer(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_EFER, 2), X86_GP, 0); /* reserved */
	assert_ok(m, WRITE_MSR(m, X86_MSR_EFER, X86_EFER_LME | X86_EFER_LMA));
	assert_int_equal(read_msr(m, X86_MSR_EFER), X86_EFER_LME); /* LMA is read-only */
	m->sys.effects = 0;
	assert_ok(m, WRITE_MSR(m, X86_MSR_EFER, X86_EFER_NXE | X86_EFER_SCE));
	assert_true(m->sys.effects & X86_EFFECT_FLUSH_ALL);
}

static void msr_efer_long(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_EFER, X86_EFER_NXE), X86_GP,
			       0); /* LME off under paging */
	assert_ok(m, WRITE_MSR(m, X86_MSR_EFER, X86_EFER_LME));
	assert_int_equal(read_msr(m, X86_MSR_EFER), X86_EFER_LME | X86_EFER_LMA);
}

static void msr_memory_types(void **state)
{
	struct machine *m = *state;

	assert_int_equal(read_msr(m, X86_MSR_PAT), 0x0007040600070406);
	assert_ok(m, WRITE_MSR(m, X86_MSR_PAT, 0x0706050400010706));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_PAT, 0x0706050402010706), X86_GP,
			       0); /* type 2 */
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_PAT, 0x0706050403010706), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_PAT, 0x08), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_PAT, 0x8000000000000000), X86_GP, 0);

	assert_int_equal(read_msr(m, X86_MSR_MTRR_CAP), 0x508);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_CAP, 0x508), X86_GP, 0);
	assert_ok(m, WRITE_MSR(m, X86_MSR_MTRR_DEF_TYPE, 0xc06));
	assert_int_equal(read_msr(m, X86_MSR_MTRR_DEF_TYPE), 0xc06);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_DEF_TYPE, 0xc07), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_DEF_TYPE, 0x1c06), X86_GP, 0);
	assert_ok(m, WRITE_MSR(m, X86_MSR_MTRR_FIX64K, 0x0605040100000000));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_FIX64K, 0x07), X86_GP,
			       0); /* UC- is the PAT's only */
	for (unsigned i = 0; i < 8; i++) {
		assert_ok(m, WRITE_MSR(m, X86_MSR_MTRR_FIX4K_C0000 + i, 0x0606060606060606));
		assert_int_equal(m->cpu.mtrr_fixed[3 + i], 0x0606060606060606);
	}
	assert_ok(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0 + 14, 0xff00000006));
	assert_int_equal(m->cpu.mtrr_phys_base[7], 0xff00000006);
	assert_ok(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0 + 15, 0xff00000800));
	assert_int_equal(read_msr(m, X86_MSR_MTRR_PHYS_BASE0 + 15), 0xff00000800);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0, 0x10000000000), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0, 2), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0, 0x106), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0 + 1, 0xff00000400), X86_GP,
			       0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_MTRR_PHYS_BASE0 + 16, 0), X86_GP, 0);
}

static void msr_others(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_ok(m, WRITE_MSR(m, X86_MSR_PRED_CMD, 1));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_PRED_CMD, 2), X86_GP, 0);
	assert_fault_unchanged(m, x86_read_msr(&m->sys, X86_MSR_PRED_CMD, &value, &m->fault),
			       X86_GP, 0);
	assert_ok(m, WRITE_MSR(m, X86_MSR_SPEC_CTRL, 5));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_SPEC_CTRL, 0x100), X86_GP, 0);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_XSS, 0x100), X86_GP, 0);
	assert_ok(m, WRITE_MSR(m, X86_MSR_DEBUGCTL, 3));
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_DEBUGCTL, 0x10000), X86_GP, 0);

	/* The engine's own, and none's. */
	assert_ok(m, WRITE_MSR(m, 0x12345, 99));
	assert_int_equal(read_msr(m, 0x12345), 99);
	assert_fault_unchanged(m, WRITE_MSR(m, 0x12346, 99), X86_GP, 0);
	assert_fault_unchanged(m, x86_read_msr(&m->sys, 0xc0000104, &value, &m->fault), X86_GP, 0);
	set_cpl(m, 3);
	assert_fault_unchanged(m, WRITE_MSR(m, X86_MSR_FS_BASE, 0), X86_GP, 0);
	assert_fault_unchanged(m, x86_read_msr(&m->sys, X86_MSR_FS_BASE, &value, &m->fault), X86_GP,
			       0);
}

/* ---- XCR0 ---- */

static void xcr0(void **state)
{
	struct machine *m = *state;
	uint64_t value;
#define XSETBV(index, value) x86_xsetbv(&m->sys, index, value, &m->fault)

	assert_ud(m, XSETBV(0, 1));
	assert_ud(m, x86_xgetbv(&m->sys, 0, &value, &m->fault));
	m->cpu.cr4 |= X86_CR4_OSXSAVE;
	assert_ok(m, XSETBV(0, 7));
	assert_true(m->sys.effects & X86_EFFECT_MODE);
	assert_ok(m, x86_xgetbv(&m->sys, 0, &value, &m->fault));
	assert_int_equal(value, 7);
	assert_ok(m, XSETBV(0, 0xe7));
	assert_ok(m, XSETBV(0, 3));
	assert_ok(m, XSETBV(0, 1));
	assert_fault_unchanged(m, XSETBV(1, 1), X86_GP, 0);
	assert_fault_unchanged(m, XSETBV(0, 2), X86_GP, 0);     /* without x87 */
	assert_fault_unchanged(m, XSETBV(0, 5), X86_GP, 0);     /* AVX without SSE */
	assert_fault_unchanged(m, XSETBV(0, 0xe3), X86_GP, 0);  /* AVX-512 without AVX */
	assert_fault_unchanged(m, XSETBV(0, 0x67), X86_GP, 0);  /* part of AVX-512 */
	assert_fault_unchanged(m, XSETBV(0, 0x207), X86_GP, 0); /* not in this CPU */
	assert_fault_unchanged(m, x86_xgetbv(&m->sys, 2, &value, &m->fault), X86_GP, 0);
	set_cpl(m, 3);
	assert_fault_unchanged(m, XSETBV(0, 1), X86_GP, 0);
	assert_ok(m, x86_xgetbv(&m->sys, 0, &value, &m->fault)); /* not privileged */
}

/* ---- GDTR, IDTR, UMIP ---- */

static void descriptor_tables(void **state)
{
	struct machine *m = *state;

	assert_ok(m, x86_load_gdtr_idtr(&m->sys, false, KERNEL_BASE, 0x7f, &m->fault));
	assert_int_equal(m->cpu.gdt.base, KERNEL_BASE);
	assert_int_equal(m->cpu.gdt.limit, 0x7f);
	assert_ok(m, x86_load_gdtr_idtr(&m->sys, true, 0x1000, 0xfff, &m->fault));
	assert_int_equal(m->cpu.idt.base, 0x1000);
	assert_fault_unchanged(
		m, x86_load_gdtr_idtr(&m->sys, true, NON_CANONICAL, 0xfff, &m->fault), X86_GP, 0);
	assert_ok(m, x86_check_umip(&m->sys, &m->fault));
	set_cpl(m, 3);
	assert_fault_unchanged(m, x86_load_gdtr_idtr(&m->sys, true, 0, 0xfff, &m->fault), X86_GP,
			       0);
	assert_ok(m, x86_check_umip(&m->sys, &m->fault));
	m->cpu.cr4 |= X86_CR4_UMIP;
	assert_fault_unchanged(m, x86_check_umip(&m->sys, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_check_cpl0(&m->sys, &m->fault), X86_GP, 0);
	set_cpl(m, 0);
	assert_ok(m, x86_check_umip(&m->sys, &m->fault));
	assert_ok(m, x86_check_cpl0(&m->sys, &m->fault));
}

/* ---- ports ---- */

#define CHECK_IO(m, port, size) x86_check_io(&(m)->sys, port, size, &(m)->fault)

static void io_bitmap(struct machine *m)
{
	memset(m->memory + TSS_BASE + 0x88, 0xff, 0x100);
	poke(m, TSS_BASE + 0x88 + 0x3f8 / 8, 1, 0xf0); /* 3f8-3fb allowed */
	set_gdt(m, TSS, descriptor(TSS_BASE, 0x187, 0x008b));
	load_cache(m, X86_TR, TSS);
	poke(m, TSS_BASE + 0x66, 2, 0x88);
}

static void ports(void **state)
{
	struct machine *m = *state;

	io_bitmap(m);
	assert_ok(m, CHECK_IO(m, 0x3f8, 1));
	assert_ok(m, CHECK_IO(m, 0x3f8, 4));
	assert_ok(m, CHECK_IO(m, 0x3fb, 1));
	assert_fault_unchanged(m, CHECK_IO(m, 0x3fa, 4), X86_GP, 0);
	assert_fault_unchanged(m, CHECK_IO(m, 0x3fc, 1), X86_GP, 0);
	assert_fault_unchanged(m, CHECK_IO(m, 0x3f7, 2), X86_GP, 0);
	/* The two bytes read must lie inside the TSS. */
	poke(m, TSS_BASE + 0x187, 1, 0);
	assert_fault_unchanged(m, CHECK_IO(m, (0x187 - 0x88) * 8, 1), X86_GP, 0);
	poke(m, TSS_BASE + 0x186, 1, 0);
	assert_ok(m, CHECK_IO(m, (0x186 - 0x88) * 8, 1));
	/* IOPL allows all. */
	m->cpu.rflags |= X86_FLAG_IOPL;
	assert_ok(m, CHECK_IO(m, 0x80, 1));
	m->cpu.rflags &= ~(uint64_t)X86_FLAG_IOPL;
	/* A TSS without a map, and a 16-bit one. */
	poke(m, TSS_BASE + 0x66, 2, 0xffff);
	assert_fault_unchanged(m, CHECK_IO(m, 0x3f8, 1), X86_GP, 0);
	poke(m, TSS_BASE + 0x66, 2, 0x88);
	m->cpu.seg[X86_TR].attr = 0x83;
	assert_fault_unchanged(m, CHECK_IO(m, 0x3f8, 1), X86_GP, 0);
	set_cpl(m, 0);
	assert_ok(m, CHECK_IO(m, 0x3f8, 1));
}

static void ports_v86(void **state)
{
	struct machine *m = *state;

	/* Here the bitmap decides whatever IOPL is. */
	io_bitmap(m);
	m->cpu.rflags |= X86_FLAG_IOPL;
	assert_ok(m, CHECK_IO(m, 0x3f8, 1));
	assert_fault_unchanged(m, CHECK_IO(m, 0x80, 1), X86_GP, 0);
}

static void ports_real(void **state)
{
	struct machine *m = *state;

	assert_ok(m, CHECK_IO(m, 0x80, 4));
	assert_int_equal(m->reads, 0);
}

/* ---- flags ---- */

#define POPF(m, size, value) x86_popf(&(m)->sys, size, value, &(m)->fault)
#define IF_ARITH (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT)

static uint64_t pushf(struct machine *m, unsigned size)
{
	uint64_t value;

	assert_ok(m, x86_pushf(&m->sys, size, &value, &m->fault));
	return value;
}

static void flags_kernel(void **state)
{
	struct machine *m = *state;

	m->cpu.rflags = X86_FLAGS_VALID & ~X86_FLAG_VM;
	assert_int_equal(pushf(m, 8), X86_FLAGS_VALID & ~(X86_FLAG_VM | X86_FLAG_RF));
	assert_int_equal(pushf(m, 2), X86_FLAGS_VALID & 0xffff);
	assert_ok(m, POPF(m, 8, 0));
	assert_int_equal(m->cpu.rflags,
			 X86_FLAG_R1 | X86_FLAG_VIF | X86_FLAG_VIP); /* unaffected; RF cleared */
	m->cpu.rflags = X86_FLAG_R1;
	assert_ok(m, POPF(m, 4, ~0u));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | IF_ARITH | X86_FLAG_IF | X86_FLAG_IOPL |
						X86_FLAG_AC | X86_FLAG_ID);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_AC;
	assert_ok(m, POPF(m, 2, X86_FLAG_CF));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_AC | X86_FLAG_CF);
}

static void flags_user(void **state)
{
	struct machine *m = *state;

	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IF;
	assert_ok(m, POPF(m, 4, 0)); /* IF is silently kept */
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IF);
	assert_ok(m, POPF(m, 4, ~0u));
	assert_int_equal(m->cpu.rflags,
			 X86_FLAG_R1 | IF_ARITH | X86_FLAG_IF | X86_FLAG_AC | X86_FLAG_ID);
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IOPL | X86_FLAG_IF;
	assert_ok(m, POPF(m, 4, 0));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IOPL); /* IF yes, IOPL no */
	/* PVI does not change POPF. */
	m->cpu.cr4 = X86_CR4_PVI;
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_IF;
	assert_ok(m, POPF(m, 4, 0));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_IF);
}

static void flags_v86(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_fault_unchanged(m, x86_pushf(&m->sys, 2, &value, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, POPF(m, 2, 0), X86_GP, 0);
	assert_fault_unchanged(m, x86_cli(&m->sys, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_sti(&m->sys, &m->fault), X86_GP, 0);
	m->cpu.rflags |= X86_FLAG_IOPL;
	assert_int_equal(pushf(m, 2), X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_IOPL);
	assert_int_equal(pushf(m, 4), X86_FLAG_R1 | X86_FLAG_IF | X86_FLAG_IOPL); /* VM reads 0 */
	assert_ok(m, POPF(m, 4, 0));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IOPL);
	assert_ok(m, x86_sti(&m->sys, &m->fault));
	assert_true(m->cpu.rflags & X86_FLAG_IF);
	assert_ok(m, x86_cli(&m->sys, &m->fault));
	assert_false(m->cpu.rflags & X86_FLAG_IF);
}

static void flags_vme(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	m->cpu.cr4 = X86_CR4_VME;
	m->cpu.rflags = X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF;
	assert_int_equal(pushf(m, 2), X86_FLAG_R1 | X86_FLAG_IOPL); /* IF shows VIF */
	assert_ok(m, x86_sti(&m->sys, &m->fault));
	assert_true(m->cpu.rflags & X86_FLAG_VIF);
	assert_int_equal(m->cpu.sti_shadow, 0);
	assert_int_equal(pushf(m, 2), X86_FLAG_R1 | X86_FLAG_IOPL | X86_FLAG_IF);
	assert_fault_unchanged(m, x86_pushf(&m->sys, 4, &value, &m->fault), X86_GP, 0);
	assert_ok(m, x86_cli(&m->sys, &m->fault));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF);
	assert_ok(m, POPF(m, 2, X86_FLAG_IF | X86_FLAG_CF));
	assert_int_equal(m->cpu.rflags,
			 X86_FLAG_R1 | X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_VIF | X86_FLAG_CF);
	assert_fault_unchanged(m, POPF(m, 2, X86_FLAG_TF), X86_GP, 0);
	assert_fault_unchanged(m, POPF(m, 4, 0), X86_GP, 0);
	m->cpu.rflags |= X86_FLAG_VIP;
	assert_fault_unchanged(m, POPF(m, 2, X86_FLAG_IF), X86_GP, 0);
	assert_fault_unchanged(m, x86_sti(&m->sys, &m->fault), X86_GP, 0);
	assert_ok(m, POPF(m, 2, 0));
	assert_false(m->cpu.rflags & X86_FLAG_VIF);
}

static void cli_sti(void **state)
{
	struct machine *m = *state;

	assert_ok(m, x86_sti(&m->sys, &m->fault));
	assert_int_equal(m->cpu.sti_shadow, 1);
	assert_true(m->sys.effects & X86_EFFECT_INTERRUPTS);
	m->cpu.sti_shadow = 0;
	assert_ok(m, x86_sti(&m->sys, &m->fault)); /* was set already: no shadow */
	assert_int_equal(m->cpu.sti_shadow, 0);
	assert_ok(m, x86_cli(&m->sys, &m->fault));
	assert_false(m->cpu.rflags & X86_FLAG_IF);
}

static void cli_sti_user(void **state)
{
	struct machine *m = *state;

	assert_fault_unchanged(m, x86_cli(&m->sys, &m->fault), X86_GP, 0);
	assert_fault_unchanged(m, x86_sti(&m->sys, &m->fault), X86_GP, 0);
	m->cpu.cr4 = X86_CR4_PVI;
	assert_ok(m, x86_sti(&m->sys, &m->fault));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VIF);
	m->cpu.rflags |= X86_FLAG_VIP;
	assert_fault_unchanged(m, x86_sti(&m->sys, &m->fault), X86_GP, 0);
	assert_ok(m, x86_cli(&m->sys, &m->fault));
	assert_int_equal(m->cpu.rflags, X86_FLAG_R1 | X86_FLAG_VIP);
	/* PVI is for CPL 3. */
	set_cpl(m, 2);
	assert_fault_unchanged(m, x86_cli(&m->sys, &m->fault), X86_GP, 0);
	m->cpu.rflags |= 0x2000; /* IOPL 2 */
	assert_ok(m, x86_sti(&m->sys, &m->fault));
	assert_true(m->cpu.rflags & X86_FLAG_IF);
}

#define IN(setup, f) cmocka_unit_test_setup_teardown(f, machine_##setup, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN(real, reset),
		IN(protected, init),
		IN(protected, cr0),
		IN(long, cr0_long),
		IN(real, lmsw),
		IN(long, cr_numbers_and_privilege),
		IN(long, cr3_long),
		IN(long, cr4),
		IN(protected, cr4_legacy),
		IN(protected, pdptes),
		IN(long, debug_registers),
		IN(protected, general_detect),
		IN(long, msr_addresses),
		IN(long, msr_reserved_halves),
		IN(protected, msr_efer),
		IN(long, msr_efer_long),
		IN(protected, msr_memory_types),
		IN(protected, msr_others),
		IN(protected, xcr0),
		IN(long, descriptor_tables),
		IN(protected_user, ports),
		IN(v86, ports_v86),
		IN(real, ports_real),
		IN(protected, flags_kernel),
		IN(protected_user, flags_user),
		IN(v86, flags_v86),
		IN(v86, flags_vme),
		IN(protected, cli_sti),
		IN(protected_user, cli_sti_user),
	};

	return cmocka_run_group_tests_name("x86 system registers", tests, NULL, NULL);
}
