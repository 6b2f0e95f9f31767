/* SPDX-License-Identifier: MIT */
/* Local APICs, the bus between them, and the I/O APIC. */
#include <pthread.h>

#include "device/i8259.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "vm_machine.h"

#define CPUS 4

static struct vm *vm;
static struct apic_bus *bus;
static struct i8259 *pic;
static struct ioapic *ioapic;

#define MSR_TPR 0x808
#define MSR_PPR 0x80a
#define MSR_EOI 0x80b
#define MSR_SVR 0x80f
#define MSR_ISR 0x810
#define MSR_TMR 0x818
#define MSR_IRR 0x820
#define MSR_ESR 0x828
#define MSR_ICR 0x830
#define MSR_LVT_TIMER 0x832
#define MSR_LINT0 0x835
#define MSR_LINT1 0x836
#define MSR_LVT_ERROR 0x837
#define MSR_INITIAL 0x838
#define MSR_CURRENT 0x839
#define MSR_DIVIDE 0x83e
#define MSR_SELF 0x83f

static int wr(unsigned cpu, uint32_t msr, uint64_t value)
{
	return vm->vcpus[cpu]->apic_ops->write_msr(vm->vcpus[cpu]->apic, msr, value);
}

static uint64_t rd(unsigned cpu, uint32_t msr)
{
	uint64_t value = 0xdeadbeef;

	assert_int_equal(vm->vcpus[cpu]->apic_ops->read_msr(vm->vcpus[cpu]->apic, msr, &value), 0);
	return value;
}

static int rd_fails(unsigned cpu, uint32_t msr)
{
	uint64_t value;

	return vm->vcpus[cpu]->apic_ops->read_msr(vm->vcpus[cpu]->apic, msr, &value);
}

static int pending(unsigned cpu)
{
	return vm->vcpus[cpu]->apic_ops->pending_vector(vm->vcpus[cpu]->apic);
}

/* As the engine does. */
static int take(unsigned cpu)
{
	struct vcpu *vcpu = vm->vcpus[cpu];

	return vcpu->irq_pending ? vcpu->apic_ops->acknowledge(vcpu->apic) : -1;
}

static void eoi(unsigned cpu)
{
	vm->vcpus[cpu]->apic_ops->eoi(vm->vcpus[cpu]->apic);
}

static void enable_x2apic(void)
{
	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(wr(i, X86_MSR_APIC_BASE, LAPIC_DEFAULT_BASE | 0xc00), 0);
		assert_int_equal(wr(i, MSR_SVR, 0x1ff), 0);
	}
}

static int setup(void **state)
{
	struct error err = { 0 };

	(void)state;
	vm = test_vm(CPUS);
	if (apic_bus_create(vm, &bus, &err) || i8259_create(vm, &pic, &err) ||
	    ioapic_create(vm, bus, IOAPIC_DEFAULT_BASE, 0, &ioapic, &err))
		fail_msg("%s", err.text);
	i8259_connect_output(pic, apic_bus_extint_line(bus));
	apic_bus_connect_pic(bus, i8259_acknowledge, pic);
	return 0;
}

static int setup_x2(void **state)
{
	setup(state);
	enable_x2apic();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	check_round_trip(vm);
	vm_destroy(vm);
	return 0;
}

static void test_priorities(void **state)
{
	(void)state;
	wr(0, MSR_SELF, 0x31);
	wr(0, MSR_SELF, 0x52);
	wr(0, MSR_SELF, 0x51);
	assert_int_equal(pending(0), 0x52);
	assert_int_equal(rd(0, MSR_IRR + 2), 0x60000);
	assert_int_equal(take(0), 0x52);
	assert_int_equal(rd(0, MSR_ISR + 2), 0x40000);
	assert_int_equal(rd(0, MSR_PPR), 0x50);
	assert_int_equal(take(0), -1); /* 51: same class */
	assert_false(vm->vcpus[0]->irq_pending);
	wr(0, MSR_SELF, 0x61);
	assert_int_equal(take(0), 0x61); /* nests */
	eoi(0);
	assert_false(vm->vcpus[0]->irq_pending);
	eoi(0);
	assert_true(vm->vcpus[0]->irq_pending);
	assert_int_equal(take(0), 0x51);
	assert_int_equal(wr(0, MSR_EOI, 0), 0);
	wr(0, MSR_TPR, 0x40);
	assert_int_equal(vm->vcpus[0]->apic_ops->read_tpr(vm->vcpus[0]->apic), 4);
	assert_int_equal(take(0), -1);
	vm->vcpus[0]->apic_ops->write_tpr(vm->vcpus[0]->apic, 3); /* CR8 */
	assert_int_equal(rd(0, MSR_TPR), 0x30);
	assert_int_equal(take(0), -1); /* 31 is in class 3 */
	vm->vcpus[0]->apic_ops->write_tpr(vm->vcpus[0]->apic, 2);
	assert_int_equal(take(0), 0x31);
	eoi(0);
	eoi(0); /* one too many does nothing */
	assert_int_equal(take(0), -1);
}

