/* SPDX-License-Identifier: MIT */
/*
 * PCI: one bus, its devices, their configuration space, base address registers and INTx pins.
 *
 * A device embeds struct pci_device, fills in identity, operations and BARs with the functions
 * below and hands it to pci_device_add(). Configuration accesses arrive from pci_host.c (ports
 * 0xcf8/0xcfc and ECAM) under bus->lock. A BAR is a list of windows, each an io_region of its own,
 * so that an access reaches its handler without a second lookup. Windows are put on vm->pio and
 * vm->mmio while the command register enables decoding, and taken off otherwise.
 *
 * Source: PCI Local Bus Specification 3.0, chapter 6 (configuration space), 2.2.6 (interrupt pins).
 */
#ifndef LODGE_DEVICE_PCI_H
#define LODGE_DEVICE_PCI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/util.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

struct vm;
struct msix;
struct pci_bus;
struct pci_device;

/* Configuration space offsets and bits of the type 0 header (PCI 3.0, 6.1 and 6.2). */
enum {
	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION_ID = 0x08,
	PCI_CLASS_PROG = 0x09,
	PCI_CLASS_DEVICE = 0x0a,
	PCI_CACHE_LINE_SIZE = 0x0c,
	PCI_LATENCY_TIMER = 0x0d,
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e,
	PCI_ROM_BASE = 0x30,
	PCI_CAPABILITY_LIST = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d,
};
#define PCI_COMMAND_IO BIT(0)
#define PCI_COMMAND_MEMORY BIT(1)
#define PCI_COMMAND_MASTER BIT(2)
#define PCI_COMMAND_INTX_DISABLE BIT(10)
#define PCI_STATUS_INTERRUPT BIT(3)
#define PCI_STATUS_CAP_LIST BIT(4)
#define PCI_CAP_ID_VENDOR 0x09
#define PCI_CAP_ID_MSIX 0x11

#define PCI_CONFIG_SIZE 256
#define PCI_BAR_COUNT 6
#define PCI_WINDOW_MAX 8 /* windows of one BAR */
#define PCI_SLOT_MAX 32
#define PCI_IRQ_MAX 16

#define PCI_DEVFN(slot, function) ((uint8_t)((slot) << 3 | (function)))
#define PCI_SLOT(devfn) ((devfn) >> 3)

enum pci_bar_kind {
	PCI_BAR_NONE,
	PCI_BAR_IO,
	PCI_BAR_MEMORY32,
	PCI_BAR_MEMORY64, /* takes two BARs */
};

struct pci_window {
	const char *name;
	uint64_t offset, size; /* within the BAR */
	const struct io_ops *ops;
	void *opaque;
	bool mapped;
};

struct pci_bar {
	enum pci_bar_kind kind;
	bool prefetchable;
	uint64_t size; /* a power of two; I/O: 4 .. 256; memory: 16 at least, usually 4 KiB up */
	unsigned window_count;
	struct pci_window windows[PCI_WINDOW_MAX];
	bool mapped;
	uint64_t base; /* where it is mapped now */
};

struct pci_device_ops {
	/* Put the device into its power-on state; configuration registers are already reset. May
	 * be NULL. */
	void (*reset)(struct pci_device *dev);
	/* Free the device. Called by pci_bus_destroy(). */
	void (*destroy)(struct pci_device *dev);
	/* Registers with behaviour of their own. Called under bus->lock. before_read may refresh
	 * dev->config before [offset, offset+size) is read; after_write sees it written. May be
	 * NULL. */
	void (*before_read)(struct pci_device *dev, unsigned offset, unsigned size);
	void (*after_write)(struct pci_device *dev, unsigned offset, unsigned size);
};

struct pci_device {
	struct pci_bus *bus;
	char name[32]; /* for messages: "virtio-blk 00:02.0" */
	uint8_t devfn;
	const struct pci_device_ops *ops;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t reset_config[PCI_CONFIG_SIZE]; /* contents after reset */
	uint8_t write_mask[PCI_CONFIG_SIZE];   /* bits the guest can change */
	struct pci_bar bars[PCI_BAR_COUNT];
	uint8_t next_capability; /* offset at which the next capability goes */
	uint8_t last_capability;
	bool intx_level;        /* what the device asks for */
	bool intx_driven;       /* what is on the wire: intx_level unless disabled */
	atomic_bool bus_master; /* copy of the command bit, for threads that do not hold the lock */
	struct msix *msix;      /* NULL: none */
};

struct pci_irq {
	struct irq_line line;
	uint8_t number;  /* what the interrupt line register says: ISA IRQ or GSI */
	unsigned levels; /* devices that hold it high */
};

