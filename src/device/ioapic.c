/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC: 24 inputs, each turned into an interrupt message by its redirection entry.
 *
 * Follows Intel's 82093AA data sheet (290566) with the EOI register of later chips (version 0x20). An edge on a masked
 * input is not remembered once the line has fallen. A level-triggered input sends its message again after the EOI for as
 * long as the line is high.
 */
#include "device/ioapic.h"

#include <errno.h>

#include "base/log.h"
#include "base/util.h"

#define VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

/* Redirection entry */
#define ENTRY_VECTOR 0x000000ffull
#define ENTRY_DELIVERY_SHIFT 8
#define ENTRY_LOGICAL 0x00000800ull
#define ENTRY_STATUS 0x00001000ull /* read only */
#define ENTRY_POLARITY 0x00002000ull
#define ENTRY_REMOTE_IRR 0x00004000ull /* read only */
#define ENTRY_LEVEL 0x00008000ull
#define ENTRY_MASKED 0x00010000ull
#define ENTRY_WRITABLE 0xff0000000001afffull
#define ENTRY_DESTINATION_SHIFT 56

struct ioapic {
	pthread_mutex_t lock;
	struct apic_bus *bus;
	uint8_t reset_id;
	uint8_t id;
	uint8_t select;
	uint32_t lines;   /* levels now */
	uint32_t pending; /* requests not yet sent */
	uint64_t entries[IOAPIC_PINS];
};

static const struct state_field ioapic_fields[] = {
	STATE_FIELD(struct ioapic, id),      STATE_FIELD(struct ioapic, select),
	STATE_FIELD(struct ioapic, lines),   STATE_FIELD(struct ioapic, pending),
	STATE_ARRAY(struct ioapic, entries), STATE_END,
};

static const struct state_table ioapic_table = { .name = "ioapic",
						 .version = 1,
						 .fields = ioapic_fields };

static struct apic_message message_of(uint64_t entry)
{
	return (struct apic_message){
		.destination = (uint32_t)(entry >> ENTRY_DESTINATION_SHIFT),
		.logical = entry & ENTRY_LOGICAL,
		.level = entry & ENTRY_LEVEL,
		.assert_level = true,
		.delivery = entry >> ENTRY_DELIVERY_SHIFT & 7,
		.vector = (uint8_t)(entry & ENTRY_VECTOR),
	};
}

/* Send the message of pin n if it has a request and may. */
static void service(struct ioapic *ioapic, unsigned n)
{
	uint64_t entry = ioapic->entries[n];
	bool level = entry & ENTRY_LEVEL;
	struct apic_message message;
	unsigned accepted;

	if (!(ioapic->pending & BIT(n)) || (entry & ENTRY_MASKED) ||
	    (level && (entry & ENTRY_REMOTE_IRR)))
		return;
	message = message_of(entry);
	if (level)
		ioapic->entries[n] |= ENTRY_REMOTE_IRR; /* before it can be answered by an EOI */
	else
		ioapic->pending &= ~BIT(n);
	accepted = apic_bus_deliver(ioapic->bus, &message);
	if (level && !accepted)
		ioapic->entries[n] &= ~ENTRY_REMOTE_IRR;
	trace(TRACE_IRQ, "ioapic: pin %u vector 0x%02x to 0x%x: %u accepted", n, message.vector,
	      message.destination, accepted);
}

void ioapic_set_irq(void *opaque, unsigned n, bool level)
{
	struct ioapic *ioapic = opaque;

	if (n >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&ioapic->lock);
	if (!level) {
		ioapic->lines &= ~BIT(n);
		ioapic->pending &= ~BIT(n);
	} else {
		bool rose = !(ioapic->lines & BIT(n));

		ioapic->lines |= BIT(n);
		if (rose || (ioapic->entries[n] & ENTRY_LEVEL)) {
			ioapic->pending |= BIT(n);
			service(ioapic, n);
		}
	}
	pthread_mutex_unlock(&ioapic->lock);
}

struct irq_line ioapic_input(struct ioapic *ioapic, unsigned n)
{
	return (struct irq_line){ .handler = ioapic_set_irq, .opaque = ioapic, .n = n };
}

