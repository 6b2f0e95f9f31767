/* SPDX-License-Identifier: MIT */
/*
 * 8042 keyboard controller with neither keyboard nor mouse, for the machines without them: it is there for the reset
 * line, the A20 gate and the probes of operating systems, which it lets end quickly.
 *
 * Follows the IBM PS/2 Hardware Interface Technical Reference (keyboard and auxiliary device controller). A byte sent
 * to either port is answered at once by 0xfe (resend) with the time-out status bit, as a controller does that hears
 * nothing from its device. The A20 gate is a bit to be read back: addresses never wrap.
 */
#include "device/i8042.h"

#include <errno.h>

#include "base/util.h"

/* Status register */
#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX 0x20
#define STATUS_TIMEOUT 0x40

/* Command byte */
#define CONFIG_KEYBOARD_IRQ 0x01
#define CONFIG_SYSTEM 0x04
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_AUX_OFF 0x20

#define OUTPUT_NOT_RESET 0x01
#define OUTPUT_A20 0x02

struct i8042 {
	pthread_mutex_t lock;
	struct vm *vm;
	struct irq_line irq1;
	uint8_t status, config, output_port;
	uint8_t data;     /* output buffer */
	uint8_t argument; /* the command that waits for its data byte, or 0 */
	uint8_t ram[32];  /* [0] unused: it is config */
};

#define KBC(member) STATE_FIELD(struct i8042, member)
static const struct state_field kbc_fields[] = {
	KBC(status), KBC(config),   KBC(output_port),
	KBC(data),   KBC(argument), STATE_ARRAY(struct i8042, ram),
	STATE_END,
};
static const struct state_table kbc_table = { .name = "i8042", .version = 1, .fields = kbc_fields };

static void update_irq(struct i8042 *kbc)
{
	/* Answers of the controller itself raise the keyboard's interrupt too; nothing here is the mouse's. */
	irq_set(&kbc->irq1,
		(kbc->status & STATUS_OUTPUT_FULL) && (kbc->config & CONFIG_KEYBOARD_IRQ));
}

static void answer(struct i8042 *kbc, uint8_t data, uint8_t status)
{
	kbc->data = data;
	kbc->status = (kbc->status & (uint8_t) ~(STATUS_AUX | STATUS_TIMEOUT)) |
		      STATUS_OUTPUT_FULL | status;
	update_irq(kbc);
}

/* Something that must not happen under the lock. */
enum after { NOTHING, RESET };

static enum after write_output_port(struct i8042 *kbc, uint8_t value)
{
	kbc->output_port = value;
	return value & OUTPUT_NOT_RESET ? NOTHING : RESET;
}

static enum after command(struct i8042 *kbc, uint8_t value)
{
	kbc->argument = 0;
	switch (value) {
	case 0x20: /* read command byte */
		answer(kbc, kbc->config, 0);
		break;
	case 0x21 ... 0x3f: /* read controller memory */
		answer(kbc, kbc->ram[value & 31], 0);
		break;
	case 0x60 ... 0x7f: /* write command byte, controller memory */
	case 0xd1:          /* write output port */
	case 0xd2:          /* write to the output buffers, as if from a device */
	case 0xd3:
	case 0xd4: /* write to the mouse */
		kbc->argument = value;
		break;
	case 0xa7:
		kbc->config |= CONFIG_AUX_OFF;
		break;
	case 0xa8:
		kbc->config &= (uint8_t)~CONFIG_AUX_OFF;
		break;
	case 0xa9: /* test the mouse's lines: clock stuck low: there is none */
		answer(kbc, 0x01, 0);
		break;
	case 0xaa: /* self-test */
		kbc->status |= STATUS_SYSTEM;
		answer(kbc, 0x55, 0);
		break;
	case 0xab: /* test the keyboard's lines: no error */
		answer(kbc, 0x00, 0);
		break;
	case 0xad:
		kbc->config |= CONFIG_KEYBOARD_OFF;
		break;
	case 0xae:
		kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
		break;
	case 0xc0: /* input port: keyboard not locked, no manufacturing jumper */
		answer(kbc, 0x80, 0);
		break;
	case 0xd0:
		answer(kbc, kbc->output_port | (kbc->status & STATUS_OUTPUT_FULL ? 0x10 : 0), 0);
		break;
	case 0xdd: /* A20 off and on, a convention of clones */
		kbc->output_port &= (uint8_t)~OUTPUT_A20;
		break;
	case 0xdf:
		kbc->output_port |= OUTPUT_A20;
		break;
	case 0xf0 ... 0xff: /* pulse output lines whose bit is 0; line 0 is reset */
		return value & 1 ? NOTHING : RESET;
	default:
		break;
	}
	return NOTHING;
}

