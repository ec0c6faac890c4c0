#!/bin/sh
# train.sh [OUT]: trains the letters network from nothing with narrow itself (make builds it), in a few minutes on one processor,
# and writes letters.onnx. BatchNormalization stays in the file on purpose, to be folded by the quantizer. The same build on the
# same kind of processor gives the same bytes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
narrow=${NARROW:-$here/../../build/release/narrow}
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
"$narrow" new letters --input 1x28x28 --classes 26 --seed 1 -o "$fresh" --quiet
"$narrow" train "$fresh" --data "$here" --preprocess scale=1/255,mean=0.5,std=0.5 --epochs 20 --optimizer adamw --lr 0.004 \
    --weight-decay 0.02 --schedule cosine --warmup 200 --label-smoothing 0.05 --augment crop=2,noise=0.05 --seed 1 --threads 1 \
    -o "${1:-$here/letters.onnx}"
