/* gemm_wcodes.c: choosing a kernel, packing codes, and the loops around tiles. Must not include anything but kern/ and
 * num/format.h. */
#include "kern/gemm_wcodes.h"

#include "kern/gemm_blocks.h"

#include <string.h>

static const nw_wgemm_kernel kernels[] = {
#define NW_WGEMM(isa, word, u8_word, nr, mr, ahead, mr_u8)                                                   \
    {"gemm_wcodes__" #word,                                                                                  \
     NW_ISA_##isa,                                                                                           \
     nr,                                                                                                     \
     mr,                                                                                                     \
     ahead,                                                                                                  \
     mr_u8,                                                                                                  \
     nw_wgemm_f32__##word,                                                                                   \
     nw_wgemm_decode__##word,                                                                                \
     nw_wgemm_u8__##u8_word,                                                                                 \
     "gemm_u8_wcodes__" #u8_word},
#define NW_WGEMM_BF16(isa, word, nr, mr)
#include "kern/gemm_wcodes.def"
#undef NW_WGEMM
#undef NW_WGEMM_BF16
};

static const nw_wgemm_bf16_kernel bf16_kernels[] = {
#define NW_WGEMM(isa, word, f32_word, nr, mr, ahead, mr_u8)
#define NW_WGEMM_BF16(isa, word, nr, mr)                                                                     \
    {"gemm_bf16_wcodes__" #word, NW_ISA_##isa, nr, mr, nw_wgemm_bf16__##word},
#include "kern/gemm_wcodes.def"
#undef NW_WGEMM
#undef NW_WGEMM_BF16
};

const nw_wgemm_kernel *nw_wgemm_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < sizeof kernels / sizeof *kernels; i++)
        if (kernels[i].isa <= ceiling && nw_isa_supported(kernels[i].isa)) best = i;
    return &kernels[best];
}

const nw_wgemm_bf16_kernel *nw_wgemm_bf16_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < sizeof bf16_kernels / sizeof *bf16_kernels; i++)
        if (bf16_kernels[i].isa <= ceiling && nw_isa_supported(bf16_kernels[i].isa)) best = i;
    return &bf16_kernels[best];
}

/* ---- packing ------------------------------------------------------------------------------------------- */

static size_t panel_bytes(const nw_wcodes *w, size_t nr) {
    size_t rest = w->k % w->block, bytes = w->k / w->block * nw_wcodes_record(w, nr, w->block);
    return rest ? bytes + nw_wcodes_record(w, nr, rest) : bytes;
}

size_t nw_wcodes_bytes(size_t nr, const nw_wcodes *w) {
    const size_t limit = SIZE_MAX / (64 * NW_WGEMM_MAX_NR); /* a code takes 9 bytes at most */
    size_t bytes;
    if (w->n > SIZE_MAX - nr || w->k > limit || w->block > limit) return 0;
    if (__builtin_mul_overflow((w->n + nr - 1) / nr, panel_bytes(w, nr), &bytes) ||
        bytes > SIZE_MAX - NW_GEMM_ALIGN)
        return 0;
    return (bytes + NW_GEMM_ALIGN - 1) / NW_GEMM_ALIGN * NW_GEMM_ALIGN;
}

/* Codes first … first + count to out[0], out[step], … */
static void load_codes(int bits, const void *codes, size_t first, size_t count, size_t step, uint16_t *out) {
    if (bits == 16) {
        const char *from = (const char *)codes + 2 * first;
        for (size_t i = 0; i < count; i++) memcpy(&out[i * step], from + 2 * i, 2);
        return;
    }
    const uint8_t *from = codes;
    const size_t per_byte = 8 / (size_t)bits;
    const unsigned mask = (1u << bits) - 1;
    for (size_t i = first; i < first + count; i++)
        out[(i - first) * step] = (uint16_t)(from[i / per_byte] >> (i % per_byte * (size_t)bits) & mask);
}

