/* move.c: see move.h. */
#include "op/move.h"

void nw_move_add(nw_move *m, int64_t dim, int64_t from, int64_t to) {
    m->dims[m->rank] = dim;
    m->from[m->rank] = from;
    m->to[m->rank++] = to;
}

void nw_dims_strides(int rank, const int64_t *dims, int64_t *strides) {
    int64_t step = 1;
    for (int d = rank - 1; d >= 0; d--) {
        strides[d] = step;
        step *= dims[d];
    }
}

/* Without axes of size 1, and with neighbours merged that are one longer axis on both sides. */
static nw_move merged(const nw_move *m) {
    nw_move s = {.rank = 0};
    for (int i = 0; i < m->rank; i++) {
        int last = s.rank - 1;
        if (m->dims[i] == 1) continue;
        if (last >= 0 && s.from[last] == m->from[i] * m->dims[i] && s.to[last] == m->to[i] * m->dims[i]) {
            s.dims[last] *= m->dims[i];
            s.from[last] = m->from[i];
            s.to[last] = m->to[i];
        } else {
            nw_move_add(&s, m->dims[i], m->from[i], m->to[i]);
        }
    }
    return s;
}

/* The two innermost axes of a block, in bytes. */
typedef struct plane {
    int64_t rows, columns;
    int64_t from_row, from_column, to_row, to_column;
} plane;

#define TILE 32

/* Element by element in tiles; `size` is a compile-time constant at the call sites that matter. In a tile the
 * side with the longer step is the outer loop, so that its lines are used up while they are in the cache. */
static inline __attribute__((always_inline)) void copy_tiles(size_t size, const plane *p, const char *src,
                                                             char *dst) {
    bool by_column = p->from_column > p->to_row;
    for (int64_t r0 = 0; r0 < p->rows; r0 += TILE) {
        int64_t r1 = p->rows - r0 < TILE ? p->rows : r0 + TILE;
        for (int64_t c0 = 0; c0 < p->columns; c0 += TILE) {
            int64_t c1 = p->columns - c0 < TILE ? p->columns : c0 + TILE;
            for (int64_t r = r0; r < r1 && !by_column; r++)
                for (int64_t c = c0; c < c1; c++)
                    memcpy(dst + r * p->to_row + c * p->to_column, src + r * p->from_row + c * p->from_column,
                           size);
            for (int64_t c = c0; c < c1 && by_column; c++)
                for (int64_t r = r0; r < r1; r++)
                    memcpy(dst + r * p->to_row + c * p->to_column, src + r * p->from_row + c * p->from_column,
                           size);
        }
    }
}

/* run: bytes that are contiguous on both sides: the element itself, or a whole innermost axis. */
static void copy_plane(size_t run, const plane *p, const char *src, char *dst) {
    switch (run) {
    case 1: copy_tiles(1, p, src, dst); break;
    case 2: copy_tiles(2, p, src, dst); break;
    case 4: copy_tiles(4, p, src, dst); break;
    case 8: copy_tiles(8, p, src, dst); break;
    case 16: copy_tiles(16, p, src, dst); break;
    default:
        for (int64_t r = 0; r < p->rows; r++)
            for (int64_t c = 0; c < p->columns; c++)
                memcpy(dst + r * p->to_row + c * p->to_column, src + r * p->from_row + c * p->from_column,
                       run);
    }
}

/* Takes axis d out of m. */
static void drop_axis(nw_move *m, int d) {
    m->rank--;
    for (; d < m->rank; d++) {
        m->dims[d] = m->dims[d + 1];
        m->from[d] = m->from[d + 1];
        m->to[d] = m->to[d + 1];
    }
}

void nw_move_run(const nw_move *move, size_t size, const void *src, void *dst) {
    for (int i = 0; i < move->rank; i++)
        if (move->dims[i] <= 0) return;
    nw_move m = merged(move);
    size_t run = size;
    if (m.rank > 0 && m.from[m.rank - 1] == 1 && m.to[m.rank - 1] == 1) run *= (size_t)m.dims[--m.rank];
    plane p = {1, 1, 0, 0, 0, 0};
    int64_t unit = (int64_t)size;
    if (m.rank > 0) {
        int c = m.rank - 1;
        p.columns = m.dims[c];
        p.from_column = m.from[c] * unit;
        p.to_column = m.to[c] * unit;
        drop_axis(&m, c);
    }
    if (m.rank > 0) {
        int r = m.rank - 1; /* in a transposition rather the axis that the source has innermost */
        for (int d = 0; d < m.rank && run == size; d++)
            if (m.from[d] == 1) r = d;
        p.rows = m.dims[r];
        p.from_row = m.from[r] * unit;
        p.to_row = m.to[r] * unit;
        drop_axis(&m, r);
    }
    int64_t index[NW_MOVE_RANK] = {0}, offsets[2] = {0, 0};
    const int64_t *strides[2] = {m.from, m.to};
    do copy_plane(run, &p, (const char *)src + offsets[0] * unit, (char *)dst + offsets[1] * unit);
    while (nw_next_index(m.rank, m.dims, index, 2, strides, offsets));
}

void nw_fill_elements(size_t size, size_t count, const void *value, void *dst) {
    nw_move m = {.rank = 0};
    nw_move_add(&m, (int64_t)count, 0, 1);
    nw_move_run(&m, size, value, dst);
}

nw_status nw_call_element_size(const nw_op_call *call, nw_format format, size_t *size) {
    int bits = nw_format_bits(format);
    if (bits < 8)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "cannot move %s elements: they are smaller than a byte",
                            nw_format_name(format));
    *size = (size_t)bits / 8;
    return NW_OK;
}

nw_status nw_call_set_moved(nw_op_call *call, int i, const nw_tensor *t, int rank, const int64_t *dims) {
    size_t size;
    NW_TRY(nw_call_element_size(call, nw_real_format(t), &size));
    return nw_call_set(call, i, nw_real_format(t), rank, dims);
}

void nw_roles_moved(const nw_node *node, nw_roles *roles) {
    (void)node;
    roles->in[0] = NW_ROLE_DATA;
    roles->same_grid = true;
}
