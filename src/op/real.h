/* real.h: what operators on real numbers share: shape checks in words, and access to elements of any real
 * format as float or double. (nw_op_eval has turned packed constants and halves into f32 before an operator
 * sees them.) Must not include anything but base/, num/, ir/ and op/. */
#ifndef NW_OP_REAL_H
#define NW_OP_REAL_H

#include "op/op.h"

/* ---- for infer: each fails naming the input
 * ------------------------------------------------------------------ */

/* Input i is there and holds f32, f64, f16 or bf16 (or is packed). */
nw_status nw_call_require_real(const nw_op_call *call, int i, const nw_tensor **t);
/* lo ≤ rank ≤ hi. */
nw_status nw_call_expect_rank(const nw_op_call *call, const nw_tensor *t, const char *name, int lo, int hi);
/* Input i, when present, is real and has exactly this shape; absent is fine unless `required`. */
nw_status nw_call_expect_shape(const nw_op_call *call, int i, const char *name, bool required, int rank,
                               const int64_t *dims);
/* Reads an integer attribute and checks lo ≤ value ≤ hi. */
nw_status nw_call_int_attr(const nw_op_call *call, const char *name, int64_t absent, int64_t lo, int64_t hi,
                           int64_t *value);
/* The attribute `name` must have `count` integers in [lo, hi]; absent: all are `absent`. */
nw_status nw_call_ints_attr(const nw_op_call *call, const char *name, int count, int64_t absent, int64_t lo,
                            int64_t hi, int64_t *values);
/* Index of the string attribute's value in `words` (NULL-terminated; words[0] is the default); an unknown
 * word fails, naming the choices. */
nw_status nw_call_word_attr(const nw_op_call *call, const char *name, const char *const *words, int *index);

/* ---- for eval
 * ------------------------------------------------------------------------------------------------- */

/* Elements [first, first+count) of t as double, and back with the format's rounding. */
void nw_load_run(const nw_tensor *t, size_t first, size_t count, double *out);
void nw_store_run(const nw_tensor *t, size_t first, size_t count, const double *in);

/* Input i (NULL when absent) as a plain array of f32 or f64 in scratch; shares the tensor's data when it has
 * that format. */
nw_status nw_call_f32(const nw_op_call *call, int i, const float **data);
nw_status nw_call_f64(const nw_op_call *call, int i, const double **data);
/* Where to compute output i in f32: its own data if it is f32, else scratch that nw_call_f32_done converts.
 * NULL for an output that is not wanted. */
nw_status nw_call_f32_out(const nw_op_call *call, int i, float **data);
void nw_call_f32_done(const nw_op_call *call, int i, const float *data);

#endif
