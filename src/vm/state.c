/* SPDX-License-Identifier: MIT */
/*
 * Saved state: the engine that runs over the state tables.
 *
 * One object is stored as
 *
 *	u8 n, n bytes: table name; u32 version; fields; u8 0
 *
 * and each field as
 *
 *	u8 n, n bytes: name; u8 kind; u32 size; u32 count; data
 *
 * little-endian. Data is size * count bytes, or for structs `count` lists of fields, each ended by u8 0. Loading
 * looks fields up by name: one that the image lacks keeps its present value if it is newer than the image; one
 * that the table lacks, or that has another shape, is an error. Images are hostile input.
 */
#include "vm/state.h"

#include <errno.h>
#include <stdio.h>

#include "base/util.h"
#include "vm/vm_private.h"

#define STATE_DEPTH_MAX 8
#define STATE_FIELDS_MAX 256 /* of one table, for the record of which were seen */

/* ---- writing ---- */

struct writer {
	uint8_t *buf; /* NULL: only count */
	size_t cap, len;
};

static void put(struct writer *w, const void *data, size_t n)
{
	if (w->buf && w->len + n <= w->cap)
		memcpy(w->buf + w->len, data, n);
	w->len += n;
}

static void put_u8(struct writer *w, uint8_t v)
{
	put(w, &v, sizeof(v));
}

static void put_u32(struct writer *w, uint32_t v)
{
	put(w, &v, sizeof(v));
}

static void put_name(struct writer *w, const char *name)
{
	size_t n = strlen(name);

	put_u8(w, (uint8_t)n);
	put(w, name, n);
}

static void save_fields(struct writer *w, const struct state_field *fields, const uint8_t *object)
{
	for (const struct state_field *f = fields; f->name; f++) {
		const uint8_t *at = object + f->offset;

		put_name(w, f->name);
		put_u8(w, (uint8_t)f->kind);
		put_u32(w, f->kind == STATE_STRUCT ?
				   0 :
				   f->size); /* a struct's size is the compiler's business */
		put_u32(w, f->count);
		switch (f->kind) {
		case STATE_UINT:
		case STATE_BYTES:
			put(w, at, (size_t)f->size * f->count);
			break;
		case STATE_STRUCT:
			for (uint32_t i = 0; i < f->count; i++) {
				save_fields(w, f->fields, at + (size_t)i * f->size);
				put_u8(w, 0);
			}
			break;
		case STATE_TIMER:
			put(w, &((const struct vm_timer *)at)->deadline, sizeof(uint64_t));
			break;
		}
	}
}

long state_save(const struct state_table *table, void *object, uint8_t *buf, size_t cap,
		struct error *err)
{
	struct writer w = { .buf = buf, .cap = cap };

	if (table->before_save)
		table->before_save(object);
	put_name(&w, table->name);
	put_u32(&w, table->version);
	save_fields(&w, table->fields, object);
	put_u8(&w, 0);
	if (buf && w.len > cap)
		return error_set(err, ENOSPC,
				 "cannot save state of '%s': %zu bytes do not fit into %zu",
				 table->name, w.len, cap);
	return (long)w.len;
}

/* ---- reading ---- */

struct reader {
	const uint8_t *buf;
	size_t len, pos;
	const struct state_table *table;
	uint32_t version;
	struct error *err;
};

static int get(struct reader *r, void *to, size_t n)
{
	if (n > r->len - r->pos)
		return error_set(r->err, EINVAL, "state of '%s' is cut short at byte %zu",
				 r->table->name, r->len);
	memcpy(to, r->buf + r->pos, n);
	r->pos += n;
	return 0;
}

/* Read a name into buf (256 bytes); its length, 0 at the end of a list, or -1. */
static int get_name(struct reader *r, char *buf)
{
	uint8_t n;

	if (get(r, &n, 1) || get(r, buf, n))
		return -1;
	buf[n] = 0;
	return n;
}

static int load_fields(struct reader *r, const struct state_field *fields, uint8_t *object,
		       unsigned depth);

static int load_field(struct reader *r, const struct state_field *f, uint8_t *object,
		      unsigned depth)
{
	uint8_t *at = object + f->offset, kind;
	uint32_t size, count;
	uint64_t deadline;

	if (get(r, &kind, 1) || get(r, &size, 4) || get(r, &count, 4))
		return -1;
	if (kind != f->kind || size != (f->kind == STATE_STRUCT ? 0 : f->size) || count != f->count)
		return error_set(r->err, EINVAL,
				 "state of '%s': field '%s' has another shape than expected",
				 r->table->name, f->name);
	switch (f->kind) {
	case STATE_UINT:
	case STATE_BYTES:
		return get(r, at, (size_t)f->size * f->count);
	case STATE_STRUCT:
		for (uint32_t i = 0; i < f->count; i++)
			if (load_fields(r, f->fields, at + (size_t)i * f->size, depth + 1))
				return -1;
		return 0;
	case STATE_TIMER:
		if (get(r, &deadline, 8))
			return -1;
		vm_timer_arm((struct vm_timer *)at, deadline); /* UINT64_MAX cancels */
		return 0;
	}
	return -1;
}

