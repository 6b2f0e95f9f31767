/* SPDX-License-Identifier: MIT */
/*
 * CPU models: the CPUID leaves of the guest's CPUs.
 *
 * The table in cpu_features.c names every feature bit that Lodge lets a guest see. A model is a
 * choice of rows: `host` takes all rows that are on by default, `x86-64-vN` the rows up to that
 * level of the x86-64 psABI plus the system features that Lodge itself provides. A row is either
 * the host's (the guest's instruction is executed by the host's own, so the host must have it) or
 * Lodge's (privileged behaviour that an engine implements whatever the host has). The engine's
 * filter has the last word on every leaf.
 *
 * What is deliberately absent: PKU, CET, LA57, SVM, VMX, RTM/HLE, MPX, AMX, SGX, MONITOR/MWAIT,
 * performance counters, XOP/FMA4/TBM. Immunities (RDCL_NO and the like) are the host's own, so
 * that the guest's kernel chooses the mitigations that the real CPU needs and no others.
 *
 * Sources: Intel SDM volume 2A CPUID; AMD APM volume 3 appendix E; x86-64 psABI "Micro-Architecture
 * Levels"; Linux Documentation/virt/kvm/x86/cpuid.rst for leaves 0x40000000 onwards. Names are
 * those of Linux's /proc/cpuinfo.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/cpu_features.h"
#include "machine/cpu_model.h"

#define MAXPHYADDR_MIN 36
#define MAXPHYADDR_MAX 46

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

	if (subleaf == CPUID_NO_SUBLEAF)
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

static bool host_has(struct host *host, const struct cpu_feature *f)
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

	if (cpu_feature_withheld(name, len))
		return error_set(err, 0, "CPU feature '%s' is not given to guests",
				 cpu_feature_withheld(name, len));
	for (unsigned distance = 1; distance <= 2 && !used; distance++)
		for (unsigned i = 0; i < cpu_feature_count; i++) {
			const char *candidate = cpu_features[i].name;
			bool prefix = len >= 3 && distance == 2 &&
				      strncmp(candidate, name, len) == 0;

			if (!prefix && edit_distance(name, len, candidate) != distance)
				continue;
			if (used + strlen(candidate) + 3 > sizeof(close))
				break;
			used += (size_t)snprintf(close + used, sizeof(close) - used, "%s%s",
						 used ? ", " : "", candidate);
		}
	return error_set(err, 0, "unknown CPU feature '%.*s'%s%s%s", (int)MIN(len, (size_t)64),
			 name, used ? " (close: " : "", close,
			 used ? ")" : "; --cpu help lists them");
}

void cpu_model_print_names(FILE *out)
{
	unsigned column = 0;

	fprintf(out, "Models:\n ");
	for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
		fprintf(out, " %s", models[i]);
	fprintf(out, "\nFeatures (add with ,+NAME, remove with ,-NAME):\n");
	for (unsigned i = 0; i < cpu_feature_count; i++) {
		unsigned width = (unsigned)strlen(cpu_features[i].name) + 1;

		if (column + width > 78) {
			fprintf(out, "\n");
			column = 0;
		}
		fprintf(out, "%s%s", column ? " " : "  ", cpu_features[i].name);
		column += column ? width : width + 1;
	}
	fprintf(out, "\n");
}

/* ---- choosing features ---- */

static int choose_model(const char *spec, size_t len, uint8_t chosen[CPU_FEATURE_MAX],
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
	for (unsigned i = 0; i < cpu_feature_count; i++) {
		if (cpu_features[i].level > level)
			chosen[i] = OFF;
		else if (cpu_features[i].level >= LEVEL_V1 && cpu_features[i].level <= LEVEL_V4 &&
			 level <= LEVEL_V4)
			chosen[i] = ON_BY_MODEL;
		else
			chosen[i] = ON_IF_HAD;
	}
	return 0;
}

static void drop_dependents(uint8_t chosen[CPU_FEATURE_MAX])
{
	for (unsigned i = 0; i < cpu_feature_dependency_count; i++) {
		int dependent = cpu_feature_find(cpu_feature_dependencies[i][0],
						 strlen(cpu_feature_dependencies[i][0]));
		int needed = cpu_feature_find(cpu_feature_dependencies[i][1],
					      strlen(cpu_feature_dependencies[i][1]));

		if (dependent >= 0 && needed >= 0 && chosen[needed] == OFF)
			chosen[dependent] = OFF;
	}
}

