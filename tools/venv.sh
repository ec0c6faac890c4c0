#!/bin/sh
# venv.sh: the Python environment .venv that the interop tests and the benchmarks use (the program itself needs no Python):
# exactly the packages of tools/requirements.txt. Does nothing when it is up to date; without a network it warns, and the
# tests that need it are skipped by name.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/requirements.txt
if cmp -s tools/requirements.txt "$stamp" 2>/dev/null; then exit 0; fi
python=/usr/bin/python3
[ -x "$python" ] || python=python3
echo "venv: installing onnx, onnxruntime and tensorboard into .venv"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if { rm -rf .venv && "$python" -m venv .venv &&
    .venv/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt; } >"$log" 2>&1; then
    cp tools/requirements.txt "$stamp"
else
    tail -n 5 "$log" >&2
    echo "venv: .venv could not be made: the tests that compare with onnxruntime will be skipped" >&2
fi
