/* test_rnn.c: LSTM and GRU as they are planned against their reference: in real numbers, with quantized state, with quantized
 * input, several directions and samples, sequences of unequal length; and their way through ONNX files. */
#include "num/levels.h"
#include "onnx/onnx.h"
#include "op/op.h"
#include "op/quantize.h"
#include "run/run.h"
#include "support/unit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum input_kind { INPUT_REAL, INPUT_STATIC, INPUT_DYNAMIC, INPUT_ROWS, INPUT_KINDS } input_kind;

/* How weights are stored, and the kernels that then multiply with a state in real numbers and with a quantized one. */
typedef struct storage {
    const char *real, *restricted;
    nw_format format; /* NONE: real numbers */
    nw_grain grain;   /* AXIS: a scale per row of all directions; BLOCK: of k */
    int64_t block;    /* 0: a row */
    bool zeros;
    nw_format scale_format;
    float range;
} storage;
static const storage storages[] = {
    {.real = "gemm_f32", .restricted = "gemm_f32"},
    {"gemm_wcodes", "gemm_u8s8", NW_S8, NW_GRAIN_AXIS, .range = 127},
    {"gemm_wcodes", "gemm_u8s8", NW_U8, NW_GRAIN_TENSOR, .zeros = true, .range = 60},
    {"gemm_wcodes", "gemm_u8s8", NW_S8, NW_GRAIN_BLOCK, .range = 127},
    {"gemm_wcodes", "gemm_u8_wcodes", NW_S8, NW_GRAIN_BLOCK, 16, .range = 127},
    {"gemm_wcodes", "gemm_u8_wcodes", NW_S4, NW_GRAIN_BLOCK, 16, .scale_format = NW_F16, .range = 7},
    {"gemm_wcodes", "gemm_u8_wcodes", NW_U4, NW_GRAIN_AXIS, .zeros = true, .range = 5},
    {"gemm_wcodes", "gemm_u8_wcodes", NW_S2, NW_GRAIN_TENSOR, .range = 1},
    {"gemm_wcodes", "gemm_u8_wcodes", NW_INDEX1, NW_GRAIN_AXIS, .range = 1},
    {"gemm_wcodes", "gemm_wcodes", NW_INDEX4, NW_GRAIN_BLOCK, 32, .range = 1},
    {"gemm_wcodes", "gemm_wcodes", NW_INDEX8, NW_GRAIN_AXIS, .range = 1},
    {"gemm_wcodes", "gemm_wcodes", NW_F16, NW_GRAIN_TENSOR, .range = 1},
    {"gemm_wcodes", "gemm_wcodes", NW_BF16, NW_GRAIN_TENSOR, .range = 1},
};
enum { STORAGES = sizeof storages / sizeof *storages, USUAL_STORAGE = 1, U8_STORAGE, BLOCK_STORAGE };

typedef struct recurrent {
    const char *op;
    int64_t steps, batch, input, hidden;
    const char *direction;
    bool after_reset, lengths, initial, restricted, last_only;
    input_kind x;
    const storage *w;
} recurrent;

enum { MOST = 40000 };
static nw_context ctx;
static uint32_t seed;

