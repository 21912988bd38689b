"""What a training run reports: progress, one record an epoch, warnings."""

from typing import Protocol


class Reporter(Protocol):
    """Receives what happens in a training run; implementations must not raise and must be quick."""

    def started(self, epoch: int, steps: int) -> None:
        """Training begins, or continues after `epoch` whole epochs and `steps` of the next one."""

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        """`step` of `steps` of the whole run is done; called a few times a second at most."""

    def stepped(self, step: int | None) -> None:
        """This worker has done `step` of the whole run; None: what follows are no steps. Called at each."""

    def epoch(self, record: dict[str, float]) -> None:
        """One validated epoch: `epoch` and named values."""

    def warning(self, message: str) -> None:
        """Something a person should see."""


class Silent:
    """A reporter that keeps the epoch records and warnings, for tests and for use from Python."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.warnings: list[str] = []

    def started(self, epoch: int, steps: int) -> None:
        """Nothing to do."""

    def progress(self, epoch: int, step: int, steps: int, loss: float, images_per_s: float) -> None:
        """Nothing to do."""

    def stepped(self, step: int | None) -> None:
        """Nothing to do."""

    def epoch(self, record: dict[str, float]) -> None:
        """Keep the record."""
        self.records.append(record)

    def warning(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)
