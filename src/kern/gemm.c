/* gemm.c: choosing a kernel, packing weights, and the loops around tiles. Must not include anything but
 * kern/. */
#include "kern/gemm.h"
#include "kern/gemm_blocks.h"
#include "kern/layout.h"
#include "kern/unroll.h"

#include <string.h>

/* ---- tables -------------------------------------------------------------------------------------------- */

static const nw_gemm_f32_kernel f32_kernels[] = {
#define NW_GEMM_F32(isa, word, mr, nr, half)                                                                 \
    {"gemm_f32__" #word, NW_ISA_##isa, mr, nr, half, nw_gemm_f32__##word},
#define NW_GEMM_U8S8(isa, word, mr, nr, half, group, shift)
#include "kern/gemm.def"
#undef NW_GEMM_F32
#undef NW_GEMM_U8S8
};

static const nw_gemm_u8s8_kernel u8s8_kernels[] = {
#define NW_GEMM_F32(isa, word, mr, nr, half)
#define NW_GEMM_U8S8(isa, word, mr, nr, half, group, shift)                                                  \
    {"gemm_u8s8__" #word,     NW_ISA_##isa, mr, nr, half, group, shift, nw_gemm_u8s8__##word,                \
     nw_gemm_row_sums__##word},
#include "kern/gemm.def"
#undef NW_GEMM_F32
#undef NW_GEMM_U8S8
};

#define NW_COUNT(array) (sizeof(array) / sizeof *(array))

const nw_gemm_f32_kernel *nw_gemm_f32_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < NW_COUNT(f32_kernels); i++)
        if (f32_kernels[i].isa <= ceiling && nw_isa_supported(f32_kernels[i].isa)) best = i;
    return &f32_kernels[best];
}

const nw_gemm_u8s8_kernel *nw_gemm_u8s8_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < NW_COUNT(u8s8_kernels); i++)
        if (u8s8_kernels[i].isa <= ceiling && nw_isa_supported(u8s8_kernels[i].isa)) best = i;
    return &u8s8_kernels[best];
}

/* ---- packing ------------------------------------------------------------------------------------------- */

/* Columns are cut into panels of nr; the last one is as wide as it must be, in steps of `half`. In a panel:
 *   f32    [tap][k][column]
 *   u8s8   [tap][k/group rounded up][column][group], the missing k being 0; before that, if the kernel has a
 *          shift, shift·Σ_t Σ_k W as int32 [column]
 * so that a kernel reads its panel from start to end. Panel p starts at p·nr·depth elements, where depth is
 * what a panel holds per column: k·taps and what is added to it. */
static size_t packed_bytes(size_t n, size_t half, size_t depth, size_t taps, size_t element) {
    size_t bytes;
    if (n > SIZE_MAX - half || depth > SIZE_MAX - 4) return 0;
    if (__builtin_mul_overflow(nw_round_up(n, half), depth, &bytes) ||
        __builtin_mul_overflow(bytes, taps, &bytes) || __builtin_mul_overflow(bytes, element, &bytes) ||
        bytes > SIZE_MAX - NW_GEMM_ALIGN)
        return 0;
    return nw_round_up(bytes, NW_GEMM_ALIGN);
}

size_t nw_gemm_f32_packed_bytes(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps) {
    return packed_bytes(n, kernel->half, k, taps, sizeof(float));
}

/* Bytes per column of a panel; 0 on overflow. */
static size_t u8s8_depth(const nw_gemm_u8s8_kernel *kernel, size_t k, size_t taps) {
    size_t depth;
    if (k > SIZE_MAX - kernel->group || __builtin_mul_overflow(nw_round_up(k, kernel->group), taps, &depth) ||
        depth > SIZE_MAX - sizeof(int32_t))
        return 0;
    return kernel->shift ? depth + sizeof(int32_t) : depth;
}

size_t nw_gemm_u8s8_packed_bytes(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, size_t taps) {
    return packed_bytes(n, kernel->half, u8s8_depth(kernel, k, taps), 1, 1);
}

