/* dwconv_lines_body.h: depthwise convolution u8·s8 under small square windows, line by line. Included once
 * per ISA, by a file compiled for it that defines, before including this,
 *     LINES_KERNEL             the function's name
 *     LANES                    128-bit lanes of a register (1, 2 or 4): a block is 16·LANES channels
 *     reg                      a register of integers
 *     load_codes, store_codes  16·LANES/P bytes, n of them, from or to each of P places
 *     lanes_of                 a register from LANES pieces of 16 bytes
 *     interleave               four rows of codes → 4 registers, four bytes of a channel side by side
 *     expand                   packed weights → weights for dot, 64 bytes apart, where they are or in `to`
 *     dot                      acc + Σ a·w over four bytes
 *     start_of                 what sums begin with: the bias, and what dot leaves out of `steps` weights 4·64 bytes
 *                              apart
 *     codes_of, code_limits    sums → codes
 *     look_up_rows             a table, on codes in memory
 *     epilogue_of              nw_epilogue__word
 * Nothing else may include it. Must not include anything but kern/.
 *
 * The bytes of the input lines that some output lines share are interleaved once per column into a buffer in
 * the first-level cache, four lines to a 32-bit element per channel. An output is then a dot product per
 * column of the window (and per four lines of it), for as many output lines as the four bytes leave room for:
 * their weights differ by a shift (dwconv_pack.h). Padding is read like pixels, so that only finding the
 * pointers knows about borders. Few channels: P pieces of the line side by side fill a register. */
#include "kern/dwconv.h"
#include "kern/dwconv_pack.h"
#include "kern/unroll.h"

#define BLOCK_CHANNELS (16 * LANES)
#define COLUMNS        64 /* of interleaved lines, with one group of four; half as many with two */
#define BATCH          16 /* pixels per call of the general epilogue */
#define MOST_BLOCKS    16 /* prepared at a time */
#define MAX_ROWS       8
#define MOST_STEPS     40 /* 5 × 5: four lines, five columns, two groups */

struct lines_job;

/* A block of channels, prepared for all its pixels. */
typedef struct block {
    size_t c0, n, P;
    void (*run)(const struct lines_job *, const struct block *); /* its part of a strip */
    bool direct;   /* sums become codes right here; else by the epilogue */
    const char *w; /* [line][column][group][4], 64 bytes each */
    reg bias[4], scale[4];
} block;

/* Some lines of output, and the input lines they need. */
typedef struct lines_job {
    const nw_dwconv_u8s8_args *args;
    const nw_window *window;
    code_limits limits;
    dw_strip strip;
    /* Padding has one pixel, at every column: its step is 0. */
    const uint8_t *rows[MAX_ROWS];
    size_t step[MAX_ROWS];
} lines_job;

/* Outputs [start[p], start[p] + count) of the strip's lines, p < P: together `all` from start[0]. */
typedef struct pieces {
    size_t start[4], count, all;
} pieces;

/* Pieces of equal length for outputs [x0, x0 + count); the last ones may overlap, and then both compute the
 * same. */
static pieces pieces_of(size_t x0, size_t count, size_t P) {
    pieces s = {.count = (count + P - 1) / P, .all = count};
    for (size_t p = 0; p < P; p++) {
        size_t offset = p * s.count, last = count - s.count;
        s.start[p] = x0 + (offset < last ? offset : last);
    }
    return s;
}

/* ---- input --------------------------------------------------------------------------------------------- */

/* Lines that the four bytes of G groups hold; what is left of them has weights of zero. */
NW_INLINE size_t lines_needed(const size_t K, const size_t S, const size_t G) {
    return (4 * G - K) / S * S + K;
}

/* The next column of each piece. Addresses are integers: left of the image there are no pointers. */
typedef struct cursor {
    uintptr_t at[MAX_ROWS], step[MAX_ROWS], pad; /* of the first piece */
    size_t delta[4], x[4], in_w, n;              /* delta: bytes to each piece */
    size_t inside, outside; /* columns from the first `inside` to the last before `outside` have no padding */
} cursor;

