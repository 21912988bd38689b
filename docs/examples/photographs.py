"""Photographs as a stand-in for yours: six kinds of things before clutter, a folder for each kind.

From the folder that has `docs`: python docs/examples/photographs.py photographs
"""

import argparse
import colorsys
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

CLASSES = {"disc": 40, "triangle": 3, "square": 4, "pentagon": 5, "star": -5, "ring": 0}
"""Name -> corners; below 0: of a star; 0: a ring."""
SPLITS = {"train": 75, "validation": 25, "test": 100}
"""Photographs of each class."""
HUE_SPREAD = 0.06
"""Each kind has a colour of its own, which varies so far around the wheel (standard deviation): neither
colour nor shape alone tells the kinds apart."""


def photograph(kind: int, chance: random.Random) -> Image.Image:
    """A colour image of 90 to 140 pixels a side."""
    width, height = chance.randint(90, 140), chance.randint(90, 140)
    colour = lambda: tuple(chance.randint(30, 225) for _ in range(3))  # noqa: E731
    image = Image.new("RGB", (width, height), colour())
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        line = [(chance.randint(0, width), chance.randint(0, height)) for _ in range(2)]
        pen.line(line, fill=colour(), width=chance.randint(1, 6))
    hue, depth, light = kind / 6 + chance.gauss(0, HUE_SPREAD), chance.uniform(0.5, 1), chance.uniform(0.5, 1)
    paint = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, depth, light))
    corners = list(CLASSES.values())[kind]
    radius = chance.uniform(0.25, 0.45) * min(width, height)
    x, y = chance.uniform(radius, width - radius), chance.uniform(radius, height - radius)
    if corners == 0:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=paint, width=round(radius / 3))
    else:
        count, turn = abs(corners) * (2 if corners < 0 else 1), chance.uniform(0, 2 * math.pi)
        lengths = [radius if corners > 0 or i % 2 == 0 else radius * 0.45 for i in range(count)]
        angles = [turn + 2 * math.pi * i / count for i in range(count)]
        points = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(lengths, angles, strict=True)]
        pen.polygon(points, fill=paint)
    return image.filter(ImageFilter.GaussianBlur(chance.uniform(0, 1.5)))


def main() -> None:
    """Write them: FOLDER/SPLIT/CLASS/NUMBER.jpg."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1, help="of the photographs (default: all)")
    arguments = parser.parse_args()
    chance = random.Random(0)
    for split, count in SPLITS.items():
        for kind, name in enumerate(CLASSES):
            folder = arguments.folder / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(max(4, round(count * arguments.share))):
                photograph(kind, chance).save(folder / f"{number:03}.jpg", quality=80)


if __name__ == "__main__":
    main()
