/* fold.c: quantization as ONNX spells it → as the portable graph means it. Every tensor of codes gets a real counterpart; integer
 * operators become ordinary ones on the counterparts, with a FakeQuant behind. What no rule matches stays as it is. */
#include "onnx/fold.h"
#include "onnx/spell.h"

#include "num/levels.h"
#include "op/quantize.h"

#include <math.h>
#include <string.h>

static bool is_op(const nw_node *node, const char *domain, const char *type) {
    return strcmp(node->op_type, type) == 0 && strcmp(node->domain, domain) == 0;
}

static bool is_linear(const nw_node *node,
                      const char *type) { /* QuantizeLinear, DequantizeLinear of either domain */
    return is_op(node, "", type) || is_op(node, "com.microsoft", type);
}

const nw_node *nw_fold_maker(const folder *f, int v, const char *type) {
    int n = v < 0 || v >= f->count ? NW_ABSENT : f->uses.producer[v];
    return n >= 0 && is_op(&f->g->nodes[n], "", type) ? &f->g->nodes[n] : NULL;
}

const nw_tensor *nw_fold_constant(const folder *f, int v) {
    const nw_node *cast = nw_fold_maker(f, v, "Cast");
    if (cast && nw_node_int(cast, "to", 0) != NW_F32) return NULL;
    const nw_constant *c = nw_graph_constant(f->g, cast ? nw_node_in(cast, 0) : v);
    return c && !c->tensor.qparam && nw_format_is_float(c->tensor.format) ? &c->tensor : NULL;
}

/* ---- grids ------------------------------------------------------------------------------------------------------ */

/* The grid of codes of `format` with these scale and zero inputs, for codes of this rank (−1: unknown) and shape (NULL:
 * unknown); *ok false when they are no constants or make no sense here. */
static nw_status read_grid(folder *f, nw_format format, int scale, int zero, int64_t axis, int64_t block,
                           int rank, const int64_t *dims, grid *out, bool *ok) {
    *ok = false;
    const nw_tensor *s = nw_fold_constant(f, scale);
    const nw_constant *z = nw_graph_constant(f->g, zero);
    bool real = nw_format_is_float(format) && nw_format_bits(format) <= 8 && format != NW_F8E8M0;
    if (!s || (zero >= 0 && !z)) return NW_OK;
    if (!real && (!nw_format_is_integer(format) || nw_format_bits(format) > 32)) return NW_OK;
    size_t n = nw_tensor_count(s);
    if (n == 0 || (z && nw_tensor_count(&z->tensor) != n)) return NW_OK;
    nw_qparam p = {.format = format, .groups = n};
    if (!real) {
        p.qmin = (int32_t)nw_format_min(format);
        p.qmax = (int32_t)(nw_format_max(format) > INT32_MAX ? INT32_MAX : nw_format_max(format));
    }
    if (axis < 0) axis += rank;
    if (block > 0) {
        p.grain = NW_GRAIN_BLOCK;
        p.block = block;
    } else if (s->rank == 1 && (n > 1 || (rank > 0 && axis < rank && rank == 1))) {
        p.grain = NW_GRAIN_AXIS;
    }
    if (p.grain == NW_GRAIN_AXIS && n == 1) p.grain = NW_GRAIN_TENSOR;
    if (p.grain != NW_GRAIN_TENSOR && (rank >= 0 && (axis < 0 || axis >= rank))) return NW_OK;
    p.axis = (int)axis;
    if (p.grain == NW_GRAIN_TENSOR && n != 1) return NW_OK;
    if (dims && n != nw_qparam_group_count(p.grain, p.axis, p.block, rank, dims)) return NW_OK;
    float *scales = nw_arena_array(&f->arena, n, sizeof *scales);
    int32_t *zeros = nw_arena_array(&f->arena, n, sizeof *zeros);
    if (!scales || !zeros) return NW_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        scales[i] = (float)nw_tensor_f64(s, i);
        zeros[i] = z ? (int32_t)nw_tensor_s64(&z->tensor, i) : 0;
        if (!(scales[i] > 0) || !isfinite(scales[i]) || (real && zeros[i])) return NW_OK;
    }
    p.scales = scales;
    p.zeros = zeros;
    *out = (grid){format, p};
    *ok = true;
    return NW_OK;
}

static bool same_grid(const grid *a, const grid *b) {
    return nw_qparam_equal(&a->p, &b->p);
}

