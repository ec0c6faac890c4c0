/* freeze.c: carrying a plan out: weights and biases packed, FakeQuants put in. */
#include "quant/freeze.h"

#include "num/levels.h"
#include "op/quantize.h"
#include "quant/weights.h"

#include <math.h>
#include <string.h>

/* A constant to be packed in one way; layers that read it alike share it. */
typedef struct pack {
    int value; /* the constant */
    int id;    /* what packed layers read: the same value, or a new one where others read it otherwise */
    nw_weight_spec spec;
    int readers; /* inputs that read it so */
    size_t groups;
    float *least;    /* [groups] smallest scales that biases allow; NULL: any */
    nw_bytes *bytes; /* of the packed codes, scales and zero points */
    nw_tensor packed;
    int record; /* index into the report's weights */
} pack;

typedef struct freezing {
    nw_context *ctx;
    nw_graph *g;
    const nw_quant_plan *plan;
    nw_quant_report *report;
    nw_arena scratch;
    pack *packs;
    size_t pack_count, pack_capacity;
    int **pack_of; /* [nodes] → [inputs] index into packs, or −1 */
    float **shift; /* [nodes] → [channels] what bias correction adds, or NULL */
} freezing;

/* ---- what to pack ----------------------------------------------------------------------------- */

/* Fewer elements of an input axis are not worth a scale of their own: depthwise convolutions, images' colours. */
#define BLOCK_LEAST 16

/* The axis over which a layer sums. axis: its output channels', as its roles have it. */
static int input_axis(const nw_roles *roles, const nw_tensor *w, int axis) {
    if (axis < 0) return axis == -1 ? w->rank - 2 : w->rank - 1; /* matrices behind batch axes */
    if (w->rank == 2 || roles->compute) return 1 - axis;         /* [M, C, …], or transposed [C, M, …] */
    return axis + 1;                                             /* recurrent: [directions, gates, inputs] */
}

/* One scale per output channel, per block of the input axis, or one. */
static void choose_grain(const nw_quant_choice *c, const nw_roles *roles, const nw_tensor *w, int axis,
                         nw_weight_spec *spec) {
    const int in = input_axis(roles, w, axis);
    if (axis < 0) axis += w->rank;
    spec->grain = NW_GRAIN_TENSOR;
    if (w->rank < 2 || axis < 0 || axis >= w->rank) return;
    if (c->weights.block > 0 && in >= 0 && in < w->rank &&
        (w->rank == 2 || w->dims[in] >= c->weights.block || w->dims[in] >= BLOCK_LEAST)) {
        spec->grain = NW_GRAIN_BLOCK;
        spec->axis = in;
        spec->block = c->weights.block;
    } else if (!c->per_tensor) {
        spec->grain = NW_GRAIN_AXIS;
        spec->axis = axis;
    }
}

/* A table's rows have a scale each; short rows share one per column instead. */
static int table_axis(const nw_node *node, const nw_tensor *table) {
    int64_t axis = nw_node_int(node, "axis", 0);
    if (axis < 0) axis += table->rank;
    if (axis < 0 || axis >= table->rank || table->dims[axis] == 0) return 0;
    return nw_tensor_count(table) / (size_t)table->dims[axis] >= 32 ? (int)axis : table->rank - 1;
}

