/* SPDX-License-Identifier: MIT */
/*
 * String instructions (Intel SDM volume 2: MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS, REP).
 *
 * A repeated instruction is done in runs: as many elements as lie on the current source page, the current
 * destination page, within the segment's limit and before the address wraps. A run on plain memory is the host's own
 * instruction with the same element size and direction, so overlapping copies come out as the architecture says.
 * Where there is no plain memory (devices, code pages, breakpoints) or an element crosses a page, it is done alone.
 *
 * RCX, RSI and RDI are up to date after every run: a fault or an interrupt finds them exact, with RIP at the
 * instruction.
 */
#include "engine/bt/helper_common.h"
#include "engine/bt/helpers.h"

#include "vm/bus.h"

struct string {
	struct bt_cpu *cpu;
	const struct bt_call *call;
	struct bt_vcpu *v;
	unsigned size;      /* of an element */
	uint64_t mask;      /* of the address size */
	bool down;          /* DF */
	bool wide;          /* 64-bit code */
	struct x86_fault fault;
};

static uint64_t get(const struct string *s, enum x86_gpr reg)
{
	return s->cpu->state.gpr[reg] & s->mask;
}

static void set(struct string *s, enum x86_gpr reg, uint64_t value)
{
	helper_set_gpr(s->cpu, reg, value, s->call->addrsize);
}

static void advance(struct string *s, enum x86_gpr reg, uint64_t elements)
{
	uint64_t bytes = elements * s->size;

	set(s, reg, get(s, reg) + (s->down ? -bytes : bytes));
}

/* Elements from offset on, in the string's direction, that stay on the page of linear and need no other check. */
static uint64_t run_length(const struct string *s, enum x86_seg seg, uint64_t offset, uint64_t linear, bool write)
{
	uint64_t in_page = linear & PAGE_MASK, last = s->mask, room, more;

	if (in_page + s->size > PAGE_SIZE)
		return 0;
	if (!s->wide) {
		if (!s->cpu->seg_end[write][seg])
			return 0;
		last = MIN(last, s->cpu->seg_end[write][seg] - 1);
	}
	if (offset > last || last - offset < s->size - 1)
		return 0;
	if (s->down) {
		room = in_page / s->size + 1;
		more = offset / s->size + 1;
	} else {
		room = (PAGE_SIZE - in_page) / s->size;
		more = (last - offset - (s->size - 1)) / s->size + 1;
	}
	return MIN(room, more);
}

/* Linear and host address of the element at offset. 0 and *host = NULL: not plain memory. */
static int resolve(struct string *s, enum x86_seg seg, uint64_t offset, bool write, uint64_t *linear, uint8_t **host)
{
	if (helper_linear(s->cpu, seg, offset, s->size, write, linear, &s->fault) < 0)
		return -1;
	return bt_page_host(s->cpu, *linear, write, host, &s->fault);
}

static void host_written(struct string *s, const uint8_t *low, uint64_t bytes)
{
	if (s->v->multi)
		bt_host_written(s->v, low, bytes);
}

/* ---- the host's instructions; n elements ---- */

#define REP(name, insn)                                                                            \
	static void name(uint8_t *d, const uint8_t *src, uint64_t n, bool down)                    \
	{                                                                                          \
		if (!down)                                                                         \
			__asm__ volatile("rep " insn : "+D"(d), "+S"(src), "+c"(n)::"memory");     \
		else                                                                               \
			__asm__ volatile("std; rep " insn "; cld" : "+D"(d), "+S"(src), "+c"(n)::"memory"); \
	}
REP(movs_1, "movsb")
REP(movs_2, "movsw")
REP(movs_4, "movsl")
REP(movs_8, "movsq")
#undef REP

static void host_movs(uint8_t *d, const uint8_t *src, uint64_t n, unsigned size, bool down)
{
	switch (size) {
	case 1:
		movs_1(d, src, n, down);
		break;
	case 2:
		movs_2(d, src, n, down);
		break;
	case 4:
		movs_4(d, src, n, down);
		break;
	default:
		movs_8(d, src, n, down);
	}
}

/* low: the lowest address of the run. */
static void host_stos(uint8_t *low, uint64_t value, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(low), "+c"(n) : "a"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(low), "+c"(n) : "a"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(low), "+c"(n) : "a"(value) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(low), "+c"(n) : "a"(value) : "memory");
	}
}

static uint64_t load(const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1:
		return *p;
	case 2:
		return load_le16(p);
	case 4:
		return load_le32(p);
	default:
		return load_le64(p);
	}
}

