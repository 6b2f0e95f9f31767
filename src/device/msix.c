/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: a table of messages in a BAR, with masks and pending bits.
 *
 * BAR layout: the table at 0 (16 bytes an entry), the pending bits at 2048. A vector that is raised
 * while it or the whole function is masked, or bus mastering is off, sets its pending bit, and is
 * sent when both masks have gone. The lock is a leaf: nothing but msi_send() is called under it.
 *
 * Source: PCI Local Bus Specification 3.0, 6.8.2 and 6.8.3.5. Table accesses are by dword or qword
 * there; others get what the bytes hold, and partial writes are dropped.
 */
#include "device/msix.h"

#include <pthread.h>

#include "base/log.h"
#include "device/pci.h"
#include "vm/vm.h"

#define TABLE_OFFSET 0
#define PENDING_OFFSET 2048
#define ENTRY_SIZE 16
#define ENTRY_MASKED BIT(0)

/* Capability (6.8.2): message control, table offset and BAR, pending offset and BAR. */
#define CAP_LEN 12
#define CAP_CONTROL 2
#define CONTROL_FUNCTION_MASK BIT(14)
#define CONTROL_ENABLE BIT(15)

struct msix_entry {
	uint32_t address_low, address_high, data, control;
};

struct msix {
	struct pci_device *dev;
	pthread_mutex_t lock;
	unsigned count, capability;
	bool enabled, function_masked; /* copies of the control register's bits */
	struct msix_entry table[MSIX_VECTOR_MAX];
	uint32_t pending;
};

_Static_assert(MSIX_VECTOR_MAX <= 32, "pending bits are one word");
_Static_assert(MSIX_VECTOR_MAX *ENTRY_SIZE <= PENDING_OFFSET,
	       "the table ends where the pending bits begin");

/* Under the lock. */
static void send_or_pend(struct msix *msix, unsigned n)
{
	struct msix_entry *entry = &msix->table[n];

	if (msix->function_masked || (entry->control & ENTRY_MASKED) ||
	    !atomic_load_explicit(&msix->dev->bus_master, memory_order_relaxed)) {
		msix->pending |= BIT(n);
		return;
	}
	msix->pending &= ~BIT(n);
	msi_send(msix->dev->bus->vm, (uint64_t)entry->address_high << 32 | entry->address_low,
		 entry->data);
}

static void deliver_pending(struct msix *msix)
{
	if (!msix->enabled || msix->function_masked)
		return;
	for (uint32_t left = msix->pending; left; left &= left - 1)
		send_or_pend(msix, __builtin_ctz(left));
}

bool msix_enabled(const struct pci_device *dev)
{
	return dev->msix && __atomic_load_n(&dev->msix->enabled, __ATOMIC_ACQUIRE);
}

void msix_notify(struct pci_device *dev, unsigned vector)
{
	struct msix *msix = dev->msix;

	if (!msix || vector >= msix->count)
		return;
	pthread_mutex_lock(&msix->lock);
	if (msix->enabled)
		send_or_pend(msix, vector);
	pthread_mutex_unlock(&msix->lock);
}

void msix_control_written(struct pci_device *dev)
{
	struct msix *msix = dev->msix;
	uint16_t control = load_le16(dev->config + msix->capability + CAP_CONTROL);

	pthread_mutex_lock(&msix->lock);
	__atomic_store_n(&msix->enabled, control & CONTROL_ENABLE, __ATOMIC_RELEASE);
	msix->function_masked = control & CONTROL_FUNCTION_MASK;
	deliver_pending(msix);
	pthread_mutex_unlock(&msix->lock);
}

/* ---- the BAR ---- */

static uint32_t read_dword(struct msix *msix, uint64_t offset)
{
	if (offset < msix->count * ENTRY_SIZE)
		return load_le32((uint8_t *)msix->table + (offset & ~3ull));
	return offset == PENDING_OFFSET ? msix->pending : 0;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
	struct msix *msix = opaque;
	uint64_t value;

	pthread_mutex_lock(&msix->lock);
	value = read_dword(msix, offset & ~3ull);
	if (size == 8)
		value |= (uint64_t)read_dword(msix, (offset & ~3ull) + 4) << 32;
	pthread_mutex_unlock(&msix->lock);
	return value >> 8 * (offset & 3);
}

