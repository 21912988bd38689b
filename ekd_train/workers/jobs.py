"""The jobs of a worker pool and how one worker does them, without Ray."""

from typing import Any

from torch import Tensor

from ekd_train.data.augment import as_float
from ekd_train.data.tensors import DeviceData
from ekd_train.distributed import Workers
from ekd_train.evaluation.evaluate import predict
from ekd_train.evaluation.latency import LATENCY_BATCHES, latency_setting, measure_latency
from ekd_train.evaluation.perturbation_effect import perturbation_effect
from ekd_train.evaluation.predictors import load_predictors
from ekd_train.models.cost import count_macs, count_parameters
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints, Store
from ekd_train.persistence.networks import (
    find_network,
    identity,
    load_network,
    save_network,
    save_predictions,
    starting_weights,
)
from ekd_train.persistence.records import NetworkRecord, PredictionsRecord
from ekd_train.settings import Evaluation, TrainingRun
from ekd_train.training.loop import train
from ekd_train.training.reporter import Reporter
from ekd_train.training.speed import precision_on


def execute(
    job: TrainingRun | Evaluation,
    data: DeviceData,
    store: Store,
    reporter: Reporter,
    workers: Workers,
    keep_checkpoints: int = 2,
) -> NetworkRecord | PredictionsRecord:
    """Do `job` together with the other workers; the record of what it made, already stored."""
    if isinstance(job, Evaluation):
        return _evaluate(job, data, store, workers)
    return _train(job, data, store, reporter, workers, keep_checkpoints)


def _train(
    run: TrainingRun, data: DeviceData, store: Store, reporter: Reporter, workers: Workers, keep: int
) -> NetworkRecord:
    description = data.description
    key = identity(run, description.fingerprint)
    checkpoints = Checkpoints(store, f"checkpoints/{run.name}", key, keep=keep)
    finished = find_network(store, run.name, key)
    workers.barrier()  # all have looked before the first one writes
    if finished is not None:
        return finished
    teachers = None
    if run.teachers:
        networks = [load_network(store, teacher, description) for teacher in run.teachers]
        teachers = Teachers(networks).to(workers.device)
    trained = train(
        run,
        data.training,
        checkpoints=checkpoints,
        reporter=reporter,
        workers=workers,
        teachers=teachers,
        start=starting_weights(store, run, description),
    )
    record = NetworkRecord(
        identity=key,
        best=trained.best,
        history=tuple(trained.history),
        seconds=trained.seconds,
        workers=workers.size,
        precision=precision_on(run.training.speed, workers.device),
    )
    if not workers.is_first:
        return record
    return save_network(store, run.name, trained.network, record)


def _evaluate(job: Evaluation, data: DeviceData, store: Store, workers: Workers) -> PredictionsRecord:
    loaded = load_predictors(store, job.control, job.student, data.description, workers.device)
    predictors = loaded.named
    shape = data.description.image_shape
    tensors: dict[str, Tensor] = {}
    for split, images in (("validation", data.training.validation), ("test", data.test)):
        tensors[f"{split}/labels"] = images.labels
        for name, predictor in predictors.items():
            tensors[f"{split}/{name}"] = predict(predictor, images.images, workers)
    cost: dict[str, dict[str, Any]] = {
        name: {"params": count_parameters(p), "macs": count_macs(p, shape)} for name, p in predictors.items()
    }
    if not workers.is_first:
        return PredictionsRecord(cost=cost)
    few = as_float(data.test.images[: max(LATENCY_BATCHES)])
    for name, measured in measure_latency(predictors, few).items():
        cost[name] |= measured
    train_images = data.training.train
    effect = perturbation_effect(
        job.student, loaded.teachers, loaded.student, train_images.images, train_images.labels
    )
    tensors |= {f"perturbation/{name}": tensor for name, tensor in effect.items()}
    latency = latency_setting(workers.device)
    return save_predictions(store, tensors, PredictionsRecord(cost=cost, latency=latency))
