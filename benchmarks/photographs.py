"""Folders of generated photographs: `python -m benchmarks.photographs FOLDER --images 2000 --size 300`.

Not photographs, but for a decoder as they are: smooth at large, textured in detail, about as many bytes a
pixel as a camera's JPEG has. The colour tells the class, so that a network learns something.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 87
CLASSES = 10


def photograph(number: int, size: int, classes: int = CLASSES) -> Image.Image:
    """Photograph `number`, of class `number % classes`; its longer side is 4/3 of `size`."""
    generator = np.random.default_rng(number)
    width, height = (size * 4 // 3, size) if number % 3 else (size, size * 4 // 3)
    hue = 255 * (number % classes) // classes
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    coarse[..., 0] = hue
    field = Image.fromarray(coarse, "HSV").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    fine = generator.normal(0, 12, (height // 2, width // 2)).astype(np.float32)
    texture = np.asarray(Image.fromarray(fine, "F").resize((width, height), Image.Resampling.BILINEAR))
    return Image.fromarray((np.asarray(field) + texture[..., None]).clip(0, 255).astype(np.uint8))


def _write(folder: Path, split: str, size: int, classes: int, numbers: range) -> None:
    for number in numbers:
        photograph(number, size, classes).save(
            folder / split / f"class-{number % classes:04d}" / f"{number:07d}.jpg", quality=QUALITY
        )


def write_photographs(folder: Path, images: int, size: int, *, classes: int = CLASSES, test: int = 0) -> None:
    """`folder/train/CLASS/*.jpg`, and `test` further ones in `folder/test`."""
    for split, first, count in (("train", 0, images), ("test", images, test)):
        if not count:
            continue
        for label in range(classes):
            (folder / split / f"class-{label:04d}").mkdir(parents=True, exist_ok=True)
        chunks = [range(n, min(n + 100, first + count)) for n in range(first, first + count, 100)]
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(partial(_write, folder, split, size, classes), chunks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--size", type=int, default=300, help="pixels of the shorter side")
    parser.add_argument("--classes", type=int, default=CLASSES)
    chosen = parser.parse_args()
    write_photographs(chosen.folder, chosen.images, chosen.size, classes=chosen.classes, test=chosen.test)


if __name__ == "__main__":
    main()
