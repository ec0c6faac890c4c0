/* cmd_help.c: narrow help */
#include "cli.h"

#define FIELD(name) offsetof(settings, name)

static const option options_help[] = {
    {"man", 0, OPTION_FLAG, NULL, FIELD(man), "print the manual page (roff)", NULL, 0},
    {"completion", 0, OPTION_WORD, "SHELL", FIELD(completion), "print completions for a shell",
     "bash|zsh|fish", 0},
    {"help", 'h', OPTION_FLAG, NULL, FIELD(help), "show this help", NULL, 0},
    {0},
};

static int help(nw_env *env, const settings *s) {
    (void)env;
    if (s->man) help_man();
    if (s->completion) complete_print(s->completion);
    if (s->man || s->completion) return EXIT_DONE;
    if (s->arguments.count == 0) {
        help_overview();
        return EXIT_DONE;
    }
    const command *c = command_find(s->arguments.items[0]);
    if (!c) return say_usage(NULL, "there is no command \"%s\"", s->arguments.items[0]);
    help_command(c);
    return EXIT_DONE;
}

const command command_help = {
    .name = "help",
    .summary = "explain a command",
    .usage = "[COMMAND]",
    .description = "Prints what a command does, its options and examples.",
    .least = 0,
    .most = 1,
    .groups = {{"Options", options_help}},
    .examples = {{"narrow help quantize", "all about one command"},
                 {"source <(narrow help --completion bash)", "completion in this shell"}},
    .run = help,
};