#define SPAN 128 /* codes of a column unpacked at a time: whole words */

/* codes[i][j] ← code of W[n0 + j][k0 + i], i < count, j < columns; the rest of `nr` stays. */
static void load_span(const nw_wcodes *w, const nw_wcodes_source *s, size_t n0, size_t columns, size_t k0,
                      size_t count, size_t nr, uint16_t *codes) {
    const bool one_tap = s->depth == w->k;
    n0 += s->first_n;
    if (s->stride_k == 1 && one_tap)
        for (size_t j = 0; j < columns; j++)
            load_codes(w->bits, s->codes, (n0 + j) * s->stride_n + k0, count, nr, codes + j);
    else if (s->stride_n == 1 && one_tap)
        for (size_t i = 0; i < count; i++)
            load_codes(w->bits, s->codes, (k0 + i) * s->stride_k + n0, columns, 1, codes + i * nr);
    else
        for (size_t i = 0; i < count; i++) {
            const size_t tap = (k0 + i) / s->depth, at = (k0 + i) % s->depth;
            for (size_t j = 0; j < columns; j++)
                load_codes(w->bits, s->codes, (n0 + j) * s->stride_n + tap * s->stride_tap + at * s->stride_k,
                           1, 1, codes + i * nr + j);
        }
    if (s->flip)
        for (size_t i = 0; i < count * nr; i++) codes[i] ^= s->flip;
}

/* Words of `count` ≤ SPAN codes per column. Returns where the next ones go. */
static char *store_words(const nw_wcodes *w, size_t count, size_t nr, const uint16_t *codes, char *out) {
    const size_t per_word = nw_wcodes_per_word(w);
    uint32_t words[NW_WGEMM_MAX_NR];
    for (size_t k = 0; k < count; k += per_word, out += nr * sizeof *words) {
        memset(words, 0, sizeof words);
        for (size_t i = 0; i < nw_least(per_word, count - k); i++) {
            const int shift = nw_wcodes_shift(w, i);
            const uint16_t *row = codes + (k + i) * nr;
            for (size_t j = 0; j < nr; j++) words[j] |= (uint32_t)row[j] << shift;
        }
        memcpy(out, words, nr * sizeof *words);
    }
    return out;
}

static float scale_at(nw_format format, const void *scales, size_t i) {
    const uint16_t *half = scales;
    switch ((int)format) {
    case NW_F32: return ((const float *)scales)[i];
    case NW_F16: return nw_f16_to_f32(half[i]);
    case NW_BF16: return nw_bf16_to_f32(half[i]);
    default: return nw_e8m0_to_f32(((const uint8_t *)scales)[i]);
    }
}

nw_format nw_wcodes_scale_format(nw_format source) {
    return source == NW_F8E8M0 ? NW_BF16 : source; /* which holds every power of two of it */
}

/* Scales and zero points of the block that begins at k0, columns n0 …; those of padding columns are 0. The values also go to scale[], zero[]. */
static char *store_head(const nw_wcodes *w, const nw_wcodes_source *s, size_t n0, size_t columns, size_t k0,
                        size_t nr, float *scale, int32_t *zero, char *out) {
    const size_t block = k0 / s->depth * s->scale_tap + k0 % s->depth / s->block * s->scale_b;
    int8_t zeros[NW_WGEMM_MAX_NR] = {0};
    for (size_t j = 0; j < nr; j++) {
        const size_t at = (s->first_n + n0 + j) * s->scale_n + block;
        scale[j] = j < columns ? scale_at(s->scale_format, s->scales, at) : 0;
        zero[j] = w->zeros && j < columns ? s->zeros[at] - s->zero_shift : 0;
        zeros[j] = (int8_t)zero[j];
        uint16_t half = w->scale_format == NW_F16 ? nw_f16_from_f32(scale[j]) : nw_bf16_from_f32(scale[j]);
        if (w->scale_format == NW_F32)
            memcpy(out + j * sizeof *scale, &scale[j], sizeof *scale);
        else
            memcpy(out + j * sizeof half, &half, sizeof half);
    }
    out += nw_wcodes_head(w, nr);
    if (w->zeros) memcpy(out - nr, zeros, nr);
    return out;
}

