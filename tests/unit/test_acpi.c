/* SPDX-License-Identifier: MIT */
/* ACPI and MP tables: structure, checksums, contents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "machine/acpi.h"
#include "machine/dsdt.h"

#define BASE 0xe0000u
#define SIZE 0x10000u

static uint8_t memory[SIZE];

static struct acpi_config config(unsigned cpus)
{
	return (struct acpi_config){
		.cpus = cpus,
		.lapic_base = 0xfee00000,
		.ioapic_base = 0xfec00000,
		.ioapic_id = (uint8_t)cpus,
		.sci_irq = 9,
		.pm_base = 0x600,
		.ecam_base = 0xe0000000,
		.ecam_last_bus = 255,
		.dsdt = dsdt_aml,
		.dsdt_size = dsdt_aml_size,
		.pci_gsi = { 16, 17, 18, 19 },
		.pci_slots = 0x6,
	};
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t total = 0;

	while (n--)
		total += *p++;
	return total;
}

/* The table at a guest address, its checksum verified. */
static const uint8_t *table_at(uint64_t address)
{
	const uint8_t *t;

	assert_in_range(address, BASE, BASE + SIZE - 36);
	t = memory + (address - BASE);
	assert_in_range(load_le32(t + 4), 36, SIZE - (address - BASE));
	assert_int_equal(sum(t, load_le32(t + 4)), 0);
	return t;
}

static const uint8_t *find_table(const char *signature)
{
	const uint8_t *xsdt = table_at(load_le64(memory + 24)), *found = NULL;

	for (uint32_t at = 36; at < load_le32(xsdt + 4); at += 8) {
		const uint8_t *t = table_at(load_le64(xsdt + at));

		if (memcmp(t, signature, 4) == 0)
			found = t;
	}
	assert_non_null(found);
	return found;
}

static void build(unsigned cpus)
{
	struct acpi_config c = config(cpus);
	struct error err;
	uint64_t rsdp;
	size_t used;

	memset(memory, 0xee, sizeof(memory));
	assert_int_equal(acpi_build(&c, memory, BASE, SIZE, &rsdp, &used, &err), 0);
	assert_int_equal(rsdp, BASE);
	assert_int_equal(memory[used], 0xee);
}

static void test_root(void **test)
{
	const uint8_t *rsdt, *xsdt;

	(void)test;
	build(1);
	assert_memory_equal(memory, "RSD PTR ", 8);
	assert_int_equal(sum(memory, 20), 0);
	assert_int_equal(sum(memory, 36), 0);
	assert_int_equal(memory[15], 2);
	rsdt = table_at(load_le32(memory + 16));
	xsdt = table_at(load_le64(memory + 24));
	assert_memory_equal(rsdt, "RSDT", 4);
	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal((load_le32(rsdt + 4) - 36) / 4, (load_le32(xsdt + 4) - 36) / 8);
	for (uint32_t i = 0; i < (load_le32(rsdt + 4) - 36) / 4; i++)
		assert_int_equal(load_le32(rsdt + 36 + i * 4), load_le64(xsdt + 36 + i * 8));
}

static void test_fadt(void **test)
{
	const uint8_t *fadt, *facs;

	(void)test;
	build(2);
	fadt = find_table("FACP");
	assert_int_equal(load_le32(fadt + 4), 276);
	assert_memory_equal(table_at(load_le32(fadt + 40)), "DSDT", 4);
	assert_int_equal(load_le64(fadt + 140), load_le32(fadt + 40));
	facs = memory + load_le32(fadt + 36) - BASE;
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(load_le32(fadt + 36) % 64, 0);
	assert_int_equal(load_le16(fadt + 46), 9);     /* SCI */
	assert_int_equal(load_le32(fadt + 56), 0x600); /* PM1a events */
	assert_int_equal(load_le32(fadt + 64), 0x604);
	assert_int_equal(load_le32(fadt + 76), 0x608); /* PM timer */
	assert_int_equal(fadt[116], 1);                /* reset register: I/O */
	assert_int_equal(load_le64(fadt + 120), 0xcf9);
	assert_int_equal(fadt[128], 6);
	assert_int_not_equal(load_le32(fadt + 112) & BIT(10), 0);
}

