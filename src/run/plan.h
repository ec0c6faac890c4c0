/* plan.h: a plan: the steps that compute a graph for concrete shapes on this machine, and how it is made.
 *
 * A value of the graph has up to four physical forms, made on demand: its real elements or 8-bit codes, in ONNX's order or
 * channels-last. Lowering walks the nodes in order; each chooses a kernel, asks for its inputs in the forms the kernel
 * wants (which inserts conversions) and says in which form it makes its outputs.
 * Private to run/. */
#ifndef NW_RUN_PLAN_H
#define NW_RUN_PLAN_H

#include "kern/dwconv.h"
#include "kern/elementwise.h"
#include "kern/gemm.h"
#include "kern/layout.h"
#include "kern/pool.h"
#include "op/op.h"
#include "run/bind.h"
#include "run/run.h"
#include "run/threads.h"

typedef enum nw_form {
    NW_FORM_REAL = 0,       /* the value's own format, ONNX order */
    NW_FORM_REAL_LAST = 1,  /* channels last: [N,C,…] stored as [N,…,C] */
    NW_FORM_CODES = 2,      /* u8 codes on the value's grid, ONNX order */
    NW_FORM_CODES_LAST = 3, /* u8 codes, channels last */
    NW_FORM_COUNT
} nw_form;
#define NW_FORM_LAST_BIT  1
#define NW_FORM_CODES_BIT 2

/* A grid of 8-bit codes as the machine has it: always u8 (signed codes are stored +128). scale 0: not on a grid. */
typedef struct nw_grid {
    float scale;
    int32_t zero, lo, hi;
} nw_grid;

typedef enum nw_buffer_kind {
    NW_BUFFER_WORK,
    NW_BUFFER_CONSTANT,
    NW_BUFFER_INPUT,
    NW_BUFFER_LATE
} nw_buffer_kind;

typedef struct nw_buffer {
    nw_buffer_kind kind;
    nw_tensor tensor;     /* physical format and dims; data of constants */
    int value;            /* of the graph, in one of its forms; NW_ABSENT: bytes of a step's own */
    int alias;            /* shares the bytes of this buffer, or −1 */
    int input;            /* of INPUT: index among the graph's inputs */
    int first, last;      /* steps between which the bytes live */
    size_t bytes, offset; /* of WORK: in the workspace */
} nw_buffer;

typedef struct nw_exec nw_exec;
typedef struct nw_step nw_step;
typedef nw_status nw_step_fn(nw_exec *exec, const nw_step *step);

struct nw_step {
    nw_step_fn *run;   /* NULL: left out */
    const void *state; /* in the plan's arena */
    int in_count, out_count;
    const int *in, *out; /* buffers; −1: absent */
    const char *op, *name, *kernel;
    const char *reason; /* why not something faster, or "" */
    nw_work work;
};

typedef struct nw_plan {
    nw_context *ctx;
    nw_arena arena;
    nw_graph *graph; /* bound; owns the constants */
    nw_buffer *buffers;
    size_t buffer_capacity;
    int buffer_count;
    nw_step *steps;
    size_t step_capacity;
    int step_count;
    int *outputs;              /* buffer of each graph output */
    size_t workspace, weights; /* bytes */
    /* identity: the shapes of the inputs and the values of those that decide shapes */
    int input_count;
    nw_tensor *inputs; /* data: the value the plan was made for, or NULL */
    uint64_t used;     /* when last, for eviction */
    double *step_ms;   /* [step_count] of the latest profiled run */
} nw_plan;

/* Values shown to a tap: marks[v] for v < count. */
typedef struct nw_taps {
    const uint8_t *marks;
    int count;
    bool any_layout;
} nw_taps;

/* One run of a plan. */
struct nw_exec {
    nw_context *ctx;
    const nw_plan *plan;
    nw_threads *threads; /* NULL: one thread */
    void **data;         /* [buffer_count] */
    nw_tensor *late;     /* [buffer_count] tensors of LATE buffers */
    nw_arena *scratch;   /* of the running step */
    nw_arena *kept;      /* of this run: late tensors */
    nw_tap_fn *tap;
    void *tap_user;
};

/* Some channels of every pixel of a channels-last buffer: where a value lies that has no buffer of its own (yet). */
typedef struct nw_strip {
    int buffer;            /* −1: nowhere */
    size_t offset, stride; /* bytes: of the first pixel's, from pixel to pixel */
} nw_strip;

