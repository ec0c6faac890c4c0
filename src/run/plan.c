/* plan.c: buffers, forms and conversions, memory; the walk over the nodes is in lower.c. */
#include "run/plan.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

#define SLACK 64 /* bytes behind every buffer that kernels may read */

static int root_of(const nw_plan *plan, int b) {
    while (plan->buffers[b].alias >= 0) b = plan->buffers[b].alias;
    return b;
}

static nw_status new_buffer(nw_planner *p, nw_buffer **out, int *id) {
    nw_plan *plan = p->plan;
    NW_TRY(nw_arena_grow(&plan->arena, (void **)&plan->buffers, &plan->buffer_capacity, (size_t)plan->buffer_count,
                         sizeof *plan->buffers));
    *out = &plan->buffers[plan->buffer_count];
    **out = (nw_buffer){.alias = -1, .first = plan->step_count, .last = plan->step_count};
    *id = plan->buffer_count++;
    return NW_OK;
}

static void touch(nw_planner *p, int buffer) {
    if (buffer >= 0) p->plan->buffers[root_of(p->plan, buffer)].last = p->plan->step_count;
}

void nw_last_dims(const nw_tensor *t, int64_t *dims) {
    dims[0] = t->dims[0];
    for (int d = 2; d < t->rank; d++) dims[d - 1] = t->dims[d];
    dims[t->rank - 1] = t->dims[1];
}

/* Channels-last and ONNX order are the same bytes when there is one channel or one pixel. */
static bool layouts_coincide(const nw_tensor *t) {
    return t->rank < 3 || t->dims[1] == 1 || nw_dims_product(t->dims, 2, t->rank) == 1;
}

static nw_tensor physical(const nw_planner *p, int v, nw_form form) {
    nw_tensor t = p->desc[v];
    if (t.qparam) t.format = NW_F32; /* packed storage means real numbers */
    t.qparam = NULL;
    t.data = NULL;
    if (form & NW_FORM_CODES_BIT) t.format = NW_U8;
    if (form & NW_FORM_LAST_BIT && t.rank >= 3) nw_last_dims(&p->desc[v], t.dims);
    return t;
}

/* Buffer `id` holds v in `form`; where the layouts coincide it serves the other one too, under that one's dims. */
static nw_status register_form(nw_planner *p, int v, nw_form form, int id) {
    p->buffer[v][form] = id;
    if (p->desc[v].format == NW_NONE || !layouts_coincide(&p->desc[v])) return NW_OK;
    nw_form other = form ^ NW_FORM_LAST_BIT;
    nw_buffer *b;
    int alias;
    NW_TRY(new_buffer(p, &b, &alias));
    b->kind = p->plan->buffers[id].kind;
    b->input = p->plan->buffers[id].input;
    b->tensor = physical(p, v, other);
    b->tensor.data = p->plan->buffers[id].tensor.data;
    b->alias = id;
    p->buffer[v][other] = alias;
    return NW_OK;
}

nw_status nw_plan_define(nw_planner *p, int v, nw_form form, int *buffer) {
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, buffer));
    b->kind = NW_BUFFER_WORK;
    b->tensor = physical(p, v, form);
    b->bytes = nw_tensor_bytes(&b->tensor);
    return register_form(p, v, form, *buffer);
}

nw_status nw_plan_temporary(nw_planner *p, size_t bytes, int *buffer) {
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, buffer));
    b->kind = NW_BUFFER_WORK;
    b->tensor = (nw_tensor){.format = NW_U8, .rank = 1, .dims = {(int64_t)bytes}};
    b->bytes = bytes;
    return NW_OK;
}

nw_status nw_plan_constant(nw_planner *p, size_t bytes, void **data) {
    *data = nw_arena_data(&p->plan->arena, bytes + SLACK);
    if (!*data) return NW_E_MEMORY;
    memset((char *)*data + bytes, 0, SLACK);
    p->plan->weights += bytes;
    return NW_OK;
}

