/* SPDX-License-Identifier: MIT */
/*
 * Helpers for system registers and I/O: control and debug registers, MSRs, descriptor-table registers,
 * flags, CPUID, time stamps, TLB invalidation, port I/O.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers_system.h"

/* MOV r, CRn / MOV CRn, r: register operands of 64 bits in 64-bit code, else 32; LOCK MOV CR0 is CR8 on AMD. */
static unsigned cr_number(const struct bt_call *call)
{
	return call->reg == 0 && (call->prefixes & X86_PFX_LOCK) ? 8 : call->reg;
}

enum bt_result bt_help_mov_from_cr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = 0;
	int rc = x86_read_cr(bt_system(cpu), cr_number(call), &value, &fault);

	if (rc == 0)
		helper_set_gpr(cpu, call->rm, value, x86_in_64bit(&cpu->state) ? 8 : 4);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_mov_to_cr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = cpu->state.gpr[call->rm];

	if (!x86_in_64bit(&cpu->state))
		value = (uint32_t)value;
	helper_begin(cpu, call);
	return helper_end(cpu, call, x86_write_cr(bt_system(cpu), cr_number(call), value, &fault),
			  &fault);
}

enum bt_result bt_help_mov_from_dr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = 0;
	int rc = x86_read_dr(bt_system(cpu), call->reg, &value, &fault);

	if (rc == 0)
		helper_set_gpr(cpu, call->rm, value, x86_in_64bit(&cpu->state) ? 8 : 4);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_mov_to_dr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = cpu->state.gpr[call->rm];

	if (!x86_in_64bit(&cpu->state))
		value = (uint32_t)value;
	helper_begin(cpu, call);
	return helper_end(cpu, call, x86_write_dr(bt_system(cpu), call->reg, value, &fault),
			  &fault);
}

