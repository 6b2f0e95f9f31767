/* SPDX-License-Identifier: MIT */
/*
 * isolation-test: attacks the boundary between translated code and the process that runs it (docs/binary-translation.md,
 * "Isolation").
 *
 * Translated code runs in Lodge's own address space with the guest's registers, so every guest-linear address is also a number that
 * the host could take for an address of its own. The test knows what a guest does not: where Lodge's secrets lie. It
 * has the guest use exactly those addresses, in every way an instruction can touch memory (forms.h), in every privilege, first with
 * the address not mapped in the guest (it must get #PF there), then mapped to guest RAM (it must get that RAM, and
 * Lodge's memory must stay as it is). Then come addresses at the edges of address space and of the tables, stack
 * pointers into host memory while the host takes signals, jumps to host addresses and to aliases in the jump cache; and a search of all
 * a guest can see for numbers that are host addresses.
 *
 * --sabotage breaks the engine on purpose, to show that the test can fail:
 *   tlb    a TLB entry leads to host memory     leak   a host address gets into a register
 *   rwx    a mapping is writable and executable
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "forms.h"
#include "guest.h"

#define MAGIC 0x5ec2e75ec2e70000ull
#define AT 0x400 /* offset in the page of the address attacked */

enum kind { R, W, X, N };
enum set { SET_64, SET_STACK, SET_AVX, SET_AVX512, SET_32 };

struct form {
	const char *name;
	enum kind kind;
	enum set set;
	const uint8_t *code, *end;
};

#define CODE(bits, name, text)                                                                     \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code" #bits "\nform_" #name        \
		":\n" text "\nint3\nform_end_" #name ":\n.code64\n.att_syntax\n.popsection\n");    \
	extern const uint8_t form_##name[], form_end_##name[];
#define CODE64(name, kind, text) CODE(64, name, text)
#define CODE32(name, kind, text) CODE(32, name, text)
FORMS_64(CODE64)
FORMS_STACK(CODE64)
FORMS_AVX(CODE64)
FORMS_AVX512(CODE64)
FORMS_32(CODE32)

#define ROW(set, name, kind) { #name, kind, set, form_##name, form_end_##name },
#define ROW_64(name, kind, text) ROW(SET_64, name, kind)
#define ROW_STACK(name, kind, text) ROW(SET_STACK, name, kind)
#define ROW_AVX(name, kind, text) ROW(SET_AVX, name, kind)
#define ROW_AVX512(name, kind, text) ROW(SET_AVX512, name, kind)
#define ROW_32(name, kind, text) ROW(SET_32, name, kind)
static const struct form forms[] = { FORMS_64(ROW_64) FORMS_STACK(ROW_STACK) FORMS_AVX(ROW_AVX)
					     FORMS_AVX512(ROW_AVX512) FORMS_32(ROW_32) };

/* ---- results ---- */

static unsigned failures, checks;
static const char *group_name;

static void begin(const char *name)
{
	group_name = name;
	failures = 0;
}

static __attribute__((format(printf, 1, 2))) void fail(const char *format, ...)
{
	va_list ap;

	if (failures++ >= 10)
		return;
	va_start(ap, format);
	fprintf(stderr, "%s: ", group_name);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
}

static bool any_failed;

static void end(void)
{
	if (failures)
		printf("FAIL isolation/%s: %u failures\n", group_name, failures);
	else
		printf("ok isolation/%s\n", group_name);
	fflush(stdout);
	any_failed |= failures != 0;
}

/* ---- what is attacked ---- */

struct victim {
	const char *name;
	uint64_t page;
	const uint8_t *bytes; /* must not change; NULL: it may for other reasons */
};

static uint8_t *canary, *low_canary; /* two pages each; low: below 4 GiB */
static uint64_t canary_copy[2 * PAGE / 8];

static uint8_t *make_canary(int flags)
{
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (p == MAP_FAILED)
		exit(1);
	for (unsigned i = 0; i < ARRAY_SIZE(canary_copy); i++)
		canary_copy[i] = MAGIC | i;
	memcpy(p, canary_copy, sizeof(canary_copy));
	return p;
}

