#!/usr/bin/env python3
"""nbits.py: com.microsoft's MatMulNBits in narrow against NumPy and onnxruntime: 4 and 8 bits, blocks, zero points, a bias, one row
and many. At accuracy level 4 both runtimes round the data to 8 bits, each in its own way: there narrow must be as near to the exact
product as 8 bits allow, and its plan must multiply integers. The same node comes back when narrow writes the model again."""
import itertools
import pathlib
import subprocess
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from harness import NARROW, Tally, narrow
from onnx import TensorProto, helper, numpy_helper

N, K = 80, 200
INT8 = 4  # accuracy_level


def sqnr(want, got):
    noise = np.sum((want.astype(np.float64) - got) ** 2)
    return np.inf if noise == 0 else 10 * np.log10(np.sum(want.astype(np.float64) ** 2) / noise)


def model(path, rng, bits, block, zeros, bias, level):
    """Writes it; returns the real weights [K, N] and the bias."""
    blocks, per = -(-K // block), 8 // bits
    codes = rng.integers(0, 1 << bits, (N, blocks * block), np.uint8)
    zero = rng.integers(0, 1 << bits, (N, -(-blocks // per) * per), np.uint8) if zeros else None
    pack = lambda a: sum(a.reshape(*a.shape[:-1], -1, per)[..., i] << (bits * i) for i in range(per)).astype(np.uint8)
    scale = rng.uniform(0.01, 0.03, (N, blocks)).astype(np.float32)
    middle = zero[:, :blocks].astype(np.float32) if zeros else np.float32(1 << (bits - 1))
    middle = np.repeat(middle, block, 1) if zeros else middle
    w = ((codes.astype(np.float32) - middle) * np.repeat(scale, block, 1))[:, :K].T
    b = rng.standard_normal(N).astype(np.float32)
    init = {"B": pack(codes).reshape(N, blocks, -1), "S": scale, "Z": pack(zero) if zeros else None, "b": b if bias else None}
    inputs = ["x", "B", "S", "Z" if zeros else "", "", "b" if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", K=K, N=N, bits=bits, block_size=block,
                            accuracy_level=level)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["M", d]) for n, d in (("x", K), ("y", N))]
    graph = helper.make_graph([node], "nbits", info[:1], info[1:],
                              [numpy_helper.from_array(a, n) for n, a in init.items() if a is not None])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return w, b if bias else 0


def run(path, x, folder):
    np.save(folder / "x.npy", x)
    steps = narrow("run", path, "--input", folder / "x.npy", "--output-dir", folder / "out", "--explain")
    return np.load(folder / "out/y.npy"), steps


def check(tally, folder, rng, bits, block, zeros, bias, level, rows):
    name = f"{bits} bits, block {block}{', zero points' * zeros}{', bias' * bias}, level {level}, {rows} rows"
    path = folder / "m.onnx"
    w, b = model(path, rng, bits, block, zeros, bias, level)
    x = rng.standard_normal((rows, K)).astype(np.float32)
    want = x.astype(np.float64) @ w + b
    got, steps = run(path, x, folder)
    least = 35 if level == INT8 else 100
    tally.check(f"{name}: narrow", "" if sqnr(want, got) > least else f"{sqnr(want, got):.1f} dB")
    other = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    tally.check(f"{name}: onnxruntime", "" if sqnr(other, got) > least - 3 else f"{sqnr(other, got):.1f} dB")
    integers = level == INT8
    tally.check(f"{name}: kernel", "" if ("gemm_u8_wcodes" in steps) == integers else steps)
    again = folder / "again.onnx"  # nothing is left to quantize: the node returns
    subprocess.run([NARROW, "quantize", path, "-o", again, "--weights-only", "--form", "matmulnbits", "-q"], check=True,
                   stderr=subprocess.DEVNULL)
    node = next((n for n in onnx.load(again).graph.node if n.op_type == "MatMulNBits"), None)
    kept = node and next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
    tally.check(f"{name}: written again", "" if kept == level else f"accuracy level {kept}")
    tally.check(f"{name}: the same again", "" if np.array_equal(run(again, x, folder)[0], got) else "other numbers")


def main():
    tally = Tally("nbits")
    rng = np.random.default_rng(11)
    with tempfile.TemporaryDirectory() as folder:
        cases = itertools.product((4, 8), (16, 32, 128), (False, True), (False, True), (0, INT8), (1, 7))
        for case in cases:
            check(tally, pathlib.Path(folder), rng, *case)
    tally.finish()


if __name__ == "__main__":
    main()