/* What the real counterpart of codes is called: x_dq for x_q, x_quantized or x. */
static const char *real_name(folder *f, int codes) {
    const char *name = f->g->values[codes].name;
    static const char *const endings[] = {"_q", "_quantized", "_QuantizeLinear_Output"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t e = strlen(endings[i]);
        if (length > e && strcmp(name + length - e, endings[i]) == 0) {
            length -= e;
            break;
        }
    }
    return nw_arena_printf(&f->arena, "%.*s_dq", (int)length,
                           name); /* NULL (no memory) gets a made-up name */
}

static nw_status add_fakequant(folder *f, const nw_node *like, int x, const grid *q, const char *name,
                               int *out) {
    nw_graph *g = f->g;
    nw_tensor scale = {.format = NW_F32, .rank = 0, .data = (void *)(uintptr_t)q->p.scales};
    nw_tensor zero = {.format = NW_S32, .rank = 0, .data = (void *)(uintptr_t)q->p.zeros};
    if (q->p.grain == NW_GRAIN_AXIS) {
        scale.rank = zero.rank = 1;
        scale.dims[0] = zero.dims[0] = (int64_t)q->p.groups;
    }
    int in[3] = {x};
    NW_TRY(nw_graph_add_constant_copy(g, NULL, &scale, &in[1]));
    NW_TRY(nw_graph_add_constant_copy(g, NULL, &zero, &in[2]));
    NW_TRY(nw_graph_add_value(g, name, out));
    g->values[*out].format = NW_F32;
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", like->name, 3, in, 1, out, &node));
    return nw_fakequant_write(g, node, &q->p);
}

/* A constant of codes as a packed constant of real numbers. */
static nw_status add_packed(folder *f, int codes, const grid *q, int *out) {
    const nw_constant *c = f->g->values[codes].constant;
    nw_tensor t = c->tensor;
    t.format = q->format;
    NW_TRY(nw_graph_copy_qparam(f->g, &q->p, &t.qparam));
    return nw_graph_add_constant(f->g, f->g->values[codes].name, &t, nw_bytes_ref(c->owner), out);
}

