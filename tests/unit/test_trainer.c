/* test_trainer.c: what training is made of: checksums, event files, checkpoints, augmentation, new models, float
 * masters of packed weights, and the trainer on models of all kinds. */
#include "op/op.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"
#include "train/augment.h"
#include "train/crc32c.h"
#include "train/master.h"
#include "train/tensorboard.h"
#include "train/trainer.h"
#include "train/zoo.h"
#include "unit/bars.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- files ----------------------------------------------------------------------------------------------- */

static void test_crc32c(void **state) {
    (void)state;
    uint8_t zeros[32] = {0}; /* RFC 3720, B.4 */
    assert_int_equal(nw_crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(nw_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(nw_crc32c(nw_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static uint32_t unmasked(uint32_t crc) {
    crc -= 0xa282ead8u;
    return crc << 15 | crc >> 17;
}

/* Checks the frame; returns where the message begins. */
static const uint8_t *open_frame(const uint8_t *record, size_t size, uint64_t *length) {
    uint32_t crc;
    memcpy(length, record, 8);
    assert_int_equal(size, *length + 16);
    memcpy(&crc, record + 8, 4);
    assert_int_equal(unmasked(crc), nw_crc32c(0, record, 8));
    memcpy(&crc, record + 12 + *length, 4);
    assert_int_equal(unmasked(crc), nw_crc32c(0, record + 12, *length));
    return record + 12;
}

static void test_events(void **state) {
    (void)state;
    uint8_t record[NW_EVENT_MOST];
    uint64_t length;
    const uint8_t *m = open_frame(record, nw_event_version(1.5, record), &length);
    assert_memory_equal(m,
                        "\x09\0\0\0\0\0\0\xf8\x3f\x1a\x0d"
                        "brain.Event:2",
                        24);
    assert_int_equal(length, 24);
    m = open_frame(record, nw_event_scalar(1.5, 300, "loss", 0.5f, record), &length);
    /* step 300 = 0xac 0x02; summary { value { tag "loss", simple_value 0.5 } } */
    assert_memory_equal(m + 9, "\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\0\x3f", 18 + 0);
    assert_int_equal(length, 27);
    m = open_frame(record, nw_event_restart(1.5, 7, record), &length);
    assert_memory_equal(m + 9, "\x10\x07\x3a\x02\x08\x01", 6);
    char tag[1000];
    memset(tag, 'x', sizeof tag - 1);
    tag[sizeof tag - 1] = 0;
    size_t size = nw_event_scalar(1, 1, tag, 1, record);
    assert_true(size <= NW_EVENT_MOST);
    open_frame(record, size, &length);
}

typedef struct box {
    nw_checkpoint at;
    float weights[3], slots[2];
    nw_checkpoint_array arrays[3];
} box;

static void fill(box *b, float x) {
    *b = (box){
        .at = {.identity = 42, .epoch = 3, .batch = 4, .step = 5, .loss = 0.25, .right = 6, .log_bytes = 7},
        .weights = {x, x + 1, x + 2},
        .slots = {x, -x}};
    b->arrays[0] = (nw_checkpoint_array){"w", b->weights, 3};
    b->arrays[1] = (nw_checkpoint_array){"optimizer", b->slots, 2};
    b->arrays[2] = (nw_checkpoint_array){"none", NULL, 0};
}

static void test_checkpoint(void **state) {
    (void)state;
    char path[] = "/tmp/narrow-checkpoint-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    box a, b;
    fill(&a, 1);
    fill(&b, 0);
    assert_ok(&ctx, nw_checkpoint_write(&ctx, path, &a.at, 3, a.arrays));
    b.at = (nw_checkpoint){0};
    assert_ok(&ctx, nw_checkpoint_read(&ctx, path, 42, &b.at, 3, b.arrays));
    assert_memory_equal(&a.at, &b.at, sizeof a.at);
    assert_memory_equal(a.weights, b.weights, sizeof a.weights);
    assert_memory_equal(a.slots, b.slots, sizeof a.slots);
    assert_fails(&ctx, NW_E_ARGUMENT, "another training",
                 nw_checkpoint_read(&ctx, path, 43, &b.at, 3, b.arrays));
    b.arrays[0].count = 2;
    assert_fails(&ctx, NW_E_ARGUMENT, "\"w\"", nw_checkpoint_read(&ctx, path, 42, &b.at, 3, b.arrays));
    unlink(path);
}

/* Any single byte that changes, and any length, is noticed. */
static void test_damaged_checkpoint(void **state) {
    (void)state;
    char path[] = "/tmp/narrow-checkpoint-XXXXXX";
    uint8_t bytes[512];
    box a;
    fill(&a, 1);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_ok(&ctx, nw_checkpoint_write(&ctx, path, &a.at, 3, a.arrays));
    FILE *f = fopen(path, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(size > 100 && size < sizeof bytes);
    for (size_t i = 0; i < 2 * size; i++) {
        f = fopen(path, "wb");
        if (i < size) bytes[i] ^= 0x40;
        fwrite(bytes, 1, i < size ? size : i - size, f);
        if (i < size) bytes[i] ^= 0x40;
        fclose(f);
        assert_fails(&ctx, NW_E_FORMAT, "damaged", nw_checkpoint_read(&ctx, path, 42, &a.at, 3, a.arrays));
    }
    unlink(path);
}

/* ---- augmentation ----------------------------------------------------------------------------------------- */

static void test_augmentation_words(void **state) {
    (void)state;
    nw_augmentation a;
    assert_ok(&ctx, nw_augmentation_parse(&ctx, "flip,crop=4,noise=0.01", &a));
    assert_true(a.flip && a.crop == 4 && a.noise == 0.01);
    assert_ok(&ctx, nw_augmentation_parse(&ctx, NULL, &a));
    assert_true(!a.flip && a.crop == 0 && a.noise == 0);
    static const char *const wrong[] = {"flop",       "crop",    "crop=",     "crop=-1",
                                        "crop=99999", "noise=x", "noise=inf", ",flip"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(&ctx, NW_E_ARGUMENT, "augmentation", nw_augmentation_parse(&ctx, wrong[i], &a));
}

/* Every image becomes one of the 2·(2·crop+1)² changed ones, each of them occurs, alike in both channels. */
static void test_augment(void **state) {
    (void)state;
    enum { N = 600, H = 3, W = 4 };
    static float x[N][2][H][W], again[N][2][H][W];
    int seen[2][3][3] = {0};
    nw_augmentation a = {.flip = true, .crop = 1};
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 2 * H * W; k++) ((float *)x[i])[k] = (float)(k % (H * W) + 1);
    memcpy(again, x, sizeof x);
    nw_tensor t = {.format = NW_F32, .rank = 4, .dims = {N, 2, H, W}, .data = x}, late = t;
    assert_ok(&ctx, nw_augment(&ctx, &a, 5, 10, &t));
    for (int i = 0; i < N; i++) {
        int found = 0;
        assert_memory_equal(x[i][0], x[i][1], sizeof x[i][0]);
        for (int flip = 0; flip < 2; flip++)
            for (int dy = -1; dy <= 1; dy++)
                for (int dx = -1; dx <= 1; dx++) {
                    bool same = true;
                    for (int y = 0; y < H; y++)
                        for (int c = 0; c < W; c++) {
                            int sy = y + dy, sx = (flip ? W - 1 - c : c) + dx;
                            float want =
                                sy < 0 || sy >= H || sx < 0 || sx >= W ? 0 : (float)(sy * W + sx + 1);
                            same &= x[i][0][y][c] == want;
                        }
                    found += same;
                    if (same) seen[flip][dy + 1][dx + 1]++;
                }
        assert_int_equal(found, 1);
    }
    for (int k = 0; k < 18; k++) assert_in_range(((int *)seen)[k], 10, 70);
    /* sample 12 is the same whether it comes in a batch that starts at 10 or at 12 */
    late.data = again[2];
    late.dims[0] = 1;
    assert_ok(&ctx, nw_augment(&ctx, &a, 5, 12, &late));
    assert_memory_equal(again[2], x[2], sizeof x[2]);
}

static void test_noise(void **state) {
    (void)state;
    enum { N = 4000 };
    static float x[N];
    double sum = 0, squares = 0;
    nw_augmentation a = {.noise = 0.5};
    nw_tensor t = {.format = NW_F32, .rank = 4, .dims = {4, 1, 10, N / 40}, .data = x};
    assert_ok(&ctx, nw_augment(&ctx, &a, 1, 0, &t));
    for (int i = 0; i < N; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    assert_true(fabs(sum / N) < 0.04 && fabs(squares / N - 0.25) < 0.03);
    t.rank = 2;
    assert_fails(&ctx, NW_E_ARGUMENT, "images", nw_augment(&ctx, &a, 1, 0, &t));
}

/* ---- new models ------------------------------------------------------------------------------------------- */

static void test_zoo(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t shape[3];
    } cases[] = {{"lenet", {1, 28, 28}},    {"mlp", {1, 8, 8}},     {"resnet8", {3, 32, 32}},
                 {"resnet20", {3, 15, 17}}, {"dscnn", {1, 49, 10}}, {"dscnn", {1, 1, 1}},
                 {"resnet8", {1, 1, 1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nw_graph *g;
        nw_session *s;
        const int64_t *d = cases[i].shape;
        nw_tensor x = {.format = NW_F32, .rank = 4, .dims = {2, d[0], d[1], d[2]}}, y;
        assert_ok(&ctx, nw_zoo_make(&ctx, cases[i].name, d, 7, i, &g));
        assert_ok(&ctx, nw_graph_verify(g));
        assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &s));
        assert_ok(&ctx, nw_tensor_alloc(&arena, &x));
        for (size_t k = 0; k < nw_tensor_count(&x); k++) ((float *)x.data)[k] = (float)(k % 7) / 3 - 1;
        assert_ok(&ctx, nw_session_run(s, 1, &(nw_feed){"input", x}, &arena, &y));
        assert_true(y.rank == 2 && y.dims[0] == 2 && y.dims[1] == 7);
        double squares = 0; /* nothing dies or explodes on the way */
        for (int k = 0; k < 14; k++) squares += (double)((float *)y.data)[k] * (double)((float *)y.data)[k];
        assert_true(isfinite(squares) && squares > 0 && squares < 1e5);
        nw_session_free(s);
        nw_graph_free(g);
    }
}

static void test_zoo_refuses(void **state) {
    (void)state;
    nw_graph *g;
    assert_fails(&ctx, NW_E_ARGUMENT, "lenet",
                 nw_zoo_make(&ctx, "lenett", (int64_t[]){1, 28, 28}, 10, 0, &g));
    assert_fails(&ctx, NW_E_ARGUMENT, "4 x 4", nw_zoo_make(&ctx, "lenet", (int64_t[]){1, 3, 28}, 10, 0, &g));
    assert_fails(&ctx, NW_E_ARGUMENT, "0x28", nw_zoo_make(&ctx, "mlp", (int64_t[]){1, 0, 28}, 10, 0, &g));
    assert_fails(&ctx, NW_E_ARGUMENT, "classes", nw_zoo_make(&ctx, "mlp", (int64_t[]){1, 8, 8}, 1, 0, &g));
}

/* ---- trainer ---------------------------------------------------------------------------------------------- */

/* Normalizations learn, their statistics are written back: the trained graph answers as it did in training. */
static void test_learns(void **state) {
    (void)state;
    nw_graph *g = small_model(), *trained;
    nw_trainer *t;
    nw_trainer_options o = options_with(0.01);
    generator = (nw_random){1};
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    double before = loss_of(g);
    assert_true(learn(t, 60) < 0.1);
    assert_ok(&ctx, nw_trainer_graph(t, &trained));
    assert_ok(&ctx, nw_graph_verify(trained));
    assert_int_equal(trained->node_count, g->node_count);
    assert_int_equal(trained->input_count, g->input_count);
    assert_true(before > 0.8);
    assert_true(loss_of(trained) < 0.15);
    nw_graph_free(trained);
    nw_trainer_free(t);
    nw_graph_free(g);
}

/* From the arrays and the number of steps on, the same bits follow. */
static void test_goes_on(void **state) {
    (void)state;
    nw_graph *g = small_model();
    nw_trainer *a, *b;
    nw_trainer_options o = options_with(0.01);
    size_t count, same;
    generator = (nw_random){1};
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &a));
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &b));
    learn(a, 6);
    const nw_checkpoint_array *from = nw_trainer_arrays(a, &count), *to = nw_trainer_arrays(b, &same);
    assert_int_equal(count, same);
    for (size_t i = 0; i < count; i++) memcpy(to[i].data, from[i].data, from[i].count * sizeof(float));
    nw_trainer_set_steps(b, nw_trainer_steps(a));
    const nw_random position = generator;
    double left = learn(a, 5);
    generator = position;
    double right = learn(b, 5);
    assert_memory_equal(&left, &right, sizeof left);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(from[i].data, to[i].data, from[i].count * sizeof(float));
    nw_trainer_free(a);
    nw_trainer_free(b);
    nw_graph_free(g);
}

/* input → FakeQuant → Conv with packed weights (per channel) and bias (s32) → Relu → FakeQuant → Flatten → Gemm →
 * Softmax */
static nw_graph *quantized_model(void) {
    static const int64_t pads[] = {1, 1, 1, 1};
    static float w[6 * 9], scales[6], bias_scales[6], dense[CLASSES * 6 * SIDE * SIDE];
    static int8_t codes[6 * 9];
    static int32_t bias[6];
    nw_graph *g;
    int x, xq, wq, b, conv, relu, rq, flat, dw, logits, out, scale, zero;
    float x_scale = 0.01f, y_scale = 0.02f;
    int32_t x_zero = 90, y_zero = 0;
    nw_tensor number = {.format = NW_F32}, whole = {.format = NW_S32};
    generator = (nw_random){4};
    for (int i = 0; i < 6 * 9; i++) w[i] = (float)draw(1000) / 1000 - 0.5f;
    for (int i = 0; i < CLASSES * 6 * SIDE * SIDE; i++) dense[i] = (float)draw(1000) / 20000 - 0.025f;
    for (int c = 0; c < 6; c++) {
        scales[c] = 0.5f / 127 * (1 + (float)c / 6);
        bias_scales[c] = scales[c] * x_scale;
    }
    nw_qparam p = {
        .format = NW_S8, .grain = NW_GRAIN_AXIS, .groups = 6, .scales = scales, .qmin = -127, .qmax = 127};
    nw_qparam q = {.format = NW_S32,
                   .grain = NW_GRAIN_AXIS,
                   .groups = 6,
                   .scales = bias_scales,
                   .qmin = INT32_MIN,
                   .qmax = INT32_MAX};
    nw_tensor weight = {.format = NW_S8, .rank = 4, .dims = {6, 1, 3, 3}, .data = codes, .qparam = &p};
    nw_tensor shift = {.format = NW_S32, .rank = 1, .dims = {6}, .data = bias, .qparam = &q};
    nw_tensor matrix = {.format = NW_F32, .rank = 2, .dims = {6 * SIDE * SIDE, CLASSES}, .data = dense};
    nw_quantize(&p, 4, weight.dims, w, codes);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 17));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
    assert_ok(&ctx, test_input(g, "input", 4, (int64_t[]){-1, 1, SIDE, SIDE}, &x));
    number.data = &x_scale;
    whole.data = &x_zero;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "x_scale", &number, &scale));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "x_zero", &whole, &zero));
    nw_node *node;
    assert_ok(&ctx, nw_graph_add_value(g, "xq", &xq));
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "xq", 3, (int[]){x, scale, zero}, 1, &xq,
                                      &node));
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "w", &weight, &wq));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "b", &shift, &b));
    assert_ok(&ctx, test_node(g, "Conv", "conv", 3, (int[]){xq, wq, b}, &conv));
    assert_ok(&ctx, nw_node_set_ints(g, &g->nodes[g->node_count - 1], "pads", pads, 4));
    assert_ok(&ctx, test_node(g, "Relu", "relu", 1, &conv, &relu));
    number.data = &y_scale;
    whole.data = &y_zero;
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "y_scale", &number, &scale));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "y_zero", &whole, &zero));
    assert_ok(&ctx, nw_graph_add_value(g, "rq", &rq));
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "rq", 3, (int[]){relu, scale, zero}, 1,
                                      &rq, &node));
    assert_ok(&ctx, nw_node_set_string(g, node, "format", "u8"));
    assert_ok(&ctx, test_node(g, "Flatten", "flat", 1, &rq, &flat));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, "dense", &matrix, &dw));
    assert_ok(&ctx, test_node(g, "MatMul", "logits", 2, (int[]){flat, dw}, &logits));
    assert_ok(&ctx, test_node(g, "Softmax", "probabilities", 1, &logits, &out));
    assert_ok(&ctx, nw_graph_add_output(g, out));
    assert_ok(&ctx, nw_graph_resolve(g));
    return g;
}

