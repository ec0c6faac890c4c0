/* elementwise.c: the engine of elementwise.h: broadcasting walks, type conversion of runs, evaluation of
 * unary and binary formulas. The formulas themselves are in unary.c, activation.c, binary.c and compare.c. */
#include "op/elementwise.h"

#include <string.h>

/* ---- broadcasting -------------------------------------------------------------------------------------- */

/* Two neighbouring axes are one when every operand crosses from the inner to the outer without a jump. */
static bool mergeable(const nw_walk *w, int outer, int64_t inner_dim, const int64_t *inner) {
    for (int i = 0; i < w->operands; i++)
        if (w->strides[i][outer] != inner[i] * inner_dim) return false;
    return true;
}

bool nw_walk_start(nw_walk *w, const nw_tensor *out, int operands, const nw_tensor *const *in) {
    *w = (nw_walk){.operands = operands, .run = 1};
    if (nw_tensor_count(out) == 0) return false;
    int64_t strides[NW_WALK_OPERANDS][NW_MAX_RANK];
    for (int i = 0; i < operands; i++) nw_broadcast_strides(in[i], out, strides[i]);
    for (int d = 0; d < out->rank; d++) {
        int64_t here[NW_WALK_OPERANDS] = {0};
        if (out->dims[d] == 1) continue;
        for (int i = 0; i < operands; i++) here[i] = strides[i][d];
        int at = w->rank;
        if (at > 0 && mergeable(w, at - 1, out->dims[d], here)) {
            at--;
            w->dims[at] *= out->dims[d];
        } else {
            w->dims[at] = out->dims[d];
            w->rank++;
        }
        for (int i = 0; i < operands; i++) w->strides[i][at] = here[i];
    }
    if (w->rank > 0) { /* the innermost axis is the run: there a stride is 0 or 1 */
        w->rank--;
        w->run = (size_t)w->dims[w->rank];
        for (int i = 0; i < operands; i++) w->step[i] = (size_t)w->strides[i][w->rank];
    }
    return true;
}

bool nw_walk_next(nw_walk *w) {
    const int64_t *strides[NW_WALK_OPERANDS];
    for (int i = 0; i < w->operands; i++) strides[i] = w->strides[i];
    w->out += w->run;
    return nw_next_index(w->rank, w->dims, w->index, w->operands, strides, w->offset);
}

/* ---- element types ------------------------------------------------------------------------------------- */

/* Truncation towards zero as Cast does it, defined for every double: NaN gives 0, the range saturates at 64
 * bits. */
static int64_t truncate_s64(double x) {
    if (x != x) return 0;
    if (x >= 18446744073709551616.0) return -1;
    if (x >= 9223372036854775808.0) return (int64_t)(uint64_t)x; /* the bits of a u64 */
    return x < -9223372036854775808.0 ? INT64_MIN : (int64_t)x;
}

/* out[i] = in[i], converted as C does. */
#define CONVERT(name, From, To)                                                                              \
    static void name(const void *in, void *out, size_t n) {                                                  \
        const From *x = in;                                                                                  \
        To *y = out;                                                                                         \
        for (size_t i = 0; i < n; i++) y[i] = (To)x[i];                                                      \
    }
CONVERT(s64_from_u8, uint8_t, int64_t)
CONVERT(s64_from_s8, int8_t, int64_t)
CONVERT(s64_from_u16, uint16_t, int64_t)
CONVERT(s64_from_s16, int16_t, int64_t)
CONVERT(s64_from_u32, uint32_t, int64_t)
CONVERT(s64_from_s32, int32_t, int64_t)
CONVERT(u8_from_s64, int64_t, uint8_t)
CONVERT(u16_from_s64, int64_t, uint16_t)
CONVERT(u32_from_s64, int64_t, uint32_t)
CONVERT(f64_from_f32, float, double)
CONVERT(f64_from_s64, int64_t, double)
CONVERT(f64_from_u64, uint64_t, double)
CONVERT(f32_from_f64, double, float)
CONVERT(f32_from_s64, int64_t, float)
CONVERT(f32_from_u64, uint64_t, float)

/* `count` elements from element `first`, to or from 64-bit integers and doubles. Integers wrap when stored,
 * doubles are truncated in integer formats and rounded in float formats. */
