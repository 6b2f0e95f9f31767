/* SPDX-License-Identifier: MIT */
/*
 * Saved state is declared, not coded.
 *
 * Each device (and the CPU) has a table of the fields that make up its state beside its struct, and
 * registers it when it is created. Saving, restoring, printing and comparing run off these tables.
 * Fields are stored by name, little-endian, so that versions can add fields.
 */
#ifndef LODGE_VM_STATE_H
#define LODGE_VM_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct vm;

enum state_kind {
	STATE_UINT, /* unsigned integer (or bool) of .size bytes: 1, 2, 4, 8; .count of them contiguous */
	STATE_BYTES,  /* .size raw bytes */
	STATE_STRUCT, /* .count structs of .size bytes each, described by .fields */
	STATE_TIMER,  /* struct vm_timer: its deadline */
};

struct state_field {
	const char *name;
	enum state_kind kind;
	uint32_t offset, size, count;
	uint32_t since;                   /* table version that added the field */
	const struct state_field *fields; /* STATE_STRUCT: ends with .name = NULL */
};

struct state_table {
	const char *name; /* device kind: "i8259" */
	uint32_t version;
	const struct state_field *fields;  /* ends with .name = NULL */
	void (*before_save)(void *object); /* may be NULL */
	int (*after_load)(void *object,
			  struct error *err); /* check and rebuild derived state; may be NULL */
};

#define STATE_FIELD(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_UINT, .offset = offsetof(type, member),             \
		.size = sizeof(((type *)0)->member), .count = 1                                    \
	}
#define STATE_ARRAY(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_UINT, .offset = offsetof(type, member),             \
		.size = sizeof(((type *)0)->member[0]),                                            \
		.count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0])              \
	}
#define STATE_BUFFER(type, member)                                                                 \
	{                                                                                          \
		.name = #member, .kind = STATE_BYTES, .offset = offsetof(type, member),            \
		.size = sizeof(((type *)0)->member), .count = 1                                    \
	}
#define STATE_STRUCTS(type, member, table)                                                         \
	{                                                                                          \
		.name = #member, .kind = STATE_STRUCT, .offset = offsetof(type, member),           \
		.size = sizeof(((type *)0)->member[0]),                                            \
		.count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]),             \
		.fields = table                                                                    \
	}
#define STATE_SUBSTRUCT(type, member, table)                                                       \
	{                                                                                          \
		.name = #member, .kind = STATE_STRUCT, .offset = offsetof(type, member),           \
		.size = sizeof(((type *)0)->member), .count = 1, .fields = table                   \
	}
#define STATE_TIMER_FIELD(type, member)                                                            \
	{                                                                                          \
		.name = #member, .kind = STATE_TIMER, .offset = offsetof(type, member), .size = 8, \
		.count = 1                                                                         \
	}
#define STATE_END                                                                                  \
	{                                                                                          \
		.name = NULL                                                                       \
	}

/* Register object's state under table->name and instance number. Before vCPUs start. */
void vm_state_register(struct vm *vm, const struct state_table *table, unsigned instance,
		       void *object);

/* Serialise one object: returns bytes written to buf (capacity cap), or the size needed if buf is NULL, or -1. */
long state_save(const struct state_table *table, void *object, uint8_t *buf, size_t cap,
		struct error *err);
int state_load(const struct state_table *table, void *object, const uint8_t *buf, size_t len,
	       struct error *err);
/* 0 if equal, else -1 and err names the first field that differs. */
int state_compare(const struct state_table *table, const void *a, const void *b, struct error *err);
/* Save every registered object, load it back, and save it again: 0 if the two images are equal (tests). */
int vm_state_round_trip(struct vm *vm, struct error *err);

#endif
