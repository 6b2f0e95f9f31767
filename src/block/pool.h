/* SPDX-License-Identifier: MIT */
/*
 * Worker threads for storage work that may block. Threads are started when jobs wait and nobody is
 * idle, up to a limit.
 */
#ifndef LODGE_BLOCK_POOL_H
#define LODGE_BLOCK_POOL_H

#include "base/error.h"

struct block_pool;

struct block_job {
	void (*run)(struct block_job *job); /* on a worker thread; may free the job */
	struct block_job *next;
};

/* NULL on failure. */
struct block_pool *block_pool_create(unsigned thread_max, struct error *err);
/* Runs what is queued, then ends the threads. */
void block_pool_destroy(struct block_pool *pool);
/* Queue a job (embedded in the caller's request). Any thread. */
void block_pool_submit(struct block_pool *pool, struct block_job *job);

#endif
