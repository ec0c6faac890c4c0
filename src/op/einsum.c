/* einsum.c: Einsum, any number of operands, and Det. */
#include "op/index.h"
#include "op/move.h"

#include <math.h>

/* ---- the equation -------------------------------------------------------------------------------------- */

#define LETTERS 52
#define LABELS                                                                                               \
    (LETTERS + NW_MAX_RANK) /* letters, then the dimensions of the ellipsis, counted from its right end */
#define ELLIPSIS LETTERS
#define OPERANDS 16

/* Axis d of an operand (or of the result) runs over label[d]. */
typedef struct term {
    int rank;
    int label[NW_MAX_RANK];
} term;

typedef struct equation {
    int operands, ellipsis; /* ellipsis: dimensions it stands for, in the operand that has the most */
    term in[OPERANDS], out;
    int64_t size[LABELS]; /* −1: not used */
} equation;

static int letter_of(char c) {
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : -1;
}

/* One term up to ',' '-' or the end; `rank` of the operand decides the ellipsis' length (negative: the
 * result, whose ellipsis has all dimensions). */
static nw_status parse_term(const nw_op_call *call, const char **text, int rank, int ellipsis, term *t) {
    int letters = 0;
    for (const char *p = *text; *p && *p != ',' && *p != '-'; p++) letters += letter_of(*p) >= 0;
    int dots = rank < 0 ? ellipsis : rank - letters;
    bool seen_dots = false;
    t->rank = 0;
    if (letters > NW_MAX_RANK || dots > NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "the equation has more than %d dimensions", NW_MAX_RANK);
    for (; **text && **text != ',' && **text != '-'; ++*text) {
        int label = letter_of(**text);
        if (**text == ' ') continue;
        if (label < 0 && strncmp(*text, "...", 3) == 0 && !seen_dots && dots >= 0) {
            if (t->rank + dots > NW_MAX_RANK)
                return nw_call_fail(call, NW_E_UNSUPPORTED, "the equation has more than %d dimensions",
                                    NW_MAX_RANK);
            for (int d = dots - 1; d >= 0; d--) t->label[t->rank++] = ELLIPSIS + d;
            *text += 2;
            seen_dots = true;
        } else if (label < 0) {
            return nw_call_fail(call, NW_E_ARGUMENT, "the equation cannot be read at \"%s\"", *text);
        } else if (t->rank == NW_MAX_RANK) {
            return nw_call_fail(call, NW_E_UNSUPPORTED, "the equation has more than %d dimensions",
                                NW_MAX_RANK);
        } else {
            t->label[t->rank++] = label;
        }
    }
    if (rank >= 0 && t->rank != rank)
        return nw_call_fail(call, NW_E_SHAPE, "the equation names %d dimensions of an operand that has %d",
                            t->rank, rank);
    return NW_OK;
}

/* Without "->" the result has the ellipsis, then every letter that occurs once, in ASCII order. */
static void implicit_result(const char *text, equation *e) {
    int uses[LETTERS] = {0};
    for (; *text; text++)
        if (letter_of(*text) >= 0) uses[letter_of(*text)]++;
    for (int d = e->ellipsis - 1; d >= 0; d--) e->out.label[e->out.rank++] = ELLIPSIS + d;
    for (int l = 0; l < LETTERS; l++)
        if (uses[l] == 1 && e->out.rank < NW_MAX_RANK) e->out.label[e->out.rank++] = l;
}

/* Sizes of the labels; dimensions of 1 broadcast. */
static nw_status take_sizes(const nw_op_call *call, const nw_tensor *x, const term *t, equation *e) {
    for (int d = 0; d < t->rank; d++) {
        int64_t *size = &e->size[t->label[d]];
        if (*size != x->dims[d] && *size >= 0 && *size != 1 && x->dims[d] != 1)
            return nw_call_fail(call, NW_E_SHAPE,
                                "the operands differ in a dimension that the equation gives one name");
        if (*size < 0 || *size == 1) *size = x->dims[d];
    }
    return NW_OK;
}