NW_INLINE cursor cursor_of(const lines_job *j, const block *b, const pieces *s, size_t columns,
                           const size_t K, const size_t S, const size_t G, const size_t P) {
    const nw_window *w = j->window;
    cursor c = {.pad = (uintptr_t)j->args->rows.pad + b->c0, .in_w = w->in_w, .n = b->n, .outside = columns};
    NW_UNROLL
    for (size_t p = 0; p < P; p++) /* huge when left of the image */
        c.x[p] = (j->strip.ox + s->start[p]) * S - w->pad_left;
    NW_UNROLL
    for (size_t p = 0; p < P; p++) c.delta[p] = (c.x[p] - c.x[0]) * w->pixel_stride;
    NW_UNROLL
    for (size_t row = 0; row < lines_needed(K, S, G); row++) {
        c.step[row] = j->step[row];
        c.at[row] = (uintptr_t)j->rows[row] + b->c0 + c.x[0] * c.step[row];
        if (P > 1 && !c.step[row]) c.outside = 0;
    }
    const ptrdiff_t first = (ptrdiff_t)c.x[0], last = (ptrdiff_t)w->in_w - (ptrdiff_t)c.x[P - 1];
    if (first < 0) c.inside = (size_t)-first;
    if (last < (ptrdiff_t)c.outside) c.outside = last < 0 ? 0 : (size_t)last;
    return c;
}

/* Interleaves it: [group][4]. `padding`: there may be some. */
NW_INLINE void next_column(cursor *c, reg *to, const size_t K, const size_t S, const size_t G, const size_t P,
                           const bool padding) {
    const size_t needed = lines_needed(K, S, G);
    reg a[4];
    NW_UNROLL
    for (size_t row = 0; row < needed; row++) {
        const uint8_t *from[4];
        NW_UNROLL
        for (size_t p = 0; p < P; p++)
            from[p] = (const uint8_t *)(padding && c->x[p] >= c->in_w   ? c->pad
                                        : padding && p && !c->step[row] ? c->at[row]
                                                                        : c->at[row] + c->delta[p]);
        c->at[row] += c->step[row];
        a[row % 4] = load_codes(from, c->n, P);
        if (row + 1 == needed && row % 4 == 2) a[3] = a[2];
        if (row % 4 == 3 || row + 1 == needed) interleave(a, to + row / 4 * 4);
    }
    NW_UNROLL
    for (size_t p = 0; p < P; p++) c->x[p]++;
}

/* The columns that s->count outputs need: [column][group][4]. */
NW_INLINE void interleave_columns(const lines_job *j, const block *b, const pieces *s, reg *to,
                                  const size_t K, const size_t S, const size_t G, const size_t P) {
    const size_t columns = (s->count - 1) * S + K;
    cursor at = cursor_of(j, b, s, columns, K, S, G, P);
    for (size_t c = 0; c < columns; to += 4 * G, c++) {
        for (; c >= at.inside && c < at.outside; c++, to += 4 * G) next_column(&at, to, K, S, G, P, false);
        if (c < columns) next_column(&at, to, K, S, G, P, true);
    }
}

/* ---- output -------------------------------------------------------------------------------------------- */

/* The sums of X neighbouring pixels (of each piece). */
NW_INLINE void sums_of(const reg *bias, const char *w, const reg *columns, reg (*acc)[4], const size_t K,
                       const size_t S, const size_t G, const size_t X) {
    NW_UNROLL
    for (size_t i = 0; i < X; i++) NW_UNROLL
    for (size_t q = 0; q < 4; q++) acc[i][q] = bias[q];
    NW_UNROLL
    for (size_t k = 0; k < K * G; k++) NW_UNROLL
    for (size_t q = 0; q < 4; q++) NW_UNROLL
    for (size_t i = 0; i < X; i++)
        acc[i][q] = dot(acc[i][q], columns + (4 * (k + i * S * G) + q), w + 64 * (4 * k + q));
}

/* Pixel i of each piece. */
NW_INLINE void store_pixel(const reg *acc, const reg *scale, const code_limits *limits, char *const *out,
                           size_t offset, size_t n, const size_t P) {
    char *to[4];
    NW_UNROLL
    for (size_t p = 0; p < P; p++) to[p] = out[p] + offset;
    store_codes(codes_of(acc, scale, limits), to, n, P);
}

/* One line of each piece; codes. Weights of a small window stay in registers where there are 32; those of a
 * larger one are read once for two pixels. */
