"""prepare.py: makes the files that are measured: exported float models, narrow's int8 form of each, onnxruntime's int8 form.

Everything is kept in build/bench/models; narrow's files are made again whenever narrow was built again. A file that cannot
be made is a problem of that file, reported in the tables; the others are measured."""
import logging
import os
import subprocess

import numpy as np
import onnx
from peer import made_up
from workloads import BUILD, MODELS, OUT, ROOT, WORKLOADS

SAMPLES = 8  # made up: speed does not depend on how good the scales are


class Missing(Exception):
    """A file that could not be made; the text says why."""


def fresh(path, *sources):
    return path.exists() and all(path.stat().st_mtime >= s.stat().st_mtime for s in sources if s.exists())


def float_file(name):
    return MODELS / f"{name}.onnx"


def narrow_file(name):
    return MODELS / f"{name}-int8-narrow.onnx"


def peer_file(name):
    return MODELS / f"{name}-int8-onnxruntime.onnx"


def export(names):
    """Exports what is missing, all in one process: loading torch takes longer than most models."""
    missing = [n for n in names if not float_file(n).exists()]
    if missing:
        print(f"exporting {' '.join(missing)} (once; minutes)", flush=True)
        subprocess.run([ROOT / "bench/setup.sh", "export"], check=True)
        subprocess.run(["/usr/bin/python3", ROOT / "bench/export_models.py", MODELS, *missing], check=True)


def samples(name):
    """Calibration data: [{input: array} of one run] and the npz file that holds all, samples along a first axis."""
    random, batches = np.random.default_rng(0), []
    ports = onnx.load(float_file(name)).graph.input
    for _ in range(SAMPLES):
        batches.append({p.name: made_up([d.dim_value for d in p.type.tensor_type.shape.dim],
                                        onnx.helper.tensor_dtype_to_np_dtype(p.type.tensor_type.elem_type), random)
                        for p in ports})
    path = OUT / "samples.npz"
    stack = {p.name: np.stack([b[p.name] for b in batches]) for p in ports}
    np.savez(path, **{k: x[:, 0] if x.shape[1] == 1 else x for k, x in stack.items()})
    return batches, path


def narrow_quantize(name):
    source, target = float_file(name), narrow_file(name)
    if fresh(target, source, BUILD / "narrow", BUILD / "libnarrow.so"):
        return target
    how = ["--calibrate", samples(name)[1]] if WORKLOADS[name].own == "static" else ["--mode", "dynamic"]
    done = subprocess.run([BUILD / "narrow", "quantize", source, "-o", target, "--quiet", *how], capture_output=True,
                          text=True, timeout=900)
    if done.returncode:
        target.unlink(missing_ok=True)
        raise Missing(f"narrow quantize: {done.stderr.strip() or f'exit {done.returncode}'}")
    return target


def onnxruntime_quantize(name):
    source, target = float_file(name), peer_file(name)
    if fresh(target, source):
        return target
    from onnxruntime import quantization as oq
    logging.disable(logging.WARNING)
    part = target.with_suffix(".part")
    try:
        if WORKLOADS[name].peer == "static":
            prepared = target.with_suffix(".prepared")
            oq.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            rows = iter(samples(name)[0])

            class Reader(oq.CalibrationDataReader):
                def get_next(self):
                    return next(rows, None)

            oq.quantize_static(prepared, part, Reader(), quant_format=oq.QuantFormat.QDQ, per_channel=True,
                               activation_type=oq.QuantType.QUInt8, weight_type=oq.QuantType.QInt8)
            prepared.unlink()
        else:
            oq.quantize_dynamic(source, part, per_channel=True, weight_type=oq.QuantType.QInt8)
    except Exception as error:  # whatever the tool raises
        raise Missing(f"onnxruntime quantization: {type(error).__name__}: {error}") from error
    os.replace(part, target)
    return target


MAKERS = {"float": float_file, "narrow int8": narrow_quantize, "onnxruntime int8": onnxruntime_quantize}


def prepare(name):
    """{file kind: path, or the Missing that says why there is none}"""
    files = {}
    for kind, make in MAKERS.items():
        try:
            files[kind] = make(name)
        except Missing as problem:
            files[kind] = problem
    return files
