/* SPDX-License-Identifier: MIT */
/*
 * PCI: configuration space, BAR decoding and INTx of the devices on one bus.
 *
 * Every register is plain storage with a write mask; what has behaviour is recognized after the
 * write: the command register and BARs (decoding), MSI-X control, and whatever the device's hook
 * wants. BAR sizing works by itself, since the low bits of a BAR are outside its write mask.
 *
 * Mappings: sync_device() compares what the registers ask for with what is on the buses. A window
 * that the bus refuses (its table is full) stays off and is tried again when something else has
 * been unmapped.
 *
 * Locks: bus->lock around configuration space and mappings; bus->irq_lock, a leaf, around pin
 * levels. A device may hold its own lock when it sets its pin, so irq_lock is never held around
 * calls into devices.
 *
 * Source: PCI Local Bus Specification 3.0, chapter 6 and 2.2.6. Left out: error reporting (SERR,
 * parity), expansion ROMs, bridges, power management: none of our devices needs them.
 */
#include "device/pci.h"

#include <stdio.h>

#include "base/log.h"
#include "device/msix.h"
#include "device/pci_host.h"
#include "vm/vm.h"

#define FIRST_CAPABILITY 0x40
#define COMMAND_WRITABLE                                                                           \
	(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

static uint16_t command(const struct pci_device *dev)
{
	return load_le16(dev->config + PCI_COMMAND);
}

/* ---- decoding ---- */

static struct bus *bar_bus(struct pci_device *dev, const struct pci_bar *bar)
{
	struct vm *vm = dev->bus->vm;

	return bar->kind == PCI_BAR_IO ? &vm->pio : &vm->mmio;
}

/* The address in a BAR's register(s); false if it decodes nothing now. */
static bool bar_wanted(const struct pci_device *dev, unsigned n, uint64_t *base)
{
	const struct pci_bar *bar = &dev->bars[n];
	const uint8_t *reg = dev->config + PCI_BAR0 + 4 * n;
	uint64_t limit = UINT32_MAX, address;

	switch (bar->kind) {
	case PCI_BAR_NONE:
		return false;
	case PCI_BAR_IO:
		if (!(command(dev) & PCI_COMMAND_IO))
			return false;
		limit = 0x10000;
		address = load_le32(reg) & ~3u;
		break;
	case PCI_BAR_MEMORY32:
		if (!(command(dev) & PCI_COMMAND_MEMORY))
			return false;
		address = load_le32(reg) & ~15u;
		break;
	case PCI_BAR_MEMORY64:
		if (!(command(dev) & PCI_COMMAND_MEMORY))
			return false;
		limit = dev->bus->vm->mmio.limit;
		address = load_le64(reg) & ~15ull;
		break;
	default:
		return false;
	}
	/* Address 0 means not assigned, and the top is what a guest writes to learn the size. */
	if (!address || address > limit || bar->size > limit - address)
		return false;
	*base = address;
	return true;
}

static void bar_unmap(struct pci_device *dev, struct pci_bar *bar)
{
	for (unsigned i = 0; i < bar->window_count; i++) {
		struct pci_window *window = &bar->windows[i];

		if (window->mapped)
			bus_remove(bar_bus(dev, bar), bar->base + window->offset, window->opaque);
		window->mapped = false;
	}
	bar->mapped = false;
}

/* Put the windows that are not there yet on the bus. */
static void bar_map_windows(struct pci_device *dev, struct pci_bar *bar)
{
	for (unsigned i = 0; i < bar->window_count; i++) {
		struct pci_window *window = &bar->windows[i];
		struct io_region region = {
			.name = window->name,
			.base = bar->base + window->offset,
			.size = window->size,
			.ops = window->ops,
			.opaque = window->opaque,
		};

		if (!window->mapped)
			window->mapped = bus_add(bar_bus(dev, bar), &region, NULL) == 0;
	}
}

/* Unmap what has moved or gone; returns whether anything was unmapped. */
static bool unmap_stale(struct pci_device *dev)
{
	bool changed = false;
	uint64_t base;

	for (unsigned n = 0; n < PCI_BAR_COUNT; n++) {
		struct pci_bar *bar = &dev->bars[n];

		if (bar->mapped && !(bar_wanted(dev, n, &base) && base == bar->base)) {
			bar_unmap(dev, bar);
			changed = true;
		}
	}
	return changed;
}

static void map_wanted(struct pci_device *dev)
{
	uint64_t base;

	for (unsigned n = 0; n < PCI_BAR_COUNT; n++) {
		struct pci_bar *bar = &dev->bars[n];

		if (!bar_wanted(dev, n, &base))
			continue;
		bar->mapped = true;
		bar->base = base;
		bar_map_windows(dev, bar);
	}
}

/* Windows that found no room on the bus before. */
static void retry_windows(struct pci_device *dev)
{
	for (unsigned n = 0; n < PCI_BAR_COUNT; n++)
		if (dev->bars[n].mapped)
			bar_map_windows(dev, &dev->bars[n]);
}

static void update_intx(struct pci_device *dev);

/* Make mappings, the bus master flag and the pin agree with the registers. Under bus->lock. */
static void sync_device(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;
	bool changed = unmap_stale(dev);

	map_wanted(dev);
	if (changed)
		for (unsigned i = 0; i < ARRAY_SIZE(bus->devices); i++)
			if (bus->devices[i] && bus->devices[i] != dev)
				retry_windows(bus->devices[i]);
	atomic_store(&dev->bus_master, command(dev) & PCI_COMMAND_MASTER);
	pthread_mutex_lock(&bus->irq_lock);
	update_intx(dev);
	pthread_mutex_unlock(&bus->irq_lock);
}

/* ---- interrupt pins ---- */

unsigned pci_bus_irq_index(const struct pci_bus *bus, unsigned slot, unsigned pin)
{
	return bus->irq_count ? (slot + pin) % bus->irq_count : 0;
}

void pci_bus_set_irq(struct pci_bus *bus, unsigned n, const struct irq_line *line, uint8_t number)
{
	if (n >= PCI_IRQ_MAX)
		return;
	bus->irqs[n].line = *line;
	bus->irqs[n].number = number;
	bus->irq_count = MAX(bus->irq_count, n + 1);
}

/* Under irq_lock: devices share lines, so a line is high while any of them drives it. */
static void update_intx(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;
	bool drive = dev->intx_level && !(command(dev) & PCI_COMMAND_INTX_DISABLE);
	struct pci_irq *irq;

	if (drive == dev->intx_driven || !bus->irq_count || !dev->config[PCI_INTERRUPT_PIN])
		return;
	irq = &bus->irqs[pci_bus_irq_index(bus, PCI_SLOT(dev->devfn),
					   dev->config[PCI_INTERRUPT_PIN] - 1)];
	dev->intx_driven = drive;
	if (drive && irq->levels++ == 0)
		irq_set(&irq->line, true);
	if (!drive && --irq->levels == 0)
		irq_set(&irq->line, false);
}

void pci_set_intx(struct pci_device *dev, bool level)
{
	struct pci_bus *bus = dev->bus;

	pthread_mutex_lock(&bus->irq_lock);
	dev->intx_level = level;
	update_intx(dev);
	pthread_mutex_unlock(&bus->irq_lock);
}

/* ---- configuration space ---- */

static bool touches(unsigned offset, unsigned size, unsigned first, unsigned len)
{
	return offset < first + len && offset + size > first;
}

static uint32_t all_ones(unsigned size)
{
	return size >= 4 ? UINT32_MAX : (1u << 8 * size) - 1;
}

uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned offset, unsigned size)
{
	struct pci_device *dev = bus->devices[devfn];
	uint32_t value = 0;

	if (!dev || size > 4 || offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset)
		return all_ones(size);
	pthread_mutex_lock(&bus->lock);
	if (dev->ops->before_read)
		dev->ops->before_read(dev, offset, size);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = dev->config[offset + i];

		if (offset + i == PCI_STATUS && __atomic_load_n(&dev->intx_level, __ATOMIC_RELAXED))
			byte |= PCI_STATUS_INTERRUPT;
		value |= (uint32_t)byte << 8 * i;
	}
	pthread_mutex_unlock(&bus->lock);
	return value;
}

