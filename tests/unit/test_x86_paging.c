/* SPDX-License-Identifier: MIT */
/* Page walks: SDM volume 3, chapter 4, in all paging modes. */
#include "x86_machine.h"

#include "x86/paging.h"

#define PML4 0x10000u
#define PDPT 0x11000u
#define PD 0x12000u
#define PT 0x13000u
#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)
#define LINEAR 0x0000008040201234ull /* index 1 at each level, offset 0x234 */

struct memory {
	struct x86_cpu_state cpu;
	unsigned swaps;
	unsigned steal; /* this many swaps fail, the entry having changed */
	struct x86_walk walk;
	uint8_t bytes[MEMORY_SIZE];
};

static uint64_t read_entry(void *ctx, uint64_t gpa, unsigned size)
{
	struct memory *m = ctx;
	uint64_t value = 0;

	assert_int_equal(gpa % size, 0);
	if (gpa >= MEMORY_SIZE)
		return size == 8 ? ~0ull : 0xffffffffu;
	memcpy(&value, m->bytes + gpa, size);
	return value;
}

static bool cmpxchg_entry(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t new_value)
{
	struct memory *m = ctx;

	m->swaps++;
	if (m->steal) {
		m->steal--;
		return false;
	}
	assert_int_equal(read_entry(m, gpa, size), old);
	memcpy(m->bytes + gpa, &new_value, size);
	return true;
}

static const struct x86_walk_ops ops = { read_entry, cmpxchg_entry };

static void put(struct memory *m, uint64_t gpa, uint64_t entry)
{
	memcpy(m->bytes + gpa, &entry, 8);
}

static void put32(struct memory *m, uint64_t gpa, uint32_t entry)
{
	memcpy(m->bytes + gpa, &entry, 4);
}

static uint64_t get(struct memory *m, uint64_t gpa)
{
	return read_entry(m, gpa, 8);
}

static int setup_long(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));

	m->cpu.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
	m->cpu.cr4 = X86_CR4_PAE;
	m->cpu.efer = X86_EFER_LMA | X86_EFER_LME | X86_EFER_NXE;
	m->cpu.cr3 = PML4;
	put(m, PML4 + 8, PDPT | P | W | U);
	put(m, PDPT + 8, PD | P | W | U);
	put(m, PD + 8, PT | P | W | U);
	put(m, PT + 8, 0x45000 | P | W | U);
	*state = m;
	return 0;
}

static bool walk(struct memory *m, enum x86_access access, bool user)
{
	return x86_walk_page(&m->cpu, &ops, m, LINEAR, access, user, false, 40, &m->walk);
}

#define SUPERVISOR false
#define USER true

static void assert_walk_fault(struct memory *m, enum x86_access access, bool user, uint32_t error)
{
	assert_false(walk(m, access, user));
	assert_int_equal(m->walk.error, error);
}

static void no_paging(void **state)
{
	struct memory *m = *state;

	m->cpu.cr0 = X86_CR0_PE;
	m->cpu.efer = 0;
	assert_true(x86_walk_page(&m->cpu, &ops, m, 0x1fffff123ull, X86_ACCESS_WRITE, true, false,
				  40, &m->walk));
	assert_int_equal(m->walk.gpa, 0xfffff123u);
	assert_true(m->walk.writable && m->walk.user && m->walk.executable);
	assert_int_equal(m->walk.page_size, 4096);
}

static void four_levels(void **state)
{
	struct memory *m = *state;

	assert_true(walk(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.gpa, 0x45234);
	assert_int_equal(m->walk.page_size, 4096);
	assert_true(m->walk.user && m->walk.perm_writable && m->walk.executable);
	assert_false(m->walk.writable); /* not dirty yet */
	assert_false(m->walk.global);
	assert_int_equal(get(m, PML4 + 8), PDPT | P | W | U | A);
	assert_int_equal(get(m, PDPT + 8), PD | P | W | U | A);
	assert_int_equal(get(m, PD + 8), PT | P | W | U | A);
	assert_int_equal(get(m, PT + 8), 0x45000 | P | W | U | A);
	assert_int_equal(m->swaps, 4);

	/* A write sets D in the leaf only, with one more swap. */
	assert_true(walk(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(m->swaps, 5);
	assert_int_equal(get(m, PT + 8), 0x45000 | P | W | U | A | D);
	assert_true(m->walk.writable);
	/* From here on nothing is left to set. */
	assert_true(walk(m, X86_ACCESS_WRITE, USER) && walk(m, X86_ACCESS_READ, SUPERVISOR));
	assert_true(m->walk.writable);
	assert_int_equal(m->swaps, 5);
}

static void not_present(void **state)
{
	struct memory *m = *state;
	static const uint64_t entries[4] = { PML4 + 8, PDPT + 8, PD + 8, PT + 8 };

	for (unsigned i = 0; i < 4; i++) {
		uint64_t old = get(m, entries[i]);

		put(m, entries[i], old & ~P);
		assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, 0);
		assert_walk_fault(m, X86_ACCESS_READ, USER, X86_PF_U);
		assert_walk_fault(m, X86_ACCESS_WRITE, USER, X86_PF_U | X86_PF_W);
		assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_U | X86_PF_I);
		/* Without NXE and SMEP the I bit stays 0. */
		m->cpu.efer &= ~(uint64_t)X86_EFER_NXE;
		assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_U);
		m->cpu.cr4 |= X86_CR4_SMEP;
		assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_U | X86_PF_I);
		m->cpu.cr4 &= ~(uint64_t)X86_CR4_SMEP;
		m->cpu.efer |= X86_EFER_NXE;
		/* A non-present entry may hold anything. */
		put(m, entries[i], ~0ull & ~P);
		assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, 0);
		put(m, entries[i], old);
	}
	assert_int_equal(m->swaps, 0); /* a failing walk sets nothing */
}

