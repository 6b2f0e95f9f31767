/* SPDX-License-Identifier: MIT */
/* Register, memory and code dumps for the monitor and for guests that die. Disassembly is Zydis's. */
#include "cli/dump.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>

#include "base/util.h"
#include "vm/vm.h"

size_t dump_read(struct vcpu *vcpu, uint64_t address, bool physical, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		uint64_t gpa = address + done;
		size_t n = MIN(len - done, (size_t)(PAGE_SIZE - (gpa & (PAGE_SIZE - 1))));

		if (!physical && !vcpu->vm->engine->translate(vcpu, gpa, &gpa))
			break;
		if (guest_memory_read(vcpu->vm, gpa, (uint8_t *)buf + done, n))
			break;
		done += n;
	}
	return done;
}

static void dump_flags(FILE *out, uint64_t rflags)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} flags[] = {
		{ X86_FLAG_ID, "ID" }, { X86_FLAG_VIP, "VIP" }, { X86_FLAG_VIF, "VIF" },
		{ X86_FLAG_AC, "AC" }, { X86_FLAG_VM, "VM" },   { X86_FLAG_RF, "RF" },
		{ X86_FLAG_NT, "NT" }, { X86_FLAG_OF, "OF" },   { X86_FLAG_DF, "DF" },
		{ X86_FLAG_IF, "IF" }, { X86_FLAG_TF, "TF" },   { X86_FLAG_SF, "SF" },
		{ X86_FLAG_ZF, "ZF" }, { X86_FLAG_AF, "AF" },   { X86_FLAG_PF, "PF" },
		{ X86_FLAG_CF, "CF" },
	};

	fprintf(out, "RFLAGS %08" PRIx64 " [", rflags);
	const char *separator = "";
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (rflags & flags[i].bit) {
			fprintf(out, "%s%s", separator, flags[i].name);
			separator = " ";
		}
	fprintf(out, "] IOPL %u", (unsigned)(rflags & X86_FLAG_IOPL) >> 12);
}

static void dump_segment(FILE *out, const char *name, const struct x86_segment *seg)
{
	fprintf(out,
		"%-4s %04x base %016" PRIx64 " limit %08x attr %04x  DPL %u %s%s%s%s type %x\n",
		name, seg->selector, seg->base, seg->limit, seg->attr,
		(unsigned)(seg->attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT,
		seg->attr & X86_ATTR_P ? "P" : "-", seg->attr & X86_ATTR_S ? "S" : "-",
		seg->attr & X86_ATTR_L ? "L" : "-", seg->attr & X86_ATTR_DB ? "D" : "-",
		seg->attr & X86_ATTR_TYPE);
}

static const char *mode_name(const struct x86_cpu_state *s)
{
	if (!(s->cr0 & X86_CR0_PE))
		return "real mode";
	if (s->efer & X86_EFER_LMA)
		return x86_in_64bit(s) ? "64-bit mode" : "compatibility mode";
	if (s->rflags & X86_FLAG_VM)
		return "virtual-8086 mode";
	return s->seg[X86_CS].attr & X86_ATTR_DB ? "32-bit protected mode" :
						   "16-bit protected mode";
}

void dump_registers(FILE *out, const struct x86_cpu_state *s)
{
	static const char *const gprs[16] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
					      "RSI", "RDI", "R8",  "R9",  "R10", "R11",
					      "R12", "R13", "R14", "R15" };
	static const uint8_t order[16] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI,
					   X86_RBP, X86_RSP, X86_R8,  X86_R9,  X86_R10, X86_R11,
					   X86_R12, X86_R13, X86_R14, X86_R15 };
	static const char *const segs[X86_SEG_COUNT] = { "ES", "CS", "SS",   "DS",
							 "FS", "GS", "LDTR", "TR" };
	static const char *const mp_states[] = { "running", "halted", "waiting for SIPI" };

	for (unsigned i = 0; i < 16; i++)
		fprintf(out, "%-3s %016" PRIx64 "%s", gprs[order[i]], s->gpr[order[i]],
			i % 4 == 3 ? "\n" : "  ");
	fprintf(out, "RIP %016" PRIx64 "  ", s->rip);
	dump_flags(out, s->rflags);
	fprintf(out, " CPL %u\n%s, %s%s%s%s\n", x86_cpl(s), mode_name(s),
		s->mp_state < ARRAY_SIZE(mp_states) ? mp_states[s->mp_state] : "?",
		s->sti_shadow ? ", STI shadow" : "", s->mov_ss_shadow ? ", MOV SS shadow" : "",
		s->nmi_masked ? ", NMI masked" : "");
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		dump_segment(out, segs[i], &s->seg[i]);
	fprintf(out, "GDT  base %016" PRIx64 " limit %04x   IDT base %016" PRIx64 " limit %04x\n",
		s->gdt.base, s->gdt.limit, s->idt.base, s->idt.limit);
	fprintf(out,
		"CR0 %08" PRIx64 "  CR2 %016" PRIx64 "  CR3 %016" PRIx64 "  CR4 %08" PRIx64
		"  CR8 %" PRIx64 "\n",
		s->cr0, s->cr2, s->cr3, s->cr4, s->cr8);
	fprintf(out, "EFER %04" PRIx64 "  XCR0 %" PRIx64 "  KERNEL_GS_BASE %016" PRIx64 "\n",
		s->efer, s->xcr0, s->kernel_gs_base);
	fprintf(out,
		"DR0 %016" PRIx64 "  DR1 %016" PRIx64 "  DR2 %016" PRIx64 "  DR3 %016" PRIx64 "\n",
		s->dr[0], s->dr[1], s->dr[2], s->dr[3]);
	fprintf(out, "DR6 %08" PRIx64 "  DR7 %08" PRIx64 "\n", s->dr[6], s->dr[7]);
	if (s->event_pending)
		fprintf(out, "pending: exception %u, error code %x\n", s->event_vector,
			s->event_error);
}

