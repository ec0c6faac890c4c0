/* spell_constant.c: packed constants as ONNX can say them. Three forms, and narrow's own:
 *   linear  DequantizeLinear(codes, scale, zero point): integers, small floats, and ±1
 *   table   Gather(table, Cast(codes)) · scale: levels, and floats that ONNX has no type for at this opset
 *   cast    Cast(codes), times the scale unless that is 1: f16, bf16
 *   native  ai.narrow's DequantizeLinear(bytes, scale, zero point; FakeQuant's attributes and the shape)
 * Scales are stored in their own format where a Cast can read it. */
#include "onnx/spell.h"

#include "num/levels.h"
#include "op/quantize.h"

#include <string.h>

typedef enum form_kind { LINEAR, TABLE, CAST } form_kind;
typedef struct form {
    form_kind kind;
    nw_format codes; /* that they are stored in */
} form;

/* Opsets at which ONNX got types and grains. */
enum { BF16_CAST = 13, FLOATS_OF_8 = 19, FOUR_BITS = 21, BLOCKS = 21, F4 = 23, E8M0 = 24, TWO_BITS = 25 };

static nw_format widen(nw_format f, int64_t opset) {
    if (nw_format_bits(f) == 2 && opset < TWO_BITS) f = f == NW_S2 ? NW_S4 : NW_U4;
    if (nw_format_bits(f) == 4 && opset < FOUR_BITS) f = f == NW_S4 ? NW_S8 : NW_U8;
    return f;
}

static form form_of(const nw_qparam *p, int64_t opset) {
    int bits = nw_format_bits(p->format);
    if (nw_format_is_integer(p->format)) return (form){LINEAR, widen(p->format, opset)};
    if (nw_levels_are_signs(&p->levels)) return (form){LINEAR, widen(NW_S4, opset)};
    if (!p->levels.count && bits == 16) return (form){CAST, p->format};
    if (!p->levels.count && opset >= (bits == 8 ? FLOATS_OF_8 : F4)) return (form){LINEAR, p->format};
    return (form){TABLE, widen(bits < 8 ? NW_U4 : NW_U8, opset)};
}

static nw_format scale_form(const nw_qparam *p, int64_t opset) {
    nw_format f = nw_qparam_scale_format(p);
    if (f == NW_F8E8M0 && opset < E8M0) f = NW_BF16; /* holds every power of two that e8m0 has */
    return f == NW_BF16 && opset < BF16_CAST ? NW_F32 : f;
}

int64_t nw_spell_constant_opset(const nw_qparam *p) {
    int bits = nw_format_bits(p->format);
    bool real = nw_format_is_float(p->format);
    if (bits < 8 || (p->grain == NW_GRAIN_BLOCK && !p->levels.count && bits <= 32)) return FOUR_BITS;
    if (bits == 16 && !real) return FOUR_BITS; /* with standard operators */
    if (real && bits == 8) return FLOATS_OF_8;
    if (p->format == NW_BF16 || p->scale_format == NW_BF16 || p->scale_format == NW_F8E8M0) return BF16_CAST;
    return 0;
}

static nw_status check_opset(const speller *s, int v, const nw_qparam *p, const form *f) {
    bool blocks = f->kind == LINEAR && p->grain == NW_GRAIN_BLOCK && s->opset < BLOCKS;
    bool bf16 = f->kind == CAST && f->codes == NW_BF16 && s->opset < BF16_CAST;
    if (!blocks && !bf16) return NW_OK;
    return nw_fail(s->g->ctx, NW_E_ARGUMENT,
                   "weight \"%s\": %s exist from opset %d on, the file is to have %d; ask for a later opset, "
                   "or for the native form",
                   s->g->values[v].name, blocks ? "blocks of integers" : "conversions of bf16",
                   blocks ? BLOCKS : BF16_CAST, (int)s->opset);
}

/* ---- initializers ------------------------------------------------------------------------------------------------ */

/* The format whose integers are the codes of `f` as they lie in memory. */
static nw_format raw_format(nw_format f) {
    if (!nw_format_is_float(f)) return f;
    return nw_format_bits(f) == 4 ? NW_U4 : NW_U8;
}

