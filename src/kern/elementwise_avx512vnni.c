/* elementwise_avx512vnni.c: elementwise_body.h compiled for this ISA. Must not include anything but kern/. */
#if defined(__x86_64__)
#define NW_KERNEL(name) nw_##name##__avx512vnni
#define NW_LANES        16
#define NW_HAVE_LOOKUP
#include "kern/elementwise_body.h"
#include "kern/lookup_avx512vnni.h"

void nw_lookup_u8__avx512vnni(size_t n, const uint8_t *x, const uint8_t *table, uint8_t *y) {
    const nw_table512 t = nw_table512_load(table);
    for (; n >= 64; n -= 64, x += 64, y += 64)
        _mm512_storeu_si512(y, nw_look_up_64(&t, _mm512_loadu_si512(x)));
    const __mmask64 rest = ((__mmask64)1 << n) - 1;
    _mm512_mask_storeu_epi8(y, rest, nw_look_up_64(&t, _mm512_maskz_loadu_epi8(rest, x)));
}
#else
typedef int nw_no_kernels_here;
#endif
