"""This project's `Loop` with steps that wait for their turn."""

from __future__ import annotations

import contextlib
from typing import ClassVar

from torch import Tensor

from benchmarks.turns import NoMoreTurns, Turns
from ekd_train.training.loop import Loop
from ekd_train.training.step import Batch, Step


class TimedStep(Step):
    """A `Step` that is made when it is its turn."""

    turns: ClassVar[Turns]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.turns()
        return super().__call__(batch)


def advance_in_turns(loop: Loop, turns: Turns) -> None:
    """Train until there are no more turns."""
    TimedStep.turns = turns
    loop.step = TimedStep(**vars(loop.step))
    with contextlib.suppress(NoMoreTurns):
        while True:
            loop.advance()
