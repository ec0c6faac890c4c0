#include "data/npy.h"

#include <inttypes.h>
#include <string.h>

/* Header text: a Python dict literal, {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }. */
typedef struct scanner {
    nw_context *ctx;
    const char *name;
    const char *at, *end;
} scanner;

static nw_status broken(const scanner *s, const char *what) {
    return nw_fail(s->ctx, NW_E_FORMAT, "%s: not a valid .npy array: %s", s->name, what);
}

static void skip_space(scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r')) s->at++;
}

static bool accept(scanner *s, char c) {
    skip_space(s);
    if (s->at >= s->end || *s->at != c) return false;
    s->at++;
    return true;
}

static bool scan_text(scanner *s, const char **text, size_t *length) {
    skip_space(s);
    if (s->at >= s->end || (*s->at != '\'' && *s->at != '"')) return false;
    char quote = *s->at++;
    *text = s->at;
    while (s->at < s->end && *s->at != quote) s->at++;
    if (s->at >= s->end) return false;
    *length = (size_t)(s->at++ - *text);
    return true;
}

static bool scan_word(scanner *s, const char *word) {
    skip_space(s);
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
    s->at += n;
    return true;
}

static bool is(const char *text, size_t length, const char *word) {
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static const struct {
    char kind;
    int size, swap; /* bytes; bytes that swap as one */
    nw_format format;
} dtypes[] = {
    {'f', 4, 4, NW_F32}, {'f', 8, 8, NW_F64},   {'f', 2, 2, NW_F16}, {'i', 1, 1, NW_S8},
    {'i', 2, 2, NW_S16}, {'i', 4, 4, NW_S32},   {'i', 8, 8, NW_S64}, {'u', 1, 1, NW_U8},
    {'u', 2, 2, NW_U16}, {'u', 4, 4, NW_U32},   {'u', 8, 8, NW_U64}, {'b', 1, 1, NW_BOOL},
    {'c', 8, 4, NW_C64}, {'c', 16, 8, NW_C128},
};
#define DTYPES (sizeof dtypes / sizeof *dtypes)

static nw_status parse_descr(const scanner *s, const char *text, size_t length, nw_npy_header *h) {
    size_t at = 0;
    bool big = false;
    if (at < length && strchr("<>=|", text[at])) big = text[at++] == '>';
    if (length - at >= 2 && length - at <= 3) {
        int size = 0;
        for (size_t i = at + 1; i < length; i++) {
            if (text[i] < '0' || text[i] > '9')
                size = -100;
            else
                size = size * 10 + (text[i] - '0');
        }
        for (size_t i = 0; i < DTYPES; i++) {
            if (dtypes[i].kind != text[at] || dtypes[i].size != size) continue;
            h->shape.format = dtypes[i].format;
            h->element = (size_t)size;
            h->unit = (size_t)dtypes[i].swap;
            h->big_endian = big && h->unit > 1;
            return NW_OK;
        }
    }
    return nw_fail(s->ctx, NW_E_UNSUPPORTED,
                   "%s: element type '%.*s' is not supported; save it as a plain number type, for example "
                   "array.astype('float32')",
                   s->name, (int)(length > 40 ? 40 : length), text);
}

static nw_status parse_shape(scanner *s, nw_tensor *shape) {
    if (!accept(s, '(')) return broken(s, "its shape is not a tuple");
    while (!accept(s, ')')) {
        int64_t n = 0;
        skip_space(s);
        const char *from = s->at;
        for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++)
            if (__builtin_mul_overflow(n, (int64_t)10, &n) ||
                __builtin_add_overflow(n, (int64_t)(*s->at - '0'), &n))
                return broken(s, "a dimension is too large");
        if (s->at == from) return broken(s, "its shape is not a tuple of whole numbers");
        if (s->at < s->end && *s->at == 'L') s->at++; /* Python 2 wrote long integers so */
        if (shape->rank == NW_MAX_RANK)
            return nw_fail(s->ctx, NW_E_UNSUPPORTED, "%s: the array has more than %d dimensions", s->name,
                           NW_MAX_RANK);
        shape->dims[shape->rank++] = n;
        if (!accept(s, ',')) {
            if (!accept(s, ')')) return broken(s, "its shape is not a tuple of whole numbers");
            break;
        }
    }
    return NW_OK;
}

