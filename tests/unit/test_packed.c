/* test_packed.c: constants that stay codes while running: matrix products, convolutions and Gather on every format and grain
 * against the reference, and the memory that they take. */
#include "kern/gemm_wcodes.h"
#include "num/levels.h"
#include "op/op.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdio.h>
#include <string.h>

enum { MOST = 150000 };
static nw_context ctx;
static nw_arena arena;
static uint32_t seed = 1;

static float random_float(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

/* How a matrix is stored. */
typedef struct storage {
    nw_format format, scale_format;
    nw_grain grain;
    int axis;
    int64_t block;
    bool zeros;
} storage;

static void levels_of(nw_format format, nw_levels *levels) {
    *levels = (nw_levels){0};
    if (format == NW_INDEX1) assert_ok(&ctx, nw_levels_binary(&arena, levels));
    if (format == NW_INDEX2) assert_ok(&ctx, nw_levels_sqrt(&arena, 3, levels));
    if (format == NW_INDEX4) assert_ok(&ctx, nw_levels_nf4(&arena, levels));
    if (format == NW_INDEX8) assert_ok(&ctx, nw_levels_log(&arena, 201, 8, levels));
}

/* Random numbers of this shape, quantized; decoded: as the real numbers that the codes mean. */
static int packed(nw_graph *g, const char *name, int rank, const int64_t *dims, const storage *s,
                  bool decoded) {
    const size_t count = nw_dims_product(dims, 0, rank);
    static float x[MOST], scales[MOST];
    static int32_t zeros[MOST];
    static uint8_t codes[2 * MOST];
    nw_qparam q = {.format = s->format,
                   .grain = s->grain,
                   .axis = s->axis,
                   .block = s->block,
                   .scale_format = s->scale_format};
    nw_tensor t = {.format = s->format, .data = codes, .qparam = &q};
    const bool whole = nw_format_is_integer(s->format), alone = s->format == NW_U2 || s->format == NW_S2;
    int id;
    q.groups = nw_qparam_group_count(q.grain, q.axis, q.block, rank, dims);
    assert_true(count <= MOST && q.groups <= MOST);
    levels_of(s->format, &q.levels);
    if (whole) q.qmin = (int32_t)nw_format_min(s->format), q.qmax = (int32_t)nw_format_max(s->format);
    for (size_t i = 0; i < q.groups; i++) {
        scales[i] =
            s->scale_format == NW_F8E8M0 ? 0.25f : nw_f16_to_f32(nw_f16_from_f32(1.5f + random_float()));
        if (s->scale_format == NW_BF16) scales[i] = nw_bf16_to_f32(nw_bf16_from_f32(scales[i]));
        if (whole && !alone) scales[i] /= 64;
        zeros[i] = s->zeros ? q.qmin + (int32_t)(i % (size_t)(q.qmax - q.qmin)) : 0;
    }
    if (s->zeros) q.zeros = zeros;
    assert_ok(&ctx, nw_qparam_set_scales(&arena, &q, scales));
    for (size_t i = 0; i < count; i++) x[i] = random_float();
    nw_tensor_set_shape(&t, rank, dims);
    memset(codes, 0, sizeof codes);
    nw_quantize(&q, rank, dims, x, codes);
    if (decoded) assert_ok(&ctx, nw_tensor_to_f32(&arena, &t, &t));
    assert_ok(&ctx, nw_graph_add_constant_copy(g, name, &t, &id));
    return id;
}

static const nw_format formats[] = {NW_S4,   NW_U4,     NW_S2,     NW_U2,       NW_S8,
                                    NW_U8,   NW_INDEX1, NW_INDEX2, NW_INDEX4,   NW_INDEX8,
                                    NW_BF16, NW_F16,    NW_F4E2M1, NW_F8E4M3FN, NW_F8E5M2};

/* Runs the graph planned and as the reference; returns the first step that is not (convert) or FakeQuant. */
static nw_step_info same_as_reference(nw_graph *g, const nw_feed *feed, double tolerance,
                                      nw_memory_use *memory) {
    nw_run_options options = {.threads = 2, .isa = NW_ISA_COUNT};
    nw_tensor got, want;
    nw_session *session;
    nw_step_info step = {0};
    char message[200];
    for (int reference = 1; reference >= 0; reference--) {
        options.reference = reference;
        assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
        assert_ok(&ctx, nw_session_run(session, 1, feed, &arena, reference ? &want : &got));
        for (int i = 0; !reference && nw_session_step(session, i, &step); i++)
            if (step.op[0] && strcmp(step.op, "FakeQuant") != 0) break;
        *memory = nw_session_memory(session);
        if (reference) nw_session_free(session);
    }
    static char kernel[64];
    snprintf(kernel, sizeof kernel, "%s", step.kernel);
    step.kernel = kernel;
    nw_session_free(session);
    if (!test_same(&got, &want, tolerance, tolerance, message, sizeof message)) fail_msg("%s", message);
    return step;
}

/* What the left-hand side is. */
typedef enum left { REAL, ON_GRID, BY_ROW, MEASURED, ON_BF16, LEFT_COUNT } left;

/* FakeQuant of x: to u8, static or as found while running, per row or for all of it, or to bf16. */
static int restricted(nw_graph *g, int x, left how) {
    const bool found = how == BY_ROW || how == MEASURED, bf16 = how == ON_BF16;
    float scale = bf16 ? 1 : 2.0f / 255;
    int32_t zero = bf16 ? 0 : 127;
    nw_tensor s = {.format = NW_F32, .data = &scale}, z = {.format = NW_S32, .data = &zero};
    int in[3] = {x, NW_ABSENT, NW_ABSENT}, out;
    nw_node *node;
    if (!found) {
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &s, &in[1]));
        assert_ok(&ctx, nw_graph_add_constant_copy(g, NULL, &z, &in[2]));
    }
    assert_ok(&ctx, nw_graph_add_value(g, "x_dq", &out));
    assert_ok(&ctx, nw_graph_add_node(g, "ai.narrow", "FakeQuant", "", found ? 1 : 3, in, 1, &out, &node));
    assert_ok(&ctx, nw_node_set_string(g, node, "format", bf16 ? "bf16" : "u8"));
    if (how == BY_ROW) assert_ok(&ctx, nw_node_set_int(g, node, "per_row", 1));
    return out;
}

