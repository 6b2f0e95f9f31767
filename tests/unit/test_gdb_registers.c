/* SPDX-License-Identifier: MIT */
/* GDB's register tables: every register keeps what is written to it and changes no other; initial states; the XML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "vm/gdb_registers.h"

#define XSTATE_BV 512

/* Number of a register by its name, from the description GDB gets. */
static unsigned number(bool long_mode, const char *name)
{
	static char xml[32768];
	char pattern[64];
	unsigned n = 0;

	gdb_register_description(long_mode, xml, sizeof(xml));
	snprintf(pattern, sizeof(pattern), "<reg name=\"%s\" ", name);
	const char *at = strstr(xml, pattern);

	assert_non_null(at);
	assert_int_equal(sscanf(strstr(at, "regnum=\""), "regnum=\"%u\"", &n), 1);
	return n;
}

static void read_all(bool long_mode, const struct x86_cpu_state *state,
		     uint8_t values[][GDB_REGISTER_SIZE_MAX])
{
	for (unsigned n = 0; n < gdb_register_count(long_mode); n++)
		gdb_register_read(long_mode, n, state, values[n]);
}

static void round_trip(bool long_mode)
{
	static struct x86_cpu_state state;
	static uint8_t before[256][GDB_REGISTER_SIZE_MAX], after[256][GDB_REGISTER_SIZE_MAX];
	unsigned kept = 0;

	assert_true(gdb_register_count(long_mode) <= 256);
	for (unsigned n = 0; n < gdb_register_count(long_mode); n++) {
		unsigned size = gdb_register_size(long_mode, n);
		uint8_t value[GDB_REGISTER_SIZE_MAX];

		assert_true(size >= 4 && size <= GDB_REGISTER_SIZE_MAX);
		memset(&state, 0, sizeof(state));
		store_le64(state.xsave + XSTATE_BV, 7);
		read_all(long_mode, &state, before);
		memset(value, 0, sizeof(value));
		value[0] = 0x41; /* valid in EFLAGS, too: CF and ZF */
		gdb_register_write(long_mode, n, &state, value);
		read_all(long_mode, &state, after);
		for (unsigned other = 0; other < gdb_register_count(long_mode); other++)
			if (other != n)
				assert_memory_equal(before[other], after[other],
						    gdb_register_size(long_mode, other));
		kept += !memcmp(after[n] + 1, value + 1, size - 1) &&
			(after[n][0] | 2) == (value[0] | 2);
	}
	/* All but the six selectors, the two x87 selectors and the tag word (which is rounded to empty or not). */
	assert_int_equal(kept, gdb_register_count(long_mode) - 9);
}

static void test_round_trip(void **state)
{
	(void)state;
	round_trip(true);
	round_trip(false);
}

static void test_initial_components(void **unused)
{
	static struct x86_cpu_state state;
	uint8_t value[GDB_REGISTER_SIZE_MAX];
	unsigned xmm0 = number(true, "xmm0"), xmm1 = number(true, "xmm1"),
		 fctrl = number(true, "fctrl"), st0 = number(true, "st0");

	(void)unused;
	/* The area holds rubbish, and XSTATE_BV says that nothing of it counts. */
	memset(state.xsave, 0xee, sizeof(state.xsave));
	memset(state.xsave + XSTATE_BV, 0, 64);
	gdb_register_read(true, xmm0, &state, value);
	assert_true(load_le64(value) == 0);
	gdb_register_read(true, fctrl, &state, value);
	assert_int_equal(load_le32(value), 0x37f);
	/* Writing what is there already changes nothing. */
	gdb_register_write(true, fctrl, &state, value);
	assert_true(load_le64(state.xsave + XSTATE_BV) == 0);
	/* Writing one makes its neighbours what they read as, and leaves other components alone. */
	memset(value, 0, sizeof(value));
	value[3] = 9;
	gdb_register_write(true, xmm1, &state, value);
	assert_true(load_le64(state.xsave + XSTATE_BV) == 2);
	gdb_register_read(true, xmm0, &state, value);
	assert_true(load_le64(value) == 0);
	gdb_register_read(true, xmm1, &state, value);
	assert_int_equal(value[3], 9);
	value[0] = 1;
	gdb_register_write(true, st0, &state, value);
	assert_true(load_le64(state.xsave + XSTATE_BV) == 3);
	gdb_register_read(true, fctrl, &state, value);
	assert_int_equal(load_le32(value), 0x37f);
}

static void test_description(void **unused)
{
	static char xml[32768], cut[100];

	(void)unused;
	for (int long_mode = 0; long_mode < 2; long_mode++) {
		size_t len = gdb_register_description(long_mode, xml, sizeof(xml));

		assert_true(len < 16384); /* what the stub has room for */
		assert_int_equal(strlen(xml), len);
		assert_non_null(strstr(xml, "</feature></target>"));
		assert_null(strpbrk(xml, "#$}*")); /* would need escaping in a packet */
	}
	assert_int_equal(gdb_register_description(true, cut, sizeof(cut)), sizeof(cut) - 1);
	assert_int_equal(gdb_register_size(true, 100000), 0);
	assert_int_equal(number(true, "rip"), 16);
	assert_int_equal(number(false, "eip"), 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_initial_components),
		cmocka_unit_test(test_description),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
