/* elementwise.c: the reference functions, and the choice of an ISA's. Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#define NW_LANES        4
#include "kern/elementwise_body.h"

void nw_elementwise_select(nw_isa ceiling, nw_elementwise *out) {
    static const nw_elementwise tables[] = {
#define NW_ELEMENTWISE(name, type) nw_##name##__scalar,
        {
#include "kern/elementwise.def"
        },
#undef NW_ELEMENTWISE
#if defined(__x86_64__)
#define NW_ELEMENTWISE(name, type) nw_##name##__avx2,
        {
#include "kern/elementwise.def"
        },
#undef NW_ELEMENTWISE
#define NW_ELEMENTWISE(name, type) nw_##name##__avx512vnni,
        {
#include "kern/elementwise.def"
        },
#undef NW_ELEMENTWISE
#elif defined(__aarch64__)
#define NW_ELEMENTWISE(name, type) nw_##name##__neon,
        {
#include "kern/elementwise.def"
        },
#undef NW_ELEMENTWISE
#endif
    };
#define NW_ELEMENTWISE_ISA(isa, word) NW_ISA_##isa,
    static const nw_isa isas[] = {NW_ELEMENTWISE_ISAS(NW_ELEMENTWISE_ISA)};
#undef NW_ELEMENTWISE_ISA
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (isas[i] <= ceiling && nw_isa_supported(isas[i])) *out = tables[i];
}