static void test_registers(void **state)
{
	static const uint32_t none[] = { 0x800, 0x801, 0x804, 0x807, 0x809, 0x80b, 0x80c, 0x80e, 0x829, 0x82f, 0x831, 0x83a,
					 0x83f, 0x840, 0x8ff };

	(void)state;
	assert_int_equal(rd(2, 0x802), 2);
	assert_int_equal(rd(2, 0x803), 0x50014);
	assert_int_equal(rd(2, 0x80d), 4);
	for (unsigned i = 0; i < ARRAY_SIZE(none); i++)
		assert_int_equal(rd_fails(0, none[i]), -1);
	assert_int_equal(wr(0, 0x802, 0), -1);
	assert_int_equal(wr(0, 0x80d, 0), -1);
	assert_int_equal(wr(0, MSR_PPR, 0), -1);
	assert_int_equal(wr(0, MSR_EOI, 1), -1);
	assert_int_equal(wr(0, MSR_TPR, 0x100), -1);
	assert_int_equal(wr(0, MSR_SVR, 0x400), -1);
	assert_int_equal(wr(0, MSR_ESR, 1), -1);
	assert_int_equal(wr(0, MSR_ICR, 1 << 13), -1);
	assert_int_equal(wr(0, MSR_ICR, 1 << 20), -1);
	assert_int_equal(wr(0, MSR_LVT_TIMER, 1 << 19), -1);
	assert_int_equal(wr(0, MSR_DIVIDE, 4), -1);
	assert_int_equal(wr(0, MSR_INITIAL, 1ull << 32), -1);
	assert_int_equal(wr(0, 0x8fe, 0), -1);
	/* errors */
	wr(0, MSR_LVT_ERROR, 0x33);
	assert_int_equal(wr(0, MSR_ICR, 5), 0); /* fixed, vector 5 */
	assert_int_equal(take(0), 0x33);
	assert_int_equal(rd(0, MSR_ESR), 0);
	wr(0, MSR_ESR, 0);
	assert_int_equal(rd(0, MSR_ESR), 0x20);
	wr(0, MSR_ESR, 0);
	assert_int_equal(rd(0, MSR_ESR), 0);
	eoi(0);
	wr(0, MSR_LVT_ERROR, 3); /* an illegal vector for the error interrupt itself: no recursion */
	wr(0, MSR_SELF, 2);
	/* software disable masks LVTs and rejects interrupts */
	wr(0, MSR_LVT_TIMER, 0x40);
	wr(0, MSR_SVR, 0xff);
	assert_int_equal(rd(0, MSR_LVT_TIMER), 0x10040);
	wr(0, MSR_LVT_TIMER, 0x41);
	assert_int_equal(rd(0, MSR_LVT_TIMER), 0x10041);
	wr(0, MSR_SELF, 0x77);
	assert_int_equal(pending(0), -1);
}

