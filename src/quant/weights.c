/* weights.c: packing constant tensors. */
#include "quant/weights.h"

#include "kern/elementwise.h"
#include "num/levels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bias codes stay below this, so that a sum of products has as much room again in 32 bits. */
#define BIAS_LIMIT 1073741824.0

bool nw_weight_spec_equal(const nw_weight_spec *a, const nw_weight_spec *b) {
    return nw_coding_equal(&a->coding, &b->coding) && a->scale_format == b->scale_format &&
           a->grain == b->grain && a->axis == b->axis && a->block == b->block && a->range == b->range &&
           a->balanced == b->balanced;
}

/* ---- the numbers of one group ----------------------------------------------------------------- */

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

/* ---- ranges ----------------------------------------------------------------------------------- */

nw_status nw_weight_check(nw_context *ctx, const char *name, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return nw_fail(
                ctx, NW_E_DATA,
                "weight \"%s\": element %zu is %g; a tensor with infinities or NaN cannot be quantized "
                "(exclude its layer, or repair the model)",
                name, i, (double)x[i]);
    return NW_OK;
}

/* Integers in the order of floats: infinities and NaNs are the outermost. They compare in plain loops that vectorize. */
static inline int32_t key_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 & 0x7fffffff);
}
static inline float number_of(int32_t key) {
    int32_t bits = key ^ (key >> 31 & 0x7fffffff);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define INFINITE_KEY 0x7f800000 /* of +∞; −∞ has the complement */

/* Ranges of all groups, as keys. */
typedef struct ranges {
    const float *x;
    int32_t *lo, *hi; /* [groups] */
} ranges;

static void measure_run(const nw_qparam *p, const nw_group_run *run, void *user) {
    ranges *r = user;
    const float *restrict x = r->x + run->first;
    int32_t *restrict lo = r->lo + run->group, *restrict hi = r->hi + run->group;
    (void)p;
    if (run->step) {
        for (size_t i = 0; i < run->count; i++) {
            int32_t key = key_of(x[i]);
            lo[i] = key < lo[i] ? key : lo[i];
            hi[i] = key > hi[i] ? key : hi[i];
        }
        return;
    }
    int32_t low = *lo, high = *hi;
    for (size_t i = 0; i < run->count; i++) {
        int32_t key = key_of(x[i]);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *lo = low;
    *hi = high;
}

/* The range of the whole; false: it is not finite. */
static bool whole_range(const ranges *r, size_t groups, float *lo, float *hi) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (size_t g = 0; g < groups; g++) {
        low = r->lo[g] < low ? r->lo[g] : low;
        high = r->hi[g] > high ? r->hi[g] : high;
    }
    *lo = low <= high ? number_of(low) : 0;
    *hi = low <= high ? number_of(high) : 0;
    return low > high || (low > ~INFINITE_KEY && high < INFINITE_KEY);
}

/* ---- scales ----------------------------------------------------------------------------------- */

/* Groups whose elements do not lie together, gathered: `count` from `first` on, `apart` elements from one to the next. */
typedef struct gathered {
    size_t first, count, most, apart;
    float *room; /* [most · apart] */
} gathered;
#define MOST_NEAR 16

/* Memory of one packing. */
typedef struct packing {
    const nw_weight_spec *spec;
    nw_qparam *p;
    const nw_tensor *x; /* f32 */
    ranges range;
    float *scales;  /* [groups] */
    int32_t *zeros; /* [groups] */
    float *room;    /* [2 · elements of the largest group], for ternary */
    nw_group_walk walk;
    gathered near;     /* the groups that were asked for last */
    nw_elementwise ew; /* the machine's: results do not depend on it */
} packing;

/* The elements of group g one behind the other: where they are, or gathered, together with the groups beside them. */
static const float *elements_of(packing *k, size_t g, size_t *count) {
    const group at = group_of(&k->walk, k->p->grain, g);
    const float *x = (const float *)k->x->data + at.first;
    gathered *n = &k->near;
    *count = at.outer * at.run;
    if (at.outer == 1 || at.step == at.run) return x;
    if (g >= n->first && g - n->first < n->count) return n->room + (g - n->first) * n->apart;
    n->first = g;
    n->count = 1;
    /* Columns of a matrix: a line of the cache holds an element of each. */
    while (at.run == 1 && n->count < n->most && g + n->count < k->p->groups) {
        const group next = group_of(&k->walk, k->p->grain, g + n->count);
        if (next.first != at.first + n->count || next.outer != at.outer) break;
        n->count++;
    }
    for (size_t o = 0; o < at.outer; o++, x += at.step)
        if (at.run == 1)
            for (size_t i = 0; i < n->count; i++) n->room[i * n->apart + o] = x[i];
        else
            memcpy(n->room + o * at.run, x, at.run * sizeof *x);
    return n->room;
}

/* Scale and, without the shift, zero point of group g, which lies in [lo, hi], holding 0 and more. */
static float choose_scale(packing *k, size_t g, float lo, float hi, int32_t *zero) {
    const nw_coding *c = &k->spec->coding;
    nw_format format = nw_qparam_scale_format(k->p);
    float top = fmaxf(-lo, hi), scale;
    size_t count = 0;
    const float *x = NULL;
    bool search = c->kind == NW_LINEAR && k->spec->range == NW_WEIGHT_MSE;
    if (search || c->kind == NW_TERNARY || c->kind == NW_BINARY) x = elements_of(k, g, &count);
    switch (c->kind) {
    case NW_LINEAR:
        if (search && count > 1)
            nw_choose_grid_mse(k->ew.grid_error_f32, x, count, lo, hi, &c->grid, format, &scale, zero);
        else
            nw_choose_grid(lo, hi, &c->grid, format, &scale, zero);
        return scale;
    case NW_FLOAT: return nw_choose_float(top, c->format, format);
    case NW_TERNARY: return nw_round_scale(format, nw_choose_ternary(x, count, (uint32_t *)k->room), false);
    case NW_BINARY: return nw_round_scale(format, nw_choose_binary(x, count), false);
    default: return nw_round_scale(format, top, true);
    }
}

/* Scales and zero points of every group. A group of zeros takes the smallest scale of the others, for its
 * bias's sake; the smallest there is where the codes have no zero. */
static void choose_groups(packing *k, const float *least) {
    const nw_coding *c = &k->spec->coding;
    nw_format format = nw_qparam_scale_format(k->p);
    float smallest = INFINITY;
    size_t groups = k->p->groups;
    for (size_t g = 0; g < groups; g++) {
        int32_t zero = 0;
        float lo = k->range.lo[g] < 0 ? number_of(k->range.lo[g]) : 0;
        float hi = k->range.hi[g] > 0 ? number_of(k->range.hi[g]) : 0;
        k->scales[g] = 0;
        k->zeros[g] = c->shift;
        if (lo == 0 && hi == 0) continue;
        float scale = choose_scale(k, g, lo, hi, &zero);
        if (least && scale < least[g]) {
            scale = nw_round_scale(format, least[g], true);
            double z = c->grid.symmetric ? 0 : rint((double)c->grid.qmin - (double)lo / (double)scale);
            zero = (int32_t)fmin(fmax(z, c->grid.qmin), c->grid.qmax);
        }
        k->scales[g] = scale;
        k->zeros[g] += zero;
        if (scale < smallest) smallest = scale;
    }
    if (c->kind == NW_BINARY || c->kind == NW_CODEBOOK) smallest = nw_least_scale(format);
    for (size_t g = 0; g < groups; g++) {
        if (k->scales[g] > 0) continue;
        k->scales[g] = isfinite(smallest) ? smallest : 1;
        if (least && k->scales[g] < least[g]) k->scales[g] = nw_round_scale(format, least[g], true);
    }
}

/* ---- codebooks -------------------------------------------------------------------------------- */

/* Up to this many numbers are clustered one by one; more in as many bins over [−1, 1], whose means count. */
#define POINTS 4096

typedef struct points {
    const float *x, *scales;
    nw_point *point;
    size_t count; /* filled one by one; 0: bins */
    bool bins;
} points;

static void add_points(const nw_qparam *p, const nw_group_run *run, void *user) {
    points *d = user;
    (void)p;
    for (size_t i = 0; i < run->count; i++) {
        double scale = (double)d->scales[run->group + i * run->step], weight = scale * scale;
        double r = (double)d->x[run->first + i] / scale;
        size_t at = d->count;
        if (d->bins)
            at = (size_t)((fmin(fmax(r, -1), 1) + 1) * (0.5 * (POINTS - 1)));
        else
            d->count++;
        d->point[at].weight += weight;
        d->point[at].sum += weight * r;
    }
}

static int compare_points(const void *a, const void *b) {
    const nw_point *p = a, *q = b;
    double x = p->sum / p->weight, y = q->sum / q->weight;
    return (x > y) - (x < y);
}

/* One table for all groups: what costs is the error times the group's scale. */
static nw_status make_codebook(nw_arena *arena, nw_arena *scratch, const packing *k) {
    size_t count = nw_tensor_count(k->x), kept = 0;
    points d = {.x = k->x->data, .scales = k->scales, .bins = count > POINTS};
    if (!(d.point = nw_arena_array(scratch, POINTS, sizeof *d.point))) return NW_E_MEMORY;
    nw_walk_groups(k->p, k->x->rank, k->x->dims, add_points, &d);
    for (size_t i = 0; i < POINTS; i++)
        if (d.point[i].weight > 0) d.point[kept++] = d.point[i];
    qsort(d.point, kept, sizeof *d.point, compare_points);
    size_t distinct = 0;
    for (size_t i = 0; i < kept; i++)
        if (distinct && compare_points(&d.point[distinct - 1], &d.point[i]) == 0) {
            d.point[distinct - 1].weight += d.point[i].weight;
            d.point[distinct - 1].sum += d.point[i].sum;
        } else {
            d.point[distinct++] = d.point[i];
        }
    return nw_levels_codebook(arena, distinct, d.point, k->spec->coding.grid.qmax + 1, &k->p->levels);
}

/* ---- balanced rounding ------------------------------------------------------------------------ */

/* What a layer reads often has a mean of its own (behind a Relu always), and then errors of one sign add up. Of each group as
 * many elements are rounded the other way as its sum is off by, those that lay nearest to the middle (the channel step of Guo
 * et al. 2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation"). */

typedef struct candidate {
    float error; /* of its code, in steps */
    uint32_t at; /* in the group */
    int32_t code;
} candidate;

/* One order for all, so that the choice does not depend on the way there. */
static bool comes_first(const candidate *a, const candidate *b) {
    return a->error != b->error ? a->error > b->error : a->at < b->at;
}

/* Moves the `wanted` candidates that come first to the front, in any order (Hoare's FIND). */
static void select_first(candidate *c, size_t count, size_t wanted) {
    for (size_t lo = 0, hi = count; hi - lo > 1 && wanted > lo && wanted < hi;) {
        const candidate pivot = c[lo + (hi - lo) / 2];
        size_t i = lo, j = hi - 1;
        for (;; i++, j--) {
            while (comes_first(&c[i], &pivot)) i++;
            while (comes_first(&pivot, &c[j])) j--;
            if (i >= j) break;
            const candidate swapped = c[i];
            c[i] = c[j];
            c[j] = swapped;
        }
        /* all before i come first, all behind j do not; they meet in the pivot or beside each other */
        if (wanted <= i)
            hi = i;
        else
            lo = j + 1;
    }
}

/* Where the numbers of one group are to be rounded the other way, y gets what the other code stands for. */
static void balance_group(packing *k, size_t g, candidate *found, float *y, nw_quant_stats *change) {
    const nw_qparam *p = k->p;
    const float scale = nw_qparam_scale(p, g);
    const int32_t zero = nw_qparam_zero(p, g);
    const group at = group_of(&k->walk, p->grain, g);
    size_t n, count = 0;
    const float *x = elements_of(k, g, &n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t q = nw_quantize_one(x[i], scale, zero, p->qmin, p->qmax);
        found[i] = (candidate){(float)(q - zero) - x[i] / scale, (uint32_t)i, q};
        sum += (double)found[i].error;
    }
    const int sign = sum > 0 ? 1 : -1;
    size_t wanted = fabs(sum) < (double)n ? (size_t)rint(fabs(sum)) : n;
    if (!wanted) return;
    for (size_t i = 0; i < n; i++) {
        candidate c = found[i];
        c.error *= (float)sign;
        c.code -= sign;
        if (c.error > 0 && c.code >= p->qmin && c.code <= p->qmax) found[count++] = c;
    }
    if (wanted > count) wanted = count;
    select_first(found, count, wanted);
    for (size_t i = 0; i < wanted; i++) {
        const uint32_t from = found[i].at;
        const double v = (double)x[from], other = (double)((float)(found[i].code - zero) * scale);
        y[at.first + from / at.run * at.step + from % at.run] = (float)other;
        change->sum += v - other;
        change->squares += v * v - other * other;
        change->noise += (v - other) * (v - other);
    }
}

/* *y ← numbers that round to the balanced codes of x, in scratch; *change: what the statistics of x have more than theirs. */
static nw_status balance(nw_arena *scratch, packing *k, size_t most, const float **y,
                         nw_quant_stats *change) {
    const size_t count = nw_tensor_count(k->x);
    *y = k->x->data;
    if (!k->spec->balanced || k->spec->coding.kind != NW_LINEAR || count > UINT32_MAX) return NW_OK;
    float *copy = nw_arena_data(scratch, count * sizeof *copy + 1);
    candidate *found = nw_arena_data(scratch, most * sizeof *found + 1);
    if (!copy || !found) return NW_E_MEMORY;
    memcpy(copy, *y, count * sizeof *copy);
    for (size_t g = 0; g < k->p->groups; g++) balance_group(k, g, found, copy, change);
    *y = copy;
    return NW_OK;
}

/* ---- packing ---------------------------------------------------------------------------------- */

static void fill_record(const nw_tensor *w, const nw_tensor *packed, const nw_quant_stats *s,
                        const float *scales, nw_quant_weight *r) {
    const nw_qparam *p = packed->qparam;
    double count = s->count ? (double)s->count : 1;
    r->mean = s->sum / count;
    r->sigma = sqrt(fmax(s->squares / count - r->mean * r->mean, 0));
    r->sqnr = s->noise > 0 ? 10 * log10(s->squares / s->noise) : INFINITY;
    r->saturated = (double)s->saturated / count;
    r->format = p->format;
    r->grain = p->grain;
    r->axis = p->axis;
    r->groups = p->groups;
    r->rank = packed->rank;
    memcpy(r->dims, packed->dims, sizeof r->dims);
    r->bytes_before = nw_tensor_bytes(w);
    r->bytes_after = nw_tensor_bytes(packed) + nw_qparam_bytes(p);
    r->scale_min = INFINITY;
    r->scale_max = 0;
    for (size_t g = 0; g < p->groups; g++) {
        r->scale_min = fminf(r->scale_min, scales[g]);
        r->scale_max = fmaxf(r->scale_max, scales[g]);
    }
}

/* Grain, format and codes of *p from the spec. */
static void set_coding(const nw_weight_spec *spec, const nw_tensor *x, nw_qparam *p) {
    const nw_coding *c = &spec->coding;
    bool one = x->rank == 0 || (c->kind == NW_FLOAT && nw_format_bits(c->format) == 16);
    *p = (nw_qparam){.format = c->format,
                     .grain = one ? NW_GRAIN_TENSOR : spec->grain,
                     .scale_format = spec->scale_format,
                     .qmin = c->grid.qmin + c->shift,
                     .qmax = c->grid.qmax + c->shift};
    if (p->grain != NW_GRAIN_TENSOR) p->axis = spec->axis;
    if (p->grain == NW_GRAIN_BLOCK) p->block = spec->block;
    p->groups = nw_qparam_group_count(p->grain, p->axis, p->block, x->rank, x->dims);
}

static nw_status pack(nw_arena *arena, nw_arena *scratch, const char *name, const nw_tensor *w,
                      const nw_weight_spec *spec, const float *least, nw_tensor *out,
                      nw_quant_weight *record) {
    nw_tensor x;
    NW_TRY(nw_tensor_to_f32(scratch, w, &x));
    size_t count = nw_tensor_count(&x);
    const nw_coding *c = &spec->coding;
    nw_qparam *p = nw_arena_alloc(arena, sizeof *p);
    if (!p) return NW_E_MEMORY;
    set_coding(spec, &x, p);

    packing k = {
        .spec = spec, .p = p, .x = &x, .range = {.x = x.data}, .walk = nw_group_walk_of(p, x.rank, x.dims)};
    nw_elementwise_select(nw_isa_detect(), &k.ew);
    bool gathers =
        c->kind == NW_TERNARY || c->kind == NW_BINARY || spec->range == NW_WEIGHT_MSE || spec->balanced;
    size_t most = !gathers || p->groups == 0   ? 0
                  : p->grain == NW_GRAIN_BLOCK ? (size_t)p->block
                                               : count / p->groups;
    if (most > count) most = count;
    k.range.lo = nw_arena_array(scratch, p->groups, sizeof *k.range.lo);
    k.range.hi = nw_arena_array(scratch, p->groups, sizeof *k.range.hi);
    k.scales = nw_arena_array(scratch, p->groups, sizeof *k.scales);
    bool shifted = c->kind == NW_LINEAR && !(c->grid.symmetric && c->shift == 0);
    k.zeros = nw_arena_array(shifted ? arena : scratch, p->groups, sizeof *k.zeros);
    k.room = nw_arena_data(scratch, ((c->kind == NW_TERNARY ? 2 * most : 0) + 1) * sizeof *k.room);
    k.near.most = p->groups < MOST_NEAR ? p->groups : MOST_NEAR;
    k.near.apart = most + 16; /* not all of them in one place of the cache */
    k.near.room = nw_arena_data(scratch, (k.near.most * k.near.apart + 1) * sizeof *k.near.room);
    if (!k.range.lo || !k.range.hi || !k.scales || !k.zeros || !k.room || !k.near.room) return NW_E_MEMORY;
    for (size_t g = 0; g < p->groups; g++) {
        k.range.lo[g] = INT32_MAX;
        k.range.hi[g] = INT32_MIN;
    }
    nw_walk_groups(p, x.rank, x.dims, measure_run, &k.range);
    float lo, hi;
    if (!whole_range(&k.range, p->groups, &lo, &hi)) return nw_weight_check(arena->ctx, name, x.data, count);
    choose_groups(&k, least);
    NW_TRY(nw_qparam_set_scales(arena, p, k.scales));
    if (shifted) p->zeros = k.zeros;
    if (c->kind == NW_CODEBOOK)
        NW_TRY(make_codebook(arena, scratch, &k));
    else
        NW_TRY(nw_coding_levels(arena, c, &p->levels));
    if (p->levels.count) p->qmax = p->levels.count - 1;

    *out = x;
    out->format = c->format;
    out->qparam = p;
    NW_TRY(nw_tensor_alloc(arena, out));
    nw_quant_stats stats, change = {0};
    const float *y;
    NW_TRY(balance(scratch, &k, most, &y, &change));
    nw_quantize_with_stats(p, x.rank, x.dims, y, out->data, &stats);
    stats.sum += change.sum;
    stats.squares += change.squares;
    stats.noise += change.noise;
    fill_record(w, out, &stats, k.scales, record);
    record->min = (double)lo;
    record->max = (double)hi;
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
    NW_TRY(nw_weight_check(arena->ctx, name, b.data, count));
    if (shift) {
        const float *plain = b.data;
        NW_TRY(nw_tensor_alloc(arena, &b)); /* the constant itself may be shared */
        for (size_t i = 0; i < count; i++) ((float *)b.data)[i] = plain[i] + shift[i];
    }
    nw_qparam *p = nw_arena_alloc(arena, sizeof *p);
    float *scales = nw_arena_array(arena, weight->groups, sizeof *scales);
    if (!p || !scales) return NW_E_MEMORY;
    for (size_t g = 0; g < weight->groups; g++)
        scales[g] = fmaxf(data_scale * nw_qparam_scale(weight, g), FLT_MIN);
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
