"""Target 6: how much of `ekd run digits` is neither training nor evaluation, and where it goes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.result import Result, table
from benchmarks.timing import conditions

RUN = "benchmark"


def measure(runs: int = 3) -> list[Result]:
    """Of whole runs in folders of their own: the median share of wall time outside training and evaluation.

    All of the stage `evaluate` counts as evaluation.
    """
    found = sorted(_one_run() for _ in range(runs))
    shares = ", ".join(f"{share:.1f}" for share, _ in found)
    share, where = found[runs // 2]
    return [Result(6, "start-up of `ekd run digits`", share, 35, "smaller", "%", f"of {shares}; {where}")]


def _one_run() -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"storage.uri={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db")
        command = [sys.executable, "-m", "orchestrator", "run", "digits", "--run-id", RUN]
        command += [part for setting in settings for part in ("--set", setting)]
        began = time.time()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.time() - began
        run = Path(folder) / "runs" / RUN
        stages = json.loads((run / "summary.json").read_text())["stages"]
        training = covered(_training(run))
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    beside = {"imports, start of Ray, end": wall - sum(seconds.values()), **seconds}
    where = ", ".join(f"{name} {value:.1f}" for name, value in beside.items())
    share = 100 * (1 - (training + seconds["evaluate"]) / wall)
    return share, f"wall {wall:.1f} s, some training run under way for {training:.1f} s; {where}"


def _training(run: Path) -> list[tuple[float, float]]:
    """When each training run was at work: what it made is stored at its end."""
    spans = []
    for file in (run / "networks").glob("*.json"):
        record = json.loads(file.read_text())["record"]
        if "seconds" in record:
            end = file.stat().st_mtime
            spans.append((end - record["seconds"], end))
    return spans


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of `spans`.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    print(table(measure()))
    print(conditions())
