/* SPDX-License-Identifier: MIT */
/*
 * Running a vCPU (api.rst, KVM_RUN and "The kvm_run structure").
 *
 * Kicks. Whoever wants the vCPU's attention stores what it wants (requests, irq_pending), then sets immediate_exit, then
 * looks at in_run and signals the thread if it is set. The thread clears immediate_exit, sets in_run, then looks at what is
 * wanted, then enters the kernel. So a wish that the look missed makes KVM_RUN return at once or be interrupted.
 *
 * Interrupts. The local APIC is our model; the kernel tells after each exit whether an interrupt could be injected
 * (ready_for_interrupt_injection), and exits when it becomes so if asked (request_interrupt_window). The task priority register is
 * shared through kvm_run.cr8: the kernel exits only when the guest lowers it, so every exit looks at it.
 *
 * An I/O exit leaves the instruction half done: the next KVM_RUN completes it. Nobody may look at the state before,
 * hence kvm_complete_io().
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "engine/kvm/kvm.h"

#define COMPLETE_MAX 64 /* pieces that one instruction's I/O can come in */

/* ---- kicks ---- */

void kvm_vcpu_kick(struct vcpu *vcpu)
{
	struct kvm_vcpu *k = vcpu->engine_data;

	if (vcpu_current() == vcpu)
		return; /* between two KVM_RUNs: it will look */
	__atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&k->in_run) && atomic_load(&k->thread_known))
		pthread_kill(k->thread, SIGRTMIN);
}

static void prepare_thread(struct kvm_vcpu *k)
{
	sigset_t set;

	k->thread = pthread_self();
	atomic_store(&k->thread_known, true);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- exits ---- */

static bool power_of_two(unsigned n)
{
	return (n & (n - 1)) == 0;
}

static void do_pio(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct bus *bus = &k->vcpu->vm->pio;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size;

	k->vcpu->stats.pio += run->io.count;
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint64_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			bus_write(bus, run->io.port, value, size);
		} else {
			value = bus_read(bus, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
	k->incomplete = true;
}

static void do_mmio(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct bus *bus = &k->vcpu->vm->mmio;
	unsigned len = MIN(run->mmio.len, 8u);

	k->vcpu->stats.mmio++;
	/* An access across a page comes in pieces of any length. */
	for (unsigned done = 0; done < len;) {
		unsigned size = len - done;
		uint64_t value = 0;

		while (!power_of_two(size))
			size &= size - 1;
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + done, size);
			bus_write(bus, run->mmio.phys_addr + done, value, size);
		} else {
			value = bus_read(bus, run->mmio.phys_addr + done, size);
			memcpy(run->mmio.data + done, &value, size);
		}
		done += size;
	}
	k->incomplete = true;
}

/* Exits that the vCPU loop need not know of: true if it was one. */
static bool handle_exit(struct kvm_vcpu *k, enum vcpu_exit *why)
{
	struct kvm_run *run = k->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		do_pio(k);
		return true;
	case KVM_EXIT_MMIO:
		do_mmio(k);
		return true;
	case KVM_EXIT_X86_RDMSR:
		kvm_read_msr_exit(k);
		return true;
	case KVM_EXIT_X86_WRMSR:
		kvm_write_msr_exit(k);
		return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		if (k->vcpu->vm->eoi_handler)
			k->vcpu->vm->eoi_handler(k->vcpu->vm->eoi_opaque, run->eoi.vector);
		return true;
	case KVM_EXIT_HLT:
		k->mp_state = X86_MP_HALTED;
		return true;
	case KVM_EXIT_SHUTDOWN:
		*why = VCPU_EXIT_SHUTDOWN;
		return false;
	case KVM_EXIT_DEBUG:
		*why = VCPU_EXIT_DEBUG;
		return false;
	default: /* the guest did something that the kernel cannot do: it dies of it */
		kvm_explain_exit(k);
		*why = VCPU_EXIT_SHUTDOWN;
		return false;
	}
}

