/* SPDX-License-Identifier: MIT */
/*
 * 8254 programmable interval timer, and port 0x61 where the PC controls and shows counter 2.
 *
 * Follows Intel's 8254 data sheet (231164): six modes, binary and BCD, the counter latch and read-back commands.
 * Counters do not tick: a counter remembers when it was loaded, and its value and output are computed from guest
 * time when asked for. One timer fires at the rising edges of counter 0's output, which is IRQ 0. A count takes
 * effect at once, not one clock later; an edge of IRQ 0 is presented as a short low pulse at the right moment instead
 * of the waveform's own low phase.
 *
 * Systems count these interrupts to keep time. So edges that come late because the host was busy are made up for, at
 * some distance from each other; only a backlog of more than half a second is dropped.
 */
#include "device/i8254.h"

#include "base/util.h"

#define NS_PER_S 1000000000ull
#define BACKLOG_MAX_NS 500000000ull
#define GAP_MIN_NS                                                                                 \
	20000 /* between two edges: more would keep the event loop from everything else */
#define REFRESH_NS 15085 /* one DRAM refresh request: port 0x61 bit 4 toggles */

enum access { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct counter {
	uint8_t mode;   /* 0..5 */
	uint8_t access; /* enum access */
	bool bcd, gate;
	bool loaded; /* a count was written since the mode was set; !loaded is the status byte's null count */
	bool triggered;             /* modes 1, 5: a gate edge has started the count */
	bool write_high, read_high; /* the next byte of a two-byte access is the high one */
	uint8_t write_low;
	bool count_latched, status_latched;
	uint16_t latched_count;
	uint8_t latched_status;
	uint32_t count;      /* 1..65536 (10000 in BCD) */
	uint32_t next_count; /* modes 2, 3: takes over at next_at; 0: none */
	uint64_t next_at;
	uint64_t start;      /* guest ns of the load or trigger */
	uint64_t held_ticks; /* modes 0, 4 with the gate low: ticks elapsed when it fell */
};

struct i8254 {
	pthread_mutex_t lock;
	struct vm *vm;
	struct counter counters[3];
	uint8_t port61; /* bits 0-3 as written */
	struct irq_line irq0;
	bool irq_level;
	struct vm_timer timer;
	uint64_t last_edge; /* guest ns at which the edge delivered last was due */
	uint64_t next_edge; /* and that for which the timer is armed */
};

#define COUNTER(member) STATE_FIELD(struct counter, member)
static const struct state_field counter_fields[] = {
	COUNTER(mode),
	COUNTER(access),
	COUNTER(bcd),
	COUNTER(gate),
	COUNTER(loaded),
	COUNTER(triggered),
	COUNTER(write_high),
	COUNTER(read_high),
	COUNTER(write_low),
	COUNTER(count_latched),
	COUNTER(status_latched),
	COUNTER(latched_count),
	COUNTER(latched_status),
	COUNTER(count),
	COUNTER(next_count),
	COUNTER(next_at),
	COUNTER(start),
	COUNTER(held_ticks),
	STATE_END,
};

static const struct state_field pit_fields[] = {
	STATE_STRUCTS(struct i8254, counters, counter_fields),
	STATE_FIELD(struct i8254, port61),
	STATE_FIELD(struct i8254, irq_level),
	STATE_TIMER_FIELD(struct i8254, timer),
	STATE_FIELD(struct i8254, last_edge),
	STATE_FIELD(struct i8254, next_edge),
	STATE_END,
};

static int pit_after_load(void *object, struct error *err)
{
	struct i8254 *pit = object;

	for (unsigned i = 0; i < 3; i++) {
		const struct counter *c = &pit->counters[i];

		if (c->mode > 5 || c->access > ACCESS_BOTH || !c->count || c->count > 65536 ||
		    c->next_count > 65536)
			return error_set(err, 0, "8254: counter %u holds impossible values", i);
	}
	return 0;
}

static const struct state_table pit_table = {
	.name = "i8254",
	.version = 1,
	.fields = pit_fields,
	.after_load = pit_after_load,
};

/* ---- time ---- */

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * I8254_HZ / NS_PER_S);
}

static uint64_t ticks_to_ns(uint64_t ticks) /* rounded up: that many ticks have passed by then */
{
	return (uint64_t)(((unsigned __int128)ticks * NS_PER_S + I8254_HZ - 1) / I8254_HZ);
}