void nw_wcodes_pack(size_t nr, const nw_wcodes *w, const nw_wcodes_source *source, void *packed,
                    float *sums) {
    uint16_t codes[SPAN * NW_WGEMM_MAX_NR];
    float scale[NW_WGEMM_MAX_NR];
    int32_t zero[NW_WGEMM_MAX_NR];
    char *out = packed;
    memset(codes, 0, sizeof codes);
    for (size_t n0 = 0; n0 < w->n; n0 += nr) {
        const size_t columns = nw_least(nr, w->n - n0);
        double total[NW_WGEMM_MAX_NR] = {0};
        if (columns < nr) memset(codes, 0, sizeof codes); /* padding columns */
        for (size_t k0 = 0; k0 < w->k;) {
            const size_t end = nw_least(k0 + w->block, w->k);
            int64_t steps[NW_WGEMM_MAX_NR] = {0};
            out = store_head(w, source, n0, columns, k0, nr, scale, zero, out);
            for (; k0 < end; k0 += SPAN) {
                const size_t count = nw_least(SPAN, end - k0);
                load_span(w, source, n0, columns, k0, count, nr, codes);
                out = store_words(w, count, nr, codes, out);
                for (size_t i = 0; w->whole && i < count; i++)
                    for (size_t j = 0; j < nr; j++) {
                        const uint16_t code = codes[i * nr + j];
                        steps[j] += (w->kind == NW_WCODES_S8 ? (int8_t)code : w->step[code & 15]) - zero[j];
                    }
            }
            k0 = end;
            for (size_t j = 0; j < nr; j++) total[j] += (double)scale[j] * (double)steps[j];
        }
        for (size_t j = 0; w->whole && j < columns; j++) sums[n0 + j] = (float)total[j];
    }
}

