/* dwconv.c: packing, loops and reference kernels of depthwise convolution. Must not include anything but
 * kern/. */
#include "kern/dwconv.h"
#include "kern/dwconv_pack.h"

#include <string.h>

static const nw_dwconv_kernel kernels[] = {
#define NW_DWCONV(isa, word, word_lines, kernel, stride)                                                     \
    {                                                                                                        \
        NW_ISA_##isa,                                                                                        \
        nw_dwconv_f32__##word,                                                                               \
        nw_dwconv_u8s8__##word,                                                                              \
        nw_dwconv_u8s8_lines__##word_lines,                                                                  \
        kernel,                                                                                              \
        stride},
#include "kern/dwconv.def"
#undef NW_DWCONV
};

const nw_dwconv_kernel *nw_dwconv_select(nw_isa ceiling) {
    size_t best = 0;
    for (size_t i = 1; i < sizeof kernels / sizeof *kernels; i++)
        if (kernels[i].isa <= ceiling && nw_isa_supported(kernels[i].isa)) best = i;
    return &kernels[best];
}

/* ---- packing ------------------------------------------------------------------------------------------- */

size_t nw_dwconv_f32_packed_bytes(size_t channels, size_t taps) {
    return dw_blocks(channels) * DW_BLOCK * taps * sizeof(float);
}

void nw_dwconv_f32_pack(size_t channels, size_t taps, const float *w, size_t stride_c, const size_t *tap_at,
                        void *packed) {
    float *out = packed;
    for (size_t c0 = 0; c0 < channels; c0 += DW_BLOCK)
        for (size_t t = 0; t < taps; t++)
            for (size_t c = c0; c < c0 + DW_BLOCK; c++)
                *out++ = c < channels ? w[c * stride_c + tap_at[t]] : 0.0f;
}

static size_t u8s8_bytes(size_t channels, size_t steps) {
    return sizeof(dw_header) + dw_blocks(channels) * DW_BLOCK * (sizeof(int32_t) + 4 * steps);
}

static dw_form form_of(const nw_dwconv_kernel *kernel, const nw_window *window) {
    const dw_form form = dw_form_of(window);
    return form.kernel <= kernel->lines_kernel && form.stride <= kernel->lines_stride ? form : (dw_form){0};
}

size_t nw_dwconv_u8s8_packed_bytes(const nw_dwconv_kernel *kernel, size_t channels, size_t taps,
                                   const nw_window *window) {
    size_t general = dw_groups(taps), steps = dw_steps(form_of(kernel, window), taps);
    return u8s8_bytes(channels, steps > general ? steps : general);
}

typedef struct u8s8_weights {
    const int8_t *w;
    size_t stride_c, stride_tap;
    const int32_t *wzero;
} u8s8_weights;

static int difference(const u8s8_weights *w, size_t c, size_t tap) {
    return w->w[c * w->stride_c + tap * w->stride_tap] - (w->wzero ? w->wzero[c] : 0);
}

/* The zero points can be taken off while packing when the differences still are 8-bit numbers. */
static bool differences_fit(const u8s8_weights *w, size_t channels, size_t taps) {
    for (size_t c = 0; w->wzero && c < channels; c++)
        for (size_t t = 0; t < taps; t++)
            if (difference(w, c, t) < -128 || difference(w, c, t) > 127) return false;
    return true;
}

void nw_dwconv_u8s8_pack(const nw_dwconv_kernel *kernel, size_t channels, size_t taps, const int8_t *w,
                         size_t stride_c, size_t stride_tap, const int32_t *wzero, const nw_window *window,
                         void *packed) {
    u8s8_weights from = {w, stride_c, stride_tap, wzero};
    dw_header *header = packed;
    memset(packed, 0, nw_dwconv_u8s8_packed_bytes(kernel, channels, taps, window));
    if (differences_fit(&from, channels, taps)) {
        header->form = form_of(kernel, window);
    } else {
        header->any_wzero = 1;
        memcpy((void *)dw_wzero(packed), wzero, channels * sizeof *wzero);
        from.wzero = NULL;
    }
    const size_t lines = header->form.kernel ? header->form.lines : 1;
    for (size_t c = 0; c < channels; c++) {
        int8_t *block = (int8_t *)dw_weights(packed, channels, taps, c / DW_BLOCK);
        for (size_t line = 0; line < lines; line++)
            for (size_t t = 0; t < taps; t++)
                block[dw_offset(header->form, line, c % DW_BLOCK, t)] = (int8_t)difference(&from, c, t);
    }
}

void nw_dwconv_u8s8_col_sums(size_t channels, size_t taps, const int8_t *w, size_t stride_c,
                             size_t stride_tap, const int32_t *wzero, int32_t *sums) {
    for (size_t c = 0; c < channels; c++) {
        sums[c] = wzero ? -(int32_t)taps * wzero[c] : 0;
        for (size_t t = 0; t < taps; t++) sums[c] += w[c * stride_c + t * stride_tap];
    }
}

