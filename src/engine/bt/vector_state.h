/* SPDX-License-Identifier: MIT */
/* The guest's vector registers where bt_fpu_save() puts them: the XSAVE standard form (Intel SDM volume 1, 13.4-13.5). */
#ifndef LODGE_ENGINE_BT_VECTOR_STATE_H
#define LODGE_ENGINE_BT_VECTOR_STATE_H

#include "engine/bt/runtime.h"

#define XSAVE_ST 32u      /* ST0/MM0: 16 bytes each */
#define XSAVE_XMM 160u
#define XSAVE_BV 512u
#define COMPONENT_X87 0
#define COMPONENT_SSE 1
#define COMPONENT_YMM 2   /* upper halves of YMM0-15 */
#define COMPONENT_K 5
#define COMPONENT_ZMM 6   /* upper halves of ZMM0-15 */
#define COMPONENT_HI16 7  /* ZMM16-31 */

static inline void vector_mark(struct bt_cpu *cpu, unsigned component)
{
	cpu->state.xsave[XSAVE_BV] |= (uint8_t)(1u << component);
}

/* The 16 bytes at `part` (0..3) of a vector register; NULL if the host has none such. */
static inline uint8_t *vector_part(struct bt_cpu *cpu, unsigned reg, unsigned part, unsigned *component)
{
	uint8_t *base = cpu->state.xsave;

	if (reg >= 16) {
		*component = COMPONENT_HI16;
		return bt_xsave_offset[COMPONENT_HI16] ? base + bt_xsave_offset[COMPONENT_HI16] + (reg - 16) * 64 + part * 16 : NULL;
	}
	if (part == 0) {
		*component = COMPONENT_SSE;
		return base + XSAVE_XMM + reg * 16;
	}
	if (part == 1) {
		*component = COMPONENT_YMM;
		return bt_xsave_offset[COMPONENT_YMM] ? base + bt_xsave_offset[COMPONENT_YMM] + reg * 16 : NULL;
	}
	*component = COMPONENT_ZMM;
	return bt_xsave_offset[COMPONENT_ZMM] ? base + bt_xsave_offset[COMPONENT_ZMM] + reg * 32 + (part - 2) * 16 : NULL;
}

static inline void vector_read(struct bt_cpu *cpu, unsigned reg, uint8_t out[64])
{
	for (unsigned part = 0; part < 4; part++) {
		unsigned component;
		const uint8_t *p = vector_part(cpu, reg, part, &component);

		if (p && (cpu->state.xsave[XSAVE_BV] >> component & 1))
			bt_copy(out + part * 16, p, 16);
		else
			bt_fill(out + part * 16, 0, 16);
	}
}

static inline void vector_write(struct bt_cpu *cpu, unsigned reg, const uint8_t in[64])
{
	for (unsigned part = 0; part < 4; part++) {
		unsigned component;
		uint8_t *p = vector_part(cpu, reg, part, &component);

		if (!p)
			continue;
		/* A component in its initial state holds stale bytes: zero it before it becomes live. */
		if (!(cpu->state.xsave[XSAVE_BV] >> component & 1)) {
			if (component == COMPONENT_SSE)
				bt_fill(cpu->state.xsave + XSAVE_XMM, 0, 256);
			else
				bt_fill(cpu->state.xsave + bt_xsave_offset[component], 0, bt_xsave_size[component]);
		}
		bt_copy(p, in + part * 16, 16);
		vector_mark(cpu, component);
	}
}

static inline uint64_t opmask_read(const struct bt_cpu *cpu, unsigned k)
{
	uint64_t value;

	if (!bt_xsave_offset[COMPONENT_K] || !(cpu->state.xsave[XSAVE_BV] >> COMPONENT_K & 1))
		return 0;
	__builtin_memcpy(&value, cpu->state.xsave + bt_xsave_offset[COMPONENT_K] + k * 8, 8);
	return value;
}

static inline void opmask_write(struct bt_cpu *cpu, unsigned k, uint64_t value)
{
	if (!bt_xsave_offset[COMPONENT_K])
		return;
	if (!(cpu->state.xsave[XSAVE_BV] >> COMPONENT_K & 1))
		bt_fill(cpu->state.xsave + bt_xsave_offset[COMPONENT_K], 0, 64);
	__builtin_memcpy(cpu->state.xsave + bt_xsave_offset[COMPONENT_K] + k * 8, &value, 8);
	vector_mark(cpu, COMPONENT_K);
}

#endif
