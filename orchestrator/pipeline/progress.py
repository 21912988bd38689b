"""What a person sees while a run is going: rich's progress bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ekd_train.persistence.records import NetworkRecord
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.runtime.event import Advanced, Done, Event, Started, Validated, Warned

PLAIN_EVERY_S = 10.0
PLAIN_EVERY_SHARE = 0.02
"""Where that is longer, plain lines of a run are this share of its time so far apart: an hour fits a log."""


class Bars(Progress):
    """rich's progress bars: a line for each training run, with a table below them while there is one."""

    table: Callable[[], Table] | None = None

    def __init__(self, console: Console) -> None:
        texts = (
            "{task.fields[epoch]}",
            "{task.fields[result]}",
            "{task.fields[speed]}",
            "{task.fields[left]}",
        )
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *(TextColumn(text, justify="right") for text in texts),
            console=console,
            refresh_per_second=4,
            transient=True,
            disable=not console.is_terminal,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and below them the table."""
        yield from super().get_renderables()
        if self.table is not None:
            yield self.table()


@dataclass
class RunState:
    """One training run, as far as it is known here."""

    name: str
    epochs: int
    work: float
    """Cost relative to the other runs: what the overall estimate is made of."""
    bar: TaskID
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
    """Keeps the state of every training run and shows it; `close` it before printing anything else."""

    title: str
    console: Console
    bars: Bars
    stages: list[str]
    run_id: str = ""
    runs: dict[str, RunState] = field(default_factory=dict)
    stage: str = ""
    started: float = field(default_factory=time.monotonic)
    _all: TaskID | None = None
    _last: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, title: str, stages: list[str], log_file: str, run_id: str = "") -> "View":
        """A view on stderr: bars if that is a terminal, else lines."""
        console = PlainConsole(stderr=True)
        view = cls(title, console, Bars(console), stages, run_id)
        view.say(f"{title}; Ray's and libraries' messages: {log_file}")
        view.bars.start()
        return view

    @property
    def live(self) -> bool:
        """Whether bars are drawn, and need no lines beside them."""
        return not self.bars.disable

    @property
    def panel(self) -> Callable[[], Table] | None:
        """A table that is shown below the training runs while it is set."""
        return self.bars.table

    @panel.setter
    def panel(self, table: Callable[[], Table] | None) -> None:
        self.bars.table = table

    def expect(self, name: str, epochs: int, work: float) -> None:
        """A training run that will come."""
        bar = self.runs[name].bar if name in self.runs else self._bar(name)
        self.runs[name] = RunState(name, epochs, work, bar)

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        if self._all is None:
            self._all = self._bar(stage)
        number = f" ({self.stages.index(stage) + 1} of {len(self.stages)})" if stage in self.stages else ""
        self.bars.update(self._all, description=f"[bold]{stage}{number}")
        if not self.live:
            self.say(f"{stage} ...")

    def end(self, stage: str, seconds: float | None, note: str = "") -> None:
        """A stage is done; `seconds` is None if an earlier start had done it."""
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
        now = time.monotonic()
        match event:
            case Started(epoch=epoch):
                state.status, state.began, state.epoch = "training", now, epoch
                state.fraction = state.began_fraction = epoch / state.epochs
                if not self.live or epoch:
                    self.say(f"{state.name}: " + (f"continues after epoch {epoch}" if epoch else "starts"))
            case Advanced():
                state.epoch, state.loss, state.images_per_s = event.epoch, event.loss, event.images_per_s
                state.fraction = event.step / event.steps
                self._plain_progress(state, now)
            case Validated(record=record):
                state.epoch, state.fraction = int(record["epoch"]), record["epoch"] / state.epochs
                state.loss, state.accuracy = record["train/loss"], record["averaged/accuracy"]
            case Warned(message=message):
                self.warn(message)
            case Done(record=made):
                state.status, state.fraction, state.ended = "done", 1.0, now
                if isinstance(made, NetworkRecord):
                    accuracy = f"validation accuracy {100 * made.best['averaged/accuracy']:.2f} %"
                    if reused := made.reused_by(self.run_id):
                        self.say(f"{state.name}: reused, trained by {reused}, {accuracy}")
                    elif not self.live:
                        self.say(f"{state.name}: done, {accuracy}")
        self._draw(state, now)

    def close(self) -> None:
        """Stop drawing."""
        self.bars.stop()

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

    def _bar(self, name: str) -> TaskID:
        return self.bars.add_task(name, total=1, epoch="", result="", speed="", left="")

    def _draw(self, state: RunState, now: float) -> None:
        done = state.status == "done"
        results = (
            "" if state.loss is None else f"loss {state.loss:.4f}",
            "" if state.accuracy is None else f"val. acc. {100 * state.accuracy:.2f} %",
        )
        self.bars.update(
            state.bar,
            completed=state.fraction,
            epoch=f"epoch {state.epoch}/{state.epochs}",
            result=", ".join(filter(None, results)),
            speed="" if done or state.images_per_s is None else f"{state.images_per_s:,.0f} images/s",
            left="done" if done else f"{duration(state.seconds_left(now))} left",
        )
        if self._all is not None:
            work = sum(run.work for run in self.runs.values())
            self.bars.update(
                self._all,
                completed=sum(run.work * run.fraction for run in self.runs.values()) / work if work else 0,
                left=f"{duration(self.seconds_left())} of training left",
            )

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
