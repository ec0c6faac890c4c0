/* fakequant.c: FakeQuant, the quantization node of the portable graph (quantize.h says what it means). */
#include "op/quantize.h"

#include "num/levels.h"
#include "op/grad.h"
#include "op/real.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define PER_ROW (-1) /* axis of a dynamic grid with grain AXIS */

/* The table of an index format; its arrays are the node's, or in `arena`. */
static nw_status read_levels(nw_arena *arena, const nw_node *node, nw_qparam *p) {
    nw_levels l = {0};
    size_t values = 0, thresholds = 0;
    bool index = nw_format_kind(p->format) == NW_KIND_INDEX;
    if (!nw_node_floats(node, "levels", &l.value, &values) && !index) return NW_OK;
    bool given = nw_node_floats(node, "thresholds", &l.threshold, &thresholds);
    l.count = values <= (size_t)nw_format_max(p->format) + 1 ? (int)values : 0;
    if (!given) l.threshold = NULL;
    if (!index || (given && thresholds + 1 != values) || !nw_levels_valid(&l))
        return nw_fail(arena->ctx, NW_E_ARGUMENT,
                       "format %s with %zu levels and %zu thresholds makes no sense: index formats take 2 "
                       "levels or more "
                       "in ascending order, as many as there are codes at most, and one threshold less",
                       nw_format_name(p->format), values, thresholds);
    p->levels = l;
    p->qmax = l.count - 1;
    return given ? NW_OK : nw_levels_copy(arena, &l, &p->levels);
}

/* Everything but the scales, from the attributes. groups: 0. */
static nw_status read_attributes(nw_arena *arena, const nw_node *node, nw_qparam *p) {
    nw_context *ctx = arena->ctx;
    const char *name = nw_node_string(node, "format", ""),
               *scale = nw_node_string(node, "scale_format", "f32");
    nw_format format = nw_format_by_name(name);
    bool integer = nw_format_is_integer(format) && (nw_format_bits(format) <= 16 || format == NW_S32);
    bool index = nw_format_kind(format) == NW_KIND_INDEX;
    if (!integer && !index && !(nw_format_is_float(format) && nw_format_bits(format) <= 16))
        return nw_fail(ctx, NW_E_ARGUMENT, "\"%s\" is no format to quantize to", name);
    if (!nw_format_is_scale(nw_format_by_name(scale)))
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "\"%s\" is no format for scales: they are f32, f16, bf16 or f8e8m0", scale);
    int64_t least = integer ? nw_format_min(format) : 0, most = integer ? nw_format_max(format) : 0;
    int64_t qmin = nw_node_int(node, "qmin", least), qmax = nw_node_int(node, "qmax", most);
    int64_t axis = nw_node_int(node, "axis", -1), block = nw_node_int(node, "block", 0);
    if (integer && (qmin < least || qmax > most || qmin >= qmax))
        return nw_fail(ctx, NW_E_ARGUMENT, "codes from %" PRId64 " to %" PRId64 " do not fit format %s", qmin,
                       qmax, name);
    if (axis < -1 || axis >= NW_MAX_RANK || block < 0 || (block > 0 && axis < 0))
        return nw_fail(ctx, NW_E_ARGUMENT, "axis %" PRId64 " with block %" PRId64 " makes no sense", axis,
                       block);
    *p = (nw_qparam){
        .format = format, .qmin = integer ? (int32_t)qmin : 0, .qmax = integer ? (int32_t)qmax : 0};
    p->scale_format = nw_format_by_name(scale);
    p->grain = block > 0 ? NW_GRAIN_BLOCK : axis >= 0 ? NW_GRAIN_AXIS : NW_GRAIN_TENSOR;
    p->axis = axis < 0 ? 0 : (int)axis;
    p->block = block;
    return read_levels(arena, node, p);
}

