/* SPDX-License-Identifier: MIT */
/*
 * Masked vector accesses that missed the TLB: only active elements are accessed, and only they fault
 * (Intel SDM volume 2, VMASKMOV; volume 1, 15.6.4 on fault suppression).
 *
 * The instruction is decoded again and its mask read from the saved vector state, which gives the set of bytes it
 * accesses. Pages without such bytes are not looked at. Where all active bytes lie on one page of RAM the
 * host's own instruction works there in place: it does not touch the rest either.
 */
#include "engine/bt/vector_state.h"

/* Sizes of the operation's elements where W does not tell (W = 0: 4, W = 1: 8). */
struct element_rule {
	uint8_t map, opcode;
	uint8_t size[2]; /* by W */
};

static const struct element_rule element_rules[] = {
	/* 0F: packed bytes and words */
	{ 1, 0x60, { 1, 1 } }, { 1, 0x61, { 2, 2 } }, { 1, 0x63, { 1, 1 } }, { 1, 0x64, { 1, 1 } }, { 1, 0x65, { 2, 2 } },
	{ 1, 0x67, { 1, 1 } }, { 1, 0x68, { 1, 1 } }, { 1, 0x69, { 2, 2 } }, { 1, 0x6b, { 2, 2 } }, { 1, 0x71, { 2, 2 } },
	{ 1, 0x74, { 1, 1 } }, { 1, 0x75, { 2, 2 } }, { 1, 0xd1, { 2, 2 } }, { 1, 0xd5, { 2, 2 } }, { 1, 0xd8, { 1, 1 } },
	{ 1, 0xd9, { 2, 2 } }, { 1, 0xda, { 1, 1 } }, { 1, 0xdc, { 1, 1 } }, { 1, 0xdd, { 2, 2 } }, { 1, 0xde, { 1, 1 } },
	{ 1, 0xe0, { 1, 1 } }, { 1, 0xe1, { 2, 2 } }, { 1, 0xe3, { 2, 2 } }, { 1, 0xe4, { 2, 2 } }, { 1, 0xe5, { 2, 2 } },
	{ 1, 0xe8, { 1, 1 } }, { 1, 0xe9, { 2, 2 } }, { 1, 0xea, { 2, 2 } }, { 1, 0xec, { 1, 1 } }, { 1, 0xed, { 2, 2 } },
	{ 1, 0xee, { 2, 2 } }, { 1, 0xf1, { 2, 2 } }, { 1, 0xf5, { 4, 4 } }, { 1, 0xf8, { 1, 1 } }, { 1, 0xf9, { 2, 2 } },
	{ 1, 0xfc, { 1, 1 } }, { 1, 0xfd, { 2, 2 } },
	/* 0F: conversions whose wide side is 8 bytes */
	{ 1, 0x5a, { 8, 8 } }, { 1, 0xe6, { 8, 8 } },
	/* 0F38 */
	{ 2, 0x00, { 1, 1 } }, { 2, 0x04, { 2, 2 } }, { 2, 0x0b, { 2, 2 } }, { 2, 0x1c, { 1, 1 } }, { 2, 0x1d, { 2, 2 } },
	{ 2, 0x2b, { 2, 2 } }, { 2, 0x38, { 1, 1 } }, { 2, 0x3a, { 2, 2 } }, { 2, 0x3c, { 1, 1 } }, { 2, 0x3e, { 2, 2 } },
	{ 2, 0x26, { 1, 2 } }, { 2, 0x54, { 1, 2 } }, { 2, 0x62, { 1, 2 } }, { 2, 0x63, { 1, 2 } }, { 2, 0x66, { 1, 2 } },
	{ 2, 0x70, { 2, 2 } }, { 2, 0x72, { 2, 2 } }, { 2, 0x75, { 1, 2 } }, { 2, 0x78, { 1, 1 } }, { 2, 0x79, { 2, 2 } }, { 2, 0x7d, { 1, 2 } }, { 2, 0x8d, { 1, 2 } },
	{ 2, 0x8f, { 1, 1 } }, { 2, 0xcf, { 1, 1 } },
	/* 0F3A */
	{ 3, 0x0f, { 1, 1 } }, { 3, 0x3e, { 1, 2 } }, { 3, 0x3f, { 1, 2 } }, { 3, 0x42, { 2, 2 } }, { 3, 0x70, { 2, 2 } },
	{ 3, 0x72, { 2, 2 } }, { 3, 0xce, { 1, 1 } }, { 3, 0xcf, { 1, 1 } },
};

