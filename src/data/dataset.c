#include "data/dataset.h"

#include "base/random.h"
#include "data/pipeline.h"
#include "data/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MOST_AHEAD 64 /* samples decoded before they are asked for */

/* Batch memory: grows to the largest batch asked for. */
typedef struct store {
    void *data;
    size_t bytes;
} store;

struct nw_dataset {
    nw_context *ctx;
    nw_source *source;
    nw_preprocess preprocess; /* of image sources */
    char *name;               /* of the file or folder, for describe */
    size_t skip, count;       /* samples used: skip … skip+count−1 of the source */
    size_t n_inputs;
    const nw_dataset_input *inputs;
    nw_dataset_input image_input;

    int workers;
    nw_pipeline *pipeline; /* of this pass; made by the first nw_dataset_next */
    size_t position;       /* samples handed out in this pass */
    size_t *order;         /* [count] shuffled places, or NULL: as they come */
    nw_random random;
    nw_status failed; /* sticky until rewind */
    char message[1024];

    nw_tensor *tensors; /* [n_inputs] of the current batch */
    store *buffers;     /* [n_inputs] */
    store labels, samples;
};

nw_dataset_options nw_dataset_options_default(void) {
    return (nw_dataset_options){.workers = 2};
}

static size_t place(const nw_dataset *ds, size_t position) {
    return ds->order ? ds->order[position] : position;
}

/* Fisher–Yates. */
static void shuffle(nw_dataset *ds) {
    for (size_t i = 0; i < ds->count; i++) ds->order[i] = i;
    for (size_t i = ds->count; i > 1; i--) {
        size_t j = (size_t)(nw_random_bits(&ds->random) % i), t = ds->order[i - 1];
        ds->order[i - 1] = ds->order[j];
        ds->order[j] = t;
    }
}

/* What there is to know before the first sample: the range, the inputs, the order. */
static nw_status set_up(nw_dataset *ds, const nw_dataset_options *options, const char *name) {
    nw_source *s = ds->source;
    if (options->skip >= s->count)
        return nw_fail(ds->ctx, NW_E_DATA, "%s: skipping %zu samples leaves none; it has %zu", name,
                       options->skip, s->count);
    ds->skip = options->skip;
    ds->count = s->count - options->skip;
    if (options->samples && options->samples < ds->count) ds->count = options->samples;
    ds->workers = options->workers;
    if (nw_source_is_images(s)) {
        ds->image_input = (nw_dataset_input){.format = NW_F32, .rank = 3};
        nw_status status = nw_preprocess_shape(ds->ctx, &ds->preprocess, s->width, s->height, s->channels,
                                               ds->image_input.dims);
        if (status != NW_OK) return nw_fail_where(ds->ctx, status, "%s", name);
        ds->inputs = &ds->image_input;
        ds->n_inputs = 1;
    } else {
        ds->inputs = s->inputs;
        ds->n_inputs = s->n_inputs;
    }
    ds->name = nw_arena_strdup(&s->arena, name);
    ds->tensors = nw_arena_array(&s->arena, ds->n_inputs, sizeof *ds->tensors);
    ds->buffers = nw_arena_array(&s->arena, ds->n_inputs, sizeof *ds->buffers);
    for (size_t n = ds->name ? strlen(ds->name) : 0; n > 1 && ds->name[n - 1] == '/'; n--)
        ds->name[n - 1] = 0;
    if (!ds->name || !ds->tensors || !ds->buffers) return NW_E_MEMORY;
    if (options->shuffle) {
        if (!(ds->order = nw_arena_array(&s->arena, ds->count, sizeof *ds->order))) return NW_E_MEMORY;
        ds->random.state = options->seed;
        shuffle(ds);
    }
    return NW_OK;
}

static nw_status choose_preprocess(nw_dataset *ds, const char *path, const char *spec) {
    const nw_source *s = ds->source;
    if (!spec && nw_source_is_images(s) && s->needs_preprocess)
        return nw_fail(
            ds->ctx, NW_E_ARGUMENT,
            "%s: images need to be told how they become the model's input: give --preprocess, for example "
            "\"imagenet\" or \"resize=32x32,scale=1/255\", exactly as in training",
            path);
    NW_TRY(nw_preprocess_parse(ds->ctx, spec ? spec : "none", &ds->preprocess));
    char text[NW_PREPROCESS_TEXT];
    if (!nw_source_is_images(s) &&
        strcmp(nw_preprocess_describe(&ds->preprocess, text, sizeof text), "none") != 0)
        return nw_fail(ds->ctx, NW_E_ARGUMENT,
                       "%s: arrays are fed to the model as they are; preprocessing (\"%s\") is for images",
                       path, spec);
    return NW_OK;
}

