"""What a person sees while a run is going: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.runtime.job_queue import Event

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table

PLAIN_EVERY_S = 10.0
PLAIN_EVERY_SHARE = 0.02
"""Where that is longer, plain lines of a run are this share of its time so far apart: an hour fits a log."""


@dataclass
class RunState:
    """One training run, as far as it is known here."""

    name: str
    epochs: int
    work: float
    """Cost relative to the other runs: what the overall estimate is made of."""
    status: str = "waiting"
    epoch: int = 0
    fraction: float = 0.0
    loss: float | None = None
    images_per_s: float | None = None
    accuracy: float | None = None
    began: float = 0.0
    began_fraction: float = 0.0
    ended: float = 0.0

    def seconds_left(self, now: float) -> float | None:
        """At the speed so far; None before there is one."""
        done = self.fraction - self.began_fraction
        if self.status != "training" or done <= 0:
            return None
        return (now - self.began) / done * (1 - self.fraction)


@dataclass
class View:
    """Keeps the state of everything and shows it; `close` it before printing anything else."""

    title: str
    console: Console
    live: bool
    stages: list[str]
    runs: dict[str, RunState] = field(default_factory=dict)
    stage: str = ""
    done: list[str] = field(default_factory=list)
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    panel: Callable[[], Table] | None = None
    """Shown below the training runs while it is set."""
    _live: Live | None = None
    _last: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, title: str, stages: list[str], log_file: str) -> View:
        """A view on stderr: live if that is a terminal."""
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        view = cls(title, console, console.is_terminal, stages)
        view.say(f"{title}; Ray's and libraries' messages: {log_file}")
        if view.live:
            view._live = Live(
                get_renderable=view._render_all, console=console, refresh_per_second=4, transient=True
            )
            view._live.start()
        return view

    def expect(self, name: str, epochs: int, work: float) -> None:
        """A training run that will come."""
        self.runs[name] = RunState(name, epochs, work)

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        if not self.live:
            self.say(f"{stage} ...")

    def end(self, stage: str, seconds: float | None, note: str = "") -> None:
        """A stage is done; `seconds` is None if an earlier start had done it."""
        self.done.append(stage)
        took = "done before" if seconds is None else f"{seconds:.1f} s"
        self.say(f"{stage}: {took}{f', {note}' if note else ''}")

    def say(self, text: str, style: str | None = None) -> None:
        """One line that stays."""
        self.console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """One line that stays and is seen."""
        self.say(f"WARNING: {text}", style="bold yellow")

    def show(self, event: Event) -> None:
        """Something that happened in a worker group."""
        state = self.runs.get(event.run)
        if state is None:
            return
        now, data = time.monotonic(), event.data
        match event.kind:
            case "started":
                state.status, state.began = "training", now
                state.epoch, state.fraction = data["epoch"], data["epoch"] / state.epochs
                state.began_fraction = state.fraction
                if not self.live or data["epoch"]:
                    self.say(
                        f"{state.name}: "
                        + (f"continues after epoch {data['epoch']}" if data["epoch"] else "starts")
                    )
            case "progress":
                state.epoch, state.loss, state.images_per_s = (
                    data["epoch"],
                    data["loss"],
                    data["images_per_s"],
                )
                state.fraction = data["step"] / data["steps"]
                self._plain_progress(state, now)
            case "epoch":
                record = data["record"]
                state.epoch, state.fraction = int(record["epoch"]), record["epoch"] / state.epochs
                state.loss, state.accuracy = record["train/loss"], record["averaged/accuracy"]
            case "warning":
                self.warn(data["message"])
            case "done":
                state.status, state.fraction, state.ended = "done", 1.0, now
                if not self.live and "best" in data["record"]:
                    best = data["record"]["best"]
                    self.say(
                        f"{state.name}: done, validation accuracy {100 * best['averaged/accuracy']:.2f} %"
                    )

    def close(self) -> None:
        """Stop drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def seconds_left(self) -> float | None:
        """Estimate for all training runs, from the work done so far in this start."""
        now = time.monotonic()
        active = [s for s in self.runs.values() if s.status != "waiting" and s.began]
        done = sum(s.work * (s.fraction - s.began_fraction) for s in active)
        spent = sum((s.ended or now) - s.began for s in active)
        if done <= 0:
            return None
        at_once = max(1, sum(s.status == "training" for s in active))
        left = sum(s.work * (1 - s.fraction) for s in self.runs.values())
        longest = max((s.seconds_left(now) or 0.0 for s in active), default=0.0)
        return max(longest, left * spent / done / at_once)

    def _plain_progress(self, state: RunState, now: float) -> None:
        apart = max(PLAIN_EVERY_S, PLAIN_EVERY_SHARE * (now - self.started))
        if self.live or now - self._last.get(state.name, state.began) < apart:
            return
        self._last[state.name] = now
        left = state.seconds_left(now)
        self.say(
            f"{state.name}: epoch {state.epoch}/{state.epochs}, loss {state.loss:.4f}, "
            f"{state.images_per_s:,.0f} images/s, {duration(left)} left; "
            f"all training: {duration(self.seconds_left())} left"
        )

    def _render_all(self) -> Group:
        from rich.console import Group

        return Group(self._render(), *([self.panel()] if self.panel is not None else []))

    def _render(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        now = time.monotonic()
        stages = "  ".join(
            f"[green]{s}[/]" if s in self.done else f"[bold]{s}[/]" if s == self.stage else f"[dim]{s}[/]"
            for s in self.stages
        )
        left = self.seconds_left()
        table = Table(
            title=f"{stages}   {duration(now - self.started)} gone, {duration(left)} of training left",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for heading in ("run", "", "epoch", "loss", "val. acc.", "images/s", "left"):
            table.add_column(heading, justify="left" if heading in ("run", "") else "right", no_wrap=True)
        for s in self.runs.values():
            table.add_row(
                s.name,
                ProgressBar(total=1, completed=s.fraction, width=20),
                f"{s.epoch}/{s.epochs}",
                "" if s.loss is None else f"{s.loss:.4f}",
                "" if s.accuracy is None else f"{100 * s.accuracy:.2f} %",
                "" if s.images_per_s is None or s.status == "done" else f"{s.images_per_s:,.0f}",
                s.status if s.status != "training" else duration(s.seconds_left(now)),
            )
        return table


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them.

    >>> duration(75), duration(None), duration(7300)
    ('1 min 15 s', '?', '2 h 1 min')
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
