/* SPDX-License-Identifier: MIT */
/*
 * QEMU's pc-testdev, with which test kernels (kvm-unit-tests) exercise I/O and interrupt paths:
 *
 *	ports 0xe0-0xe3      a 32-bit register, readable and writable in any size
 *	ports 0xe4-0xe7      write of a guest-physical address: the page's mapping is to be forgotten
 *	ports 0xe8-0xeb      the same register as 0xe0, accessed byte by byte
 *	ports 0x2000-0x2017  write of a level to the interrupt line of that number
 *	memory 0xff000000    64 KiB that are reached as MMIO
 */
#include "device/pc_testdev.h"

#include <errno.h>

#include "base/util.h"

#define IOMEM_SIZE 0x10000

struct pc_testdev {
	pthread_mutex_t lock;
	struct vm *vm;
	struct irq_line lines[PC_TESTDEV_LINES];
	uint8_t port[4];
	uint8_t iomem[IOMEM_SIZE];
};

static const struct state_field testdev_fields[] = {
	STATE_ARRAY(struct pc_testdev, port),
	STATE_BUFFER(struct pc_testdev, iomem),
	STATE_END,
};
static const struct state_table testdev_table = { .name = "pc-testdev",
						  .version = 1,
						  .fields = testdev_fields };

static uint64_t read_bytes(struct pc_testdev *dev, const uint8_t *from, uint64_t room,
			   unsigned size)
{
	uint64_t value = 0;

	pthread_mutex_lock(&dev->lock);
	memcpy(&value, from, MIN(room, size));
	pthread_mutex_unlock(&dev->lock);
	return value;
}

static void write_bytes(struct pc_testdev *dev, uint8_t *to, uint64_t room, uint64_t value,
			unsigned size)
{
	pthread_mutex_lock(&dev->lock);
	memcpy(to, &value, MIN(room, size));
	pthread_mutex_unlock(&dev->lock);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pc_testdev *dev = opaque;

	return read_bytes(dev, dev->port + (offset & 3), 4 - (offset & 3), size);
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pc_testdev *dev = opaque;

	write_bytes(dev, dev->port + (offset & 3), 4 - (offset & 3), value, size);
}

/* Guest mappings are never shared with the host's: what the guest can see is that the page was "written". */
static void flush_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pc_testdev *dev = opaque;

	(void)offset, (void)size;
	guest_memory_written(dev->vm, value & ~0xfffull, PAGE_SIZE);
}

static void line_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pc_testdev *dev = opaque;

	(void)size;
	if (offset < PC_TESTDEV_LINES)
		irq_set(&dev->lines[offset], value != 0);
}

static uint64_t iomem_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pc_testdev *dev = opaque;

	offset &= IOMEM_SIZE - 1;
	return read_bytes(dev, dev->iomem + offset, IOMEM_SIZE - offset, size);
}

static void iomem_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pc_testdev *dev = opaque;

	offset &= IOMEM_SIZE - 1;
	write_bytes(dev, dev->iomem + offset, IOMEM_SIZE - offset, value, size);
}

static const struct io_ops port_ops = { .read = port_read, .write = port_write, .max_size = 4 };
static const struct io_ops byte_ops = { .read = port_read, .write = port_write, .max_size = 1 };
static const struct io_ops flush_ops = { .write = flush_write, .min_size = 4, .max_size = 4 };
static const struct io_ops line_ops = { .write = line_write, .max_size = 1 };
static const struct io_ops iomem_ops = { .read = iomem_read, .write = iomem_write };

static void testdev_reset(void *opaque)
{
	struct pc_testdev *dev = opaque;

	pthread_mutex_lock(&dev->lock);
	memset(dev->port, 0, sizeof(dev->port));
	memset(dev->iomem, 0, sizeof(dev->iomem));
	pthread_mutex_unlock(&dev->lock);
}

static void testdev_destroy(void *opaque)
{
	struct pc_testdev *dev = opaque;

	pthread_mutex_destroy(&dev->lock);
	free(dev);
}

int pc_testdev_create(struct vm *vm, const struct irq_line lines[PC_TESTDEV_LINES],
		      struct error *err)
{
	struct pc_testdev *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return error_set(err, ENOMEM, "out of memory for pc-testdev");
	dev->vm = vm;
	memcpy(dev->lines, lines, sizeof(dev->lines));
	pthread_mutex_init(&dev->lock, NULL);
	vm_add_cleanup(vm, testdev_destroy, dev);
	vm_add_reset(vm, testdev_reset, dev);
	vm_state_register(vm, &testdev_table, 0, dev);
	if (bus_add(&vm->pio, &(struct io_region){ "pc-testdev-ioport", 0xe0, 4, &port_ops, dev },
		    err) ||
	    bus_add(&vm->pio,
		    &(struct io_region){ "pc-testdev-flush-page", 0xe4, 4, &flush_ops, dev },
		    err) ||
	    bus_add(&vm->pio,
		    &(struct io_region){ "pc-testdev-ioport-byte", 0xe8, 4, &byte_ops, dev },
		    err) ||
	    bus_add(&vm->pio,
		    &(struct io_region){ "pc-testdev-irq-line", 0x2000, PC_TESTDEV_LINES, &line_ops,
					 dev },
		    err) ||
	    bus_add(&vm->mmio,
		    &(struct io_region){ "pc-testdev-iomem", 0xff000000, IOMEM_SIZE, &iomem_ops,
					 dev },
		    err))
		return -1;
	return 0;
}
