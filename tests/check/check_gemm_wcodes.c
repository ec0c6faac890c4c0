/* check_gemm_wcodes.c: products with weights that stay codes against a naive loop over W[n][k] as numbers. u8 products must have
 * the bits that gemm_wcodes.h prescribes. Must not include anything but kern/. */
#include "check.h"
#include "kern/gemm_wcodes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct variant {
    const char *name;
    nw_wcodes_kind kind;
    int bits;
    bool zeros, whole;
    nw_format scale_format;
} variant;

static const variant variants[] = {
    {"1 bit", NW_WCODES_TABLE, 1, false, true, NW_F32},
    {"2 bits", NW_WCODES_TABLE, 2, false, true, NW_F16},
    {"2 bits, zeros", NW_WCODES_TABLE, 2, true, true, NW_F32},
    {"4 bits", NW_WCODES_TABLE, 4, false, true, NW_F32},
    {"4 bits, f16 scales", NW_WCODES_TABLE, 4, false, true, NW_F16},
    {"4 bits, zeros", NW_WCODES_TABLE, 4, true, true, NW_BF16},
    {"4 bits, table", NW_WCODES_TABLE, 4, false, false, NW_F8E8M0},
    {"s8", NW_WCODES_S8, 8, false, true, NW_F32},
    {"s8, zeros", NW_WCODES_S8, 8, true, true, NW_F16},
    {"8 bits, table", NW_WCODES_TABLE8, 8, false, false, NW_F32},
    {"f8e4m3fn", NW_WCODES_E4M3, 8, false, false, NW_F16},
    {"f8e5m2", NW_WCODES_E5M2, 8, false, false, NW_F32},
    {"f16", NW_WCODES_F16, 16, false, false, NW_F32},
    {"bf16", NW_WCODES_BF16, 16, false, false, NW_F32},
};

typedef struct shape {
    size_t m, n, k, block; /* block 0: one scale per column */
} shape;

static const shape tests[] = {
    {1, 1, 1, 0},       {1, 17, 5, 16},     {2, 33, 64, 32},     {3, 31, 100, 32},  {4, 64, 257, 64},
    {5, 7, 33, 17},     {6, 40, 96, 16},    {7, 65, 127, 128},   {8, 32, 48, 24},   {9, 100, 70, 32},
    {10, 5, 300, 0},    {11, 16, 31, 32},   {12, 48, 129, 16},   {13, 9, 515, 256}, {14, 33, 700, 0},
    {15, 20, 1100, 48}, {16, 8, 66, 33},    {17, 36, 1500, 700}, {18, 12, 513, 1},  {19, 70, 64, 32},
    {20, 34, 530, 0},   {300, 40, 520, 32}, {1, 96, 1030, 0},
};
/* The last is 32 matrices of 4096 columns in turn, too many for a cache: it tells how fast codes come from memory. */
static const shape benches[] = {
    {1, 4096, 4096, 32},   {2, 4096, 4096, 32},   {4, 4096, 4096, 32},
    {8, 4096, 4096, 32},   {16, 4096, 4096, 32},  {32, 4096, 4096, 32},
    {128, 4096, 4096, 32}, {512, 4096, 4096, 32}, {1, 131072, 4096, 32},
};

/* The case's matrix: w, its source, and what they mean as numbers. */
typedef struct matrix {
    nw_wcodes w;
    nw_wcodes_source source;
    float *scale;  /* [n][blocks] */
    double *value; /* [n][k]: level − zero */
} matrix;

static size_t blocks_of(const nw_wcodes *w) {
    return (w->k + w->block - 1) / w->block;
}

/* Random scales in the variant's format; *scale their numbers in the order [n][blocks]. */
static void make_scales(matrix *mat, nw_format format) {
    const size_t blocks = blocks_of(&mat->w), count = mat->w.n * blocks;
    const bool by_block = check_below(2);
    size_t bits = (size_t)nw_format_bits(format);
    char *scales = check_alloc(count * bits / 8);
    mat->scale = check_alloc(count * sizeof *mat->scale);
    mat->source.scale_n = by_block ? 1 : blocks;
    mat->source.scale_b = by_block ? mat->w.n : 1;
    for (size_t j = 0; j < mat->w.n; j++)
        for (size_t b = 0; b < blocks; b++) {
            const size_t at = j * mat->source.scale_n + b * mat->source.scale_b;
            nw_store_f64(format, scales, at, ldexp((double)check_uniform(0.5f, 1), (int)check_below(4)));
            mat->scale[j * blocks + b] = (float)nw_load_f64(format, scales, at);
        }
    mat->source.scales = scales;
    mat->source.scale_format = format;
    mat->w.scale_format = nw_wcodes_scale_format(format);
}

