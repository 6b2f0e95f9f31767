/* SPDX-License-Identifier: MIT */
/* See lib.h. Printing, assertions, traps, paging, APs. Chips are in chips.c. */
#include "lib.h"

unsigned test_failures;
volatile struct trap_record trap;
volatile ulong recover_ip, recover_at, recover_sp;
static trap_handler *handlers[256];
struct tss tss0;
extern struct ctx *volatile run_ctx;
extern char run_return[];
extern char image_end[];
extern volatile char boot_cmdline[];
static uint8_t trap_stack[STACK_SIZE] __attribute__((aligned(16)));

/* ---- printing ---- */
static volatile int print_lock;

static void put_char(char c)
{
	for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x20); i++)
		;
	outb(0x3f8, c);
}

static void put_number(uint64_t v, unsigned base, unsigned width, char pad)
{
	char buf[24];
	unsigned n = 0;

	/* 64-bit division would need libgcc in 32-bit guests: decimal numbers are cut to 32 bits there. */
	do {
		if (base == 16) {
			buf[n++] = "0123456789abcdef"[v & 15];
			v >>= 4;
		} else {
			ulong u = v;
			buf[n++] = '0' + u % 10;
			v = u / 10;
		}
	} while (v);
	while (width-- > n && width < 32)
		put_char(pad);
	while (n)
		put_char(buf[--n]);
}

static void vprint(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		unsigned width = 0, longs = 0;
		char pad = ' ';
		uint64_t v;

		if (*fmt != '%') {
			if (*fmt == '\n')
				put_char('\r');
			put_char(*fmt);
			continue;
		}
		if (*++fmt == '0')
			pad = '0';
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + *fmt++ - '0';
		while (*fmt == 'l')
			longs++, fmt++;
		switch (*fmt) {
		case 's': {
			const char *s = va_arg(ap, const char *);
			while (*s)
				put_char(*s++);
			break;
		}
		case 'c':
			put_char(va_arg(ap, int));
			break;
		case 'd':
		case 'u':
		case 'x':
		case 'p':
			if (*fmt == 'p')
				longs = 1;
			v = longs == 2 ? va_arg(ap, unsigned long long) :
			    longs	? va_arg(ap, unsigned long) :
					  va_arg(ap, unsigned);
			if (*fmt == 'd' && !longs && (int)v < 0) {
				put_char('-');
				v = -(int)v;
			}
			put_number(v, *fmt == 'x' || *fmt == 'p' ? 16 : 10, width, pad);
			break;
		default:
			put_char(*fmt);
		}
	}
}

static void lock_print(void)
{
	while (__sync_lock_test_and_set(&print_lock, 1))
		pause_cpu();
}

void print(const char *fmt, ...)
{
	va_list ap;

	lock_print();
	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
	__sync_lock_release(&print_lock);
}

void test_check(bool ok, const char *name, const char *what)
{
	if (ok) {
		print("ok %s\n", name);
	} else {
		test_failures++;
		print("FAIL %s: %s\n", name, what);
	}
}

void test_check_eq(uint64_t got, uint64_t want, const char *name, const char *what)
{
	if (got == want) {
		print("ok %s\n", name);
	} else {
		test_failures++;
		print("FAIL %s: %s is 0x%llx, should be 0x%llx\n", name, what, (unsigned long long)got,
		      (unsigned long long)want);
	}
}

void test_skip(const char *name, const char *reason)
{
	print("SKIP %s: %s\n", name, reason);
}

void test_end(void)
{
	print("DONE\n");
	for (;;) {
		outl(0xf4, test_failures != 0);
		asm volatile("cli; hlt");
	}
}

