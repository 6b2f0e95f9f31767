/* SPDX-License-Identifier: MIT */
/*
 * Random descriptors, gates, stacks and selectors thrown at every transfer, load and delivery, with the
 * properties that must hold whatever the guest does:
 *  - an instruction that faults leaves the registers as they were (but for NMI blocking, which IRET ends);
 *  - one that completes leaves a consistent state: CPL, CS and SS agree, RIP can be fetched from, no
 *    data segment is held that the CPL may not use;
 *  - delivering an exception ends, and nothing is read or written out of bounds (sanitizers).
 * The seed is fixed; LODGE_SEED changes it.
 */
#include "x86_machine.h"

#include <stdio.h>

#define ROUNDS 150000u

static uint64_t seed;

static uint32_t random32(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 16);
}

static uint32_t below(uint32_t n)
{
	return random32() % n;
}

static uint16_t random_selector(void)
{
	static const uint16_t good[] = { CODE0,        DATA0,      CODE3 | 3, DATA3 | 3, CODE64,
					 CODE64_3 | 3, CONFORMING, CODE1 | 1, DATA1 | 1, TSS2,
					 LDT,          GATE,       GATE2 | 3, 0,         3,
					 CODE16,       DATA16,     FREE };

	switch (below(8)) {
	case 0:
		return (uint16_t)random32();
	case 1:
		return below(GDT_LIMIT + 16);
	default:
		return good[below(sizeof(good) / sizeof(good[0]))];
	}
}

static uint64_t random_value(void)
{
	switch (below(6)) {
	case 0:
		return (uint64_t)random32() << 32 | random32();
	case 1:
		return random32();
	case 2:
		return KERNEL_BASE + below(MEMORY_SIZE);
	default:
		return below(MEMORY_SIZE);
	}
}

static uint64_t random_descriptor(void)
{
	uint64_t d = descriptor(below(4) ? 0 : random32(), below(4) ? ~0u : below(0x20000),
				0x80 | below(128) | (below(2) ? 0xc000 : below(16) << 12));

	if (below(3) == 0)
		d = gate_descriptor(random_selector(), below(0x10000), 0x80 | below(128),
				    below(32));
	return below(16) ? d : d & ~(1ull << 47); /* not present */
}

static void scramble(struct machine *m)
{
	unsigned width = 1u << (1 + below(3));

	for (unsigned i = below(6); i; i--)
		set_gdt(m, below(GDT_LIMIT + 1), random_descriptor());
	for (unsigned i = below(6); i; i--)
		poke(m, IDT_BASE + below(512) * 8, 8, random_descriptor());
	for (unsigned i = below(4); i; i--)
		poke(m, TSS_BASE + below(0x68), 2, random_selector());
	/* A second task. */
	for (unsigned i = 0; i < 0x68; i += 4)
		poke(m, TSS2_BASE + i, 4, below(0x10000));
	for (unsigned i = 0x48; i < 0x64; i += 4)
		poke(m, TSS2_BASE + i, 4, random_selector());
	/* Something like a frame where the stack points. */
	for (unsigned i = 0; i < 10 * width; i += width)
		if (machine_at(m, m->cpu.gpr[X86_RSP] + i) &&
		    machine_at(m, m->cpu.gpr[X86_RSP] + i + 8))
			poke(m, m->cpu.gpr[X86_RSP] + i, width,
			     below(3) ? random_selector() : random_value());
	if (below(2))
		m->cpu.rflags |= random32() & (X86_FLAGS_ARITH | X86_FLAG_IF | X86_FLAG_IOPL |
					       X86_FLAG_NT | X86_FLAG_TF);
	m->cpu.rflags |= X86_FLAG_R1;
	if (below(16) == 0)
		m->bad_page = below(MEMORY_SIZE) & ~0xfffu;
	m->cpu.star = (uint64_t)random32() << 32;
	m->cpu.sysenter_cs = random_selector();
	m->cpu.seg[X86_LDTR] = (struct x86_segment){
		.selector = LDT, .attr = below(2) ? 0x82 : 0, .limit = 0xff, .base = LDT_BASE
	};
	m->sys.features.is_amd = below(2);
	if (!(m->cpu.efer & X86_EFER_LMA) && below(2))
		m->cpu.cr4 |= X86_CR4_VME | X86_CR4_PVI;
}

static struct machine *new_state(void)
{
	static int (*const setups[])(void **) = { machine_real,           machine_protected,
						  machine_protected_user, machine_v86,
						  machine_long,           machine_long_user };
	void *state;

	setups[below(sizeof(setups) / sizeof(setups[0]))](&state);
	scramble(state);
	return state;
}

static const char *const names[] = { "load segment", "far jump", "far call", "far return", "iret",
				     "deliver",      "lldt",     "ltr",      "syscall",    "sysret",
				     "sysenter",     "sysexit",  "popf" };

