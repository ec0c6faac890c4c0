#include "run/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

/* The gate is one word: bit 63 open, bits 32 … 62 the loop's number, bits 0 … 31 the workers inside. A worker enters by adding one
 * while the gate is open; the caller closes it when no chunk is left, and then waits for the workers inside only. Between
 * opening and the last one's leaving, the loop's fields do not change. */
#define OPEN   ((uint64_t)1 << 63)
#define NUMBER ((uint64_t)0x7fffffff << 32)
#define INSIDE ((uint64_t)0xffffffff)
#define ONE    ((uint64_t)1 << 32)
#define SPIN_NS                                                                                              \
    40000 /* a worker looks for the next loop this long before it sleeps: layers follow one another */

struct nw_threads {
    nw_context *ctx;
    size_t workers;
    pthread_t *ids;
    _Atomic uint64_t gate;
    _Atomic size_t next; /* chunk */
    size_t count;
    nw_chunk_fn *fn;
    void *user;
    _Atomic int sleeping;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A loop other than the one numbered `served` is open. */
static bool fresh(const nw_threads *t, uint64_t served) {
    uint64_t gate = atomic_load(&t->gate);
    return (gate & OPEN) && (gate & NUMBER) != served;
}

static void work(nw_threads *t) {
    for (size_t i; (i = atomic_fetch_add(&t->next, 1)) < t->count;) t->fn(t->user, i);
}

static void wait_for_loop(nw_threads *t, uint64_t served) {
    for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;)
        for (int i = 0; i < 32; i++) {
            if (fresh(t, served) || atomic_load(&t->stop)) return;
            relax();
        }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleeping,
                     1); /* before looking again: a caller that opens after this look sees a sleeper */
    while (!fresh(t, served) && !atomic_load(&t->stop)) pthread_cond_wait(&t->wake, &t->lock);
    atomic_fetch_sub(&t->sleeping, 1);
    pthread_mutex_unlock(&t->lock);
}

static void *worker(void *arg) {
    nw_threads *t = arg;
    uint64_t served = 0;
    while (!atomic_load(&t->stop)) {
        uint64_t gate = atomic_load(&t->gate);
        if (!(gate & OPEN) || (gate & NUMBER) == served) {
            wait_for_loop(t, served);
            continue;
        }
        if (!atomic_compare_exchange_weak(&t->gate, &gate, gate + 1)) continue;
        served = gate & NUMBER;
        work(t);
        atomic_fetch_sub(&t->gate, 1);
    }
    return NULL;
}

void nw_threads_run(nw_threads *t, size_t count, nw_chunk_fn *fn, void *user) {
    if (!t || count < 2) {
        for (size_t i = 0; i < count; i++) fn(user, i);
        return;
    }
    t->count = count;
    t->fn = fn;
    t->user = user;
    atomic_store(&t->next, 0);
    uint64_t number = (atomic_load(&t->gate) + ONE) & NUMBER;
    atomic_store(&t->gate, OPEN | (number ? number : ONE)); /* 0 is what a new worker has served */
    if (atomic_load(&t->sleeping)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
    }
    work(t);
    atomic_fetch_and(&t->gate, ~OPEN);
    for (unsigned spins = 0; atomic_load(&t->gate) & INSIDE; spins++) {
        if (spins < 2000)
            relax();
        else
            sched_yield(); /* the worker we wait for may need this processor */
    }
}

nw_status nw_threads_new(nw_context *ctx, size_t count, nw_threads **out) {
    *out = NULL;
    if (count < 2) return NW_OK;
    nw_threads *t = nw_calloc(ctx, 1, sizeof *t);
    pthread_t *ids = nw_calloc(ctx, count, sizeof *ids);
    if (!t || !ids) {
        nw_free(ctx, t);
        nw_free(ctx, ids);
        return NW_E_MEMORY;
    }
    t->ctx = ctx;
    t->ids = ids;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    while (t->workers + 1 < count && pthread_create(&ids[t->workers], NULL, worker, t) == 0) t->workers++;
    if (t->workers == 0)
        nw_threads_free(t);
    else
        *out = t;
    return NW_OK;
}

void nw_threads_free(nw_threads *t) {
    if (!t) return;
    atomic_store(&t->stop, true);
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    for (size_t i = 0; i < t->workers; i++) pthread_join(t->ids[i], NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    nw_free(t->ctx, t->ids);
    nw_free(t->ctx, t);
}

size_t nw_threads_count(const nw_threads *t) {
    return t ? t->workers + 1 : 1;
}
