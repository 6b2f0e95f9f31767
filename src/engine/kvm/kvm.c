/* SPDX-License-Identifier: MIT */
/*
 * The kvm engine: virtual CPUs run by the hypervisor in the host's kernel.
 *
 * Devices, PIC and I/O APIC are ours. The local APICs are the kernel's where guest code runs on the processor (kvm_apic.c),
 * else ours as well: then the kernel is asked for vCPUs and memory only ("userspace irqchip").
 *
 * Source: Linux Documentation/virt/kvm/api.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/kvm/kvm.h"

/* Three pages and one page that Intel processors without "unrestricted guest" need for real mode (KVM_SET_TSS_ADDR,
 * KVM_SET_IDENTITY_MAP_ADDR): below the BIOS at the end of 4 GiB, where no board has anything. */
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull
#define TSS_ADDRESS 0xfffbd000ull

extern const struct engine kvm_engine;

/* ---- probe ---- */

static void probe(struct engine_probe *result)
{
	const struct kvm_findings *found = kvm_findings();

	result->usable = found->usable;
	result->crippled = found->emulated;
	result->ns_per_instruction = found->ns_per_instruction;
	result->ns_per_exit = found->ns_per_exit;
	snprintf(result->reason, sizeof(result->reason), "%s", found->reason);
	snprintf(result->advice, sizeof(result->advice), "%s", found->advice);
	/* bt's rank is 10. */
	result->rank = found->emulated ? 1 : 100;
}

static const char *missing_features(void)
{
	return kvm_features()->unemulated;
}

/* ---- VM ---- */

static void vm_free(struct kvm_vm *kvm)
{
	if (kvm->fd >= 0)
		close(kvm->fd);
	if (kvm->kvm_fd >= 0)
		close(kvm->kvm_fd);
	pthread_mutex_destroy(&kvm->route_lock);
	free(kvm);
}

static int add_memory(struct kvm_vm *kvm, struct vm *vm, struct error *err)
{
	for (unsigned n = 0; n < vm->memory.slot_count; n++) {
		const struct memory_slot *slot = &vm->memory.slots[n];
		struct kvm_userspace_memory_region region = {
			.slot = n,
			.flags = slot->readonly ? KVM_MEM_READONLY : 0,
			.guest_phys_addr = slot->gpa,
			.memory_size = slot->size,
			.userspace_addr = (uint64_t)slot->host,
		};

		if (ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &region))
			return error_set_errno(err, errno, "kvm: cannot give the guest memory '%s'",
					       slot->name);
	}
	return 0;
}

static bool extension(const struct kvm_vm *kvm, unsigned long number)
{
	return ioctl(kvm->fd, KVM_CHECK_EXTENSION, number) > 0;
}

static void warn_if_crippled(void)
{
	const struct kvm_findings *found = kvm_features();

	if (found->emulated)
		log_warn("kvm is %s: %s", found->reason, found->advice);
	if (found->unemulated[0])
		log_warn("kvm cannot execute here, so the guest is not told of: %s",
			 found->unemulated);
}

