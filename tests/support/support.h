/* support.h: what the test programs share: counting, comparing tensors, memory that runs out on purpose,
 * where data lies. For tests only. */
#ifndef NW_TESTS_SUPPORT_H
#define NW_TESTS_SUPPORT_H

#include "base/random.h"
#include "num/tensor.h"

/* What a suite counts. tests/run.sh adds up the lines that test_summary prints. */
typedef struct test_tally {
    int passed, failed, skipped;
} test_tally;

/* Prints "SUITE: N passed, N failed[, N skipped]"; returns the exit code. */
int test_summary(const char *suite, const test_tally *tally);

/* Whether `got` is `want`: same format and shape, |got − want| ≤ atol + rtol·|want| in floats (NaN equals
 * NaN), equal elements otherwise. If not, `message` says where. */
bool test_same(const nw_tensor *got, const nw_tensor *want, double rtol, double atol, char *message,
               size_t size);

static inline double test_uniform(nw_random *random, double lo, double hi) {
    return lo + (hi - lo) * nw_random_uniform(random);
}

/* 10·log10(Σ want² / Σ (got − want)²) in dB; infinity when equal. Real formats of the same shape. */
double test_sqnr(const nw_tensor *got, const nw_tensor *want);

/* Names in a folder that start with prefix and end with suffix, sorted. malloc'd strings in a malloc'd array;
 * an unreadable folder gives 0. */
size_t test_list(const char *dir, const char *prefix, const char *suffix, char ***names);
void test_list_free(char **names, size_t count);

/* An allocator over malloc that counts what is alive and lets the allocation number `fail_at` (from 0) fail,
 * once or with all after it. fail_at −1: never. */
typedef struct test_memory {
    long fail_at;
    bool keep_failing;
    long asked; /* allocations asked for */
    long alive; /* not released yet */
} test_memory;
nw_allocator test_allocator(test_memory *memory);

/* An allocator for `*left` (a size_t) bytes in all, released or not: a model may ask for anything and merely fails. */
void *test_limited_alloc(void *left, size_t size);
void test_limited_release(void *left, void *ptr);

#endif