/* What input i of node n becomes; false: it stays. */
static bool spec_of(const freezing *f, int n, int i, nw_weight_spec *spec) {
    const nw_node *node = &f->g->nodes[n];
    const nw_quant_choice *c = &f->plan->choice[n];
    if (node->in[i] < 0 || !nw_quant_is_weight(f->g, node->in[i])) return false;
    nw_roles roles = nw_node_roles(node);
    nw_role role = nw_roles_of(&roles, i);
    const nw_tensor *w = &f->g->values[node->in[i]].constant->tensor;
    *spec = (nw_weight_spec){.range = c->mse_weights ? NW_WEIGHT_MSE : NW_WEIGHT_MINMAX,
                             .balanced = c->balanced_rounding && role == NW_ROLE_WEIGHT};
    if (role == NW_ROLE_WEIGHT) {
        int axis = roles.same_grid ? table_axis(node, w)
                                   : roles.channel_axis[i < NW_MAX_ROLES ? i : NW_MAX_ROLES - 1];
        choose_grain(c, &roles, w, axis, spec);
        spec->scale_format = c->weights.scale_format;
        spec->coding = c->weights.coding;
        return true;
    }
    if (role != NW_ROLE_DATA || !nw_quant_is_static(f->plan, n) || nw_quant_is_binary(c)) return false;
    spec->range = NW_WEIGHT_MINMAX;
    /* a constant operand of Add or Mul */
    spec->coding = nw_quant_is_float(c)
                       ? (nw_coding){.kind = NW_FLOAT, .format = c->activation}
                       : nw_coding_linear(c->activation, c->activation_symmetric, false, false);
    return true;
}

static nw_status request(freezing *f, int value, const nw_weight_spec *spec, int *index) {
    for (size_t i = 0; i < f->pack_count; i++) {
        pack *k = &f->packs[i];
        if (k->value != value || !nw_weight_spec_equal(&k->spec, spec)) continue;
        k->readers++;
        *index = (int)i;
        return NW_OK;
    }
    void **packs = (void **)&f->packs;
    NW_TRY(nw_arena_grow(&f->scratch, packs, &f->pack_capacity, f->pack_count, sizeof *f->packs));
    pack *k = &f->packs[f->pack_count];
    const nw_tensor *w = &f->g->values[value].constant->tensor;
    *k = (pack){.value = value, .id = value, .spec = *spec, .readers = 1};
    k->groups = nw_qparam_group_count(spec->grain, spec->axis, spec->block, w->rank, w->dims);
    *index = (int)f->pack_count++;
    return NW_OK;
}

/* Old models list their constants as inputs too; a packed one is an input no more. */
static void drop_input(nw_graph *g, int id) {
    int kept = 0;
    for (int i = 0; i < g->input_count; i++)
        if (g->inputs[i] != id) g->inputs[kept++] = g->inputs[i];
    g->input_count = kept;
}

/* ---- biases ----------------------------------------------------------------------------------- */

typedef struct bias_place {
    int input, axis; /* axis: of the bias, the channels */
    float data_scale;
    const nw_quant_point *data;
    pack *weight;
} bias_place;

/* Where a layer's bias, data and weight are; false: it has no bias to store as integers. */
static bool bias_of(const freezing *f, int n, bias_place *b) {
    const nw_node *node = &f->g->nodes[n];
    const nw_quant_choice *c = &f->plan->choice[n];
    if (!nw_quant_is_static(f->plan, n) || c->float_bias || nw_quant_is_binary(c)) return false;
    int at = nw_quant_input_of(node, NW_ROLE_BIAS), data = nw_quant_input_of(node, NW_ROLE_DATA);
    int weight = nw_quant_input_of(node, NW_ROLE_WEIGHT);
    if (at < 0 || data < 0 || weight < 0 || f->pack_of[n][weight] < 0) return false;
    if (!nw_quant_is_weight(f->g, node->in[at])) return false;
    if (nw_node_float(node, "alpha", 1) != 1 || nw_node_float(node, "beta", 1) != 1) return false;
    const nw_quant_point *x = nw_quant_point_of(f->plan, node->in[data]);
    const nw_tensor *t = &f->g->values[node->in[at]].constant->tensor;
    *b = (bias_place){at, t->rank - 1, 0, x, &f->packs[f->pack_of[n][weight]]};
    if (!x || b->weight->spec.grain == NW_GRAIN_BLOCK || b->weight->spec.coding.kind == NW_FLOAT)
        return false;
    if (x->choice->mode != NW_QUANT_STATIC || nw_quant_is_float(x->choice)) return false;
    b->data_scale = nw_quant_root(f->plan, x)->scale;
    size_t channels = t->rank ? (size_t)t->dims[t->rank - 1] : 1;
    return b->weight->groups == 1 || (b->weight->groups == channels && nw_tensor_count(t) == channels);
}

