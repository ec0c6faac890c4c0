#!/usr/bin/env python3
"""accuracy.py [--all] [NAME…]: accuracy on real data, against numbers measured elsewhere (data README): the float models
must reach their fp32 top-1, and the models we quantize must lose no more than those of the standard tool.
Without --all the slower models are measured on fewer samples, with the bounds loosened for it."""
import array
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
from harness import DATA, ROOT, Tally, narrow  # noqa: E402

IMAGENET = ["--data", DATA / "imagenet/evaluation.csv", "--preprocess", "imagenet"]
SPEECH = DATA / "speech"
CIFAR = DATA / "cifar10"
RESNET20 = ["--preprocess", "scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"]


def speech(features, labels):
    return (["--data", SPEECH / features, "--labels", SPEECH / labels, "--skip", 200],
            ["--calibrate", SPEECH / features, "--samples", 200])


# name: evaluation, calibration, fp32 top-1 in per cent, how far it may be off, agreement and SQNR of the standard tool (the
# better of its two observers; of the recurrent ones what quantizing their weights alone costs), seconds are few: in the short run
# too.
MODELS = {
    "resnet20-cifar10": (["--data", CIFAR / "test-2000.bin"] + RESNET20,
                         ["--calibrate", CIFAR / "train-10000.bin", "--samples", 200] + RESNET20, 92.45, 0.05, 99.30, 30.0, False),
    "resnet8-cifar10": (["--data", CIFAR / "test-2000.bin", "--preprocess", "none"],
                        ["--calibrate", CIFAR / "train-10000.bin", "--samples", 200, "--preprocess", "none"],
                        87.55, 0.05, 98.80, 32.4, True),
    "dscnn-kws": speech("dscnn-features.npy", "dscnn-labels.npy") + (92.25, 0.13, 99.00, 27.3, True),
    "kwt1-transformer-kws": speech("kwt-features.npy", "kws-labels.npy") + (97.75, 0.13, 98.50, 19.4, False),
    "lstm-kws": speech("kws-rnn-features.npy", "kws-labels.npy") + (91.38, 0.13, 99.5, 35.0, True),
    "gru-kws": speech("kws-rnn-features.npy", "kws-labels.npy") + (92.50, 0.13, 99.5, 35.0, True),
    "squeezenet1.1": (IMAGENET, ["--calibrate", DATA / "imagenet/calibration.csv", "--preprocess", "imagenet"],
                      64.0, 2.0, 96.0, 32.8, False),
    "mobilenetv2": (IMAGENET, ["--calibrate", DATA / "imagenet/calibration.csv", "--preprocess", "imagenet"],
                    83.0, 2.0, 95.0, 15.0, False),
}


def measure(command, *args):
    """The JSON of a measuring command."""
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        narrow(command, *args, "--no-latency", "--quiet", "--json", f.name)
        return json.loads(pathlib.Path(f.name).read_text())


def check_float(tally, name, evaluation, top1, off):
    result = measure("eval", DATA / "models" / f"{name}.onnx", *evaluation)
    got = 100 * result["top1"]
    print(f"  {name:24} fp32 top-1 {got:6.2f} % (known: {top1})")
    tally.check(f"{name} fp32", abs(got - top1) > off and f"top-1 {got:.2f} %, not {top1} ± {off}")


def check_quantized(tally, name, evaluation, calibration, agreement, sqnr, folder):
    """One of our observers must reach both bounds; they are tried until one does."""
    model, tried = DATA / "models" / f"{name}.onnx", []
    for observer in ("minmax", "percentile", "mse", "entropy"):
        small = pathlib.Path(folder) / f"{name}-{observer}.onnx"
        narrow("quantize", model, "-o", small, "--observer", observer, "--quiet", *calibration)
        result = measure("compare", model, small, *evaluation)["models"][1]
        tried.append(f"{observer} {100 * result['agreement']:.2f} % {result['sqnr_db']:.1f} dB")
        print(f"  {name:24} int8 {tried[-1]:32} top-1 {100 * result['top1']:.2f} % ratio {result['compression_ratio']:.2f}")
        if 100 * result["agreement"] >= agreement and result["sqnr_db"] >= (sqnr or 0):
            return tally.check(f"{name} int8", None)
    return tally.check(f"{name} int8", f"no observer reaches agreement {agreement} % and {sqnr} dB: {', '.join(tried)}")


