#!/usr/bin/env python3
"""pruned.py: models with half of their channels are valid ONNX, and onnxruntime computes with them what narrow does.
NARROW_DATA: real models, skipped without; NARROW_BUILD_DIR: the build."""
import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

from harness import DATA, ROOT, Tally, narrow

# model → the largest share of the weights that stays
MODELS = {"resnet20-cifar10": 0.26, "resnet8-cifar10": 0.26, "dscnn-kws": 0.32, "mobilenetv2": 0.36, "squeezenet1.1": 0.36,
          "kwt1-transformer-kws": 0.68, "ultraface-rfb-320": 0.32}


def problem(model, share, folder):
    small = folder / "pruned.onnx"
    report = json.loads(narrow("prune", model, "-o", small, "--channels", 0.5, "--json", "-"))
    if report["weights"] > share * report["weights_before"]:
        return f"{report['weights']} of {report['weights_before']} weights stay"
    onnx.checker.check_model(str(small), full_check=True)
    session = ort.InferenceSession(str(small), providers=["CPUExecutionProvider"])
    feed = {i.name: np.random.default_rng(0).standard_normal([d if isinstance(d, int) else 1 for d in i.shape]).astype(np.float32)
            for i in session.get_inputs()}
    args = []
    for name, array in feed.items():
        np.save(folder / f"{name}.npy", array)
        args += ["--input", f"{name}={folder / name}.npy"]
    narrow("run", small, *args, "--output-dir", folder)
    for output, want in zip(session.get_outputs(), session.run(None, feed)):
        have = np.load(folder / f"{output.name}.npy")
        error = np.abs(have - want).max() / np.abs(want).max() if have.shape == want.shape else np.inf
        if not error < 1e-4:
            return f"output {output.name} of shape {have.shape} is not onnxruntime's {want.shape}: off by {error}"
    return None


def main():
    ort.set_default_logger_severity(4)
    tally = Tally("pruned")
    with tempfile.TemporaryDirectory() as name:
        tally.check("letters", problem(ROOT / "examples/letters/letters.onnx", 0.27, pathlib.Path(name)))
        for model, share in MODELS.items():
            path = DATA / "models" / f"{model}.onnx"
            if path.exists():
                tally.check(model, problem(path, share, pathlib.Path(name)))
            else:
                tally.skip(model, f"no model in {DATA / 'models'}")
    tally.finish()


if __name__ == "__main__":
    main()