typedef struct nw_planner {
    nw_context *ctx;
    nw_plan *plan;
    nw_graph *graph;
    const nw_tensor *desc; /* per value */
    nw_uses uses;
    const nw_run_options *options;
    const nw_taps *taps;
    uint8_t *done;                /* per node: lowered, alone or fused into an earlier one */
    int (*buffer)[NW_FORM_COUNT]; /* per value; −1: not there (yet) */
    nw_grid *grid;                /* per value */
    nw_strip *strip;              /* per value: codes if it lies on a grid, else real numbers */
    int (*row_grid)
        [2]; /* per value whose codes have a scale and zero point per row, found while running: their
                                     buffers (f32, s32); −1: none */
    bool *one_row_grid; /* per value with a row_grid: all of its rows have the same */
    /* per value that a BatchNormalization in training mode reads: the buffer of the batch's statistics; per result of a Relu
     * behind it: what the normalization read; −1: none (lower_norm.c) */
    int *statistics, *normal;
    int fused;        /* the value that the node being lowered makes through fusion, or NW_ABSENT */
    nw_arena scratch; /* while one node is lowered */
    nw_elementwise ew;
    nw_layout layout;
    nw_pool pools;
} nw_planner;

static inline bool nw_plan_tapped(const nw_planner *p, int v) {
    return v < p->taps->count && p->taps->marks[v];
}

/* ---- making plans (plan.c) ---------------------------------------------------------------------------------- */

/* inputs[i]: format, shape and data of graph->inputs[i] (NW_NONE for those that are constants). The data is looked at only
 * where a shape depends on it. */
nw_status nw_plan_make(nw_context *ctx, const nw_graph *graph, int input_count, const nw_tensor *inputs,
                       const nw_taps *taps, const nw_run_options *options, nw_plan **out);
void nw_plan_free(nw_plan *plan);

/* ---- the planner's tools (forms.c, follow.c, layer.c) ------------------------------------------------------------ */

#define NW_PLAN_SLACK 64 /* bytes behind every buffer that kernels may read */

/* Buffer of value v in a form; inserts the conversions it takes. */
nw_status nw_plan_need(nw_planner *p, int v, nw_form form, int *buffer);
/* Where v lies channels-last, as codes or as real numbers: its strip, for those who can read one, or a buffer of it alone,
 * made as nw_plan_need does. */
nw_status nw_plan_need_strip(nw_planner *p, int v, bool codes, nw_strip *strip);
/* A place for v, codes on this grid that a layer is about to make, channels-last in the output of the Concat that alone reads
 * it and puts it on the same grid; it becomes v's strip. place->buffer −1: there is none (lower_move.c). */
nw_status nw_plan_concat_place(nw_planner *p, int v, const nw_grid *grid, nw_strip *place);
/* A new buffer that holds value v in this form. */
nw_status nw_plan_define(nw_planner *p, int v, nw_form form, int *buffer);
/* The same, over the bytes of x, which the next step reads from buffer `from`, if nothing else will read them: for steps that
 * may run in place. */
nw_status nw_plan_define_over(nw_planner *p, int x, int from, int v, nw_form form, int *buffer);
nw_status nw_plan_define_input(nw_planner *p, int i); /* the graph's input i, where the caller has it */
/* A new buffer of any bytes, alive during the next step only. */
nw_status nw_plan_temporary(nw_planner *p, size_t bytes, int *buffer);
/* Packed weights and other constants of the plan: NW_ALIGN-aligned, counted in plan->weights. */
nw_status nw_plan_constant(nw_planner *p, size_t bytes, void **data);
/* Codes of value `to` on its grid, from a buffer of real numbers in the same layout. */
nw_status nw_plan_quantize(nw_planner *p, const nw_node *node, int from, int to, nw_form form, int *buffer);
/* Constant v is packed: the original will not be read again for this plan. */
void nw_plan_packed(const nw_planner *p, int v);
void nw_plan_touch(nw_planner *p, int buffer); /* alive until the latest step at least */
/* Appends a step; state, in, out are copied into the plan's arena. */
nw_status nw_plan_step(nw_planner *p, const nw_node *node, nw_step_fn *run, const char *kernel,
                       const void *state, size_t state_size, int in_count, const int *in, int out_count,
                       const int *out);
#define NW_PLAN_STEP(p, node, run, kernel, state, in, out)                                                   \
    nw_plan_step(p, node, run, kernel, state, sizeof *(state), (int)(sizeof(in) / sizeof *(in)), in,         \
                 (int)(sizeof(out) / sizeof *(out)), out)
void nw_plan_reason(nw_planner *p, const char *reason); /* of the latest step */
/* What a product [m,k]·[k,n] of codes or of real numbers takes on one thread, roughly, in nanoseconds. A single row waits for the
 * weights. */