static float random_float(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static void *random_bytes(size_t count) {
    static float data[MOST];
    assert_true(count <= MOST);
    for (size_t i = 0; i < count; i++) data[i] = random_float();
    return data;
}

/* ---- building ---------------------------------------------------------------------------------------------------- */

static int constant(nw_graph *g, const char *name, int rank, const int64_t *dims, float factor) {
    nw_tensor t = {.format = NW_F32};
    int id;
    nw_tensor_set_shape(&t, rank, dims);
    float *data = t.data = random_bytes(nw_tensor_count(&t));
    for (size_t i = 0; i < nw_tensor_count(&t); i++) data[i] *= factor;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

/* A weight [d, rows, k] of numbers up to 1/4. */
static int weight(nw_graph *g, const char *name, const int64_t *dims, const storage *s) {
    static float scales[1000];
    static int32_t zeros[1000];
    static uint16_t codes[MOST];
    nw_arena arena;
    nw_qparam q = {.format = s->format,
                   .grain = s->grain,
                   .axis = s->grain == NW_GRAIN_BLOCK ? 2 : 1,
                   .block = s->block ? s->block : dims[2],
                   .scale_format = s->scale_format};
    nw_tensor t = {.format = s->format, .data = codes, .qparam = &q};
    int id;
    if (!s->format) return constant(g, name, 3, dims, 0.25f);
    nw_arena_init(&arena, &ctx);
    q.groups = nw_qparam_group_count(q.grain, q.axis, q.block, 3, dims);
    nw_tensor_set_shape(&t, 3, dims);
    assert_true(q.groups <= 1000 && nw_tensor_count(&t) <= MOST);
    if (nw_format_is_integer(q.format)) {
        q.qmin = (int32_t)nw_format_min(q.format);
        q.qmax = (int32_t)nw_format_max(q.format);
    }
    if (s->format == NW_INDEX1) assert_ok(&ctx, nw_levels_binary(&arena, &q.levels));
    if (s->format == NW_INDEX4) assert_ok(&ctx, nw_levels_nf4(&arena, &q.levels));
    if (s->format == NW_INDEX8) assert_ok(&ctx, nw_levels_log(&arena, 201, 8, &q.levels));
    for (size_t i = 0; i < q.groups; i++) {
        scales[i] = nw_f16_to_f32(nw_f16_from_f32((1.5f + random_float()) / (8 * s->range)));
        zeros[i] = s->zeros ? (q.qmin + q.qmax) / 2 + (int32_t)(i % 3) : 0;
    }
    if (nw_format_is_float(q.format)) scales[0] = 1;
    if (s->zeros) q.zeros = zeros;
    assert_ok(&ctx, nw_qparam_set_scales(&arena, &q, scales));
    float *x = random_bytes(nw_tensor_count(&t));
    for (size_t i = 0; i < nw_tensor_count(&t); i++) x[i] *= 0.25f;
    memset(codes, 0, sizeof codes);
    nw_quantize(&q, 3, dims, x, codes);
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    nw_arena_free(&arena);
    return id;
}

static int restricted_input(nw_graph *g, int x, input_kind kind) {
    if (kind == INPUT_REAL) return x;
    float scale = 2.0f / 255;
    int32_t zero = 127;
    nw_tensor s = {.format = NW_F32, .data = &scale}, z = {.format = NW_S32, .data = &zero};
    int in[3] = {x, NW_ABSENT, NW_ABSENT}, out;
    nw_node *node;
    if (kind == INPUT_STATIC) {
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &s, &in[1]));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &z, &in[2]));
    }
    assert_ok(&ctx, nw_graph_add_value(g, "x_dq", &out));
    g->values[out].format = NW_F32;
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "", kind == INPUT_STATIC ? 3 : 1, in, 1,
                                      &out, &node));
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
    if (kind == INPUT_ROWS) assert_ok(&ctx, nw_node_set_int(g, node, "per_row", 1));
    return out;
}

static void finish_node(nw_graph *g, const recurrent *r, nw_node *node) {
    assert_ok(&ctx, nw_node_set_int(g, node, "hidden_size", r->hidden));
    assert_ok(&ctx, nw_node_set_string(g, node, "direction", r->direction));
    if (r->after_reset) assert_ok(&ctx, nw_node_set_int(g, node, "linear_before_reset", 1));
    if (r->restricted) assert_ok(&ctx, nw_node_set_string(g, node, NW_STATE_FORMAT, "u8"));
    assert_ok(&ctx, nw_graph_resolve(g));
}

