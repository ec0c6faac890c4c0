/* test_train.c: gradients through whole graphs, FakeQuant against its closed form, what becomes a parameter,
 * losses, and two networks that learn: by a plain loop over the joined graph. */
#include "num/scheme.h"
#include "op/op.h"
#include "op/quantize.h"
#include "run/run.h"
#include "support/support.h"
#include "support/unit.h"
#include "train/backward.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/parameters.h"

#include <math.h>
#include <string.h>

static nw_context ctx;
static nw_graph *g;
static nw_arena arena;

static int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    nw_graph_free(g);
    nw_arena_free(&arena);
    return 0;
}

static nw_random generator = {1};

static float uniform(float lo, float hi) {
    return (float)test_uniform(&generator, (double)lo, (double)hi);
}

/* ---- building ------------------------------------------------------------------------------------------ */

static int input(const char *name, nw_format format, int rank, const int64_t *dims) {
    int id;
    assert_ok(&ctx, nw_loss_target(g, name, format, rank, dims, &id));
    return id;
}

static int constant(const char *name, int rank, const int64_t *dims, const float *values) {
    nw_tensor t = {.format = NW_F32, .data = (void *)(uintptr_t)values};
    int id;
    nw_tensor_set_shape(&t, rank, dims);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

/* Uniform in ±1/√fan_in, or `value` everywhere. */
static int weight(const char *name, int rank, const int64_t *dims, float value) {
    nw_tensor t = {.format = NW_F32};
    nw_tensor_set_shape(&t, rank, dims);
    assert_ok(&ctx, nw_tensor_alloc(&arena, &t));
    float limit = rank > 1 ? 1 / sqrtf((float)nw_dims_product(dims, 1, rank)) : 0;
    for (size_t i = 0; i < nw_tensor_count(&t); i++)
        ((float *)t.data)[i] = rank > 1 ? uniform(-limit, limit) : value;
    return constant(name, rank, dims, t.data);
}

static int node(const char *op, int count, const int *in) {
    int out;
    assert_ok(&ctx, nw_graph_add_value(g, op, &out));
    assert_ok(&ctx, nw_graph_add_node(g, strcmp(op, "FakeQuant") == 0 ? "ai.narrow" : "", op, op, count, in,
                                      1, &out, NULL));
    return out;
}

static nw_node *last(void) {
    return &g->nodes[g->node_count - 1];
}

static int total(int a) {
    int out = node("ReduceSum", 1, &a);
    assert_ok(&ctx, nw_node_set_int(g, last(), "keepdims", 0));
    return out;
}

/* ---- running ------------------------------------------------------------------------------------------- */

static nw_session *open_session(void) {
    nw_session *s;
    nw_run_options options = {.threads = 2, .isa = nw_isa_detect()};
    assert_ok(&ctx, nw_session_new(&ctx, g, &options, &s));
    return s;
}

static nw_tensor f32(int rank, const int64_t *dims, const float *data) {
    nw_tensor t = {.format = NW_F32, .data = (void *)(uintptr_t)data};
    nw_tensor_set_shape(&t, rank, dims);
    return t;
}

static float f(const nw_tensor *t, size_t i) {
    return ((const float *)t->data)[i];
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

static void test_many_readers(void **state) {
    (void)state; /* loss = Σ (x·x + x·w + x), x read four times: dx = 2x + w + 1, dw = x */
    int x = input("x", NW_F32, 1, (int64_t[]){3}), w = input("w", NW_F32, 1, (int64_t[]){3});
    int sum = node("Add", 2, (int[]){node("Mul", 2, (int[]){x, x}), node("Mul", 2, (int[]){x, w})});
    int loss = total(node("Add", 2, (int[]){sum, x})), gradients[2];
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_backward(g, loss, 2, (int[]){x, w}, gradients));
    for (int i = 0; i < 2; i++) assert_ok(&ctx, nw_graph_add_output(g, gradients[i]));
    const float xs[] = {1, -2, 3}, ws[] = {5, 6, 7};
    nw_tensor out[3];
    nw_session *s = open_session();
    const nw_feed feeds[] = {{"x", f32(1, (int64_t[]){3}, xs)}, {"w", f32(1, (int64_t[]){3}, ws)}};
    assert_ok(&ctx, nw_session_run(s, 2, feeds, &arena, out));
    for (size_t i = 0; i < 3; i++) {
        assert_float_equal(f(&out[1], i), 2 * xs[i] + ws[i] + 1, 1e-5f);
        assert_float_equal(f(&out[2], i), xs[i], 1e-5f);
    }
    nw_session_free(s);
}

static void test_unused_parameter(void **state) {
    (void)state; /* a parameter that the loss does not read, and one behind a step function */
    int x = input("x", NW_F32, 1, (int64_t[]){3}), y = input("y", NW_F32, 1, (int64_t[]){3}), gradients[2];
    int loss = total(node("Mul", 2, (int[]){x, x}));
    assert_ok(&ctx, nw_graph_add_output(g, node("Relu", 1, &y)));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_backward(g, loss, 2, (int[]){x, y}, gradients));
    assert_true(gradients[0] >= 0);
    assert_int_equal(gradients[1], NW_ABSENT);
}

