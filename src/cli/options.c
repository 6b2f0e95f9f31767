/* SPDX-License-Identifier: MIT */
/*
 * Parsing of the options of `lodge run`.
 *
 * getopt_long() finds the options; each has a function that turns its argument into machine_config.
 * Arguments like FILE,key=value,flag are split at commas; a doubled comma stands for one comma. What
 * only the board can judge (CPU models, device kinds, file formats) is left to it.
 */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "vm/vm.h"

#define MEMORY_DEFAULT MIB(512)
#define MEMORY_MIN MIB(1)
#define MEMORY_MAX GIB(1024)

enum long_only {
	OPT_CPU = 256,
	OPT_CONSOLE,
	OPT_DEVICE,
	OPT_NO_REBOOT,
	OPT_GDB,
	OPT_TRACE,
	OPT_STATS,
	OPT_SUMMARY,
	OPT_PROFILE,
	OPT_PERF_MAP,
	OPT_BT,
};

static const struct option long_options[] = {
	{ "name", required_argument, NULL, 'n' },
	{ "engine", required_argument, NULL, 'e' },
	{ "cpus", required_argument, NULL, 'c' },
	{ "memory", required_argument, NULL, 'm' },
	{ "cpu", required_argument, NULL, OPT_CPU },
	{ "kernel", required_argument, NULL, 'k' },
	{ "initrd", required_argument, NULL, 'i' },
	{ "append", required_argument, NULL, 'a' },
	{ "disk", required_argument, NULL, 'd' },
	{ "net", required_argument, NULL, 'N' },
	{ "console", required_argument, NULL, OPT_CONSOLE },
	{ "device", required_argument, NULL, OPT_DEVICE },
	{ "no-reboot", no_argument, NULL, OPT_NO_REBOOT },
	{ "gdb", required_argument, NULL, OPT_GDB },
	{ "trace", required_argument, NULL, OPT_TRACE },
	{ "stats", no_argument, NULL, OPT_STATS },
	{ "summary", no_argument, NULL, OPT_SUMMARY },
	{ "profile", required_argument, NULL, OPT_PROFILE },
	{ "perf-map", no_argument, NULL, OPT_PERF_MAP },
	{ "bt", required_argument, NULL, OPT_BT },
	{ "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

int parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	char *end;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno)
		return -1;
	unsigned shift = 0;
	if (*end) {
		char upper = *end >= 'a' && *end <= 'z' ? (char)(*end - 'a' + 'A') : *end;
		const char *suffix = strchr(suffixes, upper);

		if (suffix) {
			shift = 10 * (unsigned)(suffix - suffixes + 1);
			end++;
			if (end[0] == 'i' && end[1] == 'B')
				end++;
		}
		if (*end == 'B')
			end++;
	}
	if (*end || (shift && value >> (64 - shift)))
		return -1;
	*bytes = value << shift;
	return 0;
}

static int parse_number(const char *text, unsigned long min, unsigned long max,
			unsigned long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	*value = strtoul(text, &end, 10);
	return errno || *end || *value < min || *value > max ? -1 : 0;
}

/* A copy of text that lives as long as the options. */
static char *own_string(struct run_options *options, const char *text, struct error *err)
{
	if (options->owned_count == OWNED_STRING_MAX) {
		error_set(err, 0, "too many options (at most %d with parameters)",
			  OWNED_STRING_MAX);
		return NULL;
	}
	char *copy = strdup(text);
	if (!copy) {
		error_set_errno(err, ENOMEM, "cannot keep option '%s'", text);
		return NULL;
	}
	options->owned[options->owned_count++] = copy;
	return copy;
}

/* Cut the part before the next single comma off *rest (in place, doubled commas undone); NULL at the end. */
static char *next_part(char **rest)
{
	char *part = *rest, *to = part;

	if (!part)
		return NULL;
	for (const char *from = part;; from++) {
		if (*from == ',' && from[1] == ',') {
			from++;
		} else if (*from == ',') {
			*rest = (char *)from + 1;
			break;
		} else if (!*from) {
			*rest = NULL;
			break;
		}
		*to++ = *from;
	}
	*to = '\0';
	return part;
}

static int parse_disk(struct run_options *options, const char *argument, struct error *err)
{
	struct machine_config *machine = &options->machine;
	char *rest = own_string(options, argument, err);

	if (!rest)
		return -1;
	if (machine->disk_count == MACHINE_DISK_MAX)
		return error_set(err, 0, "too many --disk options: at most %d", MACHINE_DISK_MAX);
	struct machine_disk disk = { .path = next_part(&rest) };

	if (!*disk.path)
		return error_set(err, 0, "--disk '%s': no file name", argument);
	for (char *part; (part = next_part(&rest));) {
		if (!strncmp(part, "format=", 7) && part[7])
			disk.format = part + 7;
		else if (!strcmp(part, "readonly"))
			disk.readonly = true;
		else if (!strcmp(part, "snapshot"))
			disk.snapshot = true;
		else
			return error_set(
				err, 0,
				"--disk '%s': '%s' is not format=raw, readonly or snapshot "
				"(write a comma in a file name twice)",
				argument, part);
	}
	machine->disks[machine->disk_count++] = disk;
	return 0;
}

