#!/bin/bash
# run.sh: the command as a user meets it: what works, and that whatever fails says one clear sentence on stderr, exits with
# 1 (2 for a wrong command line), and leaves no file behind. NARROW_BUILD_DIR: the build (default build/release).
set -u
. "$(dirname "$0")/harness.sh"

npy one.npy '<f4' '(1, 1, 28, 28)' 3136
npy three.npy '<f4' '(3, 1, 28, 28)' 9408
npy wide.npy '<f4' '(1, 1, 28, 29)' 3248
npy flat.npy '<f4' '(784,)' 3136
npy whole.npy '<i8' '(1, 1, 28, 28)' 6272
npy short.npy '<f4' '(1, 1, 28, 28)' 3000
printf 'Ignored by everything.\n' >text.txt
: >empty
size=$(stat -c %s "$model")
head -c $((size / 2)) "$model" >half.onnx
head -c $((size - 1)) "$model" >cut.onnx

# ---- help and wrong command lines
works version 'narrow [0-9]+\.[0-9]+\.[0-9]+' --version
works help 'quantize' --help
works 'help command' 'usage: narrow quantize' help quantize
for command in info run quantize dequantize eval compare layers tradeoffs bench doctor prune new train; do
    works "$command --help" "usage: narrow $command" $command --help
    grep -q Examples stdout || bad "$command --help" "no examples"
done
works 'manual' '\.TH' help --man
works 'bash completion' 'complete' help --completion bash
mv stdout complete.bash
bash -c 'source ./complete.bash && COMP_WORDS=(narrow quantize --observer perc) COMP_CWORD=3 && _narrow && [ "$COMPREPLY" = percentile ]' &&
    good || bad 'bash completion' 'no percentile for --observer perc'
works 'zsh completion' 'compdef' help --completion zsh
mv stdout complete.zsh
if command -v zsh >/dev/null; then
    zsh -n complete.zsh && good || bad 'zsh completion' 'zsh does not accept it'
else
    skip 'zsh completion' 'no zsh here'
fi
works 'fish completion' 'complete' help --completion fish
mv stdout complete.fish
if command -v fish >/dev/null; then
    [[ $(fish -c 'source ./complete.fish; complete -C "narrow quantize --observer perc"; complete -C "narrow ev"') == percentile*eval* ]] &&
        good || bad 'fish completion' 'no percentile for --observer perc, or no eval for ev'
else
    skip 'fish completion' 'no fish here'
fi
timeout 20 "$narrow" >stdout 2>stderr
[ $? = 2 ] && grep -q 'narrow help' stdout && good || bad 'no command' 'no help, or not exit 2'
fails 'unknown command' 2 'quantize' quantise "$model"
fails 'unknown option' 2 'did you mean --samples' eval "$model" --sampels 4
fails 'unknown word' 2 'minmax' quantize "$model" -o out/x.onnx --calibrate "$letters" --observer minmaxx
fails 'bad number' 2 'number' eval "$model" --data "$letters" --samples many
fails 'missing value' 2 'needs a value' eval "$model" --data
fails 'missing argument' 2 'model' info
fails 'standard output as output' 2 "file's name" quantize "$model" -o - --weights-only
fails 'missing -o' 2 '[-]o OUT' quantize "$model" --calibrate "$letters:train"

# ---- models that cannot be read
fails 'missing model' 1 'missing\.onnx.*No such file' info missing.onnx
fails 'folder as model' 1 'folder' info out
fails 'empty model' 1 'empty' info empty
fails 'text as model' 1 'text\.txt' info text.txt
fails 'half a model' 1 'half\.onnx' info half.onnx
fails 'a model without its last byte' 1 'cut\.onnx' info cut.onnx
fails 'quantize half a model' 1 'half\.onnx' quantize half.onnx -o out/x.onnx --calibrate "$letters:train" --preprocess $preprocess

