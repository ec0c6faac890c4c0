/* parameters.c: the numbers a model holds: statistics of every parameter, and exactly what its codes mean. One tensor at a
 * time, piece by piece: memory does not grow with the model. */
#include "api/api.h"
#include "op/op.h"
#include "op/quantize.h"

#include <math.h>
#include <string.h>

/* ---- percentiles ------------------------------------------------------------------------------------- */

/* Exact ones, of any number of values: the first pass counts the upper 16 bits of every value, which tells the bits where
 * the wanted one lies; the second counts the lower 16 bits of the values that have these. */
enum { PERCENTILES = 3, COUNTS = 65536 };
static const double percents[PERCENTILES] = {1, 50, 99};

typedef struct selection {
    uint64_t upper[COUNTS], lower[PERCENTILES][COUNTS];
    uint32_t bucket[PERCENTILES]; /* upper bits of each percentile */
    uint64_t before[PERCENTILES]; /* values below that bucket */
} selection;

/* Unsigned integers in the order of floats. */
static uint32_t key_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static float number_of(uint32_t key) {
    uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The bin that holds the value of `rank` (from 1), and how many values lie before it. */
static uint32_t bin_of(const uint64_t *counts, uint64_t rank, uint64_t *before) {
    uint64_t seen = 0;
    uint32_t bin = 0;
    for (; bin < COUNTS - 1 && seen + counts[bin] < rank; bin++) seen += counts[bin];
    *before = seen;
    return bin;
}

/* Nearest rank: the smallest value that `percent` per cent do not exceed. */
static uint64_t rank_of(double percent, uint64_t count) {
    uint64_t rank = (uint64_t)ceil(percent / 100 * (double)count);
    return rank < 1 ? 1 : rank > count ? count : rank;
}

static void count_lower(const nw_group_run *piece, const float *x, void *user) {
    selection *s = user;
    for (size_t i = 0; i < piece->count; i++) {
        uint32_t key = key_of(x[i]);
        for (int p = 0; p < PERCENTILES; p++)
            if (key >> 16 == s->bucket[p] && isfinite(x[i])) s->lower[p][key & 0xffff]++;
    }
}

/* values[PERCENTILES] of the `count` finite numbers of t, whose upper bits have been counted. */
static void select_percentiles(selection *s, const nw_tensor *t, uint64_t count, double *values) {
    for (int p = 0; p < PERCENTILES; p++)
        s->bucket[p] = bin_of(s->upper, rank_of(percents[p], count), &s->before[p]);
    memset(s->lower, 0, sizeof s->lower);
    nw_tensor_walk(t, count_lower, s);
    for (int p = 0; p < PERCENTILES; p++) {
        uint64_t before;
        uint32_t low = bin_of(s->lower[p], rank_of(percents[p], count) - s->before[p], &before);
        values[p] = (double)number_of(s->bucket[p] << 16 | low);
    }
}

/* ---- one parameter ----------------------------------------------------------------------------------- */

/* Of a tensor or one of its channels. */
typedef struct statistics {
    nw_moments moments;
    nw_noise noise; /* against the reference */
} statistics;

typedef struct parameter {
    const nw_tensor *tensor;
    const nw_tensor *reference; /* what it was made from, plain; or NULL */
    size_t inner, channels;     /* element i is of channel i / inner % channels */
    selection *selection;
    statistics all, *each; /* each: [channels] or NULL */
    uint64_t at_ends, saturated;
    double expected; /* Σ s²/12: the noise of rounding to steps of s, values spread evenly in a step */
} parameter;

/* Whether codes lie on evenly spaced numbers: x' = s·(q − z). */
static bool is_linear(const nw_qparam *p) {
    return nw_format_is_integer(p->format) && p->levels.count == 0;
}

static void count_codes(parameter *k, const nw_group_run *piece) {
    const nw_qparam *p = k->tensor->qparam;
    if (!p || !is_linear(p)) return;
    int32_t codes[NW_PIECE];
    bool packed = nw_format_bits(p->format) <= 16;
    if (packed) nw_load_codes(p->format, k->tensor->data, piece->first, piece->count, codes);
    for (size_t i = 0; i < piece->count; i++) {
        double scale = (double)nw_qparam_scale(p, piece->group + i * piece->step);
        k->expected += scale * scale / 12;
        if (packed) k->at_ends += codes[i] <= p->qmin || codes[i] >= p->qmax;
    }
}

/* Numbers beyond the outermost codes by more than half a step. */
static void count_saturated(parameter *k, const nw_group_run *piece, const float *original) {
    const nw_qparam *p = k->tensor->qparam;
    if (!p || !is_linear(p)) return;
    for (size_t i = 0; i < piece->count; i++) {
        size_t g = piece->group + i * piece->step;
        double r = (double)original[i] / (double)nw_qparam_scale(p, g) + nw_qparam_zero(p, g);
        k->saturated += r < p->qmin - 0.5 || r > p->qmax + 0.5;
    }
}

static void add_channels(parameter *k, const nw_group_run *piece, const float *x, const float *original) {
    for (size_t i = 0; i < piece->count;) {
        size_t at = piece->first + i, left = k->inner - at % k->inner;
        size_t count = left < piece->count - i ? left : piece->count - i;
        statistics *s = &k->each[at / k->inner % k->channels];
        nw_moments_add(&s->moments, count, x + i);
        if (original) nw_noise_add(&s->noise, original + i, x + i, count);
        i += count;
    }
}

static void add_piece(const nw_group_run *piece, const float *x, void *user) {
    parameter *k = user;
    float room[NW_PIECE];
    const float *original = NULL;
    nw_moments_add(&k->all.moments, piece->count, x);
    for (size_t i = 0; i < piece->count; i++) k->selection->upper[key_of(x[i]) >> 16] += isfinite(x[i]) != 0;
    count_codes(k, piece);
    if (k->reference) {
        nw_decode_f32(k->reference->format, k->reference->data, piece->first, piece->count, room);
        original = room;
        nw_noise_add(&k->all.noise, original, x, piece->count);
        count_saturated(k, piece, original);
    }
    if (k->each) add_channels(k, piece, x, original);
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static void write_moments(nw_record *r, const nw_moments *m) {
    nw_record_number(r, "min", "min", NW_UNIT_NUMBER, m->count ? m->min : NAN);
    nw_record_number(r, "max", "max", NW_UNIT_NUMBER, m->count ? m->max : NAN);
    nw_record_number(r, "mean", "mean", NW_UNIT_NUMBER, m->count ? nw_moments_mean(m) : NAN);
    nw_record_number(r, "std", "std", NW_UNIT_NUMBER, m->count ? nw_moments_std(m) : NAN);
}

/* s, z, and the same codes counted from the lowest: x' = s·(q − qmin) + offset. */
static void write_mapping(nw_record *r, const nw_qparam *p, size_t group, bool labels) {
    double scale = (double)nw_qparam_scale(p, group), zero = nw_qparam_zero(p, group);
    nw_record_number(r, "scale", labels ? "scale" : NULL, NW_UNIT_NUMBER, scale);
    if (!is_linear(p)) return;
    nw_record_number(r, "zero_point", labels ? "zero" : NULL, NW_UNIT_COUNT, zero);
    nw_record_number(r, "offset", labels ? "offset" : NULL, NW_UNIT_NUMBER, scale * (p->qmin - zero));
}

static const char *grain_name(nw_grain grain) {
    return grain == NW_GRAIN_TENSOR ? "tensor" : grain == NW_GRAIN_AXIS ? "channel" : "block";
}

/* The grid: its keys, and one column of text that says it all. */
static void write_grid(nw_record *r, const nw_qparam *p) {
    double least = INFINITY, most = 0;
    bool shifted = false;
    for (size_t g = 0; g < p->groups; g++) {
        shifted |= nw_qparam_zero(p, g) != 0;
        least = fmin(least, (double)nw_qparam_scale(p, g));
        most = fmax(most, (double)nw_qparam_scale(p, g));
    }
    nw_record_text(r, "grain", NULL, grain_name(p->grain));
    if (p->grain != NW_GRAIN_TENSOR) nw_record_number(r, "axis", NULL, NW_UNIT_COUNT, p->axis);
    if (p->grain == NW_GRAIN_BLOCK) nw_record_number(r, "block", NULL, NW_UNIT_COUNT, (double)p->block);
    nw_record_number(r, "scales", NULL, NW_UNIT_COUNT, (double)p->groups);
    nw_record_text(r, "scale_type", NULL, nw_format_name(nw_qparam_scale_format(p)));
    nw_record_number(r, "scale_min", NULL, NW_UNIT_NUMBER, least);
    nw_record_number(r, "scale_max", NULL, NW_UNIT_NUMBER, most);
    if (p->groups == 1) write_mapping(r, p, 0, false);
    if (is_linear(p)) {
        nw_record_number(r, "code_min", NULL, NW_UNIT_COUNT, p->qmin);
        nw_record_number(r, "code_max", NULL, NW_UNIT_COUNT, p->qmax);
    }
    const char *code = p->levels.count ? "level[q]" : shifted ? "(q − z)" : "q";
    if (p->groups != 1)
        nw_record_textf(r, NULL, "numbers", "s·%s, %zu scales %.3g … %.3g", code, p->groups, least, most);
    else if (shifted)
        nw_record_textf(r, NULL, "numbers", "%.6g·(q − %d)", least, (int)p->zeros[0]);
    else
        nw_record_textf(r, NULL, "numbers", "%.6g·%s", least, code);
}

static void write_channels(nw_record *r, nw_record *root, const parameter *k, const char *name) {
    const nw_qparam *p = k->tensor->qparam;
    for (size_t c = 0; c < k->channels; c++)
        for (int text = 0; text < 2;
             text++) { /* JSON has them in their parameter, text in a table of their own */
            nw_record *item = text ? nw_record_item(root, NULL, "Channels", NW_LAYOUT_ROWS)
                                   : nw_record_item(r, "channels", NULL, NW_LAYOUT_ROWS);
            if (text) nw_record_text(item, NULL, "parameter", name);
            nw_record_number(item, "channel", "channel", NW_UNIT_COUNT, (double)c);
            write_moments(item, &k->each[c].moments);
            if (p && p->grain != NW_GRAIN_BLOCK) write_mapping(item, p, p->groups == 1 ? 0 : c, true);
            if (k->reference)
                nw_record_number(item, "sqnr_db", "SQNR", NW_UNIT_DB, nw_noise_db(&k->each[c].noise));
        }
}

static void write_parameter(nw_record *r, const parameter *k, const double *percentiles) {
    const nw_qparam *p = k->tensor->qparam;
    const nw_moments *m = &k->all.moments;
    char text[160];
    nw_record_text(r, "type", "type", nw_tensor_describe(k->tensor, text, sizeof text));
    nw_record_number(r, "count", NULL, NW_UNIT_COUNT, (double)(m->count + m->broken));
    write_moments(r, m);
    nw_record_number(r, "p1", "1 %", NW_UNIT_NUMBER, percentiles[0]);
    nw_record_number(r, "p50", "median", NW_UNIT_NUMBER, percentiles[1]);
    nw_record_number(r, "p99", "99 %", NW_UNIT_NUMBER, percentiles[2]);
    nw_record_number(r, "not_finite", NULL, NW_UNIT_COUNT, (double)m->broken);
    if (!p) return;
    if (is_linear(p)) {
        nw_noise expected = {.signal = m->squares, .noise = k->expected, .count = m->count};
        if (nw_format_bits(p->format) <= 16)
            nw_record_number(r, "at_ends", "at the ends", NW_UNIT_SHARE,
                             m->count ? (double)k->at_ends / (double)m->count : 0);
        nw_record_number(r, "sqnr_expected_db", k->reference ? NULL : "SQNR (expected)", NW_UNIT_DB,
                         nw_noise_db(&expected));
    }
    if (k->reference) {
        if (is_linear(p))
            nw_record_number(r, "saturated", "saturated", NW_UNIT_SHARE,
                             m->count ? (double)k->saturated / (double)m->count : 0);
        nw_record_number(r, "sqnr_db", "SQNR", NW_UNIT_DB, nw_noise_db(&k->all.noise));
    }
    write_grid(r, p);
}

/* ---- all of them ------------------------------------------------------------------------------------- */

typedef struct survey {
    nw_env *env;
    const nw_graph *reference; /* or NULL */
    bool channels;
    nw_record *root;
    selection *selection;
} survey;

#define PARAMETERS "Parameters, one by one"

/* Input i of a node in the graph that the model was made from: a plain constant of the same shape, or NULL. */
static const nw_tensor *original_of(const survey *s, const nw_graph *graph, const nw_node *node, int i) {
    if (!s->reference || graph->parent) return NULL;
    const nw_node *other = nw_graph_namesake(s->reference, node);
    const nw_constant *c = other ? nw_graph_constant(s->reference, nw_node_in(other, i)) : NULL;
    if (!c) c = nw_graph_constant(s->reference, nw_graph_find(s->reference, graph->values[node->in[i]].name));
    const nw_tensor *t = &graph->values[node->in[i]].constant->tensor;
    bool fits =
        c && !c->tensor.qparam && nw_format_is_float(c->tensor.format) && nw_tensor_same_shape(&c->tensor, t);
    return fits ? &c->tensor : NULL;
}

static nw_status survey_input(survey *s, const nw_graph *graph, const nw_node *node, int i) {
    const nw_constant *constant = graph->values[node->in[i]].constant;
    const nw_tensor *t = &constant->tensor;
    nw_roles roles = nw_node_roles(node);
    nw_role role = nw_roles_of(&roles, i);
    int axis = roles.channel_axis[i < NW_MAX_ROLES ? i : NW_MAX_ROLES - 1];
    if (t->qparam && t->qparam->grain == NW_GRAIN_AXIS) axis = t->qparam->axis;
    if (axis < 0) axis += t->rank;
    if (axis < 0 || axis >= t->rank) axis = 0;
    parameter k = {.tensor = t,
                   .reference = original_of(s, graph, node, i),
                   .channels = t->rank ? (size_t)t->dims[axis] : 1,
                   .inner = t->rank ? nw_dims_product(t->dims, axis + 1, t->rank) : 1,
                   .selection = s->selection};
    if (s->channels && (role == NW_ROLE_WEIGHT || (t->qparam && t->qparam->grain == NW_GRAIN_AXIS))) {
        k.each = nw_calloc(&s->env->ctx, k.channels, sizeof *k.each);
        if (!k.each) return NW_E_MEMORY;
    }
    double percentiles[PERCENTILES] = {NAN, NAN, NAN};
    memset(s->selection->upper, 0, sizeof s->selection->upper);
    nw_tensor_walk(t, add_piece, &k);
    if (k.all.moments.count) select_percentiles(s->selection, t, k.all.moments.count, percentiles);
    nw_record *r = nw_record_item(s->root, "statistics", PARAMETERS, NW_LAYOUT_ROWS);
    nw_record_text(r, "layer", "layer", nw_node_label(graph, node));
    nw_record_text(r, "op", NULL, node->op_type);
    nw_record_text(r, "name", "parameter", graph->values[node->in[i]].name);
    nw_record_text(r, "role", NULL,
                   role == NW_ROLE_WEIGHT ? "weight"
                   : role == NW_ROLE_BIAS ? "bias"
                                          : "constant");
    write_parameter(r, &k, percentiles);
    if (k.each) write_channels(r, s->root, &k, graph->values[node->in[i]].name);
    nw_free(&s->env->ctx, k.each);
    nw_bytes_forget(constant->owner, t->data, nw_tensor_bytes(t));
    if (k.reference) { /* the reference's constants are mapped too */
        const nw_graph *g = s->reference;
        for (int v = 0; v < g->value_count; v++)
            if (g->values[v].constant && &g->values[v].constant->tensor == k.reference)
                nw_bytes_forget(g->values[v].constant->owner, k.reference->data,
                                nw_tensor_bytes(k.reference));
    }
    return NW_OK;
}

/* Real numbers, and not those that only say what a quantizer does. */
static bool is_parameter(const nw_graph *graph, const nw_node *node, int i) {
    const nw_constant *c = nw_graph_constant(graph, node->in[i]);
    if (!c || nw_tensor_count(&c->tensor) == 0) return false;
    if (strcmp(node->op_type, "FakeQuant") == 0 && i > 0) return false;
    return c->tensor.qparam || nw_format_is_float(c->tensor.format);
}

static nw_status survey_graph(survey *s, const nw_graph *graph) {
    bool *seen = nw_calloc(&s->env->ctx, (size_t)graph->value_count, sizeof *seen);
    if (!seen) return NW_E_MEMORY;
    nw_status status = NW_OK;
    for (int n = 0; n < graph->node_count && status == NW_OK; n++) {
        const nw_node *node = &graph->nodes[n];
        if (node->dead) continue;
        for (int i = 0; i < node->in_count && status == NW_OK; i++)
            if (node->in[i] >= 0 && !seen[node->in[i]] && is_parameter(graph, node, i)) {
                seen[node->in[i]] = true;
                status = survey_input(s, graph, node, i);
            }
        for (int a = 0; a < node->attr_count && status == NW_OK; a++) {
            const nw_attr *attr = &node->attrs[a];
            if (attr->kind == NW_ATTR_GRAPH) status = survey_graph(s, attr->graph);
            for (size_t g = 0; attr->kind == NW_ATTR_GRAPHS && g < attr->count && status == NW_OK; g++)
                status = survey_graph(s, attr->graphs[g]);
        }
        nw_env_progress(s->env, "reading parameters", (size_t)n + 1, (size_t)graph->node_count);
    }
    nw_free(&s->env->ctx, seen);
    return status;
}

/* The grids of activations: one row per FakeQuant. */
static void write_activations(survey *s, const nw_graph *graph) {
    nw_arena arena;
    nw_arena_init(&arena, graph->ctx);
    nw_record_list(s->root, "activation_grids", "Activations, one by one", NW_LAYOUT_ROWS);
    for (int n = 0; n < graph->node_count; n++) {
        const nw_node *node = &graph->nodes[n];
        nw_qparam p;
        bool dynamic;
        nw_arena_reset(&arena);
        if (strcmp(node->op_type, "FakeQuant") != 0 || nw_node_in(node, 0) < 0 ||
            nw_fakequant_qparam(graph, node, &arena, &p, &dynamic) != NW_OK)
            continue;
        nw_record *r = nw_record_item(s->root, "activation_grids", "Activations, one by one", NW_LAYOUT_ROWS);
        nw_record_text(r, "name", "tensor", graph->values[node->in[0]].name);
        nw_record_text(r, "type", "type", nw_format_name(p.format));
        nw_record_flag(r, "dynamic", NULL, dynamic);
        if (dynamic) {
            nw_record_text(r, NULL, "numbers", "scale measured at run time");
            continue;
        }
        if (p.groups == 1 && is_linear(&p)) {
            double scale = (double)nw_qparam_scale(&p, 0), zero = nw_qparam_zero(&p, 0);
            nw_record_number(r, "low", "low", NW_UNIT_NUMBER, scale * (p.qmin - zero));
            nw_record_number(r, "high", "high", NW_UNIT_NUMBER, scale * (p.qmax - zero));
        }
        write_grid(r, &p);
    }
    nw_arena_free(&arena);
}

nw_status nw_write_parameters(const nw_model *model, const nw_model *reference, bool channels,
                              nw_record *root) {
    nw_context *ctx = &model->env->ctx;
    survey s = {.env = model->env, .channels = channels, .root = root};
    nw_graph *graph = NULL, *original = NULL;
    nw_status status = nw_model_fold(model, ctx, &graph);
    if (status == NW_OK && reference) status = nw_model_prepare(reference, ctx, &original);
    s.reference = original;
    if (status == NW_OK && !(s.selection = nw_alloc(ctx, sizeof *s.selection))) status = NW_E_MEMORY;
    nw_record_list(root, "statistics", PARAMETERS, NW_LAYOUT_ROWS);
    if (status == NW_OK) status = survey_graph(&s, graph);
    if (status == NW_OK) write_activations(&s, graph);
    nw_free(ctx, s.selection);
    nw_graph_free(original);
    nw_graph_free(graph);
    return status;
}
