#!/bin/bash
# run.sh [--long] [--only SUITE,SUITE…]: builds and runs the tests, suite after suite, and adds up what they count. Every
# suite prints lines "NAME: N passed, N failed[, N skipped]" (the last one counts); its whole output is in
# build/test-logs/NAME.log. The last line is the sum; the exit code says whether anything failed.
#   NARROW_DATA   real models and data (default ../shared/data); where it is absent, what needs it is skipped by name
#   NARROW_BUILD  the build that unit tests and conformance use instead of their own (coverage)
set -u
cd "$(dirname "$0")/.."

long=false
only=""
while [ $# -gt 0 ]; do
    case $1 in
    --long) long=true ;;
    --only)
        only=",$2,"
        shift
        ;;
    *)
        sed -n 's/^# //p' "$0" | head -5 >&2
        exit 2
        ;;
    esac
    shift
done

export NARROW_DATA=${NARROW_DATA:-$PWD/../shared/data}
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONDONTWRITEBYTECODE=1
release=build/${NARROW_BUILD:-release}
debug=build/${NARROW_BUILD:-debug}
export NARROW_BUILD_DIR=$PWD/$release NARROW_DEBUG_DIR=$PWD/$debug
python=.venv/bin/python
logs=build/test-logs
mkdir -p "$logs"

passed=0 failed=0 skipped=0

# suite NAME COMMAND…: runs it, unless --only leaves it out, and counts.
suite() {
    local name=$1 log=$logs/$1.log start=$SECONDS line p=0 f=0 s=0 code
    shift
    if [ -n "$only" ] && [[ $only != *",$name,"* ]]; then return; fi
    "$@" >"$log" 2>&1
    code=$?
    line=$(grep -aoE '[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?' "$log" | tail -1)
    if [ -n "$line" ]; then
        read -r p f s <<<"$(tr -dc '0-9 ' <<<"$line")"
    fi
    if [ -z "$line" ] || { [ $code -ne 0 ] && [ "$f" -eq 0 ]; }; then # it died, or says less than its exit code
        f=$((f + 1))
        tail -n 15 "$log"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
    grep -a '^FAILED' "$log" | head -12
    if [ "$f" -gt 12 ]; then echo "       … and more: $log"; fi
    grep -a '^SKIPPED' "$log"
    printf '%-12s %6d passed %4d failed %4d skipped %5d s\n' "$name" "$p" "$f" "${s:-0}" $((SECONDS - start))
}

skip() {
    if [ -n "$only" ] && [[ $only != *",$1,"* ]]; then return; fi
    echo "SKIPPED $1: $2"
    skipped=$((skipped + 1))
}

build() {
    local preset done=0 bad=0
    for preset in "$@"; do
        if tools/build.sh "$preset"; then done=$((done + 1)); else bad=$((bad + 1)); fi
    done
    echo "build: $done passed, $bad failed"
    [ $bad = 0 ]
}

# Programs of cmocka: what each says in "[  PASSED  ] N test(s)" and "[  FAILED  ] N test(s)".
unit() {
    local program out p=0 f=0 code good bad
    for program in "$debug"/unit/test_*; do
        out=$(timeout 300 "$program" 2>&1)
        code=$?
        good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' <<<"$out")
        bad=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test.*/\1/p' <<<"$out")
        [ $code = 0 ] || bad=${bad:-1}
        p=$((p + ${good:-0})) f=$((f + ${bad:-0}))
        echo "$(basename "$program"): ${good:-0} passed, ${bad:-0} failed"
        if [ $code != 0 ]; then
            grep -vE '^\[ (     OK|RUN     )' <<<"$out"
            sed -n "s/^\[  FAILED  \] \([a-z].*\)/FAILED $(basename "$program") \1/p" <<<"$out" | sort -u | grep . ||
                echo "FAILED $(basename "$program"): it ended with code $code"
        fi
    done
    echo "unit: $p passed, $f failed"
    [ $f = 0 ]
}

# Every kernel of every instruction set that runs here, on two seeds, and once more under the sanitizers.
kernels() {
    local run p=0 f=0 line out
    for run in "$release/check --seed 1" "$release/check --seed 2" "$debug/check --seed 3"; do
        out=$(timeout 400 $run 2>&1) || f=$((f + 1))
        line=$(tail -n 1 <<<"$out")
        echo "$run: $line"
        sed -n 's/^FAIL /FAILED /p' <<<"$out"
        p=$((p + $(sed -n 's/^\([0-9]*\) passed.*/\1/p' <<<"$line" | grep . || echo 0)))
    done
    echo "kernels: $p passed, $f failed"
    [ $f = 0 ]
}