# ---- info and run
works info '227994' info "$model"
works 'info as JSON' '"operators"' info "$model" --json -
works 'info --statistics' '1 % +median +99 %' info "$model" --statistics
works 'info --channels' '^Channels' info "$model" --channels
fails 'missing reference' 1 'nowhere\.onnx' info "$model" --reference nowhere.onnx
works tradeoffs 'w8 .*×.*dB' tradeoffs "$model" --data "$letters:test" --preprocess $preprocess -n 60 --runs 2 --presets w8,w4
works 'tradeoffs as JSON' '"top1_drop"' tradeoffs "$model" --data "$letters:test" --preprocess $preprocess -n 60 --no-latency --presets binary --json -
at_least 'tradeoffs: what binary weights drop' "$(number stdout top1_drop)" 0.1
works 'tradeoffs with calibration' 'w8a8 .*dB' tradeoffs "$model" --data "$letters:test" --calibrate "$letters:train" --preprocess $preprocess -n 60 --no-latency --presets w8a8,w8
works 'tradeoffs without calibration' 'w8a8 +not made: .*calibrat' tradeoffs "$model" --data "$letters:test" --preprocess $preprocess -n 60 --no-latency --presets w8a8,w8
fails 'tradeoffs of nothing' 1 'no preset' tradeoffs "$model" --data "$letters:test" --preprocess $preprocess --presets w9
works 'quantize --external-data' 'size after' quantize "$model" -o ext.onnx --weights-only --external-data
[ -s ext.onnx.data ] && good || bad 'quantize --external-data' 'no ext.onnx.data'
works 'a model with external data' "$(du -cb ext.onnx ext.onnx.data | awk 'END { printf "%.2f kB", $1 / 1000 }')" info ext.onnx
rm -f ext.onnx.data
fails 'a model without its data' 1 'ext\.onnx\.data' info ext.onnx
works doctor 'in float +[1-9]' doctor "$model" --target openvino
fails 'unknown target' 2 'onnxruntime' doctor "$model" --target onnxrunt
fails 'a form that the target refuses' 1 'narrow alone' quantize "$model" -o out/x.onnx --weights-only --weights ternary --form native --target onnxruntime
works run '' run "$model" --input input=three.npy --output-dir out
[ "$(stat -c %s out/logits.npy 2>/dev/null)" = $((128 + 3 * 26 * 4)) ] && good || bad run 'out/logits.npy is not f32 [3,26]'
rm -rf out && mkdir out
works 'run --explain' 'conv' run "$model" --input input=one.npy --output-dir out --explain
rm -rf out && mkdir out
fails 'wrong shape' 1 'input.*28' run "$model" --input input=wide.npy --output-dir out
fails 'wrong rank' 1 'input' run "$model" --input input=flat.npy --output-dir out
fails 'wrong type' 1 'input.*f32' run "$model" --input input=whole.npy --output-dir out
fails 'unknown input' 1 'photo.*input|no input "photo"' run "$model" --input photo=one.npy --output-dir out
fails 'no input given' 1 'input' run "$model" --output-dir out
fails 'missing array' 1 'nowhere\.npy' run "$model" --input input=nowhere.npy --output-dir out
fails 'short array' 1 'short\.npy' run "$model" --input input=short.npy --output-dir out
fails 'text as array' 1 'text\.txt' run "$model" --input input=text.txt --output-dir out
fails 'file as folder' 1 'text\.txt' run "$model" --input input=one.npy --output-dir text.txt/x
fails 'a shape for no input' 1 'no input "photo"' bench "$model" --shape photo=1,1,28,28

# ---- data
fails 'missing data' 1 'nowhere' eval "$model" --data nowhere --preprocess $preprocess
fails 'empty folder' 1 'out' eval "$model" --data out --preprocess $preprocess
fails 'unknown step' 1 'rezise' eval "$model" --data "$letters:test" --preprocess rezise=256
printf 'file,label\nnothere.jpg,3\n' >list.csv
gray=resize=28,crop=28,color=gray,$preprocess
fails 'missing image' 1 'nothere\.jpg' eval "$model" --data list.csv --preprocess $gray
printf 'file,label\ntext.txt,3\n' >list.csv
fails 'text as image' 1 'text\.txt' eval "$model" --data list.csv --preprocess $gray
npy labels.npy '<i8' '(5,)' 40
printf 'file,label\nbroken.jpg,3\n' >list.csv
printf '\xff\xd8\xff\xe0garbage' >broken.jpg
fails 'a damaged image' 1 'broken\.jpg.*damaged' eval "$model" --data list.csv --preprocess $gray
npy complex.npy '<c8' '(2, 1, 28, 28)' 12544
fails 'calibrate on complex numbers' 1 'f32.*c64' quantize "$model" -o out/x.onnx --calibrate complex.npy
fails 'labels do not fit' 1 'label' eval "$model" --data three.npy --labels labels.npy
fails 'wrong sample shape' 1 '28' eval "$model" --data wide.npy
fails 'no samples left' 1 'skip|sample' eval "$model" --data "$letters:test" --preprocess $preprocess --skip 99999

