/* spell.c: quantization as the portable graph means it → as ONNX spells it: QuantizeLinear/DequantizeLinear pairs, or the integer
 * operators where there is one. A small model has as many bytes in names as in weights: names are short (x_q: codes, x_scale),
 * and zero points that are all alike are one initializer. */
#include "onnx/spell.h"

#include "op/quantize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- initializers ----------------------------------------------------------------------------------------------- */

/* "x" of "x_dq", the name quantization gives a restricted x. */
static const char *base_name(nw_graph *g, int v) {
    const char *name = g->values[v].name;
    size_t length = strlen(name);
    if (length < 4 || strcmp(name + length - 3, "_dq") != 0) return name;
    const char *base = nw_arena_strndup(&g->arena, name, length - 3);
    return base ? base : name;
}

nw_status nw_spell_named(nw_graph *g, const char *base, const char *suffix, const nw_tensor *t, int *id) {
    const char *name = nw_arena_printf(&g->arena, "%s%s", base, suffix);
    return name ? nw_graph_add_constant_copy(g, name, t, id) : NW_E_MEMORY;
}

nw_status nw_spell_zero(speller *s, const char *name, nw_tensor *zero, const nw_qparam *p, int *id) {
    bool alike = zero->rank <= 1 && !s->g->parent; /* names are unique across subgraphs */
    for (size_t i = 1; i < p->groups; i++) alike = alike && nw_qparam_zero(p, i) == nw_qparam_zero(p, 0);
    const char *shared = NULL;
    if (alike) {
        const char *format = nw_format_name(zero->format);
        int value = nw_qparam_zero(p, 0);
        shared = zero->rank ? nw_arena_printf(&s->g->arena, "zero_%s_%d_x%zu", format, value, p->groups)
                            : nw_arena_printf(&s->g->arena, "zero_%s_%d", format, value);
        if (!shared) return NW_E_MEMORY;
        *id = nw_graph_find(s->g, shared);
        if (*id >= s->count) return NW_OK; /* made here before, not a value of the model's own */
    }
    NW_TRY(nw_tensor_alloc(&s->arena, zero));
    memset(zero->data, 0, nw_tensor_bytes(zero));
    for (size_t i = 0; i < p->groups; i++) nw_store_s64(zero->format, zero->data, i, nw_qparam_zero(p, i));
    return alike ? nw_graph_add_constant_copy(s->g, shared, zero, id)
                 : nw_spell_named(s->g, name, "_zero", zero, id);
}

void nw_spell_scale_shape(const nw_qparam *p, int rank, const int64_t *dims, nw_tensor *scale) {
    scale->rank = 0;
    if (p->grain == NW_GRAIN_AXIS) {
        scale->rank = 1;
        scale->dims[0] = (int64_t)p->groups;
    } else if (p->grain == NW_GRAIN_BLOCK) {
        nw_tensor_set_shape(scale, rank, dims);
        scale->dims[p->axis] = dims[p->axis] / p->block + (dims[p->axis] % p->block != 0);
    }
}

/* Scale (f32) and zero point of a grid as initializers; out->scale may name one that fits. */
static nw_status add_grid(speller *s, const char *name, const nw_qparam *p, int rank, const int64_t *dims,
                          spelled *out) {
    nw_graph *g = s->g;
    const nw_constant *have = nw_graph_constant(g, out->scale);
    float *scales = nw_arena_array(&s->arena, p->groups, sizeof *scales);
    if (!scales) return NW_E_MEMORY;
    for (size_t i = 0; i < p->groups; i++) scales[i] = nw_qparam_scale(p, i);
    nw_tensor scale = {.format = NW_F32, .data = scales};
    nw_spell_scale_shape(p, rank, dims, &scale);
    if (!have || have->tensor.format != NW_F32 || !nw_tensor_same_shape(&have->tensor, &scale))
        NW_TRY(nw_spell_named(g, name, "_scale", &scale, &out->scale));
    out->p = p;
    out->zero = NW_ABSENT;
    if (!nw_spell_has_zero(p->format)) return NW_OK;
    nw_tensor zero = scale;
    zero.format = p->format;
    return nw_spell_zero(s, name, &zero, p, &out->zero);
}

/* The codes of a packed constant as an initializer, for an integer operator. */
static nw_status operand_codes(speller *s, int v) {
    nw_graph *g = s->g;
    spelled *sp = &s->of[v];
    if (sp->codes >= 0) return NW_OK;
    const nw_constant *c = g->values[v].constant;
    const nw_qparam *p = c->tensor.qparam;
    const char *base = g->values[v].name, *name = nw_arena_printf(&g->arena, "%s_q", base);
    if (!name) return NW_E_MEMORY;
    nw_tensor codes = c->tensor;
    codes.qparam = NULL;
    NW_TRY(add_grid(s, base, p, codes.rank, codes.dims, sp));
    return nw_graph_add_constant(g, name, &codes, nw_bytes_ref(g->values[v].constant->owner), &sp->codes);
}