static const nw_tensor *constant_named(const nw_graph *g, const char *name) {
    const nw_constant *c = nw_graph_constant(g, nw_graph_find(g, name));
    assert_non_null(c);
    return &c->tensor;
}

static void test_masters(void **state) {
    (void)state;
    nw_graph *g = quantized_model(), *copy;
    nw_masters masters;
    assert_ok(&ctx, nw_graph_copy(g, &ctx, &copy));
    assert_ok(&ctx, nw_graph_resolve(copy));
    assert_ok(&ctx, nw_masters_make(copy, NULL, false, &arena, &masters));
    assert_ok(&ctx, nw_graph_verify(copy));
    assert_int_equal(masters.count, 2);
    assert_int_equal(copy->node_count, g->node_count + 1);
    assert_null(nw_graph_constant(copy, nw_graph_find(copy, "w")));
    assert_int_equal(constant_named(copy, "b")->format, NW_F32);
    assert_ok(&ctx, nw_masters_pack(copy, &masters));
    assert_ok(&ctx, nw_graph_verify(copy));
    assert_int_equal(copy->node_count, g->node_count);
    for (int i = 0; i < 2; i++) {
        const nw_tensor *a = constant_named(g, i ? "b" : "w"), *b = constant_named(copy, i ? "b" : "w");
        assert_int_equal(a->format, b->format);
        assert_true(nw_qparam_equal(a->qparam, b->qparam));
        assert_memory_equal(a->data, b->data, nw_tensor_bytes(a));
    }
    nw_graph_free(copy);
    nw_graph_free(g);
}