static void test_base(void **state)
{
	(void)state;
	assert_int_equal(rd(0, X86_MSR_APIC_BASE), 0xfee00900);
	assert_int_equal(rd(1, X86_MSR_APIC_BASE), 0xfee00800);
	assert_int_equal(rd_fails(0, 0x802), -1); /* not in x2APIC mode */
	assert_int_equal(wr(0, 0x80f, 0x1ff), -1);
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00901), -1);
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00500), -1); /* x2APIC without enable */
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 1ull << 60 | 0xfee00900), -1);
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00d00), 0);
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00900), -1); /* not back to xAPIC */
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00100), 0); /* off */
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00d00), -1); /* not from off to x2APIC */
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfed40900), 0);
	assert_int_equal(lapic_base_msr(vm->vcpus[0]), 0xfed40900);
	assert_true(bus_claims(&vm->mmio, 0xfed40000));
	assert_int_equal(wr(0, X86_MSR_APIC_BASE, 0xfee00900), 0);
	assert_false(bus_claims(&vm->mmio, 0xfed40000));
}

static uint64_t icr(uint32_t dest, uint32_t low)
{
	return (uint64_t)dest << 32 | low;
}

static unsigned reached(uint8_t vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		int v = take(i);

		if (v < 0)
			continue;
		assert_int_equal(v, vector);
		mask |= 1u << i;
		eoi(i);
	}
	return mask;
}

static void test_ipis(void **state)
{
	(void)state;
	wr(0, MSR_ICR, icr(2, 0x40));
	assert_int_equal(reached(0x40), 4);
	wr(0, MSR_ICR, icr(77, 0x40)); /* nobody */
	assert_int_equal(reached(0x40), 0);
	wr(0, MSR_ICR, icr(0xffffffff, 0x41));
	assert_int_equal(reached(0x41), 15);
	wr(1, MSR_ICR, icr(0, 0x40042)); /* self */
	assert_int_equal(reached(0x42), 2);
	wr(1, MSR_ICR, icr(0, 0x80043)); /* all */
	assert_int_equal(reached(0x43), 15);
	wr(1, MSR_ICR, icr(0, 0xc0044)); /* all but self */
	assert_int_equal(reached(0x44), 13);
	wr(0, MSR_ICR, icr(0x0000000a, 0x845)); /* logical: cluster 0, members 1 and 3 */
	assert_int_equal(reached(0x45), 10);
	wr(0, MSR_ICR, icr(0x0001000a, 0x845)); /* cluster 1: nobody */
	assert_int_equal(reached(0x45), 0);
	/* lowest priority goes to the one with the lowest TPR, one only */
	wr(1, MSR_TPR, 0x50);
	wr(3, MSR_TPR, 0x20);
	wr(0, MSR_ICR, icr(0x0000000a, 0x946));
	assert_int_equal(reached(0x46), 8);
	wr(1, MSR_TPR, 0);
	wr(3, MSR_TPR, 0);
	/* INIT, SIPI, NMI become requests */
	wr(0, MSR_ICR, icr(1, 0x4500));
	assert_int_equal(vm->vcpus[1]->requests, VCPU_REQUEST_INIT);
	wr(0, MSR_ICR, icr(1, 0x8500)); /* INIT level de-assert */
	wr(0, MSR_ICR, icr(1, 0x4699));
	assert_int_equal(vm->vcpus[1]->requests, VCPU_REQUEST_INIT | VCPU_REQUEST_SIPI);
	assert_int_equal(vm->vcpus[1]->sipi_vector, 0x99);
	wr(0, MSR_ICR, icr(3, 0x4400));
	assert_int_equal(vm->vcpus[3]->requests, VCPU_REQUEST_NMI);
	/* PV IPI */
	assert_int_equal(lapic_pv_send_ipi(vm, 0x7, 0, 1, 0x50), 3);
	assert_int_equal(reached(0x50), 14);
	assert_int_equal(lapic_pv_send_ipi(vm, 1, 1, 0, 0x51), 1);
	assert_int_equal(reached(0x51), 1);
	assert_int_equal(lapic_pv_send_ipi(vm, UINT64_MAX, UINT64_MAX, 0xfffffff0, 0x51), 0);
	assert_int_equal(lapic_pv_send_ipi(vm, 1, 0, 0, 0x500), -22);
}

