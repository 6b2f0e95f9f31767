/* SPDX-License-Identifier: MIT */
/* Guest memory: slots, bounds, DMA across slots, and what writers report. */
#include "vm_machine.h"

static uint64_t written_gpa, written_len;

static void note_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	(void)vm;
	written_gpa = gpa;
	written_len = len;
}

static void check_layout(int (*create)(struct guest_memory *, uint64_t, struct error *), bool must_share)
{
	struct guest_memory mem;
	struct error err;

	assert_int_equal(create(&mem, 0, &err), -1);
	assert_int_equal(create(&mem, MIB(1) + 1, &err), -1);
	assert_int_equal(create(&mem, (1ull << 40) + 4096, &err), -1);
	assert_int_equal(create(&mem, GIB(4), &err), 0);
	assert_int_equal(mem.slot_count, 2);
	assert_int_equal(mem.slots[0].size, GIB(3));
	assert_int_equal(mem.slots[1].gpa, GIB(4));
	assert_int_equal(mem.slots[1].size, GIB(1));
	assert_ptr_equal(mem.slots[1].host, mem.host + GIB(3));
	assert_int_equal((uintptr_t)mem.host % GIB(1), 0);
	assert_null(guest_memory_find_slot(&mem, GIB(3)));
	assert_null(guest_memory_find_slot(&mem, GIB(5)));
	assert_non_null(guest_memory_find_slot(&mem, GIB(5) - 1));
	assert_null(guest_memory_host(&mem, GIB(3) - 4, 8, false));
	assert_null(guest_memory_host(&mem, UINT64_MAX - 3, 8, false));
	assert_null(guest_memory_host(&mem, 0, UINT64_MAX, false));
	assert_ptr_equal(guest_memory_host(&mem, GIB(3) - 8, 8, true), mem.host + GIB(3) - 8);
	assert_true(!must_share || mem.memfd >= 0);
	mem.host[0] = mem.host[GIB(4) - 1] = 0x55;
	guest_memory_clear(&mem);
	assert_int_equal(mem.host[0] | mem.host[GIB(4) - 1], 0);
	guest_memory_destroy(&mem);
}

static void test_layout(void **state)
{
	(void)state;
	check_layout(guest_memory_create, false);
	check_layout(guest_memory_create_shared, true);
}

static void test_rom(void **state)
{
	struct vm *vm = test_vm(1);
	struct error err;
	uint8_t *rom = guest_memory_add_rom(&vm->memory, "rom", 0xfffff000, 4096, &err), byte = 1;

	(void)state;
	assert_non_null(rom);
	rom[5] = 0x77;
	assert_null(guest_memory_add_rom(&vm->memory, "again", 0xffffe000, 8192, &err));
	assert_null(guest_memory_add_rom(&vm->memory, "odd", 0xffff0001, 4096, &err));
	assert_null(guest_memory_host(&vm->memory, 0xfffff000, 1, true));
	assert_non_null(guest_memory_host(&vm->memory, 0xfffff000, 1, false));
	assert_int_equal(guest_memory_write(vm, 0xfffff000, &byte, 1), -1);
	assert_int_equal(guest_memory_read(vm, 0xfffff005, &byte, 1), 0);
	assert_int_equal(byte, 0x77);
	vm_destroy(vm);
}

static void test_dma(void **state)
{
	struct engine engine = fake_engine;
	struct vm *vm = test_vm(1);
	uint8_t data[10000], back[10000];

	(void)state;
	engine.memory_written = note_written;
	vm->engine = &engine;
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	assert_int_equal(guest_memory_write(vm, 0x12345, data, sizeof(data)), 0);
	assert_int_equal(guest_memory_read(vm, 0x12345, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(data));
	assert_int_equal(vm->memory.page_flags[0x12], PAGE_FLAG_DIRTY);
	assert_int_equal(vm->memory.page_flags[0x14], PAGE_FLAG_DIRTY);
	assert_int_equal(vm->memory.page_flags[0x11], 0);
	assert_int_equal(written_len, 0);
	vm->memory.page_flags[0x13] |= PAGE_FLAG_CODE;
	assert_int_equal(guest_memory_write(vm, 0x12345, data, 8), 0);
	assert_int_equal(written_len, 0);
	assert_int_equal(guest_memory_write(vm, 0x12ffc, data, 8), 0);
	assert_int_equal(written_gpa, 0x12ffc);
	assert_int_equal(written_len, 8);
	memset(back, 0xee, sizeof(back));
	assert_int_equal(guest_memory_read(vm, MIB(4) - 5, back, 10), -1);
	assert_int_equal(back[0], 0xee); /* nothing copied */
	assert_int_equal(guest_memory_write(vm, MIB(4) - 5, data, 10), -1);
	assert_int_equal(guest_memory_read(vm, UINT64_MAX, back, 2), -1);
	assert_int_equal(guest_memory_read(vm, MIB(4), back, 0), 0);
	guest_memory_written(vm, MIB(4) - 1, UINT64_MAX);
	vm->engine = &fake_engine;
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout), cmocka_unit_test(test_rom), cmocka_unit_test(test_dma),
	};

	return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
