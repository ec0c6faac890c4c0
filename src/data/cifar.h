/* cifar.h: CIFAR binary files: records of label byte(s) and three 32×32 planes R, G, B.
 * Must not include anything but base/ and data/. */
#ifndef NW_DATA_CIFAR_H
#define NW_DATA_CIFAR_H

#include "data/image.h"

#define NW_CIFAR_SIDE   32
#define NW_CIFAR_PIXELS 3072 /* bytes of the three planes */

typedef struct nw_cifar {
    nw_bytes *bytes; /* mapped, owned */
    size_t count;    /* records */
    int classes;     /* 10 (1 label byte) or 100 (coarse, fine; the fine one counts) */
} nw_cifar;

/* Which of the two it is, by size: a multiple of 3073 is CIFAR-10, of 3074 is CIFAR-100; a multiple of both
 * is CIFAR-10 when every record then has a label below 10. Neither, or a label out of range: NW_E_FORMAT. */
nw_status nw_cifar_open(nw_context *ctx, const char *path, nw_cifar *out);
void nw_cifar_close(nw_cifar *cifar); /* NULL and an all-zero nw_cifar are fine */
int nw_cifar_label(const nw_cifar *cifar, size_t i);
/* Record i as an RGB image, [32,32,3], owned by the caller. */
nw_status nw_cifar_image(nw_context *ctx, const nw_cifar *cifar, size_t i, nw_image *out);

#endif
