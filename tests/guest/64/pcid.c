/* SPDX-License-Identifier: MIT */
/* PCIDs and INVPCID (SDM vol. 3, 4.10): only what must hold; whether old entries survive is the CPU's affair. */
#include "lib.h"

#define VA TEST_VA
#define ALL (PTE_P | PTE_W | PTE_U)
static volatile uint64_t *const v = (volatile uint64_t *)VA;

static void invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
	struct {
		uint64_t pcid, address;
	} d = { pcid, address };

	asm volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}

static uint64_t clone_tables(void)
{
	uint64_t *pml4 = alloc_pages(1), *pdpt = alloc_pages(1);

	memcpy(pml4, (void *)(read_cr3() & PTE_ADDR), 4096);
	memcpy(pdpt, (void *)(pml4[0] & PTE_ADDR), 4096);
	pml4[0] = (uint64_t)pdpt | ALL;
	pdpt[1] = 0;
	return (uint64_t)pml4;
}

void test_main(void)
{
	uint64_t a = (uint64_t)alloc_pages(1), b = (uint64_t)alloc_pages(1), c = (uint64_t)alloc_pages(1);
	uint64_t base = read_cr3() & PTE_ADDR, other;
	uint64_t *pte1, *pte2;

	if (!HAS_PCID) {
		TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
		CHECK_EQ("pcide-reserved", trap.vector, GP);
		SKIP("pcid", "not in CPUID");
		return;
	}
	*(volatile uint64_t *)a = 0xa;
	*(volatile uint64_t *)b = 0xb;
	*(volatile uint64_t *)c = 0xc;
	/* CR4.PCIDE may be set only with CR3[11:0] = 0 */
	write_cr3(base | 8);
	TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
	CHECK_EQ("pcide-needs-pcid-0", trap.vector, GP);
	write_cr3(base);
	TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
	CHECK_EQ("pcide-set", trap.vector, NO_TRAP);
	TRY("mov %0, %%cr0", : : "r"(read_cr0() & ~CR0_PG) : "memory");
	CHECK_EQ("pg-off-with-pcide", trap.vector, GP);

	other = clone_tables();
	write_cr3(base | 1);
	map_page(VA, a, ALL);
	pte1 = page_entry(VA, 1);
	CHECK_EQ("space-1", v[0], 0xa);
	write_cr3(other | 2);
	map_page(VA, b, ALL);
	pte2 = page_entry(VA, 1);
	CHECK("spaces-differ", pte1 != pte2);
	CHECK_EQ("space-2", v[0], 0xb);
	CHECK_EQ("cr3-reads-pcid", read_cr3(), other | 2);
	write_cr3((base | 1) | 1ull << 63);
	CHECK_EQ("space-1-noflush", v[0], 0xa);
	CHECK_EQ("bit-63-reads-0", read_cr3(), base | 1);
	write_cr3((other | 2) | 1ull << 63);
	CHECK_EQ("space-2-noflush", v[0], 0xb);
	/* a write with bit 63 clear flushes that PCID */
	*pte1 = c | ALL;
	write_cr3(base | 1);
	CHECK_EQ("load-flushes-pcid", v[0], 0xc);
	/* and INVLPG the current PCID's entries */
	*pte1 = a | ALL;
	invlpg((void *)VA);
	CHECK_EQ("invlpg-current", v[0], 0xa);
	/* many switches keep both right */
	{
		unsigned bad = 0;
		for (unsigned i = 0; i < 1000; i++) {
			write_cr3((other | 2) | 1ull << 63);
			bad += v[0] != 0xb;
			write_cr3((base | 1) | 1ull << 63);
			bad += v[0] != 0xa;
		}
		CHECK_EQ("many-switches", bad, 0);
	}
	/* more PCIDs than any TLB tag file holds */
	{
		unsigned bad = 0;
		for (unsigned i = 3; i < 600; i++) {
			write_cr3((i & 1 ? base : other) | i);
			bad += v[0] != (i & 1 ? 0xau : 0xbu);
		}
		CHECK_EQ("many-pcids", bad, 0);
		/* PCID reuse with another table, flushing */
		write_cr3(other | 3);
		CHECK_EQ("pcid-reused", v[0], 0xb);
	}
	if (HAS_INVPCID) {
		write_cr3(base | 1);
		(void)v[0];
		*pte1 = c | ALL;
		invpcid(0, 1, VA);
		CHECK_EQ("invpcid-address", v[0], 0xc);
		*pte1 = a | ALL;
		invpcid(1, 1, 0);
		CHECK_EQ("invpcid-single", v[0], 0xa);
		*pte1 = c | ALL;
		invpcid(2, 0, 0);
		CHECK_EQ("invpcid-all", v[0], 0xc);
		*pte1 = a | ALL;
		invpcid(3, 0, 0);
		CHECK_EQ("invpcid-all-nonglobal", v[0], 0xa);
		/* from another PCID */
		*pte1 = c | ALL;
		write_cr3((other | 2) | 1ull << 63);
		invpcid(1, 1, 0);
		write_cr3((base | 1) | 1ull << 63);
		CHECK_EQ("invpcid-other-space", v[0], 0xc);
		*pte1 = a | ALL;
		write_cr3((other | 2) | 1ull << 63);
		invpcid(0, 1, VA);
		write_cr3((base | 1) | 1ull << 63);
		CHECK_EQ("invpcid-other-address", v[0], 0xa);
		/* global pages: type 2 drops them */
		write_cr4(read_cr4() | CR4_PGE);
		map_page(VA, a, ALL | PTE_G);
		(void)v[0];
		*pte1 = b | ALL | PTE_G;
		invpcid(2, 0, 0);
		CHECK_EQ("invpcid-all-drops-global", v[0], 0xb);
		write_cr4(read_cr4() & ~CR4_PGE);
		map_page(VA, a, ALL);
		{
			struct {
				uint64_t p, ad;
			} d = { 0x1000, 0 };
			TRY("invpcid %0, %1", : : "m"(d), "r"(1ul) : "memory");
			CHECK_EQ("invpcid-reserved-pcid", trap.vector, GP);
			d.p = 1;
			TRY("invpcid %0, %1", : : "m"(d), "r"(4ul) : "memory");
			CHECK_EQ("invpcid-bad-type", trap.vector, GP);
			d.ad = 1ull << 60;
			TRY("invpcid %0, %1", : : "m"(d), "r"(0ul) : "memory");
			CHECK_EQ("invpcid-noncanonical", trap.vector, GP);
		}
	} else {
		SKIP("invpcid", "not in CPUID");
	}
	/* turning PCIDE off flushes everything */
	*pte1 = c | ALL;
	write_cr3((base | 1) | 1ull << 63);
	write_cr3(base);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	CHECK_EQ("pcide-off-flushes", v[0], 0xc);
	TRY("mov %0, %%cr3", : : "r"(base | 1ull << 63) : "memory");
	CHECK_EQ("bit-63-without-pcide", trap.vector, GP);
}