static void test_msi(void **state)
{
	(void)state;
	msi_send(vm, 0xfee02000, 0x60);
	assert_int_equal(reached(0x60), 4);
	msi_send(vm, 0xfeeff000, 0x61); /* broadcast */
	assert_int_equal(reached(0x61), 15);
	msi_send(vm, 0xfee03004, 0x62); /* logical */
	assert_int_equal(reached(0x62), 3);
	msi_send(vm, 0xfee03004, 0x163); /* logical, lowest priority */
	assert_int_equal(__builtin_popcount(reached(0x63)), 1);
	msi_send(vm, 0xfed00000, 0x64);
	msi_send(vm, 0x1fee00000, 0x64);
	assert_int_equal(reached(0x64), 0);
}

static void test_timer(void **state)
{
	(void)state;
	wr(0, MSR_DIVIDE, 0xb); /* by 1 */
	wr(0, MSR_LVT_TIMER, 0x40);
	wr(0, MSR_INITIAL, 1000000);
	test_advance(vm, 400000);
	assert_in_range(rd(0, MSR_CURRENT), 599990, 600000);
	assert_int_equal(take(0), -1);
	test_advance(vm, 600000);
	assert_int_equal(take(0), 0x40);
	assert_int_equal(rd(0, MSR_CURRENT), 0);
	eoi(0);
	test_advance(vm, 10000000);
	assert_int_equal(take(0), -1);
	/* periodic, divided by 16 */
	wr(0, MSR_DIVIDE, 3);
	wr(0, MSR_LVT_TIMER, 0x20041);
	wr(0, MSR_INITIAL, 62500);
	for (unsigned i = 0; i < 20; i++) {
		test_advance(vm, 1000000);
		assert_int_equal(take(0), 0x41);
		eoi(0);
		assert_int_equal(take(0), -1);
	}
	test_advance(vm, 500000);
	assert_in_range(rd(0, MSR_CURRENT), 31240, 31260);
	wr(0, MSR_LVT_TIMER, 0x30041); /* masked: runs on, silently */
	test_advance(vm, 1000000);
	assert_int_equal(take(0), -1);
	wr(0, MSR_INITIAL, 0);
	/* A period of one nanosecond does not hang anything. */
	wr(0, MSR_DIVIDE, 0xb);
	wr(0, MSR_LVT_TIMER, 0x20042);
	wr(0, MSR_INITIAL, 1);
	test_advance(vm, 1000000);
	assert_int_equal(take(0), 0x42);
	wr(0, MSR_INITIAL, 0);
	eoi(0);
	take(0);
	eoi(0);
	/* TSC deadline */
	wr(0, X86_MSR_TSC_DEADLINE, 12345); /* ignored in another mode */
	assert_int_equal(rd(0, X86_MSR_TSC_DEADLINE), 0);
	wr(0, MSR_LVT_TIMER, 0x40043);
	wr(0, MSR_INITIAL, 1000);
	assert_int_equal(rd(0, MSR_INITIAL), 0);
	wr(0, X86_MSR_TSC_DEADLINE, vm_tsc_frequency(vm)); /* a second on the frozen clock: TSC 0 is now */
	assert_int_equal(rd(0, X86_MSR_TSC_DEADLINE), vm_tsc_frequency(vm));
	test_advance(vm, 900000000);
	assert_int_equal(take(0), -1);
	test_advance(vm, 200000000);
	assert_int_equal(take(0), 0x43);
	assert_int_equal(rd(0, X86_MSR_TSC_DEADLINE), 0);
	eoi(0);
	wr(0, X86_MSR_TSC_DEADLINE, 1);
	wr(0, X86_MSR_TSC_DEADLINE, vm_tsc_frequency(vm) * 10);
	wr(0, X86_MSR_TSC_DEADLINE, 0); /* disarmed */
	take(0);
	eoi(0);
	test_advance(vm, 20000000000ull);
	assert_int_equal(take(0), -1);
}

