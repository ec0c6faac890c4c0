/* prune_channels.c: whole channels leave the graph.
 *
 * Every channel of every value that is followed is one element of a union-find: what must stay or go together is joined
 * (both operands of a sum, the features that flattening makes of a channel). Layers with weights of their own make fresh
 * elements; operators whose effect on channels is not known here freeze those of their inputs. Then sets of the same
 * layers compete: the weakest share of each such tier goes, and constants and attributes are cut to what is left. */
#include "train/prune.h"

#include "op/op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct element {
    int parent;
    const char *frozen; /* why it must stay, or NULL; at roots in the end */
    double score;  /* at roots: sum over layers of the norm of what makes it, relative to the layer's mean */
    uint64_t tier; /* at roots: which layers make it; 0: none */
    bool gone;
} element;

/* Constant input `input` of a node keeps along `axis` what stays of the channels of `value`. */
typedef struct edit {
    int node, input, axis, value;
} edit;

/* A layer whose weights make the channels of its output. */
typedef struct maker {
    int node, axis; /* axis: of the weight, the output channels */
} maker;

typedef struct following {
    nw_graph *g;
    const nw_prune_options *o;
    nw_arena *arena;
    const nw_tensor *shapes;
    nw_uses uses;
    int value_count;   /* before lists were replaced */
    int *axis, *first; /* [values] of a followed value: its channels, their first element; −1: not followed */
    element *elements;
    edit *edits;
    maker *makers;
    size_t count, capacity, edit_count, edit_capacity, maker_count, maker_capacity;
    nw_status status; /* memory that ran out */
} following;

/* ---- elements -------------------------------------------------------------------------------------------- */

static int find(following *f, int e) {
    while (f->elements[e].parent != e) e = f->elements[e].parent = f->elements[f->elements[e].parent].parent;
    return e;
}

static void join(following *f, int a, int b) {
    a = find(f, a);
    b = find(f, b);
    f->elements[a > b ? a : b].parent = a > b ? b : a;
}

static bool is_followed(const following *f, int v) {
    return v >= 0 && f->first[v] >= 0;
}

static int64_t channels_of(const following *f, int v) {
    return f->shapes[v].dims[f->axis[v]];
}

/* Value v gets fresh channels along `axis`. False: it cannot be. */
static bool follow(following *f, int v, int axis) {
    const nw_tensor *t = &f->shapes[v];
    if (t->format == NW_NONE || axis < 1 || axis >= t->rank || f->status != NW_OK) return false;
    size_t count = f->count + (size_t)t->dims[axis];
    if (count > INT32_MAX) return false;
    while (f->count < count && f->status == NW_OK) {
        f->status =
            nw_arena_grow(f->arena, (void **)&f->elements, &f->capacity, f->count, sizeof *f->elements);
        if (f->status == NW_OK) f->elements[f->count] = (element){.parent = (int)f->count};
        f->count++;
    }
    f->axis[v] = axis;
    f->first[v] = (int)(count - (size_t)t->dims[axis]);
    return f->status == NW_OK;
}

static void freeze(following *f, int v, const char *reason) {
    if (!is_followed(f, v) || f->status != NW_OK) return;
    for (int64_t i = 0; i < channels_of(f, v); i++)
        if (!f->elements[f->first[v] + i].frozen) f->elements[f->first[v] + i].frozen = reason;
}

/* Channel i of v and channel i of u, from `at` of v on. */
static void join_values(following *f, int v, int64_t at, int u) {
    for (int64_t i = 0; i < channels_of(f, u); i++)
        join(f, f->first[v] + (int)(at + i), f->first[u] + (int)i);
}

static const char *say(following *f, const char *format, const char *text) {
    const char *line = nw_arena_printf(f->arena, format, text);
    if (!line) f->status = NW_E_MEMORY;
    return line ? line : "";
}

static void add_edit(following *f, int node, int input, int axis, int value) {
    if (f->status != NW_OK) return;
    f->status =
        nw_arena_grow(f->arena, (void **)&f->edits, &f->edit_capacity, f->edit_count, sizeof *f->edits);
    if (f->status == NW_OK) f->edits[f->edit_count++] = (edit){node, input, axis, value};
}

