/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's registers: the MMIO page of xAPIC mode, the MSRs of x2APIC mode, and IA32_APIC_BASE with its mode
 * transitions (SDM vol. 3, 11.4 and 11.12).
 *
 * Both modes come to the same two functions; the MSR side first applies x2APIC's stricter rules (table 11-6).
 */
#include "device/lapic_regs.h"

#include "base/log.h"
#include "base/util.h"

#define REGION_SIZE 0x1000

/* Writable bits of each LVT entry. */
static const uint32_t lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x000710ff & ~0x1000u, /* mode, mask, vector */
	[LVT_THERMAL] = 0x000107ff,
	[LVT_PERF] = 0x000107ff,
	[LVT_LINT0] = 0x0001a7ff,
	[LVT_LINT1] = 0x0001a7ff,
	[LVT_ERROR] = 0x000100ff,
};

/* ---- reading ---- */

static uint32_t read_id(const struct lapic *a)
{
	return lapic_x2apic(a) ? a->vcpu->apic_id : a->vcpu->apic_id << 24;
}

/* A register of 32 bits; *known is cleared if there is none at this offset. */
static uint32_t read_register(struct lapic *a, unsigned reg, bool *known)
{
	unsigned word = reg >> 4 & 7;

	lapic_sync_pv_eoi(a);
	switch (reg) {
	case REG_ID:
		return read_id(a);
	case REG_VERSION:
		return LAPIC_VERSION;
	case REG_TPR:
		return atomic_load(&a->tpr);
	case REG_PPR:
		return lapic_ppr(a);
	case REG_LDR:
		return atomic_load(&a->ldr);
	case REG_DFR:
		return atomic_load(&a->dfr);
	case REG_SVR:
		return atomic_load(&a->svr);
	case REG_ISR ... REG_ISR + 0x70:
		return a->isr[word];
	case REG_TMR ... REG_TMR + 0x70:
		return atomic_load(&a->tmr[word]);
	case REG_IRR ... REG_IRR + 0x70:
		return atomic_load(&a->irr[word]);
	case REG_ESR:
		return a->esr;
	case REG_ICR:
		return (uint32_t)a->icr;
	case REG_ICR2:
		return (uint32_t)(a->icr >> 32);
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		return atomic_load(&a->lvt[(reg - REG_LVT_TIMER) >> 4]);
	case REG_TIMER_INITIAL:
		return a->timer_initial;
	case REG_TIMER_CURRENT:
		return lapic_timer_current(a);
	case REG_TIMER_DIVIDE:
		return a->timer_divide;
	case REG_EOI: /* write only */
	case REG_APR:
	case REG_RRD:
		return 0;
	default:
		*known = false;
		return 0;
	}
}

/* ---- writing ---- */

static void write_svr(struct lapic *a, uint32_t value)
{
	atomic_store(&a->svr, value & 0x1ff);
	if (!(value & SVR_ENABLE)) {
		/* Disabling by software masks all local sources (SDM vol. 3, 11.4.7.2). */
		for (unsigned i = 0; i < LVT_COUNT; i++)
			atomic_fetch_or(&a->lvt[i], LVT_MASKED);
	}
	lapic_update(a);
}

static void write_lvt(struct lapic *a, enum lapic_lvt n, uint32_t value)
{
	value &= lvt_writable[n];
	if (!lapic_software_enabled(a))
		value |= LVT_MASKED;
	if (n == LVT_TIMER)
		lapic_timer_write_lvt(a, value);
	else
		atomic_store(&a->lvt[n], value);
	if (n == LVT_LINT0)
		lapic_update(a);
}

static void write_esr(struct lapic *a)
{
	/* A write shows what has come together since the last one (SDM vol. 3, 11.5.3). */
	a->esr = atomic_exchange(&a->esr_pending, 0);
}

static void write_icr(struct lapic *a, uint64_t icr)
{
	a->icr = icr & ~0x1000ull; /* delivery status: always idle */
	if (!lapic_send_icr(a, a->icr))
		lapic_error(a, ESR_SEND_ILLEGAL);
}

/* False if there is no such register to write. */
static bool write_register(struct lapic *a, unsigned reg, uint32_t value)
{
	lapic_sync_pv_eoi(a);
	switch (reg) {
	case REG_ID: /* fixed, as on current processors */
		return true;
	case REG_TPR:
		atomic_store(&a->tpr, value & 0xff);
		lapic_update(a);
		return true;
	case REG_EOI:
		lapic_end_of_interrupt(a);
		return true;
	case REG_LDR:
		atomic_store(&a->ldr, value & 0xff000000);
		return true;
	case REG_DFR:
		atomic_store(&a->dfr, value | 0x0fffffff);
		return true;
	case REG_SVR:
		write_svr(a, value);
		return true;
	case REG_ESR:
		write_esr(a);
		return true;
	case REG_ICR:
		write_icr(a, (a->icr & ~0xffffffffull) | value);
		return true;
	case REG_ICR2:
		a->icr = (a->icr & 0xffffffffull) | (uint64_t)value << 32;
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		write_lvt(a, (reg - REG_LVT_TIMER) >> 4, value);
		return true;
	case REG_TIMER_INITIAL:
		lapic_timer_write_initial(a, value);
		return true;
	case REG_TIMER_DIVIDE:
		lapic_timer_write_divide(a, value);
		return true;
	default:
		return false;
	}
}

