#!/bin/sh
# demo.sh: the main job on the example in the repository (examples/letters): look at a trained network, make an int8 one out
# of it with calibration on real images, compare the two on images neither has seen. Prints each command before it runs.
set -eu
cd "$(dirname "$0")/.."
out=build/demo
mkdir -p $out
model=examples/letters/letters.onnx
preprocess=scale=1/255,mean=0.5,std=0.5

run() {
    printf '\n$ narrow %s\n' "$*"
    build/release/narrow "$@"
}

run info $model
run eval $model --data examples/letters:test --preprocess $preprocess
run quantize $model -o $out/letters-int8.onnx --calibrate examples/letters:train --samples 500 --preprocess $preprocess
run compare $model $out/letters-int8.onnx --data examples/letters:test --preprocess $preprocess
printf '\nThe int8 model is %s; it loads in onnxruntime too.\n' $out/letters-int8.onnx
