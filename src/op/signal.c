/* signal.c: audio front ends: HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix, DFT, STFT. */
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>
#include <math.h>

#define PI 3.14159265358979323846

/* The float type that attribute output_datatype names. */
static nw_status output_format(const nw_op_call *call, nw_format *format) {
    int64_t asked = nw_node_int(call->node, "output_datatype", NW_F32);
    size_t size;
    *format = asked > 0 && asked < NW_FORMAT_COUNT ? nw_format_from_onnx((int)asked) : NW_NONE;
    if (!nw_format_is_float(*format) && !nw_format_is_integer(*format))
        return nw_call_fail(call, NW_E_TYPE, "output_datatype %" PRId64 " is not a number type", asked);
    return nw_call_element_size(call, *format, &size);
}

/* ---- windows: w[n] = a0 − a1·cos(2πn/N) + a2·cos(4πn/N), N = size when periodic, else size − 1 - */

static nw_status window_infer(nw_op_call *call) {
    const nw_tensor *t;
    int64_t size;
    nw_format format;
    NW_TRY(nw_call_require(call, 0, &t));
    NW_TRY(nw_call_int(call, 0, 0, &size));
    NW_TRY(output_format(call, &format));
    if (size < 0) return nw_call_fail(call, NW_E_SHAPE, "the window size is negative: %" PRId64, size);
    return nw_call_set(call, 0, format, 1, &size);
}

static nw_status window_eval(nw_op_call *call, double a0, double a1, double a2) {
    nw_tensor *out = &call->out[0];
    int64_t size = out->dims[0], n = nw_node_int(call->node, "periodic", 1) ? size : size - 1;
    for (int64_t i = 0; i < size; i++) {
        double t = n > 0 ? 2 * PI * (double)i / (double)n : 0;
        nw_store_f64(out->format, out->data, (size_t)i, a0 - a1 * cos(t) + a2 * cos(2 * t));
    }
    return NW_OK;
}

static nw_status hann_eval(nw_op_call *call) {
    return window_eval(call, 0.5, 0.5, 0);
}
static nw_status hamming_eval(nw_op_call *call) {
    return window_eval(call, 25.0 / 46.0, 21.0 / 46.0, 0);
}
static nw_status blackman_eval(nw_op_call *call) {
    return window_eval(call, 0.42, 0.5, 0.08);
}

const nw_op nw_op_HannWindow = {.name = "HannWindow", .domain = "", .infer = window_infer, .eval = hann_eval};
const nw_op nw_op_HammingWindow = {
    .name = "HammingWindow", .domain = "", .infer = window_infer, .eval = hamming_eval};
const nw_op nw_op_BlackmanWindow = {
    .name = "BlackmanWindow", .domain = "", .infer = window_infer, .eval = blackman_eval};

/* ---- MelWeightMatrix: [dft_length/2 + 1, num_mel_bins] ------------------------------------------------- */

static nw_status mel_infer(nw_op_call *call) {
    const nw_tensor *t;
    int64_t bins, length, rate;
    nw_format format;
    for (int i = 0; i < 5; i++) {
        NW_TRY(nw_call_require(call, i, &t));
        NW_TRY(nw_call_expect_one(call, t, "each of its inputs"));
        if (i >= 3) NW_TRY(nw_call_expect_float(call, t));
    }
    NW_TRY(nw_call_int(call, 0, 0, &bins));
    NW_TRY(nw_call_int(call, 1, 0, &length));
    NW_TRY(output_format(call, &format));
    if (bins < 0 || bins > INT32_MAX || length < 0 || length > INT32_MAX)
        return nw_call_fail(call, NW_E_ARGUMENT, "%" PRId64 " bins of a DFT of length %" PRId64 " cannot be",
                            bins, length);
    if (call->in[2]->data) {
        NW_TRY(nw_call_int(call, 2, 0, &rate));
        if (rate <= 0) return nw_call_fail(call, NW_E_ARGUMENT, "the sample rate must be positive");
    }
    return nw_call_set(call, 0, format, 2, (const int64_t[]){length / 2 + 1, bins});
}

