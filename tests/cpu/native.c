/* SPDX-License-Identifier: MIT */
/*
 * Running a test on the host's CPU.
 *
 * A forked process maps the test's address space at the test's addresses and lives in a signal handler: each
 * test is started by returning from the handler with a signal frame that holds the test's registers
 * (rt_sigreturn loads all of them, vector state included) and ends by a trap or fault, whose frame holds the
 * results. So a test costs one signal. 32-bit tests are started the same way, with the compatibility-mode code
 * selector in the frame.
 *
 * The parent passes batches of tests through shared memory. A seccomp filter stops random code from making
 * system calls; a timer stops it from running for ever.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu_test.h"

struct shared {
	unsigned count;
	struct test_case tests[NATIVE_BATCH];
	struct test_result results[NATIVE_BATCH];
};

static struct shared *shared;
static pid_t child = -1;
static int to_child[2] = { -1, -1 }, from_child[2] = { -1, -1 };

uint64_t native_xcr0(void)
{
	uint32_t lo, hi;

	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

/* ---- in the child ---- */

/* The handler may run with the test's FS base, so nothing from here to child_main uses TLS: no errno, no stdio. */

static uint64_t own_fs, own_gs;
static unsigned current, running; /* running: tests[current] was started */
static unsigned ready;            /* a batch was received */
static stack_t *alternate_stack;

#define RAW static __attribute__((noinline, optimize("no-stack-protector")))

RAW long raw_syscall3(long n, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

RAW void set_fs_base(uint64_t base)
{
	__asm__ volatile("wrfsbase %0" ::"r"(base));
}

RAW void set_gs_base(uint64_t base)
{
	__asm__ volatile("wrgsbase %0" ::"r"(base));
}

static const int gpr_index[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				   REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* Flags that a signal return loads (Linux arch/x86: FIX_EFLAGS) less TF and RF. */
#define LOADABLE_FLAGS 0x40cd5ull

static uint8_t sw_reserved[48];
static uint32_t trailer_offset;

RAW void start_test(const struct test_case *test, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;

	memcpy((void *)CODE_BASE + (test->code - CODE_BASE), test->code_bytes, test->code_size);
	fill_data((uint8_t *)DATA_BASE, test->seed);
	memset((void *)SCRATCH_BASE, 0, SCRATCH_PAGES * PAGE);
	for (unsigned i = 0; i < 16; i++)
		g[gpr_index[i]] = (greg_t)test->start.gpr[i];
	g[REG_RIP] = (greg_t)test->code;
	g[REG_EFL] = (greg_t)((test->start.rflags & LOADABLE_FLAGS) | 0x202);
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | (test->mode == TEST_64 ? 0x33 : 0x23);
	fp_to_xsave((uint8_t *)uc->uc_mcontext.fpregs, trailer_offset, &test->start.fp, native_xcr0() & 0xe7);
	/* the frame's own bytes (sw_reserved) and trailer survive: see note_frame() */
	running = 1;
	/* what an earlier test may have loaded; 32-bit tests need DS and ES */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" ::"r"(0x2b), "r"(0));
	set_gs_base(test->start.gs_base);
	set_fs_base(test->start.fs_base);
}

/* Keep what the kernel put into the frame beside the XSAVE image. */
RAW void note_frame(const ucontext_t *uc)
{
	memcpy(sw_reserved, (const uint8_t *)uc->uc_mcontext.fpregs + 464, 48);
	memcpy(&trailer_offset, sw_reserved + 16, 4); /* struct _fpx_sw_bytes.xstate_size */
}

RAW void restore_frame(ucontext_t *uc)
{
	uint32_t magic2 = 0x46505845;

	memcpy((uint8_t *)uc->uc_mcontext.fpregs + 464, sw_reserved, 48);
	memcpy((uint8_t *)uc->uc_mcontext.fpregs + trailer_offset, &magic2, 4);
}

RAW void end_test(struct test_result *result, int sig, const siginfo_t *info, const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	result->note[0] = 0;
	for (unsigned i = 0; i < 16; i++)
		result->end.gpr[i] = (uint64_t)g[gpr_index[i]];
	result->end.rip = (uint64_t)g[REG_RIP];
	result->end.rflags = (uint64_t)g[REG_EFL];
	result->vector = (uint8_t)g[REG_TRAPNO];
	result->error = (uint64_t)g[REG_ERR];
	result->cr2 = result->vector == 14 ? (uint64_t)g[REG_CR2] : 0;
	if (sig == SIGALRM || sig == SIGVTALRM) {
		result->vector = VECTOR_TIMEOUT;
	} else if (sig == SIGSYS) {
		result->vector = VECTOR_OTHER;
		memcpy(result->note, "system call", 12);
	}
	(void)info;
	xsave_to_fp(&result->end.fp, (const uint8_t *)uc->uc_mcontext.fpregs);
	memcpy(result->data, (const void *)DATA_BASE, DATA_SIZE);
}

RAW void handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t fs, gs;
	uint16_t selectors[4];
	char byte;

	/* AC would make this very code fault */
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x40000, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::: "cc", "memory");
	__asm__ volatile("rdfsbase %0" : "=r"(fs));
	__asm__ volatile("rdgsbase %0" : "=r"(gs));
	__asm__ volatile("mov %%es, %0" : "=r"(selectors[0]));
	__asm__ volatile("mov %%ds, %0" : "=r"(selectors[1]));
	__asm__ volatile("mov %%fs, %0" : "=r"(selectors[2]));
	__asm__ volatile("mov %%gs, %0" : "=r"(selectors[3]));
	set_fs_base(own_fs);
	set_gs_base(own_gs);
	note_frame(uc);
	if (running) {
		running = 0;
		end_test(&shared->results[current], sig, info, uc);
		shared->results[current].end.fs_base = fs;
		shared->results[current].end.gs_base = gs;
		for (unsigned i = 0; i < 4; i++)
			shared->results[current].end.selectors[i] = selectors[i];
		shared->results[current].end.cs = (uint16_t)uc->uc_mcontext.gregs[REG_CSGSFS];
		current++;
	} else if (sig == SIGALRM || sig == SIGVTALRM) {
		return;
	}
	while (!ready || current >= shared->count) {
		byte = 0;
		if (ready)
			raw_syscall3(SYS_write, from_child[1], (long)&byte, 1);
		if (raw_syscall3(SYS_read, to_child[0], (long)&byte, 1) != 1)
			raw_syscall3(SYS_exit_group, 0, 0, 0);
		current = 0;
		ready = 1;
	}
	start_test(&shared->tests[current], uc);
	restore_frame(uc);
}

