/* SPDX-License-Identifier: MIT */
/*
 * CPU models: the CPUID leaves of the guest's CPUs.
 *
 * One table names every feature bit Lodge lets a guest see; a bit that is not in the table is never
 * set. A model is a choice of rows: `host` takes all rows that are on by default, `x86-64-vN` the rows
 * up to that level of the x86-64 psABI plus the system features that Lodge itself provides. A row is
 * either the host's (the guest's instruction is executed by the host's own, so the host must have it)
 * or Lodge's (privileged behaviour that an engine implements whatever the host has). The engine's
 * filter has the last word on every leaf.
 *
 * What is deliberately absent: PKU, CET, LA57, SVM, VMX, RTM/HLE, MPX, AMX, SGX, MONITOR/MWAIT,
 * performance counters, XOP/FMA4/TBM. Immunities (RDCL_NO and the like) are the host's own, so that the
 * guest's kernel chooses the mitigations that the real CPU needs and no others.
 *
 * Sources: Intel SDM volume 2A CPUID; AMD APM volume 3 appendix E; x86-64 psABI "Micro-Architecture
 * Levels"; Linux Documentation/virt/kvm/x86/cpuid.rst for leaves 0x40000000 onwards. Names are
 * those of Linux's /proc/cpuinfo.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/cpu_model.h"

#define NO_SUBLEAF 0xffffffffu
#define KVM_LEAF 0x40000000u
#define KVM_FEATURES_LEAF 0x40000001u
#define KVM_TIMING_LEAF 0x40000010u
#define MAXPHYADDR_MIN 36
#define MAXPHYADDR_MAX 46

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

enum reg { EAX, EBX, ECX, EDX };

enum provider {
	BY_HOST,  /* needs the host's instruction */
	BY_LODGE, /* implemented by the engine or a device model */
};

/* The lowest model that has a feature. */
enum level {
	LEVEL_ALL = 0, /* every model */
	LEVEL_V1 = 1,
	LEVEL_V2,
	LEVEL_V3,
	LEVEL_V4,
	LEVEL_HOST, /* only `host`, or on request */
	LEVEL_NONE, /* only on request */
};

struct feature {
	const char *name;
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
	uint8_t provider, level;
};

#define LODGE_ALL BY_LODGE, LEVEL_ALL
#define HOST(level) BY_HOST, LEVEL_##level
#define L1 1, NO_SUBLEAF
#define L6 6, NO_SUBLEAF
#define L7 7, 0
#define L7_1 7, 1
#define LD_1 0xd, 1
#define LKVM KVM_FEATURES_LEAF, NO_SUBLEAF
#define LX1 0x80000001u, NO_SUBLEAF
#define LX7 0x80000007u, NO_SUBLEAF
#define LX8 0x80000008u, NO_SUBLEAF
#define LX21 0x80000021u, NO_SUBLEAF