static int load_fields(struct reader *r, const struct state_field *fields, uint8_t *object,
		       unsigned depth)
{
	bool seen[STATE_FIELDS_MAX] = { false };
	char name[256];
	int n;

	if (depth > STATE_DEPTH_MAX)
		return error_set(r->err, EINVAL, "state of '%s' is nested too deep",
				 r->table->name);
	while ((n = get_name(r, name)) > 0) {
		unsigned i = 0;

		while (fields[i].name && strcmp(fields[i].name, name) != 0)
			i++;
		if (!fields[i].name || i >= STATE_FIELDS_MAX)
			return error_set(r->err, EINVAL, "state of '%s' has an unknown field '%s'",
					 r->table->name, name);
		if (load_field(r, &fields[i], object, depth))
			return -1;
		seen[i] = true;
	}
	if (n < 0)
		return -1;
	for (unsigned i = 0; fields[i].name && i < STATE_FIELDS_MAX; i++)
		if (!seen[i] && fields[i].since <= r->version)
			return error_set(r->err, EINVAL, "state of '%s' lacks the field '%s'",
					 r->table->name, fields[i].name);
	return 0;
}

int state_load(const struct state_table *table, void *object, const uint8_t *buf, size_t len,
	       struct error *err)
{
	struct reader r = { .buf = buf, .len = len, .table = table, .err = err };
	char name[256];

	if (get_name(&r, name) < 0 || get(&r, &r.version, 4))
		return -1;
	if (strcmp(name, table->name) != 0)
		return error_set(err, EINVAL, "expected state of '%s', found that of '%s'",
				 table->name, name);
	if (r.version > table->version)
		return error_set(err, EINVAL, "state of '%s' has version %u; this program knows %u",
				 name, r.version, table->version);
	if (load_fields(&r, table->fields, object, 0))
		return -1;
	if (r.pos != r.len)
		return error_set(err, EINVAL, "state of '%s' is followed by %zu stray bytes", name,
				 r.len - r.pos);
	return table->after_load ? table->after_load(object, err) : 0;
}

/* ---- comparing ---- */

static int compare_fields(const struct state_table *table, const struct state_field *fields,
			  const uint8_t *a, const uint8_t *b, struct error *err)
{
	for (const struct state_field *f = fields; f->name; f++) {
		const uint8_t *x = a + f->offset, *y = b + f->offset;
		bool same = true;

		for (uint32_t i = 0; i < f->count && same; i++, x += f->size, y += f->size) {
			if (f->kind == STATE_STRUCT) {
				if (compare_fields(table, f->fields, x, y, err))
					return -1;
			} else if (f->kind == STATE_TIMER) {
				same = ((const struct vm_timer *)x)->deadline ==
				       ((const struct vm_timer *)y)->deadline;
			} else {
				same = memcmp(x, y, f->size) == 0;
			}
			if (!same)
				return error_set(err, 0, "state of '%s' differs in field '%s'[%u]",
						 table->name, f->name, i);
		}
	}
	return 0;
}

int state_compare(const struct state_table *table, const void *a, const void *b, struct error *err)
{
	return compare_fields(table, table->fields, a, b, err);
}

/* ---- all objects of a VM ---- */

void vm_state_register(struct vm *vm, const struct state_table *table, unsigned instance,
		       void *object)
{
	struct vm_priv *priv = vm_priv(vm);

	if (priv->state_count == priv->state_capacity) {
		unsigned capacity = priv->state_capacity ? 2 * priv->state_capacity : 32;
		struct state_entry *states = realloc(priv->states, capacity * sizeof(*states));

		if (!states)
			return;
		priv->states = states;
		priv->state_capacity = capacity;
	}
	priv->states[priv->state_count++] = (struct state_entry){ table, instance, object };
}

static uint8_t *save_new(const struct state_entry *entry, long *len, struct error *err)
{
	uint8_t *buf;

	*len = state_save(entry->table, entry->object, NULL, 0, err);
	if (*len < 0)
		return NULL;
	buf = malloc((size_t)*len);
	if (!buf) {
		error_set(err, ENOMEM, "cannot save state of '%s'", entry->table->name);
		return NULL;
	}
	*len = state_save(entry->table, entry->object, buf, (size_t)*len, err);
	if (*len >= 0)
		return buf;
	free(buf);
	return NULL;
}

static int round_trip(const struct state_entry *entry, struct error *err)
{
	long len1 = 0, len2 = 0;
	cleanup_free uint8_t *first = save_new(entry, &len1, err);
	cleanup_free uint8_t *second = NULL;

	if (!first || state_load(entry->table, entry->object, first, (size_t)len1, err))
		return -1;
	second = save_new(entry, &len2, err);
	if (!second)
		return -1;
	if (len1 != len2 || memcmp(first, second, (size_t)len1) != 0)
		return error_set(err, 0, "it is not the same after a round trip");
	return 0;
}

int vm_state_round_trip(struct vm *vm, struct error *err)
{
	struct vm_priv *priv = vm_priv(vm);

	for (unsigned i = 0; i < priv->state_count; i++) {
		if (round_trip(&priv->states[i], err))
			return error_prefix(err, "state of '%s' instance %u",
					    priv->states[i].table->name, priv->states[i].instance);
	}
	return 0;
}
