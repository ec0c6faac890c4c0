/* product.c: reference matrix products (matmul.h) that operators outside of the planner's fast paths use. */
#include "op/matmul.h"

#include <string.h>

/* Four floats, one register of every target. */
typedef float quad __attribute__((vector_size(16)));

enum { ROWS = 4, COLUMNS = 8, DEPTH = 256 }; /* of a register tile; and of a panel, [DEPTH][COLUMNS], 8 KiB */

static quad load_quad(const float *x) {
    quad q;
    memcpy(&q, x, sizeof q);
    return q;
}

static void store_quad(float *y, quad q) {
    memcpy(y, &q, sizeof q);
}

static void pack_panel(const nw_product *p, const float *b, int64_t columns, int64_t depth, float *panel) {
    if (columns < COLUMNS) memset(panel, 0, (size_t)depth * COLUMNS * sizeof *panel);
    if (p->b_column == 1) {
        for (int64_t l = 0; l < depth; l++)
            memcpy(panel + l * COLUMNS, b + l * p->b_k, (size_t)columns * sizeof *panel);
        return;
    }
    for (int64_t j = 0; j < columns; j++)
        for (int64_t l = 0; l < depth; l++) panel[l * COLUMNS + j] = b[l * p->b_k + j * p->b_column];
}

/* out[ROWS][COLUMNS] = Σ_l a[i][l·a_k]·panel[l][j]. */
static void tile(int64_t depth, const float *const a[ROWS], int64_t a_k, const float *panel, float *out) {
    quad sum[ROWS][2];
    memset(sum, 0, sizeof sum);
    for (int64_t l = 0; l < depth; l++, panel += COLUMNS) {
        quad b0 = load_quad(panel), b1 = load_quad(panel + 4);
        for (int i = 0; i < ROWS; i++) {
            sum[i][0] += b0 * a[i][l * a_k];
            sum[i][1] += b1 * a[i][l * a_k];
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store_quad(out + i * COLUMNS, sum[i][0]);
        store_quad(out + i * COLUMNS + 4, sum[i][1]);
    }
}

static void panels(const nw_product *p, const float *a, const float *b, float *y) {
    float panel[DEPTH * COLUMNS], sums[ROWS * COLUMNS];
    for (int64_t l0 = 0; l0 < p->k; l0 += DEPTH) {
        int64_t depth = p->k - l0 < DEPTH ? p->k - l0 : DEPTH;
        bool add = p->accumulate || l0 > 0;
        for (int64_t j0 = 0; j0 < p->n; j0 += COLUMNS) {
            int64_t columns = p->n - j0 < COLUMNS ? p->n - j0 : COLUMNS;
            pack_panel(p, b + l0 * p->b_k + j0 * p->b_column, columns, depth, panel);
            for (int64_t i0 = 0; i0 < p->m; i0 += ROWS) {
                int64_t rows = p->m - i0 < ROWS ? p->m - i0 : ROWS;
                const float *at[ROWS]; /* missing rows repeat the last one and are not stored */
                for (int64_t i = 0; i < ROWS; i++)
                    at[i] = a + (i0 + (i < rows ? i : rows - 1)) * p->a_row + l0 * p->a_k;
                tile(depth, at, p->a_k, panel, sums);
                for (int64_t i = 0; i < rows; i++) {
                    float *row = y + (i0 + i) * p->y_row + j0;
                    const float *s = sums + i * COLUMNS;
                    if (add)
                        for (int64_t j = 0; j < columns; j++) row[j] += s[j];
                    else
                        memcpy(row, s, (size_t)columns * sizeof *row);
                }
            }
        }
    }
}

static float dot(const float *a, const float *b, int64_t k) {
    quad s[4];
    memset(s, 0, sizeof s);
    int64_t l = 0;
    for (; l + 16 <= k; l += 16)
        for (int v = 0; v < 4; v++) s[v] += load_quad(a + l + 4 * v) * load_quad(b + l + 4 * v);
    quad q = (s[0] + s[1]) + (s[2] + s[3]);
    float sum = (q[0] + q[1]) + (q[2] + q[3]);
    for (; l < k; l++) sum += a[l] * b[l];
    return sum;
}

static void add_row(int64_t n, float factor, const float *x, float *y) {
    for (int64_t j = 0; j < n; j++) y[j] += factor * x[j];
}

static void clear(const nw_product *p, void *y, size_t size) {
    for (int64_t i = 0; i < p->m; i++)
        memset((char *)y + (size_t)(i * p->y_row) * size, 0, (size_t)p->n * size);
}

/* Packing b pays from ROWS rows on; below that each element of b is used where it lies. */
void nw_product_f32(const nw_product *p, const float *a, const float *b, float *y) {
    if (p->m == 0 || p->n == 0) return;
    bool few = p->m < ROWS;
    if (few && p->a_k == 1 && p->b_k == 1) {
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++) {
                float *at = y + i * p->y_row + j;
                *at = (p->accumulate ? *at : 0) + dot(a + i * p->a_row, b + j * p->b_column, p->k);
            }
    } else if (few && p->b_column == 1) {
        if (!p->accumulate) clear(p, y, sizeof *y);
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t l = 0; l < p->k; l++)
                add_row(p->n, a[i * p->a_row + l * p->a_k], b + l * p->b_k, y + i * p->y_row);
    } else if (p->k == 0) {
        if (!p->accumulate) clear(p, y, sizeof *y);
    } else {
        panels(p, a, b, y);
    }
}

void nw_product_f64(const nw_product *p, const double *a, const double *b, double *y) {
    if (!p->accumulate) clear(p, y, sizeof *y);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t l = 0; l < p->k; l++) {
            double factor = a[i * p->a_row + l * p->a_k], *row = y + i * p->y_row;
            const double *x = b + l * p->b_k;
            for (int64_t j = 0; j < p->n; j++) row[j] += factor * x[j * p->b_column];
        }
}

void nw_product_s32(const nw_product *p, const int32_t *a, const int32_t *b, int32_t *y) {
    if (!p->accumulate) clear(p, y, sizeof *y);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t l = 0; l < p->k; l++) {
            uint32_t factor = (uint32_t)a[i * p->a_row + l * p->a_k];
            int32_t *row = y + i * p->y_row;
            const int32_t *x = b + l * p->b_k;
            for (int64_t j = 0; j < p->n; j++)
                row[j] = (int32_t)((uint32_t)row[j] + factor * (uint32_t)x[j * p->b_column]);
        }
}

nw_product nw_matmul_product(const nw_matmul_geometry *g) {
    return (nw_product){.m = g->m,
                        .n = g->n,
                        .k = g->k,
                        .a_row = g->trans_a ? 1 : g->k,
                        .a_k = g->trans_a ? g->m : 1,
                        .b_k = g->trans_b ? 1 : g->n,
                        .b_column = g->trans_b ? g->k : 1,
                        .y_row = g->n};
}