static void test_no_gradient(void **state) {
    (void)state;
    int x = input("x", NW_F32, 2, (int64_t[]){3, 3}), gradient;
    int loss = total(node("Det", 1, &x));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_fails(&ctx, NW_E_UNSUPPORTED, "gradient of Det \"Det\"", nw_backward(g, loss, 1, &x, &gradient));
}

static void test_loss_is_no_scalar(void **state) {
    (void)state;
    int x = input("x", NW_F32, 1, (int64_t[]){3}), gradient, y = node("Relu", 1, &x);
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_fails(&ctx, NW_E_SHAPE, "single floating-point number", nw_backward(g, y, 1, &x, &gradient));
}

static void test_loss_without_parameters(void **state) {
    (void)state;
    int x = input("x", NW_F32, 1, (int64_t[]){3}), y = input("y", NW_F32, 1, (int64_t[]){3}), gradient;
    int loss = total(y);
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_fails(&ctx, NW_E_ARGUMENT, "depends on none", nw_backward(g, loss, 1, &x, &gradient));
}

/* ---- FakeQuant ----------------------------------------------------------------------------------------- */

typedef struct quant_case {
    const char *format;
    int qmin, qmax, axis, block, lsq;
    int32_t zero;      /* of all groups */
    int64_t scales[2]; /* shape of the scales */
} quant_case;

