#!/usr/bin/python3
"""export_models.py FOLDER NAME…: writes the workloads as ONNX files (random weights, batch 1, opset 13).

Runs under Debian's python3 with torch and torchvision. Speed does not depend on what a network has learnt, but it does
depend on the numbers staying ordinary: BatchNorm statistics are those of the data that flow through, so that activations
neither vanish nor overflow, and biases are random, because the exporter merges equal tensors into one, which integer runtimes
then cannot give the scale of each layer."""
import math
import os
import pathlib
import sys
import warnings

import torch
import torchvision
from torch import nn

IMAGE = (1, 3, 224, 224)
TOKENS = 128


def settle(model):
    """Three passes in training mode set the running statistics of every BatchNorm to the average of what it saw."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        model.train()
        with torch.no_grad():
            for _ in range(3):
                model(torch.randn(8, *IMAGE[1:]))


def convnet(name):
    model = getattr(torchvision.models, name)(weights=None)
    settle(model)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.02)
    return model, torch.randn(IMAGE), ["input"], ["output"]


def lenet():
    model = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    return model, torch.randn(1, 3, 32, 32), ["input"], ["output"]


class Lstm(nn.Module):
    """Two layers of 512 over 50 steps [50,1,512], then a dense layer on every step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.dense = nn.LSTM(512, 512, 2), nn.Linear(512, 512)

    def forward(self, x):
        return self.dense(self.lstm(x)[0])


def lstm():
    return Lstm(), torch.randn(50, 1, 512), ["input"], ["output"]


class SpelledNorm(nn.Module):
    """LayerNorm in elementary operators, as opset 13 has no other."""

    def __init__(self, width):
        super().__init__()
        self.gain, self.bias = nn.Parameter(1 + 0.1 * torch.randn(width)), nn.Parameter(0.02 * torch.randn(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-12) * self.gain + self.bias


class Layer(nn.Module):
    """A BERT layer: attention over [1,TOKENS,width] with an additive mask, GELU between the two dense layers."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.split = (1, TOKENS, heads, width // heads)
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = SpelledNorm(width), SpelledNorm(width)

    def forward(self, x, mask):
        q, k, v = (dense(x).view(self.split).transpose(1, 2) for dense in (self.query, self.key, self.value))
        scores = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.split[3]) + mask, -1)
        x = self.norm1(x + self.mix((scores @ v).transpose(1, 2).reshape(1, TOKENS, -1)))
        h = self.widen(x)
        return self.norm2(x + self.narrow(h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))))


class Encoder(nn.Module):
    """BERT as its users export it: embeddings of tokens, positions and segments, layers, pooler, two classes."""

    def __init__(self, layers, width, hidden):
        super().__init__()
        self.tokens, self.positions, self.segments = (nn.Embedding(n, width) for n in (30522, 512, 2))
        self.norm = SpelledNorm(width)
        self.layers = nn.ModuleList(Layer(width, 12, hidden) for _ in range(layers))
        self.register_buffer("index", torch.arange(TOKENS).unsqueeze(0))
        self.pooler, self.classes = nn.Linear(width, width), nn.Linear(width, 2)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, attention_mask, segments):
        mask = (1 - attention_mask.to(torch.float32)).unsqueeze(1).unsqueeze(2) * -10000.0
        x = self.norm(self.tokens(ids) + self.positions(self.index) + self.segments(segments))
        for layer in self.layers:
            x = layer(x, mask)
        return self.classes(torch.tanh(self.pooler(x[:, 0])))


def encoder(layers, width, hidden):
    ids = torch.randint(0, 30000, (1, TOKENS))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    return Encoder(layers, width, hidden), inputs, ["input_ids", "attention_mask", "token_type_ids"], ["logits"]


OTHERS = {
    "lenet": lenet,
    "lstm": lstm,
    "minilm": lambda: encoder(6, 384, 1536),
    "bert_base": lambda: encoder(12, 768, 3072),
}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    for name in sys.argv[2:]:
        torch.manual_seed(0)
        model, inputs, input_names, output_names = OTHERS[name]() if name in OTHERS else convnet(name)
        part = folder / f"{name}.part"
        torch.onnx.export(model.eval(), inputs, str(part), opset_version=13, input_names=input_names,
                          output_names=output_names, do_constant_folding=True)
        os.replace(part, folder / f"{name}.onnx")
        print(f"exported {name}", flush=True)


if __name__ == "__main__":
    main()
