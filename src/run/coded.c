/* coded.c: constants whose codes stay packed: how kernels take them, and decoding them panel by panel. */
#include "run/coded.h"

#include <math.h>
#include <string.h>

/* ---- constants as kernels take them ------------------------------------------------------------------------------ */

static nw_wcodes_kind kind_of(nw_format f) {
    if (f == NW_F16) return NW_WCODES_F16;
    if (f == NW_BF16) return NW_WCODES_BF16;
    if (nw_format_bits(f) < 8) return NW_WCODES_TABLE;
    return nw_format_is_integer(f) ? NW_WCODES_S8 : NW_WCODES_TABLE8;
}

void nw_plan_levels(const nw_qparam *q, int count, float *levels) {
    uint8_t code;
    for (int i = 0; i < count; i++) {
        code = (uint8_t)i; /* alone in its byte, it is the first */
        if (q->levels.count)
            levels[i] = q->levels.value[i < q->levels.count ? i : q->levels.count - 1];
        else
            nw_decode_f32(q->format, &code, 0, 1, &levels[i]);
    }
}

/* Levels as unit·step with the smallest magnitude as the unit, if all of them are such: then w->whole. */
static void find_steps(nw_wcodes *w, int count) {
    float unit = 0;
    for (int i = 0; i < count; i++) {
        float a = fabsf(w->level[i]);
        if (a > 0 && (unit == 0 || a < unit)) unit = a;
    }
    w->unit = unit > 0 ? unit : 1;
    w->whole = true;
    for (int i = 0; i < count; i++) {
        float step = rintf(w->level[i] / w->unit);
        if (!(fabsf(step) <= 63) || step * w->unit != w->level[i]) w->whole = false;
        w->step[i] = (int8_t)(w->whole ? (int)step : 0);
    }
}

/* Zero points: one that all groups share goes into the levels; others stay, relative to the middle of the codes. */
static void set_levels(nw_wcodes *w, nw_wcodes_source *s, const nw_qparam *q, bool uniform) {
    const int count = 1 << w->bits;
    nw_plan_levels(q, count, w->level);
    if (nw_format_is_integer(q->format)) {
        const int32_t middle = nw_format_kind(q->format) == NW_KIND_UINT ? count / 2 : 0;
        s->zero_shift = uniform ? nw_qparam_zero(q, 0) : middle;
        w->zeros = !uniform;
        w->unit = 1;
        w->whole = true;
        for (int i = 0; i < count; i++) {
            w->level[i] -= (float)s->zero_shift;
            w->step[i] = (int8_t)w->level[i];
        }
    } else {
        find_steps(w, count);
    }
    for (int i = count; i < 16; i++) {
        w->level[i] = w->level[i % count];
        w->step[i] = w->step[i % count];
    }
}

/* How 8-bit floats are decoded: by their bits, or by a table, which knows infinities and NaNs. */
static nw_wcodes_kind float8_kind(const nw_tensor *t) {
    const nw_format f = t->qparam->format;
    const uint8_t *code = t->data, first = f == NW_F8E4M3FN ? 0x7f : 0x7c;
    if (f != NW_F8E4M3FN && f != NW_F8E5M2) return NW_WCODES_TABLE8;
    for (size_t i = 0, count = nw_tensor_count(t); i < count; i++)
        if ((code[i] & 0x7f) >= first) return NW_WCODES_TABLE8;
    return f == NW_F8E4M3FN ? NW_WCODES_E4M3 : NW_WCODES_E5M2;
}

bool nw_plan_same_zeros(const nw_qparam *q) {
    for (size_t g = 1; q->zeros && g < q->groups; g++)
        if (q->zeros[g] != q->zeros[0]) return false;
    return true;
}

#define LEAST_BLOCK 16 /* shorter ones would have more scales than codes */

