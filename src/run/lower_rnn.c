/* lower_rnn.c: LSTM and GRU: the input's share of all gates for all steps as one matrix product, then step by step the state's
 * share and the cells. Weights that are codes stay codes. A product is on integers where its operand is: the input's when it
 * comes as codes, the state's when the node says so (NW_STATE_FORMAT). */
#include "run/coded.h"

#include "op/quantize.h"

#include <math.h>
#include <string.h>

/* [m][k] · W[n][k]ᵀ (+ bias) in f32. Which of the kernels is there says what W is: real numbers, s8 codes with a scale and zero
 * point per row, or codes that are decoded in registers. */
typedef struct product {
    const nw_gemm_f32_kernel *f32;
    const nw_gemm_u8s8_kernel *u8s8;
    const nw_wgemm_kernel *decoding;
    bool codes; /* the operand is u8, on `grid` where its rows do not bring their own */
    const char *name;
    size_t n, k;
    size_t mr, nr, panel_bytes; /* of the kernel's tiles */
    const void *packed;         /* of f32 and u8s8 */
    const float *bias;          /* [n] or NULL; of f32 and `decoding` */
    nw_epilogue epilogue;       /* of u8s8 */
    nw_wcodes w;                /* of `decoding` */
    nw_grid grid;
} product;

typedef struct direction {
    bool backward;
    product input, state;
    product
        candidate; /* GRU that resets the state before it is multiplied: `state` then makes z and r only */
} direction;

typedef struct rnn_state {
    nw_elementwise ew;
    bool lstm, after_reset; /* after_reset: GRU's linear_before_reset */
    bool restricted;        /* the state is quantized to u8 before it is multiplied */
    size_t steps, batch, input, hidden, gates, directions;
    direction direction[2];
} rnn_state;

/* Buffers of a run. */
typedef struct rnn_run {
    nw_exec *e;
    const rnn_state *s;
    const void *x;        /* [steps·batch][input] f32 or codes */
    const float *x_scale; /* [steps·batch] of codes whose grid was found while running, or NULL */
    const int32_t *x_zero;
    const int32_t *lengths; /* [batch] or NULL */
    float *gates;           /* [steps][batch][gates·hidden] the input's share, of one direction */
    float *share;           /* [batch][gates·hidden] the state's */
    float *operand;         /* [batch][hidden] */
    uint8_t *codes;         /* [batch][hidden] */
    float *scale;           /* [batch] of codes */
    int32_t *zero;
    float *y;     /* [steps][directions][batch][hidden], or NULL */
    float *h, *c; /* [directions][batch][hidden] */
} rnn_run;

/* ---- products ---------------------------------------------------------------------------------------------------- */

typedef struct product_job {
    const product *p;
    nw_gemm_f32_args f32;
    nw_gemm_u8s8_args u8s8;
    nw_wgemm_f32_args wcodes;
    nw_wgemm_u8_args u8_wcodes;
    size_t m;
    bool by_columns, descending;
} product_job;

static void product_part(const product_job *j, size_t m0, size_t m1, size_t n0, size_t n1) {
    const product *p = j->p;
    if (p->u8s8)
        nw_gemm_u8s8_run(p->u8s8, &j->u8s8, m0, m1, n0, n1);
    else if (p->f32)
        nw_gemm_f32_run(p->f32, &j->f32, m0, m1, n0, n1);
    else if (p->codes)
        nw_wgemm_u8_run(p->decoding, &j->u8_wcodes, m0, m1, n0, n1);
    else
        nw_wgemm_f32_run(p->decoding, &j->wcodes, m0, m1, n0, n1);
}

#define RUN_BYTES (128 * 1024)

/* With few rows reading W takes all the time, and W is read again at the next step: in runs of columns that every other step
 * takes backwards, so that it begins with those that are still in the cache. */
