#!/bin/sh
# tidy.sh [FILE…]: clang-tidy (.clang-tidy) over the sources of the library and the command, or over the given files.
set -eu
cd "$(dirname "$0")/.."
tools/build.sh clang
[ $# -gt 0 ] || set -- $(find src cli -name '*.c' | sort)
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/clang --quiet 2>/dev/null
