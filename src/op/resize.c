/* resize.c: Resize (opset 10 to 19) and Upsample: one pass per axis that changes. Nearest moves elements of
 * any format; linear and cubic compute in double. */
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef enum resize_mode { MODE_NEAREST, MODE_LINEAR, MODE_CUBIC } resize_mode;
typedef enum nearest_mode { ROUND_PREFER_FLOOR, ROUND_PREFER_CEIL, FLOOR, CEIL } nearest_mode;
typedef enum coordinates {
    HALF_PIXEL,
    HALF_PIXEL_SYMMETRIC,
    PYTORCH_HALF_PIXEL,
    ALIGN_CORNERS,
    ASYMMETRIC,
    CROP_AND_RESIZE,
    HALF_PIXEL_FOR_NN /* opset 11 only */
} coordinates;

typedef struct resize_axis {
    int64_t in, out;
    double scale, start, end; /* start, end: of the region of interest, in units of the axis */
} resize_axis;

typedef struct resize {
    resize_mode mode;
    nearest_mode nearest;
    coordinates coordinates;
    bool antialias, exclude_outside;
    double cubic_a, extrapolation;
    int rank;
    resize_axis axes[NW_MAX_RANK];
} resize;

/* ---- what the node says
 * ------------------------------------------------------------------------------------------ */

static nw_status read_words(const nw_op_call *call, resize *r) {
    static const char *const modes[] = {"nearest", "linear", "cubic", NULL};
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil", NULL};
    static const char *const places[] = {
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",   "align_corners",
        "asymmetric", "tf_crop_and_resize",   "tf_half_pixel_for_nn", NULL};
    int mode, rounding, place;
    NW_TRY(nw_call_word_attr(call, "mode", modes, &mode));
    NW_TRY(nw_call_word_attr(call, "nearest_mode", roundings, &rounding));
    NW_TRY(nw_call_word_attr(call, "coordinate_transformation_mode", places, &place));
    r->mode = (resize_mode)mode;
    r->nearest = (nearest_mode)rounding;
    r->coordinates = (coordinates)place;
    if (call->version < 11) { /* Upsample, and Resize when it had no choice */
        r->coordinates = ASYMMETRIC;
        r->nearest = FLOOR;
    }
    r->antialias = nw_node_int(call->node, "antialias", 0) != 0;
    r->exclude_outside = nw_node_int(call->node, "exclude_outside", 0) != 0;
    r->cubic_a = (double)nw_node_float(call->node, "cubic_coeff_a", -0.75f);
    r->extrapolation = (double)nw_node_float(call->node, "extrapolation_value", 0);
    return NW_OK;
}

/* The axes that scales, sizes and roi speak of. */
static nw_status read_axes(const nw_op_call *call, int rank, int *axes, int *count) {
    const int64_t *given;
    size_t given_count;
    *count = rank;
    for (int i = 0; i < rank; i++) axes[i] = i;
    if (!nw_node_ints(call->node, "axes", &given, &given_count)) return NW_OK;
    bool seen[NW_MAX_RANK] = {false};
    if (given_count > (size_t)rank)
        return nw_call_fail(call, NW_E_ARGUMENT, "attribute axes has too many entries");
    for (size_t i = 0; i < given_count; i++) {
        NW_TRY(nw_call_axis(call, given[i], rank, false, &axes[i]));
        if (seen[axes[i]])
            return nw_call_fail(call, NW_E_ARGUMENT, "attribute axes names axis %d twice", axes[i]);
        seen[axes[i]] = true;
    }
    *count = (int)given_count;
    return NW_OK;
}

static nw_status set_scale(const nw_op_call *call, resize_axis *a, double scale) {
    if (!(scale > 0) || isinf(scale))
        return nw_call_fail(call, NW_E_ARGUMENT, "a scale is not a positive number");
    /* ONNX multiplies in single precision; the region of interest has no part in the size. */
    double size = floor((double)((float)a->in * (float)scale));
    if (size > 1e12) return nw_call_fail(call, NW_E_SHAPE, "the output would be too large");
    a->scale = scale;
    a->out = (int64_t)size;
    return NW_OK;
}