/* A single scale is per tensor, whatever the axis. */
static nw_status read_groups(nw_context *ctx, const nw_tensor *scale, nw_qparam *p) {
    p->groups = nw_tensor_count(scale);
    if (p->groups == 1 && p->grain == NW_GRAIN_AXIS) p->grain = NW_GRAIN_TENSOR;
    if (p->grain != NW_GRAIN_TENSOR || p->groups == 1) return NW_OK;
    return nw_fail(ctx, NW_E_SHAPE, "there are %zu scales but no axis for them", p->groups);
}

nw_status nw_fakequant_format(nw_arena *arena, const nw_node *node, const nw_tensor *scale, nw_qparam *out) {
    NW_TRY(read_attributes(arena, node, out));
    return read_groups(arena->ctx, scale, out);
}

/* Scales, stored as their tensor has them, and zero points into `arena`; zero may be NULL. */
static nw_status read_values(const nw_tensor *scale, const nw_tensor *zero, nw_arena *arena, nw_qparam *p) {
    size_t bytes = 0;
    p->scale_format = nw_format_is_scale(scale->format) ? scale->format : NW_F32;
    nw_format_bytes(p->scale_format, p->groups, &bytes);
    void *scales = nw_arena_data(arena, bytes);
    int32_t *zeros = zero ? nw_arena_array(arena, p->groups, sizeof *zeros) : NULL;
    if (!scales || (zero && !zeros)) return NW_E_MEMORY;
    if (scale->format == p->scale_format)
        memcpy(scales, scale->data, bytes);
    else
        nw_decode_f32(scale->format, scale->data, 0, p->groups, scales);
    for (size_t g = 0; g < p->groups && zero; g++) {
        int64_t z = nw_tensor_s64(zero, g);
        bool fits =
            nw_format_bits(p->format) <= 16 && z >= nw_format_min(p->format) && z <= nw_format_max(p->format);
        if (z != 0 && !fits)
            return nw_fail(arena->ctx, NW_E_ARGUMENT, "zero point %" PRId64 " is no code of format %s", z,
                           nw_format_name(p->format));
        zeros[g] = (int32_t)z;
    }
    p->scales = scales;
    p->zeros = zeros;
    return NW_OK;
}

static nw_status check_types(nw_context *ctx, const nw_tensor *scale, const nw_tensor *zero) {
    if (!nw_format_is_float(scale->format) || scale->qparam)
        return nw_fail(ctx, NW_E_TYPE, "its scale must hold real numbers, it holds %s",
                       nw_format_name(scale->format));
    if (zero && (!nw_format_is_integer(zero->format) || zero->qparam ||
                 nw_tensor_count(zero) != nw_tensor_count(scale)))
        return nw_fail(ctx, NW_E_SHAPE, "its zero points must be integers, one for each scale");
    return NW_OK;
}

nw_status nw_fakequant_qparam(const nw_graph *graph, const nw_node *node, nw_arena *arena, nw_qparam *out,
                              bool *dynamic) {
    nw_context *ctx = arena->ctx;
    int scale_id = nw_node_in(node, 1), zero_id = nw_node_in(node, 2);
    nw_qparam p;
    NW_TRY(read_attributes(arena, node, &p));
    *dynamic = scale_id < 0;
    if (*dynamic) {
        if (nw_node_int(node, "per_row", 0)) {
            p.grain = NW_GRAIN_AXIS;
            p.axis = PER_ROW;
        }
        *out = p;
        return NW_OK;
    }
    const nw_constant *scale = nw_graph_constant(graph, scale_id), *zero = nw_graph_constant(graph, zero_id);
    if (!scale || (zero_id >= 0 && !zero))
        return nw_fail(ctx, NW_E_NEED_VALUE, "the scale of FakeQuant \"%s\" is no constant",
                       nw_node_label(graph, node));
    const nw_tensor *zeros = zero ? &zero->tensor : NULL;
    NW_TRY(check_types(ctx, &scale->tensor, zeros));
    NW_TRY(read_groups(ctx, &scale->tensor, &p));
    NW_TRY(read_values(&scale->tensor, zeros, arena, &p));
    *out = p;
    return NW_OK;
}

