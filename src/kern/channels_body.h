/* channels_body.h: the functions of channels.h on registers of NW_LANES floats. Included once per ISA, by a file
 * compiled for it that defines NW_KERNEL(name) as nw_name__word and NW_LANES; nothing else may include it. All
 * files compile without contraction of a·b+c, and a column's sums take its rows in order, so every ISA gives
 * the same bits. Must not include anything but kern/. */
#include "kern/channels.h"
#include "kern/elementwise_lanes.h"

/* Columns are taken in strips of WIDE registers, then one register at a time, the last one in part: what a
 * strip needs per channel stays in registers while all rows pass. */
#define WIDE  4
#define BLOCK 32 /* rows summed in f32 */

/* For each strip: body(first column, registers, lanes of the last register); both counts are constants but
 * for the last. */
#define STRIPS(cols, body)                                                                                   \
    do {                                                                                                     \
        size_t c = 0;                                                                                        \
        for (; c + WIDE * NW_LANES <= (cols); c += WIDE * NW_LANES) body(c, WIDE, (size_t)NW_LANES);         \
        for (; c + NW_LANES <= (cols); c += NW_LANES) body(c, 1, (size_t)NW_LANES);                          \
        if (c < (cols)) body(c, 1, (cols)-c);                                                                \
    } while (0)

NW_INLINE void load_strip(const float *x, vec *v, const int n, const size_t last) {
    NW_UNROLL
    for (int i = 0; i < n; i++) v[i] = load(x + i * NW_LANES, i + 1 < n ? NW_LANES : last);
}

/* What a block of rows came to, in f32, onto the sums. */
NW_INLINE void add_strip(const vec *v, const int n, const size_t last, double *sums) {
    float lanes[WIDE * NW_LANES];
    memcpy(lanes, v, (size_t)n * sizeof *v);
    for (size_t j = 0; j < (size_t)(n - 1) * NW_LANES + last; j++) sums[j] += (double)lanes[j];
}

/* ---- moments ------------------------------------------------------------------------------------------- */

NW_INLINE void moments_strip(size_t rows, size_t cols, const float *x, const float *pivot, double *sum,
                             double *squares, const int n, const size_t last) {
    vec from[WIDE];
    load_strip(pivot, from, n, last);
    for (size_t left; rows > 0; rows -= left) {
        vec s[WIDE] = {{0}}, q[WIDE] = {{0}};
        left = rows < BLOCK ? rows : BLOCK;
        for (size_t r = 0; r < left; r++, x += cols) {
            vec d[WIDE];
            load_strip(x, d, n, last);
            NW_UNROLL
            for (int i = 0; i < n; i++) {
                d[i] -= from[i];
                s[i] += d[i];
                q[i] += d[i] * d[i];
            }
        }
        add_strip(s, n, last, sum);
        add_strip(q, n, last, squares);
    }
}

void NW_KERNEL(channel_moments_f32)(size_t rows, size_t cols, const float *x, const float *pivot, double *sum,
                                    double *squares) {
#define BODY(c, n, last) moments_strip(rows, cols, x + (c), pivot + (c), sum + (c), squares + (c), n, last)
    STRIPS(cols, BODY);
#undef BODY
}

/* ---- scaling ------------------------------------------------------------------------------------------- */

NW_INLINE void affine_strip(size_t rows, size_t cols, const float *x, const nw_channel_affine *p, size_t c,
                            const float *r, float *y, const int n, const size_t last) {
    const vec lo = splat(p->lo), hi = splat(p->hi);
    vec factor[WIDE], shift[WIDE];
    load_strip(p->factor + c, factor, n, last);
    load_strip(p->shift + c, shift, n, last);
    for (size_t i = 0; i < rows; i++, x += cols, y += cols) {
        vec v[WIDE], add[WIDE];
        load_strip(x, v, n, last);
        if (r) {
            load_strip(r, add, n, last);
            r += cols;
        }
        NW_UNROLL
        for (int k = 0; k < n; k++) {
            v[k] = v[k] * factor[k] + shift[k];
            if (r) v[k] += add[k];
            v[k] = smaller(hi, larger(lo, v[k]));
            store(y + k * NW_LANES, k + 1 < n ? NW_LANES : last, v[k]);
        }
    }
}