static uint64_t page_of(const void *p)
{
	return (uint64_t)p & ~(PAGE - 1);
}

static unsigned list_victims(struct victim *v)
{
	struct bt_vcpu *b = guest_bt();
	unsigned n = 0;
	int local;

	v[n++] = (struct victim){ "a page of the host", (uint64_t)canary, canary };
	v[n++] = (struct victim){ "a page of the host below 4 GiB", (uint64_t)low_canary,
				  low_canary };
	v[n++] = (struct victim){ "guest RAM, host address", page_of(guest_ram + 0x800000),
				  guest_ram + 0x800000 };
	v[n++] = (struct victim){ "struct bt_cpu", page_of(b->cpu), NULL };
	v[n++] = (struct victim){ "struct bt_cpu, second alias", b->alias[1].gs_base, NULL };
	v[n++] = (struct victim){ "TLB", page_of(b->table_k.t->tag_read), NULL };
	v[n++] = (struct victim){ "jump cache", page_of(b->tables[BT_CLASS_U]->t->jump), NULL };
	v[n++] = (struct victim){ "struct bt_vcpu", page_of(b), NULL };
	v[n++] = (struct victim){ "code cache, executable", page_of(b->bt->cache.rx), NULL };
	v[n++] = (struct victim){ "code cache, writable",
				  page_of(b->bt->cache.rw + b->bt->cache.hot_limit - 2 * PAGE),
				  NULL };
	v[n++] = (struct victim){ "C stack", page_of(&local), NULL };
	v[n++] = (struct victim){ "libc", page_of((void *)(uintptr_t)&memcpy), NULL };
	v[n++] = (struct victim){ "trampolines", page_of(bt_tramp_helper), NULL };
	return n;
}
#define VICTIM_MAX 16

static void check_canaries(const char *what)
{
	if (memcmp(canary, canary_copy, sizeof(canary_copy)) ||
	    memcmp(low_canary, canary_copy, sizeof(canary_copy))) {
		fail("%s: memory of the host was changed", what);
		memcpy(canary, canary_copy, sizeof(canary_copy));
		memcpy(low_canary, canary_copy, sizeof(canary_copy));
	}
}

/* Has anything of the canary got into the guest's registers? */
static bool holds_magic(const struct x86_cpu_state *s)
{
	const uint8_t *bytes = s->xsave;

	for (unsigned i = 0; i < 16; i++)
		if ((s->gpr[i] ^ MAGIC) >> 16 == 0 || s->gpr[i] == 0xe7)
			return true;
	for (unsigned i = 0; i + 8 <= X86_XSAVE_MAX; i++) {
		uint64_t value;

		memcpy(&value, bytes + i, 8);
		if ((value ^ MAGIC) >> 16 == 0)
			return true;
	}
	return false;
}

/* ---- the ways of touching ---- */

static bool applies(const struct form *f, enum privilege privilege)
{
	const struct bt_vcpu *b = guest_bt();

	if ((f->set == SET_32) != (privilege == USER32))
		return false;
	if (f->set == SET_AVX)
		return bt_host.avx && b->vm->cpu_model.xcr0_valid & 4;
	if (f->set == SET_AVX512)
		return bt_host.avx512 && b->vm->cpu_model.xcr0_valid & 0x20;
	return true;
}

static void prepare(struct x86_cpu_state *s, const struct form *f, enum privilege privilege,
		    uint64_t address)
{
	guest_prepare(s, privilege);
	s->gpr[X86_RDI] = s->gpr[X86_RSI] = s->gpr[X86_RBX] = s->gpr[X86_RBP] = address;
	if (f->set == SET_STACK)
		s->gpr[X86_RSP] = address + 64;
}

static void describe(char *text, unsigned size, const struct form *f, enum privilege privilege,
		     const struct victim *v)
{
	snprintf(text, size, "%s in %s mode, %s (%" PRIx64 ")", f->name, privilege_names[privilege],
		 v->name, v->page);
}

