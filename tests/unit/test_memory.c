/* test_memory.c: a model is imported, planned, run and exported while the k-th allocation fails, for every k: out of memory
 * is reported each time, nothing crashes, nothing leaks. Once with that allocation alone failing, once with all after it. */
#include "onnx/onnx.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"
#include "support/unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static nw_bytes *model;
static char path[] = "/tmp/narrow-export-XXXXXX";

static int set_up(void **state) {
    (void)state;
    nw_context ctx;
    nw_graph *g;
    nw_context_init(&ctx, NULL);
    int fd = mkstemp(path);
    if (fd < 0 || test_small_model(&ctx, &g) != NW_OK) return -1;
    close(fd);
    nw_status status = test_model_bytes(&ctx, g, &model);
    nw_graph_free(g);
    return status != NW_OK;
}

static int tear_down(void **state) {
    (void)state;
    nw_bytes_free(model);
    return unlink(path);
}

static nw_status run_once(nw_context *ctx, const nw_graph *g, bool reference, nw_arena *arena, nw_tensor *output) {
    nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT - 1, .reference = reference};
    static float image[72];
    for (int i = 0; i < 72; i++) image[i] = (float)i / 72;
    nw_feed feed = {"image", {.format = NW_F32, .rank = 4, .dims = {1, 2, 6, 6}, .data = image}};
    nw_session *session;
    NW_TRY(nw_session_new(ctx, g, &options, &session));
    nw_status status = nw_session_run(session, 1, &feed, arena, output);
    if (status == NW_OK) status = nw_session_run(session, 1, &feed, arena, output); /* with the cached plan */
    nw_session_free(session);
    return status;
}

static nw_status whole_way(nw_context *ctx, bool reference, float *probabilities) {
    nw_graph *g;
    nw_arena arena;
    nw_tensor output;
    NW_TRY(nw_onnx_import_bytes(ctx, model, "small.onnx", NULL, false, &g));
    nw_arena_init(&arena, ctx);
    nw_status status = nw_onnx_fold_quantization(g);
    if (status == NW_OK) status = run_once(ctx, g, reference, &arena, &output);
    if (status == NW_OK) memcpy(probabilities, output.data, 3 * sizeof *probabilities);
    if (status == NW_OK) status = nw_onnx_spell_quantization(g, NW_STYLE_QDQ);
    if (status == NW_OK) status = nw_onnx_export(g, path);
    nw_arena_free(&arena);
    nw_graph_free(g);
    return status;
}

static void starve(bool reference, bool keep_failing) {
    float sum = 0, probabilities[3] = {0};
    nw_status status = NW_E_MEMORY;
    long k = 0;
    for (; status != NW_OK; k++) {
        test_memory memory = {.fail_at = k, .keep_failing = keep_failing};
        nw_allocator allocator = test_allocator(&memory);
        nw_context ctx;
        nw_context_init(&ctx, &allocator);
        status = whole_way(&ctx, reference, probabilities);
        if (status != NW_OK && status != NW_E_MEMORY)
            fail_msg("allocation %ld: %s: %s", k, nw_status_string(status), ctx.message);
        if (status != NW_OK && !strstr(ctx.message, "memory")) fail_msg("allocation %ld: \"%s\"", k, ctx.message);
        if (memory.alive) fail_msg("allocation %ld: %ld blocks leak", k, memory.alive);
        assert_true(k < 100000);
    }
    assert_true(k > 50); /* it did allocate through the context */
    for (int i = 0; i < 3; i++) sum += probabilities[i];
    assert_true(sum > 0.999f && sum < 1.001f);
}

static void one_failure(void **state) {
    (void)state;
    starve(false, false);
}

static void no_memory_from_then_on(void **state) {
    (void)state;
    starve(false, true);
}

static void reference_run(void **state) {
    (void)state;
    starve(true, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_failure),
        cmocka_unit_test(no_memory_from_then_on),
        cmocka_unit_test(reference_run),
    };
    return cmocka_run_group_tests_name("memory", tests, set_up, tear_down);
}
