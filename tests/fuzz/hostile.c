/* SPDX-License-Identifier: MIT */
/*
 * A guest that misbehaves: random writes to ports, device registers, configuration space, MSRs and queues, and random bytes
 * executed as code in every mode that user code can be in. Linked with the library of tests/guest. Its command line
 * carries seed=N. Whatever it does, lodge must end in order; tests/fuzz/run judges that.
 */
#include "../guest/lib/lib.h"

static uint64_t state;
static uint64_t rnd(void)
{
	/* xorshift64* */
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1dull;
}

#define JUNK 0x1000000ul /* 16 MiB of random bytes for devices to trip over */
#define JUNK_SIZE 0x1000000ul

static uint64_t bars[64];
static unsigned bar_count;

static void find_bars(void)
{
	for (unsigned bdf = 0; bdf < 256 && bar_count < 60; bdf++) {
		if (pci_read(bdf, 0) == 0xffffffff)
			continue;
		pci_write(bdf, 4, (pci_read(bdf, 4) & 0xffff) | 7);
		for (unsigned b = 0; b < 6 && bar_count < 60; b++) {
			uint32_t v = pci_read(bdf, 0x10 + 4 * b);

			if ((v & 1) || !(v & ~15u))
				continue;
			bars[bar_count] = v & ~15u;
			if ((v & 6) == 4)
				bars[bar_count] |= (uint64_t)pci_read(bdf, 0x14 + 4 * b++) << 32;
			map_mmio(bars[bar_count++], 0x10000);
		}
	}
	bars[bar_count++] = LAPIC_BASE;
	bars[bar_count++] = 0xfec00000;
	bars[bar_count++] = 0xff000000;
}

static bool spared(uint16_t port)
{
	/* What ends the run at once, or silences the console, comes only at the end. */
	return (port >= 0xed && port < 0xf8) || (port >= 0x8f && port < 0x93) || (port >= 0xcf5 && port <= 0xcf9) || (port >= 0x61 && port <= 0x64) || (port >= 0x5fd && port < 0x610) ||
	       (port & 0xfff8) == 0x3f8;
}

static void port(bool ending)
{
	static const uint16_t known[] = { 0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xe0,
					  0xe1, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fe, 0x510, 0x511, 0x514, 0x518, 0x600, 0x604, 0x608,
					  0xcf8, 0xcfc, 0xcfe, 0x4d0, 0x4d1, 0xc000, 0xc040, 0xc080, 0x2000, 0x2010 };
	uint16_t p = rnd() & 1 ? known[rnd() % ARRAY_SIZE(known)] : rnd();
	uint32_t v = rnd() & 3 ? rnd() & 0xff : rnd();

	if (!ending && spared(p))
		return;
	switch (rnd() % 6) {
	case 0:
		outb(p, v);
		break;
	case 1:
		outw(p, v);
		break;
	case 2:
		outl(p, v);
		break;
	case 3:
		inb(p);
		break;
	case 4:
		inw(p);
		break;
	default:
		inl(p);
	}
}

static void mmio(void)
{
	uint64_t a = bars[rnd() % bar_count] + (rnd() & 1 ? rnd() & 0x7f : rnd() & 0x3fff);
	uint64_t v = rnd() & 1 ? rnd() & 0xff : rnd() & 1 ? JUNK + (rnd() & 0xfffff8) : rnd();

	switch (rnd() % 9) {
	case 0:
		*(volatile uint8_t *)a = v;
		break;
	case 1:
		*(volatile uint16_t *)a = v;
		break;
	case 2:
	case 3:
		*(volatile uint32_t *)a = v;
		break;
	case 4:
		*(volatile uint64_t *)a = v;
		break;
	case 5:
		(void)*(volatile uint8_t *)a;
		break;
	case 6:
		(void)*(volatile uint32_t *)a;
		break;
	case 7:
		(void)*(volatile uint64_t *)a;
		break;
	default:
		asm volatile("lock; addl %1, %0" : "+m"(*(volatile uint32_t *)a) : "r"((uint32_t)v) : "cc");
	}
}

static void config(void)
{
	unsigned bdf = rnd() & 0x3f, reg = rnd() & 0xfc;

	/* BARs stay, so that there is something to hit */
	if ((reg >= 0x10 && reg < 0x28) || reg == 4)
		pci_read(bdf, reg);
	else
		pci_write(bdf, reg, rnd());
}

