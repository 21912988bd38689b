"""Target 7: step time and peak memory against members and batch size, each in a process of its own.

`python -m benchmarks.growth --plot FILE` also draws them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.result import Result, table
from benchmarks.timing import compare, conditions
from benchmarks.turns import allocator
from benchmarks.workload import Workload
from ekd_train.data.augment import as_float
from ekd_train.settings import PerturbationKind
from ekd_train.training.speed import computing

MEMBERS, BATCHES = (1, 2, 4, 8), (32, 64, 128, 256)
HEAPS = 7
BASE = Workload(architecture="WRN-10-1", image_size=28, perturbation="none")
PERTURBED: PerturbationKind = "tdiv_sdiv"


@dataclass(frozen=True)
class Point:
    """One measured step."""

    members: int
    batch_size: int
    seconds: float
    peak_mib: float
    """Above what the process held before its first step."""


def points(rounds: int = 3) -> list[Point]:
    """The whole grid's two arms: members at the usual batch, and batches at the usual members."""
    wanted = [(m, BASE.batch_size) for m in MEMBERS]
    wanted += [(BASE.members, b) for b in BATCHES if b != BASE.batch_size]
    return [Point(m, b, *_alone("step", m, b, rounds)) for m, b in wanted]


def measure(found: Sequence[Point] | None = None) -> list[Result]:
    """Time and memory of one member more or one image more, and what teachers take."""
    found = found or points()
    results = [_stated(point, "no perturbation") for point in found]
    perturbed = Point(BASE.members, BASE.batch_size, *_alone("perturbed", BASE.members, BASE.batch_size, 3))
    results.append(_stated(perturbed, PERTURBED))
    arm = {p.members: p for p in found if p.batch_size == BASE.batch_size}
    single, most = arm[MEMBERS[0]], arm[MEMBERS[-1]]
    count = MEMBERS[-1] / MEMBERS[0]
    results += [
        Result(
            7,
            f"step time, {MEMBERS[-1]} members over 1, per member",
            most.seconds / single.seconds / count,
            1.1,
            "smaller",
        ),
        Result(
            7,
            f"memory, {MEMBERS[-1]} members over 1, per member",
            most.peak_mib / single.peak_mib / count,
            1.1,
            "smaller",
        ),
    ]
    # Where a heap begins decides how well it is filled: two processes' peaks differ by up to a fifth.
    peaks = {
        count: [_alone("teachers", count, BASE.batch_size, 1)[1] for _ in range(HEAPS)] for count in (1, 8)
    }
    one, eight = (statistics.median(found) for found in peaks.values())
    spread = "; ".join(f"{count}: {min(found):.0f} to {max(found):.0f} MiB" for count, found in peaks.items())
    note = f"medians of {HEAPS} processes; {spread}"
    results.append(
        Result(7, "activations of 8 teachers over those of one", eight / one, 1.1, "smaller", note=note)
    )
    return results


def _stated(point: Point, perturbation: str) -> Result:
    what = f"LatentBE-{point.members}, {perturbation}, batch {point.batch_size}"
    rate = point.batch_size / point.seconds
    note = f"{rate:.0f} images/s; {point.peak_mib:.0f} MiB"
    return Result(7, what, 1e3 * point.seconds, unit="ms a step", note=note)


def plot(found: Sequence[Point], path: str) -> None:
    """Time and memory against members and against batch size, as a picture."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    arms = {"members": [p for p in found if p.batch_size == BASE.batch_size]}
    arms["batch_size"] = sorted((p for p in found if p.members == BASE.members), key=lambda p: p.batch_size)
    for column, (name, arm) in enumerate(arms.items()):
        for row, (value, label) in enumerate((("seconds", "seconds a step"), ("peak_mib", "MiB at most"))):
            axes[row, column].plot([getattr(p, name) for p in arm], [getattr(p, value) for p in arm], "o-")
            axes[row, column].grid(alpha=0.3)
            axes[row, 0].set(ylabel=label)
            axes[1, column].set(xlabel=name.replace("_", " "))
    for one in axes.flat:  # after all is drawn: the limits of a row are shared
        one.set(ylim=(0, None), xlim=(0, None))
    axes[0, 0].set(title=f"{BASE.batch_size} images")
    axes[0, 1].set(title=f"{BASE.members} members")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure.savefig(path, metadata={"Date": None})


def _alone(what: str, members: int, batch: int, rounds: int) -> tuple[float, float]:
    """Seconds and peak MiB of `what`, measured in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        "--one",
        what,
        str(members),
        str(batch),
        str(rounds),
    ]
    environment = allocator(keeps_memory=True)
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    seconds, mib = json.loads(answer.splitlines()[-1])
    return seconds, mib


def _one(what: str, members: int, batch: int, rounds: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    case = BASE.changed(members=members, batch_size=batch)
    loop = case.changed(perturbation=PERTURBED if what == "perturbed" else BASE.perturbation).loop()
    if what != "teachers":
        call = case.step(loop)
    else:
        images = as_float(loop.data.train.images[:batch])
        teachers = loop.teachers
        assert teachers is not None

        def call() -> object:
            with torch.no_grad(), computing(BASE.speed, images.device):
                return teachers(images)

    before = _held_mib()
    seconds = compare({what: call}, rounds=rounds, warm_up=1)[what]
    return seconds, _peak_mib() - before


def _held_mib() -> float:
    """MiB that this process holds now; from here on its peak is counted anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mib()


def _peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot")
    parser.add_argument("--one", nargs=4)
    arguments = parser.parse_args()
    if arguments.one:
        what, *numbers = arguments.one
        print(json.dumps(_one(what, *map(int, numbers))))
    else:
        found = points()
        print(table(measure(found)))
        print(conditions())
        if arguments.plot:
            plot(found, arguments.plot)