/* Not mapped: the guest must be told so. */
static void attack_unmapped(const struct form *f, enum privilege privilege, const struct victim *v)
{
	static struct x86_cpu_state state;
	static struct outcome o;
	uint64_t address = v->page + AT;
	char what[200];

	describe(what, sizeof(what), f, privilege, v);
	prepare(&state, f, privilege, address);
	guest_run(&state, f->code, (unsigned)(f->end - f->code), &o);
	checks++;
	if (f->kind == N) {
		if (o.vector != 3)
			fail("%s, not mapped: vector %d", what, o.vector);
	} else if (o.vector != X86_PF || o.cr2 < address - 64 || o.cr2 > address + 1024 ||
		   (f->kind == X && o.cr2 != address)) {
		fail("%s, not mapped: vector %d error %x cr2 %" PRIx64 " rip %" PRIx64, what,
		     o.vector, o.error, o.cr2, o.rip);
	}
	if (holds_magic(&o.state))
		fail("%s, not mapped: the guest read memory of the host", what);
	check_canaries(what);
}

/* Mapped to guest RAM: the guest must get that. */
static void attack_mapped(const struct form *f, enum privilege privilege, const struct victim *v)
{
	static const uint64_t start = 0x37f;
	static struct x86_cpu_state state;
	static struct outcome o;
	static uint8_t before[PAGE];
	uint64_t address = v->page + AT;
	uint8_t *data = guest_ram + PHYS_DATA;
	char what[200];

	describe(what, sizeof(what), f, privilege, v);
	memset(data, 0, PAGE);
	memcpy(data + AT, &start, 8);
	if (f->kind == X)
		data[AT] = 0xcc;
	memcpy(before, data, PAGE);
	guest_memory_written(guest_vm, PHYS_DATA, PAGE);
	guest_map(v->page, PHYS_DATA, is_user(privilege));
	prepare(&state, f, privilege, address);
	guest_run(&state, f->code, (unsigned)(f->end - f->code), &o);
	checks++;
	guest_map(v->page, ~0ull, false);
	if (o.vector != 3 || (f->kind == X && o.rip != address + 1))
		fail("%s, mapped: vector %d error %x cr2 %" PRIx64 " rip %" PRIx64, what, o.vector,
		     o.error, o.cr2, o.rip);
	else if (f->kind == W && memcmp(before, data, PAGE) == 0)
		fail("%s, mapped: the write went elsewhere", what);
	if (holds_magic(&o.state))
		fail("%s, mapped: the guest read memory of the host", what);
	check_canaries(what);
}

static void test_forms(const char *name,
		       void (*attack)(const struct form *, enum privilege, const struct victim *))
{
	struct victim victims[VICTIM_MAX];
	unsigned count = list_victims(victims);

	begin(name);
	for (unsigned v = 0; v < count; v++)
		for (enum privilege privilege = 0; privilege < PRIVILEGES; privilege++)
			for (unsigned f = 0; f < ARRAY_SIZE(forms); f++)
				if (applies(&forms[f], privilege) &&
				    (privilege != USER32 || victims[v].page >> 32 == 0))
					attack(&forms[f], privilege, &victims[v]);
	end();
}

/* ---- edges ---- */

CODE(64, two_loads, "mov rax, [rsi]; mov rax, [rdi]")
CODE(64, two_stores, "mov [rsi], rax; mov [rdi], rax")
CODE(64, load_32_bytes, "mov rax, [rsi]; vmovups ymm1, [rdi]")
CODE(64, group_at, "mov rax, [rsi]; mov rax, [rdi]; mov rcx, [rdi + 8]; mov rdx, [rdi + 16]")

static bool canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

static void touch(const uint8_t *code, const uint8_t *code_end, enum privilege privilege,
		  uint64_t warm, uint64_t address)
{
	static struct x86_cpu_state state;
	static struct outcome o;

	guest_prepare(&state, privilege);
	state.gpr[X86_RSI] = warm;
	state.gpr[X86_RDI] = address;
	guest_run(&state, code, (unsigned)(code_end - code), &o);
	checks++;
	if (o.vector != X86_PF && o.vector != X86_GP)
		fail("%s mode, address %" PRIx64 " after %" PRIx64 ": vector %d",
		     privilege_names[privilege], address, warm, o.vector);
	else if (o.vector == X86_PF && o.cr2 - address > 64)
		fail("%s mode, address %" PRIx64 ": #PF at %" PRIx64, privilege_names[privilege],
		     address, o.cr2);
	else if (o.vector == X86_GP && canonical(address) && canonical(address + 31))
		fail("%s mode, address %" PRIx64 ": #GP", privilege_names[privilege], address);
}

