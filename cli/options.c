/* options.c: the tables that commands share, and the parser of command lines. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIELD(name) offsetof(settings, name)

const option options_common[] = {
    {"json", 0, OPTION_REPORT, "FILE", FIELD(json),
     "write the results as JSON too; - for standard output, instead of text", NULL, 0},
    {"threads", 0, OPTION_COUNT, "N", FIELD(threads), "threads to run with (default: one per core)", NULL, 0},
    {"isa", 0, OPTION_LISTED, "NAME", FIELD(isa), "highest instruction set to use", NULL, NW_WORDS_ISA},
    {"details", 0, OPTION_FLAG, NULL, FIELD(details), "print the long tables too", NULL, 0},
    {"quiet", 'q', OPTION_FLAG, NULL, FIELD(quiet), "print errors only", NULL, 0},
    {"help", 'h', OPTION_FLAG, NULL, FIELD(help), "show this help", NULL, 0},
    {0},
};

const option options_data[] = {
    {"data", 0, OPTION_FILE, "PATH", FIELD(data),
     "the samples: a folder with one sub-folder of images per class, a csv of file,label, MNIST idx files or "
     "their folder, "
     "CIFAR .bin files, .npy or .npz arrays; PATH:train or PATH:test takes one of two parts",
     NULL, 0},
    {"labels", 0, OPTION_FILE, "FILE", FIELD(labels),
     "class numbers of the samples (.npy or idx), for data without", NULL, 0},
    {"preprocess", 0, OPTION_TEXT, "SPEC", FIELD(preprocess),
     "how images become inputs: imagenet, none, or steps such as "
     "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,"
     "std=0.229:0.224:0.225,color=rgb,layout=nchw",
     NULL, 0},
    {"samples", 'n', OPTION_COUNT, "N", FIELD(samples), "use at most N samples", NULL, 0},
    {"skip", 0, OPTION_COUNT, "N", FIELD(skip), "leave out the first N samples", NULL, 0},
    {0},
};

const option options_measure[] = {
    {"output", 0, OPTION_TEXT, "NAME", FIELD(judged),
     "the output that is judged (default: the first that looks like class scores)", NULL, 0},
    {"batch", 0, OPTION_COUNT, "N", FIELD(batch), "samples per run for accuracy; latency is always of one",
     NULL, 0},
    {"runs", 0, OPTION_COUNT, "N", FIELD(runs), "timed runs (default: about two seconds of them)", NULL, 0},
    {"warmup", 0, OPTION_COUNT, "N", FIELD(warmup), "runs before timing starts (default 3)", NULL, 0},
    {"no-latency", 0, OPTION_FLAG, NULL, FIELD(no_latency), "measure no times", NULL, 0},
    {0},
};

const char *option_words(const option *o) {
    return o->kind == OPTION_WORD                                ? o->words
           : o->kind == OPTION_LISTED || o->kind == OPTION_NAMED ? nw_words(o->list)
                                                                 : NULL;
}

/* ---- did you mean ------------------------------------------------------------------------------------ */

#define LONGEST 48

/* Letters to insert, delete, replace or swap with their neighbour to turn a into b (Damerau and Levenshtein).
 */
static size_t distance(const char *a, size_t m, const char *b, size_t n) {
    size_t rows[3][LONGEST + 1];
    if (m > LONGEST || n > LONGEST) return LONGEST;
    for (size_t j = 0; j <= n; j++) rows[0][j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[m % 3][n];
}

const char *suggest(const char *typed, const char *words, char *buffer, size_t size) {
    size_t length = strlen(typed), best = length / 3 + 2;
    const char *found = NULL;
    for (const char *at = words; at && *at;) {
        size_t n = strcspn(at, "|"), d = distance(typed, length, at, n);
        if (length >= 3 && n > length && memcmp(at, typed, length) == 0) d = 1; /* a beginning of it */
        if (d < best && n < size) {
            best = d;
            memcpy(buffer, at, n);
            buffer[n] = 0;
            found = buffer;
        }
        at += n + (at[n] == '|');
    }
    return found;
}

/* ---- parsing ----------------------------------------------------------------------------------------- */

static const option *find(const command *c, const char *name, size_t length, char letter) {
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++)
        for (const option *o = g->options; o->name; o++) {
            if (letter ? o->letter == letter
                       : strlen(o->name) == length && memcmp(o->name, name, length) == 0)
                return o;
        }
    return NULL;
}

static bool unknown(const command *c, const char *name, size_t length) {
    char all[4096] = "", word[LONGEST + 1], near[LONGEST + 1];
    size_t at = 0;
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++)
        for (const option *o = g->options; o->name && at < sizeof all; o++)
            at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", at ? "|" : "", o->name);
    snprintf(word, sizeof word, "%.*s", (int)(length < LONGEST ? length : LONGEST), name);
    if (suggest(word, all, near, sizeof near))
        say_usage(c, "unknown option --%s; did you mean --%s?", word, near);
    else
        say_usage(c, "unknown option --%s", word);
    return false;
}

