/* qat.c: quantization-aware training: recipe, stages, calibration. */
#include "api/qat.h"

#include "op/op.h"
#include "quant/recipe.h"

#include <stdlib.h>
#include <string.h>

#define REAL_BITS 32

/* ---- stages ------------------------------------------------------------------------------------------------- */

static nw_status bad_stage(nw_context *ctx, const char *text) {
    return nw_fail(ctx, NW_E_ARGUMENT,
                   "stages \"%s\" make no sense: expected bits and epochs such as float:2,8:3, bits being "
                   "float, 16, 8, 4 "
                   "or 2, and falling; what is left of the epochs is trained as the recipe says",
                   text);
}

/* "float" or a number of bits, perhaps ":EPOCHS", up to a comma. */
static bool read_stage(const char **at, int *bits, size_t *epochs) {
    char *end;
    if (strncmp(*at, "float", 5) == 0) {
        *bits = REAL_BITS;
        end = (char *)(uintptr_t)*at + 5;
    } else {
        *bits = **at >= '0' && **at <= '9' ? (int)strtol(*at, &end, 10) : 0;
        if (*bits != 16 && *bits != 8 && *bits != 4 && *bits != 2) return false;
    }
    *epochs = 0;
    if (*end == ':') {
        const char *number = end + 1;
        if (*number < '0' || *number > '9') return false;
        *epochs = strtoull(number, &end, 10);
        if (*epochs == 0) return false;
    }
    *at = end;
    return *end == 0 || *end == ',';
}

/* Stages without a number of epochs share, with the recipe itself, what the others leave. */
static nw_status read_stages(nw_qat *q, const char *text, size_t epochs) {
    nw_context *ctx = q->arena.ctx;
    size_t most = 1, given = 0, open = 1, capacity = 1;
    for (const char *c = text; c && *c; c++) capacity += *c == ',';
    q->stages = nw_arena_array(&q->arena, capacity + 1, sizeof *q->stages);
    size_t *length = nw_arena_array(&q->arena, capacity + 1, sizeof *length);
    if (!q->stages || !length) return NW_E_MEMORY;
    for (const char *at = text; at && *at;) {
        nw_qat_stage *s = &q->stages[q->stage_count];
        size_t *own = &length[q->stage_count];
        if (!read_stage(&at, &s->bits, own) || (q->stage_count && s->bits >= s[-1].bits) || *own > epochs)
            return bad_stage(ctx, text);
        given += *own;
        open += *own == 0;
        q->stage_count++;
        if (*at == ',' && !*++at) return bad_stage(ctx, text);
    }
    if (given + open > epochs)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "%zu epochs are too few for stages \"%s\" and the recipe behind them", epochs,
                       text ? text : "");
    most = (epochs - given) / open;
    for (size_t i = 0, first = 0; i <= q->stage_count; i++) {
        q->stages[i].first = first;
        first += length[i] ? length[i] : most;
    }
    q->stage_count++;
    return NW_OK;
}

size_t nw_qat_stage_of(const nw_qat *q, uint64_t epoch) {
    size_t stage = 0;
    while (stage + 1 < q->stage_count && q->stages[stage + 1].first <= epoch) stage++;
    return stage;
}

/* ---- a recipe with more bits ---------------------------------------------------------------------------------- */

static nw_format widened(nw_format format, int bits) {
    const bool is_signed = nw_format_kind(format) == NW_KIND_SINT;
    if (nw_format_bits(format) >= bits) return format;
    return bits == 16  ? (is_signed ? NW_S16 : NW_U16)
           : bits == 8 ? (is_signed ? NW_S8 : NW_U8)
                       : (is_signed ? NW_S4 : NW_U4);
}

/* Weights of fewer bits, whatever their codes mean, become linear ones. */
static void widen(nw_quant_choice *c, int bits) {
    nw_coding *w = &c->weights.coding;
    const int own = w->kind == NW_TERNARY ? 2 : w->kind == NW_BINARY ? 1 : nw_format_bits(w->format);
    c->activation = widened(c->activation, bits);
    if (own >= bits) return;
    const bool linear = w->kind == NW_LINEAR,
               is_signed = !linear || nw_format_kind(w->format) == NW_KIND_SINT;
    *w = nw_coding_linear(widened(is_signed ? NW_S2 : NW_U2, bits), !linear || w->grid.symmetric, false,
                          false);
}

static nw_status widened_recipe(nw_qat *q, int bits, nw_arena *arena, nw_quant_options *out) {
    *out = q->recipe;
    if (bits == 0) return NW_OK;
    nw_quant_rule *rules = nw_arena_array(arena, out->rule_count, sizeof *rules);
    if (!rules) return NW_E_MEMORY;
    widen(&out->choice, bits);
    for (size_t i = 0; i < out->rule_count; i++) {
        rules[i] = out->rules[i];
        widen(&rules[i].choice, bits);
    }
    out->rules = rules;
    return NW_OK;
}

