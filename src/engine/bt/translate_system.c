/* SPDX-License-Identifier: MIT */
/*
 * Instructions done by C helpers, and the few system instructions done inline.
 *
 * A helper call leaves the exact guest state to the runtime's trampoline and passes a struct bt_call that
 * lies in cold code and holds what the decoder knew, so that helpers need not decode again.
 */
#include "engine/bt/translate.h"

static void emit_call(struct translator *t, struct bt_buf *b, bt_helper *helper, int64_t imm, bool has_mem)
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

void bt_emit_helper_arg(struct translator *t, struct bt_buf *b, bt_helper *helper, int64_t imm, bool has_arg)
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

/* rdtsc: edx:eax = host TSC + offset. */
static void translate_rdtsc(struct translator *t)
{
	struct bt_buf *b = &t->hot;

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

	switch (insn->op) {
	case X86_OP_PAUSE:
		if (bt_host.pause_yields)
			break;
		emit_bytes(&t->hot, (const uint8_t[]){ 0xf3, 0x90 }, 2);
		return;
	case X86_OP_RDTSC:
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