static void test_extint(void **state)
{
	struct irq_line irq5 = i8259_input(pic, 5);

	(void)state;
	out8(vm, 0x20, 0x11);
	out8(vm, 0x21, 0x20);
	out8(vm, 0x21, 4);
	out8(vm, 0x21, 1);
	irq_set(&irq5, true);
	assert_true(vm->vcpus[0]->irq_pending); /* virtual wire to the BSP from the start */
	assert_false(vm->vcpus[1]->irq_pending);
	assert_true(pending(0) >= 0);
	assert_int_equal(take(0), 0x25);
	out8(vm, 0x20, 0x20);
	assert_int_equal(take(0), -1);
	irq_set(&irq5, false);
	/* LINT0 masked: nothing; unmasked while INTR is high: at once */
	enable_x2apic();
	wr(0, MSR_LINT0, 0x10700);
	irq_set(&irq5, true);
	assert_int_equal(take(0), -1);
	wr(0, MSR_LINT0, 0x700);
	assert_int_equal(take(0), 0x25);
	out8(vm, 0x20, 0x20);
	irq_set(&irq5, false);
	/* LINT0 as a fixed interrupt */
	wr(0, MSR_LINT0, 0x50);
	irq_set(&irq5, true);
	assert_int_equal(take(0), 0x50);
	eoi(0);
	assert_int_equal(i8259_acknowledge(pic), 0x25);
	out8(vm, 0x20, 0x20);
	irq_set(&irq5, false);
	/* NMI on LINT1 */
	wr(1, MSR_LINT1, 0x400);
	apic_bus_nmi(bus);
	assert_int_equal(vm->vcpus[1]->requests, VCPU_REQUEST_NMI);
	assert_int_equal(vm->vcpus[0]->requests, 0);
	/* with the APIC off, the BSP takes the PIC's interrupts directly */
	wr(0, X86_MSR_APIC_BASE, LAPIC_DEFAULT_BASE);
	irq_set(&irq5, true);
	assert_int_equal(take(0), 0x25);
}

static void redirect(unsigned pin, uint32_t low, uint32_t high)
{
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, 0x11 + 2 * pin, 4);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, high, 4);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, 0x10 + 2 * pin, 4);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, low, 4);
}

static uint32_t entry(unsigned pin)
{
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, 0x10 + 2 * pin, 4);
	return (uint32_t)bus_read(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4);
}

static void test_ioapic(void **state)
{
	(void)state;
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, 1, 4);
	assert_int_equal(bus_read(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4), 0x170020);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, 0, 1);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 0x05000000, 4);
	assert_int_equal(bus_read(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4), 0x05000000);
	assert_int_equal(entry(3), 0x10000);
	/* edge */
	redirect(4, 0x34, 0x01000000);
	ioapic_set_irq(ioapic, 4, true);
	ioapic_set_irq(ioapic, 4, true);
	assert_int_equal(reached(0x34), 2);
	assert_int_equal(reached(0x34), 0);
	ioapic_set_irq(ioapic, 4, false);
	ioapic_set_irq(ioapic, 4, true);
	assert_int_equal(reached(0x34), 2);
	/* a masked edge that has gone is gone; one whose line is still high comes */
	redirect(5, 0x10035, 0);
	ioapic_set_irq(ioapic, 5, true);
	ioapic_set_irq(ioapic, 5, false);
	redirect(5, 0x35, 0);
	assert_int_equal(reached(0x35), 0);
	redirect(5, 0x10035, 0);
	ioapic_set_irq(ioapic, 5, true);
	redirect(5, 0x35, 0);
	assert_int_equal(reached(0x35), 1);
	/* level: remote IRR until the EOI, then again while the line is high */
	redirect(6, 0x8036, 0x02000000);
	ioapic_set_irq(ioapic, 6, true);
	assert_int_equal(entry(6), 0xc036);
	assert_int_equal(take(2), 0x36);
	assert_int_equal(rd(2, MSR_TMR + 1), 0x400000);
	ioapic_set_irq(ioapic, 6, true);
	assert_int_equal(take(2), -1);
	eoi(2);
	assert_int_equal(take(2), 0x36);
	ioapic_set_irq(ioapic, 6, false);
	eoi(2);
	assert_int_equal(take(2), -1);
	assert_int_equal(entry(6), 0x8036);
	/* the EOI register does the same; remote IRR is read-only, and cleared by a switch to edge */
	ioapic_set_irq(ioapic, 6, true);
	assert_int_equal(take(2), 0x36);
	ioapic_set_irq(ioapic, 6, false);
	bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x40, 0x36, 4);
	assert_int_equal(entry(6), 0x8036);
	redirect(6, 0xc036, 0x02000000);
	assert_int_equal(entry(6), 0x8036);
	eoi(2);
	ioapic_set_irq(ioapic, 6, true);
	assert_int_equal(entry(6), 0xc036);
	redirect(6, 0x10036, 0x02000000);
	assert_int_equal(entry(6), 0x10036);
	/* nonsense */
	ioapic_set_irq(ioapic, 24, true);
	ioapic_set_irq(ioapic, 1000000, true);
	for (unsigned i = 0; i < 256; i++) {
		bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE, i, 4);
		bus_write(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 0xffffffff, 4);
		bus_read(&vm->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4);
	}
}

