/* gridsample.c: GridSample and AffineGrid: sampling of an image at positions that a grid gives. */
#include "op/real.h"

#include <math.h>

/* ---- GridSample: X [N, C, D1 … Dr], grid [N, O1 … Or, r], r from 1 to 3
 * ------------------------------------------- */

enum { NEAREST, LINEAR, CUBIC };
enum { ZEROS, BORDER, REFLECTION };

typedef struct sampler {
    int spatial, mode, padding;
    bool align_corners;
    int64_t in[3]; /* depth, height, width; leading ones of fewer dimensions are 1 */
} sampler;

static nw_status sampler_of(const nw_op_call *call, sampler *s) {
    static const char *const old_modes[] = {"bilinear", "nearest", "bicubic", NULL};
    static const char *const modes[] = {"linear", "nearest", "cubic", NULL};
    static const char *const paddings[] = {"zeros", "border", "reflection", NULL};
    static const int mode_of[] = {LINEAR, NEAREST, CUBIC};
    const nw_tensor *x, *grid;
    int mode;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &grid));
    if (!nw_format_is_integer(nw_real_format(x))) NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_expect_rank(call, x, "X", 3, 5));
    *s = (sampler){.spatial = x->rank - 2, .align_corners = nw_node_int(call->node, "align_corners", 0) != 0};
    NW_TRY(nw_call_word_attr(call, "mode", call->version < 20 ? old_modes : modes, &mode));
    NW_TRY(nw_call_word_attr(call, "padding_mode", paddings, &s->padding));
    s->mode = mode_of[mode];
    for (int a = 0; a < 3; a++) s->in[a] = a < 3 - s->spatial ? 1 : x->dims[a + x->rank - 3];
    NW_TRY(nw_call_expect_rank(call, grid, "grid", x->rank, x->rank));
    if (grid->dims[0] != x->dims[0] || grid->dims[grid->rank - 1] != s->spatial)
        return nw_call_fail(call, NW_E_SHAPE, "grid must have X's batch size and %d coordinates per position",
                            s->spatial);
    return NW_OK;
}

static nw_status grid_sample_infer(nw_op_call *call) {
    sampler s;
    NW_TRY(sampler_of(call, &s));
    const nw_tensor *x = call->in[0], *grid = call->in[1];
    int64_t dims[NW_MAX_RANK] = {x->dims[0], x->dims[1]}, cells = s.in[0] * s.in[1] * s.in[2];
    for (int d = 2; d < x->rank; d++) dims[d] = grid->dims[d - 1];
    NW_TRY(nw_call_set(call, 0, nw_real_format(x), x->rank, dims));
    if (cells == 0 && nw_tensor_count(&call->out[0]) > 0)
        return nw_call_fail(call, NW_E_SHAPE, "X has no pixels to sample from");
    return NW_OK;
}

/* Folds x back into [low, high] at the borders. */
static double reflect(double x, double low, double high) {
    double range = high - low, past = x < low ? low - x : x > high ? x - high : 0;
    if (range <= 0) return low;
    if (past == 0) return x;
    double times = floor(past / range), rest = past - times * range;
    bool from_near = fmod(times, 2) == 0;
    return (x < low) == from_near ? low + rest : high - rest;
}

/* Up to four taps on one axis; index −1 reads 0. */
typedef struct axis_taps {
    int count;
    int64_t index[4];
    double weight[4];
} axis_taps;

static int64_t pixel_index(const sampler *s, int64_t i, int64_t length, double low, double high) {
    if (i >= 0 && i < length) return i;
    if (s->padding == ZEROS) return -1;
    if (s->padding == REFLECTION) i = (int64_t)reflect((double)i, low, high);
    return i < 0 ? 0 : i >= length ? length - 1 : i;
}

