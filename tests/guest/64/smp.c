/* SPDX-License-Identifier: MIT */
/*
 * Several CPUs: atomics, memory ordering litmus tests (SDM vol. 3, 8.2.3), page-crossing locked operations, IPIs, TLB
 * shootdown, cross-modifying code, INIT.
 * run: cpus=4 timeout=60
 */
#include "lib.h"

#define ROUNDS 100000
#define SPLIT_ROUNDS 1000 /* these are allowed to be slow */
static unsigned cpus;
static volatile unsigned phase_done, phase;
static volatile uint64_t counter, counter2;
static volatile uint8_t *split; /* a word across a page boundary */

/* All CPUs run phases in step: the BSP sets phase, each AP runs its part and counts itself done. */
static void (*volatile phase_fn)(unsigned cpu);
static void ap(unsigned cpu)
{
	unsigned seen = 0;

	for (;;) {
		while (phase == seen)
			pause_cpu();
		seen = phase;
		if (!phase_fn)
			return;
		phase_fn(cpu);
		atomic_inc(&phase_done);
	}
}
/* Run fn on all CPUs; false if they did not all end in time. */
static bool all(void (*fn)(unsigned cpu))
{
	phase_fn = fn;
	phase_done = 0;
	barrier();
	phase++;
	if (fn)
		fn(0);
	return !fn || wait_until(&phase_done, cpus - 1, 10000);
}

static void count_locked(unsigned cpu)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		asm volatile("lock incq %0" : "+m"(counter) : : "memory");
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		uint64_t old, one = 1;

		asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(counter2) : : "memory");
		do {
			old = counter2;
		} while (!__sync_bool_compare_and_swap(&counter2, old, old + 1));
	}
}

static volatile unsigned lock_word;
static uint64_t plain;
static void spinlock(unsigned cpu)
{
	for (unsigned i = 0; i < ROUNDS / 20; i++) {
		unsigned v = 1;
		do {
			v = 1;
			asm volatile("xchg %0, %1" : "+r"(v), "+m"(lock_word) : : "memory");
			if (v)
				pause_cpu();
		} while (v);
		plain++;
		barrier();
		lock_word = 0;
	}
}

static struct {
	uint64_t lo, hi;
} pair __attribute__((aligned(16)));
static volatile uint64_t torn;
static void cmpxchg16b(unsigned cpu)
{
	for (unsigned i = 0; i < ROUNDS / 20; i++) {
		uint64_t lo = 0, hi = 0;
		uint8_t ok;
		do {
			asm volatile("lock cmpxchg16b %0; setz %3"
				     : "+m"(pair), "+a"(lo), "+d"(hi), "=q"(ok)
				     : "b"(lo + 1), "c"(hi - 1)
				     : "memory", "cc");
			if (lo + hi)
				torn = 1;
		} while (!ok);
	}
}

static void split_locked(unsigned cpu)
{
	for (unsigned i = 0; i < SPLIT_ROUNDS; i++)
		asm volatile("lock incq (%0)" : : "r"(split) : "memory");
}

static void bit_locked(unsigned cpu)
{
	static volatile uint64_t bits;
	for (unsigned i = 0; i < 1000; i++) {
		uint8_t was;
		asm volatile("lock btsq %2, %1; setc %0" : "=q"(was), "+m"(bits) : "r"((uint64_t)cpu) : "memory", "cc");
		torn |= was;
		asm volatile("lock btrq %2, %1; setc %0" : "=q"(was), "+m"(bits) : "r"((uint64_t)cpu) : "memory", "cc");
		torn |= !was;
	}
}

/*
 * ---- litmus tests between CPU 0 and CPU 1 ----
 * Each CPU walks an array of slots, so that no slot needs a rendezvous (which would take time slices where vCPUs
 * outnumber the host's CPUs).
 */
#define LITMUS 100000
static volatile struct {
	uint32_t x;
	uint8_t pad0[60];
	uint32_t y;
	uint8_t pad1[60];
} *slot;
static volatile uint8_t *r1, *r2;
static unsigned violations;
static volatile uint32_t mp_x __attribute__((aligned(64))), mp_y __attribute__((aligned(64)));
static volatile unsigned rendezvous;