static void product_range(void *user, size_t begin, size_t end) {
    const product_job *j = user;
    if (!j->by_columns) {
        product_part(j, begin, end, 0, j->p->n);
        return;
    }
    size_t panels = j->p->panel_bytes < RUN_BYTES ? RUN_BYTES / j->p->panel_bytes : 1;
    size_t run = panels * j->p->nr, runs = (end - begin + run - 1) / run;
    for (size_t i = 0; i < runs; i++) {
        size_t from = begin + (j->descending ? runs - 1 - i : i) * run;
        product_part(j, 0, j->m, from, from + run < end ? from + run : end);
    }
}

/* c[m][ldc] = a·Wᵀ + bias; scale, zero [m]: of the rows of codes, or NULL when the product knows them. */
static void multiply(const rnn_run *r, const product *p, size_t m, const void *a, const float *scale,
                     const int32_t *zero, bool descending, float *c, size_t ldc) {
    const size_t c_bytes = ldc * sizeof *c, a_bytes = p->k * (p->codes ? 1 : sizeof(float));
    const nw_rows rows = {.base = a, .stride = a_bytes};
    product_job job = {.p = p, .m = m, .by_columns = m < 16 || p->decoding, .descending = descending};
    if (p->u8s8) {
        job.u8s8 = (nw_gemm_u8s8_args){.m = m,
                                       .n = p->n,
                                       .k = p->k,
                                       .taps = 1,
                                       .rows = rows,
                                       .packed = p->packed,
                                       .c = c,
                                       .ldc = c_bytes,
                                       .epilogue = p->epilogue};
        job.u8s8.epilogue.row_scale = scale;
        job.u8s8.epilogue.row_zero = zero;
    } else if (p->f32) {
        job.f32 = (nw_gemm_f32_args){.m = m,
                                     .n = p->n,
                                     .k = p->k,
                                     .taps = 1,
                                     .rows = rows,
                                     .packed = p->packed,
                                     .c = c,
                                     .ldc = c_bytes,
                                     .bias = p->bias,
                                     .lo = -INFINITY,
                                     .hi = INFINITY};
    } else if (p->codes) {
        job.u8_wcodes = (nw_wgemm_u8_args){.w = &p->w,
                                           .m = m,
                                           .a = a,
                                           .lda = a_bytes,
                                           .c = c,
                                           .ldc = c_bytes,
                                           .bias = p->bias,
                                           .lo = -INFINITY,
                                           .hi = INFINITY,
                                           .scale = p->grid.scale,
                                           .zero = p->grid.zero,
                                           .row_scale = scale,
                                           .row_zero = zero};
    } else {
        job.wcodes = (nw_wgemm_f32_args){.w = &p->w,
                                         .m = m,
                                         .a = a,
                                         .lda = a_bytes,
                                         .c = c,
                                         .ldc = c_bytes,
                                         .bias = p->bias,
                                         .lo = -INFINITY,
                                         .hi = INFINITY};
    }
    nw_exec_parallel(r->e, job.by_columns ? p->n : m, job.by_columns ? p->nr : p->mr,
                     nw_product_nanoseconds(p->codes, m, p->n, p->k), product_range, &job);
}

/* What a state [batch][hidden] is multiplied as: its codes, and where the product is on real numbers what they mean. */
static const void *operand_of(const rnn_run *r, const product *p, const float *state) {
    const rnn_state *s = r->s;
    size_t n = s->hidden;
    if (!s->restricted) return state;
    for (size_t b = 0; b < s->batch; b++) {
        nw_quantize_measured(&s->ew, n, state + b * n, r->codes + b * n, &r->scale[b], &r->zero[b]);
        if (!p->codes) s->ew.dequantize_u8(n, r->codes + b * n, r->scale[b], r->zero[b], r->operand + b * n);
    }
    return p->codes ? (const void *)r->codes : r->operand;
}

