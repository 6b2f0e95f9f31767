/* SPDX-License-Identifier: MIT */
/*
 * Worker threads for storage work that may block.
 *
 * One queue, first in first out, under one lock. Idle threads wait on a condition variable and
 * stay, since starting a thread costs more than keeping one. Workers block all signals: those
 * belong to the vCPU threads and to main.
 */
#include "block/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "base/util.h"

#define THREAD_LIMIT 16

struct block_pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct block_job *head, **tail;
	unsigned thread_max, thread_count, idle;
	bool ending;
	pthread_t threads[THREAD_LIMIT];
};

static void *worker(void *opaque)
{
	struct block_pool *pool = opaque;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct block_job *job = pool->head;

		if (job) {
			pool->head = job->next;
			if (!pool->head)
				pool->tail = &pool->head;
			pthread_mutex_unlock(&pool->lock);
			job->run(job);
			pthread_mutex_lock(&pool->lock);
			continue;
		}
		if (pool->ending)
			break;
		pool->idle++;
		pthread_cond_wait(&pool->wake, &pool->lock);
		pool->idle--;
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Under the lock. */
static void start_thread(struct block_pool *pool)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&pool->threads[pool->thread_count], NULL, worker, pool) == 0)
		pool->thread_count++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct block_pool *block_pool_create(unsigned thread_max, struct error *err)
{
	struct block_pool *pool = calloc(1, sizeof(*pool));

	if (!pool) {
		error_set(err, 0, "cannot create storage workers: out of memory");
		return NULL;
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	pool->tail = &pool->head;
	pool->thread_max = MIN(MAX(thread_max, 1u), (unsigned)THREAD_LIMIT);
	start_thread(pool); /* the first, so that jobs always have someone */
	if (!pool->thread_count) {
		block_pool_destroy(pool);
		error_set(err, 0, "cannot create storage workers: no thread can be started");
		return NULL;
	}
	return pool;
}

void block_pool_submit(struct block_pool *pool, struct block_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&pool->lock);
	*pool->tail = job;
	pool->tail = &job->next;
	if (pool->idle)
		pthread_cond_signal(&pool->wake);
	else if (pool->thread_count < pool->thread_max)
		start_thread(pool);
	pthread_mutex_unlock(&pool->lock);
}

void block_pool_destroy(struct block_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->thread_count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