static int choose_features(struct host *host, const char *spec, uint8_t chosen[CPU_FEATURE_MAX],
			   struct error *err)
{
	const char *model = spec ? spec : "host";
	size_t len = strcspn(model, ",");
	const char *p = model + len;
	uint8_t asked[CPU_FEATURE_MAX];

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
		index = cpu_feature_find(word + 1, len - 1);
		if (index < 0)
			return unknown_feature(word + 1, len - 1, err);
		chosen[index] = add ? ON_BY_USER : OFF;
	}
	for (unsigned i = 0; i < cpu_feature_count; i++) {
		if (chosen[i] == OFF || host_has(host, &cpu_features[i]))
			continue;
		if (chosen[i] == ON_BY_USER)
			return error_set(err, 0, "CPU feature '%s' is not in the host's CPU",
					 cpu_features[i].name);
		if (chosen[i] == ON_BY_MODEL)
			return error_set(err, 0,
					 "CPU model '%.*s' needs the feature '%s', which is not in "
					 "the host's CPU",
					 (int)strcspn(model, ","), model, cpu_features[i].name);
		chosen[i] = OFF;
	}
	memcpy(asked, chosen, sizeof(asked));
	drop_dependents(chosen);
	for (unsigned i = 0; i < cpu_feature_count; i++)
		if (asked[i] == ON_BY_USER && chosen[i] == OFF)
			return error_set(
				err, 0,
				"CPU feature '%s' needs another one that is missing or was "
				"removed",
				cpu_features[i].name);
	return 0;
}

/* ---- leaves ---- */

struct builder {
	struct cpu_model *model;
	struct host host;
	uint8_t chosen[CPU_FEATURE_MAX];
	unsigned cpus;
	unsigned apic_id_bits; /* bits of the APIC id that number the cores */
	const struct engine *engine;
};

static bool has(const struct builder *b, const char *name)
{
	int index = cpu_feature_find(name, strlen(name));

	return index >= 0 && b->chosen[index] != OFF;
}

/* Add a leaf: the given registers, plus the chosen feature bits of that leaf. */
static void add_leaf(struct builder *b, uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx,
		     uint32_t ecx, uint32_t edx)
{
	uint32_t regs[4] = { eax, ebx, ecx, edx };

	if (b->model->count == CPUID_LEAF_MAX)
		return;
	for (unsigned i = 0; i < cpu_feature_count; i++)
		if (b->chosen[i] != OFF && cpu_features[i].leaf == leaf &&
		    cpu_features[i].subleaf == subleaf)
			regs[cpu_features[i].reg] |= BIT(cpu_features[i].bit);
	if (b->engine && b->engine->filter_cpuid)
		b->engine->filter_cpuid(leaf, subleaf == CPUID_NO_SUBLEAF ? 0 : subleaf, regs);
	b->model->leaves[b->model->count++] = (struct cpuid_leaf){
		.leaf = leaf,
		.subleaf = subleaf,
		.eax = regs[EAX],
		.ebx = regs[EBX],
		.ecx = regs[ECX],
		.edx = regs[EDX],
	};
}

static struct cpuid_leaf *find_leaf(struct cpu_model *model, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < model->count; i++)
		if (model->leaves[i].leaf == leaf && model->leaves[i].subleaf == subleaf)
			return &model->leaves[i];
	return NULL;
}

/* The engine may have removed bits: bring `chosen` in line, so that what depends on them follows.
 * */
static int apply_engine(struct builder *b, struct error *err)
{
	if (!b->engine || !b->engine->filter_cpuid)
		return 0;
	for (unsigned i = 0; i < cpu_feature_count; i++) {
		const struct cpu_feature *f = &cpu_features[i];
		uint32_t regs[4] = { 0 };

		if (b->chosen[i] == OFF)
			continue;
		regs[f->reg] = BIT(f->bit);
		b->engine->filter_cpuid(f->leaf, f->subleaf == CPUID_NO_SUBLEAF ? 0 : f->subleaf,
					regs);
		if (regs[f->reg] >> f->bit & 1)
			continue;
		if (b->chosen[i] == ON_BY_USER)
			return error_set(err, 0,
					 "CPU feature '%s' is not possible with engine '%s'",
					 f->name, b->engine->name);
		b->chosen[i] = OFF;
	}
	drop_dependents(b->chosen);
	return 0;
}

