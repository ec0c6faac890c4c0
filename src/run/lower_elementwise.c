/* lower_elementwise.c: element by element: tables and residual kernels on codes, vector kernels on f32, and any operator of
 * one argument in whatever layout its input has. */
#include "run/plan.h"

#include <math.h>
#include <string.h>

/* ---- one argument ---------------------------------------------------------------------------------------------- */

typedef struct table_state {
    nw_lookup_u8_fn *lookup;
    size_t count;
    uint8_t table[256];
} table_state;

typedef struct table_job {
    const table_state *s;
    const uint8_t *x;
    uint8_t *y;
} table_job;

static void table_range(void *user, size_t begin, size_t end) {
    const table_job *j = user;
    j->s->lookup(end - begin, j->x + begin, j->s->table, j->y + begin);
}

static nw_status run_table(nw_exec *e, const nw_step *step) {
    const table_state *s = step->state;
    table_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / 16, table_range, &job);
    return NW_OK;
}

/* The node's function at all 256 codes of a grid, by its own reference. */
static nw_status tabulate(nw_planner *p, const nw_node *node, const nw_grid *in, float *values) {
    float codes[256];
    for (int q = 0; q < 256; q++) codes[q] = in->scale * (float)(q - in->zero);
    nw_tensor x = {.format = NW_F32, .rank = 1, .dims = {256}, .data = codes}, y = x;
    y.data = values;
    nw_op_call call;
    NW_TRY(nw_plan_call(p, node, &call));
    const nw_tensor **args = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *args);
    if (!args) return NW_E_MEMORY;
    for (int i = 0; i < node->in_count; i++) args[i] = call.in[i];
    args[0] = &x;
    call.in = args;
    call.out = &y;
    return nw_op_eval(&call);
}

/* Codes to codes through a table: the output's FakeQuant, or for Relu the input's own grid. */
static nw_status lower_table(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0];
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, node->out[0], true, &follow));
    if (follow.grid.scale == 0 &&
        nw_node_is(node, "Relu")) { /* 0 is on every grid: the result stays on this one */
        follow = (nw_follow){.value = node->out[0], .lo = -INFINITY, .hi = INFINITY, .grid = p->grid[x]};
        follow.code_lo = follow.grid.lo;
        follow.code_hi = follow.grid.hi;
    }
    *ok = follow.grid.scale > 0;
    if (!*ok) return NW_OK;
    table_state s = {.lookup = p->ew.lookup_u8, .count = nw_tensor_count(&p->desc[x])};
    float values[256];
    NW_TRY(tabulate(p, node, &p->grid[x], values));
    for (int q = 0; q < 256; q++) {
        int32_t code = nw_grid_code(&follow.grid, values[q]);
        s.table[q] = (uint8_t)(code < follow.code_lo   ? follow.code_lo
                               : code > follow.code_hi ? follow.code_hi
                                                       : code);
    }
    nw_form form = nw_form_of(true, nw_plan_prefers_last(p, x));
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, x, form, &in[0]));
    nw_plan_fuse(p, &follow);
    p->grid[follow.value] = follow.grid;
    NW_TRY(nw_plan_define(p, follow.value, form, &out[0]));
    return NW_PLAN_STEP(p, node, run_table, "table of 256 codes", &s, in, out);
}

typedef struct unary_state {
    nw_unary_f32_fn *fn; /* one of the three */
    nw_clamp_f32_fn *clamp;
    nw_hardsigmoid_f32_fn *hardsigmoid;
    float a, b; /* lo and hi, or alpha and beta */
    size_t count;
} unary_state;

typedef struct unary_job {
    const unary_state *s;
    const float *x;
    float *y;
} unary_job;

static void unary_range(void *user, size_t begin, size_t end) {
    const unary_job *j = user;
    const unary_state *s = j->s;
    if (s->fn)
        s->fn(end - begin, j->x + begin, j->y + begin);
    else if (s->clamp)
        s->clamp(end - begin, j->x + begin, s->a, s->b, j->y + begin);
    else
        s->hardsigmoid(end - begin, j->x + begin, s->a, s->b, j->y + begin);
}

static nw_status run_unary(nw_exec *e, const nw_step *step) {
    const unary_state *s = step->state;
    unary_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->count, 64, (double)s->count / (s->fn ? 2 : 8), unary_range, &job);
    return NW_OK;
}

