/* gemm_wcodes_neon.c: gemm_wcodes_body.h with the columns of the NEON f32 kernel. Must not include anything but kern/. */
#if defined(__aarch64__)
#define NW_KERNEL(name) nw_##name##__neon
#define NR              16
#define MR              4
#include "kern/gemm_wcodes_body.h"
#else
typedef int nw_no_kernels_here;
#endif