static void rights_of_all_levels(void **state)
{
	struct memory *m = *state;
	static const uint64_t entries[4] = { PML4 + 8, PDPT + 8, PD + 8, PT + 8 };

	for (unsigned i = 0; i < 4; i++) {
		uint64_t old = get(m, entries[i]);

		put(m, entries[i], old & ~U);
		assert_walk_fault(m, X86_ACCESS_READ, USER, X86_PF_P | X86_PF_U);
		assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_P | X86_PF_U | X86_PF_I);
		put(m, entries[i], old & ~W);
		assert_walk_fault(m, X86_ACCESS_WRITE, USER, X86_PF_P | X86_PF_U | X86_PF_W);
		assert_walk_fault(m, X86_ACCESS_WRITE, SUPERVISOR, X86_PF_P | X86_PF_W);
		put(m, entries[i], old | NX);
		assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_P | X86_PF_U | X86_PF_I);
		assert_walk_fault(m, X86_ACCESS_EXEC, SUPERVISOR, X86_PF_P | X86_PF_I);
		assert_int_equal(m->swaps, 0);
		put(m, entries[i], old);
	}
}

static void write_protect(void **state)
{
	struct memory *m = *state;

	put(m, PT + 8, 0x45000 | P | U);
	m->cpu.cr0 &= ~(uint64_t)X86_CR0_WP;
	assert_true(walk(m, X86_ACCESS_WRITE, SUPERVISOR));
	assert_true(m->walk.writable);
	assert_false(m->walk.perm_writable);
	assert_walk_fault(m, X86_ACCESS_WRITE, USER, X86_PF_P | X86_PF_U | X86_PF_W);
	assert_true(walk(m, X86_ACCESS_READ, USER));
	assert_false(m->walk.writable);
}

static void smep_smap(void **state)
{
	struct memory *m = *state;

	m->cpu.cr4 |= X86_CR4_SMEP;
	assert_walk_fault(m, X86_ACCESS_EXEC, SUPERVISOR, X86_PF_P | X86_PF_I);
	assert_true(walk(m, X86_ACCESS_EXEC, USER));
	assert_true(walk(m, X86_ACCESS_READ, SUPERVISOR));
	assert_false(m->walk.executable);

	m->cpu.cr4 |= X86_CR4_SMAP;
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, X86_PF_P);
	assert_walk_fault(m, X86_ACCESS_WRITE, SUPERVISOR, X86_PF_P | X86_PF_W);
	assert_true(walk(m, X86_ACCESS_READ, USER));
	m->cpu.rflags = X86_FLAG_AC;
	assert_true(walk(m, X86_ACCESS_READ, SUPERVISOR));
	/* AC does not help an implicit access. */
	assert_false(x86_walk_page(&m->cpu, &ops, m, LINEAR, X86_ACCESS_READ, false, true, 40,
				   &m->walk));
	/* A supervisor page is not affected. */
	m->cpu.rflags = 0;
	put(m, PD + 8, PT | P | W);
	assert_true(walk(m, X86_ACCESS_READ, SUPERVISOR));
	assert_true(walk(m, X86_ACCESS_EXEC, SUPERVISOR));
}

