/* elementwise.h: how operators that work element by element are described and run. An operator states its
 * formula once per working type, as a loop over a run of elements; broadcasting, the other element types and
 * type checks live here. Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_ELEMENTWISE_H
#define NW_OP_ELEMENTWISE_H

#include "op/grad.h"
#include "op/real.h"

/* ---- broadcasting -------------------------------------------------------------------------------------- */

#define NW_WALK_OPERANDS 3

/* Walks a broadcast result in runs of consecutive elements; within a run an operand either advances with the
 * result or stays on one element. Axes are merged first, so that equal shapes are one single run and a row
 * added to a matrix is one run per row. */
typedef struct nw_walk {
    size_t run;                       /* elements per run, ≥ 1 */
    size_t step[NW_WALK_OPERANDS];    /* 0 or 1: how operand i moves within a run */
    int64_t offset[NW_WALK_OPERANDS]; /* element at which its current run starts */
    size_t out;                       /* element at which the result's current run starts */
    /* private */
    int operands, rank; /* outer axes, after merging */
    int64_t dims[NW_MAX_RANK], index[NW_MAX_RANK], strides[NW_WALK_OPERANDS][NW_MAX_RANK];
} nw_walk;

/* Places the walk on the first run; false when the result has no elements. `in` must broadcast to `out`'s
 * shape. */
bool nw_walk_start(nw_walk *walk, const nw_tensor *out, int operands, const nw_tensor *const *in);
bool nw_walk_next(nw_walk *walk); /* false: that was the last run */

/* ---- element types ------------------------------------------------------------------------------------- */

static inline size_t nw_format_size(nw_format f) {
    return (size_t)nw_format_bits(f) / 8;
} /* of ≥ 8 bits */

/* What Cast means for `count` elements: floats are truncated to integers, integers wrap. `saturate` is for
 * 8-bit floats. Any format but strings and complex numbers; sub-byte results must start out zeroed. */
void nw_cast_run(nw_format from, const void *in, nw_format to, void *out, size_t count, bool saturate);
/* t as a tensor of another format in scratch; shares t's data when it has that format already. */
nw_status nw_call_cast(const nw_op_call *call, const nw_tensor *t, nw_format to, nw_tensor *out);

/* Members of a description whose loops are name_f32 and name_f64. */
#define NW_FLOATS(name) .f32 = name##_f32, .f64 = name##_f64

/* ---- operators of one operand -------------------------------------------------------------------------- */

#define NW_UNARY_PARAMS 2

/* y[i] = f(x[i]) for i < n, n ≥ 0, x == y allowed; p holds the operator's attributes. */
typedef void nw_unary_run(size_t n, const void *x, const double *p, void *y);

/* A formula in its working types; NULL: that kind of element is refused. Integers of fewer than 64 bits are
 * computed in s64 and wrap. */
typedef struct nw_unary {
    nw_unary_run *f32, *f64, *s64, *u64, *flag; /* flag: bool, as uint8_t 0 or 1 */
    bool to_bool;                               /* y is bool whatever x is */
    bool small_floats;                          /* 8-bit floats too, through f32 */
    struct {
        const char *name; /* of a float attribute; NULL: none */
        double absent;
    } attr[NW_UNARY_PARAMS]; /* become p[0], p[1] */
} nw_unary;

nw_status nw_unary_infer(nw_op_call *call, const nw_unary *op);
nw_status nw_unary_eval(nw_op_call *call, const nw_unary *op);
/* The evaluation with parameters that are not plain attributes. */
void nw_unary_apply(const nw_unary *op, const double *p, const nw_tensor *x, nw_tensor *y);

/* Defines the loop `name`: y = expr, an R, in terms of x, a T that the expression may call `real`, and of a
 * and b, the parameters as P. */
#define NW_UNARY_RUN(name, T, P, R, expr)                                                                    \
    static void name(size_t n, const void *in, const double *params, void *out) {                            \
        typedef T real;                                                                                      \
        const real *xs = in;                                                                                 \
        const P a = (P)params[0], b = (P)params[1];                                                          \
        R *ys = out;                                                                                         \
        (void)a, (void)b;                                                                                    \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const real x = xs[i];                                                                            \
            ys[i] = (R)(expr);                                                                               \
        }                                                                                                    \
    }
