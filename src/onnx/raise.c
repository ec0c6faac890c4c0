/* raise.c: a model at a newer version of ONNX's own operators. Most versions only add types and optional attributes; the table
 * below has every change from opset 7 to 25 under which a node as it stands would be invalid or mean something else. */
#include "onnx/onnx.h"
#include "op/op.h"

#include <inttypes.h>
#include <string.h>

#define OLDEST 7
#define NEWEST 25

static nw_status refuse(const nw_graph *g, int n, const char *why) {
    const nw_node *node = &g->nodes[n];
    return nw_fail(g->ctx, NW_E_UNSUPPORTED, "%s \"%s\" %s", node->op_type, nw_node_label(g, node), why);
}

/* ---- attributes that became inputs ------------------------------------------------------------------------------- */

/* "y_axes" of the node that makes y: names of values are unique across subgraphs, those of nodes need not be. */
static const char *name_of(nw_graph *g, int n, const char *what) {
    return nw_arena_printf(&g->arena, "%s_%s", g->values[g->nodes[n].out[0]].name, what);
}

/* Input i of node n becomes a constant. */
static nw_status set_input(nw_graph *g, int n, int i, const char *what, const nw_tensor *t) {
    int id;
    const char *name = name_of(g, n, what);
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_graph_add_constant_copy(g, name, t, &id));
    nw_node *node = &g->nodes[n];
    if (i >= node->in_count) {
        int *in = nw_arena_array(&g->arena, (size_t)i + 1, sizeof *in);
        if (!in) return NW_E_MEMORY;
        for (int k = 0; k <= i; k++) in[k] = nw_node_in(node, k);
        node->in = in;
        node->in_count = i + 1;
    }
    node->in[i] = id;
    return NW_OK;
}

static nw_status set_ints(nw_graph *g, int n, int i, const char *what, const int64_t *values, size_t count) {
    nw_tensor t = {.format = NW_S64, .rank = 1, .dims = {(int64_t)count}, .data = (void *)(uintptr_t)values};
    return set_input(g, n, i, what, &t);
}

/* A list attribute, where there is one, becomes input i. */
static nw_status list_to_input(nw_graph *g, int n, const char *attr, int i) {
    const int64_t *values;
    size_t count;
    if (!nw_node_ints(&g->nodes[n], attr, &values, &count)) return NW_OK;
    NW_TRY(set_ints(g, n, i, attr, values, count));
    nw_node_remove_attr(&g->nodes[n], attr);
    return NW_OK;
}

/* A number, where there is one, becomes input i: a scalar of input 0's type. */
static nw_status number_to_input(nw_graph *g, int n, const char *attr, int i) {
    const nw_node *node = &g->nodes[n];
    nw_format format = g->values[node->in[0]].format;
    if (!nw_node_attr(node, attr)) return NW_OK;
    if (format == NW_NONE) format = NW_F32;
    if (!nw_format_is_float(format))
        return refuse(g, n, "has limits in an attribute but no floating-point input");
    uint64_t room = 0;
    nw_tensor t = {.format = format, .data = &room};
    nw_store_f64(format, &room, 0, (double)nw_node_float(node, attr, 0));
    NW_TRY(set_input(g, n, i, attr, &t));
    nw_node_remove_attr(&g->nodes[n], attr);
    return NW_OK;
}

static nw_status axes_input(nw_graph *g, int n) {
    return list_to_input(g, n, "axes", 1);
}
static nw_status split_input(nw_graph *g, int n) {
    return list_to_input(g, n, "split", 1);
}
static nw_status clip_inputs(nw_graph *g, int n) {
    NW_TRY(number_to_input(g, n, "min", 1));
    return number_to_input(g, n, "max", 2);
}
static nw_status pad_inputs(nw_graph *g, int n) {
    NW_TRY(list_to_input(g, n, "pads", 1));
    return number_to_input(g, n, "value", 2);
}
static nw_status slice_inputs(nw_graph *g, int n) {
    NW_TRY(list_to_input(g, n, "starts", 1));
    NW_TRY(list_to_input(g, n, "ends", 2));
    return list_to_input(g, n, "axes", 3);
}

static nw_status topk_input(nw_graph *g, int n) {
    int64_t k = nw_node_int(&g->nodes[n], "k", 1);
    NW_TRY(set_ints(g, n, 1, "k", &k, 1));
    nw_node_remove_attr(&g->nodes[n], "k");
    return NW_OK;
}

static nw_status upsample_input(nw_graph *g, int n) {
    const float *scales;
    size_t count;
    if (!nw_node_floats(&g->nodes[n], "scales", &scales, &count)) return refuse(g, n, "has no scales");
    nw_tensor t = {.format = NW_F32, .rank = 1, .dims = {(int64_t)count}, .data = (void *)(uintptr_t)scales};
    NW_TRY(set_input(g, n, 1, "scales", &t));
    nw_node_remove_attr(&g->nodes[n], "scales");
    return NW_OK;
}

