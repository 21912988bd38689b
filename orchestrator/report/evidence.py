"""What a report is made of, read from a run's storage alone: no network, no data set, no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ekd_train.data.description import DataDescription
from orchestrator.errors import ExperimentError
from orchestrator.pipeline.manifest import MANIFEST, read_run
from orchestrator.pipeline.manifest_content import ManifestContent, Predictor
from orchestrator.pipeline.summary import Summary, summarise
from orchestrator.report.search import Search, load_search
from orchestrator.robustness.content import read_evaluation
from orchestrator.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

    from ekd_train.persistence.predictions import Predictions

History = Sequence[Mapping[str, float]]
"""One record for each validated epoch, as `ekd_train.evaluation.evaluate.validate` names the values."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a finished run left, as far as the report needs it."""

    manifest: ManifestContent
    experiment: Mapping[str, Any]
    """Resolved."""
    summary: Summary
    data: DataDescription
    histories: Mapping[str, History]
    """By training run."""
    tensors: "Predictions"
    """`<split>/labels` (n,), `<split>/<predictor>` (s, n, c), `perturbation/...`."""
    evaluation: Mapping[str, Any] | None = None
    """Of `ekd evaluate`; None where nobody asked."""
    search: Search | None = None
    """Of `ekd tune`; None of `ekd run`."""

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """The summary's."""
        return self.summary.predictors

    def probs(self, predictor: str, split: str = "test") -> "Tensor":
        """Pooled probabilities `(n, c)` of a predictor: the mean over its members."""
        return self.tensors.pooled(f"{split}/{predictor}")

    def labels(self, split: str = "test") -> "Tensor":
        """`(n,)`."""
        return self.tensors[f"{split}/labels"]


def load_evidence(storage: Storage) -> Evidence:
    """Read a run whose students are evaluated.

    Raises `ExperimentError`: the run has not come that far; `DamagedCheckpoint`: a stored object is not what
    was written; `StorageError`: the store refuses or cannot be reached.
    """
    from ekd_train.persistence import networks, predictions

    found = read_run(storage, "evaluate")
    if found is None:
        raise ExperimentError(f"{storage.uri()}: the run is not evaluated yet, so there is nothing to report")
    manifest, experiment = found
    averaged = manifest.evaluated.predictors.get("averaged")
    if averaged is None or not averaged.test.keys() >= {"accuracy", "nll"}:
        raise ExperimentError(
            f"{storage.uri(MANIFEST)}: without the averaged student's accuracy and NLL on the test images; "
            "restore the file"
        )
    return Evidence(
        manifest=manifest,
        experiment=experiment.resolved(),
        summary=summarise(manifest),
        data=manifest.prepared.data,
        histories={run: networks.load_network_record(storage, run).history for run in manifest.trained},
        tensors=predictions.load_predictions(storage, manifest.prepared.data, manifest.evaluated.predictors),
        evaluation=read_evaluation(storage),
        search=load_search(storage, manifest),
    )
