/* feed.c: what goes into a model: the samples of a data set, or made-up numbers. */
#include "api/api.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AUTO_BYTES (2 << 20) /* of input per run: stays in the cache of most machines */
#define AUTO_MOST  32

static char *shape_text(const nw_array *a, char *buffer, size_t size) {
    size_t at = (size_t)snprintf(buffer, size, "%s [", nw_type_name(a->type));
    for (int d = 0; d < a->rank && at < size; d++)
        at += (size_t)(a->dims[d] < 0
                           ? snprintf(buffer + at, size - at, "%sN", d ? "," : "")
                           : snprintf(buffer + at, size - at, "%s%" PRId64, d ? "," : "", a->dims[d]));
    if (at < size) snprintf(buffer + at, size - at, "]");
    return buffer;
}

/* Samples of `in`, stacked, as an array with a free first dimension. */
static nw_array stacked(const nw_dataset_input *in) {
    nw_array a = {in->name, (nw_type)in->format, in->rank + 1, {-1}, NULL};
    for (int d = 0; d < in->rank && d + 1 < NW_ARRAY_RANK; d++) a.dims[d + 1] = in->dims[d];
    return a;
}

static bool fits(const nw_array *port, const nw_array *data) {
    if (port->rank < 0) return true;
    if (port->rank != data->rank) return false;
    for (int d = 1; d < port->rank; d++)
        if (port->dims[d] >= 0 && data->dims[d] >= 0 && port->dims[d] != data->dims[d]) return false;
    return true;
}

static nw_status bind_input(nw_feeder *feeder, const nw_model *model, const nw_data *data, size_t i) {
    nw_context *ctx = &model->env->ctx;
    const nw_array *port = &model->inputs[i];
    size_t count = nw_dataset_input_count(data->dataset), found = count;
    for (size_t k = 0; k < count; k++) {
        const char *name = nw_dataset_input_at(data->dataset, k)->name;
        if (name ? strcmp(name, port->name) == 0 : count == 1 && model->input_count == 1) found = k;
    }
    if (found == count && count == 1 && model->input_count == 1)
        found = 0; /* one to one: the name does not matter */
    if (found == count)
        return nw_fail(ctx, NW_E_DATA,
                       "%s: the data set has nothing for input \"%s\": models with several inputs take an "
                       ".npz file with "
                       "one array per input, named like it",
                       model->path, port->name);
    const nw_dataset_input *in = nw_dataset_input_at(data->dataset, found);
    nw_array have = stacked(in);
    char a[160], b[160];
    if (!fits(port, &have))
        return nw_fail(ctx, NW_E_DATA,
                       "%s: input \"%s\" wants %s, but the data set gives %s; for images, --preprocess "
                       "(resize, crop, color, layout) decides the shape",
                       model->path, port->name, shape_text(port, a, sizeof a),
                       shape_text(&have, b, sizeof b));
    if (port->type != NW_TYPE_NONE && !nw_format_converts(in->format, (nw_format)port->type))
        return nw_fail(ctx, NW_E_DATA, "%s: input \"%s\" wants %s, but the data set gives %s", model->path,
                       port->name, shape_text(port, a, sizeof a), shape_text(&have, b, sizeof b));
    if (port->rank > 0 && port->dims[0] > 0) {
        if (feeder->batch && feeder->batch != (size_t)port->dims[0])
            return nw_fail(ctx, NW_E_SHAPE,
                           "%s: its inputs have different fixed batch sizes (%zu and %" PRId64 ")",
                           model->path, feeder->batch, port->dims[0]);
        feeder->batch = (size_t)port->dims[0];
    }
    feeder->source[i] = found;
    return NW_OK;
}

nw_status nw_feeder_init(nw_feeder *feeder, const nw_model *model, const nw_data *data) {
    *feeder = (nw_feeder){.model = model};
    feeder->source = nw_calloc(&model->env->ctx, model->input_count, sizeof *feeder->source);
    if (!feeder->source) return NW_E_MEMORY;
    nw_status status = NW_OK;
    for (size_t i = 0; status == NW_OK && i < model->input_count; i++)
        status = bind_input(feeder, model, data, i);
    if (status != NW_OK) nw_feeder_free(feeder);
    return status;
}

void nw_feeder_free(nw_feeder *feeder) {
    if (feeder->model) nw_free(&feeder->model->env->ctx, feeder->source);
    *feeder = (nw_feeder){0};
}

static void convert(const nw_tensor *from, nw_tensor *to, size_t count) {
    if (nw_format_is_float(to->format))
        for (size_t i = 0; i < count; i++) nw_store_f64(to->format, to->data, i, nw_tensor_f64(from, i));
    else
        for (size_t i = 0; i < count; i++) nw_store_s64(to->format, to->data, i, nw_tensor_s64(from, i));
}

