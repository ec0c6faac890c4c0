#!/usr/bin/env python3
"""statistics.py: what `narrow info --statistics` says of parameters, against NumPy on the numbers themselves: of a float
model, and of the same model with codes per tensor, per channel (with zero points) and per block."""
import json
import pathlib
import tempfile

import numpy as np
import onnx
from harness import Tally, narrow
from onnx import TensorProto, helper, numpy_helper

SHAPE = (96, 70)  # of the weight: input, output
OPTIONS = {
    "per tensor": ["--per-tensor"],
    "per channel": ["--weight-scheme", "asymmetric"],
    "in blocks": ["--weights", "s4:32"],
}


def write_model(path, weight):
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="layer")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in zip("xy", SHAPE)]
    graph = helper.make_graph([node], "one", info[:1], info[1:], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def stored(path):
    """Codes, scales and zero points of the only DequantizeLinear, and what they mean."""
    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear")
    parts = [arrays[n].astype(np.float32) for n in node.input] + [np.float32(0)]
    attributes = {a.name: a.i for a in node.attribute}
    codes, scale, zero = parts[:3]
    if attributes.get("block_size"):
        scale, zero = (np.repeat(a, attributes["block_size"], 0)[:SHAPE[0]] if a.ndim else a for a in (scale, zero))
    return codes, scale, zero, (codes - zero) * scale


def expected(x):
    """By nearest rank, as the documentation says."""
    at = np.sort(x.ravel())
    rank = {p: at[max(int(np.ceil(p / 100 * x.size)), 1) - 1] for p in (1, 50, 99)}
    return {"min": x.min(), "max": x.max(), "mean": x.mean(dtype=np.float64), "std": x.std(dtype=np.float64),
            **{f"p{p}": v for p, v in rank.items()}}


def differences(row, want, tolerance=1e-5):
    wrong = [f"{k} is {row.get(k)}, not {v}" for k, v in want.items()
             if row.get(k) is None or abs(row[k] - v) > tolerance * (1 + abs(float(v)))]
    return "; ".join(wrong)


def statistics(path, *args):
    report = json.loads(narrow("info", path, "--channels", "--json", "-", *args))
    return next(row for row in report["statistics"] if row["role"] == "weight")


def main():
    tally = Tally("statistics")
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal(SHAPE) * np.linspace(0.1, 2, SHAPE[1]) + 0.05).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        original = pathlib.Path(folder) / "float.onnx"
        write_model(original, weight)
        row = statistics(original)
        tally.check("float", differences(row, expected(weight)))
        tally.check("float, channels", differences(row["channels"][7], {
            "min": weight[:, 7].min(), "max": weight[:, 7].max(), "mean": weight[:, 7].mean(), "std": weight[:, 7].std()}))
        for name, options in OPTIONS.items():
            small = original.with_name("small.onnx")
            narrow("quantize", original, "-o", small, "--weights-only", "-q", *options)
            codes, scale, zero, x = stored(small)
            row = statistics(small, "--reference", original)
            noise = ((weight - x).astype(np.float64) ** 2).sum()
            want = expected(x) | {
                "sqnr_db": 10 * np.log10((weight.astype(np.float64) ** 2).sum() / noise),
                "at_ends": np.mean((codes == row["code_min"]) | (codes == row["code_max"])),
                "scales": np.unique(scale).size if name != "in blocks" else 3 * SHAPE[1],
                "scale_min": scale.min(), "scale_max": scale.max(),
                "saturated": np.mean((weight / scale + zero < row["code_min"] - 0.5) | (weight / scale + zero > row["code_max"] + 0.5))}
            tally.check(name, differences(row, want))
            lower = np.broadcast_to(scale * (row["code_min"] - zero), SHAPE)
            if name != "in blocks":
                channel = {"scale": np.broadcast_to(scale, SHAPE)[0, 7], "offset": lower[0, 7],
                           "zero_point": np.broadcast_to(zero, SHAPE)[0, 7], "min": x[:, 7].min(), "max": x[:, 7].max()}
                tally.check(f"{name}, channels", differences(row["channels"][7], channel))
                again = channel["scale"] * (codes[:, 7] - row["code_min"]) + row["channels"][7]["offset"]
                tally.check(f"{name}, offset form", "" if np.allclose(again, x[:, 7], atol=1e-6) else "other numbers")
    tally.finish()


if __name__ == "__main__":
    main()
