#!/usr/bin/env python3
"""large.py [GB]: a float model larger than one ONNX file can be (default 6 GB of random numbers, external data in build/large) becomes a
4-bit one in a fraction of its memory, and then an 8-bit one. Checked: the peak of the process, the files that were written, that
codes mean the weights they came from, and that the small model runs. Needs twice the disk space for a while."""
import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
from harness import ROOT, Tally, narrow
from onnx import TensorProto, helper

WIDTH, INNER = 4096, 16384  # of each of the layers, x·A·B
PEAK = 0.8e9                # bytes that a process may take, mapped pages of files included: a few layers
SEED = 5


def weight(layer, part):
    """A or B of a layer: the same numbers whenever they are asked for."""
    shape = (WIDTH, INNER) if part == "A" else (INNER, WIDTH)
    x = np.random.default_rng([SEED, layer, part == "B"]).standard_normal(shape, np.float32)
    return x * np.float32(0.02)


def names(layers):
    return [(i, part) for i in range(layers) for part in "AB"]


def write_model(path, layers):
    nodes, tensors, x, offset = [], [], "x", 0
    with open(path.with_name("large.bin"), "wb") as data:
        for layer, part in names(layers):
            w, name = weight(layer, part), f"w{layer}{part}"
            t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=w.shape, data_location=TensorProto.EXTERNAL)
            for key, value in ("location", "large.bin"), ("offset", str(offset)), ("length", str(w.nbytes)):
                t.external_data.add(key=key, value=value)
            w.tofile(data)
            offset += w.nbytes
            tensors.append(t)
            nodes.append(helper.make_node("MatMul", [x, name], [f"x{layer}{part}"], name=f"product{layer}{part}"))
            x = nodes[-1].output[0]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in ("x", x)]
    graph = helper.make_graph(nodes, "large", info[:1], info[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return offset


def quantize(tally, what, path, out, total, *options):
    report = json.loads(narrow("quantize", path, "-o", out, "--weights-only", "--threads", "1", "--json", "-", *options))
    rate = total / report["seconds"] / 1e9
    print(f"    {what}: {report['seconds']:.1f} s, {rate:.2f} GB/s of float weights, peak {report['peak_memory_bytes'] / 1e6:.0f} MB, "
          f"{report['file_bytes'] / 1e6:.0f} MB written")
    peak = report["peak_memory_bytes"]
    tally.check(f"{what}: peak memory", "" if peak < PEAK else f"{peak / 1e9:.2f} GB")
    ratio = report["file_bytes_before"] / report["file_bytes"]
    tally.check(f"{what}: size", "" if report["file_bytes_before"] > total and ratio > 3.9 else f"{ratio:.2f} times smaller")


def check_weights(tally, what, path, layers, bound):
    """The first and the last weight, decoded with onnx and NumPy, against what they were made from."""
    graph = onnx.load(path).graph  # external data included
    arrays = {t.name: t for t in graph.initializer}
    for layer, part in (names(layers)[0], names(layers)[-1]):
        node = next(n for n in graph.node if n.output[0] == f"w{layer}{part}")
        codes, scale = (onnx.numpy_helper.to_array(arrays[n]).astype(np.float32) for n in node.input[:2])
        block = next((a.i for a in node.attribute if a.name == "block_size"), 0)
        x = codes * (np.repeat(scale, block, 0) if block else scale)
        w = weight(layer, part)
        sqnr = 10 * np.log10(np.sum(w.astype(np.float64) ** 2) / np.sum((w.astype(np.float64) - x) ** 2))
        tally.check(f"{what}: w{layer}{part}", "" if sqnr > bound else f"{sqnr:.1f} dB")


def main():
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 6
    layers = max(round(gigabytes * 1e9 / (2 * 4 * WIDTH * INNER)), 1)
    folder = ROOT / "build/large"
    tally = Tally("large")
    need = 8 * layers * WIDTH * INNER * 1.6
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < need:
        tally.skip("large models", f"they need {need / 1e9:.0f} GB of disk space")
        tally.finish()
    try:
        path = folder / "large.onnx"
        total = write_model(path, layers)
        for what, options, bound in (("s4:32", ["--weights", "s4:32"], 18), ("s8", [], 38)):
            out = folder / "small.onnx"
            quantize(tally, what, path, out, total, *options, *(["--external-data"] if what == "s8" else []))
            check_weights(tally, what, out, layers, bound)
        np.save(folder / "x.npy", np.ones((1, WIDTH), np.float32))
        narrow("run", out, "--input", f"x={folder / 'x.npy'}", "--output-dir", folder / "y")
        y = np.load(next((folder / "y").glob("*.npy")))
        tally.check("it runs", "" if y.shape == (1, WIDTH) and np.isfinite(y).all() else "its output is not finite")
    finally:
        shutil.rmtree(folder)
    tally.finish()


if __name__ == "__main__":
    main()
