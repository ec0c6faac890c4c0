/* bars.h: a task that a small network learns in a second, and what tests of training do with it. Defines the context and the
 * arena of the test program that includes it.
 * For tests/unit only. */
#ifndef NW_TESTS_BARS_H
#define NW_TESTS_BARS_H

#include "base/random.h"
#include "run/run.h"
#include "support/unit.h"
#include "train/trainer.h"
#include "train/zoo.h"

#include <math.h>

static nw_context ctx;
static nw_arena arena;

static inline int set_up(void **state) {
    (void)state;
    nw_context_init(&ctx, NULL);
    nw_arena_init(&arena, &ctx);
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    nw_arena_free(&arena);
    return 0;
}

enum { BATCH = 24, SIDE = 8, CLASSES = 3 };
static float images[BATCH][SIDE * SIDE];
static int64_t labels[BATCH];
static nw_random generator;

static inline uint32_t draw(uint32_t below) {
    return (uint32_t)nw_random_bits(&generator) % below;
}

/* Bars in noise: horizontal, vertical or none. */
static inline void draw_bars(void) {
    for (int i = 0; i < BATCH; i++) {
        int at = (int)draw(SIDE);
        labels[i] = i % CLASSES;
        for (int k = 0; k < SIDE * SIDE; k++) {
            bool bar = labels[i] == 0 ? k / SIDE == at : labels[i] == 1 ? k % SIDE == at : false;
            images[i][k] = (float)draw(600) / 1000 - 0.3f + (bar ? 1 : 0);
        }
    }
}

static inline nw_feed feed_of(const char *name) {
    return (nw_feed){name, {.format = NW_F32, .rank = 4, .dims = {BATCH, 1, SIDE, SIDE}, .data = images}};
}

static inline nw_trainer_options options_with(double rate) {
    return (nw_trainer_options){.batch = BATCH,
                                .seed = 1,
                                .run = {.isa = nw_isa_detect(), .threads = 1},
                                .optimizer = nw_optimizer_default(NW_OPTIMIZER_ADAM),
                                .schedule = {.kind = NW_SCHEDULE_CONSTANT, .rate = rate},
                                .label_weight = 1};
}

/* Some steps; the mean loss of the last five. */
static inline double learn(nw_trainer *t, int steps) {
    double sum = 0;
    nw_feed feed = feed_of("input");
    for (int i = 0; i < steps; i++) {
        nw_trainer_result r;
        draw_bars();
        assert_ok(&ctx, nw_trainer_step(t, 1, &feed, labels, NULL, &r));
        assert_true(r.norm > 0 && r.logits.dims[0] == BATCH && r.logits.dims[1] == CLASSES);
        if (i >= steps - 5) sum += r.loss;
    }
    return sum / 5;
}

static inline nw_graph *small_model(void) {
    nw_graph *g;
    assert_ok(&ctx, nw_zoo_make(&ctx, "resnet8", (int64_t[]){1, SIDE, SIDE}, CLASSES, 3, &g));
    return g;
}

/* The mean loss of a model as it stands on one batch. */
static inline double loss_of(const nw_graph *g) {
    nw_session *s;
    nw_tensor y;
    double sum = 0;
    nw_feed feed = feed_of("input");
    generator = (nw_random){99};
    draw_bars();
    assert_ok(&ctx, nw_session_new(&ctx, g, NULL, &s));
    assert_ok(&ctx, nw_session_run(s, 1, &feed, &arena, &y));
    for (int i = 0; i < BATCH; i++) {
        double all = 0;
        const float *row = (const float *)y.data + i * CLASSES;
        for (int c = 0; c < CLASSES; c++) all += exp((double)row[c]);
        sum += log(all) - (double)row[labels[i]];
    }
    nw_session_free(s);
    return sum / BATCH;
}

#endif
