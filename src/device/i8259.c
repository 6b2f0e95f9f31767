/* SPDX-License-Identifier: MIT */
/*
 * The PC's two 8259A programmable interrupt controllers, the second cascaded into input 2 of the first.
 *
 * Follows Intel's 8259A data sheet (231468): ICW1-ICW4, OCW1-OCW3, fully nested, special fully nested and
 * special mask modes, rotation, automatic EOI, polling; and the edge/level control registers of PC chip
 * sets (ports 0x4d0, 0x4d1), which replace ICW1's LTIM bit. Left out: MCS-80 mode and buffered mode, which
 * PCs do not have.
 *
 * An edge stays latched in IRR until it is acknowledged, even if the line falls before.
 */
#include "device/i8259.h"

#include "base/log.h"
#include "base/util.h"

#define CASCADE 2

enum init_step { READY, WANT_ICW2, WANT_ICW3, WANT_ICW4 };

struct chip {
	uint8_t irr, isr, imr;
	uint8_t lines; /* input levels now */
	uint8_t elcr;  /* 1: level triggered */
	uint8_t vector_base;
	uint8_t lowest; /* input with the lowest priority */
	uint8_t step;   /* enum init_step */
	bool single, icw4;
	bool auto_eoi, rotate_auto_eoi, special_nested, special_mask, poll, read_isr;
};

struct i8259 {
	pthread_mutex_t lock;
	struct chip chips[2];
	bool output;
	struct irq_line intr;
};

#define CHIP(member) STATE_FIELD(struct chip, member)
static const struct state_field chip_fields[] = {
	CHIP(irr),
	CHIP(isr),
	CHIP(imr),
	CHIP(lines),
	CHIP(elcr),
	CHIP(vector_base),
	CHIP(lowest),
	CHIP(step),
	CHIP(single),
	CHIP(icw4),
	CHIP(auto_eoi),
	CHIP(rotate_auto_eoi),
	CHIP(special_nested),
	CHIP(special_mask),
	CHIP(poll),
	CHIP(read_isr),
	STATE_END,
};

static const struct state_field pic_fields[] = {
	STATE_STRUCTS(struct i8259, chips, chip_fields),
	STATE_FIELD(struct i8259, output),
	STATE_END,
};

static const struct state_table pic_table = { .name = "i8259", .version = 1, .fields = pic_fields };

/* ---- priorities ---- */

/* The input in mask with the highest priority, or -1. */
static int highest(const struct chip *c, uint8_t mask)
{
	for (unsigned i = 1; mask && i <= 8; i++) {
		unsigned n = (c->lowest + i) & 7;

		if (mask & BIT(n))
			return (int)n;
	}
	return -1;
}

static unsigned rank(const struct chip *c, int n) /* 0: highest; 8: none */
{
	return n < 0 ? 8 : ((unsigned)n - c->lowest - 1) & 7;
}

/* The input that would be acknowledged now, or -1. */
static int pending(const struct chip *c, bool is_master)
{
	int request = highest(c, c->irr & (uint8_t)~c->imr);
	uint8_t in_service = c->isr;

	if (request < 0)
		return -1;
	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	/* Special fully nested: a slave in service does not lock out further requests from that slave. */
	if (c->special_nested && is_master)
		in_service &= (uint8_t)~BIT(CASCADE);
	return rank(c, request) < rank(c, highest(c, in_service)) ? request : -1;
}

static void update(struct i8259 *pic)
{
	struct chip *master = &pic->chips[0];
	bool output;

	/* The slave's INT output is input 2 of the master, whatever the ELCR says. */
	if (pending(&pic->chips[1], false) >= 0)
		master->irr |= BIT(CASCADE);
	else
		master->irr &= (uint8_t)~BIT(CASCADE);
	output = pending(master, true) >= 0;
	if (output != pic->output) {
		pic->output = output;
		irq_set(&pic->intr, output);
	}
}

static void take(struct chip *c, unsigned n)
{
	if (!c->auto_eoi)
		c->isr |= BIT(n);
	else if (c->rotate_auto_eoi)
		c->lowest = (uint8_t)n;
	if (!(c->elcr & BIT(n)))
		c->irr &= (uint8_t)~BIT(n);
}

