"""tables.py: measurements as Markdown tables: medians, ratios of neighbours in a round, geometric means."""
import statistics
import sys

from workloads import WORKLOADS

NONE = "–"


RUNTIMES = ("narrow", "onnxruntime", "openvino")
INT8 = ("narrow int8", "onnxruntime int8")


def progress(text):
    """What is going on, on one line of a terminal that the next one replaces."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def table(head, rows):
    """Markdown whose columns also line up in a terminal: text to the left in the first column, numbers to the right."""
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]

    def line(cells):
        first, *rest = (str(c) for c in cells)
        return "| " + " | ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def milliseconds(times):
    return f"{statistics.median(times):.3g}" if times else NONE


def ratio(ours, theirs):
    """The median over the rounds, or None; rounds in which theirs was too little to measure do not count."""
    known = [a / b for a, b in zip(ours or [], theirs or []) if b]
    return statistics.median(known) if known else None


def best(times, runtime, kinds):
    """The rounds of a runtime on the kind of file where its median is least; None when it ran none of them."""
    found = [times[runtime, kind] for kind in kinds if (runtime, kind) in times]
    return min(found, key=statistics.median) if found else None


def factor(x):
    return NONE if x is None else f"{x:.2f}"


def mean(ratios):
    known = [r for r in ratios if r is not None]
    return factor(statistics.geometric_mean(known)) if known else NONE


def speed_table(results, own, peers, goals=False):
    """One row per network: milliseconds of each runtime, and narrow's ratio to each peer. own, peers: kinds of file that
    count for narrow and for the others; goals: the columns that make sense for int8 only."""
    rows, columns, own_float = [], {peer: [] for peer in RUNTIMES[1:]}, []
    for r in results:
        times = {runtime: best(r["times"], runtime, peers if runtime in columns else own) for runtime in RUNTIMES}
        row = [r["model"], *map(milliseconds, times.values())]
        for peer, ratios in columns.items():
            ratios.append(ratio(times["narrow"], times[peer]))
            row.append(factor(ratios[-1]))
        if goals:
            goal, reached = WORKLOADS[r["model"]].goal, columns["onnxruntime"][-1]
            own_float.append(ratio(times["narrow"], r["times"].get(("narrow", "float"))))
            row += [f"{goal:.2f}", NONE if reached is None else "yes" if reached <= goal else "no", factor(own_float[-1])]
        rows.append(row)
    last = ["geometric mean", *[""] * len(RUNTIMES), *map(mean, columns.values())]
    head = ["model (ms)", *RUNTIMES, *(f"narrow / {peer}" for peer in columns)]
    if goals:
        head += ["goal", "met", "int8 / own float"]
        last += [mean(WORKLOADS[r["model"]].goal for r in results), "", mean(own_float)]
    return table(head, [*rows, last])


def same_file_tables(results):
    """Every runtime on narrow's file, and on onnxruntime's; empty unless --cross measured them."""
    crossed = any(("onnxruntime", "narrow int8") in {**r["times"], **r["problems"]} for r in results)
    return "".join(f"\nThe same file everywhere: {kind}.\n\n{speed_table(results, [kind], [kind])}"
                   for kind in INT8 * crossed)


def thread_table(measured, counts):
    """How much faster narrow is on more threads than on the first count."""
    kinds = ("float", INT8[0])
    base, rows = counts[0], []
    by = {(m["model"], m["threads"]): m["times"] for m in measured}
    for model in dict.fromkeys(m["model"] for m in measured):
        row = [model]
        for count in counts[1:]:
            for kind in kinds:
                row.append(factor(ratio(by[model, base].get(("narrow", kind)), by[model, count].get(("narrow", kind)))))
        rows.append(row)
    return table(["narrow's speedup", *(f"{k}, {base} → {c}" for c in counts[1:] for k in kinds)], rows)


def cost_table(results, part, unit):
    """narrow and onnxruntime, float and int8, each on its own file: what it takes beside time per call."""
    rows, columns = [], [[], []]
    for r in results:
        row = [r["model"]]
        for ratios, kinds in zip(columns, (("float", "float"), INT8)):
            ours, theirs = (r[part].get((runtime, kind)) for runtime, kind in zip(RUNTIMES, kinds))
            ratios.append(ratio(ours, theirs))
            row += [milliseconds(ours), milliseconds(theirs), factor(ratios[-1])]
        rows.append(row)
    last = ["geometric mean", "", "", mean(columns[0]), "", "", mean(columns[1])]
    head = [unit, "narrow float", "onnxruntime float", "ratio", "narrow int8", "onnxruntime int8", "ratio"]
    return table(head, [*rows, last])


def problems(results):
    lines = [f"- {r['model']}, {runtime}, {kind}: {text}" for r in results
             for (runtime, kind), text in r["problems"].items()]
    return "\nNot measured:\n\n" + "\n".join(lines) + "\n" if lines else ""


def kernel_table(timed):
    """One row per distinct shape of a network, then what all its products need at these rates, and their share of the peak."""
    text = "\n## Kernels, one thread\n\nMeasured peak: " + ", ".join(
        f"{kind} {peak:.0f} {unit}" for kind, (peak, unit) in timed["peaks"].items()) + ".\n"
    for network, shapes in timed["networks"].items():
        rows, sums = [], {"f32": [0.0, 0.0], "u8s8": [0.0, 0.0]}
        for s in shapes:
            row = [s["shape"], s["count"], f"{s['giga_operations']:.3g}"]
            for kind, total in sums.items():
                rate = s["rates"].get(kind)
                peak = timed["peaks"].get(kind, (None,))[0]
                row += [f"{rate:.0f}" if rate else NONE, f"{100 * rate / peak:.0f} %" if rate and peak else NONE]
                if rate and peak:
                    total[0] += 1e3 * s["count"] * s["giga_operations"] / rate
                    total[1] += 1e3 * s["count"] * s["giga_operations"] / peak
            rows.append(row)
        total = ["together (ms, share of peak)", sum(s["count"] for s in shapes),
                 f"{sum(s['count'] * s['giga_operations'] for s in shapes):.3g}"]
        for spent, least in sums.values():
            total += [f"{spent:.3g}", f"{100 * least / spent:.0f} %"] if spent else [NONE, NONE]
        head = [network, "times", "GOP", "f32 GFLOP/s", "of peak", "int8 GOP/s", "of peak"]
        text += "\n" + table(head, [*rows, total])
    return text


def warning(facts):
    """Empty on an idle machine."""
    if facts["load_average"] <= 0.5:
        return ""
    return f"WARNING: load average {facts['load_average']}: other work was running here; do not trust these numbers.\n\n"


def report(facts, measured, timed):
    """All of it as Markdown."""
    text = (f"# Speed\n\n{warning(facts)}{facts['cpu']}, {facts['cores']} cores, load average {facts['load_average']} at the "
            f"start. narrow {facts['narrow']}, onnxruntime {facts['onnxruntime']}, openvino {facts['openvino']}. Batch 1; the "
            f"{facts['statistic']} of {facts['seconds']} s of calls, the median over {facts['rounds']} interleaved rounds. "
            f"{facts['date']}.\n\nA ratio below 1 says that narrow is faster.\n")
    counts = list(dict.fromkeys(m["threads"] for m in measured))
    for threads in counts:
        results = [m for m in measured if m["threads"] == threads]
        title = f"{threads} thread{'s' * (threads > 1)}"
        text += f"\n## Float, {title}\n\n{speed_table(results, ['float'], ['float'])}"
        text += f"\n## Int8, {title}\n\n{speed_table(results, INT8[:1], INT8, goals=True)}"
        text += same_file_tables(results) + problems(results)
    if counts:
        results = [m for m in measured if m["threads"] == counts[0]]
        text += ("\n## From a file to the first result\n\nMilliseconds to load, plan and run once.\n\n" +
                 cost_table(results, "ready", "ms") +
                 "\n## Memory\n\nPeak memory of narrow's process, and what onnxruntime's gains after Python and its libraries "
                 "are loaded, in MiB.\n\n" + cost_table(results, "memory", "MiB"))
    if len(counts) > 1:
        text += "\n## Threads\n\n" + thread_table(measured, counts)
    return text + (kernel_table(timed) if timed else "")