static size_t divisor(size_t a, size_t b) {
    while (b) {
        const size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Where scales are; false for other grains. A record's block ends where a tap ends. */
static bool find_scales(const nw_qparam *q, int n_axis, size_t taps, nw_wcodes *w, nw_wcodes_source *s) {
    w->block = w->k;
    s->block = s->depth;
    if (q->grain == NW_GRAIN_TENSOR) return true;
    s->scale_n = 1;
    if (q->grain == NW_GRAIN_AXIS) return q->axis == n_axis;
    if ((size_t)q->block < s->depth) s->block = (size_t)q->block;
    s->scale_n = n_axis == 0 ? ((s->depth - 1) / s->block + 1) * taps : taps;
    s->scale_b = n_axis == 0 ? taps : taps * w->n;
    s->scale_tap = 1;
    w->block = taps == 1 ? s->block : divisor(s->depth, s->block);
    return q->axis == 1 - n_axis && w->block >= LEAST_BLOCK;
}

nw_status nw_plan_wcodes_of(nw_planner *p, const nw_tensor *t, int n_axis, nw_wcodes *w, nw_wcodes_source *s,
                            bool *ok) {
    const nw_qparam *q = t->qparam;
    *ok = false;
    if (!q || t->rank < 2 || nw_tensor_count(t) == 0) return NW_OK;
    const size_t taps = nw_dims_product(t->dims, 2, t->rank);
    const int bits = nw_format_bits(q->format);
    const bool uniform = nw_plan_same_zeros(q);
    if (bits < 1 || bits > 16 || (bits == 16 && !nw_format_is_float(q->format))) return NW_OK;
    *s = (nw_wcodes_source){.codes = t->data,
                            .depth = (size_t)t->dims[1 - n_axis],
                            .stride_n = nw_dims_product(t->dims, n_axis + 1, t->rank),
                            .stride_k = nw_dims_product(t->dims, 2 - n_axis, t->rank),
                            .stride_tap = 1,
                            .scales = q->scales,
                            .scale_format = nw_qparam_scale_format(q),
                            .zeros = q->zeros};
    *w = (nw_wcodes){.kind = kind_of(q->format),
                     .bits = bits,
                     .n = (size_t)t->dims[n_axis],
                     .k = s->depth * taps,
                     .scale_format = nw_wcodes_scale_format(nw_qparam_scale_format(q)),
                     .unit = 1};
    if (!find_scales(q, n_axis, taps, w, s)) return NW_OK;
    if (w->kind == NW_WCODES_TABLE) {
        set_levels(w, s, q, uniform);
    } else if (w->kind == NW_WCODES_S8) {
        s->flip = q->format == NW_U8 ? 128 : 0;
        s->zero_shift = s->flip;
        w->zeros = !uniform || nw_qparam_zero(q, 0) != s->zero_shift;
        w->whole = !w->zeros || w->block <= 32768;
        if (w->zeros && !q->zeros && !(s->zeros = nw_arena_array(&p->scratch, q->groups, sizeof *s->zeros)))
            return NW_E_MEMORY; /* u8 codes with zero points that are all 0 */
    } else if (w->kind == NW_WCODES_TABLE8) {
        float *levels = nw_arena_array(&p->plan->arena, 256, sizeof *levels);
        if (!levels) return NW_E_MEMORY;
        nw_plan_levels(q, 256, levels);
        w->levels = levels;
        w->kind = float8_kind(t);
    }
    *ok = true;
    return NW_OK;
}

nw_status nw_plan_wcodes(nw_planner *p, int v, int n_axis, nw_wcodes *w, nw_wcodes_source *source, bool *ok) {
    const nw_constant *c = nw_graph_constant(p->graph, v);
    *ok = false;
    return c ? nw_plan_wcodes_of(p, &c->tensor, n_axis, w, source, ok) : NW_OK;
}

nw_status nw_plan_wcodes_whole(nw_planner *p, int v, int n_axis, bool *ok) {
    nw_wcodes w;
    nw_wcodes_source s;
    NW_TRY(nw_plan_wcodes(p, v, n_axis, &w, &s, ok));
    *ok = *ok && w.whole && w.k <= 65536;
    return NW_OK;
}

/* ---- decoding panels --------------------------------------------------------------------------------------------- */

static nw_status too_large(nw_planner *p, const nw_node *node) {
    return nw_fail(p->ctx, NW_E_SHAPE, "the weights of \"%s\" are too large for this machine",
                   nw_node_label(p->graph, node));
}

nw_status nw_plan_coded(nw_planner *p, const nw_node *node, int v, size_t groups, nw_coded *c, bool *ok) {
    nw_wcodes_source source;
    char *packed;
    float *sums;
    size_t bytes;
    *c = (nw_coded){.kernel = nw_wgemm_select(p->options->isa), .groups = groups};
    NW_TRY(nw_plan_wcodes(p, v, 0, &c->w, &source, ok));
    if (!*ok) return NW_OK;
    NW_TRY(nw_plan_constant(p, c->w.n * sizeof *sums, (void **)&sums));
    c->w.n /= groups;
    c->group_codes = nw_wcodes_bytes(c->kernel->nr, &c->w);
    if (c->group_codes == 0 || !nw_mul_size(c->group_codes, groups, &bytes)) return too_large(p, node);
    NW_TRY(nw_plan_constant(p, bytes, (void **)&packed));
    for (; source.first_n < groups * c->w.n; source.first_n += c->w.n)
        nw_wcodes_pack(c->kernel->nr, &c->w, &source, packed + source.first_n / c->w.n * c->group_codes,
                       sums + source.first_n);
    nw_plan_packed(p, v);
    c->w.packed = packed;
    c->w.sums = sums;
    return NW_OK;
}

#define AT_ONCE (256 * 1024) /* bytes of decoded panels that all rows then meet in the cache */

/* Chooses what is decoded at a time. Returns its bytes. */
static size_t cut(nw_coded *c) {
    if (c->group_bytes <= AT_ONCE) {
        c->groups_at_once = nw_least(c->groups, AT_ONCE / c->group_bytes);
        c->columns_at_once = c->w.n;
        return c->groups_at_once * c->group_bytes;
    }
    const size_t panels = c->panel_bytes < AT_ONCE ? AT_ONCE / c->panel_bytes : 1;
    c->groups_at_once = 1;
    c->columns_at_once = panels * c->nr;
    return nw_least(panels * c->panel_bytes, c->group_bytes);
}

nw_status nw_plan_decoded(nw_planner *p, const nw_node *node, int v, size_t groups, nw_coded *c,
                          size_t *scratch, bool *ok) {
    NW_TRY(nw_plan_coded(p, node, v, groups, c, ok));
    if (!*ok) return NW_OK;
    const nw_gemm_f32_kernel *f32 = nw_gemm_f32_select(c->kernel->isa);
    c->nr = f32->nr;
    c->panel_bytes = c->nr * c->w.k * sizeof(float);
    c->group_bytes = nw_gemm_f32_packed_bytes(f32, c->w.n, c->w.k, 1);
    if (c->group_bytes == 0) return too_large(p, node);
    *scratch = cut(c);
    return NW_OK;
}

/* Of `count` bytes of a panel, byte j·plane + i is kept in bits j·bits … of byte i. */
static size_t plane_of(const nw_coded *c, size_t count) {
    const size_t per_byte = 8 / (size_t)c->bits;
    return (count + per_byte - 1) / per_byte;
}

static size_t panel_count(const nw_coded *c, size_t panel) {
    return nw_least(c->panel_bytes, c->group_bytes - panel * c->panel_bytes);
}

static void narrow_panel(const nw_coded *c, size_t count, const int8_t *from, uint8_t *to) {
    const size_t plane = plane_of(c, count);
    for (size_t i = 0; i < count; i++)
        to[i % plane] |= (uint8_t)((from[i] - c->least) << (i / plane * (size_t)c->bits));
}

nw_status nw_plan_narrowed(nw_planner *p, const int8_t *dense, nw_coded *c, size_t *scratch) {
    const size_t panels = (c->w.n + c->nr - 1) / c->nr, panel = plane_of(c, c->panel_bytes);
    void *codes;
    c->unpack = p->ew.unpack_s8;
    c->group_codes = panels * panel;
    NW_TRY(nw_plan_constant(p, c->groups * c->group_codes, &codes));
    memset(codes, 0, c->groups * c->group_codes);
    for (size_t g = 0; g < c->groups; g++)
        for (size_t i = 0; i < panels; i++)
            narrow_panel(c, panel_count(c, i), dense + g * c->group_bytes + i * c->panel_bytes,
                         (uint8_t *)codes + g * c->group_codes + i * panel);
    c->w.packed = codes;
    *scratch = cut(c);
    return NW_OK;
}

bool nw_coded_next(const nw_coded *c, nw_coded_part *part) {
    const bool same_group = part->n1 > 0 && part->n1 < c->w.n;
    part->n0 = same_group ? part->n1 : 0;
    if (!same_group) {
        part->g0 = part->g1;
        part->g1 = nw_least(c->groups, part->g0 + c->groups_at_once);
    }
    part->n1 = nw_least(c->w.n, part->n0 + c->columns_at_once);
    return part->g0 < c->groups;
}

typedef struct decode_job {
    const nw_coded *c;
    nw_coded_part part;
    size_t panels; /* of a group, in this part */
    char *out;
} decode_job;

static void unpack_panel(const nw_coded *c, size_t count, const uint8_t *from, int8_t *to) {
    const size_t plane = plane_of(c, count);
    const uint8_t mask = (uint8_t)((1 << c->bits) - 1);
    for (size_t i = 0, at = 0; at < count; i++, at += plane)
        c->unpack(nw_least(plane, count - at), from, (int)i * c->bits, mask, c->least, to + at);
}

static void decode_range(void *user, size_t begin, size_t end) {
    const decode_job *j = user;
    const nw_coded *c = j->c;
    for (size_t i = begin; i < end; i++) {
        const size_t g = i / j->panels, n0 = j->part.n0 + i % j->panels * c->nr, panel = n0 / c->nr;
        char *out = j->out + g * c->group_bytes + i % j->panels * c->panel_bytes;
        nw_wcodes w = c->w;
        w.packed = (const char *)w.packed + (j->part.g0 + g) * c->group_codes;
        if (c->bits)
            unpack_panel(c, panel_count(c, panel),
                         (const uint8_t *)w.packed + panel * plane_of(c, c->panel_bytes), (int8_t *)out);
        else
            nw_wgemm_decode(c->kernel, &w, n0, (float *)(void *)out);
    }
}

void nw_coded_decode(const nw_exec *e, const nw_coded *c, const nw_coded_part *part, void *out) {
    decode_job job = {c, *part, (part->n1 - part->n0 - 1) / c->nr + 1, out};
    const size_t panels = (part->g1 - part->g0) * job.panels;
    nw_exec_parallel(e, panels, 1, (double)panels * (double)c->panel_bytes / 32, decode_range, &job);
}