static void litmus_start(void)
{
	atomic_inc(&rendezvous);
	wait_until(&rendezvous, 2, 1000);
}

static void message_passing(unsigned cpu)
{
	if (cpu > 1)
		return;
	litmus_start();
	for (uint32_t i = 1; i <= LITMUS; i++) {
		if (cpu == 0) {
			mp_x = i;
			mp_y = i;
		} else {
			uint32_t b = mp_y;
			barrier();
			if (mp_x < b)
				violations++;
		}
	}
}

static void store_buffer(unsigned cpu, bool fence)
{
	if (cpu > 1)
		return;
	litmus_start();
	for (uint32_t i = 0; i < LITMUS / 4; i++) {
		if (cpu == 0) {
			slot[i].x = 1;
			if (fence)
				asm volatile("mfence" ::: "memory");
			r1[i] = slot[i].y;
		} else {
			slot[i].y = 1;
			if (fence)
				asm volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");
			r2[i] = slot[i].x;
		}
	}
}
static void sb_plain(unsigned cpu)
{
	store_buffer(cpu, false);
}
static void sb_fenced(unsigned cpu)
{
	store_buffer(cpu, true);
}
static void load_buffer(unsigned cpu)
{
	if (cpu > 1)
		return;
	litmus_start();
	for (uint32_t i = 0; i < LITMUS / 4; i++) {
		if (cpu == 0) {
			r1[i] = slot[i].y;
			slot[i].x = 1;
		} else {
			r2[i] = slot[i].x;
			slot[i].y = 1;
		}
	}
}
/* Run one; returns how many slots ended with r1 == r2 == value. */
static unsigned litmus(const char *name, void (*fn)(unsigned), unsigned value)
{
	unsigned n = 0;

	memset((void *)slot, 0, LITMUS / 4 * sizeof(*slot));
	rendezvous = 0;
	CHECK(name, all(fn));
	for (unsigned i = 0; i < LITMUS / 4; i++)
		n += r1[i] == value && r2[i] == value;
	return n;
}

/* ---- IPIs and TLB shootdown ---- */
static volatile unsigned ipis[4];
static void ipi_handler(struct frame *f)
{
	ipis[apic_read(APIC_ID) >> 24 & 3]++;
	apic_write(APIC_EOI, 0);
}
static volatile unsigned flushed;
static void flush_handler(struct frame *f)
{
	invlpg((void *)TEST_VA);
	atomic_inc(&flushed);
	apic_write(APIC_EOI, 0);
}
static volatile unsigned listening, stop_listening;
static void listen(unsigned cpu)
{
	if (!cpu)
		return;
	atomic_inc(&listening);
	while (!stop_listening)
		asm volatile("sti; nop; pause; cli" ::: "memory");
}
static void listen_halted(unsigned cpu)
{
	if (!cpu)
		return;
	atomic_inc(&listening);
	while (!stop_listening)
		asm volatile("sti; hlt; cli" ::: "memory");
}

static void start_listeners(void (*fn)(unsigned))
{
	listening = stop_listening = 0;
	phase_fn = fn;
	phase_done = 0;
	phase++;
	CHECK("listeners", wait_until(&listening, cpus - 1, 2000));
}
static bool end_listeners(void)
{
	stop_listening = 1;
	apic_ipi(0, 0xc00f0);
	return wait_until(&phase_done, cpus - 1, 2000);
}

static volatile uint64_t *const shared = (volatile uint64_t *)TEST_VA;
static volatile unsigned stale;
static volatile uint64_t expect_value;
static void read_shared(unsigned cpu)
{
	if (!cpu)
		return;
	atomic_inc(&listening);
	while (!stop_listening) {
		uint64_t e = expect_value, v;
		barrier();
		v = *shared;
		barrier();
		if (v < e)
			stale++;
		asm volatile("sti; nop; pause; cli" ::: "memory");
	}
}

