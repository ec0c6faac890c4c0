/* support.c: what the test programs share. */
#include "support/support.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int test_summary(const char *suite, const test_tally *tally) {
    printf("%s: %d passed, %d failed", suite, tally->passed, tally->failed);
    if (tally->skipped) printf(", %d skipped", tally->skipped);
    printf("\n");
    return tally->failed ? 1 : 0;
}

/* ---- comparing
 * ------------------------------------------------------------------------------------------------- */

static bool near(double got, double want, double rtol, double atol) {
    if (isnan(got) || isnan(want)) return isnan(got) && isnan(want);
    if (isinf(got) || isinf(want)) return got == want;
    return fabs(got - want) <= atol + rtol * fabs(want);
}

static bool same_strings(const nw_tensor *got, const nw_tensor *want, char *message, size_t size) {
    const nw_str *a = got->data, *b = want->data;
    for (size_t i = 0; i < nw_tensor_count(want); i++)
        if (a[i].size != b[i].size || memcmp(a[i].data, b[i].data, a[i].size) != 0) {
            snprintf(message, size, "element %zu is \"%.*s\", not \"%.*s\"", i, (int)a[i].size, a[i].data,
                     (int)b[i].size, b[i].data);
            return false;
        }
    return true;
}

static bool same_floats(nw_format format, size_t count, const void *got, const void *want, double rtol,
                        double atol, char *message, size_t size) {
    size_t wrong = 0, worst = 0;
    double distance = -1;
    for (size_t i = 0; i < count; i++) {
        double a = nw_load_f64(format, got, i), b = nw_load_f64(format, want, i);
        if (near(a, b, rtol, atol)) continue;
        wrong++;
        double d = isnan(a - b) ? INFINITY : fabs(a - b);
        if (d > distance) {
            distance = d;
            worst = i;
        }
    }
    if (wrong)
        snprintf(message, size, "%zu of %zu elements differ; element %zu is %.9g, not %.9g", wrong, count,
                 worst, nw_load_f64(format, got, worst), nw_load_f64(format, want, worst));
    return wrong == 0;
}

static bool same_codes(const nw_tensor *got, const nw_tensor *want, char *message, size_t size) {
    size_t wrong = 0, first = 0, count = nw_tensor_count(want);
    size_t bytes = (size_t)nw_format_bits(want->format) / 8;
    for (size_t i = 0; i < count; i++) {
        bool same = bytes ? memcmp((const char *)got->data + i * bytes, (const char *)want->data + i * bytes,
                                   bytes) == 0
                          : nw_tensor_s64(got, i) == nw_tensor_s64(want, i);
        if (!same && wrong++ == 0) first = i;
    }
    if (wrong)
        snprintf(message, size, "%zu of %zu elements differ; element %zu is %" PRId64 ", not %" PRId64, wrong,
                 count, first, nw_tensor_s64(got, first), nw_tensor_s64(want, first));
    return wrong == 0;
}

bool test_same(const nw_tensor *got, const nw_tensor *want, double rtol, double atol, char *message,
               size_t size) {
    if (got->format != want->format || !nw_tensor_same_shape(got, want)) {
        char a[128], b[128];
        snprintf(message, size, "it is %s, not %s", nw_tensor_describe(got, a, sizeof a),
                 nw_tensor_describe(want, b, sizeof b));
        return false;
    }
    size_t count = nw_tensor_count(want);
    if (count == 0) return true;
    if (!got->data || !want->data) {
        snprintf(message, size, "it has no data");
        return false;
    }
    switch (nw_format_kind(want->format)) {
    case NW_KIND_STRING: return same_strings(got, want, message, size);
    case NW_KIND_FLOAT:
        return same_floats(want->format, count, got->data, want->data, rtol, atol, message, size);
    case NW_KIND_COMPLEX:
        return same_floats(want->format == NW_C64 ? NW_F32 : NW_F64, 2 * count, got->data, want->data, rtol,
                           atol, message, size);
    default: return same_codes(got, want, message, size);
    }
}

double test_sqnr(const nw_tensor *got, const nw_tensor *want) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < nw_tensor_count(want); i++) {
        double a = nw_tensor_f64(got, i), b = nw_tensor_f64(want, i);
        signal += b * b;
        noise += (a - b) * (a - b);
    }
    return noise == 0 ? INFINITY : 10 * log10(signal / noise);
}

/* ---- folders
 * --------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool matches(const char *name, const char *prefix, const char *suffix) {
    size_t n = strlen(name), p = strlen(prefix), s = strlen(suffix);
    return name[0] != '.' && n >= p + s && strncmp(name, prefix, p) == 0 && strcmp(name + n - s, suffix) == 0;
}

size_t test_list(const char *dir, const char *prefix, const char *suffix, char ***names) {
    *names = NULL;
    DIR *d = opendir(dir);
    if (!d) return 0;
    size_t count = 0, capacity = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!matches(e->d_name, prefix, suffix)) continue;
        if (count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            char **larger = realloc(*names, capacity * sizeof **names);
            if (!larger) abort();
            *names = larger;
        }
        char *copy = strdup(e->d_name);
        if (!copy) abort();
        (*names)[count++] = copy;
    }
    closedir(d);
    if (count) qsort(*names, count, sizeof **names, by_name);
    return count;
}

void test_list_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
}

/* ---- memory
 * ---------------------------------------------------------------------------------------------------- */

static void *failing_alloc(void *user, size_t size) {
    test_memory *m = user;
    long number = m->asked++;
    if (m->fail_at >= 0 && (number == m->fail_at || (m->keep_failing && number > m->fail_at))) return NULL;
    void *ptr = NULL;
    if (posix_memalign(&ptr, NW_ALIGN, size ? size : 1) != 0) return NULL;
    m->alive++;
    return ptr;
}

static void counted_release(void *user, void *ptr) {
    test_memory *m = user;
    m->alive--;
    free(ptr);
}

nw_allocator test_allocator(test_memory *memory) {
    return (nw_allocator){failing_alloc, counted_release, memory};
}

void *test_limited_alloc(void *left, size_t size) {
    size_t *bytes = left;
    void *ptr = NULL;
    if (size > *bytes || posix_memalign(&ptr, NW_ALIGN, size ? size : 1) != 0) return NULL;
    *bytes -= size;
    return ptr;
}

void test_limited_release(void *left, void *ptr) {
    (void)left;
    free(ptr);
}
