/* SPDX-License-Identifier: MIT */
/*
 * Helpers for unprivileged instructions that 64-bit code does not have or that are rare: decimal
 * adjustment, XLAT, ENTER, PUSHA, POPA, and bit tests whose offset wraps with a small address size.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers_system.h"

static void set_flags(struct bt_cpu *cpu, uint64_t mask, uint64_t value)
{
	cpu->state.rflags = (cpu->state.rflags & ~mask) | (value & mask);
}

static uint64_t flags_szp(uint8_t value)
{
	return (value & 0x80 ? X86_FLAG_SF : 0) | (value == 0 ? X86_FLAG_ZF : 0) |
	       (__builtin_parity(value) ? 0 : X86_FLAG_PF);
}

/* Flags of an 8-bit sum or difference: what ADD and SUB give, OF included. */
static uint64_t flags_of_byte(uint8_t a, uint8_t b, bool subtract)
{
	uint8_t r = (uint8_t)(subtract ? a - b : a + b);
	bool of = subtract ? (a ^ b) & (a ^ r) & 0x80 : ~(a ^ b) & (a ^ r) & 0x80;
	bool cf = subtract ? a < b : r < a;
	bool af = (a ^ b ^ r) & 0x10;

	return flags_szp(r) | (of ? X86_FLAG_OF : 0) | (cf ? X86_FLAG_CF : 0) |
	       (af ? X86_FLAG_AF : 0);
}

/*
 * DAA, DAS (SDM vol. 2). Undefined flags are what processors do: those of the one addition or subtraction.
 */
static void decimal_adjust(struct bt_cpu *cpu, bool subtract)
{
	uint8_t al = (uint8_t)cpu->state.gpr[X86_RAX], by = 0;
	bool cf = cpu->state.rflags & X86_FLAG_CF,
	     low = (al & 15) > 9 || (cpu->state.rflags & X86_FLAG_AF);
	bool high = al > 0x99 || cf, new_cf = high;

	if (low) {
		by += 6;
		if (subtract)
			new_cf |= al < 6;
	}
	if (high)
		by += 0x60;
	helper_set_gpr(cpu, X86_RAX, (uint8_t)(subtract ? al - by : al + by), 1);
	set_flags(cpu, X86_FLAGS_ARITH,
		  (flags_of_byte(al, by, subtract) & ~(uint64_t)(X86_FLAG_CF | X86_FLAG_AF)) |
			  (new_cf ? X86_FLAG_CF : 0) | (low ? X86_FLAG_AF : 0));
}

/* AAA, AAS. SF, ZF, PF and OF, undefined, are those of the 16-bit operation before the upper nibble is cleared. */
static void ascii_adjust(struct bt_cpu *cpu, bool subtract)
{
	uint16_t ax = (uint16_t)cpu->state.gpr[X86_RAX], by, r;
	bool adjust = (ax & 15) > 9 || (cpu->state.rflags & X86_FLAG_AF), of;

	by = adjust ? 0x106 : 0;
	r = (uint16_t)(subtract ? ax - by : ax + by);
	of = subtract ? (ax ^ by) & (ax ^ r) & 0x8000 : ~(ax ^ by) & (ax ^ r) & 0x8000;
	helper_set_gpr(cpu, X86_RAX, r & 0xff0f, 2);
	set_flags(cpu, X86_FLAGS_ARITH,
		  (flags_szp((uint8_t)r) & X86_FLAG_PF) | (r & 0x8000 ? X86_FLAG_SF : 0) |
			  (r == 0 ? X86_FLAG_ZF : 0) | (of ? X86_FLAG_OF : 0) |
			  (adjust ? X86_FLAG_CF | X86_FLAG_AF : 0));
}

enum bt_result bt_help_bcd(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint16_t ax = (uint16_t)cpu->state.gpr[X86_RAX];
	uint8_t al = (uint8_t)ax, ah = (uint8_t)(ax >> 8), base = (uint8_t)call->imm;

	switch (call->opcode) {
	case 0x27:
		decimal_adjust(cpu, false);
		break;
	case 0x2f:
		decimal_adjust(cpu, true);
		break;
	case 0x37:
		ascii_adjust(cpu, false);
		break;
	case 0x3f:
		ascii_adjust(cpu, true);
		break;
	case 0xd4: /* aam */
		if (base == 0)
			return bt_raise_vector(cpu, call->offset, X86_DE, false, 0);
		helper_set_gpr(cpu, X86_RAX, (uint64_t)(al / base) << 8 | al % base, 2);
		set_flags(cpu, X86_FLAGS_ARITH, flags_szp(al % base));
		break;
	case 0xd5: /* aad */
		helper_set_gpr(cpu, X86_RAX, (uint8_t)(al + ah * base), 2);
		set_flags(cpu, X86_FLAGS_ARITH, flags_of_byte(al, (uint8_t)(ah * base), false));
		break;
	default: /* d6: salc */
		helper_set_gpr(cpu, X86_RAX, cpu->state.rflags & X86_FLAG_CF ? 0xff : 0, 1);
		break;
	}
	return BT_NEXT;
}

/* XLAT: AL = [seg: rBX + AL] */
enum bt_result bt_help_xlat(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t offset = cpu->state.gpr[X86_RBX] + (uint8_t)cpu->state.gpr[X86_RAX];
	uint8_t value;

	if (helper_load(cpu, call->seg, offset & helper_mask(call->addrsize), &value, 1, &fault) <
	    0)
		return bt_raise(cpu, call->offset, &fault);
	helper_set_gpr(cpu, X86_RAX, value, 1);
	return BT_NEXT;
}