/* name_f32 and name_f64 from one formula; with <tgmath.h> its functions follow the type. */
#define NW_UNARY_FLOATS(name, expr)                                                                          \
    NW_UNARY_RUN(name##_f32, float, float, float, expr)                                                      \
    NW_UNARY_RUN(name##_f64, double, double, double, expr)
/* The operator nw_op_<symbol> called `text` over the description `rule`, an nw_unary. */
#define NW_UNARY_OP(symbol, text, op_domain, roles_fn, rule)                                                 \
    static nw_status symbol##_infer(nw_op_call *call) {                                                      \
        return nw_unary_infer(call, &(rule));                                                                \
    }                                                                                                        \
    static nw_status symbol##_eval(nw_op_call *call) {                                                       \
        return nw_unary_eval(call, &(rule));                                                                 \
    }                                                                                                        \
    const nw_op nw_op_##symbol = {.name = text,                                                              \
                                  .domain = op_domain,                                                       \
                                  .flags = NW_OP_UNARY,                                                      \
                                  .infer = symbol##_infer,                                                   \
                                  .eval = symbol##_eval,                                                     \
                                  .roles = roles_fn,                                                         \
                                  .grad = nw_grad_unary};

/* ---- operators of two operands ------------------------------------------------------------------------- */

/* y[i] = f(a[i·a_step], b[i·b_step]) for i < n, n ≥ 1, steps 0 or 1. y may be the operand that has step 1. */
typedef void nw_binary_run(size_t n, const void *a, size_t a_step, const void *b, size_t b_step, void *y);

/* As nw_unary; text: strings (nw_str). */
typedef struct nw_binary {
    nw_binary_run *f32, *f64, *s64, *u64, *flag, *text;
    bool to_bool;
} nw_binary;

nw_status nw_binary_infer(nw_op_call *call, const nw_binary *op);
nw_status nw_binary_eval(nw_op_call *call, const nw_binary *op);
/* y = a op b; formats equal and accepted, shapes broadcasting to y's. y may share the data of an operand of
 * its shape. */
void nw_binary_apply(const nw_binary *op, const nw_tensor *a, const nw_tensor *b, nw_tensor *y);
/* Whether the operator takes elements of this format. */
bool nw_binary_accepts(const nw_binary *op, nw_format format);
/* Fails with both types named unless a and b hold the same. */
nw_status nw_call_same_format(const nw_op_call *call, const nw_tensor *a, const nw_tensor *b);

extern const nw_binary nw_binary_add, nw_binary_mul, nw_binary_min, nw_binary_max;

/* Defines the loop `name`: y = expr, in terms of p and q (elements of a and b, each a T). */
#define NW_BINARY_RUN(name, T, R, expr)                                                                      \
    static inline void name##_steps(size_t n, const T *a, size_t a_step, const T *b, size_t b_step, R *y) {  \
        const T a0 = *a, b0 = *b; /* by value: y might point to them for all the compiler knows */           \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const T p = a_step ? a[i] : a0, q = b_step ? b[i] : b0;                                          \
            y[i] = (R)(expr);                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void name(size_t n, const void *a, size_t a_step, const void *b, size_t b_step, void *y) {        \
        if (a_step && b_step)                                                                                \
            name##_steps(n, a, 1, b, 1, y);                                                                  \
        else if (a_step)                                                                                     \
            name##_steps(n, a, 1, b, 0, y);                                                                  \
        else if (b_step)                                                                                     \
            name##_steps(n, a, 0, b, 1, y);                                                                  \
        else                                                                                                 \
            name##_steps(n, a, 0, b, 0, y);                                                                  \
    }
#define NW_BINARY_FLOATS(name, expr)                                                                         \
    NW_BINARY_RUN(name##_f32, float, float, expr)                                                            \
    NW_BINARY_RUN(name##_f64, double, double, expr)
#define NW_BINARY_OP(id, roles_fn, grad_fn, rule)                                                            \
    static nw_status id##_infer(nw_op_call *call) {                                                          \
        return nw_binary_infer(call, &(rule));                                                               \
    }                                                                                                        \
    static nw_status id##_eval(nw_op_call *call) {                                                           \
        return nw_binary_eval(call, &(rule));                                                                \
    }                                                                                                        \
    const nw_op nw_op_##id = {.name = #id,                                                                   \
                              .domain = "",                                                                  \
                              .flags = NW_OP_BINARY,                                                         \
                              .infer = id##_infer,                                                           \
                              .eval = id##_eval,                                                             \
                              .roles = roles_fn,                                                             \
                              .grad = grad_fn};

/* ---- roles (op.h) -------------------------------------------------------------------------------------- */

void nw_roles_unary_integer(const nw_node *node,
                            nw_roles *roles); /* input 0 DATA; a table of codes is worth having */
void nw_roles_unary_float(const nw_node *node,
                          nw_roles *roles);               /* input 0 DATA; fuses elsewhere or stays float */
void nw_roles_view(const nw_node *node, nw_roles *roles); /* input 0 DATA; the output has its grid */

#endif