/* The share of what operand_of gave, in columns `first` on of r->share. */
static void multiply_state(const rnn_run *r, const product *p, const void *operand, bool descending,
                           size_t first) {
    const rnn_state *s = r->s;
    multiply(r, p, s->batch, operand, r->scale, r->zero, descending, r->share + first, s->gates * s->hidden);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* A step of one sample. */
typedef struct place {
    bool active;    /* it has not come to its end */
    size_t time;    /* a reversed direction starts at the sample's own end */
    const float *x; /* [gates·hidden] the input's share */
} place;

static place place_of(const rnn_run *r, const direction *d, size_t step, size_t b) {
    const rnn_state *s = r->s;
    size_t length = r->lengths ? (size_t)r->lengths[b] : s->steps;
    place p = {.active = step < length, .time = step};
    if (d->backward && p.active) p.time = length - 1 - step;
    p.x = r->gates + (p.time * s->batch + b) * s->gates * s->hidden;
    return p;
}

/* The share of a GRU's candidate where the reset comes first: (σ(x_r + r_r) ⊙ h)·Rhᵀ. */
static void multiply_reset(const rnn_run *r, const direction *d, size_t step, const float *h) {
    const rnn_state *s = r->s;
    size_t n = s->hidden;
    for (size_t b = 0; b < s->batch; b++) {
        const float *x = place_of(r, d, step, b).x, *share = r->share + b * 3 * n;
        float *reset = r->operand + b * n;
        s->ew.add_f32(n, x + n, 1, share + n, 1, reset);
        s->ew.sigmoid_f32(n, reset, reset);
        s->ew.mul_f32(n, reset, 1, h + b * n, 1, reset);
    }
    multiply_state(r, &d->candidate, operand_of(r, &d->candidate, r->operand), step & 1, 2 * n);
}

static void run_step(const rnn_run *r, size_t d, size_t step) {
    const rnn_state *s = r->s;
    const direction *way = &s->direction[d];
    size_t n = s->hidden, state = s->batch * n;
    float *h = r->h + d * state, *c = s->lstm ? r->c + d * state : NULL;
    multiply_state(r, &way->state, operand_of(r, &way->state, h), step & 1, 0);
    if (way->candidate.n) multiply_reset(r, way, step, h);
    for (size_t b = 0; b < s->batch; b++) {
        place p = place_of(r, way, step, b);
        const float *share = r->share + b * s->gates * n;
        float *y = r->y ? r->y + (p.time * s->directions + d) * state + b * n : NULL;
        if (p.active && s->lstm)
            s->ew.lstm_f32(n, p.x, share, c + b * n, h + b * n);
        else if (p.active)
            s->ew.gru_f32(n, s->after_reset, p.x, share, h + b * n);
        if (y && p.active)
            memcpy(y, h + b * n, n * sizeof *y);
        else if (y)
            memset(y, 0, n * sizeof *y);
    }
}

static nw_status check_lengths(const rnn_run *r, const nw_step *step) {
    for (size_t b = 0; b < r->s->batch && r->lengths; b++)
        if (r->lengths[b] < 0 || (size_t)r->lengths[b] > r->s->steps)
            return nw_fail(r->e->ctx, NW_E_SHAPE, "%s \"%s\": sequence_lens has %d, X has %zu steps",
                           step->op, step->name, r->lengths[b], r->s->steps);
    return NW_OK;
}

static void load_state(float *state, const void *initial, size_t bytes) {
    if (initial)
        memcpy(state, initial, bytes);
    else
        memset(state, 0, bytes);
}

enum { IN_X, IN_H, IN_C, IN_LENGTHS, IN_X_SCALE, IN_X_ZERO, IN_COUNT };
enum { OUT_Y, OUT_H, OUT_C, OUT_GATES, OUT_SHARE, OUT_OPERAND, OUT_CODES, OUT_SCALE, OUT_ZERO, OUT_COUNT };

/* h and c are always buffers. */
static nw_status run_rnn(nw_exec *e, const nw_step *step) {
    const rnn_state *s = step->state;
    rnn_run r = {.e = e,
                 .s = s,
                 .x = nw_exec_data(e, step->in[IN_X]),
                 .x_scale = nw_exec_data(e, step->in[IN_X_SCALE]),
                 .x_zero = nw_exec_data(e, step->in[IN_X_ZERO]),
                 .lengths = nw_exec_data(e, step->in[IN_LENGTHS]),
                 .gates = nw_exec_data(e, step->out[OUT_GATES]),
                 .share = nw_exec_data(e, step->out[OUT_SHARE]),
                 .operand = nw_exec_data(e, step->out[OUT_OPERAND]),
                 .codes = nw_exec_data(e, step->out[OUT_CODES]),
                 .scale = nw_exec_data(e, step->out[OUT_SCALE]),
                 .zero = nw_exec_data(e, step->out[OUT_ZERO]),
                 .y = nw_exec_data(e, step->out[OUT_Y]),
                 .h = nw_exec_data(e, step->out[OUT_H]),
                 .c = nw_exec_data(e, step->out[OUT_C])};
    size_t bytes = s->directions * s->batch * s->hidden * sizeof(float);
    NW_TRY(check_lengths(&r, step));
    load_state(r.h, nw_exec_data(e, step->in[IN_H]), bytes);
    if (s->lstm) load_state(r.c, nw_exec_data(e, step->in[IN_C]), bytes);
    for (size_t d = 0; d < s->directions; d++) {
        multiply(&r, &s->direction[d].input, s->steps * s->batch, r.x, r.x_scale, r.x_zero, false, r.gates,
                 s->gates * s->hidden);
        for (size_t i = 0; i < s->steps; i++) run_step(&r, d, i);
    }
    return NW_OK;
}

/* ---- planning: the node ------------------------------------------------------------------------------------------ */

static bool default_activations(const nw_node *node, bool lstm) {
    const nw_attr *a = nw_node_attr(node, "activations");
    if (nw_node_attr(node, "activation_alpha") || nw_node_attr(node, "activation_beta")) return false;
    if (!a) return true;
    if (a->kind != NW_ATTR_STRINGS) return false;
    for (size_t i = 0; i < a->count; i++) {
        const char *want = i % (lstm ? 3 : 2) == 0 ? "Sigmoid" : "Tanh";
        if (strcmp(a->strings[i].data, want) != 0) return false;
    }
    return true;
}

static bool is_real(const nw_planner *p, int v) {
    return p->desc[v].format == NW_F32 || p->desc[v].qparam;
}

/* Sizes, and whether the node is of the plain kind done here. */
static bool plain(const nw_planner *p, const nw_node *node, rnn_state *s) {
    s->lstm = nw_node_is(node, "LSTM");
    if ((!s->lstm && !nw_node_is(node, "GRU")) || node->in_count < 3) return false;
    const nw_tensor *x = &p->desc[node->in[0]];
    const nw_constant *w = nw_graph_constant(p->graph, nw_node_in(node, 1)),
                      *r = nw_graph_constant(p->graph, nw_node_in(node, 2));
    int peephole = nw_node_in(node, 7), lengths = nw_node_in(node, 4), bias = nw_node_in(node, 3);
    if (!w || !r || !is_real(p, node->in[0]) || !is_real(p, node->in[1]) || !is_real(p, node->in[2]))
        return false;
    if ((s->lstm && peephole >= 0) || (bias >= 0 && !nw_graph_constant(p->graph, bias))) return false;
    if (lengths >= 0 && p->desc[lengths].format != NW_S32) return false;
    if (nw_node_int(node, "layout", 0) || nw_node_int(node, "input_forget", 0) || nw_node_attr(node, "clip"))
        return false;
    if (!default_activations(node, s->lstm) || nw_tensor_count(x) == 0) return false;
    s->restricted = nw_node_attr(node, NW_STATE_FORMAT) != NULL;
    if (s->restricted && !nw_node_string_is(node, NW_STATE_FORMAT, "", "u8")) return false;
    s->gates = s->lstm ? 4 : 3;
    s->steps = (size_t)x->dims[0];
    s->batch = (size_t)x->dims[1];
    s->input = (size_t)x->dims[2];
    s->directions = (size_t)w->tensor.dims[0];
    s->hidden = (size_t)r->tensor.dims[2];
    s->after_reset = !s->lstm && nw_node_int(node, "linear_before_reset", 0) != 0;
    s->direction[0].backward = nw_node_string_is(node, "direction", "forward", "reverse");
    s->direction[1].backward = true;
    return s->directions <= 2 && s->hidden > 0;
}

/* ---- planning: weights ------------------------------------------------------------------------------------------- */

#define MOST_SUMMED 65536 /* products of codes that fit a sum (gemm.h) */

/* What W or R is for kernels, all directions one behind the other: [directions·rows][k]. */
typedef struct matrix {
    int value;
    size_t k;
    bool codes;     /* multiplied with u8 codes */
    bool row_codes; /* 8 bits, with a scale for each row */
    bool decoding;  /* codes that are decoded in registers, of each direction: */
    nw_wcodes w[2];
    nw_wcodes_source source[2];
    /* read by read_matrix unless `decoding` */
    const int8_t *s8;    /* of row_codes */
    const float *scale;  /* [rows] of row_codes */
    const int32_t *zero; /* [rows] in the plan's arena, or NULL when all are 0 */
    const float *real;   /* of others */
} matrix;

/* Whether a packed constant [directions][rows][k] has 8-bit codes with one scale for each row, or for more than a row. */
static bool has_row_codes(const nw_tensor *t) {
    const nw_qparam *q = t->qparam;
    if (!q || (q->format != NW_S8 && q->format != NW_U8) || t->dims[2] > MOST_SUMMED) return false;
    return q->grain == NW_GRAIN_TENSOR || (q->grain == NW_GRAIN_AXIS && q->axis == 1) ||
           (q->grain == NW_GRAIN_BLOCK && q->axis == 2 && q->block >= t->dims[2]);
}

/* Direction d of a packed constant [directions][rows][k] as a matrix. false: its codes do not begin with a byte, or blocks have
 * several directions. */
static bool find_direction(const nw_tensor *t, size_t d, nw_qparam *grid, nw_tensor *out) {
    const size_t codes = (size_t)t->dims[1] * (size_t)t->dims[2];
    if (d * codes * (size_t)nw_format_bits(t->format) % 8 != 0) return false;
    if (t->qparam->grain == NW_GRAIN_BLOCK && t->qparam->axis == 0) return false;
    *out = nw_tensor_rows(t, d, 1, grid);
    if (grid->grain == NW_GRAIN_AXIS && grid->axis == 0) grid->grain = NW_GRAIN_TENSOR;
    grid->axis -= 1; /* [1, rows, k] without the 1 */
    nw_tensor_set_shape(out, 2, t->dims + 1);
    return true;
}

/* What constant v will be multiplied as; codes: the operand can be u8. Tables are in the plan's arena, other arrays of *out are
 * v's or in p->scratch. */
static nw_status describe_matrix(nw_planner *p, int v, bool codes, matrix *out) {
    const nw_tensor *t = &p->graph->values[v].constant->tensor;
    *out = (matrix){.value = v, .k = (size_t)t->dims[2], .decoding = t->qparam != NULL};
    if (codes && has_row_codes(t)) {
        *out = (matrix){.value = v, .k = (size_t)t->dims[2], .codes = true, .row_codes = true};
        return NW_OK;
    }
    out->codes = codes && t->qparam && t->dims[2] <= MOST_SUMMED;
    for (int64_t d = 0; d < t->dims[0] && out->decoding; d++) {
        nw_qparam grid;
        nw_tensor part;
        out->decoding = find_direction(t, (size_t)d, &grid, &part);
        if (out->decoding)
            NW_TRY(nw_plan_wcodes_of(p, &part, 0, &out->w[d], &out->source[d], &out->decoding));
        out->codes &= out->w[d].whole;
    }
    out->codes &= out->decoding;
    return NW_OK;
}

static nw_status read_row_codes(nw_planner *p, const nw_tensor *t, matrix *out) {
    const nw_qparam *q = t->qparam;
    size_t each = (size_t)t->dims[1], rows = (size_t)t->dims[0] * each;
    float *scale = nw_arena_array(&p->scratch, rows, sizeof *scale);
    int32_t *zero = nw_arena_array(&p->plan->arena, rows, sizeof *zero);
    if (!scale || !zero) return NW_E_MEMORY;
    int32_t shift = q->format == NW_U8 ? -128 : 0;
    bool any_zero = false;
    for (size_t i = 0; i < rows; i++) {
        size_t g = q->grain == NW_GRAIN_TENSOR ? 0 : q->grain == NW_GRAIN_AXIS ? i % each : i;
        scale[i] = nw_qparam_scale(q, g);
        zero[i] = nw_qparam_zero(q, g) + shift;
        any_zero |= zero[i] != 0;
    }
    out->scale = scale;
    out->zero = any_zero ? zero : NULL;
    out->s8 = t->data;
    if (q->format == NW_U8) {
        uint8_t *flipped = nw_arena_data(&p->scratch, rows * out->k);
        if (!flipped) return NW_E_MEMORY;
        p->ew.flip_u8(rows * out->k, t->data, flipped);
        out->s8 = (const int8_t *)flipped;
    }
    return NW_OK;
}

static nw_status read_matrix(nw_planner *p, matrix *out) {
    const nw_tensor *t = &p->graph->values[out->value].constant->tensor;
    nw_tensor real;
    if (out->decoding) return NW_OK;
    if (out->row_codes) return read_row_codes(p, t, out);
    NW_TRY(nw_tensor_to_f32(&p->scratch, t, &real));
    out->real = real.data;
    return NW_OK;
}

/* ---- planning: products ------------------------------------------------------------------------------------------ */

static nw_status pack_real(nw_planner *p, const matrix *w, size_t first, product *out) {
    const nw_gemm_f32_kernel *kernel = nw_gemm_f32_select(p->options->isa);
    void *packed;
    NW_TRY(nw_plan_constant(p, nw_gemm_f32_packed_bytes(kernel, out->n, out->k, 1), &packed));
    nw_gemm_f32_pack(kernel, out->n, out->k, 1, w->real + first * w->k, w->k, 0, 1, packed);
    out->f32 = kernel;
    out->packed = packed;
    out->name = kernel->name;
    out->mr = kernel->mr;
    out->nr = kernel->nr;
    out->panel_bytes = kernel->nr * w->k * sizeof(float);
    return NW_OK;
}

static nw_status pack_row_codes(nw_planner *p, const matrix *w, size_t first, const nw_grid *a,
                                product *out) {
    const nw_gemm_u8s8_kernel *kernel = nw_gemm_u8s8_select(p->options->isa);
    const size_t n = out->n, k = out->k;
    const nw_weights part = {.codes = w->s8 + first * k,
                             .scale = w->scale + first,
                             .zero = w->zero ? w->zero + first : NULL,
                             .channels = n};
    const nw_grid unit = {.scale = 1.0f};
    const nw_follow nothing = {.lo = -INFINITY, .hi = INFINITY};
    int32_t *sums = nw_arena_array(&p->plan->arena, n, sizeof *sums);
    void *packed;
    if (!sums) return NW_E_MEMORY;
    nw_gemm_u8s8_col_sums(n, k, 1, part.codes, k, 0, 1, part.zero, sums);
    NW_TRY(nw_plan_epilogue(p, a->scale > 0 ? a : &unit, &part, out->bias, sums, &nothing, &out->epilogue));
    out->epilogue.col_sum = sums;
    NW_TRY(nw_plan_constant(p, nw_gemm_u8s8_packed_bytes(kernel, n, k, 1), &packed));
    nw_gemm_u8s8_pack(kernel, n, k, 1, part.codes, k, 0, 1, packed);
    out->u8s8 = kernel;
    out->packed = packed;
    out->name = kernel->name;
    out->mr = kernel->mr;
    out->nr = kernel->nr;
    out->panel_bytes = kernel->nr * k;
    return NW_OK;
}

/* first: a row of direction d. */
static nw_status pack_codes(nw_planner *p, const matrix *w, size_t d, size_t first, product *out) {
    const nw_wgemm_kernel *kernel = nw_wgemm_select(p->options->isa);
    nw_wcodes_source source = w->source[d];
    float *sums;
    void *packed;
    out->w = w->w[d];
    out->w.n = out->n;
    source.first_n = first;
    const size_t bytes = nw_wcodes_bytes(kernel->nr, &out->w);
    if (bytes == 0)
        return nw_fail(p->ctx, NW_E_SHAPE, "the weights \"%s\" are too large for this machine",
                       p->graph->values[w->value].name);
    NW_TRY(nw_plan_constant(p, bytes, &packed));
    NW_TRY(nw_plan_constant(p, out->n * sizeof *sums, (void **)&sums));
    nw_wcodes_pack(kernel->nr, &out->w, &source, packed, sums);
    out->w.packed = packed;
    out->w.sums = sums;
    out->decoding = kernel;
    out->name = out->codes ? kernel->name_u8 : kernel->name;
    out->mr = kernel->mr;
    out->nr = kernel->nr;
    out->panel_bytes = bytes / ((out->n + kernel->nr - 1) / kernel->nr);
    return NW_OK;
}

/* Rows [first, first + n) of direction d, which has `rows`; a: the grid of the operand when it is codes, scale 0 for one that each
 * of its rows brings. */
static nw_status make_product(nw_planner *p, const matrix *w, size_t d, size_t rows, size_t first, size_t n,
                              const float *bias, const nw_grid *a, product *out) {
    *out = (product){.codes = w->codes, .n = n, .k = w->k, .bias = bias, .grid = *a};
    if (w->decoding) return pack_codes(p, w, d, first, out);
    if (w->row_codes) return pack_row_codes(p, w, d * rows + first, a, out);
    return pack_real(p, w, d * rows + first, out);
}

/* B [directions][2·gates·hidden], or NULL: Wb + Rb belong to the input's share, but GRU's Rbh with after_reset to the state's. */
static nw_status split_bias(nw_planner *p, const rnn_state *s, const float *b, const float **input,
                            const float **state) {
    size_t all = s->gates * s->hidden, own = s->after_reset ? 2 * s->hidden : all;
    *input = *state = NULL;
    if (!b) return NW_OK;
    float *in = nw_arena_array(&p->plan->arena, all, sizeof *in),
          *rest = nw_arena_array(&p->plan->arena, all, sizeof *rest);
    if (!in || !rest) return NW_E_MEMORY;
    for (size_t i = 0; i < all; i++) {
        in[i] = b[i] + (i < own ? b[all + i] : 0.0f);
        rest[i] = i < own ? 0.0f : b[all + i];
    }
    *input = in;
    *state = s->after_reset ? rest : NULL;
    return NW_OK;
}

static nw_status make_direction(nw_planner *p, const rnn_state *s, size_t d, const matrix *w, const matrix *r,
                                const float *b, const nw_grid *x, direction *out) {
    size_t n = s->hidden, all = s->gates * n;
    bool reset_first = !s->lstm && !s->after_reset;
    const nw_grid by_row = {0};
    const float *input, *state;
    NW_TRY(split_bias(p, s, b ? b + d * 2 * all : NULL, &input, &state));
    NW_TRY(make_product(p, w, d, all, 0, all, input, x, &out->input));
    NW_TRY(make_product(p, r, d, all, 0, reset_first ? 2 * n : all, state, &by_row, &out->state));
    return reset_first ? make_product(p, r, d, all, 2 * n, n, NULL, &by_row, &out->candidate) : NW_OK;
}

/* ---- planning: the step ------------------------------------------------------------------------------------------ */

nw_status nw_rnn_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok) {
    rnn_state s;
    matrix w;
    *ok = false;
    if (!plain(p, node, &s) || node->in[0] != codes) return NW_OK;
    for (int i = 1; i < node->in_count; i++)
        if (node->in[i] == codes) return NW_OK;
    NW_TRY(describe_matrix(p, node->in[1], true, &w));
    *ok = w.codes;
    return NW_OK;
}