/* A graph of opset 21 with a random input "x" of this shape, restricted as `how` says: value *x, and its feed. */
static nw_graph *graph_of_x(int rank, const int64_t *dims, left how, int *x, nw_feed *feed) {
    static float data[MOST];
    nw_graph *g;
    *feed = (nw_feed){"x", {.format = NW_F32, .data = data}};
    nw_tensor_set_shape(&feed->tensor, rank, dims);
    assert_true(nw_tensor_count(&feed->tensor) <= MOST);
    for (size_t i = 0; i < nw_tensor_count(&feed->tensor); i++) data[i] = random_float();
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, nw_graph_set_opset(g, "ai.narrow", 1));
    assert_ok(&ctx, test_input(g, "x", rank, dims, x));
    if (how != REAL) *x = restricted(g, *x, how);
    return g;
}

/* The node of two inputs that makes the graph's output. */
static nw_node *output_of(nw_graph *g, const char *op, const int *in) {
    nw_node *node;
    int y;
    assert_ok(&ctx, nw_graph_add_value(g, "y", &y));
    assert_ok(&ctx, nw_graph_add_node(g, "", op, "", 2, in, 1, &y, &node));
    assert_ok(&ctx, nw_graph_add_output(g, y));
    return node;
}

/* x [m,k] · W, W stored [k,n] or [n,k]. */
static nw_step_info product(const storage *s, bool transposed, int64_t m, int64_t n, int64_t k, left how,
                            nw_memory_use *memory) {
    nw_feed feed;
    int in[2];
    nw_graph *g = graph_of_x(2, (const int64_t[]){m, k}, how, &in[0], &feed);
    in[1] = packed(g, "w", 2, transposed ? (const int64_t[]){n, k} : (const int64_t[]){k, n}, s, false);
    nw_node *node = output_of(g, transposed ? "Gemm" : "MatMul", in);
    if (transposed) assert_ok(&ctx, nw_node_set_int(g, node, "transB", 1));
    assert_ok(&ctx, nw_graph_resolve(g));
    nw_step_info step = same_as_reference(g, &feed, 2e-4, memory);
    nw_graph_free(g);
    return step;
}

