"""Loading photographs: packed ones against torchvision's ImageFolder and DataLoader, packing, and memory.

Rates are images for a second of CPU time, one process and one thread, so that what else the machine does
counts little. `python -m benchmarks.photographs_loaded` measures this alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset as ArrowDataset
from datasets import Features, Value
from datasets import Image as ImageColumn
from datasets.arrow_writer import ArrowWriter
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.photographs import write_photographs
from benchmarks.result import Result, table
from ekd_train.data import load_dataset
from ekd_train.data.augment import as_float, crops_of, draw_augmentation
from ekd_train.data.image_files import Encoded
from ekd_train.data.packed.images import PackedImages
from ekd_train.data.packed.loader import Wanted
from ekd_train.data.packed.records import records_in
from ekd_train.data.pixels import pixels
from ekd_train.data.tensors import place
from ekd_train.settings import Augmentation, DataSettings

TARGET = 10
PHOTOGRAPHS, MANY = 2000, 20_000
SIZE, SHORT_SIDE, CAMERA = 224, 256, 400
"""Pixels: of what is trained on, of what is stored, and of the shorter side as they come."""
BATCH = 64
ROUNDS = 3
CROPS = Augmentation(crop="photograph", flip=True)
LISTED = 10_000, 100_000
"""Files of two listings, from which the time that a million takes is told."""


def settings(root: Path, short_side: int | None) -> DataSettings:
    return DataSettings(
        name="image_folder",
        root=str(root),
        image_size=SIZE,
        validation_size=100,
        pack="always",
        pack_short_side=short_side,
        augmentation=CROPS,
    )


def per_cpu_second(count: int, work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


def torchvision_batches(root: Path) -> Iterator[torch.Tensor]:
    """As torchvision's reference recipe for ImageNet has it."""
    transform = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    folder = ImageFolder(str(root / "train"), transform)
    for images, _ in DataLoader(folder, BATCH, sampler=RandomSampler(folder)):
        yield images


def our_batches(root: Path, short_side: int | None, processes: int = 0) -> Iterator[torch.Tensor]:
    """The same, from packed photographs: uint8, cropped as they are decoded, and mirrored."""
    data = place(load_dataset(settings(root, short_side)), torch.device("cpu"), processes).training.train
    assert not isinstance(data.images, torch.Tensor)
    order = np.random.default_rng(0).permutation(len(data.labels))
    parts = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    draws = [
        draw_augmentation(torch.Generator().manual_seed(first), len(rows), CROPS)
        for first, rows in enumerate(parts)
    ]
    wanted = (Wanted(rows, crops_of(draw)) for rows, draw in zip(parts, draws, strict=True))
    for images, draw in zip(data.images.stream(wanted), draws, strict=True):
        images[draw.flipped] = images[draw.flipped].flip(-1)
        yield images


def rate(batches: Iterator[torch.Tensor], count: int = 8) -> float:
    next(batches)
    return per_cpu_second(count * BATCH, lambda: list(islice(batches, count)))


def measure() -> list[Result]:
    with TemporaryDirectory() as folder:
        return _measure(Path(folder))


