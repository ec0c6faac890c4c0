/* test_recognize.c: what the planner recognises in its spelled-out form, and what stays channels-last: planned against
 * reference, and that the form was seen, or rightly not seen. */
#include "op/op.h"
#include "run/run.h"
#include "support/support.h"
#include "support/unit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 40000, MOST_INPUTS = 4 };
static nw_context ctx;
static nw_random generator;
static nw_graph *g;

/* ---- building: the current graph g, values by id ------------------------------------------------------------------ */

static void begin(void) {
    generator = (nw_random){11};
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 17));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
}

static int input(const char *name, int rank, const int64_t *dims) {
    int id;
    assert_ok(&ctx, nw_graph_add_value(g, name, &id));
    g->values[id].format = NW_F32;
    g->values[id].rank = rank;
    memcpy(g->values[id].dims, dims, (size_t)rank * sizeof *dims);
    assert_ok(&ctx, nw_graph_add_input(g, id));
    return id;
}

static int number(float value) {
    nw_tensor t = {.format = NW_F32, .data = &value};
    int id;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &id));
    return id;
}

static int row(int64_t n, float lo, float hi) {
    float data[256];
    nw_tensor t = {.format = NW_F32, .rank = 1, .dims = {n}, .data = data};
    int id;
    for (int64_t i = 0; i < n; i++) data[i] = (float)test_uniform(&generator, (double)lo, (double)hi);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &id));
    return id;
}

static int list(int64_t count, const int64_t *values) {
    nw_tensor t = {.format = NW_S64, .rank = 1, .dims = {count}, .data = (void *)(uintptr_t)values};
    int id;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &id));
    return id;
}
#define LIST(...) list(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

static nw_node *node_of(const char *type, int in_count, const int *in, int out_count, int *out) {
    nw_node *node;
    const char *domain = strcmp(type, "FakeQuant") == 0 ? "ai.narrow" : "";
    for (int i = 0; i < out_count; i++) {
        assert_ok(&ctx, nw_graph_add_value(g, NULL, &out[i]));
        g->values[out[i]].format = NW_F32;
    }
    assert_ok(&ctx, nw_graph_add_node(g, domain, type, type, in_count, in, out_count, out, &node));
    return node;
}

static int one(const char *type, int a) {
    int y;
    node_of(type, 1, &a, 1, &y);
    return y;
}

static int two(const char *type, int a, int b) {
    int y;
    node_of(type, 2, (int[]){a, b}, 1, &y);
    return y;
}

/* The operands of a commutative operator, in either order. */
static int swapped(const char *type, bool swap, int a, int b) {
    return swap ? two(type, b, a) : two(type, a, b);
}

static int permuted(int x, int rank, const int64_t *perm) {
    int y;
    nw_node *node = node_of("Transpose", 1, &x, 1, &y);
    assert_ok(&ctx, nw_node_set_ints(g, node, "perm", perm, (size_t)rank));
    return y;
}

static int along(const char *type, int x, int64_t axis) {
    int y;
    nw_node *node = node_of(type, 1, &x, 1, &y);
    if (strcmp(type, "ReduceMean") == 0)
        assert_ok(&ctx, nw_node_set_ints(g, node, "axes", &axis, 1));
    else
        assert_ok(&ctx, nw_node_set_int(g, node, "axis", axis));
    return y;
}