/* mel(f) = 2595·log10(1 + f/700) */
static double mel_of(double hertz) {
    return 2595 * log10(1 + hertz / 700);
}
static double hertz_of(double mel) {
    return 700 * (pow(10, mel / 2595) - 1);
}

/* Triangles with peak 1 whose corners are equally far apart on the mel scale. */
static nw_status mel_eval(nw_op_call *call) {
    nw_tensor *out = &call->out[0];
    int64_t rows = out->dims[0], bins = out->dims[1], length, rate;
    double low = mel_of(nw_tensor_f64(call->in[3], 0)), high = mel_of(nw_tensor_f64(call->in[4], 0));
    NW_TRY(nw_call_int(call, 1, 0, &length));
    NW_TRY(nw_call_int(call, 2, 0, &rate));
    if (rate <= 0) return nw_call_fail(call, NW_E_ARGUMENT, "the sample rate must be positive");
    if (nw_tensor_count(out) > 0) memset(out->data, 0, nw_tensor_bytes(out));
    for (int64_t b = 0; b < bins; b++) {
        int64_t corner[3];
        for (int k = 0; k < 3; k++) {
            double mel = low + (double)(b + k) * (high - low) / (double)(bins + 2);
            double at = floor((double)(length + 1) * hertz_of(mel) / (double)rate);
            if (!(at >= 0 && at < (double)rows))
                return nw_call_fail(call, NW_E_ARGUMENT,
                                    "the mel bands reach outside of the spectrum's %" PRId64 " bins", rows);
            corner[k] = (int64_t)at;
        }
        for (int64_t r = corner[0]; r < corner[2] || r == corner[1]; r++) {
            int64_t rise = corner[1] - corner[0], fall = corner[2] - corner[1];
            double w = r < corner[1]    ? (double)(r - corner[0]) / (double)rise
                       : r == corner[1] ? 1
                                        : (double)(corner[2] - r) / (double)fall;
            nw_store_f64(out->format, out->data, (size_t)(r * bins + b), w);
        }
    }
    return NW_OK;
}

const nw_op nw_op_MelWeightMatrix = {
    .name = "MelWeightMatrix", .domain = "", .infer = mel_infer, .eval = mel_eval};

/* ---- the transform ------------------------------------------------------------------------------------- */

typedef struct complex_number {
    double re, im;
} complex_number;

