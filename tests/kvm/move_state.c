/* SPDX-License-Identifier: MIT */
/*
 * Moves a running guest's CPU state and memory bt -> kvm -> bt, and looks whether anything got lost.
 *
 * The guest is a loop in 64-bit kernel code: RCX counts, RAX is a xorshift generator, everything else keeps what it was
 * given: general registers, vector registers, debug registers, MSRs. Each machine is stopped wherever it happens to be; the
 * next one is created stopped with that state, must give the same state back before it has run an instruction, and goes on. At
 * the end RAX must be what RCX steps make of the seed.
 *
 * Prints one ok, FAIL or SKIP line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/cpu_model.h"
#include "vm/vm.h"

#define NAME "kvm/move-state"
#define MEMORY 0x200000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define GDT 0x4000u
#define CODE 0x10000u
#define COUNTER 0x8000u
#define SEED 0x123456789abcdef1ull
#define RUN_MS 60
#define XSAVE_XMM 160
#define XSAVE_BV 512

static const uint8_t code[] = {
	0x48, 0x89, 0xc2,       /* 1: mov rdx, rax */
	0x48, 0xc1, 0xe2, 0x0d, /* shl rdx, 13 */
	0x48, 0x31, 0xd0,       /* xor rax, rdx */
	0x48, 0x89, 0xc2,       /* mov rdx, rax */
	0x48, 0xc1, 0xea, 0x07, /* shr rdx, 7 */
	0x48, 0x31, 0xd0,       /* xor rax, rdx */
	0x48, 0xff, 0xc1,       /* inc rcx */
	0x48, 0x89, 0x0f,       /* mov [rdi], rcx */
	0xeb, 0xe4,             /* jmp 1b */
};
#define RCX_COUNTED 23 /* offset of the instruction after inc rcx */
#define RAX_1 10       /* after the first xor */
#define RAX_2 20       /* after the second */

static int fail(const char *what)
{
	printf("FAIL " NAME ": %s\n", what);
	exit(1);
}

static struct x86_segment segment(uint16_t selector, uint16_t attr, uint32_t limit)
{
	return (struct x86_segment){ .selector = selector, .attr = attr, .limit = limit };
}

static void initial_state(struct x86_cpu_state *s)
{
	x86_cpu_reset(s, true);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = 0x1111111111111111ull * i;
	s->gpr[X86_RAX] = SEED;
	s->gpr[X86_RCX] = 0;
	s->gpr[X86_RDI] = COUNTER;
	s->gpr[X86_RSP] = COUNTER;
	s->rip = CODE;
	for (unsigned i = X86_ES; i <= X86_GS; i++)
		s->seg[i] = segment(0x10, 0xc093, 0xffffffff);
	s->seg[X86_CS] = segment(8, 0xa09b, 0xffffffff);
	s->seg[X86_GS].base = 0x123456000;
	s->seg[X86_LDTR] = segment(0, 0, 0);
	s->seg[X86_TR] = segment(0x18, 0x8b, 0x67);
	s->gdt = (struct x86_table){ .base = GDT, .limit = 0x27 };
	s->idt = (struct x86_table){ .base = 0x5000, .limit = 0 };
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
	s->cr2 = 0xdead000;
	s->cr3 = PML4;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
	s->star = 0x0023001000000000;
	s->lstar = 0xffffffff81000000;
	s->sfmask = 0x47700;
	s->kernel_gs_base = 0x7f0000001000;
	s->sysenter_cs = 8;
	s->sysenter_eip = 0xffffffff81000100;
	s->dr[0] = 0x7777;
	s->dr[3] = 0x8888;
	for (unsigned i = 0; i < 256; i++)
		s->xsave[XSAVE_XMM + i] = (uint8_t)(i * 7 + 1);
}

static void put(struct vm *vm, uint64_t gpa, uint64_t value)
{
	memcpy(vm->memory.host + gpa, &value, sizeof(value));
}

static void initial_memory(struct vm *vm)
{
	put(vm, PML4, PDPT | 3);
	put(vm, PDPT, PD | 3);
	put(vm, PD, 0x83);
	put(vm, GDT + 8, 0x00af9b000000ffff);
	put(vm, GDT + 16, 0x00cf93000000ffff);
	memcpy(vm->memory.host + CODE, code, sizeof(code));
}

/* A machine with this state, stopped. */
static struct vm *create(const char *name, const struct engine *model_engine,
			 const struct x86_cpu_state *state, const struct vm *from)
{
	struct vm_config config = { .cpus = 1, .memory = MEMORY };
	struct cpu_source source;
	struct error err;
	struct vm *vm;
	const struct engine *engine = engine_find(name, &err);

	if (!engine || vm_create(&vm, &config, engine, &err))
		fail(err.text);
	/* The same model under both engines: what kvm can do here. */
	cpu_source_host(&source);
	if (cpu_model_build(&vm->cpu_model, NULL, 1, &source, model_engine, 0, 0, &err))
		fail(err.text);
	if (from)
		memcpy(vm->memory.host, from->memory.host, MEMORY);
	else
		initial_memory(vm);
	vm->vcpus[0]->boot_state = *state;
	vm->vcpus[0]->has_boot_state = true;
	vm_pause(vm);
	if (vm_start(vm, &err))
		fail(err.text);
	return vm;
}

static void get(struct vm *vm, struct x86_cpu_state *state)
{
	memset(state, 0, sizeof(*state));
	vm->engine->get_state(vm->vcpus[0], state);
}

