/* fold_constant.c: packed constants, as spell_constant.c writes them, back to what they were. Whatever does not fit exactly
 * stays as it is: ordinary operators, which mean the same. */
#include "onnx/fold.h"
#include "onnx/spell.h"

#include "num/choose.h"
#include "num/levels.h"
#include "op/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool nw_fold_formats(const char *text, nw_format *codes, nw_format *scale) {
    char name[16];
    size_t length = strcspn(text, "@");
    if (length >= sizeof name) return false;
    memcpy(name, text, length);
    name[length] = 0;
    *codes = nw_format_by_name(name);
    if (text[length]) *scale = nw_format_by_name(text + length + 1);
    return *codes != NW_NONE && nw_format_is_scale(*scale);
}

/* Value y becomes the constant; node `index` made it. Codes that are those of constant `from` share its bytes. */
static nw_status set_packed(folder *f, int index, int y, int from, const nw_tensor *t) {
    const nw_constant *c = from >= 0 ? f->g->values[from].constant : NULL;
    f->g->nodes[index].dead = true;
    f->g->values[y].format = NW_F32;
    if (!c || c->tensor.data != t->data || !nw_tensor_aligned(t))
        return nw_graph_set_constant_copy(f->g, y, t);
    nw_tensor shared = *t;
    NW_TRY(nw_graph_copy_qparam(f->g, t->qparam, &shared.qparam));
    return nw_graph_set_constant(f->g, y, &shared, nw_bytes_ref(c->owner));
}

nw_status nw_fold_scales(folder *f, nw_format format, nw_qparam *p, bool *ok) {
    float *scales = nw_arena_array(&f->arena, p->groups, sizeof *scales);
    if (!scales) return NW_E_MEMORY;
    for (size_t g = 0; g < p->groups; g++) {
        scales[g] = nw_qparam_scale(p, g);
        *ok = scales[g] > 0 && isfinite(scales[g]) && nw_round_scale(format, scales[g], true) == scales[g];
        if (!*ok) return NW_OK;
    }
    p->scale_format = format;
    return nw_qparam_set_scales(&f->arena, p, scales);
}

static void set_range(nw_qparam *p, nw_format format) {
    bool integer = nw_format_is_integer(format);
    p->format = format;
    p->qmin = integer ? (int32_t)nw_format_min(format) : 0;
    p->qmax = integer ? (int32_t)nw_format_max(format) : 0;
}

/* ---- codes in a wider format ------------------------------------------------------------------------------------- */

/* Copies integers stored as `raw` into `to`; signs: −1 and 1 become 0 and 1. *ok false: one does not fit. */
static nw_status copy_codes(folder *f, const nw_tensor *from, nw_format raw, nw_format to, bool signs,
                            nw_tensor *out, bool *ok) {
    int64_t least = nw_format_min(to), most = nw_format_max(to);
    *out = *from;
    out->format = to;
    NW_TRY(nw_tensor_alloc(&f->arena, out));
    memset(out->data, 0, nw_tensor_bytes(out));
    for (size_t i = 0, n = nw_tensor_count(from); i < n; i++) {
        int64_t q = nw_load_s64(raw, from->data, i);
        *ok = signs ? q == 1 || q == -1 : q >= least && q <= most;
        if (!*ok) return NW_OK;
        nw_store_s64(to, out->data, i, signs ? q > 0 : q);
    }
    return NW_OK;
}

nw_status nw_fold_recode(folder *f, int v, const char *text) {
    nw_graph *g = f->g;
    const nw_tensor *from = &g->values[v].constant->tensor;
    nw_qparam p = *from->qparam;
    nw_format to, scale = nw_qparam_scale_format(&p);
    if (!nw_fold_formats(text, &to, &scale)) return NW_OK;
    bool ok = true, signs = to == NW_INDEX1 && nw_format_kind(p.format) == NW_KIND_SINT;
    bool integers = nw_format_is_integer(to) && nw_format_is_integer(p.format) && nw_format_bits(to) <= 16;
    nw_tensor out = *from;
    if (to != p.format) {
        if (!signs && !integers) return NW_OK;
        for (size_t i = 0; i < p.groups && ok; i++) {
            int32_t zero = nw_qparam_zero(&p, i);
            ok = signs ? zero == 0 : zero >= nw_format_min(to) && zero <= nw_format_max(to);
        }
        if (ok) NW_TRY(copy_codes(f, from, p.format, to, signs, &out, &ok));
        if (!ok) return NW_OK;
        set_range(&p, to);
        if (signs) {
            NW_TRY(nw_levels_binary(&f->arena, &p.levels));
            p.qmax = 1;
            p.zeros = NULL;
        }
    }
    if (scale != nw_qparam_scale_format(&p)) NW_TRY(nw_fold_scales(f, scale, &p, &ok));
    if (!ok) return NW_OK;
    out.qparam = &p;
    return nw_graph_set_constant_copy(g, v, &out);
}