void kvm_complete_io(struct kvm_vcpu *k)
{
	enum vcpu_exit why;

	for (unsigned i = 0; k->incomplete && i < COMPLETE_MAX; i++) {
		k->incomplete = false;
		k->run->immediate_exit = 1;
		if (ioctl(k->fd, KVM_RUN, 0) && (errno == EINTR || errno == EAGAIN))
			return;
		if (!handle_exit(k, &why))
			return;
	}
}

/* ---- interrupts ---- */

static bool wakes(struct kvm_vcpu *k)
{
	struct vcpu *vcpu = k->vcpu;

	if (k->nmi_due)
		return true;
	return k->run->if_flag && vcpu->apic_ops && vcpu->apic_ops->pending_vector(vcpu->apic) >= 0;
}

static void inject(struct kvm_vcpu *k)
{
	struct vcpu *vcpu = k->vcpu;
	struct kvm_interrupt interrupt;
	int vector = vcpu->apic_ops->acknowledge(vcpu->apic);

	if (vector < 0)
		return;
	interrupt.irq = (uint32_t)vector;
	if (ioctl(k->fd, KVM_INTERRUPT, &interrupt))
		log_warn("kvm: interrupt 0x%02x is lost: %s", (unsigned)vector, strerror(errno));
	k->run->ready_for_interrupt_injection = 0;
	vcpu->stats.interrupts++;
}

static void offer_interrupts(struct kvm_vcpu *k)
{
	struct vcpu *vcpu = k->vcpu;
	struct kvm_run *run = k->run;

	if (!vcpu->apic_ops)
		return;
	if (atomic_load(&vcpu->irq_pending) && run->ready_for_interrupt_injection && run->if_flag)
		inject(k);
	run->request_interrupt_window = atomic_load(&vcpu->irq_pending) != 0;
	if (!k->kvm->kernel_apic)
		run->cr8 = vcpu->apic_ops->read_tpr(vcpu->apic);
}

/* ---- vcpu_run ---- */

/* Enter the guest; false: *why to leave vcpu_run(). */
static bool enter(struct kvm_vcpu *k, enum vcpu_exit *why)
{
	struct vcpu *vcpu = k->vcpu;
	struct kvm_run *run = k->run;
	uint64_t cr8 = run->cr8;
	int rc = ioctl(k->fd, KVM_RUN, 0);

	atomic_store(&k->in_run, 0);
	k->incomplete = false;
	if (run->cr8 != cr8 && vcpu->apic_ops && !k->kvm->kernel_apic)
		vcpu->apic_ops->write_tpr(vcpu->apic, run->cr8);
	if (rc) {
		if (errno == EINTR || errno == EAGAIN)
			return true;
		error_set_errno(&vcpu->exit_error, errno, "kvm: KVM_RUN failed");
		*why = VCPU_EXIT_ERROR;
		return false;
	}
	k->exits_by_reason[run->exit_reason & 63]++;
	return handle_exit(k, why);
}

enum vcpu_exit kvm_vcpu_run(struct vcpu *vcpu)
{
	struct kvm_vcpu *k = vcpu->engine_data;
	enum vcpu_exit why = VCPU_EXIT_KICKED;

	if (unlikely(!atomic_load_explicit(&k->thread_known, memory_order_relaxed)))
		prepare_thread(k);
	kvm_sync_tsc(k);
	if (unlikely(k->debug_changed))
		kvm_apply_debug(k);
	for (;;) {
		__atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		atomic_store(&k->in_run, 1);
		if (unlikely(atomic_load(&vcpu->requests))) {
			why = VCPU_EXIT_KICKED;
			break;
		}
		if (k->mp_state != X86_MP_RUNNABLE && !k->kvm->kernel_apic) {
			if (k->incomplete)
				kvm_complete_io(k);
			if (k->mp_state == X86_MP_WAIT_FOR_SIPI || !wakes(k)) {
				why = VCPU_EXIT_HALTED;
				break;
			}
			k->mp_state = X86_MP_RUNNABLE;
			k->nmi_due = false;
			continue;
		}
		offer_interrupts(k);
		if (!enter(k, &why))
			break;
	}
	atomic_store(&k->in_run, 0);
	kvm_complete_io(k);
	return why;
}