static void make_zeros(matrix *mat) {
    const size_t count = mat->w.n * blocks_of(&mat->w);
    int32_t *zeros = check_alloc(count * sizeof *zeros);
    const int32_t most = mat->w.kind == NW_WCODES_S8 ? 255 : (1 << mat->w.bits) - 1;
    mat->source.zero_shift = mat->w.kind == NW_WCODES_S8 ? 128 : 1 << (mat->w.bits - 1);
    for (size_t i = 0; i < count; i++) zeros[i] = (int32_t)check_between(0, (size_t)most);
    mat->source.zeros = zeros;
}

static void make_levels(matrix *mat, const variant *v) {
    nw_wcodes *w = &mat->w;
    float *levels = check_alloc(256 * sizeof *levels);
    check_fill_f32(levels, 256, -1, 1);
    for (size_t i = 0; i < 256 && v->kind != NW_WCODES_TABLE8; i++) {
        const uint8_t code = (uint8_t)i;
        if (v->kind == NW_WCODES_E4M3) nw_decode_f32(NW_F8E4M3FN, &code, 0, 1, &levels[i]);
        if (v->kind == NW_WCODES_E5M2) nw_decode_f32(NW_F8E5M2, &code, 0, 1, &levels[i]);
    }
    w->levels = levels;
    w->unit = v->kind == NW_WCODES_TABLE && v->whole ? 0.5f : 1;
    for (int i = 0; i < 16 && v->kind == NW_WCODES_TABLE; i++) {
        const int code = i & ((1 << v->bits) - 1), centred = code - (1 << (v->bits - 1));
        w->step[i] = (int8_t)(v->zeros ? centred : v->bits == 1 ? 2 * code - 1 : 3 * centred);
        w->level[i] = v->whole ? w->unit * (float)w->step[i] : levels[code];
    }
    /* With zero points a level is a step: the unit would have to scale both. */
    for (int i = 0; i < 16 && v->zeros; i++) w->level[i] = w->step[i];
    if (v->zeros) w->unit = 1;
}

static double value_of(const matrix *mat, size_t code) {
    const nw_wcodes *w = &mat->w;
    switch (w->kind) {
    case NW_WCODES_TABLE: return (double)w->level[code];
    case NW_WCODES_S8: return (int8_t)(code ^ mat->source.flip);
    case NW_WCODES_TABLE8:
    case NW_WCODES_E4M3:
    case NW_WCODES_E5M2: return (double)w->levels[code];
    case NW_WCODES_F16: return (double)nw_f16_to_f32((uint16_t)code);
    default: return (double)nw_bf16_to_f32((uint16_t)code);
    }
}

static size_t random_code(const nw_wcodes *w) {
    if (w->kind == NW_WCODES_F16) return nw_f16_from_f32(check_uniform(-1, 1));
    if (w->kind == NW_WCODES_BF16) return nw_bf16_from_f32(check_uniform(-1, 1));
    size_t code = check_below((size_t)1 << w->bits);
    if ((w->kind == NW_WCODES_E4M3 || w->kind == NW_WCODES_E5M2) && !isfinite(w->levels[code])) code &= 0x8f;
    return code;
}

static void make_codes(matrix *mat) {
    const nw_wcodes *w = &mat->w;
    const size_t n = w->n, k = w->k, order = check_opt.bench ? 1 : check_below(3), gap = order == 2 ? 2 : 1;
    size_t bytes;
    static const nw_format formats[] = {
        [1] = NW_INDEX1, [2] = NW_U2, [4] = NW_U4, [8] = NW_U8, [16] = NW_U16};
    mat->source.depth = k;
    mat->source.block = w->block;
    mat->source.stride_n = order ? k * gap : 1;
    mat->source.stride_k = order ? gap : n;
    nw_format_bytes(formats[w->bits], n * k * gap - gap + 1, &bytes);
    uint8_t *codes = check_alloc(bytes);
    mat->source.codes = codes;
    if (check_opt.bench) return; /* any bytes will do */
    memset(codes, 0, bytes);
    mat->value = check_alloc(n * k * sizeof *mat->value);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < k; i++) {
            const uint16_t code = (uint16_t)random_code(w);
            const size_t group = j * mat->source.scale_n + i / w->block * mat->source.scale_b;
            nw_store_codes(formats[w->bits], codes, j * mat->source.stride_n + i * mat->source.stride_k, 1,
                           &code);
            mat->value[j * k + i] = value_of(mat, code);
            if (w->zeros) mat->value[j * k + i] -= mat->source.zeros[group] - mat->source.zero_shift;
        }
}