nw_status nw_fakequant_sign_scale(const nw_graph *graph, const nw_node *node, nw_arena *arena, float *scale,
                                  bool *ok) {
    nw_qparam p;
    bool dynamic;
    *ok = false;
    if (node->op != &nw_op_narrow_FakeQuant || !nw_graph_constant(graph, nw_node_in(node, 1))) return NW_OK;
    if (nw_format_kind(nw_format_by_name(nw_node_string(node, "format", ""))) != NW_KIND_INDEX) return NW_OK;
    NW_TRY(nw_fakequant_qparam(graph, node, arena, &p, &dynamic));
    if (p.grain != NW_GRAIN_TENSOR || !nw_levels_are_signs(&p.levels) || p.levels.threshold[0] != 0)
        return NW_OK;
    *scale = nw_qparam_scale(&p, 0);
    *ok = *scale > 0 && isfinite(*scale);
    return NW_OK;
}

bool nw_fakequant_is_cast(const nw_qparam *p) {
    return (p->format == NW_F16 || p->format == NW_BF16) && p->groups == 1 && nw_qparam_scale(p, 0) == 1.0f;
}

nw_status nw_fakequant_write(nw_graph *graph, nw_node *node, const nw_qparam *p) {
    nw_format format = p->format;
    const nw_levels *l = &p->levels;
    NW_TRY(nw_node_set_string(graph, node, "format", nw_format_name(format)));
    if (nw_format_is_integer(format)) {
        if (p->qmin != nw_format_min(format)) NW_TRY(nw_node_set_int(graph, node, "qmin", p->qmin));
        if (p->qmax != nw_format_max(format)) NW_TRY(nw_node_set_int(graph, node, "qmax", p->qmax));
    }
    if (p->grain != NW_GRAIN_TENSOR && p->axis != PER_ROW)
        NW_TRY(nw_node_set_int(graph, node, "axis", p->axis));
    if (p->grain == NW_GRAIN_AXIS && p->axis == PER_ROW) NW_TRY(nw_node_set_int(graph, node, "per_row", 1));
    if (p->grain == NW_GRAIN_BLOCK) NW_TRY(nw_node_set_int(graph, node, "block", p->block));
    if (p->groups == 0 && nw_qparam_scale_format(p) != NW_F32)
        NW_TRY(nw_node_set_string(graph, node, "scale_format", nw_format_name(p->scale_format)));
    if (!l->count) return NW_OK;
    NW_TRY(nw_node_set_floats(graph, node, "levels", l->value, (size_t)l->count));
    return nw_node_set_floats(graph, node, "thresholds", l->threshold, (size_t)l->count - 1);
}

static nw_status fakequant_infer(nw_op_call *call) {
    const nw_tensor *x, *scale = nw_call_in(call, 1);
    nw_qparam p;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(read_attributes(call->scratch, call->node, &p));
    if (scale) {
        NW_TRY(check_types(call->ctx, scale, nw_call_in(call, 2)));
        NW_TRY(read_groups(call->ctx, scale, &p));
        if (p.grain != NW_GRAIN_TENSOR && p.axis >= x->rank)
            return nw_call_fail(call, NW_E_SHAPE, "it has scales along axis %d of a tensor of %d dimensions",
                                p.axis, x->rank);
        size_t groups = nw_qparam_group_count(p.grain, p.axis, p.block, x->rank, x->dims);
        if (groups != p.groups)
            return nw_call_fail(call, NW_E_SHAPE, "it has %zu scales where the input has %zu groups",
                                p.groups, groups);
    }
    return nw_call_set_like(call, 0, x);
}

/* The largest magnitude in a table. */
static double largest_level(const nw_levels *l) {
    double lowest = -(double)l->value[0], highest = (double)l->value[l->count - 1];
    return lowest > highest ? lowest : highest;
}

