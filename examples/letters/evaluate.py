#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of an ONNX model on this folder's test set, in onnxruntime: evaluate.py [model.onnx]

Needs the Python packages numpy and onnxruntime.
"""
import gzip
import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "letters.onnx"
    pixels = gzip.decompress((HERE / "test-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = np.frombuffer(gzip.decompress((HERE / "test-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32)
    images = (images / 255 - 0.5) / 0.5

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {session.get_inputs()[0].name: images[i:i + 250]})[0]
                             for i in range(0, len(images), 250)])
    right = int((logits.argmax(1) == labels).sum())
    print(f"{path.name}: {right} of {len(labels)} right, {100 * right / len(labels):.2f} %")


if __name__ == "__main__":
    main()
