/* gemm_bits_body.h: tiles of gemm_bits.h, compiled for each ISA by a file that says
 *   NW_KERNEL(name)      the name with the ISA's suffix
 *   LANES, VECTORS, MR   columns to a register, registers to a panel, rows to a tile
 *   STRETCH              words after which `part` could overflow
 *   vector               a register
 *   load(w), repeat(w)   LANES words from memory; one word in all lanes
 *   count(part, x)       part + the bits of x, in elements of any width that stay inside their lane
 *   flush(sum, part)     sum + part, in elements that hold any count
 *   store(to, sum)       LANES counts as int32
 * Must not include anything but kern/. */
#include "kern/gemm_bits.h"
#include "kern/unroll.h"

static inline float clamped(float y, float lo, float hi) {
    y = y < lo ? lo : y;
    return y > hi ? hi : y;
}

/* Bits that differ, of one row of a tile, over all of its taps → the row of C. counts is changed. */
static void finish(const nw_gemm_bits_tile *tile, size_t row, int32_t *counts) {
    size_t inside = tile->taps;
    for (size_t t = 0; t < tile->taps && tile->pad; t++) {
        if (tile->rows[t * tile->row_stride + row] != tile->pad) continue;
        const int32_t *ones = tile->ones + t * tile->ones_stride; /* what 0 xor W counted there */
        inside--;
        for (size_t j = 0; j < tile->width; j++) counts[j] -= ones[j];
    }
    const int32_t all = (int32_t)(inside * tile->k);
    const size_t n = tile->n;
    const float lo = tile->lo, hi = tile->hi, *bias = tile->bias, *scale = tile->scale;
    float *c = (float *)((char *)tile->c + row * tile->ldc);
    if (bias) {
        NW_INDEPENDENT
        for (size_t j = 0; j < n; j++)
            c[j] = clamped((float)(all - 2 * counts[j]) * scale[j] + bias[j], lo, hi);
    } else {
        NW_INDEPENDENT
        for (size_t j = 0; j < n; j++) c[j] = clamped((float)(all - 2 * counts[j]) * scale[j], lo, hi);
    }
}

NW_INLINE void add_parts(const int m, const int vectors, vector sum[MR][VECTORS], vector part[MR][VECTORS]) {
    NW_UNROLL
    for (int i = 0; i < m * vectors; i++) {
        vector *to = &sum[i / vectors][i % vectors], *from = &part[i / vectors][i % vectors];
        *to = flush(*to, *from);
        *from = repeat(0);
    }
}

NW_INLINE void run_tile(const nw_gemm_bits_tile *tile, const int m, const int vectors) {
    vector sum[MR][VECTORS], part[MR][VECTORS];
    const uint64_t *w = tile->w, *a[MR];
    size_t left = STRETCH;
    NW_UNROLL
    for (int i = 0; i < m * vectors; i++)
        sum[i / vectors][i % vectors] = part[i / vectors][i % vectors] = repeat(0);
    for (size_t t = 0; t < tile->taps; t++) {
        NW_UNROLL
        for (int i = 0; i < m; i++) a[i] = tile->rows[t * tile->row_stride + (size_t)i];
        for (size_t k = 0; k < tile->words;) {
            const size_t end = tile->words - k < left ? tile->words : k + left;
            left -= end - k;
            for (; k < end; k++, w += vectors * LANES) {
                vector b[VECTORS];
                NW_UNROLL
                for (int v = 0; v < vectors; v++) b[v] = load(w + v * LANES);
                NW_UNROLL
                for (int i = 0; i < m; i++) {
                    const vector x = repeat(a[i][k]);
                    NW_UNROLL
                    for (int v = 0; v < vectors; v++) part[i][v] = count(part[i][v], x ^ b[v]);
                }
            }
            if (STRETCH == SIZE_MAX || left) continue;
            add_parts(m, vectors, sum, part);
            left = STRETCH;
        }
    }
    add_parts(m, vectors, sum, part);
    int32_t counts[MR][VECTORS * LANES]; /* of all rows, so that none is read while it is being stored */
    NW_UNROLL
    for (int i = 0; i < m * vectors; i++)
        store(counts[i / vectors] + i % vectors * LANES, sum[i / vectors][i % vectors]);
    for (int i = 0; i < m; i++) finish(tile, (size_t)i, counts[i]);
}

NW_INLINE void run_rows(const nw_gemm_bits_tile *tile, const int vectors) {
    switch (tile->m) {
    case 1: run_tile(tile, 1, vectors); return;
    case 2: run_tile(tile, 2, vectors); return;
    case 3: run_tile(tile, 3, vectors); return;
    default: run_tile(tile, MR, vectors); return;
    }
}

void NW_KERNEL(gemm_bits)(const nw_gemm_bits_tile *tile) {
    const size_t vectors = tile->width / LANES;
    if (vectors == VECTORS)
        run_rows(tile, VECTORS);
    else if (vectors == 1)
        run_rows(tile, 1);
    else if (vectors == 2)
        run_rows(tile, VECTORS > 2 ? 2 : 1);
    else
        run_rows(tile, VECTORS > 3 ? 3 : 1);
}
