/* test_qat.c: what makes models smaller while they are trained: quantization with learned scales, pruning, layers matched with
 * a teacher's. */
#include "data/dataset.h"
#include "op/op.h"
#include "quant/quant.h"
#include "run/simplify.h"
#include "unit/bars.h"

#include <string.h>

/* Two values are to be as a teacher's: the loss is the mean of their relative squared errors, and falls. */
static void test_match(void **state) {
    (void)state;
    nw_graph *g = small_model();
    nw_trainer *t;
    nw_trainer_options o = options_with(0.05);
    nw_feed feed = feed_of("input");
    nw_trainer_result r = {0};
    const char *names[2];
    int found = 0;
    for (int n = 0; n < g->node_count && found < 2; n++)
        if (nw_node_is(&g->nodes[n], "Relu")) names[found++] = g->values[g->nodes[n].out[0]].name;
    assert_int_equal(found, 2);
    o.label_weight = 0;
    o.match_count = 2;
    o.matches = names;
    o.match_weight = 1;
    nw_tensor taught[2] = {{.format = NW_F32, .rank = 4, .dims = {BATCH, 16, SIDE, SIDE}}};
    taught[1] = taught[0];
    for (int i = 0; i < 2; i++) {
        assert_ok(&ctx, nw_tensor_alloc(&arena, &taught[i]));
        for (size_t k = 0; k < nw_tensor_count(&taught[i]); k++) ((float *)taught[i].data)[k] = 2;
    }
    generator = (nw_random){1};
    draw_bars();
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    assert_ok(&ctx, nw_trainer_step(t, 1, &feed, NULL, taught, &r));
    double first = r.loss;
    for (int i = 0; i < 40; i++) assert_ok(&ctx, nw_trainer_step(t, 1, &feed, NULL, taught, &r));
    assert_true(first > 0.3 && r.loss < 0.3 * first);
    nw_trainer_free(t);
    o.matches = (const char *const[]){"nothing", "nowhere"};
    assert_fails(&ctx, NW_E_ARGUMENT, "\"nothing\"", nw_trainer_new(&ctx, g, &o, &t));
    nw_graph_free(g);
}

/* ---- quantization-aware training ------------------------------------------------------------------------- */

/* A model that has learned, simplified, and itself quantized. */
static nw_graph *quantized_by(const char *weights, nw_format activation, nw_graph **real) {
    nw_graph *g = small_model(), *made;
    nw_trainer *t;
    nw_trainer_options o = options_with(0.01);
    nw_quant_options q = nw_quant_options_default();
    nw_tensor in = feed_of("input").tensor;
    nw_dataset *ds;
    generator = (nw_random){1};
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    learn(t, 60);
    assert_ok(&ctx, nw_trainer_graph(t, &made));
    assert_ok(&ctx, nw_simplify(made));
    assert_ok(&ctx, nw_graph_copy(made, &ctx, real));
    assert_ok(&ctx, nw_graph_resolve(*real));
    assert_ok(&ctx, nw_scheme_parse(&ctx, weights, &q.choice.weights));
    q.choice.activation = activation;
    assert_ok(&ctx, nw_dataset_from_arrays(&ctx, 1, NULL, &in, NULL, NULL, &ds));
    assert_ok(&ctx, nw_quantize_graph(&ctx, made, ds, &q, NULL));
    nw_dataset_free(ds);
    nw_trainer_free(t);
    nw_graph_free(g);
    return made;
}

static int best_of(const float *row) {
    int best = 0;
    for (int c = 1; c < CLASSES; c++) best = row[c] > row[best] ? c : best;
    return best;
}

/* The model that is written answers, on integers, what it answered while it was trained. */
static void check_answers(nw_trainer *t, const nw_graph *written) {
    nw_trainer_result r;
    nw_session *s;
    nw_tensor y;
    nw_feed feed = feed_of("input");
    int same = 0;
    generator = (nw_random){77};
    draw_bars();
    assert_ok(&ctx, nw_session_new(&ctx, written, NULL, &s));
    assert_ok(&ctx, nw_session_run(s, 1, &feed, &arena, &y));
    assert_ok(&ctx, nw_trainer_step(t, 1, &feed, labels, NULL, &r)); /* scores before it moves */
    for (int i = 0; i < BATCH; i++)
        same += best_of((float *)y.data + i * CLASSES) == best_of((float *)r.logits.data + i * CLASSES);
    assert_true(same >= BATCH - 1);
    nw_session_free(s);
}