/* The cubic convolution of Keys (1981), a = −0.75. */
static double cubic(double x) {
    const double a = -0.75;
    x = fabs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/* Taps for a grid number n in [−1, 1] (or beyond) on an axis of `length` pixels. */
static axis_taps taps_of(const sampler *s, double n, int64_t length) {
    const double far = 1e9;
    double low = s->align_corners ? 0 : -0.5, high = (double)length - (s->align_corners ? 1 : 0.5);
    double size = (double)length, x = s->align_corners ? (n + 1) / 2 * (size - 1) : ((n + 1) * size - 1) / 2;
    x = (double)(float)x;      /* positions have single precision, which decides ties of nearest */
    if (!(x > -far)) x = -far; /* NaN too */
    if (x > far) x = far;
    if (s->mode == NEAREST) x = rint(x);
    if (x < low || x > high) {
        if (s->padding == BORDER) x = x < 0 ? 0 : size - 1;
        if (s->padding == REFLECTION) x = reflect(x, low, high);
    }
    axis_taps t = {.count = s->mode == NEAREST ? 1 : s->mode == LINEAR ? 2 : 4};
    int64_t first = (int64_t)floor(x) - (s->mode == CUBIC);
    for (int k = 0; k < t.count; k++) {
        double distance = (double)(first + k) - x;
        t.index[k] = pixel_index(s, first + k, length, low, high);
        t.weight[k] = s->mode == NEAREST ? 1 : s->mode == LINEAR ? 1 - fabs(distance) : cubic(distance);
    }
    return t;
}

static double sample(const sampler *s, const axis_taps t[3], const double *image) {
    double sum = 0;
    for (int d = 0; d < t[0].count; d++)
        for (int h = 0; h < t[1].count; h++)
            for (int w = 0; w < t[2].count; w++) {
                int64_t i = t[0].index[d], j = t[1].index[h], k = t[2].index[w];
                if (i < 0 || j < 0 || k < 0) continue;
                sum += t[0].weight[d] * t[1].weight[h] * t[2].weight[w] *
                       image[(i * s->in[1] + j) * s->in[2] + k];
            }
    return sum;
}

static nw_status grid_sample_eval(nw_op_call *call) {
    sampler s;
    NW_TRY(sampler_of(call, &s));
    const nw_tensor *x = call->in[0], *grid = call->in[1];
    nw_tensor *y = &call->out[0];
    if (nw_tensor_count(y) == 0) return NW_OK;
    const double *image;
    NW_TRY(nw_call_f64(call, 0, &image));
    int64_t channels = x->dims[1], in = s.in[0] * s.in[1] * s.in[2];
    int64_t positions = (int64_t)nw_dims_product(grid->dims, 1, grid->rank - 1);
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t p = 0; p < positions; p++) {
            axis_taps t[3];
            for (int a = 0; a < 3; a++) {
                int innermost = 2 - a; /* coordinates are listed from the innermost axis */
                t[a] = (axis_taps){1, {0}, {1}};
                if (innermost >= s.spatial) continue;
                t[a] = taps_of(&s, nw_tensor_f64(grid, (size_t)((n * positions + p) * s.spatial + innermost)),
                               s.in[a]);
            }
            for (int64_t c = 0; c < channels; c++)
                nw_store_f64(y->format, y->data, (size_t)((n * channels + c) * positions + p),
                             sample(&s, t, image + (n * channels + c) * in));
        }
    return NW_OK;
}

const nw_op nw_op_GridSample = {
    .name = "GridSample", .domain = "", .infer = grid_sample_infer, .eval = grid_sample_eval};

/* ---- AffineGrid: theta [N, r, r+1], size [N, C, …] → [N, …, r], r = 2 or 3
 * ---------------------------------------- */

static nw_status affine_infer(nw_op_call *call) {
    const nw_tensor *theta;
    const int64_t *size;
    size_t count;
    NW_TRY(nw_call_require_real(call, 0, &theta));
    NW_TRY(nw_call_ints(call, 1, &size, &count));
    if (count != 4 && count != 5)
        return nw_call_fail(call, NW_E_SHAPE, "size must have 4 or 5 numbers, it has %zu", count);
    int64_t r = (int64_t)count - 2, dims[5] = {size[0]};
    NW_TRY(nw_call_expect_shape(call, 0, "theta", true, 3, (int64_t[]){size[0], r, r + 1}));
    for (int64_t a = 0; a < r; a++) dims[1 + a] = size[2 + a];
    dims[r + 1] = r;
    return nw_call_set(call, 0, nw_real_format(theta), (int)r + 2, dims);
}

/* Position i of n on an axis from −1 to 1: between centres or between edges of the outer pixels. */
static double place(int64_t i, int64_t n, bool align_corners) {
    if (align_corners) return n > 1 ? -1 + 2 * (double)i / (double)(n - 1) : 0;
    return (2 * (double)i + 1) / (double)n - 1;
}

static nw_status affine_eval(nw_op_call *call) {
    nw_tensor *y = &call->out[0];
    const nw_tensor *theta = call->in[0];
    int r = y->rank - 2;
    bool align = nw_node_int(call->node, "align_corners", 0) != 0;
    size_t count = nw_tensor_count(y) / (size_t)r;
    for (size_t i = 0; i < count; i++) {
        double at[4] = {0};
        size_t rest = i;
        for (int a = r - 1; a >= 0; a--) { /* x, the innermost axis, comes first */
            int64_t n = y->dims[1 + a];
            at[r - 1 - a] = place((int64_t)(rest % (size_t)n), n, align);
            rest /= (size_t)n;
        }
        at[r] = 1;
        for (int row = 0; row < r; row++) {
            double sum = 0;
            for (int c = 0; c <= r; c++)
                sum += at[c] *
                       nw_tensor_f64(theta, (rest * (size_t)r + (size_t)row) * (size_t)(r + 1) + (size_t)c);
            nw_store_f64(y->format, y->data, i * (size_t)r + (size_t)row, sum);
        }
    }
    return NW_OK;
}

const nw_op nw_op_AffineGrid = {
    .name = "AffineGrid", .domain = "", .infer = affine_infer, .eval = affine_eval};
