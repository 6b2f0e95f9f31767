/* SPDX-License-Identifier: MIT */
/*
 * The architectural state of one x86 CPU in the form common to all engines, and the constants of
 * the registers in it. Sources: Intel SDM volume 3 (chapters 2-6), AMD APM volume 2.
 *
 * Freestanding: no allocation, no I/O, no globals.
 */
#ifndef LODGE_X86_CPU_H
#define LODGE_X86_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum x86_gpr {
	X86_RAX,
	X86_RCX,
	X86_RDX,
	X86_RBX,
	X86_RSP,
	X86_RBP,
	X86_RSI,
	X86_RDI,
	X86_R8,
	X86_R9,
	X86_R10,
	X86_R11,
	X86_R12,
	X86_R13,
	X86_R14,
	X86_R15,
};

/* Segment registers in their encoding order, then the two system segments. */
enum x86_seg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_SEG_COUNT };

/* A segment register with its cached descriptor. */
struct x86_segment {
	uint16_t selector;
	uint16_t attr; /* X86_ATTR_*: descriptor bits 40-47 in bits 0-7, bits 52-55 in bits 12-15 */
	uint32_t limit; /* in bytes, granularity already applied */
	uint64_t base;
};

#define X86_ATTR_TYPE                                                                              \
	0x000f /* for code/data: bit 0 accessed, 1 writable/readable, 2 expand-down/conforming, 3 code */
#define X86_ATTR_S 0x0010 /* code or data, not system */
#define X86_ATTR_DPL_SHIFT 5
#define X86_ATTR_DPL 0x0060
#define X86_ATTR_P 0x0080
#define X86_ATTR_AVL 0x1000
#define X86_ATTR_L 0x2000
#define X86_ATTR_DB 0x4000
#define X86_ATTR_G 0x8000

struct x86_table { /* GDTR, IDTR */
	uint64_t base;
	uint32_t limit;
};

enum x86_mp_state {
	X86_MP_RUNNABLE,
	X86_MP_HALTED,
	X86_MP_WAIT_FOR_SIPI,
};

#define X86_XSAVE_MAX 4096 /* bytes; x87 to AVX-512 and PKRU in standard form need 2696 */

/*
 * The CPU state. Between instructions of the guest this is complete: an engine that resumes from it
 * continues exactly.
 */
struct x86_cpu_state {
	uint64_t gpr[16];
	uint64_t rip;    /* offset in CS (equals the linear address when CS.base is 0) */
	uint64_t rflags; /* complete; bit 1 always set */
	struct x86_segment seg[X86_SEG_COUNT];
	struct x86_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8;
	uint64_t efer;
	uint64_t dr[8]; /* 4 and 5 unused */
	uint64_t xcr0, xss;

	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, debugctl, spec_ctrl;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_phys_base[8], mtrr_phys_mask[8];
	uint64_t mcg_status;
	uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
	uint64_t tsc_adjust;

	uint8_t mp_state;      /* enum x86_mp_state */
	uint8_t sti_shadow;    /* 1: interrupts are held off for one instruction by STI */
	uint8_t mov_ss_shadow; /* 1: interrupts and debug traps held off by MOV SS / POP SS */
	uint8_t nmi_masked;    /* 1: from NMI delivery to IRET */
	uint8_t nmi_pending;   /* 0..2 */
	uint8_t event_pending; /* 1: the exception below is to be delivered before the next instruction */
	uint8_t event_vector;
	uint8_t event_has_error;
	uint32_t event_error;

	uint8_t xsave[X86_XSAVE_MAX] __attribute__((aligned(64))); /* XSAVE standard form */
};

/* RFLAGS */
#define X86_FLAG_CF 0x00000001u
#define X86_FLAG_R1 0x00000002u
#define X86_FLAG_PF 0x00000004u
#define X86_FLAG_AF 0x00000010u
#define X86_FLAG_ZF 0x00000040u
#define X86_FLAG_SF 0x00000080u
#define X86_FLAG_TF 0x00000100u
#define X86_FLAG_IF 0x00000200u
#define X86_FLAG_DF 0x00000400u
#define X86_FLAG_OF 0x00000800u
#define X86_FLAG_IOPL 0x00003000u
#define X86_FLAG_NT 0x00004000u
#define X86_FLAG_RF 0x00010000u
#define X86_FLAG_VM 0x00020000u
#define X86_FLAG_AC 0x00040000u
#define X86_FLAG_VIF 0x00080000u
#define X86_FLAG_VIP 0x00100000u
#define X86_FLAG_ID 0x00200000u
#define X86_FLAGS_ARITH                                                                            \
	(X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)
#define X86_FLAGS_VALID 0x003f7fd7u

#define X86_CR0_PE 0x00000001u
#define X86_CR0_MP 0x00000002u
#define X86_CR0_EM 0x00000004u
#define X86_CR0_TS 0x00000008u
#define X86_CR0_ET 0x00000010u
#define X86_CR0_NE 0x00000020u
#define X86_CR0_WP 0x00010000u
#define X86_CR0_AM 0x00040000u
#define X86_CR0_NW 0x20000000u
#define X86_CR0_CD 0x40000000u
#define X86_CR0_PG 0x80000000u

