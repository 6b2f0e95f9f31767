/* SPDX-License-Identifier: MIT */
/*
 * GDB's remote serial protocol (GDB manual, appendix E). See gdbstub.h.
 *
 * One thread serves the debugger; it may wait for the machine to pause, which the event loop may not. A vCPU that
 * meets a breakpoint parks itself and wakes the thread through an eventfd; the thread pauses the others and reports
 * the stop. All vCPUs run or stop together ("all-stop"); a step runs one vCPU by one instruction and lets the
 * others run meanwhile. A debugger that goes away leaves the machine running, without its breakpoints.
 *
 * Packets are "$data#checksum"; data are small, so everything is done in fixed buffers.
 */
#include "vm/gdbstub.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "vm/gdb_registers.h"
#include "vm/gdb_wire.h"
#include "vm/vm.h"

#define PACKET_MAX 16384 /* bytes of data in one packet, either way */
#define MEMORY_MAX (PACKET_MAX / 2 - 16)
#define BREAKPOINT_MAX 256
#define DESCRIPTION_MAX 16384

#define SIGNAL_INT 2
#define SIGNAL_TRAP 5

struct gdbstub {
	struct vm *vm;
	int listener, client;
	int event_fd;
	char unix_path[128]; /* to be removed at the end, or "" */
	pthread_t thread;
	_Atomic bool ending;
	_Atomic uint64_t stopped_vcpus; /* bit n: vCPU n met a breakpoint or finished a step */

	bool running; /* the machine runs for this debugger */
	bool no_ack;
	bool long_mode;   /* register set chosen when the debugger came */
	unsigned general; /* vCPU that g, m and the like are about */
	unsigned resumed; /* vCPU of the last stop */
	int stepping;     /* vCPU being stepped, or -1 */
	unsigned breakpoint_count;
	uint64_t breakpoints[BREAKPOINT_MAX];

	/* Reading a packet. */
	enum { IDLE, IN_DATA, IN_CHECKSUM_1, IN_CHECKSUM_2 } phase;
	char packet[PACKET_MAX + 1];
	size_t packet_len;
	uint8_t sum, sum_expected;

	char reply[PACKET_MAX + 1];
	size_t reply_len;
	char description[DESCRIPTION_MAX];
};

/* ---- replies ---- */