static nw_status read_equation(const nw_op_call *call, equation *e) {
    const char *whole = nw_node_string(call->node, "equation", ""), *text = whole;
    *e = (equation){.operands = call->in_count};
    for (int l = 0; l < LABELS; l++) e->size[l] = -1;
    if (call->in_count < 1 || call->in_count > OPERANDS)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "%d operands; 1 to %d are supported", call->in_count,
                            OPERANDS);
    for (int i = 0; i < call->in_count; i++) {
        const nw_tensor *x;
        NW_TRY(nw_call_require(call, i, &x));
        if (i > 0 && *text++ != ',')
            return nw_call_fail(call, NW_E_ARGUMENT,
                                "the equation \"%s\" has fewer terms than there are operands", whole);
        NW_TRY(parse_term(call, &text, x->rank, 0, &e->in[i]));
        for (int d = 0; d < e->in[i].rank; d++)
            if (e->in[i].label[d] - ELLIPSIS >= e->ellipsis) e->ellipsis = e->in[i].label[d] - ELLIPSIS + 1;
        NW_TRY(take_sizes(call, x, &e->in[i], e));
    }
    if (*text == 0) {
        implicit_result(whole, e);
    } else {
        if (strncmp(text, "->", 2) != 0)
            return nw_call_fail(call, NW_E_ARGUMENT, "the equation \"%s\" cannot be read at \"%s\"", whole,
                                text);
        text += 2;
        NW_TRY(parse_term(call, &text, -1, e->ellipsis, &e->out));
        if (*text)
            return nw_call_fail(call, NW_E_ARGUMENT, "the equation \"%s\" cannot be read at \"%s\"", whole,
                                text);
    }
    for (int d = 0; d < e->out.rank; d++) {
        bool twice = false;
        for (int k = 0; k < d; k++) twice = twice || e->out.label[k] == e->out.label[d];
        if (twice || e->size[e->out.label[d]] < 0)
            return nw_call_fail(call, NW_E_ARGUMENT,
                                "the result of \"%s\" names a dimension twice or one that no operand has",
                                whole);
    }
    return NW_OK;
}

static nw_status einsum_infer(nw_op_call *call) {
    equation e;
    int64_t dims[NW_MAX_RANK];
    NW_TRY(read_equation(call, &e));
    nw_format format = nw_real_format(call->in[0]);
    if (!nw_format_is_float(format) && !nw_format_is_integer(format))
        return nw_call_fail(call, NW_E_TYPE, "expects numbers, got %s", nw_format_name(format));
    for (int i = 1; i < call->in_count; i++)
        if (nw_real_format(call->in[i]) != format)
            return nw_call_fail(call, NW_E_TYPE, "the operands' types differ");
    for (int d = 0; d < e.out.rank; d++) dims[d] = e.size[e.out.label[d]];
    return nw_call_set_moved(call, 0, call->in[0], e.out.rank, dims);
}

/* ---- evaluation: out[i…] = Σ over the other labels of Π operands ----------------------------------- */

/* Step of operand x when a label advances; a label named twice walks the diagonal. */
static void label_steps(const nw_tensor *x, const term *t, int64_t *steps) {
    int64_t strides[NW_MAX_RANK];
    nw_dims_strides(x->rank, x->dims, strides);
    for (int l = 0; l < LABELS; l++) steps[l] = 0;
    for (int d = 0; d < t->rank; d++)
        if (x->dims[d] != 1) steps[t->label[d]] += strides[d];
}

/* The labels of one of the two loop nests, and how each operand walks them. */
typedef struct loops {
    int rank;
    int64_t dims[LABELS], steps[OPERANDS][LABELS];
} loops;

static void add_loop(loops *l, const equation *e, int64_t steps[OPERANDS][LABELS], int label) {
    l->dims[l->rank] = e->size[label];
    for (int i = 0; i < e->operands; i++) l->steps[i][l->rank] = steps[i][label];
    l->rank++;
}

/* Σ of n products; offset and step per operand. */
static double line_f64(const nw_op_call *call, int64_t n, const int64_t *offset, const int64_t *step) {
    double sum = 0;
    if (call->in_count == 2 && call->in[0]->format == NW_F32) {
        const float *a = (const float *)call->in[0]->data + offset[0],
                    *b = (const float *)call->in[1]->data + offset[1];
        for (int64_t k = 0; k < n; k++) sum += (double)a[k * step[0]] * (double)b[k * step[1]];
        return sum;
    }
    for (int64_t k = 0; k < n; k++) {
        double product = 1;
        for (int i = 0; i < call->in_count; i++)
            product *= nw_tensor_f64(call->in[i], (size_t)(offset[i] + k * step[i]));
        sum += product;
    }
    return sum;
}

static uint64_t line_s64(const nw_op_call *call, int64_t n, const int64_t *offset, const int64_t *step) {
    uint64_t sum = 0;
    for (int64_t k = 0; k < n; k++) {
        uint64_t product = 1;
        for (int i = 0; i < call->in_count; i++)
            product *= (uint64_t)nw_tensor_s64(call->in[i], (size_t)(offset[i] + k * step[i]));
        sum += product;
    }
    return sum;
}