/* ---- operators: each follows its output's channels, or returns false -------------------------------------- */

/* A float constant that nobody else reads: it may be cut. */
static const nw_tensor *own_constant(const following *f, int v) {
    const nw_constant *c = nw_graph_constant(f->g, v);
    bool own = c && c->tensor.format == NW_F32 && !c->tensor.qparam && nw_uses_count(&f->uses, v) == 1;
    return own ? &c->tensor : NULL;
}

static void add_maker(following *f, int n, int axis) {
    const nw_node *node = &f->g->nodes[n];
    const nw_prune_options *o = f->o;
    const char *pattern = nw_node_first_match(o->exclude_count, o->exclude, f->g, node);
    if (pattern)
        freeze(f, node->out[0], say(f, "excluded by \"%s\"", pattern));
    else if (o->only_count && !nw_node_first_match(o->only_count, o->only, f->g, node))
        freeze(f, node->out[0], "not among the layers asked for");
    if (f->status != NW_OK) return;
    f->status =
        nw_arena_grow(f->arena, (void **)&f->makers, &f->maker_capacity, f->maker_count, sizeof *f->makers);
    if (f->status == NW_OK) f->makers[f->maker_count++] = (maker){n, axis};
}

static bool follow_conv(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], bias = nw_node_in(node, 2);
    bool transposed = nw_node_is(node, "ConvTranspose");
    const nw_tensor *w = own_constant(f, nw_node_in(node, 1));
    int64_t group = nw_node_int(node, "group", 1),
            channels = f->shapes[x].rank > 1 ? f->shapes[x].dims[1] : 0;
    bool depthwise = group > 1 && group == channels && !transposed;
    if (!w || (bias >= 0 && !own_constant(f, bias)) || (group > 1 && !depthwise)) return false;
    if ((is_followed(f, x) && f->axis[x] != 1) || !follow(f, y, 1)) return false;
    add_edit(f, n, 1, transposed, y);
    if (bias >= 0) add_edit(f, n, 2, 0, y);
    add_maker(f, n, transposed);
    if (depthwise && !is_followed(f, x)) return false;
    if (!depthwise && is_followed(f, x)) add_edit(f, n, 1, !transposed, x);
    for (int64_t i = 0, each = depthwise ? channels_of(f, y) / group : 1; depthwise && i < group * each; i++)
        join(f, f->first[y] + (int)i, f->first[x] + (int)(i / each));
    return true;
}

static bool follow_product(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    bool gemm = nw_node_is(node, "Gemm");
    int x = node->in[0], y = node->out[0], bias = gemm ? nw_node_in(node, 2) : NW_ABSENT;
    const nw_tensor *w = own_constant(f, nw_node_in(node, 1)), *b = own_constant(f, bias);
    int last = f->shapes[y].rank - 1, out = !(gemm && nw_node_int(node, "transB", 0));
    if (!w || w->rank != 2 || (gemm && nw_node_int(node, "transA", 0)) || (bias >= 0 && !b)) return false;
    if (f->shapes[x].rank != last + 1 || (is_followed(f, x) && f->axis[x] != last)) return false;
    bool each = b && nw_tensor_count(b) > 1; /* one per output, else one for all */
    if ((each && nw_tensor_count(b) != (size_t)w->dims[out]) || !follow(f, y, last)) return false;
    add_edit(f, n, 1, out, y);
    if (each) add_edit(f, n, 2, b->rank - 1, y);
    if (is_followed(f, x)) add_edit(f, n, 1, !out, x);
    add_maker(f, n, out);
    return true;
}

/* Each channel of the output comes from the same one of the input: activations, pools, copies. */
static bool follow_same(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], axis = f->axis[x];
    if (node->out_count != 1 || !is_followed(f, x) || !follow(f, y, axis) ||
        channels_of(f, x) != channels_of(f, y))
        return false;
    join_values(f, y, 0, x);
    return true;
}

static bool follow_pool(following *f, int n) {
    return f->axis[f->g->nodes[n].in[0]] == 1 && follow_same(f, n);
}

