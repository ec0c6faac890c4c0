/* random.h: pseudo-random numbers that repeat on every machine: SplitMix64 (Steele, Lea, Flood 2014), a Weyl
 * sequence through a mixing function; every seed is good.
 * Must not include anything of this project. */
#ifndef NW_BASE_RANDOM_H
#define NW_BASE_RANDOM_H

#include <math.h>
#include <stdint.h>

typedef struct nw_random {
    uint64_t state;
} nw_random;

static inline uint64_t nw_random_bits(nw_random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* In [0, 1), 53 random bits. */
static inline double nw_random_uniform(nw_random *r) {
    return (double)(nw_random_bits(r) >> 11) * 0x1p-53;
}

/* Mean 0, variance 1: Box and Muller's transform; 1 − u avoids the logarithm of 0. */
static inline double nw_random_normal(nw_random *r) {
    double radius = sqrt(-2 * log(1 - nw_random_uniform(r)));
    return radius * cos(6.283185307179586477 * nw_random_uniform(r));
}

/* A generator of its own for each pair (seed, index): what is drawn for one thing does not depend on what was
 * drawn before for others. */
static inline nw_random nw_random_at(uint64_t seed, uint64_t index) {
    nw_random r = {seed};
    r.state = nw_random_bits(&r) ^ index;
    return r;
}

#endif
