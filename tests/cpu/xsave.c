/* SPDX-License-Identifier: MIT */
/* XSAVE images in standard form (SDM vol. 1, 13.4) to and from plain state. Offsets are CPUID.0DH's, read once. */
#include <cpuid.h>
#include <string.h>

#include "cpu_test.h"

static uint32_t offset_of(unsigned component)
{
	static uint32_t offsets[10];

	if (!offsets[component]) {
		uint32_t a, b, c, d;

		__cpuid_count(0xd, component, a, b, c, d);
		offsets[component] = b;
	}
	return offsets[component];
}

enum { LEGACY_MXCSR = 24, LEGACY_ST = 32, LEGACY_XMM = 160, HEADER = 512 };
enum { C_AVX = 2, C_K = 5, C_ZMM_HI = 6, C_HI16 = 7 };

void xsave_to_fp(struct fp_state *fp, const uint8_t *xsave)
{
	uint64_t bv;

	memset(fp, 0, sizeof(*fp));
	memcpy(&bv, xsave + HEADER, 8);
	fp->fcw = 0x37f;
	if (bv & 1) {
		memcpy(&fp->fcw, xsave, 2);
		memcpy(&fp->fsw, xsave + 2, 2);
		fp->ftw = xsave[4];
		for (unsigned i = 0; i < 8; i++)
			memcpy(fp->st[i], xsave + LEGACY_ST + 16 * i, 10);
	}
	memcpy(&fp->mxcsr, xsave + LEGACY_MXCSR, 4);
	for (unsigned i = 0; i < 16; i++) {
		if (bv & 2)
			memcpy(fp->zmm[i], xsave + LEGACY_XMM + 16 * i, 16);
		if (bv & 1 << C_AVX)
			memcpy(fp->zmm[i] + 16, xsave + offset_of(C_AVX) + 16 * i, 16);
		if (bv & 1 << C_ZMM_HI)
			memcpy(fp->zmm[i] + 32, xsave + offset_of(C_ZMM_HI) + 32 * i, 32);
		if (bv & 1 << C_HI16)
			memcpy(fp->zmm[16 + i], xsave + offset_of(C_HI16) + 64 * i, 64);
	}
	if (bv & 1 << C_K)
		memcpy(fp->k, xsave + offset_of(C_K), 64);
}

void fp_to_xsave(uint8_t *xsave, unsigned size, const struct fp_state *fp, uint64_t xcr0)
{
	uint64_t bv = xcr0 & 0xe7;

	memset(xsave, 0, size);
	memcpy(xsave, &fp->fcw, 2);
	memcpy(xsave + 2, &fp->fsw, 2);
	xsave[4] = fp->ftw;
	memcpy(xsave + LEGACY_MXCSR, &fp->mxcsr, 4);
	memset(xsave + LEGACY_MXCSR + 4, 0xff, 4);
	memcpy(xsave + HEADER, &bv, 8);
	for (unsigned i = 0; i < 8; i++)
		memcpy(xsave + LEGACY_ST + 16 * i, fp->st[i], 10);
	for (unsigned i = 0; i < 16; i++) {
		memcpy(xsave + LEGACY_XMM + 16 * i, fp->zmm[i], 16);
		if (bv & 1 << C_AVX)
			memcpy(xsave + offset_of(C_AVX) + 16 * i, fp->zmm[i] + 16, 16);
		if (bv & 1 << C_ZMM_HI)
			memcpy(xsave + offset_of(C_ZMM_HI) + 32 * i, fp->zmm[i] + 32, 32);
		if (bv & 1 << C_HI16)
			memcpy(xsave + offset_of(C_HI16) + 64 * i, fp->zmm[16 + i], 64);
	}
	if (bv & 1 << C_K)
		memcpy(xsave + offset_of(C_K), fp->k, 64);
}