/* Set the flags of a - b. */
static void compare(struct string *s, uint64_t a, uint64_t b)
{
	uint64_t ax, flags;

	switch (s->size) {
	case 1:
		__asm__("cmpb %b2, %b1; lahf; seto %%al" : "=&a"(ax) : "q"(a), "q"(b) : "cc");
		break;
	case 2:
		__asm__("cmpw %w2, %w1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	case 4:
		__asm__("cmpl %k2, %k1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	default:
		__asm__("cmpq %2, %1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
	}
	flags = (ax >> 8 & 0xd5) | (ax & 1) << 11;
	s->cpu->state.rflags = (s->cpu->state.rflags & ~(uint64_t)X86_FLAGS_ARITH) | flags;
}

/* ---- one element, the careful way ---- */

static int load_element(struct string *s, enum x86_seg seg, uint64_t offset, uint64_t *value)
{
	*value = 0;
	return helper_load(s->cpu, seg, offset, value, s->size, &s->fault);
}

static int store_element(struct string *s, uint64_t value)
{
	return helper_store(s->cpu, X86_ES, get(s, X86_RDI), &value, s->size, &s->fault);
}

/* ---- the instructions: each does up to n elements and says how many, or -1 with s->fault ---- */

static int64_t do_movs(struct string *s, uint64_t n)
{
	enum x86_seg seg = s->call->seg;
	uint64_t si = get(s, X86_RSI), di = get(s, X86_RDI), from, to, run, value;
	uint8_t *source, *target;

	if (resolve(s, seg, si, false, &from, &source) < 0)
		return -1;
	if ((from & PAGE_MASK) + s->size <= PAGE_SIZE && resolve(s, X86_ES, di, true, &to, &target) < 0)
		return -1;
	if ((from & PAGE_MASK) + s->size <= PAGE_SIZE && source && target) {
		run = MIN(run_length(s, seg, si, from, false), run_length(s, X86_ES, di, to, true));
		if (run) {
			n = MIN(n, run);
			host_movs(target, source, n, s->size, s->down);
			host_written(s, s->down ? target - (n - 1) * s->size : target, n * s->size);
			goto done;
		}
	}
	if (load_element(s, seg, si, &value) < 0 || store_element(s, value) < 0)
		return -1;
	n = 1;
done:
	advance(s, X86_RSI, n);
	advance(s, X86_RDI, n);
	return (int64_t)n;
}

static int64_t do_stos(struct string *s, uint64_t n)
{
	uint64_t di = get(s, X86_RDI), to, value = s->cpu->state.gpr[X86_RAX];
	uint8_t *target;

	if (resolve(s, X86_ES, di, true, &to, &target) < 0)
		return -1;
	if (target) {
		uint64_t run = run_length(s, X86_ES, di, to, true);

		if (run) {
			uint8_t *low;

			n = MIN(n, run);
			low = s->down ? target - (n - 1) * s->size : target;
			host_stos(low, value, n, s->size);
			host_written(s, low, n * s->size);
			advance(s, X86_RDI, n);
			return (int64_t)n;
		}
	}
	if (store_element(s, value) < 0)
		return -1;
	advance(s, X86_RDI, 1);
	return 1;
}

static int64_t do_lods(struct string *s, uint64_t n)
{
	enum x86_seg seg = s->call->seg;
	uint64_t si = get(s, X86_RSI), from, value;
	uint8_t *source;

	if (resolve(s, seg, si, false, &from, &source) < 0)
		return -1;
	n = source ? MIN(n, run_length(s, seg, si, from, false)) : 1;
	if (n == 0)
		n = 1;
	if (n > 1)
		value = load(s->down ? source - (n - 1) * s->size : source + (n - 1) * s->size, s->size);
	else if (load_element(s, seg, si, &value) < 0)
		return -1;
	helper_set_gpr(s->cpu, X86_RAX, value, s->size);
	advance(s, X86_RSI, n);
	return (int64_t)n;
}

/* *stop: the repeat condition ended it. want_equal: go on while equal. */
static int64_t do_scas(struct string *s, uint64_t n, bool want_equal, bool *stop)
{
	uint64_t di = get(s, X86_RDI), from, mask = helper_mask(s->size);
	uint64_t a = s->cpu->state.gpr[X86_RAX] & mask, b, done = 0;
	uint8_t *source;

	if (resolve(s, X86_ES, di, false, &from, &source) < 0)
		return -1;
	n = source ? MIN(n, run_length(s, X86_ES, di, from, false)) : 1;
	if (!source || n == 0) {
		if (load_element(s, X86_ES, di, &b) < 0)
			return -1;
		done = 1;
	} else {
		int64_t step = s->down ? -(int64_t)s->size : s->size;

		do {
			b = load(source, s->size);
			source += step;
			done++;
		} while (done < n && (a == b) == want_equal);
	}
	compare(s, a, b);
	*stop = (a == b) != want_equal;
	advance(s, X86_RDI, done);
	return (int64_t)done;
}

static int64_t do_cmps(struct string *s, uint64_t n, bool want_equal, bool *stop)
{
	enum x86_seg seg = s->call->seg;
	uint64_t si = get(s, X86_RSI), di = get(s, X86_RDI), from, to, a, b, done = 0;
	uint8_t *first, *second = NULL;

	if (resolve(s, seg, si, false, &from, &first) < 0)
		return -1;
	if ((from & PAGE_MASK) + s->size > PAGE_SIZE)
		first = NULL;
	else if (resolve(s, X86_ES, di, false, &to, &second) < 0)
		return -1;
	n = first && second ? MIN(n, MIN(run_length(s, seg, si, from, false), run_length(s, X86_ES, di, to, false))) : 0;
	if (n == 0) {
		if (load_element(s, seg, si, &a) < 0 || load_element(s, X86_ES, di, &b) < 0)
			return -1;
		done = 1;
	} else {
		int64_t step = s->down ? -(int64_t)s->size : s->size;

		do {
			a = load(first, s->size);
			b = load(second, s->size);
			first += step;
			second += step;
			done++;
		} while (done < n && (a == b) == want_equal);
	}
	compare(s, a, b);
	*stop = (a == b) != want_equal;
	advance(s, X86_RSI, done);
	advance(s, X86_RDI, done);
	return (int64_t)done;
}

static int64_t do_ins(struct string *s)
{
	uint16_t port = (uint16_t)s->cpu->state.gpr[X86_RDX];
	uint64_t to, value;
	uint8_t *target;

	/* The device may not be read before it is sure that the data can be stored. */
	if (resolve(s, X86_ES, get(s, X86_RDI), true, &to, &target) < 0)
		return -1;
	if ((to & PAGE_MASK) + s->size > PAGE_SIZE && bt_page_host(s->cpu, to + s->size - 1, true, &target, &s->fault) < 0)
		return -1;
	bt_fpu_save(s->cpu);
	s->v->vcpu->stats.pio++;
	value = bus_read(&s->v->vm->pio, port, s->size);
	if (store_element(s, value) < 0)
		return -1;
	advance(s, X86_RDI, 1);
	return 1;
}

static int64_t do_outs(struct string *s)
{
	uint16_t port = (uint16_t)s->cpu->state.gpr[X86_RDX];
	uint64_t value;

	if (load_element(s, s->call->seg, get(s, X86_RSI), &value) < 0)
		return -1;
	bt_fpu_save(s->cpu);
	s->v->vcpu->stats.pio++;
	bus_write(&s->v->vm->pio, port, value, s->size);
	advance(s, X86_RSI, 1);
	return 1;
}

/* REPNE, not REPE: of several such prefixes the last counts. */
static bool repeats_while_unequal(const struct bt_call *call)
{
	uint8_t last = 0;

	for (unsigned n = 0; n + 1 < call->length; n++)
		if (call->bytes[n] == 0xf2 || call->bytes[n] == 0xf3)
			last = call->bytes[n];
	return last == 0xf2;
}

static int64_t step(struct string *s, uint64_t n, bool *stop)
{
	bool want_equal = !repeats_while_unequal(s->call);

	switch (s->call->op) {
	case X86_OP_MOVS:
		return do_movs(s, n);
	case X86_OP_STOS:
		return do_stos(s, n);
	case X86_OP_LODS:
		return do_lods(s, n);
	case X86_OP_SCAS:
		return do_scas(s, n, want_equal, stop);
	case X86_OP_CMPS:
		return do_cmps(s, n, want_equal, stop);
	case X86_OP_INS:
		return do_ins(s);
	default:
		return do_outs(s);
	}
}

/* Something wants the CPU before the next element. */
static bool interrupted(const struct string *s)
{
	return atomic_load_explicit(&s->cpu->poll, memory_order_relaxed) || s->cpu->stepping || s->v->db_pending ||
	       s->v->exit_requested;
}

enum bt_result bt_help_string(struct bt_cpu *cpu, const struct bt_call *call)
{
	struct string s = {
		.cpu = cpu,
		.call = call,
		.v = bt_vcpu_of(cpu),
		.size = call->opsize,
		.mask = helper_mask(call->addrsize),
		.down = cpu->state.rflags & X86_FLAG_DF,
		.wide = x86_in_64bit(&cpu->state),
	};
	bool repeat = call->prefixes & (X86_PFX_F2 | X86_PFX_F3), stop = false;

	if ((call->op == X86_OP_INS || call->op == X86_OP_OUTS) && (!repeat || get(&s, X86_RCX)) &&
	    x86_check_io(bt_system(cpu), (uint16_t)cpu->state.gpr[X86_RDX], s.size, &s.fault) < 0)
		return bt_raise(cpu, call->offset, &s.fault);
	if (!repeat) {
		if (step(&s, 1, &stop) < 0)
			return bt_raise(cpu, call->offset, &s.fault);
		return BT_NEXT;
	}
	while (get(&s, X86_RCX)) {
		int64_t done = step(&s, cpu->stepping ? 1 : get(&s, X86_RCX), &stop);

		if (done < 0)
			return bt_raise(cpu, call->offset, &s.fault);
		set(&s, X86_RCX, get(&s, X86_RCX) - (uint64_t)done);
		if (stop || !get(&s, X86_RCX))
			break;
		if (unlikely(interrupted(&s))) {
			cpu->state.rip = bt_rip(cpu, call->offset);
			return BT_LEAVE;
		}
	}
	return BT_NEXT;
}
