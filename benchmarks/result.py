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

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.wanted is None:
            return None
        return self.measured >= self.wanted if self.better == "larger" else self.measured <= self.wanted


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
        met = {True: "yes", False: "NO", None: ""}[result.met]
        note = f" ({result.note})" if result.note else ""
        measured = f"{result.measured:.3g} {result.unit}{note}"
        lines.append(f"| {result.target} | {result.what} | {measured} | {wanted} | {met} |")
    return "\n".join(lines)