static void load_run_s64(nw_format format, const void *data, size_t first, size_t count, int64_t *out) {
    const char *at = (const char *)data + first * nw_format_size(format);
    switch ((int)format) {
    case NW_U8: s64_from_u8(at, out, count); return;
    case NW_BOOL:
        for (size_t i = 0; i < count; i++) out[i] = ((const uint8_t *)data)[first + i] != 0;
        return;
    case NW_S8: s64_from_s8(at, out, count); return;
    case NW_U16: s64_from_u16(at, out, count); return;
    case NW_S16: s64_from_s16(at, out, count); return;
    case NW_U32: s64_from_u32(at, out, count); return;
    case NW_S32: s64_from_s32(at, out, count); return;
    case NW_U64:
    case NW_S64: memcpy(out, at, count * sizeof *out); return;
    case NW_F32:
        for (size_t i = 0; i < count; i++) out[i] = truncate_s64(((const float *)(const void *)at)[i]);
        return;
    default: break;
    }
    bool real = nw_format_is_float(format);
    for (size_t i = 0; i < count; i++)
        out[i] =
            real ? truncate_s64(nw_load_f64(format, data, first + i)) : nw_load_s64(format, data, first + i);
}

static void store_run_s64(nw_format format, const int64_t *in, size_t count, void *data, size_t first) {
    char *at = (char *)data + first * nw_format_size(format);
    switch ((int)format) {
    case NW_U8:
    case NW_S8: u8_from_s64(in, at, count); return;
    case NW_U16:
    case NW_S16: u16_from_s64(in, at, count); return;
    case NW_U32:
    case NW_S32: u32_from_s64(in, at, count); return;
    case NW_U64:
    case NW_S64: memmove(at, in, count * sizeof *in); return;
    case NW_F32: f32_from_s64(in, at, count); return; /* not by way of double: that would round twice */
    default:
        for (size_t i = 0; i < count; i++) nw_store_s64(format, data, first + i, in[i]);
    }
}

static void load_run_f64(nw_format format, const void *data, size_t first, size_t count, double *out) {
    const char *at = (const char *)data + first * nw_format_size(format);
    switch ((int)format) {
    case NW_F32: f64_from_f32(at, out, count); return;
    case NW_F64: memcpy(out, at, count * sizeof *out); return;
    case NW_S64: f64_from_s64(at, out, count); return;
    case NW_U64: f64_from_u64(at, out, count); return;
    default:
        for (size_t i = 0; i < count; i++) out[i] = nw_load_f64(format, data, first + i);
    }
}

static void store_run_f64(nw_format format, const double *in, size_t count, void *data, size_t first) {
    char *at = (char *)data + first * nw_format_size(format);
    switch ((int)format) {
    case NW_F32: f32_from_f64(in, at, count); return;
    case NW_F64: memmove(at, in, count * sizeof *in); return;
    default:
        for (size_t i = 0; i < count; i++) {
            if (nw_format_is_integer(format))
                nw_store_s64(format, data, first + i, truncate_s64(in[i]));
            else
                nw_store_f64(format, data, first + i, in[i]);
        }
    }
}

/* Floats of 16 bits and less. Halves overflow to infinity, `saturate` or not; f4e2m1 has no NaN: −0 stands
 * for it. */
static void store_run_small(nw_format format, const double *in, size_t count, void *data, size_t first,
                            bool saturate) {
    for (size_t i = 0; i < count; i++) {
        double x = format == NW_F4E2M1 && in[i] != in[i] ? -0.0 : in[i];
        nw_store_f64_as(format, data, first + i, x, saturate);
    }
}

#define CHUNK 256 /* elements converted at a time: buffers stay in the first-level cache */

void nw_cast_run(nw_format from, const void *in, nw_format to, void *out, size_t count, bool saturate) {
    size_t bytes;
    if (from == to && nw_format_bytes(to, count, &bytes)) {
        if (bytes) memcpy(out, in, bytes);
        return;
    }
    bool exact = from == NW_BOOL || nw_format_is_integer(from);     /* 64-bit integers pass unrounded */
    bool fussy = nw_format_is_float(to) && nw_format_bits(to) < 32; /* overflow rules, small sizes */
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at < CHUNK ? count - at : CHUNK;
        double real[CHUNK];
        int64_t whole[CHUNK];
        if (to == NW_F32 && !exact && nw_format_bits(from) < 32) {
            nw_decode_f32(from, in, at, n, (float *)out + at);
            continue;
        }
        if (from == NW_F32 && to == NW_BF16) {
            for (size_t i = at; i < at + n; i++)
                ((uint16_t *)out)[i] = nw_bf16_from_f32(((const float *)in)[i]);
            continue;
        }
        bool to_real = nw_format_is_float(to) && (!exact || from == NW_U64 || fussy || to == NW_F64);
        if (to == NW_F32 && from == NW_U64) {
            f32_from_u64((const uint64_t *)in + at, (float *)out + at, n);
        } else if (to_real || (to == NW_BOOL && !exact)) {
            load_run_f64(from, in, at, n, real);
            if (!fussy)
                store_run_f64(to, real, n, out, at);
            else
                store_run_small(to, real, n, out, at, saturate && nw_format_bits(to) <= 8);
        } else {
            load_run_s64(from, in, at, n, whole);
            store_run_s64(to, whole, n, out, at);
        }
    }
}