nw_status nw_dataset_open(nw_context *ctx, const char *path, const nw_dataset_options *options,
                          nw_dataset **out) {
    nw_dataset_options defaults = nw_dataset_options_default();
    if (!options) options = &defaults;
    nw_dataset *ds = nw_calloc(ctx, 1, sizeof *ds);
    if (!ds) return NW_E_MEMORY;
    ds->ctx = ctx;
    nw_status status;
    NW_TRY_GOTO(status, nw_source_detect(ctx, path, options, &ds->source), done);
    NW_TRY_GOTO(status, choose_preprocess(ds, path, options->preprocess), done);
    if (options->labels) NW_TRY_GOTO(status, nw_source_read_labels(ds->source, options->labels), done);
    NW_TRY_GOTO(status, set_up(ds, options, path), done);
done:
    if (status == NW_OK)
        *out = ds;
    else
        nw_dataset_free(ds);
    return status;
}

nw_status nw_dataset_from_arrays(nw_context *ctx, size_t n_inputs, const char *const *names,
                                 const nw_tensor *inputs, const nw_tensor *labels,
                                 const nw_dataset_options *options, nw_dataset **out) {
    nw_dataset_options defaults = nw_dataset_options_default();
    if (!options) options = &defaults;
    nw_dataset *ds = nw_calloc(ctx, 1, sizeof *ds);
    if (!ds) return NW_E_MEMORY;
    ds->ctx = ctx;
    nw_status status = nw_source_from_arrays(ctx, n_inputs, names, inputs, labels, &ds->source);
    if (status == NW_OK) status = set_up(ds, options, "arrays");
    if (status == NW_OK)
        *out = ds;
    else
        nw_dataset_free(ds);
    return status;
}

void nw_dataset_free(nw_dataset *ds) {
    if (!ds) return;
    nw_pipeline_free(ds->pipeline);
    for (size_t i = 0; ds->buffers && i < ds->n_inputs; i++) nw_free(ds->ctx, ds->buffers[i].data);
    nw_free(ds->ctx, ds->labels.data);
    nw_free(ds->ctx, ds->samples.data);
    nw_source_free(ds->source);
    nw_free(ds->ctx, ds);
}

size_t nw_dataset_count(const nw_dataset *ds) {
    return ds->count;
}
size_t nw_dataset_input_count(const nw_dataset *ds) {
    return ds->n_inputs;
}
const nw_dataset_input *nw_dataset_input_at(const nw_dataset *ds, size_t i) {
    return &ds->inputs[i];
}
bool nw_dataset_has_labels(const nw_dataset *ds) {
    return ds->source->labels != NULL;
}
size_t nw_dataset_label_count(const nw_dataset *ds) {
    return ds->source->label_count;
}
size_t nw_dataset_class_count(const nw_dataset *ds) {
    return ds->source->class_count;
}

const char *nw_dataset_class_name(const nw_dataset *ds, size_t index) {
    return index < ds->source->name_count ? ds->source->class_names[index] : NULL;
}

const char *nw_dataset_sample_name(const nw_dataset *ds, size_t i) {
    return ds->source->files && i < ds->count ? ds->source->files[ds->skip + i] : NULL;
}

/* At least `bytes` in the buffer; its content is lost when it grows. */
static nw_status reserve(nw_dataset *ds, store *b, size_t bytes) {
    if (b->data && bytes <= b->bytes) return NW_OK;
    void *fresh = nw_alloc(ds->ctx, bytes);
    if (!fresh) return NW_E_MEMORY;
    nw_free(ds->ctx, b->data);
    *b = (store){fresh, bytes};
    return NW_OK;
}

static nw_status reserve_samples(nw_dataset *ds, store *b, size_t samples, size_t each) {
    size_t bytes;
    if (!nw_mul_size(samples, each, &bytes))
        return nw_fail(ds->ctx, NW_E_MEMORY, "a batch of %zu samples does not fit into memory", samples);
    return reserve(ds, b, bytes);
}

/* ---- the pipeline's job */

