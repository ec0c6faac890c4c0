/* recipe.c: reading and writing recipes. */
#include "quant/recipe.h"

#include "base/file.h"
#include "base/words.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- settings --------------------------------------------------------------------------------- */

typedef enum kind {
    KIND_MODE,
    KIND_SCHEME,
    KIND_FORMAT,
    KIND_SYMMETRY,
    KIND_OBSERVER,
    KIND_FLAG,
    KIND_SWITCH
} kind;

typedef struct setting {
    const char *word;
    kind kind;
    bool of_layers; /* a field of nw_quant_choice, else of nw_quant_options */
    size_t offset;
} setting;

/* Those of layers first, in the order of NW_SETTING_…. */
static const setting settings[] = {
#define NW_LAYER_SETTING(id, word, field, kind, help)                                                        \
    {word, KIND_##kind, true, offsetof(nw_quant_choice, field)},
#define NW_MODEL_SETTING(id, word, field, kind, help)
#include "quant/settings.def"
#undef NW_LAYER_SETTING
#undef NW_MODEL_SETTING
#define NW_LAYER_SETTING(id, word, field, kind, help)
#define NW_MODEL_SETTING(id, word, field, kind, help)                                                        \
    {word, KIND_##kind, false, offsetof(nw_quant_options, field)},
#include "quant/settings.def"
#undef NW_LAYER_SETTING
#undef NW_MODEL_SETTING
};
enum { SETTINGS = sizeof settings / sizeof *settings };
_Static_assert(SETTINGS <= 32, "settings seen are bits of an unsigned");

#define NW_LAYER_SETTING(id, word, field, kind, help) "|" word
#define NW_MODEL_SETTING(id, word, field, kind, help) "|" word
static const char *const setting_words = &(""
#include "quant/settings.def"
                                           )[1];
#undef NW_LAYER_SETTING
#undef NW_MODEL_SETTING

static const char *const switch_words = "auto|off|on", *const flag_words = "off|on",
                         *const symmetry_words = "asymmetric|symmetric",
                         *const observer_words = &(""
#define NW_OBSERVER(id, name, file, bins, help) "|" name
#include "quant/observers.def"
#undef NW_OBSERVER
                                                   )[1];

/* ---- lines ------------------------------------------------------------------------------------ */

typedef struct reader {
    nw_context *ctx;
    nw_arena *arena; /* of what stays */
    nw_arena line;   /* of one line */
    const char *source, *at, *end;
    int number;        /* of the line */
    bool section;      /* it is [words], else words */
    size_t count;      /* of its words */
    const char **word; /* [count + 1] in `line` */
} reader;

static void start(reader *r, nw_arena *arena, nw_context *ctx, const char *source, const char *text,
                  size_t size) {
    *r = (reader){.ctx = ctx, .arena = arena, .source = source, .at = text, .end = text + size};
    nw_arena_init(&r->line, ctx);
}

/* Takes one word, quoted or not, from *at, which does not stand on a blank. Quoted, \ goes before " and \. */
static nw_status take_word(reader *r, const char **at, const char *end) {
    char *word = nw_arena_alloc(&r->line, (size_t)(end - *at) + 1), *to = word;
    if (!word) return NW_E_MEMORY;
    const char *p = *at;
    if (*p == '"') {
        for (p++; p < end && *p != '"'; p++) {
            if (*p == '\\' && p + 1 < end && (p[1] == '"' || p[1] == '\\')) p++;
            *to++ = *p;
        }
        if (p == end) return nw_fail(r->ctx, NW_E_ARGUMENT, "a quotation mark is missing");
        p++;
    } else {
        while (p < end && !strchr(" \t\"#[]", *p)) *to++ = *p++;
        if (p == *at) return nw_fail(r->ctx, NW_E_ARGUMENT, "\"%c\" does not belong here", *p);
    }
    r->word[r->count++] = word;
    *at = p;
    return NW_OK;
}

static nw_status split(reader *r, const char *at, const char *end) {
    for (const char *p = at; p < end; p++)
        if ((unsigned char)*p < 32 && *p != '\t')
            return nw_fail(r->ctx, NW_E_ARGUMENT, "a control character: this is no text");
    bool closed = false;
    r->section = false;
    r->count = 0;
    r->word = nw_arena_array(&r->line, (size_t)(end - at) + 1, sizeof *r->word);
    if (!r->word) return NW_E_MEMORY;
    while (at < end && *at != '#') {
        if (*at == ' ' || *at == '\t') {
            at++;
        } else if (*at == '[' && !r->section && r->count == 0) {
            r->section = true;
            at++;
        } else if (*at == ']' && r->section && !closed) {
            closed = true;
            at++;
        } else if (closed) {
            return nw_fail(r->ctx, NW_E_ARGUMENT, "behind \"]\" the line ends");
        } else {
            NW_TRY(take_word(r, &at, end));
        }
    }
    if (r->section && !closed) return nw_fail(r->ctx, NW_E_ARGUMENT, "\"]\" is missing");
    if (r->section && r->count == 0)
        return nw_fail(r->ctx, NW_E_ARGUMENT, "between \"[\" and \"]\" come names of layers or operators");
    return NW_OK;
}

/* The next line that says something; false: there is none, or *status is not NW_OK. */
static bool next_line(reader *r, nw_status *status) {
    while (r->at < r->end) {
        const char *begin = r->at, *stop = memchr(begin, '\n', (size_t)(r->end - begin));
        if (!stop) stop = r->end;
        r->at = stop < r->end ? stop + 1 : stop;
        r->number++;
        if (stop > begin && stop[-1] == '\r') stop--;
        nw_arena_reset(&r->line);
        *status = split(r, begin, stop);
        if (*status != NW_OK || r->count) return *status == NW_OK;
    }
    return false;
}

/* ---- values ----------------------------------------------------------------------------------- */

static nw_status take_choice(const reader *r, const char *words, int *index) {
    *index = nw_word_index(words, r->word[1]);
    if (*index >= 0) return NW_OK;
    return nw_fail(r->ctx, NW_E_ARGUMENT, "%s does not know \"%.40s\": use one of %s", r->word[0], r->word[1],
                   words);
}

static bool read_number(const char *text, char until, double *x, const char **end) {
    char *stop;
    *x = strtod(text, &stop);
    *end = stop + 1;
    return stop != text && *stop == until && isfinite(*x);
}

/* NAME, and behind some of them a number or LO:HI. */
static nw_status take_observer(const reader *r, nw_observer_options *o) {
    int index;
    NW_TRY(take_choice(r, observer_words, &index));
    *o = nw_observer_options_default();
    o->kind = (nw_observer_kind)index;
    double lo, hi,
        *number = o->kind == NW_OBSERVER_PERCENTILE ? &o->percentile
                  : o->kind == NW_OBSERVER_SIGMA    ? &o->sigmas
                  : o->kind == NW_OBSERVER_MOVING   ? &o->momentum
                                                    : NULL;
    const char *rest;
    if (o->kind == NW_OBSERVER_ABSOLUTE) {
        if (r->count != 3 || !read_number(r->word[2], ':', &lo, &rest) || !read_number(rest, 0, &hi, &rest))
            return nw_fail(r->ctx, NW_E_ARGUMENT, "behind observer absolute comes a range such as -6:6");
        o->lo = (float)lo;
        o->hi = (float)hi;
    } else if (r->count == 3 && (!number || !read_number(r->word[2], 0, number, &rest))) {
        return nw_fail(r->ctx, NW_E_ARGUMENT,
                       number ? "behind observer %s comes a number, not \"%.40s\""
                              : "behind observer %s nothing follows, nor does \"%.40s\"",
                       r->word[1], r->word[2]);
    }
    return nw_observer_options_check(r->ctx, o);
}

static nw_status take_value(const reader *r, const setting *s, void *field) {
    int index;
    if (r->count < 2 || r->count > (s->kind == KIND_OBSERVER ? 3 : 2))
        return nw_fail(r->ctx, NW_E_ARGUMENT, "%s is followed by one value", s->word);
    switch (s->kind) {
    case KIND_OBSERVER: return take_observer(r, field);
    case KIND_SCHEME: return nw_scheme_parse(r->ctx, r->word[1], field);
    case KIND_FORMAT:
        NW_TRY(take_choice(r, NW_ACTIVATION_WORDS, &index));
        *(nw_format *)field = nw_quant_activation_by_word(r->word[1]);
        return NW_OK;
    case KIND_MODE:
        NW_TRY(take_choice(r, NW_MODE_WORDS, &index));
        *(nw_quant_mode *)field = (nw_quant_mode)index;
        return NW_OK;
    case KIND_SWITCH:
        NW_TRY(take_choice(r, switch_words, &index));
        *(nw_choice *)field = (nw_choice)index;
        return NW_OK;
    case KIND_FLAG:
    case KIND_SYMMETRY:
        NW_TRY(take_choice(r, s->kind == KIND_FLAG ? flag_words : symmetry_words, &index));
        *(bool *)field = index == 1;
        return NW_OK;
    }
    return NW_E_INTERNAL;
}

/* ---- reading ---------------------------------------------------------------------------------- */

nw_status nw_recipe_add_rule(nw_arena *arena, const nw_quant_rule *rule, nw_quant_options *options) {
    nw_quant_rule *rules = nw_arena_array(arena, options->rule_count + 1, sizeof *rules);
    if (!rules) return NW_E_MEMORY;
    if (options->rule_count) memcpy(rules, options->rules, options->rule_count * sizeof *rules);
    rules[options->rule_count++] = *rule;
    options->rules = rules;
    return NW_OK;
}

typedef struct recipe {
    reader r;
    nw_quant_options *options;
    nw_quant_rule rule; /* of the section being read */
    bool in_section;
    unsigned seen; /* settings of this section, bits */
    bool preset;
} recipe;

static nw_status end_section(recipe *a) {
    if (!a->in_section) return NW_OK;
    if (!a->rule.sets)
        return nw_fail(a->r.ctx, NW_E_ARGUMENT, "%s says nothing about its layers", a->rule.source);
    a->in_section = false;
    return nw_recipe_add_rule(a->r.arena, &a->rule, a->options);
}

static nw_status begin_section(recipe *a) {
    reader *r = &a->r;
    const size_t not = r->count > 1 && strcmp(r->word[0], "not") == 0;
    const char **patterns = nw_arena_array(r->arena, r->count, sizeof *patterns);
    if (!patterns) return NW_E_MEMORY;
    for (size_t i = not ; i < r->count; i++)
        if (!(patterns[i - not ] = nw_arena_strdup(r->arena, r->word[i]))) return NW_E_MEMORY;
    a->rule = (nw_quant_rule){.pattern_count = r->count - not, .patterns = patterns, .others = not };
    a->rule.source = nw_arena_printf(r->arena, "%s:%d:", r->source, r->number);
    a->in_section = true;
    a->seen = 0;
    return a->rule.source ? NW_OK : NW_E_MEMORY;
}

static nw_status apply_preset(recipe *a) {
    const reader *r = &a->r;
    const char *text = r->count == 2 ? nw_preset_text(r->word[1]) : NULL;
    if (!text) return nw_fail(r->ctx, NW_E_ARGUMENT, "preset is followed by one of %s", nw_preset_words());
    if (a->preset || a->in_section || a->seen)
        return nw_fail(r->ctx, NW_E_ARGUMENT, "a preset is where a recipe starts: it comes first");
    a->preset = true;
    return nw_recipe_read(r->arena, r->word[1], text, strlen(text), a->options);
}

static nw_status apply_setting(recipe *a) {
    const reader *r = &a->r;
    int i = 0;
    if (strcmp(r->word[0], "preset") == 0) return apply_preset(a);
    while (i < SETTINGS && strcmp(settings[i].word, r->word[0]) != 0) i++;
    if (i == SETTINGS)
        return nw_fail(r->ctx, NW_E_ARGUMENT, "\"%.40s\" is no setting: use one of preset|%s", r->word[0],
                       setting_words);
    const setting *s = &settings[i];
    if (a->in_section && !s->of_layers)
        return nw_fail(r->ctx, NW_E_ARGUMENT,
                       "%s is about the whole model: it comes before the first [layers]", s->word);
    if (a->seen >> i & 1) return nw_fail(r->ctx, NW_E_ARGUMENT, "%s is said twice", s->word);
    a->seen |= 1U << i;
    if (a->in_section) a->rule.sets |= 1U << i;
    void *base = a->in_section  ? (void *)&a->rule.choice
                 : s->of_layers ? (void *)&a->options->choice
                                : (void *)a->options;
    return take_value(r, s, (char *)base + s->offset);
}

static nw_status read_lines(recipe *a) {
    nw_status status = NW_OK;
    while (next_line(&a->r, &status)) {
        if (a->r.section) {
            NW_TRY(end_section(a));
            NW_TRY(begin_section(a));
        } else {
            NW_TRY(apply_setting(a));
        }
    }
    NW_TRY(status);
    return end_section(a);
}

nw_status nw_recipe_read(nw_arena *arena, const char *source, const char *text, size_t size,
                         nw_quant_options *options) {
    recipe a = {.options = options};
    if (size == 0) return NW_OK;
    nw_quant_options before = *options;
    start(&a.r, arena, arena->ctx, source, text, size);
    nw_status status = read_lines(&a);
    nw_arena_free(&a.r.line);
    if (status == NW_OK) return NW_OK;
    *options = before;
    return nw_fail_where(arena->ctx, status, "%s:%d", source, a.r.number);
}

const char *nw_preset_words(void) {
    return &(""
#define NW_PRESET(word, recipe, help) "|" word
#include "quant/presets.def"
#undef NW_PRESET
             )[1];
}

const char *nw_preset_text(const char *name) {
#define NW_PRESET(word, recipe, help)                                                                        \
    if (strcmp(name, word) == 0) return recipe;
#include "quant/presets.def"
#undef NW_PRESET
    return NULL;
}

nw_status nw_recipe_load(nw_arena *arena, const char *word, nw_quant_options *options) {
    const char *text = nw_preset_text(word);
    if (text) return nw_recipe_read(arena, word, text, strlen(text), options);
    nw_bytes *file;
    nw_status status = nw_bytes_map(arena->ctx, word, &file);
    if (status != NW_OK)
        return nw_fail_where(arena->ctx, status, "recipe \"%s\" is no preset (%s), and no file either", word,
                             nw_preset_words());
    status = nw_recipe_read(arena, word, (const char *)file->data, file->size, options);
    nw_bytes_free(file);
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------- */

typedef struct writer {
    nw_arena *arena;
    char *text; /* NULL: out of memory */
} writer;

static void put(writer *w, const char *text) {
    if (w->text) w->text = nw_arena_printf(w->arena, "%s%s", w->text, text);
}

/* words[index], or "" beyond the end. */
static void put_word(writer *w, const char *words, int index) {
    for (; index > 0; index--) words += strcspn(words, "|") + (words[strcspn(words, "|")] != 0);
    char word[32];
    const size_t length = strcspn(words, "|");
    if (length >= sizeof word) return;
    memcpy(word, words, length);
    word[length] = 0;
    put(w, word);
}

static void put_observer(writer *w, const nw_observer_options *o) {
    char number[96] = "";
    if (o->kind == NW_OBSERVER_PERCENTILE) snprintf(number, sizeof number, " %.9g", o->percentile);
    if (o->kind == NW_OBSERVER_SIGMA) snprintf(number, sizeof number, " %.9g", o->sigmas);
    if (o->kind == NW_OBSERVER_MOVING) snprintf(number, sizeof number, " %.9g", o->momentum);
    if (o->kind == NW_OBSERVER_ABSOLUTE)
        snprintf(number, sizeof number, " %.9g:%.9g", (double)o->lo, (double)o->hi);
    put(w, nw_observer_name(o->kind));
    put(w, number);
}

static void put_setting(writer *w, const setting *s, const void *base) {
    const void *field = (const char *)base + s->offset;
    char word[NW_SCHEME_WORD];
    put(w, s->word);
    put(w, " ");
    switch (s->kind) {
    case KIND_MODE: put_word(w, NW_MODE_WORDS, (int)*(const nw_quant_mode *)field); break;
    case KIND_SCHEME: put(w, nw_scheme_print(field, word, sizeof word)); break;
    case KIND_FORMAT: put(w, nw_quant_activation_word(*(const nw_format *)field)); break;
    case KIND_SYMMETRY: put_word(w, symmetry_words, *(const bool *)field); break;
    case KIND_OBSERVER: put_observer(w, field); break;
    case KIND_FLAG: put_word(w, flag_words, *(const bool *)field); break;
    case KIND_SWITCH: put_word(w, switch_words, (int)*(const nw_choice *)field); break;
    }
    put(w, "\n");
}

static void put_pattern(writer *w, const char *pattern) {
    const size_t length = strlen(pattern);
    char *text = nw_arena_alloc(w->arena, 2 * length + 3), *to = text;
    if (!text) {
        w->text = NULL;
        return;
    }
    const bool quoted = !length || strpbrk(pattern, " \"#[]") || strcmp(pattern, "not") == 0;
    if (quoted) *to++ = '"';
    for (size_t i = 0; i < length; i++) {
        if (quoted && (pattern[i] == '"' || pattern[i] == '\\')) *to++ = '\\';
        *to++ = (unsigned char)pattern[i] < 32 ? '?' : pattern[i];
    }
    if (quoted) *to++ = '"';
    put(w, text);
}

static void put_rule(writer *w, const nw_quant_rule *rule) {
    put(w, rule->others ? "[not" : "[");
    for (size_t i = 0; i < rule->pattern_count; i++) {
        if (i || rule->others) put(w, " ");
        put_pattern(w, rule->patterns[i]);
    }
    put(w, "]\n");
    for (int i = 0; i < NW_SETTING_COUNT; i++)
        if (rule->sets >> i & 1) put_setting(w, &settings[i], &rule->choice);
}

/* Whether a setting has the same value in both. */
static bool is_same(writer *w, const setting *s, const void *a, const void *b) {
    writer one = {w->arena, (char[]){""}}, other = one;
    put_setting(&one, s, a);
    put_setting(&other, s, b);
    return one.text && other.text && strcmp(one.text, other.text) == 0;
}

char *nw_recipe_print(nw_arena *arena, const nw_quant_options *o) {
    const nw_quant_options plain = nw_quant_options_default();
    writer w = {arena, nw_arena_strdup(arena, "")};
    for (int i = 0; i < SETTINGS; i++) {
        const setting *s = &settings[i];
        const bool always = i == NW_SETTING_MODE || i == NW_SETTING_WEIGHTS;
        const void *base = s->of_layers ? (const void *)&o->choice : o,
                   *other = s->of_layers ? (const void *)&plain.choice : &plain;
        if (always || !is_same(&w, s, base, other)) put_setting(&w, s, base);
    }
    for (size_t r = 0; r < o->rule_count; r++) put_rule(&w, &o->rules[r]);
    return w.text;
}

/* ---- looking ---------------------------------------------------------------------------------- */

static char *join(nw_arena *arena, size_t count, const char *const *words) {
    char *text = nw_arena_strdup(arena, count ? words[0] : "");
    for (size_t i = 1; i < count && text; i++) text = nw_arena_printf(arena, "%s %s", text, words[i]);
    return text;
}

static nw_status walk(reader *r, nw_recipe_setting_fn *fn, void *user) {
    const char *layers = "";
    nw_status status = NW_OK;
    while (next_line(r, &status)) {
        const char *text =
            r->section ? join(r->arena, r->count, r->word) : join(&r->line, r->count - 1, r->word + 1);
        if (!text) return NW_E_MEMORY;
        if (r->section)
            layers = text;
        else
            fn(user, layers, r->word[0], text);
    }
    return status;
}

nw_status nw_recipe_walk(nw_context *ctx, const char *text, nw_recipe_setting_fn *fn, void *user) {
    nw_arena arena;
    reader r;
    nw_arena_init(&arena, ctx);
    start(&r, &arena, ctx, "recipe", text, strlen(text));
    nw_status status = walk(&r, fn, user);
    nw_arena_free(&r.line);
    nw_arena_free(&arena);
    return status;
}
