/* SPDX-License-Identifier: MIT */
/*
 * --perf-map: a symbol for each translation in /tmp/perf-PID.map, where perf(1) looks for the symbols of code that a
 * program made itself (Linux, tools/perf/Documentation/jit-interface.txt): lines of "START SIZE name", in hexadecimal.
 *
 * Lines are only added. After a flush of the code cache the same addresses get new names, and perf takes either; the
 * cache is large enough that a measurement rarely meets one.
 */
#include "engine/bt/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct bt_perf_map {
	FILE *out;
};

int bt_perf_map_open(struct bt_vm *bt, struct error *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	/* /tmp is everybody's: what lies there already is not followed. */
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot create '%s'", path);
	bt->perf_map = calloc(1, sizeof(*bt->perf_map));
	if (bt->perf_map)
		bt->perf_map->out = fdopen(fd, "w");
	if (!bt->perf_map || !bt->perf_map->out) {
		close(fd);
		free(bt->perf_map);
		bt->perf_map = NULL;
		return error_set_errno(err, ENOMEM, "cannot write '%s'", path);
	}
	return 0;
}

void bt_perf_map_close(struct bt_vm *bt)
{
	if (!bt->perf_map)
		return;
	fclose(bt->perf_map->out);
	free(bt->perf_map);
	bt->perf_map = NULL;
}

static const char *privilege(uint32_t mode)
{
	if (mode & BT_MODE_V86_REAL || (mode & BT_MODE_CODE) == X86_CODE16)
		return "16-bit";
	return (mode & BT_MODE_CLASS) >> BT_MODE_CLASS_SHIFT == BT_CLASS_U ? "user" : "kernel";
}

void bt_perf_map_block(struct bt_vm *bt, const struct bt_block *block, uint64_t page,
		       const struct bt_cache *before)
{
	const struct bt_cache *cache = &bt->cache;
	const char *who = privilege(block->mode);
	unsigned long long linear = page | (block->gpa & PAGE_MASK),
			   rx = (unsigned long long)cache->rx;

	fprintf(bt->perf_map->out, "%llx %x guest-%s:%llx\n", rx + block->hot_start,
		block->hot_end - block->hot_start, who, linear);
	if (cache->cold > before->cold)
		fprintf(bt->perf_map->out, "%llx %x guest-%s:%llx (slow paths)\n",
			rx + before->cold, cache->cold - before->cold, who, linear);
}
