/* SPDX-License-Identifier: MIT */
/* Offsets that entry.S needs, as plain numbers; runtime.c asserts that they are true. */
#ifndef LODGE_ENGINE_BT_OFFSETS_H
#define LODGE_ENGINE_BT_OFFSETS_H

/* From GS base. */
#define OFF_GPR 0
#define OFF_RFLAGS 136
#define OFF_XSAVE 832
#define OFF_PC_BASE 4928
#define OFF_POLL 4936
#define OFF_HOST_RSP 4944
#define OFF_ARG 4952
#define OFF_FLAGS_SLOT 5040
#define OFF_VCPU 5216
#define OFF_TARGET 0x7fc0 /* in the padding after struct bt_cpu: where a trampoline goes on */

/* In struct bt_vcpu. */
#define OFF_V_CPU 0
#define OFF_V_RUNNING 8
#define OFF_V_HOLD 12
#define OFF_V_R10 16
#define OFF_V_R11 24
#define OFF_V_FPU_SAVED 32
#define OFF_V_ACTIVITY 33
#define OFF_V_XSAVE_MASK 40

/* bt_vcpu.activity: the trampoline whose C part runs (meaningless while translated code does). For the profiler. */
#define ACTIVITY_NONE 0
#define ACTIVITY_MEMORY 1
#define ACTIVITY_COMMIT 2
#define ACTIVITY_HELPER 3
#define ACTIVITY_CHAIN 4
#define ACTIVITY_JUMP 5
#define ACTIVITY_POLL 6
#define ACTIVITY_DISPATCH 7
#define ACTIVITY_FAULT 8

#endif