/* ---- cross-modifying code ---- */
typedef uint64_t fn0(void);
static uint8_t *code;
static volatile uint32_t published, taken[4];
static void cross_modify(unsigned cpu)
{
	if (cpu == 0) {
		for (uint32_t i = 1; i <= 500; i++) {
			memcpy(code + 1, &i, 4);
			barrier();
			published = i;
			for (unsigned c = 1; c < cpus; c++)
				for (unsigned n = 0; taken[c] != i && n < 100000000; n++)
					pause_cpu();
		}
		published = ~0u;
	} else {
		uint32_t last = 0;
		for (;;) {
			uint32_t p = published;
			uint32_t r;
			if (p == ~0u)
				return;
			if (p == last) {
				pause_cpu();
				continue;
			}
			/* serialize, as the manual asks for */
			cpuid(0, 0);
			r = ((fn0 *)code)();
			if (r != p)
				violations++;
			last = p;
			taken[cpu] = p;
		}
	}
}
/* The unsynchronized form: one CPU spins in code of another CPU's making until a byte changes a jump. */
static volatile unsigned left;
static void spin_in_code(unsigned cpu)
{
	((fn0 *)(code + 64))();
	atomic_inc(&left);
}

static volatile unsigned ap_nmis;
static void nmi_handler(struct frame *f)
{
	atomic_inc(&ap_nmis);
}

