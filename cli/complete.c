/* complete.c: the tables as completions for shells. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

typedef void visit_fn(const command *c, const option *o);

static void each_option(const command *c, visit_fn *visit) {
    for (const option_group *g = c->groups; g < c->groups + MAX_GROUPS && g->title; g++)
        for (const option *o = g->options; o->name; o++) visit(c, o);
}

static void put_words(const char *words, const char *between) {
    for (const char *at = words; *at; at++)
        if (*at == '|')
            fputs(between, stdout);
        else
            putchar(*at);
}

/* Inside single quotes, with `also` (characters of the shell's own) escaped by a backslash. */
static void put_quoted(const char *text, const char *also) {
    for (; *text; text++)
        if (*text == '\'')
            fputs("'\\''", stdout);
        else if (strchr(also, *text))
            printf("\\%c", *text);
        else
            putchar(*text);
}

/* ---- bash -------------------------------------------------------------------------------------------- */

static void bash_name(const command *c, const option *o) {
    (void)c;
    printf(" --%s", o->name);
}

static void bash_value(const command *c, const option *o) {
    const char *words = option_words(o);
    if (!words) return;
    printf("    %s:--%s) COMPREPLY=($(compgen -W '", c->name, o->name);
    put_words(words, " ");
    printf("'%s -- \"$word\")); return ;;\n", o->kind == OPTION_NAMED ? " -f" : "");
}

static void bash(void) {
    size_t count;
    const command *const *all = commands_all(&count);
    puts("# bash completion for narrow, printed by: narrow help --completion bash\n"
         "_narrow() {\n"
         "    local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\" "
         "command=\"${COMP_WORDS[1]}\"\n"
         "    COMPREPLY=()\n"
         "    if [ \"$COMP_CWORD\" -eq 1 ]; then");
    fputs("        COMPREPLY=($(compgen -W '", stdout);
    for (size_t i = 0; i < count; i++) printf("%s%s", i ? " " : "", all[i]->name);
    puts("' -- \"$word\"))\n        return\n    fi\n    case \"$command:$before\" in");
    for (size_t i = 0; i < count; i++) each_option(all[i], bash_value);
    puts("    esac\n    if [[ \"$word\" == -* ]]; then\n        case \"$command\" in");
    for (size_t i = 0; i < count; i++) {
        printf("        %s) COMPREPLY=($(compgen -W '", all[i]->name);
        each_option(all[i], bash_name);
        puts("' -- \"$word\")) ;;");
    }
    puts("        esac\n        return\n    fi\n    COMPREPLY=($(compgen -f -- \"$word\"))\n}\n"
         "complete -o filenames -F _narrow narrow");
}

/* ---- zsh --------------------------------------------------------------------------------------------- */

static void zsh_option(const command *c, const option *o) {
    (void)c;
    const char *words = option_words(o);
    printf("            '%s--%s[", o->kind == OPTION_LIST ? "*" : "", o->name);
    put_quoted(o->help, "[]\\:");
    putchar(']');
    if (o->value) {
        putchar(':');
        put_quoted(o->value, ":\\");
        putchar(':');
        if (words) {
            fputs(o->kind == OPTION_NAMED ? "{_alternative \"files:file:_files\" \"names:name:(" : "(",
                  stdout);
            put_words(words, " ");
            fputs(o->kind == OPTION_NAMED ? ")\"}" : ")", stdout);
        } else if (option_is_path(o) || o->kind == OPTION_LIST) {
            fputs("_files", stdout);
        }
    }
    puts("' \\");
}

static void zsh(void) {
    size_t count;
    const command *const *all = commands_all(&count);
    puts("#compdef narrow\n# printed by: narrow help --completion zsh\n_narrow() {\n    local -a commands\n  "
         "  commands=(");
    for (size_t i = 0; i < count; i++) {
        printf("        '%s:", all[i]->name);
        put_quoted(all[i]->summary, ":\\");
        puts("'");
    }
    puts(
        "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n"
        "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in");
    for (size_t i = 0; i < count; i++) {
        printf("    %s)\n        _arguments \\\n", all[i]->name);
        each_option(all[i], zsh_option);
        puts("            '*:file:_files'\n        ;;");
    }
    puts("    esac\n}\n_narrow \"$@\"");
}

/* ---- fish -------------------------------------------------------------------------------------------- */

/* The description that ends a line: between quotation marks only these two are special. */
static void fish_text(const char *text) {
    fputs(" -d '", stdout);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\') putchar('\\');
        putchar(*text);
    }
    puts("'");
}

static void fish_option(const command *c, const option *o) {
    const char *words = option_words(o);
    printf("complete -c narrow -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name);
    if (o->letter) printf(" -s %c", o->letter);
    if (words) {
        fputs(o->kind == OPTION_NAMED ? " -r -a '" : " -x -a '", stdout);
        put_words(words, " ");
        putchar('\'');
    } else if (option_is_path(o) || o->kind == OPTION_LIST) {
        fputs(" -r", stdout);
    } else if (o->value) {
        fputs(" -x", stdout);
    }
    fish_text(o->help);
}

static void fish(void) {
    size_t count;
    const command *const *all = commands_all(&count);
    puts("# fish completion for narrow, printed by: narrow help --completion fish");
    for (size_t i = 0; i < count; i++) {
        printf("complete -c narrow -n __fish_use_subcommand -f -a %s", all[i]->name);
        fish_text(all[i]->summary);
    }
    for (size_t i = 0; i < count; i++) each_option(all[i], fish_option);
}

bool complete_print(const char *shell) {
    if (strcmp(shell, "bash") == 0)
        bash();
    else if (strcmp(shell, "zsh") == 0)
        zsh();
    else if (strcmp(shell, "fish") == 0)
        fish();
    else
        return false;
    return true;
}
