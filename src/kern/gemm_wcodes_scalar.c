/* gemm_wcodes_scalar.c: gemm_wcodes_body.h in plain C. Must not include anything but kern/. */
#define NW_KERNEL(name) nw_##name##__scalar
#define NR              8
#define MR              4
#include "kern/gemm_wcodes_body.h"
