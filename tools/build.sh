#!/bin/sh
# build.sh PRESET…: configures (once) and builds presets of CMakePresets.json, quietly unless something is wrong.
set -eu
cd "$(dirname "$0")/.."
for preset in "$@"; do
    mkdir -p "build/$preset"
    log=build/$preset/build.log
    if ! { [ -f "build/$preset/build.ninja" ] || cmake --preset "$preset"; } >"$log" 2>&1 ||
        ! cmake --build "build/$preset" >>"$log" 2>&1; then
        grep -E -m1 -A40 'error|Error|FAILED' "$log" >&2 || tail -n 40 "$log" >&2
        echo "build: $preset failed; the whole output is in $log" >&2
        exit 1
    fi
done
