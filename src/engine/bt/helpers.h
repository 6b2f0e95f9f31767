/* SPDX-License-Identifier: MIT */
/* The runtime's instruction helpers, for helper_table.c. Each dispatches on call->op. */
#ifndef LODGE_ENGINE_BT_HELPERS_H
#define LODGE_ENGINE_BT_HELPERS_H

#include "engine/bt/bt.h"

bt_helper bt_help_string;    /* movs stos lods scas cmps ins outs, all repeats (helper_string.c) */
bt_helper bt_help_fxsave, bt_help_fxrstor, bt_help_xsave, bt_help_xrstor, bt_help_fnstenv, bt_help_fnsave, bt_help_fldenv,
	bt_help_frstor;      /* helper_fpu.c */
bt_helper bt_help_vmcall;    /* vmcall vmmcall (pv.c) */
bt_helper bt_help_pause;     /* where vCPUs share host CPUs (fast.c) */

#endif
