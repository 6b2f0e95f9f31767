/* SPDX-License-Identifier: MIT */
/*
 * The engine's entry points for vm/: creating VMs and vCPUs, CPU state in and out, kicks, the debugger's requests.
 *
 * Memory of a vCPU: BT_ALIAS_COUNT aliases, each struct bt_cpu and class K's tables (one memfd mapped at all of them),
 * then the tables of classes U and KU (own to each alias: zero pages, and for the jump caches a private
 * mapping of one template). Guard pages between.
 */
#include "engine/bt/runtime.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/bt/offsets.h"

/* entry.S */
_Static_assert(offsetof(struct bt_cpu, state.gpr) == OFF_GPR, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, state.rflags) == OFF_RFLAGS, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, state.xsave) == OFF_XSAVE, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, host_rsp) == OFF_HOST_RSP, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, arg) == OFF_ARG, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, flags_slot) == OFF_FLAGS_SLOT, "offsets.h");
_Static_assert(offsetof(struct bt_cpu, vcpu) == OFF_VCPU, "offsets.h");
_Static_assert(sizeof(struct bt_cpu) <= OFF_TARGET, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, cpu) == OFF_V_CPU, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, running) == OFF_V_RUNNING, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, hold) == OFF_V_HOLD, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, r10) == OFF_V_R10, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, r11) == OFF_V_R11, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, fpu_saved) == OFF_V_FPU_SAVED, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, activity) == OFF_V_ACTIVITY, "offsets.h");
_Static_assert(offsetof(struct bt_vcpu, xsave_mask) == OFF_V_XSAVE_MASK, "offsets.h");

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

struct bt_host bt_host;
uint64_t bt_xsave_mask;
uint32_t bt_xsave_offset[8], bt_xsave_size[8], bt_xsave_aligned;
uint8_t bt_init_xsave[X86_XSAVE_MAX] __attribute__((aligned(64)));

/* x87, SSE, AVX, AVX-512: what fits X86_XSAVE_MAX and guests may have. PKRU stays the host's. */
#define XSAVE_COMPONENTS 0xe7ull

/* ---- the host ---- */

static bool pext_is_fast(void)
{
	unsigned a, b, c, d, family;

	__cpuid(0, a, b, c, d);
	if (b != signature_AMD_ebx)
		return true;
	__cpuid(1, a, b, c, d);
	family = ((a >> 8) & 15) + ((a >> 20) & 255);
	return family >= 0x19; /* microcode before Zen 3 */
}

static void detect_host(void)
{
	unsigned a, b, c, d;
	static bool done;
	uint16_t fcw = 0x37f;
	uint32_t mxcsr = 0x1f80;

	if (done)
		return;
	done = true;
	__cpuid(1, a, b, c, d);
	bt_host.movbe = c >> 22 & 1;
	bt_host.xsave = c >> 27 & 1;
	if (bt_host.xsave) {
		uint32_t low, high;

		__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
		bt_xsave_mask = low & XSAVE_COMPONENTS;
		bt_host.avx = (low & 6) == 6 && (c >> 28 & 1);
		for (unsigned n = 2; n < 8; n++) {
			__cpuid_count(0xd, n, a, b, c, d);
			bt_xsave_offset[n] = b;
			bt_xsave_size[n] = a;
			bt_xsave_aligned |= (c >> 1 & 1) << n;
			if (a + b > X86_XSAVE_MAX)
				bt_xsave_mask &= ~(1ull << n);
		}
		__cpuid_count(0xd, 1, a, b, c, d);
		bt_host.xsavec = a >> 1 & 1;
	}
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		bt_host.bmi2 = b >> 8 & 1;
		bt_host.erms = b >> 9 & 1;
		bt_host.avx512 = (b >> 16 & 1) && (bt_xsave_mask & 0xe0) == 0xe0;
		bt_host.adx = b >> 19 & 1;
		bt_host.fsrm = d >> 4 & 1;
	}
	bt_host.fast_pext = bt_host.bmi2 && pext_is_fast();
	bt_host.fsgsbase = getauxval(AT_HWCAP2) >> 1 & 1;
	memcpy(bt_init_xsave, &fcw, sizeof(fcw));
	memcpy(bt_init_xsave + 24, &mxcsr, sizeof(mxcsr));
}