static const struct feature features[] = {
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

#define FEATURE_COUNT ARRAY_SIZE(features)

/* Without the second, the first makes no sense: it goes too (SDM vol. 1, 13-15). Ordered. */
static const char *const dependencies[][2] = {
	{ "sse", "fxsr" },	   { "sse2", "sse" },		{ "pni", "sse2" },
	{ "ssse3", "pni" },	   { "sse4_1", "ssse3" },	{ "sse4_2", "sse4_1" },
	{ "aes", "sse2" },	   { "pclmulqdq", "sse2" },	{ "sha_ni", "sse2" },
	{ "gfni", "sse2" },	   { "avx", "xsave" },		{ "xsaveopt", "xsave" },
	{ "xsavec", "xsave" },	   { "xgetbv1", "xsave" },	{ "xsaves", "xsavec" },
	{ "xsaveerptr", "xsave" }, { "fma", "avx" },		{ "f16c", "avx" },
	{ "avx2", "avx" },	   { "vaes", "avx" },		{ "vpclmulqdq", "avx" },
	{ "avx_vnni", "avx2" },	   { "avx_ifma", "avx2" },	{ "avx_vnni_int8", "avx2" },
	{ "avx_ne_convert", "avx2" }, { "avx_vnni_int16", "avx2" }, { "sha512", "avx2" },
	{ "sm3", "avx" },	   { "sm4", "avx2" },		{ "avx512f", "avx2" },
	{ "avx512dq", "avx512f" }, { "avx512ifma", "avx512f" }, { "avx512cd", "avx512f" },
	{ "avx512bw", "avx512f" }, { "avx512vl", "avx512f" },	{ "avx512vbmi", "avx512bw" },
	{ "avx512_vbmi2", "avx512bw" }, { "avx512_vnni", "avx512f" }, { "avx512_bitalg", "avx512bw" },
	{ "avx512_vpopcntdq", "avx512f" }, { "avx512_4vnniw", "avx512f" }, { "avx512_4fmaps", "avx512f" },
	{ "avx512_vp2intersect", "avx512f" }, { "avx512_fp16", "avx512bw" }, { "avx512_bf16", "avx512f" },
	{ "tsc_deadline_timer", "apic" }, { "x2apic", "apic" }, { "arat", "apic" },
	{ "invpcid", "pcid" },	   { "kvm_pv_tlb_flush", "kvm_steal_time" },
	{ "kvmclock_stable", "kvmclock" },
};

/* Other spellings that people know from QEMU and the manuals. */
static const char *const aliases[][2] = {
	{ "sse3", "pni" },	   { "sse4.1", "sse4_1" },	 { "sse4.2", "sse4_2" },
	{ "lzcnt", "abm" },	   { "tsc-deadline", "tsc_deadline_timer" },
	{ "sha-ni", "sha_ni" },	   { "invtsc", "nonstop_tsc" },	 { "arch-capabilities", "arch_capabilities" },
	{ "cmpxchg16b", "cx16" },  { "kvm-steal-time", "kvm_steal_time" },
};

/* Features of real CPUs that guests do not get. */
static const char *const withheld[] = {
	"amx_bf16", "amx_fp16", "amx_int8", "amx_tile", "fma4",	 "hle", "ibt", "la57", "monitor", "mpx", "mwaitx",
	"pku",	    "ospke",	"rtm",	    "sgx",	"shstk", "smx", "svm", "tbm",  "user_shstk", "vmx", "waitpkg",
	"xop",
};

static const char *const models[] = { "host", "x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4" };
static const uint8_t model_levels[] = { LEVEL_HOST, LEVEL_V1, LEVEL_V2, LEVEL_V3, LEVEL_V4 };

/* Why a feature is on: decides whether its absence is an error. */
enum state { OFF, ON_IF_HAD, ON_BY_MODEL, ON_BY_USER };

/* ---- the host ---- */

/* The host's leaves, each read once. */
struct host_leaf {
	uint32_t leaf, subleaf;
	uint32_t regs[4];
};

struct host {
	const struct cpu_source *source;
	struct host_leaf cache[CPUID_LEAF_MAX];
	unsigned count;
	uint32_t max_basic, max_extended;
	bool is_amd;
};

static const uint32_t *host_leaf(struct host *host, uint32_t leaf, uint32_t subleaf)
{
	static const uint32_t zero[4];
	struct host_leaf *entry;

	if (subleaf == NO_SUBLEAF)
		subleaf = 0;
	if (leaf >= KVM_LEAF && leaf < 0x80000000u)
		return zero;
	if (leaf > (leaf >= 0x80000000u ? host->max_extended : host->max_basic))
		return zero;
	for (unsigned i = 0; i < host->count; i++)
		if (host->cache[i].leaf == leaf && host->cache[i].subleaf == subleaf)
			return host->cache[i].regs;
	if (host->count == ARRAY_SIZE(host->cache))
		return zero;
	entry = &host->cache[host->count++];
	entry->leaf = leaf;
	entry->subleaf = subleaf;
	host->source->cpuid(host->source->opaque, leaf, subleaf, entry->regs);
	return entry->regs;
}

static void host_init(struct host *host, const struct cpu_source *source)
{
	uint32_t regs[4];

	host->source = source;
	host->count = 0;
	source->cpuid(source->opaque, 0, 0, regs);
	host->max_basic = regs[EAX];
	host->is_amd = cpu_source_is_amd(source);
	source->cpuid(source->opaque, 0x80000000u, 0, regs);
	host->max_extended = regs[EAX];
}

static bool host_has(struct host *host, const struct feature *f)
{
	static const char *const needs_zmm = "avx512";

	if (f->provider == BY_LODGE)
		return true;
	if (strcmp(f->name, "arch_capabilities") == 0)
		return host->source->arch_capabilities != 0;
	/* Leaf 7 subleaf 1 exists only if subleaf 0 says so. */
	if (f->leaf == 7 && f->subleaf == 1 && host_leaf(host, 7, 0)[EAX] < 1)
		return false;
	if (!(host_leaf(host, f->leaf, f->subleaf)[f->reg] >> f->bit & 1))
		return false;
	/* Vector state that the host's system has not enabled cannot be used. */
	if (strncmp(f->name, needs_zmm, strlen(needs_zmm)) == 0)
		return (host->source->xcr0 & 0xe6) == 0xe6;
	if (strcmp(f->name, "avx") == 0)
		return (host->source->xcr0 & 6) == 6;
	if (strcmp(f->name, "xsave") == 0)
		return host->source->xcr0 != 0;
	return true;
}

/* ---- names ---- */

static int feature_find(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++)
		if (strlen(aliases[i][0]) == len && memcmp(aliases[i][0], name, len) == 0) {
			name = aliases[i][1];
			len = strlen(name);
			break;
		}
	for (unsigned i = 0; i < FEATURE_COUNT; i++)
		if (strlen(features[i].name) == len && memcmp(features[i].name, name, len) == 0)
			return (int)i;
	return -1;
}

