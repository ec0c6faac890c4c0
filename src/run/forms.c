/* forms.c: buffers, the physical forms of values, and the conversions between them. */
#include "run/plan.h"

#include <math.h>
#include <string.h>

static int root_of(const nw_plan *plan, int b) {
    while (plan->buffers[b].alias >= 0) b = plan->buffers[b].alias;
    return b;
}

static nw_status new_buffer(nw_planner *p, nw_buffer **out, int *id) {
    nw_plan *plan = p->plan;
    NW_TRY(nw_arena_grow(&plan->arena, (void **)&plan->buffers, &plan->buffer_capacity,
                         (size_t)plan->buffer_count, sizeof *plan->buffers));
    *out = &plan->buffers[plan->buffer_count];
    **out = (nw_buffer){.value = NW_ABSENT, .alias = -1, .first = plan->step_count, .last = plan->step_count};
    *id = plan->buffer_count++;
    return NW_OK;
}

void nw_plan_packed(const nw_planner *p, int v) {
    const nw_constant *c = p->graph->values[v].constant;
    nw_bytes_forget(c->owner, c->tensor.data, nw_tensor_bytes(&c->tensor));
}

void nw_plan_touch(nw_planner *p, int buffer) {
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
    b->value = v;
    b->alias = id;
    p->buffer[v][other] = alias;
    return NW_OK;
}

nw_status nw_plan_define(nw_planner *p, int v, nw_form form, int *buffer) {
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, buffer));
    b->kind = NW_BUFFER_WORK;
    b->value = v;
    b->tensor = physical(p, v, form);
    b->bytes = nw_tensor_bytes(&b->tensor);
    return register_form(p, v, form, *buffer);
}

nw_status nw_plan_define_over(nw_planner *p, int x, int from, int v, nw_form form, int *buffer) {
    NW_TRY(nw_plan_define(p, v, form, buffer));
    const nw_plan *plan = p->plan;
    const nw_buffer *root = &plan->buffers[root_of(plan, from)];
    bool alone = nw_uses_count(&p->uses, x) == 1 && !p->uses.outputs[x] && !nw_plan_tapped(p, x);
    if (alone && root->kind == NW_BUFFER_WORK && root->value == x &&
        root->bytes == plan->buffers[*buffer].bytes)
        plan->buffers[*buffer].alias = from;
    return NW_OK;
}

nw_status nw_plan_define_input(nw_planner *p, int i) {
    int v = p->graph->inputs[i], id;
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, &id));
    b->kind = NW_BUFFER_INPUT;
    b->input = i;
    b->value = v;
    b->tensor = physical(p, v, NW_FORM_REAL);
    return register_form(p, v, NW_FORM_REAL, id);
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
    *data = nw_arena_data(&p->plan->arena, bytes + NW_PLAN_SLACK);
    if (!*data) return NW_E_MEMORY;
    memset((char *)*data + bytes, 0, NW_PLAN_SLACK);
    p->plan->weights += bytes;
    return NW_OK;
}

