/* SPDX-License-Identifier: MIT */
/*
 * What the guest may not see in CPUID because translated code cannot give it (Intel SDM volume 2, CPUID; AMD APM
 * volume 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst for leaf 0x40000001).
 */
#include "engine/bt/runtime.h"

struct cpuid_mask {
	uint32_t leaf, subleaf; /* ~0: any */
	uint32_t clear[4];      /* eax ebx ecx edx */
};

#define ANY 0xffffffffu
#define B(n) (1u << (n))

static const struct cpuid_mask masks[] = {
	/* ecx: DTES64 MONITOR DS-CPL VMX SMX EIST TM2 CNXT-ID SDBG xTPR PDCM DCA; edx: DS ACPI TM PBE */
	{ 1, ANY, { 0, 0, B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(10) | B(11) | B(14) | B(15) | B(18),
		    B(21) | B(22) | B(29) | B(31) } },
	{ 5, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 6, ANY, { ~B(2), ~0u, ~0u, ~0u } }, /* ARAT stays */
	/* ebx: SGX HLE RTM PQM MPX PQE PT; ecx: PKU OSPKE WAITPKG CET_SS TME LA57 KL BUS_LOCK ENQCMD SGX_LC PKS;
	 * edx: UINTR HYBRID PCONFIG LBR CET_IBT AMX CORE_CAP */
	{ 7, 0, { 0, B(2) | B(4) | B(11) | B(12) | B(14) | B(15) | B(25),
		  B(3) | B(4) | B(5) | B(7) | B(13) | B(16) | B(23) | B(24) | B(29) | B(30) | B(31),
		  B(5) | B(15) | B(18) | B(19) | B(20) | B(22) | B(24) | B(25) | B(30) } },
	/* eax: AMX_FP16 LASS FRED LKGS LAM HRESET; ebx, ecx, edx: nothing known is right for us but AVX_VNNI_INT8 etc. */
	{ 7, 1, { B(6) | B(17) | B(18) | B(21) | B(22) | B(26), 0, 0, B(8) | B(17) | B(18) } },
	{ 0xa, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0xd, 1, { B(4), 0, ~0u, ~0u } }, /* XFD; no supervisor states */
	{ 0xf, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x10, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x12, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x14, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1b, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1d, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1e, ANY, { ~0u, ~0u, ~0u, ~0u } },
	/* ecx: SVM IBS SKINIT WDT LWP NODEID PERFCTR x3 DATABRK MWAITX */
	{ 0x80000001, ANY, { 0, 0, B(2) | B(10) | B(12) | B(13) | B(15) | B(19) | B(23) | B(24) | B(26) | B(27) | B(28) | B(29),
			     0 } },
	{ 0x80000007, ANY, { ~0u, ~0u, ~0u, ~B(8) } }, /* invariant TSC */
	{ 0x8000000a, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x8000001b, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x8000001f, ANY, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x80000022, ANY, { ~0u, ~0u, ~0u, ~0u } },
};

/* CLOCKSOURCE NOP_IO_DELAY CLOCKSOURCE2 STEAL_TIME PV_EOI PV_UNHALT PV_TLB_FLUSH PV_SEND_IPI PV_SCHED_YIELD STABLE */
#define PV_FEATURES (B(0) | B(1) | B(3) | B(5) | B(6) | B(7) | B(9) | B(11) | B(13) | B(24))

void bt_filter_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	for (unsigned i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		if (masks[i].leaf != leaf || (masks[i].subleaf != ANY && masks[i].subleaf != subleaf))
			continue;
		for (unsigned r = 0; r < 4; r++)
			regs[r] &= ~masks[i].clear[r];
	}
	if (leaf == 0xd && subleaf == 0) {
		regs[0] &= (uint32_t)bt_xsave_mask;
		regs[3] = 0;
	} else if (leaf == 0xd && subleaf >= 2 && (subleaf >= 8 || !(bt_xsave_mask >> subleaf & 1))) {
		regs[0] = regs[1] = regs[2] = regs[3] = 0;
	} else if (leaf == 0x40000001) {
		regs[0] &= PV_FEATURES;
		regs[1] = regs[2] = regs[3] = 0;
	}
}
