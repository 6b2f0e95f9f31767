/* SPDX-License-Identifier: MIT */
/*
 * The quick benchmark's program, and the first process of both; run in the guest. Linked
 * statically.
 *
 *   (as PID 1)            says so and powers off: the first user-space process
 *   getppid N             N getppid system calls
 *   forkexec N PROGRAM    N times fork, exec of PROGRAM, wait
 *   poweroff              powers the guest off
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
}

static int fork_exec(long count, const char *program)
{
	for (long i = 0; i < count; i++) {
		int status;
		pid_t child = fork();

		if (!child) {
			execl(program, program, (char *)NULL);
			_exit(127);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "poweroff")) {
		power_off();
		return 1;
	}
	if (argc == 3 && !strcmp(argv[1], "getppid")) {
		for (long i = atol(argv[2]); i > 0; i--)
			syscall(SYS_getppid);
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "forkexec"))
		return fork_exec(atol(argv[2]), argv[3]);
	if (getpid() == 1) {
		puts("MARK first-user");
		fflush(stdout);
		power_off();
	}
	return 2;
}