/* The real counterpart of input i (codes) with its scale and zero at inputs s, z; a constant is packed. */
static nw_status real_input(folder *f, const nw_node *node, int i, int s, int z, int64_t axis, int *out,
                            grid *q, bool *ok) {
    *ok = false;
    int codes = nw_node_in(node, i), zero = nw_node_in(node, z);
    if (codes < 0) return NW_OK;
    const nw_constant *c = nw_graph_constant(f->g, codes);
    const nw_constant *zc = nw_graph_constant(f->g, zero);
    nw_format format = c ? c->tensor.format : zc ? zc->tensor.format : NW_U8;
    NW_TRY(read_grid(f, format, nw_node_in(node, s), zero, axis, 0, c ? c->tensor.rank : -1,
                     c ? c->tensor.dims : NULL, q, ok));
    if (!*ok) return NW_OK;
    if (c && !c->tensor.qparam) return add_packed(f, codes, q, out);
    *ok = codes < f->count && f->real[codes] >= 0 && same_grid(&f->grids[codes], q);
    if (*ok) *out = f->real[codes];
    return NW_OK;
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

/* The ordinary operator with the attributes of `from`, on real inputs, then FakeQuant at the output's grid. */
static nw_status finish(folder *f, int from, const char *type, int in_count, const int *in, int s, int z,
                        bool *ok) {
    nw_graph *g = f->g;
    int out, y = g->nodes[from].out[0];
    const nw_constant *zc = nw_graph_constant(g, nw_node_in(&g->nodes[from], z));
    grid q;
    bool has_scale = nw_node_in(&g->nodes[from], s) >= 0;
    if (has_scale) {
        NW_TRY(read_grid(f, zc ? zc->tensor.format : NW_U8, nw_node_in(&g->nodes[from], s),
                         nw_node_in(&g->nodes[from], z), 0, 0, -1, NULL, &q, ok));
        if (!*ok || q.p.grain != NW_GRAIN_TENSOR) {
            *ok = false;
            return NW_OK;
        }
        NW_TRY(nw_graph_add_value(g, NULL, &out));
    } else {
        out = y;
    }
    nw_node *node;
    const char *name = g->nodes[from].name;
    NW_TRY(nw_graph_add_node(g, "", type, name, in_count, in, 1, &out, &node));
    nw_node_succeed(&g->nodes[from], node);
    nw_node_remove_attr(node, "channels_last");
    nw_node_remove_attr(node, "opset");
    g->values[out].format = NW_F32;
    if (!has_scale) return NW_OK;
    f->grids[y] = q;
    return add_fakequant(f, node, out, &q, real_name(f, y), &f->real[y]);
}

/* B of QLinearConv and C of QGemm: int32 at s_x·s_w, one scale per output channel. */
static nw_status real_bias(folder *f, int codes, const grid *x, const grid *w, int *out, bool *ok) {
    const nw_constant *c = nw_graph_constant(f->g, codes);
    *ok = c && c->tensor.format == NW_S32 && !c->tensor.qparam && c->tensor.rank <= 1;
    if (!*ok) return NW_OK;
    size_t n = nw_tensor_count(&c->tensor);
    float *scales = nw_arena_array(&f->arena, n ? n : 1, sizeof *scales);
    if (!scales) return NW_E_MEMORY;
    if (w->p.groups != 1 && w->p.groups != n) *ok = false;
    for (size_t i = 0; i < n && *ok; i++)
        scales[i] = nw_qparam_scale(&x->p, 0) * nw_qparam_scale(&w->p, w->p.groups == 1 ? 0 : i);
    if (!*ok) return NW_OK;
    bool axis = c->tensor.rank == 1 && n > 1 && w->p.groups > 1;
    grid q = {NW_S32,
              {.format = NW_S32,
               .grain = axis ? NW_GRAIN_AXIS : NW_GRAIN_TENSOR,
               .groups = axis ? n : 1,
               .scales = scales,
               .qmin = INT32_MIN,
               .qmax = INT32_MAX}};
    return add_packed(f, codes, &q, out);
}

/* Inputs (x, s, z), (w, s, z), y s, z [, bias]: QLinearConv, QLinearMatMul, QGemm. */
static nw_status fold_weighted(folder *f, int index, const char *type, int64_t w_axis, int y, int bias,
                               bool *ok) {
    const nw_node *node = &f->g->nodes[index];
    int in[3];
    grid x, w;
    NW_TRY(real_input(f, node, 0, 1, 2, 0, &in[0], &x, ok));
    if (*ok) *ok = x.p.grain == NW_GRAIN_TENSOR;
    if (*ok) NW_TRY(real_input(f, &f->g->nodes[index], 3, 4, 5, w_axis, &in[1], &w, ok));
    int count = 2, b = nw_node_in(&f->g->nodes[index], bias);
    if (*ok && b >= 0) {
        NW_TRY(real_bias(f, b, &x, &w, &in[2], ok));
        count = 3;
    }
    return *ok ? finish(f, index, type, count, in, y, y + 1, ok) : NW_OK;
}

static nw_status fold_gemm(folder *f, int index, bool *ok) {
    const nw_node *node = &f->g->nodes[index];
    *ok = nw_node_float(node, "alpha", 1.0f) == 1.0f;
    if (!*ok) return NW_OK;
    int64_t axis = nw_node_int(node, "transB", 0) ? 0 : 1;
    return fold_weighted(f, index, "Gemm", axis, 7, 6, ok);
}

static nw_status fold_binary(folder *f, int index, const char *type, bool *ok) {
    int in[2];
    grid q;
    NW_TRY(real_input(f, &f->g->nodes[index], 0, 1, 2, 0, &in[0], &q, ok));
    if (*ok) NW_TRY(real_input(f, &f->g->nodes[index], 3, 4, 5, 0, &in[1], &q, ok));
    return *ok ? finish(f, index, type, 2, in, 6, 7, ok) : NW_OK;
}

static nw_status fold_unary(folder *f, int index, const char *type, bool *ok) {
    int in[1];
    grid q;
    *ok = nw_node_int(&f->g->nodes[index], "channels_last", 0) == 0;
    if (*ok) NW_TRY(real_input(f, &f->g->nodes[index], 0, 1, 2, 0, &in[0], &q, ok));
    return *ok ? finish(f, index, type, 1, in, 3, 4, ok) : NW_OK;
}

static nw_status fold_concat(folder *f, int index, bool *ok) {
    int count = (f->g->nodes[index].in_count - 2) / 3;
    *ok = count > 0 && f->g->nodes[index].in_count == 2 + 3 * count;
    if (!*ok) return NW_OK;
    int *in = nw_arena_array(&f->arena, (size_t)count, sizeof *in);
    if (!in) return NW_E_MEMORY;
    for (int i = 0; i < count && *ok; i++) {
        grid q;
        NW_TRY(real_input(f, &f->g->nodes[index], 2 + 3 * i, 3 + 3 * i, 4 + 3 * i, 0, &in[i], &q, ok));
    }
    return *ok ? finish(f, index, "Concat", count, in, 0, 1, ok) : NW_OK;
}

static nw_status fold_quantize(folder *f, int index, bool *ok) {
    const nw_node *node = &f->g->nodes[index];
    const nw_constant *z = nw_graph_constant(f->g, nw_node_in(node, 2));
    nw_format format = z ? z->tensor.format : (nw_format)nw_node_int(node, "output_dtype", NW_U8);
    *ok = nw_node_int(node, "block_size", 0) == 0 && nw_node_in(node, 0) >= 0 &&
          (nw_format_is_integer(format) || nw_node_int(node, "saturate", 1) != 0);
    if (!*ok) return NW_OK;
    const nw_value *x = &f->g->values[node->in[0]];
    grid q;
    NW_TRY(read_grid(f, format, nw_node_in(node, 1), nw_node_in(node, 2), nw_node_int(node, "axis", 1), 0,
                     x->rank, NULL, &q, ok));
    if (!*ok || (q.p.grain == NW_GRAIN_AXIS && x->rank < 0 && nw_node_int(node, "axis", 1) < 0)) {
        *ok = false;
        return NW_OK;
    }
    int y = node->out[0];
    f->grids[y] = q;
    /* The node itself stays for readers of the codes; pruning drops it when there are none. */
    return add_fakequant(f, node, node->in[0], &q, real_name(f, y), &f->real[y]);
}

/* A scalar constant of f32. */
static bool read_scalar(const folder *f, int v, float *out) {
    const nw_constant *c = nw_graph_constant(f->g, v);
    if (!c || c->tensor.qparam || c->tensor.format != NW_F32 || c->tensor.rank != 0) return false;
    *out = (float)nw_tensor_f64(&c->tensor, 0);
    return true;
}

/* Where(x < 0, −s, s), or Where(x ≥ 0, s, −s): a FakeQuant with levels {−1, 1}. */
static nw_status fold_signs(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    const nw_node *less = nw_fold_maker(f, nw_node_in(node, 0), "Less"),
                  *least = nw_fold_maker(f, nw_node_in(node, 0), "GreaterOrEqual");
    const nw_node *compare = less ? less : least;
    float zero, low, high;
    *ok = compare && read_scalar(f, nw_node_in(compare, 1), &zero) && zero == 0 &&
          read_scalar(f, nw_node_in(node, less ? 1 : 2), &low) &&
          read_scalar(f, nw_node_in(node, less ? 2 : 1), &high) && low == -high && high > 0 && isfinite(high);
    if (!*ok) return NW_OK;
    const int y = node->out[0];
    nw_qparam p = {.format = NW_INDEX1, .groups = 1};
    nw_tensor scale = {.format = NW_F32, .data = &high};
    nw_node *fresh;
    int in[2] = {nw_node_in(compare, 0)};
    NW_TRY(nw_levels_binary(&f->arena, &p.levels));
    NW_TRY(nw_graph_add_constant_copy(g, NULL, &scale, &in[1]));
    NW_TRY(nw_graph_add_node(g, NARROW, "FakeQuant", node->name, 2, in, 1, &y, &fresh));
    g->nodes[index].dead = true;
    return nw_fakequant_write(g, fresh, &p);
}

/* DynamicQuantizeLinear, all three of whose outputs this DequantizeLinear reads: a FakeQuant that finds its scale. */
static nw_status fold_dynamic(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    const nw_node *maker = nw_fold_maker(f, nw_node_in(node, 0), "DynamicQuantizeLinear");
    *ok = maker && node->in_count == 3;
    for (int i = 0; i < 3 && *ok; i++) *ok = node->in[i] == nw_node_out(maker, i);
    if (!*ok) return NW_OK;
    int x = nw_node_in(maker, 0), y = node->out[0];
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", g->nodes[index].name, 1, &x, 1, &y, &fresh));
    g->nodes[index].dead = true;
    return nw_node_set_string(g, fresh, "format", "u8");
}

static nw_status fold_dequantize(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    int codes = nw_node_in(node, 0), y = node->out[0];
    *ok = false;
    if (codes < 0) return NW_OK;
    NW_TRY(fold_dynamic(f, index, ok));
    if (*ok) return NW_OK;
    node = &g->nodes[index];
    const nw_constant *c = nw_graph_constant(g, codes), *z = nw_graph_constant(g, nw_node_in(node, 2));
    if (nw_node_int(node, "output_dtype", NW_F32) != NW_F32) return NW_OK;
    const nw_constant *s = nw_graph_constant(g, nw_node_in(node, 1));
    if (s && s->tensor.format != NW_F32) return NW_OK; /* its result would not be f32 */
    nw_format format = c ? c->tensor.format : z ? z->tensor.format : NW_U8;
    int rank = c ? c->tensor.rank : f->real[codes] >= 0 ? g->values[codes].rank : -1;
    grid q;
    NW_TRY(read_grid(f, format, nw_node_in(node, 1), nw_node_in(node, 2), nw_node_int(node, "axis", 1),
                     c ? nw_node_int(node, "block_size", 0) : 0, rank, c ? c->tensor.dims : NULL, &q, ok));
    if (!*ok) return NW_OK;
    if (c) {
        *ok = !c->tensor.qparam;
        if (!*ok) return NW_OK;
        nw_tensor t = c->tensor;
        NW_TRY(nw_fold_scales(f, nw_fold_constant(f, nw_node_in(node, 1))->format, &q.p, ok));
        if (!*ok) return NW_OK;
        NW_TRY(nw_graph_copy_qparam(g, &q.p, &t.qparam));
        nw_constant *packed = nw_arena_alloc(&g->arena, sizeof *packed);
        if (!packed) return NW_E_MEMORY;
        *packed = (nw_constant){.tensor = t, .owner = nw_bytes_ref(c->owner)};
        nw_value *v = &g->values[y];
        v->constant = packed;
        v->format = NW_F32;
        v->rank = t.rank;
        memcpy(v->dims, t.dims, sizeof v->dims);
        g->nodes[index].dead = true;
        return NW_OK;
    }
    *ok = f->real[codes] >= 0 && same_grid(&f->grids[codes], &q);
    if (!*ok) return NW_OK;
    if (nw_graph_is_output(g, y)) { /* it keeps its name */
        nw_node *identity;
        NW_TRY(
            nw_graph_add_node(g, "", "Identity", g->nodes[index].name, 1, &f->real[codes], 1, &y, &identity));
    } else {
        nw_graph_replace_uses(g, y, f->real[codes]);
    }
    g->nodes[index].dead = true;
    return NW_OK;
}

/* Operators that only move elements, on codes: the same on real numbers. */
static nw_status fold_move(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    *ok = false;
    if (!node->op || node->in_count < 1 || node->in[0] < 0 || node->in[0] >= f->count) return NW_OK;
    int x = node->in[0];
    nw_roles roles = nw_node_roles(node);
    if (f->real[x] < 0 || !(roles.same_grid || node->op->flags & NW_OP_VIEW)) return NW_OK;
    if (f->grids[x].p.grain != NW_GRAIN_TENSOR || node->out_count != 1) return NW_OK;
    int y = node->out[0], out, *in = nw_arena_array(&f->arena, (size_t)node->in_count, sizeof *in);
    if (!in) return NW_E_MEMORY;
    memcpy(in, node->in, (size_t)node->in_count * sizeof *in);
    in[0] = f->real[x];
    NW_TRY(nw_graph_add_value(g, NULL, &out));
    g->values[out].format = NW_F32;
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, g->nodes[index].domain, g->nodes[index].op_type, g->nodes[index].name,
                             g->nodes[index].in_count, in, 1, &out, &fresh));
    nw_node_succeed(&g->nodes[index], fresh);
    f->real[y] = out;
    f->grids[y] = f->grids[x];
    *ok = true;
    return NW_OK;
}

