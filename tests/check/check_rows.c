/* check_rows.c: CPU levels, and pointers to activation rows. Must not include anything but kern/. */
#include "check.h"
#include "check_image.h"

void check_isa(void) {
    for (int i = 0; i < NW_ISA_COUNT; i++) {
        nw_isa isa;
        if (!check_begin(NW_ISA_SCALAR, "isa", "%s", nw_isa_name((nw_isa)i))) continue;
        if (!nw_isa_by_name(nw_isa_name((nw_isa)i), &isa) || (int)isa != i)
            check_fail("name does not round-trip");
        if (nw_isa_limit((nw_isa)i) > (nw_isa)i || !nw_isa_supported(nw_isa_limit((nw_isa)i)))
            check_fail("limit");
        check_end();
    }
}

/* rows.c against check_image.c. */
void check_rows(void) {
    static const check_geometry cases[] = {
        {1, 5, 7, 3, 3, 3, 1, 1, 1}, {2, 8, 8, 4, 3, 3, 2, 1, 1}, {3, 6, 9, 2, 2, 4, 1, 1, 0},
        {1, 9, 9, 1, 3, 3, 1, 2, 2}, {2, 7, 7, 5, 1, 1, 2, 1, 0}, {1, 1, 20, 6, 1, 5, 1, 3, 6},
        {1, 4, 4, 8, 5, 5, 1, 1, 4}, {2, 3, 3, 2, 3, 3, 3, 1, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const check_geometry *g = &cases[i];
        if (!check_begin(NW_ISA_SCALAR, "rows_gather", "%zux%zux%zux%zu window %zux%zu/%zu dil %zu pad %zu",
                         g->batch, g->h, g->w, g->k, g->kernel_h, g->kernel_w, g->stride, g->dilation,
                         g->pad))
            continue;
        check_image image;
        check_image_window(&image, g, 3, 1, 0, false);
        const void *got[64], *inside[64];
        for (size_t m = 0; m < image.m; m++) {
            size_t count = image.m - m < 2 ? 1 : 2, found = 0;
            nw_rows_gather(&image.rows, image.taps, m, count, got, 2);
            size_t valid = nw_window_inside(&image.window, image.data, m, inside);
            for (size_t t = 0; t < image.taps; t++) {
                for (size_t j = 0; j < count; j++)
                    if (got[2 * t + j] != check_image_row(&image, m + j, t))
                        check_fail("row %zu tap %zu", m + j, t);
                if (got[2 * t] != image.pad && (found >= valid || inside[found++] != got[2 * t]))
                    check_fail("inside: row %zu tap %zu", m, t);
            }
            if (found != valid) check_fail("inside: row %zu has %zu taps, expected %zu", m, valid, found);
        }
        check_end();
    }
}