/* ---- scales by broadcasting -------------------------------------------------------------------------------------- */

/* The block of an index tensor i/block, i < length; 0: it is none. */
static int64_t block_of(const nw_tensor *index, int64_t length) {
    int64_t block = 0;
    if (index->format != NW_S32 || index->rank != 1 || index->dims[0] != length) return 0;
    while (block < length && nw_tensor_s64(index, (size_t)block) == 0) block++;
    for (int64_t i = 0; i < length && block; i++)
        if (nw_tensor_s64(index, (size_t)i) != i / block) return 0;
    return block;
}

/* Grain and scales of codes of this shape from the factor v they are multiplied with. */
static nw_status read_factor(folder *f, int v, int rank, const int64_t *dims, nw_qparam *p, bool *ok) {
    const nw_node *gather = nw_fold_maker(f, v, "Gather");
    const nw_tensor *s = nw_fold_constant(f, gather ? nw_node_in(gather, 0) : v);
    *ok = s && s->rank <= rank && nw_format_is_scale(s->format) && nw_tensor_count(s) > 0;
    if (!*ok) return NW_OK;
    nw_tensor real;
    NW_TRY(nw_tensor_to_f32(&f->arena, s, &real));
    p->groups = nw_tensor_count(s);
    p->scale_format = NW_F32;
    p->scales = real.data;
    p->grain = NW_GRAIN_TENSOR;
    if (gather) {
        const nw_constant *index = nw_graph_constant(f->g, nw_node_in(gather, 1));
        int64_t axis = nw_node_int(gather, "axis", 0);
        *ok = index && s->rank == rank && axis >= 0 && axis < rank;
        if (!*ok) return NW_OK;
        p->grain = NW_GRAIN_BLOCK;
        p->axis = (int)axis;
        p->block = block_of(&index->tensor, dims[axis]);
        *ok = p->block > 0;
    } else if (p->groups > 1) {
        p->axis = rank - s->rank;
        bool channels = s->dims[0] == dims[p->axis];
        for (int d = 1; d < s->rank; d++) channels = channels && s->dims[d] == 1;
        p->grain = NW_GRAIN_AXIS;
        if (!channels) { /* one block along an axis */
            p->grain = NW_GRAIN_BLOCK;
            for (p->axis = 0; p->axis < s->rank && s->dims[p->axis] != 1; p->axis++) {
            }
            *ok = s->rank == rank && p->axis < rank;
            if (*ok) p->block = dims[p->axis];
        }
    }
    for (int d = 0; d < rank && *ok && p->grain == NW_GRAIN_BLOCK; d++)
        *ok = s->dims[d] == (d == p->axis ? dims[d] / p->block + (dims[d] % p->block != 0) : dims[d]);
    if (*ok) *ok = p->groups == nw_qparam_group_count(p->grain, p->axis, p->block, rank, dims);
    return *ok ? nw_fold_scales(f, s->format, p, ok) : NW_OK;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Whether `table` lists the values of a float format by code. */
static bool is_table_of(const nw_tensor *table, nw_format format) {
    if (table->dims[0] != (int64_t)1 << nw_format_bits(format)) return false;
    for (int i = 0; i < (int)table->dims[0]; i++) {
        uint8_t code = (uint8_t)i;
        float want = (float)nw_load_f64(format, &code, 0), have = ((const float *)table->data)[i];
        if (have != want && !(isnan(have) && isnan(want))) return false;
    }
    return true;
}

/* Gather(table, Cast(codes)) as codes of format `to`, and their levels. */
static nw_status read_levels(folder *f, const nw_node *gather, nw_format to, nw_tensor *out, nw_qparam *p,
                             bool *ok) {
    const nw_constant *c = nw_graph_constant(f->g, nw_node_in(gather, 0));
    const nw_node *cast = nw_fold_maker(f, nw_node_in(gather, 1), "Cast");
    const nw_constant *codes = cast ? nw_graph_constant(f->g, nw_node_in(cast, 0)) : NULL;
    *ok = c && codes && !c->tensor.qparam && c->tensor.format == NW_F32 && c->tensor.rank == 1 &&
          !codes->tensor.qparam && (codes->tensor.format == NW_U4 || codes->tensor.format == NW_U8) &&
          nw_node_int(gather, "axis", 0) == 0;
    if (!*ok) return NW_OK;
    const nw_tensor *table = &c->tensor;
    bool index = nw_format_kind(to) == NW_KIND_INDEX;
    nw_format raw = index ? to : nw_format_bits(to) == 4 ? NW_U4 : NW_U8;
    int64_t most = table->dims[0];
    set_range(p, to);
    if (index) {
        nw_levels l = {.count = most <= nw_format_max(to) + 1 ? (int)most : 0, .value = table->data};
        *ok = nw_tensor_aligned(table) && nw_levels_valid(&l);
        if (*ok) NW_TRY(nw_levels_copy(&f->arena, &l, &p->levels));
        p->qmax = l.count - 1;
    } else {
        *ok = nw_format_is_float(to) && nw_format_bits(to) <= 8 && is_table_of(table, to);
    }
    if (*ok) NW_TRY(copy_codes(f, &codes->tensor, codes->tensor.format, raw, false, out, ok));
    for (size_t i = 0, n = *ok ? nw_tensor_count(out) : 0; i < n && *ok; i++)
        *ok = nw_load_s64(raw, out->data, i) < most;
    out->format = to;
    return NW_OK;
}

/* The source of a Cast to f32: a constant of 16-bit floats. */
static const nw_tensor *read_cast(const folder *f, const nw_node *cast, nw_format to) {
    const nw_constant *c = cast ? nw_graph_constant(f->g, nw_node_in(cast, 0)) : NULL;
    bool fits = c && !c->tensor.qparam && c->tensor.format == to && (to == NW_F16 || to == NW_BF16) &&
                nw_node_int(cast, "to", 0) == NW_F32;
    return fits ? &c->tensor : NULL;
}

/* Cast to 16-bit floats and back to f32: a FakeQuant of scale 1. */
static nw_status fold_cast(folder *f, int index, nw_format to, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index], *narrow = nw_fold_maker(f, nw_node_in(node, 0), "Cast");
    *ok = narrow && (to == NW_F16 || to == NW_BF16) && nw_node_int(node, "to", 0) == NW_F32 &&
          nw_node_int(narrow, "to", 0) == to;
    if (!*ok) return NW_OK;
    float one = 1;
    const nw_tensor scale = {.format = NW_F32, .data = &one};
    int in[2] = {nw_node_in(narrow, 0)}, y = node->out[0];
    NW_TRY(nw_graph_add_constant_copy(g, NULL, &scale, &in[1]));
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", g->nodes[index].name, 2, in, 1, &y, &fresh));
    g->nodes[index].dead = true;
    return nw_node_set_string(g, fresh, "format", nw_format_name(to));
}