/* Edit distance of two short words, at most `len` of a (Levenshtein). */
static unsigned edit_distance(const char *a, size_t alen, const char *b)
{
	size_t blen = strlen(b);
	unsigned row[33];

	if (alen > 32 || blen > 32)
		return 99;
	for (unsigned j = 0; j <= blen; j++)
		row[j] = j;
	for (unsigned i = 1; i <= alen; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= blen; j++) {
			unsigned replace = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = MIN(MIN(row[j] + 1, row[j - 1] + 1), replace);
		}
	}
	return row[blen];
}

static int unknown_feature(const char *name, size_t len, struct error *err)
{
	char close[160] = "";
	size_t used = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(withheld); i++)
		if (strlen(withheld[i]) == len && memcmp(withheld[i], name, len) == 0)
			return error_set(err, 0, "CPU feature '%s' is not given to guests", withheld[i]);
	for (unsigned distance = 1; distance <= 2 && !used; distance++)
		for (unsigned i = 0; i < FEATURE_COUNT; i++) {
			const char *candidate = features[i].name;
			bool prefix = len >= 3 && distance == 2 && strncmp(candidate, name, len) == 0;

			if (!prefix && edit_distance(name, len, candidate) != distance)
				continue;
			if (used + strlen(candidate) + 3 > sizeof(close))
				break;
			used += (size_t)snprintf(close + used, sizeof(close) - used, "%s%s",
						 used ? ", " : "", candidate);
		}
	return error_set(err, 0, "unknown CPU feature '%.*s'%s%s%s", (int)MIN(len, (size_t)64), name,
			 used ? " (close: " : "", close, used ? ")" : "; --cpu help lists them");
}

void cpu_model_print_names(FILE *out)
{
	unsigned column = 0;

	fprintf(out, "Models:\n ");
	for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
		fprintf(out, " %s", models[i]);
	fprintf(out, "\nFeatures (add with ,+NAME, remove with ,-NAME):\n");
	for (unsigned i = 0; i < FEATURE_COUNT; i++) {
		unsigned width = (unsigned)strlen(features[i].name) + 1;

		if (column + width > 78) {
			fprintf(out, "\n");
			column = 0;
		}
		fprintf(out, "%s%s", column ? " " : "  ", features[i].name);
		column += column ? width : width + 1;
	}
	fprintf(out, "\n");
}

/* ---- choosing features ---- */

static int choose_model(const char *spec, size_t len, uint8_t chosen[FEATURE_COUNT],
			struct error *err)
{
	uint8_t level = 0;
	bool found = false;

