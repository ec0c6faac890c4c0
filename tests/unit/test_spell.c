/* test_spell.c: packed constants as ONNX spells them, and back: every number format in every grain and every form comes back
 * as the same codes; models raised to later opsets compute the same. */
#include "onnx/onnx.h"
#include "op/op.h"
#include "quant/weights.h"
#include "run/run.h"
#include "support/model.h"
#include "support/unit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static nw_context ctx;

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    return 0;
}

static const char *const words[] = {"s8",
                                    "u8",
                                    "s4",
                                    "u4",
                                    "s2",
                                    "u2",
                                    "s16",
                                    "u16",
                                    "s8-asym",
                                    "u8-sym",
                                    "s8@f16",
                                    "u4@bf16",
                                    "s4@e8m0",
                                    "fixed8",
                                    "fixed4",
                                    "range(0:100)",
                                    "range(-255:255)",
                                    "ternary",
                                    "ternary@f16",
                                    "binary",
                                    "binary@bf16",
                                    "log4",
                                    "log8/2",
                                    "log3@e8m0",
                                    "sqrt8",
                                    "codebook4",
                                    "codebook2@f16",
                                    "nf4",
                                    "nf4@f16",
                                    "f16",
                                    "bf16",
                                    "f8e4m3fn",
                                    "f8e4m3fnuz",
                                    "f8e5m2",
                                    "f8e5m2fnuz",
                                    "f4e2m1",
                                    "f4e2m1@e8m0",
                                    "f8e4m3fn@e8m0"};
enum { WORDS = sizeof words / sizeof *words };

typedef struct shape {
    int rank;
    int64_t dims[3];
    nw_grain grain;
    int axis;
    int64_t block;
} shape;

static const shape shapes[] = {{2, {6, 40, 0}, NW_GRAIN_TENSOR, 0, 0}, {2, {6, 40, 0}, NW_GRAIN_AXIS, 0, 0},
                               {2, {40, 6, 0}, NW_GRAIN_AXIS, 1, 0},   {3, {3, 5, 7}, NW_GRAIN_AXIS, 1, 0},
                               {2, {6, 40, 0}, NW_GRAIN_BLOCK, 1, 16}, {2, {40, 6, 0}, NW_GRAIN_BLOCK, 0, 16},
                               {3, {2, 33, 3}, NW_GRAIN_BLOCK, 1, 8},  {1, {9, 0, 0}, NW_GRAIN_TENSOR, 0, 0}};
enum { SHAPES = sizeof shapes / sizeof *shapes, MOST = 300 };

/* x → Add(x, w) → y, w packed. Opset 13. */
static void packed_model(const char *word, const shape *s, nw_arena *arena, nw_graph **out) {
    nw_scheme scheme;
    assert_ok(&ctx, nw_scheme_parse(&ctx, word, &scheme));
    nw_weight_spec spec = {.coding = scheme.coding,
                           .scale_format = scheme.scale_format,
                           .grain = s->grain,
                           .axis = s->axis,
                           .block = s->block};
    float data[MOST];
    nw_tensor w = {.format = NW_F32, .data = data}, packed;
    nw_tensor_set_shape(&w, s->rank, s->dims);
    for (size_t i = 0; i < nw_tensor_count(&w); i++)
        data[i] = sinf((float)i * 1.7f) * (float)(i % 5 + 1) * 0.1f;
    nw_quant_weight record;
    assert_ok(&ctx, nw_weight_pack(arena, "w", &w, &spec, NULL, &packed, &record));
    nw_graph *g;
    int in[2], y;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
    g->info->ir_version = 7;
    assert_ok(&ctx, test_input(g, "x", s->rank, s->dims, &in[0]));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "w", &packed, &in[1]));
    assert_ok(&ctx, test_node(g, "Add", "y", 2, in, &y));
    assert_ok(&ctx, nw_graph_add_output(g, y));
    assert_ok(&ctx, nw_graph_resolve(g));
    *out = g;
}

/* Spelled, written, read and folded. */
static void round_trip(nw_graph *g, nw_quant_style style, int64_t opset, nw_graph **out) {
    nw_bytes *bytes;
    assert_ok(&ctx, nw_onnx_spell_quantization(g, style, opset));
    assert_ok(&ctx, test_model_bytes(&ctx, g, &bytes));
    assert_ok(&ctx, nw_onnx_import_bytes(&ctx, bytes, "test", NULL, false, out));
    assert_ok(&ctx, nw_onnx_fold_quantization(*out));
    nw_bytes_free(bytes);
}

