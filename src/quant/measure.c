/* measure.c: timing plans, assigning the time to layers, and the search for those to leave in float. */
#include "quant/measure.h"

#include "quant/freeze.h"

#include <math.h>
#include <string.h>

/* ---- the decision ----------------------------------------------------------------------------------- */

#define NOISE_SHARE 0.03
#define NOISE_MS    1e-3
#define GAIN_SHARE  0.01

bool nw_measure_gains(double before_ms, double after_ms) {
    return before_ms - after_ms > NOISE_MS && before_ms - after_ms > GAIN_SHARE * before_ms;
}

/* integer − float in milliseconds, or 0 when that is a gain or noise. */
static double loss_of(double float_ms, double integer_ms) {
    const double loss = integer_ms - float_ms;
    return loss > NOISE_MS && loss > NOISE_SHARE * float_ms ? loss : 0;
}

static void judge(size_t count, nw_timed_unit *units, nw_timed_unit *unit) {
    double float_ms = 0, integer_ms = 0;
    for (size_t i = 0; i < count; i++) {
        if (units[i].region != unit->region) continue;
        float_ms += units[i].float_ms;
        integer_ms += units[i].integer_ms;
    }
    unit->loss = loss_of(float_ms, integer_ms);
    unit->loses_together = unit->loss > 0;
    if (!unit->loses_together) unit->loss = loss_of(unit->float_ms, unit->integer_ms);
}

int nw_measure_groups(size_t count, nw_timed_unit *units, int *group) {
    for (size_t i = 0; i < count; i++) {
        group[i] = -1;
        judge(count, units, &units[i]);
    }
    for (int groups = 0;; groups++) {
        const nw_timed_unit *worst = NULL;
        for (size_t i = 0; i < count; i++)
            if (group[i] < 0 && !units[i].fixed && units[i].loss > (worst ? worst->loss : 0))
                worst = &units[i];
        if (!worst) return groups;
        for (size_t i = 0; i < count; i++)
            if (&units[i] == worst ||
                (worst->loses_together && !units[i].fixed && units[i].region == worst->region))
                group[i] = groups;
    }
}

/* ---- contestants ------------------------------------------------------------------------------------ */

#define MOST_ROUNDS  1000
#define LEAST_ROUNDS 10
#define TIMED_MS     600.0 /* per contestant */
#define MOST_TRIALS  16

/* The model in one way. Zeroed: not opened. */
typedef struct contestant {
    nw_quant_plan *plan; /* NULL: float */
    nw_graph *graph;     /* of its own, or NULL: the plain one */
    nw_session *session;
    nw_arena arena;
    int step_count;
    double *step_ms; /* [step_count] the least of all rounds */
    double ms;       /* their sum: a run that nothing disturbs */
} contestant;

typedef struct search {
    nw_context *ctx;
    const nw_quant_plan *plan; /* everything quantized */
    const nw_graph *g;
    nw_arena arena, scratch, results; /* scratch: of one look at the times; results: of one run */
    nw_tensor *outputs;               /* of a run */
    bool *left, *trial, *vain;        /* [node_count] in float now; in what is tried; tried without gain */
    contestant real, whole, now; /* float, all quantized, quantized but for `left` (not opened: as whole) */
} search;

static nw_status open_session(search *s, const nw_graph *graph, contestant *c) {
    const nw_run_options run = {.threads = s->plan->options.threads, .isa = s->plan->options.isa};
    NW_TRY(nw_session_new(s->ctx, graph, &run, &c->session));
    nw_session_set_profile(c->session, true);
    return NW_OK;
}

static void close_contestant(contestant *c) {
    nw_session_free(c->session);
    nw_quant_plan_free(c->plan);
    nw_graph_free(c->graph);
    if (c->arena.ctx) nw_arena_free(&c->arena);
    *c = (contestant){0};
}

/* Sets the options' names of the nodes that stay in float; memory from arena. */
static nw_status name_left(const search *s, const bool *left, nw_arena *arena, nw_quant_options *options) {
    const char **names = nw_arena_array(arena, (size_t)s->g->node_count + 1, sizeof *names);
    if (!names) return NW_E_MEMORY;
    options->slow = names;
    options->slow_count = 0;
    for (int n = 0; n < s->g->node_count; n++) {
        const int out = left[n] ? nw_quant_first_output(&s->g->nodes[n]) : NW_ABSENT;
        if (out < 0) continue;
        names[options->slow_count] = nw_arena_strdup(arena, s->g->values[out].name);
        if (!names[options->slow_count++]) return NW_E_MEMORY;
    }
    return NW_OK;
}

