/* SPDX-License-Identifier: MIT */
/* The boards' entries for the table in machine.c. */
#ifndef LODGE_MACHINE_BOARDS_H
#define LODGE_MACHINE_BOARDS_H

#include "machine/machine.h"

int microvm_create(struct vm **out, const struct machine_config *config, struct error *err);

#endif