/* ---- QuantizeLinear and DequantizeLinear ------------------------------------------------------------------------- */

/* Old opsets have no per-axis or narrow codes in the standard operators; com.microsoft's have them at any opset. */
static const char *linear_domain(const speller *s, nw_format format) {
    int bits = nw_format_bits(format);
    if (s->opset < 13) return MS;
    return s->opset < 21 && nw_format_is_integer(format) && (bits == 16 || bits < 8) ? MS : "";
}

nw_status nw_spell_linear(speller *s, const char *type, nw_format format, int x, const spelled *sp, int y,
                          nw_node **node) {
    int in[3] = {x, sp->scale, sp->zero};
    /* without a name: its output's tells */
    NW_TRY(
        nw_graph_add_node(s->g, linear_domain(s, format), type, NULL, sp->zero < 0 ? 2 : 3, in, 1, &y, node));
    if (sp->p->grain == NW_GRAIN_TENSOR) return NW_OK;
    NW_TRY(nw_node_set_int(s->g, *node, "axis", sp->p->axis));
    return sp->p->grain == NW_GRAIN_BLOCK ? nw_node_set_int(s->g, *node, "block_size", sp->p->block) : NW_OK;
}

/* ---- integer operators ------------------------------------------------------------------------------------------- */

static const nw_node *only_reader(const speller *s, int v) {
    if (v < 0 || v >= s->count || nw_uses_count(&s->uses, v) != 1 || s->uses.outputs[v]) return NULL;
    const nw_node *node = &s->g->nodes[s->uses.users[s->uses.first[v]]];
    return node->dead ? NULL : node;
}

/* A clamp that the codes' own range makes: Relu where the lowest code means 0 or more, Clip likewise on both sides. */
static bool absorbed(const speller *s, const nw_node *node, const nw_qparam *p) {
    float lowest = nw_qparam_scale(p, 0) * (float)(p->qmin - nw_qparam_zero(p, 0));
    float highest = nw_qparam_scale(p, 0) * (float)(p->qmax - nw_qparam_zero(p, 0));
    if (nw_node_is(node, "Relu")) return lowest >= 0;
    if (!nw_node_is(node, "Clip")) return false;
    float lo = nw_node_float(node, "min", -INFINITY), hi = nw_node_float(node, "max", INFINITY);
    for (int i = 1; i < node->in_count; i++) {
        const nw_constant *c = nw_graph_constant(s->g, node->in[i]);
        if (node->in[i] < 0) continue;
        if (!c || c->tensor.format != NW_F32 || nw_tensor_count(&c->tensor) != 1) return false;
        *(i == 1 ? &lo : &hi) = *(const float *)c->tensor.data;
    }
    return lowest >= lo && highest <= hi;
}

/* The FakeQuant that the output of a node goes to, perhaps through a clamp, which *through then is. */
static const nw_node *output_quantizer(const speller *s, const nw_node *node, const nw_node **through) {
    *through = NULL;
    const nw_node *next = only_reader(s, node->out[0]);
    if (next && next->op != &nw_op_narrow_FakeQuant && next->out_count == 1 && next->in[0] == node->out[0]) {
        *through = next;
        next = only_reader(s, next->out[0]);
    }
    if (!next || next->op != &nw_op_narrow_FakeQuant) return NULL;
    const nw_qparam *p = s->of[next->out[0]].p;
    if (!p || p->grain != NW_GRAIN_TENSOR || (*through && !absorbed(s, *through, p))) return NULL;
    return next;
}

static bool byte_codes(const nw_qparam *p) {
    return p && (p->format == NW_U8 || p->format == NW_S8);
}
static bool per_tensor(const speller *s, int v) {
    return v >= 0 && v < s->count && byte_codes(s->of[v].p) && s->of[v].p->grain == NW_GRAIN_TENSOR;
}

/* Input v as (codes, scale, zero) into in[]. A constant's codes are made now. */
static nw_status push(speller *s, int v, int *in, int *count) {
    if (s->g->values[v].constant) NW_TRY(operand_codes(s, v));
    in[(*count)++] = s->of[v].codes;
    in[(*count)++] = s->of[v].scale;
    in[(*count)++] = s->of[v].zero;
    return NW_OK;
}

