/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware (ACPI 6.4, 4.8.3 and 4.8.4): PM1a event and control blocks, the 32-bit PM timer, one general-purpose
 * event block of 16 events; and the PC's reset control register at port 0xcf9 (as in Intel's PIIX and ICH).
 *
 * The machine is always in ACPI mode. Only S5 does anything: other sleep types come back at once with WAK_STS.
 */
#include "device/acpi_pm.h"

#include <errno.h>

#include "base/log.h"
#include "base/util.h"

#define PM_TIMER_HZ 3579545ull
#define NS_PER_S 1000000000ull
#define TIMER_HALF 0x80000000ull /* TMR_STS is set when the top bit of 32 changes */

/* PM1 status and enable */
#define PM1_TIMER 0x0001
#define PM1_GLOBAL 0x0020
#define PM1_POWER_BUTTON 0x0100
#define PM1_WAKE 0x8000
#define PM1_STATUS_MASK                                                                            \
	(PM1_TIMER | 0x0010 | PM1_GLOBAL | PM1_POWER_BUTTON | 0x0200 | 0x0400 | PM1_WAKE)
#define PM1_ENABLE_MASK (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | 0x0200 | 0x0400)

/* PM1 control */
#define CNT_SCI_ENABLE 0x0001
#define CNT_WRITABLE 0x1c02 /* SLP_TYP, BM_RLD */
#define CNT_SLEEP_TYPE_SHIFT 10
#define CNT_SLEEP 0x2000

/* Reset control register */
#define RESET_FULL 0x02
#define RESET_CPU 0x04
#define RESET_WRITABLE 0x0e

struct acpi_pm {
	pthread_mutex_t lock;
	struct vm *vm;
	struct irq_line sci;
	struct vm_timer
		timer; /* next change of the PM timer's top bit, while its interrupt is enabled */
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint16_t gpe_status, gpe_enable;
	uint8_t reset_control;
	uint64_t seen_half; /* PM timer ticks / TIMER_HALF when TMR_STS was last worked out */
};

#define PM(member) STATE_FIELD(struct acpi_pm, member)
static const struct state_field pm_fields[] = {
	PM(pm1_status),  PM(pm1_enable),
	PM(pm1_control), PM(gpe_status),
	PM(gpe_enable),  PM(reset_control),
	PM(seen_half),   STATE_TIMER_FIELD(struct acpi_pm, timer),
	STATE_END,
};
static const struct state_table pm_table = { .name = "acpi-pm", .version = 1, .fields = pm_fields };

static uint64_t timer_ticks(const struct acpi_pm *pm)
{
	return (uint64_t)((unsigned __int128)vm_clock_ns(pm->vm) * PM_TIMER_HZ / NS_PER_S);
}

static void update_sci(struct acpi_pm *pm)
{
	uint64_t half = timer_ticks(pm) / TIMER_HALF;

	if (half != pm->seen_half) {
		pm->seen_half = half;
		pm->pm1_status |= PM1_TIMER;
	}
	irq_set(&pm->sci, (pm->pm1_status & pm->pm1_enable & PM1_ENABLE_MASK) ||
				  (pm->gpe_status & pm->gpe_enable));
	if ((pm->pm1_enable & PM1_TIMER) && !(pm->pm1_status & PM1_TIMER)) {
		unsigned __int128 at =
			(unsigned __int128)(half + 1) * TIMER_HALF * NS_PER_S / PM_TIMER_HZ;

		vm_timer_arm(&pm->timer, (uint64_t)at + 1);
	} else {
		vm_timer_cancel(&pm->timer);
	}
}

static void timer_fired(void *opaque)
{
	struct acpi_pm *pm = opaque;

	pthread_mutex_lock(&pm->lock);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->pm1_status |= PM1_POWER_BUTTON;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n)
{
	pthread_mutex_lock(&pm->lock);
	pm->gpe_status |= (uint16_t)BIT(n & 15);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- PM1 event block: status, enable ---- */

static uint64_t event_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint32_t value;

	(void)size;
	pthread_mutex_lock(&pm->lock);
	update_sci(pm);
	value = pm->pm1_status | (uint32_t)pm->pm1_enable << 16;
	pthread_mutex_unlock(&pm->lock);
	return value >> (offset * 8);
}

/* A write of size bytes at offset of a block of two 16-bit registers: the status bits to clear, the new enable value. */
static void split_write(uint64_t offset, uint64_t value, unsigned size, uint16_t *clear,
			uint16_t *enable)
{
	uint32_t mask = (uint32_t)((1ull << (size * 8)) - 1) << (offset * 8),
		 shifted = (uint32_t)(value << (offset * 8));

	*clear = (uint16_t)(shifted & mask);
	*enable = (uint16_t)((*enable & ~(mask >> 16)) | (shifted & mask) >> 16);
}

