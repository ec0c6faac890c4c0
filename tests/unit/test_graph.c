/* test_graph.c: the portable graph: building, order, pruning, copying, uses. */
#include "ir/graph.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdio.h>
#include <string.h>

/* A graph in counted memory: the teardown proves that nothing is left. */
typedef struct fixture {
    test_memory memory;
    nw_allocator allocator;
    nw_context ctx;
    nw_graph *g;
    int x; /* an input */
} fixture;

static int set_up(void **state) {
    static fixture f;
    f = (fixture){.memory = {.fail_at = -1}};
    f.allocator = test_allocator(&f.memory);
    nw_context_init(&f.ctx, &f.allocator);
    *state = &f;
    return nw_graph_new(&f.ctx, NULL, &f.g) || test_input(f.g, "x", 1, (int64_t[]){4}, &f.x);
}

static int tear_down(void **state) {
    fixture *f = *state;
    nw_graph_free(f->g);
    return f->memory.alive != 0;
}

static int position(const nw_graph *g, const char *name) {
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].name, name) == 0) return n;
    return -1;
}

static void names_are_unique(void **state) {
    fixture *f = *state;
    int a, b, c;
    assert_ok(&f->ctx, nw_graph_add_value(f->g, "v", &a));
    assert_ok(&f->ctx, nw_graph_add_value(f->g, "v", &b));
    assert_ok(&f->ctx, nw_graph_add_value(f->g, NULL, &c));
    assert_string_equal(f->g->values[a].name, "v");
    assert_string_not_equal(f->g->values[b].name, "v");
    assert_true(f->g->values[c].name[0]);
    assert_int_equal(nw_graph_find(f->g, f->g->values[b].name), b);
    assert_ok(&f->ctx, nw_graph_rename_value(f->g, a, "w"));
    assert_int_equal(nw_graph_find(f->g, "w"), a);
    assert_int_equal(nw_graph_find(f->g, "v"), NW_ABSENT);
    assert_ok(&f->ctx, nw_graph_rename_value(f->g, b, "w"));
    assert_string_not_equal(f->g->values[b].name, "w");
    char name[32];
    for (int i = 0; i < 1000; i++) {
        int id;
        snprintf(name, sizeof name, "n%d", i);
        assert_ok(&f->ctx, nw_graph_add_value(f->g, name, &id));
        assert_int_equal(nw_graph_find(f->g, name), id);
    }
    assert_int_equal(nw_graph_find(f->g, "n500"), nw_graph_find(f->g, "n499") + 1);
}

/* Nodes given last first. */
static void sorting_puts_makers_first(void **state) {
    fixture *f = *state;
    nw_graph *g = f->g;
    int v[6];
    nw_node *node;
    v[0] = f->x;
    for (int i = 1; i < 6; i++) assert_ok(&f->ctx, nw_graph_add_value(g, NULL, &v[i]));
    const char *names[] = {"a", "b", "c", "d", "e"};
    for (int i = 4; i >= 0; i--)
        assert_ok(&f->ctx, nw_graph_add_node(g, "", "Relu", names[i], 1, &v[i], 1, &v[i + 1], &node));
    assert_ok(&f->ctx, nw_graph_add_output(g, v[5]));
    assert_int_not_equal(nw_graph_verify(g), NW_OK);
    g->nodes[position(g, "c")].doc = "kept";
    assert_ok(&f->ctx, nw_graph_sort(g));
    assert_ok(&f->ctx, nw_graph_verify(g));
    for (int i = 0; i < 5; i++) assert_string_equal(g->nodes[i].name, names[i]);
    assert_string_equal(g->nodes[2].doc, "kept");
    assert_ok(&f->ctx, nw_graph_sort(g));
    for (int i = 0; i < 5; i++) assert_string_equal(g->nodes[i].name, names[i]);
}

static void a_cycle_is_named(void **state) {
    fixture *f = *state;
    nw_graph *g = f->g;
    int a, b;
    nw_node *node;
    assert_ok(&f->ctx, nw_graph_add_value(g, "a", &a));
    assert_ok(&f->ctx, nw_graph_add_value(g, "b", &b));
    assert_ok(&f->ctx, nw_graph_add_node(g, "", "Add", "first", 2, (int[]){f->x, b}, 1, &a, &node));
    assert_ok(&f->ctx, nw_graph_add_node(g, "", "Relu", "second", 1, &a, 1, &b, &node));
    assert_ok(&f->ctx, nw_graph_add_output(g, b));
    assert_fails(&f->ctx, NW_E_FORMAT, "cycle", nw_graph_sort(g));
    assert_non_null(strstr(f->ctx.message, "first"));
}

