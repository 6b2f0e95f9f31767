/* SPDX-License-Identifier: MIT */
/* What is printed about a VM that has ended: --stats and --summary. */
#ifndef LODGE_CLI_STATS_H
#define LODGE_CLI_STATS_H

#include <stdio.h>

struct vm;

/* Time and exits of each vCPU, then the engine's own counters. After vm_wait(). */
void stats_print(FILE *out, struct vm *vm);
/* One line: engine, time to the first user-space instruction, guest CPU time, wall time. After vm_wait(). */
void stats_print_summary(FILE *out, struct vm *vm);

#endif