static void event_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint16_t clear;

	pthread_mutex_lock(&pm->lock);
	split_write(offset, value, size, &clear, &pm->pm1_enable);
	pm->pm1_status &= (uint16_t)~clear & PM1_STATUS_MASK;
	pm->pm1_enable &= PM1_ENABLE_MASK;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- PM1 control ---- */

static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;

	(void)size;
	return (uint64_t)(pm->pm1_control | CNT_SCI_ENABLE) >> (offset * 8);
}

static void control_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint16_t mask = size == 2 ? 0xffff : (uint16_t)(0xff << (offset * 8)), written;
	bool off = false;

	pthread_mutex_lock(&pm->lock);
	written = (uint16_t)((value << (offset * 8)) & mask);
	pm->pm1_control = (uint16_t)((pm->pm1_control & ~mask) | written) & CNT_WRITABLE;
	if (written & CNT_SLEEP) {
		unsigned type = pm->pm1_control >> CNT_SLEEP_TYPE_SHIFT & 7;

		off = type == ACPI_PM_SLP_TYP_S5;
		if (!off)
			pm->pm1_status |= PM1_WAKE;
		update_sci(pm);
	}
	pthread_mutex_unlock(&pm->lock);
	if (off)
		vm_poweroff(pm->vm);
}

/* ---- PM timer ---- */

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return (timer_ticks(opaque) & 0xffffffff) >> (offset * 8);
}

/* ---- general-purpose events: status, enable ---- */

static uint64_t gpe_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint32_t value;

	(void)size;
	pthread_mutex_lock(&pm->lock);
	value = pm->gpe_status | (uint32_t)pm->gpe_enable << 16;
	pthread_mutex_unlock(&pm->lock);
	return value >> (offset * 8);
}

static void gpe_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint16_t clear;

	pthread_mutex_lock(&pm->lock);
	split_write(offset, value, size, &clear, &pm->gpe_enable);
	pm->gpe_status &= (uint16_t)~clear;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- reset register ---- */

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)offset, (void)size;
	return ((struct acpi_pm *)opaque)->reset_control;
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct acpi_pm *pm = opaque;
	bool rose;

	(void)offset, (void)size;
	pthread_mutex_lock(&pm->lock);
	rose = (value & RESET_CPU) && !(pm->reset_control & RESET_CPU);
	pm->reset_control = value & RESET_WRITABLE;
	pthread_mutex_unlock(&pm->lock);
	/* Soft (CPU only) and hard differ in what they keep; both end in the firmware, or for us in the boot image. */
	if (rose)
		vm_reset(pm->vm);
}

static const struct io_ops event_ops = { .read = event_read, .write = event_write, .max_size = 4 };
static const struct io_ops control_ops = { .read = control_read,
					   .write = control_write,
					   .max_size = 2 };
static const struct io_ops timer_ops = { .read = timer_read, .max_size = 4 };
static const struct io_ops gpe_ops = { .read = gpe_read, .write = gpe_write, .max_size = 4 };
static const struct io_ops reset_ops = { .read = reset_read, .write = reset_write, .max_size = 1 };

/* ---- life ---- */

static void pm_reset(void *opaque)
{
	struct acpi_pm *pm = opaque;

	pthread_mutex_lock(&pm->lock);
	pm->pm1_status = pm->pm1_enable = pm->pm1_control = 0;
	pm->gpe_status = pm->gpe_enable = 0;
	pm->reset_control = 0;
	pm->seen_half = timer_ticks(pm) / TIMER_HALF;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_destroy(void *opaque)
{
	struct acpi_pm *pm = opaque;

	vm_timer_cancel(&pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

int acpi_pm_create(struct vm *vm, uint16_t iobase, struct irq_line sci, struct acpi_pm **out,
		   struct error *err)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	const struct io_region regions[] = {
		{ "acpi-pm1-event", iobase + ACPI_PM_EVENT, 4, &event_ops, pm },
		{ "acpi-pm1-control", iobase + ACPI_PM_CONTROL, 2, &control_ops, pm },
		{ "acpi-pm-timer", iobase + ACPI_PM_TIMER, 4, &timer_ops, pm },
		{ "acpi-gpe0", iobase + ACPI_PM_GPE, 4, &gpe_ops, pm },
		{ "reset-control", ACPI_PM_RESET_PORT, 1, &reset_ops, pm },
	};

	if (!pm)
		return error_set(err, ENOMEM, "out of memory for the ACPI registers");
	pm->vm = vm;
	pm->sci = sci;
	pthread_mutex_init(&pm->lock, NULL);
	vm_timer_init(&pm->timer, vm, timer_fired, pm);
	vm_add_cleanup(vm, pm_destroy, pm);
	vm_add_reset(vm, pm_reset, pm);
	vm_state_register(vm, &pm_table, 0, pm);
	pm_reset(pm);
	for (unsigned i = 0; i < ARRAY_SIZE(regions); i++)
		if (bus_add(&vm->pio, &regions[i], err))
			return -1;
	if (out)
		*out = pm;
	return 0;
}
