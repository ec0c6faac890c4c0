#!/bin/bash
# train.sh: new models and training as a user meets them: it learns, the same bits come again, also after kill -9 at any
# moment; quantized models, teachers, logs; what is refused. NARROW_BUILD_DIR: the build; NARROW_DATA: real data (MNIST),
# PYTHON: one that has tensorboard; both are skipped without.
set -u
python=${PYTHON:-$PWD/.venv/bin/python}
. "$(dirname "$0")/harness.sh"
data=(--data "$letters" --preprocess "$preprocess" --threads 2)

# ---- new models
for architecture in lenet mlp resnet8 resnet20 dscnn letters; do
    works "new $architecture" 'parameters' new $architecture --input 1x28x28 --classes 26 -o $architecture.onnx
done
"$narrow" new mlp --input 1x28x28 --classes 26 -o again.onnx -q && same_file 'new, the same seed' mlp.onnx again.onnx
"$narrow" new mlp --input 1x28x28 --classes 26 -o again.onnx -q --seed 1
if cmp -s mlp.onnx again.onnx; then bad 'new, another seed' 'the same weights'; else good; fi
works 'a new model runs' '' bench resnet8.onnx --runs 3
fails 'unknown architecture' 1 'lenet\|mlp' new alexnet --input 1x28x28 --classes 10 -o out/x.onnx
fails 'no shape' 2 'input CxHxW' new mlp --classes 10 -o out/x.onnx
fails 'half a shape' 2 'input CxHxW' new mlp --input 28x28 --classes 10 -o out/x.onnx
fails 'no classes' 2 'classes' new mlp --input 1x28x28 -o out/x.onnx
fails 'small images' 1 '4 x 4' new lenet --input 1x3x3 --classes 10 -o out/x.onnx

# ---- it learns, and the same bits come again
works train 'test [0-9.]+ %' train resnet8.onnx "${data[@]}" --samples 1000 --epochs 6 --batch 25 --optimizer adam --lr 0.005 \
    --schedule cosine --warmup 10 --weight-decay 1e-4 --label-smoothing 0.05 --clip 5 --augment flip,crop=1,noise=0.02 \
    -o learned.onnx --json learned.json --test-samples 500
at_least 'train learns' "$(number learned.json accuracy)" 0.35 # of 26 classes
works 'the trained model' '' eval learned.onnx --data "$letters:test" --samples 500 --preprocess $preprocess --no-latency \
    --json eval.json
[ "$(number eval.json top1)" = "$(number learned.json test_accuracy)" ] && [ -n "$(number eval.json top1)" ] && good ||
    bad 'the trained model' 'another accuracy than training said'
small=(train mlp.onnx "${data[@]}" --samples 640 --epochs 3 --batch 16 --test-samples 100 --augment crop=1 --log-every 7)
works 'train a second time' '' "${small[@]}" -o first.onnx --log first.jsonl
works 'train a third time' '' "${small[@]}" -o second.onnx
same_file 'the same bits' first.onnx second.onnx
works 'another seed' '' "${small[@]}" -o second.onnx --seed 1
if cmp -s first.onnx second.onnx; then bad 'another seed' 'the same weights'; else good; fi

# ---- killed at any moment, resumed: the same bits, and the same log
killed_and_resumed 'a small network' "${small[@]}"
fails 'resume another training' 1 'another training' "${small[@]}" --seed 2 -o out/x.onnx --checkpoint state --resume
printf 'x' | dd of=state bs=1 seek=5000 conv=notrunc 2>/dev/null
fails 'a damaged checkpoint' 1 'damaged' "${small[@]}" -o out/x.onnx --checkpoint state --resume

# ---- quantized models, teachers
works 'quantize' '' quantize "$model" -o int8.onnx --calibrate "$letters:train" --samples 200 --preprocess $preprocess
works 'train a quantized model' 'test 9[0-9]' train int8.onnx "${data[@]}" --samples 320 --epochs 1 --batch 32 --lr 1e-4 \
    --test-samples 500 -o int8-tuned.onnx
works 'it stays quantized' '"QuantizeLinear"' info int8-tuned.onnx --json -
if cmp -s int8.onnx int8-tuned.onnx; then bad 'train a quantized model' 'nothing changed'; else good; fi
at_least 'it stays small' "$(stat -c %s int8.onnx)" $(($(stat -c %s int8-tuned.onnx) * 9 / 10))
works 'learn from a teacher' 'accuracy' train mlp.onnx "${data[@]}" --samples 2000 --epochs 3 --batch 20 --optimizer adam \
    --teacher "$model" --temperature 3 --distill-weight 1 -o taught.onnx --json taught.json --test-samples 500