/* x [4, 6] on grids per tensor, per row, per column and per block; dy random. */
static void check_fakequant(const quant_case *q) {
    const int64_t shape[2] = {4, 6};
    float x[24], dy[24], scale[12], dscale[12] = {0}, dx[24];
    int32_t zeros[12];
    int groups = (int)(q->scales[0] * q->scales[1]);
    for (int i = 0; i < 24; i++) {
        x[i] = uniform(-3, 3);
        dy[i] = uniform(-1, 1);
    }
    for (int i = 0; i < groups; i++) {
        scale[i] = uniform(0.1f, 0.3f);
        zeros[i] = q->zero;
    }
    for (int i = 0; i < 24; i++) {
        int row = i / 6, column = i % 6;
        int group = q->block       ? row * (int)q->scales[1] + column / q->block
                    : q->axis == 0 ? row
                    : q->axis == 1 ? column
                                   : 0;
        float v = x[i] / scale[group], lo = (float)(q->qmin - q->zero), hi = (float)(q->qmax - q->zero);
        bool inside = v >= lo && v <= hi;
        dx[i] = inside ? dy[i] : 0;
        dscale[group] += dy[i] * (inside ? rintf(v) - v : v < lo ? lo : hi);
    }
    int rank = q->block ? 2 : 1;
    int64_t dims[2] = {q->block ? q->scales[0] : groups, q->scales[1]};
    int ids[2] = {input("x", NW_F32, 2, shape), input("scale", NW_F32, rank, dims)}, zero, gradients[2];
    nw_tensor zero_tensor = {.format = NW_S32, .data = zeros};
    nw_tensor_set_shape(&zero_tensor, rank, dims);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "zero", &zero_tensor, &zero));
    int y = node("FakeQuant", 3, (int[]){ids[0], ids[1], zero});
    assert_ok(&ctx, nw_node_set_string(g, last(), "format", q->format));
    assert_ok(&ctx, nw_node_set_int(g, last(), "qmin", q->qmin));
    assert_ok(&ctx, nw_node_set_int(g, last(), "qmax", q->qmax));
    assert_ok(&ctx, nw_node_set_int(g, last(), "axis", q->axis));
    assert_ok(&ctx, nw_node_set_int(g, last(), "block", q->block));
    assert_ok(&ctx, nw_node_set_int(g, last(), "lsq", q->lsq));
    int loss = total(node("Mul", 2, (int[]){y, constant("dy", 2, shape, dy)}));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_backward(g, loss, 2, ids, gradients));
    for (int i = 0; i < 2; i++) assert_ok(&ctx, nw_graph_add_output(g, gradients[i]));
    nw_session *s = open_session();
    nw_tensor out[3];
    assert_ok(&ctx,
              nw_session_run(s, 2, (nw_feed[]){{"x", f32(2, shape, x)}, {"scale", f32(rank, dims, scale)}},
                             &arena, out));
    float factor = q->lsq ? 1 / sqrtf(24.0f / (float)groups * (float)(q->qmax - q->zero)) : 1;
    for (size_t i = 0; i < 24; i++) assert_float_equal(f(&out[1], i), dx[i], 0);
    for (size_t i = 0; i < (size_t)groups; i++) assert_float_equal(f(&out[2], i), dscale[i] * factor, 2e-5f);
    nw_session_free(s);
}

