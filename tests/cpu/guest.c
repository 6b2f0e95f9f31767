/* SPDX-License-Identifier: MIT */
/*
 * Running a test under an engine: a VM of one vCPU without devices, whose memory holds page tables, descriptor
 * tables and, as its whole kernel, one HLT for each exception vector.
 *
 * A test begins with set_state() in user mode (CPL 3) and ends when an exception handler halts: RIP then tells the
 * vector, and the interrupt frame on the kernel's stack the user state. The tests of a run share the VM, so
 * translations of earlier tests are there to be wrong.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu_test.h"
#include "machine/cpu_model.h"
#include "vm/vm.h"

#define RAM_SIZE (16ull << 20)

/* guest-physical */
enum {
	PHYS_GDT = 0x1000,
	PHYS_IDT = 0x2000,
	PHYS_TSS = 0x3000,
	PHYS_STUBS = 0x4000,
	PHYS_STACK = 0x5000, /* one page */
	PHYS_PML4 = 0x10000,
	PHYS_PDPT_LOW = 0x11000,
	PHYS_PD_LOW = 0x12000,
	PHYS_PT_CODE = 0x13000,
	PHYS_PT_DATA = 0x14000,
	PHYS_PDPT_HIGH = 0x15000,
	PHYS_PD_HIGH = 0x16000,
	PHYS_PT_KERNEL = 0x17000,
	PHYS_CODE = 0x100000,
	PHYS_DATA = 0x120000,
	PHYS_READONLY = 0x130000,
	PHYS_INDEX = 0x131000,
	PHYS_SCRATCH = 0x140000,
};
#define KERNEL 0xffffffff80000000ull /* linear address of guest-physical 0 */

/* The selectors Linux uses, so that pushed selectors compare equal. */
enum { SEL_KCODE = 0x10, SEL_KDATA = 0x18, SEL_UCODE32 = 0x23, SEL_UDATA = 0x2b, SEL_UCODE64 = 0x33, SEL_TSS = 0x40 };

static struct vm *vm;
static struct vcpu *vcpu;
static uint8_t *ram;
static uint64_t stats_runs;
static struct x86_cpu_state initial;

static void put64(uint64_t gpa, uint64_t value)
{
	memcpy(ram + gpa, &value, 8);
}

static uint64_t get64(uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, ram + gpa, 8);
	return value;
}

static void build_tables(void)
{
	enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40 };
	const uint64_t nx = 1ull << 63;

	put64(PHYS_PML4, PHYS_PDPT_LOW | P | W | U | A);
	put64(PHYS_PML4 + 8 * 511, PHYS_PDPT_HIGH | P | W | A);
	put64(PHYS_PDPT_LOW, PHYS_PD_LOW | P | W | U | A);
	put64(PHYS_PD_LOW + 8 * (CODE_BASE >> 21), PHYS_PT_CODE | P | W | U | A);
	put64(PHYS_PD_LOW + 8 * (DATA_BASE >> 21), PHYS_PT_DATA | P | W | U | A);
	for (unsigned i = 0; i < CODE_PAGES; i++)
		put64(PHYS_PT_CODE + 8 * i, (PHYS_CODE + PAGE * i) | P | W | U);
	for (unsigned i = 0; i < DATA_PAGES; i++)
		put64(PHYS_PT_DATA + 8 * i, (PHYS_DATA + PAGE * i) | P | W | U | nx);
	put64(PHYS_PT_DATA + 8 * ((READONLY_BASE - DATA_BASE) >> 12), PHYS_READONLY | P | U | nx);
	put64(PHYS_PT_DATA + 8 * ((INDEX_BASE - DATA_BASE) >> 12), PHYS_INDEX | P | U | nx);
	for (unsigned i = 0; i < SCRATCH_PAGES; i++)
		put64(PHYS_PT_DATA + 8 * (((SCRATCH_BASE - DATA_BASE) >> 12) + i), (PHYS_SCRATCH + PAGE * i) | P | W | U | nx);
	put64(PHYS_PDPT_HIGH + 8 * 510, PHYS_PD_HIGH | P | W | A);
	put64(PHYS_PD_HIGH, PHYS_PT_KERNEL | P | W | A);
	for (unsigned i = 0; i < 16; i++)
		put64(PHYS_PT_KERNEL + 8 * i, (uint64_t)i << 12 | P | W | A | D);

	put64(PHYS_GDT + SEL_KCODE, 0x00af9b000000ffffull);
	put64(PHYS_GDT + SEL_KDATA, 0x00cf93000000ffffull);
	put64(PHYS_GDT + (SEL_UCODE32 & ~7), 0x00cffb000000ffffull);
	put64(PHYS_GDT + (SEL_UDATA & ~7), 0x00cff3000000ffffull);
	put64(PHYS_GDT + (SEL_UCODE64 & ~7), 0x00affb000000ffffull);
	put64(PHYS_GDT + SEL_TSS, 0x67 | (uint64_t)PHYS_TSS << 16 | 0x8bull << 40 | (KERNEL >> 24 & 0xff) << 56);
	put64(PHYS_GDT + SEL_TSS + 8, KERNEL >> 32);
	put64(PHYS_TSS + 4, KERNEL + PHYS_STACK + PAGE);
	*(uint16_t *)(ram + PHYS_TSS + 102) = 104;
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = KERNEL + PHYS_STUBS + 8 * v;
		uint64_t type = v == 3 || v == 4 ? 0xee : 0x8e;

		put64(PHYS_IDT + 16 * v, (handler & 0xffff) | (uint64_t)SEL_KCODE << 16 | type << 40 |
						 (handler >> 16 & 0xffff) << 48);
		put64(PHYS_IDT + 16 * v + 8, handler >> 32);
		memcpy(ram + PHYS_STUBS + 8 * v, "\xf4\xeb\xfd\x90\x90\x90\x90\x90", 8); /* hlt; jmp to it */
	}
	memset(ram + PHYS_CODE, 0xcc, CODE_PAGES * PAGE);
	fill_readonly_page(ram + PHYS_READONLY);
	fill_index_page(ram + PHYS_INDEX);
	guest_memory_written(vm, 0, RAM_SIZE);
}

