/* elementwise_neon.c: elementwise_body.h compiled for this ISA. Must not include anything but kern/. */
#if defined(__aarch64__)
#define NW_KERNEL(name) nw_##name##__neon
#define NW_LANES        4
#define NW_NEON
#define NW_HAVE_LOOKUP
#include "kern/codes_neon.h"
#include "kern/elementwise_body.h"

void nw_lookup_u8__neon(size_t n, const uint8_t *x, const uint8_t *table, uint8_t *y) {
    const nw_table_neon t = nw_table_neon_load(table);
    nw_look_up_run(&t, n, x, y);
}
#else
typedef int nw_no_kernels_here;
#endif
