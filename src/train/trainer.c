/* trainer.c: joins model, loss and gradients into one graph, and steps along the gradients.
 *
 * Two graphs share their value ids: `model` is what is trained, with float masters for packed constants, and
 * keeps the form of inference; the joined graph, which only the session keeps, has the parameters as inputs. */
#include "train/trainer.h"

#include "num/choose.h"
#include "run/bind.h"
#include "train/backward.h"
#include "train/loss.h"
#include "train/master.h"
#include "train/parameters.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define NO_OUTPUT SIZE_MAX

/* Part of a parameter: all threads move parameters, piece by piece. */
typedef struct piece {
    size_t parameter, first, count;
} piece;
#define PIECE 16384 /* numbers */

struct nw_trainer {
    nw_context *ctx;
    nw_trainer_options options;
    nw_arena arena; /* of everything below */
    nw_graph *model;
    nw_masters masters;
    nw_train_values values;
    nw_session *session;
    int64_t classes, steps;
    nw_feed *
        feeds; /* parameters, states, step, labels, what is taught: fixed; then room for the model's inputs */
    size_t fixed_count, input_count;
    nw_feed *labels; /* place in feeds; NULL: not used */
    nw_feed *taught; /* [taught_count] places of what the teacher gives, and of targets */
    size_t taught_count;
    nw_tensor target;          /* their shape */
    nw_tensor *outputs;        /* [output_count] of the latest run */
    bool ran;                  /* the outputs have their memory */
    size_t logits_at, loss_at; /* in the outputs */
    size_t *gradient_at;       /* [parameters]; NO_OUTPUT: the loss does not depend on it */
    size_t *next_at;           /* [states] */
    float **slots;             /* [parameters] what the optimizer remembers */
    piece *pieces;             /* of the parameters that move, but for scales */
    size_t piece_count;
    float **moving;          /* [parameters] gradients of the latest run, those that there are, … */
    size_t *moving_size;     /* … and their elements */
    float *change;           /* [largest list of scales] */
    nw_prune_target *pruned; /* weights whose zeros stay, … */
    size_t *pruned_at;       /* … and their places among the parameters */
    size_t pruned_count;
    nw_checkpoint_array *arrays;
    size_t array_count;
    nw_checkpoint_array *reals; /* parameters but scales, then states */
    size_t *real_at;            /* [learned_count] places of the former among the parameters */
    size_t real_count, learned_count;
    nw_format *stored; /* [parameters] what scales are stored as, which steps see them rounded to; 0: f32 */
};

/* ---- which output ---------------------------------------------------------------------------------------- */

static bool are_scores(const nw_tensor *t) {
    return nw_format_is_float(t->format) && t->rank >= 2 && t->dims[1] > 1 &&
           nw_dims_product(t->dims, 2, t->rank) == 1;
}

static const nw_node *producer_of(const nw_graph *g, int v) {
    for (int n = 0; n < g->node_count; n++)
        for (int o = 0; o < g->nodes[n].out_count && !g->nodes[n].dead; o++)
            if (g->nodes[n].out[o] == v) return &g->nodes[n];
    return NULL;
}

/* What a Softmax over the classes that makes v reads (perhaps with a FakeQuant behind it); else v. */
static int before_softmax(const nw_graph *g, const nw_tensor *desc, int v) {
    const nw_node *node = producer_of(g, v);
    if (node && (nw_node_is(node, "Identity") || strcmp(node->op_type, "FakeQuant") == 0))
        node = producer_of(g, node->in[0]);
    if (!node || !(nw_node_is(node, "Softmax") || nw_node_is(node, "LogSoftmax"))) return v;
    int64_t axis = nw_node_int(node, "axis", nw_graph_opset(g, "") < 13 ? 1 : -1);
    return axis == 1 || axis + desc[v].rank == 1 ? node->in[0] : v;
}

