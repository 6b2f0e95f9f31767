/* SPDX-License-Identifier: MIT */
/* Small helpers used everywhere: sizes, alignment, bit masks, scope-bound cleanup. */
#ifndef LODGE_BASE_UTIL_H
#define LODGE_BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1u << (n))
#define BIT64(n) (1ull << (n))
#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a) ALIGN_DOWN((x) + ((a)-1), a)
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static inline void cleanup_free_ptr(void *p)
{
	free(*(void **)p);
}
static inline void cleanup_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define cleanup_free __attribute__((cleanup(cleanup_free_ptr)))
#define cleanup_close __attribute__((cleanup(cleanup_close_fd)))

/* Unaligned little-endian loads and stores (the host is x86-64). */
#define DEFINE_UNALIGNED(bits)                                                                     \
	static inline uint##bits##_t load_le##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		__builtin_memcpy(&v, p, sizeof(v));                                                \
		return v;                                                                          \
	}                                                                                          \
	static inline void store_le##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		__builtin_memcpy(p, &v, sizeof(v));                                                \
	}
DEFINE_UNALIGNED(16)
DEFINE_UNALIGNED(32)
DEFINE_UNALIGNED(64)
#undef DEFINE_UNALIGNED

#endif
