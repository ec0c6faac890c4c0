/* layer.c: what integer convolutions and matrix products share: weights as kernels take them, and the epilogue. */
#include "run/plan.h"

#include <math.h>
#include <string.h>

/* The codes of a weight as s8 (u8 less 128): where they are, or in scratch. Fewer than 8 bits are unpacked; the levels −1 and 1
 * of binary weights are codes themselves. */
static nw_status codes_of(nw_planner *p, const nw_tensor *t, const int8_t **codes) {
    const nw_qparam *q = t->qparam;
    size_t count = nw_tensor_count(t);
    if (q->format == NW_S8) {
        *codes = t->data;
        return NW_OK;
    }
    int8_t *room = nw_arena_data(&p->scratch, count);
    if (!room) return NW_E_MEMORY;
    *codes = room;
    if (q->format == NW_U8) {
        p->ew.flip_u8(count, t->data, (uint8_t *)room);
        return NW_OK;
    }
    int32_t some[256];
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at < 256 ? count - at : 256;
        nw_load_codes(q->format, t->data, at, n, some);
        for (size_t i = 0; i < n; i++) room[at + i] = (int8_t)(q->levels.count ? 2 * some[i] - 1 : some[i]);
    }
    return NW_OK;
}

static bool has_integer_codes(const nw_qparam *q) {
    if (nw_format_is_integer(q->format)) return nw_format_bits(q->format) <= 8;
    return q->levels.count == 2 && q->levels.value[0] == -1 && q->levels.value[1] == 1;
}

nw_status nw_plan_weights(nw_planner *p, int v, int axis, nw_weights *out, bool *ok) {
    *ok = false;
    const nw_constant *c = nw_graph_constant(p->graph, v);
    if (!c || !c->tensor.qparam) return NW_OK;
    const nw_tensor *t = &c->tensor;
    const nw_qparam *q = t->qparam;
    if (!has_integer_codes(q)) return NW_OK;
    if (q->grain != NW_GRAIN_TENSOR && (q->grain != NW_GRAIN_AXIS || q->axis != axis)) return NW_OK;
    size_t channels = (size_t)t->dims[axis];
    float *scale = nw_arena_array(&p->scratch, channels, sizeof *scale);
    int32_t *zero = nw_arena_array(&p->plan->arena, channels, sizeof *zero);
    if (!scale || !zero) return NW_E_MEMORY;
    int32_t shift = q->format == NW_U8 ? -128 : 0; /* unsigned codes of fewer bits fit as they are */
    bool any_zero = false;
    for (size_t n = 0; n < channels; n++) {
        size_t g = q->grain == NW_GRAIN_TENSOR ? 0 : n;
        scale[n] = nw_qparam_scale(q, g);
        zero[n] = nw_qparam_zero(q, g) + shift;
        any_zero |= zero[n] != 0;
    }
    const int8_t *codes;
    NW_TRY(codes_of(p, t, &codes));
    *out = (nw_weights){.codes = codes,
                        .scale = scale,
                        .zero = any_zero ? zero : NULL,
                        .channels = channels,
                        .bits = q->levels.count ? 2 : nw_format_bits(q->format), /* −1 and 1 have a middle */
                        .least = q->levels.count ? -1 : (int)nw_format_min(q->format) + shift};
    *ok = true;
    return NW_OK;
}

/* A bias less what the zero point adds to every sum; wraps, as the sums do. */
static int32_t less_sum(int32_t bias, int32_t zero, int32_t col_sum) {
    return (int32_t)((uint32_t)bias - (uint32_t)zero * (uint32_t)col_sum);
}

nw_status nw_plan_epilogue(nw_planner *p, const nw_grid *x, const nw_weights *w, const float *bias,
                           const int32_t *col_sums, const nw_follow *follow, nw_epilogue *out) {
    nw_arena *arena = &p->plan->arena;
    size_t n = w->channels;
    bool codes = follow->grid.scale > 0;
    float *scale = nw_arena_array(arena, n, sizeof *scale);
    int32_t *ibias = nw_arena_array(arena, n, sizeof *ibias);
    float *fbias = bias && !codes ? nw_arena_array(arena, n, sizeof *fbias) : NULL;
    if (!scale || !ibias || (bias && !codes && !fbias)) return NW_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        double unit = (double)x->scale * (double)w->scale[i]; /* what one step of the accumulator is worth */
        double b = codes && bias ? rint((double)bias[i] / unit) : 0;
        b = !(b > -1073741824.0) ? -1073741824.0 : b > 1073741824.0 ? 1073741824.0 : b; /* and NaN */
        ibias[i] = less_sum((int32_t)b, x->zero, col_sums[i]);
        /* In f32, in this order: other runtimes do the same, and the last bit decides ties. */
        float step = x->scale * w->scale[i];
        scale[i] = codes ? step / follow->grid.scale : step;
        if (fbias) fbias[i] = bias[i];
    }
    *out = (nw_epilogue){.out = codes ? NW_OUT_U8 : NW_OUT_F32,
                         .bias = ibias,
                         .wzero = w->zero,
                         .scale = scale,
                         .zero = follow->grid.zero,
                         .lo = follow->code_lo,
                         .hi = follow->code_hi,
                         .fbias = fbias,
                         .flo = follow->lo,
                         .fhi = follow->hi};
    return NW_OK;
}

/* acc·scale[n]·row_scale becomes acc·(scale[n]·row_scale), and row_zero·col_sum part of the bias. */
void nw_epilogue_take_grid(nw_epilogue *e, size_t n, void *room) {
    float *scale = room;
    int32_t *bias = (int32_t *)(scale + n);
    for (size_t i = 0; i < n; i++) {
        scale[i] = e->scale[i] * e->row_scale[0];
        bias[i] = less_sum(e->bias ? e->bias[i] : 0, e->row_zero[0], e->col_sum[i]);
    }
    e->scale = scale;
    e->bias = bias;
    e->row_scale = NULL;
    e->row_zero = NULL;
}