static void output(int id) {
    assert_ok(&ctx, nw_graph_add_output(g, id));
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

/* All outputs one behind the other; how many steps of the plan are of operator `op` with `kernel` in their kernel's name. */
static size_t run(nw_run_options options, const char *op, const char *kernel, float *y, int *seen) {
    static float data[MOST_INPUTS][MOST];
    nw_session *session;
    nw_arena arena;
    nw_tensor outputs[4];
    nw_feed feeds[MOST_INPUTS];
    nw_step_info step;
    size_t count = 0;
    nw_arena_init(&arena, &ctx);
    generator = (nw_random){5};
    assert_true(g->input_count <= MOST_INPUTS && g->output_count <= 4);
    for (int i = 0; i < g->input_count; i++) {
        const nw_value *v = &g->values[g->inputs[i]];
        feeds[i] = (nw_feed){v->name, {.format = NW_F32, .data = data[i]}};
        nw_tensor_set_shape(&feeds[i].tensor, v->rank, v->dims);
        assert_true(nw_tensor_count(&feeds[i].tensor) <= MOST);
        for (size_t k = 0; k < nw_tensor_count(&feeds[i].tensor); k++)
            data[i][k] = (float)test_uniform(&generator, -3, 3);
    }
    assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
    assert_ok(&ctx, nw_session_run(session, (size_t)g->input_count, feeds, &arena, outputs));
    for (int i = 0; i < g->output_count; i++) {
        size_t n = nw_tensor_count(&outputs[i]);
        assert_true(count + n <= MOST);
        memcpy(y + count, outputs[i].data, n * sizeof *y);
        count += n;
    }
    *seen = 0;
    for (int i = 0; nw_session_step(session, i, &step); i++)
        *seen += strcmp(step.op, op) == 0 && strstr(step.kernel, kernel);
    nw_session_free(session);
    nw_arena_free(&arena);
    return count;
}

/* The plan of g, on several ISAs and threads, gives what the reference does, and has `want` such steps. Frees g. */
static void check(const char *what, const char *op, const char *kernel, int want, float tolerance) {
    static float planned[MOST], reference[MOST];
    static const nw_isa isas[] = {NW_ISA_COUNT - 1, NW_ISA_SCALAR};
    int seen;
    assert_ok(&ctx, nw_graph_resolve(g));
    size_t count = run((nw_run_options){.threads = 1, .reference = true}, op, "reference", reference, &seen);
    for (int k = 0; k < 3; k++) {
        nw_run_options options = {.threads = k == 2 ? 2 : 1, .isa = isas[k % 2]};
        assert_int_equal(run(options, op, kernel, planned, &seen), count);
        if (seen != want) fail_msg("%s: %d steps of %s (%s), not %d", what, seen, op, kernel, want);
        for (size_t i = 0; i < count; i++)
            if (!(fabsf(planned[i] - reference[i]) <= tolerance * fmaxf(1, fabsf(reference[i]))))
                fail_msg("%s: element %zu is %g, not %g", what, i, (double)planned[i], (double)reference[i]);
    }
    nw_graph_free(g);
}

/* ---- functions ---------------------------------------------------------------------------------------------------- */

/* How a Gelu is written. */
typedef struct gelu {
    int order; /* of the factors */
    bool tanh, multiplied, swap;
    float half, root;   /* 0.5, √2 */
    const char *before; /* operator that makes x, with a constant; NULL: x is an input */
} gelu;

static int gelu_gate(const gelu *s, int x) { /* 1 + erf(x/√2), or 1 + tanh(√(2/π)·(x + 0.044715·x³)) */
    if (!s->tanh) {
        int scaled =
            s->multiplied ? swapped("Mul", s->swap, x, number(1 / s->root)) : two("Div", x, number(s->root));
        return swapped("Add", s->swap, one("Erf", scaled), number(1));
    }
    int cube = swapped("Mul", s->swap, two("Pow", x, number(3)), number(0.044715f));
    int sum = swapped("Add", s->swap, x, cube);
    return swapped("Add", s->swap, one("Tanh", swapped("Mul", s->swap, sum, number(0.79788456f))), number(1));
}

static int gelu_graph(const gelu *s, int *gate) {
    begin();
    int x = input("x", 3, (int64_t[]){2, 7, 37});
    if (s->before) x = two(s->before, x, row(37, 0.5f, 1.5f));
    *gate = gelu_gate(s, x);
    int half = number(s->half);
    if (s->order == 0) return swapped("Mul", s->swap, swapped("Mul", s->swap, x, half), *gate);
    if (s->order == 1) return swapped("Mul", s->swap, x, swapped("Mul", s->swap, *gate, half));
    return swapped("Mul", s->swap, swapped("Mul", s->swap, x, *gate), half);
}

static void gelu_in_all_orders(void **state) {
    (void)state;
    /* What makes x is of the form's own operators, and no part of it. */
    static const char *const before[] = {NULL, "Add", "Mul", "Div"};
    int gate;
    for (int k = 0; k < 96; k++) {
        gelu s = {.order = k / 2 % 3,
                  .tanh = k / 12 % 2,
                  .multiplied = k / 6 % 2,
                  .swap = k % 2,
                  .half = 0.5f,
                  .root = 1.41421356f,
                  .before = before[k / 24]};
        if (s.tanh && (s.order || s.multiplied)) continue; /* exporters write one order */
        output(gelu_graph(&s, &gate));
        check("Gelu", "Gelu", "vector function", 1, 2e-6f);
    }
}

static void what_is_no_gelu_stays(void **state) {
    (void)state;
    static const gelu cases[] = {{.half = 0.4f, .root = 1.41421356f},
                                 {.half = 0.5f, .root = 1.5f},
                                 {.half = 0.5f, .root = 1.41421356f, .order = 2}};
    int gate;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        output(gelu_graph(&cases[i], &gate));
        if (i == 2) output(gate); /* the caller wants what lies on the way */
        check("no Gelu", "Gelu", "", 0, 2e-6f);
    }
}