static bool follow_resize(following *f, int n) {
    return nw_node_in(&f->g->nodes[n], 3) < 0 && follow_same(f, n);
}

static bool follow_norm(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    for (int i = 1; i < node->in_count; i++)
        if (!own_constant(f, node->in[i])) return false;
    if (!is_followed(f, node->in[0]) || f->axis[node->in[0]] != 1 || !follow_same(f, n)) return false;
    for (int i = 1; i < node->in_count; i++) add_edit(f, n, i, 0, node->out[0]);
    return true;
}

/* Operands broadcast to the output; the one whose channels are followed says where they are. */
static bool follow_elementwise(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int y = node->out[0], rank = f->shapes[y].rank, axis = -1;
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        if (is_followed(f, v) && channels_of(f, v) > 1) axis = f->axis[v] + rank - f->shapes[v].rank;
    }
    if (!follow(f, y, axis)) return false;
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i], at = v < 0 ? -1 : axis - (rank - f->shapes[v].rank);
        if (v < 0 || f->shapes[v].format == NW_NONE) return false;
        if (at < 0 || f->shapes[v].dims[at] == 1) continue;
        if (is_followed(f, v) && f->axis[v] == at)
            join_values(f, y, 0, v);
        else if (own_constant(f, v))
            add_edit(f, n, i, at, y);
        else
            return false;
    }
    return true;
}

static bool follow_concat(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int y = node->out[0], at = -1;
    int64_t joined = nw_node_int(node, "axis", 1), offset = 0;
    for (int i = 0; i < node->in_count; i++)
        if (is_followed(f, node->in[i])) at = f->axis[node->in[i]];
    if (joined < 0) joined += f->shapes[y].rank;
    if (!follow(f, y, at)) return false;
    for (int i = 0; i < node->in_count; i++) {
        int v = node->in[i];
        bool followed = is_followed(f, v);
        if (f->shapes[v].format == NW_NONE || (followed && f->axis[v] != at) || (!followed && joined != at))
            return false;
        if (followed) join_values(f, y, joined == at ? offset : 0, v);
        for (int64_t c = 0; !followed && c < f->shapes[v].dims[at]; c++)
            f->elements[f->first[y] + offset + c].frozen = "joined with what is no layer's output";
        offset += f->shapes[v].dims[at];
    }
    return true;
}

/* Elements keep their order; a dimension of the output covers the channels whole, perhaps with what lies around them:
 * Flatten makes height·width features of each. Position j of that dimension belongs to channel j·inner/(elements
 * of a channel) mod channels. */
static bool follow_reshape(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], target = nw_node_in(node, 1), axis = 0;
    const nw_tensor *from = &f->shapes[x], *to = &f->shapes[y];
    if (!is_followed(f, x) || to->format == NW_NONE) return false;
    if (nw_node_is(node, "Reshape") && !nw_graph_constant(f->g, target)) return false;
    size_t each = nw_dims_product(from->dims, f->axis[x] + 1, from->rank),
           channels = (size_t)channels_of(f, x), inner = 1;
    for (axis = to->rank - 1; axis > 0; axis--) {
        inner = nw_dims_product(to->dims, axis + 1, to->rank);
        size_t size = (size_t)to->dims[axis] * inner;
        if (inner > each) return false;
        if (to->dims[axis] > 1 && size >= each * channels && each % inner == 0 &&
            size % (each * channels) == 0)
            break;
    }
    if (channels < 2 || !follow(f, y, axis)) return false;
    for (int64_t j = 0; j < to->dims[axis]; j++)
        join(f, f->first[y] + (int)j, f->first[x] + (int)((size_t)j * inner / each % channels));
    return true;
}

static bool follow_transpose(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], axis = f->shapes[x].rank - 1 - f->axis[x];
    const int64_t *perm;
    size_t count = 0;
    if (!is_followed(f, x)) return false;
    if (nw_node_ints(node, "perm", &perm, &count))
        for (axis = 0; (size_t)axis < count && perm[axis] != f->axis[x];) axis++;
    if (!follow(f, y, axis)) return false;
    join_values(f, y, 0, x);
    return true;
}