/* ---- graphs --------------------------------------------------------------------------------------------------- */

nw_status nw_qat_init(nw_qat *q, const nw_model *model, const nw_training_options *o, size_t epochs) {
    nw_env *env = model->env;
    *q = (nw_qat){.calibration = o->calibration};
    nw_arena_init(&q->arena, &env->ctx);
    NW_TRY(nw_quantize_read(env, o->quantize, &q->arena, &q->recipe));
    NW_TRY(read_stages(q, o->qat_stages, epochs));
    return nw_model_prepare(model, &env->ctx, &q->real);
}

void nw_qat_free(nw_qat *q) {
    nw_graph_free(q->real);
    nw_arena_free(&q->arena);
}

static nw_status quantize(nw_qat *q, nw_graph *g, int bits) {
    nw_dataset *data = q->calibration ? q->calibration->dataset : NULL;
    nw_quant_options options;
    nw_arena arena;
    nw_arena_init(&arena, g->ctx);
    nw_status status = widened_recipe(q, bits, &arena, &options);
    if (status == NW_OK && data) status = nw_dataset_rewind(data);
    if (status == NW_OK) status = nw_quantize_graph(g->ctx, g, data, &options, NULL);
    if (status == NW_OK) status = nw_graph_finish_quantized(g, &options);
    nw_arena_free(&arena);
    return status;
}

nw_status nw_qat_graph(nw_qat *q, nw_graph **out) {
    nw_context *ctx = q->real->ctx;
    const int bits = q->stages[q->stage].bits;
    nw_graph *g;
    NW_TRY(nw_graph_copy(q->real, ctx, &g));
    nw_status status = nw_graph_resolve(g);
    if (status == NW_OK && bits != REAL_BITS) status = quantize(q, g, bits);
    if (status != NW_OK)
        nw_graph_free(g);
    else
        *out = g;
    return status;
}

/* ---- from stage to stage ---------------------------------------------------------------------------------------- */

nw_status nw_qat_list(nw_qat *q, const nw_trainer *trainer) {
    size_t count;
    const nw_checkpoint_array *learned = nw_trainer_reals(trainer, &count);
    if (!(q->start = nw_arena_array(&q->arena, count, sizeof *q->start))) return NW_E_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const nw_constant *c = nw_graph_constant(q->real, nw_graph_find(q->real, learned[i].name));
        if (!c || c->tensor.format != NW_F32 || nw_tensor_count(&c->tensor) != learned[i].count)
            return nw_fail(
                q->arena.ctx, NW_E_UNSUPPORTED,
                "\"%s\" is read by layers that are quantized differently: it cannot be trained in stages",
                learned[i].name);
        nw_checkpoint_array *a = &q->start[i];
        *a = (nw_checkpoint_array){nw_arena_strdup(&q->arena, learned[i].name),
                                   nw_arena_array(&q->arena, learned[i].count, sizeof(float)),
                                   learned[i].count};
        if (!a->name || !a->data) return NW_E_MEMORY;
        memcpy(a->data, c->tensor.data, a->count * sizeof *a->data);
    }
    q->start_count = count;
    return NW_OK;
}

nw_status nw_qat_keep(nw_qat *q, const nw_trainer *trainer) {
    size_t count;
    const nw_checkpoint_array *learned = nw_trainer_reals(trainer, &count);
    for (size_t i = 0; i < q->start_count; i++) {
        size_t k = 0;
        while (k < count && strcmp(learned[k].name, q->start[i].name) != 0) k++;
        if (k == count || learned[k].count != q->start[i].count)
            return nw_fail(q->arena.ctx, NW_E_UNSUPPORTED, "\"%s\" is not learned in every stage",
                           q->start[i].name);
        memcpy(q->start[i].data, learned[k].data, learned[k].count * sizeof(float));
    }
    return NW_OK;
}

nw_status nw_qat_begin(nw_qat *q, size_t stage) {
    q->stage = stage;
    for (size_t i = 0; i < q->start_count; i++) {
        int v = nw_graph_find(q->real, q->start[i].name);
        nw_tensor t = q->real->values[v].constant->tensor;
        t.data = q->start[i].data;
        NW_TRY(nw_graph_set_constant_copy(q->real, v, &t));
    }
    return NW_OK;
}

const char *nw_qat_describe(nw_qat *q) {
    const char *text = nw_recipe_print(&q->arena, &q->recipe);
    for (size_t i = 0; i < q->stage_count && text; i++)
        text = nw_arena_printf(&q->arena, "%s %d:%zu", text, q->stages[i].bits, q->stages[i].first);
    return text;
}