static void test_pv_eoi(void **state)
{
	uint32_t *flag = guest_memory_host(&vm->memory, 0x5000, 4, true);

	(void)state;
	assert_int_equal(lapic_pv_eoi_write_msr(vm->vcpus[0], 0x5003), -1);
	assert_int_equal(lapic_pv_eoi_write_msr(vm->vcpus[0], MIB(100) | 1), -1);
	assert_int_equal(wr(0, 0x4b564d04, 0x5001), 0);
	assert_int_equal(rd(0, 0x4b564d04), 0x5001);
	assert_int_equal(lapic_pv_eoi_read_msr(vm->vcpus[0]), 0x5001);
	wr(0, MSR_SELF, 0x40);
	assert_int_equal(take(0), 0x40);
	assert_int_equal(*flag, 1);
	*flag = 0; /* the guest's EOI */
	assert_int_equal(rd(0, MSR_ISR + 2), 0); /* it shows */
	wr(0, MSR_SELF, 0x40);
	assert_int_equal(take(0), 0x40);
	*flag = 0;
	wr(1, MSR_ICR, icr(0, 0x40));
	assert_int_equal(take(0), 0x40); /* accepted again: the first had ended */
	assert_int_equal(*flag, 1);
	/* A lower one arrives while the guest is in the handler: a real EOI is needed. */
	wr(1, MSR_ICR, icr(0, 0x30));
	assert_true(vm->vcpus[0]->irq_pending);
	assert_int_equal(take(0), -1);
	assert_int_equal(*flag, 0);
	assert_false(vm->vcpus[0]->irq_pending);
	eoi(0);
	assert_int_equal(take(0), 0x30);
	/* With something else waiting it is not armed. */
	eoi(0);
	*flag = 0;
	wr(0, MSR_SELF, 0x41);
	wr(0, MSR_SELF, 0x31);
	assert_int_equal(take(0), 0x41);
	assert_int_equal(*flag, 0);
	eoi(0);
	assert_int_equal(take(0), 0x31);
	assert_int_equal(*flag, 1);
	*flag = 0;
	/* A lower one arrives after the guest's EOI. */
	wr(1, MSR_ICR, icr(0, 0x20));
	assert_int_equal(take(0), 0x20);
	/* Level-triggered ones always end with a real EOI. */
	eoi(0);
	redirect(7, 0x8037, 0);
	ioapic_set_irq(ioapic, 7, true);
	assert_int_equal(take(0), 0x37);
	assert_int_equal(*flag, 0);
	ioapic_set_irq(ioapic, 7, false);
	eoi(0);
	assert_int_equal(entry(7), 0x8037);
}

/* ---- with threads ---- */

#define ROUNDS 200000

static _Atomic unsigned taken[CPUS];
static _Atomic bool mmio_done;

static void *poster(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned seen = taken[1];

		msi_send(vm, 0xfee01000, 0x40 + i % 64);
		while (taken[1] == seen)
			sched_yield();
	}
	return NULL;
}

/* Takes interrupts and halts, like an idle guest. */
static enum vcpu_exit run_idle(struct vcpu *vcpu)
{
	while (!atomic_load(&vcpu->requests)) {
		int vector = vcpu->irq_pending ? vcpu->apic_ops->acknowledge(vcpu->apic) : -1;

		if (vector < 0)
			return VCPU_EXIT_HALTED;
		vcpu->apic_ops->eoi(vcpu->apic);
		taken[vcpu->index]++;
	}
	return VCPU_EXIT_KICKED;
}

