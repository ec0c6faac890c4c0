"""bench.py: times narrow, onnxruntime and OpenVINO on the same networks, and narrow's kernels on the shapes of some of them.

Each contestant runs in a process of its own, again and again in turn (A B C A B C …), because the speed of a machine drifts:
a ratio compares neighbours in one round, and the table shows the median over the rounds. Batch 1, made-up inputs, warm-up,
the median of the times of single calls. Tables go to standard output and build/bench/results.md, everything to
build/bench/results.json."""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib import metadata

import kernels
import tables
from prepare import Missing, export, prepare
from workloads import BUILD, OUT, ROOT, WORKLOADS

# The int8 files each runtime is timed on. A peer is judged by the one it is fastest on; OpenVINO has no tool of its own here
# and prefers static scales, which for transformers only our file has.
INT8_FILES = {
    "narrow": ["narrow int8"],
    "onnxruntime": ["onnxruntime int8"],
    "openvino": ["onnxruntime int8", "narrow int8"],
}
TIMEOUT = 600  # seconds for one process
QUICK = ["lenet", "mobilenet_v2", "resnet18", "minilm"]


def contestants(cross):
    """(runtime, kind of file) in the order of the rounds; cross: every runtime on every int8 file."""
    each = [(r, "float") for r in INT8_FILES] + [(r, kind) for r, kinds in INT8_FILES.items() for kind in kinds]
    others = [(r, kind) for kind in INT8_FILES["openvino"] for r in INT8_FILES if kind not in INT8_FILES[r]]
    return each + others * cross


def complaint(stderr):
    """What a process died of: from the last exception on, or the last line."""
    text = stderr.strip()
    at = [m.start() for m in re.finditer(r"^[\w.]*(?:Error|Exception)\b", text, re.MULTILINE)]
    return " ".join((text[at[-1]:] if at else text.rpartition("\n")[2]).split())[:300]


def run(command):
    """(exit code, stdout, stderr) of a process. Raises Missing when it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Missing(f"stopped after {TIMEOUT} s") from None
    return done.returncode, done.stdout, done.stderr


def time_once(runtime, model, threads, warmup, runs, statistic="median"):
    """(milliseconds of one call, milliseconds from the file to the first result, MiB of memory) in a new process: the median
    (or "least") over `runs` calls. narrow's memory is that of its whole process. Raises Missing."""
    if runtime == "narrow":
        command = [BUILD / "narrow", "bench", model, "--threads", threads, "--warmup", warmup, "--runs", runs, "--json", "-"]
    else:
        command = [sys.executable, "-B", ROOT / "bench/peer.py", runtime, model, threads, warmup, runs]
    code, out, err = run(list(map(str, command)))
    if code:
        raise Missing(complaint(err) or f"exit {code}")
    answer = json.loads(out)
    if runtime == "narrow":
        one = answer["models"][0]
        ms = one["latency_ms_min" if statistic == "least" else "latency_ms_median"]
        return ms, one["load_ms"] + one["first_run_ms"], one["process_peak_bytes"] / 2**20
    return answer[statistic], answer["ready"], answer["memory"]


def runs_that_fill(seconds, runtime, model, threads):
    """How many calls take about that long; the probe also tells what does not run at all."""
    return min(max(int(1e3 * seconds / time_once(runtime, model, threads, 2, 3)[0]), 5), 20000)


