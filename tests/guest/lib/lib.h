/* SPDX-License-Identifier: MIT */
/*
 * The library of the bare-metal test guests: printing, assertions, traps, contexts, paging, APs, chips.
 *
 * A guest defines test_main() and uses CHECK()/CHECK_EQ(); each prints one line "ok NAME" or
 * "FAIL NAME: ...". When test_main() returns, "DONE" is printed and the machine is ended through
 * isa-debug-exit with 0 (status 1) if nothing failed, else 1 (status 3).
 *
 * Two ways to provoke exceptions:
 *   TRY("insn", ...)   runs one instruction at CPL 0 and leaves what happened in `trap`;
 *   run(&ctx)          loads a whole register context (any ring and mode) by IRET, and returns when
 *                      anything traps, with the context at that point in ctx.
 */
#ifndef GUEST_LIB_H
#define GUEST_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defs.h"

typedef unsigned long ulong; /* the natural register size */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ul << (n))
#define barrier() asm volatile("" ::: "memory")

/* ---- printing, assertions, end ---- */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* %s %c %d %u %x %lx %lu %llx %p, widths */
void test_check(bool ok, const char *name, const char *what);
void test_check_eq(uint64_t got, uint64_t want, const char *name, const char *what);
void test_skip(const char *name, const char *reason);
void test_end(void) __attribute__((noreturn));
void test_main(void);
extern unsigned test_failures;
void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool cmdline_has(const char *word);

#define CHECK(name, cond) test_check((cond), name, #cond)
#define CHECK_EQ(name, got, want) test_check_eq((uint64_t)(got), (uint64_t)(want), name, #got)
#define SKIP(name, reason) test_skip(name, reason)