static inline double nw_product_nanoseconds(bool codes, size_t m, size_t n, size_t k) {
    return (double)(m > 2 ? m : 2) * (double)n * (double)k / (codes ? 200 : 50);
}
/* Adds this many multiply-adds, of codes or of real numbers, to the latest step's work. */
void nw_plan_work(nw_planner *p, bool codes, double multiply_adds);

bool nw_plan_has(const nw_planner *p, int v, nw_form form); /* without a conversion */
/* Whether v's cheapest form is channels-last. */
bool nw_plan_prefers_last(const nw_planner *p, int v);
static inline bool nw_plan_on_grid(const nw_planner *p, int v) {
    return v >= 0 && p->grid[v].scale > 0;
}
static inline nw_form nw_form_of(bool codes, bool last) {
    return (nw_form)((codes ? NW_FORM_CODES_BIT : 0) | (last ? NW_FORM_LAST_BIT : 0));
}
/* The real f32 values of constant v (packed ones dequantized), or NULL when v is no constant of real numbers. */
nw_status nw_plan_real_constant(nw_planner *p, int v, const float **values, size_t *count);
/* Physical dims of a value's channels-last form. */
void nw_last_dims(const nw_tensor *t, int64_t *dims);

/* What follows a layer and can be computed in its epilogue: an optional Relu or Clip, then an optional FakeQuant on 8 bits. */
typedef struct nw_follow {
    int value;                /* the value that the fused step makes */
    float lo, hi;             /* clamp in real numbers; ±inf: none */
    nw_grid grid;             /* of value when codes come out; scale 0: real numbers */
    int nodes[3], node_count; /* fused: to be marked done */
    int32_t code_lo, code_hi; /* the clamp on the grid, within grid.lo … grid.hi */
} nw_follow;
/* What can be fused behind value v, made by a node being lowered; codes false: the FakeQuant stays out. */
nw_status nw_plan_follow(nw_planner *p, int v, bool codes, nw_follow *out);
void nw_plan_fuse(nw_planner *p,
                  const nw_follow *follow); /* marks the nodes done, gives the value its grid */
/* Node that is the only reader of v (v is no output and not tapped), or NULL. */
nw_node *nw_plan_only_reader(const nw_planner *p, int v);
/* The 8-bit grid of a static per-tensor FakeQuant node; false for any other kind. */
nw_status nw_plan_fakequant_grid(nw_planner *p, const nw_node *node, nw_grid *grid, bool *ok);
/* Whether v is rounded to 8 bits with one grid: a static one, or one found while running for its only reader. */
nw_status nw_plan_rounded(nw_planner *p, int v, bool *ok);
/* Whether v is rounded to grids found while running, one or one for each row, for its only reader. */
nw_status nw_plan_rounded_rows(nw_planner *p, int v, bool *ok);
bool nw_grid_equal(const nw_grid *a, const nw_grid *b);
int32_t nw_grid_code(const nw_grid *g, float x);

/* Packed 8-bit weights as kernels take them: s8 codes in ONNX order, with the real meaning scale[n]·(w − zero[n]). */
typedef struct nw_weights {
    const int8_t *codes;
    const float *scale;  /* [channels] */
    const int32_t *zero; /* [channels], or NULL when all are 0 */
    size_t channels;
    int bits, least; /* codes are least … least + 2^bits − 1 */
} nw_weights;
/* *ok false: v is no constant of codes of at most 8 bits (binary ones too) with one scale, or one per element of `axis`. Arrays are in p->scratch, zero in
 * the plan's arena. */
nw_status nw_plan_weights(nw_planner *p, int v, int axis, nw_weights *out, bool *ok);
/* The epilogue of an integer layer (kern/epilogue.h): x on grid `x`, real bias [channels] or NULL, col_sums of the weights;
 * u8 codes on follow->grid, or real numbers. Arrays are in the plan's arena. */
nw_status nw_plan_epilogue(nw_planner *p, const nw_grid *x, const nw_weights *w, const float *bias,
                           const int32_t *col_sums, const nw_follow *follow, nw_epilogue *out);

/* Where all rows have one grid, found while running (row_scale, row_zero), it goes into the columns' arrays, which are made in
 * `room`: n·(sizeof(float) + sizeof(int32_t)) bytes. */
void nw_epilogue_take_grid(nw_epilogue *e, size_t n, void *room);

/* An nw_op_call for a node of the bound graph, inputs described. */
nw_status nw_plan_call(nw_planner *p, const nw_node *node, nw_op_call *call);

/* ---- lowering, one file per family: *ok false: declined, the next or eval takes the node ------------------------- */

