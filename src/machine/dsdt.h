/* SPDX-License-Identifier: MIT */
/* The compiled DSDT: generated from dsdt.asl at build time. */
#ifndef LODGE_MACHINE_DSDT_H
#define LODGE_MACHINE_DSDT_H

#include <stddef.h>

extern const unsigned char dsdt_aml[];
extern const size_t dsdt_aml_size;

#endif