nw_status nw_plan_step(nw_planner *p, const nw_node *node, nw_step_fn *run, const char *kernel,
                       const void *state, size_t state_size, int in_count, const int *in, int out_count,
                       const int *out) {
    nw_plan *plan = p->plan;
    NW_TRY(nw_arena_grow(&plan->arena, (void **)&plan->steps, &plan->step_capacity, (size_t)plan->step_count,
                         sizeof *plan->steps));
    void *copy = nw_arena_alloc(&plan->arena, state_size);
    int *ids = nw_arena_array(&plan->arena, (size_t)(in_count + out_count) + 1, sizeof *ids);
    if (!copy || !ids) return NW_E_MEMORY;
    memcpy(copy, state, state_size);
    for (int i = 0; i < in_count; i++) nw_plan_touch(p, ids[i] = in[i]);
    for (int i = 0; i < out_count; i++) nw_plan_touch(p, ids[in_count + i] = out[i]);
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

void nw_plan_reason(nw_planner *p, const char *reason) {
    p->plan->steps[p->plan->step_count - 1].reason = reason;
}

void nw_plan_work(nw_planner *p, bool codes, double multiply_adds) {
    nw_work *work = &p->plan->steps[p->plan->step_count - 1].work;
    *(codes ? &work->integer_ops : &work->float_ops) += 2 * multiply_adds;
}

bool nw_plan_has(const nw_planner *p, int v, nw_form form) {
    return p->buffer[v][form] >= 0;
}

bool nw_plan_prefers_last(const nw_planner *p, int v) {
    const int *b = p->buffer[v];
    return b[NW_FORM_REAL] < 0 && b[NW_FORM_CODES] < 0 &&
           (b[NW_FORM_REAL_LAST] >= 0 || b[NW_FORM_CODES_LAST] >= 0 || p->strip[v].buffer >= 0);
}

/* ---- constants ------------------------------------------------------------------------------------------------- */

static nw_status constant_buffer(nw_planner *p, int v, nw_form form, void *data, int *buffer) {
    nw_buffer *b;
    NW_TRY(new_buffer(p, &b, buffer));
    b->kind = NW_BUFFER_CONSTANT;
    b->value = v;
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
    if (!t->qparam && nw_tensor_aligned(t)) return constant_buffer(p, v, NW_FORM_REAL, t->data, &buffer);
    void *real;
    if (!t->qparam) {
        NW_TRY(nw_plan_constant(p, nw_tensor_bytes(t), &real));
        memcpy(real, t->data, nw_tensor_bytes(t));
        return constant_buffer(p, v, NW_FORM_REAL, real, &buffer);
    }
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
        (s->wide ? s->kernels.transpose_b32 : s->kernels.transpose_b8)(s->rows, s->cols, j->from + i * image,
                                                                       s->cols, j->to + i * image, s->rows);
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
    j->s->dequantize(end - begin, j->codes + begin, j->s->grid.scale, j->s->grid.zero,
                     (float *)j->real + begin);
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

nw_status nw_plan_quantize(nw_planner *p, const nw_node *node, int from, int to, nw_form form, int *buffer) {
    grid_state s = {p->ew.quantize_u8, p->ew.dequantize_u8, p->grid[to], nw_tensor_count(&p->desc[to])};
    int in[1] = {from}, out[1];
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

/* A strip brought together. */
typedef struct gather_state {
    size_t pixels, row, offset, stride; /* bytes */
} gather_state;

typedef struct gather_job {
    const gather_state *s;
    const char *from;
    char *to;
} gather_job;

static void gather_pixels(void *user, size_t begin, size_t end) {
    const gather_job *j = user;
    const gather_state *s = j->s;
    for (size_t i = begin; i < end; i++) memcpy(j->to + i * s->row, j->from + i * s->stride, s->row);
}

static nw_status run_gather_strip(nw_exec *e, const nw_step *step) {
    const gather_state *s = step->state;
    gather_job job = {s, (const char *)nw_exec_data(e, step->in[0]) + s->offset,
                      nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->pixels, 1, (double)(s->pixels * s->row) / 10, gather_pixels, &job);
    return NW_OK;
}

static bool only_a_strip(const nw_planner *p, int v) {
    bool any = p->strip[v].buffer >= 0;
    for (int f = 0; f < NW_FORM_COUNT; f++) any = any && p->buffer[v][f] < 0;
    return any;
}

static nw_status gather_strip(nw_planner *p, int v) {
    const nw_tensor *t = &p->desc[v];
    const nw_strip *strip = &p->strip[v];
    const bool codes = nw_plan_on_grid(p, v);
    size_t row = (size_t)t->dims[1] * (codes ? 1 : sizeof(float));
    gather_state s = {nw_tensor_count(t) / (size_t)t->dims[1], row, strip->offset, strip->stride};
    int in[1] = {strip->buffer}, out[1];
    NW_TRY(nw_plan_define(p, v, nw_form_of(codes, true), &out[0]));
    return NW_PLAN_STEP(p, NULL, run_gather_strip, "gather channels", &s, in, out);
}

nw_status nw_plan_need_strip(nw_planner *p, int v, bool codes, nw_strip *strip) {
    if (only_a_strip(p, v) && codes == nw_plan_on_grid(p, v)) {
        *strip = p->strip[v];
        return NW_OK;
    }
    *strip = (nw_strip){.stride = (size_t)p->desc[v].dims[1] * (codes ? 1 : sizeof(float))};
    return nw_plan_need(p, v, nw_form_of(codes, true), &strip->buffer);
}

nw_status nw_plan_need(nw_planner *p, int v, nw_form form, int *buffer) {
    *buffer = -1;
    if (v < 0) return NW_OK;
    if (only_a_strip(p, v)) NW_TRY(gather_strip(p, v));
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
            return nw_fail(p->ctx, NW_E_INTERNAL, "value \"%s\" is read before it is made",
                           p->graph->values[v].name);
        int ignored;
        NW_TRY(convert_layout(p, v, other | NW_FORM_CODES_BIT, form | NW_FORM_CODES_BIT, &ignored));
    }
    return add_dequantize(p, v, form | NW_FORM_CODES_BIT, buffer);
}
