"""Which fault tests run, and the table of what they measured."""

import hashlib
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = """# Faults

`make faults`: three Ray hosts, S3, and MLflow with PostgreSQL in network namespaces of their own, and each of
these faults once, in a run of two workers. Every run ends with the same registered weights, metrics and
history as the run that nothing happened to. (In an elastic run other numbers of workers compute other batch
statistics: there the history is the same, and the accuracy has a floor.) CI runs those marked *always* and
three of the others, chosen by the commit's hash. `make faults` writes this page when all have passed. Run
after run with faults at random, an hour of it: [`make soak`](soak.md).

Last at {commit}, {day}: {rows} runs in {minutes:.0f} minutes. Seconds from the fault until it was noticed,
and until training went on; of the whole run, with the start of its driver.

| fault | in CI | noticed | goes on | whole run |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What one fault test measured."""

    fault: str
    always: bool
    noticed_s: float
    continued_s: float
    run_s: float

    def text(self) -> str:
        """A line of the terminal's table."""
        seconds = (self.noticed_s, self.continued_s, self.run_s)
        return f"{self.fault:58s} " + " ".join(f"{value:7.1f} s" for value in seconds)

    def markdown(self) -> str:
        """A line of `docs/faults.md`."""
        seconds = " | ".join(f"{value:.1f}" for value in (self.noticed_s, self.continued_s, self.run_s))
        return f"| {self.fault} | {'always' if self.always else 'by turns'} | {seconds} |"


class Times:
    """How long faults took to be noticed and to be overcome, in this test session."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.began = time.monotonic()

    def text(self) -> str:
        """The terminal's table: one line a fault."""
        head = f"{'fault':58s} {'noticed':>9s} {'goes on':>9s} {'whole run':>9s}"
        return "\n".join([head, *(row.text() for row in self.rows)])

    def page(self) -> str:
        """`docs/faults.md`."""
        header = HEADER.format(
            commit=commit()[:10],
            day=datetime.now(UTC).date().isoformat(),
            rows=len(self.rows),
            minutes=(time.monotonic() - self.began) / 60,
        )
        return header + "".join(f"{row.markdown()}\n" for row in self.rows)


class Watch:
    """Of one test: it begins with it, and notes its row."""

    def __init__(self, times: Times, fault: str, always: bool) -> None:
        self._times, self._fault, self._always = times, fault, always
        self._began = time.monotonic()

    def note(self, noticed_s: float = 0, continued_s: float = 0) -> None:
        """Seconds from the fault until a message of it, and until training went on."""
        run_s = time.monotonic() - self._began
        self._times.rows.append(Row(self._fault, self._always, noticed_s, continued_s, run_s))


def commit() -> str:
    """The hash of the commit that is checked out; "unknown" outside a git repository."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def by_turns(names: Iterable[str], count: int, seed: str) -> set[str]:
    """`count` of `names`, the same for the same seed, others for another."""

    def rank(name: str) -> str:
        return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()

    return set(sorted(names, key=rank)[:count])


def chosen(faults: str, always: Sequence[str], others: Sequence[str], seed: str) -> set[str]:
    """The names that EKD_FAULTS asks for: "all", or "core+N", `always` and N of the `others`.

    >>> sorted(chosen("core+1", ["killed"], ["unplugged"], "any"))
    ['killed', 'unplugged']
    """
    if faults == "all":
        return {*always, *others}
    core, plus, count = faults.partition("+")
    if core != "core" or (plus and not count.isdecimal()):
        raise pytest.UsageError(f"EKD_FAULTS={faults}: give all, core, or core+3")
    return {*always, *by_turns(others, int(count or 0), seed)}


TIMES: pytest.StashKey[Times] = pytest.StashKey()
"""Of the test session, for the table at its end."""
