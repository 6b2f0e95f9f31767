/* SPDX-License-Identifier: MIT */
/*
 * MC146818A real-time clock with 128 bytes of CMOS memory, as the PC/AT has it.
 *
 * Follows Motorola's MC146818A data sheet; the memory-size and century bytes follow the PC/AT's conventions (Ralf Brown's
 * CMOS list). The clock does not tick: it is the host's UTC plus an offset, which changes when the guest sets the time. Flags
 * of register C are worked out when they are looked at; a timer is armed only for the next event whose
 * interrupt is enabled and not yet pending.
 */
#include "device/mc146818.h"

#include <errno.h>
#include <time.h>

#include "base/util.h"

#define NS_PER_S 1000000000ll
/* Nanoseconds since 1970 in 64 bits reach to 2262; what the guest sets is kept between 1970 and 2200. */
#define SECONDS_MIN 0
#define SECONDS_MAX 7258118400ll
#define OFFSET_MAX_NS 7000000000000000000ll
#define UIP_NS 244000 /* "update in progress" rises this long before the update */

enum reg {
	REG_SECONDS,
	REG_SECONDS_ALARM,
	REG_MINUTES,
	REG_MINUTES_ALARM,
	REG_HOURS,
	REG_HOURS_ALARM,
	REG_WEEKDAY,
	REG_DAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	REG_CENTURY = 0x32,
};

#define A_UIP 0x80
#define A_RATE 0x0f
#define B_SET 0x80
#define B_PERIODIC 0x40 /* the same bits as in C */
#define B_ALARM 0x20
#define B_UPDATE 0x10
#define B_SQUARE 0x08
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQ 0x80
#define D_VALID 0x80
#define HOUR_PM 0x80
#define ALARM_ANY 0xc0 /* both bits set in an alarm byte: matches everything */

struct mc146818 {
	pthread_mutex_t lock;
	struct vm *vm;
	struct irq_line irq8;
	struct vm_timer timer;
	uint8_t index; /* of port 0x70, with the NMI mask in bit 7 */
	uint8_t cmos[128]; /* the clock bytes are valid only while SET is on; alarms, A, B and C always */
	int64_t offset_ns;  /* RTC time minus host UTC */
	int64_t checked_ns; /* RTC time up to which register C's flags are worked out */
};

/* ---- time ---- */

static int64_t rtc_now(const struct mc146818 *rtc)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec + rtc->offset_ns;
}

static int64_t seconds_of(int64_t ns)
{
	return ns >= 0 ? ns / NS_PER_S : -((-ns + NS_PER_S - 1) / NS_PER_S);
}