/* Output sizes from `sizes`; the policy may shrink or enlarge them to keep the aspect ratio. */
static nw_status set_sizes(const nw_op_call *call, resize *r, const int64_t *sizes, const int *axes,
                           int count) {
    static const char *const policies[] = {"stretch", "not_larger", "not_smaller", NULL};
    int policy;
    double common = 0;
    NW_TRY(nw_call_word_attr(call, "keep_aspect_ratio_policy", policies, &policy));
    for (int i = 0; i < count; i++) {
        resize_axis *a = &r->axes[axes[i]];
        if (sizes[i] < 0 || sizes[i] > (int64_t)1 << 40 || (a->in == 0 && sizes[i] > 0))
            return nw_call_fail(call, NW_E_SHAPE, "cannot resize axis %d from %" PRId64 " to %" PRId64,
                                axes[i], a->in, sizes[i]);
        a->out = sizes[i];
        a->scale = a->in > 0 ? (double)sizes[i] / (double)a->in : 1;
        if (i == 0 || (policy == 1 ? a->scale < common : a->scale > common)) common = a->scale;
    }
    for (int i = 0; i < count && policy != 0; i++) {
        resize_axis *a = &r->axes[axes[i]];
        double size = floor(common * (double)a->in + 0.5);
        if (size > 1e12) return nw_call_fail(call, NW_E_SHAPE, "the output would be too large");
        a->scale = common;
        a->out = (int64_t)size;
    }
    return NW_OK;
}

/* Element i of a list of numbers that decides shapes. */
static nw_status read_numbers(const nw_op_call *call, int input, int count, const char *name,
                              const nw_tensor **t) {
    NW_TRY(nw_call_value(call, input, t));
    NW_TRY(nw_call_require_real(call, input, t));
    if (nw_tensor_count(*t) == (size_t)count) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "%s has %zu elements, expected %d", name, nw_tensor_count(*t),
                        count);
}

static nw_status read_scales(const nw_op_call *call, resize *r, int input, const int *axes, int count) {
    const nw_tensor *t;
    NW_TRY(read_numbers(call, input, count, "scales", &t));
    nw_tensor real;
    NW_TRY(nw_tensor_to_f32(call->scratch, t, &real));
    for (int i = 0; i < count; i++)
        NW_TRY(set_scale(call, &r->axes[axes[i]], nw_tensor_f64(&real, (size_t)i)));
    return NW_OK;
}

static nw_status read_roi(const nw_op_call *call, resize *r, const int *axes, int count) {
    const nw_tensor *t;
    NW_TRY(read_numbers(call, 1, 2 * count, "roi", &t));
    for (int i = 0; i < count; i++) {
        resize_axis *a = &r->axes[axes[i]];
        a->start = nw_tensor_f64(t, (size_t)i);
        a->end = nw_tensor_f64(t, (size_t)(count + i));
        if (!isfinite(a->start) || !isfinite(a->end))
            return nw_call_fail(call, NW_E_ARGUMENT, "roi holds a number that is not finite");
    }
    return NW_OK;
}

static bool is_given(const nw_op_call *call, int input) {
    const nw_tensor *t = nw_call_in(call, input);
    return t && nw_tensor_count(t) > 0; /* opset 11 writes "absent" as an empty tensor */
}

static nw_status resize_of(const nw_op_call *call, resize *r) {
    const nw_tensor *x;
    int axes[NW_MAX_RANK], count;
    *r = (resize){.mode = MODE_NEAREST};
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(read_words(call, r));
    r->rank = x->rank;
    for (int d = 0; d < x->rank; d++) r->axes[d] = (resize_axis){x->dims[d], x->dims[d], 1, 0, 1};
    NW_TRY(read_axes(call, x->rank, axes, &count));
    if (call->version < 11) return read_scales(call, r, 1, axes, count);
    if (r->coordinates == CROP_AND_RESIZE) NW_TRY(read_roi(call, r, axes, count));
    if (is_given(call, 3)) {
        const int64_t *sizes;
        size_t size_count;
        if (is_given(call, 2)) return nw_call_fail(call, NW_E_FORMAT, "scales and sizes exclude each other");
        NW_TRY(nw_call_ints(call, 3, &sizes, &size_count));
        if (size_count != (size_t)count)
            return nw_call_fail(call, NW_E_SHAPE, "sizes has %zu elements, expected %d", size_count, count);
        return set_sizes(call, r, sizes, axes, count);
    }
    if (count == 0) return NW_OK;
    if (!is_given(call, 2)) return nw_call_fail(call, NW_E_FORMAT, "neither scales nor sizes is given");
    return read_scales(call, r, 2, axes, count);
}

