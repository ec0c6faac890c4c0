#!/bin/sh
# demo.sh: the main jobs on the example in the repository (examples/letters): train a network (here for a minute only), make an int8
# one and a 4-bit one out of the finished network, with calibration and training on real images, and compare them on images none of
# them has seen. Prints each command before it runs.
set -eu
cd "$(dirname "$0")/.."
out=build/demo
mkdir -p $out
letters=examples/letters
model=$letters/letters.onnx
preprocess=scale=1/255,mean=0.5,std=0.5

run() {
    printf '\n$ narrow %s\n' "$*"
    build/release/narrow "$@"
}

run new letters --input 1x28x28 --classes 26 -o $out/fresh.onnx --quiet
run train $out/fresh.onnx --data $letters --preprocess $preprocess --optimizer adam --lr 0.003 --epochs 2 --samples 4000 -o $out/young.onnx
printf '\n%s had more time (%s/train.sh).\n' $model $letters
run quantize $model -o $out/letters-int8.onnx --calibrate $letters:train --samples 500 --preprocess $preprocess
run train $model --qat w4a4 --teacher $model --distill-weight 0.9 --data $letters --preprocess $preprocess --augment crop=1 \
    --optimizer adam --lr 0.0003 --schedule cosine --epochs 2 -o $out/letters-w4a4.onnx
run compare $model $out/letters-int8.onnx $out/letters-w4a4.onnx --data $letters:test --preprocess $preprocess
printf '\nThe int8 model is %s; it loads in onnxruntime too.\n' $out/letters-int8.onnx