at_least 'a teacher teaches' "$(number taught.json test_accuracy)" 0.15
npy unlabelled.npy '<f4' '(64, 1, 28, 28)' $((64 * 3136))
works 'no labels but a teacher' 'loss [0-9.]+, [0-9]+ images' train mlp.onnx --data unlabelled.npy --teacher "$model" \
    --epochs 1 --batch 16 -o taught.onnx
fails 'neither labels nor a teacher' 1 'no labels' train mlp.onnx --data unlabelled.npy -o out/x.onnx

# ---- smaller models by training: quantized, pruned, taught by themselves, all at once
works 'quantization-aware training' 'test 9[0-9]' train "$model" "${data[@]}" --samples 640 --epochs 2 --batch 32 --qat w4a4 \
    --optimizer adam --lr 3e-4 --freeze-scales 1 -o qat.onnx --json qat.json --test-samples 500
works 'what was trained is what runs' '' eval qat.onnx --data "$letters:test" --samples 500 --preprocess $preprocess --no-latency \
    --json eval.json
[ "$(number eval.json top1)" = "$(number qat.json test_accuracy)" ] && [ -n "$(number eval.json top1)" ] && good ||
    bad 'quantization-aware training' 'the file has another accuracy than training said'
works 'it has 4-bit weights' '^ *s4 ' info qat.onnx
works 'without labels it is its own teacher' 'loss [0-9.]+, [0-9]+ images' train mlp.onnx --data unlabelled.npy --qat w8a8 \
    --weights ternary --epochs 1 --batch 16 --match Gemm -o own.onnx
works 'prune while training' 'zeros +80\.0' train "$model" "${data[@]}" --samples 640 --epochs 2 --batch 32 --prune 0.8 --lr 1e-3 \
    -o sparse.onnx --test-samples 500
works 'it is sparse' 'zeros among them +80\.0' prune sparse.onnx --sparsity 0.01 -o again.onnx
works 'prune to a pattern while training' '' train "$model" "${data[@]}" --samples 320 --epochs 1 --batch 32 --prune 2:4 \
    --lr 1e-3 -o pattern.onnx --test-samples 100
all=(train "$model" "${data[@]}" --samples 320 --epochs 4 --batch 32 --prune 0.5 --prune-epochs 2 --teacher "$model" --match 'conv1?'
    --qat w4a4 --optimizer adam --lr 3e-4 --freeze-scales 1 --test-samples 100)
killed_and_resumed 'prune, teacher and 4 bits' "${all[@]}"
works 'sparse and 4 bits' '"QuantizeLinear"' info first.onnx --json -
fails 'resume other pruning' 1 'another training' "${all[@]}" --prune 0.6 -o out/x.onnx --checkpoint state --resume
fails 'match nothing' 1 'no such layer' train mlp.onnx "${data[@]}" --teacher "$model" --match nowhere -o out/x.onnx
fails 'match without a teacher' 1 'no teacher' train mlp.onnx "${data[@]}" --match Gemm -o out/x.onnx
fails 'an unknown recipe' 1 'w8a8' train mlp.onnx "${data[@]}" --qat w5a5 -o out/x.onnx
fails 'weights of no recipe' 2 'qat RECIPE' train mlp.onnx "${data[@]}" --weights s4 -o out/x.onnx
fails 'frozen too long' 1 'frozen for 3 epochs of 2' train mlp.onnx "${data[@]}" --qat w8a8 --epochs 2 --freeze-scales 3 -o out/x.onnx
fails 'prune everything' 1 'share of zeros' train mlp.onnx "${data[@]}" --prune 1 -o out/x.onnx
fails 'prune binary weights' 1 'no weights that could be pruned' train mlp.onnx "${data[@]}" --qat w8a8 --weights binary --prune 0.5 \
    -o out/x.onnx
fails 'prune too long' 1 'over 3 epochs' train mlp.onnx "${data[@]}" --prune 0.5 --epochs 2 --prune-epochs 3 -o out/x.onnx

# ---- logs
works 'log to TensorBoard' '' "${small[@]}" -o second.onnx --tensorboard curves --log curves.jsonl
[ "$(grep -c '"kind":"epoch"' curves.jsonl)" = 3 ] && good || bad log 'not a line per epoch'
[ "$(grep -c '"kind":"step"' curves.jsonl)" = 17 ] && good || bad log 'not a line per 7 of 120 steps'
if "$python" -c 'import tensorboard' 2>/dev/null; then
    if "$python" - <<'END' 2>stderr; then good; else bad TensorBoard 'it reads other curves than the log has'; fi
