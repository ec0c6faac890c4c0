/* session.c: sessions, the cache of plans, and the loop over a plan's steps. */
#include "run/plan.h"
#include "run/simplify.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CACHED_PLANS 8
#define MAX_THREADS  256

struct nw_session {
    nw_context *ctx;
    nw_graph *graph;
    nw_run_options options;
    nw_threads *threads;
    nw_plan *plans[CACHED_PLANS];
    int plan_count;
    const nw_plan *latest;
    uint64_t clock;
    bool profile;
    nw_taps taps;
    nw_tap_fn *tap;
    void *tap_user;
    uint8_t *workspace; /* shared by the plans: one run at a time */
    size_t workspace_size;
    nw_arena scratch, lists, kept; /* of a step; of a run: its feeds in order; its buffers */
};

nw_status nw_session_new(nw_context *ctx, const nw_graph *graph, const nw_run_options *options,
                         nw_session **out) {
    nw_session *s = nw_calloc(ctx, 1, sizeof *s);
    if (!s) return NW_E_MEMORY;
    s->ctx = ctx;
    s->options = options ? *options : (nw_run_options){.isa = nw_isa_detect()};
    s->options.isa = nw_isa_limit(s->options.isa);
    nw_arena_init(&s->scratch, ctx);
    nw_arena_init(&s->lists, ctx);
    nw_arena_init(&s->kept, ctx);
    nw_status status = nw_graph_copy(graph, ctx, &s->graph);
    if (status == NW_OK) status = nw_graph_resolve(s->graph);
    if (status == NW_OK) status = nw_simplify(s->graph);
    if (status == NW_OK) status = nw_round_products(s->graph);
    if (status != NW_OK) {
        nw_session_free(s);
        return status;
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t threads = (size_t)(s->options.threads > 0 ? s->options.threads : cores > 0 ? cores : 1);
    status = nw_threads_new(ctx, threads < MAX_THREADS ? threads : MAX_THREADS, &s->threads);
    if (status != NW_OK)
        nw_session_free(s);
    else
        *out = s;
    return status;
}

static void drop_plans(nw_session *s) {
    for (int i = 0; i < s->plan_count; i++) nw_plan_free(s->plans[i]);
    s->plan_count = 0;
    s->latest = NULL;
}

void nw_session_free(nw_session *s) {
    if (!s) return;
    drop_plans(s);
    nw_threads_free(s->threads);
    nw_free(s->ctx, (void *)(uintptr_t)s->taps.marks);
    nw_free(s->ctx, s->workspace);
    nw_arena_free(&s->scratch);
    nw_arena_free(&s->lists);
    nw_arena_free(&s->kept);
    nw_graph_free(s->graph);
    nw_free(s->ctx, s);
}

nw_status nw_session_set_taps(nw_session *s, size_t count, const int *values, bool any_layout, nw_tap_fn *tap,
                              void *user) {
    uint8_t *marks = nw_calloc(s->ctx, (size_t)s->graph->value_count + 1, 1);
    if (!marks) return NW_E_MEMORY;
    for (size_t i = 0; i < count; i++)
        if (values[i] >= 0 && values[i] < s->graph->value_count) marks[values[i]] = 1;
    drop_plans(s);
    nw_free(s->ctx, (void *)(uintptr_t)s->taps.marks);
    s->taps = (nw_taps){marks, s->graph->value_count, any_layout};
    s->tap = tap;
    s->tap_user = user;
    return NW_OK;
}

/* ---- inputs ---------------------------------------------------------------------------------------------------- */

static nw_status check_feed(nw_session *s, const nw_value *v, const nw_tensor *t) {
    nw_status status = nw_tensor_check(s->ctx, t);
    if (status != NW_OK) return nw_fail_where(s->ctx, status, "input \"%s\"", v->name);
    char have[128];
    nw_tensor_describe(t, have, sizeof have);
    if (v->format != NW_NONE && t->format != v->format)
        return nw_fail(s->ctx, NW_E_TYPE, "input \"%s\" holds %s in this model, %s was given", v->name,
                       nw_format_name(v->format), have);
    bool fits = v->rank < 0 || v->rank == t->rank;
    for (int d = 0; fits && d < v->rank; d++) fits = v->dims[d] <= 0 || v->dims[d] == t->dims[d];
    if (fits) return NW_OK;
    char want[128];
    size_t at = 0;
    want[0] = 0;
    for (int d = 0; d < v->rank && at < sizeof want; d++) {
        if (v->dims[d] > 0)
            at += (size_t)snprintf(want + at, sizeof want - at, "%s%" PRId64, d ? "," : "", v->dims[d]);
        else
            at += (size_t)snprintf(want + at, sizeof want - at, "%s%s", d ? "," : "",
                                   v->dim_names && v->dim_names[d] ? v->dim_names[d] : "?");
    }
    return nw_fail(s->ctx, NW_E_SHAPE, "input \"%s\" expects [%s], %s was given", v->name, want, have);
}

/* The feeds in the order of the graph's inputs. */
static nw_status order_feeds(nw_session *s, size_t feed_count, const nw_feed *feeds, nw_tensor *inputs) {
    const nw_graph *g = s->graph;
    for (size_t f = 0; f < feed_count; f++) {
        bool known = false;
        for (int i = 0; i < g->input_count; i++)
            known |= strcmp(g->values[g->inputs[i]].name, feeds[f].name) == 0;
        if (!known) return nw_fail(s->ctx, NW_E_ARGUMENT, "the model has no input \"%s\"", feeds[f].name);
    }
    for (int i = 0; i < g->input_count; i++) {
        const nw_value *v = &g->values[g->inputs[i]];
        inputs[i] = (nw_tensor){.format = NW_NONE};
        const nw_feed *feed = NULL;
        for (size_t f = 0; f < feed_count; f++)
            if (strcmp(v->name, feeds[f].name) == 0) feed = &feeds[f];
        if (v->constant) {
            if (feed)
                return nw_fail(s->ctx, NW_E_ARGUMENT,
                               "input \"%s\" is a constant of the model and cannot be fed", v->name);
            continue;
        }
        if (!feed) return nw_fail(s->ctx, NW_E_ARGUMENT, "input \"%s\" was not given", v->name);
        NW_TRY(check_feed(s, v, &feed->tensor));
        inputs[i] = feed->tensor;
    }
    return NW_OK;
}

/* ---- plans ----------------------------------------------------------------------------------------------------- */

static bool plan_fits(const nw_plan *plan, const nw_tensor *inputs) {
    for (int i = 0; i < plan->input_count; i++) {
        const nw_tensor *a = &plan->inputs[i], *b = &inputs[i];
        if (a->format != b->format) return false;
        if (a->format == NW_NONE) continue;
        if (!nw_tensor_same_shape(a, b)) return false;
        if (a->data && memcmp(a->data, b->data, nw_tensor_bytes(a)) != 0) return false;
    }
    return true;
}

static nw_status plan_for(nw_session *s, const nw_tensor *inputs, const nw_plan **out) {
    int victim = 0;
    for (int i = 0; i < s->plan_count; i++) {
        if (plan_fits(s->plans[i], inputs)) {
            s->plans[i]->used = ++s->clock;
            *out = s->plans[i];
            return NW_OK;
        }
        if (s->plans[i]->used < s->plans[victim]->used) victim = i;
    }
    nw_plan *plan;
    NW_TRY(nw_plan_make(s->ctx, s->graph, s->graph->input_count, inputs, &s->taps, &s->options, &plan));
    plan->used = ++s->clock;
    if (s->plan_count < CACHED_PLANS) {
        s->plans[s->plan_count++] = plan;
    } else {
        nw_plan_free(s->plans[victim]);
        s->plans[victim] = plan;
    }
    *out = plan;
    return NW_OK;
}

static nw_status reserve_workspace(nw_session *s, size_t size) {
    if (size <= s->workspace_size) return NW_OK;
    uint8_t *fresh = nw_alloc(s->ctx, size);
    if (!fresh) return NW_E_MEMORY;
    nw_free(s->ctx, s->workspace);
    s->workspace = fresh;
    s->workspace_size = size;
    return NW_OK;
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static void resolve_buffers(const nw_plan *plan, uint8_t *workspace, const nw_tensor *inputs, void **data) {
    for (int b = 0; b < plan->buffer_count; b++) {
        const nw_buffer *buffer = &plan->buffers[b];
        switch (buffer->kind) {
        case NW_BUFFER_WORK: data[b] = workspace ? workspace + buffer->offset : NULL; break;
        case NW_BUFFER_CONSTANT: data[b] = buffer->tensor.data; break;
        case NW_BUFFER_INPUT: data[b] = inputs[buffer->input].data; break;
        case NW_BUFFER_LATE: data[b] = NULL; break;
        }
        if (buffer->alias >= 0) data[b] = data[buffer->alias]; /* an alias comes after what it shares */
    }
}

nw_tensor nw_exec_tensor(const nw_exec *e, int buffer) {
    const nw_buffer *b = &e->plan->buffers[buffer];
    if (b->kind == NW_BUFFER_LATE) return e->late[buffer];
    nw_tensor t = b->tensor;
    t.data = e->data[buffer];
    return t;
}

static nw_status copy_outputs(nw_exec *e, nw_arena *arena, nw_tensor *outputs) {
    for (int i = 0; i < e->plan->graph->output_count; i++) {
        nw_tensor t = nw_exec_tensor(e, e->plan->outputs[i]), copy = t;
        size_t bytes = nw_tensor_bytes(&t);
        if (arena)
            NW_TRY(nw_tensor_alloc(arena, &copy));
        else if (nw_tensor_same_shape(&t, &outputs[i]) && t.format == outputs[i].format)
            copy.data = outputs[i].data;
        else
            return nw_fail(e->ctx, NW_E_INTERNAL, "output %d has another shape than in the run before", i);
        if (bytes) memcpy(copy.data, t.data, bytes);
        outputs[i] = copy;
    }
    return NW_OK;
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static nw_status run_plan(nw_session *s, const nw_plan *plan, const nw_tensor *inputs, nw_arena *arena,
                          nw_tensor *outputs) {
    NW_TRY(reserve_workspace(s, plan->workspace));
    nw_arena_reset(&s->kept);
    nw_exec e = {.ctx = s->ctx,
                 .plan = plan,
                 .threads = s->threads,
                 .scratch = &s->scratch,
                 .kept = &s->kept,
                 .tap = s->tap,
                 .tap_user = s->tap_user};
    e.data = nw_arena_array(&s->kept, (size_t)plan->buffer_count + 1, sizeof *e.data);
    e.late = nw_arena_array(&s->kept, (size_t)plan->buffer_count + 1, sizeof *e.late);
    nw_status status = e.data && e.late ? NW_OK : NW_E_MEMORY;
    if (status == NW_OK) resolve_buffers(plan, s->workspace, inputs, e.data);
    for (int i = 0; i < plan->step_count && status == NW_OK; i++) {
        if (!plan->steps[i].run) continue; /* nobody reads its result */
        double start = s->profile ? now_ms() : 0;
        status = plan->steps[i].run(&e, &plan->steps[i]);
        if (s->profile) plan->step_ms[i] = now_ms() - start;
        nw_arena_reset(&s->scratch);
    }
    if (status == NW_OK) status = copy_outputs(&e, arena, outputs);
    return status;
}

nw_status nw_session_run(nw_session *s, size_t feed_count, const nw_feed *feeds, nw_arena *arena,
                         nw_tensor *outputs) {
    nw_arena_reset(&s->lists);
    nw_tensor *inputs = nw_arena_array(&s->lists, (size_t)s->graph->input_count + 1, sizeof *inputs);
    const nw_plan *plan = NULL;
    nw_status status = inputs ? order_feeds(s, feed_count, feeds, inputs) : NW_E_MEMORY;
    if (status == NW_OK) status = plan_for(s, inputs, &plan);
    if (status == NW_OK) status = run_plan(s, plan, inputs, arena, outputs);
    if (status == NW_OK) s->latest = plan;
    return status;
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

typedef struct range_job {
    nw_range_fn *fn;
    void *user;
    size_t count, chunk;
} range_job;

static void run_chunk(void *user, size_t index) {
    range_job *j = user;
    size_t begin = index * j->chunk, end = begin + j->chunk;
    j->fn(j->user, begin, end < j->count ? end : j->count);
}

void nw_session_parallel(nw_session *s, size_t count, void (*fn)(void *user, size_t i), void *user) {
    nw_threads_run(s->threads, true, count, fn, user);
}

/* Nanoseconds of work that are worth a worker: waking one costs several microseconds, more on a busy machine. */
#define WORTH_WAKING   30e3
#define WORTH_OFFERING 8e3 /* to one that is awake */

void nw_exec_parallel(const nw_exec *e, size_t count, size_t unit, double nanoseconds, nw_range_fn *fn,
                      void *user) {
    if (count == 0) return;
    size_t units = (count + unit - 1) / unit;
    const double worth = nw_threads_awake(e->threads) ? WORTH_OFFERING : WORTH_WAKING;
    if (!e->threads || units < 2 || nanoseconds < worth) {
        fn(user, 0, count);
        return;
    }
    /* Several chunks per thread even out the threads' speeds. */
    size_t parts = nw_threads_count(e->threads) * 4;
    if (parts > units) parts = units;
    size_t chunk = (units + parts - 1) / parts * unit;
    range_job job = {fn, user, count, chunk};
    nw_threads_run(e->threads, nanoseconds >= WORTH_WAKING, (count + chunk - 1) / chunk, run_chunk, &job);
}

typedef struct product_job {
    nw_product_fn *fn;
    void *user;
    size_t m, n;
} product_job;

static void product_rows(void *user, size_t begin, size_t end) {
    const product_job *j = user;
    j->fn(j->user, begin, end, 0, j->n);
}
static void product_columns(void *user, size_t begin, size_t end) {
    const product_job *j = user;
    j->fn(j->user, 0, j->m, begin, end);
}

/* A part of the rows passes over all weights, a part of the columns over all rows: the longer side is cut, so that the
 * parts read less twice. Parts of few tiles would read the weights for little work. */
void nw_exec_product(const nw_exec *e, const nw_product_split *split, nw_product_fn *fn, void *user) {
    const size_t threads = nw_threads_count(e->threads);
    product_job job = {fn, user, split->m, split->n};
    bool columns = split->n >= split->m && split->n >= 2 * threads * split->nr;
    size_t tiles = split->m / split->mr / (4 * threads);
    size_t unit = columns ? split->nr : split->mr * (tiles < 1 ? 1 : tiles > 4 ? 4 : tiles);
    nw_exec_parallel(e, columns ? split->n : split->m, unit, split->nanoseconds,
                     columns ? product_columns : product_rows, &job);
}

/* ---- reporting ------------------------------------------------------------------------------------------------- */

nw_memory_use nw_session_memory(const nw_session *s) {
    if (!s->latest) return (nw_memory_use){0, 0};
    return (nw_memory_use){s->latest->workspace, s->latest->weights};
}

void nw_session_set_profile(nw_session *s, bool on) {
    s->profile = on;
}

bool nw_session_step(const nw_session *s, int i, nw_step_info *info) {
    const nw_plan *plan = s->latest;
    if (!plan || i < 0 || i >= plan->step_count) return false;
    const nw_step *step = &plan->steps[i];
    *info = (nw_step_info){.op = step->op,
                           .name = step->name,
                           .kernel = step->kernel,
                           .reason = step->reason,
                           .value = NW_ABSENT,
                           .work = step->work,
                           .output = {.format = NW_NONE}};
    for (int o = step->out_count - 1; o >= 0; o--)
        if (step->out[o] >= 0 && plan->buffers[step->out[o]].value >= 0)
            info->value = plan->buffers[step->out[o]].value;
    if (s->profile) info->milliseconds = plan->step_ms[i];
    if (step->out_count && step->out[0] >= 0 && plan->buffers[step->out[0]].kind != NW_BUFFER_LATE) {
        info->output = plan->buffers[step->out[0]].tensor;
        info->output.data = NULL;
    }
    return true;
}

void nw_session_explain(const nw_session *s, void (*print)(void *user, const char *line), void *user) {
    const nw_plan *plan = s->latest;
    if (!plan) return;
    char line[640], shape[128];
    nw_step_info step;
    for (int i = 0; nw_session_step(s, i, &step); i++) {
        shape[0] = 0;
        if (step.output.format != NW_NONE) nw_tensor_describe(&step.output, shape, sizeof shape);
        snprintf(line, sizeof line, "%4d  %-20s %-28s %-24s %s%s%s", i, step.op[0] ? step.op : "(convert)",
                 step.name, step.kernel, shape, step.reason[0] ? "  — " : "", step.reason);
        print(user, line);
    }
    snprintf(line, sizeof line, "workspace %zu bytes, constants of the plan %zu bytes", plan->workspace,
             plan->weights);
    print(user, line);
}