def _measure(folder: Path) -> list[Result]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        camera, small = folder / "camera", folder / "small"
        write_photographs(camera, PHOTOGRAPHS // 2, CAMERA, test=100)
        write_photographs(small, PHOTOGRAPHS, SIZE, test=100)
        many = _linked(small, folder / "many", MANY)
        packing = per_cpu_second(MANY + 100, lambda: load_dataset(settings(many, None)))
        pairs = []
        for _ in range(ROUNDS):  # side by side, so that both meet the same machine
            theirs = rate(torchvision_batches(camera))
            pairs.append((theirs, rate(our_batches(camera, SHORT_SIDE)), rate(our_batches(camera, None))))
        theirs, ours, whole = (float(np.median(column)) for column in zip(*pairs, strict=True))
        grown = _memory(many) - _memory(small)
        one, two = (_wall_rate(our_batches(camera, SHORT_SIDE, processes)) for processes in (1, 2))
        return [
            Result(
                TARGET,
                f"packed at a short side of {SHORT_SIDE}: images a core, over torchvision's",
                ours / theirs,
                1.7,
                note=f"{ours:.0f} and {theirs:.0f} images/s",
            ),
            Result(TARGET, "packed as they came, over torchvision's", whole / theirs),
            Result(
                TARGET,
                "packing, files as they are",
                packing,
                1500,
                unit="images/s a core",
                note="with statistics",
            ),
            Result(
                TARGET,
                f"memory of a process, {PHOTOGRAPHS:,} to {MANY:,} images",
                grown,
                50,
                better="smaller",
                unit="MiB more",
            ),
            Result(
                TARGET,
                "two loader processes over one, by the clock",
                two / one,
                note=f"{one:.0f} and {two:.0f} images/s, beside the process that asks for them",
            ),
            Result(
                TARGET,
                "waiting for images, of a step of ResNet-18 with one loader process",
                _waiting(camera),
                0.03,
                better="smaller",
            ),
            Result(
                TARGET,
                "`ekd plan` of a million images, packed before",
                _planning(folder / "listed"),
                10,
                better="smaller",
                unit="s",
                note=f"by those of {LISTED[0]:,} and {LISTED[1]:,}",
            ),
            *_records(small),
        ]
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _wall_rate(batches: Iterator[torch.Tensor], count: int = 10) -> float:
    next(batches)
    began = time.perf_counter()
    taken = sum(len(batch) for batch in islice(batches, count))
    return taken / (time.perf_counter() - began)


def _waiting(root: Path, steps: int = 4) -> float:
    """The share of a training step that its process waits for images."""
    network, batches = resnet18(num_classes=10), our_batches(root, SHORT_SIDE, 1)
    next(batches)
    began, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        images = next(batches)
        waited += time.perf_counter() - asked
        network(as_float(images)).logsumexp(1).sum().backward()
    return waited / (time.perf_counter() - began)


def _planning(folder: Path) -> float:
    """Seconds of CPU time that `ekd plan` would take for a million images, whose pack is there."""
    tiny = folder / "tiny"
    write_photographs(tiny, 100, 16, test=100)
    took = []
    for count in LISTED:
        root = _linked(tiny, folder / str(count), count)
        experiment = folder / f"{count}.yaml"
        experiment.write_text(
            f"""
data: {{name: image_folder, root: {root}, image_size: 16, pack: always, validation_size: 100}}
teachers: {{count: 1, architecture: {{name: resnet, depth: 8}}}}
student: {{method: kd, architecture: {{name: resnet, depth: 8}}}}
perturbation: {{kind: none}}
"""
        )
        for command in ("pack", "plan"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "orchestrator", command, str(experiment)],
                check=True,
                capture_output=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    few, many = took
    return few + (many - few) / (LISTED[1] - LISTED[0]) * (1_000_000 - LISTED[0])


def _linked(source: Path, target: Path, count: int) -> Path:
    """A folder of `count` images: links to those of `source` under further names."""
    files = sorted((source / "train").rglob("*.jpg"))
    for number in range(count):
        file = files[number % len(files)]
        link = target / "train" / file.parent.name / f"{number:07d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
    (target / "test").symlink_to(source / "test")
    return target


def _memory(root: Path) -> float:
    """MiB at most of a process of its own that finds the pack and trains on some batches of it."""
    load_dataset(settings(root, None))
    command = [sys.executable, "-m", "benchmarks.photographs_loaded", "--peak", str(root)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed.splitlines()[-1]))


def _records(root: Path) -> list[Result]:
    """Random reads of encoded images by index, from ArrayRecord and from an Arrow file of `datasets`."""
    images = load_dataset(settings(root, None)).train.images
    assert isinstance(images, PackedImages)
    records = records_in(images.folder)
    order = np.random.default_rng(1).permutation(len(images)).tolist()
    encoded = [records.image(row).open().read() for row in range(len(images))]
    file = root / "images.arrow"
    with ArrowWriter(path=str(file), features=Features({"image": Value("binary")})) as writer:
        for one in encoded:
            writer.write({"image": one})
        writer.finalize()
    arrow = ArrowDataset.from_file(str(file)).cast_column("image", ImageColumn(decode=False))
    of_arrow = per_cpu_second(len(order), lambda: [arrow[row]["image"] for row in order])
    of_records = per_cpu_second(len(order), lambda: [records.image(row).open().read() for row in order])
    one = Encoded("a photograph", records.image(0).open)
    decoding = per_cpu_second(200, lambda: [pixels(one, False, settings(root, None)) for _ in range(200)])
    return [
        Result(
            TARGET,
            "reading a record by index, ArrayRecord over Arrow",
            of_records / of_arrow,
            note=f"{of_records:.0f} and {of_arrow:.0f} records/s; decoding takes {decoding:.0f} images/s",
        )
    ]


def main() -> None:
    torch.set_num_threads(1)
    if "--peak" in sys.argv:
        for _ in islice(our_batches(Path(sys.argv[-1]), None), 10):
            pass
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    print(table(measure()))


if __name__ == "__main__":
    main()
