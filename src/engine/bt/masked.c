/* SPDX-License-Identifier: MIT */
/* Masked vector accesses that missed the TLB: only active elements are accessed. */
#include "engine/bt/runtime.h"

uint64_t bt_masked_access(struct bt_vcpu *v, const struct bt_site *site, uint64_t linear, enum bt_class cls)
{
	(void)v;
	(void)site;
	(void)linear;
	(void)cls;
	return 0;
}

void bt_masked_commit(struct bt_vcpu *v)
{
	(void)v;
}