/* The only packed constant, which the only node reads. */
static const nw_tensor *weight_of(const nw_graph *g, const char *op) {
    int found = 0;
    const nw_tensor *t = NULL;
    for (int n = 0; n < g->node_count; n++) {
        assert_string_equal(g->nodes[n].op_type, op);
        for (int i = 0; i < g->nodes[n].in_count; i++) {
            const nw_constant *c = nw_graph_constant(g, g->nodes[n].in[i]);
            if (!c || !c->tensor.qparam) continue;
            t = &c->tensor;
            found++;
        }
    }
    assert_int_equal(found, 1);
    return t;
}

/* The same codes, scales and levels, and the same numbers. */
static void check_same(const nw_tensor *a, const nw_tensor *b, nw_arena *arena) {
    const nw_qparam *p = a->qparam, *q = b->qparam;
    assert_true(nw_tensor_same_shape(a, b));
    assert_string_equal(nw_format_name(b->format), nw_format_name(a->format));
    assert_memory_equal(a->data, b->data, nw_tensor_bytes(a));
    assert_int_equal(nw_qparam_scale_format(p), nw_qparam_scale_format(q));
    assert_int_equal(p->groups, q->groups);
    assert_int_equal(p->levels.count, q->levels.count);
    for (size_t g = 0; g < p->groups; g++) {
        assert_true(nw_qparam_scale(p, g) == nw_qparam_scale(q, g));
        assert_int_equal(nw_qparam_zero(p, g), nw_qparam_zero(q, g));
    }
    nw_tensor x, y;
    assert_ok(&ctx, nw_tensor_to_f32(arena, a, &x));
    assert_ok(&ctx, nw_tensor_to_f32(arena, b, &y));
    assert_memory_equal(x.data, y.data, nw_tensor_bytes(&x));
}

static void try_form(const char *word, const shape *s, nw_quant_style style, int64_t opset) {
    nw_graph *g, *kept, *back;
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    packed_model(word, s, &arena, &g);
    assert_ok(&ctx, nw_graph_copy(g, &ctx, &kept));
    round_trip(g, style, opset, &back);
    check_same(weight_of(kept, "Add"), weight_of(back, "Add"), &arena);
    nw_graph_free(back);
    nw_graph_free(kept);
    nw_graph_free(g);
    nw_arena_free(&arena);
}

static void test_every_format_and_grain(void **state) {
    (void)state;
    for (int w = 0; w < WORDS; w++)
        for (int s = 0; s < SHAPES; s++) {
            try_form(words[w], &shapes[s], NW_STYLE_QDQ, 0);
            try_form(words[w], &shapes[s], NW_STYLE_NATIVE, 0);
            try_form(words[w], &shapes[s], NW_STYLE_QDQ, 25);
        }
}

/* At the model's own opset narrow codes are stored in wider types. */
static void test_old_opset(void **state) {
    (void)state;
    for (int w = 0; w < WORDS; w++)
        for (int s = 0; s < SHAPES; s++)
            if (shapes[s].grain != NW_GRAIN_BLOCK) try_form(words[w], &shapes[s], NW_STYLE_QDQ, 13);
    nw_graph *g;
    nw_arena arena;
    nw_arena_init(&arena, &ctx);
    packed_model("s4", &shapes[4], &arena, &g);
    assert_fails(&ctx, NW_E_ARGUMENT, "from opset 21 on", nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 13));
    nw_graph_free(g);
    packed_model("s4", &shapes[0], &arena, &g);
    assert_fails(&ctx, NW_E_ARGUMENT, "cannot become", nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 11));
    nw_graph_free(g);
    nw_arena_free(&arena);
}