/* ---- xAPIC: the MMIO page ---- */

/* The APIC of the CPU that makes the access, if its page is at this address. */
static struct lapic *accessed(uint64_t page)
{
	struct vcpu *vcpu = vcpu_current();
	struct lapic *a = vcpu ? vcpu->apic : NULL;

	if (!a || !lapic_enabled(a) || lapic_x2apic(a) ||
	    (atomic_load(&a->base) & ~0xfffull) != page)
		return NULL;
	return a;
}

static uint64_t mmio_read(struct lapic *a, uint64_t offset)
{
	bool known = true;
	uint32_t value;

	if (!a)
		return UINT64_MAX;
	if (offset & 0xf)
		return 0; /* undefined: registers are 16 bytes apart */
	value = read_register(a, (unsigned)offset, &known);
	if (!known)
		lapic_error(a, ESR_ILLEGAL_REGISTER);
	return value;
}

static void mmio_write(struct lapic *a, uint64_t offset, uint64_t value)
{
	if (!a || (offset & 0xf))
		return;
	if (!write_register(a, (unsigned)offset, (uint32_t)value))
		lapic_error(a, ESR_ILLEGAL_REGISTER);
}

/* The page at its usual place, for all CPUs. */
static uint64_t default_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque, (void)size;
	return mmio_read(accessed(LAPIC_DEFAULT_BASE), offset);
}

static void default_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)opaque, (void)size;
	mmio_write(accessed(LAPIC_DEFAULT_BASE), offset, value);
}

/* A page that a CPU has moved: each such CPU has a region of its own, and the regions may coincide. */
static uint64_t moved_page(const struct lapic *owner)
{
	return atomic_load(&owner->base) & ~0xfffull;
}

static uint64_t moved_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return mmio_read(accessed(moved_page(opaque)), offset);
}

static void moved_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)size;
	mmio_write(accessed(moved_page(opaque)), offset, value);
}

const struct io_ops lapic_mmio_ops = {
	.read = default_read, .write = default_write, .min_size = 4, .max_size = 4
};
static const struct io_ops moved_ops = {
	.read = moved_read, .write = moved_write, .min_size = 4, .max_size = 4
};

/* ---- x2APIC: MSRs 0x800-0x8ff ---- */

static int read_x2apic(struct lapic *a, uint32_t msr, uint64_t *value)
{
	unsigned reg = (msr - X86_MSR_X2APIC_BASE) << 4;
	bool known = true;

	switch (reg) {
	case REG_DFR: /* none of these exists, or may be read, here */
	case REG_ICR2:
	case REG_EOI:
	case REG_APR:
	case REG_RRD:
	case REG_SELF_IPI:
		return -1;
	case REG_ICR:
		*value = a->icr;
		return 0;
	default:
		*value = read_register(a, reg, &known);
		return known ? 0 : -1;
	}
}

/* Bits that may be 1 in a write to each x2APIC register; 0 for those that cannot be written except with 0. */
static bool x2apic_value_ok(unsigned reg, uint64_t value)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return !(value & ~0xffull);
	case REG_EOI:
	case REG_ESR:
		return value == 0;
	case REG_SVR:
		return !(value & ~0x1ffull);
	case REG_ICR:
		return !(value & 0xfff32000ull);
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		/* Delivery status and remote IRR are ignored. */
		return !(value & ~(uint64_t)(lvt_writable[(reg - REG_LVT_TIMER) >> 4] | 0x5000));
	case REG_TIMER_INITIAL:
		return !(value >> 32);
	case REG_TIMER_DIVIDE:
		return !(value & ~0x0bull);
	default:
		return false; /* read only or absent */
	}
}

static int write_x2apic(struct lapic *a, uint32_t msr, uint64_t value)
{
	unsigned reg = (msr - X86_MSR_X2APIC_BASE) << 4;

	if (reg == REG_EOI && !value) { /* the frequent one first */
		lapic_end_of_interrupt(a);
		return 0;
	}
	if (!x2apic_value_ok(reg, value))
		return -1;
	if (reg == REG_ICR)
		write_icr(a, value);
	else if (reg == REG_SELF_IPI)
		write_icr(a, (value & 0xff) | 1ull << 18);
	else
		write_register(a, reg, (uint32_t)value);
	return 0;
}

/* ---- IA32_APIC_BASE ---- */

static uint64_t address_mask(const struct lapic *a)
{
	unsigned bits = a->vcpu->vm->cpu_model.maxphyaddr;

	return (bits >= 32 && bits < 52 ? BIT64(bits) : BIT64(52)) - 1;
}

