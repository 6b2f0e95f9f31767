/* SPDX-License-Identifier: MIT */
/* 32-bit paging, PSE 4 MiB pages and PAE paging (SDM vol. 3, 4.3-4.4), turned on and off from flat protected mode. */
#include "lib.h"

#define VA 0x40000000u
#define ALL (PTE_P | PTE_W | PTE_U)
static uint32_t *pd;
static uint64_t *pdpt;
static volatile uint32_t *const v = (volatile uint32_t *)VA;
static uint32_t pa, pb;

CODE(user_write, 32, "mov %eax, (%ebx); int3");
CODE(user_read, 32, "mov (%ebx), %eax; int3");

static void flush(void)
{
	write_cr3(read_cr3());
}

static unsigned try_read(uint32_t a)
{
	TRY("movl (%0), %%eax", : : "r"(a) : "eax", "memory");
	return trap.vector;
}
static unsigned try_write(uint32_t a)
{
	TRY("movl $0x5a5a, (%0)", : : "r"(a) : "memory");
	return trap.vector;
}

static unsigned user(const char *code, uint32_t ebx, struct ctx *c)
{
	static uint8_t stack[256];

	*c = user_ctx((ulong)code, (ulong)stack + 256);
	c->r[RBX] = ebx;
	return run(c);
}

static void legacy(void)
{
	uint32_t *pt = alloc_pages(1);
	struct ctx c;

	pd = alloc_pages(1);
	/* identity: 4 MiB pages for everything but [1 GiB, 3 GiB) */
	write_cr4(read_cr4() | CR4_PSE);
	for (uint32_t i = 0; i < 1024; i++)
		if (i < 256 || i >= 768)
			pd[i] = i << 22 | 0x87;
	pd[VA >> 22] = (uint32_t)pt | 7;
	write_cr3((uint32_t)pd);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
	CHECK("paging-on", read_cr0() & CR0_PG);
	CHECK_EQ("not-present", try_read(VA + 0x10), PF);
	CHECK_EQ("not-present-error", trap.error, 0);
	CHECK_EQ("not-present-cr2", trap.cr2, VA + 0x10);
	pt[0] = pa | 7;
	CHECK_EQ("mapped", try_write(VA), NO_TRAP);
	CHECK_EQ("mapped-memory", *(volatile uint32_t *)pa, 0x5a5a);
	CHECK_EQ("dirty-accessed", pt[0] & 0x60, 0x60);
	CHECK_EQ("pde-accessed", pd[VA >> 22] & 0x20, 0x20);
	pt[0] = pa | 5;
	invlpg(v);
	CHECK_EQ("read-only-wp", try_write(VA), PF);
	CHECK_EQ("read-only-wp-error", trap.error, 3);
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK_EQ("read-only-no-wp", try_write(VA), NO_TRAP);
	CHECK_EQ("read-only-no-wp-dirty", pt[0] & 0x40, 0x40);
	CHECK_EQ("user-read-only-no-wp", user(user_write, VA, &c), PF);
	CHECK_EQ("user-read-only-error", c.error, 7);
	write_cr0(read_cr0() | CR0_WP);
	CHECK_EQ("read-only-wp-again", try_write(VA), PF);
	pt[0] = pa | 3;
	invlpg(v);
	CHECK_EQ("user-supervisor-page", user(user_read, VA, &c), PF);
	CHECK_EQ("user-supervisor-page-error", c.error, 5);
	pt[0] = pa | 7;
	pd[VA >> 22] &= ~4u;
	flush();
	CHECK_EQ("user-supervisor-pde", user(user_read, VA, &c), PF);
	pd[VA >> 22] |= 4;
	flush();
	CHECK_EQ("user-ok", user(user_read, VA, &c), BP);
	/* a remap is seen after INVLPG */
	*(volatile uint32_t *)pb = 0xb;
	pt[0] = pb | 7;
	invlpg(v);
	CHECK_EQ("invlpg", v[0], 0xb);
	/* 4 MiB pages: A and D, reserved bits without PSE-36 range, split */
	pd[(VA >> 22) + 1] = 0x01000087 & ~0x60u;
	*(volatile uint32_t *)0x01000000 = 0x1010;
	*(volatile uint32_t *)0x013ffffc = 0x2020;
	CHECK_EQ("4m-first", *(volatile uint32_t *)(VA + 0x400000), 0x1010);
	CHECK_EQ("4m-last", *(volatile uint32_t *)(VA + 0x7ffffc), 0x2020);
	CHECK_EQ("4m-accessed", pd[(VA >> 22) + 1] & 0x60, 0x20);
	*(volatile uint32_t *)(VA + 0x400004) = 1;
	CHECK_EQ("4m-dirty", pd[(VA >> 22) + 1] & 0x60, 0x60);
	pd[(VA >> 22) + 1] = 0x01200087; /* bit 21 is reserved in a 4 MiB PDE */
	flush();
	CHECK_EQ("4m-reserved", try_read(VA + 0x400000), PF);
	CHECK_EQ("4m-reserved-error", trap.error, 9);
	/* without PSE the PS bit is ignored: the entry points to a table */
	pd[(VA >> 22) + 1] = (uint32_t)pt | 0x87;
	write_cr0(read_cr0() & ~CR0_PG);
	{
		/* tables without big pages: the first 16 MiB and the LAPIC are enough */
		uint32_t *pd2 = alloc_pages(1);

		for (unsigned i = 0; i < 4; i++) {
			uint32_t *t = alloc_pages(1);
			for (unsigned j = 0; j < 1024; j++)
				t[j] = (i << 22 | j << 12) | 7;
			pd2[i] = (uint32_t)t | 7;
		}
		pd2[VA >> 22] = (uint32_t)pt | 0x87;
		write_cr4(read_cr4() & ~CR4_PSE);
		write_cr3((uint32_t)pd2);
		write_cr0(read_cr0() | CR0_PG);
		CHECK_EQ("pse-off-ps-ignored", try_read(VA), NO_TRAP);
		write_cr0(read_cr0() & ~CR0_PG);
		write_cr4(read_cr4() | CR4_PSE);
	}
	/* paging off: physical again */
	CHECK_EQ("paging-off", *(volatile uint32_t *)pb, 0xb);
	/* page-crossing accesses and instructions, linear wrap at 4 GiB */
	write_cr3((uint32_t)pd);
	pt[0] = pa | 7;
	pt[1] = 0;
	write_cr0(read_cr0() | CR0_PG);
	CHECK_EQ("cross-second-missing", try_write(VA + 0xffe), PF);
	CHECK_EQ("cross-cr2", trap.cr2, VA + 0x1000);
	pt[1] = pb | 7;
	CHECK_EQ("cross", try_write(VA + 0xffe), NO_TRAP);
	CHECK_EQ("cross-low", *(volatile uint16_t *)(pa + 0xffe), 0x5a5a);
	CHECK_EQ("cross-high", *(volatile uint16_t *)pb, 0);
	write_cr0(read_cr0() & ~CR0_PG);
}

