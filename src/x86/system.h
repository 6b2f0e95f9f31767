/* SPDX-License-Identifier: MIT */
/*
 * What the processor does for its privileged and control-transfer instructions, in plain C on
 * struct x86_cpu_state: segment loads, far transfers, interrupt and exception delivery, task
 * switches, system calls, descriptor tables, control/debug registers and MSRs. Used by engines for
 * everything that is not executed by the host's own instructions.
 *
 * Convention: every function returns 0 when the instruction completed, or -1 with *fault filled; then
 * the architectural state is unchanged except where the manuals say otherwise (task switches).
 * Functions are called with s->cpu->rip already pointing at the *next* instruction where the architecture
 * saves that (calls, INT n), and the caller restores rip to the faulting instruction on -1.
 * Freestanding; memory is reached through struct x86_system_ops.
 */
#ifndef LODGE_X86_SYSTEM_H
#define LODGE_X86_SYSTEM_H

#include "x86/cpu.h"
#include "x86/paging.h"

struct x86_fault {
	uint8_t vector; /* enum x86_vector */
	bool has_error;
	uint32_t error;
	uint64_t address; /* CR2 value for #PF; DR6 bits for #DB */
};

/* Effects an instruction had that an engine caches; a mask accumulated in x86_system.effects. */
#define X86_EFFECT_FLUSH_TLB 0x01 /* non-global translations of the current PCID */
#define X86_EFFECT_FLUSH_ALL 0x02 /* all translations, all PCIDs, globals too */
#define X86_EFFECT_CR3 0x04       /* CR3 was loaded with the no-flush bit clear: see new CR3/PCID */
#define X86_EFFECT_CR3_NOFLUSH 0x08 /* CR3 was loaded, translations of the new PCID may be kept */
#define X86_EFFECT_MODE                                                                            \
	0x10 /* CR0, CR4, EFER, CS, SS attributes, XCR0: execution mode may differ */
#define X86_EFFECT_DEBUG 0x20      /* DR0-DR7 changed */
#define X86_EFFECT_INTERRUPTS 0x40 /* IF may have become 1, or CR8 lower: look for interrupts */
#define X86_EFFECT_HALT 0x80

struct x86_system;

/* Access flags for ops->read/write */
#define X86_SYS_IMPLICIT                                                                           \
	1 /* implicit supervisor access: descriptor tables, TSS, interrupt stacks: CPL ignored, SMAP AC ignored */
#define X86_SYS_WRITE_INTENT 2 /* read for ownership: fault as a write would */

struct x86_system_ops {
	/* Access size bytes at a linear address with the current CPL (or as implicit supervisor). May cross
	 * pages. -1 with *fault (#PF, or #GP/#SS(0) for non-canonical). */
	int (*read)(struct x86_system *s, uint64_t linear, void *buf, unsigned size, unsigned flags,
		    struct x86_fault *fault);
	int (*write)(struct x86_system *s, uint64_t linear, const void *buf, unsigned size,
		     unsigned flags, struct x86_fault *fault);
	/* MSRs not in x86_cpu_state (APIC, TSC, TSC_ADJUST, paravirtual, model-specific). 0, or -1 for #GP(0). */
	int (*read_msr)(struct x86_system *s, uint32_t msr, uint64_t *value);
	int (*write_msr)(struct x86_system *s, uint32_t msr, uint64_t value);
	/* Task priority, kept by the local APIC. */
	uint64_t (*read_cr8)(struct x86_system *s);
	void (*write_cr8)(struct x86_system *s, uint64_t value);
	/* Read an aligned 8-byte word at a guest-physical address, for the PDPTEs a load of CR3 under PAE paging
	 * checks. May be NULL: then no check is made. */
	uint64_t (*read_physical)(struct x86_system *s, uint64_t gpa);
	/* Set and clear bits of the byte at a linear address in one atomic step, as an implicit supervisor access
	 * (accessed and busy bits of descriptors). May be NULL: then a plain write of the byte does it. */
	int (*change_byte)(struct x86_system *s, uint64_t linear, uint8_t set, uint8_t clear,
			   struct x86_fault *fault);
};