/* Addresses that share a TLB index with a mapped page, and those around which sums wrap. Nothing is mapped there. */
static void test_edges(void)
{
	static const uint64_t centres[] = { 0,           1ull << 28,
					    1ull << 31,  1ull << 32,
					    1ull << 47,  0xffff8000ull << 32,
					    ~0ull << 28, 0xffffffff00000000ull,
					    1ull << 63,  0x7fffffffffff0000ull };
	static const struct {
		const uint8_t *code, *end;
	} codes[] = { { form_two_loads, form_end_two_loads },
		      { form_two_stores, form_end_two_stores },
		      { form_group_at, form_end_group_at },
		      { form_load_32_bytes, form_end_load_32_bytes } };

	begin("edges");
	for (unsigned privilege = USER64; privilege <= KERNEL64_SMAP; privilege++) {
		uint64_t warm = privilege == USER64 ? USER_STACK : KERNEL + PHYS_STACK;

		for (unsigned c = 0; c < ARRAY_SIZE(codes); c++) {
			if (codes[c].code == form_load_32_bytes && !bt_host.avx)
				continue;
			/* the same TLB index */
			for (uint64_t step = 1ull << 28; step < 1ull << 47; step <<= 1) {
				touch(codes[c].code, codes[c].end, privilege, warm, warm ^ step);
				touch(codes[c].code, codes[c].end, privilege, warm,
				      (warm ^ step) + PAGE - 8);
			}
			for (unsigned i = 0; i < ARRAY_SIZE(centres); i++)
				for (int64_t d = -96; d <= 64; d += d < -8 || d > 8 ? 8 : 1)
					touch(codes[c].code, codes[c].end, privilege, warm,
					      centres[i] + (uint64_t)d);
		}
	}
	end();
}

static uint64_t random_state = 88172645463325252ull;

static uint64_t random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

/* Anywhere in 2^64. */
static void test_anywhere(void)
{
	begin("anywhere");
	for (unsigned n = 0; n < 20000; n++) {
		uint64_t address = random64() >> (random64() & 31);
		uint64_t page = address >> 12;

		if (n & 1)
			address = (uint64_t)((int64_t)(address << 16) >> 16);
		page = address & ~0xfffull;
		if (address >= KERNEL - PAGE || page == USER_CODE || page == USER_STACK ||
		    page == USER_CODE - PAGE || page == USER_STACK - PAGE)
			continue;
		touch(n & 2 ? form_two_loads : form_two_stores,
		      n & 2 ? form_end_two_loads : form_end_two_stores, n % 3 ? USER64 : KERNEL64,
		      n % 3 ? USER_STACK : KERNEL + PHYS_STACK, address);
	}
	end();
}

/* ---- segments: bases and offsets whose sum is a host address ---- */

CODE(32, seg_load, "mov eax, fs:[edi]")
CODE(32, seg_store, "mov fs:[edi], ecx")
CODE(32, seg_ds, "inc dword ptr [edi]")
CODE(32, seg_es, "stosd")
CODE(32, seg_rep, "mov ecx, 10; rep stosd")
CODE(32, seg_push, "mov esp, edi; push ecx")
CODE(32, seg_pop, "mov esp, edi; pop eax")
CODE(32, seg_sse, "movups fs:[edi], xmm0")
CODE(32, seg_lock, "lock inc dword ptr fs:[edi]")
CODE(16, seg_load16, "mov eax, fs:[edi]")
CODE(16, seg_store16, "addr32 inc dword ptr [edi]")
CODE(16, seg_stos16, "addr32 stosd")

