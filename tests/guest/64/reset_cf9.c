/* SPDX-License-Identifier: MIT */
/*
 * The reset control register at 0xcf9.
 * run: expect=poweroff
 */
#include "lib.h"

void test_main(void)
{
	print("PASS-BEFORE-POWEROFF\n");
	outb(0xcf9, 2);
	outb(0xcf9, 6);
	delay_us(1000000);
	test_check(false, "reset", "still running");
}
