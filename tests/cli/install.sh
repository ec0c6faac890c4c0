#!/bin/bash
# install.sh: installs into an empty folder and uses what is there as a stranger would: the command, the manual, the
# completions, and the library from C through pkg-config and through CMake. NARROW_BUILD_DIR: the build.
set -u
cd "$(dirname "$0")/../.."
root=$PWD
build=${NARROW_BUILD_DIR:-$root/build/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# step NAME COMMAND…: counts; shows the output of what fails.
step() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED install $name"
        tail -n 15 "$work/log" | sed 's/^/    /'
    fi
}

there() {
    local file
    for file in "$@"; do
        [ -s "$work/usr/$file" ] || { echo "no $file"; return 1; }
    done
}

with_pkg_config() {
    local flags
    export PKG_CONFIG_PATH=$work/usr/$libdir/pkgconfig
    pkg-config --modversion narrow && flags=$(pkg-config --cflags --libs narrow) || return 1
    for source in "$root"/examples/c_api/*.c; do
        cc -std=c17 -Wall -Wextra -Werror "$source" -o "$work/$(basename "$source" .c)" $flags -lm || return 1
    done
}

with_cmake() {
    mkdir -p "$work/project/build"
    cat >"$work/project/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.25)
project(stranger C)
find_package(narrow REQUIRED)
add_executable(stranger $root/examples/c_api/run.c)
target_link_libraries(stranger narrow::narrow m)
EOF
    cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$work/usr" && cmake --build "$work/project/build"
}

from_cpp() {
    printf '#include <narrow/narrow.h>\nint main() { return 0; }\n' >"$work/x.cpp"
    c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I "$work/usr/include" "$work/x.cpp"
}

# Nothing but nw_… is visible to other programs.
only_our_symbols() {
    local others
    others=$(nm -D --defined-only "$work/usr/$libdir/libnarrow.so" | awk '{print $3}' | grep -v '^nw_')
    [ -z "$others" ] || { echo "$others"; return 1; }
}

# Long words that cannot be broken are no mistake.
manual() {
    ! groff -man -Tutf8 -ww "$work/usr/share/man/man1/narrow.1" 2>&1 >/dev/null | grep -v "can't break line"
}

run_examples() {
    export LD_LIBRARY_PATH=$work/usr/$libdir
    local letters=$root/examples/letters
    "$work/quantize" "$letters/letters.onnx" "$letters" scale=1/255,mean=0.5,std=0.5 "$work/small.onnx" &&
        "$work/run" "$work/small.onnx"
}

step 'cmake --install' cmake --install "$build" --prefix "$work/usr"
libdir=$(cd "$work/usr" && dirname "$(find lib* -name libnarrow.so | head -1)")
step 'files' there bin/narrow include/narrow/narrow.h "$libdir/libnarrow.so" "$libdir/pkgconfig/narrow.pc" share/man/man1/narrow.1 \
    share/bash-completion/completions/narrow share/zsh/site-functions/_narrow share/fish/vendor_completions.d/narrow.fish
step 'the command runs' "$work/usr/bin/narrow" info "$root/examples/letters/letters.onnx"
step 'only nw_ symbols' only_our_symbols
if command -v groff >/dev/null; then step 'the manual' manual; else echo 'SKIPPED the manual: no groff'; fi
step 'pkg-config' with_pkg_config
step 'the examples run' run_examples
step 'CMake package' with_cmake
if command -v c++ >/dev/null; then step 'C++ includes the header' from_cpp; fi
echo "install: $passed passed, $failed failed"
[ $failed = 0 ]
