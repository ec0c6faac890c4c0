#include "data/pipeline.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define MOST_WORKERS 64

struct nw_pipeline {
    nw_context *ctx;
    nw_pipeline_job job;
    nw_slot *slots; /* [depth]; sample i is in slot i % depth */
    size_t depth;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t room, ready;
    size_t next, popped; /* samples taken by workers; samples used up */
    bool stop;
    int workers;
    pthread_t threads[MOST_WORKERS];
};

static void keep_warning(void *user, const char *line) {
    nw_slot *slot = user;
    strncpy(slot->warning, line, sizeof slot->warning - 1);
}

static void slot_begin(const nw_pipeline *p, nw_context *ctx, nw_slot *slot, size_t i) {
    ctx->message[0] = 0;
    ctx->warn = keep_warning;
    ctx->warn_user = slot;
    slot->warning[0] = 0;
    slot->status = p->job.take ? p->job.take(p->job.user, ctx, i, slot) : NW_OK;
}

static void slot_finish(const nw_pipeline *p, nw_context *ctx, nw_slot *slot, size_t i) {
    if (slot->status == NW_OK) slot->status = p->job.load(p->job.user, ctx, i, slot);
    nw_image_free(ctx, &slot->image);
    if (slot->status != NW_OK) memcpy(slot->message, ctx->message, sizeof slot->message);
}

static void *work(void *user) {
    nw_pipeline *p = user;
    nw_context ctx;
    nw_context_child(&ctx, p->ctx);
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && p->next < p->job.count && p->next - p->popped >= p->depth)
            pthread_cond_wait(&p->room, &p->lock);
        if (p->stop || p->next >= p->job.count) break;
        size_t i = p->next++;
        nw_slot *slot = &p->slots[i % p->depth];
        slot_begin(p, &ctx, slot, i);
        pthread_mutex_unlock(&p->lock);
        slot_finish(p, &ctx, slot, i);
        pthread_mutex_lock(&p->lock);
        slot->done = true;
        if (i == p->popped) pthread_cond_signal(&p->ready);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

nw_status nw_pipeline_new(nw_context *ctx, const nw_pipeline_job *job, int workers, size_t depth,
                          nw_pipeline **out) {
    if (workers > MOST_WORKERS) workers = MOST_WORKERS;
    if (workers <= 0)
        depth = 1;
    else if (depth < (size_t)workers * 2)
        depth = (size_t)workers * 2;
    nw_pipeline *p = nw_calloc(ctx, 1, sizeof *p);
    if (!p) return NW_E_MEMORY;
    p->ctx = ctx;
    p->job = *job;
    p->depth = depth;
    if (!(p->slots = nw_calloc(ctx, depth, sizeof *p->slots))) {
        nw_free(ctx, p);
        return NW_E_MEMORY;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->room, NULL);
    pthread_cond_init(&p->ready, NULL);
    sigset_t all, before; /* the caller's signals are not for these threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* Where a thread cannot start, those that did do the work; without any, peek does. */
    while (p->workers < workers && pthread_create(&p->threads[p->workers], NULL, work, p) == 0) p->workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *out = p;
    return NW_OK;
}

void nw_pipeline_free(nw_pipeline *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->room);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->workers; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ready);
    pthread_cond_destroy(&p->room);
    pthread_mutex_destroy(&p->lock);
    for (size_t i = 0; i < p->depth; i++) nw_free(p->ctx, p->slots[i].data);
    nw_free(p->ctx, p->slots);
    nw_free(p->ctx, p);
}

nw_status nw_pipeline_peek(nw_pipeline *p, nw_slot **slot) {
    nw_slot *s = &p->slots[p->popped % p->depth]; /* only this thread changes popped */
    if (p->workers == 0 && !s->done) {
        nw_context ctx;
        nw_context_child(&ctx, p->ctx);
        slot_begin(p, &ctx, s, p->popped);
        slot_finish(p, &ctx, s, p->popped);
        s->done = true;
    } else if (p->workers > 0) {
        pthread_mutex_lock(&p->lock);
        while (!s->done) pthread_cond_wait(&p->ready, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    if (s->warning[0]) {
        nw_warn(p->ctx, "%s", s->warning);
        s->warning[0] = 0;
    }
    if (s->status != NW_OK) return nw_fail(p->ctx, s->status, "%s", s->message);
    *slot = s;
    return NW_OK;
}

void nw_pipeline_pop(nw_pipeline *p) {
    pthread_mutex_lock(&p->lock);
    p->slots[p->popped % p->depth].done = false;
    p->popped++;
    pthread_cond_signal(&p->room);
    pthread_mutex_unlock(&p->lock);
}
