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
