#!/usr/bin/env python3
"""mutated.py [--all]: models with one thing wrong, everywhere in turn: inputs, outputs and attributes that are missing, too
many or changed, constants of another shape, type or value. Every sanitized program of tests/fuzz must survive all of them. The
models are the fuzz corpus and what `narrow quantize` makes of some of it; --all: more of them, and all programs on all. The
mutants that crashed are kept in build/mutated."""
import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from harness import NARROW, ROOT, Tally
from onnx import AttributeProto, numpy_helper

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
KEPT = ROOT / "build" / "mutated"
DEBUG = pathlib.Path(os.environ.get("NARROW_DEBUG_DIR", ROOT / "build" / "debug"))
SEEDS = ("convnet", "attention", "lstm", "gru", "rnn", "resize", "gather", "if", "loop")
RECIPES = ("w8a8", "w8a8-dynamic", "w8", "w4", "w4a8", "w2", "w4a4", "ternary", "binary", "w1a1", "f16", "bf16",
           "w8a8-f16-attention")
FORMS = ("qdq", "qoperator", "native", "matmulnbits")
SCHEMES = ("log4", "nf4:2", "codebook4", "mxfp4", "f8e4m3fn", "sqrt8", "s4:16@f16", "u2:2")
FEW = [["--recipe", "w8a8"], ["--recipe", "w8a8", "--form", "qoperator"], ["--recipe", "w8a8", "--form", "native"],
       ["--recipe", "w8a8-dynamic"], ["--recipe", "w4", "--form", "matmulnbits"], ["--weights-only", "--weights", "nf4:2"]]


def graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def set_list(field, values):
    del field[:]
    field.extend(values)


def node_mutations(node):
    """Pairs of a name and what it does to the node."""
    for kind in ("input", "output"):
        names = list(getattr(node, kind))
        for i, name in enumerate(names):
            if name:
                yield f"{kind} {i} blank", lambda n, k=kind, v=names[:i] + [""] + names[i + 1:]: set_list(getattr(n, k), v)
            yield f"{kind} {i} and on missing", lambda n, k=kind, v=names[:i]: set_list(getattr(n, k), v)
        for i in range(len(names) - 1):
            turned = names[:i] + [names[i + 1], names[i]] + names[i + 2:]
            yield f"{kind} {i} swapped", lambda n, k=kind, v=turned: set_list(getattr(n, k), v)
    yield "one input more", lambda n, v=list(node.input[:1]): n.input.extend(v)
    yield "one output more", lambda n: n.output.append("one_more")
    for i, attribute in enumerate(node.attribute):
        yield f"no {attribute.name}", lambda n, i=i: n.attribute.pop(i)
        if attribute.type == AttributeProto.INT:
            for value in {-1, 0, 1, 2, 1 << 40, -(1 << 63)} - {attribute.i}:
                yield f"{attribute.name} {value}", lambda n, i=i, v=value: setattr(n.attribute[i], "i", v)
        if attribute.type == AttributeProto.INTS:
            values = list(attribute.ints)
            for value in ([], values[:-1], values + [1], [0] * len(values), [-1] * len(values), [1 << 40] * len(values), values[::-1]):
                yield f"{attribute.name} {value}", lambda n, i=i, v=value: set_list(n.attribute[i].ints, v)


def constant_mutations(tensor):
    """Pairs of a name and the changed tensor."""
    try:
        array = numpy_helper.to_array(tensor)
        raw = numpy_helper.from_array(array, tensor.name)
    except (TypeError, ValueError):
        return
    if array.dtype == object:
        return
    if raw.data_type == tensor.data_type:
        arrays = {"scalar": array.reshape(-1)[:1].reshape(()) if array.size else array, "empty": array.reshape(-1)[:0],
                  "flat": array.reshape(-1), "one axis more": array[None], "one axis more behind": array[..., None],
                  "zeros": np.zeros_like(array)}
        for axis in range(array.ndim):
            arrays[f"axis {axis} longer"] = np.concatenate([array, array.take([0], axis)], axis) if array.shape[axis] else array
            arrays[f"axis {axis} shorter"] = array.take(range(array.shape[axis] - 1), axis) if array.shape[axis] else array
        if array.ndim > 1:
            arrays["transposed"] = np.ascontiguousarray(array.T)
        if array.dtype.kind == "f":
            arrays["not a number"] = np.full_like(array, np.nan)
            arrays["infinite"] = np.full_like(array, np.inf)
            arrays["negative"] = -array
            for name, value in (("huge", 3e38), ("tiny", 1e-45)):
                arrays[name] = np.full_like(array, value)
                arrays[f"one {name}"] = np.where(np.arange(array.size).reshape(array.shape) == 0, np.float32(value), array)
        elif array.dtype.kind == "i" and array.size:
            arrays["largest"] = np.full_like(array, np.iinfo(array.dtype).max)
            arrays["smallest"] = np.full_like(array, np.iinfo(array.dtype).min)
        for kind in (np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64):
            if array.dtype != kind:
                arrays[f"as {np.dtype(kind).name}"] = array.astype(kind)
        for name, changed in arrays.items():
            yield name, numpy_helper.from_array(changed, tensor.name)
    else:  # a type that numpy lacks
        for dims in ([], [0], list(tensor.dims) + [1], list(tensor.dims)[::-1]):
            changed = onnx.TensorProto()
            changed.CopyFrom(tensor)
            set_list(changed.dims, dims)
            yield f"shape {dims}", changed


