/* lower_conv_codes.c: convolutions whose weights are decoded in registers (kern/gemm_wcodes.h): of an image on an 8-bit grid with
 * weights that integer kernels know as codes only, having scales per block of input channels or a table of whole steps, where
 * the rows under the window are gathered some at a time; and 1×1 of a few float pixels, for which decoding panels would not
 * pay. */
#include "run/coded.h"
#include "run/conv.h"

#include <string.h>

typedef struct codes_state {
    nw_coded weights;
    size_t m, n, k, taps; /* of a group; k: of a tap */
    bool codes;           /* the image is u8, else f32 */
    bool pointwise;       /* the image's pixels are the rows */
    nw_window window;
    size_t x_offset, ldc; /* bytes */
    size_t rows_at_once;  /* gathered: rows of k·taps bytes, and behind them k bytes of padding */
    float scale;          /* of the image, unless it is found while running */
    int32_t zero;
    const float *bias;
    float lo, hi;
    double work; /* nanoseconds */
} codes_state;

typedef struct codes_job {
    const codes_state *s;
    nw_wcodes w; /* of a group */
    nw_wgemm_u8_args args;
    nw_wgemm_f32_args f32_args;
    nw_rows rows; /* to be gathered from `first` on */
    size_t first;
    uint8_t *gathered;
} codes_job;

#define POINTERS 2048

/* Taps that lie one behind the other are copied together. */
static void copy_row(const codes_state *s, const void *const *at, size_t stride, uint8_t *to) {
    for (size_t t = 0, run; t < s->taps; t += run) {
        const char *from = at[t * stride];
        for (run = 1; t + run < s->taps && at[(t + run) * stride] == from + run * s->k;) run++;
        memcpy(to + t * s->k, from, run * s->k);
    }
}

static void gather_range(void *user, size_t begin, size_t end) {
    const codes_job *j = user;
    const codes_state *s = j->s;
    const void *at[POINTERS];
    for (size_t i = begin, count; i < end; i += count) {
        count = end - i < POINTERS / s->taps ? end - i : POINTERS / s->taps;
        nw_rows_gather(&j->rows, s->taps, j->first + i, count, at, count);
        for (size_t r = 0; r < count; r++) copy_row(s, at + r, count, j->gathered + (i + r) * s->k * s->taps);
    }
}

static void multiply_part(void *user, size_t m0, size_t m1, size_t n0, size_t n1) {
    const codes_job *j = user;
    if (j->s->codes)
        nw_wgemm_u8_run(j->s->weights.kernel, &j->args, m0, m1, n0, n1);
    else
        nw_wgemm_f32_run(j->s->weights.kernel, &j->f32_args, m0, m1, n0, n1);
}

static void run_rows(const nw_exec *e, codes_job *j, size_t m) {
    const codes_state *s = j->s;
    const nw_wgemm_kernel *kernel = s->weights.kernel;
    const size_t mr = s->codes ? kernel->mr_u8 : kernel->mr;
    const double work = s->work * (double)m / (double)(s->m * s->weights.groups);
    nw_exec_product(e, &(nw_product_split){m, mr, s->n, kernel->nr, work}, multiply_part, j);
}

static void run_group(const nw_exec *e, codes_job *j, char *y) {
    const codes_state *s = j->s;
    if (s->pointwise) {
        j->args.m = j->f32_args.m = s->m;
        j->args.a = j->rows.base;
        j->f32_args.a = j->rows.base;
        j->args.lda = j->f32_args.lda = s->window.pixel_stride;
        j->args.c = j->f32_args.c = (float *)(void *)y;
        run_rows(e, j, s->m);
        return;
    }
    j->args.a = j->gathered;
    j->args.lda = s->k * s->taps;
    for (j->first = 0; j->first < s->m; j->first += j->args.m) {
        j->args.m = s->m - j->first < s->rows_at_once ? s->m - j->first : s->rows_at_once;
        j->args.c = (float *)(void *)(y + j->first * s->ldc);
        nw_exec_parallel(e, j->args.m, 8, (double)(j->args.m * s->taps) * (4 + (double)s->k / 16),
                         gather_range, j);
        run_rows(e, j, j->args.m);
    }
}