/* Biases that other layers read too get a copy of their own: the scale is this layer's. */
static nw_status pack_bias(freezing *f, int n) {
    bias_place b;
    if (!bias_of(f, n, &b)) return NW_OK;
    int id = f->g->nodes[n].in[b.input];
    nw_tensor packed;
    NW_TRY(nw_bias_pack(&f->scratch, f->g->values[id].name, &f->g->values[id].constant->tensor, f->shift[n],
                        b.data_scale, b.weight->packed.qparam, b.axis, &packed));
    if (nw_uses_count(&f->plan->uses, id) == 1) {
        drop_input(f->g, id);
        return nw_graph_set_constant_copy(f->g, id, &packed);
    }
    int fresh;
    NW_TRY(nw_graph_add_constant_copy(f->g, f->g->values[id].name, &packed, &fresh));
    f->g->nodes[n].in[b.input] = fresh;
    return NW_OK;
}

/* ---- weights ---------------------------------------------------------------------------------- */

static nw_status collect(freezing *f) {
    f->pack_of = nw_arena_array(&f->scratch, (size_t)f->g->node_count, sizeof *f->pack_of);
    if (!f->pack_of) return NW_E_MEMORY;
    for (int n = 0; n < f->plan->node_count; n++) {
        const nw_node *node = &f->g->nodes[n];
        nw_node_mode mode = f->plan->mode[n];
        if (!(f->pack_of[n] = nw_arena_array(&f->scratch, (size_t)node->in_count, sizeof(int))))
            return NW_E_MEMORY;
        for (int i = 0; i < node->in_count; i++) {
            nw_weight_spec spec;
            f->pack_of[n][i] = -1;
            if (mode != NW_NODE_WEIGHTS && mode != NW_NODE_INTEGER) continue;
            if (spec_of(f, n, i, &spec)) NW_TRY(request(f, node->in[i], &spec, &f->pack_of[n][i]));
        }
    }
    for (int n = 0; n < f->plan->node_count; n++) {
        bias_place b;
        if (!bias_of(f, n, &b)) continue;
        const nw_tensor *t = &f->g->values[f->g->nodes[n].in[b.input]].constant->tensor;
        pack *k = b.weight;
        if (!k->least && !(k->least = nw_arena_array(&f->scratch, k->groups, sizeof *k->least)))
            return NW_E_MEMORY;
        NW_TRY(nw_bias_least(&f->scratch, t, b.data_scale, b.weight->groups, b.weight->least));
    }
    return NW_OK;
}

static nw_status add_record(nw_quant_report *r, size_t *capacity, nw_quant_weight **record) {
    NW_TRY(nw_arena_grow(&r->arena, (void **)&r->weights, capacity, r->weight_count, sizeof *r->weights));
    *record = &r->weights[r->weight_count++];
    return NW_OK;
}

/* Weights of models larger than this wait on disk between packing and export: memory is needed for one layer at a time. */
#define LARGE_MODEL ((uint64_t)1 << 30)

static bool is_large(const freezing *f) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < f->pack_count; i++)
        bytes += nw_tensor_bytes(&f->g->values[f->packs[i].value].constant->tensor);
    return bytes > LARGE_MODEL;
}