/* x restricted to a grid found while running, where `quantizer` makes its codes; one FakeQuant for all readers. */
static nw_status dynamic_input(folder *f, const nw_node *quantizer, int *out) {
    int codes = quantizer->out[0], x = nw_node_in(quantizer, 0);
    *out = f->dynamic[codes];
    if (*out >= 0) return NW_OK;
    nw_node *node;
    NW_TRY(nw_graph_add_value(f->g, real_name(f, codes), out));
    f->g->values[*out].format = NW_F32;
    f->dynamic[codes] = *out;
    NW_TRY(nw_graph_add_node(f->g, "ai.narrow", "FakeQuant", NULL, 1, &x, 1, out, &node));
    return nw_node_set_string(f->g, node, "format", "u8");
}

/* How onnxruntime spells a product quantized while running: DynamicQuantizeLinear(x) → q, s, z;
 * Cast(MatMulInteger(q, w, z, w_zero))·(s·w_scale). Here `index` is the last product. */
static nw_status fold_dynamic_product(folder *f, int index, bool *ok) {
    const nw_node *last = &f->g->nodes[index];
    *ok = false;
    if (last->in_count != 2) return NW_OK;
    for (int side = 0; side < 2; side++) {
        const nw_node *cast = nw_fold_maker(f, last->in[side], "Cast"),
                      *scales = nw_fold_maker(f, last->in[1 - side], "Mul");
        const nw_node *product = cast ? nw_fold_maker(f, nw_node_in(cast, 0), "MatMulInteger") : NULL;
        const nw_node *quantizer =
            product ? nw_fold_maker(f, nw_node_in(product, 0), "DynamicQuantizeLinear") : NULL;
        if (!scales || scales->in_count != 2 || !quantizer || quantizer->in_count != 1 ||
            quantizer->out_count != 3 || product->in_count < 2 || product->in[0] != quantizer->out[0] ||
            quantizer->out[1] < 0 || nw_node_in(product, 2) != quantizer->out[2])
            continue;
        int w_scale = scales->in[0] == quantizer->out[1]   ? scales->in[1]
                      : scales->in[1] == quantizer->out[1] ? scales->in[0]
                                                           : NW_ABSENT;
        const nw_constant *w = nw_graph_constant(f->g, product->in[1]);
        if (w_scale < 0 || !w || w->tensor.qparam || w->tensor.rank != 2) continue;
        grid q;
        int in[2], y = last->out[0];
        NW_TRY(
            read_grid(f, w->tensor.format, w_scale, nw_node_in(product, 3), 1, 0, 2, w->tensor.dims, &q, ok));
        if (!*ok) return NW_OK;
        const char *name = product->name;
        NW_TRY(add_packed(f, product->in[1], &q, &in[1]));
        NW_TRY(dynamic_input(f, quantizer, &in[0]));
        nw_node *fresh;
        NW_TRY(nw_graph_add_node(f->g, "", "MatMul", name, 2, in, 1, &y, &fresh));
        f->g->nodes[index].dead = true;
        return NW_OK;
    }
    return NW_OK;
}