void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned offset, uint32_t value,
		      unsigned size)
{
	struct pci_device *dev = bus->devices[devfn];

	if (!dev || size > 4 || offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset)
		return;
	pthread_mutex_lock(&bus->lock);
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = dev->write_mask[offset + i];

		dev->config[offset + i] = (dev->config[offset + i] & ~mask) |
					  ((value >> 8 * i) & mask);
	}
	if (touches(offset, size, PCI_COMMAND, 2) ||
	    touches(offset, size, PCI_BAR0, 4 * PCI_BAR_COUNT))
		sync_device(dev);
	if (dev->msix)
		msix_control_written(dev);
	if (dev->ops->after_write)
		dev->ops->after_write(dev, offset, size);
	pthread_mutex_unlock(&bus->lock);
}

/* ---- building a device ---- */

void pci_device_init(struct pci_device *dev, const char *name, const struct pci_device_ops *ops,
		     uint16_t vendor, uint16_t device, uint32_t class_code, uint8_t revision)
{
	uint8_t *config = dev->config;

	snprintf(dev->name, sizeof(dev->name), "%s", name);
	dev->ops = ops;
	dev->next_capability = FIRST_CAPABILITY;
	store_le16(config + PCI_VENDOR_ID, vendor);
	store_le16(config + PCI_DEVICE_ID, device);
	config[PCI_REVISION_ID] = revision;
	config[PCI_CLASS_PROG] = class_code;
	store_le16(config + PCI_CLASS_DEVICE, class_code >> 8);
	store_le16(dev->write_mask + PCI_COMMAND, COMMAND_WRITABLE);
	dev->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
	dev->write_mask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_device_set_subsystem(struct pci_device *dev, uint16_t vendor, uint16_t id)
{
	store_le16(dev->config + PCI_SUBSYSTEM_VENDOR_ID, vendor);
	store_le16(dev->config + PCI_SUBSYSTEM_ID, id);
}

void pci_device_use_intx(struct pci_device *dev)
{
	dev->config[PCI_INTERRUPT_PIN] = 1;
}

void pci_device_add_bar(struct pci_device *dev, unsigned n, enum pci_bar_kind kind, uint64_t size,
			bool prefetchable)
{
	struct pci_bar *bar = &dev->bars[n];
	uint8_t *reg = dev->config + PCI_BAR0 + 4 * n;
	uint8_t *mask = dev->write_mask + PCI_BAR0 + 4 * n;

	bar->kind = kind;
	bar->size = size;
	bar->prefetchable = prefetchable;
	switch (kind) {
	case PCI_BAR_NONE:
		break;
	case PCI_BAR_IO:
		store_le32(reg, 1);
		store_le32(mask, (uint32_t) ~(size - 1) & ~3u);
		break;
	case PCI_BAR_MEMORY32:
		store_le32(reg, prefetchable ? 8 : 0);
		store_le32(mask, (uint32_t) ~(size - 1) & ~15u);
		break;
	case PCI_BAR_MEMORY64:
		store_le32(reg, prefetchable ? 12 : 4);
		store_le64(mask, ~(size - 1) & ~15ull);
		break;
	}
}

void pci_device_add_window(struct pci_device *dev, unsigned n, const char *name, uint64_t offset,
			   uint64_t size, const struct io_ops *ops, void *opaque)
{
	struct pci_bar *bar = &dev->bars[n];

	if (bar->window_count == PCI_WINDOW_MAX)
		return;
	bar->windows[bar->window_count++] = (struct pci_window){
		.name = name, .offset = offset, .size = size, .ops = ops, .opaque = opaque
	};
}

unsigned pci_device_add_capability(struct pci_device *dev, uint8_t id, unsigned len)
{
	unsigned at = dev->next_capability, next = ALIGN_UP(at + len, 4u);

	if (len < 2 || next > PCI_CONFIG_SIZE - 4)
		return 0;
	dev->config[at] = id;
	dev->config[at + 1] = 0;
	dev->config[dev->last_capability ? dev->last_capability + 1 : PCI_CAPABILITY_LIST] = at;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	dev->last_capability = at;
	dev->next_capability = next;
	return at;
}

/* ---- saved state ---- */

/* Bits the guest cannot write are the device's own, whatever an image says. */
static int after_load(void *object, struct error *err)
{
	struct pci_device *dev = object;
	struct pci_bus *bus = dev->bus;

	(void)err;
	pthread_mutex_lock(&bus->lock);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		dev->config[i] = (dev->config[i] & dev->write_mask[i]) |
				 (dev->reset_config[i] & ~dev->write_mask[i]);
	sync_device(dev);
	if (dev->msix)
		msix_control_written(dev);
	pthread_mutex_unlock(&bus->lock);
	return 0;
}

static const struct state_field device_fields[] = {
	STATE_BUFFER(struct pci_device, config),
	STATE_FIELD(struct pci_device, intx_level),
	STATE_END,
};

static const struct state_table device_state = {
	.name = "pci-device",
	.version = 1,
	.fields = device_fields,
	.after_load = after_load,
};

/* ---- the bus ---- */

static int check_slot(struct pci_bus *bus, struct pci_device *dev, int *slot, struct error *err)
{
	if (*slot < 0)
		for (*slot = 1; *slot < PCI_SLOT_MAX && bus->devices[PCI_DEVFN(*slot, 0)];
		     (*slot)++)
			;
	if (*slot >= PCI_SLOT_MAX)
		return error_set(err, 0, "cannot add %s: all %d slots of the PCI bus are taken",
				 dev->name, PCI_SLOT_MAX);
	if (bus->devices[PCI_DEVFN(*slot, 0)])
		return error_set(err, 0, "cannot add %s: PCI slot %d is taken by %s", dev->name,
				 *slot, bus->devices[PCI_DEVFN(*slot, 0)]->name);
	return 0;
}

int pci_device_add(struct pci_bus *bus, struct pci_device *dev, int slot, struct error *err)
{
	size_t len;

	if (check_slot(bus, dev, &slot, err) < 0)
		return -1;
	dev->bus = bus;
	dev->devfn = PCI_DEVFN(slot, 0);
	len = strlen(dev->name);
	snprintf(dev->name + len, sizeof(dev->name) - len, " 00:%02x.0", slot);
	memcpy(dev->reset_config, dev->config, sizeof(dev->config));
	bus->devices[dev->devfn] = dev;
	vm_state_register(bus->vm, &device_state, dev->devfn, dev);
	if (dev->msix)
		msix_register_state(dev);
	return 0;
}

struct pci_bus *pci_bus_create(struct vm *vm, struct error *err)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));

	if (!bus) {
		error_set(err, 0, "cannot create the PCI bus: out of memory");
		return NULL;
	}
	bus->vm = vm;
	pthread_mutex_init(&bus->lock, NULL);
	pthread_mutex_init(&bus->irq_lock, NULL);
	if (pci_host_create(bus, err) < 0) {
		pci_bus_destroy(bus);
		return NULL;
	}
	return bus;
}