struct pci_bus {
	struct vm *vm;
	pthread_mutex_t lock;            /* configuration space of all devices, mappings */
	pthread_mutex_t irq_lock;        /* INTx levels; taken inside lock and devices' locks */
	struct pci_device *devices[256]; /* by devfn */
	unsigned irq_count;
	struct pci_irq irqs[PCI_IRQ_MAX];
	struct pci_host *host;
};

/* ---- for boards ---- */

/* Create bus 0 with its host bridge at 00:00.0 and the ports 0xcf8..0xcff. NULL on failure. */
struct pci_bus *pci_bus_create(struct vm *vm, struct error *err);

/* Reset every device: commands and BARs cleared. Then pci_assign_bars() again if there is no
 * firmware. All vCPUs stopped. */
void pci_bus_reset(struct pci_bus *bus);

/* Destroy all devices and the bus. After the vCPUs and the event loop have ended. */
void pci_bus_destroy(struct pci_bus *bus);

/* Map the enhanced configuration window at base (1 MiB for each bus number: 256 MiB for all). */
int pci_bus_add_ecam(struct pci_bus *bus, uint64_t base, uint64_t size, struct error *err);

/*
 * Wire the INTx pins: call count times before adding devices, with n = 0 .. count - 1 (4 or 8
 * usual, at most PCI_IRQ_MAX). Pin p (0: INTA) of slot s is wired to entry (s + p) % count, which
 * the ACPI tables must repeat. Lines are level triggered, active high; number goes to the interrupt
 * line register.
 */
void pci_bus_set_irq(struct pci_bus *bus, unsigned n, const struct irq_line *line, uint8_t number);
/* The entry that a pin is wired to. */
unsigned pci_bus_irq_index(const struct pci_bus *bus, unsigned slot, unsigned pin);

/*
 * What firmware would do: give every BAR an address, largest first, and the interrupt line
 * registers their numbers. 64-bit BARs go to [mmio_base, +mmio_size) too. With enable, memory and
 * I/O decoding and bus mastering are switched on (multiboot and PVH guests expect it; Linux does
 * not mind). io_size 0: there is no I/O window; I/O BARs stay unassigned. Before the vCPUs start,
 * or with all stopped.
 */
int pci_assign_bars(struct pci_bus *bus, uint64_t mmio_base, uint64_t mmio_size, uint16_t io_base,
		    uint32_t io_size, bool enable, struct error *err);

/* ---- for devices ---- */

/* Fill identity: class is class code << 16 | subclass << 8 | programming interface. Before
 * everything else. */
void pci_device_init(struct pci_device *dev, const char *name, const struct pci_device_ops *ops,
		     uint16_t vendor, uint16_t device, uint32_t class_code, uint8_t revision);
void pci_device_set_subsystem(struct pci_device *dev, uint16_t vendor, uint16_t id);
/* Use pin INTA. */
void pci_device_use_intx(struct pci_device *dev);

/* Describe BAR n; size a power of two. */
void pci_device_add_bar(struct pci_device *dev, unsigned n, enum pci_bar_kind kind, uint64_t size,
			bool prefetchable);
/* Put a window with its handlers into BAR n. */
void pci_device_add_window(struct pci_device *dev, unsigned n, const char *name, uint64_t offset,
			   uint64_t size, const struct io_ops *ops, void *opaque);

/* Append a capability of len bytes (header included, 2 or more); returns its offset, or 0 if
 * there is no room. Contents start as zero and read-only: set dev->config, then write_mask where
 * the guest may write. */
unsigned pci_device_add_capability(struct pci_device *dev, uint8_t id, unsigned len);

/* Put the device on the bus in a slot (1..31), or the first free one (slot < 0), and register
 * its state. The bus owns it from then on (also its destruction); on failure the caller keeps
 * it. */
int pci_device_add(struct pci_bus *bus, struct pci_device *dev, int slot, struct error *err);

/* Set the level of the device's INTx pin. Any thread, any lock of the device held. */
void pci_set_intx(struct pci_device *dev, bool level);

/* Configuration access with sizes 1, 2, 4 at natural alignment; takes bus->lock. For pci_host.c
 * and tests. */
uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned offset, unsigned size);
void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned offset, uint32_t value,
		      unsigned size);

/* Is there a device in this slot? */
static inline bool pci_device_present(const struct pci_bus *bus, unsigned slot)
{
	return bus->devices[PCI_DEVFN(slot, 0)] != NULL;
}

#endif
