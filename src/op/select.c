/* select.c: operators that order elements: TopK, ArgMax, ArgMin, Unique. */
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

static nw_status expect_ordered(const nw_op_call *call, const nw_tensor *x) {
    nw_kind kind = nw_format_kind(nw_real_format(x));
    if (kind != NW_KIND_STRING && kind != NW_KIND_COMPLEX) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "cannot order %s elements", nw_format_name(x->format));
}

/* ---- TopK ---------------------------------------------------------------------------------------------- */

static nw_status top_k_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    int64_t k;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(expect_ordered(call, x));
    NW_TRY(nw_call_axis_attr(call, -1, x->rank, &axis));
    NW_TRY(nw_call_int(call, 1, nw_node_int(call->node, "k", -1), &k));
    if (k < 0 || k > x->dims[axis])
        return nw_call_fail(call, NW_E_ARGUMENT,
                            "k must be between 0 and the axis' %" PRId64 " elements, it is %" PRId64,
                            x->dims[axis], k);
    nw_tensor out = *x;
    out.dims[axis] = k;
    NW_TRY(nw_call_set_moved(call, 0, x, out.rank, out.dims));
    return nw_call_set(call, 1, NW_S64, out.rank, out.dims);
}

/* a is to be listed after b: its key is smaller, or it comes later among equals. */
static bool after(const uint64_t *keys, size_t a, size_t b) {
    return keys[a] != keys[b] ? keys[a] < keys[b] : a > b;
}

/* Restores the heap whose root is the element listed last, after heap[at] changed. */
static void sift(const uint64_t *keys, size_t *heap, size_t count, size_t at) {
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && after(keys, heap[child + 1], heap[child])) child++;
        if (!after(keys, heap[child], heap[at])) return;
        size_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* best[0 … k) = the k largest of n keys, largest first: a heap of the best so far, n·log k. */
static void top_of_line(const uint64_t *keys, size_t n, size_t k, size_t *best) {
    for (size_t i = 0; i < k; i++) best[i] = i;
    for (size_t i = k / 2; i-- > 0;) sift(keys, best, k, i);
    for (size_t i = k; i < n && k > 0; i++) {
        if (!after(keys, best[0], i)) continue;
        best[0] = i;
        sift(keys, best, k, 0);
    }
    for (size_t left = k; left > 1;) { /* the last of those left goes to their end */
        size_t last = best[0];
        best[0] = best[--left];
        best[left] = last;
        sift(keys, best, left, 0);
    }
}

static nw_status top_k_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *values = &call->out[0], *indices = call->out_count > 1 ? &call->out[1] : NULL;
    bool largest = nw_node_int(call->node, "largest", 1) != 0;
    int axis;
    size_t size, *best;
    uint64_t *keys;
    NW_TRY(nw_call_axis_attr(call, -1, x->rank, &axis));
    NW_TRY(nw_call_element_size(call, x->format, &size));
    if (nw_tensor_count(x) == 0) return NW_OK;
    nw_axis_span span = nw_axis_span_of(x, axis);
    size_t k = (size_t)values->dims[axis];
    NW_TRY(nw_call_scratch(call, span.length, &keys));
    NW_TRY(nw_call_scratch(call, k, &best));
    for (size_t line = 0; line < span.outer * span.inner; line++) {
        size_t o = line / span.inner, in = o * span.length * span.inner + line % span.inner;
        nw_order_keys(x->format, x->data, in, span.inner, span.length, keys);
        for (size_t i = 0; i < span.length && !largest; i++) keys[i] = ~keys[i];
        top_of_line(keys, span.length, k, best);
        for (size_t i = 0; i < k; i++) {
            size_t to = (o * k + i) * span.inner + line % span.inner;
            if (values->data) nw_copy_element(size, values->data, to, x->data, in + best[i] * span.inner);
            if (indices && indices->data) ((int64_t *)indices->data)[to] = (int64_t)best[i];
        }
    }
    return NW_OK;
}

const nw_op nw_op_TopK = {.name = "TopK", .domain = "", .infer = top_k_infer, .eval = top_k_eval};

