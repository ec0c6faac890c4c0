/* gemm_bits.c: choosing a kernel, packing weights, and the loops around tiles of gemm_bits.h. Must not include anything but
 * kern/. */
#include "kern/gemm_bits.h"

#include "kern/gemm_blocks.h"

#include <string.h>

static const nw_gemm_bits_kernel kernels[] = {
#define NW_GEMM_BITS(isa, word, mr, nr, half, least)                                                         \
    {"gemm_bits__" #word, NW_ISA_##isa, mr, nr, half, least, nw_gemm_bits__##word, nw_pack_signs__##word},
#include "kern/gemm_bits.def"
#undef NW_GEMM_BITS
};

const nw_gemm_bits_kernel *nw_gemm_bits_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < sizeof kernels / sizeof *kernels; i++)
        if (kernels[i].isa <= ceiling && nw_isa_supported(kernels[i].isa)) best = i;
    return &kernels[best];
}

/* ---- packing ------------------------------------------------------------------------------------------- */

/* Panels of words [tap][word][column], panel p at p·nr·taps·words; behind them all how many bits are 1 in each tap of each
 * column, as int32 [tap][column]. */
static int32_t *ones_of(const nw_gemm_bits_kernel *kernel, size_t n, size_t k, size_t taps,
                        const void *packed) {
    return (int32_t *)((uint64_t *)(uintptr_t)packed +
                       nw_round_up(n, kernel->half) * taps * nw_bits_words(k));
}

size_t nw_gemm_bits_packed_bytes(const nw_gemm_bits_kernel *kernel, size_t n, size_t k, size_t taps) {
    size_t columns, bytes;
    if (n > SIZE_MAX - kernel->half) return 0;
    if (__builtin_mul_overflow(nw_round_up(n, kernel->half), taps, &columns) ||
        __builtin_mul_overflow(columns, nw_bits_words(k) * sizeof(uint64_t) + sizeof(int32_t), &bytes))
        return 0;
    return bytes;
}

static uint64_t pack_word(const uint8_t *bits, size_t at, size_t stride, size_t count) {
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++, at += stride) word |= (uint64_t)(bits[at / 8] >> at % 8 & 1) << i;
    return word;
}

void nw_gemm_bits_pack(const nw_gemm_bits_kernel *kernel, size_t n, size_t k, size_t taps,
                       const uint8_t *bits, size_t first, size_t stride_n, size_t stride_tap, size_t stride_k,
                       void *packed) {
    const size_t words = nw_bits_words(k), all = nw_round_up(n, kernel->half);
    int32_t *ones = ones_of(kernel, n, k, taps, packed);
    uint64_t *out = packed;
    memset(ones, 0, all * taps * sizeof *ones);
    for (size_t n0 = 0; n0 < n; n0 += kernel->nr) {
        const size_t width = nw_panel_width(n - n0, kernel->nr, kernel->half);
        for (size_t t = 0; t < taps; t++)
            for (size_t i = 0; i < words; i++, out += width)
                for (size_t j = 0; j < width; j++) {
                    const size_t at = first + (n0 + j) * stride_n + t * stride_tap + i * 64 * stride_k;
                    out[j] = n0 + j < n ? pack_word(bits, at, stride_k, nw_least(64, k - i * 64)) : 0;
                    ones[t * all + n0 + j] += __builtin_popcountll(out[j]);
                }
    }
}

/* ---- loops --------------------------------------------------------------------------------------------- */

void nw_gemm_bits_run(const nw_gemm_bits_kernel *kernel, const nw_gemm_bits_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1) {
    const void *buffer[NW_BLOCK_POINTERS];
    const size_t nr = kernel->nr, words = nw_bits_words(args->k), depth = args->taps * words;
    const nw_blocking b = nw_block_of(kernel->mr, words * sizeof(uint64_t), args->taps, &args->rows);
    const int32_t *ones = ones_of(kernel, args->n, args->k, args->taps, args->packed);
    nw_gemm_bits_tile tile = {.k = args->k,
                              .words = words,
                              .taps = args->taps,
                              .pad = args->rows.window ? args->rows.pad : NULL,
                              .ones_stride = nw_round_up(args->n, kernel->half),
                              .ldc = args->ldc,
                              .lo = args->lo,
                              .hi = args->hi};
    for (size_t mb = m0; mb < m1; mb += b.block_rows) {
        const size_t count = nw_least(b.block_rows, m1 - mb);
        const void *const *rows = nw_block_rows(&args->rows, args->taps, mb, count, buffer, &tile.row_stride);
        for (size_t j = n0; j < n1; j += nr) {
            tile.n = nw_least(nr, n1 - j);
            tile.width = nw_panel_width(n1 - j, nr, kernel->half);
            tile.w = (const uint64_t *)args->packed + j * depth;
            tile.ones = ones + j;
            tile.scale = args->scale + j;
            tile.bias = args->bias ? args->bias + j : NULL;
            for (size_t i = 0; i < count; i += tile.m) {
                tile.m = nw_least(b.tile_rows, count - i);
                tile.rows = rows + i;
                tile.c = (float *)((char *)args->c + (mb + i) * args->ldc) + j;
                kernel->run(&tile);
            }
        }
    }
}