nw_status nw_plan_step(nw_planner *p, const nw_node *node, nw_step_fn *run, const char *kernel, const void *state,
                       size_t state_size, int in_count, const int *in, int out_count, const int *out) {
    nw_plan *plan = p->plan;
    NW_TRY(nw_arena_grow(&plan->arena, (void **)&plan->steps, &plan->step_capacity, (size_t)plan->step_count,
                         sizeof *plan->steps));
    void *copy = nw_arena_alloc(&plan->arena, state_size);
    int *ids = nw_arena_array(&plan->arena, (size_t)(in_count + out_count) + 1, sizeof *ids);
    if (!copy || !ids) return NW_E_MEMORY;
    memcpy(copy, state, state_size);
    for (int i = 0; i < in_count; i++) touch(p, ids[i] = in[i]);
    for (int i = 0; i < out_count; i++) touch(p, ids[in_count + i] = out[i]);
    plan->steps[plan->step_count++] = (nw_step){.run = run,
                                                .state = copy,
                                                .in_count = in_count,
                                                .out_count = out_count,
                                                .in = ids,
                                                .out = ids + in_count,
                                                .op = node ? node->op_type : "",
                                                .name = node ? nw_node_label(p->graph, node) : "",
                                                .kernel = kernel,
                                                .reason = ""};
    return NW_OK;
}

void nw_plan_reason(nw_planner *p, const char *reason) { p->plan->steps[p->plan->step_count - 1].reason = reason; }

bool nw_plan_has(const nw_planner *p, int v, nw_form form) { return p->buffer[v][form] >= 0; }

bool nw_plan_prefers_last(const nw_planner *p, int v) {
    const int *b = p->buffer[v];
    return b[NW_FORM_REAL] < 0 && b[NW_FORM_CODES] < 0 && (b[NW_FORM_REAL_LAST] >= 0 || b[NW_FORM_CODES_LAST] >= 0);
}

/* ---- constants ------------------------------------------------------------------------------------------------- */

static nw_status constant_buffer(nw_planner *p, int v, nw_form form, void *data, int *buffer) {
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, buffer));
    b->kind = NW_BUFFER_CONSTANT;
    b->tensor = physical(p, v, form);
    b->tensor.data = data;
    return register_form(p, v, form, *buffer);
}

/* A constant in its first form: as stored, or dequantized. Scalars and small ones used as operands of 8-bit steps come as
 * codes when they are packed per tensor. */
static nw_status define_constant(nw_planner *p, int v, bool codes) {
    const nw_tensor *t = &p->desc[v];
    int buffer;
    if (codes) {
        const uint8_t *from = t->data;
        size_t count = nw_tensor_count(t);
        void *to;
        NW_TRY(nw_plan_constant(p, count, &to));
        uint8_t flip = t->format == NW_S8 ? 128 : 0;
        for (size_t i = 0; i < count; i++) ((uint8_t *)to)[i] = from[i] ^ flip;
        return constant_buffer(p, v, NW_FORM_CODES, to, &buffer);
    }
    if (!t->qparam) return constant_buffer(p, v, NW_FORM_REAL, t->data, &buffer);
    void *real;
    NW_TRY(nw_plan_constant(p, nw_tensor_count(t) * sizeof(float), &real));
    nw_dequantize(t->qparam, t->rank, t->dims, t->data, real);
    return constant_buffer(p, v, NW_FORM_REAL, real, &buffer);
}

nw_status nw_plan_real_constant(nw_planner *p, int v, const float **values, size_t *count) {
    *values = NULL;
    *count = 0;
    if (v < 0 || !p->graph->values[v].constant) return NW_OK;
    const nw_tensor *t = &p->graph->values[v].constant->tensor;
    nw_tensor real;
    if (!t->qparam && !nw_format_is_float(t->format)) return NW_OK;
    NW_TRY(nw_tensor_to_f32(&p->plan->arena, t, &real));
    *values = real.data;
    *count = nw_tensor_count(t);
    return NW_OK;
}

/* ---- conversions ----------------------------------------------------------------------------------------------- */

typedef struct layout_state {
    nw_layout kernels;
    bool wide; /* 4-byte elements, else 1-byte */
    size_t batch, rows, cols;
} layout_state;

typedef struct layout_job {
    const layout_state *s;
    const char *from;
    char *to;
} layout_job;

static void layout_range(void *user, size_t begin, size_t end) {
    layout_job *j = user;
    const layout_state *s = j->s;
    size_t size = s->wide ? 4 : 1, image = s->rows * s->cols * size;
    for (size_t i = begin; i < end; i++)
        (s->wide ? s->kernels.transpose_b32 : s->kernels.transpose_b8)(s->rows, s->cols, j->from + i * image, s->cols,
                                                                       j->to + i * image, s->rows);
}