static nw_status take_image(void *user, nw_context *ctx, size_t i, nw_slot *slot) {
    nw_dataset *ds = user;
    return ds->source->ops->image(ds->source, ctx, ds->skip + place(ds, i), &slot->image);
}

static nw_status load_image(void *user, nw_context *ctx, size_t i, nw_slot *slot) {
    nw_dataset *ds = user;
    nw_source *s = ds->source;
    const size_t sample = ds->skip + place(ds, i);
    if (!s->ops->sequential) NW_TRY(s->ops->image(s, ctx, sample, &slot->image));
    const nw_image *image = &slot->image;
    nw_status status =
        nw_preprocess_shape(ctx, &ds->preprocess, image->width, image->height, image->channels, slot->dims);
    if (status == NW_OK) {
        size_t floats = nw_dims_product(slot->dims, 0, 3);
        if (floats > slot->capacity) {
            nw_free(ctx, slot->data);
            slot->capacity = 0;
            if (!(slot->data = nw_alloc(ctx, floats * sizeof *slot->data))) return NW_E_MEMORY;
            slot->capacity = floats;
        }
        status = nw_preprocess_apply(ctx, &ds->preprocess, &slot->image, slot->data);
    }
    if (status != NW_OK && s->files) return nw_fail_where(ctx, status, "%s", s->files[sample]);
    return status;
}

/* Images of one shape → ds->tensors[0] [n,…]; *n samples. */
static nw_status next_images(nw_dataset *ds, size_t most, size_t *n) {
    if (!ds->pipeline) {
        nw_pipeline_job job = {ds->count, ds->source->ops->sequential ? take_image : NULL, load_image, ds};
        NW_TRY(nw_pipeline_new(ds->ctx, &job, ds->workers, most < MOST_AHEAD ? most : MOST_AHEAD,
                               &ds->pipeline));
    }
    nw_tensor *t = ds->tensors;
    size_t floats = 0;
    for (*n = 0; *n < most; ++*n) {
        nw_slot *slot;
        NW_TRY(nw_pipeline_peek(ds->pipeline, &slot));
        if (*n == 0) {
            floats = nw_dims_product(slot->dims, 0, 3);
            NW_TRY(reserve_samples(ds, ds->buffers, most, floats * sizeof(float)));
            *t = (nw_tensor){.format = NW_F32, .rank = 4, .data = ds->buffers->data};
            memcpy(t->dims + 1, slot->dims, sizeof slot->dims);
        } else if (memcmp(t->dims + 1, slot->dims, sizeof slot->dims) != 0) {
            break;
        }
        memcpy((float *)t->data + *n * floats, slot->data, floats * sizeof(float));
        nw_pipeline_pop(ds->pipeline);
    }
    t->dims[0] = (int64_t)*n;
    return NW_OK;
}

/* Rows of every input → ds->tensors[i] [most,…]. */
static nw_status next_rows(nw_dataset *ds, size_t most) {
    nw_source *s = ds->source;
    for (size_t i = 0; i < ds->n_inputs; i++) {
        const nw_dataset_input *in = &ds->inputs[i];
        nw_tensor *t = &ds->tensors[i];
        size_t row = nw_dims_product(in->dims, 0, in->rank) * (size_t)nw_format_bits(in->format) / 8;
        NW_TRY(reserve_samples(ds, &ds->buffers[i], most, row));
        *t = (nw_tensor){.format = in->format, .rank = in->rank + 1, .data = ds->buffers[i].data};
        t->dims[0] = (int64_t)most;
        for (int d = 0; d < in->rank; d++) t->dims[d + 1] = in->dims[d];
        if (!ds->order) {
            NW_TRY(s->ops->rows(s, ds->ctx, i, ds->skip + ds->position, most, t->data));
            continue;
        }
        for (size_t k = 0; k < most; k++)
            NW_TRY(s->ops->rows(s, ds->ctx, i, ds->skip + place(ds, ds->position + k), 1,
                                (uint8_t *)t->data + k * row));
    }
    return NW_OK;
}

/* Labels and places of the n samples from ds->position on. */
static nw_status next_labels(nw_dataset *ds, size_t n, nw_batch *batch) {
    const nw_source *s = ds->source;
    NW_TRY(reserve_samples(ds, &ds->samples, n, sizeof(size_t)));
    size_t *samples = ds->samples.data;
    for (size_t k = 0; k < n; k++) samples[k] = place(ds, ds->position + k);
    batch->samples = samples;
    if (!s->labels) return NW_OK;
    NW_TRY(reserve_samples(ds, &ds->labels, n, s->label_count * sizeof(int64_t)));
    int64_t *labels = ds->labels.data;
    for (size_t k = 0; k < n; k++)
        memcpy(labels + k * s->label_count, s->labels + (ds->skip + samples[k]) * s->label_count,
               s->label_count * sizeof *labels);
    batch->labels = labels;
    return NW_OK;
}

