/* SPDX-License-Identifier: MIT */
/* See guest.h. All exceptions use one interrupt stack (IST), so RSP may be anything; each handler halts. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/cpu_model.h"

enum {
	PHYS_GDT = 0x1000,
	PHYS_IDT = 0x2000,
	PHYS_TSS = 0x3000,
	PHYS_STUBS = 0x4000,
	PHYS_IST = 0x6000, /* its top */
	PHYS_PML4 = 0x8000,
	PHYS_TABLES = 0x200000, /* page tables made as needed */
	PHYS_TABLES_END = 0xf00000,
};
enum {
	SEL_KCODE = 0x10,
	SEL_KDATA = 0x18,
	SEL_UCODE32 = 0x23,
	SEL_UDATA = 0x2b,
	SEL_UCODE64 = 0x33,
	SEL_TSS = 0x40
};
enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };

const char *const privilege_names[PRIVILEGES] = { "user", "kernel", "kernel with SMAP",
						  "32-bit user" };
struct vm *guest_vm;
uint8_t *guest_ram;
void (*guest_before_run)(struct bt_vcpu *v);

static struct vcpu *vcpu;
static struct x86_cpu_state initial;
static uint64_t next_table;
static _Atomic uint64_t runs;
static _Atomic bool running, stop;
static pthread_t watchdog_thread;

static __attribute__((noreturn)) void die(const struct error *err)
{
	printf("FAIL setup: %s\n", err->text);
	exit(1);
}

static uint64_t *entry(uint64_t table, unsigned index)
{
	return (uint64_t *)(void *)(guest_ram + table) + index;
}

void guest_map(uint64_t linear, uint64_t gpa, bool user)
{
	uint64_t table = PHYS_PML4;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = entry(table, linear >> shift & 511);

		if (!(*e & P)) {
			if (next_table >= PHYS_TABLES_END) {
				printf("FAIL setup: no room for page tables\n");
				exit(1);
			}
			memset(guest_ram + next_table, 0, PAGE);
			*e = next_table | P | W | U | A;
			next_table += PAGE;
		}
		table = *e & 0xfffffffffffff000ull;
	}
	*entry(table, linear >> 12 & 511) = gpa == ~0ull ? 0 : gpa | P | W | A | D | (user ? U : 0);
}

static void put64(uint64_t gpa, uint64_t value)
{
	memcpy(guest_ram + gpa, &value, 8);
}

static void build_memory(void)
{
	next_table = PHYS_TABLES;
	for (uint64_t gpa = 0; gpa < PHYS_TABLES; gpa += PAGE)
		guest_map(KERNEL + gpa, gpa, false);
	guest_map(USER_CODE, PHYS_CODE, true);
	guest_map(USER_STACK, PHYS_STACK, true);
	put64(PHYS_GDT + SEL_KCODE, 0x00af9b000000ffffull);
	put64(PHYS_GDT + SEL_KDATA, 0x00cf93000000ffffull);
	put64(PHYS_GDT + (SEL_UCODE32 & ~7), 0x00cffb000000ffffull);
	put64(PHYS_GDT + (SEL_UDATA & ~7), 0x00cff3000000ffffull);
	put64(PHYS_GDT + (SEL_UCODE64 & ~7), 0x00affb000000ffffull);
	put64(PHYS_GDT + SEL_TSS,
	      0x67 | (uint64_t)PHYS_TSS << 16 | 0x8bull << 40 | (KERNEL >> 24 & 0xff) << 56);
	put64(PHYS_GDT + SEL_TSS + 8, KERNEL >> 32);
	put64(PHYS_TSS + 0x24, KERNEL + PHYS_IST);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = KERNEL + PHYS_STUBS + 8 * v, type = v == 3 ? 0xee : 0x8e;

		put64(PHYS_IDT + 16 * v, (handler & 0xffff) | (uint64_t)SEL_KCODE << 16 |
						 1ull << 32 | type << 40 |
						 (handler >> 16 & 0xffff) << 48);
		put64(PHYS_IDT + 16 * v + 8, handler >> 32);
		memcpy(guest_ram + PHYS_STUBS + 8 * v, "\xf4\xeb\xfd\x90\x90\x90\x90\x90",
		       8); /* hlt; jmp to it */
	}
	guest_memory_written(guest_vm, 0, GUEST_RAM);
}

static struct x86_segment segment(uint16_t selector, uint16_t attr)
{
	return (struct x86_segment){ .selector = selector, .attr = attr, .limit = 0xffffffff };
}

static void build_state(void)
{
	x86_cpu_reset(&initial, true);
	initial.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
	initial.cr3 = PHYS_PML4;
	initial.cr4 = (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |
		       X86_CR4_OSXSAVE | X86_CR4_FSGSBASE) &
		      guest_vm->cpu_model.cr4_valid;
	initial.efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	initial.xcr0 = guest_vm->cpu_model.xcr0_valid & bt_xsave_mask;
	initial.gdt = (struct x86_table){ KERNEL + PHYS_GDT, 0x7f };
	initial.idt = (struct x86_table){ KERNEL + PHYS_IDT, 0xfff };
	initial.seg[X86_TR] = (struct x86_segment){
		.selector = SEL_TSS, .attr = 0x8b, .limit = 0x67, .base = KERNEL + PHYS_TSS
	};
	initial.seg[X86_LDTR] = (struct x86_segment){ 0 };
	/* vector registers all ones: the standard form with every component in use */
	memset(initial.xsave + 160, 0xff, 256);
	for (unsigned n = 2; n < 8; n++)
		if (initial.xcr0 >> n & 1)
			memset(initial.xsave + bt_xsave_offset[n], 0xff, bt_xsave_size[n]);
	memcpy(initial.xsave, &(uint16_t){ 0x37f }, 2);
	memcpy(initial.xsave + 24, &(uint32_t){ 0x1f80 }, 4);
	memcpy(initial.xsave + 512, &initial.xcr0, 8);
}

