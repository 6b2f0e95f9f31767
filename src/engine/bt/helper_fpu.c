/* SPDX-License-Identifier: MIT */
/*
 * Instructions that move the x87 and vector state as a whole (Intel SDM volume 1, chapters 8, 10.5 and 13).
 *
 * The guest's state is in the host's registers, so the host's instruction does the work on an aligned buffer, and the buffer is
 * moved from or to the guest with the ordinary access functions. What the host's instruction would raise
 * on a bad image is checked before, because a fault in C code cannot be given to the guest.
 *
 * FIP, FDP and the selectors would be addresses of translated code: they are stored as zero, as processors do that
 * have no exception pending.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers.h"

#define FXSAVE_SIZE 512u
#define XSAVE_LEGACY 512u
#define XSAVE_HEADER 64u
#define COMPACTED (1ull << 63)

static uint8_t *buffer_of(struct bt_cpu *cpu)
{
	return bt_vcpu_of(cpu)->fpu_buffer;
}

/* Bring the guest's state back into the registers if something saved it meanwhile. */
static void fpu_live(struct bt_cpu *cpu)
{
	struct bt_vcpu *v = bt_vcpu_of(cpu);
	uint32_t low = (uint32_t)bt_xsave_mask, high = (uint32_t)(bt_xsave_mask >> 32);

	if (!v->fpu_saved)
		return;
	if (low)
		__asm__ volatile("xrstor64 %0" ::"m"(cpu->state.xsave), "a"(low), "d"(high) : "memory");
	else
		__asm__ volatile("fxrstor64 %0" ::"m"(cpu->state.xsave) : "memory");
	v->fpu_saved = 0;
}

static enum bt_result gp(struct bt_cpu *cpu, const struct bt_call *call)
{
	return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
}

/* The linear address of the operand; it must be aligned. 0; 1: *result is what to return. */
static int operand(struct bt_cpu *cpu, const struct bt_call *call, unsigned size, unsigned align, bool write,
		   uint64_t *linear, enum bt_result *result)
{
	struct x86_fault fault;

	if (helper_linear(cpu, call->seg, cpu->arg, size, write, linear, &fault) < 0) {
		*result = bt_raise(cpu, call->offset, &fault);
		return 1;
	}
	if (*linear & (align - 1)) {
		*result = gp(cpu, call);
		return 1;
	}
	return 0;
}

static enum bt_result store(struct bt_cpu *cpu, const struct bt_call *call, uint64_t linear, const void *buf, unsigned size)
{
	struct x86_fault fault;

	if (bt_write(cpu, linear, buf, size, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	return BT_NEXT;
}

static void no_pointers(uint8_t *image)
{
	bt_fill(image + 8, 0, 16);
}

static uint32_t mxcsr_mask(struct bt_cpu *cpu)
{
	static uint32_t mask;

	if (!mask) {
		uint8_t *buf = buffer_of(cpu);
		uint32_t m;

		__asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[512])buf)::"memory");
		m = load_le32(buf + 28);
		mask = m ? m : 0xffbf;
	}
	return mask;
}

/* Is an unmasked x87 exception pending? FLDENV and FRSTOR report it like other x87 instructions. */
static bool exception_pending(void)
{
	uint16_t status;

	__asm__ volatile("fnstsw %0" : "=a"(status));
	return status & 0x80;
}

/* ---- FXSAVE, FXRSTOR ---- */

static bool not_available(const struct bt_cpu *cpu)
{
	return cpu->state.cr0 & (X86_CR0_EM | X86_CR0_TS);
}

enum bt_result bt_help_fxsave(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint8_t *buf = buffer_of(cpu);
	enum bt_result result;
	uint64_t linear;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (operand(cpu, call, FXSAVE_SIZE, 16, true, &linear, &result))
		return result;
	__asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[512])buf)::"memory");
	no_pointers(buf);
	return store(cpu, call, linear, buf, x86_in_64bit(&cpu->state) ? 416 : 288);
}

