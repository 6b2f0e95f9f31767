/* SPDX-License-Identifier: MIT */
/*
 * The features that CPUID can show a guest.
 *
 * A bit that is not in this table is never set. Names are those of Linux's /proc/cpuinfo.
 *
 * Sources: Intel SDM volume 2A CPUID; AMD APM volume 3 appendix E; x86-64 psABI "Micro-Architecture
 * Levels"; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <string.h>

#include "base/util.h"
#include "machine/cpu_features.h"

/* Bits of CPUID.0x40000001.EAX (cpuid.rst). */
enum kvm_feature {
	KVM_FEATURE_CLOCKSOURCE = 0,
	KVM_FEATURE_NOP_IO_DELAY = 1,
	KVM_FEATURE_CLOCKSOURCE2 = 3,
	KVM_FEATURE_STEAL_TIME = 5,
	KVM_FEATURE_PV_EOI = 6,
	KVM_FEATURE_PV_UNHALT = 7,
	KVM_FEATURE_PV_TLB_FLUSH = 9,
	KVM_FEATURE_PV_SEND_IPI = 11,
	KVM_FEATURE_PV_SCHED_YIELD = 13,
	KVM_FEATURE_CLOCKSOURCE_STABLE = 24,
};

#define LODGE_ALL BY_LODGE, LEVEL_ALL
#define HOST(level) BY_HOST, LEVEL_##level
#define L1 1, CPUID_NO_SUBLEAF
#define L6 6, CPUID_NO_SUBLEAF
#define L7 7, 0
#define L7_1 7, 1
#define LD_1 0xd, 1
#define LKVM KVM_FEATURES_LEAF, CPUID_NO_SUBLEAF
#define LX1 0x80000001u, CPUID_NO_SUBLEAF
#define LX7 0x80000007u, CPUID_NO_SUBLEAF
#define LX8 0x80000008u, CPUID_NO_SUBLEAF
#define LX21 0x80000021u, CPUID_NO_SUBLEAF

