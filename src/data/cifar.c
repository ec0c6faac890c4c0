#include "data/cifar.h"

/* Label bytes in front of the planes. */
static size_t head_of(const nw_cifar *cifar) {
    return cifar->classes == 10 ? 1 : 2;
}
static size_t record_of(const nw_cifar *cifar) {
    return head_of(cifar) + NW_CIFAR_PIXELS;
}

int nw_cifar_label(const nw_cifar *cifar, size_t i) {
    return cifar->bytes->data[i * record_of(cifar) + head_of(cifar) - 1];
}

/* The first record whose label is out of range; count when none is. */
static size_t bad_record(const nw_cifar *cifar) {
    size_t i = 0;
    while (i < cifar->count && nw_cifar_label(cifar, i) < cifar->classes) i++;
    return i;
}

nw_status nw_cifar_open(nw_context *ctx, const char *path, nw_cifar *out) {
    nw_cifar c = {0};
    NW_TRY(nw_bytes_map(ctx, path, &c.bytes));
    size_t size = c.bytes->size, bad = 1;
    bool ten = size && size % (NW_CIFAR_PIXELS + 1) == 0, hundred = size && size % (NW_CIFAR_PIXELS + 2) == 0;
    if (ten) {
        c.classes = 10;
        c.count = size / (NW_CIFAR_PIXELS + 1);
        bad = bad_record(&c);
    }
    if (hundred && (!ten || bad < c.count)) {
        c.classes = 100;
        c.count = size / (NW_CIFAR_PIXELS + 2);
        bad = bad_record(&c);
    }
    nw_status status = NW_OK;
    if (!ten && !hundred)
        status = nw_fail(ctx, NW_E_FORMAT,
                         "%s: not a CIFAR binary file, or cut: its size (%zu bytes) is not a multiple of "
                         "3073 (CIFAR-10) or "
                         "3074 (CIFAR-100)",
                         path, size);
    else if (bad < c.count)
        status = nw_fail(ctx, NW_E_FORMAT, "%s: not a CIFAR binary file: record %zu has label %d of CIFAR-%d",
                         path, bad, nw_cifar_label(&c, bad), c.classes);
    if (status != NW_OK) {
        nw_cifar_close(&c);
        return status;
    }
    *out = c;
    return NW_OK;
}

void nw_cifar_close(nw_cifar *cifar) {
    if (!cifar) return;
    nw_bytes_free(cifar->bytes);
    *cifar = (nw_cifar){0};
}

nw_status nw_cifar_image(nw_context *ctx, const nw_cifar *cifar, size_t i, nw_image *out) {
    enum { PLANE = NW_CIFAR_SIDE * NW_CIFAR_SIDE };
    const uint8_t *planes = cifar->bytes->data + i * record_of(cifar) + head_of(cifar);
    nw_image image;
    NW_TRY(nw_image_new(ctx, NW_CIFAR_SIDE, NW_CIFAR_SIDE, 3, &image));
    for (size_t p = 0; p < PLANE; p++)
        for (size_t c = 0; c < 3; c++) image.pixels[p * 3 + c] = planes[c * PLANE + p];
    *out = image;
    return NW_OK;
}