/* ---- lines and acknowledge ---- */

void i8259_set_irq(void *opaque, unsigned n, bool level)
{
	struct i8259 *pic = opaque;
	struct chip *c = &pic->chips[n >> 3 & 1];
	uint8_t bit = (uint8_t)BIT(n & 7);

	if (n > 15 || n == CASCADE)
		return;
	pthread_mutex_lock(&pic->lock);
	if (level && (!(c->lines & bit) || (c->elcr & bit)))
		c->irr |= bit;
	if (!level && (c->elcr & bit))
		c->irr &= (uint8_t)~bit;
	c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

struct irq_line i8259_input(struct i8259 *pic, unsigned n)
{
	return (struct irq_line){ .handler = i8259_set_irq, .opaque = pic, .n = n };
}

void i8259_connect_output(struct i8259 *pic, struct irq_line line)
{
	pic->intr = line;
}

bool i8259_output(struct i8259 *pic)
{
	return __atomic_load_n(&pic->output, __ATOMIC_RELAXED);
}

int i8259_acknowledge(void *opaque)
{
	struct i8259 *pic = opaque;
	struct chip *master = &pic->chips[0], *slave = &pic->chips[1];
	int n, vector;

	pthread_mutex_lock(&pic->lock);
	n = pending(master, true);
	if (n < 0) {
		vector = master->vector_base + 7; /* spurious: no ISR bit is set */
	} else {
		take(master, (unsigned)n);
		vector = master->vector_base + n;
		if (n == CASCADE) {
			n = pending(slave, false);
			vector = slave->vector_base + (n < 0 ? 7 : n);
			if (n >= 0)
				take(slave, (unsigned)n);
		}
	}
	update(pic);
	pthread_mutex_unlock(&pic->lock);
	trace(TRACE_IRQ, "i8259: acknowledged, vector 0x%02x", vector);
	return vector;
}

/* ---- registers ---- */

static void reset_chip(struct chip *c)
{
	uint8_t elcr = c->elcr, lines = c->lines;

	*c = (struct chip){ .elcr = elcr, .lines = lines, .lowest = 7, .irr = lines & elcr };
}

static void write_icw1(struct chip *c, uint8_t value)
{
	uint8_t base = c->vector_base;

	reset_chip(c);
	c->vector_base = base;
	c->step = WANT_ICW2;
	c->single = value & 0x02;
	c->icw4 = value & 0x01;
}

static void end_of_interrupt(struct chip *c, int n, bool rotate)
{
	if (n < 0)
		return;
	c->isr &= (uint8_t)~BIT((unsigned)n);
	if (rotate)
		c->lowest = (uint8_t)n;
}

static void write_ocw2(struct chip *c, uint8_t value)
{
	uint8_t in_service = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;

	switch (value >> 5) {
	case 0: /* rotate in automatic EOI mode: off, on */
	case 4:
		c->rotate_auto_eoi = value & 0x80;
		break;
	case 1: /* non-specific EOI; the same with rotation */
	case 5:
		end_of_interrupt(c, highest(c, in_service), value & 0x80);
		break;
	case 3: /* specific EOI; the same with rotation */
	case 7:
		end_of_interrupt(c, value & 7, value & 0x80);
		break;
	case 6: /* set priority */
		c->lowest = value & 7;
		break;
	default: /* 2: no operation */
		break;
	}
}

static void write_command(struct chip *c, uint8_t value)
{
	if (value & 0x10) {
		write_icw1(c, value);
	} else if (value & 0x08) { /* OCW3 */
		if (value & 0x40)
			c->special_mask = value & 0x20;
		if (value & 0x04)
			c->poll = true;
		else if (value & 0x02)
			c->read_isr = value & 0x01;
	} else {
		write_ocw2(c, value);
	}
}

static void write_data(struct chip *c, uint8_t value)
{
	switch (c->step) {
	case WANT_ICW2:
		c->vector_base = value & 0xf8;
		c->step = !c->single ? WANT_ICW3 : c->icw4 ? WANT_ICW4 : READY;
		break;
	case WANT_ICW3: /* how the chips are cascaded is wired */
		c->step = c->icw4 ? WANT_ICW4 : READY;
		break;
	case WANT_ICW4:
		c->special_nested = value & 0x10;
		c->auto_eoi = value & 0x02;
		c->step = READY;
		break;
	default:
		c->imr = value;
		break;
	}
}

/* The read after a poll command is an acknowledge. */
static uint8_t read_poll(struct chip *c, bool is_master)
{
	int n = pending(c, is_master);

	c->poll = false;
	if (n < 0)
		return 0;
	take(c, (unsigned)n);
	return (uint8_t)(0x80 | n);
}

static uint64_t pic_read(struct i8259 *pic, unsigned which, uint64_t offset)
{
	struct chip *c = &pic->chips[which];
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	if (c->poll) {
		value = read_poll(c, which == 0);
		update(pic);
	} else if (offset) {
		value = c->imr;
	} else {
		value = c->read_isr ? c->isr : c->irr;
	}
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void pic_write(struct i8259 *pic, unsigned which, uint64_t offset, uint64_t value)
{
	pthread_mutex_lock(&pic->lock);
	if (offset)
		write_data(&pic->chips[which], (uint8_t)value);
	else
		write_command(&pic->chips[which], (uint8_t)value);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static uint64_t read_master(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return pic_read(opaque, 0, offset);
}

static uint64_t read_slave(void *opaque, uint64_t offset, unsigned size)
{
	(void)size;
	return pic_read(opaque, 1, offset);
}

static void write_master(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)size;
	pic_write(opaque, 0, offset, value);
}

static void write_slave(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	(void)size;
	pic_write(opaque, 1, offset, value);
}

static uint64_t read_elcr(void *opaque, uint64_t offset, unsigned size)
{
	struct i8259 *pic = opaque;

	(void)size;
	return pic->chips[offset & 1].elcr;
}

static void write_elcr(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	/* Inputs 0, 1, 2, 8 and 13 are always edge triggered. */
	static const uint8_t may_be_level[2] = { 0xf8, 0xde };
	struct i8259 *pic = opaque;
	struct chip *c = &pic->chips[offset & 1];

	(void)size;
	pthread_mutex_lock(&pic->lock);
	c->elcr = (uint8_t)value & may_be_level[offset & 1];
	c->irr = (c->irr & (uint8_t)~c->elcr) | (c->lines & c->elcr);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static const struct io_ops master_ops = { .read = read_master,
					  .write = write_master,
					  .max_size = 1 };
static const struct io_ops slave_ops = { .read = read_slave, .write = write_slave, .max_size = 1 };
static const struct io_ops elcr_ops = { .read = read_elcr, .write = write_elcr, .max_size = 1 };

/* ---- life ---- */

static void pic_reset(void *opaque)
{
	struct i8259 *pic = opaque;

	pthread_mutex_lock(&pic->lock);
	for (unsigned i = 0; i < 2; i++) {
		pic->chips[i].elcr = 0;
		reset_chip(&pic->chips[i]);
	}
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static void pic_destroy(void *opaque)
{
	struct i8259 *pic = opaque;

	pthread_mutex_destroy(&pic->lock);
	free(pic);
}

int i8259_create(struct vm *vm, struct i8259 **out, struct error *err)
{
	struct i8259 *pic = calloc(1, sizeof(*pic));

	if (!pic)
		return error_set(err, 0, "out of memory for the 8259");
	pthread_mutex_init(&pic->lock, NULL);
	vm_add_cleanup(vm, pic_destroy, pic);
	vm_add_reset(vm, pic_reset, pic);
	vm_state_register(vm, &pic_table, 0, pic);
	pic_reset(pic);
	if (bus_add(&vm->pio, &(struct io_region){ "i8259-master", 0x20, 2, &master_ops, pic },
		    err) ||
	    bus_add(&vm->pio, &(struct io_region){ "i8259-slave", 0xa0, 2, &slave_ops, pic },
		    err) ||
	    bus_add(&vm->pio, &(struct io_region){ "i8259-elcr", 0x4d0, 2, &elcr_ops, pic }, err))
		return -1;
	*out = pic;
	return 0;
}