/* ---- ArgMax, ArgMin ------------------------------------------------------------------------------------ */

static nw_status arg_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis, rank = 0;
    int64_t dims[NW_MAX_RANK];
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(expect_ordered(call, x));
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    if (x->dims[axis] == 0) return nw_call_fail(call, NW_E_SHAPE, "axis %d has no elements", axis);
    bool keep = nw_node_int(call->node, "keepdims", 1) != 0;
    for (int d = 0; d < x->rank; d++)
        if (d != axis || keep) dims[rank++] = d == axis ? 1 : x->dims[d];
    return nw_call_set(call, 0, NW_S64, rank, dims);
}

/* Lines of neighbours along the inner axes are searched side by side. */
static nw_status arg_eval(nw_op_call *call, bool largest) {
    const nw_tensor *x = call->in[0];
    bool last = nw_node_int(call->node, "select_last_index", 0) != 0;
    int axis;
    uint64_t *keys, *best;
    NW_TRY(nw_call_axis_attr(call, 0, x->rank, &axis));
    if (nw_tensor_count(x) == 0) return NW_OK;
    nw_axis_span span = nw_axis_span_of(x, axis);
    NW_TRY(nw_call_scratch(call, span.inner, &keys));
    NW_TRY(nw_call_scratch(call, span.inner, &best));
    for (size_t o = 0; o < span.outer; o++) {
        int64_t *out = (int64_t *)call->out[0].data + o * span.inner;
        for (size_t r = 0; r < span.length; r++) {
            nw_order_keys(x->format, x->data, (o * span.length + r) * span.inner, 1, span.inner, keys);
            for (size_t i = 0; i < span.inner; i++) {
                uint64_t key = largest ? keys[i] : ~keys[i];
                if (r != 0 && !(key > best[i] || (last && key == best[i]))) continue;
                best[i] = key;
                out[i] = (int64_t)r;
            }
        }
    }
    return NW_OK;
}

static nw_status arg_max_eval(nw_op_call *call) {
    return arg_eval(call, true);
}
static nw_status arg_min_eval(nw_op_call *call) {
    return arg_eval(call, false);
}

const nw_op nw_op_ArgMax = {.name = "ArgMax", .domain = "", .infer = arg_infer, .eval = arg_max_eval};
const nw_op nw_op_ArgMin = {.name = "ArgMin", .domain = "", .infer = arg_infer, .eval = arg_min_eval};

/* ---- Unique -------------------------------------------------------------------------------------------- */

/* The distinct slices of a tensor: slice s is keys[s·width … +width). */
typedef struct distinct {
    size_t slices, width, found;
    uint64_t *keys;
    size_t *first;   /* [found] slice that is the first of its kind, in output order */
    size_t *inverse; /* [slices] which of the found it is */
    size_t *counts;  /* [found] */
} distinct;

static int compare_slices(const distinct *d, size_t a, size_t b) {
    for (size_t i = 0; i < d->width; i++) {
        uint64_t x = d->keys[a * d->width + i], y = d->keys[b * d->width + i];
        if (x != y) return x < y ? -1 : 1;
    }
    return 0;
}

static bool less_slice(const void *user, size_t a, size_t b) {
    return compare_slices(user, a, b) < 0;
}

static bool less_first(const void *user, size_t a, size_t b) {
    const size_t *first = user;
    return first[a] < first[b];
}

/* Groups in order of first occurrence instead of value. */
static nw_status order_by_occurrence(const nw_op_call *call, distinct *d) {
    size_t *order, *room, *rank, *first, *counts;
    NW_TRY(nw_call_scratch(call, d->found, &order));
    NW_TRY(nw_call_scratch(call, d->found, &room));
    NW_TRY(nw_call_scratch(call, d->found, &rank));
    NW_TRY(nw_call_scratch(call, d->found, &first));
    NW_TRY(nw_call_scratch(call, d->found, &counts));
    nw_sort_order(d->found, less_first, d->first, order, room);
    for (size_t i = 0; i < d->found; i++) {
        rank[order[i]] = i;
        first[i] = d->first[order[i]];
        counts[i] = d->counts[order[i]];
    }
    for (size_t s = 0; s < d->slices; s++) d->inverse[s] = rank[d->inverse[s]];
    d->first = first;
    d->counts = counts;
    return NW_OK;
}