static void unsound_graphs_are_refused(void **state) {
    fixture *f = *state;
    nw_graph *g = f->g;
    int a, b, lost;
    assert_ok(&f->ctx, nw_graph_add_value(g, "lost", &lost));
    assert_ok(&f->ctx, test_node(g, "Relu", "a", 1, &lost, &a));
    assert_ok(&f->ctx, nw_graph_add_output(g, a));
    assert_fails(&f->ctx, NW_E_FORMAT, "lost", nw_graph_verify(g));
    g->nodes[0].in[0] = f->x;
    assert_ok(&f->ctx, nw_graph_verify(g));
    assert_ok(&f->ctx, test_node(g, "Relu", "b", 1, &f->x, &b));
    g->nodes[1].out[0] = a;
    assert_fails(&f->ctx, NW_E_FORMAT, "twice", nw_graph_verify(g));
    g->nodes[1].out[0] = b;
    g->nodes[1].in[0] = 1000;
    assert_int_not_equal(nw_graph_verify(g), NW_OK);
    g->nodes[1].in[0] = -7;
    assert_int_not_equal(nw_graph_verify(g), NW_OK);
    g->nodes[1].in[0] = f->x;
}

static void pruning_keeps_what_outputs_need(void **state) {
    fixture *f = *state;
    nw_graph *g = f->g;
    int w, unused_w, a, b, c;
    assert_ok(&f->ctx, test_ramp(g, "w", 1, (int64_t[]){4}, &w));
    assert_ok(&f->ctx, test_ramp(g, "unused_w", 1, (int64_t[]){4}, &unused_w));
    assert_ok(&f->ctx, test_node(g, "Add", "a", 2, (int[]){f->x, w}, &a));
    assert_ok(&f->ctx, test_node(g, "Add", "b", 2, (int[]){a, unused_w}, &b));
    assert_ok(&f->ctx, test_node(g, "Relu", "c", 1, &a, &c));
    assert_ok(&f->ctx, nw_node_set_ints(g, &g->nodes[1], "list", (int64_t[]){1, 2}, 2));
    assert_ok(&f->ctx, nw_graph_add_output(g, c));
    assert_ok(&f->ctx, nw_graph_prune(g));
    assert_int_equal(g->node_count, 2);
    assert_int_equal(position(g, "b"), -1);
    assert_non_null(nw_graph_constant(g, w));
    assert_null(nw_graph_constant(g, unused_w));
    assert_null(nw_graph_constant(g, NW_ABSENT));
}

static void uses_count_readers(void **state) {
    fixture *f = *state;
    nw_graph *g = f->g;
    int a, b, c;
    nw_uses uses;
    assert_ok(&f->ctx, test_node(g, "Relu", "a", 1, &f->x, &a));
    assert_ok(&f->ctx, test_node(g, "Mul", "b", 2, (int[]){a, a}, &b));
    assert_ok(&f->ctx, test_node(g, "Clip", "c", 3, (int[]){a, NW_ABSENT, b}, &c));
    assert_ok(&f->ctx, nw_graph_add_output(g, a));
    assert_ok(&f->ctx, nw_graph_add_output(g, c));
    assert_ok(&f->ctx, nw_uses_init(&uses, g));
    assert_int_equal(uses.producer[f->x], NW_ABSENT);
    assert_int_equal(uses.producer[b], 1);
    assert_int_equal(nw_uses_count(&uses, a), 4);
    assert_int_equal(uses.users[uses.first[a]], 1);
    assert_int_equal(uses.users[uses.first[a] + 2], 2);
    assert_int_equal(nw_uses_count(&uses, c), 1);
    nw_uses_free(&uses);
    nw_graph_replace_uses(g, a, f->x);
    assert_int_equal(g->nodes[1].in[0], f->x);
    assert_int_equal(g->nodes[1].in[1], f->x);
    assert_int_equal(g->nodes[2].in[1], NW_ABSENT);
    assert_int_equal(g->outputs[0], f->x);
    assert_true(nw_graph_is_output(g, c));
    assert_false(nw_graph_is_output(g, a));
}

