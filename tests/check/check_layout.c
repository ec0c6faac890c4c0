/* check_layout.c: transposes and channel shuffles. Must not include anything but kern/. */
#include "check.h"
#include "kern/layout.h"

#include <string.h>

static const size_t tests[][2] = {{1, 1},    {1, 50},    {3, 7},   {7, 3},   {8, 8},   {16, 16},
                                  {15, 17},  {17, 15},   {3, 300}, {64, 49}, {49, 64}, {33, 130},
                                  {256, 40}, {128, 128}, {100, 3}, {2, 77},  {4, 200}};
static const size_t benches[][2] = {{3, 50176}, {64, 3136}, {3136, 64}, {512, 49}, {1024, 1024}};

typedef struct call {
    nw_transpose_b8_fn *f;
    size_t rows, cols, ld_src, ld_dst;
    void *src, *dst;
} call;
static void run(void *p) {
    const call *c = p;
    c->f(c->rows, c->cols, c->src, c->ld_src, c->dst, c->ld_dst);
}

static void one(nw_isa isa, const char *name, nw_transpose_b8_fn *f, size_t size, const size_t *shape) {
    if (!check_begin(isa, name, "%zu x %zu", shape[0], shape[1])) return;
    size_t rows = shape[0], cols = shape[1];
    call c = {f, rows, cols, cols, rows, NULL, NULL};
    if (!check_opt.bench) c.ld_src += check_below(4), c.ld_dst += check_below(2) ? 0 : check_below(4);
    size_t src_bytes = ((rows - 1) * c.ld_src + cols) * size,
           dst_bytes = ((cols - 1) * c.ld_dst + rows) * size;
    char *src = c.src = check_alloc(src_bytes), *dst = c.dst = check_alloc(dst_bytes),
         *before = check_alloc(dst_bytes);
    memcpy(before, dst, dst_bytes);
    run(&c);
    for (size_t j = 0; j < cols; j++) {
        for (size_t i = 0; i < rows; i++)
            if (memcmp(dst + (j * c.ld_dst + i) * size, src + (i * c.ld_src + j) * size, size))
                check_fail("element [%zu][%zu]", j, i);
        if (j + 1 < cols && memcmp(dst + (j * c.ld_dst + rows) * size, before + (j * c.ld_dst + rows) * size,
                                   (c.ld_dst - rows) * size))
            check_fail("wrote between rows");
    }
    if (check_opt.bench) check_report(check_seconds(run, &c), (double)(rows * cols * size), "GB/s");
    check_end();
}

typedef struct shuffle_call {
    nw_shuffle_fn *f;
    size_t pixels, groups, n;
    void *src, *dst;
} shuffle_call;
static void run_shuffle(void *p) {
    const shuffle_call *c = p;
    c->f(c->pixels, c->groups, c->n, c->src, c->dst);
}

static void one_shuffle(nw_isa isa, const char *name, nw_shuffle_fn *f, size_t size, const size_t *shape) {
    if (!check_begin(isa, name, "%zu x %zu x %zu", shape[0], shape[1], shape[2])) return;
    const size_t pixels = shape[0], groups = shape[1], n = shape[2], bytes = pixels * groups * n * size;
    shuffle_call c = {f, pixels, groups, n, check_alloc(bytes), check_alloc(bytes)};
    const char *src = c.src, *dst = c.dst;
    run_shuffle(&c);
    for (size_t p = 0; p < pixels; p++, src += groups * n * size, dst += groups * n * size)
        for (size_t i = 0; i < n; i++)
            for (size_t g = 0; g < groups; g++)
                if (memcmp(dst + (i * groups + g) * size, src + (g * n + i) * size, size))
                    check_fail("pixel %zu channel %zu", p, i * groups + g);
    if (check_opt.bench) check_report(check_seconds(run_shuffle, &c), (double)bytes, "GB/s");
    check_end();
}

static const size_t shuffle_tests[][3] = {{1, 2, 1},  {1, 2, 40},  {5, 2, 3},  {9, 2, 16},  {7, 2, 58},
                                          {30, 2, 1}, {40, 3, 20}, {3, 1, 17}, {20, 4, 8},  {6, 2, 116},
                                          {2, 2, 33}, {11, 2, 15}, {4, 2, 4},  {100, 2, 5}, {3, 8, 2}};
static const size_t shuffle_benches[][3] = {{784, 2, 58}, {196, 2, 116}, {784, 3, 80}};

static void check_shuffles(void) {
    size_t count = check_opt.bench ? sizeof shuffle_benches / sizeof *shuffle_benches
                                   : sizeof shuffle_tests / sizeof *shuffle_tests;
    for (size_t i = 0; i < count; i++) {
        const size_t *shape = check_opt.bench ? shuffle_benches[i] : shuffle_tests[i];
#define NW_LAYOUT(isa, word)                                                                                 \
    one_shuffle(NW_ISA_##isa, "shuffle_b8__" #word, nw_shuffle_b8__##word, 1, shape);                        \
    one_shuffle(NW_ISA_##isa, "shuffle_b32__" #word, nw_shuffle_b32__##word, 4, shape);
#include "kern/layout.def"
#undef NW_LAYOUT
    }
}

void check_layout(void) {
    size_t count = check_opt.bench ? sizeof benches / sizeof *benches : sizeof tests / sizeof *tests;
    for (size_t i = 0; i < count; i++) {
        const size_t *shape = check_opt.bench ? benches[i] : tests[i];
#define NW_LAYOUT(isa, word)                                                                                 \
    one(NW_ISA_##isa, "transpose_b8__" #word, nw_transpose_b8__##word, 1, shape);                            \
    one(NW_ISA_##isa, "transpose_b32__" #word, nw_transpose_b32__##word, 4, shape);
#include "kern/layout.def"
#undef NW_LAYOUT
    }
    check_shuffles();
}