static bool has_x2apic(const struct lapic *a)
{
	const struct cpu_model *model = &a->vcpu->vm->cpu_model;

	for (unsigned i = 0; i < model->count; i++)
		if (model->leaves[i].leaf == 1)
			return model->leaves[i].ecx & BIT(21);
	return true;
}

static uint32_t x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | BIT(id & 15);
}

/* The MMIO page of this CPU moves. */
static void move_page(struct lapic *a, uint64_t from, uint64_t to)
{
	struct bus *mmio = &a->bus->vm->mmio;

	if (from != LAPIC_DEFAULT_BASE)
		bus_remove(mmio, from, a);
	if (to != LAPIC_DEFAULT_BASE)
		bus_add(mmio, &(struct io_region){ "lapic-moved", to, REGION_SIZE, &moved_ops, a },
			NULL);
}

static int write_base(struct lapic *a, uint64_t value)
{
	uint64_t old = atomic_load(&a->base), mode = value & (BASE_ENABLE | BASE_X2APIC);
	uint64_t old_mode = old & (BASE_ENABLE | BASE_X2APIC);

	if (value & ~(address_mask(a) & ~0xfffull) & ~(BASE_BSP | BASE_X2APIC | BASE_ENABLE))
		return -1;
	if ((mode & BASE_X2APIC) && !has_x2apic(a))
		return -1;
	if (mode == BASE_X2APIC)
		return -1; /* x2APIC without the APIC */
	if (mode != old_mode &&
	    ((old_mode & BASE_X2APIC) ? mode == BASE_ENABLE : !old_mode && (mode & BASE_X2APIC)))
		return -1; /* from x2APIC only to disabled, from disabled only to xAPIC (figure 11-27) */
	value = (value & ~BASE_BSP) | (a->vcpu->index == 0 ? BASE_BSP : 0);
	if (!(mode & BASE_ENABLE) && (old_mode & BASE_ENABLE))
		lapic_reset_registers(a);
	atomic_store(&a->base, value);
	if (mode & BASE_X2APIC)
		atomic_store(&a->ldr, x2apic_ldr(a->vcpu->apic_id));
	else if (old_mode & BASE_X2APIC)
		atomic_store(&a->ldr, 0);
	if ((old ^ value) & ~0xfffull)
		move_page(a, old & ~0xfffull, value & ~0xfffull);
	trace(TRACE_MSR, "cpu %u: APIC base 0x%llx", a->vcpu->index, (unsigned long long)value);
	lapic_update(a);
	return 0;
}

int lapic_read_msr(void *apic, uint32_t msr, uint64_t *value)
{
	struct lapic *a = apic;

	if (msr == X86_MSR_APIC_BASE) {
		*value = atomic_load(&a->base);
		return 0;
	}
	if (msr == X86_MSR_TSC_DEADLINE) {
		*value = lapic_timer_read_deadline(a);
		return 0;
	}
	if (msr == MSR_KVM_PV_EOI_EN) {
		*value = lapic_pv_eoi_read_msr(a->vcpu);
		return 0;
	}
	if (msr - X86_MSR_X2APIC_BASE > 0xff || !lapic_x2apic(a))
		return -1;
	return read_x2apic(a, msr, value);
}

int lapic_write_msr(void *apic, uint32_t msr, uint64_t value)
{
	struct lapic *a = apic;

	if (msr == X86_MSR_TSC_DEADLINE) {
		lapic_timer_write_deadline(a, value);
		return 0;
	}
	if (msr == X86_MSR_APIC_BASE)
		return write_base(a, value);
	if (msr == MSR_KVM_PV_EOI_EN)
		return lapic_pv_eoi_write_msr(a->vcpu, value);
	if (msr - X86_MSR_X2APIC_BASE > 0xff || !lapic_x2apic(a))
		return -1;
	return write_x2apic(a, msr, value);
}

/* The state after INIT (SDM vol. 3, 11.4.7.1, 11.4.7.3), the base register untouched. */
void lapic_reset_registers(struct lapic *a)
{
	lapic_timer_reset(a);
	for (unsigned i = 0; i < 8; i++) {
		atomic_store(&a->irr[i], 0);
		atomic_store(&a->tmr[i], 0);
		a->isr[i] = 0;
	}
	a->isr_top = -1;
	atomic_store(&a->extint_message, false);
	atomic_store(&a->esr_pending, 0);
	a->esr = 0;
	a->icr = 0;
	atomic_store(&a->tpr, 0);
	atomic_store(&a->svr, 0xff);
	atomic_store(&a->dfr, 0xffffffff);
	atomic_store(&a->ldr, lapic_x2apic(a) ? x2apic_ldr(a->vcpu->apic_id) : 0);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		atomic_store(&a->lvt[i], LVT_MASKED);
	/* Virtual wire mode at start (MultiProcessor Specification 1.4, 3.6.2.2): the BSP takes the PIC's interrupts. */
	if (a->vcpu->index == 0)
		atomic_store(&a->lvt[LVT_LINT0], (uint32_t)APIC_EXTINT << 8);
	a->pv_eoi_msr = 0;
	a->pv_eoi_flag = NULL;
	a->pv_eoi_armed = false;
}
