/* SPDX-License-Identifier: MIT */
/* Self-modifying code (SDM vol. 3, 8.1.3, 11.6): every shape in which code changes under a translator's feet. */
#include "lib.h"

#define VA TEST_VA
typedef uint64_t fn0(void);
typedef uint64_t fn1(uint64_t);

static uint8_t *code; /* a page of its own, identity mapped */

static void put_return(uint8_t *p, uint32_t v) /* mov $v, %eax; ret */
{
	p[0] = 0xb8;
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}
static uint64_t call(void *p)
{
	barrier();
	return ((fn0 *)p)();
}

static void simple(void)
{
	unsigned bad = 0;

	put_return(code, 1);
	CHECK_EQ("first", call(code), 1);
	put_return(code, 2);
	CHECK_EQ("rewritten", call(code), 2);
	for (uint32_t i = 0; i < 3000; i++) {
		put_return(code, i);
		bad += call(code) != i;
	}
	CHECK_EQ("rewritten-3000-times", bad, 0);
	/* a JIT: new code at ever new places of one page, the old still used */
	bad = 0;
	for (uint32_t i = 0; i < 3000; i++) {
		put_return(code + 8 * (i % 500), i);
		bad += call(code + 8 * (i % 500)) != i;
		if (i >= 250)
			bad += call(code + 8 * ((i - 250) % 500)) != i - 250;
	}
	CHECK_EQ("jit-loop", bad, 0);
	/* one byte of an immediate, of each size and alignment of store */
	bad = 0;
	put_return(code, 0);
	for (unsigned i = 0; i < 4; i++) {
		*(volatile uint8_t *)(code + 1 + i) = 0x10 + i;
		bad += (call(code) >> (8 * i) & 0xff) != 0x10 + i;
	}
	CHECK_EQ("single-bytes", bad, 0);
	put_return(code + 32, 0x11223344);
	call(code + 32);
	*(volatile uint64_t *)(code + 26) = 0xccb8909090909090; /* ends two bytes into the function: b8 cc */
	CHECK_EQ("overlapping-store", call(code + 32), 0x112233cc);
	/* rep movs over the code */
	put_return(code + 64, 5);
	call(code + 64);
	put_return(code + 128, 6);
	memcpy(code + 64, code + 128, 6);
	CHECK_EQ("rep-movs-over-code", call(code + 64), 6);
	/* locked operations over the code */
	put_return(code + 64, 5);
	call(code + 64);
	asm volatile("lock addb $2, (%0)" : : "r"(code + 65) : "memory");
	CHECK_EQ("locked-add-over-code", call(code + 64), 7);
	asm volatile("xchg %0, (%1)" : : "r"(9), "r"(code + 65) : "memory");
	CHECK_EQ("xchg-over-code", call(code + 64), 9);
	{
		uint64_t lo, hi;
		memcpy(code + 64, "\x90\x90\x90\x90\x90\x90\x90\x90\xb8\x01\x00\x00\x00\xc3\x90\x90", 16);
		call(code + 64);
		memcpy(&lo, code + 64, 8);
		memcpy(&hi, code + 72, 8);
		asm volatile("lock cmpxchg16b (%0)" : : "r"(code + 64), "a"(lo), "d"(hi), "b"(lo), "c"((hi & ~0xff00ull) | 0x4400) : "memory", "cc");
		CHECK_EQ("cmpxchg16b-over-code", call(code + 64), 0x44);
	}
	/* push onto code, call's own push */
	put_return(code + 512, 3);
	call(code + 512);
	asm volatile("mov %%rsp, %%rbx; lea 520(%0), %%rsp; pushq %1; mov %%rbx, %%rsp" : : "r"(code), "r"(0xc300000077b8ul) : "rbx", "memory");
	CHECK_EQ("push-over-code", call(code + 512), 0x77);
}

