/* SPDX-License-Identifier: MIT */
/*
 * Messages for people (standard error) and trace events (--trace LIST).
 *
 * Tracing costs one predictable branch on a global mask when it is off. Thread safe: each call
 * writes one whole line with one write().
 */
#ifndef LODGE_BASE_LOG_H
#define LODGE_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Trace categories; the names accepted by --trace are these in lower case. */
enum trace_category {
	TRACE_IRQ,        /* interrupt lines, MSI, LAPIC accept/EOI */
	TRACE_EXCEPTIONS, /* exceptions and interrupts delivered to the guest */
	TRACE_MMIO,
	TRACE_PIO,
	TRACE_TB,     /* translation, invalidation */
	TRACE_TLB,    /* fills and flushes */
	TRACE_MSR,    /* rdmsr, wrmsr */
	TRACE_CPU,    /* control registers, mode switches, task switches */
	TRACE_VIRTIO, /* virtqueue activity */
	TRACE_BLOCK,
	TRACE_NET,
	TRACE_UNCLAIMED, /* accesses that no device claims */
	TRACE_CATEGORY_COUNT
};

extern uint32_t trace_mask; /* bit n: category n is on */

/* Set the level below which messages are dropped (default LOG_WARN). */
void log_set_level(enum log_level level);

/* Write "lodge: [error: |warning: ]<text>\n" to standard error if level is enabled. */
void log_message(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_message(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_message(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_DEBUG, __VA_ARGS__)

/* Parse a comma-separated list of category names ("irq,mmio", "all") into trace_mask.
 * Returns 0, or -1 and sets *bad to a pointer to the first unknown name. */
int trace_enable(const char *list, const char **bad);
/* The name --trace takes for a category, or NULL past the last one. */
const char *trace_category_name(enum trace_category cat);
void trace_message(enum trace_category cat, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static inline bool trace_on(enum trace_category cat)
{
	return __builtin_expect((trace_mask >> cat) & 1, 0);
}

#define trace(cat, ...)                                                                            \
	do {                                                                                       \
		if (trace_on(cat))                                                                 \
			trace_message(cat, __VA_ARGS__);                                           \
	} while (0)

#endif
