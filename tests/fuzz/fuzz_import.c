/* fuzz_import.c: any bytes as a model: import, what other runtimes make of it, and export of what was accepted. External data is refused. */
#include "onnx/onnx.h"
#include "onnx/target.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge_all(const nw_graph *g) {
    nw_arena arena;
    nw_arena_init(&arena, g->ctx);
    nw_verdict *verdicts = nw_arena_array(&arena, (size_t)g->node_count, sizeof *verdicts);
    const char *reason;
    for (nw_target t = NW_TARGET_ANY; verdicts && t <= NW_TARGET_OPENVINO; t++) {
        nw_target_judge(g, t, &arena, verdicts);
        nw_target_refuses(g, t, &arena, &reason);
    }
    nw_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nw_context ctx;
    nw_bytes *bytes;
    nw_graph *g;
    nw_context_init(&ctx, NULL);
    if (nw_bytes_new(&ctx, size, &bytes) != NW_OK) return 0;
    if (size) memcpy((void *)(uintptr_t)bytes->data, data, size);
    if (nw_onnx_import_bytes(&ctx, bytes, "fuzz", NULL, true, &g) == NW_OK) {
        judge_all(g);
        if (nw_onnx_fold_quantization(g) == NW_OK && nw_onnx_spell_quantization(g, NW_STYLE_QDQ, 0) == NW_OK)
            nw_onnx_export(g, "/dev/null/never", false, NULL); /* walks all of it; the file cannot be made */
        nw_graph_free(g);
    }
    nw_bytes_free(bytes);
    return 0;
}