static void test_fakequant(void **state) {
    static const quant_case cases[] = {
        {"s8", -8, 7, -1, 0, 0, 0, {1, 1}}, {"u8", 0, 15, -1, 0, 0, 6, {1, 1}},
        {"s8", -8, 7, -1, 0, 1, 0, {1, 1}}, {"s4", -8, 7, 0, 0, 0, 0, {1, 4}},
        {"u8", 0, 15, 1, 0, 1, 5, {1, 6}},  {"s4", -7, 7, 1, 4, 0, 0, {4, 2}},
        {"s8", -9, 9, 1, 2, 1, 0, {4, 3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_fakequant(&cases[i]);
        tear_down(state);
        set_up(state);
    }
}

/* Every coding, with a learned scale per row: dscale = Σ dy·(c − v inside, c beyond) / √(n·most). */
static void check_coding(const char *word) {
    const int64_t shape[2] = {4, 40}, rows = 4;
    float x[160], dy[160], y[160], scale[4], dx[160], dscale[4] = {0};
    int32_t zeros[4];
    nw_scheme scheme;
    assert_ok(&ctx, nw_scheme_parse(&ctx, word, &scheme));
    const nw_coding *c = &scheme.coding;
    nw_qparam p = {.format = c->format, .grain = NW_GRAIN_AXIS, .groups = 4, .scales = scale};
    bool whole = nw_format_is_integer(c->format);
    float lo, hi;
    assert_ok(&ctx, nw_coding_levels(&arena, c, &p.levels));
    if (whole) {
        p.zeros = zeros;
        p.qmin = c->grid.qmin + c->shift;
        p.qmax = c->grid.qmax + c->shift;
        lo = (float)c->grid.qmin;
        hi = (float)c->grid.qmax;
    } else {
        hi = p.levels.count ? p.levels.value[p.levels.count - 1] : (float)nw_format_largest(c->format);
        lo = p.levels.count ? p.levels.value[0] : -hi;
        p.qmax = p.levels.count - (p.levels.count > 0);
    }
    for (int r = 0; r < 4; r++) {
        scale[r] = uniform(0.5f, 1) / hi; /* so that some numbers lie beyond */
        zeros[r] = c->shift;
    }
    for (int i = 0; i < 160; i++) {
        x[i] = uniform(-1.5f, 1.5f);
        dy[i] = uniform(-1, 1);
    }
    nw_fake_quantize(&p, 2, shape, x, y);
    for (int i = 0; i < 160; i++) {
        float s = scale[i / 40], v = x[i] / s;
        bool inside = v >= lo && v <= hi;
        dx[i] = inside ? dy[i] : 0;
        dscale[i / 40] += dy[i] * (inside ? y[i] / s - v : v < lo ? lo : hi) / sqrtf(40 * (hi > 1 ? hi : 1));
    }
    int ids[2] = {input("x", NW_F32, 2, shape), input("scale", NW_F32, 1, &rows)}, zero, gradients[2];
    nw_tensor zero_tensor = {.format = NW_S32, .rank = 1, .dims = {4}, .data = zeros};
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "zero", &zero_tensor, &zero));
    int out = node("FakeQuant", whole ? 3 : 2, (int[]){ids[0], ids[1], zero});
    assert_ok(&ctx, nw_fakequant_write(g, last(), &p));
    assert_ok(&ctx, nw_node_set_int(g, last(), "lsq", 1));
    int loss = total(node("Mul", 2, (int[]){out, constant("dy", 2, shape, dy)}));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_backward(g, loss, 2, ids, gradients));
    for (int i = 0; i < 2; i++) assert_ok(&ctx, nw_graph_add_output(g, gradients[i]));
    nw_session *s = open_session();
    nw_tensor have[3];
    assert_ok(&ctx,
              nw_session_run(s, 2, (nw_feed[]){{"x", f32(2, shape, x)}, {"scale", f32(1, &rows, scale)}},
                             &arena, have));
    for (size_t i = 0; i < 160; i++) assert_float_equal(f(&have[1], i), dx[i], 0);
    for (size_t i = 0; i < 4; i++)
        assert_float_equal(f(&have[2], i), dscale[i], 2e-5f * fmaxf(1, fabsf(dscale[i])));
    nw_session_free(s);
}

static void test_codings(void **state) {
    static const char *const words[] = {"s8",     "u8",    "s8-asym",     "s4",       "u4",     "s2",
                                        "u2",     "s16",   "range(-2:1)", "ternary",  "binary", "log4",
                                        "log4/2", "sqrt4", "nf4",         "f8e4m3fn", "f8e5m2", "f4e2m1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        check_coding(words[i]);
        tear_down(state);
        set_up(state);
    }
}

/* ---- losses against numbers by hand -------------------------------------------------------------------- */

static float run_loss(int loss, size_t count, const nw_feed *feeds) {
    nw_tensor out;
    assert_ok(&ctx, nw_graph_add_output(g, loss));
    nw_session *s = open_session();
    assert_ok(&ctx, nw_session_run(s, count, feeds, &arena, &out));
    float value = f(&out, 0);
    nw_session_free(s);
    return value;
}

static const float logits[] = {1, 2, 3, 0, -1, 0.5f};

/* log softmax of the rows of `logits`/t */
static double log_softmax(int row, int c, double t) {
    double sum = 0;
    for (int k = 0; k < 3; k++) sum += exp((double)logits[row * 3 + k] / t);
    return (double)logits[row * 3 + c] / t - log(sum);
}