enum bt_result bt_help_pusha(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t rsp = cpu->state.gpr[X86_RSP], at = rsp;

	for (unsigned reg = 0; reg < 8; reg++) {
		at -= call->opsize;
		if (helper_push_at(cpu, at, reg == X86_RSP ? rsp : cpu->state.gpr[reg],
				   call->opsize, &fault) < 0)
			return bt_raise(cpu, call->offset, &fault);
	}
	helper_set_rsp(cpu, at);
	return BT_NEXT;
}

enum bt_result bt_help_popa(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t at = cpu->state.gpr[X86_RSP], value;

	/* Registers popped before a fault keep their new values, as on processors; only ESP stays. */
	for (unsigned reg = 8; reg-- > 0; at += call->opsize) {
		if (helper_pop_at(cpu, at, &value, call->opsize, &fault) < 0)
			return bt_raise(cpu, call->offset, &fault);
		if (reg != X86_RSP)
			helper_set_gpr(cpu, reg, value, call->opsize);
	}
	helper_set_rsp(cpu, at);
	return BT_NEXT;
}

/* ENTER imm16, imm8 (SDM vol. 2) */
enum bt_result bt_help_enter(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned size = call->opsize, level = call->imm2 & 31;
	uint64_t rsp = cpu->state.gpr[X86_RSP] - size, rbp = cpu->state.gpr[X86_RBP], frame = rsp,
		 value;

	if (helper_push_at(cpu, rsp, rbp, size, &fault) < 0)
		goto fault;
	for (unsigned i = 1; i < level; i++) {
		rbp -= size;
		rsp -= size;
		if (helper_pop_at(cpu, rbp, &value, size, &fault) < 0 ||
		    helper_push_at(cpu, rsp, value, size, &fault) < 0)
			goto fault;
	}
	if (level) {
		rsp -= size;
		if (helper_push_at(cpu, rsp, frame, size, &fault) < 0)
			goto fault;
	}
	rsp -= (uint16_t)call->imm;
	/* the new top of the stack must be writable */
	{
		uint64_t linear;
		uint8_t *host;

		if (helper_linear(cpu, X86_SS, rsp & helper_stack_mask(cpu), size, true, &linear,
				  &fault) < 0 ||
		    bt_page_host(cpu, linear, true, &host, &fault) < 0)
			goto fault;
	}
	helper_set_gpr(cpu, X86_RBP, frame, size == 8 ? 8 : MIN(size, 4u));
	helper_set_rsp(cpu, rsp);
	return BT_NEXT;
fault:
	return bt_raise(cpu, call->offset, &fault);
}

/* bt/bts/btr/btc m, r in 16- and 32-bit code, or with a 32-bit address size in 64-bit code. */
enum bt_result bt_help_bt_memory(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	unsigned size = call->opsize, bits = size * 8;
	uint64_t reg = cpu->state.gpr[call->reg], linear, value = 0, bit;
	int64_t index = size == 8 ? (int64_t)reg : size == 4 ? (int32_t)reg : (int16_t)reg;
	uint64_t offset = cpu->arg + (uint64_t)((index >> (size == 8 ? 6 :
							   size == 4 ? 5 :
								       4)) *
						(int64_t)size);
	unsigned kind = call->opcode >> 3 & 3; /* a3 bt, ab bts, b3 btr, bb btc */
	uint8_t *host = NULL;

	offset &= helper_mask(call->addrsize);
	bit = 1ull << ((uint64_t)index & (bits - 1));
	if (helper_linear(cpu, call->seg, offset, size, kind != 0, &linear, &fault) < 0)
		goto fault;
	if ((call->prefixes & X86_PFX_LOCK) && (linear & 0xfff) <= 0x1000 - size) {
		if (bt_page_host(cpu, linear, true, &host, &fault) < 0)
			goto fault;
	}
	if (host) { /* atomic on plain RAM: byte-wise suffices, other bits are untouched */
		uint8_t *byte = host + (((uint64_t)index & (bits - 1)) >> 3),
			mask = (uint8_t)(1u << ((uint64_t)index & 7));

		value = kind == 1 ? __atomic_fetch_or(byte, mask, __ATOMIC_SEQ_CST) :
			kind == 2 ? __atomic_fetch_and(byte, (uint8_t)~mask, __ATOMIC_SEQ_CST) :
				    __atomic_fetch_xor(byte, mask, __ATOMIC_SEQ_CST);
		if (bt_vcpu_of(cpu)->multi)
			bt_host_written(bt_vcpu_of(cpu), byte, 1);
		set_flags(cpu, X86_FLAG_CF, value & mask ? X86_FLAG_CF : 0);
		return BT_NEXT;
	}
	if (kind && bt_page_host(cpu, linear, true, &host, &fault) <
			    0) /* a write from the start, also for the error code */
		goto fault;
	if (bt_read(cpu, linear, &value, size, &fault) < 0)
		goto fault;
	if (kind) {
		uint64_t new_value = kind == 1 ? value | bit :
				     kind == 2 ? value & ~bit :
						 value ^ bit;

		if (bt_write(cpu, linear, &new_value, size, &fault) < 0)
			goto fault;
	}
	set_flags(cpu, X86_FLAG_CF, value & bit ? X86_FLAG_CF : 0);
	return BT_NEXT;
fault:
	return bt_raise(cpu, call->offset, &fault);
}
