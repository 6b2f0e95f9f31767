/* SPDX-License-Identifier: MIT */
/*
 * The host bridge (00:00.0) and the two ways to reach configuration space.
 *
 * Mechanism #1 (PCI 3.0, 3.2.2.3.2): a dword written to port 0xcf8 selects bus, device, function
 * and register; ports 0xcfc..0xcff are then that register, by byte, word or dword. Only dword
 * accesses reach the address register; a byte access to 0xcf9 is the reset control register that PC
 * chip sets keep there (Intel ICH9 datasheet, 13.7.5). ECAM (PCI Express 4.0, 7.2.2): a memory
 * window with 4 KiB for each function. Our devices are conventional: bytes beyond the first 256
 * read as ones.
 *
 * The address register is one per machine; systems serialize its use, so a relaxed atomic is all it
 * needs.
 */
#include "device/pci_host.h"

#include <stdio.h>

#include "device/pci.h"
#include "vm/vm.h"

#define ADDRESS_PORT 0xcf8
#define ADDRESS_ENABLE BIT(31)
#define ADDRESS_WRITABLE 0x80fffffcu
#define RESET_CPU BIT(2) /* 0xcf9: a rising edge resets */
#define RESET_WRITABLE 0x0e

/* Red Hat's generic host bridge, which every system takes for what it is: nothing to configure. */
#define HOST_VENDOR 0x1b36
#define HOST_DEVICE 0x0008
#define HOST_CLASS 0x060000

struct pci_host {
	struct pci_device pci;
	uint32_t address;      /* port 0xcf8 */
	uint8_t reset_control; /* port 0xcf9 */
	uint64_t ecam_base;
};

/* ---- ports ---- */

static uint64_t data_read(struct pci_host *host, unsigned byte, unsigned size)
{
	uint32_t address = __atomic_load_n(&host->address, __ATOMIC_RELAXED);

	if (!(address & ADDRESS_ENABLE) || (address >> 16 & 0xff))
		return UINT32_MAX;
	return pci_config_read(host->pci.bus, address >> 8, (address & 0xfc) + byte, size);
}

static void data_write(struct pci_host *host, unsigned byte, uint32_t value, unsigned size)
{
	uint32_t address = __atomic_load_n(&host->address, __ATOMIC_RELAXED);

	if ((address & ADDRESS_ENABLE) && !(address >> 16 & 0xff))
		pci_config_write(host->pci.bus, address >> 8, (address & 0xfc) + byte, value, size);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_host *host = opaque;

	if (offset >= 4)
		return data_read(host, offset - 4, size);
	if (offset == 0 && size == 4)
		return __atomic_load_n(&host->address, __ATOMIC_RELAXED);
	if (offset == 1 && size == 1)
		return host->reset_control;
	return UINT32_MAX;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_host *host = opaque;

	if (offset >= 4) {
		data_write(host, offset - 4, value, size);
	} else if (offset == 0 && size == 4) {
		__atomic_store_n(&host->address, value & ADDRESS_WRITABLE, __ATOMIC_RELAXED);
	} else if (offset == 1 && size == 1) {
		bool rising = (value & RESET_CPU) && !(host->reset_control & RESET_CPU);

		host->reset_control = value & RESET_WRITABLE & ~RESET_CPU;
		if (rising)
			vm_reset(host->pci.bus->vm);
	}
}

static const struct io_ops port_ops = { port_read, port_write, 1, 4 };

/* ---- ECAM ---- */

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_host *host = opaque;

	if (offset >> 20) /* only bus 0 has devices */
		return UINT32_MAX;
	return pci_config_read(host->pci.bus, offset >> 12, offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_host *host = opaque;

	if (!(offset >> 20))
		pci_config_write(host->pci.bus, offset >> 12, offset & 0xfff, value, size);
}

static const struct io_ops ecam_ops = { ecam_read, ecam_write, 1, 4 };

/* ---- the device ---- */

static void host_reset(struct pci_device *dev)
{
	struct pci_host *host = container_of(dev, struct pci_host, pci);

	host->address = 0;
	host->reset_control = 0;
}

static void host_destroy(struct pci_device *dev)
{
	struct pci_host *host = container_of(dev, struct pci_host, pci);
	struct vm *vm = dev->bus->vm;

	bus_remove(&vm->pio, ADDRESS_PORT, host);
	if (host->ecam_base)
		bus_remove(&vm->mmio, host->ecam_base, host);
	free(host);
}

static const struct pci_device_ops host_ops = { .reset = host_reset, .destroy = host_destroy };

static const struct state_field host_fields[] = {
	STATE_FIELD(struct pci_host, address),
	STATE_FIELD(struct pci_host, reset_control),
	STATE_END,
};

static const struct state_table host_state = { .name = "pci-host",
					       .version = 1,
					       .fields = host_fields };

int pci_host_create(struct pci_bus *bus, struct error *err)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	struct io_region ports = { "pci-config-ports", ADDRESS_PORT, 8, &port_ops, host };

	if (!host)
		return error_set(err, 0, "cannot create the PCI host bridge: out of memory");
	pci_device_init(&host->pci, "host-bridge", &host_ops, HOST_VENDOR, HOST_DEVICE, HOST_CLASS,
			0);
	if (bus_add(&bus->vm->pio, &ports, err) < 0) {
		free(host);
		return error_prefix(err, "cannot create the PCI host bridge");
	}
	if (pci_device_add(bus, &host->pci, 0, err) < 0) {
		bus_remove(&bus->vm->pio, ADDRESS_PORT, host);
		free(host);
		return -1;
	}
	vm_state_register(bus->vm, &host_state, 0, host);
	bus->host = host;
	return 0;
}

int pci_host_add_ecam(struct pci_host *host, uint64_t base, uint64_t size, struct error *err)
{
	struct io_region region = { "pci-ecam", base, size, &ecam_ops, host };

	if (bus_add(&host->pci.bus->vm->mmio, &region, err) < 0)
		return error_prefix(err, "cannot place the PCI configuration window");
	host->ecam_base = base;
	return 0;
}