static void __attribute__((format(printf, 2, 3)))
reply_format(struct gdbstub *stub, const char *fmt, ...)
{
	va_list ap;
	size_t room = sizeof(stub->reply) - stub->reply_len;

	va_start(ap, fmt);
	int n = vsnprintf(stub->reply + stub->reply_len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		stub->reply_len += MIN((size_t)n, room - 1);
}

static void reply_hex(struct gdbstub *stub, const void *bytes, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = bytes;

	for (size_t i = 0; i < n && stub->reply_len + 2 < sizeof(stub->reply); i++) {
		stub->reply[stub->reply_len++] = digits[b[i] >> 4];
		stub->reply[stub->reply_len++] = digits[b[i] & 15];
	}
}

static void reply_error(struct gdbstub *stub, unsigned code)
{
	reply_format(stub, "E%02x", code);
}

static void send_bytes(struct gdbstub *stub, const char *bytes, size_t len)
{
	while (len && stub->client >= 0) {
		ssize_t n = send(stub->client, bytes, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* the reader will notice the same */
		bytes += n;
		len -= (size_t)n;
	}
}

static void send_reply(struct gdbstub *stub)
{
	char frame[PACKET_MAX + 8];
	uint8_t sum = 0;

	for (size_t i = 0; i < stub->reply_len; i++)
		sum += (uint8_t)stub->reply[i];
	frame[0] = '$';
	memcpy(frame + 1, stub->reply, stub->reply_len);
	int n = snprintf(frame + 1 + stub->reply_len, 4, "#%02x", sum);
	send_bytes(stub, frame, 1 + stub->reply_len + (size_t)n);
	stub->reply_len = 0;
}

/* ---- stopping and going on ---- */

static struct vcpu *general_vcpu(struct gdbstub *stub)
{
	return stub->vm->vcpus[stub->general];
}

static bool is_breakpoint(struct gdbstub *stub, uint64_t address)
{
	for (unsigned i = 0; i < stub->breakpoint_count; i++)
		if (stub->breakpoints[i] == address)
			return true;
	return false;
}

/* The machine has stopped on vCPU n: say so. */
static void report_stop(struct gdbstub *stub, unsigned n, unsigned signal)
{
	struct x86_cpu_state state;

	stub->resumed = stub->general = n;
	stub->reply_len = 0;
	stub->vm->engine->get_state(stub->vm->vcpus[n], &state);
	reply_format(stub, "T%02xthread:%x;", signal, n + 1);
	if (signal == SIGNAL_TRAP && is_breakpoint(stub, state.seg[X86_CS].base + state.rip))
		reply_format(stub, "hwbreak:;");
	send_reply(stub);
}

static void stop_machine(struct gdbstub *stub)
{
	vm_pause(stub->vm);
	stub->running = false;
	if (stub->stepping >= 0)
		stub->vm->engine->set_single_step(stub->vm->vcpus[stub->stepping], false);
	stub->stepping = -1;
}

static void resume_machine(struct gdbstub *stub, int step_vcpu)
{
	if (step_vcpu >= 0)
		stub->vm->engine->set_single_step(stub->vm->vcpus[step_vcpu], true);
	stub->stepping = step_vcpu;
	atomic_store(&stub->stopped_vcpus, 0);
	stub->running = true;
	vm_resume(stub->vm);
}

static void vcpu_stopped(void *opaque, struct vcpu *vcpu)
{
	struct gdbstub *stub = opaque;
	uint64_t one = 1;

	atomic_fetch_or(&stub->stopped_vcpus, BIT64(vcpu->index));
	ssize_t n = write(stub->event_fd, &one, sizeof(one));
	(void)n;
}

/* A vCPU may have met a breakpoint. Those that stop at the same time meet theirs again when they go on. */
static void look_for_stops(struct gdbstub *stub)
{
	uint64_t mask = atomic_load(&stub->stopped_vcpus);

	if (!mask)
		return;
	if (stub->client < 0 || !stub->running) {
		/* Nobody to tell (a breakpoint met while the debugger left): let the vCPU go on. */
		atomic_store(&stub->stopped_vcpus, 0);
		if (stub->client < 0 && !atomic_load(&stub->vm->paused))
			vm_resume(stub->vm);
		return;
	}
	int stepped = stub->stepping;

	stop_machine(stub);
	if (atomic_load(&stub->vm->end) != VM_END_NONE)
		return; /* gdbstub_stop() will tell */
	mask = atomic_exchange(&stub->stopped_vcpus, 0);
	unsigned n = stepped >= 0 && mask & BIT64(stepped) ? (unsigned)stepped :
							     (unsigned)__builtin_ctzll(mask);
	report_stop(stub, n, SIGNAL_TRAP);
}

static void remove_breakpoints(struct gdbstub *stub)
{
	for (unsigned i = 0; i < stub->breakpoint_count; i++)
		stub->vm->engine->set_breakpoint(stub->vm, stub->breakpoints[i], false, NULL);
	stub->breakpoint_count = 0;
}

static void drop_client(struct gdbstub *stub)
{
	if (stub->client < 0)
		return;
	close(stub->client);
	stub->client = -1;
	if (atomic_load(&stub->ending))
		return;
	if (stub->running)
		stop_machine(stub);
	remove_breakpoints(stub);
	resume_machine(stub, -1);
}

static void take_client(struct gdbstub *stub)
{
	struct timeval patience = { .tv_sec = 5 };
	struct x86_cpu_state state;
	int one = 1;

	stub->client = accept4(stub->listener, NULL, NULL, SOCK_CLOEXEC);
	if (stub->client < 0)
		return;
	setsockopt(stub->client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(stub->client, IPPROTO_TCP, TCP_NODELAY, &one,
		   sizeof(one)); /* fails on a Unix socket, harmlessly */
	stub->phase = IDLE;
	stub->no_ack = false;
	stub->general = stub->resumed = 0;
	stop_machine(stub);
	stub->vm->engine->get_state(stub->vm->vcpus[0], &state);
	stub->long_mode = state.efer & X86_EFER_LMA;
	gdb_register_description(stub->long_mode, stub->description, sizeof(stub->description));
}

/* ---- packets ---- */

static bool parse_thread(struct gdbstub *stub, const char **text, int *vcpu)
{
	uint64_t id;

	if (!strncmp(*text, "-1", 2)) {
		*text += 2;
		*vcpu = -1;
		return true;
	}
	if (!gdb_read_hex(text, &id) || id > stub->vm->vcpu_count)
		return false;
	*vcpu = (int)id - 1; /* 0, "any", becomes -1, "all" */
	return true;
}

static void read_registers(struct gdbstub *stub)
{
	struct x86_cpu_state state;
	uint8_t value[GDB_REGISTER_SIZE_MAX];

	stub->vm->engine->get_state(general_vcpu(stub), &state);
	for (unsigned n = 0; n < gdb_register_count(stub->long_mode); n++) {
		gdb_register_read(stub->long_mode, n, &state, value);
		reply_hex(stub, value, gdb_register_size(stub->long_mode, n));
	}
}

static void write_registers(struct gdbstub *stub, const char *text)
{
	struct x86_cpu_state state;
	uint8_t value[GDB_REGISTER_SIZE_MAX];

	stub->vm->engine->get_state(general_vcpu(stub), &state);
	for (unsigned n = 0; n < gdb_register_count(stub->long_mode); n++) {
		unsigned size = gdb_register_size(stub->long_mode, n);

		if (gdb_decode_hex(text, value, size) != size)
			break;
		gdb_register_write(stub->long_mode, n, &state, value);
		text += 2 * size;
	}
	stub->vm->engine->set_state(general_vcpu(stub), &state);
	reply_format(stub, "OK");
}

static void read_register(struct gdbstub *stub, const char *text)
{
	struct x86_cpu_state state;
	uint8_t value[GDB_REGISTER_SIZE_MAX];
	uint64_t n;

	if (!gdb_read_hex(&text, &n) || n >= gdb_register_count(stub->long_mode)) {
		reply_error(stub, EINVAL);
		return;
	}
	stub->vm->engine->get_state(general_vcpu(stub), &state);
	gdb_register_read(stub->long_mode, (unsigned)n, &state, value);
	reply_hex(stub, value, gdb_register_size(stub->long_mode, (unsigned)n));
}

static void write_register(struct gdbstub *stub, const char *text)
{
	struct x86_cpu_state state;
	uint8_t value[GDB_REGISTER_SIZE_MAX];
	uint64_t n;

	if (!gdb_read_hex(&text, &n) || n >= gdb_register_count(stub->long_mode) ||
	    !gdb_read_char(&text, '=')) {
		reply_error(stub, EINVAL);
		return;
	}
	unsigned size = gdb_register_size(stub->long_mode, (unsigned)n);

	if (gdb_decode_hex(text, value, size) != size) {
		reply_error(stub, EINVAL);
		return;
	}
	stub->vm->engine->get_state(general_vcpu(stub), &state);
	gdb_register_write(stub->long_mode, (unsigned)n, &state, value);
	stub->vm->engine->set_state(general_vcpu(stub), &state);
	reply_format(stub, "OK");
}

/* Copy len bytes at a linear address, page by page; returns how many before the first that is not mapped RAM. */
static size_t copy_memory(struct gdbstub *stub, uint64_t linear, uint8_t *bytes, size_t len,
			  bool write)
{
	size_t done = 0;

	while (done < len) {
		uint64_t gpa;
		size_t n =
			MIN(len - done, (size_t)(PAGE_SIZE - ((linear + done) & (PAGE_SIZE - 1))));

		if (!stub->vm->engine->translate(general_vcpu(stub), linear + done, &gpa))
			break;
		if (write ? guest_memory_write(stub->vm, gpa, bytes + done, n) :
			    guest_memory_read(stub->vm, gpa, bytes + done, n))
			break;
		done += n;
	}
	return done;
}

static bool parse_range(const char **text, uint64_t *address, uint64_t *len)
{
	return gdb_read_hex(text, address) && gdb_read_char(text, ',') && gdb_read_hex(text, len);
}

static void read_memory(struct gdbstub *stub, const char *text)
{
	uint8_t bytes[MEMORY_MAX];
	uint64_t address, len;

	if (!parse_range(&text, &address, &len)) {
		reply_error(stub, EINVAL);
		return;
	}
	size_t n = copy_memory(stub, address, bytes, (size_t)MIN(len, (uint64_t)MEMORY_MAX), false);

	if (!n && len)
		reply_error(stub, EFAULT);
	reply_hex(stub, bytes, n);
}

/* M: bytes in hexadecimal; X: as they are (the escapes already undone). end: of the packet. */
static void write_memory(struct gdbstub *stub, const char *text, const char *end, bool binary)
{
	uint8_t bytes[PACKET_MAX];
	uint64_t address, len;

	if (!parse_range(&text, &address, &len) || !gdb_read_char(&text, ':') ||
	    len > sizeof(bytes)) {
		reply_error(stub, EINVAL);
		return;
	}
	size_t have = binary ? MIN((size_t)(end - text), sizeof(bytes)) :
			       gdb_decode_hex(text, bytes, sizeof(bytes));

	if (have < len) {
		reply_error(stub, EINVAL);
		return;
	}
	if (binary)
		memcpy(bytes, text, len);
	if (copy_memory(stub, address, bytes, len, true) == len)
		reply_format(stub, "OK");
	else
		reply_error(stub, EFAULT);
}

/* Z0 and Z1: the engine has one kind of breakpoint, which changes no guest memory. */
static void change_breakpoint(struct gdbstub *stub, const char *text, bool insert)
{
	struct error err;
	uint64_t address;

	if (*text != '0' && *text != '1')
		return; /* watchpoints: not supported is an empty reply */
	text++;
	if (!gdb_read_char(&text, ',') || !gdb_read_hex(&text, &address)) {
		reply_error(stub, EINVAL);
		return;
	}
	if (insert == is_breakpoint(stub, address)) {
		reply_format(stub, "OK");
		return;
	}
	if ((insert && stub->breakpoint_count == BREAKPOINT_MAX) ||
	    stub->vm->engine->set_breakpoint(stub->vm, address, insert, &err)) {
		reply_error(stub, ENOSPC);
		return;
	}
	if (insert) {
		stub->breakpoints[stub->breakpoint_count++] = address;
	} else {
		unsigned i = 0;

		while (stub->breakpoints[i] != address)
			i++;
		stub->breakpoints[i] = stub->breakpoints[--stub->breakpoint_count];
	}
	reply_format(stub, "OK");
}

/* c and s, perhaps with an address to go on from. */
static void continue_or_step(struct gdbstub *stub, const char *text, bool step)
{
	uint64_t address;

	if (gdb_read_hex(&text, &address)) {
		struct x86_cpu_state state;

		stub->vm->engine->get_state(general_vcpu(stub), &state);
		state.rip = address;
		stub->vm->engine->set_state(general_vcpu(stub), &state);
	}
	resume_machine(stub, step ? (int)stub->general : -1);
}

/* vCont;s:1;c and the like: at most one vCPU steps, all others run. */
static void vcont(struct gdbstub *stub, const char *text)
{
	int step = -1;

	while (gdb_read_char(&text, ';')) {
		char action = *text++;
		int vcpu = -1;

		if (action == 'C' ||
		    action == 'S') { /* with a signal, which a machine does not take */
			uint64_t signal;

			gdb_read_hex(&text, &signal);
		}
		if (gdb_read_char(&text, ':') && !parse_thread(stub, &text, &vcpu)) {
			reply_error(stub, EINVAL);
			send_reply(stub);
			return;
		}
		if ((action == 's' || action == 'S') && step < 0)
			step = vcpu >= 0 ? vcpu : (int)stub->resumed;
	}
	resume_machine(stub, step);
}

static void set_thread(struct gdbstub *stub, const char *text)
{
	char operation = *text ? *text++ : 0;
	int vcpu;

	if (!parse_thread(stub, &text, &vcpu)) {
		reply_error(stub, EINVAL);
		return;
	}
	if (operation == 'g' || operation == 'c')
		stub->general = vcpu >= 0 ? (unsigned)vcpu : stub->resumed;
	reply_format(stub, "OK");
}

static void thread_alive(struct gdbstub *stub, const char *text)
{
	int vcpu;

	if (parse_thread(stub, &text, &vcpu) && vcpu >= 0)
		reply_format(stub, "OK");
	else
		reply_error(stub, EINVAL);
}

static void transfer_description(struct gdbstub *stub, const char *text)
{
	uint64_t offset, len;
	size_t size = strlen(stub->description);

	if (!parse_range(&text, &offset, &len)) {
		reply_error(stub, EINVAL);
		return;
	}
	if (offset >= size) {
		reply_format(stub, "l");
		return;
	}
	len = MIN(MIN(len, (uint64_t)PACKET_MAX - 16), size - offset);
	/* The description has none of the characters that would need escaping. */
	reply_format(stub, "%c%.*s", offset + len < size ? 'm' : 'l', (int)len,
		     stub->description + offset);
}

static void thread_info(struct gdbstub *stub, const char *text)
{
	struct x86_cpu_state state;
	char line[64];
	int vcpu;

	if (!parse_thread(stub, &text, &vcpu) || vcpu < 0) {
		reply_error(stub, EINVAL);
		return;
	}
	stub->vm->engine->get_state(stub->vm->vcpus[vcpu], &state);
	int n = snprintf(line, sizeof(line), "vCPU %d [%s]", vcpu,
			 state.mp_state == X86_MP_RUNNABLE ? "running" :
			 state.mp_state == X86_MP_HALTED   ? "halted" :
							     "waiting for SIPI");
	reply_hex(stub, line, (size_t)n);
}

/* GDB's `monitor` command: reset, quit. */
static void monitor_command(struct gdbstub *stub, const char *text)
{
	static const char help[] = "monitor reset: reset the machine\nmonitor quit: end it\n";
	char command[64];

	command[gdb_decode_hex(text, (uint8_t *)command, sizeof(command) - 1)] = '\0';
	if (!strcmp(command, "reset")) {
		vm_reset(stub->vm);
		reply_format(stub, "OK");
	} else if (!strcmp(command, "quit")) {
		vm_quit(stub->vm);
		reply_format(stub, "OK");
	} else {
		reply_hex(stub, help, sizeof(help) - 1);
	}
}

static const char *after(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(text, prefix, len) ? NULL : text + len;
}

static void query(struct gdbstub *stub, const char *text)
{
	const char *rest;

	if (after(text, "qSupported"))
		reply_format(
			stub,
			"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;hwbreak+;swbreak+;vContSupported+",
			PACKET_MAX);
	else if ((rest = after(text, "qXfer:features:read:target.xml:")))
		transfer_description(stub, rest);
	else if (!strcmp(text, "qAttached"))
		reply_format(stub, "1");
	else if (!strcmp(text, "qC"))
		reply_format(stub, "QC%x", stub->general + 1);
	else if (!strcmp(text, "qfThreadInfo"))
		for (unsigned i = 0; i < stub->vm->vcpu_count; i++)
			reply_format(stub, "%c%x", i ? ',' : 'm', i + 1);
	else if (!strcmp(text, "qsThreadInfo"))
		reply_format(stub, "l");
	else if ((rest = after(text, "qThreadExtraInfo,")))
		thread_info(stub, rest);
	else if ((rest = after(text, "qRcmd,")))
		monitor_command(stub, rest);
}

/* A whole packet has come. The machine is stopped (a debugger that sends while it runs is refused above). */
static void handle_packet(struct gdbstub *stub)
{
	const char *text = stub->packet, *end = stub->packet + stub->packet_len;

	stub->reply_len = 0;
	switch (*text) {
	case '?':
		report_stop(stub, stub->resumed, SIGNAL_TRAP);
		return;
	case 'g':
		read_registers(stub);
		break;
	case 'G':
		write_registers(stub, text + 1);
		break;
	case 'p':
		read_register(stub, text + 1);
		break;
	case 'P':
		write_register(stub, text + 1);
		break;
	case 'm':
		read_memory(stub, text + 1);
		break;
	case 'M':
	case 'X':
		write_memory(stub, text + 1, end, *text == 'X');
		break;
	case 'Z':
	case 'z':
		change_breakpoint(stub, text + 1, *text == 'Z');
		break;
	case 'c':
	case 's':
		continue_or_step(stub, text + 1, *text == 's');
		return;
	case 'H':
		set_thread(stub, text + 1);
		break;
	case 'T':
		thread_alive(stub, text + 1);
		break;
	case 'q':
		query(stub, text);
		break;
	case 'Q':
		if (!strcmp(text, "QStartNoAckMode")) {
			reply_format(stub, "OK");
			send_reply(stub);
			stub->no_ack = true;
			return;
		}
		break;
	case 'v':
		if (!strcmp(text, "vCont?")) {
			reply_format(stub, "vCont;c;C;s;S");
		} else if (after(text, "vCont")) {
			vcont(stub, text + 5);
			return;
		} else if (after(text, "vKill")) {
			vm_quit(stub->vm);
			reply_format(stub, "OK");
		}
		break;
	case 'D':
		reply_format(stub, "OK");
		send_reply(stub);
		drop_client(stub);
		return;
	case 'k':
		vm_quit(stub->vm);
		return;
	}
	send_reply(stub); /* empty: not supported */
}

/* Undo the escapes of binary data: '}' and the next byte with bit 5 flipped. */
static void unescape_packet(struct gdbstub *stub)
{
	size_t to = 0;

	for (size_t from = 0; from < stub->packet_len; from++) {
		char c = stub->packet[from];

		if (c == '}' && from + 1 < stub->packet_len)
			c = (char)(stub->packet[++from] ^ 0x20);
		stub->packet[to++] = c;
	}
	stub->packet_len = to;
	stub->packet[to] = '\0';
}

static void packet_complete(struct gdbstub *stub)
{
	if (!stub->no_ack)
		send_bytes(stub, stub->sum == stub->sum_expected ? "+" : "-", 1);
	if (stub->sum != stub->sum_expected || stub->running)
		return;
	unescape_packet(stub);
	handle_packet(stub);
}

static void receive_byte(struct gdbstub *stub, char c)
{
	switch (stub->phase) {
	case IDLE:
		if (c == '$') {
			stub->phase = IN_DATA;
			stub->packet_len = 0;
			stub->sum = 0;
		} else if (c == 3 && stub->running) { /* Ctrl-C */
			stop_machine(stub);
			atomic_store(&stub->stopped_vcpus, 0);
			report_stop(stub, stub->resumed, SIGNAL_INT);
		}
		break;
	case IN_DATA:
		if (c == '#') {
			stub->phase = IN_CHECKSUM_1;
		} else if (stub->packet_len < PACKET_MAX) {
			stub->packet[stub->packet_len++] = c;
			stub->sum += (uint8_t)c;
		} else {
			stub->phase = IDLE; /* longer than we said we take */
		}
		break;
	case IN_CHECKSUM_1:
		stub->sum_expected = (uint8_t)(gdb_hex_value(c) << 4);
		stub->phase = IN_CHECKSUM_2;
		break;
	case IN_CHECKSUM_2:
		stub->sum_expected |= (uint8_t)(gdb_hex_value(c) & 15);
		stub->phase = IDLE;
		packet_complete(stub);
		break;
	}
}

static void client_ready(struct gdbstub *stub)
{
	char bytes[4096];
	ssize_t n = recv(stub->client, bytes, sizeof(bytes), 0);

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0)
		drop_client(stub);
	for (ssize_t i = 0; i < n && stub->client >= 0; i++)
		receive_byte(stub, bytes[i]);
}

static void *stub_thread(void *opaque)
{
	struct gdbstub *stub = opaque;

	while (!atomic_load(&stub->ending)) {
		struct pollfd fds[2] = {
			{ .fd = stub->event_fd, .events = POLLIN },
			{ .fd = stub->client >= 0 ? stub->client : stub->listener,
			  .events = POLLIN },
		};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[0].revents) {
			uint64_t value;
			ssize_t n = read(stub->event_fd, &value, sizeof(value));

			(void)n;
			if (atomic_load(&stub->ending))
				break;
			look_for_stops(stub);
		} else if (fds[1].revents && stub->client >= 0) {
			client_ready(stub);
		} else if (fds[1].revents) {
			take_client(stub);
		}
	}
	return NULL;
}

/* ---- beginning and end ---- */

static void free_stub(struct gdbstub *stub)
{
	if (stub->client >= 0)
		close(stub->client);
	if (stub->listener >= 0)
		close(stub->listener);
	if (stub->event_fd >= 0)
		close(stub->event_fd);
	if (stub->unix_path[0])
		unlink(stub->unix_path);
	free(stub);
}

struct gdbstub *gdbstub_start(struct vm *vm, const char *address, struct error *err)
{
	struct gdbstub *stub = calloc(1, sizeof(*stub));

	if (!stub) {
		error_set_errno(err, ENOMEM, "cannot start the GDB stub");
		return NULL;
	}
	stub->vm = vm;
	stub->client = stub->listener = -1;
	stub->stepping = -1;
	stub->event_fd = eventfd(0, EFD_CLOEXEC);
	if (stub->event_fd < 0) {
		error_set_errno(err, errno, "cannot start the GDB stub");
		free_stub(stub);
		return NULL;
	}
	stub->listener = gdb_listen(address, stub->unix_path, sizeof(stub->unix_path), err);
	if (stub->listener < 0) {
		free_stub(stub);
		return NULL;
	}
	vm->debug_opaque = stub;
	vm->debug_hook = vcpu_stopped;
	int failure = pthread_create(&stub->thread, NULL, stub_thread, stub);
	if (failure) {
		vm->debug_hook = NULL;
		error_set_errno(err, failure, "cannot start the GDB stub");
		free_stub(stub);
		return NULL;
	}
	return stub;
}

void gdbstub_stop(struct gdbstub *stub)
{
	uint64_t one = 1;

	atomic_store(&stub->ending, true);
	ssize_t n = write(stub->event_fd, &one, sizeof(one));
	(void)n;
	pthread_join(stub->thread, NULL);
	stub->vm->debug_hook = NULL;
	if (stub->client >= 0) {
		stub->reply_len = 0;
		reply_format(stub, "W00"); /* the process exited */
		send_reply(stub);
	}
	free_stub(stub);
}
