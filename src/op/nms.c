/* nms.c: NonMaxSuppression: the best boxes of each class that do not overlap better ones. */
#include "op/index.h"

#include <math.h>

/* Inputs: boxes [B, N, 4], scores [B, C, N], then optional single numbers. */
typedef struct nms {
    const nw_tensor *boxes, *scores;
    int64_t most; /* per batch and class */
    double overlap, threshold;
    bool thresholded, centered;
} nms;

static nw_status optional_number(const nw_op_call *call, int i, double *value, bool *given) {
    const nw_tensor *t = nw_call_in(call, i);
    *given = t != NULL && nw_tensor_count(t) > 0;
    if (!*given) return NW_OK;
    NW_TRY(nw_call_real(call, i, &t));
    NW_TRY(nw_call_expect_one(call, t, "each of its parameters"));
    *value = nw_tensor_f64(t, 0);
    return NW_OK;
}

static nw_status read_nms(const nw_op_call *call, nms *p) {
    bool given;
    double most = 0;
    *p = (nms){.centered = nw_node_int(call->node, "center_point_box", 0) != 0};
    NW_TRY(nw_call_real(call, 0, &p->boxes));
    NW_TRY(nw_call_real(call, 1, &p->scores));
    NW_TRY(optional_number(call, 2, &most, &given));
    NW_TRY(optional_number(call, 3, &p->overlap, &given));
    NW_TRY(optional_number(call, 4, &p->threshold, &p->thresholded));
    NW_TRY(nw_call_expect_float(call, p->boxes));
    NW_TRY(nw_call_expect_float(call, p->scores));
    const nw_tensor *b = p->boxes, *s = p->scores;
    if (b->rank != 3 || s->rank != 3 || b->dims[2] != 4 || b->dims[0] != s->dims[0] ||
        b->dims[1] != s->dims[2])
        return nw_call_fail(call, NW_E_SHAPE, "expects boxes [B,N,4] and scores [B,C,N]");
    p->most = most > 0 ? (int64_t)fmin(most, (double)b->dims[1]) : 0;
    return NW_OK;
}

typedef struct box {
    double x0, x1, y0, y1;
} box;

static box box_at(const nms *p, int64_t batch, size_t i) {
    double v[4];
    for (size_t k = 0; k < 4; k++)
        v[k] = nw_tensor_f64(p->boxes, ((size_t)(batch * p->boxes->dims[1]) + i) * 4 + k);
    if (p->centered) return (box){v[0] - v[2] / 2, v[0] + v[2] / 2, v[1] - v[3] / 2, v[1] + v[3] / 2};
    return (box){fmin(v[1], v[3]), fmax(v[1], v[3]), fmin(v[0], v[2]), fmax(v[0], v[2])};
}

/* Intersection over union is above the threshold; empty boxes overlap nothing. */
static bool overlaps(box a, box b, double threshold) {
    double w = fmin(a.x1, b.x1) - fmax(a.x0, b.x0), h = fmin(a.y1, b.y1) - fmax(a.y0, b.y0);
    if (!(w > 0) || !(h > 0)) return false;
    double area_a = (a.x1 - a.x0) * (a.y1 - a.y0), area_b = (b.x1 - b.x0) * (b.y1 - b.y0), both = w * h;
    return area_a > 0 && area_b > 0 && both / (area_a + area_b - both) > threshold;
}

static bool higher_score(const void *user, size_t a, size_t b) {
    const double *scores = user;
    return scores[a] > scores[b];
}

/* Chosen boxes as triples batch, class, box; out NULL only counts. */
static nw_status suppress(const nw_op_call *call, const nms *p, int64_t *out, int64_t *count) {
    size_t n = (size_t)p->boxes->dims[1], *order, *room, *chosen;
    double *scores;
    box *boxes;
    *count = 0;
    NW_TRY(nw_call_scratch(call, n, &scores));
    NW_TRY(nw_call_scratch(call, n, &order));
    NW_TRY(nw_call_scratch(call, n, &room));
    NW_TRY(nw_call_scratch(call, n, &chosen));
    NW_TRY(nw_call_scratch(call, n, &boxes));
    if (n == 0 || p->most == 0) return NW_OK;
    for (int64_t b = 0; b < p->boxes->dims[0]; b++) {
        for (size_t i = 0; i < n; i++) boxes[i] = box_at(p, b, i);
        for (int64_t c = 0; c < p->scores->dims[1]; c++) {
            int64_t kept = 0;
            for (size_t i = 0; i < n; i++)
                scores[i] = nw_tensor_f64(p->scores, (size_t)(b * p->scores->dims[1] + c) * n + i);
            nw_sort_order(n, higher_score, scores, order, room);
            for (size_t i = 0; i < n && kept < p->most; i++) {
                size_t candidate = order[i];
                bool keep = !p->thresholded || scores[candidate] > p->threshold;
                for (int64_t k = 0; k < kept && keep; k++)
                    keep = !overlaps(boxes[candidate], boxes[chosen[k]], p->overlap);
                if (!keep) continue;
                chosen[kept++] = candidate;
                if (out) {
                    int64_t *triple = out + 3 * *count;
                    triple[0] = b;
                    triple[1] = c;
                    triple[2] = (int64_t)candidate;
                }
                ++*count;
            }
        }
    }
    return NW_OK;
}

static nw_status nms_infer(nw_op_call *call) {
    nms p;
    int64_t count;
    NW_TRY(read_nms(call, &p));
    NW_TRY(suppress(call, &p, NULL, &count));
    return nw_call_set(call, 0, NW_S64, 2, (const int64_t[]){count, 3});
}

static nw_status nms_eval(nw_op_call *call) {
    nms p;
    int64_t count;
    NW_TRY(read_nms(call, &p));
    return suppress(call, &p, call->out[0].data, &count);
}

const nw_op nw_op_NonMaxSuppression = {
    .name = "NonMaxSuppression", .domain = "", .infer = nms_infer, .eval = nms_eval};
