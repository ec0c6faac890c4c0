/* fuzz_plan.c: any bytes as a model: import, plan, one run on zeros of the declared shapes. Unknown
 * dimensions are 2. Memory is limited, so that a model may ask for anything and merely fails. */
#include "onnx/onnx.h"
#include "run/run.h"
#include "support/model.h"
#include "support/support.h"

#include <string.h>

#define MEMORY ((size_t)64 << 20) /* bytes in all, released or not */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static nw_status run_zeros(nw_context *ctx, const nw_graph *g) {
    static const nw_run_options options = {.threads = 1, .isa = NW_ISA_COUNT - 1};
    if (g->output_count > TEST_FEEDS) return NW_E_UNSUPPORTED;
    nw_arena arena;
    nw_feed feeds[TEST_FEEDS];
    nw_tensor outputs[TEST_FEEDS];
    size_t count;
    nw_session *session = NULL;
    nw_arena_init(&arena, ctx);
    nw_status status = nw_session_new(ctx, g, &options, &session);
    if (status == NW_OK) status = test_zero_feeds(ctx, g, &arena, feeds, &count);
    if (status == NW_OK) status = nw_session_run(session, count, feeds, &arena, outputs);
    nw_session_free(session);
    nw_arena_free(&arena);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t left = MEMORY;
    nw_allocator allocator = {test_limited_alloc, test_limited_release, &left};
    nw_context ctx;
    nw_bytes *bytes;
    nw_graph *g;
    nw_context_init(&ctx, &allocator);
    if (nw_bytes_new(&ctx, size, &bytes) != NW_OK) return 0;
    if (size) memcpy((void *)(uintptr_t)bytes->data, data, size);
    if (nw_onnx_import_bytes(&ctx, bytes, "fuzz", NULL, false, &g) == NW_OK) {
        if (nw_onnx_fold_quantization(g) == NW_OK) run_zeros(&ctx, g);
        nw_graph_free(g);
    }
    nw_bytes_free(bytes);
    return 0;
}