void nw_fake_quantize_measured(const nw_qparam *format, size_t count, const float *x, float *out) {
    nw_qparam p = *format;
    float lo, hi, scale;
    int32_t zero = 0;
    nw_measure_range(count, x, &lo, &hi);
    if (nw_format_is_integer(p.format)) {
        const nw_codes codes = {p.qmin, p.qmax, nw_format_kind(p.format) == NW_KIND_SINT};
        nw_choose_grid(lo, hi, &codes, nw_qparam_scale_format(&p), &scale, &zero);
    } else {
        double top = -(double)lo > (double)hi ? -(double)lo : (double)hi;
        scale = (float)(top / (p.levels.count ? largest_level(&p.levels) : nw_format_largest(p.format)));
        scale = scale > 0 ? nw_round_scale(nw_qparam_scale_format(&p), scale, true) : 1;
    }
    p.scale_format = NW_F32; /* which holds the rounded scale too */
    p.grain = NW_GRAIN_TENSOR;
    p.groups = 1;
    p.scales = &scale;
    p.zeros = &zero;
    nw_fake_quantize(&p, 1, (const int64_t[]){(int64_t)count}, x, out);
}

static nw_status fakequant_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0], *scale = nw_call_in(call, 1);
    const float *in;
    float *out;
    nw_qparam p;
    NW_TRY(read_attributes(call->scratch, call->node, &p));
    NW_TRY(nw_call_f32(call, 0, &in));
    NW_TRY(nw_call_f32_out(call, 0, &out));
    if (scale) {
        NW_TRY(read_groups(call->ctx, scale, &p));
        NW_TRY(read_values(scale, nw_call_in(call, 2), call->scratch, &p));
        nw_fake_quantize(&p, x->rank, x->dims, in, out);
    } else {
        size_t count = nw_tensor_count(x), row = count;
        if (nw_node_int(call->node, "per_row", 0) && x->rank > 0) row = (size_t)x->dims[x->rank - 1];
        for (size_t at = 0; at < count; at += row) nw_fake_quantize_measured(&p, row, in + at, out + at);
    }
    nw_call_f32_done(call, 0, out);
    return NW_OK;
}

/* FakeQuantGrad: inputs: x, dy, scale, zero?; attributes: those of FakeQuant; outputs: dx, dscale. With v =
 * x/scale and y = scale·c(v), rounding counts as the identity (straight-through) where v lies between the
 * outermost codes: there dx = dy and dscale = Σ dy·(c − v); beyond them dx = 0 and dscale = Σ dy·c. With
 * attribute lsq = 1 dscale is divided by √(n·most), n elements per scale, most the largest code (Esser et al.
 * 2020, "Learned step size quantization"). */

static nw_status ste_infer(nw_op_call *call) {
    const nw_tensor *x, *dy, *scale;
    nw_qparam p;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(nw_call_require_real(call, 1, &dy));
    NW_TRY(nw_call_require_real(call, 2, &scale));
    NW_TRY(read_attributes(call->scratch, call->node, &p));
    NW_TRY(check_types(call->ctx, scale, nw_call_in(call, 3)));
    NW_TRY(read_groups(call->ctx, scale, &p));
    if (!nw_tensor_same_shape(x, dy) || (p.grain != NW_GRAIN_TENSOR && p.axis >= x->rank) ||
        nw_qparam_group_count(p.grain, p.axis, p.block, x->rank, x->dims) != p.groups)
        return nw_call_fail(call, NW_E_SHAPE, "its inputs do not fit together");
    NW_TRY(nw_call_set_like(call, 0, x));
    return nw_call_set_like(call, 1, scale);
}

/* The outermost codes of group g, less its zero point. */
static void outermost(const nw_qparam *p, size_t g, float *lo, float *hi) {
    if (nw_format_is_float(p->format)) {
        *hi = (float)nw_format_largest(p->format);
        *lo = -*hi;
    } else if (p->levels.count) {
        *lo = p->levels.value[0];
        *hi = p->levels.value[p->levels.count - 1];
    } else {
        *lo = (float)(p->qmin - nw_qparam_zero(p, g));
        *hi = (float)(p->qmax - nw_qparam_zero(p, g));
    }
}