/* x → [FakeQuant →] LSTM or GRU → y, y_h [, y_c]; the same numbers every time. */
static nw_graph *build(const recurrent *r) {
    nw_graph *g;
    bool lstm = strcmp(r->op, "LSTM") == 0;
    int64_t d = strcmp(r->direction, "bidirectional") == 0 ? 2 : 1, gates = (lstm ? 4 : 3) * r->hidden;
    int in[7] = {0, 0, 0, 0, NW_ABSENT, NW_ABSENT, NW_ABSENT}, out[3];
    nw_node *node;
    seed = 7;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
    assert_ok(&ctx, nw_graph_add_value(g, "x", &in[0]));
    g->values[in[0]].format = NW_F32;
    g->values[in[0]].rank = 3;
    memcpy(g->values[in[0]].dims, (int64_t[]){r->steps, r->batch, r->input}, 3 * sizeof(int64_t));
    assert_ok(&ctx, nw_graph_add_input(g, in[0]));
    in[0] = restricted_input(g, in[0], r->x);
    in[1] = weight(g, "w", (int64_t[]){d, gates, r->input}, r->w);
    in[2] = weight(g, "r", (int64_t[]){d, gates, r->hidden}, r->w);
    in[3] = constant(g, "b", 2, (int64_t[]){d, 2 * gates}, 0.5f);
    if (r->lengths) {
        int32_t lengths[16];
        nw_tensor t = {.format = NW_S32, .rank = 1, .dims = {r->batch}, .data = lengths};
        for (int64_t b = 0; b < r->batch; b++) lengths[b] = (int32_t)(b * 3 % (r->steps + 1));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, "lengths", &t, &in[4]));
    }
    for (int i = 5; i < (lstm ? 7 : 6) && r->initial; i++)
        in[i] = constant(g, i == 5 ? "h0" : "c0", 3, (int64_t[]){d, r->batch, r->hidden}, 1);
    for (int i = 0; i < (lstm ? 3 : 2); i++) {
        assert_ok(&ctx, nw_graph_add_value(g, i == 0 ? "y" : i == 1 ? "y_h" : "y_c", &out[i]));
        g->values[out[i]].format = NW_F32;
        if (i > 0 || !r->last_only) assert_ok(&ctx, nw_graph_add_output(g, out[i]));
    }
    if (r->last_only) out[0] = NW_ABSENT;
    assert_ok(&ctx, nw_graph_add_node(g, "", r->op, "layer", lstm ? 7 : 6, in, lstm ? 3 : 2, out, &node));
    finish_node(g, r, node);
    return g;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* Outputs, one behind the other, into y; returns their number. kernel: of the recurrent step, or NULL. */
static size_t run(const nw_graph *g, const recurrent *r, nw_run_options options, float *y, char *kernel) {
    nw_session *session;
    nw_arena arena;
    nw_tensor outputs[3];
    nw_step_info step;
    size_t count = 0;
    nw_arena_init(&arena, &ctx);
    seed = 99;
    nw_feed feed = {"x", {.format = NW_F32, .rank = 3, .dims = {r->steps, r->batch, r->input}}};
    feed.tensor.data = random_bytes(nw_tensor_count(&feed.tensor));
    assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
    assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, outputs));
    for (int i = 0; i < g->output_count; i++) {
        size_t n = nw_tensor_count(&outputs[i]);
        assert_true(count + n <= MOST);
        memcpy(y + count, outputs[i].data, n * sizeof *y);
        count += n;
    }
    for (int i = 0; kernel && nw_session_step(session, i, &step); i++)
        if (strcmp(step.op, r->op) == 0) strcpy(kernel, step.kernel);
    nw_session_free(session);
    nw_arena_free(&arena);
    return count;
}

/* The largest difference and the root of the mean squared one. */
static void compare(const float *a, const float *b, size_t count, double *most, double *rms) {
    double sum = 0;
    *most = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (!(difference <= *most)) *most = difference;
        sum += difference * difference;
    }
    *rms = sqrt(sum / (double)count);
}

static float planned[MOST], reference[MOST];

