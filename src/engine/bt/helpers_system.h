/* SPDX-License-Identifier: MIT */
/* The helpers of helper_flow.c, helper_segment.c, helper_register.c and helper_misc.c, for helper_table.c. */
#ifndef LODGE_ENGINE_BT_HELPERS_SYSTEM_H
#define LODGE_ENGINE_BT_HELPERS_SYSTEM_H

#include "engine/bt/bt.h"

/* helper_flow.c */
bt_helper bt_help_jmp_far, bt_help_call_far, bt_help_ret_far, bt_help_iret, bt_help_int,
	bt_help_int3, bt_help_int1, bt_help_into, bt_help_syscall, bt_help_sysret, bt_help_sysenter,
	bt_help_sysexit, bt_help_hlt;
/* helper_segment.c */
bt_helper bt_help_mov_from_seg, bt_help_mov_to_seg, bt_help_push_seg, bt_help_pop_seg,
	bt_help_load_far_ptr, bt_help_sldt, bt_help_lldt, bt_help_test_selector, bt_help_arpl,
	bt_help_bound;
/* helper_register.c */
bt_helper bt_help_mov_from_cr, bt_help_mov_to_cr, bt_help_mov_from_dr, bt_help_mov_to_dr,
	bt_help_smsw, bt_help_lmsw, bt_help_clts, bt_help_sgdt, bt_help_lgdt, bt_help_rdmsr,
	bt_help_wrmsr, bt_help_cpuid, bt_help_rdtsc, bt_help_rdpid, bt_help_rdpmc, bt_help_xgetbv,
	bt_help_xsetbv, bt_help_invlpg, bt_help_invpcid, bt_help_wbinvd, bt_help_swapgs,
	bt_help_fsgsbase, bt_help_cli, bt_help_sti, bt_help_pushf, bt_help_popf, bt_help_stac,
	bt_help_in, bt_help_out;
/* helper_misc.c */
bt_helper bt_help_xlat, bt_help_pusha, bt_help_popa, bt_help_enter;

#endif