static nw_status run_layout(nw_exec *e, const nw_step *step) {
    const layout_state *s = step->state;
    layout_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->batch, 1, (double)(s->batch * s->rows * s->cols) / 4, layout_range, &job);
    return NW_OK;
}

static nw_status convert_layout(nw_planner *p, int v, nw_form from, nw_form to, int *buffer) {
    const nw_tensor *t = &p->desc[v];
    int in[1] = {p->buffer[v][from]}, out[1];
    NW_TRY(nw_plan_define(p, v, to, &out[0]));
    size_t c = (size_t)t->dims[1], pixels = nw_dims_product(t->dims, 2, t->rank);
    bool last = to & NW_FORM_LAST_BIT;
    layout_state s = {.kernels = p->layout,
                      .wide = !(to & NW_FORM_CODES_BIT),
                      .batch = (size_t)t->dims[0],
                      .rows = last ? c : pixels,
                      .cols = last ? pixels : c};
    *buffer = out[0];
    return NW_PLAN_STEP(p, NULL, run_layout, last ? "to channels-last" : "to ONNX order", &s, in, out);
}

typedef struct grid_state {
    nw_quantize_u8_fn *quantize;
    nw_dequantize_u8_fn *dequantize;
    nw_grid grid;
    size_t count;
} grid_state;

typedef struct grid_job {
    const grid_state *s;
    void *real;
    uint8_t *codes;
} grid_job;

static void quantize_range(void *user, size_t begin, size_t end) {
    grid_job *j = user;
    const nw_grid *g = &j->s->grid;
    j->s->quantize(end - begin, (float *)j->real + begin, g->scale, g->zero, g->lo, g->hi, j->codes + begin);
}

static void dequantize_range(void *user, size_t begin, size_t end) {
    grid_job *j = user;
    j->s->dequantize(end - begin, j->codes + begin, j->s->grid.scale, j->s->grid.zero, (float *)j->real + begin);
}

static nw_status run_quantize(nw_exec *e, const nw_step *step) {
    const grid_state *s = step->state;
    grid_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 6, quantize_range, &job);
    return NW_OK;
}

