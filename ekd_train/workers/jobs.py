"""The jobs of a worker pool and how one worker does them, without Ray."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.data.augment import as_float
from ekd_train.data.tensors import DeviceData, Images
from ekd_train.distributed import Workers
from ekd_train.evaluation.connectivity import MOST_IMAGES, connectivity
from ekd_train.evaluation.evaluate import predict_logits, validate
from ekd_train.evaluation.latency import LATENCY_BATCHES, latency_setting, measure_latency
from ekd_train.evaluation.member_weights import member_weights
from ekd_train.evaluation.mistakes import confident_mistakes
from ekd_train.evaluation.perturbation_effect import perturbation_effect
from ekd_train.evaluation.predictors import load_predictors
from ekd_train.models.build_network import averaged, build_network
from ekd_train.models.cost import count_macs, count_parameters
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.teachers import Teachers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.persistence.networks import Networks, load_network_record
from ekd_train.persistence.predictions import IMAGES, INDICES, PredictionsWriter, rows_of_a_block
from ekd_train.persistence.records import MemberWeights, NetworkRecord, PredictionsRecord
from ekd_train.settings import Evaluation, MemberWeighing, TrainingRun
from ekd_train.training.loop import Trained, train
from ekd_train.training.reporter import Reporter
from ekd_train.training.speed import precision_on
from ekd_train.training.state import quality


def execute(
    job: TrainingRun | MemberWeighing | Evaluation,
    data: DeviceData,
    networks: Networks,
    reporter: Reporter,
    workers: Workers,
    keep_checkpoints: int = 2,
) -> NetworkRecord | MemberWeights | PredictionsRecord:
    """Do `job` together with the other workers; what it found, or the record of what it made and stored."""
    if isinstance(job, Evaluation):
        return _evaluate(job, data, networks, reporter, workers)
    if isinstance(job, MemberWeighing):
        student = networks.load(job.student).to(workers.device)
        found = member_weights(student, data.training.validation, workers, reporter.stepped)
        return MemberWeights(member_weights=found)
    return _train(job, data, networks, reporter, workers, keep_checkpoints)


def _train(
    run: TrainingRun, data: DeviceData, networks: Networks, reporter: Reporter, workers: Workers, keep: int
) -> NetworkRecord:
    finished = networks.find(run)
    workers.barrier()  # all have looked before the first one writes
    if finished is not None:
        if workers.is_first:
            networks.refer(run, finished)
        return finished
    checkpoints = Checkpoints(networks.run, f"checkpoints/{run.name}", networks.identity(run), keep=keep)
    teachers = None
    if run.teachers:
        teaching = _teaching(run, networks)
        teachers = Teachers([networks.load(teacher) for teacher in teaching]).to(workers.device)
    start = networks.starting_weights(run)
    if run.role == "given":
        network = build_network(run, data.description, start)
        return keep_trained(networks, run, _measure(network, data.training.validation, workers), workers)
    trained = train(
        run,
        data.training,
        checkpoints=checkpoints,
        reporter=reporter,
        workers=workers,
        teachers=teachers,
        start=start,
    )
    return keep_trained(networks, run, trained, workers)


def _teaching(run: TrainingRun, networks: Networks) -> Sequence[TrainingRun]:
    """The teachers of `run`, or the one that is best on validation images; of equals the first."""
    if not run.best_teacher_only:
        return run.teachers

    def worth(teacher: TrainingRun) -> tuple[float, float]:
        return quality(load_network_record(networks.run, teacher.name).best, "averaged")

    return [max(run.teachers, key=worth)]


def _measure(network: nn.Module, validation: Images, workers: Workers) -> Trained:
    """A network that exists already, after as many epochs as it is trained here."""
    network = network.to(workers.device).eval()
    record = {"epoch": 0.0, **validate(network, validation.images, validation.labels, workers)}
    return Trained(network, record, [record], seconds=0.0)


def keep_trained(
    networks: Networks,
    run: TrainingRun,
    trained: Trained,
    workers: Workers,
    *,
    trial: str | None = None,
    place: str | None = None,
) -> NetworkRecord:
    """Have the first worker store a finished network; its record.

    `trial`: of a search, which trained it; `place` as `Networks.refer`.
    """
    record = NetworkRecord(
        identity=networks.identity(run),
        trained_by=networks.run_id if trial is None else f"{networks.run_id}/{trial}",
        best=trained.best,
        history=tuple(trained.history),
        seconds=trained.seconds,
        ended=time.time(),
        workers=workers.size,
        precision=precision_on(run.training.speed, workers.device) if run.epochs else None,
    )
    return networks.save(run, trained.network, record, place) if workers.is_first else record


def _evaluate(
    job: Evaluation, data: DeviceData, networks: Networks, reporter: Reporter, workers: Workers
) -> PredictionsRecord:
    loaded = load_predictors(networks, job.control, job.student, workers.device, job.controls)
    predictors = loaded.named
    shape, classes = data.description.image_shape, data.description.num_classes
    made = PredictionsWriter(networks.run) if workers.is_first else None
    surest: list[Any] = []
    for split, images in (("validation", data.training.validation), ("test", data.test)):
        _add(made, {f"{split}/labels": images.labels})
        for name, predictor in predictors.items():
            for block in _predicted(predictor, images, workers, classes):
                _add(made, {f"{split}/{name}": block})
                if (split, name) == ("test", "averaged"):
                    surest.append(block.softmax(dim=-1).mean(0).max(dim=-1))
    if job.baseline is not None and (found := networks.find(job.baseline, reporter.warning)) is not None:
        baseline = networks.load(job.baseline, found).to(workers.device)
        picked = job.baseline_average == "picked"
        weights = member_weights(baseline, data.training.validation, workers) if picked else None
        plain = averaged(baseline, None if weights is None else torch.tensor(weights))
        for block in _predicted(plain, data.training.validation, workers, classes):
            _add(made, {"validation/baseline": block})
    cost: dict[str, dict[str, Any]] = {
        name: {"params": count_parameters(p), "macs": count_macs(p, shape)} for name, p in predictors.items()
    }
    if made is None:
        return PredictionsRecord(cost=cost)
    few = as_float(data.test.images[: max(LATENCY_BATCHES)])
    for name, measured in measure_latency(predictors, few).items():
        cost[name] |= measured
    train_images = data.training.train
    effect = perturbation_effect(
        job.student, loaded.teachers, loaded.student, train_images.images, train_images.labels
    )
    _add(made, {f"perturbation/{name}": tensor for name, tensor in effect.items()})
    confidence, predicted = (torch.cat(parts) for parts in zip(*surest, strict=True))
    wrong = confident_mistakes(confidence, predicted, data.test.labels)
    _add(made, {INDICES: wrong, IMAGES: data.test.images[wrong]})
    latency = latency_setting(workers.device)
    connected = None
    if isinstance(loaded.student, Subnetworks):
        shown = data.training.validation
        connected = connectivity(
            loaded.student,
            shown.images[:MOST_IMAGES],
            shown.labels[:MOST_IMAGES],
            torch.tensor(job.member_weights) if job.member_weights else None,
        )
    return made.commit(PredictionsRecord(cost=cost, latency=latency, connectivity=connected))


def _predicted(predictor: nn.Module, images: Images, workers: Workers, classes: int) -> Iterator[Tensor]:
    """Logits `(s, rows, c)`, predicted together, of as many images at a time as one stored object holds."""
    members = len(predictor) if isinstance(predictor, Teachers) else getattr(predictor, "num_members", 1)
    count, step = len(images.labels), rows_of_a_block(members, classes)
    for start in range(0, count, step):
        rows = range(start, min(start + step, count))
        yield predict_logits(predictor, images.images, workers, rows=rows)


def _add(made: PredictionsWriter | None, tensors: Mapping[str, Tensor]) -> None:
    if made is not None:
        for key, tensor in tensors.items():
            made.add(key, tensor)
