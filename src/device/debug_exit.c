/* SPDX-License-Identifier: MIT */
/* isa-debug-exit: lets a test kernel end the machine with a status. QEMU's device of this name. Reads give all ones. */
#include "device/debug_exit.h"

#include "vm/bus.h"

static void debug_exit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)offset, (void)size;
	vm_debug_exit(opaque, (int)((value << 1 | 1) & 0xff));
}

static const struct io_ops debug_exit_ops = { .write = debug_exit_write, .max_size = 4 };

int debug_exit_create(struct vm *vm, uint16_t iobase, uint16_t iosize, struct error *err)
{
	if (iosize < 1 || iosize > 4)
		return error_set(err, 0, "isa-debug-exit: iosize %u is not 1 to 4", iosize);
	return bus_add(&vm->pio,
		       &(struct io_region){ "isa-debug-exit", iobase, iosize, &debug_exit_ops, vm },
		       err);
}
