/* SPDX-License-Identifier: MIT */
/* The small platform devices: ACPI registers, 8042, fw_cfg, isa-debug-exit, pc-testdev; and all of them under random access. */
#include <endian.h>

#include "device/acpi_pm.h"
#include "device/debug_exit.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/i8254.h"
#include "device/i8259.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/mc146818.h"
#include "device/pc_testdev.h"
#include "device/uart16550.h"
#include "vm_machine.h"

static struct vm *vm;
static struct test_line line;
static struct acpi_pm *pm;
static struct fw_cfg *fw;

static void ok(int result, const struct error *err)
{
	if (result)
		fail_msg("%s", err->text);
}

static int setup(void **state)
{
	struct irq_line lines[PC_TESTDEV_LINES] = { [7] = test_irq(&line) };
	struct error err;

	(void)state;
	vm = test_vm(2);
	line = (struct test_line){ 0 };
	ok(acpi_pm_create(vm, ACPI_PM_DEFAULT_BASE, test_irq(&line), &pm, &err), &err);
	ok(i8042_create(vm, test_irq(&line), NULL, &err), &err);
	ok(fw_cfg_create(vm, &fw, &err), &err);
	ok(debug_exit_create(vm, DEBUG_EXIT_DEFAULT_BASE, DEBUG_EXIT_DEFAULT_SIZE, &err), &err);
	ok(pc_testdev_create(vm, lines, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_round_trip(vm);
	vm_destroy(vm);
	return 0;
}

static uint64_t in(uint16_t port, unsigned size)
{
	return bus_read(&vm->pio, port, size);
}

static void out(uint16_t port, uint64_t value, unsigned size)
{
	bus_write(&vm->pio, port, value, size);
}

/* ---- ACPI ---- */

static void test_acpi(void **state)
{
	(void)state;
	assert_int_equal(in(0x604, 2), 1); /* SCI_EN */
	acpi_pm_power_button(pm);
	assert_false(line.level);
	assert_int_equal(in(0x600, 2), 0x100);
	out(0x602, 0x120, 2);
	assert_int_equal(in(0x602, 2), 0x120);
	assert_true(line.level);
	out(0x600, 0x100, 2);
	assert_false(line.level);
	out(0x602, 0xffff, 2);
	assert_int_equal(in(0x602, 2), 0x721);
	out(0x603, 0, 1); /* one byte of it */
	assert_int_equal(in(0x600, 4), 0x00210000);
	acpi_pm_raise_gpe(pm, 3);
	out(0x622, 8, 2);
	assert_true(line.level);
	out(0x620, 8, 1);
	assert_false(line.level);
	/* PM timer */
	test_advance(vm, 1000000000);
	assert_in_range(in(0x608, 4), 3579540, 3579545);
	test_advance(vm, 599000000000ull); /* past the change of bit 31 */
	assert_true(line.level);
	assert_int_equal(in(0x600, 2), 1);
	out(0x600, 1, 2);
	assert_false(line.level);
	/* sleep types other than S5 wake at once */
	out(0x604, 1 << 10 | 1 << 13, 2);
	assert_int_equal(in(0x600, 2), 0x8000);
	assert_int_equal(vm->end, VM_END_NONE);
	out(0x604, 5 << 10, 2);
	assert_int_equal(vm->end, VM_END_NONE);
	out(0x605, 0x34, 1); /* S5 by a byte write */
	assert_int_equal(vm->end, VM_END_POWEROFF);
}

static void test_reset_register(void **state)
{
	(void)state;
	vm->config.no_reboot = true; /* makes a reset visible here */
	out(0xcf9, 0x02, 1);
	assert_int_equal(vm->end, VM_END_NONE);
	assert_int_equal(in(0xcf9, 1), 2);
	out(0xcf9, 0x06, 1);
	assert_int_equal(vm->end, VM_END_POWEROFF);
}

/* ---- 8042 ---- */

static void test_i8042(void **state)
{
	(void)state;
	assert_int_equal(in(0x64, 1) & 0x21, 0);
	out(0x64, 0xaa, 1);
	assert_int_equal(in(0x64, 1) & 1, 1);
	assert_int_equal(in(0x60, 1), 0x55);
	assert_int_equal(in(0x64, 1) & 1, 0);
	out(0x64, 0x20, 1);
	assert_int_equal(in(0x60, 1), 0x34);
	out(0x64, 0x60, 1);
	out(0x60, 0x45, 1); /* keyboard interrupt on */
	out(0x64, 0xab, 1);
	assert_true(line.level);
	assert_int_equal(in(0x60, 1), 0);
	assert_false(line.level);
	out(0x60, 0xed, 1); /* to a keyboard that is not there */
	assert_int_equal(in(0x64, 1) & 0x61, 0x41);
	assert_int_equal(in(0x60, 1), 0xfe);
	out(0x64, 0xd4, 1);
	out(0x60, 0xf2, 1);
	assert_int_equal(in(0x64, 1) & 0x61, 0x61);
	assert_int_equal(in(0x60, 1), 0xfe);
	out(0x64, 0xd3, 1);
	out(0x60, 0x5a, 1);
	assert_int_equal(in(0x64, 1) & 0x21, 0x21);
	assert_int_equal(in(0x60, 1), 0x5a);
	out(0x64, 0x65, 1);
	out(0x60, 0x99, 1);
	out(0x64, 0x25, 1);
	assert_int_equal(in(0x60, 1), 0x99);
	/* A20 */
	assert_int_equal(in(0x92, 1), 2);
	out(0x92, 0, 1);
	out(0x64, 0xd0, 1);
	assert_int_equal(in(0x60, 1) & 3, 1);
	out(0x64, 0xdf, 1);
	assert_int_equal(in(0x92, 1), 2);
	assert_int_equal(vm->end, VM_END_NONE);
	vm->config.no_reboot = true;
	out(0x64, 0xfe, 1);
	assert_int_equal(vm->end, VM_END_POWEROFF);
}

static void test_i8042_other_resets(void **state)
{
	(void)state;
	vm->config.no_reboot = true;
	out(0x64, 0xd1, 1);
	out(0x60, 0x03, 1);
	assert_int_equal(vm->end, VM_END_NONE);
	out(0x92, 0x03, 1);
	assert_int_equal(vm->end, VM_END_POWEROFF);
	vm->end = VM_END_NONE;
	out(0x64, 0xd1, 1);
	out(0x60, 0x02, 1);
	assert_int_equal(vm->end, VM_END_POWEROFF);
}

/* ---- fw_cfg ---- */

static void fw_read(uint16_t key, void *to, size_t len)
{
	out(0x510, key, 2);
	for (size_t i = 0; i < len; i++)
		((uint8_t *)to)[i] = (uint8_t)in(0x511, 1);
}

static uint32_t dma(uint32_t control, uint32_t len, uint64_t address)
{
	struct {
		uint32_t control, length;
		uint64_t address;
	} request = { htobe32(control), htobe32(len), htobe64(address) };

	guest_memory_write(vm, 0x9000, &request, sizeof(request));
	out(0x514, 0, 4);
	out(0x518, htobe32(0x9000), 4);
	guest_memory_read(vm, 0x9000, &request, sizeof(request));
	return be32toh(request.control);
}

static void test_fw_cfg(void **state)
{
	struct error err;
	uint64_t ram;
	uint16_t cpus;
	uint32_t count;
	struct {
		uint32_t size;
		uint16_t select, reserved;
		char name[56];
	} entry[2];
	char text[16] = "";
	uint8_t *guest = guest_memory_host(&vm->memory, 0xa000, 64, true);

	(void)state;
	fw_read(FW_CFG_SIGNATURE, text, 4);
	assert_string_equal(text, "QEMU");
	assert_int_equal(in(0x511, 1), 0); /* past the end */
	fw_read(FW_CFG_NB_CPUS, &cpus, 2);
	assert_int_equal(cpus, 2);
	fw_read(FW_CFG_RAM_SIZE, &ram, 8);
	assert_int_equal(ram, MIB(4));
	ok(fw_cfg_add_file(fw, "opt/b", "bbb", 3, &err), &err);
	ok(fw_cfg_add_file(fw, "opt/a", "a", 1, &err), &err);
	ok(fw_cfg_add_string(fw, FW_CFG_CMDLINE_DATA, "console", &err), &err);
	ok(fw_cfg_add_u32(fw, 0x8002, 7, &err), &err);
	assert_int_equal(fw_cfg_add_u32(fw, FW_CFG_FILE_FIRST, 7, &err), -1);
	assert_int_equal(fw_cfg_add_u32(fw, 0x3fff, 7, &err), -1);
	out(0x510, FW_CFG_FILE_DIR, 2);
	for (size_t i = 0; i < 4; i++)
		((uint8_t *)&count)[i] = (uint8_t)in(0x511, 1);
	for (size_t i = 0; i < sizeof(entry); i++)
		((uint8_t *)entry)[i] = (uint8_t)in(0x511, 1);
	assert_int_equal(be32toh(count), 2);
	assert_string_equal(entry[0].name, "opt/a");
	assert_string_equal(entry[1].name, "opt/b");
	assert_int_equal(be32toh(entry[1].size), 3);
	memset(text, 0, sizeof(text));
	fw_read(be16toh(entry[1].select), text, 3);
	assert_string_equal(text, "bbb");
	/* DMA */
	assert_int_equal(in(0x514, 4), 0x554d4551); /* "QEMU" */
	memset(guest, 0xee, 16);
	assert_int_equal(dma((uint32_t)FW_CFG_CMDLINE_DATA << 16 | 8 | 2, 10, 0xa000), 0);
	assert_memory_equal(guest, "console\0\0\0\xee", 11);
	assert_int_equal(dma((uint32_t)FW_CFG_CMDLINE_DATA << 16 | 8 | 4, 3, 0), 0); /* select and skip */
	assert_int_equal(dma(2, 4, 0xa000), 0);
	assert_memory_equal(guest, "sole", 4);
	assert_int_equal(dma(0x10, 4, 0xa000), 1); /* writing is an error */
	assert_int_equal(dma((uint32_t)FW_CFG_SIGNATURE << 16 | 8 | 2, 100, MIB(4) - 10), 1);
	assert_int_equal(dma((uint32_t)FW_CFG_SIGNATURE << 16 | 8 | 2, UINT32_MAX, MIB(1)), 1);
	assert_int_equal(dma((uint32_t)FW_CFG_SIGNATURE << 16 | 8 | 4, UINT32_MAX, 0), 0);
	assert_int_equal(dma(4, UINT32_MAX, 0), 0);
	assert_int_equal(dma(2, 1, 0xa000), 0);
	out(0x514, 0xffffffff, 4);
	out(0x518, 0xffffffff, 4); /* a request that is not in memory */
}

/* ---- test devices ---- */

static void test_debug_exit(void **state)
{
	(void)state;
	out(0xf4, 0x10, 4);
	assert_int_equal(vm->end, VM_END_DEBUG_EXIT);
	assert_int_equal(vm->exit_status, 0x21);
}

static void test_testdev(void **state)
{
	(void)state;
	out(0xe0, 0x12345678, 4);
	assert_int_equal(in(0xe0, 4), 0x12345678);
	assert_int_equal(in(0xe1, 1), 0x56);
	assert_int_equal(in(0xe2, 2), 0x1234);
	out(0xe1, 0xaa, 1);
	assert_int_equal(in(0xe8, 4), 0x1234aa78);
	out(0x2007, 1, 1);
	assert_true(line.level);
	out(0x2007, 0, 1);
	assert_false(line.level);
	out(0xe4, 0x5000, 4);
	out(0xe4, 0xfffff000, 4);
	bus_write(&vm->mmio, 0xff000010, 0x1122334455667788, 8);
	assert_true(bus_read(&vm->mmio, 0xff000010, 8) == 0x1122334455667788);
	assert_int_equal(bus_read(&vm->mmio, 0xff000013, 2), 0x4455);
	bus_write(&vm->mmio, 0xff00ffff, 0x1234, 2);
	assert_int_equal(bus_read(&vm->mmio, 0xff00ffff, 1), 0x34);
}

/* ---- everything at once, at random ---- */

static int setup_all(void **state)
{
	struct apic_bus *bus;
	struct ioapic *ioapic;
	struct i8259 *pic;
	struct error err;

	setup(state);
	ok(apic_bus_create(vm, &bus, &err), &err);
	ok(i8259_create(vm, &pic, &err), &err);
	i8259_connect_output(pic, apic_bus_extint_line(bus));
	apic_bus_connect_pic(bus, i8259_acknowledge, pic);
	ok(ioapic_create(vm, bus, IOAPIC_DEFAULT_BASE, 2, &ioapic, &err), &err);
	ok(i8254_create(vm, i8259_input(pic, 0), NULL, &err), &err);
	ok(mc146818_create(vm, i8259_input(pic, 8), NULL, &err), &err);
	ok(uart16550_create(vm, 0, 0x3f8, i8259_input(pic, 4), NULL, NULL, &err), &err);
	ok(uart16550_create(vm, 1, 0x2f8, ioapic_input(ioapic, 3), NULL, NULL, &err), &err);
	return 0;
}

static void test_random_access(void **state)
{
	static const uint16_t ports[] = { 0x20, 0xa0, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xe0, 0xf4, 0x2f8, 0x3f8,
					  0x4d0, 0x510, 0x514, 0x518, 0x600, 0x604, 0x608, 0x620, 0xcf8, 0x2000 };
	static const uint64_t pages[] = { 0xfec00000, 0xfee00000, 0xff000000 };
	uint64_t seed = 42;

	(void)state;
	for (unsigned i = 0; i < 300000; i++) {
		unsigned size, r;
		uint64_t value;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		r = (unsigned)(seed >> 33);
		value = seed >> 7 ^ seed << 13;
		size = 1u << (r & 3);
		if (r & 4) {
			uint64_t at = pages[(r >> 4) % ARRAY_SIZE(pages)] + ((r >> 8) & (r & 8 ? 0xfff : 0x3f0));

			if (r & 0x80000)
				bus_write(&vm->mmio, at, value, size);
			else
				bus_read(&vm->mmio, at, size);
		} else {
			uint16_t at = (uint16_t)(ports[(r >> 4) % ARRAY_SIZE(ports)] + (r >> 12 & 7));

			if (r & 0x80000)
				out(at, value, MIN(size, 4u));
			else
				in(at, MIN(size, 4u));
		}
		if (i % 7 == 0) {
			struct vcpu *vcpu = vm->vcpus[i & 1];

			vcpu->apic_ops->write_msr(vcpu->apic, 0x800 + (r & 0x3f), value & (r & 0x40 ? 0xff : UINT64_MAX));
			vcpu->apic_ops->acknowledge(vcpu->apic);
			if (i % 10000 == 0)
				vcpu->apic_ops->write_msr(vcpu->apic, X86_MSR_APIC_BASE,
							  LAPIC_DEFAULT_BASE | (r & 0x80 ? 0xc00 : 0x800));
		}
		if (i % 64 == 0)
			test_advance(vm, r & 0xfffff);
		if (i % 20000 == 0)
			check_round_trip(vm);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_acpi), TEST(test_reset_register), TEST(test_i8042), TEST(test_i8042_other_resets), TEST(test_fw_cfg),
		TEST(test_debug_exit), TEST(test_testdev),
		cmocka_unit_test_setup_teardown(test_random_access, setup_all, teardown),
	};

	return cmocka_run_group_tests_name("platform", tests, NULL, NULL);
}
