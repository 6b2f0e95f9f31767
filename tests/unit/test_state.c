/* SPDX-License-Identifier: MIT */
/* Saved state: the serializer over its tables, versions, and damaged images. */
#include "vm_machine.h"

struct inner {
	uint16_t a;
	uint8_t b[3];
};

struct outer {
	uint8_t small;
	bool flag;
	uint32_t words[4];
	uint64_t big;
	struct inner one, many[3];
	uint8_t raw[10];
	struct vm_timer timer;
	uint32_t later;
	uint32_t not_saved;
	unsigned saves, loads;
};

static const struct state_field inner_fields[] = {
	STATE_FIELD(struct inner, a), STATE_ARRAY(struct inner, b), STATE_END,
};

static const struct state_field outer_fields[] = {
	STATE_FIELD(struct outer, small), STATE_FIELD(struct outer, flag), STATE_ARRAY(struct outer, words),
	STATE_FIELD(struct outer, big), STATE_SUBSTRUCT(struct outer, one, inner_fields),
	STATE_STRUCTS(struct outer, many, inner_fields), STATE_BUFFER(struct outer, raw),
	STATE_TIMER_FIELD(struct outer, timer),
	{ .name = "later", .kind = STATE_UINT, .offset = offsetof(struct outer, later), .size = 4, .count = 1, .since = 2 },
	STATE_END,
};

/* The table as its first version was. */
static const struct state_field old_fields[] = {
	STATE_FIELD(struct outer, small), STATE_FIELD(struct outer, flag), STATE_ARRAY(struct outer, words),
	STATE_FIELD(struct outer, big), STATE_SUBSTRUCT(struct outer, one, inner_fields),
	STATE_STRUCTS(struct outer, many, inner_fields), STATE_BUFFER(struct outer, raw),
	STATE_TIMER_FIELD(struct outer, timer), STATE_END,
};

static void count_save(void *object)
{
	((struct outer *)object)->saves++;
}

static int check_load(void *object, struct error *err)
{
	struct outer *o = object;

	o->loads++;
	return o->small == 99 ? error_set(err, 0, "99 is not allowed") : 0;
}

static const struct state_table table = {
	.name = "outer", .version = 2, .fields = outer_fields, .before_save = count_save, .after_load = check_load,
};
static const struct state_table old_table = { .name = "outer", .version = 1, .fields = old_fields };

static void never(void *opaque)
{
	(void)opaque;
}

static void fill(struct outer *o, struct vm *vm, uint8_t seed)
{
	memset(o, 0, sizeof(*o));
	o->small = seed;
	o->flag = true;
	for (unsigned i = 0; i < 4; i++)
		o->words[i] = 0x01010101u * seed + i;
	o->big = 0x123456789abcdef0ull + seed;
	o->one = (struct inner){ seed, { 1, 2, seed } };
	for (unsigned i = 0; i < 3; i++)
		o->many[i] = (struct inner){ (uint16_t)(seed * i), { seed, 5, 6 } };
	memset(o->raw, seed ^ 0x5a, sizeof(o->raw));
	o->later = seed * 3u;
	o->not_saved = seed;
	vm_timer_init(&o->timer, vm, never, o);
	vm_timer_arm(&o->timer, 1000u + seed);
}

static void test_save_load(void **state)
{
	struct vm *vm = test_vm(1);
	struct outer a, b;
	uint8_t image[1024];
	struct error err;
	long len, need;

	(void)state;
	fill(&a, vm, 7);
	fill(&b, vm, 8);
	need = state_save(&table, &a, NULL, 0, &err);
	len = state_save(&table, &a, image, sizeof(image), &err);
	assert_int_equal(len, need);
	assert_int_equal(a.saves, 2);
	assert_int_equal(state_compare(&table, &a, &b, &err), -1);
	assert_int_equal(state_load(&table, &b, image, (size_t)len, &err), 0);
	assert_int_equal(state_compare(&table, &a, &b, &err), 0);
	assert_int_equal(b.loads, 1);
	assert_int_equal(b.timer.deadline, 1007);
	assert_int_equal(b.not_saved, 8);
	assert_int_equal(state_save(&table, &a, image, (size_t)len - 1, &err), -1);
	b.many[2].b[1]++;
	assert_int_equal(state_compare(&table, &a, &b, &err), -1);
	assert_non_null(strstr(err.text, "'b'[1]"));
	vm_destroy(vm);
}

static void test_versions(void **state)
{
	struct vm *vm = test_vm(1);
	struct outer a, b;
	uint8_t image[1024];
	struct error err;
	long len;

	(void)state;
	fill(&a, vm, 7);
	fill(&b, vm, 8);
	len = state_save(&old_table, &a, image, sizeof(image), &err);
	assert_int_equal(state_load(&table, &b, image, (size_t)len, &err), 0); /* old into new: the new field keeps */
	assert_int_equal(b.later, 24);
	assert_int_equal(b.small, 7);
	len = state_save(&table, &a, image, sizeof(image), &err);
	assert_int_equal(state_load(&old_table, &b, image, (size_t)len, &err), -1);
	assert_non_null(strstr(err.text, "version 2"));
	vm_destroy(vm);
}

static void test_damage(void **state)
{
	struct vm *vm = test_vm(1);
	struct outer a, b;
	uint8_t image[1024], bad[1024];
	struct error err;
	long len;

	(void)state;
	fill(&a, vm, 7);
	fill(&b, vm, 8);
	len = state_save(&table, &a, image, sizeof(image), &err);
	for (long cut = 0; cut < len; cut++)
		assert_int_equal(state_load(&table, &b, image, (size_t)cut, &err), -1);
	image[len] = 0;
	assert_int_equal(state_load(&table, &b, image, (size_t)len + 1, &err), -1);
	a.small = 99;
	len = state_save(&table, &a, image, sizeof(image), &err);
	assert_int_equal(state_load(&table, &b, image, (size_t)len, &err), -1);
	assert_string_equal(err.text, "99 is not allowed");
	/* Any single byte changed: an error or other values, never a crash. */
	for (long i = 0; i < len; i++) {
		for (unsigned v = 1; v < 256; v += 37) {
			memcpy(bad, image, (size_t)len);
			bad[i] ^= (uint8_t)v;
			state_load(&table, &b, bad, (size_t)len, &err);
		}
	}
	vm_destroy(vm);
}

static void test_vm_round_trip(void **state)
{
	struct vm *vm = test_vm(2);
	static struct outer a, b;
	struct error err;

	(void)state;
	fill(&a, vm, 1);
	fill(&b, vm, 2);
	vm_state_register(vm, &table, 0, &a);
	vm_state_register(vm, &table, 1, &b);
	check_round_trip(vm);
	a.small = 99;
	assert_int_equal(vm_state_round_trip(vm, &err), -1);
	assert_non_null(strstr(err.text, "'outer' instance 0"));
	vm_timer_cancel(&a.timer);
	vm_timer_cancel(&b.timer);
	vm_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_save_load),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_vm_round_trip),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