enum bt_result bt_help_fxrstor(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint8_t *buf = buffer_of(cpu);
	uint32_t mask = mxcsr_mask(cpu);
	enum bt_result result;
	struct x86_fault fault;
	uint64_t linear;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (operand(cpu, call, FXSAVE_SIZE, 16, false, &linear, &result))
		return result;
	/* Outside 64-bit code XMM8-15 keep their values. */
	__asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[512])buf)::"memory");
	if (bt_read(cpu, linear, buf, x86_in_64bit(&cpu->state) ? 416 : 288, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if (load_le32(buf + 24) & ~mask)
		return gp(cpu, call);
	no_pointers(buf);
	fpu_live(cpu);
	__asm__ volatile("fxrstor64 %0" ::"m"(*(uint8_t(*)[512])buf) : "memory");
	return BT_NEXT;
}

/* ---- the XSAVE family ---- */

static unsigned component_size(unsigned n)
{
	return bt_xsave_size[n];
}

/* Bytes of the image with these components. */
static unsigned image_size(uint64_t components, bool compacted)
{
	unsigned size = XSAVE_LEGACY + XSAVE_HEADER;

	for (unsigned n = 2; n < 8; n++) {
		if (!(components >> n & 1))
			continue;
		if (!compacted) {
			if (bt_xsave_offset[n] + component_size(n) > size)
				size = bt_xsave_offset[n] + component_size(n);
			continue;
		}
		if (bt_xsave_aligned >> n & 1)
			size = (size + 63) & ~63u;
		size += component_size(n);
	}
	return size;
}

/* #UD, #NM and privilege. True: *result is what to return. */
static bool xsave_forbidden(struct bt_cpu *cpu, const struct bt_call *call, bool supervisor, enum bt_result *result)
{
	if (!(cpu->state.cr4 & X86_CR4_OSXSAVE) || !bt_xsave_mask)
		*result = bt_raise_vector(cpu, call->offset, X86_UD, false, 0);
	else if (cpu->state.cr0 & X86_CR0_TS)
		*result = bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	else if (supervisor && x86_cpl(&cpu->state) != 0)
		*result = gp(cpu, call);
	else
		return false;
	return true;
}

static uint64_t requested(const struct bt_cpu *cpu)
{
	const uint64_t *gpr = cpu->state.gpr;

	return (((uint64_t)(uint32_t)gpr[X86_RDX] << 32) | (uint32_t)gpr[X86_RAX]) & cpu->state.xcr0 & bt_xsave_mask;
}

/* Outside 64-bit code the places of registers 8 and up are not written: take them from the image as it was. */
static void keep_high(uint8_t *buf, const uint8_t *old, uint64_t components, bool compacted)
{
	unsigned at = XSAVE_LEGACY + XSAVE_HEADER;

	if (components & 2)
		bt_copy(buf + 288, old + 288, 128);
	for (unsigned n = 2; n < 8; n++) {
		unsigned offset = bt_xsave_offset[n], half = bt_xsave_size[n] / 2;

		if (!(components >> n & 1))
			continue;
		if (compacted) {
			offset = bt_xsave_aligned >> n & 1 ? (at + 63) & ~63u : at;
			at = offset + component_size(n);
		}
		if (n == 2 || n == 6)
			bt_copy(buf + offset + half, old + offset + half, half);
		else if (n == 7)
			bt_copy(buf + offset, old + offset, component_size(n));
	}
}

enum bt_result bt_help_xsave(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool compact = call->op == X86_OP_XSAVEC || call->op == X86_OP_XSAVES;
	uint64_t components = requested(cpu), linear;
	uint32_t low = (uint32_t)components;
	uint8_t *buf = buffer_of(cpu);
	unsigned size;
	enum bt_result result;
	struct x86_fault fault;

	if (xsave_forbidden(cpu, call, call->op == X86_OP_XSAVES, &result))
		return result;
	if (compact && !bt_host.xsavec)
		return bt_raise_vector(cpu, call->offset, X86_UD, false, 0);
	size = image_size(components, compact);
	if (operand(cpu, call, size, 64, true, &linear, &result))
		return result;
	/* What is not written keeps its contents in memory. */
	if (bt_access_read(bt_vcpu_of(cpu), linear, buf, size, bt_class_of(&cpu->state), false, true, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if (unlikely(!x86_in_64bit(&cpu->state)))
		bt_copy(bt_vcpu_of(cpu)->fpu_scratch, buf, size);
	fpu_live(cpu);
	if (compact)
		__asm__ volatile("xsavec64 %0" : "+m"(*(uint8_t(*)[X86_XSAVE_MAX])buf) : "a"(low), "d"(0) : "memory");
	else
		__asm__ volatile("xsave64 %0" : "+m"(*(uint8_t(*)[X86_XSAVE_MAX])buf) : "a"(low), "d"(0) : "memory");
	if (low & 1)
		no_pointers(buf);
	if (unlikely(!x86_in_64bit(&cpu->state)))
		keep_high(buf, bt_vcpu_of(cpu)->fpu_scratch, low, compact);
	return store(cpu, call, linear, buf, size);
}

/*
 * XRSTOR outside 64-bit code: registers 8 and up keep their values. The guest's state is in cpu->state.xsave; the new
 * one is put together there.
 */
static void restore_low(struct bt_cpu *cpu, const uint8_t *buf, uint32_t components)
{
	static const struct {
		uint8_t component, bytes; /* of each register in it */
	} parts[] = { { 1, 16 }, { 2, 16 }, { 6, 32 } };
	uint8_t *image = bt_vcpu_of(cpu)->fpu_scratch, *old = cpu->state.xsave;
	uint32_t all = (uint32_t)bt_xsave_mask;

	/* The registers hold C's state now: load the guest's, restore over it, and take the result. */
	__asm__ volatile("xrstor64 %0" ::"m"(cpu->state.xsave), "a"(all), "d"(0) : "memory");
	__asm__ volatile("xrstor64 %0" ::"m"(*(const uint8_t(*)[X86_XSAVE_MAX])buf), "a"(components & ~0x80u), "d"(0) : "memory");
	__asm__ volatile("xsave64 %0" : "=m"(*(uint8_t(*)[X86_XSAVE_MAX])image) : "a"(all), "d"(0) : "memory");
	for (unsigned i = 0; i < 3; i++) {
		unsigned n = parts[i].component, offset = n == 1 ? 160 : bt_xsave_offset[n], half = parts[i].bytes * 8u;

		if (!(bt_xsave_mask >> n & 1))
			continue;
		if (!(image[512] >> n & 1)) { /* initial: zero, but for what is kept */
			bt_fill(image + offset, 0, 2 * half);
			image[512] |= (uint8_t)(1u << n);
		}
		if (old[512] >> n & 1)
			bt_copy(image + offset + half, old + offset + half, half);
		else
			bt_fill(image + offset + half, 0, half);
	}
	bt_copy(old, image, X86_XSAVE_MAX);
	/* fpu_saved is set: the way back loads it. */
}

static bool any_byte(const uint8_t *p, unsigned n)
{
	uint8_t any = 0;

	for (unsigned i = 0; i < n; i++)
		any |= p[i];
	return any;
}

/* Would the processor take this header (SDM volume 1, 13.8 and 13.12)? */
static bool valid_header(const struct bt_cpu *cpu, const uint8_t *buf, bool supervisor)
{
	uint64_t present = load_le64(buf + XSAVE_LEGACY), layout = load_le64(buf + XSAVE_LEGACY + 8);

	if (layout & COMPACTED)
		return bt_host.xsavec && !(layout & ~COMPACTED & ~cpu->state.xcr0) && !(present & ~layout) &&
		       !any_byte(buf + XSAVE_LEGACY + 16, 48);
	return !supervisor && layout == 0 && !(present & ~cpu->state.xcr0) && !any_byte(buf + XSAVE_LEGACY + 16, 8);
}

enum bt_result bt_help_xrstor(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool supervisor = call->op == X86_OP_XRSTORS;
	uint64_t components = requested(cpu), layout, linear;
	uint32_t low = (uint32_t)components, mask;
	uint8_t *buf = buffer_of(cpu);
	unsigned size = XSAVE_LEGACY + XSAVE_HEADER, whole;
	enum bt_result result;
	struct x86_fault fault;

	if (xsave_forbidden(cpu, call, supervisor, &result))
		return result;
	if (operand(cpu, call, size, 64, false, &linear, &result))
		return result;
	mask = mxcsr_mask(cpu);
	if (bt_read(cpu, linear, buf, size, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if (!valid_header(cpu, buf, supervisor))
		return gp(cpu, call);
	layout = load_le64(buf + XSAVE_LEGACY + 8);
	whole = layout & COMPACTED ? image_size(layout & ~COMPACTED, true) :
				     image_size(components & load_le64(buf + XSAVE_LEGACY), false);
	if (whole > size && bt_read(cpu, linear + size, buf + size, whole - size, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if ((components & 6) && (load_le32(buf + 24) & ~mask)) {
		if (!(layout & COMPACTED) || (load_le64(buf + XSAVE_LEGACY) & 2))
			return gp(cpu, call);
		store_le32(buf + 24, 0x1f80); /* not looked at */
	}
	/* Components that are not there are set to their initial values; the bytes do not matter. */
	if (low & 1)
		no_pointers(buf);
	store_le64(buf + XSAVE_LEGACY, load_le64(buf + XSAVE_LEGACY) & bt_xsave_mask);
	if (unlikely(!x86_in_64bit(&cpu->state)))
		bt_fpu_save(cpu);
	else
		fpu_live(cpu);
	if (unlikely(!x86_in_64bit(&cpu->state)))
		restore_low(cpu, buf, low);
	else
		__asm__ volatile("xrstor64 %0" ::"m"(*(uint8_t(*)[X86_XSAVE_MAX])buf), "a"(low), "d"(0) : "memory");
	return BT_NEXT;
}

/* ---- x87 environment ---- */

#define ENV_LONG 28u
#define ENV_SHORT 14u
#define REGISTERS 80u

/* From the host's 28-byte form, without its pointers, to the guest's form. Returns its size. */
static unsigned pack_env(uint8_t *out, const uint8_t *env, bool is_long)
{
	bt_fill(out, 0, ENV_LONG);
	if (is_long) {
		store_le32(out, 0xffff0000u | load_le16(env));
		store_le32(out + 4, 0xffff0000u | load_le16(env + 4));
		store_le32(out + 8, 0xffff0000u | load_le16(env + 8));
		store_le32(out + 24, 0xffff0000u);
		return ENV_LONG;
	}
	store_le16(out, load_le16(env));
	store_le16(out + 2, load_le16(env + 4));
	store_le16(out + 4, load_le16(env + 8));
	return ENV_SHORT;
}

static void unpack_env(uint8_t *env, const uint8_t *in, bool is_long)
{
	uint16_t control = load_le16(in), status = load_le16(in + (is_long ? 4 : 2)), tags = load_le16(in + (is_long ? 8 : 4));

	bt_fill(env, 0, ENV_LONG);
	store_le32(env, 0xffff0000u | control);
	store_le32(env + 4, 0xffff0000u | status);
	store_le32(env + 8, 0xffff0000u | tags);
	store_le32(env + 24, 0xffff0000u);
}

typedef uint8_t env_bytes[ENV_LONG + REGISTERS];

enum bt_result bt_help_fnstenv(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool is_long = call->opsize != 2;
	uint8_t *env = buffer_of(cpu), out[ENV_LONG];
	enum bt_result result;
	struct x86_fault fault;
	uint64_t linear;
	unsigned size;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (operand(cpu, call, is_long ? ENV_LONG : ENV_SHORT, 1, true, &linear, &result))
		return result;
	__asm__ volatile("fnstenv %0" : "=m"(*(env_bytes *)env)::"memory");
	size = pack_env(out, env, is_long);
	if (bt_write(cpu, linear, out, size, &fault) < 0) {
		fpu_live(cpu);
		__asm__ volatile("fldcw %0" ::"m"(*(uint16_t *)env)); /* fnstenv masked all exceptions */
		return bt_raise(cpu, call->offset, &fault);
	}
	return BT_NEXT;
}

enum bt_result bt_help_fldenv(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool is_long = call->opsize != 2;
	uint8_t *env = buffer_of(cpu), in[ENV_LONG];
	enum bt_result result;
	struct x86_fault fault;
	uint64_t linear;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (exception_pending())
		return bt_raise_vector(cpu, call->offset, X86_MF, false, 0);
	if (operand(cpu, call, is_long ? ENV_LONG : ENV_SHORT, 1, false, &linear, &result))
		return result;
	if (bt_read(cpu, linear, in, is_long ? ENV_LONG : ENV_SHORT, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	unpack_env(env, in, is_long);
	fpu_live(cpu);
	__asm__ volatile("fldenv %0" ::"m"(*(env_bytes *)env) : "memory");
	return BT_NEXT;
}

enum bt_result bt_help_fnsave(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool is_long = call->opsize != 2;
	uint8_t *env = buffer_of(cpu), out[ENV_LONG + REGISTERS];
	enum bt_result result;
	struct x86_fault fault;
	uint64_t linear;
	unsigned size;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (operand(cpu, call, (is_long ? ENV_LONG : ENV_SHORT) + REGISTERS, 1, true, &linear, &result))
		return result;
	__asm__ volatile("fnsave %0" : "=m"(*(env_bytes *)env)::"memory");
	size = pack_env(out, env, is_long);
	bt_copy(out + size, env + ENV_LONG, REGISTERS);
	if (bt_write(cpu, linear, out, size + REGISTERS, &fault) < 0) {
		fpu_live(cpu);
		__asm__ volatile("frstor %0" ::"m"(*(env_bytes *)env) : "memory");
		return bt_raise(cpu, call->offset, &fault);
	}
	return BT_NEXT;
}

enum bt_result bt_help_frstor(struct bt_cpu *cpu, const struct bt_call *call)
{
	bool is_long = call->opsize != 2;
	uint8_t *env = buffer_of(cpu), in[ENV_LONG + REGISTERS];
	unsigned env_size = is_long ? ENV_LONG : ENV_SHORT;
	enum bt_result result;
	struct x86_fault fault;
	uint64_t linear;

	if (not_available(cpu))
		return bt_raise_vector(cpu, call->offset, X86_NM, false, 0);
	if (exception_pending())
		return bt_raise_vector(cpu, call->offset, X86_MF, false, 0);
	if (operand(cpu, call, env_size + REGISTERS, 1, false, &linear, &result))
		return result;
	if (bt_read(cpu, linear, in, env_size + REGISTERS, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	unpack_env(env, in, is_long);
	bt_copy(env + ENV_LONG, in + env_size, REGISTERS);
	fpu_live(cpu);
	__asm__ volatile("frstor %0" ::"m"(*(env_bytes *)env) : "memory");
	return BT_NEXT;
}