static void same_block(void)
{
	uint64_t r;

	/* an instruction changes the next one in the same straight line */
	asm volatile("movb $7, 1f+1(%%rip)\n1: mov $0, %%eax\n" : "=a"(r) : : "memory");
	CHECK_EQ("next-instruction", (uint32_t)r, 7);
	/* twice through: the second pass changes it differently */
	{
		uint64_t sum = 0;
		asm volatile("mov $3, %%ecx\n2: movb %%cl, 1f+1(%%rip)\n1: mov $0, %%eax\nadd %%rax, %0\ndec %%ecx\njnz 2b" : "+r"(sum) : : "rax", "rcx", "memory", "cc");
		CHECK_EQ("next-instruction-in-loop", sum, 6);
	}
	/* an instruction changes itself: it finishes as it was */
	asm volatile("mov $0, %%eax\nlea 1f(%%rip), %%rdx\n1: movl $0x90909090, (%%rdx)\nnop\nmov $5, %%eax" : "=a"(r) : : "rdx", "memory");
	CHECK_EQ("itself", (uint32_t)r, 5);
	/* it changes an instruction that comes earlier, then loops over it */
	asm volatile("xor %%eax, %%eax; xor %%ecx, %%ecx\n"
		     "1: add $1, %%eax\n"	   /* 83 c0 01 */
		     "inc %%ecx\n"
		     "movb $10, 1b+2(%%rip)\n"
		     "cmp $4, %%ecx; jne 1b" : "=a"(r) : : "rcx", "memory", "cc");
	CHECK_EQ("earlier-in-loop", (uint32_t)r, 31);
	/* REP STOS that overwrites what follows it with NOPs */
	asm volatile("mov $1, %%ebx; lea 1f+2(%%rip), %%rdi; mov $0x90, %%al; mov $10, %%ecx\n"
		     "jmp 1f\n.align 64\n"
		     "1: rep stosb\n"
		     "xor %%ebx, %%ebx; xor %%ebx, %%ebx; xor %%ebx, %%ebx; xor %%ebx, %%ebx; xor %%ebx, %%ebx\n" : "=b"(r) : : "rax", "rcx", "rdi", "memory", "cc");
	CHECK_EQ("rep-stos-over-next", r, 1);
}

