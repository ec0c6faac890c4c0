/* test_threads.c: loops on several threads. */
#include "run/threads.h"
#include "support/unit.h"

#include <stdatomic.h>

#define MOST 100

typedef struct tally {
    _Atomic int done[MOST];
    size_t skew; /* this chunk takes longer than others: its owner's other chunks are left to the rest */
    int seen;    /* what the loop before had done when this one began */
    _Atomic int stale;
} tally;

static void count_chunk(void *user, size_t i) {
    tally *t = user;
    atomic_fetch_add(&t->done[i], 1);
    if (t->seen >= 0 && atomic_load(&t->done[(i * 7) % MOST]) < t->seen) atomic_fetch_add(&t->stale, 1);
    if (i == t->skew)
        for (volatile int spin = 0; spin < 20000; spin++) {
        }
}

/* Every chunk of every loop runs once, and no loop begins before the one before has ended. */
static void all_chunks_once(void **state) {
    (void)state;
    nw_context ctx;
    nw_context_init(&ctx, NULL);
    for (size_t threads = 1; threads <= 5; threads++) {
        nw_threads *pool;
        assert_int_equal(nw_threads_new(&ctx, threads, &pool), NW_OK);
        assert_true(nw_threads_count(pool) >= 1 && nw_threads_count(pool) <= threads);
        tally t = {.seen = -1};
        int loops[MOST] = {0};
        for (int loop = 0; loop < 300; loop++) {
            size_t count = (size_t)(loop * 13) % (MOST + 1);
            t.skew = (size_t)loop % 9;
            nw_threads_run(pool, loop % 3 != 0, count, count_chunk, &t);
            for (size_t i = 0; i < count; i++) loops[i]++;
            for (size_t i = 0; i < MOST; i++) assert_int_equal(t.done[i], loops[i]);
        }
        for (int loop = 0; loop < 300; loop++) { /* equal loops, close behind each other */
            t.seen = loop == 0 ? -1 : t.done[0];
            for (size_t i = 0; loop == 0 && i < MOST; i++) t.done[i] = 0;
            nw_threads_run(pool, true, MOST, count_chunk, &t);
        }
        assert_int_equal(t.stale, 0);
        for (size_t i = 0; i < MOST; i++) assert_int_equal(t.done[i], 300);
        nw_threads_free(pool);
    }
}

static void none_is_one(void **state) {
    (void)state;
    tally t = {.seen = -1};
    nw_threads_run(NULL, true, 5, count_chunk, &t);
    for (size_t i = 0; i < 5; i++) assert_int_equal(t.done[i], 1);
    assert_int_equal(nw_threads_count(NULL), 1);
    assert_false(nw_threads_awake(NULL));
    nw_threads_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_chunks_once),
        cmocka_unit_test(none_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