/* The plan agrees with the reference. A code may rarely round the other way, which moves few numbers by little. */
static void check(const recurrent *r, nw_run_options options) {
    nw_graph *g = build(r);
    char kernel[64] = "";
    double most, rms;
    size_t count = run(g, r, options, planned, kernel);
    options.reference = true;
    assert_int_equal(run(g, r, options, reference, NULL), count);
    compare(planned, reference, count, &most, &rms);
    if (!(most < (r->restricted ? 4e-3 : 1e-5)) || !(rms < (r->restricted ? 1e-4 : 2e-6)))
        fail_msg("%s %s x %d w %d hidden %d batch %d%s%s: off by %g, %g on average", r->op, r->direction,
                 r->x, (int)(r->w - storages), (int)r->hidden, (int)r->batch,
                 r->after_reset ? " after reset" : "", r->restricted ? " restricted" : "", most, rms);
    /* A direction must begin with a byte. */
    const bool lstm = strcmp(r->op, "LSTM") == 0, both = strcmp(r->direction, "bidirectional") == 0;
    const int64_t codes = (lstm ? 4 : 3) * r->hidden * r->hidden;
    const char *expected = r->restricted ? r->w->restricted : r->w->real;
    if (both && codes * nw_format_bits(r->w->format) % 8 != 0) expected = "gemm_f32";
    assert_memory_equal(kernel, expected, strlen(expected));
    nw_graph_free(g);
}

static const char *const directions[] = {"forward", "reverse", "bidirectional"};

static void plans_agree_with_the_reference(void **state) {
    (void)state;
    for (int x = 0; x < INPUT_KINDS; x++)
        for (int w = 0; w < STORAGES; w++)
            for (int k = 0; k < 24; k++) {
                recurrent r = {.op = k % 3 ? "GRU" : "LSTM",
                               .after_reset = k % 3 == 1,
                               .steps = 5,
                               .batch = 1 + k % 4,
                               .input = w < 4 ? 9 : 18,
                               .hidden = k % 2 ? 21 : 24,
                               .direction = directions[k / 2 % 3],
                               .lengths = k % 4 == 3,
                               .initial = k / 3 % 2,
                               .restricted = k % 5 > 1,
                               .last_only = k % 7 == 3,
                               .x = (input_kind)x,
                               .w = &storages[w]};
                check(&r, (nw_run_options){.threads = 1, .isa = NW_ISA_COUNT - 1});
                check(&r, (nw_run_options){.threads = 1, .isa = NW_ISA_SCALAR});
            }
}

/* Large enough to be cut into runs of columns, and for several threads. */
static void large_layers_agree(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        recurrent r = {.op = k & 1 ? "GRU" : "LSTM",
                       .steps = 3,
                       .batch = k & 2 ? 16 : 1,
                       .input = 5,
                       .hidden = 97,
                       .direction = "forward",
                       .restricted = true,
                       .x = INPUT_DYNAMIC,
                       .w = &storages[USUAL_STORAGE]};
        check(&r, (nw_run_options){.threads = 2, .isa = NW_ISA_COUNT - 1});
    }
}

static const recurrent usual = {.op = "LSTM",
                                .steps = 6,
                                .batch = 1,
                                .input = 8,
                                .hidden = 16,
                                .restricted = true,
                                .x = INPUT_DYNAMIC,
                                .w = &storages[USUAL_STORAGE]};

/* Quantizing the state changes the result, by about as much as 8 bits do. */
static void a_restricted_state_is_another_one(void **state) {
    (void)state;
    recurrent r = usual;
    double most, rms;
    for (int k = 0; k < 2; k++) {
        r.op = k ? "GRU" : "LSTM";
        r.direction = "forward";
        r.restricted = true;
        nw_graph *g = build(&r);
        size_t count = run(g, &r, (nw_run_options){.threads = 1, .reference = true}, planned, NULL);
        nw_graph_free(g);
        r.restricted = false;
        g = build(&r);
        run(g, &r, (nw_run_options){.threads = 1, .reference = true}, reference, NULL);
        nw_graph_free(g);
        compare(planned, reference, count, &most, &rms);
        assert_true(most > 1e-4 && most < 0.05);
    }
}