static nw_status dft_axis(nw_graph *g, int n) {
    int64_t axis = nw_node_int(&g->nodes[n], "axis", 1);
    nw_tensor t = {.format = NW_S64, .data = &axis};
    NW_TRY(set_input(g, n, 2, "axis", &t));
    nw_node_remove_attr(&g->nodes[n], "axis");
    return NW_OK;
}

/* ---- outputs, names, defaults ------------------------------------------------------------------------------------ */

static nw_status only_first_output(nw_graph *g, int n) {
    nw_node *node = &g->nodes[n];
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, g));
    bool used = false;
    for (int i = 1; i < node->out_count; i++)
        used = used || (node->out[i] >= 0 && nw_uses_count(&uses, node->out[i]) > 0);
    nw_uses_free(&uses);
    if (used) return refuse(g, n, "has outputs besides the first, which newer versions define otherwise");
    if (node->out_count > 1) node->out_count = 1;
    return NW_OK;
}

static nw_status drop_spatial(nw_graph *g, int n) {
    if (nw_node_int(&g->nodes[n], "spatial", 1) != 1)
        return refuse(g, n, "is not spatial, which newer versions do not have");
    nw_node_remove_attr(&g->nodes[n], "spatial");
    return NW_OK;
}

/* The ratio matters in training only, where it is an input from opset 12 on. */
static nw_status dropout_ratio(nw_graph *g, int n) {
    float ratio = nw_node_float(&g->nodes[n], "ratio", 0.5f);
    nw_tensor t = {.format = NW_F32, .data = &ratio};
    NW_TRY(set_input(g, n, 1, "ratio", &t));
    nw_node_remove_attr(&g->nodes[n], "ratio");
    return NW_OK;
}

static nw_status rename_node(nw_graph *g, int n, const char *op) {
    g->nodes[n].op_type = op;
    g->nodes[n].op = nw_op_find("", op);
    return NW_OK;
}
static nw_status rename_resize(nw_graph *g, int n) {
    return rename_node(g, n, "Resize");
}
static nw_status rename_scatter(nw_graph *g, int n) {
    return rename_node(g, n, "ScatterElements");
}

/* Before opset 11 coordinates were x/scale, rounded down. */
static nw_status resize_inputs(nw_graph *g, int n) {
    nw_node *node = &g->nodes[n];
    if (node->in_count != 2) return refuse(g, n, "has no scales");
    int scales = node->in[1];
    nw_tensor none = {.format = NW_F32, .rank = 1};
    NW_TRY(set_input(g, n, 2, "roi", &none));
    node = &g->nodes[n];
    node->in[1] = node->in[2];
    node->in[2] = scales;
    NW_TRY(nw_node_set_string(g, node, "coordinate_transformation_mode", "asymmetric"));
    if (!nw_node_string_is(node, "mode", "nearest", "nearest")) return NW_OK;
    return nw_node_set_string(g, node, "nearest_mode", "floor");
}

static nw_status roi_coordinates(nw_graph *g, int n) {
    return nw_node_set_string(g, &g->nodes[n], "coordinate_transformation_mode", "output_half_pixel");
}

static nw_status split_count(nw_graph *g, int n) {
    nw_node *node = &g->nodes[n];
    return nw_node_in(node, 1) >= 0 ? NW_OK : nw_node_set_int(g, node, "num_outputs", node->out_count);
}

static nw_status grid_mode(nw_graph *g, int n) {
    nw_node *node = &g->nodes[n];
    const char *mode = nw_node_string(node, "mode", "bilinear");
    if (strcmp(mode, "nearest") == 0) return NW_OK;
    return nw_node_set_string(g, node, "mode", strcmp(mode, "bicubic") == 0 ? "cubic" : "linear");
}

static nw_status never_scan(nw_graph *g, int n) {
    return refuse(g, n, "has the sequence lengths of opset 8, which newer versions do not have");
}
static nw_status never_groups(nw_graph *g, int n) {
    return refuse(g, n, "has a scale per group, where newer versions want one per channel");
}

/* ---- Softmax, LogSoftmax, Hardmax -------------------------------------------------------------------------------- */

static nw_status add_value(nw_graph *g, int n, const char *what, nw_format format, int *id) {
    const char *name = name_of(g, n, what);
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_graph_add_value(g, name, id));
    g->values[*id].format = format;
    return NW_OK;
}