static void swish_and_hardswish(void **state) {
    (void)state;
    for (int k = 0; k < 8; k++) {
        const bool hard = k & 1, wrong = k >= 4;
        nw_node *node;
        int y;
        begin();
        int x = input("x", 2, (int64_t[]){5, 33});
        node = node_of(hard ? "HardSigmoid" : "Sigmoid", 1, &x, 1, &y);
        if (hard) assert_ok(&ctx, nw_node_set_float(g, node, "alpha", wrong ? 0.2f : 1.0f / 6));
        int other = wrong && !hard ? input("z", 2, (int64_t[]){5, 33}) : x;
        output(swapped("Mul", k & 2, other, y));
        check("Swish", hard ? "HardSwish" : "Swish", "vector function", !wrong, 1e-6f);
    }
}

/* ---- LayerNormalization ------------------------------------------------------------------------------------------- */

static void layer_normalization(void **state) {
    (void)state;
    for (int k = 0; k < 12; k++) {
        const bool swap = k & 1, product = k & 2, shared = k >= 8; /* shared: one difference for both uses */
        const bool wrong = k >= 4 && k < 8;                        /* over the wrong axis */
        const int64_t axis = wrong ? 1 : k % 3 == 0 ? 2 : -1, n = 37;
        begin();
        int x = input("x", 3, (int64_t[]){2, 37, n});
        int d = two("Sub", x, along("ReduceMean", x, axis));
        int e = shared ? d : two("Sub", x, along("ReduceMean", x, axis));
        int squares = product ? two("Mul", e, e) : two("Pow", e, number(2));
        int variance = along("ReduceMean", squares, axis);
        int root = one("Sqrt", swapped("Add", swap, variance, number(1e-5f)));
        int scaled = swapped("Mul", swap, two("Div", d, root), row(n, 0.5f, 2));
        output(swapped("Add", swap, scaled, row(n, -1, 1)));
        check("LayerNormalization", "LayerNormalization", "layernorm_f32", !wrong, 2e-5f);
    }
}

/* ---- Attention ---------------------------------------------------------------------------------------------------- */

typedef enum scaling { NO_SCALE, DIVIDED, MULTIPLIED, SCALINGS } scaling;
typedef enum masking { NO_MASK, MASK_OF_KEYS, MASK_OF_ALL, MASKINGS } masking;

typedef struct attention {
    scaling scale;
    masking mask;
    bool tokens; /* heads are split from tokens and joined again; else [batch,heads,length,size] */
    bool mask_first;
    int64_t batch, heads, queries, keys, size;
} attention;

/* Scores before the softmax. */
static int scores_of(const attention *a, int q, int kt) {
    int s = two("MatMul", q, kt);
    if (a->scale == DIVIDED) s = two("Div", s, number(2.5f));
    if (a->scale == MULTIPLIED) s = two("Mul", s, number(0.3f));
    if (a->mask == NO_MASK) return s;
    const bool all = a->mask == MASK_OF_ALL;
    int mask = input("mask", 4, (int64_t[]){all ? a->batch : 1, 1, all ? a->queries : 1, a->keys});
    return a->mask_first ? two("Add", mask, s) : two("Add", s, mask);
}

static int split_heads(const attention *a, int tokens, const int64_t *perm) {
    return permuted(two("Reshape", tokens, LIST(0, 0, a->heads, a->size)), 4, perm);
}

static int attention_graph(const attention *a, int *weights) {
    static const int64_t by_head[4] = {0, 2, 1, 3}, keys[4] = {0, 2, 3, 1}, turned[4] = {0, 1, 3, 2};
    begin();
    if (!a->tokens) {
        int q = input("q", 4, (int64_t[]){a->batch, a->heads, a->queries, a->size});
        int k = input("k", 4, (int64_t[]){a->batch, a->heads, a->keys, a->size});
        int v = input("v", 4, (int64_t[]){a->batch, a->heads, a->keys, a->size});
        *weights = along("Softmax", scores_of(a, q, permuted(k, 4, turned)), -1);
        return two("MatMul", *weights, v);
    }
    const int64_t width = a->heads * a->size;
    int q = input("q", 3, (int64_t[]){a->batch, a->queries, width});
    int k = input("k", 3, (int64_t[]){a->batch, a->keys, width});
    int v = input("v", 3, (int64_t[]){a->batch, a->keys, width});
    int kt = split_heads(a, k, keys), scores = scores_of(a, split_heads(a, q, by_head), kt);
    *weights = along("Softmax", scores, -1);
    int y = permuted(two("MatMul", *weights, split_heads(a, v, by_head)), 4, by_head);
    return two("Reshape", y, LIST(0, 0, width));
}