# ---- the main job
works eval '98\.25' eval "$model" --data "$letters:test" --preprocess $preprocess --no-latency
works quantize '9 of 9' quantize "$model" -o out/int8.onnx --calibrate "$letters:train" --samples 200 --preprocess $preprocess
works compare 'agreement' compare "$model" out/int8.onnx --data "$letters:test" --preprocess $preprocess --samples 500 --runs 20
works 'compare as JSON' '"compression_ratio"' compare "$model" out/int8.onnx --data "$letters:test" --preprocess $preprocess \
    --samples 100 --no-latency --json -
for key in samples top1 top5 precision_macro recall_macro f1_macro agreement sqnr_db file_bytes compression_ratio \
    peak_memory_bytes; do
    grep -q "\"$key\"" stdout && good || bad 'compare as JSON' "no $key"
done
works layers 'dB' layers "$model" out/int8.onnx --data "$letters:test" --preprocess $preprocess --samples 50
works 'layers as JSON' '"weight_sqnr_db"' layers "$model" out/int8.onnx --data "$letters:test" --preprocess $preprocess --samples 50 --json -
grep -oE '^\s{3}"sqnr_db":\s*[0-9.]+' stdout | grep -oE '[0-9.]+$' >ratios
[ "$(wc -l <ratios)" -ge 5 ] && sort -c -g ratios 2>stderr && good || bad 'layers as JSON' 'the worst layer does not come first'
works bench 'ms' bench "$model" out/int8.onnx --runs 5
works 'bench --batch' 'f32 \[4,1,28,28\]' bench "$model" --runs 2 --batch 4
works 'bench --profile' 'of peak' bench out/int8.onnx --runs 5 --profile
works 'bench --profile as JSON' '"peak_integer_gops"' bench out/int8.onnx --runs 5 --profile --json -
for key in milliseconds share gops peak_share operator name kernel output reason; do
    grep -q "\"$key\"" stdout && good || bad 'bench --profile as JSON' "no $key"
done
works 'run int8' '' run out/int8.onnx --input input=one.npy --output-dir out
# Every option does something.
plain=("$model" --calibrate "$letters:train" --samples 50 --preprocess $preprocess)
works 'quantize plainly' '' quantize "${plain[@]}" -o plain.onnx
for options in --reduce-range --full-range --mse-weights --float-bias '--bias-correction off' --per-tensor --symmetric --asymmetric \
    '--activations s8' '--observer moving' '--observer moving --momentum 0.5' '--observer moving --batch 5' '--observer mse' \
    '--observer entropy' '--sigma 3' '--sigma 2' '--percentile 99' '--percentile 98' '--range -6:6' --quantize-outputs \
    '--quantize-inputs off' '--elementwise off' '--skip 7' '--exclude conv1' '--only conv1' '--form qoperator' '--mode dynamic' \
    '--mode weights' '--mode weights --balanced-rounding' '--mode weights --block 32' '--opset 22' '--recipe w4'; do
    works "quantize $options" '' quantize "${plain[@]}" $options -o option.onnx
    sum=$(md5sum <option.onnx)
    case "${sums:=$(md5sum <plain.onnx)}" in
    *"$sum"*) bad "quantize $options" 'the file is the same as without, or with another option' ;;
    *) good ;;
    esac
    sums+=$sum
done
works 'quantize --dynamic-rows' '[78] of 9' quantize "$model" -o option.onnx --mode dynamic --dynamic-rows
works 'quantize to QOperator' '9 of 9' quantize "$model" -o out/qop.onnx --form qoperator --calibrate "$letters:train" \
    --samples 50 --preprocess $preprocess
