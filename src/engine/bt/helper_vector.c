/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions with several memory operands (Intel SDM volume 2): gathers and scatters of AVX2 and AVX-512,
 * MASKMOVQ, MASKMOVDQU, MOVDIR64B.
 *
 * Elements are done in order. A fault leaves what was done before it: the destination's elements, and the mask
 * in which they are cleared; so that the instruction goes on from there when it is run again.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/vector_state.h"

struct vsib {
	struct bt_cpu *cpu;
	const struct bt_call *call;
	struct x86_insn insn;
	unsigned element, index_size, count;
	unsigned data, index, mask; /* register numbers; mask is an opmask for EVEX */
	bool evex;
	struct x86_fault fault;
};

static uint64_t address_mask(const struct x86_insn *insn)
{
	return insn->addrsize == 8 ? ~0ull : insn->addrsize == 4 ? 0xffffffffull : 0xffffull;
}

static void vsib_registers(struct vsib *s)
{
	const struct x86_insn *insn = &s->insn;
	const uint8_t *op = s->call->bytes + insn->opcode_offset;
	unsigned reg = insn->modrm >> 3 & 7, sib = op[2];

	s->data = reg | (insn->rex & 4u) << 1;
	s->index = (sib >> 3 & 7) | (insn->rex & 2u) << 2;
	s->mask = insn->vvvv & 15;
	if (s->evex) {
		/* 62 P0 P1 P2: R' is bit 4 of P0, V' bit 3 and aaa bits 0-2 of P2, all but aaa inverted */
		if (x86_in_64bit(&s->cpu->state) && !(op[-3] & 0x10))
			s->data |= 16;
		if (x86_in_64bit(&s->cpu->state) && !(op[-1] & 0x08))
			s->index |= 16;
		s->mask = op[-1] & 7;
	}
}

static uint64_t element_address(const struct vsib *s, const uint8_t *indices, unsigned i)
{
	const struct x86_insn *insn = &s->insn;
	uint64_t ea = (uint64_t)(int64_t)insn->disp;

	if (insn->base >= 0)
		ea += s->cpu->state.gpr[insn->base];
	if (s->index_size == 8)
		ea += load_le64(indices + i * 8) << insn->scale;
	else
		ea += (uint64_t)(int64_t)(int32_t)load_le32(indices + i * 4) << insn->scale;
	return ea & address_mask(insn);
}

static bool element_active(const struct vsib *s, const uint8_t *mask, uint64_t opmask, unsigned i)
{
	return s->evex ? opmask >> i & 1 : mask[i * s->element + s->element - 1] >> 7;
}

static enum bt_result gather_scatter(struct vsib *s, bool scatter)
{
	struct bt_cpu *cpu = s->cpu;
	uint8_t data[64], indices[64], mask[64];
	uint64_t opmask;
	bool progress = false;
	int rc = 0;

	bt_fpu_save(cpu);
	vsib_registers(s);
	vector_read(cpu, s->data, data);
	vector_read(cpu, s->index, indices);
	vector_read(cpu, s->mask, mask);
	opmask = s->evex ? opmask_read(cpu, s->mask) : 0;
	for (unsigned i = 0; i < s->count; i++) {
		uint8_t *element = data + i * s->element;

		if (element_active(s, mask, opmask, i)) {
			uint64_t ea = element_address(s, indices, i);

			rc = scatter ? helper_store(cpu, s->insn.seg, ea, element, s->element, &s->fault) :
				       helper_load(cpu, s->insn.seg, ea, element, s->element, &s->fault);
			if (rc)
				break;
			progress = true;
		}
		opmask &= ~(1ull << i);
		if (!s->evex)
			bt_fill(mask + i * s->element, 0, s->element);
	}
	if (!rc) {
		opmask = 0;
		bt_fill(mask, 0, sizeof(mask));
	}
	/* A destination that was written is zero beyond its elements; EVEX forms interrupted by a fault zero what lies
	 * beyond the vector length, VEX forms nothing yet. */
	if (!rc)
		bt_fill(data + s->count * s->element, 0, sizeof(data) - s->count * s->element);
	else if (progress && s->evex)
		bt_fill(data + s->insn.vl, 0, sizeof(data) - s->insn.vl);
	if (!scatter)
		vector_write(cpu, s->data, data);
	if (s->evex)
		opmask_write(cpu, s->mask, opmask);
	else
		vector_write(cpu, s->mask, mask);
	return rc ? bt_raise(cpu, s->call->offset, &s->fault) : BT_NEXT;
}

/* MMX registers are the physical x87 registers; the image holds those in stack order. */
static unsigned x87_top(const struct bt_cpu *cpu)
{
	return cpu->state.xsave[3] >> 3 & 7;
}

static void mmx_read(struct bt_cpu *cpu, unsigned reg, uint8_t out[8])
{
	bt_copy(out, cpu->state.xsave + XSAVE_ST + ((reg - x87_top(cpu)) & 7) * 16, 8);
}

/* What every MMX instruction does: top of stack 0, all registers valid. */
static void mmx_enter(struct bt_cpu *cpu)
{
	uint8_t old[128];
	unsigned top = x87_top(cpu);

	bt_copy(old, cpu->state.xsave + XSAVE_ST, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		bt_copy(cpu->state.xsave + XSAVE_ST + i * 16, old + ((i - top) & 7) * 16, 16);
	cpu->state.xsave[3] &= (uint8_t)~0x38;
	cpu->state.xsave[4] = 0xff;
	vector_mark(cpu, COMPONENT_X87);
}

/* The segment of an operand that has no ModRM memory form. */
static unsigned segment_override(const struct vsib *s)
{
	static const uint8_t prefix[6] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 }; /* in the order of enum x86_seg */
	unsigned seg = X86_DS, first = x86_in_64bit(&s->cpu->state) ? X86_FS : X86_ES;

	for (unsigned i = 0; i < s->insn.opcode_offset; i++)
		for (unsigned n = first; n < 6; n++)
			if (s->call->bytes[i] == prefix[n])
				seg = n;
	return seg;
}