static int run_one(struct machine *m, unsigned what)
{
	static const uint8_t sizes[3] = { 2, 4, 8 };
	static const uint8_t segments[5] = { X86_ES, X86_SS, X86_DS, X86_FS, X86_GS };
	struct x86_system *s = &m->sys;
	unsigned size = sizes[below(x86_in_64bit(&m->cpu) ? 3 : 2)];

	switch (what) {
	case 0:
		return x86_load_segment(s, segments[below(5)], random_selector(), &m->fault);
	case 1:
		return x86_far_jump(s, random_selector(), random_value(), size, &m->fault);
	case 2:
		return x86_far_call(s, random_selector(), random_value(), size, &m->fault);
	case 3:
		return x86_far_return(s, size, below(2) ? below(64) : 0, &m->fault);
	case 4:
		return x86_iret(s, size, &m->fault);
	case 5:
		return x86_deliver_event(s, below(X86_EVENT_INT1 + 1), below(256), below(2),
					 random32() & 0xffff, &m->fault);
	case 6:
		return x86_load_ldtr(s, random_selector(), &m->fault);
	case 7:
		return x86_load_tr(s, random_selector(), &m->fault);
	case 8:
		return x86_syscall(s, &m->fault);
	case 9:
		return x86_sysret(s, size, &m->fault);
	case 10:
		return x86_sysenter(s, &m->fault);
	case 11:
		return x86_sysexit(s, size, &m->fault);
	default:
		return x86_popf(s, size, random_value(), &m->fault);
	}
}

static bool data_segment_allowed(const struct x86_segment *seg, unsigned cpl)
{
	unsigned dpl = (seg->attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT;

	if (!(seg->attr & X86_ATTR_P))
		return true;
	return dpl >= cpl || (seg->attr & 0x1c) == 0x1c;
}

/* Properties of a state that is about to execute. The message names what is wrong. */
static const char *inconsistent(const struct x86_cpu_state *cpu, bool fast_system_call)
{
	const struct x86_segment *cs = &cpu->seg[X86_CS], *ss = &cpu->seg[X86_SS];
	unsigned cpl = x86_cpl(cpu);

	if (!(cpu->rflags & X86_FLAG_R1) || (cpu->rflags & ~(uint64_t)X86_FLAGS_VALID))
		return "reserved flags";
	if (!(cpu->cr0 & X86_CR0_PE))
		return cpl ? "CPL in real mode" : NULL;
	if (cpu->rflags & X86_FLAG_VM)
		return cpu->efer & X86_EFER_LMA ? "VM in long mode" :
		       cpl != 3                 ? "CPL in virtual-8086 mode" :
						  NULL;
	if (x86_in_64bit(cpu)) {
		if (cs->base || (cs->attr & X86_ATTR_DB))
			return "64-bit CS";
		if ((uint64_t)((int64_t)(cpu->rip << 16) >> 16) != cpu->rip && !fast_system_call)
			return "RIP not canonical";
	} else if (cpu->rip > cs->limit && !fast_system_call) {
		return "RIP beyond the limit";
	}
	if (fast_system_call) /* these trust the MSRs */
		return NULL;
	if ((cs->selector & 3u) != cpl)
		return "CS.RPL is not the CPL";
	if ((cs->attr & 0x98) != 0x98)
		return "CS is not present code";
	if ((ss->attr & X86_ATTR_P) && ((ss->attr & 0x1a) != 0x12 || (ss->selector & 3u) != cpl))
		return "SS is not a stack for the CPL";
	if (!(ss->attr & X86_ATTR_P) && !(cpu->efer & X86_EFER_LMA))
		return "no SS";
	for (unsigned i = 0; i < 6; i++)
		if (i != X86_CS && i != X86_SS && !data_segment_allowed(&cpu->seg[i], cpl))
			return "data segment of an inner level";
	return NULL;
}

static void anything(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	unsigned completed = 0, faulted = 0;

	(void)state;
	assert_non_null(m);
	machine_reused = m;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned what = below(13);
		struct x86_cpu_state before;
		bool fast = what >= 8 && what <= 11;
		const char *wrong;

		new_state();
		before = m->cpu;
		if (run_one(m, what) == 0) {
			completed++;
			wrong = inconsistent(&m->cpu, fast);
		} else {
			faulted++;
			before.nmi_masked = m->cpu.nmi_masked;
			wrong = NULL;
			/* #DF: the transfer was committed, but the fault at its target could not be delivered. */
			if (m->fault.vector != X86_DF &&
			    memcmp(&before, &m->cpu, offsetof(struct x86_cpu_state, xsave)))
				wrong = "registers changed by a faulting instruction";
			/* The fault is raised as an engine does; nothing to check but that it ends well. */
			if (!wrong && x86_raise_fault(&m->sys, &m->fault) == 0)
				wrong = inconsistent(&m->cpu, false);
		}
		if (wrong)
			fail_msg("round %u, %s: %s", i, names[what], wrong);
	}
	print_message("%u completed, %u faulted\n", completed, faulted);
	/* The generator must reach both. */
	assert_true(completed > ROUNDS / 10 && faulted > ROUNDS / 10);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(anything) };
	const char *from = getenv("LODGE_SEED");

	seed = from ? strtoull(from, NULL, 0) : 0x9e3779b97f4a7c15ull;
	if (!seed)
		seed = 1;
	return cmocka_run_group_tests_name("x86 random states", tests, NULL, NULL);
}
