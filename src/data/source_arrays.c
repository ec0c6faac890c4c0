/* Arrays whose first dimension counts the samples: .npy, .npz, and tensors at hand. */
#include "data/npy.h"
#include "data/source.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct array_input {
    const uint8_t *data; /* all rows, or NULL: streamed */
    nw_npy held;         /* keeps data alive; all-zero when the caller does */
    size_t row;          /* bytes */
    nw_npz_stream *stream;
    size_t entry; /* of the npz */
    size_t at;    /* the row behind the last one read */
} array_input;

typedef struct arrays {
    nw_npz *npz;
    array_input *inputs; /* [s->n_inputs] */
} arrays;

static nw_status stream_rows(arrays *a, nw_context *ctx, array_input *in, size_t first, size_t count,
                             void *out) {
    (void)ctx; /* a stream fails into its own context: the dataset's, as arrays are read by the consumer */
    if (in->stream && first < in->at) {
        nw_npz_stream_free(in->stream);
        in->stream = NULL;
    }
    if (!in->stream) {
        NW_TRY(nw_npz_stream_open(a->npz, in->entry, &in->stream));
        in->at = 0;
    }
    NW_TRY(nw_npz_stream_skip(in->stream, (uint64_t)(first - in->at) * in->row));
    in->at = first;
    nw_status status = nw_npz_stream_read(in->stream, out, count * in->row);
    if (status == NW_OK)
        in->at += count;
    else {
        nw_npz_stream_free(in->stream);
        in->stream = NULL;
    }
    return status;
}

/* Lets the pages of a mapped file that a forward reader has passed leave memory; they can be read again. */
static void leave_behind(const array_input *in, size_t first, size_t end) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), data = (uintptr_t)in->data;
    uintptr_t from = (data + first * in->row) / page * page, to = (data + end * in->row) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

static nw_status array_rows(nw_source *s, nw_context *ctx, size_t input, size_t first, size_t count,
                            void *out) {
    arrays *a = s->impl;
    array_input *in = &a->inputs[input];
    if (!in->data) return stream_rows(a, ctx, in, first, count, out);
    if (in->row) memcpy(out, in->data + first * in->row, count * in->row);
    if (in->held.bytes && in->held.bytes->mapped && first == in->at) leave_behind(in, first, first + count);
    in->at = first + count;
    return NW_OK;
}

static void array_close(nw_source *s) {
    arrays *a = s->impl;
    for (size_t i = 0; i < s->n_inputs; i++) {
        nw_npz_stream_free(a->inputs[i].stream);
        nw_npy_free(&a->inputs[i].held);
    }
    nw_npz_free(a->npz);
}

static const nw_source_ops array_ops = {.rows = array_rows, .close = array_close};

static nw_status new_arrays(nw_context *ctx, const char *kind, size_t most_inputs, nw_source **out) {
    nw_source *s;
    NW_TRY(nw_source_new(ctx, &array_ops, kind, sizeof(arrays), &s));
    arrays *a = s->impl;
    a->inputs = nw_arena_array(&s->arena, most_inputs, sizeof *a->inputs);
    s->inputs = nw_arena_array(&s->arena, most_inputs, sizeof *s->inputs);
    if (!a->inputs || !s->inputs) {
        nw_source_free(s);
        return NW_E_MEMORY;
    }
    *out = s;
    return NW_OK;
}

/* One more input of this format and shape [N, …]; *in is its (zeroed) place. where: for messages. */
static nw_status add_input(nw_source *s, const char *where, const char *name, const nw_tensor *t,
                           array_input **in) {
    if (t->qparam || t->format == NW_NONE || nw_format_kind(t->format) == NW_KIND_STRING ||
        nw_format_bits(t->format) % 8)
        return nw_fail(s->ctx, NW_E_TYPE, "%s: inputs of type %s%s cannot be batched", where,
                       t->qparam ? "quantized " : "", nw_format_name(t->format));
    if (t->rank < 1 || t->dims[0] < 1)
        return nw_fail(s->ctx, NW_E_DATA,
                       "%s: the array's first dimension must count the samples; it has none", where);
    if (s->n_inputs && (size_t)t->dims[0] != s->count)
        return nw_fail(s->ctx, NW_E_DATA, "%s: has %lld samples, the input before it %zu", where,
                       (long long)t->dims[0], s->count);
    arrays *a = s->impl;
    nw_dataset_input *input = &s->inputs[s->n_inputs];
    *in = &a->inputs[s->n_inputs];
    (*in)->row = nw_dims_product(t->dims, 1, t->rank) * (size_t)nw_format_bits(t->format) / 8;
    *input = (nw_dataset_input){.format = t->format, .rank = t->rank - 1};
    for (int d = 1; d < t->rank; d++) input->dims[d - 1] = t->dims[d];
    if (name && !(input->name = nw_arena_strdup(&s->arena, name))) return NW_E_MEMORY;
    s->count = (size_t)t->dims[0];
    s->n_inputs++;
    return NW_OK;
}

