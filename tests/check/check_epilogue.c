/* check_epilogue.c: see check_epilogue.h. Must not include anything but kern/. */
#include "check_epilogue.h"

#include "check.h"

#include <math.h>
#include <string.h>

static int32_t *random_s32(size_t n, int32_t lo, int32_t hi) {
    int32_t *p = check_alloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = lo + (int32_t)check_below((size_t)((int64_t)hi - lo + 1));
    return p;
}

static float *random_f32(size_t n, float lo, float hi) {
    float *p = check_alloc(n * sizeof *p);
    check_fill_f32(p, n, lo, hi);
    return p;
}

void check_epilogue_make(nw_epilogue *e, nw_epilogue_out out, size_t m, size_t n, size_t depth, bool gemm) {
    *e = (nw_epilogue){.out = out, .lo = 0, .hi = 255, .flo = -INFINITY, .fhi = INFINITY};
    /* Sums spread over about 74·128·sqrt(depth); let most codes stay inside 0 … 255, and some saturate. */
    float spread = out == NW_OUT_U8 ? 128.0f / (9400.0f * sqrtf((float)depth)) : 1e-4f;
    e->scale = random_f32(n, 0.1f * spread, 1.5f * spread);
    e->bias = random_s32(n, -20000, 20000);
    e->zero = (int32_t)check_below(256);
    if (check_opt.bench) return;
    if (check_below(4) == 0) e->bias = NULL;
    if (check_below(8) == 0) e->zero = 1000;
    if (gemm && check_below(2)) e->wzero = random_s32(n, -128, 255);
    if (check_below(3) == 0) {
        e->row_zero = random_s32(m, 0, 255);
        e->col_sum = random_s32(n, -40000, 40000);
    }
    if (check_below(2)) {
        e->lo = (int32_t)check_below(256);
        e->hi = (int32_t)check_between((size_t)e->lo, 255);
        e->flo = -0.5f, e->fhi = 6;
    }
    if (check_below(3) == 0) e->table = check_alloc(256);
    if (check_below(2)) e->row_scale = random_f32(m, 0.5f, 2);
    if (check_below(2)) e->fbias = random_f32(n, -1, 1);
    if (check_below(6) == 0) ((float *)e->scale)[check_below(n)] = 1e30f;
}

void check_epilogue_element(const nw_epilogue *e, size_t row, size_t col, int64_t sum, int64_t row_sum,
                            const void *got) {
    if (e->bias) sum += e->bias[col];
    if (e->wzero) sum -= e->wzero[col] * row_sum;
    if (e->row_zero) sum -= (int64_t)e->row_zero[row] * e->col_sum[col];
    int32_t acc = (int32_t)(uint32_t)(uint64_t)sum;
    if (e->out == NW_OUT_S32) {
        int32_t y;
        memcpy(&y, got, 4);
        if (y != acc) check_fail("row %zu column %zu is %d, not %d", row, col, (int)y, (int)acc);
        return;
    }
    float p = (float)acc * e->scale[col];
    if (e->out == NW_OUT_U8) {
        double q = rint((double)p) + e->zero;
        q = q < e->lo ? e->lo : q > e->hi ? e->hi : q;
        uint8_t want = e->table ? e->table[(int)q] : (uint8_t)q, y = *(const uint8_t *)got;
        if (y != want) check_fail("row %zu column %zu is code %d, not %d", row, col, y, want);
        return;
    }
    if (e->row_scale) p *= e->row_scale[row];
    if (e->fbias) p += e->fbias[col];
    if (p < e->flo) p = e->flo;
    if (p > e->fhi) p = e->fhi;
    float y;
    memcpy(&y, got, 4);
    if (memcmp(&y, &p, 4)) check_fail("row %zu column %zu is %.9g, not %.9g", row, col, (double)y, (double)p);
}