/* k->packed ← t, with codes, scales and zero points in bytes of its own. */
static nw_status keep(freezing *f, pack *k, const nw_tensor *t, bool on_disk) {
    const nw_qparam *p = t->qparam;
    nw_qparam *kept = nw_arena_alloc(&f->g->arena, sizeof *kept);
    size_t codes = nw_tensor_bytes(t), scales = 0, zeros = p->zeros ? p->groups * sizeof *p->zeros : 0;
    if (!kept) return NW_E_MEMORY;
    nw_format_bytes(nw_qparam_scale_format(p), p->groups, &scales);
    size_t scales_at = nw_align_size(codes), zeros_at = scales_at + nw_align_size(scales);
    size_t total = zeros_at + zeros;
    NW_TRY(on_disk ? nw_bytes_new_on_disk(f->ctx, total, &k->bytes) : nw_bytes_new(f->ctx, total, &k->bytes));
    uint8_t *to = (uint8_t *)(uintptr_t)k->bytes->data;
    if (codes) memcpy(to, t->data, codes);
    if (scales) memcpy(to + scales_at, p->scales, scales);
    if (zeros) memcpy(to + zeros_at, p->zeros, zeros);
    *kept = *p;
    kept->scales = to + scales_at;
    kept->zeros = zeros ? (const int32_t *)(to + zeros_at) : NULL;
    if (p->levels.count) NW_TRY(nw_levels_copy(&f->g->arena, &p->levels, &kept->levels));
    k->packed = *t;
    k->packed.data = to;
    k->packed.qparam = kept;
    nw_bytes_forget(k->bytes, to, total);
    return NW_OK;
}

static nw_status pack_weight(freezing *f, pack *k, bool on_disk, nw_quant_weight *record) {
    const char *name = f->g->values[k->value].name;
    const nw_constant *w = f->g->values[k->value].constant;
    nw_tensor packed;
    nw_arena scratch; /* each weight's memory goes before the next one's comes */
    nw_arena_init(&scratch, f->ctx);
    nw_status status = nw_weight_pack(&scratch, name, &w->tensor, &k->spec, k->least, &packed, record);
    if (status == NW_OK) status = keep(f, k, &packed, on_disk);
    nw_arena_free(&scratch);
    nw_bytes_forget(w->owner, w->tensor.data, nw_tensor_bytes(&w->tensor));
    NW_TRY(status);
    record->value = nw_arena_strdup(&f->report->arena, name);
    return record->value ? NW_OK : NW_E_MEMORY;
}

static nw_status pack_weights(freezing *f) {
    size_t capacity =
        f->report->weight_count; /* of the report's array: grown here only, one graph after the other */
    const bool on_disk = is_large(f);
    for (size_t i = 0; i < f->pack_count; i++) {
        nw_quant_weight *record;
        f->packs[i].record = (int)f->report->weight_count;
        NW_TRY(add_record(f->report, &capacity, &record));
        NW_TRY(pack_weight(f, &f->packs[i], on_disk, record));
    }
    return NW_OK;
}

/* Layers read what was packed, and the float originals go. */
static nw_status store_weights(freezing *f) {
    for (size_t i = 0; i < f->pack_count; i++) {
        pack *k = &f->packs[i];
        nw_bytes *bytes = nw_bytes_ref(k->bytes);
        if (nw_uses_count(&f->plan->uses, k->value) == k->readers) {
            drop_input(f->g, k->value);
            NW_TRY(nw_graph_set_constant(f->g, k->value, &k->packed, bytes));
        } else {
            NW_TRY(nw_graph_add_constant(f->g, f->g->values[k->value].name, &k->packed, bytes, &k->id));
        }
    }
    for (int n = 0; n < f->plan->node_count; n++)
        for (int i = 0; i < f->g->nodes[n].in_count; i++)
            if (f->pack_of[n][i] >= 0) f->g->nodes[n].in[i] = f->packs[f->pack_of[n][i]].id;
    return NW_OK;
}

/* ---- bias correction -------------------------------------------------------------------------- */

#define PART ((size_t)1 << 18) /* elements of a weight made real at a time */

