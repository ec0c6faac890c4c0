#include "num/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

size_t nw_dims_product(const int64_t *dims, int from, int to) {
    size_t n = 1;
    for (int i = from; i < to; i++) n *= (size_t)dims[i];
    return n;
}

size_t nw_tensor_count(const nw_tensor *t) {
    return nw_dims_product(t->dims, 0, t->rank);
}

size_t nw_tensor_bytes(const nw_tensor *t) {
    size_t bytes = 0;
    nw_format_bytes(t->format, nw_tensor_count(t), &bytes);
    return bytes;
}

nw_status nw_tensor_check(nw_context *ctx, const nw_tensor *t) {
    if (t->rank < 0 || t->rank > NW_MAX_RANK)
        return nw_fail(ctx, NW_E_UNSUPPORTED, "rank %d; at most %d dimensions are supported", t->rank,
                       NW_MAX_RANK);
    size_t n = 1, bytes;
    bool fits = true;
    for (int i = 0; i < t->rank; i++) {
        if (t->dims[i] < 0)
            return nw_fail(ctx, NW_E_SHAPE, "dimension %d is negative (%" PRId64 ")", i, t->dims[i]);
        if (t->dims[i] > 0)
            fits = fits && nw_mul_size(n, (size_t)t->dims[i], &n); /* zeros must not hide overflow */
    }
    if (!fits || n > SIZE_MAX / 32 || !nw_format_bytes(t->format, n, &bytes))
        return nw_fail(ctx, NW_E_SHAPE, "a tensor of this shape is too large for this machine");
    return NW_OK;
}

bool nw_tensor_same_shape(const nw_tensor *a, const nw_tensor *b) {
    return a->rank == b->rank &&
           (a->rank == 0 || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0);
}

void nw_tensor_set_shape(nw_tensor *t, int rank, const int64_t *dims) {
    t->rank = rank;
    if (rank > 0) memmove(t->dims, dims, (size_t)rank * sizeof *dims);
}

char *nw_tensor_describe(const nw_tensor *t, char *buffer, size_t size) {
    size_t at = (size_t)snprintf(buffer, size, "%s [", nw_format_name(t->format));
    for (int i = 0; i < t->rank && at < size; i++)
        at += (size_t)snprintf(buffer + at, size - at, "%s%" PRId64, i ? "," : "", t->dims[i]);
    if (at < size) snprintf(buffer + at, size - at, "]");
    return buffer;
}

nw_status nw_tensor_alloc(nw_arena *arena, nw_tensor *t) {
    NW_TRY(nw_tensor_check(arena->ctx, t));
    t->data = nw_arena_data(arena, nw_tensor_bytes(t));
    return t->data ? NW_OK : NW_E_MEMORY;
}

bool nw_tensor_aligned(const nw_tensor *t) {
    size_t size = (size_t)nw_format_bits(t->format) / 8;
    return size < 2 || (uintptr_t)t->data % (size < 8 ? size : 8) == 0;
}

nw_status nw_tensor_to_f32(nw_arena *arena, const nw_tensor *t, nw_tensor *out) {
    if (t->format == NW_F32 && !t->qparam && nw_tensor_aligned(t)) {
        *out = *t;
        return NW_OK;
    }
    nw_tensor real = *t;
    real.format = NW_F32;
    real.qparam = NULL;
    NW_TRY(nw_tensor_alloc(arena, &real));
    if (t->qparam)
        nw_dequantize(t->qparam, t->rank, t->dims, t->data, real.data);
    else if (t->format == NW_F32)
        memcpy(real.data, t->data, nw_tensor_bytes(t));
    else
        nw_decode_f32(t->format, t->data, 0, nw_tensor_count(t), real.data);
    *out = real;
    return NW_OK;
}

void nw_tensor_walk(const nw_tensor *t, nw_numbers_fn *fn, void *user) {
    if (t->qparam) {
        nw_walk_numbers(t->qparam, t->rank, t->dims, t->data, fn, user);
        return;
    }
    float x[NW_PIECE];
    for (size_t first = 0, count = nw_tensor_count(t); first < count; first += NW_PIECE) {
        nw_group_run piece = {first, count - first < NW_PIECE ? count - first : NW_PIECE, 0, 0};
        nw_decode_f32(t->format, t->data, first, piece.count, x);
        fn(&piece, x, user);
    }
}

nw_tensor nw_tensor_rows(const nw_tensor *t, size_t first, size_t count, nw_qparam *q) {
    nw_tensor rows = *t;
    size_t row = nw_dims_product(t->dims, 1, t->rank), bits = (size_t)nw_format_bits(t->format);
    rows.dims[0] = (int64_t)count;
    rows.data = (char *)t->data + first * row * bits / 8;
    if (!t->qparam) return rows;
    *q = *t->qparam;
    rows.qparam = q;
    if (q->grain == NW_GRAIN_TENSOR || (q->grain == NW_GRAIN_AXIS && q->axis != 0)) return rows;
    const size_t per_row = q->groups / (size_t)t->dims[0], skip = first * per_row;
    q->groups = count * per_row;
    q->scales = (const char *)q->scales + skip * (size_t)nw_format_bits(nw_qparam_scale_format(q)) / 8;
    if (q->zeros) q->zeros += skip;
    return rows;
}

nw_status nw_tensor_transpose_codes(nw_arena *arena, const nw_tensor *t, nw_tensor *out) {
    size_t a = (size_t)t->dims[1], b = (size_t)t->dims[2], matrix = a * b;
    *out = (nw_tensor){.format = t->format, .rank = 3, .dims = {t->dims[0], t->dims[2], t->dims[1]}};
    NW_TRY(nw_tensor_alloc(arena, out));
    const uint8_t *from = t->data;
    uint8_t *to = out->data;
    for (int64_t n = 0; n < t->dims[0]; n++, from += matrix, to += matrix)
        for (size_t i = 0; i < a; i++)
            for (size_t j = 0; j < b; j++) to[j * a + i] = from[i * b + j];
    return NW_OK;
}