static void pae(void)
{
	uint64_t *pds[4], *pt = alloc_pages(1);
	struct ctx c;
	unsigned maxphy = maxphyaddr();
	bool nx = has_cpuid(0x80000001, 'd', 20);

	pdpt = alloc_pages(1);
	for (uint64_t i = 0; i < 4; i++) {
		pds[i] = alloc_pages(1);
		pdpt[i] = (uint32_t)pds[i] | 1;
		for (uint64_t j = 0; j < 512; j++)
			if (i == 0 || i == 3)
				pds[i][j] = (i << 30 | j << 21) | 0x87;
	}
	pds[1][0] = (uint32_t)pt | 7;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((uint32_t)pdpt);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
	CHECK_EQ("pae-not-present", try_read(VA), PF);
	CHECK_EQ("pae-not-present-error", trap.error, 0);
	pt[0] = pa | 7;
	CHECK_EQ("pae-mapped", try_write(VA), NO_TRAP);
	CHECK_EQ("pae-dirty", pt[0] & 0x60, 0x60);
	CHECK_EQ("pae-pdpte-unchanged", pdpt[1], (uint32_t)pds[1] | 1);
	CHECK_EQ("pae-user", user(user_write, VA, &c), BP);
	/* PDPTEs are loaded by MOV to CR3: changing one in memory does nothing until then */
	pdpt[1] = 0;
	invlpg(v);
	if (!is_amd()) /* an AMD CPU may read them at each walk (APM vol. 2, 5.2.3) */
		CHECK_EQ("pae-pdpte-cached", try_read(VA), NO_TRAP);
	flush();
	CHECK_EQ("pae-pdpte-reloaded", try_read(VA), PF);
	pdpt[1] = (uint32_t)pds[1] | 1;
	flush();
	CHECK_EQ("pae-pdpte-back", try_read(VA), NO_TRAP);
	/* reserved bits in a PDPTE: #GP by MOV CR3 */
	pdpt[1] = (uint32_t)pds[1] | 3;
	TRY("mov %0, %%cr3", : : "r"(pdpt) : "memory");
	if (is_amd() && trap.vector == NO_TRAP)
		CHECK_EQ("pae-pdpte-reserved", (try_read(VA), trap.error), 9);
	else
		CHECK_EQ("pae-pdpte-reserved", trap.vector, GP);
	pdpt[1] = (uint32_t)pds[1] | 1;
	flush();
	/* 2 MiB page */
	pds[1][1] = 0x01000000 | 0x87;
	*(volatile uint32_t *)0x011ffffc = 0x3030;
	CHECK_EQ("pae-2m", *(volatile uint32_t *)(VA + 0x3ffffc), 0x3030);
	CHECK_EQ("pae-2m-accessed", pds[1][1] & 0x60, 0x20);
	/* reserved address bits */
	if (maxphy < 52) {
		pt[1] = pa | 7 | 1ull << maxphy;
		CHECK_EQ("pae-reserved", try_read(VA + 0x1000), PF);
		CHECK_EQ("pae-reserved-error", trap.error, 9);
	}
	pt[1] = pa | 7 | 1ull << 62;
	flush();
	CHECK_EQ("pae-bit-62-reserved", try_read(VA + 0x1000), PF);
	CHECK_EQ("pae-bit-62-reserved-error", trap.error, 9);
	/* NX */
	if (nx) {
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x800);
		pt[2] = pa | 7 | PTE_NX;
		*(volatile uint8_t *)pa = 0xc3;
		TRY("call *%0", : : "r"(VA + 0x2000) : "memory");
		CHECK_EQ("pae-nx", trap.vector, PF);
		CHECK_EQ("pae-nx-error", trap.error, 0x11);
		pt[2] = pa | 7;
		invlpg((void *)(VA + 0x2000));
		TRY("call *%0", : : "r"(VA + 0x2000) : "memory");
		CHECK_EQ("pae-x", trap.vector, NO_TRAP);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~0x800ull);
		pt[2] = pa | 7 | PTE_NX;
		invlpg((void *)(VA + 0x2000));
		CHECK_EQ("pae-nx-reserved-without-nxe", try_read(VA + 0x2000), PF);
		CHECK_EQ("pae-nx-reserved-error", trap.error, 9);
	} else {
		SKIP("pae-nx", "not in CPUID");
	}
	/* memory above 4 GiB cannot be there in 64 MiB; the mapping of a high address is taken as unclaimed: all ones */
	if (maxphy > 32) {
		pt[3] = 0x800000000ull | 7;
		CHECK_EQ("pae-high-address", try_read(VA + 0x3000), NO_TRAP);
	}
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr4(read_cr4() & ~CR4_PAE);
}

