/* check_epilogue.h: random epilogues and their meaning, written again from epilogue.h for the checker.
 * Must not include anything but kern/. */
#ifndef NW_TESTS_CHECK_EPILOGUE_H
#define NW_TESTS_CHECK_EPILOGUE_H

#include "kern/epilogue.h"

#include <stdbool.h>
#include <stdint.h>

/* Fills every field of e with a random but plausible choice for sums of `depth` products; some of the
 * options NULL. When benchmarking: bias, scale and zero point only. gemm: weight zero points allowed. */
void check_epilogue_make(nw_epilogue *e, nw_epilogue_out out, size_t m, size_t n, size_t depth, bool gemm);

/* Fails the case unless the element at `got` is what e makes of an exact sum. */
void check_epilogue_element(const nw_epilogue *e, size_t row, size_t col, int64_t sum, int64_t row_sum,
                            const void *got);

#endif
