/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG, and the DSDT that iasl compiled from
 * microvm.asl. Each is appended to one buffer, its checksum set when its length is known.
 *
 * Source: ACPI Specification 6.5, chapter 5.2 (tables), 4.8 (fixed hardware); PCI Firmware
 * Specification 3.3, 4.1.2 (MCFG).
 */
#include <stdbool.h>
#include <string.h>

#include "base/util.h"
#include "device/acpi_pm.h"
#include "machine/acpi.h"

#define OEM_ID "LODGE "
#define OEM_TABLE_ID "LODGEVM "
#define CREATOR_ID "LODG"

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_address { /* Generic Address Structure, 5.2.3.2 */
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} __attribute__((packed));

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct acpi_fadt { /* 5.2.9 */
	struct acpi_header header;
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved0, preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk,
		gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len,
		gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct acpi_address reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t fadt_minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_address x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk,
		x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk, sleep_control_reg,
		sleep_status_reg;
	uint64_t hypervisor_vendor_id;
} __attribute__((packed));

/* FADT flags, table 5.10, and IA-PC boot flags, table 5.11. */
#define FADT_WBINVD BIT(0)
#define FADT_PROC_C1 BIT(2)
#define FADT_SLP_BUTTON BIT(5) /* no fixed sleep button */
#define FADT_RTC_S4 BIT(7)
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG_SUP BIT(10)
#define BOOT_LEGACY_DEVICES BIT(0)
#define BOOT_VGA_NOT_PRESENT BIT(2)
#define BOOT_NO_ASPM BIT(4)

struct acpi_facs { /* 5.2.10 */
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved[31];
} __attribute__((packed));

/* Where the next table goes. */
struct writer {
	uint8_t *host;
	uint64_t base;
	size_t size, used;
	bool overflow;
	uint8_t scratch[256]; /* takes the writes after an overflow; not read */
};

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t total = 0;

	while (n--)
		total += *p++;
	return total;
}

static void align(struct writer *w, size_t alignment)
{
	w->used = ALIGN_UP(w->used, alignment);
	if (w->used > w->size)
		w->overflow = true;
}

/* Append n zeroed bytes, n <= sizeof(w->scratch). */
static void *append(struct writer *w, size_t n)
{
	void *p;

	if (w->overflow || n > w->size - w->used) {
		w->overflow = true;
		return w->scratch;
	}
	p = w->host + w->used;
	memset(p, 0, n);
	w->used += n;
	return p;
}

static void append_u8(struct writer *w, uint8_t value)
{
	*(uint8_t *)append(w, 1) = value;
}
static void append_u16(struct writer *w, uint16_t value)
{
	store_le16(append(w, 2), value);
}
static void append_u32(struct writer *w, uint32_t value)
{
	store_le32(append(w, 4), value);
}
static void append_u64(struct writer *w, uint64_t value)
{
	store_le64(append(w, 8), value);
}

static void fill_header(struct acpi_header *h, const char signature[4], uint8_t revision)
{
	memcpy(h->signature, signature, 4);
	h->revision = revision;
	memcpy(h->oem_id, OEM_ID, 6);
	memcpy(h->oem_table_id, OEM_TABLE_ID, 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, CREATOR_ID, 4);
	h->creator_revision = 1;
}

/* Begin a table: returns its offset. */
static size_t begin(struct writer *w, const char signature[4], uint8_t revision)
{
	size_t at;

	align(w, 16);
	at = w->used;
	fill_header(append(w, sizeof(struct acpi_header)), signature, revision);
	return at;
}

/* End it: length and checksum. Returns its guest address. */
static uint64_t end(struct writer *w, size_t at)
{
	struct acpi_header *h;

	if (w->overflow)
		return 0;
	h = (struct acpi_header *)(w->host + at);
	h->length = (uint32_t)(w->used - at);
	h->checksum = 0;
	h->checksum = (uint8_t)-sum((uint8_t *)h, h->length);
	return w->base + at;
}

static uint64_t add_dsdt(struct writer *w, const struct acpi_config *config)
{
	size_t at;

	align(w, 16);
	at = w->used;
	if (w->overflow || config->dsdt_size > w->size - w->used) {
		w->overflow = true;
		return 0;
	}
	memcpy(w->host + at, config->dsdt, config->dsdt_size);
	w->used += config->dsdt_size;
	return w->base + at;
}

static uint64_t add_facs(struct writer *w)
{
	struct acpi_facs *facs;

	align(w, 64);
	facs = append(w, sizeof(*facs));
	memcpy(facs->signature, "FACS", 4);
	facs->length = sizeof(*facs);
	facs->version = 2;
	return w->overflow ? 0 : w->base + (uint64_t)((uint8_t *)facs - w->host);
}

static struct acpi_address io_register(uint16_t port, unsigned bits, unsigned access_size)
{
	return (struct acpi_address){ .space = 1,
				      .bit_width = (uint8_t)bits,
				      .access_size = (uint8_t)access_size,
				      .address = port };
}