static ZydisMachineMode zydis_mode(const struct x86_cpu_state *s)
{
	if (x86_in_64bit(s))
		return ZYDIS_MACHINE_MODE_LONG_64;
	if (!(s->cr0 & X86_CR0_PE))
		return ZYDIS_MACHINE_MODE_REAL_16;
	if (s->seg[X86_CS].attr & X86_ATTR_DB && !(s->rflags & X86_FLAG_VM))
		return ZYDIS_MACHINE_MODE_LEGACY_32;
	return ZYDIS_MACHINE_MODE_LEGACY_16;
}

uint64_t dump_code(FILE *out, struct vcpu *vcpu, const struct x86_cpu_state *state,
		   uint64_t address, bool physical, unsigned count)
{
	ZydisMachineMode mode = zydis_mode(state);

	for (unsigned i = 0; i < count; i++) {
		uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
		ZydisDisassembledInstruction insn;
		size_t len = dump_read(vcpu, address, physical, code, sizeof(code));

		if (!len) {
			fprintf(out, "%016" PRIx64 "  cannot be read\n", address);
			break;
		}
		bool valid = ZYAN_SUCCESS(ZydisDisassembleIntel(mode, address, code, len, &insn));
		unsigned insn_len = valid ? insn.info.length : 1;

		fprintf(out, "%016" PRIx64 "  ", address);
		for (unsigned b = 0; b < 11 || b < insn_len; b++) {
			if (b < insn_len)
				fprintf(out, "%02x ", code[b]);
			else
				fputs("   ", out);
		}
		fprintf(out, "%s\n", valid ? insn.text : "(bad)");
		address += insn_len;
	}
	return address;
}

uint64_t dump_memory(FILE *out, struct vcpu *vcpu, uint64_t address, bool physical, unsigned count,
		     unsigned size)
{
	unsigned per_line = 16 / size;

	for (unsigned i = 0; i < count; i++) {
		uint64_t value = 0;

		if (i % per_line == 0)
			fprintf(out, "%016" PRIx64 ":", address);
		if (dump_read(vcpu, address, physical, &value, size) < size) {
			fputs(" cannot be read\n", out);
			return address;
		}
		fprintf(out, " %0*" PRIx64, (int)size * 2, value);
		if (i % per_line == per_line - 1 || i == count - 1)
			fputc('\n', out);
		address += size;
	}
	return address;
}

static void dump_code_bytes(FILE *out, struct vcpu *vcpu, uint64_t rip)
{
	fputs("code", out);
	for (int i = -16; i < 32; i++) {
		uint8_t byte;
		uint64_t address = rip + (uint64_t)(int64_t)i;

		if (dump_read(vcpu, address, false, &byte, 1) != 1)
			fputs(i ? " --" : " <-->", out);
		else
			fprintf(out, i ? " %02x" : " <%02x>", byte);
	}
	fputc('\n', out);
}

void dump_vcpu(FILE *out, struct vcpu *vcpu)
{
	struct x86_cpu_state state;

	vcpu->vm->engine->get_state(vcpu, &state);
	uint64_t rip = state.seg[X86_CS].base + state.rip;
	uint64_t rsp = state.seg[X86_SS].base + state.gpr[X86_RSP];

	if (!x86_in_64bit(&state)) {
		rip = (uint32_t)rip;
		rsp = (uint32_t)rsp;
	}
	fprintf(out, "vCPU %u:\n", vcpu->index);
	dump_registers(out, &state);
	dump_code_bytes(out, vcpu, rip);
	dump_code(out, vcpu, &state, rip, false, 6);
	fputs("stack\n", out);
	dump_memory(out, vcpu, rsp, false, 8, x86_in_64bit(&state) ? 8 : 4);
}