static void check_product(const storage *s, bool transposed, int64_t m, int64_t n, int64_t k, left how) {
    nw_memory_use memory;
    const nw_step_info step = product(s, transposed, m, n, k, how, &memory);
    const bool integer = strncmp(step.kernel, "gemm_u8", 7) == 0;
    const bool exact = nw_format_is_integer(s->format) || nw_format_kind(s->format) == NW_KIND_INDEX;
    if (how == REAL || s->grain == NW_GRAIN_BLOCK) assert_non_null(strstr(step.kernel, "wcodes"));
    if (how != REAL && how != ON_BF16 && exact && nw_format_bits(s->format) < 4) assert_true(integer);
    if (how == REAL || how == ON_BF16) assert_false(integer);
    assert_int_equal(strncmp(step.kernel, "gemm_bf16", 9) == 0, how == ON_BF16 && s->format == NW_BF16);
    /* codes, scales and sums for up to 32 columns too many; f32 would be 4·n·k */
    const size_t columns = (size_t)(n + 31) / 32 * 32, words = (size_t)(k + 31) / 32 * 32 + 32;
    const size_t per_group = s->grain == NW_GRAIN_BLOCK ? (size_t)(k - 1) / (size_t)s->block + 1 : 1;
    if (strstr(step.kernel, "wcodes"))
        assert_true(memory.weights <=
                    columns * (words * (size_t)nw_format_bits(s->format) / 8 + per_group * 13 + 4) + 64);
}

static void test_products(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int grain = NW_GRAIN_TENSOR; grain <= NW_GRAIN_BLOCK; grain++)
            for (int transposed = 0; transposed < 2; transposed++)
                for (int zeros = 0; zeros <= nw_format_is_integer(formats[f]); zeros++)
                    for (int how = REAL; how < LEFT_COUNT; how++) {
                        static const nw_format scales[] = {NW_F32, NW_F16, NW_BF16, NW_F8E8M0};
                        storage s = {formats[f], scales[(f + (size_t)grain) % 4], (nw_grain)grain, 0, 32,
                                     zeros};
                        if (formats[f] == NW_U8 && !zeros)
                            continue; /* nobody makes these: half the range is lost */
                        s.axis = grain == NW_GRAIN_BLOCK ? transposed : !transposed;
                        if (grain == NW_GRAIN_TENSOR) s.axis = 0;
                        check_product(&s, transposed, 1 + (int64_t)(f % 11), 37, 83, (left)how);
                    }
}

/* Grains that no kernel knows fall back. */
static void test_other_grains(void **state) {
    (void)state;
    for (int transposed = 0; transposed < 2; transposed++) {
        const storage across = {NW_S4, NW_F32, NW_GRAIN_AXIS, transposed, 0, false};
        const storage blocks = {NW_S4, NW_F32, NW_GRAIN_BLOCK, !transposed, 16, false};
        nw_memory_use memory;
        assert_null(strstr(product(&across, transposed, 3, 20, 48, REAL, &memory).kernel, "wcodes"));
        assert_null(strstr(product(&blocks, transposed, 3, 20, 48, REAL, &memory).kernel, "wcodes"));
    }
}

/* Of a convolution over x [2, channels, height, 7], padded by 1 where the kernel is larger. */
typedef struct image {
    int64_t channels, out, groups, kernel, height;
} image;

static nw_graph *convolution(const image *c, const storage *s, bool decoded, left how, nw_feed *feed) {
    const int64_t dims[4] = {2, c->channels, c->height, 7};
    const int64_t weights[4] = {c->out, c->channels / c->groups, c->kernel, c->kernel};
    const int64_t pads[4] = {c->kernel / 2, c->kernel / 2, c->kernel / 2, c->kernel / 2};
    int in[2];
    nw_graph *g = graph_of_x(4, dims, how, &in[0], feed);
    in[1] = packed(g, "w", 4, weights, s, decoded);
    nw_node *node = output_of(g, "Conv", in);
    assert_ok(&ctx, nw_node_set_ints(g, node, "pads", pads, 4));
    assert_ok(&ctx, nw_node_set_int(g, node, "group", c->groups));
    assert_ok(&ctx, nw_graph_resolve(g));
    return g;
}

