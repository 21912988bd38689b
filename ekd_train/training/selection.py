"""Which epoch of a run is the best: its weights are what the run ends with."""

from collections.abc import Mapping

from ekd_train.settings import TrainingRun


def selected_by(run: TrainingRun) -> str:
    """Whose validation accuracy judges an epoch of `run`: "averaged" or "members"."""
    return run.student.select_by if run.student is not None and run.student.method != "kd" else "averaged"


def quality(record: Mapping[str, float], by: str) -> tuple[float, float]:
    """Validation accuracy of what `selected_by` names and minus its NLL: the greater tuple is the better."""
    return record[f"{by}/accuracy"], -record[f"{by}/nll"]


def is_better(record: Mapping[str, float], best: Mapping[str, float] | None, by: str) -> bool:
    """True if `record` is strictly better than `best`, or the first one. Equals keep the earlier epoch."""
    return best is None or quality(record, by) > quality(best, by)
