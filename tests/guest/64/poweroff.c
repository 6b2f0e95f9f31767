/* SPDX-License-Identifier: MIT */
/*
 * ACPI power-off: PM1a_CNT from the FADT, the S5 type from \_S5_ in the DSDT (ACPI 6.4, 4.8.3.2, 7.4.2).
 * run: expect=poweroff
 */
#include "lib.h"

void test_main(void)
{
	uint8_t *fadt = acpi_table("FACP"), *dsdt, *p;
	uint32_t len;

	if (!fadt) {
		test_check(false, "fadt", "none");
		return;
	}
	dsdt = (uint8_t *)(ulong) * (uint32_t *)(fadt + 40);
	len = *(uint32_t *)(dsdt + 4);
	for (p = dsdt + 36; p < dsdt + len - 8; p++)
		if (!memcmp(p, "_S5_\x12", 5))
			break;
	if (p >= dsdt + len - 8) {
		test_check(false, "s5", "no _S5_ package in the DSDT");
		return;
	}
	p += 5;		     /* PkgLength, NumElements, then the first element */
	p += (*p >> 6) + 1;
	p++;
	if (*p == 0x0a)
		p++;
	else if (*p > 1) {
		test_check(false, "s5", "SLP_TYPa is not a byte constant");
		return;
	}
	print("PASS-BEFORE-POWEROFF\n");
	outw(*(uint32_t *)(fadt + 64), *p << 10 | 1 << 13);
	delay_us(1000000);
	test_check(false, "poweroff", "still running");
}