/* tcp:HOSTPORT:GUESTPORT or udp:... */
static int parse_hostfwd(char *text, struct machine_hostfwd *forward)
{
	unsigned long host_port, guest_port;

	if (!strncmp(text, "udp:", 4))
		forward->udp = true;
	else if (strncmp(text, "tcp:", 4))
		return -1;
	text += 4;
	char *colon = strchr(text, ':');
	if (!colon)
		return -1;
	*colon = '\0';
	if (parse_number(text, 1, 65535, &host_port) ||
	    parse_number(colon + 1, 1, 65535, &guest_port))
		return -1;
	forward->host_port = (uint16_t)host_port;
	forward->guest_port = (uint16_t)guest_port;
	return 0;
}

static int parse_net(struct run_options *options, const char *argument, struct error *err)
{
	struct machine_config *machine = &options->machine;
	char *rest = own_string(options, argument, err);

	if (!rest)
		return -1;
	if (machine->nic_count == MACHINE_NIC_MAX)
		return error_set(err, 0, "too many --net options: at most %d", MACHINE_NIC_MAX);
	struct machine_nic *nic = &machine->nics[machine->nic_count];

	memset(nic, 0, sizeof(*nic));
	nic->kind = next_part(&rest);
	if (strcmp(nic->kind, "user") && (strcmp(nic->kind, "none") || rest))
		return error_set(
			err, 0,
			"--net '%s': give user, user,hostfwd=tcp:HOSTPORT:GUESTPORT or none",
			argument);
	for (char *part; (part = next_part(&rest));) {
		if (nic->hostfwd_count == MACHINE_HOSTFWD_MAX)
			return error_set(err, 0, "--net: at most %d port forwards",
					 MACHINE_HOSTFWD_MAX);
		if (strncmp(part, "hostfwd=", 8) ||
		    parse_hostfwd(part + 8, &nic->hostfwds[nic->hostfwd_count]))
			return error_set(
				err, 0,
				"--net '%s': a port forward is hostfwd=tcp:HOSTPORT:GUESTPORT, "
				"ports 1 to 65535",
				argument);
		nic->hostfwd_count++;
	}
	machine->nic_count++;
	return 0;
}

static int parse_device(struct run_options *options, const char *argument, struct error *err)
{
	struct machine_config *machine = &options->machine;
	char *kind = own_string(options, argument, err);

	if (!kind)
		return -1;
	if (machine->device_count == MACHINE_DEVICE_MAX)
		return error_set(err, 0, "too many --device options: at most %d",
				 MACHINE_DEVICE_MAX);
	char *comma = strchr(kind, ',');

	if (comma)
		*comma++ = '\0';
	if (!*kind)
		return error_set(err, 0, "--device '%s': no device name", argument);
	machine->devices[machine->device_count++] = (struct machine_device){ kind, comma };
	return 0;
}

static int parse_gdb(struct run_options *options, const char *argument, struct error *err)
{
	char *rest = own_string(options, argument, err);

	if (!rest)
		return -1;
	options->gdb = next_part(&rest);
	for (char *part; (part = next_part(&rest));) {
		if (strcmp(part, "nowait"))
			return error_set(
				err, 0,
				"--gdb '%s': give [tcp:][HOST]:PORT or unix:PATH, and perhaps ,nowait",
				argument);
		options->gdb_nowait = true;
	}
	return 0;
}

static int parse_trace(const char *list, struct error *err)
{
	const char *bad;
	char names[256] = "";

	if (!trace_enable(list, &bad))
		return 0;
	for (unsigned i = 0; trace_category_name(i); i++) {
		size_t len = strlen(names);

		snprintf(names + len, sizeof(names) - len, "%s%s", i ? ", " : "",
			 trace_category_name(i));
	}
	return error_set(err, 0, "--trace: no category '%.*s'; there are %s and all",
			 (int)strcspn(bad, ","), bad, names);
}

static int parse_memory(struct machine_config *machine, const char *argument, struct error *err)
{
	if (parse_size(argument, &machine->memory))
		return error_set(err, 0, "--memory '%s' is not a size; give for example 512M or 4G",
				 argument);
	if (machine->memory < MEMORY_MIN || machine->memory > MEMORY_MAX)
		return error_set(err, 0, "--memory '%s' is out of range: give 1M to 1024G",
				 argument);
	if (machine->memory % PAGE_SIZE)
		return error_set(err, 0, "--memory '%s' is not a multiple of 4K", argument);
	return 0;
}