static nw_status add_codes(speller *s, int v, const form *f, int *id) {
    nw_graph *g = s->g;
    const nw_tensor *from = &g->values[v].constant->tensor;
    const nw_qparam *p = from->qparam;
    const char *name = nw_arena_printf(&g->arena, "%s_q", g->values[v].name);
    if (!name) return NW_E_MEMORY;
    nw_tensor codes = *from;
    codes.qparam = NULL;
    if (f->codes == p->format)
        return nw_graph_add_constant(g, name, &codes, nw_bytes_ref(g->values[v].constant->owner), id);
    codes.format = f->codes;
    NW_TRY(nw_tensor_alloc(&s->arena, &codes));
    memset(codes.data, 0, nw_tensor_bytes(&codes));
    const nw_format raw = raw_format(p->format);
    const bool signs = nw_levels_are_signs(&p->levels);
    int32_t q[512];
    uint16_t out[512];
    for (size_t at = 0, count = nw_tensor_count(&codes), n; at < count; at += n) {
        n = count - at < 512 ? count - at : 512;
        nw_load_codes(raw, from->data, at, n, q);
        for (size_t i = 0; i < n; i++) out[i] = (uint16_t)(signs ? (q[i] ? 1 : -1) : q[i]);
        nw_store_codes(f->codes, codes.data, at, n, out);
    }
    return nw_graph_add_constant_copy(g, name, &codes, id);
}

static nw_status add_cast(nw_graph *g, int x, const char *base, const char *suffix, nw_format to, int *y) {
    const char *name = nw_arena_printf(&g->arena, "%s%s", base, suffix);
    nw_node *node;
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_graph_add_value(g, name, y));
    g->values[*y].format = to;
    NW_TRY(nw_graph_add_node(g, "", "Cast", NULL, 1, &x, 1, y, &node));
    return nw_node_set_int(g, node, "to", to);
}

/* Scales in `shape` as f32: an initializer, or the Cast of one. v: the value that they are of. */
static nw_status add_scale(speller *s, int v, const nw_qparam *p, nw_tensor shape, int *id) {
    const char *base = s->g->values[v].name;
    nw_bytes *owner = s->g->values[v].constant->owner;
    nw_format format = scale_form(p, s->opset);
    shape.format = format;
    if (format == nw_qparam_scale_format(p) && format == NW_F32 && owner && nw_bytes_hold(owner, p->scales)) {
        const char *name =
            nw_arena_printf(&s->arena, "%s_scale", base); /* the scales of large weights are large */
        shape.data = (void *)(uintptr_t)p->scales;
        return name ? nw_graph_add_constant(s->g, name, &shape, nw_bytes_ref(owner), id) : NW_E_MEMORY;
    }
    NW_TRY(nw_tensor_alloc(&s->arena, &shape));
    for (size_t i = 0; i < p->groups; i++) nw_store_f64(format, shape.data, i, (double)nw_qparam_scale(p, i));
    NW_TRY(nw_spell_named(s->g, base, "_scale", &shape, id));
    return format == NW_F32 ? NW_OK : add_cast(s->g, *id, base, "_scale_f32", NW_F32, id);
}

/* ---- linear ------------------------------------------------------------------------------------------------------ */

static bool has_zeros(const nw_qparam *p) {
    for (size_t i = 0; i < p->groups; i++)
        if (nw_qparam_zero(p, i)) return true;
    return false;
}

static nw_status spell_linear(speller *s, int v, const nw_tensor *t, const form *f, int codes,
                              nw_node **node) {
    const nw_qparam *p = t->qparam;
    const char *base = s->g->values[v].name;
    spelled sp = {codes, NW_ABSENT, NW_ABSENT, p};
    nw_tensor shape = {.format = NW_F32};
    nw_spell_scale_shape(p, t->rank, t->dims, &shape);
    NW_TRY(add_scale(s, v, p, shape, &sp.scale));
    shape.format = f->codes;
    if (nw_spell_has_zero(f->codes) && (p->grain != NW_GRAIN_BLOCK || has_zeros(p)))
        NW_TRY(nw_spell_zero(s, base, &shape, p, &sp.zero));
    return nw_spell_linear(s, "DequantizeLinear", f->codes, codes, &sp, v, node);
}

