#!/bin/sh
# run.sh [OPTION…]: the speed of narrow and of other runtimes on the same machine, as ratios. Options are those of
# bench/bench.py; these variables say the same (make bench MODELS="resnet50 lenet" ROUNDS=3):
#   MODELS    the workloads (default: all)        THREADS  "1 2": the thread counts
#   ROUNDS    processes per contestant (5)        SECONDS_EACH  timed seconds per process (1)
#   QUICK=1   one short round, one thread         CROSS=1  also narrow and onnxruntime on each other's int8 file
#   KERNELS   yes, no, or only                    LEAST=1  least times: for a machine that is not idle
set -eu
cd "$(dirname "$0")/.."
bench/setup.sh
exec build/.venv-bench/bin/python -B bench/bench.py ${MODELS:+--models $MODELS} ${ROUNDS:+--rounds "$ROUNDS"} \
    ${THREADS:+--threads $THREADS} ${SECONDS_EACH:+--seconds "$SECONDS_EACH"} ${KERNELS:+--kernels "$KERNELS"} \
    ${QUICK:+--quick} ${CROSS:+--cross} ${LEAST:+--least} "$@"
