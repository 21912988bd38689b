"""Train: wait for the training runs of a stage, which the pipeline has queued, perhaps long before."""

from collections.abc import Sequence

from ekd_train.settings import TrainingRun
from orchestrator.pipeline.manifest_content import Source, Trained, TrainedNetwork
from orchestrator.pipeline.run_context import RunContext


def train(context: RunContext, runs: Sequence[TrainingRun]) -> Trained:
    """What the manifest keeps of each finished training run, by name."""
    return {
        run.name: TrainedNetwork(
            weights_sha256=record.sha256,
            best_epoch=int(record.best["epoch"]),
            validation_accuracy=record.best["averaged/accuracy"],
            train_seconds=0.0
            if (reused := record.reused_by(context.checked.run_id))
            else round(record.seconds, 3),
            reused_from=reused,
            workers=record.workers,
            precision=record.precision,
            source=_source(run),
        )
        for run, record in zip(runs, context.wait(runs), strict=True)
    }


def _source(run: TrainingRun) -> Source | None:
    start = run.architecture
    if start.weights is None or start.weights_sha256 is None:
        return None
    used = "as they are" if run.role == "given" else "to start from"
    return Source(weights=start.weights, sha256=start.weights_sha256, used=used)