static int open_vm(struct kvm_vm *kvm, struct vm *vm, struct error *err)
{
	uint64_t identity_map = IDENTITY_MAP_ADDRESS;
	int size;

	kvm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->kvm_fd < 0)
		return error_set_errno(err, errno, "cannot open /dev/kvm");
	do {
		kvm->fd = ioctl(kvm->kvm_fd, KVM_CREATE_VM, 0);
	} while (kvm->fd < 0 && errno == EINTR);
	if (kvm->fd < 0)
		return error_set_errno(err, errno, "kvm: cannot create the virtual machine");
	size = ioctl(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return error_set_errno(err, errno, "kvm: impossible size of a virtual CPU's page");
	kvm->run_size = (unsigned)size;
	if (!extension(kvm, KVM_CAP_IMMEDIATE_EXIT) || !extension(kvm, KVM_CAP_VCPU_EVENTS))
		return error_set(err, 0, "kvm: this kernel is too old (4.13 or later is needed)");
	kvm->has_xcrs = extension(kvm, KVM_CAP_XCRS);
	kvm->has_debugregs = extension(kvm, KVM_CAP_DEBUGREGS);
	/* Not offered where the kernel needs neither. */
	ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	ioctl(kvm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	kvm_take_apics(kvm, vm);
	return kvm_filter_msrs(kvm, err) || add_memory(kvm, vm, err) ? -1 : 0;
}

static void on_kick(int number)
{
	(void)number; /* its arrival ends KVM_RUN */
}

static int vm_create_kvm(struct vm *vm, struct error *err)
{
	struct sigaction action = { .sa_handler = on_kick };
	struct kvm_vm *kvm = calloc(1, sizeof(*kvm));

	if (!kvm)
		return error_set(err, ENOMEM, "out of memory");
	kvm->fd = kvm->kvm_fd = -1;
	pthread_mutex_init(&kvm->route_lock, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	vm->engine_data = kvm;
	if (open_vm(kvm, vm, err)) {
		vm->engine_data = NULL;
		vm->engine_apic = NULL;
		vm_free(kvm);
		return -1;
	}
	warn_if_crippled();
	return 0;
}

static void vm_destroy_kvm(struct vm *vm)
{
	vm_free(vm->engine_data);
	vm->engine_data = NULL;
	vm->engine_apic = NULL;
}

/* ---- vCPUs ---- */

static void vcpu_destroy_kvm(struct vcpu *vcpu)
{
	struct kvm_vcpu *k = vcpu->engine_data;

	vcpu->engine_data = NULL;
	if (k->run)
		munmap(k->run, k->kvm->run_size);
	if (k->fd >= 0)
		close(k->fd);
	free(k);
}

static int open_vcpu(struct kvm_vcpu *k, struct error *err)
{
	struct kvm_device_attr tsc = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
	void *run;

	k->fd = ioctl(k->kvm->fd, KVM_CREATE_VCPU, (unsigned long)k->vcpu->apic_id);
	if (k->fd < 0)
		return error_set_errno(err, errno, "kvm: cannot create a virtual CPU");
	run = mmap(NULL, k->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (run == MAP_FAILED)
		return error_set_errno(err, errno, "kvm: cannot map a virtual CPU's page");
	k->run = run;
	k->kvm->has_tsc_offset = ioctl(k->fd, KVM_HAS_DEVICE_ATTR, &tsc) == 0;
	if (kvm_set_cpuid(k, err))
		return -1;
	if (k->vcpu->index == 0)
		kvm_list_msrs(k);
	return 0;
}

static int vcpu_create_kvm(struct vcpu *vcpu, struct error *err)
{
	struct kvm_vcpu *k = calloc(1, sizeof(*k));

	if (!k)
		return error_set(err, ENOMEM, "out of memory");
	k->fd = -1;
	k->vcpu = vcpu;
	k->kvm = vcpu->vm->engine_data;
	vcpu->engine_data = k;
	if (open_vcpu(k, err)) {
		vcpu_destroy_kvm(vcpu);
		return -1;
	}
	return 0;
}

/* ---- the rest ---- */

static void memory_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	(void)vm, (void)gpa, (void)len; /* the processor sees it by itself */
}

static void print_stats(struct vm *vm, FILE *out)
{
	fputs("kvm exits:\n", out);
	for (unsigned reason = 0; reason < 64; reason++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < vm->vcpu_count; i++) {
			const struct kvm_vcpu *k = vm->vcpus[i]->engine_data;

			sum += k ? k->exits_by_reason[reason] : 0;
		}
		if (sum)
			fprintf(out, "  %-20s %12llu\n", kvm_exit_name(reason),
				(unsigned long long)sum);
	}
}

const struct engine kvm_engine = {
	.name = "kvm",
	.probe = probe,
	.vm_create = vm_create_kvm,
	.vm_destroy = vm_destroy_kvm,
	.vcpu_create = vcpu_create_kvm,
	.vcpu_destroy = vcpu_destroy_kvm,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.translate = kvm_translate,
	.memory_written = memory_written,
	.set_breakpoint = kvm_set_breakpoint,
	.set_single_step = kvm_set_single_step,
	.filter_cpuid = kvm_filter_cpuid,
	.missing_features = missing_features,
	.print_stats = print_stats,
};