static nw_status run_codes(nw_exec *e, const nw_step *step) {
    const codes_state *s = step->state;
    const nw_coded *weights = &s->weights;
    const float *scale = nw_exec_data(e, step->in[1]);
    const int32_t *zero = nw_exec_data(e, step->in[2]);
    char *x = (char *)nw_exec_data(e, step->in[0]) + s->x_offset, *y = nw_exec_data(e, step->out[0]);
    codes_job job = {.s = s, .w = weights->w, .gathered = nw_exec_data(e, step->out[1])};
    job.args = (nw_wgemm_u8_args){.w = &job.w,
                                  .ldc = s->ldc,
                                  .lo = s->lo,
                                  .hi = s->hi,
                                  .scale = scale ? *scale : s->scale,
                                  .zero = zero ? *zero : s->zero};
    job.f32_args = (nw_wgemm_f32_args){.w = &job.w, .ldc = s->ldc, .lo = s->lo, .hi = s->hi};
    job.rows.window = &s->window;
    if (!s->pointwise) {
        uint8_t *pad = job.gathered + s->rows_at_once * s->k * s->taps;
        memset(pad, job.args.zero, s->k);
        job.rows.pad = pad;
    }
    for (size_t g = 0; g < weights->groups; g++) {
        job.rows.base = x + g * s->k * (s->codes ? 1 : sizeof(float));
        job.w.packed = (const char *)weights->w.packed + g * weights->group_codes;
        job.w.sums = weights->w.sums + g * s->n;
        job.args.bias = job.f32_args.bias = s->bias ? s->bias + g * s->n : NULL;
        run_group(e, &job, y + g * s->n * sizeof(float));
    }
    return NW_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

#define AT_ONCE    (256 * 1024) /* bytes of gathered rows, which stay in the cache while all weights pass */
#define LEAST_ROWS 16

#define LEAST_GROUP 16 /* channels of a group: with fewer, little of a tile is used */

static bool fills_tiles(const nw_conv_geometry *g) {
    const int64_t k = g->in_channels / g->groups, n = g->out_channels / g->groups;
    return g->groups == 1 || (k >= LEAST_GROUP && n >= LEAST_GROUP);
}

#define FEW_PIXELS 50 /* measured; 7×7 are some */

static bool has_few_pixels(const nw_planner *p, const nw_conv_geometry *g, size_t m) {
    return nw_conv_is_pointwise(g) && fills_tiles(g) && m <= FEW_PIXELS &&
           m <= nw_wgemm_select(p->options->isa)->ahead;
}

nw_status nw_conv_takes_coded(nw_planner *p, const nw_node *node, const nw_conv_geometry *g, bool *ok) {
    *ok = g->kernel[1] * g->kernel[2] <= POINTERS && fills_tiles(g);
    return *ok ? nw_plan_wcodes_whole(p, node->in[1], 0, ok) : NW_OK;
}

nw_status nw_lower_coded_conv(nw_planner *p, const nw_node *node, const nw_conv_geometry *g,
                              const float *bias, bool *ok) {
    const int x = node->in[0];
    const bool measured = p->row_grid[x][0] >= 0;
    const size_t groups = (size_t)g->groups, all = (size_t)g->out_channels,
                 m = (size_t)(g->batch * g->out[1] * g->out[2]);
    bool codes = measured || nw_plan_on_grid(p, x);
    if (codes) NW_TRY(nw_conv_takes_coded(p, node, g, &codes));
    *ok = codes || (!measured && has_few_pixels(p, g, m));
    nw_coded weights;
    if (*ok) NW_TRY(nw_plan_coded(p, node, node->in[1], groups, &weights, ok));
    if (!*ok) return NW_OK;
    nw_follow follow;
    nw_strip from;
    NW_TRY(nw_plan_follow(p, node->out[0], false, &follow));
    NW_TRY(nw_plan_need_strip(p, x, codes, &from));
    codes_state s = {.weights = weights,
                     .codes = codes,
                     .m = m,
                     .n = all / groups,
                     .k = (size_t)g->in_channels / groups,
                     .taps = (size_t)(g->kernel[1] * g->kernel[2]),
                     .pointwise = nw_conv_is_pointwise(g),
                     .window = nw_plan_window(g, from.stride),
                     .x_offset = from.offset,
                     .ldc = all * sizeof(float),
                     .scale = p->grid[x].scale,
                     .zero = p->grid[x].zero,
                     .bias = bias,
                     .lo = follow.lo,
                     .hi = follow.hi};
    const size_t row = s.k * s.taps;
    const double products = (double)s.m * (double)all * (double)row;
    s.work = nw_product_nanoseconds(codes, s.m, all, row);
    s.rows_at_once = row < AT_ONCE / LEAST_ROWS ? AT_ONCE / row : LEAST_ROWS;
    if (s.rows_at_once > s.m) s.rows_at_once = s.m;
    int in[3] = {from.buffer, -1, -1}, out[2] = {-1, -1};
    if (measured) memcpy(&in[1], p->row_grid[x], sizeof p->row_grid[x]);
    nw_plan_fuse(p, &follow);
    NW_TRY(nw_plan_define(p, follow.value, NW_FORM_REAL_LAST, &out[0]));
    if (!s.pointwise) NW_TRY(nw_plan_temporary(p, s.rows_at_once * row + s.k, &out[1]));
    const nw_wgemm_kernel *kernel = weights.kernel;
    NW_TRY(NW_PLAN_STEP(p, node, run_codes, codes ? kernel->name_u8 : kernel->name, &s, in, out));
    nw_plan_work(p, codes, products);
    return NW_OK;
}