	for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
		if (strlen(models[i]) == len && memcmp(models[i], spec, len) == 0) {
			level = model_levels[i];
			found = true;
		}
	if (!found)
		return error_set(err, 0,
				 "unknown CPU model '%.*s' (there are host, x86-64-v1, x86-64-v2, "
				 "x86-64-v3 and x86-64-v4)",
				 (int)MIN(len, (size_t)64), spec);
	for (unsigned i = 0; i < FEATURE_COUNT; i++) {
		if (features[i].level > level)
			chosen[i] = OFF;
		else if (features[i].level >= LEVEL_V1 && features[i].level <= LEVEL_V4 &&
			 level <= LEVEL_V4)
			chosen[i] = ON_BY_MODEL;
		else
			chosen[i] = ON_IF_HAD;
	}
	return 0;
}

static void drop_dependents(uint8_t chosen[FEATURE_COUNT])
{
	for (unsigned i = 0; i < ARRAY_SIZE(dependencies); i++) {
		int dependent = feature_find(dependencies[i][0], strlen(dependencies[i][0]));
		int needed = feature_find(dependencies[i][1], strlen(dependencies[i][1]));

		if (dependent >= 0 && needed >= 0 && chosen[needed] == OFF)
			chosen[dependent] = OFF;
	}
}

static int choose_features(struct host *host, const char *spec, uint8_t chosen[FEATURE_COUNT],
			   struct error *err)
{
	const char *model = spec ? spec : "host";
	size_t len = strcspn(model, ",");
	const char *p = model + len;
	uint8_t asked[FEATURE_COUNT];

	if (choose_model(model, len, chosen, err))
		return -1;
	while (*p == ',') {
		const char *word = p + 1;
		bool add = *word == '+';
		int index;

		len = strcspn(word, ",");
		p = word + len;
		if (*word != '+' && *word != '-')
			return error_set(err, 0,
					 "CPU feature '%.*s' must be written +%.*s or -%.*s",
					 (int)MIN(len, (size_t)64), word, (int)MIN(len, (size_t)64),
					 word, (int)MIN(len, (size_t)64), word);
		index = feature_find(word + 1, len - 1);
		if (index < 0)
			return unknown_feature(word + 1, len - 1, err);
		chosen[index] = add ? ON_BY_USER : OFF;
	}
	for (unsigned i = 0; i < FEATURE_COUNT; i++) {
		if (chosen[i] == OFF || host_has(host, &features[i]))
			continue;
		if (chosen[i] == ON_BY_USER)
			return error_set(err, 0, "CPU feature '%s' is not in the host's CPU",
					 features[i].name);
		if (chosen[i] == ON_BY_MODEL)
			return error_set(err, 0,
					 "CPU model '%.*s' needs the feature '%s', which is not in "
					 "the host's CPU",
					 (int)strcspn(model, ","), model, features[i].name);
		chosen[i] = OFF;
	}
	memcpy(asked, chosen, sizeof(asked));
	drop_dependents(chosen);
	for (unsigned i = 0; i < FEATURE_COUNT; i++)
		if (asked[i] == ON_BY_USER && chosen[i] == OFF)
			return error_set(err, 0,
					 "CPU feature '%s' needs another one that is missing or was "
					 "removed",
					 features[i].name);
	return 0;
}

/* ---- leaves ---- */

struct builder {
	struct cpu_model *model;
	struct host host;
	uint8_t chosen[FEATURE_COUNT];
	unsigned cpus;
	unsigned apic_id_bits; /* bits of the APIC id that number the cores */
	const struct engine *engine;
};

static bool has(const struct builder *b, const char *name)
{
	int index = feature_find(name, strlen(name));

	return index >= 0 && b->chosen[index] != OFF;
}

/* Add a leaf: the given registers, plus the chosen feature bits of that leaf. */
static void add_leaf(struct builder *b, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
		     uint32_t ecx, uint32_t edx)
{
	uint32_t regs[4] = { eax, ebx, ecx, edx };

	if (b->model->count == CPUID_LEAF_MAX)
		return;
	for (unsigned i = 0; i < FEATURE_COUNT; i++)
		if (b->chosen[i] != OFF && features[i].leaf == leaf && features[i].subleaf == subleaf)
			regs[features[i].reg] |= BIT(features[i].bit);
	if (b->engine && b->engine->filter_cpuid)
		b->engine->filter_cpuid(leaf, subleaf == NO_SUBLEAF ? 0 : subleaf, regs);
	b->model->leaves[b->model->count++] = (struct cpuid_leaf){
		.leaf = leaf, .subleaf = subleaf,
		.eax = regs[EAX], .ebx = regs[EBX], .ecx = regs[ECX], .edx = regs[EDX],
	};
}