nw_status nw_call_cast(const nw_op_call *call, const nw_tensor *t, nw_format to, nw_tensor *out) {
    *out = *t;
    if (t->format == to) return NW_OK;
    out->format = to;
    NW_TRY(nw_tensor_alloc(call->scratch, out));
    if (nw_format_bits(to) < 8) memset(out->data, 0, nw_tensor_bytes(out));
    nw_cast_run(t->format, t->data, to, out->data, nw_tensor_count(t), true);
    return NW_OK;
}

/* Halves count as f32: nw_op_eval widens them. Sub-byte integers are storage only. */
static int working_type(nw_format f) {
    switch (nw_format_kind(f)) {
    case NW_KIND_FLOAT:
        return f == NW_F32 || f == NW_F16 || f == NW_BF16 ? NW_F32 : f == NW_F64 ? NW_F64 : NW_NONE;
    case NW_KIND_SINT: return nw_format_bits(f) < 8 ? NW_NONE : NW_S64;
    case NW_KIND_UINT: return nw_format_bits(f) < 8 ? NW_NONE : f == NW_U64 ? NW_U64 : NW_S64;
    case NW_KIND_BOOL: return NW_BOOL;
    case NW_KIND_STRING: return NW_STR;
    default: return NW_NONE;
    }
}

static nw_status refuse(const nw_op_call *call, nw_format format) {
    return nw_call_fail(call, NW_E_TYPE, "it does not take elements of type %s", nw_format_name(format));
}

nw_status nw_call_same_format(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b) {
    nw_format f = nw_real_format(a), g = nw_real_format(b);
    if (f == g) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "its inputs must have the same type, they have %s and %s",
                        nw_format_name(f), nw_format_name(g));
}

/* ---- one operand --------------------------------------------------------------------------------------- */

static nw_unary_run *unary_run_of(const nw_unary *op, nw_format f) {
    switch (working_type(f)) {
    case NW_F32: return op->f32;
    case NW_F64: return op->f64;
    case NW_S64: return op->s64;
    case NW_U64: return op->u64;
    case NW_BOOL: return op->flag;
    default: return op->small_floats && nw_format_kind(f) == NW_KIND_FLOAT ? op->f32 : NULL;
    }
}

nw_status nw_unary_infer(nw_op_call *call, const nw_unary *op) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    nw_format format = nw_real_format(x);
    if (!unary_run_of(op, format)) return refuse(call, format);
    return nw_call_set(call, 0, op->to_bool ? NW_BOOL : format, x->rank, x->dims);
}

void nw_unary_apply(const nw_unary *op, const double *p, const nw_tensor *x, nw_tensor *y) {
    size_t count = nw_tensor_count(x);
    nw_unary_run *run = unary_run_of(op, x->format);
    int work = working_type(x->format);
    if (work == (int)x->format) {
        run(count, x->data, p, y->data);
        return;
    }
    union {
        int64_t s64[CHUNK];
        float f32[CHUNK];
    } buffer;
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at < CHUNK ? count - at : CHUNK;
        if (work == NW_S64)
            load_run_s64(x->format, x->data, at, n, buffer.s64);
        else
            nw_decode_f32(x->format, x->data, at, n, buffer.f32);
        if (op->to_bool) {
            run(n, &buffer, p, (uint8_t *)y->data + at);
        } else {
            run(n, &buffer, p, &buffer);
            if (work == NW_S64)
                store_run_s64(y->format, buffer.s64, n, y->data, at);
            else
                nw_encode_f32(y->format, buffer.f32, n, y->data, at);
        }
    }
}

