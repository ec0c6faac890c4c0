/* control.c: If, Loop, Scan. They run their subgraphs through call->run_subgraph. Their shapes are known only
 * by running: with run_subgraph, infer does so and leaves each result's data in out[i].data (in scratch), so
 * that a caller who keeps it need not evaluate again; without run_subgraph it answers NW_E_NEED_VALUE. */
#include "op/index.h"
#include "op/move.h"

#include <inttypes.h>

static nw_status subgraph_of(const nw_op_call *call, const char *name, const nw_graph **sub) {
    const nw_attr *a = nw_node_attr(call->node, name);
    if (!a || a->kind != NW_ATTR_GRAPH || !a->graph)
        return nw_call_fail(call, NW_E_FORMAT, "its subgraph \"%s\" is missing", name);
    *sub = a->graph;
    return NW_OK;
}

/* A copy of t, as plain numbers, in the arena. */
static nw_status copy_into(nw_arena *arena, const nw_tensor *t, nw_tensor *out) {
    if (t->qparam) return nw_tensor_to_f32(arena, t, out);
    nw_tensor copy = *t;
    NW_TRY(nw_tensor_alloc(arena, &copy));
    nw_copy_bytes(copy.data, t->data, nw_tensor_bytes(t));
    *out = copy;
    return NW_OK;
}

static nw_status read_bool(const nw_op_call *call, const nw_tensor *t, bool *value) {
    if (t->format != NW_BOOL) return nw_call_fail(call, NW_E_TYPE, "its condition must be a bool");
    NW_TRY(nw_call_expect_one(call, t, "its condition"));
    *value = *(const uint8_t *)t->data != 0;
    return NW_OK;
}

/* ---- infer and eval from one function ------------------------------------------------------------------ */

/* Runs the operator: results[i] for output i (format NW_NONE where there is none), data in call->scratch. */
typedef nw_status run_fn(const nw_op_call *call, nw_tensor *results);

static nw_status run_all(const nw_op_call *call, run_fn *run, nw_tensor **results) {
    *results = nw_arena_array(call->scratch, (size_t)call->out_count + 1, sizeof **results);
    return *results ? run(call, *results) : NW_E_MEMORY;
}

static nw_status control_infer(nw_op_call *call, run_fn *run) {
    nw_tensor *results;
    if (!call->run_subgraph)
        return nw_call_fail(call, NW_E_NEED_VALUE, "its output shapes are known when it has run");
    for (int i = 0; i < call->in_count; i++)
        if (call->in[i]) NW_TRY(nw_call_value(call, i, &(const nw_tensor *){NULL}));
    NW_TRY(run_all(call, run, &results));
    for (int i = 0; i < call->out_count; i++) call->out[i] = results[i];
    return NW_OK;
}

static nw_status control_eval(nw_op_call *call, run_fn *run) {
    nw_tensor *results;
    if (!call->run_subgraph) return nw_call_fail(call, NW_E_INTERNAL, "it cannot run here");
    NW_TRY(run_all(call, run, &results));
    for (int i = 0; i < call->out_count; i++) {
        nw_tensor *out = &call->out[i];
        if (!nw_call_wants(call, i) || !out->data) continue;
        if (results[i].format != out->format || !nw_tensor_same_shape(&results[i], out))
            return nw_call_fail(call, NW_E_SHAPE, "the shape of output %d changed between two runs", i);
        nw_copy_bytes(out->data, results[i].data, nw_tensor_bytes(out));
    }
    return NW_OK;
}

/* ---- If ------------------------------------------------------------------------------------------------ */

static nw_status if_run(const nw_op_call *call, nw_tensor *results) {
    const nw_tensor *condition;
    const nw_graph *branch = NULL;
    nw_tensor *outputs;
    bool taken = false;
    NW_TRY(nw_call_require(call, 0, &condition));
    NW_TRY(read_bool(call, condition, &taken));
    NW_TRY(subgraph_of(call, taken ? "then_branch" : "else_branch", &branch));
    if (branch->output_count < call->out_count)
        return nw_call_fail(call, NW_E_FORMAT, "its branch has %d outputs, %d are needed",
                            branch->output_count, call->out_count);
    NW_TRY(call->run_subgraph(call, branch, 0, NULL, &outputs));
    memcpy(results, outputs, (size_t)call->out_count * sizeof *results);
    return NW_OK;
}