static struct cpuid_leaf *find_leaf(struct cpu_model *model, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < model->count; i++)
		if (model->leaves[i].leaf == leaf && model->leaves[i].subleaf == subleaf)
			return &model->leaves[i];
	return NULL;
}

/* The engine may have removed bits: bring `chosen` in line, so that what depends on them follows. */
static int apply_engine(struct builder *b, struct error *err)
{
	if (!b->engine || !b->engine->filter_cpuid)
		return 0;
	for (unsigned i = 0; i < FEATURE_COUNT; i++) {
		const struct feature *f = &features[i];
		uint32_t regs[4] = { 0 };

		if (b->chosen[i] == OFF)
			continue;
		regs[f->reg] = BIT(f->bit);
		b->engine->filter_cpuid(f->leaf, f->subleaf == NO_SUBLEAF ? 0 : f->subleaf, regs);
		if (regs[f->reg] >> f->bit & 1)
			continue;
		if (b->chosen[i] == ON_BY_USER)
			return error_set(err, 0, "CPU feature '%s' is not possible with engine '%s'",
					 f->name, b->engine->name);
		b->chosen[i] = OFF;
	}
	drop_dependents(b->chosen);
	return 0;
}

/* Leaf 4 and 0x8000001d: the host's caches, shared as in the guest: level 3 by all, the others by none. */
static void add_cache_leaves(struct builder *b, uint32_t leaf)
{
	for (uint32_t i = 0; i < 8; i++) {
		const uint32_t *regs = host_leaf(&b->host, leaf, i);
		uint32_t eax = regs[EAX] & 0x3ff;
		uint32_t sharing = (eax >> 5 & 7) >= 3 ? (1u << b->apic_id_bits) - 1 : 0;

		if ((eax & 0x1f) == 0) {
			add_leaf(b, leaf, i, 0, 0, 0, 0);
			break;
		}
		eax |= sharing << 14;
		if (leaf == 4)
			eax |= ((1u << b->apic_id_bits) - 1) << 26;
		add_leaf(b, leaf, i, eax, regs[EBX], regs[ECX], regs[EDX]);
	}
}

/* Leaf 0xd. EBX of subleaves 0 and 1 (the size in use now) is filled in by cpuid_query(). */
static void add_xsave_leaves(struct builder *b)
{
	uint64_t xcr0 = b->model->xcr0_valid;
	uint32_t size = 576;

	if (!has(b, "xsave"))
		return;
	for (unsigned i = 2; i < 32; i++) {
		const uint32_t *regs;

		if (!(xcr0 >> i & 1))
			continue;
		regs = host_leaf(&b->host, 0xd, i);
		size = MAX(size, regs[EBX] + regs[EAX]);
	}
	add_leaf(b, 0xd, 0, (uint32_t)xcr0, 0, size, (uint32_t)(xcr0 >> 32));
	add_leaf(b, 0xd, 1, 0, 0, 0, 0);
	for (unsigned i = 2; i < 32; i++) {
		const uint32_t *regs;

		if (!(xcr0 >> i & 1))
			continue;
		regs = host_leaf(&b->host, 0xd, i);
		add_leaf(b, 0xd, i, regs[EAX], regs[EBX], regs[ECX] & 2, 0);
	}
}

