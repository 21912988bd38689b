"""Training loops of several processes, timed in turns: each makes steps when it is told to.

A line to a process says how many steps to make; its answer is the seconds that they took.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import torch
import torch.distributed as dist

from benchmarks.timing import DEVICE, Clock
from ekd_train.workers.allocator import KEEP_FREED_MEMORY

ROOT = Path(__file__).parents[1]
END_TIMEOUT_S = 20


def allocator(keeps_memory: bool) -> dict[str, str]:
    """The environment of a process with or without the allocator of this project's workers."""
    plain = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY}
    return plain | KEEP_FREED_MEMORY if keeps_memory else plain


def set_up_as_a_worker() -> None:
    """Start this program again, with the allocator of this project's workers, unless it has it."""
    if any(os.environ.get(name) != value for name, value in KEEP_FREED_MEMORY.items()):
        os.execve(sys.executable, sys.orig_argv, allocator(keeps_memory=True))


class NoMoreTurns(Exception):
    """There is nothing more to time: the loop is to be left."""


class Turns:
    """In the process: called before every step, it waits there until the next turn.

    A loop that fetches a batch before it calls fetches one a step, so that n steps have n fetches too.
    """

    def __init__(
        self, clock: Clock = time.perf_counter, source: TextIO = sys.stdin, sink: TextIO = sys.stdout
    ) -> None:
        self._clock, self._source, self._sink = clock, source, sink
        self._left, self._began = 0, 0.0

    def __call__(self) -> None:
        """Returns when a step is to be made. Raises `NoMoreTurns`."""
        if self._left == 0:
            if self._began:
                self._wait_for_others()
                self._tell(self._now() - self._began)
            self._left = self._next()
            if self._left == 0:
                raise NoMoreTurns
            self._began = self._now()
        self._left -= 1

    def _next(self) -> int:
        return int(self._source.readline() or 0)

    def _wait_for_others(self) -> None:
        """There are none."""

    def _tell(self, seconds: float) -> None:
        print(seconds, file=self._sink, flush=True)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._clock()


class GroupTurns(Turns):
    """The same for all workers of a process group; the first one listens, and answers when all are done."""

    def _next(self) -> int:
        steps = torch.tensor(super()._next() if dist.get_rank() == 0 else 0, device=DEVICE)
        dist.broadcast(steps, src=0)
        return int(steps)

    def _wait_for_others(self) -> None:
        dist.barrier()

    def _tell(self, seconds: float) -> None:
        if dist.get_rank() == 0:
            super()._tell(seconds)


class Side:
    """OodData: one such process, with all its descendants, which are stopped while it is not their turn.

    So neither data loaders nor Ray's daemons take anything from the other sides.
    """

    def __init__(self, command: Sequence[str], *, keeps_memory: bool = False) -> None:
        """Start it.

        Args:
            command: what it is.
            keeps_memory: with the allocator of this project's workers, instead of the C library's default.
        """
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by __exit__
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**allocator(keeps_memory), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Should this process die, the kernel ends a stopped group of its session. (Workers of torchrun,
            # in sessions of their own, are ended by torchrun.)
            process_group=0,
        )

    def take(self, steps: int, settle: int = 0) -> float:
        """Seconds of `steps` steps. Raises `RuntimeError` with the process's last words if it ended.

        `settle`: steps before them that are not timed, in which daemons do what fell due while they were
        stopped.
        """
        return self._ask([settle, steps])[-1]

    def take_each(self, steps: int, settle: int = 0) -> list[float]:
        """Seconds of each of `steps` steps, of which a host that is busy now and then leaves some alone.

        Raises and settles as `take` does.
        """
        return self._ask([settle, *[1] * steps])[-steps:]

    def _ask(self, turns: Sequence[int]) -> list[float]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            self._signal(signal.SIGCONT)
            seconds = []
            for steps in filter(None, turns):
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
                seconds.append(float(process.stdout.readline()))
            self._signal(signal.SIGSTOP)
            return seconds
        except (OSError, ValueError) as error:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise RuntimeError(f"{process.args}: {said[-1] if said else 'ended'}") from error

    def share_beside(self, training: int, steps: int) -> float:
        """In a turn of `steps` steps, the CPU time of all other threads over the `training` busiest ones'.

        Threads that end meanwhile are not counted. Raises `RuntimeError` where the kernel does not tell.
        """
        before = self._cpu_times_ns()
        self.take(steps)
        after = self._cpu_times_ns()
        spent = sorted(time_ns - before.get(thread, 0) for thread, time_ns in after.items())
        if not sum(spent[-training:]):
            raise RuntimeError("this kernel does not tell the CPU time of threads in /proc/*/schedstat")
        return sum(spent[:-training]) / sum(spent[-training:])

    def _cpu_times_ns(self) -> dict[Path, int]:
        times = {}
        for process in _family(self._process.pid):
            for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    times[file] = int(file.read_text().split()[0])
        return times

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process: by itself, if it does."""
        self._signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._errors.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            # Those that are killed lose their children, so all are listed first; those that are stopped must
            # not make more.
            family = _family(self._process.pid)
            for process in list(family) if number == signal.SIGKILL else family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)


def _family(process: int) -> Iterator[int]:
    """A process and all that descend from it, in whatever session or group: torchrun's workers, Ray's."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _family(int(child))


def in_turns(
    sides: Mapping[str, Side], *, steps: int, rounds: int, warm_up: int, settle: int = 0
) -> dict[str, list[float]]:
    """Seconds a step of each side in each round (A, B, B, A, A, B, ...), after `warm_up` steps of each.

    Every other round goes backwards, so that a machine that becomes slower favours nobody. `settle`: as in
    `Side.take`.
    """
    for side in sides.values():
        side.take(warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds):
        for name, side in list(sides.items())[:: -1 if round_ % 2 else 1]:
            seconds[name].append(side.take(steps, settle) / steps)
    return seconds
