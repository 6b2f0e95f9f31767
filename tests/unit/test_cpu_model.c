/* SPDX-License-Identifier: MIT */
/* CPU models and the guest's CPUID instruction, on pretended hosts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "machine/cpu_model.h"

#define NO_SUBLEAF 0xffffffffu

/* A host: registers that are all ones in the feature leaves, minus what a test takes away. */
struct host {
	bool amd;
	uint32_t physical_bits;
	uint32_t without_leaf7_ebx, without_leaf1_ecx;
};

static void pretend_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct host *host = opaque;

	memset(regs, 0, 16);
	switch (leaf) {
	case 0:
		regs[0] = 0x1f;
		memcpy(&regs[1], host->amd ? "Auth" : "Genu", 4);
		memcpy(&regs[3], host->amd ? "enti" : "ineI", 4);
		memcpy(&regs[2], host->amd ? "cAMD" : "ntel", 4);
		break;
	case 1:
		regs[0] = 0x000806f8;
		regs[1] = 0x05100800;
		regs[2] = ~host->without_leaf1_ecx;
		regs[3] = ~0u;
		break;
	case 4:
		/* L1 data, shared by 2 threads; L3 by 32; then no more. */
		if (subleaf == 0)
			regs[0] = 0x121 | 1 << 14 | 15 << 26;
		else if (subleaf == 1)
			regs[0] = 0x163 | 31 << 14 | 15 << 26;
		regs[1] = 0x03c0003f;
		break;
	case 7:
		if (subleaf == 0) {
			regs[0] = 2;
			regs[1] = ~host->without_leaf7_ebx;
			regs[2] = regs[3] = ~0u;
		} else if (subleaf == 1) {
			regs[0] = regs[3] = ~0u;
		}
		break;
	case 0xd: /* sizes and offsets of a real CPU; 8: CET, 9: PKRU, 17: AMX */
		if (subleaf == 1)
			regs[0] = ~0u;
		else if (subleaf == 2)
			regs[0] = 256, regs[1] = 576;
		else if (subleaf == 5)
			regs[0] = 64, regs[1] = 1088;
		else if (subleaf == 6)
			regs[0] = 512, regs[1] = 1152;
		else if (subleaf == 7)
			regs[0] = 1024, regs[1] = 1664;
		else if (subleaf == 9)
			regs[0] = 8, regs[1] = 2688;
		break;
	case 0x80000000u:
		regs[0] = host->amd ? 0x80000028u : 0x80000008u;
		break;
	case 0x80000001u:
		regs[2] = regs[3] = ~0u;
		break;
	case 0x80000007u:
		regs[3] = 0x100;
		break;
	case 0x80000008u:
		regs[0] = 0x3900 | host->physical_bits;
		regs[1] = host->amd ? ~0u : 0;
		break;
	case 0x80000021u:
		regs[0] = ~0u;
		break;
	}
}

struct machine {
	struct host host;
	struct cpu_source source;
	struct error err;
	struct vm vm;
	struct vcpu vcpu;
	struct x86_cpu_state state;
};

static int setup(void **test)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return -1;
	m->host.physical_bits = 52;
	m->source =
		(struct cpu_source){ .cpuid = pretend_cpuid, .opaque = &m->host, .xcr0 = 0x2e7 };
	m->vcpu.vm = &m->vm;
	*test = m;
	return 0;
}

static int teardown(void **test)
{
	free(*test);
	return 0;
}

static int build(struct machine *m, const char *spec, unsigned cpus)
{
	return cpu_model_build(&m->vm.cpu_model, spec, cpus, &m->source, NULL, 2500000000,
			       1000000000, &m->err);
}

static void query(struct machine *m, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	cpuid_query(&m->vcpu, &m->state, leaf, subleaf, regs);
}

static uint32_t reg(struct machine *m, uint32_t leaf, uint32_t subleaf, unsigned n)
{
	uint32_t regs[4];

	query(m, leaf, subleaf, regs);
	return regs[n];
}

