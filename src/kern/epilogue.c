/* epilogue.c: the reference epilogue, and the choice of one. Must not include anything but kern/. */
#include "kern/epilogue.h"

static int32_t finish_s32(const nw_epilogue *e, size_t row, size_t col, int32_t row_sum, int32_t acc) {
    uint32_t y = (uint32_t)acc; /* unsigned: wraps */
    if (e->bias) y += (uint32_t)e->bias[col];
    if (e->wzero) y -= (uint32_t)e->wzero[col] * (uint32_t)row_sum;
    if (e->row_zero) y -= (uint32_t)e->row_zero[row] * (uint32_t)e->col_sum[col];
    return (int32_t)y;
}

static uint8_t finish_u8(const nw_epilogue *e, size_t col, int32_t acc) {
    float q = __builtin_rintf((float)acc * e->scale[col]) + (float)e->zero;
    float lo = (float)e->lo, hi = (float)e->hi;
    uint8_t code = (uint8_t)(q < lo ? lo : q > hi ? hi : q);
    return e->table ? e->table[code] : code;
}

static float finish_f32(const nw_epilogue *e, size_t row, size_t col, int32_t acc) {
    float y = (float)acc * e->scale[col];
    if (e->row_scale) y = y * e->row_scale[row];
    if (e->fbias) y = y + e->fbias[col];
    return y < e->flo ? e->flo : y > e->fhi ? e->fhi : y;
}

void nw_epilogue__scalar(const nw_epilogue *e, size_t row, size_t col, size_t m, size_t n,
                         const int32_t *row_sums, const int32_t *acc, size_t ld_acc, void *y, size_t ldy) {
    for (size_t i = 0; i < m; i++) {
        char *out = (char *)y + i * ldy;
        for (size_t j = 0; j < n; j++) {
            int32_t x = finish_s32(e, row + i, col + j, e->wzero ? row_sums[i] : 0, acc[i * ld_acc + j]);
            float f;
            switch (e->out) {
            case NW_OUT_S32: __builtin_memcpy(out + 4 * j, &x, 4); break;
            case NW_OUT_U8: ((uint8_t *)out)[j] = finish_u8(e, col + j, x); break;
            case NW_OUT_F32:
                f = finish_f32(e, row + i, col + j, x);
                __builtin_memcpy(out + 4 * j, &f, 4);
                break;
            }
        }
    }
}

nw_epilogue_fn *nw_epilogue_select(nw_isa ceiling) {
    nw_epilogue_fn *chosen = nw_epilogue__scalar;
#define NW_EPILOGUE(isa, word)                                                                               \
    if (NW_ISA_##isa <= ceiling && nw_isa_supported(NW_ISA_##isa)) chosen = nw_epilogue__##word;
#include "kern/epilogue.def"
#undef NW_EPILOGUE
    return chosen;
}