int pci_bus_add_ecam(struct pci_bus *bus, uint64_t base, uint64_t size, struct error *err)
{
	return pci_host_add_ecam(bus->host, base, size, err);
}

static void reset_device(struct pci_device *dev)
{
	pthread_mutex_lock(&dev->bus->lock);
	memcpy(dev->config, dev->reset_config, sizeof(dev->config));
	sync_device(dev);
	if (dev->msix)
		msix_reset(dev);
	pthread_mutex_unlock(&dev->bus->lock);
	if (dev->ops->reset)
		dev->ops->reset(dev);
	pci_set_intx(dev, false);
}

void pci_bus_reset(struct pci_bus *bus)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bus->devices); i++)
		if (bus->devices[i])
			reset_device(bus->devices[i]);
}

void pci_bus_destroy(struct pci_bus *bus)
{
	if (!bus)
		return;
	for (unsigned i = ARRAY_SIZE(bus->devices); i-- > 0;) {
		struct pci_device *dev = bus->devices[i];

		if (!dev)
			continue;
		for (unsigned n = 0; n < PCI_BAR_COUNT; n++)
			if (dev->bars[n].mapped)
				bar_unmap(dev, &dev->bars[n]);
		dev->ops->destroy(dev);
	}
	pthread_mutex_destroy(&bus->lock);
	pthread_mutex_destroy(&bus->irq_lock);
	free(bus);
}

