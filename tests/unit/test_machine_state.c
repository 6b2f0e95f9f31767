/* SPDX-License-Identifier: MIT */
/*
 * Saved state of a whole running machine: a guest that works its devices is stopped again and again, every state table
 * is saved, loaded back and saved again, and the guest goes on as if nothing had happened.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/machine.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

#define LOAD 0x100000u
#define COUNTER 0x200000u
#define CODE_OFFSET 0x80u

/* A multiboot kernel: starts the PIT, then counts at COUNTER while it reads PIT, serial port and local APIC. */
static const uint8_t code[] = {
	0xb0, 0x34, 0xe6, 0x43,		    /*	mov al, 0x34; out 0x43, al */
	0xb0, 0x00, 0xe6, 0x40,		    /*	mov al, 0; out 0x40, al */
	0xb0, 0x10, 0xe6, 0x40,		    /*	mov al, 0x10; out 0x40, al */
	0x43,				    /* 1: inc ebx */
	0xe4, 0x61, 0xe4, 0x40,		    /*	in al, 0x61; in al, 0x40 */
	0x66, 0xba, 0xfd, 0x03, 0xec,	    /*	mov dx, 0x3fd; in al, dx */
	0xa1, 0x30, 0x00, 0xe0, 0xfe,	    /*	mov eax, [0xfee00030] */
	0x89, 0x1d, 0x00, 0x00, 0x20, 0x00, /*	mov [COUNTER], ebx */
	0xeb, 0xe9,			    /*	jmp 1b */
};

static void write_kernel(const char *path)
{
	/* ELF32: one header, one segment that holds the file from its start, so that the multiboot header is in it. */
	const uint32_t multiboot[3] = { 0x1badb002, 0, 0u - 0x1badb002 };
	uint8_t image[CODE_OFFSET + sizeof(code)] = { 0x7f, 'E', 'L', 'F', 1, 1, 1 };
	const uint16_t kind[2] = { 2, 3 };				     /* executable, 386 */
	const uint32_t rest[4] = { 1, LOAD + CODE_OFFSET, 52, 0 };	     /* version, entry, phoff, shoff */
	const uint16_t sizes[6] = { 0, 0, 52, 32, 1, 0 };		     /* flags, ehsize, phentsize, phnum */
	const uint32_t segment[8] = { 1, 0, LOAD, LOAD, sizeof(image), sizeof(image), 7, 0x1000 };
	FILE *f = fopen(path, "wb");

	memcpy(image + 16, kind, sizeof(kind));
	memcpy(image + 20, rest, sizeof(rest));
	memcpy(image + 36, sizes, sizeof(sizes));
	memcpy(image + 52, segment, sizeof(segment));
	memcpy(image + 96, multiboot, sizeof(multiboot));
	memcpy(image + CODE_OFFSET, code, sizeof(code));
	assert_non_null(f);
	assert_int_equal(fwrite(image, sizeof(image), 1, f), 1);
	fclose(f);
}

static void test_running_machine(void **state)
{
	char path[] = "/tmp/lodge-test-kernel-XXXXXX";
	int fd = mkstemp(path);
	struct machine_config config = {
		.cpus = 2,
		.memory = 16 << 20,
		.kernel = path,
		.console = "none",
		.nic_count = 1,
		.nics = { { .kind = "user" } },
		.device_count = 3,
		.devices = { { "isa-debug-exit", NULL }, { "pc-testdev", NULL }, { "pci-testdev", NULL } },
	};
	struct error err = { 0 };
	uint32_t counter, last = 0;
	unsigned advanced = 0;
	struct vm *vm;

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	write_kernel(path);
	if (machine_create(&vm, &config, &err) || vm_start(vm, &err))
		fail_msg("%s", err.text);
	for (unsigned round = 0; round < 1000 && advanced < 40; round++) {
		usleep(5000);
		vm_pause(vm);
		assert_int_equal(vm->end, VM_END_NONE);
		if (vm_state_round_trip(vm, &err))
			fail_msg("%s", err.text);
		assert_int_equal(guest_memory_read(vm, COUNTER, &counter, sizeof(counter)), 0);
		advanced += counter > last;
		last = counter;
		vm_resume(vm);
	}
	assert_int_equal(advanced, 40);
	assert_true(vm_priv(vm)->state_count >= 16);
	vm_quit(vm);
	assert_int_equal(vm_wait(vm), VM_END_QUIT);
	machine_destroy(vm);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_running_machine) };

	return cmocka_run_group_tests_name("machine_state", tests, NULL, NULL);
}