static void pages(void)
{
	uint64_t a = (uint64_t)alloc_pages(2), b = (uint64_t)alloc_pages(1);
	unsigned bad = 0;

	/* through an alias */
	map_page(VA, a, PTE_P | PTE_W);
	put_return((uint8_t *)VA, 1);
	CHECK_EQ("alias-first", call((void *)VA), 1);
	put_return((uint8_t *)a, 2);
	CHECK_EQ("alias-written", call((void *)VA), 2);
	map_page(VA + 0x1000, a, PTE_P | PTE_W);
	put_return((uint8_t *)(VA + 0x1000), 3);
	CHECK_EQ("second-alias", call((void *)VA), 3);
	CHECK_EQ("second-alias-runs", call((void *)(VA + 0x1000)), 3);
	/* another page at the same address */
	put_return((uint8_t *)b, 0x44);
	map_page(VA, b, PTE_P | PTE_W);
	CHECK_EQ("remapped", call((void *)VA), 0x44);
	for (unsigned i = 0; i < 200; i++) {
		map_page(VA, i & 1 ? b : a, PTE_P | PTE_W);
		bad += call((void *)VA) != (i & 1 ? 0x44u : 3u);
	}
	CHECK_EQ("remapped-back-and-forth", bad, 0);
	/* a direct jump from a page to a page that is then remapped (chained translations) */
	{
		uint8_t *j = (uint8_t *)(VA + 0x3000);
		int32_t rel;

		map_user(VA + 0x3000, 1);
		j[0xffb] = 0xe9; /* jmp rel32 to VA + 0x4000 + 0x10 */
		rel = 0x10;
		memcpy(j + 0xffc, &rel, 4);
		put_return((uint8_t *)a + 0x10, 0x55);
		put_return((uint8_t *)b + 0x10, 0x66);
		bad = 0;
		for (unsigned i = 0; i < 100; i++) {
			map_page(VA + 0x4000, i & 1 ? a : b, PTE_P | PTE_W);
			bad += call(j + 0xffb) != (i & 1 ? 0x55u : 0x66u);
		}
		CHECK_EQ("jump-to-remapped-page", bad, 0);
		/* fall through over the page's end */
		j[0xffe] = 0x90;
		j[0xfff] = 0x90;
		put_return((uint8_t *)a, 0x77);
		put_return((uint8_t *)b, 0x88);
		bad = 0;
		for (unsigned i = 0; i < 100; i++) {
			map_page(VA + 0x4000, i & 1 ? a : b, PTE_P | PTE_W);
			bad += call(j + 0xffe) != (i & 1 ? 0x77u : 0x88u);
		}
		CHECK_EQ("fall-into-remapped-page", bad, 0);
		/* an instruction across the boundary: second half changed by store, then by remapping */
		j[0xffe] = 0xb8;
		j[0xfff] = 0x01;
		memcpy((void *)a, "\x02\x00\x00\xc3", 4);
		memcpy((void *)b, "\x03\x00\x00\xc3", 4);
		map_page(VA + 0x4000, a, PTE_P | PTE_W);
		CHECK_EQ("crossing", call(j + 0xffe), 0x201);
		*(volatile uint8_t *)a = 5;
		CHECK_EQ("crossing-second-half-written", call(j + 0xffe), 0x501);
		j[0xfff] = 7;
		CHECK_EQ("crossing-first-half-written", call(j + 0xffe), 0x507);
		map_page(VA + 0x4000, b, PTE_P | PTE_W);
		CHECK_EQ("crossing-remapped", call(j + 0xffe), 0x307);
		*page_entry(VA + 0x4000, 1) = 0;
		invlpg((void *)(VA + 0x4000));
		TRY("call *%0", : : "r"(j + 0xffe) : "rax", "memory");
		CHECK_EQ("crossing-unmapped", trap.vector, PF);
		CHECK_EQ("crossing-unmapped-cr2", trap.cr2, VA + 0x4000);
		CHECK_EQ("crossing-unmapped-error", trap.error, 0x10);
		/* a loop that falls into a page which is unmapped meanwhile */
		map_page(VA + 0x4000, a, PTE_P | PTE_W);
	}
	/* execute rights withdrawn and given back */
	map_page(VA, a, PTE_P | PTE_W);
	put_return((uint8_t *)a, 3);
	call((void *)VA);
	map_page(VA, a, PTE_P | PTE_W | PTE_NX);
	TRY("call *%0", : : "r"(VA) : "rax", "memory");
	CHECK_EQ("nx-after-execution", trap.vector, PF);
	map_page(VA, a, PTE_P | PTE_W);
	CHECK_EQ("x-again", call((void *)VA), 3);
	/* CR3 with other code at the same address */
	{
		uint64_t *pml4 = alloc_pages(1), *pdpt = alloc_pages(1), old = read_cr3();

		memcpy(pml4, (void *)(old & PTE_ADDR), 4096);
		memcpy(pdpt, (void *)(pml4[0] & PTE_ADDR), 4096);
		pml4[0] = (uint64_t)pdpt | 7;
		pdpt[1] = 0;
		write_cr3((uint64_t)pml4);
		map_page(VA, b, PTE_P | PTE_W);
		put_return((uint8_t *)b, 0x99);
		bad = 0;
		for (unsigned i = 0; i < 200; i++) {
			write_cr3(i & 1 ? (uint64_t)pml4 : old);
			bad += call((void *)VA) != (i & 1 ? 0x99u : 3u);
		}
		CHECK_EQ("two-address-spaces", bad, 0);
		write_cr3(old);
	}
	/* the same physical page, written in one mapping while it is read-only executable in another */
	map_page(VA, a, PTE_P);
	bad = 0;
	for (uint32_t i = 0; i < 500; i++) {
		put_return((uint8_t *)a, i);
		bad += call((void *)VA) != i;
	}
	CHECK_EQ("read-only-alias-executed", bad, 0);
}

static void data_beside_code(void)
{
	/* code that counts in its own page: must work, and must not take seconds */
	static const uint8_t text[] = {
		0x48, 0xff, 0x05, 0x39, 0x00, 0x00, 0x00, /* incq 0x39(%rip): at +0x40 */
		0xff, 0xcf,				  /* dec %edi */
		0x75, 0xf5,				  /* jnz -11 */
		0xc3
	};
	uint64_t t = rdtsc();

	memset(code, 0, 4096);
	memcpy(code, text, sizeof(text));
	((fn1 *)code)(200000);
	CHECK_EQ("counter-beside-code", *(uint64_t *)(code + 0x40), 200000);
	t = rdtsc() - t;
	CHECK("counter-beside-code-speed", t < tsc_per_ms() * 3000);
	/* a stack on the code page */
	memcpy(code, "\x48\x89\xe2\x48\x8d\x25\xf9\x0f\x00\x00\x6a\x21\x58\x48\x89\xd4\xc3", 17);
	/* mov %rsp,%rdx; lea 0xff9(%rip),%rsp; push $0x21; pop %rax; mov %rdx,%rsp; ret */
	memcpy(code + 6, "\xf0\x07\x00\x00", 4);
	CHECK_EQ("stack-beside-code", call(code), 0x21);
}

void test_main(void)
{
	tsc_per_ms();
	code = alloc_pages(1);
	simple();
	same_block();
	pages();
	data_beside_code();
}