static bool periodic(const struct counter *c)
{
	return c->mode == 2 || c->mode == 3;
}

static bool hardware_triggered(const struct counter *c)
{
	return c->mode == 1 || c->mode == 5;
}

/* Let a count that was written during a period take over at its end. */
static void settle(struct counter *c, uint64_t now)
{
	if (c->next_count && now >= c->next_at) {
		c->count = c->next_count;
		c->next_count = 0;
		c->start = c->next_at;
	}
}

static uint64_t elapsed(const struct counter *c, uint64_t now)
{
	if (!periodic(c) && !hardware_triggered(c) && !c->gate)
		return c->held_ticks;
	return now > c->start ? ns_to_ticks(now - c->start) : 0;
}

static bool output(const struct counter *c, uint64_t now)
{
	uint64_t d = elapsed(c, now);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return d >= c->count;
	case 1:
		return !c->triggered || d >= c->count;
	case 2:
		return !c->gate || d % c->count != c->count - 1;
	case 3:
		return !c->gate || d % c->count < (c->count + 1) / 2;
	case 4:
		return d != c->count;
	default:
		return !c->triggered || d != c->count;
	}
}

static uint16_t to_bcd(uint32_t v)
{
	return (uint16_t)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

/* The counting element as the guest reads it. */
static uint16_t current_count(const struct counter *c, uint64_t now)
{
	uint64_t d = elapsed(c, now), value;
	uint32_t modulus = c->bcd ? 10000 : 65536;

	if (!c->loaded || (hardware_triggered(c) && !c->triggered))
		value = c->count;
	else if (periodic(c) && !c->gate)
		value = c->count; /* held and reloaded at the next rising edge */
	else if (c->mode == 2)
		value = c->count - d % c->count;
	else if (c->mode == 3)
		value = (c->count & ~1u) -
			2 * (d % c->count % ((c->count + 1) / 2)); /* by twos, twice a period */
	else
		value = c->count + modulus - d % modulus;
	value %= modulus;
	return c->bcd ? to_bcd((uint32_t)value) : (uint16_t)value;
}

/* ---- counter 0 drives IRQ 0 ---- */

static void set_irq(struct i8254 *pit, bool level)
{
	if (pit->irq_level != level) {
		pit->irq_level = level;
		irq_set(&pit->irq0, level);
	}
}

/* The first edge of a periodic counter after the one delivered last, unless that is too long ago. */
static uint64_t next_periodic_edge(const struct counter *c, uint64_t last_edge, uint64_t now)
{
	uint64_t from = now > BACKLOG_MAX_NS && last_edge < now - BACKLOG_MAX_NS ?
				now - BACKLOG_MAX_NS :
				last_edge,
		 edge;

	if (from < c->start)
		return c->start; /* where a new count took over */
	edge = c->start + ticks_to_ns((ns_to_ticks(from - c->start) / c->count + 1) * c->count);
	return c->next_count ? MIN(edge, c->next_at) : edge;
}

/* Arm the timer for the next rising edge of counter 0's output. */
static void schedule(struct i8254 *pit, uint64_t now)
{
	struct counter *c = &pit->counters[0];
	uint64_t d = elapsed(c, now), at;

	if (!c->loaded || hardware_triggered(c)) {
		vm_timer_cancel(&pit->timer);
		return;
	}
	if (periodic(c)) {
		at = next_periodic_edge(c, pit->last_edge, now);
		pit->next_edge = at;
		if (at <= now) /* late: a quarter of a period after the one before */
			at = now + ticks_to_ns(c->count) / 4;
		at = MAX(at, now + GAP_MIN_NS);
	} else {
		uint64_t edge = c->mode == 0 ? c->count : c->count + 1ull;

		if (d >= edge) {
			vm_timer_cancel(&pit->timer);
			return;
		}
		at = c->start + ticks_to_ns(edge);
	}
	vm_timer_arm(&pit->timer, at);
}

static void timer_fired(void *opaque)
{
	struct i8254 *pit = opaque;
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = vm_clock_ns(pit->vm);
	settle(&pit->counters[0], now);
	/* A deadline means: rearmed while this call was on its way. */
	if (pit->timer.deadline == UINT64_MAX && pit->counters[0].loaded &&
	    !hardware_triggered(&pit->counters[0])) {
		if (pit->counters[0].mode != 0)
			set_irq(pit, false);
		if (output(&pit->counters[0], now) || periodic(&pit->counters[0]))
			set_irq(pit, true);
		pit->last_edge = pit->next_edge;
		schedule(pit, now);
	}
	pthread_mutex_unlock(&pit->lock);
}

static void counter_changed(struct i8254 *pit, unsigned n, uint64_t now)
{
	if (n == 0) {
		set_irq(pit, output(&pit->counters[0], now));
		schedule(pit, now);
	}
}

/* ---- registers ---- */

static void load(struct i8254 *pit, unsigned n, uint16_t raw, uint64_t now)
{
	struct counter *c = &pit->counters[n];
	uint32_t count = c->bcd ? from_bcd(raw) : raw;

	if (!count)
		count = c->bcd ? 10000 : 65536;
	if (periodic(c) && count == 1)
		count = 2; /* 1 is not a legal count in these modes */
	if (periodic(c) && c->loaded && c->gate) {
		uint64_t d = elapsed(c, now);

		c->next_count = count;
		c->next_at = c->start + ticks_to_ns((d / c->count + 1) * c->count);
	} else if (hardware_triggered(c) && c->triggered) {
		c->next_count = 0;
		c->count =
			count; /* strictly: from the next trigger on; the running pulse is not worth a copy */
	} else {
		c->count = count;
		c->next_count = 0;
		c->start = now;
		c->held_ticks = 0;
		if (n == 0)
			pit->last_edge = now;
	}
	c->loaded = true;
	counter_changed(pit, n, now);
}

static void write_counter(struct i8254 *pit, unsigned n, uint8_t value, uint64_t now)
{
	struct counter *c = &pit->counters[n];

	switch (c->access) {
	case ACCESS_LOW:
		load(pit, n, value, now);
		break;
	case ACCESS_HIGH:
		load(pit, n, (uint16_t)(value << 8), now);
		break;
	default:
		if (c->write_high) {
			c->write_high = false;
			load(pit, n, (uint16_t)(value << 8 | c->write_low), now);
		} else {
			c->write_high = true;
			c->write_low = value;
			if (c->mode == 0 &&
			    c->loaded) { /* the first byte stops the count, output low */
				c->loaded = false;
				counter_changed(pit, n, now);
			}
		}
		break;
	}
}

static void latch_count(struct counter *c, uint64_t now)
{
	if (!c->count_latched) {
		c->latched_count = current_count(c, now);
		c->count_latched = true;
	}
}

static void latch_status(struct counter *c, uint64_t now)
{
	if (!c->status_latched) {
		c->latched_status =
			(uint8_t)(output(c, now) << 7 | (!c->loaded || c->next_count) << 6 |
				  c->access << 4 | c->mode << 1 | c->bcd);
		c->status_latched = true;
	}
}

static void write_control(struct i8254 *pit, uint8_t value, uint64_t now)
{
	unsigned n = value >> 6;
	struct counter *c;

	if (n == 3) { /* read-back */
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & BIT(i + 1)))
				continue;
			if (!(value & 0x20))
				latch_count(&pit->counters[i], now);
			if (!(value & 0x10))
				latch_status(&pit->counters[i], now);
		}
		return;
	}
	c = &pit->counters[n];
	if ((value >> 4 & 3) == ACCESS_LATCH) {
		latch_count(c, now);
		return;
	}
	c->access = value >> 4 & 3;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4; /* bit 2 does not matter for modes 2 and 3 */
	c->bcd = value & 1;
	c->loaded = c->triggered = c->write_high = c->read_high = false;
	c->count_latched = c->status_latched = false;
	c->next_count = 0;
	counter_changed(pit, n, now);
}