static void *watchdog(void *unused)
{
	uint64_t seen = 0;
	unsigned ticks = 0;

	(void)unused;
	while (!atomic_load(&stop)) {
		usleep(50000);
		if (!atomic_load(&running) || atomic_load(&runs) != seen) {
			seen = atomic_load(&runs);
			ticks = 0;
		} else if (++ticks == 40) {
			vcpu_request(vcpu, VCPU_REQUEST_PAUSE);
			ticks = 0;
		}
	}
	return NULL;
}

void guest_create(const char *bt_options)
{
	struct vm_config config = {
		.name = "isolation", .cpus = 1, .memory = GUEST_RAM, .engine_options = bt_options
	};
	struct error err;
	const struct engine *engine = engine_find("bt", &err);
	struct cpu_source source;

	if (!engine || vm_create(&guest_vm, &config, engine, &err))
		die(&err);
	cpu_source_host(&source);
	if (cpu_model_build(&guest_vm->cpu_model, "host", 1, &source, engine, 0, 0, &err))
		die(&err);
	vcpu = guest_vm->vcpus[0];
	if (engine->vm_create(guest_vm, &err) || engine->vcpu_create(vcpu, &err))
		die(&err);
	guest_ram = guest_memory_host(&guest_vm->memory, 0, GUEST_RAM, true);
	build_memory();
	build_state();
	atomic_store(&stop, false);
	if (pthread_create(&watchdog_thread, NULL, watchdog, NULL))
		exit(1);
}

void guest_destroy(void)
{
	atomic_store(&stop, true);
	pthread_join(watchdog_thread, NULL);
	vm_destroy(guest_vm);
	guest_vm = NULL;
}

void guest_prepare(struct x86_cpu_state *s, enum privilege privilege)
{
	const uint16_t code = 0x9b | X86_ATTR_G, data = 0x93 | X86_ATTR_G | X86_ATTR_DB;
	bool user = is_user(privilege);

	*s = initial;
	s->rflags = 2;
	s->seg[X86_CS] = segment(!user               ? SEL_KCODE :
				 privilege == USER32 ? SEL_UCODE32 :
						       SEL_UCODE64,
				 (uint16_t)(code | (user ? X86_ATTR_DPL : 0) |
					    (privilege == USER32 ? X86_ATTR_DB : X86_ATTR_L)));
	s->seg[X86_SS] =
		segment(user ? SEL_UDATA : SEL_KDATA, (uint16_t)(data | (user ? X86_ATTR_DPL : 0)));
	s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_FS] = s->seg[X86_GS] = s->seg[X86_SS];
	if (privilege == KERNEL64_SMAP)
		s->cr4 |= (X86_CR4_SMAP | X86_CR4_SMEP) & guest_vm->cpu_model.cr4_valid;
	s->rip = user ? USER_CODE : KERNEL + PHYS_CODE;
	s->gpr[X86_RSP] = (user ? USER_STACK : KERNEL + PHYS_STACK) + PAGE / 2;
	s->gpr[X86_RCX] = 1;
}

static bool pushes_error(int vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

void guest_run(const struct x86_cpu_state *state, const uint8_t *code, unsigned size,
	       struct outcome *o)
{
	enum vcpu_exit exit_reason;
	uint64_t frame, stub;

	memcpy(guest_ram + PHYS_CODE, code, size);
	guest_memory_written(guest_vm, PHYS_CODE, size);
	guest_vm->engine->set_state(vcpu, state);
	if (guest_before_run)
		guest_before_run(guest_bt());
	atomic_fetch_add(&runs, 1);
	atomic_store(&running, true);
	exit_reason = guest_vm->engine->vcpu_run(vcpu);
	atomic_store(&running, false);
	guest_vm->engine->get_state(vcpu, &o->state);
	o->rip = o->state.rip;
	o->rsp = o->state.gpr[X86_RSP];
	if (exit_reason == VCPU_EXIT_KICKED) {
		atomic_store(&vcpu->requests, 0);
		o->vector = -1;
		return;
	}
	stub = o->state.rip - (KERNEL + PHYS_STUBS);
	if (exit_reason != VCPU_EXIT_HALTED || stub >= 256 * 8) {
		o->vector = -2;
		return;
	}
	o->vector = (int)(stub / 8);
	o->error = 0;
	frame = o->state.gpr[X86_RSP] - KERNEL;
	if (pushes_error(o->vector)) {
		memcpy(&o->error, guest_ram + (frame & 0x1fffff), 4);
		frame += 8;
	}
	memcpy(&o->rip, guest_ram + (frame & 0x1fffff), 8);
	memcpy(&o->rsp, guest_ram + ((frame + 24) & 0x1fffff), 8);
	o->cr2 = o->state.cr2;
}
