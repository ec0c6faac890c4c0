/* conformance.c: runs ONNX's backend tests (the unpacked folder holds node/, simple/, pytorch-converted/,
 * pytorch-operator/ and light/) and counts them per operator. Cases run in child processes, so that a crash
 * or an endless loop is one failed case with a name. Which cases are not run, and why, is in skips.def. */
#include "conformance.h"
#include "support/support.h"

#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* skips.def: a case is skipped, or compared with other tolerances. */
static const struct exception {
    const char *pattern, *reason;
    bool skip;
    double rtol, atol;
} exceptions[] = {
#define SKIP(pattern, reason)                  {pattern, reason, true, 0, 0},
#define TOLERANCE(pattern, rtol, atol, reason) {pattern, reason, false, rtol, atol},
#include "skips.def"
#undef SKIP
#undef TOLERANCE
};
enum { EXCEPTIONS = sizeof exceptions / sizeof *exceptions };

/* One of `jobs` lanes: runs the cases next, next + jobs, … in a child that is replaced when it dies. */
typedef struct lane {
    pid_t child; /* 0: none */
    int pipe;
    size_t next; /* the case whose result is awaited */
    time_t since;
} lane;

typedef struct suite {
    conformance_case *cases;
    conformance_result *results;
    size_t count, capacity;
    lane *lanes; /* [jobs] */
    struct pollfd *polls;
    const char *filter, *op;
    bool verbose, all;
    int jobs, limit; /* children at a time; seconds per case */
    nw_isa isa;      /* ceiling */
} suite;

/* ---- cases
 * ----------------------------------------------------------------------------------------------------- */

static char *text(const char *format, const char *a, const char *b, const char *c) {
    char *out;
    if (asprintf(&out, format, a, b, c) < 0) abort();
    return out;
}

static const struct exception *exception_of(const char *name) {
    for (size_t i = 0; i < EXCEPTIONS; i++)
        if (fnmatch(exceptions[i].pattern, name, 0) == 0) return &exceptions[i];
    return NULL;
}

static void add_case(suite *s, char *name, char *model, char *dir) {
    if (s->filter && !strstr(name, s->filter)) {
        free(name);
        free(model);
        free(dir);
        return;
    }
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 256;
        s->cases = realloc(s->cases, s->capacity * sizeof *s->cases);
        if (!s->cases) abort();
    }
    conformance_case c = {.name = name, .model = model, .dir = dir, .rtol = 1e-3, .atol = 1e-7};
    const struct exception *e = exception_of(name);
    if (e && e->skip && !s->all) c.skip = e->reason;
    if (e && !e->skip) {
        c.rtol = e->rtol;
        c.atol = e->atol;
    }
    s->cases[s->count++] = c;
}

static void find_cases(suite *s, const char *root) {
    static const char *const groups[] = {"node", "simple", "pytorch-operator", "pytorch-converted"};
    char **names;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        char *folder = text("%s/%s", root, groups[g], "");
        size_t count = test_list(folder, "test_", "", &names);
        for (size_t i = 0; i < count; i++)
            add_case(s, text("%s/%s", groups[g], names[i], ""),
                     text("%s/%s/model.onnx", folder, names[i], ""), text("%s/%s", folder, names[i], ""));
        test_list_free(names, count);
        free(folder);
    }
    char *folder = text("%s/light", root, "", "");
    size_t count = test_list(folder, "light_", ".onnx", &names);
    for (size_t i = 0; i < count; i++) {
        char *model = text("%s/%s", folder, names[i], "");
        names[i][strlen(names[i]) - 5] = 0;
        add_case(s, text("light/%s", names[i], "", ""), model, NULL);
    }
    test_list_free(names, count);
    free(folder);
}

/* ---- running in children
 * --------------------------------------------------------------------------------------- */

static void child_main(const suite *s, size_t from, int out) {
    for (size_t i = from; i < s->count; i += (size_t)s->jobs) {
        conformance_result result = {.outcome = CASE_SKIPPED};
        if (s->cases[i].skip)
            conformance_inspect(&s->cases[i], &result);
        else
            conformance_run(&s->cases[i], s->isa, &result);
        if (write(out, &result, sizeof result) != (ssize_t)sizeof result) _exit(3);
    }
}

static void start_child(const suite *s, lane *l) {
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    l->since = time(NULL);
    l->child = fork();
    if (l->child < 0) abort();
    if (l->child == 0) {
        close(ends[0]);
        child_main(s, l->next, ends[1]);
        exit(0); /* not _exit: leak checkers report here */
    }
    close(ends[1]);
    l->pipe = ends[0];
}

