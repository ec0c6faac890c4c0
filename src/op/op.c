#include "op/op.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const nw_op *const all_ops[] = {
#define NW_OP(id)        &nw_op_##id,
#define NW_OP_MS(id)     &nw_op_ms_##id,
#define NW_OP_NARROW(id) &nw_op_narrow_##id,
#include "op/ops.def"
#undef NW_OP
#undef NW_OP_MS
#undef NW_OP_NARROW
};

const nw_op *const *nw_op_all(size_t *count) {
    *count = sizeof all_ops / sizeof *all_ops;
    return all_ops;
}

const nw_op *nw_op_find(const char *domain, const char *name) {
    if (strcmp(domain, "ai.onnx") == 0) domain = "";
    for (size_t i = 0; i < sizeof all_ops / sizeof *all_ops; i++)
        if (strcmp(all_ops[i]->name, name) == 0 && strcmp(all_ops[i]->domain, domain) == 0) return all_ops[i];
    return NULL;
}

/* ---- resolving names ------------------------------------------------------------------------------------------- */

typedef struct missing {
    const nw_node *first[64]; /* one node per missing operator, in order of appearance */
    const nw_graph *graph[64];
    int occurrences[64];
    int count, dropped;
} missing;

static void note_missing(missing *m, const nw_graph *g, const nw_node *node) {
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->first[i]->op_type, node->op_type) == 0 &&
            strcmp(m->first[i]->domain, node->domain) == 0) {
            m->occurrences[i]++;
            return;
        }
    if (m->count == 64) {
        m->dropped++;
        return;
    }
    m->first[m->count] = node;
    m->graph[m->count] = g;
    m->occurrences[m->count++] = 1;
}

static void resolve(nw_graph *g, missing *m) {
    for (int n = 0; n < g->node_count; n++) {
        nw_node *node = &g->nodes[n];
        if (!node->op) node->op = nw_op_find(node->domain, node->op_type);
        if (!node->op) note_missing(m, g, node);
        for (int a = 0; a < node->attr_count; a++) {
            nw_attr *attr = &node->attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) resolve(attr->graph, m);
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                resolve(attr->graphs[i], m);
        }
    }
}

nw_status nw_graph_resolve(nw_graph *g) {
    missing m = {.count = 0};
    resolve(g, &m);
    if (m.count == 0) return NW_OK;
    char list[900];
    size_t at = 0;
    for (int i = 0; i < m.count && at < sizeof list; i++) {
        const nw_node *node = m.first[i];
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s%s%s (%d×, first \"%s\")", i ? ", " : "",
                               node->domain, node->domain[0] ? "." : "", node->op_type, m.occurrences[i],
                               nw_node_label(m.graph[i], node));
    }
    return nw_fail(g->ctx, NW_E_UNSUPPORTED, "%d operator%s not supported: %s%s", m.count + (m.dropped > 0),
                   m.count > 1 ? "s are" : " is", list, m.dropped ? ", and others" : "");
}

nw_roles nw_node_roles(const nw_node *node) {
    nw_roles roles = {.compute = false};
    if (node->op && node->op->roles) node->op->roles(node, &roles);
    return roles;
}

nw_role nw_roles_of(const nw_roles *roles, int input) {
    return roles->in[input < NW_MAX_ROLES ? input : NW_MAX_ROLES - 1];
}

/* ---- calling --------------------------------------------------------------------------------------------------- */

/* The node is named once, here, whatever depth the failure came from. */
static nw_status named(const nw_op_call *call, nw_status status) {
    if (status == NW_OK || status == NW_E_NEED_VALUE) return status;
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s \"%s\"", call->node->op_type, nw_node_label(call->graph, call->node));
    if (strncmp(call->ctx->message, prefix, strlen(prefix)) == 0) return status;
    return nw_fail_where(call->ctx, status, "%s", prefix);
}