static nw_status if_infer(nw_op_call *call) {
    return control_infer(call, if_run);
}
static nw_status if_eval(nw_op_call *call) {
    return control_eval(call, if_run);
}

const nw_op nw_op_If = {.name = "If", .domain = "", .flags = NW_OP_RAW, .infer = if_infer, .eval = if_eval};

/* ---- piles: tensors of one shape, collected along a new axis ------------------------------------------- */

typedef struct pile {
    nw_tensor element;  /* of the first one added; its data is not used */
    size_t count, room; /* elements added, elements that fit */
    uint8_t *data;      /* in call->scratch */
} pile;

static nw_status pile_add(const nw_op_call *call, pile *p, const nw_tensor *t) {
    size_t size, bytes, wanted;
    NW_TRY(nw_call_element_size(call, nw_real_format(t), &size));
    if (p->count == 0) p->element = *t;
    if (p->element.format != t->format || !nw_tensor_same_shape(&p->element, t))
        return nw_call_fail(call, NW_E_SHAPE,
                            "what its body collects must have the same shape and type in every iteration");
    bytes = nw_tensor_bytes(t);
    if (p->count == p->room) { /* doubled: the copies left behind are together no larger than the last one */
        size_t room = p->room ? 2 * p->room : 8;
        uint8_t *data;
        if (!nw_mul_size(room, bytes, &wanted)) return nw_call_fail(call, NW_E_MEMORY, "out of memory");
        NW_TRY(nw_call_scratch(call, wanted, &data));
        nw_copy_bytes(data, p->data, p->count * bytes);
        p->data = data;
        p->room = room;
    }
    if (t->data)
        nw_copy_bytes(p->data + p->count * bytes, t->data, bytes);
    else if (bytes)
        memset(p->data + p->count * bytes, 0, bytes);
    p->count++;
    return NW_OK;
}

/* The collected elements as one tensor; `axis` is the new one, backwards when `reversed`. With nothing
 * collected, the shape is what value `declared` of the body says (0 where it does not). */
static nw_status pile_finish(const nw_op_call *call, const pile *p, const nw_value *declared,
                             int64_t asked_axis, bool reversed, nw_tensor *out) {
    nw_tensor element = p->element, all;
    int axis;
    if (p->count == 0) {
        element = (nw_tensor){.format = declared->format == NW_NONE ? NW_F32 : declared->format};
        element.rank = declared->rank < 0 ? 0 : declared->rank;
        for (int d = 0; d < element.rank; d++)
            element.dims[d] = declared->dims[d] < 0 ? 0 : declared->dims[d];
    }
    if (element.rank == NW_MAX_RANK)
        return nw_call_fail(call, NW_E_UNSUPPORTED, "its output would have more than %d dimensions",
                            NW_MAX_RANK);
    NW_TRY(nw_call_axis(call, asked_axis, element.rank + 1, false, &axis));
    all = (nw_tensor){.format = element.format, .rank = element.rank + 1};
    for (int d = 0, from = 0; d < all.rank; d++)
        all.dims[d] = d == axis ? (int64_t)p->count : element.dims[from++];
    NW_TRY(nw_tensor_check(call->ctx, &all));
    all.data = p->data;
    if (p->count > 0 && (axis != 0 || reversed)) {
        int64_t within[NW_MAX_RANK], to[NW_MAX_RANK], step = (int64_t)nw_tensor_count(&element);
        size_t size;
        NW_TRY(nw_call_element_size(call, all.format, &size));
        NW_TRY(nw_tensor_alloc(call->scratch, &all));
        nw_dims_strides(element.rank, element.dims, within);
        nw_dims_strides(all.rank, all.dims, to);
        nw_move move = {.rank = 0};
        for (int d = 0, from = 0; d < all.rank; d++)
            nw_move_add(&move, all.dims[d], d != axis ? within[from++] : reversed ? -step : step, to[d]);
        const uint8_t *first = p->data + (reversed ? (p->count - 1) * (size_t)step * size : 0);
        nw_move_run(&move, size, first, all.data);
    }
    *out = all;
    return NW_OK;
}

