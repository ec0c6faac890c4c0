#!/bin/sh
# setup.sh [build|test|arm]: installs the Debian packages that are missing: `build` for the library and the command, `test`
# for the tests too, `arm` to build for 64-bit ARM on another machine and run it, for which arm64 becomes a foreign
# architecture of dpkg. `test` tries `arm` too and goes on without. Says nothing and does nothing when all are there.
set -eu

build="cmake ninja-build gcc libc6-dev make pkg-config protobuf-c-compiler libprotobuf-c-dev libonnx-dev
       libspng-dev libturbojpeg0-dev libzip-dev libcjson-dev zlib1g-dev"
test="$build libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev lcov python3 python3-venv xz-utils
      zsh fish groff-base"
arm="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static libprotobuf-c-dev:arm64 libspng-dev:arm64
     libturbojpeg0-dev:arm64 libzip-dev:arm64 libcjson-dev:arm64 zlib1g-dev:arm64 libcmocka-dev:arm64"

case ${1:-test} in
build) wanted=$build ;;
test)
    wanted=$test
    "$0" arm || echo "setup: no packages for 64-bit ARM; its tests will be skipped" >&2
    ;;
arm) wanted=$arm ;;
*)
    echo "usage: tools/setup.sh [build|test|arm]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
    # Somebody else's system: what the build needs may be there under other names, and CMake says what is not.
    if command -v cmake >/dev/null 2>&1 && command -v ninja >/dev/null 2>&1; then exit 0; fi
    echo "setup: this is not Debian. Install the equivalents of:" $wanted >&2
    exit 1
fi

if [ "${1:-test}" = arm ] && [ "$(dpkg --print-architecture)" = arm64 ]; then exit 0; fi

# A name stands for every architecture that has the package: only the machine's own counts, unless another is named.
native=$(dpkg --print-architecture)
missing=""
for package in $wanted; do
    case $package in *:*) architecture=${package#*:} ;; *) architecture=$native ;; esac
    dpkg-query -W -f '${Architecture} ${Status}\n' "$package" 2>/dev/null |
        grep -Eq "^($architecture|all) install ok installed$" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: these packages are missing; install them as root: apt-get install$missing" >&2
        exit 1
    fi
    sudo="sudo"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "setup: installing$missing"
case $missing in
*:arm64*) $sudo dpkg --add-architecture arm64 ;;
esac
if ! { $sudo apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: installing the packages failed (see above)" >&2
    exit 1
fi
