/* SPDX-License-Identifier: MIT */
/* Selectors and layouts that assembly and C share. */
#ifndef GUEST_DEFS_H
#define GUEST_DEFS_H

#ifdef __x86_64__
/* SYSCALL wants code then data; SYSRET/SYSEXIT want code32, data, code64, data in a row. */
#define SEL_CODE32 0x08
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_UCODE32 0x20
#define SEL_UDATA 0x28
#define SEL_UCODE 0x30
#define SEL_UDATA2 0x38
#else
#define SEL_CODE 0x08
#define SEL_CODE32 0x08
#define SEL_DATA 0x10
#define SEL_UCODE 0x18
#define SEL_UCODE32 0x18
#define SEL_UDATA 0x20
#endif
#define SEL_CODE16 0x40
#define SEL_DATA16 0x48
#define SEL_UCODE16 0x50
#define SEL_UDATA16 0x58
#define SEL_TEST 0x80	/* 0x80..0x1ff: free for tests */
#define SEL_TSS 0x200	/* CPU n's TSS is at SEL_TSS + 16 * n */
#define GDT_BYTES 0x800

#define STACK_SIZE 16384
#define NO_TRAP 0x100

/* Offsets in struct ctx */
#ifdef __x86_64__
#define CTX_GPR 0
#define CTX_IP 128
#define CTX_FLAGS 136
#define CTX_CS 144
#define CTX_SS 152
#define CTX_DS 160
#define CTX_ES 168
#define CTX_FS 176
#define CTX_GS 184
#define CTX_LOAD_SEGS 192
#else
#define CTX_GPR 0
#define CTX_IP 32
#define CTX_FLAGS 36
#define CTX_CS 40
#define CTX_SS 44
#define CTX_DS 48
#define CTX_ES 52
#define CTX_FS 56
#define CTX_GS 60
#define CTX_LOAD_SEGS 64
#endif

#endif
