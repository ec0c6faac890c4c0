/* weights.c: packing constant tensors. */
#include "quant/weights.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Bias codes stay below this, so that a sum of products has as much room again in 32 bits. */
#define BIAS_LIMIT 1073741824.0

void nw_weight_codes(nw_weight_spec *spec, nw_format format, bool symmetric, bool full, bool reduce) {
    int64_t lo = nw_format_min(format), hi = nw_format_max(format), shift = 0;
    if (reduce && hi - lo > 3) {
        lo = lo < 0 ? lo / 2 : 0;
        hi /= 2;
    }
    if (symmetric && lo == 0) {
        shift = (hi + 1) / 2;
        lo -= shift;
        hi -= shift;
    }
    if (symmetric && !full) lo = -hi;
    spec->format = format;
    spec->grid = (nw_codes){(int32_t)lo, (int32_t)hi, symmetric};
    spec->shift = (int32_t)shift;
}

bool nw_weight_spec_equal(const nw_weight_spec *a, const nw_weight_spec *b) {
    return a->format == b->format && a->grain == b->grain && a->axis == b->axis && a->block == b->block &&
           a->grid.qmin == b->grid.qmin && a->grid.qmax == b->grid.qmax &&
           a->grid.symmetric == b->grid.symmetric && a->shift == b->shift && a->range == b->range;
}

/* ---- one group's range ------------------------------------------------------------------------ */

/* Where the elements of group g are, as `outer` runs of `run` elements, `step` apart. */
typedef struct group {
    size_t first, outer, run, step;
} group;

static group group_of(const nw_group_walk *w, nw_grain grain, size_t g) {
    if (grain == NW_GRAIN_TENSOR) return (group){0, 1, w->inner, 0};
    if (grain == NW_GRAIN_AXIS) return (group){g * w->inner, w->outer, w->inner, w->length * w->inner};
    size_t blocks = (w->length + w->block - 1) / w->block, i = g % w->inner, b = g / w->inner % blocks;
    size_t o = g / w->inner / blocks, at = b * w->block;
    size_t count = w->length - at < w->block ? w->length - at : w->block;
    return (group){(o * w->length + at) * w->inner + i, count, 1, w->inner};
}

static size_t gather(const float *x, group at, float *out) {
    for (size_t o = 0; o < at.outer; o++)
        memcpy(out + o * at.run, x + at.first + o * at.step, at.run * sizeof *out);
    return at.outer * at.run;
}

/* Σ (x − x')² on one grid. Rounding to even by adding 1.5·2^23, which is exact below 2^22: a plain loop for
 * every processor. Larger codes (16 bits and more fit) do not occur in a search. */
static double grid_error(const float *x, size_t count, const nw_codes *grid, float scale, int32_t zero) {
    const float magic = 12582912.0f, lo = (float)(grid->qmin - zero), hi = (float)(grid->qmax - zero);
    double error = 0;
    for (size_t i = 0; i < count;) {
        size_t end = count - i < 256 ? count : i + 256;
        float part = 0;
        for (; i < end; i++) {
            float r = x[i] / scale;
            r = r < lo ? lo : r;
            r = r > hi ? hi : r;
            r = (r + magic) - magic;
            float d = x[i] - r * scale;
            part += d * d;
        }
        error += (double)part;
    }
    return error;
}

typedef struct choice {
    float scale;
    int32_t zero;
} choice;

static choice choose(float lo, float hi, const nw_codes *grid) {
    choice c;
    nw_choose_scale(lo, hi, grid->symmetric, grid->qmin, grid->qmax, &c.scale, &c.zero);
    return c;
}

/* Ends are tried from everything down to a quarter, a grid that has few codes gains most from it. */
static choice search_error(const float *x, size_t count, float lo, float hi, const nw_codes *grid) {
    choice best = choose(lo, hi, grid);
    double least = grid_error(x, count, grid, best.scale, best.zero);
    float ends[2] = {lo, hi};
    int lines = grid->symmetric || lo == 0 || hi == 0 ? 1 : 3; /* both ends together, then each alone */
    for (int l = 0; l < lines; l++) {
        float from[2] = {ends[0], ends[1]};
        for (int i = 1; i <= 48; i++) {
            float factor = 1 - (float)i / 64, low = l == 2 ? from[0] : from[0] * factor;
            float high = l == 1 ? from[1] : from[1] * factor;
            choice c = choose(low, high, grid);
            double error = grid_error(x, count, grid, c.scale, c.zero);
            if (error >= least) continue;
            least = error;
            best = c;
            ends[0] = low;
            ends[1] = high;
        }
    }
    return best;
}

