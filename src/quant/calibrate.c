/* calibrate.c: watching the float model on data. */
#include "quant/calibrate.h"

#include "kern/stats.h"
#include "quant/weights.h"
#include "run/run.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Batches are sized by the bytes of their inputs: activations are a small multiple of them. */
#define BATCH_BYTES ((size_t)4 << 20)
#define BATCH_MOST  32

/* ---- observing -------------------------------------------------------------------------------- */

/* A tensor is observed in parts, so that all cores can. How many depends on its size only, and they are put
 * together in order: results do not depend on the number of threads. */
#define PART_LEAST ((size_t)3 << 14) /* elements: fewer are not worth a thread and a histogram of their own */
#define PARTS_MOST 8

typedef struct watch {
    nw_quant_plan *plan;
    nw_calibration *seen;
    nw_session *session;
    nw_arena *arena;
    nw_stats stats;
    nw_observer parts[PARTS_MOST];
    double *sums[PARTS_MOST]; /* [sum_capacity] of channels, zero between taps */
    size_t sum_capacity;
    nw_status status; /* of a tap */
} watch;

/* The tensor being shown, as `count` lines of `width` elements. */
typedef struct view {
    watch *w;
    const float *x;
    size_t count, width;
    size_t channels; /* 0: their means are not wanted */
    bool across;     /* a line has one element of each channel; else line i belongs to channel i % channels */
    bool observed;
    size_t parts;
} view;

/* Of points that share a grid the root decides; grids found while running need nobody's. */
static bool is_decided(const nw_quant_point *point) {
    return point->root == point->value && point->choice->mode == NW_QUANT_STATIC;
}

static bool needs_data(const nw_quant_point *point) {
    if (!is_decided(point) || nw_quant_is_float(point->choice)) return false;
    return nw_quant_is_binary(point->choice) ||
           (!point->known && point->choice->observer.kind != NW_OBSERVER_ABSOLUTE);
}