static void attack_segment(const uint8_t *code, const uint8_t *code_end, bool bits16, uint32_t base,
			   uint32_t offset, bool limited)
{
	static struct x86_cpu_state state;
	static struct outcome o;
	static const unsigned segments[] = { X86_ES, X86_SS, X86_DS, X86_FS };
	uint32_t linear = base + offset;

	guest_prepare(&state, USER32);
	state.gpr[X86_RDI] = offset;
	if (bits16)
		state.seg[X86_CS].attr &= (uint16_t)~X86_ATTR_DB;
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		state.seg[segments[i]].base = base;
		if (limited)
			state.seg[segments[i]].limit = offset ? offset - 1 : 0;
	}
	guest_run(&state, code, (unsigned)(code_end - code), &o);
	checks++;
	/* beyond the limit, or over the end of the segment (offset ffffffff): #GP or #SS; pushes may be below it */
	if (limited || offset > 0xfffffff0 ?
		    o.vector != X86_GP && o.vector != X86_SS_FAULT && o.vector != X86_PF :
		    o.vector != X86_PF || (uint32_t)o.cr2 - linear + 64 > 128 || o.cr2 >> 32)
		fail("base %x offset %x%s: vector %d cr2 %" PRIx64, base, offset,
		     limited ? " beyond the limit" : "", o.vector, o.cr2);
	if (holds_magic(&o.state))
		fail("base %x offset %x: the guest read memory of the host", base, offset);
	check_canaries("segments");
}

static void test_segments(void)
{
#define SEG(name, bits16)                                                                          \
	{                                                                                          \
		form_seg_##name, form_end_seg_##name, bits16                                       \
	}
	static const struct {
		const uint8_t *code, *end;
		bool bits16;
	} codes[] = { SEG(load, false), SEG(store, false), SEG(ds, false),     SEG(es, false),
		      SEG(rep, false),  SEG(push, false),  SEG(pop, false),    SEG(sse, false),
		      SEG(lock, false), SEG(load16, true), SEG(store16, true), SEG(stos16, true) };
	const uint32_t target = (uint32_t)(uint64_t)low_canary + AT;
	const uint32_t bases[] = { 1,          0x1000,
				   target,     target - 1,
				   target + 1, target & ~0xfffu,
				   0x80000000, 0xfffff000,
				   0xffffffff, target + 0x80000000 };

	begin("segments");
	for (unsigned c = 0; c < ARRAY_SIZE(codes); c++)
		for (unsigned b = 0; b < ARRAY_SIZE(bases); b++)
			for (unsigned limited = 0; limited < 2; limited++)
				attack_segment(codes[c].code, codes[c].end, codes[c].bits16,
					       bases[b], target - bases[b], limited);
	end();
}

/* ---- the host takes signals while RSP is the guest's ---- */

CODE(64, divide, "xor edx, edx; xor ecx, ecx; div rcx")
CODE(64, misaligned, "lea rax, [rip]; or rax, 1; movaps xmm0, [rsi + 1]")
CODE(64, numeric,
     "mov dword ptr [rsi], 0; ldmxcsr [rsi]; xorps xmm1, xmm1; mov ecx, 1; cvtsi2ss xmm0, ecx; divss xmm0, xmm1")
CODE(64, undefined, "ud2")

static void test_stack_pointer(void)
{
	static const struct {
		const char *name;
		const uint8_t *code, *end;
		int vector;
	} faults[] = { { "#DE", form_divide, form_end_divide, X86_DE },
		       { "#GP", form_misaligned, form_end_misaligned, X86_GP },
		       { "#XM", form_numeric, form_end_numeric, X86_XM },
		       { "#UD", form_undefined, form_end_undefined, X86_UD } };
	static struct x86_cpu_state state;
	static struct outcome o;
	struct bt_vcpu *b = guest_bt();
	int local;

	begin("stack-pointer");
	guest_prepare(&state, USER64);
	guest_run(&state, form_undefined, 3, &o); /* makes the signal stack */
	for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
		const uint64_t stacks[] = { (uint64_t)canary + PAGE,
					    (uint64_t)canary + 128,
					    (uint64_t)b->signal_stack + 65536,
					    (uint64_t)b->signal_stack + 32768,
					    (uint64_t)b->signal_stack,
					    (uint64_t)&local,
					    (uint64_t)b->cpu + 512,
					    (uint64_t)b->bt->cache.rw + 0x10000,
					    (uint64_t)guest_ram + 0x800000,
					    0,
					    8,
					    ~0ull,
					    1ull << 47,
					    1ull << 63 };

		for (unsigned s = 0; s < ARRAY_SIZE(stacks); s++) {
			guest_prepare(&state, USER64);
			state.gpr[X86_RSP] = stacks[s];
			state.gpr[X86_RSI] = USER_STACK;
			guest_run(&state, faults[i].code,
				  (unsigned)(faults[i].end - faults[i].code), &o);
			checks++;
			if (o.vector != faults[i].vector || o.rsp != stacks[s])
				fail("%s with RSP %" PRIx64 ": vector %d, RSP %" PRIx64,
				     faults[i].name, stacks[s], o.vector, o.rsp);
			check_canaries(faults[i].name);
		}
	}
	end();
}