/* Sizes that are no multiple of a register or a tile, and more queries than a block of scores holds. */
static const attention shapes[] = {{.batch = 2, .heads = 3, .queries = 19, .keys = 19, .size = 8},
                                   {.batch = 1, .heads = 2, .queries = 70, .keys = 45, .size = 32},
                                   {.batch = 1, .heads = 4, .queries = 1, .keys = 33, .size = 5}};

static void attention_of_heads_and_tokens(void **state) {
    (void)state;
    int weights;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int k = 0; k < 2 * SCALINGS * MASKINGS; k++) {
            attention a = shapes[i];
            a.tokens = k % 2;
            a.scale = (scaling)(k / 2 % SCALINGS);
            a.mask = (masking)(k / 2 / SCALINGS);
            a.mask_first = k % 3 == 0;
            output(attention_graph(&a, &weights));
            check(a.tokens ? "attention of tokens" : "attention of heads", "Attention", "gemm_f32", 1, 5e-5f);
        }
}

static void what_is_no_attention_stays(void **state) {
    (void)state;
    int weights;
    for (int tokens = 0; tokens < 2; tokens++) {
        attention a = shapes[0];
        a.tokens = tokens;
        int y = attention_graph(&a, &weights);
        output(y);
        output(weights); /* the caller wants the weights too */
        check("attention with its weights", "Attention", "", 0, 1e-5f);
    }
    begin();
    int q = input("q", 3, (int64_t[]){2, 9, 16}), k = input("k", 3, (int64_t[]){2, 9, 16});
    int scores = two("MatMul", q, permuted(k, 3, (int64_t[]){0, 2, 1}));
    output(two("MatMul", along("Softmax", scores, 1), k)); /* weights of a column sum to 1 */
    check("softmax over queries", "Attention", "", 0, 1e-5f);
}

/* One head: tokens as they are. */
static void attention_of_one_head(void **state) {
    (void)state;
    begin();
    int q = input("q", 3, (int64_t[]){2, 21, 16}), k = input("k", 3, (int64_t[]){2, 13, 16}),
        v = input("v", 3, (int64_t[]){2, 13, 11});
    int scores = two("Mul", two("MatMul", q, permuted(k, 3, (int64_t[]){0, 2, 1})), number(0.25f));
    output(two("MatMul", along("Softmax", scores, 2), v));
    check("attention of one head", "Attention", "gemm_f32", 1, 5e-5f);
}

/* ---- Attention of rounded numbers ----------------------------------------------------------------------------------- */

/* How a value is rounded. */
typedef enum rounding { REAL, MEASURED, BY_ROW, FIXED, HALF } rounding;

/* x on a grid of its own range, of each row's, on codes of 3/128 from −3 on (weights: of 1/200 from 0 on), or as f16. */
static int rounded_to(rounding how, int x, bool weights) {
    const bool fixed = how == FIXED;
    float scale = how == HALF ? 1.0f : weights ? 1.0f / 200 : 3.0f / 128;
    int32_t zero = fixed && !weights ? 128 : 0;
    nw_tensor s = {.format = NW_F32, .data = &scale}, z = {.format = NW_S32, .data = &zero};
    int in[3] = {x}, y;
    if (how == REAL) return x;
    if (fixed || how == HALF) assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &s, &in[1]));
    if (fixed) assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &z, &in[2]));
    nw_node *node = node_of("FakeQuant", fixed ? 3 : how == HALF ? 2 : 1, in, 1, &y);
    assert_ok(&ctx, nw_node_set_string(g, node, "format", how == HALF ? "f16" : "u8"));
    if (how == BY_ROW) assert_ok(&ctx, nw_node_set_int(g, node, "per_row", 1));
    return y;
}

/* Attention whose operands are rounded where the products read them; early: and before their heads are split. */
typedef struct rounded {
    rounding q, k, v, weights;
    bool early;
} rounded;