/* Bits that must never reach a guest, whatever the host has. */
static void test_masked(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(reg(m, 1, 0, 2) & (BIT(3) | BIT(5)), 0); /* MONITOR, VMX */
	assert_int_equal(reg(m, 7, 0, 1) & (BIT(4) | BIT(11) | BIT(14) | BIT(2)),
			 0); /* HLE, RTM, MPX, SGX */
	assert_int_equal(reg(m, 7, 0, 2) & (BIT(3) | BIT(4) | BIT(7) | BIT(16)),
			 0); /* PKU, OSPKE, SHSTK, LA57 */
	assert_int_equal(reg(m, 7, 0, 3) & (BIT(20) | BIT(22) | BIT(24) | BIT(25)),
			 0); /* IBT, AMX */
	assert_int_equal(reg(m, 0x80000001u, 0, 2) & (BIT(2) | BIT(11) | BIT(16)),
			 0);                                        /* SVM, XOP, FMA4 */
	assert_int_equal(reg(m, 0xd, 1, 0) & (BIT(3) | BIT(4)), 0); /* XSAVES, XFD */
	assert_int_equal(reg(m, 0xa, 0, 0), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 0xe7);
	assert_int_equal(reg(m, 0xd, 0, 0), 0xe7);
	assert_true(m->vm.cpu_model.count < CPUID_LEAF_MAX);
}

static void test_address_bits(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(m->vm.cpu_model.maxphyaddr, 46);
	assert_int_equal(reg(m, 0x80000008u, 0, 0), 0x302e);
	m->host.physical_bits = 39;
	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(m->vm.cpu_model.maxphyaddr, 39);
}

static void test_levels(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "x86-64-v1", 1), 0);
	assert_int_equal(reg(m, 1, 0, 2) & (BIT(0) | BIT(13) | BIT(26) | BIT(28)), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 0);
	assert_int_equal(m->vm.cpu_model.cr4_valid & X86_CR4_OSXSAVE, 0);
	assert_int_equal(reg(m, 0xd, 0, 0), 0);
	/* What Lodge provides itself is in every model. */
	assert_int_not_equal(reg(m, 1, 0, 2) & BIT(21), 0);
	assert_int_not_equal(m->vm.cpu_model.cr4_valid & X86_CR4_SMAP, 0);
	assert_int_equal(build(m, "x86-64-v2", 1), 0);
	assert_int_equal(reg(m, 1, 0, 2) & (BIT(0) | BIT(20) | BIT(23) | BIT(28)),
			 BIT(0) | BIT(20) | BIT(23));
	assert_int_equal(build(m, "x86-64-v3", 1), 0);
	assert_int_equal(reg(m, 7, 0, 1) & (BIT(5) | BIT(8) | BIT(16)), BIT(5) | BIT(8));
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 7);
	assert_int_equal(build(m, "x86-64-v4", 1), 0);
	assert_int_not_equal(reg(m, 7, 0, 1) & BIT(16), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 0xe7);
}

static void test_errors(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "pentium", 1), -1);
	assert_non_null(strstr(m->err.text, "'pentium'"));
	assert_non_null(strstr(m->err.text, "x86-64-v3"));
	assert_int_equal(build(m, "host,+avx51f", 1), -1);
	assert_non_null(strstr(m->err.text, "'avx51f'"));
	assert_non_null(strstr(m->err.text, "avx512f"));
	assert_int_equal(build(m, "host,+pku", 1), -1);
	assert_non_null(strstr(m->err.text, "not given"));
	assert_int_equal(build(m, "host,avx", 1), -1);
	assert_non_null(strstr(m->err.text, "+avx"));
	assert_int_equal(build(m, "host,", 1), -1);
	assert_int_equal(build(m, "", 1), -1);
	m->host.without_leaf7_ebx = BIT(5) | BIT(29);
	assert_int_equal(build(m, "x86-64-v3", 1), -1);
	assert_non_null(strstr(m->err.text, "'avx2'"));
	assert_int_equal(build(m, "host,+sha_ni", 1), -1);
	assert_non_null(strstr(m->err.text, "not in the host"));
	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(reg(m, 7, 0, 1) & (BIT(5) | BIT(16)), 0); /* AVX-512 goes with AVX2 */
	assert_int_equal(build(m, "x86-64-v1,+fma", 1), -1);
	assert_non_null(strstr(m->err.text, "needs another"));
}