static uint8_t read_counter(struct counter *c, uint64_t now)
{
	uint16_t count;
	bool high;

	if (c->status_latched) {
		c->status_latched = false;
		return c->latched_status;
	}
	count = c->count_latched ? c->latched_count : current_count(c, now);
	high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
	if (c->access == ACCESS_BOTH)
		c->read_high = !c->read_high;
	if (c->access != ACCESS_BOTH || high)
		c->count_latched = false;
	return (uint8_t)(high ? count >> 8 : count);
}

static void set_gate(struct i8254 *pit, unsigned n, bool gate, uint64_t now)
{
	struct counter *c = &pit->counters[n];

	if (gate == c->gate)
		return;
	if (!periodic(c) && !hardware_triggered(c)) {
		if (!gate)
			c->held_ticks = elapsed(c, now);
		else
			c->start = now - MIN(now, ticks_to_ns(c->held_ticks));
	} else if (gate) {
		c->start = now; /* a rising edge triggers or reloads */
		c->triggered = true;
		if (c->next_count)
			c->count = c->next_count;
		c->next_count = 0;
	}
	c->gate = gate;
	counter_changed(pit, n, now);
}

static uint64_t pit_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8254 *pit = opaque;
	uint8_t value = 0xff; /* the control word cannot be read */

	(void)size;
	if (offset < 3) {
		uint64_t now;

		pthread_mutex_lock(&pit->lock);
		now = vm_clock_ns(pit->vm);
		settle(&pit->counters[offset], now);
		value = read_counter(&pit->counters[offset], now);
		pthread_mutex_unlock(&pit->lock);
	}
	return value;
}

