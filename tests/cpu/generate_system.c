/* SPDX-License-Identifier: MIT */
/* Templates for what user mode may do beyond computing: FP images, segment registers, far transfers, traps. */
#include "generate.h"

static void emit32(struct item *item, uint64_t value)
{
	emit(item, &value, 4);
}

/* mov dword [address], 0 */
static void emit_clear32(struct item *item, unsigned mode, uint64_t address)
{
	emit(item, mode == TEST_64 ? "\xc7\x04\x25" : "\xc7\x05", mode == TEST_64 ? 3 : 2);
	emit32(item, address);
	emit32(item, 0);
}

/* opcode bytes, then ModRM for /reg [address] */
static void emit_absolute(struct item *item, unsigned mode, const char *opcode, unsigned n, unsigned reg, uint64_t address)
{
	emit(item, opcode, n);
	if (mode == TEST_64) {
		emit_byte(item, reg << 3 | 4);
		emit_byte(item, 0x25);
	} else {
		emit_byte(item, reg << 3 | 5);
	}
	emit32(item, address);
}

void make_fp_image(struct random *r, struct item *item, unsigned mode)
{
	uint64_t scratch = SCRATCH_BASE + 64 * random_below(r, 128), data = DATA_BASE + 64 * random_below(r, 128);
	unsigned kind = random_below(r, 5);

	if (chance(r, 5))
		scratch += random_below(r, 64); /* misaligned */
	switch (kind) {
	case 0: /* fnstenv; the pointers are not compared */
		emit_absolute(item, mode, "\xd9", 1, 6, data);
		emit_clear32(item, mode, data + 12);
		emit_clear32(item, mode, data + 16);
		emit_clear32(item, mode, data + 20);
		emit_clear32(item, mode, data + 24);
		break;
	case 1: /* fnsave, frstor */
		emit_absolute(item, mode, "\xdd", 1, 6, scratch);
		if (chance(r, 50))
			emit(item, "\xd9\xeb", 2); /* fldpi */
		if (chance(r, 70))
			emit_absolute(item, mode, "\xdd", 1, 4, scratch);
		break;
	case 2: /* fxsave, change, fxrstor */
		emit_absolute(item, mode, "\x0f\xae", 2, 0, scratch);
		emit(item, "\x0f\x57\xc9\xd9\xe8", 5); /* xorps xmm1, xmm1; fld1 */
		emit_absolute(item, mode, "\x0f\xae", 2, 1, scratch);
		break;
	case 3: /* fldenv of what fnstenv stored */
		emit_absolute(item, mode, "\xd9", 1, 6, scratch);
		emit(item, "\xdb\xe3", 2); /* fninit */
		emit_absolute(item, mode, "\xd9", 1, 4, scratch);
		break;
	default: /* xsave or xsavec, change, xrstor (part) */
		emit_mov_imm(item, mode, 0, chance(r, 50) ? 0xe7 : random_below(r, 256));
		emit_mov_imm(item, mode, 2, 0);
		if (chance(r, 60))
			emit_absolute(item, mode, "\x0f\xae", 2, 4, scratch);
		else
			emit_absolute(item, mode, "\x0f\xc7", 2, 4, scratch);
		emit(item, "\xc5\xf4\x57\xc9\xd9\xe8", 6); /* vxorps ymm1, ymm1, ymm1; fld1 */
		if (chance(r, 30)) {
			emit_byte(item, 0xb0); /* mov al, imm8 */
			emit_byte(item, (unsigned)random_next(r) & 0xff);
		}
		emit_absolute(item, mode, "\x0f\xae", 2, 5, scratch);
		break;
	}
}

void make_segment(struct random *r, struct item *item, unsigned mode)
{
	/* not 1 to 3, which the host's return from its signal turns into 0 */
	static const uint8_t selectors[] = { 0x2b, 0x2b, 0x2b, 0, 0x33, 0x10, 0xfb };
	unsigned kind = random_below(r, mode == TEST_64 ? 5 : 3), seg, reg = random_below(r, 8);

	switch (kind) {
	case 0: /* mov reg, seg; 16, 32 or 64 bits */
		if (chance(r, 40))
			emit_byte(item, mode == TEST_64 && chance(r, 50) ? 0x48 : 0x66);
		emit_byte(item, 0x8c);
		emit_byte(item, 0xc0 | random_below(r, 6) << 3 | reg);
		break;
	case 1: /* mov [mem], seg */
		emit_absolute(item, mode, "\x8c", 1, random_below(r, 6), DATA_BASE + random_below(r, DATA_SIZE));
		break;
	case 2: /* load ES or DS, or what faults */
		seg = chance(r, 50) ? 0 : 3;
		if (chance(r, 10))
			seg = random_below(r, 6);
		emit_byte(item, 0xb8);
		emit32(item, selectors[random_below(r, sizeof(selectors))]);
		if (seg == 4 || seg == 5 || seg == 2)
			seg = 3; /* bases and stacks depend on the system's tables */
		emit_byte(item, 0x8e);
		emit_byte(item, 0xc0 | seg << 3);
		break;
	case 3: /* rdfsbase, rdgsbase */
		emit_byte(item, 0xf3);
		if (chance(r, 60))
			emit_byte(item, 0x48);
		emit(item, "\x0f\xae", 2);
		emit_byte(item, 0xc0 | random_below(r, 2) << 3 | reg);
		break;
	default: /* wrfsbase, wrgsbase */
		emit_mov_imm(item, mode, 0, chance(r, 95) ? stack_address(r) : random_next(r));
		emit(item, "\xf3\x48\x0f\xae", 4);
		emit_byte(item, 0xd0 | random_below(r, 2) << 3);
		break;
	}
}