def mutations(model):
    """Pairs of a name and the model with one thing wrong."""
    def copy():
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        return changed

    for g, graph in enumerate(graphs(model.graph)):
        for n, node in enumerate(graph.node):
            for name, change in node_mutations(node):
                changed = copy()
                change(list(graphs(changed.graph))[g].node[n])
                yield f"{node.op_type} {n}: {name}", changed
        for t, tensor in enumerate(graph.initializer):
            for name, value in constant_mutations(tensor):
                changed = copy()
                list(graphs(changed.graph))[g].initializer[t].CopyFrom(value)
                yield f"{tensor.name}: {name}", changed
        for i, info in enumerate(graph.input):
            for name, dims in (("scalar", 0), ("one axis less", -1)):
                changed = copy()
                set_list(shape := list(graphs(changed.graph))[g].input[i].type.tensor_type.shape.dim, list(shape)[:dims])
                yield f"{info.name}: {name}", changed


def samples(model):
    """Calibration data for the first input of a model."""
    dims = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal([4] + dims[1:]).astype(np.float32)


def quantized(folder, everything):
    """What narrow makes of models of the corpus, each file once."""
    ways = [["--recipe", recipe, "--form", form] for recipe, form in itertools.product(RECIPES, FORMS)]
    ways += [["--weights-only", "--weights", scheme] for scheme in SCHEMES]
    seen = set()
    for seed in SEEDS if everything else SEEDS[:3]:
        data = folder / f"{seed}.npy"
        np.save(data, samples(onnx.load(CORPUS / f"{seed}.onnx")))
        for way in ways if everything else FEW:
            path = folder / f"{seed} {' '.join(way)}.onnx".replace("--", "")
            command = [NARROW, "quantize", CORPUS / f"{seed}.onnx", "-o", path, "-q"] + way
            subprocess.run(command + (["--calibrate", data] if "--recipe" in way else []), capture_output=True)
            digest = hashlib.sha256(path.read_bytes()).digest() if path.exists() else None  # not every form fits every model
            if digest and digest not in seen:
                seen.add(digest)
                yield path


def survive(program, paths):
    """The paths that crash the program, each with what was said."""
    crashed = []
    while paths:
        run = subprocess.run([program] + paths, capture_output=True, text=True, errors="replace")
        if run.returncode == 0:
            break
        done = max(1, len(set(run.stdout.splitlines()) & set(paths)))  # the last one printed is the one that crashed
        said = [line for line in run.stderr.splitlines() if "SUMMARY" in line or "runtime error" in line]
        crashed.append((paths[done - 1], (said or [f"exit {run.returncode}"])[-1]))
        paths = paths[done:]
    return crashed


def try_model(path, programs):
    """Per program: its name, and what its crashes were."""
    np.seterr(all="ignore")  # of this thread
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for i, (name, model) in enumerate(mutations(onnx.load(path))):
            names[f"{folder}/{path.stem}-{i}.onnx"] = name
            pathlib.Path(folder, f"{path.stem}-{i}.onnx").write_bytes(model.SerializeToString())
        results = []
        for program in programs:
            crashes = survive(program, list(names))
            for crashed, _ in crashes:
                KEPT.mkdir(parents=True, exist_ok=True)
                shutil.copy(crashed, KEPT)
            results.append((program.name, [f"{names[file]}: {said} ({KEPT / pathlib.Path(file).name})" for file, said in crashes]))
        return path.stem, len(names), results


def main():
    everything = "--all" in sys.argv[1:]
    programs = sorted(DEBUG.glob("replay_*"))
    tally = Tally("mutated")
    mutants = 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(try_model, path, programs) for path in sorted(CORPUS.glob("*.onnx"))]
        quick = programs if everything else [p for p in programs if p.name != "replay_commands"]
        jobs += [pool.submit(try_model, path, quick) for path in quantized(pathlib.Path(folder), everything)]
        for job in jobs:
            name, count, results = job.result()
            mutants += count
            for program, crashes in results:
                tally.check(f"{name}, {program}", f"{len(crashes)} of {count} crash, the first: {crashes[0]}" if crashes else None)
    print(f"{mutants} mutants")
    tally.finish()


if __name__ == "__main__":
    main()
