"""When to checkpoint in the midst of an epoch: after so many minutes, or when a machine is about to go."""

import time
from collections.abc import Callable

import torch

from ekd_train.distributed import Workers

LOOK_EVERY_S = 1.0
"""Workers ask each other about as often; a spot instance is told half a minute before its end."""


class Interruptions:
    """Says after each step whether to checkpoint now; all workers of a run get the same answers."""

    def __init__(
        self, workers: Workers, every_minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.workers, self.every_minutes, self.clock = workers, every_minutes, clock
        self.announced = False
        """Whether a machine of this run is about to be preempted."""
        self._saved_at = self._looked_at = clock()
        self._steps = self._ahead = 1

    def saved(self) -> None:
        """A checkpoint has just been made."""
        self._saved_at = self.clock()

    def due(self) -> bool:
        """Whether a checkpoint is to be made after this step: it is time, or a machine was announced to go.

        An announcement counts once. Several workers exchange three numbers about once a second, which is
        as many steps as the first one's clock says.
        """
        notice = self.workers.notice
        if self.every_minutes is None and notice is None:
            return False
        self._ahead -= 1
        if self._ahead > 0:
            return False
        now = self.clock()
        pace = self._steps / max(now - self._looked_at, 1e-6)
        late = self.every_minutes is not None and now - self._saved_at >= 60 * self.every_minutes
        going = notice is not None and not self.announced and notice.given()
        first = float(self.workers.is_first)
        wait_s = LOOK_EVERY_S if self.every_minutes is None else min(LOOK_EVERY_S, 60 * self.every_minutes)
        steps = 1.0 if self.workers.size == 1 else min(max(1.0, pace * wait_s), 1e6)
        told = [first * late, float(going), first * steps]
        if self.workers.size > 1:  # alone, a GPU would be asked in every step for what is known here
            device = self.workers.device
            told = self.workers.total(torch.tensor(told, dtype=torch.float64, device=device)).tolist()
        late_there, going_there, ahead = told
        self._looked_at = now
        self._steps = self._ahead = int(ahead)
        self.announced = self.announced or going_there > 0
        return late_there > 0 or going_there > 0