/* clang-format off */
const struct cpu_feature cpu_features[] = {
	{ "fpu", L1, EDX, 0, HOST(V1) },
	{ "vme", L1, EDX, 1, LODGE_ALL },
	{ "de", L1, EDX, 2, LODGE_ALL },
	{ "pse", L1, EDX, 3, LODGE_ALL },
	{ "tsc", L1, EDX, 4, LODGE_ALL },
	{ "msr", L1, EDX, 5, LODGE_ALL },
	{ "pae", L1, EDX, 6, LODGE_ALL },
	{ "mce", L1, EDX, 7, LODGE_ALL },
	{ "cx8", L1, EDX, 8, HOST(V1) },
	{ "apic", L1, EDX, 9, LODGE_ALL },
	{ "sep", L1, EDX, 11, LODGE_ALL },
	{ "mtrr", L1, EDX, 12, LODGE_ALL },
	{ "pge", L1, EDX, 13, LODGE_ALL },
	{ "mca", L1, EDX, 14, LODGE_ALL },
	{ "cmov", L1, EDX, 15, HOST(V1) },
	{ "pat", L1, EDX, 16, LODGE_ALL },
	{ "pse36", L1, EDX, 17, LODGE_ALL },
	{ "clflush", L1, EDX, 19, HOST(V1) },
	{ "mmx", L1, EDX, 23, HOST(V1) },
	{ "fxsr", L1, EDX, 24, HOST(V1) },
	{ "sse", L1, EDX, 25, HOST(V1) },
	{ "sse2", L1, EDX, 26, HOST(V1) },

	{ "pni", L1, ECX, 0, HOST(V2) },
	{ "pclmulqdq", L1, ECX, 1, HOST(HOST) },
	{ "ssse3", L1, ECX, 9, HOST(V2) },
	{ "fma", L1, ECX, 12, HOST(V3) },
	{ "cx16", L1, ECX, 13, HOST(V2) },
	{ "pcid", L1, ECX, 17, LODGE_ALL },
	{ "sse4_1", L1, ECX, 19, HOST(V2) },
	{ "sse4_2", L1, ECX, 20, HOST(V2) },
	{ "x2apic", L1, ECX, 21, LODGE_ALL },
	{ "movbe", L1, ECX, 22, HOST(V3) },
	{ "popcnt", L1, ECX, 23, HOST(V2) },
	{ "tsc_deadline_timer", L1, ECX, 24, LODGE_ALL },
	{ "aes", L1, ECX, 25, HOST(HOST) },
	{ "xsave", L1, ECX, 26, HOST(V3) },
	{ "avx", L1, ECX, 28, HOST(V3) },
	{ "f16c", L1, ECX, 29, HOST(V3) },
	{ "rdrand", L1, ECX, 30, HOST(HOST) },
	{ "hypervisor", L1, ECX, 31, LODGE_ALL },

	{ "arat", L6, EAX, 2, LODGE_ALL },

	{ "fsgsbase", L7, EBX, 0, LODGE_ALL },
	{ "tsc_adjust", L7, EBX, 1, LODGE_ALL },
	{ "bmi1", L7, EBX, 3, HOST(V3) },
	{ "avx2", L7, EBX, 5, HOST(V3) },
	{ "fdp_excptn_only", L7, EBX, 6, HOST(HOST) },
	{ "smep", L7, EBX, 7, LODGE_ALL },
	{ "bmi2", L7, EBX, 8, HOST(V3) },
	{ "erms", L7, EBX, 9, HOST(HOST) },
	{ "invpcid", L7, EBX, 10, LODGE_ALL },
	{ "zero_fcs_fds", L7, EBX, 13, HOST(HOST) },
	{ "avx512f", L7, EBX, 16, HOST(V4) },
	{ "avx512dq", L7, EBX, 17, HOST(V4) },
	{ "rdseed", L7, EBX, 18, HOST(HOST) },
	{ "adx", L7, EBX, 19, HOST(HOST) },
	{ "smap", L7, EBX, 20, LODGE_ALL },
	{ "avx512ifma", L7, EBX, 21, HOST(HOST) },
	{ "clflushopt", L7, EBX, 23, HOST(HOST) },
	{ "clwb", L7, EBX, 24, HOST(HOST) },
	{ "avx512cd", L7, EBX, 28, HOST(V4) },
	{ "sha_ni", L7, EBX, 29, HOST(HOST) },
	{ "avx512bw", L7, EBX, 30, HOST(V4) },
	{ "avx512vl", L7, EBX, 31, HOST(V4) },

	{ "avx512vbmi", L7, ECX, 1, HOST(HOST) },
	{ "umip", L7, ECX, 2, LODGE_ALL },
	{ "avx512_vbmi2", L7, ECX, 6, HOST(HOST) },
	{ "gfni", L7, ECX, 8, HOST(HOST) },
	{ "vaes", L7, ECX, 9, HOST(HOST) },
	{ "vpclmulqdq", L7, ECX, 10, HOST(HOST) },
	{ "avx512_vnni", L7, ECX, 11, HOST(HOST) },
	{ "avx512_bitalg", L7, ECX, 12, HOST(HOST) },
	{ "avx512_vpopcntdq", L7, ECX, 14, HOST(HOST) },
	{ "rdpid", L7, ECX, 22, BY_LODGE, LEVEL_HOST },
	{ "cldemote", L7, ECX, 25, HOST(HOST) },
	{ "movdiri", L7, ECX, 27, HOST(HOST) },
	{ "movdir64b", L7, ECX, 28, HOST(HOST) },

	{ "avx512_4vnniw", L7, EDX, 2, HOST(HOST) },
	{ "avx512_4fmaps", L7, EDX, 3, HOST(HOST) },
	{ "fsrm", L7, EDX, 4, HOST(HOST) },
	{ "avx512_vp2intersect", L7, EDX, 8, HOST(HOST) },
	{ "serialize", L7, EDX, 14, HOST(HOST) },
	{ "avx512_fp16", L7, EDX, 23, HOST(HOST) },
	{ "arch_capabilities", L7, EDX, 29, BY_HOST, LEVEL_ALL },

	{ "sha512", L7_1, EAX, 0, HOST(HOST) },
	{ "sm3", L7_1, EAX, 1, HOST(HOST) },
	{ "sm4", L7_1, EAX, 2, HOST(HOST) },
	{ "avx_vnni", L7_1, EAX, 4, HOST(HOST) },
	{ "avx512_bf16", L7_1, EAX, 5, HOST(HOST) },
	{ "fzrm", L7_1, EAX, 10, HOST(HOST) },
	{ "fsrs", L7_1, EAX, 11, HOST(HOST) },
	{ "fsrc", L7_1, EAX, 12, HOST(HOST) },
	{ "avx_ifma", L7_1, EAX, 23, HOST(HOST) },
	{ "avx_vnni_int8", L7_1, EDX, 4, HOST(HOST) },
	{ "avx_ne_convert", L7_1, EDX, 5, HOST(HOST) },
	{ "avx_vnni_int16", L7_1, EDX, 10, HOST(HOST) },

	{ "xsaveopt", LD_1, EAX, 0, HOST(HOST) },
	{ "xsavec", LD_1, EAX, 1, HOST(HOST) },
	{ "xgetbv1", LD_1, EAX, 2, HOST(HOST) },
	{ "xsaves", LD_1, EAX, 3, HOST(NONE) },

	{ "kvmclock_old", LKVM, EAX, KVM_FEATURE_CLOCKSOURCE, LODGE_ALL },
	{ "kvm_nopiodelay", LKVM, EAX, KVM_FEATURE_NOP_IO_DELAY, LODGE_ALL },
	{ "kvmclock", LKVM, EAX, KVM_FEATURE_CLOCKSOURCE2, LODGE_ALL },
	{ "kvm_steal_time", LKVM, EAX, KVM_FEATURE_STEAL_TIME, LODGE_ALL },
	{ "kvm_pv_eoi", LKVM, EAX, KVM_FEATURE_PV_EOI, LODGE_ALL },
	{ "kvm_pv_unhalt", LKVM, EAX, KVM_FEATURE_PV_UNHALT, LODGE_ALL },
	{ "kvm_pv_tlb_flush", LKVM, EAX, KVM_FEATURE_PV_TLB_FLUSH, LODGE_ALL },
	{ "kvm_pv_ipi", LKVM, EAX, KVM_FEATURE_PV_SEND_IPI, LODGE_ALL },
	{ "kvm_pv_sched_yield", LKVM, EAX, KVM_FEATURE_PV_SCHED_YIELD, LODGE_ALL },
	{ "kvmclock_stable", LKVM, EAX, KVM_FEATURE_CLOCKSOURCE_STABLE, LODGE_ALL },

	{ "lahf_lm", LX1, ECX, 0, HOST(V2) },
	{ "abm", LX1, ECX, 5, HOST(V3) },
	{ "sse4a", LX1, ECX, 6, HOST(HOST) },
	{ "misalignsse", LX1, ECX, 7, HOST(HOST) },
	{ "3dnowprefetch", LX1, ECX, 8, HOST(HOST) },
	{ "topoext", LX1, ECX, 22, HOST(HOST) },
	{ "syscall", LX1, EDX, 11, LODGE_ALL },
	{ "nx", LX1, EDX, 20, LODGE_ALL },
	{ "mmxext", LX1, EDX, 22, HOST(HOST) },
	{ "fxsr_opt", LX1, EDX, 25, HOST(HOST) },
	{ "pdpe1gb", LX1, EDX, 26, LODGE_ALL },
	{ "rdtscp", LX1, EDX, 27, LODGE_ALL },
	{ "lm", LX1, EDX, 29, LODGE_ALL },
	/* The TSC is the host's: constant rate and never stopping only if the host's is. */
	{ "nonstop_tsc", LX7, EDX, 8, BY_HOST, LEVEL_ALL },

	{ "clzero", LX8, EBX, 0, HOST(HOST) },
	{ "xsaveerptr", LX8, EBX, 2, HOST(HOST) },
	{ "wbnoinvd", LX8, EBX, 9, HOST(HOST) },
	{ "amd_ssb_no", LX8, EBX, 26, HOST(HOST) },
	{ "btc_no", LX8, EBX, 29, HOST(HOST) },

	{ "lfence_rdtsc", LX21, EAX, 2, BY_HOST, LEVEL_ALL },
	{ "srso_no", LX21, EAX, 29, BY_HOST, LEVEL_ALL },
	{ "srso_user_kernel_no", LX21, EAX, 30, BY_HOST, LEVEL_ALL },
};
/* clang-format on */

