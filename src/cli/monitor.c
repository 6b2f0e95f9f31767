/* SPDX-License-Identifier: MIT */
/*
 * The monitor (Ctrl-A c). See monitor.h.
 *
 * The thread sleeps on an eventfd. When the escape key comes, the event loop has already taken the
 * terminal from the guest (stdio_suspend); the thread then reads lines until `continue`, and gives the
 * terminal back. Looking at a vCPU needs it stopped: a running machine is paused for as long as
 * the command takes, and stays paused after `pause`.
 */
#include "cli/monitor.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "char/stdio.h"
#include "cli/dump.h"
#include "cli/stats.h"
#include "vm/vm.h"

/* Values added to the eventfd; one END outweighs any number of OPENs. */
#define EVENT_OPEN 1ull
#define EVENT_END 0x100000000ull

#define DUMP_UNITS_MAX 4096

enum next { STAY, LEAVE };

struct monitor_command {
	const char *name, *alias;
	const char *arguments, *help;
	enum next (*run)(struct monitor *monitor, char *arguments); /* NULL: print_help() */
};

/* Stop the vCPUs for the length of a command, if they run. */
static bool stop_vcpus(struct monitor *monitor)
{
	if (atomic_load(&monitor->vm->paused))
		return false;
	vm_pause(monitor->vm);
	return true;
}

static void restart_vcpus(struct monitor *monitor, bool stopped)
{
	if (stopped)
		vm_resume(monitor->vm);
}

static struct vcpu *selected(struct monitor *monitor)
{
	return monitor->vm->vcpus[monitor->cpu];
}

/* ---- numbers: 0x..., decimal, $register, with + and - ---- */

static bool register_value(const struct x86_cpu_state *s, const char *name, size_t len,
			   uint64_t *value)
{
	static const char *const names[] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i]) == len && !memcmp(names[i], name, len)) {
			*value = s->gpr[i];
			return true;
		}
	if ((len == 3 && !memcmp(name, "rip", 3)) || (len == 2 && !memcmp(name, "pc", 2))) {
		*value = s->seg[X86_CS].base + s->rip;
		return true;
	}
	if (len == 2 && !memcmp(name, "sp", 2)) {
		*value = s->seg[X86_SS].base + s->gpr[X86_RSP];
		return true;
	}
	if (len == 3 && !memcmp(name, "cr3", 3)) {
		*value = s->cr3 & ~0xfffull & ~X86_CR3_NOFLUSH;
		return true;
	}
	return false;
}

static bool parse_address(const struct x86_cpu_state *state, const char *text, uint64_t *address)
{
	bool minus = false;

	for (*address = 0;;) {
		uint64_t value;

		while (*text == ' ')
			text++;
		if (*text == '$') {
			size_t len = 0;

			text++;
			while (isalnum((unsigned char)text[len]))
				len++;
			if (!register_value(state, text, len, &value))
				return false;
			text += len;
		} else {
			char *end;

			if (!isdigit((unsigned char)*text))
				return false;
			value = strtoull(text, &end, 0);
			text = end;
		}
		*address += minus ? -value : value;
		while (*text == ' ')
			text++;
		if (!*text)
			return true;
		if (*text != '+' && *text != '-')
			return false;
		minus = *text++ == '-';
	}
}

/* ---- commands ---- */

static void info_cpus(struct monitor *monitor)
{
	for (unsigned i = 0; i < monitor->vm->vcpu_count; i++) {
		struct vcpu *vcpu = monitor->vm->vcpus[i];
		struct x86_cpu_state state;

		vcpu->vm->engine->get_state(vcpu, &state);
		printf("%c vCPU %-2u APIC id %-3u %-8s CS:RIP %04x:%016" PRIx64
		       "  CPU time %.3f s\n",
		       i == monitor->cpu ? '*' : ' ', i, vcpu->apic_id,
		       state.mp_state == X86_MP_RUNNABLE ? "running" :
		       state.mp_state == X86_MP_HALTED   ? "halted" :
							   "waiting",
		       state.seg[X86_CS].selector, state.rip, (double)vcpu_cpu_time_ns(vcpu) / 1e9);
	}
}

static enum next cmd_monitor_info(struct monitor *monitor, char *arguments)
{
	bool stopped = stop_vcpus(monitor);

	if (!strcmp(arguments, "registers") || !strcmp(arguments, "r")) {
		struct x86_cpu_state state;

		monitor->vm->engine->get_state(selected(monitor), &state);
		printf("vCPU %u:\n", monitor->cpu);
		dump_registers(stdout, &state);
	} else if (!strcmp(arguments, "cpus")) {
		info_cpus(monitor);
	} else if (!strcmp(arguments, "stats")) {
		stats_print(stdout, monitor->vm);
	} else {
		puts("info registers, info cpus or info stats");
	}
	restart_vcpus(monitor, stopped);
	return STAY;
}