static complex_number times(complex_number a, complex_number b) {
    return (complex_number){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

/* y[k] = Σ x[j]·e^(∓2πi·jk/n) (− unless inverse), not scaled. */
typedef struct transform {
    size_t n;
    complex_number *root;     /* [n] e^(∓2πi·k/n) */
    complex_number *in, *out; /* [n] */
} transform;

static nw_status transform_init(const nw_op_call *call, size_t n, bool inverse, transform *t) {
    t->n = n;
    NW_TRY(nw_call_scratch(call, n, &t->root));
    NW_TRY(nw_call_scratch(call, n, &t->in));
    NW_TRY(nw_call_scratch(call, n, &t->out));
    for (size_t k = 0; k < n; k++) {
        double angle = (inverse ? 2 : -2) * PI * (double)k / (double)n;
        t->root[k] = (complex_number){cos(angle), sin(angle)};
    }
    return NW_OK;
}

/* Splits off the smallest factor of n (Cooley and Tukey): `in` every `stride` elements, out contiguous, room
 * for n at `room`. A prime length costs n². */
static void transform_part(const transform *t, const complex_number *in, size_t stride, size_t n,
                           complex_number *out, complex_number *room) {
    size_t f = 2;
    while (f * f <= n && n % f != 0) f++;
    if (f * f > n) f = n;
    if (n == 1) {
        out[0] = in[0];
        return;
    }
    size_t m = n / f;
    for (size_t j = 0; j < f; j++)
        transform_part(t, in + j * stride, stride * f, m, room + j * m, out + j * m);
    for (size_t k = 0; k < n; k++) {
        complex_number sum = {0, 0};
        for (size_t j = 0; j < f; j++) {
            complex_number v = times(room[j * m + k % m], t->root[j * k % n * (t->n / n)]);
            sum.re += v.re;
            sum.im += v.im;
        }
        out[k] = sum;
    }
}

/* t->out from t->in; room for n. */
static void transform_run(const transform *t, complex_number *room) {
    transform_part(t, t->in, 1, t->n, t->out, room);
}

/* ---- DFT ----------------------------------------------------------------------------------------------- */

typedef struct dft {
    int axis;
    int64_t length; /* of the transform */
    bool inverse, onesided;
    int64_t out_length, out_parts; /* on the axis; 2: complex, 1: real */
} dft;

static nw_status read_dft(const nw_op_call *call, const nw_tensor *x, dft *p) {
    int64_t axis = nw_node_int(call->node, "axis", 1);
    if (call->version >= 20) NW_TRY(nw_call_int(call, 2, -2, &axis));
    p->inverse = nw_node_int(call->node, "inverse", 0) != 0;
    p->onesided = nw_node_int(call->node, "onesided", 0) != 0;
    if (x->rank < 2)
        return nw_call_fail(call, NW_E_SHAPE, "expects [signal…, 1 or 2], got %d dimensions", x->rank);
    NW_TRY(nw_call_axis(call, axis, x->rank, false, &p->axis));
    int64_t parts = x->dims[x->rank - 1], n = x->dims[p->axis];
    if (p->axis == x->rank - 1)
        return nw_call_fail(call, NW_E_ARGUMENT, "the last axis holds real and imaginary parts");
    if (parts != 1 && parts != 2)
        return nw_call_fail(call, NW_E_SHAPE, "the last axis must have 1 or 2 elements");
    if (p->onesided && !p->inverse && parts == 2)
        return nw_call_fail(call, NW_E_ARGUMENT, "a one-sided transform needs a real signal");
    bool real_result = p->onesided && p->inverse;
    NW_TRY(nw_call_int(call, 1, real_result ? 2 * (n - 1) : n, &p->length));
    if (p->length < 1 || p->length > INT32_MAX)
        return nw_call_fail(call, NW_E_ARGUMENT, "a transform of length %" PRId64 " is not possible",
                            p->length);
    p->out_length = p->onesided && !p->inverse ? p->length / 2 + 1 : p->length;
    p->out_parts = real_result ? 1 : 2;
    return NW_OK;
}

static nw_status dft_infer(nw_op_call *call) {
    const nw_tensor *x;
    dft p;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_expect_float(call, x));
    NW_TRY(read_dft(call, x, &p));
    nw_tensor out = *x;
    out.dims[p.axis] = p.out_length;
    out.dims[x->rank - 1] = p.out_parts;
    return nw_call_set_moved(call, 0, x, out.rank, out.dims);
}

/* t->in ← the first n values of a line of x that starts at complex element `first`, `step` apart; zeros
 * beyond `have`. */
static void load_line(const nw_tensor *x, size_t parts, size_t first, size_t step, size_t have,
                      const transform *t) {
    for (size_t i = 0; i < t->n; i++) {
        size_t at = (first + i * step) * parts;
        t->in[i] = (complex_number){0, 0};
        if (i >= have) continue;
        t->in[i].re = nw_tensor_f64(x, at);
        if (parts == 2) t->in[i].im = nw_tensor_f64(x, at + 1);
    }
}

static nw_status dft_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    nw_tensor *out = &call->out[0];
    dft p;
    transform t;
    complex_number *room;
    NW_TRY(read_dft(call, x, &p));
    NW_TRY(transform_init(call, (size_t)p.length, p.inverse, &t));
    NW_TRY(nw_call_scratch(call, t.n, &room));
    if (nw_tensor_count(out) == 0) return NW_OK;
    nw_axis_span s = nw_axis_span_of(x, p.axis);
    size_t parts = (size_t)x->dims[x->rank - 1], out_parts = (size_t)p.out_parts,
           out_length = (size_t)p.out_length;
    s.inner /= parts;
    double scale = p.inverse ? 1.0 / (double)t.n : 1.0;
    for (size_t line = 0; line < s.outer * s.inner; line++) {
        size_t o = line / s.inner, i = line % s.inner;
        load_line(x, parts, o * s.length * s.inner + i, s.inner, s.length, &t);
        if (p.inverse && p.onesided) /* the half that is not stored is the conjugate of the other */
            for (size_t k = 0; k < t.n; k++) {
                if (k > t.n / 2)
                    t.in[k] = (complex_number){t.in[t.n - k].re, -t.in[t.n - k].im};
                else if (k == 0 || 2 * k == t.n)
                    t.in[k].im = 0;
            }
        transform_run(&t, room);
        for (size_t k = 0; k < out_length; k++) {
            size_t at = ((o * out_length + k) * s.inner + i) * out_parts;
            nw_store_f64(out->format, out->data, at, t.out[k].re * scale);
            if (out_parts == 2) nw_store_f64(out->format, out->data, at + 1, t.out[k].im * scale);
        }
    }
    return NW_OK;
}