/* The grid of W or R of DynamicQuantizeLSTM once it is [directions, rows, k]: scales at input s [directions] or [directions,
 * rows], zero points behind them. Directions that agree share their scales; else every row has one: blocks as long as a row. */
static nw_status read_recurrent_grid(folder *f, const nw_node *node, const nw_tensor *codes, int s,
                                     nw_qparam *p, bool *ok) {
    const nw_constant *scale = nw_graph_constant(f->g, nw_node_in(node, s)),
                      *zero = nw_graph_constant(f->g, nw_node_in(node, s + 1));
    size_t directions = (size_t)codes->dims[0], rows = (size_t)codes->dims[2];
    *ok = scale && zero && scale->tensor.format == NW_F32 && !scale->tensor.qparam && !zero->tensor.qparam;
    if (!*ok) return NW_OK;
    size_t count = nw_tensor_count(&scale->tensor), each = directions ? count / directions : 0;
    *ok = zero->tensor.format == codes->format && nw_tensor_count(&zero->tensor) == count && each > 0 &&
          count == directions * each && (each == 1 || each == rows);
    if (!*ok) return NW_OK;
    bool alike = true;
    for (size_t i = each; i < count && alike; i++)
        alike = nw_tensor_f64(&scale->tensor, i) == nw_tensor_f64(&scale->tensor, i - each) &&
                nw_tensor_s64(&zero->tensor, i) == nw_tensor_s64(&zero->tensor, i - each);
    size_t groups = alike ? each : directions * rows, repeat = alike || each > 1 ? 1 : rows;
    float *scales = nw_arena_array(&f->arena, groups, sizeof *scales);
    int32_t *zeros = nw_arena_array(&f->arena, groups, sizeof *zeros);
    if (!scales || !zeros) return NW_E_MEMORY;
    for (size_t i = 0; i < groups && *ok; i++) {
        scales[i] = (float)nw_tensor_f64(&scale->tensor, i / repeat);
        zeros[i] = (int32_t)nw_tensor_s64(&zero->tensor, i / repeat);
        *ok = scales[i] > 0 && isfinite(scales[i]);
    }
    *p = (nw_qparam){.format = codes->format,
                     .grain = !alike     ? NW_GRAIN_BLOCK
                              : each > 1 ? NW_GRAIN_AXIS
                                         : NW_GRAIN_TENSOR,
                     .axis = alike ? each > 1 : 2,
                     .block = alike ? 0 : codes->dims[1],
                     .groups = groups,
                     .scales = scales,
                     .zeros = zeros,
                     .qmin = (int32_t)nw_format_min(codes->format),
                     .qmax = (int32_t)nw_format_max(codes->format)};
    return NW_OK;
}

