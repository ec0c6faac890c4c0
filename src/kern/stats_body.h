/* stats_body.h: the functions of stats.h on vectors of NW_LANES floats. Included once per ISA, by a file
 * compiled for it that defines NW_KERNEL(name) as nw_name__word; nothing else may include it. Must not
 * include anything but kern/. */
#include "kern/elementwise_lanes.h"
#include "kern/stats.h"

#define SUMS 32 /* interleaved */
#define REGS (SUMS / NW_LANES)

/* ---- scan ---------------------------------------------------------------------------------------------- */

typedef struct running {
    vec min[REGS], max[REGS], sum[REGS], squares[REGS];
    ivec zeros[REGS]; /* minus their number */
} running;

NW_INLINE void scan_32(running *r, const float *x, vec pivot) {
    NW_UNROLL
    for (int k = 0; k < REGS; k++) {
        const vec v = load(x + k * NW_LANES, NW_LANES), d = v - pivot;
        r->min[k] = smaller(v, r->min[k]);
        r->max[k] = larger(v, r->max[k]);
        r->zeros[k] += v == 0;
        r->sum[k] += d;
        r->squares[k] += d * d;
    }
}

/* A last part of a register row is filled up with the pivot: it is one of the elements and adds nothing to
 * the sums; where it is 0, the zeros that were added go again. */
void NW_KERNEL(scan_f32)(size_t n, const float *x, nw_scan *scan) {
    const float first = x[0];
    const vec pivot = splat(first);
    running r = {0};
    NW_UNROLL
    for (int k = 0; k < REGS; k++) r.min[k] = r.max[k] = pivot;
    size_t i = 0, filled = 0;
    for (; i + SUMS <= n; i += SUMS) scan_32(&r, x + i, pivot);
    if (i < n) {
        float rest[SUMS];
        for (size_t j = 0; j < SUMS; j++) rest[j] = j < n - i ? x[i + j] : first;
        filled = first == 0 ? SUMS - (n - i) : 0;
        scan_32(&r, rest, pivot);
    }
    vec min = r.min[0], max = r.max[0];
    ivec zeros = r.zeros[0];
    NW_UNROLL
    for (int k = 1; k < REGS; k++) {
        min = smaller(r.min[k], min);
        max = larger(r.max[k], max);
        zeros += r.zeros[k];
    }
    *scan = (nw_scan){.pivot = first, .min = least_across(min)[0] + 0.0f, .max = most_across(max)[0] + 0.0f};
    NW_UNROLL
    for (int l = 0; l < NW_LANES; l++) scan->zeros += (size_t)-zeros[l];
    scan->zeros -= filled;
    float sum[SUMS], squares[SUMS];
    memcpy(sum, r.sum, sizeof sum);
    memcpy(squares, r.squares, sizeof squares);
    for (int j = 0; j < SUMS; j++) {
        scan->sum += (double)sum[j];
        scan->squares += (double)squares[j];
    }
}

/* ---- tally --------------------------------------------------------------------------------------------- */

#define RUN 512 /* elements whose places are found before they are counted */

typedef uint16_t places __attribute__((vector_size(2 * NW_LANES)));

/* Writes the places of `count` elements, NW_LANES of them, of which the number returned are to be counted.
 * Zeros, of which activations are full, are left out or have a spare place for each lane: all in one place,
 * each would wait for the one before. */
NW_INLINE size_t find_places(const float *x, size_t count, vec inverse, uint16_t *at) {
    const vec v = load(x, count), magnitude = (vec)((ivec)v & 0x7fffffff);
    ivec place = __builtin_convertvector(magnitude * inverse, ivec) + ((v < 0) & NW_TALLY_BINS);
#if NW_LANES == 16
    const __mmask16 counted = _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    const size_t found = (size_t)__builtin_popcount(counted);
    place = (ivec)_mm512_maskz_compress_epi32(counted, (__m512i)place);
#else
    const ivec spare = lane_numbers() + 2 * NW_TALLY_BINS, zero = v == 0;
    const size_t found = NW_LANES;
    place = (zero & spare) | (~zero & place);
#endif
    const places p = __builtin_convertvector(place, places);
    memcpy(at, &p, sizeof p);
    return found;
}

NW_INLINE void count_places(size_t n, uint16_t *at, nw_tally *tally) {
    for (size_t t = 0; t < NW_TALLY_TABLES; t++) at[n + t] = 2 * NW_TALLY_BINS; /* of no meaning */
    for (size_t j = 0; j < n; j += NW_TALLY_TABLES) {
        NW_UNROLL
        for (size_t t = 0; t < NW_TALLY_TABLES; t++) tally->counts[t][at[j + t]]++;
    }
}

void NW_KERNEL(tally_f32)(size_t n, const float *x, float inverse, nw_tally *tally) {
    const vec factor = splat(inverse);
    uint16_t at[RUN + NW_LANES];
    while (n > 0) {
        const size_t run = n < RUN ? n : RUN;
        size_t i = 0, found = 0;
        for (; i + NW_LANES <= run; i += NW_LANES) found += find_places(x + i, NW_LANES, factor, at + found);
        if (i < run) found += find_places(x + i, run - i, factor, at + found);
        count_places(found, at, tally);
        x += run;
        n -= run;
    }
}

void NW_KERNEL(tally_move)(nw_tally *tally, uint64_t *bins) {
    NW_INDEPENDENT
    for (size_t i = 0; i < 2 * NW_TALLY_BINS; i++) {
        uint32_t count = 0;
        for (int t = 0; t < NW_TALLY_TABLES; t++) count += tally->counts[t][i];
        bins[i] += count;
    }
    memset(tally, 0, sizeof *tally);
}

/* ---- columns ------------------------------------------------------------------------------------------- */

#define HALF  (NW_LANES / 2)
#define WIDE  8 /* registers of f64 */
#define STRIP (HALF * WIDE)

typedef float half __attribute__((vector_size(4 * HALF)));
typedef double dvec __attribute__((vector_size(8 * HALF)));

NW_INLINE void sum_strip(size_t rows, size_t cols, const float *x, double *sums) {
    dvec sum[WIDE];
    memcpy(sum, sums, sizeof sum);
    for (size_t r = 0; r < rows; r++, x += cols) {
        NW_UNROLL
        for (int k = 0; k < WIDE; k++) {
            half v;
            memcpy(&v, x + k * HALF, sizeof v);
            sum[k] += __builtin_convertvector(v, dvec);
        }
    }
    memcpy(sums, sum, sizeof sum);
}

void NW_KERNEL(column_sums_f32)(size_t rows, size_t cols, const float *x, double *sums) {
    size_t c = 0;
    for (; c + STRIP <= cols; c += STRIP) sum_strip(rows, cols, x + c, sums + c);
    if (c == cols) return;
    for (size_t r = 0; r < rows; r++)
        for (size_t k = c; k < cols; k++) sums[k] += (double)x[r * cols + k];
}