static void make_matrix(matrix *mat, size_t nr, const variant *v, const shape *s) {
    *mat = (matrix){.w = {.kind = v->kind,
                          .bits = v->bits,
                          .n = s->n,
                          .k = s->k,
                          .block = s->block ? s->block : s->k,
                          .zeros = v->zeros,
                          .whole = v->whole}};
    if (v->kind == NW_WCODES_S8) mat->source.flip = v->zeros ? 128 : 0;
    make_scales(mat, v->scale_format);
    if (v->zeros) make_zeros(mat);
    make_levels(mat, v);
    make_codes(mat);
    void *packed = check_alloc(nw_wcodes_bytes(nr, &mat->w));
    float *sums = check_alloc(s->n * sizeof *sums);
    nw_wcodes_pack(nr, &mat->w, &mat->source, packed, sums);
    mat->w.packed = packed;
    mat->w.sums = sums;
}

/* What every product has beside the weights and A. Leading dimensions in elements. */
typedef struct operands {
    size_t lda, ld, a_count;
    float *c, *before; /* [m][ld] */
    const float *bias; /* or NULL */
    float lo, hi;
} operands;

static operands make_operands(const shape *s) {
    const bool exact = check_opt.bench, clamp = check_below(2);
    operands o = {.lda = s->k + (exact ? 0 : check_below(3)),
                  .ld = s->n + (exact ? 0 : check_below(4)),
                  .lo = clamp ? -1 : -INFINITY,
                  .hi = clamp ? 3 : INFINITY};
    const size_t c_bytes = ((s->m - 1) * o.ld + s->n) * sizeof *o.c;
    float *bias = check_alloc(s->n * sizeof *bias);
    o.a_count = (s->m - 1) * o.lda + s->k;
    check_fill_f32(bias, s->n, -1, 1);
    o.bias = check_below(2) ? bias : NULL;
    o.c = check_alloc(c_bytes);
    o.before = check_alloc(c_bytes);
    memcpy(o.before, o.c, c_bytes);
    return o;
}

/* What lies between the rows of c must stay. */
static void verify_gaps(const float *c, const float *before, size_t m, size_t n, size_t ld) {
    for (size_t i = 0; i + 1 < m; i++)
        if (memcmp(c + i * ld + n, before + i * ld + n, (ld - n) * sizeof *c))
            check_fail("wrote between rows");
}

/* A product whose arguments are fixed: rows [m0, m1), columns [n0, n1) of it. */
typedef void part_fn(const void *args, size_t m0, size_t m1, size_t n0, size_t n1);
typedef struct product {
    part_fn *part;
    const void *args;
    size_t m, n, nr;
} product;

/* Panel by panel, the threads' shares of the columns. */
static void run_share(void *user, size_t share) {
    const product *p = user;
    const size_t panels = (p->n + p->nr - 1) / p->nr, most = panels * p->nr, threads = check_opt.threads;
    const size_t begin = panels * share / threads * p->nr, end = panels * (share + 1) / threads * p->nr;
    p->part(p->args, 0, p->m, begin, end < most ? end : p->n);
}
static void run_whole(void *user) {
    check_parallel(run_share, user);
}