/* The list of integers of an attribute or, where that is not there, of constant input i; false: neither. */
static bool list_of(const following *f, const nw_node *node, const char *name, int i, int64_t *list,
                    size_t *count) {
    const int64_t *given;
    const nw_constant *c = nw_graph_constant(f->g, nw_node_in(node, i));
    bool attribute = nw_node_ints(node, name, &given, count);
    if (!attribute && !c) return false;
    if (!attribute) *count = nw_tensor_count(&c->tensor);
    if (*count > 2 * NW_MAX_RANK) return false;
    for (size_t k = 0; k < *count; k++) list[k] = attribute ? given[k] : nw_tensor_s64(&c->tensor, k);
    return true;
}

/* Whether `axis` of x is among the axes of a node; without a list all are (of Slice: the first). */
static bool touches(const following *f, const nw_node *node, int input, int axis, bool *known) {
    int64_t axes[2 * NW_MAX_RANK];
    size_t count;
    *known = nw_node_in(node, input) < 0 || nw_graph_constant(f->g, node->in[input]);
    if (!list_of(f, node, "axes", input, axes, &count)) return true;
    for (size_t i = 0; i < count; i++)
        if (axes[i] == axis || axes[i] + f->shapes[node->in[0]].rank == axis) return true;
    return false;
}

static bool follow_slice(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    bool known;
    return is_followed(f, node->in[0]) && !touches(f, node, 3, f->axis[node->in[0]], &known) && known &&
           follow_same(f, n);
}

static bool follow_reduce(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], axis = f->axis[x];
    bool known = true;
    if (!is_followed(f, x) || touches(f, node, 1, axis, &known) || !known) return false;
    for (int d = 0, before = axis; d < before && !nw_node_int(node, "keepdims", 1); d++)
        axis -= touches(f, node, 1, d, &known);
    if (!follow(f, y, axis)) return false;
    join_values(f, y, 0, x);
    return true;
}

/* Channels that Pad adds are elements that no layer makes. */
static bool follow_pad(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    int x = node->in[0], y = node->out[0], axis = f->axis[x], rank = f->shapes[x].rank;
    int64_t pads[2 * NW_MAX_RANK];
    size_t count;
    if (!is_followed(f, x) || nw_node_in(node, 3) >= 0 || !list_of(f, node, "pads", 1, pads, &count))
        return false;
    if (count != 2 * (size_t)rank || pads[axis] < 0 || pads[axis + rank] < 0 || !follow(f, y, axis))
        return false;
    if (pads[axis] + pads[axis + rank] > 0 && !nw_node_string_is(node, "mode", "constant", "constant"))
        return false;
    join_values(f, y, pads[axis], x);
    return true;
}

typedef bool follow_fn(following *f, int n);
static const struct {
    const char *op;
    follow_fn *follow;
} operators[] = {
    {"Conv", follow_conv},
    {"ConvTranspose", follow_conv},
    {"Gemm", follow_product},
    {"MatMul", follow_product},
    {"Concat", follow_concat},
    {"BatchNormalization", follow_norm},
    {"Flatten", follow_reshape},
    {"InstanceNormalization", follow_norm},
    {"Reshape", follow_reshape},
    {"GlobalAveragePool", follow_pool},
    {"Squeeze", follow_reshape},
    {"GlobalMaxPool", follow_pool},
    {"Unsqueeze", follow_reshape},
    {"AveragePool", follow_pool},
    {"Transpose", follow_transpose},
    {"MaxPool", follow_pool},
    {"Slice", follow_slice},
    {"LpPool", follow_pool},
    {"ReduceMean", follow_reduce},
    {"Identity", follow_same},
    {"ReduceMax", follow_reduce},
    {"Dropout", follow_same},
    {"ReduceSum", follow_reduce},
    {"Resize", follow_resize},
    {"Pad", follow_pad},
    {"Upsample", follow_resize},
    {"Sum", follow_elementwise},
    {"Cast", follow_same},
};