/* ---- packing ---------------------------------------------------------------------------------- */

static nw_status check_finite(nw_context *ctx, const char *name, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return nw_fail(
                ctx, NW_E_DATA,
                "weight \"%s\": element %zu is %g; a tensor with infinities or NaN cannot be quantized "
                "(exclude its layer, or repair the model)",
                name, i, (double)x[i]);
    return NW_OK;
}

static void measure(const float *x, const float *restored, size_t count, nw_quant_weight *r) {
    double sum = 0, squares = 0, noise = 0;
    r->min = count ? INFINITY : 0;
    r->max = count ? -INFINITY : 0;
    for (size_t i = 0; i < count; i++) {
        double v = (double)x[i], d = v - (double)restored[i];
        r->min = fmin(r->min, v);
        r->max = fmax(r->max, v);
        sum += v;
        squares += v * v;
        noise += d * d;
    }
    r->mean = count ? sum / (double)count : 0;
    r->sigma = count ? sqrt(fmax(squares / (double)count - r->mean * r->mean, 0)) : 0;
    r->sqnr = noise > 0 ? 10 * log10(squares / noise) : INFINITY;
}

/* Scales and zero points of every group. A group of zeros takes the smallest scale of the others, for its
 * bias's sake. */
static void choose_groups(const nw_weight_spec *spec, const nw_group_walk *walk, const float *x,
                          const float *least, float *room, size_t groups, float *scales, int32_t *zeros) {
    float smallest = INFINITY;
    for (size_t g = 0; g < groups; g++) {
        size_t count = gather(x, group_of(walk, spec->grain, g), room);
        float lo = 0, hi = 0;
        for (size_t i = 0; i < count; i++) {
            lo = room[i] < lo ? room[i] : lo;
            hi = room[i] > hi ? room[i] : hi;
        }
        scales[g] = 0;
        zeros[g] = spec->shift;
        if (lo == 0 && hi == 0) continue;
        choice c = choose(lo, hi, &spec->grid);
        if (spec->range == NW_WEIGHT_MSE && count > 1) c = search_error(room, count, lo, hi, &spec->grid);
        if (least && c.scale < least[g]) {
            c.scale = least[g];
            double z =
                spec->grid.symmetric ? 0 : rint((double)spec->grid.qmin - (double)lo / (double)c.scale);
            c.zero = (int32_t)fmin(fmax(z, spec->grid.qmin), spec->grid.qmax);
        }
        scales[g] = c.scale;
        zeros[g] += c.zero;
        if (c.scale < smallest) smallest = c.scale;
    }
    for (size_t g = 0; g < groups; g++) {
        if (scales[g] > 0) continue;
        scales[g] = isfinite(smallest) ? smallest : 1;
        if (least && scales[g] < least[g]) scales[g] = least[g];
    }
}