void *memset(void *p, int c, size_t n)
{
	void *d = p;
	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
	void *r = d;
	asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return r;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

bool cmdline_has(const char *word)
{
	const char *s = (const char *)boot_cmdline;
	size_t n = strlen(word);

	for (; *s; s++)
		if (!memcmp(s, word, n))
			return true;
	return false;
}

/* ---- features ---- */
bool is_amd(void)
{
	uint32_t b = cpuid(0, 0).b;

	return b == 0x68747541 || b == 0x6f677948;
}

bool has_cpuid(uint32_t leaf, char reg, unsigned bit)
{
	struct cpuid r;

	if (cpuid(leaf & 0x80000000, 0).a < leaf)
		return false;
	r = cpuid(leaf, 0);
	return ((reg == 'a' ? r.a : reg == 'b' ? r.b : reg == 'c' ? r.c : r.d) >> bit) & 1;
}

bool is_tcg(void)
{
	return cpuid(0x40000000, 0).b == 0x54474354;
}

unsigned maxphyaddr(void)
{
	if (cpuid(0x80000000, 0).a >= 0x80000008)
		return cpuid(0x80000008, 0).a & 0xff;
	return 36;
}

/* ---- traps ---- */
#ifdef __x86_64__
struct idt_entry idt[256] __attribute__((aligned(16)));

void set_gate(unsigned vector, void *handler, unsigned dpl, unsigned ist)
{
	uint64_t a = (uint64_t)handler;

	idt[vector] = (struct idt_entry){ a & 0xffff, SEL_CODE, ist, 0x8e | dpl << 5, a >> 16 & 0xffff, a >> 32, 0 };
}
#else
uint64_t idt[256] __attribute__((aligned(16)));

void set_gate(unsigned vector, void *handler, unsigned dpl, unsigned sel)
{
	idt[vector] = gate32(sel ? sel : SEL_CODE, (ulong)handler, 0x8e | dpl << 5, 0);
}
#endif

void reset_gate(unsigned vector)
{
	set_gate(vector, trap_stubs + 16 * vector, vector == BP || vector == OF || vector == 0x80 ? 3 : 0, 0);
}

void set_handler(unsigned vector, trap_handler *fn)
{
	handlers[vector] = fn;
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr)
{
	uint32_t lo = (limit & 0xffff) | base << 16;
	uint32_t hi = base >> 16 & 0xff;

	hi |= (attr & 0xff) << 8 | (limit & 0xf0000) | (attr & 0xf000) << 8 | (base & 0xff000000);
	return lo | (uint64_t)hi << 32;
}

uint64_t gate32(uint16_t sel, uint32_t offset, unsigned attr, unsigned count)
{
	uint32_t lo = (offset & 0xffff) | (uint32_t)sel << 16;
	uint32_t hi = (offset & 0xffff0000) | (attr & 0xff) << 8 | (count & 31);

	return lo | (uint64_t)hi << 32;
}

void trap_dispatch(struct frame *f);
void trap_dispatch(struct frame *f)
{
	ulong cr2 = f->vector == PF ? read_cr2() : 0;
	struct ctx *c = run_ctx;

	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return;
	}
	if (c) {
#ifdef __x86_64__
		for (unsigned i = 0; i < 16; i++)
			c->r[i] = f->r[i];
		c->r[RSP] = f->sp;
		c->ss = f->ss;
		asm volatile("mov %%ds, %0" : "=r"(c->ds));
		asm volatile("mov %%es, %0" : "=r"(c->es));
		asm volatile("mov %%fs, %0" : "=r"(c->fs));
		asm volatile("mov %%gs, %0" : "=r"(c->gs));
#else
		for (unsigned i = 0; i < 8; i++)
			c->r[i] = f->rev[7 - i];
		c->gs = f->gs & 0xffff;
		c->fs = f->fs & 0xffff;
		c->es = f->es & 0xffff;
		c->ds = f->ds & 0xffff;
		if (f->flags & FL_VM) {
			c->es = f->v_es;
			c->ds = f->v_ds;
			c->fs = f->v_fs;
			c->gs = f->v_gs;
		}
		if ((f->cs & 3) || (f->flags & FL_VM)) {
			c->r[RSP] = f->sp;
			c->ss = f->ss;
		} else {
			c->r[RSP] = (ulong)&f->sp;
			asm volatile("mov %%ss, %0" : "=r"(c->ss));
		}
#endif
		c->handler_sp = (ulong)&f->error;
		c->ip = f->ip;
		c->cs = f->cs;
		c->flags = f->flags;
		c->error = f->error;
		c->cr2 = cr2;
		run_ctx = NULL;
		c->vector = f->vector;
		barrier();
		asm volatile("jmp run_return");
		__builtin_unreachable();
	}
	if (recover_ip && !(f->cs & 3)) {
		trap.vector = f->vector;
		trap.error = f->error;
		trap.ip = f->ip;
		trap.cr2 = cr2;
		trap.flags = f->flags;
		trap.at = recover_at;
		f->ip = recover_ip;
		f->flags &= ~(FL_TF | FL_NT | FL_RF);
		recover_ip = 0;
		return;
	}
	print_lock = 0;
	print("FAIL unexpected-trap: vector %lu error 0x%lx cs:ip %lx:%lx flags 0x%lx cr2 0x%lx cr3 0x%lx\n",
	      (ulong)f->vector, (ulong)f->error, (ulong)f->cs, (ulong)f->ip, (ulong)f->flags, cr2, read_cr3());
	test_failures++;
	test_end();
}

void run_asm(struct ctx *c);
unsigned run(struct ctx *c)
{
	run_asm(c);
	barrier();
	return c->vector;
}

struct ctx user_ctx(ulong ip, ulong sp)
{
	struct ctx c;

	memset(&c, 0, sizeof(c));
	c.ip = ip;
	c.r[RSP] = sp;
	c.flags = 2;
	c.cs = SEL_UCODE | 3;
	c.ss = SEL_UDATA | 3;
	c.ds = c.es = c.fs = c.gs = SEL_UDATA | 3;
#ifndef __x86_64__
	c.load_segs = 1; /* IRET would null what the outer ring may not use */
#endif
	return c;
}

#ifndef __x86_64__
unsigned real_run_asm(struct ctx *c);
unsigned real_run(struct ctx *c)
{
	volatile uint32_t *ivt = (volatile uint32_t *)0;

	for (unsigned i = 0; i < 256; i++) {
		asm volatile("" : "+r"(ivt)); /* address 0 is an address here */
		ivt[i] = (uint32_t)real_stubs + 8 * i;
	}
	barrier();
	return real_run_asm(c);
}
#endif