static void check_cross_entropy(float smoothing) {
    int64_t labels[] = {2, 0}, shape[] = {2, 3};
    double want = 0;
    for (int row = 0; row < 2; row++)
        for (int c = 0; c < 3; c++)
            want -= log_softmax(row, c, 1) / 2 *
                    ((c == labels[row] ? 1 - (double)smoothing : 0) + (double)smoothing / 3);
    int loss, x = input("x", NW_F32, 2, shape), l = input("l", NW_S64, 1, shape);
    assert_ok(&ctx, nw_loss_cross_entropy(g, x, l, smoothing, &loss));
    nw_feed feeds[] = {{"x", f32(2, shape, logits)},
                       {"l", {.format = NW_S64, .rank = 1, .dims = {2}, .data = labels}}};
    assert_float_equal(run_loss(loss, 2, feeds), (float)want, 1e-5f);
}

static void test_cross_entropy(void **state) {
    (void)state;
    check_cross_entropy(0);
}

static void test_smoothing(void **state) {
    (void)state;
    check_cross_entropy(0.1f);
}

static void test_divergence(void **state) {
    (void)state;
    int64_t shape[] = {1, 3};
    double want = 0, t = 2;
    for (int c = 0; c < 3; c++)
        want += exp(log_softmax(0, c, t)) * (log_softmax(0, c, t) - log_softmax(1, c, t)) * t * t;
    int loss, student = input("s", NW_F32, 2, shape), teacher = input("t", NW_F32, 2, shape);
    assert_ok(&ctx, nw_loss_divergence(g, student, teacher, 2, &loss));
    nw_feed feeds[] = {{"s", f32(2, shape, logits + 3)}, {"t", f32(2, shape, logits)}};
    assert_float_equal(run_loss(loss, 2, feeds), (float)want, 1e-5f);
}

static void test_squares(void **state) {
    (void)state;
    int64_t shape[] = {2, 3};
    const float target[] = {1, 1, 1, 1, 1, 1};
    int loss, x = input("x", NW_F32, 2, shape), t = input("t", NW_F32, 2, shape);
    assert_ok(&ctx, nw_loss_squares(g, x, t, &loss));
    nw_feed feeds[] = {{"x", f32(2, shape, logits)}, {"t", f32(2, shape, target)}};
    assert_float_equal(run_loss(loss, 2, feeds), (0 + 1 + 4 + 1 + 4 + 0.25f) / 6, 1e-5f);
}

/* ---- what becomes a parameter -------------------------------------------------------------------------- */

/* x [batch, 1, 8, 8] → Conv(FakeQuant(w)) → BatchNormalization → Relu → Dropout → Conv → GlobalAveragePool →
 * Gemm [batch, 3] */
static int small_convnet(int64_t batch) {
    int x = input("x", NW_F32, 4, (int64_t[]){batch, 1, 8, 8});
    int w = weight("w", 4, (int64_t[]){6, 1, 3, 3}, 0), scale = constant("s", 0, NULL, (float[]){0.02f});
    int wq = node("FakeQuant", 2, (int[]){w, scale});
    assert_ok(&ctx, nw_node_set_string(g, last(), "format", "s8"));
    int conv = node("Conv", 2, (int[]){x, wq});
    assert_ok(&ctx, nw_node_set_ints(g, last(), "pads", (int64_t[]){1, 1, 1, 1}, 4));
    int norm = node("BatchNormalization", 5,
                    (int[]){conv, weight("gamma", 1, (int64_t[]){6}, 1), weight("beta", 1, (int64_t[]){6}, 0),
                            weight("mean", 1, (int64_t[]){6}, 0), weight("var", 1, (int64_t[]){6}, 1)});
    int drop =
        node("Dropout", 2, (int[]){node("Relu", 1, &norm), constant("ratio", 0, NULL, (float[]){0.1f})});
    int second =
        node("Conv", 3,
             (int[]){drop, weight("w2", 4, (int64_t[]){8, 6, 3, 3}, 0), weight("b2", 1, (int64_t[]){8}, 0)});
    assert_ok(&ctx, nw_node_set_ints(g, last(), "strides", (int64_t[]){2, 2}, 2));
    int relu = node("Relu", 1, &second), pool = node("GlobalAveragePool", 1, &relu),
        flat = node("Flatten", 1, &pool);
    int out = node("Gemm", 3,
                   (int[]){flat, weight("w3", 2, (int64_t[]){3, 8}, 0), weight("b3", 1, (int64_t[]){3}, 0)});
    assert_ok(&ctx, nw_node_set_int(g, last(), "transB", 1));
    assert_ok(&ctx, nw_graph_add_output(g, out));
    assert_ok(&ctx, nw_graph_resolve(g));
    return out;
}