static void large_pages(void **state)
{
	struct memory *m = *state;

	put(m, PD + 8, 0x40600000 | P | W | U | PS | G | 0x1000 /* PAT */);
	assert_true(walk(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(m->walk.page_size, 2u << 20);
	assert_int_equal(m->walk.gpa, 0x40600000 | (LINEAR & 0x1fffff));
	assert_int_equal(get(m, PD + 8), 0x40600000 | P | W | U | PS | G | A | D | 0x1000);
	assert_false(m->walk.global); /* CR4.PGE is clear */
	m->cpu.cr4 |= X86_CR4_PGE;
	assert_true(walk(m, X86_ACCESS_WRITE, USER));
	assert_true(m->walk.global);

	put(m, PDPT + 8, 0x80000000 | P | W | U | PS);
	assert_true(walk(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.page_size, 1u << 30);
	assert_int_equal(m->walk.gpa, 0x80000000 | (LINEAR & 0x3fffffff));
}

static void reserved_bits(void **state)
{
	struct memory *m = *state;
	static const uint64_t entries[4] = { PML4 + 8, PDPT + 8, PD + 8, PT + 8 };
	const uint32_t error = X86_PF_P | X86_PF_RSVD;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t old = get(m, entries[i]);

		put(m, entries[i], old | 1ull << 40); /* MAXPHYADDR is 40 */
		assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
		put(m, entries[i], old | 1ull << 51);
		assert_walk_fault(m, X86_ACCESS_WRITE, USER, error | X86_PF_W | X86_PF_U);
		put(m, entries[i], old | 0x7ffull << 52); /* ignored */
		assert_true(walk(m, X86_ACCESS_READ, SUPERVISOR));
		put(m, entries[i], old | NX); /* reserved without NXE */
		m->cpu.efer &= ~(uint64_t)X86_EFER_NXE;
		assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
		m->cpu.efer |= X86_EFER_NXE;
		put(m, entries[i], old);
	}
	put(m, PML4 + 8, PDPT | P | W | U | PS);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PML4 + 8, PDPT | P | W | U);
	put(m, PDPT + 8, 0x80000000 | P | PS | 1u << 13);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PDPT + 8, 0x80000000 | P | PS | 1u << 29);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PDPT + 8, PD | P | W | U);
	put(m, PD + 8, 0x80000000 | P | PS | 1u << 20);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	/* A reserved bit is reported before a missing right. */
	assert_walk_fault(m, X86_ACCESS_WRITE, USER, error | X86_PF_W | X86_PF_U);
}

static void restarts_when_an_entry_changes(void **state)
{
	struct memory *m = *state;

	m->steal = 3;
	assert_true(walk(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(m->walk.gpa, 0x45234);
	assert_int_equal(get(m, PT + 8), 0x45000 | P | W | U | A | D);
	/* It gives up in the end. */
	put(m, PT + 8, 0x45000 | P | W | U);
	m->steal = ~0u;
	assert_false(walk(m, X86_ACCESS_WRITE, USER));
	assert_false(m->walk.error & X86_PF_P);
}

static void tables_outside_ram(void **state)
{
	struct memory *m = *state;

	put(m, PML4 + 8,
	    0xf0000000 | P | W | U); /* reads as all ones: present, reserved bits set */
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, X86_PF_P | X86_PF_RSVD);
}

/* ---- PAE ---- */

static int setup_pae(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));

	m->cpu.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
	m->cpu.cr4 = X86_CR4_PAE;
	m->cpu.efer = X86_EFER_NXE;
	m->cpu.cr3 = PDPT + 0x20; /* 32-byte aligned */
	put(m, PDPT + 0x28, PD | P);
	put(m, PD + 8, PT | P | W | U);
	put(m, PT + 8, 0x45000 | P | W | U);
	*state = m;
	return 0;
}

static void pae_walk(void **state)
{
	struct memory *m = *state;

	assert_true(
		walk(m, X86_ACCESS_WRITE, USER)); /* bits above 31 of the address do not count */
	assert_int_equal(m->walk.gpa, 0x45234);
	assert_int_equal(get(m, PDPT + 0x28), PD | P); /* no A bit, no rights in a PDPTE */
	assert_int_equal(get(m, PD + 8), PT | P | W | U | A);
	assert_int_equal(get(m, PT + 8), 0x45000 | P | W | U | A | D);
	assert_int_equal(m->swaps, 2);
}

static void pae_faults(void **state)
{
	struct memory *m = *state;
	const uint32_t error = X86_PF_P | X86_PF_RSVD;

	put(m, PDPT + 0x28, PD);
	assert_walk_fault(m, X86_ACCESS_READ, USER, X86_PF_U);
	put(m, PDPT + 0x28, PD | P | W);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PDPT + 0x28, PD | P | NX);
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PDPT + 0x28, PD | P);
	put(m, PT + 8,
	    0x45000 | P | W | U | 1ull << 62); /* ignored in 4-level paging, reserved here */
	assert_walk_fault(m, X86_ACCESS_READ, SUPERVISOR, error);
	put(m, PT + 8, 0x45000 | P | W | U | NX);
	assert_walk_fault(m, X86_ACCESS_EXEC, USER, X86_PF_P | X86_PF_U | X86_PF_I);
	put(m, PD + 8, 0x600000 | P | W | U | PS);
	assert_true(walk(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.page_size, 2u << 20);
	assert_int_equal(m->walk.gpa, 0x600000 | (LINEAR & 0x1fffff));
}