/* ---- jumps ---- */

CODE(64, jump, "jmp rdi")
CODE(64, jump_twice, "call rsi; call rdi")

static void jump_and_expect(uint64_t target, uint64_t rip, int vector)
{
	static struct x86_cpu_state state;
	static struct outcome o;

	guest_prepare(&state, USER64);
	state.gpr[X86_RDI] = target;
	guest_run(&state, form_jump, 2, &o);
	checks++;
	if (o.vector != vector || o.rip != rip)
		fail("jump to %" PRIx64 ": vector %d at %" PRIx64, target, o.vector, o.rip);
}

/* Targets that share an entry of the jump cache, and what an empty entry holds. */
static void test_jump_cache(void)
{
	static struct x86_cpu_state state;
	static struct outcome o;
	const uint64_t first = 0x20000000;

	begin("jump-cache");
	jump_and_expect(~0ull, ~0ull, X86_PF);
	jump_and_expect(0, 0, X86_PF);
	jump_and_expect(1ull << 47, USER_CODE, X86_GP);
	jump_and_expect(MAGIC, USER_CODE, X86_GP);
	memset(guest_ram + PHYS_DATA, 0xcc, 4 * PAGE);
	memcpy(guest_ram + PHYS_DATA, "\xc3", 1); /* ret */
	guest_memory_written(guest_vm, PHYS_DATA, 4 * PAGE);
	guest_map(first, PHYS_DATA, true);
	for (unsigned bit = 13; bit < 47; bit++) {
		uint64_t other = bit < 32 ? first ^ 1ull << bit ^
						    (bit >= 16 ? 1ull << (bit - 16) : 0) :
					    first ^ 1ull << bit;

		if ((other ^ first) < PAGE || (other & ~0xfffull) == USER_CODE ||
		    (other & ~0xfffull) == USER_STACK)
			continue;
		/* not mapped, although its entry leads to code */
		guest_prepare(&state, USER64);
		state.gpr[X86_RSI] = first;
		state.gpr[X86_RDI] = other;
		guest_run(&state, form_jump_twice,
			  (unsigned)(form_end_jump_twice - form_jump_twice), &o);
		checks++;
		if (o.vector != X86_PF || o.cr2 != other || o.rip != other)
			fail("call to %" PRIx64 " after %" PRIx64 ": vector %d at %" PRIx64, other,
			     first, o.vector, o.rip);
		/* mapped to other code */
		guest_map(other, PHYS_DATA + PAGE, true);
		guest_run(&state, form_jump_twice,
			  (unsigned)(form_end_jump_twice - form_jump_twice), &o);
		checks++;
		if (o.vector != 3 || o.rip != other + 1)
			fail("call to %" PRIx64 " after %" PRIx64 ", mapped: vector %d at %" PRIx64,
			     other, first, o.vector, o.rip);
		guest_map(other, ~0ull, false);
	}
	guest_map(first, ~0ull, false);
	end();
}

/* ---- leaks ---- */

struct range {
	uint64_t start, end;
};
static struct range ranges[4096];
static unsigned range_count, rwx_count;