typedef struct ste {
    const float *x, *dy, *y; /* y: x on the grid */
    float *dx;
    double *dscale; /* [groups], added to */
} ste;

static void ste_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    const ste *s = user;
    for (size_t i = run->first, g = run->group, end = i + run->count; i < end;) {
        size_t stop = run->step ? i + 1 : end;
        float scale = nw_qparam_scale(p, g), lo, hi;
        double sum = 0;
        outermost(p, g, &lo, &hi);
        for (; i < stop; i++) {
            float v = s->x[i] / scale;
            bool inside = v >= lo && v <= hi;
            s->dx[i] = inside ? s->dy[i] : 0;
            sum += (double)(s->dy[i] * (s->y[i] / scale - (inside ? v : 0)));
        }
        s->dscale[g++] += sum;
    }
}

static nw_status ste_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    float *y, lo, hi;
    ste s;
    nw_qparam p;
    size_t count = nw_tensor_count(x);
    NW_TRY(read_attributes(call->scratch, call->node, &p));
    NW_TRY(read_groups(call->ctx, call->in[2], &p));
    NW_TRY(read_values(call->in[2], nw_call_in(call, 3), call->scratch, &p));
    NW_TRY(nw_call_f32(call, 0, &s.x));
    NW_TRY(nw_call_f32(call, 1, &s.dy));
    NW_TRY(nw_call_scratch(call, count, &y));
    NW_TRY(nw_call_scratch(call, count, &s.dx)); /* the output may not be wanted */
    NW_TRY(nw_call_scratch(call, p.groups, &s.dscale));
    for (size_t g = 0; g < p.groups; g++) s.dscale[g] = 0;
    nw_fake_quantize(&p, x->rank, x->dims, s.x, y);
    s.y = y;
    nw_walk_groups(&p, x->rank, x->dims, ste_run, &s);
    if (nw_call_wants(call, 0)) nw_encode_f32(call->out[0].format, s.dx, count, call->out[0].data, 0);
    if (!nw_call_wants(call, 1) || count == 0) return NW_OK;
    for (size_t g = 0; g < p.groups; g++) {
        outermost(&p, g, &lo, &hi);
        double share = sqrt((double)count / (double)p.groups * (double)(hi > 1 ? hi : 1));
        double sum = nw_node_int(call->node, "lsq", 0) ? s.dscale[g] / share : s.dscale[g];
        nw_store_f64(call->out[1].format, call->out[1].data, g, sum);
    }
    return NW_OK;
}

const nw_op nw_op_narrow_FakeQuantGrad = {
    .name = "FakeQuantGrad", .domain = "ai.narrow", .infer = ste_infer, .eval = ste_eval};

/* A grid measured at run time covers all of x. */
static nw_status fakequant_grad(nw_grad_call *c) {
    if (nw_grad_in(c, 1) < 0) {
        c->dx[0] = nw_grad_op1(c, "Identity", c->dy[0]);
        return c->status;
    }
    int ids[2];
    nw_grad_begin(c, "ai.narrow", "FakeQuantGrad", 4,
                  (int[]){nw_grad_in(c, 0), c->dy[0], nw_grad_in(c, 1), nw_grad_in(c, 2)});
    nw_grad_copy_attrs(c);
    nw_grad_end_many(c, 2, c->wanted, ids);
    c->dx[0] = ids[0];
    c->dx[1] = ids[1];
    return c->status;
}

const nw_op nw_op_narrow_FakeQuant = {.name = "FakeQuant",
                                      .domain = "ai.narrow",
                                      .infer = fakequant_infer,
                                      .eval = fakequant_eval,
                                      .grad = fakequant_grad};
