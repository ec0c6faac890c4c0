/* lower_gather.c: Gather of rows of a packed table, which stays packed: the rows that are read are decoded. */
#include "run/coded.h"

#include "op/index.h"
#include "op/quantize.h"

#include <string.h>

typedef struct gather_state {
    const nw_graph *graph;
    const nw_node *node;
    const nw_tensor *table, *indices; /* as planned */
    size_t row;                       /* elements of a row of the table, whole bytes of codes */
    const struct quick *quick;        /* or NULL */
} gather_state;

/* A table whose rows are decoded without looking at their grid: `together` rows share `stride` scales, one for each `run` elements
 * of a row. 16 bits: floats, without scales. */
typedef struct quick {
    float level[256]; /* of each code of at most 8 bits, less the zero point */
    int bits;
    bool bf16;
    size_t together, stride, run;
    const float *scale;
} quick;

typedef struct gather_job {
    const gather_state *s;
    const size_t *at; /* rows */
    float *y;
} gather_job;

/* Row r of the table. */
static nw_tensor row_of(const nw_tensor *t, size_t r, nw_qparam *q) {
    const nw_qparam *grid = t->qparam;
    if (grid->grain != NW_GRAIN_BLOCK || grid->axis != 0) return nw_tensor_rows(t, r, 1, q);
    /* Rows of a block share a scale for each of their elements. */
    nw_tensor bare = *t;
    bare.qparam = NULL;
    nw_tensor row = nw_tensor_rows(&bare, r, 1, NULL);
    const size_t inner = nw_tensor_count(&row), first = r / (size_t)grid->block * inner;
    *q = *grid;
    q->grain = NW_GRAIN_AXIS;
    q->axis = 1;
    q->groups = inner;
    q->scales = (const char *)q->scales + first * (size_t)nw_format_bits(nw_qparam_scale_format(q)) / 8;
    if (q->zeros) q->zeros += first;
    row.rank = 2;
    row.dims[1] = (int64_t)inner;
    return row;
}

/* y[i] = level[code first + i]·scale[i·step]; bits and step are constants where this is called. */
static inline __attribute__((always_inline)) void decode_codes(const int bits, size_t n, const uint8_t *codes,
                                                               size_t first, const float *level,
                                                               const float *scale, const size_t step,
                                                               float *y) {
    const size_t per_byte = 8 / (size_t)bits;
    const unsigned mask = (1u << bits) - 1;
    for (size_t i = 0; i < n; i++) {
        const size_t at = first + i;
        y[i] = level[codes[at / per_byte] >> at % per_byte * (size_t)bits & mask] * scale[i * step];
    }
}

static inline __attribute__((always_inline)) void
decode_row(const quick *q, const int bits, size_t row, const uint8_t *codes, const float *scale, float *y) {
    if (q->run == 1) {
        decode_codes(bits, row, codes, 0, q->level, scale, 1, y);
        return;
    }
    for (size_t i = 0; i < row; i += q->run, scale++) {
        const size_t n = row - i < q->run ? row - i : q->run;
        decode_codes(bits, n, codes, i, q->level, scale, 0, y + i);
    }
}

static void decode_halves(bool bf16, size_t n, const uint16_t *codes, float *y) {
    if (bf16)
        for (size_t i = 0; i < n; i++) y[i] = nw_bf16_to_f32(codes[i]);
    else
        for (size_t i = 0; i < n; i++) y[i] = nw_f16_to_f32(codes[i]);
}

static void gather_quick(const gather_job *j, size_t begin, size_t end) {
    const quick *q = j->s->quick;
    const size_t row = j->s->row, bytes = row * (size_t)q->bits / 8;
    for (size_t i = begin; i < end; i++) {
        const uint8_t *codes = (const uint8_t *)j->s->table->data + j->at[i] * bytes;
        const float *scale = q->scale + j->at[i] / q->together * q->stride;
        float *y = j->y + i * row;
        switch (q->bits) {
        case 1: decode_row(q, 1, row, codes, scale, y); break;
        case 2: decode_row(q, 2, row, codes, scale, y); break;
        case 4: decode_row(q, 4, row, codes, scale, y); break;
        case 8: decode_row(q, 8, row, codes, scale, y); break;
        default: decode_halves(q->bf16, row, (const uint16_t *)(const void *)codes, y); break;
        }
    }
}

static void gather_range(void *user, size_t begin, size_t end) {
    const gather_job *j = user;
    if (j->s->quick) {
        gather_quick(j, begin, end);
        return;
    }
    for (size_t i = begin; i < end; i++) {
        nw_qparam q;
        const nw_tensor row = row_of(j->s->table, j->at[i], &q);
        nw_dequantize(&q, row.rank, row.dims, row.data, j->y + i * j->s->row);
    }
}