static void test_plus_minus(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "x86-64-v2,+aes,-x2apic,+sse4.2", 1), 0);
	assert_int_not_equal(reg(m, 1, 0, 2) & BIT(25), 0);
	assert_int_equal(reg(m, 1, 0, 2) & BIT(21), 0);
	assert_int_equal(build(m, "host,-xsave", 1), 0);
	assert_int_equal(reg(m, 1, 0, 2) & (BIT(26) | BIT(28)), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 0);
	assert_int_equal(build(m, "host,-hypervisor", 1), 0);
	assert_int_equal(reg(m, 0x40000000u, 0, 1), 0);
}

/* The host's system has not enabled AVX-512 state, or none. */
static void test_host_xcr0(void **test)
{
	struct machine *m = *test;

	m->source.xcr0 = 7;
	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 7);
	assert_int_equal(reg(m, 7, 0, 1) & BIT(16), 0);
	m->source.xcr0 = 0;
	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 0);
	assert_int_equal(reg(m, 1, 0, 2) & (BIT(26) | BIT(28) | BIT(12)), 0);
}

static void test_xsave_sizes(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "host", 1), 0);
	m->state.xcr0 = 1;
	assert_int_equal(reg(m, 0xd, 0, 1), 576);
	m->state.xcr0 = 7;
	assert_int_equal(reg(m, 0xd, 0, 1), 832);
	assert_int_equal(reg(m, 0xd, 1, 1), 832);
	m->state.xcr0 = 0xe7;
	assert_int_equal(reg(m, 0xd, 0, 1), 2688);
	assert_int_equal(reg(m, 0xd, 0, 2), 2688);
	assert_int_equal(reg(m, 0xd, 1, 1), 576 + 256 + 64 + 512 + 1024);
	assert_int_equal(reg(m, 0xd, 9, 0), 0);
}

static void test_per_cpu(void **test)
{
	static const unsigned counts[] = { 1, 2, 3, 4, 63, 64 };
	struct machine *m = *test;

	for (unsigned amd = 0; amd < 2; amd++)
		for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
			unsigned cpus = counts[i], bits = 0, l3;

			m->host.amd = amd;
			assert_int_equal(build(m, "host", cpus), 0);
			while (1u << bits < cpus)
				bits++;
			m->vcpu.apic_id = cpus - 1;
			assert_int_equal(reg(m, 1, 0, 1) >> 24, cpus - 1);
			assert_int_equal(reg(m, 1, 0, 1) >> 16 & 0xff, cpus);
			assert_int_equal(reg(m, 0xb, 0, 3), cpus - 1);
			assert_int_equal(reg(m, 0xb, 1, 0), bits);
			assert_int_equal(reg(m, 0xb, 1, 1), cpus);
			assert_int_equal(reg(m, 0xb, 7, 2), 7);
			assert_int_equal(reg(m, 0xb, 7, 3), cpus - 1);
			if (amd) {
				assert_int_equal(reg(m, 0x80000008u, 0, 2),
						 bits << 12 | (cpus - 1));
				assert_int_equal(reg(m, 0x8000001eu, 0, 0), cpus - 1);
				continue;
			}
			l3 = reg(m, 4, 1, 0);
			assert_int_equal(l3 >> 14 & 0xfff, (1u << bits) - 1);
			assert_int_equal(l3 >> 26, (1u << bits) - 1);
			assert_int_equal(reg(m, 4, 0, 0) >> 14 & 0xfff, 0);
			assert_int_equal(reg(m, 4, 2, 0), 0);
		}
}