static int rounded_attention(const attention *a, const rounded *r) {
    static const int64_t by_head[4] = {0, 2, 1, 3}, keys[4] = {0, 2, 3, 1}, turned[4] = {0, 1, 3, 2};
    const int64_t width = a->heads * a->size, batch = a->batch;
    begin();
    if (!a->tokens) {
        int q = rounded_to(r->q, input("q", 4, (int64_t[]){batch, a->heads, a->queries, a->size}), false);
        int k = input("k", 4, (int64_t[]){batch, a->heads, a->keys, a->size});
        int v = rounded_to(r->v, input("v", 4, (int64_t[]){batch, a->heads, a->keys, a->size}), false);
        k = r->early ? permuted(rounded_to(r->k, k, false), 4, turned)
                     : rounded_to(r->k, permuted(k, 4, turned), false);
        return two("MatMul", rounded_to(r->weights, along("Softmax", scores_of(a, q, k), -1), true), v);
    }
    int q = input("q", 3, (int64_t[]){batch, a->queries, width}),
        k = input("k", 3, (int64_t[]){batch, a->keys, width}),
        v = input("v", 3, (int64_t[]){batch, a->keys, width});
    if (r->early) {
        q = rounded_to(r->q, q, false);
        k = rounded_to(r->k, k, false);
        v = rounded_to(r->v, v, false);
    }
    q = rounded_to(r->q, split_heads(a, q, by_head), false);
    k = rounded_to(r->k, split_heads(a, k, keys), false);
    v = rounded_to(r->v, split_heads(a, v, by_head), false);
    int weights = rounded_to(r->weights, along("Softmax", scores_of(a, q, k), -1), true);
    return two("Reshape", permuted(two("MatMul", weights, v), 4, by_head), LIST(0, 0, width));
}

/* The graph with one step of attention gives what rounding real numbers gives, but for weights whose rounding the sums' last
 * bits decide; exact: both products are of
 * codes, so that its bits do not depend on the ISA or the threads. Frees g. */
static void check_codes(const char *what, const char *kernel, bool exact) {
    static float planned[2][MOST], reference[MOST];
    static const nw_run_options options[] = {{.threads = 1, .isa = NW_ISA_COUNT - 1},
                                             {.threads = 1, .isa = NW_ISA_SCALAR},
                                             {.threads = 2, .isa = NW_ISA_COUNT - 1}};
    int seen;
    assert_ok(&ctx, nw_graph_resolve(g));
    const nw_run_options plain = {.threads = 1, .reference = true};
    const size_t count = run(plain, "Attention", "reference", reference, &seen);
    for (int k = 0; k < 3; k++) {
        double error = 0, size = 0;
        assert_int_equal(run(options[k], "Attention", kernel, planned[k > 0], &seen), count);
        if (seen != 1) fail_msg("%s: %d steps of attention (%s)", what, seen, kernel);
        if (exact && k && memcmp(planned[0], planned[1], count * sizeof **planned))
            fail_msg("%s: another ISA, or more threads, give other numbers", what);
        for (size_t i = 0; i < count; i++) {
            const double d = (double)planned[k > 0][i] - (double)reference[i];
            error += d * d;
            size += (double)reference[i] * (double)reference[i];
            if (!(fabs(d) <= 0.02))
                fail_msg("%s: element %zu is %g, not %g", what, i, (double)planned[k > 0][i],
                         (double)reference[i]);
        }
        /* a weight's code may be the other one beside a tie: its exponential is rounded to fewer bits */
        if (!(error <= 1e-6 * size)) fail_msg("%s: noise of %g, numbers of %g", what, error, size);
    }
    nw_graph_free(g);
}

static void attention_of_codes(void **state) {
    (void)state;
    static const rounded all[] = {
        {MEASURED, MEASURED, MEASURED, BY_ROW, false}, {MEASURED, MEASURED, MEASURED, FIXED, false},
        {FIXED, FIXED, FIXED, FIXED, false},           {FIXED, FIXED, FIXED, FIXED, true},
        {MEASURED, FIXED, FIXED, BY_ROW, false},       {MEASURED, MEASURED, REAL, REAL, false},
        {REAL, MEASURED, MEASURED, BY_ROW, false},     {MEASURED, MEASURED, REAL, BY_ROW, false}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < 2 * sizeof all / sizeof *all; k++) {
            attention a = shapes[i];
            a.tokens = k & 1;
            a.scale = MULTIPLIED;
            a.mask = (masking)(k % MASKINGS);
            output(rounded_attention(&a, &all[k / 2]));
            check_codes(a.tokens ? "codes of tokens" : "codes of heads", "gemm_u8s8", k / 2 < 5);
        }
}