static bool append(text_list *list, const char *text) {
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items) {
        say_failed("out of memory");
        return false;
    }
    list->items = items;
    list->items[list->count++] = text;
    return true;
}

static bool one_of(const char *words, const char *word) {
    size_t length = strlen(word);
    for (const char *at = words; *at;) {
        size_t n = strcspn(at, "|");
        if (n == length && memcmp(at, word, n) == 0) return true;
        at += n + (at[n] == '|');
    }
    return false;
}

static bool set_number(const command *c, const option *o, const char *value, void *field) {
    char *end;
    errno = 0;
    if (o->kind == OPTION_COUNT) {
        unsigned long long n = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end || errno || n > SIZE_MAX / 2) {
            say_usage(c, "--%s takes a whole number, not \"%s\"", o->name, value);
            return false;
        }
        *(size_t *)field = (size_t)n;
    } else {
        double x = strtod(value, &end);
        if (end == value || *end || !isfinite(x)) {
            say_usage(c, "--%s takes a number, not \"%s\"", o->name, value);
            return false;
        }
        *(double *)field = x;
    }
    return true;
}

static bool set(const command *c, const option *o, const char *value, settings *s) {
    void *field = (char *)s + o->offset;
    const char *words = option_words(o);
    if (words && o->kind != OPTION_NAMED && !one_of(words, value)) {
        char near[LONGEST + 1];
        if (suggest(value, words, near, sizeof near))
            say_usage(c, "--%s does not know \"%s\"; did you mean %s? (%s)", o->name, value, near, words);
        else
            say_usage(c, "--%s takes one of %s, not \"%s\"", o->name, words, value);
        return false;
    }
    switch (o->kind) {
    case OPTION_FLAG: *(int *)field = 1; return true;
    case OPTION_COUNT:
    case OPTION_REAL: return set_number(c, o, value, field);
    case OPTION_LIST: return append(field, value);
    case OPTION_TEXT:
    case OPTION_FILE:
    case OPTION_OUTPUT:
    case OPTION_REPORT:
    case OPTION_WORD:
    case OPTION_LISTED:
    case OPTION_NAMED: *(const char **)field = value; return true;
    }
    return false;
}

bool options_parse(const command *c, int argc, char **argv, settings *s) {
    bool only_arguments = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *value = NULL;
        if (only_arguments || arg[0] != '-' || !arg[1]) {
            if (!append(&s->arguments, arg)) return false;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_arguments = true;
            continue;
        }
        const option *o;
        if (arg[1] == '-') {
            size_t length = strcspn(arg + 2, "=");
            o = find(c, arg + 2, length, 0);
            if (!o) return unknown(c, arg + 2, length);
            if (arg[2 + length]) value = arg + 2 + length + 1;
        } else {
            o = find(c, NULL, 0, arg[1]);
            if (!o) {
                say_usage(c, "unknown option -%c", arg[1]);
                return false;
            }
            if (arg[2] && o->kind == OPTION_FLAG) {
                say_usage(c, "-%c takes no value", arg[1]);
                return false;
            }
            if (arg[2]) value = arg + 2;
        }
        if (o->kind == OPTION_FLAG && value) {
            say_usage(c, "--%s takes no value", o->name);
            return false;
        }
        if (o->kind != OPTION_FLAG && !value) {
            if (i + 1 >= argc) {
                say_usage(c, "--%s needs a value (%s)", o->name, o->value);
                return false;
            }
            value = argv[++i];
        }
        if (!set(c, o, value, s)) return false;
    }
    return true;
}

/* Whether a file can be made or replaced at this path; if not, it has been said. */
static bool can_write(const char *path) {
    struct stat st;
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    size_t length = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    if (length >= sizeof folder) return true; /* whoever opens it says what is wrong */
    if (slash) memcpy(folder, path, length);
    if (slash) folder[length] = 0;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        say_failed("cannot write %s: it is a folder", path);
    else if (access(exists && !S_ISREG(st.st_mode) ? path : folder, W_OK) != 0)
        say_failed("cannot write %s: %s", path, strerror(errno));
    else
        return true;
    return false;
}

int options_check_outputs(const command *c, const settings *s) {
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++)
        for (const option *o = g->options; o->name; o++) {
            if (o->kind != OPTION_OUTPUT && o->kind != OPTION_REPORT) continue;
            const char *path = *(const char *const *)((const char *)s + o->offset);
            if (!path || (o->kind == OPTION_REPORT && strcmp(path, "-") == 0)) continue;
            if (strcmp(path, "-") == 0 || !*path)
                return say_usage(c, "--%s takes a file's name, not \"%s\"", o->name, path);
            if (!can_write(path)) return EXIT_SAID;
        }
    return EXIT_DONE;
}

void settings_free(settings *s) {
    text_list *lists[] = {&s->arguments, &s->inputs, &s->shapes, &s->exclude, &s->only};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        free(lists[i]->items);
        *lists[i] = (text_list){0};
    }
}
