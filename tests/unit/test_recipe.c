/* test_recipe.c: recipes are read as they say, printed so that they read the same, and refused with the line and the word;
 * presets; and what rules make of the layers of a graph. */
#include "op/op.h"
#include "quant/calibrate.h"
#include "quant/freeze.h"
#include "quant/recipe.h"
#include "support/model.h"
#include "support/unit.h"

#include <stdlib.h>
#include <string.h>

static nw_context ctx;
static nw_arena arena;
static nw_quant_options options;

static int open_context(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    options = nw_quant_options_default();
    return 0;
}

static int close_context(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

static nw_status read_text(const char *text) {
    return nw_recipe_read(&arena, "r.txt", text, strlen(text), &options);
}

/* ---- texts -------------------------------------------------------------------------------------- */

static void settings_are_taken(void **state) {
    (void)state;
    assert_ok(&ctx, read_text("# a comment\r\n"
                              "  preset w4   # and what follows changes it\n"
                              "\n"
                              "mode dynamic\n"
                              "activations s8\n"
                              "activation-scheme symmetric\n"
                              "observer percentile 99.5\n"
                              "bias-correction off\n"
                              "products on\n"
                              "quantize-inputs off\n"));
    const nw_quant_choice *c = &options.choice;
    assert_int_equal(c->mode, NW_QUANT_DYNAMIC);
    assert_int_equal(c->weights.coding.format, NW_S4);
    assert_int_equal(c->weights.block, 32);
    assert_int_equal(c->weights.scale_format, NW_F16);
    assert_true(c->mse_weights && c->activation_symmetric && !options.bias_correction);
    assert_int_equal(c->activation, NW_S8);
    assert_int_equal(c->observer.kind, NW_OBSERVER_PERCENTILE);
    assert_true(c->observer.percentile == 99.5);
    assert_int_equal(options.products, NW_YES);
    assert_int_equal(options.inputs, NW_NO);
    assert_int_equal(options.rule_count, 1); /* of the preset */
}

static void sections_are_rules(void **state) {
    (void)state;
    assert_ok(&ctx, read_text("[MatMul /encoder/*/attn* @products]\n"
                              "weights f16\nmode weights\n"
                              "[not Conv \"a b\"]  # the others\n"
                              "mode float\n"
                              "observer absolute -6:6"));
    assert_int_equal(options.rule_count, 2);
    const nw_quant_rule *a = &options.rules[0], *b = &options.rules[1];
    assert_int_equal(a->pattern_count, 3);
    assert_string_equal(a->patterns[1], "/encoder/*/attn*");
    assert_false(a->others);
    assert_int_equal(a->sets, 1U << NW_SETTING_WEIGHTS | 1U << NW_SETTING_MODE);
    assert_int_equal(a->choice.mode, NW_QUANT_WEIGHTS);
    assert_int_equal(a->choice.weights.coding.format, NW_F16);
    assert_true(b->others);
    assert_int_equal(b->pattern_count, 2);
    assert_string_equal(b->patterns[1], "a b");
    assert_true(b->choice.observer.lo == -6 && b->choice.observer.hi == 6);
    assert_int_equal(options.choice.mode, NW_QUANT_STATIC);
}

static void mistakes_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"mode static\nobservr minmax\n", "r.txt:2: \"observr\" is no setting: use one of preset|mode|"},
        {"mode fast", "r.txt:1: mode does not know \"fast\": use one of static|dynamic|weights|float"},
        {"mode", "r.txt:1: mode is followed by one value"},
        {"mode static dynamic", "followed by one value"},
        {"mode static\nmode static", "r.txt:2: mode is said twice"},
        {"weights s5", "r.txt:1: \"s5\" is no number format"},
        {"activations s8x", "activations does not know"},
        {"observer percentile x", "behind observer percentile comes a number, not \"x\""},
        {"observer minmax 3", "behind observer minmax nothing follows"},
        {"observer percentile 120", "percentile"},
        {"observer absolute", "comes a range such as -6:6"},
        {"observer absolute 1:x", "comes a range such as -6:6"},
        {"preset w3", "preset is followed by one of w8a8|"},
        {"mode static\npreset w8", "r.txt:2: a preset is where a recipe starts"},
        {"preset w8\npreset w8", "a preset is where a recipe starts"},
        {"[Conv]\nelementwise on", "r.txt:2: elementwise is about the whole model"},
        {"[Conv]\n[MatMul]\nmode float", "r.txt:2: r.txt:1: says nothing about its layers"},
        {"[Conv]", "says nothing about its layers"},
        {"[]\nmode float", "between \"[\" and \"]\" come names"},
        {"[Conv\nmode float", "\"]\" is missing"},
        {"[Conv] mode float", "behind \"]\" the line ends"},
        {"mode [float]", "\"[\" does not belong here"},
        {"mode float]", "\"]\" does not belong here"},
        {"[\"Conv]\nmode float", "a quotation mark is missing"},
        {"mode\001static", "control character"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const nw_quant_options before = options;
        assert_fails(&ctx, NW_E_ARGUMENT, cases[i].message, read_text(cases[i].text));
        assert_memory_equal(&before, &options, sizeof before); /* nothing is taken of a wrong recipe */
    }
    assert_fails(&ctx, NW_E_IO, "is no preset (w8a8|", nw_recipe_load(&arena, "/nowhere/w9", &options));
}