NW_INLINE void direct_line(const lines_job *j, const block *b, size_t count, const char *w,
                           const reg *columns, char *const *out, const size_t K, const size_t S,
                           const size_t G, const size_t P) {
    /* The compiler keeps copies in registers; it cannot know that storing codes leaves the originals alone. */
    const size_t ldc = j->args->ldc, n = b->n, next = 4 * G * S;
    const code_limits limits = j->limits;
    char weights[12 * 64] __attribute__((aligned(64)));
    reg acc[2][4], bias[4], scale[4];
    NW_UNROLL
    for (size_t q = 0; q < 4; q++) bias[q] = b->bias[q], scale[q] = b->scale[q];
    if (K == 3 && LANES == 4) w = __builtin_memcpy(weights, w, sizeof weights);
    size_t i = 0;
    for (; K > 3 && i + 2 <= count; i += 2, columns += 2 * next) {
        sums_of(bias, w, columns, acc, K, S, G, 2);
        store_pixel(acc[0], scale, &limits, out, i * ldc, n, P);
        store_pixel(acc[1], scale, &limits, out, (i + 1) * ldc, n, P);
    }
    for (; i < count; i++, columns += next) {
        sums_of(bias, w, columns, acc, K, S, G, 1);
        store_pixel(acc[0], scale, &limits, out, i * ldc, n, P);
    }
}

/* One line of each piece, whose first pixels are the rows row[p] of the output; any epilogue. A sum has `steps`
 * dot products, and its columns begin `next` behind those of the pixel before. */
static void general_line(const lines_job *j, const block *b, size_t count, const char *w, const reg *columns,
                         char *const *out, const size_t *row, size_t steps, size_t next) {
    const size_t lanes = LANES / b->P, ld = 16 * lanes, ldc = j->args->ldc;
    int32_t sums[BATCH * BLOCK_CHANNELS], quarter[4 * LANES];
    for (size_t i0 = 0; i0 < count; i0 += BATCH) {
        const size_t here = count - i0 < BATCH ? count - i0 : BATCH;
        for (size_t i = 0; i < here; i++, columns += next) {
            reg acc[4];
            NW_UNROLL
            for (size_t q = 0; q < 4; q++) acc[q] = b->bias[q];
            for (size_t k = 0; k < steps; k++) NW_UNROLL
            for (size_t q = 0; q < 4; q++) acc[q] = dot(acc[q], columns + 4 * k + q, w + 64 * (4 * k + q));
            for (size_t q = 0; q < 4; q++) {
                __builtin_memcpy(quarter, &acc[q], sizeof quarter);
                for (size_t l = 0; l < LANES; l++)
                    __builtin_memcpy(sums + (l / lanes * BATCH + i) * ld + l % lanes * 16 + 4 * q,
                                     quarter + 4 * l, 16);
            }
        }
        for (size_t p = 0; p < b->P; p++)
            epilogue_of(&j->args->epilogue, row[p] + i0, b->c0, here, b->n, NULL, sums + p * BATCH * ld, ld,
                        out[p] + i0 * ldc, ldc);
    }
}

/* ---- a block of channels of a strip -------------------------------------------------------------------- */

NW_INLINE void pieces_run(const lines_job *j, const block *b, const pieces *s, const size_t K, const size_t S,
                          const size_t G, const size_t P) {
    reg columns[COLUMNS * 4];
    const nw_epilogue *e = &j->args->epilogue;
    const size_t ldc = j->args->ldc;
    interleave_columns(j, b, s, columns, K, S, G, P);
    for (size_t line = 0; line < j->strip.lines; line++) {
        const char *w = b->w + line * K * G * 4 * 64;
        size_t row[4];
        char *out[4];
        for (size_t p = 0; p < P; p++) {
            row[p] = j->strip.m + line * j->window->out_w + s->start[p];
            out[p] = (char *)j->args->c + row[p] * ldc + b->c0 * nw_epilogue_size(e->out);
        }
        if (!b->direct)
            general_line(j, b, s->count, w, columns, out, row, K * G, 4 * G * S);
        else
            direct_line(j, b, s->count, w, columns, out, K, S, G, P);
        if (b->direct && e->table) look_up_rows(e->table, (uint8_t *)out[0], ldc, s->all, b->n);
    }
}

NW_INLINE void block_run(const lines_job *j, const block *b, const size_t K, const size_t S, const size_t P) {
    const size_t G = (K + 3) / 4, most = P * ((COLUMNS / G - K) / S + 1), count = j->strip.count;
    for (size_t x = 0; x < count; x += most) {
        const pieces s = pieces_of(x, count - x < most ? count - x : most, P);
        pieces_run(j, b, &s, K, S, G, P);
    }
}

#define BLOCK(name, P)                                                                                       \
    static void name(const lines_job *j, const block *b) {                                                   \
        const size_t kernel = j->window->kernel_w, stride = j->window->stride_w;                             \
        if (kernel == 3 && stride == 1)                                                                      \
            block_run(j, b, 3, 1, P);                                                                        \
        else if (kernel == 3)                                                                                \
            block_run(j, b, 3, 2, P);                                                                        \
        else if (kernel == 5 && stride == 1)                                                                 \
            block_run(j, b, 5, 1, P);                                                                        \
        else if (kernel == 5)                                                                                \
            block_run(j, b, 5, 2, P);                                                                        \
        else                                                                                                 \
            block_run(j, b, 7, 1, P);                                                                        \
    }
