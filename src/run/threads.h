/* threads.h: worker threads for loops that are a few dozen microseconds long, on machines that may be busy. The caller works
 * too, and waits only for workers that have begun a chunk: one that the system has not scheduled costs nothing. (pthreadpool
 * waits for all of its workers at every loop; on a loaded machine that was a time slice per layer, 36 ms for a model of 70 µs.)
 * Private to run/. */
#ifndef NW_RUN_THREADS_H
#define NW_RUN_THREADS_H

#include "base/context.h"

#include <stdbool.h>

typedef struct nw_threads nw_threads;

/* `count` threads in all, the caller's included. Fewer are made when the system refuses; *out is NULL when that leaves one. */
nw_status nw_threads_new(nw_context *ctx, size_t count, nw_threads **out);
void nw_threads_free(nw_threads *threads);          /* NULL is fine */
size_t nw_threads_count(const nw_threads *threads); /* NULL: 1 */
/* Whether a worker is looking for work: it takes part in a loop within a microsecond. One that sleeps costs a call of the
 * system. False for NULL. */
bool nw_threads_awake(const nw_threads *threads);

/* for (i = 0; i < count; i++) fn(user, i);  in any order, on several threads; returns when all are done. One loop at a time.
 * Each thread begins with chunks of its own, the same part of every loop, since what one loop wrote is in its cache when
 * the next one reads it; then it takes what others have left. wake: call for threads that sleep, too. */
typedef void nw_chunk_fn(void *user, size_t i);
void nw_threads_run(nw_threads *threads, bool wake, size_t count, nw_chunk_fn *fn, void *user);

#endif