static void printed_recipes_read_the_same(void **state) {
    (void)state;
    static const char *const texts[] = {
        "mode static\nweights s8\n",
        "mode weights\nweights s4:32@f16\nmse-weights on\n[\"a b\" \"not\" \"q\\\"\\\\\"]\nweights log4/2\n"
        "[not Conv @recurrent]\nmode float\n",
        "mode dynamic\nweights range(-255:255)\nactivations s16\nactivation-scheme symmetric\n"
        "observer moving 0.75\ndynamic-rows on\nbias-correction off\nproducts on\n",
        "mode static\nweights fixed8\nobserver absolute -1.5:2\n",
        "mode static\nweights u8-sym\nper-tensor on\nfloat-bias on\nobserver sigma 3\nquantize-outputs on\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        options = nw_quant_options_default();
        assert_ok(&ctx, read_text(texts[i]));
        const char *printed = nw_recipe_print(&arena, &options);
        assert_non_null(printed);
        assert_string_equal(printed, texts[i]);
    }
    static const char *const odd[] = {"new\nline"};
    const nw_quant_rule rule = {.patterns = odd, .pattern_count = 1, .sets = 1U << NW_SETTING_MODE};
    options = nw_quant_options_default();
    assert_ok(&ctx, nw_recipe_add_rule(&arena, &rule, &options));
    assert_non_null(strstr(nw_recipe_print(&arena, &options), "[new?line]"));
}

static void every_preset_is_a_recipe(void **state) {
    (void)state;
    for (const char *at = nw_preset_words(); *at;) {
        const size_t length = strcspn(at, "|");
        char *name = nw_arena_strndup(&arena, at, length);
        options = nw_quant_options_default();
        assert_ok(&ctx, nw_recipe_load(&arena, name, &options));
        assert_ok(&ctx, nw_quant_options_check(&ctx, &options));
        at += length + (at[length] == '|');
    }
    assert_null(nw_preset_text("w8a"));
    assert_null(nw_preset_text(""));
}

static void collect(void *user, const char *layers, const char *name, const char *value) {
    char **text = user;
    *text = nw_arena_printf(&arena, "%s<%s|%s|%s>", *text, layers, name, value);
}

static void walking_shows_settings(void **state) {
    (void)state;
    char *text = nw_arena_strdup(&arena, "");
    assert_ok(&ctx,
              nw_recipe_walk(&ctx, "mode static\n[A \"b c\"]\nobserver absolute 0:1\n", collect, &text));
    assert_string_equal(text, "<|mode|static><A b c|observer|absolute 0:1>");
    assert_fails(&ctx, NW_E_ARGUMENT, "missing", nw_recipe_walk(&ctx, "[x\n", collect, &text));
}