/* ---- instructions ---- */
#define DEFINE_PORT(suffix, type)                                                                  \
	static inline void out##suffix(uint16_t port, type v)                                      \
	{                                                                                          \
		asm volatile("out" #suffix " %0, %1" : : "a"(v), "Nd"(port) : "memory");           \
	}                                                                                          \
	static inline type in##suffix(uint16_t port)                                               \
	{                                                                                          \
		type v;                                                                            \
		asm volatile("in" #suffix " %1, %0" : "=a"(v) : "Nd"(port) : "memory");            \
		return v;                                                                          \
	}
DEFINE_PORT(b, uint8_t)
DEFINE_PORT(w, uint16_t)
DEFINE_PORT(l, uint32_t)

#define DEFINE_REG(name)                                                                           \
	static inline ulong read_##name(void)                                                      \
	{                                                                                          \
		ulong v;                                                                           \
		asm volatile("mov %%" #name ", %0" : "=r"(v) : : "memory");                        \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##name(ulong v)                                                   \
	{                                                                                          \
		asm volatile("mov %0, %%" #name : : "r"(v) : "memory");                            \
	}
DEFINE_REG(cr0)
DEFINE_REG(cr2)
DEFINE_REG(cr3)
DEFINE_REG(cr4)
#ifdef __x86_64__
DEFINE_REG(cr8)
#endif
DEFINE_REG(dr0)
DEFINE_REG(dr1)
DEFINE_REG(dr2)
DEFINE_REG(dr3)
DEFINE_REG(dr6)
DEFINE_REG(dr7)

static inline uint64_t rdmsr(uint32_t n)
{
	uint32_t lo, hi;
	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n) : "memory");
	return lo | (uint64_t)hi << 32;
}
static inline void wrmsr(uint32_t n, uint64_t v)
{
	asm volatile("wrmsr" : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;
	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return lo | (uint64_t)hi << 32;
}
struct cpuid {
	uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
	struct cpuid r;
	asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
	return r;
}
static inline ulong read_flags(void)
{
	ulong v;
	asm volatile("pushf; pop %0" : "=r"(v) : : "memory");
	return v;
}
static inline void write_flags(ulong v)
{
	asm volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}
static inline void invlpg(const volatile void *p)
{
	asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}
static inline void cli(void)
{
	asm volatile("cli" ::: "memory");
}
static inline void sti(void)
{
	asm volatile("sti; nop" ::: "memory");
}
static inline void pause_cpu(void)
{
	asm volatile("pause" ::: "memory");
}
bool is_amd(void);		     /* AuthenticAMD or HygonGenuine */
bool has_cpuid(uint32_t leaf, char reg, unsigned bit); /* reg 'a'..'d', subleaf 0 */
unsigned maxphyaddr(void);
bool is_tcg(void); /* QEMU's TCG: to step around what would kill it; never to change what is right */
#define HAS_VME has_cpuid(1, 'd', 1)
#define HAS_PCID has_cpuid(1, 'c', 17)
#define HAS_X2APIC has_cpuid(1, 'c', 21)
#define HAS_TSC_DEADLINE has_cpuid(1, 'c', 24)
#define HAS_XSAVE has_cpuid(1, 'c', 26)
#define HAS_FSGSBASE has_cpuid(7, 'b', 0)
#define HAS_SMEP has_cpuid(7, 'b', 7)
#define HAS_INVPCID has_cpuid(7, 'b', 10)
#define HAS_SMAP has_cpuid(7, 'b', 20)
#define HAS_UMIP has_cpuid(7, 'c', 2)
#define HAS_1G has_cpuid(0x80000001, 'd', 26)

#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_NE 0x20ul
#define CR0_WP 0x10000ul
#define CR0_AM 0x40000ul
#define CR0_PG 0x80000000ul
#define CR4_VME 1ul
#define CR4_PVI 2ul
#define CR4_TSD 4ul
#define CR4_DE 8ul
#define CR4_PSE 0x10ul
#define CR4_PAE 0x20ul
#define CR4_PGE 0x80ul
#define CR4_OSFXSR 0x200ul
#define CR4_OSXMMEXCPT 0x400ul
#define CR4_UMIP 0x800ul
#define CR4_FSGSBASE 0x10000ul
#define CR4_PCIDE 0x20000ul
#define CR4_OSXSAVE 0x40000ul
#define CR4_SMEP 0x100000ul
#define CR4_SMAP 0x200000ul
#define FL_CF 1ul
#define FL_ZF 0x40ul
#define FL_TF 0x100ul
#define FL_IF 0x200ul
#define FL_DF 0x400ul
#define FL_OF 0x800ul
#define FL_IOPL3 0x3000ul
#define FL_NT 0x4000ul
#define FL_RF 0x10000ul
#define FL_VM 0x20000ul
#define FL_AC 0x40000ul
#define FL_VIF 0x80000ul
#define FL_VIP 0x100000ul
#define FL_ID 0x200000ul
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };
#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_ADJUST 0x3b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

/* ---- traps ---- */
#ifdef __x86_64__
struct frame {
	uint64_t r[16]; /* rax rcx rdx rbx - rbp rsi rdi r8.. */
	uint64_t vector, error, ip, cs, flags, sp, ss;
};
#define MOVP "movq"
#define SPREG "rsp"
#else
struct frame {
	uint32_t gs, fs, es, ds;
	uint32_t rev[8]; /* edi esi ebp esp ebx edx ecx eax */
	uint32_t vector, error, ip, cs, flags, sp, ss, v_es, v_ds, v_fs, v_gs;
};
#define MOVP "movl"
#define SPREG "esp"
#endif

struct trap_record {
	ulong vector; /* NO_TRAP if none happened */
	ulong error, ip, cr2, flags, at /* address of the instruction under TRY() */;
};
extern volatile struct trap_record trap;
extern volatile ulong recover_ip, recover_at, recover_sp;

#define TRY(insn, ...)                                                                             \
	do {                                                                                       \
		trap.vector = NO_TRAP;                                                             \
		barrier();                                                                         \
		asm volatile(MOVP " $881f, recover_at\n\t" MOVP " $882f, recover_ip\n\t"          \
			     MOVP " %%" SPREG ", recover_sp\n881: " insn "\n"                        \
			     "882: " MOVP " recover_sp, %%" SPREG "\n\t"                            \
			     MOVP " $0, recover_ip" __VA_ARGS__);                                  \
		barrier();                                                                         \
	} while (0)

/* Vector raised by an instruction, for CHECK_EQ; NO_TRAP if none. */
#define VECTOR_OF(insn, ...)                                                                       \
	({                                                                                         \
		TRY(insn, __VA_ARGS__);                                                            \
		trap.vector;                                                                       \
	})

/* (The operands of TRY() are at least a colon.) */

/* A C handler for a vector: called first. It returns to the interrupted code. NULL: none. */
typedef void trap_handler(struct frame *f);
void set_handler(unsigned vector, trap_handler *fn);

/* ---- contexts ---- */
struct ctx {
#ifdef __x86_64__
	uint64_t r[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
	uint64_t ip, flags, cs, ss, ds, es, fs, gs, load_segs;
#else
	uint32_t r[8];
	uint32_t ip, flags, cs, ss, ds, es, fs, gs, load_segs;
#endif
	ulong vector, error, cr2;
	ulong handler_sp; /* stack pointer right after the trap's frame was pushed (its lowest address) */
};
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
extern char trap_iret[], run_iret[], trap_stubs[];
/* Returns the vector that ended it. */
unsigned run(struct ctx *c);
/* A user-mode context with IOPL 0, IF 0, at ip with its stack. */
struct ctx user_ctx(ulong ip, ulong sp);

#ifndef __x86_64__
/* Run in real mode until an interrupt; any vector ends it. Frame is 16-bit: the vector's return IP in ip. */
unsigned real_run(struct ctx *c);
extern char real_stubs[]; /* linear address; vector n's stub at real_stubs + 8 n, segment 0 */
extern uint8_t real_idt_ptr[6];
#endif

/* Code in another mode, between labels NAME and NAME_end. bits: 16, 32, 64 */
#define CODE(name, bits, text)                                                                     \
	asm(".pushsection .rodata\n.align 16\n.globl " #name "\n" #name ":\n.code" #bits           \
	    "\n" text "\n.globl " #name "_end\n" #name "_end:\n.byte 0x90\n" CODE_NATIVE "\n.popsection");      \
	extern char name[] __attribute__((unused)), name##_end[] __attribute__((unused))
#ifdef __x86_64__
#define CODE_NATIVE ".code64"
#else
#define CODE_NATIVE ".code32"
#endif
#define CODE_SIZE(name) ((size_t)(name##_end - name))
#define COPY_CODE(to, name) memcpy((void *)(to), name, CODE_SIZE(name))

/* ---- descriptor tables ---- */
extern uint64_t gdt[];
struct table_ptr {
	uint16_t limit;
	ulong base;
} __attribute__((packed));
static inline void lgdt(const struct table_ptr *p)
{
	asm volatile("lgdt %0" : : "m"(*p) : "memory");
}
static inline void lidt(const struct table_ptr *p)
{
	asm volatile("lidt %0" : : "m"(*p) : "memory");
}
static inline void sidt(struct table_ptr *p)
{
	asm volatile("sidt %0" : "=m"(*p) : : "memory");
}
/* attr: bits 40-47 in 0-7, 52-55 in 12-15 (as the LAR result >> 8); limit as encoded (20 bits). */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr);
uint64_t gate32(uint16_t sel, uint32_t offset, unsigned attr, unsigned count);
#ifdef __x86_64__
struct idt_entry {
	uint16_t off0, sel;
	uint8_t ist, attr;
	uint16_t off1;
	uint32_t off2, zero;
} __attribute__((packed));
struct tss {
	uint32_t res0;
	uint64_t rsp[3], res1, ist[7], res2;
	uint16_t res3, iomap;
	uint8_t io[8192 + 1];
} __attribute__((packed));
extern struct idt_entry idt[256];
#else
struct tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
	uint8_t io[8192 + 1];
} __attribute__((packed));
extern uint64_t idt[256];
#endif
extern struct tss tss0;
void set_gate(unsigned vector, void *handler, unsigned dpl, unsigned ist_or_sel);
void reset_gate(unsigned vector);

/* ---- memory ---- */
void *alloc_pages(unsigned n); /* zeroed, 4 KiB aligned, never freed */
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_PWT 8ull
#define PTE_PCD 0x10ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull
#ifdef __x86_64__
#define TEST_VA 0x40000000ull /* [1 GiB, 3 GiB) is unmapped at the start, for tests */
/* Entry of va at level (1: PTE, 2: PDE, 3: PDPTE, 4: PML4E) of the page tables at CR3, creating tables with
 * P|W|U; the entry itself is left alone. */
uint64_t *page_entry(uint64_t va, unsigned level);
void map_page(uint64_t va, uint64_t pa, uint64_t flags); /* 4 KiB, and invlpg */
void map_user(uint64_t va, unsigned pages);		 /* fresh zeroed user-accessible RWX pages */
void *map_mmio(uint64_t pa, uint64_t size);		 /* identity where possible, uncached */
#else
static inline void *map_mmio(uint64_t pa, uint64_t size)
{
	(void)size;
	return (void *)(ulong)pa;
}
#endif

/* ---- CPUs ---- */
unsigned cpu_count(void); /* by fw_cfg */
/* Start all APs with INIT-SIPI-SIPI and run fn(cpu) (1..n-1) on each; returns how many came up. Once. */
unsigned start_aps(void (*fn)(unsigned cpu));
extern volatile unsigned aps_running, aps_done;
bool wait_until(volatile unsigned *value, unsigned want, unsigned ms); /* true if it got there in time */
static inline void atomic_inc(volatile unsigned *p)
{
	asm volatile("lock incl %0" : "+m"(*p) : : "memory");
}

/* ---- time ---- */
void delay_us(unsigned us);    /* by PIT channel 2 */
uint64_t tsc_per_ms(void);     /* calibrated once against the PIT */

/* ---- chips ---- */
void pic_init(uint8_t mask_master, uint8_t mask_slave); /* vectors 0x20, 0x28 */
void pic_eoi(unsigned irq);
void pit_set(unsigned channel, unsigned mode, unsigned count);
#define LAPIC_BASE 0xfee00000ul
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_ICT 0x380
#define APIC_TIMER_CCT 0x390
#define APIC_TIMER_DCR 0x3e0
static inline uint32_t apic_read(unsigned reg)
{
	return *(volatile uint32_t *)(LAPIC_BASE + reg);
}
static inline void apic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(LAPIC_BASE + reg) = v;
}
bool apic_bit(unsigned bank, unsigned vector); /* APIC_ISR, APIC_IRR, APIC_TMR */
void apic_enable(void);			       /* SVR: enabled, spurious vector 0xff; TPR 0 */
void apic_ipi(uint32_t dest, uint32_t low);    /* xAPIC; waits until delivered */
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);
uint32_t pci_read(unsigned bdf, unsigned reg);
void pci_write(unsigned bdf, unsigned reg, uint32_t v);
int pci_find(uint16_t vendor, uint16_t device); /* bdf or -1 */
bool fw_cfg_present(void);
void fw_cfg_read(uint16_t key, void *buf, unsigned len);
/* ACPI: find a table by signature through the RSDP; NULL if none. */
void *acpi_table(const char *signature);
#endif
