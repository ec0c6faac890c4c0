/* common.c: what commands do alike: opening, showing, complaining. */
#include "cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int say_failed(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("narrow: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_SAID;
}

int say_usage(const command *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("narrow: ", stderr);
    vfprintf(stderr, format, args);
    if (c)
        fprintf(stderr, "\nTry: narrow help %s\n", c->name);
    else
        fputs("\nTry: narrow help\n", stderr);
    va_end(args);
    return EXIT_USAGE;
}

void split_name(const char *text, char *buffer, size_t size, const char **name, const char **rest) {
    size_t length = strcspn(text, "=");
    bool named = text[length] == '=' && length < size;
    if (named) {
        memcpy(buffer, text, length);
        buffer[length] = 0;
    }
    *name = named ? buffer : NULL;
    *rest = named ? text + length + 1 : text;
}

nw_result open_data(nw_env *env, const settings *s, bool calibration, nw_data **data) {
    nw_data_options options = {.preprocess = s->preprocess,
                               .labels = s->labels,
                               .skip = s->skip,
                               .samples = s->samples,
                               .calibration = calibration};
    return nw_data_open(env, s->data, &options, data);
}

nw_measure_options measure_options(const settings *s) {
    return (nw_measure_options){s->batch, s->judged, s->warmup, s->runs, s->no_latency, s->profile};
}

int show_report(const settings *s, nw_report *report) {
    bool to_stdout = s->json && strcmp(s->json, "-") == 0;
    nw_result result = s->json && !to_stdout ? nw_report_save_json(report, s->json) : NW_SUCCESS;
    const char *text = to_stdout  ? nw_report_json(report)
                       : s->quiet ? ""
                                  : nw_report_text(report, s->details);
    if (text) fputs(text, stdout);
    nw_report_free(report);
    return result == NW_SUCCESS && text ? EXIT_DONE : EXIT_FAILED;
}