/* One panel of one tap: out[k][column]. Reads along what lies together in memory; elements may lie unaligned. */
static void pack_panel(nw_transpose_b32_fn *transpose, const char *from, size_t columns, size_t width,
                       size_t k, size_t stride_n, size_t stride_k, float *out) {
    if (columns < width) memset(out, 0, k * width * sizeof *out);
    if (stride_n == 1) {
        for (size_t kk = 0; kk < k; kk++)
            memcpy(out + kk * width, from + kk * stride_k * sizeof *out, columns * sizeof *out);
        return;
    }
    if (stride_k == 1 && (uintptr_t)from % sizeof *out == 0) {
        transpose(columns, k, from, stride_n, out, width);
        return;
    }
    for (size_t k0 = 0; k0 < k; k0 += 16) { /* a block of k: its lines stay in cache while the columns pass */
        size_t k1 = k - k0 < 16 ? k : k0 + 16;
        for (size_t j = 0; j < columns; j++) {
            const char *column = from + j * stride_n * sizeof *out;
            for (size_t kk = k0; kk < k1; kk++)
                memcpy(out + kk * width + j, column + kk * stride_k * sizeof *out, sizeof *out);
        }
    }
}

size_t nw_gemm_f32_panels(const nw_gemm_f32_kernel *kernel, size_t n) {
    return (n + kernel->nr - 1) / kernel->nr;
}

void nw_gemm_f32_pack_part(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps, size_t panel,
                           size_t tap, const void *w, size_t stride_n, size_t stride_k, void *packed) {
    const size_t n0 = panel * kernel->nr, columns = n - n0 < kernel->nr ? n - n0 : kernel->nr;
    const size_t width = nw_panel_width(columns, kernel->nr, kernel->half);
    nw_layout layout;
    nw_layout_select(kernel->isa, &layout);
    pack_panel(layout.transpose_b32, (const char *)w + n0 * stride_n * sizeof(float), columns, width, k,
               stride_n, stride_k, (float *)packed + n0 * k * taps + tap * k * width);
}

void nw_gemm_f32_pack(const nw_gemm_f32_kernel *kernel, size_t n, size_t k, size_t taps, const void *w,
                      size_t stride_n, size_t stride_tap, size_t stride_k, void *packed) {
    for (size_t p = 0; p < nw_gemm_f32_panels(kernel, n); p++)
        for (size_t t = 0; t < taps; t++)
            nw_gemm_f32_pack_part(kernel, n, k, taps, p, t, (const char *)w + t * stride_tap * sizeof(float),
                                  stride_n, stride_k, packed);
}

/* shift·Σ W of a panel's columns, from the `groups` of k that were packed behind them. */
static void pack_head(int32_t shift, size_t width, size_t groups, size_t group, int8_t *panel) {
    const int8_t *w = panel + width * sizeof(int32_t);
    uint32_t sums[NW_GEMM_MAX_NR] = {0}; /* they wrap */
    for (size_t g = 0; g < groups; g++, w += group * width)
        for (size_t j = 0; j < width; j++)
            for (size_t i = 0; i < group; i++) sums[j] += (uint32_t)w[group * j + i];
    for (size_t j = 0; j < width; j++) sums[j] *= (uint32_t)shift;
    memcpy(panel, sums, width * sizeof *sums);
}

/* A group of up to `group` k, `depth` of which exist, of each of a panel's columns, each byte XOR flip. Products of two
 * activations pack while they run: their usual orders, k or the columns side by side, are worth loops of their own. */
NW_INLINE void pack_group(const uint8_t *w, size_t stride_n, size_t stride_k, size_t columns, size_t width,
                          size_t depth, uint8_t *out, const size_t group, const uint8_t flip) {
    const bool whole = columns == width && depth >= group;
    if (whole && stride_k == 1) {
        const uint64_t flips = UINT64_C(0x0101010101010101) * flip;
        for (size_t j = 0; j < width; j++) {
            uint64_t bytes = 0;
            memcpy(&bytes, w + j * stride_n, group);
            bytes ^= flips;
            memcpy(out + group * j, &bytes, group);
        }
    } else if (whole && stride_n == 1) {
        NW_INDEPENDENT
        for (size_t j = 0; j < width; j++)
            for (size_t i = 0; i < group; i++) out[group * j + i] = w[i * stride_k + j] ^ flip;
    } else {
        for (size_t j = 0; j < width; j++)
            for (size_t i = 0; i < group; i++)
                out[group * j + i] = j < columns && i < depth ? w[j * stride_n + i * stride_k] ^ flip : 0;
    }
}

