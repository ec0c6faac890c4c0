#!/bin/bash
# qat.sh: quantization-aware training as a user meets it: it brings back what few bits cost, the file is what training said it
# was, the same bits come again, also after kill -9 in any stage; what is refused.
set -u
. "$(dirname "$0")/harness.sh"
data=(--data "$letters:train" --test "$letters:test" --preprocess "$preprocess" --threads 2 --test-samples 1000)
test=(--data "$letters:test" --preprocess "$preprocess" --samples 1000 --no-latency)

# as_said NAME MODEL REPORT: eval of the file gives the accuracy that training reported.
as_said() {
    works "$1, evaluated" '' eval "$2" "${test[@]}" --json eval.json
    [ -n "$(number eval.json top1)" ] && [ "$(number eval.json top1)" = "$(number "$3" test_accuracy)" ] && good ||
        bad "$1" "eval says $(number eval.json top1), training said $(number "$3" test_accuracy)"
}

# ---- presets and recipes
works 'float' '' eval "$model" "${test[@]}" --json float.json
works 'quantized afterwards' '' quantize "$model" -o after.onnx --recipe w2a4 -c "$letters:train" --samples 200 \
    --preprocess "$preprocess"
works 'its accuracy' '' eval after.onnx "${test[@]}" --json after.json
works 'w2a4' 'test 9[0-9]' train "$model" "${data[@]}" --qat w2a4 --samples 2000 --epochs 2 --batch 32 --lr 0.002 \
    -o w2a4.onnx --json w2a4.json
as_said w2a4 w2a4.onnx w2a4.json
at_least 'training brings back what 2 bits cost' "$(number w2a4.json test_accuracy)" \
    "$(awk -v x="$(number after.json top1)" 'BEGIN { print x + 0.02 }')"
works 'the file tells its recipe' 'range\(-2:1\)' info w2a4.onnx
at_least 'it is as small' "$(stat -c %s after.onnx)" $(($(stat -c %s w2a4.onnx) * 9 / 10))
printf 'mode weights\nweights ternary:64@f16\n[@first @last]\nweights s8\n' >ternary.recipe
works 'a recipe file' 'test 9[0-9]' train "$model" "${data[@]}" --qat ternary.recipe --samples 2000 --epochs 1 --batch 32 \
    --optimizer adam --lr 0.0005 -o ternary.onnx --json ternary.json
as_said 'a recipe file' ternary.onnx ternary.json
works 'scales as measured' '' train "$model" "${data[@]}" --qat w4a4 --samples 320 --epochs 1 --batch 32 --scale-lr 0 \
    -o fixed.onnx --json fixed.json
as_said 'scales as measured' fixed.onnx fixed.json

# ---- without labels: the float model teaches
npy unlabelled.npy '<f4' '(64, 1, 28, 28)' $((64 * 3136))
works 'no labels' 'loss [0-9.]+, [0-9]+ images' train "$model" --data unlabelled.npy --qat w4a4 --epochs 2 --batch 16 \
    --calibrate unlabelled.npy -o taught.onnx

# ---- stages; killed at any moment
staged=(train "$model" "${data[@]}" --qat w4a4 --qat-stages float,8 --freeze-scales 1 --samples 320 --epochs 5 --batch 32
    --test-samples 100 --lr 0.001 --log-every 1)
killed_and_resumed 'training in stages' "${staged[@]}"
works 'other stages' '' "${staged[@]}" --qat-stages 8:2 -o other.onnx
if cmp -s first.onnx other.onnx; then bad 'other stages' 'the same weights'; else good; fi
fails 'resume other stages' 1 'another training' "${staged[@]}" --qat-stages 8:2 -o out/x.onnx --checkpoint state --resume

# ---- what is refused
fails 'rising stages' 1 'falling' train "$model" "${data[@]}" --qat w4a4 --qat-stages 4,8 -o out/x.onnx
fails 'a stage of 3 bits' 1 'float:2,8:3' train "$model" "${data[@]}" --qat w4a4 --qat-stages 3 -o out/x.onnx
fails 'too many epochs' 1 'epochs are too few' train "$model" "${data[@]}" --epochs 3 --qat w4a4 --qat-stages 8:3 -o out/x.onnx
fails 'stages of nothing' 2 'qat RECIPE' train "$model" "${data[@]}" --qat-stages 8 -o out/x.onnx
fails 'a negative rate' 2 'scale-lr' train "$model" "${data[@]}" --qat w4a4 --scale-lr -1 -o out/x.onnx

echo "qat: $passed passed, $failed failed"
[ $failed = 0 ]