static void test_prepare(void **state) {
    (void)state;
    static const char *const names[] = {"w", "s", "gamma", "beta", "w2", "b2", "w3", "b3"};
    nw_train_values v;
    small_convnet(-1);
    nw_train_options options = {.batch = 4, .learn_scales = true};
    assert_ok(&ctx, nw_train_prepare(g, &options, &arena, &v));
    assert_int_equal(v.parameter_count, 8);
    for (size_t i = 0; i < 8; i++) {
        assert_string_equal(v.parameters[i].name, names[i]);
        assert_null(g->values[v.parameters[i].value].constant);
    }
    assert_int_equal(v.parameters[0].kind, NW_PARAMETER_WEIGHT);
    assert_int_equal(v.parameters[1].kind, NW_PARAMETER_SCALE);
    assert_int_equal(v.parameters[2].kind, NW_PARAMETER_VECTOR);
    assert_int_equal(v.state_count, 2);
    assert_string_equal(v.states[0].name, "mean");
    assert_true(v.step >= 0);
    assert_int_equal(g->values[g->inputs[0]].dims[0], 4);
    assert_ok(&ctx, nw_graph_verify(g));
}

static void test_prepare_refuses(void **state) {
    (void)state;
    nw_train_values v;
    nw_train_options options = {.batch = 4};
    int x = input("x", NW_F32, 2, (int64_t[]){-1, -1});
    assert_ok(&ctx, nw_graph_add_output(g, node("Relu", 1, &x)));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_fails(&ctx, NW_E_SHAPE, "no fixed shape", nw_train_prepare(g, &options, &arena, &v));
    g->values[x].dims[1] = 3;
    assert_fails(&ctx, NW_E_ARGUMENT, "no floating-point weights", nw_train_prepare(g, &options, &arena, &v));
}

/* ---- learning ------------------------------------------------------------------------------------------ */

typedef struct learner {
    nw_session *session;
    nw_train_values values;
    nw_feed feeds[24];
    size_t feed_count;
    int gradients[16], loss_output; /* place of the loss in the outputs; gradients follow it */
} learner;

static void start_learning(learner *l, int loss) {
    int parameters[16];
    for (size_t i = 0; i < l->values.parameter_count; i++) parameters[i] = l->values.parameters[i].value;
    l->loss_output = g->output_count;
    assert_ok(&ctx, nw_backward(g, loss, (int)l->values.parameter_count, parameters, l->gradients));
    for (size_t i = 0; i < l->values.parameter_count; i++) {
        assert_true(l->gradients[i] >= 0);
        assert_ok(&ctx, nw_graph_add_output(g, l->gradients[i]));
        l->feeds[l->feed_count++] = (nw_feed){l->values.parameters[i].name, l->values.parameters[i].tensor};
    }
    for (size_t i = 0; i < l->values.state_count; i++)
        l->feeds[l->feed_count++] = (nw_feed){l->values.states[i].name, l->values.states[i].tensor};
    assert_ok(&ctx, nw_graph_verify(g));
    l->session = open_session();
}