/* Every text of a few bytes out of those that mean something is read or refused, and never harms. */
static void any_text_is_safe(void **state) {
    (void)state;
    static const char *const parts[] = {"[",   "]",    "\"", "\\",     "#",    "\n",      " ",
                                        "not", "mode", "x",  "static", "\r\n", "weights", "s8"};
    enum { PARTS = sizeof parts / sizeof *parts, LONG = 8 };
    unsigned seed = 1;
    for (int round = 0; round < 20000; round++) {
        char text[128] = "";
        for (int i = 0; i < LONG; i++) {
            seed = seed * 1664525U + 1013904223U;
            strcat(text, parts[(seed >> 16) % PARTS]);
        }
        nw_quant_options o = nw_quant_options_default();
        char *copy = malloc(strlen(text)); /* no zero behind it: reading beyond the end is found */
        assert_non_null(copy);
        memcpy(copy, text, strlen(text));
        nw_status status = nw_recipe_read(&arena, "r", copy, strlen(text), &o);
        assert_true(status == NW_OK || status == NW_E_ARGUMENT);
        free(copy);
        nw_arena_reset(&arena);
    }
}

/* ---- what rules do -------------------------------------------------------------------------------- */

static nw_graph *g;
static nw_quant_plan *plan;

/* x [2,64] → fc1 → Relu → fc2 → relu2 → fc3 → y, all MatMul by [64,64]; nodes are called as their outputs. */
static void make_graph(void) {
    const int64_t sides[] = {64, 64}, batch[] = {2, 64};
    int x, w[3], v;
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, test_input(g, "x", 2, batch, &x));
    const char *names[] = {"fc1", "fc2", "fc3"}, *weights[] = {"w1", "w2", "w3"}, *relus[] = {"r1", "r2"};
    v = x;
    for (int i = 0; i < 3; i++) {
        assert_ok(&ctx, test_ramp(g, weights[i], 2, sides, &w[i]));
        assert_ok(&ctx, test_node(g, "MatMul", names[i], 2, (int[]){v, w[i]}, &v));
        if (i < 2) assert_ok(&ctx, test_node(g, "Relu", relus[i], 1, (int[]){v}, &v));
    }
    assert_ok(&ctx, nw_graph_add_output(g, v));
    assert_ok(&ctx, nw_graph_resolve(g));
    assert_ok(&ctx, nw_graph_sort(g));
}

static int node_making(const char *value) {
    const int v = nw_graph_find(g, value);
    assert_true(v >= 0);
    for (int n = 0; n < g->node_count; n++)
        if (g->nodes[n].out[0] == v) return n;
    fail_msg("nobody makes %s", value);
    return -1;
}

static void place(const char *recipe) {
    make_graph();
    options = nw_quant_options_default();
    options.inputs = NW_YES;
    assert_ok(&ctx, read_text(recipe));
    assert_ok(&ctx, nw_quant_place(&ctx, g, &options, NULL, &plan));
}

static void freeze(void) {
    nw_quant_report report = {0};
    nw_arena_init(&report.arena, &ctx);
    for (int i = 0; i < plan->point_count; i++) { /* in calibration's place */
        nw_quant_point *p = &plan->points[i];
        p->format = p->choice->activation;
        p->scale = 0.1f;
        p->qmin = (int32_t)nw_format_min(p->format);
        p->qmax = (int32_t)nw_format_max(p->format);
    }
    assert_ok(&ctx, nw_quant_freeze(g, plan, &report));
    nw_arena_free(&report.arena);
}

static void drop(void) {
    nw_quant_plan_free(plan);
    nw_graph_free(g);
    plan = NULL;
    g = NULL;
}

static const nw_qparam *weight_of(const char *layer) {
    const nw_constant *c = nw_graph_constant(g, g->nodes[node_making(layer)].in[1]);
    return c ? c->tensor.qparam : NULL;
}