nw_status nw_find_logits(const nw_graph *g, const nw_tensor *desc, const char *name, int *logits) {
    for (int i = 0; i < g->output_count; i++) {
        int v = g->outputs[i];
        if (name ? strcmp(g->values[v].name, name) != 0 : !are_scores(&desc[v])) continue;
        if (!are_scores(&desc[v]))
            return nw_fail(g->ctx, NW_E_SHAPE, "output \"%s\" has no class scores [N, classes]", name);
        *logits = before_softmax(g, desc, v);
        return NW_OK;
    }
    if (name) return nw_fail(g->ctx, NW_E_ARGUMENT, "the model has no output \"%s\"", name);
    return nw_fail(
        g->ctx, NW_E_SHAPE,
        "no output of the model looks like class scores [N, classes]: there is nothing that labels "
        "or a teacher could be compared with");
}

/* ---- the joined graph ------------------------------------------------------------------------------------ */

typedef struct joining {
    nw_trainer *t;
    nw_graph *g; /* the joined graph */
    int logits, loss;
    nw_tensor desc; /* of the logits */
    int labels;     /* input, NW_ABSENT: none */
    int *taught;    /* [t->taught_count] inputs */
} joining;

/* The output that is to be as targets. */
static nw_status find_output(const nw_graph *g, const nw_tensor *desc, const char *name, int *value) {
    for (int i = 0; i < g->output_count; i++) {
        *value = g->outputs[i];
        if (strcmp(g->values[*value].name, name) != 0) continue;
        if (desc[*value].format == NW_F32 && desc[*value].rank > 0) return NW_OK;
        return nw_fail(g->ctx, NW_E_TYPE, "output \"%s\" has no numbers of f32 for each sample", name);
    }
    return nw_fail(g->ctx, NW_E_ARGUMENT, "the model has no output \"%s\"", name);
}

/* Finds what is trained: class scores, as [batch, classes], or the output of squares; the graph puts out nothing else but the
 * next running statistics. */
static nw_status choose_logits(joining *j) {
    nw_trainer *t = j->t;
    const bool squares = t->options.squares;
    nw_binding binding;
    NW_TRY(nw_bind(j->g, NULL, &binding));
    nw_status status = squares ? find_output(j->g, binding.desc, t->options.output, &j->logits)
                               : nw_find_logits(j->g, binding.desc, t->options.output, &j->logits);
    if (status == NW_OK) j->desc = binding.desc[j->logits];
    nw_binding_free(&binding);
    NW_TRY(status);
    if (j->desc.dims[0] != t->options.batch)
        return nw_fail(j->g->ctx, NW_E_SHAPE,
                       "the model gives %s of %" PRId64 " samples for a batch of %" PRId64,
                       squares ? "answers" : "class scores", j->desc.dims[0], t->options.batch);
    t->classes = squares ? 0 : j->desc.dims[1];
    if (!squares && j->desc.rank > 2) {
        int flat, scores = j->logits;
        nw_node *node;
        NW_TRY(nw_graph_add_value(j->g, "train/logits", &flat));
        NW_TRY(nw_graph_add_node(j->g, "", "Flatten", "train/logits", 1, &scores, 1, &flat, &node));
        node->op = nw_op_find("", "Flatten");
        j->logits = flat;
    }
    j->g->output_count = 0;
    NW_TRY(nw_graph_add_output(j->g, j->logits));
    for (size_t i = 0; i < t->values.state_count; i++)
        NW_TRY(nw_graph_add_output(j->g, t->values.states[i].next));
    return NW_OK;
}

/* The terms of the loss that compare values with the teacher's; before others: binding drops what no output needs yet. */
static nw_status add_matches(joining *j, int *terms) {
    const nw_trainer_options *o = &j->t->options;
    nw_binding binding;
    NW_TRY(nw_bind(j->g, NULL, &binding));
    nw_status status = NW_OK;
    for (size_t i = 0; i < o->match_count && status == NW_OK; i++) {
        int v = nw_graph_find(j->g, o->matches[i]), *target = &j->taught[j->t->taught_count++];
        const nw_tensor *t = v >= 0 && v < binding.desc_count ? &binding.desc[v] : NULL;
        if (!t || t->format != NW_F32)
            status = nw_fail(j->g->ctx, NW_E_ARGUMENT,
                             "\"%s\" is no value of the model that could be matched: real "
                             "numbers of a known shape",
                             o->matches[i]);
        if (status == NW_OK) status = nw_loss_target(j->g, "train/match", NW_F32, t->rank, t->dims, target);
        if (status == NW_OK) status = nw_loss_relative_squares(j->g, v, *target, &terms[i]);
    }
    nw_binding_free(&binding);
    return status;
}

