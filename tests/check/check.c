/* check.c: `check [--isa NAME] [--filter TEXT] [--bench] [--threads N] [--shapes FILE] [--seed N]`: compares every kernel
 * with its reference, or times it. Must not include anything but kern/. */
#include "check.h"
#include "check_shapes.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

check_options check_opt;

#define MAX_BUFFERS 64
#define MAX_THREADS 64
#define CANARY      64 /* bytes checked in front of a buffer */

typedef struct buffer {
    unsigned char *map, *data;
    size_t mapped;
    unsigned char canary[CANARY];
} buffer;

static struct {
    char name[256];
    bool failed;
    unsigned complaints;
    uint64_t random;
    buffer buffers[MAX_BUFFERS];
    size_t buffer_count;
    size_t passed_count, failed_count;
} now;

/* ---- random numbers: splitmix64 ------------------------------------------------------------------------ */

uint64_t check_random(void) {
    uint64_t x = now.random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

size_t check_below(size_t n) {
    return (size_t)(check_random() % n);
}
size_t check_between(size_t lo, size_t hi) {
    return lo + check_below(hi - lo + 1);
}
float check_uniform(float lo, float hi) {
    return lo + (hi - lo) * (float)((double)(check_random() >> 11) * 0x1p-53);
}

void check_fill_bytes(void *p, size_t size, int style, int smallest, int largest) {
    unsigned char *bytes = p;
    for (size_t i = 0; i < size; i++) {
        int x = smallest + (int)check_below((size_t)(largest - smallest + 1));
        if (style == 1) x = smallest;
        if (style == 2) x = largest;
        if (style == 3) x = x & 1 ? smallest : largest;
        bytes[i] = (unsigned char)x;
    }
}

void check_fill_f32(float *p, size_t n, float lo, float hi) {
    for (size_t i = 0; i < n; i++) p[i] = check_uniform(lo, hi);
}

/* ---- cases --------------------------------------------------------------------------------------------- */

bool check_begin(nw_isa isa, const char *kernel, const char *shape, ...) {
    va_list args;
    if (isa > check_opt.ceiling || !nw_isa_supported(isa)) return false;
    int length = snprintf(now.name, sizeof now.name, "%-28s ", kernel);
    va_start(args, shape);
    vsnprintf(now.name + length, sizeof now.name - (size_t)length, shape, args);
    va_end(args);
    if (check_opt.filter && !strstr(now.name, check_opt.filter)) return false;
    now.failed = false;
    now.complaints = 0;
    now.random = check_opt.seed;
    for (const char *c = strchr(now.name, ' '); *c; c++) now.random = now.random * 31 + (unsigned char)*c;
    return true;
}

bool check_wants(bool selected) {
    return selected || !check_opt.shapes;
}

void check_fail(const char *format, ...) {
    va_list args;
    now.failed = true;
    if (now.complaints++ >= 4) return;
    printf("FAIL %s: ", now.name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

bool check_failed(void) {
    return now.failed;
}

void check_end(void) {
    for (size_t i = 0; i < now.buffer_count; i++) {
        buffer *b = &now.buffers[i];
        if (memcmp(b->data - CANARY, b->canary, CANARY)) check_fail("wrote in front of buffer %zu", i);
        munmap(b->map, b->mapped);
    }
    now.buffer_count = 0;
    if (now.failed)
        now.failed_count++;
    else
        now.passed_count++;
}

void *check_alloc(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    buffer *b = &now.buffers[now.buffer_count];
    size_t usable = (size + CANARY + page - 1) / page * page;
    b->mapped = usable + page;
    b->map = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (now.buffer_count == MAX_BUFFERS || b->map == MAP_FAILED) {
        printf("check: no memory for a case\n");
        exit(2);
    }
    mprotect(b->map + usable, page, PROT_NONE);
    b->data = b->map + usable - size;
    if (check_opt.bench) { /* timed where real data lies: aligned, and not next to an inaccessible page */
        mprotect(b->map + usable, page, PROT_READ | PROT_WRITE);
        b->data = b->map + usable - (size + CANARY - 1) / CANARY * CANARY;
        if (b->data < b->map + CANARY) b->data += CANARY;
    }
    now.buffer_count++;
    unsigned char *p = b->data - CANARY;
    uint64_t x = check_random();
    for (size_t i = 0; i < size + CANARY; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        p[i] = (unsigned char)(x >> 56);
    }
    memcpy(b->canary, p, CANARY);
    return b->data;
}

static void on_crash(int signal) {
    static const char text[] = "FAIL (read or wrote outside its memory, or an illegal instruction) ";
    ssize_t ignored = write(1, text, sizeof text - 1);
    ignored = write(1, now.name, strlen(now.name));
    ignored = write(1, "\n", 1);
    (void)ignored, (void)signal;
    _exit(1);
}

/* ---- timing -------------------------------------------------------------------------------------------- */

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double check_seconds(void (*call)(void *), void *arg) {
    double best = 1e30;
    size_t repeat = 1;
    call(arg);
    for (int batch = 0; batch < 40;) {
        double start = seconds_now();
        for (size_t i = 0; i < repeat; i++) call(arg);
        double spent = seconds_now() - start;
        if (spent < 1e-3) {
            repeat *= 2;
            continue;
        }
        if (spent / (double)repeat < best) best = spent / (double)repeat;
        batch++;
    }
    return best;
}

typedef struct part {
    void (*call)(void *user, size_t part);
    void *user;
    size_t index;
    pthread_t thread;
} part;
static void *run_part(void *p) {
    const part *own = p;
    own->call(own->user, own->index);
    return NULL;
}

void check_parallel(void (*call)(void *user, size_t part), void *user) {
    part parts[MAX_THREADS];
    for (size_t i = 1; i < check_opt.threads; i++) {
        parts[i] = (part){call, user, i, 0};
        if (pthread_create(&parts[i].thread, NULL, run_part, &parts[i])) {
            printf("check: no more threads\n");
            exit(2);
        }
    }
    call(user, 0);
    for (size_t i = 1; i < check_opt.threads; i++) pthread_join(parts[i].thread, NULL);
}

void check_report(double seconds, double amount, const char *unit) {
    printf("%-76s %10.2f us %9.1f %s\n", now.name, seconds * 1e6, amount / seconds * 1e-9, unit);
}

bool check_close(double a, double b, double tolerance) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return a == b || fabs(a - b) <= tolerance;
}

double check_ulp(float x) {
    return (double)(nextafterf(fabsf(x), INFINITY) - fabsf(x));
}

/* ---- main ---------------------------------------------------------------------------------------------- */

static int usage(void) {
    printf("usage: check [--isa NAME] [--filter TEXT] [--bench] [--threads N] [--shapes FILE] [--seed N]\n  "
           "ISA names:");
    for (int i = 0; i < NW_ISA_COUNT; i++)
        printf(" %s%s", nw_isa_name((nw_isa)i), nw_isa_supported((nw_isa)i) ? "" : " (not here)");
    printf("\n");
    return 2;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } families[] = {
#define CHECK_FAMILY(name) {#name, check_##name},
#include "families.def"
#undef CHECK_FAMILY
    };
    check_opt.ceiling = nw_isa_detect();
    check_opt.threads = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            check_opt.bench = true;
        else if (!strcmp(argv[i], "--shapes") && i + 1 < argc && check_shapes_load(argv[i + 1]))
            check_opt.bench = check_opt.shapes = true, i++;
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc && nw_isa_by_name(argv[i + 1], &check_opt.ceiling))
            i++;
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc &&
                 strtoul(argv[i + 1], NULL, 0) - 1 < MAX_THREADS)
            check_opt.threads = strtoul(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--filter") && i + 1 < argc)
            check_opt.filter = argv[++i];
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            check_opt.seed = strtoull(argv[++i], NULL, 0);
        else
            return usage();
    }
    check_opt.ceiling = nw_isa_limit(check_opt.ceiling);
    signal(SIGSEGV, on_crash), signal(SIGBUS, on_crash), signal(SIGILL, on_crash);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t passed = now.passed_count, failed = now.failed_count;
        families[i].run();
        passed = now.passed_count - passed, failed = now.failed_count - failed;
        if (passed + failed) printf("%-12s %6zu passed, %zu failed\n", families[i].name, passed, failed);
    }
    printf("%zu passed, %zu failed (up to %s)\n", now.passed_count, now.failed_count,
           nw_isa_name(check_opt.ceiling));
    return now.failed_count ? 1 : 0;
}