/* x [2, k] · w [k, n] with blocks along k, and what follows: MatMulNBits and back. */
static void test_nbits(void **state) {
    (void)state;
    static const char *const nbits[] = {"s4", "u4", "s4-asym", "u4-sym", "s4@f16",
                                        "s8", "u8", "s2",      "ternary"};
    static const shape products[] = {{2, {40, 6, 0}, NW_GRAIN_BLOCK, 0, 16},
                                     {2, {48, 5, 0}, NW_GRAIN_BLOCK, 0, 16},
                                     {2, {7, 3, 0}, NW_GRAIN_BLOCK, 0, 32}};
    for (size_t w = 0; w < sizeof nbits / sizeof *nbits; w++)
        for (size_t s = 0; s < sizeof products / sizeof *products; s++) {
            nw_graph *g, *kept, *back;
            nw_arena arena;
            nw_arena_init(&arena, &ctx);
            packed_model(nbits[w], &products[s], &arena, &g);
            g->nodes[0].op_type = "MatMul";
            g->values[g->inputs[0]].dims[0] = 2;
            g->values[g->inputs[0]].dims[1] = products[s].dims[0];
            assert_ok(&ctx, nw_graph_resolve(g));
            assert_ok(&ctx, nw_graph_copy(g, &ctx, &kept));
            round_trip(g, NW_STYLE_MATMULNBITS, 0, &back);
            assert_string_equal(g->nodes[0].op_type, "MatMulNBits");
            assert_int_equal(nw_graph_opset(g, ""), 13);
            check_same(weight_of(kept, "MatMul"), weight_of(back, "MatMul"), &arena);
            nw_graph_free(back);
            nw_graph_free(kept);
            nw_graph_free(g);
            nw_arena_free(&arena);
        }
}

/* Metadata that lies about the codes: they stay what the file holds. */
static void test_false_metadata(void **state) {
    (void)state;
    static const char *const lies[] = {"s2",        "index1",  "u4", "f16", "nonsense",
                                       "s2@f8e8m0", "index4@", "@",  ""};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        nw_graph *g, *back;
        nw_arena arena;
        nw_bytes *bytes;
        nw_arena_init(&arena, &ctx);
        packed_model("s4", &shapes[1], &arena, &g);
        assert_ok(&ctx, nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 0));
        for (int n = 0; n < g->node_count; n++)
            if (nw_node_is(&g->nodes[n], "DequantizeLinear"))
                assert_ok(&ctx, nw_node_set_string(g, &g->nodes[n], "ai.narrow.codes", lies[i]));
        assert_ok(&ctx, test_model_bytes(&ctx, g, &bytes));
        assert_ok(&ctx, nw_onnx_import_bytes(&ctx, bytes, "test", NULL, false, &back));
        assert_ok(&ctx, nw_onnx_fold_quantization(back));
        assert_int_equal(weight_of(back, "Add")->format, NW_S4);
        nw_graph_free(back);
        nw_graph_free(g);
        nw_bytes_free(bytes);
        nw_arena_free(&arena);
    }
}