static nw_status run_dequantize(nw_exec *e, const nw_step *step) {
    const grid_state *s = step->state;
    grid_job job = {s, nw_exec_data(e, step->out[0]), nw_exec_data(e, step->in[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 8, dequantize_range, &job);
    return NW_OK;
}

/* codes of `to` from the real numbers of `from` (a FakeQuant; or the same value). */
static nw_status add_quantize(nw_planner *p, const nw_node *node, int from_buffer, int to, nw_form form, int *buffer) {
    grid_state s = {p->ew.quantize_u8, p->ew.dequantize_u8, p->grid[to], nw_tensor_count(&p->desc[to])};
    int in[1] = {from_buffer}, out[1];
    NW_TRY(nw_plan_define(p, to, form, &out[0]));
    *buffer = out[0];
    return NW_PLAN_STEP(p, node, run_quantize, "quantize", &s, in, out);
}

static nw_status add_dequantize(nw_planner *p, int v, nw_form from, int *buffer) {
    grid_state s = {p->ew.quantize_u8, p->ew.dequantize_u8, p->grid[v], nw_tensor_count(&p->desc[v])};
    int in[1] = {p->buffer[v][from]}, out[1];
    NW_TRY(nw_plan_define(p, v, (nw_form)(from & ~NW_FORM_CODES_BIT), &out[0]));
    *buffer = out[0];
    return NW_PLAN_STEP(p, NULL, run_dequantize, "dequantize", &s, in, out);
}

nw_status nw_plan_need(nw_planner *p, int v, nw_form form, int *buffer) {
    *buffer = -1;
    if (v < 0) return NW_OK;
    int *have = p->buffer[v];
    if (have[form] < 0 && p->graph->values[v].constant) {
        bool codes = form & NW_FORM_CODES_BIT;
        if (have[form & ~NW_FORM_LAST_BIT] < 0) NW_TRY(define_constant(p, v, codes));
    }
    if (have[form] >= 0) {
        *buffer = have[form];
        return NW_OK;
    }
    nw_form other = form ^ NW_FORM_LAST_BIT;
    bool codes = form & NW_FORM_CODES_BIT;
    if (have[other] >= 0) return convert_layout(p, v, other, form, buffer);
    if (codes) return nw_fail(p->ctx, NW_E_INTERNAL, "value \"%s\" has no codes", p->graph->values[v].name);
    /* Real numbers of a value that exists as codes: the layout changes on the narrow side. */
    if (have[form | NW_FORM_CODES_BIT] < 0) {
        if (have[other | NW_FORM_CODES_BIT] < 0)
            return nw_fail(p->ctx, NW_E_INTERNAL, "value \"%s\" is read before it is made", p->graph->values[v].name);
        int ignored;
        NW_TRY(convert_layout(p, v, other | NW_FORM_CODES_BIT, form | NW_FORM_CODES_BIT, &ignored));
    }
    return add_dequantize(p, v, form | NW_FORM_CODES_BIT, buffer);
}

/* ---- grids and what follows a layer ------------------------------------------------------------------------------ */

bool nw_grid_equal(const nw_grid *a, const nw_grid *b) {
    return a->scale > 0 && a->scale == b->scale && a->zero == b->zero && a->lo == b->lo && a->hi == b->hi;
}

int32_t nw_grid_code(const nw_grid *g, float x) { return nw_quantize_one(x, g->scale, g->zero, g->lo, g->hi); }

nw_status nw_plan_fakequant_grid(nw_planner *p, const nw_node *node, nw_grid *grid, bool *ok) {
    *ok = false;
    *grid = (nw_grid){0};
    if (node->op != &nw_op_narrow_FakeQuant) return NW_OK;
    nw_qparam q;
    bool dynamic;
    NW_TRY(nw_fakequant_qparam(p->graph, node, &p->scratch, &q, &dynamic));
    if (dynamic || q.grain != NW_GRAIN_TENSOR || (q.format != NW_U8 && q.format != NW_S8)) return NW_OK;
    int32_t shift = q.format == NW_S8 ? 128 : 0;
    *grid = (nw_grid){q.scales[0], nw_qparam_zero(&q, 0) + shift, q.qmin + shift, q.qmax + shift};
    *ok = grid->scale > 0 && isfinite(grid->scale) && grid->lo >= 0 && grid->hi <= 255 && grid->zero >= grid->lo &&
          grid->zero <= grid->hi;
    return NW_OK;
}

nw_node *nw_plan_only_reader(const nw_planner *p, int v) {
    if (nw_uses_count(&p->uses, v) != 1 || p->uses.outputs[v] || (nw_plan_tapped(p, v))) return NULL;
    int n = p->uses.users[p->uses.first[v]];
    return p->done[n] ? NULL : &p->graph->nodes[n];
}

/* Relu, or Clip with constant limits, as a clamp. */
static bool clamp_of(const nw_planner *p, const nw_node *node, float *lo, float *hi) {
    *lo = -INFINITY;
    *hi = INFINITY;
    if (node->domain[0]) return false;
    if (strcmp(node->op_type, "Relu") == 0) {
        *lo = 0;
        return true;
    }
    if (strcmp(node->op_type, "Clip") != 0) return false;
    *lo = nw_node_float(node, "min", *lo);
    *hi = nw_node_float(node, "max", *hi);
    for (int i = 1; i < 3; i++) {
        int v = nw_node_in(node, i);
        if (v < 0) continue;
        const nw_constant *c = p->graph->values[v].constant;
        if (!c || c->tensor.format != NW_F32 || nw_tensor_count(&c->tensor) != 1) return false;
        *(i == 1 ? lo : hi) = *(const float *)c->tensor.data;
    }
    return *lo <= *hi;
}

nw_status nw_plan_follow(nw_planner *p, int v, bool codes, nw_follow *f) {
    *f = (nw_follow){.value = v, .lo = -INFINITY, .hi = INFINITY};
    if (p->options->reference) return NW_OK;
    nw_node *next = nw_plan_only_reader(p, v);
    float lo, hi;
    if (next && nw_node_in(next, 0) == v && clamp_of(p, next, &lo, &hi) && p->desc[v].format == NW_F32) {
        f->lo = lo;
        f->hi = hi;
        f->value = next->out[0];
        f->nodes[f->node_count++] = (int)(next - p->graph->nodes);
        next = nw_plan_only_reader(p, f->value);
    }
    if (!codes || !next || nw_node_in(next, 0) != f->value) return NW_OK;
    nw_grid grid;
    bool ok;
    NW_TRY(nw_plan_fakequant_grid(p, next, &grid, &ok));
    if (!ok) return NW_OK;
    f->grid = grid;
    f->value = next->out[0];
    f->nodes[f->node_count++] = (int)(next - p->graph->nodes);
    /* Rounding is monotone: clamping the codes is clamping the numbers. */
    f->code_lo = isfinite(f->lo) ? nw_grid_code(&grid, f->lo) : grid.lo;
    f->code_hi = isfinite(f->hi) ? nw_grid_code(&grid, f->hi) : grid.hi;
    return NW_OK;
}

void nw_plan_fuse(nw_planner *p, const nw_follow *f) {
    for (int i = 0; i < f->node_count; i++) p->done[f->nodes[i]] = 1;
    if (f->grid.scale > 0) p->grid[f->value] = f->grid;
    p->fused = f->value;
}

nw_status nw_lower_fakequant(nw_planner *p, nw_node *node, bool *ok) {
    nw_grid grid;
    NW_TRY(nw_plan_fakequant_grid(p, node, &grid, ok));
    int x = nw_node_in(node, 0), y = node->out[0];
    if (*ok && p->desc[x].format != NW_F32 && !p->desc[x].qparam) *ok = false;
    if (!*ok) return NW_OK;
    p->grid[y] = grid;
    if (nw_plan_on_grid(p, x) && nw_grid_equal(&p->grid[x], &grid)) { /* a copy of codes that lie on this grid already */
        for (int f = 0; f < NW_FORM_COUNT; f++) p->buffer[y][f] = p->buffer[x][f];
        return NW_OK;
    }
    bool last = nw_plan_prefers_last(p, x);
    int real, codes;
    NW_TRY(nw_plan_need(p, x, nw_form_of(false, last), &real));
    return add_quantize(p, node, real, y, nw_form_of(true, last), &codes);
}

nw_status nw_plan_call(nw_planner *p, const nw_node *node, nw_op_call *call) {
    const nw_tensor **in = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *in);
    nw_tensor *out = nw_arena_array(&p->scratch, (size_t)node->out_count + 1, sizeof *out);
    if (!in || !out) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count; i++) in[i] = node->in[i] < 0 ? NULL : &p->desc[node->in[i]];
    nw_bind_call(call, p->ctx, p->graph, node, in, out, &p->scratch);
    return NW_OK;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* Greedy by size: the largest buffers first, each at the lowest offset where it overlaps none that lives at the same time. */
static nw_status place_buffers(nw_planner *p) {
    nw_plan *plan = p->plan;
    int *order = nw_arena_array(&p->scratch, (size_t)plan->buffer_count + 1, sizeof *order);
    int *placed = nw_arena_array(&p->scratch, (size_t)plan->buffer_count + 1, sizeof *placed);
    if (!order || !placed) return NW_E_MEMORY;
    int count = 0, placed_count = 0;
    for (int b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == NW_BUFFER_WORK && plan->buffers[b].alias < 0) order[count++] = b;
    for (int gap = count / 2; gap > 0; gap /= 2) /* shell sort, by bytes descending, then by id: deterministic */
        for (int i = gap; i < count; i++)
            for (int j = i; j >= gap; j -= gap) {
                size_t a = plan->buffers[order[j - gap]].bytes, b = plan->buffers[order[j]].bytes;
                if (a > b || (a == b && order[j - gap] < order[j])) break;
                int t = order[j];
                order[j] = order[j - gap];
                order[j - gap] = t;
            }
    for (int i = 0; i < count; i++) {
        nw_buffer *b = &plan->buffers[order[i]];
        size_t need = (b->bytes + SLACK + NW_ALIGN - 1) / NW_ALIGN * NW_ALIGN, at = 0;
        int k = 0; /* placed[] is kept in order of offset */
        for (; k < placed_count; k++) {
            const nw_buffer *o = &plan->buffers[placed[k]];
            if (o->last < b->first || o->first > b->last) continue;
            if (o->offset >= at + need) break;
            size_t end = o->offset + (o->bytes + SLACK + NW_ALIGN - 1) / NW_ALIGN * NW_ALIGN;
            if (end > at) at = end;
        }
        b->offset = at;
        int slot = placed_count++;
        for (; slot > 0 && plan->buffers[placed[slot - 1]].offset > at; slot--) placed[slot] = placed[slot - 1];
        placed[slot] = order[i];
        if (at + need > plan->workspace) plan->workspace = at + need;
    }
    return NW_OK;
}

/* ---- making a plan --------------------------------------------------------------------------------------------- */

static nw_status add_inputs(nw_planner *p) {
    for (int i = 0; i < p->graph->input_count; i++) {
        int v = p->graph->inputs[i], id;
        if (p->graph->values[v].constant) continue;
        nw_buffer *b;
        NW_TRY(new_buffer(p, &b, &id));
        b->kind = NW_BUFFER_INPUT;
        b->input = i;
        b->tensor = physical(p, v, NW_FORM_REAL);
        NW_TRY(register_form(p, v, NW_FORM_REAL, id));
    }
    return NW_OK;
}

typedef struct tap_state {
    int value;
} tap_state;

static nw_status run_tap(nw_exec *e, const nw_step *step) {
    const tap_state *s = step->state;
    if (!e->tap) return NW_OK;
    nw_tensor t = nw_exec_tensor(e, step->in[0]);
    e->tap(e->tap_user, s->value, &t);
    return NW_OK;
}

static nw_status add_taps(nw_planner *p, const int *values, int count) {
    for (int i = 0; i < count; i++) {
        int v = values[i];
        if (v < 0 || !nw_plan_tapped(p, v)) continue;
        tap_state s = {v};
        int in[1];
        NW_TRY(nw_plan_need(p, v, NW_FORM_REAL, &in[0]));
        NW_TRY(nw_plan_step(p, NULL, run_tap, "tap", &s, sizeof s, 1, in, 0, NULL));
    }
    return NW_OK;
}

static nw_status lower_node(nw_planner *p, nw_node *node) {
    static nw_status (*const families[])(nw_planner *, nw_node *, bool *) = {
        nw_lower_fakequant, nw_lower_conv,        nw_lower_matmul, nw_lower_pool,
        nw_lower_move,      nw_lower_elementwise, nw_lower_rows};
    bool ok = false;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] >= 0 && p->desc[node->in[i]].format == NW_NONE) return nw_lower_eval(p, node);
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] >= 0 && p->desc[node->out[i]].format == NW_NONE) return nw_lower_eval(p, node);
    for (size_t f = 0; f < sizeof families / sizeof *families && !ok && !p->options->reference; f++)
        NW_TRY(families[f](p, node, &ok));
    return ok ? NW_OK : nw_lower_eval(p, node);
}