/* W or R of DynamicQuantizeLSTM, codes [directions, k, rows], as a packed constant [directions, rows, k]. */
static nw_status add_recurrent(folder *f, const nw_node *node, int i, int s, int *out, bool *ok) {
    const nw_constant *c = nw_graph_constant(f->g, nw_node_in(node, i));
    nw_qparam q;
    *ok = c && !c->tensor.qparam && c->tensor.rank == 3 && nw_tensor_count(&c->tensor) > 0 &&
          (c->tensor.format == NW_U8 || c->tensor.format == NW_S8);
    if (*ok) NW_TRY(read_recurrent_grid(f, node, &c->tensor, s, &q, ok));
    if (!*ok) return NW_OK;
    nw_tensor t;
    NW_TRY(nw_tensor_transpose_codes(&f->arena, &c->tensor, &t));
    t.qparam = &q;
    return nw_graph_add_constant_copy(f->g, f->g->values[node->in[i]].name, &t, out);
}

/* DynamicQuantizeLSTM: LSTM on a FakeQuant that finds its scale, whose state is quantized while running. */
static nw_status fold_dynamic_lstm(folder *f, int index, bool *ok) {
    nw_graph *g = f->g;
    const nw_node *node = &g->nodes[index];
    int x = nw_node_in(node, 0), in[8], count = 8;
    for (int i = 0; i < 8; i++) in[i] = nw_node_in(node, i);
    while (count > 3 && in[count - 1] < 0) count--;
    *ok = x >= 0;
    if (*ok) NW_TRY(add_recurrent(f, node, 1, 8, &in[1], ok));
    if (*ok) NW_TRY(add_recurrent(f, node, 2, 10, &in[2], ok));
    if (!*ok) return NW_OK;
    nw_node *fresh;
    const char *name = nw_arena_printf(&f->arena, "%s_dq", g->values[x].name);
    NW_TRY(nw_graph_add_value(g, name, &in[0]));
    g->values[in[0]].format = NW_F32;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", NULL, 1, &x, 1, &in[0], &fresh));
    NW_TRY(nw_node_set_string(g, fresh, "format", "u8"));
    node = &g->nodes[index];
    NW_TRY(nw_graph_add_node(g, "", "LSTM", node->name, count, in, node->out_count, node->out, &fresh));
    nw_node_succeed(&g->nodes[index], fresh);
    return nw_node_set_string(g, fresh, NW_STATE_FORMAT, "u8");
}

