/* pool_avx2.c: pool_body.h compiled for this ISA. Must not include anything but kern/. */
#if defined(__x86_64__)
#define NW_KERNEL(name) nw_##name##__avx2
#include "kern/pool_body.h"
#else
typedef int nw_no_kernels_here;
#endif