static nw_status add_loss(joining *j) {
    const nw_trainer_options *o = &j->t->options;
    int64_t shape[2] = {j->t->options.batch, j->t->classes};
    int count = 0, *terms = nw_arena_array(&j->t->arena, o->match_count + 3, sizeof *terms);
    float *weights = nw_arena_array(&j->t->arena, o->match_count + 3, sizeof *weights);
    j->labels = NW_ABSENT;
    j->taught = nw_arena_array(&j->t->arena, o->match_count + 2, sizeof *j->taught);
    if (!terms || !weights || !j->taught) return NW_E_MEMORY;
    int *scores = o->teacher_weight > 0 ? &j->taught[j->t->taught_count++] : NULL;
    if (o->match_count) NW_TRY(add_matches(j, terms));
    for (size_t i = 0; i < o->match_count; i++) weights[count++] = o->match_weight / (float)o->match_count;
    if (o->label_weight > 0) {
        NW_TRY(nw_loss_target(j->g, "train/labels", NW_S64, 1, shape, &j->labels));
        weights[count] = o->label_weight;
        NW_TRY(nw_loss_cross_entropy(j->g, j->logits, j->labels, o->smoothing, &terms[count++]));
    }
    if (scores) {
        NW_TRY(nw_loss_target(j->g, "train/teacher", NW_F32, 2, shape, scores));
        weights[count] = o->teacher_weight;
        NW_TRY(nw_loss_divergence(j->g, j->logits, *scores, o->temperature, &terms[count++]));
    }
    if (o->squares) {
        int *target = &j->taught[j->t->taught_count++];
        nw_tensor_set_shape(&j->t->target, j->desc.rank, j->desc.dims);
        NW_TRY(nw_loss_target(j->g, "train/target", NW_F32, j->desc.rank, j->desc.dims, target));
        weights[count] = 1;
        NW_TRY(nw_loss_squares(j->g, j->logits, *target, &terms[count++]));
    }
    if (count == 0)
        return nw_fail(j->g->ctx, NW_E_ARGUMENT,
                       "there is nothing to learn from: neither labels nor a teacher");
    return nw_loss_sum(j->g, count, terms, weights, &j->loss);
}

static size_t output_at(const nw_graph *g, int value) {
    for (int i = 0; i < g->output_count; i++)
        if (g->outputs[i] == value) return (size_t)i;
    return NO_OUTPUT;
}

static nw_status add_gradients(joining *j) {
    nw_trainer *t = j->t;
    size_t count = t->values.parameter_count;
    int *parameters = nw_arena_array(&t->arena, count, sizeof *parameters);
    int *gradients = nw_arena_array(&t->arena, count, sizeof *gradients);
    t->gradient_at = nw_arena_array(&t->arena, count, sizeof *t->gradient_at);
    t->next_at = nw_arena_array(&t->arena, t->values.state_count, sizeof *t->next_at);
    if (!parameters || !gradients || !t->gradient_at || !t->next_at) return NW_E_MEMORY;
    for (size_t i = 0; i < count; i++) parameters[i] = t->values.parameters[i].value;
    NW_TRY(nw_backward(j->g, j->loss, (int)count, parameters, gradients));
    for (size_t i = 0; i < count; i++) {
        t->gradient_at[i] = gradients[i] >= 0 ? (size_t)j->g->output_count : NO_OUTPUT;
        if (gradients[i] >= 0)
            NW_TRY(nw_graph_add_output(j->g, gradients[i])); /* a copy for each parameter */
    }
    for (size_t i = 0; i < t->values.state_count; i++)
        t->next_at[i] = output_at(j->g, t->values.states[i].next);
    t->logits_at = output_at(j->g, j->logits);
    t->loss_at = output_at(j->g, j->loss);
    return NW_OK;
}