nw_status nw_unary_eval(nw_op_call *call, const nw_unary *op) {
    double p[NW_UNARY_PARAMS] = {0};
    for (int i = 0; i < NW_UNARY_PARAMS && op->attr[i].name; i++) {
        const nw_attr *a = nw_node_attr(call->node, op->attr[i].name);
        p[i] = !a ? op->attr[i].absent
               : a->kind == NW_ATTR_INT
                   ? (double)a->i
                   : (double)nw_node_float(call->node, op->attr[i].name, (float)op->attr[i].absent);
    }
    nw_unary_apply(op, p, call->in[0], &call->out[0]);
    return NW_OK;
}

/* ---- two operands -------------------------------------------------------------------------------------- */

static nw_binary_run *binary_run_of(const nw_binary *op, nw_format f) {
    switch (working_type(f)) {
    case NW_F32: return op->f32;
    case NW_F64: return op->f64;
    case NW_S64: return op->s64;
    case NW_U64: return op->u64;
    case NW_BOOL: return op->flag;
    case NW_STR: return op->text;
    default: return NULL;
    }
}

bool nw_binary_accepts(const nw_binary *op, nw_format format) {
    return binary_run_of(op, format) != NULL;
}

nw_status nw_binary_infer(nw_op_call *call, const nw_binary *op) {
    const nw_tensor *in[2];
    nw_tensor shape;
    NW_TRY(nw_call_require(call, 0, &in[0]));
    NW_TRY(nw_call_require(call, 1, &in[1]));
    NW_TRY(nw_call_same_format(call, in[0], in[1]));
    nw_format format = nw_real_format(in[0]);
    if (!nw_binary_accepts(op, format)) return refuse(call, format);
    NW_TRY(nw_call_broadcast(call, in, 2, &shape));
    return nw_call_set(call, 0, op->to_bool ? NW_BOOL : format, shape.rank, shape.dims);
}

/* A run of narrow integers: operands widen to s64 by chunks, results wrap back. */
static void narrow_run(const nw_binary *op, const nw_walk *w, const nw_tensor *a, const nw_tensor *b,
                       nw_tensor *y) {
    int64_t p[CHUNK], q[CHUNK], r[CHUNK];
    for (size_t at = 0, n; at < w->run; at += n) {
        n = w->run - at < CHUNK ? w->run - at : CHUNK;
        size_t from_a = (size_t)w->offset[0] + at * w->step[0],
               from_b = (size_t)w->offset[1] + at * w->step[1];
        load_run_s64(a->format, a->data, from_a, w->step[0] ? n : 1, p);
        load_run_s64(b->format, b->data, from_b, w->step[1] ? n : 1, q);
        if (op->to_bool) {
            op->s64(n, p, w->step[0], q, w->step[1], (uint8_t *)y->data + w->out + at);
        } else {
            op->s64(n, p, w->step[0], q, w->step[1], r);
            store_run_s64(y->format, r, n, y->data, w->out + at);
        }
    }
}

void nw_binary_apply(const nw_binary *op, const nw_tensor *a, const nw_tensor *b, nw_tensor *y) {
    nw_walk w;
    nw_binary_run *run = binary_run_of(op, a->format);
    bool direct = working_type(a->format) == (int)a->format;
    int64_t in_size = (int64_t)nw_format_size(a->format);
    size_t out_size = nw_format_size(y->format);
    for (bool more = nw_walk_start(&w, y, 2, (const nw_tensor *[]){a, b}); more; more = nw_walk_next(&w)) {
        if (!direct) {
            narrow_run(op, &w, a, b, y);
            continue;
        }
        run(w.run, (const char *)a->data + w.offset[0] * in_size, w.step[0],
            (const char *)b->data + w.offset[1] * in_size, w.step[1], (char *)y->data + w.out * out_size);
    }
}

nw_status nw_binary_eval(nw_op_call *call, const nw_binary *op) {
    nw_binary_apply(op, call->in[0], call->in[1], &call->out[0]);
    return NW_OK;
}

/* ---- roles --------------------------------------------------------------------------------------------- */

void nw_roles_unary_integer(const nw_node *node, nw_roles *roles) {
    nw_roles_unary_float(node, roles);
    roles->compute = true;
}

void nw_roles_unary_float(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
}

void nw_roles_view(const nw_node *node, nw_roles *roles) {
    nw_roles_unary_float(node, roles);
    roles->same_grid = true;
}
