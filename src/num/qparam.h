/* qparam.h: what integer codes mean: x' = scale·(q − zero), per tensor, per channel of an axis, or per block along an
 * axis (docs/numerics.md). The element coding itself is a format (format.h).
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_QPARAM_H
#define NW_NUM_QPARAM_H

#include "base/context.h"
#include "num/format.h"

typedef enum nw_grain { NW_GRAIN_TENSOR, NW_GRAIN_AXIS, NW_GRAIN_BLOCK } nw_grain;

/* Group g of an element: tensor: 0; axis: its index on the axis; block: its scale's position in the scale tensor, whose
 * shape is the data's with dims[axis] replaced by ceil(dims[axis]/block). */
typedef struct nw_qparam {
    nw_format format; /* of the codes */
    nw_grain grain;
    int axis;             /* of grain AXIS and BLOCK; ≥ 0 */
    int64_t block;        /* elements per block of grain BLOCK */
    size_t groups;        /* number of scales */
    const float *scales;  /* [groups], > 0 */
    const int32_t *zeros; /* [groups] or NULL, meaning 0 everywhere */
    int32_t qmin, qmax;   /* codes used: may be narrower than the format (−127 … 127) */
} nw_qparam;

struct nw_tensor;

static inline int32_t nw_qparam_zero(const nw_qparam *p, size_t g) {
    return p->zeros ? p->zeros[g] : 0;
}
bool nw_qparam_equal(const nw_qparam *a,
                     const nw_qparam *b); /* same grid: the same codes mean the same numbers */

/* Number of groups of a tensor of this shape under a grain. */
size_t nw_qparam_group_count(nw_grain grain, int axis, int64_t block, int rank, const int64_t *dims);

/* How a run of codes is laid out for a grain: data is [outer][length][inner] around the axis; used to walk groups.
 * Grain TENSOR: outer 1, length 1, inner everything. */
typedef struct nw_group_walk {
    size_t outer, length, inner, block; /* block is 1 for grain AXIS, `length` for TENSOR */
} nw_group_walk;
nw_group_walk nw_group_walk_of(const nw_qparam *p, int rank, const int64_t *dims);

/* The one rounding rule: half to even, then saturate. inv is not used: x/scale is a true division, as ONNX
 * QuantizeLinear says. NaN gives the zero point. */
static inline int32_t nw_quantize_one(float x, float scale, int32_t zero, int32_t qmin, int32_t qmax) {
    float r = __builtin_rintf(x / scale) + (float)zero;
    if (!(r >= (float)qmin)) return r != r ? zero : qmin;
    return r >= (float)qmax ? qmax : (int32_t)r;
}

/* codes ← quantize(x), x f32 of the given shape, codes in p->format (packed for sub-byte formats; float formats encode
 * x/scale). Returns how many elements saturated. */
size_t nw_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes);
void nw_dequantize(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, float *x);
/* x' = dequantize(quantize(x)), in place allowed. Returns the saturated count. */
size_t nw_fake_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, float *out);

/* Scale and zero point of the grid [qmin, qmax] for reals in [lo, hi] (docs/numerics.md). The range is widened to hold 0.
 * Symmetric: zero = 0 for signed codes (or unsigned with lo ≥ 0); asymmetric: zero in [qmin, qmax]. A constant
 * tensor round-trips; the scale is never 0, denormal or infinite. */
void nw_choose_scale(float lo, float hi, bool symmetric, int32_t qmin, int32_t qmax, float *scale,
                     int32_t *zero);

#endif