void NW_KERNEL(channel_affine_f32)(size_t rows, size_t cols, const float *x, const nw_channel_affine *p,
                                   const float *r, float *y) {
#define BODY(c, n, last) affine_strip(rows, cols, x + (c), p, c, NULL, y + (c), n, last)
#define BOTH(c, n, last) affine_strip(rows, cols, x + (c), p, c, r + (c), y + (c), n, last)
    if (r)
        STRIPS(cols, BOTH);
    else
        STRIPS(cols, BODY);
#undef BODY
#undef BOTH
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

/* The gate of a strip's channels; open everywhere without one. */
typedef struct gate_strip {
    vec factor[WIDE], shift[WIDE], lo;
} gate_strip;

NW_INLINE void load_gate(const nw_channel_affine *gate, size_t c, gate_strip *g, const int n,
                         const size_t last) {
    if (!gate) return;
    load_strip(gate->factor + c, g->factor, n, last);
    load_strip(gate->shift + c, g->shift, n, last);
    g->lo = splat(gate->lo);
}

NW_INLINE void products_strip(size_t rows, size_t cols, const float *x, const float *dy, const float *mean,
                              const nw_channel_affine *gate, size_t c, double *sum, double *products,
                              const int n, const size_t last) {
    vec from[WIDE];
    gate_strip g;
    load_strip(mean + c, from, n, last);
    load_gate(gate, c, &g, n, last);
    for (size_t left; rows > 0; rows -= left) {
        vec s[WIDE] = {{0}}, q[WIDE] = {{0}};
        left = rows < BLOCK ? rows : BLOCK;
        for (size_t r = 0; r < left; r++, x += cols, dy += cols) {
            vec v[WIDE], d[WIDE];
            load_strip(x, v, n, last);
            load_strip(dy, d, n, last);
            NW_UNROLL
            for (int i = 0; i < n; i++) {
                if (gate) d[i] = choose(v[i] * g.factor[i] + g.shift[i] > g.lo, d[i], (vec){0});
                s[i] += d[i];
                q[i] += d[i] * (v[i] - from[i]);
            }
        }
        add_strip(s, n, last, sum + c);
        add_strip(q, n, last, products + c);
    }
}

void NW_KERNEL(channel_products_f32)(size_t rows, size_t cols, const float *x, const float *dy,
                                     const float *mean, const nw_channel_affine *gate, double *sum,
                                     double *products) {
#define BODY(c, n, last)  products_strip(rows, cols, x + (c), dy + (c), mean, NULL, c, sum, products, n, last)
#define GATED(c, n, last) products_strip(rows, cols, x + (c), dy + (c), mean, gate, c, sum, products, n, last)
    if (gate)
        STRIPS(cols, GATED);
    else
        STRIPS(cols, BODY);
#undef BODY
#undef GATED
}

NW_INLINE void grad_strip(size_t rows, size_t cols, const float *x, const float *dy, const nw_channel_grad *p,
                          const nw_channel_affine *gate, size_t c, float *dx, const int n,
                          const size_t last) {
    vec from[WIDE], factor[WIDE], slope[WIDE], shift[WIDE];
    gate_strip g;
    load_strip(p->mean + c, from, n, last);
    load_strip(p->factor + c, factor, n, last);
    load_strip(p->slope + c, slope, n, last);
    load_strip(p->shift + c, shift, n, last);
    load_gate(gate, c, &g, n, last);
    for (size_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        vec v[WIDE], d[WIDE];
        load_strip(x, v, n, last);
        load_strip(dy, d, n, last);
        NW_UNROLL
        for (int i = 0; i < n; i++) {
            if (gate) d[i] = choose(v[i] * g.factor[i] + g.shift[i] > g.lo, d[i], (vec){0});
            d[i] = d[i] * factor[i] + ((v[i] - from[i]) * slope[i] + shift[i]);
            store(dx + i * NW_LANES, i + 1 < n ? NW_LANES : last, d[i]);
        }
    }
}

void NW_KERNEL(channel_grad_f32)(size_t rows, size_t cols, const float *x, const float *dy,
                                 const nw_channel_grad *p, const nw_channel_affine *gate, float *dx) {
#define BODY(c, n, last)  grad_strip(rows, cols, x + (c), dy + (c), p, NULL, c, dx + (c), n, last)
#define GATED(c, n, last) grad_strip(rows, cols, x + (c), dy + (c), p, gate, c, dx + (c), n, last)
    if (gate)
        STRIPS(cols, GATED);
    else
        STRIPS(cols, BODY);
#undef BODY
#undef GATED
}

/* ---- dot products -------------------------------------------------------------------------------------- */

NW_INLINE void dots_strip(size_t rows, size_t cols, const void *const *x, const float *y, size_t c,
                          float *sums, const int n, const size_t last) {
    vec s[WIDE] = {{0}}, v[WIDE], w[WIDE];
    for (size_t r = 0; r < rows; r++, y += cols) {
        load_strip((const float *)x[r] + c, v, n, last);
        load_strip(y + c, w, n, last);
        NW_UNROLL
        for (int i = 0; i < n; i++) s[i] += v[i] * w[i];
    }
    load_strip(sums + c, v, n, last);
    NW_UNROLL
    for (int i = 0; i < n; i++) store(sums + c + i * NW_LANES, i + 1 < n ? NW_LANES : last, v[i] + s[i]);
}

void NW_KERNEL(channel_dots_f32)(size_t rows, size_t cols, const void *const *x, const float *y,
                                 float *sums) {
#define BODY(c, n, last) dots_strip(rows, cols, x, y, c, sums, n, last)
    STRIPS(cols, BODY);
#undef BODY
}

/* ---- copies -------------------------------------------------------------------------------------------- */

NW_INLINE void copy_strip(size_t rows, const void *const *x, size_t c, float *y, size_t ld, const int n,
                          const size_t last) {
    for (size_t r = 0; r < rows; r++, y += ld) {
        vec v[WIDE];
        load_strip((const float *)x[r] + c, v, n, last);
        NW_UNROLL
        for (int i = 0; i < n; i++) store(y + i * NW_LANES, i + 1 < n ? NW_LANES : last, v[i]);
    }
}

void NW_KERNEL(channel_copy_f32)(size_t rows, size_t cols, const void *const *x, size_t from, float *y,
                                 size_t ld) {
#define BODY(c, n, last) copy_strip(rows, x, from + (c), y + (c), ld, n, last)
    STRIPS(cols, BODY);
#undef BODY
}

/* ---- windows ------------------------------------------------------------------------------------------- */

NW_INLINE void add_to(float *y, const vec *v, const int n, const size_t last) {
    vec sum[WIDE];
    load_strip(y, sum, n, last);
    NW_UNROLL
    for (int i = 0; i < n; i++) store(y + i * NW_LANES, i + 1 < n ? NW_LANES : last, sum[i] + v[i]);
}

NW_INLINE void max_grad_strip(size_t taps, const void *const *x, const float *dy, void *const *dx, size_t c,
                              const int n, const size_t last) {
    vec best[WIDE], winner[WIDE] = {{0}}, g[WIDE];
    load_strip((const float *)x[0] + c, best, n, last);
    load_strip(dy + c, g, n, last);
    for (size_t t = 1; t < taps; t++) {
        vec v[WIDE];
        load_strip((const float *)x[t] + c, v, n, last);
        NW_UNROLL
        for (int i = 0; i < n; i++) {
            const ivec more = (v[i] > best[i]) | ~is_number(v[i]);
            best[i] = choose(more, v[i], best[i]);
            winner[i] = choose(more, splat((float)t), winner[i]);
        }
    }
    for (size_t t = 0; t < taps; t++) {
        vec v[WIDE];
        NW_UNROLL
        for (int i = 0; i < n; i++) v[i] = choose(winner[i] == splat((float)t), g[i], (vec){0});
        add_to((float *)dx[t] + c, v, n, last);
    }
}

void NW_KERNEL(channel_max_grad_f32)(size_t taps, size_t cols, const void *const *x, const float *dy,
                                     void *const *dx) {
#define BODY(c, n, last) max_grad_strip(taps, x, dy, dx, c, n, last)
    STRIPS(cols, BODY);
#undef BODY
}

NW_INLINE void spread_strip(size_t taps, float factor, const float *dy, void *const *dx, size_t c,
                            const int n, const size_t last) {
    vec g[WIDE];
    load_strip(dy + c, g, n, last);
    NW_UNROLL
    for (int i = 0; i < n; i++) g[i] *= splat(factor);
    for (size_t t = 0; t < taps; t++) add_to((float *)dx[t] + c, g, n, last);
}

void NW_KERNEL(channel_spread_f32)(size_t taps, size_t cols, float factor, const float *dy, void *const *dx) {
#define BODY(c, n, last) spread_strip(taps, factor, dy, dx, c, n, last)
    STRIPS(cols, BODY);
#undef BODY
}