static void read_maps(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	char line[512], rights[8];
	uint64_t start, stop;

	range_count = rwx_count = 0;
	if (!file)
		exit(1);
	while (fgets(line, sizeof(line), file) && range_count < ARRAY_SIZE(ranges)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &stop, rights) != 3)
			continue;
		rwx_count += rights[1] == 'w' && rights[2] == 'x';
		if (start < 1ull << 47)
			ranges[range_count++] = (struct range){ start, stop };
	}
	fclose(file);
}

static bool is_host_address(uint64_t value)
{
	if (value >> 47 || value < 1ull << 32)
		return false;
	for (unsigned i = 0; i < range_count; i++)
		if (value >= ranges[i].start && value < ranges[i].end)
			return true;
	return false;
}

static void search(const char *where, const void *memory, uint64_t size)
{
	const uint8_t *bytes = memory;

	for (uint64_t i = 0; i + 8 <= size; i++) {
		uint64_t value;

		memcpy(&value, bytes + i, 8);
		if (is_host_address(value)) {
			fail("%s: at %" PRIx64 " lies the host address %" PRIx64, where, i, value);
			return;
		}
	}
}

/* Everything that might store an instruction pointer, data pointer or scratch register of the host. RSI: memory. */
CODE(64, leak_environment,
     "fld1; fadd dword ptr [rsi]; fstp dword ptr [rsi + 8]; fnstenv [rsi + 64]; fxsave64 [rsi + 512]; fxsave [rsi + 1024]; fnsave [rsi + 1536]; .byte 0x66; fnstenv [rsi + 1664]")
CODE(64, leak_after_fault,
     "fninit; fld1; fldz; fdivp; fxsave64 [rsi + 512]; mov dword ptr [rsi], 0x37b; fldcw [rsi]; fld1; fldz; fdivp; fwait")
CODE(64, leak_xsave, "mov eax, 7; xor edx, edx; xsave64 [rsi + 512]; xsave [rsi + 1344]")
CODE(64, leak_registers,
     "mov [rsi], r10; mov [rsi + 8], r11; lea r10, [rip]; mov r11, [rsi]; push r10; push r11; pop r10; pop r11; xchg r10, r11; pushfq; pop rax; lea rax, [rsi]; call 1f; 1: pop rbx; sub rbx, rbx; ud2")
CODE(64, leak_divide, "mov [rsi], r10; mov [rsi + 8], r11; xor r10d, r10d; div r10")
CODE(64, leak_page_fault, "mov r10, [rsi]; mov r11, 5; mov [r10 + r11*8 + 0x1234], r11")
CODE(64, leak_cross,
     "mov rax, [rsi + 0x7fc]; mov [rsi + 0x7fc], rax; mov rax, [rsi + 0x7ff]; lock add [rsi + 0x7fb], rax; mov [rsi], r10; mov [rsi+8], r11")
CODE(64, leak_descriptors,
     "sgdt [rsi]; sidt [rsi + 16]; sldt [rsi + 32]; str [rsi + 40]; smsw [rsi + 48]; mov [rsi + 64], gs; rdgsbase rax; mov [rsi + 72], rax; rdfsbase rax; mov [rsi + 80], rax")
CODE(64, leak_strings,
     "mov rdi, rsi; mov ecx, 100; rep stosb; mov ecx, 10; rep movsw; mov [rsi], rdi; mov [rsi + 8], rcx; mov [rsi + 16], r10; mov [rsi + 24], r11")
CODE(64, leak_stack,
     "lea rsp, [rsi + 0x400]; push r10; push r11; call 1f; 1: enter 32, 3; pushfq; push [rsi]; syscall")
CODE(64, leak_cpuid,
     "mov eax, 1; cpuid; rdtsc; mov [rsi], rax; mov [rsi + 8], rdx; mov [rsi + 16], r10; mov [rsi + 24], r11; xor ecx, ecx; xgetbv")