nw_status nw_feeder_feed(const nw_feeder *feeder, const nw_batch *batch, nw_arena *arena, nw_feed *feeds) {
    for (size_t i = 0; i < feeder->model->input_count; i++) {
        const nw_array *port = &feeder->model->inputs[i];
        const nw_tensor *have = &batch->inputs[feeder->source[i]];
        nw_tensor t = *have;
        if (port->type != NW_TYPE_NONE) t.format = (nw_format)port->type;
        bool fill = feeder->batch > batch->count;
        if (fill) t.dims[0] = (int64_t)feeder->batch;
        if (fill || t.format != have->format) {
            NW_TRY(nw_tensor_alloc(arena, &t));
            size_t used = nw_tensor_count(have);
            if (t.format == have->format)
                memcpy(t.data, have->data, nw_tensor_bytes(have));
            else
                convert(have, &t, used);
            size_t sample = batch->count ? nw_format_bits(t.format) / 8 * (used / batch->count) : 0;
            for (size_t k = batch->count; fill && k < feeder->batch;
                 k++) /* repeats the last one; nobody looks */
                memcpy((char *)t.data + k * sample, (char *)t.data + (k - 1) * sample, sample);
        }
        feeds[i] = (nw_feed){port->name, t};
    }
    return NW_OK;
}

size_t nw_feeder_batch(const nw_feeder *feeder, const nw_data *data, size_t wanted) {
    if (feeder->batch) return feeder->batch;
    if (wanted) return wanted;
    size_t bytes = 1;
    for (size_t i = 0; i < nw_dataset_input_count(data->dataset); i++) {
        const nw_dataset_input *in = nw_dataset_input_at(data->dataset, i);
        size_t elements = 1;
        for (int d = 0; d < in->rank; d++) elements *= in->dims[d] > 0 ? (size_t)in->dims[d] : 1;
        bytes += elements * (size_t)nw_format_bits(in->format) / 8;
    }
    size_t batch = AUTO_BYTES / bytes;
    return batch < 1 ? 1 : batch > AUTO_MOST ? AUTO_MOST : batch;
}

/* ---- made-up inputs ---------------------------------------------------------------------------------- */

/* What is given must be an input's. */
static nw_status check_names(const nw_model *model, size_t count, const nw_array *inputs) {
    for (size_t k = 0; k < count; k++) {
        bool found = !inputs[k].name && model->input_count == 1;
        for (size_t i = 0; inputs[k].name && i < model->input_count; i++)
            found |= strcmp(inputs[k].name, model->inputs[i].name) == 0;
        if (!found && inputs[k].name)
            return nw_fail(&model->env->ctx, NW_E_ARGUMENT, "%s: the model has no input \"%s\"", model->path,
                           inputs[k].name);
        if (!found)
            return nw_fail(&model->env->ctx, NW_E_ARGUMENT,
                           "%s: the model has %zu inputs: say which one a shape is for", model->path,
                           model->input_count);
    }
    return NW_OK;
}

/* The shape and, when given, the data of input i. */
static nw_status input_of(const nw_model *model, size_t i, size_t count, const nw_array *inputs, size_t batch,
                          nw_tensor *t) {
    nw_context *ctx = &model->env->ctx;
    const nw_array *port = &model->inputs[i], *given = NULL;
    for (size_t k = 0; k < count; k++) {
        const char *name = inputs[k].name;
        if (name ? strcmp(name, port->name) == 0 : model->input_count == 1) given = &inputs[k];
    }
    const nw_array *from = given ? given : port;
    *t = (nw_tensor){.format = (nw_format)(given && given->data ? given->type : port->type),
                     .rank = from->rank};
    if (from->rank < 0 || t->format == NW_NONE)
        return nw_fail(ctx, NW_E_ARGUMENT,
                       "%s: the shape of input \"%s\" is not known: give it with --shape %s=…", model->path,
                       port->name, port->name);
    for (int d = 0; d < from->rank; d++) {
        t->dims[d] = from->dims[d] < 0 && d == 0 ? (int64_t)(batch ? batch : 1) : from->dims[d];
        if (t->dims[d] < 0)
            return nw_fail(ctx, NW_E_ARGUMENT,
                           "%s: dimension %d of input \"%s\" is not fixed: give the shape with "
                           "--shape %s=…",
                           model->path, d, port->name, port->name);
    }
    t->data = given ? given->data : NULL;
    return nw_tensor_check(ctx, t);
}

/* xorshift64*: the same numbers everywhere. Floats in [−1, 1), integers 0 or 1: indices must stay in range.
 */
static void fill(nw_tensor *t) {
    uint64_t x = 0x9E3779B97F4A7C15u;
    for (size_t i = 0, n = nw_tensor_count(t); i < n; i++) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        uint64_t bits = x * 0x2545F4914F6CDD1Du;
        if (nw_format_is_float(t->format))
            nw_store_f64(t->format, t->data, i, (double)(int64_t)bits / 0x1p63);
        else
            nw_store_s64(t->format, t->data, i, (int64_t)(bits >> 63));
    }
}

nw_status nw_feeds_made_up(const nw_model *model, size_t count, const nw_array *inputs, size_t batch,
                           nw_arena *arena, nw_feed *feeds) {
    NW_TRY(check_names(model, count, inputs));
    for (size_t i = 0; i < model->input_count; i++) {
        nw_tensor t;
        NW_TRY(input_of(model, i, count, inputs, batch, &t));
        nw_kind kind = nw_format_kind(t.format);
        if (kind == NW_KIND_STRING || kind == NW_KIND_COMPLEX)
            return nw_fail(&model->env->ctx, NW_E_UNSUPPORTED,
                           "%s: input \"%s\" is %s, which cannot be made up", model->path,
                           model->inputs[i].name, nw_format_name(t.format));
        if (!t.data) {
            NW_TRY(nw_tensor_alloc(arena, &t));
            fill(&t);
        }
        feeds[i] = (nw_feed){model->inputs[i].name, t};
    }
    return NW_OK;
}