static void same(bool equal, const char *where, const char *field, uint64_t a, uint64_t b)
{
	if (equal)
		return;
	printf("FAIL " NAME ": %s: %s is 0x%llx, was 0x%llx\n", where, field, (unsigned long long)b,
	       (unsigned long long)a);
	exit(1);
}

static void compare_segments(const char *where, const struct x86_cpu_state *a,
			     const struct x86_cpu_state *b)
{
	for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
		const struct x86_segment *s = &a->seg[i], *t = &b->seg[i];

		same(s->selector == t->selector, where, "a selector", s->selector, t->selector);
		same(s->base == t->base, where, "a segment's base", s->base, t->base);
		if (!(s->attr & X86_ATTR_P) && !(t->attr & X86_ATTR_P))
			continue;
		same(s->attr == t->attr, where, "a segment's attributes", s->attr, t->attr);
		same(s->limit == t->limit, where, "a segment's limit", s->limit, t->limit);
	}
}

/* All that the guest does not change; `running`: nor what it does. */
static void compare(const char *where, const struct x86_cpu_state *a, const struct x86_cpu_state *b,
		    bool running)
{
#define SAME(field)                                                                                \
	same(a->field == b->field, where, #field, (uint64_t)a->field, (uint64_t)b->field)
	for (unsigned i = 0; i < 16; i++)
		if (!running || (i != X86_RAX && i != X86_RCX && i != X86_RDX))
			same(a->gpr[i] == b->gpr[i], where, "a general register", a->gpr[i],
			     b->gpr[i]);
	if (!running) {
		SAME(rip);
		SAME(rflags);
	}
	compare_segments(where, a, b);
	SAME(gdt.base);
	SAME(gdt.limit);
	SAME(idt.base);
	SAME(idt.limit);
	SAME(cr0);
	SAME(cr2);
	SAME(cr3);
	SAME(cr4);
	SAME(efer);
	for (unsigned i = 0; i < 8; i++)
		same(a->dr[i] == b->dr[i], where, "a debug register", a->dr[i], b->dr[i]);
	SAME(xcr0);
	SAME(star);
	SAME(lstar);
	SAME(sfmask);
	SAME(kernel_gs_base);
	SAME(sysenter_cs);
	SAME(sysenter_eip);
	SAME(pat);
	SAME(mp_state);
	SAME(sti_shadow);
	SAME(mov_ss_shadow);
	SAME(nmi_masked);
	SAME(nmi_pending);
	SAME(event_pending);
	same(!memcmp(a->xsave + XSAVE_XMM, b->xsave + XSAVE_XMM, 256), where, "an XMM register", 0,
	     1);
	same(!memcmp(a->xsave, b->xsave, 8), where, "the x87 environment", 0, 1);
#undef SAME
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* Let it run until it has counted on, and stop it. */
static void run(struct vm *vm, struct x86_cpu_state *state, const char *where)
{
	uint64_t before = state->gpr[X86_RCX];

	vm_resume(vm);
	for (int i = 0; i < 50; i++) {
		uint64_t counted;

		sleep_ms(RUN_MS);
		__atomic_load((uint64_t *)(vm->memory.host + COUNTER), &counted, __ATOMIC_RELAXED);
		if (counted > before + 1000)
			break;
	}
	vm_pause(vm);
	get(vm, state);
	same(state->gpr[X86_RCX] > before + 1000, where, "the guest's counter", before,
	     state->gpr[X86_RCX]);
}

/* Is RAX what RCX rounds make of the seed, given where in a round the guest stands? */
static void check_sum(const struct x86_cpu_state *s)
{
	uint64_t rounds = s->gpr[X86_RCX], rax = SEED;
	uint64_t at = s->rip - CODE;

	if (at >= sizeof(code))
		fail("the guest left its loop");
	if (at >= RCX_COUNTED)
		rounds--; /* then RAX_2 of the round that it counts */
	for (uint64_t i = 0; i < rounds; i++) {
		rax ^= rax << 13;
		rax ^= rax >> 7;
	}
	if (at >= RAX_1)
		rax ^= rax << 13;
	if (at >= RAX_2)
		rax ^= rax >> 7;
	same(rax == s->gpr[X86_RAX], "at the end", "RAX", rax, s->gpr[X86_RAX]);
}

int main(void)
{
	static const char *const engines_in_turn[] = { "bt", "kvm", "bt" };
	static struct x86_cpu_state first, state, given;
	struct error err = { 0 };
	const struct engine *kvm = engine_find("kvm", &err);
	struct vm *previous = NULL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(60);
	if (!kvm) {
		printf("SKIP " NAME ": %s\n", err.text);
		return 0;
	}
	initial_state(&first);
	state = first;
	for (unsigned i = 0; i < ARRAY_SIZE(engines_in_turn); i++) {
		char where[32];
		struct vm *vm = create(engines_in_turn[i], kvm, &state, previous);

		snprintf(where, sizeof(where), "%s, machine %u", engines_in_turn[i], i + 1);
		vm_destroy(previous);
		get(vm, &given);
		compare(where, &state, &given, false);
		run(vm, &state, where);
		compare(where, &first, &state, true);
		previous = vm;
	}
	check_sum(&state);
	vm_destroy(previous);
	printf("ok " NAME ": %llu rounds under bt, kvm and bt\n",
	       (unsigned long long)state.gpr[X86_RCX]);
	return 0;
}