/* Before opset 13 they worked on all axes from `axis` (default 1) on together. */
static nw_status softmax_axis(nw_graph *g, int n) {
    nw_node *node = &g->nodes[n];
    int x = node->in[0], y = node->out[0], flat, soft, shape;
    const nw_value *v = &g->values[x];
    int64_t axis = nw_node_int(node, "axis", 1);
    if (axis < 0 && v->rank >= 0) axis += v->rank;
    bool alone = axis == -1;
    if (v->rank >= 0 && axis >= 0 && axis < v->rank) {
        alone = true;
        for (int64_t d = axis + 1; d < v->rank; d++) alone = alone && v->dims[d] == 1;
    }
    if (alone) return nw_node_set_int(g, node, "axis", axis);
    NW_TRY(add_value(g, n, "flat", v->format, &flat));
    NW_TRY(add_value(g, n, "rows", g->values[x].format, &soft));
    NW_TRY(add_value(g, n, "shape", NW_S64, &shape));
    node = &g->nodes[n];
    NW_TRY(nw_node_set_int(g, node, "axis", -1));
    node->in[0] = flat;
    node->out[0] = soft;
    NW_TRY(nw_graph_add_node(g, "", "Flatten", NULL, 1, &x, 1, &flat, &node));
    NW_TRY(nw_node_set_int(g, node, "axis", axis));
    NW_TRY(nw_graph_add_node(g, "", "Shape", NULL, 1, &x, 1, &shape, NULL));
    return nw_graph_add_node(g, "", "Reshape", NULL, 2, (int[]){soft, shape}, 1, &y, NULL);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* In ascending order of versions: a node may pass several changes. */
static const struct change {
    int version;
    const char *op;
    nw_status (*convert)(nw_graph *g, int n);
} changes[] = {
    {9, "BatchNormalization", drop_spatial},
    {9, "Scan", never_scan},
    {9, "Upsample", upsample_input},
    {10, "Dropout", only_first_output},
    {10, "Slice", slice_inputs},
    {10, "TopK", topk_input},
    {10, "Upsample", rename_resize},
    {11, "Clip", clip_inputs},
    {11, "Pad", pad_inputs},
    {11, "Resize", resize_inputs},
    {11, "Scatter", rename_scatter},
    {12, "Dropout", dropout_ratio},
    {13, "Hardmax", softmax_axis},
    {13, "LogSoftmax", softmax_axis},
    {13, "ReduceSum", axes_input},
    {13, "Softmax", softmax_axis},
    {13, "Split", split_input},
    {13, "Squeeze", axes_input},
    {13, "Unsqueeze", axes_input},
    {14, "BatchNormalization", only_first_output},
    {16, "RoiAlign", roi_coordinates},
    {18, "ReduceL1", axes_input},
    {18, "ReduceL2", axes_input},
    {18, "ReduceLogSum", axes_input},
    {18, "ReduceLogSumExp", axes_input},
    {18, "ReduceMax", axes_input},
    {18, "ReduceMean", axes_input},
    {18, "ReduceMin", axes_input},
    {18, "ReduceProd", axes_input},
    {18, "ReduceSumSquare", axes_input},
    {18, "Split", split_count},
    {20, "DFT", dft_axis},
    {20, "GridSample", grid_mode},
    {21, "GroupNormalization", never_groups},
};

/* The oldest IR version that goes with an opset, as the ONNX releases have it. */
static const struct {
    int opset, ir;
} releases[] = {{8, 3},  {9, 4},   {10, 5},  {11, 6},  {12, 7}, {15, 8},
                {19, 9}, {21, 10}, {23, 11}, {24, 12}, {25, 13}};

static nw_status convert(nw_graph *g, int n, const struct change *change) {
    const nw_node *node = &g->nodes[n];
    if (nw_node_in(node, 0) < 0 || nw_node_out(node, 0) < 0)
        return refuse(g, n, "has no first input or no first output");
    return change->convert(g, n);
}

static nw_status raise_graph(nw_graph *g, int64_t from, int64_t to) {
    int nodes = g->node_count; /* what conversions add is new already */
    for (int n = 0; n < nodes; n++) {
        for (int a = 0; a < g->nodes[n].attr_count; a++) {
            const nw_attr attr = g->nodes[n].attrs[a];
            if (attr.kind == NW_ATTR_GRAPH) NW_TRY(raise_graph(attr.graph, from, to));
            for (size_t i = 0; attr.kind == NW_ATTR_GRAPHS && i < attr.count; i++)
                NW_TRY(raise_graph(attr.graphs[i], from, to));
        }
        for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
            if (changes[i].version > from && changes[i].version <= to &&
                nw_node_is(&g->nodes[n], changes[i].op))
                NW_TRY(convert(g, n, &changes[i]));
    }
    return nw_graph_sort(g);
}

nw_status nw_onnx_raise(nw_graph *g, int64_t opset) {
    int64_t from = nw_graph_opset(g, "");
    if (opset == from) return NW_OK;
    if (opset < from || opset > NEWEST)
        return nw_fail(g->ctx, NW_E_ARGUMENT,
                       "a model of opset %" PRId64 " cannot become one of opset %" PRId64
                       ": it can be raised, up to %d",
                       from, opset, NEWEST);
    nw_status status =
        from < OLDEST ? nw_fail(g->ctx, NW_E_UNSUPPORTED, "models before opset %d cannot be raised", OLDEST)
                      : raise_graph(g, from, opset);
    if (status != NW_OK)
        return nw_fail_where(g->ctx, status, "raising the model from opset %" PRId64 " to %" PRId64, from,
                             opset);
    NW_TRY(nw_graph_set_opset(g, "", opset));
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++)
        if (opset >= releases[i].opset && g->info->ir_version < releases[i].ir)
            g->info->ir_version = releases[i].ir;
    return nw_graph_resolve(g);
}