static nw_status fold_node(folder *f, int index) {
    const nw_node *node = &f->g->nodes[index];
    bool ok;
    const char *ms = "com.microsoft";
    if (is_op(node, ms, "DynamicQuantizeLSTM")) return fold_dynamic_lstm(f, index, &ok);
    if (node->out_count < 1 || node->out[0] < 0) return NW_OK;
    if (is_linear(node, "QuantizeLinear")) return fold_quantize(f, index, &ok);
    if (is_op(node, NARROW, "DequantizeLinear")) return nw_fold_native(f, index);
    if (is_op(node, NARROW, "FakeQuant") && nw_node_in(node, 0) < 0)
        return nw_fail(f->g->ctx, NW_E_FORMAT, "FakeQuant node \"%s\" has no input", node->name);
    const char *codes = nw_node_string(node, NW_CODES_FORMAT, NULL);
    if (is_op(node, ms, "MatMulNBits")) return nw_fold_nbits(f, index, &ok);
    if (is_linear(node, "DequantizeLinear")) {
        int y = node->out[0];
        NW_TRY(fold_dequantize(f, index, &ok));
        return ok && codes && f->g->values[y].constant ? nw_fold_recode(f, y, codes) : NW_OK;
    }
    if (codes) {
        NW_TRY(nw_fold_spelled(f, index, codes, &ok));
        if (ok) return NW_OK;
    }
    if (is_op(node, "", "QLinearConv")) return fold_weighted(f, index, "Conv", 0, 6, 8, &ok);
    if (is_op(node, "", "QLinearMatMul")) {
        const nw_constant *w = nw_graph_constant(f->g, nw_node_in(node, 3));
        return fold_weighted(f, index, "MatMul", w ? w->tensor.rank - 1 : 1, 6, 99, &ok);
    }
    if (is_op(node, ms, "QGemm")) return fold_gemm(f, index, &ok);
    if (is_op(node, ms, "QLinearAdd")) return fold_binary(f, index, "Add", &ok);
    if (is_op(node, ms, "QLinearMul")) return fold_binary(f, index, "Mul", &ok);
    if (is_op(node, ms, "QLinearConcat")) return fold_concat(f, index, &ok);
    if (is_op(node, ms, "QLinearGlobalAveragePool")) return fold_unary(f, index, "GlobalAveragePool", &ok);
    if (is_op(node, ms, "QLinearAveragePool")) return fold_unary(f, index, "AveragePool", &ok);
    if (is_op(node, ms, "QLinearSigmoid")) return fold_unary(f, index, "Sigmoid", &ok);
    if (is_op(node, ms, "QLinearLeakyRelu")) return fold_unary(f, index, "LeakyRelu", &ok);
    if (is_op(node, "", "Where")) return fold_signs(f, index, &ok);
    if (is_op(node, "", "Mul")) return fold_dynamic_product(f, index, &ok);
    return fold_move(f, index, &ok);
}

