/* check_layout.c: transposes. Must not include anything but kern/. */
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
}
