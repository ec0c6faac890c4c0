/* doctor.c: what another runtime will make of a model, node by node. */
#include "api/api.h"
#include "onnx/target.h"

#include <string.h>

static const char *fate_name(nw_fate fate) {
    static const char *const names[] = {"part", "integer", "codes", "float"};
    return names[fate];
}

static void write_nodes(nw_record *r, const nw_graph *g, const nw_verdict *verdicts) {
    nw_record_list(r, "layers", "Nodes", NW_LAYOUT_DETAILS);
    for (int n = 0; n < g->node_count; n++) {
        const nw_verdict *v = &verdicts[n];
        if (v->fate == NW_FATE_PART) continue;
        nw_record *item = nw_record_item(r, "layers", "Nodes", NW_LAYOUT_DETAILS);
        nw_record_text(item, "name", "node", nw_node_label(g, &g->nodes[n]));
        nw_record_text(item, "op", "operator", g->nodes[n].op_type);
        nw_record_text(item, "runs_in", "runs in", fate_name(v->fate));
        nw_record_text(item, "kernel", "as", v->kernel ? v->kernel : "");
        nw_record_text(item, "reason", "why", v->reason ? v->reason : "");
        nw_record_text(item, "advice", NULL, v->advice ? v->advice : "");
    }
}

/* Reasons name tensors; what they have in common stands before the first quotation mark, and behind the second. */
static bool alike(const nw_graph *g, const nw_verdict *verdicts, int a, int b) {
    if (verdicts[b].fate != verdicts[a].fate || strcmp(g->nodes[a].op_type, g->nodes[b].op_type) != 0)
        return false;
    if (verdicts[a].fate != NW_FATE_FLOAT) return true;
    const char *x = verdicts[a].reason, *y = verdicts[b].reason;
    size_t m = strcspn(x, "\""), n = strcspn(y, "\"");
    const char *rest_x = strrchr(x, '"'), *rest_y = strrchr(y, '"');
    return m == n && memcmp(x, y, m) == 0 && strcmp(rest_x ? rest_x : "", rest_y ? rest_y : "") == 0;
}

/* One row for all nodes of one operator and fate. */
static void write_groups(nw_record *r, const nw_graph *g, const nw_verdict *verdicts, nw_fate fate,
                         const char *title) {
    for (int n = 0; n < g->node_count; n++) {
        if (verdicts[n].fate != fate) continue;
        size_t count = 0;
        bool first = true;
        for (int k = 0; k < g->node_count && first; k++) {
            if (!alike(g, verdicts, n, k)) continue;
            first = k >= n;
            count++;
        }
        if (!first) continue;
        nw_record *item = nw_record_item(r, NULL, title, NW_LAYOUT_ROWS);
        nw_record_number(item, NULL, "nodes", NW_UNIT_COUNT, (double)count);
        nw_record_text(item, NULL, "operator", g->nodes[n].op_type);
        nw_record_textf(item, NULL, "named", "%s%s", nw_node_label(g, &g->nodes[n]), count > 1 ? ", …" : "");
        if (verdicts[n].kernel) nw_record_text(item, NULL, "as", verdicts[n].kernel);
        if (fate != NW_FATE_FLOAT) continue;
        nw_record_text(item, NULL, "why", verdicts[n].reason);
        nw_record_text(item, NULL, "what helps", verdicts[n].advice ? verdicts[n].advice : "–");
    }
}

static nw_status examine(const nw_model *model, nw_target target, nw_arena *arena, nw_record *r) {
    const nw_graph *g = model->graph;
    nw_verdict *verdicts = nw_arena_array(arena, (size_t)g->node_count, sizeof *verdicts);
    const char *refused;
    size_t counts[4] = {0};
    if (!verdicts) return NW_E_MEMORY;
    NW_TRY(nw_target_judge(g, target, arena, verdicts));
    NW_TRY(nw_target_refuses(g, target, arena, &refused));
    for (int n = 0; n < g->node_count; n++) counts[verdicts[n].fate]++;
    nw_record_text(r, "model", "model", model->path);
    nw_record_text(r, "target", "target", nw_target_name(target));
    nw_record_flag(r, "loads", NULL, refused == NULL);
    nw_record_text(r, "refused", refused ? "does not load" : NULL, refused ? refused : "");
    nw_record_number(r, "nodes_integer", "on integers", NW_UNIT_COUNT, (double)counts[NW_FATE_INTEGER]);
    nw_record_number(r, "nodes_codes", "passing codes on", NW_UNIT_COUNT, (double)counts[NW_FATE_CODES]);
    nw_record_number(r, "nodes_float", "in float", NW_UNIT_COUNT, (double)counts[NW_FATE_FLOAT]);
    write_groups(r, g, verdicts, NW_FATE_INTEGER, "On integers");
    write_groups(r, g, verdicts, NW_FATE_CODES, "Passing codes on");
    write_groups(r, g, verdicts, NW_FATE_FLOAT, "In float");
    write_nodes(r, g, verdicts);
    return NW_OK;
}

nw_result nw_model_diagnose(const nw_model *model, const char *target, nw_report **report) {
    if (!model || !report)
        return nw_misuse(model ? model->env : NULL, "nw_model_diagnose: an argument is missing");
    nw_env *env = model->env;
    nw_report *made = NULL;
    int index;
    nw_status status = nw_env_word(env, "target", target, NW_WORDS_TARGET, &index);
    if (status == NW_OK) status = nw_report_new(env, "doctor", &made);
    if (status != NW_OK) return nw_result_of(status);
    nw_arena arena;
    nw_arena_init(&arena, &env->ctx);
    status = examine(model, (nw_target)index, &arena, &made->sheet->root);
    nw_arena_free(&arena);
    return nw_report_finish(made, status, report);
}