static follow_fn *rule_of(const nw_node *node) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (nw_node_is(node, operators[i].op)) return operators[i].follow;
    if (node->op && (node->op->flags & NW_OP_UNARY)) return follow_same;
    return node->op && (node->op->flags & NW_OP_BINARY) ? follow_elementwise : NULL;
}

static void visit(following *f, int n) {
    const nw_node *node = &f->g->nodes[n];
    follow_fn *rule = rule_of(node);
    bool layer = rule == follow_conv || rule == follow_product, any = layer;
    for (int i = 0; i < node->in_count; i++) any |= is_followed(f, node->in[i]);
    if (!any || f->status != NW_OK) return;
    bool complete = node->out_count > 0 && node->out[0] >= 0 && node->in_count > layer && node->in[0] >= 0;
    if (complete && rule && rule(f, n)) return;
    char text[300];
    snprintf(text, sizeof text, "%s \"%s\"", node->op_type, nw_node_label(f->g, node));
    const char *reason = say(f, "its channels are not followed through %s", text);
    for (int i = 0; i < node->in_count; i++) freeze(f, node->in[i], reason);
    for (int i = 0; i < node->out_count; i++) freeze(f, node->out[i], reason);
}

/* What graph outputs and subgraphs see stays. */
static void freeze_borders(following *f) {
    for (int v = 0; v < f->g->value_count; v++) {
        if (!is_followed(f, v)) continue;
        if (f->uses.outputs[v]) freeze(f, v, "its channels are an output of the model");
        for (int u = f->uses.first[v]; u < f->uses.first[v + 1]; u++) {
            const nw_node *reader = &f->g->nodes[f->uses.users[u]];
            bool direct = false;
            for (int i = 0; i < reader->in_count; i++) direct |= reader->in[i] == v;
            if (!direct) freeze(f, v, "a subgraph reads it");
        }
    }
    for (size_t e = 0; e < f->count; e++) {
        element *root = &f->elements[find(f, (int)e)];
        if (f->elements[e].frozen && !root->frozen) root->frozen = f->elements[e].frozen;
    }
}

/* ---- which channels go ------------------------------------------------------------------------------------ */

/* |gamma|/√(variance + ε) of the BatchNormalization that alone reads a value, for channel i; 1 without. */
static double factor_behind(const following *f, int v, int64_t i) {
    if (nw_uses_count(&f->uses, v) != 1 || f->uses.outputs[v]) return 1;
    const nw_node *bn = &f->g->nodes[f->uses.users[f->uses.first[v]]];
    if (!nw_node_is(bn, "BatchNormalization")) return 1;
    const nw_constant *gamma = nw_graph_constant(f->g, nw_node_in(bn, 1)),
                      *variance = nw_graph_constant(f->g, nw_node_in(bn, 4));
    if (!gamma || !variance) return 1;
    double spread = nw_tensor_f64(&variance->tensor, (size_t)i) + (double)nw_node_float(bn, "epsilon", 1e-5f);
    return fabs(nw_tensor_f64(&gamma->tensor, (size_t)i)) / sqrt(spread > 0 ? spread : 1);
}

/* The norm of the weights that make channel i. */
static double norm_of(const following *f, const maker *m, int64_t i) {
    const nw_node *node = &f->g->nodes[m->node];
    const nw_tensor *w = &f->g->values[node->in[1]].constant->tensor;
    size_t outer = nw_dims_product(w->dims, 0, m->axis),
           inner = nw_dims_product(w->dims, m->axis + 1, w->rank);
    double sum = 0;
    for (size_t o = 0; o < outer; o++)
        for (size_t k = 0; k < inner; k++) {
            double x = nw_tensor_f64(w, (o * (size_t)w->dims[m->axis] + (size_t)i) * inner + k);
            sum += f->o->l1 ? fabs(x) : x * x;
        }
    return (f->o->l1 ? sum : sqrt(sum)) * factor_behind(f, node->out[0], i);
}

