#!/bin/sh
# setup.sh [export]: what the benchmark needs besides narrow: the peers in the Python environment build/.venv-bench (exactly
# the packages of bench/requirements.txt); with `export`, Debian's torch and torchvision too, which write the models. Says
# nothing and does nothing when all is there.
set -eu
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# say_or_die WHAT COMMAND…: runs it quietly; its output is shown when it fails.
say_or_die() {
    echo "setup: installing $1" >&2
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "setup: that failed (see above)" >&2
        exit 1
    fi
}

apt_install() {
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

make_venv() {
    rm -rf build/.venv-bench
    /usr/bin/python3 -m venv build/.venv-bench
    build/.venv-bench/bin/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
    cp bench/requirements.txt build/.venv-bench/
}

if ! /usr/bin/python3 -m venv --help >/dev/null 2>&1 || ! /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then
    say_or_die python3-venv apt_install python3 python3-venv
fi
if ! cmp -s bench/requirements.txt build/.venv-bench/requirements.txt; then
    say_or_die "onnxruntime and openvino into build/.venv-bench" make_venv
fi
if [ "${1:-}" = export ] && ! /usr/bin/python3 -c 'import torch, torchvision' 2>/dev/null; then
    say_or_die "python3-torch python3-torchvision" apt_install python3-torch python3-torchvision
fi
