/* SPDX-License-Identifier: MIT */
/* Errors and trace categories. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

static void test_error_text(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_int_equal(error_set(&err, 5, "cannot open %s", "it"), -1);
	assert_int_equal(err.code, 5);
	assert_string_equal(err.text, "cannot open it");
	assert_int_equal(error_prefix(&err, "disk %d", 2), -1);
	assert_string_equal(err.text, "disk 2: cannot open it");
	error_set_errno(&err, ENOENT, "cannot open 'x'");
	assert_int_equal(err.code, ENOENT);
	assert_string_equal(err.text, "cannot open 'x': No such file or directory");
	/* An argument that is the text itself. */
	error_set(&err, 0, "again: %s", err.text);
	assert_string_equal(err.text, "again: cannot open 'x': No such file or directory");
	/* Nobody wants to know. */
	assert_int_equal(error_set(NULL, 0, "x"), -1);
	assert_int_equal(error_set_errno(NULL, EIO, "x"), -1);
	assert_int_equal(error_prefix(NULL, "x"), -1);
}

static void test_error_truncates(void **state)
{
	struct error err = { 0 };
	char longer[2 * sizeof(err.text)];

	(void)state;
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	error_set(&err, 0, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	error_prefix(&err, "front");
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_memory_equal(err.text, "front: aaa", 10);
	/* Every length of prefix around the end of the buffer. */
	for (int len = (int)sizeof(err.text) - 8; len < (int)sizeof(err.text) + 4; len++) {
		error_set(&err, 0, "cause");
		error_prefix(&err, "%.*s", len, longer);
		assert_true(strlen(err.text) < sizeof(err.text));
		error_set_errno(&err, EIO, "%.*s", len, longer);
		assert_true(strlen(err.text) < sizeof(err.text));
	}
}

static void test_trace_list(void **state)
{
	const char *bad = NULL;

	(void)state;
	trace_mask = 0;
	assert_int_equal(trace_enable("irq,mmio", &bad), 0);
	assert_true(trace_on(TRACE_IRQ) && trace_on(TRACE_MMIO) && !trace_on(TRACE_PIO));
	/* One wrong name: nothing changes. */
	assert_int_equal(trace_enable("pio,irqs,tb", &bad), -1);
	assert_string_equal(bad, "irqs,tb");
	assert_false(trace_on(TRACE_PIO));
	assert_int_equal(trace_enable("", &bad), -1);
	assert_int_equal(trace_enable("pio,", &bad), -1);
	assert_int_equal(trace_enable("all", &bad), 0);
	for (unsigned i = 0; i < TRACE_CATEGORY_COUNT; i++) {
		assert_true(trace_on(i));
		assert_non_null(trace_category_name(i));
	}
	assert_null(trace_category_name(TRACE_CATEGORY_COUNT));
	trace_mask = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_error_text),
		cmocka_unit_test(test_error_truncates),
		cmocka_unit_test(test_trace_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
