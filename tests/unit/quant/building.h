/* building.h: graphs in a few words, and what quantizing makes of them, for the tests of src/quant. Included once by a test
 * program, which need not use all of it. */
#ifndef NW_TEST_QUANT_BUILDING_H
#define NW_TEST_QUANT_BUILDING_H

#include "op/op.h"
#include "op/quantize.h"
#include "quant/calibrate.h"
#include "quant/freeze.h"
#include "quant/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static nw_context ctx;
static nw_graph *g;
static nw_quant_options options;
static nw_quant_plan *plan;
static nw_quant_report *report;

#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        if ((call) != NW_OK) fail_msg("%s: %s", #call, ctx.message);                                         \
    } while (0)

static inline int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    assert_ok(nw_graph_new(&ctx, NULL, &g));
    assert_ok(nw_graph_set_opset(g, "", 21));
    options = nw_quant_options_default();
    plan = NULL;
    report = NULL;
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    nw_quant_plan_free(plan);
    nw_quant_report_free(report);
    nw_graph_free(g);
    return 0;
}

static inline void set_weight(nw_format format) {
    options.choice.weights.coding = nw_coding_linear(format, true, false, false);
}

/* ---- building --------------------------------------------------------------------------------- */

static inline int value(const char *name) {
    int id = nw_graph_find(g, name);
    if (id >= 0) return id;
    assert_ok(nw_graph_add_value(g, name, &id));
    g->values[id].format = NW_F32;
    return id;
}

/* Adds OP(inputs separated by spaces) → output; "-" is an absent input. The node is named as its output. */
static inline void node(const char *op, const char *inputs, const char *output) {
    char text[200], *rest = text;
    int in[8], count = 0;
    strcpy(text, inputs);
    for (char *word; (word = strtok_r(NULL == rest ? NULL : (count ? NULL : text), " ", &rest));)
        in[count++] = strcmp(word, "-") == 0 ? NW_ABSENT : value(word);
    int out = value(output);
    nw_node *made;
    assert_ok(nw_graph_add_node(g, "", op, output, count, in, 1, &out, &made));
    assert_ok(nw_graph_resolve(g));
}

static inline void input(const char *name) {
    assert_ok(nw_graph_add_input(g, value(name)));
}
static inline void output(const char *name) {
    assert_ok(nw_graph_add_output(g, value(name)));
}

static inline void constant(const char *name, int rank, const int64_t *dims, const float *data) {
    nw_tensor t = {.format = NW_F32, .rank = rank};
    nw_tensor_set_shape(&t, rank, dims);
    t.data = (void *)(uintptr_t)data;
    int id;
    assert_ok(nw_graph_add_constant_copy(g, name, &t, &id));
}

/* A weight [m, k, 1, 1] of element values 1, 2, … in m·k steps with changing signs. */
static inline void conv_weight(const char *name, int64_t m, int64_t k) {
    float data[64];
    for (int i = 0; i < m * k; i++) data[i] = i % 2 ? -(float)(i + 1) : (float)(i + 1);
    constant(name, 4, (int64_t[]){m, k, 1, 1}, data);
}

static inline void matrix(const char *name, int64_t k, int64_t n) {
    float data[64];
    for (int i = 0; i < k * n; i++) data[i] = (float)(i - 3) / 7;
    constant(name, 2, (int64_t[]){k, n}, data);
}

static inline void place(void) {
    assert_ok(nw_quant_place(&ctx, g, &options, NULL, &plan));
}

/* Names of the values that have points, with "=root" where tied and "*" where everywhere. */
static inline void expect_points(const char *expected) {
    char text[500] = "";
    for (int i = 0; i < plan->point_count; i++) {
        const nw_quant_point *p = &plan->points[i];
        const nw_quant_point *root = nw_quant_root(plan, p);
        if (i) strcat(text, " ");
        strcat(text, g->values[p->value].name);
        if (p->everywhere) strcat(text, "*");
        if (root != p) strcat(strcat(text, "="), g->values[root->value].name);
    }
    assert_string_equal(text, expected);
}

static inline nw_node_mode mode_of(const char *name) {
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].name, name) == 0) return plan->mode[n];
    fail_msg("no node %s", name);
    return NW_NODE_FLOAT;
}

static inline const nw_node *find(const char *name) {
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].name, name) == 0) return &g->nodes[n];
    fail_msg("no node %s", name);
    return NULL;
}

/* Gives every root the same range, as if calibrated, and carries the plan out. */
static inline void freeze(float scale, int32_t zero) {
    for (int i = 0; i < plan->point_count; i++) {
        nw_quant_point *p = &plan->points[i];
        p->format = options.choice.activation;
        p->scale = scale;
        p->zero = zero;
        p->qmin = (int32_t)nw_format_min(p->format);
        p->qmax = (int32_t)nw_format_max(p->format);
    }
    report = nw_calloc(&ctx, 1, sizeof *report);
    assert_non_null(report);
    nw_arena_init(&report->arena, &ctx);
    assert_ok(nw_quant_freeze(g, plan, report));
    assert_ok(nw_graph_verify(g));
}

static inline const nw_tensor *packed(const char *node_name, int i) {
    const nw_constant *c = nw_graph_constant(g, nw_node_in(find(node_name), i));
    assert_non_null(c);
    return &c->tensor;
}

static inline int count_ops(const char *op) {
    int count = 0;
    for (int n = 0; n < g->node_count; n++) count += strcmp(g->nodes[n].op_type, op) == 0;
    return count;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