/* ---- where an output element reads
 * -------------------------------------------------------------------------------- */

/* Nearest computes coordinates in single precision, as other runtimes do: it decides ties, and 3/0.6 is 5. */
static double rounded(const resize *r, double x) {
    return r->mode == MODE_NEAREST ? (double)(float)x : x;
}

/* Coordinate in the input of output position i, as the operator's page defines them; *outside: beyond the
 * region that tf_crop_and_resize extrapolates. align_corners takes the resized length before it is rounded
 * down, as ONNX's tests do. */
static double source(const resize *r, const resize_axis *a, int64_t i, bool *outside) {
    double at = (double)i, in = (double)a->in, out = (double)a->out, length = a->scale * in;
    double scale = rounded(r, a->scale), x = rounded(r, (at + 0.5) / scale) - 0.5;
    *outside = false;
    switch (r->coordinates) {
    case HALF_PIXEL: break;
    case HALF_PIXEL_SYMMETRIC: x += in / 2 * (1 - out / length); break;
    case PYTORCH_HALF_PIXEL: x = a->out > 1 ? x : 0; break;
    case ALIGN_CORNERS: x = i > 0 && length != 1 ? rounded(r, at * (in - 1) / (length - 1)) : 0; break;
    case ASYMMETRIC: x = rounded(r, at / scale); break;
    case HALF_PIXEL_FOR_NN: x += 0.5; break;
    case CROP_AND_RESIZE:
        x = a->out > 1 ? a->start * (in - 1) + at * rounded(r, a->end - a->start) * (in - 1) / (out - 1)
                       : 0.5 * (a->start + a->end) * (in - 1);
        x = rounded(r, x);
        *outside = x < 0 || x > in - 1;
        break;
    }
    return x;
}

static int64_t clamp_index(double x, int64_t in) {
    return x > 0 ? x < (double)(in - 1) ? (int64_t)x : in - 1 : 0;
}

static int64_t nearest_index(const resize *r, double x, int64_t in) {
    switch (r->nearest) {
    case ROUND_PREFER_FLOOR: return clamp_index(ceil(x - 0.5), in);
    case ROUND_PREFER_CEIL: return clamp_index(floor(x + 0.5), in);
    case FLOOR: return clamp_index(floor(x), in);
    case CEIL: return clamp_index(ceil(x), in);
    }
    return 0;
}

/* The interpolating function at distance x: a triangle, or the cubic convolution of Keys (1981), equation 4.
 */