/* Native constants that do not add up are errors. */
static void test_damaged_native(void **state) {
    (void)state;
    static const int64_t wrong[][2] = {{6, 39}, {7, 40}, {-6, 40}, {INT64_MAX, INT64_MAX}, {240, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        nw_graph *g;
        nw_arena arena;
        nw_arena_init(&arena, &ctx);
        packed_model("s4", &shapes[1], &arena, &g);
        assert_ok(&ctx, nw_onnx_spell_quantization(g, NW_STYLE_NATIVE, 0));
        for (int n = 0; n < g->node_count; n++)
            if (strcmp(g->nodes[n].domain, "ai.narrow") == 0)
                assert_ok(&ctx, nw_node_set_ints(g, &g->nodes[n], "shape", wrong[i], 2));
        assert_int_not_equal(nw_onnx_fold_quantization(g), NW_OK);
        nw_graph_free(g);
        nw_arena_free(&arena);
    }
}

/* ---- raising ----------------------------------------------------------------------------------------------------- */

/* A node of an old opset, and the shape of its only input. */
typedef struct old_node {
    int64_t opset;
    const char *op;
    int rank;
    int64_t dims[4];
    /* attributes */
    struct {
        const char *name;
        size_t count;
        int64_t values[4];
    } ints[3];
    struct {
        const char *name;
        size_t count; /* 0: a single number */
        float values[4];
    } floats[2];
    const char *mode;
    bool single; /* ints are attributes of one number */
} old_node;

static const old_node old_nodes[] = {
    {7, "Softmax", 3, {2, 3, 4}, .single = true},
    {7, "Softmax", 3, {2, 3, 4}, .ints = {{"axis", 1, {2}}}, .single = true},
    {11, "Softmax", 4, {2, 3, 1, 1}, .ints = {{"axis", 1, {-3}}}, .single = true},
    {11, "LogSoftmax", 3, {2, 3, 4}, .ints = {{"axis", 1, {0}}}, .single = true},
    {9, "Hardmax", 3, {2, 3, 4}, .single = true},
    {7, "Slice", 3, {4, 5, 6}, .ints = {{"starts", 2, {1, -4}}, {"ends", 2, {3, 6}}, {"axes", 2, {0, 2}}}},
    {7, "Pad", 2, {3, 4}, .ints = {{"pads", 4, {1, 0, 2, 1}}}, .floats = {{"value", 0, {0.5f}}}},
    {7, "Clip", 2, {3, 4}, .floats = {{"min", 0, {-0.25f}}, {"max", 0, {0.125f}}}},
    {7, "Clip", 2, {3, 4}, .floats = {{"max", 0, {0.125f}}}},
    {11, "Squeeze", 3, {1, 4, 1}, .ints = {{"axes", 1, {-1}}}},
    {7, "Unsqueeze", 2, {3, 4}, .ints = {{"axes", 2, {0, 3}}}},
    {7, "ReduceSum", 3, {2, 3, 4}, .ints = {{"axes", 2, {0, 2}}}},
    {7, "ReduceMean", 3, {2, 3, 4}, .ints = {{"axes", 1, {1}}}},
    {7, "ReduceMax", 3, {2, 3, 4}, .ints = {{"axes", 1, {2}}}},
    {7, "ReduceL2", 3, {2, 3, 4}, .mode = NULL},
    {7, "Upsample", 4, {1, 2, 3, 3}, .floats = {{"scales", 4, {1, 1, 2, 2}}}, .mode = "nearest"},
    {7, "Upsample", 4, {1, 2, 3, 3}, .floats = {{"scales", 4, {1, 1, 2, 3}}}, .mode = "linear"},
    {7, "Dropout", 2, {3, 4}, .floats = {{"ratio", 0, {0.25f}}}},
    {7, "Dropout", 2, {3, 4}, .mode = NULL}};

static void old_model(const old_node *o, nw_graph **out) {
    nw_graph *g;
    int x, y;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", o->opset));
    g->info->ir_version = 3;
    assert_ok(&ctx, test_input(g, "x", o->rank, o->dims, &x));
    assert_ok(&ctx, test_node(g, o->op, "y", 1, &x, &y));
    nw_node *node = &g->nodes[0];
    for (int i = 0; i < 3 && o->ints[i].name; i++)
        if (o->single)
            assert_ok(&ctx, nw_node_set_int(g, node, o->ints[i].name, o->ints[i].values[0]));
        else
            assert_ok(&ctx, nw_node_set_ints(g, node, o->ints[i].name, o->ints[i].values, o->ints[i].count));
    for (int i = 0; i < 2 && o->floats[i].name; i++)
        if (o->floats[i].count == 0)
            assert_ok(&ctx, nw_node_set_float(g, node, o->floats[i].name, o->floats[i].values[0]));
        else
            assert_ok(&ctx, nw_node_set_floats(g, node, o->floats[i].name, o->floats[i].values,
                                               o->floats[i].count));
    if (o->mode) assert_ok(&ctx, nw_node_set_string(g, node, "mode", o->mode));
    assert_ok(&ctx, nw_graph_add_output(g, y));
    assert_ok(&ctx, nw_graph_resolve(g));
    *out = g;
}

static void run_model(const nw_graph *g, const old_node *o, nw_arena *arena, nw_tensor *y) {
    float data[MOST];
    nw_feed feed = {"x", {.format = NW_F32, .data = data}};
    nw_tensor_set_shape(&feed.tensor, o->rank, o->dims);
    for (size_t i = 0; i < nw_tensor_count(&feed.tensor); i++) data[i] = sinf((float)i * 2.3f);
    const nw_run_options options = {.threads = 1, .isa = NW_ISA_SCALAR};
    nw_session *session;
    assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
    assert_ok(&ctx, nw_session_run(session, 1, &feed, arena, y));
    nw_session_free(session);
}

static void test_raise(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof old_nodes / sizeof *old_nodes; i++) {
        nw_graph *g;
        nw_tensor before, after;
        nw_arena arena;
        nw_arena_init(&arena, &ctx);
        old_model(&old_nodes[i], &g);
        run_model(g, &old_nodes[i], &arena, &before);
        assert_ok(&ctx, nw_onnx_raise(g, 21));
        assert_int_equal(nw_graph_opset(g, ""), 21);
        assert_int_equal(g->info->ir_version, 10);
        assert_ok(&ctx, nw_graph_verify(g));
        run_model(g, &old_nodes[i], &arena, &after);
        assert_true(nw_tensor_same_shape(&before, &after));
        assert_memory_equal(before.data, after.data, nw_tensor_bytes(&before));
        nw_graph_free(g);
        nw_arena_free(&arena);
    }
}