#define X86_CR4_VME 0x00000001u
#define X86_CR4_PVI 0x00000002u
#define X86_CR4_TSD 0x00000004u
#define X86_CR4_DE 0x00000008u
#define X86_CR4_PSE 0x00000010u
#define X86_CR4_PAE 0x00000020u
#define X86_CR4_MCE 0x00000040u
#define X86_CR4_PGE 0x00000080u
#define X86_CR4_PCE 0x00000100u
#define X86_CR4_OSFXSR 0x00000200u
#define X86_CR4_OSXMMEXCPT 0x00000400u
#define X86_CR4_UMIP 0x00000800u
#define X86_CR4_FSGSBASE 0x00010000u
#define X86_CR4_PCIDE 0x00020000u
#define X86_CR4_OSXSAVE 0x00040000u
#define X86_CR4_SMEP 0x00100000u
#define X86_CR4_SMAP 0x00200000u
#define X86_CR3_NOFLUSH (1ull << 63)

#define X86_EFER_SCE 0x0001u
#define X86_EFER_LME 0x0100u
#define X86_EFER_LMA 0x0400u
#define X86_EFER_NXE 0x0800u
#define X86_EFER_FFXSR 0x4000u

enum x86_vector {
	X86_DE = 0,
	X86_DB = 1,
	X86_NMI = 2,
	X86_BP = 3,
	X86_OF = 4,
	X86_BR = 5,
	X86_UD = 6,
	X86_NM = 7,
	X86_DF = 8,
	X86_TS = 10,
	X86_NP = 11,
	X86_SS_FAULT = 12,
	X86_GP = 13,
	X86_PF = 14,
	X86_MF = 16,
	X86_AC = 17,
	X86_MC = 18,
	X86_XM = 19,
};

/* Page-fault error code (SDM vol. 3, 4.7) */
#define X86_PF_P 0x01u
#define X86_PF_W 0x02u
#define X86_PF_U 0x04u
#define X86_PF_RSVD 0x08u
#define X86_PF_I 0x10u

/* MSR numbers (SDM volume 4; AMD APM volume 2 appendix A; Linux Documentation/virt/kvm/x86/msr.rst) */
#define X86_MSR_TSC 0x10
#define X86_MSR_APIC_BASE 0x1b
#define X86_MSR_TSC_ADJUST 0x3b
#define X86_MSR_SPEC_CTRL 0x48
#define X86_MSR_PRED_CMD 0x49
#define X86_MSR_BIOS_SIGN_ID 0x8b
#define X86_MSR_MTRR_CAP 0xfe
#define X86_MSR_ARCH_CAPABILITIES 0x10a
#define X86_MSR_SYSENTER_CS 0x174
#define X86_MSR_SYSENTER_ESP 0x175
#define X86_MSR_SYSENTER_EIP 0x176
#define X86_MSR_MCG_CAP 0x179
#define X86_MSR_MCG_STATUS 0x17a
#define X86_MSR_MISC_ENABLE 0x1a0
#define X86_MSR_DEBUGCTL 0x1d9
#define X86_MSR_MTRR_PHYS_BASE0 0x200
#define X86_MSR_MTRR_FIX64K 0x250
#define X86_MSR_MTRR_FIX16K_80000 0x258
#define X86_MSR_MTRR_FIX16K_A0000 0x259
#define X86_MSR_MTRR_FIX4K_C0000 0x268
#define X86_MSR_PAT 0x277
#define X86_MSR_MTRR_DEF_TYPE 0x2ff
#define X86_MSR_TSC_DEADLINE 0x6e0
#define X86_MSR_X2APIC_BASE 0x800
#define X86_MSR_XSS 0xda0
#define X86_MSR_EFER 0xc0000080u
#define X86_MSR_STAR 0xc0000081u
#define X86_MSR_LSTAR 0xc0000082u
#define X86_MSR_CSTAR 0xc0000083u
#define X86_MSR_SFMASK 0xc0000084u
#define X86_MSR_FS_BASE 0xc0000100u
#define X86_MSR_GS_BASE 0xc0000101u
#define X86_MSR_KERNEL_GS_BASE 0xc0000102u
#define X86_MSR_TSC_AUX 0xc0000103u

static inline unsigned x86_cpl(const struct x86_cpu_state *s)
{
	return (s->seg[X86_SS].attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT;
}

/* Is the CPU executing 64-bit code? */
static inline bool x86_in_64bit(const struct x86_cpu_state *s)
{
	return (s->efer & X86_EFER_LMA) && (s->seg[X86_CS].attr & X86_ATTR_L);
}

/* Put *s into the state after RESET (SDM vol. 3, table 9-1): real mode, CS:IP = f000:fff0.
 * is_bsp: runnable if true, else waiting for SIPI. */
void x86_cpu_reset(struct x86_cpu_state *s, bool is_bsp);

/* Put *s into the state after INIT: as reset, but FPU, MTRRs, TSC and most MSRs are kept. */
void x86_cpu_init(struct x86_cpu_state *s, bool is_bsp);

#endif
