/* SPDX-License-Identifier: MIT */
/* --bt: switching off optimisations one by one, so that a wrong result can be bisected. See docs/debugging.md. */
#include "engine/bt/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SIZE_MIN (1u << 20)

static const struct {
	const char *name;
	size_t offset;
} switches[] = {
	{ "no-chain", offsetof(struct bt_options, no_chain) },
	{ "no-groups", offsetof(struct bt_options, no_groups) },
	{ "no-inline-system", offsetof(struct bt_options, no_inline_system) },
	{ "no-jump-cache", offsetof(struct bt_options, no_jump_cache) },
	{ "no-dead-flags", offsetof(struct bt_options, no_dead_flags) },
	{ "no-tlb", offsetof(struct bt_options, no_tlb) },
	{ "no-spaces", offsetof(struct bt_options, no_spaces) },
};

static bool parse_switch(struct bt_options *options, const char *word)
{
	for (unsigned i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
		if (strcmp(word, switches[i].name) == 0) {
			*((bool *)((char *)options + switches[i].offset)) = true;
			return true;
		}
	return false;
}

/* SIZE with K or M, as a number of bytes the cache may have; 0 if it is none such. */
static uint32_t parse_cache_size(const char *text)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || n > BT_CACHE_SIZE)
		return 0;
	if (*end == 'K' || *end == 'k')
		n <<= 10, end++;
	else if (*end == 'M' || *end == 'm')
		n <<= 20, end++;
	return *end || n < CACHE_SIZE_MIN || n > BT_CACHE_SIZE ? 0 : (uint32_t)n & ~0xffffu;
}

static int parse_word(struct bt_options *options, const char *word, struct error *err)
{
	char *end;
	unsigned long n;

	if (parse_switch(options, word))
		return 0;
	if (strcmp(word, "one-insn") == 0) {
		options->max_instructions = 1;
		return 0;
	}
	if (strncmp(word, "max-insns=", 10) == 0) {
		n = strtoul(word + 10, &end, 10);
		if (word[10] < '0' || word[10] > '9' || *end || n < 1 || n > 1000)
			return error_set(err, 0, "--bt '%s': give a number from 1 to 1000", word);
		options->max_instructions = (unsigned)n;
		return 0;
	}
	if (strncmp(word, "small-cache=", 12) == 0) {
		options->cache_size = parse_cache_size(word + 12);
		return options->cache_size ?
			       0 :
			       error_set(err, 0, "--bt '%s': give a size from 1M to %uM", word,
					 BT_CACHE_SIZE >> 20);
	}
	return error_set(
		err, 0,
		"--bt: no option '%.40s'; there are no-chain, no-groups, no-inline-system, no-jump-cache, "
		"no-dead-flags, no-tlb, no-spaces, one-insn, max-insns=N, small-cache=SIZE",
		word);
}

int bt_options_parse(struct bt_options *options, const char *list, struct error *err)
{
	*options = (struct bt_options){ 0 };
	while (list && *list) {
		char word[64];
		size_t n = strcspn(list, ",");

		if (n >= sizeof(word))
			return error_set(err, 0, "--bt: no option '%.40s...'", list);
		memcpy(word, list, n);
		word[n] = '\0';
		if (parse_word(options, word, err))
			return -1;
		list += n + (list[n] == ',');
	}
	return 0;
}
