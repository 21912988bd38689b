"""What a person sees while a run is going: rich's progress bars on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from ekd_train import waiting
from ekd_train.persistence.records import NetworkRecord
from orchestrator.pipeline.estimate import Training, pace, seconds_left
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.runtime.event import Advanced, Done, Event, Started, Validated, Warned

PLAIN_EVERY_S = 10.0
PLAIN_EVERY_SHARE = 0.02
"""Where that is longer, plain lines of a run are this share of its time so far apart: an hour fits a log."""
WIDE = 110
"""Columns from which a line has room for images/s too."""

log = logging.getLogger(__name__)


class _Voice(logging.Handler):
    """Shows what something in this process waits for."""

    def __init__(self, console: PlainConsole) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.say(f"WARNING: {record.getMessage()}", style="bold yellow")


class View(Progress):
    """Keeps the state of every training run and shows it; `stop` it before printing anything else.

    On a terminal a bar for each, the one of the whole above them and `panel`, if there is one, below.
    """

    panel: Callable[[], RenderableType] | None = None
    stage: str = ""
    at_once: int = 1
    """Training runs that go on side by side."""

    def __init__(
        self, stages: Sequence[str] = (), run_id: str = "", console: PlainConsole | None = None
    ) -> None:
        self.to = console = console or PlainConsole(stderr=True)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20 if console.width >= WIDE else 8),
            TextColumn("{task.fields[told]}"),
            console=console,
            refresh_per_second=4,
            transient=True,
            disable=not console.is_terminal,
        )
        self.stages, self.run_id = list(stages), run_id
        self.runs: dict[str, Training] = {}
        self.opened = time.monotonic()
        self._said: dict[str, float] = {}
        self._whole = self.add_task("starting", total=1, told="")
        self._bars: dict[str, Any] = {}
        self._voice = _Voice(console)
        waiting.log.addHandler(self._voice)
        self.start()

    def stop(self) -> None:
        """Show nothing more."""
        waiting.log.removeHandler(self._voice)
        super().stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and below them the panel."""
        yield from super().get_renderables()
        if self.panel is not None:
            yield self.panel()

    def expect(self, training: Training, *, bar: bool = True) -> None:
        """A training run that will come, or come again with other settings."""
        name = training.name
        self.runs[name] = training
        if bar and name not in self._bars:
            self._bars[name] = self.add_task(name, total=1, told="")

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        number = f" ({self.stages.index(stage) + 1} of {len(self.stages)})" if stage in self.stages else ""
        self.update(self._whole, description=f"[bold]{stage}{number}")
        if self.disable:
            self.say(f"{stage} ...")

    def end(self, stage: str, seconds: float | None) -> None:
        """A stage is done; `seconds` is None if an earlier start had done it."""
        self.say(f"{stage}: " + ("done before" if seconds is None else f"{seconds:.1f} s"))

    def say(self, text: str, style: str | None = None) -> None:
        """One line that stays, here and in the log."""
        log.info("%s", text)
        self.to.say(text, style)

    def warn(self, text: str) -> None:
        """One line that stays and is seen."""
        self.say(f"WARNING: {text}", style="bold yellow")

    def show(self, event: Event) -> None:
        """Something that happened in a worker group."""
        if isinstance(event, Warned):
            self.warn(event.message)
        run = self.runs.get(event.run)
        if run is None:
            return
        now = time.monotonic()
        match event:
            case Started(epoch=epoch, steps=steps):
                run.status, run.epoch, run.began = "training", epoch, 0.0 if run.trial else now
                run.fraction = run.began_fraction = epoch / run.epochs
                if steps:
                    self.say(f"{run.name}: continues within epoch {epoch + 1}, after step {steps} of it")
                elif epoch or (self.disable and not run.trial):
                    self.say(f"{run.name}: " + (f"continues after epoch {epoch}" if epoch else "starts"))
            case Advanced():
                run.epoch, run.loss, run.images_per_s = event.epoch, event.loss, event.images_per_s
                run.step, run.steps = event.step, event.steps
                run.fraction = event.step / event.steps
            case Validated(record=record):
                run.epoch, run.fraction = int(record["epoch"]), record["epoch"] / run.epochs
                run.loss, run.accuracy = record.get("train/loss"), record.get("averaged/accuracy")
            case Done(record=made):
                run.status = "done"
                if isinstance(made, NetworkRecord):
                    run.fraction = 1.0
                    accuracy = f"validation accuracy {100 * made.best['averaged/accuracy']:.2f} %"
                    if reused := made.reused_by(self.run_id):
                        self.say(f"{run.name}: reused, trained by {reused}, {accuracy}")
                    elif self.disable:  # a given network has no precision that it was trained in
                        done = "given" if made.precision is None else "done"
                        self.say(f"{run.name}: {done}, {accuracy}")
        if not isinstance(event, Warned):
            run.seen = now
        if isinstance(event, Advanced | Validated) and not run.began:
            run.began, run.began_fraction = now, run.fraction
        self._draw(run, now)

    @property
    def apart(self) -> float:
        """Seconds between two plain lines on the same run."""
        return max(PLAIN_EVERY_S, PLAIN_EVERY_SHARE * (time.monotonic() - self.opened))

    def seconds_left(self) -> float | None:
        """Of all training, in this start; None before the first of it."""
        return seconds_left(self.runs.values(), self.at_once, time.monotonic())

    def all_left(self) -> str:
        """How long all training will still take, in words; empty once it is over."""
        seconds = self.seconds_left()
        return f"all training: {time_left(seconds)}" if seconds is None or seconds >= 1 else ""

    def _draw(self, run: Training, now: float) -> None:
        told = self.told(run.name)
        left = self.all_left()
        if run.name in self._bars:
            self.update(self._bars[run.name], completed=run.fraction, told=told)
        effort = sum(each.effort * each.until for each in self.runs.values())
        trained = sum(
            each.effort * (each.until if each.status == "done" else min(each.fraction, each.until))
            for each in self.runs.values()
        )
        self.update(self._whole, completed=trained / effort if effort else 0, told=left)
        if not self.disable or run.status != "training" or run.loss is None:
            return
        if run.name in self._bars and now - self._said.get(run.name, run.began) >= self.apart:
            self._said[run.name] = now
            self.say("; ".join(filter(None, (f"{run.name}: {told}", left))))

    def told(self, name: str) -> str:
        """How far a training run or a trial is, in a line."""
        run = self.runs[name]
        if run.status == "done":
            return "done"
        parts = [f"epoch {run.epoch}/{run.epochs}"]
        if run.loss is not None:
            parts.append(f"loss {run.loss:.3f}")
        if run.accuracy is not None:
            parts.append(f"val. {100 * run.accuracy:.1f} %")
        if run.images_per_s is not None and self.console.width >= WIDE:
            parts.append(f"{run.images_per_s:,.0f} images/s")
        if run.status == "training":
            parts.append(self.left(name))
        return ", ".join(parts)

    def left(self, name: str) -> str:
        """How long a training run or a trial will still take, in words."""
        run = self.runs[name]
        return time_left(run.seconds_left(time.monotonic(), pace(self.runs.values(), run)))


def time_left(seconds: float | None) -> str:
    """How long something will still take, in words; of what takes longer than expected, that it is soon done.

    >>> time_left(75), time_left(0.0), time_left(None)
    ('1 min 15 s left', 'soon done', '? left')
    """
    return "soon done" if seconds is not None and seconds < 1 else f"{duration(seconds)} left"


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