static void test_raise_refuses(void **state) {
    (void)state;
    nw_graph *g;
    old_model(&(old_node){18, "GroupNormalization", 3, {1, 2, 2}, .mode = NULL}, &g);
    assert_fails(&ctx, NW_E_UNSUPPORTED, "GroupNormalization \"y\"", nw_onnx_raise(g, 21));
    nw_graph_free(g);
    old_model(&(old_node){6, "Relu", 1, {2}, .mode = NULL}, &g);
    assert_fails(&ctx, NW_E_UNSUPPORTED, "before opset 7", nw_onnx_raise(g, 13));
    assert_fails(&ctx, NW_E_ARGUMENT, "up to 25", nw_onnx_raise(g, 99));
    assert_fails(&ctx, NW_E_ARGUMENT, "cannot become", nw_onnx_raise(g, 5));
    nw_graph_free(g);
}

/* Rows that are rounded while running, each to a grid of its own: where products alone read them, these say so. */
static void test_rounded_rows(void **state) {
    (void)state;
    const old_node sizes = {.rank = 2, .dims = {3, 8}};
    for (int others = 0; others < 2; others++) {
        nw_graph *g, *read;
        nw_node *node;
        nw_arena arena;
        nw_tensor before, after;
        int x, weights, rounded, values, y;
        nw_arena_init(&arena, &ctx);
        assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
        assert_ok(&ctx, nw_graph_set_opset(g, "", 13));
        assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
        g->info->ir_version = 7;
        assert_ok(&ctx, test_input(g, "x", sizes.rank, sizes.dims, &x));
        assert_ok(&ctx, test_node(g, "Softmax", "weights", 1, &x, &weights));
        assert_ok(&ctx, nw_graph_add_value(g, "rounded", &rounded));
        assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "", 1, &weights, 1, &rounded, &node));
        assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
        assert_ok(&ctx, nw_node_set_int(g, node, "per_row", 1));
        assert_ok(&ctx, test_node(g, "Transpose", "values", 1, &x, &values));
        assert_ok(&ctx, test_node(g, "MatMul", "y", 2, (int[]){rounded, values}, &y));
        assert_ok(&ctx, test_node(g, "Gemm", "y2", 3, (int[]){rounded, values, y}, &y));
        assert_ok(&ctx, nw_graph_add_output(g, y));
        if (others) assert_ok(&ctx, test_node(g, "Sigmoid", "z", 1, &rounded, &y));
        if (others) assert_ok(&ctx, nw_graph_add_output(g, y));
        assert_ok(&ctx, nw_graph_resolve(g));
        if (others) {
            assert_fails(&ctx, NW_E_UNSUPPORTED, "per row of what MatMul or Gemm multiplies",
                         nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 0));
        } else {
            run_model(g, &sizes, &arena, &before);
            round_trip(g, NW_STYLE_QDQ, 0, &read);
            for (int n = 0; n < read->node_count; n++) {
                assert_string_not_equal(read->nodes[n].op_type, "FakeQuant");
                if (nw_node_is(&read->nodes[n], "MatMul") || nw_node_is(&read->nodes[n], "Gemm"))
                    assert_string_equal(nw_node_string(&read->nodes[n], "ai.narrow.product", ""), "u8");
            }
            run_model(read, &sizes, &arena, &after);
            assert_memory_equal(before.data, after.data, nw_tensor_bytes(&before));
            nw_graph_free(read);
        }
        nw_graph_free(g);
        nw_arena_free(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_format_and_grain),
                                       cmocka_unit_test(test_old_opset),
                                       cmocka_unit_test(test_nbits),
                                       cmocka_unit_test(test_false_metadata),
                                       cmocka_unit_test(test_damaged_native),
                                       cmocka_unit_test(test_rounded_rows),
                                       cmocka_unit_test(test_raise),
                                       cmocka_unit_test(test_raise_refuses)};
    return cmocka_run_group_tests(tests, open_context, NULL);
}