/* Bias as int32 at s_x·s_w. A packed one is taken as it is. */
static nw_status push_bias(speller *s, int v, const nw_qparam *x, const nw_qparam *w, int *in, int *count,
                           bool *ok) {
    const nw_constant *c = nw_graph_constant(s->g, v);
    *ok = c && c->tensor.rank <= 1;
    if (!*ok) return NW_OK;
    if (c->tensor.qparam) {
        *ok = c->tensor.qparam->format == NW_S32;
        if (*ok) NW_TRY(operand_codes(s, v));
        if (*ok) in[(*count)++] = s->of[v].codes;
        return NW_OK;
    }
    *ok = c->tensor.format == NW_F32;
    if (!*ok) return NW_OK;
    nw_tensor q = c->tensor;
    q.format = NW_S32;
    NW_TRY(nw_tensor_alloc(&s->arena, &q));
    for (size_t i = 0; i < nw_tensor_count(&q); i++) {
        double unit = (double)nw_qparam_scale(x, 0) * (double)nw_qparam_scale(w, w->groups == 1 ? 0 : i);
        nw_store_f64(NW_S32, q.data, i, (double)((const float *)c->tensor.data)[i] / unit);
    }
    return nw_spell_named(s->g, s->g->values[v].name, "_q", &q, &in[(*count)++]);
}

/* Replaces nodes[index] (with the clamp and the FakeQuant behind it) by an integer operator that makes the codes. */
static nw_status replace(speller *s, int index, const nw_node *through, const nw_node *fq, const char *domain,
                         const char *type, int count, const int *in, bool output_first) {
    nw_graph *g = s->g;
    int y = fq->out[0], codes, all[256], n = 0;
    const char *codes_name = nw_arena_printf(&g->arena, "%s_q", base_name(g, y));
    if (!codes_name) return NW_E_MEMORY;
    if (output_first) {
        all[n++] = s->of[y].scale;
        all[n++] = s->of[y].zero;
    }
    for (int i = 0; i < count; i++) all[n++] = in[i];
    if (through) ((nw_node *)(uintptr_t)through)->dead = true;
    ((nw_node *)(uintptr_t)fq)->dead = true;
    NW_TRY(nw_graph_add_value(g, codes_name, &codes));
    g->values[codes].format = s->of[y].p->format;
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, domain, type, g->nodes[index].name, n, all, 1, &codes, &node));
    nw_node_succeed(&g->nodes[index], node);
    s->of[y].codes = codes;
    return NW_OK;
}

static nw_status spell_weighted(speller *s, int index, const char *domain, const char *type) {
    const nw_node *node = &s->g->nodes[index], *through, *fq = output_quantizer(s, node, &through);
    int x = node->in[0], w = node->in[1], b = nw_node_in(node, 2), in[10], count = 0;
    bool gemm = strcmp(type, "QGemm") == 0, ok = true;
    if (!fq || !per_tensor(s, x) || w < 0 || w >= s->count || !byte_codes(s->of[w].p) || s->of[x].codes < 0)
        return NW_OK;
    if (!s->g->values[w].constant && !per_tensor(s, w)) return NW_OK;
    if (gemm && (nw_node_float(node, "alpha", 1) != 1 || nw_node_float(node, "beta", 1) != 1)) return NW_OK;
    if (s->g->values[w].constant && s->of[w].p->grain == NW_GRAIN_BLOCK) return NW_OK;
    NW_TRY(push(s, x, in, &count));
    NW_TRY(push(s, w, in, &count));
    if (in[count - 3] < 0) return NW_OK;
    int y_scale = s->of[fq->out[0]].scale, y_zero = s->of[fq->out[0]].zero;
    if (gemm) {
        if (b >= 0)
            NW_TRY(push_bias(s, b, s->of[x].p, s->of[w].p, in, &count, &ok));
        else
            in[count++] = NW_ABSENT;
    }
    in[count++] = y_scale;
    in[count++] = y_zero;
    if (!gemm && b >= 0) NW_TRY(push_bias(s, b, s->of[x].p, s->of[w].p, in, &count, &ok));
    if (!ok) return NW_OK;
    nw_node_remove_attr(&s->g->nodes[index], "beta");
    return replace(s, index, through, fq, domain, type, count, in, false);
}

static nw_status spell_operands(speller *s, int index, const char *type, int operands, bool output_first) {
    const nw_node *node = &s->g->nodes[index], *through, *fq = output_quantizer(s, node, &through);
    int in[240], count = 0;
    if (!fq || operands * 3 + 2 > 240) return NW_OK;
    for (int i = 0; i < operands; i++)
        if (!per_tensor(s, node->in[i]) ||
            (!s->g->values[node->in[i]].constant && s->of[node->in[i]].codes < 0))
            return NW_OK;
    for (int i = 0; i < operands; i++) NW_TRY(push(s, s->g->nodes[index].in[i], in, &count));
    if (!output_first) {
        in[count++] = s->of[fq->out[0]].scale;
        in[count++] = s->of[fq->out[0]].zero;
    }
    return replace(s, index, through, fq, MS, type, count, in, output_first);
}

