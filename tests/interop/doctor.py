#!/usr/bin/env python3
"""doctor.py [--all] [NAME…]: `narrow doctor` tells how many nodes onnxruntime computes on integers, by operator; this compares it
with the graph that onnxruntime's own optimizer makes of the same file, for models that narrow and onnxruntime quantized."""
import collections
import json
import logging
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from harness import DATA, Tally, narrow
from onnxruntime import quantization as oq

# Operators of onnxruntime that compute on integers.
INTEGER = {"ConvInteger", "MatMulInteger", "MatMulNBits", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
           "DynamicQuantizeLSTM"}
QUICK = {"resnet8-cifar10", "resnet20-cifar10", "dscnn-kws", "kwt1-transformer-kws", "squeezenet1.1", "ultraface-rfb-320", "lstm-kws"}

# name: arguments of narrow quantize
OURS = {
    "qdq": [],
    "qdq, elementwise": ["--elementwise", "on", "--quantize-outputs"],
    "qdq, symmetric": ["--symmetric"],
    "qdq, s8": ["--activations", "s8"],
    "qdq, 16 bits": ["--activations", "u16"],
    "qdq, float bias": ["--float-bias"],
    "qoperator": ["--form", "qoperator"],
    "weights": ["--weights-only"],
    "4 bits in blocks": ["--weights-only", "--weights", "s4:32"],
    "matmulnbits": ["--weights-only", "--weights", "s4:32", "--form", "matmulnbits"],
}
THEIRS = {
    "QDQ": dict(quant_format=oq.QuantFormat.QDQ, per_channel=True, weight_type=oq.QuantType.QInt8),
    "QDQ, per tensor, u8": dict(quant_format=oq.QuantFormat.QDQ, weight_type=oq.QuantType.QUInt8),
    "QOperator": dict(quant_format=oq.QuantFormat.QOperator, weight_type=oq.QuantType.QInt8),
}


def optimized(path, folder):
    """Integer operators of the graph that onnxruntime runs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimized.onnx", load_external_data=False).graph
    return collections.Counter(n.op_type for n in graph.node if n.op_type in INTEGER or n.op_type.startswith("QLinear"))


def foretold(path):
    report = json.loads(narrow("doctor", path, "--target", "onnxruntime", "--json", "-"))
    return collections.Counter(n["kernel"] for n in report["layers"] if n["runs_in"] == "integer")


# onnxruntime makes signed activations unsigned pair by pair, also of the pairs that it moved, and there we do not follow it.
UNKNOWN = {("dtln-2", "narrow qdq, s8"), ("ultraface-rfb-320", "narrow qdq, s8")}

# onnxruntime merges DynamicQuantizeLinear and MatMulInteger into one, which is as much on integers.
SAME = {"MatMulIntegerToFloat": "MatMulInteger", "DynamicQuantizeMatMul": "MatMulInteger"}


def difference(path, folder):
    real, told = optimized(path, folder), foretold(path)
    if any(n.op_type == "MatMulInteger" for n in onnx.load(path).graph.node):
        real, told = (sum((collections.Counter({SAME.get(k, k): v}) for k, v in c.items()), collections.Counter())
                      for c in (real, told))
    print(f"    {dict(real)}")
    return "" if real == told else f"onnxruntime {dict(real - told)}, doctor {dict(told - real)}"


class Reader(oq.CalibrationDataReader):
    def __init__(self, feeds):
        self.rows = iter([feeds])

    def get_next(self):
        return next(self.rows, None)


def candidates(model, feeds, folder):
    np.savez(folder / "feeds.npz", **feeds)
    for name, options in OURS.items():
        small = folder / "ours.onnx"
        weights = ["--weights-only"] if "--weights-only" in options else ["--calibrate", folder / "feeds.npz"]
        try:
            narrow("quantize", model, "-o", small, "-q", *weights, *(o for o in options if o != "--weights-only"))
        except RuntimeError as error:
            print(f"    {name}: {error}")
            continue
        yield f"narrow {name}", small
    for name, options in THEIRS.items():
        small = folder / "theirs.onnx"
        oq.quantize_static(model, small, Reader(feeds), activation_type=oq.QuantType.QUInt8, **options)
        if options.get("per_channel") and onnx.load(model).opset_import[0].version < 13:
            continue  # it writes files then that it does not load
        yield f"onnxruntime {name}", small
    small = folder / "dynamic.onnx"
    oq.quantize_dynamic(model, small, weight_type=oq.QuantType.QUInt8)
    yield "onnxruntime dynamic", small


def fork(op, readers, path):
    """A layer whose output is read on a grid ("grid"), as it is ("float"), or both."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    constant = lambda name, value: onnx.numpy_helper.from_array(np.asarray(value), name)
    shape = [1, 4, 4, 4] if op == "Conv" else [4, 4]
    weight = (np.arange(64 if op == "Conv" else 16) % 7 - 3).astype(np.int8).reshape([4, 4, 2, 2] if op == "Conv" else [4, 4])
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]), helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
             helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"]), helper.make_node(op, ["xd", "wd"], ["y"], name="layer")]
    outputs = []
    if "grid" in readers:
        nodes += [helper.make_node("QuantizeLinear", ["y", "s", "z"], ["yq"]), helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["a"])]
        outputs.append("a")
    if "float" in readers:
        nodes.append(helper.make_node("Tanh", ["y"], ["b"]))
        outputs.append("b")
    graph = helper.make_graph(nodes, "fork", [helper.make_tensor_value_info("x", floats, shape)],
                              [helper.make_tensor_value_info(o, floats, None) for o in outputs],
                              [constant("s", np.float32(0.1)), constant("z", np.uint8(128)), constant("wz", np.int8(0)), constant("w", weight)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def check_forks(tally):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fork.onnx"
        for op in ("Conv", "Gemm", "MatMul"):
            for readers in (["grid"], ["float"], ["grid", "float"]):
                fork(op, readers, path)
                tally.check(f"{op}, read by {' and '.join(readers)}", difference(path, pathlib.Path(folder)))


def main():
    logging.disable(logging.WARNING)
    ort.set_default_logger_severity(3)
    names = [a for a in sys.argv[1:] if a != "--all"]
    tally = Tally("doctor")
    if not names:
        check_forks(tally)
    for model in sorted((DATA / "models").glob("*.onnx")):
        if model.stem not in names if names else "--all" not in sys.argv and model.stem not in QUICK:
            continue
        golden = DATA / "golden" / model.stem
        feeds = {p.name[len("input."):-len(".npy")]: np.load(p) for p in golden.glob("input.*.npy")}
        with tempfile.TemporaryDirectory() as folder:
            what = "start"
            try:
                for what, small in candidates(model, feeds, pathlib.Path(folder)):
                    print(f"  {model.stem}: {what}")
                    if (model.stem, what) in UNKNOWN:
                        tally.skip(f"{model.stem}, {what}", "signed activations behind moved quantizers")
                    else:
                        tally.check(f"{model.stem}, {what}", difference(small, pathlib.Path(folder)))
            except Exception as error:  # whatever either tool raises
                tally.check(f"{model.stem}, after {what}", f"{type(error).__name__}: {str(error)[:300]}")
    if not list((DATA / "models").glob("*.onnx")):
        tally.skip("doctor", f"no model in {DATA / 'models'}")
    tally.finish()


if __name__ == "__main__":
    main()