/* Bring a virtio device to DRIVER_OK with queues in random memory, then ring its bell. */
static void virtio(void)
{
	unsigned bdf = rnd() % 256, cap;
	volatile uint8_t *common = NULL, *notify = NULL;

	if ((pci_read(bdf, 0) & 0xffff) != 0x1af4)
		return;
	for (cap = pci_read(bdf, 0x34) & 0xfc; cap; cap = pci_read(bdf, cap) >> 8 & 0xfc) {
		uint32_t head = pci_read(bdf, cap), bar = pci_read(bdf, cap + 4) & 7;
		uint64_t a = pci_read(bdf, 0x10 + 4 * bar);

		if ((head & 0xff) != 9 || (head >> 24) > 2)
			continue;
		if ((a & 6) == 4)
			a |= (uint64_t)pci_read(bdf, 0x14 + 4 * bar) << 32;
		a = (a & ~15ull) + pci_read(bdf, cap + 8);
		if (head >> 24 == 1)
			common = (volatile uint8_t *)a;
		else if (head >> 24 == 2)
			notify = (volatile uint8_t *)a;
	}
	if (!common || !notify)
		return;
	common[20] = 0;
	common[20] = 3;
	for (unsigned i = 0; i < 2; i++) {
		*(volatile uint32_t *)common = i;
		uint32_t offered = *(volatile uint32_t *)(common + 4);

		*(volatile uint32_t *)(common + 8) = i;
		*(volatile uint32_t *)(common + 12) = (offered & (rnd() | rnd())) | i;
	}
	common[20] = 0xb;
	for (unsigned q = 0; q < 3; q++) {
		*(volatile uint16_t *)(common + 22) = q;
		*(volatile uint16_t *)(common + 24) = 1u << (rnd() % 9);
		for (unsigned o = 32; o <= 48; o += 8) {
			*(volatile uint32_t *)(common + o) = JUNK + (rnd() & (JUNK_SIZE - 1) & ~0xfull);
			*(volatile uint32_t *)(common + o + 4) = rnd() % 50 ? 0 : rnd();
		}
		*(volatile uint16_t *)(common + 28) = 1;
	}
	common[20] = 0xf;
	for (unsigned n = 0; n < 20; n++) {
		*(volatile uint16_t *)(notify + (rnd() & 3) * 4) = rnd() & 3;
		*(volatile uint64_t *)(JUNK + (rnd() & (JUNK_SIZE - 8))) = rnd();
	}
}

/* Descriptors that are nearly right do more harm than noise. */
static void fill_junk(void)
{
	for (uint64_t a = JUNK; a < JUNK + JUNK_SIZE; a += 16) {
		uint64_t r = rnd();

		*(volatile uint64_t *)a = r & 1 ? JUNK + (r >> 8 & (JUNK_SIZE - 1)) : r >> 4;
		*(volatile uint64_t *)(a + 8) = (r >> 20 & 0xfff) | (rnd() & 0x0007000700000000ull);
	}
}