static int parse_cpus(struct machine_config *machine, const char *argument, struct error *err)
{
	unsigned long cpus;

	if (parse_number(argument, 1, VM_VCPU_MAX, &cpus))
		return error_set(err, 0, "--cpus '%s': give a number from 1 to %d", argument,
				 VM_VCPU_MAX);
	machine->cpus = (unsigned)cpus;
	return 0;
}

static int parse_name(struct machine_config *machine, const char *argument, struct error *err)
{
	if (!*argument || strlen(argument) >= sizeof(((struct vm_config *)0)->name))
		return error_set(err, 0, "--name '%.80s': give 1 to %zu characters", argument,
				 sizeof(((struct vm_config *)0)->name) - 1);
	machine->name = argument;
	return 0;
}

static int parse_option(struct run_options *options, int option, const char *argument,
			struct error *err)
{
	struct machine_config *machine = &options->machine;

	switch (option) {
	case 'n':
		return parse_name(machine, argument, err);
	case 'e':
		machine->engine = argument;
		return 0;
	case 'c':
		return parse_cpus(machine, argument, err);
	case 'm':
		return parse_memory(machine, argument, err);
	case OPT_CPU:
		machine->cpu = argument;
		return 0;
	case 'k':
		machine->kernel = argument;
		return 0;
	case 'i':
		machine->initrd = argument;
		return 0;
	case 'a':
		machine->append = argument;
		return 0;
	case 'd':
		return parse_disk(options, argument, err);
	case 'N':
		return parse_net(options, argument, err);
	case OPT_CONSOLE:
		machine->console = argument;
		return 0;
	case OPT_DEVICE:
		return parse_device(options, argument, err);
	case OPT_NO_REBOOT:
		machine->no_reboot = true;
		return 0;
	case OPT_GDB:
		return parse_gdb(options, argument, err);
	case OPT_TRACE:
		return parse_trace(argument, err);
	case OPT_STATS:
		options->stats = true;
		return 0;
	case OPT_SUMMARY:
		options->summary = true;
		return 0;
	case OPT_PROFILE:
		options->profile = argument;
		machine->profile = true;
		return 0;
	case OPT_PERF_MAP:
		machine->perf_map = true;
		return 0;
	case OPT_BT:
		machine->engine_options = argument;
		return 0;
	case 'v':
		options->verbose++;
		return 0;
	case 'h':
		options->help = true;
		return 0;
	}
	return error_set(err, 0, "option %d is not handled", option);
}

/* `--net none` means no card at all, so it stands alone; no --net means one user-mode card. */
static int settle_nics(struct machine_config *machine, bool any_net, struct error *err)
{
	for (unsigned i = 0; i < machine->nic_count; i++) {
		if (strcmp(machine->nics[i].kind, "none"))
			continue;
		if (machine->nic_count > 1)
			return error_set(err, 0, "--net none excludes other --net options");
		machine->nic_count = 0;
	}
	if (!any_net)
		machine->nics[machine->nic_count++] = (struct machine_nic){ .kind = "user" };
	return 0;
}

int run_options_parse(struct run_options *options, int argc, char **argv, struct error *err)
{
	bool any_net = false;
	int option;

	memset(options, 0, sizeof(*options));
	options->machine.cpus = 1;
	options->machine.memory = MEMORY_DEFAULT;
	options->machine.console = "stdio";

	opterr = 0;
	optind = 1;
	while ((option = getopt_long(argc, argv, ":n:e:c:m:k:i:a:d:N:vh", long_options, NULL)) >=
	       0) {
		if (option == ':')
			return error_set(err, 0,
					 "option '%s' needs an argument; see 'lodge run --help'",
					 argv[optind - 1]);
		if (option == '?') {
			if (optopt && optopt < 256)
				return error_set(err, 0, "no option '-%c'; see 'lodge run --help'",
						 optopt);
			return error_set(err, 0, "%s option '%s'; see 'lodge run --help'",
					 optopt ? "no argument is allowed with" : "no or ambiguous",
					 argv[optind - 1]);
		}
		any_net |= option == 'N';
		if (parse_option(options, option, optarg, err))
			return -1;
	}
	options->cpu_help = options->machine.cpu && strcmp(options->machine.cpu, "help") == 0;
	if (options->help || options->cpu_help)
		return 0;
	if (optind < argc)
		return error_set(err, 0, "unexpected argument '%s'; see 'lodge run --help'",
				 argv[optind]);
	if (!options->machine.kernel)
		return error_set(err, 0, "no kernel to boot: give one with --kernel FILE");
	return settle_nics(&options->machine, any_net, err);
}

void run_options_free(struct run_options *options)
{
	for (unsigned i = 0; i < options->owned_count; i++)
		free(options->owned[i]);
	options->owned_count = 0;
}
