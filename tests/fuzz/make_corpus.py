#!/usr/bin/env python3
"""make_corpus.py: writes the seeds of the fuzz targets into tests/fuzz/corpus: tiny models, one per family of operators, with
every way to store a tensor, subgraphs, quantization, old opsets; and a few damaged ones. Run it with .venv/bin/python after
changing it; the files are in the repository, so that the tests need no Python."""
import pathlib

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).parent / "corpus"
F, I64, U8, I8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8
rng = np.random.default_rng(1)


def floats(name, *shape):
    return numpy_helper.from_array((rng.integers(-8, 9, shape) / 8).astype(np.float32), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def scalar(name, value, kind=np.float32):
    return numpy_helper.from_array(np.array(value, kind), name)


def node(op, inputs, outputs, domain="", **attributes):
    """Names are separated by spaces; - stands for one left out."""
    names = [["" if name == "-" else name for name in names.split()] for names in (inputs, outputs)]
    return helper.make_node(op, *names, domain=domain, **attributes)


def write(name, nodes, inputs, outputs, constants=(), opset=17, ir=8, extra=(), suffix="onnx"):
    """inputs and outputs: {name: shape or (type, shape)}. Models that must be refused have the suffix bad."""
    def infos(values):
        pairs = {k: v if isinstance(v, tuple) else (F, v) for k, v in values.items()}
        return [helper.make_tensor_value_info(k, kind, shape) for k, (kind, shape) in pairs.items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in extra]
    (FOLDER / f"{name}.{suffix}").write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name="narrow").SerializeToString())


def networks():
    write("convnet", [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]), node("BatchNormalization", "c g be m v", "n"),
        node("Relu", "n", "r"), node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[1, 1]), node("Conv", "p d", "e", group=4),
        node("Add", "e p", "s"), node("Clip", "s lo hi", "k"), node("GlobalAveragePool", "k", "a"), node("Flatten", "a", "f"),
        node("Gemm", "f q z", "y", transB=1)], {"x": ["N", 3, 8, 8]}, {"y": ["N", 2]},
        [floats("w", 4, 3, 3, 3), floats("b", 4), floats("g", 4), floats("be", 4), floats("m", 4),
         numpy_helper.from_array(np.ones(4, np.float32), "v"), floats("d", 4, 1, 1, 1), scalar("lo", 0), scalar("hi", 6),
         floats("q", 2, 4), floats("z", 2)])
    write("attention", [
        node("MatMul", "x wq", "q"), node("MatMul", "x wk", "k"), node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "s"), node("Softmax", "s", "p", axis=-1), node("MatMul", "p q", "o"), node("Add", "o x", "r"),
        node("LayerNormalization", "r g b", "n"), node("Gelu", "n", "y")], {"x": [1, 3, 4]}, {"y": [1, 3, 4]},
        [floats("wq", 4, 4), floats("wk", 4, 4), floats("g", 4), floats("b", 4)], opset=20, ir=9)
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        write(op.lower(), [node(op, "x w r b", "y h", hidden_size=3, direction="bidirectional")], {"x": [4, 1, 2]},
              {"y": [4, 2, 1, 3], "h": [2, 1, 3]}, [floats("w", 2, 3 * gates, 2), floats("r", 2, 3 * gates, 3),
                                                    floats("b", 2, 6 * gates)], opset=14)
    write("shapes", [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axes", "u"), node("Concat", "u rest", "t", axis=0),
        node("Reshape", "x t", "f"), node("Split", "f", "a b", axis=1), node("Squeeze", "u axes", "q"),
        node("Slice", "a starts ends axes1 steps", "l"), node("Pad", "l pads", "p"), node("Expand", "p target", "e"),
        node("Tile", "e repeats", "y"), node("Range", "zero q one", "w"), node("Cast", "w", "v", to=F)],
        {"x": [2, 2, 3]}, {"y": None, "b": [2, 3], "v": [2]},
        [scalar("zero", 0, np.int64), scalar("one", 1, np.int64), ints("axes", 0), ints("rest", -1), ints("starts", -1),
         ints("ends", -10), ints("axes1", 1), ints("steps", -1), ints("pads", 0, 1, 0, 1), ints("target", 2, 2, 5),
         ints("repeats", 1, 2, 1)])


