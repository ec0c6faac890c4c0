/* qparam.h: what codes mean: x' = scale·(q − zero) or scale·level[q], per tensor, per channel of an axis, or per block
 * along an axis (docs/numerics.md). The element coding itself is a format (format.h).
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_QPARAM_H
#define NW_NUM_QPARAM_H

#include "base/arena.h"
#include "num/format.h"

typedef enum nw_grain { NW_GRAIN_TENSOR, NW_GRAIN_AXIS, NW_GRAIN_BLOCK } nw_grain;

/* A table that codes are positions in: value ascending, code q stands for value[q]. Encoding counts thresholds:
 * q = how many of them are ≤ x/scale, so ties go up. What "nearest" means is the thresholds' business (levels.h). */
typedef struct nw_levels {
    int count;              /* 2 … 256; 0: no table */
    const float *value;     /* [count] */
    const float *threshold; /* [count − 1], ascending */
} nw_levels;

/* Group g of an element: tensor: 0; axis: its index on the axis; block: its scale's position in the scale tensor, whose
 * shape is the data's with dims[axis] replaced by ceil(dims[axis]/block). */
typedef struct nw_qparam {
    nw_format format; /* of the codes: integer; a float (x' = scale·code); or an index into `levels` */
    nw_grain grain;
    int axis;               /* of grain AXIS and BLOCK; ≥ 0 */
    int64_t block;          /* elements per block of grain BLOCK */
    size_t groups;          /* number of scales */
    nw_format scale_format; /* of `scales`: f32 (0 means it too), f16, bf16 or f8e8m0 */
    const void *scales;     /* [groups], > 0; read them with nw_qparam_scale */
    const int32_t *zeros;   /* [groups] or NULL, meaning 0 everywhere */
    int32_t qmin, qmax;     /* codes used: may be narrower than the format (−127 … 127); 0 for floats */
    nw_levels levels;       /* of index formats, shared by all groups; count 0 for the others */
} nw_qparam;

struct nw_tensor;

static inline int32_t nw_qparam_zero(const nw_qparam *p, size_t g) {
    return p->zeros ? p->zeros[g] : 0;
}
static inline nw_format nw_qparam_scale_format(const nw_qparam *p) {
    return p->scale_format == NW_NONE ? NW_F32 : p->scale_format;
}
static inline float nw_qparam_scale(const nw_qparam *p, size_t g) {
    switch ((int)nw_qparam_scale_format(p)) {
    case NW_F32: return ((const float *)p->scales)[g];
    case NW_F16: return nw_f16_to_f32(((const uint16_t *)p->scales)[g]);
    case NW_BF16: return nw_bf16_to_f32(((const uint16_t *)p->scales)[g]);
    default: return nw_e8m0_to_f32(((const uint8_t *)p->scales)[g]);
    }
}
/* Same grid: the same codes mean the same numbers. */
bool nw_qparam_equal(const nw_qparam *a, const nw_qparam *b);
/* *out ← p with arrays of its own in `arena`. */
nw_status nw_qparam_copy(nw_arena *arena, const nw_qparam *p, nw_qparam *out);
/* Sets p->scales: scales [groups], which p->scale_format holds exactly (nw_round_scale), stored in the arena. */
nw_status nw_qparam_set_scales(nw_arena *arena, nw_qparam *p, const float *scales);
/* Bytes that scales, zero points and levels take in a file: a zero point is as large as a code. */
size_t nw_qparam_bytes(const nw_qparam *p);

/* Number of groups of a tensor of this shape under a grain. */
size_t nw_qparam_group_count(nw_grain grain, int axis, int64_t block, int rank, const int64_t *dims);

/* How a run of codes is laid out for a grain: data is [outer][length][inner] around the axis; used to walk groups.
 * Grain TENSOR: outer 1, length 1, inner everything. */
typedef struct nw_group_walk {
    size_t outer, length, inner, block; /* block is 1 for grain AXIS, `length` for TENSOR */
} nw_group_walk;
nw_group_walk nw_group_walk_of(const nw_qparam *p, int rank, const int64_t *dims);

/* A run of elements in memory, [first, first + count): element first + i belongs to group + i·step. */
typedef struct nw_group_run {
    size_t first, count, group, step; /* step 0 or 1 */
} nw_group_run;
typedef void nw_group_run_fn(const nw_qparam *p, const nw_group_run *run, void *user);
/* Calls fn for runs that together are the tensor, in the order of memory. Of p only the grain is read. */
void nw_walk_groups(const nw_qparam *p, int rank, const int64_t *dims, nw_group_run_fn *fn, void *user);

/* The one rounding rule: half to even, then saturate. inv is not used: x/scale is a true division, as ONNX
 * QuantizeLinear says. NaN gives the zero point. */
static inline int32_t nw_quantize_one(float x, float scale, int32_t zero, int32_t qmin, int32_t qmax) {
    float r = __builtin_rintf(x / scale) + (float)zero;
    if (!(r >= (float)qmin)) return r != r ? zero : qmin;
    return r >= (float)qmax ? qmax : (int32_t)r;
}

/* codes ← quantize(x), x f32 of the given shape, codes in p->format (packed for sub-byte formats; float and index
 * formats encode x/scale). Returns how many elements saturated: those beyond the outermost codes by more than half a
 * step (float formats: beyond the largest number). */
size_t nw_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes);
void nw_dequantize(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, float *x);
/* x' = dequantize(quantize(x)), in place allowed. Returns the saturated count. */
size_t nw_fake_quantize(const nw_qparam *p, int rank, const int64_t *dims, const float *x, float *out);

/* Calls fn for pieces of at most NW_PIECE elements, in the order of memory, with the numbers that their codes mean. Whole
 * tensors of any storage: nw_tensor_walk. */
#define NW_PIECE 512
typedef void nw_numbers_fn(const nw_group_run *piece, const float *x, void *user);
void nw_walk_numbers(const nw_qparam *p, int rank, const int64_t *dims, const void *codes, nw_numbers_fn *fn,
                     void *user);

/* What quantization does to a tensor. */
typedef struct nw_quant_stats {
    size_t count, saturated;
    double sum, squares, noise; /* Σx, Σx², Σ(x − x')² */
} nw_quant_stats;
/* nw_quantize, and *stats. */
void nw_quantize_with_stats(const nw_qparam *p, int rank, const int64_t *dims, const float *x, void *codes,
                            nw_quant_stats *stats);

#endif
