/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller pulses the reset line.
 * run: expect=poweroff
 */
#include "lib.h"

void test_main(void)
{
	print("PASS-BEFORE-POWEROFF\n");
	outb(0x64, 0xfe);
	delay_us(1000000);
	test_check(false, "reset", "still running");
}
