/* SPDX-License-Identifier: MIT */
/* Vector instructions with several memory operands: gathers, scatters, masked stores at RDI, MOVDIR64B. */
#include "engine/bt/helper_common.h"

enum bt_result bt_help_multimem(struct bt_cpu *cpu, const struct bt_call *call)
{
	return bt_help_undefined(cpu, call);
}
