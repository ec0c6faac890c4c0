"""kernels.py: the rate of narrow's kernels on every convolution and matrix product of some networks, and its share of the
arithmetic peak. The checker (tests/check) times them; this file reads the shapes out of the ONNX files."""
import re
import subprocess
import sys
from collections import Counter

import onnx
from onnx import numpy_helper, shape_inference
from prepare import float_file
from workloads import BUILD, OUT

NETWORKS = ("resnet50", "mobilenet_v2", "bert_base")
FAMILIES = {"f32": ("gemm_f32__", "dwconv_f32__"), "u8s8": ("gemm_u8s8__", "dwconv_u8s8__")}
LINE = re.compile(r"^(\w+) +(.+?) +([\d.]+) us +([\d.]+) (G(?:FL)?OP/s)$")


def dimensions(graph):
    """{value: shape} of everything whose shape is known."""
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    for v in [*graph.input, *graph.value_info, *graph.output]:
        dims = [d.dim_value for d in v.type.tensor_type.shape.dim]
        if v.type.tensor_type.HasField("shape") and all(d > 0 for d in dims):
            shapes[v.name] = dims
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = list(numpy_helper.to_array(node.attribute[0].t).shape)
    return shapes


def conv_shape(node, x, w):
    """How the checker writes a convolution of x [B,C,H,W] with w [N,C/groups,kh,kw], and its multiplications; None when it
    has no word for it. A pointwise one is a matrix product over pixels, as the planner makes it."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    stride, dilation = (attributes.get(k, [1, 1]) for k in ("strides", "dilations"))
    pads, groups = attributes.get("pads", [0] * 4), attributes.get("group", 1)
    (b, c, h, width), (n, k, kh, kw) = x, w
    if len({*stride}) > 1 or len({*dilation}) > 1 or len({*pads}) > 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    s, d, p = stride[0], dilation[0], pads[0]
    out = [(size + 2 * p - (kernel - 1) * d - 1) // s + 1 for size, kernel in ((h, kh), (width, kw))]
    work = b * out[0] * out[1] * n * k * kh * kw
    if groups == c == n and k == 1:
        return f"{b}x{h}x{width}x{c}, {kh}x{kw}/{s} dil {d} pad {p}", work
    if groups != 1:
        return None
    if kh == kw == s == 1 and p == 0:
        return f"{b * h * width} x {n} x {c}", work
    return f"conv {b}x{h}x{width}x{c} -> {n}, {kh}x{kw}/{s} dil {d} pad {p}", work


def product_shapes(node, shapes):
    """(shape, multiplications, how many) of a MatMul or Gemm: a batch of products is as many of them."""
    a, b, y = (shapes[v] for v in (node.input[0], node.input[1], node.output[0]))
    attributes = {t.name: onnx.helper.get_attribute_value(t) for t in node.attribute}
    k = a[0] if attributes.get("transA") else a[-1]
    m, n, many = y[-2], y[-1], 1
    for d in y[:-2]:
        many *= d
    if len(b) == 2:  # one matrix for all: the batch is more rows
        m, many = m * many, 1
    return f"{m} x {n} x {k}", m * n * k, many


def shapes_of(name):
    """[{shape, count, giga_operations}] of a network, in order of first appearance."""
    graph = shape_inference.infer_shapes(onnx.load(float_file(name)), data_prop=True).graph
    shapes, counts, work = dimensions(graph), Counter(), {}
    for node in graph.node:
        known = all(v in shapes for v in [*node.input[:2], *node.output])
        if node.op_type == "Conv" and known and len(shapes[node.input[0]]) == 4:
            found = conv_shape(node, shapes[node.input[0]], shapes[node.input[1]])
            entry = found and (*found, 1)
        elif node.op_type in ("MatMul", "Gemm") and known and len(shapes[node.output[0]]) > 1:
            entry = product_shapes(node, shapes)
        else:
            if node.op_type in ("Conv", "MatMul", "Gemm"):
                print(f"kernels: {name}: {node.op_type} {node.name} is left out: its shape is not known or not supported")
            continue
        if entry:
            counts[entry[0]] += entry[2]
            work[entry[0]] = entry[1]
    return [{"shape": s, "count": c, "giga_operations": 2e-9 * work[s]} for s, c in counts.items()]


def checker(*args):
    """{(kernel, shape): (rate, unit)} out of what the checker prints."""
    done = subprocess.run([BUILD / "check", "--bench", *map(str, args)], capture_output=True, text=True, timeout=1800)
    if done.returncode:
        sys.exit(f"bench: the kernel checker failed with exit code {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    found = (LINE.match(line) for line in done.stdout.splitlines())
    return {(f[1], re.sub(r" to u8 #0$", "", f[2])): (float(f[4]), f[5]) for f in found if f}


def measure(names):
    """{peaks: {kind: (rate, unit)}, networks: {name: [{shape, count, giga_operations, rates: {kind: rate}}]}}"""
    networks = {name: shapes_of(name) for name in names}
    path = OUT / "shapes.txt"
    path.write_text("".join(f"{s}\n" for s in dict.fromkeys(e["shape"] for n in networks.values() for e in n)))
    rates, peaks = {}, {}
    for family in ("peak_", "gemm_", "dwconv_"):
        rates.update(checker("--shapes", path, "--filter", family))
    for (kernel, shape), (rate, unit) in rates.items():
        kind = kernel.removeprefix("peak_").split("__")[0]
        if kernel.startswith("peak_") and rate > peaks.get(kind, (0,))[0]:
            peaks[kind] = (rate, unit)
    for entry in (e for n in networks.values() for e in n):
        entry["rates"] = {kind: rate for kind, families in FAMILIES.items() for (kernel, shape), (rate, _) in rates.items()
                          if shape == entry["shape"] and kernel.startswith(families)}
    return {"peaks": peaks, "networks": networks}