const unsigned cpu_feature_count = ARRAY_SIZE(cpu_features);
_Static_assert(ARRAY_SIZE(cpu_features) <= CPU_FEATURE_MAX, "too many features");

/* Without the second, the first makes no sense: it goes too (SDM vol. 1, 13-15). Ordered. */
const char *const cpu_feature_dependencies[][2] = {
	{ "sse", "fxsr" },
	{ "sse2", "sse" },
	{ "pni", "sse2" },
	{ "ssse3", "pni" },
	{ "sse4_1", "ssse3" },
	{ "sse4_2", "sse4_1" },
	{ "aes", "sse2" },
	{ "pclmulqdq", "sse2" },
	{ "sha_ni", "sse2" },
	{ "gfni", "sse2" },
	{ "avx", "xsave" },
	{ "xsaveopt", "xsave" },
	{ "xsavec", "xsave" },
	{ "xgetbv1", "xsave" },
	{ "xsaves", "xsavec" },
	{ "xsaveerptr", "xsave" },
	{ "fma", "avx" },
	{ "f16c", "avx" },
	{ "avx2", "avx" },
	{ "vaes", "avx" },
	{ "vpclmulqdq", "avx" },
	{ "avx_vnni", "avx2" },
	{ "avx_ifma", "avx2" },
	{ "avx_vnni_int8", "avx2" },
	{ "avx_ne_convert", "avx2" },
	{ "avx_vnni_int16", "avx2" },
	{ "sha512", "avx2" },
	{ "sm3", "avx" },
	{ "sm4", "avx2" },
	{ "avx512f", "avx2" },
	{ "avx512dq", "avx512f" },
	{ "avx512ifma", "avx512f" },
	{ "avx512cd", "avx512f" },
	{ "avx512bw", "avx512f" },
	{ "avx512vl", "avx512f" },
	{ "avx512vbmi", "avx512bw" },
	{ "avx512_vbmi2", "avx512bw" },
	{ "avx512_vnni", "avx512f" },
	{ "avx512_bitalg", "avx512bw" },
	{ "avx512_vpopcntdq", "avx512f" },
	{ "avx512_4vnniw", "avx512f" },
	{ "avx512_4fmaps", "avx512f" },
	{ "avx512_vp2intersect", "avx512f" },
	{ "avx512_fp16", "avx512bw" },
	{ "avx512_bf16", "avx512f" },
	{ "tsc_deadline_timer", "apic" },
	{ "x2apic", "apic" },
	{ "arat", "apic" },
	{ "invpcid", "pcid" },
	{ "kvm_pv_tlb_flush", "kvm_steal_time" },
	{ "kvmclock_stable", "kvmclock" },
};

