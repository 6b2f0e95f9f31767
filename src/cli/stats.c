/* SPDX-License-Identifier: MIT */
/* Statistics of a VM that has ended, for people. */
#include "cli/stats.h"

#include <inttypes.h>
#include <time.h>

#include "vm/vm.h"

static uint64_t host_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

static uint64_t guest_cpu_ns(struct vm *vm)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < vm->vcpu_count; i++)
		total += vcpu_cpu_time_ns(vm->vcpus[i]);
	return total;
}

void stats_print_summary(FILE *out, struct vm *vm)
{
	uint64_t first_user = atomic_load(&vm->first_user_ns);

	fprintf(out, "lodge: engine %s; first user-space instruction after ", vm->engine->name);
	if (first_user)
		fprintf(out, "%.3f s", seconds(first_user));
	else
		fputs("- (none ran)", out);
	fprintf(out, "; guest CPU time %.3f s; wall time %.3f s\n", seconds(guest_cpu_ns(vm)),
		seconds(host_ns() - vm->start_host_ns));
}

void stats_print(FILE *out, struct vm *vm)
{
	static const struct {
		const char *name;
		enum vcpu_exit exit;
	} exits[] = {
		{ "kicked", VCPU_EXIT_KICKED },     { "halted", VCPU_EXIT_HALTED },
		{ "shutdown", VCPU_EXIT_SHUTDOWN }, { "debug", VCPU_EXIT_DEBUG },
		{ "error", VCPU_EXIT_ERROR },
	};

	fprintf(out, "time in guest:\n  %-6s %12s %12s\n", "vCPU", "CPU s", "halted s");
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		fprintf(out, "  %-6u %12.3f %12.3f\n", i, seconds(vcpu_cpu_time_ns(vm->vcpus[i])),
			seconds(vm->vcpus[i]->stats.halted_ns));

	fprintf(out, "exits from the engine:\n  %-6s", "vCPU");
	for (unsigned e = 0; e < sizeof(exits) / sizeof(exits[0]); e++)
		fprintf(out, " %12s", exits[e].name);
	fputc('\n', out);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		fprintf(out, "  %-6u", i);
		for (unsigned e = 0; e < sizeof(exits) / sizeof(exits[0]); e++)
			fprintf(out, " %12" PRIu64, vm->vcpus[i]->stats.exits[exits[e].exit]);
		fputc('\n', out);
	}

	fprintf(out, "handled for the guest:\n  %-6s %12s %12s %12s %12s %12s %12s %12s\n", "vCPU",
		"interrupts", "NMIs", "port I/O", "MMIO", "hypercalls", "RDMSR", "WRMSR");
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const struct vcpu_stats *s = &vm->vcpus[i]->stats;

		fprintf(out,
			"  %-6u %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12" PRIu64
			" %12" PRIu64 " %12" PRIu64 "\n",
			i, s->interrupts, s->nmis, s->pio, s->mmio, s->hypercalls, s->msr_reads,
			s->msr_writes);
	}
	if (vm->engine->print_stats)
		vm->engine->print_stats(vm, out);
}