works 'weights only' '[0-9] of 9|compression' quantize "$model" -o out/weights.onnx --weights-only
for scheme in ternary binary:64@f16 nf4:64 mxfp4 f16 'range(-7:7)'; do
    works "weights $scheme" "compression" quantize "$model" -o out/scheme.onnx --weights-only --weights "$scheme"
    works "run with weights $scheme" '' run out/scheme.onnx --input input=one.npy --output-dir out
    cp out/logits.npy scheme.npy
    works "weights $scheme, native" "compression" quantize "$model" -o out/native.onnx --weights-only --weights "$scheme" \
        --form native
    works "run with weights $scheme, native" '' run out/native.onnx --input input=one.npy --output-dir out
    cmp -s out/logits.npy scheme.npy && good || bad "weights $scheme" 'the native form gives other results'
done
works 'prune channels' 'zeros among them' prune "$model" -o out/thin.onnx --channels 0.5 --json thin.json
[ "$(stat -c %s out/thin.onnx)" -lt $(($(stat -c %s "$model") * 3 / 10)) ] && good || bad 'prune channels' 'the file is not much smaller'
for key in weights_before weights sparsity macs_before macs macs_nonzero file_bytes layers channels_before reason; do
    grep -q "\"$key\"" thin.json && good || bad 'prune channels' "no $key"
done
works 'run a model with fewer channels' '' run out/thin.onnx --input input=three.npy --output-dir out
works 'prune weights' 'zeros among them +79\.1' prune "$model" -o out/sparse.onnx --sparsity 0.8 --exclude logits
works 'quantize sparse weights' '9 of 9' quantize out/sparse.onnx -o out/sparse8.onnx --calibrate "$letters:train" --samples 50 \
    --preprocess $preprocess
works 'prune to a pattern' 'conv13.* 50\.00 %' prune "$model" -o out/pattern.onnx --sparsity 2:4 --only conv13 --norm l1
works 'prune a quantized model' 'quantized: prune the float model' prune out/int8.onnx -o out/x.onnx --sparsity 0.5
works 'prune channels of a quantized model' 'quantized: prune the float model' prune out/int8.onnx -o out/x.onnx --channels 0.5
works dequantize 'made float' dequantize out/int8.onnx -o out/float.onnx
works 'a dequantized model' '^quantized +no$' info out/float.onnx
works 'dequantize weights' 'made float' dequantize out/weights.onnx -o out/real.onnx
works 'dequantized weights mean the same' 'SQNR +– +1[0-9][0-9]\.[0-9] dB' compare out/weights.onnx out/real.onnx \
    --data "$letters:test" --preprocess $preprocess --samples 100 --no-latency
works 'dequantize --keep-rounding' 'made float' dequantize out/int8.onnx -o out/rounded.onnx --keep-rounding
works 'a dequantized model that rounds' 'quantized +0 constants, 1[0-9] activations' info out/rounded.onnx
works 'some layers stay float' 'exclude' quantize "$model" -o out/part.onnx --exclude 'Gemm' \
    --calibrate "$letters:train" --samples 50 --preprocess $preprocess
works 'quantize --measure' 'as written' quantize "$model" -o out/measured.onnx --measure --json measured.json \
    --calibrate "$letters:train" --samples 50 --preprocess $preprocess
for key in threads isa run_ms_float run_ms_all_integer run_ms slower_than_float timings float_ms integer_ms left_in_float; do
    grep -q "\"$key\"" measured.json && good || bad 'quantize --measure' "no $key"
done
works 'the measured model' '' run out/measured.onnx --input input=one.npy --output-dir out
works 'quantize --measure without data' 'as written' quantize "$model" -o out/dynamic.onnx --mode dynamic --measure
for preset in $("$narrow" help quantize | tr -s ' \n' ' ' | sed 's/.*\(w8a8|[^ ]*\).*/\1/' | tr '|' ' '); do
    works "preset $preset" 'compression' quantize "$model" -o out/preset.onnx --recipe "$preset" --calibrate "$letters:train" \
        --samples 50 --preprocess $preprocess
    works "run preset $preset" '' run out/preset.onnx --input input=one.npy --output-dir out
done
printf 'preset w8a8  # as usual\nobserver percentile 99.9\n\n[Gemm]\nmode weights\nweights s4:32\n' >mixed.recipe
works 'a recipe' 'weights only +1 of' quantize "$model" -o out/mixed.onnx --recipe mixed.recipe --calibrate "$letters:train" \
    --samples 50 --preprocess $preprocess --exclude conv1