NW_INLINE void pack_u8s8(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, size_t taps, const uint8_t *w,
                         size_t stride_n, size_t stride_tap, size_t stride_k, void *packed,
                         const uint8_t flip) {
    const size_t group = kernel->group;
    uint8_t *out = packed;
    for (size_t n0 = 0; n0 < n; n0 += kernel->nr) {
        size_t columns = n - n0 < kernel->nr ? n - n0 : kernel->nr;
        size_t width = nw_panel_width(columns, kernel->nr, kernel->half);
        uint8_t *panel = out;
        if (kernel->shift) out += width * sizeof(int32_t);
        for (size_t t = 0; t < taps; t++)
            for (size_t k0 = 0; k0 < k; k0 += group, out += group * width) {
                const uint8_t *from = w + n0 * stride_n + t * stride_tap + k0 * stride_k;
                if (group == 4)
                    pack_group(from, stride_n, stride_k, columns, width, k - k0, out, 4, flip);
                else
                    pack_group(from, stride_n, stride_k, columns, width, k - k0, out, 8, flip);
            }
        if (kernel->shift)
            pack_head(kernel->shift, width, taps * (nw_round_up(k, group) / group), group, (int8_t *)panel);
    }
}

void nw_gemm_u8s8_pack(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, size_t taps, const int8_t *w,
                       size_t stride_n, size_t stride_tap, size_t stride_k, void *packed) {
    pack_u8s8(kernel, n, k, taps, (const uint8_t *)w, stride_n, stride_tap, stride_k, packed, 0);
}

void nw_gemm_u8s8_pack_codes(const nw_gemm_u8s8_kernel *kernel, size_t n, size_t k, const uint8_t *w,
                             size_t stride_n, size_t stride_k, void *packed) {
    pack_u8s8(kernel, n, k, 1, w, stride_n, 0, stride_k, packed, 0x80);
}

/* Σ of a run of weights: 128 at a time fit 16 bits, of which a register holds more. */
static uint32_t sum_of_run(const int8_t *w, size_t n) {
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i += 128) {
        const size_t count = n - i < 128 ? n - i : 128;
        uint16_t part = 0; /* wraps */
        for (size_t j = 0; j < count; j++) part = (uint16_t)(part + (uint16_t)w[i + j]);
        sum += (uint32_t)(int16_t)part;
    }
    return sum;
}

void nw_gemm_u8s8_col_sums(size_t n, size_t k, size_t taps, const int8_t *w, size_t stride_n,
                           size_t stride_tap, size_t stride_k, const int32_t *wzero, int32_t *sums) {
    const bool runs = stride_k == 1 ? taps == 1 || stride_tap == k : stride_tap == 1 && stride_k == taps;
    uint32_t *out = (uint32_t *)sums; /* they wrap */
    for (size_t j = 0; j < n; j++) out[j] = wzero ? -(uint32_t)(k * taps) * (uint32_t)wzero[j] : 0;
    if (runs) { /* a column lies together */
        for (size_t j = 0; j < n; j++) out[j] += sum_of_run(w + j * stride_n, k * taps);
        return;
    }
    for (size_t t = 0; t < taps; t++)
        for (size_t kk = 0; kk < k; kk++) {
            const int8_t *row = w + t * stride_tap + kk * stride_k;
            if (stride_n == 1)
                for (size_t j = 0; j < n; j++) out[j] += (uint32_t)row[j];
            else
                for (size_t j = 0; j < n; j++) out[j] += (uint32_t)row[j * stride_n];
        }
}

/* ---- loops --------------------------------------------------------------------------------------------- */

/* The next tile of `left` rows: the last two are as high as each other, so that none is so low that it waits for its
 * own sums. */
static size_t tile_height(size_t most, size_t left) {
    return left > most && left < 2 * most ? (left + 1) / 2 : nw_least(most, left);
}

