/* SPDX-License-Identifier: MIT */
/*
 * The CPU underneath: its CPUID, what the host's system has enabled, and its immunities.
 *
 * Sources: Intel SDM volume 2A CPUID, volume 4 (IA32_ARCH_CAPABILITIES); Linux
 * Documentation/ABI/testing/sysfs-devices-system-cpu.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "machine/cpu_features.h"
#include "machine/cpu_model.h"

static void host_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	(void)opaque;
	__asm__ volatile("cpuid"
			 : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
			 : "a"(leaf), "c"(subleaf));
}

/* Does the host's kernel say that its CPU does not have this weakness? */
static bool not_affected(const char *vulnerability)
{
	static const char answer[] = "Not affected";
	char path[128], text[sizeof(answer)] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/vulnerabilities/%s", vulnerability);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (!fgets(text, sizeof(text), file))
		text[0] = 0;
	fclose(file);
	return strcmp(text, answer) == 0;
}

/* A process cannot read IA32_ARCH_CAPABILITIES; its bits follow from what the host's kernel
 * found. */
static uint64_t host_arch_capabilities(void)
{
	static const struct {
		const char *vulnerability;
		uint64_t bits;
	} table[] = {
		{ "meltdown", BIT64(0) | BIT64(3) }, /* RDCL_NO, SKIP_L1DFL_VMENTRY */
		{ "spec_store_bypass", BIT64(4) },   /* SSB_NO */
		{ "mds", BIT64(5) },                 /* MDS_NO */
		{ "itlb_multihit", BIT64(6) },       /* PSCHANGE_MC_NO */
		{ "tsx_async_abort", BIT64(8) },     /* TAA_NO */
		{ "mmio_stale_data",
		  BIT64(13) | BIT64(14) | BIT64(15) },      /* SBDR_SSDP, FBSDP, PSDP_NO */
		{ "gather_data_sampling", BIT64(26) },      /* GDS_NO */
		{ "reg_file_data_sampling", BIT64(27) },    /* RFDS_NO */
		{ "indirect_target_selection", BIT64(62) }, /* ITS_NO */
	};
	uint64_t bits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (not_affected(table[i].vulnerability))
			bits |= table[i].bits;
	return bits;
}

bool cpu_source_is_amd(const struct cpu_source *source)
{
	static const char *const vendors[] = { "AuthenticAMD", "HygonGenuine" };
	uint32_t regs[4];
	char vendor[12];

	source->cpuid(source->opaque, 0, 0, regs);
	memcpy(vendor, &regs[EBX], 4);
	memcpy(vendor + 4, &regs[EDX], 4);
	memcpy(vendor + 8, &regs[ECX], 4);
	return memcmp(vendor, vendors[0], 12) == 0 || memcmp(vendor, vendors[1], 12) == 0;
}

void cpu_source_host(struct cpu_source *source)
{
	uint32_t regs[4];

	*source = (struct cpu_source){ .cpuid = host_cpuid };
	if (!cpu_source_is_amd(source)) /* kernels know AMD's immunities by family and CPUID */
		source->arch_capabilities = host_arch_capabilities();
	host_cpuid(NULL, 1, 0, regs);
	if (regs[ECX] & BIT(27)) {
		uint32_t lo, hi;

		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		source->xcr0 = (uint64_t)hi << 32 | lo;
	}
}