def save_integers(path, numbers):
    """A NumPy array of one dimension."""
    data = array.array("q", numbers)
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({len(data)},)}}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data.tobytes())


# Recipe: least share of a user's 50 best items that stay among them, most of the file that is left.
EMBEDDINGS = {"w8": (0.98, 0.28), "w4": (0.90, 0.27), "w4a8": (0.90, 0.27), "ternary": (0.40, 0.15)}


def check_recommender(tally, folder):
    """Tables of embeddings: the order in which users are offered items, before and after."""
    folder, model = pathlib.Path(folder), DATA / "models" / "ncf-movielens.onnx"
    if not model.exists():
        return tally.skip("ncf-movielens", f"no model in {model.parent}")
    users, items = range(0, 6040, 60), range(3706)
    save_integers(folder / "user.npy", (u for u in users for _ in items))
    save_integers(folder / "item.npy", (i for _ in users for i in items))

    def best(path):
        narrow("run", path, "-i", f"user={folder / 'user.npy'}", "-i", f"item={folder / 'item.npy'}", "-o", folder, "--quiet")
        scores = array.array("f", (folder / "logits.npy").read_bytes()[-4 * len(users) * len(items):])
        rows = [scores[i:i + len(items)] for i in range(0, len(scores), len(items))]
        return [set(sorted(items, key=row.__getitem__)[-50:]) for row in rows]

    wanted = best(model)
    for recipe, (least, most) in EMBEDDINGS.items():
        small = folder / f"ncf-{recipe}.onnx"
        narrow("quantize", model, "-o", small, "--recipe", recipe, "--quiet")
        kept = sum(len(a & b) for a, b in zip(wanted, best(small))) / (50 * len(users))
        size = small.stat().st_size / model.stat().st_size
        print(f"  ncf-movielens {recipe:10} {100 * kept:.1f} % of 50 best items stay, file × {size:.3f}")
        tally.check(f"ncf-movielens {recipe}", (kept < least or size > most) and f"keeps {kept:.3f}, file × {size:.3f}")


def check_letters(tally, folder):
    letters, small = ROOT / "examples/letters", pathlib.Path(folder) / "letters.onnx"
    preprocess = ["--preprocess", "scale=1/255,mean=0.5,std=0.5"]
    narrow("quantize", letters / "letters.onnx", "-o", small, "--calibrate", f"{letters}:train", "--samples", 500, *preprocess)
    float_model, int8 = measure("compare", letters / "letters.onnx", small, "--data", f"{letters}:test", *preprocess)["models"]
    print(f"  letters top-1 {float_model['top1']:.4f} → {int8['top1']:.4f}, agreement {int8['agreement']:.4f}")
    tally.check("letters fp32", round(2000 * float_model["top1"]) != 1965 and f"top-1 {float_model['top1']}, not 0.9825")
    tally.check("letters int8", int8["agreement"] < 0.99 and f"agreement {int8['agreement']}")


def main():
    everything = "--all" in sys.argv
    names = [a for a in sys.argv[1:] if a != "--all"]
    tally = Tally("accuracy")
    with tempfile.TemporaryDirectory() as folder:
        if not names or "letters" in names:
            check_letters(tally, folder)
        if not names or "ncf-movielens" in names:
            check_recommender(tally, folder)
        for name, (evaluation, calibration, top1, off, agreement, sqnr, quick) in MODELS.items():
            if names and name not in names:
                continue
            if not (DATA / "models" / f"{name}.onnx").exists():
                tally.skip(name, f"no model in {DATA / 'models'}")
                continue
            try:
                check_float(tally, name, evaluation, top1, off)
                if everything or quick or names:
                    check_quantized(tally, name, evaluation, calibration, agreement, sqnr, folder)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                tally.check(name, str(error))
    tally.finish()


if __name__ == "__main__":
    main()
