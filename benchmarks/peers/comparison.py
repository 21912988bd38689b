"""Target 3: plain KD end to end against torchdistill, BatchEnsemble layers against torch-uncertainty."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.peers.case import BATCH_SIZE
from benchmarks.peers.convolutions import MEMBERS, SHAPES
from benchmarks.peers.environment import PeersUnavailable, peers_python
from benchmarks.result import Result, Skipped, table
from benchmarks.timing import DTYPES, conditions
from benchmarks.turns import ROOT, Side, in_turns
from ekd_train.data.fashion_mnist import FILES, find_folder

KD = "KD end to end, WRN-10-1, Fashion-MNIST, one core"
STEPS, WARM_UP = 20, 5


def measure(rounds: int = 5) -> list[Result | Skipped]:
    """Both comparisons; skipped, with the reason, where the peers or the data are not to be had."""
    try:
        python = peers_python()
    except PeersUnavailable as error:
        return [Skipped(3, "torchdistill and torch-uncertainty", str(error))]
    return [*distillation(python, rounds), *convolutions(python)]


def distillation(python: str, rounds: int) -> list[Result | Skipped]:
    """Images/s of our loop over torchdistill's, each on one thread of the same core."""
    folder = find_folder(None)
    if folder is None:
        return [Skipped(3, KD, "no Fashion-MNIST here; `make fashion-mnist` brings it")]
    core = str(min(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        _lay_out_for_torchvision(folder, Path(root))
        ours = [sys.executable, "-m", "benchmarks.peers.our_loop", core, root]
        sides = {
            "float32": [*ours, "float32"],
            "bfloat16": [*ours, "bfloat16"],
            "torchdistill": [python, "-m", "benchmarks.peers.torchdistill_loop", core, root],
        }
        sides["torchdistill, our allocator"] = sides["torchdistill"]
        started = {
            name: stack.enter_context(Side(command, keeps_memory=name != "torchdistill"))
            for name, command in sides.items()
        }
        seconds = in_turns(started, steps=STEPS, rounds=rounds, warm_up=WARM_UP)
    rates = {name: BATCH_SIZE / statistics.median(times) for name, times in seconds.items()}
    results: list[Result | Skipped] = []
    for precision in ("float32", "bfloat16"):
        ratio, same_allocator = (
            statistics.median(t / o for t, o in zip(seconds[name], seconds[precision], strict=True))
            for name in ("torchdistill", "torchdistill, our allocator")
        )
        note = (
            f"images/s: {rates[precision]:.0f}, torchdistill {rates['torchdistill']:.0f}; "
            f"{same_allocator:.2f} x with one allocator for both"
        )
        results.append(Result(3, f"{KD}, {precision}", ratio, 1.5, note=note))
    return results


def convolutions(python: str) -> list[Result]:
    """Seconds of a BatchEnsemble convolution over a plain one's, each in the memory layout that suits it."""
    command = [python, "-m", "benchmarks.peers.convolutions"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    results = []
    cases = itertools.product(DTYPES, SHAPES)
    for (precision, (channels, pixels)), seconds in zip(cases, json.loads(answer), strict=True):
        best = {
            kind: min(value for name, value in seconds.items() if name.startswith(f"{kind},"))
            for kind in ("plain", "ours", "theirs")
        }
        what = (
            f"BatchEnsemble-{MEMBERS} convolution over a plain one, {channels} ch, {pixels} px, {precision}"
        )
        note = f"torch-uncertainty {best['theirs'] / best['plain']:.2f} x"
        results.append(Result(3, what, best["ours"] / best["plain"], 1.2, "smaller", note=note))
    return results


def _lay_out_for_torchvision(folder: Path, root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        plain = folder / name
        data = plain.read_bytes() if plain.exists() else gzip.decompress(Path(f"{plain}.gz").read_bytes())
        (raw / name).write_bytes(data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(measure()))
    print(conditions())
