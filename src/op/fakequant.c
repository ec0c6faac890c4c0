/* fakequant.c: FakeQuant, the quantization node of the portable graph (quantize.h says what it means). */
#include "op/quantize.h"

#include "op/real.h"

#include <inttypes.h>
#include <string.h>

#define PER_ROW (-1) /* axis of a dynamic grid with grain AXIS */

/* Everything but the scales, from the attributes. groups: 0. */
static nw_status read_attributes(nw_context *ctx, const nw_node *node, nw_qparam *p) {
    const char *name = nw_node_string(node, "format", "");
    nw_format format = nw_format_by_name(name);
    bool integer = nw_format_is_integer(format) && (nw_format_bits(format) <= 16 || format == NW_S32);
    if (!integer && !(nw_format_is_float(format) && nw_format_bits(format) <= 16))
        return nw_fail(ctx, NW_E_ARGUMENT, "\"%s\" is no format to quantize to", name);
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
    p->grain = block > 0 ? NW_GRAIN_BLOCK : axis >= 0 ? NW_GRAIN_AXIS : NW_GRAIN_TENSOR;
    p->axis = axis < 0 ? 0 : (int)axis;
    p->block = block;
    return NW_OK;
}

/* A single scale is per tensor, whatever the axis. */
static nw_status read_groups(nw_context *ctx, const nw_tensor *scale, nw_qparam *p) {
    p->groups = nw_tensor_count(scale);
    if (p->groups == 1 && p->grain == NW_GRAIN_AXIS) p->grain = NW_GRAIN_TENSOR;
    if (p->grain != NW_GRAIN_TENSOR || p->groups == 1) return NW_OK;
    return nw_fail(ctx, NW_E_SHAPE, "there are %zu scales but no axis for them", p->groups);
}

/* Scales and zero points into `arena`; zero may be NULL. */
static nw_status read_values(const nw_tensor *scale, const nw_tensor *zero, nw_arena *arena, nw_qparam *p) {
    float *scales = nw_arena_array(arena, p->groups, sizeof *scales);
    int32_t *zeros = zero ? nw_arena_array(arena, p->groups, sizeof *zeros) : NULL;
    if (!scales || (zero && !zeros)) return NW_E_MEMORY;
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
    NW_TRY(read_attributes(ctx, node, &p));
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

static nw_status fakequant_infer(nw_op_call *call) {
    const nw_tensor *x, *scale = nw_call_in(call, 1);
    nw_qparam p;
    NW_TRY(nw_call_require_real(call, 0, &x));
    NW_TRY(read_attributes(call->ctx, call->node, &p));
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

/* The largest finite number of a float format. */
static double largest_of(nw_format format) {
    uint64_t code = 0;
    nw_store_f64_as(format, &code, 0, format == NW_BF16 ? 3.38953138925153547590e38 : 65504, true);
    return nw_load_f64(format, &code, 0);
}

/* A grid from the values themselves, for one run of `count` elements. */
static void fake_dynamic(nw_qparam p, size_t count, const float *x, float *out) {
    float lo, hi, scale;
    int32_t zero = 0;
    nw_measure_range(count, x, &lo, &hi);
    if (nw_format_is_float(p.format)) {
        double top = -(double)lo > (double)hi ? -(double)lo : (double)hi;
        scale = (float)(top / largest_of(p.format));
        if (!(scale > 0)) scale = 1;
    } else {
        bool symmetric = nw_format_kind(p.format) == NW_KIND_SINT;
        nw_choose_scale(lo, hi, symmetric, p.qmin, p.qmax, &scale, &zero);
    }
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
    NW_TRY(read_attributes(call->ctx, call->node, &p));
    NW_TRY(nw_call_f32(call, 0, &in));
    NW_TRY(nw_call_f32_out(call, 0, &out));
    if (scale) {
        NW_TRY(read_groups(call->ctx, scale, &p));
        NW_TRY(read_values(scale, nw_call_in(call, 2), call->scratch, &p));
        nw_fake_quantize(&p, x->rank, x->dims, in, out);
    } else {
        size_t count = nw_tensor_count(x), row = count;
        if (nw_node_int(call->node, "per_row", 0) && x->rank > 0) row = (size_t)x->dims[x->rank - 1];
        for (size_t at = 0; at < count; at += row) fake_dynamic(p, row, in + at, out + at);
    }
    nw_call_f32_done(call, 0, out);
    return NW_OK;
}

const nw_op nw_op_narrow_FakeQuant = {"FakeQuant", "ai.narrow", 0, fakequant_infer, fakequant_eval, NULL};