def indices():
    write("gather", [
        node("GatherElements", "x i", "a", axis=1), node("GatherND", "x n", "b"), node("ScatterElements", "x i u", "c", axis=1),
        node("ScatterND", "x n v", "d", reduction="add"), node("OneHot", "i depth values", "e"), node("TopK", "x k", "f g"),
        node("ArgMax", "x", "h", axis=1), node("CumSum", "x zero", "j"), node("NonZero", "x", "l"), node("Compress", "x m", "o", axis=1),
        node("Unique", "x", "p"), node("Where", "m x a", "q")], {"x": [2, 3]},
        {"a": None, "b": None, "c": None, "d": None, "e": None, "f": None, "g": (I64, None), "h": (I64, None), "j": None,
         "l": (I64, None), "o": None, "p": None, "q": None},
        [numpy_helper.from_array(np.array([[0, 1, -1], [2, 0, 1]]), "i"), numpy_helper.from_array(np.array([[0, 1], [1, 2]]), "n"),
         floats("u", 2, 3), floats("v", 2), ints("depth", 3), numpy_helper.from_array(np.array([0, 1], np.float32), "values"),
         ints("k", 2), scalar("zero", 0, np.int64), numpy_helper.from_array(np.array([True, False, True]), "m")], opset=18)
    write("reduce", [node(f"Reduce{kind}", "x axes", kind.lower(), keepdims=k % 2)
                     for k, kind in enumerate(("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"))]
          + [node("Einsum", "x x", "ein", equation="bij,bkj->bik"), node("Det", "sq", "det")], {"x": [2, 3, 2], "sq": [2, 2]},
          {k: None for k in ("sum", "mean", "max", "l2", "logsumexp", "ein", "det")}, [ints("axes", 1)], opset=18)
    write("reduce_old", [node("ReduceSum", "x", "y", axes=[0, -1], keepdims=0), node("Squeeze", "x", "z", axes=[0]),
                         node("Softmax", "x", "s", axis=1)], {"x": [1, 2, 3]}, {"y": None, "z": None, "s": None}, opset=11, ir=6)