static void wrong_lengths_are_refused(void **state) {
    (void)state;
    recurrent r = usual;
    r.direction = "forward";
    r.lengths = true;
    for (int reference_too = 0; reference_too < 2; reference_too++) {
        nw_graph *g = build(&r);
        int32_t *length = g->values[nw_graph_find(g, "lengths")].constant->tensor.data;
        *length = (int32_t)r.steps + 1;
        nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT - 1, .reference = reference_too};
        nw_session *session;
        nw_arena arena;
        nw_tensor outputs[3];
        nw_feed feed = {"x", {.format = NW_F32, .rank = 3, .dims = {r.steps, r.batch, r.input}}};
        feed.tensor.data = random_bytes(nw_tensor_count(&feed.tensor));
        nw_arena_init(&arena, &ctx);
        assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
        assert_fails(&ctx, NW_E_SHAPE, "sequence_lens has 7, X has 6 steps",
                     nw_session_run(session, 1, &feed, &arena, outputs));
        assert_non_null(strstr(ctx.message, "layer"));
        nw_session_free(session);
        nw_arena_free(&arena);
        nw_graph_free(g);
    }
}

static void unknown_state_formats_are_refused(void **state) {
    (void)state;
    recurrent r = usual;
    r.direction = "forward";
    nw_graph *g = build(&r);
    nw_session *session;
    nw_run_options options = {.threads = 1};
    nw_arena arena;
    nw_tensor outputs[3];
    nw_feed feed = {"x", {.format = NW_F32, .rank = 3, .dims = {r.steps, r.batch, r.input}}};
    feed.tensor.data = random_bytes(nw_tensor_count(&feed.tensor));
    assert_ok(&ctx, nw_node_set_string(g, &g->nodes[g->node_count - 1], NW_STATE_FORMAT, "u9"));
    nw_arena_init(&arena, &ctx);
    nw_status status = nw_session_new(&ctx, g, &options, &session);
    if (status == NW_OK) {
        status = nw_session_run(session, 1, &feed, &arena, outputs);
        nw_session_free(session);
    }
    assert_int_equal(status, NW_E_ARGUMENT);
    assert_non_null(strstr(ctx.message, "u9"));
    nw_arena_free(&arena);
    nw_graph_free(g);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static nw_graph *through_a_file(const nw_graph *g, nw_quant_style style) {
    char path[] = "/tmp/narrow-rnn-XXXXXX";
    nw_graph *spelled, *back;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && close(fd) == 0);
    assert_ok(&ctx, nw_graph_copy(g, &ctx, &spelled));
    assert_ok(&ctx, nw_onnx_spell_quantization(spelled, style, 0));
    assert_ok(&ctx, nw_onnx_export(spelled, path, false, NULL));
    nw_graph_free(spelled);
    assert_ok(&ctx, nw_onnx_import(&ctx, path, false, &back));
    assert_int_equal(unlink(path), 0);
    return back;
}

static int count_of(const nw_graph *g, const char *op) {
    int count = 0;
    for (int n = 0; n < g->node_count; n++) count += strcmp(g->nodes[n].op_type, op) == 0;
    return count;
}

/* What was quantized dynamically means the same after a file of either style: folded, and as its operators say. */
static void files_keep_the_meaning(void **state) {
    (void)state;
    for (int k = 0; k < 12; k++) {
        recurrent r = usual;
        nw_quant_style style = k & 1 ? NW_STYLE_QOPERATOR : NW_STYLE_QDQ;
        r.direction = directions[k % 3];
        r.w = &storages[k / 3 % 2 ? U8_STORAGE : USUAL_STORAGE];
        r.op = k == 10 ? "GRU" : "LSTM";
        r.last_only = k > 6;
        nw_graph *g = build(&r), *back = through_a_file(g, style);
        assert_int_equal(count_of(back, "DynamicQuantizeLSTM"), style == NW_STYLE_QOPERATOR);
        nw_run_options options = {.threads = 1, .reference = true};
        size_t count = run(g, &r, options, reference, NULL);
        double most, rms;
        for (int folded = 0; folded < 2; folded++) {
            if (folded) assert_ok(&ctx, nw_onnx_fold_quantization(back));
            assert_int_equal(run(back, &r, options, planned, NULL), count);
            compare(planned, reference, count, &most, &rms);
            if (!(most < 1e-5)) fail_msg("file %d, folded %d: off by %g", k, folded, most);
        }
        assert_int_equal(count_of(back, r.op), 1);
        assert_int_equal(count_of(back, "FakeQuant"), 1);
        for (int n = 0; n < back->node_count; n++)
            if (strcmp(back->nodes[n].op_type, r.op) == 0)
                assert_true(nw_node_string_is(&back->nodes[n], NW_STATE_FORMAT, "", "u8"));
        nw_graph_free(back);
        nw_graph_free(g);
    }
}

