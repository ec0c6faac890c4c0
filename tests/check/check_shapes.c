/* check_shapes.c: see check_shapes.h. Must not include anything but kern/. */
#include "check_shapes.h"

#include <stdio.h>
#include <string.h>

#define MOST         1024
#define LARGEST_SIZE (1u << 20) /* of a product's side: what is computed from sizes stays inside size_t */
#define LARGEST_SIDE (1u << 15) /* of an image, its batch and channels */
#define LARGEST_STEP 32         /* of a kernel side, stride, dilation or padding */

static check_shape products[MOST];
static check_geometry depthwise[MOST];
static size_t product_count, depthwise_count;

static bool sane(const check_geometry *g) {
    const size_t sizes[] = {g->batch, g->h, g->w, g->k},
                 steps[] = {g->kernel_h, g->kernel_w, g->stride, g->dilation};
    for (size_t i = 0; i < 4; i++)
        if (sizes[i] - 1 >= LARGEST_SIDE || steps[i] - 1 >= LARGEST_STEP) return false;
    return g->pad <= LARGEST_STEP && g->h + 2 * g->pad > (g->kernel_h - 1) * g->dilation &&
           g->w + 2 * g->pad > (g->kernel_w - 1) * g->dilation;
}

/* One line in any of the three forms; false when it is none of them or its sizes make no sense. */
static bool scan(const char *line, check_shape *s, bool *is_depthwise) {
    check_geometry *g = &s->conv;
    int end = 0;
    *s = (check_shape){0};
    *is_depthwise = false;
    sscanf(line, "conv %zux%zux%zux%zu -> %zu, %zux%zu/%zu dil %zu pad %zu %n", &g->batch, &g->h, &g->w,
           &g->k, &s->n, &g->kernel_h, &g->kernel_w, &g->stride, &g->dilation, &g->pad, &end);
    if (end && !line[end]) return sane(g) && s->n - 1 < LARGEST_SIZE;
    sscanf(line, "%zux%zux%zux%zu, %zux%zu/%zu dil %zu pad %zu %n", &g->batch, &g->h, &g->w, &g->k,
           &g->kernel_h, &g->kernel_w, &g->stride, &g->dilation, &g->pad, &end);
    *is_depthwise = end && !line[end];
    if (*is_depthwise) return sane(g);
    *s = (check_shape){0};
    sscanf(line, "%zu x %zu x %zu %n", &s->m, &s->n, &s->k, &end);
    return end && !line[end] && s->m - 1 < LARGEST_SIZE && s->n - 1 < LARGEST_SIZE && s->k - 1 < LARGEST_SIZE;
}

static bool load(FILE *file, const char *path) {
    char line[256];
    for (unsigned number = 1; fgets(line, sizeof line, file); number++) {
        check_shape s;
        bool is_depthwise;
        line[strcspn(line, "#")] = 0;
        if (!line[strspn(line, " \t\r\n")]) continue;
        if (!scan(line, &s, &is_depthwise)) {
            printf("check: %s:%u: not a shape (see tests/check/check_shapes.h): %s\n", path, number, line);
            return false;
        }
        if (product_count == MOST || depthwise_count == MOST) {
            printf("check: %s: more than %d shapes\n", path, MOST);
            return false;
        }
        if (is_depthwise)
            depthwise[depthwise_count++] = s.conv;
        else
            products[product_count++] = s;
    }
    return true;
}

bool check_shapes_load(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("check: cannot read %s\n", path);
        return false;
    }
    bool ok = load(file, path);
    fclose(file);
    return ok;
}

const check_shape *check_shapes_products(size_t *count) {
    *count = product_count;
    return products;
}

const check_geometry *check_shapes_depthwise(size_t *count) {
    *count = depthwise_count;
    return depthwise;
}