nw_status nw_source_open_npy(nw_context *ctx, const char *path, nw_source **out) {
    nw_source *s;
    nw_npy npy;
    array_input *in;
    NW_TRY(nw_npy_map(ctx, path, &npy));
    nw_status status = new_arrays(ctx, "npy array", 1, &s);
    if (status != NW_OK) {
        nw_npy_free(&npy);
        return status;
    }
    status = add_input(s, path, NULL, &npy.tensor, &in);
    if (status == NW_OK) {
        in->held = npy;
        in->data = npy.tensor.data;
        *out = s;
    } else {
        nw_npy_free(&npy);
        nw_source_free(s);
    }
    return status;
}

static bool is_label_name(const char *name) {
    return strcmp(name, "labels") == 0 || strcmp(name, "label") == 0;
}

static nw_status add_entry(nw_source *s, const char *path, size_t entry, bool in_memory) {
    arrays *a = s->impl;
    const char *name = nw_npz_name(a->npz, entry);
    char where[512];
    array_input *in;
    snprintf(where, sizeof where, "%s: array \"%s\"", path, name);
    nw_npz_stream *stream = NULL;
    nw_status status = in_memory ? NW_E_UNSUPPORTED : nw_npz_stream_open(a->npz, entry, &stream);
    if (status == NW_OK) {
        status = add_input(s, where, name, nw_npz_stream_shape(stream), &in);
        if (status == NW_OK) {
            in->entry = entry;
            in->stream = stream;
        } else {
            nw_npz_stream_free(stream);
        }
        return status;
    }
    if (status != NW_E_UNSUPPORTED) return status;
    nw_npy npy; /* wanted in memory, or in Fortran order */
    NW_TRY(nw_npz_read(a->npz, entry, &npy));
    status = add_input(s, where, name, &npy.tensor, &in);
    if (status == NW_OK) {
        in->held = npy;
        in->data = npy.tensor.data;
    } else {
        nw_npy_free(&npy);
    }
    return status;
}

static nw_status add_entries(nw_source *s, const char *path, bool in_memory) {
    arrays *a = s->impl;
    size_t count = nw_npz_count(a->npz), labels = count;
    for (size_t i = 0; i < count; i++) {
        if (is_label_name(nw_npz_name(a->npz, i)))
            labels = i;
        else
            NW_TRY(add_entry(s, path, i, in_memory));
    }
    if (s->n_inputs == 0) return nw_fail(s->ctx, NW_E_DATA, "%s: holds no input arrays", path);
    if (labels == count) return NW_OK;
    nw_npy npy;
    char where[512];
    NW_TRY(nw_npz_read(a->npz, labels, &npy));
    snprintf(where, sizeof where, "%s: array \"%s\"", path, nw_npz_name(a->npz, labels));
    nw_status status = nw_source_set_labels(s, where, &npy.tensor);
    nw_npy_free(&npy);
    return status;
}

nw_status nw_source_open_npz(nw_context *ctx, const char *path, bool in_memory, nw_source **out) {
    nw_npz *npz;
    nw_source *s;
    NW_TRY(nw_npz_open(ctx, path, &npz));
    nw_status status = new_arrays(ctx, "npz arrays", nw_npz_count(npz), &s);
    if (status != NW_OK) {
        nw_npz_free(npz);
        return status;
    }
    ((arrays *)s->impl)->npz = npz;
    status = add_entries(s, path, in_memory);
    if (status == NW_OK)
        *out = s;
    else
        nw_source_free(s);
    return status;
}

nw_status nw_source_from_arrays(nw_context *ctx, size_t n_inputs, const char *const *names,
                                const nw_tensor *inputs, const nw_tensor *labels, nw_source **out) {
    nw_source *s;
    if (n_inputs == 0) return nw_fail(ctx, NW_E_ARGUMENT, "a data set needs at least one input array");
    NW_TRY(new_arrays(ctx, "arrays", n_inputs, &s));
    nw_status status = NW_OK;
    for (size_t i = 0; i < n_inputs && status == NW_OK; i++) {
        const char *name = names ? names[i] : NULL;
        char where[256];
        array_input *in;
        snprintf(where, sizeof where, "input %zu%s%s", i, name ? " " : "", name ? name : "");
        status = nw_tensor_check(ctx, &inputs[i]);
        if (status == NW_OK && !inputs[i].data)
            status = nw_fail(ctx, NW_E_ARGUMENT, "%s: has no data", where);
        if (status == NW_OK) status = add_input(s, where, name, &inputs[i], &in);
        if (status == NW_OK) in->data = inputs[i].data;
    }
    if (status == NW_OK && labels) status = nw_source_set_labels(s, "labels", labels);
    if (status == NW_OK)
        *out = s;
    else
        nw_source_free(s);
    return status;
}
