/* tensor.h: a view of an array: format, shape, data and, for quantized storage, how codes mean real numbers.
 * Contiguous, row-major (the last dimension varies fastest); owns nothing.
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_TENSOR_H
#define NW_NUM_TENSOR_H

#include "base/arena.h"
#include "num/format.h"
#include "num/qparam.h"

#define NW_MAX_RANK 8

typedef struct nw_tensor {
    nw_format format; /* of the stored elements */
    int rank;         /* 0 … NW_MAX_RANK; 0 is a scalar of one element */
    int64_t dims[NW_MAX_RANK];
    void *data; /* NULL when only the shape is known */
    const nw_qparam
        *qparam; /* NULL: elements are the values; else value = scale·(code − zero) or scale·level[code] */
} nw_tensor;

/* Product of dims; every tensor made by this library fits in size_t (nw_tensor_check). */
size_t nw_tensor_count(const nw_tensor *t);
size_t nw_tensor_bytes(const nw_tensor *t);
/* Product of dims[from … to). */
size_t nw_dims_product(const int64_t *dims, int from, int to);
/* Rank and dims are sane: rank ≤ NW_MAX_RANK, no negative dim, the byte size does not overflow. */
nw_status nw_tensor_check(nw_context *ctx, const nw_tensor *t);
bool nw_tensor_same_shape(const nw_tensor *a, const nw_tensor *b);
void nw_tensor_set_shape(nw_tensor *t, int rank, const int64_t *dims);

/* "f32 [1,3,224,224]" into buffer; returns buffer. */
char *nw_tensor_describe(const nw_tensor *t, char *buffer, size_t size);

/* Numbers nobody has quantized: f32, or 16-bit floats that stand for themselves. */
static inline bool nw_tensor_is_real(const nw_tensor *t) {
    const nw_qparam *p = t->qparam;
    if (!p) return t->format == NW_F32;
    return (p->format == NW_F16 || p->format == NW_BF16) && p->grain == NW_GRAIN_TENSOR &&
           nw_qparam_scale(p, 0) == 1;
}
/* Integer element i of an s32, s64, u8 … tensor; floats are truncated. */
static inline int64_t nw_tensor_s64(const nw_tensor *t, size_t i) {
    return nw_load_s64(t->format, t->data, i);
}
static inline double nw_tensor_f64(const nw_tensor *t, size_t i) {
    return nw_load_f64(t->format, t->data, i);
}

/* Allocates t->data for its format and shape in the arena, uninitialised. */
nw_status nw_tensor_alloc(nw_arena *arena, nw_tensor *t);

/* Elements lie at multiples of their size. Large weights may not: they are used where they lie in a file. */
bool nw_tensor_aligned(const nw_tensor *t);
/* The real values of t as f32 in the arena, aligned: dequantizes when t has a qparam, converts other formats. When t is
 * plain f32 already, and aligned, *out shares its data. */
nw_status nw_tensor_to_f32(nw_arena *arena, const nw_tensor *t, nw_tensor *out);

/* The real values of t, piece by piece: memory for none but a piece. Plain elements are all of group 0. */
void nw_tensor_walk(const nw_tensor *t, nw_numbers_fn *fn, void *user);

/* Rows [first, first + count) along t's first axis, sharing its bytes, its scales and zero points; *q becomes the qparam of
 * the result if t has one; no blocks along the first axis. Below 8 bits, `first` rows must fill whole bytes: 8 always do. */
nw_tensor nw_tensor_rows(const nw_tensor *t, size_t first, size_t count, nw_qparam *q);

/* Plain 8-bit codes [n, a, b] as [n, b, a] in the arena, without a qparam. */
nw_status nw_tensor_transpose_codes(nw_arena *arena, const nw_tensor *t, nw_tensor *out);

#endif