const unsigned cpu_feature_dependency_count = ARRAY_SIZE(cpu_feature_dependencies);

/* Other spellings that people know from QEMU and the manuals. */
static const char *const aliases[][2] = {
	{ "sse3", "pni" },
	{ "sse4.1", "sse4_1" },
	{ "sse4.2", "sse4_2" },
	{ "lzcnt", "abm" },
	{ "tsc-deadline", "tsc_deadline_timer" },
	{ "sha-ni", "sha_ni" },
	{ "invtsc", "nonstop_tsc" },
	{ "arch-capabilities", "arch_capabilities" },
	{ "cmpxchg16b", "cx16" },
	{ "kvm-steal-time", "kvm_steal_time" },
};

/* Features of real CPUs that guests do not get. */
static const char *const withheld[] = {
	"amx_bf16", "amx_fp16", "amx_int8", "amx_tile",   "fma4",  "hle",     "ibt", "la57",
	"monitor",  "mpx",      "mwaitx",   "pku",        "ospke", "rtm",     "sgx", "shstk",
	"smx",      "svm",      "tbm",      "user_shstk", "vmx",   "waitpkg", "xop",
};

int cpu_feature_find(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++)
		if (strlen(aliases[i][0]) == len && memcmp(aliases[i][0], name, len) == 0) {
			name = aliases[i][1];
			len = strlen(name);
			break;
		}
	for (unsigned i = 0; i < cpu_feature_count; i++)
		if (strlen(cpu_features[i].name) == len &&
		    memcmp(cpu_features[i].name, name, len) == 0)
			return (int)i;
	return -1;
}

const char *cpu_feature_withheld(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(withheld); i++)
		if (strlen(withheld[i]) == len && memcmp(withheld[i], name, len) == 0)
			return withheld[i];
	return NULL;
}
