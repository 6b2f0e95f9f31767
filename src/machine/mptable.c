/* SPDX-License-Identifier: MIT */
/*
 * The MP configuration table: what ACPI's MADT says, for kernels that know no ACPI.
 *
 * Source: Intel MultiProcessor Specification 1.4, chapter 4.
 */
#include <stdbool.h>
#include <string.h>

#include "base/util.h"
#include "machine/acpi.h"

struct mp_floating {
	char signature[4];
	uint32_t table;
	uint8_t length, revision, checksum, features[5];
} __attribute__((packed));

struct mp_header {
	char signature[4];
	uint16_t length;
	uint8_t revision, checksum;
	char oem_id[8], product_id[12];
	uint32_t oem_table;
	uint16_t oem_table_size, entry_count;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum, reserved;
} __attribute__((packed));

struct mp_processor {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features, reserved[2];
} __attribute__((packed));

struct mp_bus {
	uint8_t type, id;
	char name[6];
} __attribute__((packed));

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t address;
} __attribute__((packed));

struct mp_interrupt {
	uint8_t type, kind;
	uint16_t flags;
	uint8_t source_bus, source_irq, destination, input;
} __attribute__((packed));

enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL_INTERRUPT };
enum { MP_INT, MP_NMI, MP_SMI, MP_EXTINT };
enum { BUS_PCI = 0, BUS_ISA = 1 };
#define MP_LEVEL_ACTIVE_HIGH 0xd
#define MP_LEVEL_ACTIVE_LOW 0xf

struct mp_writer {
	uint8_t *host;
	size_t size, used;
	uint16_t entries;
	bool overflow;
};

static void add(struct mp_writer *w, const void *entry, size_t n)
{
	if (w->overflow || n > w->size - w->used) {
		w->overflow = true;
		return;
	}
	memcpy(w->host + w->used, entry, n);
	w->used += n;
	w->entries++;
}

static void add_interrupt(struct mp_writer *w, uint8_t type, uint8_t kind, uint16_t flags,
			  uint8_t bus, unsigned irq, uint8_t destination, unsigned input)
{
	const struct mp_interrupt entry = {
		.type = type,
		.kind = kind,
		.flags = flags,
		.source_bus = bus,
		.source_irq = (uint8_t)irq,
		.destination = destination,
		.input = (uint8_t)input,
	};

	add(w, &entry, sizeof(entry));
}

static void add_entries(struct mp_writer *w, const struct acpi_config *config)
{
	const uint8_t enabled = 1, boot_cpu = 2, apic_version = 0x14;
	const uint32_t fpu_apic = 0x201;

	for (unsigned i = 0; i < config->cpus; i++) {
		const struct mp_processor cpu = {
			.type = MP_PROCESSOR,
			.apic_id = (uint8_t)i,
			.apic_version = apic_version,
			.flags = i == 0 ? enabled | boot_cpu : enabled,
			.signature = 0x600,
			.features = fpu_apic,
		};

		add(w, &cpu, sizeof(cpu));
	}
	add(w, &(struct mp_bus){ .type = MP_BUS, .id = BUS_PCI, .name = "PCI   " },
	    sizeof(struct mp_bus));
	add(w, &(struct mp_bus){ .type = MP_BUS, .id = BUS_ISA, .name = "ISA   " },
	    sizeof(struct mp_bus));
	add(w,
	    &(struct mp_ioapic){ .type = MP_IOAPIC,
				 .id = config->ioapic_id,
				 .version = 0x20,
				 .flags = 1,
				 .address = config->ioapic_base },
	    sizeof(struct mp_ioapic));
	for (unsigned irq = 0; irq < 16; irq++)
		if (irq != 2)
			add_interrupt(w, MP_INTERRUPT, MP_INT,
				      irq == config->sci_irq ? MP_LEVEL_ACTIVE_HIGH : 0, BUS_ISA,
				      irq, config->ioapic_id, irq == 0 ? 2 : irq);
	for (unsigned slot = 1; slot < 32; slot++)
		if (config->pci_slots >> slot & 1)
			for (unsigned pin = 0; pin < 4; pin++)
				add_interrupt(w, MP_INTERRUPT, MP_INT, MP_LEVEL_ACTIVE_LOW, BUS_PCI,
					      slot << 2 | pin, config->ioapic_id,
					      config->pci_gsi[(slot + pin) % 4]);
	add_interrupt(w, MP_LOCAL_INTERRUPT, MP_EXTINT, 0, BUS_ISA, 0, 0xff, 0);
	add_interrupt(w, MP_LOCAL_INTERRUPT, MP_NMI, 0, BUS_ISA, 0, 0xff, 1);
}

static uint8_t sum(const void *data, size_t n)
{
	const uint8_t *p = data;
	uint8_t total = 0;

	while (n--)
		total += *p++;
	return total;
}

int mptable_build(const struct acpi_config *config, uint8_t *host, uint64_t base, size_t size,
		  size_t *used, struct error *err)
{
	const size_t table = sizeof(struct mp_floating), start = table + sizeof(struct mp_header);
	struct mp_writer w = { .host = host, .size = size, .used = start };
	struct mp_floating *floating = (struct mp_floating *)host;
	struct mp_header *header = (struct mp_header *)(host + table);

	if (size < start)
		return error_set(err, 0, "the MP table does not fit into %zu bytes", size);
	add_entries(&w, config);
	if (w.overflow)
		return error_set(err, 0, "the MP table does not fit into %zu bytes", size);
	*header = (struct mp_header){
		.signature = "PCMP",
		.length = (uint16_t)(w.used - table),
		.revision = 4,
		.oem_id = "LODGE   ",
		.product_id = "MICROVM     ",
		.entry_count = w.entries,
		.lapic = config->lapic_base,
	};
	header->checksum = (uint8_t)-sum(header, header->length);
	*floating = (struct mp_floating){
		.signature = "_MP_",
		.table = (uint32_t)(base + table),
		.length = 1,
		.revision = 4,
	};
	floating->checksum = (uint8_t)-sum(floating, sizeof(*floating));
	*used = w.used;
	return 0;
}
