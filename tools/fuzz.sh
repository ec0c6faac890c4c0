#!/bin/sh
# fuzz.sh [SECONDS]: runs every libFuzzer target that long (default FUZZ_SECONDS or 60). New inputs gather below build/fuzz;
# a crash is kept there as a file; add it to tests/fuzz/corpus when it is fixed.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-${FUZZ_SECONDS:-60}}
tools/build.sh fuzz
failed=0
passed=0
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    seeds=tests/fuzz/corpus
    found=build/fuzz/found-$name
    mkdir -p "$found"
    echo "fuzz: $name for $seconds s"
    if ASAN_OPTIONS=allocator_may_return_null=1 "build/fuzz/$name" -max_total_time="$seconds" -max_len=65536 -timeout=20 \
        -rss_limit_mb=2048 -artifact_prefix="build/fuzz/$name-" -print_final_stats=1 "$found" "$seeds" \
        >"build/fuzz/$name.log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        tail -n 40 "build/fuzz/$name.log"
    fi
    grep -E 'stat::(number_of_executed_units|average_exec_per_sec)' "build/fuzz/$name.log" || true
done
echo "fuzz: $passed passed, $failed failed"
[ "$failed" = 0 ]