def race(name, files, threads, options):
    """All rounds of one network at one number of threads: {(runtime, kind): [ms of each round]}, the same with [ms until
    ready] and [MiB], {…: problem}."""
    runs, times, ready, memory, problems = {}, {}, {}, {}, {}
    for runtime, kind in contestants(options.cross):
        try:
            if isinstance(files[kind], Missing):
                raise files[kind]
            runs[runtime, kind] = runs_that_fill(options.seconds, runtime, files[kind], threads)
        except Missing as problem:
            problems[runtime, kind] = str(problem)
    for at in range(options.rounds):
        for (runtime, kind), count in list(runs.items()):
            tables.progress(f"{name}, {threads} thread{'s' * (threads > 1)}, round {at + 1}: {runtime}, {kind}")
            try:
                measured = time_once(runtime, files[kind], threads, max(3, count // 10), count, options.statistic)
                for each, value in zip((times, ready, memory), measured):
                    each.setdefault((runtime, kind), []).append(value)
            except Missing as problem:
                problems[runtime, kind] = str(problem)
                del runs[runtime, kind]
                for each in (times, ready, memory):
                    each.pop((runtime, kind), None)
    tables.progress("")
    return {"times": times, "ready": ready, "memory": memory, "problems": problems}


def measure(options):
    """[{model, threads, times, ready, memory: {(runtime, kind): [value of each round]}, problems: {(runtime, kind): text}}]"""
    results = []
    for at, name in enumerate(options.models):
        print(f"{name} ({at + 1} of {len(options.models)})", file=sys.stderr, flush=True)
        tables.progress(f"{name}: quantizing")
        files = prepare(name)
        for threads in options.threads:
            results.append({"model": name, "threads": threads, **race(name, files, threads, options)})
    return results


def processor():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        words = dict(line.split(":", 1) for line in info if ":" in line)
    words = {key.strip(): value.strip() for key, value in words.items()}
    model = words.get("model name", platform.machine())
    return f"{model} (family {words['cpu family']}, model {words['model']})" if "cpu family" in words else model


def conditions(options):
    """What a reader must know to believe the numbers."""
    version = subprocess.run([BUILD / "narrow", "--version"], capture_output=True, text=True).stdout.split()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
        "narrow": " ".join(version[-1:] + commit.stdout.split()),
        **{peer: metadata.version(peer) for peer in INT8_FILES if peer != "narrow"},
        "statistic": options.statistic,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def as_json(measured):
    """Keys of JSON are text: "narrow, float"."""
    text = {}
    for part, values in measured.items():
        text[part] = {", ".join(k): v for k, v in values.items()} if isinstance(values, dict) else values
    text["medians_ms"] = {k: statistics.median(v) for k, v in text["times"].items()}
    return text


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, metavar="N", help="processes per contestant (5)")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts (1 2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="timed seconds per process (1)")
    parser.add_argument("--kernels", choices=("yes", "no", "only"), default="yes", help="the table per kernel shape")
    parser.add_argument("--cross", action="store_true", help="also narrow and onnxruntime on each other's int8 file")
    parser.add_argument("--least", dest="statistic", action="store_const", const="least", default="median",
                        help="the least time of each process instead of the median: for a machine that is not idle")
    parser.add_argument("--quick", action="store_true", help=f"one short round on one thread of {' '.join(QUICK)}")
    options = parser.parse_args()
    options.models = options.models or (QUICK if options.quick else list(WORKLOADS))
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.threads = options.threads or ([1] if options.quick else [1, 2])
    options.seconds = options.seconds or (0.2 if options.quick else 1.0)
    if min(options.rounds, *options.threads) < 1 or options.seconds <= 0:
        parser.error("rounds, threads and seconds are positive")
    return options


def main():
    options = arguments()
    if not (BUILD / "narrow").exists() or not (BUILD / "check").exists():
        sys.exit(f"bench: {BUILD} has no narrow and no check: run make first")
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = [] if options.kernels == "only" else options.models
    shaped = [] if options.kernels == "no" else [n for n in kernels.NETWORKS if n in options.models]
    export(list(dict.fromkeys(wanted + shaped)))
    facts = conditions(options)
    print(tables.warning(facts), end="", file=sys.stderr)
    measured = measure(options) if wanted else []
    timed = kernels.measure(shaped) if shaped else None
    results = {"conditions": facts, "models": [as_json(m) for m in measured], "kernels": timed}
    (OUT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = tables.report(facts, measured, timed)
    print(text, end="")
    (OUT / "results.md").write_text(text)


if __name__ == "__main__":
    main()