/* An operator that moves elements: the same on codes, when its result stays on the grid. */
static nw_status spell_move(speller *s, int index) {
    const nw_node *node = &s->g->nodes[index], *through, *fq = output_quantizer(s, node, &through);
    int x = nw_node_in(node, 0);
    nw_roles roles = nw_node_roles(node);
    if (!fq || through || !node->op || !(roles.same_grid || node->op->flags & NW_OP_VIEW) ||
        !per_tensor(s, x))
        return NW_OK;
    if (s->of[x].codes < 0 || !nw_qparam_equal(s->of[x].p, s->of[fq->out[0]].p)) return NW_OK;
    if (nw_node_is(node, "MaxPool") && nw_graph_opset(s->g, "") < 12) return NW_OK;
    if (nw_node_is(node, "GlobalMaxPool")) return NW_OK; /* ONNX has it for floats only */
    int *in = nw_arena_array(&s->arena, (size_t)node->in_count, sizeof *in);
    if (!in) return NW_E_MEMORY;
    memcpy(in, node->in, (size_t)node->in_count * sizeof *in);
    in[0] = s->of[x].codes;
    return replace(s, index, NULL, fq, node->domain, node->op_type, node->in_count, in, false);
}

/* W or R of an LSTM as DynamicQuantizeLSTM has it: codes transposed to [directions, k, rows]; scales and zero points
 * [directions] or [directions, rows]. */
static nw_status push_recurrent(speller *s, int v, int *codes, int *scale, int *zero) {
    nw_graph *g = s->g;
    const nw_tensor *t = &g->values[v].constant->tensor;
    const nw_qparam *p = t->qparam;
    const char *name = g->values[v].name;
    nw_tensor q, scales = {.format = NW_F32, .rank = p->groups > 1 ? 2 : 1, .dims = {t->dims[0], t->dims[1]}};
    nw_tensor zeros = scales;
    zeros.format = t->format;
    NW_TRY(nw_tensor_transpose_codes(&s->arena, t, &q));
    NW_TRY(nw_tensor_alloc(&s->arena, &scales));
    NW_TRY(nw_tensor_alloc(&s->arena, &zeros));
    for (size_t i = 0; i < nw_tensor_count(&scales); i++) {
        ((float *)scales.data)[i] = nw_qparam_scale(p, i % p->groups);
        nw_store_s64(t->format, zeros.data, i, nw_qparam_zero(p, i % p->groups));
    }
    NW_TRY(nw_spell_named(g, name, "_q", &q, codes));
    NW_TRY(nw_spell_named(g, name, "_scale", &scales, scale));
    return nw_spell_named(g, name, "_zero", &zeros, zero);
}

/* Whether a weight has the codes that DynamicQuantizeLSTM takes: several scales only without zero points. */
static bool recurrent_codes(const speller *s, int v) {
    const nw_constant *c = v < s->count ? nw_graph_constant(s->g, v) : NULL;
    const nw_qparam *p = c ? c->tensor.qparam : NULL;
    if (!byte_codes(p)) return false;
    if (p->grain == NW_GRAIN_TENSOR) return true;
    bool rows = (p->grain == NW_GRAIN_AXIS && p->axis == 1) ||
                (p->grain == NW_GRAIN_BLOCK && p->axis == 2 && p->block >= c->tensor.dims[2]);
    for (size_t i = 0; i < p->groups && rows; i++)
        rows = nw_qparam_zero(p, i) == (p->format == NW_U8 ? 128 : 0);
    return rows;
}

/* LSTM whose input and state are quantized while running. */
static nw_status spell_lstm(speller *s, int index) {
    nw_graph *g = s->g;
    const nw_node *node = &g->nodes[index];
    int x = nw_node_in(node, 0), maker = x >= 0 && x < s->count ? s->uses.producer[x] : NW_ABSENT, in[12];
    if (maker < 0 || g->nodes[maker].op != &nw_op_narrow_FakeQuant || node->in_count < 3) return NW_OK;
    if (nw_node_in(&g->nodes[maker], 1) >= 0) return NW_OK; /* on a grid that was measured before */
    if (!nw_node_string_is(node, NW_STATE_FORMAT, "", "u8") || nw_node_int(node, "layout", 0)) return NW_OK;
    if (!recurrent_codes(s, node->in[1]) || !recurrent_codes(s, node->in[2])) return NW_OK;
    for (int i = 0; i < 8; i++) in[i] = nw_node_in(node, i);
    in[0] = g->nodes[maker].in[0];
    NW_TRY(push_recurrent(s, node->in[1], &in[1], &in[8], &in[9]));
    NW_TRY(push_recurrent(s, node->in[2], &in[2], &in[10], &in[11]));
    nw_node *fresh;
    NW_TRY(nw_graph_add_node(g, MS, "DynamicQuantizeLSTM", node->name, 12, in, node->out_count, node->out,
                             &fresh));
    nw_node_succeed(&g->nodes[index], fresh);
    nw_node_remove_attr(fresh, NW_STATE_FORMAT);
    nw_node_remove_attr(fresh, "layout");
    return NW_OK;
}