/* Leaf 4 and 0x8000001d: the host's caches, shared as in the guest: level 3 by all, the others by
 * none. */
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
	const uint32_t *l0 = host_leaf(host, 0, CPUID_NO_SUBLEAF),
		       *l1 = host_leaf(host, 1, CPUID_NO_SUBLEAF);
	uint32_t max = has(b, "xsave") ? 0xd : 0xb;
	uint32_t ht = b->cpus > 1 ? BIT(28) : 0;

	if (!host->is_amd && tsc_hz)
		max = 0x16;
	add_leaf(b, 0, CPUID_NO_SUBLEAF, max, l0[EBX], l0[ECX], l0[EDX]);
	add_leaf(b, 1, CPUID_NO_SUBLEAF, l1[EAX], (l1[EBX] & 0xff00) | b->cpus << 16, 0, ht);
	if (!host->is_amd) {
		const uint32_t *l2 = host_leaf(host, 2, CPUID_NO_SUBLEAF);

		add_leaf(b, 2, CPUID_NO_SUBLEAF, l2[EAX], l2[EBX], l2[ECX], l2[EDX]);
		add_cache_leaves(b, 4);
	}
	add_leaf(b, 5, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
	add_leaf(b, 6, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
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
		add_leaf(b, 0x15, CPUID_NO_SUBLEAF, 1000, (uint32_t)(tsc_hz / 1000), 1000000, 0);
		add_leaf(b, 0x16, CPUID_NO_SUBLEAF, mhz, mhz, 100, 0);
	}
}

static void add_kvm_leaves(struct builder *b, uint64_t tsc_hz, uint64_t apic_hz)
{
	if (!has(b, "hypervisor"))
		return;
	add_leaf(b, KVM_LEAF, CPUID_NO_SUBLEAF, tsc_hz ? KVM_TIMING_LEAF : KVM_FEATURES_LEAF,
		 0x4b4d564b, 0x564b4d56, 0x4d);
	add_leaf(b, KVM_FEATURES_LEAF, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
	if (tsc_hz)
		add_leaf(b, KVM_TIMING_LEAF, CPUID_NO_SUBLEAF, (uint32_t)(tsc_hz / 1000),
			 (uint32_t)(apic_hz / 1000), 0, 0);
}

static void add_extended_leaves(struct builder *b)
{
	struct host *host = &b->host;
	const uint32_t *l0 = host_leaf(host, 0x80000000u, CPUID_NO_SUBLEAF);
	const uint32_t *x1 = host_leaf(host, 0x80000001u, CPUID_NO_SUBLEAF);
	uint32_t max = 0x80000008u, amd_edx = 0, amd_ecx = 0, core_count = 0;

	if (host->is_amd)
		max = 0x80000021u;
	add_leaf(b, 0x80000000u, CPUID_NO_SUBLEAF, max, host->is_amd ? l0[EBX] : 0,
		 host->is_amd ? l0[ECX] : 0, host->is_amd ? l0[EDX] : 0);
	if (host->is_amd) {
		/* AMD repeats these bits of leaf 1 (APM vol. 3, E.4.2). */
		const struct cpuid_leaf *l1 = find_leaf(b->model, 1, CPUID_NO_SUBLEAF);

		amd_edx = l1 ? l1->edx & 0x0183f3ff : 0;
		if (b->cpus > 1)
			amd_ecx = BIT(1); /* CmpLegacy */
	}
	add_leaf(b, 0x80000001u, CPUID_NO_SUBLEAF, host->is_amd ? x1[EAX] : 0,
		 host->is_amd ? x1[EBX] : 0, amd_ecx, amd_edx);
	for (uint32_t leaf = 0x80000002u; leaf <= 0x80000006u; leaf++) {
		const uint32_t *r = host_leaf(host, leaf, CPUID_NO_SUBLEAF);

		add_leaf(b, leaf, CPUID_NO_SUBLEAF, r[EAX], r[EBX], r[ECX], r[EDX]);
	}
	add_leaf(b, 0x80000007u, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
	if (host->is_amd)
		core_count = b->apic_id_bits << 12 | (b->cpus - 1);
	add_leaf(b, 0x80000008u, CPUID_NO_SUBLEAF, b->model->maxphyaddr | 48 << 8, 0, core_count,
		 0);
	if (!host->is_amd)
		return;
	if (has(b, "topoext")) {
		add_cache_leaves(b, 0x8000001du);
		/* EAX: APIC id; EBX: core id in 7:0, threads per core - 1 in 15:8. */
		add_leaf(b, 0x8000001eu, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
	}
	add_leaf(b, 0x80000021u, CPUID_NO_SUBLEAF, 0, 0, 0, 0);
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
	physical = host_leaf(&b.host, 0x80000008u, CPUID_NO_SUBLEAF)[EAX] & 0xff;
	model->maxphyaddr = (uint8_t)MIN(MAX(physical, MAXPHYADDR_MIN), MAXPHYADDR_MAX);
	set_register_masks(&b);
	add_basic_leaves(&b, tsc_hz);
	add_kvm_leaves(&b, tsc_hz, apic_hz);
	add_extended_leaves(&b);
	return 0;
}