enum bt_result bt_help_smsw(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t word = (uint16_t)cpu->state.cr0;

	if (x86_check_umip(bt_system(cpu), &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if (!call->has_mem) {
		helper_set_gpr(cpu, call->rm, cpu->state.cr0, call->opsize);
		return BT_NEXT;
	}
	return helper_end(cpu, call, helper_store(cpu, call->seg, cpu->arg, &word, 2, &fault),
			  &fault);
}

enum bt_result bt_help_lmsw(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint16_t word = (uint16_t)cpu->state.gpr[call->rm];
	int rc = x86_check_cpl0(bt_system(cpu), &fault);

	if (rc == 0 && call->has_mem)
		rc = helper_load(cpu, call->seg, cpu->arg, &word, 2, &fault);
	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_lmsw(bt_system(cpu), word, &fault);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_clts(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	return helper_end(cpu, call, x86_clts(bt_system(cpu), &fault), &fault);
}

/* SGDT, SIDT: limit and base, 10 bytes in 64-bit code, else 6. */
enum bt_result bt_help_sgdt(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	const struct x86_table *table = call->op == X86_OP_SIDT ? &cpu->state.idt : &cpu->state.gdt;
	uint8_t buf[10];
	uint16_t limit = (uint16_t)table->limit;
	int rc = x86_check_umip(bt_system(cpu), &fault);

	__builtin_memcpy(buf, &limit, 2);
	__builtin_memcpy(buf + 2, &table->base, 8);
	if (rc == 0)
		rc = helper_store(cpu, call->seg, cpu->arg, buf, x86_in_64bit(&cpu->state) ? 10 : 6,
				  &fault);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_lgdt(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	bool wide = x86_in_64bit(&cpu->state);
	uint8_t buf[10] = { 0 };
	uint64_t base;
	uint16_t limit;
	int rc = x86_check_cpl0(bt_system(cpu), &fault);

	if (rc == 0)
		rc = helper_load(cpu, call->seg, cpu->arg, buf, wide ? 10 : 6, &fault);
	__builtin_memcpy(&limit, buf, 2);
	__builtin_memcpy(&base, buf + 2, 8);
	if (!wide && call->opsize == 2)
		base &= 0xffffff;
	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_load_gdtr_idtr(bt_system(cpu), call->op == X86_OP_LIDT, base, limit,
					&fault);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_rdmsr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = 0;
	int rc = x86_read_msr(bt_system(cpu), (uint32_t)cpu->state.gpr[X86_RCX], &value, &fault);

	if (rc == 0) {
		cpu->state.gpr[X86_RAX] = (uint32_t)value;
		cpu->state.gpr[X86_RDX] = value >> 32;
		bt_vcpu_of(cpu)->vcpu->stats.msr_reads++;
	}
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_wrmsr(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = (uint32_t)cpu->state.gpr[X86_RAX] | cpu->state.gpr[X86_RDX] << 32;

	helper_begin(cpu, call);
	bt_vcpu_of(cpu)->vcpu->stats.msr_writes++;
	return helper_end(cpu, call,
			  x86_write_msr(bt_system(cpu), (uint32_t)cpu->state.gpr[X86_RCX], value,
					&fault),
			  &fault);
}

enum bt_result bt_help_cpuid(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint64_t *gpr = cpu->state.gpr;
	uint32_t regs[4];

	(void)call;
	bt_fpu_save(cpu);
	cpuid_query(bt_generic_vcpu(cpu), &cpu->state, (uint32_t)gpr[X86_RAX],
		    (uint32_t)gpr[X86_RCX], regs);
	gpr[X86_RAX] = regs[0];
	gpr[X86_RBX] = regs[1];
	gpr[X86_RCX] = regs[2];
	gpr[X86_RDX] = regs[3];
	return BT_NEXT;
}

static uint64_t read_tsc(const struct bt_cpu *cpu)
{
	return __builtin_ia32_rdtsc() + (uint64_t)cpu->tsc_offset;
}

/* RDTSC where CR4.TSD forbids it outside ring 0, and RDTSCP. */
enum bt_result bt_help_rdtsc(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint64_t tsc;

	if ((cpu->state.cr4 & X86_CR4_TSD) && (cpu->state.cr0 & X86_CR0_PE) &&
	    x86_cpl(&cpu->state) != 0)
		return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
	tsc = read_tsc(cpu);
	cpu->state.gpr[X86_RAX] = (uint32_t)tsc;
	cpu->state.gpr[X86_RDX] = tsc >> 32;
	if (call->op == X86_OP_RDTSCP)
		cpu->state.gpr[X86_RCX] = (uint32_t)cpu->state.tsc_aux;
	return BT_NEXT;
}

enum bt_result bt_help_rdpid(struct bt_cpu *cpu, const struct bt_call *call)
{
	cpu->state.gpr[call->rm] = (uint32_t)cpu->state.tsc_aux;
	return BT_NEXT;
}

/* There are no performance counters: every index is invalid. */
enum bt_result bt_help_rdpmc(struct bt_cpu *cpu, const struct bt_call *call)
{
	return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
}

enum bt_result bt_help_xgetbv(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = 0;
	int rc = x86_xgetbv(bt_system(cpu), (uint32_t)cpu->state.gpr[X86_RCX], &value, &fault);

	if (rc == 0) {
		cpu->state.gpr[X86_RAX] = (uint32_t)value;
		cpu->state.gpr[X86_RDX] = value >> 32;
	}
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_xsetbv(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = (uint32_t)cpu->state.gpr[X86_RAX] | cpu->state.gpr[X86_RDX] << 32;

	helper_begin(cpu, call);
	return helper_end(cpu, call,
			  x86_xsetbv(bt_system(cpu), (uint32_t)cpu->state.gpr[X86_RCX], value,
				     &fault),
			  &fault);
}

/* ---- TLB and caches ---- */

enum bt_result bt_help_invlpg(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t linear = cpu->arg;

	if (x86_check_cpl0(bt_system(cpu), &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	if (!x86_in_64bit(&cpu->state))
		linear = (uint32_t)(linear + cpu->state.seg[call->seg].base);
	else if (call->seg >= X86_FS)
		linear += cpu->state.seg[call->seg].base;
	bt_tlb_flush_page(cpu, linear);
	return BT_NEXT;
}

enum bt_result bt_help_invpcid(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t desc[2], type = cpu->state.gpr[call->reg];
	bool canonical;

	if (x86_check_cpl0(bt_system(cpu), &fault) < 0 ||
	    helper_load(cpu, call->seg, cpu->arg, desc, 16, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	canonical = (int64_t)(desc[1] << 16) >> 16 == (int64_t)desc[1];
	if (type > 3 || desc[0] >> 12 || (type == 0 && !canonical) ||
	    (type < 2 && !(cpu->state.cr4 & X86_CR4_PCIDE) && (desc[0] & 0xfff)))
		return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
	if (type < 2)
		bt_tlb_flush_pcid(cpu, desc[0] & 0xfff, type == 0, desc[1]);
	else
		bt_tlb_flush_all(cpu, type == 2);
	return BT_NEXT;
}

/* INVD, WBINVD: nothing is cached, but the privilege is checked. */
enum bt_result bt_help_wbinvd(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	return helper_end(cpu, call, x86_check_cpl0(bt_system(cpu), &fault), &fault);
}

/* ---- FS and GS bases ---- */

enum bt_result bt_help_swapgs(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	return helper_end(cpu, call, x86_swapgs(bt_system(cpu), &fault), &fault);
}

enum bt_result bt_help_fsgsbase(struct bt_cpu *cpu, const struct bt_call *call)
{
	unsigned seg = call->op == X86_OP_RDFSBASE || call->op == X86_OP_WRFSBASE ? X86_FS : X86_GS;
	uint64_t *base = &cpu->state.seg[seg].base, value = cpu->state.gpr[call->rm];

	if (!x86_in_64bit(&cpu->state) || !(cpu->state.cr4 & X86_CR4_FSGSBASE))
		return bt_raise_vector(cpu, call->offset, X86_UD, false, 0);
	if (call->op == X86_OP_RDFSBASE || call->op == X86_OP_RDGSBASE) {
		helper_set_gpr(cpu, call->rm, *base, call->opsize);
		return BT_NEXT;
	}
	if (call->opsize == 4)
		value = (uint32_t)value;
	if ((int64_t)(value << 16) >> 16 != (int64_t)value)
		return bt_raise_vector(cpu, call->offset, X86_GP, true, 0);
	*base = value;
	return BT_NEXT;
}

/* ---- flags ---- */

enum bt_result bt_help_cli(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	return helper_end(cpu, call, x86_cli(bt_system(cpu), &fault), &fault);
}

enum bt_result bt_help_sti(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;

	helper_begin(cpu, call);
	return helper_end(cpu, call, x86_sti(bt_system(cpu), &fault), &fault);
}

enum bt_result bt_help_pushf(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value = 0, rsp = cpu->state.gpr[X86_RSP] - call->opsize;
	int rc = x86_pushf(bt_system(cpu), call->opsize, &value, &fault);

	if (rc == 0)
		rc = helper_push_at(cpu, rsp, value, call->opsize, &fault);
	if (rc == 0)
		helper_set_rsp(cpu, rsp);
	return helper_end(cpu, call, rc, &fault);
}

enum bt_result bt_help_popf(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	uint64_t value, rsp = cpu->state.gpr[X86_RSP], before = cpu->state.rflags;
	int rc = helper_pop_at(cpu, rsp, &value, call->opsize, &fault);
	enum bt_result result;

	helper_begin(cpu, call);
	if (rc == 0)
		rc = x86_popf(bt_system(cpu), call->opsize, value, &fault);
	if (rc == 0)
		helper_set_rsp(cpu, rsp + call->opsize);
	result = helper_end(cpu, call, rc, &fault);
	/* TF and AC are part of the mode. */
	if (result == BT_NEXT &&
	    unlikely((before ^ cpu->state.rflags) & (X86_FLAG_TF | X86_FLAG_AC)))
		return BT_JUMP;
	return result;
}

/* STAC, CLAC (SDM vol. 2): CPL 0 only, #UD otherwise. The TLB class of what follows differs. */
enum bt_result bt_help_stac(struct bt_cpu *cpu, const struct bt_call *call)
{
	uint64_t ac = call->op == X86_OP_STAC ? X86_FLAG_AC : 0;

	if (!(cpu->state.cr0 & X86_CR0_PE) || x86_cpl(&cpu->state) != 0)
		return bt_raise_vector(cpu, call->offset, X86_UD, false, 0);
	helper_begin(cpu, call);
	cpu->state.rflags = (cpu->state.rflags & ~(uint64_t)X86_FLAG_AC) | ac;
	return BT_JUMP;
}

/* ---- port I/O ---- */

static unsigned io_size(const struct bt_call *call)
{
	return call->opcode & 1 ? MIN(call->opsize, 4) : 1;
}

static uint16_t io_port(const struct bt_cpu *cpu, const struct bt_call *call)
{
	return call->opcode & 8 ? (uint16_t)cpu->state.gpr[X86_RDX] : (uint8_t)call->imm;
}

enum bt_result bt_help_in(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	struct vcpu *vcpu = bt_generic_vcpu(cpu);
	uint16_t port = io_port(cpu, call);
	unsigned size = io_size(call);

	if (x86_check_io(bt_system(cpu), port, size, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	bt_fpu_save(cpu);
	vcpu->stats.pio++;
	helper_set_gpr(cpu, X86_RAX, bus_read(&vcpu->vm->pio, port, size), size);
	return BT_NEXT;
}

enum bt_result bt_help_out(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct x86_fault fault;
	struct vcpu *vcpu = bt_generic_vcpu(cpu);
	uint16_t port = io_port(cpu, call);
	unsigned size = io_size(call);

	if (x86_check_io(bt_system(cpu), port, size, &fault) < 0)
		return bt_raise(cpu, call->offset, &fault);
	bt_fpu_save(cpu);
	vcpu->stats.pio++;
	bus_write(&vcpu->vm->pio, port, cpu->state.gpr[X86_RAX] & helper_mask(size), size);
	if (!vcpu->requests && !vcpu->irq_pending)
		return BT_NEXT;
	helper_begin(cpu, call); /* a reset, power-off or interrupt takes effect now */
	return BT_LEAVE;
}
