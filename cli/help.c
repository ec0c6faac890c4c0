/* help.c: the tables as help on the terminal and as a manual page. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

#define WIDTH  100
#define COLUMN 30

/* Text wrapped at WIDTH, after spaces and commas, every line but the first indented; `column` is where the
 * first line starts. */
static void wrap(const char *text, int column, int indent) {
    bool space = false;
    while (*text) {
        size_t n = strcspn(text, " ,");
        n += text[n] == ',';
        int width = 0;
        for (size_t i = 0; i < n; i++) width += ((unsigned char)text[i] & 0xC0) != 0x80;
        if (column > indent && column + space + width > WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (space) {
            putchar(' ');
            column++;
        }
        printf("%.*s", (int)n, text);
        column += width;
        text += n;
        space = *text == ' ';
        while (*text == ' ') text++;
    }
    putchar('\n');
}

void help_overview(void) {
    size_t count;
    const command *const *all = commands_all(&count);
    puts("narrow quantizes ONNX neural networks, runs them, and measures what that costs and gains.\n");
    puts("usage: narrow COMMAND …\n");
    for (size_t i = 0; i < count; i++) printf("  %-11s %s\n", all[i]->name, all[i]->summary);
    puts("\nStart with:\n"
         "  narrow info model.onnx\n"
         "  narrow quantize model.onnx -o small.onnx --calibrate photos/ --preprocess imagenet\n"
         "  narrow compare model.onnx small.onnx --data photos/ --preprocess imagenet\n\n"
         "narrow help COMMAND explains one of them; narrow --version says which this is.");
}

static void print_option(const option *o) {
    char left[96];
    int n =
        snprintf(left, sizeof left, "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
    const char *words = option_words(o);
    char text[1024];
    snprintf(text, sizeof text, "%s%s%s", o->help, words ? ": " : "", words ? words : "");
    if (n < COLUMN)
        printf("%-*s", COLUMN, left);
    else
        printf("%s\n%*s", left, COLUMN, "");
    wrap(text, COLUMN, COLUMN);
}

void help_command(const command *c) {
    printf("narrow %s: %s\n\nusage: narrow %s %s [options]\n\n", c->name, c->summary, c->name, c->usage);
    wrap(c->description, 0, 0);
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++) {
        printf("\n%s:\n", g->title);
        for (const option *o = g->options; o->name; o++) print_option(o);
    }
    printf("\nExamples:\n");
    for (const example *e = c->examples; e < c->examples + MAX_EXAMPLES && e->line; e++)
        printf("  # %s\n  %s\n", e->what, e->line);
}

/* ---- the manual page --------------------------------------------------------------------------------- */

/* Text for roff, in ASCII: a hyphen is a minus, a backslash is escaped, and no line begins with a control
 * character. */
static void roff(const char *text) {
    static const char *const spelled[][2] = {{"-", "\\-"}, {"\\", "\\e"}, {"…", "..."}, {"±", "\\[+-]"},
                                             {"−", "\\-"}, {"|", "|\\:"}}; /* long lists of words may break */
    if (*text == '.' || *text == '\'') fputs("\\&", stdout);
    while (*text) {
        size_t i = 0, count = sizeof spelled / sizeof *spelled;
        while (i < count && strncmp(text, spelled[i][0], strlen(spelled[i][0])) != 0) i++;
        if (i == count) {
            putchar(*text++);
        } else {
            fputs(spelled[i][1], stdout);
            text += strlen(spelled[i][0]);
        }
    }
}

static void man_option(const option *o) {
    fputs(".TP\n", stdout);
    if (o->letter) printf("\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB", stdout);
    roff("--");
    roff(o->name);
    fputs("\\fR", stdout);
    if (o->value) {
        fputs(" \\fI", stdout);
        roff(o->value);
        fputs("\\fR", stdout);
    }
    putchar('\n');
    roff(o->help);
    if (option_words(o)) {
        fputs(": ", stdout);
        roff(option_words(o));
    }
    putchar('\n');
}

static void man_command(const command *c) {
    printf(".SS narrow %s ", c->name);
    roff(c->usage);
    putchar('\n');
    roff(c->description);
    putchar('\n');
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++) {
        if (g->options == options_common) continue;
        printf(".PP\n%s:\n", g->title);
        for (const option *o = g->options; o->name; o++) man_option(o);
    }
    for (const example *e = c->examples; e < c->examples + MAX_EXAMPLES && e->line; e++) {
        fputs(".PP\n", stdout);
        roff(e->what);
        fputs(":\n.PP\n.nf\n    ", stdout);
        roff(e->line);
        fputs("\n.fi\n", stdout);
    }
}

void help_man(void) {
    size_t count;
    const command *const *all = commands_all(&count);
    /* .ad l: lists of words leave lines that cannot be stretched to the margin */
    printf(".TH NARROW 1 \"\" \"narrow %s\" \"User Commands\"\n.ad l\n", nw_version());
    puts(".SH NAME\nnarrow \\- quantize, run and measure ONNX neural networks");
    puts(".SH SYNOPSIS\n.B narrow\n.I COMMAND\n[\\fIoptions\\fR]");
    puts(".SH DESCRIPTION\nReads ONNX models, writes smaller and faster ones that other runtimes load, runs "
         "both with real "
         "integer\narithmetic, and measures what that costs and gains.");
    puts(".SH COMMANDS");
    for (size_t i = 0; i < count; i++) man_command(all[i]);
    puts(".SH OPTIONS OF ALL COMMANDS");
    for (const option *o = options_common; o->name; o++) man_option(o);
    puts(".SH EXIT STATUS\n0: done. 1: something failed, and one message on standard error says what. 2: the "
         "command line is "
         "wrong.");
}
