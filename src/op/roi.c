/* roi.c: RoiAlign and MaxRoiPool: pooling of regions of interest to a fixed size. */
#include "op/real.h"

#include <inttypes.h>
#include <math.h>

/* A region in pixels of the feature map, and the bins it is divided into. */
typedef struct region {
    int64_t batch;
    double top, left, height, width; /* of the region */
    int64_t bins_h, bins_w;
} region;

/* Element i of an index tensor, checked against the batch size. */
static nw_status check_batch(const nw_op_call *call, int64_t batch, int64_t count) {
    if (batch >= 0 && batch < count) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "a region is in image %" PRId64 ", the batch has %" PRId64, batch,
                        count);
}

static nw_status check_finite(const nw_op_call *call, const region *r) {
    const double most = 1e9;
    if (fabs(r->top) < most && fabs(r->left) < most && fabs(r->height) < most && fabs(r->width) < most)
        return NW_OK;
    return nw_call_fail(call, NW_E_ARGUMENT,
                        "a region's coordinates are not finite or far outside of any image");
}

/* ---- RoiAlign: X [N, C, H, W], rois [R, 4], batch_indices [R] → [R, C, output_height, output_width]
 * --------------- */

static nw_status read_bins(const nw_op_call *call, int64_t *bins_h, int64_t *bins_w) {
    NW_TRY(nw_call_int_attr(call, "output_height", 1, 1, (int64_t)1 << 30, bins_h));
    return nw_call_int_attr(call, "output_width", 1, 1, (int64_t)1 << 30, bins_w);
}

typedef struct align {
    bool half_pixel, max;
    int64_t samples; /* per bin and axis; 0: as many as the bin has pixels */
} align;

static nw_status align_of(const nw_op_call *call, align *a) {
    static const char *const modes[] = {"avg", "max", NULL};
    static const char *const places[] = {"half_pixel", "output_half_pixel", NULL};
    int mode, place = 1;
    NW_TRY(nw_call_word_attr(call, "mode", modes, &mode));
    if (call->version >= 16)
        NW_TRY(nw_call_word_attr(call, "coordinate_transformation_mode", places, &place));
    a->half_pixel = place == 0;
    a->max = mode == 1;
    return nw_call_int_attr(call, "sampling_ratio", 0, 0, 256, &a->samples);
}

static nw_status roi_align_infer(nw_op_call *call) {
    const nw_tensor *x, *rois, *batch;
    align a;
    int64_t h, w;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &rois));
    NW_TRY(nw_call_require(call, 2, &batch));
    NW_TRY(nw_call_expect_rank(call, x, "X", 4, 4));
    NW_TRY(nw_call_expect_rank(call, rois, "rois", 2, 2));
    NW_TRY(align_of(call, &a));
    NW_TRY(read_bins(call, &h, &w));
    if (rois->dims[1] != 4) return nw_call_fail(call, NW_E_SHAPE, "rois must have 4 numbers per region");
    if (!nw_format_is_integer(batch->format) || batch->rank != 1 || batch->dims[0] != rois->dims[0])
        return nw_call_fail(call, NW_E_SHAPE, "batch_indices must hold an integer for each region");
    if (x->dims[2] == 0 || x->dims[3] == 0) return nw_call_fail(call, NW_E_SHAPE, "X has no pixels");
    return nw_call_set(call, 0, nw_real_format(x), 4, (int64_t[]){rois->dims[0], x->dims[1], h, w});
}

/* A sampling point between pixels; index[4] and weight[4] are its corners. Points beyond a margin of one
 * pixel weigh 0. */
typedef struct point {
    int64_t index[4];
    double weight[4];
} point;

static point point_at(double y, double x, int64_t height, int64_t width) {
    point p = {{0}, {0}};
    if (y < -1 || y > (double)height || x < -1 || x > (double)width) return p;
    y = fmin(fmax(y, 0), (double)(height - 1));
    x = fmin(fmax(x, 0), (double)(width - 1));
    int64_t y0 = (int64_t)y, x0 = (int64_t)x, y1 = y0 + 1 < height ? y0 + 1 : y0,
            x1 = x0 + 1 < width ? x0 + 1 : x0;
    double ly = y - (double)y0, lx = x - (double)x0;
    return (point){{y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1},
                   {(1 - ly) * (1 - lx), (1 - ly) * lx, ly * (1 - lx), ly * lx}};
}