BLOCK(block_whole, 1)
BLOCK(block_halves, 2)
BLOCK(block_quarters, LANES)

/* ---- preparing ----------------------------------------------------------------------------------------- */

/* n ≤ BLOCK_CHANNELS numbers of 32 bits in the order of the sums. */
static void permuted(const void *numbers, size_t n, size_t P, reg *to) {
    int32_t some[BLOCK_CHANNELS] = {0};
    if (n < BLOCK_CHANNELS) numbers = __builtin_memcpy(some, numbers, 4 * n);
    for (size_t q = 0; q < 4; q++) {
        const int32_t *lane[LANES];
        for (size_t l = 0; l < LANES; l++) lane[l] = (const int32_t *)numbers + l % (LANES / P) * 16 + 4 * q;
        to[q] = lanes_of(lane);
    }
}

/* Whether the sums need no more than a scale that cannot overflow and a zero point of 16 bits. */
static bool is_direct(const nw_epilogue *e, size_t c0, size_t n) {
    return !e->row_zero && e->zero <= 32000 && e->zero >= -32000 && nw_epilogue_convertible(e, c0, n);
}

/* `to`: room for the weights of a block with P > 1; there is one such block, the last. */
static void prepare(const nw_dwconv_u8s8_args *args, size_t c0, char *to, block *b) {
    static const int32_t none[BLOCK_CHANNELS];
    const nw_epilogue *e = &args->epilogue;
    const dw_form *form = &((const dw_header *)args->packed)->form;
    const size_t steps = dw_steps(*form, args->taps);
    const int8_t *packed = dw_weights(args->packed, args->channels, args->taps, c0 / DW_BLOCK);
    b->c0 = c0;
    b->n = args->channels - c0 < BLOCK_CHANNELS ? args->channels - c0 : BLOCK_CHANNELS;
    b->P = b->n <= 16 ? LANES : b->n <= 16 * LANES / 2 ? 2 : 1;
    b->run = b->P == 1 ? block_whole : b->P == 2 ? block_halves : block_quarters;
    b->w = expand(packed + c0 % DW_BLOCK, 4 * steps, b->P, to);
    b->direct = is_direct(e, c0, b->n);
    permuted(b->direct && e->bias ? e->bias + c0 : none, b->n, b->P, b->bias);
    for (size_t q = 0; q < 4; q++)
        b->bias[q] = start_of(b->bias[q], b->w + 64 * q, form->kernel * form->groups);
    if (b->direct) permuted(e->scale + c0, b->n, b->P, b->scale);
}

static void find_rows(lines_job *j, const dw_form *form) {
    const nw_window *w = j->window;
    const size_t needed = (j->strip.lines - 1) * form->stride + form->kernel;
    for (size_t row = 0; row < 4 * form->groups; row++) {
        /* Rows that only fill up a group have weights of zero. */
        const size_t y = j->strip.oy * w->stride_h + (row < needed ? row : 0) - w->pad_top;
        const bool inside = y < w->in_h;
        const uint8_t *image = (const uint8_t *)j->args->rows.base + j->strip.image * w->image_stride;
        j->rows[row] = inside ? image + y * w->line_stride : (const uint8_t *)j->args->rows.pad;
        j->step[row] = inside ? w->pixel_stride : 0;
    }
}

void LINES_KERNEL(const nw_dwconv_u8s8_args *args, size_t m0, size_t m1) {
    const dw_form form = ((const dw_header *)args->packed)->form;
    block blocks[MOST_BLOCKS];
    char weights[MOST_STEPS * 4 * 64] __attribute__((aligned(64)));
    lines_job j = {.args = args, .window = args->rows.window, .limits = limits_of(&args->epilogue)};
    for (size_t c0 = 0; c0 < args->channels;) {
        size_t count = 0;
        for (; count < MOST_BLOCKS && c0 < args->channels; c0 += blocks[count++].n)
            prepare(args, c0, weights, &blocks[count]);
        for (size_t m = m0; m < m1; m += j.strip.lines * j.strip.count) {
            j.strip = dw_strip_at(j.window, m, m1, form.lines);
            find_rows(&j, &form);
            for (size_t i = 0; i < count; i++) blocks[i].run(&j, &blocks[i]);
        }
    }
}