/* The plan that leaves these nodes in float, calibrated as s->plan is. */
static nw_status plan_without(const search *s, const bool *left, const nw_graph *graph, nw_arena *arena,
                              nw_calibration *seen, nw_quant_plan **out) {
    nw_quant_options options = s->plan->options;
    NW_TRY(name_left(s, left, arena, &options));
    NW_TRY(nw_quant_place(s->ctx, graph, &options, s->plan->raw, out));
    nw_status status = nw_quant_adopt(s->ctx, s->plan, *out, seen);
    if (status != NW_OK) {
        nw_quant_plan_free(*out);
        *out = NULL;
    }
    return status;
}

static nw_status freeze(search *s, contestant *c) {
    nw_quant_report ignored = {0};
    nw_arena_init(&ignored.arena, s->ctx);
    nw_status status = nw_quant_freeze(c->graph, c->plan, &ignored);
    nw_arena_free(&ignored.arena);
    return status;
}

/* left NULL: the float model. To be closed on failure too. */
static nw_status open_contestant(search *s, const bool *left, contestant *c) {
    nw_arena_init(&c->arena, s->ctx);
    if (!left) return open_session(s, s->g, c);
    NW_TRY(nw_graph_copy(s->g, s->ctx, &c->graph));
    NW_TRY(nw_graph_resolve(c->graph));
    NW_TRY(plan_without(s, left, c->graph, &c->arena, NULL, &c->plan));
    NW_TRY(freeze(s, c));
    return open_session(s, c->graph, c);
}

static nw_status run_once(search *s, contestant *c, double *spent) {
    const nw_quant_options *o = &s->plan->options;
    nw_step_info step;
    nw_arena_reset(&s->results);
    NW_TRY(nw_session_run(c->session, o->timed_count, o->timed, &s->results, s->outputs));
    if (!c->step_ms) {
        while (nw_session_step(c->session, c->step_count, &step)) c->step_count++;
        c->step_ms = nw_arena_array(&c->arena, (size_t)c->step_count + 1, sizeof *c->step_ms);
        if (!c->step_ms) return NW_E_MEMORY;
    }
    for (int i = 0; i < c->step_count && nw_session_step(c->session, i, &step); i++) {
        *spent += step.milliseconds;
        c->step_ms[i] = fmin(c->step_ms[i], step.milliseconds);
    }
    return NW_OK;
}

/* The least times of rounds in which all take turns: what disturbs the machine meets them alike, and seldom the same step
 * in every round. */
static nw_status time_in_turns(search *s, int count, contestant *const *all) {
    double spent = 0;
    for (int i = 0; i < count; i++) {
        NW_TRY(run_once(s, all[i], &spent)); /* warms up */
        for (int k = 0; k < all[i]->step_count; k++) all[i]->step_ms[k] = INFINITY;
    }
    spent = 0;
    for (int round = 0; round < MOST_ROUNDS && (round < LEAST_ROUNDS || spent < TIMED_MS * count); round++)
        for (int i = 0; i < count; i++) NW_TRY(run_once(s, all[i], &spent));
    for (int i = 0; i < count; i++) {
        all[i]->ms = 0;
        for (int k = 0; k < all[i]->step_count; k++) all[i]->ms += all[i]->step_ms[k];
    }
    return NW_OK;
}

/* ---- from steps to layers --------------------------------------------------------------------------- */

/* One look at the times of the float model and of a quantized one. */
typedef struct look {
    const search *s;
    const nw_quant_plan *plan; /* of the quantized one */
    int *parent;               /* [node_count] nodes computed together: a forest */
    size_t count;
    nw_timed_unit *units;
    int *unit_of; /* [node_count] or −1 */
    int *group;   /* of each unit */
} look;

static int root_of(int *parent, int n) {
    while (parent[n] != n) n = parent[n] = parent[parent[n]];
    return n;
}

static void unite(int *parent, int a, int b) {
    a = root_of(parent, a);
    b = root_of(parent, b);
    parent[a > b ? a : b] = a > b ? b : a;
}

/* base[v]: the value of the plain graph that v of the contestant's graph is, perhaps restricted to a grid; or −1. */
static nw_status bases_of(const search *s, const contestant *c, nw_arena *arena, int **out) {
    const nw_graph *g = c->graph ? c->graph : s->g;
    const int plain = s->g->value_count;
    int *base = *out = nw_arena_array(arena, (size_t)g->value_count + 1, sizeof *base);
    if (!base) return NW_E_MEMORY;
    for (int v = 0; v < g->value_count; v++) base[v] = v < plain ? v : NW_ABSENT;
    for (int n = 0; n < g->node_count; n++) {
        if (strcmp(g->nodes[n].op_type, "FakeQuant") != 0) continue;
        const int x = g->nodes[n].in[0], y = g->nodes[n].out[0];
        if (y >= plain && x < plain) base[y] = x;
        if (x >= plain && y < plain) base[x] = y;
    }
    return NW_OK;
}

