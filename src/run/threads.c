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
/* A worker looks for the next loop this long before it sleeps: layers follow one another. */
#define SPIN_NS 100000

/* Chunks [next, end) are for one thread, and for others once they have done theirs. A cache line of its own. */
typedef struct share {
    _Alignas(NW_ALIGN) _Atomic size_t next;
    size_t end;
} share;

typedef struct worker {
    nw_threads *threads;
    size_t index; /* of its share; 0 is the caller's */
    pthread_t id;
} worker;

struct nw_threads {
    nw_context *ctx;
    size_t workers;
    worker *worker;
    share *shares; /* [workers + 1] */
    _Atomic uint64_t gate;
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

static void work(nw_threads *t, size_t self) {
    const size_t shares = t->workers + 1;
    for (size_t s = 0; s < shares; s++) {
        share *from = &t->shares[(self + s) % shares];
        for (size_t i; (i = atomic_fetch_add(&from->next, 1)) < from->end;) t->fn(t->user, i);
    }
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

static void *serve(void *arg) {
    const worker *w = arg;
    nw_threads *t = w->threads;
    uint64_t served = 0;
    while (!atomic_load(&t->stop)) {
        uint64_t gate = atomic_load(&t->gate);
        if (!(gate & OPEN) || (gate & NUMBER) == served) {
            wait_for_loop(t, served);
            continue;
        }
        if (!atomic_compare_exchange_weak(&t->gate, &gate, gate + 1)) continue;
        served = gate & NUMBER;
        work(t, w->index);
        atomic_fetch_sub(&t->gate, 1);
    }
    return NULL;
}

bool nw_threads_awake(const nw_threads *t) {
    return t && (size_t)atomic_load_explicit(&t->sleeping, memory_order_relaxed) < t->workers;
}

void nw_threads_run(nw_threads *t, bool wake, size_t count, nw_chunk_fn *fn, void *user) {
    if (!t || count < 2) {
        for (size_t i = 0; i < count; i++) fn(user, i);
        return;
    }
    const size_t shares = t->workers + 1;
    for (size_t s = 0; s < shares; s++) {
        t->shares[s].end = count * (s + 1) / shares;
        atomic_store(&t->shares[s].next, count * s / shares);
    }
    t->fn = fn;
    t->user = user;
    uint64_t number = (atomic_load(&t->gate) + ONE) & NUMBER;
    atomic_store(&t->gate, OPEN | (number ? number : ONE)); /* 0 is what a new worker has served */
    if (wake && atomic_load(&t->sleeping)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
    }
    work(t, 0);
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
    worker *workers = nw_calloc(ctx, count, sizeof *workers);
    share *shares = nw_calloc(ctx, count, sizeof *shares);
    if (!t || !workers || !shares) {
        nw_free(ctx, t);
        nw_free(ctx, workers);
        nw_free(ctx, shares);
        return NW_E_MEMORY;
    }
    t->ctx = ctx;
    t->worker = workers;
    t->shares = shares;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    for (size_t i = 1; i < count; i++) {
        workers[i - 1] = (worker){t, i, 0};
        if (pthread_create(&workers[i - 1].id, NULL, serve, &workers[i - 1]) != 0) break;
        t->workers++;
    }
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
    for (size_t i = 0; i < t->workers; i++) pthread_join(t->worker[i].id, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    nw_free(t->ctx, t->worker);
    nw_free(t->ctx, t->shares);
    nw_free(t->ctx, t);
}

size_t nw_threads_count(const nw_threads *t) {
    return t ? t->workers + 1 : 1;
}