static nw_status define_buffers(nw_planner *p, const nw_node *node, const rnn_state *s, int *out) {
    size_t state = s->batch * s->hidden * sizeof(float);
    for (int i = 0; i < OUT_COUNT; i++) out[i] = -1;
    for (int i = 0; i < 3; i++) {
        int v = nw_node_out(node, i);
        if (v >= 0)
            NW_TRY(nw_plan_define(p, v, NW_FORM_REAL, &out[i]));
        else if (i > 0)
            NW_TRY(nw_plan_temporary(p, s->directions * state, &out[i]));
    }
    NW_TRY(nw_plan_temporary(p, s->steps * s->gates * state, &out[OUT_GATES]));
    NW_TRY(nw_plan_temporary(p, s->gates * state, &out[OUT_SHARE]));
    NW_TRY(nw_plan_temporary(p, state, &out[OUT_OPERAND]));
    if (!s->restricted) return NW_OK;
    NW_TRY(nw_plan_temporary(p, s->batch * s->hidden, &out[OUT_CODES]));
    NW_TRY(nw_plan_temporary(p, s->batch * sizeof(float), &out[OUT_SCALE]));
    return nw_plan_temporary(p, s->batch * sizeof(int32_t), &out[OUT_ZERO]);
}

nw_status nw_lower_rnn(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    rnn_state s = {.ew = p->ew};
    if (!plain(p, node, &s)) return NW_OK;
    int x = node->in[0], in[IN_COUNT] = {-1, -1, -1, -1, -1, -1}, out[OUT_COUNT];
    bool by_row = p->row_grid[x][0] >= 0;
    const float *b;
    size_t count;
    matrix w, r;
    NW_TRY(nw_plan_real_constant(p, nw_node_in(node, 3), &b, &count));
    NW_TRY(describe_matrix(p, node->in[1], by_row || nw_plan_on_grid(p, x), &w));
    NW_TRY(describe_matrix(p, node->in[2], s.restricted, &r));
    NW_TRY(read_matrix(p, &w));
    NW_TRY(read_matrix(p, &r));
    const nw_grid none = {0};
    for (size_t d = 0; d < s.directions; d++)
        NW_TRY(make_direction(p, &s, d, &w, &r, b, by_row ? &none : &p->grid[x], &s.direction[d]));
    nw_plan_packed(p, node->in[1]);
    nw_plan_packed(p, node->in[2]);
    NW_TRY(nw_plan_need(p, x, nw_form_of(w.codes, false), &in[IN_X]));
    NW_TRY(nw_plan_need(p, nw_node_in(node, 5), NW_FORM_REAL, &in[IN_H]));
    if (s.lstm) NW_TRY(nw_plan_need(p, nw_node_in(node, 6), NW_FORM_REAL, &in[IN_C]));
    NW_TRY(nw_plan_need(p, nw_node_in(node, 4), NW_FORM_REAL, &in[IN_LENGTHS]));
    if (by_row) memcpy(&in[IN_X_SCALE], p->row_grid[x], sizeof p->row_grid[x]);
    NW_TRY(define_buffers(p, node, &s, out));
    *ok = true;
    NW_TRY(NW_PLAN_STEP(p, node, run_rnn, s.direction[0].state.name, &s, in, out));
    double rows = (double)s.directions * (double)s.steps * (double)s.batch * (double)(s.gates * s.hidden);
    nw_plan_work(p, w.codes, rows * (double)s.input);
    nw_plan_work(p, r.codes, rows * (double)s.hidden);
    if (!r.codes)
        nw_plan_reason(p, !s.restricted ? "float: its state is not quantized"
                                        : "float: its weights are no codes that integers multiply");
    else if (!w.codes)
        nw_plan_reason(p, "partly float: its input is not on an 8-bit grid");
    return NW_OK;
}