/* Fault before anything is written, on either page if any byte is active, as processors do. */
static int writable(struct vsib *s, unsigned seg, uint64_t ea, unsigned size, uint32_t active)
{
	uint64_t linear;
	unsigned first;
	uint8_t *host;

	if (!active)
		return 0;
	if (helper_linear(s->cpu, seg, ea, size, true, &linear, &s->fault) < 0)
		return -1;
	first = (unsigned)(PAGE_SIZE - (linear & PAGE_MASK));
	if (first > size)
		first = size;
	if (bt_page_host(s->cpu, linear, true, &host, &s->fault) < 0)
		return -1;
	if (first < size && bt_page_host(s->cpu, linear + first, true, &host, &s->fault) < 0)
		return -1;
	return 0;
}

/* MASKMOVQ, MASKMOVDQU: bytes of one register where the other's sign bits say so, to DS:rDI. */
static enum bt_result masked_bytes(struct vsib *s)
{
	struct bt_cpu *cpu = s->cpu;
	const struct x86_insn *insn = &s->insn;
	bool mmx = insn->op == X86_OP_MMX;
	unsigned size = mmx ? 8 : 16, reg = insn->modrm >> 3 & 7, rm = insn->modrm & 7;
	uint64_t ea = cpu->state.gpr[X86_RDI] & address_mask(insn);
	uint8_t data[64], mask[64];
	unsigned seg = segment_override(s);
	uint32_t active = 0;

	bt_fpu_save(cpu);
	if (mmx) {
		mmx_read(cpu, reg, data);
		mmx_read(cpu, rm, mask);
	} else {
		vector_read(cpu, reg | (insn->rex & 4u) << 1, data);
		vector_read(cpu, rm | (insn->rex & 1u) << 3, mask);
	}
	if (mmx)
		mmx_enter(cpu);
	for (unsigned i = 0; i < size; i++)
		active |= (uint32_t)(mask[i] >> 7) << i;
	if (writable(s, seg, ea, size, active) < 0)
		return bt_raise(cpu, s->call->offset, &s->fault);
	for (unsigned i = 0; i < size; i++)
		if ((active >> i & 1) &&
		    helper_store(cpu, seg, (ea + i) & address_mask(insn), data + i, 1, &s->fault) < 0)
			return bt_raise(cpu, s->call->offset, &s->fault);
	return BT_NEXT;
}

static enum bt_result movdir64b(struct vsib *s)
{
	struct bt_cpu *cpu = s->cpu;
	const struct x86_insn *insn = &s->insn;
	uint64_t ea = (uint64_t)(int64_t)insn->disp, to, linear;
	uint8_t data[64];

	if (insn->rip_relative)
		ea += bt_rip(cpu, s->call->next_offset);
	if (insn->base >= 0)
		ea += cpu->state.gpr[insn->base];
	if (insn->index >= 0)
		ea += cpu->state.gpr[insn->index] << insn->scale;
	to = cpu->state.gpr[(insn->modrm >> 3 & 7) | (insn->rex & 4) << 1] & address_mask(insn);
	if (helper_linear(cpu, X86_ES, to, 64, true, &linear, &s->fault) < 0)
		return bt_raise(cpu, s->call->offset, &s->fault);
	if (linear & 63)
		return bt_raise_vector(cpu, s->call->offset, X86_GP, true, 0);
	if (helper_load(cpu, insn->seg, ea & address_mask(insn), data, 64, &s->fault) < 0 ||
	    bt_write(cpu, linear, data, 64, &s->fault) < 0)
		return bt_raise(cpu, s->call->offset, &s->fault);
	return BT_NEXT;
}

enum bt_result bt_help_multimem(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct vsib s = { .cpu = cpu, .call = call };
	unsigned vl;

	if (x86_decode(&s.insn, call->bytes, call->length, bt_vcpu_of(cpu)->mode & BT_MODE_CODE) <= 0)
		return bt_help_undefined(cpu, call);
	if (s.insn.map == X86_MAP_0F && s.insn.opcode == 0xf7)
		return masked_bytes(&s);
	if (s.insn.encoding == X86_ENC_LEGACY)
		return s.insn.map == X86_MAP_0F38 && s.insn.opcode == 0xf8 ? movdir64b(&s) : bt_help_undefined(cpu, call);
	if (s.insn.map != X86_MAP_0F38)
		return bt_help_undefined(cpu, call);
	s.evex = s.insn.encoding == X86_ENC_EVEX;
	vl = s.insn.vl;
	s.element = s.insn.rex & 8 ? 8 : 4;
	s.index_size = s.insn.opcode & 1 ? 8 : 4;
	s.count = vl / MAX(s.element, s.index_size);
	switch (s.insn.opcode) {
	case 0x90:
	case 0x91:
	case 0x92:
	case 0x93:
		return gather_scatter(&s, false);
	case 0xa0:
	case 0xa1:
	case 0xa2:
	case 0xa3:
		return gather_scatter(&s, true);
	default:
		return bt_help_undefined(cpu, call);
	}
}
