# harness.sh: what the tests of the command share; they source it. They run in an empty folder of their own ($work), with a
# folder out/ for what must leave no file behind, and count. NARROW_BUILD_DIR: the build (default build/release).
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
root=$PWD
narrow=${NARROW_BUILD_DIR:-$root/build/release}/narrow
letters=$root/examples/letters
model=$letters/letters.onnx
preprocess=scale=1/255,mean=0.5,std=0.5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/out"
cd "$work" || exit 1
passed=0 failed=0 skipped=0

good() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED cli $1: $2"
    [ ! -s stderr ] || sed 's/^/    /' stderr
}

# skip NAME REASON
skip() {
    skipped=$((skipped + 1))
    echo "SKIPPED $1: $2"
}

# works NAME PATTERN ARGUMENT…: exit 0, nothing on stderr, PATTERN (extended, any case) somewhere on stdout.
works() {
    local name=$1 pattern=$2 code
    shift 2
    timeout 120 "$narrow" "$@" >stdout 2>stderr </dev/null
    code=$?
    if [ $code != 0 ]; then bad "$name" "exit $code"
    elif [ -s stderr ]; then bad "$name" "it says something on stderr"
    elif ! grep -qiE -- "$pattern" stdout; then bad "$name" "its output does not show \"$pattern\""
    else good; fi
}

# fails NAME CODE PATTERN ARGUMENT…: that exit code, one line "narrow: …" on stderr that fits PATTERN (a wrong command line
# may add how to get help), no file in out/.
fails() {
    local name=$1 want=$2 pattern=$3 code
    shift 3
    timeout 120 "$narrow" "$@" >stdout 2>stderr </dev/null
    code=$?
    if [ $code != "$want" ]; then bad "$name" "exit $code, not $want"
    elif [ "$(grep -c '^narrow: ' stderr)" != 1 ]; then bad "$name" "not one line \"narrow: …\" on stderr"
    elif [ "$want" = 1 ] && [ "$(wc -l <stderr)" != 1 ]; then bad "$name" "more than one line on stderr"
    elif ! grep -qiE -- "$pattern" stderr; then bad "$name" "the message does not say \"$pattern\""
    elif [ -n "$(ls -A out)" ]; then bad "$name" "it leaves $(ls -A out)"
    else good; fi
    rm -rf out && mkdir out
}

# npy FILE DTYPE SHAPE BYTES: a NumPy file of zeros.
npy() {
    local header="{'descr': '$2', 'fortran_order': False, 'shape': $3, }"
    printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" >"$1"
    head -c "$4" /dev/zero >>"$1"
}

# number FILE KEY: the last value of "KEY":… in a JSON file.
number() { grep -oE "\"$2\":[[:space:]]*[0-9.eE+-]+" "$1" | tail -n 1 | grep -oE '[0-9.eE+-]+$'; }
# at_least NAME X Y
at_least() {
    if awk -v x="${2:-0}" -v y="$3" 'BEGIN { exit !(x >= y) }'; then good; else bad "$1" "${2:-nothing} is below $3"; fi
}
same_file() { if cmp -s "$2" "$3"; then good; else bad "$1" "$2 and $3 differ"; fi; }

# killed_and_resumed NAME ARGUMENT…: a training without an end disturbed (first.onnx), and the same again with kills after random
# parts of the time that it took, which must give the same bits and the same log. What ends before its first kill begins anew.
killed_and_resumed() {
    local name=$1 before takes killed=0 log
    shift
    rm -f state resumed.jsonl
    before=$(date +%s%N)
    works "$name" '' "$@" -o first.onnx --log first.jsonl
    takes=$((($(date +%s%N) - before) / 1000000)) # ms
    for _ in $(seq 1 60); do
        "$narrow" "$@" -o resumed.onnx --checkpoint state --checkpoint-every 5 --resume --log resumed.jsonl -q 2>stderr &
        before=$((takes * (RANDOM % 80 + 10) / 100))
        sleep "$((before / 1000)).$(printf %03d $((before % 1000)))"
        if kill -9 $! 2>/dev/null; then killed=$((killed + 1)); fi
        if wait $! 2>/dev/null; then
            [ $killed = 0 ] || break
            rm -f state
        fi
        [ $killed -lt ${KILLS:-4} ] || break
    done
    works "$name, resumed to the end" '' "$@" -o resumed.onnx --checkpoint state --checkpoint-every 5 --resume --log resumed.jsonl
    at_least "$name, killed on the way" $killed 1
    same_file "$name, resumed after $killed kills" first.onnx resumed.onnx
    for log in first resumed; do sed 's/,"images_per_second":[^,}]*//' $log.jsonl >$log.log; done
    same_file "$name, the log of a resumed training" first.log resumed.log
}
