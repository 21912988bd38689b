"""What a report is made of, read from a run's storage alone: no network, no data set, no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ExperimentError
from orchestrator.pipeline.manifest import EVALUATION, read_json, read_run
from orchestrator.pipeline.summary import summarise
from orchestrator.report.search import Search, load_search
from orchestrator.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

History = Sequence[Mapping[str, float]]
"""One record for each validated epoch, as `ekd_train.evaluation.evaluate.validate` names the values."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a finished run left, as far as the report needs it."""

    manifest: Mapping[str, Any]
    experiment: Mapping[str, Any]
    """Resolved."""
    summary: Mapping[str, Any]
    data: Mapping[str, Any]
    """`ekd_train.data.describe`'s."""
    histories: Mapping[str, History]
    """By training run."""
    tensors: Mapping[str, Tensor]
    """`<split>/labels` (n,), `<split>/<predictor>` (s, n, c), `perturbation/...`."""
    evaluation: Mapping[str, Any] | None = None
    """Of `ekd evaluate`; None where nobody asked."""
    search: Search | None = None
    """Of `ekd tune`; None of `ekd run`."""

    @property
    def predictors(self) -> Mapping[str, Any]:
        """The summary's."""
        predictors: Mapping[str, Any] = self.summary["predictors"]
        return predictors

    def probs(self, predictor: str, split: str = "test") -> Tensor:
        """Pooled probabilities `(n, c)` of a predictor: the mean over its members."""
        return self.tensors[f"{split}/{predictor}"].mean(0)

    def labels(self, split: str = "test") -> Tensor:
        """`(n,)`."""
        return self.tensors[f"{split}/labels"]


def load_evidence(storage: Storage) -> Evidence:
    """Read a run whose students are evaluated.

    Raises:
        ExperimentError: the run has not come that far.
        DamagedCheckpoint: a stored object is not what was written.
        StorageError: the store refuses or cannot be reached.
    """
    from ekd_train.persistence.checkpoint import load_record
    from ekd_train.persistence.networks import load_predictions
    from ekd_train.workers.jobs import PREDICTIONS

    found = read_run(storage, "evaluate")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run is not evaluated yet, so there is nothing to report")
    manifest, experiment = found
    runs = [*manifest["stages"]["teachers"]["outputs"], "control", "student"]
    record = load_record(storage, f"{PREDICTIONS}.json")
    return Evidence(
        manifest=manifest,
        experiment=experiment,
        summary=summarise(manifest),
        data=manifest["stages"]["prepare"]["outputs"]["data"],
        histories={run: load_record(storage, f"networks/{run}.json")["history"] for run in runs},
        tensors=load_predictions(storage, PREDICTIONS, record["sha256"]),
        evaluation=read_json(storage, EVALUATION),
        search=load_search(storage, manifest),
    )
