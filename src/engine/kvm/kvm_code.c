/* SPDX-License-Identifier: MIT */
/*
 * A throw-away VM that runs pieces of 64-bit kernel code: what the probe finds things out with. 2 MiB of memory, mapped one to
 * one by one large page; no devices, no interrupts, no IDT.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"

#define MEMORY_SIZE 0x200000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define DATA 0x8000u
#define CODE 0x10000u
#define PRESENT_WRITABLE 3u
#define LARGE 0x80u

static void put_entry(struct kvm_code *code, unsigned table, uint64_t entry)
{
	memcpy(code->memory + table, &entry, sizeof(entry));
}

int kvm_code_open(struct kvm_code *code, int kvm_fd, struct kvm_cpuid2 *cpuid, struct error *err)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };
	int size;
	void *map;

	*code = (struct kvm_code){ .kvm_fd = kvm_fd, .vm_fd = -1, .vcpu_fd = -1 };
	do {
		code->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	} while (code->vm_fd < 0 && errno == EINTR);
	if (code->vm_fd < 0)
		return error_set_errno(err, errno,
				       "the kernel refuses to create a virtual machine");
	size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	map = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (size <= 0 || map == MAP_FAILED)
		return error_set_errno(err, errno, "no memory for a virtual machine");
	code->run_size = (unsigned)size;
	code->memory = map;
	region.userspace_addr = (uint64_t)map;
	if (ioctl(code->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return error_set_errno(err, errno,
				       "the kernel refuses memory for a virtual machine");
	code->vcpu_fd = ioctl(code->vm_fd, KVM_CREATE_VCPU, 0);
	if (code->vcpu_fd < 0)
		return error_set_errno(err, errno, "the kernel refuses to create a virtual CPU");
	map = mmap(NULL, code->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, code->vcpu_fd, 0);
	if (map == MAP_FAILED)
		return error_set_errno(err, errno, "a virtual CPU cannot be mapped");
	code->run = map;
	if (ioctl(code->vcpu_fd, KVM_SET_CPUID2, cpuid))
		return error_set_errno(err, errno,
				       "the kernel refuses the CPUID that it announces");
	put_entry(code, PML4, PDPT | PRESENT_WRITABLE);
	put_entry(code, PDPT, PD | PRESENT_WRITABLE);
	put_entry(code, PD, LARGE | PRESENT_WRITABLE);
	return 0;
}

void kvm_code_close(struct kvm_code *code)
{
	if (code->run)
		munmap(code->run, code->run_size);
	if (code->vcpu_fd >= 0)
		close(code->vcpu_fd);
	if (code->vm_fd >= 0)
		close(code->vm_fd);
	if (code->memory)
		munmap(code->memory, MEMORY_SIZE);
}

static int set_registers(struct kvm_code *code)
{
	const struct kvm_segment cs = {
		.selector = 8, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	const struct kvm_segment ds = {
		.selector = 16, .limit = ~0u, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	struct kvm_regs regs = { .rip = CODE, .rsp = DATA, .rdi = DATA, .rflags = X86_FLAG_R1 };
	struct kvm_sregs sregs;

	if (ioctl(code->vcpu_fd, KVM_GET_SREGS, &sregs))
		return -1;
	sregs.cs = cs;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = ds;
	sregs.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
	sregs.cr3 = PML4;
	sregs.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	sregs.efer = X86_EFER_LME | X86_EFER_LMA;
	return ioctl(code->vcpu_fd, KVM_SET_SREGS, &sregs) ||
			       ioctl(code->vcpu_fd, KVM_SET_REGS, &regs) ?
		       -1 :
		       0;
}

int kvm_code_run(struct kvm_code *code, const uint8_t *bytes, unsigned length)
{
	memcpy(code->memory + CODE, bytes, length);
	return set_registers(code) ? -1 : kvm_code_continue(code);
}

int kvm_code_continue(struct kvm_code *code)
{
	for (int tries = 0; tries < 100; tries++) {
		if (!ioctl(code->vcpu_fd, KVM_RUN, 0))
			return (int)code->run->exit_reason;
		if (errno != EINTR && errno != EAGAIN)
			return -1;
	}
	return -1;
}
