/* SPDX-License-Identifier: MIT */
/*
 * Instructions done by C helpers, and the few system instructions done inline.
 *
 * A helper call leaves the exact guest state to the runtime's trampoline and passes a struct bt_call that
 * lies in cold code and holds what the decoder knew, so that helpers need not decode again.
 */
#include "engine/bt/translate.h"

static void emit_call(struct translator *t, struct bt_buf *b, bt_helper *helper, int64_t imm,
		      bool has_mem)
{
	const struct x86_insn *insn = t->insn;
	struct bt_buf *c = &t->cold;
	struct bt_call call = {
		.helper = helper,
		.imm = imm,
		.offset = t->offset,
		.next_offset = t->next,
		.op = insn->op,
		.imm2 = insn->imm2,
		.opcode = insn->opcode,
		.prefixes = insn->prefixes,
		.rex = insn->rex,
		.opsize = insn->opsize,
		.addrsize = insn->addrsize,
		.has_mem = has_mem,
		.seg = insn->seg,
		.reg = (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1),
		.rm = (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3),
		.length = insn->length,
		.modrm = insn->modrm,
		.unit = insn->unit,
	};
	uint8_t *field, *address;

	if (insn->opc_is_gpr)
		call.rm = (uint8_t)((insn->opcode & 7) | (insn->rex & 1) << 3);
	for (unsigned i = 0; i < insn->length && i < sizeof(call.bytes); i++)
		call.bytes[i] = t->code[i];

	field = emit_lea_rip(b, T1, b->p);
	emit_jmp_gs(b, GS_OFF(tramp_helper));
	while ((uintptr_t)c->p & 7)
		emit8(c, 0xcc);
	address = c->p;
	patch_rel32(field, address);
	c->p += sizeof(call);
	call.resume = (int32_t)(b->p - address); /* in cold code (exits) the helper never resumes */
	__builtin_memcpy(address, &call, sizeof(call));
}

void bt_emit_helper_arg(struct translator *t, struct bt_buf *b, bt_helper *helper, int64_t imm,
			bool has_arg)
{
	emit_call(t, b, helper, imm, has_arg);
}

void bt_emit_helper(struct translator *t, bt_helper *helper, bool with_ea)
{
	bt_flags_to_host(t, T0);
	if (with_ea) {
		struct guest_ea ea = bt_insn_ea(t);

		bt_emit_ea(t, &t->hot, &ea, T0, T1, false);
	}
	emit_call(t, &t->hot, helper ? helper : bt_help_undefined, t->insn->imm, with_ea);
	t->flags = FLAGS_HOST;
}

/* ---- inline in 64-bit kernel code: the ways to save, disable and restore interrupts ---- */

#define GS_RFLAGS GS_OFF(state.rflags)

bool bt_system_is_inline(const struct translator *t, const struct x86_insn *insn, bool last)
{
	if (t->request->options->no_inline_system || !t->long_mode || !(t->mode & BT_MODE_CPL0) ||
	    (t->mode & (BT_MODE_STEP | BT_MODE_ONE | BT_MODE_ALIGN)))
		return false;
	switch (insn->op) {
	case X86_OP_CLI:
	case X86_OP_SWAPGS:
		return true;
	case X86_OP_PUSHF:
	case X86_OP_POPF:
		return insn->opsize == 8;
	case X86_OP_STI:
		return !last; /* interrupts are taken between blocks only, so the next instruction is in STI's shadow */
	default:
		return false;
	}
}

/* op dword gs:[disp], imm32 (81 /ext) */
static void emit_alu_gs_imm(struct bt_buf *b, unsigned ext, int32_t disp, uint32_t imm)
{
	emit_bytes(b, (const uint8_t[]){ 0x65, 0x81, (uint8_t)(ext << 3 | 4), 0x25 }, 4);
	emit32(b, (uint32_t)disp);
	emit32(b, imm);
}

/* Compare the APIC's "something is deliverable" with 0; clobbers reg and EFLAGS. */
static void emit_test_irq_pending(struct bt_buf *b, unsigned reg)
{
	emit_load_gs(b, true, reg, GS_OFF(irq_pending));
	/* cmp dword [reg], 0; reg is r10 or r11 */
	emit_bytes(b, (const uint8_t[]){ 0x41, 0x83, (uint8_t)(0x38 | (reg & 7)), 0 }, 4);
}

/* The rest of the instruction is the helper's, in cold code; then on in hot code, where the flags are in the slot
 * (the runtime fills it on the way back). */