static void install_filter(void)
{
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_rt_sigreturn),
		ALLOW(SYS_read),
		ALLOW(SYS_write),
		ALLOW(SYS_exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void *map_at(uint64_t address, uint64_t size, int protection)
{
	void *p = mmap((void *)address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE,
		       -1, 0);

	if (p == MAP_FAILED)
		_exit(3);
	return p;
}

static void child_main(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGALRM, SIGVTALRM };
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct itimerval timer = { { 0, 200000 }, { 0, 200000 } };
	stack_t stack = { .ss_size = 1 << 18 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_at(CODE_BASE, CODE_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_at(DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE);
	map_at(READONLY_BASE, PAGE, PROT_READ | PROT_WRITE);
	map_at(INDEX_BASE, PAGE, PROT_READ | PROT_WRITE);
	map_at(SCRATCH_BASE, SCRATCH_PAGES * PAGE, PROT_READ | PROT_WRITE);
	memset((void *)CODE_BASE, 0xcc, CODE_PAGES * PAGE);
	fill_readonly_page((void *)READONLY_BASE);
	fill_index_page((void *)INDEX_BASE);
	mprotect((void *)READONLY_BASE, PAGE, PROT_READ);
	mprotect((void *)INDEX_BASE, PAGE, PROT_READ);
	stack.ss_sp = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	alternate_stack = &stack;
	sigaltstack(&stack, NULL);
	sigfillset(&action.sa_mask);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	__asm__ volatile("rdfsbase %0" : "=r"(own_fs));
	__asm__ volatile("rdgsbase %0" : "=r"(own_gs));
	/* Virtual time: a test that loops is charged, waiting for the parent is not. Fires at most once a test. */
	setitimer(ITIMER_VIRTUAL, &timer, NULL);
	install_filter();
	__asm__ volatile("int3");
	_exit(0);
}

/* ---- in the parent ---- */

int native_start(struct error *err)
{
	if (!shared) {
		shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (shared == MAP_FAILED)
			return error_set_errno(err, errno, "cannot allocate the batch buffer");
	}
	if (pipe(to_child) || pipe(from_child))
		return error_set_errno(err, errno, "cannot make a pipe");
	shared->count = 0;
	fflush(NULL);
	child = fork();
	if (child < 0)
		return error_set_errno(err, errno, "cannot fork");
	if (child == 0) {
		close(to_child[1]);
		close(from_child[0]);
		child_main();
	}
	close(to_child[0]);
	close(from_child[1]);
	return 0;
}

void native_stop(void)
{
	if (child <= 0)
		return;
	close(to_child[1]);
	close(from_child[0]);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	child = -1;
}

int native_run(struct test_case *const *tests, struct test_result *results, unsigned count, struct error *err)
{
	char byte = 0;
	int status;

	for (unsigned i = 0; i < count; i++)
		shared->tests[i] = *tests[i];
	shared->count = count;
	if (write(to_child[1], &byte, 1) != 1 || read(from_child[0], &byte, 1) != 1) {
		waitpid(child, &status, 0);
		child = -1;
		return error_set(err, 0, "the native process ended (status 0x%x)", status);
	}
	memcpy(results, shared->results, count * sizeof(*results));
	return 0;
}