static nw_status run_gather(nw_exec *e, const nw_step *step) {
    const gather_state *s = step->state;
    nw_tensor indices = *s->indices;
    const nw_tensor *in[2] = {s->table, &indices};
    size_t *at, count = nw_tensor_count(&indices);
    nw_op_call call;
    indices.data = nw_exec_data(e, step->in[0]);
    nw_bind_call(&call, e->ctx, s->graph, s->node, in, NULL, e->scratch);
    NW_TRY(nw_call_indices(&call, &indices, s->table->dims[0], &at));
    gather_job job = {s, at, nw_exec_data(e, step->out[0])};
    nw_exec_parallel(e, count, 1, (double)(count * s->row), gather_range, &job);
    return NW_OK;
}

static nw_status keep_quick(nw_planner *p, const quick *q, const quick **out) {
    quick *kept = nw_arena_array(&p->plan->arena, 1, sizeof *kept);
    if (!kept) return NW_E_MEMORY;
    *kept = *q;
    *out = kept;
    return NW_OK;
}

/* A table whose scales as f32 take no more than its codes, with one zero point. */
static nw_status make_quick(nw_planner *p, const nw_tensor *t, const quick **out) {
    const nw_qparam *g = t->qparam;
    const int bits = nw_format_bits(g->format);
    const size_t row = nw_dims_product(t->dims, 1, t->rank);
    *out = NULL;
    quick q = {.bits = bits, .together = SIZE_MAX, .run = row, .bf16 = g->format == NW_BF16};
    if (bits == 16 && nw_fakequant_is_cast(g)) return keep_quick(p, &q, out);
    if (bits > 8 || 8 % bits != 0 || !nw_plan_same_zeros(g)) return NW_OK;
    if (nw_qparam_scale_format(g) != NW_F32 && g->groups > 1 &&
        g->groups > nw_tensor_bytes(t) / sizeof(float))
        return NW_OK;
    if (g->grain != NW_GRAIN_TENSOR && g->axis == 0) {
        q.together = g->grain == NW_GRAIN_AXIS ? 1 : (size_t)g->block;
        q.stride = g->grain == NW_GRAIN_AXIS ? 1 : row;
        q.run = g->grain == NW_GRAIN_AXIS ? row : 1;
    } else if (g->grain != NW_GRAIN_TENSOR) {
        if (t->rank != 2) return NW_OK;
        const size_t blocks = g->groups / (size_t)t->dims[0];
        q.together = g->grain == NW_GRAIN_AXIS ? SIZE_MAX : 1;
        q.stride = g->grain == NW_GRAIN_AXIS ? 0 : blocks;
        q.run = g->grain == NW_GRAIN_AXIS ? 1 : (size_t)g->block;
    }
    q.scale = g->scales;
    if (nw_qparam_scale_format(g) != NW_F32) {
        float *scale;
        NW_TRY(nw_plan_constant(p, g->groups * sizeof *scale, (void **)&scale));
        nw_decode_f32(nw_qparam_scale_format(g), g->scales, 0, g->groups, scale);
        q.scale = scale;
    }
    nw_plan_levels(g, 1 << bits, q.level);
    if (nw_format_is_integer(g->format))
        for (int i = 0; i < 1 << bits; i++) q.level[i] -= (float)nw_qparam_zero(g, 0);
    return keep_quick(p, &q, out);
}

nw_status nw_lower_gather(nw_planner *p, nw_node *node, bool *ok) {
    *ok = false;
    if (!nw_node_is(node, "Gather")) return NW_OK;
    const nw_constant *c = nw_graph_constant(p->graph, node->in[0]);
    const nw_tensor *t = c ? &c->tensor : NULL;
    if (!t || !t->qparam || !nw_tensor_aligned(t) || nw_plan_on_grid(p, node->in[0]) || t->rank < 1 ||
        nw_tensor_count(t) == 0)
        return NW_OK;
    const int64_t axis = nw_node_int(node, "axis", 0);
    gather_state s = {.graph = p->graph, .node = node, .table = t, .indices = &p->desc[node->in[1]]};
    s.row = nw_dims_product(t->dims, 1, t->rank);
    if ((axis != 0 && axis != -t->rank) || s.row * (size_t)nw_format_bits(t->format) % 8 != 0 ||
        (t->rank == 1 && t->qparam->grain == NW_GRAIN_BLOCK))
        return NW_OK;
    nw_tensor *indices = nw_arena_array(&p->plan->arena, 1, sizeof *indices);
    if (!indices) return NW_E_MEMORY;
    *indices = *s.indices;
    s.indices = indices;
    NW_TRY(make_quick(p, t, &s.quick));
    int in[1], out[1];
    NW_TRY(nw_plan_need(p, node->in[1], NW_FORM_REAL, &in[0]));
    NW_TRY(nw_plan_define(p, node->out[0], NW_FORM_REAL, &out[0]));
    *ok = true;
    return NW_PLAN_STEP(p, node, run_gather, "gather of codes", &s, in, out);
}