/* Weights that stay codes give what decoded ones give, bit for bit, in as much memory as their codes take. */
static void check_convolution(const image *c, const storage *s) {
    nw_feed feed;
    nw_tensor out[2];
    const uint32_t same = seed;
    for (int decoded = 0; decoded < 2; decoded++) {
        const nw_run_options options = {.threads = 2, .isa = NW_ISA_COUNT};
        nw_session *session;
        seed = same;
        nw_graph *g = convolution(c, s, decoded, REAL, &feed);
        assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
        assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &out[decoded]));
        nw_session_free(session);
        if (!decoded) {
            nw_memory_use memory;
            const size_t k = (size_t)(c->channels / c->groups * c->kernel * c->kernel),
                         columns = ((size_t)(c->out / c->groups) + 31) / 32 * 32,
                         blocks = s->grain == NW_GRAIN_BLOCK ? k / 16 : 1;
            const nw_step_info step = same_as_reference(g, &feed, 2e-4, &memory);
            assert_memory_equal(step.kernel, "gemm_f32", 8);
            assert_true(
                memory.weights <=
                (size_t)c->groups * columns *
                        ((k + 31) / 32 * 32 * (size_t)nw_format_bits(s->format) / 8 + blocks * 9 + 36) +
                    (size_t)(c->channels + 4) * sizeof(float) + 64);
        }
        nw_graph_free(g);
    }
    assert_memory_equal(out[0].data, out[1].data, nw_tensor_bytes(&out[0]));
}

/* On codes: with scales per block on packed codes too, and with the same bits from all instruction sets. */
static void check_integer_convolution(const image *c, const storage *s, left how) {
    nw_feed feed;
    nw_tensor out[2];
    nw_memory_use memory;
    nw_graph *g = convolution(c, s, false, how, &feed);
    const nw_step_info step = same_as_reference(g, &feed, 2e-4, &memory);
    assert_memory_equal(step.kernel, "gemm_u8", 7);
    if (s->grain == NW_GRAIN_BLOCK) assert_non_null(strstr(step.kernel, "wcodes"));
    if (s->grain != NW_GRAIN_BLOCK && nw_gemm_u8s8_select(NW_ISA_COUNT)->shift == 0) {
        const size_t taps = (size_t)(c->kernel * c->kernel), k = (size_t)(c->channels / c->groups),
                     columns = (size_t)c->groups * (((size_t)(c->out / c->groups) + 31) / 32 * 32);
        assert_true(memory.weights <= columns * taps * (k + 7) * (size_t)nw_format_bits(s->format) / 8 +
                                          (size_t)c->channels + 4 + 64);
    }
    for (int i = 0; i < 2; i++) {
        const nw_run_options options = {.threads = 1 + i, .isa = i ? NW_ISA_COUNT : NW_ISA_SCALAR};
        nw_session *session;
        assert_ok(&ctx, nw_session_new(&ctx, g, &options, &session));
        assert_ok(&ctx, nw_session_run(session, 1, &feed, &arena, &out[i]));
        nw_session_free(session);
    }
    assert_memory_equal(out[0].data, out[1].data, nw_tensor_bytes(&out[0]));
    nw_graph_free(g);
}

/* 1×1 of few float pixels, 42: decoded in registers where that keeps up. */
static void check_few_pixels(const storage *s) {
    nw_feed feed;
    nw_memory_use memory;
    nw_graph *g = convolution(&(image){64, 72, 2, 1, 3}, s, false, REAL, &feed);
    const nw_step_info step = same_as_reference(g, &feed, 2e-4, &memory);
    assert_int_equal(strstr(step.kernel, "wcodes") != NULL, nw_wgemm_select(NW_ISA_COUNT)->ahead >= 42);
    nw_graph_free(g);
}