static struct x86_segment segment(uint16_t selector, uint16_t attr, uint32_t limit, uint64_t base)
{
	return (struct x86_segment){ .selector = selector, .attr = attr, .limit = limit, .base = base };
}

static void build_state(void)
{
	const uint16_t data3 = 0xf3 | X86_ATTR_G | X86_ATTR_DB;

	x86_cpu_reset(&initial, true);
	initial.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
	initial.cr3 = PHYS_PML4;
	initial.cr4 = (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE) &
		      vm->cpu_model.cr4_valid;
	initial.efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	initial.xcr0 = native_xcr0() & vm->cpu_model.xcr0_valid;
	initial.gdt = (struct x86_table){ KERNEL + PHYS_GDT, 0x7f };
	initial.idt = (struct x86_table){ KERNEL + PHYS_IDT, 0xfff };
	initial.seg[X86_TR] = segment(SEL_TSS, 0x8b, 0x67, KERNEL + PHYS_TSS);
	initial.seg[X86_LDTR] = segment(0, 0, 0, 0);
	initial.seg[X86_SS] = initial.seg[X86_DS] = initial.seg[X86_ES] = segment(SEL_UDATA, data3, 0xffffffff, 0);
	initial.seg[X86_FS] = initial.seg[X86_GS] = segment(0, 0, 0, 0);
}

/* ---- a test that never ends ---- */

static _Atomic uint64_t test_number;
static _Atomic bool in_test, stop_watchdog;
static pthread_t watchdog_thread;

static void *watchdog(void *unused)
{
	uint64_t seen = 0;
	unsigned ticks = 0;

	(void)unused;
	while (!atomic_load(&stop_watchdog)) {
		usleep(100000);
		if (!atomic_load(&in_test) || atomic_load(&test_number) != seen) {
			seen = atomic_load(&test_number);
			ticks = 0;
		} else if (++ticks == 20) {
			vcpu_request(vcpu, VCPU_REQUEST_PAUSE);
			ticks = 0;
		}
	}
	return NULL;
}

int guest_start(const char *name, const char *bt, struct error *err)
{
	struct vm_config config = { .name = "cpu-test", .cpus = 1, .memory = RAM_SIZE, .engine_options = bt };
	const struct engine *engine = engine_find(name, err);
	struct cpu_source source;

	if (!engine || vm_create(&vm, &config, engine, err))
		return -1;
	cpu_source_host(&source);
	if (cpu_model_build(&vm->cpu_model, "host", 1, &source, engine, 0, 0, err))
		return -1;
	vcpu = vm->vcpus[0];
	if (engine->vm_create(vm, err) || engine->vcpu_create(vcpu, err))
		return -1;
	ram = guest_memory_host(&vm->memory, 0, RAM_SIZE, true);
	if (!ram)
		return error_set(err, 0, "guest RAM is not one piece");
	build_tables();
	build_state();
	if (pthread_create(&watchdog_thread, NULL, watchdog, NULL))
		return error_set(err, 0, "cannot start the watchdog");
	return 0;
}

void guest_stop(void)
{
	if (!vm)
		return;
	atomic_store(&stop_watchdog, true);
	pthread_join(watchdog_thread, NULL);
	vm_destroy(vm);
	vm = NULL;
}

void guest_print_stats(void)
{
	printf("guest: %lu runs\n", (unsigned long)stats_runs);
	if (vm && vm->engine->print_stats)
		vm->engine->print_stats(vm, stdout);
}

