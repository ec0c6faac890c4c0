#!/bin/sh
# check-layers.sh [ROOT]: fails when a folder of src/ includes one that does not stand left of it (docs/ARCHITECTURE.md):
#   base ← num ← {kern | ir} ← op ← {onnx | run | data} ← {quant | train} ← report ← api ← cli
# Folders in braces are siblings and never include each other. The command includes nothing but narrow/narrow.h.
set -eu
cd "${1:-$(dirname "$0")/..}"

grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' src cli --include='*.[ch]' --include='*.def' | awk -F: '
BEGIN {
    split("base num kern,ir op onnx,run,data quant,train report api", steps, " ")
    for (s = 1; s in steps; s++) {
        n = split(steps[s], names, ",")
        for (i = 1; i <= n; i++) level[names[i]] = s
    }
}
{
    split($1, path, "/")
    match($3, /["<][^">]*[">]/)
    header = substr($3, RSTART + 1, RLENGTH - 2)
    checked++
    wrong = ""
    split(header, to, "/")
    if (header !~ /\//) next                                         # beside the including file
    if ($3 ~ /</ && !(to[1] in level) && to[1] != "narrow") next     # of the system
    if (path[1] == "cli") {
        if (header != "narrow/narrow.h" && to[1] != "cli") wrong = "the command includes narrow/narrow.h only"
    } else if (header ~ /^narrow\//) {
        if (path[2] != "api") wrong = "only api/ knows the public header"
    } else if (!(to[1] in level)) {
        wrong = "unknown folder"
    } else if (!(path[2] in level)) {
        wrong = "src/" path[2] " has no place in the order of layers (tools/check-layers.sh)"
    } else if (to[1] != path[2] && level[to[1]] >= level[path[2]]) {
        wrong = path[2] "/ must not include " to[1] "/"
    }
    if (wrong != "") {
        printf "%s:%s: \"%s\": %s\n", $1, $2, header, wrong
        bad++
    }
}
END {
    if (checked == 0) { print "no includes found"; bad = 1 }
    printf "layers: %d passed, %d failed\n", checked - bad, bad
    exit bad > 0
}'