static nw_status rate(following *f) {
    for (size_t m = 0; m < f->maker_count; m++) {
        int y = f->g->nodes[f->makers[m].node].out[0];
        int64_t count = channels_of(f, y);
        double *norm = nw_arena_array(f->arena, (size_t)count, sizeof *norm), mean = 0;
        if (!norm) return NW_E_MEMORY;
        for (int64_t i = 0; i < count; i++) mean += (norm[i] = norm_of(f, &f->makers[m], i)) / (double)count;
        for (int64_t i = 0; i < count; i++) {
            element *root = &f->elements[find(f, f->first[y] + (int)i)];
            root->score += mean > 0 ? norm[i] / mean : 0;
            root->tier = (root->tier ^ (m + 1)) * 0x100000001b3u + 1; /* a hash of the list of layers */
        }
    }
    return NW_OK;
}

typedef struct candidate {
    uint64_t tier;
    double score;
    int root;
} candidate;

static int weakest_first(const void *a, const void *b) {
    const candidate *p = a, *q = b;
    if (p->tier != q->tier) return p->tier < q->tier ? -1 : 1;
    if (p->score != q->score) return p->score < q->score ? -1 : 1;
    return (p->root > q->root) - (p->root < q->root);
}

static nw_status choose(following *f) {
    candidate *list = nw_arena_array(f->arena, f->count, sizeof *list);
    size_t count = 0;
    if (!list) return NW_E_MEMORY;
    for (size_t e = 0; e < f->count; e++) {
        const element *x = &f->elements[e];
        if (x->parent == (int)e && x->tier && !x->frozen)
            list[count++] = (candidate){x->tier, x->score, (int)e};
    }
    if (count) qsort(list, count, sizeof *list, weakest_first);
    for (size_t at = 0, end; at < count; at = end) {
        for (end = at; end < count && list[end].tier == list[at].tier;) end++;
        size_t most = (size_t)(f->o->channels * (double)(end - at) + 1e-9);
        for (size_t i = at; i < at + most && i + 1 < end; i++) f->elements[list[i].root].gone = true;
    }
    return NW_OK;
}

static bool stays(following *f, int v, int64_t i) {
    return !f->elements[find(f, f->first[v] + (int)i)].gone;
}

/* Of channels [from, to). */
static int64_t count_staying(following *f, int v, int64_t from, int64_t to) {
    int64_t count = 0;
    for (int64_t i = from; i < to; i++) count += stays(f, v, i);
    return count;
}

static int64_t left_of(following *f, int v) {
    return count_staying(f, v, 0, channels_of(f, v));
}

/* ---- cutting ------------------------------------------------------------------------------------------------ */

static nw_status cut(following *f, const edit *e) {
    int id = f->g->nodes[e->node].in[e->input];
    nw_value *value = &f->g->values[id];
    nw_tensor to = value->constant->tensor;
    const nw_tensor from = to;
    size_t inner = nw_dims_product(from.dims, e->axis + 1, from.rank) * sizeof(float);
    size_t outer = nw_dims_product(from.dims, 0, e->axis), length = (size_t)from.dims[e->axis];
    to.dims[e->axis] = left_of(f, e->value);
    if (from.dims[e->axis] != channels_of(f, e->value))
        return nw_fail(f->g->ctx, NW_E_SHAPE, "\"%s\" does not fit the channels that it is for", value->name);
    if (to.dims[e->axis] == from.dims[e->axis]) return NW_OK;
    NW_TRY(nw_tensor_alloc(f->arena, &to));
    char *at = to.data;
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < length; i++)
            if (stays(f, e->value, (int64_t)i)) {
                memcpy(at, (const char *)from.data + (o * length + i) * inner, inner);
                at += inner;
            }
    if (value->rank == to.rank) value->dims[e->axis] = to.dims[e->axis];
    return nw_graph_set_constant_copy(f->g, id, &to);
}

/* A list of integers of node n, in an attribute or a constant that may have other readers. */
static nw_status set_list(following *f, int n, const char *name, int input, const int64_t *list,
                          size_t count) {
    const int64_t *given;
    nw_node *node = &f->g->nodes[n];
    if (nw_node_ints(node, name, &given, &count)) return nw_node_set_ints(f->g, node, name, list, count);
    nw_tensor t = {.format = NW_S64, .rank = 1, .dims = {(int64_t)count}, .data = (void *)(uintptr_t)list};
    int id;
    NW_TRY(nw_graph_add_constant_copy(f->g, f->g->values[node->in[input]].name, &t, &id));
    f->g->nodes[n].in[input] = id;
    return NW_OK;
}

