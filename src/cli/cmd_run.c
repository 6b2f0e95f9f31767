/* SPDX-License-Identifier: MIT */
/*
 * lodge run: run a virtual machine in the foreground, console on this terminal.
 *
 * Exit status: 0 the guest powered off, or the user ended it; 1 lodge could not do what was asked;
 * 4 the guest died; (V << 1) | 1 when the guest wrote V to isa-debug-exit; 128 + N when signal N ended it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "char/stdio.h"
#include "cli/command.h"
#include "cli/dump.h"
#include "cli/monitor.h"
#include "cli/options.h"
#include "cli/stats.h"
#include "machine/cpu_model.h"
#include "vm/gdbstub.h"
#include "vm/vm.h"

struct session {
	struct run_options options;
	struct vm *vm;
	struct monitor monitor;
	struct gdbstub *gdb;
	FILE *profile; /* --profile */
	int signal_fd;
	_Atomic int signal; /* that ended the machine, or 0 */
};

static void signal_arrived(void *opaque, uint32_t events)
{
	struct session *session = opaque;
	struct signalfd_siginfo info;

	(void)events;
	if (read(session->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	atomic_store(&session->signal, (int)info.ssi_signo);
	vm_quit(session->vm);
}

/* Signals that end lodge are taken by the event loop, so that the terminal and the disks are put right. */
static int catch_signals(struct session *session, struct error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	session->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (session->signal_fd < 0)
		return error_set_errno(err, errno, "cannot watch for signals");
	return 0;
}

static void destroy(struct session *session)
{
	monitor_stop(&session->monitor);
	if (session->gdb)
		gdbstub_stop(session->gdb);
	if (session->vm)
		machine_destroy(session->vm);
	monitor_destroy(&session->monitor);
	if (session->profile)
		fclose(session->profile);
	if (session->signal_fd >= 0)
		close(session->signal_fd);
	run_options_free(&session->options);
}

/* Options that only some engines understand. */
static int check_engine(const struct session *session, struct error *err)
{
	const struct machine_config *machine = &session->options.machine;
	const struct engine *engine = session->vm->engine;

	if (machine->profile && !engine->print_profile)
		return error_set(err, 0, "engine %s has no profiler: --profile needs --engine bt", engine->name);
	if ((machine->engine_options || machine->perf_map) && strcmp(engine->name, "bt"))
		return error_set(err, 0, "engine %s translates nothing: --bt and --perf-map need --engine bt", engine->name);
	return 0;
}

static int start(struct session *session, struct error *err)
{
	struct run_options *options = &session->options;

	/* A file that cannot be written is better known now than at the end. */
	if (options->profile) {
		session->profile = fopen(options->profile, "we");
		if (!session->profile)
			return error_set_errno(err, errno, "cannot write the profile to '%s'", options->profile);
	}
	if (catch_signals(session, err) || machine_create(&session->vm, &options->machine, err) ||
	    check_engine(session, err))
		return -1;
	if (monitor_start(&session->monitor, session->vm))
		return error_set_errno(err, errno, "cannot start the monitor");
	if (!vm_watch_fd(session->vm, session->signal_fd, EPOLLIN, signal_arrived, session))
		return error_set_errno(err, errno, "cannot watch for signals");
	if (options->gdb && !options->gdb_nowait)
		vm_pause(session->vm);
	if (vm_start(session->vm, err))
		return -1;
	if (options->gdb) {
		session->gdb = gdbstub_start(session->vm, options->gdb, err);
		if (!session->gdb)
			return -1;
		if (!options->gdb_nowait)
			fprintf(stderr, "lodge: waiting for GDB at %s\r\n", options->gdb);
	}
	return 0;
}

/* Show the vCPU that died; returns the exit status. */
static int report_death(struct vm *vm)
{
	struct vcpu *vcpu = vm->died;
	int status = STATUS_GUEST_DIED;

	if (vcpu && vcpu->stats.exits[VCPU_EXIT_ERROR])
		status = STATUS_FAILED; /* the engine's fault, and the vCPU's thread has said why */
	else if (vcpu && vcpu->exit_error.text[0])
		log_error("the guest died: %s", vcpu->exit_error.text);
	else
		log_error("the guest died of a triple fault");
	if (vcpu)
		dump_vcpu(stderr, vcpu);
	return status;
}

static bool print_profile(struct session *session)
{
	FILE *out = session->profile;
	bool good;

	session->profile = NULL;
	if (session->vm->engine->print_profile)
		session->vm->engine->print_profile(session->vm, out);
	good = !ferror(out);
	if (fclose(out) || !good) {
		log_error("cannot write the profile to '%s'", session->options.profile);
		return false;
	}
	return true;
}

static int finish(struct session *session, enum vm_end end)
{
	struct vm *vm = session->vm;
	int status = STATUS_OK;

	stdio_restore();
	if (end == VM_END_DIED)
		status = report_death(vm);
	else if (end == VM_END_DEBUG_EXIT)
		status = atomic_load(&vm->exit_status);
	else if (end == VM_END_QUIT && atomic_load(&session->signal))
		status = 128 + atomic_load(&session->signal);
	if (session->options.stats)
		stats_print(stderr, vm);
	if (session->options.summary)
		stats_print_summary(stderr, vm);
	if (session->profile)
		return print_profile(session) ? status : STATUS_FAILED;
	return status;
}

static int run(int argc, char **argv)
{
	struct session session = { .signal_fd = -1 };
	struct error err = { 0 };
	int status = STATUS_FAILED;

	if (run_options_parse(&session.options, argc, argv, &err)) {
		log_error("%s", err.text);
		run_options_free(&session.options);
		return STATUS_FAILED;
	}
	if (session.options.help) {
		fputs(cmd_run.help, stdout);
		run_options_free(&session.options);
		return STATUS_OK;
	}
	if (session.options.cpu_help) {
		cpu_model_print_names(stdout);
		run_options_free(&session.options);
		return STATUS_OK;
	}
	if (session.options.verbose)
		log_set_level(session.options.verbose > 1 ? LOG_DEBUG : LOG_INFO);
	session.options.machine.console_escape = monitor_escape;
	session.options.machine.console_opaque = &session.monitor;
	if (start(&session, &err)) {
		stdio_restore();
		log_error("%s", err.text);
	} else {
		status = finish(&session, vm_wait(session.vm));
	}
	destroy(&session);
	return status;
}

const struct command cmd_run = {
	.name = "run",
	.summary = "run a virtual machine in the foreground, console on this terminal",
	.help = "Usage: lodge run [OPTIONS]\n"
		"\n"
		"Runs a virtual machine in the foreground, console on this terminal.\n"
		"\n"
		"  -n, --name NAME        its name (default: a generated one)\n"
		"  -e, --engine NAME      auto (default) or one that 'lodge engines' lists\n"
		"  -c, --cpus N           virtual CPUs, 1 to 64 (default 1)\n"
		"  -m, --memory SIZE      memory, as in 512M (default) or 4G\n"
		"      --cpu MODEL        host (default) or x86-64-v1 to -v4, then +FEATURE or\n"
		"                         -FEATURE, separated by commas\n"
		"  -k, --kernel FILE      a Linux bzImage, an ELF vmlinux or a multiboot 1 kernel\n"
		"  -i, --initrd FILE      initial RAM disk (a multiboot kernel's module)\n"
		"  -a, --append STRING    kernel command line\n"
		"  -d, --disk FILE[,format=raw][,readonly][,snapshot]\n"
		"                         virtio disk; snapshot drops all writes at the end\n"
		"  -N, --net user[,hostfwd=tcp:HOSTPORT:GUESTPORT]|none\n"
		"                         virtio network card (default: user)\n"
		"      --console stdio|none|file=PATH|pty|unix=PATH\n"
		"                         where the serial port goes (default: stdio)\n"
		"      --device KIND[,PARAMETERS]\n"
		"                         isa-debug-exit[,iobase=0xf4], pc-testdev, pci-testdev,\n"
		"                         virtio-console[,stdio|none|file=PATH|pty|unix=PATH]\n"
		"      --no-reboot        end when the guest reboots\n"
		"      --gdb ADDRESS[,nowait]\n"
		"                         wait for GDB at [tcp:][HOST]:PORT or unix:PATH\n"
		"      --trace LIST       print events: irq, exceptions, mmio, pio, tb, ..., all\n"
		"      --stats            print statistics at the end\n"
		"      --summary          print one line about engine and times at the end\n"
		"      --profile FILE     sample where the guest's time goes; report to FILE\n"
		"      --perf-map         name translated code for 'perf report'\n"
		"  -v, --verbose          say more; twice: for debugging\n"
		"  -h, --help             this text\n"
		"\n"
		"--disk, --net and --device can be given several times. On a terminal, Ctrl-A x\n"
		"quits, Ctrl-A c opens the monitor and Ctrl-A Ctrl-A sends a Ctrl-A.\n"
		"\n"
		"Exit status: 0 the guest powered off, 1 lodge could not do what was asked, 4 the\n"
		"guest died, 128+N ended by signal N; isa-debug-exit sets its own.\n"
		"\n"
		"Example:\n"
		"  lodge run --memory 1G --cpus 2 --kernel vmlinuz --initrd initrd.img \\\n"
		"      --append console=ttyS0 --disk root.img,snapshot\n",
	.run = run,
};