static void attention_of_half_floats(void **state) {
    (void)state;
    static const rounded all[] = {
        {HALF, HALF, HALF, HALF, false}, {REAL, REAL, REAL, BY_ROW, false}, {REAL, HALF, REAL, FIXED, false}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < 2 * sizeof all / sizeof *all; k++) {
            attention a = shapes[i];
            a.tokens = k & 1;
            a.scale = MULTIPLIED;
            output(rounded_attention(&a, &all[k / 2]));
            check_codes("attention of half floats", "gemm_f32", false);
        }
}

/* The operator itself, of an ONNX file or of a plan: several query heads share keys, a query sees the keys up to its own. */
static void causal_attention_of_codes(void **state) {
    (void)state;
    for (int k = 0; k < 6; k++) {
        const rounding how = k & 1 ? FIXED : MEASURED;
        nw_node *node;
        int y;
        begin();
        const int in[3] = {rounded_to(how, input("q", 3, (int64_t[]){2, 51, 4 * 16}), false),
                           rounded_to(how, input("k", 3, (int64_t[]){2, 51, 2 * 16}), false),
                           rounded_to(how, input("v", 3, (int64_t[]){2, 51, 2 * 12}), false)};
        node = node_of("Attention", 3, in, 1, &y);
        assert_ok(&ctx, nw_node_set_int(g, node, "q_num_heads", 4));
        assert_ok(&ctx, nw_node_set_int(g, node, "kv_num_heads", 2));
        assert_ok(&ctx, nw_node_set_int(g, node, "is_causal", 1));
        if (k >= 2) assert_ok(&ctx, nw_node_set_string(g, node, "ai.narrow.weights", "u8"));
        if (k >= 4) assert_ok(&ctx, nw_node_set_float(g, node, "ai.narrow.weights_scale", 1.0f / 255));
        output(y);
        check_codes("causal attention of codes", "gemm_u8s8", k >= 2);
    }
}

static void what_is_no_attention_of_codes_stays(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        attention a = shapes[0];
        a.tokens = true;
        if (k == 0) { /* weights that share one scale, which only all of them tell */
            output(rounded_attention(&a, &(rounded){MEASURED, MEASURED, MEASURED, MEASURED, false}));
        } else if (k == 1) { /* operands rounded twice, to different grids */
            output(rounded_attention(&a, &(rounded){MEASURED, MEASURED, MEASURED, BY_ROW, false}));
            nw_node *transpose = NULL;
            for (int n = 0; n < g->node_count; n++)
                if (nw_node_is(&g->nodes[n], "Transpose")) transpose = transpose ? transpose : &g->nodes[n];
            const int split = transpose->in[0], on_grid = rounded_to(FIXED, split, false);
            for (int n = 0; n < g->node_count; n++) /* rounded_to may have moved the nodes */
                if (nw_node_is(&g->nodes[n], "Transpose") && g->nodes[n].in[0] == split)
                    g->nodes[n].in[0] = on_grid;
            assert_ok(&ctx, nw_graph_resolve(g));
            assert_ok(&ctx, nw_graph_sort(g));
        } else { /* the caller wants rounded queries too */
            output(rounded_attention(&a, &(rounded){MEASURED, REAL, REAL, REAL, false}));
            for (int n = 0; n < g->node_count; n++)
                if (strcmp(g->nodes[n].op_type, "FakeQuant") == 0) output(g->nodes[n].out[0]);
        }
        check("no attention of codes", "Attention", "gemm_u8s8", 0, 0.03f);
    }
}