/* What the guest's CPU model has, where the semantics depend on it. */
struct x86_system_features {
	uint64_t cr4_valid; /* CR4 bits that may be set */
	uint64_t xcr0_valid;
	uint64_t efer_valid;
	uint8_t maxphyaddr;
	bool is_amd; /* SYSCALL/SYSRET/SYSENTER and segment details differ by vendor */
	bool fxsr_opt;
	bool null_keeps_base; /* AMD before CPUID 8000_0021.EAX[6]: a null selector leaves the base of the segment as it was */
};

struct x86_system {
	struct x86_cpu_state *cpu;
	const struct x86_system_ops *ops;
	void *ctx; /* the engine's own */
	struct x86_system_features features;
	uint32_t effects; /* X86_EFFECT_*, or-ed in; the engine clears it */
};

/* ---- segments (SDM vol. 3, 3.4, 5) ---- */
/* MOV, POP, Lxx to ES, SS, DS, FS, GS. The caller sets mov_ss_shadow after MOV SS and POP SS (LSS has no shadow).
 * A null selector leaves attr 0 (no X86_ATTR_P): unusable outside 64-bit mode. */
int x86_load_segment(struct x86_system *s, enum x86_seg seg, uint16_t selector,
		     struct x86_fault *fault);
int x86_load_ldtr(struct x86_system *s, uint16_t selector, struct x86_fault *fault);
int x86_load_tr(struct x86_system *s, uint16_t selector, struct x86_fault *fault);
/* LAR, LSL, VERR, VERW: *ok is the resulting ZF. */
int x86_lar(struct x86_system *s, uint16_t selector, uint32_t *rights, bool *ok,
	    struct x86_fault *fault);
int x86_lsl(struct x86_system *s, uint16_t selector, uint32_t *limit, bool *ok,
	    struct x86_fault *fault);
int x86_verify(struct x86_system *s, uint16_t selector, bool write, bool *ok,
	       struct x86_fault *fault);
/* Make CS, SS flat/real-mode values consistent after a mode change is the caller's (MOV CR0) affair: segments keep their caches. */

/* Logical to linear with all checks of the current mode (limit, rights, canonical): for slow paths.
 * size in bytes; write: the access writes. */
int x86_linear_address(struct x86_system *s, enum x86_seg seg, uint64_t offset, unsigned size,
		       bool write, uint64_t *linear, struct x86_fault *fault);

/* ---- far control transfers (SDM vol. 2 CALL/JMP/RET/IRET; vol. 3, 5.8) ---- opsize 2, 4 or 8 */
int x86_far_jump(struct x86_system *s, uint16_t selector, uint64_t offset, unsigned opsize,
		 struct x86_fault *fault);
int x86_far_call(struct x86_system *s, uint16_t selector, uint64_t offset, unsigned opsize,
		 struct x86_fault *fault);
int x86_far_return(struct x86_system *s, unsigned opsize, unsigned pop_bytes,
		   struct x86_fault *fault);
int x86_iret(struct x86_system *s, unsigned opsize, struct x86_fault *fault);

/* ---- events (SDM vol. 3, 6) ---- */
enum x86_event_kind {
	X86_EVENT_HARDWARE,  /* external interrupt or NMI */
	X86_EVENT_EXCEPTION, /* fault/trap, error code if the vector has one */
	X86_EVENT_INT_N,     /* INT n: gate DPL is checked; VME redirection in virtual-8086 mode */
	X86_EVENT_INT3_INTO, /* INT3, INTO: gate DPL is checked */
	X86_EVENT_INT1,      /* ICEBP */
};
/* Deliver one event through the IVT/IDT. -1 with *fault if delivery itself faulted. Exceptions of fault class save
 * RF = 1; for an interrupt in the middle of a string instruction the caller sets RF before. Ends STI and MOV SS
 * shadows. HARDWARE vector 2 is an NMI and masks further ones. */
int x86_deliver_event(struct x86_system *s, enum x86_event_kind kind, uint8_t vector,
		      bool has_error, uint32_t error, struct x86_fault *fault);