/* ---- 32-bit ---- */

#define LINEAR32 0x00401234u

static int setup_32(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));

	m->cpu.cr0 = X86_CR0_PE | X86_CR0_PG;
	m->cpu.cr3 = PD;
	put32(m, PD + 4, PT | P | W | U);
	put32(m, PT + 4, 0x45000 | P | W | U);
	*state = m;
	return 0;
}

static bool walk32(struct memory *m, enum x86_access access, bool user)
{
	return x86_walk_page(&m->cpu, &ops, m, LINEAR32, access, user, false, 40, &m->walk);
}

static void two_levels(void **state)
{
	struct memory *m = *state;

	assert_true(walk32(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.gpa, 0x45234);
	assert_int_equal(m->walk.page_size, 4096);
	assert_int_equal(m->swaps, 2);
	assert_true(walk32(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(read_entry(m, PD + 4, 4), PT | P | W | U | A);
	assert_int_equal(read_entry(m, PT + 4, 4), 0x45000 | P | W | U | A | D);
	assert_int_equal(read_entry(m, PT + 8, 4), 0);

	put32(m, PT + 4, 0x45000 | P | U);
	assert_false(walk32(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(m->walk.error, X86_PF_P | X86_PF_W | X86_PF_U);
	assert_true(walk32(m, X86_ACCESS_WRITE, SUPERVISOR)); /* WP is clear */
	/* Fetches are reads here: NXE counts only with PAE. */
	m->cpu.efer = X86_EFER_NXE;
	put32(m, PT + 4, 0x45000 | P);
	assert_false(walk32(m, X86_ACCESS_EXEC, USER));
	assert_int_equal(m->walk.error, X86_PF_P | X86_PF_U);
}

static void pse(void **state)
{
	struct memory *m = *state;

	/* Without CR4.PSE bit 7 of a PDE is ignored. */
	put32(m, PD + 4, PT | P | W | U | PS);
	assert_true(walk32(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.gpa, 0x45234);

	m->cpu.cr4 = X86_CR4_PSE;
	put32(m, PD + 4, 0x00c00000 | P | W | U | PS);
	assert_true(walk32(m, X86_ACCESS_WRITE, USER));
	assert_int_equal(m->walk.page_size, 4u << 20);
	assert_int_equal(m->walk.gpa, 0x00c01234);
	assert_int_equal(read_entry(m, PD + 4, 4), 0x00c00000 | P | W | U | PS | A | D);

	/* PSE-36: bits 13-20 are address bits 32-39 (MAXPHYADDR 40), bit 21 is reserved. */
	put32(m, PD + 4, 0x00c00000 | P | W | U | PS | 0xa5u << 13);
	assert_true(walk32(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.gpa, 0xa500c01234ull);
	put32(m, PD + 4, 0x00c00000 | P | W | U | PS | 1u << 21);
	assert_false(walk32(m, X86_ACCESS_READ, USER));
	assert_int_equal(m->walk.error, X86_PF_P | X86_PF_U | X86_PF_RSVD);
	put32(m, PD + 4, 0x00c00000 | P | W | U | PS | 1u << 17);
	assert_false(x86_walk_page(&m->cpu, &ops, m, LINEAR32, X86_ACCESS_READ, true, false, 36,
				   &m->walk));
	assert_int_equal(m->walk.error, X86_PF_P | X86_PF_U | X86_PF_RSVD);
	assert_true(walk32(m, X86_ACCESS_READ, USER));
}

#define LONG(f) cmocka_unit_test_setup_teardown(f, setup_long, machine_teardown)
#define PAE(f) cmocka_unit_test_setup_teardown(f, setup_pae, machine_teardown)
#define LEGACY(f) cmocka_unit_test_setup_teardown(f, setup_32, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LONG(no_paging),
		LONG(four_levels),
		LONG(not_present),
		LONG(rights_of_all_levels),
		LONG(write_protect),
		LONG(smep_smap),
		LONG(large_pages),
		LONG(reserved_bits),
		LONG(restarts_when_an_entry_changes),
		LONG(tables_outside_ram),
		PAE(pae_walk),
		PAE(pae_faults),
		LEGACY(two_levels),
		LEGACY(pse),
	};

	return cmocka_run_group_tests_name("x86 paging", tests, NULL, NULL);
}