static nw_status next_batch(nw_dataset *ds, size_t most, nw_batch *batch) {
    size_t n = most;
    if (nw_source_is_images(ds->source))
        NW_TRY(next_images(ds, most, &n));
    else
        NW_TRY(next_rows(ds, most));
    NW_TRY(next_labels(ds, n, batch));
    batch->count = n;
    batch->inputs = ds->tensors;
    ds->position += n;
    return NW_OK;
}

nw_status nw_dataset_next(nw_dataset *ds, size_t max_batch, nw_batch *batch) {
    if (max_batch == 0) return nw_fail(ds->ctx, NW_E_ARGUMENT, "the batch size must be at least 1");
    if (ds->failed != NW_OK) return nw_fail(ds->ctx, ds->failed, "%s", ds->message);
    nw_batch b = {.first = ds->position, .n_inputs = ds->n_inputs};
    size_t left = ds->count - ds->position, most = max_batch < left ? max_batch : left;
    if (most) {
        nw_status status = next_batch(ds, most, &b);
        if (status != NW_OK) {
            ds->failed = status;
            memcpy(ds->message, ds->ctx->message, sizeof ds->message);
            return status;
        }
    }
    *batch = b;
    return NW_OK;
}

nw_status nw_dataset_shuffle(nw_dataset *ds, uint64_t seed) {
    ds->random.state = seed;
    return nw_dataset_rewind(ds);
}

nw_status nw_dataset_rewind(nw_dataset *ds) {
    nw_pipeline_free(ds->pipeline); /* before the order changes: its threads read it */
    ds->pipeline = NULL;
    if (ds->order) shuffle(ds);
    ds->position = 0;
    ds->failed = NW_OK;
    return NW_OK;
}

/* snprintf onto the end of buffer[0 … size), whose text has *at characters. */
static void __attribute__((format(printf, 4, 5)))
add(char *buffer, size_t size, size_t *at, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = *at < size ? vsnprintf(buffer + *at, size - *at, format, args) : 0;
    va_end(args);
    if (n > 0) *at += (size_t)n;
    if (*at >= size) *at = size;
}

char *nw_dataset_describe(const nw_dataset *ds, char *buffer, size_t size) {
    const nw_source *s = ds->source;
    size_t at = 0;
    if (size == 0) return buffer;
    buffer[0] = 0;
    add(buffer, size, &at, "%s", s->kind);
    const char *base = nw_path_base(ds->name);
    if (strcmp(base, s->kind) != 0) add(buffer, size, &at, " %s", base);
    add(buffer, size, &at, ": %zu sample%s", ds->count, ds->count == 1 ? "" : "s");
    if (ds->count < s->count) add(buffer, size, &at, " (from %zu of %zu)", ds->skip, s->count);
    for (size_t i = 0; i < ds->n_inputs; i++) {
        const nw_dataset_input *in = &ds->inputs[i];
        add(buffer, size, &at, ",%s%s %s [", in->name ? " " : "", in->name ? in->name : "",
            nw_format_name(in->format));
        for (int d = 0; d < in->rank; d++) {
            if (in->dims[d] < 0)
                add(buffer, size, &at, "%s?", d ? "," : "");
            else
                add(buffer, size, &at, "%s%" PRId64, d ? "," : "", in->dims[d]);
        }
        add(buffer, size, &at, "]");
    }
    if (!s->labels)
        add(buffer, size, &at, ", no labels");
    else if (s->label_count > 1)
        add(buffer, size, &at, ", %zu labels each", s->label_count);
    else if (s->class_count)
        add(buffer, size, &at, ", %zu classes", s->class_count);
    else
        add(buffer, size, &at, ", labels");
    if (ds->order) add(buffer, size, &at, ", shuffled");
    if (nw_source_is_images(s)) {
        char text[NW_PREPROCESS_TEXT];
        add(buffer, size, &at, ", preprocessing %s",
            nw_preprocess_describe(&ds->preprocess, text, sizeof text));
    }
    return buffer;
}