/* ---- iterations ---------------------------------------------------------------------------------------- */

/* What is carried from one run of a body to the next. Memory does not grow with the number of iterations: a
 * run uses `step`, and the states alternate between two arenas. */
typedef struct carrier {
    const nw_graph *body;
    nw_arena step, kept[2];
    int turn, first, count; /* states are feeds[first … first+count) */
    int feed_count;
    nw_tensor *feeds; /* [feed_count] */
} carrier;

static nw_status carrier_init(const nw_op_call *call, const nw_graph *body, int first, int count,
                              int feed_count, carrier *c) {
    *c = (carrier){.body = body, .first = first, .count = count, .feed_count = feed_count};
    if (body->input_count != feed_count)
        return nw_call_fail(call, NW_E_FORMAT, "its body has %d inputs, %d are given to it",
                            body->input_count, feed_count);
    c->feeds = nw_arena_array(call->scratch, (size_t)feed_count + 1, sizeof *c->feeds);
    if (!c->feeds) return NW_E_MEMORY;
    nw_arena_init(&c->step, call->ctx);
    nw_arena_init(&c->kept[0], call->ctx);
    nw_arena_init(&c->kept[1], call->ctx);
    return NW_OK;
}

static void carrier_free(carrier *c) {
    nw_arena_free(&c->step);
    nw_arena_free(&c->kept[0]);
    nw_arena_free(&c->kept[1]);
}

static nw_status carrier_run(const nw_op_call *call, carrier *c, nw_tensor **outputs) {
    nw_op_call inner = *call;
    inner.scratch = &c->step;
    return call->run_subgraph(&inner, c->body, c->feed_count, c->feeds, outputs);
}

/* The new states replace the old ones; everything else of this iteration is forgotten. */
static nw_status carrier_advance(carrier *c, const nw_tensor *states) {
    nw_arena *fresh = &c->kept[!c->turn];
    for (int i = 0; i < c->count; i++) NW_TRY(copy_into(fresh, &states[i], &c->feeds[c->first + i]));
    nw_arena_reset(&c->kept[c->turn]);
    nw_arena_reset(&c->step);
    c->turn = !c->turn;
    return NW_OK;
}

/* ---- Loop: inputs M, cond, states…; body iteration, cond, states… → cond, states…, collected…  */

static nw_status loop_iterate(const nw_op_call *call, carrier *c, pile *piles, int pile_count) {
    int64_t most, i = 0;
    bool conditional = nw_call_in(call, 1) != NULL, go = true;
    NW_TRY(nw_call_int(call, 0, -1, &most));
    if (conditional) NW_TRY(read_bool(call, call->in[1], &go));
    if (!nw_call_in(call, 0)) most = INT64_MAX;
    if (!nw_call_in(call, 0) && !conditional)
        return nw_call_fail(call, NW_E_ARGUMENT,
                            "it has neither a trip count nor a condition and would never end");
    uint8_t flag = go;
    c->feeds[0] = (nw_tensor){.format = NW_S64, .data = &i};
    c->feeds[1] = (nw_tensor){.format = NW_BOOL, .data = &flag};
    for (; i < most && go; i++) {
        nw_tensor *outputs;
        NW_TRY(carrier_run(call, c, &outputs));
        if (conditional) NW_TRY(read_bool(call, &outputs[0], &go));
        flag = go;
        for (int k = 0; k < pile_count; k++) NW_TRY(pile_add(call, &piles[k], &outputs[1 + c->count + k]));
        NW_TRY(carrier_advance(c, outputs + 1));
    }
    return NW_OK;
}

