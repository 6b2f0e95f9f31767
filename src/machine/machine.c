/* SPDX-License-Identifier: MIT */
/* Machines: the table of boards, and creation by name. A new board adds one file and one entry. */
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "machine/boards.h"
#include "machine/machine.h"
#include "vm/vm.h"

#define DEFAULT_BOARD "microvm"

const struct machine_board machine_boards[] = {
	{ "microvm", microvm_create, vm_destroy },
	{ NULL, NULL, NULL },
};

static int check_config(const struct machine_config *config, struct error *err)
{
	if (config->cpus < 1 || config->cpus > VM_VCPU_MAX)
		return error_set(err, 0, "a machine has 1 to %d CPUs, not %u", VM_VCPU_MAX,
				 config->cpus);
	if (config->memory % PAGE_SIZE)
		return error_set(err, 0, "the memory size %llu is not a multiple of 4 KiB",
				 (unsigned long long)config->memory);
	if (config->disk_count > MACHINE_DISK_MAX || config->nic_count > MACHINE_NIC_MAX ||
	    config->device_count > MACHINE_DEVICE_MAX)
		return error_set(err, 0, "too many disks, network cards or devices");
	return 0;
}

int machine_create(struct vm **out, const struct machine_config *config, struct error *err)
{
	const char *name = config->board ? config->board : DEFAULT_BOARD;

	*out = NULL;
	if (check_config(config, err))
		return -1;
	for (const struct machine_board *board = machine_boards; board->name; board++)
		if (strcmp(board->name, name) == 0)
			return board->create(out, config, err);
	return error_set(err, 0, "there is no board '%s'", name);
}

void machine_destroy(struct vm *vm)
{
	/* Boards hang their own tidying on the VM's clean-up list. */
	vm_destroy(vm);
}