static nw_status parse_dict(scanner *s, nw_npy_header *h) {
    bool descr = false, order = false, shape = false;
    if (!accept(s, '{')) return broken(s, "its header is not a dictionary");
    while (!accept(s, '}')) {
        const char *key, *text;
        size_t length, n;
        if (!scan_text(s, &key, &length) || !accept(s, ':'))
            return broken(s, "its header is not a dictionary");
        if (is(key, length, "descr")) {
            skip_space(s);
            if (s->at < s->end && *s->at == '[')
                return nw_fail(s->ctx, NW_E_UNSUPPORTED, "%s: arrays of structures are not supported",
                               s->name);
            if (!scan_text(s, &text, &n)) return broken(s, "its element type is not a text");
            NW_TRY(parse_descr(s, text, n, h));
            descr = true;
        } else if (is(key, length, "fortran_order")) {
            if (scan_word(s, "True"))
                h->fortran = true;
            else if (scan_word(s, "False"))
                h->fortran = false;
            else
                return broken(s, "fortran_order is neither True nor False");
            order = true;
        } else if (is(key, length, "shape")) {
            h->shape.rank = 0;
            NW_TRY(parse_shape(s, &h->shape));
            shape = true;
        } else {
            return broken(s, "its header has an unknown entry");
        }
        if (!accept(s, ',')) {
            if (!accept(s, '}')) return broken(s, "its header is not a dictionary");
            break;
        }
    }
    if (!descr || !order || !shape) return broken(s, "its header lacks descr, fortran_order or shape");
    if (h->shape.rank <= 1) h->fortran = false;
    return NW_OK;
}

nw_status nw_npy_parse_header(nw_context *ctx, const char *name, const uint8_t *data, size_t size,
                              nw_npy_header *header) {
    scanner s = {ctx, name, NULL, NULL};
    size_t magic = size < 6 ? size : 6;
    if (memcmp(data, "\x93NUMPY", magic) != 0) return broken(&s, "it does not start with the NumPy mark");
    nw_npy_header h = {.offset = 12};
    if (size < 12) {
        *header = h;
        return NW_OK;
    }
    size_t text, length;
    if (data[6] == 1) {
        text = 10;
        length = (size_t)data[8] | (size_t)data[9] << 8;
    } else if (data[6] == 2 || data[6] == 3) {
        text = 12;
        length = (size_t)data[8] | (size_t)data[9] << 8 | (size_t)data[10] << 16 | (size_t)data[11] << 24;
    } else {
        return nw_fail(ctx, NW_E_UNSUPPORTED, "%s: .npy version %d is not supported (1, 2 and 3 are)", name,
                       data[6]);
    }
    if (length > (1 << 20)) return broken(&s, "its header is longer than any plain array needs");
    h.offset = text + length;
    if (h.offset < 12) return broken(&s, "its header is empty");
    if (h.offset <= size) {
        s.at = (const char *)data + text;
        s.end = s.at + length;
        NW_TRY(parse_dict(&s, &h));
        nw_status status = nw_tensor_check(ctx, &h.shape);
        if (status != NW_OK) return nw_fail_where(ctx, status, "%s", name);
    }
    *header = h;
    return NW_OK;
}

void nw_npy_swap(uint8_t *data, size_t bytes, size_t unit) {
    for (size_t i = 0; i + unit <= bytes; i += unit)
        for (size_t a = 0, b = unit - 1; a < b; a++, b--) {
            uint8_t t = data[i + a];
            data[i + a] = data[i + b];
            data[i + b] = t;
        }
}

/* in has the first dimension fastest, out the last. */
static void from_fortran(const nw_npy_header *h, const uint8_t *in, uint8_t *out) {
    int64_t index[NW_MAX_RANK] = {0};
    size_t stride[NW_MAX_RANK], step = h->element, count = nw_tensor_count(&h->shape), at = 0;
    for (int d = 0; d < h->shape.rank; d++) {
        stride[d] = step;
        step *= (size_t)h->shape.dims[d];
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(out + i * h->element, in + at, h->element);
        for (int d = h->shape.rank - 1; d >= 0; d--) {
            at += stride[d];
            if (++index[d] < h->shape.dims[d]) break;
            at -= stride[d] * (size_t)h->shape.dims[d];
            index[d] = 0;
        }
    }
}

void nw_npy_convert(const nw_npy_header *h, const uint8_t *in, uint8_t *out) {
    size_t bytes = nw_tensor_bytes(&h->shape);
    if (h->fortran)
        from_fortran(h, in, out);
    else if (bytes)
        memcpy(out, in, bytes);
    if (h->big_endian) nw_npy_swap(out, bytes, h->unit);
}

/* The header of a complete file, and its elements. */
static nw_status parse_whole(nw_context *ctx, const char *name, const nw_bytes *bytes, nw_npy_header *h,
                             const uint8_t **elements) {
    NW_TRY(nw_npy_parse_header(ctx, name, bytes->data, bytes->size, h));
    if (h->offset > bytes->size)
        return nw_fail(ctx, NW_E_FORMAT, "%s: the file ends inside its header (%zu bytes)", name,
                       bytes->size);
    size_t need = nw_tensor_bytes(&h->shape), have = bytes->size - h->offset;
    if (need > have)
        return nw_fail(ctx, NW_E_FORMAT,
                       "%s: the file is cut: its array has %zu bytes, the file holds %zu of them", name, need,
                       have);
    *elements = bytes->data + h->offset;
    return NW_OK;
}