static nw_status loop_run(const nw_op_call *call, nw_tensor *results) {
    const nw_graph *body = NULL;
    carrier c;
    pile *piles;
    int states = call->in_count > 2 ? call->in_count - 2 : 0;
    NW_TRY(subgraph_of(call, "body", &body));
    int collected = body->output_count - 1 - states;
    if (collected < 0 || call->out_count > states + collected)
        return nw_call_fail(call, NW_E_FORMAT,
                            "its body has %d outputs, too few for %d states and its outputs",
                            body->output_count, states);
    piles = nw_arena_array(call->scratch, (size_t)collected + 1, sizeof *piles);
    if (!piles) return NW_E_MEMORY;
    NW_TRY(carrier_init(call, body, 2, states, 2 + states, &c));
    nw_status status = NW_OK;
    for (int i = 0; i < states && status == NW_OK; i++) {
        const nw_tensor *initial;
        status = nw_call_require(call, 2 + i, &initial);
        if (status == NW_OK) c.feeds[2 + i] = *initial;
    }
    if (status == NW_OK) status = loop_iterate(call, &c, piles, collected);
    for (int i = 0; i < call->out_count && status == NW_OK; i++)
        status = i < states ? copy_into(call->scratch, &c.feeds[2 + i], &results[i])
                            : pile_finish(call, &piles[i - states], &body->values[body->outputs[1 + i]], 0,
                                          false, &results[i]);
    carrier_free(&c);
    return status;
}

static nw_status loop_infer(nw_op_call *call) {
    return control_infer(call, loop_run);
}
static nw_status loop_eval(nw_op_call *call) {
    return control_eval(call, loop_run);
}

const nw_op nw_op_Loop = {
    .name = "Loop", .domain = "", .flags = NW_OP_RAW, .infer = loop_infer, .eval = loop_eval};

/* ---- Scan: inputs states…, sequences…; body states…, elements… → states…, collected… ----- */

typedef struct scan {
    const nw_graph *body;
    int states, sequences, collected;
    const nw_tensor *initial, *sequence; /* [states], [sequences] */
    int *axis;                           /* [sequences] */
    const int64_t *backwards;            /* [sequences], or NULL: all forwards */
    int64_t length;                      /* steps to take */
} scan;

/* Element t of a sequence, in the arena. */
static nw_status element_at(const nw_op_call *call, nw_arena *arena, const nw_tensor *x, int axis, int64_t t,
                            nw_tensor *out) {
    nw_axis_span span = nw_axis_span_of(x, axis);
    nw_tensor element = {.format = x->format, .rank = x->rank - 1};
    size_t size;
    NW_TRY(nw_call_element_size(call, x->format, &size));
    for (int d = 0; d < element.rank; d++) element.dims[d] = x->dims[d < axis ? d : d + 1];
    NW_TRY(nw_tensor_alloc(arena, &element));
    nw_move move = {.rank = 0};
    nw_move_add(&move, (int64_t)span.outer, (int64_t)(span.length * span.inner), (int64_t)span.inner);
    nw_move_add(&move, (int64_t)span.inner, 1, 1);
    if (nw_tensor_count(&element) > 0)
        nw_move_run(&move, size, (const char *)x->data + (size_t)t * span.inner * size, element.data);
    *out = element;
    return NW_OK;
}

static nw_status scan_steps(const nw_op_call *call, const scan *s, carrier *c, pile *piles) {
    for (int i = 0; i < s->states; i++) c->feeds[i] = s->initial[i];
    for (int64_t t = 0; t < s->length; t++) {
        nw_tensor *outputs;
        for (int i = 0; i < s->sequences; i++) {
            int64_t at = s->backwards && s->backwards[i] ? s->length - 1 - t : t;
            NW_TRY(element_at(call, &c->step, &s->sequence[i], s->axis[i], at, &c->feeds[s->states + i]));
        }
        NW_TRY(carrier_run(call, c, &outputs));
        for (int k = 0; k < s->collected; k++) NW_TRY(pile_add(call, &piles[k], &outputs[s->states + k]));
        NW_TRY(carrier_advance(c, outputs));
    }
    return NW_OK;
}

/* One pass over the sequences: the final states (in call->scratch) and what was collected. */
static nw_status scan_pass(const nw_op_call *call, const scan *s, nw_tensor *finals, pile *piles) {
    carrier c;
    NW_TRY(carrier_init(call, s->body, 0, s->states, s->states + s->sequences, &c));
    nw_status status = scan_steps(call, s, &c, piles);
    for (int i = 0; i < s->states && status == NW_OK; i++)
        status = copy_into(call->scratch, &c.feeds[i], &finals[i]);
    carrier_free(&c);
    return status;
}