nw_status nw_lower_conv(nw_planner *p, nw_node *node, bool *ok);           /* lower_conv.c */
nw_status nw_lower_conv_transpose(nw_planner *p, nw_node *node, bool *ok); /* lower_conv_transpose.c */
nw_status nw_lower_outer(nw_planner *p, nw_node *node, bool *ok); /* lower_outer.c: gradients of weights */
nw_status nw_lower_grad(nw_planner *p, nw_node *node,
                        bool *ok); /* lower_grad.c: slopes, pools, column sums */
nw_status nw_lower_matmul(nw_planner *p, nw_node *node, bool *ok);      /* lower_matmul.c */
nw_status nw_lower_pool(nw_planner *p, nw_node *node, bool *ok);        /* lower_pool.c */
nw_status nw_lower_elementwise(nw_planner *p, nw_node *node, bool *ok); /* lower_elementwise.c */
nw_status nw_lower_channels(nw_planner *p, nw_node *node, bool *ok);  /* lower_channels.c: shuffles, slices */
nw_status nw_lower_move(nw_planner *p, nw_node *node, bool *ok);      /* lower_move.c */
nw_status nw_lower_fakequant(nw_planner *p, nw_node *node, bool *ok); /* follow.c */
nw_status nw_lower_real_fakequant(nw_planner *p, nw_node *node, bool *ok); /* lower_fakequant.c */
nw_status nw_lower_norm(nw_planner *p, nw_node *node,
                        bool *ok); /* lower_norm.c: of batches, and its gradient */
nw_status nw_lower_rows(nw_planner *p, nw_node *node,
                        bool *ok); /* lower_rows.c: softmax, layer normalization */
nw_status nw_lower_dynamic(nw_planner *p, nw_node *node, bool *ok);   /* lower_dynamic.c */
nw_status nw_lower_rnn(nw_planner *p, nw_node *node, bool *ok);       /* lower_rnn.c: LSTM, GRU */
nw_status nw_lower_attention(nw_planner *p, nw_node *node, bool *ok); /* lower_attention.c */
nw_status nw_lower_gather(nw_planner *p, nw_node *node, bool *ok);    /* lower_gather.c: of packed tables */
nw_status nw_lower_eval(nw_planner *p, nw_node *node);                /* lower.c */
/* Whether a node multiplies `codes`, its left-hand side, image or sequence, as they are; images have one grid. */
nw_status nw_matmul_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok);
nw_status nw_conv_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok);
nw_status nw_attention_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok);
nw_status nw_rnn_takes_codes(nw_planner *p, const nw_node *node, int codes, bool *ok);
/* A step that evaluates the node on these buffers, in whatever layout and format they have. */
nw_status nw_plan_eval_step(nw_planner *p, const nw_node *node, const int *in, const int *out);

/* ---- execution (session.c) ---------------------------------------------------------------------------------------- */

static inline void *nw_exec_data(const nw_exec *e, int buffer) {
    return buffer < 0 ? NULL : e->data[buffer];
}
/* Runs fn(user, begin, end) over [0,count) in chunks of a multiple of `unit`, on several threads when the work (roughly, in
 * nanoseconds on one thread) is worth waking them. */
typedef void nw_range_fn(void *user, size_t begin, size_t end);
void nw_exec_parallel(const nw_exec *e, size_t count, size_t unit, double nanoseconds, nw_range_fn *fn,
                      void *user);

/* The same for a product of m rows and n columns in tiles of mr × nr: fn(user, m0, m1, n0, n1). */
typedef struct nw_product_split {
    size_t m, mr, n, nr;
    double nanoseconds;
} nw_product_split;
typedef void nw_product_fn(void *user, size_t m0, size_t m1, size_t n0, size_t n1);
void nw_exec_product(const nw_exec *e, const nw_product_split *split, nw_product_fn *fn, void *user);

/* Codes of n numbers on the u8 grid of their own range, which *scale and *zero get (lower_dynamic.c). */
void nw_quantize_measured(const nw_elementwise *ew, size_t n, const float *x, uint8_t *codes, float *scale,
                          int32_t *zero);

/* Evaluates a node whose shapes are only known now, and the subgraphs of control flow (late.c). values of the enclosing
 * graphs come from `outer`. */
typedef struct nw_late_state {
    const nw_graph *graph;
    const nw_node *node;
    int out_count;
    const int *outer_values, *outer_buffers; /* values read by the node's subgraphs */
    int outer_count;
} nw_late_state;
nw_status nw_late_run(nw_exec *exec, const nw_step *step);
/* The tensor in a buffer: shape and data, whether known when planning or late. */
nw_tensor nw_exec_tensor(const nw_exec *e, int buffer);

#endif
