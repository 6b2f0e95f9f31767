/* SPDX-License-Identifier: MIT */
/* 4-level paging (SDM vol. 3, 4.5-4.8): page sizes, rights, error codes, CR2, A/D bits, WP, NX, reserved bits. */
#include "lib.h"

#define VA TEST_VA
#define ALL (PTE_P | PTE_W | PTE_U)
static volatile uint64_t *const v = (volatile uint64_t *)VA;

CODE(user_read, 64, "mov (%rdi), %rax; int $0x80");
CODE(user_write, 64, "mov %rax, (%rdi); int $0x80");
CODE(user_jump, 64, "jmp *%rdi");
CODE(just_int, 64, "int $0x80");

/* Run user code at VA+0x10000; returns the vector. */
static struct ctx uc;
static unsigned user(char *code, size_t size, uint64_t rdi)
{
	uc = user_ctx(VA + 0x10000, VA + 0x12000);
	memcpy((void *)(VA + 0x10000), code, size);
	uc.r[RDI] = rdi;
	return run(&uc);
}
#define USER(code, rdi) user(code, CODE_SIZE(code), rdi)

static void rights(void)
{
	uint64_t pa = (uint64_t)alloc_pages(1);

	*page_entry(VA, 1) = 0;
	invlpg((void *)VA);
	TRY("mov (%0), %%eax", : : "r"(VA + 0x123) : "rax", "memory");
	CHECK_EQ("not-present-vector", trap.vector, PF);
	CHECK_EQ("not-present-error", trap.error, 0);
	CHECK_EQ("not-present-cr2", trap.cr2, VA + 0x123);
	CHECK_EQ("not-present-ip", trap.ip, trap.at);
	TRY("movl $1, (%0)", : : "r"(VA + 0xffc) : "memory");
	CHECK_EQ("not-present-write-error", trap.error, 2);
	CHECK_EQ("not-present-write-cr2", trap.cr2, VA + 0xffc);

	map_page(VA, pa, PTE_P); /* read-only, supervisor */
	write_cr0(read_cr0() & ~CR0_WP);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("wp-off-supervisor-write", trap.vector, NO_TRAP);
	write_cr0(read_cr0() | CR0_WP);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("wp-on-supervisor-write", trap.vector, PF);
	CHECK_EQ("wp-on-error", trap.error, 3);
	TRY("lock; addl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("rmw-faults-as-write", trap.error, 3);
	TRY("cmpxchg %%ecx, (%0)", : : "r"(VA), "a"(0), "c"(0) : "memory");
	CHECK_EQ("cmpxchg-faults-as-write", trap.error, 3);
	TRY("movl (%0), %%eax", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("read-only-read", trap.vector, NO_TRAP);

	map_page(VA, pa, PTE_P | PTE_W);
	CHECK_EQ("user-reads-supervisor", USER(user_read, VA + 8), PF);
	CHECK_EQ("user-reads-supervisor-error", uc.error, 5);
	CHECK_EQ("user-reads-supervisor-cr2", uc.cr2, VA + 8);
	CHECK_EQ("user-writes-supervisor", USER(user_write, VA + 8), PF);
	CHECK_EQ("user-writes-supervisor-error", uc.error, 7);
	CHECK_EQ("user-executes-supervisor", USER(user_jump, VA + 8), PF);
	CHECK_EQ("user-executes-supervisor-error", uc.error, 0x15);
	CHECK_EQ("user-executes-supervisor-ip", uc.ip, VA + 8);
	map_page(VA, pa, PTE_P | PTE_U);
	CHECK_EQ("user-reads-read-only", USER(user_read, VA), 0x80);
	CHECK_EQ("user-writes-read-only", USER(user_write, VA), PF);
	CHECK_EQ("user-writes-read-only-error", uc.error, 7);
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK_EQ("user-writes-read-only-wp-off", USER(user_write, VA), PF);
	write_cr0(read_cr0() | CR0_WP);
	*page_entry(VA, 1) = 0;
	invlpg((void *)VA);
	CHECK_EQ("user-not-present", USER(user_write, VA), PF);
	CHECK_EQ("user-not-present-error", uc.error, 6);

	/* Rights are combined over the levels. */
	map_page(VA, pa, ALL);
	*page_entry(VA, 2) &= ~PTE_W;
	write_cr3(read_cr3());
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("pde-read-only", trap.error, 3);
	*page_entry(VA, 2) |= PTE_W;
	*page_entry(VA, 3) &= ~PTE_W;
	write_cr3(read_cr3());
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("pdpte-read-only", trap.error, 3);
	*page_entry(VA, 3) |= PTE_W;
	write_cr3(read_cr3());
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("all-writable-again", trap.vector, NO_TRAP);
	*page_entry(VA, 2) &= ~PTE_U;
	write_cr3(read_cr3());
	*page_entry(VA, 2) |= PTE_U; /* so that the code page (same PDE) works: only until the TLB forgets */
	write_cr3(read_cr3());

	/* NX */
	map_page(VA, pa, ALL | PTE_NX);
	COPY_CODE(VA, just_int);
	CHECK_EQ("nx-user-vector", USER(user_jump, VA), PF);
	CHECK_EQ("nx-user-error", uc.error, 0x15);
	TRY("jmp *%0", : : "r"(VA) : "memory");
	CHECK_EQ("nx-supervisor-vector", trap.vector, PF);
	CHECK_EQ("nx-supervisor-error", trap.error, 0x11);
	CHECK_EQ("nx-supervisor-ip", trap.ip, VA);
	CHECK_EQ("nx-supervisor-cr2", trap.cr2, VA);
	CHECK_EQ("nx-readable", USER(user_read, VA), 0x80);
	map_page(VA, pa, ALL);
	CHECK_EQ("nx-cleared", USER(user_jump, VA), 0x80);
	*page_entry(VA, 2) |= PTE_NX;
	write_cr3(read_cr3());
	TRY("jmp *%0", : : "r"(VA) : "memory");
	CHECK_EQ("nx-in-pde", trap.error, 0x11);
	*page_entry(VA, 2) &= ~PTE_NX;
	write_cr3(read_cr3());
	/* With EFER.NXE clear, bit 63 is reserved. */
	map_page(VA, pa, ALL | PTE_NX);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~0x800ull);
	write_cr3(read_cr3());
	TRY("movl (%0), %%eax", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("nx-reserved-vector", trap.vector, PF);
	CHECK_EQ("nx-reserved-error", trap.error, 9);
	*page_entry(VA, 1) = 0;
	invlpg((void *)VA);
	TRY("jmp *%0", : : "r"(VA) : "memory");
	CHECK_EQ("fetch-error-without-nxe", trap.error, 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x800);
	write_cr3(read_cr3());
	TRY("jmp *%0", : : "r"(VA) : "memory");
	CHECK_EQ("fetch-error-with-nxe", trap.error, 0x10);
}

static void accessed_dirty(void)
{
	uint64_t pa = (uint64_t)alloc_pages(1);
	uint64_t *pte = page_entry(VA, 1), *pde = page_entry(VA, 2), *pdpte = page_entry(VA, 3), *pml4e = page_entry(VA, 4);

	*pde &= ~PTE_A;
	*pdpte &= ~PTE_A;
	*pml4e &= ~PTE_A;
	map_page(VA, pa, ALL);
	write_cr3(read_cr3());
	(void)v[0];
	CHECK_EQ("a-after-read", *pte & (PTE_A | PTE_D), PTE_A);
	CHECK("a-in-pde", *pde & PTE_A);
	CHECK("a-in-pdpte", *pdpte & PTE_A);
	CHECK("a-in-pml4e", *pml4e & PTE_A);
	CHECK_EQ("no-d-in-pde", *pde & PTE_D, 0);
	v[1] = 1;
	CHECK_EQ("d-after-write", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg((void *)VA);
	v[1] = 1;
	CHECK_EQ("ad-after-write-alone", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~PTE_D;
	invlpg((void *)VA);
	(void)v[0];
	v[0] = 1;
	CHECK("d-set-again", *pte & PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg((void *)VA);
	asm volatile("lock; orl $0, (%0)" : : "r"(VA) : "memory");
	CHECK("d-after-rmw", *pte & PTE_D);
	map_page(VA, pa, PTE_P);
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("no-d-after-faulting-write", *pte & PTE_D, 0);
	map_page(VA, pa, ALL);
	COPY_CODE(VA, just_int);
	map_page(VA, pa, ALL);
	CHECK_EQ("execute", USER(user_jump, VA), 0x80);
	CHECK_EQ("a-after-execute", *pte & (PTE_A | PTE_D), PTE_A);
}

static void big_pages(void)
{
	uint64_t pa = 0x2000000; /* 32 MiB: beyond everything allocated here */
	volatile uint64_t *p = (volatile uint64_t *)0x2000000;
	uint64_t big = 0x80000000; /* 2 GiB: its own PDPTE */
	uint64_t *pde = page_entry(big, 2);

	p[0] = 0x1111;
	p[0x3ffff] = 0x2222;
	p[512] = 0x3333;
	*pde = pa | ALL | PTE_PS;
	write_cr3(read_cr3());
	CHECK_EQ("2m-first", *(volatile uint64_t *)big, 0x1111);
	CHECK_EQ("2m-last", *(volatile uint64_t *)(big + 0x1ffff8), 0x2222);
	CHECK_EQ("2m-a", *pde & (PTE_A | PTE_D), PTE_A);
	*(volatile uint64_t *)(big + 4096) = 7;
	CHECK_EQ("2m-written", p[512], 7);
	CHECK_EQ("2m-d", *pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pde = 0;
	invlpg((void *)(big + 0x100000)); /* any address in the page flushes all of it */
	TRY("mov (%0), %%eax", : : "r"(big) : "rax", "memory");
	CHECK_EQ("2m-invlpg-anywhere", trap.vector, PF);
	TRY("mov (%0), %%eax", : : "r"(big + 4096) : "rax", "memory");
	CHECK_EQ("2m-invlpg-other-part", trap.vector, PF);
	*pde = pa | ALL | PTE_PS | 0x2000; /* reserved */
	write_cr3(read_cr3());
	TRY("mov (%0), %%eax", : : "r"(big) : "rax", "memory");
	CHECK_EQ("2m-reserved", trap.error, 9);
	*pde = pa | ALL | PTE_PS;
	write_cr3(read_cr3());
	/* a 2 MiB page split to 4 KiB */
	p[0] = 0x1111;
	(void)*(volatile uint64_t *)big;
	{
		uint64_t *pt = alloc_pages(1);
		for (unsigned i = 0; i < 512; i++)
			pt[i] = (pa + 4096 * (511 - i)) | ALL;
		*pde = (uint64_t)pt | ALL;
		write_cr3(read_cr3());
		CHECK_EQ("split-last", *(volatile uint64_t *)(big + 511 * 4096), 0x1111);
		CHECK_EQ("split-510", *(volatile uint64_t *)(big + 510 * 4096), 7);
	}
	*pde = 0;
	if (HAS_1G) {
		uint64_t *pdpte = page_entry(big, 3), old = *pdpte;

		*pdpte = ALL | PTE_PS;
		write_cr3(read_cr3());
		CHECK_EQ("1g-read", *(volatile uint64_t *)(big + pa), 0x1111);
		CHECK_EQ("1g-a", *pdpte & (PTE_A | PTE_D), PTE_A);
		*(volatile uint64_t *)(big + pa + 8) = 9;
		CHECK_EQ("1g-written", p[1], 9);
		CHECK("1g-d", *pdpte & PTE_D);
		*pdpte |= 0x2000;
		write_cr3(read_cr3());
		TRY("mov (%0), %%eax", : : "r"(big + pa) : "rax", "memory");
		CHECK_EQ("1g-reserved", trap.error, 9);
		*pdpte = old;
		write_cr3(read_cr3());
	} else {
		SKIP("1g", "no 1 GiB pages");
	}
	/* a PML4 entry has no PS: the bit is reserved */
	*page_entry(0x8000000000, 4) = ALL | PTE_PS;
	write_cr3(read_cr3());
	TRY("mov (%0), %%eax", : : "r"(0x8000000000ull) : "rax", "memory");
	CHECK_EQ("pml4e-ps-reserved", trap.error, 9);
	*page_entry(0x8000000000, 4) = 0;
	write_cr3(read_cr3());
}

static void reserved_bits(void)
{
	uint64_t pa = (uint64_t)alloc_pages(1);
	unsigned m = maxphyaddr();

	if (m < 52) {
		map_page(VA, pa | 1ull << m, ALL);
		TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
		CHECK_EQ("beyond-maxphyaddr-pte", trap.error, 9);
		TRY("movl $0, (%0)", : : "r"(VA) : "rax", "memory");
		CHECK_EQ("beyond-maxphyaddr-pte-write", trap.error, 0xb);
		map_page(VA, pa | 1ull << 51, ALL);
		TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
		CHECK_EQ("bit-51-pte", trap.error, 9);
		map_page(VA, pa, ALL);
		*page_entry(VA, 3) |= 1ull << m;
		write_cr3(read_cr3());
		TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
		CHECK_EQ("beyond-maxphyaddr-pdpte", trap.error, 9);
		*page_entry(VA, 3) &= ~(1ull << m);
		write_cr3(read_cr3());
	} else {
		SKIP("beyond-maxphyaddr", "MAXPHYADDR is 52");
	}
	/* Software-available bits are ignored. */
	map_page(VA, pa | 0xe00 | 0x07f0000000000000ull, ALL);
	TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("ignored-bits", trap.vector, NO_TRAP);
	/* A not-present entry: its other bits mean nothing. */
	*page_entry(VA, 1) = ~PTE_P;
	invlpg((void *)VA);
	TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("not-present-all-ones", trap.error, 0);
	map_page(VA, pa, ALL);
}

static void crossing(void)
{
	uint64_t a = (uint64_t)alloc_pages(1), b = (uint64_t)alloc_pages(1);

	map_page(VA, a, ALL);
	map_page(VA + 4096, b, ALL);
	*(volatile uint64_t *)(VA + 4092) = 0x1122334455667788;
	CHECK_EQ("cross-low", *(volatile uint32_t *)(a + 4092), 0x55667788);
	CHECK_EQ("cross-high", *(volatile uint32_t *)b, 0x11223344);
	CHECK_EQ("cross-read", *(volatile uint64_t *)(VA + 4092), 0x1122334455667788);
	asm volatile("lock; addq $1, (%0)" : : "r"(VA + 4092) : "memory");
	CHECK_EQ("cross-locked", *(volatile uint64_t *)(VA + 4092), 0x1122334455667789);
	/* the second page faults: nothing is stored; CR2 is in the second page */
	*page_entry(VA + 4096, 1) = 0;
	invlpg((void *)(VA + 4096));
	TRY("movq $-1, (%0)", : : "r"(VA + 4092) : "memory");
	CHECK_EQ("cross-fault", trap.vector, PF);
	CHECK_EQ("cross-fault-error", trap.error, 2);
	CHECK_EQ("cross-fault-cr2", trap.cr2, VA + 4096);
	CHECK_EQ("cross-fault-nothing-stored", *(volatile uint32_t *)(a + 4092), 0x55667789);
	TRY("mov (%0), %%rax", : : "r"(VA + 4089) : "rax", "memory");
	CHECK_EQ("cross-read-cr2", trap.cr2, VA + 4096);
	map_page(VA + 4096, b, PTE_P);
	TRY("movw $-1, (%0)", : : "r"(VA + 4095) : "memory");
	CHECK_EQ("cross-read-only-error", trap.error, 3);
	CHECK_EQ("cross-read-only-cr2", trap.cr2, VA + 4096);
	CHECK_EQ("cross-read-only-nothing-stored", *(volatile uint8_t *)(a + 4095), 0x55);
	/* the first page faults */
	map_page(VA + 4096, b, ALL);
	*page_entry(VA, 1) = 0;
	invlpg((void *)VA);
	TRY("movq $-1, (%0)", : : "r"(VA + 4092) : "memory");
	CHECK_EQ("cross-first-cr2", trap.cr2, VA + 4092);
	CHECK_EQ("cross-first-nothing-stored", *(volatile uint32_t *)b, 0x11223344);
	/* a page-crossing instruction whose second page is missing */
	map_page(VA, a, ALL);
	*page_entry(VA + 4096, 1) = 0;
	invlpg((void *)(VA + 4096));
	memcpy((void *)(VA + 4094), "\x48\xb8", 2); /* mov $imm64, %rax */
	TRY("jmp *%0", : : "r"(VA + 4094) : "rax", "memory");
	CHECK_EQ("fetch-cross-vector", trap.vector, PF);
	CHECK_EQ("fetch-cross-ip", trap.ip, VA + 4094);
	CHECK_EQ("fetch-cross-cr2", trap.cr2, VA + 4096);
	CHECK_EQ("fetch-cross-error", trap.error, 0x10);
	/* an instruction that ends just before a missing page is executed */
	memcpy((void *)(VA + 4093), "\xcd\x80", 2);
	memcpy((void *)(VA + 4094), "\xcd\x80", 2);
	uc = user_ctx(VA + 4094, VA);
	CHECK_EQ("fetch-last-bytes", run(&uc), 0x80);
	CHECK_EQ("fetch-last-bytes-ip", uc.ip, VA + 4096);
}

static void global_pages(void)
{
	uint64_t a = (uint64_t)alloc_pages(1), b = (uint64_t)alloc_pages(1);

	*(volatile uint64_t *)a = 0xa;
	*(volatile uint64_t *)b = 0xb;
	map_page(VA, a, ALL);
	CHECK_EQ("map-a", v[0], 0xa);
	*page_entry(VA, 1) = b | ALL;
	write_cr3(read_cr3());
	CHECK_EQ("cr3-flushes", v[0], 0xb);
	*page_entry(VA, 1) = a | ALL;
	invlpg((void *)(VA + 4095));
	CHECK_EQ("invlpg-flushes", v[0], 0xa);
	/* Global entries may survive MOV to CR3, must not survive INVLPG or a change of CR4.PGE. */
	write_cr4(read_cr4() | CR4_PGE);
	map_page(VA, a, ALL | PTE_G);
	(void)v[0];
	*page_entry(VA, 1) = b | ALL | PTE_G;
	invlpg((void *)VA);
	CHECK_EQ("global-invlpg", v[0], 0xb);
	*page_entry(VA, 1) = a | ALL | PTE_G;
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK_EQ("global-pge-off", v[0], 0xa);
	*page_entry(VA, 1) = b | ALL | PTE_G;
	write_cr4(read_cr4() | CR4_PGE);
	CHECK_EQ("global-pge-on", v[0], 0xb);
	write_cr4(read_cr4() & ~CR4_PGE);
	/* Raising rights needs no flush: a fault must re-walk (SDM vol. 3, 4.10.4.3: spurious faults only once). */
	map_page(VA, a, PTE_P);
	(void)v[0];
	*page_entry(VA, 1) = a | ALL;
	TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	if (trap.vector == PF)
		TRY("movl $1, (%0)", : : "r"(VA) : "memory");
	CHECK_EQ("rights-raised-without-flush", trap.vector, NO_TRAP);
	*page_entry(VA, 1) = 0;
	invlpg((void *)VA);
	TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
	*page_entry(VA, 1) = b | ALL;
	TRY("mov (%0), %%eax", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("not-present-is-never-cached", trap.vector, NO_TRAP);
	/* A page table that maps itself: writes through it take effect after invlpg. */
	map_page(VA + 0x2000, (uint64_t)page_entry(VA, 1) & PTE_ADDR, ALL);
	((volatile uint64_t *)(VA + 0x2000))[(VA >> 12) & 511] = a | ALL;
	invlpg((void *)VA);
	*(volatile uint64_t *)a = 0xaa;
	CHECK_EQ("table-written-through-mapping", v[0], 0xaa);
}

void test_main(void)
{
	map_user(VA + 0x10000, 2);
	rights();
	accessed_dirty();
	big_pages();
	reserved_bits();
	crossing();
	global_pages();
}