void test_main(void)
{
	cpus = cpu_count();
	tsc_per_ms();
	if (cpus < 2) {
		test_check(false, "cpus", "only one CPU");
		return;
	}
	set_handler(0xf0, ipi_handler);
	set_handler(0xf1, flush_handler);
	set_handler(NMI, nmi_handler);
	CHECK_EQ("start-aps", start_aps(ap), cpus - 1);
	if (aps_running != cpus - 1)
		return;

	CHECK("locked-counters-end", all(count_locked));
	CHECK_EQ("locked-inc", counter, (uint64_t)cpus * ROUNDS);
	CHECK_EQ("locked-xadd-cmpxchg", counter2, (uint64_t)cpus * ROUNDS / 10 * 2);
	CHECK("spinlock-end", all(spinlock));
	CHECK_EQ("spinlock", plain, (uint64_t)cpus * (ROUNDS / 20));
	CHECK("cmpxchg16b-end", all(cmpxchg16b));
	CHECK_EQ("cmpxchg16b", pair.lo, (uint64_t)cpus * (ROUNDS / 20));
	CHECK_EQ("cmpxchg16b-high", pair.hi, -(uint64_t)cpus * (ROUNDS / 20));
	CHECK_EQ("cmpxchg16b-torn", torn, 0);
	split = (uint8_t *)alloc_pages(2) + 4093;
	CHECK("split-end", all(split_locked));
	CHECK_EQ("page-crossing-locked-inc", *(volatile uint64_t *)split, (uint64_t)cpus * SPLIT_ROUNDS);
	/* across physically distant pages too */
	map_page(TEST_VA + 0x10000, (uint64_t)alloc_pages(1), PTE_P | PTE_W);
	alloc_pages(3);
	map_page(TEST_VA + 0x11000, (uint64_t)alloc_pages(1), PTE_P | PTE_W);
	split = (uint8_t *)(TEST_VA + 0x10000 + 4092);
	CHECK("split-distant-end", all(split_locked));
	CHECK_EQ("distant-page-crossing-locked-inc", *(volatile uint64_t *)split, (uint64_t)cpus * SPLIT_ROUNDS);
	split = (uint8_t *)alloc_pages(1) + 61;
	CHECK("split-line-end", all(split_locked));
	CHECK_EQ("line-crossing-locked-inc", *(volatile uint64_t *)split, (uint64_t)cpus * SPLIT_ROUNDS);
	torn = 0;
	CHECK("bits-end", all(bit_locked));
	CHECK_EQ("locked-bts-btr", torn, 0);

	slot = alloc_pages(LITMUS / 4 * sizeof(*slot) / 4096 + 1);
	r1 = alloc_pages(LITMUS / 4 / 4096 + 1);
	r2 = alloc_pages(LITMUS / 4 / 4096 + 1);
	rendezvous = 0;
	CHECK("mp-end", all(message_passing));
	CHECK_EQ("litmus-message-passing", violations, 0);
	print("# store buffering without fences seen %u times in %u\n", litmus("sb-end", sb_plain, 0), LITMUS / 4);
	CHECK_EQ("litmus-store-buffering-fenced", litmus("sb-fenced-end", sb_fenced, 0), 0);
	CHECK_EQ("litmus-load-buffering", litmus("lb-end", load_buffer, 1), 0);

	/* IPIs to running and to halted CPUs */
	start_listeners(listen);
	for (unsigned i = 0; i < 100; i++) {
		unsigned before = ipis[1];
		apic_ipi(1, 0xf0);
		wait_until(&ipis[1], before + 1, 1000);
	}
	CHECK_EQ("ipi-each-arrives", ipis[1], 100);
	CHECK_EQ("ipi-only-there", cpus > 2 ? ipis[2] : 0, 0);
	CHECK("listeners-end", end_listeners());
	start_listeners(listen_halted);
	ipis[1] = 0;
	for (unsigned i = 0; i < 100; i++) {
		unsigned before = ipis[1];
		apic_ipi(1, 0xf0);
		wait_until(&ipis[1], before + 1, 1000);
	}
	CHECK_EQ("ipi-wakes-halted", ipis[1], 100);
	apic_ipi(1, 0x400);
	CHECK("nmi-wakes-halted", wait_until(&ap_nmis, 1, 1000));
	{
		unsigned v = ipis[cpus - 1];
		apic_ipi(0, 0xc00f0);
		CHECK("broadcast", wait_until(&ipis[cpus - 1], v + 1, 1000));
	}
	CHECK("halted-listeners-end", end_listeners());

	/* TLB shootdown: after all have acknowledged, nobody sees the old page */
	{
		uint64_t a[2] = { (uint64_t)alloc_pages(1), (uint64_t)alloc_pages(1) };
		bool arrived = true;

		map_page(TEST_VA, a[0], PTE_P | PTE_W);
		start_listeners(read_shared);
		for (uint64_t i = 1; i <= 200; i++) {
			*(volatile uint64_t *)a[i & 1] = i;
			barrier();
			*page_entry(TEST_VA, 1) = a[i & 1] | PTE_P | PTE_W;
			invlpg((void *)TEST_VA);
			flushed = 0;
			apic_ipi(0, 0xc00f1);
			arrived = arrived && wait_until(&flushed, cpus - 1, 1000);
			expect_value = i;
		}
		CHECK("shootdown-acknowledged", arrived);
		CHECK("shootdown-end", end_listeners());
		CHECK_EQ("shootdown-stale-reads", stale, 0);
	}
	/* cross-modifying code */
	code = alloc_pages(1);
	memcpy(code, "\xb8\x00\x00\x00\x00\xc3", 6);
	memcpy(code + 64, "\xeb\xfe\xc3", 3);
	violations = 0;
	CHECK("cross-modify-end", all(cross_modify));
	CHECK_EQ("cross-modifying-code", violations, 0);
	phase_fn = spin_in_code;
	phase_done = 0;
	phase++;
	for (unsigned i = 0; i < 100000; i++)
		pause_cpu();
	*(volatile uint16_t *)(code + 64) = 0x9090;
	CHECK("code-changed-under-a-spinning-cpu", wait_until(&left, cpus - 1, 3000));

	/* INIT takes a running CPU out; SIPI brings it back at the trampoline */
	{
		unsigned before = aps_running;
		extern unsigned ap_next;
		ap_next = 0; /* CPU index 1 again */
		apic_ipi(1, 0x4500);
		delay_us(10000);
		apic_ipi(1, 0x4608);
		CHECK("init-sipi-again", wait_until(&aps_running, before + 1, 2000));
	}
}