static nw_unary_f32_fn *vector_function(const nw_planner *p, const nw_node *node) {
    if (nw_node_is(node, "Sigmoid")) return p->ew.sigmoid_f32;
    if (nw_node_is(node, "Tanh")) return p->ew.tanh_f32;
    if (nw_node_is(node, "Exp")) return p->ew.exp_f32;
    if (nw_node_is(node, "Erf")) return p->ew.erf_f32;
    if (nw_node_is(node, "HardSwish")) return p->ew.hardswish_f32;
    if (nw_node_is(node, "Swish") && nw_node_float(node, "alpha", 1.0f) == 1.0f) return p->ew.silu_f32;
    if (nw_node_is(node, "Gelu"))
        return nw_node_string_is(node, "approximate", "none", "tanh") ? p->ew.gelu_tanh_f32 : p->ew.gelu_f32;
    return NULL;
}

static bool clamp_limits(const nw_planner *p, const nw_node *node, float *lo, float *hi) {
    *lo = nw_node_is(node, "Relu") ? 0.0f : nw_node_float(node, "min", -INFINITY);
    *hi = nw_node_is(node, "Relu") ? INFINITY : nw_node_float(node, "max", INFINITY);
    if (!nw_node_is(node, "Relu") && !nw_node_is(node, "Clip")) return false;
    for (int i = 1; i < node->in_count; i++) {
        const nw_constant *c = nw_graph_constant(p->graph, node->in[i]);
        if (node->in[i] < 0) continue;
        if (!c || c->tensor.format != NW_F32 || nw_tensor_count(&c->tensor) != 1) return false;
        *(i == 1 ? lo : hi) = *(const float *)c->tensor.data;
    }
    return *lo <= *hi;
}

/* False: there is only the reference. */
static bool choose_unary(const nw_planner *p, const nw_node *node, unary_state *s) {
    if ((s->fn = vector_function(p, node))) return true;
    if (clamp_limits(p, node, &s->a, &s->b)) {
        s->clamp = p->ew.clamp_f32;
        return true;
    }
    if (!nw_node_is(node, "HardSigmoid")) return false;
    s->hardsigmoid = p->ew.hardsigmoid_f32;
    s->a = nw_node_float(node, "alpha", 0.2f);
    s->b = nw_node_float(node, "beta", 0.5f);
    return true;
}

static nw_status lower_unary(nw_planner *p, nw_node *node, bool *ok) {
    int x = node->in[0];
    for (int i = 1; i < node->in_count; i++)
        if (node->in[i] >= 0 && nw_tensor_count(&p->desc[node->in[i]]) != 1) return NW_OK;
    for (int i = 1; i < node->out_count; i++)
        if (node->out[i] >= 0) return NW_OK;
    if (nw_plan_on_grid(p, x) && p->desc[node->out[0]].format == NW_F32) {
        bool constant = true;
        for (int i = 1; i < node->in_count; i++)
            constant &= node->in[i] < 0 || p->graph->values[node->in[i]].constant != NULL;
        if (constant) NW_TRY(lower_table(p, node, ok));
        if (*ok) return NW_OK;
    }
    bool f32 = p->desc[x].format == NW_F32 && p->desc[node->out[0]].format == NW_F32;
    bool last = nw_plan_prefers_last(p, x);
    unary_state s = {.count = nw_tensor_count(&p->desc[x])};
    bool kernel = f32 && choose_unary(p, node, &s);
    if (!kernel && !last) return NW_OK; /* nothing to gain over the reference */
    int out[1];
    int *in = nw_arena_array(&p->scratch, (size_t)node->in_count + 1, sizeof *in);
    if (!in) return NW_E_MEMORY;
    NW_TRY(nw_plan_need(p, x, nw_form_of(false, last), &in[0]));
    for (int i = 1; i < node->in_count; i++) NW_TRY(nw_plan_need(p, node->in[i], NW_FORM_REAL, &in[i]));
    *ok = true;
    if (!kernel) {
        NW_TRY(nw_plan_define(p, node->out[0], nw_form_of(false, last), &out[0]));
        return nw_plan_eval_step(p, node, in, out);
    }
    NW_TRY(nw_plan_define_over(p, x, in[0], node->out[0], nw_form_of(false, last), &out[0]));
    return nw_plan_step(p, node, run_unary, s.clamp ? "clamp" : "vector function", &s, sizeof s, 1, in, 1,
                        out);
}

/* ---- two arguments on codes -------------------------------------------------------------------------------------- */

typedef struct codes_state {
    nw_add_u8_fn *add; /* one of the three */
    nw_mul_u8_fn *mul;
    nw_gate_u8_fn *gate;
    nw_add_u8_params add_params;
    nw_mul_u8_params mul_params;
    size_t count;       /* elements; of a gated one: */
    size_t pixels, row; /* pixels of an image, channels of a pixel */
} codes_state;