static enum after data_byte(struct i8042 *kbc, uint8_t value)
{
	uint8_t argument = kbc->argument;

	kbc->argument = 0;
	switch (argument) {
	case 0x60:
		kbc->config = value;
		kbc->status = value & CONFIG_SYSTEM ? kbc->status | STATUS_SYSTEM :
						      kbc->status & (uint8_t)~STATUS_SYSTEM;
		update_irq(kbc);
		break;
	case 0x61 ... 0x7f:
		kbc->ram[argument & 31] = value;
		break;
	case 0xd1:
		return write_output_port(kbc, value);
	case 0xd2:
		answer(kbc, value, 0);
		break;
	case 0xd3:
		answer(kbc, value, STATUS_AUX);
		break;
	case 0xd4:
		answer(kbc, 0xfe, STATUS_AUX | STATUS_TIMEOUT);
		break;
	default: /* to the keyboard, which the controller enables to send this */
		kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
		answer(kbc, 0xfe, STATUS_TIMEOUT);
		break;
	}
	return NOTHING;
}

static void finish(struct i8042 *kbc, enum after after)
{
	pthread_mutex_unlock(&kbc->lock);
	if (after == RESET)
		vm_reset(kbc->vm);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;
	uint8_t value;

	(void)offset, (void)size;
	pthread_mutex_lock(&kbc->lock);
	value = kbc->data;
	kbc->status &= (uint8_t) ~(STATUS_OUTPUT_FULL | STATUS_AUX | STATUS_TIMEOUT);
	update_irq(kbc);
	pthread_mutex_unlock(&kbc->lock);
	return value;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset, (void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->status &= (uint8_t)~STATUS_COMMAND;
	finish(kbc, data_byte(kbc, (uint8_t)value));
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset, (void)size;
	return kbc->status;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset, (void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->status |= STATUS_COMMAND;
	finish(kbc, command(kbc, (uint8_t)value));
}

/* Port 0x92, system control port A: bit 1 A20, bit 0 reset on its rising edge. */
static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset, (void)size;
	return kbc->output_port & OUTPUT_A20;
}

static void port92_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset, (void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->output_port = (kbc->output_port & (uint8_t)~OUTPUT_A20) | (value & OUTPUT_A20);
	finish(kbc, value & 1 ? RESET : NOTHING);
}

static const struct io_ops data_ops = { .read = data_read, .write = data_write, .max_size = 1 };
static const struct io_ops command_ops = { .read = status_read,
					   .write = command_write,
					   .max_size = 1 };
static const struct io_ops port92_ops = { .read = port92_read,
					  .write = port92_write,
					  .max_size = 1 };

static void kbc_reset(void *opaque)
{
	struct i8042 *kbc = opaque;

	pthread_mutex_lock(&kbc->lock);
	kbc->status = STATUS_UNLOCKED |
		      STATUS_SYSTEM; /* no firmware runs: as if its self-test had passed */
	kbc->config = CONFIG_SYSTEM | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF;
	kbc->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
	kbc->data = kbc->argument = 0;
	memset(kbc->ram, 0, sizeof(kbc->ram));
	update_irq(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static void kbc_destroy(void *opaque)
{
	struct i8042 *kbc = opaque;

	pthread_mutex_destroy(&kbc->lock);
	free(kbc);
}

int i8042_create(struct vm *vm, struct irq_line irq1, struct i8042 **out, struct error *err)
{
	struct i8042 *kbc = calloc(1, sizeof(*kbc));

	if (!kbc)
		return error_set(err, ENOMEM, "out of memory for the 8042");
	kbc->vm = vm;
	kbc->irq1 = irq1;
	pthread_mutex_init(&kbc->lock, NULL);
	vm_add_cleanup(vm, kbc_destroy, kbc);
	vm_add_reset(vm, kbc_reset, kbc);
	vm_state_register(vm, &kbc_table, 0, kbc);
	kbc_reset(kbc);
	if (bus_add(&vm->pio, &(struct io_region){ "i8042-data", 0x60, 1, &data_ops, kbc }, err) ||
	    bus_add(&vm->pio, &(struct io_region){ "i8042-command", 0x64, 1, &command_ops, kbc },
		    err) ||
	    bus_add(&vm->pio, &(struct io_region){ "port92", 0x92, 1, &port92_ops, kbc }, err))
		return -1;
	if (out)
		*out = kbc;
	return 0;
}