/* ---- loops --------------------------------------------------------------------------------------------- */

#define POINTERS 4096 /* 32 KiB of stack */

/* Pixels at a time: as many as the pointer buffer holds, but few enough that the lines of input they share
 * stay in the first-level cache while block after block of channels passes over them. */
static size_t run_length(size_t taps, size_t element) {
    size_t count = POINTERS / taps, most = element == 1 ? 128 : 64;
    return count > most ? most : count;
}

static const void *const *pixel_rows(const nw_rows *rows, size_t taps, size_t m, size_t count,
                                     const void **buffer, size_t *row_stride) {
    if (!rows->window && rows->table) {
        *row_stride = rows->table_stride;
        return rows->table + m;
    }
    *row_stride = count;
    nw_rows_gather(rows, taps, m, count, buffer, count);
    return buffer;
}

void nw_dwconv_f32_run(const nw_dwconv_kernel *kernel, const nw_dwconv_f32_args *args, size_t m0, size_t m1) {
    const void *buffer[POINTERS];
    size_t step = run_length(args->taps, 4), row_stride;
    for (size_t m = m0; m < m1; m += step) {
        size_t count = m1 - m < step ? m1 - m : step;
        const void *const *rows = pixel_rows(&args->rows, args->taps, m, count, buffer, &row_stride);
        kernel->f32(args, rows, row_stride, m, count);
    }
}

void nw_dwconv_u8s8_run(const nw_dwconv_kernel *kernel, const nw_dwconv_u8s8_args *args, size_t m0,
                        size_t m1) {
    if (((const dw_header *)args->packed)->form.kernel) {
        kernel->u8s8_lines(args, m0, m1);
        return;
    }
    const void *buffer[POINTERS];
    size_t step = run_length(args->taps, 1), row_stride;
    for (size_t m = m0; m < m1; m += step) {
        size_t count = m1 - m < step ? m1 - m : step;
        const void *const *rows = pixel_rows(&args->rows, args->taps, m, count, buffer, &row_stride);
        kernel->u8s8(args, rows, row_stride, m, count);
    }
}

/* ---- reference ----------------------------------------------------------------------------------------- */

void nw_dwconv_f32__scalar(const nw_dwconv_f32_args *args, const void *const *rows, size_t row_stride,
                           size_t row0, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float *y = (float *)((char *)args->c + (row0 + i) * args->ldc);
        for (size_t c0 = 0; c0 < args->channels; c0 += DW_BLOCK) {
            size_t n = args->channels - c0 < DW_BLOCK ? args->channels - c0 : DW_BLOCK;
            const float *w = (const float *)args->packed + c0 * args->taps;
            float acc[DW_BLOCK] = {0};
            for (size_t t = 0; t < args->taps; t++) {
                const float *a = (const float *)rows[t * row_stride + i] + c0;
                for (size_t c = 0; c < n; c++) acc[c] += a[c] * w[t * DW_BLOCK + c];
            }
            for (size_t c = 0; c < n; c++) {
                float x = args->bias ? acc[c] + args->bias[c0 + c] : acc[c];
                y[c0 + c] = x < args->lo ? args->lo : x > args->hi ? args->hi : x;
            }
        }
    }
}

void nw_dwconv_u8s8__scalar(const nw_dwconv_u8s8_args *args, const void *const *rows, size_t row_stride,
                            size_t row0, size_t count) {
    size_t size = nw_epilogue_size(args->epilogue.out);
    const dw_form form = ((const dw_header *)args->packed)->form;
    const int32_t *wzero = dw_wzero(args->packed);
    for (size_t c0 = 0; c0 < args->channels; c0 += DW_BLOCK) {
        size_t n = args->channels - c0 < DW_BLOCK ? args->channels - c0 : DW_BLOCK;
        const int8_t *w = dw_weights(args->packed, args->channels, args->taps, c0 / DW_BLOCK);
        for (size_t i = 0; i < count; i++) {
            int32_t acc[DW_BLOCK] = {0};
            for (size_t t = 0; t < args->taps; t++) {
                const uint8_t *a = (const uint8_t *)rows[t * row_stride + i] + c0;
                for (size_t c = 0; c < n; c++) acc[c] += a[c] * (w[dw_offset(form, 0, c, t)] - wzero[c0 + c]);
            }
            nw_epilogue__scalar(&args->epilogue, row0 + i, c0, 1, n, NULL, acc, n,
                                (char *)args->c + (row0 + i) * args->ldc + c0 * size, args->ldc);
        }
    }
}

void nw_dwconv_u8s8_lines__scalar(const nw_dwconv_u8s8_args *args, size_t m0, size_t m1) {
    const void *buffer[POINTERS];
    size_t step = run_length(args->taps, 1);
    for (size_t m = m0; m < m1; m += step) {
        size_t count = m1 - m < step ? m1 - m : step;
        nw_rows_gather(&args->rows, args->taps, m, count, buffer, count);
        nw_dwconv_u8s8__scalar(args, buffer, count, m, count);
    }
}