/* Products outside of attention: of codes where the left operand's grids are found while running, and the right one has one. */
static void products_of_rounded_numbers(void **state) {
    (void)state;
    static const struct {
        rounding a, b;
        bool codes;
    } cases[] = {{MEASURED, MEASURED, true}, {BY_ROW, MEASURED, true},  {BY_ROW, FIXED, true},
                 {FIXED, FIXED, true},       {MEASURED, BY_ROW, false}, {REAL, MEASURED, false},
                 {FIXED, MEASURED, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < 3; k++) {
            begin();
            int a = input("a", k ? 4 : 3, k ? (int64_t[]){2, 3, 19, 35} : (int64_t[]){2, 7, 35});
            int b = k == 2   ? input("b", 4, (int64_t[]){2, 3, 41, 35})
                    : k == 1 ? input("b", 4, (int64_t[]){2, 1, 35, 41})
                             : input("b", 2, (int64_t[]){35, 41});
            if (k == 2) b = permuted(b, 4, (int64_t[]){0, 1, 3, 2});
            int y = two("MatMul", rounded_to(cases[i].a, a, false), rounded_to(cases[i].b, b, false));
            output(one("Relu", two("Add", y, row(41, -1, 1))));
            check("product of rounded numbers", "MatMul", "gemm_u8s8", cases[i].codes, 1e-4f);
        }
    begin(); /* somebody else reads the left operand as real numbers */
    int a = rounded_to(MEASURED, input("a", 2, (int64_t[]){9, 12}), false);
    output(two("MatMul", a, rounded_to(MEASURED, input("b", 2, (int64_t[]){12, 5}), false)));
    output(one("Sigmoid", a));
    check("product of rounded numbers that others read", "MatMul", "gemm_u8s8", 0, 1e-4f);
}

/* ---- channels ----------------------------------------------------------------------------------------------------- */

/* x, restricted to the grid of all codes here, or as it is. */
static int restricted(int x, bool codes) {
    if (!codes) return x;
    float scale = 6.0f / 255;
    int32_t zero = 128;
    nw_tensor s = {.format = NW_F32, .data = &scale}, z = {.format = NW_S32, .data = &zero};
    int in[3] = {x}, y;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &s, &in[1]));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &z, &in[2]));
    nw_node *node = node_of("FakeQuant", 3, in, 1, &y);
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
    return y;
}

/* An image that a pool has made, so that it lies channels-last. */
static int pooled(int64_t channels, bool codes) {
    static const int64_t sizes[2] = {2, 2};
    int x = restricted(input("x", 4, (int64_t[]){2, channels, 6, 9}), codes), y;
    nw_node *node = node_of("MaxPool", 1, &x, 1, &y);
    assert_ok(&ctx, nw_node_set_ints(g, node, "kernel_shape", sizes, 2));
    return y;
}

static int shuffled(int x, int64_t channels, int64_t groups, const int64_t *perm, bool codes) {
    int split = restricted(two("Reshape", x, LIST(2, groups, channels / groups, 5, 8)), codes);
    int turned = restricted(permuted(split, 5, perm), codes);
    return restricted(two("Reshape", turned, LIST(2, channels, 5, 8)), codes);
}

static int cut(int x, int64_t from, int64_t to) {
    int y;
    node_of("Slice", 4, (int[]){x, LIST(from), LIST(to), LIST(1)}, 1, &y);
    return y;
}

static void channel_shuffles(void **state) {
    (void)state;
    static const int64_t exchange[5] = {0, 2, 1, 3, 4}, other[5] = {0, 2, 1, 4, 3};
    static const int64_t cases[][2] = {{58, 2}, {32, 2}, {6, 2}, {30, 3}, {40, 8}, {34, 17}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int codes = 0; codes < 2; codes++) {
            begin();
            output(shuffled(pooled(cases[i][0], codes), cases[i][0], cases[i][1], exchange, codes));
            check("channel shuffle", "Reshape", "channel shuffle", 1, 0);
        }
    begin(); /* lines and columns change places as well */
    output(two("Reshape", permuted(two("Reshape", pooled(6, false), LIST(2, 2, 3, 5, 8)), 5, other),
               LIST(2, 6, 5, 8)));
    check("no channel shuffle", "Reshape", "channel shuffle", 0, 0);
}

/* Slices of a shuffled image: into Concat, into a slice again, and out. */
static void slices_of_channels(void **state) {
    (void)state;
    static const int64_t exchange[5] = {0, 2, 1, 3, 4};
    for (int codes = 0; codes < 2; codes++)
        for (int k = 0; k < 3; k++) {
            int parts[3] = {0, 0, 0};
            begin();
            int x = shuffled(pooled(58, codes), 58, 2, exchange, codes);
            if (k == 1) {
                nw_node *node = node_of("Split", 2, (int[]){x, LIST(20, 9, 29)}, 3, parts);
                assert_ok(&ctx, nw_node_set_int(g, node, "axis", 1));
            } else {
                parts[0] = cut(x, 0, 29);
                parts[1] = cut(cut(x, -29, 100), 3, -1);
                parts[2] = cut(x, 7, 8);
            }
            int joined;
            nw_node *concat = node_of("Concat", 3, (int[]){parts[2], parts[0], parts[1]}, 1, &joined);
            assert_ok(&ctx, nw_node_set_int(g, concat, "axis", 1));
            output(joined);
            output(parts[1]);
            if (k == 2) output(one("Relu", parts[0]));
            check("slices of channels", "Concat", codes ? "concat of codes" : "concat", 1, 0);
        }
}