static nw_status einsum_eval(nw_op_call *call) {
    equation e;
    loops outer = {.rank = 0}, inner = {.rank = 0};
    int64_t steps[OPERANDS][LABELS], offset[OPERANDS] = {0}, last[OPERANDS] = {0}, length = 1;
    const int64_t *outer_steps[OPERANDS], *inner_steps[OPERANDS];
    bool kept[LABELS] = {false};
    nw_tensor *out = &call->out[0];
    NW_TRY(read_equation(call, &e));
    size_t count = nw_tensor_count(out);
    if (count == 0) return NW_OK;
    for (int i = 0; i < e.operands; i++) label_steps(call->in[i], &e.in[i], steps[i]);
    for (int d = 0; d < e.out.rank; d++) {
        kept[e.out.label[d]] = true;
        add_loop(&outer, &e, steps, e.out.label[d]);
    }
    for (int l = 0; l < LABELS; l++)
        if (e.size[l] >= 0 && !kept[l]) add_loop(&inner, &e, steps, l);
    bool empty = false;
    for (int l = 0; l < inner.rank; l++) empty = empty || inner.dims[l] == 0;
    if (inner.rank > 0) length = inner.dims[--inner.rank];
    for (int i = 0; i < e.operands; i++) {
        last[i] = inner.steps[i][inner.rank];
        outer_steps[i] = outer.steps[i];
        inner_steps[i] = inner.steps[i];
    }
    int64_t outer_index[NW_MAX_RANK] = {0}, inner_index[LABELS] = {0};
    bool is_float = nw_format_is_float(out->format);
    for (size_t o = 0; o < count; o++) {
        double real = 0;
        uint64_t whole = 0;
        do {
            if (empty) break;
            if (is_float)
                real += line_f64(call, length, offset, last);
            else
                whole += line_s64(call, length, offset, last);
        } while (nw_next_index(inner.rank, inner.dims, inner_index, e.operands, inner_steps, offset));
        if (is_float)
            nw_store_f64(out->format, out->data, o, real);
        else
            nw_store_s64(out->format, out->data, o, (int64_t)whole);
        nw_next_index(outer.rank, outer.dims, outer_index, e.operands, outer_steps, offset);
    }
    return NW_OK;
}

const nw_op nw_op_Einsum = {.name = "Einsum", .domain = "", .infer = einsum_infer, .eval = einsum_eval};

/* ---- Det: [*, M, M] → [*] ---------------------------------------------------------------------------- */

static nw_status det_infer(nw_op_call *call) {
    const nw_tensor *x;
    NW_TRY(nw_call_require(call, 0, &x));
    NW_TRY(nw_call_expect_float(call, x));
    if (x->rank < 2 || x->dims[x->rank - 1] != x->dims[x->rank - 2]) {
        char text[96];
        return nw_call_fail(call, NW_E_SHAPE, "expects square matrices, got %s",
                            nw_tensor_describe(x, text, sizeof text));
    }
    return nw_call_set_moved(call, 0, x, x->rank - 2, x->dims);
}

/* Determinant of a [n,n], which is overwritten: Gaussian elimination with partial pivoting. */
static double determinant(double *a, size_t n) {
    double det = 1;
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t r = k + 1; r < n; r++)
            if (fabs(a[r * n + k]) > fabs(a[pivot * n + k])) pivot = r;
        if (a[pivot * n + k] == 0) return 0;
        if (pivot != k) det = -det;
        for (size_t c = k; c < n && pivot != k; c++) {
            double swap = a[k * n + c];
            a[k * n + c] = a[pivot * n + c];
            a[pivot * n + c] = swap;
        }
        det *= a[k * n + k];
        for (size_t r = k + 1; r < n; r++) {
            double f = a[r * n + k] / a[k * n + k];
            for (size_t c = k + 1; c < n; c++) a[r * n + c] -= f * a[k * n + c];
        }
    }
    return det;
}

static nw_status det_eval(nw_op_call *call) {
    const nw_tensor *x = call->in[0];
    size_t n = (size_t)x->dims[x->rank - 1], count = nw_tensor_count(&call->out[0]);
    double *a;
    NW_TRY(nw_call_scratch(call, n * n, &a));
    for (size_t m = 0; m < count; m++) {
        for (size_t i = 0; i < n * n; i++) a[i] = nw_tensor_f64(x, m * n * n + i);
        nw_store_f64(call->out[0].format, call->out[0].data, m, determinant(a, n));
    }
    return NW_OK;
}

const nw_op nw_op_Det = {.name = "Det", .domain = "", .infer = det_infer, .eval = det_eval};