void nw_wgemm_decode(const nw_wgemm_kernel *kernel, const nw_wcodes *w, size_t n0, float *out) {
    const nw_gemm_f32_kernel *f32 = nw_gemm_f32_select(kernel->isa);
    kernel->decode(w, (const char *)w->packed + n0 / kernel->nr * panel_bytes(w, kernel->nr), 0, w->k,
                   nw_panel_width(w->n - n0, f32->nr, f32->half), out);
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

#define DEPTH      512 /* k of a panel that are decoded at a time */
#define BLOCK_ROWS 256 /* whose DEPTH columns of A stay in the second-level cache while panels pass */

#define FEW_ROWS 32 /* of A, which the second-level cache keeps while panels pass */

/* `count` rows at m0 by tiles that decode in registers: each panel is read from memory once for all of them. */
static void few_rows(const nw_wgemm_kernel *kernel, const nw_wgemm_f32_args *args, size_t m0, size_t count,
                     size_t n0, size_t n1) {
    const size_t bytes = panel_bytes(args->w, kernel->nr), tiles = (count + kernel->mr - 1) / kernel->mr;
    const size_t tile_rows = (count + tiles - 1) / tiles;
    nw_wgemm_f32_tile tile = {
        .w = args->w, .lda = args->lda, .ldc = args->ldc, .lo = args->lo, .hi = args->hi};
    for (size_t j = n0; j < n1; j += kernel->nr) {
        tile.panel = (const char *)args->w->packed + j / kernel->nr * bytes;
        tile.n = nw_least(kernel->nr, n1 - j);
        tile.bias = args->bias ? args->bias + j : NULL;
        for (size_t i = 0; i < count; i += tile.m) {
            tile.m = nw_least(tile_rows, count - i);
            tile.a = (const float *)((const char *)args->a + (m0 + i) * args->lda);
            tile.c = (float *)((char *)args->c + (m0 + i) * args->ldc) + j;
            kernel->f32(&tile);
        }
    }
}

/* Where a stretch of at most DEPTH that begins at k0 ends: whole blocks, or whole words of one. */
static size_t stretch_end(const nw_wcodes *w, size_t k0) {
    size_t end = k0 + DEPTH;
    if (w->block <= DEPTH)
        end = k0 + DEPTH / w->block * w->block;
    else if (end > (k0 / w->block + 1) * w->block)
        end = (k0 / w->block + 1) * w->block;
    return nw_least(end, w->k);
}

/* Bytes of a panel before the codes of k. */
static size_t codes_before(const nw_wcodes *w, size_t nr, size_t k) {
    return k / w->block * nw_wcodes_record(w, nr, w->block) +
           (k % w->block ? nw_wcodes_record(w, nr, k % w->block) : 0);
}

/* `count` rows at m0 times k0 ≤ k < k1 of each panel, decoded once: sums so far stand in C, which gets the bias first and is
 * clamped in the end. */
static void stretch(const nw_wgemm_kernel *kernel, const nw_wgemm_f32_args *args, size_t m0, size_t count,
                    size_t n0, size_t n1, size_t k0, size_t k1) {
    const nw_gemm_f32_kernel *f32 = nw_gemm_f32_select(kernel->isa);
    const size_t bytes = panel_bytes(args->w, kernel->nr), tiles = (count + f32->mr - 1) / f32->mr;
    const size_t tile_rows = (count + tiles - 1) / tiles;
    const void *rows[BLOCK_ROWS];
    float panel[DEPTH * NW_WGEMM_MAX_NR] __attribute__((aligned(NW_GEMM_ALIGN)));
    const bool first = k0 == 0, last = k1 == args->w->k;
    for (size_t i = 0; i < count; i++)
        rows[i] = (const float *)((const char *)args->a + (m0 + i) * args->lda) + k0;
    nw_gemm_f32_tile tile = {.k = k1 - k0,
                             .taps = 1,
                             .w = panel,
                             .ldc = args->ldc,
                             .accumulate = !first,
                             .lo = last ? args->lo : -__builtin_inff(),
                             .hi = last ? args->hi : __builtin_inff()};
    const size_t from = codes_before(args->w, kernel->nr, k0),
                 next = codes_before(args->w, kernel->nr, k1) - from;
    for (size_t j = n0; j < n1; j += kernel->nr) {
        tile.n = nw_least(kernel->nr, n1 - j);
        tile.bias = first && args->bias ? args->bias + j : NULL;
        const char *codes = (const char *)args->w->packed + j / kernel->nr * bytes;
        kernel->decode(args->w, codes, k0, k1, nw_panel_width(tile.n, f32->nr, f32->half), panel);
        for (size_t i = 0; i < count; i += tile.m) {
            tile.m = nw_least(tile_rows, count - i);
            tile.rows = rows + i;
            tile.c = (float *)((char *)args->c + (m0 + i) * args->ldc) + j;
            tile.fetch = nw_gemm_fetch_of(codes + bytes + from, next, i / tile_rows, tiles, k1 - k0);
            f32->run(&tile);
        }
    }
}

void nw_wgemm_f32_run(const nw_wgemm_kernel *kernel, const nw_wgemm_f32_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1) {
    /* Codes of 16 bits are slow to come: few_rows has them come again for every FEW_ROWS rows. */
    size_t ahead = kernel->ahead;
    if (nw_wcodes_kind_of_256(args->w->kind)) ahead = NW_WGEMM_ROWS_OF_256;
    if (args->w->bits == 16) ahead = nw_least(ahead, 2 * FEW_ROWS);
    if (m1 - m0 <= ahead) {
        for (size_t mb = m0; mb < m1; mb += FEW_ROWS)
            few_rows(kernel, args, mb, nw_least(FEW_ROWS, m1 - mb), n0, n1);
        return;
    }
    for (size_t mb = m0; mb < m1; mb += BLOCK_ROWS)
        for (size_t k0 = 0, k1; k0 < args->w->k; k0 = k1) {
            k1 = stretch_end(args->w, k0);
            stretch(kernel, args, mb, nw_least(BLOCK_ROWS, m1 - mb), n0, n1, k0, k1);
        }
}

/* ---- u8 ------------------------------------------------------------------------------------------------ */

#define A_BYTES (512 * 1024) /* of A that a pass over all panels rereads from the second-level cache */

void nw_wgemm_u8_run(const nw_wgemm_kernel *kernel, const nw_wgemm_u8_args *args, size_t m0, size_t m1,
                     size_t n0, size_t n1) {
    const nw_wcodes *w = args->w;
    const size_t bytes = panel_bytes(w, kernel->nr), mr = kernel->mr_u8;
    const size_t block_rows = A_BYTES / w->k < mr ? mr : nw_least(A_BYTES / w->k, BLOCK_ROWS) / mr * mr;
    float zero[BLOCK_ROWS], factor[BLOCK_ROWS];
    nw_wgemm_u8_tile tile = {.w = w, .lda = args->lda, .ldc = args->ldc, .lo = args->lo, .hi = args->hi};
    for (size_t mb = m0; mb < m1; mb += block_rows) {
        const size_t count = nw_least(block_rows, m1 - mb), tiles = (count + mr - 1) / mr;
        const size_t tile_rows = (count + tiles - 1) / tiles;
        for (size_t i = 0; i < count; i++) {
            zero[i] = (float)(args->row_zero ? args->row_zero[mb + i] : args->zero);
            factor[i] = (args->row_scale ? args->row_scale[mb + i] : args->scale) * w->unit;
        }
        for (size_t j = n0; j < n1; j += kernel->nr) {
            tile.panel = (const char *)w->packed + j / kernel->nr * bytes;
            tile.n = nw_least(kernel->nr, n1 - j);
            tile.sums = w->sums + j;
            tile.bias = args->bias ? args->bias + j : NULL;
            for (size_t i = 0; i < count; i += tile.m) {
                tile.m = nw_least(tile_rows, count - i);
                tile.a = args->a + (mb + i) * args->lda;
                tile.c = (float *)((char *)args->c + (mb + i) * args->ldc) + j;
                tile.zero = zero + i;
                tile.factor = factor + i;
                kernel->u8(&tile);
            }
        }
    }
}

/* ---- bf16 ---------------------------------------------------------------------------------------------- */

void nw_wgemm_bf16_run(const nw_wgemm_bf16_kernel *kernel, const nw_wgemm_bf16_args *args, size_t m0,
                       size_t m1, size_t n0, size_t n1) {
    const nw_wcodes *w = args->w;
    const size_t bytes = panel_bytes(w, kernel->nr), mr = kernel->mr, limit = A_BYTES / 2 / w->k;
    const size_t block_rows = limit < mr ? mr : limit / mr * mr;
    nw_wgemm_bf16_tile tile = {.w = w, .lda = args->lda, .ldc = args->ldc, .lo = args->lo, .hi = args->hi};
    for (size_t mb = m0; mb < m1; mb += block_rows) {
        const size_t count = nw_least(block_rows, m1 - mb), tiles = (count + mr - 1) / mr;
        const size_t tile_rows = (count + tiles - 1) / tiles;
        for (size_t j = n0; j < n1; j += kernel->nr) {
            tile.panel = (const char *)w->packed + j / kernel->nr * bytes;
            tile.n = nw_least(kernel->nr, n1 - j);
            tile.bias = args->bias ? args->bias + j : NULL;
            for (size_t i = 0; i < count; i += tile.m) {
                tile.m = nw_least(tile_rows, count - i);
                tile.a = (const uint16_t *)((const char *)args->a + (mb + i) * args->lda);
                tile.c = (float *)((char *)args->c + (mb + i) * args->ldc) + j;
                kernel->run(&tile);
            }
        }
    }
}