static nw_status find_distinct(const nw_op_call *call, const nw_tensor *x, nw_axis_span span, distinct *d) {
    size_t *order, *room;
    d->slices = span.length;
    d->width = span.outer * span.inner;
    d->found = 0;
    NW_TRY(nw_call_scratch(call, span.length * d->width, &d->keys));
    NW_TRY(nw_call_scratch(call, d->slices, &order));
    NW_TRY(nw_call_scratch(call, d->slices, &room));
    NW_TRY(nw_call_scratch(call, d->slices, &d->first));
    NW_TRY(nw_call_scratch(call, d->slices, &d->inverse));
    NW_TRY(nw_call_scratch(call, d->slices, &d->counts));
    for (size_t s = 0; s < d->slices; s++)
        for (size_t o = 0; o < span.outer; o++)
            nw_order_keys(x->format, x->data, (o * span.length + s) * span.inner, 1, span.inner,
                          d->keys + s * d->width + o * span.inner);
    nw_sort_order(d->slices, less_slice, d, order, room);
    for (size_t i = 0; i < d->slices; i++) {
        if (i == 0 || compare_slices(d, order[i - 1], order[i]) != 0) {
            d->first[d->found] = order[i]; /* the sort is stable */
            d->counts[d->found++] = 0;
        }
        d->counts[d->found - 1]++;
        d->inverse[order[i]] = d->found - 1;
    }
    return nw_node_int(call->node, "sorted", 1) ? NW_OK : order_by_occurrence(call, d);
}

static nw_status unique_infer(nw_op_call *call) {
    const nw_tensor *x;
    int axis;
    nw_axis_span span;
    distinct d;
    NW_TRY(nw_call_real(call, 0, &x));
    NW_TRY(expect_ordered(call, x));
    NW_TRY(nw_call_axis_or_flat(call, x, &axis, &span));
    NW_TRY(find_distinct(call, x, span, &d));
    nw_tensor out = *x;
    if (axis < 0) out.rank = 1;
    int64_t found = (int64_t)d.found, slices = (int64_t)d.slices;
    out.dims[axis < 0 ? 0 : axis] = found;
    NW_TRY(nw_call_set_moved(call, 0, x, out.rank, out.dims));
    NW_TRY(nw_call_set(call, 1, NW_S64, 1, &found));
    NW_TRY(nw_call_set(call, 2, NW_S64, 1, &slices));
    return nw_call_set(call, 3, NW_S64, 1, &found);
}

static void write_list(nw_op_call *call, int i, const size_t *values, size_t count) {
    if (i >= call->out_count || !call->out[i].data) return;
    for (size_t k = 0; k < count; k++) ((int64_t *)call->out[i].data)[k] = (int64_t)values[k];
}

static nw_status unique_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    int axis;
    size_t size;
    nw_axis_span span;
    distinct d;
    NW_TRY(nw_call_axis_or_flat(call, x, &axis, &span));
    NW_TRY(find_distinct(call, x, span, &d));
    NW_TRY(nw_call_element_size(call, x->format, &size));
    size_t run = span.inner * size;
    bool wanted = call->out[0].data && nw_tensor_count(&call->out[0]) > 0;
    for (size_t o = 0; o < span.outer && wanted; o++)
        for (size_t i = 0; i < d.found; i++)
            memcpy((char *)call->out[0].data + (o * d.found + i) * run,
                   (const char *)x->data + (o * span.length + d.first[i]) * run, run);
    write_list(call, 1, d.first, d.found);
    write_list(call, 2, d.inverse, d.slices);
    write_list(call, 3, d.counts, d.found);
    return NW_OK;
}

const nw_op nw_op_Unique = {.name = "Unique", .domain = "", .infer = unique_infer, .eval = unique_eval};