/* ---- what firmware does ---- */

struct bar_place {
	struct pci_device *dev;
	unsigned n;
};

static int by_size_descending(const void *a, const void *b)
{
	const struct bar_place *x = a, *y = b;
	uint64_t size_x = x->dev->bars[x->n].size, size_y = y->dev->bars[y->n].size;

	if (size_x != size_y)
		return size_x < size_y ? 1 : -1;
	if (x->dev->devfn != y->dev->devfn)
		return x->dev->devfn < y->dev->devfn ? -1 : 1;
	return x->n < y->n ? -1 : 1;
}

struct range_allocator {
	uint64_t next, end;
};

/* Take size bytes aligned to size. */
static bool allocate_range(struct range_allocator *range, uint64_t size, uint64_t *base)
{
	uint64_t at = ALIGN_UP(range->next, size);

	if (at < range->next || at > range->end || size > range->end - at)
		return false;
	*base = at;
	range->next = at + size;
	return true;
}

static int assign_bar(struct bar_place *place, struct range_allocator *memory,
		      struct range_allocator *io, struct error *err)
{
	struct pci_device *dev = place->dev;
	struct pci_bar *bar = &dev->bars[place->n];
	uint8_t *reg = dev->config + PCI_BAR0 + 4 * place->n;
	bool is_io = bar->kind == PCI_BAR_IO;
	uint64_t base;