nw_status nw_fold_spelled(folder *f, int index, const char *text, bool *ok) {
    const nw_node *node = &f->g->nodes[index];
    nw_format to, scale = NW_NONE, f32 = NW_F32;
    int y = node->out[0], from = nw_node_in(node, 0);
    *ok = nw_fold_formats(text, &to, &f32);
    if (!*ok) return NW_OK;
    if (f32 != NW_F32) scale = f32;
    nw_tensor t;
    nw_qparam p = {.grain = NW_GRAIN_TENSOR};
    if (nw_node_is(node, "Cast")) {
        static const float one = 1;
        const nw_tensor *codes = read_cast(f, node, to);
        if (!codes) return fold_cast(f, index, to, ok);
        t = *codes;
        set_range(&p, to);
        p.groups = 1;
        p.scales = &one;
    } else {
        const nw_node *gather = nw_fold_maker(f, nw_node_in(node, 0), "Gather");
        const nw_node *cast = nw_fold_maker(f, nw_node_in(node, 0), "Cast");
        const nw_tensor *codes = read_cast(f, cast, to);
        *ok = nw_node_is(node, "Mul") && (gather || codes);
        if (!*ok) return NW_OK;
        from = codes ? nw_node_in(cast, 0) : NW_ABSENT;
        if (gather) {
            NW_TRY(read_levels(f, gather, to, &t, &p, ok));
        } else {
            t = *codes;
            set_range(&p, to);
        }
        if (*ok) NW_TRY(read_factor(f, nw_node_in(node, 1), t.rank, t.dims, &p, ok));
        if (*ok && scale != NW_NONE) NW_TRY(nw_fold_scales(f, scale, &p, ok));
        if (!*ok) return NW_OK;
    }
    t.qparam = &p;
    return set_packed(f, index, y, from, &t);
}

/* ---- native ------------------------------------------------------------------------------------------------------ */

nw_status nw_fold_native(folder *f, int index) {
    nw_graph *g = f->g;
    nw_tensor t;
    nw_qparam p;
    NW_TRY(nw_packed_read(g, &g->nodes[index], &f->arena, &t, &p));
    t.qparam = &p;
    return set_packed(f, index, g->nodes[index].out[0], nw_node_in(&g->nodes[index], 0), &t);
}