/* ---- memory ---- */
static uintptr_t next_page;

void *alloc_pages(unsigned n)
{
	void *p = (void *)next_page;

	next_page += n * 4096ul;
	memset(p, 0, n * 4096ul);
	return p;
}

#ifdef __x86_64__
uint64_t *page_entry(uint64_t va, unsigned level)
{
	uint64_t *table = (uint64_t *)(read_cr3() & PTE_ADDR);

	for (unsigned l = 4; l > level; l--) {
		uint64_t *e = &table[va >> (3 + 9 * l) & 511];

		if (!(*e & PTE_P))
			*e = (uint64_t)alloc_pages(1) | PTE_P | PTE_W | PTE_U;
		table = (uint64_t *)(*e & PTE_ADDR);
	}
	return &table[va >> (3 + 9 * level) & 511];
}

void map_page(uint64_t va, uint64_t pa, uint64_t flags)
{
	*page_entry(va, 1) = pa | flags;
	invlpg((void *)va);
}

void map_user(uint64_t va, unsigned pages)
{
	for (; pages--; va += 4096)
		map_page(va, (uint64_t)alloc_pages(1), PTE_P | PTE_W | PTE_U);
}

void *map_mmio(uint64_t pa, uint64_t size)
{
	uint64_t va = pa & ~0x1fffffull;

	if (pa + size <= 0x40000000 || (pa >= 0xc0000000 && pa + size <= 0x100000000))
		return (void *)pa;
	for (; va < pa + size; va += 0x200000) {
		*page_entry(va, 2) = va | PTE_P | PTE_W | PTE_U | PTE_PS | PTE_PCD;
		invlpg((void *)va);
	}
	return (void *)pa;
}
#endif

/* ---- CPUs ---- */
volatile unsigned aps_running, aps_done;
unsigned ap_next;
uintptr_t ap_stacks;
static void (*ap_function)(unsigned cpu);
static struct tss *ap_tss[64];

static void load_tss(unsigned cpu, struct tss *tss, uintptr_t stack_top)
{
	uint64_t *d = &gdt[(SEL_TSS + 16 * cpu) / 8];

	tss->iomap = offsetof(struct tss, io);
	memset(tss->io, 0xff, sizeof(tss->io));
#ifdef __x86_64__
	tss->rsp[0] = stack_top;
	tss->ist[0] = stack_top - STACK_SIZE / 2;
	d[0] = descriptor((uintptr_t)tss, sizeof(*tss) - 1, 0x0089);
	d[1] = 0;
#else
	tss->esp0 = stack_top;
	tss->ss0 = SEL_DATA;
	d[0] = descriptor((uintptr_t)tss, sizeof(*tss) - 1, 0x0089);
#endif
	asm volatile("ltr %w0" : : "r"(SEL_TSS + 16 * cpu));
}

void ap_main(unsigned cpu);
void ap_main(unsigned cpu)
{
	struct table_ptr p = { sizeof(idt) - 1, (ulong)idt };

	lidt(&p);
	load_tss(cpu, ap_tss[cpu], (uintptr_t)ap_tss[cpu] + 4 * 4096 + STACK_SIZE);
	apic_enable();
	atomic_inc(&aps_running);
	ap_function(cpu);
	atomic_inc(&aps_done);
}

bool wait_until(volatile unsigned *value, unsigned want, unsigned ms)
{
	uint64_t end = rdtsc() + tsc_per_ms() * ms;

	while (*value < want) {
		if (rdtsc() > end)
			return false;
		pause_cpu();
	}
	return true;
}

unsigned start_aps(void (*fn)(unsigned cpu))
{
	unsigned n = cpu_count();

	if (n < 2)
		return 0;
	ap_function = fn;
	ap_stacks = (uintptr_t)alloc_pages(n * STACK_SIZE / 4096);
	for (unsigned i = 1; i < n; i++)
		ap_tss[i] = alloc_pages(4 + STACK_SIZE / 4096);
	tsc_per_ms();
	apic_enable();
	/* MP initialization protocol (SDM vol. 3, 9.4.4): to all excluding self */
	apic_ipi(0, 0xc4500);
	delay_us(10000);
	apic_ipi(0, 0xc4608);
	delay_us(200);
	if (aps_running < n - 1)
		apic_ipi(0, 0xc4608);
	wait_until(&aps_running, n - 1, 5000);
	return aps_running;
}

void lib_init(void);
void lib_init(void)
{
	struct table_ptr p = { sizeof(idt) - 1, (ulong)idt };

	next_page = ((uintptr_t)image_end + 4095) & ~4095ul;
	if (next_page < 0x400000)
		next_page = 0x400000;
	for (unsigned i = 0; i < 256; i++)
		reset_gate(i);
	lidt(&p);
	asm volatile("lldt %w0" : : "r"(0));
	load_tss(0, &tss0, (uintptr_t)trap_stack + sizeof(trap_stack));
	/* Interrupts stay quiet until a test wants them. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}