nw_status nw_op_infer(nw_op_call *call) {
    for (int i = 0; i < call->out_count; i++) call->out[i] = (nw_tensor){.format = NW_NONE};
    nw_status status = call->node->op->infer(call);
    for (int i = 0; i < call->out_count && status == NW_OK; i++)
        if (call->out[i].format != NW_NONE) status = nw_tensor_check(call->ctx, &call->out[i]);
    return named(call, status);
}

static bool is_half(nw_format f) {
    return f == NW_F16 || f == NW_BF16;
}

/* Gives the operator what it can compute on: packed constants and halves as f32, elements aligned. */
static nw_status widen(nw_op_call *call, const nw_tensor **in, nw_tensor *wide, bool *any) {
    bool raw = call->node->op->flags & NW_OP_RAW;
    for (int i = 0; i < call->in_count; i++) {
        in[i] = call->in[i];
        if (!in[i] || !in[i]->data) continue;
        if (!in[i]->qparam && (raw || !is_half(in[i]->format)) && nw_tensor_aligned(in[i])) continue;
        NW_TRY(nw_tensor_to_f32(call->scratch, in[i], &wide[i]));
        in[i] = &wide[i];
        *any = true;
    }
    return NW_OK;
}

static nw_status eval_widened(nw_op_call *call, const nw_tensor **in, bool any) {
    const nw_tensor *const *original = call->in;
    nw_tensor *out = call->out;
    bool raw = call->node->op->flags & NW_OP_RAW;
    nw_tensor *narrow = nw_arena_array(call->scratch, (size_t)call->out_count + 1, sizeof *narrow);
    if (!narrow) return NW_E_MEMORY;
    bool halves = false;
    for (int i = 0; i < call->out_count; i++) {
        narrow[i] = out[i];
        if (raw || !is_half(out[i].format)) continue;
        halves = true;
        narrow[i].format = NW_F32;
        NW_TRY(nw_tensor_alloc(call->scratch, &narrow[i]));
    }
    if (any) call->in = in;
    if (halves) call->out = narrow;
    nw_status status = call->node->op->eval(call);
    call->in = original;
    call->out = out;
    for (int i = 0; i < call->out_count && status == NW_OK && halves; i++)
        if (is_half(out[i].format) && out[i].data)
            nw_encode_f32(out[i].format, narrow[i].data, nw_tensor_count(&out[i]), out[i].data, 0);
    return status;
}

nw_status nw_op_eval(nw_op_call *call) {
    const nw_tensor **in = nw_arena_array(call->scratch, (size_t)call->in_count + 1, sizeof *in);
    nw_tensor *wide = nw_arena_array(call->scratch, (size_t)call->in_count + 1, sizeof *wide);
    if (!in || !wide) return NW_E_MEMORY;
    bool any = false;
    nw_status status = widen(call, in, wide, &any);
    if (status == NW_OK) status = eval_widened(call, in, any);
    return named(call, status);
}

/* ---- helpers for the operators --------------------------------------------------------------------------------- */

nw_status(nw_call_fail)(const nw_op_call *call, nw_status status, const char *format, ...) {
    char text[700];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return nw_fail(call->ctx, status, "%s", text);
}

nw_status nw_call_require(const nw_op_call *call, int i, const nw_tensor **t) {
    *t = nw_call_in(call, i);
    return *t ? NW_OK : nw_call_fail(call, NW_E_FORMAT, "input %d is missing", i);
}

nw_status nw_call_value(const nw_op_call *call, int i, const nw_tensor **t) {
    NW_TRY(nw_call_require(call, i, t));
    if ((*t)->data || nw_tensor_count(*t) == 0) return NW_OK;
    return nw_call_fail(call, NW_E_NEED_VALUE, "its output shape depends on the value of input %d", i);
}

