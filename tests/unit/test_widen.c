/* test_widen.c: models of 16-bit floats: what becomes f32, what stays as it is, and what they compute. */
#include "op/op.h"
#include "run/run.h"
#include "run/simplify.h"
#include "run/widen.h"
#include "support/support.h"
#include "support/unit.h"

#include <string.h>

enum { ROWS = 3, INNER = 4, COLUMNS = 5 };
static nw_context ctx;
static nw_graph *g;

static int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    nw_graph_free(g);
    return 0;
}

static int value(const char *name, nw_format format) {
    int id = nw_graph_find(g, name);
    if (id >= 0) return id;
    assert_ok(&ctx, nw_graph_add_value(g, name, &id));
    g->values[id].format = format;
    return id;
}

static nw_node *node(const char *op, const char *a, const char *b, const char *y) {
    int in[2] = {value(a, NW_F16), b ? value(b, NW_F16) : NW_ABSENT}, out = value(y, NW_F16);
    nw_node *made;
    assert_ok(&ctx, nw_graph_add_node(g, "", op, y, b ? 2 : 1, in, 1, &out, &made));
    return made;
}

static float number(size_t i) {
    return (float)((int)(i * 7 % 23) - 11) / 4; /* exact in 16 bits */
}

static void constant(const char *name, int rank, const int64_t *dims) {
    uint16_t halves[64];
    nw_tensor t = {.format = NW_F16, .data = halves};
    int id;
    nw_tensor_set_shape(&t, rank, dims);
    for (size_t i = 0; i < nw_tensor_count(&t); i++) nw_store_f64(NW_F16, halves, i, (double)number(i));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
}

static void input(const char *name) {
    int id = value(name, NW_F16);
    g->values[id].rank = 2;
    memcpy(g->values[id].dims, (int64_t[]){ROWS, INNER}, 2 * sizeof(int64_t));
    assert_ok(&ctx, nw_graph_add_input(g, id));
}

static const nw_node *maker(const char *name) {
    int id = nw_graph_find(g, name);
    for (int n = 0; n < g->node_count; n++)
        if (!g->nodes[n].dead && nw_node_out(&g->nodes[n], 0) == id) return &g->nodes[n];
    fail_msg("nobody makes %s", name);
    return NULL;
}

static int count_ops(const char *op) {
    int count = 0;
    for (int n = 0; n < g->node_count; n++) count += nw_node_is(&g->nodes[n], op);
    return count;
}

/* y = Relu(x·w + b)·s, all in f16. */
static void product(void) {
    constant("w", 2, (int64_t[]){INNER, COLUMNS});
    constant("b", 1, (int64_t[]){COLUMNS});
    constant("s", 2, (int64_t[]){1, COLUMNS});
    input("x");
    node("MatMul", "x", "w", "m");
    node("Add", "m", "b", "a");
    node("Relu", "a", NULL, "r");
    node("Mul", "r", "s", "y");
    assert_ok(&ctx, nw_graph_add_output(g, value("y", NW_F16)));
    assert_ok(&ctx, nw_graph_resolve(g));
}

static void inside_is_f32(void **state) {
    (void)state;
    product();
    assert_ok(&ctx, nw_widen(g));
    assert_ok(&ctx, nw_graph_verify(g));
    const nw_node *last = maker("y");
    assert_true(nw_node_is(last, "Cast") && nw_node_int(last, "to", 0) == NW_F16);
    assert_int_equal(g->values[nw_graph_find(g, "x")].format, NW_F16);
    assert_int_equal(g->values[nw_graph_find(g, "y")].format, NW_F16);
    assert_int_equal(g->values[nw_graph_find(g, "r")].format, NW_F32);
    assert_int_equal(count_ops("Cast"), 2);

    const nw_node *matmul = maker("m");
    const nw_tensor *w = &nw_graph_constant(g, matmul->in[1])->tensor;
    assert_true(w->format == NW_F16 && w->qparam && nw_tensor_is_real(w)); /* as small as it was */
    assert_int_equal(nw_graph_constant(g, nw_graph_find(g, "b"))->tensor.format, NW_F32);
    assert_int_equal(nw_graph_constant(g, nw_graph_find(g, "s"))->tensor.format, NW_F32);

    const int nodes = g->node_count, values = g->value_count;
    assert_ok(&ctx, nw_widen(g));
    assert_int_equal(g->node_count, nodes);
    assert_int_equal(g->value_count, values);
}

static void results_are_those_of_f16(void **state) {
    (void)state;
    product();
    uint16_t x[ROWS * INNER];
    nw_session *session;
    nw_arena arena;
    nw_tensor y;
    nw_feed feed = {"x", {.format = NW_F16, .rank = 2, .dims = {ROWS, INNER}, .data = x}};
    for (size_t i = 0; i < ROWS * INNER; i++) nw_store_f64(NW_F16, x, i, (double)number(i + 3));
    nw_arena_init(&arena, &ctx);
    assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &session));
    assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &y));
    assert_int_equal(y.format, NW_F16);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLUMNS; c++) {
            float sum = number(c);
            for (size_t k = 0; k < INNER; k++) sum += number(r * INNER + k + 3) * number(k * COLUMNS + c);
            uint16_t half;
            nw_store_f64(NW_F16, &half, 0, sum > 0 ? (double)(sum * number(c)) : 0);
            assert_float_equal(nw_tensor_f64(&y, r * COLUMNS + c), nw_load_f64(NW_F16, &half, 0), 0);
        }
    nw_session_free(session);
    nw_arena_free(&arena);
}

/* A Cast that somebody wrote to round does round; one on the way into the f16 part of a model does not have to. */
static void casts(void **state) {
    (void)state;
    constant("w", 2, (int64_t[]){INNER, COLUMNS});
    input("x");
    g->values[value("x", NW_F32)].format = NW_F32;
    assert_ok(&ctx, nw_node_set_int(g, node("Cast", "x", NULL, "rounded"), "to", NW_F16));
    assert_ok(&ctx, nw_node_set_int(g, node("Cast", "rounded", NULL, "back"), "to", NW_F32));
    assert_ok(&ctx, nw_node_set_int(g, node("Cast", "x", NULL, "half"), "to", NW_F16));
    node("MatMul", "half", "w", "y");
    g->values[value("back", NW_F32)].format = NW_F32;
    assert_ok(&ctx, nw_graph_add_output(g, value("back", NW_F32)));
    assert_ok(&ctx, nw_graph_add_output(g, value("y", NW_F16)));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_simplify(g));
    assert_int_equal(nw_node_int(maker("rounded"), "to", 0), NW_F16);
    const nw_node *matmul = maker(g->values[maker("y")->in[0]].name);
    assert_true(nw_node_is(matmul, "MatMul"));
    assert_int_equal(matmul->in[0], nw_graph_find(g, "x")); /* a Cast of f32 to f32 is nothing */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(inside_is_f32),
        TEST(results_are_those_of_f16),
        TEST(casts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
