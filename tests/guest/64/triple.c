/* SPDX-License-Identifier: MIT */
/*
 * A triple fault ends the machine: status 4 with a register dump.
 * run: expect=died
 */
#include "lib.h"

void test_main(void)
{
	struct table_ptr z = { 0, 0 };

	print("PASS-BEFORE-DEATH\n");
	lidt(&z);
	asm volatile("ud2");
}