typedef struct codes_job {
    const codes_state *s;
    const uint8_t *a, *b;
    uint8_t *y;
} codes_job;

static void codes_range(void *user, size_t begin, size_t end) {
    const codes_job *j = user;
    const codes_state *s = j->s;
    size_t n = end - begin;
    if (s->mul)
        s->mul(n, j->a + begin, j->b + begin, &s->mul_params, j->y + begin);
    else
        s->add(n, j->a + begin, j->b + begin, &s->add_params, j->y + begin);
}

/* Pixels [begin, end) of all images; each image has a gate of its own. */
static void gate_range(void *user, size_t begin, size_t end) {
    const codes_job *j = user;
    const codes_state *s = j->s;
    for (size_t r = begin; r < end;) {
        size_t image = r / s->pixels, next = (image + 1) * s->pixels;
        if (next > end) next = end;
        s->gate(next - r, s->row, j->a + r * s->row, j->b + image * s->row, &s->mul_params,
                j->y + r * s->row);
        r = next;
    }
}

static nw_status run_codes(nw_exec *e, const nw_step *step) {
    const codes_state *s = step->state;
    codes_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->in[1]),
                     nw_exec_data(e, step->out[0])};
    double nanoseconds = (double)s->count / 16;
    if (s->gate)
        nw_exec_parallel(e, s->count / s->row, 1, nanoseconds, gate_range, &job);
    else
        nw_exec_parallel(e, s->count, 64, nanoseconds, codes_range, &job);
    return NW_OK;
}

/* b is a gate of a: [N,C,1,…] against [N,C,H,…]. */
static bool is_gate(const nw_tensor *a, const nw_tensor *b) {
    if (a->rank < 3 || a->rank != b->rank || a->dims[0] != b->dims[0] || a->dims[1] != b->dims[1])
        return false;
    return nw_dims_product(b->dims, 2, b->rank) == 1;
}

/* x·f(x), both on 8-bit codes (SiLU, hard swish spelled out): the codes of f(x) follow from those of x, so the product is a
 * table as well. *ok false: b is no such function of a. */
static nw_status codes_of_function(nw_planner *p, int a, int b, uint8_t *codes, bool *ok) {
    *ok = false;
    int fq = p->uses.producer[b];
    if (fq < 0 || strcmp(p->graph->nodes[fq].op_type, "FakeQuant") != 0) return NW_OK;
    int f = p->uses.producer[p->graph->nodes[fq].in[0]];
    if (f < 0) return NW_OK;
    const nw_node *function = &p->graph->nodes[f];
    if (!(function->op->flags & NW_OP_UNARY) || function->in_count < 1 || function->in[0] != a) return NW_OK;
    for (int i = 1; i < function->in_count; i++)
        if (function->in[i] >= 0 && !p->graph->values[function->in[i]].constant) return NW_OK;
    float values[256];
    NW_TRY(tabulate(p, function, &p->grid[a], values));
    for (int q = 0; q < 256; q++) codes[q] = (uint8_t)nw_grid_code(&p->grid[b], values[q]);
    *ok = true;
    return NW_OK;
}

static nw_status lower_product_table(nw_planner *p, nw_node *node, int a, int b, const nw_follow *follow,
                                     const nw_mul_u8_params *params, bool *ok) {
    uint8_t x[256], f[256];
    NW_TRY(codes_of_function(p, a, b, f, ok));
    if (!*ok) return NW_OK;
    table_state s = {.lookup = p->ew.lookup_u8, .count = nw_tensor_count(&p->desc[a])};
    for (int q = 0; q < 256; q++) x[q] = (uint8_t)q;
    p->ew.mul_u8(256, x, f, params, s.table); /* the very arithmetic that it stands for */
    nw_form form = nw_form_of(true, nw_plan_prefers_last(p, a));
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, a, form, &in[0]));
    nw_plan_fuse(p, follow);
    NW_TRY(nw_plan_define(p, follow->value, form, &out[0]));
    return NW_PLAN_STEP(p, node, run_table, "table of 256 codes", &s, in, out);
}

