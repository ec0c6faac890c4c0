#!/usr/bin/env python3
"""results.py [MODEL…]: quantizes the real models of NARROW_DATA (default ../shared/data) with several observers and prints, as
Markdown, what it cost and gained. Needs a release build and nothing but Python's standard library. docs/RESULTS.md holds
its output; every line can be had alone with the two commands it is made of (narrow quantize, narrow compare)."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NARROW = ROOT / "build/release/narrow"
DATA = pathlib.Path(os.environ.get("NARROW_DATA", ROOT / "../shared/data")).resolve()
STEPS = "scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
OBSERVERS = ["minmax", "percentile", "mse", "entropy"]


def cifar(steps):
    return (["--calibrate", DATA / "cifar10/train-10000.bin", "--samples", "200", "--preprocess", steps],
            ["--data", DATA / "cifar10/test-2000.bin", "--preprocess", steps])


def clips(features, labels):
    features, labels = DATA / "speech" / features, DATA / "speech" / labels
    return (["--calibrate", features, "--samples", "200"], ["--data", features, "--labels", labels, "--skip", "200"])


IMAGENET = (["--calibrate", DATA / "imagenet/calibration.csv", "--preprocess", "imagenet"],
            ["--data", DATA / "imagenet/evaluation.csv", "--preprocess", "imagenet"])
MODELS = {
    "resnet20-cifar10": cifar(STEPS),
    "resnet8-cifar10": cifar("none"),
    "dscnn-kws": clips("dscnn-features.npy", "dscnn-labels.npy"),
    "kwt1-transformer-kws": clips("kwt-features.npy", "kws-labels.npy"),
    "lstm-kws": clips("kws-rnn-features.npy", "kws-labels.npy"),
    "gru-kws": clips("kws-rnn-features.npy", "kws-labels.npy"),
    "squeezenet1.1": IMAGENET,
    "mobilenetv2": IMAGENET,
}


def run(*args):
    subprocess.run([str(NARROW), *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def rows(name, folder):
    calibrate, data = MODELS[name]
    model = DATA / "models" / f"{name}.onnx"
    small = [folder / f"{observer}.onnx" for observer in OBSERVERS]
    for observer, path in zip(OBSERVERS, small):
        run("quantize", model, "-o", path, *calibrate, "--observer", observer)
    run("compare", model, *small, *data, "--threads", "1", "--json", folder / "compare.json")
    measured = json.loads((folder / "compare.json").read_text())["models"]
    base = measured[0]
    for observer, m in zip(OBSERVERS, measured[1:]):
        yield [name, observer, f"{100 * base['top1']:.2f}", f"{100 * m['top1']:.2f}", f"{100 * m['agreement']:.2f}",
               f"{m['sqnr_db']:.1f}", f"{m['file_bytes'] / base['file_bytes']:.3f}",
               f"{base['latency_ms_median']:.3f}", f"{m['latency_ms_median']:.3f}", f"{m['speedup']:.2f}"]


def main():
    print("| model | observer | float top-1 | int8 top-1 | agreement | SQNR dB | file, of float | float ms | int8 ms | speedup |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(name, pathlib.Path(folder)):
                print("| " + " | ".join(row) + " |", flush=True)


main()