/* A convolution reads a slice of channels where it lies: 1×1, 3×3 with padding, in groups, and depthwise. */
static void convolutions_of_slices(void **state) {
    (void)state;
    static float w[16 * 20 * 9];
    static const struct {
        int64_t kernel, groups, out;
    } cases[] = {{1, 1, 16}, {3, 1, 16}, {3, 2, 16}, {3, 20, 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t kernel = cases[i].kernel, pad = kernel / 2, k = 20 / cases[i].groups;
        nw_tensor t = {.format = NW_F32, .rank = 4, .dims = {cases[i].out, k, kernel, kernel}, .data = w};
        int in[2], y;
        begin();
        for (size_t j = 0; j < nw_tensor_count(&t); j++) w[j] = (float)test_uniform(&generator, -0.3, 0.3);
        in[0] = cut(pooled(33, false), 11, 31);
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &in[1]));
        nw_node *node = node_of("Conv", 2, in, 1, &y);
        assert_ok(&ctx, nw_node_set_int(g, node, "group", cases[i].groups));
        assert_ok(&ctx, nw_node_set_ints(g, node, "pads", (int64_t[]){pad, pad, pad, pad}, 4));
        output(y);
        check("convolution of a slice", "Conv", cases[i].groups == 20 ? "dwconv_f32" : "gemm_f32", 1, 1e-5f);
    }
}

/* A convolution of codes with 8-bit weights, k → n channels, back on the grid of `restricted`. */
static int integer_convolution(int x, int64_t k, int64_t n, int64_t kernel) {
    static int8_t codes[4096];
    static float scales[64];
    const int64_t pad = kernel / 2;
    nw_qparam q = {.format = NW_S8,
                   .grain = NW_GRAIN_AXIS,
                   .groups = (size_t)n,
                   .scales = scales,
                   .qmin = -127,
                   .qmax = 127};
    nw_tensor t = {.format = NW_S8, .rank = 4, .dims = {n, k, kernel, kernel}, .data = codes, .qparam = &q};
    int in[2] = {x}, y;
    assert_true(nw_tensor_count(&t) <= sizeof codes && n <= 64);
    for (size_t i = 0; i < nw_tensor_count(&t); i++)
        codes[i] = (int8_t)(int)test_uniform(&generator, -127, 127);
    for (int64_t i = 0; i < n; i++) scales[i] = (float)test_uniform(&generator, 0.001, 0.003);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &t, &in[1]));
    nw_node *node = node_of("Conv", 2, in, 1, &y);
    assert_ok(&ctx, nw_node_set_ints(g, node, "pads", (int64_t[]){pad, pad, pad, pad}, 4));
    return restricted(y, true);
}

/* Convolutions write where the Concat that reads them would copy them: 1 step for what they did not make, none without. A
 * code may rarely round the other way. */
static void convolutions_into_concat(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        const bool rest = k & 1, twice = k & 2; /* twice: somebody else reads the last part as well */
        int parts[4], joined;
        begin();
        int x = pooled(10, true);
        parts[0] = integer_convolution(x, 10, 20, 1);
        parts[1] = integer_convolution(x, 10, 37, 3);
        parts[2] = integer_convolution(x, 10, 3, 1);
        parts[3] = x;
        nw_node *concat = node_of("Concat", rest ? 4 : 3, parts, 1, &joined);
        assert_ok(&ctx, nw_node_set_int(g, concat, "axis", 1));
        output(restricted(joined, true));
        if (twice) output(one("Relu", parts[2]));
        check("convolutions into Concat", "Concat", "concat of codes", rest || twice, 0.025f);
    }
}

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gelu_in_all_orders),
        cmocka_unit_test(what_is_no_gelu_stays),
        cmocka_unit_test(swish_and_hardswish),
        cmocka_unit_test(layer_normalization),
        cmocka_unit_test(attention_of_heads_and_tokens),
        cmocka_unit_test(what_is_no_attention_stays),
        cmocka_unit_test(attention_of_one_head),
        cmocka_unit_test(attention_of_codes),
        cmocka_unit_test(attention_of_half_floats),
        cmocka_unit_test(causal_attention_of_codes),
        cmocka_unit_test(what_is_no_attention_of_codes_stays),
        cmocka_unit_test(products_of_rounded_numbers),
        cmocka_unit_test(channel_shuffles),
        cmocka_unit_test(slices_of_channels),
        cmocka_unit_test(convolutions_of_slices),
        cmocka_unit_test(convolutions_into_concat),
    };
    return cmocka_run_group_tests_name("recognize", tests, open_context, NULL);
}