static nw_status lower_codes(nw_planner *p, nw_node *node, bool *ok) {
    bool product = nw_node_is(node, "Mul");
    if ((!product && !nw_node_is(node, "Add")) || node->in_count != 2) return NW_OK;
    int a = node->in[0], b = node->in[1];
    if (!nw_plan_on_grid(p, a) || !nw_plan_on_grid(p, b)) return NW_OK;
    bool same = nw_tensor_same_shape(&p->desc[a], &p->desc[b]);
    if (product && !same && is_gate(&p->desc[b], &p->desc[a])) {
        a = node->in[1];
        b = node->in[0];
    }
    bool gate = product && !same && is_gate(&p->desc[a], &p->desc[b]);
    if (!same && !gate) return NW_OK;
    if (nw_tensor_count(&p->desc[a]) == 0) return NW_OK;
    nw_follow follow;
    NW_TRY(nw_plan_follow(p, node->out[0], true, &follow));
    if (follow.grid.scale == 0) return NW_OK;
    const nw_grid *ga = &p->grid[a], *gb = &p->grid[b], *gy = &follow.grid;
    codes_state s = {.count = nw_tensor_count(&p->desc[a])};
    if (gate)
        s.gate = p->ew.gate_u8;
    else if (product)
        s.mul = p->ew.mul_u8;
    else
        s.add = p->ew.add_u8;
    s.add_params = (nw_add_u8_params){ga->zero,
                                      gb->zero,
                                      gy->zero,
                                      follow.code_lo,
                                      follow.code_hi,
                                      (float)((double)ga->scale / (double)gy->scale),
                                      (float)((double)gb->scale / (double)gy->scale)};
    s.mul_params = (nw_mul_u8_params){
        ga->zero,       gb->zero,       gy->zero,
        follow.code_lo, follow.code_hi, (float)((double)ga->scale * (double)gb->scale / (double)gy->scale)};
    if (product && same) { /* zero points change places with the operands */
        nw_mul_u8_params swapped = s.mul_params;
        swapped.a_zero = gb->zero;
        swapped.b_zero = ga->zero;
        NW_TRY(lower_product_table(p, node, a, b, &follow, &s.mul_params, ok));
        if (!*ok) NW_TRY(lower_product_table(p, node, b, a, &follow, &swapped, ok));
        if (*ok) return NW_OK;
    }
    const nw_tensor *t = &p->desc[a];
    bool last =
        gate || nw_plan_prefers_last(p, a) || (nw_plan_prefers_last(p, b) && !p->graph->values[a].constant);
    if (gate) { /* channels-last: a row is a pixel */
        s.row = (size_t)t->dims[1];
        s.pixels = nw_dims_product(t->dims, 2, t->rank);
    }
    int in[2], out[1];
    NW_TRY(nw_plan_need(p, a, nw_form_of(true, last), &in[0]));
    NW_TRY(nw_plan_need(p, b, nw_form_of(true, last), &in[1]));
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, nw_form_of(true, last), &out[0]));
    *ok = true;
    return NW_PLAN_STEP(p, node, run_codes, gate ? "gate_u8" : product ? "mul_u8" : "add_u8", &s, in, out);
}

/* ---- two arguments on f32 ---------------------------------------------------------------------------------------- */

typedef struct binary_state {
    nw_binary_f32_fn *fn;
    size_t rows, row;
    size_t a_row, a_step, b_row,
        b_step; /* elements from row to row (0: repeats), and within a row (0 or 1) */
} binary_state;

typedef struct binary_job {
    const binary_state *s;
    const float *a, *b;
    float *y;
} binary_job;

static void binary_range(void *user, size_t begin, size_t end) {
    const binary_job *j = user;
    const binary_state *s = j->s;
    for (size_t r = begin; r < end; r++)
        s->fn(s->row, j->a + r * s->a_row, s->a_step, j->b + r * s->b_row, s->b_step, j->y + r * s->row);
}

static nw_status run_binary(nw_exec *e, const nw_step *step) {
    const binary_state *s = step->state;
    binary_job job = {s, nw_exec_data(e, step->in[0]), nw_exec_data(e, step->in[1]),
                      nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, s->rows, 1, (double)(s->rows * s->row) / 6, binary_range, &job);
    return NW_OK;
}

static nw_binary_f32_fn *binary_function(const nw_planner *p, const nw_node *node) {
    if (nw_node_is(node, "Add")) return p->ew.add_f32;
    if (nw_node_is(node, "Sub")) return p->ew.sub_f32;
    if (nw_node_is(node, "Mul")) return p->ew.mul_f32;
    if (nw_node_is(node, "Div")) return p->ew.div_f32;
    if (nw_node_is(node, "Min") && node->in_count == 2) return p->ew.min_f32;
    if (nw_node_is(node, "Max") && node->in_count == 2) return p->ew.max_f32;
    return NULL;
}