static void test_dynamic_bits(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(reg(m, 1, 0, 2) & BIT(27), 0);
	m->state.cr4 = X86_CR4_OSXSAVE;
	assert_int_not_equal(reg(m, 1, 0, 2) & BIT(27), 0);
	/* Leaves that are not there */
	assert_int_equal(reg(m, 0x50000000u, 0, 0) | reg(m, 0x3f, 0, 0) | reg(m, 7, 5, 0), 0);
}

static void test_paravirtual(void **test)
{
	struct machine *m = *test;
	uint32_t regs[4];

	assert_int_equal(build(m, "host", 1), 0);
	query(m, 0x40000000u, 0, regs);
	assert_memory_equal(&regs[1], "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(regs[0], 0x40000010u);
	assert_int_equal(reg(m, 0x40000010u, 0, 0), 2500000);
	assert_int_equal(reg(m, 0x40000010u, 0, 1), 1000000);
	assert_int_equal(reg(m, 0x15, 0, 1) * 1000ull, 2500000000ull);
	assert_int_not_equal(reg(m, 0x40000001u, 0, 0) & BIT(3), 0);
}

static void no_avx512_no_kvmclock(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	if (leaf == 7 && subleaf == 0)
		regs[1] &= ~BIT(16);
	if (leaf == 0x40000001u)
		regs[0] &= ~BIT(3);
}

static void test_engine_filter(void **test)
{
	static const struct engine engine = { .name = "toy",
					      .filter_cpuid = no_avx512_no_kvmclock };
	struct machine *m = *test;

	assert_int_equal(cpu_model_build(&m->vm.cpu_model, "host", 1, &m->source, &engine, 0, 0,
					 &m->err),
			 0);
	assert_int_equal(reg(m, 7, 0, 1) & (BIT(16) | BIT(30) | BIT(31)), 0);
	assert_int_equal(m->vm.cpu_model.xcr0_valid, 7);
	assert_int_equal(reg(m, 0x40000001u, 0, 0) & (BIT(3) | BIT(24)), 0);
	assert_int_equal(cpu_model_build(&m->vm.cpu_model, "host,+avx512f", 1, &m->source, &engine,
					 0, 0, &m->err),
			 -1);
	assert_non_null(strstr(m->err.text, "'toy'"));
}

static void test_immunities(void **test)
{
	struct machine *m = *test;

	assert_int_equal(build(m, "host", 1), 0);
	assert_int_equal(reg(m, 7, 0, 3) & BIT(29), 0);
	m->source.arch_capabilities = 1;
	assert_int_equal(build(m, "x86-64-v2", 1), 0);
	assert_int_not_equal(reg(m, 7, 0, 3) & BIT(29), 0);
	assert_int_equal(m->vm.cpu_model.arch_capabilities, 1);
	assert_int_equal(build(m, "host,-arch_capabilities", 1), 0);
	assert_int_equal(m->vm.cpu_model.arch_capabilities, 0);
}

static void test_real_host(void **test)
{
	struct machine *m = *test;

	cpu_source_host(&m->source);
	assert_int_equal(build(m, "host", 4), 0);
	assert_int_equal(build(m, "x86-64-v1", 64), 0);
	assert_int_not_equal(reg(m, 0, 0, 0), 0);
	assert_int_not_equal(reg(m, 0x80000001u, 0, 3) & BIT(29), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_masked),      TEST(test_address_bits),  TEST(test_levels),
		TEST(test_errors),      TEST(test_plus_minus),    TEST(test_host_xcr0),
		TEST(test_xsave_sizes), TEST(test_per_cpu),       TEST(test_dynamic_bits),
		TEST(test_paravirtual), TEST(test_engine_filter), TEST(test_immunities),
		TEST(test_real_host),
	};

	return cmocka_run_group_tests_name("cpu_model", tests, NULL, NULL);
}