static void emit_cold_helper(struct translator *t, uint8_t *field, bt_helper *helper)
{
	patch_rel32(field, t->cold.p);
	if (t->flags == FLAGS_SLOT)
		bt_flags_restore(&t->cold, T0);
	emit_call(t, &t->cold, helper, t->insn->imm, false);
}

static void translate_sti(struct translator *t)
{
	uint8_t *pending;

	bt_flags_clobber(t, T0);
	emit_test_irq_pending(&t->hot, T0);
	pending = emit_jcc(&t->hot, 5, t->hot.p);
	emit_cold_helper(t, pending, bt_helpers[X86_OP_STI]);
	emit_alu_gs_imm(&t->hot, 1, GS_RFLAGS, X86_FLAG_IF);
	emit_jmp(&t->cold, t->hot.p);
}

static void translate_swapgs(struct translator *t)
{
	struct bt_buf *b = &t->hot;
	int32_t base =
		(int32_t)(offsetof(struct bt_cpu, state.seg) + X86_GS * sizeof(struct x86_segment) +
			  offsetof(struct x86_segment, base));

	emit_load_gs(b, true, T0, base);
	emit_load_gs(b, true, T1, GS_OFF(state.kernel_gs_base));
	emit_store_gs(b, true, T1, base);
	emit_store_gs(b, true, T0, GS_OFF(state.kernel_gs_base));
}

/* DF is nowhere but in EFLAGS, so they are pushed, on the host's stack. */
static void translate_pushf(struct translator *t)
{
	struct bt_buf *b = &t->hot;

	bt_flags_to_host(t, T0);
	if (t->flags == FLAGS_HOST)
		bt_flags_save(b, T0);
	emit_store_gs(b, true, X86_RSP, GS_OFF(scratch[0]));
	emit_load_gs(b, true, X86_RSP, GS_OFF(host_rsp));
	emit_bytes(b, (const uint8_t[]){ 0x9c, 0x41, 0x5a }, 3); /* pushfq; pop r10 */
	emit_load_gs(b, true, X86_RSP, GS_OFF(scratch[0]));
	emit_load_gs(b, false, T1, GS_RFLAGS);
	emit_alu_imm(b, false, 4, T0, X86_FLAGS_ARITH | X86_FLAG_DF);
	emit_alu_imm(b, false, 4, T1,
		     (int32_t) ~(X86_FLAGS_ARITH | X86_FLAG_DF | X86_FLAG_RF | X86_FLAG_VM));
	emit_bytes(b, (const uint8_t[]){ 0x45, 0x09, 0xda }, 3); /* or r10d, r11d */
	emit_store_gs(b, true, T0, GS_OFF(scratch[1]));
	t->flags = FLAGS_SLOT;
	bt_emit_push_scratch(t, 8, 0);
}

/* Only IF and the arithmetic flags may change here, and DF become 0; all else is the helper's. */
static void translate_popf(struct translator *t)
{
	struct bt_buf *b = &t->hot;
	const uint32_t plain = X86_FLAGS_ARITH | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_RF |
			       X86_FLAG_VM | X86_FLAG_R1;
	struct access a = {
		.ea = bt_stack_ea(t, 0), .size = 8, .kind = X86_MEM_R, .site_flags = BT_SITE_STACK
	};
	uint8_t *other, *no_enable, *pending, *helper;

	bt_access_begin(t, &a);
	emit_op_mem(&t->hot, true, 0x8b, T0, &a.m);
	emit_op_mem(&t->cold, true, 0x8b, T0, &bt_cold_mem);
	bt_access_end(t, &a);

	emit_load_gs(b, false, T1, GS_RFLAGS);
	emit_bytes(b, (const uint8_t[]){ 0x45, 0x31, 0xd3 }, 3); /* xor r11d, r10d */
	/* test r11d, changes that are not plain (DF excepted: tested by value) */
	emit_bytes(b, (const uint8_t[]){ 0x41, 0xf7, 0xc3 }, 3);
	emit32(b, X86_FLAGS_VALID & ~plain);
	other = emit_jcc(b, 5, b->p);
	emit_bytes(b, (const uint8_t[]){ 0x41, 0xf7, 0xc2 }, 3); /* test r10d, DF */
	emit32(b, X86_FLAG_DF);
	helper = emit_jcc(b, 5, b->p);
	emit_bytes(b, (const uint8_t[]){ 0x41, 0xf7, 0xc2 }, 3); /* test r10d, IF */
	emit32(b, X86_FLAG_IF);
	emit8(b, 0x74); /* jz: not enabling */
	emit8(b, 0);
	no_enable = b->p - 1;
	emit_test_irq_pending(b, T1);
	pending = emit_jcc(b, 5, b->p);
	*no_enable = (uint8_t)(b->p - (no_enable + 1));

	patch_rel32(other, t->cold.p);
	patch_rel32(helper, t->cold.p);
	emit_cold_helper(t, pending, bt_helpers[X86_OP_POPF]);

	/* rflags = (rflags & ~IF) | (value & IF) */
	emit_mov(b, false, T1, T0);
	emit_alu_imm(b, false, 4, T1, X86_FLAG_IF);
	emit_alu_gs_imm(b, 4, GS_RFLAGS, ~X86_FLAG_IF);
	emit_op_gs(b, false, 0x09, T1, GS_RFLAGS); /* or gs:[rflags], r11d */
	emit8(b, 0xfc);                            /* cld */
	emit_op_gs(b, false, 0x88, T0, GS_OFF(flags_slot) + 1);
	emit_shift_imm(b, false, 5, T0, 11);
	emit_alu_imm(b, false, 4, T0, 1);
	emit_op_gs(b, false, 0x88, T0, GS_OFF(flags_slot));
	emit_lea_disp(b, true, X86_RSP, X86_RSP, 8);
	t->flags = FLAGS_SLOT;
	emit_jmp(&t->cold, t->hot.p);
}