/* Through rounded weights and activations, behind a Softmax; what comes out is packed on the same grids. */
static void test_quantized(void **state) {
    (void)state;
    nw_graph *g = quantized_model(), *trained;
    nw_trainer *t;
    nw_trainer_options o = options_with(0.005);
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    double first = learn(t, 5), last = learn(t, 120);
    assert_true(last < 0.5 * first);
    assert_ok(&ctx, nw_trainer_graph(t, &trained));
    assert_ok(&ctx, nw_graph_verify(trained));
    assert_int_equal(trained->node_count, g->node_count);
    const nw_tensor *before = constant_named(g, "w"), *after = constant_named(trained, "w");
    assert_int_equal(after->format, NW_S8);
    assert_true(nw_qparam_equal(before->qparam, after->qparam));
    assert_memory_not_equal(before->data, after->data, nw_tensor_bytes(before));
    assert_int_equal(constant_named(trained, "b")->format, NW_S32);
    assert_memory_not_equal(constant_named(trained, "b")->data, constant_named(g, "b")->data, 24);
    nw_graph_free(trained);
    nw_trainer_free(t);
    nw_graph_free(g);
}

static void test_teacher(void **state) {
    (void)state;
    nw_graph *g = small_model();
    nw_trainer *t;
    nw_trainer_options o = options_with(0.01);
    nw_feed feed = feed_of("input");
    nw_trainer_result r = {0};
    float scores[BATCH][CLASSES];
    o.label_weight = 0;
    o.teacher_weight = 1;
    o.temperature = 2;
    nw_tensor teacher = {.format = NW_F32, .rank = 2, .dims = {BATCH, CLASSES}, .data = scores};
    generator = (nw_random){1};
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    for (int i = 0; i < 60; i++) {
        draw_bars();
        for (int k = 0; k < BATCH * CLASSES; k++)
            scores[k / CLASSES][k % CLASSES] = k % CLASSES == labels[k / CLASSES] ? 5 : 0;
        assert_ok(&ctx, nw_trainer_step(t, 1, &feed, NULL, &teacher, &r));
    }
    assert_true(r.loss < 0.2);
    nw_trainer_free(t);
    nw_graph_free(g);
}