/* ---- table and cast ---------------------------------------------------------------------------------------------- */

/* i/block for each i of an axis. */
static nw_status add_blocks(speller *s, const char *base, int64_t length, int64_t block, int *id) {
    bool shared = !s->g->parent; /* names are unique across subgraphs */
    const char *name = nw_arena_printf(&s->g->arena, "%s_%lld_%lld", shared ? "blocks" : base,
                                       (long long)length, (long long)block);
    if (!name) return NW_E_MEMORY;
    *id = nw_graph_find(s->g, name);
    if (shared && *id >= s->count) return NW_OK; /* made here before */
    nw_tensor t = {.format = NW_S32, .rank = 1, .dims = {length}};
    NW_TRY(nw_tensor_alloc(&s->arena, &t));
    for (int64_t i = 0; i < length; i++) ((int32_t *)t.data)[i] = (int32_t)(i / block);
    return nw_graph_add_constant_copy(s->g, name, &t, id);
}

/* Value v is x times the scales of its groups. */
static nw_status scale_by_groups(speller *s, int v, const nw_tensor *t, int x, nw_node **node) {
    nw_graph *g = s->g;
    const nw_qparam *p = t->qparam;
    const char *base = g->values[v].name;
    nw_tensor shape = {.format = NW_F32};
    int in[2] = {x};
    nw_spell_scale_shape(p, t->rank, t->dims, &shape);
    if (p->grain == NW_GRAIN_AXIS) /* broadcasts from the last axis on */
        for (shape.rank = 1; shape.rank < t->rank - p->axis; shape.rank++) shape.dims[shape.rank] = 1;
    NW_TRY(add_scale(s, v, p, shape, &in[1]));
    if (p->grain == NW_GRAIN_BLOCK && t->dims[p->axis] > p->block) {
        const char *name = nw_arena_printf(&g->arena, "%s_scales", base);
        int from[2] = {in[1]};
        NW_TRY(add_blocks(s, base, t->dims[p->axis], p->block, &from[1]));
        if (!name) return NW_E_MEMORY;
        NW_TRY(nw_graph_add_value(g, name, &in[1]));
        NW_TRY(nw_graph_add_node(g, "", "Gather", NULL, 2, from, 1, &in[1], node));
        NW_TRY(nw_node_set_int(g, *node, "axis", p->axis));
    }
    return nw_graph_add_node(g, "", "Mul", NULL, 2, in, 1, &v, node);
}

static nw_status add_table(speller *s, const char *base, const nw_qparam *p, int *id) {
    nw_tensor t = {.format = NW_F32, .rank = 1};
    t.dims[0] = p->levels.count ? p->levels.count : (int64_t)1 << nw_format_bits(p->format);
    NW_TRY(nw_tensor_alloc(&s->arena, &t));
    for (int i = 0; i < (int)t.dims[0]; i++) {
        uint8_t code = (uint8_t)i;
        ((float *)t.data)[i] = p->levels.count ? p->levels.value[i] : (float)nw_load_f64(p->format, &code, 0);
    }
    return nw_spell_named(s->g, base, "_table", &t, id);
}

static nw_status spell_table(speller *s, int v, const nw_tensor *t, int codes, nw_node **node) {
    nw_graph *g = s->g;
    const char *base = g->values[v].name, *name = nw_arena_printf(&g->arena, "%s_level", base);
    int in[2], level;
    if (!name) return NW_E_MEMORY;
    NW_TRY(add_table(s, base, t->qparam, &in[0]));
    NW_TRY(add_cast(g, codes, base, "_index", NW_S32, &in[1]));
    NW_TRY(nw_graph_add_value(g, name, &level));
    g->values[level].format = NW_F32;
    NW_TRY(nw_graph_add_node(g, "", "Gather", NULL, 2, in, 1, &level, node));
    return scale_by_groups(s, v, t, level, node);
}

