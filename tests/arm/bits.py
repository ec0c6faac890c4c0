#!/usr/bin/env python3
"""bits.py BUILD: int8 models on 64-bit ARM (BUILD: what the preset arm64 built, run by qemu) against this machine's build:
every output of every instruction set must have the same bytes as here. The letters of the repository always; real models
where NARROW_DATA has them."""
import gzip
import pathlib
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
from harness import DATA, ROOT, Tally, narrow  # noqa: E402

ISAS = ["scalar", "neon", "neondot", "neoni8mm"]
LETTERS = ROOT / "examples/letters"
# name: calibration
MODELS = {
    "resnet8-cifar10": [DATA / "cifar10/train-10000.bin", "--preprocess", "none", "--samples", 100],
    "dscnn-kws": [DATA / "speech/dscnn-features.npy", "--samples", 100],
    "mobilenetv2": [DATA / "imagenet/calibration.csv", "--preprocess", "imagenet", "--samples", 8],
}


def write_letters(path, count):
    """The first test images as a model's input: [count,1,28,28] f32 of (x/255 − 0.5)/0.5."""
    pixels = gzip.decompress((LETTERS / "test-images-idx3-ubyte.gz").read_bytes())[16:16 + count * 784]
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 1, 28, 28), }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() +
                     struct.pack(f"<{len(pixels)}f", *((p / 255 - 0.5) / 0.5 for p in pixels)))


def arm(build, isa, *args):
    done = subprocess.run(["qemu-aarch64-static", "-cpu", "max", build / "narrow", "run", *map(str, args), "--isa", isa, "--quiet"],
                          capture_output=True, text=True, timeout=600)
    return done.returncode and f"exit {done.returncode}: {done.stderr.strip()}"


def check(tally, build, folder, name, model, calibration, inputs):
    small, here = folder / f"{name}.onnx", folder / f"{name}-here"
    narrow("quantize", model, "-o", small, "--quiet", "--calibrate", *calibration)
    feeds = [part for path in inputs for part in ("--input", path)]
    narrow("run", small, *feeds, "--output-dir", here, "--quiet")
    for isa in ISAS:
        there = folder / f"{name}-{isa}"
        problem = arm(build, isa, small, *feeds, "--output-dir", there)
        differ = [p.name for p in sorted(here.iterdir()) if not problem and p.read_bytes() != (there / p.name).read_bytes()]
        tally.check(f"{name} {isa}", problem or differ and f"not the bytes of this machine: {', '.join(differ)}")
        print(f"  {name} {isa}: {sum(1 for _ in here.iterdir())} outputs compared")


def main():
    tally, build = Tally("arm-bits"), pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_letters(folder / "letters.npy", 16)
        check(tally, build, folder, "letters", LETTERS / "letters.onnx",
              [f"{LETTERS}:train", "--samples", 200, "--preprocess", "scale=1/255,mean=0.5,std=0.5"], [folder / "letters.npy"])
        for name, calibration in MODELS.items():
            model = DATA / "models" / f"{name}.onnx"
            if model.exists():
                inputs = sorted((DATA / "golden" / name).glob("input.*.npy"))
                check(tally, build, folder, name, model, calibration, inputs)
            else:
                tally.skip(name, f"no file {model}")
    tally.finish()


main()