static nw_status spell_operator(speller *s, int index) {
    const nw_node *node = &s->g->nodes[index];
    if (nw_graph_opset(s->g, "") < 10) return NW_OK; /* QLinearConv and QLinearMatMul are of opset 10 */
    if (nw_node_is(node, "LSTM")) return spell_lstm(s, index);
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i] < 0 || (i > 0 && nw_uses_count(&s->uses, node->out[i]) > 0)) return NW_OK;
    if (nw_node_is(node, "Conv")) return spell_weighted(s, index, "", "QLinearConv");
    if (nw_node_is(node, "MatMul")) return spell_weighted(s, index, "", "QLinearMatMul");
    if (nw_node_is(node, "Gemm")) return spell_weighted(s, index, MS, "QGemm");
    if (nw_node_is(node, "Add")) return spell_operands(s, index, "QLinearAdd", 2, false);
    if (nw_node_is(node, "Mul")) return spell_operands(s, index, "QLinearMul", 2, false);
    if (nw_node_is(node, "Concat")) return spell_operands(s, index, "QLinearConcat", node->in_count, true);
    if (nw_node_is(node, "GlobalAveragePool"))
        return spell_operands(s, index, "QLinearGlobalAveragePool", 1, false);
    if (nw_node_is(node, "Sigmoid")) return spell_operands(s, index, "QLinearSigmoid", 1, false);
    if (nw_node_is(node, "LeakyRelu")) return spell_operands(s, index, "QLinearLeakyRelu", 1, false);
    return spell_move(s, index);
}

/* ---- the whole graph --------------------------------------------------------------------------------------------- */

/* Grids of all FakeQuants (their initializers) and of all packed constants. */
static nw_status collect(speller *s) {
    nw_graph *g = s->g;
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead || node->op != &nw_op_narrow_FakeQuant) continue;
        nw_qparam *p = nw_arena_alloc(&s->arena, sizeof *p);
        bool dynamic, signs;
        float scale;
        if (!p) return NW_E_MEMORY;
        NW_TRY(nw_fakequant_sign_scale(g, node, &s->arena, &scale, &signs));
        if (signs) continue;
        NW_TRY(nw_fakequant_qparam(g, node, &s->arena, p, &dynamic));
        if (p->levels.count)
            return nw_fail(g->ctx, NW_E_UNSUPPORTED,
                           "FakeQuant \"%s\": ONNX has no operator for %s codes of activations",
                           nw_node_label(g, node), nw_format_name(p->format));
        if (!dynamic && nw_fakequant_is_cast(p)) continue;
        s->of[node->out[0]].p = dynamic ? NULL : p;
        s->of[node->out[0]].scale = nw_node_in(node, 1);
        if (dynamic && (p->format != NW_U8 || nw_qparam_scale_format(p) != NW_F32 ||
                        p->grain != NW_GRAIN_TENSOR || nw_graph_opset(g, "") < 11))
            return nw_fail(g->ctx, NW_E_UNSUPPORTED,
                           "FakeQuant \"%s\": scales found at run time can be written as ONNX for u8 per "
                           "tensor, from opset 11 on, and per row of what MatMul or Gemm multiplies",
                           nw_node_label(g, node));
    }
    for (int v = 0; v < s->count; v++)
        if (g->values[v].constant) {
            s->of[v].p = g->values[v].constant->tensor.qparam;
            s->of[v].scale = NW_ABSENT;
        }
    return NW_OK;
}

/* Scales found at run time: DynamicQuantizeLinear, whose three outputs a DequantizeLinear turns back. */
static nw_status spell_dynamic(speller *s, int index) {
    nw_graph *g = s->g;
    int x = g->nodes[index].in[0], y = g->nodes[index].out[0], out[3];
    static const char *const suffix[3] = {"_q", "_scale", "_zero"};
    for (int i = 0; i < 3; i++) {
        const char *name = nw_arena_printf(&g->arena, "%s%s", base_name(g, y), suffix[i]);
        if (!name) return NW_E_MEMORY;
        NW_TRY(nw_graph_add_value(g, name, &out[i]));
    }
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "", "DynamicQuantizeLinear", NULL, 1, &x, 3, out, &node));
    g->nodes[index].dead = true;
    return nw_graph_add_node(g, "", "DequantizeLinear", NULL, 3, out, 1, &y, &node);
}

