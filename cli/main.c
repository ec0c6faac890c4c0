/* main.c: finds the command, reads its options, runs it. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

const command *const *commands_all(size_t *count) {
    static const command *const all[] = {
#define COMMAND(id) &command_##id,
#include "commands.def"
#undef COMMAND
    };
    *count = sizeof all / sizeof *all;
    return all;
}

const command *command_find(const char *name) {
    size_t count;
    const command *const *all = commands_all(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    return NULL;
}

static int unknown_command(const char *name) {
    char words[256] = "", near[64];
    size_t count, at = 0;
    const command *const *all = commands_all(&count);
    for (size_t i = 0; i < count && at < sizeof words; i++)
        at += (size_t)snprintf(words + at, sizeof words - at, "%s%s", i ? "|" : "", all[i]->name);
    if (name[0] == '-') return say_usage(NULL, "the command comes first, not option %s", name);
    if (suggest(name, words, near, sizeof near))
        return say_usage(NULL, "unknown command \"%s\"; did you mean %s?", name, near);
    return say_usage(NULL, "unknown command \"%s\"", name);
}

static void warn(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "narrow: warning: %s\n", line);
}

static int set_up(nw_env *env, const settings *s) {
    if (!s->quiet) {
        nw_env_on_warning(env, warn, NULL);
        progress_start(env);
    }
    int threads = s->threads > INT_MAX ? INT_MAX : (int)s->threads;
    nw_result result = nw_env_set_threads(env, threads);
    if (result == NW_SUCCESS && s->isa) result = nw_env_set_isa(env, s->isa);
    return result == NW_SUCCESS ? EXIT_DONE : EXIT_FAILED;
}

static int run(const command *c, const settings *s) {
    nw_env *env;
    if (nw_env_new(NULL, &env) != NW_SUCCESS) return say_failed("out of memory");
    int code = options_check_outputs(c, s);
    if (code == EXIT_DONE) code = set_up(env, s);
    if (code == EXIT_DONE) code = c->run(env, s);
    if (code == EXIT_FAILED) say_failed("%s", nw_env_message(env));
    nw_env_free(env);
    return code;
}

/* What was printed has to have arrived: a full disk shows here at the latest. */
static int finish(int code) {
    bool written = fflush(stdout) == 0 && !ferror(stdout);
    if (code == EXIT_DONE && !written)
        code = say_failed("cannot write to standard output: %s", strerror(errno));
    return code == EXIT_SAID ? EXIT_FAILED : code;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        help_overview();
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("narrow %s\n", nw_version());
        return finish(EXIT_DONE);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        help_overview();
        return finish(EXIT_DONE);
    }
    const command *c = command_find(name);
    if (!c) return unknown_command(name);
    settings s = {0};
    int code = EXIT_USAGE;
    if (!options_parse(c, argc - 2, argv + 2, &s)) {
        code = EXIT_USAGE;
    } else if (s.help) {
        help_command(c);
        code = EXIT_DONE;
    } else if (s.arguments.count < (size_t)c->least) {
        say_usage(c, "%s needs %s: narrow %s %s", c->name,
                  s.arguments.count ? "more arguments" : "an argument", c->name, c->usage);
    } else if (c->most >= 0 && s.arguments.count > (size_t)c->most) {
        say_usage(c, "\"%s\" is one argument too many: narrow %s %s", s.arguments.items[c->most], c->name,
                  c->usage);
    } else {
        code = run(c, &s);
    }
    settings_free(&s);
    return finish(code);
}