/* Of the element one mask bit stands for. */
static unsigned element_size(const struct x86_insn *insn)
{
	bool w = insn->rex & 8;
	uint8_t op = insn->opcode;

	if (insn->map == X86_MAP_0F) {
		if (op == 0x6f || op == 0x7f) /* vmovdqu8/16 against vmovdqa/u32/64 */
			return insn->mandatory == 0xf2 ? (w ? 2 : 1) : (w ? 8 : 4);
		if (op == 0x70) /* vpshuflw, vpshufhw; vpshufd */
			return insn->mandatory == 0x66 ? 4 : 2;
		if (op >= 0x78 && op <= 0x7b) /* conversions between packed single and quadwords; the rest by W */
			return insn->mandatory == 0x66 || (op == 0x7a && insn->mandatory == 0xf3) ? 8 : (w ? 8 : 4);
	}
	if (insn->map == X86_MAP_0F38) {
		static const uint8_t wide[6] = { 2, 4, 8, 4, 8, 8 }; /* bw bd bq wd wq dq */
		bool narrowing = insn->mandatory == 0xf3 && op >= 0x10 && op < 0x36;

		if ((narrowing || (insn->mandatory == 0x66 && (op & ~0x1f) == 0x20)) && (op & 15) < 6 && op >= (narrowing ? 0x10 : 0x20))
			return wide[op & 15];
		if (op >= 0x10 && op <= 0x12 && insn->mandatory == 0x66) /* vpsrlvw, vpsravw, vpsllvw */
			return 2;
	}
	if (insn->map == X86_MAP_0F38 && op == 0x72 && insn->mandatory == 0xf3) /* vcvtneps2bf16; else vpshrdvw, vcvtne2ps2bf16 */
		return 4;
	for (unsigned i = 0; i < sizeof(element_rules) / sizeof(element_rules[0]); i++)
		if (element_rules[i].map == insn->map && element_rules[i].opcode == op)
			return element_rules[i].size[w];
	return w ? 8 : 4;
}

static bool packs_elements(const struct x86_insn *insn) /* vcompress*, vexpand*, vpcompress*, vpexpand* */
{
	return insn->map == X86_MAP_0F38 && ((insn->opcode >= 0x88 && insn->opcode <= 0x8b) || insn->opcode == 0x62 || insn->opcode == 0x63);
}

/* One element only, whose mask bit is bit 0. */
static bool is_scalar(const struct x86_insn *insn)
{
	uint8_t op = insn->opcode;

	switch (insn->map) {
	case X86_MAP_0F:
		return (insn->mandatory == 0xf3 || insn->mandatory == 0xf2) &&
		       (op == 0x10 || op == 0x11 || op == 0x51 || (op >= 0x58 && op <= 0x5f && op != 0x5b) || op == 0xc2);
	case X86_MAP_0F38:
		return op == 0x2d || op == 0x43 || op == 0x4d || op == 0x4f || op == 0xcb || op == 0xcd ||
		       (op >= 0x99 && op <= 0xbf && (op & 9) == 9);
	case X86_MAP_0F3A:
		return op == 0x0a || op == 0x0b || op == 0x27 || op == 0x51 || op == 0x55 || op == 0x57 || op == 0x67;
	default:
		return false;
	}
}

