/* optimizer.c: SGD, Adam, AdamW; schedules; clipping. Loops are plain f32, so that they vectorize and repeat
 * bit by bit. */
#include "train/optimizer.h"

#include <math.h>

nw_optimizer nw_optimizer_default(nw_optimizer_kind kind) {
    return (nw_optimizer){.kind = kind,
                          .momentum = kind == NW_OPTIMIZER_SGD ? 0.9f : 0,
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .epsilon = 1e-8f};
}

size_t nw_optimizer_slots(const nw_optimizer *o) {
    return o->kind != NW_OPTIMIZER_SGD ? 2 : o->momentum != 0;
}

static void sgd(const nw_optimizer *o, float rate, float decay, size_t n, float *p, const float *g,
                float *v) {
    float momentum = o->momentum;
    if (momentum == 0) {
        for (size_t i = 0; i < n; i++) p[i] -= rate * (g[i] + decay * p[i]);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + decay * p[i];
        v[i] = momentum * v[i] + d;
        p[i] -= rate * (o->nesterov ? d + momentum * v[i] : v[i]);
    }
}

/* shrink: what AdamW multiplies p by; decay: what Adam adds to the gradient. */
static void adam(const nw_optimizer *o, double rate, int64_t step, float shrink, float decay, size_t n,
                 float *p, const float *g, float *m, float *v) {
    float b1 = o->beta1, b2 = o->beta2, epsilon = o->epsilon;
    double time = (double)step;
    float factor = (float)(rate / (1 - pow((double)b1, time))),
          root = (float)(1 / sqrt(1 - pow((double)b2, time)));
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + decay * p[i];
        m[i] = b1 * m[i] + (1 - b1) * d;
        v[i] = b2 * v[i] + (1 - b2) * d * d;
        p[i] = p[i] * shrink - factor * m[i] / (sqrtf(v[i]) * root + epsilon);
    }
}

void nw_optimizer_step(const nw_optimizer *o, double rate, int64_t step, bool decay, size_t n, float *p,
                       const float *g, float *state, size_t stride) {
    float share = decay ? o->weight_decay : 0;
    if (o->kind == NW_OPTIMIZER_SGD)
        sgd(o, (float)rate, share, n, p, g, state);
    else if (o->kind == NW_OPTIMIZER_ADAM)
        adam(o, rate, step, 1, share, n, p, g, state, state + stride);
    else
        adam(o, rate, step, (float)(1 - rate * (double)share), 0, n, p, g, state, state + stride);
}

double nw_schedule_rate(const nw_schedule *s, int64_t step) {
    if (step <= s->warmup) return s->rate * (double)step / (double)s->warmup;
    int64_t after = step - s->warmup - 1, length = s->total - s->warmup - 1;
    const int64_t periods = s->every > 0 ? after / s->every : 0;
    if (s->kind == NW_SCHEDULE_STEP) return s->rate * pow(s->factor, (double)periods);
    if (s->kind != NW_SCHEDULE_COSINE) return s->rate;
    if (after >= length) return s->last;
    return s->last +
           (s->rate - s->last) * 0.5 * (1 + cos(3.14159265358979323846 * (double)after / (double)length));
}

double nw_gradient_norm(size_t count, const size_t *n, const float *const *g) {
    double sum = 0;
    for (size_t a = 0; a < count; a++) {
        double part[8] = {0}; /* a sum of its own each: they do not wait for one another */
        size_t i = 0;
        for (; i + 8 <= n[a]; i += 8)
            for (size_t j = 0; j < 8; j++) part[j] += (double)g[a][i + j] * (double)g[a][i + j];
        for (; i < n[a]; i++) part[i % 8] += (double)g[a][i] * (double)g[a][i];
        for (int j = 0; j < 8; j++) sum += part[j];
    }
    return sqrt(sum);
}

double nw_gradient_clip(double most, size_t count, const size_t *n, float *const *g) {
    double norm = nw_gradient_norm(count, n, (const float *const *)g);
    if (!(norm > most) || !isfinite(norm)) return norm;
    float factor = (float)(most / norm);
    for (size_t a = 0; a < count; a++)
        for (size_t i = 0; i < n[a]; i++) g[a][i] *= factor;
    return norm;
}