def images():
    write("resize", [
        node("Resize", "x - scales", "a", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Resize", "x - - sizes", "b", mode="cubic"), node("ConvTranspose", "x w", "c", strides=[2, 2]),
        node("AveragePool", "x", "d", kernel_shape=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1), node("DepthToSpace", "x", "e", blocksize=2),
        node("GridSample", "x grid", "f"), node("LRN", "x", "h", size=3), node("InstanceNormalization", "x s t", "i")],
        {"x": [1, 4, 4, 4]}, {k: None for k in "abcdefhi"},
        [numpy_helper.from_array(np.array([1, 1, 2, 1.5], np.float32), "scales"), ints("sizes", 1, 4, 3, 7), floats("w", 4, 2, 2, 2),
         floats("grid", 1, 2, 2, 2), floats("s", 4), floats("t", 4)], opset=16)
    write("detector", [node("NonMaxSuppression", "boxes scores n iou least", "y")], {"boxes": [1, 4, 4], "scores": [1, 2, 4]},
          {"y": (I64, None)}, [ints("n", 2), scalar("iou", 0.5), scalar("least", 0)], opset=11)


def quantized():
    scales = [scalar("sx", 0.05), scalar("zx", 128, np.uint8), scalar("sy", 0.1), scalar("zy", 3, np.uint8),
              numpy_helper.from_array(np.array([0.02, 0.03], np.float32), "sw"), numpy_helper.from_array(np.zeros(2, np.int8), "zw"),
              numpy_helper.from_array(rng.integers(-9, 9, (2, 3, 1, 1)).astype(np.int8), "w"),
              numpy_helper.from_array(np.array([5, -7], np.int32), "b"),
              numpy_helper.from_array(np.array([0.001, 0.0015], np.float32), "sb")]
    write("qdq", [
        node("QuantizeLinear", "x sx zx", "xq"), node("DequantizeLinear", "xq sx zx", "xd"),
        node("DequantizeLinear", "w sw zw", "wd", axis=0), node("DequantizeLinear", "b sb", "bd", axis=0),
        node("Conv", "xd wd bd", "c"), node("Relu", "c", "r"), node("QuantizeLinear", "r sy zy", "q"),
        node("DequantizeLinear", "q sy zy", "y")], {"x": [1, 3, 2, 2]}, {"y": [1, 2, 2, 2]}, scales, opset=13)
    write("qlinearconv", [
        node("QuantizeLinear", "x sx zx", "xq"), node("QLinearConv", "xq sx zx w sw zw sy zy b", "q"),
        node("DequantizeLinear", "q sy zy", "y")], {"x": [1, 3, 2, 2]}, {"y": [1, 2, 2, 2]}, scales[:8], opset=13)
    codes = [numpy_helper.from_array(rng.integers(-9, 9, (3, 2)).astype(np.int8), "w"), scalar("wz", 0, np.int8), scalar("ws", 0.01)]
    for name, factors in (("dynamic", "s ws"), ("dynamic_short", "")):  # the second is a Mul without inputs
        write(name, [
            node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z wz", "i"), node("Cast", "i", "f", to=F),
            node("Mul", factors, "k"), node("Mul", "f k", "y")], {"x": [2, 3]}, {"y": [2, 2]}, codes)
    write("int4", [node("DequantizeLinear", "w s z", "d", axis=0, block_size=2), node("MatMul", "x d", "y")], {"x": [1, 4]},
          {"y": [1, 2]}, [helper.make_tensor("w", TensorProto.INT4, [4, 2], [1, -8, 7, 0, 3, -2, 5, -1]), floats("s", 2, 2),
                          helper.make_tensor("z", TensorProto.INT4, [2, 2], [0, 1, -1, 0])], opset=21, ir=10)
    scales = scales[:6] + [numpy_helper.from_array(rng.integers(-9, 9, (2, 3)).astype(np.int8), "g")]
    for name, transposed in (("contrib", 1), ("contrib_scales", 0)):  # the second has two scales for three columns
        write(name, [
            node("QuantizeLinear", "x sx zx", "q"), node("QLinearAdd", "q sx zx q sx zx sy zy", "a", domain="com.microsoft"),
            node("QGemm", "a sy zy g sw zw", "y", domain="com.microsoft", transB=transposed)],
            {"x": [1, 2 + transposed]}, {"y": [1, 3 - transposed]}, scales, extra=["com.microsoft"])


def recurrent():
    """onnxruntime's dynamic LSTM, and a GRU whose node says that its state is quantized while running."""
    def codes(name, *shape):
        return numpy_helper.from_array((np.arange(np.prod(shape)) * 37 % 251 - 125).astype(np.int8).reshape(shape), name)
    gru = node("GRU", "x gw gr", "- gh", hidden_size=2)
    gru.metadata_props.add(key="ai.narrow.state", value="u8")
    gru.metadata_props.add(key="other", value="kept")
    write("dynamic_lstm", [
        node("DynamicQuantizeLSTM", "x w r b lengths - - - ws z rs z", "y h c", domain="com.microsoft", hidden_size=2,
             direction="bidirectional"),
        node("DequantizeLinear", "gwq gs", "gw"), node("DequantizeLinear", "grq gs", "gr"), gru],
        {"x": [3, 1, 2]}, {"y": [3, 2, 1, 2], "h": [2, 1, 2], "gh": [1, 1, 2]},
        [codes("w", 2, 2, 8), codes("r", 2, 2, 8), floats("b", 2, 16), numpy_helper.from_array(np.array([2], np.int32), "lengths"),
         numpy_helper.from_array(np.array([0.01, 0.02], np.float32), "ws"), numpy_helper.from_array(np.zeros(2, np.int8), "z"),
         numpy_helper.from_array(np.array([0.02, 0.01], np.float32), "rs"), codes("gwq", 1, 6, 2), codes("grq", 1, 6, 2),
         scalar("gs", 0.01)], extra=["com.microsoft"])


def structure():
    then = helper.make_graph([node("Add", "x one", "t")], "then", [], [helper.make_tensor_value_info("t", F, None)])
    other = helper.make_graph([node("Mul", "x x", "e")], "else", [], [helper.make_tensor_value_info("e", F, None)])
    write("if", [node("If", "c", "y", then_branch=then, else_branch=other)], {"c": (TensorProto.BOOL, []), "x": [2]}, {"y": [2]},
          [scalar("one", 1)])
    body = helper.make_graph(
        [node("Add", "a x", "b"), node("Identity", "keep", "on")], "body",
        [helper.make_tensor_value_info("i", I64, []), helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", F, [2])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("b", F, [2])])
    write("loop", [node("Loop", "n - x", "y", body=body)], {"x": [2]}, {"y": [2]}, [ints("n", 3)])
    scan = helper.make_graph(
        [node("Add", "x x", "b"), node("Neg", "x", "c"), node("Identity", "keep", "on")], "scan",
        [helper.make_tensor_value_info("i", I64, []), helper.make_tensor_value_info("keep", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("b", F, [2]),
         helper.make_tensor_value_info("c", F, [2])])
    write("loop_scan", [node("Loop", "n go", "- y", body=scan)], {"x": [2], "go": (TensorProto.BOOL, [])}, {"y": [3, 2]},
          [ints("n", 3)])
    typed = [helper.make_tensor("f", F, [2], [1.0, 2.0]), helper.make_tensor("d", TensorProto.DOUBLE, [1], [3.0]),
             helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]), helper.make_tensor("b", TensorProto.BFLOAT16, [1], [1.0]),
             helper.make_tensor("i", I64, [3], [1, 2, 3]), helper.make_tensor("u", TensorProto.UINT32, [1], [7]),
             helper.make_tensor("e", TensorProto.FLOAT8E4M3FN, [2], [1.0, 448.0]), helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])]
    write("types", [node("Add", "x f", "y")] + [node("Identity", t.name, f"{t.name}_out") for t in typed[1:]], {"x": [2]},
          {"y": [2], **{f"{t.name}_out": (t.data_type, list(t.dims)) for t in typed[1:]}}, typed, opset=19, ir=9)
    write("constants", [
        node("Constant", "", "a", value=floats("a", 2)), node("Constant", "", "b", value_floats=[1.0, 2.0]),
        node("Constant", "", "c", value_int=3), node("ConstantOfShape", "n", "k", value=floats("v", 1)), node("Add", "a b", "s"),
        node("Add", "s x", "y")], {"x": [2]}, {"y": [2], "c": (I64, []), "k": None}, [ints("n", 2, 2)])
    write("cycle", [node("Add", "x b", "a"), node("Relu", "a", "b")], {"x": [2]}, {"b": [2]}, suffix="bad")
    write("unknown", [node("Frobnicate", "x", "y", domain="com.example", level=3)], {"x": [2]}, {"y": [2]}, extra=["com.example"])
    write("short", [node("QuantizeLinear", "x", "q"), node("DequantizeLinear", "q", "d"), node("Conv", "d", "c"), node("Relu", "c", "r"),
                    node("MatMul", "r", "m"), node("Add", "m", "a"), node("Gemm", "a", "g"), node("Where", "g", "w"),
                    node("Concat", "", "k"), node("DequantizeLinear", "", "e"), node("MatMul", "w e", ""), node("Clip", "k - -", "y")],
          {"x": [2, 2]}, {"y": [2, 2]})
    write("huge", [node("ConstantOfShape", "n", "y")], {}, {"y": None}, [ints("n", 1 << 20, 1 << 20, 1 << 20)])
    write("negative", [node("Conv", "x w", "y", strides=[0, 0], dilations=[-1, 1], group=0)], {"x": [1, 1, 3, 3]}, {"y": None},
          [floats("w", 1, 1, 2, 2)])


def damage():
    whole = (FOLDER / "convnet.onnx").read_bytes()
    (FOLDER / "cut.bad").write_bytes(whole[:len(whole) // 2])
    (FOLDER / "flipped.bad").write_bytes(bytes(b ^ 0x80 if i % 97 == 13 else b for i, b in enumerate(whole)))
    (FOLDER / "empty.bad").write_bytes(b"")
    (FOLDER / "text.bad").write_bytes(b"This is not a model.\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for part in (networks, indices, images, quantized, recurrent, structure, damage):
        part()
