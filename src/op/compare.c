/* compare.c: comparisons, logic on bool, and Where. */
#include "op/elementwise.h"

#include <string.h>

#define COMPARE_RUNS(name, symbol)                                                                           \
    NW_BINARY_RUN(name##_f32, float, uint8_t, p symbol q)                                                    \
    NW_BINARY_RUN(name##_f64, double, uint8_t, p symbol q)                                                   \
    NW_BINARY_RUN(name##_s64, int64_t, uint8_t, p symbol q)                                                  \
    NW_BINARY_RUN(name##_u64, uint64_t, uint8_t, p symbol q)

COMPARE_RUNS(greater, >)
static const nw_binary greater_rule = {NW_FLOATS(greater), .s64 = greater_s64, .u64 = greater_u64,
                                       .to_bool = true};
NW_BINARY_OP(Greater, NULL, NULL, greater_rule)

COMPARE_RUNS(at_least, >=)
static const nw_binary at_least_rule = {NW_FLOATS(at_least), .s64 = at_least_s64, .u64 = at_least_u64,
                                        .to_bool = true};
NW_BINARY_OP(GreaterOrEqual, NULL, NULL, at_least_rule)

COMPARE_RUNS(less, <)
static const nw_binary less_rule = {NW_FLOATS(less), .s64 = less_s64, .u64 = less_u64, .to_bool = true};
NW_BINARY_OP(Less, NULL, NULL, less_rule)

COMPARE_RUNS(at_most, <=)
static const nw_binary at_most_rule = {NW_FLOATS(at_most), .s64 = at_most_s64, .u64 = at_most_u64,
                                       .to_bool = true};
NW_BINARY_OP(LessOrEqual, NULL, NULL, at_most_rule)

static bool same_text(nw_str p, nw_str q) {
    return p.size == q.size && (p.size == 0 || memcmp(p.data, q.data, p.size) == 0);
}

COMPARE_RUNS(equal, ==)
NW_BINARY_RUN(equal_flag, uint8_t, uint8_t, !p == !q)
NW_BINARY_RUN(equal_text, nw_str, uint8_t, same_text(p, q))
static const nw_binary equal_rule = {NW_FLOATS(equal),   .s64 = equal_s64,   .u64 = equal_u64,
                                     .flag = equal_flag, .text = equal_text, .to_bool = true};
NW_BINARY_OP(Equal, NULL, NULL, equal_rule)

NW_BINARY_RUN(and_flag, uint8_t, uint8_t, p &&q)
static const nw_binary and_rule = {.flag = and_flag};
NW_BINARY_OP(And, NULL, NULL, and_rule)

NW_BINARY_RUN(or_flag, uint8_t, uint8_t, p || q)
static const nw_binary or_rule = {.flag = or_flag};
NW_BINARY_OP(Or, NULL, NULL, or_rule)

NW_BINARY_RUN(xor_flag, uint8_t, uint8_t, !p != !q)
static const nw_binary xor_rule = {.flag = xor_flag};
NW_BINARY_OP(Xor, NULL, NULL, xor_rule)

/* ---- Where: moves elements by their size, whatever they mean ------------------------------------------- */

typedef struct element16 {
    uint64_t half[2];
} element16;

/* y[i] = c[i·step[0]] ? a[i·step[1]] : b[i·step[2]] for i < n, n ≥ 1, steps 0 or 1. */
typedef void select_run(size_t n, const size_t *step, const uint8_t *c, const void *a, const void *b,
                        void *y);

#define SELECT_RUN(name, T)                                                                                  \
    static inline void name##_steps(size_t n, size_t a_step, size_t b_step, const uint8_t *c, const T *a,    \
                                    const T *b, T *y) {                                                      \
        const T a0 = *a, b0 = *b;                                                                            \
        for (size_t i = 0; i < n; i++) y[i] = c[i] ? (a_step ? a[i] : a0) : (b_step ? b[i] : b0);            \
    }                                                                                                        \
    static void name(size_t n, const size_t *step, const uint8_t *c, const void *a, const void *b,           \
                     void *y) {                                                                              \
        if (!step[0]) { /* one condition for the whole run */                                                \
            const T *from = *c ? a : b;                                                                      \
            size_t s = *c ? step[1] : step[2];                                                               \
            for (size_t i = 0; i < n; i++) ((T *)y)[i] = from[i * s];                                        \
        } else if (step[1]) {                                                                                \
            if (step[2])                                                                                     \
                name##_steps(n, 1, 1, c, a, b, y);                                                           \
            else                                                                                             \
                name##_steps(n, 1, 0, c, a, b, y);                                                           \
        } else {                                                                                             \
            if (step[2])                                                                                     \
                name##_steps(n, 0, 1, c, a, b, y);                                                           \
            else                                                                                             \
                name##_steps(n, 0, 0, c, a, b, y);                                                           \
        }                                                                                                    \
    }
SELECT_RUN(select_1, uint8_t)
SELECT_RUN(select_2, uint16_t)
SELECT_RUN(select_4, uint32_t)
SELECT_RUN(select_8, uint64_t)
SELECT_RUN(select_16, element16)

static select_run *select_of(nw_format format) {
    switch (nw_format_bits(format)) {
    case 8: return select_1;
    case 16: return select_2;
    case 32: return select_4;
    case 64: return select_8;
    case 128: return select_16;
    default: return NULL;
    }
}

static nw_status where_infer(nw_op_call *call) {
    const nw_tensor *in[3];
    nw_tensor shape;
    for (int i = 0; i < 3; i++) NW_TRY(nw_call_require(call, i, &in[i]));
    if (nw_real_format(in[0]) != NW_BOOL)
        return nw_call_fail(call, NW_E_TYPE, "its condition must be bool, it is %s",
                            nw_format_name(in[0]->format));
    NW_TRY(nw_call_same_format(call, in[1], in[2]));
    nw_format format = nw_real_format(in[1]);
    if (!select_of(format))
        return nw_call_fail(call, NW_E_TYPE, "it does not take elements of type %s", nw_format_name(format));
    NW_TRY(nw_call_broadcast(call, in, 3, &shape));
    return nw_call_set(call, 0, format, shape.rank, shape.dims);
}

static nw_status where_eval(nw_op_call *call) {
    const nw_tensor *c = call->in[0], *a = call->in[1], *b = call->in[2];
    nw_tensor *y = &call->out[0];
    select_run *run = select_of(y->format);
    int64_t size = (int64_t)nw_format_size(y->format);
    nw_walk w;
    for (bool more = nw_walk_start(&w, y, 3, (const nw_tensor *[]){c, a, b}); more; more = nw_walk_next(&w))
        run(w.run, w.step, (const uint8_t *)c->data + w.offset[0], (const char *)a->data + w.offset[1] * size,
            (const char *)b->data + w.offset[2] * size, (char *)y->data + (int64_t)w.out * size);
    return NW_OK;
}

/* da = dy where the condition holds, db = dy elsewhere. */
static nw_status where_grad(nw_grad_call *c) {
    for (int i = 1; i < 3; i++) {
        if (!c->wanted[i]) continue;
        int zero = nw_grad_number(c, c->dy[0], 0), dy = c->dy[0];
        nw_grad_begin(c, "", "Where", 3, (int[]){nw_grad_in(c, 0), i == 1 ? dy : zero, i == 1 ? zero : dy});
        c->dx[i] = nw_grad_sum_to(c, nw_grad_end(c), c->node->in[i]);
    }
    return c->status;
}

const nw_op nw_op_Where = {.name = "Where",
                           .domain = "",
                           .flags = NW_OP_RAW,
                           .infer = where_infer,
                           .eval = where_eval,
                           .grad = where_grad};
