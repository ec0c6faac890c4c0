#!/usr/bin/env python3
"""qat.py: what quantization-aware training writes is what was trained. For several recipes: the accuracy that the training graph
has on a set of images (floats behind FakeQuant) and that of the file on integers differ by one image at most, and onnxruntime,
without its graph optimizations, answers as narrow does in at least 99.5 % of the cases."""
import gzip
import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from harness import ROOT, Tally, narrow

AGREEMENT = 0.995
IMAGES = 1000
LETTERS = ROOT / "examples" / "letters"
PREPROCESS = ["--preprocess", "scale=1/255,mean=0.5,std=0.5"]
# recipe: lines, or the name of a preset
RECIPES = {
    "w8a8": "w8a8",
    "w4a4": "w4a4",
    "w2a4": "w2a4",
    "ternary weights": "mode static\nweights ternary\n[@first @last]\nweights s8\n",
    "binary weights": "mode static\nweights binary\n[@first @last]\nweights s8\n",
    "2-bit activations": "mode static\nweights s4\nmse-weights on\nactivations u2\nobserver mse\n"
                         "[@first @last]\nweights s8\nactivations u8\n",
    "signed activations": "mode static\nweights u4\nactivations s4\nobserver mse\n[@first @last]\nweights s8\nactivations s8\n",
    "weights in blocks": "mode weights\nweights s4:32@f16\nmse-weights on\n",
}


def images():
    with gzip.open(LETTERS / "test-images-idx3-ubyte.gz") as f:
        pixels = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:IMAGES]
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def measure(folder, *args):
    report = folder / "report.json"
    narrow(*args, *PREPROCESS, "--json", report)
    return json.loads(report.read_text())


def trained_accuracy(model, folder):
    """Right answers of the training graph: an epoch with a rate that moves nothing."""
    report = measure(folder, "train", model, "--data", f"{LETTERS}:test", "--samples", IMAGES, "--batch", 50, "--epochs", 1,
                     "--lr", "1e-30", "-o", folder / "same.onnx")
    return report["epochs"][0]["accuracy"] * IMAGES


def answers(model, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1)


def our_answers(model, x, folder):
    np.save(folder / "x.npy", x)
    graph = onnx.load(model).graph
    narrow("run", model, "--input", f"{graph.input[0].name}={folder / 'x.npy'}", "--output-dir", folder / "y")
    return np.load(folder / "y" / f"{graph.output[0].name}.npy").argmax(1)


def check(tally, name, recipe, x, folder):
    model, file = folder / "model.onnx", folder / "recipe"
    if "\n" in recipe:
        file.write_text(recipe)
        recipe = file
    try:
        narrow("train", LETTERS / "letters.onnx", "--data", f"{LETTERS}:train", *PREPROCESS, "--samples", 1000, "--epochs", 1,
               "--batch", 25, "--lr", 0.001, "--qat", recipe, "-o", model)
        onnx.checker.check_model(onnx.load(model), full_check=True)
        trained = trained_accuracy(model, folder)
        right = measure(folder, "eval", model, "--data", f"{LETTERS}:test", "--samples", IMAGES, "--no-latency")["top1"] * IMAGES
        agreement = np.mean(our_answers(model, x, folder) == answers(model, x))
    except Exception as error:  # whatever either tool raises
        tally.check(name, f"{type(error).__name__}: {str(error)[:300]}")
        return
    print(f"  {name:20} trained {trained:6.1f}, on integers {right:6.1f} of {IMAGES}, onnxruntime agrees {100 * agreement:6.2f} %")
    tally.check(f"{name}: as it was trained", abs(trained - right) > 1.01 and f"{trained} and {right} right answers")
    tally.check(f"{name}: in onnxruntime", agreement < AGREEMENT and f"agreement {100 * agreement:.2f} %")


def main():
    tally = Tally("qat in onnxruntime")
    x = images()
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            check(tally, name, recipe, x, pathlib.Path(folder))
    tally.finish()


if __name__ == "__main__":
    main()