/* Who pays for codes being made of v: a layer that reads them. */
static int payer_of(const search *s, const nw_quant_plan *plan, int v) {
    const nw_uses *uses = &s->plan->uses;
    for (int u = uses->first[v]; plan && u < uses->first[v + 1]; u++)
        if (plan->mode[uses->users[u]] == NW_NODE_INTEGER) return uses->users[u];
    return uses->first[v] < uses->first[v + 1] ? uses->users[uses->first[v]] : uses->producer[v];
}

/* Marks the nodes that step `index` computes on its way to `last`: those before it, up to what other steps make. by[n]:
 * the step that computes n; −1 for nodes that several repeat, such as views. */
static void mark_computed(const search *s, const bool *made, int last, int index, int *by, int *stamp,
                          int *stack) {
    int count = 0;
    stack[count++] = last;
    stamp[last] = index + 1;
    while (count) {
        const int n = stack[--count];
        const nw_node *node = &s->g->nodes[n];
        by[n] = by[n] ? -1 : index + 1;
        for (int i = 0; i < node->in_count; i++) {
            const int from = node->in[i] < 0 ? NW_ABSENT : s->plan->uses.producer[node->in[i]];
            if (from < 0 || made[from] || stamp[from] == index + 1) continue;
            stamp[from] = index + 1;
            stack[count++] = from;
        }
    }
}

/* owner[i]: a node that step i works for, or −1; nodes that one step computes are united. */
static nw_status find_owners(look *l, const contestant *c, nw_arena *arena, int **out) {
    const search *s = l->s;
    const size_t nodes = (size_t)s->g->node_count + 1;
    int *base, *owner = *out = nw_arena_array(arena, (size_t)c->step_count + 1, sizeof *owner);
    bool *made = nw_arena_array(arena, nodes, sizeof *made);
    bool *computes = nw_arena_array(arena, (size_t)c->step_count + 1, sizeof *computes);
    int *by = nw_arena_array(arena, nodes, sizeof *by), *stamp = nw_arena_array(arena, nodes, sizeof *stamp),
        *stack = nw_arena_array(arena, nodes, sizeof *stack);
    if (!owner || !made || !computes || !by || !stamp || !stack) return NW_E_MEMORY;
    NW_TRY(bases_of(s, c, arena, &base));
    nw_step_info step;
    int next = -1; /* bytes of no value of the graph are made for the step behind */
    for (int i = c->step_count - 1; i >= 0 && nw_session_step(c->session, i, &step); i--) {
        const int v = step.value < 0 ? NW_ABSENT : base[step.value];
        const int maker = v < 0 ? NW_ABSENT : s->plan->uses.producer[v];
        if (v < 0)
            owner[i] = next;
        else if (strcmp(step.op, "FakeQuant") == 0 || maker < 0)
            owner[i] = payer_of(s, c->plan, v);
        else
            owner[i] = maker;
        computes[i] = v >= 0 && maker >= 0 && step.op[0] && strcmp(step.op, "FakeQuant") != 0;
        if (computes[i]) made[maker] = true;
        next = owner[i];
    }
    for (int i = 0; i < c->step_count; i++)
        if (computes[i]) mark_computed(s, made, owner[i], i, by, stamp, stack);
    for (int n = 0; n < s->g->node_count; n++)
        if (by[n] > 0) unite(l->parent, n, owner[by[n] - 1]);
    return NW_OK;
}

/* Recurrent layers with packed weights have a quantized state, unlike others. */
static bool is_layer(const look *l, int n) {
    const nw_node_mode mode = l->plan->mode[n];
    return mode == NW_NODE_INTEGER || (mode == NW_NODE_WEIGHTS && nw_quant_has_state(&l->s->g->nodes[n]));
}

static bool passes_codes(const look *l, int n) {
    return n >= 0 && (l->plan->mode[n] == NW_NODE_INTEGER || l->plan->mode[n] == NW_NODE_SAME);
}

/* Readers of the same codes, and who makes them, belong to a region. region: a forest of nodes. */
static void join_regions(const look *l, int *region) {
    const nw_uses *uses = &l->s->plan->uses;
    for (int i = 0; i < l->plan->point_count; i++) {
        const int v = l->plan->points[i].value, maker = uses->producer[v];
        int one = passes_codes(l, maker) ? maker : NW_ABSENT;
        for (int u = uses->first[v]; u < uses->first[v + 1]; u++) {
            if (!passes_codes(l, uses->users[u])) continue;
            if (one >= 0) unite(region, one, uses->users[u]);
            one = uses->users[u];
        }
    }
}

