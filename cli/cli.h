/* cli.h: what the files of the command share: commands, options, settings. One table of options per command
 * drives parsing, help, the manual page and shell completion. Includes narrow.h and nothing else of the
 * library. */
#ifndef NARROW_CLI_H
#define NARROW_CLI_H

#include <narrow/narrow.h>
#include <stdbool.h>
#include <stddef.h>

/* How a command ends; the process ends with 0, 1 (failed) or 2 (wrong command line). */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* the environment holds the message, which main prints */
    EXIT_USAGE = 2,  /* said */
    EXIT_SAID = 3    /* failed, and said */
};

/* Values of an option that may be given several times. */
typedef struct text_list {
    const char **items; /* heap, pointing into argv */
    size_t count;
} text_list;

/* Everything the command line can say; zero where it says nothing. Texts point into argv. */
typedef struct settings {
    text_list arguments;
    int help, quiet, details; /* flags are ints, so that one kind of option sets them all */
    const char *json, *isa;
    size_t threads;
    /* data */
    const char *data, *labels, *preprocess;
    size_t samples, skip;
    /* measurements */
    const char *judged;
    size_t batch, runs, warmup;
    int no_latency, profile;
    /* run, bench */
    text_list inputs, shapes;
    const char *output_dir;
    int explain;
    /* info */
    int statistics, channels;
    const char *reference;
    /* doctor, quantize */
    const char *target;
    /* tradeoffs */
    const char *presets;
    size_t calibration_samples;
    int external_data;
    /* quantize */
    const char *output, *recipe, *mode, *form, *activations, *weights, *activation_scheme, *weight_scheme,
        *observer, *range;
    const char *elementwise, *products, *embeddings, *recurrent, *quantize_inputs, *bias_correction;
    int symmetric, asymmetric, per_tensor, per_channel, weights_only, reduce_range, full_range, mse_weights,
        balanced_rounding;
    int float_bias, dynamic_rows, quantize_outputs, known_ranges, measure, keep_rounding;
    size_t block, opset;
    double percentile, sigma, momentum;
    text_list exclude, only;
    /* prune, train */
    const char *prune, *norm;
    double prune_channels;
    int per_layer;
    /* new, train */
    const char *input, *loss, *optimizer, *train_momentum, *schedule, *augment, *teacher, *test, *log,
        *tensorboard, *checkpoint;
    size_t classes, seed, epochs, warmup_steps, log_every, checkpoint_every, test_samples;
    double rate, weight_decay, label_smoothing, clip, temperature, distill_weight;
    int resume;
    const char *calibrate, *match, *scale_rate, *qat_stages;
    double match_weight;
    size_t freeze_scales, prune_epochs;
    /* help */
    int man;
    const char *completion;
} settings;

typedef enum option_kind {
    OPTION_FLAG,   /* int */
    OPTION_COUNT,  /* size_t, a whole number ≥ 0 */
    OPTION_REAL,   /* double */
    OPTION_TEXT,   /* const char * */
    OPTION_FILE,   /* const char *, completed as a path */
    OPTION_OUTPUT, /* the same, of a file to write */
    OPTION_REPORT, /* the same, or - for standard output */
    OPTION_WORD,   /* const char *, one of `words` */
    OPTION_LISTED, /* const char *, one of nw_words(list) */
    OPTION_NAMED,  /* const char *, one of nw_words(list) or a path */
    OPTION_LIST    /* text_list */
} option_kind;

typedef struct option {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0: none */
    option_kind kind;
    const char *value; /* what help calls the value; NULL for flags */
    size_t offset;     /* of its field in settings */
    const char *help;
    const char *words; /* of OPTION_WORD: "on|off" */
    nw_word_list list; /* of OPTION_LISTED */
} option;

typedef struct option_group {
    const char *title;
    const option *options;
} option_group;

typedef struct example {
    const char *line, *what;
} example;

#define MAX_GROUPS   8
#define MAX_EXAMPLES 8

typedef struct command {
    const char *name, *summary; /* summary: one line, for the list of commands */
    const char *usage;          /* what follows the name */
    const char *description;    /* paragraphs for help */
    int least, most;            /* arguments; most −1: any number */
    option_group groups[MAX_GROUPS];
    example examples[MAX_EXAMPLES];
    int (*run)(nw_env *env, const settings *s); /* one of EXIT_… */
} command;

#define COMMAND(id) extern const command command_##id;
#include "commands.def"
#undef COMMAND
const command *const *commands_all(size_t *count);
const command *command_find(const char *name); /* NULL when unknown */

/* ---- options.c: tables shared by commands, and parsing ----------------------------------------------- */

static inline bool option_is_path(const option *o) {
    return o->kind == OPTION_FILE || o->kind == OPTION_OUTPUT || o->kind == OPTION_REPORT;
}

extern const option options_common[], options_data[], options_measure[];

/* Fills *s from the arguments after the command's name. false: it is wrong, and has been said on stderr. */
bool options_parse(const command *c, int argc, char **argv, settings *s);
/* Before any work: files that cannot be written are said now and not hours later. One of EXIT_… */
int options_check_outputs(const command *c, const settings *s);
void settings_free(settings *s);
const char *option_words(const option *o); /* "a|b|c", or NULL */
/* The word of a list "a|b|c" that `typed` was probably meant to be, in buffer; NULL when none is near. */
const char *suggest(const char *typed, const char *words, char *buffer, size_t size);

/* ---- help.c, complete.c ------------------------------------------------------------------------------ */

void help_overview(void);
void help_command(const command *c);
void help_man(void);                    /* roff, for narrow.1 */
bool complete_print(const char *shell); /* false: unknown shell */

/* ---- common.c: what commands do alike ---------------------------------------------------------------- */

/* "narrow: …" on stderr; returns EXIT_SAID or EXIT_USAGE. */
int say_failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int say_usage(const command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Splits "NAME=REST": name in buffer. No '=': name NULL, rest is the text. */
void split_name(const char *text, char *buffer, size_t size, const char **name, const char **rest);

/* path NULL: s->data. */
nw_result open_data(nw_env *env, const settings *s, bool calibration, nw_data **data);
nw_measure_options measure_options(const settings *s);
/* Prints the report unless quiet, writes the JSON where asked, frees the report. */
int show_report(const settings *s, nw_report *report);

/* progress.c: a bar with the time left, on stderr, when that is a terminal. */
void progress_start(nw_env *env);
/* Draws the bar of work that reports itself: at most ten times a second; done == total clears it. Nothing
 * happens before progress_start, or where there is no terminal. note: what stands behind it. */
void progress_draw(const char *what, size_t done, size_t total, double seconds_left, const char *note);

#endif
