/* SPDX-License-Identifier: MIT */
/*
 * The paravirtual features of the public KVM ABI (Linux Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst), each if
 * CPUID leaf 0x40000001 advertises it.
 * run: cpus=2 engine=bt
 */
#include "lib.h"

static uint32_t features;

static long hypercall(uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	long r;

	if (is_amd())
		asm volatile("vmmcall" : "=a"(r) : "a"(nr), "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
	else
		asm volatile("vmcall" : "=a"(r) : "a"(nr), "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
	return r;
}

struct time_info {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad[2];
};
static volatile struct time_info info __attribute__((aligned(4096)));

static uint64_t clock(void)
{
	uint32_t v;
	uint64_t t, delta;

	do {
		v = info.version;
		barrier();
		delta = rdtsc() - info.tsc_timestamp;
		delta = info.tsc_shift < 0 ? delta >> -info.tsc_shift : delta << info.tsc_shift;
		asm("mulq %2; shrd $32, %%rdx, %%rax" : "=a"(t) : "a"(delta), "r"((uint64_t)info.tsc_to_system_mul) : "rdx", "cc");
		t += info.system_time;
		barrier();
	} while ((v & 1) || v != info.version);
	return t;
}

static void kvmclock(void)
{
	uint64_t a, b;
	unsigned back = 0;

	if (!(features & 8)) {
		SKIP("kvmclock", "not advertised");
		return;
	}
	wrmsr(0x4b564d01, (uint64_t)&info | 1);
	CHECK("kvmclock-version", info.version && !(info.version & 1));
	a = clock();
	for (unsigned i = 0; i < 10000; i++) {
		b = clock();
		back += b < a;
		a = b;
	}
	CHECK_EQ("kvmclock-monotonic", back, 0);
	a = clock();
	delay_us(20000);
	b = clock() - a;
	CHECK("kvmclock-rate", b > 18000000 && b < 200000000);
	{
		static volatile struct {
			uint32_t version, sec, nsec;
		} wall __attribute__((aligned(64)));

		wrmsr(0x4b564d00, (uint64_t)&wall);
		CHECK("wall-clock", wall.sec > 1600000000 && wall.nsec < 1000000000);
	}
	wrmsr(0x4b564d01, 0);
}

static volatile unsigned hits;
static volatile uint32_t eoi_word __attribute__((aligned(64)));
static volatile unsigned skipped_eoi;
static void handler(struct frame *f)
{
	uint8_t was;

	hits++;
	asm volatile("btrl $0, %1; setc %0" : "=q"(was), "+m"(eoi_word) : : "cc", "memory");
	if (was)
		skipped_eoi++;
	else
		apic_write(APIC_EOI, 0);
}
static volatile unsigned ap_hits;
static void ap_handler(struct frame *f)
{
	atomic_inc(&ap_hits);
	apic_write(APIC_EOI, 0);
}
static void ap(unsigned cpu)
{
	for (;;)
		asm volatile("sti; hlt; cli" ::: "memory");
}

static void pv_eoi(void)
{
	if (!(features & 0x40)) {
		SKIP("pv-eoi", "not advertised");
		return;
	}
	wrmsr(0x4b564d04, (uint64_t)&eoi_word | 1);
	set_handler(0x60, handler);
	for (unsigned i = 0; i < 200; i++) {
		apic_ipi(0, 0x40060);
		asm volatile("sti; nop; nop; cli" ::: "memory");
	}
	CHECK_EQ("pv-eoi-every-interrupt", hits, 200);
	print("# %u of 200 EOIs were saved\n", skipped_eoi);
	CHECK_EQ("pv-eoi-nothing-in-service", apic_bit(APIC_ISR, 0x60) && !(eoi_word & 1), 0);
	wrmsr(0x4b564d04, 0);
	hits = 0;
	eoi_word = 0;
	apic_ipi(0, 0x40060);
	asm volatile("sti; nop; nop; cli" ::: "memory");
	CHECK_EQ("pv-eoi-off", hits, 1);
}

void test_main(void)
{
	struct cpuid r = cpuid(0x40000000, 0);

	tsc_per_ms();
	if (r.b != 0x4b4d564b || r.c != 0x564b4d56 || r.d != 0x4d) {
		test_check(false, "signature", "leaf 0x40000000 is not KVMKVMKVM");
		return;
	}
	CHECK("max-leaf", r.a >= 0x40000001);
	features = cpuid(0x40000001, 0).a;
	print("# features 0x%x hints 0x%x\n", features, cpuid(0x40000001, 0).d);
	set_handler(0x61, ap_handler);
	CHECK_EQ("aps", start_aps(ap), cpu_count() - 1);
	kvmclock();
	pv_eoi();
	CHECK_EQ("unknown-hypercall", (uint64_t)hypercall(0x7777, 0, 0, 0, 0), (uint64_t)-1000);
	if (features & 1 << 11) { /* KVM_FEATURE_PV_SEND_IPI: bitmap low, high, lowest APIC ID, ICR */
		for (unsigned i = 0; i < 50; i++) {
			unsigned before = ap_hits;
			hypercall(10, 2, 0, 0, 0x61);
			wait_until(&ap_hits, before + 1, 1000);
		}
		CHECK_EQ("send-ipi", ap_hits, 50);
		hypercall(10, 1, 0, 1, 0x61); /* bit 0 of a bitmap that starts at APIC ID 1 */
		CHECK("send-ipi-offset", wait_until(&ap_hits, 51, 1000));
	} else {
		SKIP("send-ipi", "not advertised");
	}
	if (features & 1 << 5) { /* steal time */
		static volatile struct {
			uint64_t steal;
			uint32_t version, flags;
			uint8_t preempted, pad[47];
		} st __attribute__((aligned(64)));

		wrmsr(0x4b564d03, (uint64_t)&st | 1);
		delay_us(30000);
		for (unsigned i = 0; i < 10; i++) {
			apic_ipi(0, 0x40061);
			asm volatile("sti; nop; cli" ::: "memory");
		}
		CHECK_EQ("steal-version-even", st.version & 1, 0);
		CHECK("steal-plausible", st.steal < 10000000000ull);
		CHECK_EQ("steal-preempted", st.preempted & 1, 0);
		TRY("wrmsr", : : "c"(0x4b564d03), "a"((uint32_t)(uint64_t)&st | 2), "d"(0) : "memory");
		CHECK_EQ("steal-reserved-bits", trap.vector, GP);
		wrmsr(0x4b564d03, 0);
	} else {
		SKIP("steal-time", "not advertised");
	}
	/* hypercalls are for CPL 0 */
	map_user(TEST_VA, 1);
	{
		struct ctx c = user_ctx(TEST_VA, TEST_VA + 4096);

		memcpy((void *)TEST_VA, is_amd() ? "\x0f\x01\xd9\xcd\x80" : "\x0f\x01\xc1\xcd\x80", 5);
		c.r[RAX] = 10;
		CHECK_EQ("user-hypercall", run(&c), 0x80);
		CHECK_EQ("user-hypercall-refused", c.r[RAX] & 0xffffffff, (uint32_t)-1);
	}
}