static int exec_memfd(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0)
		fd = memfd_create(name, MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, (off_t)size)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void bt_probe(struct engine_probe *probe)
{
	int fd = exec_memfd("lodge-probe", PAGE_SIZE);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);

	detect_host();
	probe->usable = p != MAP_FAILED;
	probe->rank = 10;
	if (probe->usable)
		snprintf(probe->reason, sizeof(probe->reason), "binary translation; needs no privileges");
	else
		snprintf(probe->reason, sizeof(probe->reason), "this host does not let a program run code it made (%s)",
			 strerror(errno));
	if (p != MAP_FAILED)
		munmap(p, PAGE_SIZE);
	if (fd >= 0)
		close(fd);
}

/* ---- the VM ---- */

static void *reserve(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, uint64_t size)
{
	if (p)
		munmap(p, size);
}

#define HASH_BYTES (sizeof(struct bt_block *) << BT_HASH_BITS)

static int create_cache(struct bt_vm *bt, struct error *err)
{
	struct bt_cache *cache = &bt->cache;
	uint32_t size = BT_CACHE_SIZE;
	int fd = exec_memfd("lodge-code", BT_CACHE_SIZE);

	if (fd < 0)
		return error_set_errno(err, errno, "cannot create the code cache");
	cache->rw = mmap(NULL, BT_CACHE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cache->rx = mmap(NULL, BT_CACHE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	if (cache->rw == MAP_FAILED || cache->rx == MAP_FAILED) {
		cache->rw = cache->rw == MAP_FAILED ? NULL : cache->rw;
		cache->rx = cache->rx == MAP_FAILED ? NULL : cache->rx;
		return error_set_errno(err, errno, "cannot map the code cache (does the host forbid executable memory?)");
	}
	if (bt->options.cache_size && bt->options.cache_size < size)
		size = bt->options.cache_size;
	cache->size = size;
	cache->hot = 64; /* offset 0 is nobody's */
	cache->hot_limit = size / 2;
	cache->cold = cache->hot_limit;
	cache->cold_ready = cache->hot_limit;
	cache->cold_limit = size;
	cache->fault_capacity = BT_FAULTS_MAX;
	cache->hot_faults = reserve(BT_FAULTS_MAX * sizeof(*cache->hot_faults));
	cache->cold_faults = reserve(BT_FAULTS_MAX * sizeof(*cache->cold_faults));
	bt->hash = reserve(HASH_BYTES);
	bt->blocks = reserve(BT_BLOCKS_MAX * sizeof(*bt->blocks));
	bt->crosses = reserve(BT_CROSS_MAX * sizeof(*bt->crosses));
	bt->unmapped_page = reserve(PAGE_SIZE);
	if (!cache->hot_faults || !cache->cold_faults || !bt->hash || !bt->blocks || !bt->crosses || !bt->unmapped_page)
		return error_set_errno(err, errno, "cannot reserve memory for translations");
	memset(bt->unmapped_page, 0xff, PAGE_SIZE);
	return 0;
}

static int create_slots(struct bt_vm *bt, struct error *err)
{
	struct guest_memory *mem = &bt->vm->memory;

	for (unsigned i = 0; i < mem->slot_count; i++) {
		uint64_t pages = mem->slots[i].size >> PAGE_SHIFT;

		bt->slots[i].pages = reserve(pages * sizeof(struct bt_page));
		bt->slots[i].writers = reserve(pages * sizeof(uint64_t));
		if (!bt->slots[i].pages || !bt->slots[i].writers)
			return error_set_errno(err, errno, "cannot reserve memory for page tables of '%s'", mem->slots[i].name);
	}
	return 0;
}

static int create_template(struct bt_vm *bt, struct error *err)
{
	uint64_t size = BT_JC_ENTRIES * sizeof(struct bt_jump);
	struct bt_jump *jumps;

	bt->jump_template_fd = memfd_create("lodge-jumps", MFD_CLOEXEC);
	if (bt->jump_template_fd < 0 || ftruncate(bt->jump_template_fd, (off_t)size))
		return error_set_errno(err, errno, "cannot create the jump cache");
	jumps = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bt->jump_template_fd, 0);
	if (jumps == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map the jump cache");
	for (unsigned i = 0; i < BT_JC_ENTRIES; i++)
		jumps[i] = (struct bt_jump){ BT_JUMP_EMPTY, (uint64_t)bt_tramp_jump_miss };
	munmap(jumps, size);
	return 0;
}

static void bt_vm_destroy(struct vm *vm)
{
	struct bt_vm *bt = vm->engine_data;

	if (!bt)
		return;
	bt_profile_free(bt);
	bt_perf_map_close(bt);
	for (unsigned i = 0; i < vm->memory.slot_count; i++) {
		uint64_t pages = vm->memory.slots[i].size >> PAGE_SHIFT;

		release(bt->slots[i].pages, pages * sizeof(struct bt_page));
		release((void *)bt->slots[i].writers, pages * sizeof(uint64_t));
	}
	release(bt->cache.rw, BT_CACHE_SIZE);
	release(bt->cache.rx, BT_CACHE_SIZE);
	release(bt->cache.hot_faults, BT_FAULTS_MAX * sizeof(*bt->cache.hot_faults));
	release(bt->cache.cold_faults, BT_FAULTS_MAX * sizeof(*bt->cache.cold_faults));
	release(bt->hash, HASH_BYTES);
	release(bt->blocks, BT_BLOCKS_MAX * sizeof(*bt->blocks));
	release(bt->crosses, BT_CROSS_MAX * sizeof(*bt->crosses));
	release(bt->unmapped_page, PAGE_SIZE);
	if (bt->jump_template_fd >= 0)
		close(bt->jump_template_fd);
	vm->engine_data = NULL;
	free(bt);
}

static int bt_vm_create(struct vm *vm, struct error *err)
{
	struct bt_vm *bt = calloc(1, sizeof(*bt));

	if (!bt)
		return error_set_errno(err, ENOMEM, "cannot create the translation engine");
	detect_host();
	bt_host.pause_yields = vm->vcpu_count > (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	bt->vm = vm;
	bt->jump_template_fd = -1;
	atomic_store(&bt->translating[0], ~0ull);
	atomic_store(&bt->translating[1], ~0ull);
	if (bt_options_parse(&bt->options, vm->config.engine_options, err)) {
		free(bt);
		return -1;
	}
	vm->engine_data = bt;
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	if (create_cache(bt, err) || create_slots(bt, err) || create_template(bt, err) || bt_signals_install(err) ||
	    (vm->config.perf_map && bt_perf_map_open(bt, err)) || (vm->config.profile && bt_profile_start(bt, err))) {
		bt_vm_destroy(vm);
		return -1;
	}
	return 0;
}

/* ---- vCPUs ---- */

#define ALIAS_STRIDE ((BT_ALIAS_SIZE + 0x3fffffull) & ~0x1fffffull) /* with at least 2 MiB of guard */
#define TAGS_SIZE offsetof(struct bt_tables, jump)
#define JUMPS_SIZE (sizeof(struct bt_tables) - TAGS_SIZE)

static int map_alias(struct bt_vcpu *v, uint8_t *base, struct error *err)
{
	static const enum bt_class own[2] = { BT_CLASS_U, BT_CLASS_KU };

	if (mmap(base, BT_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, v->memfd, 0) == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map the tables of CPU %u", v->vcpu->index);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *t = base + BT_OFF_TABLES(own[i]);

		if (mmap(t, TAGS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			 0) == MAP_FAILED ||
		    mmap(t + TAGS_SIZE, JUMPS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
			 v->bt->jump_template_fd, 0) == MAP_FAILED)
			return error_set_errno(err, errno, "cannot map the tables of CPU %u", v->vcpu->index);
	}
	return 0;
}

static int map_area(struct bt_vcpu *v, struct error *err)
{
	v->area_size = ALIAS_STRIDE * BT_ALIAS_COUNT + 0x200000;
	v->area = mmap(NULL, v->area_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (v->area == MAP_FAILED) {
		v->area = NULL;
		return error_set_errno(err, errno, "cannot reserve the tables of CPU %u", v->vcpu->index);
	}
	v->memfd = memfd_create("lodge-vcpu", MFD_CLOEXEC);
	if (v->memfd < 0 || ftruncate(v->memfd, (off_t)BT_SHARED_SIZE))
		return error_set_errno(err, errno, "cannot create the tables of CPU %u", v->vcpu->index);
	for (unsigned a = 0; a < BT_ALIAS_COUNT; a++) {
		uint8_t *base = v->area + 0x200000 + a * ALIAS_STRIDE;

		if (map_alias(v, base, err))
			return -1;
		v->alias[a].gs_base = (uint64_t)base;
	}
	return 0;
}

static const struct x86_system_ops system_ops = {
	.read = bt_system_read,
	.write = bt_system_write,
	.read_msr = bt_read_msr,
	.write_msr = bt_write_msr,
	.read_cr8 = bt_read_cr8,
	.write_cr8 = bt_write_cr8,
};

static void init_cpu(struct bt_vcpu *v)
{
	struct bt_cpu *cpu = v->cpu;
	const struct cpu_model *model = &v->vm->cpu_model;

	cpu->vcpu = v;
	cpu->tramp_memory = (uint64_t)bt_tramp_memory;
	cpu->tramp_commit = (uint64_t)bt_tramp_commit;
	cpu->tramp_helper = (uint64_t)bt_tramp_helper;
	cpu->tramp_chain = (uint64_t)bt_tramp_chain;
	cpu->tramp_jump = (uint64_t)bt_tramp_jump;
	cpu->tramp_jump_miss = (uint64_t)bt_tramp_jump_miss;
	cpu->tramp_poll = (uint64_t)bt_tramp_poll;
	cpu->tramp_dispatch = (uint64_t)bt_tramp_dispatch;
	cpu->irq_pending = &v->vcpu->irq_pending;
	v->system.cpu = &cpu->state;
	v->system.ops = &system_ops;
	v->system.ctx = v;
	v->system.features = (struct x86_system_features){
		.cr4_valid = model->cr4_valid,
		.xcr0_valid = model->xcr0_valid & bt_xsave_mask,
		.efer_valid = model->efer_valid,
		.maxphyaddr = model->maxphyaddr ? model->maxphyaddr : 40,
		.is_amd = model->is_amd,
	};
	v->xsave_mask = bt_xsave_mask;
	v->fpu_saved = 1;
	v->breakpoint_skip = ~0ull;
}

static void bt_vcpu_destroy(struct vcpu *vcpu)
{
	struct bt_vcpu *v = vcpu->engine_data;

	if (!v)
		return;
	vcpu->engine_data = NULL;
	bt_pv_destroy(v);
	release(v->area, v->area_size);
	release(v->signal_stack, 65536);
	if (v->memfd >= 0)
		close(v->memfd);
	free(v);
}

static int bt_vcpu_create(struct vcpu *vcpu, struct error *err)
{
	struct bt_vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);

	if (!v)
		return error_set_errno(err, ENOMEM, "cannot create CPU %u", vcpu->index);
	memset(v, 0, sizeof(*v));
	v->memfd = -1;
	v->vcpu = vcpu;
	v->vm = vcpu->vm;
	v->bt = vcpu->vm->engine_data;
	v->multi = vcpu->vm->vcpu_count > 1;
	vcpu->engine_data = v;
	if (map_area(v, err) || bt_pv_create(v)) {
		bt_vcpu_destroy(vcpu);
		return -1;
	}
	v->cpu = (struct bt_cpu *)v->alias[0].gs_base;
	init_cpu(v);
	bt_tlb_init(v);
	return 0;
}

static void bt_vcpu_kick(struct vcpu *vcpu)
{
	struct bt_vcpu *v = vcpu->engine_data;

	atomic_store(&v->cpu->poll, 1);
}

/* ---- state ---- */

/* Make an XSAVE image one that XRSTOR accepts whatever it held. */
void bt_sanitize_xsave(uint8_t *xsave)
{
	uint64_t bv;
	uint32_t mxcsr;

	memcpy(&bv, xsave + 512, 8);
	bv &= bt_xsave_mask;
	memcpy(xsave + 512, &bv, 8);
	memset(xsave + 520, 0, 56);
	memcpy(&mxcsr, xsave + 24, 4);
	mxcsr &= 0xffff;
	if (!(bv & 6) && mxcsr == 0)
		mxcsr = 0x1f80;
	memcpy(xsave + 24, &mxcsr, 4);
}

static void bt_get_state(struct vcpu *vcpu, struct x86_cpu_state *state)
{
	struct bt_vcpu *v = vcpu->engine_data;

	*state = v->cpu->state;
	/* The x87 instruction and data pointers are the host's. */
	memset(state->xsave + 8, 0, 16);
	state->tsc_offset = v->vm->tsc_offset + vcpu->tsc_delta;
	if (vcpu->apic_ops)
		state->cr8 = vcpu->apic_ops->read_tpr(vcpu->apic);
}

static void bt_set_state(struct vcpu *vcpu, const struct x86_cpu_state *state)
{
	struct bt_vcpu *v = vcpu->engine_data;

	v->cpu->state = *state;
	v->cpu->state.rflags |= X86_FLAG_R1;
	bt_sanitize_xsave(v->cpu->state.xsave);
	v->fpu_saved = 1;
	v->system.effects = X86_EFFECT_MODE | X86_EFFECT_FLUSH_ALL | X86_EFFECT_DEBUG | X86_EFFECT_INTERRUPTS;
	v->db_pending = 0;
	v->watch_step = false;
	bt_apply_effects(v->cpu);
}

/* ---- memory and debuggers ---- */

static void bt_memory_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	struct bt_vm *bt = vm->engine_data;

	while (bt && len) {
		struct memory_slot *slot = bt_find_slot(vm, gpa);
		uint64_t n;

		if (!slot)
			return;
		n = slot->size - (gpa - slot->gpa);
		n = n < len ? n : len;
		bt_code_written(bt, slot, gpa, n);
		gpa += n;
		len -= n;
	}
}

static uint64_t peek_read(void *ctx, uint64_t gpa, unsigned size)
{
	return bt_walk_ops.read_entry(ctx, gpa, size);
}

static bool peek_cmpxchg(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t new_value)
{
	(void)ctx;
	(void)gpa;
	(void)size;
	(void)old;
	(void)new_value;
	return true; /* a debugger's look sets no accessed bits */
}

static bool bt_translate_linear(struct vcpu *vcpu, uint64_t linear, uint64_t *gpa)
{
	static const struct x86_walk_ops peek_ops = { peek_read, peek_cmpxchg };
	struct bt_vcpu *v = vcpu->engine_data;
	struct x86_cpu_state state = v->cpu->state;
	struct x86_walk walk;

	state.cr4 &= ~(uint64_t)X86_CR4_SMAP;
	if (!x86_walk_page(&state, &peek_ops, v, linear, X86_ACCESS_READ, false, true, v->system.features.maxphyaddr, &walk))
		return false;
	*gpa = walk.gpa;
	return true;
}

static int bt_set_breakpoint(struct vm *vm, uint64_t linear, bool insert, struct error *err)
{
	struct bt_vm *bt = vm->engine_data;
	unsigned n = 0;

	while (n < bt->breakpoint_count && bt->breakpoints[n].linear != linear)
		n++;
	if (!insert) {
		if (n < bt->breakpoint_count)
			bt->breakpoints[n] = bt->breakpoints[--bt->breakpoint_count];
		return 0;
	}
	if (n < bt->breakpoint_count)
		return 0;
	if (n == BT_BREAKPOINT_MAX)
		return error_set(err, 0, "cannot set more than %u breakpoints", BT_BREAKPOINT_MAX);
	bt->breakpoints[bt->breakpoint_count++].linear = linear;
	return 0;
}

static void bt_set_single_step(struct vcpu *vcpu, bool on)
{
	struct bt_vcpu *v = vcpu->engine_data;

	v->step = on;
	v->step_done = false;
}

const struct engine bt_engine = {
	.name = "bt",
	.probe = bt_probe,
	.vm_create = bt_vm_create,
	.vm_destroy = bt_vm_destroy,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.get_state = bt_get_state,
	.set_state = bt_set_state,
	.translate = bt_translate_linear,
	.memory_written = bt_memory_written,
	.set_breakpoint = bt_set_breakpoint,
	.set_single_step = bt_set_single_step,
	.filter_cpuid = bt_filter_cpuid,
	.print_stats = bt_print_stats,
	.print_profile = bt_print_profile,
};
