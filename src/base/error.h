/* SPDX-License-Identifier: MIT */
/*
 * Errors are values.
 *
 * A function that can fail takes a `struct error *` as its last argument and returns a negative
 * number (or NULL) on failure, after filling it with a sentence that says what was attempted, on
 * which object, and why. Callers add context with error_prefix(). Nothing below cli/ calls exit().
 */
#ifndef LODGE_BASE_ERROR_H
#define LODGE_BASE_ERROR_H

#include <stdarg.h>

struct error {
	int code;       /* an errno value, or 0 when none applies */
	char text[512]; /* one sentence without a trailing newline or full stop */
};

/* Fill err (may be NULL) with a formatted sentence; always returns -1, so `return error_set(...)`. */
int error_set(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": <strerror(code)>". */
int error_set_errno(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put formatted context and ": " before the text already in err; returns -1. */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