static void smep_smap(void)
{
	uint32_t *pt = alloc_pages(1);

	if (!HAS_SMAP || !HAS_SMEP) {
		SKIP("smep-smap-32", "not in CPUID");
		return;
	}
	/* everything supervisor but VA */
	for (uint32_t i = 0; i < 1024; i++)
		if (pd[i] & 0x80)
			pd[i] &= ~4u;
	pd[VA >> 22] = (uint32_t)pt | 7;
	pt[0] = pa | 7;
	*(volatile uint8_t *)pa = 0xc3;
	write_cr3((uint32_t)pd);
	write_cr0(read_cr0() | CR0_PG);
	write_cr4(read_cr4() | CR4_SMEP | CR4_SMAP);
	CHECK_EQ("smap-32", try_read(VA), PF);
	CHECK_EQ("smap-32-error", trap.error, 1);
	TRY("call *%0", : : "r"(VA) : "memory");
	CHECK_EQ("smep-32", trap.vector, PF);
	CHECK_EQ("smep-32-error", trap.error, 0x11);
	asm volatile("stac");
	CHECK_EQ("stac-32", try_read(VA), NO_TRAP);
	asm volatile("clac");
	write_cr4(read_cr4() & ~(CR4_SMEP | CR4_SMAP));
	write_cr0(read_cr0() & ~CR0_PG);
}

void test_main(void)
{
	pa = (uint32_t)alloc_pages(1);
	pb = (uint32_t)alloc_pages(1);
	legacy();
	pae();
	smep_smap();
}
