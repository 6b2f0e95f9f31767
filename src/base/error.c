/* SPDX-License-Identifier: MIT */
/* Filling struct error: sentences are truncated to its buffer, never allocated. See error.h. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* Put ": " and more behind the first len bytes of text (a buffer of size bytes), as far as it fits. */
static void append(char *text, size_t size, int len, const char *more)
{
	if (len < 0 || (size_t)len + 3 >= size)
		return;
	size_t n = strnlen(more, size - (size_t)len - 3);
	text[len] = ':';
	text[len + 1] = ' ';
	memcpy(text + len + 2, more, n);
	text[(size_t)len + 2 + n] = '\0';
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return -1;
	/* An argument may point into err->text, so format beside it. */
	char text[sizeof(err->text)];
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err->code = code;
	memcpy(err->text, text, sizeof(text));
	return -1;
}

int error_set_errno(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;
	char reason[128];

	if (!err)
		return -1;
	char text[sizeof(err->text)];
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	append(text, sizeof(text), n, strerror_r(code, reason, sizeof(reason)));
	err->code = code;
	memcpy(err->text, text, sizeof(text));
	return -1;
}

int error_prefix(struct error *err, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return -1;
	char text[sizeof(err->text)];
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	append(text, sizeof(text), n, err->text);
	memcpy(err->text, text, sizeof(text));
	return -1;
}
