/* SPDX-License-Identifier: MIT */
/* The options of `lodge run`: what they turn into. That wrong ones are refused with a good sentence is tested by tests/cli. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/util.h"
#include "cli/options.h"

static struct run_options options;
static struct error err;

/* Parse a command line given as words; NULL ends it. */
static int parse(const char *first, ...)
{
	static char words[64][256];
	static char *argv[65];
	int argc = 0;
	va_list ap;

	strcpy(words[argc], "run");
	argv[argc] = words[argc];
	argc++;
	va_start(ap, first);
	for (const char *word = first; word; word = va_arg(ap, const char *)) {
		strcpy(words[argc], word);
		argv[argc] = words[argc];
		argc++;
	}
	va_end(ap);
	argv[argc] = NULL;
	run_options_free(&options);
	return run_options_parse(&options, argc, argv, &err);
}

static void test_size(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "1K", 1024 },
		{ "512M", MIB(512) },
		{ "512m", MIB(512) },
		{ "512MiB", MIB(512) },
		{ "4G", GIB(4) },
		{ "4GB", GIB(4) },
		{ "16777215T", 16777215ull << 40 },
		{ "1B", 1 },
		{ "18446744073709551615", UINT64_MAX },
	};
	static const char *const bad[] = {
		"",    "K",    "-1",   "+1",  " 1",   "1 ",        "1X",
		"1KK", "1.5G", "0x10", "1iB", "1KiX", "16777216T", "18446744073709551616"
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, &bytes), 0);
		assert_true(bytes == good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], &bytes), -1);
}

static void test_defaults(void **state)
{
	(void)state;
	assert_int_equal(parse("-k", "kernel", NULL), 0);
	assert_string_equal(options.machine.kernel, "kernel");
	assert_int_equal(options.machine.cpus, 1);
	assert_true(options.machine.memory == MIB(512));
	assert_string_equal(options.machine.console, "stdio");
	assert_int_equal(options.machine.disk_count, 0);
	assert_int_equal(options.machine.nic_count, 1);
	assert_string_equal(options.machine.nics[0].kind, "user");
	assert_int_equal(options.machine.nics[0].hostfwd_count, 0);
	assert_false(options.machine.no_reboot || options.stats || options.summary || options.gdb);
}

static void test_disks(void **state)
{
	const struct machine_disk *disks = options.machine.disks;

	(void)state;
	assert_int_equal(parse("-k", "k", "-d", "a.img", "-d", "b,,c.img,format=raw,readonly",
			       "--disk=d,snapshot", NULL),
			 0);
	assert_int_equal(options.machine.disk_count, 3);
	assert_string_equal(disks[0].path, "a.img");
	assert_null(disks[0].format);
	assert_false(disks[0].readonly || disks[0].snapshot);
	assert_string_equal(disks[1].path, "b,c.img");
	assert_string_equal(disks[1].format, "raw");
	assert_true(disks[1].readonly && !disks[1].snapshot);
	assert_true(disks[2].snapshot && !disks[2].readonly);
	/* Commas in twos and threes. */
	assert_int_equal(parse("-k", "k", "-d", ",,x,,,readonly", NULL), 0);
	assert_string_equal(disks[0].path, ",x,");
	assert_true(disks[0].readonly);
}

static void test_nets(void **state)
{
	const struct machine_nic *nics = options.machine.nics;

	(void)state;
	assert_int_equal(parse("-k", "k", "-N", "user,hostfwd=tcp:2222:22,hostfwd=udp:5353:53",
			       "-N", "user", NULL),
			 0);
	assert_int_equal(options.machine.nic_count, 2);
	assert_int_equal(nics[0].hostfwd_count, 2);
	assert_true(!nics[0].hostfwds[0].udp && nics[0].hostfwds[0].host_port == 2222 &&
		    nics[0].hostfwds[0].guest_port == 22);
	assert_true(nics[0].hostfwds[1].udp && nics[0].hostfwds[1].host_port == 5353 &&
		    nics[0].hostfwds[1].guest_port == 53);
	assert_int_equal(nics[1].hostfwd_count, 0);
	assert_int_equal(parse("-k", "k", "-N", "none", NULL), 0);
	assert_int_equal(options.machine.nic_count, 0);
}

static void test_others(void **state)
{
	(void)state;
	assert_int_equal(parse("-n", "box", "-e", "bt", "-c", "64", "-m", "4G", "--cpu",
			       "x86-64-v3,+aes", "-k", "k", "-i", "i", "-a", "console=ttyS0 a,b",
			       "--console", "file=x", "--device", "isa-debug-exit,iobase=0xf4",
			       "--device", "pc-testdev", "--no-reboot", "--gdb", ":1234,nowait",
			       "--stats", "--summary", "-vv", NULL),
			 0);
	assert_string_equal(options.machine.name, "box");
	assert_string_equal(options.machine.engine, "bt");
	assert_int_equal(options.machine.cpus, 64);
	assert_true(options.machine.memory == GIB(4));
	assert_string_equal(options.machine.cpu, "x86-64-v3,+aes");
	assert_string_equal(options.machine.initrd, "i");
	assert_string_equal(options.machine.append, "console=ttyS0 a,b");
	assert_string_equal(options.machine.console, "file=x");
	assert_int_equal(options.machine.device_count, 2);
	assert_string_equal(options.machine.devices[0].kind, "isa-debug-exit");
	assert_string_equal(options.machine.devices[0].params, "iobase=0xf4");
	assert_null(options.machine.devices[1].params);
	assert_string_equal(options.gdb, ":1234");
	assert_true(options.gdb_nowait && options.machine.no_reboot && options.stats &&
		    options.summary);
	assert_int_equal(options.verbose, 2);
	/* The last of several counts; --help excuses everything else. */
	assert_int_equal(parse("-k", "a", "-k", "b", NULL), 0);
	assert_string_equal(options.machine.kernel, "b");
	assert_int_equal(parse("--help", NULL), 0);
	assert_true(options.help);
}

static void test_refusals(void **state)
{
	(void)state;
	assert_int_equal(parse(NULL), -1);
	assert_non_null(strstr(err.text, "--kernel"));
	assert_int_equal(parse("-k", "k", "-c", "65", NULL), -1);
	assert_int_equal(parse("-k", "k", "-m", "5000", NULL), -1);
	assert_int_equal(parse("-k", "k", "-N", "none", "-N", "user", NULL), -1);
	assert_int_equal(parse("-k", "k", "-N", "user,hostfwd=tcp:65536:1", NULL), -1);
	assert_int_equal(parse("-k", "k", "-d", "x,format=", NULL), -1);
	run_options_free(&options);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size),   cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_disks),  cmocka_unit_test(test_nets),
		cmocka_unit_test(test_others), cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