# Cross-compiled for 64-bit ARM and run by qemu: every kernel of every instruction set; on processors without the newer
# ones, what is chosen there; and int8 models, whose outputs must have the bytes that they have here.
arm64() {
    local build=build/arm64 cpu level filter p=0 f=0 out line
    if [ "$(uname -m)" = aarch64 ] || ! command -v qemu-aarch64-static >/dev/null ||
        ! command -v aarch64-linux-gnu-gcc >/dev/null ||
        [ ! -f /usr/lib/aarch64-linux-gnu/pkgconfig/libprotobuf-c.pc ]; then
        printf 'SKIPPED arm64: no cross compiler, qemu and libraries (tools/setup.sh arm)\narm64: 0 passed, 0 failed, 1 skipped\n'
        return
    fi
    tools/build.sh arm64 || return 1
    while read -r cpu level filter; do
        out=$(timeout 900 qemu-aarch64-static -cpu "$cpu" $build/check --seed 4 --filter "$filter")
        line=$(tail -n 1 <<<"$out")
        echo "$cpu: $line"
        sed -n "s/^FAIL /FAILED $cpu /p" <<<"$out"
        p=$((p + $(sed -n 's/^\([0-9]*\) passed.*/\1/p' <<<"$line" | grep . || echo 0)))
        if [[ $line != *" 0 failed (up to $level)" ]]; then
            f=$((f + 1))
            echo "FAILED arm64 check on $cpu: $line"
        fi
    done <<<"max neoni8mm
cortex-a76 neondot __neon
cortex-a72 neon __neon"
    out=$(python3 tests/arm/bits.py $build)
    echo "$out"
    line=$(tail -n 1 <<<"$out")
    p=$((p + $(sed -n 's/.*: \([0-9]*\) passed.*/\1/p' <<<"$line" | grep . || echo 0)))
    [[ $line == *" 0 failed"* ]] || f=$((f + 1))
    echo "arm64: $p passed, $f failed"
    [ $f = 0 ]
}

conformance() {
    local tar=$NARROW_DATA/conformance/onnx-backend-tests.tar.xz folder=build/conformance-data
    if [ ! -f "$tar" ]; then
        printf 'SKIPPED conformance: no file %s\nconformance: 0 passed, 0 failed, 1 skipped\n' "$tar"
        return
    fi
    if [ ! -f $folder/complete ]; then
        rm -rf $folder
        mkdir -p $folder
        tar -xJf "$tar" -C $folder && touch $folder/complete || return 1
    fi
    "$release/conformance" $folder --jobs "$(nproc)" --table "$@"
}

golden() {
    "$release/golden" "$NARROW_DATA"
}

with_python() {
    local name=$1
    shift
    if [ ! -x $python ] || ! $python -c 'import onnx, onnxruntime' 2>/dev/null; then
        printf 'SKIPPED %s: no onnxruntime (tools/venv.sh)\n%s: 0 passed, 0 failed, 1 skipped\n' "$name" "$name"
        return
    fi
    $python "$@"
}

# Every file of the corpus through every target, sanitized.
fuzz() {
    local program p=0 f=0 code
    for program in "$debug"/replay_*; do
        timeout 300 "$program" tests/fuzz/corpus/* >"$logs/$(basename "$program").log" 2>&1
        code=$?
        if [ $code = 0 ]; then
            p=$((p + $(ls tests/fuzz/corpus | wc -l)))
        else
            f=$((f + 1))
            echo "FAILED $(basename "$program"): exit $code; see $logs/$(basename "$program").log"
        fi
    done
    echo "fuzz: $p passed, $f failed"
    [ $f = 0 ]
}

suite layers tools/check-layers.sh
if [ -z "${NARROW_BUILD:-}" ]; then suite build build release debug; fi
if [ $failed -gt 0 ]; then
    echo "$passed passed, $failed failed"
    exit 1
fi
suite unit unit
suite kernels kernels
suite conformance conformance
suite golden golden
suite roundtrip with_python roundtrip tests/interop/roundtrip.py build/conformance-data
suite cli tests/cli/run.sh
suite train tests/cli/train.sh
suite qat tests/cli/qat.sh
suite install tests/cli/install.sh
suite accuracy python3 tests/accuracy/accuracy.py $($long && echo --all)
suite formats with_python formats tests/interop/formats.py
suite pruned with_python pruned tests/interop/pruned.py
suite doctor with_python doctor tests/interop/doctor.py $($long && echo --all)
suite statistics with_python statistics tests/interop/statistics.py
suite nbits with_python nbits tests/interop/nbits.py
suite qoperators with_python qoperators tests/interop/qoperators.py
suite qat-interop with_python qat-interop tests/interop/qat.py
suite interop with_python interop tests/interop/quantized.py $($long && echo --all)
suite fuzz fuzz
suite mutated with_python mutated tests/interop/mutated.py $($long && echo --all)
suite clang build clang
suite arm64 arm64
if $long; then
    for isa in scalar avx2; do suite "conformance-$isa" conformance --isa $isa; done
    suite conformance-debug env NARROW_BUILD_DIR="$PWD/$debug" "$debug/conformance" build/conformance-data --limit 600
    suite arm64-golden qemu-aarch64-static build/arm64/golden "$NARROW_DATA"
    suite large with_python large tests/interop/large.py
    suite fuzzing tools/fuzz.sh 120
fi

echo
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed = 0 ]