static nw_status adapt(following *f, int n) {
    nw_node *node = &f->g->nodes[n];
    int x = nw_node_in(node, 0), y = nw_node_out(node, 0);
    int64_t list[2 * NW_MAX_RANK];
    size_t count;
    if (!is_followed(f, x) || !is_followed(f, y) || left_of(f, y) == channels_of(f, y)) return NW_OK;
    if (nw_node_is(node, "Conv") && nw_node_int(node, "group", 1) > 1)
        return nw_node_set_int(f->g, node, "group", left_of(f, x));
    if (nw_node_is(node, "Reshape") && list_of(f, node, "shape", 1, list, &count)) {
        if ((int)count != f->shapes[y].rank || list[f->axis[y]] <= 0)
            return NW_OK; /* copied, or what is left */
        list[f->axis[y]] = left_of(f, y);
        return set_list(f, n, "shape", 1, list, count);
    }
    if (nw_node_is(node, "Pad") && list_of(f, node, "pads", 1, list, &count)) {
        int64_t before = list[f->axis[y]], after = before + channels_of(f, x);
        list[f->axis[y]] = count_staying(f, y, 0, before);
        list[f->axis[y] + f->shapes[y].rank] = count_staying(f, y, after, channels_of(f, y));
        return set_list(f, n, "pads", 1, list, count);
    }
    return NW_OK;
}

static nw_status remove_channels(following *f) {
    for (size_t i = 0; i < f->edit_count; i++) NW_TRY(cut(f, &f->edits[i]));
    for (int n = 0; n < f->g->node_count; n++)
        if (!f->g->nodes[n].dead) NW_TRY(adapt(f, n));
    for (int v = 0; v < f->value_count; v++) {
        nw_value *value = &f->g->values[v];
        if (is_followed(f, v) && value->rank > f->axis[v] && value->dims[f->axis[v]] > 0)
            value->dims[f->axis[v]] = left_of(f, v);
    }
    return NW_OK;
}

static nw_status explain(following *f, const char **reasons) {
    for (size_t m = 0; m < f->maker_count; m++) {
        int y = f->g->nodes[f->makers[m].node].out[0];
        if (left_of(f, y) < channels_of(f, y)) continue;
        const char *frozen = NULL;
        for (int64_t i = 0; i < channels_of(f, y) && !frozen; i++)
            frozen = f->elements[find(f, f->first[y] + (int)i)].frozen;
        reasons[f->makers[m].node] = frozen ? frozen : "too few channels for one to go";
    }
    return f->status;
}

static nw_status prune(following *f, const char **reasons) {
    size_t values = (size_t)(f->value_count = f->g->value_count);
    f->axis = nw_arena_array(f->arena, values, sizeof *f->axis);
    f->first = nw_arena_array(f->arena, values, sizeof *f->first);
    if (!f->axis || !f->first) return NW_E_MEMORY;
    for (size_t v = 0; v < values; v++) f->axis[v] = f->first[v] = -1;
    for (int n = 0; n < f->g->node_count; n++) visit(f, n);
    NW_TRY(f->status);
    freeze_borders(f);
    NW_TRY(rate(f));
    NW_TRY(choose(f));
    NW_TRY(explain(f, reasons));
    return remove_channels(f);
}

nw_status nw_prune_channels(nw_graph *graph, const nw_prune_options *options, nw_arena *arena,
                            const char **reasons) {
    nw_tensor *shapes;
    following f = {.g = graph, .o = options, .arena = arena};
    NW_TRY(nw_prune_shapes(graph, arena, &shapes));
    f.shapes = shapes;
    NW_TRY(nw_uses_init(&f.uses, graph));
    nw_status status = prune(&f, reasons);
    nw_uses_free(&f.uses);
    return status;
}
