"""What a benchmark has found, against what was wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Result:
    """One measured number and its target; `wanted` None: stated only."""

    target: int
    """Number of the group that it belongs to; see `benchmarks.__main__`."""
    what: str
    measured: float
    wanted: float | None = None
    better: Literal["larger", "smaller"] = "larger"
    unit: str = "x"
    note: str = ""
    interval: tuple[float, float] | None = None
    """Holds the true value with 95 % certainty; None: not known."""

    @property
    def verdict(self) -> Literal["yes", "NO", "undecided", ""]:
        """Whether the target is met; undecided where it lies within the interval, nothing without one."""
        if self.wanted is None:
            return ""
        if self.interval is not None and self.interval[0] < self.wanted < self.interval[1]:
            return "undecided"
        met = self.measured >= self.wanted if self.better == "larger" else self.measured <= self.wanted
        return "yes" if met else "NO"


@dataclass(frozen=True)
class Skipped:
    """A measurement that could not be made here."""

    target: int
    what: str
    why: str


def table(results: Iterable[Result | Skipped]) -> str:
    """Markdown: target, what, measured, wanted, met."""
    lines = ["| target | what | measured | wanted | met |", "|---|---|---|---|---|"]
    for result in results:
        if isinstance(result, Skipped):
            lines.append(f"| {result.target} | {result.what} | skipped: {result.why} | | |")
            continue
        sign = {"larger": "≥", "smaller": "≤"}[result.better]
        wanted = "" if result.wanted is None else f"{sign} {result.wanted:g} {result.unit}"
        note = f" ({result.note})" if result.note else ""
        within = f" [{result.interval[0]:.3g}, {result.interval[1]:.3g}]" if result.interval else ""
        measured = f"{result.measured:.3g}{within} {result.unit}{note}"
        lines.append(f"| {result.target} | {result.what} | {measured} | {wanted} | {result.verdict} |")
    return "\n".join(lines)