/* {−1, 1} times a scale: Where(Less(x, 0), −scale, scale). With Less, NaN and −0 count as 0 does. */
static nw_status spell_signs(speller *s, int index, float scale) {
    nw_graph *g = s->g;
    const nw_qparam no_zero = {.groups = 1};
    const int y = g->nodes[index].out[0];
    const char *base = base_name(g, y), *name = nw_arena_printf(&g->arena, "%s_negative", base);
    float minus = -scale;
    nw_tensor zero = {.format = NW_F32}, high = {.format = NW_F32, .data = &scale},
              low = {.format = NW_F32, .data = &minus};
    int less[2] = {g->nodes[index].in[0]}, where[3];
    nw_node *node;
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_spell_zero(s, base, &zero, &no_zero, &less[1]));
    NW_TRY(nw_spell_named(g, base, "_low", &low, &where[1]));
    NW_TRY(nw_spell_named(g, base, "_high", &high, &where[2]));
    NW_TRY(nw_graph_add_value(g, name, &where[0]));
    NW_TRY(nw_graph_add_node(g, "", "Less", NULL, 2, less, 1, &where[0], &node));
    g->nodes[index].dead = true;
    return nw_graph_add_node(g, "", "Where", NULL, 3, where, 1, &y, &node);
}

/* Floats of 16 bits: there and back. The second Cast tells, so that reading the file finds the FakeQuant again. */
static nw_status spell_cast(speller *s, int index, nw_format format) {
    nw_graph *g = s->g;
    int x = g->nodes[index].in[0], y = g->nodes[index].out[0], narrow;
    const char *name = nw_arena_printf(&g->arena, "%s_%s", base_name(g, y), nw_format_name(format));
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_graph_add_value(g, name, &narrow));
    g->values[narrow].format = format;
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "", "Cast", NULL, 1, &x, 1, &narrow, &node));
    NW_TRY(nw_node_set_int(g, node, "to", format));
    g->nodes[index].dead = true;
    NW_TRY(nw_graph_add_node(g, "", "Cast", NULL, 1, &narrow, 1, &y, &node));
    NW_TRY(nw_node_set_int(g, node, "to", NW_F32));
    return nw_node_set_string(g, node, NW_CODES_FORMAT, nw_format_name(format));
}

static nw_status spell_fakequant(speller *s, int index) {
    nw_graph *g = s->g;
    bool signs;
    float scale;
    NW_TRY(nw_fakequant_sign_scale(g, &g->nodes[index], &s->arena, &scale, &signs));
    if (signs) return spell_signs(s, index, scale);
    const nw_format format = nw_format_by_name(nw_node_string(&g->nodes[index], "format", ""));
    if (!s->of[g->nodes[index].out[0]].p && (format == NW_F16 || format == NW_BF16) &&
        nw_node_in(&g->nodes[index], 1) >= 0)
        return spell_cast(s, index, format);
    if (!s->of[g->nodes[index].out[0]].p) return spell_dynamic(s, index);
    int x = g->nodes[index].in[0], y = g->nodes[index].out[0];
    spelled *sp = &s->of[y];
    const char *codes_name = nw_arena_printf(&g->arena, "%s_q", base_name(g, y));
    if (!codes_name) return NW_E_MEMORY;
    if (sp->codes < 0) {
        NW_TRY(nw_graph_add_value(g, codes_name, &sp->codes));
        g->values[sp->codes].format = sp->p->format;
        nw_node *node;
        NW_TRY(nw_spell_linear(s, "QuantizeLinear", sp->p->format, x, sp, sp->codes, &node));
    }
    g->nodes[index].dead = true;
    return NW_OK;
}

/* One end of a grid as a constant for Clip. */
static nw_status add_limit(nw_graph *g, int v, const char *suffix, float limit, int *id) {
    const nw_tensor t = {.format = NW_F32, .data = &limit};
    return nw_spell_named(g, base_name(g, v), suffix, &t, id);
}

/* Before opset 25 there are no codes of 2 bits: those of 4 bits take their place, and a Clip before them saturates. */
static nw_status widen_two_bits(nw_graph *g, nw_arena *scratch, int index) {
    nw_qparam p;
    bool dynamic;
    int in[3] = {g->nodes[index].in[0]}, out;
    NW_TRY(nw_fakequant_qparam(g, &g->nodes[index], scratch, &p, &dynamic));
    if (dynamic || nw_format_bits(p.format) != 2 || p.grain != NW_GRAIN_TENSOR) return NW_OK;
    const int y = g->nodes[index].out[0];
    const float scale = nw_qparam_scale(&p, 0);
    NW_TRY(add_limit(g, y, "_min", scale * (float)(p.qmin - nw_qparam_zero(&p, 0)), &in[1]));
    NW_TRY(add_limit(g, y, "_max", scale * (float)(p.qmax - nw_qparam_zero(&p, 0)), &in[2]));
    const char *name = nw_arena_printf(&g->arena, "%s_clip", base_name(g, y));
    if (!name) return NW_E_MEMORY;
    NW_TRY(nw_graph_add_value(g, name, &out));
    nw_node *node;
    NW_TRY(nw_graph_add_node(g, "", "Clip", NULL, 3, in, 1, &out, &node));
    node->op = nw_op_find("", "Clip");
    node = &g->nodes[index];
    node->in[0] = out;
    return nw_node_set_string(g, node, "format", p.format == NW_S2 ? "s4" : "u4");
}