/* One run and one step; returns the loss. */
static float learn(learner *l, const nw_optimizer *optimizer, double rate, int64_t step, float **slots) {
    nw_tensor out[32];
    nw_arena run;
    nw_arena_init(&run, &ctx);
    assert_ok(&ctx, nw_session_run(l->session, l->feed_count, l->feeds, &run, out));
    for (size_t i = 0; i < l->values.parameter_count; i++) {
        nw_tensor *p = &l->values.parameters[i].tensor, *d = &out[l->loss_output + 1 + (int)i];
        assert_true(nw_tensor_same_shape(p, d));
        nw_optimizer_step(optimizer, rate, step, true, nw_tensor_count(p), p->data, d->data, slots[i],
                          nw_tensor_count(p));
    }
    for (size_t i = 0; i < l->values.state_count; i++) {
        int o = 0;
        while (g->outputs[o] != l->values.states[i].next) o++;
        memcpy(l->values.states[i].tensor.data, out[o].data, nw_tensor_bytes(&out[o]));
    }
    float loss = f(&out[l->loss_output], 0);
    nw_arena_free(&run);
    return loss;
}

static void make_slots(const learner *l, const nw_optimizer *o, float **slots) {
    for (size_t i = 0; i < l->values.parameter_count; i++) {
        slots[i] = nw_arena_array(
            &arena, nw_tensor_count(&l->values.parameters[i].tensor) * nw_optimizer_slots(o) + 1,
            sizeof **slots);
        assert_non_null(slots[i]);
    }
}

/* Exclusive or, by a perceptron with one hidden layer. */
static void test_perceptron(void **state) {
    (void)state;
    const float xs[] = {0, 0, 0, 1, 1, 0, 1, 1}, ys[] = {0, 1, 1, 0};
    generator = (nw_random){1};
    int x = input("x", NW_F32, 2, (int64_t[]){4, 2}), y = input("y", NW_F32, 2, (int64_t[]){4, 1}), loss;
    int hidden = node("MatMul", 2, (int[]){x, weight("w1", 2, (int64_t[]){2, 8}, 0)});
    hidden = node("Add", 2, (int[]){hidden, weight("b1", 1, (int64_t[]){8}, 0)});
    hidden = node("Tanh", 1, &hidden);
    int out =
        node("Gemm", 3,
             (int[]){hidden, weight("w2", 2, (int64_t[]){8, 1}, 0), weight("b2", 1, (int64_t[]){1}, 0)});
    assert_ok(&ctx, nw_graph_add_output(g, out));
    assert_ok(&ctx, nw_graph_resolve(g));
    learner l = {.feeds = {{"x", f32(2, (int64_t[]){4, 2}, xs)}, {"y", f32(2, (int64_t[]){4, 1}, ys)}},
                 .feed_count = 2};
    nw_train_options options = {.batch = 4};
    assert_ok(&ctx, nw_train_prepare(g, &options, &arena, &l.values));
    assert_int_equal(l.values.parameter_count, 4);
    assert_ok(&ctx, nw_loss_squares(g, out, y, &loss));
    start_learning(&l, loss);
    nw_optimizer sgd = nw_optimizer_default(NW_OPTIMIZER_SGD);
    float *slots[16], first = 0, latest = 0;
    make_slots(&l, &sgd, slots);
    for (int64_t step = 1; step <= 300; step++) {
        latest = learn(&l, &sgd, 0.1, step, slots);
        if (step == 1) first = latest;
    }
    nw_session_free(l.session);
    assert_true(first > 0.1f);
    assert_true(latest < 1e-3f);
}

/* Bars in noise: horizontal, vertical or none. */
static void draw_bars(int64_t batch, float *images, int64_t *labels) {
    for (int64_t i = 0; i < batch; i++, images += 64) {
        int at = (int)uniform(0, 8);
        labels[i] = i % 3;
        for (int k = 0; k < 64; k++) {
            bool bar = labels[i] == 0 ? k / 8 == at : labels[i] == 1 ? k % 8 == at : false;
            images[k] = uniform(-0.3f, 0.3f) + (bar ? 1 : 0);
        }
    }
}

/* Trains a convolutional network with BatchNormalization, Dropout and a quantized layer; returns the last
 * losses' mean. */