/* The operand is read whole if any element is active. */
static bool is_broadcast(const struct x86_insn *insn, const uint8_t *code)
{
	uint8_t op = insn->opcode;

	if (code[insn->opcode_offset - 1] & 0x10)
		return true;
	if (insn->map == X86_MAP_0F)
		return op == 0x12 && insn->mandatory == 0xf2; /* vmovddup */
	return insn->map == X86_MAP_0F38 && ((op >= 0x18 && op <= 0x1b) || (op >= 0x58 && op <= 0x5b) || op == 0x78 || op == 0x79);
}

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ull : (1ull << n) - 1;
}

static unsigned count_bits(uint64_t x)
{
	unsigned n = 0;

	for (; x; x &= x - 1)
		n++;
	return n;
}

/* The bytes of the memory operand that an EVEX instruction accesses. */
static uint64_t evex_bytes(struct bt_cpu *cpu, const struct x86_insn *insn, const uint8_t *code, unsigned size)
{
	unsigned element = element_size(insn), vl = insn->vl ? insn->vl : 16, n = vl / element, each;
	unsigned k = code[insn->opcode_offset - 1] & 7;
	uint64_t mask = opmask_read(cpu, k) & low_bits(n), bytes = 0;

	if (packs_elements(insn))
		return low_bits(count_bits(mask) * element);
	if (is_scalar(insn))
		return mask & 1 ? low_bits(size) : 0;
	if (is_broadcast(insn, code) && size >= element) {
		for (unsigned i = 0; i < n; i++)
			if (mask >> i & 1)
				bytes |= low_bits(element) << (i % (size / element) * element);
		return bytes;
	}
	each = size / n;
	if (is_broadcast(insn, code) || each == 0 || each * n != size)
		return mask ? low_bits(size) : 0;
	for (unsigned i = 0; i < n; i++)
		if (mask >> i & 1)
			bytes |= low_bits(each) << (i * each);
	return bytes;
}

static uint64_t vex_bytes(struct bt_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	unsigned element = insn->opcode < 0x80 ? (insn->opcode & 1 ? 8 : 4) : (insn->rex & 8 ? 8 : 4);
	uint64_t bytes = 0;
	uint8_t mask[64];

	vector_read(cpu, insn->vvvv & 15, mask);
	for (unsigned i = 0; i < size / element; i++)
		if (mask[i * element + element - 1] & 0x80)
			bytes |= low_bits(element) << (i * element);
	return bytes;
}

static unsigned first_byte(uint64_t bytes)
{
	unsigned n = 0;

	while (!(bytes >> n & 1))
		n++;
	return n;
}

/* Do for each run of active bytes within [from, to): read to or write from p + offset. */
static void transfer(struct bt_vcpu *v, const struct bt_ref *ref, uint64_t bytes, unsigned from, unsigned to, uint8_t *p,
		     bool write)
{
	for (unsigned i = from; i < to;) {
		unsigned run = 0;
		struct bt_ref piece = *ref;

		while (i + run < to && (bytes >> (i + run) & 1))
			run++;
		if (!run) {
			i++;
			continue;
		}
		piece.gpa += i - from;
		if (piece.host)
			piece.host += i - from;
		if (write)
			bt_ref_write(v, &piece, p + i, run);
		else
			bt_ref_read(v, &piece, p + i, run);
		i += run;
	}
}