/* Deliver an exception, escalating faults during delivery to #DF and to shutdown (SDM vol. 3, table 6-5).
 * Sets CR2 for #PF and DR6 for #DB, RF in the pushed image for faults. Returns 0, or -1: triple fault. */
int x86_raise_fault(struct x86_system *s, const struct x86_fault *fault);
/* The same escalation for other kinds. Returns 0, or -1: triple fault. For HARDWARE; software interrupts use
 * x86_deliver_event(), because the fault must find rip at the instruction. */
int x86_raise_event(struct x86_system *s, enum x86_event_kind kind, uint8_t vector);

/* Hardware task switch (SDM vol. 3, 7.3). On -1 the switch may be complete, the fault then belonging to the new task;
 * the instructions above (far transfers, IRET, INT n) raise such faults themselves and return 0. During a switch
 * ops->read must follow cr3 as changed in *cpu (X86_EFFECT_CR3 is set before the next access). */
enum x86_task_switch_reason { X86_TASK_JMP, X86_TASK_CALL, X86_TASK_IRET, X86_TASK_GATE };
int x86_task_switch(struct x86_system *s, uint16_t selector, enum x86_task_switch_reason reason,
		    bool has_error, uint32_t error, struct x86_fault *fault);

/* ---- fast system calls ---- */
int x86_syscall(struct x86_system *s,
		struct x86_fault *fault); /* cpu->rip = next instruction on entry */
int x86_sysret(struct x86_system *s, unsigned opsize, struct x86_fault *fault);
int x86_sysenter(struct x86_system *s, struct x86_fault *fault);
int x86_sysexit(struct x86_system *s, unsigned opsize, struct x86_fault *fault);

/* ---- flags ---- */
/* The value PUSHF pushes, and POPF's effect, with all privilege, VME and PVI rules. */
int x86_pushf(struct x86_system *s, unsigned opsize, uint64_t *value, struct x86_fault *fault);
int x86_popf(struct x86_system *s, unsigned opsize, uint64_t value, struct x86_fault *fault);
int x86_cli(struct x86_system *s, struct x86_fault *fault);
int x86_sti(struct x86_system *s,
	    struct x86_fault *fault); /* sets sti_shadow when IF goes 0 -> 1 */

/* ---- system registers ---- */
int x86_read_cr(struct x86_system *s, unsigned cr, uint64_t *value, struct x86_fault *fault);
int x86_write_cr(struct x86_system *s, unsigned cr, uint64_t value, struct x86_fault *fault);
int x86_lmsw(struct x86_system *s, uint16_t value, struct x86_fault *fault);
int x86_clts(struct x86_system *s, struct x86_fault *fault);
int x86_read_dr(struct x86_system *s, unsigned dr, uint64_t *value, struct x86_fault *fault);
int x86_write_dr(struct x86_system *s, unsigned dr, uint64_t value, struct x86_fault *fault);
int x86_read_msr(struct x86_system *s, uint32_t msr, uint64_t *value, struct x86_fault *fault);
int x86_write_msr(struct x86_system *s, uint32_t msr, uint64_t value, struct x86_fault *fault);
int x86_xsetbv(struct x86_system *s, uint32_t index, uint64_t value, struct x86_fault *fault);
int x86_xgetbv(struct x86_system *s, uint32_t index, uint64_t *value, struct x86_fault *fault);
int x86_swapgs(struct x86_system *s, struct x86_fault *fault);
/* UMIP and privilege: may SGDT/SIDT/SLDT/STR/SMSW execute here? */
int x86_check_umip(struct x86_system *s, struct x86_fault *fault);
int x86_load_gdtr_idtr(struct x86_system *s, bool idt, uint64_t base, uint16_t limit,
		       struct x86_fault *fault);
/* I/O permission: IOPL and the TSS bitmap (SDM vol. 1, 18.5). */
int x86_check_io(struct x86_system *s, uint16_t port, unsigned size, struct x86_fault *fault);
/* CPL must be 0 (real mode passes): #GP(0) otherwise. */
int x86_check_cpl0(struct x86_system *s, struct x86_fault *fault);

#endif