static nw_status pack(nw_arena *arena, nw_arena *scratch, const char *name, const nw_tensor *w,
                      const nw_weight_spec *spec, const float *least, nw_tensor *out,
                      nw_quant_weight *record) {
    nw_tensor x;
    NW_TRY(nw_tensor_to_f32(scratch, w, &x));
    size_t count = nw_tensor_count(&x);
    NW_TRY(check_finite(arena->ctx, name, x.data, count));

    nw_qparam *p = nw_arena_alloc(arena, sizeof *p);
    if (!p) return NW_E_MEMORY;
    *p = (nw_qparam){.format = spec->format, .grain = x.rank ? spec->grain : NW_GRAIN_TENSOR};
    if (p->grain != NW_GRAIN_TENSOR) p->axis = spec->axis;
    if (p->grain == NW_GRAIN_BLOCK) p->block = spec->block;
    p->qmin = spec->grid.qmin + spec->shift;
    p->qmax = spec->grid.qmax + spec->shift;
    p->groups = nw_qparam_group_count(p->grain, p->axis, p->block, x.rank, x.dims);
    float *scales = nw_arena_array(arena, p->groups, sizeof *scales);
    int32_t *zeros = nw_arena_array(arena, p->groups, sizeof *zeros);
    float *room = nw_arena_data(scratch, (count ? count : 1) * sizeof *room);
    if (!scales || !zeros || !room) return NW_E_MEMORY;
    nw_weight_spec used = *spec;
    used.grain = p->grain;
    nw_group_walk walk = nw_group_walk_of(p, x.rank, x.dims);
    choose_groups(&used, &walk, x.data, least, room, p->groups, scales, zeros);
    p->scales = scales;
    p->zeros = spec->grid.symmetric && spec->shift == 0 ? NULL : zeros;

    *out = x;
    out->format = spec->format;
    out->qparam = p;
    NW_TRY(nw_tensor_alloc(arena, out));
    size_t saturated = nw_quantize(p, x.rank, x.dims, x.data, out->data);
    nw_dequantize(p, x.rank, x.dims, out->data, room);

    measure(x.data, room, count, record);
    record->saturated = count ? (double)saturated / (double)count : 0;
    record->format = p->format;
    record->grain = p->grain;
    record->axis = p->axis;
    record->groups = p->groups;
    record->rank = x.rank;
    memcpy(record->dims, x.dims, sizeof record->dims);
    record->bytes_before = nw_tensor_bytes(w);
    record->bytes_after = nw_tensor_bytes(out) + p->groups * sizeof(float);
    size_t zero_bytes;
    if (p->zeros && nw_format_bytes(p->format, p->groups, &zero_bytes)) record->bytes_after += zero_bytes;
    record->scale_min = INFINITY;
    record->scale_max = 0;
    for (size_t g = 0; g < p->groups; g++) {
        record->scale_min = fminf(record->scale_min, scales[g]);
        record->scale_max = fmaxf(record->scale_max, scales[g]);
    }
    return NW_OK;
}

nw_status nw_weight_pack(nw_arena *arena, const char *name, const nw_tensor *w, const nw_weight_spec *spec,
                         const float *least, nw_tensor *out, nw_quant_weight *record) {
    nw_arena scratch;
    nw_arena_init(&scratch, arena->ctx);
    nw_status status = pack(arena, &scratch, name, w, spec, least, out, record);
    nw_arena_free(&scratch);
    return status;
}

/* ---- biases ----------------------------------------------------------------------------------- */

nw_status nw_bias_least(nw_arena *arena, const nw_tensor *bias, float data_scale, size_t groups,
                        float *least) {
    nw_tensor b;
    NW_TRY(nw_tensor_to_f32(arena, bias, &b));
    size_t count = nw_tensor_count(&b);
    for (size_t i = 0; i < count; i++) {
        double scale = fabs((double)((const float *)b.data)[i]) / (BIAS_LIMIT * (double)data_scale);
        float *at = &least[groups == 1 ? 0 : i];
        if (scale > (double)*at && scale < (double)FLT_MAX) *at = (float)scale;
    }
    return NW_OK;
}

nw_status nw_bias_pack(nw_arena *arena, const char *name, const nw_tensor *bias, const float *shift,
                       float data_scale, const nw_qparam *weight, int axis, nw_tensor *out) {
    nw_tensor b;
    NW_TRY(nw_tensor_to_f32(arena, bias, &b));
    size_t count = nw_tensor_count(&b);
    NW_TRY(check_finite(arena->ctx, name, b.data, count));
    if (shift) {
        const float *plain = b.data;
        NW_TRY(nw_tensor_alloc(arena, &b)); /* the constant itself may be shared */
        for (size_t i = 0; i < count; i++) ((float *)b.data)[i] = plain[i] + shift[i];
    }
    nw_qparam *p = nw_arena_alloc(arena, sizeof *p);
    float *scales = nw_arena_array(arena, weight->groups, sizeof *scales);
    if (!p || !scales) return NW_E_MEMORY;
    for (size_t g = 0; g < weight->groups; g++) scales[g] = fmaxf(data_scale * weight->scales[g], FLT_MIN);
    *p = (nw_qparam){
        .format = NW_S32, .grain = weight->groups == 1 ? NW_GRAIN_TENSOR : NW_GRAIN_AXIS, .axis = axis};
    p->groups = weight->groups;
    p->scales = scales;
    p->qmin = -INT32_MAX;
    p->qmax = INT32_MAX;
    *out = b;
    out->format = NW_S32;
    out->qparam = p;
    NW_TRY(nw_tensor_alloc(arena, out));
    nw_quantize(p, b.rank, b.dims, b.data, out->data);
    return NW_OK;
}
