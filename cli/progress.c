/* progress.c: a bar with the time left, on stderr, when that is a terminal. */
#include "cli.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    bool on;
    char what[32];
    double started, drawn;
} bar; /* one terminal, one bar */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Whether the bar is due at `time`: short work needs none. Clears it at the end. */
static bool due(const char *what, size_t done, size_t total, double time) {
    if (strcmp(bar.what, what) != 0) {
        snprintf(bar.what, sizeof bar.what, "%s", what);
        bar.started = time;
        bar.drawn = 0;
    }
    if (done >= total) {
        fputs("\r\033[K", stderr);
        bar.what[0] = 0;
        return false;
    }
    return time - bar.started >= 0.5 && time - bar.drawn >= 0.1;
}

/* seconds_left below 0: not known. */
static void paint(const char *what, size_t done, size_t total, double seconds_left, const char *note) {
    enum { WIDTH = 30 };
    char cells[WIDTH + 1];
    size_t filled = total ? done * WIDTH / total : 0;
    memset(cells, '.', WIDTH);
    memset(cells, '#', filled);
    cells[WIDTH] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %zu/%zu%s", what, cells, done, total, note);
    unsigned long seconds = (unsigned long)(seconds_left + 0.5);
    if (seconds_left >= 0) fprintf(stderr, ", %lu:%02lu left", seconds / 60, seconds % 60);
    fflush(stderr);
}

static void draw(void *user, const char *what, size_t done, size_t total) {
    (void)user;
    double time = now();
    if (!due(what, done, total, time)) return;
    bar.drawn = time;
    paint(what, done, total, done ? (time - bar.started) / (double)done * (double)(total - done) : -1, "");
}

void progress_draw(const char *what, size_t done, size_t total, double seconds_left, const char *note) {
    double time = now();
    if (!bar.on || !due(what, done, total, time)) return;
    bar.drawn = time;
    paint(what, done, total, seconds_left, note);
}

void progress_start(nw_env *env) {
    bar.on = isatty(STDERR_FILENO);
    if (bar.on) nw_env_on_progress(env, draw, NULL);
}