static void pit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8254 *pit = opaque;
	uint64_t now;

	(void)size;
	pthread_mutex_lock(&pit->lock);
	now = vm_clock_ns(pit->vm);
	for (unsigned i = 0; i < 3; i++)
		settle(&pit->counters[i], now);
	if (offset == 3)
		write_control(pit, (uint8_t)value, now);
	else
		write_counter(pit, (unsigned)offset, (uint8_t)value, now);
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t port61_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8254 *pit = opaque;
	uint64_t now;
	uint8_t value;

	(void)offset, (void)size;
	pthread_mutex_lock(&pit->lock);
	now = vm_clock_ns(pit->vm);
	settle(&pit->counters[2], now);
	value = (uint8_t)(pit->port61 | (now / REFRESH_NS & 1) << 4 |
			  output(&pit->counters[2], now) << 5);
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void port61_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8254 *pit = opaque;
	uint64_t now;

	(void)offset, (void)size;
	pthread_mutex_lock(&pit->lock);
	now = vm_clock_ns(pit->vm);
	settle(&pit->counters[2], now);
	pit->port61 = value & 0x0f;
	set_gate(pit, 2, value & 1, now);
	pthread_mutex_unlock(&pit->lock);
}

static const struct io_ops pit_ops = { .read = pit_read, .write = pit_write, .max_size = 1 };
static const struct io_ops port61_ops = { .read = port61_read,
					  .write = port61_write,
					  .max_size = 1 };

/* ---- life ---- */

static void pit_reset(void *opaque)
{
	struct i8254 *pit = opaque;

	pthread_mutex_lock(&pit->lock);
	vm_timer_cancel(&pit->timer);
	for (unsigned i = 0; i < 3; i++)
		pit->counters[i] = (struct counter){
			.mode = 3, .access = ACCESS_BOTH, .gate = i != 2, .count = 65536
		};
	pit->port61 = 0;
	set_irq(pit, false);
	pthread_mutex_unlock(&pit->lock);
}

static void pit_destroy(void *opaque)
{
	struct i8254 *pit = opaque;

	vm_timer_cancel(&pit->timer);
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}

int i8254_create(struct vm *vm, struct irq_line irq0, struct i8254 **out, struct error *err)
{
	struct i8254 *pit = calloc(1, sizeof(*pit));

	if (!pit)
		return error_set(err, 0, "out of memory for the 8254");
	pit->vm = vm;
	pit->irq0 = irq0;
	pthread_mutex_init(&pit->lock, NULL);
	vm_timer_init(&pit->timer, vm, timer_fired, pit);
	vm_add_cleanup(vm, pit_destroy, pit);
	vm_add_reset(vm, pit_reset, pit);
	vm_state_register(vm, &pit_table, 0, pit);
	pit_reset(pit);
	if (bus_add(&vm->pio, &(struct io_region){ "i8254", 0x40, 4, &pit_ops, pit }, err) ||
	    bus_add(&vm->pio, &(struct io_region){ "port61", 0x61, 1, &port61_ops, pit }, err))
		return -1;
	if (out)
		*out = pit;
	return 0;
}