static void test_leaks(void)
{
#define LEAK(name)                                                                                 \
	{                                                                                          \
#name, form_leak_##name, form_end_leak_##name                                      \
	}
	static const struct {
		const char *name;
		const uint8_t *code, *end;
	} codes[] = { LEAK(environment), LEAK(after_fault), LEAK(xsave), LEAK(registers),
		      LEAK(divide),      LEAK(page_fault),  LEAK(cross), LEAK(descriptors),
		      LEAK(strings),     LEAK(stack),       LEAK(cpuid) };
	static struct x86_cpu_state state;
	static struct outcome o;

	begin("leaks");
	read_maps();
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned privilege = USER64; privilege <= KERNEL64; privilege++) {
			for (unsigned c = 0; c < ARRAY_SIZE(codes); c++) {
				guest_prepare(&state, privilege);
				for (unsigned r = 0; r < 16; r++)
					if (r != X86_RSP)
						state.gpr[r] = 0x1111111111111111ull * r;
				memset(guest_ram + PHYS_STACK, 0, PAGE);
				state.gpr[X86_RSI] = state.gpr[X86_RSP] - PAGE / 2;
				state.gpr[X86_RSP] += PAGE / 2 - 64;
				guest_run(&state, codes[c].code,
					  (unsigned)(codes[c].end - codes[c].code), &o);
				checks++;
				if (o.vector < 0)
					fail("%s: ended with %d", codes[c].name, o.vector);
				search(codes[c].name, o.state.gpr, sizeof(o.state.gpr));
				search("vector state", o.state.xsave, sizeof(o.state.xsave));
				search(codes[c].name, guest_ram + PHYS_STACK, PAGE);
				/* the x87 instruction and data pointers in 32-bit images */
				if (codes[c].code == form_leak_environment)
					for (unsigned field = 76; field < 88; field += 4) {
						uint32_t value;

						memcpy(&value, guest_ram + PHYS_STACK + field, 4);
						if (field != 80 && value)
							fail("FNSTENV stores %x at %u", value,
							     field - 64);
					}
			}
		}
	}
	search("all guest RAM", guest_ram, GUEST_RAM);
	end();
}

static void test_write_xor_execute(void)
{
	begin("w-xor-x");
	read_maps();
	checks++;
	if (rwx_count)
		fail("%u mappings are writable and executable", rwx_count);
	end();
}

/* ---- sabotage ---- */

/* TLB entries of every class that lead to the canary itself. */
static void sabotage_tlb(struct bt_vcpu *v)
{
	for (unsigned cls = 0; cls < BT_CLASS_COUNT; cls++) {
		struct bt_tables *t = v->tables[cls]->t;
		uint64_t page = (uint64_t)canary;
		unsigned i = page >> 12 & (BT_TLB_ENTRIES - 1);

		t->tag_read[i] = t->tag_write[i] = page;
		t->addend[i] = 0;
	}
}

static void sabotage_leak(struct bt_vcpu *v)
{
	v->cpu->state.gpr[X86_R15] = (uint64_t)v->cpu;
}

static void usage(void)
{
	fprintf(stderr, "usage: isolation-test [--bt OPTION,...] [--sabotage tlb|leak|rwx]\n");
	exit(2);
}

int main(int argc, char **argv)
{
	const char *options = NULL, *sabotage = "";

	for (int i = 1; i < argc; i += 2) {
		if (i + 1 < argc && strcmp(argv[i], "--bt") == 0)
			options = argv[i + 1];
		else if (i + 1 < argc && strcmp(argv[i], "--sabotage") == 0)
			sabotage = argv[i + 1];
		else
			usage();
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(sabotage, "rwx") == 0 && mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		return 2;
	guest_create(options);
	canary = make_canary(0);
	low_canary = make_canary(MAP_32BIT);
	guest_before_run = strcmp(sabotage, "tlb") == 0  ? sabotage_tlb :
			   strcmp(sabotage, "leak") == 0 ? sabotage_leak :
							   NULL;
	test_leaks(); /* first: the others put host addresses into the guest */
	test_write_xor_execute();
	test_forms("not-mapped", attack_unmapped);
	test_forms("mapped", attack_mapped);
	test_edges();
	test_anywhere();
	test_segments();
	test_stack_pointer();
	test_jump_cache();
	fprintf(stderr, "%u checks\n", checks);
	guest_destroy();
	return any_failed;
}