static void add_basic_leaves(struct builder *b, uint64_t tsc_hz)
{
	struct host *host = &b->host;
	const uint32_t *l0 = host_leaf(host, 0, NO_SUBLEAF), *l1 = host_leaf(host, 1, NO_SUBLEAF);
	uint32_t max = has(b, "xsave") ? 0xd : 0xb;
	uint32_t ht = b->cpus > 1 ? BIT(28) : 0;

	if (!host->is_amd && tsc_hz)
		max = 0x16;
	add_leaf(b, 0, NO_SUBLEAF, max, l0[EBX], l0[ECX], l0[EDX]);
	add_leaf(b, 1, NO_SUBLEAF, l1[EAX], (l1[EBX] & 0xff00) | b->cpus << 16, 0, ht);
	if (!host->is_amd) {
		const uint32_t *l2 = host_leaf(host, 2, NO_SUBLEAF);

		add_leaf(b, 2, NO_SUBLEAF, l2[EAX], l2[EBX], l2[ECX], l2[EDX]);
		add_cache_leaves(b, 4);
	}
	add_leaf(b, 5, NO_SUBLEAF, 0, 0, 0, 0);
	add_leaf(b, 6, NO_SUBLEAF, 0, 0, 0, 0);
	add_leaf(b, 7, 0, 1, 0, 0, 0);
	add_leaf(b, 7, 1, 0, 0, 0, 0);
	/* One package of cores with one thread each (SDM vol. 3, 9.9). EDX is the APIC id. */
	add_leaf(b, 0xb, 0, 0, 1, 1u << 8, 0);
	add_leaf(b, 0xb, 1, b->apic_id_bits, b->cpus, 2u << 8 | 1, 0);
	add_leaf(b, 0xb, 2, 0, 0, 2, 0);
	add_xsave_leaves(b);
	if (!host->is_amd && tsc_hz) {
		uint32_t mhz = (uint32_t)(tsc_hz / 1000000);

		/* TSC = crystal * EBX / EAX: a crystal of 1 MHz gives it exactly enough. */
		add_leaf(b, 0x15, NO_SUBLEAF, 1000, (uint32_t)(tsc_hz / 1000), 1000000, 0);
		add_leaf(b, 0x16, NO_SUBLEAF, mhz, mhz, 100, 0);
	}
}

static void add_kvm_leaves(struct builder *b, uint64_t tsc_hz, uint64_t apic_hz)
{
	if (!has(b, "hypervisor"))
		return;
	add_leaf(b, KVM_LEAF, NO_SUBLEAF, tsc_hz ? KVM_TIMING_LEAF : KVM_FEATURES_LEAF, 0x4b4d564b,
		 0x564b4d56, 0x4d);
	add_leaf(b, KVM_FEATURES_LEAF, NO_SUBLEAF, 0, 0, 0, 0);
	if (tsc_hz)
		add_leaf(b, KVM_TIMING_LEAF, NO_SUBLEAF, (uint32_t)(tsc_hz / 1000),
			 (uint32_t)(apic_hz / 1000), 0, 0);
}

static void add_extended_leaves(struct builder *b)
{
	struct host *host = &b->host;
	const uint32_t *l0 = host_leaf(host, 0x80000000u, NO_SUBLEAF);
	const uint32_t *x1 = host_leaf(host, 0x80000001u, NO_SUBLEAF);
	uint32_t max = 0x80000008u, amd_edx = 0, amd_ecx = 0, core_count = 0;

	if (host->is_amd)
		max = 0x80000021u;
	add_leaf(b, 0x80000000u, NO_SUBLEAF, max, host->is_amd ? l0[EBX] : 0,
		 host->is_amd ? l0[ECX] : 0, host->is_amd ? l0[EDX] : 0);
	if (host->is_amd) {
		/* AMD repeats these bits of leaf 1 (APM vol. 3, E.4.2). */
		const struct cpuid_leaf *l1 = find_leaf(b->model, 1, NO_SUBLEAF);

		amd_edx = l1 ? l1->edx & 0x0183f3ff : 0;
		if (b->cpus > 1)
			amd_ecx = BIT(1); /* CmpLegacy */
	}
	add_leaf(b, 0x80000001u, NO_SUBLEAF, host->is_amd ? x1[EAX] : 0, host->is_amd ? x1[EBX] : 0,
		 amd_ecx, amd_edx);
	for (uint32_t leaf = 0x80000002u; leaf <= 0x80000006u; leaf++) {
		const uint32_t *r = host_leaf(host, leaf, NO_SUBLEAF);

		add_leaf(b, leaf, NO_SUBLEAF, r[EAX], r[EBX], r[ECX], r[EDX]);
	}
	add_leaf(b, 0x80000007u, NO_SUBLEAF, 0, 0, 0, 0);
	if (host->is_amd)
		core_count = b->apic_id_bits << 12 | (b->cpus - 1);
	add_leaf(b, 0x80000008u, NO_SUBLEAF, b->model->maxphyaddr | 48 << 8, 0, core_count, 0);
	if (!host->is_amd)
		return;
	if (has(b, "topoext")) {
		add_cache_leaves(b, 0x8000001du);
		/* EAX: APIC id; EBX: core id in 7:0, threads per core - 1 in 15:8. */
		add_leaf(b, 0x8000001eu, NO_SUBLEAF, 0, 0, 0, 0);
	}
	add_leaf(b, 0x80000021u, NO_SUBLEAF, 0, 0, 0, 0);
}

