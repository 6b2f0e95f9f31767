/* SPDX-License-Identifier: MIT */
/*
 * What this host's /dev/kvm is worth. Three cases:
 *
 * - none: no device, no permission, or no hypervisor behind it. The reason and the remedy are told.
 * - real: guest kernel code runs on the processor. A loop takes about a cycle an instruction.
 * - emulated: the device is there, but kernel code is emulated in software instruction by instruction, hundreds
 *   of times slower (software-only back ends such as PVM, and some nested hypervisors). Such emulators do not
 *   know every instruction that CPUID announces, so those that guests use are tried one by one.
 *
 * Done once a process, and the instructions are tried only when somebody asks for features: `auto` on a machine where
 * bt is the answer costs two milliseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "engine/kvm/kvm.h"

#define LOOPS 200        /* of two instructions */
#define EMULATED_NS 20.0 /* an instruction: a slow processor takes 1, an emulator hundreds */
#define EXITS 10
#define CPUID_MAX 256
#define DONE_PORT 0x80

static struct kvm_findings findings;
static pthread_once_t looked = PTHREAD_ONCE_INIT, tried = PTHREAD_ONCE_INIT;

/* ---- time ---- */

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double min(double a, double b)
{
	return a < b ? a : b;
}

/* mov ecx, loops; 1: dec ecx; jnz 1b; 2: out DONE_PORT, eax; jmp 2b */
static int run_loop(struct kvm_code *code, uint32_t loops, double *ns)
{
	uint8_t bytes[] = { 0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xe7, DONE_PORT, 0xeb, 0xfc };
	double start;
	int reason;

	memcpy(bytes + 1, &loops, sizeof(loops));
	start = now_ns();
	reason = kvm_code_run(code, bytes, sizeof(bytes));
	*ns = now_ns() - start;
	return reason;
}

/* Emulators look for interrupts between batches of instructions only, and lose those that a HLT in the midst of one should
 * wake up for: there our own APICs are better. LODGE_KVM_APIC=kernel or =user overrides, for tests. */
static bool wants_kernel_apic(const struct kvm_findings *found)
{
	const char *wish = getenv("LODGE_KVM_APIC");

	if (wish && strcmp(wish, "kernel") == 0)
		return true;
	return !found->emulated && !(wish && strcmp(wish, "user") == 0);
}

static bool offers_kernel_apic(const struct kvm_code *code)
{
	return ioctl(code->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) > 0 &&
	       ioctl(code->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SIGNAL_MSI) > 0;
}

static int measure(struct kvm_code *code, struct kvm_findings *found)
{
	double base = 1e18, loop = 1e18, exit_ns = 1e18, ns;

	for (int i = 0; i < 3; i++) { /* the first also maps the pages */
		if (run_loop(code, 1, &ns) != KVM_EXIT_IO)
			return -1;
		base = min(base, ns);
	}
	for (int i = 0; i < EXITS; i++) {
		double start = now_ns();

		if (kvm_code_continue(code) != KVM_EXIT_IO)
			return -1;
		exit_ns = min(exit_ns, now_ns() - start);
	}
	for (int i = 0; i < 3; i++) { /* again only if it looks bad: we may have been interrupted */
		if (run_loop(code, LOOPS, &ns) != KVM_EXIT_IO)
			return -1;
		loop = min(loop, ns);
		if ((loop - base) / (2 * LOOPS) < EMULATED_NS)
			break;
	}
	found->ns_per_exit = exit_ns;
	found->ns_per_instruction = loop > base ? (loop - base) / (2 * LOOPS) : 0.1;
	found->emulated = found->ns_per_instruction >= EMULATED_NS;
	found->kernel_apic = wants_kernel_apic(found) && offers_kernel_apic(code);
	return 0;
}

/* ---- instructions that an emulator may not know ---- */

enum { EAX, EBX, ECX, EDX };