static uint64_t add_fadt(struct writer *w, const struct acpi_config *config, uint64_t facs,
			 uint64_t dsdt)
{
	size_t at = begin(w, "FACP", 6);
	struct acpi_fadt *f = NULL;
	const uint16_t pm = config->pm_base;

	append(w, sizeof(struct acpi_fadt) - sizeof(struct acpi_header));
	if (w->overflow)
		return 0;
	f = (struct acpi_fadt *)(w->host + at);
	f->firmware_ctrl = (uint32_t)facs;
	f->dsdt = (uint32_t)dsdt;
	f->x_dsdt = dsdt;
	f->preferred_pm_profile = 4; /* enterprise server */
	f->sci_int = config->sci_irq;
	f->smi_cmd = ACPI_PM_SMI_ENABLE; /* 0: always in ACPI mode */
	f->pm1a_evt_blk = pm + ACPI_PM_EVENT;
	f->pm1a_cnt_blk = pm + ACPI_PM_CONTROL;
	f->pm_tmr_blk = pm + ACPI_PM_TIMER;
	f->gpe0_blk = pm + ACPI_PM_GPE;
	f->pm1_evt_len = 4;
	f->pm1_cnt_len = 2;
	f->pm_tmr_len = 4;
	f->gpe0_blk_len = 4;
	f->p_lvl2_lat = 0xfff; /* no C2 */
	f->p_lvl3_lat = 0xfff; /* no C3 */
	f->century = 0x32;
	/* Not BOOT_8042: it is there, but with nothing plugged in, and looking for a keyboard
	 * takes Linux 0.3 s. */
	f->iapc_boot_arch = BOOT_LEGACY_DEVICES | BOOT_VGA_NOT_PRESENT | BOOT_NO_ASPM;
	f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RTC_S4 | FADT_TMR_VAL_EXT |
		   FADT_RESET_REG_SUP;
	f->reset_reg = io_register(ACPI_PM_RESET_PORT, 8, 1);
	f->reset_value = 0x06;
	f->fadt_minor_version = 4;
	f->x_pm1a_evt_blk = io_register((uint16_t)(pm + ACPI_PM_EVENT), 32, 2);
	f->x_pm1a_cnt_blk = io_register((uint16_t)(pm + ACPI_PM_CONTROL), 16, 2);
	f->x_pm_tmr_blk = io_register((uint16_t)(pm + ACPI_PM_TIMER), 32, 3);
	f->x_gpe0_blk = io_register((uint16_t)(pm + ACPI_PM_GPE), 32, 1);
	memcpy(&f->hypervisor_vendor_id, "LODGE\0\0", 8);
	return end(w, at);
}

/* MADT interrupt source override (5.2.12.5). flags: 0 as the bus says; 0xd active high, level. */
static void add_override(struct writer *w, uint8_t source, uint32_t gsi, uint16_t flags)
{
	append_u8(w, 2);
	append_u8(w, 10);
	append_u8(w, 0); /* ISA */
	append_u8(w, source);
	append_u32(w, gsi);
	append_u16(w, flags);
}

static uint64_t add_madt(struct writer *w, const struct acpi_config *config)
{
	const uint32_t pcat_compat = 1, enabled = 1;
	const uint16_t level_active_high = 0xd;
	size_t at = begin(w, "APIC", 5);

	append_u32(w, config->lapic_base);
	append_u32(w, pcat_compat);
	for (unsigned i = 0; i < config->cpus; i++) { /* processor local APIC, 5.2.12.2 */
		append_u8(w, 0);
		append_u8(w, 8);
		append_u8(w, (uint8_t)i);
		append_u8(w, (uint8_t)i);
		append_u32(w, enabled);
	}
	append_u8(w, 1); /* I/O APIC, 5.2.12.3 */
	append_u8(w, 12);
	append_u8(w, config->ioapic_id);
	append_u8(w, 0);
	append_u32(w, config->ioapic_base);
	append_u32(w, 0);         /* its first global system interrupt */
	add_override(w, 0, 2, 0); /* the timer is at input 2 */
	add_override(w, config->sci_irq, config->sci_irq, level_active_high);
	append_u8(w, 4); /* local APIC NMI, 5.2.12.7: LINT1 of all */
	append_u8(w, 6);
	append_u8(w, 0xff);
	append_u16(w, 0);
	append_u8(w, 1);
	return end(w, at);
}

static uint64_t add_mcfg(struct writer *w, const struct acpi_config *config)
{
	size_t at = begin(w, "MCFG", 1);

	append_u64(w, 0);
	append_u64(w, config->ecam_base);
	append_u16(w, 0); /* segment group */
	append_u8(w, 0);
	append_u8(w, config->ecam_last_bus);
	append_u32(w, 0);
	return end(w, at);
}

static uint64_t add_root(struct writer *w, const char signature[4], const uint64_t *tables,
			 unsigned count, bool wide)
{
	size_t at = begin(w, signature, 1);

	for (unsigned i = 0; i < count; i++) {
		if (wide)
			append_u64(w, tables[i]);
		else
			append_u32(w, (uint32_t)tables[i]);
	}
	return end(w, at);
}

int acpi_build(const struct acpi_config *config, uint8_t *host, uint64_t base, size_t size,
	       uint64_t *rsdp, size_t *used, struct error *err)
{
	struct writer w = { .host = host, .base = base, .size = size };
	struct acpi_rsdp *root = append(&w, sizeof(*root));
	uint64_t facs = add_facs(&w), dsdt = add_dsdt(&w, config);
	uint64_t tables[3];

	tables[0] = add_fadt(&w, config, facs, dsdt);
	tables[1] = add_madt(&w, config);
	tables[2] = add_mcfg(&w, config);
	memcpy(root->signature, "RSD PTR ", 8);
	memcpy(root->oem_id, OEM_ID, 6);
	root->revision = 2;
	root->length = sizeof(*root);
	root->rsdt = (uint32_t)add_root(&w, "RSDT", tables, ARRAY_SIZE(tables), false);
	root->xsdt = add_root(&w, "XSDT", tables, ARRAY_SIZE(tables), true);
	root->checksum = (uint8_t)-sum((uint8_t *)root, 20);
	root->extended_checksum = (uint8_t)-sum((uint8_t *)root, sizeof(*root));
	if (w.overflow)
		return error_set(err, 0, "the ACPI tables do not fit into %zu bytes", size);
	*rsdp = base;
	*used = w.used;
	return 0;
}
