/* SPDX-License-Identifier: MIT */
/*
 * The state of a CPU after RESET and after INIT: Intel SDM volume 3, table 9-1.
 */
#include "x86/cpu.h"

#define CR0_RESET (X86_CR0_CD | X86_CR0_NW | X86_CR0_ET)
#define DR6_RESET 0xffff0ff0u
#define DR7_RESET 0x400u
#define PAT_RESET 0x0007040600070406ull
#define SIGNATURE 0x600u /* family 6, in RDX; CPUID leaf 1 is what software looks at */

#define FCW_RESET 0x0040u /* not FNINIT's 037f: SDM vol. 3, table 9-1 */
#define MXCSR_RESET 0x1f80u
#define XSAVE_FCW 0
#define XSAVE_FTW 4 /* abridged: bit n set, register n is not empty; after RESET all hold +0.0 */
#define XSAVE_MXCSR 24
#define XSAVE_MXCSR_MASK 28
#define XSAVE_XSTATE_BV 512

/* Not memset(): these files call nothing outside x86/. */
static void clear(void *p, uint64_t size)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(size) : "a"(0) : "memory");
}

static void store(uint8_t *at, uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

/* What RESET and INIT have in common. */
static void start_state(struct x86_cpu_state *s, bool is_bsp)
{
	static const struct x86_segment data = { .attr = 0x93, .limit = 0xffff };

	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = 0;
	s->gpr[X86_RDX] = SIGNATURE;
	s->rip = 0xfff0;
	s->rflags = X86_FLAG_R1;

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[X86_CS].selector = 0xf000;
	s->seg[X86_CS].base = 0xffff0000;
	s->seg[X86_CS].attr = 0x9b;
	s->seg[X86_LDTR].attr = 0x82;
	s->seg[X86_TR].attr = 0x8b;
	s->gdt = (struct x86_table){ .base = 0, .limit = 0xffff };
	s->idt = s->gdt;

	s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
	s->efer = 0;
	for (unsigned i = 0; i < 8; i++)
		s->dr[i] = 0;
	s->dr[6] = DR6_RESET;
	s->dr[7] = DR7_RESET;

	s->mp_state = is_bsp ? X86_MP_RUNNABLE : X86_MP_WAIT_FOR_SIPI;
	s->sti_shadow = s->mov_ss_shadow = 0;
	s->nmi_masked = s->nmi_pending = 0;
	s->event_pending = s->event_vector = s->event_has_error = 0;
	s->event_error = 0;
}

void x86_cpu_reset(struct x86_cpu_state *s, bool is_bsp)
{
	clear(s, sizeof(*s));
	start_state(s, is_bsp);
	s->cr0 = CR0_RESET;
	s->xcr0 = 1;
	s->pat = PAT_RESET;
	s->misc_enable = 1; /* fast strings */

	store(s->xsave + XSAVE_FCW, FCW_RESET, 2);
	store(s->xsave + XSAVE_FTW, 0xff, 1);
	store(s->xsave + XSAVE_MXCSR, MXCSR_RESET, 4);
	store(s->xsave + XSAVE_MXCSR_MASK, 0xffff, 4);
	store(s->xsave + XSAVE_XSTATE_BV, 3, 8); /* x87 and SSE are not in the state XINIT gives */
}

void x86_cpu_init(struct x86_cpu_state *s, bool is_bsp)
{
	uint64_t cache_bits = s->cr0 & (X86_CR0_CD | X86_CR0_NW); /* table 9-1, note 2 */

	start_state(s, is_bsp);
	s->cr0 = X86_CR0_ET | cache_bits;
}