static const struct instruction {
	const char *name;
	uint32_t leaf;
	uint8_t reg, bit, length;
	uint8_t bytes[8];
} instructions[] = {
	{ "cx16", 1, ECX, 13, 4, { 0x48, 0x0f, 0xc7, 0x0f } },
	{ "pclmulqdq", 1, ECX, 1, 6, { 0x66, 0x0f, 0x3a, 0x44, 0xc0, 0x00 } },
	{ "ssse3", 1, ECX, 9, 5, { 0x66, 0x0f, 0x38, 0x00, 0x07 } },
	{ "sse4_1", 1, ECX, 19, 5, { 0x66, 0x0f, 0x38, 0x2a, 0x07 } },
	{ "sse4_2", 1, ECX, 20, 5, { 0xf2, 0x0f, 0x38, 0xf1, 0xc0 } },
	{ "movbe", 1, ECX, 22, 4, { 0x0f, 0x38, 0xf0, 0x07 } },
	{ "popcnt", 1, ECX, 23, 4, { 0xf3, 0x0f, 0xb8, 0x07 } },
	{ "aes", 1, ECX, 25, 5, { 0x66, 0x0f, 0x38, 0xdc, 0xc0 } },
	{ "rdrand", 1, ECX, 30, 3, { 0x0f, 0xc7, 0xf0 } },
	{ "clflush", 1, EDX, 19, 3, { 0x0f, 0xae, 0x3f } },
	{ "rdseed", 7, EBX, 18, 3, { 0x0f, 0xc7, 0xf8 } },
	{ "adx", 7, EBX, 19, 5, { 0x66, 0x0f, 0x38, 0xf6, 0xc0 } },
	{ "smap", 7, EBX, 20, 3, { 0x0f, 0x01, 0xca } },
	{ "clflushopt", 7, EBX, 23, 4, { 0x66, 0x0f, 0xae, 0x3f } },
	{ "clwb", 7, EBX, 24, 4, { 0x66, 0x0f, 0xae, 0x37 } },
	{ "rdpid", 7, ECX, 22, 4, { 0xf3, 0x0f, 0xc7, 0xf8 } },
	{ "abm", 0x80000001u, ECX, 5, 4, { 0xf3, 0x0f, 0xbd, 0xc0 } },
	{ "3dnowprefetch", 0x80000001u, ECX, 8, 3, { 0x0f, 0x0d, 0x0f } },
	{ "rdtscp", 0x80000001u, EDX, 27, 3, { 0x0f, 0x01, 0xf9 } },
};

/* What hangs on a TSC that can be set; see tsc_moves(). */
static const struct instruction tsc_features[] = {
	{ .name = "tsc_deadline_timer", .leaf = 1, .reg = ECX, .bit = 24 },
	{ .name = "tsc_adjust", .leaf = 7, .reg = EBX, .bit = 1 },
};

static uint32_t *feature_register(struct kvm_findings *found, const struct instruction *insn)
{
	for (uint32_t i = 0; i < found->cpuid_count; i++) {
		struct kvm_cpuid_entry2 *e = &found->cpuid[i];
		uint32_t *const regs[4] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

		if (e->function == insn->leaf && e->index == 0)
			return regs[insn->reg];
	}
	return NULL;
}

static bool works(struct kvm_code *code, const struct instruction *insn)
{
	uint8_t bytes[16];

	memcpy(bytes, insn->bytes, insn->length);
	memcpy(bytes + insn->length, (const uint8_t[]){ 0xe7, DONE_PORT },
	       2); /* out DONE_PORT, eax */
	return kvm_code_run(code, bytes, insn->length + 2u) == KVM_EXIT_IO;
}

static void mask(struct kvm_findings *found, const struct instruction *feature)
{
	size_t used = strlen(found->unemulated);
	uint32_t *reg = feature_register(found, feature);

	if (reg)
		*reg &= ~BIT(feature->bit);
	snprintf(found->unemulated + used, sizeof(found->unemulated) - used, "%s%s",
		 used ? " " : "", feature->name);
}

