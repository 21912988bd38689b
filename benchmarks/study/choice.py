"""Temperature and strength of every arm, chosen on validation images with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.cells import Cell

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
DEFAULT = (4.0, 1.0)
"""Temperature and strength that the papers use: the strength while the temperature is chosen."""
FIRST_SEED = 1000
"""Of the seeds for choosing: no final cell has one of them."""

RunAll = Callable[[Sequence[Cell]], dict[Cell, dict[str, Any]]]


def choose(regime: str, arms: Iterable[Arm], seeds: int, run_all: RunAll) -> dict[str, tuple[float, float]]:
    """The best (temperature, strength) of each arm: first the temperature, then the strength at it.

    Best is the highest mean over seeds of the validation accuracy of the averaged network; of
    equals the lowest NLL. Arms that are averages of another arm's training take that arm's.
    """
    trained = [arm for arm in arms if arm.made_by == "distillation"]
    chosen = {arm.name: DEFAULT for arm in trained}
    for name, options in (("temperature", TEMPERATURES), ("strength", STRENGTHS)):
        cells = {
            (arm.name, option): [
                Cell(
                    regime,
                    arm.name,
                    FIRST_SEED + seed,
                    temperature=option if name == "temperature" else chosen[arm.name][0],
                    strength=option if name == "strength" else chosen[arm.name][1],
                )
                for seed in range(seeds)
            ]
            for arm in trained
            if name == "temperature" or arm.perturbs
            for option in options
        }
        results = run_all([cell for group in cells.values() for cell in group])
        for arm in trained:
            scores = {
                option: _score([results[cell]["best"] for cell in cells[arm.name, option]])
                for option in options
                if (arm.name, option) in cells
            }
            if scores:
                best = max(scores, key=scores.__getitem__)
                temperature, strength = chosen[arm.name]
                chosen[arm.name] = (best, strength) if name == "temperature" else (temperature, best)
    return chosen


def _score(records: Sequence[dict[str, float]]) -> tuple[float, float]:
    return (
        mean(record["averaged/accuracy"] for record in records),
        -mean(record["averaged/nll"] for record in records),
    )