static double kernel(const resize *r, double x) {
    double a = r->cubic_a;
    x = fabs(x);
    if (r->mode == MODE_LINEAR) return x < 1 ? 1 - x : 0;
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/* An axis as lists: output i is Σ_t weight[i·taps + t]·in[index[i·taps + t]], or the extrapolation value.
 * Nearest: one tap, no weights. */
typedef struct axis_taps {
    int64_t taps;
    int64_t *index;
    double *weight;
    bool *outside;
} axis_taps;

static void set_weights(const resize *r, const resize_axis *a, double x, double shrink, int64_t taps,
                        int64_t *index, double *weight) {
    double reach = (r->mode == MODE_LINEAR ? 1 : 2) / shrink, first = floor(x - reach) + 1, sum = 0;
    for (int64_t t = 0; t < taps; t++) {
        double at = first + (double)t;
        bool inside = at >= 0 && at <= (double)(a->in - 1);
        index[t] = clamp_index(at, a->in);
        weight[t] = inside || !r->exclude_outside ? kernel(r, shrink * (at - x)) : 0;
        sum += weight[t];
    }
    if ((r->antialias || r->exclude_outside) && sum != 0)
        for (int64_t t = 0; t < taps; t++) weight[t] /= sum;
}

static nw_status taps_of(const nw_op_call *call, const resize *r, const resize_axis *a, axis_taps *out) {
    /* Antialiasing stretches the function when the image shrinks. */
    double shrink = r->antialias && a->scale < 1 ? a->scale : 1;
    out->taps = r->mode == MODE_NEAREST ? 1 : (int64_t)ceil((r->mode == MODE_LINEAR ? 2 : 4) / shrink);
    size_t list = (size_t)out->taps * sizeof *out->weight, outputs = (size_t)a->out;
    NW_TRY(nw_call_scratch_bytes(call, outputs, list, (void **)&out->index));
    NW_TRY(nw_call_scratch_bytes(call, outputs, list, (void **)&out->weight));
    NW_TRY(nw_call_scratch(call, outputs, &out->outside));
    for (int64_t i = 0; i < a->out; i++) {
        double x = source(r, a, i, &out->outside[i]);
        int64_t *index = out->index + i * out->taps;
        if (r->mode == MODE_NEAREST)
            *index = nearest_index(r, x, a->in);
        else
            set_weights(r, a, x, shrink, out->taps, index, out->weight + i * out->taps);
    }
    return NW_OK;
}

/* ---- passes
 * ------------------------------------------------------------------------------------------------------- */

static bool changes(const resize *r, const resize_axis *a) {
    if (r->coordinates == CROP_AND_RESIZE && (a->start != 0 || a->end != 1)) return true;
    return a->in != a->out || a->scale != 1;
}

/* One axis of [outer][in][inner] elements of `size` bytes. extrapolation: one element. */
static void pass_nearest(const resize_axis *a, const axis_taps *t, size_t size, size_t outer, size_t inner,
                         const void *extrapolation, const char *from, char *to) {
    size_t run = inner * size;
    for (size_t o = 0; o < outer; o++, from += (size_t)a->in * run)
        for (int64_t i = 0; i < a->out; i++, to += run) {
            const char *at = from + (size_t)t->index[i] * run;
            if (t->outside[i])
                for (size_t k = 0; k < inner; k++) memcpy(to + k * size, extrapolation, size);
            else if (run == 4)
                memcpy(to, at, 4);
            else
                memcpy(to, at, run);
        }
}

static void pass_weighted(const resize *r, const resize_axis *a, const axis_taps *t, size_t outer,
                          size_t inner, const double *from, double *to) {
    for (size_t o = 0; o < outer; o++, from += (size_t)a->in * inner)
        for (int64_t i = 0; i < a->out; i++, to += inner) {
            for (size_t k = 0; k < inner; k++) to[k] = t->outside[i] ? r->extrapolation : 0;
            for (int64_t tap = i * t->taps; tap < (i + 1) * t->taps && !t->outside[i]; tap++) {
                const double *row = from + (size_t)t->index[tap] * inner;
                for (size_t k = 0; k < inner; k++) to[k] += t->weight[tap] * row[k];
            }
        }
}

/* Elements between passes: the input's bytes for nearest, doubles otherwise. */
static nw_status resize_run(nw_op_call *call, const resize *r) {
    const nw_tensor *x = call->in[0];
    nw_tensor *y = &call->out[0];
    if (nw_tensor_count(y) == 0) return NW_OK;
    bool weighted = r->mode != MODE_NEAREST;
    size_t size = weighted ? sizeof(double) : (size_t)nw_format_bits(x->format) / 8;
    unsigned char extrapolation[16] = {0};
    if (nw_format_is_float(x->format) || nw_format_is_integer(x->format))
        nw_store_f64(x->format, extrapolation, 0, r->extrapolation);
    nw_tensor now = *x;
    if (weighted) {
        now = (nw_tensor){.format = NW_F64};
        nw_tensor_set_shape(&now, x->rank, x->dims);
        NW_TRY(nw_tensor_alloc(call->scratch, &now));
        nw_load_run(x, 0, nw_tensor_count(x), now.data);
    }
    for (int d = 0; d < r->rank; d++) {
        const resize_axis *a = &r->axes[d];
        if (!changes(r, a)) continue;
        axis_taps taps;
        NW_TRY(taps_of(call, r, a, &taps));
        nw_tensor next = now;
        next.dims[d] = a->out;
        NW_TRY(nw_tensor_alloc(call->scratch, &next));
        size_t outer = nw_dims_product(now.dims, 0, d), inner = nw_dims_product(now.dims, d + 1, now.rank);
        if (weighted)
            pass_weighted(r, a, &taps, outer, inner, now.data, next.data);
        else
            pass_nearest(a, &taps, size, outer, inner, extrapolation, now.data, next.data);
        now = next;
    }
    if (weighted)
        nw_store_run(y, 0, nw_tensor_count(y), now.data);
    else
        memcpy(y->data, now.data, nw_tensor_bytes(y));
    return NW_OK;
}

static nw_status resize_set_out(nw_op_call *call, const resize *r) {
    const nw_tensor *x = call->in[0];
    nw_format format = nw_real_format(x);
    bool number = nw_format_is_float(format) || nw_format_is_integer(format);
    if (nw_format_bits(format) < 8 || (r->mode != MODE_NEAREST && !number))
        return nw_call_fail(call, NW_E_TYPE, "cannot resize %s in this mode", nw_format_name(format));
    if (r->antialias && r->mode == MODE_NEAREST)
        return nw_call_fail(call, NW_E_ARGUMENT, "antialias needs mode linear or cubic");
    int64_t dims[NW_MAX_RANK];
    for (int d = 0; d < r->rank; d++) dims[d] = r->axes[d].out;
    return nw_call_set(call, 0, format, r->rank, dims);
}

static nw_status resize_infer(nw_op_call *call) {
    resize r;
    NW_TRY(resize_of(call, &r));
    return resize_set_out(call, &r);
}

static nw_status resize_eval(nw_op_call *call) {
    resize r;
    NW_TRY(resize_of(call, &r));
    return resize_run(call, &r);
}

static void resize_roles(const nw_node *node, nw_roles *roles) {
    roles->in[0] = NW_ROLE_DATA;
    roles->same_grid = nw_node_string_is(node, "mode", "nearest", "nearest");
}

/* ---- gradients
 * -------------------------------------------------------------------------------------------------------- */

/* ResizeGrad: inputs: x, roi, scales, sizes as in Resize (or x, scales as in Upsample), dy as input 4;
 * attributes: those of the operator, its version, and upsample; output: dx, every dy given to the elements
 * that its output was made of, with their weights. In double. */

static nw_status upsample_of(const nw_op_call *call, resize *r);

static nw_status resize_grad_read(const nw_op_call *call, resize *r) {
    nw_op_call forward = *call;
    const nw_tensor *dy;
    forward.version = (int)nw_node_int(call->node, "version", 19);
    NW_TRY(nw_call_require_real(call, 0, &dy));
    NW_TRY(nw_call_require_real(call, 4, &dy));
    NW_TRY(nw_node_int(call->node, "upsample", 0) ? upsample_of(&forward, r) : resize_of(&forward, r));
    bool fits = dy->rank == r->rank;
    for (int d = 0; d < r->rank && fits; d++) fits = dy->dims[d] == r->axes[d].out;
    return fits ? NW_OK
                : nw_call_fail(call, NW_E_SHAPE, "the gradient does not have the shape of the result");
}

static nw_status resize_grad_infer(nw_op_call *call) {
    resize r;
    NW_TRY(resize_grad_read(call, &r));
    return nw_call_set_like(call, 0, call->in[0]);
}

/* The adjoint of a pass: from [outer][out][inner] is added to [outer][in][inner]. */
static void spread_weighted(const resize *r, const resize_axis *a, const axis_taps *t, size_t outer,
                            size_t inner, const double *from, double *to) {
    for (size_t o = 0; o < outer; o++, to += (size_t)a->in * inner)
        for (int64_t i = 0; i < a->out; i++, from += inner)
            for (int64_t tap = i * t->taps; tap < (i + 1) * t->taps && !t->outside[i]; tap++) {
                double *row = to + (size_t)t->index[tap] * inner;
                double weight = r->mode == MODE_NEAREST ? 1 : t->weight[tap];
                for (size_t k = 0; k < inner; k++) row[k] += weight * from[k];
            }
}

static nw_status resize_grad_eval(nw_op_call *call) {
    resize r;
    NW_TRY(resize_grad_read(call, &r));
    nw_tensor now = *call->in[4];
    now.format = NW_F64;
    NW_TRY(nw_tensor_alloc(call->scratch, &now));
    nw_load_run(call->in[4], 0, nw_tensor_count(&now), now.data);
    for (int d = r.rank - 1; d >= 0; d--) {
        const resize_axis *a = &r.axes[d];
        if (!changes(&r, a)) continue;
        axis_taps taps;
        NW_TRY(taps_of(call, &r, a, &taps));
        nw_tensor next = now;
        next.dims[d] = a->in;
        NW_TRY(nw_tensor_alloc(call->scratch, &next));
        memset(next.data, 0, nw_tensor_bytes(&next));
        size_t outer = nw_dims_product(now.dims, 0, d), inner = nw_dims_product(now.dims, d + 1, now.rank);
        spread_weighted(&r, a, &taps, outer, inner, now.data, next.data);
        now = next;
    }
    nw_store_run(&call->out[0], 0, nw_tensor_count(&now), now.data);
    return NW_OK;
}

const nw_op nw_op_narrow_ResizeGrad = {
    .name = "ResizeGrad", .domain = "ai.narrow", .infer = resize_grad_infer, .eval = resize_grad_eval};

static nw_status resize_grad_as(nw_grad_call *c, bool upsample) {
    nw_grad_begin(c, "ai.narrow", "ResizeGrad", 5,
                  (int[]){nw_grad_in(c, 0), nw_grad_in(c, 1), nw_grad_in(c, 2), nw_grad_in(c, 3), c->dy[0]});
    nw_grad_copy_attrs(c);
    nw_grad_set_int(c, "version", c->version);
    nw_grad_set_int(c, "upsample", upsample);
    c->dx[0] = nw_grad_end(c);
    return c->status;
}

static nw_status resize_grad(nw_grad_call *c) {
    return resize_grad_as(c, false);
}
static nw_status upsample_grad(nw_grad_call *c) {
    return resize_grad_as(c, true);
}

const nw_op nw_op_Resize = {.name = "Resize",
                            .domain = "",
                            .flags = NW_OP_RAW,
                            .infer = resize_infer,
                            .eval = resize_eval,
                            .roles = resize_roles,
                            .grad = resize_grad};

/* ---- Upsample: scales as an attribute (opset 7) or an input (9)
 * --------------------------------------------------- */

static nw_status upsample_of(const nw_op_call *call, resize *r) {
    nw_op_call as_resize = *call;
    as_resize.version = 10; /* the Resize that Upsample became */
    const float *scales;
    size_t count;
    if (!nw_node_floats(call->node, "scales", &scales, &count)) return resize_of(&as_resize, r);
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    if (count != (size_t)x->rank)
        return nw_call_fail(call, NW_E_SHAPE, "scales has %zu elements, expected %d", count, x->rank);
    *r = (resize){.rank = x->rank};
    NW_TRY(read_words(&as_resize, r));
    for (int d = 0; d < x->rank; d++) {
        r->axes[d] = (resize_axis){x->dims[d], x->dims[d], 1, 0, 1};
        NW_TRY(set_scale(call, &r->axes[d], (double)scales[d]));
    }
    return NW_OK;
}

static nw_status upsample_infer(nw_op_call *call) {
    resize r;
    NW_TRY(upsample_of(call, &r));
    return resize_set_out(call, &r);
}

static nw_status upsample_eval(nw_op_call *call) {
    resize r;
    NW_TRY(upsample_of(call, &r));
    return resize_run(call, &r);
}

const nw_op nw_op_Upsample = {.name = "Upsample",
                              .domain = "",
                              .flags = NW_OP_RAW,
                              .infer = upsample_infer,
                              .eval = upsample_eval,
                              .roles = resize_roles,
                              .grad = upsample_grad};
