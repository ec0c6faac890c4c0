/* pipeline.h: prepares samples ahead on threads and hands them out in order. The serial loop it replaces:
 *     for (i = 0; i < count; i++) { job.load(job.user, ctx, i, &slot); use(&slot); }
 * Must not include anything but base/ and data/. */
#ifndef NW_DATA_PIPELINE_H
#define NW_DATA_PIPELINE_H

#include "data/image.h"

/* One prepared sample. */
typedef struct nw_slot {
    int64_t dims[3];
    float *data;     /* [prod dims] */
    size_t capacity; /* floats allocated; grown by load with its context */
    nw_image image;  /* what `take` gave; load frees it */
    /* private */
    bool done;
    nw_status status;
    char message[1024], warning[256];
} nw_slot;

typedef struct nw_pipeline_job {
    size_t count;
    /* Optional: fills slot->image. Called in rising order, never twice at a time, before load. */
    nw_status (*take)(void *user, nw_context *ctx, size_t i, nw_slot *slot);
    /* Fills dims and data. Called on any thread, several at a time. */
    nw_status (*load)(void *user, nw_context *ctx, size_t i, nw_slot *slot);
    void *user;
} nw_pipeline_job;

typedef struct nw_pipeline nw_pipeline;

/* Starts at sample 0 with `workers` threads (0: everything runs in nw_pipeline_peek), at most `depth` samples
 * ahead. */
nw_status nw_pipeline_new(nw_context *ctx, const nw_pipeline_job *job, int workers, size_t depth,
                          nw_pipeline **out);
void nw_pipeline_free(nw_pipeline *p); /* stops the threads; NULL is fine */

/* Waits for the next sample; it stays until nw_pipeline_pop. Fails as its take or load did; warnings are
 * passed on. Must not be called once `count` samples were popped. */
nw_status nw_pipeline_peek(nw_pipeline *p, nw_slot **slot);
void nw_pipeline_pop(nw_pipeline *p);

#endif