/* In three parts; or timed, the answer counted as products and as packed bytes. */
static void run_product(product p, const matrix *mat, const operands *o) {
    if (check_opt.bench) {
        const double seconds = check_seconds(run_whole, &p);
        if (p.m <= 8) check_report(seconds, (double)nw_wcodes_bytes(p.nr, &mat->w), "GB/s");
        check_report(seconds, 2.0 * (double)(p.m * p.n * mat->w.k), "GOP/s");
        return;
    }
    const size_t m_cut = check_below(p.m + 1), n_cut = check_below(p.n / p.nr + 1) * p.nr;
    p.part(p.args, 0, m_cut, 0, n_cut);
    p.part(p.args, m_cut, p.m, 0, n_cut);
    p.part(p.args, 0, p.m, n_cut, p.n);
    verify_gaps(o->c, o->before, p.m, p.n, o->ld);
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

typedef struct f32_call {
    const nw_wgemm_kernel *kernel;
    nw_wgemm_f32_args args;
} f32_call;
static void part_f32(const void *p, size_t m0, size_t m1, size_t n0, size_t n1) {
    const f32_call *c = p;
    nw_wgemm_f32_run(c->kernel, &c->args, m0, m1, n0, n1);
}

/* a: the rows as numbers, [m][k]. */
static void verify_real(const matrix *mat, size_t m, const float *a, const operands *o) {
    const nw_wcodes *w = &mat->w;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < w->n; j++) {
            const float *row = a + i * o->lda, got = o->c[i * o->ld + j];
            double sum = o->bias ? (double)o->bias[j] : 0, magnitude = fabs(sum);
            for (size_t k = 0; k < w->k; k++) {
                double p = (double)row[k] * mat->value[j * w->k + k] *
                           (double)mat->scale[j * blocks_of(w) + k / w->block];
                sum += p;
                magnitude += fabs(p);
            }
            double want = fmin(fmax(sum, (double)o->lo), (double)o->hi);
            if (!check_close((double)got, want, (6 + sqrt((double)w->k)) * 0x1p-24 * magnitude + 1e-30))
                check_fail("row %zu column %zu is %.9g, not %.9g", i, j, (double)got, want);
        }
}

static void one_f32(const nw_wgemm_kernel *kernel, const variant *v, const shape *s) {
    if (!check_begin(kernel->isa, kernel->name, "%zu x %zu x %zu, %s, block %zu", s->m, s->n, s->k, v->name,
                     s->block))
        return;
    matrix mat;
    make_matrix(&mat, kernel->nr, v, s);
    const operands o = make_operands(s);
    float *a = check_alloc(o.a_count * sizeof *a);
    check_fill_f32(a, o.a_count, -1, 1);
    const f32_call call = {kernel,
                           {.w = &mat.w,
                            .m = s->m,
                            .a = a,
                            .lda = o.lda * sizeof *a,
                            .c = o.c,
                            .ldc = o.ld * sizeof *o.c,
                            .bias = o.bias,
                            .lo = o.lo,
                            .hi = o.hi}};
    run_product((product){part_f32, &call, s->m, s->n, kernel->nr}, &mat, &o);
    if (!check_opt.bench) verify_real(&mat, s->m, a, &o);
    check_end();
}

/* ---- u8 ------------------------------------------------------------------------------------------------ */

typedef struct u8_call {
    const nw_wgemm_kernel *kernel;
    nw_wgemm_u8_args args;
} u8_call;
static void part_u8(const void *p, size_t m0, size_t m1, size_t n0, size_t n1) {
    const u8_call *c = p;
    nw_wgemm_u8_run(c->kernel, &c->args, m0, m1, n0, n1);
}

static void verify_u8(const u8_call *call, const matrix *mat) {
    const nw_wgemm_u8_args *a = &call->args;
    const nw_wcodes *w = &mat->w;
    for (size_t j = 0; j < w->n; j++) {
        double total = 0, magnitude = 0;
        for (size_t k = 0; k < w->k; k++) {
            double step = mat->value[j * w->k + k] / (double)w->unit *
                          (double)mat->scale[j * blocks_of(w) + k / w->block];
            total += step;
            magnitude += fabs(step);
        }
        if (!check_close(total, (double)w->sums[j], 0x1p-22 * magnitude)) check_fail("sums[%zu]", j);
        for (size_t i = 0; i < a->m; i++) {
            const float got = ((const float *)((const char *)a->c + i * a->ldc))[j];
            const float zero = (float)(a->row_zero ? a->row_zero[i] : a->zero);
            const float factor = (a->row_scale ? a->row_scale[i] : a->scale) * w->unit;
            float sum = 0;
            for (size_t b = 0, k = 0; k < w->k; b++) {
                int64_t acc = 0;
                for (size_t end = k + w->block < w->k ? k + w->block : w->k; k < end; k++)
                    acc += a->a[i * a->lda + k] * (int64_t)(mat->value[j * w->k + k] / (double)w->unit);
                sum = fmaf((float)acc, mat->scale[j * blocks_of(w) + b], sum);
            }
            float y = (sum - zero * w->sums[j]) * factor;
            if (a->bias) y += a->bias[j];
            y = fminf(fmaxf(y, a->lo), a->hi);
            if (memcmp(&y, &got, 4) && y != got)
                check_fail("row %zu column %zu is %.9g, not %.9g", i, j, (double)got, (double)y);
        }
    }
}

