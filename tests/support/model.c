/* model.c: small models for tests. */
#include "support/model.h"

#include "onnx/onnx.h"
#include "op/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

nw_status test_ramp(nw_graph *g, const char *name, int rank, const int64_t *dims, int *id) {
    nw_tensor t = {.format = NW_F32};
    nw_tensor_set_shape(&t, rank, dims);
    size_t count = nw_tensor_count(&t);
    float *data = malloc(count * sizeof *data + 1);
    if (!data) return NW_E_MEMORY;
    for (size_t i = 0; i < count; i++) data[i] = (float)((i * 37 + 11) % 64) / 64 - 0.5f;
    t.data = data;
    nw_status status = nw_graph_add_constant_copy(g, name, &t, id);
    free(data);
    return status;
}

nw_status test_ints(nw_graph *g, const char *name, size_t count, const int64_t *values, int *id) {
    nw_tensor t = {.format = NW_S64, .rank = 1, .dims = {(int64_t)count}, .data = (void *)(uintptr_t)values};
    return nw_graph_add_constant_copy(g, name, &t, id);
}

nw_status test_node(nw_graph *g, const char *op, const char *output, int in_count, const int *in, int *out) {
    nw_node *node;
    NW_TRY(nw_graph_add_value(g, output, out));
    return nw_graph_add_node(g, "", op, output, in_count, in, 1, out, &node);
}

nw_status test_input(nw_graph *g, const char *name, int rank, const int64_t *dims, int *id) {
    NW_TRY(nw_graph_add_value(g, name, id));
    nw_value *v = &g->values[*id];
    v->format = NW_F32;
    v->rank = rank;
    memcpy(v->dims, dims, (size_t)rank * sizeof *dims);
    return nw_graph_add_input(g, *id);
}

static nw_status build(nw_graph *g) {
    int image, w, b, conv, relu, flat, shape, index, first, axes, rows, minus, target, again, dense_w,
        dense_b, dense, offset, sum, soft;
    NW_TRY(nw_graph_set_opset(g, "", 17));
    g->info->ir_version = 8;
    NW_TRY(test_input(g, "image", 4, (int64_t[]){1, 2, 6, 6}, &image));
    NW_TRY(test_ramp(g, "w", 4, (int64_t[]){4, 2, 3, 3}, &w));
    NW_TRY(test_ramp(g, "b", 1, (int64_t[]){4}, &b));
    NW_TRY(test_node(g, "Conv", "conv", 3, (int[]){image, w, b}, &conv));
    NW_TRY(nw_node_set_ints(g, &g->nodes[g->node_count - 1], "pads", (int64_t[]){1, 1, 1, 1}, 4));
    NW_TRY(test_node(g, "Relu", "relu", 1, &conv, &relu));
    NW_TRY(test_node(g, "Shape", "shape", 1, &relu, &shape));
    NW_TRY(test_ints(g, "index", 1, (int64_t[]){0}, &index));
    NW_TRY(test_node(g, "Gather", "first", 2, (int[]){shape, index}, &first));
    NW_TRY(test_ints(g, "axes", 1, (int64_t[]){0}, &axes));
    NW_TRY(test_node(g, "Squeeze", "rows", 2, (int[]){first, axes}, &rows));
    NW_TRY(test_node(g, "Unsqueeze", "rows_again", 2, (int[]){rows, axes}, &again));
    NW_TRY(test_ints(g, "rest", 1, (int64_t[]){-1}, &minus));
    NW_TRY(test_node(g, "Concat", "target", 2, (int[]){again, minus}, &target));
    NW_TRY(nw_node_set_int(g, &g->nodes[g->node_count - 1], "axis", 0));
    NW_TRY(test_node(g, "Reshape", "flat", 2, (int[]){relu, target}, &flat));
    NW_TRY(test_ramp(g, "dense_w", 2, (int64_t[]){144, 3}, &dense_w));
    NW_TRY(test_ramp(g, "dense_b", 1, (int64_t[]){3}, &dense_b));
    NW_TRY(test_node(g, "Gemm", "dense", 3, (int[]){flat, dense_w, dense_b}, &dense));
    NW_TRY(test_ramp(g, "offset", 1, (int64_t[]){3}, &offset));
    NW_TRY(test_node(g, "Add", "sum", 2, (int[]){dense, offset}, &sum));
    NW_TRY(test_node(g, "Softmax", "probabilities", 1, &sum, &soft));
    g->values[soft].format = NW_F32;
    g->values[soft].rank = 2;
    g->values[soft].dims[0] = 1;
    g->values[soft].dims[1] = 3;
    NW_TRY(nw_graph_add_output(g, soft));
    return nw_graph_resolve(g);
}

nw_status test_small_model(nw_context *ctx, nw_graph **out) {
    nw_graph *g;
    NW_TRY(nw_graph_new(ctx, NULL, &g));
    nw_status status = build(g);
    if (status != NW_OK)
        nw_graph_free(g);
    else
        *out = g;
    return status;
}

nw_status test_model_bytes(nw_context *ctx, const nw_graph *graph, nw_bytes **out) {
    char path[] = "/tmp/narrow-model-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return nw_fail(ctx, NW_E_IO, "no temporary file");
    close(fd);
    nw_status status = nw_onnx_export(graph, path, false, NULL);
    if (status == NW_OK) status = nw_bytes_map(ctx, path, out);
    unlink(path);
    return status;
}

nw_status test_zero_feeds(nw_context *ctx, const nw_graph *g, nw_arena *arena, nw_feed *feeds,
                          size_t *count) {
    *count = 0;
    for (int i = 0; i < g->input_count; i++) {
        const nw_value *v = &g->values[g->inputs[i]];
        if (v->constant) continue;
        if (v->rank < 0 || v->format == NW_NONE || v->format == NW_STR || *count == TEST_FEEDS)
            return nw_fail(ctx, NW_E_UNSUPPORTED, "an input without a shape");
        nw_tensor *t = &feeds[*count].tensor;
        feeds[(*count)++].name = v->name;
        *t = (nw_tensor){.format = v->format, .rank = v->rank};
        for (int d = 0; d < v->rank; d++) t->dims[d] = v->dims[d] < 0 ? 2 : v->dims[d];
        NW_TRY(nw_tensor_check(ctx, t));
        if (nw_tensor_count(t) > 1 << 16) return nw_fail(ctx, NW_E_UNSUPPORTED, "a large input");
        NW_TRY(nw_tensor_alloc(arena, t));
        memset(t->data, 0, nw_tensor_bytes(t));
    }
    return NW_OK;
}