static nw_status region_of(const nw_op_call *call, const align *a, size_t i, region *r) {
    const nw_tensor *rois = call->in[1];
    double scale = (double)nw_node_float(call->node, "spatial_scale", 1), shift = a->half_pixel ? 0.5 : 0;
    r->batch = nw_tensor_s64(call->in[2], i);
    r->left = nw_tensor_f64(rois, 4 * i) * scale - shift;
    r->top = nw_tensor_f64(rois, 4 * i + 1) * scale - shift;
    r->width = nw_tensor_f64(rois, 4 * i + 2) * scale - shift - r->left;
    r->height = nw_tensor_f64(rois, 4 * i + 3) * scale - shift - r->top;
    if (!a->half_pixel) { /* malformed regions become one pixel */
        r->width = fmax(r->width, 1);
        r->height = fmax(r->height, 1);
    }
    NW_TRY(check_batch(call, r->batch, call->in[0]->dims[0]));
    return check_finite(call, r);
}

/* Samples [*first, *last) of `grid` over a bin that may lie near an image of `length` pixels; the others
 * weigh 0. It keeps the work for a region far larger than the image in proportion to the image. */
static void near_image(double start, double bin, int64_t grid, int64_t length, int64_t *first,
                       int64_t *last) {
    *first = 0;
    *last = grid > 0 ? grid : 0;
    if (!(bin > 0)) return;
    double step = bin / (double)grid, low = floor((-1 - start) / step - 0.5),
           high = ceil(((double)length - start) / step);
    if (low > 0) *first = low < (double)*last ? (int64_t)low : *last;
    if (high < (double)*last) *last = high > (double)*first ? (int64_t)high : *first;
}

/* One bin of every channel, to y[at + c·stride]. max compares the weighted corners one by one, as the
 * operator's reference does. */
static void align_bin(const align *a, const region *r, int64_t bin_y, int64_t bin_x, const nw_tensor *x,
                      nw_tensor *y, size_t at, size_t stride) {
    int64_t channels = x->dims[1], height = x->dims[2], width = x->dims[3];
    double bin_h = r->height / (double)r->bins_h, bin_w = r->width / (double)r->bins_w;
    int64_t grid_h = a->samples ? a->samples : (int64_t)ceil(bin_h);
    int64_t grid_w = a->samples ? a->samples : (int64_t)ceil(bin_w);
    double count = grid_h > 0 && grid_w > 0 ? (double)grid_h * (double)grid_w : 1;
    double top = r->top + (double)bin_y * bin_h, left = r->left + (double)bin_x * bin_w;
    int64_t i0, i1, j0, j1;
    near_image(top, bin_h, grid_h, height, &i0, &i1);
    near_image(left, bin_w, grid_w, width, &j0, &j1);
    bool skipped = grid_h > 0 && grid_w > 0 && (i1 - i0 < grid_h || j1 - j0 < grid_w);
    for (int64_t c = 0; c < channels; c++) {
        size_t image = (size_t)((r->batch * channels + c) * height * width);
        double sum = 0, most = skipped ? 0 : -INFINITY;
        for (int64_t i = i0; i < i1; i++)
            for (int64_t j = j0; j < j1; j++) {
                point p = point_at(top + ((double)i + 0.5) * bin_h / (double)grid_h,
                                   left + ((double)j + 0.5) * bin_w / (double)grid_w, height, width);
                for (int k = 0; k < 4; k++) {
                    double v = p.weight[k] * nw_tensor_f64(x, image + (size_t)p.index[k]);
                    sum += v;
                    if (v > most) most = v;
                }
            }
        if (most == -INFINITY) most = 0; /* no samples at all */
        nw_store_f64(y->format, y->data, at + (size_t)c * stride, a->max ? most : sum / count);
    }
}

