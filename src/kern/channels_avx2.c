/* channels_avx2.c: channels_body.h compiled for this ISA. Must not include anything but kern/. */
#if defined(__x86_64__)
#define NW_KERNEL(name) nw_##name##__avx2
#define NW_LANES        8
#include "kern/channels_body.h"
#else
typedef int nw_no_kernels_here;
#endif