static void load_state(struct x86_cpu_state *s, const struct test_case *test)
{
	const bool is64 = test->mode == TEST_64;
	const uint16_t code_attr = 0xfb | X86_ATTR_G | (is64 ? X86_ATTR_L : X86_ATTR_DB);

	*s = initial;
	memcpy(s->gpr, test->start.gpr, sizeof(s->gpr));
	s->rip = test->code;
	s->rflags = (test->start.rflags & 0x40cd5) | 0x202;
	s->seg[X86_CS] = segment(is64 ? SEL_UCODE64 : SEL_UCODE32, code_attr, 0xffffffff, 0);
	s->seg[X86_FS].base = test->start.fs_base;
	s->seg[X86_GS].base = test->start.gs_base;
	fp_to_xsave(s->xsave, X86_XSAVE_MAX, &test->start.fp, initial.xcr0);
}

/* Whether the CPU pushes an error code for a vector (SDM vol. 3, table 6-1) */
static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void read_result(struct test_result *result, const struct x86_cpu_state *s)
{
	uint64_t stub = s->rip - (KERNEL + PHYS_STUBS), frame = s->gpr[X86_RSP] - KERNEL;
	unsigned vector = (unsigned)(stub / 8);

	if (stub >= 256 * 8 || frame < PHYS_STACK || frame > PHYS_STACK + PAGE - 40) {
		result->vector = VECTOR_OTHER;
		snprintf(result->note, sizeof(result->note), "halted at rip %lx rsp %lx", (unsigned long)s->rip,
			 (unsigned long)s->gpr[X86_RSP]);
		return;
	}
	result->vector = (uint8_t)vector;
	result->error = 0;
	if (has_error_code(vector)) {
		result->error = get64(frame);
		frame += 8;
	}
	if (frame != PHYS_STACK + PAGE - 40) {
		snprintf(result->note, sizeof(result->note), "vector %u, odd stack %lx", vector, (unsigned long)frame);
		result->vector = VECTOR_OTHER;
		return;
	}
	memcpy(result->end.gpr, s->gpr, sizeof(s->gpr));
	result->end.rip = get64(frame);
	result->end.cs = (uint16_t)get64(frame + 8);
	result->end.rflags = get64(frame + 16);
	result->end.gpr[X86_RSP] = get64(frame + 24);
	result->cr2 = vector == 14 ? s->cr2 : 0;
}

int guest_run(const struct test_case *test, struct test_result *result, struct error *err)
{
	static struct x86_cpu_state state;
	enum vcpu_exit exit;

	memset(result, 0, offsetof(struct test_result, data));
	result->note[0] = 0;
	memcpy(ram + PHYS_CODE + (test->code - CODE_BASE), test->code_bytes, test->code_size);
	guest_memory_written(vm, PHYS_CODE + (test->code - CODE_BASE), test->code_size);
	fill_data(ram + PHYS_DATA, test->seed);
	guest_memory_written(vm, PHYS_DATA, DATA_SIZE);
	memset(ram + PHYS_SCRATCH, 0, SCRATCH_PAGES * PAGE);
	guest_memory_written(vm, PHYS_SCRATCH, SCRATCH_PAGES * PAGE);
	load_state(&state, test);
	vm->engine->set_state(vcpu, &state);
	atomic_fetch_add(&test_number, 1);
	atomic_store(&in_test, true);
	stats_runs++;
	exit = vm->engine->vcpu_run(vcpu);
	atomic_store(&in_test, false);
	vm->engine->get_state(vcpu, &state);
	switch (exit) {
	case VCPU_EXIT_HALTED:
		read_result(result, &state);
		break;
	case VCPU_EXIT_KICKED:
		atomic_store(&vcpu->requests, 0);
		result->vector = VECTOR_TIMEOUT;
		snprintf(result->note, sizeof(result->note), "at rip %lx", (unsigned long)state.rip);
		break;
	case VCPU_EXIT_ERROR:
		return error_set(err, 0, "the engine gave up: %s", vcpu->exit_error.text);
	default:
		result->vector = VECTOR_OTHER;
		snprintf(result->note, sizeof(result->note), "exit %d, rip %lx", exit, (unsigned long)state.rip);
		break;
	}
	result->end.selectors[0] = state.seg[X86_ES].selector;
	result->end.selectors[1] = state.seg[X86_DS].selector;
	result->end.selectors[2] = state.seg[X86_FS].selector;
	result->end.selectors[3] = state.seg[X86_GS].selector;
	result->end.fs_base = state.seg[X86_FS].base;
	result->end.gs_base = state.seg[X86_GS].base;
	xsave_to_fp(&result->end.fp, state.xsave);
	memcpy(result->data, ram + PHYS_DATA, DATA_SIZE);
	return 0;
}