static nw_status lower_graph(nw_planner *p) {
    nw_graph *g = p->graph;
    NW_TRY(add_inputs(p));
    NW_TRY(add_taps(p, g->inputs, g->input_count));
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        if (p->done[n] || node->dead) continue;
        p->done[n] = 1;
        p->fused = NW_ABSENT;
        NW_TRY(lower_node(p, node));
        NW_TRY(add_taps(p, node->out, node->out_count));
        if (p->fused >= 0 && p->fused != node->out[0]) NW_TRY(add_taps(p, &p->fused, 1));
        nw_arena_reset(&p->scratch);
    }
    p->plan->outputs = nw_arena_array(&p->plan->arena, (size_t)g->output_count + 1, sizeof(int));
    if (!p->plan->outputs) return NW_E_MEMORY;
    for (int i = 0; i < g->output_count; i++) {
        NW_TRY(nw_plan_need(p, g->outputs[i], NW_FORM_REAL, &p->plan->outputs[i]));
    }
    for (int i = 0; i < g->output_count; i++) touch(p, p->plan->outputs[i]); /* alive to the end */
    return place_buffers(p);
}

static nw_status init_planner(nw_planner *p, nw_plan *plan, const nw_binding *binding, const nw_taps *taps,
                              const nw_run_options *options) {
    size_t values = (size_t)plan->graph->value_count + 1;
    *p = (nw_planner){.ctx = plan->ctx,
                      .plan = plan,
                      .graph = plan->graph,
                      .desc = binding->desc,
                      .options = options,
                      .taps = taps};
    nw_arena_init(&p->scratch, p->ctx);
    nw_elementwise_select(options->isa, &p->ew);
    nw_layout_select(options->isa, &p->layout);
    nw_pool_select(options->isa, &p->pools);
    NW_TRY(nw_uses_init(&p->uses, p->graph));
    p->done = nw_calloc(p->ctx, (size_t)p->graph->node_count + 1, 1);
    p->buffer = nw_calloc(p->ctx, values, sizeof *p->buffer);
    p->grid = nw_calloc(p->ctx, values, sizeof *p->grid);
    if (!p->done || !p->buffer || !p->grid) return NW_E_MEMORY;
    memset(p->buffer, 0xff, values * sizeof *p->buffer);
    for (int v = 0; v < p->graph->value_count; v++) { /* packed 8-bit constants lie on a grid */
        const nw_tensor *t = &p->desc[v];
        const nw_qparam *q = t->qparam;
        if (!q || q->grain != NW_GRAIN_TENSOR || (q->format != NW_U8 && q->format != NW_S8)) continue;
        int32_t shift = q->format == NW_S8 ? 128 : 0;
        p->grid[v] = (nw_grid){q->scales[0], nw_qparam_zero(q, 0) + shift, q->qmin + shift, q->qmax + shift};
    }
    return NW_OK;
}