static nw_status widen_all_two_bits(nw_graph *g) {
    nw_arena scratch;
    nw_status status = NW_OK;
    nw_arena_init(&scratch, g->ctx);
    for (int n = 0, count = g->node_count; n < count && status == NW_OK; n++)
        if (!g->nodes[n].dead && g->nodes[n].op == &nw_op_narrow_FakeQuant)
            status = widen_two_bits(g, &scratch, n);
    nw_arena_free(&scratch);
    return status == NW_OK ? nw_graph_sort(g) : status;
}

/* FakeQuants, and integer operators in place of ordinary ones. */
static nw_status spell_nodes(speller *s, int nodes) {
    nw_graph *g = s->g;
    /* Codes are made in order of computation, so that an integer operator finds its inputs' codes. */
    for (int n = 0; n < nodes; n++) {
        const nw_node *node = &g->nodes[n];
        if (node->dead || node->op != &nw_op_narrow_FakeQuant || !s->of[node->out[0]].p) continue;
        const nw_value *x = &g->values[node->in[0]];
        NW_TRY(add_grid(s, base_name(g, node->out[0]), s->of[node->out[0]].p, x->rank, x->dims,
                        &s->of[node->out[0]]));
    }
    for (int n = 0; n < nodes; n++) {
        if (g->nodes[n].dead) continue;
        if (g->nodes[n].op == &nw_op_narrow_FakeQuant)
            NW_TRY(spell_fakequant(s, n));
        else if (s->style == NW_STYLE_QOPERATOR)
            NW_TRY(spell_operator(s, n));
    }
    return NW_OK;
}

static nw_status spell(speller *s, int nodes) {
    nw_graph *g = s->g;
    bool native = s->style == NW_STYLE_NATIVE;
    if (!native) NW_TRY(collect(s));
    for (int v = 0; v < s->count; v++) s->of[v].codes = NW_ABSENT;
    if (!native) NW_TRY(spell_nodes(s, nodes));
    for (int v = 0; v < s->count; v++) {
        spelled *sp = &s->of[v];
        nw_constant *c = g->values[v].constant;
        nw_node *node;
        if (c && c->tensor.qparam && sp->codes < 0) {
            NW_TRY(nw_spell_constant(s, v));
        } else if (sp->p) {
            if (c) { /* an integer operator reads its codes */
                nw_bytes_free(c->owner);
                g->values[v].constant = NULL;
            }
            NW_TRY(nw_spell_linear(s, "DequantizeLinear", sp->p->format, sp->codes, sp, v, &node));
        }
    }
    return NW_OK;
}

static void drop_opset(nw_graph *g, const char *domain) {
    for (size_t i = 0; i < g->opset_count; i++)
        if (strcmp(g->opsets[i].domain, domain) == 0) {
            memmove(&g->opsets[i], &g->opsets[i + 1], (g->opset_count - i - 1) * sizeof *g->opsets);
            g->opset_count--;
            return;
        }
}

/* The i-th subgraph among the attributes of a node, or NULL. */
static nw_graph *subgraph(const nw_node *node, size_t i) {
    for (int a = 0; a < node->attr_count; a++) {
        const nw_attr *attr = &node->attrs[a];
        size_t count = attr->kind == NW_ATTR_GRAPH ? 1 : attr->kind == NW_ATTR_GRAPHS ? attr->count : 0;
        if (i < count) return attr->kind == NW_ATTR_GRAPH ? attr->graph : attr->graphs[i];
        i -= count;
    }
    return NULL;
}

/* The opset from which on ONNX has all types and grains that the graph's codes need, and runtimes all that they make of
 * quantized activations; 0: any. */