static enum next cmd_monitor_cpu(struct monitor *monitor, char *arguments)
{
	char *end;
	unsigned long n = strtoul(arguments, &end, 10);

	if (!isdigit((unsigned char)*arguments) || *end || n >= monitor->vm->vcpu_count)
		printf("give a vCPU from 0 to %u\n", monitor->vm->vcpu_count - 1);
	else
		monitor->cpu = (unsigned)n;
	return STAY;
}

/* [/FMT] ADDR: FMT is a count, a unit b h w g, and i for instructions. */
static void examine(struct monitor *monitor, char *arguments, bool physical)
{
	unsigned long count = 1;
	unsigned size = 8;
	bool code = false;
	struct x86_cpu_state state;

	if (*arguments == '/') {
		arguments++;
		if (isdigit((unsigned char)*arguments))
			count = strtoul(arguments, &arguments, 10);
		for (; *arguments && *arguments != ' '; arguments++) {
			const char *unit = strchr("bh.w...g", *arguments);

			if (*arguments == 'i')
				code = true;
			else if (*arguments != 'x' && *arguments != '.' && unit)
				size = (unsigned)(unit - "bh.w...g") + 1;
			else if (*arguments != 'x') {
				puts("no such format: letters are x, i, b, h, w, g");
				return;
			}
		}
	}
	while (*arguments == ' ')
		arguments++;
	monitor->vm->engine->get_state(selected(monitor), &state);
	uint64_t address = monitor->next_address;

	if (*arguments && !parse_address(&state, arguments, &address)) {
		puts("no such address: give numbers and registers, as in 0x7c00 or $rsp+16");
		return;
	}
	count = MIN(count, (unsigned long)DUMP_UNITS_MAX);
	if (code)
		address = dump_code(stdout, selected(monitor), &state, address, physical,
				    (unsigned)count);
	else
		address = dump_memory(stdout, selected(monitor), address, physical, (unsigned)count,
				      size);
	monitor->next_address = address;
}

static enum next cmd_monitor_x(struct monitor *monitor, char *arguments)
{
	bool stopped = stop_vcpus(monitor);

	examine(monitor, arguments, false);
	restart_vcpus(monitor, stopped);
	return STAY;
}

static enum next cmd_monitor_xp(struct monitor *monitor, char *arguments)
{
	bool stopped = stop_vcpus(monitor);

	examine(monitor, arguments, true);
	restart_vcpus(monitor, stopped);
	return STAY;
}

static enum next cmd_monitor_pause(struct monitor *monitor, char *arguments)
{
	(void)arguments;
	if (!stop_vcpus(monitor))
		puts("already paused");
	return STAY;
}

static enum next cmd_monitor_continue(struct monitor *monitor, char *arguments)
{
	(void)arguments;
	if (atomic_load(&monitor->vm->paused))
		vm_resume(monitor->vm);
	return LEAVE;
}

static enum next cmd_monitor_reset(struct monitor *monitor, char *arguments)
{
	(void)arguments;
	vm_reset(monitor->vm);
	if (atomic_load(&monitor->vm->paused))
		vm_resume(monitor->vm);
	return LEAVE;
}

static enum next cmd_monitor_quit(struct monitor *monitor, char *arguments)
{
	(void)arguments;
	vm_quit(monitor->vm);
	return LEAVE;
}

