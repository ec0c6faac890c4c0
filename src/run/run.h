/* run.h: execution. A session owns a simplified graph and makes a plan for the shapes it meets; plans are cached. A plan is
 * immutable and machine-specific; a run is a workspace over it.
 * Must not include anything but base/, num/, kern/, ir/, op/ and run/. */
#ifndef NW_RUN_RUN_H
#define NW_RUN_RUN_H

#include "ir/graph.h"
#include "kern/isa.h"

typedef struct nw_session nw_session;

typedef struct nw_run_options {
    int threads;    /* 0: one per core */
    nw_isa isa;     /* ceiling */
    bool reference; /* every step by eval, in float: slow and obviously right */
} nw_run_options;

/* A named tensor at the border of a graph. */
typedef struct nw_feed {
    const char *name;
    nw_tensor tensor;
} nw_feed;

/* Prepares to run `graph` (copied; the constants' bytes are shared). options NULL: defaults. */
nw_status nw_session_new(nw_context *ctx, const nw_graph *graph, const nw_run_options *options,
                         nw_session **out);
void nw_session_free(nw_session *session);

/* Runs once. feeds name every input that has no default (order free). outputs[i] is graph output i in `arena`, in the
 * format the model declares; without an arena in the memory that outputs[i] has from an earlier run with these shapes. Plans on
 * the first run with these shapes; later ones take no memory but late tensors'. */
nw_status nw_session_run(nw_session *session, size_t feed_count, const nw_feed *feeds, nw_arena *arena,
                         nw_tensor *outputs);

/* Called for every tapped value as it is computed. last: the dims and elements are channels-last, [N,…,C] for [N,C,…]. */
typedef void nw_tap_fn(void *user, int value, const nw_tensor *tensor, bool last);
/* Values (ids in the graph given to nw_session_new) to be shown to `tap` in every run, as real numbers in ONNX's layout, or
 * with any_layout as they are stored, which costs nothing. A tapped value is always computed as the graph says (no fusion
 * across it). Ends cached plans. */
nw_status nw_session_set_taps(nw_session *session, size_t count, const int *values, bool any_layout,
                              nw_tap_fn *tap, void *user);
/* for (i = 0; i < count; i++) fn(user, i);  in any order, on the session's threads. For taps. */
void nw_session_parallel(nw_session *session, size_t count, void (*fn)(void *user, size_t i), void *user);

/* The plan of the latest run in words, a line per step: kernel, layout, shapes, reason. To `print`, line by line. */
void nw_session_explain(const nw_session *session, void (*print)(void *user, const char *line), void *user);

/* What the products of a step come to: one multiply-add is two operations. */
typedef struct nw_work {
    double float_ops, integer_ops;
} nw_work;

/* Step i of the latest plan; false behind the last one. Texts live as long as the plan. */
typedef struct nw_step_info {
    const char *op, *name, *kernel; /* op "" is a conversion between forms */
    const char *reason;             /* why not something faster, or "" */
    int value; /* it makes, id in the graph given to nw_session_new; NW_ABSENT: none of the graph's */
    nw_work work;
    nw_tensor output; /* physical format and shape, without data; format NW_NONE: known only when it runs */
    double milliseconds; /* of the latest run; 0 unless profiling */
} nw_step_info;
bool nw_session_step(const nw_session *session, int i, nw_step_info *info);
/* Whether runs measure the time of each step. */
void nw_session_set_profile(nw_session *session, bool on);

/* Bytes of the latest plan: workspace (activations) and constants (packed weights and others). */
typedef struct nw_memory_use {
    size_t workspace, weights;
} nw_memory_use;
nw_memory_use nw_session_memory(const nw_session *session);

#endif