/* An attribute with one number for each of `count` sequences. */
static nw_status per_sequence(const nw_op_call *call, const char *name, int count, const int64_t **values) {
    size_t have;
    *values = NULL;
    if (!nw_node_ints(call->node, name, values, &have) || have == (size_t)count) return NW_OK;
    return nw_call_fail(call, NW_E_FORMAT, "%s lists %zu numbers for %d sequences", name, have, count);
}

/* What both forms share; inputs from `first` on. */
static nw_status read_scan(const nw_op_call *call, int first, scan *s) {
    *s = (scan){.length = -1};
    NW_TRY(subgraph_of(call, "body", &s->body));
    int inputs = call->in_count - first;
    int64_t sequences = nw_node_int(call->node, "num_scan_inputs", 0);
    if (sequences < 1 || sequences > inputs)
        return nw_call_fail(call, NW_E_FORMAT, "num_scan_inputs is %" PRId64 ", of %d inputs", sequences,
                            inputs);
    s->sequences = (int)sequences;
    s->states = inputs - s->sequences;
    s->collected = s->body->output_count - s->states;
    if (s->collected < 0 || call->out_count > s->body->output_count)
        return nw_call_fail(call, NW_E_FORMAT, "its body has too few outputs (%d)", s->body->output_count);
    nw_tensor *all = nw_arena_array(call->scratch, (size_t)inputs + 1, sizeof *all);
    s->axis = nw_arena_array(call->scratch, (size_t)s->sequences, sizeof *s->axis);
    if (!all || !s->axis) return NW_E_MEMORY;
    for (int i = 0; i < inputs; i++) {
        const nw_tensor *t;
        NW_TRY(nw_call_require(call, first + i, &t));
        all[i] = *t;
        if (t->qparam) NW_TRY(nw_tensor_to_f32(call->scratch, t, &all[i]));
    }
    s->initial = all;
    s->sequence = all + s->states;
    return NW_OK;
}

/* All sequences have `length` elements on their axis. */
static nw_status scan_length(const nw_op_call *call, int rank, int64_t dim, int64_t *length) {
    if (rank < 1) return nw_call_fail(call, NW_E_SHAPE, "a sequence must have at least one dimension");
    if (*length < 0) *length = dim;
    if (*length == dim) return NW_OK;
    return nw_call_fail(call, NW_E_SHAPE, "its sequences have different lengths, %" PRId64 " and %" PRId64,
                        *length, dim);
}

static nw_status scan_run_9(const nw_op_call *call, nw_tensor *results) {
    scan s;
    const int64_t *axes, *out_axes, *out_backwards;
    NW_TRY(read_scan(call, 0, &s));
    NW_TRY(per_sequence(call, "scan_input_axes", s.sequences, &axes));
    NW_TRY(per_sequence(call, "scan_input_directions", s.sequences, &s.backwards));
    NW_TRY(per_sequence(call, "scan_output_axes", s.collected, &out_axes));
    NW_TRY(per_sequence(call, "scan_output_directions", s.collected, &out_backwards));
    for (int i = 0; i < s.sequences; i++) {
        const nw_tensor *x = &s.sequence[i];
        NW_TRY(nw_call_axis(call, axes ? axes[i] : 0, x->rank, false, &s.axis[i]));
        NW_TRY(scan_length(call, x->rank, x->dims[s.axis[i]], &s.length));
    }
    nw_tensor *finals = nw_arena_array(call->scratch, (size_t)s.states + 1, sizeof *finals);
    pile *piles = nw_arena_array(call->scratch, (size_t)s.collected + 1, sizeof *piles);
    if (!finals || !piles) return NW_E_MEMORY;
    NW_TRY(scan_pass(call, &s, finals, piles));
    for (int i = 0; i < call->out_count; i++) {
        int k = i - s.states;
        if (k < 0)
            results[i] = finals[i];
        else
            NW_TRY(pile_finish(call, &piles[k], &s.body->values[s.body->outputs[i]],
                               out_axes ? out_axes[k] : 0, out_backwards && out_backwards[k], &results[i]));
    }
    return NW_OK;
}