/* The FakeQuant that a layer reads, or NULL. */
static const nw_node *quantizer_of(const char *layer) {
    const int x = g->nodes[node_making(layer)].in[0];
    for (int n = 0; n < g->node_count; n++)
        if (strcmp(g->nodes[n].op_type, "FakeQuant") == 0 && g->nodes[n].out[0] == x) return &g->nodes[n];
    return NULL;
}

static void modes_mix_in_a_model(void **state) {
    (void)state;
    place("mode static\n[fc2]\nmode dynamic\nweights s4:32\n[fc3]\nmode weights\nweights ternary\n");
    assert_int_equal(plan->mode[node_making("fc1")], NW_NODE_INTEGER);
    assert_int_equal(plan->mode[node_making("fc2")], NW_NODE_INTEGER);
    assert_int_equal(plan->mode[node_making("fc3")], NW_NODE_WEIGHTS);
    freeze();
    assert_int_equal(weight_of("fc1")->format, NW_S8);
    assert_int_equal(weight_of("fc2")->format, NW_S4);
    assert_int_equal(weight_of("fc2")->block, 32);
    assert_int_equal(weight_of("fc3")->format, NW_S2);
    assert_non_null(quantizer_of("fc1"));
    assert_int_equal(quantizer_of("fc1")->in_count, 3); /* scale and zero point, measured */
    assert_non_null(quantizer_of("fc2"));
    assert_int_equal(quantizer_of("fc2")->in_count, 1); /* none: found while running */
    assert_null(quantizer_of("fc3"));
    drop();
}

static void later_rules_win(void **state) {
    (void)state;
    place("mode float\n[fc*]\nmode static\nweights s4\n[fc2]\nweights u8\n[fc3]\nmode float\n");
    assert_int_equal(plan->mode[node_making("fc1")], NW_NODE_INTEGER);
    assert_int_equal(plan->mode[node_making("fc3")], NW_NODE_FLOAT);
    assert_string_equal(plan->reason[node_making("fc3")], "excluded by \"fc3\"");
    freeze();
    assert_int_equal(weight_of("fc1")->format, NW_S4);
    assert_int_equal(weight_of("fc2")->format, NW_U8);
    assert_null(weight_of("fc3"));
    drop();
    place("mode float\n[fc2]\nmode weights\n");
    assert_int_equal(plan->mode[node_making("fc1")], NW_NODE_FLOAT);
    assert_string_equal(plan->reason[node_making("fc1")],
                        "layers are left in float where no rule says otherwise");
    assert_int_equal(plan->mode[node_making("fc2")], NW_NODE_WEIGHTS);
    drop();
}

static const nw_quant_point *point(const char *value) {
    const nw_quant_point *p = nw_quant_point_of(plan, nw_graph_find(g, value));
    if (!p) fail_msg("no quantizer behind %s", value);
    return p;
}

/* A reader of 16 bits and one of 8 of the same value: it gets 16. One static, one dynamic: measured. */
static void shared_values_take_the_finest(void **state) {
    (void)state;
    static const struct {
        const char *recipe;
        nw_format format;
        nw_quant_mode mode;
    } cases[] = {{"[a]\nactivations s16\n", NW_S16, NW_QUANT_STATIC},
                 {"[b]\nactivations s16\n", NW_S16, NW_QUANT_STATIC},
                 {"[a]\nmode dynamic\nactivations s16\n", NW_U8, NW_QUANT_STATIC},
                 {"[MatMul]\nmode dynamic\n[b]\nactivations s16\n", NW_S16, NW_QUANT_DYNAMIC}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t sides[] = {64, 64}, batch[] = {2, 64};
        int x, w, a, b;
        assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
        assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
        assert_ok(&ctx, test_input(g, "x", 2, batch, &x));
        assert_ok(&ctx, test_ramp(g, "w", 2, sides, &w));
        assert_ok(&ctx, test_node(g, "MatMul", "a", 2, (int[]){x, w}, &a));
        assert_ok(&ctx, test_node(g, "MatMul", "b", 2, (int[]){x, w}, &b));
        assert_ok(&ctx, nw_graph_add_output(g, a));
        assert_ok(&ctx, nw_graph_add_output(g, b));
        assert_ok(&ctx, nw_graph_resolve(g));
        assert_ok(&ctx, nw_graph_sort(g));
        options = nw_quant_options_default();
        options.inputs = NW_YES;
        assert_ok(&ctx, read_text(cases[i].recipe));
        assert_ok(&ctx, nw_quant_place(&ctx, g, &options, NULL, &plan));
        assert_int_equal(point("x")->choice->activation, cases[i].format);
        assert_int_equal(point("x")->choice->mode, cases[i].mode);
        drop();
    }
}