/* The stretch [k0, k1) of k; the others are added to what it leaves in c. */
static void run_stretch(const nw_gemm_f32_kernel *kernel, const nw_gemm_f32_args *args, size_t k0, size_t k1,
                        size_t m0, size_t m1, size_t n0, size_t n1) {
    const void *buffer[NW_BLOCK_POINTERS];
    const size_t nr = kernel->nr, depth = args->k * args->taps, steps = (k1 - k0) * args->taps;
    const nw_blocking b = nw_block_of(kernel->mr, (k1 - k0) * sizeof(float), args->taps, &args->rows);
    const bool first = k0 == 0, last = k1 == args->k;
    nw_rows a = args->rows;
    a.base = (const char *)a.base + k0 * sizeof(float);
    nw_gemm_f32_tile tile = {.k = k1 - k0,
                             .taps = args->taps,
                             .ldc = args->ldc,
                             .accumulate = args->accumulate || !first,
                             .lo = last ? args->lo : -__builtin_inff(),
                             .hi = last ? args->hi : __builtin_inff()};
    for (size_t mb = m0; mb < m1; mb += b.block_rows) {
        size_t count = nw_least(b.block_rows, m1 - mb), tiles = (count + b.tile_rows - 1) / b.tile_rows;
        const void *const *rows = nw_block_rows(&a, args->taps, mb, count, buffer, &tile.row_stride);
        for (size_t j = n0; j < n1; j += nr) {
            const float *panel = (const float *)args->packed + j * depth;
            size_t left =
                n1 - j > nr ? nw_panel_width(n1 - j - nr, nr, kernel->half) : 0; /* of the next panel */
            const float *next = panel + nr * depth + k0 * left;
            tile.w = panel + k0 * nw_panel_width(n1 - j, nr, kernel->half);
            tile.n = nw_least(nr, n1 - j);
            tile.bias = args->bias && first ? args->bias + j : NULL;
            for (size_t i = 0, part = 0; i < count; i += tile.m) {
                tile.m = tile_height(b.tile_rows, count - i);
                tile.rows = rows + i;
                tile.c = (float *)((char *)args->c + (mb + i) * args->ldc) + j;
                tile.fetch = nw_gemm_fetch_of(next, left * steps * sizeof(float), part++, tiles, steps);
                kernel->run(&tile);
            }
        }
    }
}

/* A long k is cut: a block of rows of all of it would be so low that the weights came from memory for every few tiles. */
#define STRETCH 1024

void nw_gemm_f32_run(const nw_gemm_f32_kernel *kernel, const nw_gemm_f32_args *args, size_t m0, size_t m1,
                     size_t n0, size_t n1) {
    const bool plain = args->taps == 1 && !args->rows.window && !args->rows.table;
    const size_t parts = plain && args->k > STRETCH ? (args->k + STRETCH - 1) / STRETCH : 1;
    for (size_t i = 0; i < parts; i++)
        run_stretch(kernel, args, args->k * i / parts, args->k * (i + 1) / parts, m0, m1, n0, n1);
}

void nw_gemm_u8s8_run(const nw_gemm_u8s8_kernel *kernel, const nw_gemm_u8s8_args *args, size_t m0, size_t m1,
                      size_t n0, size_t n1) {
    const void *buffer[NW_BLOCK_POINTERS];
    int32_t sums[NW_BLOCK_ROWS];
    const size_t nr = kernel->nr, depth = u8s8_depth(kernel, args->k, args->taps);
    const size_t size = nw_epilogue_size(args->epilogue.out);
    const nw_blocking b = nw_block_of(kernel->mr, args->k, args->taps, &args->rows);
    nw_gemm_u8s8_tile tile = {
        .k = args->k, .taps = args->taps, .ldc = args->ldc, .epilogue = &args->epilogue};
    for (size_t mb = m0; mb < m1; mb += b.block_rows) {
        size_t count = nw_least(b.block_rows, m1 - mb), tiles = (count + b.tile_rows - 1) / b.tile_rows;
        const void *const *rows = nw_block_rows(&args->rows, args->taps, mb, count, buffer, &tile.row_stride);
        if (args->epilogue.wzero) kernel->row_sums(count, args->k, args->taps, rows, tile.row_stride, sums);
        for (size_t j = n0; j < n1; j += nr) {
            tile.w = (const int8_t *)args->packed + j * depth;
            tile.n = nw_least(nr, n1 - j);
            const int8_t *next = tile.w + nr * depth;
            size_t next_bytes = n1 - j > nr ? nw_panel_width(n1 - j - nr, nr, kernel->half) * depth : 0;
            tile.col = j;
            tile.convertible = nw_epilogue_convertible(&args->epilogue, j, tile.n);
            for (size_t i = 0, part = 0; i < count; i += tile.m) {
                tile.m = tile_height(b.tile_rows, count - i);
                tile.rows = rows + i;
                tile.row = mb + i;
                tile.row_sums = sums + i;
                tile.c = (char *)args->c + (mb + i) * args->ldc + j * size;
                tile.fetch = nw_gemm_fetch_of(next, next_bytes, part++, tiles, depth / 4);
                kernel->run(&tile);
            }
        }
    }
}
