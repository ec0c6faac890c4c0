"""train.py: images per second of training, narrow beside PyTorch: the same network from scratch on the same images, the same
batch size, SGD with momentum 0.9, no augmentation, f32.

Each contestant runs in a process of its own, again and again in turn, because the speed of a machine drifts; the table shows the
best and the median over the rounds. narrow's number is that of its second epoch as `narrow train` reports it, with reading,
shuffling and preprocessing; PyTorch (eager mode) gets its batches as ready tensors, in NCHW and in channels-last, and counts whole
steps: gradients to zero, forward, backward, optimizer.

Runs under any Python; --python names one that has torch (Debian's python3-torch):
    bench/train.py --narrow build/release/narrow --data ../shared/data/cifar10/train-10000.bin"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {"resnet8": (3, 32, 32), "resnet20": (3, 32, 32), "lenet": (1, 28, 28)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--narrow", default="build/release/narrow")
    parser.add_argument("--data", required=True, help="what narrow trains on: CIFAR .bin files, or a folder of MNIST")
    parser.add_argument("--network", default="resnet20", choices=sorted(SHAPES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--peer", metavar="LAYOUT", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- PyTorch


def network(nn, name, classes=10):
    """The same layers as `narrow new` makes."""
    if name == "lenet":
        return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5, padding=2), nn.ReLU(),
                             nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                             nn.Linear(84, classes))

    def conv_norm(inputs, outputs, kernel, stride, relu):
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
        return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))

    class Residual(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.body = nn.Sequential(conv_norm(inputs, outputs, 3, stride, True), conv_norm(outputs, outputs, 3, 1, False))
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, False)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.body(x) + self.shortcut(x))

    blocks = {"resnet8": 1, "resnet20": 3}[name]
    layers, channels = [conv_norm(3, 16, 3, 1, True)], 16
    for outputs in (16, 32, 64):
        for block in range(blocks):
            layers.append(Residual(channels, outputs, 2 if block == 0 and outputs > 16 else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def peer(args):
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if args.peer == "channels-last" else torch.contiguous_format
    model = network(torch.nn, args.network).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()
    batches = [(torch.rand(args.batch, *SHAPES[args.network]).to(memory_format=layout), torch.randint(0, 10, (args.batch,)))
               for _ in range(8)]

    def step(i):
        x, labels = batches[i % len(batches)]
        optimizer.zero_grad()
        loss(model(x), labels).backward()
        optimizer.step()

    for i in range(5):
        step(i)
    start = time.perf_counter()
    for i in range(args.steps):
        step(i)
    print(json.dumps({"speed": args.batch * args.steps / (time.perf_counter() - start), "version": torch.__version__}))


# ---- the race


def narrow_speed(args, model, folder):
    result = Path(folder) / "result.json"
    subprocess.run([args.narrow, "train", model, "--data", args.data, "--preprocess", "scale=1/255", "--samples",
                    str(args.batch * args.steps), "--epochs", "2", "--batch", str(args.batch), "--lr", "0.01", "--momentum", "0.9",
                    "--threads", str(args.threads), "--test-samples", "1", "-o", str(Path(folder) / "trained.onnx"), "--json",
                    str(result), "-q"], check=True)
    return json.loads(result.read_text())["epochs"][-1]["images_per_second"]


def peer_speed(args, layout):
    command = [args.python, __file__, "--peer", layout, "--data", "-", "--network", args.network, "--batch", str(args.batch),
               "--steps", str(args.steps), "--threads", str(args.threads)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer["speed"], answer["version"]


def main():
    args = arguments()
    if args.peer:
        return peer(args)
    speeds, version = {"narrow": [], "PyTorch NCHW": [], "PyTorch channels-last": []}, ""
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model.onnx")
        shape = "x".join(map(str, SHAPES[args.network]))
        subprocess.run([args.narrow, "new", args.network, "--input", shape, "--classes", "10", "-o", model, "-q"], check=True)
        for i in range(args.rounds):
            speeds["narrow"].append(narrow_speed(args, model, folder))
            for layout in ("NCHW", "channels-last"):
                speed, version = peer_speed(args, layout)
                speeds[f"PyTorch {layout}"].append(speed)
            print(f"round {i + 1}: " + ", ".join(f"{who} {s[-1]:.0f}" for who, s in speeds.items()), file=sys.stderr)
    print(f"{args.network}, batch {args.batch}, {args.threads} threads, PyTorch {version}, {args.rounds} rounds in turn\n")
    print("| | images/s, median | best |\n|---|---|---|")
    for who, all_speeds in speeds.items():
        print(f"| {who} | {statistics.median(all_speeds):.0f} | {max(all_speeds):.0f} |")


if __name__ == "__main__":
    main()
