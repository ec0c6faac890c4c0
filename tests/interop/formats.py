#!/usr/bin/env python3
"""formats.py: weights in every number format that narrow has, in the forms for other runtimes: onnx.checker accepts the file,
onnxruntime loads it, and both runtimes give the same numbers, as near as sums in another order are.

onnxruntime runs without its graph optimizations: with them its results on products of 4-bit and 8-bit weights are others
(kwt1 in s4:32@f16 differs by 1 % of the largest output, without them by 5e-7)."""
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from harness import DATA, ROOT, Tally, narrow
from onnx import TensorProto, helper, numpy_helper

TOLERANCE = 1e-5  # of the largest output
WORDS = ["s8", "u8", "s4", "u4", "s2", "u2", "s16", "u16", "s8-asym", "u8-sym", "s8@f16", "u4@bf16", "s4@e8m0", "fixed8",
         "range(0:100)", "range(-255:255)", "ternary", "ternary:64@f16", "binary", "binary:64@f16", "log4", "log8/2:32", "sqrt8",
         "codebook4", "codebook2@f16", "nf4", "nf4:64@f16", "f16", "bf16", "f8e4m3fn", "f8e4m3fn:32", "f8e5m2", "f4e2m1", "mxfp4",
         "mxfp8", "mxfp8e5m2", "s4:32@f16", "u4:32", "s8:64", "s16:32"]
PRODUCTS = ["s4:32", "u4:32", "s4:32@f16", "s8:64", "u8:16"]


def problem(model, form, word, folder, extra=()):
    """What is wrong with the model whose weights are quantized so, or ""."""
    wrong = mismatch(model, folder, ("--weights-only", "--weights", word, "--form", form, *extra))
    if wrong or form != "matmulnbits":
        return wrong
    nodes = onnx.load(folder / "small.onnx").graph.node
    return "" if "MatMulNBits" in {n.op_type for n in nodes} else "no MatMulNBits in it"


def mismatch(model, folder, options, tolerance=TOLERANCE):
    """What is wrong with what narrow quantize makes of the model with these options, or ""."""
    small, x = folder / "small.onnx", folder / "x.npy"
    try:
        narrow("quantize", model, "-o", small, *options)
        onnx.checker.check_model(onnx.load(small), full_check=True)
        graph = onnx.load(small).graph
        constants = {t.name for t in graph.initializer}
        value = next(i for i in graph.input if i.name not in constants)
        shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        np.save(x, np.random.default_rng(7).standard_normal(shape).astype(np.float32))
        narrow("run", small, "--input", f"{value.name}={x}", "--output-dir", folder / "y")
        ours = np.load(folder / "y" / f"{graph.output[0].name}.npy")
        plain = ort.SessionOptions()
        plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(small), plain, providers=["CPUExecutionProvider"])
        theirs = session.run(None, {value.name: np.load(x)})[0]
    except Exception as error:  # whatever either tool raises
        return f"{type(error).__name__}: {str(error)[:300]}"
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return "" if error <= tolerance else f"outputs differ by {error:.1e} of the largest"


def branches():
    """If on an input, with a product by a weight in each branch. Opset 11: Unsqueeze has to be raised inside."""
    def branch(name):
        weight = np.random.default_rng(len(name)).standard_normal((40, 40)).astype(np.float32)
        nodes = [helper.make_node("MatMul", ["x", f"w_{name}"], [f"m_{name}"]),
                 helper.make_node("Unsqueeze", [f"m_{name}"], [f"y_{name}"], axes=[0])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None)],
                                 [numpy_helper.from_array(weight, f"w_{name}")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("other"))
    compare = helper.make_node("Cast", ["sum"], ["c"], to=TensorProto.BOOL)
    total = helper.make_node("ReduceMax", ["x"], ["sum"], keepdims=0)
    graph = helper.make_graph([total, compare, node], "branches", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 40])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 40])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def convolutions():
    """Two of them on numbers of both signs: padded, in two groups; then with strides."""
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in ((24, 10, 3, 3), (5, 24, 3, 3), (24,))]
    nodes = [helper.make_node("Conv", ["x", "w0", "w2"], ["a"], pads=[1, 1, 1, 1], group=2),
             helper.make_node("Conv", ["a", "w1"], ["y"], strides=[2, 2], pads=[1, 0, 1, 0])]
    graph = helper.make_graph(nodes, "convolutions", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 20, 9, 9])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 5, 4])],
                              [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def binary_problem(folder):
    """What is wrong with convolutions whose weights and inputs are binary, or ""."""
    model, samples = folder / "convolutions.onnx", folder / "samples.npy"
    onnx.save(convolutions(), model)
    np.save(samples, np.random.default_rng(5).standard_normal((8, 20, 9, 9)).astype(np.float32))
    wrong = mismatch(model, folder, ("--weights", "binary", "--activations", "binary", "--quantize-inputs", "on",
                                     "--calibrate", samples))
    choices = sum(n.op_type == "Where" for n in onnx.load(folder / "small.onnx").graph.node)
    return wrong or ("" if choices == 2 else f"{choices} inputs are binary")


def main():
    ort.set_default_logger_severity(4)
    tally = Tally("formats")
    letters, speech = ROOT / "examples/letters/letters.onnx", DATA / "models/kwt1-transformer-kws.onnx"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for word in WORDS:
            tally.check(f"letters, {word}", problem(letters, "qdq", word, folder))
        for word in ("s4", "ternary", "binary", "nf4", "f4e2m1", "u16"):
            tally.check(f"letters, {word}, opset 13", problem(letters, "qdq", word, folder, ("--opset", "13")))
        for preset in ("w8", "w4", "w2", "ternary", "binary", "f16", "bf16"):
            tally.check(f"letters, preset {preset}", mismatch(letters, folder, ("--recipe", preset)))
        for real in ("f16", "bf16"):  # a sum that differs in its last bit may be rounded to the next float of 16 bits
            options = ("--recipe", real, "--mode", "static", "--activations", real)
            tally.check(f"letters, activations {real}", mismatch(letters, folder, options, 0.02 if real == "bf16" else 0.002))
        tally.check("convolutions, weights and activations binary", binary_problem(folder))
        onnx.save(branches(), folder / "branches.onnx")
        for word in ("s8", "s4", "nf4:16", "ternary"):
            tally.check(f"branches, {word}", problem(folder / "branches.onnx", "qdq", word, folder))
        if speech.exists():
            (folder / "attention.recipe").write_text("preset w8\n[@products]\nmode static\nactivations f16\n")
            wrong = mismatch(speech, folder, ("--recipe", folder / "attention.recipe"), 0.002)
            casts = sum(n.op_type == "Cast" for n in onnx.load(folder / "small.onnx").graph.node)
            tally.check("kwt1, attention in f16", wrong or ("" if casts >= 96 else f"only {casts} Casts in it"))
            for word in PRODUCTS:
                tally.check(f"kwt1, {word}", problem(speech, "qdq", word, folder))
                tally.check(f"kwt1, {word}, MatMulNBits", problem(speech, "matmulnbits", word, folder))
        else:
            tally.skip("kwt1", f"no model in {DATA / 'models'}")
        old = DATA / "models/ultraface-rfb-320.onnx"
        if old.exists():
            tally.check("ultraface, opset 9 raised to 21", problem(old, "qdq", "s4", folder))
        else:
            tally.skip("ultraface", f"no model in {DATA / 'models'}")
    tally.finish()


if __name__ == "__main__":
    sys.exit(main())