/* Σ (a − b)·mean over channels of `taps` elements. Four sums: an addition need not wait for the one before. */
static double row_loss(const float *a, const float *b, const double *mean, size_t channels, size_t taps) {
    double sum[4] = {0};
    size_t c = 0;
    for (; taps == 1 && c + 4 <= channels; c += 4)
        for (size_t l = 0; l < 4; l++) sum[l] += ((double)a[c + l] - (double)b[c + l]) * mean[c + l];
    for (; c < channels; c++) {
        double loss = 0;
        for (size_t t = c * taps; t < (c + 1) * taps; t++) loss += (double)a[t] - (double)b[t];
        sum[c % 4] += loss * mean[c];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* What channel m of a layer loses on average: Σ (W − W')[m, …]·E[x] over the channels it reads (Nagel et al.
 * 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"); padding counts as data. x
 * has `channels` channels; W is [M, channels/group, …] or, for products, [channels, M], or [M, channels] when
 * transposed. */
static nw_status mean_loss(freezing *f, const nw_node *node, const nw_quant_point *x, const pack *k,
                           nw_arena *scratch, float *shift) {
    const nw_tensor *w = &f->g->values[k->value].constant->tensor;
    bool product = x->channel_axis < 0, transposed = product && !nw_node_int(node, "transB", 0);
    int64_t group = product ? 1 : nw_node_int(node, "group", 1);
    if (w->rank < 2 || group < 1) return NW_OK;
    size_t m_count = (size_t)w->dims[transposed], per_group = (size_t)w->dims[!transposed],
           taps = nw_dims_product(w->dims, 2, w->rank), rows = (size_t)w->dims[0];
    if (per_group * (size_t)group != x->channels || m_count % (size_t)group) return NW_OK;
    double *sums = nw_calloc(f->ctx, m_count + 1, sizeof *sums);
    if (!sums) return NW_E_MEMORY;
    nw_status status = NW_OK;
    size_t row = transposed ? m_count : per_group * taps, step = PART / (row * 8 + 1) * 8 + 8;
    for (size_t r = 0; r < rows && status == NW_OK; r += step) { /* real numbers of a part at a time */
        size_t count = rows - r < step ? rows - r : step;
        nw_qparam qa, qb;
        nw_tensor whole = nw_tensor_rows(w, r, count, &qa), part = nw_tensor_rows(&k->packed, r, count, &qb);
        nw_arena_reset(scratch);
        status = nw_tensor_to_f32(scratch, &whole, &whole);
        if (status == NW_OK) status = nw_tensor_to_f32(scratch, &part, &part);
        const float *a = whole.data, *b = part.data;
        for (size_t i = r; i < r + count && status == NW_OK; i++, a += row, b += row) {
            if (transposed)
                for (size_t m = 0; m < m_count; m++) sums[m] += ((double)a[m] - (double)b[m]) * x->means[i];
            else
                sums[i] =
                    row_loss(a, b, x->means + i / (m_count / (size_t)group) * per_group, per_group, taps);
        }
    }
    for (size_t m = 0; m < m_count && status == NW_OK; m++) shift[m] = isfinite(sums[m]) ? (float)sums[m] : 0;
    nw_free(f->ctx, sums);
    return status;
}

static nw_status correct_biases(freezing *f) {
    if (!(f->shift = nw_arena_array(&f->scratch, (size_t)f->g->node_count, sizeof *f->shift)))
        return NW_E_MEMORY;
    for (int n = 0; n < f->plan->node_count; n++) {
        bias_place b;
        if (!bias_of(f, n, &b) || !b.data->means || b.weight->spec.grain == NW_GRAIN_BLOCK) continue;
        const nw_node *node = &f->g->nodes[n];
        size_t count = nw_tensor_count(&f->g->values[node->in[b.input]].constant->tensor);
        const nw_tensor *w = &f->g->values[b.weight->value].constant->tensor;
        bool transposed = b.data->channel_axis < 0 && !nw_node_int(node, "transB", 0);
        if (w->rank < 2 || (size_t)w->dims[transposed] != count) continue;
        if (!(f->shift[n] = nw_arena_array(&f->scratch, count, sizeof(float)))) return NW_E_MEMORY;
        nw_arena scratch; /* each layer's weights go before the next layer's come */
        nw_arena_init(&scratch, f->ctx);
        nw_status status = mean_loss(f, node, b.data, b.weight, &scratch, f->shift[n]);
        nw_arena_free(&scratch);
        NW_TRY(status);
    }
    return NW_OK;
}

/* ---- FakeQuants ------------------------------------------------------------------------------- */

static nw_status add_scalar(nw_graph *g, const char *value, const char *what, nw_format format, void *data,
                            int *id) {
    const char *name = nw_arena_printf(&g->arena, "%s%s", value, what);
    if (!name) return NW_E_MEMORY;
    nw_tensor t = {.format = format, .data = data};
    return nw_graph_add_constant_copy(g, name, &t, id);
}

/* Whether node n reads a point's value restricted. */
static bool reads_restricted(const freezing *f, int n, const nw_quant_point *x) {
    if (x->everywhere || f->plan->mode[n] == NW_NODE_INTEGER) return true;
    if (f->plan->mode[n] != NW_NODE_SAME) return false;
    const nw_node *node = &f->g->nodes[n];
    for (int i = 0; i < node->out_count; i++) {
        const nw_quant_point *y = nw_quant_point_of(f->plan, node->out[i]);
        if (y && nw_quant_root(f->plan, y) == nw_quant_root(f->plan, x)) return true;
    }
    return false;
}

/* In dynamic quantization only the data input of a layer is restricted, not what other roles read. */
static void rewire(freezing *f, const nw_quant_point *x, int from, int to) {
    for (int n = 0; n < f->plan->node_count; n++) {
        nw_node *node = &f->g->nodes[n];
        if (!reads_restricted(f, n, x)) continue;
        for (int i = 0; i < node->in_count; i++)
            if (node->in[i] == from) node->in[i] = to;
    }
}

/* x → FakeQuant → its readers. A graph output on a grid keeps its name: the FakeQuant makes it from a new
 * value. */
static nw_status add_fakequant(freezing *f, const nw_quant_point *x, int scale, int zero) {
    nw_graph *g = f->g;
    const char *name = g->values[x->value].name;
    int maker = f->plan->uses.producer[x->value];
    bool output = f->plan->options.quantize_outputs && nw_graph_is_output(g, x->value) && maker >= 0;
    const char *fresh_name = nw_arena_printf(&g->arena, "%s_%s", name, output ? "real" : "dq");
    if (!fresh_name) return NW_E_MEMORY;
    int fresh;
    NW_TRY(nw_graph_add_value(g, fresh_name, &fresh));
    nw_value *from = &g->values[x->value], *to = &g->values[fresh];
    to->format = from->format;
    to->rank = from->rank;
    memcpy(to->dims, from->dims, sizeof to->dims);
    int in[3] = {x->value, scale, zero}, out = fresh;
    if (output) {
        nw_node *node = &g->nodes[maker];
        for (int i = 0; i < node->out_count; i++)
            if (node->out[i] == x->value) node->out[i] = fresh;
        in[0] = fresh;
        out = x->value;
    } else {
        rewire(f, x, x->value, fresh);
    }
    nw_node *node;
    const nw_quant_point *root = nw_quant_root(f->plan, x);
    nw_format format = scale >= 0 ? root->format : root->choice->activation;
    NW_TRY(nw_graph_add_node(g, "ai.narrow", "FakeQuant", "",
                             zero >= 0    ? 3
                             : scale >= 0 ? 2
                                          : 1,
                             in, 1, &out, &node));
    node->op = nw_op_find("ai.narrow", "FakeQuant");
    NW_TRY(nw_node_set_string(g, node, "format", nw_format_name(format)));
    const bool per_row = root->per_row || (root->choice->dynamic_rows && !root->one_scale);
    if (scale < 0) return per_row ? nw_node_set_int(g, node, "per_row", 1) : NW_OK;
    if (format == NW_BINARY_FORMAT) return nw_node_set_floats(g, node, "levels", (float[]){-1, 1}, 2);
    if (nw_format_is_float(format)) return NW_OK;
    if (root->qmin != nw_format_min(format)) NW_TRY(nw_node_set_int(g, node, "qmin", root->qmin));
    if (root->qmax != nw_format_max(format)) NW_TRY(nw_node_set_int(g, node, "qmax", root->qmax));
    return NW_OK;
}

static nw_status add_fakequants(freezing *f) {
    const nw_quant_plan *plan = f->plan;
    if (plan->point_count == 0) return NW_OK;
    if (!nw_graph_opset(f->g, "ai.narrow")) NW_TRY(nw_graph_set_opset(f->g, "ai.narrow", 1));
    int(*ids)[2] = nw_arena_array(&f->scratch, (size_t)plan->point_count, sizeof *ids);
    if (!ids) return NW_E_MEMORY;
    for (int i = 0; i < plan->point_count; i++) {
        nw_quant_point *root = &plan->points[i];
        ids[i][0] = ids[i][1] = NW_ABSENT;
        if (root->choice->mode != NW_QUANT_STATIC || root->root != root->value) continue;
        const char *name = f->g->values[root->value].name;
        NW_TRY(add_scalar(f->g, name, "_scale", NW_F32, &root->scale, &ids[i][0]));
        if (nw_quant_is_binary(root->choice)) continue;
        if (nw_format_is_integer(root->format) && (root->zero || !root->choice->activation_symmetric))
            NW_TRY(add_scalar(f->g, name, "_zero_point", NW_S32, &root->zero, &ids[i][1]));
    }
    for (int i = 0; i < plan->point_count; i++) {
        const int *id = ids[nw_quant_root(plan, &plan->points[i]) - plan->points];
        NW_TRY(add_fakequant(f, &plan->points[i], id[0], id[1]));
    }
    return NW_OK;
}

/* Recurrent layers with 8-bit weights get a state of 8 bits where activations have as many. Its range is measured while
 * running in static quantization too: nothing outside the layer sees it. */
static nw_status restrict_states(freezing *f) {
    for (int n = 0; n < f->plan->node_count; n++) {
        nw_node *node = &f->g->nodes[n];
        nw_node_mode mode = f->plan->mode[n];
        const nw_quant_choice *c = &f->plan->choice[n];
        if (c->mode == NW_QUANT_WEIGHTS || nw_format_bits(c->activation) != 8) continue;
        if (!nw_quant_has_state(node) || (mode != NW_NODE_INTEGER && mode != NW_NODE_WEIGHTS)) continue;
        const nw_constant *r = nw_graph_constant(f->g, nw_node_in(node, 2));
        if (r && r->tensor.qparam && nw_format_bits(r->tensor.qparam->format) == 8)
            NW_TRY(nw_node_set_string(f->g, node, NW_STATE_FORMAT, "u8"));
    }
    return NW_OK;
}

/* ---- layers of the report --------------------------------------------------------------------- */

static bool is_layer(const nw_quant_plan *plan, int n) {
    return plan->reason[n] || plan->mode[n] == NW_NODE_INTEGER || plan->mode[n] == NW_NODE_WEIGHTS;
}

static int activation_of(const nw_quant_plan *plan, int value) {
    const nw_quant_point *point = nw_quant_point_of(plan, value);
    return point ? (int)(point - plan->points) : -1;
}

/* The point behind a layer: of its output, or of the clamp that belongs to it. */
static int output_point(const freezing *f, const nw_node *node) {
    int v = nw_node_out(node, 0), at = activation_of(f->plan, v);
    if (at >= 0 || v < 0 || nw_uses_count(&f->plan->uses, v) != 1) return at;
    int reader = f->plan->uses.outputs[v] ? NW_ABSENT : f->plan->uses.users[f->plan->uses.first[v]];
    if (reader < 0 || f->plan->mode[reader] != NW_NODE_FLOAT || nw_node_roles(&f->g->nodes[reader]).compute)
        return -1;
    at = activation_of(f->plan, nw_node_out(&f->g->nodes[reader], 0));
    return at >= 0 && f->plan->points[at].everywhere ? at : -1;
}

static nw_status describe_layer(freezing *f, int n, nw_quant_layer *layer) {
    const nw_node *node = &f->g->nodes[n];
    nw_arena *arena = &f->report->arena;
    int data = nw_quant_input_of(node, NW_ROLE_DATA), bias = nw_quant_input_of(node, NW_ROLE_BIAS);
    *layer = (nw_quant_layer){
        .quantized = f->plan->mode[n] == NW_NODE_INTEGER, .input = -1, .output = -1, .weight = -1};
    layer->name = nw_arena_strdup(arena, nw_node_label(f->g, node));
    layer->op = nw_arena_strdup(arena, node->op_type);
    layer->reason = nw_arena_strdup(arena, f->plan->reason[n] ? f->plan->reason[n] : "");
    if (!layer->name || !layer->op || !layer->reason) return NW_E_MEMORY;
    for (int i = node->in_count - 1; i >= 0; i--)
        if (f->pack_of[n][i] >= 0) layer->weight = f->packs[f->pack_of[n][i]].record;
    if (!layer->quantized) return NW_OK;
    layer->input = data >= 0 ? activation_of(f->plan, node->in[data]) : -1;
    layer->output = output_point(f, node);
    const nw_constant *stored = bias >= 0 ? nw_graph_constant(f->g, node->in[bias]) : NULL;
    layer->bias = stored && stored->tensor.qparam;
    return NW_OK;
}

static nw_status describe_layers(freezing *f) {
    nw_quant_report *r = f->report;
    size_t capacity = r->layer_count;
    for (int n = 0; n < f->plan->node_count; n++) {
        if (!is_layer(f->plan, n)) continue;
        NW_TRY(nw_arena_grow(&r->arena, (void **)&r->layers, &capacity, r->layer_count, sizeof *r->layers));
        NW_TRY(describe_layer(f, n, &r->layers[r->layer_count]));
        r->layer_count++;
    }
    return NW_OK;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static nw_status freeze_subgraph(nw_graph *sub, const nw_quant_plan *outer, nw_quant_report *report) {
    nw_quant_options options = outer->options;
    options.weights_at_most = true; /* taps reach the main graph only */
    nw_quant_plan *plan;
    NW_TRY(nw_quant_place(report->arena.ctx, sub, &options, NULL, &plan));
    nw_status status = nw_quant_freeze(sub, plan, report);
    nw_quant_plan_free(plan);
    return status;
}

static nw_status freeze_subgraphs(freezing *f) {
    for (int n = 0; n < f->plan->node_count; n++)
        for (int a = 0; a < f->g->nodes[n].attr_count; a++) {
            nw_attr *attr = &f->g->nodes[n].attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) NW_TRY(freeze_subgraph(attr->graph, f->plan, f->report));
            for (size_t i = 0; attr->kind == NW_ATTR_GRAPHS && i < attr->count; i++)
                NW_TRY(freeze_subgraph(attr->graphs[i], f->plan, f->report));
        }
    return NW_OK;
}

static nw_status freeze(freezing *f) {
    NW_TRY(collect(f));
    NW_TRY(pack_weights(f));
    NW_TRY(correct_biases(f));
    NW_TRY(store_weights(f));
    for (int n = 0; n < f->plan->node_count; n++) NW_TRY(pack_bias(f, n));
    NW_TRY(describe_layers(f)); /* before FakeQuants come between layers */
    NW_TRY(add_fakequants(f));
    NW_TRY(restrict_states(f));
    NW_TRY(freeze_subgraphs(f));
    return nw_graph_prune(f->g);
}

nw_status nw_quant_freeze(nw_graph *graph, const nw_quant_plan *plan, nw_quant_report *report) {
    freezing f = {.ctx = report->arena.ctx, .g = graph, .plan = plan, .report = report};
    nw_arena_init(&f.scratch, f.ctx);
    nw_status status = freeze(&f);
    for (size_t i = 0; i < f.pack_count; i++) nw_bytes_free(f.packs[i].bytes);
    nw_arena_free(&f.scratch);
    return status;
}
