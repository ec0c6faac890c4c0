/* levels.h: codes that are positions in a table (nw_levels of qparam.h): the tables, and encoding with them. Logarithmic,
 * square-root, binary, NF4 and codebook codes differ in nothing but their table. Values are meant for scale 1: the
 * outermost level is ±1 where a formula makes the table.
 * Must not include anything but base/ and num/. */
#ifndef NW_NUM_LEVELS_H
#define NW_NUM_LEVELS_H

#include "num/qparam.h"

/* codes[i] = code of r[i] = x/scale; NaN is taken for 0. Returns how many saturated: lie as far beyond an outermost level
 * as its threshold lies before it, or farther. */
size_t nw_levels_encode(const nw_levels *levels, size_t count, const float *r, uint16_t *codes);
/* r[i] = value of codes[i]; a code beyond the table is its last. */
void nw_levels_decode(const nw_levels *levels, size_t count, const int32_t *codes, float *r);

/* Whether values and thresholds are finite and ascend, 2 … 256 of them. */
bool nw_levels_valid(const nw_levels *levels);
/* *out ← levels with arrays in `arena`; without thresholds they become the midpoints. */
nw_status nw_levels_copy(nw_arena *arena, const nw_levels *levels, nw_levels *out);

/* {−1, 1}, numbers from 0 on are 1. */
nw_status nw_levels_binary(nw_arena *arena, nw_levels *out);
bool nw_levels_are_signs(const nw_levels *levels); /* values −1 and 1, whatever the threshold */
/* 0 and ±2^(−j/steps), j = 0 … count/2 − 1, for an odd count ≥ 3: the nearest in the logarithmic domain, so thresholds are
 * geometric means; what lies more than half a step below the smallest level is 0. */
nw_status nw_levels_log(nw_arena *arena, int count, int steps, nw_levels *out);
/* sign(q)·(q/n)², q = −n … n, n = count/2, for an odd count ≥ 3: q = round(sign(r)·sqrt|r|·n). */
nw_status nw_levels_sqrt(nw_arena *arena, int count, nw_levels *out);
/* NormalFloat4: 16 quantiles of the normal distribution, 0 among them (Dettmers et al. 2023, "QLoRA", appendix E). */
nw_status nw_levels_nf4(nw_arena *arena, nw_levels *out);

/* Numbers that are alike, or nearly: Σw and Σw·r. */
typedef struct nw_point {
    double weight, sum;
} nw_point;
/* The `count` levels (2 … 256) that minimise Σ w·(r − level)² over points in ascending order of sum/weight, weights > 0:
 * k-means in one dimension, solved exactly by dynamic programming in O(count·points·log points) (Wang and Song 2011,
 * "Ckmeans.1d.dp"). Fewer levels when there are fewer points. */
nw_status nw_levels_codebook(nw_arena *arena, size_t points, const nw_point *point, int count,
                             nw_levels *out);

#endif