static nw_status join(joining *j) {
    nw_trainer *t = j->t;
    nw_train_options options = {.batch = t->options.batch,
                                .learn_scales = t->options.learn_scales,
                                .seed = (int64_t)(t->options.seed >> 1)};
    NW_TRY(nw_train_prepare(j->g, &options, &t->arena, &t->values));
    NW_TRY(choose_logits(j));
    NW_TRY(add_loss(j));
    NW_TRY(add_gradients(j));
    return nw_session_new(t->ctx, j->g, &t->options.run, &t->session);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

static nw_status name_of(nw_trainer *t, const joining *j, int value, const char **name) {
    *name = nw_arena_strdup(&t->arena, j->g->values[value].name); /* the joined graph goes */
    return *name ? NW_OK : NW_E_MEMORY;
}

static nw_status make_feeds(nw_trainer *t, const joining *j) {
    nw_train_values *v = &t->values;
    t->feeds = nw_arena_array(&t->arena, (size_t)j->g->input_count + 1, sizeof *t->feeds);
    t->outputs = nw_arena_array(&t->arena, (size_t)j->g->output_count, sizeof *t->outputs);
    if (!t->feeds || !t->outputs) return NW_E_MEMORY;
    size_t n = 0;
    for (size_t i = 0; i < v->parameter_count; i++) {
        NW_TRY(name_of(t, j, v->parameters[i].value, &v->parameters[i].name));
        t->feeds[n++] = (nw_feed){v->parameters[i].name, v->parameters[i].tensor};
    }
    for (size_t i = 0; i < v->state_count; i++) {
        NW_TRY(name_of(t, j, v->states[i].value, &v->states[i].name));
        t->feeds[n++] = (nw_feed){v->states[i].name, v->states[i].tensor};
    }
    if (v->step >= 0) {
        t->feeds[n].tensor = (nw_tensor){.format = NW_S64, .data = &t->steps};
        NW_TRY(name_of(t, j, v->step, &t->feeds[n++].name));
    }
    if (j->labels >= 0) {
        t->labels = &t->feeds[n++];
        t->labels->tensor = (nw_tensor){.format = NW_S64, .rank = 1, .dims = {t->options.batch}};
        NW_TRY(name_of(t, j, j->labels, &t->labels->name));
    }
    t->taught = &t->feeds[n];
    for (size_t i = 0; i < t->taught_count; i++) NW_TRY(name_of(t, j, j->taught[i], &t->feeds[n++].name));
    t->fixed_count = n;
    for (int i = 0; i < j->g->input_count; i++) t->input_count += !j->g->values[j->g->inputs[i]].constant;
    t->input_count -= n;
    return NW_OK;
}

/* Scales that are stored in fewer bits than f32 are fed as they will be stored. */
static nw_status feed_stored_scales(nw_trainer *t) {
    const nw_train_values *v = &t->values;
    if (!(t->stored = nw_arena_array(&t->arena, v->parameter_count, sizeof *t->stored))) return NW_E_MEMORY;
    for (size_t i = 0; i < v->parameter_count; i++)
        for (size_t m = 0; m < t->masters.count; m++) {
            const nw_master *master = &t->masters.at[m];
            if (master->scale != v->parameters[i].value || master->scale_format == NW_F32) continue;
            t->stored[i] = master->scale_format;
            NW_TRY(nw_tensor_alloc(&t->arena, &t->feeds[i].tensor));
        }
    return NW_OK;
}

/* The name of parameter i in the graph that was given: that of what was packed. */
static const char *given_name(const nw_trainer *t, size_t i) {
    for (size_t m = 0; m < t->masters.count; m++)
        if (t->masters.at[m].master == t->values.parameters[i].value)
            return t->model->values[t->masters.at[m].value].name;
    return t->values.parameters[i].name;
}

static nw_status make_reals(nw_trainer *t) {
    const nw_train_values *v = &t->values;
    t->reals = nw_arena_array(&t->arena, v->parameter_count + v->state_count, sizeof *t->reals);
    t->real_at = nw_arena_array(&t->arena, v->parameter_count, sizeof *t->real_at);
    if (!t->reals || !t->real_at) return NW_E_MEMORY;
    for (size_t i = 0; i < v->parameter_count; i++) {
        const nw_tensor *p = &v->parameters[i].tensor;
        if (v->parameters[i].kind == NW_PARAMETER_SCALE) continue;
        t->real_at[t->real_count] = i;
        t->reals[t->real_count++] = (nw_checkpoint_array){given_name(t, i), p->data, nw_tensor_count(p)};
    }
    t->learned_count = t->real_count;
    for (size_t i = 0; i < v->state_count; i++) {
        const nw_tensor *s = &v->states[i].tensor;
        t->reals[t->real_count++] = (nw_checkpoint_array){v->states[i].name, s->data, nw_tensor_count(s)};
    }
    return NW_OK;
}

static nw_status make_slots(nw_trainer *t) {
    const nw_train_values *v = &t->values;
    size_t slots = nw_optimizer_slots(&t->options.optimizer), n = 0, scales = 0;
    t->slots = nw_arena_array(&t->arena, v->parameter_count, sizeof *t->slots);
    t->moving = nw_arena_array(&t->arena, v->parameter_count, sizeof *t->moving);
    t->moving_size = nw_arena_array(&t->arena, v->parameter_count, sizeof *t->moving_size);
    t->arrays = nw_arena_array(&t->arena, 2 * v->parameter_count + v->state_count, sizeof *t->arrays);
    if (!t->slots || !t->moving || !t->moving_size || !t->arrays) return NW_E_MEMORY;
    for (size_t i = 0; i < v->parameter_count; i++) {
        const nw_tensor *p = &v->parameters[i].tensor;
        size_t count = nw_tensor_count(p), all;
        if (!nw_mul_size(count, slots, &all)) return nw_fail(t->ctx, NW_E_MEMORY, "the model is too large");
        if (!(t->slots[i] = nw_arena_array(&t->arena, all ? all : 1, sizeof(float)))) return NW_E_MEMORY;
        if (v->parameters[i].kind == NW_PARAMETER_SCALE && count > scales) scales = count;
        t->arrays[n++] = (nw_checkpoint_array){v->parameters[i].name, p->data, count};
        if (all) t->arrays[n++] = (nw_checkpoint_array){"optimizer", t->slots[i], all};
    }
    for (size_t i = 0; i < v->state_count; i++) {
        const nw_tensor *s = &v->states[i].tensor;
        t->arrays[n++] = (nw_checkpoint_array){v->states[i].name, s->data, nw_tensor_count(s)};
    }
    t->array_count = n;
    t->change = nw_arena_array(&t->arena, scales, sizeof *t->change);
    return t->change ? NW_OK : NW_E_MEMORY;
}

/* The parameters that are weights of layers, so that their zeros can stay. */
static nw_status find_pruned(nw_trainer *t) {
    size_t found, kept = 0;
    if (!t->options.hold_zeros) return NW_OK;
    NW_TRY(nw_prune_options_check(t->ctx, &t->options.prune));
    NW_TRY(nw_prune_targets(t->model, &t->options.prune, &t->arena, &t->pruned, &found, NULL));
    if (!(t->pruned_at = nw_arena_array(&t->arena, found, sizeof *t->pruned_at))) return NW_E_MEMORY;
    for (size_t k = 0; k < found; k++)
        for (size_t i = 0; i < t->values.parameter_count; i++) {
            if (t->values.parameters[i].value != t->pruned[k].value) continue;
            t->pruned_at[kept] = i;
            t->pruned[kept] = t->pruned[k];
            t->pruned[kept++].tensor = t->values.parameters[i].tensor;
        }
    t->pruned_count = kept;
    return kept ? NW_OK : nw_fail(t->ctx, NW_E_ARGUMENT, "the model has no weights that could be pruned");
}

static nw_status make_pieces(nw_trainer *t) {
    size_t capacity = 0;
    for (size_t i = 0; i < t->values.parameter_count; i++) {
        const size_t all = nw_tensor_count(&t->values.parameters[i].tensor);
        if (t->gradient_at[i] == NO_OUTPUT || t->values.parameters[i].kind == NW_PARAMETER_SCALE) continue;
        for (size_t at = 0; at < all; at += PIECE) {
            NW_TRY(
                nw_arena_grow(&t->arena, (void **)&t->pieces, &capacity, t->piece_count, sizeof *t->pieces));
            t->pieces[t->piece_count++] = (piece){i, at, all - at < PIECE ? all - at : PIECE};
        }
    }
    return NW_OK;
}

nw_status nw_trainer_new(nw_context *ctx, const nw_graph *graph, const nw_trainer_options *options,
                         nw_trainer **out) {
    nw_trainer *t = nw_calloc(ctx, 1, sizeof *t);
    if (!t) return NW_E_MEMORY;
    t->ctx = ctx;
    t->options = *options;
    nw_arena_init(&t->arena, ctx);
    joining j = {.t = t};
    nw_status status = nw_graph_copy(graph, ctx, &t->model);
    if (status == NW_OK) status = nw_graph_resolve(t->model);
    if (status == NW_OK) status = nw_train_take_constants(t->model);
    if (status == NW_OK)
        status = nw_masters_make(t->model, options->real, options->learn_scales, &t->arena, &t->masters);
    if (status == NW_OK) status = nw_graph_copy(t->model, ctx, &j.g);
    if (status == NW_OK) status = nw_graph_resolve(j.g);
    if (status == NW_OK) status = join(&j);
    if (status == NW_OK) status = make_feeds(t, &j);
    if (status == NW_OK) status = feed_stored_scales(t);
    if (status == NW_OK) status = make_slots(t);
    if (status == NW_OK) status = make_reals(t);
    if (status == NW_OK) status = make_pieces(t);
    if (status == NW_OK) status = find_pruned(t);
    nw_graph_free(j.g);
    if (status != NW_OK)
        nw_trainer_free(t);
    else
        *out = t;
    return status;
}

void nw_trainer_free(nw_trainer *t) {
    if (!t) return;
    nw_session_free(t->session);
    nw_graph_free(t->model);
    nw_arena_free(&t->arena);
    nw_free(t->ctx, t);
}

int64_t nw_trainer_classes(const nw_trainer *t) {
    return t->classes;
}
int64_t nw_trainer_steps(const nw_trainer *t) {
    return t->steps;
}
void nw_trainer_set_steps(nw_trainer *t, int64_t steps) {
    t->steps = steps;
}

double nw_trainer_sparsity(const nw_trainer *t) {
    size_t zeros = 0, count = 0;
    for (size_t k = 0; k < t->pruned_count; k++) {
        const float *p = t->pruned[k].tensor.data;
        size_t n = nw_tensor_count(&t->pruned[k].tensor);
        for (size_t i = 0; i < n; i++) zeros += p[i] == 0;
        count += n;
    }
    return count ? (double)zeros / (double)count : NAN;
}

size_t nw_trainer_parameter_count(const nw_trainer *t) {
    size_t count = 0;
    for (size_t i = 0; i < t->values.parameter_count; i++)
        count += nw_tensor_count(&t->values.parameters[i].tensor);
    return count;
}

const nw_checkpoint_array *nw_trainer_arrays(const nw_trainer *t, size_t *count) {
    *count = t->array_count;
    return t->arrays;
}

const nw_checkpoint_array *nw_trainer_reals(const nw_trainer *t, size_t *count) {
    *count = t->real_count;
    return t->reals;
}

void nw_trainer_inherit(nw_trainer *t, const nw_trainer *before) {
    const size_t slots = nw_optimizer_slots(&t->options.optimizer);
    for (size_t i = 0; i < t->learned_count; i++)
        for (size_t k = 0; k < before->learned_count; k++) {
            const nw_checkpoint_array *a = &t->reals[i], *b = &before->reals[k];
            if (a->count == b->count && strcmp(a->name, b->name) == 0 && slots)
                memcpy(t->slots[t->real_at[i]], before->slots[before->real_at[k]],
                       slots * a->count * sizeof(float));
        }
    t->steps = before->steps;
}

/* ---- a step ------------------------------------------------------------------------------------------------ */

static nw_status set_feeds(nw_trainer *t, size_t count, const nw_feed *feeds, const int64_t *labels,
                           const nw_tensor *taught) {
    if (count != t->input_count)
        return nw_fail(t->ctx, NW_E_ARGUMENT, "the model takes %zu inputs, %zu were given", t->input_count,
                       count);
    for (size_t i = 0; i < count; i++) t->feeds[t->fixed_count + i] = feeds[i];
    for (size_t i = 0; i < t->values.parameter_count; i++) {
        const nw_tensor *scale = &t->values.parameters[i].tensor;
        float *fed = t->feeds[i].tensor.data;
        for (size_t k = 0; t->stored[i] && k < nw_tensor_count(scale); k++)
            fed[k] = nw_round_scale(t->stored[i], ((const float *)scale->data)[k], false);
    }
    for (int64_t i = 0; t->labels && i < t->options.batch; i++)
        if (labels[i] < 0 || labels[i] >= t->classes)
            return nw_fail(t->ctx, NW_E_DATA,
                           "there is a label %" PRId64 ", but the model has %" PRId64 " classes", labels[i],
                           t->classes);
    if (t->labels) t->labels->tensor.data = (void *)(uintptr_t)labels;
    if (t->options.squares && !nw_tensor_same_shape(&taught[t->taught_count - 1], &t->target))
        return nw_fail(t->ctx, NW_E_SHAPE, "targets have another shape than output \"%s\"",
                       t->options.output);
    for (size_t i = 0; i < t->taught_count; i++) t->taught[i].tensor = taught[i];
    return NW_OK;
}

#define SCALE_CHANGE 0.1f /* most that one step changes a scale by, in its logarithm */

/* Scales move in their logarithm, s ← s·exp(step along −g/s): to first order what Esser et al. (2020) do, but relative to
 * the scale with every optimizer, and never below 0. */
static void move_scales(nw_trainer *t, double rate, size_t i, float *g) {
    const nw_tensor *p = &t->values.parameters[i].tensor;
    size_t count = nw_tensor_count(p);
    float *s = p->data;
    if (t->options.scale_steps && t->steps > t->options.scale_steps) return;
    rate *= t->options.scale_rate;
    for (size_t k = 0; k < count; k++) {
        g[k] /= s[k];
        t->change[k] = 0;
    }
    nw_optimizer_step(&t->options.optimizer, rate, t->steps, false, count, t->change, g, t->slots[i], count);
    for (size_t k = 0; k < count; k++) s[k] *= expf(fminf(fmaxf(t->change[k], -SCALE_CHANGE), SCALE_CHANGE));
}

/* Gradients of weights that stay zero. What the optimizer remembers of them is zero too: no step moves them. */
static void hold_zeros(nw_trainer *t) {
    for (size_t k = 0; k < t->pruned_count; k++) {
        size_t at = t->gradient_at[t->pruned_at[k]], count = nw_tensor_count(&t->pruned[k].tensor);
        const float *p = t->pruned[k].tensor.data;
        float *g = at == NO_OUTPUT ? NULL : t->outputs[at].data;
        for (size_t i = 0; i < count && g; i++) g[i] = p[i] == 0 ? 0 : g[i];
    }
}

#define PRUNE_MOMENTS 100 /* in which the share of zeros grows */

static nw_status prune(nw_trainer *t) {
    int64_t total = t->options.prune_steps, slots = (int64_t)nw_optimizer_slots(&t->options.optimizer);
    if (!t->pruned_count || t->steps > total ||
        t->steps * PRUNE_MOMENTS / total == (t->steps - 1) * PRUNE_MOMENTS / total)
        return NW_OK;
    double part = (double)t->steps / (double)total;
    NW_TRY(nw_prune_weights(t->ctx, &t->options.prune, part, t->pruned_count, t->pruned));
    for (size_t k = 0; k < t->pruned_count; k++) {
        size_t count = nw_tensor_count(&t->pruned[k].tensor);
        const float *p = t->pruned[k].tensor.data;
        float *slot = t->slots[t->pruned_at[k]];
        for (int64_t s = 0; s < slots; s++, slot += count)
            for (size_t i = 0; i < count; i++) slot[i] = p[i] == 0 ? 0 : slot[i];
    }
    return NW_OK;
}

typedef struct moving {
    const nw_trainer *t;
    double rate;
} moving;

static void move_piece(void *user, size_t i) {
    const moving *m = user;
    const nw_trainer *t = m->t;
    const piece *at = &t->pieces[i];
    const nw_parameter *p = &t->values.parameters[at->parameter];
    const float *gradient = t->outputs[t->gradient_at[at->parameter]].data;
    nw_optimizer_step(&t->options.optimizer, m->rate, t->steps, p->kind == NW_PARAMETER_WEIGHT, at->count,
                      (float *)p->tensor.data + at->first, gradient + at->first,
                      t->slots[at->parameter] + at->first, nw_tensor_count(&p->tensor));
}

static void move(nw_trainer *t, double rate) {
    moving job = {t, rate};
    nw_session_parallel(t->session, t->piece_count, move_piece, &job);
    for (size_t i = 0; i < t->values.parameter_count; i++)
        if (t->values.parameters[i].kind == NW_PARAMETER_SCALE && t->gradient_at[i] != NO_OUTPUT)
            move_scales(t, rate, i, t->outputs[t->gradient_at[i]].data);
    for (size_t i = 0; i < t->values.state_count; i++) {
        const nw_tensor *now = &t->values.states[i].tensor, *next = &t->outputs[t->next_at[i]];
        if (nw_tensor_bytes(now)) memcpy(now->data, next->data, nw_tensor_bytes(now));
    }
}

nw_status nw_trainer_step(nw_trainer *t, size_t feed_count, const nw_feed *feeds, const int64_t *labels,
                          const nw_tensor *taught, nw_trainer_result *out) {
    NW_TRY(set_feeds(t, feed_count, feeds, labels, taught));
    NW_TRY(nw_session_run(t->session, t->fixed_count + feed_count, t->feeds, t->ran ? NULL : &t->arena,
                          t->outputs));
    t->ran = true;
    size_t n = 0;
    hold_zeros(t);
    for (size_t i = 0; i < t->values.parameter_count; i++) {
        if (t->gradient_at[i] == NO_OUTPUT) continue;
        t->moving[n] = t->outputs[t->gradient_at[i]].data;
        t->moving_size[n++] = nw_tensor_count(&t->outputs[t->gradient_at[i]]);
    }
    out->loss = nw_tensor_f64(&t->outputs[t->loss_at], 0);
    out->norm =
        nw_gradient_clip(t->options.clip > 0 ? t->options.clip : INFINITY, n, t->moving_size, t->moving);
    out->logits = t->outputs[t->logits_at];
    if (!isfinite(out->loss) || !isfinite(out->norm))
        return nw_fail(t->ctx, NW_E_DATA,
                       "step %" PRId64
                       " gave a %s that is no finite number: train with a smaller learning rate "
                       "or clip the gradients, and look at the data's preprocessing",
                       t->steps + 1, isfinite(out->loss) ? "gradient" : "loss");
    t->steps++;
    out->rate = nw_schedule_rate(&t->options.schedule, t->steps);
    move(t, out->rate);
    return prune(t);
}

nw_status nw_trainer_graph(const nw_trainer *t, nw_graph **out) {
    nw_graph *g;
    const nw_train_values *v = &t->values;
    NW_TRY(nw_graph_copy(t->model, t->ctx, &g));
    nw_status status = nw_graph_resolve(g);
    for (size_t i = 0; i < v->parameter_count && status == NW_OK; i++)
        status = nw_graph_set_constant_copy(g, v->parameters[i].value, &v->parameters[i].tensor);
    for (size_t i = 0; i < v->state_count && status == NW_OK; i++)
        status = nw_graph_set_constant_copy(g, v->states[i].value, &v->states[i].tensor);
    if (status == NW_OK) status = nw_masters_pack(g, &t->masters);
    if (status != NW_OK)
        nw_graph_free(g);
    else
        *out = g;
    return status;
}