static void test_no_lost_interrupts(void **state)
{
	struct error err;
	pthread_t thread;

	(void)state;
	fake_run = run_idle;
	taken[1] = 0;
	vm->vcpus[1]->has_boot_state = true; /* runnable, so that it is entered */
	assert_int_equal(vm_start(vm, &err), 0);
	pthread_create(&thread, NULL, poster, NULL);
	pthread_join(thread, NULL);
	assert_int_equal(taken[1], ROUNDS);
	vm_pause(vm);
	fake_run = NULL;
}

static enum vcpu_exit run_mmio(struct vcpu *vcpu)
{
	struct bus *mmio = &vcpu->vm->mmio;

	if (vcpu->index != 0 || mmio_done)
		return VCPU_EXIT_HALTED;
	assert_int_equal(bus_read(mmio, 0xfee00030, 4), 0x50014);
	assert_int_equal(bus_read(mmio, 0xfee00020, 4), 0);
	bus_write(mmio, 0xfee000f0, 0x1ff, 4);
	bus_write(mmio, 0xfee000d0, 0x01000000, 4);
	assert_int_equal(bus_read(mmio, 0xfee000d0, 4), 0x01000000);
	bus_write(mmio, 0xfee00310, 0x01000000, 4);
	bus_write(mmio, 0xfee00300, 0x00000840, 4); /* logical, flat, to ourselves */
	assert_int_equal(vcpu->apic_ops->acknowledge(vcpu->apic), 0x40);
	bus_write(mmio, 0xfee000b0, 0, 4);
	bus_write(mmio, 0xfee000e0, 0, 4); /* cluster model */
	assert_int_equal(bus_read(mmio, 0xfee000e0, 4), 0x0fffffff);
	bus_write(mmio, 0xfee000d0, 0x32000000, 4); /* cluster 3, member 1 */
	bus_write(mmio, 0xfee00310, 0x33000000, 4);
	bus_write(mmio, 0xfee00300, 0x00000841, 4);
	assert_int_equal(vcpu->apic_ops->acknowledge(vcpu->apic), 0x41);
	bus_write(mmio, 0xfee000b0, 0, 4);
	bus_write(mmio, 0xfee00310, 0x23000000, 4);
	bus_write(mmio, 0xfee00300, 0x00000841, 4);
	assert_int_equal(vcpu->apic_ops->acknowledge(vcpu->apic), -1);
	/* off: nobody answers */
	assert_int_equal(vcpu->apic_ops->write_msr(vcpu->apic, X86_MSR_APIC_BASE, 0xfee00100), 0);
	assert_int_equal(bus_read(mmio, 0xfee00030, 4), 0xffffffff);
	/* elsewhere */
	assert_int_equal(vcpu->apic_ops->write_msr(vcpu->apic, X86_MSR_APIC_BASE, 0xfed40900), 0);
	assert_int_equal(bus_read(mmio, 0xfee00030, 4), 0xffffffff);
	assert_int_equal(bus_read(mmio, 0xfed40030, 4), 0x50014);
	/* anything anywhere */
	for (unsigned offset = 0; offset < 0x1000; offset += 4) {
		bus_read(mmio, 0xfed40000 + offset, 4);
		if (offset != 0x300)
			bus_write(mmio, 0xfed40000 + offset, 0xffffffff, 4);
	}
	mmio_done = true;
	return VCPU_EXIT_HALTED;
}

static void test_mmio(void **state)
{
	struct error err;

	(void)state;
	fake_run = run_mmio;
	mmio_done = false;
	assert_int_equal(bus_read(&vm->mmio, 0xfee00030, 4), 0xffffffff); /* not a vCPU */
	assert_int_equal(vm_start(vm, &err), 0);
	for (unsigned i = 0; i < 1000 && !mmio_done; i++)
		usleep(1000);
	assert_true(mmio_done);
	vm_pause(vm);
	fake_run = NULL;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_x2, teardown)
#define TEST_X1(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_priorities), TEST(test_registers), TEST_X1(test_base), TEST(test_ipis), TEST(test_msi),
		TEST(test_timer), TEST_X1(test_extint), TEST(test_ioapic), TEST(test_pv_eoi),
		TEST(test_no_lost_interrupts), TEST_X1(test_mmio),
	};

	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