static void free_planner(nw_planner *p) {
    nw_uses_free(&p->uses);
    nw_free(p->ctx, p->done);
    nw_free(p->ctx, p->buffer);
    nw_free(p->ctx, p->grid);
    nw_arena_free(&p->scratch);
}

/* Remembers what the plan was made for. */
static nw_status keep_identity(nw_plan *plan, int count, const nw_tensor *inputs, const uint8_t *fixed) {
    plan->input_count = count;
    plan->inputs = nw_arena_array(&plan->arena, (size_t)count + 1, sizeof *plan->inputs);
    if (!plan->inputs) return NW_E_MEMORY;
    for (int i = 0; i < count; i++) {
        nw_tensor *t = &plan->inputs[i];
        *t = inputs[i];
        t->data = NULL;
        if (!fixed[i]) continue;
        NW_TRY(nw_tensor_alloc(&plan->arena, t));
        memcpy(t->data, inputs[i].data, nw_tensor_bytes(t));
    }
    return NW_OK;
}

/* Binds a copy of the graph; when a shape turns out to depend on the value of a small input, that value becomes part of the
 * plan and binding starts over. */
static nw_status bind_copy(nw_context *ctx, const nw_graph *graph, int count, const nw_tensor *inputs, uint8_t *fixed,
                           nw_graph **copy, nw_binding *binding) {
    for (;;) {
        NW_TRY(nw_graph_copy(graph, ctx, copy));
        nw_status status = nw_graph_resolve(*copy);
        for (int i = 0; i < count && status == NW_OK; i++)
            if (fixed[i]) status = nw_graph_set_constant_copy(*copy, (*copy)->inputs[i], &inputs[i]);
        if (status == NW_OK) status = nw_bind(*copy, inputs, binding);
        if (status == NW_OK && binding->wanted == NW_ABSENT) return NW_OK;
        int wanted = status == NW_OK ? binding->wanted : NW_ABSENT, index = -1;
        for (int i = 0; i < count; i++)
            if ((*copy)->inputs[i] == wanted && !fixed[i]) index = i;
        if (status == NW_OK && index < 0) return NW_OK; /* cannot be had: those nodes run late */
        if (status == NW_OK) nw_binding_free(binding);
        nw_graph_free(*copy);
        *copy = NULL;
        NW_TRY(status);
        fixed[index] = 1;
    }
}