static void write_dword(struct msix *msix, uint64_t offset, uint32_t value)
{
	unsigned n = offset / ENTRY_SIZE;
	struct msix_entry *entry;

	if (n >= msix->count)
		return;
	entry = &msix->table[n];
	switch (offset % ENTRY_SIZE) {
	case 0:
		entry->address_low = value & ~3u;
		break;
	case 4:
		entry->address_high = value;
		break;
	case 8:
		entry->data = value;
		break;
	case 12:
		entry->control = value & ENTRY_MASKED;
		if (msix->enabled && (msix->pending & BIT(n)))
			send_or_pend(msix, n);
		break;
	}
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct msix *msix = opaque;

	if (size < 4 || offset & 3)
		return;
	pthread_mutex_lock(&msix->lock);
	write_dword(msix, offset, value);
	if (size == 8)
		write_dword(msix, offset + 4, value >> 32);
	pthread_mutex_unlock(&msix->lock);
}

static const struct io_ops bar_ops = { bar_read, bar_write, 1, 8 };

/* ---- life ---- */

static const struct state_field entry_fields[] = {
	STATE_FIELD(struct msix_entry, address_low),
	STATE_FIELD(struct msix_entry, address_high),
	STATE_FIELD(struct msix_entry, data),
	STATE_FIELD(struct msix_entry, control),
	STATE_END,
};

static const struct state_field msix_fields[] = {
	STATE_STRUCTS(struct msix, table, entry_fields),
	STATE_FIELD(struct msix, pending),
	STATE_END,
};

/* enabled and function_masked follow from the control register, which is the PCI device's state. */
static int after_load(void *object, struct error *err)
{
	struct msix *msix = object;

	(void)err;
	msix->pending &= msix->count < 32 ? BIT(msix->count) - 1 : UINT32_MAX;
	return 0;
}

static const struct state_table msix_state = {
	.name = "msix",
	.version = 1,
	.fields = msix_fields,
	.after_load = after_load,
};

void msix_register_state(struct pci_device *dev)
{
	vm_state_register(dev->bus->vm, &msix_state, dev->devfn, dev->msix);
}

void msix_reset(struct pci_device *dev)
{
	struct msix *msix = dev->msix;

	pthread_mutex_lock(&msix->lock);
	__atomic_store_n(&msix->enabled, false, __ATOMIC_RELEASE);
	msix->function_masked = false;
	msix->pending = 0;
	memset(msix->table, 0, sizeof(msix->table));
	for (unsigned i = 0; i < MSIX_VECTOR_MAX; i++)
		msix->table[i].control = ENTRY_MASKED;
	pthread_mutex_unlock(&msix->lock);
}

int msix_add(struct pci_device *dev, unsigned bar, unsigned count, struct error *err)
{
	struct msix *msix = calloc(1, sizeof(*msix));
	uint8_t *cap;

	if (!msix)
		return error_set(err, 0, "cannot add MSI-X to %s: out of memory", dev->name);
	msix->dev = dev;
	msix->count = MIN(MAX(count, 1u), (unsigned)MSIX_VECTOR_MAX);
	pthread_mutex_init(&msix->lock, NULL);
	msix->capability = pci_device_add_capability(dev, PCI_CAP_ID_MSIX, CAP_LEN);
	if (!msix->capability) {
		free(msix);
		return error_set(err, 0, "cannot add MSI-X to %s: no room for the capability",
				 dev->name);
	}
	cap = dev->config + msix->capability;
	store_le16(cap + CAP_CONTROL, msix->count - 1);
	store_le32(cap + 4, TABLE_OFFSET | bar);
	store_le32(cap + 8, PENDING_OFFSET | bar);
	store_le16(dev->write_mask + msix->capability + CAP_CONTROL,
		   CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
	pci_device_add_bar(dev, bar, PCI_BAR_MEMORY32, MSIX_BAR_SIZE, false);
	pci_device_add_window(dev, bar, "msix", 0, MSIX_BAR_SIZE, &bar_ops, msix);
	dev->msix = msix;
	msix_reset(dev);
	return 0;
}

void msix_remove(struct pci_device *dev)
{
	if (!dev->msix)
		return;
	pthread_mutex_destroy(&dev->msix->lock);
	free(dev->msix);
	dev->msix = NULL;
}