static nw_status make_units(look *l, nw_arena *arena) {
    const int nodes = l->s->g->node_count;
    int *region = nw_arena_array(arena, (size_t)nodes + 1, sizeof *region);
    l->unit_of = nw_arena_array(arena, (size_t)nodes + 1, sizeof *l->unit_of);
    l->units = nw_arena_array(arena, (size_t)nodes + 1, sizeof *l->units);
    l->group = nw_arena_array(arena, (size_t)nodes + 1, sizeof *l->group);
    if (!region || !l->unit_of || !l->units || !l->group) return NW_E_MEMORY;
    memcpy(region, l->parent, (size_t)nodes * sizeof *region);
    join_regions(l, region);
    for (int n = 0; n < nodes; n++) l->unit_of[n] = -1;
    for (int n = 0; n < nodes; n++) {
        const int root = root_of(l->parent, n);
        if (!is_layer(l, n) && !passes_codes(l, n)) continue;
        if (l->unit_of[root] < 0) {
            l->unit_of[root] = (int)l->count;
            l->units[l->count++] = (nw_timed_unit){.region = root_of(region, root), .fixed = true};
        }
        if (is_layer(l, n) && !l->s->vain[n]) l->units[l->unit_of[root]].fixed = false;
    }
    for (int n = 0; n < nodes; n++) l->unit_of[n] = l->unit_of[root_of(l->parent, n)];
    return NW_OK;
}

/* Compares the float model with c, a quantized one. Memory in s->scratch, until the next look. */
static nw_status look_at(search *s, const contestant *c, look *l) {
    nw_arena_reset(&s->scratch);
    *l = (look){.s = s, .plan = c->plan};
    l->parent = nw_arena_array(&s->scratch, (size_t)s->g->node_count + 1, sizeof *l->parent);
    if (!l->parent) return NW_E_MEMORY;
    for (int n = 0; n < s->g->node_count; n++) l->parent[n] = n;
    int *of_real, *of_c;
    NW_TRY(find_owners(l, &s->real, &s->scratch, &of_real));
    NW_TRY(find_owners(l, c, &s->scratch, &of_c));
    NW_TRY(make_units(l, &s->scratch));
    for (int i = 0; i < s->real.step_count; i++)
        if (of_real[i] >= 0 && l->unit_of[of_real[i]] >= 0)
            l->units[l->unit_of[of_real[i]]].float_ms += s->real.step_ms[i];
    for (int i = 0; i < c->step_count; i++)
        if (of_c[i] >= 0 && l->unit_of[of_c[i]] >= 0)
            l->units[l->unit_of[of_c[i]]].integer_ms += c->step_ms[i];
    return NW_OK;
}

/* ---- the search ------------------------------------------------------------------------------------- */

/* Tries to leave the first `groups` groups in float as well; *gained: that made the model faster, and is kept. */
static nw_status try_groups(search *s, const look *l, int groups, bool *gained) {
    contestant trial = {0}, *now = s->now.session ? &s->now : &s->whole;
    for (int n = 0; n < s->g->node_count; n++) {
        const int unit = l->unit_of[n], group = unit < 0 ? -1 : l->group[unit];
        s->trial[n] = s->left[n] || (is_layer(l, n) && group >= 0 && group < groups);
    }
    nw_status status = open_contestant(s, s->trial, &trial);
    if (status == NW_OK) status = time_in_turns(s, 3, (contestant *[]){&s->real, now, &trial});
    *gained = status == NW_OK && nw_measure_gains(now->ms, trial.ms);
    if (*gained) {
        memcpy(s->left, s->trial, (size_t)s->g->node_count * sizeof *s->left);
        close_contestant(&s->now);
        s->now = trial;
    } else {
        close_contestant(&trial);
    }
    return status;
}

/* What the first `groups` groups lose together: the most that putting them back can gain. */
static double loss_together(const look *l, int groups) {
    double loss = 0;
    for (size_t i = 0; i < l->count; i++)
        if (l->group[i] >= 0 && l->group[i] < groups) loss += l->units[i].integer_ms - l->units[i].float_ms;
    return loss;
}

/* All that lose at once, or half of them, the worse, and so on; the worst alone without gain is not tried again. Ends where
 * nothing is left whose gain could be measured. */
