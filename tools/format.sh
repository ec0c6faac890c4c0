#!/bin/sh
# format.sh [--check]: clang-format over the sources, in place, or only reporting.
set -eu
cd "$(dirname "$0")/.."
mode="-i"
[ "${1:-}" != "--check" ] || mode="--dry-run --Werror"
find src cli tests include examples bench -name '*.[ch]' -print0 | xargs -0 -r clang-format $mode
