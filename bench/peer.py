"""peer.py RUNTIME MODEL THREADS WARMUP RUNS: times another runtime as `narrow bench` times narrow: the same made-up inputs,
batch 1, one call after the other, the median of the time of each. Prints one line of JSON.

Inputs and outputs are bound before the clock starts, which is the fastest that either runtime offers. Beside it: how long the
runtime takes from a file to its first result, and how much memory the process gains by it; Python and the runtime's own
libraries are loaded before and do not count."""
import gc
import importlib
import json
import sys
import time

import numpy as np


def made_up(shape, dtype, random):
    """Floats in [-1,1), integers 0 or 1 (valid as indices, masks and segments)."""
    if np.issubdtype(dtype, np.floating):
        return random.uniform(-1, 1, shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def onnxruntime_call(ort, model, threads):
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    binding, random = session.io_binding(), np.random.default_rng(0)
    for port in session.get_inputs():
        binding.bind_cpu_input(port.name, made_up(port.shape, types[port.type], random))
    for port in session.get_outputs():
        binding.bind_output(port.name)
    return lambda: session.run_with_iobinding(binding)


def openvino_call(ov, model, threads):
    # float stays f32: left alone, OpenVINO computes in bfloat16 where the processor can.
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    random = np.random.default_rng(0)
    for port in request.model_inputs:
        x = made_up(list(port.shape), port.element_type.to_dtype(), random)
        request.set_tensor(port, ov.Tensor(x))
    return request.infer


def peak_kib():
    """Of this process alone: getrusage's would begin with that of the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def main():
    runtime, model = sys.argv[1:3]
    threads, warmup, runs = map(int, sys.argv[3:])
    module = importlib.import_module(runtime)
    memory = peak_kib()
    start = time.perf_counter_ns()
    call = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}[runtime](module, model, threads)
    call()
    ready = (time.perf_counter_ns() - start) / 1e6
    gc.disable()
    times = []
    for _ in range(warmup + runs):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    ms = np.array(times[warmup:]) / 1e6
    memory = peak_kib() - memory
    print(json.dumps({"median": float(np.median(ms)), "least": float(ms.min()), "ready": ready, "memory": memory / 1024}))


if __name__ == "__main__":
    main()