/* Element b of a batch, without copying. */
static nw_tensor batch_item(const nw_tensor *x, int64_t b) {
    nw_tensor item = {.format = x->format, .rank = x->rank - 1};
    for (int d = 1; d < x->rank; d++) item.dims[d - 1] = x->dims[d];
    if (x->data) item.data = (char *)x->data + (size_t)b * nw_tensor_bytes(&item);
    return item;
}

/* Opset 8: everything has a batch axis in front, the sequence axis is 1, and input 0 may give each sequence
 * its length; what is collected beyond it is 0. */
static nw_status scan_run_8(const nw_op_call *call, nw_tensor *results) {
    scan s, one;
    int64_t batch = -1;
    const int64_t *lengths;
    size_t length_count;
    NW_TRY(read_scan(call, 1, &s));
    NW_TRY(nw_call_ints(call, 0, &lengths, &length_count));
    NW_TRY(per_sequence(call, "directions", s.sequences, &s.backwards));
    for (int i = 0; i < s.states + s.sequences; i++) {
        const nw_tensor *x = &s.initial[i];
        NW_TRY(scan_length(call, x->rank, x->dims[0], &batch));
        if (i >= s.states) NW_TRY(scan_length(call, x->rank - 1, x->dims[1], &s.length));
    }
    if (lengths && length_count != (size_t)batch)
        return nw_call_fail(call, NW_E_SHAPE,
                            "sequence_lens must hold one length for each of %" PRId64 " sequences", batch);
    int outputs = s.states + s.collected;
    pile *batches = nw_arena_array(call->scratch, (size_t)outputs + 1, sizeof *batches);
    nw_tensor *items = nw_arena_array(call->scratch, (size_t)(s.states + s.sequences), sizeof *items);
    nw_tensor *finals = nw_arena_array(call->scratch, (size_t)outputs + 1, sizeof *finals);
    if (!batches || !items || !finals) return NW_E_MEMORY;
    for (int64_t b = 0; b < batch; b++) {
        pile *piles = nw_arena_array(call->scratch, (size_t)s.collected + 1, sizeof *piles);
        if (!piles) return NW_E_MEMORY;
        for (int i = 0; i < s.states + s.sequences; i++) items[i] = batch_item(&s.initial[i], b);
        one = s;
        one.initial = items;
        one.sequence = items + s.states;
        if (lengths) one.length = lengths[b];
        if (one.length < 0 || one.length > s.length)
            return nw_call_fail(call, NW_E_ARGUMENT,
                                "sequence %" PRId64 " has length %" PRId64 ", beyond its %" PRId64 " steps",
                                b, one.length, s.length);
        NW_TRY(scan_pass(call, &one, finals, piles));
        for (int k = 0; k < s.collected; k++) {
            nw_tensor blank = piles[k].element;
            blank.data = NULL;
            while (piles[k].count > 0 && piles[k].count < (size_t)s.length)
                NW_TRY(pile_add(call, &piles[k], &blank));
            NW_TRY(pile_finish(call, &piles[k], &s.body->values[s.body->outputs[s.states + k]], 0, false,
                               &finals[s.states + k]));
        }
        for (int i = 0; i < outputs; i++) NW_TRY(pile_add(call, &batches[i], &finals[i]));
    }
    for (int i = 0; i < call->out_count; i++)
        NW_TRY(pile_finish(call, &batches[i], &s.body->values[s.body->outputs[i]], 0, false, &results[i]));
    return NW_OK;
}

static nw_status scan_run(const nw_op_call *call, nw_tensor *results) {
    return call->version >= 9 ? scan_run_9(call, results) : scan_run_8(call, results);
}

static nw_status scan_infer(nw_op_call *call) {
    return control_infer(call, scan_run);
}
static nw_status scan_eval(nw_op_call *call) {
    return control_eval(call, scan_run);
}

const nw_op nw_op_Scan = {
    .name = "Scan", .domain = "", .flags = NW_OP_RAW, .infer = scan_infer, .eval = scan_eval};