static void test_trainer_refuses(void **state) {
    (void)state;
    nw_graph *g = small_model();
    nw_trainer *t;
    nw_trainer_result r;
    nw_feed feed = feed_of("input");
    nw_trainer_options o = options_with(0.01);
    o.output = "scores";
    assert_fails(&ctx, NW_E_ARGUMENT, "no output \"scores\"", nw_trainer_new(&ctx, g, &o, &t));
    o.output = NULL;
    o.label_weight = 0;
    assert_fails(&ctx, NW_E_ARGUMENT, "neither labels nor a teacher", nw_trainer_new(&ctx, g, &o, &t));
    o.label_weight = 1;
    assert_ok(&ctx, nw_trainer_new(&ctx, g, &o, &t));
    draw_bars();
    labels[4] = CLASSES;
    assert_fails(&ctx, NW_E_DATA, "label 3", nw_trainer_step(t, 1, &feed, labels, NULL, &r));
    labels[4] = 1;
    images[0][0] = NAN;
    assert_fails(&ctx, NW_E_DATA, "step 1 gave a loss", nw_trainer_step(t, 1, &feed, labels, NULL, &r));
    images[0][0] = 0;
    assert_fails(&ctx, NW_E_ARGUMENT, "takes 1 inputs", nw_trainer_step(t, 0, &feed, labels, NULL, &r));
    assert_int_equal(nw_trainer_steps(t), 0);
    learn(t, 5); /* and none of that did harm */
    nw_trainer_free(t);
    nw_graph_free(g);
}

