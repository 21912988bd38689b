"""Stops a training run in the middle of an epoch; what it had saved by then is stored."""

from ekd_train.training.reporter import Silent


class CutOff(Exception):
    """Ends a run, as an error does."""


class CutsOff(Silent):
    """A reporter that raises `CutOff` as the record of an epoch arrives."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.at = epoch

    def epoch(self, record: dict[str, float]) -> None:
        if record["epoch"] == self.at:
            raise CutOff
