/* SPDX-License-Identifier: MIT */
/*
 * 16550A serial port.
 *
 * Follows National Semiconductor's PC16550D data sheet. Transmission takes no time: what is written goes to a buffer at
 * once, and from there to the back end line by line, or after a millisecond: a system call for each character would be
 * much of the time of a kernel's start. Where the back end takes nothing, bytes wait in the transmit FIFO. Reception takes as much
 * as the FIFO holds, so there are no overruns but in loopback. The interrupt is gated by OUT2, as on the PC. The baud
 * rate matters only for the FIFO's time-out.
 */
#include "device/uart16550.h"

#include <errno.h>

#include "base/util.h"

#define FIFO_SIZE 16
#define RETRY_NS 1000000 /* between tries to send what found no room */
#define OUT_SIZE 4096
#define FLUSH_NS 1000000 /* how long an unfinished line stays in the buffer */

enum reg { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RECEIVE 0x01
#define IER_TRANSMIT 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_TRANSMIT 0x02
#define IIR_RECEIVE 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define LCR_BREAK 0x40
#define LCR_DLAB 0x80
#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define LSR_READY 0x01
#define LSR_OVERRUN 0x02
#define LSR_BREAK 0x10
#define LSR_ERRORS 0x1e
#define LSR_THR_EMPTY 0x20
#define LSR_IDLE 0x40
#define LSR_FIFO_ERROR 0x80
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct fifo {
	uint8_t data[FIFO_SIZE];
	uint8_t head, count; /* head < FIFO_SIZE, count <= FIFO_SIZE */
};

struct uart16550 {
	pthread_mutex_t lock;
	struct vm *vm;
	struct irq_line irq;
	struct char_backend *chr;
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scratch;
	uint8_t divisor[2];
	struct fifo rx, tx;
	bool transmit_pending; /* the THR-empty interrupt was caused and not yet seen */
	bool timeout_pending;
	bool irq_level; /* as last told to irq */
	bool starved;   /* the back end was told that there is no room */
	struct vm_timer timeout, retry;