/* Memory that runs out anywhere gives an error and leaves nothing behind. */
static void test_out_of_memory(void **state) {
    (void)state;
    nw_graph *g = quantized_model();
    nw_trainer_options o = options_with(0.01);
    long fails = 0;
    draw_bars();
    for (nw_status status = NW_E_MEMORY; status != NW_OK; fails++) {
        test_memory memory = {.fail_at = fails};
        nw_allocator allocator = test_allocator(&memory);
        nw_context starved;
        nw_trainer *t = NULL;
        nw_graph *trained = NULL;
        nw_trainer_result r;
        nw_feed feed = feed_of("input");
        nw_context_init(&starved, &allocator);
        status = nw_trainer_new(&starved, g, &o, &t);
        if (status == NW_OK) status = nw_trainer_step(t, 1, &feed, labels, NULL, &r);
        if (status == NW_OK) status = nw_trainer_graph(t, &trained);
        assert_true(status == NW_OK || status == NW_E_MEMORY);
        nw_graph_free(trained);
        nw_trainer_free(t);
        assert_int_equal(memory.alive, 0);
    }
    assert_true(fails > 50);
    nw_graph_free(g);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_crc32c),
        TEST(test_events),
        TEST(test_checkpoint),
        TEST(test_damaged_checkpoint),
        TEST(test_augmentation_words),
        TEST(test_augment),
        TEST(test_noise),
        TEST(test_zoo),
        TEST(test_zoo_refuses),
        TEST(test_learns),
        TEST(test_goes_on),
        TEST(test_masters),
        TEST(test_quantized),
        TEST(test_teacher),
        TEST(test_trainer_refuses),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("trainer", tests, NULL, NULL);
}
