#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the letters network on this folder's dataset and write it as letters.onnx.

Needs PyTorch (Debian's python3-torch will do) and about a minute of one processor. BatchNormalization is left in the
file on purpose, to be folded by the quantizer.
"""
import argparse
import gzip
import inspect
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).parent


def conv(inputs, outputs, kernel=3, **options):
    """Convolution and BatchNorm; the spatial size is kept unless a stride is given."""
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        norm=nn.BatchNorm2d(outputs)))


class Letters(nn.Module):
    """[N,1,28,28] -> [N,26]: plain, depthwise-separable and residual convolutions, average pool, one dense layer."""

    def __init__(self):
        super().__init__()
        self.stem = conv(1, 32)
        self.depthwise = conv(32, 32, stride=2, groups=32)
        self.pointwise = conv(32, 64, kernel=1)
        self.down = conv(64, 96, stride=2)
        self.residual1 = conv(96, 96)
        self.residual2 = conv(96, 96)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(96, 26)

    def forward(self, x):
        x = F.relu(self.stem(x))                                        # [N,32,28,28]
        x = F.relu(self.pointwise(F.relu(self.depthwise(x))))           # [N,64,14,14]
        x = F.relu(self.down(x))                                        # [N,96,7,7]
        x = F.relu(x + self.residual2(F.relu(self.residual1(x))))       # [N,96,7,7]
        return self.dense(torch.flatten(self.pool(x), 1))               # [N,26]


def load(part):
    """Images [N,1,28,28], scaled by 1/255, then mean 0.5 and std 0.5, and labels [N]."""
    def idx(name, header):
        return np.frombuffer(gzip.decompress((HERE / f"{part}-{name}-ubyte.gz").read_bytes())[header:], np.uint8)
    images = torch.tensor(idx("images-idx3", 16).reshape(-1, 1, 28, 28), dtype=torch.float32)
    return (images / 255 - 0.5) / 0.5, torch.tensor(idx("labels-idx1", 8), dtype=torch.long)


def jitter(images):
    """Mild augmentation: each image stretched by up to 10 %, turned by up to 6 degrees and moved by up to 2 pixels."""
    n = len(images)
    uniform = lambda limit, *shape: (torch.rand(*shape) * 2 - 1) * limit
    angle, stretch, move = uniform(0.1, n), 1 + uniform(0.1, n, 2, 1), uniform(2 / 14, n, 2, 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2)
    grid = F.affine_grid(torch.cat([stretch * turn, move], 2), images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(model, images, labels, epochs, batch=64):
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for pick in torch.randperm(len(images)).split(batch):
            if len(pick) < batch:
                break
            loss = F.cross_entropy(model(jitter(images[pick])), labels[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}  loss {total / (len(images) // batch):.4f}", flush=True)


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        return sum((model(i).argmax(1) == l).sum().item()
                   for i, l in zip(images.split(500), labels.split(500))) / len(labels)


def export(model, path):
    """Write ONNX with BatchNormalization nodes; the exporter would fold them if it were told of inference."""
    model.eval()
    classic = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(model, torch.zeros(1, 1, 28, 28), str(path), opset_version=13,
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                      input_names=["image"], output_names=["logits"],
                      dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}}, **classic)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    model = Letters()
    train(model, *load("train"), args.epochs)
    # The last epoch is taken as it comes: the test set chooses nothing.
    size = sum(p.numel() for p in model.parameters())
    print(f"test accuracy {accuracy(model, *load('test')):.4f}, {size} parameters")
    export(model, HERE / "letters.onnx")


if __name__ == "__main__":
    main()