static void a_copy_is_deep_but_shares_bytes(void **state) {
    fixture *f = *state;
    nw_graph *copy;
    int w, a;
    nw_graph *g = f->g;
    const float scales[2] = {0.5f, 0.25f};
    const int8_t codes[4] = {1, -2, 3, -4};
    nw_qparam p = {
        .format = NW_S8, .grain = NW_GRAIN_AXIS, .groups = 2, .scales = scales, .qmin = -127, .qmax = 127};
    nw_tensor packed = {
        .format = NW_S8, .rank = 2, .dims = {2, 2}, .data = (void *)(uintptr_t)codes, .qparam = &p};
    assert_ok(&f->ctx, nw_graph_add_constant_copy(g, "w", &packed, &w));
    assert_ok(&f->ctx, test_node(g, "Add", "a", 2, (int[]){f->x, w}, &a));
    assert_ok(&f->ctx, nw_node_set_string(g, &g->nodes[0], "mode", "fast"));
    assert_ok(&f->ctx, nw_node_set_float(g, &g->nodes[0], "alpha", 0.5f));
    assert_ok(&f->ctx, nw_graph_add_output(g, a));
    assert_ok(&f->ctx, nw_graph_set_opset(g, "", 13));
    assert_ok(&f->ctx, nw_graph_copy(g, &f->ctx, &copy));
    const nw_constant *from = nw_graph_constant(g, w), *to = nw_graph_constant(copy, w);
    assert_ptr_equal(from->tensor.data, to->tensor.data);
    assert_ptr_not_equal(from->tensor.qparam, to->tensor.qparam);
    assert_true(nw_qparam_equal(from->tensor.qparam, to->tensor.qparam));
    nw_graph_free(g);
    f->g = copy;
    assert_memory_equal(to->tensor.data, codes, 4);
    assert_int_equal(nw_graph_find(copy, "a"), a);
    assert_true(nw_node_string_is(&copy->nodes[0], "mode", "slow", "fast"));
    assert_true(nw_node_float(&copy->nodes[0], "alpha", 0) == 0.5f);
    assert_int_equal(nw_graph_opset(copy, "ai.onnx"), 13);
    assert_ok(&f->ctx, nw_graph_verify(copy));
}

static void attributes_are_typed(void **state) {
    fixture *f = *state;
    int a;
    const int64_t *list;
    size_t count;
    assert_ok(&f->ctx, test_node(f->g, "Conv", "a", 1, &f->x, &a));
    nw_node *n = &f->g->nodes[0];
    assert_ok(&f->ctx, nw_node_set_int(f->g, n, "group", 2));
    assert_ok(&f->ctx, nw_node_set_int(f->g, n, "group", 3));
    assert_int_equal(n->attr_count, 1);
    assert_int_equal(nw_node_int(n, "group", 1), 3);
    assert_true(nw_node_float(n, "group", 9) == 9); /* of another kind: as if absent */
    assert_false(nw_node_ints(n, "group", &list, &count));
    assert_string_equal(nw_node_string(n, "group", "none"), "none");
    assert_ok(&f->ctx, nw_node_set_ints(f->g, n, "pads", NULL, 0));
    assert_true(nw_node_ints(n, "pads", &list, &count) && count == 0);
    nw_node_remove_attr(n, "group");
    nw_node_remove_attr(n, "group");
    assert_int_equal(nw_node_int(n, "group", 1), 1);
    assert_string_equal(nw_node_label(f->g, n), "a");
}

/* Every allocation of building and copying may fail: an error each time, and nothing leaks. */
static void starved_of_memory(void **state) {
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        nw_status status = NW_E_MEMORY;
        for (long k = 0; status != NW_OK; k++) {
            test_memory memory = {.fail_at = k, .keep_failing = keep};
            nw_allocator allocator = test_allocator(&memory);
            nw_context ctx;
            nw_graph *g = NULL, *copy = NULL;
            nw_context_init(&ctx, &allocator);
            status = test_small_model(&ctx, &g);
            if (status == NW_OK) status = nw_graph_copy(g, &ctx, &copy);
            if (status == NW_OK) status = nw_graph_prune(copy);
            nw_graph_free(g);
            nw_graph_free(copy);
            if (status != NW_OK && status != NW_E_MEMORY) fail_msg("allocation %ld: %s", k, ctx.message);
            if (memory.alive) fail_msg("allocation %ld: %ld blocks leak", k, memory.alive);
            assert_true(k < 10000);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_are_unique, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sorting_puts_makers_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cycle_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unsound_graphs_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pruning_keeps_what_outputs_need, set_up, tear_down),
        cmocka_unit_test_setup_teardown(uses_count_readers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_copy_is_deep_but_shares_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attributes_are_typed, set_up, tear_down),
        cmocka_unit_test(starved_of_memory),
    };
    return cmocka_run_group_tests_name("graph", tests, NULL, NULL);
}