nw_status nw_npy_parse(nw_context *ctx, const char *name, nw_bytes *bytes, nw_npy *out) {
    nw_npy_header h;
    const uint8_t *elements;
    NW_TRY(parse_whole(ctx, name, bytes, &h, &elements));
    nw_npy npy = {.tensor = h.shape};
    if (!h.fortran && !h.big_endian && (uintptr_t)elements % h.unit == 0) {
        npy.bytes = nw_bytes_ref(bytes);
        npy.tensor.data = (void *)(uintptr_t)elements;
    } else {
        NW_TRY(nw_bytes_new(ctx, nw_tensor_bytes(&h.shape), &npy.bytes));
        npy.tensor.data = (void *)(uintptr_t)npy.bytes->data;
        nw_npy_convert(&h, elements, npy.tensor.data);
    }
    *out = npy;
    return NW_OK;
}

nw_status nw_npy_map(nw_context *ctx, const char *path, nw_npy *out) {
    nw_bytes *bytes;
    NW_TRY(nw_bytes_map(ctx, path, &bytes));
    nw_status status = nw_npy_parse(ctx, path, bytes, out);
    nw_bytes_free(bytes);
    return status;
}

void nw_npy_free(nw_npy *npy) {
    if (!npy) return;
    nw_bytes_free(npy->bytes);
    *npy = (nw_npy){0};
}

nw_status nw_npy_read(nw_arena *arena, const char *path, nw_tensor *out) {
    nw_bytes *bytes;
    nw_npy_header h;
    const uint8_t *elements;
    NW_TRY(nw_bytes_map(arena->ctx, path, &bytes));
    nw_status status = parse_whole(arena->ctx, path, bytes, &h, &elements);
    if (status == NW_OK) status = nw_tensor_alloc(arena, &h.shape);
    if (status == NW_OK) {
        nw_npy_convert(&h, elements, h.shape.data);
        *out = h.shape;
    }
    nw_bytes_free(bytes);
    return status;
}

/* What a format is written as. */
static nw_format stored_as(const nw_tensor *t) {
    if (t->qparam) return NW_F32;
    for (size_t i = 0; i < DTYPES; i++)
        if (dtypes[i].format == t->format) return t->format;
    switch (nw_format_kind(t->format)) {
    case NW_KIND_FLOAT: return NW_F32;
    case NW_KIND_SINT: return NW_S8; /* those numpy lacks are below 8 bits */
    case NW_KIND_UINT: return NW_U8;
    default: return NW_NONE;
    }
}

static void write_header(nw_output *out, const nw_tensor *t, nw_format format) {
    char text[512], head[10] = "\x93NUMPY\x01";
    size_t i = 0;
    while (dtypes[i].format != format) i++;
    int n = snprintf(text, sizeof text, "{'descr': '%c%c%d', 'fortran_order': False, 'shape': (",
                     dtypes[i].size == 1 ? '|' : '<', dtypes[i].kind, dtypes[i].size);
    for (int d = 0; d < t->rank; d++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%" PRId64 "%s", d ? " " : "", t->dims[d],
                      d + 1 < t->rank || t->rank == 1 ? "," : "");
    n += snprintf(text + n, sizeof text - (size_t)n, "), }");
    while ((10 + n + 1) % 64) text[n++] = ' ';
    text[n++] = '\n';
    head[8] = (char)(n & 255);
    head[9] = (char)(n >> 8);
    nw_output_write(out, head, sizeof head);
    nw_output_write(out, text, (size_t)n);
}

nw_status nw_npy_write_to(nw_output *out, const nw_tensor *t) {
    nw_format format = stored_as(t);
    size_t count = nw_tensor_count(t);
    if (format == NW_NONE)
        return out->status =
                   nw_fail(out->ctx, NW_E_UNSUPPORTED, "%s: elements of type %s cannot be written as .npy",
                           out->path, nw_format_name(t->format));
    write_header(out, t, format);
    if (t->qparam) {
        float *real = nw_alloc(out->ctx, count * sizeof *real);
        if (!real) return out->status = NW_E_MEMORY;
        nw_dequantize(t->qparam, t->rank, t->dims, t->data, real);
        nw_output_write(out, real, count * sizeof *real);
        nw_free(out->ctx, real);
    } else if (format == t->format) {
        nw_output_write(out, t->data, nw_tensor_bytes(t));
    } else {
        enum { RUN = 1024 };
        for (size_t first = 0; first < count && out->status == NW_OK; first += RUN) {
            size_t n = count - first < RUN ? count - first : RUN;
            float real[RUN];
            uint8_t codes[RUN];
            if (format == NW_F32) {
                nw_decode_f32(t->format, t->data, first, n, real);
                nw_output_write(out, real, n * sizeof *real);
            } else {
                for (size_t i = 0; i < n; i++) codes[i] = (uint8_t)nw_load_s64(t->format, t->data, first + i);
                nw_output_write(out, codes, n);
            }
        }
    }
    return out->status;
}

nw_status nw_npy_write(nw_context *ctx, const char *path, const nw_tensor *t) {
    nw_output out;
    NW_TRY(nw_output_open(ctx, &out, path));
    if (nw_npy_write_to(&out, t) == NW_OK) return nw_output_commit(&out);
    nw_status status = out.status;
    nw_output_abort(&out);
    return status;
}
