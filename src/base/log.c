/* SPDX-License-Identifier: MIT */
/*
 * Messages and trace events on standard error. See log.h.
 *
 * A line is put together in a buffer on the stack and written with one write(), so lines of
 * different threads do not mix. The terminal may be in raw mode while a guest runs; a carriage
 * return is added then, so that lines start in the first column.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

uint32_t trace_mask;

static enum log_level log_threshold = LOG_WARN;

static const char *const level_names[] = {
	[LOG_ERROR] = "error: ",
	[LOG_WARN] = "warning: ",
	[LOG_INFO] = "",
	[LOG_DEBUG] = "debug: ",
};

static const char *const category_names[TRACE_CATEGORY_COUNT] = {
	[TRACE_IRQ] = "irq",       [TRACE_EXCEPTIONS] = "exceptions",
	[TRACE_MMIO] = "mmio",     [TRACE_PIO] = "pio",
	[TRACE_TB] = "tb",         [TRACE_TLB] = "tlb",
	[TRACE_MSR] = "msr",       [TRACE_CPU] = "cpu",
	[TRACE_VIRTIO] = "virtio", [TRACE_BLOCK] = "block",
	[TRACE_NET] = "net",       [TRACE_UNCLAIMED] = "unclaimed",
};

/* Does the terminal turn "\n" into "\r\n" itself? */
static bool newline_is_raw(void)
{
	struct termios tio;

	return tcgetattr(STDERR_FILENO, &tio) == 0 && !(tio.c_oflag & OPOST);
}

static void __attribute__((format(printf, 2, 0)))
write_line(const char *prefix, const char *fmt, va_list ap)
{
	char line[1024];
	int prefix_len = snprintf(line, sizeof(line), "%s", prefix);
	size_t len = (size_t)prefix_len;
	size_t room = sizeof(line) - 2 - len; /* leave two bytes for the line end */

	int n = vsnprintf(line + len, room, fmt, ap);
	if (n > 0)
		len += MIN((size_t)n, room - 1);
	if (newline_is_raw())
		line[len++] = '\r';
	line[len++] = '\n';
	/* Nowhere to report a failure to. */
	ssize_t written = write(STDERR_FILENO, line, len);
	(void)written;
}

void log_set_level(enum log_level level)
{
	log_threshold = level;
}

void log_message(enum log_level level, const char *fmt, ...)
{
	va_list ap;
	char prefix[32];

	if (level > log_threshold)
		return;
	snprintf(prefix, sizeof(prefix), "lodge: %s", level_names[level]);
	va_start(ap, fmt);
	write_line(prefix, fmt, ap);
	va_end(ap);
}

static int find_category(const char *name, size_t len)
{
	for (unsigned i = 0; i < TRACE_CATEGORY_COUNT; i++)
		if (strlen(category_names[i]) == len && !memcmp(category_names[i], name, len))
			return (int)i;
	return -1;
}

int trace_enable(const char *list, const char **bad)
{
	uint32_t mask = 0;

	for (const char *name = list;;) {
		size_t len = strcspn(name, ",");
		int category = find_category(name, len);

		if (category >= 0) {
			mask |= BIT(category);
		} else if (len == 3 && !memcmp(name, "all", 3)) {
			mask |= BIT(TRACE_CATEGORY_COUNT) - 1;
		} else {
			*bad = name;
			return -1;
		}
		if (!name[len])
			break;
		name += len + 1;
	}
	trace_mask |= mask;
	return 0;
}

const char *trace_category_name(enum trace_category cat)
{
	return cat < TRACE_CATEGORY_COUNT ? category_names[cat] : NULL;
}

void trace_message(enum trace_category cat, const char *fmt, ...)
{
	va_list ap;
	char prefix[64];
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(prefix, sizeof(prefix), "%5lld.%06ld %s: ", (long long)now.tv_sec,
		 now.tv_nsec / 1000, category_names[cat]);
	va_start(ap, fmt);
	write_line(prefix, fmt, ap);
	va_end(ap);
}
