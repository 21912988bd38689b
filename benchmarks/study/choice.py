"""Each arm's learning rate, temperature and strength, chosen on validation images with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.cells import Cell


@dataclass(frozen=True)
class Choice:
    """What is chosen for an arm; as it stands: the papers', and the regime's learning rate."""

    temperature: float = 4.0
    strength: float = 1.0
    rate: float = 1.0
    """Share of the regime's learning rate: losses that add up over branches, and weights that members
    share, bear less than one network does."""


OPTIONS: Mapping[str, tuple[float, ...]] = {
    "rate": (0.4, 1.0),
    "temperature": (1.0, 2.0, 4.0, 8.0),
    "strength": (0.5, 1.0, 2.0, 4.0),
}
"""What is tried, in this order: each with what was chosen before it, and the defaults of the rest.

Where losses of several predictions add up, the rates are divided by their number.
"""
FIRST_SEED = 1000
"""Of the seeds for choosing: no final cell has one of them."""

RunAll = Callable[[Sequence[Cell]], dict[Cell, dict[str, Any]]]


def choose(regime: str, arms: Iterable[Arm], seeds: Mapping[str, int], run_all: RunAll) -> dict[str, Choice]:
    """The best choice of each arm that is trained: learning rate, then temperature, then strength.

    Best is the highest mean over seeds of the validation accuracy of the averaged network; of
    equals the lowest NLL. Arms that are averages of another arm's training take that arm's.

    Args:
        regime: its name.
        arms: those to choose for.
        seeds: students for every option, by the name of what is chosen; 0: it stays as it is.
        run_all: trains cells.
    """
    trained = [arm for arm in arms if arm.made_by in ("distillation", "labels")]
    chosen = {arm.name: Choice() for arm in trained}
    for name in OPTIONS:
        cells = {
            (arm.name, option): [
                cell(regime, arm.name, FIRST_SEED + seed, replace(chosen[arm.name], **{name: option}))
                for seed in range(seeds[name])
            ]
            for arm in trained
            if _has(arm, name)
            for option in _options(arm, name)
            if seeds[name]
        }
        results = run_all([one for group in cells.values() for one in group])
        for arm in trained:
            scores = {
                option: _score([results[one]["best"] for one in cells[arm.name, option]])
                for option in _options(arm, name)
                if (arm.name, option) in cells
            }
            if scores:
                best = max(scores, key=scores.__getitem__)
                chosen[arm.name] = replace(chosen[arm.name], **{name: best})
    return chosen


def cell(regime: str, arm: str, seed: int, choice: Choice, *, final: bool = False) -> Cell:
    """The cell that trains `arm` as chosen."""
    return Cell(regime, arm, seed, choice.temperature, choice.strength, choice.rate, final)


def _options(arm: Arm, name: str) -> tuple[float, ...]:
    return tuple(option / arm.terms if name == "rate" else option for option in OPTIONS[name])


def _has(arm: Arm, name: str) -> bool:
    return {"rate": True, "temperature": arm.distils, "strength": arm.perturbs}[name]


def _score(records: Sequence[dict[str, float]]) -> tuple[float, float]:
    return (
        mean(record["averaged/accuracy"] for record in records),
        -mean(record["averaged/nll"] for record in records),
    )