static float train_convnet(float *first) {
    enum { BATCH = 24, STEPS = 150 };
    static float images[BATCH * 64];
    static int64_t labels[BATCH];
    int loss;
    int64_t step = 0;
    generator = (nw_random){7};
    int out = small_convnet(-1), target = input("label", NW_S64, 1, (int64_t[]){BATCH});
    learner l = {.feeds = {{"x", f32(4, (int64_t[]){BATCH, 1, 8, 8}, images)},
                           {"label", {.format = NW_S64, .rank = 1, .dims = {BATCH}, .data = labels}},
                           {"train/step", {.format = NW_S64, .data = &step}}},
                 .feed_count = 3};
    nw_train_options options = {.batch = BATCH, .learn_scales = true, .seed = 3};
    assert_ok(&ctx, nw_train_prepare(g, &options, &arena, &l.values));
    assert_ok(&ctx, nw_loss_cross_entropy(g, out, target, 0, &loss));
    start_learning(&l, loss);
    nw_optimizer adam = nw_optimizer_default(NW_OPTIMIZER_ADAM);
    float *slots[16], sum = 0;
    make_slots(&l, &adam, slots);
    for (step = 1; step <= STEPS; step++) {
        draw_bars(BATCH, images, labels);
        float now = learn(&l, &adam, 0.01, step, slots);
        if (step == 1) *first = now;
        if (step > STEPS - 10) sum += now;
    }
    assert_true(f(&l.values.states[1].tensor, 0) != 1); /* the running variance moved */
    nw_session_free(l.session);
    return sum / 10;
}

static void test_convnet(void **state) {
    float first[2], last_loss[2];
    for (int i = 0; i < 2; i++) {
        last_loss[i] = train_convnet(&first[i]);
        tear_down(state);
        set_up(state);
    }
    assert_true(first[0] > 0.8f);
    assert_true(last_loss[0] < 0.15f);
    assert_memory_equal(last_loss, last_loss + 1, sizeof *last_loss); /* the same seed gives the same bits */
}

/* Memory that runs out anywhere gives an error and leaves nothing behind. */
static void test_out_of_memory(void **state) {
    (void)state;
    int out = small_convnet(-1);
    long fails = 0;
    for (nw_status status = NW_E_MEMORY; status != NW_OK; fails++) {
        test_memory memory = {.fail_at = fails};
        nw_allocator allocator = test_allocator(&memory);
        nw_context starved;
        nw_arena lists;
        nw_graph *copy = NULL;
        nw_train_values v;
        int ids[16], gradients[16], loss = NW_ABSENT, labels;
        nw_train_options options = {.batch = 4, .learn_scales = true};
        nw_context_init(&starved, &allocator);
        nw_arena_init(&lists, &starved);
        status = nw_graph_copy(g, &starved, &copy);
        if (status == NW_OK) status = nw_train_prepare(copy, &options, &lists, &v);
        if (status == NW_OK) status = nw_loss_target(copy, "label", NW_S64, 1, (int64_t[]){4}, &labels);
        if (status == NW_OK) status = nw_loss_cross_entropy(copy, out, labels, 0.1f, &loss);
        for (size_t i = 0; status == NW_OK && i < v.parameter_count; i++) ids[i] = v.parameters[i].value;
        if (status == NW_OK) status = nw_backward(copy, loss, (int)v.parameter_count, ids, gradients);
        assert_true(status == NW_OK || status == NW_E_MEMORY);
        nw_graph_free(copy);
        nw_arena_free(&lists);
        assert_int_equal(memory.alive, 0);
    }
    assert_true(fails > 50);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_many_readers),
        TEST(test_unused_parameter),
        TEST(test_no_gradient),
        TEST(test_loss_is_no_scalar),
        TEST(test_loss_without_parameters),
        TEST(test_fakequant),
        TEST(test_codings),
        TEST(test_cross_entropy),
        TEST(test_smoothing),
        TEST(test_divergence),
        TEST(test_squares),
        TEST(test_prepare),
        TEST(test_prepare_refuses),
        TEST(test_perceptron),
        TEST(test_convnet),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("train", tests, NULL, NULL);
}