static void test_madt(void **test)
{
	static const unsigned counts[] = { 1, 4, 64 };

	(void)test;
	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		unsigned cpus = 0, ioapics = 0, overrides = 0;
		const uint8_t *madt;
		uint32_t at;

		build(counts[i]);
		madt = find_table("APIC");
		assert_int_equal(load_le32(madt + 36), 0xfee00000);
		for (at = 44; at < load_le32(madt + 4); at += madt[at + 1]) {
			assert_true(madt[at + 1] >= 2);
			if (madt[at] == 0) {
				assert_int_equal(madt[at + 3], cpus);
				assert_int_equal(load_le32(madt + at + 4), 1);
				cpus++;
			} else if (madt[at] == 1) {
				assert_int_equal(load_le32(madt + at + 4), 0xfec00000);
				ioapics++;
			} else if (madt[at] == 2) {
				if (madt[at + 3] == 0)
					assert_int_equal(load_le32(madt + at + 4), 2);
				overrides++;
			}
		}
		assert_int_equal(at, load_le32(madt + 4));
		assert_int_equal(cpus, counts[i]);
		assert_int_equal(ioapics, 1);
		assert_int_equal(overrides, 2);
	}
}

static void test_mcfg(void **test)
{
	const uint8_t *mcfg;

	(void)test;
	build(1);
	mcfg = find_table("MCFG");
	assert_int_equal(load_le32(mcfg + 4), 60);
	assert_int_equal(load_le64(mcfg + 44), 0xe0000000);
	assert_int_equal(mcfg[55], 255);
}

static void test_no_room(void **test)
{
	struct acpi_config c = config(64);
	struct error err;
	uint64_t rsdp;
	size_t used, need;

	(void)test;
	assert_int_equal(acpi_build(&c, memory, BASE, SIZE, &rsdp, &need, &err), 0);
	for (size_t size = 0; size < need; size += 7) {
		memory[size] = 0x5a;
		assert_int_equal(acpi_build(&c, memory, BASE, size, &rsdp, &used, &err), -1);
		assert_int_equal(memory[size], 0x5a);
	}
	assert_int_equal(mptable_build(&c, memory, BASE, SIZE, &need, &err), 0);
	for (size_t size = 0; size < need; size += 7)
		assert_int_equal(mptable_build(&c, memory, BASE, size, &used, &err), -1);
}

static void test_mptable(void **test)
{
	static const uint8_t sizes[] = { 20, 8, 8, 8, 8 };
	struct acpi_config c = config(3);
	unsigned entries = 0, cpus = 0, timer = 0;
	const uint8_t *table, *entry;
	struct error err;
	size_t used;

	(void)test;
	memset(memory, 0, sizeof(memory));
	assert_int_equal(mptable_build(&c, memory, BASE, SIZE, &used, &err), 0);
	assert_memory_equal(memory, "_MP_", 4);
	assert_int_equal(sum(memory, 16), 0);
	table = memory + load_le32(memory + 4) - BASE;
	assert_memory_equal(table, "PCMP", 4);
	assert_int_equal(sum(table, load_le16(table + 4)), 0);
	for (entry = table + 44; entry < table + load_le16(table + 4); entry += sizes[*entry]) {
		assert_in_range(*entry, 0, 4);
		entries++;
		cpus += *entry == 0;
		if (*entry == 3 && entry[4] == 1 && entry[5] == 0)
			timer = entry[7];
	}
	assert_int_equal(entries, load_le16(table + 34));
	assert_int_equal(cpus, 3);
	assert_int_equal(timer, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_root),    cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),    cmocka_unit_test(test_mcfg),
		cmocka_unit_test(test_no_room), cmocka_unit_test(test_mptable),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