/* Codes that are still read (by operators without a rule, or as graph outputs) but whose maker is gone: quantized from
 * their real counterpart. */
static nw_status restore_codes(folder *f) {
    nw_graph *g = f->g;
    nw_uses_free(&f->uses);
    NW_TRY(nw_uses_init(&f->uses, g));
    for (int v = 0; v < f->count; v++) {
        if (f->real[v] < 0 || f->uses.producer[v] >= 0 || nw_uses_count(&f->uses, v) == 0) continue;
        const grid *q = &f->grids[v];
        nw_tensor scale = {.format = NW_F32, .data = (void *)(uintptr_t)q->p.scales},
                  zero = {.format = q->format};
        uint8_t code[8] = {0};
        nw_store_s64(q->format, code, 0, q->p.zeros[0]);
        zero.data = code;
        int in[3] = {f->real[v]};
        NW_TRY(nw_graph_add_constant_copy(g, NULL, &scale, &in[1]));
        NW_TRY(nw_graph_add_constant_copy(g, NULL, &zero, &in[2]));
        nw_node *node;
        NW_TRY(nw_graph_add_node(g, "", "QuantizeLinear", NULL, 3, in, 1, &v, &node));
    }
    return NW_OK;
}

static nw_status fold_subgraphs(nw_graph *g) {
    for (int n = 0; n < g->node_count; n++)
        for (int a = 0; a < g->nodes[n].attr_count; a++) {
            const nw_attr *attr = &g->nodes[n].attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) NW_TRY(nw_onnx_fold_quantization(attr->graph));
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                NW_TRY(nw_onnx_fold_quantization(attr->graphs[i]));
        }
    return NW_OK;
}

nw_status nw_onnx_fold_quantization(nw_graph *g) {
    NW_TRY(fold_subgraphs(g));
    folder f = {.g = g, .count = g->value_count, .uses = {.ctx = g->ctx}};
    nw_arena_init(&f.arena, g->ctx);
    size_t count = (size_t)f.count + 1;
    f.real = nw_arena_array(&f.arena, count, sizeof *f.real);
    f.grids = nw_arena_array(&f.arena, count, sizeof *f.grids);
    f.dynamic = nw_arena_array(&f.arena, count, sizeof *f.dynamic);
    nw_status status = f.real && f.grids && f.dynamic ? nw_uses_init(&f.uses, g) : NW_E_MEMORY;
    for (int v = 0; v < f.count && status == NW_OK; v++) f.real[v] = f.dynamic[v] = NW_ABSENT;
    int nodes = g->node_count; /* in topological order; new ones come behind */
    for (int n = 0; n < nodes && status == NW_OK; n++)
        if (!g->nodes[n].dead) status = fold_node(&f, n);
    if (status == NW_OK) status = restore_codes(&f);
    nw_uses_free(&f.uses);
    nw_arena_free(&f.arena);
    if (status == NW_OK) status = nw_graph_prune(g);
    if (status == NW_OK) status = nw_graph_resolve(g);
    return status;
}