static void msr(void)
{
	static const uint32_t known[] = { 0x10, 0x1b, 0x3b, 0x48, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x179, 0x17a, 0x1a0, 0x1d9, 0x200, 0x277, 0x2ff,
					  0x6e0, 0x800, 0x808, 0x80b, 0x830, 0x832, 0x838, 0x83f, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084,
					  0xc0000100, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04 };
	uint32_t n = rnd() % 4 ? known[rnd() % ARRAY_SIZE(known)] + (rnd() % 8 ? 0 : rnd() & 15) : rnd();
	uint64_t v = rnd() & 1 ? rnd() & 0xff : rnd() & 1 ? JUNK + (rnd() & 0xffffff) : rnd();

	if (n == 0xc0000080)
		v = (v & ~0x900ull) | 0x900; /* long mode stays */
	if (rnd() & 1)
		TRY("wrmsr", : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
	else
		TRY("rdmsr", : : "c"(n) : "rax", "rdx", "memory");
}

#define CODE_VA TEST_VA
static void timer(struct frame *f)
{
	apic_write(APIC_EOI, 0);
}

/* Random bytes as user code, for at most a millisecond. */
static void random_code(void)
{
	static const uint16_t cs[] = { SEL_UCODE | 3, SEL_UCODE | 3, SEL_UCODE32 | 3, SEL_UCODE16 | 3 };
	struct ctx c = user_ctx(CODE_VA + (rnd() & 0xfff), CODE_VA + 0x3000 - (rnd() & 0xff8));

	for (uint64_t a = CODE_VA; a < CODE_VA + 0x2000; a += 8)
		*(volatile uint64_t *)a = rnd();
	c.cs = cs[rnd() % 4];
	if (c.cs == (SEL_UCODE16 | 3))
		c.ip &= 0xfff;
	for (unsigned i = 0; i < 16; i++)
		if (i != RSP)
			c.r[i] = rnd() & 3 ? CODE_VA + (rnd() & 0x3fff) : rnd();
	c.flags |= FL_IF | (rnd() & (FL_CF | FL_DF | FL_ZF | FL_OF | FL_AC)) | (rnd() % 16 ? 0 : FL_TF);
	c.load_segs = 1;
	apic_write(APIC_LVT_TIMER, 0x90);
	apic_write(APIC_TIMER_DCR, 0xb);
	apic_write(APIC_TIMER_ICT, 1000000);
	for (unsigned n = 0; n < 20; n++) {
		unsigned v = run(&c);

		if (v == 0x90) {
			apic_write(APIC_EOI, 0);
			break;
		}
		/* step over what trapped, and go on */
		c.ip = CODE_VA + ((c.ip + 1 + (rnd() & 3)) & 0x1fff);
		if (c.cs == (SEL_UCODE16 | 3))
			c.ip &= 0xfff;
		c.cs = cs[rnd() % 3];
		c.ss = SEL_UDATA | 3;
		c.ds = c.es = c.fs = c.gs = SEL_UDATA | 3;
		c.flags = (c.flags & 0xfff) | 2 | FL_IF;
		c.r[RSP] = CODE_VA + 0x2f00;
	}
	apic_write(APIC_TIMER_ICT, 0);
	apic_write(APIC_LVT_TIMER, 0x10090);
}

static uint64_t number_after(const char *word)
{
	extern volatile char boot_cmdline[];
	size_t n = strlen(word);
	uint64_t v = 0;

	for (unsigned i = 0; i < 200 && boot_cmdline[i]; i++)
		if (!memcmp((const void *)(boot_cmdline + i), word, n)) {
			for (i += n; boot_cmdline[i] >= '0' && boot_cmdline[i] <= '9'; i++)
				v = v * 10 + boot_cmdline[i] - '0';
			return v;
		}
	return 1;
}

/* The other CPU: memory and device accesses only (traps and contexts are one CPU's affair). */
static void ap(unsigned cpu)
{
	for (;;) {
		*(volatile uint64_t *)(JUNK + (rnd() & (JUNK_SIZE - 8))) = rnd();
		if (!(rnd() & 7))
			mmio();
	}
}

static void ignore(struct frame *f)
{
	apic_write(APIC_EOI, 0);
}

void test_main(void)
{
	uint64_t seed = number_after("seed="), end;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	tsc_per_ms();
	for (unsigned v = 0x20; v < 256; v++)
		if (v != 0x90 && v != 0x80)
			set_handler(v, ignore);
	set_handler(NMI, ignore);
	(void)timer;
	find_bars();
	map_user(CODE_VA, 4);
	fill_junk();
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	if (has_cpuid(1, 'c', 26)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		asm volatile("xsetbv" : : "a"(cpuid(0xd, 0).a), "d"(0), "c"(0));
	}
	apic_enable();
	print("# seed %lu\n", seed);
	if (seed & 1)
		start_aps(ap);
	end = rdtsc() + tsc_per_ms() * 3000;
	for (unsigned n = 0; rdtsc() < end; n++) {
		switch (rnd() % 16) {
		case 0:
			virtio();
			break;
		case 1:
			msr();
			break;
		case 2:
		case 3:
			config();
			break;
		case 4:
			if (seed % 4 < 2)
				random_code();
			break;
		case 5:
		case 6:
		case 7:
		case 8:
			port(false);
			break;
		default:
			mmio();
		}
	}
	print("# the end: everything goes\n");
	for (unsigned n = 0; n < 20000; n++) {
		port(true);
		mmio();
	}
}