const nw_op nw_op_DFT = {.name = "DFT", .domain = "", .infer = dft_infer, .eval = dft_eval};

/* ---- STFT: [B, T, 1 or 2] → [B, frames, bins, 2] ----------------------------------------------------- */

typedef struct stft {
    int64_t step, length, frames, bins;
} stft;

static nw_status read_stft(const nw_op_call *call, const nw_tensor *x, stft *p) {
    const nw_tensor *step, *window = nw_call_in(call, 2);
    bool onesided = nw_node_int(call->node, "onesided", 1) != 0;
    NW_TRY(nw_call_require(call, 1, &step));
    NW_TRY(nw_call_int(call, 1, 1, &p->step));
    if (x->rank != 3 || (x->dims[2] != 1 && x->dims[2] != 2))
        return nw_call_fail(call, NW_E_SHAPE, "expects a signal [batch, length, 1 or 2]");
    if (window && window->rank != 1)
        return nw_call_fail(call, NW_E_SHAPE, "the window must have one dimension");
    NW_TRY(nw_call_int(call, 3, window ? window->dims[0] : x->dims[1], &p->length));
    if (window && window->dims[0] != p->length)
        return nw_call_fail(call, NW_E_SHAPE, "the window has %" PRId64 " values for frames of %" PRId64,
                            window->dims[0], p->length);
    if (p->step < 1 || p->length < 1 || p->length > x->dims[1])
        return nw_call_fail(call, NW_E_ARGUMENT,
                            "frames of %" PRId64 " every %" PRId64 " samples do not fit a signal of %" PRId64,
                            p->length, p->step, x->dims[1]);
    if (onesided && x->dims[2] == 2)
        return nw_call_fail(call, NW_E_ARGUMENT, "a one-sided transform needs a real signal");
    p->frames = (x->dims[1] - p->length) / p->step + 1;
    p->bins = onesided ? p->length / 2 + 1 : p->length;
    return NW_OK;
}

static nw_status stft_infer(nw_op_call *call) {
    const nw_tensor *x;
    stft p;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_expect_float(call, x));
    NW_TRY(read_stft(call, x, &p));
    return nw_call_set_moved(call, 0, x, 4, (const int64_t[]){x->dims[0], p.frames, p.bins, 2});
}

static nw_status stft_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *window = nw_call_in(call, 2);
    nw_tensor *out = &call->out[0];
    stft p;
    transform t;
    complex_number *room;
    NW_TRY(read_stft(call, x, &p));
    NW_TRY(transform_init(call, (size_t)p.length, false, &t));
    NW_TRY(nw_call_scratch(call, t.n, &room));
    size_t at = 0, lines = (size_t)x->dims[0] * (size_t)p.frames;
    for (size_t line = 0; line < lines; line++) {
        size_t b = line / (size_t)p.frames, frame = line % (size_t)p.frames;
        load_line(x, (size_t)x->dims[2], b * (size_t)x->dims[1] + frame * (size_t)p.step, 1, t.n, &t);
        for (size_t i = 0; i < t.n && window; i++) {
            double w = nw_tensor_f64(window, i);
            t.in[i].re *= w;
            t.in[i].im *= w;
        }
        transform_run(&t, room);
        for (int64_t k = 0; k < p.bins; k++) {
            nw_store_f64(out->format, out->data, at++, t.out[k].re);
            nw_store_f64(out->format, out->data, at++, t.out[k].im);
        }
    }
    return NW_OK;
}

const nw_op nw_op_STFT = {.name = "STFT", .domain = "", .infer = stft_infer, .eval = stft_eval};