static void one_u8(const nw_wgemm_kernel *kernel, const variant *v, const shape *s) {
    if (!check_begin(kernel->isa, kernel->name_u8, "%zu x %zu x %zu, %s, block %zu", s->m, s->n, s->k,
                     v->name, s->block))
        return;
    matrix mat;
    make_matrix(&mat, kernel->nr, v, s);
    const operands o = make_operands(s);
    const bool rows = check_below(2);
    uint8_t *a = check_alloc(o.a_count);
    float *row_scale = check_alloc(s->m * sizeof *row_scale);
    int32_t *row_zero = check_alloc(s->m * sizeof *row_zero);
    check_fill_bytes(a, o.a_count, (int)check_below(4), 0, 255);
    check_fill_f32(row_scale, s->m, 0.001f, 0.1f);
    for (size_t i = 0; i < s->m; i++) row_zero[i] = (int32_t)check_below(256);
    const u8_call call = {kernel,
                          {.w = &mat.w,
                           .m = s->m,
                           .a = a,
                           .lda = o.lda,
                           .c = o.c,
                           .ldc = o.ld * sizeof *o.c,
                           .bias = o.bias,
                           .lo = o.lo,
                           .hi = o.hi,
                           .scale = 0.037f,
                           .zero = 117,
                           .row_scale = rows ? row_scale : NULL,
                           .row_zero = rows ? row_zero : NULL}};
    run_product((product){part_u8, &call, s->m, s->n, kernel->nr}, &mat, &o);
    if (!check_opt.bench) verify_u8(&call, &mat);
    check_end();
}

/* ---- bf16 ---------------------------------------------------------------------------------------------- */

typedef struct bf16_call {
    const nw_wgemm_bf16_kernel *kernel;
    nw_wgemm_bf16_args args;
} bf16_call;
static void part_bf16(const void *p, size_t m0, size_t m1, size_t n0, size_t n1) {
    const bf16_call *c = p;
    nw_wgemm_bf16_run(c->kernel, &c->args, m0, m1, n0, n1);
}

static void one_bf16(const nw_wgemm_bf16_kernel *kernel, const variant *v, const shape *s) {
    if (!check_begin(kernel->isa, kernel->name, "%zu x %zu x %zu, block %zu", s->m, s->n, s->k, s->block))
        return;
    matrix mat;
    make_matrix(&mat, kernel->nr, v, s);
    const operands o = make_operands(s);
    uint16_t *a = check_alloc(o.a_count * sizeof *a);
    float *real = check_alloc(o.a_count * sizeof *real);
    for (size_t i = 0; i < o.a_count; i++)
        real[i] = nw_bf16_to_f32(a[i] = nw_bf16_from_f32(check_uniform(-1, 1)));
    const bf16_call call = {kernel,
                            {.w = &mat.w,
                             .m = s->m,
                             .a = a,
                             .lda = o.lda * sizeof *a,
                             .c = o.c,
                             .ldc = o.ld * sizeof *o.c,
                             .bias = o.bias,
                             .lo = o.lo,
                             .hi = o.hi}};
    run_product((product){part_bf16, &call, s->m, s->n, kernel->nr}, &mat, &o);
    if (!check_opt.bench) verify_real(&mat, s->m, real, &o);
    check_end();
}

void check_gemm_wcodes(void) {
    const shape *list = check_opt.bench ? benches : tests;
    const size_t shapes = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    if (check_opt.shapes) return;
    for (size_t i = 0; i < shapes; i++)
        for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
            nw_wgemm_f32_fn *f32 = NULL; /* of the level before: a level may have one of its own or that */
            nw_wgemm_u8_fn *u8 = NULL;
            for (int isa = 0; isa < NW_ISA_COUNT; isa++) {
                const nw_wgemm_kernel *kernel = nw_wgemm_select((nw_isa)isa);
                const nw_wgemm_bf16_kernel *bf16 = nw_wgemm_bf16_select((nw_isa)isa);
                if (variants[v].kind == NW_WCODES_BF16 && bf16->isa == (nw_isa)isa)
                    one_bf16(bf16, &variants[v], &list[i]);
                if (kernel->isa != (nw_isa)isa) continue;
                if (kernel->f32 != f32) one_f32(kernel, &variants[v], &list[i]);
                if (kernel->u8 != u8 && variants[v].whole) one_u8(kernel, &variants[v], &list[i]);
                f32 = kernel->f32;
                u8 = kernel->u8;
            }
        }
}
