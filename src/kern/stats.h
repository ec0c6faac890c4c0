/* stats.h: what numbers a tensor holds: extremes, sums, a histogram of magnitudes, sums of columns. For
 * observers. Pointers unaligned-safe; nothing is read or written outside the arrays. All results are the
 * same bits on every ISA. Kernels cannot fail. Must not include anything but kern/. */
#ifndef NW_KERN_STATS_H
#define NW_KERN_STATS_H

#include "kern/isa.h"

#include <stddef.h>
#include <stdint.h>

/* Sums are of d = x − pivot with pivot = x[0], so that they do not cancel. Each is 32 interleaved sums in f32
 * (sum j of the elements j, j+32, …), added up in f64 in the order of j. When all elements are finite, so is
 * `squares` as long as no lane's sum of d² reaches 2^128; when any is not, `squares` is not, and the other
 * members mean nothing. */
typedef struct nw_scan {
    float pivot;
    float min, max;      /* −0 counts as +0 */
    size_t zeros;        /* of either sign */
    double sum, squares; /* Σ d, Σ d² */
} nw_scan;
/* 1 ≤ n < 2^31. */
typedef void nw_scan_f32_fn(size_t n, const float *x, nw_scan *scan);

#define NW_TALLY_BINS   2048 /* on each side of zero */
#define NW_TALLY_TABLES 4    /* neighbours are counted in different tables: they do not wait for each other */
#define NW_TALLY_SPARE  16   /* places of no meaning behind each table */

/* counts[·][i], added over the tables: elements in bin i of x > 0 (i < NW_TALLY_BINS) or bin
 * i − NW_TALLY_BINS of x < 0. Of n elements of a call, a table takes at most n/4 + 8; its counts have
 * 16 bits. */
typedef struct nw_tally {
    uint16_t counts[NW_TALLY_TABLES][2 * NW_TALLY_BINS + NW_TALLY_SPARE];
} nw_tally;
/* Counts the elements by magnitude: bin ⌊|x|·inverse⌋, which is below NW_TALLY_BINS. Zeros are not
 * counted. */
typedef void nw_tally_f32_fn(size_t n, const float *x, float inverse, nw_tally *tally);
/* bins[i] += the tables' counts of bin i, for i < 2·NW_TALLY_BINS; the tally is empty after that. */
typedef void nw_tally_move_fn(nw_tally *tally, uint64_t *bins);

/* sums[c] += x[r·cols + c] for r = 0 … rows−1, in this order, in f64. */
typedef void nw_column_sums_f32_fn(size_t rows, size_t cols, const float *x, double *sums);

typedef struct nw_stats {
    nw_scan_f32_fn *scan_f32;
    nw_tally_f32_fn *tally_f32;
    nw_tally_move_fn *tally_move;
    nw_column_sums_f32_fn *column_sums_f32;
} nw_stats;

#define NW_STATS(isa, word)                                                                                  \
    nw_scan_f32_fn nw_scan_f32__##word;                                                                      \
    nw_tally_f32_fn nw_tally_f32__##word;                                                                    \
    nw_tally_move_fn nw_tally_move__##word;                                                                  \
    nw_column_sums_f32_fn nw_column_sums_f32__##word;
#include "kern/stats.def"
#undef NW_STATS

void nw_stats_select(nw_isa ceiling, nw_stats *out);

#endif