static nw_status spell_cast(speller *s, int v, const nw_tensor *t, int codes, nw_node **node) {
    nw_graph *g = s->g;
    const nw_qparam *p = t->qparam;
    bool plain = true;
    for (size_t i = 0; i < p->groups; i++) plain = plain && nw_qparam_scale(p, i) == 1;
    if (!plain) {
        int real;
        NW_TRY(add_cast(g, codes, g->values[v].name, "_real", NW_F32, &real));
        return scale_by_groups(s, v, t, real, node);
    }
    NW_TRY(nw_graph_add_node(g, "", "Cast", NULL, 1, &codes, 1, &v, node));
    return nw_node_set_int(g, *node, "to", NW_F32);
}

/* ---- native ------------------------------------------------------------------------------------------------------ */

static nw_status spell_native(speller *s, int v, const nw_tensor *t) {
    nw_graph *g = s->g;
    const nw_qparam *p = t->qparam;
    const char *base = g->values[v].name, *name = nw_arena_printf(&g->arena, "%s_q", base);
    if (!name) return NW_E_MEMORY;
    nw_tensor bytes = {.format = NW_U8, .rank = 1, .dims = {(int64_t)nw_tensor_bytes(t)}, .data = t->data};
    nw_tensor scale = {.format = nw_qparam_scale_format(p), .data = (void *)(uintptr_t)p->scales};
    int in[3] = {NW_ABSENT, NW_ABSENT, NW_ABSENT};
    nw_spell_scale_shape(p, t->rank, t->dims, &scale);
    NW_TRY(nw_graph_add_constant(g, name, &bytes, nw_bytes_ref(g->values[v].constant->owner), &in[0]));
    NW_TRY(nw_spell_named(g, base, "_scale", &scale, &in[1]));
    if (has_zeros(p)) {
        nw_tensor zero = scale;
        zero.format = p->format;
        NW_TRY(nw_spell_zero(s, base, &zero, p, &in[2]));
    }
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, NARROW, "DequantizeLinear", NULL, in[2] < 0 ? 2 : 3, in, 1, &v, &node));
    NW_TRY(nw_fakequant_write(g, node, p));
    return nw_node_set_ints(g, node, "shape", t->dims, (size_t)t->rank);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* Says what the codes were before they were stored otherwise. */
static nw_status note_format(speller *s, nw_node *node, const nw_qparam *p, const form *f) {
    nw_format scale = nw_qparam_scale_format(p);
    bool same_scale = scale_form(p, s->opset) == scale;
    if (f->kind == LINEAR && f->codes == p->format && same_scale) return NW_OK;
    const char *text = nw_arena_printf(&s->arena, "%s%s%s", nw_format_name(p->format), same_scale ? "" : "@",
                                       same_scale ? "" : nw_format_name(scale));
    return text ? nw_node_set_string(s->g, node, NW_CODES_FORMAT, text) : NW_E_MEMORY;
}

nw_status nw_spell_constant(speller *s, int v) {
    nw_graph *g = s->g;
    nw_constant *c = g->values[v].constant;
    const nw_tensor t = c->tensor;
    if (s->style == NW_STYLE_NATIVE) {
        NW_TRY(spell_native(s, v, &t));
    } else {
        form f = form_of(t.qparam, s->opset);
        nw_node *node;
        int codes;
        NW_TRY(check_opset(s, v, t.qparam, &f));
        NW_TRY(add_codes(s, v, &f, &codes));
        switch (f.kind) {
        case LINEAR: NW_TRY(spell_linear(s, v, &t, &f, codes, &node)); break;
        case TABLE: NW_TRY(spell_table(s, v, &t, codes, &node)); break;
        case CAST: NW_TRY(spell_cast(s, v, &t, codes, &node)); break;
        }
        NW_TRY(note_format(s, node, t.qparam, &f));
    }
    nw_bytes_free(c->owner); /* the value is now computed from its codes */
    g->values[v].constant = NULL;
    return NW_OK;
}