/* Does the guest read the TSC that it is given? rdtsc; shl rdx, 32; or rax, rdx; out DONE_PORT, eax */
static bool tsc_moves(struct kvm_code *code)
{
	static const uint8_t bytes[] = { 0x0f, 0x31, 0x48, 0xc1, 0xe2,     0x20,
					 0x48, 0x09, 0xd0, 0xe7, DONE_PORT };
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} tsc = { .header.nmsrs = 1, .entry = { .index = X86_MSR_TSC, .data = 1ull << 60 } };
	struct kvm_regs regs;

	return ioctl(code->vcpu_fd, KVM_SET_MSRS, &tsc) == 1 &&
	       kvm_code_run(code, bytes, sizeof(bytes)) == KVM_EXIT_IO &&
	       !ioctl(code->vcpu_fd, KVM_GET_REGS, &regs) && regs.rax >= 1ull << 60;
}

static void try_instructions(struct kvm_code *code, struct kvm_findings *found)
{
	for (unsigned i = 0; i < ARRAY_SIZE(instructions); i++) {
		const uint32_t *reg = feature_register(found, &instructions[i]);

		if (reg && (*reg & BIT(instructions[i].bit)) && !works(code, &instructions[i]))
			mask(found, &instructions[i]);
	}
	found->tsc_fixed = !tsc_moves(code);
	for (unsigned i = 0; found->tsc_fixed && i < ARRAY_SIZE(tsc_features); i++)
		mask(found, &tsc_features[i]);
}

/* ---- no KVM: why, and what to do ---- */

static bool file_contains(const char *path, const char *text)
{
	char line[8192];
	bool found = false;
	FILE *file = fopen(path, "re");

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = strstr(line, text) != NULL;
	fclose(file);
	return found;
}

static bool cpu_flag(const char *name)
{
	return file_contains("/proc/cpuinfo", name);
}

static void no_device(struct kvm_findings *found)
{
	bool intel = cpu_flag(" vmx"), amd = cpu_flag(" svm");

	if (intel || amd) {
		snprintf(found->reason, sizeof(found->reason),
			 "there is no /dev/kvm, though the processor has %s",
			 intel ? "VMX" : "SVM");
		snprintf(found->advice, sizeof(found->advice), "load the module: modprobe %s",
			 intel ? "kvm_intel" : "kvm_amd");
	} else if (cpu_flag(" hypervisor")) {
		snprintf(
			found->reason, sizeof(found->reason),
			"there is no /dev/kvm, and this is a virtual machine without nested virtualization");
		snprintf(found->advice, sizeof(found->advice),
			 "enable nested virtualization in the hypervisor that runs this machine");
	} else {
		snprintf(found->reason, sizeof(found->reason),
			 "there is no /dev/kvm, and the processor shows neither VMX nor SVM");
		snprintf(
			found->advice, sizeof(found->advice),
			"enable virtualization in the firmware's set-up, if there is such an option");
	}
}

static void cannot_open(struct kvm_findings *found, int code)
{
	if (code == ENOENT || code == ENODEV || code == ENXIO) {
		no_device(found);
	} else if (code == EACCES || code == EPERM) {
		snprintf(found->reason, sizeof(found->reason),
			 "/dev/kvm may not be opened: permission denied");
		snprintf(
			found->advice, sizeof(found->advice),
			"join the group that owns it (usually: adduser $USER kvm), then log in again");
	} else {
		snprintf(found->reason, sizeof(found->reason), "/dev/kvm cannot be opened: %s",
			 strerror(code));
		snprintf(found->advice, sizeof(found->advice),
			 "look at what the kernel says about kvm (dmesg)");
	}
}

/* ---- all of it ---- */