bool bt_masked_access(struct bt_vcpu *v, const struct bt_site *site, uint64_t linear, enum bt_class cls, uint64_t *target)
{
	struct bt_cpu *cpu = v->cpu;
	bool write = site->access & X86_MEM_W;
	unsigned size = site->size, first = (unsigned)(PAGE_SIZE - (linear & PAGE_MASK));
	uint64_t bytes, part[2], wrap = cpu->state.efer & X86_EFER_LMA ? ~0ull : 0xffffffffull;
	struct x86_fault fault;
	struct x86_insn insn;
	uint8_t *p;

	if (size > 64 || x86_decode(&insn, site->bytes, sizeof(site->bytes), v->mode & BT_MODE_CODE) <= 0)
		return false;
	bt_fpu_save(cpu);
	v->stats.slow_masked++;
	bytes = insn.encoding == X86_ENC_EVEX ? evex_bytes(cpu, &insn, site->bytes, size) : vex_bytes(cpu, &insn, size);
	bytes &= low_bits(size);
	if (bytes == low_bits(size))
		return false;
	if (bytes && (site->flags & BT_SITE_EXPLICIT_ALIGN) && (linear & (size - 1))) {
		*target = bt_finish(cpu, bt_raise_vector(cpu, site->offset, X86_GP, true, 0));
		return true;
	}
	first = first < size ? first : size;
	part[0] = bytes & low_bits(first);
	part[1] = bytes & ~low_bits(first);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t start = i ? linear + first : linear, at;
		unsigned skip;

		if (!part[i])
			continue;
		skip = first_byte(part[i]) - (i ? first : 0);
		at = (start + skip) & wrap;
		if (!bt_canonical(at) && wrap == ~0ull) {
			bool stack = site->flags & BT_SITE_STACK || site->seg == X86_SS;

			*target = bt_finish(cpu, bt_raise_vector(cpu, site->offset, stack ? X86_SS_FAULT : X86_GP, true, 0));
			return true;
		}
		if (bt_translate_data(v, at, write, cls, false, &v->commit_ref[i], &fault)) {
			*target = bt_finish(cpu, bt_raise(cpu, site->offset, &fault));
			return true;
		}
		/* Of the piece's first byte. */
		v->commit_ref[i].gpa -= skip;
		if (v->commit_ref[i].host)
			v->commit_ref[i].host -= skip;
	}
	/* All on one page of ordinary RAM: in place. */
	if (!part[0] != !part[1]) {
		const struct bt_ref *ref = &v->commit_ref[part[1] ? 1 : 0];

		if (ref->host && !(write && (ref->code || ref->readonly))) {
			v->r10 = (uint64_t)(part[1] ? ref->host - first : ref->host);
			v->commit = BT_COMMIT_NONE;
			*target = (uint64_t)site + (uint64_t)(int64_t)site->slow;
			return true;
		}
	}
	p = v->bounce + (linear & 63);
	bt_fill(p, 0, size);
	if (site->access & X86_MEM_R) {
		transfer(v, &v->commit_ref[0], part[0], 0, first, p, false);
		transfer(v, &v->commit_ref[1], part[1], first, size, p, false);
	}
	v->commit = BT_COMMIT_MASKED;
	v->commit_linear = linear;
	v->commit_size = size;
	v->commit_first = first;
	v->commit_mask = bytes;
	v->r10 = (uint64_t)p;
	*target = (uint64_t)site + (uint64_t)(int64_t)site->slow;
	return true;
}

bool bt_masked_nothing(struct bt_vcpu *v, const struct bt_site *site)
{
	struct x86_insn insn;
	uint64_t bytes;

	if (x86_decode(&insn, site->bytes, sizeof(site->bytes), v->mode & BT_MODE_CODE) <= 0)
		return false;
	bt_fpu_save(v->cpu);
	bytes = insn.encoding == X86_ENC_EVEX ? evex_bytes(v->cpu, &insn, site->bytes, site->size) :
						vex_bytes(v->cpu, &insn, site->size);
	if (bytes & low_bits(site->size))
		return false;
	v->commit = BT_COMMIT_MASKED;
	v->commit_linear = 0;
	v->commit_size = v->commit_first = site->size;
	v->commit_mask = 0;
	v->r10 = (uint64_t)v->bounce;
	return true;
}

void bt_masked_commit(struct bt_vcpu *v)
{
	uint8_t *p = v->bounce + (v->commit_linear & 63);
	uint64_t low = v->commit_mask & low_bits(v->commit_first);

	transfer(v, &v->commit_ref[0], low, 0, v->commit_first, p, true);
	transfer(v, &v->commit_ref[1], v->commit_mask & ~low, v->commit_first, v->commit_size, p, true);
}