static double sum_of(const float *x, size_t count) {
    double part[4] = {0};
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (int l = 0; l < 4; l++) part[l] += (double)x[i + (size_t)l];
    for (; i < count; i++) part[0] += (double)x[i];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

static void look_at_part(void *user, size_t i) {
    const view *v = user;
    size_t begin = v->count * i / v->parts, end = v->count * (i + 1) / v->parts;
    const float *x = v->x + begin * v->width;
    if (v->observed) nw_observe(&v->w->parts[i], x, (end - begin) * v->width);
    if (!v->channels) return;
    double *sums = v->w->sums[i];
    if (v->across)
        v->w->stats.column_sums_f32(end - begin, v->width, x, sums);
    else
        for (size_t line = begin; line < end; line++, x += v->width)
            sums[line % v->channels] += sum_of(x, v->width);
}

/* Room for the sums of channels: a point's running means, and the parts' sums. */
static nw_status reserve_sums(watch *w, nw_quant_point *p, size_t channels) {
    if (!p->means) {
        if (!(p->means = nw_arena_array(&w->plan->arena, channels, sizeof *p->means))) return NW_E_MEMORY;
        if (p->features && !(p->squares = nw_arena_array(&w->plan->arena, channels, sizeof *p->squares)))
            return NW_E_MEMORY;
        p->channels = channels;
    }
    if (channels <= w->sum_capacity) return NW_OK;
    for (int i = 0; i < PARTS_MOST; i++)
        if (!(w->sums[i] = nw_arena_array(w->arena, channels, sizeof **w->sums))) return NW_E_MEMORY;
    w->sum_capacity = channels;
    return NW_OK;
}

/* Running means per channel. */
static void take_means(nw_quant_point *p, const view *v) {
    size_t rows = v->count * v->width / v->channels;
    double share = 1 / (double)(p->rows + rows);
    for (size_t c = 0; c < v->channels; c++) {
        double sum = 0;
        for (size_t i = 0; i < v->parts; i++) {
            sum += v->w->sums[i][c];
            v->w->sums[i][c] = 0;
        }
        p->means[c] += (sum - p->means[c] * (double)rows) * share;
    }
    p->rows += rows;
}

static void add_squares(nw_quant_point *p, const view *v) {
    size_t each = v->across ? 1 : v->width, total = v->count * v->width;
    for (size_t i = 0; i < total; i++)
        p->squares[i / each % v->channels] += (double)v->x[i] * (double)v->x[i];
}

static nw_status view_of(watch *w, nw_quant_point *p, const nw_tensor *t, bool last, view *v) {
    size_t total = nw_tensor_count(t);
    *v = (view){.w = w, .x = t->data, .count = total, .width = 1, .observed = needs_data(p)};
    int axis = p->channel_axis < 0 ? t->rank - 1 : p->channel_axis;
    if (last) axis = p->channel_axis < 0 ? t->rank - 2 : t->rank - 1;
    if (p->channel_axis && axis >= 0 && axis < t->rank && total) {
        size_t channels = (size_t)t->dims[axis], inner = nw_dims_product(t->dims, axis + 1, t->rank);
        NW_TRY(reserve_sums(w, p, channels));
        if (channels == p->channels) {
            v->channels = channels;
            v->across = inner == 1;
            v->width = v->across ? channels : inner;
            v->count = total / v->width;
        }
    }
    size_t parts = total / PART_LEAST;
    parts = parts < v->count ? parts : v->count;
    v->parts = parts < 1 ? 1 : parts < PARTS_MOST ? parts : PARTS_MOST;
    return NW_OK;
}

static void tap(void *user, int value, const nw_tensor *t, bool last) {
    watch *w = user;
    nw_quant_point *point = nw_quant_point_of(w->plan, value);
    if (!point || !t->data || t->format != NW_F32 || w->status != NW_OK) return;
    view v;
    w->status = view_of(w, point, t, last, &v);
    if (w->status != NW_OK) return;
    nw_observer *whole = &w->seen->observers[point - w->plan->points];
    if (v.observed) nw_observer_split(whole, w->parts, v.parts);
    nw_session_parallel(w->session, v.parts, look_at_part, &v);
    if (v.observed) nw_observer_join(whole, w->parts, v.parts);
    if (v.channels) take_means(point, &v);
    if (v.channels && point->squares) add_squares(point, &v);
}

/* ---- feeding ---------------------------------------------------------------------------------- */

/* How a data set's inputs go into the model. */
typedef struct feeder {
    nw_context *ctx;
    const nw_graph *graph;
    nw_dataset *dataset;
    size_t count;    /* of inputs */
    int *input;      /* [count] value ids of the model */
    bool *unbatched; /* [count] the model's input has no batch dimension */
    size_t batch;    /* samples per run */
    bool fixed;      /* the model takes no other number */
} feeder;

static int only_input(const nw_graph *g) {
    int only = NW_ABSENT;
    for (int i = 0; i < g->input_count; i++) {
        if (g->values[g->inputs[i]].constant) continue;
        if (only != NW_ABSENT) return NW_ABSENT;
        only = g->inputs[i];
    }
    return only;
}

static int input_named(const nw_graph *g, const char *name) {
    for (int i = 0; i < g->input_count; i++)
        if (strcmp(g->values[g->inputs[i]].name, name) == 0) return g->inputs[i];
    return NW_ABSENT;
}

/* The model's input for input i of the data set: of the same name, or the only one there is. */
static nw_status find_input(feeder *f, size_t i) {
    const nw_dataset_input *in = nw_dataset_input_at(f->dataset, i);
    int id = in->name ? input_named(f->graph, in->name) : NW_ABSENT;
    if (id < 0 && f->count == 1) id = only_input(f->graph);
    if (id < 0)
        return nw_fail(
            f->ctx, NW_E_DATA,
            in->name
                ? "the model has no input \"%s\", which the calibration data offers"
                : "the model has several inputs: calibration data must name them (an .npz with one array "
                  "per input)%s",
            in->name ? in->name : "");
    f->input[i] = id;
    return NW_OK;
}

static nw_status plan_feeding(feeder *f, nw_arena *arena, size_t wanted) {
    f->count = nw_dataset_input_count(f->dataset);
    f->input = nw_arena_array(arena, f->count, sizeof *f->input);
    f->unbatched = nw_arena_array(arena, f->count, sizeof *f->unbatched);
    if (!f->input || !f->unbatched) return NW_E_MEMORY;
    size_t bytes = 1;
    for (size_t i = 0; i < f->count; i++) {
        NW_TRY(find_input(f, i));
        const nw_dataset_input *in = nw_dataset_input_at(f->dataset, i);
        const nw_value *v = &f->graph->values[f->input[i]];
        if (v->format != NW_NONE && !nw_format_converts(in->format, v->format))
            return nw_fail(f->ctx, NW_E_DATA, "input \"%s\" wants %s, but the data set gives %s", v->name,
                           nw_format_name(v->format), nw_format_name(in->format));
        f->unbatched[i] = v->rank == in->rank;
        size_t fixed = f->unbatched[i] ? 1 : v->rank > 0 && v->dims[0] > 0 ? (size_t)v->dims[0] : 0;
        if (fixed && f->fixed && f->batch != fixed)
            return nw_fail(f->ctx, NW_E_DATA,
                           "the model's inputs take different numbers of samples at a time (%zu and %zu)",
                           f->batch, fixed);
        if (fixed) {
            f->batch = fixed;
            f->fixed = true;
        }
        size_t elements = 1;
        for (int d = 0; d < in->rank; d++)
            if (in->dims[d] > 0 && !nw_mul_size(elements, (size_t)in->dims[d], &elements))
                elements = BATCH_BYTES;
        bytes += elements < BATCH_BYTES / 4 ? elements * 4 : BATCH_BYTES;
    }
    if (f->fixed) return NW_OK;
    f->batch = wanted ? wanted : BATCH_BYTES / bytes;
    if (!wanted && f->batch > BATCH_MOST) f->batch = BATCH_MOST;
    if (f->batch == 0) f->batch = 1;
    return NW_OK;
}

/* The batch's tensor in the type the model declares. */
static nw_status convert(nw_arena *arena, nw_format format, nw_tensor *t) {
    if (format == NW_NONE || format == t->format) return NW_OK;
    nw_tensor to = *t;
    to.format = format;
    NW_TRY(nw_tensor_alloc(arena, &to));
    size_t count = nw_tensor_count(t);
    bool whole = nw_format_is_integer(format) && nw_format_is_integer(t->format);
    for (size_t i = 0; i < count; i++) {
        if (whole)
            nw_store_s64(format, to.data, i, nw_load_s64(t->format, t->data, i));
        else
            nw_store_f64(format, to.data, i, nw_load_f64(t->format, t->data, i));
    }
    *t = to;
    return NW_OK;
}

static nw_status run_batch(const feeder *f, nw_session *session, const nw_batch *batch, nw_arena *arena) {
    nw_feed *feeds = nw_arena_array(arena, f->count, sizeof *feeds);
    nw_tensor *outputs = nw_arena_array(arena, (size_t)f->graph->output_count, sizeof *outputs);
    if (!feeds || !outputs) return NW_E_MEMORY;
    for (size_t i = 0; i < f->count; i++) {
        const nw_value *v = &f->graph->values[f->input[i]];
        feeds[i] = (nw_feed){v->name, batch->inputs[i]};
        nw_tensor *t = &feeds[i].tensor;
        if (f->unbatched[i] && t->rank > 0) nw_tensor_set_shape(t, t->rank - 1, batch->inputs[i].dims + 1);
        NW_TRY(convert(arena, v->format, t));
    }
    return nw_session_run(session, f->count, feeds, arena, outputs);
}

static nw_status stream(feeder *f, nw_session *session, nw_calibration *seen, const nw_quant_options *o) {
    size_t total = nw_dataset_count(f->dataset), dropped = 0;
    nw_arena arena;
    nw_arena_init(&arena, f->ctx);
    nw_status status = NW_OK;
    for (nw_batch batch; status == NW_OK; nw_arena_reset(&arena)) {
        NW_TRY_GOTO(status, nw_dataset_next(f->dataset, f->batch, &batch), out);
        if (batch.count == 0) break;
        if (f->fixed && batch.count != f->batch) {
            dropped += batch.count;
            continue;
        }
        status = run_batch(f, session, &batch, &arena);
        seen->samples += batch.count;
        if (status == NW_OK && o->progress) o->progress(o->progress_user, seen->samples, total);
    }
    if (status == NW_OK && dropped)
        nw_warn(f->ctx, "calibration left out %zu samples: the model takes %zu at a time", dropped, f->batch);
    if (status == NW_OK && seen->samples == 0)
        status =
            nw_fail(f->ctx, NW_E_DATA, "no calibration samples%s", dropped ? " that fill a whole batch" : "");
out:
    nw_arena_free(&arena);
    return status;
}

static nw_status watch_run(watch *w, feeder *f, const int *taps, size_t count) {
    const nw_quant_options *o = &w->plan->options;
    nw_run_options run = {.threads = o->threads, .isa = o->isa};
    NW_TRY(nw_session_new(f->ctx, w->plan->graph, &run, &w->session));
    nw_status status = nw_session_set_taps(w->session, count, taps, true, tap, w);
    if (status == NW_OK) status = stream(f, w->session, w->seen, o);
    if (status == NW_OK) status = w->status;
    nw_session_free(w->session);
    return status;
}

static nw_status watch_model(nw_context *ctx, nw_quant_plan *plan, nw_dataset *dataset, const int *taps,
                             size_t count, nw_arena *arena, nw_calibration *seen) {
    feeder f = {.ctx = ctx, .graph = plan->graph, .dataset = dataset};
    NW_TRY(plan_feeding(&f, arena, plan->options.batch));
    seen->batch = f.batch;
    watch *w = nw_arena_alloc(arena, sizeof *w);
    if (!w) return NW_E_MEMORY;
    *w = (watch){.plan = plan, .seen = seen, .arena = arena};
    nw_stats_select(plan->options.isa, &w->stats);
    nw_status status = NW_OK;
    nw_observer_options any = nw_observer_options_default(); /* parts have room for what any kind wants */
    any.kind = NW_OBSERVER_PERCENTILE;
    for (int i = 0; i < PARTS_MOST && status == NW_OK; i++)
        status = nw_observer_init(ctx, &w->parts[i], &any);
    if (status == NW_OK) status = watch_run(w, &f, taps, count);
    for (int i = 0; i < PARTS_MOST; i++) nw_observer_free(&w->parts[i]);
    return status == NW_OK ? NW_OK : nw_fail_where(ctx, status, "calibration");
}

/* ---- scales ----------------------------------------------------------------------------------- */

/* Weights are examined when they are packed; where nothing finite comes out of the model, they are the likeliest cause. */
static nw_status check_weights(const nw_quant_plan *plan) {
    const nw_graph *g = plan->graph;
    for (int v = 0; v < g->value_count; v++) {
        nw_tensor t = {0};
        if (!nw_quant_is_weight(g, v)) continue;
        nw_arena scratch;
        nw_arena_init(&scratch, plan->arena.ctx);
        nw_status status = nw_tensor_to_f32(&scratch, &nw_graph_constant(g, v)->tensor, &t);
        if (status == NW_OK)
            status = nw_weight_check(plan->arena.ctx, g->values[v].name, t.data, nw_tensor_count(&t));
        nw_arena_free(&scratch);
        NW_TRY(status);
    }
    return NW_OK;
}

static nw_status check_seen(const nw_quant_plan *plan, const nw_quant_point *point, const nw_observer *seen) {
    if (!needs_data(point) || seen->count) return NW_OK;
    if (seen->rejected) NW_TRY(check_weights(plan));
    return nw_fail(plan->arena.ctx, NW_E_DATA, "calibration saw no finite value of \"%s\"%s",
                   plan->graph->values[point->value].name, seen->rejected ? ": all are NaN or infinite" : "");
}

/* One warning: what is computed from such values is no better. */
static void warn_of_rejected(const nw_quant_plan *plan, const nw_calibration *seen) {
    for (int i = 0; i < plan->point_count; i++) {
        if (!is_decided(&plan->points[i]) || !seen->observers[i].rejected) continue;
        nw_warn(
            plan->arena.ctx,
            "calibration: %llu value%s of \"%s\", and what is computed from it, NaN or infinite and left out",
            (unsigned long long)seen->observers[i].rejected, seen->observers[i].rejected > 1 ? "s" : "",
            plan->graph->values[plan->points[i].value].name);
        return;
    }
}

static nw_status set_binary_scale(nw_quant_point *point, const nw_observer *seen) {
    double magnitude;
    NW_TRY(nw_observer_magnitude(seen, &magnitude));
    point->scale = magnitude > FLT_MIN ? (float)magnitude : 1;
    point->format = NW_BINARY_FORMAT;
    return NW_OK;
}

static nw_status set_scale(nw_quant_plan *plan, nw_quant_point *point, const nw_observer *seen) {
    const nw_quant_choice *c = point->choice;
    NW_TRY(check_seen(plan, point, seen));
    point->format = c->activation;
    if (nw_quant_is_float(c)) {
        point->scale = 1;
        return NW_OK;
    }
    if (nw_quant_is_binary(c)) return set_binary_scale(point, seen);
    nw_coding codes = nw_coding_linear(c->activation, c->activation_symmetric, false, false);
    bool positive =
        point->known ? point->lo >= 0 : seen->options.kind != NW_OBSERVER_ABSOLUTE && seen->min >= 0;
    if (codes.shift && positive) { /* unsigned codes without a sign to waste one on */
        codes.grid.qmax += codes.shift;
        codes.grid.qmin = codes.shift = 0;
    }
    if (!point->known) NW_TRY(nw_observer_range(seen, &codes.grid, &point->lo, &point->hi));
    nw_choose_scale(point->lo, point->hi, codes.grid.symmetric, codes.grid.qmin, codes.grid.qmax,
                    &point->scale, &point->zero);
    point->zero += codes.shift;
    point->qmin = codes.grid.qmin + codes.shift;
    point->qmax = codes.grid.qmax + codes.shift;
    return NW_OK;
}

/* Bias correction wants the channel means of what layers with a bias read. */
static void want_means(nw_quant_plan *plan) {
    for (int n = 0; n < plan->node_count; n++) {
        const nw_node *node = &plan->graph->nodes[n];
        int data = nw_quant_input_of(node, NW_ROLE_DATA), bias = nw_quant_input_of(node, NW_ROLE_BIAS);
        if (plan->mode[n] != NW_NODE_INTEGER || data < 0 || bias < 0 || node->domain[0]) continue;
        nw_quant_point *x = nw_quant_point_of(plan, node->in[data]);
        if (x && strcmp(node->op_type, "Conv") == 0) x->channel_axis = 1;
        if (x && strcmp(node->op_type, "Gemm") == 0 && !nw_node_int(node, "transA", 0)) x->channel_axis = -1;
    }
}

/* The value that v is in another type of number (a model's 16-bit input in f32), or v. */
static int uncast(const nw_quant_plan *plan, int v) {
    for (int n = plan->uses.producer[v]; n >= 0 && nw_node_is(&plan->graph->nodes[n], "Cast");
         n = plan->uses.producer[v])
        v = plan->graph->nodes[n].in[0];
    return v;
}

/* The model's input that a value is, itself or moved, or NW_ABSENT. */
static int input_behind(const nw_quant_plan *plan, int v) {
    int maker = plan->uses.producer[v];
    for (; maker >= 0 && plan->mode[maker] == NW_NODE_SAME; maker = plan->uses.producer[v])
        v = plan->graph->nodes[maker].in[0];
    v = uncast(plan, v);
    return plan->uses.producer[v] < 0 ? v : NW_ABSENT;
}

/* Whether recurrent layers can read a model's input on a grid is decided by its features. */
static void want_features(nw_quant_plan *plan) {
    for (int n = 0; n < plan->node_count; n++) {
        const nw_node *node = &plan->graph->nodes[n];
        if (plan->mode[n] != NW_NODE_INTEGER || !nw_quant_has_state(node)) continue;
        nw_quant_point *x = nw_quant_point_of(plan, node->in[0]);
        if (!x || input_behind(plan, x->value) < 0) continue;
        x->features = true;
        x->channel_axis = -1;
    }
}

static nw_status calibrate(nw_context *ctx, nw_quant_plan *plan, nw_dataset *dataset, nw_arena *arena,
                           nw_calibration *seen) {
    int *taps = nw_arena_array(arena, (size_t)plan->point_count, sizeof *taps);
    if (!taps) return NW_E_MEMORY;
    size_t count = 0, needs = 0;
    if (plan->options.bias_correction) want_means(plan);
    if (plan->options.inputs == NW_AUTO) want_features(plan);
    for (int i = 0; i < plan->point_count; i++) {
        nw_observer_options observer = plan->points[i].choice->observer;
        observer.isa = plan->options.isa;
        bool needed = needs_data(&plan->points[i]);
        if (nw_quant_is_binary(plan->points[i].choice))
            observer.kind = NW_OBSERVER_MSE; /* whatever was asked for: this one keeps a histogram */
        bool given = !plan->points[i].known && observer.kind == NW_OBSERVER_ABSOLUTE;
        if (!needed && !given) observer = (nw_observer_options){.kind = NW_OBSERVER_MINMAX};
        NW_TRY(nw_observer_init(ctx, &seen->observers[i], &observer));
        needs += needed;
        if (needed || plan->points[i].channel_axis) taps[count++] = plan->points[i].value;
    }
    if (needs && !dataset)
        return nw_fail(
            ctx, NW_E_ARGUMENT,
            "activations cannot be quantized without calibration data (%zu ranges to measure): give some, or "
            "quantize dynamically or weights only",
            needs);
    if (count && dataset) NW_TRY(watch_model(ctx, plan, dataset, taps, count, arena, seen));
    for (int i = 0; i < plan->point_count; i++)
        if (is_decided(&plan->points[i])) NW_TRY(set_scale(plan, &plan->points[i], &seen->observers[i]));
    warn_of_rejected(plan, seen);
    return NW_OK;
}

/* ---- inputs that fit no grid ------------------------------------------------------------------ */

#define RESOLVED 40.0 /* dB: a normal variable on 256 levels over ±4 standard deviations */

/* The signal to noise ratio on a grid of this scale when every feature counts alike, however small: networks learn them
 * alike, and the ratio of the whole tensor does not show what becomes of the small ones. Constant features do not count. */
static double features_sqnr(const nw_quant_point *p, float scale) {
    double ratios = 0;
    size_t count = 0;
    for (size_t c = 0; c < p->channels; c++) {
        double square = p->squares[c] / (double)p->rows, variance = square - p->means[c] * p->means[c];
        if (!(variance > 1e-9 * square)) continue;
        ratios += (double)scale * (double)scale / 12 / variance;
        count++;
    }
    return count ? -10 * log10(ratios / (double)count) : INFINITY;
}

/* Marks the model's inputs that their grid resolves badly; *any is set when there is one. */
static nw_status mark_unresolved(const nw_quant_plan *plan, const nw_calibration *seen, bool *raw,
                                 bool *any) {
    for (int i = 0; i < plan->point_count; i++) {
        const nw_quant_point *p = &plan->points[i];
        const int input = uncast(plan, p->value);
        if (plan->uses.producer[input] >= 0 || !is_decided(p) || nw_quant_is_float(p->choice)) continue;
        const nw_codes codes = {p->qmin, p->qmax, false};
        double sqnr = 0;
        if (!nw_quant_is_binary(p->choice))
            NW_TRY(nw_observer_sqnr(&seen->observers[i], &codes, p->scale, p->zero, &sqnr));
        raw[input] = sqnr < RESOLVED;
    }
    for (int i = 0; i < plan->point_count; i++) {
        const nw_quant_point *p = &plan->points[i];
        if (p->squares && p->choice->mode == NW_QUANT_STATIC && !nw_quant_is_float(p->choice) &&
            features_sqnr(p, nw_quant_root(plan, p)->scale) < RESOLVED)
            raw[input_behind(plan, p->value)] = true;
    }
    for (int v = 0; v < plan->value_count; v++) *any |= raw[v];
    return NW_OK;
}

static nw_status adopt_point(const nw_quant_plan *from, nw_quant_plan *to, nw_quant_point *p) {
    const nw_quant_point *old = nw_quant_point_of(from, p->value);
    if (!old) return nw_fail(from->arena.ctx, NW_E_INTERNAL, "a quantizer appeared where there was none");
    double *means = old->means ? nw_arena_array(&to->arena, old->channels, sizeof *means) : NULL;
    if (old->means && !means) return NW_E_MEMORY;
    if (means) memcpy(means, old->means, old->channels * sizeof *means);
    nw_quant_point fresh = *nw_quant_root(from, old);
    fresh.value = p->value;
    fresh.root = p->root;
    fresh.everywhere = p->everywhere;
    fresh.choice = p->choice;
    fresh.channel_axis = old->channel_axis;
    fresh.channels = old->channels;
    fresh.means = means;
    fresh.features = false;
    fresh.squares = NULL;
    *p = fresh;
    return NW_OK;
}

nw_status nw_quant_adopt(nw_context *ctx, const nw_quant_plan *from, nw_quant_plan *to,
                         nw_calibration *seen) {
    for (int i = 0; i < to->point_count; i++) NW_TRY(adopt_point(from, to, &to->points[i]));
    if (!seen || !seen->observers) return NW_OK;
    nw_observer *observers = nw_calloc(ctx, (size_t)to->point_count, sizeof *observers);
    if (!observers) return NW_E_MEMORY;
    for (int i = 0; i < to->point_count; i++) {
        nw_observer *mine = &seen->observers[from->point_of[to->points[i].value]];
        observers[i] = *mine;
        *mine = (nw_observer){0};
    }
    for (int i = 0; i < seen->count; i++) nw_observer_free(&seen->observers[i]);
    nw_free(ctx, seen->observers);
    seen->observers = observers;
    seen->count = to->point_count;
    return NW_OK;
}

static nw_status spare_inputs(nw_context *ctx, nw_quant_plan **plan, nw_arena *arena, nw_calibration *seen) {
    bool *raw = nw_arena_array(arena, (size_t)(*plan)->value_count, sizeof *raw), any = false;
    if (!raw) return NW_E_MEMORY;
    NW_TRY(mark_unresolved(*plan, seen, raw, &any));
    if (!any) return NW_OK;
    nw_quant_plan *spared;
    NW_TRY(nw_quant_place(ctx, (*plan)->graph, &(*plan)->options, raw, &spared));
    nw_status status = nw_quant_adopt(ctx, *plan, spared, seen);
    if (status != NW_OK) {
        nw_quant_plan_free(spared);
        return status;
    }
    nw_quant_plan_free(*plan);
    *plan = spared;
    return NW_OK;
}

nw_status nw_calibrate(nw_context *ctx, nw_quant_plan **plan, nw_dataset *dataset, nw_calibration *out) {
    *out = (nw_calibration){.ctx = ctx, .count = (*plan)->point_count};
    if (!(out->observers = nw_calloc(ctx, (size_t)out->count, sizeof *out->observers))) return NW_E_MEMORY;
    nw_arena arena;
    nw_arena_init(&arena, ctx);
    nw_status status = calibrate(ctx, *plan, dataset, &arena, out);
    if (status == NW_OK && (*plan)->options.inputs == NW_AUTO) status = spare_inputs(ctx, plan, &arena, out);
    nw_arena_free(&arena);
    if (status != NW_OK) nw_calibration_free(out);
    return status;
}

void nw_calibration_free(nw_calibration *c) {
    for (int i = 0; c->observers && i < c->count; i++) nw_observer_free(&c->observers[i]);
    nw_free(c->ctx, c->observers);
    c->observers = NULL;
}
