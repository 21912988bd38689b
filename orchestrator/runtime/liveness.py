"""When a silence is said, and when it is ended: decided here without Ray; the worker pool acts on it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ekd_train.workers.sign import Sign
from orchestrator.experiment.infrastructure import LivenessSettings

AGAIN_S = 60.0
"""A silence that lasts is said again so often."""

LONGEST_LOOK_S = 3.0
"""No more than this is taken for silence between two looks: whoever did not look, because it had other work,
was stopped, slept, or waited for a busy machine, has not heard anything either."""

IN_VAIN = 2
"""Restarts without a new step after which the next silence ends the run."""

BETWEEN_SAID = 5
"""Times the longest that a run has taken between two steps before."""

Verdict = Literal["well", "silent", "lost"]


def verdict(silent_s: float, step_s: float, settings: LivenessSettings) -> Verdict:
    """What to think of `silent_s` seconds without news where a step takes `step_s`."""
    if silent_s > max(settings.restart_after_s, settings.restart_after_steps * step_s):
        return "lost"
    if silent_s > max(settings.said_after_s, settings.said_after_steps * step_s):
        return "silent"
    return "well"


def verdict_on_work(
    silent_s: float, sign: Sign, settings: LivenessSettings, between_s: float | None = None
) -> Verdict:
    """The same of the work of a worker that gives signs, but the same for `silent_s` seconds.

    `between_s`: the longest that its training run has taken so far for what are no steps; None: it has not
    come so far, and still loads, or takes its first step.
    """
    if not sign.run:
        return "well"
    if sign.step is not None:
        return verdict(silent_s, sign.step_s, settings)
    said_s = settings.between_steps_s / 12
    if between_s is not None:
        said_s = min(said_s, max(settings.said_after_s, BETWEEN_SAID * between_s))
    if silent_s > settings.between_steps_s:
        return "lost"
    return "silent" if silent_s > said_s else "well"


@dataclass(frozen=True)
class Silence:
    """That nothing is heard of a worker, or of its work."""

    of: Sign
    what: str
    seconds: float
    lost: bool

    def __str__(self) -> str:
        run = f"{self.of.run}: " if self.of.run else ""
        return f"{run}{self.what} for {self.seconds:.0f} s"


@dataclass
class _Known:
    sign: Sign
    heard: float
    moved: float
    """When its work was seen to go on."""
    stepped: bool
    """Whether this process has done a step of it; before, it loads or compiles, for nobody knows how long."""


@dataclass
class Watch:
    """What is known of each worker, by a clock that counts only the time in which somebody looked."""

    settings: LivenessSettings
    clock: Callable[[], float] = time.monotonic
    furthest: dict[str, int] = field(default_factory=dict)
    """The last step of each training run that any worker has done."""
    now: float = field(default=0.0, init=False)
    _looked: float | None = field(default=None, init=False)
    _known: dict[int, _Known] = field(default_factory=dict, init=False)
    _between: dict[str, float] = field(default_factory=dict, init=False)
    """The longest that each training run has taken so far for what are no steps, after its first one."""
    _said: dict[int, float] = field(default_factory=dict, init=False)
    _restarts: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    """Of a run: how often it was started again since it had come furthest, and how far that was."""

    def tick(self) -> float:
        """The moment of this look."""
        now = self.clock()
        if self._looked is not None:
            self.now += min(now - self._looked, LONGEST_LOOK_S)
        self._looked = now
        return self.now

    def look(self, signs: Iterable[Sign]) -> list[Silence]:
        """Silences to be said now or to be ended, by the latest signs of all workers that there are."""
        now = self.tick()
        here = {sign.rank: sign for sign in signs}
        self._known = {rank: known for rank, known in self._known.items() if rank in here}
        for rank, sign in here.items():
            self._note(rank, sign, now)
        unheard = [self._judge(known, known.heard, now, heard=False) for known in self._known.values()]
        found = [silence for silence in unheard if silence is not None]
        quiet = {silence.of.run for silence in found}
        for known in self._known.values():
            if known.sign.run not in quiet:  # else it waits for one that is not heard
                silence = self._judge(known, known.moved, now, heard=True)
                found += [silence] if silence is not None else []
        for rank in list(self._said):
            if rank not in {silence.of.rank for silence in found}:
                del self._said[rank]
        return [silence for silence in found if silence.lost or self._is_news(silence, now)]

    def in_vain(self, run: str) -> bool:
        """Note that a run is started again; True if that has not helped before, and it should end.

        An empty name: all runs are, which a new step of any has helped.
        """
        furthest = self.furthest.get(run, 0) if run else sum(self.furthest.values())
        times, before = self._restarts.get(run, (0, -1))
        times = times + 1 if furthest <= before else 1
        self._restarts[run] = (times, furthest)
        self._said.clear()
        return times > IN_VAIN

    def _note(self, rank: int, sign: Sign, now: float) -> None:
        known = self._known.get(rank)
        same = known is not None and (known.sign.pid, known.sign.run) == (sign.pid, sign.run)
        stepped = sign.step is not None or (same and known is not None and known.stepped)
        if sign.step is not None:
            self.furthest[sign.run] = max(sign.step, self.furthest.get(sign.run, 0))
            if same and known is not None and known.stepped and known.sign.step is None:
                took_s = now - known.moved
                self._between[sign.run] = max(took_s, self._between.get(sign.run, 0.0))
        if known is None or known.sign.pid != sign.pid:
            self._known[rank] = _Known(sign, now, now, stepped)
        elif known.sign.count != sign.count:
            moved = (known.sign.run, known.sign.step) != (sign.run, sign.step)
            self._known[rank] = _Known(sign, now, now if moved else known.moved, stepped)

    def _judge(self, known: _Known, since: float, now: float, *, heard: bool) -> Silence | None:
        sign, silent_s = known.sign, now - since
        if heard:
            between_s = self._between.get(sign.run) if known.stepped else None
            found = verdict_on_work(silent_s, sign, self.settings, between_s) if sign.first else "well"
            step = f"no step after step {sign.step}" if sign.step is not None else "nothing new"
            what = f"{step} from {sign}, which lives,"
        else:
            found = verdict(silent_s, sign.step_s, self.settings)
            what = f"nothing heard of {sign}"
        return None if found == "well" else Silence(sign, what, silent_s, found == "lost")

    def _is_news(self, silence: Silence, now: float) -> bool:
        if now < self._said.get(silence.of.rank, 0.0):
            return False
        self._said[silence.of.rank] = now + AGAIN_S
        return True