static void end_of_interrupt(void *opaque, uint8_t vector)
{
	struct ioapic *ioapic = opaque;

	pthread_mutex_lock(&ioapic->lock);
	for (unsigned n = 0; n < IOAPIC_PINS; n++) {
		uint64_t entry = ioapic->entries[n];

		if ((entry & (ENTRY_LEVEL | ENTRY_REMOTE_IRR)) !=
			    (ENTRY_LEVEL | ENTRY_REMOTE_IRR) ||
		    (entry & ENTRY_VECTOR) != vector)
			continue;
		ioapic->entries[n] &= ~ENTRY_REMOTE_IRR;
		service(ioapic, n);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

/* ---- registers ---- */

static uint32_t read_window(struct ioapic *ioapic)
{
	unsigned n;

	switch (ioapic->select) {
	case 0x00:
	case 0x02: /* arbitration id */
		return (uint32_t)ioapic->id << 24;
	case 0x01:
		return VERSION;
	default:
		n = (ioapic->select - 0x10u) / 2;
		if (ioapic->select < 0x10 || n >= IOAPIC_PINS)
			return 0;
		return (uint32_t)(ioapic->entries[n] >> (ioapic->select & 1 ? 32 : 0));
	}
}

static void write_entry(struct ioapic *ioapic, unsigned n, bool high, uint32_t value)
{
	uint64_t old = ioapic->entries[n], entry;
	struct apic_message message;

	entry = high ? (old & 0xffffffffull) | (uint64_t)value << 32 :
		       (old & ~0xffffffffull) | value;
	entry = (entry & ENTRY_WRITABLE) | (old & ENTRY_REMOTE_IRR);
	if (!(entry & ENTRY_LEVEL)) {
		entry &= ~ENTRY_REMOTE_IRR;
		if (old & ENTRY_LEVEL)
			ioapic->pending &= ~BIT(n); /* a level that is high is no edge */
	} else if (ioapic->lines & BIT(n)) {
		ioapic->pending |= BIT(n);
	}
	ioapic->entries[n] = entry;
	message = message_of(entry);
	apic_bus_route(ioapic->bus, n, entry & ENTRY_MASKED ? NULL : &message);
	service(ioapic, n);
}

static void write_window(struct ioapic *ioapic, uint32_t value)
{
	unsigned n = (ioapic->select - 0x10u) / 2;

	if (ioapic->select == 0x00)
		ioapic->id = value >> 24 & 0x0f;
	else if (ioapic->select >= 0x10 && n < IOAPIC_PINS)
		write_entry(ioapic, n, ioapic->select & 1, value);
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
	struct ioapic *ioapic = opaque;
	uint32_t value = 0;

	(void)size;
	pthread_mutex_lock(&ioapic->lock);
	if (offset == 0x00)
		value = ioapic->select;
	else if (offset == 0x10)
		value = read_window(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return value;
}

static void ioapic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct ioapic *ioapic = opaque;

	(void)size;
	if (offset == 0x40) {
		end_of_interrupt(ioapic, (uint8_t)value);
		return;
	}
	pthread_mutex_lock(&ioapic->lock);
	if (offset == 0x00)
		ioapic->select = (uint8_t)value;
	else if (offset == 0x10)
		write_window(ioapic, (uint32_t)value);
	pthread_mutex_unlock(&ioapic->lock);
}

static const struct io_ops ioapic_ops = {
	.read = ioapic_read, .write = ioapic_write, .min_size = 4, .max_size = 4
};

/* ---- life ---- */

static void ioapic_reset(void *opaque)
{
	struct ioapic *ioapic = opaque;

	pthread_mutex_lock(&ioapic->lock);
	ioapic->id = ioapic->reset_id;
	ioapic->select = 0;
	ioapic->pending = 0;
	for (unsigned n = 0; n < IOAPIC_PINS; n++)
		ioapic->entries[n] = ENTRY_MASKED;
	pthread_mutex_unlock(&ioapic->lock);
}

static void ioapic_destroy(void *opaque)
{
	struct ioapic *ioapic = opaque;

	pthread_mutex_destroy(&ioapic->lock);
	free(ioapic);
}

int ioapic_create(struct vm *vm, struct apic_bus *bus, uint64_t base, uint8_t id,
		  struct ioapic **out, struct error *err)
{
	struct ioapic *ioapic = calloc(1, sizeof(*ioapic));

	if (!ioapic)
		return error_set(err, ENOMEM, "out of memory for the I/O APIC");
	ioapic->bus = bus;
	ioapic->reset_id = id & 0x0f;
	pthread_mutex_init(&ioapic->lock, NULL);
	vm_add_cleanup(vm, ioapic_destroy, ioapic);
	vm_add_reset(vm, ioapic_reset, ioapic);
	vm_state_register(vm, &ioapic_table, 0, ioapic);
	ioapic_reset(ioapic);
	apic_bus_add_eoi_listener(bus, end_of_interrupt, ioapic);
	if (bus_add(&vm->mmio, &(struct io_region){ "ioapic", base, 0x1000, &ioapic_ops, ioapic },
		    err))
		return -1;
	*out = ioapic;
	return 0;
}