/* True if the instruction was done inline. */
bool bt_translate_inline_system(struct translator *t)
{
	if (!bt_system_is_inline(t, t->insn, t->last))
		return false;
	switch (t->insn->op) {
	case X86_OP_CLI:
		bt_flags_clobber(t, T0);
		emit_alu_gs_imm(&t->hot, 4, GS_RFLAGS, ~X86_FLAG_IF);
		break;
	case X86_OP_STI:
		translate_sti(t);
		break;
	case X86_OP_SWAPGS:
		translate_swapgs(t);
		break;
	case X86_OP_PUSHF:
		translate_pushf(t);
		break;
	default:
		translate_popf(t);
		break;
	}
	return true;
}

/* rdtsc: edx:eax = host TSC + offset. rdtscp: and ecx = TSC_AUX, after everything before has been executed. */
static void translate_rdtsc(struct translator *t)
{
	struct bt_buf *b = &t->hot;

	if (t->insn->op == X86_OP_RDTSCP) {
		emit_bytes(b, (const uint8_t[]){ 0x0f, 0xae, 0xe8 }, 3); /* lfence */
		emit_load_gs(b, false, X86_RCX, GS_OFF(state.tsc_aux));
	}

	bt_flags_clobber(t, T0);
	emit_bytes(b, (const uint8_t[]){ 0x0f, 0x31 }, 2);
	emit_shift_imm(b, true, 4, X86_RDX, 32);
	emit_lea(b, true, X86_RAX, &(struct host_mem){ .base = X86_RAX, .index = X86_RDX });
	emit_op_gs(b, true, 0x03, X86_RAX, GS_OFF(tsc_offset));
	emit_mov(b, true, X86_RDX, X86_RAX);
	emit_shift_imm(b, true, 5, X86_RDX, 32);
	emit_mov(b, false, X86_RAX, X86_RAX);
}

void bt_translate_system(struct translator *t)
{
	const struct x86_insn *insn = t->insn;

	if (bt_translate_inline_system(t))
		return;
	switch (insn->op) {
	case X86_OP_PAUSE:
		if (bt_host.pause_yields)
			break;
		emit_bytes(&t->hot, (const uint8_t[]){ 0xf3, 0x90 }, 2);
		return;
	case X86_OP_RDTSC:
	case X86_OP_RDTSCP:
		if (!(t->mode & BT_MODE_TSD)) {
			translate_rdtsc(t);
			return;
		}
		break;
	default:
		break;
	}
	bt_emit_helper(t, bt_helpers[insn->op], insn->has_mem);
	switch (insn->op) { /* these never come back to the next instruction of this block */
	case X86_OP_CALL_FAR:
	case X86_OP_JMP_FAR:
	case X86_OP_RET_FAR:
	case X86_OP_IRET:
	case X86_OP_INT:
	case X86_OP_INT3:
	case X86_OP_INT1:
	case X86_OP_SYSCALL:
	case X86_OP_SYSRET:
	case X86_OP_SYSENTER:
	case X86_OP_SYSEXIT:
	case X86_OP_UD:
	case X86_OP_HLT:
	case X86_OP_RSM:
	case X86_OP_STAC:
	case X86_OP_CLAC:
		t->ended = true;
		break;
	default:
		break;
	}
}
