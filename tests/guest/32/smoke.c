/* SPDX-License-Identifier: MIT */
/* The library itself, in 32-bit mode: traps, user mode, real mode. */
#include "lib.h"

CODE(user_code, 32, "mov $0x12345678, %ebx; int $0x80; ud2");
CODE(real_code, 16, "mov $0x1234, %bx; mov %cs, %cx; int $0x21; hlt");

void test_main(void)
{
	extern uint32_t boot_magic;
	struct ctx c;
	static uint8_t stack[512];

	CHECK_EQ("multiboot-magic", boot_magic, 0x2badb002);
	TRY("ud2", :);
	CHECK_EQ("ud2-vector", trap.vector, UD);
	CHECK_EQ("ud2-ip", trap.ip, trap.at);
	c = user_ctx((ulong)user_code, (ulong)stack + 512);
	CHECK_EQ("user-int80", run(&c), 0x80);
	CHECK_EQ("user-ebx", c.r[RBX], 0x12345678);
	COPY_CODE(0x20000, real_code);
	memset(&c, 0, sizeof(c));
	c.cs = 0x2000;
	c.ss = 0x3000;
	c.r[RSP] = 0x1000;
	c.flags = 2;
	CHECK_EQ("real-int21", real_run(&c), 0x21);
	CHECK_EQ("real-bx", c.r[RBX] & 0xffff, 0x1234);
	CHECK_EQ("real-cs", c.r[RCX] & 0xffff, 0x2000);
	CHECK_EQ("real-ip", c.ip, 7);
}