static nw_status search_slow(search *s) {
    look l;
    for (int trials = 0; trials < MOST_TRIALS;) {
        const contestant *now = s->now.session ? &s->now : &s->whole;
        NW_TRY(look_at(s, now, &l));
        const int groups = nw_measure_groups(l.count, l.units, l.group);
        const double ms = now->ms;
        bool gained = false;
        if (!nw_measure_gains(ms, ms - loss_together(&l, groups))) return NW_OK;
        for (int k = groups; k > 0 && !gained && trials < MOST_TRIALS; k /= 2, trials++) {
            if (!nw_measure_gains(ms, ms - loss_together(&l, k))) break;
            NW_TRY(try_groups(s, &l, k, &gained));
        }
        for (int n = 0; n < s->g->node_count && !gained; n++)
            if (l.unit_of[n] >= 0 && l.group[l.unit_of[n]] == 0) s->vain[n] = true;
    }
    return NW_OK;
}

/* What the first look saw. */
static nw_status write_timings(const look *l, nw_quant_report *r) {
    const nw_graph *g = l->s->g;
    nw_quant_timing **of = nw_arena_array(&r->arena, l->count + 1, sizeof *of);
    r->timings = nw_arena_array(&r->arena, l->count + 1, sizeof *r->timings);
    if (!of || !r->timings) return NW_E_MEMORY;
    for (int n = 0; n < g->node_count; n++) {
        if (!is_layer(l, n)) continue;
        nw_quant_timing **t = &of[l->unit_of[n]];
        if (!*t) {
            const nw_timed_unit *unit = &l->units[l->unit_of[n]];
            *t = &r->timings[r->timing_count++];
            **t = (nw_quant_timing){.node = n, .float_ms = unit->float_ms, .integer_ms = unit->integer_ms};
            (*t)->name = nw_arena_strdup(&r->arena, nw_node_label(g, &g->nodes[n]));
            (*t)->op = nw_arena_strdup(&r->arena, g->nodes[n].op_type);
            if (!(*t)->name || !(*t)->op) return NW_E_MEMORY;
        }
        (*t)->layers++;
    }
    return NW_OK;
}

static nw_status measure(search *s, nw_quant_report *r) {
    const size_t nodes = (size_t)s->g->node_count + 1;
    look first;
    s->outputs = nw_arena_array(&s->arena, (size_t)s->g->output_count + 1, sizeof *s->outputs);
    s->left = nw_arena_array(&s->arena, nodes, sizeof *s->left);
    s->trial = nw_arena_array(&s->arena, nodes, sizeof *s->trial);
    s->vain = nw_arena_array(&s->arena, nodes, sizeof *s->vain);
    if (!s->outputs || !s->left || !s->trial || !s->vain) return NW_E_MEMORY;
    NW_TRY(open_contestant(s, NULL, &s->real));
    NW_TRY(open_contestant(s, s->left, &s->whole));
    NW_TRY(time_in_turns(s, 2, (contestant *[]){&s->real, &s->whole}));
    NW_TRY(look_at(s, &s->whole, &first));
    NW_TRY(write_timings(&first, r));
    NW_TRY(search_slow(s));
    if (s->now.session) { /* the trials' gains add up, their noise too: the whole way once more */
        NW_TRY(time_in_turns(s, 3, (contestant *[]){&s->real, &s->whole, &s->now}));
        if (!nw_measure_gains(s->whole.ms, s->now.ms)) {
            close_contestant(&s->now);
            memset(s->left, 0, nodes * sizeof *s->left);
        }
    }
    r->float_ms = s->real.ms;
    r->all_integer_ms = s->whole.ms;
    r->ms = s->now.session ? s->now.ms : s->whole.ms;
    for (size_t i = 0; i < r->timing_count; i++) r->timings[i].left = s->left[r->timings[i].node];
    return NW_OK;
}

nw_status nw_quant_measure(nw_context *ctx, nw_quant_plan **plan, nw_calibration *seen,
                           nw_quant_report *report) {
    search s = {.ctx = ctx, .plan = *plan, .g = (*plan)->graph};
    nw_quant_plan *chosen = NULL;
    nw_arena_init(&s.arena, ctx);
    nw_arena_init(&s.scratch, ctx);
    nw_arena_init(&s.results, ctx);
    nw_status status = measure(&s, report);
    if (status == NW_OK && s.now.session)
        status = plan_without(&s, s.left, s.g, &report->arena, seen, &chosen);
    close_contestant(&s.real);
    close_contestant(&s.whole);
    close_contestant(&s.now);
    nw_arena_free(&s.arena);
    nw_arena_free(&s.scratch);
    nw_arena_free(&s.results);
    if (chosen) {
        nw_quant_plan_free(*plan);
        *plan = chosen;
    }
    return status;
}