/* The child ended or was ended: what became of the case it was running. */
static void bury_child(suite *s, lane *l, bool late) {
    int state = 0;
    if (late) kill(l->child, SIGKILL);
    waitpid(l->child, &state, 0);
    close(l->pipe);
    l->child = 0;
    bool unfinished = l->next < s->count, clean = WIFEXITED(state) && WEXITSTATUS(state) == 0;
    if (!unfinished && clean) return;
    size_t at = unfinished ? l->next : l->next - (size_t)s->jobs;
    conformance_result *r = &s->results[at];
    r->outcome = CASE_FAILED;
    if (late)
        snprintf(r->reason, sizeof r->reason, "not finished after %d seconds", s->limit);
    else if (WIFSIGNALED(state))
        snprintf(r->reason, sizeof r->reason, "crashed: %s", strsignal(WTERMSIG(state)));
    else if (unfinished)
        snprintf(r->reason, sizeof r->reason, "the process ended with code %d", WEXITSTATUS(state));
    else
        snprintf(r->reason, sizeof r->reason, "this or an earlier case leaks: exit code %d",
                 WEXITSTATUS(state));
    if (unfinished) l->next += (size_t)s->jobs;
}

static void run_lanes(suite *s) {
    lane *lanes = s->lanes = calloc((size_t)s->jobs, sizeof *lanes);
    struct pollfd *polls = s->polls = calloc((size_t)s->jobs, sizeof *polls);
    if (!lanes || !polls) abort();
    for (int i = 0; i < s->jobs; i++) lanes[i].next = (size_t)i;
    for (bool busy = true; busy;) {
        busy = false;
        for (int i = 0; i < s->jobs; i++) {
            if (!lanes[i].child && lanes[i].next < s->count) start_child(s, &lanes[i]);
            polls[i] = (struct pollfd){lanes[i].child ? lanes[i].pipe : -1, POLLIN, 0};
            busy |= lanes[i].child != 0;
        }
        if (busy) poll(polls, (nfds_t)s->jobs, 500);
        for (int i = 0; busy && i < s->jobs; i++) {
            lane *l = &lanes[i];
            if (!l->child) continue;
            conformance_result result;
            if (polls[i].revents & (POLLIN | POLLHUP)) {
                if (read(l->pipe, &result, sizeof result) == (ssize_t)sizeof result) {
                    s->results[l->next] = result;
                    l->next += (size_t)s->jobs;
                    l->since = time(NULL);
                } else {
                    bury_child(s, l, false);
                }
            } else if (time(NULL) - l->since > s->limit) {
                bury_child(s, l, true);
            }
        }
    }
}

/* ---- reporting
 * ------------------------------------------------------------------------------------------------- */

typedef struct op_tally {
    char name[80];
    test_tally tally;
} op_tally;

static void count_outcome(test_tally *tally, conformance_outcome outcome) {
    if (outcome == CASE_PASSED)
        tally->passed++;
    else if (outcome == CASE_FAILED)
        tally->failed++;
    else
        tally->skipped++;
}

static int by_op(const void *a, const void *b) {
    return strcmp(((const op_tally *)a)->name, ((const op_tally *)b)->name);
}

/* Every case counts for each distinct operator of its graph. */
static op_tally *tally_ops(const suite *s, size_t *op_count) {
    op_tally *ops = NULL;
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        char words[sizeof s->results[i].ops];
        memcpy(words, s->results[i].ops, sizeof words);
        char *rest = NULL;
        for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
            size_t at = 0;
            while (at < count && strcmp(ops[at].name, word) != 0) at++;
            if (at == count) {
                ops = realloc(ops, ++count * sizeof *ops);
                if (!ops) abort();
                ops[at] = (op_tally){.tally = {0, 0, 0}};
                snprintf(ops[at].name, sizeof ops[at].name, "%s", word);
            }
            count_outcome(&ops[at].tally, s->results[i].outcome);
        }
    }
    if (count) qsort(ops, count, sizeof *ops, by_op);
    *op_count = count;
    return ops;
}

static void print_ops(const suite *s, bool markdown) {
    size_t count;
    op_tally *ops = tally_ops(s, &count);
    if (markdown)
        printf("| operator | cases passed | skipped |\n|---|---|---|\n");
    else
        printf("%-44s %7s %7s %8s\n", "operator (cases that use it)", "passed", "failed", "skipped");
    for (size_t i = 0; i < count; i++) {
        const test_tally *t = &ops[i].tally;
        if (!markdown)
            printf("%-44s %7d %7d %8d\n", ops[i].name, t->passed, t->failed, t->skipped);
        else if (t->passed)
            printf("| %s | %d of %d | %d |\n", ops[i].name, t->passed, t->passed + t->failed, t->skipped);
    }
    free(ops);
}