static nw_status roi_align_eval(nw_op_call *call) {
    align a;
    region r;
    nw_tensor *y = &call->out[0];
    NW_TRY(align_of(call, &a));
    NW_TRY(read_bins(call, &r.bins_h, &r.bins_w));
    size_t bins = (size_t)(r.bins_h * r.bins_w), per_region = (size_t)y->dims[1] * bins;
    if (nw_tensor_count(y) == 0) return NW_OK;
    for (size_t i = 0; i < (size_t)y->dims[0]; i++) {
        NW_TRY(region_of(call, &a, i, &r));
        for (size_t b = 0; b < bins; b++)
            align_bin(&a, &r, (int64_t)b / r.bins_w, (int64_t)b % r.bins_w, call->in[0], y,
                      i * per_region + b, bins);
    }
    return NW_OK;
}

const nw_op nw_op_RoiAlign = {
    .name = "RoiAlign", .domain = "", .infer = roi_align_infer, .eval = roi_align_eval};

/* ---- MaxRoiPool: X [N, C, H, W], rois [R, 5] (image, x1, y1, x2, y2) → [R, C, pooled_shape]
 * ----------------------- */

static nw_status max_roi_infer(nw_op_call *call) {
    const nw_tensor *x, *rois;
    int64_t bins[2];
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &rois));
    NW_TRY(nw_call_expect_rank(call, x, "X", 4, 4));
    NW_TRY(nw_call_expect_rank(call, rois, "rois", 2, 2));
    NW_TRY(nw_call_ints_attr(call, "pooled_shape", 2, 0, 1, (int64_t)1 << 30, bins));
    if (bins[0] == 0) return nw_call_fail(call, NW_E_FORMAT, "attribute pooled_shape is missing");
    if (rois->dims[1] != 5) return nw_call_fail(call, NW_E_SHAPE, "rois must have 5 numbers per region");
    return nw_call_set(call, 0, nw_real_format(x), 4,
                       (int64_t[]){rois->dims[0], x->dims[1], bins[0], bins[1]});
}

static int64_t clamp(double x, int64_t limit) {
    return x < 0 ? 0 : x > (double)limit ? limit : (int64_t)x;
}

/* Pixels [*first, *last) of bin b on an axis of `length` pixels. */
static void bin_range(double start, double size, int64_t bins, int64_t b, int64_t length, int64_t *first,
                      int64_t *last) {
    double step = size / (double)bins;
    *first = clamp(start + floor((double)b * step), length);
    *last = clamp(start + ceil((double)(b + 1) * step), length);
}

/* Coordinates are rounded to pixels, ends included, as in the paper on Fast R-CNN; an empty bin gives 0. */
static nw_status max_roi_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *rois = call->in[1];
    nw_tensor *y = &call->out[0];
    if (nw_tensor_count(y) == 0) return NW_OK;
    double scale = (double)nw_node_float(call->node, "spatial_scale", 1);
    int64_t channels = x->dims[1], height = x->dims[2], width = x->dims[3], out = 0;
    for (int64_t i = 0; i < y->dims[0]; i++) {
        double v[5];
        nw_load_run(rois, (size_t)(5 * i), 5, v);
        region r = {.left = round(v[1] * scale), .top = round(v[2] * scale)};
        r.width = fmax(round(v[3] * scale) - r.left + 1, 1);
        r.height = fmax(round(v[4] * scale) - r.top + 1, 1);
        NW_TRY(check_finite(call, &r));
        r.batch = fabs(v[0]) < 1e15 ? (int64_t)v[0] : -1;
        NW_TRY(check_batch(call, r.batch, x->dims[0]));
        for (int64_t c = 0; c < channels; c++)
            for (int64_t b = 0; b < y->dims[2] * y->dims[3]; b++, out++) {
                int64_t y0, y1, x0, x1, image = (r.batch * channels + c) * height * width;
                bin_range(r.top, r.height, y->dims[2], b / y->dims[3], height, &y0, &y1);
                bin_range(r.left, r.width, y->dims[3], b % y->dims[3], width, &x0, &x1);
                double best = y0 < y1 && x0 < x1 ? -INFINITY : 0;
                for (int64_t h = y0; h < y1; h++)
                    for (int64_t w = x0; w < x1; w++)
                        best = fmax(best, nw_tensor_f64(x, (size_t)(image + h * width + w)));
                nw_store_f64(y->format, y->data, (size_t)out, best);
            }
    }
    return NW_OK;
}

const nw_op nw_op_MaxRoiPool = {
    .name = "MaxRoiPool", .domain = "", .infer = max_roi_infer, .eval = max_roi_eval};