nw_status nw_plan_make(nw_context *ctx, const nw_graph *graph, int input_count, const nw_tensor *inputs,
                       const nw_taps *taps, const nw_run_options *options, nw_plan **out) {
    nw_plan *plan = nw_calloc(ctx, 1, sizeof *plan);
    uint8_t *fixed = nw_calloc(ctx, (size_t)input_count + 1, 1);
    if (!plan || !fixed) {
        nw_free(ctx, plan);
        nw_free(ctx, fixed);
        return NW_E_MEMORY;
    }
    plan->ctx = ctx;
    nw_arena_init(&plan->arena, ctx);
    nw_binding binding;
    nw_status status = bind_copy(ctx, graph, input_count, inputs, fixed, &plan->graph, &binding);
    if (status == NW_OK) {
        nw_planner planner;
        status = init_planner(&planner, plan, &binding, taps, options);
        if (status == NW_OK) status = lower_graph(&planner);
        free_planner(&planner);
        nw_binding_free(&binding);
    }
    if (status == NW_OK) status = keep_identity(plan, input_count, inputs, fixed);
    nw_free(ctx, fixed);
    if (status != NW_OK) nw_plan_free(plan);
    else *out = plan;
    return status;
}

void nw_plan_free(nw_plan *plan) {
    if (!plan) return;
    nw_graph_free(plan->graph);
    nw_arena_free(&plan->arena);
    nw_free(plan->ctx, plan);
}