static void print_failures(const suite *s) {
    for (size_t i = 0; i < s->count; i++) {
        const conformance_result *r = &s->results[i];
        if (r->outcome == CASE_FAILED)
            printf("FAILED %s: %s\n", s->cases[i].name, r->reason);
        else if (s->verbose && r->outcome == CASE_PASSED)
            printf("passed %s\n", s->cases[i].name);
        else if (s->verbose)
            printf("skipped %s: %s\n", s->cases[i].name, s->cases[i].skip);
    }
}

/* A pattern that fits no case any more hides nothing but ought to go. */
static int print_stale_skips(const suite *s) {
    int stale = 0;
    for (size_t k = 0; k < EXCEPTIONS; k++) {
        bool used = false;
        for (size_t i = 0; i < s->count && !used; i++)
            used = fnmatch(exceptions[k].pattern, s->cases[i].name, 0) == 0;
        if (!used) printf("FAILED skips.def: \"%s\" fits no case\n", exceptions[k].pattern);
        stale += !used;
    }
    return stale;
}

static void free_case(conformance_case *c) {
    free(c->name);
    free(c->model);
    free(c->dir);
}

static void free_suite(suite *s) {
    for (size_t i = 0; i < s->count; i++) free_case(&s->cases[i]);
    free(s->cases);
    free(s->results);
    free(s->lanes);
    free(s->polls);
}

/* Keeps the cases whose graph uses `op`. */
static void keep_op(suite *s) {
    size_t kept = 0;
    char word[128];
    snprintf(word, sizeof word, " %s ", s->op);
    for (size_t i = 0; i < s->count; i++) {
        conformance_result result = {.outcome = CASE_SKIPPED};
        conformance_inspect(&s->cases[i], &result);
        if (strstr(result.ops, word))
            s->cases[kept++] = s->cases[i];
        else
            free_case(&s->cases[i]);
    }
    s->count = kept;
}

static int usage(void) {
    fprintf(
        stderr,
        "conformance FOLDER [--filter TEXT] [--op OPERATOR] [--all] [--jobs N] [--limit SECONDS] [--isa "
        "NAME]\n"
        "            [--verbose] [--table] [--markdown]\n"
        "conformance --list-skips\n"
        "  --filter  cases with TEXT in their name (node/test_conv…)   --op     cases that use an operator\n"
        "  --all     runs the cases of skips.def too                   --table  counts per operator\n");
    return 2;
}

int main(int argc, char **argv) {
    suite s = {.jobs = 2, .limit = 120, .isa = NW_ISA_COUNT - 1};
    const char *root = NULL;
    bool table = false, markdown = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(arg, "--list-skips") == 0) {
            for (size_t k = 0; k < EXCEPTIONS; k++)
                if (exceptions[k].skip) printf("%-52s %s\n", exceptions[k].pattern, exceptions[k].reason);
            return 0;
        }
        if (strcmp(arg, "--verbose") == 0)
            s.verbose = true;
        else if (strcmp(arg, "--all") == 0)
            s.all = true;
        else if (strcmp(arg, "--table") == 0)
            table = true;
        else if (strcmp(arg, "--markdown") == 0)
            markdown = true;
        else if (strcmp(arg, "--filter") == 0 && value)
            s.filter = argv[++i];
        else if (strcmp(arg, "--op") == 0 && value)
            s.op = argv[++i];
        else if (strcmp(arg, "--jobs") == 0 && value)
            s.jobs = atoi(argv[++i]);
        else if (strcmp(arg, "--limit") == 0 && value)
            s.limit = atoi(argv[++i]);
        else if (strcmp(arg, "--isa") == 0 && value && nw_isa_by_name(value, &s.isa))
            i++;
        else if (arg[0] != '-' && !root)
            root = arg;
        else
            return usage();
    }
    if (!root || s.jobs < 1 || s.limit < 1) return usage();
    find_cases(&s, root);
    if (s.op) keep_op(&s);
    if (s.count == 0) {
        fprintf(stderr, "conformance: no cases in %s\n", root);
        return 2;
    }
    s.results = calloc(s.count, sizeof *s.results);
    if (!s.results) abort();
    run_lanes(&s);

    test_tally tally = {0, 0, 0};
    for (size_t i = 0; i < s.count; i++) count_outcome(&tally, s.results[i].outcome);
    if (table || markdown) print_ops(&s, markdown);
    if (!markdown) print_failures(&s);
    if (!s.filter && !s.op && !s.all) tally.failed += print_stale_skips(&s);
    free_suite(&s);
    return markdown ? tally.failed > 0 : test_summary("conformance", &tally);
}
