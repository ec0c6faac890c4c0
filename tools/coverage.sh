#!/bin/sh
# coverage.sh: line coverage of unit tests, kernel checks, conformance, golden, command line and accuracy, as HTML in
# build/coverage/report.
set -eu
cd "$(dirname "$0")/.."
tools/build.sh coverage
find build/coverage -name '*.gcda' -delete
NARROW_BUILD=coverage tests/run.sh --only unit,kernels,conformance,golden,cli,train,accuracy || true
lcov --quiet --capture --directory build/coverage --output-file build/coverage/all.info
lcov --quiet --extract build/coverage/all.info "$PWD/src/*" "$PWD/cli/*" --output-file build/coverage/narrow.info
genhtml --quiet build/coverage/narrow.info --output-directory build/coverage/report
lcov --summary build/coverage/narrow.info
echo "report: build/coverage/report/index.html"