/* How an operand of physical dims t walks rows of `split` trailing axes of the result: false when it is no simple walk. */
static bool row_walk(const int64_t *t, int t_rank, const int64_t *out, int rank, int split,
                     size_t *row_stride, size_t *step) {
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < rank; d++) dims[d] = d < rank - t_rank ? 1 : t[d - (rank - t_rank)];
    size_t inside = nw_dims_product(dims, rank - split, rank),
           outside = nw_dims_product(dims, 0, rank - split);
    size_t want_in = nw_dims_product(out, rank - split, rank),
           want_out = nw_dims_product(out, 0, rank - split);
    if (inside != want_in && inside != 1) return false;
    if (outside != want_out && outside != 1) return false;
    *step = inside == 1 && want_in != 1 ? 0 : 1;
    *row_stride = outside == 1 && want_out != 1 ? 0 : inside;
    return true;
}

/* The longest rows on which both operands are runs or constants. */
static bool find_rows(binary_state *s, const nw_tensor *a, const nw_tensor *b, const nw_tensor *y) {
    for (int split = y->rank; split >= 1; split--) {
        if (!row_walk(a->dims, a->rank, y->dims, y->rank, split, &s->a_row, &s->a_step)) continue;
        if (!row_walk(b->dims, b->rank, y->dims, y->rank, split, &s->b_row, &s->b_step)) continue;
        s->row = nw_dims_product(y->dims, y->rank - split, y->rank);
        s->rows = nw_dims_product(y->dims, 0, y->rank - split);
        return s->row >= 8;
    }
    return false;
}

/* Channels-last is fine for an operand when it has all axes (they are permuted alike), or is one element. */
static bool permutes(const nw_planner *p, int v, int rank) {
    return p->desc[v].rank == rank || nw_tensor_count(&p->desc[v]) == 1;
}

static nw_status lower_binary(nw_planner *p, nw_node *node, bool *ok) {
    if (node->in_count != 2 || node->in[0] < 0 || node->in[1] < 0) return NW_OK;
    int a = node->in[0], b = node->in[1], rank = p->desc[node->out[0]].rank;
    bool wide_a = p->desc[a].rank == rank, last = false;
    if (rank >= 3 && permutes(p, a, rank) && permutes(p, b, rank))
        last = nw_plan_prefers_last(p, wide_a ? a : b) ||
               (p->desc[b].rank == rank && nw_plan_prefers_last(p, b));
    nw_form form = nw_form_of(false, last);
    int in[2], out[1];
    nw_binary_f32_fn *fn = binary_function(p, node);
    if (p->desc[a].format != NW_F32 && !p->desc[a].qparam) fn = NULL;
    if (p->desc[b].format != NW_F32 && !p->desc[b].qparam) fn = NULL;
    if (p->desc[node->out[0]].format != NW_F32 || nw_tensor_count(&p->desc[node->out[0]]) == 0) fn = NULL;
    if (!fn && !last) return NW_OK;
    binary_state s = {.fn = fn};
    nw_tensor ta = p->desc[a], tb = p->desc[b], ty = p->desc[node->out[0]];
    if (last) {
        if (ta.rank == rank) nw_last_dims(&p->desc[a], ta.dims);
        if (tb.rank == rank) nw_last_dims(&p->desc[b], tb.dims);
        nw_last_dims(&p->desc[node->out[0]], ty.dims);
    }
    bool kernel = fn && find_rows(&s, &ta, &tb, &ty);
    if (!kernel && !last) return NW_OK;
    NW_TRY(nw_plan_need(p, a, p->desc[a].rank == rank ? form : NW_FORM_REAL, &in[0]));
    NW_TRY(nw_plan_need(p, b, p->desc[b].rank == rank ? form : NW_FORM_REAL, &in[1]));
    *ok = true;
    if (!kernel) {
        NW_TRY(nw_plan_define(p, node->out[0], form, &out[0]));
        return nw_plan_eval_step(p, node, in, out);
    }
    NW_TRY(nw_plan_define_over(p, a, in[0], node->out[0], form, &out[0]));
    return NW_PLAN_STEP(p, node, run_binary, "vector arithmetic", &s, in, out);
}

nw_status nw_lower_elementwise(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (node->in_count < 1 || node->in[0] < 0 || node->out_count < 1 || node->out[0] < 0) return NW_OK;
    if (node->op->flags & NW_OP_UNARY) return lower_unary(p, node, ok);
    if (node->op->flags & NW_OP_BINARY || nw_node_is(node, "Min") || nw_node_is(node, "Max")) {
        NW_TRY(lower_codes(p, node, ok));
        if (!*ok) NW_TRY(lower_binary(p, node, ok));
    }
    return NW_OK;
}
