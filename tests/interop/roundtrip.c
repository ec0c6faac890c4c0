/* roundtrip.c: `roundtrip IN.onnx OUT.onnx [IN OUT]…`: import, export. tests/interop/roundtrip.py compares
 * the two. A model that fails is named on stderr and the rest go on. */
#include "onnx/onnx.h"

#include <stdio.h>

static nw_status copy_model(nw_context *ctx, const char *from, const char *to) {
    nw_graph *g;
    NW_TRY(nw_onnx_import(ctx, from, true, &g));
    nw_status status = nw_onnx_export(g, to, false, NULL);
    nw_graph_free(g);
    return status;
}

int main(int argc, char **argv) {
    int failed = 0;
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "roundtrip IN.onnx OUT.onnx [IN OUT]…\n");
        return 2;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        nw_context ctx;
        nw_context_init(&ctx, NULL);
        if (copy_model(&ctx, argv[i], argv[i + 1]) == NW_OK) continue;
        fprintf(stderr, "%s\n", ctx.message);
        failed++;
    }
    return failed > 0;
}
