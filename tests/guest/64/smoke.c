/* SPDX-License-Identifier: MIT */
/* The library itself: long mode is on, traps are caught, user mode can be entered and left. */
#include "lib.h"

CODE(user_code, 64, "mov $0x1234567890, %rbx; int $0x80; ud2");

void test_main(void)
{
	extern uint32_t boot_magic;
	struct ctx c;

	CHECK_EQ("multiboot-magic", boot_magic, 0x2badb002);
	CHECK("long-mode", rdmsr(MSR_EFER) & 0x400);
	TRY("ud2", :);
	CHECK_EQ("ud2-vector", trap.vector, UD);
	CHECK_EQ("ud2-ip", trap.ip, trap.at);
	map_user(TEST_VA, 2);
	COPY_CODE(TEST_VA, user_code);
	c = user_ctx(TEST_VA, TEST_VA + 8192);
	CHECK_EQ("user-int80", run(&c), 0x80);
	CHECK_EQ("user-rbx", c.r[RBX], 0x1234567890);
	CHECK_EQ("user-cs", c.cs, SEL_UCODE | 3);
	CHECK_EQ("user-rip-after-int", c.ip, TEST_VA + 12);
}
