#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Render the capital letters A-Z from free fonts into an MNIST-like dataset.

Writes four idx files (28x28 grey, white on black; label 0 is A, 25 is Z) next to this script, or into the folder
given. The same seed, fonts and Pillow give the same bytes. Needs Debian's python3-numpy, python3-pil and the font
packages below; `make_dataset.py --packages` lists them all.
"""
import argparse
import gzip
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Debian package -> licence of its fonts. Fonts drawn from one another stay on one side, so that no design is in both.
TRAIN_FONTS = {
    "fonts-averia-serif-gwf": "OFL-1.1",
    "fonts-bebas-neue": "OFL-1.1",
    "fonts-cabin": "OFL-1.1",
    "fonts-cantarell": "OFL-1.1",
    "fonts-comic-neue": "OFL-1.1",
    "fonts-courier-prime": "OFL-1.1",
    "fonts-crosextra-caladea": "OFL-1.1",
    "fonts-dejavu-core": "Bitstream Vera",
    "fonts-dejavu-extra": "Bitstream Vera",
    "fonts-dosis": "OFL-1.1",
    "fonts-fantasque-sans": "OFL-1.1",
    "fonts-hack": "MIT and Bitstream Vera",
    "fonts-inconsolata": "OFL-1.0",
    "fonts-jetbrains-mono": "Apache-2.0",
    "fonts-junicode": "OFL-1.1",
    "fonts-karla": "OFL-1.1",
    "fonts-league-spartan": "OFL-1.1",
    "fonts-liberation2": "OFL-1.1",
    "fonts-lobster": "OFL-1.1",
    "fonts-national-park": "OFL-1.1",
    "fonts-open-sans": "Apache-2.0",
    "fonts-oxygen": "OFL-1.1",
    "fonts-play": "OFL-1.1",
    "fonts-quicksand": "OFL-1.1",
    "fonts-roboto-slab": "Apache-2.0",
    "fonts-roboto-unhinted": "Apache-2.0",
    "fonts-sil-gentium-basic": "OFL-1.1",
    "fonts-vollkorn": "OFL-1.1",
}
TEST_FONTS = {
    "fonts-allerta": "OFL-1.1",
    "fonts-anonymous-pro": "OFL-1.1",
    "fonts-cardo": "OFL-1.1",
    "fonts-comfortaa": "OFL-1.1",
    "fonts-crosextra-carlito": "OFL-1.1",
    "fonts-ebgaramond": "OFL-1.1",
    "fonts-firacode": "OFL-1.1",
    "fonts-goudybookletter": "public domain",
    "fonts-inter": "OFL-1.1",
    "fonts-junction": "OFL-1.1",
    "fonts-kaushanscript": "OFL-1.1",
    "fonts-lato": "OFL-1.1",
    "fonts-quattrocento": "OFL-1.1",
    "fonts-sil-andika": "OFL-1.1",
    "fonts-sil-charis": "OFL-1.1",
    "fonts-tuffy": "public domain",
    "fonts-yanone-kaffeesatz": "OFL-1.1",
}
# Hairlines vanish at 28 pixels; outlines and stencils are not plain letters; a name with [ is a variable font.
SKIP = re.compile(r"Thin|Hairline|ExtraLight|Outline|stencil|Tamil|\[")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIDE = 28          # pixels of a finished image
SCALE = 4          # letters are drawn this many times larger, then averaged down
LEVELS = 16        # grey levels kept, so that the noise still compresses


def fonts_of(package):
    """The usable font files of an installed package, one per file name, in a fixed order."""
    listing = subprocess.run(["dpkg", "-L", package], check=True, capture_output=True, text=True).stdout
    files = [Path(line) for line in sorted(listing.splitlines()) if re.search(r"\.(ttf|otf)$", line)]
    files = {f.name.lower(): f for f in files if not SKIP.search(f.name)}
    if not files:
        raise SystemExit(f"{package}: no usable font")
    return list(files.values())


def draw(letter, font_file, rng):
    """One letter as SIDE x SIDE grey bytes."""
    big = SIDE * SCALE
    size = int(SCALE * rng.uniform(14, 31))
    font = ImageFont.truetype(str(font_file), size, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (2 * big, 2 * big))
    ImageDraw.Draw(image).text((big, big), letter, fill=255, font=font, anchor="mm")

    # Shrink the ink if it is too large, turn and slant it, and put its middle near the image's middle.
    left, top, right, bottom = image.getbbox()
    fit = max(1.0, max(right - left, bottom - top) / (0.84 * big))
    angle, shear = np.radians(rng.uniform(-15, 15)), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = fit * turn @ np.array([[1, shear], [0, 1]])             # output pixel -> input pixel
    target = big / 2 + SCALE * rng.uniform(-2.5, 2.5, 2)
    offset = np.array([left + right, top + bottom]) / 2 - inverse @ target
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    image = image.transform((big, big), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)

    image = image.filter(ImageFilter.GaussianBlur(SCALE * rng.uniform(0, 1.3)))
    grey = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255
    black, white = rng.uniform(0, 0.12), rng.uniform(0.4, 1)
    grey = black + (white - black) * grey + rng.normal(0, rng.uniform(0, 0.08), grey.shape)
    return np.round(np.round(grey.clip(0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))).astype(np.uint8)


def render(packages, count, rng):
    """`count` images, letters equally frequent; every package equally likely, then every font in it."""
    families = [fonts_of(package) for package in packages]
    labels = rng.permutation(np.arange(count) % len(LETTERS)).astype(np.uint8)
    images = np.empty((count, SIDE, SIDE), np.uint8)
    for image, label in zip(images, labels):
        family = families[rng.integers(len(families))]
        image[:] = draw(LETTERS[label], family[rng.integers(len(family))], rng)
    return images, labels


def write_idx(path, array):
    """MNIST's idx format: type byte 8 (unsigned byte), rank, big-endian dimensions, data; gzip without a date."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 9, mtime=0))


def write_sheet(path, images, labels, rows=10):
    """A contact sheet: one column per letter."""
    columns = [np.vstack(images[labels == label][:rows]) for label in range(len(LETTERS))]
    Image.fromarray(np.hstack(columns)).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", action="store_true", help="also write train-sheet.png and test-sheet.png")
    parser.add_argument("--packages", action="store_true", help="list the Debian font packages and stop")
    args = parser.parse_args()
    if args.packages:
        print(*TRAIN_FONTS, *TEST_FONTS, sep="\n")
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, packages, count, seed in (("train", TRAIN_FONTS, 6000, [args.seed, 0]),
                                        ("test", TEST_FONTS, 2000, [args.seed, 1])):
        images, labels = render(packages, count, np.random.default_rng(seed))
        write_idx(args.folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(args.folder / f"{name}-labels-idx1-ubyte.gz", labels)
        if args.sheet:
            write_sheet(args.folder / f"{name}-sheet.png", images, labels)


if __name__ == "__main__":
    main()