void make_far(struct random *r, struct item *item, unsigned mode)
{
	unsigned at, kind = random_below(r, mode == TEST_64 ? 3 : 2);
	const unsigned here = mode == TEST_64 ? 0x33 : 0x23;

	emit_mov_imm(item, mode, 4, stack_address(r));
	if (kind == 0) { /* far return to what follows */
		emit_byte(item, 0x6a);
		emit_byte(item, chance(r, 93) ? here : random_below(r, 128));
		emit_byte(item, 0x68);
		at = item->length;
		emit32(item, 0);
		if (mode == TEST_64)
			emit_byte(item, 0x48);
		emit_byte(item, 0xcb);
		add_fixup(item, FIXUP_HERE32, at, 0, item->length);
	} else if (kind == 1) { /* iret */
		if (mode == TEST_64) {
			emit(item, "\x6a\x2b\x54", 3); /* push ss; push rsp */
			emit(item, "\x9c\x6a", 2);     /* pushf; push cs */
			emit_byte(item, here);
			emit_byte(item, 0x68);
			at = item->length;
			emit32(item, 0);
			emit(item, "\x48\xcf", 2);
		} else {
			emit(item, "\x9c\x6a", 2);
			emit_byte(item, here);
			emit_byte(item, 0x68);
			at = item->length;
			emit32(item, 0);
			emit_byte(item, 0xcf);
		}
		add_fixup(item, FIXUP_HERE32, at, 0, item->length);
	} else { /* to compatibility mode, a few instructions there, and back */
		emit(item, "\x6a\x23\x68", 3);
		at = item->length;
		emit32(item, 0);
		emit(item, "\x48\xcb", 2);
		add_fixup(item, FIXUP_HERE32, at, 0, item->length);
		emit_byte(item, 0x40 + (random_below(r, 16) & ~4u)); /* inc or dec reg32 */
		if (chance(r, 50))
			emit(item, "\x50\x5b", 2); /* push eax; pop ebx */
		if (chance(r, 50))
			emit(item, "\x01\xc8", 2); /* add eax, ecx */
		emit_byte(item, 0xea);
		at = item->length;
		emit32(item, 0);
		emit(item, "\x33\x00", 2);
		add_fixup(item, FIXUP_HERE32, at, 0, item->length);
	}
}

void make_trap(struct random *r, struct item *item, unsigned mode)
{
	/* No int1: some hypervisors under the host have its return address wrong. */
	switch (random_below(r, mode == TEST_32 ? 5 : 3)) {
	case 0: /* single-step over one or two instructions */
		emit_mov_imm(item, mode, 4, stack_address(r));
		emit_byte(item, 0x68);
		emit32(item, 0x302 | (random_next(r) & 0x8d5));
		emit_byte(item, 0x9d);
		emit(item, "\x01\xc8\x29\xd0", 4);
		break;
	case 1:
		emit(item, "\x0f\x0b", 2); /* ud2 */
		break;
	case 2:
		emit(item, chance(r, 50) ? "\x0f\xb9\xc1" : "\x0f\xff\xc1", 3); /* ud1, ud0 */
		break;
	case 3:
		emit_byte(item, 0xce); /* into */
		break;
	default: /* bound: limits of mostly random numbers */
		emit_mov_imm(item, mode, 0, random_next(r));
		emit_absolute(item, mode, "\x62", 1, 0, DATA_BASE + random_below(r, DATA_SIZE - 8));
		break;
	}
}

void make_alignment_check(struct random *r, struct item *item, unsigned mode)
{
	emit_mov_imm(item, mode, 4, stack_address(r));
	emit_byte(item, 0x68);
	emit32(item, 0x40202);
	emit_byte(item, 0x9d);
	emit_mov_imm(item, mode, 3, DATA_BASE + 64 + random_below(r, 1024));
	emit(item, chance(r, 50) ? "\x8b\x03" : "\x89\x03", 2);
}