	if (is_io && io->next == io->end)
		return 0;
	if (!allocate_range(is_io ? io : memory, bar->size, &base))
		return error_set(err, 0,
				 "cannot place BAR %u of %s (%llu bytes): the %s window is full",
				 place->n, dev->name, (unsigned long long)bar->size,
				 is_io ? "PCI I/O" : "PCI memory");
	store_le32(reg, (load_le32(reg) & (is_io ? 3 : 15)) | (uint32_t)base);
	if (bar->kind == PCI_BAR_MEMORY64)
		store_le32(reg + 4, base >> 32);
	return 0;
}

int pci_assign_bars(struct pci_bus *bus, uint64_t mmio_base, uint64_t mmio_size, uint16_t io_base,
		    uint32_t io_size, bool enable, struct error *err)
{
	struct range_allocator memory = { mmio_base, mmio_base + mmio_size };
	struct range_allocator io = { io_base, (uint64_t)io_base + io_size };
	struct bar_place places[PCI_SLOT_MAX * 8 * PCI_BAR_COUNT];
	unsigned count = 0;
	int result = 0;

	pthread_mutex_lock(&bus->lock);
	for (unsigned i = 0; i < ARRAY_SIZE(bus->devices); i++)
		for (unsigned n = 0; bus->devices[i] && n < PCI_BAR_COUNT; n++)
			if (bus->devices[i]->bars[n].kind != PCI_BAR_NONE)
				places[count++] = (struct bar_place){ bus->devices[i], n };
	qsort(places, count, sizeof(places[0]), by_size_descending);
	for (unsigned i = 0; i < count && result == 0; i++)
		result = assign_bar(&places[i], &memory, &io, err);
	for (unsigned i = 0; i < ARRAY_SIZE(bus->devices) && result == 0; i++) {
		struct pci_device *dev = bus->devices[i];
		unsigned pin;

		if (!dev)
			continue;
		pin = dev->config[PCI_INTERRUPT_PIN];
		if (pin && bus->irq_count)
			dev->config[PCI_INTERRUPT_LINE] =
				bus->irqs[pci_bus_irq_index(bus, PCI_SLOT(dev->devfn), pin - 1)]
					.number;
		if (enable)
			store_le16(dev->config + PCI_COMMAND, command(dev) | PCI_COMMAND_IO |
								      PCI_COMMAND_MEMORY |
								      PCI_COMMAND_MASTER);
		sync_device(dev);
	}
	pthread_mutex_unlock(&bus->lock);
	return result;
}