nw_status nw_call_ints(const nw_op_call *call, int i, const int64_t **values, size_t *count) {
    *values = NULL;
    *count = 0;
    const nw_tensor *t = nw_call_in(call, i);
    if (!t) return NW_OK;
    NW_TRY(nw_call_value(call, i, &t));
    if (!nw_format_is_integer(t->format))
        return nw_call_fail(call, NW_E_TYPE, "input %d must hold integers, it holds %s", i,
                            nw_format_name(t->format));
    if (t->rank > 1)
        return nw_call_fail(call, NW_E_SHAPE, "input %d must have one dimension, it has %d", i, t->rank);
    int64_t *list = NULL;
    *count = nw_tensor_count(t);
    NW_TRY(nw_call_scratch(call, *count, &list));
    for (size_t k = 0; k < *count; k++) list[k] = nw_tensor_s64(t, k);
    *values = list;
    return NW_OK;
}

nw_status nw_call_axis(const nw_op_call *call, int64_t axis, int rank, bool inclusive, int *out) {
    int64_t top = inclusive ? (int64_t)rank + 1 : rank, at = axis < 0 ? axis + top : axis;
    if (at < 0 || at >= top)
        return nw_call_fail(call, NW_E_SHAPE, "axis %" PRId64 " is outside of a tensor of %d dimensions",
                            axis, rank);
    *out = (int)at;
    return NW_OK;
}

nw_status nw_call_set(nw_op_call *call, int i, nw_format format, int rank, const int64_t *dims) {
    if (i >= call->out_count) return NW_OK;
    if (rank > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED,
                            "its output would have %d dimensions; at most %d are supported", rank,
                            NW_MAX_RANK);
    call->out[i] = (nw_tensor){.format = format};
    nw_tensor_set_shape(&call->out[i], rank, dims);
    return NW_OK;
}

nw_status nw_call_set_like(nw_op_call *call, int i, const nw_tensor *t) {
    return nw_call_set(call, i, t->qparam ? NW_F32 : t->format, t->rank, t->dims);
}

nw_status nw_call_expect_float(const nw_op_call *call, const nw_tensor *t) {
    if (nw_format_is_float(t->format) || t->qparam) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "expects floating-point numbers, got %s", nw_format_name(t->format));
}

nw_status nw_call_broadcast(const nw_op_call *call, const nw_tensor *const *in, int count, nw_tensor *out) {
    int rank = 0;
    for (int i = 0; i < count; i++)
        if (in[i]->rank > rank) rank = in[i]->rank;
    out->rank = rank;
    for (int d = 0; d < rank; d++) {
        int64_t size = 1;
        for (int i = 0; i < count; i++) {
            int at = d - (rank - in[i]->rank);
            int64_t dim = at < 0 ? 1 : in[i]->dims[at];
            if (dim == 1 || dim == size) continue;
            if (size != 1) {
                char a[96], b[96];
                return nw_call_fail(call, NW_E_SHAPE, "shapes %s and %s do not broadcast",
                                    nw_tensor_describe(in[0], a, sizeof a),
                                    nw_tensor_describe(in[i], b, sizeof b));
            }
            size = dim;
        }
        out->dims[d] = size;
    }
    return NW_OK;
}

void nw_broadcast_strides(const nw_tensor *t, const nw_tensor *out, int64_t *strides) {
    int64_t step = 1;
    int shift = out->rank - t->rank;
    for (int d = out->rank - 1; d >= 0; d--) {
        int64_t dim = d < shift ? 1 : t->dims[d - shift];
        strides[d] = dim == 1 ? 0 : step;
        step *= dim;
    }
}

bool nw_next_index(int rank, const int64_t *dims, int64_t *index, int n, const int64_t *const *strides,
                   int64_t *offsets) {
    for (int d = rank - 1; d >= 0; d--) {
        for (int i = 0; i < n; i++) offsets[i] += strides[i][d];
        if (++index[d] < dims[d]) return true;
        for (int i = 0; i < n; i++) offsets[i] -= strides[i][d] * dims[d];
        index[d] = 0;
    }
    return false;
}

nw_status nw_call_scratch_bytes(const nw_op_call *call, size_t count, size_t size, void **out) {
    size_t total;
    if (!nw_mul_size(count, size, &total)) return nw_call_fail(call, NW_E_MEMORY, "out of memory");
    *out = nw_arena_data(call->scratch, total);
    return *out ? NW_OK : NW_E_MEMORY;
}
