/* progress.c: a bar with the time left, on stderr, when that is a terminal. */
#include "cli.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    char what[32];
    double started, drawn;
} bar; /* one terminal, one bar */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void draw(void *user, const char *what, size_t done, size_t total) {
    (void)user;
    double time = now();
    if (strcmp(bar.what, what) != 0) {
        snprintf(bar.what, sizeof bar.what, "%s", what);
        bar.started = time;
        bar.drawn = 0;
    }
    if (done >= total) {
        fputs("\r\033[K", stderr);
        bar.what[0] = 0;
        return;
    }
    if (time - bar.started < 0.5 || time - bar.drawn < 0.1) return; /* short work needs no bar */
    bar.drawn = time;
    enum { WIDTH = 30 };
    char cells[WIDTH + 1];
    size_t filled = total ? done * WIDTH / total : 0;
    memset(cells, '.', WIDTH);
    memset(cells, '#', filled);
    cells[WIDTH] = 0;
    double left = done ? (time - bar.started) / (double)done * (double)(total - done) : 0;
    unsigned long seconds = (unsigned long)(left + 0.5);
    fprintf(stderr, "\r\033[K%s [%s] %zu/%zu", what, cells, done, total);
    if (done) fprintf(stderr, ", %lu:%02lu left", seconds / 60, seconds % 60);
    fflush(stderr);
}

void progress_start(nw_env *env) {
    if (isatty(STDERR_FILENO)) nw_env_on_progress(env, draw, NULL);
}