works 'run what a recipe made' '' run out/mixed.onnx --input input=one.npy --output-dir out
works 'info shows the recipe' '^recipe +\[Gemm\] weights s4:32$' info out/mixed.onnx
works 'info shows the recipe as JSON' '"setting":[[:space:]]*"observer"' info out/mixed.onnx --json -
touch out/int8.onnx # whatever became of it
before=$(md5sum <out/int8.onnx)
works 'the same again' '' quantize "$model" -o out/again.onnx --calibrate "$letters:train" --samples 200 --preprocess $preprocess
cmp -s out/int8.onnx out/again.onnx && good || bad quantize 'the same command gives another file'

# ---- output that cannot be written; what stood there before stays
timeout 60 "$narrow" quantize "$model" -o out/int8.onnx --calibrate nowhere --preprocess $preprocess >stdout 2>stderr
[ "$(md5sum <out/int8.onnx)" = "$before" ] && good || bad 'failed quantize' 'the old file is gone'
rm -rf out && mkdir out
fails 'measure weights only' 1 'nothing to measure' quantize "$model" -o out/x.onnx --weights-only --measure
fails 'no such recipe' 1 'no preset .w8a8.*No such file' quantize "$model" -o out/x.onnx --recipe w77
printf 'mode static\n[Conv]\nobservr mse\n' >wrong.recipe
fails 'a wrong recipe' 1 'wrong.recipe:3: .observr. is no setting: use one of' quantize "$model" -o out/x.onnx \
    --recipe wrong.recipe
fails 'unknown weights' 1 'codebook4' quantize "$model" -o out/x.onnx --weights-only --weights s77
fails 'weights that say it all' 1 's8-asym' quantize "$model" -o out/x.onnx --weights-only --weights s4:32 --asymmetric
fails 'tables of static layers' 1 'mode "weights"' quantize "$model" -o out/x.onnx --weights nf4 --calibrate "$letters:train" \
    --preprocess $preprocess
fails 'lower opset' 1 'cannot become' quantize "$model" -o out/x.onnx --weights-only --opset 7
fails 'blocks at an old opset' 1 'opset 21' quantize "$model" -o out/x.onnx --weights-only --weights s4:32 --opset 13
fails 'prune without -o' 2 '[-]o OUT' prune "$model" --channels 0.5
fails 'prune nothing' 2 'what is to go' prune "$model" -o out/x.onnx
fails 'prune everything' 1 'below 1' prune "$model" -o out/x.onnx --channels 1
fails 'prune to a wrong pattern' 1 '2:4' prune "$model" -o out/x.onnx --sparsity 4:2
fails 'dequantize without -o' 2 '[-]o OUT' dequantize "$model"
fails 'folder as output' 1 'folder' quantize "$model" -o out --weights-only
fails 'output in no folder' 1 'No such file|folder' quantize "$model" -o out/no/where.onnx --weights-only
# Said before any work: the model and the data are not even looked for.
fails 'train into no folder' 1 'out/no/where.*No such file' train nowhere.onnx --data nowhere -o out/no/where.onnx
fails 'report into no folder' 1 'out/no/where.*No such file' tradeoffs nowhere.onnx --data nowhere --json out/no/where.json
fails 'folder as report' 1 'folder' bench nowhere.onnx --json out
(
    trap '' XFSZ # a write beyond the limit fails, as on a full disk
    ulimit -f 64
    fails 'disk full' 1 'too large|space' quantize "$model" -o out/x.onnx --weights-only
    echo "$passed $failed" >counts
)
read -r passed failed <counts
if [ -c /dev/full ]; then
    fails 'full device' 1 'No space' quantize "$model" -o /dev/full --weights-only
    [ -c /dev/full ] && good || bad 'full device' 'it replaced /dev/full by a file'
fi
if "$narrow" info "$model" >/dev/full 2>stderr; then bad 'full stdout' 'exit 0'; else good; fi
if [ "$(id -u)" != 0 ]; then
    mkdir sealed && chmod a-w sealed
    fails 'sealed folder' 1 'Permission' quantize "$model" -o sealed/x.onnx --weights-only
fi

echo "cli: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