static const struct monitor_command monitor_commands[] = {
	{ "info", "i", "registers|cpus|stats", "show the machine", cmd_monitor_info },
	{ "cpu", NULL, "N", "choose the vCPU that info and x are about", cmd_monitor_cpu },
	{ "x", NULL, "[/FMT] [ADDR]", "memory or code at a linear address", cmd_monitor_x },
	{ "xp", NULL, "[/FMT] [ADDR]", "the same at a guest-physical address", cmd_monitor_xp },
	{ "pause", "p", "", "stop the vCPUs and guest time", cmd_monitor_pause },
	{ "continue", "c", "", "let the guest run and go back to its console",
	  cmd_monitor_continue },
	{ "reset", NULL, "", "reset the machine", cmd_monitor_reset },
	{ "quit", "q", "", "end the machine", cmd_monitor_quit },
	{ "help", "?", "", "this list", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static void print_help(void)
{
	for (const struct monitor_command *c = monitor_commands; c->name; c++)
		printf("  %-10s %-4s %-22s %s\n", c->name, c->alias ? c->alias : "", c->arguments,
		       c->help);
	puts("ADDR is made of numbers and registers: 0xffffffff81000000, $rip, $rsp+16. FMT is a count and\n"
	     "letters as in GDB: x/4gx (8-byte units), x/16wx (4), x/8hx (2), x/32bx (1), x/10i (instructions).");
}

static enum next execute(struct monitor *monitor, char *line)
{
	while (isspace((unsigned char)*line))
		line++;
	for (size_t len = strlen(line); len && isspace((unsigned char)line[len - 1]);)
		line[--len] = '\0';
	if (!*line)
		return STAY;
	size_t name_len = strcspn(line, " /");

	for (const struct monitor_command *c = monitor_commands; c->name; c++) {
		bool named = strlen(c->name) == name_len && !memcmp(c->name, line, name_len);
		bool aliased = c->alias && strlen(c->alias) == name_len &&
			       !memcmp(c->alias, line, name_len);

		if (!named && !aliased)
			continue;
		if (!c->run) {
			print_help();
			return STAY;
		}
		char *arguments = line + name_len;
		while (*arguments == ' ')
			arguments++;
		return c->run(monitor, arguments);
	}
	printf("no command '%.*s': 'help' lists them\n", (int)name_len, line);
	return STAY;
}

/* Wait for the eventfd, or for a line too. Returns what came: an EVENT_ value, or 0 for input. */
static uint64_t wait_for_event(struct monitor *monitor, bool or_input)
{
	struct pollfd fds[2] = {
		{ .fd = monitor->event_fd, .events = POLLIN },
		{ .fd = or_input ? STDIN_FILENO : -1, .events = POLLIN },
	};
	uint64_t value;

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (!(fds[0].revents & POLLIN))
		return 0;
	if (read(monitor->event_fd, &value, sizeof(value)) != sizeof(value))
		return 0;
	return value >= EVENT_END ? EVENT_END : EVENT_OPEN;
}

/* Read and execute lines. Returns true when the thread is to end. */
static bool converse(struct monitor *monitor)
{
	printf("\nlodge monitor; 'help' lists the commands, 'continue' goes back to the guest\n");
	for (;;) {
		fputs("(lodge) ", stdout);
		fflush(stdout);
		uint64_t event = wait_for_event(monitor, true);

		if (event == EVENT_END)
			return true;
		if (event)
			continue;
		ssize_t n = read(STDIN_FILENO, monitor->line, sizeof(monitor->line) - 1);

		if (n <= 0) {
			putchar('\n');
			cmd_monitor_continue(monitor, monitor->line);
			fflush(stdout);
			return false;
		}
		monitor->line[n] = '\0';
		enum next next = execute(monitor, monitor->line);

		fflush(stdout);
		if (next == LEAVE)
			return false;
	}
}

static void *monitor_thread(void *opaque)
{
	struct monitor *monitor = opaque;

	for (;;) {
		if (wait_for_event(monitor, false) == EVENT_END)
			return NULL;
		if (converse(monitor))
			return NULL;
		stdio_resume();
	}
}

static void signal_thread(struct monitor *monitor, uint64_t event)
{
	/* Cannot fail short of 2^32 unread events. */
	ssize_t n = write(monitor->event_fd, &event, sizeof(event));
	(void)n;
}

void monitor_escape(void *opaque, int key)
{
	struct monitor *monitor = opaque;

	switch (key) {
	case 'x':
		vm_quit(monitor->vm);
		break;
	case 'c':
		stdio_suspend();
		signal_thread(monitor, EVENT_OPEN);
		break;
	case 'h':
	case '?':
		fputs("\r\nCtrl-A x  quit\r\nCtrl-A c  monitor\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n",
		      stderr);
		break;
	}
}

int monitor_start(struct monitor *monitor, struct vm *vm)
{
	monitor->event_fd = eventfd(0, EFD_CLOEXEC);
	if (monitor->event_fd < 0)
		return -1;
	monitor->vm = vm;
	int error = pthread_create(&monitor->thread, NULL, monitor_thread, monitor);

	if (error) {
		errno = error;
		return -1;
	}
	monitor->thread_started = true;
	return 0;
}

void monitor_stop(struct monitor *monitor)
{
	if (!monitor->thread_started)
		return;
	signal_thread(monitor, EVENT_END);
	pthread_join(monitor->thread, NULL);
	monitor->thread_started = false;
}

void monitor_destroy(struct monitor *monitor)
{
	if (monitor->vm)
		close(monitor->event_fd);
	monitor->vm = NULL;
}
