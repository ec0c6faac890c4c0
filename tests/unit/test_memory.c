/* test_memory.c: a model is imported, planned, run and exported while the k-th allocation fails, for every k:
 * out of memory is reported each time, nothing crashes, nothing leaks. Once with that allocation alone
 * failing, once with all after it. */
#include "onnx/onnx.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A model, starved: which bytes, what it gives when there is memory. */
typedef struct trial {
    nw_bytes *model;
    const char *name;
    bool reference;
} trial;

static char path[] = "/tmp/narrow-export-XXXXXX";

static int set_up(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd);
}

static int tear_down(void **state) {
    (void)state;
    return unlink(path);
}

static nw_status run_twice(nw_context *ctx, const trial *t, const nw_graph *g, nw_arena *arena) {
    nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT - 1, .reference = t->reference};
    nw_feed feeds[TEST_FEEDS];
    nw_tensor outputs[TEST_FEEDS];
    size_t count;
    nw_session *session;
    assert_true(g->output_count <= TEST_FEEDS);
    NW_TRY(test_zero_feeds(ctx, g, arena, feeds, &count));
    NW_TRY(nw_session_new(ctx, g, &options, &session));
    nw_status status = nw_session_run(session, count, feeds, arena, outputs);
    if (status == NW_OK)
        status = nw_session_run(session, count, feeds, arena, outputs); /* with the cached plan */
    nw_session_free(session);
    return status;
}

static nw_status whole_way(nw_context *ctx, const trial *t) {
    nw_graph *g;
    nw_arena arena;
    NW_TRY(nw_onnx_import_bytes(ctx, t->model, t->name, NULL, false, &g));
    nw_arena_init(&arena, ctx);
    nw_status status = nw_onnx_fold_quantization(g);
    if (status == NW_OK) status = run_twice(ctx, t, g, &arena);
    if (status == NW_OK) status = nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 0);
    if (status == NW_OK) status = nw_onnx_export(g, path, false, NULL);
    nw_arena_free(&arena);
    nw_graph_free(g);
    return status;
}

static void starve(const trial *t, bool keep_failing) {
    nw_status status = NW_E_MEMORY;
    long k = 0;
    for (; status != NW_OK; k++) {
        test_memory memory = {.fail_at = k, .keep_failing = keep_failing};
        nw_allocator allocator = test_allocator(&memory);
        nw_context ctx;
        nw_context_init(&ctx, &allocator);
        status = whole_way(&ctx, t);
        if (status != NW_OK && status != NW_E_MEMORY)
            fail_msg("%s: allocation %ld: %s: %s", t->name, k, nw_status_string(status), ctx.message);
        if (status != NW_OK && !strstr(ctx.message, "memory"))
            fail_msg("%s: allocation %ld: \"%s\"", t->name, k, ctx.message);
        if (memory.alive) fail_msg("%s: allocation %ld: %ld blocks leak", t->name, k, memory.alive);
        assert_true(k < 100000);
    }
    assert_true(k > 20); /* it did allocate through the context */
}

static void starve_all_ways(nw_bytes *model, const char *name) {
    for (int way = 0; way < 4; way++) {
        trial t = {model, name, way & 1};
        starve(&t, way & 2);
    }
}

static void small_model(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    nw_bytes *bytes;
    nw_context_init(&ctx, NULL);
    assert_ok(&ctx, test_small_model(&ctx, &g));
    assert_ok(&ctx, test_model_bytes(&ctx, g, &bytes));
    nw_graph_free(g);
    starve_all_ways(bytes, "small");
    nw_bytes_free(bytes);
}

/* Seeds of the fuzz targets: quantized graphs, subgraphs, recurrent layers, shape arithmetic. */
static void seed_models(void **state) {
    (void)state;
    static const char *const names[] = {"convnet", "attention", "qdq",  "qlinearconv", "int4",  "dynamic",
                                        "lstm",    "if",        "loop", "shapes",      "gather"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        nw_context ctx;
        nw_bytes *bytes;
        char file[512];
        nw_context_init(&ctx, NULL);
        snprintf(file, sizeof file, "%s/tests/fuzz/corpus/%s.onnx", NARROW_SOURCE_DIR, names[i]);
        assert_ok(&ctx, nw_bytes_map(&ctx, file, &bytes));
        starve_all_ways(bytes, names[i]);
        nw_bytes_free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_model), cmocka_unit_test(seed_models)};
    return cmocka_run_group_tests_name("memory", tests, set_up, tear_down);
}
