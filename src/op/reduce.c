/* reduce.c: the Reduce family: Sum, Mean, Max, Min, Prod, L1, L2, LogSum, LogSumExp, SumSquare. */
#include "op/grad.h"
#include "op/index.h"
#include "op/move.h"

#include <math.h>

typedef enum reduction { SUM, MEAN, MAX, MIN, PROD, L1, L2, LOG_SUM, LOG_SUM_EXP, SUM_SQUARE } reduction;

/* ---- shapes -------------------------------------------------------------------------------------------- */

/* Which axes go. No list, or an empty one: all, or with noop_with_empty_axes none. */
static nw_status read_axes(const nw_op_call *call, const nw_tensor *x, bool *gone) {
    nw_axes axes;
    NW_TRY(nw_call_axes(call, 1, x->rank, &axes));
    bool all = axes.count == 0 && nw_node_int(call->node, "noop_with_empty_axes", 0) == 0;
    for (int d = 0; d < x->rank; d++) gone[d] = all;
    for (int i = 0; i < axes.count; i++) gone[axes.at[i]] = true;
    return NW_OK;
}

static nw_status reduce_infer(nw_op_call *call, reduction op) {
    const nw_tensor *x;
    bool gone[NW_MAX_RANK];
    int64_t dims[NW_MAX_RANK];
    int rank = 0;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(read_axes(call, x, gone));
    nw_format format = nw_real_format(x);
    bool ordered = format == NW_BOOL && (op == MAX || op == MIN);
    if (!nw_format_is_float(format) && !nw_format_is_integer(format) && !ordered)
        return nw_call_fail(call, NW_E_TYPE, "cannot reduce %s elements", nw_format_name(format));
    bool keep = nw_node_int(call->node, "keepdims", 1) != 0;
    for (int d = 0; d < x->rank; d++)
        if (!gone[d] || keep) dims[rank++] = gone[d] ? 1 : x->dims[d];
    return nw_call_set_moved(call, 0, x, rank, dims);
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

#define LANES 32 /* results side by side: few enough for registers, too many for the compiler to unroll */
#define BLOCK                                                                                                \
    512 /* elements summed in f32 before a double takes over: the error stays that of 16 additions */

/* What is added up for x. */
static inline float term_of(reduction op, float x) {
    if (op == L1) return fabsf(x);
    if (op == L2 || op == SUM_SQUARE) return x * x;
    return x;
}

/* Larger or smaller of two; NaN wins. */
static inline float extreme_of(bool max, float a, float b) {
    if (max) return ((b > a) | (b != b)) ? b : a;
    return ((b < a) | (b != b)) ? b : a;
}

static inline __attribute__((always_inline)) double sum_line(reduction op, const float *x, size_t n) {
    double total = 0;
    size_t i = 0;
    while (n - i >= LANES) {
        float lane[LANES] = {0};
        size_t end = n - i > BLOCK ? i + BLOCK : i + (n - i) / LANES * LANES;
        for (; i < end; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += term_of(op, x[i + (size_t)l]);
        for (int l = 0; l < LANES; l++) total += (double)lane[l];
    }
    for (; i < n; i++) total += (double)term_of(op, x[i]);
    return total;
}

static inline __attribute__((always_inline)) float extreme_line(bool max, const float *x, size_t n) {
    float best = max ? -INFINITY : INFINITY, lane[LANES];
    size_t i = 0;
    for (int l = 0; l < LANES; l++) lane[l] = best;
    for (; n - i >= LANES; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = extreme_of(max, lane[l], x[i + (size_t)l]);
    for (int l = 0; l < LANES; l++) best = extreme_of(max, best, lane[l]);
    for (; i < n; i++) best = extreme_of(max, best, x[i]);
    return best;
}

/* log Σ exp x = m + log Σ exp(x − m), m the maximum: nothing overflows. */
static double log_sum_exp_line(const float *x, size_t n) {
    float m = extreme_line(true, x, n);
    double sum = 0;
    if (!isfinite(m)) return m;
    for (size_t i = 0; i < n; i++) sum += (double)expf(x[i] - m);
    return (double)m + log(sum);
}

/* What the sum of n terms becomes in the end. */
static double finish(reduction op, double sum, size_t n) {
    switch (op) {
    case MEAN: return sum / (double)n;
    case L2: return sqrt(sum);
    case LOG_SUM: return log(sum);
    default: return sum;
    }
}

/* One line of n neighbours. */
static float reduce_line(reduction op, const float *x, size_t n) {
    double product = 1;
    switch (op) {
    case MAX: return extreme_line(true, x, n);
    case MIN: return extreme_line(false, x, n);
    case PROD:
        for (size_t i = 0; i < n; i++) product *= (double)x[i];
        return (float)product;
    case LOG_SUM_EXP: return (float)log_sum_exp_line(x, n);
    case L1: return (float)sum_line(L1, x, n);
    case L2:
    case SUM_SQUARE: return (float)finish(op, sum_line(SUM_SQUARE, x, n), n);
    default: return (float)finish(op, sum_line(SUM, x, n), n);
    }
}

#define STRIP 256 /* columns reduced side by side */

/* x [n, inner], columns [0, width) of it, width ≤ STRIP: out[i] = reduction of column i. */
static void reduce_columns(reduction op, const float *x, size_t n, size_t inner, size_t width, float *out) {
    double sum[STRIP];
    if (op == MAX || op == MIN || op == LOG_SUM_EXP) {
        for (size_t i = 0; i < width; i++) out[i] = op == MIN ? INFINITY : -INFINITY;
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < width; i++) out[i] = extreme_of(op != MIN, out[i], x[r * inner + i]);
        if (op != LOG_SUM_EXP) return;
    }
    for (size_t i = 0; i < width; i++) sum[i] = op == PROD;
    for (size_t r = 0; r < n; r++, x += inner) {
        if (op == PROD)
            for (size_t i = 0; i < width; i++) sum[i] *= (double)x[i];
        else if (op == LOG_SUM_EXP)
            for (size_t i = 0; i < width; i++) sum[i] += isfinite(out[i]) ? (double)expf(x[i] - out[i]) : 1.0;
        else if (op == L1)
            for (size_t i = 0; i < width; i++) sum[i] += fabs((double)x[i]);
        else if (op == L2 || op == SUM_SQUARE)
            for (size_t i = 0; i < width; i++) sum[i] += (double)x[i] * (double)x[i];
        else
            for (size_t i = 0; i < width; i++) sum[i] += (double)x[i];
    }
    for (size_t i = 0; i < width; i++)
        out[i] = (float)(op == LOG_SUM_EXP ? (double)out[i] + log(sum[i]) : finish(op, sum[i], n));
}

static void reduce_f32(reduction op, const float *x, nw_axis_span s, float *out) {
    for (size_t o = 0; o < s.outer; o++, x += s.length * s.inner)
        if (s.inner == 1)
            out[o] = reduce_line(op, x, s.length);
        else
            for (size_t i = 0; i < s.inner; i += STRIP)
                reduce_columns(op, x + i, s.length, s.inner, s.inner - i < STRIP ? s.inner - i : STRIP,
                               out + o * s.inner + i);
}

/* ---- other types: lines only --------------------------------------------------------------------------- */

static double reduce_f64(reduction op, nw_format format, const void *x, size_t first, size_t n) {
    double sum = op == PROD, best = op == MAX ? -INFINITY : INFINITY;
    for (size_t i = first; i < first + n; i++) {
        double v = nw_load_f64(format, x, i);
        if (op == MAX || op == LOG_SUM_EXP ? v > best || v != v || i == first : v < best || v != v) best = v;
        if (op == PROD)
            sum *= v;
        else
            sum += op == L1 ? fabs(v) : op == L2 || op == SUM_SQUARE ? v * v : v;
    }
    if (op == MAX || op == MIN) return best;
    if (op != LOG_SUM_EXP) return finish(op, sum, n);
    if (n == 0 || !isfinite(best)) return n == 0 ? -INFINITY : best;
    sum = 0;
    for (size_t i = first; i < first + n; i++) sum += exp(nw_load_f64(format, x, i) - best);
    return best + log(sum);
}

/* Integers: sums wrap as the type does; a mean and a root are truncated, as casting the real result gives. */
static void reduce_s64(reduction op, const nw_tensor *x, size_t first, size_t n, nw_tensor *out, size_t at) {
    bool is_u64 = x->format == NW_U64;
    uint64_t sum = op == PROD, flip = is_u64 ? 0 : (uint64_t)1 << 63;
    uint64_t lowest = is_u64 ? 0 : (uint64_t)nw_format_min(x->format);
    uint64_t highest = is_u64 ? UINT64_MAX : (uint64_t)nw_format_max(x->format);
    uint64_t best = op == MAX ? lowest : highest;
    if (op == LOG_SUM || op == LOG_SUM_EXP) {
        nw_store_f64(out->format, out->data, at, trunc(reduce_f64(op, x->format, x->data, first, n)));
        return;
    }
    for (size_t i = first; i < first + n; i++) {
        uint64_t v = (uint64_t)nw_load_s64(x->format, x->data, i);
        if (op == MAX ? (v ^ flip) > (best ^ flip) : (v ^ flip) < (best ^ flip)) best = v;
        if (op == PROD)
            sum *= v;
        else
            sum += op == L1 && !is_u64 && v >> 63 ? -v : op == L2 || op == SUM_SQUARE ? v * v : v;
    }
    if (op == MAX || op == MIN)
        sum = best;
    else if (op == L2)
        sum = (uint64_t)sqrt((double)sum);
    else if (op == MEAN && n == 0)
        sum = 0;
    else if (op == MEAN)
        sum = is_u64 ? sum / n : (uint64_t)((int64_t)sum / (int64_t)n);
    nw_store_s64(out->format, out->data, at, (int64_t)sum);
}

static void reduce_other(reduction op, const nw_tensor *x, size_t lines, size_t n, nw_tensor *out) {
    for (size_t i = 0; i < lines; i++)
        if (nw_format_is_float(x->format))
            nw_store_f64(out->format, out->data, i, reduce_f64(op, x->format, x->data, i * n, n));
        else
            reduce_s64(op, x, i * n, n, out, i);
}

/* ---- putting it together ------------------------------------------------------------------------------- */

/* The axes that go, as one axis with what stays around it; false when they are not neighbours (axes of size 1
 * aside). */
static bool single_span(const nw_tensor *x, const bool *gone, nw_axis_span *span) {
    *span = (nw_axis_span){1, 1, 1};
    bool inside = false;
    for (int d = 0; d < x->rank; d++) {
        size_t dim = (size_t)x->dims[d];
        if (dim == 1) continue;
        if (gone[d] && span->inner != 1) return false;
        if (gone[d])
            span->length *= dim;
        else if (inside)
            span->inner *= dim;
        else
            span->outer *= dim;
        inside = inside || gone[d];
    }
    return true;
}

/* x as [what stays, what goes] in scratch. */
static nw_status gather_lines(const nw_op_call *call, const nw_tensor *x, const bool *gone, nw_tensor *lines,
                              nw_axis_span *span) {
    int64_t from[NW_MAX_RANK];
    nw_move move = {.rank = 0};
    size_t size;
    *span = (nw_axis_span){1, 1, 1};
    nw_dims_strides(x->rank, x->dims, from);
    for (int pass = 0; pass < 2; pass++)
        for (int d = 0; d < x->rank; d++) {
            if (gone[d] != (pass == 1)) continue;
            nw_move_add(&move, x->dims[d], from[d], 0);
            *(pass ? &span->length : &span->outer) *= (size_t)x->dims[d];
        }
    nw_dims_strides(move.rank, move.dims, move.to);
    NW_TRY(nw_call_element_size(call, x->format, &size));
    *lines = *x;
    NW_TRY(nw_call_scratch_bytes(call, nw_tensor_count(x), size, &lines->data));
    nw_move_run(&move, size, x->data, lines->data);
    return NW_OK;
}

static nw_status reduce_eval(nw_op_call *call, reduction op) {
    const nw_tensor *in = call->in[0];
    nw_tensor x = *in, *out = &call->out[0];
    bool gone[NW_MAX_RANK];
    nw_axis_span span;
    NW_TRY(read_axes(call, in, gone));
    if (nw_tensor_count(out) == 0) return NW_OK;
    bool f32 = x.format == NW_F32;
    if (!single_span(in, gone, &span) || (!f32 && span.inner != 1))
        NW_TRY(gather_lines(call, in, gone, &x, &span));
    if (span.length == 0) { /* nothing to read: every result is that of an empty line */
        span = (nw_axis_span){nw_tensor_count(out), 0, 1};
        x.data = out->data;
    }
    if (f32)
        reduce_f32(op, x.data, span, out->data);
    else
        reduce_other(op, &x, span.outer, span.length, out);
    return NW_OK;
}

static nw_status sum_infer(nw_op_call *call) {
    return reduce_infer(call, SUM);
}
static nw_status max_infer(nw_op_call *call) {
    return reduce_infer(call, MAX);
}

static nw_status sum_eval(nw_op_call *call) {
    return reduce_eval(call, SUM);
}
static nw_status mean_eval(nw_op_call *call) {
    return reduce_eval(call, MEAN);
}
static nw_status max_eval(nw_op_call *call) {
    return reduce_eval(call, MAX);
}
static nw_status min_eval(nw_op_call *call) {
    return reduce_eval(call, MIN);
}
static nw_status prod_eval(nw_op_call *call) {
    return reduce_eval(call, PROD);
}
static nw_status l1_eval(nw_op_call *call) {
    return reduce_eval(call, L1);
}
static nw_status l2_eval(nw_op_call *call) {
    return reduce_eval(call, L2);
}
static nw_status log_sum_eval(nw_op_call *call) {
    return reduce_eval(call, LOG_SUM);
}
static nw_status log_sum_exp_eval(nw_op_call *call) {
    return reduce_eval(call, LOG_SUM_EXP);
}
static nw_status sum_square_eval(nw_op_call *call) {
    return reduce_eval(call, SUM_SQUARE);
}

static void mean_roles(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* dx for a sum over `count` elements that gave y:
 *   Sum: dy; Mean: dy/count; L1: dy·sign x; L2: dy·x/y; SumSquare: 2·dy·x; LogSum: dy/eʸ;
 *   LogSumExp: dy·e^(x − y); Prod: dy·y/x (x ≠ 0); Max, Min: dy in equal shares where x = y. */
static int reduced_grad(nw_grad_call *c, reduction op, int x, int y, int dy, const bool *gone, double count) {
    switch (op) {
    case SUM: return dy;
    case MEAN: return nw_grad_scale(c, dy, 1 / count);
    case MAX:
    case MIN: return nw_grad_extreme(c, x, y, dy, gone);
    case PROD: return nw_grad_op2(c, "Div", nw_grad_op2(c, "Mul", dy, y), x);
    case L1: return nw_grad_op2(c, "Mul", dy, nw_grad_op1(c, "Sign", x));
    case L2: return nw_grad_op2(c, "Mul", nw_grad_op2(c, "Div", dy, y), x);
    case LOG_SUM: return nw_grad_op2(c, "Div", dy, nw_grad_op1(c, "Exp", y));
    case LOG_SUM_EXP: return nw_grad_op2(c, "Mul", dy, nw_grad_op1(c, "Exp", nw_grad_op2(c, "Sub", x, y)));
    case SUM_SQUARE: return nw_grad_op2(c, "Mul", nw_grad_scale(c, dy, 2), x);
    }
    return NW_ABSENT;
}

static nw_status reduce_grad(nw_grad_call *c, reduction op) {
    const nw_op_call *call = nw_grad_forward(c);
    bool gone[NW_MAX_RANK];
    if (!call) return c->status;
    const nw_tensor *x = call->in[0];
    nw_tensor kept = *x;
    NW_TRY(read_axes(call, x, gone));
    for (int d = 0; d < x->rank; d++)
        if (gone[d]) kept.dims[d] = 1;
    double count = (double)nw_tensor_count(x) / (double)nw_tensor_count(&kept);
    int y = nw_grad_reshape(c, nw_grad_out(c, 0), kept.rank, kept.dims);
    int dy = nw_grad_reshape(c, c->dy[0], kept.rank, kept.dims);
    int dx = reduced_grad(c, op, nw_grad_in(c, 0), y, dy, gone, count);
    c->dx[0] = nw_grad_expand(c, dx, x->rank, x->dims);
    return c->status;
}

static nw_status sum_grad(nw_grad_call *c) {
    return reduce_grad(c, SUM);
}
static nw_status mean_grad(nw_grad_call *c) {
    return reduce_grad(c, MEAN);
}
static nw_status max_grad(nw_grad_call *c) {
    return reduce_grad(c, MAX);
}
static nw_status prod_grad(nw_grad_call *c) {
    return reduce_grad(c, PROD);
}
static nw_status l1_grad(nw_grad_call *c) {
    return reduce_grad(c, L1);
}
static nw_status l2_grad(nw_grad_call *c) {
    return reduce_grad(c, L2);
}
static nw_status log_sum_grad(nw_grad_call *c) {
    return reduce_grad(c, LOG_SUM);
}
static nw_status log_sum_exp_grad(nw_grad_call *c) {
    return reduce_grad(c, LOG_SUM_EXP);
}
static nw_status sum_square_grad(nw_grad_call *c) {
    return reduce_grad(c, SUM_SQUARE);
}

const nw_op nw_op_ReduceSum = {
    .name = "ReduceSum", .domain = "", .infer = sum_infer, .eval = sum_eval, .grad = sum_grad};
const nw_op nw_op_ReduceMean = {.name = "ReduceMean",
                                .domain = "",
                                .infer = sum_infer,
                                .eval = mean_eval,
                                .roles = mean_roles,
                                .grad = mean_grad};
const nw_op nw_op_ReduceMax = {.name = "ReduceMax",
                               .domain = "",
                               .infer = max_infer,
                               .eval = max_eval,
                               .roles = nw_roles_moved,
                               .grad = max_grad};
const nw_op nw_op_ReduceMin = {.name = "ReduceMin",
                               .domain = "",
                               .infer = max_infer,
                               .eval = min_eval,
                               .roles = nw_roles_moved,
                               .grad = max_grad};
const nw_op nw_op_ReduceProd = {
    .name = "ReduceProd", .domain = "", .infer = sum_infer, .eval = prod_eval, .grad = prod_grad};
const nw_op nw_op_ReduceL1 = {
    .name = "ReduceL1", .domain = "", .infer = sum_infer, .eval = l1_eval, .grad = l1_grad};
const nw_op nw_op_ReduceL2 = {
    .name = "ReduceL2", .domain = "", .infer = sum_infer, .eval = l2_eval, .grad = l2_grad};
const nw_op nw_op_ReduceLogSum = {
    .name = "ReduceLogSum", .domain = "", .infer = sum_infer, .eval = log_sum_eval, .grad = log_sum_grad};
const nw_op nw_op_ReduceLogSumExp = {.name = "ReduceLogSumExp",
                                     .domain = "",
                                     .infer = sum_infer,
                                     .eval = log_sum_exp_eval,
                                     .grad = log_sum_exp_grad};
const nw_op nw_op_ReduceSumSquare = {.name = "ReduceSumSquare",
                                     .domain = "",
                                     .infer = sum_infer,
                                     .eval = sum_square_eval,
                                     .grad = sum_square_grad};