static uint8_t encode(const struct mc146818 *rtc, unsigned v)
{
	return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *rtc, uint8_t v)
{
	return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct mc146818 *rtc, unsigned hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct mc146818 *rtc, uint8_t v)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, v);
	return decode(rtc, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Put the time at rtc_ns into the clock bytes. */
static void fill_clock(struct mc146818 *rtc, int64_t rtc_ns)
{
	time_t t = (time_t)seconds_of(rtc_ns);
	struct tm tm = { 0 };

	gmtime_r(&t, &tm);
	rtc->cmos[REG_SECONDS] = encode(rtc, (unsigned)tm.tm_sec);
	rtc->cmos[REG_MINUTES] = encode(rtc, (unsigned)tm.tm_min);
	rtc->cmos[REG_HOURS] = encode_hour(rtc, (unsigned)tm.tm_hour);
	rtc->cmos[REG_WEEKDAY] = encode(rtc, (unsigned)tm.tm_wday + 1);
	rtc->cmos[REG_DAY] = encode(rtc, (unsigned)tm.tm_mday);
	rtc->cmos[REG_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = encode(rtc, (unsigned)(tm.tm_year % 100 + 100) % 100);
	rtc->cmos[REG_CENTURY] = encode(rtc, (unsigned)(tm.tm_year + 1900) / 100 % 100);
}

/* Make the clock bytes the time from now on. Any nonsense in them is carried over by timegm(). */
static void apply_clock(struct mc146818 *rtc)
{
	struct tm tm = {
		.tm_sec = (int)decode(rtc, rtc->cmos[REG_SECONDS]),
		.tm_min = (int)decode(rtc, rtc->cmos[REG_MINUTES]),
		.tm_hour = (int)decode_hour(rtc, rtc->cmos[REG_HOURS]),
		.tm_mday = (int)decode(rtc, rtc->cmos[REG_DAY]),
		.tm_mon = (int)decode(rtc, rtc->cmos[REG_MONTH]) - 1,
		.tm_year = (int)(decode(rtc, rtc->cmos[REG_CENTURY]) * 100 +
				 decode(rtc, rtc->cmos[REG_YEAR])) -
			   1900,
	};
	int64_t set = (int64_t)timegm(&tm);

	set = MAX(SECONDS_MIN, MIN(SECONDS_MAX, set)) * NS_PER_S;
	rtc->offset_ns += set - rtc_now(rtc);
	rtc->checked_ns = set;
}

/* ---- events ---- */

/* Nanoseconds of a period of the rate selected in A, or 0. */
static int64_t period_ns(const struct mc146818 *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	if (rate <= 2)
		rate += 7; /* 1 and 2 give 256 and 128 Hz with a 32.768 kHz crystal */
	return (NS_PER_S << (rate - 1)) / 32768;
}

static bool alarm_matches(const struct mc146818 *rtc, enum reg reg, unsigned value)
{
	uint8_t alarm = rtc->cmos[reg];

	if ((alarm & ALARM_ANY) == ALARM_ANY)
		return true;
	return (reg == REG_HOURS_ALARM ? decode_hour(rtc, alarm) : decode(rtc, alarm)) == value;
}

/* The first second after `after` at which the alarm matches, at most a day away; INT64_MAX: never. */
static int64_t next_alarm(const struct mc146818 *rtc, int64_t after)
{
	for (int64_t hour_start = after + 1, end = after + 86400; hour_start <= end;) {
		unsigned day = (unsigned)(((hour_start % 86400) + 86400) % 86400);
		int64_t next_hour = hour_start + 3600 - day % 3600;

		if (alarm_matches(rtc, REG_HOURS_ALARM, day / 3600)) {
			for (int64_t t = hour_start; t < next_hour && t <= end; t++, day++)
				if (alarm_matches(rtc, REG_MINUTES_ALARM, day / 60 % 60) &&
				    alarm_matches(rtc, REG_SECONDS_ALARM, day % 60))
					return t;
		}
		hour_start = next_hour;
	}
	return INT64_MAX;
}

/* Work out which flags the time since the last look has set. */
static void check_events(struct mc146818 *rtc, int64_t now)
{
	int64_t before = rtc->checked_ns, period = period_ns(rtc);

	rtc->checked_ns = now;
	if (now <= before)
		return;
	if (period && now / period > before / period)
		rtc->cmos[REG_C] |= B_PERIODIC;
	if ((rtc->cmos[REG_B] & B_SET) || seconds_of(now) <= seconds_of(before))
		return;
	rtc->cmos[REG_C] |= B_UPDATE;
	if (!(rtc->cmos[REG_C] & B_ALARM) && next_alarm(rtc, seconds_of(before)) <= seconds_of(now))
		rtc->cmos[REG_C] |= B_ALARM;
}

/* Set the interrupt line, and arm the timer for the next event that can raise it. */
static void update_irq(struct mc146818 *rtc, int64_t now)
{
	uint8_t wanted = rtc->cmos[REG_B] & (B_PERIODIC | B_ALARM | B_UPDATE);
	int64_t at = INT64_MAX, period = period_ns(rtc);

	if (rtc->cmos[REG_C] & wanted) {
		rtc->cmos[REG_C] |= C_IRQ;
		irq_set(&rtc->irq8, true);
		vm_timer_cancel(&rtc->timer); /* nothing new until C is read */
		return;
	}
	rtc->cmos[REG_C] &= (uint8_t)~C_IRQ;
	irq_set(&rtc->irq8, false);
	if ((wanted & B_PERIODIC) && period)
		at = (now / period + 1) * period;
	if (!(rtc->cmos[REG_B] & B_SET)) {
		if (wanted & B_UPDATE)
			at = MIN(at, (seconds_of(now) + 1) * NS_PER_S);
		if (wanted & B_ALARM) {
			int64_t alarm = next_alarm(rtc, seconds_of(now));

			if (alarm != INT64_MAX)
				at = MIN(at, alarm * NS_PER_S);
		}
	}
	if (at == INT64_MAX)
		vm_timer_cancel(&rtc->timer);
	else
		vm_timer_arm(&rtc->timer, vm_clock_ns(rtc->vm) + (uint64_t)(at - now));
}

static void look(struct mc146818 *rtc)
{
	int64_t now = rtc_now(rtc);

	check_events(rtc, now);
	update_irq(rtc, now);
}

static void timer_fired(void *opaque)
{
	struct mc146818 *rtc = opaque;

	pthread_mutex_lock(&rtc->lock);
	look(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers ---- */

static bool is_clock_byte(unsigned index)
{
	switch (index) {
	case REG_SECONDS:
	case REG_MINUTES:
	case REG_HOURS:
	case REG_WEEKDAY ... REG_YEAR:
	case REG_CENTURY:
		return true;
	default:
		return false;
	}
}

static uint8_t read_byte(struct mc146818 *rtc, unsigned index)
{
	bool running = !(rtc->cmos[REG_B] & B_SET);
	int64_t now = rtc_now(rtc);
	uint8_t value;

	if (is_clock_byte(index)) {
		if (running)
			fill_clock(rtc, now);
		return rtc->cmos[index];
	}
	switch (index) {
	case REG_A:
		if (running && now - seconds_of(now) * NS_PER_S >= NS_PER_S - UIP_NS)
			return rtc->cmos[REG_A] | A_UIP;
		return rtc->cmos[REG_A];
	case REG_C:
		check_events(rtc, now);
		update_irq(rtc, now);
		value = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		update_irq(rtc, now);
		return value;
	case REG_D:
		return D_VALID;
	default:
		return rtc->cmos[index];
	}
}

static void write_b(struct mc146818 *rtc, uint8_t value)
{
	uint8_t old = rtc->cmos[REG_B];

	if ((value & B_SET) && !(old & B_SET))
		fill_clock(rtc, rtc_now(rtc)); /* the clock stops showing what it shows now */
	if (value & B_SET)
		value &= (uint8_t)~B_UPDATE;
	rtc->cmos[REG_B] = value;
	if (!(value & B_SET) && (old & B_SET))
		apply_clock(rtc);
}

static void write_byte(struct mc146818 *rtc, unsigned index, uint8_t value)
{
	check_events(rtc, rtc_now(rtc));
	if (is_clock_byte(index)) {
		bool running = !(rtc->cmos[REG_B] & B_SET);

		if (running)
			fill_clock(rtc, rtc_now(rtc));
		rtc->cmos[index] = value;
		if (running)
			apply_clock(rtc);
	} else if (index == REG_A) {
		rtc->cmos[REG_A] = value & (uint8_t)~A_UIP;
	} else if (index == REG_B) {
		write_b(rtc, value);
	} else if (index != REG_C && index != REG_D) {
		rtc->cmos[index] = value;
	}
	look(rtc);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
	struct mc146818 *rtc = opaque;
	uint8_t value;

	(void)size;
	if (offset == 0)
		return 0xff; /* the index cannot be read back */
	pthread_mutex_lock(&rtc->lock);
	value = read_byte(rtc, rtc->index & 0x7f);
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct mc146818 *rtc = opaque;

	(void)size;
	pthread_mutex_lock(&rtc->lock);
	if (offset == 0)
		rtc->index = (uint8_t)value;
	else
		write_byte(rtc, rtc->index & 0x7f, (uint8_t)value);
	pthread_mutex_unlock(&rtc->lock);
}

static const struct io_ops rtc_ops = { .read = rtc_read, .write = rtc_write, .max_size = 1 };

void mc146818_set_cmos(struct mc146818 *rtc, uint8_t index, uint8_t value)
{
	if (index > REG_D && index < 128)
		rtc->cmos[index] = value;
}

bool mc146818_nmi_masked(struct mc146818 *rtc)
{
	return rtc->index & 0x80;
}

/* ---- saved state ---- */

static int rtc_after_load(void *object, struct error *err)
{
	struct mc146818 *rtc = object;

	if (rtc->offset_ns > OFFSET_MAX_NS || rtc->offset_ns < -OFFSET_MAX_NS)
		return error_set(err, EINVAL, "RTC: its time is impossibly far from the host's");
	return 0;
}

static const struct state_field rtc_fields[] = {
	STATE_FIELD(struct mc146818, index),       STATE_ARRAY(struct mc146818, cmos),
	STATE_FIELD(struct mc146818, offset_ns),   STATE_FIELD(struct mc146818, checked_ns),
	STATE_TIMER_FIELD(struct mc146818, timer), STATE_END,
};
static const struct state_table rtc_table = {
	.name = "mc146818",
	.version = 1,
	.fields = rtc_fields,
	.after_load = rtc_after_load,
};

/* ---- life ---- */

static void rtc_reset(void *opaque)
{
	struct mc146818 *rtc = opaque;

	pthread_mutex_lock(&rtc->lock);
	rtc->index = 0;
	rtc->cmos[REG_B] &= (uint8_t) ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE);
	rtc->cmos[REG_C] = 0;
	look(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_destroy(void *opaque)
{
	struct mc146818 *rtc = opaque;

	vm_timer_cancel(&rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

static void set_cmos16(struct mc146818 *rtc, uint8_t index, uint64_t value)
{
	value = MIN(value, 0xffffu);
	rtc->cmos[index] = (uint8_t)value;
	rtc->cmos[index + 1] = (uint8_t)(value >> 8);
}

static void describe_memory(struct mc146818 *rtc)
{
	uint64_t size = rtc->vm->memory.ram_size, low = MIN(size, GUEST_RAM_LOW_MAX),
		 high = size - low;

	set_cmos16(rtc, 0x15, 640);                                     /* base memory, KiB */
	set_cmos16(rtc, 0x17, low > MIB(1) ? (low - MIB(1)) >> 10 : 0); /* above 1 MiB, KiB */
	set_cmos16(rtc, 0x30, low > MIB(1) ? (low - MIB(1)) >> 10 : 0);
	set_cmos16(rtc, 0x34,
		   low > MIB(16) ? (low - MIB(16)) >> 16 : 0); /* above 16 MiB, 64 KiB units */
	for (unsigned i = 0; i < 3; i++)                       /* above 4 GiB, 64 KiB units */
		rtc->cmos[0x5b + i] = (uint8_t)(high >> (16 + 8 * i));
	rtc->cmos[0x14] = 0x04; /* equipment: no floppies, PS/2 pointing device */
	rtc->cmos[0x5f] = (uint8_t)(rtc->vm->vcpu_count - 1);
}

int mc146818_create(struct vm *vm, struct irq_line irq8, struct mc146818 **out, struct error *err)
{
	struct mc146818 *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return error_set(err, ENOMEM, "out of memory for the RTC");
	rtc->vm = vm;
	rtc->irq8 = irq8;
	rtc->cmos[REG_A] = 0x26; /* 32.768 kHz time base, 1024 Hz rate */
	rtc->cmos[REG_B] = B_24H;
	pthread_mutex_init(&rtc->lock, NULL);
	vm_timer_init(&rtc->timer, vm, timer_fired, rtc);
	vm_add_cleanup(vm, rtc_destroy, rtc);
	vm_add_reset(vm, rtc_reset, rtc);
	vm_state_register(vm, &rtc_table, 0, rtc);
	rtc->checked_ns = rtc_now(rtc);
	fill_clock(rtc, rtc->checked_ns);
	describe_memory(rtc);
	if (bus_add(&vm->pio, &(struct io_region){ "mc146818", 0x70, 2, &rtc_ops, rtc }, err))
		return -1;
	if (out)
		*out = rtc;
	return 0;
}
