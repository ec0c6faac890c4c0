#!/usr/bin/env python3
"""qoperators.py: the operators of com.microsoft on 8-bit codes, one by one, against onnxruntime. Twice each: with constant scales,
which the importer folds into FakeQuants around the real operator, and with scales that are inputs, which leaves the operator as it
is for its own evaluation. Codes may differ by one where a quotient lies next to a tie: onnxruntime's tables, its float sums and its
place of the zero point round elsewhere. Products that end in real numbers agree to a few roundings."""
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from harness import Tally, narrow
from onnx import helper, numpy_helper

MS = "com.microsoft"
RANDOM = np.random.default_rng(11)


def codes(shape, kind):
    limits = np.iinfo(kind)
    return RANDOM.integers(limits.min, limits.max + 1, shape).astype(kind)


def grid(scale, zero, kind):
    """Scale and zero point of a tensor."""
    return [np.array(scale, np.float32), np.array(zero if kind == np.uint8 else zero - 128, kind)]


def cases():
    """Name, operator, attributes, the data inputs by place, the scales and zero points by place, output type."""
    for kind in (np.uint8, np.int8):
        k, x = kind.__name__, codes((2, 6, 5, 7), kind)
        g = lambda scale, zero: grid(scale, zero, kind)
        binary = lambda a, b: ([a, None, None, b, None, None, None, None],
                               [None, *g(0.02, 120), None, *g(0.05, 90), *g(0.07, 130)])
        unary = lambda scale, zero: ([x, None, None, None, None], [None, *g(0.04, 128), *g(scale, zero)])
        for op in ("QLinearAdd", "QLinearMul"):
            yield f"{op} {k}", op, {}, *binary(x, codes((2, 6, 5, 7), kind)), kind
            yield f"{op} {k}, broadcast", op, {}, *binary(x, codes((6, 1, 1), kind)), kind
        yield f"QLinearSigmoid {k}", "QLinearSigmoid", {}, *unary(1 / 256, 0), kind
        yield f"QLinearLeakyRelu {k}", "QLinearLeakyRelu", {"alpha": 0.1}, *unary(0.03, 40), kind
        yield f"QLinearSoftmax {k}", "QLinearSoftmax", {"axis": -1, "opset": 13}, *unary(1 / 256, 0), kind
        yield f"QLinearSoftmax {k}, flat", "QLinearSoftmax", {"axis": 2, "opset": 11}, *unary(1 / 256, 0), kind
        for last in (0, 1):
            yield f"QLinearGlobalAveragePool {k} {last}", "QLinearGlobalAveragePool", {"channels_last": last}, *unary(0.02, 100), kind
            for pad in (0, 1):
                attributes = {"channels_last": last, "kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1],
                              "count_include_pad": pad}
                yield f"QLinearAveragePool {k} {last} {pad}", "QLinearAveragePool", attributes, *unary(0.02, 100), kind
        yield (f"QLinearConcat {k}", "QLinearConcat", {"axis": 1},
               [None, None, x, None, None, codes((2, 3, 5, 7), kind), None, None],
               [*g(0.05, 110), None, *g(0.04, 128), None, *g(0.06, 100)], kind)
    a, w = codes((6, 40), np.uint8), codes((40, 9), np.int8)
    scales = RANDOM.uniform(0.001, 0.01, 9).astype(np.float32)
    bias = RANDOM.integers(-5000, 5000, 9).astype(np.int32)
    qgemm = [None, *grid(0.03, 117, np.uint8), None, scales, np.zeros(9, np.int8), None]
    yield "QGemm", "QGemm", {}, [a, None, None, w, None, None, bias, None, None], [*qgemm, *grid(0.05, 128, np.uint8)], np.uint8
    yield "QGemm to float", "QGemm", {"transB": 1, "alpha": 0.5}, [a, None, None, w.T.copy(), None, None, bias], qgemm, np.float32
    real = RANDOM.standard_normal(9).astype(np.float32)
    yield ("MatMulIntegerToFloat", "MatMulIntegerToFloat", {}, [a, w, None, None, None, None, real],
           [None, None, np.float32(0.03).reshape(()), scales, np.uint8(117).reshape(()), np.zeros(9, np.int8), None], np.float32)
    x = RANDOM.standard_normal((6, 40)).astype(np.float32)
    yield ("DynamicQuantizeMatMul", "DynamicQuantizeMatMul", {}, [x, w, None, None, real],
           [None, None, scales, np.zeros(9, np.int8), None], np.float32)


def model(op, attributes, data, parameters, kind, constant):
    """The operator alone. Data are inputs, and parameters too unless `constant`; weights and biases are constants either way, as
    onnxruntime wants them for some operators."""
    names, feeds, constants = [], {}, []
    for i in range(max(len(data), len(parameters))):
        value = data[i] if i < len(data) and data[i] is not None else parameters[i] if i < len(parameters) else None
        if value is None:
            names.append("")
            continue
        names.append(f"i{i}")
        is_data = i < len(data) and data[i] is not None
        if (is_data and value.dtype != np.int32 and not (value.ndim == 2 and value.dtype == np.int8)) or not (is_data or constant):
            feeds[f"i{i}"] = value
        else:
            constants.append(numpy_helper.from_array(value, f"i{i}"))
    node = helper.make_node(op, names, ["y"], domain=MS, **attributes)
    info = lambda name, value: helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    graph = helper.make_graph([node], "g", [info(n, v) for n, v in feeds.items()],
                              [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8), feeds


def run(proto, feeds, folder):
    path = folder / "m.onnx"
    onnx.save(proto, path)
    arguments = []
    for name, value in feeds.items():
        np.save(folder / f"{name}.npy", value)
        arguments += ["--input", f"{name}={folder / name}.npy"]
    narrow("run", path, *arguments, "--output-dir", folder / "y")
    return np.load(folder / "y" / "y.npy")


def difference(ours, theirs):
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype}{ours.shape} instead of {theirs.dtype}{theirs.shape}"
    if ours.dtype == np.float32:
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        return "" if error <= 2e-6 else f"differs by {error:.1e} of the largest"
    apart = np.abs(ours.astype(int) - theirs.astype(int))
    if apart.max() > 1 or (apart > 0).mean() > 0.03:
        return f"codes differ by up to {apart.max()}, {100 * (apart > 0).mean():.1f} % of them"
    return ""


def main():
    ort.set_default_logger_severity(4)
    tally = Tally("qoperators")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for title, op, attributes, data, parameters, kind in cases():
            proto, feeds = model(op, attributes, data, parameters, kind, True)
            try:
                theirs = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
            except Exception as error:  # what it has no kernel for
                tally.skip(title, f"onnxruntime: {str(error)[:120]}")
                continue
            for constant in (True, False):
                how = "folded" if constant else "as it is"
                try:
                    problem = difference(run(*model(op, attributes, data, parameters, kind, constant), folder), theirs)
                except RuntimeError as error:
                    problem = str(error)
                tally.check(f"{title}, {how}", problem)
    tally.finish()


if __name__ == "__main__":
    main()