static void test_convolutions(void **state) {
    (void)state;
    static const image shapes[] = {{32, 40, 1, 1, 9}, {48, 20, 1, 3, 9}, {3, 17, 1, 3, 9},
                                   {64, 36, 2, 3, 9}, {64, 64, 4, 1, 9}, {20, 256, 1, 1, 9}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int grain = NW_GRAIN_TENSOR; grain <= NW_GRAIN_BLOCK; grain++) {
            const storage s = {formats[f],
                               NW_F16,
                               (nw_grain)grain,
                               grain == NW_GRAIN_BLOCK,
                               32,
                               formats[f] == NW_U4 || formats[f] == NW_U8};
            const bool integer = nw_format_is_integer(s.format) && nw_format_bits(s.format) < 8;
            check_few_pixels(&s);
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
                if (grain == NW_GRAIN_BLOCK && shapes[i].channels / shapes[i].groups < 16) continue;
                check_convolution(&shapes[i], &s);
                if (integer) check_integer_convolution(&shapes[i], &s, ON_GRID);
                if (integer) check_integer_convolution(&shapes[i], &s, MEASURED);
            }
        }
    const storage s = {NW_S4, NW_F32, NW_GRAIN_BLOCK, 1, 32, false};
    check_convolution(&(image){64, 256, 1, 3, 9}, &s); /* too much to be decoded at a time */
    check_convolution(&(image){256, 256, 16, 3, 9}, &s);
    check_convolution(&(image){512, 100, 2, 1, 9}, &s);
    check_integer_convolution(&(image){256, 64, 1, 3, 9}, &s, MEASURED); /* rows are gathered in parts */
    check_integer_convolution(&(image){256, 64, 1, 1, 9}, &s, MEASURED);
}

static void gather(const storage *s, int64_t rows, int64_t columns, bool direct) {
    const int64_t dims[1] = {5};
    int64_t indices[5] = {0, rows - 1, -1, -rows, rows / 2};
    nw_graph *g;
    int in[2];
    nw_memory_use memory;
    nw_feed feed = {"i", {.format = NW_S64, .data = indices}};
    nw_tensor_set_shape(&feed.tensor, 1, dims);
    assert_ok(&ctx, nw_graph_new(&ctx, NULL, &g));
    assert_ok(&ctx, nw_graph_set_opset(g, "", 21));
    assert_ok(&ctx, test_input(g, "i", 1, dims, &in[1]));
    g->values[in[1]].format = NW_S64;
    in[0] = packed(g, "table", 2, (const int64_t[]){rows, columns}, s, false);
    output_of(g, "Gather", in);
    assert_ok(&ctx, nw_graph_resolve(g));
    nw_step_info step = same_as_reference(g, &feed, 0, &memory);
    assert_int_equal(strcmp(step.kernel, "gather of codes") == 0, direct);
    /* Nothing but scales as f32, and those only where they are few. */
    if (direct) assert_true(memory.weights <= (size_t)(rows * columns * nw_format_bits(s->format) / 8));
    nw_session *session;
    nw_tensor out;
    indices[2] = rows;
    assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &session));
    assert_int_not_equal(nw_session_run(session, 1, &feed, &arena, &out), NW_OK);
    nw_session_free(session);
    nw_graph_free(g);
}

static void test_gather(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int grain = NW_GRAIN_TENSOR; grain <= NW_GRAIN_BLOCK; grain++)
            for (int axis = 0; axis < 2; axis++) {
                const storage s = {
                    formats[f],         NW_F16, (nw_grain)grain, grain == NW_GRAIN_TENSOR ? 0 : axis, 16,
                    formats[f] == NW_U4};
                const bool codes = grain == NW_GRAIN_TENSOR && (s.format == NW_S8 || s.format == NW_U8);
                gather(&s, 41, 72, !codes);
                gather(&s, 41, 71, !codes && nw_format_bits(s.format) >= 8); /* rows that end within a byte */
            }
}

static int setup(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_other_grains),
                                       cmocka_unit_test(test_convolutions), cmocka_unit_test(test_gather)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