/* Scales that differ between the directions survive: every row has its own. */
static void directions_keep_their_scales(void **state) {
    (void)state;
    recurrent r = usual;
    r.direction = "bidirectional";
    r.w = &storages[BLOCK_STORAGE];
    nw_graph *g = build(&r);
    size_t count = run(g, &r, (nw_run_options){.threads = 1, .reference = true}, reference, NULL);
    double most, rms;
    /* As onnxruntime has them, by hand: DynamicQuantizeLSTM folds to blocks as long as a row. */
    nw_node *lstm = &g->nodes[g->node_count - 1];
    int in[12];
    for (int i = 0; i < 8; i++) in[i] = i < 4 ? lstm->in[i] : NW_ABSENT;
    in[0] = g->inputs[0];
    for (int i = 1; i < 3; i++) {
        const nw_tensor *t = &g->values[lstm->in[i]].constant->tensor;
        nw_tensor codes, zeros = {.format = NW_S8, .rank = 2, .dims = {t->dims[0], t->dims[1]}};
        nw_tensor scales = {.format = NW_F32, .rank = 2, .dims = {t->dims[0], t->dims[1]}};
        scales.data = (void *)(uintptr_t)t->qparam->scales;
        assert_ok(&ctx, nw_tensor_transpose_codes(&g->arena, t, &codes));
        assert_ok(&ctx, nw_tensor_alloc(&g->arena, &zeros));
        memset(zeros.data, 0, nw_tensor_bytes(&zeros));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &codes, &in[i]));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &scales, &in[6 + 2 * i]));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &zeros, &in[7 + 2 * i]));
    }
    nw_node *node;
    assert_ok(&ctx, nw_graph_set_opset(g, "com.microsoft", 1));
    lstm = &g->nodes[g->node_count - 1];
    lstm->dead = true;
    assert_ok(&ctx, nw_graph_add_node(g, "com.microsoft", "DynamicQuantizeLSTM", "layer", 12, in, 3,
                                      lstm->out, &node));
    assert_ok(&ctx, nw_node_set_int(g, node, "hidden_size", r.hidden));
    assert_ok(&ctx, nw_node_set_string(g, node, "direction", r.direction));
    assert_ok(&ctx, nw_graph_prune(g));
    assert_ok(&ctx, nw_graph_resolve(g));
    for (int folded = 0; folded < 2; folded++) {
        if (folded) assert_ok(&ctx, nw_onnx_fold_quantization(g));
        nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT - 1, .reference = !folded};
        assert_int_equal(run(g, &r, options, planned, NULL), count);
        compare(planned, reference, count, &most, &rms);
        assert_true(most < 1e-4);
    }
    assert_int_equal(count_of(g, "DynamicQuantizeLSTM"), 0);
    nw_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_agree_with_the_reference),    cmocka_unit_test(large_layers_agree),
        cmocka_unit_test(a_restricted_state_is_another_one), cmocka_unit_test(wrong_lengths_are_refused),
        cmocka_unit_test(unknown_state_formats_are_refused), cmocka_unit_test(files_keep_the_meaning),
        cmocka_unit_test(directions_keep_their_scales),
    };
    nw_context_init(&ctx, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