/* What the control registers accept follows from the features. */
static void set_register_masks(struct builder *b)
{
	static const struct {
		const char *feature;
		uint64_t cr4, efer;
	} masks[] = {
		{ "vme", X86_CR4_VME | X86_CR4_PVI, 0 },
		{ "tsc", X86_CR4_TSD, 0 },
		{ "de", X86_CR4_DE, 0 },
		{ "pse", X86_CR4_PSE, 0 },
		{ "pae", X86_CR4_PAE, 0 },
		{ "mce", X86_CR4_MCE, 0 },
		{ "pge", X86_CR4_PGE, 0 },
		{ "msr", X86_CR4_PCE, 0 },
		{ "fxsr", X86_CR4_OSFXSR, 0 },
		{ "sse", X86_CR4_OSXMMEXCPT, 0 },
		{ "umip", X86_CR4_UMIP, 0 },
		{ "fsgsbase", X86_CR4_FSGSBASE, 0 },
		{ "pcid", X86_CR4_PCIDE, 0 },
		{ "xsave", X86_CR4_OSXSAVE, 0 },
		{ "smep", X86_CR4_SMEP, 0 },
		{ "smap", X86_CR4_SMAP, 0 },
		{ "syscall", 0, X86_EFER_SCE },
		{ "lm", 0, X86_EFER_LME | X86_EFER_LMA },
		{ "nx", 0, X86_EFER_NXE },
		{ "fxsr_opt", 0, X86_EFER_FFXSR },
	};
	struct cpu_model *model = b->model;

	model->cr4_valid = model->efer_valid = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(masks); i++)
		if (has(b, masks[i].feature)) {
			model->cr4_valid |= masks[i].cr4;
			model->efer_valid |= masks[i].efer;
		}
	model->xcr0_valid = 0;
	if (has(b, "xsave"))
		model->xcr0_valid = 3;
	if (has(b, "avx"))
		model->xcr0_valid |= 4;
	if (has(b, "avx512f"))
		model->xcr0_valid |= 0xe0;
	if (b->engine && b->engine->filter_cpuid) { /* leaf 0xd lists what XCR0 accepts */
		uint32_t regs[4] = { (uint32_t)model->xcr0_valid };

		b->engine->filter_cpuid(0xd, 0, regs);
		model->xcr0_valid &= regs[EAX];
	}
}

int cpu_model_build(struct cpu_model *model, const char *spec, unsigned cpus,
		    const struct cpu_source *source, const struct engine *engine, uint64_t tsc_hz,
		    uint64_t apic_hz, struct error *err)
{
	struct builder b = { .model = model, .cpus = cpus, .engine = engine };
	uint32_t physical;

	memset(model, 0, sizeof(*model));
	host_init(&b.host, source);
	if (choose_features(&b.host, spec, b.chosen, err) || apply_engine(&b, err))
		return -1;
	while (1u << b.apic_id_bits < cpus)
		b.apic_id_bits++;
	model->is_amd = b.host.is_amd;
	if (has(&b, "arch_capabilities"))
		model->arch_capabilities = source->arch_capabilities;
	physical = host_leaf(&b.host, 0x80000008u, NO_SUBLEAF)[EAX] & 0xff;
	model->maxphyaddr = (uint8_t)MIN(MAX(physical, MAXPHYADDR_MIN), MAXPHYADDR_MAX);
	set_register_masks(&b);
	add_basic_leaves(&b, tsc_hz);
	add_kvm_leaves(&b, tsc_hz, apic_hz);
	add_extended_leaves(&b);
	return 0;
}