static void readers_decide_a_grid(void **state) {
    (void)state;
    place("[fc2]\nactivations s16\nobserver mse\n");
    assert_int_equal(point("r1")->choice->activation, NW_S16);
    assert_int_equal(point("r1")->choice->observer.kind, NW_OBSERVER_MSE);
    assert_int_equal(point("r2")->choice->activation, NW_U8);
    drop();
}

/* Products of two activations are dynamic when asked for. */
static void dynamic_products(void **state) {
    (void)state;
    static const struct {
        const char *recipe;
        nw_node_mode mode;
    } cases[] = {{"mode dynamic\n", NW_NODE_FLOAT},
                 {"mode dynamic\nproducts on\n", NW_NODE_INTEGER},
                 {"mode weights\n[@products]\nmode dynamic\n", NW_NODE_INTEGER}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t square[] = {8, 8};
        int x[2], y;
        assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
        assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
        assert_ok(&ctx, test_input(g, "a", 2, square, &x[0]));
        assert_ok(&ctx, test_input(g, "b", 2, square, &x[1]));
        assert_ok(&ctx, test_node(g, "MatMul", "y", 2, x, &y));
        assert_ok(&ctx, nw_graph_add_output(g, y));
        assert_ok(&ctx, nw_graph_resolve(g));
        options = nw_quant_options_default();
        assert_ok(&ctx, read_text(cases[i].recipe));
        assert_ok(&ctx, nw_quant_place(&ctx, g, &options, NULL, &plan));
        assert_int_equal(plan->mode[0], cases[i].mode);
        assert_int_equal(plan->point_count, cases[i].mode == NW_NODE_INTEGER ? 2 : 0);
        drop();
    }
}

static void impossible_layers_are_named(void **state) {
    (void)state;
    make_graph();
    assert_ok(&ctx, read_text("quantize-inputs on\n[fc2]\nweights s4:32\n"));
    assert_fails(&ctx, NW_E_ARGUMENT, "layer \"fc2\": blocks of weights need mode",
                 nw_quant_place(&ctx, g, &options, NULL, &plan));
    nw_graph_free(g);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(settings_are_taken, open_context, close_context),
        cmocka_unit_test_setup_teardown(sections_are_rules, open_context, close_context),
        cmocka_unit_test_setup_teardown(mistakes_are_named, open_context, close_context),
        cmocka_unit_test_setup_teardown(printed_recipes_read_the_same, open_context, close_context),
        cmocka_unit_test_setup_teardown(every_preset_is_a_recipe, open_context, close_context),
        cmocka_unit_test_setup_teardown(walking_shows_settings, open_context, close_context),
        cmocka_unit_test_setup_teardown(any_text_is_safe, open_context, close_context),
        cmocka_unit_test_setup_teardown(modes_mix_in_a_model, open_context, close_context),
        cmocka_unit_test_setup_teardown(later_rules_win, open_context, close_context),
        cmocka_unit_test_setup_teardown(shared_values_take_the_finest, open_context, close_context),
        cmocka_unit_test_setup_teardown(readers_decide_a_grid, open_context, close_context),
        cmocka_unit_test_setup_teardown(dynamic_products, open_context, close_context),
        cmocka_unit_test_setup_teardown(impossible_layers_are_named, open_context, close_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