static void test_qat(void **state) {
    (void)state;
    static const struct {
        const char *weights;
        nw_format activation;
    } cases[] = {{"s8", NW_U8},      {"s4", NW_U4},     {"s2", NW_U4},
                 {"ternary", NW_U8}, {"binary", NW_U8}, {"s4", NW_U2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        nw_graph *real, *written, *g = quantized_by(cases[c].weights, cases[c].activation, &real);
        nw_trainer *t;
        nw_trainer_options o = options_with(0.002);
        double before = loss_of(g);
        o.real = real;
        o.learn_scales = true;
        o.scale_rate = 1;
        o.scale_steps = 60;
        assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
        learn(t, 80);
        assert_ok(&ctx, nw_trainer_graph(t, &written));
        assert_ok(&ctx, nw_quant_pack_biases(written));
        assert_ok(&ctx, nw_graph_verify(written));
        assert_int_equal(written->node_count, g->node_count);
        int packed = 0, biases = 0;
        for (int v = 0; v < g->value_count; v++) {
            const nw_constant *a = nw_graph_constant(g, v), *b = nw_graph_constant(written, v);
            if (!a || !a->tensor.qparam) continue;
            assert_non_null(b->tensor.qparam);
            assert_int_equal(a->tensor.format, b->tensor.format);
            packed++;
            biases += a->tensor.format == NW_S32;
            assert_false(nw_qparam_equal(a->tensor.qparam, b->tensor.qparam)); /* scales learned */
        }
        /* 4 bits do not resolve the images: the first layer then computes in float */
        assert_int_equal(biases, cases[c].activation == NW_U8 ? 10 : 9);
        assert_int_equal(packed, biases + 10);
        double after = loss_of(written);
        assert_true(after < 0.25 && (after < before || before < 0.05));
        check_answers(t, written);
        nw_graph_free(written);
        nw_trainer_free(t);
        nw_graph_free(real);
        nw_graph_free(g);
    }
}

/* Masters have the numbers from before the rounding; in the last steps scales stay. */
static void test_masters_of_real(void **state) {
    (void)state;
    nw_graph *real, *g = quantized_by("s2", NW_U8, &real);
    nw_trainer *t;
    nw_trainer_options o = options_with(0.01);
    size_t count, compared = 0, scales = 0;
    o.real = real;
    o.learn_scales = true;
    o.scale_rate = 1;
    o.scale_steps = 3;
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    const nw_checkpoint_array *a = nw_trainer_arrays(t, &count);
    float seen[200];
    for (int v = 0; v < real->value_count; v++) {
        const nw_constant *c = nw_graph_constant(real, v);
        if (!c || c->tensor.rank != 4) continue;
        for (size_t i = 0; i < count; i++)
            compared += a[i].count == nw_tensor_count(&c->tensor) &&
                        memcmp(a[i].data, c->tensor.data, a[i].count * sizeof(float)) == 0;
    }
    assert_int_equal(compared, 9);
    learn(t, 5);
    for (size_t i = 0; i < count; i++)
        if (strstr(a[i].name, "scale") && scales < 200) seen[scales++] = a[i].data[0];
    learn(t, 5);
    size_t at = 0;
    for (size_t i = 0; i < count; i++)
        if (strstr(a[i].name, "scale") && at < scales) assert_true(seen[at++] == a[i].data[0]);
    assert_true(scales > 20);
    nw_trainer_free(t);
    nw_graph_free(real);
    nw_graph_free(g);
}

/* ---- pruning while training -------------------------------------------------------------------------------- */

static double share_of_zeros(const nw_trainer *t) {
    size_t count, zeros = 0, all = 0;
    const nw_checkpoint_array *a = nw_trainer_arrays(t, &count);
    for (size_t i = 0; i < count; i++) {
        if (a[i].count < 100 || strcmp(a[i].name, "optimizer") == 0) continue; /* weights only */
        for (size_t k = 0; k < a[i].count; k++) zeros += a[i].data[k] == 0;
        all += a[i].count;
    }
    return (double)zeros / (double)all;
}

/* The share grows to what was asked, stays, and the model learns; from a checkpoint on the same bits follow. */
static void test_prunes(void **state) {
    (void)state;
    nw_graph *g = small_model();
    nw_trainer *a, *b;
    nw_trainer_options o = options_with(0.01);
    size_t count;
    o.hold_zeros = true;
    o.prune.sparsity = 0.8;
    o.prune_steps = 40;
    generator = (nw_random){1};
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &a));
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &b));
    learn(a, 20);
    assert_true(fabs(share_of_zeros(a) - 0.8 * (1 - 0.125)) < 0.01);
    const nw_checkpoint_array *from = nw_trainer_arrays(a, &count), *to = nw_trainer_arrays(b, &count);
    for (size_t i = 0; i < count; i++) memcpy(to[i].data, from[i].data, from[i].count * sizeof(float));
    nw_trainer_set_steps(b, nw_trainer_steps(a));
    const nw_random position = generator;
    learn(a, 30);
    generator = position;
    learn(b, 30);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(from[i].data, to[i].data, from[i].count * sizeof(float));
    double share = share_of_zeros(a);
    assert_true(fabs(share - 0.8) < 0.01);
    assert_true(learn(a, 60) < 0.2);
    assert_true(share_of_zeros(a) == share && fabs(nw_trainer_sparsity(a) - 0.8) < 1e-3);
    nw_trainer_free(b);
    nw_trainer_free(a);
    nw_graph_free(g);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(test_match), TEST(test_qat), TEST(test_masters_of_real),
                                       TEST(test_prunes)};
    return cmocka_run_group_tests_name("qat", tests, NULL, NULL);
}