static int64_t needed_opset(const nw_graph *g) {
    int64_t need = 0;
    for (int v = 0; v < g->value_count; v++) {
        const nw_constant *c = g->values[v].constant;
        int64_t constant = c && c->tensor.qparam ? nw_spell_constant_opset(c->tensor.qparam) : 0;
        if (constant > need) need = constant;
    }
    for (int n = 0; n < g->node_count; n++) {
        const nw_node *node = &g->nodes[n];
        const nw_graph *sub;
        int64_t codes = 0;
        for (size_t i = 0; (sub = subgraph(node, i)); i++) {
            int64_t inner = needed_opset(sub);
            if (inner > need) need = inner;
        }
        if (!node->dead && node->op == &nw_op_narrow_FakeQuant) {
            nw_qparam p = {.format = nw_format_by_name(nw_node_string(node, "format", ""))};
            if (nw_node_int(node, "block", 0) > 0) p.grain = NW_GRAIN_BLOCK;
            if (nw_format_kind(p.format) != NW_KIND_INDEX) codes = nw_spell_constant_opset(&p);
            if (codes < 13 && nw_graph_opset(g, "") >= 7) codes = 13; /* older models cannot be raised */
        }
        if (codes > need) need = codes;
    }
    return need;
}

static bool uses_domain(const nw_graph *g, const char *domain) {
    for (int n = 0; n < g->node_count; n++) {
        const nw_graph *sub;
        if (strcmp(g->nodes[n].domain, domain) == 0) return true;
        for (size_t i = 0; (sub = subgraph(&g->nodes[n], i)); i++)
            if (uses_domain(sub, domain)) return true;
    }
    return false;
}

/* Whether a FakeQuant that finds a scale per row is read by products alone, as their data. */
static bool rounds_products(const nw_graph *g, const nw_uses *uses, const nw_node *node) {
    const int y = node->out[0];
    bool all = !uses->outputs[y] && nw_node_in(node, 1) < 0 && nw_node_int(node, "per_row", 0);
    for (int u = uses->first[y]; u < uses->first[y + 1] && all; u++) {
        const nw_node *reader = &g->nodes[uses->users[u]];
        all = (nw_node_is(reader, "MatMul") || nw_node_is(reader, "Gemm")) && reader->in[0] == y &&
              nw_node_in(reader, 1) != y && nw_node_in(reader, 2) != y;
    }
    return all;
}

/* Scales per row found at run time: the products say themselves that they round their data. */
static nw_status note_rounded_products(nw_graph *g) {
    nw_uses uses;
    NW_TRY(nw_uses_init(&uses, g));
    nw_status status = NW_OK;
    for (int n = 0; n < g->node_count && status == NW_OK; n++) {
        nw_node *node = &g->nodes[n];
        if (node->dead || node->op != &nw_op_narrow_FakeQuant || !rounds_products(g, &uses, node)) continue;
        const char *format = nw_node_string(node, "format", "");
        node->dead = true;
        for (int u = uses.first[node->out[0]]; u < uses.first[node->out[0] + 1] && status == NW_OK; u++) {
            nw_node *product = &g->nodes[uses.users[u]];
            product->in[0] = node->in[0];
            status = nw_node_set_string(g, product, NW_PRODUCT_FORMAT, format);
        }
    }
    nw_uses_free(&uses);
    return status;
}

/* A graph and its subgraphs. */
static nw_status spell_graph(nw_graph *g, nw_quant_style style) {
    nw_graph *sub;
    for (int n = 0; n < g->node_count; n++)
        for (size_t i = 0; (sub = subgraph(&g->nodes[n], i)); i++) NW_TRY(spell_graph(sub, style));
    if (style != NW_STYLE_NATIVE) NW_TRY(note_rounded_products(g));
    if (style != NW_STYLE_NATIVE && nw_graph_opset(g, "") < 25) NW_TRY(widen_all_two_bits(g));
    speller s = {.g = g, .style = style, .opset = nw_graph_opset(g, ""), .count = g->value_count};
    nw_arena_init(&s.arena, g->ctx);
    s.of = nw_arena_array(&s.arena, (size_t)s.count + 1, sizeof *s.of);
    nw_status status = s.of ? nw_uses_init(&s.uses, g) : NW_E_MEMORY;
    if (status == NW_OK) status = spell(&s, g->node_count);
    nw_uses_free(&s.uses);
    nw_arena_free(&s.arena);
    return status == NW_OK ? nw_graph_prune(g) : status;
}

nw_status nw_onnx_spell_quantization(nw_graph *g, nw_quant_style style, int64_t opset) {
    int64_t have = nw_graph_opset(g, "");
    if (style == NW_STYLE_MATMULNBITS) {
        NW_TRY(nw_spell_nbits(g));
        NW_TRY(nw_graph_prune(g));
    }
    if (opset == 0 && style != NW_STYLE_NATIVE) {
        opset = needed_opset(g);
        if (opset < have) opset = have;
    }
    if (opset) NW_TRY(nw_onnx_raise(g, opset));
    NW_TRY(spell_graph(g, style));
    drop_opset(g, NARROW);
    if (uses_domain(g, MS)) NW_TRY(nw_graph_set_opset(g, MS, 1));
    if (uses_domain(g, NARROW)) NW_TRY(nw_graph_set_opset(g, NARROW, 1));
    return nw_graph_resolve(g);
}