	/* What was sent and not yet handed to the back end. flush_lock is taken before lock and held while writing. */
	pthread_mutex_t flush_lock;
	uint8_t out[OUT_SIZE], flushing[OUT_SIZE];
	unsigned out_count;
	bool flush_armed, line_ended;
	struct vm_timer flush_timer;
};

#define UART(member) STATE_FIELD(struct uart16550, member)
static const struct state_field fifo_fields[] = {
	STATE_ARRAY(struct fifo, data),
	STATE_FIELD(struct fifo, head),
	STATE_FIELD(struct fifo, count),
	STATE_END,
};

static const struct state_field uart_fields[] = {
	UART(ier),
	UART(fcr),
	UART(lcr),
	UART(mcr),
	UART(lsr),
	UART(msr),
	UART(scratch),
	STATE_ARRAY(struct uart16550, divisor),
	STATE_SUBSTRUCT(struct uart16550, rx, fifo_fields),
	STATE_SUBSTRUCT(struct uart16550, tx, fifo_fields),
	UART(transmit_pending),
	UART(timeout_pending),
	UART(irq_level),
	UART(starved),
	STATE_TIMER_FIELD(struct uart16550, timeout),
	STATE_TIMER_FIELD(struct uart16550, retry),
	STATE_END,
};

static int uart_after_load(void *object, struct error *err)
{
	const struct uart16550 *u = object;

	if (u->rx.head >= FIFO_SIZE || u->rx.count > FIFO_SIZE || u->tx.head >= FIFO_SIZE ||
	    u->tx.count > FIFO_SIZE)
		return error_set(err, EINVAL, "serial port: impossible FIFO state");
	return 0;
}

static void flush(void *opaque);

static const struct state_table uart_table = {
	.name = "uart16550",
	.version = 1,
	.fields = uart_fields,
	.before_save = flush,
	.after_load = uart_after_load,
};

/* ---- FIFOs ---- */

static bool fifo_mode(const struct uart16550 *u)
{
	return u->fcr & FCR_ENABLE;
}

static unsigned depth(const struct uart16550 *u)
{
	return fifo_mode(u) ? FIFO_SIZE : 1;
}

static void fifo_push(struct fifo *f, uint8_t byte)
{
	f->data[(f->head + f->count++) % FIFO_SIZE] = byte;
}

static uint8_t fifo_pop(struct fifo *f)
{
	uint8_t byte = f->data[f->head];

	f->head = (f->head + 1) % FIFO_SIZE;
	f->count--;
	return byte;
}

static unsigned trigger_level(const struct uart16550 *u)
{
	static const uint8_t levels[4] = { 1, 4, 8, 14 };

	return fifo_mode(u) ? levels[u->fcr >> 6] : 1;
}

/* Four character times (of 10 bits), after which data below the trigger level is announced. */
static uint64_t timeout_ns(const struct uart16550 *u)
{
	unsigned divisor = u->divisor[0] | u->divisor[1] << 8;

	return (uint64_t)(divisor ? divisor : 1) * 16 * 40 * 1000000000ull / 1843200;
}

/* ---- interrupts ---- */

static uint8_t interrupt_id(const struct uart16550 *u)
{
	if ((u->ier & IER_LINE) && (u->lsr & LSR_ERRORS))
		return IIR_LINE;
	if ((u->ier & IER_RECEIVE) && u->rx.count >= trigger_level(u))
		return IIR_RECEIVE;
	if ((u->ier & IER_RECEIVE) && u->timeout_pending)
		return IIR_TIMEOUT;
	if ((u->ier & IER_TRANSMIT) && u->transmit_pending)
		return IIR_TRANSMIT;
	if ((u->ier & IER_MODEM) && (u->msr & 0x0f))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct uart16550 *u)
{
	bool level = (u->mcr & MCR_OUT2) && interrupt_id(u) != IIR_NONE;

	if (level != u->irq_level) {
		u->irq_level = level;
		irq_set(&u->irq, level);
	}
}

static void update_receive(struct uart16550 *u)
{
	if (u->rx.count) {
		u->lsr |= LSR_READY;
		if (fifo_mode(u))
			vm_timer_arm(&u->timeout, vm_clock_ns(u->vm) + timeout_ns(u));
	} else {
		u->lsr &= (uint8_t)~LSR_READY;
		if (u->timeout.deadline != UINT64_MAX)
			vm_timer_cancel(&u->timeout);
	}
	u->timeout_pending = false;
}

static void timeout_fired(void *opaque)
{
	struct uart16550 *u = opaque;

	pthread_mutex_lock(&u->lock);
	if (u->rx.count && fifo_mode(u) && u->timeout.deadline == UINT64_MAX) {
		u->timeout_pending = true;
		update_irq(u);
	}
	pthread_mutex_unlock(&u->lock);
}

/* ---- data ---- */

static void push_received(struct uart16550 *u, uint8_t byte)
{
	if (u->rx.count >= depth(u)) {
		u->lsr |= LSR_OVERRUN;
		if (!fifo_mode(u))
			u->rx.data[u->rx.head] =
				byte; /* without FIFO the old one is lost, with it the new one */
		return;
	}
	fifo_push(&u->rx, byte);
}

static size_t can_receive(void *opaque)
{
	struct uart16550 *u = opaque;
	size_t room;

	pthread_mutex_lock(&u->lock);
	room = u->mcr & MCR_LOOP ? 0 : depth(u) - MIN((unsigned)u->rx.count, depth(u));
	if (!room)
		u->starved = true;
	pthread_mutex_unlock(&u->lock);
	return room;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
	struct uart16550 *u = opaque;

	pthread_mutex_lock(&u->lock);
	for (size_t i = 0; i < len; i++)
		push_received(u, data[i]);
	update_receive(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

/* Is there room again for a back end that waits for it? Its accept_input is to be called without the lock. */
static bool fed(struct uart16550 *u)
{
	if (!u->starved || (u->mcr & MCR_LOOP) || u->rx.count >= depth(u))
		return false;
	u->starved = false;
	return true;
}

/* Hand the buffer to the back end. Without the lock, which vCPUs want meanwhile. */
static void flush(void *opaque)
{
	struct uart16550 *u = opaque;
	size_t n, done;

	pthread_mutex_lock(&u->flush_lock);
	pthread_mutex_lock(&u->lock);
	n = u->out_count;
	memcpy(u->flushing, u->out, n);
	u->out_count = 0;
	u->flush_armed = u->line_ended = false;
	pthread_mutex_unlock(&u->lock);
	done = n ? char_write(u->chr, u->flushing, n) : 0;
	if (done <
	    n) { /* not all taken: keep the rest, before what has come since, as far as there is room */
		pthread_mutex_lock(&u->lock);
		n = MIN(n - done, (size_t)(OUT_SIZE - u->out_count));
		memmove(u->out + n, u->out, u->out_count);
		memcpy(u->out, u->flushing + done, n);
		u->out_count += (unsigned)n;
		vm_timer_arm(&u->retry, vm_clock_ns(u->vm) + RETRY_NS);
		pthread_mutex_unlock(&u->lock);
	}
	pthread_mutex_unlock(&u->flush_lock);
}

/* Send what waits. When all is gone, THR is empty, which is an interrupt's cause. */
static void transmit(struct uart16550 *u)
{
	while (u->tx.count && u->out_count < OUT_SIZE) {
		uint8_t byte = fifo_pop(&u->tx);

		u->out[u->out_count++] = byte;
		u->line_ended |= byte == '\n';
	}
	if (!u->flush_armed) {
		u->flush_armed = true;
		vm_timer_arm(&u->flush_timer, vm_clock_ns(u->vm) + FLUSH_NS);
	}
	if (u->tx.count) {
		vm_timer_arm(&u->retry, vm_clock_ns(u->vm) + RETRY_NS);
		return;
	}
	u->lsr |= LSR_THR_EMPTY | LSR_IDLE;
	u->transmit_pending = true;
}

static void retry_fired(void *opaque)
{
	struct uart16550 *u = opaque;

	flush(u);
	pthread_mutex_lock(&u->lock);
	if (u->tx.count) {
		transmit(u);
		update_irq(u);
	}
	pthread_mutex_unlock(&u->lock);
}

static void write_data(struct uart16550 *u, uint8_t byte)
{
	u->transmit_pending = false;
	if (u->mcr & MCR_LOOP) {
		push_received(u, byte);
		update_receive(u);
		u->transmit_pending = true;
		return;
	}
	if (u->tx.count >= depth(u)) {
		if (fifo_mode(u))
			return; /* a full FIFO takes no more */
		fifo_pop(&u->tx);
	}
	fifo_push(&u->tx, byte);
	u->lsr &= (uint8_t) ~(LSR_THR_EMPTY | LSR_IDLE);
	transmit(u);
}

static uint8_t read_data(struct uart16550 *u)
{
	uint8_t byte = 0;

	if (u->rx.count)
		byte = fifo_pop(&u->rx);
	update_receive(u);
	return byte;
}

/* ---- control registers ---- */

static void write_fcr(struct uart16550 *u, uint8_t value)
{
	if ((value ^ u->fcr) & FCR_ENABLE)
		value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	if (!(value & FCR_ENABLE) && !(u->fcr & FCR_ENABLE))
		return; /* the other bits can be written only together with enable */
	if (value & FCR_CLEAR_RX) {
		u->rx.count = 0;
		u->lsr &= (uint8_t)~LSR_FIFO_ERROR;
	}
	if (value & FCR_CLEAR_TX) {
		u->tx.count = 0;
		u->lsr |= LSR_THR_EMPTY | LSR_IDLE;
		u->transmit_pending = true;
	}
	u->fcr = value & (0xc8 | FCR_ENABLE);
	update_receive(u);
}

/* The modem inputs: always there, or in loopback the modem outputs. Changes leave their trace in the low bits. */
static void update_modem(struct uart16550 *u)
{
	uint8_t old = u->msr, lines = MSR_DCD | MSR_DSR | MSR_CTS, deltas;

	if (u->mcr & MCR_LOOP)
		lines = (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) |
				  (u->mcr & MCR_DTR ? MSR_DSR : 0) |
				  (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
				  (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
	deltas = (uint8_t)((old ^ lines) >> 4);
	if (!(old & MSR_RI) || (lines & MSR_RI))
		deltas &= (uint8_t)~0x04; /* only RI's trailing edge counts */
	u->msr = lines | (old & 0x0f) | deltas;
}

static void write_lcr(struct uart16550 *u, uint8_t value)
{
	if ((value & LCR_BREAK) && !(u->lcr & LCR_BREAK) && (u->mcr & MCR_LOOP)) {
		push_received(u, 0);
		u->lsr |= LSR_BREAK;
		update_receive(u);
	}
	u->lcr = value;
}

static void write_ier(struct uart16550 *u, uint8_t value)
{
	/* Enabling the transmit interrupt while THR is empty causes one. */
	if ((value & IER_TRANSMIT) && !(u->ier & IER_TRANSMIT) && (u->lsr & LSR_THR_EMPTY))
		u->transmit_pending = true;
	u->ier = value & 0x0f;
}

static uint8_t read_iir(struct uart16550 *u)
{
	uint8_t id = interrupt_id(u);

	if (id == IIR_TRANSMIT)
		u->transmit_pending = false;
	return id | (fifo_mode(u) ? IIR_FIFO : 0);
}

static uint8_t read_register(struct uart16550 *u, enum reg reg)
{
	bool dlab = u->lcr & LCR_DLAB;
	uint8_t value;

	switch (reg) {
	case REG_DATA:
		return dlab ? u->divisor[0] : read_data(u);
	case REG_IER:
		return dlab ? u->divisor[1] : u->ier;
	case REG_IIR_FCR:
		return read_iir(u);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		value = u->lsr;
		u->lsr &= (uint8_t) ~(LSR_ERRORS | LSR_FIFO_ERROR);
		return value;
	case REG_MSR:
		value = u->msr;
		u->msr &= 0xf0;
		return value;
	default:
		return u->scratch;
	}
}

static void write_register(struct uart16550 *u, enum reg reg, uint8_t value)
{
	bool dlab = u->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			u->divisor[0] = value;
		else
			write_data(u, value);
		break;
	case REG_IER:
		if (dlab)
			u->divisor[1] = value;
		else
			write_ier(u, value);
		break;
	case REG_IIR_FCR:
		write_fcr(u, value);
		break;
	case REG_LCR:
		write_lcr(u, value);
		break;
	case REG_MCR:
		u->mcr = value & 0x1f;
		update_modem(u);
		break;
	case REG_SCRATCH:
		u->scratch = value;
		break;
	default: /* LSR and MSR: factory test only */
		break;
	}
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
	struct uart16550 *u = opaque;
	uint8_t value;
	bool call;

	(void)size;
	pthread_mutex_lock(&u->lock);
	value = read_register(u, offset & 7);
	/* Reading LSR, as every polled character does, changes no interrupt unless an error was shown. */
	if (offset != REG_LSR || (value & LSR_ERRORS))
		update_irq(u);
	call = fed(u);
	pthread_mutex_unlock(&u->lock);
	if (call && u->chr && u->chr->accept_input)
		u->chr->accept_input(u->chr);
	return value;
}

static void uart_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct uart16550 *u = opaque;
	bool call, now;

	(void)size;
	pthread_mutex_lock(&u->lock);
	write_register(u, offset & 7, (uint8_t)value);
	update_irq(u);
	call = fed(u);
	now = u->line_ended || u->out_count >= OUT_SIZE / 2;
	pthread_mutex_unlock(&u->lock);
	if (now)
		flush(u); /* and so a slow back end slows the guest down, instead of losing characters */
	if (call && u->chr && u->chr->accept_input)
		u->chr->accept_input(u->chr);
}

static const struct io_ops uart_ops = { .read = uart_read, .write = uart_write, .max_size = 1 };

/* ---- life ---- */

static void uart_reset(void *opaque)
{
	struct uart16550 *u = opaque;

	pthread_mutex_lock(&u->lock);
	vm_timer_cancel(&u->timeout);
	vm_timer_cancel(&u->retry);
	u->ier = u->fcr = u->lcr = u->mcr = u->scratch = 0;
	u->lsr = LSR_THR_EMPTY | LSR_IDLE;
	u->msr = MSR_DCD | MSR_DSR | MSR_CTS;
	u->divisor[0] = 12; /* 9600 baud */
	u->divisor[1] = 0;
	u->rx.count = u->tx.count = 0;
	u->transmit_pending = u->timeout_pending = false;
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

static void uart_destroy(void *opaque)
{
	struct uart16550 *u = opaque;

	flush(u);
	vm_timer_cancel(&u->timeout);
	vm_timer_cancel(&u->retry);
	vm_timer_cancel(&u->flush_timer);
	pthread_mutex_destroy(&u->flush_lock);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

int uart16550_create(struct vm *vm, unsigned instance, uint16_t iobase, struct irq_line irq,
		     struct char_backend *chr, struct uart16550 **out, struct error *err)
{
	struct uart16550 *u = calloc(1, sizeof(*u));

	if (!u)
		return error_set(err, ENOMEM, "out of memory for a serial port");
	u->vm = vm;
	u->irq = irq;
	u->chr = chr;
	pthread_mutex_init(&u->lock, NULL);
	pthread_mutex_init(&u->flush_lock, NULL);
	vm_add_end(vm, flush, u);
	vm_timer_init(&u->timeout, vm, timeout_fired, u);
	vm_timer_init(&u->retry, vm, retry_fired, u);
	vm_timer_init(&u->flush_timer, vm, flush, u);
	vm_add_cleanup(vm, uart_destroy, u);
	vm_add_reset(vm, uart_reset, u);
	vm_state_register(vm, &uart_table, instance, u);
	uart_reset(u);
	if (bus_add(&vm->pio, &(struct io_region){ "uart16550", iobase, 8, &uart_ops, u }, err))
		return -1;
	if (chr)
		char_attach(chr, can_receive, receive, u);
	if (out)
		*out = u;
	return 0;
}