import json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
curves = EventAccumulator("curves")
curves.Reload()
lines = [json.loads(line) for line in open("curves.jsonl")]
for kind, name in ("step", "loss"), ("step", "rate"), ("epoch", "test_accuracy"), ("epoch", "accuracy"):
    want = [(line["step"], line[name]) for line in lines if line["kind"] == kind]
    have = [(event.step, event.value) for event in curves.Scalars(f"{kind}/{name}")]
    assert [a for a, _ in want] == [a for a, _ in have] and len(want) > 2, (want, have)
    assert all(abs(a - b) <= 1e-6 * abs(a) for (_, a), (_, b) in zip(want, have)), (want, have)
END
else
    skip 'TensorBoard' 'not in the Python environment (the frames are checked in test_trainer)'
fi

# ---- numbers instead of classes
if "$python" - <<'END' 2>/dev/null; then
import numpy as np
x = np.random.default_rng(5).standard_normal((640, 1, 4, 4)).astype(np.float32)
y = np.stack([x.mean((1, 2, 3)), np.abs(x[:, 0, 0, 0])], 1).astype(np.float32)
np.savez("pairs.npz", input=x, logits=y)
np.savez("wide.npz", input=x, logits=np.concatenate([y, y], 1))
np.savez("double.npz", input=x, logits=y.astype(np.float64))
np.savez("alone.npz", input=x)
END
    "$narrow" new mlp --input 1x4x4 --classes 2 -o numbers.onnx -q
    works 'squares' '' train numbers.onnx --data pairs.npz --loss squares --epochs 30 --optimizer adam --lr 0.005 -o learned.onnx \
        --log squares.jsonl
    at_least 'squares are learned' "$("$python" -c 'import json
print(0.03 / [json.loads(line)["loss"] for line in open("squares.jsonl")][-1])')" 1 # the targets have a variance of 0.2
    fails 'targets of another shape' 1 'another shape than output "logits"' train numbers.onnx --data wide.npz --loss squares -o out/x.onnx
    fails 'targets of another type' 1 'f64.*f32' train numbers.onnx --data double.npz --loss squares -o out/x.onnx
    fails 'no targets' 1 'named like the output' train numbers.onnx --data alone.npz --loss squares -o out/x.onnx
    fails 'squares and a teacher' 1 'alone' train numbers.onnx --data pairs.npz --loss squares --teacher numbers.onnx -o out/x.onnx
    fails 'unknown loss' 2 'cross-entropy' train numbers.onnx --data pairs.npz --loss hinge -o out/x.onnx
else
    skip 'squares' 'no Python with numpy'
fi

# ---- what is refused
fails 'no data' 2 'data' train mlp.onnx -o out/x.onnx
fails 'no output' 2 '[-]o' train mlp.onnx "${data[@]}"
fails 'resume from nothing' 2 'checkpoint' train mlp.onnx "${data[@]}" -o out/x.onnx --resume
fails 'a large batch' 1 'fewer than a batch' train mlp.onnx "${data[@]}" --samples 10 --batch 11 -o out/x.onnx
fails 'a large momentum' 2 'momentum' train mlp.onnx "${data[@]}" --momentum 1 -o out/x.onnx
fails 'smoothing of everything' 1 'smoothing' train mlp.onnx "${data[@]}" --label-smoothing 1 -o out/x.onnx
fails 'unknown change' 1 'flop' train mlp.onnx "${data[@]}" --augment flop -o out/x.onnx
fails 'a rate that explodes' 1 'learning rate' train mlp.onnx "${data[@]}" --lr 1e30 -o out/x.onnx
"$narrow" new mlp --input 1x28x28 --classes 10 -o ten.onnx -q
fails 'too few classes' 1 'label [0-9]+.*10 classes' train ten.onnx "${data[@]}" -o out/x.onnx
"$narrow" new mlp --input 3x28x28 --classes 26 -o colour.onnx -q
fails 'another shape' 1 'wants f32 \[N,3,28,28\]' train colour.onnx "${data[@]}" -o out/x.onnx
fails 'a teacher of other classes' 1 'teacher' train mlp.onnx "${data[@]}" --teacher ten.onnx -o out/x.onnx

# ---- real data
mnist=${NARROW_DATA:-}/mnist
if [ -d "$mnist" ]; then
    "$narrow" new lenet --input 1x28x28 --classes 10 -o lenet.onnx -q
    works 'MNIST' '' train lenet.onnx --data "$mnist" --preprocess scale=1/255 --samples 2000 --epochs 1 --batch 16 -o digits.onnx \
        --json digits.json
    at_least 'MNIST, one epoch of 2000 images' "$(number digits.json test_accuracy)" 0.85
else
    skip 'MNIST' 'no real data (NARROW_DATA)'
fi

echo "train: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
