/* recipe.h: recipes: how a model is to be quantized, as text of one setting per line (settings.def; docs/recipes.md has the
 * grammar), and presets, which are recipes that have a name.
 * Must not include anything but base/, num/, kern/, ir/, op/, run/, data/ and quant/. */
#ifndef NW_QUANT_RECIPE_H
#define NW_QUANT_RECIPE_H

#include "quant/quant.h"

/* Changes *options by what a recipe says; its rules come behind those that are there. source: what to call the text in
 * messages, which name its line. What the options point to is in `arena`. NW_E_ARGUMENT: something in it makes no sense. */
nw_status nw_recipe_read(nw_arena *arena, const char *source, const char *text, size_t size,
                         nw_quant_options *options);
/* The same of a preset (presets.def), or else of the file of this path. */
nw_status nw_recipe_load(nw_arena *arena, const char *preset_or_path, nw_quant_options *options);
/* Puts a rule behind the others: its patterns and source are not copied. */
nw_status nw_recipe_add_rule(nw_arena *arena, const nw_quant_rule *rule, nw_quant_options *options);

/* The recipe that makes these options out of the default ones; control characters in patterns become ?. NULL when memory
 * runs out. */
char *nw_recipe_print(nw_arena *arena, const nw_quant_options *options);

/* Called with each setting of a text: the layers it is about as they stand in its brackets ("" for all), its name, its
 * value. Texts are valid during the call. Settings are not checked; stops at a line that is none (NW_E_ARGUMENT). */
typedef void nw_recipe_setting_fn(void *user, const char *layers, const char *name, const char *value);
nw_status nw_recipe_walk(nw_context *ctx, const char *text, nw_recipe_setting_fn *fn, void *user);

const char *nw_preset_words(void);            /* "w8a8|w8a8-dynamic|…" */
const char *nw_preset_text(const char *name); /* NULL: there is none */

/* Where a model's file keeps the recipe it was quantized by. */
#define NW_RECIPE_PROPERTY "ai.narrow.recipe"

#endif