/* What the kernel announces, without empty leaves. */
static int get_cpuid(struct kvm_findings *found, int kvm_fd, struct kvm_cpuid2 *all)
{
	all->nent = CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, all))
		return -1;
	found->cpuid_count = 0;
	for (uint32_t i = 0; i < all->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &all->entries[i];

		if ((e->eax | e->ebx | e->ecx | e->edx) &&
		    found->cpuid_count < ARRAY_SIZE(found->cpuid))
			found->cpuid[found->cpuid_count++] = *e;
	}
	return 0;
}

static void judge(struct kvm_findings *found)
{
	found->usable = true;
	if (!found->emulated) {
		snprintf(found->reason, sizeof(found->reason),
			 "hardware assistance works: %.1f us an exit to lodge and back",
			 found->ns_per_exit / 1e3);
		return;
	}
	snprintf(found->reason, sizeof(found->reason),
		 "crippled: the host emulates guest kernel code at %.0f ns an instruction",
		 found->ns_per_instruction);
	snprintf(found->advice, sizeof(found->advice),
		 "engine bt is faster here; real hardware assistance needs %s",
		 cpu_flag(" hypervisor") ?
			 "nested virtualization enabled in the hypervisor that runs this machine" :
			 "the kernel's own kvm_intel or kvm_amd module");
}

/* Open /dev/kvm and a throw-away VM; 0, or -1 with the reason told. */
static int open_code(struct kvm_findings *found, struct kvm_code *code)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[CPUID_MAX];
	} all = { 0 };
	struct error err;
	int version, kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	*code = (struct kvm_code){ .kvm_fd = kvm_fd, .vm_fd = -1, .vcpu_fd = -1 };
	if (kvm_fd < 0) {
		cannot_open(found, errno);
		return -1;
	}
	version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		snprintf(found->reason, sizeof(found->reason),
			 "/dev/kvm has interface version %d, not %d", version, KVM_API_VERSION);
	else if (get_cpuid(found, kvm_fd, &all.header))
		snprintf(found->reason, sizeof(found->reason),
			 "/dev/kvm does not tell its CPUID: %s", strerror(errno));
	else if (kvm_code_open(code, kvm_fd, &all.header, &err))
		snprintf(found->reason, sizeof(found->reason), "/dev/kvm does not work: %.200s",
			 err.text);
	else
		return 0;
	return -1;
}

/* On a thread of its own: the kernel takes milliseconds to take a VM apart. */
static void *close_code(void *opaque)
{
	struct kvm_code *code = opaque;

	kvm_code_close(code);
	if (code->kvm_fd >= 0)
		close(code->kvm_fd);
	free(code);
	return NULL;
}

static void close_later(const struct kvm_code *code)
{
	struct kvm_code *copy = malloc(sizeof(*copy));
	pthread_t thread;

	if (!copy)
		return; /* the end of the process closes it */
	*copy = *code;
	if (pthread_create(&thread, NULL, close_code, copy))
		close_code(copy);
	else
		pthread_detach(thread);
}

static void look(void)
{
	struct kvm_code code;

	if (!open_code(&findings, &code)) {
		if (!measure(&code, &findings)) {
			judge(&findings);
		} else {
			snprintf(
				findings.reason, sizeof(findings.reason),
				"/dev/kvm does not work: it cannot run three instructions of 64-bit code");
			snprintf(findings.advice, sizeof(findings.advice),
				 "look at what the kernel says about kvm (dmesg)");
		}
	}
	close_later(&code);
}

static void try(void)
{
	struct kvm_code code;

	if (!findings.usable || !findings.emulated)
		return;
	if (!open_code(&findings, &code))
		try_instructions(&code, &findings);
	close_later(&code);
}

const struct kvm_findings *kvm_findings(void)
{
	pthread_once(&looked, look);
	return &findings;
}

const struct kvm_findings *kvm_features(void)
{
	kvm_findings();
	pthread_once(&tried, try);
	return &findings;
}
