/* real.c: shape checks and element access for operators on real numbers. */
#include "op/real.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_real(const nw_tensor *t) {
    nw_format f = nw_real_format(t);
    return f == NW_F32 || f == NW_F64 || f == NW_F16 || f == NW_BF16;
}

nw_status nw_call_require_real(const nw_op_call *call, int i, const nw_tensor **t) {
    NW_TRY(nw_call_require(call, i, t));
    if (is_real(*t)) return NW_OK;
    return nw_call_fail(call, NW_E_TYPE, "input %d must hold floating-point numbers, it holds %s", i,
                        nw_format_name((*t)->format));
}

nw_status nw_call_expect_rank(const nw_op_call *call, const nw_tensor *t, const char *name, int lo, int hi) {
    if (t->rank >= lo && t->rank <= hi) return NW_OK;
    if (lo == hi)
        return nw_call_fail(call, NW_E_SHAPE, "%s must have %d dimensions, it has %d", name, lo, t->rank);
    return nw_call_fail(call, NW_E_SHAPE, "%s must have %d to %d dimensions, it has %d", name, lo, hi,
                        t->rank);
}

nw_status nw_call_expect_shape(const nw_op_call *call, int i, const char *name, bool required, int rank,
                               const int64_t *dims) {
    const nw_tensor *t = nw_call_in(call, i);
    if (!t && !required) return NW_OK;
    NW_TRY(nw_call_require_real(call, i, &t));
    nw_tensor want = {.format = nw_real_format(t)};
    nw_tensor_set_shape(&want, rank, dims);
    if (nw_tensor_same_shape(t, &want)) return NW_OK;
    char has[96], wants[96];
    return nw_call_fail(call, NW_E_SHAPE, "%s is %s, expected %s", name,
                        nw_tensor_describe(t, has, sizeof has),
                        nw_tensor_describe(&want, wants, sizeof wants));
}

static nw_status check_range(const nw_op_call *call, const char *name, int64_t value, int64_t lo,
                             int64_t hi) {
    if (value >= lo && value <= hi) return NW_OK;
    return nw_call_fail(call, NW_E_ARGUMENT,
                        "attribute %s is %" PRId64 ", it must be from %" PRId64 " to %" PRId64, name, value,
                        lo, hi);
}

nw_status nw_call_int_attr(const nw_op_call *call, const char *name, int64_t absent, int64_t lo, int64_t hi,
                           int64_t *value) {
    *value = nw_node_int(call->node, name, absent);
    return check_range(call, name, *value, lo, hi);
}

nw_status nw_call_ints_attr(const nw_op_call *call, const char *name, int count, int64_t absent, int64_t lo,
                            int64_t hi, int64_t *values) {
    const int64_t *given;
    size_t given_count;
    if (!nw_node_ints(call->node, name, &given, &given_count)) {
        for (int i = 0; i < count; i++) values[i] = absent;
        return NW_OK;
    }
    if (given_count != (size_t)count)
        return nw_call_fail(call, NW_E_ARGUMENT, "attribute %s has %zu numbers, expected %d", name,
                            given_count, count);
    for (int i = 0; i < count; i++) {
        values[i] = given[i];
        NW_TRY(check_range(call, name, values[i], lo, hi));
    }
    return NW_OK;
}

nw_status nw_call_word_attr(const nw_op_call *call, const char *name, const char *const *words, int *index) {
    const char *word = nw_node_string(call->node, name, words[0]);
    char list[256] = "";
    size_t at = 0;
    for (int i = 0; words[i]; i++) {
        if (strcmp(word, words[i]) == 0) {
            *index = i;
            return NW_OK;
        }
        if (at < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", words[i]);
    }
    return nw_call_fail(call, NW_E_ARGUMENT, "attribute %s is \"%s\", it must be one of %s", name, word,
                        list);
}

void nw_load_run(const nw_tensor *t, size_t first, size_t count, double *out) {
    if (t->format == NW_F32 && !t->qparam) {
        const float *x = (const float *)t->data + first;
        for (size_t i = 0; i < count; i++) out[i] = (double)x[i];
        return;
    }
    for (size_t i = 0; i < count; i++) out[i] = nw_load_f64(t->format, t->data, first + i);
}

void nw_store_run(const nw_tensor *t, size_t first, size_t count, const double *in) {
    if (t->format == NW_F32) {
        float *y = (float *)t->data + first;
        for (size_t i = 0; i < count; i++) y[i] = (float)in[i];
        return;
    }
    for (size_t i = 0; i < count; i++) nw_store_f64(t->format, t->data, first + i, in[i]);
}

nw_status nw_call_f32(const nw_op_call *call, int i, const float **data) {
    const nw_tensor *t = nw_call_in(call, i);
    *data = NULL;
    if (!t) return NW_OK;
    nw_tensor real;
    NW_TRY(nw_tensor_to_f32(call->scratch, t, &real));
    *data = real.data;
    return NW_OK;
}

nw_status nw_call_f64(const nw_op_call *call, int i, const double **data) {
    const nw_tensor *t = nw_call_in(call, i);
    *data = NULL;
    if (!t) return NW_OK;
    if (t->format == NW_F64) {
        *data = t->data;
        return NW_OK;
    }
    size_t count = nw_tensor_count(t);
    double *copy;
    NW_TRY(nw_call_scratch(call, count, &copy));
    nw_load_run(t, 0, count, copy);
    *data = copy;
    return NW_OK;
}

nw_status nw_call_f32_out(const nw_op_call *call, int i, float **data) {
    *data = NULL;
    if (i >= call->out_count || !nw_call_wants(call, i)) return NW_OK;
    nw_tensor *t = &call->out[i];
    if (t->format == NW_F32) {
        *data = t->data;
        return NW_OK;
    }
    return nw_call_scratch(call, nw_tensor_count(t), data);
}

void nw_call_f32_done(const nw_op_call *call, int i, const float *data) {
    if (data && data != call->out[i].data)
        nw_encode_f32(call->out[i].format, data, nw_tensor_count(&call->out[i]), call->out[i].data, 0);
}
